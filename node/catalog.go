package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/transport"
)

const (
	catalogStream  = "KISFLOW_CATALOG"
	catalogSubject = "KISFLOW.catalog"
	catalogKept    = 50 // older states of the catalog are cut
)

// catalog is everything that is defined: one message of its stream for every change, the last one counts. Each
// names the sequence of the one before it, so two writers never mix.
type catalog struct {
	Format      int                   `json:"format"` // 1
	Definitions []document            `json:"definitions"`
	Flows       map[string]*flowEntry `json:"flows"`
	// Shadows are the revisions that run beside those that count, by flow.
	Shadows map[string]*shadowEntry `json:"shadows,omitempty"`

	sequence uint64
}

// document is one definition as it was written.
type document struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	File string `json:"file"`
	Text string `json:"text"`
}

// flowEntry is what the catalog knows of a flow beside its definition.
type flowEntry struct {
	Revision  uint64     `json:"revision"`
	UpdatedAt time.Time  `json:"updated_at"`
	Paused    bool       `json:"paused,omitempty"`
	Starts    starts     `json:"starts"`
	Documents []document `json:"documents"`    // the definitions of the revision that runs: its own, its functions', their connectors'
	By        string     `json:"by,omitempty"` // who applied it
	Note      string     `json:"note,omitempty"`
	// Outside is what the revision takes from definitions of other flows.
	Outside  flowdef.Outside `json:"outside,omitzero"`
	Removing []removal       `json:"removing,omitempty"` // what this revision has made of no use, and is still there
	// Begun is the revision with which each step began: as what it is now, with what it keeps.
	Begun map[string]uint64 `json:"begun,omitempty"`
	// Partitions and Generation are the layout of the flow: how many partitions each stage has (0: the node's default), and
	// which layout it is (0: the first one).
	Partitions int    `json:"partitions,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
}

// layOut tells a flow's plan its layout, and its steps with which revision they began.
func (e *flowEntry) layOut(f *actors.Flow) {
	f.Partitions, f.Generation = e.Partitions, e.Generation
	begin(f, e.Begun)
}

// loadCatalog reads the newest catalog, an empty one if there is none.
func loadCatalog(ctx context.Context, s transport.Streams) (*catalog, error) {
	if _, err := s.Ensure(ctx, transport.Config{Name: catalogStream, Subjects: []string{catalogSubject}, Description: madeByUs + "definitions"}); err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	c := &catalog{Format: 1, Flows: make(map[string]*flowEntry)}
	m, err := s.LastOn(ctx, catalogStream, catalogSubject)
	if errors.Is(err, transport.ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if err := json.Unmarshal(m.Data, c); err != nil {
		return nil, fmt.Errorf("catalog: message %d of %s: %w", m.Sequence, catalogStream, err)
	}
	if c.Format != 1 {
		return nil, fmt.Errorf("catalog: format %d was written by a newer version; this one reads 1", c.Format)
	}
	c.sequence = m.Sequence
	return c, nil
}

// save writes the catalog as the next one. In doubt it reads back what is there.
func (c *catalog) save(ctx context.Context, s transport.Streams) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		seq, err := s.Append(ctx, catalogStream, transport.Outgoing{Subject: catalogSubject, Data: b, Expect: &transport.Expect{Sequence: c.sequence}})
		if err == nil {
			c.sequence = seq
			break
		}
		if errors.Is(err, transport.ErrFenced) && try > 0 {
			m, rerr := s.LastOn(ctx, catalogStream, catalogSubject)
			if rerr == nil && string(m.Data) == string(b) {
				c.sequence = m.Sequence
				break
			}
		}
		if !errors.Is(err, transport.ErrDoubt) || try >= 5 {
			return fmt.Errorf("catalog: %w", err)
		}
	}
	if c.sequence > catalogKept {
		_ = s.Cut(ctx, catalogStream, "", c.sequence-catalogKept) // what is left over is cut next time
	}
	return nil
}

// documentsOf lists the definitions of a set, but for the global one.
func documentsOf(set *flowdef.Set) []document {
	var docs []document
	for _, d := range set.Definitions() {
		doc := document{Kind: d.Kind, Name: d.Name, Text: d.Text}
		switch d.Kind {
		case "func":
			doc.File = set.Funcs[d.Name].Pos.File
		case "conn":
			doc.File = set.Conns[d.Name].Pos.File
		case "flow":
			for _, f := range set.Flows {
				if f.Name == d.Name {
					doc.File = f.Pos.File
				}
			}
		}
		docs = append(docs, doc)
	}
	return docs
}

// setOf parses documents, and resolves the names between them.
func setOf(docs []document) (*flowdef.Set, error) {
	set := new(flowdef.Set)
	var mistakes flowdef.Mistakes
	for _, d := range docs {
		mistakes = append(mistakes, flowdef.Parse(d.File, []byte(d.Text), set)...)
	}
	set.Resolve()
	if err := mistakes.Errors().Err(); err != nil {
		return set, fmt.Errorf("catalog: definitions that were accepted before are not any more: %w", err)
	}
	return set, nil
}

// documentsFor are the definitions that a flow is made of.
func documentsFor(set *flowdef.Set, flow *flowdef.Flow) []document {
	want := map[string]bool{"flow " + flow.Name: true}
	for _, s := range flow.Steps {
		fn := set.Funcs[s.Function.Value]
		if fn == nil {
			continue
		}
		want["func "+fn.Name] = true
		if fn.Option.Conn.Value != "" {
			want["conn "+fn.Option.Conn.Value] = true
		}
	}
	return slices.DeleteFunc(documentsOf(set), func(d document) bool { return !want[d.Kind+" "+d.Name] })
}

// fingerprint tells whether two lists of documents say the same; their files do not matter.
func fingerprint(docs []document) string {
	h := sha256.New()
	for _, d := range docs {
		fmt.Fprintf(h, "%s\x00%s\x00%d\x00%s", d.Kind, d.Name, len(d.Text), d.Text)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

func flowNamed(set *flowdef.Set, name string) *flowdef.Flow {
	for _, f := range set.Flows {
		if f.Name == name {
			return f
		}
	}
	return nil
}
