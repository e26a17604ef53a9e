package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/actors/cluster"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/transport"
)

// membership is this node's part in a cluster: it tells the engine which partitions are placed here, and carries
// questions and changes between nodes.
//
// Every node runs every flow, each some of its partitions. A change of a flow that concerns all of its partitions at once
// (another revision, say) gathers it first: the node that makes the change follows the logs of all its partitions, takes
// them over, makes the change as a single node would, and lets them go again (gather and scatter). Whoever is late, or
// does not know, is refused by the fence.
type membership struct {
	n *Node
	c *cluster.Cluster

	mu       sync.Mutex
	view     cluster.View
	released map[int]bool      // groups that were given up before the view says so
	gathered map[string]gather // flows whose partitions all come, or have come, here
	yielded  map[string]yield  // flows whose partitions have all gone to another node
	caught   map[int]bool      // by group that comes here: its copies are near the ends of their logs
	started  bool              // the flows run: before that nothing is known of copies
}

// gather is how far a gathering is.
type gather uint8

const (
	preparing gather = iota + 1 // copies follow the logs
	gatheredHere
)

// yield is who has gathered a flow.
type yield struct{ Node, Incarnation string }

// joinCluster makes the node a member.
func (n *Node) joinCluster(ctx context.Context) error {
	o := n.opt
	m := &membership{n: n, released: make(map[int]bool), gathered: make(map[string]gather), yielded: make(map[string]yield), caught: make(map[int]bool)}
	secure, err := o.tls().Mutual()
	if err != nil {
		return err
	}
	n.system.Place(m.role)
	n.system.Ask(m)
	c, err := cluster.Join(ctx, n.streams, m, cluster.Options{Name: o.ClusterName, Node: o.NodeName, Listen: o.ActorsListen, Advertise: o.ActorsAdvertise,
		API: "http://" + n.listener.Addr().String(), Version: Version, Lease: o.Lease, Standbys: o.standbys(), TLS: secure, Log: n.log.With("part", "cluster"), Network: o.network})
	if err != nil {
		return err
	}
	m.c = c
	n.members = m
	c.OnChange(m.forgetYields)
	return nil
}

// role is the engine's Placement.
func (m *membership) role(flow, stage string, number int) actors.Role {
	flow = strings.TrimSuffix(flow, shadowSuffix) // a shadow is where its flow is: it begins with a copy of its state
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.view.Roles) == 0 {
		return actors.Elsewhere
	}
	g := actors.GroupOf(flow, stage, number, len(m.view.Roles))
	role := m.view.Roles[g]
	if m.gathered[flow] == gatheredHere {
		return actors.Owner
	}
	if _, ok := m.yielded[flow]; ok {
		if role == cluster.Elsewhere {
			return actors.Elsewhere
		}
		return actors.Copy
	}
	switch {
	case role == cluster.Owner && !m.released[g]:
		return actors.Owner
	case role != cluster.Elsewhere, m.gathered[flow] == preparing:
		return actors.Copy
	}
	return actors.Elsewhere
}

// Place implements cluster.Engine.
func (m *membership) Place(v cluster.View) {
	m.mu.Lock()
	m.view = v
	for g := range m.released {
		if v.Roles[g] != cluster.Owner {
			delete(m.released, g)
		}
	}
	for g := range m.caught {
		if v.Roles[g] != cluster.Receiving {
			delete(m.caught, g)
		}
	}
	if !slices.Contains(v.Roles, cluster.Owner) { // given up, perhaps because the lease has lapsed: then nothing is gathered either
		clear(m.gathered)
	}
	m.mu.Unlock()
	m.n.system.Place(m.role)
}

// Caught implements cluster.Engine.
func (m *membership) Caught(group int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.caught[group]
}

// watchCopies looks now and then whether the copies of groups that come here have caught up.
func (m *membership) watchCopies(ctx context.Context) {
	for ctx.Err() == nil {
		m.lookAtCopies(ctx)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (m *membership) lookAtCopies(ctx context.Context) {
	m.mu.Lock()
	started := m.started
	groups := len(m.view.Roles)
	var coming []int
	for g, role := range m.view.Roles {
		if role == cluster.Receiving && !m.caught[g] {
			coming = append(coming, g)
		}
	}
	m.mu.Unlock()
	if !started || len(coming) == 0 {
		return
	}
	behind := make(map[int]bool)
	for _, r := range m.n.system.Running() {
		base := strings.TrimSuffix(r.Name(), shadowSuffix)
		for _, g := range coming {
			if behind[g] {
				continue
			}
			ok, err := r.Caught(ctx, func(stage string, number int) bool { return actors.GroupOf(base, stage, number, groups) == g })
			behind[g] = err != nil || !ok
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range coming {
		if !behind[g] && g < len(m.view.Roles) && m.view.Roles[g] == cluster.Receiving {
			m.caught[g] = true
		}
	}
}

// Release implements cluster.Engine.
func (m *membership) Release(ctx context.Context, groups []int) error {
	m.mu.Lock()
	for _, g := range groups {
		m.released[g] = true
	}
	m.mu.Unlock()
	m.n.system.Place(m.role)
	return m.n.system.Placed(ctx, true)
}

// forgetYields takes flows back from nodes that are gone.
func (m *membership) forgetYields() {
	live := make(map[yield]bool)
	for _, one := range m.c.Members() {
		if one.Alive {
			live[yield{one.Node, one.Incarnation}] = true
		}
	}
	m.mu.Lock()
	forgot := false
	for flow, y := range m.yielded {
		if !live[y] {
			delete(m.yielded, flow)
			forgot = true
			m.n.log.Warn("a flow is taken back from a node that is gone", "flow", flow, "node", y.Node)
		}
	}
	m.mu.Unlock()
	if forgot {
		m.n.system.Place(m.role)
	}
}

// The calls between nodes.
const (
	askMethod       = "ask"       // a question to a partition
	reportMethod    = "report"    // how a flow is there
	yieldMethod     = "yield"     // close a flow's partitions: the caller gathers them
	resumeMethod    = "resume"    // the flow is as placed again
	refreshMethod   = "refresh"   // read the catalog
	reopenMethod    = "reopen"    // open the partitions again that wait for people
	committedMethod = "committed" // how far partitions have committed a stream
)

// nodeCall is the body of a call about a flow.
type nodeCall struct {
	Flow        string `json:"flow,omitempty"`
	Node        string `json:"node,omitempty"`
	Incarnation string `json:"incarnation,omitempty"`
	Catalog     uint64 `json:"catalog,omitempty"` // its sequence, at least
	Stream      string `json:"stream,omitempty"`
}

// partitionCall is the body of a question to a partition.
type partitionCall struct {
	Partition actors.PartitionID `json:"partition"`
	Question  string             `json:"question"`
	Body      json.RawMessage    `json:"body"`
}

// Ask implements actors.Remote.
func (m *membership) Ask(ctx context.Context, id actors.PartitionID, question string, again bool, body []byte) ([]byte, error) {
	b, err := json.Marshal(partitionCall{id, question, body})
	if err != nil {
		return nil, err
	}
	var marks []cluster.Mark
	if again {
		marks = append(marks, cluster.Repeatable)
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		flow := strings.TrimSuffix(id.Flow, shadowSuffix)
		m.mu.Lock()
		y, gone := m.yielded[flow]
		groups := len(m.view.Roles)
		m.mu.Unlock()
		var out []byte
		if gone {
			out, err = m.c.Call(ctx, y.Node, askMethod, b, marks...)
		} else {
			out, err = m.c.Ask(ctx, cluster.Identity{Flow: id.Flow, Partition: id.String(), Group: actors.GroupOf(flow, id.Stage, id.Number, max(1, groups))},
				askMethod, b, marks...)
		}
		if err == nil {
			return out, nil
		}
		err = m.errorOf(err)
		if !errors.Is(err, actors.ErrElsewhere) {
			return nil, err
		}
		select { // it was refused before anything was done: whoever asked may ask again
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("partition %s: %w", id, ctx.Err())
		}
	}
}

// errorOf turns a call's error into the engine's.
func (m *membership) errorOf(err error) error {
	var e *cluster.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case cluster.CodeNotOwner, cluster.CodeNoOwner, cluster.CodeNoMember, cluster.CodeBusy:
		return fmt.Errorf("%w: %s", actors.ErrWaiting, e.Text)
	}
	return actors.RemoteError(e.Code, e.Text)
}

// Answer implements cluster.Engine.
func (m *membership) Answer(ctx context.Context, c cluster.Call) ([]byte, error) {
	out, err := m.answer(ctx, c)
	if err == nil {
		return out, nil
	}
	var e *cluster.Error
	if errors.As(err, &e) {
		return nil, err
	}
	return nil, &cluster.Error{Code: actors.ErrorCode(err), Text: err.Error()}
}

func (m *membership) answer(ctx context.Context, c cluster.Call) ([]byte, error) {
	if c.Method == askMethod {
		var in partitionCall
		if err := json.Unmarshal(c.Body, &in); err != nil {
			return nil, err
		}
		return m.n.system.Answer(ctx, in.Partition, in.Question, in.Body)
	}
	var in nodeCall
	if err := json.Unmarshal(c.Body, &in); err != nil {
		return nil, err
	}
	switch c.Method {
	case reportMethod:
		r := m.n.system.Flow(in.Flow)
		if r == nil {
			return json.Marshal(actors.Report{Node: m.n.opt.NodeName})
		}
		rep, err := r.Report(ctx)
		rep.Node = m.n.opt.NodeName
		if err != nil {
			return nil, err
		}
		return json.Marshal(rep)
	case yieldMethod:
		m.mu.Lock()
		m.yielded[in.Flow] = yield{in.Node, in.Incarnation}
		m.mu.Unlock()
		m.forgetYields() // who is gone before we heard of it has nothing
		m.n.system.Place(m.role)
		return nil, m.n.system.Placed(ctx, true)
	case resumeMethod:
		err := m.n.catalogUpTo(ctx, in.Catalog)
		m.mu.Lock()
		delete(m.yielded, in.Flow)
		m.mu.Unlock()
		m.n.system.Place(m.role)
		return nil, err
	case refreshMethod:
		return nil, m.n.catalogUpTo(ctx, in.Catalog)
	case reopenMethod:
		if r := m.n.system.Flow(in.Flow); r != nil {
			return nil, r.Reopen(ctx, true)
		}
		return nil, nil
	case committedMethod:
		r := m.n.system.Flow(in.Flow)
		if r == nil {
			return json.Marshal(map[string]uint64{})
		}
		at, err := r.Committed(ctx, in.Stream)
		if err != nil {
			return nil, err
		}
		return json.Marshal(at)
	}
	return nil, fmt.Errorf("%w: method %q: this node is of another version", actors.ErrUnknown, c.Method)
}

// others are the live members but this one.
func (m *membership) others() []cluster.Member {
	var all []cluster.Member
	for _, one := range m.c.Members() {
		if one.Alive && one.Node != m.n.opt.NodeName {
			all = append(all, one)
		}
	}
	return all
}

// each calls all other live members at once and returns their answers; a member that goes meanwhile is left out.
func (m *membership) each(ctx context.Context, method string, in nodeCall) (map[string][]byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	type answer struct {
		node string
		body []byte
		err  error
	}
	others := m.others()
	answers := make(chan answer, len(others))
	for _, one := range others {
		go func() { // ends with ctx
			b, err := m.c.Call(ctx, one.Node, method, body, cluster.Repeatable)
			answers <- answer{one.Node, b, err}
		}()
	}
	out := make(map[string][]byte)
	var errs []error
	for range others {
		a := <-answers
		switch {
		case a.err == nil:
			out[a.node] = a.body
		case errors.Is(a.err, cluster.ErrNoMember):
		default:
			errs = append(errs, fmt.Errorf("node %s: %w", a.node, m.errorOf(a.err)))
		}
	}
	return out, errors.Join(errs...)
}

// report tells how a flow is on all nodes.
func (n *Node) report(ctx context.Context, r *actors.Running) (actors.Report, error) {
	own, err := r.Report(ctx)
	if n.members == nil || err != nil {
		return own, err
	}
	own.Node = n.opt.NodeName
	limit, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	answers, err := n.members.each(limit, reportMethod, nodeCall{Flow: r.Name()})
	if ctx.Err() != nil {
		return own, ctx.Err()
	}
	if err != nil { // what the others know is worth having
		n.log.Debug("not all nodes tell of a flow", "flow", r.Name(), "error", err)
	}
	all := []actors.Report{own}
	for _, node := range slices.Sorted(maps.Keys(answers)) {
		var rep actors.Report
		if err := json.Unmarshal(answers[node], &rep); err != nil {
			return own, fmt.Errorf("node %s: report: %w", node, err)
		}
		all = append(all, rep)
	}
	return r.Merge(all), nil
}

// reportWithin is how long the reports of other nodes are waited for.
const reportWithin = 3 * time.Second

// changing makes a change of the catalog: one at a time in the whole cluster, on the newest catalog; when it is made all
// nodes follow it.
func (n *Node) changing(ctx context.Context, what string, f func() error) error {
	if n.members != nil {
		release, err := n.lockCluster(ctx, what)
		if err != nil {
			return api.Errorf(api.ErrUnavailable, "%s: %s", what, err)
		}
		defer release()
	}
	n.change.Lock()
	defer n.change.Unlock()
	if err := n.refresh(ctx); err != nil {
		return err
	}
	err := f()
	if serr := n.spread(context.WithoutCancel(ctx)); serr != nil {
		n.log.Warn("not all nodes have followed a change yet", "change", what, "error", serr)
	}
	return err
}

// lockWithin is how long another node's change is waited for.
const lockWithin = time.Minute

// lockCluster takes the lock of changes. It is taken before n.change, never behind it: who has it calls the other nodes, and
// what they do then needs their n.change.
func (n *Node) lockCluster(ctx context.Context, what string) (release func(), err error) {
	limit, cancel := context.WithTimeout(ctx, lockWithin)
	defer cancel()
	for {
		release, err = n.members.c.Lock(limit, what)
		var held *cluster.HeldError
		if !errors.As(err, &held) {
			return release, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-limit.Done():
			return nil, err
		}
	}
}

// spreadWithin is how long nodes are waited for that follow a change; they follow it all the same.
const spreadWithin = 30 * time.Second

// spread waits until all live nodes have followed the catalog.
func (n *Node) spread(ctx context.Context) error {
	if n.members == nil {
		return nil
	}
	limit, cancel := context.WithTimeout(ctx, spreadWithin)
	defer cancel()
	n.mu.Lock()
	at := n.catalog.sequence
	n.mu.Unlock()
	_, err := n.members.each(limit, refreshMethod, nodeCall{Catalog: at})
	return err
}

// gather brings all partitions of a flow to this node, so that what concerns all of them is done as on one node. The
// returned function lets them go again. The caller holds n.change, by changing.
func (n *Node) gather(ctx context.Context, flow string) (scatter func(), err error) {
	m := n.members
	if m == nil {
		return func() {}, nil
	}
	m.mu.Lock()
	if m.gathered[flow] == gatheredHere {
		m.mu.Unlock()
		return func() {}, nil // by who called us
	}
	m.gathered[flow] = preparing
	groups := len(m.view.Roles)
	m.mu.Unlock()
	scatter = func() { n.scatter(context.WithoutCancel(ctx), flow) }
	defer func() {
		if err != nil {
			scatter()
		}
	}()
	n.system.Place(m.role)
	begin := time.Now()
	for _, name := range []string{flow, shadowName(flow)} {
		for r := n.system.Flow(name); r != nil; {
			ok, err := r.Caught(ctx, func(stage string, number int) bool { return groups > 0 })
			if err != nil {
				return nil, fmt.Errorf("flow %s: gather its state: %w", flow, err)
			}
			if ok {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return nil, fmt.Errorf("flow %s: gather its state: %w", flow, ctx.Err())
			}
		}
	}
	self := m.c.Self()
	if _, err := m.each(ctx, yieldMethod, nodeCall{Flow: flow, Node: self.Node, Incarnation: self.Incarnation}); err != nil {
		return nil, fmt.Errorf("flow %s: gather its partitions: %w", flow, err)
	}
	m.mu.Lock()
	m.gathered[flow] = gatheredHere
	m.mu.Unlock()
	n.system.Place(m.role)
	if err := n.system.Placed(ctx, false); err != nil {
		return nil, fmt.Errorf("flow %s: gather its partitions: %w", flow, err)
	}
	n.log.Info("a flow is gathered for a change", "flow", flow, "took", time.Since(begin).Round(time.Millisecond).String())
	return scatter, nil
}

// scatter lets a flow's partitions go to where they are placed.
func (n *Node) scatter(ctx context.Context, flow string) {
	m := n.members
	limit, cancel := context.WithTimeout(ctx, spreadWithin)
	defer cancel()
	m.mu.Lock()
	delete(m.gathered, flow)
	m.mu.Unlock()
	n.system.Place(m.role)
	if err := n.system.Placed(limit, true); err != nil {
		n.log.Warn("a gathered flow's partitions are not all closed yet", "flow", flow, "error", err)
	}
	n.mu.Lock()
	at := n.catalog.sequence
	n.mu.Unlock()
	if _, err := m.each(limit, resumeMethod, nodeCall{Flow: flow, Catalog: at}); err != nil {
		n.log.Warn("not all nodes have taken a flow's partitions back yet", "flow", flow, "error", err)
	}
}

// catalogUpTo returns when this node has followed the catalog at least up to a sequence.
func (n *Node) catalogUpTo(ctx context.Context, sequence uint64) error {
	n.change.Lock() // before the look: while a catalog is followed it is the node's already
	defer n.change.Unlock()
	if n.catalog == nil || n.catalog.sequence >= sequence {
		return nil // or it has not started yet: then it reads the newest one
	}
	return n.refresh(ctx)
}

// refresh reads the catalog and follows it, where another node has written it. The caller holds n.change.
func (n *Node) refresh(ctx context.Context) error {
	if n.members == nil {
		return nil
	}
	c, err := loadCatalog(ctx, n.streams)
	if err != nil {
		return err
	}
	n.mu.Lock()
	at := n.catalog.sequence
	n.mu.Unlock()
	if c.sequence <= at {
		return nil
	}
	return n.adopt(ctx, c)
}

// followCatalog follows what other nodes change, until ctx ends.
func (n *Node) followCatalog(ctx context.Context) {
	for ctx.Err() == nil {
		if err := n.followCatalogOnce(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("the catalog is read again", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (n *Node) followCatalogOnce(ctx context.Context) error {
	n.mu.Lock()
	at := n.catalog.sequence
	n.mu.Unlock()
	r, err := n.streams.Read(ctx, catalogStream, transport.ReadOptions{From: at + 1, Holes: true, HeadersOnly: true})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		ms, err := r.Next(ctx, 100)
		if err != nil || len(ms) == 0 {
			return err
		}
		if err := n.catalogUpTo(ctx, ms[len(ms)-1].Sequence); err != nil {
			return err
		}
	}
}

// adopt makes what runs here what a catalog says that another node has written. The caller holds n.change.
func (n *Node) adopt(ctx context.Context, c *catalog) error {
	set, err := setOf(c.Definitions)
	if err != nil {
		return err
	}
	n.mu.Lock()
	old := n.catalog
	n.catalog, n.set = c, set
	n.lastSaved = fingerprint(c.Definitions)
	n.mu.Unlock()
	names := slices.Sorted(maps.Keys(old.Flows))
	for _, name := range slices.Sorted(maps.Keys(c.Flows)) {
		if old.Flows[name] == nil {
			names = append(names, name)
		}
	}
	for _, name := range names {
		n.adoptFlow(ctx, name, old.Flows[name], c.Flows[name])
	}
	for _, flow := range slices.Sorted(maps.Keys(old.Shadows)) {
		if c.Shadows[flow] == nil || !c.Shadows[flow].StartedAt.Equal(old.Shadows[flow].StartedAt) {
			if err := n.leaveFlow(ctx, shadowName(flow), true); err != nil {
				n.log.Warn("a shadow has not ended here", "flow", flow, "error", err)
			}
		}
	}
	n.startShadows(ctx)
	return nil
}

func (n *Node) adoptFlow(ctx context.Context, name string, before, now *flowEntry) {
	running := n.system.Flow(name)
	wanted := now != nil && !now.Paused && len(now.Documents) > 0
	if wanted {
		if set, err := setOf(now.Documents); err == nil {
			def := flowNamed(set, name)
			wanted = def != nil && def.Enabled
		}
	}
	same := before != nil && now != nil && before.Revision == now.Revision && before.UpdatedAt.Equal(now.UpdatedAt)
	if running != nil && (!wanted || !same) {
		if err := n.leaveFlow(ctx, name, now == nil); err != nil {
			n.problem(name, err)
			return
		}
		running = nil
		if n.system.Flow(shadowName(name)) != nil && !wanted {
			if err := n.leaveFlow(ctx, shadowName(name), now == nil); err != nil {
				n.log.Warn("a shadow has not stopped here", "flow", name, "error", err)
			}
		}
	}
	if now == nil {
		n.mu.Lock()
		delete(n.problems, name)
		n.mu.Unlock()
	}
	if running == nil && wanted {
		if err := n.startEntry(ctx, name, now); err != nil {
			n.problem(name, err)
			return
		}
		n.log.Info("flow runs here, too", "flow", name, "revision", now.Revision)
	}
}

// leaveFlow stops a flow on this node; of one that is gone its stores go, too.
func (n *Node) leaveFlow(ctx context.Context, name string, gone bool) error {
	if r := n.system.Flow(name); r != nil {
		if err := r.Stop(ctx); err != nil {
			return err
		}
	}
	if !gone {
		return nil
	}
	return n.dropStores(name)
}

// Cluster implements api.Backend.
func (n *Node) Cluster(context.Context) (api.Cluster, error) {
	m := n.members
	if m == nil {
		return api.Cluster{}, api.Errorf(api.ErrConflict, "this node is not part of a cluster; start kisnode with --cluster-name, --node and --join")
	}
	t := m.c.Table()
	out := api.Cluster{Name: n.opt.ClusterName, Node: n.opt.NodeName, Table: t.Number, Groups: len(t.Groups), Replicas: n.opt.Replicas, Nodes: []api.ClusterNode{}, Moves: []api.Move{}}
	owns, standby := make(map[string]int), make(map[string]int)
	for g, group := range t.Groups {
		owns[group.Owner]++
		for _, s := range group.Standbys {
			standby[s]++
		}
		if group.Next != "" {
			out.Moves = append(out.Moves, api.Move{Group: g, From: group.Owner, To: group.Next, Ready: group.Ready})
		}
	}
	out.Unowned = owns[""]
	for _, one := range m.c.Members() {
		host, _, _ := net.SplitHostPort(one.Address)
		out.Nodes = append(out.Nodes, api.ClusterNode{Name: one.Node, Host: host, API: one.API, Version: one.Version, StartedAt: one.Started,
			Alive: one.Alive, Draining: one.Draining, SilentSeconds: one.Seen.Seconds(), Owns: owns[one.Node], Standby: standby[one.Node]})
	}
	return out, nil
}

// ClusterPartitions implements api.Backend.
func (n *Node) ClusterPartitions(ctx context.Context, flow string, page api.Page) (api.List[api.ClusterPartition], error) {
	var all []api.ClusterPartition
	if flow != "" {
		if _, err := n.running(flow); err != nil {
			return api.List[api.ClusterPartition]{}, err
		}
	}
	for _, r := range n.system.Running() {
		if flow != "" && r.Name() != flow {
			continue
		}
		rep, err := n.report(ctx, r)
		if err != nil {
			return api.List[api.ClusterPartition]{}, err
		}
		copies := make(map[string][]api.ClusterCopy)
		for _, c := range rep.Copies {
			copies[c.Partition] = append(copies[c.Partition], api.ClusterCopy{Node: c.Node, Sequence: c.Sequence, Behind: c.Behind})
		}
		for _, p := range rep.Partitions {
			out := api.ClusterPartition{Name: p.Name, Node: p.Node, State: p.State, Epoch: p.Epoch, Commits: p.Commits, Copies: copies[p.Name]}
			if out.Copies == nil {
				out.Copies = []api.ClusterCopy{}
			}
			if p.Reason != nil {
				out.Reason = p.Reason.Error()
			}
			if p.State == "recovering" {
				out.Recovered, out.Of = p.Recovered, p.Of
			}
			all = append(all, out)
		}
	}
	return paged(all, func(p api.ClusterPartition) string { return p.Name }, page), nil
}

// DrainNode implements api.Backend.
func (n *Node) DrainNode(ctx context.Context, node string, on bool) (api.Cluster, error) {
	if n.members == nil {
		return n.Cluster(ctx)
	}
	if err := n.members.c.Drain(ctx, node, on); err != nil {
		if errors.Is(err, cluster.ErrNoMember) {
			return api.Cluster{}, api.Errorf(api.ErrNotFound, "%s", err)
		}
		return api.Cluster{}, err
	}
	return n.Cluster(ctx)
}

// leftEvery is how often a node looks for removals that the one that began them has not finished.
const leftEvery = 15 * time.Second

// finishLeft removes, now and then, what changes have made of no use and whoever made them has not removed: that node is
// gone, or the flow did not run. One node does it for all.
func (n *Node) finishLeft(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(leftEvery):
		}
		if !n.members.first() {
			continue
		}
		for _, name := range n.withRemovals() {
			if err := n.changing(ctx, "removals of flow "+name, func() error { return n.finishLeftOf(ctx, name) }); err != nil && ctx.Err() == nil {
				n.log.Warn("what is of no use any more is still there", "flow", name, "error", err)
			}
		}
	}
}

// withRemovals are the flows that run and have something to be removed.
func (n *Node) withRemovals() (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, e := range n.catalog.Flows {
		if len(e.Removing) > 0 && n.system.Flow(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (n *Node) finishLeftOf(ctx context.Context, name string) error {
	n.mu.Lock()
	e := n.catalog.Flows[name]
	n.mu.Unlock()
	running := n.system.Flow(name)
	if e == nil || len(e.Removing) == 0 || running == nil {
		return nil
	}
	scatter, err := n.gather(ctx, name)
	if err != nil {
		return err
	}
	defer scatter()
	return n.finishRemovals(ctx, name, e, running)
}

// first tells whether this node is the one that does what one node does for all.
func (m *membership) first() bool {
	for _, one := range m.others() {
		if one.Node < m.n.opt.NodeName {
			return false
		}
	}
	return true
}

// outcast tells when another process has taken this node's name.
func (n *Node) outcast() <-chan struct{} {
	if n.members == nil {
		return nil
	}
	return n.members.c.Done()
}
