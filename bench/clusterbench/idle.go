package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/bench/program"
)

// crowd is so many flows of one and of two stages, each with an entry and an output of its own.
type crowd struct{ one, two int }

func (c crowd) String() string {
	return fmt.Sprintf("%d flows, %d partitions", c.one+c.two, (c.one+2*c.two)*partitions)
}

func (c crowd) definitions() []api.File {
	var b strings.Builder
	b.WriteString(`kistype: func
fname: CountKey
fmode: Calculate
source: {must: [key]}
calculate: {state: {n: {init: 0, set: state.n + 1}}}
---
kistype: func
fname: CountOther
fmode: Calculate
source: {must: [other]}
calculate: {state: {n: {init: 0, set: state.n + 1}}}
`)
	files := []api.File{{Name: "functions.yaml", Text: b.String()}}
	for i := range c.one + c.two {
		b.Reset()
		second := ""
		if i >= c.one {
			second = "\n  - {fname: CountOther}"
		}
		fmt.Fprintf(&b, `kistype: func
fname: Send%d
fmode: Expand
expand: {subject: idle%d.out}
---
kistype: flow
status: 1
flow_name: Idle%d
entry: {subject: idle%d.in}
flows:
  - {fname: CountKey}%s
  - {fname: Send%d}
`, i, i, i, i, second, i)
		files = append(files, api.File{Name: fmt.Sprintf("flow%d.yaml", i), Text: b.String()})
	}
	return files
}

// rest is what a node costs that has nothing to do.
type rest struct {
	first, again, killed float64 // seconds from the start to ready: with new flows, after a stop, after kill -9
	memory               float64 // bytes
	idle                 float64 // percent of a core
}

// idle is one node with very many flows and nothing to do.
func (b *bench) idle(ctx context.Context, name string) error {
	c, watch := crowd{750, 250}, 30*time.Second
	if b.quick {
		c, watch = crowd{75, 25}, 5*time.Second
	}
	var all []rest
	for i := range min(b.runs, 3) {
		r, err := b.rest(ctx, c, watch)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		fmt.Fprintf(os.Stderr, "%s %d: %s: start %.1f s, again %.1f s, after kill -9 %.1f s, %.0f MB, idle %.1f %% of a core\n", name, i+1, c, r.first, r.again, r.killed, r.memory/megabyte, r.idle)
		all = append(all, r)
	}
	what := "one node, NATS embedded, " + c.String()
	for _, f := range []struct {
		figure string
		of     func(rest) float64
		most   float64
	}{
		{"idle: percent of a core", func(r rest) float64 { return r.idle }, 5},
		{"memory, JetStream in it: MB", func(r rest) float64 { return r.memory / megabyte }, 0},
		{"first start, all flows new, to ready: s", func(r rest) float64 { return r.first }, 0},
		{"start after a stop to ready: s", func(r rest) float64 { return r.again }, 0},
		{"start after kill -9 to ready: s", func(r rest) float64 { return r.killed }, 0},
	} {
		var values []float64
		for _, r := range all {
			values = append(values, f.of(r))
		}
		b.report.median(name, what, f.figure, values, func(w *row) { w.Most = f.most })
	}
	return nil
}

func (b *bench) rest(ctx context.Context, c crowd, watch time.Duration) (r rest, err error) {
	dir, err := os.MkdirTemp(b.dir, "idle")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	f := &fleet{b: b, dir: dir, nodes: make(map[string]*node)}
	defer f.abandon()
	n, err := f.add("alone")
	if err != nil {
		return r, err
	}
	start := func() (float64, error) {
		begin := time.Now()
		args := []string{"--data", n.data, "--listen", n.listen, "--nats-listen", n.nats, "--durability", b.durability, "--log-level", "warn"}
		if b.debug != "" {
			args = append(args, "--debug-listen", b.debug)
		}
		n.Process, err = program.Start(filepath.Join(b.bin, "kisnode"), args...)
		if err != nil {
			return 0, err
		}
		err = n.WaitFor(ctx, "node", settleLimit, func() error { return program.HTTPOK("http://" + n.listen + "/readyz") })
		return time.Since(begin).Seconds(), err
	}
	if r.first, err = start(); err != nil {
		return r, err
	}
	begin := time.Now()
	if _, err := n.client.Apply(ctx, c.definitions(), api.Approval{}); err != nil {
		return r, err
	}
	if err := f.allRun(ctx, c); err != nil {
		return r, err
	}
	r.first += time.Since(begin).Seconds()
	if err := f.touch(ctx, c); err != nil {
		return r, err
	}
	if err := f.stop("alone"); err != nil {
		return r, err
	}
	if r.again, err = start(); err != nil {
		return r, err
	}
	if err := f.allRun(ctx, c); err != nil {
		return r, err
	}
	time.Sleep(watch / 2) // for what is done in the background after a start
	before, err := program.Usage(n.Process)
	if err != nil {
		return r, err
	}
	select {
	case <-time.After(watch):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	now, err := program.Usage(n.Process)
	if err != nil {
		return r, err
	}
	r.idle = 100 * (now - before).Seconds() / watch.Seconds()
	memory, err := program.Resident(n.Process)
	if err != nil {
		return r, err
	}
	r.memory = float64(memory)
	f.kill("alone")
	if r.killed, err = start(); err != nil {
		return r, err
	}
	if err := f.allRun(ctx, c); err != nil {
		return r, err
	}
	return r, f.stop("alone")
}

// allRun waits until all partitions run.
func (f *fleet) allRun(ctx context.Context, c crowd) error {
	client := f.running()[0].client
	return f.await(ctx, "all partitions run", settleLimit, func() error {
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if got := s.Running; got != c.one+c.two {
			return fmt.Errorf("%d flows run", got)
		}
		return nil
	})
}

// touch sends an event through every flow and waits until all are counted.
func (f *fleet) touch(ctx context.Context, c crowd) error {
	n := f.running()[0]
	nc, err := nats.Connect("nats://" + n.nats)
	if err != nil {
		return err
	}
	defer nc.Close()
	for i := range c.one + c.two {
		if _, err := nc.RequestWithContext(ctx, fmt.Sprintf("idle%d.in", i), []byte(`{"key":1,"other":2}`)); err != nil {
			return err
		}
	}
	return f.await(ctx, "all events are counted", settleLimit, func() error {
		for i := range c.one + c.two {
			step, key := "CountKey", "key=1"
			if i >= c.one {
				step, key = "CountOther", "other=2"
			}
			if _, err := n.client.State(ctx, fmt.Sprintf("Idle%d", i), step, []string{key}, api.Read{}); err != nil {
				return err
			}
		}
		return nil
	})
}
