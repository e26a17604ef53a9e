package functions

import (
	"slices"
	"unsafe"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Roots that only some expressions have, and which fields of a row an expression looks at.

// further is a root that only some expressions have: a row beside the one in hand (left, right, table), a value
// (self), or a few values with names (window).
type further struct {
	name   string
	at     int      // its place in frame.rows, or of its first value in frame.values
	row    bool     // it is a row; where there is none it is null
	kinds  kinds    // of a single value
	fields []string // of several values
	each   []kinds  // of these

	shape *Shape // what is known of a row; nil: nothing
	null  bool   // there may be no row, where shape is known
}

// also returns roots with further ones.
func (r roots) also(more ...further) roots {
	r.further = append(slices.Clone(r.further), more...)
	return r
}

// find returns the further root of that name, or nil.
func (r *roots) find(name string) *further {
	for i := range r.further {
		if r.further[i].name == name {
			return &r.further[i]
		}
	}
	return nil
}

// read notes that the expression looks at a field of the state.
func (c *compiler) read(place int) {
	for len(c.reads) <= place {
		c.reads = append(c.reads, false)
	}
	c.reads[place] = true
}

// furtherRoot is a further root that stands alone.
func (c *compiler) furtherRoot(n *ast.IdentifierNode, r *further) node {
	at, place := c.site(n, r.name), r.at
	switch {
	case r.row:
		return node{kinds: isObject | isNull, inside: r.shape, eval: func(f *frame) (kis.Value, bool) {
			if f.rows[place] == nil {
				return kis.Value{}, true
			}
			return f.build(at, f.rows[place].AppendJSON(nil))
		}}
	case r.fields != nil:
		fields := r.fields
		return node{kinds: isObject, eval: func(f *frame) (kis.Value, bool) {
			return f.build(at, appendObject(nil, len(fields), func(i int) (string, kis.Value) { return fields[i], f.values[place+i] }))
		}}
	}
	return node{kinds: r.kinds, eval: func(f *frame) (kis.Value, bool) { return f.values[place], true }}
}

// furtherField is a field of a further root.
func (c *compiler) furtherField(n *ast.MemberNode, at *site, r *further, name string, soft bool) node {
	place := r.at
	if r.row {
		known := c.knownFurther(n, r, name, soft)
		return node{kinds: known.kinds, inside: known.Inside, eval: func(f *frame) (kis.Value, bool) {
			if f.rows[place] == nil {
				return kis.Value{}, true
			}
			v, there := f.rows[place].Get(name)
			if !there && !soft {
				return f.fail(at, "%s is missing", at.name)
			}
			return v, true
		}}
	}
	i := slices.Index(r.fields, name)
	if i < 0 {
		return c.wrong(n.Property, didYouMean(name, r.fields), "%s has no %s", r.name, name)
	}
	return node{kinds: r.each[i], eval: func(f *frame) (kis.Value, bool) { return f.values[place+i], true }}
}

// inner is an object within a row. When a second field of it is asked for it is parsed, so that many fields of one
// object are not each looked for from its beginning.
type inner struct {
	text string
	row  *kis.Row // nil: not parsed yet
}

// minInner is the length from which on it pays.
const minInner = 64

// inner returns an object parsed, or nil where it is asked for the first time.
func (f *frame) inner(text string) *kis.Row {
	if len(text) < minInner {
		return nil
	}
	for i := range f.inners {
		in := &f.inners[i]
		if len(in.text) != len(text) || unsafe.StringData(in.text) != unsafe.StringData(text) {
			continue
		}
		if in.row == nil {
			row, err := f.parser.ParseText(text)
			if err != nil {
				return nil // more fields than a row may have
			}
			in.row = row
		}
		return in.row
	}
	f.inners[1] = f.inners[0]
	f.inners[0] = inner{text: text}
	return nil
}

// fieldUse is which fields of a row some expressions look at.
type fieldUse struct {
	names []string // in the order in which they were met
	whole bool     // all of them
}

// note adds what an expression looks at of the row that root stands for. An expression that cannot be read adds nothing.
func (u *fieldUse) note(source, root string) {
	if len(source) > MaxExpression {
		return
	}
	tree, err := tree(source)
	if err != nil {
		return
	}
	v := useVisitor{root: root, use: u}
	ast.Walk(&tree, &v)
	u.whole = u.whole || v.roots > v.members
}

type useVisitor struct {
	root           string
	use            *fieldUse
	roots, members int // how often the root stands there, and how often with the name of a field behind it
}

func (v *useVisitor) Visit(n *ast.Node) {
	switch n := (*n).(type) {
	case *ast.IdentifierNode:
		if n.Value == v.root {
			v.roots++
		}
	case *ast.MemberNode:
		base, ok := n.Node.(*ast.IdentifierNode)
		if !ok || base.Value != v.root {
			return
		}
		if name, ok := n.Property.(*ast.StringNode); ok {
			v.members++
			if !slices.Contains(v.use.names, name.Value) {
				v.use.names = append(v.use.names, name.Value)
			}
		}
	}
}

// of is the part of a row that is used, as the text of an object that keeps nothing of the row.
func (u *fieldUse) of(row *kis.Row) string {
	if u.whole {
		return string(row.AppendJSON(nil))
	}
	b := make([]byte, 0, 24*len(u.names)+2)
	b = append(b, '{')
	for _, name := range u.names {
		v, ok := row.Get(name)
		if !ok {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(kis.StringValue(name).AppendJSON(b), ':')
		b = v.AppendJSON(b)
	}
	return string(append(b, '}'))
}
