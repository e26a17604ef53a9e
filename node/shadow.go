package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// A shadow is a revision that runs beside the one that counts: a flow of its own, with a log and a state of its own,
// which begins with a copy of the other's state and reads the same inputs on from the same places. What it would send
// or save goes to a stream of its own.

// shadowSuffix makes a flow's name that of its shadow. No definition's name ends with a blank.
const shadowSuffix = " (shadow) "

func shadowName(flow string) string { return flow + shadowSuffix }

func isShadow(name string) bool { return strings.HasSuffix(name, shadowSuffix) }

// The stream of a shadow's outputs. Its oldest go when it is full.
const shadowBytes = 256 << 20

func shadowStream(flow string) string { return "KISFLOW_SHADOW_" + actors.Token(flow) }

func shadowSubject(flow string) string { return "KISFLOW.shadow." + actors.Token(flow) + "." }

// shadowEntry is a shadow as the catalog knows it.
type shadowEntry struct {
	Revision    uint64            `json:"revision"` // of the flow, when it began
	StartedAt   time.Time         `json:"started_at"`
	By          string            `json:"by,omitempty"`
	Starts      starts            `json:"starts"`
	Begun       map[string]uint64 `json:"begun,omitempty"` // as in flowEntry
	Documents   []document        `json:"documents"`
	Outputs     map[string]uint64 `json:"outputs"`      // the streams that the flow writes to, and where they stood
	DeadLetters uint64            `json:"dead_letters"` // that the flow had

	Outside flowdef.Outside `json:"outside,omitzero"` // as of a flow's entry
}

func (n *Node) shadowEntry(flow string) *shadowEntry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.catalog.Shadows[flow]
}

// shadowOf turns a flow's plan into that of its shadow.
func shadowOf(f *actors.Flow) {
	flow := f.Name
	f.Name = shadowName(flow)
	prefix := shadowSubject(flow)
	for i := range f.Steps {
		s := &f.Steps[i]
		if s.Save == "" && len(s.Outputs) == 0 {
			s.Function = &muted{Function: s.Function, flow: flow}
			continue
		}
		s.Function = &muted{Function: s.Function, flow: flow, sends: prefix + "out.", save: s.Save, saves: prefix + "save." + actors.Token(s.Save)}
		s.Save = ""
		s.Outputs = []actors.Output{{Stream: shadowStream(flow), Subject: prefix + ">", Fenced: true}}
	}
}

// muted is a function whose outputs stay apart.
type muted struct {
	kis.Function
	flow  string // the name of the flow that it believes to be part of
	sends string // before the subjects that it sends to
	save  string // the hand-off that its step saves to, or ""
	saves string // the subject for that
}

// Open implements kis.Function.
func (m *muted) Open(s kis.Step) (kis.Runner, error) {
	s.Flow = m.flow
	r, err := m.Function.Open(s)
	if err != nil || m.sends == "" {
		return r, err
	}
	one := mutedRunner{r, m}
	many, isMany := r.(kis.Many)
	versioned, isVersioned := r.(kis.Versioned)
	switch {
	case isMany && isVersioned:
		return mutedManyVersioned{mutedMany{one, many}, versioned}, nil
	case isMany:
		return mutedMany{one, many}, nil
	case isVersioned:
		return mutedVersioned{one, versioned}, nil
	}
	return one, nil
}

// The runners of muted functions, by what they can do.
type (
	mutedRunner struct {
		kis.Runner
		m *muted
	}
	mutedMany struct {
		mutedRunner
		many kis.Many
	}
	mutedVersioned struct {
		mutedRunner
		versioned kis.Versioned
	}
	mutedManyVersioned struct {
		mutedMany
		versioned kis.Versioned
	}
)

// Handle implements kis.Runner.
func (r mutedRunner) Handle(c *kis.Call) error {
	err := r.Runner.Handle(c)
	r.m.divert(c)
	return err
}

// HandleMany implements kis.Many.
func (r mutedMany) HandleMany(calls []*kis.Call) error {
	err := r.many.HandleMany(calls)
	for _, c := range calls {
		r.m.divert(c)
	}
	return err
}

// Version implements kis.Versioned.
func (r mutedVersioned) Version() uint32 { return r.versioned.Version() }

// Migrate implements kis.Versioned.
func (r mutedVersioned) Migrate(version uint32, encoded []byte) ([]byte, error) {
	return r.versioned.Migrate(version, encoded)
}

// Version implements kis.Versioned.
func (r mutedManyVersioned) Version() uint32 { return r.versioned.Version() }

// Migrate implements kis.Versioned.
func (r mutedManyVersioned) Migrate(version uint32, encoded []byte) ([]byte, error) {
	return r.versioned.Migrate(version, encoded)
}

// divert sends what a call has sent, and what its step would save, to the shadow's own subjects.
func (m *muted) divert(c *kis.Call) {
	for i := range c.Sent {
		c.Sent[i].Subject = m.sends + c.Sent[i].Subject
	}
	if m.save == "" {
		return
	}
	switch {
	case c.Control == kis.Reuse || c.Control == kis.Jump && len(c.Emitted) == 0:
		for i, row := range c.Rows {
			c.SendFor(i, m.saves, row)
		}
	default:
		for _, e := range c.Emitted {
			c.SendFor(e.Cause, m.saves, e.Row)
		}
	}
}

// planShadow makes the shadow's flow of definitions.
func (n *Node) planShadow(ctx context.Context, set *flowdef.Set, flow string, revision uint64, at starts, begun map[string]uint64) (*actors.Flow, error) {
	def := flowNamed(set, flow)
	if def == nil {
		return nil, fmt.Errorf("no flow %s", flow)
	}
	f, err := n.planner.plan(ctx, set, def, revision, at)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	if e := n.catalog.Flows[flow]; e != nil {
		e.layOut(f) // that of the flow: its partitions are copied one by one
	}
	n.mu.Unlock()
	begin(f, begun)
	stream := shadowStream(flow)
	if _, err := n.streams.Ensure(ctx, transport.Config{Name: stream, Subjects: []string{shadowSubject(flow) + ">", actors.OutputFences(stream)},
		MaxBytes: shadowBytes, Description: "outputs of the shadow of flow " + flow}); err != nil {
		return nil, fmt.Errorf("shadow of flow %s: %w", flow, err)
	}
	shadowOf(f)
	return f, nil
}

// StartShadow implements api.Backend.
func (n *Node) StartShadow(ctx context.Context, files []api.File, ok api.Approval) (p api.Plan, err error) {
	err = n.changing(ctx, "start of a shadow", func() error {
		p, err = n.startShadowOf(ctx, files, ok)
		return err
	})
	return p, err
}

func (n *Node) startShadowOf(ctx context.Context, files []api.File, ok api.Approval) (api.Plan, error) {
	p, target := n.planOf(ctx, files)
	for _, m := range p.Mistakes {
		if m.Severity != api.SeverityWarning {
			return p, api.Invalid(p.Mistakes)
		}
	}
	if ok.Plan != "" && ok.Plan != p.ID {
		return p, api.Errorf(api.ErrConflict, "the definitions have changed since the plan was made; look at the new one")
	}
	if len(p.Flows) != 1 {
		var names []string
		for _, f := range p.Flows {
			names = append(names, f.Flow)
		}
		return p, api.Errorf(api.ErrInvalid, "the files change %d flows (%s); a shadow is of one", len(names), strings.Join(names, ", "))
	}
	flow := p.Flows[0].Flow
	if n.shadowEntry(flow) != nil {
		return p, api.Errorf(api.ErrConflict, "flow %s has a shadow already; promote or discard it first", flow)
	}
	running := n.system.Flow(flow)
	if running == nil {
		return p, api.Errorf(api.ErrConflict, "flow %s does not run, so nothing can run beside it; apply the files", flow)
	}
	if def := flowNamed(target, flow); !def.Enabled {
		return p, api.Errorf(api.ErrInvalid, "the files disable flow %s: there is nothing to run", flow)
	}
	if err := n.startShadow(ctx, flow, running, target, ok); err != nil {
		_ = n.dropShadow(context.WithoutCancel(ctx), flow) // what is left over is removed before the next one
		return p, answer(err)
	}
	return p, nil
}

func (n *Node) startShadow(ctx context.Context, flow string, running *actors.Running, target *flowdef.Set, ok api.Approval) error {
	scatter, err := n.gather(ctx, flow)
	if err != nil {
		return err
	}
	defer scatter()
	if err := n.dropShadow(ctx, flow); err != nil { // of one that was cut short
		return err
	}
	e, err := n.entryOf(flow)
	if err != nil {
		return err
	}
	at := maps.Clone(e.Starts)
	first, err := n.planShadow(ctx, definitionsOf(e), flow, e.Revision, at, e.Begun)
	if err != nil {
		return err
	}
	outside := outside(target, flowNamed(target, flow), e)
	target = target.With(outside)
	_, begun := n.succession(e, target, flow)
	next, err := n.planShadow(ctx, target, flow, e.Revision+1, at, begun)
	if err != nil {
		return err
	}
	entry := &shadowEntry{Outside: outside, Revision: e.Revision, StartedAt: time.Now().UTC(), By: ok.By, Starts: at, Begun: begun,
		Documents: documentsFor(target, flowNamed(target, flow)), Outputs: make(map[string]uint64)}
	keys, took, err := n.system.Copy(ctx, running, first, func() error {
		for _, stream := range outputStreams(running.Definition()) {
			info, err := n.streams.Info(ctx, stream)
			if err != nil {
				return err
			}
			entry.Outputs[stream] = info.Last
		}
		letters, err := deadLetters(ctx, running)
		entry.DeadLetters = letters
		return err
	})
	if err != nil {
		return err
	}
	n.log.Info("the state of a flow is copied for its shadow", "flow", flow, "keys", keys, "took", took.Round(time.Millisecond).String())
	shadow, err := n.system.Start(ctx, first) // under the definitions of the flow: then the change is one as of any flow
	if err == nil {
		err = n.system.Placed(ctx, false)
	}
	if err != nil {
		return err
	}
	return shadow.Change(ctx, next, func() error {
		n.mu.Lock()
		if n.catalog.Shadows == nil {
			n.catalog.Shadows = make(map[string]*shadowEntry)
		}
		n.catalog.Shadows[flow] = entry
		n.mu.Unlock()
		err := n.catalog.save(ctx, n.streams)
		if err != nil { // in doubt as well: nothing is lost with a shadow
			n.mu.Lock()
			delete(n.catalog.Shadows, flow)
			n.mu.Unlock()
		}
		return err
	})
}

// outputStreams are the streams that a flow writes to for others.
func outputStreams(f *actors.Flow) []string {
	var streams []string
	for i := range f.Steps {
		s := &f.Steps[i]
		for _, o := range s.Outputs {
			streams = append(streams, o.Stream)
		}
		if s.Save != "" {
			streams = append(streams, actors.SaveStream(s.Save))
		}
	}
	slices.Sort(streams)
	return slices.Compact(streams)
}

func deadLetters(ctx context.Context, r *actors.Running) (uint64, error) {
	parts, err := r.Partitions(ctx)
	var sum uint64
	for _, p := range parts {
		sum += p.DeadLetters
	}
	return sum, err
}

// startShadows starts the shadows of the catalog. One that cannot start keeps nobody else from running.
func (n *Node) startShadows(ctx context.Context) {
	n.mu.Lock()
	flows := slices.Sorted(maps.Keys(n.catalog.Shadows))
	n.mu.Unlock()
	for _, flow := range flows {
		if err := n.resumeShadow(ctx, flow); err != nil {
			n.log.Error("a shadow does not run", "flow", flow, "error", err)
		}
	}
}

// resumeShadow starts the shadow of a flow that runs.
func (n *Node) resumeShadow(ctx context.Context, flow string) error {
	e := n.shadowEntry(flow)
	if e == nil || n.system.Flow(flow) == nil || n.system.Flow(shadowName(flow)) != nil {
		return nil
	}
	set, err := setOf(e.Documents)
	if err != nil {
		return err
	}
	f, err := n.planShadow(ctx, set.With(e.Outside), flow, e.Revision+1, e.Starts, e.Begun)
	if err != nil {
		return err
	}
	return n.start(ctx, f)
}

// pauseShadow stops the shadow of a flow.
func (n *Node) pauseShadow(ctx context.Context, flow string) error {
	if r := n.system.Flow(shadowName(flow)); r != nil {
		return r.Stop(ctx)
	}
	return nil
}

// dropShadow stops a shadow and removes all that it has kept.
func (n *Node) dropShadow(ctx context.Context, flow string) error {
	if err := n.pauseShadow(ctx, flow); err != nil {
		return err
	}
	err := n.dropFlow(ctx, shadowName(flow))
	if derr := n.streams.Delete(ctx, shadowStream(flow)); derr != nil && !errors.Is(derr, transport.ErrNotFound) {
		err = errors.Join(err, derr)
	}
	return err
}

// endShadow ends the shadow of a flow, if it has one.
func (n *Node) endShadow(ctx context.Context, flow string) error {
	if n.shadowEntry(flow) == nil {
		return nil
	}
	if err := n.pauseShadow(ctx, flow); err != nil {
		return err
	}
	n.mu.Lock()
	delete(n.catalog.Shadows, flow)
	n.mu.Unlock()
	if err := n.catalog.save(ctx, n.streams); err != nil {
		return err
	}
	if err := n.spread(ctx); err != nil {
		n.log.Warn("a shadow has not ended everywhere yet", "flow", flow, "error", err)
	}
	return n.dropShadow(ctx, flow)
}

// Shadow implements api.Backend.
func (n *Node) Shadow(ctx context.Context, flow string) (api.Shadow, error) {
	if _, err := n.entryOf(flow); err != nil {
		return api.Shadow{}, err
	}
	e := n.shadowEntry(flow)
	if e == nil {
		return api.Shadow{}, api.Errorf(api.ErrNotFound, "flow %s has no shadow", flow)
	}
	out := api.Shadow{Flow: flow, Revision: e.Revision, StartedAt: e.StartedAt, By: e.By, State: api.StateStopped, Files: filesOf(e.Documents)}
	r := n.system.Flow(shadowName(flow))
	if r == nil {
		out.Reason = "it does not run: the flow is paused, or the log says why"
		return out, nil
	}
	out.State = api.StateRunning
	rep, err := n.report(ctx, r)
	if err != nil {
		return out, err
	}
	for _, l := range n.flowLag(r, &rep) {
		out.Lag += l.Lag
		if l.Reason != "" {
			out.Reason = "input " + l.Stream + ": " + l.Reason
		}
		if l.State == api.StateStopped {
			out.State = api.StateStopped
		}
	}
	for _, p := range rep.Partitions {
		if p.State == "stopped" {
			out.State, out.Reason = api.StateStopped, fmt.Sprintf("partition %s: %v", p.Name, p.Reason)
		}
	}
	return out, err
}

// PromoteShadow implements api.Backend.
func (n *Node) PromoteShadow(ctx context.Context, flow string, ok api.Approval) (p api.Plan, err error) {
	err = n.changing(ctx, "promotion of the shadow of flow "+flow, func() error {
		p, err = n.promoteShadow(ctx, flow, ok)
		return err
	})
	return p, err
}

func (n *Node) promoteShadow(ctx context.Context, flow string, ok api.Approval) (api.Plan, error) {
	if _, err := n.Shadow(ctx, flow); err != nil {
		return api.Plan{}, err
	}
	if ok.Note == "" {
		ok.Note = "promoted from its shadow"
	}
	p, err := n.applyFiles(ctx, filesOf(n.shadowEntry(flow).Documents), ok, flow)
	if err != nil {
		return p, err
	}
	return p, n.endShadow(ctx, flow)
}

// DiscardShadow implements api.Backend.
func (n *Node) DiscardShadow(ctx context.Context, flow string) (s api.Shadow, err error) {
	err = n.changing(ctx, "end of the shadow of flow "+flow, func() error {
		if s, err = n.Shadow(ctx, flow); err != nil {
			return err
		}
		return n.endShadow(ctx, flow)
	})
	return s, err
}
