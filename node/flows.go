package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// startAll starts the flows. In a cluster no change is made meanwhile: what is gathered somewhere is not opened here.
func (n *Node) startAll(ctx context.Context, files *flowdef.Set) error {
	if n.members == nil {
		n.change.Lock()
		defer n.change.Unlock()
		return n.startFlows(ctx, files)
	}
	err := n.changing(ctx, "start of node "+n.opt.NodeName, func() error { return n.startFlows(ctx, files) })
	n.members.mu.Lock()
	n.members.started = true
	n.members.mu.Unlock()
	return err
}

// startFlows starts what the catalog has, each flow at the revision that it was at, and then applies files. The caller
// holds n.change.
func (n *Node) startFlows(ctx context.Context, files *flowdef.Set) error {
	target := n.set
	if files != nil {
		target = n.set.Overlay(files)
		if err := lint(target, n.opt.Functions, false, n.connectors).Errors().Err(); err != nil {
			return err
		}
	}
	names := slices.Sorted(maps.Keys(n.catalog.Flows))
	for _, name := range names {
		e := n.catalog.Flows[name]
		if e.Paused || len(e.Documents) == 0 {
			continue
		}
		begin := time.Now()
		if err := n.startEntry(ctx, name, e); err != nil {
			if ctx.Err() != nil {
				return err
			}
			n.problem(name, err)
			continue
		}
		n.log.Info("flow runs", "flow", name, "revision", e.Revision, "recovered_in", time.Since(begin).Round(time.Millisecond).String())
	}
	target = n.keepStates(ctx, target)
	defer n.startShadows(ctx)
	// A flow that cannot run, for want of a connector say, is a problem of its own: the others run.
	err := n.apply(ctx, target, api.Approval{By: "kisnode", Note: "--flows"})
	var failed *flowError
	if errors.As(err, &failed) && ctx.Err() == nil {
		return nil
	}
	return err
}

// flowError is what keeps flows from running, each with its reason; the definitions were taken over.
type flowError struct {
	error
	flows []string
}

func (e *flowError) Unwrap() error { return e.error }

func (n *Node) problem(flow string, err error) {
	n.log.Error("flow does not run", "flow", flow, "error", err)
	n.mu.Lock()
	n.problems[flow] = err.Error()
	n.mu.Unlock()
}

// startEntry starts a flow as the catalog has it.
func (n *Node) startEntry(ctx context.Context, name string, e *flowEntry) error {
	set, err := setOf(e.Documents)
	if err != nil {
		return err
	}
	def := flowNamed(set, name)
	if def == nil || !def.Enabled {
		return nil
	}
	f, err := n.planner.plan(ctx, set.With(e.Outside), def, e.Revision, e.Starts)
	if err != nil {
		return err
	}
	e.layOut(f)
	return n.startEntryFlow(ctx, f, e)
}

// start starts a flow and says how its recovery goes while it takes time.
func (n *Node) start(ctx context.Context, f *actors.Flow) error {
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with this function
		for wait := time.Second; ; wait = 5 * time.Second {
			select {
			case <-done:
				return
			case <-time.After(wait):
			}
			if r := n.system.Flow(f.Name); r != nil {
				ready, all, read, of := r.Progress()
				n.log.Info("recovering", "flow", f.Name, "partitions", fmt.Sprintf("%d/%d", ready, all), "log_read", fmt.Sprintf("%d/%d", read, of))
			}
		}
	}()
	_, err := n.system.Start(ctx, f)
	n.mu.Lock()
	delete(n.problems, f.Name)
	n.mu.Unlock()
	return err
}

// apply makes a set of definitions the node's: it starts flows that are new, switches those whose definitions
// have changed, stops those that are disabled, and writes the catalog at each flow's exact place. The caller
// holds n.change and has linted the set.
func (n *Node) apply(ctx context.Context, target *flowdef.Set, ok api.Approval) error {
	n.mu.Lock()
	n.set = target
	n.catalog.Definitions = documentsOf(target)
	n.mu.Unlock()
	written := false
	save := func() error {
		written = true
		return n.catalog.save(ctx, n.streams)
	}
	var errs []error
	var failed []string
	for _, def := range target.Flows {
		if err := n.applyFlow(ctx, target, def, ok, save); err != nil {
			n.problem(def.Name, err)
			errs, failed = append(errs, fmt.Errorf("flow %s: %w", def.Name, err)), append(failed, def.Name)
		}
	}
	if docs := fingerprint(n.catalog.Definitions); !written && docs != n.lastSaved {
		if err := save(); err != nil {
			return err
		}
	}
	n.lastSaved = fingerprint(n.catalog.Definitions)
	if len(errs) > 0 {
		return &flowError{errors.Join(errs...), failed}
	}
	return nil
}

func (n *Node) applyFlow(ctx context.Context, target *flowdef.Set, def *flowdef.Flow, ok api.Approval, save func() error) error {
	docs := documentsFor(target, def)
	n.mu.Lock()
	e := n.catalog.Flows[def.Name]
	n.mu.Unlock()
	running := n.system.Flow(def.Name)
	outside := outside(target, def, e)
	target = target.With(outside)
	same := e != nil && fingerprint(e.Documents) == fingerprint(docs) && outside.Equal(e.Outside)
	if same && (running != nil || e.Paused || !def.Enabled) {
		return nil
	}
	if e != nil && running != nil { // what changes concerns all of its partitions
		scatter, err := n.gather(ctx, def.Name)
		if err != nil {
			return err
		}
		defer scatter()
	}
	next := &flowEntry{Revision: 1, UpdatedAt: time.Now().UTC(), Starts: make(starts), Documents: docs, Outside: outside,
		Partitions: cmp.Or(n.opt.Partitions, actors.DefaultPartitions)}
	next.By, next.Note = ok.By, ok.Note
	if e != nil {
		if len(e.Removing) > 0 && running != nil { // a step that comes back begins without what it has left
			if err := n.finishRemovals(ctx, def.Name, e, running); err != nil {
				return err
			}
		}
		next.Revision, next.Paused, next.Starts, next.Removing, next.Begun = e.Revision, e.Paused, maps.Clone(e.Starts), slices.Clone(e.Removing), e.Begun
		next.Partitions, next.Generation = e.Partitions, e.Generation
		if !same {
			var leaves []removal
			leaves, next.Begun = n.succession(e, target, def.Name)
			next.Revision, next.Removing = e.Revision+1, append(next.Removing, leaves...)
		} else {
			next.By, next.Note, next.UpdatedAt = e.By, e.Note, e.UpdatedAt
		}
	}
	put := func() error {
		if e == nil || next.Revision != e.Revision {
			if err := n.keepRevision(ctx, def.Name, next); err != nil {
				return err
			}
		}
		n.mu.Lock()
		n.catalog.Flows[def.Name] = next
		n.mu.Unlock()
		err := save()
		if err != nil && !errors.Is(err, transport.ErrDoubt) { // certainly not written: what was stays
			n.mu.Lock()
			if n.catalog.Flows[def.Name] = e; e == nil {
				delete(n.catalog.Flows, def.Name)
			}
			n.mu.Unlock()
		}
		return err
	}
	if !def.Enabled || next.Paused {
		if err := n.stand(ctx, running); err != nil {
			return err
		}
		return put()
	}
	f, err := n.planner.plan(ctx, target, def, next.Revision, next.Starts)
	if err != nil {
		return err
	}
	next.layOut(f)
	if running == nil {
		if err := put(); err != nil {
			return err
		}
		if err := n.startEntryFlow(ctx, f, next); err != nil {
			return err
		}
		n.log.Info("flow runs", "flow", def.Name, "revision", next.Revision)
		return nil
	}
	if err := running.Change(ctx, f, put); err != nil {
		return err
	}
	n.log.Info("flow changed", "flow", def.Name, "revision", next.Revision)
	if err := n.finishRemovals(ctx, def.Name, next, running); err != nil {
		n.log.Warn("what is of no use any more is still there; it is removed before the flow starts the next time", "flow", def.Name, "error", err)
	}
	return nil
}

// setFlow pauses, resumes or deletes a flow.
func (n *Node) setFlow(ctx context.Context, name string, action api.Action) error {
	return n.changing(ctx, string(action)+" flow "+name, func() error { return n.setFlowNow(ctx, name, action) })
}

func (n *Node) setFlowNow(ctx context.Context, name string, action api.Action) error {
	n.mu.Lock()
	e := n.catalog.Flows[name]
	n.mu.Unlock()
	if e == nil {
		return api.Errorf(api.ErrNotFound, "no flow %s", name)
	}
	running := n.system.Flow(name)
	switch action {
	case api.ActionPause:
		e.Paused = true
		if err := n.catalog.save(ctx, n.streams); err != nil {
			return err
		}
		if err := n.pauseShadow(ctx, name); err != nil {
			return err
		}
		return n.stand(ctx, running)
	case api.ActionResume:
		if e.Paused {
			e.Paused = false
			if err := n.catalog.save(ctx, n.streams); err != nil {
				return err
			}
		}
		if running != nil {
			if shadow := n.system.Flow(shadowName(name)); shadow != nil {
				if err := shadow.Reopen(ctx, true); err != nil {
					return err
				}
			}
			return errors.Join(running.Reopen(ctx, true), n.reopenElsewhere(ctx, name))
		}
		if err := n.startEntry(ctx, name, e); err != nil {
			return err
		}
		return n.resumeShadow(ctx, name)
	case api.ActionResumeBeginning, api.ActionResumeNow:
		if running == nil || e.Paused {
			return api.Errorf(api.ErrConflict, "flow %s does not run; resume it first, then say where to read its input", name)
		}
		scatter, err := n.gather(ctx, name)
		if err != nil {
			return err
		}
		defer scatter()
		return running.AcceptInputs(ctx, action == api.ActionResumeNow)
	case api.ActionDelete:
		return n.deleteFlow(ctx, name, running)
	}
	return api.Errorf(api.ErrInvalid, "unknown action %q; it is pause, resume, resume-beginning, resume-now or delete", action)
}

// stand stops a flow that may be changed while it stands: where its partitions have read to is on the disk then, for the
// check of a revision that deals the input by another key.
func (n *Node) stand(ctx context.Context, running *actors.Running) error {
	if running == nil {
		return nil
	}
	if err := running.Stop(ctx); err != nil {
		return err
	}
	return n.db.Flush()
}

// deleteFlow removes a flow, its state, its dead letters and its logs. The catalog is written first: after a
// crash in the middle nothing starts, and what is left over is removed by another delete of a flow of that name.
func (n *Node) deleteFlow(ctx context.Context, name string, running *actors.Running) error {
	if running != nil {
		if err := running.Stop(ctx); err != nil {
			return err
		}
	}
	if err := n.endShadow(ctx, name); err != nil {
		return err
	}
	n.mu.Lock()
	revision := uint64(0)
	if e := n.catalog.Flows[name]; e != nil {
		revision = e.Revision
	}
	delete(n.catalog.Flows, name)
	delete(n.problems, name)
	n.set.Flows = slices.DeleteFunc(slices.Clone(n.set.Flows), func(f *flowdef.Flow) bool { return f.Name == name })
	n.catalog.Definitions = documentsOf(n.set)
	n.mu.Unlock()
	if err := n.catalog.save(ctx, n.streams); err != nil {
		return err
	}
	if err := n.spread(ctx); err != nil { // whoever writes to the logs yet finds them gone
		n.log.Warn("a deleted flow has not stopped everywhere yet", "flow", name, "error", err)
	}
	return errors.Join(n.dropRevisions(ctx, name, revision), n.dropFlow(ctx, name))
}

// reopenElsewhere opens a flow's partitions again on the other nodes.
func (n *Node) reopenElsewhere(ctx context.Context, name string) error {
	if n.members == nil {
		return nil
	}
	_, err := n.members.each(ctx, reopenMethod, nodeCall{Flow: name})
	return err
}

// dropStores removes what the partitions of a flow that does not run have kept on this node.
func (n *Node) dropStores(name string) error {
	partitions, err := n.db.Partitions()
	if err != nil {
		return err
	}
	for _, p := range partitions {
		if actors.FlowOfPartition(p) == name {
			err = errors.Join(err, n.db.Drop(p))
		}
	}
	return err
}

// dropFlow removes what a flow that does not run has kept: its state, its dead letters, its logs.
func (n *Node) dropFlow(ctx context.Context, name string) error {
	err := n.dropStores(name)
	names, lerr := n.objects.List(ctx, actors.Token(name)+"/")
	err = errors.Join(err, lerr)
	for _, o := range names {
		err = errors.Join(err, n.objects.Delete(ctx, o))
	}
	return errors.Join(err, n.streams.Delete(ctx, actors.LogStream(name)), n.streams.Delete(ctx, actors.HandOffStream(name)))
}

// mergedParams are a step's parameters as it meets them.
func mergedParams(fn *flowdef.Func, s *flowdef.Step) kis.Params {
	p := maps.Clone(fn.Option.DefaultParams)
	if p == nil {
		p = make(map[string]string)
	}
	maps.Copy(p, s.Params)
	return p
}
