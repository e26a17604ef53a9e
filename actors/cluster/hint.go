package cluster

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	dialPause = 100 * time.Millisecond // between two dials that are to be refused
	dialTries = 6                      // a dying process closes its connections a moment before it stops to listen
)

// gone tells whether a dial of the address is refused, and again a moment later: the machine is there and the process
// is not. A dial that gets no answer says nothing.
func gone(ctx context.Context, address string, tries int) bool {
	for times := 0; tries > 0; tries-- {
		refused, answered := dial(ctx, address)
		switch {
		case refused:
			if times++; times == 2 {
				return true
			}
			tries++
		case !answered:
			return false
		default:
			times = 0
		}
		if wait(ctx, dialPause) != nil {
			return false
		}
	}
	return false
}

func dial(ctx context.Context, address string) (refused, answered bool) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
		return false, true
	}
	refused = errors.Is(err, syscall.ECONNREFUSED)
	return refused, refused
}

// broken implements linkHost: a node whose address refuses to be dialled is dead before its lease is over.
func (c *Cluster) broken(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	for node, m := range c.members {
		if m.Address != address || !m.alive() || node == c.opt.Node {
			continue
		}
		c.cut[address] = true
		c.notify()
		sequence := m.sequence
		c.work.Add(1)
		go func() {
			defer c.work.Done()
			if c.refuses(address) {
				c.hint(node, sequence)
			}
		}()
	}
}

// isCut tells once whether the connection to an address has broken.
func (c *Cluster) isCut(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer delete(c.cut, address)
	return c.cut[address]
}

func (c *Cluster) refuses(address string) bool {
	if c.opt.Network != nil {
		return !c.opt.Network.listens(address)
	}
	return gone(c.ctx, address, dialTries)
}

// hint buries a node whose key has not moved since its process was found gone.
func (c *Cluster) hint(node string, sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[node]
	if c.lapsed || m == nil || !m.alive() || m.sequence != sequence {
		return
	}
	m.dead = true
	c.log.Warn("a node is dead: nobody listens at its address any more", "node", node, "address", m.Address)
	c.notify()
}
