package kis

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What a megabyte costs must not depend on what somebody writes into it.
func TestHostileMegabyte(t *testing.T) {
	const size = 1 << 20
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)+1)[:size] }
	var twice strings.Builder // objects inside one another, each with a name that comes twice late
	for range size / 300 {
		twice.WriteString("\n{")
		for i := range 18 {
			fmt.Fprintf(&twice, `"f%d":1,`, i)
		}
		twice.WriteString(`"f1":1,"x":[`)
	}
	for name, payload := range map[string]string{
		"scalars":         repeat("1 "),
		"lines":           repeat("1\n"),
		"line feeds":      repeat("\n") + "{}",
		"open braces":     repeat("{"),
		"open lines":      repeat("{\"a\":[\n"),
		"cut lines":       repeat("{\"a\":1\n"),
		"nested twice":    twice.String(),
		"quotes":          repeat(`"`),
		"backslashes":     `{"a":"` + repeat(`\\`) + `"}`,
		"escapes":         `{"a":"` + repeat(`\u0061`)[:size-4] + `"}`,
		"escaped names":   `{` + repeat(`"\u0061":1,`),
		"multi-byte":      `{"a":"` + repeat("名")[:size-1] + `"}`,
		"no UTF-8":        repeat("\xff"),
		"digits":          `{"a":` + repeat("1") + `}`,
		"exponent":        `{"a":1e` + repeat("1") + `}`,
		"fraction":        `{"a":1.` + repeat("1") + `e5}`,
		"empty objects":   repeat("{} "),
		"array":           `{"a":[` + repeat("0,") + `0]}`,
		"long name":       `{"` + repeat("a") + `":1,"` + repeat("a") + `":1}`,
		"long names":      `{"` + repeat("a") + `":1,"` + repeat("b") + `":1}`,
		"objects in list": `{"a":[` + repeat(`{"a":1,"b":2},`),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			var p Parser
			events := 0
			p.Split([]byte(payload), func(_ uint32, row *Row, bad []byte, err error) {
				events++
				if err != nil && len(err.Error()) > 300 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				if row != nil {
					for i := range row.Len() {
						row.At(i)
					}
				}
			})
			if took := time.Since(start); took > 20*time.Second { // 20 ms on a quiet machine
				t.Errorf("%d bytes took %v", len(payload), took)
			}
			if events == 0 {
				t.Error("passed silently")
			}
		})
	}
}

func TestAStateHasABound(t *testing.T) {
	type all struct {
		Names []string `json:"names"`
	}
	f := Keyed("keep", func(_ context.Context, s *all, e Event[*Row], _ *Output[*Row]) error {
		s.Names = append(s.Names, strings.Repeat("x", 300<<10))
		return nil
	})
	r, err := f.Open(Step{Name: "keep", Must: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := r.Activate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		c := Call{Context: t.Context(), Rows: []*Row{NewRow()}, Metas: []*Meta{{}}, State: state}
		err := r.Handle(&c)
		if i < 3 && err != nil || i >= 3 && (err == nil || !strings.Contains(err.Error(), "the state would have")) {
			t.Fatalf("row %d: %v", i, err)
		}
	}
	encoded, err := r.Encode(nil, state)
	if err != nil || len(encoded) < 900<<10 || len(encoded) > MaxState {
		t.Errorf("the state has %d bytes, %v; want that of three rows", len(encoded), err)
	}
}
