package actors

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// modelFunction makes a function of a definition.
func modelFunction(t testing.TB, s functions.Spec) kis.Function {
	t.Helper()
	s.Mode = kis.Calculate
	f, mistakes := functions.New(s)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	return f
}

// revise makes another flow the next revision, all that has come in being done.
func (k *kit) revise(next *Flow) {
	k.t.Helper()
	k.mustRun()
	next.Revision, next.Inputs, next.Time = k.flow.Revision+1, k.flow.Inputs, k.flow.Time
	k.flow, k.dealers = next, nil
	for _, p := range k.parts {
		if err := p.Revise(k.t.Context(), next); err != nil {
			k.t.Fatal(err)
		}
	}
}

// kept lists the keys of the store's states and timers, with the states.
func (k *kit) kept() (all []string) {
	k.t.Helper()
	for _, p := range k.parts {
		if err := p.ports.Store.Scan([]byte{stateKind}, []byte{timerKind + 1}, func(key, value []byte) bool {
			said := string(key[:1])
			if key[0] == stateKind {
				var v proto.Value
				if err := proto.ParseValue(value, &v); err != nil {
					k.t.Fatal(err)
				}
				said += " " + string(v.State)
			}
			all = append(all, said)
			return true
		}); err != nil {
			k.t.Fatal(err)
		}
	}
	return all
}

// TestAStepBeginsAnew: where a step keeps its name and becomes another one, what it has kept is gone with the
// revision, for whoever looks; the timers of before do not come to the new function.
func TestAStepBeginsAnew(t *testing.T) {
	user := []string{"user"}
	window := modelFunction(t, functions.Spec{Name: "W", Must: user, Calculate: &functions.Calculate{
		Window: &functions.Window{Kind: "tumbling", Size: 10 * time.Second}, Aggregate: []functions.AggregateField{{Name: "n", Call: "count()"}},
		Emit: []functions.EmitField{{Name: "user", Expr: "key.user"}, {Name: "n", Expr: "state.n"}}}})
	total := modelFunction(t, functions.Spec{Name: "W", Must: user, Calculate: &functions.Calculate{
		State: []functions.StateField{{Name: "n", Init: "0", Set: "state.n + 1"}}}})
	join := modelFunction(t, functions.Spec{Name: "W", Must: user, Join: &functions.Join{Left: functions.JoinSide{When: "row.side == 1"}, Bounded: true,
		After: 3 * time.Second, Type: "left", Emit: []functions.EmitField{{Name: "user", Expr: "left.user"}, {Name: "right", Expr: "right.t"}}}})
	row := func(user, second, side int) string {
		return fmt.Sprintf(`{"user":%d,"t":%d,"side":%d}`, user, secondOf(second), side)
	}
	for _, removed := range []bool{false, true} {
		for _, next := range []struct {
			name  string
			f     kis.Function
			state string // of user 1 then
			out   []string
		}{
			{"a total", total, `{"n":1}`, []string{`out.x ` + row(1, 8, 1), `out.x ` + row(9, 30, 2)}},
			{"a join", join, "none", []string{`out.x {"user":1,"right":null}`}},
		} {
			t.Run(fmt.Sprintf("%s/removed=%v", next.name, removed), func(t *testing.T) {
				timed := passFunction(kis.KeepsKey(), kis.Timed()) // else nobody looks at event time in the second revision
				step := func(f kis.Function, begun uint64) *Flow {
					return kitFlow(Step{Function: timed}, Step{Name: "w", Function: f, Must: user, Begun: begun}, sends(Step{Function: sendFunction()}))
				}
				k := newKit(t, Options{}, 8<<20, step(window, 0))
				k.flow.Time = EventTime{Field: "t", Unit: time.Second}
				k.mustOpen()
				k.publish(row(1, 1, 1), row(2, 1, 1), row(3, 2, 1))
				k.revise(step(next.f, 2))
				p := k.parts[0]
				if n, err := p.CountKeys("w", 100); n != 0 || err != nil {
					t.Errorf("%d keys are counted, %v", n, err)
				}
				if err := p.States("w", nil, func(e KeyState, _ []byte) bool { t.Errorf("a state of before: %s", e.State); return true }); err != nil {
					t.Error(err)
				}
				if got := k.state("w", "user=2"); got != "none" {
					t.Errorf("the state of before of user 2 is %s", got)
				}
				k.publish(row(1, 8, 1))
				k.mustRun()
				if removed {
					if n, err := p.Remove(t.Context(), Removal{Step: "w", Must: user, Before: 2}); n != 2 || err != nil {
						t.Errorf("%d keys removed, %v, want 2: user 1 has a state of the new step", n, err)
					}
				}
				if _, err := p.Remove(t.Context(), Removal{Step: "w", Must: user, Before: 3}); err == nil {
					t.Error("the states of the step itself were removed")
				}
				k.mustOpen()
				k.publish(row(9, 30, 2)) // past all that the window has waited for
				k.mustRun()
				if got := k.state("w", "user=1"); got != next.state {
					t.Errorf("state of user 1 is %s, want %s", got, next.state)
				}
				same(t, "outputs", k.read("OUT"), next.out...)
				if said, _ := k.letters(); len(said) > 0 {
					t.Errorf("dead letters: %s", said)
				}
				kept := k.kept()
				states := 0
				for _, said := range kept {
					if strings.HasPrefix(said, "s {") {
						states++
					}
				}
				if n := k.parts[0].meta.StateKeys; strings.Contains(fmt.Sprint(kept), "windows") || int(n) != states {
					t.Errorf("%d keys are counted, and the store holds %q", n, kept)
				}
			})
		}
	}
}

// TestAStepThatGetsAKey: a step that had no key and now has one, and with it a state, keeps that state when what
// the former one has left is removed; that is the rows that wait.
func TestAStepThatGetsAKey(t *testing.T) {
	busy := rowFunction("S", func(row *kis.Row, out *kis.Output[*kis.Row]) error { return kis.Retry(fmt.Errorf("busy")) })
	for _, stands := range []bool{false, true} {
		k := newKit(t, Options{Partitions: 2}, 8<<20, kitFlow(Step{Name: "s", Function: busy, RetryTimes: 100, RetryDelay: time.Minute}))
		k.mustOpen()
		k.publish(`{"user":1,"n":1}`)
		k.mustRun()
		keyed := kitFlow(Step{Name: "s", Function: noteFunction(), Must: []string{"user"}, Begun: 2})
		k.revise(keyed)
		k.parts = nil // the former stage reads nothing any more
		k.mustOpen()
		for _, p := range k.parts { // they read on where the former stage was
			if err := p.Accept(t.Context(), 0, k.flow.Inputs[0].Created, 1); err != nil {
				t.Fatal(err)
			}
		}
		k.publish(`{"user":1,"name":"a"}`, `{"user":2,"name":"b"}`)
		k.mustRun()
		was, err := k.partition(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		other, err := k.partition(nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*Partition{was, other} {
			if err := p.Open(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range append([]*Partition{was, other}, k.parts...) {
			if n, err := p.remove(t.Context(), Removal{Step: "s", Before: 2, Rows: true}, stands); n != 0 || err != nil {
				t.Errorf("%s: %d keys removed, %v, want none", p.name, n, err)
			}
		}
		for user, want := range map[string]string{"user=1": `{"names":["a"]}`, "user=2": `{"names":["b"]}`} {
			if got := k.state("s", user); got != want {
				t.Errorf("state of %s is %s, want %s", user, got, want)
			}
		}
		k.parts = append(k.parts, was, other)
		if said, _ := k.letters(); len(said) != 1 || !strings.Contains(said[0], "taken out of the flow while the row waited at it: busy") {
			t.Errorf("dead letters: %q", said)
		}
	}
}
