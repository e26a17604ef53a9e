package node

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var rewrite = flag.Bool("rewrite", false, "write docs/reference/metrics.md anew; read the diff")

const metricsFlow = `
kistype: flow
status: 1
flow_name: Orders
entry: {subject: orders}
flows: [{fname: Totals}, {fname: Name}, {fname: Send}]
---
kistype: func
fname: Totals
fmode: Calculate
source: {name: orders, must: [userid]}
ttl: {after: 1d, by: event} # for the watermark
calculate: {state: {count: {init: 0, set: state.count + 1}}}
---
kistype: func
fname: Send
fmode: Expand
expand: {subject: totals}
---
kistype: func
fname: Name
fmode: Load
option: {cname: users}
load: {key: row.userid}
---
kistype: conn
cname: users
type: file
addrs: DIR/users.csv
key: id
`

// family is what a scrape tells of a metric.
type family struct {
	name, kind, help string
	labels           map[string]bool
}

// TestMetricsReference compares docs/reference/metrics.md with what a node that works answers to Prometheus.
func TestMetricsReference(t *testing.T) {
	dir := t.TempDir()
	flows := filepath.Join(dir, "flows.yaml")
	for path, text := range map[string]string{flows: strings.ReplaceAll(metricsFlow, "DIR", dir), filepath.Join(dir, "users.csv"): "id,name\n1,Ada\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n, err := Start(context.Background(), Options{Data: filepath.Join(dir, "data"), Flows: []string{flows}, Listen: "127.0.0.1:0",
		NATSListen: "127.0.0.1:0", Durability: "process", LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	// One call of 32 is timed: so many that each step has been timed.
	events := strings.Repeat(`{"userid":1}`+"\n", 100)
	answer, err := http.Post("http://"+n.Address()+"/api/v1/flows/Orders/events", "application/x-ndjson", strings.NewReader(events))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if answer.StatusCode >= 300 {
		t.Fatalf("publish: %s: %s", answer.Status, text)
	}

	registered := make(chan *prometheus.Desc, 1000)
	n.metrics.registry.Describe(registered)
	close(registered)
	var want []string
	for d := range registered {
		if name := descName.FindStringSubmatch(d.String()); name != nil && ours(name[1]) {
			want = append(want, name[1])
		}
	}
	slices.Sort(want)
	var families map[string]*family
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		families = scrape(t, "http://"+n.Address()+"/metrics")
		var got []string
		for name := range families {
			if ours(name) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if slices.Equal(got, slices.Compact(want)) {
			break
		}
		if time.Now().After(give) {
			t.Fatalf("the node answers with %v; it registers %v", got, want)
		}
	}

	page := metricsPage(families)
	path := filepath.Join("..", "docs", "reference", "metrics.md")
	if *rewrite {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	is, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(is) != page {
		t.Errorf("%s is not what a node answers; run go test ./node -run MetricsReference -rewrite, which writes\n%s", path, page)
	}
}

var descName = regexp.MustCompile(`fqName: "([^"]+)"`)

// original are the metrics that the original KisFlow has too.
var original = []string{"kisflow_data_total", "flow_data_total", "flow_schedule_cnts", "func_schedule_cnts", "func_run_duration", "flow_run_duration"}

func ours(name string) bool {
	return strings.HasPrefix(name, "kisflow_") || slices.Contains(original, name)
}

var (
	sample = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? \S+$`)
	label  = regexp.MustCompile(`([a-z_]+)="`)
)

// scrape reads the text format.
func scrape(t *testing.T, url string) map[string]*family {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, answer.Status, err)
	}
	families := make(map[string]*family)
	var f *family
	for l := range bytes.Lines(text) {
		line := strings.TrimSpace(string(l))
		if about, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(about, " ")
			f = &family{name: name, help: help, labels: make(map[string]bool)}
			families[name] = f
		} else if about, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, f.kind, _ = strings.Cut(about, " ")
		} else if m := sample.FindStringSubmatch(line); m != nil && f != nil {
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "le" {
					f.labels[l[1]] = true
				}
			}
		}
	}
	return families
}

func metricsPage(families map[string]*family) string {
	var b strings.Builder
	b.WriteString(`# Metrics

A node answers Prometheus at ` + "`/metrics`" + `, on the address of its API, or with ` + "`prometheus_serve`" + ` or ` + "`prometheus_listen`" + ` on one of their
own (then only there). This page is made from what a node answers. Times are in seconds, and histograms, unless the name says
otherwise. Labels: ` + "`flow`, `step` and `function`" + ` by their names, ` + "`mode`" + ` is the function's fmode, ` + "`input`" + ` is the stream.

A counter begins at zero when the process starts. A dead letter that never reached a step (its bytes are no JSON object) is in
` + "`kisflow_dead_letters`" + ` only.

| name | type | labels | |
|---|---|---|---|
`)
	row := func(f *family) {
		labels := make([]string, 0, len(f.labels))
		for l := range f.labels {
			labels = append(labels, l)
		}
		slices.Sort(labels)
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.kind, strings.Join(labels, ", "), f.help)
	}
	var names []string
	for name := range families {
		if ours(name) && !slices.Contains(original, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		row(families[name])
	}
	b.WriteString(`
## Those of the original KisFlow

Names, types and labels are as they were, so that boards go on working. A batch here is what one commit covers. Durations are in
milliseconds.

| name | type | labels | |
|---|---|---|---|
`)
	for _, name := range original {
		row(families[name])
	}
	b.WriteString(`
## Go and the process

` + "`go_*` and `process_*`" + ` are those of client_golang: memory, garbage collection, goroutines, processor time, open files.

## What to watch

| question | expression |
|---|---|
| does anything stand still? | ` + "`kisflow_partitions{state=\"stopped\"} > 0`" + `; an input that has stopped shows as a lag that grows |
| are events refused? | ` + "`delta(kisflow_dead_letters[10m]) > 0`" + `; ` + "`kisflow_dead_letters_total`" + ` says at which step |
| does a flow keep up? | ` + "`kisflow_lag_messages`" + ` grows, or ` + "`kisflow_end_to_end_seconds`" + ` does |
| how many events a second? | ` + "`rate(kisflow_events_in_total[1m])`" + ` |
| how full are batches? | ` + "`rate(kisflow_batch_rows_sum[1m]) / rate(kisflow_batch_rows_count[1m])`" + ` |
| which function is slow? | ` + "`rate(kisflow_function_seconds_sum[1m]) / rate(kisflow_function_seconds_count[1m])`" + ` |
`)
	return b.String()
}
