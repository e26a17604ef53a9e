package kis

import (
	"context"
	"errors"
	"strings"
	"testing"
)

type testOrder struct {
	UserID int64   `json:"userid"`
	Amount int64   `json:"amount"`
	Note   string  `json:"note"`
	Rate   float32 `json:"rate,omitempty"`
}

type testTotal struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
}

func openTest(t testing.TB, f Function, must ...string) Runner {
	t.Helper()
	r, err := f.Open(Step{Flow: "flow", Name: "step", Function: f.Name(), Must: must, Params: Params{"p": "q"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func callOf(t testing.TB, text string, must ...string) *Call {
	t.Helper()
	row, err := ParseRow([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	key, err := KeyOf(row, must)
	if err != nil {
		t.Fatal(err)
	}
	return &Call{Context: context.Background(), Key: key, Rows: []*Row{row}, Metas: []*Meta{{Sequence: 1}}}
}

func total(_ context.Context, s *testTotal, e Event[testOrder], out *Output[testTotal]) error {
	s.Count++
	s.Total += e.Value.Amount
	if e.Value.Note == "panic" {
		panic("note")
	}
	if e.Value.Note == "bad" {
		return errors.New("bad note")
	}
	out.Emit(e.Key, *s)
	return nil
}

func TestKeyed(t *testing.T) {
	r := openTest(t, Keyed("total", total), "userid")
	state, err := r.Activate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ row, err, out, state string }{
		{`{"userid":1,"amount":5}`, "", `{"userid":1,"count":1,"total":5}`, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":5,"note":"bad"}`, "bad note", ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":5,"note":"panic"}`, "panic: note", ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":"5"}`, `decode: field "amount": expected an integer, found a string, "5"`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":9223372036854775808}`, `decode: field "amount": 9223372036854775808 does not fit int64`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":1.5}`, `decode: field "amount": expected an integer, found a float, 1.5`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":6,"more":[1]}`, "", `{"userid":1,"count":2,"total":11}`, `{"count":2,"total":11}`},
	} {
		c := callOf(t, step.row, "userid")
		c.State = state
		err := r.Handle(c)
		if step.err == "" && err != nil || step.err != "" && (err == nil || err.Error() != step.err) {
			t.Errorf("%s: error %v, want %q", step.row, err, step.err)
		}
		var out []string
		for _, e := range c.Emitted {
			out = append(out, e.Row.String())
		}
		if got := strings.Join(out, " "); got != step.out {
			t.Errorf("%s: emitted %s, want %s", step.row, got, step.out)
		}
		if got, err := r.Encode(nil, state); err != nil || string(got) != step.state {
			t.Errorf("%s: state %s, %v, want %s", step.row, got, err, step.state)
		}
	}
}

func BenchmarkKeyed(b *testing.B) {
	r := openTest(b, Keyed("total", total), "userid")
	state, _ := r.Activate(nil)
	c := callOf(b, order, "userid")
	c.State = state
	b.ReportAllocs()
	for b.Loop() {
		c.Reset()
		if err := r.Handle(c); err != nil {
			b.Fatal(err)
		}
	}
}
