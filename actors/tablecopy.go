package actors

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
)

// A Load as a table begins with the rows that the flows which save to its hand-off keep, and goes on with what they save
// from then on: it need not read what they have saved since ever, and what was cut there is not missing.
//
// The flow's plan holds where the hand-off ended when the Load was new: everything above is read. The rows are copied
// later, page by page, from partitions that go on with their work meanwhile. What was saved below that place was committed
// before it was stored, so it is in the pages; what was saved since may be in them or not, and is read in any case. Of a
// key the later row wins, by event time and then by arrival, so it does no harm that a row comes both ways: when all is
// read that was there when the last page came, every key has the row that it would have if all had been read from the
// beginning. Then the partition's record says so (a position of its own), and until all partitions of the table's stage
// say it the flow's other inputs wait. A copy that is cut short begins anew: what it has brought does no harm either.

// CopyOf says how a Load begins with the rows that Saves keep.
type CopyOf struct {
	HandOff string
	// Row takes a state apart that a step which keeps rows has for a key: the row's text, nil if there is none, and its event
	// time.
	Row func(state []byte) (text []byte, at time.Time, err error)
}

// copyMark is the name of the position that says that a partition has the copy.
func copyMark(f *Flow, input int) string {
	in := &f.Inputs[input]
	return fmt.Sprintf("%s#copied%d", in.Name, f.Steps[in.Step].Begun)
}

// copiedQuestion asks a partition whether it has a copy, by its mark. It is answered from the store.
var copiedQuestion = question[string, bool]{"copied", false, func(_ context.Context, p *Partition, mark string) (bool, error) {
	return hasCopy(p.ports.Store, mark)
}}

// hasCopy tells whether the partition of a store has a copy.
func hasCopy(store state.Store, mark string) (bool, error) {
	b, err := store.Get([]byte{metaKey})
	if err != nil || b == nil {
		return false, err
	}
	var m proto.Meta
	if err := m.UnmarshalVT(b); err != nil {
		return false, fmt.Errorf("%w: %w", errStore, err)
	}
	pos := findPosition(m.Positions, mark)
	return pos != nil && pos.Sequence > 0, nil
}

// takeCopy applies a chunk of a copy: all of it, or where its input is at its end nothing.
func (p *Partition) takeCopy(ctx context.Context, w *work, c *Chunk) error {
	name := copyMark(p.flow, c.Input)
	pos := findPosition(w.positions, name)
	if pos == nil {
		pos = &proto.Position{Input: name, Created: p.flow.Inputs[c.Input].Created}
		if q := findPosition(p.meta.Positions, name); q != nil {
			pos.Sequence = q.Sequence
		}
		w.positions = append(w.positions, pos)
	}
	if pos.Sequence == 0 {
		for i := range c.Items {
			it := &c.Items[i]
			w.last, w.arrived = it, c.Arrived
			if err := p.apply(ctx, w, it, true); err != nil {
				return err
			}
		}
		w.moved = w.moved || c.To > 0
		pos.Sequence = c.To
	}
	p.queuedRows -= len(c.Items)
	c.Items, c.Bytes = nil, 0
	return nil
}

// errFilling is why an input is not read yet: the flow's tables do not have the rows yet with which they begin.
type errFilling struct {
	handOff string
	rows    *atomic.Int64 // copied so far
	err     error         // what it waits for; may be nil
}

func (e errFilling) Error() string {
	s := fmt.Sprintf("waits until the rows are copied that hand-off %s has kept (%d so far)", e.handOff, e.rows.Load())
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

func (e errFilling) Unwrap() error { return e.err }

// say notes why an input does not go on.
func (d *deal) say(err error) {
	d.mu.Lock()
	d.reason = err
	d.mu.Unlock()
}

// awaitTables waits until the tables of the flow have the rows with which they begin, in all partitions, wherever they are.
func (r *Running) awaitTables(ctx context.Context, d *deal) error {
	f := d.flow
	for i := range f.Inputs {
		in := &f.Inputs[i]
		if in.Copy == nil {
			continue
		}
		mark := copyMark(f, i)
		for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			r.mu.Lock()
			done := r.filled[mark]
			r.mu.Unlock()
			if done {
				break
			}
			done, err := r.allCopied(ctx, f, i)
			if done {
				r.mu.Lock()
				if r.filled == nil {
					r.filled = make(map[string]bool)
				}
				r.filled[mark] = true
				r.mu.Unlock()
				break
			}
			d.say(errFilling{in.Copy.HandOff, &r.copiedRows, err})
			if err := r.system.clock.Sleep(d.reads, wait); err != nil {
				return err
			}
		}
	}
	d.say(nil)
	return nil
}

// allCopied asks all partitions of an input's stage. One that has stopped does not hold up the others.
func (r *Running) allCopied(ctx context.Context, f *Flow, input int) (bool, error) {
	stage, mark := stageName(entryStage(f, f.Inputs[input].Step)), copyMark(f, input)
	for number := range f.partitions(r.system.opt.Partitions) {
		has, err := false, error(nil)
		if c := r.cell(f.partitionName(stage, number)); c != nil && !c.leaving.Load() {
			has, err = hasCopy(c.p.ports.Store, mark)
		} else {
			has, err = copiedQuestion.ask(ctx, r, f.partitionID(stage, number), mark)
		}
		if err != nil || !has {
			return false, err
		}
	}
	return true, nil
}

// copyTable copies the rows for the partitions here, and deals what was saved up to then: the dealer goes on behind the
// place that it returns.
func (r *Running) copyTable(ctx context.Context, d *deal, dealer *Dealer, from uint64) (uint64, error) {
	in := &d.flow.Inputs[d.input]
	missing := false
	var fault error
	dealer.Receivers(func(stage string, number int) {
		c := r.cell(d.flow.partitionName(stage, number))
		if c == nil || c.dead() || fault != nil {
			return
		}
		has := false
		has, fault = hasCopy(c.p.ports.Store, copyMark(d.flow, d.input))
		missing = missing || !has
	})
	if fault != nil || !missing {
		return from, fault
	}
	dealer.Start(from)
	r.log.Info("copying the rows that a hand-off has kept", "hand_off", in.Copy.HandOff, "step", d.flow.Steps[in.Step].Name)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		r.copiedRows.Store(0)
		err := r.copyPages(ctx, d, dealer)
		if err == nil {
			break
		}
		if d.reads.Err() != nil {
			return 0, d.reads.Err()
		}
		d.say(errFilling{in.Copy.HandOff, &r.copiedRows, err})
		if err := r.system.clock.Sleep(d.reads, wait); err != nil {
			return 0, err
		}
	}
	info, err := r.system.streams.Info(ctx, in.Stream)
	if err != nil {
		return 0, fmt.Errorf("input %s: %w", in.Stream, err)
	}
	until := max(from, info.Last)
	if err := r.deliverUntil(ctx, d, dealer, from, until); err != nil {
		return 0, err
	}
	if err := dealer.Idle(ctx, until); err != nil {
		return 0, err
	}
	r.log.Info("copied the rows that a hand-off has kept", "hand_off", in.Copy.HandOff, "step", d.flow.Steps[in.Step].Name, "rows", r.copiedRows.Load())
	return until, dealer.Copied(ctx)
}

// copyPages copies all pages of all partitions of the steps that keep rows of the hand-off.
func (r *Running) copyPages(ctx context.Context, d *deal, dealer *Dealer) error {
	in := &d.flow.Inputs[d.input]
	savers := r.system.savers(in.Copy.HandOff)
	if len(savers) == 0 {
		return fmt.Errorf("%w: no flow that runs saves and keeps them", ErrNoTable)
	}
	for _, s := range savers {
		for _, name := range d.flow.Steps[in.Step].Must {
			if !slices.Contains(s.step.Must, name) {
				return otherKey(s, d.flow.Steps[in.Step].Must)
			}
		}
		from := r.system.Flow(s.flow)
		if from == nil {
			return fmt.Errorf("%w: flow %s does not run", ErrNoTable, s.flow)
		}
		for number := range from.Definition().Partitions {
			for q := (keptPageOf{Step: s.step.Name, Begun: s.step.Begun}); ; {
				if err := d.reads.Err(); err != nil {
					return err
				}
				page, err := keptPageQuestion.ask(ctx, from, from.Definition().partitionID(stageName(s.step.Must), number), q)
				if err == nil {
					err = dealer.copyPage(ctx, page.States)
				}
				if err != nil {
					return err
				}
				r.copiedRows.Add(int64(len(page.States)))
				if q.After = page.Next; q.After == nil {
					break
				}
			}
		}
	}
	return nil
}

// copyPage deals a page of kept rows.
func (d *Dealer) copyPage(ctx context.Context, states []stateAt) error {
	in := &d.flow.Inputs[d.input]
	chunks := make([]*Chunk, len(d.hands))
	for _, s := range states {
		text, at, err := in.Copy.Row(s.State)
		if err != nil {
			return fmt.Errorf("copy of hand-off %s: %w", in.Copy.HandOff, err)
		}
		if text == nil {
			continue
		}
		row, err := kis.ParseRow(text)
		if err != nil {
			return fmt.Errorf("copy of hand-off %s: %w", in.Copy.HandOff, err)
		}
		it := Item{Row: row, Meta: &kis.Meta{Stream: in.Stream, Time: at}, Step: in.Step}
		if d.flow.Time.Field != "" {
			d.date(&it, time.Unix(0, s.Time).UTC())
		}
		n := d.partition(row, in.Stream, 0)
		if d.hands[n].away {
			continue
		}
		if chunks[n] == nil {
			chunks[n] = &Chunk{Input: d.input, Copied: true}
		}
		chunks[n].Items = append(chunks[n].Items, it)
		chunks[n].Bytes += len(text)
	}
	for n, c := range chunks {
		if c == nil {
			continue
		}
		if err := d.to.Deliver(ctx, d.hands[n].stage, d.hands[n].number, c); err != nil {
			return err
		}
	}
	return nil
}

// Copied tells the partitions that they have all of the copy, and what was saved meanwhile.
func (d *Dealer) Copied(ctx context.Context) error {
	for _, h := range d.hands {
		if h.away {
			continue
		}
		if err := d.to.Deliver(ctx, h.stage, h.number, &Chunk{Input: d.input, Copied: true, To: 1}); err != nil {
			return err
		}
	}
	return nil
}
