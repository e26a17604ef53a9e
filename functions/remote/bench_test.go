package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// BenchmarkRemote is the cost of a row that a program in this process answers over HTTP, in requests of 100 rows of 20
// keys and of one row; both sides are in it.
func BenchmarkRemote(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var in struct {
			ID    string
			Calls []struct {
				State struct{ N int }
				Rows  []struct{ Row struct{ Amount int } }
			}
		}
		if err == nil {
			err = json.Unmarshal(body, &in)
		}
		if err != nil {
			b.Error(err)
			return
		}
		var out bytes.Buffer
		fmt.Fprintf(&out, `{"v":1,"id":%q,"results":[`, in.ID)
		for i, c := range in.Calls {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(`{"rows":[`)
			n := c.State.N
			for j, r := range c.Rows {
				if j > 0 {
					out.WriteByte(',')
				}
				n += r.Row.Amount
				fmt.Fprintf(&out, `{"emit":[{"total":%d}]}`, n)
			}
			fmt.Fprintf(&out, `],"state":{"n":%d}}`, n)
		}
		out.WriteString(`]}`)
		_, _ = w.Write(out.Bytes())
	}))
	defer s.Close()
	for _, rows := range []int{100, 1} {
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			f := New(Spec{Name: "F", Mode: kis.Calculate, Must: []string{"userid"}, Caller: NewHTTP(s.URL), Timeout: time.Minute, Batch: rows})
			r, err := f.Open(kis.Step{Flow: "flow", Name: "step", Function: "F", Mode: kis.Calculate, Must: []string{"userid"}})
			if err != nil {
				b.Fatal(err)
			}
			var batch []*kis.Call
			for i := range min(rows, 20) {
				c := &kis.Call{State: keyState("")}
				for range max(1, rows/20) {
					row, err := kis.ParseRow([]byte(fmt.Sprintf(`{"orderid":"order-%d","userid":%d,"amount":%d,"product":"a product of some length","at":1777863721000}`, i, i, i)))
					if err != nil {
						b.Fatal(err)
					}
					c.Rows = append(c.Rows, row)
					c.Metas = append(c.Metas, &kis.Meta{Stream: "ENTRY_orders", Subject: "orders.new", Sequence: uint64(i), Time: time.UnixMilli(1777863721000)})
				}
				c.Key, _ = kis.KeyOf(c.Rows[0], []string{"userid"})
				batch = append(batch, c)
			}
			n := 0
			for b.Loop() {
				for _, c := range batch {
					c.Reset()
				}
				if err := r.(kis.Many).HandleMany(batch); err != nil {
					b.Fatal(err)
				}
				n += rows
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/row")
			b.ReportMetric(0, "ns/op")
		})
	}
}
