package flowdef

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// source is the text of one file, its line breaks made "\n" and its byte order mark removed.
type source struct {
	name  string
	lines []string
}

// line returns a line, counted from 1, or "".
func (s *source) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

func (s *source) pos(line, column int) Pos {
	return Pos{File: s.name, Line: max(1, line), Column: max(1, column), src: s}
}

// document is one document of a file: the lines [first, end) of it, counted from 0.
type document struct {
	first, end int
	text       string // as the parser reads it: with the marker line
	body       string // as a person wrote it: without the markers
}

// documents splits a file at its markers. "---" and "..." at the start of a line are markers wherever they
// stand, in a block or in quotes as well: so it can be done before parsing, and a syntax mistake in one
// document does not hide those of the next. Documents of comments and blanks alone are left out.
func (s *source) documents() []document {
	var docs []document
	first := 0
	flush := func(end int) {
		lines := s.lines[first:end]
		if !hasContent(lines) {
			return
		}
		body := lines
		for i, l := range lines { // what stands before the marker is about the file
			if isMarker(l, "---") {
				body = lines[i:]
				if strings.TrimSpace(l[3:]) == "" {
					body = lines[i+1:]
				}
				break
			}
		}
		last := end
		for last > first && strings.TrimSpace(s.lines[last-1]) == "" {
			last--
		}
		if end-last > maxBlank { // fewer may belong to a block that keeps them
			end, lines = last, s.lines[first:last]
		}
		docs = append(docs, document{
			first: first, end: end,
			text: strings.Join(lines, "\n") + "\n",
			body: strings.Trim(strings.Join(body, "\n"), "\n") + "\n",
		})
	}
	for i, l := range s.lines {
		switch {
		case isMarker(l, "---"):
			if hasContent(s.lines[first:i]) { // else directives and comments belong to what follows
				flush(i)
				first = i
			} else if i > first && !hasDirective(s.lines[first:i]) {
				first = i
			}
		case isMarker(l, "..."):
			flush(i)
			first = i + 1
		}
	}
	flush(len(s.lines))
	return docs
}

func isMarker(line, marker string) bool {
	return strings.HasPrefix(line, marker) && (len(line) == 3 || line[3] == ' ' || line[3] == '\t')
}

// hasContent tells whether lines hold more than blanks, comments, directives and an empty marker.
func hasContent(lines []string) bool {
	for _, l := range lines {
		if isMarker(l, "---") {
			l = l[3:]
		}
		l = strings.TrimSpace(l)
		if l != "" && l[0] != '#' && l[0] != '%' {
			return true
		}
	}
	return false
}

func hasDirective(lines []string) bool {
	for _, l := range lines {
		if strings.HasPrefix(l, "%") {
			return true
		}
	}
	return false
}

// newSource checks a file's bytes and splits them into lines.
func newSource(name string, text []byte) (*source, *Mistake) {
	fault := func(src *source, line, column int, code, message, hint string) *Mistake {
		m := NewMistake(Pos{File: name, Line: line, Column: column, src: src}, code, message, hint)
		return &m
	}
	if len(text) > maxFile {
		return nil, fault(nil, 0, 0, codeLimit, fmt.Sprintf("the file has %d bytes; at most %d MiB are read", len(text), maxFile>>20), "split it into several files")
	}
	s := strings.TrimPrefix(string(text), "\ufeff")
	if strings.HasPrefix(s, "\xff\xfe") || strings.HasPrefix(s, "\xfe\xff") {
		return nil, fault(nil, 1, 1, codeEncoding, "the file is UTF-16", "save it as UTF-8")
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	src := &source{name: name}
	if utf8.ValidString(s) {
		src.lines = strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	}
	line, column := 1, 1
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return nil, fault(nil, line, column, codeEncoding, fmt.Sprintf("byte 0x%02X is not UTF-8", s[i]), "save the file as UTF-8")
			}
		}
		if r != '\n' && r != '\t' && (r < 0x20 || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff) {
			return nil, fault(src, line, column, codeEncoding, fmt.Sprintf("control character %U", r), `remove it; in double quotes it may be written "\x..."`)
		}
		if r == '\n' {
			line, column = line+1, 1
		} else {
			column++
		}
	}
	return src, nil
}

// style is how a scalar is written.
type style int

const (
	plain style = iota
	singleQuoted
	doubleQuoted
	literal // |
	folded  // >
)

// scalar is where and how a string stands in a file, for the places inside of it.
type scalar struct {
	src          *source
	line, column int // of its first character: the quote, or the | of a block
	style        style
}

// At returns the place of the byte at offset of the text. It is exact for a text written plainly, in quotes
// (with escapes), or as a block; where the writing cannot be followed it is the text's own place.
func (t Text) At(offset int) Pos {
	if t.raw == nil {
		p := t.Pos
		if offset > 0 && offset <= len(t.Value) && p.Line > 0 {
			p.Column += utf8.RuneCountInString(t.Value[:offset])
		}
		return p
	}
	if offset <= 0 {
		return t.Pos
	}
	places, value, ok := t.raw.places(len(t.Value))
	if !ok || value != t.Value {
		return t.Pos
	}
	p := places[min(offset, len(places)-1)]
	if p.Line < t.Pos.Line { // a blank line before a block's first word
		return t.Pos
	}
	return p
}

// start returns the place of the text's first character.
func (r *scalar) start() Pos {
	switch r.style {
	case singleQuoted, doubleQuoted:
		return r.src.pos(r.line, min(r.column, utf8.RuneCountInString(r.src.line(r.line)))+1)
	case literal, folded:
		for n := r.line + 1; n <= len(r.src.lines); n++ {
			l := r.src.line(n)
			if t := strings.TrimLeft(l, " "); t != "" {
				return r.src.pos(n, len(l)-len(t)+1)
			}
		}
	}
	return r.src.pos(r.line, r.column)
}

// walker follows a scalar's writing, character by character, and notes the place of every byte of its value.
type walker struct {
	src    *source
	line   int
	rest   string // of the line
	column int
	places []Pos
	value  strings.Builder
}

func (w *walker) take(n int) { // n bytes of the line, which make nothing
	w.column += utf8.RuneCountInString(w.rest[:n])
	w.rest = w.rest[n:]
}

func (w *walker) emit(s string, line, column int) {
	for range len(s) {
		w.places = append(w.places, w.src.pos(line, column))
	}
	w.value.WriteString(s)
}

func (w *walker) nextLine() bool {
	if w.line >= len(w.src.lines) {
		return false
	}
	w.line++
	w.rest, w.column = w.src.line(w.line), 1
	return true
}

// places returns the place of every byte of the value and of its end, and the value as the writing gives it.
// It follows at most max bytes and a little more.
func (r *scalar) places(max int) ([]Pos, string, bool) {
	l := r.src.line(r.line)
	w := &walker{src: r.src, line: r.line, column: r.column}
	for range r.column - 1 {
		_, n := utf8.DecodeRuneInString(l)
		l = l[n:]
	}
	w.rest = l
	ok := false
	switch r.style {
	case plain:
		ok = w.plain(max)
	case singleQuoted:
		ok = w.quoted('\'', max)
	case doubleQuoted:
		ok = w.quoted('"', max)
	default:
		ok = w.block(r.style, max)
	}
	if ok {
		w.places = append(w.places, w.src.pos(w.line, w.column))
	}
	return w.places, w.value.String(), ok
}

// foldBreak goes over one line break and the empty lines after it: one break is a blank, more are one less.
func (w *walker) foldBreak() bool {
	line, column := w.line, w.column
	breaks := 0
	for {
		if !w.nextLine() {
			return false
		}
		breaks++
		t := strings.TrimLeft(w.rest, " \t")
		if t != "" {
			w.take(len(w.rest) - len(t))
			break
		}
	}
	if breaks == 1 {
		w.emit(" ", line, column)
	} else {
		w.emit(strings.Repeat("\n", breaks-1), line, column)
	}
	return true
}

// blanks goes over the blanks at the place. Those at the end of a line, or before a comment, make nothing: then
// it is false.
func (w *walker) blanks(comments bool) bool {
	rest := strings.TrimLeft(w.rest, " \t")
	if rest == "" || comments && rest[0] == '#' && rest != w.rest {
		w.take(len(w.rest))
		return false
	}
	for len(w.rest) > len(rest) {
		w.emit(w.rest[:1], w.line, w.column)
		w.take(1)
	}
	return true
}

func (w *walker) char() {
	_, n := utf8.DecodeRuneInString(w.rest)
	w.emit(w.rest[:n], w.line, w.column)
	w.take(n)
}

func (w *walker) plain(max int) bool {
	for w.value.Len() < max {
		if w.blanks(w.column > 1) {
			w.char()
		} else if !w.foldBreak() {
			return false
		}
	}
	return true
}

func (w *walker) quoted(quote byte, max int) bool {
	w.take(1)
	for w.value.Len() <= max {
		if !w.blanks(false) {
			if !w.foldBreak() {
				return false
			}
			continue
		}
		c := w.rest[0]
		switch {
		case c == quote && quote == '\'' && strings.HasPrefix(w.rest, "''"):
			w.emit("'", w.line, w.column)
			w.take(2)
		case c == quote:
			return true
		case c == '\\' && quote == '"':
			if !w.escape() {
				return false
			}
		default:
			w.char()
		}
	}
	return false
}

var escapes = map[byte]string{
	'0': "\x00", 'a': "\a", 'b': "\b", 't': "\t", '\t': "\t", 'n': "\n", 'v': "\v", 'f': "\f", 'r': "\r",
	'e': "\x1b", ' ': " ", '"': `"`, '/': "/", '\\': `\`, 'N': "\u0085", '_': "\u00a0", 'L': "\u2028", 'P': "\u2029",
}

// escape goes over a backslash and what follows it.
func (w *walker) escape() bool {
	line, column := w.line, w.column
	if len(w.rest) == 1 { // a line break that makes nothing
		if !w.nextLine() {
			return false
		}
		w.take(len(w.rest) - len(strings.TrimLeft(w.rest, " \t")))
		return true
	}
	c := w.rest[1]
	if s, ok := escapes[c]; ok {
		w.emit(s, line, column)
		w.take(2)
		return true
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if digits == 0 || len(w.rest) < 2+digits {
		return false
	}
	n, err := strconv.ParseUint(w.rest[2:2+digits], 16, 32)
	if err != nil {
		return false
	}
	w.emit(string(rune(n)), line, column)
	w.take(2 + digits)
	return true
}

// block follows | and >. The lines of > are joined as the parser joins them where no line is indented more
// than the first; else the caller sees another value and falls back.
func (w *walker) block(s style, max int) bool {
	header := w.rest
	if i := strings.IndexAny(header, " \t#"); i >= 0 {
		header = header[:i]
	}
	indent := -1
	if i := strings.IndexAny(header, "123456789"); i >= 0 {
		return false // an indent that is said depends on the parent's
	}
	var breaks int // line breaks that are not written yet
	var bl, bc int
	for w.value.Len() < max && w.nextLine() {
		t := strings.TrimLeft(w.rest, " ")
		if t == "" && (indent < 0 || len(w.rest) <= indent) {
			if breaks == 0 {
				bl, bc = w.line, 1
			}
			breaks++
			continue
		}
		if indent < 0 {
			indent = len(w.rest) - len(t)
		}
		if len(w.rest)-len(t) < indent {
			break
		}
		switch {
		case s == literal || w.value.Len() == 0:
			w.emit(strings.Repeat("\n", breaks), bl, bc)
		case breaks == 1:
			w.emit(" ", bl, bc)
		default:
			w.emit(strings.Repeat("\n", breaks-1), bl, bc)
		}
		w.take(indent)
		for w.rest != "" && w.value.Len() < max {
			_, n := utf8.DecodeRuneInString(w.rest)
			w.emit(w.rest[:n], w.line, w.column)
			w.take(n)
		}
		breaks, bl, bc = 1, w.line, w.column
	}
	for range breaks {
		if w.value.Len() >= max {
			break
		}
		w.emit("\n", bl, bc)
	}
	return true
}
