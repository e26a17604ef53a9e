package actors

import (
	"bytes"
	"context"
	"fmt"
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
func (p *Partition) CountKeys(name string, limit int) (n int, err error) {
	i := p.stepNamed(name)
	var fault error
	err = p.eachOf(stateKind, name, nil, func(_, v []byte) bool {
		var val proto.Value
		if fault = proto.ParseValue(v, &val); fault != nil {
			return false
		}
		if len(val.State) > 0 && (i < 0 || !p.steps[i].others(&val)) {
			n++
		}
		return n < limit
	})
	if err == nil && fault != nil {
		err = fmt.Errorf("%w: states of %s: %w", errStore, name, fault)
	}
	return n, err
}

// Removal is what a step has left that is no longer part of its flow, or has become another one: with another key,
// or with a state of another form, of which nothing is kept.
type Removal struct {
	Step string
	Must []string // the key that it had
	// Before is the revision from which on the step was gone, or began anew: what was written under it and later is
	// not to be removed. 0: all of it is.
	Before uint64
	// Rows says that the rows that wait at the step go as well: it was taken out, or has another key.
	Rows bool
}

// Remove removes what a step has left here: the states and timers of its keys. The rows that wait at a step that is
// gone become dead letters. Records hold it, some thousand keys each; cut short, it goes on where it was, and where
// nothing is left it does nothing. It returns how many keys lost their state.
func (p *Partition) Remove(ctx context.Context, r Removal) (int, error) {
	if i := p.stepNamed(r.Step); i >= 0 && p.steps[i].here && p.steps[i].traits.Stateful && (r.Before == 0 || r.Before > p.steps[i].Begun) {
		return 0, fmt.Errorf("partition %s: step %s still keeps its state here", p.name, r.Step)
	}
	return p.remove(ctx, r, false)
}

// remove is Remove; a flow that stands has not run since a step of the name is back.
func (p *Partition) remove(ctx context.Context, r Removal, stands bool) (removed int, err error) {
	i := p.stepNamed(r.Step)
	here := i >= 0 && p.steps[i].here
	kinds := []byte{stateKind, pendingKind}
	if !here {
		kinds = append(kinds, timerKind) // those whose keys have no value any more, if there are any
	}
	for _, kind := range kinds {
		for more, from := true, []byte(nil); more; {
			w := p.begin()
			more = false
			size, keys := 0, 0
			var fault error
			take := func(k, v []byte) bool {
				if keys >= removeKeys || size >= copyBytes {
					more, from = true, bytes.Clone(k)
					return false
				}
				switch kind {
				case stateKind:
					var has, ours bool
					if has, ours, fault = p.dropValue(w, r, k, v); fault != nil {
						return false
					}
					if !ours {
						return true
					}
					if has {
						removed++
					}
				case pendingKind:
					if here && !p.waitsForFormer(r, &p.steps[i], k, stands) {
						return true
					}
					size += len(v)
					if fault = p.unwait(w, r.Step, v); fault != nil {
						return false
					}
				}
				keys++
				w.put(bytes.Clone(k), nil)
				return true
			}
			if kind == timerKind {
				for domain := byte(0); domain < timerDomains && !more && err == nil; domain++ {
					prefix := timerPrefix(domain, r.Step)
					err = p.ports.Store.Scan(prefix, keyAfter(prefix), take)
				}
			} else {
				err = p.eachOf(kind, r.Step, from, take)
			}
			if err == nil {
				err = fault
			}
			if err == nil && keys > 0 {
				err = p.finish(ctx, w)
			}
			if err != nil {
				return removed, err
			}
		}
	}
	p.instances.clear() // some may be of values that are gone
	if err := p.lookForStates(); err != nil {
		return removed, err
	}
	return removed, p.loadPending()
}

// dropValue removes the timers of a value that is to be removed with its key. It tells whether it is, and whether it has
// a state.
func (p *Partition) dropValue(w *work, r Removal, k, v []byte) (has, ours bool, err error) {
	var val proto.Value
	if err := proto.ParseValue(v, &val); err != nil {
		return false, false, fmt.Errorf("%w: a state of %s: %w", errStore, r.Step, err)
	}
	if r.Before != 0 && val.Revision >= r.Before {
		return false, false, nil
	}
	if has = len(val.State) > 0; has {
		w.newKeys--
	}
	_, key, err := parseInstanceKey(k)
	if err != nil {
		return false, false, fmt.Errorf("%w: %w", errStore, err)
	}
	for _, t := range decodeTimers(val.Timers) {
		w.put(appendTimerEntry(timerPrefix(t.domain, r.Step), t.queued, slotOf(key), string(key)), nil)
	}
	return has, true, nil
}

// waitsForFormer tells whether a row that waits at a step that is here is one of the former step's. Rows of a step
// without a key wait under their event's place, which is no key.
func (p *Partition) waitsForFormer(r Removal, s *step, k []byte, stands bool) bool {
	_, key, _, err := parsePendingKey(k)
	if err != nil {
		return false // whoever reads them says so
	}
	_, err = kis.KeyFromCanonical(s.Must, string(key))
	switch fits := err == nil; {
	case !r.Rows:
		return false
	case !s.keyed:
		_, err := kis.KeyFromCanonical(r.Must, string(key))
		return len(r.Must) > 0 && err == nil
	case !fits:
		return true
	}
	return stands && stageName(r.Must) == s.stage // it was taken out, and is back
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
	f := r.Definition()
	s, err := f.StepOf(step)
	if err != nil {
		return 0, err
	}
	n := 0
	for number := 0; number < f.Partitions && n < limit; number++ {
		k, err := countKeysQuestion.ask(ctx, r, f.partitionID(stageName(s.Must), number), countOf{step, limit - n})
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

// Remove removes what a step has left in the stage of its former key: see Partition.Remove.
func (r *Running) Remove(ctx context.Context, what Removal) (removed int, err error) {
	if len(what.Must) > 0 {
		if err := r.openStages(ctx, [][]string{what.Must}, false); err != nil {
			return 0, err
		}
	}
	for _, c := range r.all() {
		if len(what.Must) > 0 && c.stage != stageName(what.Must) {
			continue
		}
		if err := c.ask(ctx, func(p *Partition) error {
			n, err := p.Remove(r.ctx, what)
			removed += n
			return err
		}); err != nil {
			return removed, fmt.Errorf("partition %s: %w", c.name, err)
		}
	}
	return removed, nil
}

// Remove is Running.Remove for a flow that does not run: it takes the partitions over for the time that it takes.
func (s *System) Remove(ctx context.Context, f *Flow, what Removal) (removed int, err error) {
	if s.Flow(f.Name) != nil {
		return 0, fmt.Errorf("flow %s runs", f.Name)
	}
	if err := s.ensure(ctx, f); err != nil {
		return 0, err
	}
	stages := [][]string{what.Must}
	if len(what.Must) == 0 { // its rows may wait anywhere
		if stages, err = s.everyStage(f); err != nil {
			return 0, err
		}
	}
	for _, must := range stages {
		for number := range f.Partitions {
			p, err := s.takeOver(ctx, f, must, number) // its store may hold less than its log, or nothing
			if err != nil {
				return removed, err
			}
			n, err := p.remove(ctx, what, true)
			if removed += n; err != nil {
				return removed, fmt.Errorf("partition %s: %w", p.name, err)
			}
		}
	}
	return removed, nil
}

// takeOver opens a partition of a flow that does not run.
func (s *System) takeOver(ctx context.Context, f *Flow, must []string, number int) (*Partition, error) {
	name := f.partitionName(stageName(must), number)
	store, err := s.db.Store(name)
	if err != nil {
		return nil, fmt.Errorf("partition %s: %w", name, err)
	}
	p, err := NewPartition(f, must, number, Ports{s.streams, s.objects, store, s.clock, s.log, s.meter, nil}, s.opt)
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

// formerPartitions calls f for the partitions that are still there of stages that a flow has no more.
func (s *System) formerPartitions(flow *Flow, f func(partition, stage string) error) error {
	names, err := s.db.Partitions()
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, must := range flow.Stages() {
		known[stageName(must)] = true
	}
	for _, name := range names {
		id, ok := parsePartitionName(name)
		if !ok || id.Flow != flow.Name || id.Generation != max(1, flow.Generation) || known[id.Stage] {
			continue
		}
		if err := f(name, id.Stage); err != nil {
			return fmt.Errorf("partition %s: %w", name, err)
		}
	}
	return nil
}

// formerStage is the key fields of a stage that a flow has no more: its name is all that counts of them.
func formerStage(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// everyStage returns the key fields of the stages that a flow has, and of those of which partitions are still there.
func (s *System) everyStage(f *Flow) ([][]string, error) {
	all := f.Stages()
	seen := make(map[string]bool)
	err := s.formerPartitions(f, func(_, stage string) error {
		if !seen[stage] {
			all = append(all, formerStage(stage))
		}
		seen[stage] = true
		return nil
	})
	return all, err
}

// openLeft opens the partitions of stages that the flow has no more, where dead letters or waiting rows are left: people
// still have to do with those. Whoever takes a stage out of a flow flushes the stores afterwards: they are what is
// looked at.
func (r *Running) openLeft(ctx context.Context) error {
	var left [][]string
	seen := make(map[string]bool)
	err := r.system.formerPartitions(r.Definition(), func(partition, stage string) error {
		store, err := r.system.db.Store(partition)
		if err != nil || seen[stage] {
			return err
		}
		for _, kind := range []byte{deadKind, pendingKind} {
			if err := store.Scan([]byte{kind}, []byte{kind + 1}, func(_, _ []byte) bool {
				if !seen[stage] {
					left = append(left, formerStage(stage))
				}
				seen[stage] = true
				return false
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(left) == 0 {
		return err
	}
	return r.openStages(ctx, left, false)
}
