package functions

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kisflow/kisflow/kis"
)

// migration makes states of an earlier version states of this one, each when its key is next used.
type migration struct {
	version uint32
	names   []string
	exprs   []*program
}

// migration compiles what a definition says of its states' version; nil if it says nothing. names are the members
// that a state may have.
func (b *builder) migration(names []string) *migration {
	switch {
	case b.spec.Version == 0 && len(b.spec.Migrate) == 0:
		return nil
	case b.spec.Version < 1 || b.spec.Version > 1<<31:
		b.wrong("version", "version: 2", "migrate says how states of an earlier version become those of this one, so this one has a version, from 1 on")
	}
	m := &migration{version: uint32(b.spec.Version)}
	see := roots{without: map[string]string{}}
	for _, root := range rootNames {
		see.without[root] = "cannot be used in migrate: there is no row; what is known is state and version"
	}
	see = see.also(further{name: "state", at: 0, row: true}, further{name: "version", at: 0, kinds: isInt})
	for i, e := range b.spec.Migrate {
		path := "migrate." + e.Name
		switch {
		case !slices.Contains(names, e.Name):
			b.wrong(path, didYouMean(e.Name, names), "the state has no field %s", e.Name)
		case slices.Contains(m.names, e.Name):
			b.wrong("migrate."+itoa(i), "", "the field %s is there twice", e.Name)
		}
		m.names = append(m.names, e.Name)
		m.exprs = append(m.exprs, b.compile(path, e.Expr, see))
	}
	return m
}

// versioned is a runner whose states have a version.
type versioned struct {
	kis.Runner
	frame     *frame
	migration *migration
}

// Version implements kis.Versioned.
func (r *versioned) Version() uint32 { return r.migration.version }

// Migrate implements kis.Versioned. A field that migrate does not name stays as it is.
func (r *versioned) Migrate(version uint32, encoded []byte) ([]byte, error) {
	old, err := kis.ParseRow(slices.Clone(encoded))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	now := old.Clone()
	defer r.frame.hide()
	for i, e := range r.migration.exprs {
		r.frame.rows[0], r.frame.values[0] = old, kis.IntValue(int64(version))
		v, err := e.run(r.frame)
		if err != nil {
			return nil, err
		}
		now.Set(r.migration.names[i], v)
	}
	return now.AppendJSON(nil), nil
}

// runState is the state of a key with aggregates outside of windows.
type runState struct {
	values []kis.Value // of the fields
	accs   []acc
	rows   bucket // by id, where rows are replaced
	size   int
}

// running runs a calculation with aggregates of all rows of a key, and perhaps further state.
type running struct {
	frame  *frame
	fields []stateField
	aggs   *aggregates
	id     *program // of rows that are replaced; nil: none are
	emits  []emit   // nil: the row itself goes on
	when   *program
	before []bool // aggregates that sets and when look at
	after  []bool // aggregates that emits look at
	looks  bool   // some set or when looks at an aggregate
	init   []kis.Value
	names  []string
	build  kis.Builder

	args    []kis.Value
	view    []kis.Value // what expressions see of the state
	next    []kis.Value
	scratch []acc
	saved   []acc
	back    undo
}

// undo is what takes back the last gather, beside saved.
type undo struct {
	there bool
	id    string
	old   int // the place of the row that was replaced, or -1
	was   keptRow
}

const rowsMember = "@rows"

// Activate reads what Encode wrote.
func (r *running) Activate(encoded []byte) (any, error) {
	s := &runState{values: append(make([]kis.Value, 0, len(r.init)), r.init...), accs: make([]acc, len(r.aggs.list)), size: len(encoded)}
	if len(encoded) == 0 {
		return s, nil
	}
	row, err := kis.ParseRow(encoded)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if err := r.fill(s, row); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return s, nil
}

func (r *running) fill(s *runState, row *kis.Row) (err error) {
	for i := range r.fields {
		if v, ok := row.Get(r.fields[i].name); ok {
			s.values[i] = owned(v)
		}
	}
	for i := range r.aggs.list {
		a := &r.aggs.list[i]
		v, ok := row.Get(a.name)
		if !ok {
			continue
		}
		if s.accs[i], err = a.kind.decode(v); err != nil {
			return fmt.Errorf("aggregate %s: %w", a.name, err)
		}
	}
	if v, ok := row.Get(rowsMember); ok && r.id != nil {
		if s.rows.rows, err = decodeRows(v.Text(), true, r.aggs.args); err != nil {
			return err
		}
	}
	return nil
}

// Encode writes the fields and the aggregates as members of one object.
func (r *running) Encode(dst []byte, state any) ([]byte, error) {
	s, ok := state.(*runState)
	if !ok || s == nil {
		return dst, nil
	}
	return r.encode(dst, s), nil
}

func (r *running) encode(dst []byte, s *runState) []byte {
	dst = append(dst, '{')
	for i := range r.fields {
		dst = s.values[i].AppendJSON(append(dst, r.names[i]...))
		dst = append(dst, ',')
	}
	dst = r.aggs.encode(dst, s.accs)
	if r.id != nil {
		dst = append(dst, `,"@rows":`...)
		dst = encodeRows(dst, s.rows.rows)
	}
	return append(dst, '}')
}

// Handle adds a row.
func (r *running) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	f := r.frame
	f.show(c)
	defer r.done()
	s, _ := c.State.(*runState)
	if s == nil {
		return kis.Stop(errors.New("a calculation was called without the state of its key"))
	}
	copy(r.view, s.values)
	if f.state = r.view; r.looks {
		if err := r.aggs.results(f, s.accs, 0, r.before, r.view[len(r.fields):]); err != nil {
			return err
		}
	}
	if r.when != nil {
		if applies, err := r.when.truth(f); err != nil {
			return err
		} else if !applies {
			c.Emit(c.Rows[0])
			return nil
		}
	}
	if err := r.aggs.arguments(f, r.args); err != nil {
		return err
	}
	grows := 0
	for i := range r.fields {
		v, err := r.fields[i].set.run(f)
		if err != nil {
			return err
		}
		r.next[i] = v
		grows += size(v)
	}
	for _, v := range r.args {
		grows += size(v)
	}
	id, t := "", c.Metas[0].Time.UnixMilli()
	if r.id != nil {
		v, err := r.id.run(f)
		if err != nil {
			return err
		}
		if !scalars.has(v.Kind()) {
			return fmt.Errorf("calculate.replace must be a text, a number, true or false, but it is %s", describe(v))
		}
		id = string(identity(nil, v))
		grows += len(id) + 24
	}
	if s.size+grows > MaxState {
		if s.size = len(r.encode(nil, s)); s.size+grows > MaxState {
			return fmt.Errorf("the state of this key would take more than %d bytes", MaxState)
		}
	}
	if err := r.gather(s, id, t); err != nil {
		return err
	}
	out := c.Rows[0]
	if r.emits != nil {
		copy(r.view, r.next)
		err := r.aggs.results(f, s.accs, 0, r.after, r.view[len(r.fields):])
		if err == nil {
			out, err = emitted(f, r.emits, &r.build)
		}
		if err != nil {
			r.undo(s)
			return err
		}
	}
	for i := range r.next { // nothing can fail from here on
		s.values[i] = replaced(s.values[i], r.next[i])
	}
	s.size += grows
	c.Emit(out)
	return nil
}

// done lets go of the row that was handled.
func (r *running) done() {
	r.frame.hide()
	clear(r.args)
	clear(r.next)
	clear(r.view)
	clear(r.scratch)
	clear(r.saved)
	r.back = undo{}
}

// gather adds the row in hand to the aggregates; undo takes it back. On an error nothing has changed.
func (r *running) gather(s *runState, id string, t int64) (err error) {
	f := r.frame
	old := -1
	if id != "" {
		if old = s.rows.find(id); old >= 0 && t < s.rows.rows[old].t {
			return nil // an older row than the one that is there
		}
	}
	var row keptRow
	if id != "" {
		row = keptRow{t: t, id: id, args: make([]kis.Value, len(r.args))}
		for i, v := range r.args {
			row.args[i] = owned(v)
		}
	}
	for i := range r.aggs.list {
		a := &r.aggs.list[i]
		have := s.accs[i]
		if old >= 0 {
			if have, err = r.without(s, a, i, old); err != nil {
				return err
			}
		}
		if r.scratch[i], err = a.next(f, have, r.args, t); err != nil {
			return err
		}
	}
	for i := range r.aggs.list {
		r.saved[i] = s.accs[i]
		more := s.accs[i].more
		if set, _ := more.(*valueSet); set != nil {
			r.saved[i].n = int64(len(set.texts)) // what is behind these is cut off
		} else if more != nil && more == r.scratch[i].more && r.emits != nil {
			var copied acc
			r.aggs.list[i].kind.merge(f, r.aggs.list[i].at, &copied, &s.accs[i])
			r.saved[i].more = copied.more
		}
	}
	r.back = undo{there: true, id: id, old: old}
	if old >= 0 {
		r.back.was = s.rows.rows[old]
	}
	for i := range r.aggs.list {
		s.accs[i] = r.scratch[i]
		r.aggs.list[i].commit(&s.accs[i], r.args, t)
	}
	if id != "" {
		s.rows.put(row)
	}
	return nil
}

// undo takes back what gather has done.
func (r *running) undo(s *runState) {
	if !r.back.there {
		return
	}
	for i := range r.aggs.list {
		if set, _ := r.saved[i].more.(*valueSet); set != nil {
			set.cut(int(r.saved[i].n))
			r.saved[i].n = 0
		}
		s.accs[i] = r.saved[i]
	}
	switch {
	case r.back.old >= 0:
		s.rows.rows[r.back.old] = r.back.was
	case r.back.id != "":
		s.rows.rows = s.rows.rows[:len(s.rows.rows)-1]
		delete(s.rows.ids, r.back.id)
	}
}

// cut takes back what was added behind the first n.
func (s *valueSet) cut(n int) {
	for _, t := range s.texts[n:] {
		delete(s.index, t)
		s.bytes -= len(t) + 1
	}
	s.texts = s.texts[:n]
}

// without is an aggregate as if the row at a place had not been there.
func (r *running) without(s *runState, a *aggregate, i, old int) (acc, error) {
	row := &s.rows.rows[old]
	if len(a.args) > 0 && !a.nulls && row.args[a.first].Kind() == kis.Null {
		return s.accs[i], nil
	}
	if t, ok := a.kind.(taker); ok {
		r.frame.work = maxWork
		have, ok := t.take(r.frame, a.at, s.accs[i], row.args[a.first:a.first+len(a.args)], row.t)
		if ok {
			return have, nil
		}
		r.frame.err = nil
	}
	var have acc
	for j := range s.rows.rows {
		if j == old {
			continue
		}
		other := &s.rows.rows[j]
		next, err := a.next(r.frame, have, other.args, other.t)
		if err != nil {
			return have, err
		}
		have = next
		a.commit(&have, other.args, other.t)
	}
	return have, nil
}
