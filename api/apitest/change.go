package apitest

import (
	"context"
	"slices"

	"github.com/kisflow/kisflow/api"
)

// revisionsOf are the revisions of a flow: as many as its number says, all of them with its text as it is.
func revisionsOf(f *api.Flow) []api.Revision {
	var all []api.Revision
	var steps []string
	for _, s := range f.StepList {
		steps = append(steps, s.Name)
	}
	for n := f.Revision; n >= 1; n-- {
		all = append(all, api.Revision{
			RevisionSummary: api.RevisionSummary{Flow: f.Name, Revision: n, Current: n == f.Revision, AppliedAt: f.UpdatedAt, By: "ada@example", Steps: steps},
			Files:           []api.File{{Name: f.File, Text: f.Source}},
		})
	}
	return all
}

// Revisions implements api.Backend.
func (b *Backend) Revisions(ctx context.Context, flow string, p api.Page) (api.List[api.RevisionSummary], error) {
	unlock, err := b.begin(ctx, "Revisions")
	if err != nil {
		return api.List[api.RevisionSummary]{}, err
	}
	defer unlock()
	f, err := b.flow(flow)
	if err != nil {
		return api.List[api.RevisionSummary]{}, err
	}
	var all []api.RevisionSummary
	for _, r := range revisionsOf(f) {
		all = append(all, r.RevisionSummary)
	}
	return page(all, p)
}

// Revision implements api.Backend.
func (b *Backend) Revision(ctx context.Context, flow string, revision uint64) (api.Revision, error) {
	unlock, err := b.begin(ctx, "Revision")
	if err != nil {
		return api.Revision{}, err
	}
	defer unlock()
	f, err := b.flow(flow)
	if err != nil {
		return api.Revision{}, err
	}
	for _, r := range revisionsOf(f) {
		if r.Revision == revision || revision == 0 {
			return r, nil
		}
	}
	return api.Revision{}, api.Errorf(api.ErrNotFound, "flow %q has no revision %d", flow, revision)
}

// StartShadow implements api.Backend.
func (b *Backend) StartShadow(ctx context.Context, files []api.File, ok api.Approval) (api.Plan, error) {
	unlock, err := b.begin(ctx, "StartShadow")
	if err != nil {
		return api.Plan{}, err
	}
	defer unlock()
	p := b.plan(files)
	if len(p.Mistakes) > 0 {
		return api.Plan{}, api.Invalid(p.Mistakes)
	}
	if len(p.Changes) != 1 {
		return api.Plan{}, api.Errorf(api.ErrInvalid, "the files change %d flows; a shadow is of one", len(p.Changes))
	}
	name := p.Changes[0].Name
	if b.shadows[name] != nil {
		return api.Plan{}, api.Errorf(api.ErrConflict, "flow %q has a shadow already; promote or discard it first", name)
	}
	if b.shadows == nil {
		b.shadows = map[string]*api.Shadow{}
	}
	b.shadows[name] = &api.Shadow{Flow: name, Revision: b.revision, StartedAt: Start, By: ok.By, State: api.StateRunning, Files: slices.Clone(files)}
	return p, nil
}

func (b *Backend) shadow(flow string) (*api.Shadow, error) {
	if s := b.shadows[flow]; s != nil {
		return s, nil
	}
	return nil, api.Errorf(api.ErrNotFound, "flow %q has no shadow", flow)
}

// Shadow implements api.Backend.
func (b *Backend) Shadow(ctx context.Context, flow string) (api.Shadow, error) {
	unlock, err := b.begin(ctx, "Shadow")
	if err != nil {
		return api.Shadow{}, err
	}
	defer unlock()
	s, err := b.shadow(flow)
	if err != nil {
		return api.Shadow{}, err
	}
	return *s, nil
}

// ShadowDiff implements api.Backend.
func (b *Backend) ShadowDiff(ctx context.Context, flow string, examples int) (api.ShadowDiff, error) {
	unlock, err := b.begin(ctx, "ShadowDiff")
	if err != nil {
		return api.ShadowDiff{}, err
	}
	defer unlock()
	s, err := b.shadow(flow)
	if err != nil {
		return api.ShadowDiff{}, err
	}
	keys := []api.ShadowKey{
		{Key: api.Bytes(`{"userid":1}`), Flow: api.Bytes(`{"count":1}`), Shadow: api.Bytes(`{"count":2}`)},
		{Key: api.Bytes(`{"userid":2}`), Shadow: api.Bytes(`{"count":2}`)},
	}
	return api.ShadowDiff{
		Shadow:      *s,
		Steps:       []api.ShadowStep{{Step: "totals", Keys: 4, Same: 2, Differ: 1, OnlyShadow: 1, Examples: keys[:min(examples, len(keys))]}},
		Outputs:     []api.ShadowOutput{{Target: "totals.user", Flow: 3, Shadow: 3, OnlyFlow: 1, OnlyShadow: 1, Examples: []string{`- {"count":1}`, `+ {"count":2}`}}},
		DeadLetters: 1,
	}, nil
}

// PromoteShadow implements api.Backend.
func (b *Backend) PromoteShadow(ctx context.Context, flow string, ok api.Approval) (api.Plan, error) {
	unlock, err := b.begin(ctx, "PromoteShadow")
	if err != nil {
		return api.Plan{}, err
	}
	defer unlock()
	s, err := b.shadow(flow)
	if err != nil {
		return api.Plan{}, err
	}
	p, err := b.apply(s.Files, ok)
	if err == nil {
		delete(b.shadows, flow)
	}
	return p, err
}

// DiscardShadow implements api.Backend.
func (b *Backend) DiscardShadow(ctx context.Context, flow string) (api.Shadow, error) {
	unlock, err := b.begin(ctx, "DiscardShadow")
	if err != nil {
		return api.Shadow{}, err
	}
	defer unlock()
	s, err := b.shadow(flow)
	if err != nil {
		return api.Shadow{}, err
	}
	delete(b.shadows, flow)
	return *s, nil
}
