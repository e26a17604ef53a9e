package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// Member is a node as this one sees it.
type Member struct {
	Node        string        `json:"node"`
	Incarnation string        `json:"incarnation"`
	Address     string        `json:"address"`
	API         string        `json:"api,omitempty"`
	Version     string        `json:"version,omitempty"`
	Weight      int           `json:"weight"`
	Started     time.Time     `json:"started"`
	Draining    bool          `json:"draining,omitempty"` // marked, or leaving
	Seen        time.Duration `json:"seen"`               // ago: its last renewal
	Alive       bool          `json:"alive"`
}

// member is another node's key as it was seen last, or our own.
type member struct {
	Member
	lease    time.Duration
	leaving  bool
	standbys int
	moves    int
	cluster  string

	sequence uint64
	at       time.Duration // when it was first seen at this sequence
	deleted  bool
	dead     bool // the key has not moved for its lease, or nobody is there any more

}

func (m *member) alive() bool { return !m.dead && !m.deleted }

// memberFormat is the newest form of a member key that this code reads.
const memberFormat = 1

// record is our key's value. mu is not held.
func (c *Cluster) record(incarnation string, renewal uint64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return (&proto.ClusterMember{
		Format: memberFormat, Cluster: c.opt.Name, Node: c.opt.Node, Incarnation: incarnation, Address: c.address, Api: c.opt.API,
		Version: c.opt.Version, Weight: uint32(c.opt.Weight), Started: c.started.UnixNano(), Lease: int64(c.opt.Lease), Renewal: renewal,
		Leaving: c.leaving, Standbys: uint32(c.opt.Standbys), Moves: uint32(c.opt.Moves),
	}).MarshalVT()
}

func decodeMember(m *transport.Message) (*member, error) {
	p := &proto.ClusterMember{}
	if err := p.UnmarshalVT(m.Data); err != nil {
		return nil, fmt.Errorf("key %s is damaged: %w", m.Subject, err)
	}
	if p.Format != memberFormat {
		return nil, fmt.Errorf("key %s has form %d; this version reads form %d: a newer version wrote it", m.Subject, p.Format, memberFormat)
	}
	if node := nodeOf(m.Subject); p.Node != node || p.Weight < 1 || p.Weight > maxWeight || p.Lease <= 0 {
		return nil, fmt.Errorf("key %s is damaged: node %q, weight %d, lease %d", m.Subject, p.Node, p.Weight, p.Lease)
	}
	return &member{
		Member: Member{Node: p.Node, Incarnation: p.Incarnation, Address: p.Address, API: p.Api, Version: p.Version, Weight: int(p.Weight), Started: time.Unix(0, p.Started).UTC()},
		lease:  time.Duration(p.Lease), leaving: p.Leaving, standbys: int(min(p.Standbys, 2)), moves: int(min(p.Moves, maxGroups)), cluster: p.Cluster,
		sequence: m.Sequence, deleted: isDeleted(m),
	}, nil
}

// Members returns the nodes whose keys are there, in the order of their names; those that are dead, too, until
// somebody forgets them.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	var all []Member
	for _, node := range slices.Sorted(maps.Keys(c.members)) {
		if m := c.members[node]; !m.deleted {
			all = append(all, c.member(m, now))
		}
	}
	return all
}

func (c *Cluster) member(m *member, now time.Duration) Member {
	out := m.Member
	out.Alive = m.alive()
	out.Draining = m.leaving || slices.Contains(c.table.Draining, m.Node)
	out.Seen = now - m.at
	if m.Node == c.opt.Node {
		out.Alive = !c.lapsed
	}
	return out
}

// Self returns this node.
func (c *Cluster) Self() Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[c.opt.Node]; m != nil && m.Incarnation == c.incarnation {
		return c.member(m, c.clock.Now())
	}
	return Member{
		Node: c.opt.Node, Incarnation: c.incarnation, Address: c.address, API: c.opt.API, Version: c.opt.Version, Weight: c.opt.Weight,
		Started: c.started, Draining: slices.Contains(c.table.Draining, c.opt.Node),
	}
}

// candidates returns the live members as the assignment takes them. mu is held.
func (c *Cluster) candidates() []candidate {
	var all []candidate
	for _, m := range c.members {
		incarnation, alive := m.Incarnation, m.alive()
		if m.Node == c.opt.Node {
			incarnation, alive = c.incarnation, !c.lapsed
		}
		if alive {
			all = append(all, candidate{m.Node, incarnation, m.Weight, m.leaving || slices.Contains(c.table.Draining, m.Node)})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.node, b.node) })
	return all
}

// limits returns the highest of what the live members were told. mu is held.
func (c *Cluster) limits() limits {
	l := limits{standbys: c.opt.Standbys, moves: c.opt.Moves}
	for _, m := range c.members {
		if m.alive() {
			l.standbys, l.moves = max(l.standbys, m.standbys), max(l.moves, m.moves)
		}
	}
	return l
}

// apply takes one message of the bucket in: from the watch, from a read, or what we wrote ourselves.
func (c *Cluster) apply(m *transport.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Sequence == 0 {
		return
	}
	switch {
	case m.Subject == tableSubject:
		c.applyTable(m)
	case m.Subject == lockSubject:
		c.held.apply(m)
	case nodeOf(m.Subject) != "":
		c.applyMember(m)
	}
}

// saw notes how far the watch is. mu is not held.
func (c *Cluster) saw(sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched < c.joined && sequence >= c.joined {
		defer c.notify()
	}
	c.watched = max(c.watched, sequence)
}

func (c *Cluster) applyTable(m *transport.Message) {
	if m.Sequence <= c.table.Number || isDeleted(m) {
		return
	}
	t, name, err := decodeTable(m.Data)
	if err == nil && name != c.opt.Name {
		err = fmt.Errorf("the table is that of cluster %s", name)
	}
	if errors.Is(err, errNewer) {
		c.fail(err)
		return
	}
	if err != nil {
		if c.unreadable == nil {
			c.log.Error("the cluster's table cannot be read: nothing is placed", "sequence", m.Sequence, "error", err)
		}
		c.unreadable = err
		c.notify()
		return
	}
	t.Number = m.Sequence
	c.table, c.unreadable = t, nil
	c.notify()
}

func (c *Cluster) applyMember(m *transport.Message) {
	node := nodeOf(m.Subject)
	have := c.members[node]
	if have != nil && m.Sequence <= have.sequence {
		return
	}
	next, err := decodeMember(m)
	if err != nil {
		if !c.unread[node] {
			c.log.Error("a member cannot be read: to this node it is not there", "node", node, "error", err)
			c.unread[node] = true
		}
		return
	}
	next.at = c.clock.Now()
	c.members[node] = next
	if node == c.opt.Node && !c.lapsed && !c.opt.IgnoreLease && (next.deleted || !c.own[next.Incarnation]) {
		c.lapse("its key is another's")
		c.notify()
		c.wake()
		return
	}
	if have != nil && have.alive() == next.alive() && have.Incarnation == next.Incarnation && have.leaving == next.leaving && have.Address == next.Address {
		return // a renewal
	}
	if node != c.opt.Node {
		switch {
		case next.deleted:
			c.log.Info("a node left", "node", node)
		case have == nil || have.Incarnation != next.Incarnation:
			c.log.Info("a node joined", "node", node, "address", next.Address, "version", next.Version, "incarnation", next.Incarnation)
		case !have.alive():
			c.log.Info("a node is back", "node", node)
		case next.leaving && !have.leaving:
			c.log.Info("a node leaves", "node", node)
		}
	}
	c.notify()
}

// lapse gives up all that is ours, and returns the groups that were. mu is held; who calls notifies.
func (c *Cluster) lapse(why string) []int {
	if c.lapsed {
		return nil
	}
	var mine []int
	for g := range c.table.Groups {
		if c.table.role(g, c.opt.Node, c.incarnation) == Owner {
			mine = append(mine, g)
		}
	}
	c.lapsed = true
	c.generation++
	c.order++
	c.gaveUp = mine
	clear(c.releases) // all is given up, and rejoin waits for those under way
	if c.abandon != nil {
		c.abandon()
	}
	c.log.Info("this node gives up its groups", "why", why, "groups", len(mine))
	return mine
}

// judge lapses a membership whose last good renewal began too long ago. mu is held.
func (c *Cluster) judge() {
	if c.lapsed || c.opt.IgnoreLease {
		return
	}
	if silent := c.clock.Now() - c.good; silent > c.opt.Lease*3/4 {
		c.lapse(fmt.Sprintf("its last renewal began %s ago", silent.Round(time.Millisecond)))
		c.notify()
	}
}

// wake lets renew renew now.
func (c *Cluster) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// renew keeps the member key moving, and joins again after a lapse.
func (c *Cluster) renew() {
	every := c.opt.Lease / 4
	next := every
	for {
		fired, stop := c.clock.Timer(next)
		select {
		case <-fired:
		case <-c.kick:
		case <-c.ctx.Done():
		}
		stop()
		if c.ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.judge() // the past first
		lapsed, ended, start := c.lapsed, c.ended, c.clock.Now()
		until := c.good + c.opt.Lease*3/4
		c.mu.Unlock()
		switch {
		case ended:
			return
		case lapsed:
			c.rejoin()
			next = every
			continue
		case c.opt.IgnoreLease:
			until = start + c.opt.Lease
		}
		ctx, cancel := context.WithTimeout(c.ctx, max(until-start, time.Millisecond))
		again := c.renewOnce(ctx, start)
		cancel()
		next = max(every-(c.clock.Now()-start), 0)
		if again {
			next = c.opt.Lease/32 + rand.N(c.opt.Lease/32)
		}
	}
}

// renewOnce writes our key once; true means that it is to be tried again soon.
func (c *Cluster) renewOnce(ctx context.Context, start time.Duration) (again bool) {
	c.mu.Lock()
	c.renewal++
	incarnation, renewal, expect, gen := c.incarnation, c.renewal, c.sequence, c.generation
	c.mu.Unlock()
	data, err := c.record(incarnation, renewal)
	if err != nil {
		panic(fmt.Sprintf("cluster: member record: %v", err)) // our own bytes
	}
	seq, newest, err := c.put(ctx, memberPrefix+c.opt.Node, data, false, expect)
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.generation { // lapsed meanwhile: what came of it does not count
		return false
	}
	switch {
	case err == nil:
		c.sequence, c.good = seq, start
		c.applyMember(&newest)
		return false
	case errors.Is(err, transport.ErrFenced) && newest.Sequence > 0:
		c.applyMember(&newest)
		if of, err := decodeMember(&newest); err == nil && of.Incarnation == incarnation && !of.deleted {
			c.sequence = newest.Sequence // an earlier renewal of ours that came late
			return true
		}
		return false // applyMember has drawn the conclusion
	}
	c.log.Debug("the renewal failed", "error", err)
	return true
}

// rejoin makes a lapsed node a member again, once all that it owned is closed.
func (c *Cluster) rejoin() {
	c.mu.Lock()
	order, groups := c.order, c.gaveUp
	c.mu.Unlock()
	if c.until(c.ctx, func() bool { return c.placedOrder >= order && c.releasing == 0 }) != nil {
		return
	}
	pause, level := c.opt.Lease/16, slog.LevelWarn
	for c.ctx.Err() == nil {
		err := c.release(groups)
		if err == nil {
			groups = nil
			c.mu.Lock()
			c.order++ // the engine hears once more that nothing is ours: before anything is again
			order = c.order
			c.notify()
			c.mu.Unlock()
			if c.until(c.ctx, func() bool { return c.placedOrder >= order }) != nil {
				return
			}
			ctx, cancel := context.WithTimeout(c.ctx, max(4*c.opt.Lease, 10*time.Second))
			err = c.enter(ctx)
			cancel()
		}
		if err == nil {
			c.log.Info("this node is a member again", "incarnation", c.Self().Incarnation)
			return
		}
		var taken *takenError
		if errors.As(err, &taken) {
			c.mu.Lock()
			c.fail(err)
			c.mu.Unlock()
			return
		}
		c.log.Log(c.ctx, level, "this node cannot join again so far", "error", err)
		level = slog.LevelDebug // said once
		_ = sleep(c.ctx, c.clock, pause/2+rand.N(pause))
		pause = min(2*pause, c.opt.Lease)
	}
}

// release closes what was ours before a lapse.
func (c *Cluster) release(groups []int) error {
	if len(groups) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	if err := c.engine.Release(ctx, groups); err != nil {
		return fmt.Errorf("release groups: %w", err)
	}
	return nil
}

// takenError is a node name that another live process has.
type takenError struct{ by Member }

func (e *takenError) Error() string {
	return fmt.Sprintf("node name %s is taken: another node %s at %s (version %s, started %s) is alive; give this node another name, or stop that one",
		e.by.Node, e.by.Node, e.by.Address, e.by.Version, e.by.Started.Format(time.RFC3339))
}

// enter takes this node's member key as a new incarnation: calls are taken from then on, and the lease runs.
func (c *Cluster) enter(ctx context.Context) error {
	for {
		// One that was written and is in doubt is used no more: others may have found it dead by now.
		incarnation := newIncarnation(c.opt.Node)
		c.mu.Lock()
		c.own[incarnation] = true
		c.mu.Unlock()
		expect, err := c.vacant(ctx)
		if err != nil {
			return err
		}
		address, err := c.link.start(ctx, incarnation)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.address = address
		c.mu.Unlock()
		data, err := c.record(incarnation, 1)
		if err != nil {
			return err
		}
		start := c.clock.Now()
		seq, newest, err := c.put(ctx, memberPrefix+c.opt.Node, data, false, expect)
		if err != nil {
			if errors.Is(err, transport.ErrFenced) || errors.Is(err, errUnsettled) {
				if sleep(ctx, c.clock, c.opt.Lease/16) == nil {
					continue
				}
			}
			return fmt.Errorf("write the member key: %w", err)
		}
		c.mu.Lock()
		c.incarnation, c.sequence, c.joined, c.renewal, c.good, c.lapsed = incarnation, seq, seq, 1, start, false
		for _, m := range c.members { // who was silent while we were away may have been cut off as we were
			if m.alive() {
				m.at = c.clock.Now()
			}
		}
		c.applyMember(&newest)
		c.judge()
		c.notify()
		c.mu.Unlock()
		return nil
	}
}

// vacant waits until the node's key is nobody's, and returns its sequence.
func (c *Cluster) vacant(ctx context.Context) (uint64, error) {
	subject := memberPrefix + c.opt.Node
	first, err := c.last(ctx, subject)
	if err != nil {
		return 0, fmt.Errorf("read the member key: %w", err)
	}
	if first.Sequence == 0 || isDeleted(&first) {
		return first.Sequence, nil
	}
	of, err := decodeMember(&first)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	ours := c.own[of.Incarnation]
	c.mu.Unlock()
	if ours {
		return first.Sequence, nil
	}
	since := c.clock.Now()
	if c.opt.Network == nil && gone(ctx, of.Address, 1) {
		return first.Sequence, nil // the process that wrote it is gone
	}
	for c.clock.Now()-since <= of.lease {
		if err := sleep(ctx, c.clock, of.lease/8); err != nil {
			return 0, fmt.Errorf("wait whether another node %s is alive: %w", c.opt.Node, err)
		}
		m, err := c.last(ctx, subject)
		if err != nil {
			return 0, fmt.Errorf("read the member key: %w", err)
		}
		if m.Sequence == first.Sequence {
			continue
		}
		if isDeleted(&m) {
			return m.Sequence, nil
		}
		if now, err := decodeMember(&m); err == nil {
			return 0, &takenError{now.Member}
		}
		return 0, &takenError{of.Member}
	}
	return first.Sequence, nil
}
