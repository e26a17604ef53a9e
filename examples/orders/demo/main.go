// Demo runs the orders example: it starts a node in a temporary folder, applies the two flows of
// examples/orders, publishes order lines of which one in a hundred is bad, kills the node half way with
// SIGKILL, starts it again, and then compares every key's state and every dead letter with an independent
// count. It ends with 1 when one differs.
//
// With -cluster there are three nodes, and while the lines come one of them is killed, one is paused for longer than its
// lease, and one is taken out of service.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/examples/orders/orders"
)

// demo is one run.
type demo struct {
	lines int
	seed  uint64
	bin   string
	flows string
	dir   string
	node  *node // that is asked, and alone without -cluster

	cluster bool
	nodes   []*node
}

func main() {
	var d demo
	var keep bool
	flag.IntVar(&d.lines, "n", 100_000, "order lines")
	flag.Uint64Var(&d.seed, "seed", 1, "another seed, other lines")
	flag.StringVar(&d.bin, "bin", "bin", "folder of kisnode and kisctl")
	flag.StringVar(&d.flows, "flows", filepath.Join("examples", "orders", "flows.yaml"), "definitions")
	flag.BoolVar(&keep, "keep", false, "keep the temporary folder")
	flag.BoolVar(&d.cluster, "cluster", false, "three nodes: one is killed, one paused, one taken out of service")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := d.run(ctx, keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func (d *demo) run(ctx context.Context, keep bool) (err error) {
	if d.lines < 1000 {
		return fmt.Errorf("-n is %d; it must be at least 1000", d.lines)
	}
	if d.dir, err = os.MkdirTemp("", "kisflow-demo"); err != nil {
		return err
	}
	defer func() {
		for _, n := range d.nodes {
			err = errors.Join(err, n.stop(err != nil))
		}
		if keep {
			fmt.Println("kept", d.dir)
		} else {
			err = errors.Join(err, os.RemoveAll(d.dir))
		}
	}()

	if err := d.startNodes(ctx); err != nil {
		return err
	}
	step("applying %s", d.flows)
	var applied strings.Builder
	if err := d.kisctl(ctx, &applied, "apply", "-f", d.flows, "--yes"); err != nil {
		return fmt.Errorf("%w\n%s", err, &applied)
	}
	lines := strings.Split(strings.TrimSpace(applied.String()), "\n") // the diff, and what was done
	fmt.Println("  ", lines[len(lines)-1])
	start := time.Now()
	if err := d.publish(ctx); err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	step("all counted: %d lines in %.1f s, the faults in it: %.0f lines a second", d.lines, took.Seconds(), float64(d.lines)/took.Seconds())

	want := orders.Count(orders.New(d.lines, d.seed))
	if err := d.show(ctx, want); err != nil {
		return err
	}
	return d.check(ctx, want)
}

func step(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

// publish sends all lines by one kisctl publish, and kills the node when half of them are out.
func (d *demo) publish(ctx context.Context) error {
	step("publishing %d order lines; faults on the way", d.lines)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "kisctl"), "--server", d.node.url(), "publish", "orders.new", "-f", "-", "--progress")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("kisctl publish: %w", err)
	}
	feedErr := d.feed(ctx, pipe)
	if feedErr != nil {
		cancel()
	}
	if err := errors.Join(cmd.Wait(), feedErr); err != nil {
		return fmt.Errorf("kisctl publish: %w\n%s", err, d.node.log)
	}
	return nil
}

func (d *demo) feed(ctx context.Context, pipe io.WriteCloser) error {
	w := bufio.NewWriterSize(pipe, 1<<16)
	faults := d.faults()
	n := 0
	for source := orders.New(d.lines, d.seed); ; n++ {
		l, ok := source.Next()
		if !ok {
			break
		}
		if fault := faults[n]; fault != nil {
			if err := w.Flush(); err != nil {
				return err
			}
			if err := fault(ctx); err != nil {
				return err
			}
		}
		if _, err := w.WriteString(l.Text + "\n"); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), pipe.Close())
}

// startNodes starts the one node, or three that form a cluster.
func (d *demo) startNodes(ctx context.Context) error {
	if d.cluster {
		return d.startCluster(ctx)
	}
	step("starting a node in %s", d.dir)
	n, err := newNode(filepath.Join(d.bin, "kisnode"), filepath.Join(d.dir, "data"))
	if err != nil {
		return err
	}
	d.node, d.nodes = n, []*node{n}
	return n.start(ctx)
}

// faults are what happens after so many lines.
func (d *demo) faults() map[int]func(context.Context) error {
	if d.cluster {
		return d.clusterFaults()
	}
	return map[int]func(context.Context) error{d.lines / 2: d.killAndRestart}
}

// killAndRestart waits until the node is in the middle of its work, kills it, and starts it on the same data.
func (d *demo) killAndRestart(ctx context.Context) error {
	client, err := api.NewClient(d.node.url())
	if err != nil {
		return err
	}
	defer client.Close()
	var counted uint64
	for end := time.Now().Add(time.Minute); counted < uint64(d.lines)/10; {
		s, err := client.Status(ctx)
		if err != nil {
			return fmt.Errorf("status: %w\n%s", err, d.node.log)
		}
		if counted = s.EventsIn; time.Now().After(end) {
			return fmt.Errorf("%d events counted after a minute, of %d published\n%s", counted, d.lines/2, d.node.log)
		}
	}
	d.node.kill()
	fmt.Printf("   killed (SIGKILL) after %d published, about %d counted\n", d.lines/2, counted)
	start := time.Now()
	if err := d.node.start(ctx); err != nil {
		return err
	}
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("   started again; ready after %.2f s, %d partitions recovered\n", time.Since(start).Seconds(), s.Recovery.Done)
	return nil
}

// settle waits until no input of any flow is behind and nothing moves any more.
func (d *demo) settle(ctx context.Context) error {
	client, err := api.NewClient(d.node.url())
	if err != nil {
		return err
	}
	defer client.Close()
	const still = 500 * time.Millisecond
	var before []api.Lag
	since := time.Now()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var now []api.Lag
		behind, asked := false, true
		for _, flow := range []string{"Orders", "OrderTotals"} {
			list, err := client.Lag(ctx, flow, api.Page{Limit: api.MaxLimit})
			if err != nil {
				if d.cluster { // a partition may be on its way
					asked = false
					break
				}
				return fmt.Errorf("lag of %s: %w\n%s", flow, err, d.node.log)
			}
			for _, l := range list.Items {
				behind = behind || l.Lag > 0
				if l.State == api.StateStopped {
					return fmt.Errorf("%s, input %s: stopped: %s\n%s", flow, l.Subject, l.Reason, d.node.log)
				}
			}
			now = append(now, list.Items...)
		}
		if behind || !asked || !same(before, now) {
			before, since = now, time.Now()
		} else if time.Since(since) > still {
			return nil
		}
	}
	return fmt.Errorf("not all counted after five minutes: %+v\n%s", before, d.node.log)
}

func same(a, b []api.Lag) bool {
	if len(a) != len(b) || len(a) == 0 {
		return false
	}
	for i := range a {
		if a[i].Newest != b[i].Newest || a[i].Committed != b[i].Committed {
			return false
		}
	}
	return true
}

// show prints some of what a user would look at.
func (d *demo) show(ctx context.Context, want orders.Result) error {
	step("some keys")
	shown := 0
	for user := int64(1); shown < 2; user++ {
		if _, ok := want.Users[user]; !ok {
			continue
		}
		shown++
		if err := d.kisctl(ctx, os.Stdout, "state", "get", "Orders", "totals", fmt.Sprintf("userid=%d", user)); err != nil {
			return err
		}
		fmt.Println()
	}
	if err := d.kisctl(ctx, os.Stdout, "state", "list", "OrderTotals", "order", "--limit", "5"); err != nil {
		return err
	}
	step("dead letters by reason")
	var text strings.Builder
	if err := d.kisctl(ctx, &text, "deadletters", "list", "Orders", "--limit", "0", "-o", "json"); err != nil {
		return err
	}
	var list api.List[api.DeadLetter]
	if err := json.Unmarshal([]byte(text.String()), &list); err != nil {
		return fmt.Errorf("kisctl deadletters list: %w", err)
	}
	byReason := make(map[string]int)
	for _, l := range list.Items {
		byReason[offset.ReplaceAllString(l.Reason, "offset N")]++
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		fmt.Printf("%6d  %s\n", byReason[reason], reason)
	}
	return nil
}

// offset is where malformed JSON went wrong, which is another place in every message.
var offset = regexp.MustCompile(`offset \d+`)

// check compares every key and every dead letter with the independent count.
func (d *demo) check(ctx context.Context, want orders.Result) error {
	step("checking every key and every dead letter")
	var diff differences
	if err := compare(ctx, d, &diff, "Orders", "totals", "userid", want.Users); err != nil {
		return err
	}
	if err := compare(ctx, d, &diff, "OrderTotals", "order", "orderid", want.Orders); err != nil {
		return err
	}
	if err := d.deadLetters(ctx, &diff, want.Bad); err != nil {
		return err
	}
	if diff.n > 0 {
		return fmt.Errorf("%d differences from the independent count; the first are:\n%s", diff.n, strings.Join(diff.first, "\n"))
	}
	fmt.Printf("   %d users, %d orders and %d dead letters: all as the independent count has them\n", len(want.Users), len(want.Orders), len(want.Bad))
	return nil
}

// differences counts what is wrong and keeps the first.
type differences struct {
	n     int
	first []string
}

func (d *differences) add(format string, args ...any) {
	if d.n++; d.n <= 20 {
		d.first = append(d.first, fmt.Sprintf(format, args...))
	}
}

// compare reads all states of a step by kisctl.
func compare[T comparable](ctx context.Context, d *demo, diff *differences, flow, step, field string, want map[int64]T) error {
	var text strings.Builder
	if err := d.kisctl(ctx, &text, "state", "list", flow, step, "--limit", "0", "-o", "json"); err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Key   map[string]int64 `json:"key"`
			State json.RawMessage  `json:"state"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(text.String()), &list); err != nil {
		return fmt.Errorf("kisctl state list %s %s: %w", flow, step, err)
	}
	seen := make(map[int64]bool, len(list.Items))
	for _, item := range list.Items {
		key := item.Key[field]
		var got T
		dec := json.NewDecoder(strings.NewReader(string(item.State)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&got); err != nil {
			return fmt.Errorf("%s, %s, %s=%d: state %s: %w", flow, step, field, key, item.State, err)
		}
		expected, ok := want[key]
		switch {
		case !ok:
			diff.add("%s, %s, %s=%d: %s, but the independent count has no such key", flow, step, field, key, item.State)
		case seen[key]:
			diff.add("%s, %s, %s=%d is listed twice", flow, step, field, key)
		case got != expected:
			diff.add("%s, %s, %s=%d: %+v, want %+v", flow, step, field, key, got, expected)
		}
		seen[key] = true
	}
	for key, expected := range want {
		if !seen[key] {
			diff.add("%s, %s, %s=%d: no state, want %+v", flow, step, field, key, expected)
		}
	}
	return nil
}

// deadLetters compares the original bytes of every dead letter.
func (d *demo) deadLetters(ctx context.Context, diff *differences, want map[string]orders.Kind) error {
	client, err := api.NewClient(d.node.url())
	if err != nil {
		return err
	}
	defer client.Close()
	seen := make(map[string]bool, len(want))
	for flow, expected := range map[string]map[string]orders.Kind{"Orders": want, "OrderTotals": nil} {
		for page := (api.Page{Limit: api.MaxLimit}); ; {
			list, err := client.DeadLetters(ctx, flow, api.DeadLetterFilter{}, page)
			if err != nil {
				return fmt.Errorf("dead letters of %s: %w", flow, err)
			}
			for _, item := range list.Items {
				full, err := client.DeadLetter(ctx, flow, item.ID)
				if err != nil {
					return fmt.Errorf("dead letter %s of %s: %w", item.ID, flow, err)
				}
				text := strings.TrimRight(string(full.Data), "\r\n")
				if _, ok := expected[text]; !ok {
					diff.add("dead letter %s of %s: %q (%s) is none of the bad lines", item.ID, flow, text, full.Reason)
				} else if seen[text] {
					diff.add("dead letter %s of %s: %q is there twice", item.ID, flow, text)
				}
				seen[text] = true
			}
			if list.Next == "" {
				break
			}
			page.After = list.Next
		}
	}
	for text, kind := range want {
		if !seen[text] {
			diff.add("no dead letter for %q (%s)", text, kind)
		}
	}
	return nil
}

// kisctl runs kisctl as a user would.
func (d *demo) kisctl(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "kisctl"), append([]string{"--server", d.node.url()}, args...)...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kisctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
