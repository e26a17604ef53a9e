package functions

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Contract is what a function makes of rows of a shape.
type Contract struct {
	Out  Shape  // of the rows that go on
	Sent *Shape // of the rows that an Expand sends, or that are late and go to a subject; nil for other functions
}

// Infer finds out what a function makes of rows of a shape, and what is wrong with it for such rows: fields that
// none of them has, and fields that can never be what an expression needs. The function must be without mistakes
// of its own (see New). A field that is missing is a mistake once, wherever the function looks at it; it is none
// where somebody asks whether it is there: with has(row.x), row?.x, row.x ?? 0 or "x" in row.
//
// What goes on from a body of which nothing is known is open.
func Infer(spec Spec, in Shape) (Contract, []Mistake) { return InferTable(spec, in, nil) }

// InferTable is Infer for a Load as a table or a look-up, of which the rows have a shape; nil: nothing is known of them.
func InferTable(spec Spec, in Shape, table *Shape) (Contract, []Mistake) {
	row := &rowShape{soft: make(map[string]bool), asked: make(map[string]bool), sides: map[string]*Shape{"table": table, "found": table}}
	out, mistakes := infer(spec, in, row)
	if len(mistakes) > 0 && len(row.asked) > 0 {
		// What asks for a type is written for rows of several.
		out, mistakes = infer(spec, in, &rowShape{soft: row.soft, asked: row.asked, sides: map[string]*Shape{"table": table, "found": table}})
	}
	mistakes = slices.DeleteFunc(mistakes, func(m Mistake) bool { return m.Missing != "" && row.soft[m.Missing] })
	return out, mistakes
}

// rowShape is what a function's expressions know of the row, and what they found out.
type rowShape struct {
	shape Shape
	soft  map[string]bool // paths that need not lead anywhere
	asked map[string]bool // fields of which somebody asks for the type
	told  map[string]bool // missing fields
	found []Mistake
	made  map[string]*program // by path
	sides map[string]*Shape   // of the rows beside the one in hand: left, right, table
}

// whole is the row as an object.
func (s *rowShape) whole() *Shape {
	if s == nil {
		return nil
	}
	return &s.shape
}

func infer(spec Spec, in Shape, row *rowShape) (Contract, []Mistake) {
	row.shape, row.told, row.made = in, make(map[string]bool), make(map[string]*program)
	b := &builder{spec: spec, params: paramTable{optional: make(map[string]bool)}, builtins: builtinIndex(), row: row}
	for i, name := range spec.Must {
		b.must("source.must."+itoa(i), name)
	}
	start := row.shape // of the rows that have a key
	out := Contract{Out: start}
	switch spec.Mode {
	case kis.Verify:
		b.rules()
		out.Out = row.shape
	case kis.Calculate:
		switch c, j := spec.Calculate, spec.Join; {
		case c != nil:
			b.applies("calculate.when", c.When)
			b.calculate(c)
			if w := c.Window; w != nil && w.LateSubject != "" {
				out.Sent = b.late("calculate.window.late.subject", w.LateSubject)
			}
			out.Out = b.calculated(c)
			if c.When != "" {
				out.Out = Union(start, out.Out)
			}
		case j != nil:
			b.join(j)
			if j.LateSubject != "" {
				out.Sent = b.late("join.late.subject", j.LateSubject)
			}
			out.Out = b.emitted("join.emit", j.Emit)
		default:
			out.Out = Shape{Open: true}
		}
	case kis.Load:
		if spec.Load != nil && spec.Load.Table {
			b.table(spec.Load)
			out.Out = b.looked(spec.Load)
		} else if spec.Load != nil && spec.Load.Lookup != nil {
			b.lookup(spec.Load)
			out.Out = b.looked(spec.Load)
		}
	case kis.Expand:
		if spec.Expand == nil {
			out.Out = Shape{Open: true}
			break
		}
		b.applies("expand.when", spec.Expand.When)
		b.expand(spec.Expand)
		b.subjectFields("expand.subject", spec.Expand.Subject, spec.Expand.When != "")
		sent := row.shape
		if spec.Expand.Emit != nil {
			sent = b.emitted("expand.emit", spec.Expand.Emit)
		}
		out.Sent = &sent
	}
	mistakes := row.found
	for _, m := range b.mistakes {
		if !slices.Contains(mistakes, m) {
			mistakes = append(mistakes, m)
		}
	}
	return out, mistakes
}

// must says that rows have a key field from here on.
func (b *builder) must(path, name string) {
	const may = scalars &^ isNumber
	s := b.row
	f, known := s.shape.Fields[name]
	switch {
	case !known && !s.shape.Open:
		s.miss(Mistake{Path: path, Column: 1}, name, s.shape)
		f = Field{kinds: may, wrong: true}
	case !known:
		f = Field{kinds: may, path: path}
	case f.kinds&may == 0:
		b.mistakes = append(b.mistakes, Mistake{Path: path, Column: 1,
			Message: "a key is a string, an integer, a float or a boolean; row." + name + " is " + f.kinds.String()})
		f = Field{kinds: may}
	}
	f.kinds &= may
	f.Optional, f.Inside = false, nil
	s.shape = s.shape.With(name, f)
}

// applies compiles a condition for which a body applies before that body, which sees only rows that meet it.
func (b *builder) applies(path, source string) {
	if source != "" {
		see := b.see()
		if names := b.stateNames(); names != nil {
			see.state, see.kinds = names, slices.Repeat([]kinds{anyKind}, len(names))
		}
		see.holds = true
		if p := b.condition(path, source, see); p != nil {
			b.row.shape = b.row.shape.narrowed(p.facts, path)
		}
	}
}

// stateNames are the places of what a condition sees as the state's fields; nil: it sees no state.
func (b *builder) stateNames() map[string]int {
	c := b.spec.Calculate
	if c == nil || c.Window != nil || len(c.State)+len(c.Aggregate) == 0 {
		return nil
	}
	names := make(map[string]int)
	for _, s := range c.State {
		names[s.Name] = len(names)
	}
	for _, a := range c.Aggregate {
		names[a.Name] = len(names)
	}
	return names
}

// side is what is known of the rows beside the one in hand; nil: nothing.
func (b *builder) side(name string) *Shape {
	if b.row == nil {
		return nil
	}
	if b.row.sides[name] == nil && b.spec.Join != nil {
		return &b.row.shape // a side that says nothing of its rows
	}
	return b.row.sides[name]
}

// late is the shape of the late rows that go to a subject.
func (b *builder) late(path, subject string) *Shape {
	b.subjectFields(path, subject, true)
	return &b.row.shape
}

// looked is the shape of rows with the fields that a table adds.
func (b *builder) looked(body *Load) Shape {
	out, table := b.row.shape, b.side("table")
	if body.Set != nil {
		for name, f := range b.emitted("load.set", body.Set).Fields {
			out = out.With(name, f)
		}
		return out
	}
	if table == nil || table.Open {
		out.Open = true
		return out
	}
	may := body.Missing == "" || body.Missing == "pass" // there may be no row in the table
	for _, name := range table.Names() {
		f, there := out.Fields[name]
		switch added := table.Fields[name]; {
		case there && !f.Optional:
		case there:
			f = either(f, added)
			f.Optional = added.Optional || may
			out = out.With(name, f)
		case !out.Open:
			added.Optional = added.Optional || may
			out = out.With(name, added)
		}
	}
	return out
}

// compiled takes note of a program that was made.
func (b *builder) compiled(path string, p *program, see roots) {
	if b.row == nil || p == nil || see.shape == nil {
		return
	}
	b.row.made[path] = p
	for _, side := range []string{"left", "right"} {
		if path == "join."+side+".when" {
			of := b.row.shape.narrowed(p.facts, path)
			b.row.sides[side] = &of
		}
	}
	if b.spec.Mode == kis.Verify {
		b.row.shape = b.row.shape.narrowed(p.facts, path)
	}
}

// calculated is the shape of the rows that a Calculate makes of those for which it applies.
func (b *builder) calculated(c *Calculate) Shape {
	if c.Emit != nil {
		return b.emitted("calculate.emit", c.Emit)
	}
	out := b.row.shape
	for _, s := range c.State {
		path := "calculate.state." + s.Name + ".set"
		if p := b.row.made[path]; p != nil {
			out = out.narrowed(p.facts, path)
		}
	}
	return out
}

// emitted is the shape of emitted rows.
func (b *builder) emitted(path string, fields []EmitField) Shape {
	out, room := Shape{Fields: make(map[string]Field, len(fields))}, maxInsideFields
	for _, e := range fields {
		at := path + "." + e.Name
		f := Field{kinds: anyKind, path: at}
		if p := b.row.made[at]; p != nil {
			f.kinds, f.Inside = p.kinds, trimmed(p.inside, maxInside, &room)
		}
		out.Fields[e.Name] = f
	}
	return out
}

// subjectFields checks the fields that a subject names.
func (b *builder) subjectFields(path, source string, guarded bool) {
	const may = isString | isInt | isBool
	var unused builder
	at := 0
	s := unused.subject(path, source)
	for i, name := range s.fields {
		at += len(s.texts[i]) + 1
		f, known := b.row.shape.Fields[name]
		switch {
		case !known && !b.row.shape.Open:
			b.row.miss(Mistake{Path: path, Column: at + 1, Guarded: guarded}, name, b.row.shape)
		case known && f.kinds&may == 0:
			b.mistakes = append(b.mistakes, Mistake{Path: path, Column: at + 1, Guarded: guarded,
				Message: "a subject takes texts, integers, true and false; row." + name + " is " + f.kinds.String()})
		}
		at += len(name) + 1
	}
}

// Needs returns what is wrong with rows of a shape for who needs a field of them: its Message is "" if nothing is.
// The name may have points, for fields in fields.
func (s Shape) Needs(name string, want Field) Mistake {
	at := s
	for rest := name; ; {
		first, behind, more := strings.Cut(rest, ".")
		f, known := at.Fields[rest] // a name may hold a point itself
		if !known && more {
			g, there := at.Fields[first]
			switch {
			case !there && !at.Open:
				return missing(name, first, at)
			case !there || g.Inside == nil:
				return Mistake{}
			}
			at, rest = *g.Inside, behind
			continue
		}
		switch {
		case !known && at.Open:
			return Mistake{}
		case !known:
			return missing(name, rest, at)
		case !f.Fits(want):
			return Mistake{Message: "the field " + name + " is " + f.Type() + "; it must be " + want.Type()}
		case want.Inside != nil && f.Inside != nil:
			for _, inner := range want.Inside.Names() {
				if w := want.Inside.Fields[inner]; !w.Optional || !f.Inside.Lacks(inner) {
					if m := f.Inside.Needs(inner, w); m.Message != "" {
						m.Message = strings.Replace(m.Message, "field "+inner, "field "+name+"."+inner, 1)
						return m
					}
				}
			}
		}
		return Mistake{}
	}
}

// missing is the mistake that no row has a field; last is the part of its path that is not there.
func missing(path, last string, of Shape) Mistake {
	return Mistake{Message: "no row has the field " + path, Hint: fieldHint(last, of), Missing: path}
}

// miss notes a field that no row has. It is told once.
func (s *rowShape) miss(m Mistake, path string, of Shape) {
	if s.told[path] || m.Path == "" { // without a path somebody only tries
		return
	}
	s.told[path] = true
	told := missing(path, path[strings.LastIndexByte(path, '.')+1:], of)
	told.Path, told.Column, told.Guarded, told.Message = m.Path, m.Column, m.Guarded, cmp.Or(m.Message, told.Message)
	s.found = append(s.found, told)
}

// fieldHint names the known field that is most like a name, or the only one that holds it or is held by it; else
// the known fields if they are few.
func fieldHint(name string, of Shape) string {
	names := slices.DeleteFunc(of.Names(), func(n string) bool { return of.Fields[n].wrong })
	lower, best, held := strings.ToLower(name), "", ""
	size := utf8.RuneCountInString(name)
	least := max(1, size/3) + 1
	if size > 4 {
		least = max(3, least)
	}
	for _, n := range names {
		if size < 2 || len(name) > 192 || len(n) > 192 {
			continue
		}
		k := strings.ToLower(n)
		if d := distance(lower, k); d < least {
			best, least = n, d
		}
		if min(utf8.RuneCountInString(k), size) >= 4 && (strings.Contains(k, lower) || strings.Contains(lower, k)) {
			if held != "" {
				held = "-" // more than one
			} else {
				held = n
			}
		}
	}
	if best == "" && held != "-" {
		best = held
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case len(names) == 0 || len(names) > 10:
		return ""
	}
	return "known: " + strings.Join(names, ", ")
}

// known is what is known of row.name.
func (c *compiler) known(n *ast.MemberNode, name string, k kinds, soft bool) Field {
	s := c.roots.shape
	if s == nil {
		return Field{kinds: k}
	}
	if soft {
		s.soft[name] = true
	} else if c.unsure == 0 && c.facts != nil {
		c.facts.present[name] = true
	}
	f, there := s.shape.Fields[name]
	switch {
	case there && !s.asked[name] && f.kinds&k != 0:
		f.kinds &= k
		return f
	case !there && !s.shape.Open && !soft:
		c.miss(n, name, s.shape)
	}
	return Field{kinds: k}
}

// knownFurther is what is known of left.name, right.name or table.name.
func (c *compiler) knownFurther(n *ast.MemberNode, r *further, name string, soft bool) Field {
	path := r.name + "." + name
	if c.roots.shape != nil && soft {
		c.roots.shape.soft[path] = true
	}
	if r.shape == nil {
		return Field{kinds: anyKind}
	}
	f, there := r.shape.Fields[name]
	switch {
	case !there:
		if !r.shape.Open && !soft {
			c.miss(n, path, *r.shape)
		}
		return Field{kinds: anyKind}
	case r.null || f.Optional || soft:
		f.kinds |= isNull
	}
	return f
}

// knownInside is what is known of a field of an object.
func (c *compiler) knownInside(n *ast.MemberNode, base node, soft bool) Field {
	unknown := Field{kinds: anyKind}
	name, ok := n.Property.(*ast.StringNode)
	path, _ := pathOf(n)
	if !ok || c.roots.shape == nil {
		return unknown
	}
	if soft {
		c.roots.shape.soft[path] = true
	}
	if base.inside == nil {
		return unknown
	}
	f, there := base.inside.Fields[name.Value]
	switch {
	case there:
		return f
	case !base.inside.Open && !soft:
		c.miss(n, path, *base.inside)
	}
	return unknown
}

func (c *compiler) miss(n *ast.MemberNode, path string, of Shape) {
	at := Mistake{Path: c.path, Column: c.column(n.Property.Location().From), Guarded: c.guarded > 0}
	if _, ofRow := pathOf(n); !ofRow && c.roots.find(strings.SplitN(path, ".", 2)[0]) == nil {
		at.Message = "there is no field " + path // of an object that the expression has made
	}
	c.roots.shape.miss(at, path, of)
}

// pathOf is the path of a field without the row's name; false if it does not start at the row.
func pathOf(n ast.Node) (path string, ofRow bool) {
	switch n := n.(type) {
	case *ast.ChainNode:
		return pathOf(n.Node)
	case *ast.IdentifierNode:
		return n.Value, n.Value == "row"
	case *ast.MemberNode:
		base, ofRow := pathOf(n.Node)
		name, ok := n.Property.(*ast.StringNode)
		switch {
		case !ok:
			return n.String(), false
		case ofRow && base == "row":
			return name.Value, true
		}
		return base + "." + name.Value, ofRow
	}
	return sourceOf(n), false
}

// rowField is the name of row.name or row?.name.
func rowField(n ast.Node) (name string, ok bool) {
	if chain, is := n.(*ast.ChainNode); is {
		n = chain.Node
	}
	if m, is := n.(*ast.MemberNode); is {
		if root, is := m.Node.(*ast.IdentifierNode); is && root.Value == "row" {
			if p, is := m.Property.(*ast.StringNode); is {
				return p.Value, true
			}
		}
	}
	return "", false
}

// facts are what is known of rows for which an expression has a value, or is true.
type facts struct {
	kinds   map[string]kinds // that a field may have
	present map[string]bool  // fields that are there
}

// narrowed is the shape of the rows of which the facts hold, too.
func (s Shape) narrowed(known *facts, path string) Shape {
	if known == nil || len(known.kinds)+len(known.present) == 0 {
		return s
	}
	fields := make(map[string]Field, len(s.Fields)+len(known.present))
	maps.Copy(fields, s.Fields)
	for name := range known.present {
		f, there := fields[name]
		if !there {
			f = Field{kinds: anyKind, path: path, wrong: !s.Open}
		}
		f.Optional = false
		fields[name] = f
	}
	for name, k := range known.kinds {
		f, there := fields[name]
		switch {
		case !there && s.Open:
			f = Field{kinds: k, Optional: !known.present[name], path: path}
		case f.kinds&k != 0:
			if f.kinds == anyKind {
				f.path = path
			}
			f.kinds &= k
		}
		fields[name] = f
	}
	return Shape{Fields: fields, Open: s.Open}
}

// expect prepares for facts, before the expression is compiled.
func (c *compiler) expect(root ast.Node) {
	if c.roots.shape == nil {
		return
	}
	c.facts = &facts{kinds: make(map[string]kinds), present: make(map[string]bool)}
	if c.roots.holds {
		c.both = make(map[ast.Node]bool)
		for _, p := range conjuncts(root, nil) {
			if _, is := isAnd(p); is {
				c.both[p] = true
			}
		}
	}
}

// conjuncts are the parts of an expression that are true where it is: itself, and both sides of every "and".
func conjuncts(n ast.Node, parts []ast.Node) []ast.Node {
	parts = append(parts, n)
	if b, is := isAnd(n); is {
		parts = conjuncts(b.Right, conjuncts(b.Left, parts))
	}
	return parts
}

func isAnd(n ast.Node) (*ast.BinaryNode, bool) {
	b, ok := n.(*ast.BinaryNode)
	return b, ok && (b.Operator == "&&" || b.Operator == "and")
}

// branch compiles a part that is not computed for every row.
func (c *compiler) branch(n ast.Node, soft bool) node {
	c.guarded++
	c.unsure++
	made := c.compile(n, soft)
	c.guarded--
	c.unsure--
	return made
}

// right compiles the right side of an operator; that of "and" and "or" is not computed for every row.
func (c *compiler) right(n *ast.BinaryNode) node {
	switch n.Operator {
	case "&&", "and", "||", "or":
		if !c.both[n] {
			return c.branch(n.Right, false)
		}
		c.guarded++
		made := c.compile(n.Right, false)
		c.guarded--
		return made
	}
	return c.compile(n.Right, false)
}

// needIf is need for a part of which only sure says that it is computed for every row.
func (c *compiler) needIf(sure bool, at *site, wants kinds, arg ast.Node, n node) bool {
	if !sure {
		c.unsure++
		defer func() { c.unsure-- }()
	}
	c.guarded++
	defer func() { c.guarded-- }()
	return c.need(at, wants, arg, n)
}

// learn notes what a field of the row must be for the expression to have a value.
func (c *compiler) learn(n ast.Node, wants kinds) {
	if c.facts == nil || c.unsure > 0 {
		return
	}
	if name, ok := rowField(n); ok {
		c.facts.learn(name, wants)
	}
}

func (f *facts) learn(name string, wants kinds) {
	k, known := f.kinds[name]
	if !known {
		k = anyKind
	}
	if k &= wants; k != 0 && k != anyKind {
		f.kinds[name] = k
	}
}

// learnBoth is learn for the sides of an operator that takes two numbers, and some of them two strings.
func (c *compiler) learnBoth(n *ast.BinaryNode, l, r node) {
	if c.facts == nil {
		return
	}
	may := numbers
	switch n.Operator {
	case "+", "<", "<=", ">", ">=":
		may |= isString
	case "%":
		may = isInt
	}
	side := func(n ast.Node, other kinds) {
		wants := other & may
		if other&numbers&may != 0 {
			wants |= numbers & may
		}
		c.learn(n, wants)
	}
	side(n.Left, r.kinds)
	side(n.Right, l.kinds)
}

// hold notes what is known of rows for which the expression is true.
func (c *compiler) hold(root ast.Node) {
	if c.facts == nil || !c.roots.holds {
		return
	}
	for _, part := range conjuncts(root, nil) {
		if name, ok := rowField(part); ok {
			c.facts.learn(name, isBool)
			c.facts.present[name] = true
		}
		switch part := part.(type) {
		case *ast.BuiltinNode:
			c.holdHas(part.Name, part.Arguments)
		case *ast.CallNode:
			if callee, ok := part.Callee.(*ast.IdentifierNode); ok {
				c.holdHas(callee.Value, part.Arguments)
			}
		case *ast.BinaryNode:
			c.holdEqual(part.Operator, part.Left, part.Right)
			c.holdEqual(part.Operator, part.Right, part.Left)
		}
	}
}

// holdHas is hold for has(row.x).
func (c *compiler) holdHas(called string, args []ast.Node) {
	if called != "has" || len(args) != 1 {
		return
	}
	if name, ok := rowField(args[0]); ok {
		c.facts.present[name] = true
		c.facts.learn(name, anyKind&^isNull)
	}
}

// holdEqual is hold for row.x == 1, row.x != null and type(row.x) == "int".
func (c *compiler) holdEqual(operator string, of, to ast.Node) {
	name, ok := rowField(of)
	switch {
	case ok && operator == "!=":
		if _, null := to.(*ast.NilNode); null || isNullName(to) {
			c.facts.present[name] = true
			c.facts.learn(name, anyKind&^isNull)
		}
	case ok && operator == "==":
		if k := literal(to); k != 0 {
			c.facts.present[name] = true
			c.facts.learn(name, k)
		}
	case operator == "==":
		text, is := to.(*ast.StringNode)
		if name, asks := typeAsked(of); asks && is {
			k := map[string]kinds{"bool": isBool, "int": isInt, "float": isFloat, "number": isNumber, "string": isString,
				"array": isArray, "object": isObject}[text.Value]
			if k != 0 {
				c.facts.present[name] = true
				c.facts.learn(name, k)
			}
		}
	}
}

func isNullName(n ast.Node) bool {
	id, ok := n.(*ast.IdentifierNode)
	return ok && id.Value == "null"
}

// literal is what a row's field is that equals a literal; 0: the part is none.
func literal(n ast.Node) kinds {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return numbers
	case *ast.StringNode:
		return isString
	case *ast.BoolNode:
		return isBool
	case *ast.UnaryNode:
		if n.Operator == "-" {
			return literal(n.Node) & numbers
		}
	}
	return 0
}

// typeAsked is the field x of type(row.x).
func typeAsked(n ast.Node) (name string, ok bool) {
	var args []ast.Node
	switch n := n.(type) {
	case *ast.BuiltinNode:
		if n.Name == "type" {
			args = n.Arguments
		}
	case *ast.CallNode:
		if callee, is := n.Callee.(*ast.IdentifierNode); is && callee.Value == "type" {
			args = n.Arguments
		}
	}
	if len(args) != 1 {
		return "", false
	}
	return rowField(args[0])
}

// asks notes that an expression asks for the type of a field, or whether the row has it.
func (s *rowShape) asks(args []ast.Node) {
	if s == nil || len(args) == 0 {
		return
	}
	if name, ok := rowField(args[0]); ok {
		s.asked[name] = true
	}
}

// asksFor notes that an expression asks whether the row has a field.
func (s *rowShape) asksFor(name ast.Node) {
	if text, ok := name.(*ast.StringNode); ok && s != nil {
		s.soft[text.Value] = true
	}
}

// holding is what an expression sees that is true for the rows that go on.
func (r roots) holding() roots {
	r.holds = true
	return r
}

// with is the node with what is known of its object's fields.
func (n node) with(inside *Shape) node {
	n.inside = inside
	return n
}

// insideLiteral is what is known of an object that stands there as it is. The nodes are names and values.
func insideLiteral(nodes []node) *Shape {
	s := Shape{Fields: make(map[string]Field, len(nodes)/2)}
	for i := 0; i+1 < len(nodes); i += 2 {
		if !nodes[i].fixed || nodes[i].value.Kind() != kis.String {
			s.Open = true
			continue
		}
		s.Fields[nodes[i].value.Text()] = Field{kinds: nodes[i+1].kinds, Inside: nodes[i+1].inside}
	}
	return &s
}
