package remote

import (
	"testing"

	"github.com/kisflow/kisflow/kis"
)

// FuzzAnswer reads answers: nothing panics, and what goes on is a row.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":"x","results":[{"state":{"n":1},"rows":[{"emit":[{"a":1}]},{"pass":true}]}]}`))
	f.Add([]byte(`{"results":[{"state":null,"rows":[{"retry":"r"},{"retry":"r"}]}]}`))
	f.Add([]byte(`{"error":"busy"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := &runner{stateful: true}
		o, err := r.read(text, "x", []part{{0, 0, 2}})
		if err != nil {
			return
		}
		if len(o.parts) != 1 || len(o.parts[0].rows) != 2 {
			t.Fatalf("%d parts", len(o.parts))
		}
		if s := o.parts[0].state; s != "" {
			if _, err := kis.ParseRow([]byte(s)); err != nil {
				t.Errorf("state %s: %v", s, err)
			}
		}
		for _, row := range o.parts[0].rows {
			for _, e := range row.emit {
				if _, err := kis.ParseRow(e.AppendJSON(nil)); err != nil {
					t.Errorf("emitted what is no row: %v", err)
				}
			}
		}
	})
}
