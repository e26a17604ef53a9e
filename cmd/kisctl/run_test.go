package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

const runFlows = "../../bench/flows/order-totals"

// TestRunCounts runs many events in memory and compares the last totals of every user with a plain count.
func TestRunCounts(t *testing.T) {
	type total struct {
		Count int `json:"count"`
		Total int `json:"total"`
		Max   int `json:"max"`
	}
	const n, users = 20_000, 997
	want := make(map[int]total)
	var in bytes.Buffer
	for i := range n {
		user, amount := i*i%users, i%500-5
		fmt.Fprintf(&in, `{"userid":%d,"amount":%d}`+"\n", user, amount)
		if amount > 0 {
			w := want[user]
			want[user] = total{w.Count + 1, w.Total + amount, max(w.Max, amount)}
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"run", runFlows, "-o", "json"}, &in, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	got := make(map[int]total)
	lines := 0
	for line := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
		var m struct{ Data string }
		var row struct {
			User int `json:"userid"`
			total
		}
		if err := errors.Join(json.Unmarshal([]byte(line), &m), json.Unmarshal([]byte(m.Data), &row)); err != nil {
			t.Fatal(err)
		}
		if row.Count != got[row.User].Count+1 {
			t.Fatalf("user %d: count %d after %d", row.User, row.Count, got[row.User].Count)
		}
		got[row.User] = row.total
		lines++
	}
	if len(got) != len(want) {
		t.Errorf("%d users, want %d", len(got), len(want))
	}
	for user, w := range want {
		if got[user] != w {
			t.Errorf("user %d: %+v, want %+v", user, got[user], w)
		}
	}
	var report ran
	if err := json.Unmarshal(errs.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if report.Events != n || report.Outputs != uint64(lines) || report.DeadLetters != uint64(n-lines) {
		t.Errorf("report %+v with %d lines", report, lines)
	}
}

// failingWriter takes some bytes, then fails.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("the disk is full")
	}
	return len(p), nil
}

// TestRunEnds sees that a run ends soon when its output fails or it is interrupted, though its input goes on.
func TestRunEnds(t *testing.T) {
	endless := func() io.Reader {
		r, w := io.Pipe()
		go func() { // ends with the pipe
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, `{"userid":%d,"amount":1}`+"\n", i%50); err != nil {
					return
				}
			}
		}()
		t.Cleanup(func() { r.Close() })
		return r
	}
	var errs bytes.Buffer
	began := time.Now()
	code := run(t.Context(), []string{"run", runFlows}, endless(), &failingWriter{left: 1 << 20}, &errs)
	if took := time.Since(began); code != exitError || !strings.Contains(errs.String(), "output: the disk is full") || took > 30*time.Second {
		t.Errorf("after %s exit code %d: %s", took, code, errs.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	errs.Reset()
	began = time.Now()
	code = run(ctx, []string{"run", runFlows}, endless(), io.Discard, &errs)
	if took := time.Since(began); code != exitError || took > 20*time.Second {
		t.Errorf("interrupted: after %s exit code %d: %s", took, code, errs.String())
	}
}
