package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/bench/nexmark"
)

func TestBenchNexmark(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"bench", "nexmark", "--events", "2000", "--pack", "7", "-o", "json"}, nil, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var got struct{ Items []benchmarked }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	g := nexmark.New(nexmark.Config{Seed: 1})
	var events []nexmark.Event
	for n := range 2000 {
		events = append(events, g.Event(n))
	}
	queries := nexmark.Queries()
	if len(got.Items) != len(queries) {
		t.Fatalf("%d queries, want %d", len(got.Items), len(queries))
	}
	for i, q := range queries {
		r := got.Items[i]
		if r.Query != q.Name || r.Events != 2000 || !(r.PerSecond > 0) || r.DeadLetters > 0 {
			t.Errorf("%+v", r)
		}
		want := uint64(len(q.Answer(events)))
		switch {
		case q.Clock != "": // the windows of the clock are open still
			want = 0
		case q.Name == "q13":
			want = 1840 // the side table is there
		case q.Running && !q.Counted:
			continue
		}
		if r.Rows != want {
			t.Errorf("%s: %d rows, want %d", q.Name, r.Rows, want)
		}
	}
}

// TestBenchRate looks at the pace and at the latencies: they are neither negative nor those of windows that close because
// the events end.
func TestBenchRate(t *testing.T) {
	var out, errs bytes.Buffer
	began := time.Now()
	if code := run(t.Context(), []string{"bench", "nexmark", "--queries", "q1,q3,q5,q12", "--events", "1000", "--rate", "2000", "-o", "json"}, nil, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if took := time.Since(began); took < 4*500*time.Millisecond-100*time.Millisecond {
		t.Errorf("4000 events at 2000 a second took %s", took)
	}
	var got struct{ Items []benchmarked }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got.Items {
		has := r.Query == "q1" || r.Query == "q3"
		if (r.P50 != nil) != has || (r.P99 != nil) != has {
			t.Errorf("%s: latencies %v, %v", r.Query, r.P50, r.P99)
		}
		if has && (*r.P50 <= 0 || *r.P50 > *r.P99 || *r.P99 > 60_000) {
			t.Errorf("%s: latencies of %v and %v ms", r.Query, *r.P50, *r.P99)
		}
	}
}

func TestBenchFlags(t *testing.T) {
	there := t.TempDir()
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"--events 0", "--events is 0; it must be 1 to 1000000000", exitUsage},
		{"--rate -1", "--rate is -1; it must be 1 to 1000000, or 0", exitUsage},
		{"--rate NaN", "--rate is NaN; it must be 1 to 1000000, or 0", exitUsage},
		{"--rate 10 --queries q20", "--rate is 10; q20 needs at least 40 events a second", exitUsage},
		{"--pack 0", "--pack is 0; it must be 1 to 10000", exitUsage},
		{"--runs 0", "--runs is 0; it must be 1 to 100", exitUsage},
		{"--queries q0,q10", `--queries: there is no query "q10"; there are q0, q1, `, exitUsage},
		{"--write " + there, there + ": file exists", exitError},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"bench", "nexmark"}, strings.Fields(c.args)...), nil, &out, &errs)
		if code != c.code || !strings.Contains(errs.String(), c.want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, %q; want %q", c.args, code, errs.String(), out.String(), c.want)
		}
	}
}

func TestBenchWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nexmark")
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"bench", "nexmark", "--queries", "q2,q13", "--events", "50", "--write", dir}, nil, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	events, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(events, []byte("\n")), []byte("\n"))
	g := nexmark.New(nexmark.Config{Seed: 1})
	if len(lines) != nexmark.SideRows()+50 || !bytes.Equal(lines[len(lines)-1], g.Append(nil, 49)) {
		t.Errorf("%d lines, the last one %s", len(lines), lines[len(lines)-1])
	}
	if code := run(t.Context(), []string{"lint", filepath.Join(dir, "flows")}, nil, &out, &errs); code != exitOK {
		t.Errorf("lint: %s", errs.String())
	}
}

func TestLatencies(t *testing.T) {
	var l latencies
	if l.quantile(0.5) != nil {
		t.Error("there is a median of nothing")
	}
	for i := range 1000 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	l.add(-time.Second)
	l.add(365 * 24 * time.Hour)
	for q, want := range map[float64]float64{0.5: 500, 0.99: 991} {
		if got := l.quantile(q); got == nil || math.Abs(*got-want) > want/50 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if got := *l.quantile(1); got < 1e6 {
		t.Errorf("the longest is %v ms", got)
	}
}
