package functions

import (
	"regexp"
	"regexp/syntax"
	"strconv"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Functions whose argument is computed for every element of an array, and patterns.

// loop compiles `name(array, body)`. Its walk calls each for every element, with #, #index set and, where a
// body is given, the body's value; each says false to stop early.
type loop struct {
	at      *site
	array   node
	body    node
	scope   scope
	without bool // there is no body: each gets the element
}

func (c *compiler) loop(n ast.Node, b *builtin, args []ast.Node, least, most int, wants kinds, acc bool) (*loop, bool) {
	if !c.arity(n, b, len(args), least, most) {
		return nil, false
	}
	l := &loop{at: c.site(n, b.Name, args[0]), array: c.compile(args[0], false)}
	if !c.need(l.at, isArray, args[0], l.array) {
		return nil, false
	}
	l.scope = scope{element: c.slot(n), index: c.slot(n), acc: -1, kinds: anyKind}
	if acc {
		l.scope.acc = c.slot(n)
	}
	if len(args) < 2 {
		l.without = true
		return l, true
	}
	body, ok := args[1].(*ast.PredicateNode)
	if !ok {
		c.wrong(args[1], b.Signature, "%s needs an expression on elements", b.Name)
		return nil, false
	}
	c.scopes = append(c.scopes, l.scope)
	l.body = c.branch(body.Node, false) // not for an empty array
	c.scopes = c.scopes[:len(c.scopes)-1]
	at := c.site(body.Node, "the condition of "+b.Name, body.Node)
	if wants != isBool {
		at.name = "the element of " + b.Name
	}
	return l, c.needIf(false, at, wants, body.Node, l.body)
}

// walk goes over the elements. It says false if there is no value.
func (l *loop) walk(f *frame, each func(element, made kis.Value) (more, ok bool)) bool {
	array, ok := l.array.eval(f)
	if !ok {
		return false
	}
	if array.Kind() != kis.Array {
		f.mismatch(l.at, "an array", array)
		return false
	}
	if !f.charge(l.at, len(array.Text())) {
		return false
	}
	f.used = true
	i := int64(0)
	for e := (elements{text: array.Text()}); ; i++ {
		text, more := e.next()
		if !more {
			return true
		}
		if !f.charge(l.at, stepCost) {
			return false
		}
		v := decoded(text)
		made := v
		if !l.without {
			f.slots[l.scope.element], f.slots[l.scope.index] = v, kis.IntValue(i)
			if made, ok = l.body.eval(f); !ok {
				return false
			}
		}
		if more, ok = each(v, made); !more || !ok {
			return ok
		}
	}
}

// done makes a node of a loop. It is not computed before there is a row, constants or not.
func (c *compiler) done(k kinds, e eval) node { return node{kinds: k, eval: e} }

// search is all, any, none, one, count, find, findIndex, findLast, findLastIndex and filter.
func (c *compiler) search(n ast.Node, b *builtin, args []ast.Node) node {
	least := 2
	if b.Name == "count" {
		least = 1
	}
	l, ok := c.loop(n, b, args, least, 2, isBool, false)
	if !ok {
		return badNode
	}
	name := b.Name
	k := map[string]kinds{"count": isInt, "find": anyKind, "findLast": anyKind,
		"findIndex": isInt | isNull, "findLastIndex": isInt | isNull, "filter": isArray}[name]
	if k == 0 {
		k = isBool
	}
	return c.done(k, func(f *frame) (kis.Value, bool) {
		var (
			hits, place, at int64
			hit             kis.Value
			list            []kis.Value
		)
		ok := l.walk(f, func(element, made kis.Value) (more, ok bool) {
			if made.Kind() != kis.Bool {
				f.fail(l.at, "the condition of %s must say true or false, but it is %s", name, describe(made))
				return false, false
			}
			at++
			if !made.Bool() {
				return name != "all", true
			}
			hits, hit, place = hits+1, element, at-1
			switch name {
			case "any", "none", "find", "findIndex":
				return false, true
			case "one":
				return hits < 2, true
			case "filter":
				list = append(list, element)
			}
			return true, true
		})
		if !ok {
			return kis.Value{}, false
		}
		switch name {
		case "all":
			return kis.BoolValue(hits == at), true
		case "any":
			return kis.BoolValue(hits > 0), true
		case "none":
			return kis.BoolValue(hits == 0), true
		case "one":
			return kis.BoolValue(hits == 1), true
		case "count":
			return kis.IntValue(hits), true
		case "filter":
			return f.array(l.at, list)
		case "find", "findLast":
			return hit, true
		}
		if hits == 0 {
			return kis.Value{}, true
		}
		return kis.IntValue(place), true
	})
}

func (c *compiler) mapping(n ast.Node, b *builtin, args []ast.Node) node {
	l, ok := c.loop(n, b, args, 2, 2, anyKind, false)
	if !ok {
		return badNode
	}
	return c.done(isArray, func(f *frame) (kis.Value, bool) {
		var list []kis.Value
		ok := l.walk(f, func(_, made kis.Value) (bool, bool) {
			list = append(list, made)
			return true, true
		})
		if !ok {
			return kis.Value{}, false
		}
		return f.array(l.at, list)
	})
}

func (c *compiler) sum(n ast.Node, b *builtin, args []ast.Node) node {
	l, ok := c.loop(n, b, args, 1, 2, numbers, false)
	if !ok {
		return badNode
	}
	at := &site{l.at.column, "+", nil}
	return c.done(numbers, func(f *frame) (kis.Value, bool) {
		total := kis.IntValue(0)
		ok := l.walk(f, func(_, made kis.Value) (_, ok bool) {
			if !numbers.has(made.Kind()) {
				f.fail(l.at, "sum needs numbers, not %s", describe(made))
				return false, false
			}
			total, ok = f.plus(at, total, made)
			return true, ok
		})
		return total, ok
	})
}

func (c *compiler) reduce(n ast.Node, b *builtin, args []ast.Node) node {
	l, ok := c.loop(n, b, args, 2, 3, anyKind, true)
	if !ok {
		return badNode
	}
	var start node
	if len(args) == 3 {
		if start = c.compile(args[2], false); start.bad {
			return badNode
		}
	}
	body := l.body.eval
	l.without = true // the body runs below, from the second element on where there is no start
	return c.done(anyKind, func(f *frame) (kis.Value, bool) {
		acc, any := kis.Value{}, start.eval != nil
		if any {
			var ok bool
			if acc, ok = start.eval(f); !ok {
				return acc, false
			}
		}
		i := int64(0)
		ok := l.walk(f, func(element, _ kis.Value) (_, ok bool) {
			if !any {
				acc, any, i = element, true, i+1
				return true, true
			}
			f.slots[l.scope.acc], f.slots[l.scope.element], f.slots[l.scope.index] = acc, element, kis.IntValue(i)
			acc, ok = body(f)
			i++
			return true, ok
		})
		return acc, ok
	})
}

func (c *compiler) sortBy(n ast.Node, b *builtin, args []ast.Node) node {
	l, ok := c.loop(n, b, args, 2, 3, numbers|isString, false)
	if !ok {
		return badNode
	}
	var order node
	if len(args) == 3 {
		if order = c.compile(args[2], false); !c.need(l.at, isString, args[2], order) {
			return badNode
		}
	}
	return c.done(isArray, func(f *frame) (kis.Value, bool) {
		var list, by, how []kis.Value
		ok := l.walk(f, func(element, made kis.Value) (bool, bool) {
			list, by = append(list, element), append(by, made)
			return true, true
		})
		if !ok {
			return kis.Value{}, false
		}
		if order.eval != nil {
			v, ok := order.eval(f)
			if !ok {
				return v, false
			}
			how = []kis.Value{v}
		}
		if list, ok = f.sorted(l.at, list, by, how); !ok {
			return kis.Value{}, false
		}
		return f.array(l.at, list)
	})
}

func (c *compiler) groupBy(n ast.Node, b *builtin, args []ast.Node) node {
	l, ok := c.loop(n, b, args, 2, 2, scalars, false)
	if !ok {
		return badNode
	}
	return c.done(isObject, func(f *frame) (kis.Value, bool) {
		var names []string
		groups := make(map[string][]byte)
		ok := l.walk(f, func(element, made kis.Value) (_, ok bool) {
			if !scalars.has(made.Kind()) {
				f.fail(l.at, "groupBy groups by texts, numbers, true and false, not by %s", describe(made))
				return false, false
			}
			name := made.Text()
			group, known := groups[name]
			if !known {
				names, group = append(names, name), append(group, '[')
			} else {
				group = append(group, ',')
			}
			groups[name] = element.AppendJSON(group)
			return true, true
		})
		if !ok {
			return kis.Value{}, false
		}
		out := []byte{'{'}
		for i, name := range names {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(kis.StringValue(name).AppendJSON(out), ':')
			out = append(append(out, groups[name]...), ']')
		}
		return f.build(l.at, append(out, '}'))
	})
}

// pattern is a regular expression, with what a byte of text costs at most.
type pattern struct {
	*regexp.Regexp
	cost int
}

func newPattern(text string) (*pattern, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	return &pattern{re, 16 + 4*len(prog.Inst)}, nil
}

// pattern compiles a regular expression: now if it is constant, else when it is needed.
func (c *compiler) pattern(n ast.Node, p node, at *site) (func(f *frame) (*pattern, bool), bool) {
	if !c.need(at, isString, n, p) {
		return nil, false
	}
	if p.fixed {
		re, err := newPattern(p.value.Text())
		if err != nil {
			c.wrong(n, "patterns are Go regular expressions (RE2)", "%v", err)
			return nil, false
		}
		return func(*frame) (*pattern, bool) { return re, true }, true
	}
	text := p.eval
	return func(f *frame) (*pattern, bool) {
		v, ok := text(f)
		if !ok {
			return nil, false
		}
		if v.Kind() != kis.String {
			f.mismatch(&site{at.column, at.name, nil}, "a pattern in a text", v)
			return nil, false
		}
		if re := f.patterns[v.Text()]; re != nil {
			return re, true
		}
		if !f.charge(at, len(v.Text())*1024) {
			return nil, false
		}
		re, err := newPattern(v.Text())
		if err != nil {
			f.fail(at, "%v", err)
			return nil, false
		}
		if f.patterns == nil || len(f.patterns) >= maxKept {
			f.patterns = make(map[string]*pattern)
		}
		f.patterns[string([]byte(v.Text()))] = re // a copy: the text belongs to the row
		return re, true
	}, true
}

func (c *compiler) matches(n *ast.BinaryNode) node {
	at := c.site(n, "matches", n.Left, n.Right)
	l, r := c.compile(n.Left, false), c.compile(n.Right, false)
	if l.bad || r.bad || !c.need(at, isString, n.Left, l) {
		return badNode
	}
	pattern, ok := c.pattern(n.Right, r, at)
	if !ok {
		return badNode
	}
	left := l.eval
	return c.result(isBool, func(f *frame) (kis.Value, bool) {
		v, ok := left(f)
		if !ok {
			return v, false
		}
		if v.Kind() != kis.String {
			return f.mismatch(at, "a text", v)
		}
		re, ok := pattern(f)
		if !ok || !f.charge(at, len(v.Text())*re.cost) {
			return kis.Value{}, false
		}
		return kis.BoolValue(re.MatchString(v.Text())), true
	}, l, r)
}

func (c *compiler) capture(n ast.Node, b *builtin, args []ast.Node) node {
	if !c.arity(n, b, len(args), 2, 3) {
		return badNode
	}
	at := c.site(n, "capture", args...)
	nodes, ok := c.all(args)
	if !ok || !c.need(at, isString, args[0], nodes[0]) {
		return badNode
	}
	group := 1
	if len(args) == 3 {
		if !nodes[2].fixed || nodes[2].value.Kind() != kis.Int || nodes[2].value.Int() < 0 || nodes[2].value.Int() > 99 {
			return c.wrong(args[2], "", "the group of capture is a number from 0 to 99 that stands there as it is")
		}
		group = int(nodes[2].value.Int())
	}
	pattern, ok := c.pattern(args[1], nodes[1], at)
	if !ok {
		return badNode
	}
	if nodes[1].fixed {
		if re, _ := pattern(nil); re.NumSubexp() < group {
			return c.wrong(args[1], "a group stands in parentheses", "the pattern has %s, not group %d", plural(re.NumSubexp(), "group"), group)
		}
	}
	text := nodes[0].eval
	return c.result(isString|isNull, func(f *frame) (kis.Value, bool) {
		v, ok := text(f)
		if !ok {
			return v, false
		}
		if v.Kind() != kis.String {
			return f.mismatch(at, "a text", v)
		}
		re, ok := pattern(f)
		if !ok || !f.charge(at, len(v.Text())*re.cost) {
			return kis.Value{}, false
		}
		if re.NumSubexp() < group {
			return f.fail(at, "the pattern has %s, not group %d", plural(re.NumSubexp(), "group"), group)
		}
		places := re.FindStringSubmatchIndex(v.Text())
		if places == nil || places[2*group] < 0 {
			return kis.Value{}, true
		}
		return f.text(at, v.Text()[places[2*group]:places[2*group+1]])
	}, nodes...)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
