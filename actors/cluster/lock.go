package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// lockState is the lock's key as it was seen last.
type lockState struct {
	sequence          uint64
	node, incarnation string // who has it; "" for nobody
	what              string
	since             time.Time
}

// apply takes the key's newest message in.
func (l *lockState) apply(m *transport.Message) {
	if m.Sequence <= l.sequence {
		return
	}
	*l = lockState{sequence: m.Sequence}
	p := &proto.ClusterLock{}
	if isDeleted(m) || p.UnmarshalVT(m.Data) != nil {
		return
	}
	l.node, l.incarnation, l.what, l.since = p.Node, p.Incarnation, p.What, time.Unix(0, p.Since).UTC()
}

// HeldError says who has the lock of cluster-wide changes.
type HeldError struct {
	Node, What string
	Since      time.Time
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("node %s is at a change of the cluster (%s, since %s): try again when it has ended", e.Node, e.What, e.Since.Format(time.TimeOnly))
}

// Lock takes the lock of cluster-wide changes. It does not wait: where a live node has it the error is a
// *HeldError. A lock whose holder's incarnation lives no more is broken. The lock keeps people's changes apart; it
// is not what makes them safe. release may be called twice.
func (c *Cluster) Lock(ctx context.Context, what string) (release func(), err error) {
	c.mu.Lock()
	if c.locked {
		err := &HeldError{c.opt.Node, c.held.what, c.held.since}
		c.mu.Unlock()
		return nil, err
	}
	c.locked = true // before it is: two callers here would both take it
	c.mu.Unlock()
	seq, err := c.takeLock(ctx, what)
	if err != nil {
		c.mu.Lock()
		c.locked = false
		c.mu.Unlock()
		return nil, err
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			c.mu.Lock()
			c.locked = false
			c.mu.Unlock()
			ctx, cancel := context.WithTimeout(c.ctx, max(c.opt.Lease, time.Second))
			defer cancel()
			c.unlock(ctx, seq) // where this fails readTable does it later
		})
	}, nil
}

func (c *Cluster) takeLock(ctx context.Context, what string) (uint64, error) {
	for {
		m, err := c.last(ctx, lockSubject)
		if err != nil {
			return 0, fmt.Errorf("lock: %w", err)
		}
		c.apply(&m)
		c.mu.Lock()
		held, incarnation, lapsed := c.held, c.incarnation, c.lapsed
		holder, alive := c.livePeer(held.node)
		c.mu.Unlock()
		switch {
		case lapsed:
			return 0, errors.New("lock: this node is no member of the cluster at the moment")
		case held.node != "" && alive && holder.incarnation == held.incarnation && held.incarnation != incarnation:
			return 0, &HeldError{held.node, held.what, held.since}
		}
		since := time.Now()
		data, err := (&proto.ClusterLock{Format: 1, Node: c.opt.Node, Incarnation: incarnation, What: what, Since: since.UnixNano()}).MarshalVT()
		if err != nil {
			return 0, fmt.Errorf("lock: %w", err)
		}
		seq, newest, err := c.put(ctx, lockSubject, data, false, held.sequence)
		c.apply(&newest)
		if err == nil {
			return seq, nil
		}
		if !errors.Is(err, transport.ErrFenced) {
			return 0, fmt.Errorf("lock: %w", err)
		}
		if err := sleep(ctx, c.clock, decidePause); err != nil {
			return 0, fmt.Errorf("lock: %w", err)
		}
	}
}

// staleLock returns the sequence of a lock that is ours by its key and no more by our own memory, or 0. mu is held.
func (c *Cluster) staleLock() uint64 {
	if c.held.node == c.opt.Node && c.own[c.held.incarnation] && !c.locked {
		return c.held.sequence
	}
	return 0
}

func (c *Cluster) unlock(ctx context.Context, seq uint64) {
	data, err := (&proto.ClusterLock{Format: 1, Node: c.opt.Node, Incarnation: c.Self().Incarnation, Since: time.Now().UnixNano()}).MarshalVT()
	if err != nil {
		return
	}
	_, newest, err := c.put(ctx, lockSubject, data, true, seq)
	c.apply(&newest)
	if err != nil && !errors.Is(err, transport.ErrFenced) {
		c.log.Debug("the lock could not be released so far", "error", err)
	}
}
