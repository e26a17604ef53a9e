package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	memstate "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// kit drives the partitions of one flow by hand: one thread, streams and a store in memory, a clock that stands
// still.
type kit struct {
	t       *testing.T
	opt     Options
	streams *memory.Streams
	objects *memory.Objects
	db      *memstate.DB
	now     time.Time
	log     bytes.Buffer
	most    int // messages that a dealer reads at once
	flow    *Flow
	parts   []*Partition
	dealers []*kitDealer
}

type kitDealer struct {
	d *Dealer
	r transport.Reader
}

// kitSteps fills in what the tests leave out.
func kitFlow(steps ...Step) *Flow {
	for i := range steps {
		s := &steps[i]
		if s.Name == "" {
			s.Name = s.Function.Name()
		}
		if s.Mode == "" {
			s.Mode = kis.Calculate
		}
	}
	return &Flow{Name: "f", Revision: 1, Steps: steps}
}

// sends makes a step's outputs: the stream OUT.
func sends(s Step) Step {
	s.Mode = kis.Expand
	s.Outputs = []Output{{Stream: "OUT", Subject: "out.>", Fenced: true}}
	return s
}

func newKit(t *testing.T, opt Options, maxMessage int, flow *Flow) *kit {
	t.Helper()
	if opt.Partitions == 0 {
		opt.Partitions = 1
	}
	k := &kit{t: t, opt: opt, most: 1000, db: memstate.New(), now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), flow: flow}
	k.streams = memory.New(memory.Options{Now: k.Now, NonBlocking: true, MaxMessage: maxMessage})
	k.objects = memory.NewObjects(memory.Options{})
	entry := k.ensure("IN", "in.>")
	flow.Inputs = []Input{{Kind: Entry, Name: "IN", Stream: "IN", Created: entry.Created.UnixNano()}}
	k.ensure("OUT", "out.>", OutputFences("OUT"))
	k.ensure(LogStream(flow.Name), LogSubjects(flow.Name))
	hop := k.ensure(HandOffStream(flow.Name), HandOffSubjects(flow.Name))
	flow.Inputs = append(flow.Inputs, Input{Kind: HandOff, Name: hop.Name, Stream: hop.Name, Created: hop.Created.UnixNano()})
	return k
}

func (k *kit) ensure(name string, subjects ...string) transport.Info {
	k.t.Helper()
	info, err := k.streams.Ensure(k.t.Context(), transport.Config{Name: name, Subjects: subjects})
	if err != nil {
		k.t.Fatal(err)
	}
	return info
}

// Now and Sleep make the kit a Clock: sleeping moves it on.
func (k *kit) Now() time.Time { return k.now }

func (k *kit) Sleep(ctx context.Context, d time.Duration) error {
	k.now = k.now.Add(d)
	return ctx.Err()
}

// open opens all partitions, and forgets those that were open: as after a crash.
func (k *kit) open() error {
	k.t.Helper()
	k.parts, k.dealers = nil, nil
	for _, must := range k.flow.Stages() {
		for n := range k.opt.Partitions {
			p, err := k.partition(must, n)
			if err == nil {
				err = p.Open(k.t.Context(), nil)
			}
			if err != nil {
				return err
			}
			k.parts = append(k.parts, p)
		}
	}
	return nil
}

func (k *kit) partition(must []string, n int) (*Partition, error) {
	store, err := k.db.Store(k.flow.partitionName(stageName(must), n))
	if err != nil {
		return nil, err
	}
	return NewPartition(k.flow, must, n, Ports{k.streams, k.objects, store, k, slog.New(slog.NewTextHandler(&k.log, nil)), &Meter{}, nil}, k.opt)
}

func (k *kit) mustOpen() *Partition {
	k.t.Helper()
	if err := k.open(); err != nil {
		k.t.Fatal(err)
	}
	return k.parts[0]
}

func (k *kit) publish(payloads ...string) {
	k.t.Helper()
	for _, p := range payloads {
		if _, err := k.streams.Append(k.t.Context(), "IN", transport.Outgoing{Subject: "in.x", Data: []byte(p)}); err != nil {
			k.t.Fatal(err)
		}
	}
}

// Deliver makes the kit a Dealt.
func (k *kit) Deliver(_ context.Context, stage string, number int, c *Chunk) error {
	for _, p := range k.parts {
		if p.stage == stage && p.number == number {
			p.Offer(c)
		}
	}
	return nil
}

// deal lets every dealer deal all that there is, and tells whether there was anything.
func (k *kit) deal() (bool, error) {
	if k.dealers == nil {
		for i := range k.flow.Inputs {
			in := &k.flow.Inputs[i]
			d := &kitDealer{d: NewDealer(k.flow, i, k.opt.Partitions, k)}
			low, some := uint64(0), false
			d.d.Receivers(func(stage string, number int) {
				for _, p := range k.parts {
					if p.stage == stage && p.number == number && (!some || p.Sequence(i) < low) {
						low, some = p.Sequence(i), true
					}
				}
			})
			info, err := k.streams.Info(k.t.Context(), in.Stream)
			if err == nil {
				err = CheckInput(in, info, low)
			}
			if err == nil {
				d.r, err = k.streams.Read(k.t.Context(), in.Stream, transport.ReadOptions{From: low + 1, Subjects: in.Filter})
			}
			if err != nil {
				return false, err
			}
			d.d.Start(low)
			k.dealers = append(k.dealers, d)
		}
	}
	any := false
	for _, d := range k.dealers {
		ms, err := d.r.Next(k.t.Context(), k.most)
		if err == nil {
			err = d.d.Deal(k.t.Context(), ms)
		}
		if err != nil {
			return false, err
		}
		any = any || len(ms) > 0
	}
	return any, nil
}

// run deals and works until nothing is left; the clock stands still.
func (k *kit) run() error {
	for range 10_000 {
		moved, err := k.deal()
		if err != nil {
			return err
		}
		for _, p := range k.parts {
			for p.Queued() > 0 {
				moved = true
				if _, err := p.Work(k.t.Context()); err != nil {
					return err
				}
			}
		}
		if !moved {
			return nil
		}
	}
	return errors.New("it does not come to rest")
}

func (k *kit) mustRun() {
	k.t.Helper()
	if err := k.run(); err != nil {
		k.t.Fatal(err)
	}
}

// pass lets time go by, and all that comes with it happen.
func (k *kit) pass(d time.Duration) {
	k.t.Helper()
	k.now = k.now.Add(d)
	for _, p := range k.parts {
		if err := p.Tick(k.t.Context()); err != nil {
			k.t.Fatal(err)
		}
	}
	k.mustRun()
}

// read returns what a stream holds, a message each: its subject and its data.
func (k *kit) read(stream string) []string {
	k.t.Helper()
	r, err := k.streams.Read(k.t.Context(), stream, transport.ReadOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for {
		ms, err := r.Next(k.t.Context(), 1000)
		if err != nil {
			k.t.Fatal(err)
		}
		if len(ms) == 0 {
			return all
		}
		for _, m := range ms {
			if !strings.HasPrefix(m.Subject, "KISFLOW.fence.") {
				all = append(all, m.Subject+" "+string(m.Data))
			}
		}
	}
}

// letters returns the dead letters and parked rows of all partitions, one each: step, reason, data.
func (k *kit) letters() (said []string, keys [][]byte) {
	k.t.Helper()
	for _, p := range k.parts {
		if err := p.DeadLetters(nil, func(l Letter, key []byte) bool {
			kind := "dead"
			if l.Parked {
				kind = "parked"
			}
			said = append(said, fmt.Sprintf("%s %s: %s: %s", kind, l.Step, l.Reason, l.Data))
			keys = append(keys, key)
			return true
		}); err != nil {
			k.t.Fatal(err)
		}
	}
	return said, keys
}

// state returns a key's committed state as JSON, or "none".
func (k *kit) state(step string, assignments ...string) string {
	k.t.Helper()
	s, err := k.flow.StepOf(step)
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := kis.ParseKey(s.Must, assignments)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, p := range k.parts {
		if p.stage == stageName(s.Must) && p.number == partitionOf(key.Slot(), k.opt.Partitions) {
			st, err := p.State(step, key)
			switch {
			case errors.Is(err, ErrNoState):
				return "none"
			case err != nil:
				k.t.Fatal(err)
			}
			return string(st.State)
		}
	}
	k.t.Fatalf("no partition has step %s", step)
	return ""
}

// same fails where two lists differ.
func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s are\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: number %d is\n  %s\nwant\n  %s", what, i, got[i], want[i])
		}
	}
}

// rowFunction makes a stateless function of rows.
func rowFunction(name string, f func(row *kis.Row, out *kis.Output[*kis.Row]) error, opts ...kis.Option) kis.Function {
	return kis.Stateless(name, func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		return f(e.Value, out)
	}, opts...)
}

// notes is the state of noteFunction: the names of the rows that came.
type notes struct {
	Names []string `json:"names"`
}

// noteFunction keeps the field name of every row, refuses the rows that say so in their field fail, and hands on
// the others.
func noteFunction() kis.Function {
	return kis.Keyed("note", func(_ context.Context, s *notes, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		switch text(e.Row, "fail") {
		case "dead":
			return errors.New("bad")
		case "retry":
			return kis.Retry(errors.New("busy"))
		case "drop":
			return kis.Drop(errors.New("unwanted"))
		case "stop":
			return kis.Stop(errors.New("harm"))
		case "panic":
			panic("boom")
		}
		if until := number(e.Row, "until"); e.Now.Unix() < until {
			return kis.Retry(errors.New("too early"))
		}
		s.Names = append(s.Names, text(e.Row, "name"))
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
}

// sendFunction sends every row to out.x.
func sendFunction() kis.Function {
	return rowFunction("send", func(row *kis.Row, out *kis.Output[*kis.Row]) error {
		out.Send("out.x", row)
		return nil
	})
}
