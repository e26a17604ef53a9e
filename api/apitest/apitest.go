// Package apitest is a node for tests of the API and of kisctl: an api.Backend that holds a small, fixed
// example in memory, two flows with states and dead letters, and behaves as a node does. Only tests import it.
package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/api"
)

// Start is when the example's node started and everything in it happened.
var Start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Backend is a node in memory.
type Backend struct {
	mu        sync.Mutex
	nats      api.NATS
	fail      func(ctx context.Context, method string) error
	revision  uint64
	flows     map[string]*api.Flow
	functions []api.Function
	conns     []api.Connector
	files     map[string]string // kind/name of applied definitions: text
	states    []api.StateEntry
	letters   []api.DeadLetter
	published []api.Publication
	shadows   map[string]*api.Shadow
	draining  []string // nodes
}

var _ api.Backend = (*Backend)(nil)

// New returns a node with the example in it.
func New() *Backend {
	b := &Backend{
		nats:     api.NATS{URL: "nats://127.0.0.1:4222", Embedded: true, Connected: true, Version: "2.15.2"},
		revision: 3,
		flows:    map[string]*api.Flow{},
		files:    map[string]string{},
	}
	orders := &api.Flow{
		FlowSummary: api.FlowSummary{
			Name: "OrderTotals", State: api.StateRunning, Steps: 3, Revision: 3, UpdatedAt: Start,
			EventsIn: 1000, EventsOut: 990, Lag: 10, DeadLetters: 3,
		},
		File:   "orders.yaml",
		Source: "kistype: flow\nstatus: 1\nflow_name: OrderTotals\n",
		Inputs: []api.Lag{{
			Flow: "OrderTotals", Step: "VerifyOrder", Kind: "entry", Subject: "orders.>", Stream: "KIS_orders", State: api.StateRunning,
			Newest: 1010, Committed: 1000, Lag: 10, AgeSeconds: 1.5, Partitions: 8,
		}},
		Stages: []api.Stage{{Name: "1", Must: []string{"userid"}, Steps: []string{"VerifyOrder", "totals", "EmitTotals"},
			Partitions: []api.Partition{{Name: "OrderTotals/1/0", State: api.StateRunning, Epoch: 2, Commits: 41}}}},
		StepList: []api.Step{
			{Name: "VerifyOrder", Function: "VerifyOrder", Mode: "Verify", Must: []string{"userid"}, Stage: "1", Rows: 1000, Errors: 10, DeadLetters: 3},
			{Name: "totals", Function: "UserTotals", Mode: "Calculate", Must: []string{"userid"}, Stage: "1",
				Params: map[string]string{"currency": "EUR"}, Stateful: true, Rows: 990},
			{Name: "EmitTotals", Function: "EmitTotals", Mode: "Expand", Stage: "1", Rows: 990},
		},
		Outputs:    []api.Output{{Step: "EmitTotals", Kind: "subject", Target: "totals.user", Stream: "KIS_totals", Guarantee: "exactly once"}},
		StateKeys:  3,
		StateBytes: 120,
	}
	chinese := &api.Flow{
		FlowSummary: api.FlowSummary{
			Name: "用户订单", State: api.StatePaused, Steps: 1, Revision: 2, UpdatedAt: Start, EventsIn: 7, EventsOut: 7,
		},
		File:           "用户.yaml",
		Source:         "kistype: flow\nstatus: 1\nflow_name: 用户订单\n",
		Inputs:         []api.Lag{{Flow: "用户订单", Step: "打印", Kind: "entry", Subject: "yonghu", Stream: "KIS_yonghu", State: api.StatePaused, Newest: 7, Committed: 7, Partitions: 8}},
		StepList:       []api.Step{{Name: "打印", Function: "测试PrintInput", Mode: "Verify", Must: []string{"userid"}, Stage: "1", Rows: 7}},
		PublishSubject: "yonghu",
		Warnings:       []string{"flow 用户订单 has no output"},
	}
	b.flows[orders.Name], b.flows[chinese.Name] = orders, chinese
	b.functions = []api.Function{
		{Name: "EmitTotals", Mode: "Expand", Implementation: "yaml", UsedBy: []string{"OrderTotals"}, File: "orders.yaml"},
		{Name: "UserTotals", Mode: "Calculate", Must: []string{"userid"}, Implementation: "yaml", UsedBy: []string{"OrderTotals"}, File: "orders.yaml"},
		{Name: "VerifyOrder", Mode: "Verify", Must: []string{"userid"}, Implementation: "yaml", UsedBy: []string{"OrderTotals"}, File: "orders.yaml"},
		{Name: "测试PrintInput", Mode: "Verify", Must: []string{"userid"}, Implementation: "go", UsedBy: []string{"用户订单"}, File: "用户.yaml"},
	}
	b.conns = []api.Connector{{Name: "测试KisConnector_1", Type: "redis", Addrs: "0.0.0.0:9988,0.0.0.0:9999", Key: "userid_orderid_option",
		Params: map[string]string{"password": "xxxxx"}, UsedBy: []string{"测试KisFunction_S1"}, File: "conn.yaml"}}
	for i, total := range []int{300, 120, 7} {
		b.states = append(b.states, api.StateEntry{
			Flow: "OrderTotals", Step: "totals",
			Key:      json.RawMessage(fmt.Sprintf(`{"userid":%d}`, i+1)),
			State:    json.RawMessage(fmt.Sprintf(`{"count":%d,"total":%d}`, i+1, total)),
			Revision: 3, Sequence: uint64(100 + i), UpdatedAt: Start,
		})
	}
	for i := range 3 {
		l := api.DeadLetter{
			ID: fmt.Sprintf("0-VerifyOrder-%d", i+1), Flow: "OrderTotals", Step: "VerifyOrder", Function: "VerifyOrder", Revision: 3,
			Reason: "amount must be above zero", Stream: "KIS_orders", Subject: "orders.eu", Sequence: uint64(50 + i), EventTime: Start,
			Time: Start, Attempts: 1, Data: []byte(fmt.Sprintf(`{"userid":%d,"amount":-1}`, i+1)),
		}
		if i == 2 {
			l.Reason, l.Malformed, l.Data = "offset 1: expected a field name", true, []byte("{bad \xff")
		}
		l.Size = len(l.Data)
		b.letters = append(b.letters, l)
	}
	return b
}

// Fail has f called with each method's name, from now on; an error is returned in place of an answer.
func (b *Backend) Fail(f func(ctx context.Context, method string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = f
}

// SetNATS changes the NATS that Status names.
func (b *Backend) SetNATS(n api.NATS) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nats = n
}

// Published returns what was published so far.
func (b *Backend) Published() []api.Publication {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.published)
}

func (b *Backend) begin(ctx context.Context, method string) (unlock func(), err error) {
	b.mu.Lock()
	fail := b.fail
	b.mu.Unlock()
	if fail != nil { // without the lock: it may wait
		if err := fail(ctx, method); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	return b.mu.Unlock, nil
}

// page cuts a page out of all; the token is the index of the next item.
func page[T any](all []T, p api.Page) (api.List[T], error) {
	from := 0
	if p.After != "" {
		n, err := strconv.Atoi(p.After)
		if err != nil || n < 0 {
			return api.List[T]{}, api.Errorf(api.ErrInvalid, "after is %q; it must be the next of a list", p.After)
		}
		from = min(n, len(all))
	}
	to := min(from+p.Limit, len(all))
	l := api.List[T]{Items: slices.Clone(all[from:to])}
	if to < len(all) {
		l.Next = strconv.Itoa(to)
	}
	return l, nil
}

func (b *Backend) names() []string {
	var names []string
	for name := range b.flows {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (b *Backend) flow(name string) (*api.Flow, error) {
	if f := b.flows[name]; f != nil {
		return f, nil
	}
	return nil, api.Errorf(api.ErrNotFound, "no flow %q; there are %s", name, strings.Join(b.names(), ", "))
}

// Status implements api.Backend.
func (b *Backend) Status(ctx context.Context) (api.Status, error) {
	unlock, err := b.begin(ctx, "Status")
	if err != nil {
		return api.Status{}, err
	}
	defer unlock()
	return api.Status{
		Node: "node-1", Version: "v0.1.0", StartedAt: Start, Ready: true, Phase: "running", Durability: "process", DataDir: "/var/lib/kisflow",
		NATS: b.nats, Recovery: api.Recovery{Partitions: 16, Done: 16, Records: 12, Seconds: 0.25},
		Flows: len(b.flows), Running: 1, Paused: 1, Partitions: 16, EventsIn: 1007, EventsOut: 997,
		DeadLetters: uint64(len(b.letters)), Lag: 10, StateKeys: 3, StateBytes: 120, LiveActors: 3,
	}, nil
}

// Doctor implements api.Backend.
func (b *Backend) Doctor(ctx context.Context) (api.Report, error) {
	unlock, err := b.begin(ctx, "Doctor")
	if err != nil {
		return api.Report{}, err
	}
	defer unlock()
	r := api.Report{OK: b.nats.Connected, Checks: []api.Check{{Name: "disk", Result: api.ResultOK, Detail: "91 GiB free"}}}
	if r.OK {
		r.Checks = append(r.Checks, api.Check{Name: "nats", Result: api.ResultOK, Detail: "2.15.2, embedded"})
	} else {
		r.Checks = append(r.Checks, api.Check{Name: "nats", Result: api.ResultFailed, Detail: "not connected", Hint: "start the NATS server"})
	}
	return r, nil
}

// Flows implements api.Backend.
func (b *Backend) Flows(ctx context.Context, p api.Page) (api.List[api.FlowSummary], error) {
	unlock, err := b.begin(ctx, "Flows")
	if err != nil {
		return api.List[api.FlowSummary]{}, err
	}
	defer unlock()
	var all []api.FlowSummary
	for _, name := range b.names() {
		all = append(all, b.flows[name].FlowSummary)
	}
	return page(all, p)
}

// Functions implements api.Backend.
func (b *Backend) Functions(ctx context.Context, p api.Page) (api.List[api.Function], error) {
	unlock, err := b.begin(ctx, "Functions")
	if err != nil {
		return api.List[api.Function]{}, err
	}
	defer unlock()
	return page(b.functions, p)
}

// Connectors implements api.Backend.
func (b *Backend) Connectors(ctx context.Context, p api.Page) (api.List[api.Connector], error) {
	unlock, err := b.begin(ctx, "Connectors")
	if err != nil {
		return api.List[api.Connector]{}, err
	}
	defer unlock()
	return page(b.conns, p)
}

// TestConnector implements api.Backend: each connector that there is is out of reach.
func (b *Backend) TestConnector(ctx context.Context, name string) (api.Check, error) {
	unlock, err := b.begin(ctx, "TestConnector")
	if err != nil {
		return api.Check{}, err
	}
	defer unlock()
	for _, c := range b.conns {
		if c.Name == name {
			return api.Check{Name: name, Result: api.ResultFailed, Detail: "dial tcp " + c.Addrs + ": connection refused"}, nil
		}
	}
	return api.Check{}, api.Errorf(api.ErrNotFound, "no connector %q", name)
}

// Flow implements api.Backend.
func (b *Backend) Flow(ctx context.Context, name string) (api.Flow, error) {
	unlock, err := b.begin(ctx, "Flow")
	if err != nil {
		return api.Flow{}, err
	}
	defer unlock()
	f, err := b.flow(name)
	if err != nil {
		return api.Flow{}, err
	}
	return *f, nil
}

// plan knows of a file only its line "flow_name: NAME", and takes a line with "mistake" for one.
func (b *Backend) plan(files []api.File) api.Plan {
	h := sha256.New()
	fmt.Fprintln(h, b.revision)
	p := api.Plan{Revision: b.revision}
	for _, f := range files {
		fmt.Fprintln(h, f.Name, f.Text)
		name, drops := "", []string(nil)
		for i, line := range strings.Split(f.Text, "\n") {
			if v, ok := strings.CutPrefix(line, "flow_name: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "# drop "); ok {
				drops = append(drops, v)
			}
			if column := strings.Index(line, "mistake"); column >= 0 {
				p.Mistakes = append(p.Mistakes, api.Mistake{File: f.Name, Line: i + 1, Column: column + 1, Severity: api.SeverityError,
					Code: "KF1001", Message: "unknown key \"mistake\"", Hint: "did you mean \"must\"?", Source: line})
			}
		}
		old, known := b.files["flow/"+name]
		if name != "" && old != f.Text {
			fp := api.FlowPlan{Flow: name, Action: "added", To: 1}
			if was := b.flows[name]; was != nil {
				fp.Action, fp.From, fp.To = "changed", was.Revision, was.Revision+1
			}
			for i, d := range drops {
				fp.Steps = append(fp.Steps, api.StepPlan{Step: d, Function: "UserTotals", Action: "removed", From: i + 1, State: api.StateIsDropped, Keys: 3})
			}
			p.Flows = append(p.Flows, fp)
		}
		switch {
		case name == "" || known && old == f.Text:
			continue
		case known:
			p.Changes = append(p.Changes, api.Change{Kind: "flow", Name: name, Action: "changed", Diff: "-status: 0\n+status: 1\n",
				Notes: []string{"its state is kept"}})
		default:
			p.Changes = append(p.Changes, api.Change{Kind: "flow", Name: name, Action: "added", Diff: "+" + strings.ReplaceAll(strings.TrimSuffix(f.Text, "\n"), "\n", "\n+") + "\n"})
		}
	}
	if len(p.Changes) > 0 {
		p.Revision++
	}
	p.ID = fmt.Sprintf("%x", h.Sum(nil)[:8])
	return p
}

// Plan implements api.Backend.
func (b *Backend) Plan(ctx context.Context, files []api.File) (api.Plan, error) {
	unlock, err := b.begin(ctx, "Plan")
	if err != nil {
		return api.Plan{}, err
	}
	defer unlock()
	return b.plan(files), nil
}

// Apply implements api.Backend.
func (b *Backend) Apply(ctx context.Context, files []api.File, ok api.Approval) (api.Plan, error) {
	unlock, err := b.begin(ctx, "Apply")
	if err != nil {
		return api.Plan{}, err
	}
	defer unlock()
	return b.apply(files, ok)
}

// apply asks for the word where a definition has a line with "drop NAME".
func (b *Backend) apply(files []api.File, ok api.Approval) (api.Plan, error) {
	p := b.plan(files)
	if len(p.Mistakes) > 0 {
		return api.Plan{}, api.Invalid(p.Mistakes)
	}
	if ok.Plan != "" && ok.Plan != p.ID {
		return api.Plan{}, api.Errorf(api.ErrConflict, "the definitions have changed since the diff was made; look at it again")
	}
	for _, f := range p.Flows {
		for _, s := range f.Steps {
			if name := api.DropName(f.Flow, s.Step); s.State == api.StateIsDropped && !slices.Contains(ok.DropState, name) {
				return api.Plan{}, api.Errorf(api.ErrConflict, "the change drops the state of step %q of flow %q; name it to say that it may", s.Step, f.Flow)
			}
		}
	}
	b.revision = p.Revision
	for _, f := range files {
		for _, c := range p.Changes {
			if strings.Contains(f.Text, "flow_name: "+c.Name+"\n") {
				b.files["flow/"+c.Name] = f.Text
				b.flows[c.Name] = &api.Flow{File: f.Name, Source: f.Text, FlowSummary: api.FlowSummary{
					Name: c.Name, State: api.StateRunning, Revision: b.next(c.Name), UpdatedAt: Start}}
			}
		}
	}
	return p, nil
}

// next is the revision of a flow after a change.
func (b *Backend) next(flow string) uint64 {
	if f := b.flows[flow]; f != nil {
		return f.Revision + 1
	}
	return 1
}

// SetFlow implements api.Backend.
func (b *Backend) SetFlow(ctx context.Context, name string, action api.Action) (api.FlowSummary, error) {
	unlock, err := b.begin(ctx, "SetFlow")
	if err != nil {
		return api.FlowSummary{}, err
	}
	defer unlock()
	f, err := b.flow(name)
	if err != nil {
		return api.FlowSummary{}, err
	}
	switch action {
	case api.ActionPause:
		f.State = api.StatePaused
	case api.ActionResume, api.ActionResumeBeginning, api.ActionResumeNow:
		f.State = api.StateRunning
	case api.ActionDelete:
		f.State = api.StateDeleted
		delete(b.flows, name)
	default:
		return api.FlowSummary{}, api.Errorf(api.ErrInvalid, "unknown action %q", action)
	}
	return f.FlowSummary, nil
}

// Lag implements api.Backend.
func (b *Backend) Lag(ctx context.Context, flow string, p api.Page) (api.List[api.Lag], error) {
	unlock, err := b.begin(ctx, "Lag")
	if err != nil {
		return api.List[api.Lag]{}, err
	}
	defer unlock()
	if flow != "" {
		f, err := b.flow(flow)
		if err != nil {
			return api.List[api.Lag]{}, err
		}
		return page(f.Inputs, p)
	}
	var all []api.Lag
	for _, name := range b.names() {
		all = append(all, b.flows[name].Inputs...)
	}
	return page(all, p)
}

// step finds a stateful step.
func (b *Backend) step(flow, step string) error {
	f, err := b.flow(flow)
	if err != nil {
		return err
	}
	for _, s := range f.StepList {
		if s.Name == step && s.Stateful {
			return nil
		}
		if s.Name == step {
			return api.Errorf(api.ErrNotFound, "step %q of flow %q keeps no state", step, flow)
		}
	}
	return api.Errorf(api.ErrNotFound, "flow %q has no step %q", flow, step)
}

// State implements api.Backend.
func (b *Backend) State(ctx context.Context, flow, step string, key []string, _ api.Read) (api.StateEntry, error) {
	unlock, err := b.begin(ctx, "State")
	if err != nil {
		return api.StateEntry{}, err
	}
	defer unlock()
	if err := b.step(flow, step); err != nil {
		return api.StateEntry{}, err
	}
	id, ok := strings.CutPrefix(key[0], "userid=")
	if !ok || len(key) != 1 {
		return api.StateEntry{}, api.Errorf(api.ErrInvalid, "key %q: the key of step %q is userid=VALUE", strings.Join(key, " "), step)
	}
	for _, e := range b.states {
		if string(e.Key) == `{"userid":`+id+`}` {
			return e, nil
		}
	}
	return api.StateEntry{}, api.Errorf(api.ErrNoState, "no state for userid=%s in step %q of flow %q", id, step, flow)
}

// States implements api.Backend.
func (b *Backend) States(ctx context.Context, flow, step, prefix string, p api.Page) (api.List[api.StateEntry], error) {
	unlock, err := b.begin(ctx, "States")
	if err != nil {
		return api.List[api.StateEntry]{}, err
	}
	defer unlock()
	if err := b.step(flow, step); err != nil {
		return api.List[api.StateEntry]{}, err
	}
	var all []api.StateEntry
	for _, e := range b.states {
		text := "userid=" + strings.TrimSuffix(strings.TrimPrefix(string(e.Key), `{"userid":`), "}")
		if strings.HasPrefix(text, prefix) {
			all = append(all, e)
		}
	}
	return page(all, p)
}

// DeadLetters implements api.Backend.
func (b *Backend) DeadLetters(ctx context.Context, flow string, filter api.DeadLetterFilter, p api.Page) (api.List[api.DeadLetter], error) {
	unlock, err := b.begin(ctx, "DeadLetters")
	if err != nil {
		return api.List[api.DeadLetter]{}, err
	}
	defer unlock()
	if _, err := b.flow(flow); err != nil {
		return api.List[api.DeadLetter]{}, err
	}
	var l api.List[api.DeadLetter]
	for _, d := range b.letters { // the token is the ID of the last one, for letters vanish between pages
		if d.Flow != flow || d.ID <= p.After || filter.Step != "" && d.Step != filter.Step || !strings.Contains(d.Reason, filter.Reason) {
			continue
		}
		if len(l.Items) == p.Limit {
			l.Next = l.Items[len(l.Items)-1].ID
			break
		}
		d.Data, d.Stack = nil, ""
		l.Items = append(l.Items, d)
	}
	return l, nil
}

// DeadLetter implements api.Backend.
func (b *Backend) DeadLetter(ctx context.Context, flow, id string) (api.DeadLetter, error) {
	unlock, err := b.begin(ctx, "DeadLetter")
	if err != nil {
		return api.DeadLetter{}, err
	}
	defer unlock()
	if _, err := b.flow(flow); err != nil {
		return api.DeadLetter{}, err
	}
	for _, l := range b.letters {
		if l.Flow == flow && l.ID == id {
			return l, nil
		}
	}
	return api.DeadLetter{}, api.Errorf(api.ErrNotFound, "flow %q has no dead letter %q", flow, id)
}

// RetryDeadLetters implements api.Backend: malformed ones are left, the others succeed.
func (b *Backend) RetryDeadLetters(ctx context.Context, flow string, ids []string) (api.Resolved, error) {
	return b.resolve(ctx, "RetryDeadLetters", flow, ids, func(l api.DeadLetter) string {
		if l.Malformed {
			return "dead letter " + l.ID + " is no JSON object"
		}
		return ""
	})
}

// DropDeadLetters implements api.Backend.
func (b *Backend) DropDeadLetters(ctx context.Context, flow string, ids []string) (api.Resolved, error) {
	return b.resolve(ctx, "DropDeadLetters", flow, ids, func(api.DeadLetter) string { return "" })
}

func (b *Backend) resolve(ctx context.Context, method, flow string, ids []string, refused func(api.DeadLetter) string) (api.Resolved, error) {
	unlock, err := b.begin(ctx, method)
	if err != nil {
		return api.Resolved{}, err
	}
	defer unlock()
	if _, err := b.flow(flow); err != nil {
		return api.Resolved{}, err
	}
	var r api.Resolved
	for _, id := range ids {
		i := slices.IndexFunc(b.letters, func(l api.DeadLetter) bool { return l.Flow == flow && l.ID == id })
		if i < 0 {
			r.Missing = append(r.Missing, id)
			continue
		}
		if reason := refused(b.letters[i]); reason != "" {
			r.Left = append(r.Left, reason)
			continue
		}
		r.Done++
		b.letters = slices.Delete(b.letters, i, i+1)
	}
	return r, nil
}

// Publish implements api.Backend: it keeps what it gets, for Published.
func (b *Backend) Publish(ctx context.Context, p api.Publication) (api.Published, error) {
	unlock, err := b.begin(ctx, "Publish")
	if err != nil {
		return api.Published{}, err
	}
	defer unlock()
	if p.Flow != "" {
		if _, err := b.flow(p.Flow); err != nil {
			return api.Published{}, err
		}
	}
	b.published = append(b.published, p)
	total := 0
	for _, q := range b.published {
		total += len(q.Messages)
	}
	return api.Published{Stream: "KIS_in", Stored: len(p.Messages), Sequence: uint64(total)}, nil
}
