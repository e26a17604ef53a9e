package functions

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// New checks a definition and makes the function that it describes. All mistakes are reported at once; with
// any of them the function is nil.
//
// A Verify without rules, a Save and a Load pass rows on unchanged: what else they do is the engine's part.
func New(spec Spec) (kis.Function, []Mistake) {
	b := &builder{spec: spec, params: paramTable{optional: make(map[string]bool)}, builtins: builtinIndex()}
	fn := &function{
		name:   spec.Name,
		traits: traitsOf(&spec),
		params: &b.params,
	}
	b.shape()
	switch spec.Mode {
	case kis.Verify:
		rules := b.rules()
		fn.open = func(f *frame) (kis.Runner, error) { return &verifier{frame: f, rules: rules}, nil }
	case kis.Calculate:
		if spec.Calculate != nil {
			fn.open = b.calculate(spec.Calculate)
		} else if spec.Join != nil {
			fn.open = b.join(spec.Join)
		}
	case kis.Expand:
		if spec.Expand != nil {
			fn.open = b.expand(spec.Expand)
		}
	case kis.Save, kis.Load:
		fn.open = func(f *frame) (kis.Runner, error) { return &verifier{frame: f}, nil }
		if spec.Load != nil && spec.Load.Table {
			fn.open = b.table(spec.Load)
		} else if spec.Load != nil && spec.Load.Lookup != nil {
			fn.open = b.lookup(spec.Load)
		} else if spec.Save != nil {
			fn.open = b.save(spec.Save)
		}
	}
	b.versions(fn)
	if len(b.mistakes) > 0 {
		return nil, b.mistakes
	}
	return fn, nil
}

// Keeps says whether the rows that a function emits have the same values in these fields as the rows that
// caused them. It is proven, not guessed: where an emitted field is anything but exactly row.field (or key.field, or
// left.field and right.field of a key), it says false.
func Keeps(spec Spec, fields []string) bool {
	emit := emitOf(&spec)
	if emit == nil {
		return true // rows go on as they are
	}
	if len(fields) == 0 {
		return false // nobody says which fields are meant
	}
	for _, name := range fields {
		kept := slices.ContainsFunc(emit, func(e EmitField) bool {
			return e.Name == name && (isField(e.Expr, "row", name) || slices.Contains(spec.Must, name) && isKeyField(&spec, e.Expr, name))
		})
		if !kept {
			return false
		}
	}
	return true
}

// isField says whether an expression is root.name, and nothing else.
func isField(source, root, name string) bool {
	if len(source) > MaxExpression {
		return false
	}
	t, err := tree(source)
	if err != nil {
		return false
	}
	m, ok := t.(*ast.MemberNode)
	if !ok || m.Optional {
		return false
	}
	base, ok := m.Node.(*ast.IdentifierNode)
	if !ok || base.Value != root {
		return false
	}
	property, ok := m.Property.(*ast.StringNode)
	return ok && property.Value == name
}

// builder makes the parts of one function.
type builder struct {
	spec     Spec
	params   paramTable
	builtins map[string]*builtin
	mistakes []Mistake
	row      *rowShape // what is known of the rows, for Infer; else nil
}

func (b *builder) wrong(path, hint, format string, args ...any) {
	b.mistakes = append(b.mistakes, Mistake{Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// shape checks that the body is the one of the mode.
func (b *builder) shape() {
	s := &b.spec
	for _, body := range []struct {
		path  string
		there bool
		mode  kis.Mode
	}{{"verify", len(s.Verify) > 0, kis.Verify}, {bodyOf(s), s.Calculate != nil || s.Join != nil, kis.Calculate}, {"expand", s.Expand != nil, kis.Expand}} {
		switch {
		case body.there && s.Mode != body.mode:
			b.wrong(body.path, "", "a function of mode %s has no %s", s.Mode, body.path)
		case !body.there && s.Mode == body.mode && body.mode != kis.Verify:
			b.wrong(body.path, "", "a function of mode %s needs %s, or a Go function of its name", s.Mode, body.path)
		}
	}
	switch s.Mode {
	case kis.Verify, kis.Save, kis.Load, kis.Calculate, kis.Expand:
	default:
		b.wrong("fmode", "Verify, Save, Load, Calculate or Expand", "unknown mode %q", s.Mode)
	}
}

// see returns what an expression that looks at a row sees.
func (b *builder) see() roots {
	r := roots{row: true, meta: true, must: b.spec.Must, without: map[string]string{
		"state": "is there only in a Calculate that has one", "key": "is there only in a function with must fields"}}
	if len(r.must) == 0 {
		r.must = nil
	}
	r.shape = b.row
	return r
}

// compile compiles an expression and keeps its mistakes.
func (b *builder) compile(path, source string, see roots) *program {
	p, mistakes := compile(path, source, see, &b.params, b.builtins)
	b.mistakes = append(b.mistakes, mistakes...)
	b.compiled(path, p, see)
	return p
}

// condition compiles an expression that says true or false.
func (b *builder) condition(path, source string, see roots) *program {
	p := b.compile(path, source, see)
	if p != nil && p.kinds&isBool == 0 {
		b.wrong(path, "", "must say true or false, but it is %s", p.kinds)
	}
	return p
}

func (b *builder) rules() []rule {
	var rules []rule
	for i, r := range b.spec.Verify {
		path := "verify." + itoa(i)
		verdict := kis.DeadLetter
		switch r.Else {
		case "", "dead_letter":
		case "drop":
			verdict = kis.Drop
		default:
			b.wrong(path+".else", "dead_letter or drop", "unknown word %q", r.Else)
		}
		reason := r.Reason
		if reason == "" {
			reason = "rule not met"
		}
		says := fmt.Errorf("%s: %s", reason, strings.TrimSpace(r.Rule))
		rules = append(rules, rule{b.condition(path+".rule", r.Rule, b.see().holding()), verdict(says)})
	}
	return rules
}

// emits compiles the fields of emitted rows.
func (b *builder) emits(path string, fields []EmitField, see roots) []emit {
	if fields == nil {
		return nil
	}
	out := make([]emit, 0, len(fields))
	for i, e := range fields {
		at := path + "." + e.Name
		switch {
		case e.Name == "":
			at = path + "." + itoa(i)
			b.wrong(at, "", "the field has no name")
		case slices.ContainsFunc(fields[:i], func(o EmitField) bool { return o.Name == e.Name }):
			b.wrong(at, "", "the field is there twice")
		}
		out = append(out, emit{e.Name, b.compile(at, e.Expr, see)})
	}
	return out
}

func (b *builder) calculate(body *Calculate) func(*frame) (kis.Runner, error) {
	const path = "calculate"
	if body.Window != nil {
		return b.windows(body)
	}
	if len(body.Aggregate) > 0 || body.Replace != "" {
		return b.running(body)
	}
	if len(body.State) > 0 && len(b.spec.Must) == 0 {
		b.wrong(path+".state", "name the key's fields in source: {must: [...]}", "a state belongs to a key, and the function has none")
	}
	if len(body.State) == 0 && body.Emit == nil {
		b.wrong(path, "", "it has neither state nor emit")
	}
	fields := make([]stateField, len(body.State))
	names := make(map[string]int, len(body.State))
	alone := roots{without: map[string]string{}}
	for _, root := range rootNames {
		alone.without[root] = "cannot be used in init: there is no row yet"
	}
	for i, s := range body.State {
		at := path + ".state." + s.Name
		if s.Name == "" {
			at = path + ".state." + itoa(i)
			b.wrong(at, "", "the field has no name")
		} else if _, twice := names[s.Name]; twice {
			b.wrong(at, "", "the field is there twice")
		}
		names[s.Name] = i
		fields[i] = stateField{name: s.Name, init: b.compile(at+".init", s.Init, alone)}
		if p := fields[i].init; p != nil && p.fixed && len(p.value.Text()) > MaxState {
			b.wrong(at+".init", "", "it has more than %d bytes", MaxState)
		}
	}
	see := b.see()
	if len(names) > 0 {
		see.state, see.kinds = names, make([]kinds, len(fields))
		for i := range see.kinds {
			see.kinds[i] = anyKind
		}
		see.kinds = b.narrowed(body, fields, see)
	}
	for i, s := range body.State {
		fields[i].set = b.compile(path+".state."+s.Name+".set", s.Set, see)
	}
	emits := b.emits(path+".emit", body.Emit, see)
	var when *program
	if body.When != "" {
		when = b.condition(path+".when", body.When, see)
	}
	return func(f *frame) (kis.Runner, error) { return openCalculator(f, fields, emits, when) }
}

// narrowed finds out what kinds the state's fields can have: those of their init, and those that their set makes
// of what they can have. A function that asks for a type may be written for states of an earlier revision, which
// can be anything.
func (b *builder) narrowed(body *Calculate, fields []stateField, see roots) []kinds {
	anything := see.kinds
	see.kinds = make([]kinds, len(fields))
	for i := range fields {
		if fields[i].init == nil {
			return anything
		}
		see.kinds[i] = fields[i].init.kinds
	}
	unused := paramTable{optional: make(map[string]bool)}
	all := []string{body.When}
	for _, s := range body.State {
		all = append(all, s.Set)
	}
	for _, e := range body.Emit {
		all = append(all, e.Expr)
	}
	wide := see
	wide.kinds = anything
	for _, source := range all {
		if p, _ := compile("", source, wide, &unused, b.builtins); p != nil && p.asksType {
			return anything
		}
	}
	for range 16 {
		grown := slices.Clone(see.kinds)
		for i, s := range body.State {
			p, mistakes := compile("", s.Set, see, &unused, b.builtins)
			if len(mistakes) > 0 {
				continue // it makes nothing of what is known so far
			}
			grown[i] |= p.kinds
		}
		if slices.Equal(grown, see.kinds) {
			return grown
		}
		see.kinds = grown
	}
	return anything
}

func (b *builder) expand(body *Expand) func(*frame) (kis.Runner, error) {
	subject := b.subject("expand.subject", body.Subject)
	emits := b.emits("expand.emit", body.Emit, b.see())
	var when *program
	if body.When != "" {
		when = b.condition("expand.when", body.When, b.see())
	}
	return func(f *frame) (kis.Runner, error) {
		return &expander{frame: f, subject: subject, emits: emits, when: when}, nil
	}
}

// function is what New makes.
type function struct {
	name   string
	traits kis.Traits
	params *paramTable
	open   func(*frame) (kis.Runner, error)
}

func (fn *function) Name() string       { return fn.name }
func (fn *function) Traits() kis.Traits { return fn.traits }

// Open makes the runner of one step. The error says which parameters the step lacks.
func (fn *function) Open(step kis.Step) (kis.Runner, error) {
	p := &params{all: step.Params, values: make([]kis.Value, len(fn.params.names)), known: make([]bool, len(fn.params.names))}
	var errs []error
	for i, name := range fn.params.names {
		text, known := step.Params[name]
		if !known {
			if !fn.params.optional[name] {
				errs = append(errs, fmt.Errorf("step %s: function %s needs the parameter %s; give it in the flow's params or the function's default_params", step.Name, fn.name, name))
			}
			continue
		}
		p.values[i], p.known[i] = kis.StringValue(text), true
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r, err := fn.open(newFrame(p))
	if err != nil {
		return nil, fmt.Errorf("step %s: function %s: %w", step.Name, fn.name, err)
	}
	return r, nil
}
