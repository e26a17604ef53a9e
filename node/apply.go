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
func (n *Node) Plan(ctx context.Context, files []api.File) (api.Plan, error) {
	p, _ := n.planOf(ctx, files)
	return p, nil
}

// planOf compares files with what is defined.
func (n *Node) planOf(ctx context.Context, files []api.File) (api.Plan, *flowdef.Set) {
	over := new(flowdef.Set)
	var mistakes flowdef.Mistakes
	h := sha256.New()
	for _, f := range files {
		if !isScript(f) {
			mistakes = append(mistakes, flowdef.ParseWith(f.Name, []byte(f.Text), over, scriptsAmong(files, f.Name))...)
		}
		fmt.Fprintf(h, "%d:%s", len(f.Text), f.Text)
	}
	n.mu.Lock()
	base, sequence := n.set, n.catalog.sequence
	n.mu.Unlock()
	target := base.Overlay(over)
	named := make(map[string]bool)
	for _, f := range files {
		named[f.Name] = true
	}
	for _, m := range lint(target, n.opt.Functions, true, n.connectors) {
		if m.Severity == flowdef.Error || named[m.Pos.File] { // what was accepted before is not warned of again
			mistakes = append(mistakes, m)
		}
	}
	mistakes.Sort()
	fmt.Fprintf(h, "@%d", sequence)
	p := api.Plan{ID: hex.EncodeToString(h.Sum(nil)[:8]), Mistakes: api.FromMistakes(mistakes), Changes: []api.Change{}, Flows: []api.FlowPlan{},
		Revision: sequence + 1}
	diff := flowdef.Diff(base, target)
	for _, c := range diff {
		p.Changes = append(p.Changes, api.Change{Kind: c.Kind, Name: c.Name, Action: c.Change, Diff: strings.Join(c.Lines, "\n"), Notes: []string{}})
	}
	if len(mistakes.Errors()) == 0 { // else it would not be what is meant
		for _, name := range n.touched(target, affected(target, diff)) {
			p.Flows = append(p.Flows, n.flowPlan(ctx, target, name))
		}
		p.Notes = n.filesSayElse(target, diff)
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

// Apply implements api.Backend.
func (n *Node) Apply(ctx context.Context, files []api.File, ok api.Approval) (api.Plan, error) {
	var p api.Plan
	err := n.changing(ctx, "apply", func() (err error) {
		p, err = n.applyFiles(ctx, files, ok, "")
		return err
	})
	return p, err
}

// applyFiles applies files. The caller holds n.change; promoted is the flow whose shadow ends by it, or "".
func (n *Node) applyFiles(ctx context.Context, files []api.File, ok api.Approval, promoted string) (api.Plan, error) {
	p, target := n.planOf(ctx, files)
	for _, m := range p.Mistakes {
		if m.Severity != api.SeverityWarning {
			return p, api.Invalid(p.Mistakes)
		}
	}
	if ok.Plan != "" && ok.Plan != p.ID {
		return p, api.Errorf(api.ErrConflict, "the definitions have changed since the plan was made; look at the new one and apply again")
	}
	if len(p.Changes) == 0 {
		return p, nil
	}
	if err := n.allowed(p.Flows, ok, promoted); err != nil {
		return p, err
	}
	n.mu.Lock()
	before := n.set
	n.mu.Unlock()
	if err := n.apply(ctx, target, ok); err != nil {
		var failed *flowError
		if errors.As(err, &failed) {
			err = errors.Join(err, n.takeBack(ctx, before, target, failed.flows))
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return p, api.Errorf(api.ErrUnavailable, "%s", err)
		}
		return p, api.Errorf(api.ErrInvalid, "%s", err)
	}
	n.mu.Lock()
	for _, f := range p.Flows {
		delete(n.warnings, f.Flow)
	}
	n.mu.Unlock()
	return p, nil
}
