package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/actors/cluster"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/transport/nats"
)

const clusterFlow = `
kistype: flow
status: 1
flow_name: Orders
entry: {subject: orders.in, fields: {user: text, shop: text, cents: int}}
flows:
  - fname: ByUser
  - fname: ByShop
  - fname: Out
---
kistype: func
fname: ByUser
fmode: Calculate
source: {must: [user]}
calculate:
  state:
    n:     {init: 0, set: state.n + 1}
    cents: {init: 0, set: state.cents + row.cents}
---
kistype: func
fname: ByShop
fmode: Calculate
source: {must: [shop]}
calculate:
  state:
    n:     {init: 0, set: state.n + 1}
    cents: {init: 0, set: state.cents + row.cents}
---
kistype: func
fname: Out
fmode: Expand
expand: {subject: orders.out}
`

// fleet is a cluster of nodes in this process, over one NATS.
type fleet struct {
	t       *testing.T
	dir     string
	url     string
	network *cluster.Network
	nodes   map[string]*Node
}

func newFleet(t *testing.T, names ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), network: &cluster.Network{}, nodes: make(map[string]*Node)}
	server, err := nats.Embed(t.Context(), nats.Options{Dir: filepath.Join(f.dir, "nats"), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	f.url = server.URL()
	for _, name := range names {
		f.start(name)
	}
	t.Cleanup(func() {
		for _, n := range f.nodes {
			f.stop(n)
		}
	})
	return f
}

func (f *fleet) start(name string) *Node {
	f.t.Helper()
	n, err := Start(f.t.Context(), Options{Data: filepath.Join(f.dir, name), NATS: f.url, Listen: "127.0.0.1:0", Durability: "process",
		ClusterName: "test", NodeName: name, network: f.network, LogOutput: nodeLog{f.t, name}, LogLevel: "info"})
	if err != nil {
		f.t.Fatalf("node %s: %v", name, err)
	}
	f.nodes[name] = n
	return n
}

func (f *fleet) stop(n *Node) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	delete(f.nodes, n.opt.NodeName)
	if err := n.Close(ctx); err != nil {
		f.t.Errorf("node %s: close: %v", n.opt.NodeName, err)
	}
}

// nodeLog prefixes a node's lines.
type nodeLog struct {
	t    *testing.T
	name string
}

func (l nodeLog) Write(b []byte) (int, error) {
	_, err := fmt.Fprintf(l.t.Output(), "%s: %s", l.name, b)
	return len(b), err
}

func (f *fleet) publish(n *Node, from, to int) {
	f.t.Helper()
	var ms []api.PublishMessage
	for i := from; i < to; i++ {
		ms = append(ms, api.PublishMessage{Data: fmt.Appendf(nil, `{"user":"u%d","shop":"s%d","cents":%d}`, i%50, i%7, i)})
	}
	if _, err := n.Publish(f.t.Context(), api.Publication{Subject: "orders.in", Messages: ms}); err != nil {
		f.t.Fatal(err)
	}
}

// sums waits until a step has counted so many events, as a node tells, and compares what all of them come to.
func (f *fleet) sums(n *Node, step string, keys, events int) {
	f.t.Helper()
	want := fmt.Sprintf("%d events of %d cents with %d keys", events, events*(events-1)/2, keys)
	got := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		count, cents, found := 0, 0, 0
		l, err := n.States(f.t.Context(), "Orders", step, "", api.Page{Limit: 1000})
		if err != nil {
			got = err.Error()
			continue
		}
		for _, e := range l.Items {
			var s struct{ N, Cents int }
			if _, err := fmt.Sscanf(strings.ReplaceAll(string(e.State), `"`, ""), "{n:%d,cents:%d}", &s.N, &s.Cents); err != nil {
				f.t.Fatalf("state %s: %v", e.State, err)
			}
			count, cents, found = count+s.N, cents+s.Cents, found+1
		}
		if got = fmt.Sprintf("%d events of %d cents with %d keys", count, cents, found); got == want {
			return
		}
	}
	f.t.Fatalf("node %s: step %s has %s, want %s", n.opt.NodeName, step, got, want)
}

func (f *fleet) apply(n *Node, text string) {
	f.t.Helper()
	if _, err := n.Apply(f.t.Context(), []api.File{{Name: "orders.yaml", Text: text}}, api.Approval{DropState: []string{"Orders/ByShop"}}); err != nil {
		f.t.Fatal(err)
	}
}

// spread waits until every node runs some of a flow's partitions.
func (f *fleet) spread(n *Node, nodes int) {
	f.t.Helper()
	var parts api.List[api.ClusterPartition]
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		parts, err = n.ClusterPartitions(f.t.Context(), "Orders", api.Page{Limit: 100})
		if err != nil {
			f.t.Fatal(err)
		}
		on := make(map[string]bool)
		running := 0
		for _, p := range parts.Items {
			if p.State == "running" {
				running++
				on[p.Node] = true
			}
		}
		if len(on) == nodes && running == len(parts.Items) && running > 0 {
			return
		}
	}
	f.t.Fatalf("the partitions are not spread over %d nodes: %+v", nodes, parts.Items)
}

// TestCluster: a flow runs on three nodes, is asked and changed at any of them, and moves when nodes come, go and are
// drained.
func TestCluster(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	a, b, c := f.nodes["a"], f.nodes["b"], f.nodes["c"]
	f.apply(a, clusterFlow)
	f.spread(b, 3)
	f.publish(b, 0, 1000)
	for _, n := range []*Node{a, b, c} {
		f.sums(n, "ByUser", 50, 1000)
		f.sums(n, "ByShop", 7, 1000)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		flow, err := c.Flow(t.Context(), "Orders")
		if err == nil && flow.State == api.StateRunning && flow.EventsIn == 1000 && flow.EventsOut == 1000 && flow.Lag == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("node c says of the flow: %+v, %v", flow.FlowSummary, err)
		}
	}

	// A change of the flow, at another node than the one that started it: ByShop goes, and what it kept.
	f.apply(c, strings.Replace(clusterFlow, "  - fname: ByShop\n", "", 1))
	f.publish(a, 1000, 2000)
	for _, n := range []*Node{a, b, c} {
		f.sums(n, "ByUser", 50, 2000)
		if fl, err := n.Flow(t.Context(), "Orders"); err != nil || fl.Revision != 2 || fl.State != api.StateRunning {
			t.Errorf("node %s: %+v, %v", n.opt.NodeName, fl.FlowSummary, err)
		}
	}
	f.spread(a, 3)

	// A node is drained and stops, another one comes.
	if _, err := a.DrainNode(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	f.spread(a, 2)
	f.stop(b)
	f.publish(a, 2000, 3000)
	f.sums(c, "ByUser", 50, 3000)
	if _, err := a.DrainNode(t.Context(), "b", false); err != nil && !errors.Is(err, api.ErrNotFound) {
		t.Fatal(err)
	}
	d := f.start("d")
	f.spread(d, 3)
	f.publish(d, 3000, 4000)
	f.sums(d, "ByUser", 50, 4000)

	// Paused at one node it stands on all, and goes on.
	if _, err := d.SetFlow(t.Context(), "Orders", api.ActionPause); err != nil {
		t.Fatal(err)
	}
	if _, err := a.State(t.Context(), "Orders", "ByUser", []string{"user=u1"}, api.Read{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a paused flow answers: %v", err)
	}
	f.publish(a, 4000, 4500)
	if _, err := c.SetFlow(t.Context(), "Orders", api.ActionResume); err != nil {
		t.Fatal(err)
	}
	f.sums(a, "ByUser", 50, 4500)
	if _, err := a.SetFlow(t.Context(), "Orders", api.ActionDelete); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Flow(t.Context(), "Orders"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a deleted flow: %v", err)
	}
	// Anew, it begins with nothing.
	f.apply(d, clusterFlow)
	f.spread(c, 3)
	if l, err := c.States(t.Context(), "Orders", "ByUser", "", api.Page{Limit: 10}); err != nil || len(l.Items) > 10 {
		t.Errorf("%d states, %v", len(l.Items), err)
	}
}
