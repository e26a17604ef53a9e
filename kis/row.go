package kis

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is what a JSON value is.
type Kind uint8

// The kinds. A number's kind follows from how it is written: without a point and an exponent it is an Int,
// with one of them a Float.
const (
	Null   Kind = iota
	Bool        // true or false
	Int         // an integer that fits 64 bits with sign; "-0" is the Int 0
	Float       // a number with a point or an exponent that fits a float64; what is too small for one is 0
	Number      // a number that fits neither; its text is kept, and nothing can be computed with it
	String
	Array
	Object
)

var kindNames = [...]string{"null", "a boolean", "an integer", "a float", "a number too large to compute with", "a string", "an array", "an object"}

// String returns the kind as messages name it, with its article: "an integer".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Value is one JSON value. The zero Value is null. Arrays and objects are kept as text, already checked.
// Values are compared by Equal, never by ==.
type Value struct {
	text  string // String: decoded; Float: as it came, if it did; Number, Array, Object: JSON
	bits  uint64 // Bool, Int, Float
	kind  Kind
	plain bool // String: needs no escape in JSON
}

// NullValue returns null.
func NullValue() Value { return Value{} }

// BoolValue returns true or false.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, bits: 1}
	}
	return Value{kind: Bool}
}

// IntValue returns an integer.
func IntValue(i int64) Value { return Value{kind: Int, bits: uint64(i)} }

// FloatValue returns a float. JSON has no word for what is not a number or not finite: FloatValue panics if
// it is given one, so whoever computes must look first.
func FloatValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		panic(fmt.Sprintf("kis: %v cannot stand in JSON", f))
	}
	return Value{kind: Float, bits: math.Float64bits(f)}
}

// StringValue returns a string. Each byte of s that is not UTF-8 becomes U+FFFD, as with encoding/json.
func StringValue(s string) Value {
	if isPlain(s) {
		return Value{kind: String, text: s, plain: true}
	}
	return Value{kind: String, text: utf8Only(s)}
}

// DecimalValue returns n divided by ten to the power of digits (0 to 18), written with so many digits behind the
// point: DecimalValue(1250, 2) is 12.50.
func DecimalValue(n int64, digits int) (Value, error) {
	if digits < 0 || digits > 18 {
		return Value{}, fmt.Errorf("a decimal has 0 to 18 digits, not %d", digits)
	}
	if digits == 0 {
		return IntValue(n), nil
	}
	var room, number [48]byte
	b, magnitude := room[:0], uint64(n)
	if n < 0 {
		b, magnitude = append(b, '-'), -magnitude
	}
	text := number[:20] // room for zeros before the digits
	for i := range text {
		text[i] = '0'
	}
	text = strconv.AppendUint(text, magnitude, 10)
	whole := len(text) - digits // where the point goes
	first := min(20, whole-1)   // a zero before it where there is no other digit
	b = append(b, text[first:whole]...)
	b = append(b, '.')
	b = append(b, text[whole:]...)
	if magnitude < 1<<53 { // both are exact, so one division rounds as reading the text would
		f := float64(magnitude) / powersOfTen[digits]
		if n < 0 {
			f = -f
		}
		return Value{kind: Float, bits: math.Float64bits(f), text: string(b)}, nil
	}
	return JSONValue(string(b))
}

// powersOfTen are exact as floats.
var powersOfTen = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// JSONValue reads one JSON value of any kind. The error is a *SyntaxError.
func JSONValue(text string) (Value, error) {
	var p Parser
	return p.value(text)
}

// Kind says what the value is.
func (v Value) Kind() Kind { return v.kind }

// Bool is the value of a Bool, and false for every other kind.
func (v Value) Bool() bool { return v.kind == Bool && v.bits != 0 }

// Int is the value of an Int, and 0 for every other kind, floats among them.
func (v Value) Int() int64 {
	if v.kind != Int {
		return 0
	}
	return int64(v.bits)
}

// Float is the value of a Float; of an Int the nearest float; and 0 for every other kind.
func (v Value) Float() float64 {
	switch v.kind {
	case Float:
		return math.Float64frombits(v.bits)
	case Int:
		return float64(int64(v.bits))
	}
	return 0
}

// Text is the decoded text of a String, and for every other kind the value as JSON.
func (v Value) Text() string {
	switch v.kind {
	case String, Number, Array, Object:
		return v.text
	}
	return string(v.AppendJSON(nil))
}

// AppendJSON appends the value as JSON. A float always has a point or an exponent, so that it is read again
// as a float; one that came from JSON is written as it came.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.kind {
	case Null:
		return append(dst, "null"...)
	case Bool:
		return strconv.AppendBool(dst, v.bits != 0)
	case Int:
		return strconv.AppendInt(dst, int64(v.bits), 10)
	case Float:
		if v.text != "" {
			return append(dst, v.text...)
		}
		return appendFloat(dst, math.Float64frombits(v.bits))
	case String:
		if v.plain {
			dst = append(dst, '"')
			dst = append(dst, v.text...)
			return append(dst, '"')
		}
		return appendString(dst, v.text)
	}
	return append(dst, v.text...)
}

// Equal says whether two values are the same: same kind and same content. The Int 1 and the Float 1.0
// differ; the Floats 1.0 and 1.00 are equal; Numbers, arrays and objects are compared by their text.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind {
		return false
	}
	switch v.kind {
	case Bool, Int:
		return v.bits == w.bits
	case Float:
		return v.Float() == w.Float()
	}
	return v.text == w.text
}

// Clone returns the value with a copy of its text, so that it keeps nothing of the message that it came in.
func (v Value) Clone() Value {
	v.text = strings.Clone(v.text)
	return v
}

// MarshalJSON makes a value one that encoding/json writes.
func (v Value) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

// UnmarshalJSON makes a value one that encoding/json reads.
func (v *Value) UnmarshalJSON(text []byte) (err error) {
	*v, err = JSONValue(string(text))
	return err
}

func appendFloat(dst []byte, f float64) []byte {
	start := len(dst)
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if format == 'f' {
		for _, c := range dst[start:] {
			if c == '.' {
				return dst
			}
		}
		dst = append(dst, '.', '0')
	}
	return dst
}

// isPlain says whether a string needs no escape in JSON.
func isPlain(s string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 { // as scanString does
		b := s[i : i+8]
		x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		if (x|(x-ones*0x20)|((x^ones*'"')-ones)|((x^ones*'\\')-ones))&tops != 0 {
			break
		}
	}
	ascii := true
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20 || c == '"' || c == '\\':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(s)
}

// utf8Only returns s with U+FFFD for each byte that is not UTF-8.
func utf8Only(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// appendString appends a string, which is UTF-8, with its quotes.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	if isPlain(s) {
		dst = append(dst, s...)
		return append(dst, '"')
	}
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if c < 0x20 {
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}

// Field is one member of a row.
type Field struct {
	Name  string
	Value Value
}

// Row is one JSON object: fields in order, no name twice. A row that was parsed keeps its text, and as long
// as nobody changes it AppendJSON appends exactly that. A Row is not for concurrent use while somebody
// changes it.
type Row struct {
	text   string  // the object as it came; "" for a row that was built or changed
	spans  []span  // its fields, as places in text
	fields []Field // the fields of a row that was built or changed
}

// span is one field of a parsed row: where its name and value stand in the text. It holds no pointer, so
// that the collector need not look into the slabs of a parser.
type span struct {
	name, nameEnd   uint32 // within the quotes
	value, valueEnd uint32 // a String's within the quotes
	kind            Kind
	nameEscaped     bool
	escaped         bool
}

// NewRow makes a row of fields, as Set does one after another: of a name that comes twice the last value counts.
func NewRow(fields ...Field) *Row {
	r := &Row{fields: make([]Field, 0, len(fields))}
	for i := range fields {
		r.Set(fields[i].Name, fields[i].Value)
	}
	return r
}

// ParseRow reads a text that is exactly one JSON object, with white space around it at most. The row keeps
// text: it must not be changed any more. The error is a *SyntaxError.
func ParseRow(text []byte) (*Row, error) {
	return parseString(view(text))
}

func parseString(text string) (*Row, error) {
	p := Parser{small: true}
	return p.parse(text)
}

// Len is the number of fields.
func (r *Row) Len() int { return len(r.spans) + len(r.fields) }

// At returns the field at place i, from 0; it panics if there is none.
func (r *Row) At(i int) Field {
	if r.text == "" {
		return r.fields[i]
	}
	s := &r.spans[i]
	return Field{Name: r.name(s), Value: r.value(s)}
}

func (r *Row) nameAt(i int) string {
	if r.text == "" {
		return r.fields[i].Name
	}
	return r.name(&r.spans[i])
}

func (r *Row) valueAt(i int) Value {
	if r.text == "" {
		return r.fields[i].Value
	}
	return r.value(&r.spans[i])
}

// Get returns the value of a field, and whether the row has the field.
func (r *Row) Get(name string) (Value, bool) {
	if r.text != "" {
		if s := r.find(name); s != nil {
			return r.value(s), true
		}
		return Value{}, false
	}
	for i := range r.fields {
		if r.fields[i].Name == name {
			return r.fields[i].Value, true
		}
	}
	return Value{}, false
}

// Int returns the value of a field that must be an Int. Like Float, Text and Bool it returns an error that names the
// field if it is missing or of another kind; as a handler's error that is the row's dead letter.
func (r *Row) Int(name string) (int64, error) {
	v, err := r.must(name, Int)
	return v.Int(), err
}

// Float returns the value of a field that must be a number: a Float, or of an Int the nearest float.
func (r *Row) Float(name string) (float64, error) {
	if v, ok := r.Get(name); ok && v.kind == Int {
		return v.Float(), nil
	}
	v, err := r.must(name, Float)
	return v.Float(), err
}

// Text returns the value of a field that must be a String. It is a piece of the message that the row came in.
func (r *Row) Text(name string) (string, error) {
	v, err := r.must(name, String)
	return v.text, err
}

// Bool returns the value of a field that must be a Bool.
func (r *Row) Bool(name string) (bool, error) {
	v, err := r.must(name, Bool)
	return v.Bool(), err
}

// must returns the value of a field if it is of the kind, else null.
func (r *Row) must(name string, kind Kind) (Value, error) {
	v, ok := r.Get(name)
	switch {
	case !ok:
		return Value{}, fmt.Errorf("field %s is missing", quoteShort(name))
	case v.kind != kind:
		return Value{}, fmt.Errorf("field %s: %w", quoteShort(name), mismatch(wanted[kind], v))
	}
	return v, nil
}

var wanted = map[Kind]string{Bool: "a boolean", Int: "an integer", Float: "a number", String: "a string"}

// Set gives a field a value; a field that the row lacks is added at its end. Each byte of name that is not
// UTF-8 becomes U+FFFD.
func (r *Row) Set(name string, v Value) {
	r.unfold()
	name = utf8Only(name)
	for i := range r.fields {
		if r.fields[i].Name == name {
			r.fields[i].Value = v
			return
		}
	}
	r.fields = append(r.fields, Field{name, v})
}

// Delete removes a field; that the row lacks it is no mistake.
func (r *Row) Delete(name string) {
	if r.text != "" && r.find(name) == nil {
		return
	}
	r.unfold()
	for i := range r.fields {
		if r.fields[i].Name == name {
			r.fields = append(r.fields[:i], r.fields[i+1:]...)
			return
		}
	}
}

// AppendJSON appends the row as JSON: a row that nobody changed as it came, without the white space around it.
func (r *Row) AppendJSON(dst []byte) []byte {
	if r.text != "" {
		return append(dst, r.text...)
	}
	dst = append(dst, '{')
	for i := range r.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, r.fields[i].Name)
		dst = append(dst, ':')
		dst = r.fields[i].Value.AppendJSON(dst)
	}
	return append(dst, '}')
}

// Clone returns a row that can be changed without changing r. Both share the text that they came from.
func (r *Row) Clone() *Row {
	if r.text != "" {
		return &Row{text: r.text, spans: r.spans} // spans never change
	}
	return &Row{fields: append([]Field(nil), r.fields...)}
}

// String returns the row as JSON, for messages.
func (r *Row) String() string { return string(r.AppendJSON(nil)) }

// MarshalJSON makes a row a value that encoding/json writes.
func (r *Row) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

// UnmarshalJSON makes a row a value that encoding/json reads.
func (r *Row) UnmarshalJSON(text []byte) error {
	row, err := ParseRow(bytes.Clone(text))
	if err != nil {
		return err
	}
	*r = *row
	return nil
}

func (r *Row) find(name string) *span {
	for i := range r.spans {
		s := &r.spans[i]
		if !s.nameEscaped {
			if r.text[s.name:s.nameEnd] == name {
				return s
			}
		} else if r.name(s) == name {
			return s
		}
	}
	return nil
}

func (r *Row) name(s *span) string {
	name := r.text[s.name:s.nameEnd]
	if s.nameEscaped {
		return unescape(name)
	}
	return name
}

func (r *Row) value(s *span) Value { return valueOf(r.text, s) }

func valueOf(text string, s *span) Value {
	t := text[s.value:s.valueEnd]
	switch s.kind {
	case Bool:
		return BoolValue(t[0] == 't')
	case Int:
		return IntValue(parseInt(t))
	case Float:
		f, _ := strconv.ParseFloat(t, 64) // checked when it was parsed
		return Value{kind: Float, bits: math.Float64bits(f), text: t}
	case String:
		if s.escaped {
			return StringValue(unescape(t))
		}
		return Value{kind: String, text: t, plain: true}
	case Null:
		return Value{}
	}
	return Value{kind: s.kind, text: t}
}

// unfold makes the row one that can be changed.
func (r *Row) unfold() {
	if r.text == "" {
		return
	}
	fields := make([]Field, len(r.spans), len(r.spans)+2)
	for i := range r.spans {
		fields[i] = r.At(i)
	}
	r.text, r.spans, r.fields = "", nil, fields
}
