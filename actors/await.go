package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// OriginMark is the mark of the partition that a message of an output stream comes from; "" if it comes from none.
func OriginMark(m transport.Message) string {
	mark, _, _ := cutLast(m.Get(originHeader), ' ')
	return mark
}

// Marks are those of the flow's partitions: what its outputs carry (OriginMark).
func (r *Running) Marks(ctx context.Context) (map[string]bool, error) {
	marks := make(map[string]bool)
	for _, at := range r.places() {
		m, err := markQuestion.ask(ctx, r, at, struct{}{})
		if err != nil {
			return nil, err
		}
		marks[m] = true
	}
	return marks, nil
}

// Newest is, for each of the flow's inputs by name, the sequence of its newest message.
func (r *Running) Newest(ctx context.Context) (map[string]uint64, error) {
	f := r.Definition()
	marks := make(map[string]uint64)
	for i := range f.Inputs {
		in := &f.Inputs[i]
		if in.Kind == HandOff || in.Kind == Kept {
			continue
		}
		n, err := r.newest(ctx, in.Stream, in.Filter)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", in.Stream, err)
		}
		marks[in.Name] = n
	}
	return marks, nil
}

// Await waits until everything up to the given places of the flow's inputs has had its effect: in the states, in the
// outputs, and in the stages behind the first ones.
func (r *Running) Await(ctx context.Context, marks map[string]uint64) error {
	if err := r.past(ctx, marks); err != nil {
		return err
	}
	for range len(r.Definition().Stages()) { // each of them may hand on what the one before it has brought
		hop := HandOffStream(r.name)
		info, err := r.system.streams.Info(ctx, hop)
		if err != nil {
			return err
		}
		if err := r.past(ctx, map[string]uint64{hop: info.Last}); err != nil {
			return err
		}
	}
	return nil
}

// past waits until what stands in inputs up to some places waits no more.
func (r *Running) past(ctx context.Context, marks map[string]uint64) error {
	for {
		done, err := r.isPast(ctx, marks)
		if done || err != nil {
			return err
		}
		if err := r.system.clock.Sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("flow %s has not caught up: %w", strings.TrimSpace(r.name), err)
		}
	}
}

func (r *Running) isPast(ctx context.Context, marks map[string]uint64) (bool, error) {
	r.mu.Lock()
	deals := append([]*deal(nil), r.deals...)
	r.mu.Unlock()
	inputs := make(map[int]uint64)
	for _, d := range deals {
		in := &d.flow.Inputs[d.input]
		at, asked := marks[in.Name]
		if !asked {
			continue
		}
		d.mu.Lock()
		reason := d.reason
		d.mu.Unlock()
		if errors.Is(reason, ErrInput) {
			return false, reason
		}
		if d.dealt.Load() < at {
			return false, nil
		}
		inputs[d.input] = at
	}
	// What was dealt is in the mailboxes, ahead of the question.
	for _, c := range r.all() {
		if c.dead() {
			return false, fmt.Errorf("partition %s has stopped: %w", c.name, c.why())
		}
		waits := false
		if err := c.query(ctx, func(p *Partition) error {
			for _, k := range p.queue {
				at, asked := inputs[k.Input]
				waits = waits || asked && k.After < at
			}
			return nil
		}); err != nil {
			return false, err
		}
		if waits {
			return false, nil
		}
	}
	return true, nil
}

// StatesOf returns the committed states of some keys of a step, those that have one: with one question to each
// partition.
func (r *Running) StatesOf(ctx context.Context, step string, keys []kis.Key) (map[string]KeyState, error) {
	f := r.Definition()
	s, err := f.StepOf(step)
	if err != nil {
		return nil, err
	}
	of := make(map[PartitionID][][]byte)
	for _, k := range keys {
		id := f.ownerOf(s, k.Slot())
		of[id] = append(of[id], []byte(k.Canonical()))
	}
	states := make(map[string]KeyState, len(keys))
	for number := range f.Partitions {
		id := f.partitionID(stageName(s.Must), number)
		if len(of[id]) == 0 {
			continue
		}
		found, err := statesOfQuestion.ask(ctx, r, id, statesOf{step, of[id]})
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			e, err := k.of(s)
			if err != nil {
				return nil, err
			}
			states[e.Key.Canonical()] = e
		}
	}
	return states, nil
}
