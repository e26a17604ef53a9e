package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kisflow/kisflow/proto"
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
	looked := c.clock.Now() - lookEvery // no zero: a clock may begin there, and every change would be another look
	for {
		changed := c.changes()
		if now := c.clock.Now(); now-looked >= lookEvery {
			c.readTable()
			looked = now
		}
		c.readSilent()
		c.readUnknown(c.ctx)
		c.handOver()
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
			again, _ := c.plan()
			if again == nil || !again.equal(*next) {
				continue
			}
			next = again
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
	c.mu.Lock()
	number := c.table.Number
	c.mu.Unlock()
	for _, subject := range []string{tableSubject, lockSubject} {
		m, err := c.last(ctx, subject)
		if err != nil {
			return
		}
		c.apply(&m)
		if subject == tableSubject && m.Sequence < number { // it never goes back in one bucket
			c.ensureAgain(ctx)
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

// readUnknown reads the keys of nodes that the table has as members and this node has not, or by another incarnation:
// before it writes them off it must be sure that it is the table that is behind.
func (c *Cluster) readUnknown(ctx context.Context) {
	c.mu.Lock()
	unknown, number := c.unknown(), c.table.Number
	c.mu.Unlock()
	if len(unknown) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.opt.Lease)
	defer cancel()
	for _, node := range unknown {
		m, err := c.last(ctx, memberPrefix+node)
		if err != nil {
			continue
		}
		c.apply(&m)
		c.mu.Lock()
		if have := c.members[node]; c.table.Number == number && (have == nil && m.Sequence == 0 || have != nil && have.sequence >= m.Sequence) {
			c.outdated[node] = number
		}
		c.mu.Unlock()
	}
}

// unknown returns the nodes that the table has as members and this node has not, and is not sure that it is right with
// that. mu is held.
func (c *Cluster) unknown() []string {
	var all []string
	for node, incarnation := range c.table.nodes {
		m := c.members[node]
		if node != c.opt.Node && (m == nil || m.Incarnation != incarnation || !m.alive()) && c.outdated[node] != c.table.Number {
			all = append(all, node)
		}
	}
	slices.Sort(all)
	return all
}

// mayWrite tells whether what this node knows is enough to write the table that follows. mu is held.
func (c *Cluster) mayWrite() bool {
	return !c.lapsed && c.unreadable == nil && c.watched >= c.joined && len(c.unknown()) == 0
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
	if c.judge(); !c.mayWrite() || c.table.Number != number {
		c.mu.Unlock()
		return nil, 0
	}
	before := c.table // tables are replaced, never changed
	next, mine := before.clone(), before.nodes[c.opt.Node] != c.incarnation
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
	candidates, limits := c.candidates(), c.limits()
	c.mu.Unlock()
	next = assign(next, candidates, limits)
	if next.equal(before) {
		return nil, 0
	}
	if mine {
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
	seq, newest, err := c.put(ctx, tableSubject, data, false, t.Number)
	c.log.Debug("wrote the table", "number", seq, "after", t.Number, "writer", writer, "error", err)
	c.apply(&newest)
	return err
}

// change writes a table that somebody wishes for, however often others come in between.
func (c *Cluster) change(ctx context.Context, wish func(*Table) error) error {
	pause := decidePause
	for {
		c.readUnknown(ctx)
		c.mu.Lock()
		ready := c.mayWrite() && c.table.Number > 0
		before := c.table
		next := before.clone()
		candidates, l := c.candidates(), c.limits()
		c.mu.Unlock()
		err := errors.New("this node is no member at the moment")
		if ready {
			if err := wish(&next); err != nil {
				return err
			}
			if next.equal(before) {
				return nil
			}
			next = assign(next, candidates, l)
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

// Forget takes a dead node out of the list of members, with its draining mark.
func (c *Cluster) Forget(ctx context.Context, node string) error {
	if err := c.knows(node); err != nil {
		return fmt.Errorf("forget node %s: %w", node, err)
	}
	c.mu.Lock()
	m := c.members[node]
	alive, sequence := m.alive(), m.sequence
	c.mu.Unlock()
	if alive {
		return fmt.Errorf("forget node %s: it is alive; let it leave, or stop it", node)
	}
	data, err := (&proto.ClusterMember{Format: memberFormat, Cluster: c.opt.Name, Node: node, Incarnation: m.Incarnation, Weight: uint32(m.Weight), Lease: int64(m.lease)}).MarshalVT()
	if err != nil {
		return fmt.Errorf("forget node %s: %w", node, err)
	}
	_, newest, err := c.put(ctx, memberPrefix+node, data, true, sequence)
	c.apply(&newest)
	if err != nil {
		return fmt.Errorf("forget node %s: %w", node, err)
	}
	return c.Drain(ctx, node, false)
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
