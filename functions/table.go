package functions

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kisflow/kisflow/kis"
)

// table runs a Load as a table: what comes in through the hand-off is kept, the latest row of each key; what comes
// from the step before goes on with fields of it.
type table struct {
	latestRows
	frame   *frame
	sets    []emit // nil: all fields that the row lacks
	missing string
	build   kis.Builder
	values  []kis.Value
}

// table checks a Load as a table.
func (b *builder) table(body *Load) func(*frame) (kis.Runner, error) {
	if len(b.spec.Must) == 0 {
		b.wrong("load.as", "name the fields by which rows are looked up in source: {must: [...]}", "a table has a row for each key, and the function has none")
	}
	see := b.see().also(further{name: "table", at: 0, row: true, shape: b.side("table"), null: body.Missing == "" || body.Missing == "pass"})
	sets := b.emits("load.set", body.Set, see)
	for _, e := range body.Set {
		if slices.Contains(b.spec.Must, e.Name) {
			b.wrong("load.set."+e.Name, "", "%s is a field of the key", e.Name)
		}
	}
	switch body.Missing {
	case "", "pass", "drop", "dead_letter":
	default:
		b.wrong("load.missing", "pass, drop or dead_letter", "unknown word %q", body.Missing)
	}
	return func(f *frame) (kis.Runner, error) {
		return &table{frame: f, sets: sets, missing: body.Missing, values: make([]kis.Value, len(sets))}, nil
	}
}

// Handle keeps a row of the table, or adds fields of it to a row of the stream.
func (r *table) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	s, _ := c.State.(*latestRow)
	if s == nil {
		return kis.Stop(errors.New("a table was called without the state of its key"))
	}
	f, row := r.frame, c.Rows[0]
	if c.Loaded {
		return s.keep(row, c.Metas[0], false)
	}
	if s.text == nil {
		switch r.missing {
		case "drop":
			return kis.Drop(errors.New("the table has no row of this key"))
		case "dead_letter":
			return errors.New("the table has no row of this key")
		}
		if r.sets == nil {
			c.Emit(row)
			return nil
		}
	} else if s.row == nil {
		kept, err := kis.ParseRow(s.text)
		if err != nil {
			return kis.Stop(fmt.Errorf("the table's row: %w", err))
		}
		s.row = kept
	}
	f.show(c)
	defer r.done()
	f.rows[0] = s.row
	for i := range r.sets {
		v, err := r.sets[i].expr.run(f)
		if err != nil {
			return err
		}
		r.values[i] = v
	}
	r.build.Begin()
	for i := range row.Len() {
		field := row.At(i)
		if !slices.ContainsFunc(r.sets, func(s emit) bool { return s.name == field.Name }) {
			r.build.Add(field.Name, field.Value)
		}
	}
	for i := range r.sets {
		r.build.Add(r.sets[i].name, r.values[i])
	}
	if r.sets == nil {
		for i := range s.row.Len() {
			field := s.row.At(i)
			if _, there := row.Get(field.Name); !there {
				r.build.Add(field.Name, field.Value)
			}
		}
	}
	c.Emit(r.build.End())
	return nil
}

// done lets go of the row that was handled.
func (r *table) done() {
	r.frame.hide()
	clear(r.values)
}
