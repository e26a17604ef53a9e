package functions

import (
	"context"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// BenchmarkUserTotals is the work of the order totals on one row: parse it, check a rule, count it into its
// key's state, and make the row that is emitted.
func BenchmarkUserTotals(b *testing.B) {
	verify := runnerOf(b, Spec{Name: "VerifyOrder", Mode: kis.Verify, Must: []string{"userid"},
		Verify: []Rule{{Rule: "row.amount > 0", Reason: "amount must be above zero"}}}, nil)
	totals := runnerOf(b, userTotals(), nil)
	state, err := totals.Activate(nil)
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(`{"userid":"user-004711","orderid":"order-000000012345","amount":1299,"item":"book","ts":1767225600000,"note":"none........"}`)
	var parser kis.Parser
	row, err := parser.Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	key, err := kis.KeyOf(row, []string{"userid"})
	if err != nil {
		b.Fatal(err)
	}
	c := &kis.Call{Context: context.Background(), Key: key, Rows: []*kis.Row{row}, Metas: []*kis.Meta{{Time: time.UnixMilli(0)}}, State: state}
	run := func(b *testing.B, r kis.Runner) {
		c.Reset()
		if err := r.Handle(c); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run(b, verify)
		}
	})
	b.Run("calculate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run(b, totals)
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		var dst []byte
		for b.Loop() {
			dst, _ = totals.Encode(dst[:0], state)
		}
	})
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		var dst []byte
		for b.Loop() {
			c.Rows[0], _ = parser.Parse(text)
			run(b, verify)
			run(b, totals)
			dst = c.Emitted[0].Row.AppendJSON(dst[:0])
			dst, _ = totals.Encode(dst, state)
		}
	})
}

func userTotals() Spec {
	return Spec{Name: "UserTotals", Mode: kis.Calculate, Must: []string{"userid"}, Calculate: &Calculate{
		State: []StateField{
			{"count", "0", "state.count + 1"},
			{"total", "0", "state.total + row.amount"},
			{"max", "0", "max(state.max, row.amount)"},
		},
		Emit: []EmitField{{"userid", "row.userid"}, {"count", "state.count"}, {"total", "state.total"}, {"max", "state.max"}},
	}}
}

func runnerOf(t testing.TB, spec Spec, params kis.Params) kis.Runner {
	t.Helper()
	fn, mistakes := New(spec)
	if len(mistakes) > 0 {
		t.Fatalf("New: %v", mistakes)
	}
	r, err := fn.Open(kis.Step{Flow: "flow", Name: spec.Name, Function: spec.Name, Mode: spec.Mode, Must: spec.Must, Params: params})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
