package script

import (
	"fmt"
	"testing"

	"github.com/kisflow/kisflow/kis"
)

const totals = `
function handle(row, state) {
  state.count = (state.count || 0) + 1
  state.total = (state.total || 0) + row.amount
  state.max = Math.max(state.max || 0, row.amount)
  return {userid: row.userid, count: state.count, total: state.total, max: state.max}
}`

// BenchmarkScript is the cost of a row of the order totals, in batches of 500 rows of 100 keys and of one row.
func BenchmarkScript(b *testing.B) {
	for _, rows := range []int{500, 1} {
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			r := open(b, newPool(b, 1), Spec{Source: totals, Must: []string{"userid"}})
			batch := make([]*kis.Call, 0, 100)
			for i := range min(rows, 100) {
				c := &kis.Call{Now: commit, State: keyState("")}
				for range max(1, rows/100) {
					c.Rows = append(c.Rows, row(b, fmt.Sprintf(`{"orderid":"order-%d","userid":%d,"amount":%d,"product":"a product of some length","at":1777863721000}`, i, i, i)))
					c.Metas = append(c.Metas, &kis.Meta{Stream: "ENTRY_orders", Subject: "orders.new", Sequence: uint64(i), Time: commit})
				}
				c.Key, _ = kis.KeyOf(c.Rows[0], []string{"userid"})
				batch = append(batch, c)
			}
			n := 0
			for b.Loop() {
				for _, c := range batch {
					c.Reset()
				}
				if err := r.HandleMany(batch); err != nil {
					b.Fatal(err)
				}
				n += rows
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/row")
			b.ReportMetric(0, "ns/op")
		})
	}
}
