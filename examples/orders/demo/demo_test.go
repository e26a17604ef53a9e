package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/examples/orders/orders"
)

// TestDemo runs the whole demo with few lines, and then sees that its check finds what is wrong.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs; not with -short")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/kisnode", "./cmd/kisctl")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := demo{lines: 5000, seed: 3, bin: bin, flows: filepath.Join("..", "flows.yaml")}
	if err := d.run(ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", d.dir)
	}
}

// TestClusterDemo runs the demo on three nodes.
func TestClusterDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs; not with -short")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	bin := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/kisnode", "./cmd/kisctl")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := demo{lines: 20_000, seed: 4, bin: bin, flows: filepath.Join("..", "flows.yaml"), cluster: true}
	if err := d.run(ctx, false); err != nil {
		t.Fatal(err)
	}
}

func TestDemoFindsDifferences(t *testing.T) {
	// A kisctl that always answers the same two states.
	bin := t.TempDir()
	script := "#!/bin/sh\necho '{\"items\":[{\"key\":{\"userid\":1},\"state\":{\"lines\":2,\"cents\":30,\"most\":20}},{\"key\":{\"userid\":3},\"state\":{\"lines\":1,\"cents\":5,\"most\":5}}],\"next\":null}'\n"
	if err := os.WriteFile(filepath.Join(bin, "kisctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := demo{bin: bin, node: &node{}}
	for name, c := range map[string]struct {
		want map[int64]orders.UserTotal
		n    int
		text string
	}{
		"same":       {map[int64]orders.UserTotal{1: {Lines: 2, Cents: 30, Most: 20}, 3: {Lines: 1, Cents: 5, Most: 5}}, 0, ""},
		"other":      {map[int64]orders.UserTotal{1: {Lines: 2, Cents: 31, Most: 20}, 3: {Lines: 1, Cents: 5, Most: 5}}, 1, "userid=1: {Lines:2 Cents:30 Most:20}, want {Lines:2 Cents:31 Most:20}"},
		"missing":    {map[int64]orders.UserTotal{1: {Lines: 2, Cents: 30, Most: 20}, 2: {Lines: 1}, 3: {Lines: 1, Cents: 5, Most: 5}}, 1, "userid=2: no state"},
		"unexpected": {map[int64]orders.UserTotal{1: {Lines: 2, Cents: 30, Most: 20}}, 1, "no such key"},
	} {
		var diff differences
		if err := compare(t.Context(), &d, &diff, "Orders", "totals", "userid", c.want); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff.n != c.n || !strings.Contains(strings.Join(diff.first, "\n"), c.text) {
			t.Errorf("%s: %d differences, %q; want %d with %q", name, diff.n, diff.first, c.n, c.text)
		}
	}
}
