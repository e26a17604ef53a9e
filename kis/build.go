package kis

import "unsafe"

// Builder makes rows on the hot path: it writes a row's JSON once, where NewRow keeps the fields and AppendJSON
// writes them each time. Many rows of one builder share few allocations; in turn, one row that is kept
// keeps its neighbours' memory too. The zero Builder is ready to use. It is not for concurrent use; its rows may go
// anywhere.
//
//	b.Begin()
//	b.Add("userid", kis.IntValue(1))
//	b.Add("total", kis.IntValue(500))
//	row := b.End()
type Builder struct {
	text  []byte // of the row in hand
	spans []span // of the row in hand
	marks uint64 // of its names
	twice bool   // a name came twice

	texts     []byte // free room for texts
	spansFree []span // free room for spans
	rows      []Row  // free room for rows
}

const (
	buildTexts = 16 << 10 // bytes
	buildSpans = 512
	buildRows  = 64
)

// Begin starts a row, and drops one that was begun and not ended.
func (b *Builder) Begin() {
	b.text, b.spans = append(b.text[:0], '{'), b.spans[:0]
	b.marks, b.twice = 0, false
}

// Add adds a field to the row in hand. Of a name that comes twice the last value counts.
func (b *Builder) Add(name string, v Value) {
	if len(b.spans) > 0 {
		b.text = append(b.text, ',')
	}
	s := span{name: uint32(len(b.text)) + 1}
	if isPlain(name) {
		b.text = append(b.text, '"')
		b.text = append(b.text, name...)
		b.text = append(b.text, '"')
	} else {
		b.text = appendString(b.text, utf8Only(name))
		s.nameEscaped = true // as far as anyone needs to know
	}
	s.nameEnd = uint32(len(b.text)) - 1
	b.look(&s)
	b.value(&s, v)
}

// add is Add for a field of a struct.
func (b *Builder) add(f *codecField, v Value) {
	if len(b.spans) > 0 {
		b.text = append(b.text, ',')
	}
	s := span{name: uint32(len(b.text)) + 1, nameEscaped: f.escaped}
	b.text = append(b.text, f.quoted...)
	s.nameEnd = uint32(len(b.text)) - 1
	if b.marks&f.mark != 0 {
		b.look(&s)
	}
	b.marks |= f.mark
	b.value(&s, v)
}

// value adds the value of the field in hand.
func (b *Builder) value(s *span, v Value) {
	b.text = append(b.text, ':')
	s.kind = v.kind
	s.value = uint32(len(b.text))
	b.text = v.AppendJSON(b.text)
	s.valueEnd = uint32(len(b.text))
	if v.kind == String {
		s.value++
		s.valueEnd--
		s.escaped = !v.plain
	}
	b.spans = append(b.spans, *s)
}

// look notes whether the name of s came before.
func (b *Builder) look(s *span) {
	mark := nameMark(b.text[s.name:s.nameEnd], s.nameEscaped)
	if b.marks&mark != 0 && !b.twice {
		r := Row{text: view(b.text)}
		b.twice = b.has(r.name(s))
	}
	b.marks |= mark
}

// End ends the row in hand and returns it.
func (b *Builder) End() *Row {
	b.text = append(b.text, '}')
	if b.twice {
		r := Row{text: string(b.text), spans: b.spans}
		built := NewRow()
		for i := range r.Len() {
			built.Set(r.At(i).Name, r.At(i).Value)
		}
		return built
	}
	if cap(b.texts)-len(b.texts) < len(b.text) {
		b.texts = make([]byte, 0, max(buildTexts, len(b.text)))
	}
	at := len(b.texts)
	b.texts = append(b.texts, b.text...)
	if cap(b.spansFree)-len(b.spansFree) < len(b.spans) {
		b.spansFree = make([]span, 0, max(buildSpans, len(b.spans)))
	}
	first := len(b.spansFree)
	b.spansFree = append(b.spansFree, b.spans...)
	if len(b.rows) == cap(b.rows) {
		b.rows = make([]Row, 0, buildRows)
	}
	b.rows = append(b.rows, Row{text: view(b.texts[at:]), spans: b.spansFree[first:len(b.spansFree):len(b.spansFree)]})
	if cap(b.text) > buildTexts {
		b.text = nil // do not keep the room of a huge row for ever
	}
	return &b.rows[len(b.rows)-1]
}

// Row makes a row of fields; it does not keep the slice.
func (b *Builder) Row(fields ...Field) *Row {
	b.Begin()
	for i := range fields {
		b.Add(fields[i].Name, fields[i].Value)
	}
	return b.End()
}

// has says whether the row in hand has a field.
func (b *Builder) has(name string) bool {
	r := Row{text: view(b.text), spans: b.spans}
	return r.find(name) != nil
}

// addMissing adds the fields of a key that has does not hold.
func (b *Builder) addMissing(key Key, has func(name string) bool) {
	rest := key.canonical
	for _, name := range key.names {
		v, r, ok := cutKeyValue(rest)
		if !ok {
			return
		}
		if rest = r; !has(name) {
			b.Add(name, v)
		}
	}
}

// copyRow returns a row that can be changed without changing row: Clone with the builder's memory.
func (b *Builder) copyRow(row *Row) *Row {
	if row.text == "" {
		return row.Clone()
	}
	if len(b.rows) == cap(b.rows) {
		b.rows = make([]Row, 0, buildRows)
	}
	b.rows = append(b.rows, *row) // spans never change
	return &b.rows[len(b.rows)-1]
}

// allMarks is the mark of a name that may be any.
const allMarks = 1<<64 - 1

// nameMark is one bit: names with different marks differ, so only for others the texts have to be compared.
func nameMark[T string | []byte](name T, escaped bool) uint64 {
	if escaped {
		return allMarks
	}
	if len(name) == 0 {
		return 1
	}
	return 1 << ((uint(len(name))*7 + uint(name[0]) + uint(name[len(name)-1])*3) & 63)
}

// view returns bytes that nobody will change as a string.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
