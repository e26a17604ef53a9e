package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kisflow/kisflow/transport"
)

const (
	// batchCost is what an atomic batch costs the server, in syncs of a message for itself: it syncs about four times, and makes
	// and removes a store of some files (docs/adr/0006).
	batchCost = 8
	// maxWaiting is how many records may wait for the next batch; more go alone. A batch holds maxBatch messages and batchBytes.
	maxWaiting = 4096
)

// combiner puts records of several writers to one stream into atomic batches, so that one sync covers them. One writer leads:
// while what it sends is on its way others gather, and whoever waits longest then leads the next batch, with all that wait. Too few
// for a batch go alone, at the same time; so does a lone record, without waiting.
//
// Each message of a batch is judged by its own expectation, against what was there before the batch. So no message of
// it may be on a subject that another record of it expects something of: such a record waits for the next batch.
//
// A batch that was refused stored nothing: its writers then go alone, each as if there were no combiner, and the one
// that is fenced learns it. A batch in doubt is in doubt for each of them.
type combiner struct {
	mu      sync.Mutex
	led     bool      // somebody leads: those who come wait
	waiting []*record // in the order in which they came
}

// record is what one writer wants stored, whole or not at all.
type record struct {
	ctx   context.Context
	ms    []transport.Outgoing
	bytes int
	turn  chan turn // has room for one
}

// turn is what becomes of a record that waited.
type turn struct {
	lead  bool // it is taken out and leads
	alone bool // it was not stored and goes by itself
	last  uint64
	err   error
}

// together stores a record in a batch with others, if there are enough of them just then, or else by alone. A writer that leads
// a batch may be held up by it after its own ctx has ended, for AckTimeout at most.
func (t *Streams) together(ctx context.Context, stream string, ms []transport.Outgoing, alone func() (uint64, error)) (uint64, error) {
	c := t.combiner(stream)
	r := &record{ctx: ctx, ms: ms, turn: make(chan turn, 1)}
	for i := range ms {
		r.bytes += len(ms[i].Data) + ownHeaders
	}
	switch c.join(r) {
	case full:
		return alone()
	case waits:
		if at := c.wait(r); !at.lead {
			if at.alone {
				return alone()
			}
			return at.last, at.err
		}
	}
	defer c.pass()
	batch := c.take(r)
	cost := 0
	for _, b := range batch {
		cost += b.cost()
	}
	if cost <= batchCost {
		c.release(batch[1:])
		return alone()
	}
	last, err := t.sendTogether(stream, batch)
	if err != nil && !errors.Is(err, transport.ErrDoubt) {
		c.release(batch[1:])
		return alone()
	}
	for i := len(batch) - 1; i > 0; i-- { // a batch is stored without anything in between
		b := batch[i]
		b.turn <- turn{last: last, err: err}
		if err == nil {
			last -= uint64(len(b.ms))
		}
	}
	return last, err
}

func (t *Streams) combiner(stream string) *combiner {
	v, ok := t.combiners.Load(stream)
	if !ok {
		v, _ = t.combiners.LoadOrStore(stream, new(combiner))
	}
	return v.(*combiner)
}

// sendTogether sends a batch. It ends early only when all of its writers have gone.
func (t *Streams) sendTogether(stream string, batch []*record) (uint64, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(batch[0].ctx))
	defer cancel()
	var there atomic.Int32
	there.Store(int32(len(batch)))
	var ms []transport.Outgoing
	for _, r := range batch {
		ms = append(ms, r.ms...)
		defer context.AfterFunc(r.ctx, func() {
			if there.Add(-1) == 0 {
				cancel()
			}
		})()
	}
	if err := t.fit(stream, ms); err != nil {
		return 0, err
	}
	if err := t.c.free.check(t.c.server); err != nil {
		return 0, err
	}
	last, err := t.batch(ctx, stream, ms)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	return last, nil
}

type place uint8

const (
	leads place = iota
	waits
	full
)

func (c *combiner) join(r *record) place {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.led:
		c.led = true
		return leads
	case len(c.waiting) >= maxWaiting:
		return full
	}
	c.waiting = append(c.waiting, r)
	return waits
}

// wait returns what becomes of a record. One that is on its way when its writer gives up is waited for all the same: its bytes
// are in use, and the batch ends soon.
func (c *combiner) wait(r *record) turn {
	select {
	case at := <-r.turn:
		return at
	case <-r.ctx.Done():
	}
	c.mu.Lock()
	for i, w := range c.waiting {
		if w == r {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			c.mu.Unlock()
			return turn{err: r.ctx.Err()}
		}
	}
	c.mu.Unlock()
	return <-r.turn
}

// take returns the leader's record and those that go with it.
func (c *combiner) take(r *record) []*record {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := []*record{r}
	written, expected := make(map[string]bool), make(map[string]bool)
	r.mark(written, expected)
	messages, bytes := len(r.ms), r.bytes
	left := c.waiting[:0]
	for _, w := range c.waiting {
		if messages+len(w.ms) > maxBatch || bytes+w.bytes > batchBytes || w.meets(written, expected) {
			left = append(left, w)
			continue
		}
		batch = append(batch, w)
		w.mark(written, expected)
		messages, bytes = messages+len(w.ms), bytes+w.bytes
	}
	clear(c.waiting[len(left):])
	c.waiting = left
	return batch
}

// cost is what a record costs for itself.
func (r *record) cost() int {
	if len(r.ms) > 1 {
		return batchCost
	}
	return 1
}

// expects is the subject that a message expects something of, or "".
func expects(m *transport.Outgoing) string {
	switch {
	case m.Expect == nil:
		return ""
	case m.Expect.Subject == "":
		return m.Subject
	}
	return m.Expect.Subject
}

func (r *record) mark(written, expected map[string]bool) {
	for i := range r.ms {
		written[r.ms[i].Subject] = true
		expected[expects(&r.ms[i])] = true
	}
}

// meets tells whether a record writes to what others expect something of, or the other way round.
func (r *record) meets(written, expected map[string]bool) bool {
	for i := range r.ms {
		if e := expects(&r.ms[i]); expected[r.ms[i].Subject] || e != "" && written[e] {
			return true
		}
	}
	return false
}

// release lets writers go by themselves.
func (c *combiner) release(rs []*record) {
	for _, r := range rs {
		r.turn <- turn{alone: true}
	}
}

// pass hands the lead on.
func (c *combiner) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.led = false
		return
	}
	next := c.waiting[0]
	c.waiting[0], c.waiting = nil, c.waiting[1:]
	next.turn <- turn{lead: true}
}

// combines tells whether records to a stream are put together: where every write is synced, and the stream takes batches and
// has one replica. Several replicas sync for many proposals at once by themselves.
func (t *Streams) combines(ctx context.Context, stream string, ms []transport.Outgoing) bool {
	if !t.opt.SyncAlways || t.apart || ms[0].Expect == nil {
		return false
	}
	k, err := t.kind(ctx, stream)
	return err == nil && k.atomic && !k.replicated
}
