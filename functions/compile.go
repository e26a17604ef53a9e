package functions

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/kisflow/kisflow/kis"
)

// roots are the names that an expression may start from.
type roots struct {
	row, meta bool
	must      []string          // of the key; nil: the expression sees no key
	state     map[string]int    // places of the state's fields; nil: the expression sees no state
	kinds     []kinds           // of the state's fields
	without   map[string]string // for roots that cannot be seen here: why
	shape     *rowShape         // what is known of the row; nil: nothing
	holds     bool              // only rows for which the expression is true go on
	further   []further         // roots that only some expressions have; see further.go
}

// metaFields are what meta holds.
var metaFields = []string{"index", "sequence", "stream", "subject", "time"}

// paramTable collects the parameters that the expressions of a function look at.
type paramTable struct {
	names    []string
	optional map[string]bool // somebody asks whether it is there
}

func (t *paramTable) place(name string) int {
	if i := slices.Index(t.names, name); i >= 0 {
		return i
	}
	t.names = append(t.names, name)
	return len(t.names) - 1
}

// compiler makes a program of one expression.
type compiler struct {
	path     string
	source   string
	roots    roots
	params   *paramTable
	builtins map[string]*builtin
	mistakes []Mistake

	nodes    int
	slots    int
	asksType bool   // type is called
	reads    []bool // fields of the state that are looked at, by place
	lets     []local
	scopes   []scope // of array functions, innermost last

	guarded int               // above zero: the part is not computed for every row
	unsure  int               // as guarded, without those parts that are computed where the whole is true
	both    map[ast.Node]bool // conjunctions of which both sides are true where the whole is
	facts   *facts            // of rows for which the expression has a value; nil: nobody asks
}

// local is a name that let has declared.
type local struct {
	name  string
	slot  int
	kinds kinds

	inside *Shape
}

// scope is what # means.
type scope struct {
	element, index, acc int // slots; acc is -1 outside reduce
	kinds               kinds
}

// node is a part of an expression, compiled.
type node struct {
	eval  eval
	kinds kinds // what it may be
	fixed bool  // it is value, whatever the row
	value kis.Value
	bad   bool // a mistake has been noted: never run

	inside *Shape // what is known of an object's fields
}

var badNode = node{kinds: anyKind, bad: true}

// compile reads and checks one expression. Without mistakes the program is ready.
func compile(path, source string, see roots, params *paramTable, builtins map[string]*builtin) (*program, []Mistake) {
	c := &compiler{path: path, source: source, roots: see, params: params, builtins: builtins}
	root, ok := c.parse()
	if !ok {
		return nil, c.mistakes
	}
	c.expect(root)
	n := c.compile(root, false)
	if len(c.mistakes) > 0 {
		return nil, c.mistakes
	}
	c.hold(root)
	return &program{path: path, eval: n.eval, kinds: n.kinds, fixed: n.fixed, value: n.value, asksType: c.asksType, inside: n.inside, facts: c.facts, reads: c.reads}, nil
}

// parse turns the text into expr-lang's tree.
func (c *compiler) parse() (root ast.Node, ok bool) {
	switch {
	case strings.TrimSpace(c.source) == "":
		c.note(0, "the expression is empty", "")
		return nil, false
	case len(c.source) > MaxExpression:
		c.note(0, fmt.Sprintf("the expression has %d bytes; the most is %d", len(c.source), MaxExpression), "")
		return nil, false
	case !utf8.ValidString(c.source):
		c.note(0, "the expression is not UTF-8", "")
		return nil, false
	}
	root, err := tree(c.source)
	if err == nil {
		return root, true
	}
	var at *file.Error
	if !errors.As(err, &at) {
		c.note(0, err.Error(), "")
		return nil, false
	}
	message, hint := readable(at.Message)
	column := c.column(at.From)
	if message == tooLarge {
		column = 0 // the parser names the token after it
	}
	c.note(column, message, hint)
	return nil, false
}

// tree reads an expression with expr-lang's parser.
func tree(source string) (root ast.Node, err error) {
	defer func() { // the parser is not ours; what it cannot read must not end the process
		if p := recover(); p != nil {
			root, err = nil, fmt.Errorf("the expression cannot be read: %v", p)
		}
	}()
	config := conf.CreateNew()
	config.MaxNodes = MaxNodes
	t, err := parser.ParseWithConfig(source, config)
	if err != nil {
		return nil, err
	}
	return t.Node, nil
}

const tooLarge = "an integer does not fit 64 bits"

// readable turns a parser's message into one for authors of flows.
func readable(message string) (text, hint string) {
	token := func(kind string) (string, bool) {
		rest, ok := strings.CutPrefix(message, "unexpected token "+kind+"(")
		return strings.Trim(strings.TrimSuffix(rest, ")"), `"`), ok
	}
	if message == "unexpected token EOF" || message == "unexpected end of expression" {
		return "the expression ends too early", ""
	}
	if strings.Contains(message, "exceeds maximum allowed nodes") {
		return fmt.Sprintf("the expression has more than %d parts", MaxNodes), ""
	}
	if strings.Contains(message, "invalid integer literal") || message == "integer literal is too large" {
		return tooLarge, ""
	}
	for _, kind := range []string{"Operator", "Bracket", "Identifier", "Number", "String"} {
		t, ok := token(kind)
		if !ok {
			continue
		}
		switch {
		case t == "=":
			hint = "== compares"
		case t == "&":
			hint = "&& is the logical and"
		case strings.EqualFold(t, "and"), strings.EqualFold(t, "or"), strings.EqualFold(t, "not"), strings.EqualFold(t, "in"):
			hint = "in small letters: " + strings.ToLower(t)
		}
		return "unexpected " + t, hint
	}
	if r, size := utf8.DecodeRuneInString(message); size > 0 {
		message = strings.ToLower(string(r)) + message[size:]
	}
	return message, ""
}

// column turns a place in characters into a place in bytes, from 1.
func (c *compiler) column(runes int) int {
	for i := range c.source {
		if runes--; runes < 0 {
			return i + 1
		}
	}
	return len(c.source) + 1
}

func (c *compiler) note(column int, message, hint string) {
	c.mistakes = append(c.mistakes, Mistake{Path: c.path, Column: column, Message: message, Hint: hint, Guarded: c.guarded > 0})
}

// wrong notes a mistake at a part of the expression.
func (c *compiler) wrong(n ast.Node, hint, format string, args ...any) node {
	c.note(c.column(n.Location().From), fmt.Sprintf(format, args...), hint)
	return badNode
}

func (c *compiler) site(n ast.Node, name string, args ...ast.Node) *site {
	return &site{c.column(n.Location().From), name, args}
}

// slot reserves a place in the frame.
func (c *compiler) slot(n ast.Node) int {
	if c.slots >= maxSlots {
		c.wrong(n, "", "the expression has more than %d names of its own", maxSlots)
		return 0
	}
	c.slots++
	return c.slots - 1
}

func constant(v kis.Value) node {
	return node{
		eval:  func(*frame) (kis.Value, bool) { return v, true },
		kinds: kindsOf(v.Kind()), fixed: true, value: v,
	}
}

// result makes a node of what has been computed from args. With nothing but constants it is computed here and
// now, so that its mistake shows before the first row.
func (c *compiler) result(k kinds, e eval, args ...node) node {
	for _, a := range args {
		if a.bad {
			return badNode
		}
	}
	for _, a := range args {
		if !a.fixed {
			return node{eval: e, kinds: k}
		}
	}
	f := newFrame(nil)
	f.work = maxWork
	v, ok := e(f)
	if !ok {
		c.note(f.err.column, f.err.message, "")
		return badNode
	}
	return constant(v)
}

// need notes a mistake if an operand can never be what it has to be.
func (c *compiler) need(at *site, wants kinds, arg ast.Node, n node) bool {
	if n.bad || n.kinds&wants != 0 {
		c.learn(arg, wants)
		return !n.bad
	}
	c.note(at.column, fmt.Sprintf("%s needs %s; %s is %s", at.name, wants, sourceOf(arg), n.kinds), "")
	return false
}

// compile makes a closure of a part of the expression. A soft part is null where something that it names is
// missing; any other has no value then.
func (c *compiler) compile(n ast.Node, soft bool) node {
	if c.nodes++; c.nodes > MaxNodes {
		if c.nodes == MaxNodes+1 { // a chain of comparisons counts its inner operands twice
			return c.wrong(n, "", "the expression has more than %d parts", MaxNodes)
		}
		return badNode
	}
	switch n := n.(type) {
	case *ast.NilNode:
		return constant(kis.NullValue())
	case *ast.BoolNode:
		return constant(kis.BoolValue(n.Value))
	case *ast.IntegerNode:
		return constant(kis.IntValue(int64(n.Value)))
	case *ast.FloatNode:
		return constant(kis.FloatValue(n.Value))
	case *ast.StringNode:
		return constant(kis.StringValue(n.Value))
	case *ast.BytesNode:
		return c.wrong(n, "a string stands in quotes without b", "there are no byte strings")
	case *ast.IdentifierNode:
		return c.identifier(n)
	case *ast.PointerNode:
		return c.pointer(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n, soft)
	case *ast.ConditionalNode:
		return c.conditional(n, soft)
	case *ast.ChainNode:
		return c.compile(n.Node, soft)
	case *ast.MemberNode:
		return c.member(n, soft)
	case *ast.SliceNode:
		return c.slice(n)
	case *ast.ArrayNode:
		return c.arrayLiteral(n)
	case *ast.MapNode:
		return c.objectLiteral(n)
	case *ast.VariableDeclaratorNode:
		return c.let(n, soft)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		switch callee := n.Callee.(type) {
		case *ast.IdentifierNode:
			return c.call(n, callee.Value, n.Arguments)
		case *ast.MemberNode:
			if name, ok := callee.Property.(*ast.StringNode); ok {
				return c.wrong(callee.Property, fmt.Sprintf("write %s(%s)", name.Value, sourceOf(callee.Node)), "values have no methods")
			}
		}
		return c.wrong(n, "", "only a function can be called")
	case *ast.SequenceNode:
		return c.wrong(n, "", "only one expression can stand here, without ;")
	case *ast.PredicateNode:
		return c.wrong(n, "", "a condition on elements cannot stand here")
	}
	return c.wrong(n, "", "%s cannot be used here", sourceOf(n))
}

func (c *compiler) unary(n *ast.UnaryNode) node {
	arg := c.compile(n.Node, false)
	at := c.site(n, n.Operator, n.Node)
	e := arg.eval
	switch n.Operator {
	case "!", "not":
		if !c.need(at, isBool, n.Node, arg) {
			return badNode
		}
		return c.result(isBool, func(f *frame) (kis.Value, bool) {
			v, ok := e(f)
			if !ok {
				return v, false
			}
			if v.Kind() != kis.Bool {
				return f.mismatch(at, "true or false", v)
			}
			return kis.BoolValue(!v.Bool()), true
		}, arg)
	case "-":
		if !c.need(at, numbers, n.Node, arg) {
			return badNode
		}
		return c.result(arg.kinds&numbers, func(f *frame) (kis.Value, bool) {
			v, ok := e(f)
			if !ok {
				return v, false
			}
			return negative(f, at, v)
		}, arg)
	case "+":
		if !c.need(at, numbers, n.Node, arg) {
			return badNode
		}
		return c.result(arg.kinds&numbers, func(f *frame) (kis.Value, bool) {
			v, ok := e(f)
			if ok && !numbers.has(v.Kind()) {
				return f.mismatch(at, "a number", v)
			}
			return v, ok
		}, arg)
	}
	return c.wrong(n, "", "unknown operator %s", n.Operator)
}

func (c *compiler) binary(n *ast.BinaryNode, soft bool) node {
	switch n.Operator {
	case "??":
		return c.coalesce(n, soft)
	case "in":
		return c.in(n)
	case "matches":
		return c.matches(n)
	}
	l, r := c.compile(n.Left, false), c.right(n)
	if l.bad || r.bad {
		return badNode
	}
	at := c.site(n, n.Operator, n.Left, n.Right)
	switch n.Operator {
	case "&&", "and", "||", "or":
		return c.logic(n, at, l, r)
	case "+", "-", "*", "/", "%", "**", "^":
		return c.arithmetic(n, at, l, r)
	case "==", "!=":
		if l.kinds&r.kinds == 0 && (l.kinds&numbers == 0 || r.kinds&numbers == 0) && (l.kinds|r.kinds)&isNull == 0 {
			return c.wrong(n, "", "%s is %s and %s is %s: they are never equal", sourceOf(n.Left), l.kinds, sourceOf(n.Right), r.kinds)
		}
		return c.result(isBool, equal(at, l.eval, r.eval, n.Operator == "=="), l, r)
	case "<", "<=", ">", ">=":
		if !(l.kinds&numbers != 0 && r.kinds&numbers != 0) && l.kinds&r.kinds&isString == 0 {
			return c.wrong(n, "", "%s needs two numbers or two strings; %s is %s, %s is %s",
				n.Operator, sourceOf(n.Left), l.kinds, sourceOf(n.Right), r.kinds)
		}
		c.learnBoth(n, l, r)
		return c.result(isBool, ordered(at, l.eval, r.eval, n.Operator), l, r)
	case "contains", "startsWith", "endsWith":
		if !c.need(at, isString, n.Left, l) || !c.need(at, isString, n.Right, r) {
			return badNode
		}
		test := map[string]func(s, part string) bool{
			"contains": strings.Contains, "startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix}[n.Operator]
		left, right := l.eval, r.eval
		return c.result(isBool, func(f *frame) (kis.Value, bool) {
			a, ok := left(f)
			if !ok {
				return a, false
			}
			b, ok := right(f)
			if !ok {
				return b, false
			}
			if a.Kind() != kis.String || b.Kind() != kis.String {
				return f.mismatch(at, "two strings", a, b)
			}
			if !f.charge(at, len(a.Text())) {
				return kis.Value{}, false
			}
			return kis.BoolValue(test(a.Text(), b.Text())), true
		}, l, r)
	case "..":
		if !c.need(at, isInt, n.Left, l) || !c.need(at, isInt, n.Right, r) {
			return badNode
		}
		left, right := l.eval, r.eval
		return c.result(isArray, func(f *frame) (kis.Value, bool) {
			a, ok := left(f)
			if !ok {
				return a, false
			}
			b, ok := right(f)
			if !ok {
				return b, false
			}
			return span(f, at, a, b)
		}, l, r)
	}
	return c.wrong(n, "", "unknown operator %s", n.Operator)
}

// span is the array of the integers from a to b.
func span(f *frame, at *site, a, b kis.Value) (kis.Value, bool) {
	if a.Kind() != kis.Int || b.Kind() != kis.Int {
		return f.mismatch(at, "two integers", a, b)
	}
	var list []kis.Value
	for i := a.Int(); i <= b.Int(); i++ {
		if !f.charge(at, stepCost*buildCost) {
			return kis.Value{}, false
		}
		if list = append(list, kis.IntValue(i)); i == b.Int() {
			break // before i goes round
		}
	}
	return f.array(at, list)
}

func (c *compiler) logic(n *ast.BinaryNode, at *site, l, r node) node {
	if !c.need(at, isBool, n.Left, l) || !c.needIf(c.both[n], at, isBool, n.Right, r) {
		return badNode
	}
	ends := n.Operator == "||" || n.Operator == "or" // the left side's answer that is the whole's
	left, right := l.eval, r.eval
	return c.result(isBool, func(f *frame) (kis.Value, bool) {
		a, ok := left(f)
		if !ok {
			return a, false
		}
		if a.Kind() != kis.Bool {
			return f.mismatch(at, "true or false on both sides", a)
		}
		if a.Bool() == ends {
			return a, true
		}
		b, ok := right(f)
		if ok && b.Kind() != kis.Bool {
			return f.mismatch(at, "true or false on both sides", a, b)
		}
		return b, ok
	}, l, r)
}

func (c *compiler) arithmetic(n *ast.BinaryNode, at *site, l, r node) node {
	both := (l.kinds | r.kinds) & numbers
	if l.kinds&numbers == 0 || r.kinds&numbers == 0 {
		both = 0
	}
	if l.kinds&numbers == isInt && r.kinds&numbers == isInt {
		both = isInt
	} else if l.kinds&numbers == isFloat || r.kinds&numbers == isFloat {
		both &= isFloat
	}
	wants := "two numbers"
	switch n.Operator {
	case "+":
		wants = "two numbers or two strings"
		both |= l.kinds & r.kinds & isString
	case "%":
		wants = "two integers"
		both = l.kinds & r.kinds & isInt
	}
	if both == 0 {
		return c.wrong(n, "", "%s needs %s; %s is %s, %s is %s", n.Operator, wants, sourceOf(n.Left), l.kinds, sourceOf(n.Right), r.kinds)
	}
	c.learnBoth(n, l, r)
	op := map[string]func(*frame, *site, kis.Value, kis.Value) (kis.Value, bool){
		"/": divide, "%": remainder, "**": power, "^": power}[n.Operator]
	left, right := l.eval, r.eval
	e := func(f *frame) (kis.Value, bool) {
		a, ok := left(f)
		if !ok {
			return a, false
		}
		b, ok := right(f)
		if !ok {
			return b, false
		}
		return op(f, at, a, b)
	}
	switch n.Operator {
	case "+":
		e = add(at, left, right)
	case "-":
		e = sub(at, left, right)
	case "*":
		e = mul(at, left, right)
	}
	return c.result(both, e, l, r)
}

func equal(at *site, l, r eval, want bool) eval {
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		is, ok := f.same(at, a, b)
		return kis.BoolValue(is == want), ok
	}
}

func ordered(at *site, l, r eval, op string) eval {
	below, level, above := op[0] == '<', len(op) == 2, op[0] == '>'
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		order, ok := f.order(at, a, b)
		switch {
		case order < 0:
			return kis.BoolValue(below), ok
		case order > 0:
			return kis.BoolValue(above), ok
		}
		return kis.BoolValue(level), ok
	}
}

func (c *compiler) coalesce(n *ast.BinaryNode, soft bool) node {
	l, r := c.compile(n.Left, true), c.branch(n.Right, soft)
	if l.bad || r.bad {
		return badNode
	}
	left, right := l.eval, r.eval
	return c.result(l.kinds&^isNull|r.kinds, func(f *frame) (kis.Value, bool) {
		v, ok := left(f)
		if !ok || v.Kind() != kis.Null {
			return v, ok
		}
		return right(f)
	}, l, r).with(insideOf(l.kinds, l.inside, r.kinds, r.inside))
}

func (c *compiler) conditional(n *ast.ConditionalNode, soft bool) node {
	cond, yes, no := c.compile(n.Cond, false), c.branch(n.Exp1, soft), c.branch(n.Exp2, soft)
	at := c.site(n.Cond, "the condition", n.Cond)
	if cond.bad || yes.bad || no.bad || !c.need(at, isBool, n.Cond, cond) {
		return badNode
	}
	test, then, other := cond.eval, yes.eval, no.eval
	return c.result(yes.kinds|no.kinds, func(f *frame) (kis.Value, bool) {
		v, ok := test(f)
		if !ok {
			return v, false
		}
		if v.Kind() != kis.Bool {
			return f.mismatch(at, "true or false", v)
		}
		if v.Bool() {
			return then(f)
		}
		return other(f)
	}, cond, yes, no).with(insideOf(yes.kinds, yes.inside, no.kinds, no.inside))
}

func (c *compiler) let(n *ast.VariableDeclaratorNode, soft bool) node {
	taken := slices.ContainsFunc(c.lets, func(l local) bool { return l.name == n.Name }) || c.roots.find(n.Name) != nil
	if taken || slices.Contains(rootNames, n.Name) || n.Name == "null" || c.builtins[n.Name] != nil {
		c.wrong(n, "choose another name", "let %s: the name is taken", n.Name)
	}
	value := c.compile(n.Value, false)
	slot := c.slot(n)
	c.lets = append(c.lets, local{n.Name, slot, value.kinds, value.inside})
	body := c.compile(n.Expr, soft)
	c.lets = c.lets[:len(c.lets)-1]
	if value.bad || body.bad {
		return badNode
	}
	first, then := value.eval, body.eval
	return c.result(body.kinds, func(f *frame) (kis.Value, bool) {
		v, ok := first(f)
		if !ok {
			return v, false
		}
		f.slots[slot], f.used = v, true
		return then(f)
	}, value, body).with(body.inside)
}

// in is `value in array`, `"name" in object`, and `"name" in row`.
func (c *compiler) in(n *ast.BinaryNode) node {
	l := c.compile(n.Left, false)
	at := c.site(n, "in", n.Left, n.Right)
	left := l.eval
	if root, ok := n.Right.(*ast.IdentifierNode); ok && root.Value == "row" && c.roots.row {
		c.roots.shape.asksFor(n.Left)
		if !c.need(at, isString, n.Left, l) {
			return badNode
		}
		return node{kinds: isBool, eval: func(f *frame) (kis.Value, bool) {
			v, ok := left(f)
			if !ok {
				return v, false
			}
			if v.Kind() != kis.String {
				return f.mismatch(at, "a field's name before it", v)
			}
			_, there := f.row.Get(v.Text())
			return kis.BoolValue(there), true
		}}
	}
	if root, ok := n.Right.(*ast.IdentifierNode); ok && root.Value == "params" {
		if name, ok := n.Left.(*ast.StringNode); ok {
			c.params.optional[name.Value] = true
		}
	}
	if span, ok := n.Right.(*ast.BinaryNode); ok && span.Operator == ".." {
		return c.within(n, span, l)
	}
	r := c.compile(n.Right, false)
	if l.bad || !c.need(at, isArray|isObject, n.Right, r) {
		return badNode
	}
	if r.kinds&isArray == 0 && !c.need(at, isString, n.Left, l) {
		return badNode
	}
	var fixed []kis.Value
	if r.fixed && r.value.Kind() == kis.Array {
		for e := (elements{text: r.value.Text()}); ; {
			t, ok := e.next()
			if !ok {
				break
			}
			fixed = append(fixed, decoded(t))
		}
	}
	right := r.eval
	return c.result(isBool, func(f *frame) (kis.Value, bool) {
		a, ok := left(f)
		if !ok {
			return a, false
		}
		for _, v := range fixed {
			if is, ok := f.same(at, a, v); is || !ok {
				return kis.BoolValue(is), ok
			}
		}
		if fixed != nil {
			return kis.BoolValue(false), true
		}
		b, ok := right(f)
		if !ok {
			return b, false
		}
		if !f.charge(at, len(b.Text())) {
			return kis.Value{}, false
		}
		switch {
		case b.Kind() == kis.Object && a.Kind() == kis.String:
			_, there := member(b.Text(), a.Text())
			return kis.BoolValue(there), true
		case b.Kind() == kis.Object:
			return f.mismatch(at, "a field's name before an object", a, b)
		case b.Kind() != kis.Array:
			return f.mismatch(at, "an array or an object after it", a, b)
		}
		for e := (elements{text: b.Text()}); ; {
			t, more := e.next()
			if !more {
				return kis.BoolValue(false), true
			}
			if !f.charge(at, stepCost) {
				return kis.Value{}, false
			}
			if is, ok := f.same(at, a, decoded(t)); is || !ok {
				return kis.BoolValue(is), ok
			}
		}
	}, l, r)
}

// within is `value in a..b`, without making the array.
func (c *compiler) within(n, bounds *ast.BinaryNode, l node) node {
	at := c.site(bounds, "..", bounds.Left, bounds.Right)
	a, b := c.compile(bounds.Left, false), c.compile(bounds.Right, false)
	if l.bad || !c.need(at, isInt, bounds.Left, a) || !c.need(at, isInt, bounds.Right, b) {
		return badNode
	}
	of, from, to := l.eval, a.eval, b.eval
	return c.result(isBool, func(f *frame) (kis.Value, bool) {
		v, ok := of(f)
		if !ok {
			return v, false
		}
		lo, ok := from(f)
		if !ok {
			return lo, false
		}
		hi, ok := to(f)
		if !ok {
			return hi, false
		}
		if lo.Kind() != kis.Int || hi.Kind() != kis.Int {
			return f.mismatch(at, "two integers", lo, hi)
		}
		is := numbers.has(v.Kind()) && compareNumbers(lo, v) <= 0 && compareNumbers(v, hi) <= 0
		if is && v.Kind() == kis.Float {
			is = v.Float() == math.Trunc(v.Float())
		}
		return kis.BoolValue(is), true
	}, l, a, b)
}

func (c *compiler) arrayLiteral(n *ast.ArrayNode) node {
	at := c.site(n, "the array")
	nodes, ok := c.all(n.Nodes)
	if !ok {
		return badNode
	}
	return c.result(isArray, func(f *frame) (kis.Value, bool) {
		b := make([]byte, 0, 16*len(nodes)+2)
		b = append(b, '[')
		for i := range nodes {
			v, ok := nodes[i].eval(f)
			if !ok {
				return v, false
			}
			if i > 0 {
				b = append(b, ',')
			}
			if b = v.AppendJSON(b); len(b) > MaxText {
				break // build says so
			}
		}
		return f.build(at, append(b, ']'))
	}, nodes...)
}

func (c *compiler) objectLiteral(n *ast.MapNode) node {
	at := c.site(n, "the object")
	var parts []ast.Node
	for _, p := range n.Pairs {
		pair := p.(*ast.PairNode)
		parts = append(parts, pair.Key, pair.Value)
	}
	nodes, ok := c.all(parts)
	if !ok {
		return badNode
	}
	for i := 0; i < len(nodes); i += 2 {
		if !c.need(c.site(parts[i], "a field's name", parts[i]), isString, parts[i], nodes[i]) {
			return badNode
		}
	}
	return c.result(isObject, func(f *frame) (kis.Value, bool) {
		b := make([]byte, 0, 16*len(nodes)+2)
		b = append(b, '{')
		for i := range nodes {
			v, ok := nodes[i].eval(f)
			if !ok {
				return v, false
			}
			switch {
			case i%2 == 1:
				b = append(b, ':')
			case v.Kind() != kis.String:
				return f.fail(at, "a field's name must be a string; %s is %s", sourceOf(parts[i]), describe(v))
			case i > 0:
				b = append(b, ',')
			}
			if b = v.AppendJSON(b); len(b) > MaxText {
				break // build says so
			}
		}
		return f.build(at, append(b, '}'))
	}, nodes...).with(insideLiteral(nodes))
}

// all compiles the parts of a list.
func (c *compiler) all(parts []ast.Node) (nodes []node, ok bool) {
	ok = true
	for _, p := range parts {
		n := c.compile(p, false)
		ok = ok && !n.bad
		nodes = append(nodes, n)
	}
	return nodes, ok
}
