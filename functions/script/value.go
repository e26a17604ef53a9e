package script

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dop251/goja"

	"github.com/kisflow/kisflow/kis"
)

const (
	maxSafe  = 1<<53 - 1 // an integer up to here is exact as a number of JavaScript
	maxDepth = kis.MaxDepth
	// maxOutput is the most bytes of rows that handling one row may emit and send, and maxState of the state that
	// it may leave.
	maxOutput = 1 << 20
	maxState  = 1 << 20
	maxDigits = 1000 // of an integer
)

// reader makes values of JavaScript from JSON that is known to be well formed: the engine has checked it.
type reader struct {
	vm *goja.Runtime
	s  string
	at int
}

// unfit is JSON that JavaScript has no exact value for.
type unfit struct{ text string }

func (u unfit) Error() string {
	return fmt.Sprintf("the number %.60s is too large for JavaScript", u.text)
}

// read returns the value of a text. It panics with an unfit.
func (r *reader) read(text string) goja.Value {
	r.s, r.at = text, 0
	v := r.value()
	r.s = ""
	return v
}

func (r *reader) space() {
	for r.at < len(r.s) {
		switch r.s[r.at] {
		case ' ', '\n', '\t', '\r':
			r.at++
		default:
			return
		}
	}
}

func (r *reader) value() goja.Value {
	r.space()
	switch c := r.s[r.at]; c {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		return r.vm.ToValue(r.text())
	case 't':
		r.at += 4
		return r.vm.ToValue(true)
	case 'f':
		r.at += 5
		return r.vm.ToValue(false)
	case 'n':
		r.at += 4
		return goja.Null()
	}
	return r.number()
}

func (r *reader) text() string {
	start := r.at
	escaped := false
	for r.at++; r.s[r.at] != '"'; r.at++ {
		if r.s[r.at] == '\\' {
			escaped = true
			r.at++
		}
	}
	r.at++
	if !escaped {
		return r.s[start+1 : r.at-1]
	}
	v, err := kis.JSONValue(r.s[start:r.at])
	if err != nil {
		panic("script: checked JSON is none: " + err.Error())
	}
	return v.Text()
}

func (r *reader) number() goja.Value {
	start, whole := r.at, true
	for ; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; {
		case c >= '0' && c <= '9', c == '-', c == '+':
			continue
		case c == '.', c == 'e', c == 'E':
			whole = false
			continue
		}
		break
	}
	text := r.s[start:r.at]
	if !whole {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			panic(unfit{text})
		}
		return r.vm.ToValue(f)
	}
	i, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err == nil && i >= -maxSafe && i <= maxSafe:
		return r.vm.ToValue(i)
	case err == nil:
		return r.vm.ToValue(big.NewInt(i))
	case len(text) > maxDigits:
		panic(unfit{text})
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		panic("script: checked JSON is none: " + strconv.Quote(text))
	}
	return r.vm.ToValue(n)
}

func (r *reader) array() goja.Value {
	var items []any
	for r.at++; ; {
		r.space()
		switch r.s[r.at] {
		case ']':
			r.at++
			return r.vm.NewArray(items...)
		case ',':
			r.at++
		}
		items = append(items, r.value())
	}
}

func (r *reader) object() goja.Value {
	o := r.vm.NewObject()
	for r.at++; ; {
		r.space()
		switch r.s[r.at] {
		case '}':
			r.at++
			return o
		case ',':
			r.at++
			r.space()
		}
		name := r.text()
		r.space()
		r.at++ // the colon
		set(o, name, r.value())
	}
}

// set gives an object a field, whatever its name.
func set(o *goja.Object, name string, v goja.Value) {
	if name == "__proto__" {
		if err := o.DefineDataProperty(name, v, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE); err != nil {
			panic(err)
		}
		return
	}
	if err := o.Set(name, v); err != nil {
		panic(err)
	}
}

// writer makes JSON of values of JavaScript.
type writer struct {
	b    []byte
	most int
}

// misfit is a value that cannot stand in a row or a state.
type misfit struct {
	path    string // from the outside in, as .a.b[2]
	problem string
}

func (m *misfit) Error() string {
	if m.path == "" {
		return m.problem
	}
	return cut(strings.TrimPrefix(m.path, "."), 60) + " " + m.problem
}

// object appends an object as JSON.
func (w *writer) object(dst []byte, o *goja.Object) ([]byte, error) {
	w.b = dst
	w.most = len(dst) + maxOutput
	if m := w.fields(o, 1); m != nil {
		return dst, m
	}
	return w.b, nil
}

// plain tells whether an object is one that JSON has, and what it is if not.
func plain(o *goja.Object) (array, ok bool, what string) {
	switch class := o.ClassName(); class {
	case "Object":
		if tag := o.GetSymbol(goja.SymToStringTag); tag != nil && !goja.IsUndefined(tag) { // a Map, a Set, a Promise
			return false, false, fmt.Sprintf("a %.40s", tag)
		}
		return false, true, ""
	case "Array":
		return true, true, ""
	case "Function":
		return false, false, "a function"
	default:
		return false, false, "a " + class
	}
}

func (w *writer) value(v goja.Value, depth int) *misfit {
	if len(w.b) > w.most {
		return &misfit{problem: fmt.Sprintf("is larger than %d bytes", maxOutput)}
	}
	o, isObject := v.(*goja.Object)
	if isObject {
		if depth > maxDepth {
			return &misfit{problem: fmt.Sprintf("is nested deeper than %d levels, or holds itself", maxDepth)}
		}
		if to, ok := goja.AssertFunction(o.Get("toJSON")); ok {
			given, err := to(o)
			if err != nil {
				panic(err)
			}
			if v = given; v == nil {
				v = goja.Undefined()
			}
			o, isObject = v.(*goja.Object)
		}
	}
	if isObject {
		switch o.ClassName() {
		case "Number", "String", "Boolean", "BigInt": // new Number(5)
			return w.plainValue(o.Export())
		}
		array, ok, what := plain(o)
		switch {
		case !ok:
			return &misfit{problem: "is " + what + ", which cannot stand in JSON; use arrays and plain objects"}
		case array:
			return w.items(o, depth)
		}
		return w.fields(o, depth)
	}
	if goja.IsUndefined(v) || goja.IsNull(v) {
		w.b = append(w.b, "null"...) // an undefined item of an array
		return nil
	}
	if _, ok := v.(*goja.Symbol); ok {
		return &misfit{problem: "is a Symbol, which cannot stand in JSON"}
	}
	return w.plainValue(v.Export())
}

func (w *writer) plainValue(v any) *misfit {
	switch v := v.(type) {
	case bool:
		w.b = strconv.AppendBool(w.b, v)
	case int64:
		w.b = strconv.AppendInt(w.b, v, 10)
	case float64:
		switch {
		case math.IsNaN(v), math.IsInf(v, 0):
			return &misfit{problem: "is " + strings.Replace(strconv.FormatFloat(v, 'g', -1, 64), "+Inf", "Infinity", 1) + ", which cannot stand in JSON"}
		case v == math.Trunc(v) && math.Abs(v) <= maxSafe: // -0
			w.b = strconv.AppendInt(w.b, int64(v), 10)
		default:
			w.b = kis.FloatValue(v).AppendJSON(w.b)
		}
	case *big.Int:
		if v.BitLen() > 3*maxDigits {
			return &misfit{problem: fmt.Sprintf("is an integer of %d bits", v.BitLen())}
		}
		w.b = v.Append(w.b, 10)
	case string:
		if !utf8.ValidString(v) {
			v = strings.ToValidUTF8(v, "\uFFFD")
		}
		w.b = kis.StringValue(v).AppendJSON(w.b)
	default:
		return &misfit{problem: fmt.Sprintf("is a %T, which cannot stand in JSON", v)}
	}
	return nil
}

func (w *writer) items(o *goja.Object, depth int) *misfit {
	n := o.Get("length").ToInteger()
	w.b = append(w.b, '[')
	for i := range n {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		v := o.Get(strconv.FormatInt(i, 10))
		if v == nil {
			v = goja.Undefined()
		}
		if m := w.value(v, depth+1); m != nil {
			m.path = "[" + strconv.FormatInt(i, 10) + "]" + m.path
			return m
		}
	}
	w.b = append(w.b, ']')
	return nil
}

func (w *writer) fields(o *goja.Object, depth int) *misfit {
	names := o.Keys()
	if len(names) > kis.MaxFields {
		return &misfit{problem: fmt.Sprintf("has %d fields; the most is %d", len(names), kis.MaxFields)}
	}
	w.b = append(w.b, '{')
	first := true
	for _, name := range names {
		v := o.Get(name)
		if v == nil || goja.IsUndefined(v) {
			continue
		}
		if !first {
			w.b = append(w.b, ',')
		}
		first = false
		w.b = kis.StringValue(name).AppendJSON(w.b)
		w.b = append(w.b, ':')
		if m := w.value(v, depth+1); m != nil {
			m.path = "." + name + m.path
			return m
		}
	}
	w.b = append(w.b, '}')
	return nil
}
