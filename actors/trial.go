package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// Trial runs flows in one thread and with a clock that moves only when it is told to: for tests of flows, which take
// milliseconds and always come to the same. Its streams must not wait for messages (transport/memory with
// NonBlocking), and must have their time from Now.
type Trial struct {
	ports Ports
	db    state.DB
	opt   Options
	clock *trialClock
	flows []*trialFlow
}

type trialClock struct{ now time.Time }

func (c *trialClock) Now() time.Time { return c.now }

func (c *trialClock) Sleep(ctx context.Context, d time.Duration) error {
	c.now = c.now.Add(d)
	return ctx.Err()
}

type trialFlow struct {
	flow    *Flow
	parts   []*Partition
	dealers []*trialDealer
}

type trialDealer struct {
	d       *Dealer
	r       transport.Reader
	brought time.Time // when its last message came
	told    int64
	idle    bool
}

// NewTrial makes a trial that begins at a time; Start adds flows. Of the ports the Store and the Clock are its own.
func NewTrial(ports Ports, db state.DB, at time.Time, opt Options) *Trial {
	opt = opt.withDefaults()
	opt.eager = true
	return &Trial{ports: ports, db: db, opt: opt, clock: &trialClock{at}}
}

// Now is the trial's time.
func (t *Trial) Now() time.Time { return t.clock.now }

// Start opens a flow's partitions.
func (t *Trial) Start(ctx context.Context, f *Flow) error {
	streams := t.ports.Streams
	if _, err := streams.Ensure(ctx, transport.Config{Name: LogStream(f.Name), Subjects: []string{LogSubjects(f.Name)}}); err != nil {
		return err
	}
	hop, err := streams.Ensure(ctx, transport.Config{Name: HandOffStream(f.Name), Subjects: []string{HandOffSubjects(f.Name)}})
	if err != nil {
		return err
	}
	f.Inputs = slices.DeleteFunc(f.Inputs, func(in Input) bool { return in.Kind == Kept }) // nothing was saved before
	f.Inputs = append(f.Inputs, Input{Kind: HandOff, Name: hop.Name, Stream: hop.Name, Created: hop.Created.UnixNano()})
	tf := &trialFlow{flow: f}
	ports := t.ports
	ports.Clock = t.clock
	if ports.Meter == nil {
		ports.Meter = new(Meter)
	}
	for _, must := range f.Stages() {
		for n := range f.partitions(t.opt.Partitions) {
			if ports.Store, err = t.db.Store(f.partitionName(stageName(must), n)); err != nil {
				return err
			}
			p, err := NewPartition(f, must, n, ports, t.opt)
			if err != nil {
				return err
			}
			if err := p.Open(ctx, nil); err != nil {
				return err
			}
			tf.parts = append(tf.parts, p)
		}
	}
	for i := range f.Inputs {
		d := &trialDealer{d: NewDealer(f, i, f.partitions(t.opt.Partitions), tf), brought: t.clock.now, told: unknown}
		from := f.Inputs[i].Start
		if d.r, err = streams.Read(ctx, f.Inputs[i].Stream, transport.ReadOptions{From: from + 1, Subjects: f.Inputs[i].Filter}); err != nil {
			return err
		}
		d.d.Start(from)
		tf.dealers = append(tf.dealers, d)
	}
	t.flows = append(t.flows, tf)
	return nil
}

// Deliver implements Dealt.
func (f *trialFlow) Deliver(_ context.Context, stage string, number int, c *Chunk) error {
	for _, p := range f.parts {
		if p.stage == stage && p.number == number {
			p.Offer(c)
		}
	}
	return nil
}

// maxTrialRounds bounds Run: flows that feed one another for ever do not come to rest.
const maxTrialRounds = 100_000

// Run handles all that has come in, and all that comes of it. The clock stands still.
func (t *Trial) Run(ctx context.Context) error {
	for range maxTrialRounds {
		moved := false
		for _, f := range t.flows {
			some, err := t.round(ctx, f)
			if err != nil {
				return err
			}
			moved = moved || some
		}
		if !moved {
			return nil
		}
	}
	return errors.New("the flows do not come to rest")
}

// round lets a flow's dealers and partitions do what there is to do.
func (t *Trial) round(ctx context.Context, f *trialFlow) (moved bool, err error) {
	for i, d := range f.dealers {
		ms, err := d.r.Next(ctx, 1000)
		if err == nil {
			err = d.d.Deal(ctx, ms)
		}
		if err != nil {
			return false, fmt.Errorf("flow %s: input %s: %w", f.flow.Name, f.flow.Inputs[i].Stream, err)
		}
		if len(ms) > 0 {
			moved, d.brought = true, t.clock.now
		}
		t.tellTime(f, i)
	}
	for _, p := range f.parts {
		for p.Queued() > 0 {
			moved = true
			if _, err := p.Work(ctx); err != nil {
				return false, err
			}
		}
		if p.timed && p.untold(0) {
			moved = true
			if err := p.Tick(ctx); err != nil {
				return false, err
			}
		}
	}
	return moved, nil
}

// tellTime tells the partitions of an input how far it has come, and whether it is idle.
func (t *Trial) tellTime(f *trialFlow, input int) {
	d, in := f.dealers[input], &f.flow.Inputs[input]
	if in.Kind == HandOff || !f.flow.timed() {
		return
	}
	high, known := d.d.High()
	idle := t.clock.now.Sub(d.brought) > f.flow.Time.withDefaults().Idle
	if (!known || high == d.told) && idle == d.idle {
		return
	}
	d.told, d.idle = high, idle
	f.offer(in, &Chunk{Input: input, Quiet: true, Idle: idle, High: high})
}

// offer gives a chunk to all partitions in which an input's rows start.
func (f *trialFlow) offer(in *Input, c *Chunk) {
	stage := stageName(entryStage(f.flow, in.Step))
	for _, p := range f.parts {
		if p.stage == stage {
			one := *c
			p.Offer(&one)
		}
	}
}

// Advance moves the clock on. What falls due on the way happens at its own time, and in order.
func (t *Trial) Advance(ctx context.Context, d time.Duration) error {
	end := t.clock.now.Add(d)
	for range maxTrialRounds {
		if err := t.tick(ctx); err != nil {
			return err
		}
		next := end
		for _, f := range t.flows {
			for _, p := range f.parts {
				due, err := p.nextDue()
				if err != nil {
					return err
				}
				if at := moment(due); due != endOfTime && at.Before(next) {
					next = at
				}
			}
			for i, dl := range f.dealers {
				at := dl.brought.Add(f.flow.Time.withDefaults().Idle + 1)
				if f.flow.Inputs[i].Kind != HandOff && f.flow.timed() && !dl.idle && at.Before(next) {
					next = at
				}
			}
		}
		if !next.After(t.clock.now) {
			if !t.clock.now.Before(end) {
				return nil
			}
			next = t.clock.now.Add(time.Millisecond) // what is due could not be done yet
		}
		t.clock.now = next
	}
	return errors.New("too much falls due in that time")
}

func (t *Trial) tick(ctx context.Context) error {
	for _, f := range t.flows {
		for _, p := range f.parts {
			if err := p.Tick(ctx); err != nil {
				return err
			}
		}
	}
	return t.Run(ctx)
}

// End ends the entries, and with them all that waits for a time: windows close, timers fire.
func (t *Trial) End(ctx context.Context) error {
	for _, kind := range []InputKind{Entry, Load} {
		for _, f := range t.flows {
			for i := range f.flow.Inputs {
				if in := &f.flow.Inputs[i]; in.Kind == kind {
					f.offer(in, &Chunk{Input: i, Quiet: true, High: endOfTime})
				}
			}
		}
		if err := t.Run(ctx); err != nil {
			return err
		}
	}
	return t.tick(ctx)
}

// Step returns a step of a flow that runs.
func (t *Trial) Step(flow, step string) (*Step, error) {
	f, err := t.flowOf(flow)
	if err != nil {
		return nil, err
	}
	return f.flow.StepOf(step)
}

func (t *Trial) flowOf(name string) (*trialFlow, error) {
	i := slices.IndexFunc(t.flows, func(f *trialFlow) bool { return f.flow.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: flow %q", ErrUnknown, name)
	}
	return t.flows[i], nil
}

// State returns the state of a step's key, or ErrNoState.
func (t *Trial) State(flow, step string, key kis.Key) (KeyState, error) {
	f, err := t.flowOf(flow)
	if err != nil {
		return KeyState{}, err
	}
	s, err := f.flow.StepOf(step)
	if err != nil {
		return KeyState{}, err
	}
	for _, p := range f.parts {
		if p.stage == stageName(s.Must) && p.number == partitionOf(key.Slot(), p.of) {
			return p.State(step, key)
		}
	}
	return KeyState{}, fmt.Errorf("%w: step %q keeps no state by key", ErrUnknown, step)
}

// DeadLetters returns a flow's dead letters and parked rows, partition by partition.
func (t *Trial) DeadLetters(flow string) (all []Letter, err error) {
	f, err := t.flowOf(flow)
	if err != nil {
		return nil, err
	}
	for _, p := range f.parts {
		if err := p.DeadLetters(nil, func(l Letter, _ []byte) bool {
			all = append(all, l)
			return true
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Watermarks explains the watermarks of a flow's steps.
func (t *Trial) Watermarks(flow string) ([]WatermarkStatus, error) {
	f, err := t.flowOf(flow)
	if err != nil {
		return nil, err
	}
	var all []WatermarkStatus
	for _, p := range f.parts {
		all = append(all, p.Watermarks()...)
	}
	return all, nil
}

// nextDue is when the next timer by the clock or the next retry falls due; endOfTime if none is known.
func (p *Partition) nextDue() (int64, error) {
	due := int64(endOfTime)
	for i := range p.steps {
		if !p.steps[i].keyed || p.steps[i].runner == nil {
			continue
		}
		e, _, err := p.timerQueue(i, processingTimers).due(math.MaxInt64, p.ports.Store.Scan)
		if err != nil {
			return 0, err
		}
		if e != "" {
			due = min(due, entryTime(e))
		}
	}
	for _, q := range p.pending.order {
		if d := q.rows[0].due; d != parked {
			due = min(due, d)
		}
	}
	return due, nil
}

// Latest is as that of a System.
func (t *Trial) Latest(_ context.Context, handOff string, must, keys []string, found func(key int, state []byte) error) error {
	some := false
	for _, f := range t.flows {
		for i := range f.flow.Steps {
			s := &f.flow.Steps[i]
			if s.Save != handOff || !s.keeps() {
				continue
			}
			some = true
			if !slices.Equal(s.Must, must) {
				return otherKey(saver{f.flow.Name, s}, must)
			}
			for k, key := range keys {
				for _, p := range f.parts {
					if p.stage != stageName(s.Must) || p.number != partitionOf(kis.SlotOf(key), p.of) {
						continue
					}
					states, err := p.keptStates(s.Name, s.Begun, [][]byte{[]byte(key)})
					if err == nil && states[0] != nil {
						err = found(k, states[0])
					}
					if err != nil {
						return err
					}
				}
			}
		}
	}
	if !some {
		return fmt.Errorf("%w: no flow that runs saves and keeps them", ErrNoTable)
	}
	return nil
}
