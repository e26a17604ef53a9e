package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// Tables. A Save whose function is stateful keeps rows: the state of a key is the latest row that was saved of it. Other
// flows ask for such states (Latest) or copy all of them (Page). What they get is committed: it is read from the
// partition's store beside its work, so nobody waits for a partition that is busy or that waits itself, and two flows may
// ask each other.
//
// A Save that has saved rows before it keeps any takes them in from its own hand-off, as far as that still has them: the
// flow has an input for it, of kind Kept, which ends when it is at the place where the hand-off stood when it began.
// Until then nobody gets an answer.

// ErrNoTable means that nobody can answer now for the rows that were saved to a hand-off.
var ErrNoTable = errors.New("its rows cannot be asked for now")

// endOfInput is the position of an input that has ended.
const endOfInput = 1 << 62

// keeps tells whether the step keeps the rows that it saves.
func (s *Step) keeps() bool { return s.Save != "" && s.Function.Traits().Stateful }

// The questions about kept rows, which are answered beside the partition's work.
var (
	keptQuestion = question[keptOf, [][]byte]{"kept", false, func(_ context.Context, p *Partition, q keptOf) ([][]byte, error) {
		return p.keptStates(q.Step, q.Begun, q.Keys)
	}}
	keptPageQuestion = question[keptPageOf, keptPage]{"kept page", false, func(_ context.Context, p *Partition, q keptPageOf) (keptPage, error) {
		return p.keptPage(q.Step, q.Begun, q.After)
	}}
)

// beside are the questions that are not answered in the partition's turn.
func beside(question string) bool {
	return question == keptQuestion.name || question == keptPageQuestion.name
}

type (
	// keptOf asks for the states that keys, which are canonical, have at a step: nil for those that have none.
	keptOf struct {
		Step  string
		Begun uint64 // Step.Begun, as who asks knows it
		Keys  [][]byte
	}
	// keptPageOf asks for the states of a step, in the store's order, from behind a place (nil: from the first one).
	keptPageOf struct {
		Step  string
		Begun uint64
		After []byte
	}
	// keptPage is a page of them. The next one begins behind Next; nil: there is none.
	keptPage struct {
		States []stateAt
		Next   []byte
	}
	stateAt struct {
		State []byte
		Time  int64 // when it was changed last: of the commit, unix nanoseconds
	}
)

// Bounds of a page.
const (
	pageStates = 500
	pageBytes  = 512 << 10
)

// Latest calls found with the states that keys have at the steps that save to a hand-off and keep rows: with the place of
// the key, and with every state that it has, one for each of these steps. Must are the fields of the keys, which are
// canonical.
func (s *System) Latest(ctx context.Context, handOff string, must, keys []string, found func(key int, state []byte) error) error {
	savers := s.savers(handOff)
	if len(savers) == 0 {
		return fmt.Errorf("%w: no flow that runs saves and keeps them", ErrNoTable)
	}
	for _, at := range savers {
		if err := s.latestOf(ctx, at, must, keys, found); err != nil {
			return err
		}
	}
	return nil
}

// saver is a step that keeps the rows that it saves.
type saver struct {
	flow string
	step *Step
}

func (s *System) savers(handOff string) []saver {
	var all []saver
	for _, r := range s.Running() {
		f := r.Definition()
		for i := range f.Steps {
			if f.Steps[i].Save == handOff && f.Steps[i].keeps() {
				all = append(all, saver{f.Name, &f.Steps[i]})
			}
		}
	}
	return all
}

func (s *System) latestOf(ctx context.Context, at saver, must, keys []string, found func(key int, state []byte) error) error {
	if !slices.Equal(at.step.Must, must) {
		return otherKey(at, must)
	}
	r := s.Flow(at.flow)
	if r == nil {
		return fmt.Errorf("%w: flow %s does not run", ErrNoTable, at.flow)
	}
	f := r.Definition()
	places := make([][]int, f.Partitions)
	for i, k := range keys {
		n := partitionOf(kis.SlotOf(k), len(places))
		places[n] = append(places[n], i)
	}
	for n, of := range places {
		if len(of) == 0 {
			continue
		}
		q := keptOf{at.step.Name, at.step.Begun, make([][]byte, len(of))}
		for i, k := range of {
			q.Keys[i] = []byte(keys[k])
		}
		states, err := keptQuestion.ask(ctx, r, f.partitionID(stageName(must), n), q)
		if err != nil {
			return err
		}
		for i, state := range states {
			if state == nil {
				continue
			}
			if err := found(of[i], state); err != nil {
				return err
			}
		}
	}
	return nil
}

func otherKey(at saver, must []string) error {
	return fmt.Errorf("%w: flow %s keeps them by %s now, and they are asked for by %s", ErrNoTable, at.flow, strings.Join(at.step.Must, ", "), strings.Join(must, ", "))
}

// peek answers a question beside the partition's turn.
func (c *cell) peek(f func(*Partition) error) error {
	switch {
	case c.dead():
		return fmt.Errorf("%w: partition %s has stopped: %w", ErrNoTable, c.name, c.why())
	case c.leaving.Load():
		return errLeft
	case cellState(c.state.Load()) != cellRunning:
		return fmt.Errorf("%w: partition %s recovers", ErrNoTable, c.name)
	}
	return f(c.p)
}

// keptStates may be called by anybody at any time, once the partition is open.
func (p *Partition) keptStates(step string, begun uint64, keys [][]byte) ([][]byte, error) {
	begun, err := p.keptSince(step, begun)
	if err != nil {
		return nil, err
	}
	states := make([][]byte, len(keys))
	var room [256]byte
	for i, k := range keys {
		b, err := p.ports.Store.Get(append(appendInstanceKey(room[:0], stateKind, slotOf(k), step, nil), k...))
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w: %w", p.name, errStore, err)
		}
		if b == nil {
			continue
		}
		var v proto.Value
		if err := proto.ParseValue(b, &v); err != nil {
			return nil, fmt.Errorf("partition %s: %w: %w", p.name, errStore, err)
		}
		if len(v.State) > 0 && v.Revision >= begun {
			states[i] = v.State // of b, which is ours
		}
	}
	return states, nil
}

// keptPage may be called like keptStates.
func (p *Partition) keptPage(step string, begun uint64, after []byte) (page keptPage, err error) {
	if begun, err = p.keptSince(step, begun); err != nil {
		return page, err
	}
	var from []byte
	if after != nil {
		from = append(bytes.Clone(after), 0)
	}
	var fault error
	size := 0
	err = p.eachOf(stateKind, step, from, func(k, b []byte) bool {
		var v proto.Value
		if fault = proto.ParseValue(b, &v); fault != nil {
			return false
		}
		if len(v.State) > 0 && v.Revision >= begun {
			page.States = append(page.States, stateAt{bytes.Clone(v.State), v.Time})
			size += len(v.State)
		}
		if len(page.States) >= pageStates || size >= pageBytes {
			page.Next = bytes.Clone(k)
			return false
		}
		return true
	})
	if err == nil && fault != nil {
		err = fmt.Errorf("%w: %w", errStore, fault)
	}
	if err != nil {
		return keptPage{}, fmt.Errorf("partition %s: %w", p.name, err)
	}
	return page, nil
}

// keptSince is the revision with which a step began to keep rows, no earlier than the one that who asks knows of. The error
// tells why it cannot be asked now. Anybody may call it.
func (p *Partition) keptSince(step string, begun uint64) (uint64, error) {
	kept := p.kept.Load()
	if kept != nil {
		for _, k := range *kept {
			if k.step == step && k.begun >= begun {
				if k.fills {
					return 0, fmt.Errorf("%w: step %s takes in what was saved before", ErrNoTable, step)
				}
				return k.begun, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: partition %s is about to keep them", ErrNoTable, p.name)
}

// keptStep is a step of the partition that keeps rows, as others may know it.
type keptStep struct {
	step  string
	begun uint64
	fills bool // it still takes in what was saved before it kept rows
}

// noteKept notes which steps keep rows. It is called when the partition is open, and when that may have changed.
func (p *Partition) noteKept() {
	var all []keptStep
	for i := range p.steps {
		if s := &p.steps[i]; s.here && s.keyed && s.keeps() {
			all = append(all, keptStep{s.Name, s.Begun, p.fills(i)})
		}
	}
	p.kept.Store(&all)
}

// fills tells whether a step still takes in what was saved before it kept rows.
func (p *Partition) fills(step int) bool {
	for i := range p.flow.Inputs {
		if in := &p.flow.Inputs[i]; in.Kind == Kept && in.Step == step && p.Sequence(i) < endOfInput {
			return true
		}
	}
	return false
}

// filling tells whether any step does, as far as others know.
func (p *Partition) filling() bool {
	kept := p.kept.Load()
	return kept == nil || slices.ContainsFunc(*kept, func(k keptStep) bool { return k.fills })
}

// refillPatience is how long a message of a hand-off is waited for that may have been removed.
const refillPatience = 2 * time.Second

// refill takes in what a step has saved before it kept rows: what its hand-off has when this begins. It returns when
// that is in, or was in before.
func (r *Running) refill(ctx context.Context, d *deal) error {
	in := &d.flow.Inputs[d.input]
	for _, c := range r.all() {
		if c.dead() || cellState(c.state.Load()) == cellOpening { // what its records hold may not be stored yet
			return fmt.Errorf("input %s: partition %s is not open", in.Stream, c.name)
		}
	}
	info, err := r.system.streams.Info(ctx, in.Stream)
	if err != nil {
		return fmt.Errorf("input %s: %w", in.Stream, err)
	}
	dealer := r.newDealer(d.flow, d.input)
	from := uint64(endOfInput)
	var fault error
	dealer.Receivers(func(stage string, number int) {
		c := r.cellAt(stage, number)
		if c == nil || fault != nil {
			return
		}
		var at uint64 // of this question alone
		if fault = c.ask(ctx, func(p *Partition) error { at = p.Sequence(d.input); return nil }); fault == nil {
			from = min(from, at)
		}
	})
	if fault != nil || from == endOfInput {
		return fault
	}
	if from > info.Last {
		from = 0 // it is another stream
	}
	d.dealt.Store(from)
	dealer.Start(from)
	if err := r.deliverUntil(ctx, d, dealer, from, info.Last); err != nil {
		return err
	}
	return dealer.End(ctx)
}

// deliverUntil deals a stream up to a place.
func (r *Running) deliverUntil(ctx context.Context, d *deal, dealer *Dealer, from, until uint64) error {
	in := &d.flow.Inputs[d.input]
	for seen := from; seen < until; {
		info, err := r.system.streams.Info(ctx, in.Stream)
		if err != nil {
			return fmt.Errorf("input %s: %w", in.Stream, err)
		}
		if info.First > until || info.First > info.Last {
			break // nothing is left up to there
		}
		if seen, err = r.deliverSome(ctx, d, dealer, max(seen+1, info.First), until); err != nil {
			return err
		}
	}
	d.dealt.Store(until)
	return nil
}

// deliverSome deals until it is at the place, or nothing comes for a while: messages in between may have been removed.
func (r *Running) deliverSome(ctx context.Context, d *deal, dealer *Dealer, from, until uint64) (seen uint64, err error) {
	in := &d.flow.Inputs[d.input]
	rd, err := r.system.streams.Read(ctx, in.Stream, transport.ReadOptions{From: from, Holes: in.Kind == Kept})
	if err != nil {
		return 0, fmt.Errorf("input %s: %w", in.Stream, err)
	}
	defer rd.Close()
	for seen = from - 1; seen < until; {
		limit, cancel := context.WithTimeout(d.reads, refillPatience)
		ms, err := rd.Next(limit, 1000)
		cancel()
		if d.reads.Err() != nil {
			return seen, d.reads.Err()
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return seen, fmt.Errorf("input %s: %w", in.Stream, err)
		}
		for n := len(ms); n > 0 && ms[n-1].Sequence > until; n = len(ms) {
			ms = ms[:n-1]
			seen = until
		}
		if len(ms) == 0 {
			break
		}
		if err := dealer.Deal(ctx, ms); err != nil {
			return seen, err
		}
		seen = max(seen, ms[len(ms)-1].Sequence)
		d.dealt.Store(seen)
	}
	return seen, nil
}
