package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
)

// The flow of these tests has a step that becomes another one under its name, and behind it one that looks at event
// time whatever the first one is.
const becoming = `
kistype: flow
status: 1
flow_name: Becoming
entry: {subject: apply.in}
time: {field: at}
flows:
  - {fname: Step, as: step}
  - {fname: Tell}
  - {fname: Clock}
---
kistype: func
fname: Tell
fmode: Expand
expand: {subject: apply.out}
---
kistype: func
fname: Clock
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  window: {tumbling: 1s}
  aggregate: {n: count()}
  emit: {user: key.user}
---
kistype: func
fname: Step
fmode: Calculate
`

// What the step may be.
const (
	aWindow = `source: {name: lines, must: [user]}
calculate:
  window: {tumbling: 10s}
  aggregate: {n: count()}
  emit: {user: key.user, at: window.end, window: state.n}
`
	aTotal = `source: {name: lines, must: [user]}
calculate:
  state: {n: {init: 0, set: state.n + 1}}
  emit: {user: row.user, at: row.at, total: state.n}
`
	aJoin = `source: {name: lines, must: [user]}
join:
  left: {when: row.side == 1}
  within: 3s
  type: left
  emit: {user: left.user, at: left.at, right: right.at}
`
	aScript = `source: {name: lines}
script: 'function handle(row) { emit(row) }'
`
)

// TestAStepBecomesAnother puts another function in the place of a step that keeps state, with a word that the state
// may go: all of it has gone then, and nothing that it was waiting for troubles the new function.
func TestAStepBecomesAnother(t *testing.T) {
	for _, c := range []struct {
		name, text string
		out        []string
	}{
		{"a total", aTotal, []string{`{"user":1,"at":1767225608000,"total":1}`, `{"user":3,"at":1767225660000,"total":1}`}},
		{"a join", aJoin, []string{`{"user":1,"at":1767225608000,"right":null}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			row := func(user, second, side int) {
				b.publishLines(func(lines *strings.Builder) {
					fmt.Fprintf(lines, "{\"user\":%d,\"at\":%d,\"side\":%d}\n", user, 1767225600000+second*1000, side)
				})
				b.settled()
			}
			b.apply(becoming + aWindow)
			row(1, 1, 1)
			row(2, 1, 1)
			path := filepath.Join(t.TempDir(), "flow.yaml")
			if err := os.WriteFile(path, []byte(becoming+c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			b.ctl("apply", "-f", path, "--yes", "--drop-state", "step")
			if list, err := b.client.States(ctx, "Becoming", "step", "", api.Page{Limit: 10}); err != nil || len(list.Items) != 0 {
				t.Errorf("the step begins with %d states, %v", len(list.Items), err)
			}
			row(1, 8, 1)
			b.restart()
			row(3, 60, 2) // past all that the window was waiting for
			for _, p := range must(b.client.Flow(ctx, "Becoming")).Stages[0].Partitions {
				if p.Reason != "" {
					t.Errorf("partition %s: %s", p.Name, p.Reason)
				}
			}
			var out []string
			b.eachOutput(func(m jetstream.Msg) { out = append(out, string(m.Data())) })
			slices.Sort(out)
			if !slices.Equal(out, c.out) {
				t.Errorf("outputs are\n  %s\nwant\n  %s\n%s", strings.Join(out, "\n  "), strings.Join(c.out, "\n  "), b.node.Log())
			}
			if list, err := b.client.DeadLetters(ctx, "Becoming", api.DeadLetterFilter{}, api.Page{Limit: 10}); err != nil || len(list.Items) > 0 {
				t.Errorf("dead letters: %+v, %v", list.Items, err)
			}
		})
	}
}

// TestAStepGetsAKey gives a step a key that had none, and with it a state: a restart keeps it.
func TestAStepGetsAKey(t *testing.T) {
	b := newBench(t)
	publish := func() {
		b.publishLines(func(lines *strings.Builder) {
			for u := range 20 {
				fmt.Fprintf(lines, "{\"user\":%d,\"at\":1767225600000}\n", u)
			}
		})
		b.settled()
	}
	b.apply(becoming + aScript)
	publish()
	b.apply(becoming + aTotal)
	publish()
	for restarts := range 3 {
		list, err := b.client.States(ctx, "Becoming", "step", "", api.Page{Limit: 100})
		if err != nil || len(list.Items) != 20 {
			t.Fatalf("after %d restarts: %d keys, %v, want 20\n%s", restarts, len(list.Items), err, b.node.Log())
		}
		for _, s := range list.Items {
			if want := fmt.Sprintf(`{"n":%d}`, restarts+1); string(s.State) != want {
				t.Errorf("after %d restarts: the state of %s is %s, want %s", restarts, s.Key, s.State, want)
			}
		}
		b.restart()
		publish()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
