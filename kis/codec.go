package kis

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// What a type may offer to be read and written without reflection.
type (
	// RowDecoder is offered by a pointer to a handler's In. DecodeRow must set all that it is to set (the
	// value is the zero value before), and may keep strings of the row only by strings.Clone: they are
	// pieces of a whole message. An error makes the row a dead letter.
	RowDecoder interface{ DecodeRow(row *Row) error }
	// RowEncoder is offered by a handler's Out, or a pointer to it. EncodeRow sets the fields of a new row.
	RowEncoder interface{ EncodeRow(row *Row) error }
	// StateAppender is offered by a pointer to a handler's S, together with StateParser. AppendState appends
	// the state as one JSON value; the zero value is never asked, it is no state.
	StateAppender interface {
		AppendState(dst []byte) ([]byte, error)
	}
	// StateParser reads what StateAppender wrote into a zero value. It must not keep text.
	StateParser interface{ ParseState(text []byte) error }
)

// codec reads and writes values of one struct type as JSON objects, by the same tags as encoding/json, but
// for what is meant to be strict: names match exactly, and integers neither overflow nor become floats.
// Fields that are no plain boolean, number or string go through encoding/json one by one.
type codec struct {
	fields []codecField
}

type codecField struct {
	name      string
	quoted    string // the name as JSON, with the colon
	index     []int
	typ       reflect.Type
	kind      reflect.Kind // Invalid: goes through encoding/json
	omitEmpty bool
	omitZero  bool
}

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

// newCodec returns the codec of a type, or nil if the type is to go through encoding/json as a whole: no
// struct, a form of its own, or tags and embedded fields whose rules only encoding/json knows.
func newCodec(t reflect.Type) *codec {
	if t.Kind() != reflect.Struct || hasOwnJSON(t) {
		return nil
	}
	c := new(codec)
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			return nil
		}
		if !f.IsExported() || tag == "-" && options == "" && f.Tag.Get("json") == "-" {
			continue
		}
		g := codecField{name: f.Name, index: f.Index, typ: f.Type, kind: plainKind(f.Type)}
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
				return nil
			}
		}
		g.quoted = string(append(appendString(nil, utf8Only(g.name)), ':'))
		for _, other := range c.fields {
			if other.name == g.name {
				return nil
			}
		}
		c.fields = append(c.fields, g)
	}
	return c
}

func plainKind(t reflect.Type) reflect.Kind {
	if hasOwnJSON(t) || t == jsonNumber {
		return reflect.Invalid
	}
	switch k := t.Kind(); k {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return k
	}
	return reflect.Invalid
}

// decode sets the fields of a zero struct from a row. Fields that the struct lacks are passed over, and
// null leaves a field as it is.
func (c *codec) decode(row *Row, into reflect.Value) error {
	next := 0
	for i := range row.Len() {
		var name string
		var s *span
		if row.text != "" {
			s = &row.spans[i]
			name = row.name(s)
		} else {
			name = row.fields[i].Name
		}
		at := c.find(name, next)
		if at < 0 {
			continue
		}
		next = at + 1
		var v Value
		if s != nil {
			v = row.value(s)
		} else {
			v = row.fields[i].Value
		}
		if err := c.fields[at].set(into.Field(c.fields[at].index[0]), v); err != nil {
			return fmt.Errorf("field %s: %w", quoteShort(name), err)
		}
	}
	return nil
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

func (f *codecField) set(into reflect.Value, v Value) error {
	if v.kind == Null && f.kind != reflect.Invalid {
		return nil
	}
	switch f.kind {
	case reflect.Bool:
		if v.kind != Bool {
			return f.mismatch(v)
		}
		into.SetBool(v.Bool())
	case reflect.String:
		if v.kind != String {
			return f.mismatch(v)
		}
		into.SetString(strings.Clone(v.text))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if v.kind == Number && !strings.ContainsAny(v.text, ".eE") {
			return f.overflow(v)
		}
		if v.kind != Int {
			return f.mismatch(v)
		}
		if into.OverflowInt(v.Int()) {
			return f.overflow(v)
		}
		into.SetInt(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		n := uint64(v.Int())
		switch {
		case v.kind == Number && !strings.ContainsAny(v.text, ".eE"):
			var err error
			if n, err = strconv.ParseUint(v.text, 10, 64); err != nil {
				return f.overflow(v)
			}
		case v.kind != Int:
			return f.mismatch(v)
		case v.Int() < 0:
			return f.overflow(v)
		}
		if into.OverflowUint(n) {
			return f.overflow(v)
		}
		into.SetUint(n)
	case reflect.Float32, reflect.Float64:
		switch {
		case v.kind == Number:
			return f.overflow(v)
		case v.kind != Float && v.kind != Int:
			return f.mismatch(v)
		case into.OverflowFloat(v.Float()):
			return f.overflow(v)
		}
		into.SetFloat(v.Float())
	default:
		return unmarshal(v.AppendJSON(nil), into.Addr().Interface())
	}
	return nil
}

func (f *codecField) mismatch(v Value) error {
	found := v.kind.String()
	if v.kind != Object && v.kind != Array {
		found += ", " + short(string(v.AppendJSON(nil)))
	}
	want := "a string"
	switch f.kind {
	case reflect.Bool:
		want = "a boolean"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.String:
	default:
		want = "an integer"
	}
	return fmt.Errorf("expected %s, found %s", want, found)
}

func (f *codecField) overflow(v Value) error {
	return fmt.Errorf("%s does not fit %s", short(string(v.AppendJSON(nil))), f.kind)
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
		v := from.Field(f.index[0])
		if f.omitted(v) {
			continue
		}
		value, err := f.get(v)
		if err != nil {
			return fmt.Errorf("field %s: %w", quoteShort(f.name), err)
		}
		b.Add(f.name, value)
	}
	return nil
}

// has says whether build adds a field of that name.
func (c *codec) has(name string, from reflect.Value) bool {
	at := c.find(name, 0)
	return at >= 0 && !c.fields[at].omitted(from.Field(c.fields[at].index[0]))
}

// appendJSON appends the struct as a JSON object.
func (c *codec) appendJSON(dst []byte, from reflect.Value) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	for i := range c.fields {
		f := &c.fields[i]
		v := from.Field(f.index[0])
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
		dst = append(dst, f.quoted...)
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
	switch f.kind {
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
		if f.kind == reflect.Float32 { // the shortest text that is this float, as encoding/json has it
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

// checkState says why values of a type would not survive being written as JSON and read again.
func checkState(t reflect.Type) error { return checkStateType(t, "state "+t.String(), nil) }

func checkStateType(t reflect.Type, path string, around []reflect.Type) error {
	for _, a := range around {
		if a == t {
			return nil // a type that holds itself
		}
	}
	if p := reflect.PointerTo(t); (p.Implements(marshaler) || p.Implements(textMarshaler)) && (p.Implements(unmarshaler) || p.Implements(textUnmarshaler)) {
		return nil
	}
	around = append(around, t)
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			switch {
			case !f.IsExported() && !f.Anonymous:
				return fmt.Errorf("%s: field %s is not exported, so JSON would leave it out", path, f.Name)
			case f.Tag.Get("json") == "-":
				return fmt.Errorf("%s: field %s is tagged %q, so JSON would leave it out", path, f.Name, `json:"-"`)
			}
			if err := checkStateType(f.Type, path+"."+f.Name, around); err != nil {
				return err
			}
		}
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return checkStateType(t.Elem(), path, around)
	case reflect.Map:
		switch t.Key().Kind() {
		case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		default:
			if !reflect.PointerTo(t.Key()).Implements(textUnmarshaler) || !reflect.PointerTo(t.Key()).Implements(textMarshaler) {
				return fmt.Errorf("%s: a map by %s cannot stand in JSON", path, t.Key())
			}
		}
		return checkStateType(t.Elem(), path, around)
	case reflect.Interface:
		return fmt.Errorf("%s: an interface does not come back from JSON as what it was", path)
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Errorf("%s: a %s cannot stand in JSON", path, t.Kind())
	}
	return nil
}

// isFlat says whether an assignment copies all that a value of the type holds, and whether nothing in it can
// keep it from being written as JSON.
func isFlat(t reflect.Type) bool {
	if hasOwnJSON(t) {
		return false
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return t != jsonNumber
	case reflect.Float32, reflect.Float64:
		return true // hasBadFloat looks at these
	case reflect.Array:
		return isFlat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !isFlat(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return false
}

// hasFloat says whether a flat type holds floats.
func hasFloat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Float32, reflect.Float64:
		return true
	case reflect.Array:
		return hasFloat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasFloat(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// badFloat says where a flat value holds a float that cannot stand in JSON.
func badFloat(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%s: %v cannot stand in JSON", path, f)
		}
	case reflect.Array:
		for i := range v.Len() {
			if err := badFloat(v.Index(i), path); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if err := badFloat(v.Field(i), path+"."+v.Type().Field(i).Name); err != nil {
				return err
			}
		}
	}
	return nil
}
