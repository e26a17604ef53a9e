package functions

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// chain runs steps one after another on single rows, as a partition would, and keeps the states as bytes, so
// that every call starts from what was stored.
type chain struct {
	t      testing.TB
	specs  []Spec
	run    []kis.Runner
	traits []kis.Traits
	states map[string]string
}

func newChain(t testing.TB, specs ...Spec) *chain {
	t.Helper()
	c := &chain{t: t, specs: specs, states: make(map[string]string)}
	for _, s := range specs {
		fn, mistakes := New(s)
		if len(mistakes) > 0 {
			t.Fatalf("New(%s): %v", s.Name, mistakes)
		}
		r, err := fn.Open(kis.Step{Name: s.Name, Function: s.Name, Mode: s.Mode, Must: s.Must})
		if err != nil {
			t.Fatal(err)
		}
		c.run, c.traits = append(c.run, r), append(c.traits, fn.Traits())
	}
	return c
}

// send hands one event to the chain: what came out of its end, what was sent, and the error that ended its way.
func (c *chain) send(event string) (out []string, sent []string, err error) {
	c.t.Helper()
	row, err := kis.ParseRow([]byte(event))
	if err != nil {
		c.t.Fatalf("%s: %v", event, err)
	}
	rows := []*kis.Row{row}
	for i, r := range c.run {
		var next []*kis.Row
		for _, row := range rows {
			key, err := kis.KeyOf(row, c.specs[i].Must)
			if err != nil {
				return nil, nil, err
			}
			call := &kis.Call{Context: context.Background(), Key: key, Rows: []*kis.Row{row},
				Metas: []*kis.Meta{{Stream: "S", Subject: "s.x", Sequence: 9, Time: time.UnixMilli(1767225600000).UTC()}}}
			id := fmt.Sprintf("%d/%s", i, key.Canonical())
			if c.traits[i].Stateful {
				var stored []byte
				if s, ok := c.states[id]; ok {
					stored = []byte(s)
				}
				if call.State, err = r.Activate(stored); err != nil {
					c.t.Fatal(err)
				}
				for j := range stored {
					stored[j] = '#' // a state that keeps the bytes it was made of shows here
				}
			}
			err = r.Handle(call)
			if c.traits[i].Stateful {
				b, err := r.Encode(nil, call.State)
				if err != nil {
					c.t.Fatal(err)
				}
				c.states[id] = string(b)
			}
			if err != nil {
				return nil, sent, err
			}
			for _, s := range call.Sent {
				sent = append(sent, s.Subject+" "+s.Row.String())
			}
			for _, e := range call.Emitted {
				next = append(next, e.Row)
			}
		}
		rows = next
	}
	for _, r := range rows {
		out = append(out, r.String())
	}
	return out, sent, nil
}

// state is the stored state of the first step's key that has the given text in its name.
func (c *chain) state(key string) string {
	for id, s := range c.states {
		if strings.Contains(id, key) {
			return s
		}
	}
	return ""
}

func TestOrderTotals(t *testing.T) {
	c := newChain(t,
		Spec{Name: "VerifyOrder", Mode: kis.Verify, Must: []string{"userid"}, Verify: []Rule{
			{Rule: "row.amount > 0", Reason: "amount must be above zero"},
			{Rule: `row.kind != "test"`, Reason: "a test", Else: "drop"}}},
		userTotals(),
		Spec{Name: "EmitTotals", Mode: kis.Expand, Expand: &Expand{Subject: "totals.{userid}"}},
	)
	steps := []struct{ event, out, sent, err string }{
		{`{"userid":"ada","amount":5,"kind":"x"}`, `{"userid":"ada","count":1,"total":5,"max":5}`, `totals.ada {"userid":"ada","count":1,"total":5,"max":5}`, ""},
		{`{"userid":"bob","amount":7,"kind":"x"}`, `{"userid":"bob","count":1,"total":7,"max":7}`, `totals.bob {"userid":"bob","count":1,"total":7,"max":7}`, ""},
		{`{"userid":"ada","amount":0,"kind":"x"}`, "", "", "amount must be above zero: row.amount > 0"},
		{`{"userid":"ada","amount":1,"kind":"test"}`, "", "", `a test: row.kind != "test"`},
		{`{"userid":"ada","kind":"x"}`, "", "", "verify.0.rule, column 1: row.amount is missing"},
		{`{"userid":"ada","amount":"5","kind":"x"}`, "", "", `verify.0.rule, column 12: > needs two numbers or two strings; row.amount is a string, "5", 0 is an integer, 0`},
		{`{"userid":"ada","amount":9223372036854775807,"kind":"x"}`, "", "", "calculate.state.total.set, column 13: 5 + 9223372036854775807 does not fit a 64-bit integer"},
		{`{"userid":"ada","amount":3,"kind":"x"}`, `{"userid":"ada","count":2,"total":8,"max":5}`, `totals.ada {"userid":"ada","count":2,"total":8,"max":5}`, ""},
		{`{"userid":"a.b","amount":3,"kind":"x"}`, "", "", `expand.subject: row.userid, a string, "a.b", cannot be part of a subject: it holds a point`},
	}
	for _, s := range steps {
		out, sent, err := c.send(s.event)
		if got := strings.Join(out, " "); got != s.out {
			t.Errorf("%s: emitted %s, want %s", s.event, got, s.out)
		}
		if got := strings.Join(sent, " "); got != s.sent {
			t.Errorf("%s: sent %s, want %s", s.event, got, s.sent)
		}
		if got := fmt.Sprint(err); got != s.err && !(err == nil && s.err == "") {
			t.Errorf("%s:\n got %v\nwant %s", s.event, err, s.err)
		}
		if err != nil {
			want := kis.VerdictDeadLetter
			if strings.HasPrefix(s.err, "a test") {
				want = kis.VerdictDrop
			}
			if got := kis.VerdictOf(err); got != want {
				t.Errorf("%s: verdict %d, want %d", s.event, got, want)
			}
		}
	}
	if got, want := c.state("ada"), `{"count":2,"total":8,"max":5}`; got != want {
		t.Errorf("state of ada: %s, want %s", got, want)
	}
}

// Every set sees the state before the row, every emit the state after it; one that fails leaves all as it was.
func TestStateBeforeAndAfter(t *testing.T) {
	c := newChain(t, Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
		State: []StateField{{"a", "1", "state.b"}, {"b", "2", "state.a"}, {"last", `nil`, "row.text"}},
		Emit:  []EmitField{{"k", "row.k"}, {"a", "state.a"}, {"b", "state.b"}, {"half", "row.n / 2"}},
		When:  "row.n != 0",
	}})
	for _, s := range []struct{ event, out, state string }{
		{`{"k":1,"n":2,"text":"x"}`, `{"k":1,"a":2,"b":1,"half":1}`, `{"a":2,"b":1,"last":"x"}`},
		{`{"k":1,"n":3,"text":"y"}`, ``, `{"a":2,"b":1,"last":"x"}`}, // emit fails after all sets
		{`{"k":1,"n":4}`, ``, `{"a":2,"b":1,"last":"x"}`},            // the last set fails
		{`{"k":1, "n":0}`, `{"k":1, "n":0}`, `{"a":2,"b":1,"last":"x"}`},
		{`{"k":1,"n":0.0,"text":"y"}`, `{"k":1,"n":0.0,"text":"y"}`, `{"a":2,"b":1,"last":"x"}`},
		{`{"k":1,"n":6,"text":{"deep":[1.50,"\u00e9"]}}`, `{"k":1,"a":1,"b":2,"half":3}`, `{"a":1,"b":2,"last":{"deep":[1.50,"\u00e9"]}}`},
	} {
		out, _, err := c.send(s.event)
		if got := strings.Join(out, " "); got != s.out {
			t.Errorf("%s: emitted %s (%v), want %s", s.event, got, err, s.out)
		}
		if (err != nil) != (s.out == "") {
			t.Errorf("%s: %v", s.event, err)
		}
		if got := c.state("0/"); got != s.state {
			t.Errorf("%s: state %s, want %s", s.event, got, s.state)
		}
	}
}

// A state that an earlier revision left: what is not declared goes, what is new starts with its init.
func TestActivate(t *testing.T) {
	r := runnerOf(t, Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
		State: []StateField{{"count", "int(params.start)", "state.count + 1"}, {"größe", "[1, 2.5]", "state.größe"}},
	}}, kis.Params{"start": "40"})
	for _, s := range []struct{ stored, want string }{
		{``, `{"count":40,"größe":[1,2.5]}`},
		{`{"count":7}`, `{"count":7,"größe":[1,2.5]}`},
		{`{"old":1,"größe":"x","count":9223372036854775807}`, `{"count":9223372036854775807,"größe":"x"}`},
		{`{"count":92233720368547758070}`, `{"count":92233720368547758070,"größe":[1,2.5]}`},
	} {
		state, err := r.Activate([]byte(s.stored))
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Encode([]byte("x"), state)
		if err != nil || string(got) != "x"+s.want {
			t.Errorf("%s: %s, %v, want %s", s.stored, got, err, s.want)
		}
	}
	if _, err := r.Activate([]byte(`{"count":`)); err == nil {
		t.Error("a damaged state was activated")
	}
	// States of two keys share nothing.
	a, _ := r.Activate(nil)
	b, _ := r.Activate(nil)
	row, _ := kis.ParseRow([]byte(`{"k":1}`))
	if err := r.Handle(&kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}, State: a}); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Encode(nil, b); string(got) != `{"count":40,"größe":[1,2.5]}` {
		t.Errorf("the state of another key became %s", got)
	}
}

func TestStateBound(t *testing.T) {
	c := newChain(t, Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
		State: []StateField{{"all", `""`, "state.all + row.text"}}}})
	text := strings.Repeat("x", 300<<10)
	var err error
	for range 10 {
		if _, _, err = c.send(`{"k":1,"text":"` + text + `"}`); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a state that grows for ever: %v", err)
	}
	if got := len(c.state("0/")); got > MaxState+100 {
		t.Errorf("the state holds %d bytes", got)
	}
	c = newChain(t, Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
		State: []StateField{{"a", `""`, "row.text"}, {"b", `""`, "row.text"}}}})
	if _, _, err := c.send(`{"k":1,"text":"` + strings.Repeat("x", 600<<10) + `"}`); err == nil || !strings.Contains(err.Error(), "state would hold") {
		t.Errorf("a state of 1.2 MB: %v", err)
	}
}

func TestExpand(t *testing.T) {
	c := newChain(t, Spec{Name: "e", Mode: kis.Expand, Expand: &Expand{Subject: "out.{a}.x-{b}", When: "row.b > 0",
		Emit: []EmitField{{"sum", "row.a + row.b"}}}})
	for _, s := range []struct{ event, out, sent, err string }{
		{`{"a":1, "b":2}`, `{"a":1, "b":2}`, `out.1.x-2 {"sum":3}`, ""},
		{`{"a":1,"b":0}`, `{"a":1,"b":0}`, ``, ""},
		{`{"a":1.5,"b":1}`, ``, ``, "row.a is a float, 1.5; a subject takes"},
		{`{"a":null,"b":1}`, ``, ``, "row.a is null"},
		{`{"b":1}`, ``, ``, "row.a is missing"},
		{`{"a":"","b":1}`, ``, ``, "it is empty"},
		{`{"a":"x y","b":1}`, ``, ``, `holds the character ' '`},
		{`{"a":"*","b":1}`, ``, ``, `holds *`},
		{`{"a":">","b":1}`, ``, ``, `holds >`},
		{`{"a":"x\u0000","b":1}`, ``, ``, `holds the character '\x00'`},
		{`{"a":"` + strings.Repeat("x", 2000) + `","b":1}`, ``, ``, "more than 1024 bytes"},
		{`{"a":"x","b":1}`, ``, ``, `expand.emit.sum, column 7: + needs two numbers`},
	} {
		out, sent, err := c.send(s.event)
		if got := strings.Join(out, " "); got != s.out {
			t.Errorf("%.60s: emitted %s, want %s", s.event, got, s.out)
		}
		if got := strings.Join(sent, " "); got != s.sent {
			t.Errorf("%.60s: sent %s, want %s", s.event, got, s.sent)
		}
		if (err == nil) != (s.err == "") || err != nil && !strings.Contains(err.Error(), s.err) {
			t.Errorf("%.60s: %v, want %s", s.event, err, s.err)
		}
	}
	c = newChain(t, Spec{Name: "e", Mode: kis.Expand, Expand: &Expand{Subject: "{a}.x"}})
	if _, sent, err := c.send(`{"a":"$JS"}`); err == nil || len(sent) > 0 {
		t.Errorf("a row chose a subject of NATS: %v, %v", sent, err)
	}
}

func TestPassThrough(t *testing.T) {
	for _, mode := range []kis.Mode{kis.Verify, kis.Save, kis.Load} {
		c := newChain(t, Spec{Name: "f", Mode: mode})
		out, sent, err := c.send(`{ "a" : 1.50 }`)
		if err != nil || len(sent) > 0 || !reflect.DeepEqual(out, []string{`{ "a" : 1.50 }`}) {
			t.Errorf("%s without a body: %v, %v, %v", mode, out, sent, err)
		}
	}
}

func TestOpenParameters(t *testing.T) {
	spec := Spec{Name: "limit", Mode: kis.Verify, Verify: []Rule{
		{Rule: "row.amount <= int(params.most)"}, {Rule: `row.kind == (params.kind ?? "order")`}, {Rule: `"strict" in params ? params.strict == "no" : true`}}}
	fn, mistakes := New(spec)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	_, err := fn.Open(kis.Step{Name: "limit#2"})
	if want := "step limit#2: function limit needs the parameter most; give it in the flow's params or the function's default_params"; fmt.Sprint(err) != want {
		t.Errorf("Open without parameters:\n got %v\nwant %s", err, want)
	}
	for _, s := range []struct {
		params kis.Params
		event  string
		passes bool
	}{
		{kis.Params{"most": "10"}, `{"amount":10,"kind":"order"}`, true},
		{kis.Params{"most": "10"}, `{"amount":11,"kind":"order"}`, false},
		{kis.Params{"most": "10", "kind": "refund"}, `{"amount":1,"kind":"order"}`, false},
		{kis.Params{"most": "10", "kind": "refund"}, `{"amount":1,"kind":"refund"}`, true},
		{kis.Params{"most": "10", "strict": "yes"}, `{"amount":1,"kind":"order"}`, false},
		{kis.Params{"most": "ten"}, `{"amount":1,"kind":"order"}`, false},
	} {
		r, err := fn.Open(kis.Step{Name: "limit", Params: s.params})
		if err != nil {
			t.Fatal(err)
		}
		row, _ := kis.ParseRow([]byte(s.event))
		call := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}}
		if err := r.Handle(call); (err == nil) != s.passes || len(call.Emitted) == 1 != s.passes {
			t.Errorf("%v %s: %v", s.params, s.event, err)
		}
	}
	// A runner keeps nothing of the last row.
	bad := Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{State: []StateField{{"a", "int(params.x)", "state.a"}}}}
	fn, mistakes = New(bad)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if _, err := fn.Open(kis.Step{Name: "f", Params: kis.Params{"x": "?"}}); err == nil || !strings.Contains(err.Error(), `calculate.state.a.init`) {
		t.Errorf("an init that fails with the parameters: %v", err)
	}
}

func TestTraits(t *testing.T) {
	emit := func(e ...EmitField) *Calculate { return &Calculate{Emit: e} }
	for _, s := range []struct {
		name string
		spec Spec
		want kis.Traits
	}{
		{"verify", Spec{Mode: kis.Verify, Verify: []Rule{{Rule: "row.a > 0"}}}, kis.Traits{KeepsKey: true}},
		{"expand", Spec{Mode: kis.Expand, Expand: &Expand{Subject: "x", Emit: []EmitField{{"a", "1"}}}}, kis.Traits{KeepsKey: true}},
		{"totals", userTotals(), kis.Traits{Stateful: true, KeepsKey: true}},
		{"no emit", Spec{Mode: kis.Calculate, Must: []string{"a"}, Calculate: &Calculate{State: []StateField{{"n", "0", "1"}}}}, kis.Traits{Stateful: true, KeepsKey: true}},
		{"key lost", Spec{Mode: kis.Calculate, Must: []string{"a", "b"}, Calculate: emit(EmitField{"a", "row.a"})}, kis.Traits{}},
		{"key kept", Spec{Mode: kis.Calculate, Must: []string{"a", "b"}, Calculate: emit(EmitField{"b", ` row["b"] `}, EmitField{"a", "(row.a)"})}, kis.Traits{KeepsKey: true}},
		{"key changed", Spec{Mode: kis.Calculate, Must: []string{"a"}, Calculate: emit(EmitField{"a", "row.a + 0"})}, kis.Traits{}},
		{"key swapped", Spec{Mode: kis.Calculate, Must: []string{"a", "b"}, Calculate: emit(EmitField{"a", "row.b"}, EmitField{"b", "row.a"})}, kis.Traits{}},
		{"key optional", Spec{Mode: kis.Calculate, Must: []string{"a"}, Calculate: emit(EmitField{"a", "row?.a"})}, kis.Traits{}},
		{"no key", Spec{Mode: kis.Calculate, Calculate: emit(EmitField{"a", "row.a"})}, kis.Traits{}},
	} {
		fn, mistakes := New(s.spec)
		if len(mistakes) > 0 {
			t.Errorf("%s: %v", s.name, mistakes)
			continue
		}
		if got := fn.Traits(); got != s.want {
			t.Errorf("%s: traits %+v, want %+v", s.name, got, s.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	calc := func(c Calculate) Spec {
		return Spec{Name: "f", Mode: kis.Calculate, Must: []string{"userid"}, Calculate: &c}
	}
	rule := func(r string) Spec {
		return Spec{Name: "f", Mode: kis.Verify, Must: []string{"userid"}, Verify: []Rule{{Rule: r}}}
	}
	expand := func(s string) Spec { return Spec{Name: "f", Mode: kis.Expand, Expand: &Expand{Subject: s}} }
	for _, s := range []struct {
		spec Spec
		want string // the mistakes, one a line
	}{
		{rule("row.amount"), ""},
		{rule("row.amount + 1"), "verify.0.rule: must say true or false, but it is a number"},
		{rule("row.amount + 1.5"), "verify.0.rule: must say true or false, but it is a float"},
		{rule(""), "verify.0.rule: the expression is empty"},
		{rule("row.amount >"), "verify.0.rule, column 12: the expression ends too early"},
		{rule("row.ümlaut = 1"), "verify.0.rule, column 13: unexpected = (== compares)"},
		{rule("row.größe > rov.x"), "verify.0.rule, column 15: unknown name rov (did you mean row?)"},
		{rule("amount > 1"), "verify.0.rule, column 1: unknown name amount (a field of the row is row.amount, a text stands in quotes)"},
		{rule("len > 1"), "verify.0.rule, column 1: unknown name len (call it: len(value))"},
		{rule("state.x > 1"), "verify.0.rule, column 1: state is there only in a Calculate that has one"},
		{rule("key.user > 1"), "verify.0.rule, column 5: the key has no field user (known: userid)"},
		{rule("meta.tim > 1"), "verify.0.rule, column 6: meta has no tim (did you mean time?)"},
		{rule(`meta.time > "x"`), `verify.0.rule, column 11: > needs two numbers or two strings; meta.time is an integer, "x" is a string`},
		{rule("now() > 1"), "verify.0.rule, column 1: there is no function now (an expression must answer the same when a row is handled again; the event's time is meta.time)"},
		{rule("max(1) > len(2)"), "verify.0.rule, column 10: len needs a string, an array or an object; 2 is an integer"},
		{rule("round(1, 2, 3) > 0"), "verify.0.rule, column 1: round takes 2 arguments, not 3 (round(number, digits?))"},
		{rule("filter(row.a) == []"), "verify.0.rule, column 13: expected at least 2 arguments"},
		{rule("row.a.trim() == 1"), "verify.0.rule, column 7: values have no methods (write trim(row.a))"},
		{rule(`row.a matches "("`), "verify.0.rule, column 15: error parsing regexp: missing closing ): `(` (patterns are Go regular expressions (RE2))"},
		{rule(`capture(row.a, "x") == "y"`), "verify.0.rule, column 16: the pattern has 0 groups, not group 1 (a group stands in parentheses)"},
		{rule("row.a == 92233720368547758070"), "verify.0.rule: an integer does not fit 64 bits"},
		{rule("#.x > 1"), "verify.0.rule, column 1: unexpected #"},
		{rule("1; true"), "verify.0.rule, column 1: only one expression can stand here, without ;"},
		{rule("let row = 1; true"), "verify.0.rule, column 5: let row: the name is taken (choose another name)"},
		{rule("row.a > 1 and not (row.b and 5)"), "verify.0.rule, column 26: and needs a boolean; 5 is an integer"},
		{rule(`b"x" == row.a`), "verify.0.rule, column 1: there are no byte strings (a string stands in quotes without b)"},
		{rule("row.a == " + strings.Repeat("(", 9000)), "verify.0.rule: the expression has 9009 bytes; the most is 8192"},
		{rule("row.a == \xff"), "verify.0.rule: the expression is not UTF-8"},
		{rule("1" + strings.Repeat("+1", 1000) + " > 0"), "verify.0.rule, column 1002: the expression has more than 1000 parts"},
		{calc(Calculate{}), "calculate: it has neither state nor emit"},
		{calc(Calculate{State: []StateField{{"count", "0", "state.coun + 1"}}}), "calculate.state.count.set, column 7: unknown state field coun (did you mean count?)"},
		{calc(Calculate{State: []StateField{{"count", "row.x", "state.count + 1"}}}), "calculate.state.count.init, column 1: row cannot be used in init: there is no row yet"},
		{calc(Calculate{State: []StateField{{"a", "0", "1"}, {"a", "0", "1"}}}), "calculate.state.a: the field is there twice"},
		{calc(Calculate{State: []StateField{{"", "0", ""}}}), "calculate.state.0: the field has no name\ncalculate.state..set: the expression is empty"},
		{calc(Calculate{State: []StateField{{"name", `""`, `state.name + 1`}}}), `calculate.state.name.set, column 12: + needs two numbers or two strings; state.name is a string, 1 is an integer`},
		{calc(Calculate{Emit: []EmitField{{"a", "row.a"}, {"a", "rw.b"}, {"", "1"}}, When: "5"}),
			"calculate.emit.a: the field is there twice\ncalculate.emit.a, column 1: unknown name rw (did you mean row?)\ncalculate.emit.2: the field has no name\ncalculate.when: must say true or false, but it is an integer"},
		{calc(Calculate{State: []StateField{{"name", `""`, `type(state.name) == "string" ? 0 : state.name + 1`}}}), ""},
		{calc(Calculate{State: []StateField{{"n", "0", "state.s"}, {"s", `""`, "state.s"}}, Emit: []EmitField{{"x", "state.n + 1"}}}), ""},
		{calc(Calculate{State: []StateField{{"n", "0", "state.n + 1"}}, Emit: []EmitField{{"x", "state.n[0]"}}}), "calculate.emit.x, column 8: [] needs a string, an array, an object or null; state.n is an integer"},
		{Spec{Mode: kis.Calculate, Calculate: &Calculate{State: []StateField{{"a", "0", "1"}}}}, "calculate.state: a state belongs to a key, and the function has none (name the key's fields in source: {must: [...]})"},
		{Spec{Mode: kis.Calculate}, "calculate: a function of mode Calculate needs calculate, or a Go function of its name"},
		{Spec{Mode: kis.Expand, Verify: []Rule{{Rule: "true"}}}, "verify: a function of mode Expand has no verify\nexpand: a function of mode Expand needs expand, or a Go function of its name"},
		{Spec{Mode: "Verfy"}, `fmode: unknown mode "Verfy" (Verify, Save, Load, Calculate or Expand)`},
		{Spec{Mode: kis.Verify, Verify: []Rule{{Rule: "true", Else: "ignore"}}}, `verify.0.else: unknown word "ignore" (dead_letter or drop)`},
		{expand(""), "expand.subject: an Expand needs a subject (as in totals.user or totals.{userid})"},
		{expand("a.{b"), "expand.subject, column 3: a brace without its other one (a value stands as {field})"},
		{expand("a.b}"), "expand.subject, column 4: a brace without its other one (a value stands as {field})"},
		{expand("a.{}"), "expand.subject, column 3: braces without a field (a value stands as {field})"},
		{expand("a..b"), `expand.subject: "a..b" is no subject to publish to: a part is empty`},
		{expand("a.*"), `expand.subject: "a.*" is no subject to publish to: a part holds *, which stands for other subjects`},
		{expand("$SYS.x"), `expand.subject: "$SYS.x" is no subject to publish to: what starts with $ belongs to NATS`},
		{expand("a.{b}.c"), ""},
	} {
		fn, mistakes := New(s.spec)
		var lines []string
		for _, m := range mistakes {
			lines = append(lines, m.Error())
		}
		if got := strings.Join(lines, "\n"); got != s.want {
			t.Errorf("%+v:\n got %s\nwant %s", s.spec, got, s.want)
		}
		if (fn == nil) != (s.want != "") {
			t.Errorf("%+v: function %v with mistakes %v", s.spec, fn, mistakes)
		}
	}
}

// A chain of comparisons stands twice in the tree; nested ones must not double at every level.
func TestNestedComparisons(t *testing.T) {
	e := "row.a"
	for range 40 {
		e = "1 < (" + e + ") < 3"
	}
	_, mistakes := New(Spec{Mode: kis.Verify, Verify: []Rule{{Rule: e}}})
	if len(mistakes) == 0 {
		t.Error("a rule of 2^40 comparisons was taken")
	}
}

// What an expression may do for one row is bounded, whatever the row.
func TestBudget(t *testing.T) {
	long := strings.Repeat("7,", 5000) + "7"
	row, err := kis.ParseRow([]byte(`{"userid":"u","list":[` + long + `],"text":"` + strings.Repeat("a", 100<<10) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ source, want string }{
		{`all(row.list, all(row.list, all(row.list, # == 7)))`, "too much work"},
		{`sum(row.list, row.list[5000] + row.list[-1])`, "too much work"},
		{`map(row.list, row.text + "x")`, "too much work"},
		{`reduce(row.list, #acc + row.text, "")`, "too much work"},
		{`repeat(row.text, 1000000)`, "would build more than"},
		{`repeat("", 9223372036854775807)`, ""},
		{`replace(row.text, "a", row.text)`, "would build more than"},
		{`len(1..9223372036854775807)`, "too much work"},
		{`sum(row.list) + len(row.text)`, ""},
		{`len(uniq(row.list))`, ""},
		{`any(row.list, row.text matches "(a?){20}b")`, "too much work"},
		{`len(groupBy(row.list, row.text + string(#index)))`, "too much work"},
	} {
		p, mistakes := compileTest(s.source)
		if len(mistakes) > 0 {
			if s.want == "" || !strings.Contains(mistakes[0].Message, s.want) {
				t.Errorf("%s: %v", s.source, mistakes)
			}
			continue
		}
		start := time.Now()
		_, err := evaluate(p, row)
		if (err == nil) != (s.want == "") || err != nil && !strings.Contains(err.Error(), s.want) {
			t.Errorf("%s: %v, want %q", s.source, err, s.want)
		}
		t.Logf("%-60s %v", s.source, time.Since(start).Round(time.Millisecond))
	}
	deep := "row.list"
	for range 80 {
		deep = "[" + deep + "]"
	}
	p, mistakes := compileTest(deep)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if _, err := evaluate(p, row); err == nil {
		t.Error("an array that is nested 81 levels deep was built")
	}
}

func TestVerdictOfMistake(t *testing.T) {
	r := runnerOf(t, Spec{Mode: kis.Verify, Verify: []Rule{{Rule: "row.a > 0", Else: "drop"}}}, nil)
	row, _ := kis.ParseRow([]byte(`{"a":"x"}`))
	err := r.Handle(&kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}})
	if kis.VerdictOf(err) != kis.VerdictDeadLetter {
		t.Errorf("a rule that cannot be computed drops the row: %v", err)
	}
	var m Mistake
	if !errors.As(err, &m) || m.Path != "verify.0.rule" || m.Column != 7 {
		t.Errorf("error %v has no place", err)
	}
}

// One function has a runner in every partition; they run at the same time and share nothing that changes.
func TestRunnersAtOnce(t *testing.T) {
	fn, mistakes := New(Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
		State: []StateField{{"n", "0", `state.n + sum(row.list, # * #index) + count(row.list, string(#) matches params.p)`}},
		Emit:  []EmitField{{"k", "row.k"}, {"n", "state.n"}, {"l", `let x = map(row.list, {let y = # + 1; y}); x`}, {"p", `row.k matches "^a"`}}}})
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			r, err := fn.Open(kis.Step{Name: "f", Params: kis.Params{"p": "^[0-9]$"}})
			if err != nil {
				t.Error(err)
				return
			}
			state, _ := r.Activate(nil)
			text := fmt.Sprintf(`{"k":"a%d","list":[%d,2,30]}`, i, i)
			for n := int64(1); n <= 200; n++ {
				row, err := kis.ParseRow([]byte(text))
				if err != nil {
					t.Error(err)
					return
				}
				c := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}, State: state}
				if err := r.Handle(c); err != nil {
					t.Error(err)
					return
				}
				want := fmt.Sprintf(`{"k":"a%d","n":%d,"l":[%d,3,31],"p":true}`, i, n*(2+60+2), i+1)
				if got := c.Emitted[0].Row.String(); got != want {
					t.Errorf("got %s, want %s", got, want)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestTimersOfAnother: a timer that another function has set, which had the step before, is nobody's fault: whatever runs
// there now passes it over.
func TestTimersOfAnother(t *testing.T) {
	must := []string{"k"}
	for _, s := range []Spec{
		{Name: "V", Mode: kis.Verify, Must: must, Verify: []Rule{{Rule: "row.v > 0"}}},
		{Name: "C", Mode: kis.Calculate, Must: must, Calculate: &Calculate{State: []StateField{{"n", "0", "state.n + row.v"}}}},
		{Name: "A", Mode: kis.Calculate, Must: must, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "n", Call: "sum(row.v)"}}}},
		windowSpec(Window{Kind: "tumbling", Size: time.Second}, []AggregateField{{Name: "n", Call: "count()"}}),
		windowSpec(Window{Kind: "count", Count: 2}, []AggregateField{{Name: "n", Call: "count()"}}),
		joinSpec(Join{Bounded: true, After: time.Second, Type: "full"}),
		{Name: "T", Mode: kis.Load, Must: must, Load: &Load{Table: true}},
		{Name: "E", Mode: kis.Expand, Must: must, Expand: &Expand{Subject: "out.{k}"}},
	} {
		e := newEngine(t, s, nil)
		key := keyOf(t, "a")
		e.keys[key.Canonical()] = key
		for _, name := range []string{"someone else's", windowTimer, joinTimer, earlyTimer} {
			for _, domain := range []kis.TimeDomain{kis.EventTime, kis.ProcessingTime} {
				e.fire(timerID{key.Canonical(), name, domain}, 1000)
			}
		}
		if len(e.out)+len(e.sent)+len(e.letters) > 0 {
			t.Errorf("%s: out %q, sent %q, dead letters %q", s.Name, e.out, e.sent, e.letters)
		}
	}
}
