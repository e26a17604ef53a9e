package functions

import (
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/kis"
)

// stateless is what runners without a state have in common.
type stateless struct{}

func (stateless) Activate([]byte) (any, error)             { return nil, nil }
func (stateless) Encode(dst []byte, _ any) ([]byte, error) { return dst, nil }

// rule is one compiled rule of a Verify.
type rule struct {
	holds *program
	fails error // what Handle returns for a row that fails it
}

// verifier runs a Verify; without rules it runs Save and Load too.
type verifier struct {
	stateless
	frame *frame
	rules []rule
}

func (r *verifier) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	r.frame.show(c)
	defer r.frame.hide()
	for i := range r.rules {
		holds, err := r.rules[i].holds.truth(r.frame)
		if err != nil {
			return err
		}
		if !holds {
			return r.rules[i].fails
		}
	}
	c.Emit(c.Rows[0])
	return nil
}

// emit is one compiled field of an emitted row.
type emit struct {
	name string
	expr *program
}

// emitted makes a row of what the frame shows.
func emitted(f *frame, emits []emit, b *kis.Builder) (*kis.Row, error) {
	b.Begin()
	for i := range emits {
		v, err := emits[i].expr.run(f)
		if err != nil {
			return nil, err
		}
		b.Add(emits[i].name, v)
	}
	return b.End(), nil
}

// stateField is one compiled field of a state.
type stateField struct {
	name string
	init *program
	set  *program
}

// keyState is the state of one key.
type keyState struct{ values []kis.Value }

// calculator runs a Calculate.
type calculator struct {
	frame  *frame
	fields []stateField
	emits  []emit // nil: the row itself goes on
	when   *program
	init   []kis.Value
	names  []string // of the fields, as they stand in JSON: with quotes and colon
	next   []kis.Value
	build  kis.Builder
}

func openCalculator(f *frame, fields []stateField, emits []emit, when *program) (*calculator, error) {
	r := &calculator{frame: f, fields: fields, emits: emits, when: when, next: make([]kis.Value, len(fields))}
	for i := range fields {
		v, err := fields[i].init.run(f)
		if err != nil {
			return nil, err
		}
		r.init = append(r.init, v)
		r.names = append(r.names, string(append(kis.StringValue(fields[i].name).AppendJSON(nil), ':')))
	}
	return r, nil
}

// Activate reads a key's state. Fields that an earlier revision left and this one does not declare are
// dropped; fields that are not there yet get their init.
func (r *calculator) Activate(encoded []byte) (any, error) {
	s := &keyState{values: append(make([]kis.Value, 0, len(r.init)), r.init...)}
	if len(encoded) == 0 {
		return s, nil
	}
	row, err := kis.ParseRow(encoded)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	for i := range r.fields {
		if v, ok := row.Get(r.fields[i].name); ok {
			s.values[i] = owned(v)
		}
	}
	return s, nil
}

func (r *calculator) Encode(dst []byte, state any) ([]byte, error) {
	s, ok := state.(*keyState)
	if !ok || s == nil {
		return dst, nil
	}
	for i := range r.fields {
		if i == 0 {
			dst = append(dst, '{')
		} else {
			dst = append(dst, ',')
		}
		dst = s.values[i].AppendJSON(append(dst, r.names[i]...))
	}
	if len(r.fields) > 0 {
		dst = append(dst, '}')
	}
	return dst, nil
}

func (r *calculator) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	f := r.frame
	f.show(c)
	defer r.done()
	s, _ := c.State.(*keyState)
	if s == nil && len(r.fields) > 0 {
		return kis.Stop(errors.New("a calculation was called without the state of its key"))
	}
	if s != nil {
		f.state = s.values
	}
	if r.when != nil {
		if applies, err := r.when.truth(f); err != nil {
			return err
		} else if !applies {
			c.Emit(c.Rows[0])
			return nil
		}
	}
	size := 0
	for i := range r.fields {
		v, err := r.fields[i].set.run(f)
		if err != nil {
			return err
		}
		if (isNumber | isString | isArray | isObject).has(v.Kind()) {
			size += len(v.Text())
		}
		r.next[i] = v
	}
	if size > MaxState {
		return fmt.Errorf("the state would hold %d bytes of text; the most is %d", size, MaxState)
	}
	out := c.Rows[0]
	if r.emits != nil {
		f.state = r.next
		var err error
		if out, err = emitted(f, r.emits, &r.build); err != nil {
			return err
		}
	}
	for i := range r.next { // nothing can fail from here on
		s.values[i] = replaced(s.values[i], r.next[i])
	}
	c.Emit(out)
	return nil
}

// done lets go of the row that was handled.
func (r *calculator) done() {
	r.frame.hide()
	clear(r.next)
}

// replaced is the value that takes another's place in a state.
func replaced(old, v kis.Value) kis.Value {
	if old.Kind() == v.Kind() && (isNumber | isString | isArray | isObject).has(v.Kind()) && old.Text() == v.Text() {
		return old
	}
	return owned(v)
}

// owned is a value that keeps nothing of the message it came with.
func owned(v kis.Value) kis.Value { return v.Clone() }

// expander runs an Expand.
type expander struct {
	stateless
	frame   *frame
	subject subject
	emits   []emit // nil: the row itself is sent
	when    *program
	build   kis.Builder
}

func (r *expander) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	f, row := r.frame, c.Rows[0]
	f.show(c)
	defer r.done()
	if r.when != nil {
		if applies, err := r.when.truth(f); err != nil {
			return err
		} else if !applies {
			c.Emit(row)
			return nil
		}
	}
	to, err := r.subject.of(row)
	if err != nil {
		return err
	}
	out := row
	if r.emits != nil {
		if out, err = emitted(f, r.emits, &r.build); err != nil {
			return err
		}
	}
	c.Send(to, out)
	c.Emit(row)
	return nil
}

// done lets go of the row that was handled.
func (r *expander) done() {
	r.frame.hide()
}
