package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

// Plan implements api.Backend.
func (n *Node) Plan(_ context.Context, files []api.File) (api.Plan, error) {
	p, _ := n.planOf(files)
	return p, nil
}

// planOf compares files with what is defined.
func (n *Node) planOf(files []api.File) (api.Plan, *flowdef.Set) {
	over := new(flowdef.Set)
	var mistakes flowdef.Mistakes
	h := sha256.New()
	for _, f := range files {
		mistakes = append(mistakes, flowdef.Parse(f.Name, []byte(f.Text), over)...)
		fmt.Fprintf(h, "%d:%s", len(f.Text), f.Text)
	}
	n.mu.Lock()
	base, sequence := n.set, n.catalog.sequence
	revisions := make(map[string]uint64)
	for name, e := range n.catalog.Flows {
		revisions[name] = e.Revision
	}
	n.mu.Unlock()
	target := base.Overlay(over)
	named := make(map[string]bool)
	for _, f := range files {
		named[f.Name] = true
	}
	for _, m := range Lint(target, n.opt.Functions, true) {
		if m.Severity == flowdef.Error || named[m.Pos.File] { // what was accepted before is not warned of again
			mistakes = append(mistakes, m)
		}
	}
	mistakes.Sort()
	fmt.Fprintf(h, "@%d", sequence)
	p := api.Plan{ID: hex.EncodeToString(h.Sum(nil)[:8]), Mistakes: api.FromMistakes(mistakes), Changes: []api.Change{}, Revision: sequence + 1}
	for _, c := range flowdef.Diff(base, target) {
		change := api.Change{Kind: c.Kind, Name: c.Name, Action: c.Change, Diff: strings.Join(c.Lines, "\n"), Notes: []string{}}
		if c.Kind == "flow" {
			change.Notes = notes(base, target, c.Name, revisions[c.Name])
		}
		p.Changes = append(p.Changes, change)
	}
	return p, target
}

// takeBack gives flows that could not be changed the definitions that they had, and removes those that are new:
// what was refused is not defined.
func (n *Node) takeBack(ctx context.Context, before, target *flowdef.Set, flows []string) error {
	kept := target.Overlay(nil)
	var docs []document
	for _, name := range flows {
		if def := flowNamed(before, name); def != nil {
			docs = append(docs, documentsFor(before, def)...)
			continue
		}
		kept.Flows = slices.DeleteFunc(kept.Flows, func(f *flowdef.Flow) bool { return f.Name == name })
		n.mu.Lock()
		delete(n.catalog.Flows, name)
		delete(n.problems, name)
		n.mu.Unlock()
	}
	old, err := setOf(docs)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.set = kept.Overlay(old)
	n.catalog.Definitions = documentsOf(n.set)
	for _, name := range flows {
		if r := n.system.Flow(name); r != nil {
			delete(n.problems, name) // it runs as before
		}
	}
	n.lastSaved = fingerprint(n.catalog.Definitions)
	n.mu.Unlock()
	return n.catalog.save(ctx, n.streams)
}

// notes says what a change does to a flow's state.
func notes(base, target *flowdef.Set, name string, revision uint64) []string {
	from, to := flowNamed(base, name), flowNamed(target, name)
	out := []string{}
	if to != nil && !to.Enabled {
		out = append(out, "the flow is disabled (status: 0): it does not run")
	}
	if from == nil || to == nil {
		return out
	}
	out = append(out, fmt.Sprintf("revision %d becomes %d at one place of the input", revision, revision+1))
	after := make(map[string]string)
	for _, s := range to.Steps {
		if fn := target.Funcs[s.Function.Value]; fn != nil {
			after[s.Name] = strings.Join(mustOf(fn), ",")
		}
	}
	for _, s := range from.Steps {
		fn := base.Funcs[s.Function.Value]
		if fn == nil || fn.Calculate == nil {
			continue
		}
		key, there := after[s.Name]
		switch {
		case !there:
			out = append(out, fmt.Sprintf("step %s goes: its state stays in the store, unused, until a step of that name and key is back", s.Name))
		case key != strings.Join(mustOf(fn), ","):
			out = append(out, fmt.Sprintf("step %s gets another key: it begins without state", s.Name))
		default:
			out = append(out, fmt.Sprintf("step %s keeps its state", s.Name))
		}
	}
	return out
}

// Apply implements api.Backend.
func (n *Node) Apply(ctx context.Context, files []api.File, planID string) (api.Plan, error) {
	n.change.Lock()
	defer n.change.Unlock()
	p, target := n.planOf(files)
	for _, m := range p.Mistakes {
		if m.Severity != api.SeverityWarning {
			return p, api.Invalid(p.Mistakes)
		}
	}
	if planID != "" && planID != p.ID {
		return p, api.Errorf(api.ErrConflict, "the definitions have changed since the plan was made; look at the new one and apply again")
	}
	if len(p.Changes) == 0 {
		return p, nil
	}
	n.mu.Lock()
	before := n.set
	n.mu.Unlock()
	if err := n.apply(ctx, target); err != nil {
		var failed *flowError
		if errors.As(err, &failed) {
			err = errors.Join(err, n.takeBack(ctx, before, target, failed.flows))
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return p, api.Errorf(api.ErrUnavailable, "%s", err)
		}
		return p, api.Errorf(api.ErrInvalid, "%s", err)
	}
	return p, nil
}
