package main

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

func TestKeysFallIntoTheirPartitions(t *testing.T) {
	seen := make(map[string]bool)
	for p := range partitions {
		next := keyOf("k", p)
		for range 3 {
			k := next()
			if seen[k] {
				t.Errorf("key %s comes twice", k)
			}
			seen[k] = true
		}
	}
	if again := keyOf("k", 3)(); !seen[again] {
		t.Errorf("the first key of partition 3 is %s now", again)
	}
}

func TestPlace(t *testing.T) {
	for name, want := range map[string]int{"Pulse0/key/0": 0, "Pulse2/key/5": 21, "Pulse7/a/b/7": 63} {
		if got, ok := place(name); !ok || got != want {
			t.Errorf("place of %s: %d, %v; want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "Orders", "Orders/key/1", "Pulse1/key/x"} {
		if got, ok := place(name); ok {
			t.Errorf("place of %q: %d; want none", name, got)
		}
	}
}

func TestPauseOf(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms ...int) (all []arrival) {
		for _, m := range ms {
			all = append(all, arrival{stored: start.Add(time.Duration(m) * time.Millisecond)})
		}
		return all
	}
	begin, end := start.Add(100*time.Millisecond), start.Add(300*time.Millisecond)
	for _, c := range []struct {
		arrivals []arrival
		want     float64
	}{
		{at(0, 20, 40, 60, 80, 100, 120, 200, 220), 60}, // 80 less the usual 20
		{at(0, 20, 40, 60, 80, 90, 180), 70},            // begins before
		{at(0, 20, 40, 60, 80, 100, 120, 400), 0},       // ends behind
		{nil, 0},
	} {
		if got := pauseOf(c.arrivals, begin, end); got != c.want {
			t.Errorf("pause of %v: %g ms, want %g", c.arrivals, got, c.want)
		}
	}
}

func TestFit(t *testing.T) {
	slope, at0 := fit([]point{{1, 3}, {10, 21}, {100, 201}})
	if math.Abs(slope-2) > 1e-9 || math.Abs(at0-1) > 1e-9 {
		t.Errorf("a line of 2x+1 is %gx+%g", slope, at0)
	}
	if slope, at0 := fit([]point{{5, 7}}); slope != 0 || at0 != 7 {
		t.Errorf("one point is %gx+%g", slope, at0)
	}
}

func TestSkusCheck(t *testing.T) {
	spec := load.Spec{Events: 500, Users: 20, Seed: 3}
	outputs := func() (all []string) {
		have := make(map[string]*load.Total)
		for src := spec.Source(); ; {
			o, ok := src.Next()
			if !ok {
				return all
			}
			if have[o.SKU()] == nil {
				have[o.SKU()] = new(load.Total)
			}
			h := have[o.SKU()]
			h.Add(o.Amount)
			all = append(all, `{"sku":"`+o.SKU()+`","count":`+strconv.FormatInt(h.Count, 10)+`,"total":`+strconv.FormatInt(h.Total, 10)+`}`)
		}
	}()
	good := newSkus(spec)
	good.Message([]byte(strings.Join(outputs, "\n")), nil)
	if err := good.Done(); err != nil || good.Seen() != spec.Events {
		t.Errorf("right outputs: %v, %d seen", err, good.Seen())
	}
	for what, lines := range map[string][]string{
		"one is missing": outputs[:len(outputs)-1],
		"one is doubled": append(append([]string{}, outputs...), outputs[0]),
		"one is no JSON": append(append([]string{}, outputs...), "x"),
	} {
		c := newSkus(spec)
		c.Message([]byte(strings.Join(lines, "\n")), nil)
		if c.Done() == nil {
			t.Errorf("%s, and nothing was said", what)
		}
	}
}

func TestNoiseIsJSON(t *testing.T) {
	text := appendNoise(nil, rand.New(rand.NewPCG(1, 1)), 1000)
	if len(text) != 1000 || strings.ContainsAny(string(text), "\"\\\n") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

func TestReport(t *testing.T) {
	b := &bench{runs: 1, durability: "process"}
	r := newReport(b)
	r.spread("failover", "x", "s", []float64{1, 3, 2}, 2, 5)
	r.median("nodes", "x", "ratio", []float64{0.7}, func(w *row) { w.Least = 0.8 })
	for i, want := range []string{"NO", "yes", "NO"} { // a p50 of 2 is not below 2
		if got := r.Rows[i].reached(); got != want {
			t.Errorf("row %+v: reached %q, want %q", r.Rows[i], got, want)
		}
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*-cluster-*")); err != nil || len(files) != 2 {
		t.Errorf("wrote %v, %v", files, err)
	}
}

// TestHarness takes small figures of a real cluster.
func TestHarness(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs; not with -short")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	root, err := program.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	b := &bench{dir: t.TempDir(), runs: 1, kills: 1, rate: 300, lease: 2 * time.Second, durability: "process", quick: true}
	b.bin = filepath.Join(b.dir, "bin")
	if err := b.build(ctx); err != nil {
		t.Fatal(err)
	}
	s := setup{Nodes: 2, Replicas: 1, Standbys: 1}
	if err := b.failover(ctx, "failover", s); err != nil {
		t.Fatal(err)
	}
	if err := b.move(ctx, "move", s); err != nil {
		t.Fatal(err)
	}
	for _, stages := range []int{1, 2} {
		c, err := b.work(ctx, s, job{"small", 10, stages, 3000})
		if err != nil {
			t.Fatal(err)
		}
		if c.cpu <= 0 || c.broker <= 0 || c.broker > c.cpu {
			t.Errorf("%+v", c)
		}
	}
	for _, r := range b.report.Rows {
		if r.Of == 0 || r.Value <= 0 && !strings.Contains(r.Figure, "ms") {
			t.Errorf("no figure: %+v", r)
		}
	}
	if err := b.report.table(os.Stderr); err != nil {
		t.Fatal(err)
	}
}
