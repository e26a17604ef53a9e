package kistest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/node"
)

// Flows runs whole flows in a test: their definitions, with Go functions or without, on the engine that a node runs,
// in one thread, in memory, and with a clock that only the test moves.
//
//	f := kistest.RunFlows(t, []kis.Function{kis.Keyed("Reward", reward)}, []string{"rewards.yaml"})
//	f.Send(Order{Customer: "ada", Cents: 120_00})
//	if got := f.Out("rewards"); len(got) != 1 {
//		t.Errorf("sent %v, want one reward", got)
//	}
//
// It is not for concurrent use. What goes wrong fails the test.
type Flows struct {
	t     testing.TB
	trial *node.Trial
}

// FlowsOption tunes Flows.
type FlowsOption func(*node.TrialOptions)

// Feed names the flow that Send feeds and State looks at; without it, it is the only one that takes events.
func Feed(flow string) FlowsOption { return func(o *node.TrialOptions) { o.Flow = flow } }

// StartAt is when the clock starts; without it, 2026-01-01 UTC.
func StartAt(at time.Time) FlowsOption { return func(o *node.TrialOptions) { o.Start = at } }

// RunFlows starts the enabled flows of definition files and folders. The test fails if there is any mistake in them.
func RunFlows(t testing.TB, functions []kis.Function, paths []string, options ...FlowsOption) *Flows {
	t.Helper()
	set, mistakes := flowdef.Load(paths...)
	mistakes = append(mistakes, node.Lint(set, functions, true)...)
	mistakes.Sort()
	if faults := mistakes.Errors(); len(faults) > 0 {
		t.Fatalf("definitions:\n%s", faults)
	}
	o := node.TrialOptions{Functions: functions}
	for _, option := range options {
		option(&o)
	}
	trial, err := node.NewTrial(context.Background(), set, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trial.Close)
	return &Flows{t, trial}
}

// Send publishes rows to the flow's entry, one a message, and waits until all that comes of them is done. A row is what
// encoding/json writes as an object, a *kis.Row, or the message itself as a string or []byte.
func (f *Flows) Send(rows ...any) {
	f.t.Helper()
	f.SendTo("", rows...)
}

// SendTo is Send to a subject.
func (f *Flows) SendTo(subject string, rows ...any) {
	f.t.Helper()
	for _, row := range rows {
		var data []byte
		switch v := row.(type) {
		case string:
			data = []byte(v)
		case []byte:
			data = bytes.Clone(v)
		case *kis.Row:
			data = v.AppendJSON(nil)
		default:
			var err error
			if data, err = json.Marshal(v); err != nil {
				f.t.Fatalf("row %v: %v", row, err)
			}
		}
		if err := f.trial.Publish(context.Background(), subject, data); err != nil {
			f.t.Fatalf("publish %s: %v", data, err)
		}
	}
}

// Wait moves the clock on; what falls due on the way happens at its time.
func (f *Flows) Wait(d time.Duration) {
	f.t.Helper()
	if err := f.trial.Wait(context.Background(), d); err != nil {
		f.t.Fatal(err)
	}
}

// End ends the entries: windows close, timers fire.
func (f *Flows) End() {
	f.t.Helper()
	if err := f.trial.End(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// Out returns the rows that the flows have sent to a subject since the last call, in order; "" stands for all subjects.
func (f *Flows) Out(subject string) []*kis.Row {
	f.t.Helper()
	ms, err := f.trial.Outputs(context.Background(), subject)
	if err != nil {
		f.t.Fatal(err)
	}
	var rows []*kis.Row
	for _, m := range ms {
		for _, line := range bytes.Split(m.Data, []byte("\n")) { // a packed message holds many
			row, err := kis.ParseRow(line)
			if err != nil {
				f.t.Fatalf("output %s on %s: %v", line, m.Subject, err)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// State returns the state of a step's key as JSON, "" if it has none. The key's fields are written as in
// "userid=7".
func (f *Flows) State(step string, key ...string) string {
	f.t.Helper()
	state, err := f.trial.State("", step, key...)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(state)
}

// DeadLetters returns the dead letters that have come since the last call, each as "step: reason: row".
func (f *Flows) DeadLetters() []string {
	f.t.Helper()
	letters, err := f.trial.DeadLetters("")
	if err != nil {
		f.t.Fatal(err)
	}
	var all []string
	for _, l := range letters {
		all = append(all, fmt.Sprintf("%s: %s: %s", l.Step, l.Reason, l.Data))
	}
	return all
}
