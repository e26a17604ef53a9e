package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/transport"
)

// The revisions of flows are kept in a stream of their own, a message each. It is written before the catalog: a
// revision that the catalog never took up is written over by the next one of its number.
const (
	revisionStream   = "KISFLOW_REVISIONS"
	revisionSubjects = "KISFLOW.revision.>"
)

func revisionSubject(flow string, revision uint64) string {
	return "KISFLOW.revision." + actors.Token(flow) + "." + strconv.FormatUint(revision, 10)
}

// keptRevision is a revision as it is stored.
type keptRevision struct {
	Format    int        `json:"format"` // 1
	Flow      string     `json:"flow"`
	Revision  uint64     `json:"revision"`
	UpdatedAt time.Time  `json:"updated_at"`
	By        string     `json:"by,omitempty"`
	Note      string     `json:"note,omitempty"`
	Documents []document `json:"documents"`
}

// keepRevision stores a revision that is about to be taken up, and cuts the one that is too old.
func (n *Node) keepRevision(ctx context.Context, flow string, e *flowEntry) error {
	if _, err := n.streams.Ensure(ctx, transport.Config{Name: revisionStream, Subjects: []string{revisionSubjects}, Description: madeByUs + "revisions of flows"}); err != nil {
		return fmt.Errorf("revisions: %w", err)
	}
	b, err := json.Marshal(keptRevision{1, flow, e.Revision, e.UpdatedAt, e.By, e.Note, e.Documents})
	if err != nil {
		return err
	}
	at, err := n.streams.Append(ctx, revisionStream, transport.Outgoing{Subject: revisionSubject(flow, e.Revision), Data: b})
	if err != nil && !errors.Is(err, transport.ErrDoubt) { // in doubt it may be missing from the list; nothing else hangs on it
		return fmt.Errorf("revisions: %w", err)
	}
	if e.Revision > api.MaxRevisions {
		_ = n.streams.Cut(ctx, revisionStream, revisionSubject(flow, e.Revision-api.MaxRevisions), at) // what is left over is only not listed
	}
	return nil
}

// dropRevisions removes the revisions of a flow that is deleted.
func (n *Node) dropRevisions(ctx context.Context, flow string, newest uint64) error {
	info, err := n.streams.Info(ctx, revisionStream)
	if errors.Is(err, transport.ErrNotFound) {
		return nil
	}
	for r := newest; err == nil && r > 0 && r+api.MaxRevisions > newest; r-- {
		err = n.streams.Cut(ctx, revisionStream, revisionSubject(flow, r), info.Last+1)
	}
	return err
}

// entryOf returns a copy of what the catalog knows of a flow.
func (n *Node) entryOf(flow string) (*flowEntry, error) {
	n.mu.Lock()
	e := n.catalog.Flows[flow]
	n.mu.Unlock()
	if e == nil {
		return nil, api.Errorf(api.ErrNotFound, "no flow %q; %s", flow, n.flowNames())
	}
	return e, nil // an entry is not changed where it matters here: another revision is another entry
}

// revision reads one revision of a flow; ErrNotFound where it is not kept.
func (n *Node) revision(ctx context.Context, flow string, e *flowEntry, revision uint64) (*keptRevision, error) {
	if revision == e.Revision {
		return &keptRevision{1, flow, e.Revision, e.UpdatedAt, e.By, e.Note, e.Documents}, nil
	}
	missing := api.Errorf(api.ErrNotFound, "flow %s has no revision %d; it is at %d, and the newest %d are kept", flow, revision, e.Revision, api.MaxRevisions)
	if revision > e.Revision || revision+api.MaxRevisions <= e.Revision {
		return nil, missing
	}
	m, err := n.streams.LastOn(ctx, revisionStream, revisionSubject(flow, revision))
	if errors.Is(err, transport.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, fmt.Errorf("revisions: %w", err)
	}
	k := new(keptRevision)
	if err := json.Unmarshal(m.Data, k); err != nil {
		return nil, fmt.Errorf("revisions: message %d of %s: %w", m.Sequence, revisionStream, err)
	}
	if k.Format != 1 {
		return nil, fmt.Errorf("revisions: format %d was written by a newer version; this one reads 1", k.Format)
	}
	return k, nil
}

func (k *keptRevision) summary(current uint64) api.RevisionSummary {
	s := api.RevisionSummary{Flow: k.Flow, Revision: k.Revision, Current: k.Revision == current, AppliedAt: k.UpdatedAt, By: k.By, Note: k.Note, Steps: []string{}}
	if set, err := setOf(k.Documents); err == nil {
		if f := flowNamed(set, k.Flow); f != nil {
			for _, step := range f.Steps {
				s.Steps = append(s.Steps, step.Name)
			}
		}
	}
	return s
}

// Revisions implements api.Backend.
func (n *Node) Revisions(ctx context.Context, flow string, page api.Page) (api.List[api.RevisionSummary], error) {
	var l api.List[api.RevisionSummary]
	e, err := n.entryOf(flow)
	if err != nil {
		return l, err
	}
	at := e.Revision
	if page.After != "" {
		if at, err = strconv.ParseUint(page.After, 10, 64); err != nil || at == 0 || at > e.Revision {
			return l, api.Errorf(api.ErrInvalid, "after is %q; it must be the next of a list", page.After)
		}
		at--
	}
	for ; at > 0 && at+api.MaxRevisions > e.Revision; at-- {
		if page.Limit > 0 && len(l.Items) == page.Limit {
			l.Next = strconv.FormatUint(at+1, 10)
			break
		}
		k, err := n.revision(ctx, flow, e, at)
		if errors.Is(err, api.ErrNotFound) {
			continue // it is older than the list
		}
		if err != nil {
			return l, err
		}
		l.Items = append(l.Items, k.summary(e.Revision))
	}
	return l, nil
}

// Revision implements api.Backend.
func (n *Node) Revision(ctx context.Context, flow string, revision uint64) (api.Revision, error) {
	e, err := n.entryOf(flow)
	if err != nil {
		return api.Revision{}, err
	}
	if revision == 0 {
		revision = e.Revision
	}
	k, err := n.revision(ctx, flow, e, revision)
	if err != nil {
		return api.Revision{}, err
	}
	return api.Revision{RevisionSummary: k.summary(e.Revision), Files: filesOf(k.Documents)}, nil
}

// filesOf makes one file of each definition, named by the file that it was in.
func filesOf(docs []document) []api.File {
	files := []api.File{}
	for _, d := range docs {
		files = append(files, api.File{Name: d.File, Text: d.Text})
	}
	return files
}

// definitionsOf are the documents of a flow's entry as a set; an empty set if there is none.
func definitionsOf(e *flowEntry) *flowdef.Set {
	if e == nil {
		return &flowdef.Set{}
	}
	set, _ := setOf(e.Documents) // what was accepted once is read as far as it can be
	return set.With(e.Outside)
}
