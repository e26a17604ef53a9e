// Kisbench measures KisFlow beside the bare program that it is compared with, and prints a table.
//
// Each figure comes from the real programs: bin/kisnode with the flows of bench/flows, bench/gonode with
// functions in Go, bench/yardstick, and, where NATS is outside, nats-server. Kisbench itself is the load
// generator and the checker: it publishes the orders of bench/load, reads every output back and compares
// it with an independent count, and a run whose outputs are not exactly right is no figure but an error.
//
// The main figure is processor seconds per million orders of all processes but kisbench: storing the
// orders is in it, as they are published while they are worked on. The runs of a group take turns, so that
// all programs meet the same minutes of a shared machine; the figure is the median.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

// bench is one call of this program.
type bench struct {
	bin, dir string
	against  string // another working tree, whose programs run too
	runs     int
	scale    float64
	only     *regexp.Regexp // groups
	programs *regexp.Regexp // entrants
	report   report
}

func main() {
	var b bench
	var quick, write, list bool
	var only, programs string
	flag.IntVar(&b.runs, "runs", 5, "runs of each program; the figure is their median")
	flag.BoolVar(&quick, "quick", false, "one run of a tenth of the orders: to see that all works, not for figures")
	flag.BoolVar(&write, "write", false, "write bench/results/DATE-COMMIT.md and .json too")
	flag.BoolVar(&list, "list", false, "print the names of the groups and do nothing")
	flag.StringVar(&only, "only", "", "regular expression: only groups with such a name")
	flag.StringVar(&programs, "programs", "", "regular expression: only programs with such a name (bare, YAML, Go)")
	flag.StringVar(&b.against, "against", "", "another working tree of the project, with an older commit perhaps: its programs run by turns with ours")
	flag.StringVar(&b.dir, "dir", os.TempDir(), "where the data of the runs goes")
	flag.Parse()
	var err error
	if b.only, err = regexp.Compile(only); err == nil {
		b.programs, err = regexp.Compile(programs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kisbench:", err)
		os.Exit(2)
	}
	b.scale = 1
	if quick {
		b.runs, b.scale = 1, 0.1
	}
	if list {
		for _, g := range b.groups() {
			fmt.Println(g.Name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.main(ctx, write); err != nil {
		fmt.Fprintln(os.Stderr, "kisbench:", err)
		os.Exit(1)
	}
}

func (b *bench) main(ctx context.Context, write bool) (err error) {
	if b.against != "" {
		if b.against, err = filepath.Abs(b.against); err != nil {
			return err
		}
	}
	root, err := program.ModuleRoot()
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(b.dir, "kisbench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.bin = filepath.Join(b.dir, "bin")
	b.report = newReport(b.runs)
	built := make(map[string]error)
	for _, g := range b.groups() {
		if !b.only.MatchString(g.Name) || len(g.Needs) == 0 {
			continue
		}
		if err := b.build(ctx, g, built); err != nil {
			return err
		}
		if err := g.Do(ctx, &g); err != nil {
			return fmt.Errorf("%s: %w", g.Name, err)
		}
	}
	b.report.table(os.Stdout)
	if write {
		return b.report.write(filepath.Join("bench", "results"))
	}
	return nil
}

// packages are the programs' main packages.
var packages = map[string]string{
	"yardstick":   "./bench/yardstick",
	"kisnode":     "./cmd/kisnode",
	"kisctl":      "./cmd/kisctl",
	"gonode":      "./bench/gonode",
	"nats-server": "github.com/nats-io/nats-server/v2",
}

// older marks the programs of the other working tree.
const older = ".before"

// build builds what a group runs, each program once.
func (b *bench) build(ctx context.Context, g group, built map[string]error) error {
	for _, name := range g.Needs {
		if _, done := built[name]; !done {
			fmt.Fprintln(os.Stderr, "building", name)
			tree, from := ".", name
			if p, ok := strings.CutSuffix(name, older); ok {
				tree, from = b.against, p
			}
			built[name] = program.Build(ctx, tree, filepath.Join(b.bin, name), packages[from], os.Stderr)
		}
		if built[name] != nil {
			return built[name]
		}
	}
	return nil
}

// group is figures that are taken together.
type group struct {
	Name  string
	Needs []string // programs
	Do    func(context.Context, *group) error
}

// entrant is a program in a group, with the most that its figure may be.
type entrant struct {
	Name  string
	Setup setup
	Limit float64 // of the group's main figure; 0: none
	Ratio float64 // the most times the first entrant's figure; 0: none
}

// groups is the whole programme, in order.
func (b *bench) groups() []group {
	var all []group
	users := []struct {
		name string
		n    int
	}{{"10k", 10_000}, {"1M", 1_000_000}}
	for _, power := range []bool{false, true} {
		durability := "process"
		if power {
			durability = "power"
		}
		for _, u := range users {
			for _, outside := range []bool{false, true} {
				where, limit := "embedded", 28.0
				if outside {
					where, limit = "outside", 38
				}
				if power {
					limit = 0
				}
				all = append(all, b.race("single/"+where+"/"+u.name+"/"+durability, false, job{Spec: b.spec(400_000, u.n, power)}, []entrant{
					{Name: "bare", Setup: setup{Program: "yardstick", Outside: outside, Power: power}},
					{Name: "YAML", Setup: setup{Program: "kisnode", Flows: "order-totals", Outside: outside, Power: power}, Limit: limit, Ratio: 1.3},
				}))
			}
			limits := []float64{8, 5}
			if power {
				limits = []float64{0, 0}
			}
			all = append(all, b.race("packed/embedded/"+u.name+"/"+durability, false, job{Spec: b.spec(2_000_000, u.n, power), Pack: 100}, []entrant{
				{Name: "bare", Setup: setup{Program: "yardstick", Pack: true, Power: power}},
				{Name: "YAML", Setup: setup{Program: "kisnode", Flows: "order-totals-packed", Power: power}, Limit: limits[0]},
				{Name: "Go", Setup: setup{Program: "gonode", Flows: "order-totals-go-packed", Power: power}, Limit: limits[1]},
			}))
		}
	}
	all = append(all,
		b.race("latency/5000", true, job{Spec: b.spec(100_000, 10_000, false), Rate: 5000, Warmup: int(10_000 * b.scale)}, []entrant{
			{Name: "bare", Setup: setup{Program: "yardstick"}},
			{Name: "YAML", Setup: setup{Program: "kisnode", Flows: "order-totals"}, Limit: 20, Ratio: 1.5},
		}),
		group{Name: "rest", Needs: []string{"kisnode", "nats-server"}, Do: b.restGroup},
		group{Name: "memory", Needs: []string{"kisctl"}, Do: b.memoryGroup},
	)
	return all
}

// spec is the usual orders; a stream that syncs every write gets fewer.
func (b *bench) spec(events, users int, power bool) load.Spec {
	if power {
		events /= 4
	}
	return load.Spec{Events: int(float64(events) * b.scale), Users: users, Skew: 1.1, Seed: 1}
}

// race is a group whose entrants do the same job by turns.
func (b *bench) race(name string, latency bool, j job, entrants []entrant) group {
	entrants = slices.DeleteFunc(entrants, func(e entrant) bool { return !b.programs.MatchString(e.Name) })
	for _, e := range slices.Clone(entrants) {
		if b.against != "" && e.Setup.Program != "yardstick" {
			e.Name, e.Setup.Program = e.Name+" before", e.Setup.Program+older
			entrants = append(entrants, e)
		}
	}
	var needs []string
	for _, e := range entrants {
		needs = append(needs, e.Setup.Program)
		if e.Setup.Outside {
			needs = append(needs, "nats-server")
		}
	}
	return group{Name: name, Needs: needs, Do: func(ctx context.Context, g *group) error {
		all := make([][]run, len(entrants))
		for i := range b.runs {
			for k, e := range entrants {
				do := b.throughput
				if latency {
					do = b.latency
				}
				r, err := do(ctx, e.Setup, j)
				if err != nil {
					return fmt.Errorf("run %d of %s: %w", i+1, e.Name, err)
				}
				fmt.Fprintf(os.Stderr, "%s %d/%d %s: %s\n", g.Name, i+1, b.runs, e.Name, r)
				all[k] = append(all[k], r)
			}
		}
		b.report.race(g.Name, latency, j, entrants, all)
		return nil
	}}
}

func (r run) String() string {
	s := fmt.Sprintf("%.1f s/M, %.0f orders/s, others %.1f cores", r.CPU, r.Rate, r.Others)
	if r.P99 > 0 {
		s += fmt.Sprintf(", p50 %.1f ms, p99 %.1f ms", r.P50, r.P99)
	}
	return s
}

func (b *bench) restGroup(ctx context.Context, g *group) error {
	var all []rest
	for i := range min(b.runs, 3) {
		c := setup{Program: "kisnode", Flows: "order-totals-packed"}
		r, err := b.rest(ctx, c, int(1_000_000*b.scale), 10*time.Second)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		// An embedded JetStream keeps messages in memory for a while: a key's memory is taken without it.
		c.Outside = true
		alone, err := b.rest(ctx, c, int(1_000_000*b.scale), 10*time.Second)
		if err != nil {
			return fmt.Errorf("run %d, NATS outside: %w", i+1, err)
		}
		r.KeyBytes, r.NextBytes = alone.KeyBytes, alone.NextBytes
		fmt.Fprintf(os.Stderr, "%s %d: %+v\n", g.Name, i+1, r)
		all = append(all, r)
	}
	b.report.rest(all)
	return nil
}

// memoryGroup is kisctl run: the flow in memory, without NATS, from a file of orders to a file of outputs.
func (b *bench) memoryGroup(ctx context.Context, g *group) error {
	spec := b.spec(1_000_000, 10_000, false)
	file := filepath.Join(b.dir, "orders.jsonl")
	if err := writeOrders(file, spec); err != nil {
		return err
	}
	var all []run
	for i := range b.runs {
		r, err := b.memory(ctx, file, spec)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		fmt.Fprintf(os.Stderr, "%s %d/%d: %s\n", g.Name, i+1, b.runs, r)
		all = append(all, r)
	}
	b.report.race(g.Name, false, job{Spec: spec}, []entrant{{Name: "kisctl run", Limit: 7}}, [][]run{all})
	return nil
}

func writeOrders(file string, spec load.Spec) error {
	var text []byte
	for src := spec.Source(); ; {
		o, ok := src.Next()
		if !ok {
			return os.WriteFile(file, text, 0o600)
		}
		text = append(o.AppendJSON(text, 1_790_000_000_000), '\n')
	}
}

// memory is one run of kisctl run.
func (b *bench) memory(ctx context.Context, file string, spec load.Spec) (run, error) {
	in, err := os.Open(file)
	if err != nil {
		return run{}, err
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(b.dir, "totals.jsonl"))
	if err != nil {
		return run{}, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "kisctl"), "run", filepath.Join("bench", "flows", "order-totals"))
	var log program.Tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &log
	start, machine := time.Now(), time.Duration(0)
	if machine, err = program.MachineTime(); err != nil {
		return run{}, err
	}
	if err := cmd.Run(); err != nil {
		return run{}, fmt.Errorf("kisctl run: %w:\n%s", err, &log)
	}
	elapsed, after := time.Since(start), time.Duration(0)
	if after, err = program.MachineTime(); err != nil {
		return run{}, err
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return run{}, err
	}
	expect := spec.Expect()
	expect.Message(text, nil)
	return run{
		Seconds: elapsed.Seconds(), Rate: float64(spec.Events) / elapsed.Seconds(),
		CPU:    used.Seconds() / float64(spec.Events) * 1e6,
		Others: max(0, (after-machine-used).Seconds()/elapsed.Seconds()),
	}, expect.Done()
}
