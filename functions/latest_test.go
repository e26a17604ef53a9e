package functions

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// TestSaveKeepsLatest: of the rows of a key the one with the newest event time is kept, and of equal ones that which came
// last; those that were saved before the step kept rows come before all others, whenever they come in.
func TestSaveKeepsLatest(t *testing.T) {
	f, ms := New(Spec{Name: "F", Mode: kis.Save, Must: []string{"k"}, Save: &Save{Keep: true, Need: []string{"n"}}})
	if len(ms) > 0 {
		t.Fatal(ms)
	}
	if tr := f.Traits(); !tr.Stateful || !tr.KeepsKey || tr.Timed {
		t.Errorf("traits %+v", tr)
	}
	r, err := f.Open(kis.Step{Flow: "A", Name: "F", Params: kis.Params{}})
	if err != nil {
		t.Fatal(err)
	}
	var encoded []byte
	for _, step := range []struct {
		at     int64
		loaded bool
		n      string
		want   string // what is kept then
		err    string
	}{
		{at: 5, loaded: true, n: "1", want: `{"time":5,"row":{"k":"a","n":1},"old":true}`},
		{at: 5, loaded: true, n: "2", want: `{"time":5,"row":{"k":"a","n":2},"old":true}`},
		{at: 5, n: "3", want: `{"time":5,"row":{"k":"a","n":3}}`},
		{at: 5, loaded: true, n: "4", want: `{"time":5,"row":{"k":"a","n":3}}`},
		{at: 4, n: "5", want: `{"time":5,"row":{"k":"a","n":3}}`},
		{at: 5, n: "6", want: `{"time":5,"row":{"k":"a","n":6}}`},
		{at: 6, loaded: true, n: "7", want: `{"time":6,"row":{"k":"a","n":7},"old":true}`},
		{at: 6, n: "8", want: `{"time":6,"row":{"k":"a","n":8}}`},
		{at: 7, n: "null", want: `{"time":6,"row":{"k":"a","n":8}}`, err: "the row must have the field n"},
		{at: 7, n: `"` + strings.Repeat("x", MaxState) + `"`, want: `{"time":6,"row":{"k":"a","n":8}}`, err: fmt.Sprintf("the table's row has %d bytes; the most is %d", MaxState+16, MaxState)},
	} {
		state, err := r.Activate(encoded)
		if err != nil {
			t.Fatal(err)
		}
		row, err := kis.ParseRow([]byte(`{"k":"a","n":` + step.n + `}`))
		if err != nil {
			t.Fatal(err)
		}
		c := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{Time: time.UnixMilli(step.at)}}, State: state, Loaded: step.loaded}
		err = r.Handle(c)
		if fmt.Sprint(err) != step.err && (err != nil || step.err != "") {
			t.Errorf("row %.20s: %v, want %q", step.n, err, step.err)
		}
		if goes := err == nil && !step.loaded; (len(c.Emitted) == 1) != goes {
			t.Errorf("row %.20s: emitted %v", step.n, c.Emitted)
		}
		if encoded, err = r.Encode(nil, c.State); err != nil || string(encoded) != step.want {
			t.Errorf("after row %.20s: %s, %v; want %s", step.n, encoded, err, step.want)
		}
	}
	text, at, err := LatestRow(encoded)
	if err != nil || at != 6 || string(text) != `{"k":"a","n":8}` {
		t.Errorf("latest row %s at %d, %v", text, at, err)
	}
	if text, _, err := LatestRow(nil); text != nil || err != nil {
		t.Errorf("of no state: %s, %v", text, err)
	}
	if _, ms := New(Spec{Name: "F", Mode: kis.Save, Save: &Save{Keep: true}}); len(ms) != 1 || ms[0].Path != "save.keep" {
		t.Errorf("without a key: %v", ms)
	}
}

// TestLookupByCanonicalKey: what has keys with types is asked for canonical keys.
func TestLookupByCanonicalKey(t *testing.T) {
	key := func(values ...kis.Value) string {
		k, err := kis.KeyFromValues([]string{"user", "odd name"}[:len(values)], values)
		if err != nil {
			t.Fatal(err)
		}
		return k.Canonical()
	}
	s := &shelf{most: 10, rows: map[string]string{key(kis.IntValue(7), kis.StringValue("x")): `{"city":"Rome"}`}}
	spec := lookupSpec(s, Load{}, Lookup{Fields: []KeyField{{Name: "user", Expr: "row.buyer", Path: "load.key.user"}, {Name: "odd name", Path: "load.key"}}})
	c := call(time.Now(), `{"buyer":7,"odd name":"x"}`, `{"buyer":7.0,"odd name":"x"}`, `{"buyer":"7","odd name":"x"}`, `{"buyer":null,"odd name":"x"}`, `{"buyer":7}`, `{"buyer":{},"odd name":""}`)
	if err := openLookup(t, spec).HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range c.Emitted {
		got = append(got, e.Row.String())
	}
	want := `{"buyer":7,"odd name":"x","city":"Rome"} {"buyer":7.0,"odd name":"x","city":"Rome"} {"buyer":"7","odd name":"x"} {"buyer":null,"odd name":"x"}`
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if len(s.asked) != 1 || len(s.asked[0]) != 2 {
		t.Errorf("asked for %q", s.asked)
	}
	if err := fmt.Sprint(c.Refused[4], "; ", c.Refused[5]); !strings.Contains(err, "odd name") || !strings.Contains(err, `key field "user" is an object`) {
		t.Errorf("refused: %s", err)
	}
	for _, l := range []Lookup{
		{Fields: []KeyField{{Name: "user", Expr: "[row.buyer]", Path: "load.key"}}},
		{Fields: []KeyField{{Name: "user", Expr: "row.buyer +", Path: "load.key.user"}}},
	} {
		if _, ms := New(lookupSpec(s, Load{}, l)); len(ms) != 1 || !strings.HasPrefix(ms[0].Path, "load.key") {
			t.Errorf("key %+v: %v", l.Fields, ms)
		}
	}
}
