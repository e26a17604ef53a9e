// Modelbench prints what the programming model costs: timers, the state of windows, and functions as expressions,
// scripts and remote programs. Processor time of this process and its children, in memory but for the states, which are
// in Pebble where timers are measured.
//
//	go run ./bench/modelbench
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/node"
	"github.com/kisflow/kisflow/state/pebble"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

func main() {
	node.Worker() // this program is its own worker for scripts
	quick := flag.Bool("quick", false, "a tenth of everything: to see that it works, not for figures")
	flag.Parse()
	scale := 1
	if *quick {
		scale = 10
	}
	if err := run(scale); err != nil {
		fmt.Fprintln(os.Stderr, "modelbench: "+err.Error())
		os.Exit(1)
	}
}

func run(scale int) error {
	fmt.Printf("## Timers\n\nA timer of event time for each key, listed in Pebble; the watermark then reaches some of them. The keys are in memory: one that\nis not is read from Pebble first.\n\n")
	fmt.Println("| pending | set, µs each | fired | µs each |\n|---|---|---|---|")
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		if err := timers(n/scale, min(n, 100_000)/scale); err != nil {
			return fmt.Errorf("timers: %w", err)
		}
	}
	fmt.Printf("\n## Windows\n\n| window | aggregates | bytes of state a key, one row each |\n|---|---|---|\n")
	for _, w := range []struct{ window, aggregate string }{
		{"tumbling: 10s", "n: count()"},
		{"tumbling: 10s", "n: count(), total: sum(row.v), most: max(row.v)"},
		{"hopping: 10s, every: 2s", "n: count()"},
		{"session: 10s", "n: count()"},
		{"tumbling: 10s", "p99: 'percentile(99, row.v)'"},
	} {
		if err := window(w.window, w.aggregate, 1000); err != nil {
			return fmt.Errorf("window %s: %w", w.window, err)
		}
	}
	fmt.Printf("\n## Functions\n\nRows of 60 bytes, 100 a message, keyed totals, in memory.\n\n| function | µs a row | beyond a row that passes |\n|---|---|---|\n")
	return functions(200_000 / scale)
}

// used is the processor time of this process and of its children that have ended.
func used() time.Duration {
	total := time.Duration(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total
}

func each(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }

type count struct {
	N int64 `json:"n"`
}

// timers sets n timers and lets the first of them fire.
func timers(n, fire int) error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modelbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fired := 0
	type row struct {
		User int64 `json:"user"`
		At   int64 `json:"at"`
	}
	remind := kis.KeyedTimers("remind", func(_ context.Context, s *count, e kis.Event[row], out *kis.Output[row]) error {
		s.N++
		out.SetTimer("t", kis.EventTime, base.Add(time.Hour+time.Duration(e.Value.At)*time.Millisecond))
		return nil
	}, func(_ context.Context, s *count, _ kis.Due, _ *kis.Output[row]) error {
		fired++
		s.N++
		return nil
	})
	var engine *actors.Trial
	streams := memory.New(memory.Options{NonBlocking: true, Now: func() time.Time {
		if engine == nil {
			return base
		}
		return engine.Now()
	}})
	engine = actors.NewTrial(actors.Ports{Streams: streams, Objects: memory.NewObjects(memory.Options{}), Logger: slog.New(slog.DiscardHandler)},
		db, base, actors.Options{Partitions: 1, SnapshotBytes: 1 << 62, CacheBytes: 2 << 30})
	info, err := streams.Ensure(ctx, transport.Config{Name: "IN", Subjects: []string{"in"}})
	if err != nil {
		return err
	}
	if err := engine.Start(ctx, &actors.Flow{Name: "f", Revision: 1,
		Inputs: []actors.Input{{Kind: actors.Entry, Name: "IN", Stream: "IN", Created: info.Created.UnixNano()}},
		Steps:  []actors.Step{{Name: "remind", Function: remind, Mode: kis.Calculate, Must: []string{"user"}}},
		Time:   actors.EventTime{Field: "t"}}); err != nil {
		return err
	}
	publish := func(text string) error {
		_, err := streams.Append(ctx, "IN", transport.Outgoing{Subject: "in", Data: []byte(text)})
		return err
	}
	var b strings.Builder
	start := used()
	for i := range n {
		fmt.Fprintf(&b, `{"user":%d,"at":%d,"t":%d}`+"\n", i, (i*7919)%n, base.UnixMilli())
		if i%100 == 99 || i == n-1 {
			if err := publish(b.String()); err != nil {
				return err
			}
			b.Reset()
		}
		if i%20_000 == 19_999 || i == n-1 {
			if err := engine.Run(ctx); err != nil {
				return err
			}
			for _, stream := range []string{"IN", actors.LogStream("f")} { // what is done with would only be looked at by the collector
				info, err := streams.Info(ctx, stream)
				if err == nil {
					err = streams.Cut(ctx, stream, "", info.Last)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	set := used() - start
	start = used()
	if err := publish(fmt.Sprintf(`{"user":0,"at":%d,"t":%d}`, n*2, base.Add(time.Hour+time.Duration(fire-1)*time.Millisecond).UnixMilli())); err != nil {
		return err
	}
	if err := engine.Run(ctx); err != nil {
		return err
	}
	took := used() - start
	if fired < fire-1 || fired > fire {
		return fmt.Errorf("%d timers have fired, want %d", fired, fire)
	}
	fmt.Printf("| %d | %.1f | %d | %.1f |\n", n, each(set, n), fired, each(took, fired))
	return nil
}

const windowFlow = `
kistype: flow
status: 1
flow_name: W
entry: in
time: {field: t}
flows: [{fname: W}]
---
kistype: func
fname: W
fmode: Calculate
source: {must: [user]}
calculate: {window: {%s}, aggregate: {%s}, emit: {user: key.user}}
`

func load(text string) (*flowdef.Set, error) {
	set := &flowdef.Set{}
	ms := append(flowdef.Parse("bench.yaml", []byte(text), set), node.Lint(set, nil, true)...)
	if faults := ms.Errors(); len(faults) > 0 {
		return nil, fmt.Errorf("definitions:\n%s", faults)
	}
	return set, nil
}

func window(w, aggregate string, keys int) error {
	ctx := context.Background()
	set, err := load(fmt.Sprintf(windowFlow, w, aggregate))
	if err != nil {
		return err
	}
	t, err := node.NewTrial(ctx, set, node.TrialOptions{})
	if err != nil {
		return err
	}
	defer t.Close()
	for i := range keys {
		if err := t.Publish(ctx, "", fmt.Appendf(nil, `{"user":%d,"v":%d,"t":%d}`, i, i, t.Now().UnixMilli())); err != nil {
			return err
		}
	}
	bytes := 0
	for i := range keys {
		state, err := t.State("", "W", fmt.Sprintf("user=%d", i))
		if err != nil {
			return err
		}
		bytes += len(state)
	}
	fmt.Printf("| %s | %s | %d |\n", w, aggregate, bytes/keys)
	return nil
}

const functionFlow = `
kistype: flow
status: 1
flow_name: F
entry: in
flows: [{fname: Body}]
---
kistype: func
fname: Body
fmode: Calculate
source: {must: [user]}
%s
`

// functions runs a flow of one function, written in several ways.
func functions(rows int) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer server.Close()
	passes := 0.0
	for _, f := range []struct{ name, body string }{
		{"passes (a condition that is false)", "calculate: {when: row.v < 0, state: {n: {set: state.n + 1}}}"},
		{"expressions: count and sum", "calculate: {state: {n: {set: state.n + 1}, total: {set: state.total + row.v}}, emit: {user: row.user, n: state.n}}"},
		{"aggregates: count and sum", "calculate: {aggregate: {n: count(), total: sum(row.v)}, emit: {user: row.user, n: state.n}}"},
		{"script: count and sum", "script: 'function handle(row, state) { state.n = (state.n || 0) + 1; state.total = (state.total || 0) + row.v; return {user: row.user, n: state.n}; }'"},
		{"remote over HTTP, with its server", "remote: {url: 'http://" + listener.Addr().String() + "'}"},
	} {
		set, err := load(fmt.Sprintf(functionFlow, f.body))
		if err != nil {
			return err
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		start := used()
		report, err := node.InMemory{ScriptWorker: program, Output: func(string, []byte) error { return nil },
			Events: func(_ context.Context, publish func([]byte) error) error {
				var b []byte
				for i := range rows {
					b = fmt.Appendf(b, `{"user":%d,"v":%d,"name":"somebody of some length"}`+"\n", i%1000, i)
					if i%100 == 99 {
						if err := publish(b); err != nil {
							return err
						}
						b = b[:0]
					}
				}
				return nil
			}}.Run(context.Background(), set)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if report.DeadLetters > 0 {
			return fmt.Errorf("%s: %d dead letters: %v", f.name, report.DeadLetters, report.Reasons)
		}
		us := each(used()-start, rows)
		if passes == 0 {
			passes = us
		}
		fmt.Printf("| %s | %.2f | %.2f |\n", f.name, us, us-passes)
	}
	return nil
}

// answer is a remote function that counts, as docs/reference/remote-protocol.md has it.
func answer(w http.ResponseWriter, r *http.Request) {
	type call struct {
		State *struct {
			N int64 `json:"n"`
		} `json:"state"`
		Rows []struct {
			Row struct {
				User int64 `json:"user"`
			} `json:"row"`
		} `json:"rows"`
	}
	var request struct {
		Calls []call `json:"calls"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type answered struct {
		Emit []map[string]int64 `json:"emit"`
	}
	type result struct {
		State map[string]int64 `json:"state"`
		Rows  []answered       `json:"rows"`
	}
	results := []result{}
	for _, c := range request.Calls {
		n := int64(0)
		if c.State != nil {
			n = c.State.N
		}
		one := result{State: map[string]int64{}}
		for _, row := range c.Rows {
			n++
			one.Rows = append(one.Rows, answered{[]map[string]int64{{"user": row.Row.User, "n": n}}})
		}
		one.State["n"] = n
		results = append(results, one)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]any{"v": 1, "results": results}); err != nil {
		return // the caller is gone
	}
}
