package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kisflow/kisflow/bench/program"
)

// report is all that one call found out.
type report struct {
	Date    string   `json:"date"`
	Commit  string   `json:"commit"`
	Machine string   `json:"machine"`
	Go      string   `json:"go"`
	Runs    int      `json:"runs"`
	Rows    []row    `json:"rows"`
	Notes   []string `json:"notes,omitempty"`
}

// row is one program's medians in one group, or one figure of its own.
type row struct {
	Group   string  `json:"group"`
	Program string  `json:"program"`
	Figure  string  `json:"figure"` // what Value is
	Value   float64 `json:"value"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Ratio   float64 `json:"ratio_to_bare,omitzero"`
	Limit   float64 `json:"limit,omitzero"`       // the most that Value may be
	Most    float64 `json:"ratio_limit,omitzero"` // the most that Ratio may be
	Rate    float64 `json:"orders_per_s,omitzero"`
	P50     float64 `json:"p50_ms,omitzero"`
	Others  float64 `json:"other_cores,omitzero"`
	Runs    []run   `json:"runs,omitempty"`
}

// met says whether a row keeps its limits.
func (r row) met() string {
	switch {
	case r.Limit == 0 && r.Most == 0:
		return ""
	case r.Limit > 0 && r.Value > r.Limit, r.Most > 0 && r.Ratio > r.Most:
		return "NO"
	}
	return "yes"
}

func newReport(runs int) report {
	return report{
		Date: time.Now().UTC().Format("2006-01-02T15:04:05Z"), Go: runtime.Version(), Runs: runs, Commit: program.Commit(), Machine: program.Machine(),
	}
}

// race adds a group's entrants; the first is what the others are compared with.
func (r *report) race(name string, latency bool, _ job, entrants []entrant, all [][]run) {
	figure := func(x run) float64 { return x.CPU }
	what := "processor s per million"
	if latency {
		figure, what = func(x run) float64 { return x.P99 }, "p99 in ms"
	}
	var bare float64
	for k, e := range entrants {
		values := pick(all[k], figure)
		w := row{
			Group: name, Program: e.Name, Figure: what, Limit: e.Limit, Most: e.Ratio, Runs: all[k],
			Value: program.Median(values), Low: lowest(values), High: highest(values),
			Rate:   program.Median(pick(all[k], func(x run) float64 { return x.Rate })),
			P50:    program.Median(pick(all[k], func(x run) float64 { return x.P50 })),
			Others: program.Median(pick(all[k], func(x run) float64 { return x.Others })),
		}
		if k == 0 {
			bare = w.Value
		} else if bare > 0 {
			w.Ratio = w.Value / bare
		}
		r.Rows = append(r.Rows, w)
	}
}

// rest adds the figures of a system at rest.
func (r *report) rest(all []rest) {
	for _, f := range []struct {
		what  string
		of    func(rest) float64
		limit float64
	}{
		{"idle, no keys: percent of a core", func(x rest) float64 { return x.IdleEmpty }, 2},
		{fmt.Sprintf("idle, %d keys: percent of a core", all[0].Keys), func(x rest) float64 { return x.IdleKeys }, 2},
		{"memory at the start, JetStream in it: MB", func(x rest) float64 { return float64(x.MemoryEmpty) / 1e6 }, 0},
		{fmt.Sprintf("memory with %d keys, JetStream in it: MB", all[0].Keys), func(x rest) float64 { return float64(x.MemoryKeys) / 1e6 }, 0},
		{"memory an idle key beyond its state, NATS outside: bytes", func(x rest) float64 { return x.KeyBytes }, 600},
		{"memory each further idle key, NATS outside: bytes", func(x rest) float64 { return x.NextBytes }, 0},
		{"kill -9 to ready: s", func(x rest) float64 { return x.Ready }, 5},
		{"kill -9 to the next output: s", func(x rest) float64 { return x.Recovered }, 5},
	} {
		values := pick(all, f.of)
		r.Rows = append(r.Rows, row{
			Group: "rest", Program: "YAML", Figure: f.what, Limit: f.limit,
			Value: program.Median(values), Low: lowest(values), High: highest(values),
		})
	}
}

func pick[T any](all []T, f func(T) float64) []float64 {
	v := make([]float64, len(all))
	for i, x := range all {
		v[i] = f(x)
	}
	return v
}

func lowest(v []float64) float64 {
	m := v[0]
	for _, x := range v {
		m = min(m, x)
	}
	return m
}

func highest(v []float64) float64 {
	m := v[0]
	for _, x := range v {
		m = max(m, x)
	}
	return m
}

var header = []string{"group", "program", "figure", "median", "range", "of bare", "at most", "met", "orders/s", "p50 ms", "others, cores"}

// cells are a row as text.
func (r row) cells() []string {
	ratio, limit := "", ""
	if r.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", r.Ratio)
	}
	switch {
	case r.Limit > 0 && r.Most > 0:
		limit = fmt.Sprintf("%g, %g times", r.Limit, r.Most)
	case r.Limit > 0:
		limit = fmt.Sprintf("%g", r.Limit)
	case r.Most > 0:
		limit = fmt.Sprintf("%g times", r.Most)
	}
	number := func(v float64, form string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(form, v)
	}
	return []string{
		r.Group, r.Program, r.Figure, fmt.Sprintf("%.2f", r.Value), fmt.Sprintf("%.2f to %.2f", r.Low, r.High),
		ratio, limit, r.met(), number(r.Rate, "%.0f"), number(r.P50, "%.2f"), number(r.Others, "%.2f"),
	}
}

// table prints the report for people at a terminal.
func (r report) table(w io.Writer) {
	fmt.Fprintf(w, "%s, commit %s, %s, median of %d\n\n", r.Machine, r.Commit, r.Date, r.Runs)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	t.Flush()
}

// write writes the report as Markdown and as JSON.
func (r report) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	base := filepath.Join(folder, r.Date[:10]+"-"+r.Commit)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	var md strings.Builder
	fmt.Fprintf(&md, "# Figures of %s\n\nCommit %s. %s, %s. Median of %d runs that took turns; \"of bare\" is the ratio to the yardstick\nin the same runs; \"others\" is what the rest of the machine used meanwhile.\n\n", r.Date[:10], r.Commit, r.Machine, r.Go, r.Runs)
	fmt.Fprintf(&md, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat(" --- |", len(header)))
	for _, row := range r.Rows {
		fmt.Fprintf(&md, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	return os.WriteFile(base+".md", []byte(md.String()), 0o644)
}
