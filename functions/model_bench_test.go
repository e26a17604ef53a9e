package functions

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// BenchmarkModel is the cost of a row without the engine: the runner's own, and what a key's state takes at the end.
func BenchmarkModel(b *testing.B) {
	small := []AggregateField{{Name: "n", Call: "count()"}, {Name: "sum", Call: "sum(row.price)"}}
	wide := append(small[:2:2], AggregateField{Name: "avg", Call: "avg(row.price)"}, AggregateField{Name: "top", Call: "top(10, row.price)"}, AggregateField{Name: "who", Call: "distinct_about(row.bidder)"})
	emit := []EmitField{{"k", "key.k"}, {"n", "state.n"}, {"start", "window.start"}}
	calc := func(w *Window, a []AggregateField, e ...EmitField) Spec {
		return Spec{Name: "B", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Window: w, Aggregate: a, Emit: e}}
	}
	side := JoinSide{When: "row.id % 2 == 0"}
	for _, c := range []struct {
		name string
		spec Spec
	}{
		{"tumbling", calc(&Window{Kind: "tumbling", Size: 10 * time.Second}, small, emit...)},
		{"tumbling/wide", calc(&Window{Kind: "tumbling", Size: 10 * time.Second}, wide, emit...)},
		{"hopping", calc(&Window{Kind: "hopping", Size: 10 * time.Second, Every: 2 * time.Second}, small, emit...)},
		{"session", calc(&Window{Kind: "session", Size: 10 * time.Second}, small, emit...)},
		{"sliding", calc(&Window{Kind: "sliding", Size: time.Second}, small, emit...)},
		{"count", calc(&Window{Kind: "count", Count: 100}, small, emit...)},
		{"running", calc(nil, small, EmitField{"n", "state.n"})},
		{"replace", Spec{Name: "B", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: small, Replace: "row.id", Emit: []EmitField{{"n", "state.n"}}}}},
		{"join", Spec{Name: "B", Mode: kis.Calculate, Must: []string{"k"}, Join: &Join{Left: side, Bounded: true, After: 100 * time.Millisecond, Emit: []EmitField{{"p", "left.price"}, {"q", "right.price"}}}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			fn, mistakes := New(c.spec)
			if len(mistakes) > 0 {
				b.Fatal(mistakes)
			}
			r, err := fn.Open(kis.Step{Name: "s", Params: kis.Params{}})
			if err != nil {
				b.Fatal(err)
			}
			const keys = 100
			var rows []*kis.Row
			var ks []kis.Key
			states := make([]any, keys)
			timers := make([]int64, keys)
			for i := range 1000 {
				row, err := kis.ParseRow(fmt.Appendf(nil, `{"k":%d,"id":%d,"price":%d,"bidder":%d}`, i%keys, i, i*7919%1000, i*31%500))
				if err != nil {
					b.Fatal(err)
				}
				k, err := kis.KeyOf(row, c.spec.Must)
				if err != nil {
					b.Fatal(err)
				}
				rows, ks = append(rows, row), append(ks, k)
			}
			for i := range states {
				states[i], _ = r.Activate(nil)
			}
			call := &kis.Call{Context: context.Background(), Metas: []*kis.Meta{{}}}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				at := int64(i) // a row a millisecond
				k := i % keys
				for timers[k] != 0 && timers[k] <= at {
					call.Reset()
					call.Key, call.State, call.Rows, call.Timer = ks[k], states[k], nil, &kis.Timer{Name: windowTimer, At: time.UnixMilli(timers[k])}
					if c.spec.Join != nil {
						call.Timer.Name = joinTimer
					}
					timers[k] = 0
					if err := r.Handle(call); err != nil {
						b.Fatal(err)
					}
					for _, t := range call.Timers {
						timers[k] = t.At.UnixMilli()
					}
				}
				call.Reset()
				call.Metas[0].Time, call.Watermark = time.UnixMilli(at), time.UnixMilli(at)
				call.Key, call.State, call.Rows = ks[i%len(ks)], states[k], append(call.Rows[:0], rows[i%len(rows)])
				if err := r.Handle(call); err != nil {
					b.Fatal(err)
				}
				for _, t := range call.Timers {
					timers[k] = t.At.UnixMilli()
				}
			}
			b.StopTimer()
			var all []byte
			for _, s := range states {
				if all, err = r.Encode(all, s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(all))/keys, "state-B/key")
		})
	}
}
