package functions

import (
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Paths: row.a.b, state.x, meta.time, params.p, key.k, x[i], x[a:b], and the names of let and #.

var rootNames = []string{"row", "state", "meta", "params", "key"}

func (c *compiler) sees(name string) bool {
	if c.roots.find(name) != nil {
		return true
	}
	switch name {
	case "row":
		return c.roots.row
	case "meta":
		return c.roots.meta
	case "state":
		return c.roots.state != nil
	case "key":
		return c.roots.must != nil
	}
	return name == "params"
}

// root checks a name that a path starts from; ok says that it is one and can be seen.
func (c *compiler) root(n *ast.IdentifierNode) (ok bool) {
	if !slices.Contains(rootNames, n.Value) && c.roots.find(n.Value) == nil {
		known := slices.Clone(rootNames)
		for _, r := range c.roots.further {
			known = append(known, r.name)
		}
		for _, l := range c.lets {
			known = append(known, l.name)
		}
		hint := didYouMean(n.Value, known)
		if !strings.HasPrefix(hint, "did") {
			hint = "a field of the row is row." + n.Value + ", a text stands in quotes"
		}
		if c.builtins[n.Value] != nil {
			hint = "call it: " + c.builtins[n.Value].Signature
		}
		if why := c.roots.without[n.Value]; why != "" {
			c.wrong(n, "", "%s %s", n.Value, why)
			return false
		}
		c.wrong(n, hint, "unknown name %s", n.Value)
		return false
	}
	if !c.sees(n.Value) {
		why := c.roots.without[n.Value]
		if why == "" {
			why = "cannot be used here"
		}
		c.wrong(n, "", "%s %s", n.Value, why)
		return false
	}
	return true
}

func (c *compiler) letOf(name string) (local, bool) {
	for i := len(c.lets) - 1; i >= 0; i-- {
		if c.lets[i].name == name {
			return c.lets[i], true
		}
	}
	return local{}, false
}

func load(slot int, k kinds) node {
	return node{kinds: k, eval: func(f *frame) (kis.Value, bool) { return f.slots[slot], true }}
}

// identifier is a name that stands alone: a let, null, or a root as an object.
func (c *compiler) identifier(n *ast.IdentifierNode) node {
	if l, ok := c.letOf(n.Value); ok {
		return load(l.slot, l.kinds).with(l.inside)
	}
	if n.Value == "null" {
		return constant(kis.NullValue())
	}
	if !c.root(n) {
		return badNode
	}
	at := c.site(n, n.Value)
	object := func(e func(f *frame, b []byte) []byte) node {
		return node{kinds: isObject, eval: func(f *frame) (kis.Value, bool) { return f.build(at, e(f, nil)) }}
	}
	if r := c.roots.find(n.Value); r != nil {
		return c.furtherRoot(n, r)
	}
	switch n.Value {
	case "row":
		return object(func(f *frame, b []byte) []byte { return f.row.AppendJSON(b) }).with(c.roots.shape.whole())
	case "key":
		return object(func(f *frame, b []byte) []byte { return f.key.AppendJSON(b) })
	case "state":
		names := make([]string, len(c.roots.state))
		for name, i := range c.roots.state {
			names[i] = name
			c.read(i)
		}
		return object(func(f *frame, b []byte) []byte {
			return appendObject(b, len(names), func(i int) (string, kis.Value) { return names[i], f.state[i] })
		})
	case "meta":
		return object(func(f *frame, b []byte) []byte {
			return appendObject(b, len(metaFields), func(i int) (string, kis.Value) { return metaFields[i], metaField(f, metaFields[i]) })
		})
	}
	return object(func(f *frame, b []byte) []byte {
		var names []string
		for name := range f.params.all {
			names = append(names, name)
		}
		slices.Sort(names)
		return appendObject(b, len(names), func(i int) (string, kis.Value) { return names[i], kis.StringValue(f.params.all[names[i]]) })
	})
}

// appendObject appends an object of n fields.
func appendObject(b []byte, n int, field func(i int) (string, kis.Value)) []byte {
	b = append(b, '{')
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		name, v := field(i)
		b = append(kis.StringValue(name).AppendJSON(b), ':')
		b = v.AppendJSON(b)
	}
	return append(b, '}')
}

func metaField(f *frame, name string) kis.Value {
	switch name {
	case "subject":
		return kis.StringValue(f.meta.Subject)
	case "stream":
		return kis.StringValue(f.meta.Stream)
	case "sequence":
		return kis.IntValue(int64(min(f.meta.Sequence, math.MaxInt64)))
	case "index":
		return kis.IntValue(int64(f.meta.Index))
	}
	return kis.IntValue(f.meta.Time.UnixMilli())
}

// pointer is #, #index or #acc.
func (c *compiler) pointer(n *ast.PointerNode) node {
	if len(c.scopes) == 0 {
		return c.wrong(n, "", "# stands for an element only within an array function such as filter or any")
	}
	s := c.scopes[len(c.scopes)-1]
	switch {
	case n.Name == "":
		return load(s.element, s.kinds)
	case n.Name == "index":
		return load(s.index, isInt)
	case n.Name == "acc" && s.acc >= 0:
		return load(s.acc, anyKind)
	case n.Name == "acc":
		return c.wrong(n, "", "#acc is known only within reduce")
	}
	return c.wrong(n, didYouMean(n.Name, []string{"index", "acc"}), "unknown name #%s", n.Name)
}

// optional says whether a path has a ?. in it, up to here.
func optional(n ast.Node) bool {
	for {
		switch m := n.(type) {
		case *ast.ChainNode:
			n = m.Node
		case *ast.MemberNode:
			if m.Optional {
				return true
			}
			n = m.Node
		default:
			return false
		}
	}
}

func (c *compiler) member(n *ast.MemberNode, soft bool) node {
	soft = soft || optional(n)
	if base, ok := n.Node.(*ast.IdentifierNode); ok {
		r := c.roots.find(base.Value)
		if _, local := c.letOf(base.Value); !local && (r == nil || r.row || r.fields != nil) {
			if name, ok := n.Property.(*ast.StringNode); ok {
				return c.field(n, base, name.Value, soft)
			}
			if base.Value == "state" && c.sees("state") && r == nil {
				return c.wrong(n.Property, "write state.name", "a state field is named, not computed")
			}
		}
	}
	if part, ok := c.part(n, soft); ok {
		return part
	}
	if base, ok := n.Node.(*ast.IdentifierNode); ok && base.Value == "row" && c.roots.row {
		return c.computedField(n, soft)
	}
	base := c.compile(n.Node, soft)
	property := c.compile(n.Property, false)
	if base.bad || property.bad {
		return badNode
	}
	made := c.knownInside(n, base, soft)
	at := c.site(n, "[]", n.Node, n.Property)
	if name, ok := n.Property.(*ast.StringNode); ok {
		at.name = "." + name.Value
		at.column = c.column(n.Property.Location().From)
		if !c.need(at, isObject|isNull, n.Node, base) {
			return badNode
		}
	} else {
		if !c.need(at, isObject|isArray|isString|isNull, n.Node, base) {
			return badNode
		}
		if !c.need(c.site(n.Property, "a place or name in brackets", n.Property), isInt|isString, n.Property, property) {
			return badNode
		}
	}
	whole := sourceOf(n)
	of, with := base.eval, property.eval
	return c.result(made.kinds, func(f *frame) (kis.Value, bool) {
		v, ok := of(f)
		if !ok {
			return v, false
		}
		p, ok := with(f)
		if !ok {
			return p, false
		}
		v, there, ok := f.access(at, v, p)
		if ok && !there && !soft {
			return f.fail(at, "%s is missing", whole)
		}
		return v, ok
	}, base, property).with(made.Inside)
}

// computedField is row[...] with a name that is computed.
func (c *compiler) computedField(n *ast.MemberNode, soft bool) node {
	name := c.compile(n.Property, false)
	at := c.site(n, "row[]", n.Property)
	if !c.need(at, isString, n.Property, name) {
		return badNode
	}
	with := name.eval
	return node{kinds: anyKind, eval: func(f *frame) (kis.Value, bool) {
		p, ok := with(f)
		if !ok {
			return p, false
		}
		if p.Kind() != kis.String {
			return f.mismatch(at, "a field's name", p)
		}
		v, there := f.row.Get(p.Text())
		if !there && !soft {
			return f.fail(at, "row[%s] is missing", short(string(p.AppendJSON(nil))))
		}
		return v, true
	}}
}

// access looks up an object's field, an array's element or a string's character; there says whether there is
// one. Negative places count from the end.
func (f *frame) access(at *site, v, p kis.Value) (_ kis.Value, there, ok bool) {
	if v.Kind() == kis.Null {
		return kis.Value{}, false, true
	}
	switch {
	case v.Kind() == kis.Object && p.Kind() == kis.String:
		if row := f.inner(v.Text()); row != nil {
			v, there := row.Get(p.Text())
			return v, there, f.charge(at, stepCost)
		}
		for m := (members{text: v.Text()}); ; {
			name, text, more := m.next()
			if !more || sameName(name, p.Text()) {
				return valueOrNull(text), more, f.charge(at, stepCost+m.at)
			}
		}
	case v.Kind() == kis.Array && p.Kind() == kis.Int:
		i := p.Int()
		if i < 0 {
			if !f.charge(at, walkCost*len(v.Text())) {
				return kis.Value{}, false, false
			}
			if i += int64(count(v.Text())); i < 0 {
				return kis.Value{}, false, true
			}
		}
		for e := (elements{text: v.Text()}); ; i-- {
			text, more := e.next()
			if !more || i == 0 {
				return valueOrNull(text), more, f.charge(at, stepCost+walkCost*e.at)
			}
		}
	case v.Kind() == kis.String && p.Kind() == kis.Int:
		s, i := v.Text(), p.Int()
		if !f.charge(at, stepCost+len(s)) {
			return kis.Value{}, false, false
		}
		if i < 0 {
			i += int64(utf8.RuneCountInString(s))
		}
		for _, r := range s {
			if i == 0 {
				return kis.StringValue(string(r)), true, true
			}
			i--
		}
		return kis.Value{}, false, true
	}
	if p.Kind() == kis.String {
		at = &site{at.column, "." + p.Text(), at.args}
		_, ok = f.mismatch(at, "an object", v)
	} else {
		_, ok = f.mismatch(at, "an array and a place, or an object and a name", v, p)
	}
	return kis.Value{}, false, ok
}

// valueOrNull reads what a walk has found; "" is nothing.
func valueOrNull(text string) kis.Value {
	if text == "" {
		return kis.Value{}
	}
	return decoded(text)
}

// count is the number of an array's elements.
func count(array string) (n int) {
	for e := (elements{text: array}); ; n++ {
		if _, more := e.next(); !more {
			return n
		}
	}
}

// field is a field of a root.
func (c *compiler) field(n *ast.MemberNode, base *ast.IdentifierNode, name string, soft bool) node {
	if base.Value == "null" {
		return c.wrong(base, "", "null has no fields")
	}
	if !c.root(base) {
		return badNode
	}
	at := c.site(base, base.Value+"."+name)
	if r := c.roots.find(base.Value); r != nil {
		return c.furtherField(n, at, r, name, soft)
	}
	switch base.Value {
	case "row":
		k := anyKind
		if slices.Contains(c.roots.must, name) {
			k = scalars &^ isNumber // or the row would have no key
		}
		known := c.known(n, name, k, soft)
		if soft {
			return node{kinds: known.kinds | isNull, inside: known.Inside, eval: func(f *frame) (kis.Value, bool) {
				v, _ := f.row.Get(name)
				return v, true
			}}
		}
		return node{kinds: known.kinds, inside: known.Inside, eval: func(f *frame) (kis.Value, bool) {
			v, there := f.row.Get(name)
			if !there {
				return f.fail(at, "%s is missing", at.name)
			}
			return v, true
		}}
	case "state":
		i, there := c.roots.state[name]
		if !there {
			known := make([]string, 0, len(c.roots.state))
			for k := range c.roots.state {
				known = append(known, k)
			}
			return c.wrong(n.Property, didYouMean(name, known), "unknown state field %s", name)
		}
		c.read(i)
		return node{kinds: c.roots.kinds[i], eval: func(f *frame) (kis.Value, bool) { return f.state[i], true }}
	case "meta":
		if !slices.Contains(metaFields, name) {
			return c.wrong(n.Property, didYouMean(name, metaFields), "meta has no %s", name)
		}
		k := isInt
		if name == "subject" || name == "stream" {
			k = isString
		}
		return node{kinds: k, eval: func(f *frame) (kis.Value, bool) { return metaField(f, name), true }}
	case "key":
		i := slices.Index(c.roots.must, name)
		if i < 0 {
			return c.wrong(n.Property, didYouMean(name, c.roots.must), "the key has no field %s", name)
		}
		return node{kinds: scalars &^ isNumber, eval: func(f *frame) (kis.Value, bool) {
			if f.keys == nil {
				f.keys = f.key.Fields()
			}
			if i >= len(f.keys) {
				return f.fail(at, "%s is missing", at.name)
			}
			return f.keys[i].Value, true
		}}
	}
	if soft {
		c.params.optional[name] = true
	}
	i := c.params.place(name)
	return node{kinds: isString, eval: func(f *frame) (kis.Value, bool) {
		if !f.params.known[i] && !soft {
			return f.fail(at, "the step has no parameter %s", name)
		}
		return f.params.values[i], true
	}}
}

// part is split(s, separator)[n] without the other parts.
func (c *compiler) part(n *ast.MemberNode, soft bool) (node, bool) {
	call, ok := n.Node.(*ast.BuiltinNode)
	if !ok || call.Name != "split" || len(call.Arguments) != 2 {
		return node{}, false
	}
	place, ok := n.Property.(*ast.IntegerNode)
	if !ok || place.Value < 0 {
		return node{}, false
	}
	s, sep := c.compile(call.Arguments[0], false), c.compile(call.Arguments[1], false)
	at := c.site(n, "split", call.Arguments...)
	if !c.need(at, isString, call.Arguments[0], s) || !c.need(at, isString, call.Arguments[1], sep) {
		return badNode, true
	}
	of, by := s.eval, sep.eval
	k := isString
	if soft {
		k |= isNull
	}
	return c.result(k, func(f *frame) (kis.Value, bool) {
		a, ok := of(f)
		if !ok {
			return a, false
		}
		b, ok := by(f)
		if !ok {
			return b, false
		}
		if a.Kind() != kis.String || b.Kind() != kis.String {
			return f.mismatch(at, "two strings", a, b)
		}
		if !f.charge(at, len(a.Text())) {
			return kis.Value{}, false
		}
		part, there := nth(a.Text(), b.Text(), place.Value)
		if !there && !soft {
			return f.fail(at, "%s has no part %d", sourceOf(call), place.Value)
		} else if !there {
			return kis.Value{}, true
		}
		return kis.StringValue(part), true
	}, s, sep), true
}

// nth is strings.Split(s, sep)[n].
func nth(s, sep string, n int) (string, bool) {
	if sep == "" {
		for _, r := range s {
			if n == 0 {
				return string(r), true
			}
			n--
		}
		return "", false
	}
	for ; n > 0; n-- {
		_, rest, found := strings.Cut(s, sep)
		if !found {
			return "", false
		}
		s = rest
	}
	part, _, _ := strings.Cut(s, sep)
	return part, true
}

// slice is x[from:to] of an array or a string. Places count elements or characters, negative ones from the
// end; what lies outside is left out.
func (c *compiler) slice(n *ast.SliceNode) node {
	at := c.site(n, "[:]", n.Node)
	base := c.compile(n.Node, false)
	if !c.need(at, isArray|isString, n.Node, base) {
		return badNode
	}
	bounds := [2]node{constant(kis.IntValue(0)), constant(kis.IntValue(math.MaxInt64))}
	for i, b := range []ast.Node{n.From, n.To} {
		if b == nil {
			continue
		}
		bounds[i] = c.compile(b, false)
		if !c.need(c.site(b, "a place in [:]", b), isInt, b, bounds[i]) {
			return badNode
		}
	}
	of, from, to := base.eval, bounds[0].eval, bounds[1].eval
	return c.result(base.kinds&(isArray|isString), func(f *frame) (kis.Value, bool) {
		v, ok := of(f)
		if !ok {
			return v, false
		}
		a, ok := from(f)
		if !ok {
			return a, false
		}
		b, ok := to(f)
		if !ok {
			return b, false
		}
		if a.Kind() != kis.Int || b.Kind() != kis.Int {
			return f.fail(at, "the places in [:] must be integers, not %s and %s", describe(a), describe(b))
		}
		return cut(f, at, v, a.Int(), b.Int())
	}, base, bounds[0], bounds[1])
}

func cut(f *frame, at *site, v kis.Value, from, to int64) (kis.Value, bool) {
	var length int64
	switch v.Kind() {
	case kis.String:
		length = int64(utf8.RuneCountInString(v.Text()))
	case kis.Array:
		length = int64(count(v.Text()))
	default:
		return f.mismatch(at, "an array or a string", v)
	}
	if !f.charge(at, 2*walkCost*len(v.Text())) {
		return kis.Value{}, false
	}
	if from < 0 {
		from += length
	}
	if to < 0 {
		to += length
	}
	from, to = min(max(from, 0), length), min(max(to, 0), length)
	to = max(from, to)
	if v.Kind() == kis.String {
		return f.text(at, characters(v.Text(), int(from), int(to)))
	}
	list, ok := f.list(at, v)
	if !ok {
		return kis.Value{}, false
	}
	return f.array(at, list[from:to])
}

// characters is s[from:to] counted in characters.
func characters(s string, from, to int) string {
	start, end, n := len(s), len(s), 0
	for i := range s {
		if n == from {
			start = i
		}
		if n == to {
			end = i
			break
		}
		n++
	}
	return s[start:end]
}
