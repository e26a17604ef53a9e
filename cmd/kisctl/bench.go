package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/bench/nexmark"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/node"
)

// nexmarkBench is one run of bench nexmark: its flags, then its course.
type nexmarkBench struct {
	app *app

	names  []string
	events int
	rate   float64
	pack   int
	seed   uint64
	runs   int
	nats   string
	write  string

	queries []nexmark.Query
	gen     *nexmark.Generator
}

// benchmarked is the figures of one query, for people and programs.
type benchmarked struct {
	Query        string   `json:"query"`
	Events       int      `json:"events"`
	Rows         uint64   `json:"rows"` // of the answer
	Seconds      float64  `json:"seconds"`
	PerSecond    float64  `json:"events_per_second"`
	CPUSeconds   float64  `json:"cpu_seconds,omitzero"` // without those that made the events
	PerCPUSecond float64  `json:"events_per_cpu_second,omitzero"`
	DeadLetters  uint64   `json:"dead_letters"`
	P50          *float64 `json:"p50_ms,omitempty"`
	P99          *float64 `json:"p99_ms,omitempty"`

	reason string // of a dead letter
}

func newBench(a *app) *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure the engine on known work"}
	c.AddCommand(newBenchNexmark(a))
	return group(c)
}

func newBenchNexmark(a *app) *cobra.Command {
	b := &nexmarkBench{app: a}
	cmd := &cobra.Command{
		Use:   "nexmark",
		Short: "Run queries of the Nexmark benchmark and print their speed",
		Long: `bench nexmark makes events of the Nexmark benchmark (people, auctions and bids), runs its queries as flows, one after
the other, and prints for each how fast it was. Nothing is kept: the flows run in this process, their logs in
memory, and their answers are counted and dropped. Processor time is that of this process, but for what it took to
make the events (where the system cannot say so, on others than Linux, that is in it).

With --rate events come at that pace, and the table says how long it took from when the last event that a row of the
answer needs was due until the row was there. Windows close when the watermark has passed them, 4 s behind the newest
event: this wait is not counted. Of queries whose rows need longer than the run, or go by the clock, there is none.

With --server or --nats the flows run in that node: they are added to it, under subjects of their own, and removed
again with their streams. Events and answers are stored there, and the processor time is the node's.

With --write DIR nothing runs: the definitions and the events are written into a new folder, to look at and to try out.`,
		Example: "  kisctl bench nexmark\n  kisctl bench nexmark --queries q0,q5 --events 1000000\n  kisctl bench nexmark --queries q5 --rate 10000 --events 300000\n  kisctl bench nexmark --server http://127.0.0.1:7070",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			inNode := b.nats != "" || cmd.Flags().Changed("server")
			return b.run(cmd.Context(), inNode)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&b.names, "queries", nil, "run these `QUERIES`, as q0,q5, in place of all")
	f.IntVar(&b.events, "events", 200_000, "make `N` events for each query")
	f.Float64Var(&b.rate, "rate", 0, "publish `N` events a second; 0: as fast as they are taken, with 1000 a second in event time")
	f.IntVar(&b.pack, "pack", 100, "at most `N` events in a message")
	f.IntVar(&b.runs, "runs", 1, "run each query `N` times and take the run with the median of processor time")
	f.Uint64Var(&b.seed, "seed", 1, "make the events of seed `N`")
	f.StringVar(&b.write, "write", "", "write definitions and events into folder `DIR`, which must not be there, and run nothing")
	f.StringVar(&b.nats, "nats", "", "`URL` of the node's NATS server, in place of what the node says")
	return cmd
}

// Bounds of bench nexmark.
const (
	maxBenchEvents = 1_000_000_000
	maxBenchRate   = 1_000_000
	maxBenchPack   = 10_000
)

func (b *nexmarkBench) check() error {
	switch {
	case b.events < 1 || b.events > maxBenchEvents:
		return usagef("--events is %d; it must be 1 to %d", b.events, maxBenchEvents)
	case b.rate != 0 && !(b.rate >= 1 && b.rate <= maxBenchRate):
		return usagef("--rate is %v; it must be 1 to %d, or 0", b.rate, maxBenchRate)
	case b.pack < 1 || b.pack > maxBenchPack:
		return usagef("--pack is %d; it must be 1 to %d", b.pack, maxBenchPack)
	case b.runs < 1 || b.runs > 100:
		return usagef("--runs is %d; it must be 1 to 100", b.runs)
	}
	all := nexmark.Queries()
	if len(b.names) == 0 {
		b.queries = all
	}
	for _, name := range b.names {
		i := slices.IndexFunc(all, func(q nexmark.Query) bool { return q.Name == strings.ToLower(strings.TrimSpace(name)) })
		if i < 0 {
			return usagef("--queries: there is no query %q; there are %s", name, strings.Join(nexmark.Names(), ", "))
		}
		if !slices.ContainsFunc(b.queries, func(q nexmark.Query) bool { return q.Name == all[i].Name }) {
			b.queries = append(b.queries, all[i])
		}
	}
	for _, q := range b.queries {
		if b.rate != 0 && b.rate < q.Least {
			return usagef("--rate is %v; %s needs at least %v events a second", b.rate, q.Name, q.Least)
		}
	}
	return nil
}

func (b *nexmarkBench) run(ctx context.Context, inNode bool) error {
	if err := b.check(); err != nil {
		return err
	}
	b.gen = nexmark.New(nexmark.Config{Seed: b.seed, Rate: b.rate})
	if b.write != "" {
		return b.files()
	}
	head := []string{"QUERY", "#EVENTS", "#ROWS", "#SECONDS", "#EVENTS/S", "#CPU S", "#EVENTS/CPU S"}
	if b.rate > 0 {
		head = append(head, "#P50 MS", "#P99 MS")
	}
	out := newTable(head...)
	out.widths[2] = len("100000000") // rows are printed one by one
	var all []benchmarked
	lost, reason := uint64(0), ""
	for _, q := range b.queries {
		runs := make([]benchmarked, b.runs)
		for i := range runs {
			var err error
			if inNode {
				runs[i], err = b.inNode(ctx, q)
			} else {
				runs[i], err = b.inMemory(ctx, q)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", q.Name, err)
			}
		}
		slices.SortFunc(runs, func(x, y benchmarked) int {
			return cmp.Or(cmp.Compare(x.CPUSeconds, y.CPUSeconds), cmp.Compare(x.Seconds, y.Seconds))
		})
		r := runs[(len(runs)-1)/2]
		all = append(all, r)
		if lost += r.DeadLetters; r.DeadLetters > 0 {
			reason = r.Query + ": " + r.reason
		}
		if b.app.json() {
			continue
		}
		row := []string{r.Query, strconv.Itoa(r.Events), strconv.FormatUint(r.Rows, 10), fmt.Sprintf("%.2f", r.Seconds),
			fmt.Sprintf("%.0f", r.PerSecond), "-", "-"}
		if r.CPUSeconds > 0 {
			row[5], row[6] = fmt.Sprintf("%.2f", r.CPUSeconds), fmt.Sprintf("%.0f", r.PerCPUSecond)
		}
		if b.rate > 0 {
			for _, p := range []*float64{r.P50, r.P99} {
				text := "-"
				if p != nil {
					text = fmt.Sprintf("%.1f", *p)
				}
				row = append(row, text)
			}
		}
		if err := out.print(b.app.out, [][]string{row}); err != nil {
			return err
		}
	}
	if b.app.json() {
		if err := b.app.printJSON(struct {
			Items []benchmarked `json:"items"`
			Next  *string       `json:"next"`
		}{Items: all}); err != nil {
			return err
		}
	}
	if lost > 0 {
		return fmt.Errorf("%d events became dead letters, so that the figures are not those of the queries; %s", lost, reason)
	}
	return nil
}

// files writes the definitions of the queries, and the events.
func (b *nexmarkBench) files() (err error) {
	var names []string
	for _, q := range b.queries {
		names = append(names, q.Name)
	}
	flows, err := nexmark.Flows(false, names...)
	if err != nil {
		return err
	}
	if err := os.Mkdir(b.write, 0o755); err != nil {
		return fileError(b.write, err)
	}
	folder := filepath.Join(b.write, "flows")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fileError(folder, err)
	}
	for _, f := range flows {
		name := filepath.Join(folder, path.Base(f.Name))
		if err := os.WriteFile(name, f.Text, 0o644); err != nil {
			return fileError(name, err)
		}
	}
	name := filepath.Join(b.write, "events.jsonl")
	file, err := os.Create(name)
	if err != nil {
		return fileError(name, err)
	}
	out := bufio.NewWriterSize(file, 1<<20)
	var line []byte
	side := 0
	if slices.Contains(names, "q13") {
		side = nexmark.SideRows()
	}
	for n := range side + b.events {
		if line = line[:0]; n < side {
			line = b.gen.AppendSide(line, n)
		} else {
			line = b.gen.Append(line, n-side)
		}
		if _, err = out.Write(append(line, '\n')); err != nil {
			break
		}
	}
	if err = errors.Join(err, out.Flush(), file.Close()); err != nil {
		return fileError(name, err)
	}
	_, err = fmt.Fprintf(b.app.out, "wrote %s of definitions and %s to %s\n", count(len(flows), "file"), count(side+b.events, "event"), b.write)
	return err
}

// feeder publishes the events of one run.
type feeder struct {
	bench   *nexmarkBench
	publish func([]byte) error

	began   time.Time
	making  time.Duration // processor time that making the events took
	message []byte
}

// feed publishes all events, each when it is due.
func (f *feeder) feed(ctx context.Context) error {
	b := f.bench
	runtime.LockOSThread() // for the processor time of this thread
	defer runtime.UnlockOSThread()
	f.began = time.Now()
	for n := 0; n < b.events; {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := min(n+b.pack, b.events)
		if b.rate > 0 {
			due := int(time.Since(f.began).Seconds()*b.rate) + 1
			if due <= n {
				wait := time.Duration(float64(n+1)/b.rate*1e9) - time.Since(f.began)
				select {
				case <-time.After(max(wait, 2*time.Millisecond)):
				case <-ctx.Done():
				}
				continue
			}
			to = min(to, due)
		}
		before := threadTime()
		f.message = f.message[:0]
		for ; n < to; n++ {
			f.message = append(b.gen.Append(f.message, n), '\n')
		}
		f.making += threadTime() - before
		if err := f.publish(f.message[:len(f.message)-1]); err != nil {
			return err
		}
	}
	return nil
}

// side publishes query 13's table.
func (f *feeder) side() error {
	const each = 100
	for n := 0; n < nexmark.SideRows(); n += each {
		var message []byte
		for i := n; i < min(n+each, nexmark.SideRows()); i++ {
			message = append(f.bench.gen.AppendSide(message, i), '\n')
		}
		if err := f.publish(message[:len(message)-1]); err != nil {
			return err
		}
	}
	return nil
}

// answers counts the rows of an answer, and takes their latencies.
type answers struct {
	bench *nexmarkBench
	query nexmark.Query

	mu    sync.Mutex
	rows  uint64
	last  time.Time // when a row came
	began time.Time // when event 0 was due; the zero time: none yet
	took  latencies
}

func (a *answers) begin(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.began = t
}

// add takes a message of rows, one a line.
func (a *answers) add(message []byte) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = now
	if a.bench.rate == 0 || a.query.Clock != "" {
		a.rows += uint64(bytes.Count(message, []byte{'\n'})) + 1
		return
	}
	for line := range bytes.SplitSeq(message, []byte{'\n'}) {
		a.rows++
		at, ok := stampOf(line)
		if !ok || a.began.IsZero() {
			continue
		}
		// The row needs the event at this time, or the first one that is so far behind it that the watermark passes.
		due := time.UnixMilli(at).Add(a.query.Wait).Sub(a.bench.gen.Start)
		if last := a.bench.gen.Time(a.bench.events - 1).Sub(a.bench.gen.Start); due > last {
			continue // it is there because the events have ended
		}
		a.took.add(now.Sub(a.began.Add(due)))
	}
}

// stampOf is the stamp of a row: it begins with {"at":1767225600000.
func stampOf(line []byte) (millis int64, ok bool) {
	digits, ok := bytes.CutPrefix(line, []byte(`{"at":`))
	if !ok {
		return 0, false
	}
	n := 0
	for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
		n++
	}
	millis, err := strconv.ParseInt(string(digits[:n]), 10, 64)
	return millis, err == nil
}

// latencies counts durations in buckets, each two per cent wider than the one before.
type latencies struct {
	buckets [1200]uint64 // from a microsecond to half an hour and more
	all     uint64
}

const latencyStep = 1.02

func (l *latencies) add(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = min(int(math.Log(us)/math.Log(latencyStep)), len(l.buckets)-1)
	}
	l.buckets[i]++
	l.all++
}

// quantile is in milliseconds; nil without any duration.
func (l *latencies) quantile(q float64) *float64 {
	if l.all == 0 {
		return nil
	}
	rank, seen := uint64(math.Ceil(q*float64(l.all))), uint64(0)
	for i, n := range l.buckets {
		if seen += n; seen >= rank {
			ms := math.Pow(latencyStep, float64(i)+0.5) / 1000
			return &ms
		}
	}
	return nil // not reached: all is the sum of the buckets
}

// definitions reads a query's flows.
func (b *nexmarkBench) definitions(q nexmark.Query) ([]nexmark.File, error) {
	return nexmark.Flows(b.rate > 0, q.Name)
}

func (b *nexmarkBench) figures(q nexmark.Query, a *answers, took time.Duration, processor time.Duration) benchmarked {
	r := benchmarked{Query: q.Name, Events: b.events, Rows: a.rows, Seconds: took.Seconds(), PerSecond: float64(b.events) / max(took.Seconds(), 1e-9)}
	if processor > 0 {
		r.CPUSeconds = processor.Seconds()
		r.PerCPUSecond = float64(b.events) / r.CPUSeconds
	}
	if b.rate > 0 {
		r.P50, r.P99 = a.took.quantile(0.50), a.took.quantile(0.99)
	}
	return r
}

// tableSettles is how long query 13's table is given before the bids come, in memory: nothing says when it is there.
const tableSettles = 500 * time.Millisecond

// inMemory runs a query in this process.
func (b *nexmarkBench) inMemory(ctx context.Context, q nexmark.Query) (benchmarked, error) {
	files, err := b.definitions(q)
	if err != nil {
		return benchmarked{}, err
	}
	set := &flowdef.Set{}
	var mistakes flowdef.Mistakes
	for _, f := range files {
		mistakes = append(mistakes, flowdef.Parse(f.Name, f.Text, set)...)
	}
	mistakes = append(mistakes, node.Lint(set, nil, true)...)
	if faults := mistakes.Errors(); len(faults) > 0 {
		return benchmarked{}, errors.New(strings.TrimSpace(cleanLines(faults.String())))
	}
	runtime.GC() // what the query before has left is not this one's
	a := &answers{bench: b, query: q}
	f := &feeder{bench: b}
	var before time.Duration
	m := node.InMemory{
		ScriptWorker: b.app.program,
		Subject:      nexmark.Subject,
		Events: func(ctx context.Context, publish func([]byte) error) error {
			f.publish = publish
			if q.Name == "q13" {
				if err := f.side(); err != nil {
					return err
				}
				time.Sleep(tableSettles)
			}
			before = processTime()
			a.begin(time.Now())
			return f.feed(ctx)
		},
		Output: func(_ string, message []byte) error { a.add(message); return nil },
		Log:    slog.New(slog.NewTextHandler(b.app.errs, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	report, err := m.Run(ctx, set)
	if err != nil {
		return benchmarked{}, err
	}
	r := b.figures(q, a, time.Since(f.began), processTime()-before-f.making)
	r.DeadLetters = report.DeadLetters
	for reason := range report.Reasons {
		r.reason = reason
	}
	return r, nil
}
