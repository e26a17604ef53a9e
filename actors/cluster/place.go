package cluster

import (
	"context"
	"slices"
	"time"
)

// release is a group that is being handed over.
type release struct {
	next string // to whom
	done bool   // the engine has closed it
}

// roleOf is what this node is to a group now. mu is held.
func (c *Cluster) roleOf(g int) Role {
	if c.lapsed {
		return Elsewhere
	}
	role := c.table.role(g, c.opt.Node, c.incarnation)
	if r := c.releases[g]; role == Owner && r != nil && r.done {
		return Standby // closed, and not yet written down as another's
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
		v, gen, changed := c.view(), c.generation, c.changed
		same := gen == c.placedGen && slices.Equal(v.Roles, c.placed.Roles) && slices.Equal(v.Owners, c.placed.Owners)
		left := c.good + c.opt.Lease*3/4 - c.clock.Now() + time.Nanosecond
		guard := !c.lapsed && !c.opt.IgnoreLease
		c.mu.Unlock()
		if !same {
			if len(v.Roles) > 0 {
				c.engine.Place(v)
			}
			c.didPlace(v, gen)
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

// didPlace notes what the engine knows. A group that was closed may be this node's again only after the engine was told
// that it is not.
func (c *Cluster) didPlace(v View, gen int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.placed, c.placedGen = v, gen
	for g, r := range c.releases {
		if r.done && (g >= len(v.Roles) || v.Roles[g] != Owner) && !c.handing(g, r) {
			delete(c.releases, g)
		}
	}
	c.notify()
}

// handing tells whether the table still has the move that a release is for. mu is held.
func (c *Cluster) handing(g int, r *release) bool {
	return g < len(c.table.Groups) && c.table.role(g, c.opt.Node, c.incarnation) == Owner && c.table.Groups[g].Ready && c.table.Groups[g].Next == r.next
}

// startReleases closes the groups whose next owner is ready.
func (c *Cluster) startReleases() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lapsed {
		return
	}
	var groups []int
	for g := range c.table.Groups {
		group := &c.table.Groups[g]
		if group.Ready && c.releases[g] == nil && c.roleOf(g) == Owner && g < len(c.placed.Roles) && c.placed.Roles[g] == Owner && c.placedGen == c.generation {
			c.releases[g] = &release{next: group.Next}
			groups = append(groups, g)
		}
	}
	if len(groups) == 0 {
		return
	}
	gen := c.generation
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		c.releaseAll(groups, gen)
	}()
}

// releaseAll asks the engine until it has closed the groups. At most as many are under way as moves are.
func (c *Cluster) releaseAll(groups []int, gen int) {
	pause := releasePause
	for {
		ctx, cancel := context.WithTimeout(c.ctx, releasePatience)
		err := c.engine.Release(ctx, groups)
		cancel()
		c.mu.Lock()
		if gen != c.generation || c.ctx.Err() != nil {
			c.mu.Unlock()
			return // the lapse has closed them
		}
		left := groups[:0]
		for _, g := range groups {
			r := c.releases[g]
			if r == nil {
				continue
			}
			// With an error and no move any more it may be half closed: as if it were closed it begins anew.
			if r.done = err == nil || !c.handing(g, r); !r.done {
				left = append(left, g)
			}
		}
		groups = left
		c.notify()
		c.mu.Unlock()
		if len(groups) == 0 {
			return
		}
		c.log.Warn("groups cannot be handed over so far", "groups", len(groups), "error", err)
		if sleep(c.ctx, c.clock, pause) != nil {
			return
		}
		pause = min(2*pause, releasePauseMost)
	}
}

const (
	releasePatience  = 30 * time.Second
	releasePause     = 100 * time.Millisecond
	releasePauseMost = 5 * time.Second
)
