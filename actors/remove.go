package actors

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
)

// Bounds of one record of a removal or of a copy.
const (
	removeKeys = 5_000
	copyBytes  = 512 << 10
)

// eachOf calls f for the keys of a step in the store, of one kind, from a place on (nil: all), until f returns
// false.
func (p *Partition) eachOf(kind byte, step string, from []byte, f func(k, v []byte) bool) error {
	if from == nil {
		from = []byte{kind}
	}
	var fault error
	for from != nil {
		var next []byte
		err := p.ports.Store.Scan(from, []byte{kind + 1}, func(k, v []byte) bool {
			name, _, err := parseInstanceKey(k)
			if err != nil {
				fault = err
				return false
			}
			if name == step {
				return f(k, v)
			}
			// on to this step's keys in this slot, or to the next slot
			slot := int(k[1])<<8 | int(k[2])
			next = appendInstanceKey(nil, kind, uint16(slot), step, nil)
			if bytes.Compare(next, k) <= 0 {
				if slot++; slot == kis.Slots {
					next = nil
					return false
				}
				next = appendInstanceKey(nil, kind, uint16(slot), step, nil)
			}
			return false
		})
		if err == nil {
			err = fault
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		from = next
	}
	return nil
}

// CountKeys counts the keys of a step that have a state here, up to a limit.
func (p *Partition) CountKeys(step string, limit int) (n int, err error) {
	err = p.eachOf(stateKind, step, nil, func(_, _ []byte) bool {
		n++
		return n < limit
	})
	return n, err
}

// RemoveStep removes what a step has left here that no longer runs here, or keeps no state any more: the states and timers
// of its keys. The rows that wait at a step that is gone become dead letters. Records hold it, some thousand keys
// each; cut short, it goes on where it was. It returns how many keys lost their state.
func (p *Partition) RemoveStep(ctx context.Context, step string) (int, error) {
	i := p.stepNamed(step)
	here := i >= 0 && p.steps[i].here
	if here && p.steps[i].traits.Stateful {
		return 0, fmt.Errorf("partition %s: step %s still keeps its state here", p.name, step)
	}
	return p.removeStep(ctx, step, !here)
}

func (p *Partition) removeStep(ctx context.Context, step string, waiting bool) (removed int, err error) {
	kinds := []byte{stateKind, timerKind}
	if waiting {
		kinds = append(kinds, pendingKind)
	}
	for _, kind := range kinds {
		for more, from := true, []byte(nil); more; {
			w := p.begin()
			more = false
			size := 0
			var fault error
			take := func(k, v []byte) bool {
				if len(w.keys) >= removeKeys || size >= copyBytes {
					more, from = true, bytes.Clone(k)
					return false
				}
				switch kind {
				case stateKind:
					w.newKeys--
					removed++
				case pendingKind:
					size += len(v)
					if fault = p.unwait(w, step, v); fault != nil {
						return false
					}
				}
				w.put(bytes.Clone(k), nil)
				return true
			}
			if kind == timerKind {
				for domain := byte(0); domain < timerDomains && !more && err == nil; domain++ {
					prefix := timerPrefix(domain, step)
					err = p.ports.Store.Scan(prefix, keyAfter(prefix), take)
				}
			} else {
				err = p.eachOf(kind, step, from, take)
			}
			if err == nil {
				err = fault
			}
			if err == nil && len(w.keys) > 0 {
				err = p.finish(ctx, w)
			}
			if err != nil {
				return removed, err
			}
		}
	}
	return removed, p.loadPending()
}

// unwait makes a row that waits at a step a dead letter.
func (p *Partition) unwait(w *work, step string, value []byte) error {
	r := new(proto.Pending)
	if err := r.UnmarshalVT(value); err != nil {
		return fmt.Errorf("%w: waiting row: %w", errStore, err)
	}
	d := &proto.DeadLetter{Step: step, Data: r.Row, Attempts: r.Attempts, Reason: "the step was taken out of the flow while the row waited at it"}
	if r.Reason != "" {
		d.Reason += ": " + r.Reason
	}
	p.dead(w, d, pendingMeta(r))
	return nil
}

// CountKeys counts the keys of a step that have a state, up to a limit.
func (r *Running) CountKeys(ctx context.Context, step string, limit int) (int, error) {
	s, err := r.Definition().StepOf(step)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, c := range r.all() {
		if c.stage != stageName(s.Must) || n >= limit {
			continue
		}
		if err := c.query(ctx, func(p *Partition) error {
			k, err := p.CountKeys(step, limit-n)
			n += k
			return err
		}); err != nil {
			return n, err
		}
	}
	return n, nil
}

// RemoveStep removes what a step has left in the stage of its key that is no longer part of the flow, or has another
// key now: see Partition.RemoveStep.
func (r *Running) RemoveStep(ctx context.Context, step string, must []string) (removed int, err error) {
	if len(must) > 0 {
		if err := r.openStages(ctx, [][]string{must}, false); err != nil {
			return 0, err
		}
	}
	for _, c := range r.all() {
		if len(must) > 0 && c.stage != stageName(must) {
			continue
		}
		if err := c.ask(ctx, func(p *Partition) error {
			n, err := p.RemoveStep(r.ctx, step)
			removed += n
			return err
		}); err != nil {
			return removed, fmt.Errorf("partition %s: %w", c.name, err)
		}
	}
	return removed, nil
}

// RemoveStep is Running.RemoveStep for a flow that does not run: it takes the partitions over for the time that it
// takes, and works for a step that is part of the flow as well.
func (s *System) RemoveStep(ctx context.Context, f *Flow, step string, must []string) (removed int, err error) {
	if s.Flow(f.Name) != nil {
		return 0, fmt.Errorf("flow %s runs", f.Name)
	}
	if err := s.ensure(ctx, f); err != nil {
		return 0, err
	}
	stages := [][]string{must}
	if len(must) == 0 { // its rows may wait anywhere
		stages = f.Stages()
		if !slices.ContainsFunc(stages, func(m []string) bool { return len(m) == 0 }) {
			stages = append(stages, nil)
		}
	}
	for _, must := range stages {
		for number := range s.opt.Partitions {
			p, err := s.takeOver(ctx, f, must, number) // its store may hold less than its log, or nothing
			if err != nil {
				return removed, err
			}
			n, err := p.removeStep(ctx, step, true)
			if removed += n; err != nil {
				return removed, fmt.Errorf("partition %s: %w", p.name, err)
			}
		}
	}
	return removed, nil
}

// takeOver opens a partition of a flow that does not run.
func (s *System) takeOver(ctx context.Context, f *Flow, must []string, number int) (*Partition, error) {
	name := PartitionName(f.Name, stageName(must), number)
	store, err := s.db.Store(name)
	if err != nil {
		return nil, fmt.Errorf("partition %s: %w", name, err)
	}
	p, err := NewPartition(f, must, number, Ports{s.streams, s.objects, store, s.clock, s.log, s.meter}, s.opt)
	if err != nil {
		return nil, err
	}
	return p, p.Open(ctx, func(*Partition, uint64, uint64) {})
}

// Copy makes the partitions of another flow with the states, timers, waiting rows and places in the inputs that those of
// a running one have, at one moment: the running flow finishes what has come in, and stands still meanwhile. The
// other flow does not run yet, has the same steps, and nothing is left of a former one of its name. Dead letters
// are not copied. At that moment it calls at.
func (s *System) Copy(ctx context.Context, from *Running, f *Flow, at func() error) (keys int, took time.Duration, err error) {
	if s.Flow(f.Name) != nil {
		return 0, 0, fmt.Errorf("flow %s runs already", f.Name)
	}
	if err := s.ensure(ctx, f); err != nil {
		return 0, 0, err
	}
	start := s.clock.Now()
	err = from.hold(ctx, func() error {
		if err := at(); err != nil {
			return err
		}
		for _, c := range from.all() {
			to, err := s.takeOver(ctx, f, c.must, c.number)
			if err != nil {
				return err
			}
			if err := c.ask(ctx, func(p *Partition) error { return to.copyOf(ctx, p) }); err != nil {
				return fmt.Errorf("partition %s: copy: %w", c.name, err)
			}
			keys += int(max(0, to.meta.StateKeys))
		}
		return nil
	})
	return keys, s.clock.Now().Sub(start), err
}

// hold calls f while the flow stands still: all that has come in is done, and nothing else comes.
func (r *Running) hold(ctx context.Context, f func() error) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.held.Store(true)
	defer r.held.Store(false)
	defer func() {
		r.undeal()
		r.deal(nil)
	}()
	if err := r.Drain(ctx); err != nil {
		return fmt.Errorf("flow %s: drain: %w", r.name, err)
	}
	r.undeal()
	return f()
}

// copyOf fills a partition that is new with what another one of the same stage holds.
func (p *Partition) copyOf(ctx context.Context, from *Partition) error {
	if p.meta.StateKeys != 0 || len(p.meta.Positions) > 0 {
		return fmt.Errorf("partition %s is not empty", p.name)
	}
	for _, kind := range []byte{stateKind, pendingKind, timerKind} {
		for place := []byte{kind}; place != nil; {
			var changes []state.Change
			size := 0
			var next []byte
			err := from.ports.Store.Scan(place, []byte{kind + 1}, func(k, v []byte) bool {
				if size >= copyBytes {
					next = bytes.Clone(k)
					return false
				}
				changes = append(changes, state.Change{Key: bytes.Clone(k), Value: bytes.Clone(v)})
				size += len(k) + len(v)
				return true
			})
			if err != nil {
				return fmt.Errorf("%w: %w", errStore, err)
			}
			if len(changes) > 0 {
				if err := p.copied(ctx, kind, changes, nil); err != nil {
					return err
				}
			}
			place = next
		}
	}
	return p.copied(ctx, 0, nil, from)
}

// copied commits a part of a copy; at its end the places in the inputs, and the watermarks.
func (p *Partition) copied(ctx context.Context, kind byte, changes []state.Change, end *Partition) error {
	r := &proto.Record{Format: 1, Kind: proto.Kind_COMMIT, Epoch: p.meta.Epoch, Number: p.meta.Number + 1,
		Revision: p.flow.Revision, Time: p.ports.Clock.Now().UnixNano()}
	for _, c := range changes {
		r.Keys, r.Values = append(r.Keys, c.Key), append(r.Values, c.Value)
	}
	if kind == stateKind {
		r.NewKeys = int64(len(changes))
	}
	if end != nil {
		own := HandOffStream(end.flow.Name)
		for _, pos := range end.meta.Positions {
			if pos.Input == own {
				continue // the copy's own partitions number their hand-offs anew
			}
			c := new(proto.Position)
			b, err := pos.MarshalVT()
			if err == nil {
				err = c.UnmarshalVT(b)
			}
			if err != nil {
				return err
			}
			r.Positions = append(r.Positions, c)
		}
		for _, m := range end.meta.Watermarks {
			r.Watermarks = append(r.Watermarks, &proto.Watermark{Step: m.Step, Time: m.Time})
		}
	}
	at, err := p.commit(ctx, r)
	if err != nil {
		return err
	}
	return p.install(r, at)
}

// openLeft opens the partitions of stages that the flow has no more, where dead letters or waiting rows are left: people
// still have to do with those. Whoever takes a stage out of a flow flushes the stores afterwards: they are what is
// looked at.
func (r *Running) openLeft(ctx context.Context) error {
	names, err := r.system.db.Partitions()
	if err != nil {
		return err
	}
	f := r.Definition()
	var left [][]string
	known := make(map[string]bool)
	for _, must := range f.Stages() {
		known[stageName(must)] = true
	}
	for _, name := range names {
		stage, _, ok := cutLast(strings.TrimPrefix(name, f.Name+"/"), '/')
		stage = strings.ReplaceAll(stage, "=2F", "/")
		if FlowOfPartition(name) != f.Name || !ok || known[stage] {
			continue
		}
		store, err := r.system.db.Store(name)
		if err != nil {
			return err
		}
		for _, kind := range []byte{deadKind, pendingKind} {
			if err := store.Scan([]byte{kind}, []byte{kind + 1}, func(_, _ []byte) bool {
				if !known[stage] {
					left = append(left, []string{stage}) // its name is all that counts of it
				}
				known[stage] = true
				return false
			}); err != nil {
				return fmt.Errorf("partition %s: %w", name, err)
			}
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.openStages(ctx, left, false)
}
