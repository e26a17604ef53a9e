package functions

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Shape says what is known of the rows at a place of a flow: which fields they have, and what these may be. It is
// never changed: what makes another one of it copies.
type Shape struct {
	// Fields are the known fields by name.
	Fields map[string]Field
	// Open: the rows may have other fields as well, and nothing is known of them. A row of a shape that is not
	// open has the known fields and no other.
	Open bool
}

// Field is what is known of one field.
type Field struct {
	// Optional: there are rows without it.
	Optional bool
	// Inside is what is known of the fields of an object; nil: nothing, or it is none.
	Inside *Shape
	// From says where the field comes from, for a person; "" if nobody knows.
	From string

	kinds kinds
	path  string // of the text that makes it, until Locate turns it into From
	wrong bool   // no row has it: a mistake has been made of it, and is not made again
}

// What is known of objects in objects is bounded; what lies beyond may be anything.
const (
	maxInside       = 4    // how deep they lie
	maxInsideFields = 1000 // how many fields of theirs a shape has
)

// fieldTypes are the names of types, as a definition writes them.
var fieldTypes = map[string]kinds{
	"int": isInt, "float": isFloat, "number": numbers, "text": isString, "bool": isBool,
	"array": isArray, "object": isObject, "any": anyKind,
}

// FieldOf makes a field of a declared type: int, float, number (an int or a float), text, bool, array,
// object or any. An optional field may be missing, and it may be null. It says false for another type.
func FieldOf(typ string, optional bool) (Field, bool) {
	k, ok := fieldTypes[typ]
	if optional {
		k |= isNull
	}
	return Field{kinds: k, Optional: optional}, ok
}

// TimeField is a field that an event time can be read from: a number or a text.
func TimeField() Field { return Field{kinds: numbers | isString} }

// ObjectOf makes a field that is an object of a shape.
func ObjectOf(inside Shape, optional bool) Field {
	f := Field{kinds: isObject, Optional: optional, Inside: &inside}
	if optional {
		f.kinds |= isNull
	}
	return f
}

// Anything is a field of which nothing is known but that it is there.
func Anything() Field { return Field{kinds: anyKind} }

// Type names what the field may be, as in "a string or null".
func (f Field) Type() string { return f.kinds.String() }

// Fits says whether some value of the field may be what another one asks for.
func (f Field) Fits(want Field) bool { return f.kinds&want.kinds != 0 }

// Names returns the known fields in order.
func (s Shape) Names() []string { return slices.Sorted(maps.Keys(s.Fields)) }

// Lacks says whether no row of the shape has a field.
func (s Shape) Lacks(name string) bool {
	_, known := s.Fields[name]
	return !known && !s.Open
}

// With is the shape with a field in the place of what was known of it.
func (s Shape) With(name string, f Field) Shape {
	fields := make(map[string]Field, len(s.Fields)+1)
	maps.Copy(fields, s.Fields)
	fields[name] = f
	return Shape{Fields: fields, Open: s.Open}
}

// String is the shape as a text that is the same for equal shapes.
func (s Shape) String() string {
	var b strings.Builder
	s.write(&b)
	return b.String()
}

func (s Shape) write(b *strings.Builder) {
	b.WriteByte('{')
	for i, name := range s.Names() {
		if i > 0 {
			b.WriteString(", ")
		}
		f := s.Fields[name]
		b.WriteString(quoteName(name))
		if f.Optional {
			b.WriteByte('?')
		}
		if f.wrong {
			b.WriteByte('!')
		}
		b.WriteString(": " + f.kinds.String())
		if f.Inside != nil {
			b.WriteByte(' ')
			f.Inside.write(b)
		}
		if f.From != "" {
			b.WriteString(" from " + f.From)
		}
	}
	if s.Open {
		b.WriteString(" ...")
	}
	b.WriteByte('}')
}

// quoteName writes a field's name so that no two shapes have one text.
func quoteName(name string) string {
	if strings.ContainsAny(name, " ,:?{}\"\\") || name == "" {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
	}
	return name
}

// Union is the shape of rows that are of one shape or of the other.
func Union(a, b Shape) Shape {
	fields := make(map[string]Field, max(len(a.Fields), len(b.Fields)))
	for _, pair := range [2][2]Shape{{a, b}, {b, a}} {
		mine, other := pair[0], pair[1]
		for name, f := range mine.Fields {
			g, both := other.Fields[name]
			switch {
			case both:
				if _, done := fields[name]; !done {
					fields[name] = either(f, g)
				}
			case !other.Open: // else it may be anything there: nothing is known
				f.Optional = true
				fields[name] = f
			}
		}
	}
	return Shape{Fields: fields, Open: a.Open || b.Open}
}

// either is a field of rows that have one field or the other.
func either(f, g Field) Field {
	return Field{Optional: f.Optional || g.Optional, wrong: f.wrong && g.wrong, Inside: insideOf(f.kinds, f.Inside, g.kinds, g.Inside), From: cmp.Or(f.From, g.From),
		kinds: f.kinds | g.kinds, path: cmp.Or(f.path, g.path)}
}

// insideOf is what is known of an object that is one of two values.
func insideOf(f kinds, in *Shape, g kinds, also *Shape) *Shape {
	switch {
	case f&isObject == 0:
		return also
	case g&isObject == 0:
		return in
	case in == nil || also == nil:
		return nil
	}
	both := Union(*in, *also)
	return &both
}

// trimmed is what is known of an object down to a depth, and as long as there is room for its fields.
func trimmed(s *Shape, depth int, room *int) *Shape {
	if s == nil || depth == 0 || len(s.Fields) > *room {
		return nil
	}
	*room -= len(s.Fields)
	fields := make(map[string]Field, len(s.Fields))
	for _, name := range s.Names() {
		f := s.Fields[name]
		f.Inside = trimmed(f.Inside, depth-1, room)
		fields[name] = f
	}
	return &Shape{Fields: fields, Open: s.Open}
}

// Locate turns the paths of the texts that made fields of the shape (as in Mistake.Path) into their From.
func (s Shape) Locate(place func(path string) string) Shape {
	fields := make(map[string]Field, len(s.Fields))
	for name, f := range s.Fields {
		if f.path != "" {
			f.From, f.path = place(f.path), ""
		}
		if f.Inside != nil {
			inside := f.Inside.Locate(place)
			f.Inside = &inside
		}
		fields[name] = f
	}
	return Shape{Fields: fields, Open: s.Open}
}
