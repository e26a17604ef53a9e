package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/node"
)

// runner is one run of run.
type runner struct {
	app     *app
	file    string
	packing packing
	m       node.InMemory
}

// ran is the result for programs; it goes to standard error, for outputs take standard output.
type ran struct {
	Subject     string        `json:"subject"`
	Events      int           `json:"events"`
	Outputs     uint64        `json:"outputs"`
	DeadLetters uint64        `json:"dead_letters"`
	Reasons     []reasonCount `json:"reasons"`
	Seconds     float64       `json:"seconds"`
	PerSecond   float64       `json:"per_second"`
}

func newRun(a *app) *cobra.Command {
	r := &runner{app: a}
	cmd := &cobra.Command{
		Use:   "run PATH...",
		Short: "Run flows in memory, without a node: events from standard input, outputs to standard output",
		Long: `run runs the flows of definition files in this process, on events from standard input or a file, one a line, and
prints what the flows send to subjects. It needs no node and leaves nothing behind. At the end standard error
tells how many events, outputs and dead letters there were; a dead letter is no error.

What flows hand on to each other is kept in memory until the end.`,
		Example: "  kisctl run flows/ < orders.jsonl\n  kisctl run flows/ -f orders.jsonl --flow OrderTotals > totals.jsonl",
		Args:    atLeast(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	f := cmd.Flags()
	f.StringVarP(&r.file, "file", "f", "-", "read `FILE`, or - for standard input")
	f.StringVar(&r.m.Flow, "flow", "", "feed flow `NAME`, if several take events")
	f.StringVar(&r.m.Subject, "subject", "", "publish to `SUBJECT`, in place of one of the flow's entry")
	return cmd
}

func (r *runner) run(ctx context.Context, paths []string) error {
	if r.m.Subject != "" {
		if err := checkSubject(r.m.Subject, false); err != nil {
			return usagef("--subject: %v", err)
		}
	}
	set, mistakes := flowdef.Load(paths...)
	mistakes = append(mistakes, node.Lint(set, nil, true)...)
	mistakes.Sort()
	if faults := mistakes.Errors(); len(faults) > 0 {
		fmt.Fprint(r.app.errs, cleanLines(faults.String()))
		return errors.New(count(len(faults), "mistake"))
	}
	in := r.app.in
	r.packing = packing{lines: 100, bytes: 64 << 10, max: 4 << 20, linger: 5 * time.Millisecond}
	if r.file != "-" {
		f, err := os.Open(r.file)
		if err != nil {
			return fileError(r.file, err)
		}
		defer f.Close()
		in, r.packing.linger = f, 0
	}

	out := bufio.NewWriterSize(r.app.out, 256<<10)
	json := r.app.json()
	r.m.Output = func(subject string, data []byte) error {
		if json {
			b, err := compactJSON(message{Subject: subject, Time: time.Now().UTC(), Data: data})
			if err != nil {
				return err
			}
			data = b
		}
		out.Write(data)
		return out.WriteByte('\n')
	}
	r.m.Log = slog.New(slog.NewTextHandler(r.app.errs, &slog.HandlerOptions{Level: slog.LevelError}))
	r.m.ScriptWorker = r.app.program
	events, tooLong := 0, packed{}
	r.m.Events = func(ctx context.Context, publish func([]byte) error) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		packs := make(chan pack, 16)
		read := make(chan error, 1)
		go func() {
			var err error
			tooLong, err = r.packing.read(ctx, in, packs)
			read <- err
		}()
		for pk := range packs {
			if err := publish(pk.data); err != nil {
				stop()
				for range packs { // the reader ends
				}
				<-read
				return err
			}
			events += pk.events
		}
		return <-read
	}
	began := time.Now()
	report, err := r.m.Run(ctx, set)
	if e := out.Flush(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := r.report(report, events, time.Since(began)); err != nil {
		return err
	}
	switch {
	case tooLong.tooLong > 0:
		return fmt.Errorf("line %d and %s in all are longer than %d bytes", tooLong.firstLong, count(tooLong.tooLong, "line"), r.packing.max)
	case report.Pending > 0:
		return fmt.Errorf("%s still wait at their steps", count(report.Pending, "row"))
	}
	return nil
}

func (r *runner) report(report node.InMemoryReport, events int, took time.Duration) error {
	sum := ran{Subject: report.Subject, Events: events, Outputs: report.Outputs, DeadLetters: report.DeadLetters, Reasons: []reasonCount{},
		Seconds: took.Seconds(), PerSecond: float64(events) / max(took.Seconds(), 1e-9)}
	for _, reason := range slices.SortedFunc(maps.Keys(report.Reasons), func(x, y string) int {
		return cmp.Or(cmp.Compare(report.Reasons[y], report.Reasons[x]), cmp.Compare(x, y))
	}) {
		sum.Reasons = append(sum.Reasons, reasonCount{Reason: reason, Count: report.Reasons[reason]})
	}
	if r.app.json() {
		b, err := compactJSON(sum)
		if err == nil {
			_, err = fmt.Fprintf(r.app.errs, "%s\n", b)
		}
		return err
	}
	_, err := fmt.Fprintf(r.app.errs, "%s in, %s out, %s, %s, %.0f events/s\n", count(sum.Events, "event"), count(sum.Outputs, "message"),
		count(sum.DeadLetters, "dead letter"), span(sum.Seconds), sum.PerSecond)
	for _, reason := range sum.Reasons {
		fmt.Fprintf(r.app.errs, "%8d  %s\n", reason.Count, clean(reason.Reason))
	}
	return err
}
