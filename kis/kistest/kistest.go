// Package kistest runs one function in a test, without an engine and without a server.
//
//	r := kistest.New(t, kis.Keyed("reward", reward))
//	r.Send("ada", Order{Cents: 60_00})
//	if got := r.Send("ada", Order{Cents: 50_00}); len(got) != 1 {
//		t.Errorf("after 110.00: emitted %v, want one reward", got)
//	}
//
// Every call runs twice: with the state as the calls before left it in memory, and with a state that was
// written as JSON and read again, in a second runner, as it is after a crash or when a key was idle.
// Both must say and leave the same; that fails which takes time from a clock, numbers from
// chance, the order of a map for an order, or a state that JSON does not bring back. An error must leave
// the state as it was, and no call may change the rows that it is given.
//
// So a handler's effects on the test's own variables happen twice.
package kistest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Runner runs a function at one step. It is not for concurrent use.
type Runner struct {
	t        testing.TB
	function kis.Function
	step     kis.Step
	warm     kis.Runner // with states kept in memory
	cold     kis.Runner // with states from their bytes
	now      time.Time
	revision uint64
	sequence uint64
	keys     map[string]*instance // by canonical bytes

	watermark time.Time
}

// instance is a key and its state.
type instance struct {
	key     kis.Key
	state   any    // of the warm runner
	encoded []byte // what it is in JSON
	timers  []kis.Timer
}

// Option tunes a Runner.
type Option func(*Runner)

// Must names the fields of the step's key; without it there is one, "key". Must without names is a step
// without a key.
func Must(fields ...string) Option { return func(r *Runner) { r.step.Must = fields } }

// Params are the step's parameters; without it there are none.
func Params(p kis.Params) Option { return func(r *Runner) { r.step.Params = maps.Clone(p) } }

// Now is the time of the first call; without it, noon of 1 January 2000 UTC. Every later call is a second after
// the one before it.
func Now(t time.Time) Option { return func(r *Runner) { r.now = t } }

// Revision is the flow's revision; without it, 1.
func Revision(n uint64) Option { return func(r *Runner) { r.revision = n } }

// New opens a function. The test fails if that is refused.
func New(t testing.TB, f kis.Function, options ...Option) *Runner {
	t.Helper()
	r := &Runner{
		t:        t,
		function: f,
		step: kis.Step{
			Flow: "kistest", Name: f.Name(), Function: f.Name(), Mode: kis.Calculate,
			Must: []string{"key"}, Params: kis.Params{},
		},
		now:      time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC),
		revision: 1,
		keys:     make(map[string]*instance),
	}
	for _, o := range options {
		o(r)
	}
	if r.step.Params == nil {
		r.step.Params = kis.Params{}
	}
	var err error
	if r.warm, err = f.Open(r.step); err != nil {
		t.Fatalf("open %s: %v", f.Name(), err)
	}
	if r.cold, err = f.Open(r.step); err != nil {
		t.Fatalf("open %s again: %v", f.Name(), err)
	}
	return r
}

// Result is what one call said.
type Result struct {
	Emitted []*kis.Row // to the next step
	Causes  []int      // index by index, the place of the row that caused the emitted one
	Sent    []Sent     // to the outside
	Control kis.Control
	Target  string // of a jump
	Timers  []kis.TimerChange
	Err     error // nil, or why the call's rows have no effect
	Verdict kis.Verdict
}

// Sent is a row that a call sent to the outside.
type Sent struct {
	Subject string
	Row     *kis.Row
	Cause   int
}

// String returns the result for people, a line an answer.
func (r Result) String() string {
	var b strings.Builder
	if r.Err != nil {
		fmt.Fprintf(&b, "%s: %v\n", verdicts[r.Verdict], r.Err)
	}
	for i, row := range r.Emitted {
		fmt.Fprintf(&b, "emit %s", row)
		if r.Causes[i] != 0 {
			fmt.Fprintf(&b, " for %d", r.Causes[i])
		}
		b.WriteByte('\n')
	}
	for _, s := range r.Sent {
		fmt.Fprintf(&b, "send %s %s", s.Subject, s.Row)
		if s.Cause != 0 {
			fmt.Fprintf(&b, " for %d", s.Cause)
		}
		b.WriteByte('\n')
	}
	for _, c := range r.Timers {
		if c.At.IsZero() {
			fmt.Fprintf(&b, "stop timer %s\n", c.Name)
		} else {
			fmt.Fprintf(&b, "set timer %s to %s\n", c.Name, c.At.UTC().Format(time.RFC3339Nano))
		}
	}
	switch r.Control {
	case kis.Continue:
	case kis.Jump:
		fmt.Fprintf(&b, "jump to %s\n", r.Target)
	default:
		fmt.Fprintf(&b, "%s\n", controls[r.Control])
	}
	return b.String()
}

var (
	verdicts = map[kis.Verdict]string{
		kis.VerdictDeadLetter: "dead letter", kis.VerdictRetry: "retry", kis.VerdictStop: "stop", kis.VerdictDrop: "drop",
	}
	controls = map[kis.Control]string{kis.Abort: "abort", kis.Reuse: "reuse", kis.ForceNext: "force next"}
)

// Send hands one row to the function and returns what it emitted. The test fails if the function refuses the
// row: a test that expects this uses Do.
//
// Key is the value of the step's key field; for several fields a []any of their values; or nil, if the row
// holds them. Value is the row: a struct or a map that encoding/json writes as an object, a *kis.Row, or the
// object's JSON as a string or []byte. The row is given the key's fields that it lacks.
func (r *Runner) Send(key, value any) []*kis.Row {
	r.t.Helper()
	got := r.Do(key, value)
	if got.Err != nil {
		r.t.Fatalf("%s %v: %s: %v", r.step.Name, value, verdicts[got.Verdict], got.Err)
	}
	return got.Emitted
}

// Do hands rows to the function, as Send does, and returns all that it said. More than one value is for Batch
// functions.
func (r *Runner) Do(key any, values ...any) Result {
	r.t.Helper()
	if len(values) == 0 {
		r.t.Fatalf("%s: no row", r.step.Name)
	}
	if len(values) > 1 && !r.function.Traits().Batch {
		r.t.Fatalf("%s: %d rows for a function that takes one at a time", r.step.Name, len(values))
	}
	var (
		rows  []*kis.Row
		metas []*kis.Meta
		in    *instance
	)
	for _, v := range values {
		row := r.row(v)
		k := r.complete(key, row)
		if in == nil {
			in = r.instance(k)
		} else if in.key.Canonical() != k.Canonical() {
			r.t.Fatalf("%s: rows of the keys %s and %s in one call", r.step.Name, in.key, k)
		}
		rows = append(rows, row)
		r.sequence++
		metas = append(metas, &kis.Meta{Stream: "kistest", Subject: "kistest", Sequence: r.sequence, Time: r.now})
	}
	return r.twice(in, rows, metas, nil)
}

// Fire lets a timer that is set fire: the function's handler of timers is called. The test fails if no such timer is
// set. The watermark moves on to the time of a timer of event time.
func (r *Runner) Fire(key any, name string, domain kis.TimeDomain) Result {
	r.t.Helper()
	in := r.instance(r.key(key))
	i := slices.IndexFunc(in.timers, func(t kis.Timer) bool { return t.Name == name && t.Domain == domain })
	if i < 0 {
		r.t.Fatalf("%s: %s has no timer %q; it has %v", r.step.Name, in.key, name, in.timers)
	}
	timer := in.timers[i]
	in.timers = slices.Delete(in.timers, i, i+1)
	if domain == kis.EventTime && r.watermark.Before(timer.At) {
		r.watermark = timer.At
	}
	if domain == kis.ProcessingTime && r.now.Before(timer.At) {
		r.now = timer.At
	}
	return r.twice(in, nil, []*kis.Meta{{Sequence: r.sequence, Time: timer.At}}, &timer)
}

// Timers returns the timers that are set for a key, the first one to fire first.
func (r *Runner) Timers(key any) []kis.Timer {
	r.t.Helper()
	ts := slices.Clone(r.instance(r.key(key)).timers)
	slices.SortStableFunc(ts, func(a, b kis.Timer) int { return a.At.Compare(b.At) })
	return ts
}

// Watermark moves the watermark on: calls see it. Timers fire by Fire only.
func (r *Runner) Watermark(t time.Time) { r.watermark = t }

// twice makes a call with the state in memory and again with the state from its JSON.
func (r *Runner) twice(in *instance, rows []*kis.Row, metas []*kis.Meta, timer *kis.Timer) Result {
	r.t.Helper()
	defer func() { r.now = r.now.Add(time.Second) }()

	got, after := r.call(r.warm, in, &in.state, rows, metas, timer)
	state := r.activate(r.cold, in.encoded)
	again, afterCold := r.call(r.cold, in, &state, rows, metas, timer)
	if a, b := got.String()+after, again.String()+afterCold; a != b {
		state := r.activate(r.cold, in.encoded)
		third, afterThird := r.call(r.cold, in, &state, rows, metas, timer)
		if c := third.String() + afterThird; b != c {
			r.t.Fatalf("%s is not deterministic: the same call said first\n%sand then\n%s", r.step.Name, b, c)
		}
		r.t.Fatalf("%s: its state does not survive: with the state in memory the call said\n%sand with the state from its JSON %s\n%s",
			r.step.Name, a, orNone(in.encoded), b)
	}
	if got.Err != nil && after != describe(in.encoded) {
		r.t.Fatalf("%s: the call was refused (%v), but its state is now %s; before it was %s", r.step.Name, got.Err, after, describe(in.encoded))
	}
	if r.function.Traits().Stateful {
		in.encoded = r.encode(r.warm, in.state)
	}
	for _, c := range got.Timers {
		in.timers = slices.DeleteFunc(in.timers, func(t kis.Timer) bool { return t.Name == c.Name && t.Domain == c.Domain })
		if !c.At.IsZero() {
			in.timers = append(in.timers, kis.Timer(c))
		}
	}
	return got
}

// Advance lets time pass between two calls.
func (r *Runner) Advance(d time.Duration) { r.now = r.now.Add(d) }

// State returns a key's state as JSON; "" if it has none. Key is as in Send.
func (r *Runner) State(key any) string {
	r.t.Helper()
	return string(r.instance(r.key(key)).encoded)
}

// Keys returns the keys that have a state, in the order of their canonical bytes.
func (r *Runner) Keys() []kis.Key {
	var keys []kis.Key
	for _, c := range slices.Sorted(maps.Keys(r.keys)) {
		if in := r.keys[c]; len(in.encoded) > 0 {
			keys = append(keys, in.key)
		}
	}
	return keys
}

// call runs one runner once, and returns what it said and what the state is then, which it also leaves in state.
func (r *Runner) call(runner kis.Runner, in *instance, state *any, rows []*kis.Row, metas []*kis.Meta, timer *kis.Timer) (Result, string) {
	r.t.Helper()
	c := kis.Call{Context: context.Background(), Key: in.key, State: *state, Now: r.now, Revision: r.revision, Watermark: r.watermark}
	if timer != nil {
		t, meta := *timer, *metas[0]
		c.Timer, c.Metas = &t, append(c.Metas, &meta)
	}
	var before [][]byte
	for i, row := range rows {
		text := row.AppendJSON(nil)
		before = append(before, text)
		parsed, err := kis.ParseRow(bytes.Clone(text))
		if err != nil {
			r.t.Fatalf("%s: row %s: %v", r.step.Name, text, err)
		}
		meta := *metas[i]
		c.Rows, c.Metas = append(c.Rows, parsed), append(c.Metas, &meta)
	}
	params := maps.Clone(r.step.Params)
	err := runner.Handle(&c)
	for i, row := range c.Rows {
		if now := row.AppendJSON(nil); !bytes.Equal(before[i], now) {
			r.t.Fatalf("%s changed the row that it was given from %s to %s; change a Clone", r.step.Name, before[i], now)
		}
		if *c.Metas[i] != *metas[i] {
			r.t.Fatalf("%s changed the Meta that it was given from %+v to %+v", r.step.Name, *metas[i], *c.Metas[i])
		}
	}
	if !maps.Equal(params, r.step.Params) {
		r.t.Fatalf("%s changed its params from %v to %v", r.step.Name, params, r.step.Params)
	}
	got := Result{Control: c.Control, Target: c.Target, Err: err}
	if err != nil {
		got = Result{Err: err, Verdict: kis.VerdictOf(err)}
	} else {
		for _, e := range c.Emitted {
			got.Emitted, got.Causes = append(got.Emitted, r.copy(e.Row)), append(got.Causes, e.Cause)
		}
		got.Timers = slices.Clone(c.Timers)
		for _, s := range c.Sent {
			got.Sent = append(got.Sent, Sent{s.Subject, r.copy(s.Row), s.Cause})
		}
	}
	if !r.function.Traits().Stateful {
		return got, describe(nil)
	}
	*state = c.State
	return got, describe(r.encode(runner, c.State))
}

// copy returns a row of its own, and fails the test if it is no JSON object.
func (r *Runner) copy(row *kis.Row) *kis.Row {
	r.t.Helper()
	text := row.AppendJSON(nil)
	c, err := kis.ParseRow(text)
	if err != nil {
		r.t.Fatalf("%s: its row %s: %v", r.step.Name, text, err)
	}
	return c
}

func (r *Runner) activate(runner kis.Runner, encoded []byte) any {
	r.t.Helper()
	if !r.function.Traits().Stateful {
		return nil
	}
	var copied []byte
	if len(encoded) > 0 {
		copied = bytes.Clone(encoded)
	}
	state, err := runner.Activate(copied)
	if err != nil {
		r.t.Fatalf("%s: activate %s: %v", r.step.Name, orNone(encoded), err)
	}
	for i := range copied {
		copied[i] = 'x' // the engine's bytes: nobody may keep them
	}
	return state
}

func (r *Runner) encode(runner kis.Runner, state any) []byte {
	r.t.Helper()
	encoded, err := runner.Encode(nil, state)
	if err != nil {
		r.t.Fatalf("%s: encode its state: %v", r.step.Name, err)
	}
	if len(encoded) > 0 {
		if _, err := kis.JSONValue(string(encoded)); err != nil {
			r.t.Fatalf("%s: its state %s: %v", r.step.Name, encoded, err)
		}
	}
	again, err := runner.Encode([]byte("before"), state)
	if want := append([]byte("before"), encoded...); err != nil || !bytes.Equal(again, want) {
		r.t.Fatalf("%s: its state encoded once is %s, and appended to \"before\" %s, %v", r.step.Name, orNone(encoded), again, err)
	}
	return encoded
}

func (r *Runner) instance(key kis.Key) *instance {
	r.t.Helper()
	in := r.keys[key.Canonical()]
	if in == nil {
		in = &instance{key: key, state: r.activate(r.warm, nil)}
		r.keys[key.Canonical()] = in
	}
	return in
}

// row makes a row of what a test wrote.
func (r *Runner) row(value any) *kis.Row {
	r.t.Helper()
	var text []byte
	switch v := value.(type) {
	case *kis.Row:
		return v.Clone()
	case string:
		text = []byte(v)
	case []byte:
		text = bytes.Clone(v)
	default:
		var err error
		if text, err = json.Marshal(v); err != nil {
			r.t.Fatalf("%s: row %v: %v", r.step.Name, value, err)
		}
	}
	row, err := kis.ParseRow(text)
	if err != nil {
		r.t.Fatalf("%s: row %s: %v", r.step.Name, text, err)
	}
	return row
}

// complete gives a row the key's fields, and returns its key.
func (r *Runner) complete(key any, row *kis.Row) kis.Key {
	r.t.Helper()
	if key != nil {
		for _, f := range r.key(key).Fields() {
			if _, ok := row.Get(f.Name); !ok {
				row.Set(f.Name, f.Value)
			}
		}
	}
	k, err := kis.KeyOf(row, r.step.Must)
	if err != nil {
		r.t.Fatalf("%s: row %s: %v", r.step.Name, row, err)
	}
	if key != nil && k.Canonical() != r.key(key).Canonical() {
		r.t.Fatalf("%s: row %s is of the key %s, not %s", r.step.Name, row, k, r.key(key))
	}
	return k
}

// key makes a key of what a test wrote.
func (r *Runner) key(key any) kis.Key {
	r.t.Helper()
	parts, ok := key.([]any)
	switch {
	case ok:
	case key == nil:
	default:
		if k, ok := key.(kis.Key); ok {
			return k
		}
		parts = []any{key}
	}
	var values []kis.Value
	for _, p := range parts {
		v, ok := p.(kis.Value)
		if !ok {
			text, err := json.Marshal(p)
			if err == nil {
				v, err = kis.JSONValue(string(text))
			}
			if err != nil {
				r.t.Fatalf("%s: key %v: %v", r.step.Name, key, err)
			}
		}
		values = append(values, v)
	}
	k, err := kis.KeyFromValues(r.step.Must, values)
	if err != nil {
		r.t.Fatalf("%s: key %v: %v", r.step.Name, key, err)
	}
	return k
}

// As decodes rows, so that a test can compare them with values of its own type.
func As[Out any](t testing.TB, rows []*kis.Row) []Out {
	t.Helper()
	out := make([]Out, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row.AppendJSON(nil), &out[i]); err != nil {
			t.Fatalf("row %s: %v", row, err)
		}
	}
	return out
}

func describe(encoded []byte) string { return "state " + orNone(encoded) + "\n" }

func orNone(encoded []byte) string {
	if len(encoded) == 0 {
		return "none"
	}
	return string(encoded)
}
