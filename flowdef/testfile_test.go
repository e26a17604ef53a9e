package flowdef

import (
	"strings"
	"testing"
	"time"
)

func TestParseTests(t *testing.T) {
	tests, ms := ParseTests("a.test.yaml", []byte(`test: every part
flow: F
start: 2026-05-01T10:00:00Z
steps:
  - {in: [{a: 1, b: "x", c: 1.50, d: true, e: null, f: [1, {g: 9223372036854775807}]}, 'no json'], subject: s.t}
  - wait: 1m30s
  - {out: {a: 1}, partial: true, any_order: true}
  - out: []
  - {state: {flow: G, step: totals, key: {user: 1, name: 订单}, is: {n: 1}}}
  - {state: {step: totals, key: {user: 2}}}
  - dead_letters: [{step: V, reason: too small, row: {a: 1}}, {}]
  - end: true
---
test: another
steps: []
`))
	if len(ms) > 0 || len(tests) != 2 {
		t.Fatalf("%d tests, mistakes:\n%s", len(tests), ms)
	}
	x := tests[0]
	if x.Name != "every part" || x.Flow != "F" || !x.Start.Equal(time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)) || len(x.Steps) != 8 {
		t.Fatalf("the test is %+v", x)
	}
	if got := string(x.Steps[0].In[0].JSON); got != `{"a":1,"b":"x","c":1.50,"d":true,"e":null,"f":[1,{"g":9223372036854775807}]}` {
		t.Errorf("the first row is %s", got)
	}
	if got := string(x.Steps[0].In[1].JSON); got != "no json" || x.Steps[0].Subject != "s.t" {
		t.Errorf("the second one is %s on %s", got, x.Steps[0].Subject)
	}
	if x.Steps[1].Wait != 90*time.Second || !x.Steps[2].Partial || !x.Steps[2].AnyOrder || x.Steps[3].Out == nil || len(x.Steps[3].Out) != 0 {
		t.Errorf("steps are %+v", x.Steps[1:4])
	}
	if s := x.Steps[4].State; s.Flow != "G" || s.Step.Value != "totals" || s.Key[1] != (TestField{"name", "订单"}) || string(s.Is) != `{"n":1}` {
		t.Errorf("the state is %+v", s)
	}
	if s := x.Steps[5].State; s.Is != nil {
		t.Errorf("the state is %s, want none", s.Is)
	}
	if l := x.Steps[6].DeadLetters; len(l) != 2 || l[0].Reason != "too small" || string(l[0].Row) != `{"a":1}` || l[1].Row != nil {
		t.Errorf("the dead letters are %+v", l)
	}
	if y := tests[1]; !y.Start.Equal(testStart) || len(y.Steps) != 0 {
		t.Errorf("the second test is %+v", y)
	}
}

func TestMistakesInTests(t *testing.T) {
	_, ms := ParseTests("a.test.yaml", []byte(`test: x
flwo: F
start: soon
steps:
  - {in: [[1]]}
  - {in: {a: 1}, out: {a: 1}}
  - {wait: a while}
  - 5
  - {state: {step: s}}
  - {end: false}
  - {dead_letters: {}}
  - {}
---
steps: {in: 1}
---
test: y
`))
	got := ms.String()
	for _, want := range []string{
		"a.test.yaml:2:1: unknown key \"flwo\" in a test", "did you mean \"flow\"?",
		"a.test.yaml:3:8: start is \"soon\", which is no time",
		"in holds a list; it must hold rows",
		"a step has in and out; it does one thing",
		"a.test.yaml:7:12: wait \"a while\"",
		"a.test.yaml:8:5:",
		"has no key",
		"end is true or is not there",
		"dead_letters is a mapping; it must be a list",
		"a step has none of in, wait, end, out, state, dead_letters",
		"a.test.yaml:14:1: a test has no test",
		"steps is a mapping; it must be a list",
		"a.test.yaml:16:1: a test has no steps",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("nothing says %q in\n%s", want, got)
		}
	}
}

func TestFoldersPassOverTests(t *testing.T) {
	set, ms := Load("testdata/withtests")
	if len(ms) > 0 || len(set.Flows) != 1 {
		t.Errorf("%d flows, mistakes:\n%s", len(set.Flows), ms)
	}
	tests, ms := LoadTests("testdata/withtests")
	if len(ms) > 0 || len(tests) != 1 || !strings.HasSuffix(tests[0].Pos.File, "one.test.yaml") {
		t.Errorf("tests %+v, mistakes:\n%s", tests, ms)
	}
	if _, ms := LoadTests("testdata/nothing here"); len(ms) != 1 {
		t.Errorf("mistakes of a folder that is not there: %s", ms)
	}
}
