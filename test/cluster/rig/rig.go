package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/test/process"
)

// Options say what a rig is made of. The zero value is one node with its embedded NATS.
type Options struct {
	Bin      string        // folder of the binaries
	Nodes    int           // default 1
	Servers  int           // of an outside NATS: 0, 1 or 3
	Cluster  bool          // nodes get the flags of a cluster; more than one node needs it
	Set      int           // nodes that run JetStream, from the first on; default: all, at most 3
	Lease    time.Duration // default 2 s
	Standbys int           // default: the node's own
	Flows    []string      // files of definitions
	Loopback bool          // no namespaces, even where they can be had
	Args     []string      // further flags of every node
}

// Rig is nodes, and the servers of an outside NATS.
type Rig struct {
	Nodes   []*Node
	Servers []*Server
	Network *Network

	opt Options
}

// Node is a machine that runs kisnode.
type Node struct {
	*Machine
	API  string // URL
	NATS string // URL of its NATS, or of the outside one
	node *process.Node
}

// Server is a machine that runs nats-server.
type Server struct {
	*Machine
	URL string
}

// startLimit is how long a start may take, on a machine with much to do.
const startLimit = 2 * time.Minute

// New makes a rig that is not started yet.
func New(t testing.TB, o Options) *Rig {
	t.Helper()
	o.Nodes = max(o.Nodes, 1)
	if o.Set == 0 {
		o.Set = min(o.Nodes, 3)
	}
	if o.Lease == 0 {
		o.Lease = 2 * time.Second
	}
	if o.Nodes > 1 && !o.Cluster {
		t.Fatal("several nodes are a cluster")
	}
	r := &Rig{opt: o}
	if o.Loopback {
		r.Network = Loopback(errors.New("the test wants it so"))
	} else {
		r.Network = OpenNetwork(t)
	}
	folder := t.TempDir()
	for i := range o.Servers {
		r.addServer(t, folder, i)
	}
	r.configureServers()
	for i := range o.Nodes {
		r.addNode(t, folder, i)
	}
	r.configureNodes()
	return r
}

// address is where a machine listens: at a port of its own where it has its own host, else at a free one.
func (r *Rig) address(t testing.TB, p *Place, port int) string {
	if r.Network.missing != nil {
		return process.FreeAddress(t)
	}
	return fmt.Sprintf("%s:%d", p.Host, port)
}

// inner is address for what the tests' own process does not call.
func (r *Rig) inner(t testing.TB, p *Place, port int) string {
	if r.Network.missing != nil {
		return process.FreeAddress(t)
	}
	return fmt.Sprintf("%s:%d", p.Inner, port)
}

func (r *Rig) addServer(t testing.TB, folder string, i int) {
	name := fmt.Sprintf("nats%d", i+1)
	place := r.Network.Place(t, name, 51+i)
	disk := OpenDisk(t, folder, name)
	log := newLog(name)
	p := process.NewServer(t, r.opt.Bin, disk.Path)
	p.Listen, p.Prefix, p.Output = r.address(t, place, 4222), place.Prefix, log
	p.Config = "server_name: " + name + "\n"
	r.Servers = append(r.Servers, &Server{newMachine(t, place, disk, log, p), p.URL()})
	if r.opt.Servers > 1 {
		p.Config += fmt.Sprintf("cluster {\n  name: rig\n  listen: %q\n", r.address(t, place, 6222))
	}
}

// configureServers tells every server of the others.
func (r *Rig) configureServers() {
	if len(r.Servers) < 2 {
		return
	}
	listen := regexp.MustCompile(`cluster \{\n.*\n  listen: "(.*)"`)
	var routes []string
	for _, s := range r.Servers {
		routes = append(routes, `"nats://`+listen.FindStringSubmatch(s.process.(*process.Server).Config)[1]+`"`)
	}
	for _, s := range r.Servers {
		s.process.(*process.Server).Config += "  routes: [" + strings.Join(routes, ", ") + "]\n}\n"
	}
}

func (r *Rig) addNode(t testing.TB, folder string, i int) {
	name := string(rune('a' + i))
	place := r.Network.Place(t, name, 1+i)
	disk := OpenDisk(t, folder, name)
	log := newLog(name)
	p := process.NewNode(t, r.opt.Bin, filepath.Join(disk.Path, "data"))
	p.Listen, p.NATSListen = r.address(t, place, 7070), r.address(t, place, 4222)
	p.Prefix, p.Output = place.Prefix, log
	for _, f := range r.opt.Flows {
		p.Args = append(p.Args, "--flows", f)
	}
	p.Args = append(p.Args, r.opt.Args...)
	if r.opt.Cluster {
		p.Args = append(p.Args, "--cluster-name", "rig", "--node", name, "--lease", r.opt.Lease.String(), "--actors-listen", r.inner(t, place, 8090))
		if r.opt.Standbys > 0 {
			p.Args = append(p.Args, "--standbys", fmt.Sprint(r.opt.Standbys))
		}
		if r.opt.Servers == 0 {
			p.Args = append(p.Args, "--cluster-listen", r.address(t, place, 6222))
		}
	}
	r.Nodes = append(r.Nodes, &Node{Machine: newMachine(t, place, disk, log, p), API: p.URL(), node: p})
}

// configureNodes tells every node of the NATS.
func (r *Rig) configureNodes() {
	var outside, set []string
	for _, s := range r.Servers {
		outside = append(outside, s.URL)
	}
	for _, n := range r.Nodes[:min(r.opt.Set, len(r.Nodes))] {
		if i := slices.Index(n.node.Args, "--cluster-listen"); i >= 0 {
			set = append(set, "nats://"+n.node.Args[i+1])
		}
	}
	for _, n := range r.Nodes {
		n.node.NATS = strings.Join(outside, ",")
		n.NATS = n.node.NATSURL()
		if len(set) > 0 {
			n.node.Args = append(n.node.Args, "--join", strings.Join(set, ","))
		}
	}
}

// UseBinaries has a node run other binaries from its next start on.
func (n *Node) UseBinaries(folder string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node.Bin = folder
}

// Binaries is the folder of those that a node runs.
func (n *Node) Binaries() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node.Bin
}

// Machines are all nodes and servers.
func (r *Rig) Machines() []*Machine {
	var all []*Machine
	for _, s := range r.Servers {
		all = append(all, s.Machine)
	}
	for _, n := range r.Nodes {
		all = append(all, n.Machine)
	}
	return all
}

// JetStream are the machines that run it.
func (r *Rig) JetStream() []*Machine {
	if len(r.Servers) > 0 {
		return r.Machines()[:len(r.Servers)]
	}
	return r.Machines()[:min(r.opt.Set, len(r.Nodes))]
}

// Lease is how long a node may be silent.
func (r *Rig) Lease() time.Duration { return r.opt.Lease }

// Start starts everything and waits until it is at work.
func (r *Rig) Start() error {
	for _, m := range r.Machines() {
		m.Start()
	}
	for _, m := range r.Machines() {
		if err := m.AwaitReady(startLimit); err != nil {
			return err
		}
	}
	return nil
}

// NATSURLs is where clients connect: every server of the NATS that there is.
func (r *Rig) NATSURLs() string {
	var urls []string
	for _, s := range r.Servers {
		urls = append(urls, s.URL)
	}
	for _, n := range r.Nodes {
		if len(r.Servers) == 0 {
			urls = append(urls, n.NATS)
		}
	}
	return strings.Join(urls, ",")
}

// Connect makes a connection to the NATS that goes to another server when it is lost. It is closed when the test ends.
func (r *Rig) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(r.NATSURLs(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true), nats.Timeout(time.Second),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // a lost connection is what the tests are about
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Get asks a node's API and decodes the JSON of its answer. An answer that is not 200 is a *StatusError.
func (n *Node) Get(ctx context.Context, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.API+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Error struct{ Code, Message string }
		}
		_ = json.NewDecoder(resp.Body).Decode(&e) // it may be no JSON, where the node is starting
		return &StatusError{resp.StatusCode, e.Error.Code, e.Error.Message}
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// StatusError is an answer of the API that is not 200.
type StatusError struct {
	Status  int
	Code    string
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// Clock is what a node's process takes for the time.
func (n *Node) Clock(ctx context.Context) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.API+"/healthz", nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	return http.ParseTime(resp.Header.Get("Date"))
}

// crashes are lines that no log may hold.
var crashes = regexp.MustCompile(`^(panic:|fatal error:|WARNING: DATA RACE)|\bpanic: |panicked`)

// Crashes are the lines of logs that tell of a panic or a race, with those around.
func (r *Rig) Crashes() []string {
	var all []string
	for _, m := range r.Machines() {
		for _, l := range m.Log.Find(time.Time{}, time.Now(), crashes, 3) {
			around := m.Log.Find(l.At.Add(-10*time.Millisecond), l.At.Add(100*time.Millisecond), regexp.MustCompile(`.`), 60)
			var b strings.Builder
			fmt.Fprintf(&b, "%s:\n", m.Name)
			for _, a := range around {
				fmt.Fprintln(&b, a.Text)
			}
			all = append(all, b.String())
		}
	}
	return all
}
