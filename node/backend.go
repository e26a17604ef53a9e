package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// scrapeContext bounds what a look at the whole node may take.
func scrapeContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 5*time.Second)
}

// redactURL removes user and password.
func redactURL(s string) string {
	var out []string
	for _, one := range strings.Split(s, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil && u.User != nil {
			u.User = url.User("redacted")
			one = u.String()
		}
		out = append(out, one)
	}
	return strings.Join(out, ",")
}

// Status implements api.Backend.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	n.mu.Lock()
	s := api.Status{
		Node: owner(), Version: Version, StartedAt: n.started, Phase: n.phase.Load().(string),
		Durability: n.opt.Durability, DataDir: n.opt.Data, Flows: len(n.set.Flows),
		NATS:     api.NATS{URL: n.natsURL(), Embedded: n.server != nil, Connected: n.conn.Connected(), Version: n.conn.Version()},
		Problems: []string{},
	}
	for name, why := range n.problems {
		s.Problems = append(s.Problems, "flow "+name+": "+why)
	}
	for _, f := range n.set.Flows {
		e := n.catalog.Flows[f.Name]
		switch {
		case !f.Enabled:
			s.Disabled++
		case e != nil && e.Paused:
			s.Paused++
		case n.problems[f.Name] != "":
			s.Stopped++
		}
	}
	for _, why := range n.warnings {
		s.Problems = append(s.Problems, why)
	}
	n.mu.Unlock()
	slices.Sort(s.Problems)
	s.Ready = n.notReady() == ""
	s.Recovery.Seconds = time.Since(n.started).Seconds()
	if at := n.recovered.Load(); at != nil {
		s.Recovery.Seconds = at.Sub(n.started).Seconds()
	}
	for _, r := range n.system.Running() {
		ready, all, read, _ := r.Progress()
		s.Recovery.Done += ready
		s.Recovery.Partitions += all
		s.Recovery.Records += read
		s.Partitions += all
		rep, err := n.report(ctx, r)
		for _, p := range rep.Partitions {
			s.StateKeys += uint64(max(0, p.StateKeys))
		}
		if isShadow(r.Name()) {
			continue // its flow is what counts
		}
		var f api.FlowSummary
		if err == nil {
			f, err = n.summaryOf(r.Name(), &rep)
		}
		if err != nil { // NATS is away, say: the rest of the status is worth having
			s.Problems = append(s.Problems, "flow "+r.Name()+": "+err.Error())
			s.Running++
			continue
		}
		if f.State == api.StateStopped {
			s.Stopped++
			s.Problems = append(s.Problems, "flow "+f.Name+": "+f.Reason)
		} else {
			s.Running++
			if f.Reason != "" {
				s.Problems = append(s.Problems, "flow "+f.Name+": "+f.Reason)
			}
		}
		s.EventsIn += f.EventsIn
		s.EventsOut += f.EventsOut
		s.DeadLetters += f.DeadLetters
		s.Lag += f.Lag
	}
	live, _ := n.meter.Instances()
	s.LiveActors = uint64(live)
	s.StateBytes = n.diskBytes()
	return s, nil
}

// summary tells how a flow is, on all nodes.
func (n *Node) summary(ctx context.Context, name string) (api.FlowSummary, error) {
	r := n.system.Flow(name)
	if r == nil {
		return n.summaryOf(name, nil)
	}
	rep, err := n.report(ctx, r)
	if err != nil {
		return api.FlowSummary{}, err
	}
	return n.summaryOf(name, &rep)
}

// summaryOf is summary with the report of a flow that runs; nil of one that does not.
func (n *Node) summaryOf(name string, rep *actors.Report) (api.FlowSummary, error) {
	n.mu.Lock()
	def, e, problem := flowNamed(n.set, name), n.catalog.Flows[name], n.problems[name]
	n.mu.Unlock()
	if def == nil {
		return api.FlowSummary{}, api.Errorf(api.ErrNotFound, "no flow %q; %s", name, n.flowNames())
	}
	f := api.FlowSummary{Name: name, Steps: len(def.Steps), State: api.StateStopped, Reason: problem}
	if e != nil {
		f.Revision, f.UpdatedAt = e.Revision, e.UpdatedAt
	}
	switch {
	case !def.Enabled:
		f.State = api.StateDisabled
	case e != nil && e.Paused:
		f.State = api.StatePaused
	case rep != nil && problem == "":
		f.State = api.StateRunning
	}
	if rep == nil {
		return f, nil
	}
	if rep.Ready < len(rep.Partitions) {
		f.State = api.StateRecovering
	}
	f.EventsIn = rep.Rows
	for _, s := range rep.Steps {
		f.EventsOut += s.Sent
	}
	for _, i := range rep.Inputs {
		f.Lag += i.Lag
		switch {
		case i.Reason == nil:
		case errors.Is(i.Reason, actors.ErrInput):
			f.State, f.Reason = api.StateStopped, i.Reason.Error()
		case f.Reason == "": // it is tried again
			f.Reason = "input " + i.Stream + ": " + i.Reason.Error()
		}
	}
	f.Lag += uint64(rep.Waiting)
	for _, p := range rep.Partitions {
		f.DeadLetters += p.DeadLetters
		switch {
		case p.Reason == nil:
		case p.State == "stopped":
			f.State, f.Reason = api.StateStopped, p.Reason.Error()
		case f.State != api.StateStopped:
			f.Reason = "partition " + p.Name + ": " + p.Reason.Error()
		}
	}
	return f, nil
}

func (n *Node) flowNames() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.set.Flows) == 0 {
		return "there is none"
	}
	var names []string
	for _, f := range n.set.Flows {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	if len(names) > 10 {
		names = append(names[:10], "...")
	}
	return "there is " + strings.Join(names, ", ")
}

// paged cuts a page out of a list in memory that is sorted by name.
func paged[T any](all []T, name func(T) string, page api.Page) api.List[T] {
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(name(a), name(b)) })
	if page.After != "" {
		if b, err := base64.RawURLEncoding.DecodeString(page.After); err == nil {
			after := string(b)
			all = slices.DeleteFunc(all, func(x T) bool { return name(x) <= after })
		}
	}
	l := api.List[T]{Items: all}
	if page.Limit > 0 && len(all) > page.Limit {
		l.Items = all[:page.Limit]
		l.Next = base64.RawURLEncoding.EncodeToString([]byte(name(l.Items[page.Limit-1])))
	}
	return l
}

// Flows implements api.Backend.
func (n *Node) Flows(ctx context.Context, page api.Page) (api.List[api.FlowSummary], error) {
	n.mu.Lock()
	var defs []*flowdef.Flow
	defs = append(defs, n.set.Flows...)
	n.mu.Unlock()
	l := paged(defs, func(f *flowdef.Flow) string { return f.Name }, page)
	out := api.List[api.FlowSummary]{Next: l.Next}
	for _, d := range l.Items {
		f, err := n.summary(ctx, d.Name)
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, f)
	}
	return out, nil
}

// Functions implements api.Backend.
func (n *Node) Functions(_ context.Context, page api.Page) (api.List[api.Function], error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []api.Function
	for _, fn := range n.set.Funcs {
		f := api.Function{Name: fn.Name, Mode: fn.Mode, Must: mustOf(fn), Connector: fn.Option.Conn.Value, File: fn.Pos.File, Implementation: "none", UsedBy: []string{}}
		switch {
		case n.planner.functions[fn.Name] != nil:
			f.Implementation = "go"
		case fn.Calculate != nil || fn.Join != nil || fn.Expand != nil || len(fn.Verify) > 0 || fn.Mode == string(kis.Verify):
			f.Implementation = "yaml"
		case fn.Mode == string(kis.Save) || fn.Mode == string(kis.Load):
			f.Implementation = "connector"
		}
		for _, flow := range n.set.Flows {
			if slices.ContainsFunc(flow.Steps, func(s flowdef.Step) bool { return s.Function.Value == fn.Name }) {
				f.UsedBy = append(f.UsedBy, flow.Name)
			}
		}
		all = append(all, f)
	}
	return paged(all, func(f api.Function) string { return f.Name }, page), nil
}

// secretParam tells whether a parameter's value must not be shown.
func secretParam(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"pass", "secret", "token", "credential", "key_file", "private"}, func(s string) bool { return strings.Contains(name, s) })
}

func redactParams(p map[string]string) map[string]string {
	out := make(map[string]string, len(p))
	for k, v := range p {
		if secretParam(k) {
			v = "redacted"
		}
		out[k] = v
	}
	return out
}

// Connectors implements api.Backend.
func (n *Node) Connectors(_ context.Context, page api.Page) (api.List[api.Connector], error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []api.Connector
	for _, c := range n.set.Conns {
		out := api.Connector{Name: c.Name, Type: c.Type, Addrs: redactURL(c.Addrs), Key: c.Key, Params: redactParams(c.Params), File: c.Pos.File, UsedBy: []string{}}
		for _, fn := range n.set.Funcs {
			if fn.Option.Conn.Value == c.Name {
				out.UsedBy = append(out.UsedBy, fn.Name)
			}
		}
		slices.Sort(out.UsedBy)
		all = append(all, out)
	}
	return paged(all, func(c api.Connector) string { return c.Name }, page), nil
}

// TestConnector implements api.Backend.
func (n *Node) TestConnector(ctx context.Context, name string) (api.Check, error) {
	n.mu.Lock()
	conn, names := n.set.Conns[name], slices.Sorted(maps.Keys(n.set.Conns))
	n.mu.Unlock()
	if conn == nil {
		have := "there are none"
		if len(names) > 0 {
			have = "there are " + strings.Join(names, ", ")
		}
		return api.Check{}, api.Errorf(api.ErrNotFound, "no connector %q; %s", name, have)
	}
	c := api.Check{Name: name, Result: api.ResultOK, Detail: "it is there and lets the node in"}
	if why := testConnector(ctx, n.connectors, conn); why != "" {
		c.Result, c.Detail = api.ResultFailed, why
	}
	return c, nil
}

// Flow implements api.Backend.
func (n *Node) Flow(ctx context.Context, name string) (api.Flow, error) {
	r := n.system.Flow(name)
	var rep *actors.Report
	if r != nil {
		all, err := n.report(ctx, r)
		if err != nil {
			return api.Flow{}, err
		}
		rep = &all
	}
	sum, err := n.summaryOf(name, rep)
	if err != nil {
		return api.Flow{}, err
	}
	n.mu.Lock()
	set, def := n.set, flowNamed(n.set, name)
	if e := n.catalog.Flows[name]; e != nil {
		set = set.With(e.Outside)
	}
	n.mu.Unlock()
	if def == nil {
		return api.Flow{}, api.Errorf(api.ErrNotFound, "no flow %q; %s", name, n.flowNames())
	}
	out := api.Flow{FlowSummary: sum, File: def.Pos.File, Source: def.Source, Warnings: []string{}, Outputs: []api.Output{}, Stages: []api.Stage{}, Inputs: []api.Lag{}, Watermarks: []api.Watermark{}}
	if e := n.shadowEntry(name); e != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("a shadow runs beside it since %s: kisctl shadow diff %s", e.StartedAt.Format(time.RFC3339), name))
	}
	switch {
	case len(def.Entries) == 1 && !strings.ContainsAny(def.Entries[0].Subject.Value, "*>"):
		out.PublishSubject = def.Entries[0].Subject.Value
	case len(def.Entries) == 0:
		out.PublishSubject = ownEntry(name)
	}
	stages := make(map[string]*api.Stage)
	var order []string
	for i := range def.Steps {
		s := &def.Steps[i]
		fn := set.Funcs[s.Function.Value]
		if fn == nil {
			continue
		}
		step := api.Step{Name: s.Name, Function: fn.Name, Mode: fn.Mode, Must: mustOf(fn), Params: redactParams(mergedParams(fn, s))}
		step.Stage = strings.Join(step.Must, ",")
		step.Stateful = n.stateful(set, fn.Name)
		if rep != nil {
			for _, m := range rep.Steps {
				if m.Step == s.Name {
					step.Rows, step.Errors = m.Rows, m.Refused
				}
			}
		}
		if len(step.Must) > 0 {
			if stages[step.Stage] == nil {
				stages[step.Stage] = &api.Stage{Name: step.Stage, Must: step.Must, Partitions: []api.Partition{}}
				order = append(order, step.Stage)
			}
			stages[step.Stage].Steps = append(stages[step.Stage].Steps, s.Name)
		}
		out.StepList = append(out.StepList, step)
		n.outputs(set, s, fn, &out)
	}
	if r != nil {
		for _, p := range rep.Partitions {
			out.StateKeys += uint64(max(0, p.StateKeys))
			if stages[p.Stage] == nil {
				stages[p.Stage] = &api.Stage{Name: p.Stage, Must: []string{}, Steps: []string{}, Partitions: []api.Partition{}}
				order = append(order, p.Stage)
			}
			ap := api.Partition{Name: p.Name, Node: p.Node, State: p.State, Epoch: p.Epoch, Commits: p.Commits}
			if p.Reason != nil {
				ap.Reason = p.Reason.Error()
			}
			stages[p.Stage].Partitions = append(stages[p.Stage].Partitions, ap)
		}
		out.Watermarks = watermarks(r.Definition(), rep.Watermarks)
		out.Inputs = n.flowLag(r, rep)
	}
	for _, s := range order {
		out.Stages = append(out.Stages, *stages[s])
	}
	return out, nil
}

func (n *Node) outputs(set *flowdef.Set, s *flowdef.Step, fn *flowdef.Func, out *api.Flow) {
	if h, ok := set.Handoff(fn); ok && fn.Mode == string(kis.Save) {
		out.Outputs = append(out.Outputs, api.Output{Step: s.Name, Kind: "handoff", Target: h.Value, Stream: actors.SaveStream(h.Value), Guarantee: "exactly once"})
	}
	if fn.Expand == nil {
		return
	}
	o := api.Output{Step: s.Name, Kind: "subject", Target: fn.Expand.Subject.Value, Guarantee: "unknown while the flow does not run"}
	if r := n.system.Flow(out.Name); r != nil {
		if step, err := r.Definition().StepOf(s.Name); err == nil {
			for _, x := range step.Outputs {
				o.Stream, o.Guarantee = x.Stream, "exactly once"
				if !x.Fenced {
					o.Guarantee = "effectively once within its duplicate window"
					out.Warnings = append(out.Warnings, fmt.Sprintf("stream %s does not capture %s, so outputs of step %s are once only within its duplicate window",
						x.Stream, actors.OutputFences(x.Stream), s.Name))
				}
			}
		}
	}
	out.Outputs = append(out.Outputs, o)
}

var inputKinds = map[actors.InputKind]string{actors.Entry: "entry", actors.Load: "handoff", actors.HandOff: "stage", actors.Kept: "kept"}

func (n *Node) flowLag(r *actors.Running, rep *actors.Report) []api.Lag {
	def := r.Definition()
	all := []api.Lag{}
	for i, in := range rep.Inputs {
		l := api.Lag{Flow: r.Name(), Kind: inputKinds[in.Kind], Stream: in.Stream, Subject: strings.Join(in.Filter, " "), State: api.StateRunning,
			Newest: in.Last, Committed: in.Dealt, Lag: in.Lag}
		if in.Step < len(def.Steps) {
			l.Step = def.Steps[in.Step].Name
		}
		if l.Subject == "" && in.Kind != actors.HandOff && in.Kind != actors.Kept {
			l.Subject = strings.Join(n.entrySubjects(r.Name()), " ")
		}
		if in.Reason != nil {
			l.Reason = in.Reason.Error()
			if errors.Is(in.Reason, actors.ErrInput) {
				l.State = api.StateStopped
			}
		}
		if i == 0 {
			l.Lag += uint64(rep.Waiting)
		}
		all = append(all, l)
	}
	return all
}

// entrySubjects are the subjects of a flow's entries.
func (n *Node) entrySubjects(flow string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var subjects []string
	if def := flowNamed(n.set, flow); def != nil {
		for _, e := range def.Entries {
			subjects = append(subjects, e.Subject.Value)
		}
	}
	return subjects
}

// Lag implements api.Backend.
func (n *Node) Lag(ctx context.Context, flow string, page api.Page) (api.List[api.Lag], error) {
	var all []api.Lag
	if flow != "" {
		if _, err := n.running(flow); err != nil {
			return api.List[api.Lag]{}, err
		}
	}
	for _, r := range n.system.Running() {
		if flow != "" && r.Name() != flow || isShadow(r.Name()) {
			continue
		}
		rep, err := n.report(ctx, r)
		if err != nil {
			return api.List[api.Lag]{}, err
		}
		all = append(all, n.flowLag(r, &rep)...)
	}
	return paged(all, func(l api.Lag) string { return l.Flow + "\x00" + l.Stream }, page), nil
}

// running returns a flow that runs, or why it does not.
func (n *Node) running(name string) (*actors.Running, error) {
	if r := n.system.Flow(name); r != nil {
		return r, nil
	}
	n.mu.Lock()
	def, e, problem := flowNamed(n.set, name), n.catalog.Flows[name], n.problems[name]
	n.mu.Unlock()
	switch {
	case def == nil:
		return nil, api.Errorf(api.ErrNotFound, "no flow %q; %s", name, n.flowNames())
	case e != nil && e.Paused:
		return nil, api.Errorf(api.ErrUnavailable, "flow %s is paused; kisctl resume flow %s", name, name)
	case !def.Enabled:
		return nil, api.Errorf(api.ErrUnavailable, "flow %s is disabled (status: 0)", name)
	}
	return nil, api.Errorf(api.ErrUnavailable, "flow %s does not run: %s", name, problem)
}

// answer turns the engine's errors into the API's.
func answer(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, actors.ErrNoState):
		return api.Errorf(api.ErrNoState, "the key has no state")
	case errors.Is(err, actors.ErrUnknown):
		return api.Errorf(api.ErrNotFound, "%s", strings.TrimPrefix(err.Error(), "unknown: "))
	case errors.Is(err, actors.ErrWaiting), errors.Is(err, actors.ErrElsewhere), errors.Is(err, actors.ErrStopped), errors.Is(err, actors.ErrFenced), errors.Is(err, actors.ErrDamagedLog), errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.ErrUnavailable, "%s", err)
	}
	return err
}

// stepFor finds a step with state, by flow.
func (n *Node) stepFor(flow, step string) (*actors.Running, *actors.Step, error) {
	r, err := n.running(flow)
	if err != nil {
		return nil, nil, err
	}
	s, err := r.Definition().StepOf(step)
	if err != nil {
		return nil, nil, answer(err)
	}
	if !s.Function.Traits().Stateful {
		var have []string
		for _, x := range r.Definition().Steps {
			if x.Function.Traits().Stateful {
				have = append(have, x.Name)
			}
		}
		return nil, nil, api.Errorf(api.ErrNotFound, "step %s of flow %s keeps no state; these do: %s", step, flow, strings.Join(have, ", "))
	}
	return r, s, nil
}

func stateEntry(flow, step string, e actors.KeyState) api.StateEntry {
	return api.StateEntry{Flow: flow, Step: step, Key: e.Key.AppendJSON(nil), State: e.State, Revision: e.Revision, Sequence: e.Sequence, UpdatedAt: e.Time, Commit: e.Commit}
}

// State implements api.Backend.
func (n *Node) State(ctx context.Context, flow, step string, assignments []string, read api.Read) (api.StateEntry, error) {
	r, s, err := n.stepFor(flow, step)
	if err != nil {
		return api.StateEntry{}, err
	}
	key, err := kis.ParseKey(s.Must, assignments)
	if err != nil {
		return api.StateEntry{}, api.Errorf(api.ErrInvalid, "%s", err)
	}
	e, err := r.State(ctx, step, key, actors.Read{Consistent: read.Consistent, AtLeast: read.AtLeast})
	if errors.Is(err, actors.ErrNoState) {
		return api.StateEntry{}, api.Errorf(api.ErrNoState, "flow %s: step %s has no state for %s", flow, step, key)
	}
	if err != nil {
		return api.StateEntry{}, answer(err)
	}
	return stateEntry(flow, step, e), nil
}

// States implements api.Backend.
func (n *Node) States(ctx context.Context, flow, step, prefix string, page api.Page) (api.List[api.StateEntry], error) {
	var out api.List[api.StateEntry]
	r, _, err := n.stepFor(flow, step)
	if err != nil {
		return out, err
	}
	entries, next, err := r.States(ctx, step, page.After, page.Limit, prefix)
	if err != nil {
		return out, answer(err)
	}
	for _, e := range entries {
		out.Items = append(out.Items, stateEntry(flow, step, e))
	}
	out.Next = next
	return out, nil
}

func letterOf(flow string, l actors.Letter, full bool) api.DeadLetter {
	d := api.DeadLetter{ID: l.ID, Flow: flow, Step: l.Step, Function: l.Function, Revision: l.Revision, Reason: l.Reason,
		Malformed: l.Malformed, Stream: l.Stream, Subject: l.Subject, Sequence: l.Sequence, Index: l.Index,
		EventTime: time.Unix(0, l.EventTime).UTC(), Time: time.Unix(0, l.DeadLetter.Time).UTC(), Attempts: l.Attempts, Size: len(l.Data)}
	if full {
		d.Stack, d.Data = l.Stack, l.Data
	}
	return d
}

// DeadLetters implements api.Backend.
func (n *Node) DeadLetters(ctx context.Context, flow string, filter api.DeadLetterFilter, page api.Page) (api.List[api.DeadLetter], error) {
	var out api.List[api.DeadLetter]
	r, err := n.running(flow)
	if err != nil {
		return out, err
	}
	letters, next, err := r.DeadLetters(ctx, page.After, page.Limit, actors.LetterFilter{Step: filter.Step, Reason: filter.Reason})
	if err != nil {
		return out, answer(err)
	}
	for _, l := range letters {
		out.Items = append(out.Items, letterOf(flow, l, false))
	}
	out.Next = next
	return out, nil
}

// DeadLetter implements api.Backend.
func (n *Node) DeadLetter(ctx context.Context, flow, id string) (api.DeadLetter, error) {
	r, err := n.running(flow)
	if err != nil {
		return api.DeadLetter{}, err
	}
	l, err := r.DeadLetter(ctx, id)
	if err != nil {
		return api.DeadLetter{}, answer(err)
	}
	return letterOf(flow, l, true), nil
}

// RetryDeadLetters implements api.Backend.
func (n *Node) RetryDeadLetters(ctx context.Context, flow string, ids []string) (api.Resolved, error) {
	return n.resolve(ctx, flow, ids, func(r *actors.Running, ids []string) (int, []error, error) { return r.Retry(ctx, ids) })
}

// DropDeadLetters implements api.Backend.
func (n *Node) DropDeadLetters(ctx context.Context, flow string, ids []string) (api.Resolved, error) {
	return n.resolve(ctx, flow, ids, func(r *actors.Running, ids []string) (int, []error, error) {
		done, err := r.DropLetters(ctx, ids)
		return done, nil, err
	})
}

func (n *Node) resolve(ctx context.Context, flow string, ids []string, f func(*actors.Running, []string) (int, []error, error)) (api.Resolved, error) {
	out := api.Resolved{Missing: []string{}, Left: []string{}}
	r, err := n.running(flow)
	if err != nil {
		return out, err
	}
	var have []string
	for _, id := range ids {
		switch _, err := r.DeadLetter(ctx, id); {
		case err == nil:
			have = append(have, id)
		case errors.Is(err, actors.ErrUnknown):
			out.Missing = append(out.Missing, id)
		default:
			return out, answer(err)
		}
	}
	var left []error
	out.Done, left, err = f(r, have)
	for _, l := range left {
		out.Left = append(out.Left, l.Error())
	}
	return out, answer(err)
}

// Publish implements api.Backend.
func (n *Node) Publish(ctx context.Context, p api.Publication) (api.Published, error) {
	subject := p.Subject
	if p.Flow != "" {
		f, err := n.Flow(ctx, p.Flow)
		if err != nil {
			return api.Published{}, err
		}
		if subject = f.PublishSubject; subject == "" {
			return api.Published{}, api.Errorf(api.ErrInvalid, "flow %s does not take its events at one plain subject; publish to a subject of its entry", p.Flow)
		}
	}
	info, err := n.streams.Capturing(ctx, subject)
	if errors.Is(err, transport.ErrNotFound) {
		return api.Published{}, api.Errorf(api.ErrNotFound, "no stream captures %s: it is the entry of no flow", subject)
	}
	if err != nil {
		return api.Published{}, err
	}
	ms := make([]transport.Outgoing, len(p.Messages))
	for i, m := range p.Messages {
		ms[i] = transport.Outgoing{Subject: subject, Data: m.Data}
		if m.ID != "" {
			ms[i].Header = []transport.Field{{Name: "Nats-Msg-Id", Value: m.ID}}
		}
	}
	stored, err := n.streams.Publish(ctx, info.Name, ms)
	out := api.Published{Stream: info.Name, Stored: len(stored)}
	if len(stored) > 0 {
		out.Sequence = stored[len(stored)-1]
	}
	switch {
	case errors.Is(err, transport.ErrTooLarge):
		return out, api.Errorf(api.ErrTooLarge, "%s", err)
	case errors.Is(err, transport.ErrFull), errors.Is(err, transport.ErrDoubt):
		return out, api.Errorf(api.ErrUnavailable, "%d of %d messages are stored: %s", len(stored), len(ms), err)
	}
	return out, err
}

// SetFlow implements api.Backend.
func (n *Node) SetFlow(ctx context.Context, name string, action api.Action) (api.FlowSummary, error) {
	before, err := n.summary(ctx, name)
	if err != nil {
		return before, err
	}
	if err := n.setFlow(ctx, name, action); err != nil {
		return before, err
	}
	if action == api.ActionDelete {
		before.State = api.StateDeleted
		return before, nil
	}
	return n.summary(ctx, name)
}
