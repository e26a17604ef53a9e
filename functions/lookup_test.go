package functions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// shelf is a place outside.
type shelf struct {
	rows  map[string]string
	most  int
	asked [][]string
	down  error
	keys  map[string]error // faults of single keys
	hangs bool
}

func (s *shelf) Check(context.Context) error { return nil }
func (s *shelf) Close() error                { return nil }
func (s *shelf) Most() int                   { return s.most }

func (s *shelf) Find(ctx context.Context, keys []string, found []kis.Found) error {
	s.asked = append(s.asked, slices.Clone(keys))
	if s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	for i, key := range keys {
		if text, ok := s.rows[key]; ok {
			found[i].Row, _ = kis.ParseRow([]byte(text))
		}
		found[i].Err = s.keys[key]
	}
	return s.down
}

func lookupSpec(s *shelf, load Load, l Lookup, must ...string) Spec {
	l.Where, l.From = "connector users", s
	if l.CacheSize == 0 {
		l.CacheSize = 100
	}
	if l.Timeout == 0 {
		l.Timeout = time.Second
	}
	load.Lookup = &l
	return Spec{Name: "F", Mode: kis.Load, Must: must, Load: &load}
}

func openLookup(t *testing.T, spec Spec) kis.Many {
	t.Helper()
	f, ms := New(spec)
	if len(ms) > 0 {
		t.Fatal(ms)
	}
	if !f.Traits().Many || f.Traits().Stateful {
		t.Fatalf("traits %+v", f.Traits())
	}
	r, err := f.Open(kis.Step{Flow: "A", Name: "F", Params: kis.Params{}})
	if err != nil {
		t.Fatal(err)
	}
	return r.(kis.Many)
}

// call makes a call of rows; their key is that of no step.
func call(now time.Time, rows ...string) *kis.Call {
	c := &kis.Call{Context: context.Background(), Now: now}
	for _, text := range rows {
		row, err := kis.ParseRow([]byte(text))
		if err != nil {
			panic(err)
		}
		c.Rows, c.Metas = append(c.Rows, row), append(c.Metas, &kis.Meta{Time: now})
	}
	return c
}

// said tells what became of a call's rows.
func said(c *kis.Call) string {
	out := make([]string, len(c.Rows))
	for _, e := range c.Emitted {
		out[e.Cause] += e.Row.String()
	}
	for i, err := range c.Refused {
		if err != nil {
			out[i] += fmt.Sprintf("%d: %v", kis.VerdictOf(err), err)
		}
	}
	return strings.Join(out, " | ")
}

var someday = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestLookup(t *testing.T) {
	rows := map[string]string{"ada": `{"name":"Ada","n":9}`, "7": `{"name":"Seven"}`, "true": `{"name":"Yes"}`}
	for _, test := range []struct {
		name string
		load Load
		key  string
		row  string
		want string
	}{
		{"all fields that the row lacks", Load{}, "row.u", `{"u":"ada","n":1}`, `{"u":"ada","n":1,"name":"Ada"}`},
		{"set", Load{Set: []EmitField{{"n", "row.n + found.n"}, {"who", "found.name"}}}, "row.u", `{"u":"ada","n":1}`, `{"u":"ada","n":10,"who":"Ada"}`},
		{"a number", Load{}, "row.u", `{"u":7}`, `{"u":7,"name":"Seven"}`},
		{"a truth value", Load{}, "row.u", `{"u":true}`, `{"u":true,"name":"Yes"}`},
		{"missing passes", Load{}, "row.u", `{"u":"bob"}`, `{"u":"bob"}`},
		{"missing passes with null", Load{Set: []EmitField{{"who", `found?.name ?? "?"`}, {"there", "found != null"}}}, "row.u", `{"u":"bob"}`, `{"u":"bob","who":"?","there":false}`},
		{"missing drops", Load{Missing: "drop"}, "row.u", `{"u":"bob"}`, `3: connector users has nothing of the key`},
		{"missing is a dead letter", Load{Missing: "dead_letter"}, "row.u", `{"u":"bob"}`, `0: connector users has nothing of the key`},
		{"no key", Load{}, "row.u", `{"u":null}`, `{"u":null}`},
		{"an empty key", Load{Missing: "drop"}, "row.u", `{"u":""}`, `3: connector users has nothing of the key`},
		{"a key that is none", Load{}, "row.u", `{"u":[1]}`, `0: load.key is an array; it must be a text, a number or a truth value`},
		{"a key without a field", Load{}, "row.u", `{}`, `0: load.key, column 1: row.u is missing`},
		{"a key that is too long", Load{}, "row.u", `{"u":"` + strings.Repeat("x", 5000) + `"}`, `0: the key to look up has 5000 bytes; the most is 4096`},
		{"a field that was not found", Load{Set: []EmitField{{"c", "found.city"}}}, "row.u", `{"u":"ada"}`, `0: load.set.c, column 1: found.city is missing`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := openLookup(t, lookupSpec(&shelf{rows: rows, most: 10}, test.load, Lookup{Key: test.key}))
			c := call(someday, test.row)
			if err := r.HandleMany([]*kis.Call{c}); err != nil {
				t.Fatal(err)
			}
			if got := said(c); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestLookupKeys: without load.key it is the values of the must fields.
func TestLookupKeys(t *testing.T) {
	s := &shelf{most: 10, rows: map[string]string{"ada:7": `{"name":"Ada"}`}}
	r := openLookup(t, lookupSpec(s, Load{}, Lookup{}, "u", "n"))
	c := call(someday, `{"u":"ada","n":7}`)
	var err error
	if c.Key, err = kis.KeyOf(c.Rows[0], []string{"u", "n"}); err != nil {
		t.Fatal(err)
	}
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	if got := said(c); got != `{"u":"ada","n":7,"name":"Ada"}` {
		t.Error(got)
	}
	for _, test := range []struct {
		spec Spec
		want string
	}{
		{lookupSpec(s, Load{}, Lookup{}), "load: the look-up has no key"},
		{lookupSpec(s, Load{}, Lookup{Key: "[row.u]"}), "load.key: a key is a text, a number or a truth value, but it is an array"},
		{lookupSpec(s, Load{}, Lookup{Key: "found.x"}), "load.key, column 1: unknown name found"},
		{lookupSpec(s, Load{Set: []EmitField{{"a", "fuond.x"}}}, Lookup{Key: "row.u"}), "did you mean found?"},
		{lookupSpec(s, Load{Set: []EmitField{{"u", "found.x"}}}, Lookup{Key: "row.u"}, "u"), "u is a field of the key"},
	} {
		_, ms := New(test.spec)
		if len(ms) != 1 || !strings.Contains(ms[0].Error(), test.want) {
			t.Errorf("%v, want %s", ms, test.want)
		}
	}
}

// TestLookupBatch: each key of a batch is asked for once, as many at a time as the place takes.
func TestLookupBatch(t *testing.T) {
	s := &shelf{most: 2, rows: map[string]string{"a": `{"v":1}`, "b": `{"v":2}`, "c": `{"v":3}`}}
	counts := new(LookupCounts)
	r := openLookup(t, lookupSpec(s, Load{}, Lookup{Key: "row.u", Counts: counts}))
	one, two := call(someday, `{"u":"a"}`, `{"u":"b"}`, `{"u":"a"}`), call(someday, `{"u":"c"}`, `{"u":"x"}`, `{"u":"b"}`)
	if err := r.HandleMany([]*kis.Call{one, two}); err != nil {
		t.Fatal(err)
	}
	if got, want := said(one)+" | "+said(two), `{"u":"a","v":1} | {"u":"b","v":2} | {"u":"a","v":1} | {"u":"c","v":3} | {"u":"x"} | {"u":"b","v":2}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := fmt.Sprint(s.asked); got != "[[a b] [c x]]" {
		t.Errorf("asked %s", got)
	}
	if f, m, c := counts.Found.Load(), counts.Missing.Load(), counts.Cached.Load(); f != 3 || m != 1 || c != 2 {
		t.Errorf("counted %d found, %d missing, %d cached", f, m, c)
	}
}

// TestLookupCache: what was found is asked for again when its time is over, what was not sooner; partitions share it.
func TestLookupCache(t *testing.T) {
	s := &shelf{most: 10, rows: map[string]string{"a": `{"v":1}`}}
	spec := lookupSpec(s, Load{}, Lookup{Key: "row.u", Cache: 10 * time.Second})
	f, ms := New(spec)
	if len(ms) > 0 {
		t.Fatal(ms)
	}
	for _, step := range []struct {
		after time.Duration
		asked string
	}{{0, "[[a x]]"}, {500 * time.Millisecond, "[]"}, {time.Second, "[[x]]"}, {10 * time.Second, "[[a x]]"}} {
		s.asked = nil
		r, err := f.Open(kis.Step{Flow: "A", Name: "F", Params: kis.Params{}}) // another partition
		if err != nil {
			t.Fatal(err)
		}
		c := call(someday.Add(step.after), `{"u":"a"}`, `{"u":"x"}`)
		if err := r.(kis.Many).HandleMany([]*kis.Call{c}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.asked); got != step.asked || said(c) != `{"u":"a","v":1} | {"u":"x"}` {
			t.Errorf("after %s: asked %s, want %s; %s", step.after, got, step.asked, said(c))
		}
	}
}

func TestLookupCacheBounds(t *testing.T) {
	c := newLookupCache(3)
	row, err := kis.ParseRow([]byte(`{"v":1}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		c.put(key, row, someday, time.Minute)
	}
	c.get("a", someday)
	c.put("d", row, someday, time.Minute)
	for key, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if _, got := c.get(key, someday); got != want {
			t.Errorf("%s is there: %v", key, got)
		}
	}
	large, err := kis.ParseRow([]byte(`{"v":"` + strings.Repeat("x", 100<<20) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.put(fmt.Sprint(i), large, someday, time.Minute)
	}
	if c.bytes > maxCacheBytes || c.order.Len() != 2 || len(c.byKey) != 2 {
		t.Errorf("%d bytes in %d keys (%d)", c.bytes, c.order.Len(), len(c.byKey))
	}
	for key := range c.byKey {
		c.remove(c.byKey[key])
	}
	if c.bytes != 0 {
		t.Errorf("%d bytes are left", c.bytes)
	}
}

// TestLookupFaults: what is wrong with one key is that of its rows, in the order of their key; what is wrong with
// the place is that of all, and nothing was done.
func TestLookupFaults(t *testing.T) {
	s := &shelf{most: 10, rows: map[string]string{"a": `{"v":1}`}, keys: map[string]error{"bad": errors.New("wrong type"), "busy": kis.Retry(errors.New("busy"))}}
	r := openLookup(t, lookupSpec(s, Load{}, Lookup{Key: "row.u", Cache: time.Hour, Timeout: 20 * time.Millisecond}))
	one, two := call(someday, `{"u":"a"}`, `{"u":"bad"}`, `{"u":"a"}`), call(someday, `{"u":"a"}`, `{"u":"busy"}`, `{"u":"a"}`)
	if err := r.HandleMany([]*kis.Call{one, two}); err != nil {
		t.Fatal(err)
	}
	if got, want := said(one), `{"u":"a","v":1} | 0: connector users: wrong type | {"u":"a","v":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := said(two), `{"u":"a","v":1} | 1: connector users: busy | 1: connector users: busy`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.keys = nil
	one = call(someday, `{"u":"bad"}`)
	if err := r.HandleMany([]*kis.Call{one}); err != nil || said(one) != `{"u":"bad"}` {
		t.Errorf("a fault was remembered: %s, %v", said(one), err)
	}

	s.down = errors.New("down")
	one, two = call(someday, `{"u":"a"}`, `{"u":[]}`), call(someday, `{"u":"new"}`)
	err := r.HandleMany([]*kis.Call{one, two})
	if err == nil || kis.VerdictOf(err) != kis.VerdictRetry || err.Error() != "connector users: down" {
		t.Errorf("got %v", err)
	}
	if len(one.Emitted)+len(two.Emitted)+len(one.Refused) > 0 {
		t.Errorf("something was done: %s | %s", said(one), said(two))
	}
	s.down = nil
	s.hangs = true
	if err := r.HandleMany([]*kis.Call{call(someday, `{"u":"new"}`)}); kis.VerdictOf(err) != kis.VerdictRetry || !strings.Contains(err.Error(), "no answer within 20ms") {
		t.Errorf("of a place that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := call(someday, `{"u":"new"}`)
	c.Context = ctx
	if err := r.HandleMany([]*kis.Call{c}); kis.VerdictOf(err) != kis.VerdictStop || !errors.Is(err, context.Canceled) {
		t.Errorf("of a partition that is told to stop: %v", err)
	}
}

// TestLookupShape: what rows have behind a look-up is what it sets, or anything.
func TestLookupShape(t *testing.T) {
	in := Shape{Fields: map[string]Field{"u": Anything()}}
	c, ms := Infer(lookupSpec(&shelf{}, Load{Set: []EmitField{{"name", "found.name"}}}, Lookup{Key: "row.u"}), in)
	if len(ms) > 0 || c.Out.Open || fmt.Sprint(c.Out.Names()) != "[name u]" {
		t.Errorf("%v, %v", c.Out, ms)
	}
	if c, ms = Infer(lookupSpec(&shelf{}, Load{}, Lookup{Key: "row.u"}), in); len(ms) > 0 || !c.Out.Open {
		t.Errorf("%v, %v", c.Out, ms)
	}
	if _, ms = Infer(lookupSpec(&shelf{}, Load{}, Lookup{Key: "row.user"}), in); len(ms) != 1 || ms[0].Missing != "user" {
		t.Errorf("%v", ms)
	}
}
