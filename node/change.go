package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
)

// removal is what a step has left that is no longer part of its flow, or has become another one: it is removed when that
// revision is in force, or before the flow starts the next time.
type removal struct {
	Step   string   `json:"step"`
	Must   []string `json:"must,omitempty"`   // the key that it had
	Before uint64   `json:"before,omitempty"` // the revision that has made it of no use; 0: all of it goes
	Rows   bool     `json:"rows,omitempty"`   // the rows that wait at it, too
}

func (r removal) of() actors.Removal {
	return actors.Removal{Step: r.Step, Must: r.Must, Before: r.Before, Rows: r.Rows || r.Before == 0}
}

// affected are the flows whose meaning a change of definitions may touch: those that change themselves, and those
// that use a function or a connector that does.
func affected(target *flowdef.Set, changes []flowdef.Change) []string {
	changed := make(map[string]bool)
	for _, c := range changes {
		changed[c.Kind+" "+c.Name] = true
	}
	var names []string
	for _, f := range target.Flows {
		touched := changed["flow "+f.Name] || slices.ContainsFunc(f.Steps, func(s flowdef.Step) bool {
			fn := target.Funcs[s.Function.Value]
			return fn != nil && (changed["func "+fn.Name] || changed["conn "+fn.Option.Conn.Value])
		})
		if touched {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names
}

// flowPlan tells what a set of definitions does to a flow.
func (n *Node) flowPlan(ctx context.Context, target *flowdef.Set, name string) api.FlowPlan {
	n.mu.Lock()
	e := n.catalog.Flows[name]
	n.mu.Unlock()
	base := definitionsOf(e)
	from, to := flowNamed(base, name), flowNamed(target, name)
	target = target.With(outside(target, to, e))
	c := flowdef.CompareFlows(base, target, name)
	p := api.FlowPlan{Flow: name, Action: "added", To: 1, Settings: c.Settings, Steps: []api.StepPlan{}, Notes: []string{}}
	if e != nil {
		p.From, p.To, p.Action = e.Revision, e.Revision+1, "changed"
		switch {
		case from != nil && from.Enabled && !to.Enabled:
			p.Action = "disabled"
		case from != nil && !from.Enabled && to.Enabled:
			p.Action = "enabled"
		}
	}
	running := n.system.Flow(name)
	waiting := false
	for _, s := range c.Steps {
		sp := api.StepPlan{Step: s.Name, Function: s.Function, Action: string(s.Action), From: s.From, To: s.To, Changes: s.Changes,
			StateAdded: s.StateAdded, StateRemoved: s.StateRemoved, StateChanged: s.StateChanged}
		sp.State = n.stateOf(base, target, from, to, &s)
		if sp.State == api.StateIsDropped && s.To > 0 && n.stateful(target, s.Function) {
			if s.Rekeyed {
				sp.Changes = append(sp.Changes, fmt.Sprintf("another key (%s): the step begins without state", keyText(s.MustAfter)))
			} else {
				sp.Changes = append(sp.Changes, "what it keeps has another form (a window, a join, an aggregate in a window): the step begins without state")
			}
		}
		if s.To > 0 {
			if more := n.planTables(ctx, base, target, s.Function); len(more) > 0 {
				sp.Changes = append(sp.Changes, more...)
				if s.Action == flowdef.StepKept {
					sp.Action = string(flowdef.StepChanged)
				}
			}
		}
		if running != nil && (sp.State == api.StateIsDropped || sp.State == api.StateIsMigrated) {
			if k, err := running.CountKeys(ctx, s.Name, api.MaxCounted); err == nil {
				sp.Keys = k
			}
		}
		waiting = waiting || s.Action == flowdef.StepRemoved || s.Rekeyed
		p.Steps = append(p.Steps, sp)
	}
	if e != nil && running != nil && to.Enabled {
		p.Notes = append(p.Notes, fmt.Sprintf("revision %d becomes %d at one place of the input", p.From, p.To))
	}
	if !to.Enabled {
		p.Notes = append(p.Notes, "the flow is disabled (status: 0): it does not run")
	}
	if e != nil && e.Paused && to.Enabled {
		p.Notes = append(p.Notes, "the flow is paused: the change is in force when it is resumed")
	}
	if waiting && e != nil {
		p.Notes = append(p.Notes, "rows that wait at a step that goes become dead letters; dead letters stay")
	}
	return p
}

// stateOf tells what becomes of a step's state: one of the words of api.StepPlan, "" where there is none before and after.
func (n *Node) stateOf(base, target *flowdef.Set, from, to *flowdef.Flow, s *flowdef.StepChange) string {
	had := s.From > 0 && n.stateful(base, from.Steps[s.From-1].Function.Value)
	has := s.To > 0 && n.stateful(target, s.Function)
	switch {
	case had && (s.Action == flowdef.StepRemoved || s.Rekeyed || !has):
		return api.StateIsDropped
	case had && (len(s.Recast) > 0 || n.formOf(base, from, s.From) != n.formOf(target, to, s.To)):
		return api.StateIsDropped
	case had && s.Migrates:
		return api.StateIsMigrated
	case had:
		return api.StateIsKept
	case has:
		return api.StateIsNew
	}
	return ""
}

func keyText(must []string) string {
	if len(must) == 0 {
		return "none"
	}
	return strings.Join(must, ", ")
}

// stateful tells whether a function keeps state.
func (n *Node) stateful(set *flowdef.Set, function string) bool {
	fn := set.Funcs[function]
	if fn == nil || !hasBody(fn) && n.planner.functions[fn.Name] == nil {
		return false
	}
	f, err := n.planner.function(set, fn)
	return err == nil && f.Traits().Stateful
}

// formOf is the form of a step's states, by the step's place from 1: a function drops, or cannot read, states of another
// form.
func (n *Node) formOf(set *flowdef.Set, flow *flowdef.Flow, place int) string {
	s := &flow.Steps[place-1]
	fn := set.Funcs[s.Function.Value]
	switch {
	case fn == nil || n.planner.functions[fn.Name] != nil:
		return ""
	case fn.Mode == string(kis.Load):
		return "table"
	case fn.Join != nil:
		return "join"
	case fn.Calculate == nil || fn.Calculate.Window == nil:
		return ""
	}
	f, err := n.planner.function(set, fn)
	if err != nil {
		return ""
	}
	return functions.Form(f, kis.Step{Flow: flow.Name, Name: s.Name, Function: fn.Name, Mode: kis.Mode(fn.Mode), Must: mustOf(fn), Params: mergedParams(fn, s)})
}

// dropped are the names of the steps whose state a plan drops.
func dropped(flows []api.FlowPlan) (names []string) {
	for _, f := range flows {
		for _, s := range f.Steps {
			if s.State == api.StateIsDropped {
				names = append(names, api.DropName(f.Flow, s.Step))
			}
		}
	}
	return names
}

// allowed refuses a plan that drops states which the approval does not name, and one of flows that have shadows.
func (n *Node) allowed(flows []api.FlowPlan, ok api.Approval, promoted string) error {
	for _, f := range flows {
		if f.Flow != promoted && n.shadowEntry(f.Flow) != nil {
			return api.Errorf(api.ErrConflict, "flow %s has a shadow; promote or discard it first", f.Flow)
		}
	}
	var unsaid []string
	for _, name := range dropped(flows) {
		if !slices.Contains(ok.DropState, name) {
			unsaid = append(unsaid, name)
		}
	}
	if len(unsaid) > 0 {
		return api.Errorf(api.ErrConflict, "the change drops the state of %s for good; name what may be dropped (drop_state), or keep the step's name and key", strings.Join(unsaid, ", "))
	}
	return nil
}

// succession is what a flow's next revision makes of the states of the one before: what it leaves behind, and with which
// revision each of its steps began. An entry that is nil has no steps.
func (n *Node) succession(e *flowEntry, target *flowdef.Set, name string) (leaves []removal, begun map[string]uint64) {
	base, revision := definitionsOf(e), uint64(1)
	if e != nil {
		revision = e.Revision + 1
	}
	from, to := flowNamed(base, name), flowNamed(target, name)
	begun = make(map[string]uint64)
	for _, s := range flowdef.CompareFlows(base, target, name).Steps {
		state := n.stateOf(base, target, from, to, &s)
		gone := s.From > 0 && (s.Action == flowdef.StepRemoved || s.Rekeyed)
		if gone || state == api.StateIsDropped {
			leaves = append(leaves, removal{s.Name, s.MustBefore, revision, gone})
		}
		switch {
		case s.To == 0 || !n.stateful(target, s.Function):
		case state == api.StateIsKept || state == api.StateIsMigrated:
			begun[s.Name] = e.Begun[s.Name]
		default:
			begun[s.Name] = revision
		}
	}
	return leaves, begun
}

// begin tells a flow's steps with which revision they began.
func begin(f *actors.Flow, begun map[string]uint64) {
	for i := range f.Steps {
		f.Steps[i].Begun = begun[f.Steps[i].Name]
	}
	beginKept(f)
}

// finishRemovals removes what the entry's list says, with the flow running; then the list is empty. What fails is
// tried again before the flow starts the next time.
func (n *Node) finishRemovals(ctx context.Context, name string, e *flowEntry, running *actors.Running) error {
	for _, r := range e.Removing {
		keys, err := running.Remove(ctx, r.of())
		if err != nil {
			return fmt.Errorf("flow %s: remove what step %s has left: %w", name, r.Step, err)
		}
		n.log.Info("what a step has left is gone", "flow", name, "step", r.Step, "keys", keys)
	}
	return n.removed(ctx, e)
}

// removed writes that nothing is left to remove. What the partitions of a former stage still hold is on the disk by
// then: the next start looks for it there.
func (n *Node) removed(ctx context.Context, e *flowEntry) error {
	if len(e.Removing) == 0 {
		return nil
	}
	if err := n.db.Flush(); err != nil {
		return err
	}
	n.mu.Lock()
	e.Removing = nil
	n.mu.Unlock()
	return n.catalog.save(ctx, n.streams)
}

// startEntryFlow starts a flow of the catalog: what is to be removed goes first.
// In a cluster the other nodes may have it running: there it goes once the flow runs (finishLeft).
func (n *Node) startEntryFlow(ctx context.Context, f *actors.Flow, e *flowEntry) error {
	if n.members != nil {
		return n.start(ctx, f)
	}
	for _, r := range e.Removing {
		keys, err := n.system.Remove(ctx, f, r.of())
		if err != nil {
			return fmt.Errorf("remove what step %s has left: %w", r.Step, err)
		}
		n.log.Info("what a step has left is gone", "flow", f.Name, "step", r.Step, "keys", keys)
	}
	if err := n.removed(ctx, e); err != nil {
		return err
	}
	return n.start(ctx, f)
}

// filesSayElse tells which of the definitions of a change the node's own files say otherwise: those win when the node
// starts the next time.
func (n *Node) filesSayElse(target *flowdef.Set, changes []flowdef.Change) []string {
	if len(n.opt.Flows) == 0 {
		return []string{}
	}
	files, _ := flowdef.Load(n.opt.Flows...)
	own := make(map[string]document)
	for _, d := range documentsOf(files) {
		own[d.Kind+" "+d.Name] = d
	}
	texts := make(map[string]string)
	for _, d := range target.Definitions() {
		texts[d.Kind+" "+d.Name] = d.Text
	}
	notes := []string{}
	for _, c := range changes {
		d, there := own[c.Kind+" "+c.Name]
		if there && strings.TrimSpace(d.Text) != strings.TrimSpace(texts[c.Kind+" "+c.Name]) {
			notes = append(notes, fmt.Sprintf("%s %s stands otherwise in %s, which the node reads at each start, and then that is what counts: change it there, too", c.Kind, c.Name, d.File))
		}
	}
	return notes
}

// keepStates takes out of a set, which nobody has said a word to, the flows that it would take states from: they go on as
// they were.
func (n *Node) keepStates(ctx context.Context, target *flowdef.Set) *flowdef.Set {
	for _, name := range affected(target, flowdef.Diff(n.set, target)) {
		lost := dropped([]api.FlowPlan{n.flowPlan(ctx, target, name)})
		if len(lost) == 0 {
			continue
		}
		old := definitionsOf(n.catalog.Flows[name])
		target = target.Overlay(old)
		why := fmt.Sprintf("flow %s goes on as it was: its files would drop the state of %s for good; kisctl apply them with --drop-state, or keep the step's name and key",
			name, strings.Join(lost, ", "))
		n.log.Error("files not taken over", "reason", why)
		n.mu.Lock()
		if n.warnings == nil {
			n.warnings = make(map[string]string)
		}
		n.warnings[name] = why
		n.mu.Unlock()
	}
	return target
}
