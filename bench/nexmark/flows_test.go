package nexmark

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/node"
)

// runInMemory runs a query's flow over events, and returns its rows.
func runInMemory(t *testing.T, query string, stamped bool, events [][]byte) []Row {
	t.Helper()
	files, err := Flows(stamped, query)
	if err != nil {
		t.Fatal(err)
	}
	set := &flowdef.Set{}
	var mistakes flowdef.Mistakes
	for _, f := range files {
		mistakes = append(mistakes, flowdef.Parse(f.Name, f.Text, set)...)
	}
	mistakes = append(mistakes, node.Lint(set, nil, true)...)
	if err := mistakes.Err(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var rows []Row
	m := node.InMemory{
		Subject: Subject,
		Events: func(_ context.Context, publish func([]byte) error) error {
			for _, e := range events {
				if err := publish(e); err != nil {
					return err
				}
			}
			return nil
		},
		Output: func(_ string, message []byte) error {
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, decode(t, message)...)
			return nil
		},
	}
	report, err := m.Run(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if report.DeadLetters > 0 {
		t.Errorf("%d dead letters: %v", report.DeadLetters, report.Reasons)
	}
	return rows
}

// TestStamped compares answers with stamps to those without. Each stamp is a time of the stream, or of the end of a window
// behind it.
func TestStamped(t *testing.T) {
	g := New(Config{Seed: 3, Rate: 200})
	const n = 4000
	var stream [][]byte
	for i := range n {
		stream = append(stream, g.Append(nil, i))
	}
	for _, q := range Queries() {
		if q.Clock != "" || q.Name == "q13" {
			continue // their rows depend on what is there first
		}
		t.Run(q.Name, func(t *testing.T) {
			plain, stamped := runInMemory(t, q.Name, false, stream), runInMemory(t, q.Name, true, stream)
			for _, r := range stamped {
				at := ""
				if s, ok := r["at"].(string); ok {
					at = s
				}
				var millis int64
				if err := json.Unmarshal([]byte(at), &millis); err != nil || millis < g.Start.UnixMilli() || millis > g.Time(n).UnixMilli()+130_000 {
					t.Fatalf("row %v: at is %q", r, at)
				}
				delete(r, "at")
			}
			if len(q.Key) > 0 {
				plain, stamped = last(q.Key, plain), last(q.Key, stamped)
			}
			compareRows(t, q.Key, stamped, plain)
		})
	}
}

// TestFlows looks at what is embedded.
func TestFlows(t *testing.T) {
	there, err := filepath.Glob("flows/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := append(Names(), "common")
	if len(there) != len(want) {
		t.Errorf("%d files in flows, and %d queries with what they have in common", len(there)-1, len(want)-1)
	}
	for _, name := range want {
		text, err := os.ReadFile(filepath.Join("flows", name+".yaml"))
		if err != nil {
			t.Error(err)
			continue
		}
		if name == "common" {
			continue
		}
		files, err := Flows(false, name)
		if err != nil || len(files) != 2 || string(files[1].Text) != string(text) {
			t.Errorf("%s is not the file", name)
		}
	}
	if _, err := Flows(false, "q99"); err == nil || !strings.Contains(err.Error(), "q22") {
		t.Errorf("q99: %v", err)
	}
	if !slices.IsSortedFunc(Names(), func(a, b string) int { return len(a)*1000 - len(b)*1000 + strings.Compare(a, b) }) {
		t.Errorf("not in order: %v", Names())
	}
}
