package functions

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/kisflow/kisflow/kis"
)

// latestRow is the latest row of a key: the one with the newest event time, and of equal ones that which came last.
type latestRow struct {
	t    int64
	text []byte // nil: none came yet
	row  *kis.Row
	// old: it came before the others of its time: it is of what a Save had handed on before it kept rows.
	old bool
}

// keep takes a row in, unless a later one is there. With before the row came before all that came without.
func (s *latestRow) keep(row *kis.Row, meta *kis.Meta, before bool) error {
	t := meta.Time.UnixMilli()
	if s.text != nil && (t < s.t || t == s.t && before && !s.old) {
		return nil
	}
	text := row.AppendJSON(nil) // all of it: another revision may look at other fields
	if len(text) > MaxState {
		return fmt.Errorf("the table's row has %d bytes; the most is %d", len(text), MaxState)
	}
	s.t, s.text, s.row, s.old = t, text, nil, before
	return nil
}

// LatestRow reads the state of a table's key, or of a Save's that keeps rows: the row's text and its event time in
// milliseconds. There is none where the text is nil.
func LatestRow(state []byte) (text []byte, t int64, err error) {
	s, err := latestRows{}.Activate(state)
	if err != nil {
		return nil, 0, err
	}
	l := s.(*latestRow)
	return l.text, l.t, nil
}

// latestRows reads and writes such states.
type latestRows struct{}

// Activate reads what Encode wrote.
func (latestRows) Activate(encoded []byte) (any, error) {
	s := &latestRow{}
	if len(encoded) == 0 {
		return s, nil
	}
	row, err := kis.ParseRow(encoded)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	t, _ := row.Get("time")
	v, ok := row.Get("row")
	if !ok || v.Kind() != kis.Object {
		return s, nil
	}
	old, _ := row.Get("old")
	s.t, s.text, s.old = t.Int(), []byte(v.Text()), old.Bool()
	return s, nil
}

// Encode writes {"time":...,"row":{...}}, and "old":true where that is so.
func (latestRows) Encode(dst []byte, state any) ([]byte, error) {
	s, ok := state.(*latestRow)
	if !ok || s == nil || s.text == nil {
		return dst, nil
	}
	dst = strconv.AppendInt(append(dst, `{"time":`...), s.t, 10)
	dst = append(append(dst, `,"row":`...), s.text...)
	if s.old {
		dst = append(dst, `,"old":true`...)
	}
	return append(dst, '}'), nil
}

// keeper runs a Save that keeps the latest row of each key.
type keeper struct {
	latestRows
	saver
}

// Handle keeps a row and lets it go on. What the step's own hand-off brings is from before the step kept rows: it is
// kept, and that is all.
func (r *keeper) Handle(c *kis.Call) error {
	if c.Timer != nil {
		return nil // of another revision
	}
	s, _ := c.State.(*latestRow)
	if s == nil {
		return kis.Stop(errors.New("a Save that keeps rows was called without the state of its key"))
	}
	if err := r.check(c.Rows[0]); err != nil {
		return err
	}
	if err := s.keep(c.Rows[0], c.Metas[0], c.Loaded); err != nil {
		return err
	}
	if !c.Loaded {
		c.Emit(c.Rows[0])
	}
	return nil
}

// saver runs a Save whose key has other fields than those that rows must have.
type saver struct{ need []string }

func (r *saver) check(row *kis.Row) error {
	for _, name := range r.need {
		if v, ok := row.Get(name); !ok || v.Kind() == kis.Null {
			return fmt.Errorf("the row must have the field %s", name)
		}
	}
	return nil
}

// plainSaver is a saver that keeps nothing.
type plainSaver struct {
	stateless
	saver
}

func (r *plainSaver) Handle(c *kis.Call) error {
	if err := r.check(c.Rows[0]); err != nil {
		return err
	}
	c.Emit(c.Rows[0])
	return nil
}
