package cluster

import (
	"context"
	"time"
)

const (
	greetAgain = 5 * time.Second // after a greeting without an answer
	greetWait  = 5 * time.Second
)

// greet keeps a connection to every live node: when one breaks, its process may be gone, and that is known at once.
func (c *Cluster) greet() {
	type greeting struct {
		done   bool
		failed bool // and that was said
		next   time.Duration
	}
	known := make(map[peer]*greeting)
	type outcome struct {
		to  peer
		err error
	}
	outcomes := make(chan outcome)
	under := 0
	for {
		changed := c.changes()
		members := c.Members()
		c.link.members(members)
		live := make(map[peer]bool)
		again := false
		for _, m := range members {
			to := peer{m.Node, m.Incarnation, m.Address}
			if !m.Alive || m.Node == c.opt.Node {
				continue
			}
			live[to] = true
			g := known[to]
			if g == nil {
				g = &greeting{}
				known[to] = g
			}
			if c.isCut(to.address) {
				g.done = false
			}
			now := c.clock.Now()
			switch {
			case g.done || g.next < 0:
			case now < g.next:
				again = true
			default:
				g.next = -1 // under way
				under++
				go func() {
					ctx, cancel := context.WithTimeout(c.ctx, greetWait)
					defer cancel()
					_, err := c.link.call(ctx, to, Call{From: c.opt.Node, Method: helloMethod})
					outcomes <- outcome{to, err}
				}()
			}
		}
		for to := range known {
			if !live[to] && known[to].next >= 0 {
				delete(known, to)
			}
		}
		var fired <-chan time.Time
		stop := func() {}
		if again {
			fired, stop = c.clock.Timer(greetAgain / 4)
		}
		select {
		case <-changed:
		case <-fired:
		case o := <-outcomes:
			under--
			g := known[o.to]
			g.done, g.next = o.err == nil, c.clock.Now()+greetAgain
			if o.err != nil && !g.failed && live[o.to] && c.ctx.Err() == nil {
				g.failed = true
				c.log.Warn("a node does not answer at its address: calls to it will fail", "node", o.to.node, "address", o.to.address, "error", o.err)
			}
			if o.err == nil && g.failed {
				g.failed = false
				c.log.Info("a node answers at its address", "node", o.to.node, "address", o.to.address)
			}
		case <-c.ctx.Done():
		}
		stop()
		if c.ctx.Err() != nil {
			for ; under > 0; under-- {
				<-outcomes
			}
			return
		}
	}
}
