// Clusterbench measures clusters of the real kisnode on this machine and prints one table: each figure with its aim, and
// whether it is reached.
//
// The groups: how soon the partitions of a node that is killed are served again; how long a partition pauses that moves
// to another node; what an event costs in processor time with one, two and three nodes, and with three replicas; how
// long a partition takes to come back with so much state; and what a node costs that has very many flows and nothing to do.
//
// Clusterbench itself is the load generator and the checker: it reads all outputs back, and a run whose outputs are not exactly
// right is no figure but an error. Events, kills and outputs are timed by the clock of this machine, which is NATS's, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/bench/program"
)

// bench is one call of this program.
type bench struct {
	bin, dir   string
	runs       int
	kills      int
	rate       int // events a second, of the steady load
	lease      time.Duration
	durability string
	quick      bool
	verbose    bool
	debug      string
	report     report
}

func main() {
	b := bench{}
	var write, list bool
	var only string
	flag.IntVar(&b.runs, "runs", 3, "runs of each figure; it is their median")
	flag.IntVar(&b.kills, "kills", 9, "kills of a failover group")
	flag.IntVar(&b.rate, "rate", 2000, "events a second of the steady load on 64 partitions")
	flag.DurationVar(&b.lease, "lease", 2*time.Second, "of the nodes")
	flag.StringVar(&b.durability, "durability", "process", "of the nodes and of NATS: process or power")
	flag.BoolVar(&b.quick, "quick", false, "few and small runs: to see that all works, not for figures")
	flag.BoolVar(&write, "write", false, "write bench/results/DATE-cluster-COMMIT.md and .json too")
	flag.BoolVar(&list, "list", false, "print the names of the groups and do nothing")
	flag.BoolVar(&b.verbose, "v", false, "print where the partitions are and what the nodes have said when something goes wrong")
	flag.StringVar(&b.debug, "debug-listen", "", "address at which node a serves its profiles")
	flag.StringVar(&only, "only", "", "regular expression: only groups with such a name")
	flag.StringVar(&b.dir, "dir", os.TempDir(), "where the data of the runs goes")
	flag.Parse()
	chosen, err := regexp.Compile(only)
	if err != nil || b.durability != "process" && b.durability != "power" || b.rate < 1 || b.runs < 1 || b.kills < 1 {
		fmt.Fprintln(os.Stderr, "clusterbench: -only must be a regular expression, -durability process or power, -runs, -kills and -rate above 0")
		os.Exit(2)
	}
	if b.quick {
		b.runs, b.kills = 1, 3
	}
	if list {
		for _, g := range b.groups() {
			fmt.Println(g.name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.main(ctx, chosen, write); err != nil {
		fmt.Fprintln(os.Stderr, "clusterbench:", err)
		os.Exit(1)
	}
}

func (b *bench) main(ctx context.Context, chosen *regexp.Regexp, write bool) (err error) {
	root, err := program.ModuleRoot()
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(b.dir, "clusterbench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.bin = filepath.Join(b.dir, "bin")
	if err := b.build(ctx); err != nil {
		return err
	}
	b.report = newReport(b)
	var errs []error
	for _, g := range b.groups() {
		if !chosen.MatchString(g.name) || ctx.Err() != nil {
			continue
		}
		if err := g.do(ctx, g.name); err != nil { // the other figures are worth having
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
			b.report.Notes = append(b.report.Notes, fmt.Sprintf("No figures of %s: an error.", g.name))
			fmt.Fprintln(os.Stderr, errs[len(errs)-1])
		}
	}
	errs = append(errs, b.report.table(os.Stdout))
	if write {
		errs = append(errs, b.report.write(filepath.Join("bench", "results")))
	}
	return errors.Join(errs...)
}

func (b *bench) build(ctx context.Context) error {
	for name, pkg := range map[string]string{"kisnode": "./cmd/kisnode", "nats-server": "github.com/nats-io/nats-server/v2"} {
		if err := program.Build(ctx, ".", filepath.Join(b.bin, name), pkg, os.Stderr); err != nil {
			return err
		}
	}
	return nil
}

// group is figures that are taken together.
type group struct {
	name string
	do   func(ctx context.Context, name string) error
}

// groups is the whole programme, in order.
func (b *bench) groups() []group {
	outside := setup{Nodes: 3, Replicas: 1, Standbys: 1}
	embedded := setup{Nodes: 3, Embedded: true, Replicas: 3, Standbys: 1}
	with := func(do func(context.Context, string, setup) error, s setup) func(context.Context, string) error {
		return func(ctx context.Context, name string) error { return do(ctx, name, s) }
	}
	return []group{
		{"failover/outside", with(b.failover, outside)},
		{"failover/embedded", with(b.failover, embedded)},
		{"move/outside", with(b.move, outside)},
		{"move/embedded", with(b.move, embedded)},
		{"nodes", func(ctx context.Context, name string) error {
			return b.costs(ctx, name, []entrant{
				{setup{Nodes: 1, Replicas: 1, Standbys: 1}, 0},
				{setup{Nodes: 2, Replicas: 1, Standbys: 1}, 0.8},
				{setup{Nodes: 3, Replicas: 1, Standbys: 1}, 0.8},
				{setup{Nodes: 3, Replicas: 1, Standbys: 0}, 0},
			})
		}},
		{"replicas", func(ctx context.Context, name string) error {
			return b.costs(ctx, name, []entrant{
				{setup{Nodes: 3, Embedded: true, Replicas: 1, Standbys: 1}, 0},
				{setup{Nodes: 3, Embedded: true, Replicas: 3, Standbys: 1}, 0},
			})
		}},
		{"quiet", b.quiet},
		{"recovery/warm", func(ctx context.Context, name string) error { return b.recovery(ctx, name, true) }},
		{"recovery/snapshot", func(ctx context.Context, name string) error { return b.recovery(ctx, name, false) }},
		{"idle", b.idle},
	}
}
