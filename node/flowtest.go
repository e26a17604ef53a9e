package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions/script"
	"github.com/kisflow/kisflow/kis"
	statememory "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// Trial runs the enabled flows of a set for a test: in one thread, in memory, with a clock that only the test moves.
// The engine is the one that a node runs. It is not for concurrent use.
type Trial struct {
	engine  *actors.Trial
	streams *memory.Streams
	set     *flowdef.Set
	flow    string // that is fed
	subject string // of its entry
	scripts *script.Pool

	connectors *connectors.Host

	read    map[outputPlace]bool // what Outputs has returned
	letters map[string]bool      // ids that DeadLetters has returned
}

// outputPlace is where an output is.
type outputPlace struct {
	stream   string
	sequence uint64
}

// TrialOptions tune a trial. The zero value is ready to use.
type TrialOptions struct {
	Functions  []kis.Function      // Go functions
	Connectors []kis.ConnectorType // beside those that every node has
	Flow       string              // the one that is fed; "": the only one that takes events
	Start      time.Time           // of the clock; default 2026-01-01 UTC
	// ScriptWorker is the program that runs scripts, as in Options; "": they run in this process, without a bound of
	// their memory.
	ScriptWorker string
}

// Message is a message that a flow has sent to a subject.
type Message struct {
	Subject string
	Data    []byte
}

// NewTrial starts the flows of a set, which has been linted. Close ends it.
func NewTrial(ctx context.Context, set *flowdef.Set, opt TrialOptions) (*Trial, error) {
	if opt.Start.IsZero() {
		opt.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	t := &Trial{set: set, read: make(map[outputPlace]bool), letters: make(map[string]bool)}
	t.streams = memory.New(memory.Options{NonBlocking: true, Now: func() time.Time {
		if t.engine == nil {
			return opt.Start
		}
		return t.engine.Now()
	}})
	ports := actors.Ports{Streams: t.streams, Objects: memory.NewObjects(memory.Options{}), Logger: slog.New(slog.DiscardHandler)}
	t.engine = actors.NewTrial(ports, statememory.New(), opt.Start, actors.Options{Partitions: 1, SnapshotBytes: 1 << 62, Owner: "test"})
	t.connectors = connectors.NewHost(connectorTypes(nil, opt.Connectors)...)
	pl := &planner{streams: t.streams, functions: make(map[string]kis.Function), connectors: t.connectors, lookups: new(lookupCounts), latest: t.engine, fresh: true}
	for _, f := range opt.Functions {
		pl.functions[f.Name()] = f
	}
	pl.scripts = script.InProcess(nil)
	if opt.ScriptWorker != "" {
		t.scripts = script.NewPool(script.PoolOptions{Program: opt.ScriptWorker, Workers: 1, Log: slog.New(slog.DiscardHandler)})
		pl.scripts = t.scripts
	}
	for _, def := range set.Flows {
		if !def.Enabled {
			continue
		}
		f, err := pl.plan(ctx, set, def, 1, make(starts))
		if err == nil {
			err = t.engine.Start(ctx, f)
		}
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("flow %s: %w", def.Name, err)
		}
	}
	m := InMemory{Flow: opt.Flow}
	var err error
	if t.subject, err = m.subject(set); err != nil {
		t.Close()
		return nil, err
	}
	t.flow = opt.Flow
	for _, def := range set.Flows {
		for _, e := range def.Entries {
			if t.flow == "" && def.Enabled && strings.NewReplacer("*", "run", ">", "run").Replace(e.Subject.Value) == t.subject {
				t.flow = def.Name
			}
		}
		if t.flow == "" && def.Enabled && t.subject == ownEntry(def.Name) {
			t.flow = def.Name
		}
	}
	return t, nil
}

// Close ends what the trial has started.
func (t *Trial) Close() {
	if t.scripts != nil {
		t.scripts.Close()
	}
	_ = t.connectors.Close() // what it says changes nothing any more
}

// Now is the trial's time.
func (t *Trial) Now() time.Time { return t.engine.Now() }

// Flow is the flow that is fed.
func (t *Trial) Flow() string { return t.flow }

// Publish publishes a message, to the flow's entry if no subject is named, and waits until all that comes of it is done.
func (t *Trial) Publish(ctx context.Context, subject string, data []byte) error {
	if subject == "" {
		subject = t.subject
	}
	info, err := t.streams.Capturing(ctx, subject)
	if err != nil {
		return fmt.Errorf("no flow takes events on subject %s: %w", subject, err)
	}
	if _, err := t.streams.Append(ctx, info.Name, transport.Outgoing{Subject: subject, Data: data}); err != nil {
		return err
	}
	return t.engine.Run(ctx)
}

// Wait moves the clock on; what falls due on the way happens at its time.
func (t *Trial) Wait(ctx context.Context, d time.Duration) error { return t.engine.Advance(ctx, d) }

// End ends the entries: windows close, timers fire.
func (t *Trial) End(ctx context.Context) error { return t.engine.End(ctx) }

// Outputs returns what the flows have sent since the last call, in order; those to a subject, if one is named.
func (t *Trial) Outputs(ctx context.Context, subject string) ([]Message, error) {
	var all []Message
	seen := make(map[string]bool)
	for _, def := range t.set.Flows {
		if !def.Enabled {
			continue
		}
		for _, s := range def.Steps {
			fn := t.set.Funcs[s.Function.Value]
			if fn == nil {
				continue
			}
			for _, pattern := range sentTo(fn) {
				info, err := t.streams.Capturing(ctx, outputPattern(pattern))
				if err != nil || seen[info.Name] {
					continue
				}
				seen[info.Name] = true
				ms, err := t.outputs(ctx, info, subject)
				if err != nil {
					return nil, err
				}
				all = append(all, ms...)
			}
		}
	}
	return all, nil
}

// outputs reads what a stream has on a subject, or on all, that was not returned before.
func (t *Trial) outputs(ctx context.Context, info transport.Info, subject string) ([]Message, error) {
	r, err := t.streams.Read(ctx, info.Name, transport.ReadOptions{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []Message
	for {
		ms, err := r.Next(ctx, 1000)
		if err != nil || len(ms) == 0 {
			return all, err
		}
		for _, m := range ms {
			at := outputPlace{info.Name, m.Sequence}
			if strings.HasPrefix(m.Subject, "KISFLOW.") || subject != "" && m.Subject != subject || t.read[at] {
				continue
			}
			t.read[at] = true
			all = append(all, Message{m.Subject, slices.Clone(m.Data)})
		}
	}
}

// sentTo are the subjects that a function sends to.
func sentTo(fn *flowdef.Func) []string {
	var all []string
	if fn.Expand != nil {
		all = append(all, fn.Expand.Subject.Value)
	}
	if late := lateSubject(fn); late != "" {
		all = append(all, late)
	}
	return all
}

// State returns the state of a key as JSON; nil if it has none. A flow that is not named is the one that is fed.
func (t *Trial) State(flow, step string, key ...string) ([]byte, error) {
	if flow == "" {
		flow = t.flow
	}
	s, err := t.engine.Step(flow, step)
	if err != nil {
		return nil, err
	}
	k, err := kis.ParseKey(s.Must, key)
	if err != nil {
		return nil, err
	}
	st, err := t.engine.State(flow, step, k)
	if errors.Is(err, actors.ErrNoState) {
		return nil, nil
	}
	return st.State, err
}

// DeadLetters returns the dead letters of a flow that have come since the last call.
func (t *Trial) DeadLetters(flow string) ([]actors.Letter, error) {
	if flow == "" {
		flow = t.flow
	}
	all, err := t.engine.DeadLetters(flow)
	var fresh []actors.Letter
	for _, l := range all {
		if id := flow + "\x00" + l.ID; !t.letters[id] {
			t.letters[id] = true
			fresh = append(fresh, l)
		}
	}
	return fresh, err
}

// TestFailure is what a test has found.
type TestFailure struct {
	Pos     flowdef.Pos
	Message string
	Diff    []string // lines that begin with "- " are expected, those with "+ " are there
}

// Error returns it as text.
func (f *TestFailure) Error() string {
	s := f.Pos.String() + ": " + f.Message
	for _, l := range f.Diff {
		s += "\n    " + l
	}
	return s
}

// RunTest runs a test over a set, which has been linted. Its error is a *TestFailure: what is not as expected, or what
// kept the test from going on.
func RunTest(ctx context.Context, set *flowdef.Set, test *flowdef.Test, opt TrialOptions) error {
	opt.Flow, opt.Start = test.Flow, test.Start
	t, err := NewTrial(ctx, set, opt)
	if err != nil {
		return &TestFailure{Pos: test.Pos, Message: err.Error()}
	}
	defer t.Close()
	for i := range test.Steps {
		if err := t.step(ctx, &test.Steps[i]); err != nil {
			var failure *TestFailure
			if !errors.As(err, &failure) {
				err = &TestFailure{Pos: test.Steps[i].Pos, Message: err.Error()}
			}
			return err
		}
	}
	return nil
}

func (t *Trial) step(ctx context.Context, s *flowdef.TestStep) error {
	switch {
	case s.In != nil:
		for _, row := range s.In {
			if err := t.Publish(ctx, s.Subject, row.JSON); err != nil {
				return err
			}
		}
		return nil
	case s.Wait > 0:
		return t.Wait(ctx, s.Wait)
	case s.End:
		return t.End(ctx)
	case s.Out != nil:
		return t.checkOut(ctx, s)
	case s.State != nil:
		return t.checkState(s)
	case s.DeadLetters != nil:
		return t.checkLetters(s)
	}
	return nil
}

func (t *Trial) checkOut(ctx context.Context, s *flowdef.TestStep) error {
	ms, err := t.Outputs(ctx, s.Subject)
	if err != nil {
		return err
	}
	var got []string
	for _, m := range ms {
		got = append(got, strings.Split(string(m.Data), "\n")...) // a packed message holds many
	}
	want := make([]string, len(s.Out))
	for i, r := range s.Out {
		want[i] = string(r.JSON)
	}
	what := "outputs"
	if s.Subject != "" {
		what += " on " + s.Subject
	}
	return compareRows(s, what, want, got, func(w, g string) bool { return matches([]byte(w), []byte(g), s.Partial) })
}

func (t *Trial) checkState(s *flowdef.TestStep) error {
	var key []string
	for _, f := range s.State.Key {
		key = append(key, f.Name+"="+f.Value)
	}
	got, err := t.State(s.State.Flow, s.State.Step.Value, key...)
	if err != nil {
		return err
	}
	say := func(b []byte) string {
		if b == nil {
			return "no state"
		}
		return string(b)
	}
	if got == nil && s.State.Is == nil || got != nil && s.State.Is != nil && matches(s.State.Is, got, s.Partial) {
		return nil
	}
	return &TestFailure{s.Pos, fmt.Sprintf("the state of %s at step %s is another one", strings.Join(key, " "), s.State.Step.Value),
		[]string{"- " + say(s.State.Is), "+ " + say(got)}}
}

func (t *Trial) checkLetters(s *flowdef.TestStep) error {
	letters, err := t.DeadLetters("")
	if err != nil {
		return err
	}
	var want, got []string
	byText := make(map[string]flowdef.TestLetter)
	for _, l := range s.DeadLetters {
		text := "step " + orAny(l.Step) + ": " + orAny(l.Reason) + ": " + orAny(string(l.Row))
		want, byText[text] = append(want, text), l
	}
	gotBy := make(map[string]actors.Letter)
	for _, l := range letters {
		text := "step " + orAny(l.Step) + ": " + l.Reason + ": " + string(l.Data)
		got, gotBy[text] = append(got, text), l
	}
	return compareRows(s, "dead letters", want, got, func(w, g string) bool {
		l, have := byText[w], gotBy[g]
		return (l.Step == "" || l.Step == have.Step) && strings.Contains(have.Reason, l.Reason) && (l.Row == nil || matches(l.Row, have.Data, s.Partial))
	})
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// compareRows compares lists, in order or in any.
func compareRows(s *flowdef.TestStep, what string, want, got []string, same func(want, got string) bool) error {
	var diff []string
	if s.AnyOrder {
		left := slices.Clone(got)
		for _, w := range want {
			if i := slices.IndexFunc(left, func(g string) bool { return same(w, g) }); i >= 0 {
				left = slices.Delete(left, i, i+1)
			} else {
				diff = append(diff, "- "+w)
			}
		}
		for _, g := range left {
			diff = append(diff, "+ "+g)
		}
	} else {
		diff = align(want, got, same)
	}
	if len(diff) == 0 {
		return nil
	}
	const most = 40
	if len(diff) > most {
		diff = append(diff[:most], fmt.Sprintf("... and %d more lines", len(diff)-most))
	}
	return &TestFailure{s.Pos, fmt.Sprintf("%s differ: %d expected, %d there", what, len(want), len(got)), diff}
}

// align finds where two lists differ: their common beginning and end are left out.
func align(want, got []string, same func(want, got string) bool) []string {
	for len(want) > 0 && len(got) > 0 && same(want[0], got[0]) {
		want, got = want[1:], got[1:]
	}
	for len(want) > 0 && len(got) > 0 && same(want[len(want)-1], got[len(got)-1]) {
		want, got = want[:len(want)-1], got[:len(got)-1]
	}
	var diff []string
	for i := range max(len(want), len(got)) {
		if i < len(want) && i < len(got) && same(want[i], got[i]) {
			diff = append(diff, "  "+got[i])
			continue
		}
		if i < len(want) {
			diff = append(diff, "- "+want[i])
		}
		if i < len(got) {
			diff = append(diff, "+ "+got[i])
		}
	}
	return diff
}

// matches compares two values: numbers by what they are, objects without the order of their fields.
func matches(want, got []byte, partial bool) bool {
	var w, g any
	dw, dg := json.NewDecoder(strings.NewReader(string(want))), json.NewDecoder(strings.NewReader(string(got)))
	dw.UseNumber()
	dg.UseNumber()
	if dw.Decode(&w) != nil || dg.Decode(&g) != nil {
		return string(want) == string(got)
	}
	return sameValue(w, g, partial)
}

func sameValue(w, g any, partial bool) bool {
	switch w := w.(type) {
	case map[string]any:
		o, ok := g.(map[string]any)
		if !ok || !partial && len(o) != len(w) {
			return false
		}
		for k, v := range w {
			if have, ok := o[k]; !ok || !sameValue(v, have, partial) {
				return false
			}
		}
		return true
	case []any:
		l, ok := g.([]any)
		if !ok || len(l) != len(w) {
			return false
		}
		for i := range w {
			if !sameValue(w[i], l[i], partial) {
				return false
			}
		}
		return true
	case json.Number:
		n, ok := g.(json.Number)
		if !ok {
			return false
		}
		a, errA := w.Int64()
		b, errB := n.Int64()
		if errA == nil && errB == nil {
			return a == b
		}
		x, errX := w.Float64()
		y, errY := n.Float64()
		return errX == nil && errY == nil && x == y
	}
	return w == g
}
