// Figures runs the queries of Nexmark with kisctl, and a bare program that does what query 0 does, and prints their
// events per processor second beside what is aimed at. It ends with 1 where an aim is missed.
//
// The aims: stateless queries at least 0.7 of what the bare program does, which only reads and writes; keyed ones at least
// 100,000 events a processor second, those with windows for each person or bidder at least 80,000. The bare program
// has the streams in memory, the parser and the builder of rows, and nothing else: no partitions, no positions, no log.
//
// Everything is in memory: events come packed, a hundred in a message, and what the flows send is counted and dropped. The
// runs of all programs take turns; the figures are medians.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kisflow/kisflow/bench/nexmark"
)

// aim is what a query is to reach.
type aim struct {
	ofBare float64 // of the bare program's figure
	rate   float64 // events a processor second
}

var aims = map[string]aim{
	"q0": {ofBare: 0.7}, "q1": {ofBare: 0.7}, "q2": {ofBare: 0.7}, "q14": {ofBare: 0.7}, "q22": {ofBare: 0.7},
	"q17": {rate: 100_000}, "q18": {rate: 100_000}, "q20": {rate: 100_000},
	"q8": {rate: 80_000}, "q11": {rate: 80_000},
}

func main() {
	events := flag.Int("events", 400_000, "events of a run")
	runs := flag.Int("runs", 3, "runs of each query; the figure is their median")
	queries := flag.String("queries", strings.Join(nexmark.Names(), ","), "these queries")
	kisctl := flag.String("kisctl", "", "the program to run; built if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *kisctl, *events, *runs, strings.Split(*queries, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, events, runs int, queries []string) (err error) {
	if events < 1 || runs < 1 {
		return errors.New("events and runs must be at least 1")
	}
	if program == "" {
		dir, err := os.MkdirTemp("", "figures")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "kisctl")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/kisflow/kisflow/cmd/kisctl")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build kisctl: %w", err)
		}
	}
	figures := make(map[string][]float64)
	for range runs {
		figure, err := bare(ctx, events)
		if err != nil {
			return err
		}
		figures["bare"] = append(figures["bare"], figure)
		for _, q := range queries {
			figure, err := measure(ctx, program, q, events)
			if err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
			figures[q] = append(figures[q], figure)
		}
	}
	return report(figures, queries, events, runs)
}

// measure runs a query once.
func measure(ctx context.Context, program, query string, events int) (float64, error) {
	c := exec.CommandContext(ctx, program, "bench", "nexmark", "--queries", query, "--events", strconv.Itoa(events), "-o", "json")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return 0, err
	}
	var answer struct {
		Items []struct {
			PerCPUSecond float64 `json:"events_per_cpu_second"`
		}
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return 0, err
	}
	if len(answer.Items) != 1 || answer.Items[0].PerCPUSecond <= 0 {
		return 0, fmt.Errorf("no figure in %s", out)
	}
	return answer.Items[0].PerCPUSecond, nil
}

func report(figures map[string][]float64, queries []string, events, runs int) error {
	median := func(name string) float64 {
		all := slices.Sorted(slices.Values(figures[name]))
		if len(all) == 0 {
			return 0
		}
		return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	}
	fmt.Printf("%d events, %d runs, %s, %d processors\n\n", events, runs, runtime.Version(), runtime.NumCPU())
	fmt.Printf("%-6s %18s %8s %8s  %s\n", "query", "events/CPU second", "of q0", "of bare", "aim")
	fmt.Printf("%-6s %18.0f\n", "bare", median("bare"))
	var missed []string
	q0, none := median("q0"), median("bare")
	for _, q := range queries {
		f, a, says := median(q), aims[q], ""
		reached := true
		switch {
		case a.rate > 0:
			reached, says = f >= a.rate, fmt.Sprintf("%.0f", a.rate)
		case a.ofBare > 0:
			reached, says = f >= a.ofBare*none, fmt.Sprintf("%.1f of bare", a.ofBare)
		}
		if says != "" && !reached {
			missed = append(missed, q)
		}
		if says != "" {
			says += ": " + map[bool]string{true: "reached", false: "MISSED"}[reached]
		}
		ratio := func(to float64) string {
			if to == 0 {
				return "-"
			}
			return fmt.Sprintf("%.2f", f/to)
		}
		fmt.Printf("%-6s %18.0f %8s %8s  %s\n", q, f, ratio(q0), ratio(none), says)
	}
	if len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, ", "))
	}
	return nil
}
