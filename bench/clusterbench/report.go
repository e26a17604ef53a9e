package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kisflow/kisflow/bench/program"
)

// report is all that one call found out.
type report struct {
	Date       string   `json:"date"`
	Commit     string   `json:"commit"`
	Machine    string   `json:"machine"`
	Go         string   `json:"go"`
	Runs       int      `json:"runs"`
	Durability string   `json:"durability"`
	Rows       []row    `json:"rows"`
	Notes      []string `json:"notes,omitempty"`
}

// row is one figure.
type row struct {
	Group  string  `json:"group"`
	What   string  `json:"what"`
	Figure string  `json:"figure"`
	Value  float64 `json:"value"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Of     int     `json:"of"`                // so many values
	Most   float64 `json:"most,omitzero"`     // the aim: Value below it
	Least  float64 `json:"least,omitzero"`    // the aim: Value above it
	Others float64 `json:"others,omitzero"`   // cores that the rest of the machine used meanwhile
	Rate   float64 `json:"a_second,omitzero"` // events a second by the clock
}

// reached says whether a row reaches its aim.
func (r row) reached() string {
	switch {
	case r.Most == 0 && r.Least == 0:
		return ""
	case r.Most > 0 && r.Value >= r.Most, r.Least > 0 && r.Value < r.Least:
		return "NO"
	}
	return "yes"
}

func (r row) aim() string {
	switch {
	case r.Most > 0:
		return fmt.Sprintf("below %g", r.Most)
	case r.Least > 0:
		return fmt.Sprintf("at least %g", r.Least)
	}
	return ""
}

// quantile of values in any order; 1 is the highest. It is 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return program.Quantile(slices.Sorted(slices.Values(values)), q)
}

// spread adds the p50 and the p99 of values, with the most that they may be; 0 means no aim.
func (r *report) spread(group, what, figure string, values []float64, p50, p99 float64) {
	for _, q := range []struct {
		name string
		q    float64
		most float64
	}{{"p50", 0.5, p50}, {"p99", 0.99, p99}} {
		r.Rows = append(r.Rows, row{Group: group, What: what, Figure: q.name + ": " + figure, Value: quantile(values, q.q), Low: quantile(values, 0), High: quantile(values, 1),
			Of: len(values), Most: q.most})
	}
}

// median adds the median of values.
func (r *report) median(group, what, figure string, values []float64, aim func(*row)) {
	w := row{Group: group, What: what, Figure: figure, Value: program.Median(values), Low: quantile(values, 0), High: quantile(values, 1), Of: len(values)}
	if aim != nil {
		aim(&w)
	}
	r.Rows = append(r.Rows, w)
}

func newReport(b *bench) report {
	return report{Date: time.Now().UTC().Format("2006-01-02T15:04:05Z"), Go: runtime.Version(), Runs: b.runs, Commit: program.Commit(), Machine: program.Machine(), Durability: b.durability}
}

var header = []string{"group", "what", "figure", "value", "range", "of", "aim", "reached", "events/s", "others, cores"}

func (r row) cells() []string {
	number := func(v float64, form string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(form, v)
	}
	return []string{r.Group, r.What, r.Figure, digits(r.Value), digits(r.Low) + " to " + digits(r.High), fmt.Sprint(r.Of), r.aim(), r.reached(),
		number(r.Rate, "%.0f"), number(r.Others, "%.2f")}
}

// digits writes a number with about three figures.
func digits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// table prints the report for people at a terminal.
func (r report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s, commit %s, %s, %s, durability %s\n\n", r.Machine, r.Commit, r.Date, r.Go, r.Durability)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	return nil
}

// write writes the report as Markdown and as JSON.
func (r report) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	base := filepath.Join(folder, r.Date[:10]+"-cluster-"+r.Commit)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	var md strings.Builder
	fmt.Fprintf(&md, "# Figures of a cluster, %s\n\nCommit %s. %s, %s, durability %s. All nodes, NATS and the load generator shared this machine, and so did other work\n(\"others\"); \"of\" is how many values a figure is of, the range is from the lowest to the highest of them.\n\n",
		r.Date[:10], r.Commit, r.Machine, r.Go, r.Durability)
	fmt.Fprintf(&md, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat(" --- |", len(header)))
	for _, row := range r.Rows {
		fmt.Fprintf(&md, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&md, "\n%s\n", n)
	}
	return os.WriteFile(base+".md", []byte(md.String()), 0o644)
}
