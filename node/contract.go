package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
)

// Codes of the field contract.
const (
	codeNoField   = "KF3001" // no row has the field
	codeFieldType = "KF3002" // the field's type does not fit
	codeMayMiss   = "KF3003" // one of these, where others may bring such rows
	codeOffer     = "KF3004" // a body does not emit what its function offers
)

// maxRuns is how often the rows of a flow are followed at most, where flows feed each other; what it hands on then
// may be anything.
const maxRuns = 50

// rows is what is known of rows at a place of a flow.
type rows struct {
	functions.Shape
	// guess: others than the flows of the set may bring rows, of which nothing is known. It is taken for granted
	// that nobody does: who sends to an entry that a flow sends to, too, declares the entry's fields.
	guess bool
}

// place is a step of a flow.
type place struct {
	flow *flowdef.Flow
	step int
}

// tracer follows the rows along the steps of all flows, and from flow to flow.
type tracer struct {
	set    *flowdef.Set
	native map[string]bool // functions in Go
	faulty map[string]bool // functions with mistakes of their own: nothing is said of what they make of rows
	into   map[*flowdef.Flow][]flowdef.Link
	given  map[place]*rows // what Saves and Expands hand on; nil: no row gets there
	known  map[string]inferred
	open   map[*flowdef.Flow]bool // nothing is known of what these flows hand on any more

	report   bool // note mistakes
	told     map[string]bool
	mistakes flowdef.Mistakes
}

// inferred is what a function makes of rows of a shape.
type inferred struct {
	contract functions.Contract
	mistakes []functions.Mistake
}

// lintFields checks the field contract: what each step needs against what those before it offer, from flow to flow.
// And it tells which fields the rows have that a Save saves, where that is known.
func lintFields(set *flowdef.Set, native, faulty map[string]bool) (flowdef.Mistakes, func(*flowdef.Flow, int) []string) {
	order, links := set.Links(native)
	t := &tracer{set: set, native: native, faulty: faulty, into: make(map[*flowdef.Flow][]flowdef.Link), given: make(map[place]*rows),
		known: make(map[string]inferred), open: make(map[*flowdef.Flow]bool), told: make(map[string]bool)}
	from := make(map[*flowdef.Flow][]*flowdef.Flow)
	for _, l := range links {
		t.into[l.To] = append(t.into[l.To], l)
		from[l.From] = append(from[l.From], l.To)
	}
	t.follows(from)
	stale, runs := make(map[*flowdef.Flow]bool), make(map[*flowdef.Flow]int)
	for _, f := range order {
		stale[f] = true
	}
	for len(stale) > 0 {
		for _, f := range order {
			if !stale[f] {
				continue
			}
			delete(stale, f)
			if runs[f]++; runs[f] > maxRuns {
				t.open[f] = true
			}
			if runs[f] <= maxRuns+1 && t.follow(f) {
				for _, to := range from[f] {
					stale[to] = true
				}
			}
		}
	}
	t.report = true
	for _, enabled := range []bool{true, false} {
		for _, f := range order {
			if f.Enabled == enabled {
				t.follow(f)
			}
		}
	}
	return t.mistakes, t.saved
}

// saved returns the fields that a Save may write, but those of its key; nil if nobody knows, or it has no key.
func (t *tracer) saved(f *flowdef.Flow, step int) []string {
	fn, rows := t.set.Funcs[f.Steps[step].Function.Value], t.given[place{f, step}]
	if fn == nil || rows == nil || rows.Open || rows.guess || t.opaque(fn) || len(fn.Key()) == 0 {
		return nil
	}
	must := mustOf(fn)
	return slices.DeleteFunc(rows.Names(), func(name string) bool { return slices.Contains(must, name) })
}

// follow follows the rows along the steps of a flow. It says whether the flow hands on other rows than before.
func (t *tracer) follow(f *flowdef.Flow) (changed bool) {
	now := t.entries(f)
	for i := range f.Steps {
		fn := t.set.Funcs[f.Steps[i].Function.Value]
		switch {
		case fn == nil:
			now = &rows{Shape: functions.Shape{Open: true}}
			continue
		case fn.Mode == string(kis.Load):
			now = t.load(f, i, fn, now)
			continue
		case now == nil:
			continue // no row gets here
		}
		out, sent := t.step(f, i, fn, *now)
		now = &out
		if sent == nil {
			continue
		}
		at := place{f, i}
		if t.open[f] {
			sent = &rows{Shape: functions.Shape{Open: true}}
		}
		if before := t.given[at]; before == nil || before.guess != sent.guess || before.String() != sent.String() {
			t.given[at], changed = sent, true
		}
	}
	return changed
}

// entries is what comes into a flow; nil: its rows come from Loads alone.
func (t *tracer) entries(f *flowdef.Flow) *rows {
	var in *rows
	for i := range f.Entries {
		e := t.entry(f, i)
		if f.Time != nil && f.Time.Field.Value != "" {
			t.eventTime(f, i, *e)
		}
		in = either(in, e)
	}
	if in == nil && !slices.ContainsFunc(f.Steps, func(s flowdef.Step) bool {
		fn := t.set.Funcs[s.Function.Value]
		return fn != nil && fn.Mode == string(kis.Load) && (fn.Load == nil || fn.Load.Lookup == nil)
	}) {
		return &rows{Shape: functions.Shape{Open: true}} // fed by hand
	}
	return in
}

// eventTime checks the field that the rows of an entry have their event time from.
func (t *tracer) eventTime(f *flowdef.Flow, i int, in rows) {
	m := in.Needs(f.Time.Field.Value, functions.TimeField())
	if m.Message == "" {
		return
	}
	code := codeFieldType
	if m.Missing != "" {
		code = codeNoField
	}
	t.noteAt(f, fmt.Sprintf("at entry %s of flow %q", f.Entries[i].Subject.Value, f.Name), f.Time.Field.Pos, code, m.Message, m.Hint, &in.Shape)
}

// entry is what comes in at one entry.
func (t *tracer) entry(f *flowdef.Flow, i int) *rows {
	if declared := f.Entries[i].Fields; declared != nil {
		return &rows{Shape: shapeOf(declared)}
	}
	var in *rows
	fed := false
	for _, l := range t.into[f] {
		if l.Entry == i {
			fed = fed || l.Whole && !l.Back && l.From.Enabled && t.given[place{l.From, l.Step}] != nil
			in = either(in, t.given[place{l.From, l.Step}])
		}
	}
	if !fed {
		return &rows{Shape: functions.Shape{Open: true}}
	}
	in.guess = true
	return in
}

// load is what is known of the rows behind a Load: those from before it, and those of its hand-off.
func (t *tracer) load(f *flowdef.Flow, i int, fn *flowdef.Func, now *rows) *rows {
	handOff, ok := t.set.Handoff(fn)
	if fn.Load != nil && fn.Load.Lookup != nil && !t.opaque(fn) {
		if h, asks := t.set.LookedUp(fn); asks && now != nil {
			return t.beside(f, i, fn, now, t.savedTo(h.Value))
		}
		if now == nil {
			return nil
		}
		out, _ := t.step(f, i, fn, *now)
		return &out
	}
	if t.opaque(fn) || !ok || handOff.Value == "" {
		if now != nil {
			t.step(f, i, fn, *now)
		}
		return t.offered(fn)
	}
	var in *rows
	saved, enabled := false, false
	for _, l := range t.into[f] {
		if l.Load == i {
			saved, enabled = true, enabled || l.From.Enabled
			in = either(in, t.given[place{l.From, l.Step}])
		}
	}
	if !saved || !enabled {
		in = &rows{Shape: functions.Shape{Open: true}}
	}
	if fn.Load != nil && fn.Load.Table {
		return t.table(f, i, fn, now, in)
	}
	var out *rows
	for _, side := range []*rows{now, in} {
		if side != nil {
			made, _ := t.step(f, i, fn, *side)
			out = either(out, &made)
		}
	}
	return out
}

// table is what is known of the rows behind a Load as a table: those from before it, with fields of the table.
func (t *tracer) table(f *flowdef.Flow, i int, fn *flowdef.Func, now, in *rows) *rows {
	if now == nil {
		return nil
	}
	if in != nil { // else no row gets to the table
		at := place{f, i}
		keyed := t.infer(fn, functions.Spec{Name: fn.Name, Mode: kis.Verify, Must: mustOf(fn)}, in.Shape, nil)
		t.findings(at, fn, *in, keyed)
		in = &rows{keyed.contract.Out, in.guess}
	}
	return t.beside(f, i, fn, now, in)
}

// beside is what is known of rows with fields of others that a function has at hand; nil: nothing is known of those.
func (t *tracer) beside(f *flowdef.Flow, i int, fn *flowdef.Func, now, in *rows) *rows {
	at, beside := place{f, i}, &functions.Shape{Open: true}
	if in != nil {
		beside = &in.Shape
	}
	now = &rows{t.needs(at, fn, *now), now.guess}
	made := t.infer(fn, specOf(t.set, fn), now.Shape, beside)
	t.findings(at, fn, rows{now.Shape, now.guess || in != nil && in.guess}, made)
	return &rows{made.contract.Out, now.guess || in != nil && in.guess}
}

// savedTo is what is known of the rows that flows save to a hand-off; nil: nothing is.
func (t *tracer) savedTo(handOff string) (in *rows) {
	for _, f := range t.set.Flows {
		for i := range f.Steps {
			fn := t.set.Funcs[f.Steps[i].Function.Value]
			if fn == nil || fn.Mode != string(kis.Save) {
				continue
			}
			if h, ok := t.set.Handoff(fn); !ok || h.Value != handOff {
				continue
			}
			if !f.Enabled || t.native[fn.Name] {
				return nil
			}
			in = either(in, t.given[place{f, i}])
		}
	}
	return in
}

// follows adds the flows that ask for what others save to those that are looked at again when these save other rows.
func (t *tracer) follows(from map[*flowdef.Flow][]*flowdef.Flow) {
	for _, f := range t.set.Flows {
		for _, s := range f.Steps {
			fn := t.set.Funcs[s.Function.Value]
			if fn == nil {
				continue
			}
			h, ok := t.set.LookedUp(fn)
			if !ok {
				continue
			}
			for _, g := range t.set.Flows {
				for _, s := range g.Steps {
					save := t.set.Funcs[s.Function.Value]
					if save == nil || save.Mode != string(kis.Save) {
						continue
					}
					if at, ok := t.set.Handoff(save); ok && at.Value == h.Value {
						from[g] = append(from[g], f)
					}
				}
			}
		}
	}
}

// either is what is known of rows that are one or the other; nil: there are none.
func either(a, b *rows) *rows {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		c := *b
		return &c
	case b == nil:
		c := *a
		return &c
	}
	return &rows{Shape: functions.Union(a.Shape, b.Shape), guess: a.guess || b.guess}
}

// opaque says that nothing but its declaration tells what a function does with rows.
func (t *tracer) opaque(fn *flowdef.Func) bool {
	return t.native[fn.Name] || t.faulty[fn.Name] || !hasBody(fn) || fn.Script != nil || fn.Remote != nil
}

// offered is what a function says that it emits.
func (t *tracer) offered(fn *flowdef.Func) *rows {
	if fn.Offers != nil {
		return &rows{Shape: shapeOf(fn.Offers)}
	}
	return &rows{Shape: functions.Shape{Open: true}}
}

// step is what a step makes of rows: those that go on, and those that it hands to others.
func (t *tracer) step(f *flowdef.Flow, i int, fn *flowdef.Func, in rows) (out rows, sent *rows) {
	at := place{f, i}
	in.Shape = t.needs(at, fn, in)
	spec := specOf(t.set, fn)
	opaque := t.opaque(fn)
	if opaque {
		spec = functions.Spec{Name: fn.Name, Mode: kis.Verify, Must: spec.Must}
	}
	made := t.infer(fn, spec, in.Shape, nil)
	t.findings(at, fn, in, made)
	switch {
	case opaque:
		out = *t.offered(fn)
	default:
		out = rows{made.contract.Out, in.guess && !emits(fn)}
	}
	switch kis.Mode(fn.Mode) {
	case kis.Save:
		saved := rows{made.contract.Out, in.guess}
		if fn.Save != nil {
			for _, field := range fn.Save.Fields {
				t.want(at, saved, field, functions.Anything())
			}
		}
		for _, field := range fn.Source.Must { // beside those of the key
			t.want(at, saved, field, functions.Anything())
		}
		return out, &saved
	case kis.Expand:
		switch {
		case opaque:
			out = rows{Shape: functions.Shape{Open: true}}
			sent = t.offered(fn)
		case made.contract.Sent != nil:
			sent = &rows{*made.contract.Sent, in.guess && !emits(fn)}
			t.keepsWord(at, fn, sent.Shape)
		}
		return out, sent
	}
	if !opaque {
		t.keepsWord(at, fn, out.Shape)
	}
	if late := made.contract.Sent; late != nil {
		sent = &rows{*late, in.guess}
	}
	return out, sent
}

// findings notes what is wrong with a function for some rows.
func (t *tracer) findings(at place, fn *flowdef.Func, in rows, made inferred) {
	for _, m := range made.mistakes {
		text := textOf(fn, m.Path)
		pos := text.Pos
		if m.Column > 0 {
			pos = text.At(m.Column - 1)
		}
		t.mistake(at, in, pos, m)
	}
}

// emits says that what a function emits holds none of the row's fields but those that it names.
func emits(fn *flowdef.Func) bool {
	switch {
	case fn.Expand != nil:
		return fn.Expand.Emit != nil
	case fn.Calculate != nil:
		return fn.Calculate.Emit != nil && fn.Calculate.When.Value == ""
	case fn.Join != nil:
		return true
	}
	return false
}

// infer asks the function, once for each shape. The rows beside those of a table have a shape, too.
func (t *tracer) infer(fn *flowdef.Func, spec functions.Spec, in functions.Shape, beside *functions.Shape) inferred {
	key := fn.Name + "\x00" + in.String()
	if beside != nil {
		key += "\x00" + beside.String()
	}
	made, done := t.known[key]
	if !done {
		made.contract, made.mistakes = functions.InferTable(spec, in, beside)
		from := func(path string) string { return textOf(fn, path).Pos.String() }
		made.contract.Out = made.contract.Out.Locate(from)
		if made.contract.Sent != nil {
			sent := made.contract.Sent.Locate(from)
			made.contract.Sent = &sent
		}
		t.known[key] = made
	}
	return made
}

// needs checks the fields that a function declares to need, and returns what is known of rows that have them.
func (t *tracer) needs(at place, fn *flowdef.Func, in rows) functions.Shape {
	if fn.Needs == nil {
		return in.Shape
	}
	out := in.Shape
	for _, field := range fn.Needs.List {
		want := fieldOf(field)
		if field.Optional && out.Lacks(field.Name.Value) {
			continue
		}
		t.want(at, in, field.Name, want)
		if _, known := out.Fields[field.Name.Value]; !known {
			want.From = field.Name.Pos.String()
			out = out.With(field.Name.Value, want)
		}
	}
	return out
}

// want notes a mistake where rows lack a field or have another type there.
func (t *tracer) want(at place, in rows, name flowdef.Text, want functions.Field) {
	if m := in.Needs(name.Value, want); m.Message != "" {
		t.mistake(at, in, name.Pos, m)
	}
}

// keepsWord checks what a body emits against what its function offers.
func (t *tracer) keepsWord(at place, fn *flowdef.Func, made functions.Shape) {
	if fn.Offers == nil {
		return
	}
	for _, field := range fn.Offers.List {
		if field.Optional && made.Lacks(field.Name.Value) {
			continue
		}
		if m := made.Needs(field.Name.Value, fieldOf(field)); m.Message != "" {
			t.note(at, field.Name.Pos, codeOffer, "of what "+fn.Name+" emits, "+m.Message, m.Hint, nil)
		}
	}
	if fn.Offers.Open || made.Open {
		return
	}
	offered := shapeOf(fn.Offers)
	for _, name := range made.Names() {
		if offered.Lacks(name) {
			t.note(at, fn.Offers.Pos, codeOffer, fmt.Sprintf("%s emits the field %s, which it does not offer", fn.Name, name), "add it, or '*': any", nil)
		}
	}
}

// mistake notes what Infer found at a step.
func (t *tracer) mistake(at place, in rows, pos flowdef.Pos, m functions.Mistake) {
	code := codeFieldType
	near := strings.HasPrefix(m.Hint, "did you mean")
	if m.Missing != "" {
		code = codeNoField
	}
	if in.guess && m.Guarded && !near {
		code = codeMayMiss
	}
	hint := withOrigin(m.Message, m.Hint, in.Shape)
	if in.guess {
		if hint != "" {
			hint += "; "
		}
		hint += "if others send to the entry as well, declare its fields: entry.fields"
	}
	t.note(at, pos, code, m.Message, hint, nil)
}

// note notes a mistake at a step.
func (t *tracer) note(at place, pos flowdef.Pos, code, message, hint string, in *functions.Shape) {
	t.noteAt(at.flow, fmt.Sprintf("at step %q of flow %q", at.flow.Steps[at.step].Name, at.flow.Name), pos, code, message, hint, in)
}

// noteAt notes a mistake once for each place. What a disabled flow does is a warning.
func (t *tracer) noteAt(flow *flowdef.Flow, where string, pos flowdef.Pos, code, message, hint string, in *functions.Shape) {
	key := pos.String() + code
	if !t.report || t.told[key] {
		return
	}
	t.told[key] = true
	if in != nil {
		hint = withOrigin(message, hint, *in)
	}
	m := flowdef.NewMistake(pos, code, message+", "+where, hint)
	if !flow.Enabled {
		m.Severity = flowdef.Warning
	}
	t.mistakes = append(t.mistakes, m)
}

// withOrigin adds to a hint where the fields come from that a mistake speaks of.
func withOrigin(message, hint string, in functions.Shape) string {
	for _, name := range in.Names() {
		from := in.Fields[name].From
		switch {
		case from == "":
		case hint == "did you mean "+name+"?":
			return hint + " it is from " + from
		case mentions(message, "row."+name), mentions(message, "field "+name):
			if hint != "" {
				hint += "; "
			}
			hint += name + " is from " + from
		}
	}
	return hint
}

// mentions says whether a text holds a name that does not go on behind it.
func mentions(text, name string) bool {
	i := strings.Index(text, name)
	if i < 0 {
		return false
	}
	rest := text[i+len(name):]
	return rest == "" || strings.ContainsAny(rest[:1], " ,;)]")
}

// shapeOf is the shape of declared fields.
func shapeOf(declared *flowdef.Fields) functions.Shape {
	s := functions.Shape{Fields: make(map[string]functions.Field, len(declared.List)), Open: declared.Open}
	for _, field := range declared.List {
		f := fieldOf(field)
		f.From = field.Name.Pos.String()
		s.Fields[field.Name.Value] = f
	}
	return s
}

func fieldOf(field flowdef.FieldType) functions.Field {
	if field.Inside != nil {
		return functions.ObjectOf(shapeOf(field.Inside), field.Optional)
	}
	f, ok := functions.FieldOf(field.Type, field.Optional)
	if !ok {
		return functions.Anything()
	}
	return f
}
