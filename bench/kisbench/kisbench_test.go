package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

func TestReport(t *testing.T) {
	r := newReport(3)
	r.race("single", false, job{}, []entrant{{Name: "bare"}, {Name: "YAML", Limit: 28, Ratio: 1.3}}, [][]run{
		{{CPU: 10, Rate: 5}, {CPU: 30, Rate: 5}, {CPU: 20, Rate: 5}},
		{{CPU: 27}, {CPU: 25}, {CPU: 29}},
	})
	if got := r.Rows[1]; got.Value != 27 || got.Ratio != 1.35 || got.met() != "NO" {
		t.Errorf("%+v, met %q: want 27, 1.35 times, not met", got, got.met())
	}
	var table bytes.Buffer
	r.table(&table)
	if !strings.Contains(table.String(), "28, 1.3 times") {
		t.Errorf("no limits in\n%s", &table)
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) != 2 {
		t.Errorf("wrote %v, %v", files, err)
	}
}

// TestHarness runs all programs through the whole harness, with few orders.
func TestHarness(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs; not with -short")
	}
	b := bench{dir: t.TempDir(), runs: 1, scale: 1}
	b.bin = filepath.Join(b.dir, "bin")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	root, err := program.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	for _, name := range []string{"yardstick", "nats-server", "kisnode", "gonode"} {
		if err := program.Build(ctx, ".", filepath.Join(b.bin, name), packages[name], os.Stderr); err != nil {
			t.Fatal(err)
		}
	}
	spec := load.Spec{Events: 5000, Users: 100, Skew: 1.1, Seed: 1}
	for name, c := range map[string]struct {
		setup
		job
	}{
		"embedded":          {setup{Program: "yardstick"}, job{Spec: spec}},
		"outside":           {setup{Program: "yardstick", Outside: true}, job{Spec: spec}},
		"packed":            {setup{Program: "yardstick", Pack: true}, job{Spec: spec, Pack: 100}},
		"power":             {setup{Program: "yardstick", Power: true}, job{Spec: spec}},
		"power and outside": {setup{Program: "yardstick", Power: true, Outside: true}, job{Spec: spec}},
		"node":              {setup{Program: "kisnode", Flows: "order-totals"}, job{Spec: spec}},
		"node, all of it":   {setup{Program: "kisnode", Flows: "order-totals-packed", Pack: true, Power: true, Outside: true}, job{Spec: spec, Pack: 100}},
		"node in Go":        {setup{Program: "gonode", Flows: "order-totals-go"}, job{Spec: spec}},
	} {
		r, err := b.throughput(ctx, c.setup, c.job)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.CPU <= 0 || r.Rate <= 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	rest, err := b.rest(ctx, setup{Program: "kisnode", Flows: "order-totals-packed"}, 2000, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if rest.Ready <= 0 || rest.Recovered < rest.Ready || rest.MemoryKeys <= 0 || rest.StateBytes <= 0 {
		t.Errorf("%+v", rest)
	}
	r, err := b.latency(ctx, setup{Program: "yardstick"}, job{Spec: spec, Rate: 5000, Warmup: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 {
		t.Errorf("latencies: %+v", r)
	}
}
