package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kisflow/kisflow/transport"
)

const (
	lookEvery  = time.Second            // the table is read from the leader, whatever the watch says
	pollCaught = 50 * time.Millisecond  // while this node is to receive groups
	tickMost   = 250 * time.Millisecond // between looks at who is silent
)

// decide writes tables: what this node has to say about its own moves, and what follows from who is there.
func (c *Cluster) decide() {
	pause := decidePause
	var looked time.Duration
	for {
		changed := c.changes()
		if now := c.clock.Now(); looked == 0 || now-looked >= lookEvery {
			c.readTable()
			looked = now
		}
		c.readSilent()
		c.startReleases()
		next, delay := c.plan()
		wait := min(c.opt.Lease/8, tickMost)
		switch {
		case next == nil:
			pause = decidePause
			if c.receives() {
				wait = min(wait, pollCaught)
			}
		case delay > 0:
			// Another one writes first; if it does not, there is still a difference when the delay is over.
			if c.idle(delay, changed) {
				continue
			}
			if again, _ := c.plan(); again == nil || !again.equal(*next) {
				continue
			}
			fallthrough
		default:
			if err := c.writeTable(c.ctx, *next); err == nil {
				pause = decidePause
				continue
			} else if !errors.Is(err, transport.ErrFenced) {
				c.log.Debug("the table cannot be written", "error", err)
			}
			wait, changed = pause/2+rand.N(pause), nil
			pause = min(2*pause, decidePauseMost)
		}
		c.idle(wait, changed)
		if c.ctx.Err() != nil {
			return
		}
	}
}

const (
	decidePause     = 4 * time.Millisecond
	decidePauseMost = time.Second
)

// idle waits for a time or a change, and tells whether there was a change.
func (c *Cluster) idle(d time.Duration, changed <-chan struct{}) bool {
	fired, stop := c.clock.Timer(d)
	defer stop()
	select {
	case <-fired:
		return false
	case <-changed:
		return true
	case <-c.ctx.Done():
		return true
	}
}

// receives tells whether a group is to become this node's.
func (c *Cluster) receives() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.placed.Roles, Receiving)
}

// readTable reads the newest table from the leader: the watch may be behind, or dead.
func (c *Cluster) readTable() {
	ctx, cancel := context.WithTimeout(c.ctx, c.opt.Lease)
	defer cancel()
	for _, subject := range []string{tableSubject, lockSubject} {
		if m, err := c.last(ctx, subject); err == nil {
			c.apply(&m)
		}
	}
	c.mu.Lock()
	stale := c.staleLock()
	c.mu.Unlock()
	if stale > 0 {
		c.unlock(ctx, stale)
	}
}

// readSilent looks at the members whose keys have not moved for a lease, and buries those of whom the leader says the
// same. While this node has lapsed itself it judges nobody.
func (c *Cluster) readSilent() {
	c.mu.Lock()
	var silent []string
	now := c.clock.Now()
	for node, m := range c.members {
		if node != c.opt.Node && m.alive() && now-m.at > max(m.lease, minLease) {
			silent = append(silent, node)
		}
	}
	lapsed := c.lapsed
	c.mu.Unlock()
	if lapsed || len(silent) == 0 {
		return
	}
	slices.Sort(silent)
	ctx, cancel := context.WithTimeout(c.ctx, c.opt.Lease)
	defer cancel()
	for _, node := range silent {
		m, err := c.last(ctx, memberPrefix+node)
		if err != nil {
			continue // who cannot be asked about is not dead
		}
		c.apply(&m)
		c.mu.Lock()
		c.judge()
		if have := c.members[node]; !c.lapsed && have != nil && have.alive() && have.sequence == m.Sequence && c.clock.Now()-have.at > have.lease {
			have.dead = true
			c.log.Warn("a node is dead: it has not renewed its lease", "node", node, "lease", have.lease, "silent", (c.clock.Now() - have.at).Round(time.Millisecond))
			c.notify()
		}
		c.mu.Unlock()
	}
}

// plan returns the table that is to be written, or nil; and how long another node may be waited for to write it.
func (c *Cluster) plan() (*Table, time.Duration) {
	c.mu.Lock()
	number := c.table.Number
	var receiving []int
	for g := range c.table.Groups {
		if !c.table.Groups[g].Ready && c.roleOf(g) == Receiving && g < len(c.placed.Roles) && c.placed.Roles[g] == Receiving {
			receiving = append(receiving, g)
		}
	}
	c.mu.Unlock()
	caught := slices.DeleteFunc(receiving, func(g int) bool { return !c.engine.Caught(g) })

	c.mu.Lock()
	defer c.mu.Unlock()
	c.judge()
	if c.lapsed || c.unreadable != nil || c.watched < c.joined || c.table.Number != number {
		return nil, 0
	}
	next, mine := c.table.clone(), false
	if number == 0 {
		next, mine = newTable(c.opt.Groups), true
	}
	for _, g := range caught {
		if next.role(g, c.opt.Node, c.incarnation) == Receiving {
			next.Groups[g].Ready, mine = true, true
		}
	}
	for g, r := range c.releases {
		if r.done && c.handing(g, r) {
			next.hand(g)
			mine = true
		}
	}
	candidates := c.candidates()
	next = assign(next, candidates, c.limits())
	if next.equal(c.table) {
		return nil, 0
	}
	if mine || c.table.nodes[c.opt.Node] != c.incarnation {
		return &next, 0
	}
	rank := slices.IndexFunc(candidates, func(o candidate) bool { return o.node == c.opt.Node })
	return &next, time.Duration(rank) * c.opt.Lease / 20
}

// writeTable writes the table that is to follow the one of its number.
func (c *Cluster) writeTable(ctx context.Context, t Table) error {
	c.mu.Lock()
	c.write++
	writer, write := c.incarnation, c.write
	c.mu.Unlock()
	data, err := t.encode(c.opt.Name, writer, write)
	if err != nil {
		return fmt.Errorf("encode the table: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, max(c.opt.Lease, time.Second))
	defer cancel()
	_, newest, err := c.put(ctx, tableSubject, data, false, t.Number)
	c.apply(&newest)
	return err
}

// change writes a table that somebody wishes for, however often others come in between.
func (c *Cluster) change(ctx context.Context, wish func(*Table) error) error {
	pause := decidePause
	for {
		c.mu.Lock()
		ready := !c.lapsed && c.table.Number > 0 && c.unreadable == nil
		next := c.table.clone()
		candidates, l := c.candidates(), c.limits()
		c.mu.Unlock()
		err := errors.New("this node is no member at the moment")
		if ready {
			if err := wish(&next); err != nil {
				return err
			}
			next = assign(next, candidates, l)
			c.mu.Lock()
			done := next.equal(c.table)
			c.mu.Unlock()
			if done {
				return nil
			}
			if err = c.writeTable(ctx, next); err == nil {
				return nil
			}
		}
		if cause := sleep(ctx, c.clock, pause/2+rand.N(pause)); cause != nil {
			return fmt.Errorf("%w (%w)", cause, err)
		}
		if c.closed() {
			return errClosed
		}
		pause = min(2*pause, decidePauseMost)
	}
}

// Drain marks a node, or takes the mark away: a draining node gets no groups, and those that it has move to others.
// It returns when the mark is written; Table shows how far the moves are. The mark outlives the node's process.
func (c *Cluster) Drain(ctx context.Context, node string, on bool) error {
	err := c.change(ctx, func(t *Table) error {
		marked := slices.Contains(t.Draining, node)
		if marked == on {
			return nil
		}
		if !on {
			t.Draining = slices.DeleteFunc(t.Draining, func(n string) bool { return n == node })
			return nil
		}
		if err := c.knows(node); err != nil {
			return err
		}
		t.Draining = append(t.Draining, node)
		slices.Sort(t.Draining)
		return nil
	})
	if err != nil {
		return fmt.Errorf("drain node %s: %w", node, err)
	}
	return nil
}

func (c *Cluster) knows(node string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[node]; m != nil && !m.deleted {
		return nil
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(c.members)) {
		if !c.members[n].deleted {
			names = append(names, n)
		}
	}
	return errorf(CodeNoMember, "there is no node %s; there are %v", node, names)
}
