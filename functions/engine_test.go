package functions

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// engine plays the engine for one step: it keeps watermark, states and timers, and between any two calls it may
// forget all states but their encoded form.
type engine struct {
	t        testing.TB
	spec     Spec
	fn       kis.Function
	runner   kis.Runner
	random   *rand.Rand // nil: nothing is forgotten
	lateness int64
	now      int64 // milliseconds

	high      int64
	watermark int64 // noTime: unknown
	states    map[string]any
	encoded   map[string][]byte
	keys      map[string]kis.Key
	timers    map[timerID]int64
	sequence  uint64

	out     []string // rows that went on, with their event time where timed says so
	sent    []string
	letters []string
	dropped int
	timed   bool
}

type timerID struct {
	key    string
	name   string
	domain kis.TimeDomain
}

func newEngine(t testing.TB, spec Spec, random *rand.Rand) *engine {
	t.Helper()
	fn, mistakes := New(spec)
	if len(mistakes) > 0 {
		t.Fatalf("New(%s): %v", spec.Name, mistakes)
	}
	e := &engine{t: t, spec: spec, fn: fn, random: random, now: 1_000_000, watermark: noTime, high: noTime, states: make(map[string]any), encoded: make(map[string][]byte),
		keys: make(map[string]kis.Key), timers: make(map[timerID]int64)}
	e.open()
	return e
}

func (e *engine) open() {
	r, err := e.fn.Open(kis.Step{Name: "step", Function: e.spec.Name, Mode: e.spec.Mode, Must: e.spec.Must, Params: kis.Params{}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.runner = r
}

// send hands the step a row of a time; the watermark moves before it.
func (e *engine) send(at int64, text string) { e.deliver(at, text, false) }

func (e *engine) deliver(at int64, text string, loaded bool) {
	e.t.Helper()
	if e.high = max(e.high, at); e.high-e.lateness > e.watermark {
		e.advance(e.high - e.lateness)
	}
	row, err := kis.ParseRow([]byte(text))
	if err != nil {
		e.t.Fatalf("%s: %v", text, err)
	}
	key, err := kis.KeyOf(row, e.spec.Must)
	if err != nil {
		e.t.Fatal(err)
	}
	e.sequence++
	e.keys[key.Canonical()] = key
	e.call(key, &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{Stream: "S", Sequence: e.sequence, Time: time.UnixMilli(at).UTC()}}, Loaded: loaded})
	e.processing()
}

// advance moves the watermark, and fires what is due.
func (e *engine) advance(to int64) {
	for {
		id, at, ok := e.next(kis.EventTime, to)
		if !ok {
			break
		}
		e.fire(id, at)
	}
	e.watermark = max(e.watermark, to)
	e.processing()
}

// wait lets processing time go by.
func (e *engine) wait(ms int64) {
	e.now += ms
	e.processing()
}

func (e *engine) processing() {
	for {
		id, at, ok := e.next(kis.ProcessingTime, e.now)
		if !ok {
			return
		}
		e.fire(id, at)
	}
}

func (e *engine) next(domain kis.TimeDomain, to int64) (best timerID, at int64, ok bool) {
	for id, t := range e.timers {
		if id.domain != domain || t > to {
			continue
		}
		if !ok || t < at || t == at && (id.key+"\x00"+id.name) < (best.key+"\x00"+best.name) {
			best, at, ok = id, t, true
		}
	}
	return best, at, ok
}

func (e *engine) fire(id timerID, at int64) {
	delete(e.timers, id)
	t := kis.Timer{Name: id.name, Domain: id.domain, At: time.UnixMilli(at).UTC()}
	e.call(e.keys[id.key], &kis.Call{Metas: []*kis.Meta{{Time: t.At}}, Timer: &t})
}

// call calls the runner as the engine does, and checks what the engine relies on.
func (e *engine) call(key kis.Key, c *kis.Call) {
	e.t.Helper()
	if e.random != nil && e.random.IntN(3) == 0 {
		clear(e.states)
		if e.random.IntN(10) == 0 {
			e.open()
		}
	}
	id := key.Canonical()
	state, ok := e.states[id]
	if !ok && e.fn.Traits().Stateful {
		stored := bytes.Clone(e.encoded[id])
		var err error
		if state, err = e.runner.Activate(stored); err != nil {
			e.t.Fatalf("activate %s: %v", e.encoded[id], err)
		}
		for i := range stored {
			stored[i] = '#' // a state that keeps the bytes it was made of shows here
		}
	}
	c.Context, c.Key, c.State, c.Now = context.Background(), key, state, time.UnixMilli(e.now).UTC()
	if e.watermark != noTime {
		c.Watermark = time.UnixMilli(e.watermark).UTC()
	}
	var text []byte
	for _, r := range c.Rows {
		text = r.AppendJSON(text)
	}
	err := e.runner.Handle(c)
	var encoded []byte
	if e.fn.Traits().Stateful {
		var bad error
		if encoded, bad = e.runner.Encode(nil, c.State); bad != nil {
			e.t.Fatal(bad)
		}
		if len(encoded) > MaxState+MaxState/4 {
			e.t.Fatalf("the state has %d bytes", len(encoded))
		}
		e.states[id] = c.State
	}
	if err != nil {
		if e.fn.Traits().Stateful && !bytes.Equal(encoded, e.encoded[id]) {
			e.t.Fatalf("%s: after the error %v the state is\n%s\nand it was\n%s", text, err, encoded, e.encoded[id])
		}
		if kis.VerdictOf(err) == kis.VerdictDrop {
			e.dropped++
		} else {
			e.letters = append(e.letters, err.Error())
		}
		return
	}
	if e.encoded[id] = encoded; len(encoded) == 0 {
		delete(e.encoded, id)
	}
	for _, t := range c.Timers {
		tid := timerID{id, t.Name, t.Domain}
		if t.At.IsZero() {
			delete(e.timers, tid)
		} else {
			e.timers[tid] = t.At.UnixMilli()
		}
	}
	for _, m := range c.Emitted {
		s := m.Row.String()
		if e.timed {
			at := m.Time
			if at.IsZero() {
				at = c.Metas[m.Cause].Time
			}
			s = fmt.Sprintf("%d %s", at.UnixMilli(), s)
		}
		e.out = append(e.out, s)
	}
	for _, m := range c.Sent {
		e.sent = append(e.sent, m.Subject+" "+m.Row.String())
	}
}

// finish ends the input: the watermark goes to the end.
func (e *engine) finish() {
	e.advance(math.MaxInt64 / 4)
	e.wait(1 << 40)
	if len(e.timers) > 0 {
		e.t.Errorf("timers are left: %v", e.timers)
	}
}

// expect compares what came out, and begins anew.
func (e *engine) expect(want ...string) {
	e.t.Helper()
	if !slices.Equal(e.out, want) {
		e.t.Errorf("got\n  %s\nwant\n  %s", strings.Join(e.out, "\n  "), strings.Join(want, "\n  "))
	}
	e.out = nil
}
