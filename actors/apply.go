package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// work is what one batch comes to, before it is committed. It is used again for the next batch.
type work struct {
	now        time.Time
	came       int       // rows of inputs from outside the flow
	last       *Item     // the row that was applied last
	arrived    time.Time // when the stream stored its message, or one of the same read
	positions  []*proto.Position
	envelope   uint64 // the one that was looked at last: its sequence
	envelopeOf string // and its sender
	order      int    // of the item being applied: its outputs leave in its turn
	piled      bool
	piles      [][]piled // rows that wait for a Batch function, by step
	shifts     []shift   // where the watermarks have moved meanwhile
	shifted    []int     // how many of these a step that piles has seen; nil: none
	shifting   bool      // timers fire between two rows that have waited

	dirty     []*instance
	keys      [][]byte
	values    [][]byte
	dead      uint32
	rows      int
	fired     int   // timers
	newKeys   int64 // as in proto.Record
	dropped   int
	moved     bool // a position, by more than what envelopes say of watermarks
	outs      []out
	handed    []handed
	envelopes []*envelope
	packs     []pack
	bytes     []byte // of payloads; free again once the batch is settled
}

// out is one output message.
type out struct {
	order   int
	target  *target
	subject string
	payload []byte
	passes  string
	pack    bool // it is a line of a message with others
}

// piled is a row that waits at a step for the rest of its batch.
type piled struct {
	row   *kis.Row
	meta  *kis.Meta
	jumps int
	order int
	key   string

	loaded bool // as in kis.Call
}

// quiet tells whether the batch has come to nothing that must be committed now.
func (w *work) quiet() bool {
	return !w.moved && w.rows == 0 && len(w.dirty) == 0 && len(w.keys) == 0 && len(w.outs) == 0 && len(w.handed) == 0
}

// begin readies the partition's work for a new batch.
func (p *Partition) begin() *work {
	w := &p.w
	*w = work{now: p.ports.Clock.Now(), positions: append(w.positions[:0], p.carried...), piles: w.piles, shifts: w.shifts[:0],
		dirty: w.dirty[:0], keys: w.keys[:0], values: w.values[:0], outs: w.outs[:0],
		handed: w.handed[:0], envelopes: w.envelopes[:0], packs: w.packs[:0], bytes: w.bytes[:0]}
	if len(w.piles) != len(p.steps) {
		w.piles = make([][]piled, len(p.steps))
	}
	return w
}

// advance notes that a chunk is part of the batch and returns the sequence up to which its input has been
// counted before.
func (w *work) advance(p *Partition, c *Chunk) (pos *proto.Position, at uint64, err error) {
	in := &p.flow.Inputs[c.Input]
	pos = findPosition(w.positions, in.Name)
	if pos == nil {
		pos = &proto.Position{Input: in.Name, Created: in.Created, Sequence: p.Sequence(c.Input)}
		w.positions = append(w.positions, pos)
	}
	at = pos.Sequence
	if c.After > at {
		return nil, 0, fmt.Errorf("%w: partition %s has read %s up to %d, and is handed what follows %d", ErrInput, p.name, in.Stream, at, c.After)
	}
	w.moved = w.moved || c.To > at && !c.onlyMarks()
	return pos, at, nil
}

// onlyMarks tells whether all that a chunk holds is what envelopes say of watermarks.
func (c *Chunk) onlyMarks() bool {
	for i := range c.Items {
		if c.Items[i].Envelope == nil {
			return false
		}
	}
	return len(c.Items) > 0
}

// origin checks the number of an envelope against the last one of its sender (P1). Between the partitions of a
// flow no number is left out; of a Save's envelopes a partition gets those that have rows for it.
func (w *work) origin(p *Partition, pos *proto.Position, input int, it *Item) (repeat bool, err error) {
	last, known := uint64(0), false
	for _, o := range pos.Origins {
		if o.Sender == it.Sender {
			last, known = o.Number, true
		}
	}
	if !known {
		if q := p.position(input); q != nil {
			for _, o := range q.Origins {
				if o.Sender == it.Sender {
					last, known = o.Number, true
				}
			}
		}
	}
	switch {
	case known && it.Number < last, known && it.Number == last && (w.envelope != it.Sequence || w.envelopeOf != it.Sender):
		return true, nil
	case known && it.Number > last+1 && p.flow.Inputs[input].Kind == HandOff:
		return false, fmt.Errorf("%w: partition %s: hand-off from %s goes from number %d to %d", ErrInput, p.name, it.Sender, last, it.Number)
	}
	w.envelope, w.envelopeOf = it.Sequence, it.Sender // the next item may be of the same envelope
	o := setOrigin(pos, it.Sender, it.Number)
	if it.Envelope != nil && p.timed {
		o.Watermarks = setWatermarks(o.Watermarks, it.Envelope.Watermarks)
	}
	return false, nil
}

// apply takes a row through the steps. A row goes through all of them before the next one starts, so results do
// not depend on how rows are batched; only at a Batch function the rows wait for one another, and what comes of
// them is put back into the order of the rows that caused it.
func (p *Partition) apply(ctx context.Context, w *work, it *Item, loaded bool) error {
	w.order++
	w.rows++
	if it.Row == nil {
		p.malformed(w, it)
		return nil
	}
	return p.walkOn(ctx, w, it.Row, it.Meta, it.Step, it.Jumps, false, loaded)
}

// unpile takes the rows on that wait at Batch functions and behind them, the first step first, until none waits. Each
// sees the watermark of its place among the rows.
func (p *Partition) unpile(ctx context.Context, w *work) error {
	if !w.piled {
		return nil // all is in the order of the rows
	}
	newest := w.order
	for rounds := 0; w.piled; rounds++ {
		if rounds > len(p.steps)*(kis.MaxJumps+1) {
			panic("actors: partition " + p.name + ": jumps without a bound")
		}
		w.piled = false
		for i := range p.steps {
			s := &p.steps[i]
			if !s.piles && !s.after {
				continue
			}
			rows := w.piles[i]
			w.piles[i] = nil
			if len(rows) > 0 {
				slices.SortStableFunc(rows, func(a, b piled) int { return a.order - b.order }) // some came straight to this step
				if err := p.passPile(ctx, w, s, rows); err != nil {
					return err
				}
			}
			if err := p.shiftTo(ctx, w, i, p.nextPile(i), math.MaxInt); err != nil {
				return err
			}
		}
	}
	w.shifts, w.shifted, w.order = w.shifts[:0], nil, newest
	slices.SortStableFunc(w.outs, func(a, b out) int { return a.order - b.order })
	slices.SortStableFunc(w.handed, func(a, b handed) int { return a.order - b.order })
	return nil
}

// passPile takes the rows that wait at one step on.
func (p *Partition) passPile(ctx context.Context, w *work, s *step, rows []piled) error {
	switch {
	case s.traits.Many:
		return p.callMany(ctx, w, s, rows)
	case s.traits.Batch:
		return p.callPile(ctx, w, s, rows)
	}
	next := p.nextPile(s.index)
	for _, r := range rows {
		if err := p.shiftTo(ctx, w, s.index, next, r.order); err != nil {
			return err
		}
		w.order = r.order
		if err := p.walkOn(ctx, w, r.row, r.meta, s.index, r.jumps, true, r.loaded); err != nil {
			return err
		}
	}
	return nil
}

// nextPile is the next step behind one at which rows wait for the rest of the batch.
func (p *Partition) nextPile(i int) int {
	for i++; i < len(p.steps) && !p.steps[i].piles && !p.steps[i].after; i++ {
	}
	return i
}

// walk takes a row from a step on to where it ends or leaves the partition.
func (p *Partition) walk(ctx context.Context, w *work, row *kis.Row, meta *kis.Meta, i, jumps int) error {
	return p.walkOn(ctx, w, row, meta, i, jumps, false, false)
}

// walkOn is walk for a row that has waited at its step for the rows before it, or that came in through the step's
// hand-off.
func (p *Partition) walkOn(ctx context.Context, w *work, row *kis.Row, meta *kis.Meta, i, jumps int, waited, loaded bool) error {
	var buf [96]byte
	var known []byte // the key that was computed last,
	var of *kis.Row  // for this row
	var stage string // and this stage
	var to int       // and where it belongs
	for i < len(p.steps) {
		s := &p.steps[i]
		var key []byte
		if s.keyed {
			if row != of || s.stage != stage {
				var err error
				if known, err = kis.AppendKey(buf[:0], row, s.Must); err != nil {
					p.setAside(w, s, row, meta, err, 0)
					return nil
				}
				of, stage, to = row, s.stage, partitionOf(slotOf(known), p.of)
			}
			key = known
			if !s.here || to != p.number {
				p.handOff(w, s, to, row, meta, jumps)
				return nil
			}
			if p.pending.rows > 0 && p.pending.waits(i, key) {
				p.pend(w, s, key, row, meta, jumps, 0, 0, nil, loaded)
				return nil
			}
		}
		if s.piles || s.after && !waited {
			w.piled = true
			w.piles[i] = append(w.piles[i], piled{row, meta, jumps, w.order, string(key), loaded})
			return nil
		}
		waited = false
		c, release := s.borrow()
		c.Rows, c.Metas = append(c.Rows[:0], row), append(c.Metas[:0], meta)
		came := loaded
		c.Loaded, loaded = came, false
		err := p.call(ctx, w, s, c, key)
		if err != nil {
			release()
			return p.refused(w, s, key, row, meta, jumps, 0, err, came)
		}
		next, err := p.after(ctx, w, s, c, meta, &jumps)
		if err != nil || next.row == nil {
			release()
			return err
		}
		row, meta, i = next.row, next.meta, next.step
		release()
	}
	return nil
}

// borrow lends out the step's call, or a new one where that is in use further up (after a jump backwards).
func (s *step) borrow() (*kis.Call, func()) {
	if s.busy {
		return new(kis.Call), func() {}
	}
	s.busy = true
	s.call.Reset()
	return &s.call, s.release
}

func (s *step) release() { s.busy = false }

// hop is where a row goes on.
type hop struct {
	row  *kis.Row
	meta *kis.Meta
	step int
}

// after does what a call asked for: sends, saves, and takes every emitted row on, but for a single one, which
// it returns for the caller to take on.
func (p *Partition) after(ctx context.Context, w *work, s *step, c *kis.Call, meta *kis.Meta, jumps *int) (hop, error) {
	if c.Control == kis.Abort {
		return hop{}, nil
	}
	for i := range c.Sent {
		if c.Sent[i].Cause == 0 { // Batch: the caller picks by cause
			p.sendRow(w, s, c.Sent[i].Subject, c.Sent[i].Row, meta)
		}
	}
	next := s.index + 1
	emitted := c.Emitted
	switch c.Control {
	case kis.Reuse:
		if emitted = nil; len(c.Rows) > 0 {
			emitted = []kis.Emission{{Row: c.Rows[0]}}
		}
	case kis.ForceNext:
		if len(emitted) == 0 {
			emitted = []kis.Emission{{Row: kis.NewRow(c.Key.Fields()...)}}
		}
	case kis.Jump:
		to := p.stepNamed(c.Target)
		if to < 0 {
			p.setAside(w, s, causeOf(c), meta, fmt.Errorf("jump to %q: the flow has no such step", c.Target), 0)
			return hop{}, nil
		}
		if next = to; to <= s.index {
			if *jumps++; *jumps > kis.MaxJumps {
				p.setAside(w, s, causeOf(c), meta, fmt.Errorf("jumped backwards more than %d times", kis.MaxJumps), 0)
				return hop{}, nil
			}
		}
		if len(emitted) == 0 && len(c.Rows) > 0 {
			emitted = []kis.Emission{{Row: c.Rows[0]}}
		}
	}
	s.meter.out(len(emitted))
	if s.Save != "" {
		for _, e := range emitted {
			p.saveRow(w, s, e.Row, metaOf(e, meta))
		}
	}
	switch len(emitted) {
	case 0:
		return hop{}, nil
	case 1:
		return hop{emitted[0].Row, metaOf(emitted[0], meta), next}, nil
	}
	if next >= len(p.steps) {
		return hop{}, nil
	}
	for _, e := range slices.Clone(emitted) {
		if err := p.walk(ctx, w, e.Row, metaOf(e, meta), next, *jumps); err != nil {
			return hop{}, err
		}
	}
	return hop{}, nil
}

// metaOf is the meta of an emitted row: that of its cause, with the row's own time where it has one.
func metaOf(e kis.Emission, meta *kis.Meta) *kis.Meta {
	if e.Time.IsZero() || e.Time.Equal(meta.Time) {
		return meta
	}
	m := *meta
	m.Time = e.Time
	return &m
}

// causeOf is the row of a call, or one of its key's fields where a timer has caused it.
func causeOf(c *kis.Call) *kis.Row {
	if len(c.Rows) > 0 {
		return c.Rows[0]
	}
	return kis.NewRow(c.Key.Fields()...)
}

// ready fills in what every call is told.
func (p *Partition) ready(ctx context.Context, w *work, s *step, c *kis.Call) {
	c.Context, c.Now, c.Revision = ctx, w.now, p.flow.Revision
	c.Watermark = time.Time{}
	if p.timed {
		c.Watermark = moment(p.time.at[s.index])
	}
}

func (p *Partition) stepNamed(name string) int {
	for i := range p.steps {
		if p.steps[i].Name == name {
			return i
		}
	}
	return -1
}

// call runs a step's function on the rows of one key.
func (p *Partition) call(ctx context.Context, w *work, s *step, c *kis.Call, key []byte) error {
	p.ready(ctx, w, s, c)
	if !s.traits.Stateful {
		if s.keyed {
			c.Key = kis.TrustedKey(s.Must, string(key))
		}
		return s.handle(p.ports.Clock, c)
	}
	in, err := p.instance(s, key)
	if err != nil {
		return err
	}
	c.Key, c.State = in.key, in.state
	if err := s.handle(p.ports.Clock, c); err != nil {
		return err
	}
	if len(c.Timers) > 0 && len(in.timers)+len(c.Timers) > maxTimers {
		return &brokenError{fmt.Errorf("step %s: more than %d timers for %s", s.Name, maxTimers, in.key)}
	}
	p.changed(w, s, in, c)
	return nil
}

// changed makes what a call did to its key's instance part of the batch.
func (p *Partition) changed(w *work, s *step, in *instance, c *kis.Call) {
	p.own(w, in)
	in.state, in.gone = c.State, false
	in.sequence = c.Metas[len(c.Metas)-1].Sequence
	w.touch(in)
	if len(c.Timers) > 0 {
		p.changeTimers(w, in, c.Timers)
	}
	if s.TTL > 0 {
		p.touchTTL(w, s, in, c.Metas)
	}
}

// handle calls the runner. A runner answers for the panics of handlers; what panics here is the engine's own
// or a runner's, and the state cannot be trusted: the partition stops.
func (s *step) handle(clock Clock, c *kis.Call) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if isCrash(r) {
				panic(r)
			}
			err = &brokenError{fmt.Errorf("step %s: %s broke: %w\n%s", s.Name, s.Function.Name(), &kis.PanicError{Value: r}, debug.Stack())}
		}
	}()
	if !s.meter.call(len(c.Rows)) {
		return s.runner.Handle(c)
	}
	start := clock.Now()
	err = s.runner.Handle(c)
	s.meter.observe(s.meter.Flow, s.Name, s.meter.Function, s.meter.Mode, clock.Now().Sub(start).Seconds())
	return err
}

// brokenError stops the partition whatever the policy.
type brokenError struct{ error }

// Crash is what a simulation panics with where its process is to die; nothing recovers from it.
type Crash struct{ Point string }

func isCrash(r any) bool { _, ok := r.(Crash); return ok }

// callPile calls a Batch function, once for each key in the order of their first rows. If a call is refused,
// its rows are tried one by one, so that only the bad ones are set aside. What the calls have caused goes on when all
// are done, row by row in the rows' order, as it would without a Batch function.
func (p *Partition) callPile(ctx context.Context, w *work, s *step, rows []piled) error {
	byKey := make(map[string][]piled, len(rows))
	var keys []string
	for _, r := range rows {
		if _, ok := byKey[r.key]; !ok {
			keys = append(keys, r.key)
		}
		byKey[r.key] = append(byKey[r.key], r)
	}
	var all []caused
	for _, k := range keys {
		rows := byKey[k]
		c, err := p.callRows(ctx, w, s, k, rows)
		if err == nil {
			all = append(all, c...)
			continue
		}
		if isOwn(err) {
			return err
		}
		if len(rows) == 1 {
			w.order = rows[0].order
			if err := p.refused(w, s, []byte(k), rows[0].row, rows[0].meta, rows[0].jumps, 0, err, rows[0].loaded); err != nil {
				return err
			}
			continue
		}
		for _, r := range rows {
			if p.pending.rows > 0 && s.keyed && p.pending.waits(s.index, []byte(k)) {
				p.pend(w, s, []byte(k), r.row, r.meta, r.jumps, 0, 0, nil, r.loaded)
				continue
			}
			c, err := p.callRows(ctx, w, s, k, []piled{r})
			if err != nil {
				w.order = r.order
				if err := p.refused(w, s, []byte(k), r.row, r.meta, r.jumps, 0, err, r.loaded); err != nil {
					return err
				}
			}
			all = append(all, c...)
		}
	}
	return p.goOn(ctx, w, s, all)
}

// goOn takes on what rows have caused, in the rows' order.
func (p *Partition) goOn(ctx context.Context, w *work, s *step, all []caused) error {
	slices.SortStableFunc(all, func(a, b caused) int { return a.order - b.order })
	pile := p.nextPile(s.index)
	for i := range all {
		c := &all[i]
		if err := p.shiftTo(ctx, w, s.index, pile, c.order); err != nil {
			return err
		}
		w.order = c.order
		next, err := p.after(ctx, w, s, &c.call, c.meta, &c.jumps)
		if err == nil && next.row != nil {
			err = p.walk(ctx, w, next.row, next.meta, next.step, c.jumps)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// caused is what one row of a Batch function's call has caused.
type caused struct {
	call  kis.Call
	meta  *kis.Meta
	jumps int
	order int
}

// errAfter marks an error that came after a call had succeeded: it is the partition's.
type errAfter struct{ error }

func (e errAfter) Unwrap() error { return e.error }

// callRows calls a Batch function for rows of one key, and tells what each row has caused.
func (p *Partition) callRows(ctx context.Context, w *work, s *step, key string, rows []piled) ([]caused, error) {
	c := new(kis.Call)
	for _, r := range rows {
		c.Rows, c.Metas = append(c.Rows, r.row), append(c.Metas, r.meta)
	}
	if err := p.call(ctx, w, s, c, []byte(key)); err != nil {
		return nil, err
	}
	return causes(c, rows), nil
}

// causes takes a call's answers apart by the rows that caused them.
func causes(c *kis.Call, rows []piled) []caused {
	all := make([]caused, 0, len(rows))
	for i, r := range rows {
		one := kis.Call{Key: c.Key, Rows: []*kis.Row{r.row}, Metas: []*kis.Meta{r.meta}, Control: c.Control, Target: c.Target}
		for _, e := range c.Emitted {
			if min(max(e.Cause, 0), len(rows)-1) == i {
				one.Emitted = append(one.Emitted, kis.Emission{Row: e.Row, Time: e.Time})
			}
		}
		for _, e := range c.Sent {
			if min(max(e.Cause, 0), len(rows)-1) == i {
				one.Sent = append(one.Sent, kis.Sending{Subject: e.Subject, Row: e.Row})
			}
		}
		all = append(all, caused{one, r.meta, r.jumps, r.order})
	}
	return all
}

// isOwn tells whether an error is the partition's own: no row's fault, so no policy applies, and what the batch
// has come to so far is not to be trusted.
func isOwn(err error) bool {
	var broken *brokenError
	var late errAfter
	return errors.As(err, &broken) || errors.As(err, &late) || errors.Is(err, errStore)
}

// refused does with a row what its function's error and the step's policy ask for. A returned error stops the
// partition before the batch.
func (p *Partition) refused(w *work, s *step, key []byte, row *kis.Row, meta *kis.Meta, jumps, attempts int, err error, loaded bool) error {
	s.meter.refuse()
	if isOwn(err) {
		return err
	}
	switch kis.VerdictOf(err) {
	case kis.VerdictStop:
		return fmt.Errorf("%w: step %s: %w (event %s)", ErrStopped, s.Name, err, eventName(meta))
	case kis.VerdictDrop:
		w.dropped++
		s.meter.drop()
		return nil
	case kis.VerdictRetry:
		if attempts < s.RetryTimes {
			p.pend(w, s, key, row, meta, jumps, attempts+1, w.now.Add(s.RetryDelay).UnixNano(), err, loaded)
			return nil
		}
		err = fmt.Errorf("after %d retries: %w", attempts, err)
	}
	switch s.OnError {
	case StopPartition:
		return fmt.Errorf("%w: step %s has on_error: stop: %w (event %s)", ErrStopped, s.Name, err, eventName(meta))
	case ParkKey:
		p.pend(w, s, key, row, meta, jumps, attempts, parked, err, loaded)
		return nil
	}
	p.setAsideLoaded(w, s, row, meta, err, attempts, loaded)
	return nil
}

func eventName(m *kis.Meta) string { return fmt.Sprintf("%s %d.%d", m.Stream, m.Sequence, m.Index) }

// malformed sets aside bytes that are no row.
func (p *Partition) malformed(w *work, it *Item) {
	p.dead(w, &proto.DeadLetter{Reason: it.Err.Error(), Data: it.Bad, Malformed: true}, it.Meta)
}

// setAside makes a row a dead letter.
func (p *Partition) setAside(w *work, s *step, row *kis.Row, meta *kis.Meta, err error, attempts int) {
	p.setAsideLoaded(w, s, row, meta, err, attempts, false)
}

func (p *Partition) setAsideLoaded(w *work, s *step, row *kis.Row, meta *kis.Meta, err error, attempts int, loaded bool) {
	d := &proto.DeadLetter{Loaded: loaded, Step: s.Name, Function: s.Function.Name(), Reason: err.Error(),
		Data: row.AppendJSON(nil), Attempts: uint32(attempts)}
	var pe *kis.PanicError
	if errors.As(err, &pe) {
		d.Stack = pe.Stack
	}
	s.meter.setAside()
	p.dead(w, d, meta)
}

func (p *Partition) dead(w *work, d *proto.DeadLetter, meta *kis.Meta) {
	d.Revision, d.Time = p.flow.Revision, w.now.UnixNano()
	d.Passes = meta.Passes
	d.Stream, d.Subject, d.Sequence, d.Index, d.EventTime = meta.Stream, meta.Subject, meta.Sequence, meta.Index, meta.Time.UnixNano()
	v, err := d.MarshalVT()
	if err != nil {
		panic("actors: dead letter: " + err.Error())
	}
	w.keys = append(w.keys, appendDeadKey(nil, p.meta.Number+1, w.dead))
	w.values = append(w.values, v)
	w.dead++
}

// sendRow puts a row into the outbox of one of the step's output streams.
func (p *Partition) sendRow(w *work, s *step, subject string, row *kis.Row, meta *kis.Meta) {
	for i := range s.Outputs {
		o := &s.Outputs[i]
		if !covers(o.Subject, subject) {
			continue
		}
		payload := w.payload(row)
		if len(payload) > p.ports.Streams.MaxMessage()-1024 {
			p.setAside(w, s, row, meta, fmt.Errorf("the output of %d bytes is larger than a message may be", len(payload)), 0)
			return
		}
		passes, err := p.passed(meta)
		if err != nil {
			p.setAside(w, s, row, meta, err, 0)
			return
		}
		t := p.target(o.Stream, o.Stream, o.Fenced)
		w.outs = append(w.outs, out{w.order, t, subject, payload, passes, s.Pack})
		if !s.Pack {
			s.meter.send()
		}
		return
	}
	p.setAside(w, s, row, meta, fmt.Errorf("subject %q is not one that the step declares", subject), 0)
}
