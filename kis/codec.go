package kis

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// What a type may offer to be read and written without reflection.
type (
	// RowDecoder is offered by a pointer to a handler's In. DecodeRow must set all that it is to set (the
	// value is the zero value before), and may keep strings of the row only by strings.Clone: they are
	// pieces of a whole message. An error makes the row a dead letter.
	RowDecoder interface{ DecodeRow(row *Row) error }
	// RowEncoder is offered by a handler's Out, or a pointer to it. EncodeRow adds the fields of a row that
	// has begun; the key's fields that it leaves out come after them. An error makes the row a dead letter.
	RowEncoder interface{ EncodeRow(b *Builder) error }
	// StateAppender is offered by a pointer to a handler's S, together with StateParser. AppendState appends
	// the state as one JSON value; the zero value is never asked, it is no state. It must have an answer for
	// every state that a handler leaves: an error stops the partition.
	StateAppender interface {
		AppendState(dst []byte) ([]byte, error)
	}
	// StateParser reads what StateAppender wrote into a zero value. It must not keep text.
	StateParser interface{ ParseState(text []byte) error }
)

// plan is how values of a type are read. Reading follows encoding/json, with the same tags, but for what is
// meant to be strict: names match exactly at every depth, and numbers neither overflow nor lose their digits
// in an interface.
type plan struct {
	typ    reflect.Type
	form   form
	elem   *plan  // of a pointer, list, array or table
	fields *codec // of a structure
}

type form uint8

const (
	foreign   form = iota // encoding/json reads it: it has a form of its own, or one that only encoding/json knows
	plain                 // booleans, numbers, strings
	pointer               // to elem
	list                  // a slice of elem
	array                 // of elem
	table                 // a map from strings to elem
	structure             // of fields
)

var (
	marshaler       = reflect.TypeFor[json.Marshaler]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonNumber      = reflect.TypeFor[json.Number]()
)

// hasOwnJSON says whether a type has a form of its own in JSON.
func hasOwnJSON(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(marshaler) || p.Implements(unmarshaler) || p.Implements(textMarshaler) || p.Implements(textUnmarshaler)
}

// plans makes the plans of types, each once, so that a type may hold itself.
type plans map[reflect.Type]*plan

func (m plans) of(t reflect.Type) *plan {
	if p := m[t]; p != nil {
		return p
	}
	p := &plan{typ: t}
	m[t] = p
	if hasOwnJSON(t) || t == jsonNumber {
		return p
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		p.form = plain
	case reflect.Pointer:
		p.form, p.elem = pointer, m.of(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 { // bytes are base64
			p.form, p.elem = list, m.of(t.Elem())
		}
	case reflect.Array:
		p.form, p.elem = array, m.of(t.Elem())
	case reflect.Map:
		if t.Key().Kind() == reflect.String && !hasOwnJSON(t.Key()) {
			p.form, p.elem = table, m.of(t.Elem())
		}
	case reflect.Struct:
		c := new(codec)
		if c.add(m, t, nil) {
			p.form, p.fields = structure, c
		}
	}
	return p
}

// newPlan returns the plan of a type.
func newPlan(t reflect.Type) *plan { return make(plans).of(t) }

// codec reads and writes values of one struct type as JSON objects.
type codec struct {
	fields []codecField
}

type codecField struct {
	name      string
	quoted    string // the name as JSON has it
	mark      uint64 // nameMark of it
	escaped   bool   // quoted is not just the name in quotes
	index     []int
	plan      *plan
	omitEmpty bool
	omitZero  bool
}

// add adds a struct's fields, those of embedded structs among them. It returns false if the struct has tags or
// embedded fields whose rules only encoding/json knows: embedded pointers and names that come twice.
func (c *codec) add(m plans, t reflect.Type, index []int) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		whole := f.Tag.Get("json")
		tag, options, _ := strings.Cut(whole, ",")
		if whole == "-" {
			continue
		}
		index := append(slices.Clone(index), i)
		if f.Anonymous && tag == "" {
			if f.Type.Kind() != reflect.Struct || hasOwnJSON(f.Type) || !c.add(m, f.Type, index) {
				return false
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		g := codecField{name: f.Name, index: index, plan: m.of(f.Type)}
		if tag != "" {
			g.name = tag
		}
		for o := range strings.SplitSeq(options, ",") {
			switch o {
			case "omitempty":
				g.omitEmpty = true
			case "omitzero":
				g.omitZero = true
			case "string":
				return false
			}
		}
		if c.find(g.name, 0) >= 0 {
			return false
		}
		g.quoted = string(appendString(nil, utf8Only(g.name)))
		g.escaped = !isPlain(g.name)
		g.mark = nameMark(g.quoted[1:len(g.quoted)-1], g.escaped)
		c.fields = append(c.fields, g)
	}
	return true
}

// at returns the field of a struct.
func (f *codecField) at(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	return v.FieldByIndex(f.index)
}

// find looks for a field by its name, first where it stands if the row's order is the struct's.
func (c *codec) find(name string, next int) int {
	for i := next; i < len(c.fields); i++ {
		if c.fields[i].name == name {
			return i
		}
	}
	for i := range min(next, len(c.fields)) {
		if c.fields[i].name == name {
			return i
		}
	}
	return -1
}

// decode sets the fields of a struct from a row. Fields that the struct lacks are passed over, and null leaves
// a field as it is.
func (c *codec) decode(row *Row, into reflect.Value) error {
	next := 0
	for i := range row.Len() {
		name := row.nameAt(i)
		at := c.find(name, next)
		if at < 0 {
			continue
		}
		next = at + 1
		f := &c.fields[at]
		if err := f.plan.decode(row.valueAt(i), f.at(into)); err != nil {
			return fmt.Errorf("field %s: %w", quoteShort(name), err)
		}
	}
	return nil
}

// decode sets a zero value.
func (p *plan) decode(v Value, into reflect.Value) error {
	if v.kind == Null && p.form != foreign {
		return nil
	}
	switch p.form {
	case plain:
		return setPlain(v, into)
	case pointer:
		into.Set(reflect.New(p.typ.Elem()))
		return p.elem.decode(v, into.Elem())
	case list:
		if v.kind != Array {
			return mismatch("an array", v)
		}
		into.Set(reflect.MakeSlice(p.typ, 0, 0)) // an empty array is no nil
		return elements(v.text, func(i int, v Value) error {
			if into.Len() == into.Cap() {
				into.Grow(1)
			}
			into.SetLen(i + 1)
			into.Index(i).SetZero()
			return p.elem.decode(v, into.Index(i))
		})
	case array:
		if v.kind != Array {
			return mismatch("an array", v)
		}
		return elements(v.text, func(i int, v Value) error {
			if i >= into.Len() {
				return fmt.Errorf("one too many for %s", p.typ)
			}
			return p.elem.decode(v, into.Index(i))
		})
	case table, structure:
		if v.kind != Object {
			return mismatch("an object", v)
		}
		row, err := parseString(v.text)
		if err != nil {
			return err
		}
		return p.decodeRow(row, into)
	}
	return unmarshal(v.AppendJSON(nil), into.Addr().Interface())
}

// decodeRow sets a zero value from a row.
func (p *plan) decodeRow(row *Row, into reflect.Value) error {
	switch p.form {
	case pointer:
		into.Set(reflect.New(p.typ.Elem()))
		return p.elem.decodeRow(row, into.Elem())
	case structure:
		return p.fields.decode(row, into)
	case table:
		into.Set(reflect.MakeMapWithSize(p.typ, row.Len()))
		elem := reflect.New(p.typ.Elem()).Elem()
		for i := range row.Len() {
			name := strings.Clone(row.nameAt(i))
			elem.SetZero()
			if err := p.elem.decode(row.valueAt(i), elem); err != nil {
				return fmt.Errorf("field %s: %w", quoteShort(name), err)
			}
			into.SetMapIndex(reflect.ValueOf(name).Convert(p.typ.Key()), elem)
		}
		return nil
	}
	return unmarshal(row.AppendJSON(nil), into.Addr().Interface())
}

// elements calls each for every element of an array that has been checked.
func elements(text string, each func(i int, v Value) error) error {
	var p Parser
	at := space(text, 1)
	for i := 0; text[at] != ']'; i++ {
		var s span
		p.begin()
		end, err := p.any(text, at, &s)
		if err != nil {
			return err
		}
		if err := each(i, valueOf(text, &s)); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if at = space(text, end); text[at] == ',' {
			at = space(text, at+1)
		}
	}
	return nil
}

func setPlain(v Value, into reflect.Value) error {
	switch kind := into.Kind(); kind {
	case reflect.Bool:
		if v.kind != Bool {
			return mismatch("a boolean", v)
		}
		into.SetBool(v.Bool())
	case reflect.String:
		if v.kind != String {
			return mismatch("a string", v)
		}
		into.SetString(strings.Clone(v.text))
	case reflect.Float32, reflect.Float64:
		switch {
		case v.kind == Number:
			return overflow(v, kind)
		case v.kind != Float && v.kind != Int:
			return mismatch("a number", v)
		case into.OverflowFloat(v.Float()):
			return overflow(v, kind)
		}
		into.SetFloat(v.Float())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		switch {
		case isBigInteger(v):
			return overflow(v, kind)
		case v.kind != Int:
			return mismatch("an integer", v)
		case into.OverflowInt(v.Int()):
			return overflow(v, kind)
		}
		into.SetInt(v.Int())
	default: // plans know no other kinds than these
		n := uint64(v.Int())
		switch {
		case isBigInteger(v):
			var err error
			if n, err = strconv.ParseUint(v.text, 10, 64); err != nil {
				return overflow(v, kind)
			}
		case v.kind != Int:
			return mismatch("an integer", v)
		case v.Int() < 0:
			return overflow(v, kind)
		}
		if into.OverflowUint(n) {
			return overflow(v, kind)
		}
		into.SetUint(n)
	}
	return nil
}

func isBigInteger(v Value) bool { return v.kind == Number && !strings.ContainsAny(v.text, ".eE") }

func mismatch(want string, v Value) error {
	found := v.kind.String()
	if v.kind != Object && v.kind != Array && v.kind != Null {
		found += ", " + short(string(v.AppendJSON(nil)))
	}
	return fmt.Errorf("expected %s, found %s", want, found)
}

func overflow(v Value, kind reflect.Kind) error {
	return fmt.Errorf("%s does not fit %s", short(string(v.AppendJSON(nil))), kind)
}

// short cuts a text to what a line can bear.
func short(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}

// build adds what the struct holds to a row.
func (c *codec) build(b *Builder, from reflect.Value) error {
	for i := range c.fields {
		f := &c.fields[i]
		v := f.at(from)
		if f.omitted(v) {
			continue
		}
		value, err := f.get(v)
		if err != nil {
			return fmt.Errorf("field %s: %w", quoteShort(f.name), err)
		}
		b.add(f, value)
	}
	return nil
}

// has says whether build adds a field of that name.
func (c *codec) has(name string, from reflect.Value) bool {
	at := c.find(name, 0)
	return at >= 0 && !c.fields[at].omitted(c.fields[at].at(from))
}

// appendJSON appends the struct as a JSON object.
func (c *codec) appendJSON(dst []byte, from reflect.Value) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	for i := range c.fields {
		f := &c.fields[i]
		v := f.at(from)
		if f.omitted(v) {
			continue
		}
		value, err := f.get(v)
		if err != nil {
			return dst, fmt.Errorf("field %s: %w", quoteShort(f.name), err)
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, f.quoted...), ':')
		dst = value.AppendJSON(dst)
	}
	return append(dst, '}'), nil
}

func (f *codecField) omitted(v reflect.Value) bool {
	if f.omitEmpty {
		switch v.Kind() {
		case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
			if v.Len() == 0 {
				return true
			}
		case reflect.Struct:
		default:
			if v.IsZero() {
				return true
			}
		}
	}
	if f.omitZero {
		if z, ok := v.Interface().(interface{ IsZero() bool }); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
			return z.IsZero()
		}
		return v.IsZero()
	}
	return false
}

func (f *codecField) get(v reflect.Value) (Value, error) {
	kind := reflect.Invalid
	if f.plan.form == plain {
		kind = v.Kind()
	}
	switch kind {
	case reflect.Bool:
		return BoolValue(v.Bool()), nil
	case reflect.String:
		return StringValue(v.String()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return IntValue(v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if n := v.Uint(); n > math.MaxInt64 {
			return Value{kind: Number, text: strconv.FormatUint(n, 10)}, nil
		}
		return IntValue(int64(v.Uint())), nil
	case reflect.Float32, reflect.Float64:
		x := v.Float()
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return Value{}, fmt.Errorf("%v cannot stand in JSON", x)
		}
		if kind == reflect.Float32 { // the shortest text that is this float, as encoding/json has it
			x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'g', -1, 32), 64)
		}
		return FloatValue(x), nil
	}
	if v.CanAddr() {
		v = v.Addr()
	}
	text, err := jsonMarshal(v.Interface())
	if err != nil {
		return Value{}, err
	}
	return JSONValue(string(text))
}

// jsonMarshal is json.Marshal without the escapes that only HTML needs.
func jsonMarshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, reason(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// unmarshal is json.Unmarshal, but keeps the digits of numbers that go into an interface.
func unmarshal(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return reason(d.Decode(into))
}

// reason says what encoding/json says, in our words where it says too much or too little.
func reason(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		if t.Field != "" {
			return fmt.Errorf("field %s: found %s where %s was expected", quoteShort(t.Field), t.Value, t.Type)
		}
		return fmt.Errorf("found %s where %s was expected", t.Value, t.Type)
	}
	return err
}
