package flowdef

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Outside is what a flow's plan takes from the definitions of other flows.
type Outside struct {
	// Kept are the hand-offs of which the flow's Saves keep the latest rows because others asked for them. What was kept
	// once stays kept.
	Kept []string `json:"kept,omitempty"`
	// Keys are the fields of the keys of the hand-offs that the flow looks up.
	Keys map[string][]string `json:"keys,omitempty"`
}

// Equal tells whether two are the same.
func (o Outside) Equal(p Outside) bool {
	return slices.Equal(o.Kept, p.Kept) && maps.EqualFunc(o.Keys, p.Keys, slices.Equal[[]string])
}

// Outside returns what a flow of the set takes from the others, and what it has taken before and still has a use for.
func (s *Set) Outside(flow *Flow, before Outside) Outside {
	var o Outside
	with := s.With(before)
	for _, step := range flow.Steps {
		f := s.Funcs[step.Function.Value]
		if f == nil {
			continue
		}
		if h, ok := s.Handoff(f); ok && with.Keeps(f) && !slices.Contains(o.Kept, h.Value) {
			o.Kept = append(o.Kept, h.Value)
		}
		h, ok := s.LookedUp(f)
		if !ok {
			continue
		}
		if o.Keys == nil {
			o.Keys = make(map[string][]string)
		}
		if key, err := s.TableKey(h.Value); err == nil {
			o.Keys[h.Value] = key
		} else if key := before.Keys[h.Value]; key != nil {
			o.Keys[h.Value] = key
		}
	}
	slices.Sort(o.Kept)
	return o
}

// With returns the set as it is with what a flow takes from definitions that need not be in it. The set stays as it is.
func (s *Set) With(o Outside) *Set {
	out := *s
	out.outside = o
	return &out
}

// Key returns the fields of a function's key.
func (f *Func) Key() []Text {
	if f.Mode == "Save" && f.Save != nil && len(f.Save.Key) > 0 {
		return f.Save.Key
	}
	return f.Source.Must
}

func (f *Func) key() []string {
	var names []string
	for _, t := range f.Key() {
		names = append(names, t.Value)
	}
	return names
}

func (f *Func) keepsNone() bool { return f.Save != nil && f.Save.Keep == "none" }

// LookedUp returns the hand-off whose latest rows a Load looks up, with the name's place; false for other functions.
func (s *Set) LookedUp(f *Func) (Text, bool) {
	if f.Mode != "Load" || f.Load == nil || f.Load.Lookup == nil || f.Option.Conn.Value != "" {
		return Text{}, false
	}
	return handoffName(f), true
}

// SavesOf returns the functions that save to a hand-off, those that are steps of a flow. Where the set has no such flow
// they are those that are defined.
func (s *Set) SavesOf(handoff string) []*Func {
	used := make(map[string]bool)
	for _, flow := range s.Flows {
		for _, step := range flow.Steps {
			used[step.Function.Value] = true
		}
	}
	var all, steps []*Func
	for _, name := range slices.Sorted(maps.Keys(s.Funcs)) {
		f := s.Funcs[name]
		if h, ok := s.Handoff(f); !ok || f.Mode != "Save" || h.Value != handoff {
			continue
		}
		if all = append(all, f); used[name] {
			steps = append(steps, f)
		}
	}
	if len(steps) > 0 {
		return steps
	}
	return all
}

// Keeps tells whether a Save keeps the latest row of each key: its definition says so, or an enabled flow of the set loads
// its rows as a table or looks them up, or one did before (With).
func (s *Set) Keeps(f *Func) bool {
	h, ok := s.Handoff(f)
	if !ok || f.Mode != "Save" || len(f.Key()) == 0 || f.keepsNone() {
		return false
	}
	if f.Save != nil && f.Save.Keep == "last" || slices.Contains(s.outside.Kept, h.Value) {
		return true
	}
	_, needed := s.Asker(f)
	return needed
}

// Asker returns the name of the first enabled flow of the set for whose sake a Save keeps the latest row of each key.
func (s *Set) Asker(save *Func) (flow string, ok bool) {
	h, ok := s.Handoff(save)
	if !ok || save.Mode != "Save" || len(save.Key()) == 0 {
		return "", false
	}
	for _, flow := range s.Flows {
		if !flow.Enabled {
			continue
		}
		for _, step := range flow.Steps {
			f := s.Funcs[step.Function.Value]
			if f == nil || f.Mode != "Load" {
				continue
			}
			if at, looks := s.LookedUp(f); looks && at.Value == h.Value {
				return flow.Name, true
			}
			if at, ok := s.Handoff(f); ok && at.Value == h.Value && f.Copies(save) {
				return flow.Name, true
			}
		}
	}
	return "", false
}

// Copies tells whether a Load is a table that can begin with the rows that a Save keeps: a row's key in the table must
// follow from its key at the Save, or rows of keys that nothing is left of would be missing.
func (f *Func) Copies(save *Func) bool {
	if f.Load == nil || !f.Load.Table || f.Load.From != "" && f.Load.From != "beginning" || save.keepsNone() {
		return false
	}
	have := save.key()
	return len(have) > 0 && !slices.ContainsFunc(f.key(), func(name string) bool { return !slices.Contains(have, name) })
}

// TableKey returns the fields of the key by which the latest rows of a hand-off can be asked for. The error says why they
// cannot, or that no Save of it is known; then it is errNoSave.
func (s *Set) TableKey(handoff string) ([]string, error) {
	saves := s.SavesOf(handoff)
	if len(saves) == 0 {
		if key := s.outside.Keys[handoff]; key != nil {
			return key, nil
		}
		return nil, errNoSave
	}
	for _, f := range saves {
		switch {
		case len(f.Key()) == 0:
			return nil, &tableError{fmt.Sprintf("function %s saves the rows of hand-off %s without a key", quote(f.Name), quote(handoff)), "name the key's fields there, in source: {must: [...]} or save: {key: [...]}"}
		case f.keepsNone():
			return nil, &tableError{fmt.Sprintf("function %s keeps no rows of hand-off %s (save.keep: none)", quote(f.Name), quote(handoff)), "say save: {keep: last} there"}
		case !slices.Equal(f.key(), saves[0].key()):
			return nil, &tableError{fmt.Sprintf("the Saves of hand-off %s have different keys: %s by %s, %s by %s", quote(handoff),
				quote(saves[0].Name), strings.Join(saves[0].key(), ", "), quote(f.Name), strings.Join(f.key(), ", ")), "let them have the same, in the same order"}
		}
	}
	return saves[0].key(), nil
}

// tableError says why rows of a hand-off cannot be looked up.
type tableError struct{ message, hint string }

func (e *tableError) Error() string { return e.message }

var errNoSave = &tableError{"no flow saves it, so the fields of its key are not known", ""}

// lookups checks that what is looked up in hand-offs is there, and is asked for by its key.
func (c *checker) lookups() {
	for _, f := range c.funcs() {
		h, ok := c.set.LookedUp(f)
		if !ok || !c.used[f.Name] || c.opts.GoFunctions[f.Name] || f.Load.Handoff.Value == "" && f.Source.Name == "" {
			continue
		}
		key, err := c.set.TableKey(h.Value)
		if wrong, ok := err.(*tableError); ok && wrong != errNoSave {
			c.report(c.running[f.Name], h.Pos, codeNoTable, wrong.message+fmt.Sprintf(", so function %s cannot look them up", quote(f.Name)), wrong.hint)
			continue
		}
		if err != nil {
			continue // nobody saves it; that is told with the other Loads
		}
		c.lookupKey(f, h.Value, key)
	}
}

// lookupKey compares what a look-up asks for with the fields of the key.
func (c *checker) lookupKey(f *Func, handoff string, key []string) {
	l := f.Load.Lookup
	serious := c.running[f.Name]
	of := fmt.Sprintf("the key of hand-off %s is %s", quote(handoff), strings.Join(key, ", "))
	if l.Key.Value != "" && len(key) > 1 {
		c.report(serious, l.Key.Pos, codeNoTable, of+": one expression is not enough", fmt.Sprintf("say what each of them is: key: {%s: row.%s, ...}", key[0], key[0]))
	}
	if l.Keys == nil {
		return
	}
	for _, e := range l.Keys {
		if !slices.Contains(key, e.Name) {
			c.report(serious, e.Pos, codeNoTable, fmt.Sprintf("%s, without %s", of, quote(e.Name)), didYouMean(e.Name, key))
		}
	}
	for _, name := range key {
		if !slices.ContainsFunc(l.Keys, func(e EmitField) bool { return e.Name == name }) {
			c.report(serious, l.Keys[0].Pos, codeNoTable, fmt.Sprintf("%s, and load.key does not say what %s is", of, quote(name)), "")
		}
	}
}

// kept checks that a Save which is to keep rows has a key.
func (c *checker) kept() {
	for _, f := range c.funcs() {
		if f.Mode == "Save" && f.Save != nil && f.Save.Keep == "last" && len(f.Key()) == 0 && !c.opts.GoFunctions[f.Name] {
			c.report(c.running[f.Name] || !c.used[f.Name], f.Save.KeepPos, codeNoKey, fmt.Sprintf("function %s is to keep the latest row of each key, and has no key", quote(f.Name)),
				"name the key's fields in source: {must: [...]}, or in save: {key: [...]}")
		}
	}
}
