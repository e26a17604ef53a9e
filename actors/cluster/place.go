package cluster

import (
	"context"
	"maps"
	"slices"
	"time"
)

// release is a group that is being handed over: to the engine it is this node's no more.
type release struct {
	next string // to whom
	done bool   // all is closed
	told int    // what the engine must have been told of since, before the group may be this node's again
}

// roleOf is what this node is to a group now. mu is held.
func (c *Cluster) roleOf(g int) Role {
	if c.lapsed {
		return Elsewhere
	}
	role := c.table.role(g, c.opt.Node, c.incarnation)
	if role == Owner && c.releases[g] != nil {
		return Standby
	}
	return role
}

// view is what the engine is to be told. mu is held.
func (c *Cluster) view() View {
	v := View{Number: c.table.Number, Roles: make([]Role, len(c.table.Groups)), Owners: make([]string, len(c.table.Groups))}
	for g := range v.Roles {
		v.Roles[g] = c.roleOf(g)
		v.Owners[g] = c.table.Groups[g].Owner
	}
	return v
}

// place tells the engine of every change, in order. It also is who notices in time that the lease has run out, for
// renew may be waiting for an answer.
func (c *Cluster) place() {
	for {
		c.mu.Lock()
		c.judge()
		v, order, changed := c.view(), c.order, c.changed
		same := order == c.placedOrder && slices.Equal(v.Roles, c.placed.Roles) && slices.Equal(v.Owners, c.placed.Owners)
		left := c.good + c.opt.Lease*3/4 - c.clock.Now() + time.Nanosecond
		guard := !c.lapsed && !c.opt.IgnoreLease
		c.mu.Unlock()
		if !same {
			if len(v.Roles) > 0 {
				c.engine.Place(v)
			}
			c.didPlace(v, order)
			continue
		}
		var fired <-chan time.Time
		stop := func() {}
		if guard {
			fired, stop = c.clock.Timer(max(left, 0))
		}
		select {
		case <-fired:
		case <-changed:
		case <-c.ctx.Done():
		}
		stop()
		if c.ctx.Err() != nil {
			return
		}
	}
}

// didPlace notes what the engine knows.
func (c *Cluster) didPlace(v View, order int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.placed, c.placedOrder = v, order
	c.notify()
}

// handing tells whether the table still has the move that a release is for. mu is held.
func (c *Cluster) handing(g int, r *release) bool {
	return g < len(c.table.Groups) && c.table.role(g, c.opt.Node, c.incarnation) == Owner && c.table.Groups[g].Ready && c.table.Groups[g].Next == r.next
}

// handOver takes the groups whose next owner is ready from the engine, and forgets those whose move is over.
func (c *Cluster) handOver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lapsed {
		return
	}
	for g, r := range c.releases {
		if r.done && c.placedOrder >= r.told && !c.handing(g, r) { // it is the other's, or was taken back
			delete(c.releases, g)
			c.notify()
		}
	}
	groups := make(map[int]*release)
	for g := range c.table.Groups {
		if group := &c.table.Groups[g]; group.Ready && c.releases[g] == nil && c.roleOf(g) == Owner {
			groups[g] = &release{next: group.Next}
		}
	}
	if len(groups) == 0 {
		return
	}
	maps.Copy(c.releases, groups)
	c.order++
	order := c.order
	c.notify()
	if c.releasing == 0 {
		if c.abandon != nil {
			c.abandon()
		}
		c.releaseCtx, c.abandon = context.WithCancel(c.ctx)
	}
	ctx := c.releaseCtx
	c.releasing++
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		c.closeGroups(ctx, groups, order)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.releasing--
		c.notify()
	}()
}

// closeGroups asks the engine until the groups are closed. At most as many are under way as moves are; a lapse ends it.
func (c *Cluster) closeGroups(ctx context.Context, groups map[int]*release, order int) {
	if c.until(ctx, func() bool { return c.placedOrder >= order }) != nil {
		return
	}
	since := c.clock.Now()
	for pause := releasePause; ; pause = min(2*pause, releasePauseMost) {
		attempt, cancel := context.WithTimeout(ctx, releasePatience)
		err := c.engine.Release(attempt, slices.Sorted(maps.Keys(groups)))
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
		if c.clock.Now()-since >= 2*releasePatience { // nobody runs them meanwhile, and the next owner is fenced against us
			c.log.Error("groups are handed over though they do not close", "groups", len(groups), "error", err)
			break
		}
		c.log.Warn("groups cannot be handed over so far", "groups", len(groups), "error", err)
		if sleep(ctx, c.clock, pause) != nil {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order++
	for _, r := range groups {
		r.done, r.told = ctx.Err() == nil, c.order
	}
	c.notify()
}

const (
	releasePatience  = 30 * time.Second
	releasePause     = 100 * time.Millisecond
	releasePauseMost = 5 * time.Second
)
