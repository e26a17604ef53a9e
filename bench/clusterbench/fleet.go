package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/bench/program"
)

// setup is a cluster as a group wants it.
type setup struct {
	Nodes    int
	Embedded bool // NATS runs in the nodes, else in a server of its own
	Replicas int  // of every stream; with an outside NATS 1
	Standbys int
}

func (s setup) String() string {
	where := "NATS outside"
	if s.Embedded {
		where = "NATS embedded"
	}
	return fmt.Sprintf("%d nodes, %s, replicas %d, standbys %d", s.Nodes, where, s.Replicas, s.Standbys)
}

// fleet is a cluster whose processes run on this machine. It is for one goroutine, but for what says otherwise.
type fleet struct {
	setup
	b       *bench
	dir     string
	broker  *program.Process // nil where NATS is embedded
	url     string           // of the broker
	join    string
	nodes   map[string]*node
	drained string // a node that runs and is to have nothing; empty: none
}

// node is one process of a fleet, with what stays the same when it is started again.
type node struct {
	*program.Process // nil while it does not run
	name             string
	data             string
	listen           string
	nats             string // for clients, where NATS is embedded
	route            string
	actors           string
	client           *api.Client
}

const startLimit = 2 * time.Minute

// open starts a cluster in a new folder and waits until all nodes are ready and all groups have owners.
func (b *bench) open(ctx context.Context, s setup) (*fleet, error) {
	dir, err := os.MkdirTemp(b.dir, "fleet")
	if err != nil {
		return nil, err
	}
	f := &fleet{setup: s, b: b, dir: dir, nodes: make(map[string]*node)}
	if err := f.open(ctx); err != nil {
		f.abandon()
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	return f, nil
}

// setSize is how many of so many nodes JetStream runs on.
func setSize(nodes int) int {
	if nodes >= 3 {
		return 3
	}
	return 1
}

func (f *fleet) open(ctx context.Context) error {
	var routes []string
	for i := range f.Nodes {
		n, err := f.add(string(rune('a' + i)))
		if err != nil {
			return err
		}
		routes = append(routes, "nats://"+n.route)
	}
	f.join = strings.Join(routes[:setSize(f.Nodes)], ",")
	if !f.Embedded {
		if err := f.startBroker(ctx); err != nil {
			return err
		}
	}
	for _, name := range f.names() { // all at once: the first start of an embedded NATS waits for its whole set
		if err := f.launch(name); err != nil {
			return err
		}
	}
	for _, name := range f.names() {
		if err := f.ready(ctx, name); err != nil {
			return err
		}
	}
	return f.settle(ctx)
}

// add makes a node that does not run yet.
func (f *fleet) add(name string) (*node, error) {
	n := &node{name: name, data: filepath.Join(f.dir, name)}
	for _, address := range []*string{&n.listen, &n.nats, &n.route, &n.actors} {
		var err error
		if *address, err = program.FreeAddress(); err != nil {
			return nil, err
		}
	}
	var err error
	if n.client, err = api.NewClient("http://" + n.listen); err != nil {
		return nil, err
	}
	f.nodes[name] = n
	return n, nil
}

func (f *fleet) names() []string { return slices.Sorted(maps.Keys(f.nodes)) }

func (f *fleet) startBroker(ctx context.Context) error {
	listen, err := program.FreeAddress()
	if err != nil {
		return err
	}
	f.url = "nats://" + listen
	syncs := "2m"
	if f.b.durability == "power" {
		syncs = "always"
	}
	config := filepath.Join(f.dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream {\n  store_dir: %q\n  sync_interval: %s\n}\n", listen, filepath.Join(f.dir, "nats"), syncs)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	if f.broker, err = program.Start(filepath.Join(f.b.bin, "nats-server"), "-c", config); err != nil {
		return err
	}
	return f.broker.WaitFor(ctx, "nats-server", startLimit, func() error {
		nc, err := nats.Connect(f.url)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

// launch starts a node's process.
func (f *fleet) launch(name string) error {
	n := f.nodes[name]
	args := []string{"--data", n.data, "--listen", n.listen, "--cluster-name", "bench", "--node", name, "--actors-listen", n.actors,
		"--lease", f.b.lease.String(), "--standbys", fmt.Sprint(f.Standbys), "--durability", f.b.durability, "--log-level", "warn"}
	if f.Embedded {
		args = append(args, "--nats-listen", n.nats, "--cluster-listen", n.route, "--join", f.join, "--replicas", fmt.Sprint(f.Replicas))
	} else {
		args = append(args, "--nats", f.url)
	}
	if f.b.debug != "" && name == "a" {
		args = append(args, "--debug-listen", f.b.debug)
	}
	var err error
	n.Process, err = program.Start(filepath.Join(f.b.bin, "kisnode"), args...)
	return err
}

// ready waits until a node has started all flows.
func (f *fleet) ready(ctx context.Context, name string) error {
	n := f.nodes[name]
	return n.WaitFor(ctx, "node "+name, startLimit, func() error { return program.HTTPOK("http://" + n.listen + "/readyz") })
}

// start starts a node and waits until it is ready.
func (f *fleet) start(ctx context.Context, name string) error {
	if err := f.launch(name); err != nil {
		return err
	}
	return f.ready(ctx, name)
}

// kill is kill -9 of a node.
func (f *fleet) kill(name string) {
	n := f.nodes[name]
	n.Kill()
	n.Process = nil
	n.client.Close()
}

// stop ends a node in good order.
func (f *fleet) stop(name string) error {
	n := f.nodes[name]
	p := n.Process
	n.Process = nil
	n.client.Close()
	return p.Stop()
}

// running are the nodes that run.
func (f *fleet) running() (all []*node) {
	for _, name := range f.names() {
		if n := f.nodes[name]; n.Process != nil {
			all = append(all, n)
		}
	}
	return all
}

// others are the nodes that run, but one.
func (f *fleet) others(name string) []*node {
	return slices.DeleteFunc(f.running(), func(n *node) bool { return n.name == name })
}

// measured are the processes whose time counts.
func (f *fleet) measured() (all []*program.Process) {
	for _, n := range f.running() {
		all = append(all, n.Process)
	}
	if f.broker != nil {
		all = append(all, f.broker)
	}
	return all
}

// await asks again and again until the answer is nil, for at most limit, and while all processes live.
func (f *fleet) await(ctx context.Context, what string, limit time.Duration, ask func() error) error {
	end := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		for _, p := range f.measured() {
			if gone := p.Gone(); gone != nil {
				return gone
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			for _, n := range f.running() {
				err = fmt.Errorf("%w\nnode %s says:\n%s", err, n.name, n.Log)
			}
			return fmt.Errorf("%s: not within %v: %w", what, limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// settleLimit is how long the cluster may take until everything is where it is to be.
const settleLimit = 4 * time.Minute

// settle waits until all running nodes know one another, no group moves, all partitions run, and every partition has its
// warm copies.
func (f *fleet) settle(ctx context.Context) error {
	return f.await(ctx, "the cluster settles", settleLimit, func() error { return f.settled(ctx) })
}

func (f *fleet) settled(ctx context.Context) error {
	if err := f.placed(ctx); err != nil {
		return err
	}
	where, err := f.partitions(ctx, "")
	if err != nil {
		return err
	}
	copies := len(f.running()) - 1
	if f.drained != "" {
		copies--
	}
	copies = min(f.Standbys, copies)
	for _, p := range where {
		if p.State != "running" || len(p.Copies) < copies {
			return fmt.Errorf("partition %s is %s at %q, with %d copies of %d", p.Name, p.State, p.Node, len(p.Copies), copies)
		}
	}
	return nil
}

// placed tells what is still to happen until the table is as it is to be.
func (f *fleet) placed(ctx context.Context) error {
	running := f.running()
	for _, n := range running {
		c, err := n.client.Cluster(ctx)
		if err != nil {
			return err
		}
		alive := 0
		for _, one := range c.Nodes {
			if one.Alive {
				alive++
			}
			if one.Alive && one.Draining && one.Owns > 0 {
				return fmt.Errorf("node %s sees %d groups at node %s, which is draining", n.name, one.Owns, one.Name)
			}
			if one.Alive && !one.Draining && one.Owns == 0 {
				return fmt.Errorf("node %s sees node %s without groups", n.name, one.Name)
			}
		}
		if alive != len(running) || c.Unowned > 0 || len(c.Moves) > 0 {
			return fmt.Errorf("node %s sees %d nodes alive of %d, %d groups without an owner, %d moves", n.name, alive, len(running), c.Unowned, len(c.Moves))
		}
	}
	return nil
}

// partitions lists where the partitions of a flow, or of all, are.
func (f *fleet) partitions(ctx context.Context, flow string) (all []api.ClusterPartition, err error) {
	client := f.running()[0].client
	for page := (api.Page{Limit: 1000}); ; {
		l, err := client.ClusterPartitions(ctx, flow, page)
		if err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if l.Next == "" {
			return all, nil
		}
		page.After = l.Next
	}
}

// apply applies definitions and waits until all of it runs.
func (f *fleet) apply(ctx context.Context, text string) error {
	if _, err := f.running()[0].client.Apply(ctx, []api.File{{Name: "bench.yaml", Text: text}}, api.Approval{}); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return f.settle(ctx)
}

// connect connects to the cluster's NATS by some of its nodes.
func (f *fleet) connect(through []*node) (*nats.Conn, jetstream.JetStream, error) {
	url := f.url
	if f.Embedded {
		var urls []string
		for _, n := range through {
			urls = append(urls, "nats://"+n.nats)
		}
		url = strings.Join(urls, ",")
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // a lost connection is what is measured
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
	}
	return nc, js, err
}

// close stops everything in good order and removes the data.
func (f *fleet) close() error {
	var errs []error
	for _, n := range f.running() {
		errs = append(errs, f.stop(n.name))
	}
	errs = append(errs, f.broker.Stop(), os.RemoveAll(f.dir))
	return errors.Join(errs...)
}

// abandon ends everything after a mistake.
func (f *fleet) abandon() {
	for _, n := range f.running() {
		f.kill(n.name)
	}
	f.broker.Kill()
	_ = os.RemoveAll(f.dir) // a temporary folder, and there is a mistake to report already
}

// with runs f with a fleet that it opens and closes.
func (b *bench) with(ctx context.Context, s setup, do func(*fleet) error) error {
	f, err := b.open(ctx, s)
	if err != nil {
		return err
	}
	if err := do(f); err != nil {
		if b.verbose {
			if where, perr := f.partitions(ctx, ""); perr == nil {
				for _, p := range where {
					fmt.Fprintf(os.Stderr, "%s: %s at %q, epoch %d, %d commits %s\n", p.Name, p.State, p.Node, p.Epoch, p.Commits, p.Reason)
				}
			}
			for _, n := range f.running() {
				fmt.Fprintf(os.Stderr, "node %s:\n%s\n", n.name, n.Log)
			}
		}
		f.abandon()
		return fmt.Errorf("%s: %w", s, err)
	}
	return f.close()
}
