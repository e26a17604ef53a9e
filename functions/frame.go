package functions

import (
	"fmt"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Bounds of one expression.
const (
	// MaxExpression is the most bytes that an expression may have.
	MaxExpression = 8 << 10
	// MaxNodes is the most parts (names, literals, operators, calls) that an expression may have.
	MaxNodes = 1000
	// MaxText is the most bytes of a text, an array or an object that an expression may build.
	MaxText = 1 << 20
	// MaxState is the most bytes of text, arrays and objects that a key's state may hold.
	MaxState = 1 << 20

	maxWork   = 32 << 20 // bytes that one evaluation may read
	buildCost = 16       // what one built byte costs in bytes read
	walkCost  = 4        // what a byte costs that is walked over to find an element or a field
	stepCost  = 32       // what one element of an array costs
	maxNested = kis.MaxDepth - 1
	maxSlots  = 64
	maxKept   = 32 // patterns kept that were not known at New
)

// eval computes one expression, or a part of one. If it says false, the frame knows why.
type eval func(f *frame) (kis.Value, bool)

// frame is what an expression sees while it is computed, and where it keeps what it needs. A runner has one.
type frame struct {
	row    *kis.Row
	meta   *kis.Meta
	key    kis.Key
	state  []kis.Value
	params *params
	rows   [2]*kis.Row  // of further roots: left and right, table
	values [3]kis.Value // of further roots: self, the parts of window

	inners [2]inner // objects of which fields were asked for, the last one first
	parser kis.Parser

	keys     []kis.Field // of key, once they were asked for
	slots    []kis.Value // of let, #, #index, #acc
	used     bool        // some slot is
	stack    []kis.Value // arguments of calls
	work     int         // what is left of the budget
	err      *evalError
	patterns map[string]*pattern
}

// params are the parameters of one step, by their place in the function.
type params struct {
	all    kis.Params
	values []kis.Value
	known  []bool
}

// evalError says why an expression has no value.
type evalError struct {
	column  int
	message string
}

// site is a place in an expression, with what a message says of it.
type site struct {
	column int
	name   string // the operator or function
	args   []ast.Node
}

// fail notes why there is no value. It is the end of the evaluation.
func (f *frame) fail(at *site, format string, args ...any) (kis.Value, bool) {
	f.err = &evalError{at.column, fmt.Sprintf(format, args...)}
	return kis.Value{}, false
}

// mismatch is fail for operands of the wrong kind.
func (f *frame) mismatch(at *site, wants string, values ...kis.Value) (kis.Value, bool) {
	var b strings.Builder
	b.WriteString(at.name + " needs " + wants)
	for i, v := range values {
		if i == 0 {
			b.WriteString("; ")
		} else {
			b.WriteString(", ")
		}
		if i < len(at.args) {
			b.WriteString(sourceOf(at.args[i]) + " is ")
		}
		b.WriteString(describe(v))
	}
	f.err = &evalError{at.column, b.String()}
	return kis.Value{}, false
}

// charge takes n bytes from the budget.
func (f *frame) charge(at *site, n int) bool {
	if f.work -= n; f.work < 0 {
		f.fail(at, "the expression needs too much work for one row")
		return false
	}
	return true
}

// text makes a string that was computed a value, within the bounds.
func (f *frame) text(at *site, s string) (kis.Value, bool) {
	if !f.room(at, len(s)) {
		return kis.Value{}, false
	}
	return kis.StringValue(s), true
}

// room says whether a text of n bytes may be built.
func (f *frame) room(at *site, n int) bool {
	if n > MaxText {
		f.fail(at, "%s would build more than %d bytes", at.name, MaxText)
		return false
	}
	return f.charge(at, n*buildCost)
}

// build makes JSON that was put together a value, within the bounds.
func (f *frame) build(at *site, text []byte) (kis.Value, bool) {
	if !f.room(at, len(text)) {
		return kis.Value{}, false
	}
	s := string(text)
	v, err := kis.JSONValue(s)
	if err != nil {
		return f.fail(at, "%s: %v", at.name, err)
	}
	if (v.Kind() == kis.Array || v.Kind() == kis.Object) && depth(s) > maxNested {
		return f.fail(at, "%s would nest deeper than %d levels", at.name, maxNested)
	}
	return v, true
}

// list decodes the elements of an array.
func (f *frame) list(at *site, array kis.Value) ([]kis.Value, bool) {
	text := array.Text()
	if !f.charge(at, len(text)) {
		return nil, false
	}
	var list []kis.Value
	for e := (elements{text: text}); ; {
		t, ok := e.next()
		if !ok {
			return list, true
		}
		if !f.charge(at, stepCost) {
			return nil, false
		}
		list = append(list, decoded(t))
	}
}

// array makes values an array.
func (f *frame) array(at *site, list []kis.Value) (kis.Value, bool) {
	b := []byte{'['}
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b = v.AppendJSON(b); len(b) > MaxText {
			break
		}
	}
	return f.build(at, append(b, ']'))
}

// program is one compiled expression.
type program struct {
	path     string
	eval     eval
	kinds    kinds
	fixed    bool // value is its value, whatever the row
	value    kis.Value
	asksType bool   // it calls type
	reads    []bool // the fields of the state that it looks at, by place

	inside *Shape // what is known of an object's fields
	facts  *facts // of rows for which it has a value
}

// run computes the program on what the frame shows.
func (p *program) run(f *frame) (kis.Value, error) {
	f.work = maxWork
	v, ok := p.eval(f)
	if !ok {
		return v, p.failed(f)
	}
	return v, nil
}

// truth computes a program that says true or false.
func (p *program) truth(f *frame) (bool, error) {
	v, err := p.run(f)
	if err != nil {
		return false, err
	}
	if v.Kind() != kis.Bool {
		return false, fmt.Errorf("%s must say true or false, but it is %s", p.path, describe(v))
	}
	return v.Bool(), nil
}

func (p *program) failed(f *frame) error {
	err := f.err
	f.err = nil
	clear(f.stack[:cap(f.stack)])
	f.stack = f.stack[:0]
	return Mistake{Path: p.path, Column: err.column, Message: err.message}
}

func newFrame(p *params) *frame {
	if p == nil {
		p = &params{}
	}
	return &frame{params: p, slots: make([]kis.Value, maxSlots)}
}

// show makes a call's row what expressions see.
func (f *frame) show(c *kis.Call) {
	f.row, f.meta, f.key, f.keys, f.state = c.Rows[0], c.Metas[0], c.Key, nil, nil
}

// showTimer makes a timer's call what expressions see: there is no row.
func (f *frame) showTimer(c *kis.Call) {
	f.row, f.meta, f.key, f.keys, f.state = nil, nil, c.Key, nil, nil
	if len(c.Metas) > 0 {
		f.meta = c.Metas[0]
	}
}

// hide lets go of what show showed: the row's message may be far larger than what is kept of it.
func (f *frame) hide() {
	f.row, f.meta, f.key, f.keys, f.state = nil, nil, kis.Key{}, nil, nil
	f.rows, f.values, f.inners = [2]*kis.Row{}, [3]kis.Value{}, [2]inner{}
	if f.used {
		clear(f.slots)
		f.used = false
	}
}

// describe says what a value is, for a message.
func describe(v kis.Value) string {
	switch v.Kind() {
	case kis.Null, kis.Array, kis.Object:
		return v.Kind().String()
	case kis.String:
		return "a string, " + short(string(v.AppendJSON(nil)))
	}
	return v.Kind().String() + ", " + short(v.Text())
}

// sourceOf is a part of an expression as it may stand in a message.
func sourceOf(n ast.Node) string { return short(n.String()) }

// short cuts a text to what a message can bear.
func short(s string) string {
	const most = 60
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i] + "..."
		}
	}
	return s
}

// kinds is a set of kinds.
type kinds uint8

const (
	isNull kinds = 1 << iota
	isBool
	isInt
	isFloat
	isNumber
	isString
	isArray
	isObject

	numbers = isInt | isFloat
	scalars = isBool | isInt | isFloat | isNumber | isString
	anyKind = isNull | scalars | isArray | isObject
)

func kindsOf(k kis.Kind) kinds { return 1 << k }

func (k kinds) has(kind kis.Kind) bool { return k&(1<<kind) != 0 }

// String names the kinds as a message does: "a string or null".
func (k kinds) String() string {
	if k == anyKind {
		return "any value"
	}
	var names []string
	if k&isInt != 0 && k&isFloat != 0 {
		k &^= numbers
		names = append(names, "a number")
	}
	for kind := kis.Bool; kind <= kis.Object; kind++ {
		if k.has(kind) {
			names = append(names, kind.String())
		}
	}
	if k.has(kis.Null) {
		names = append(names, "null")
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}
