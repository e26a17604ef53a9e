package functions

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// FuzzExpression takes any text for an expression and any object for a row: there is a mistake, an error or a
// value, never a panic; the same again gives the same; and what a value becomes as JSON is valid.
func FuzzExpression(f *testing.F) {
	rows := []string{
		`{"userid":"u1","a":1,"b":[1,2,{"c":"x"}],"o":{"p":1.5,"q":null},"s":"text"}`,
		`{"userid":1,"a":9223372036854775807,"b":[],"o":{},"s":"\u00fc\ud83d\ude00","n":1e400}`,
		`{"userid":true,"a":"1","b":"2","o":[[[]]],"s":{"x":{"y":[null,true]}}}`,
	}
	text, err := os.ReadFile(page)
	if err != nil {
		f.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if source, _, ok := strings.Cut(line, " => "); ok {
			f.Add(source, rows[i%len(rows)])
		}
	}
	for _, s := range []string{"-9223372036854775807 - 1", "a?.b?.[c]", "let x = let y = 1; y; x", "{(1): 2}", "[[[[]]]][0]?.x", "1..2..3", "#", "a | b(c)", "::len(1)", "row?.[0]", "reduce([], #acc)", "state.count[1:][0]", "b'x'", "$env", "row.a ?: 1", "not not true", "if true {1} else if false {2} else {3}"} {
		f.Add(s, rows[0])
	}
	f.Fuzz(func(t *testing.T, source, text string) {
		slow := time.AfterFunc(20*time.Second, func() { panic("no end: " + source) })
		defer slow.Stop()
		row, err := kis.ParseRow([]byte(text))
		if err != nil {
			row = kis.NewRow(kis.Field{Name: "userid", Value: kis.StringValue("u1")})
		}
		p, mistakes := compileTest(source)
		if p == nil {
			if len(mistakes) == 0 {
				t.Fatalf("%q has neither a program nor a mistake", source)
			}
			for _, m := range mistakes {
				if m.Message == "" || m.Column < 0 || m.Column > len(source)+1 {
					t.Fatalf("%q: mistake %+v", source, m)
				}
			}
			return
		}
		first, err := evaluate(p, row)
		again, errAgain := evaluate(p, row)
		if err != nil {
			if errAgain == nil || err.Error() != errAgain.Error() {
				t.Fatalf("%q on %s: %v, then %v", source, row, err, errAgain)
			}
			return
		}
		one, two := first.AppendJSON(nil), again.AppendJSON(nil)
		if !bytes.Equal(one, two) {
			t.Fatalf("%q on %s: %s, then %s", source, row, one, two)
		}
		if !json.Valid(one) {
			t.Fatalf("%q on %s makes %q", source, row, one)
		}
		if !p.kinds.has(first.Kind()) {
			t.Fatalf("%q on %s is %s, which lint took for %s", source, row, describe(first), p.kinds)
		}
		whole := kis.NewRow(kis.Field{Name: "v", Value: first})
		back, err := kis.ParseRow(whole.AppendJSON(nil))
		if err != nil {
			t.Fatalf("%q on %s makes a row that cannot be read: %v", source, row, err)
		}
		if v, _ := back.Get("v"); v.Kind() != first.Kind() {
			t.Fatalf("%q on %s is %s, and read again %s", source, row, describe(first), describe(v))
		}
	})
}

// FuzzNew takes any texts for a definition.
func FuzzNew(f *testing.F) {
	f.Add("0", "state.n + 1", "row.a", "row.a > 0", "out.{a}", `{"k":1,"a":2}`)
	f.Add("[]", "concat(state.n, [row])", "len(state.n)", "has(row.b)", "{a}", `{"k":1,"a":2,"b":{"c":[]}}`)
	f.Fuzz(func(t *testing.T, init, set, emit, when, subject, text string) {
		row, err := kis.ParseRow([]byte(text))
		if err != nil {
			return
		}
		call := func(r kis.Runner, state any) error {
			return r.Handle(&kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}, State: state})
		}
		fn, _ := New(Spec{Name: "f", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{
			State: []StateField{{"m", "1", "state.m + 1"}, {"n", init, set}}, Emit: []EmitField{{"e", emit}}, When: when}})
		if fn != nil {
			r, err := fn.Open(kis.Step{Name: "f"})
			if err != nil {
				return
			}
			state, err := r.Activate(nil)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				before, _ := r.Encode(nil, state)
				err := call(r, state)
				after, _ := r.Encode(nil, state)
				if err != nil && !bytes.Equal(before, after) {
					t.Fatalf("an error changed the state from %s to %s", before, after)
				}
				stored, err := r.Activate(after)
				if err != nil {
					t.Fatalf("state %s cannot be read: %v", after, err)
				}
				if again, _ := r.Encode(nil, stored); !bytes.Equal(after, again) {
					t.Fatalf("state %s is %s when it is read again", after, again)
				}
			}
		}
		fn, _ = New(Spec{Name: "f", Mode: kis.Expand, Expand: &Expand{Subject: subject, When: when}})
		if fn != nil {
			r, err := fn.Open(kis.Step{Name: "f"})
			if err != nil {
				return
			}
			c := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}}
			if err := r.Handle(c); err != nil {
				return
			}
			for _, s := range c.Sent {
				if strings.HasPrefix(s.Subject, "$") {
					t.Fatalf("subject %q", s.Subject)
				}
				for token := range strings.SplitSeq(s.Subject, ".") {
					if badToken(token) != "" {
						t.Fatalf("subject %q", s.Subject)
					}
				}
			}
		}
	})
}
