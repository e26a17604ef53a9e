package kis

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of what a parser reads.
const (
	// MaxDepth is how deep arrays and objects of a row may be nested, the row itself included.
	MaxDepth = 64
	// MaxFields is how many fields an object may have, the row itself and every object in it.
	MaxFields = 4096
)

// SyntaxError says where a text stops being what it should be.
type SyntaxError struct {
	Offset  int    // of the byte where it went wrong, from 0
	Problem string // what is wrong and what was expected
}

func (e *SyntaxError) Error() string { return "offset " + strconv.Itoa(e.Offset) + ": " + e.Problem }

// Parser reads rows. Many rows of one parser share few allocations; in turn, one row that is kept keeps its
// neighbours' memory too. The zero Parser is ready to use. It is not for concurrent use; its rows may go
// anywhere.
//
// It reads JSON by RFC 8259 and nothing more: UTF-8 only, no lone surrogates, no name twice in an object (names
// are compared decoded, at every depth), at most MaxFields names an object and MaxDepth levels.
type Parser struct {
	small bool // for one row: allocate no slabs
	rows  []Row
	spans []span
	names []nameAt            // names of the objects around the place in hand, innermost last
	seen  map[string]struct{} // of an object with many names
	depth int
}

type nameAt struct {
	name   string
	offset int
}

const (
	rowSlab  = 128  // rows
	spanSlab = 1024 // spans
	few      = 16   // names up to here are compared one with another
	maxText  = math.MaxInt32
)

// Parse reads a text that is exactly one JSON object, with white space around it at most. The row keeps text:
// it must not be changed any more. The error is a *SyntaxError.
func (p *Parser) Parse(text []byte) (*Row, error) { return p.parse(view(text)) }

// ParseText is Parse for a text that is a string.
func (p *Parser) ParseText(text string) (*Row, error) { return p.parse(text) }

func (p *Parser) parse(s string) (*Row, error) {
	if err := checkSize(s); err != nil {
		return nil, err
	}
	row, end, err := p.row(s, space(s, 0))
	if err != nil {
		return nil, err
	}
	if end = space(s, end); end < len(s) {
		return nil, unexpected(s, end, "the end after the object")
	}
	return row, nil
}

// Split reads a message's payload: JSON objects separated by white space, so that one object over several
// lines is one event, and an object a line is many. It calls each for every event in order, with its index
// from 0 and its row, or with the bytes and the error of an event that is malformed.
//
// A malformed event reaches to the end of the line where it went wrong, or, if a line before it begins with an
// opening brace, to that line, which is the next event: a line that was cut off takes no other with it. A value
// that is no object is a
// malformed event, and so is a payload that holds nothing. The rows and bad keep the payload: it must not be
// changed any more. Offsets of errors count from the payload's start.
func (p *Parser) Split(payload []byte, each func(index uint32, row *Row, bad []byte, err error)) {
	s := view(payload)
	if err := checkSize(s); err != nil {
		each(0, nil, payload, err)
		return
	}
	at := space(s, 0)
	if at == len(s) {
		each(0, nil, payload, &SyntaxError{at, "expected an object, found nothing"})
		return
	}
	for index := uint32(0); at < len(s); index++ {
		row, end, err := p.event(s, at)
		if err != nil {
			each(index, nil, payload[at:end:end], err)
		} else {
			each(index, row, nil, nil)
		}
		at = space(s, end)
	}
}

// event reads the event that starts at s[at], and says where it ends.
func (p *Parser) event(s string, at int) (*Row, int, error) {
	var (
		row *Row
		end int
		err error
	)
	if s[at] == '{' {
		row, end, err = p.row(s, at)
	} else {
		var v span
		p.begin()
		if end, err = p.any(s, at, &v); err == nil {
			err = &SyntaxError{at, "expected an object, found " + v.kind.String()}
			if end == len(s) || isSpace(s[end]) {
				return nil, end, err
			}
		}
	}
	if err == nil && end < len(s) && !isSpace(s[end]) {
		err = unexpected(s, end, "white space or the end after the object")
	}
	if err == nil {
		return row, end, nil
	}
	end = max(err.(*SyntaxError).Offset, at)
	if n := strings.Index(s[at:min(end+1, len(s))], "\n{"); n >= 0 {
		return nil, max(len(strings.TrimRight(s[:at+n], " \t\r\n")), at+1), err
	}
	if n := strings.IndexByte(s[end:], '\n'); n >= 0 {
		end += n
	} else {
		end = len(s)
	}
	return nil, max(len(strings.TrimRight(s[:end], " \t\r\n")), at+1), err
}

func checkSize(s string) error {
	if len(s) > maxText {
		return &SyntaxError{maxText, "longer than 2 GiB"}
	}
	return nil
}

// value reads a text that is one JSON value.
func (p *Parser) value(s string) (Value, error) {
	if err := checkSize(s); err != nil {
		return Value{}, err
	}
	var v span
	p.begin()
	end, err := p.any(s, space(s, 0), &v)
	if err != nil {
		return Value{}, err
	}
	if end = space(s, end); end < len(s) {
		return Value{}, unexpected(s, end, "the end after the value")
	}
	return valueOf(s, &v), nil
}

func (p *Parser) begin() {
	p.depth = 0
	p.forget(0) // what an error left
}

// forget lets go of the names from base on: they would keep their texts.
func (p *Parser) forget(base int) {
	clear(p.names[base:])
	p.names = p.names[:base]
}

// row reads the object at s[at] into a new row, and says where it ends.
func (p *Parser) row(s string, at int) (*Row, int, error) {
	p.begin()
	if at >= len(s) || s[at] != '{' {
		return nil, at, unexpected(s, at, "an object")
	}
	start := at
	p.depth = 1
	spans := p.spans[len(p.spans):]
	marks := uint64(0)
	at = space(s, at+1)
	if at < len(s) && s[at] == '}' {
		return p.newRow(s[start:at+1], nil), at + 1, nil
	}
	for {
		if at >= len(s) || s[at] != '"' {
			return nil, at, unexpected(s, at, "a field name")
		}
		nameAt := at
		end, escaped, err := scanString(s, at)
		if err != nil {
			return nil, at, err
		}
		if len(spans) == MaxFields {
			return nil, at, tooMany(nameAt)
		}
		if len(spans) == cap(spans) {
			spans = p.growSpans(spans)
		}
		spans = spans[:len(spans)+1]
		v := &spans[len(spans)-1]
		*v = span{name: uint32(at + 1 - start), nameEnd: uint32(end - 1 - start), nameEscaped: escaped}
		if n := len(spans) - 1; n < few {
			mark := nameMark(s[at+1:end-1], escaped)
			if marks&mark != 0 {
				if err := unique(s[start:], spans[:n], v, nameAt); err != nil {
					return nil, at, err
				}
			}
			marks |= mark
		}
		at = end
		if at >= len(s) || s[at] != ':' {
			if at = space(s, at); at >= len(s) || s[at] != ':' {
				return nil, at, unexpected(s, at, "':' after the field name")
			}
		}
		if at++; at < len(s) && s[at] <= ' ' {
			at = space(s, at)
		}
		if at, err = p.any(s, at, v); err != nil {
			return nil, at, err
		}
		v.value -= uint32(start)
		v.valueEnd -= uint32(start)
		if at < len(s) && s[at] <= ' ' {
			at = space(s, at)
		}
		if at >= len(s) || s[at] != ',' && s[at] != '}' {
			return nil, at, unexpected(s, at, "',' or '}' after the field's value")
		}
		at++
		if s[at-1] == '}' {
			break
		}
		if at < len(s) && s[at] <= ' ' {
			at = space(s, at)
		}
	}
	if len(spans) > few {
		// Too many names to have been compared one with another: read it again as a nested object, which
		// compares all and knows the place of each.
		p.begin()
		var v span
		if _, err := p.any(s, start, &v); err != nil {
			return nil, start, err
		}
	}
	return p.newRow(s[start:at], spans), at, nil
}

// unique says whether the last name differs from those before it.
func unique(text string, before []span, last *span, offset int) error {
	name := text[last.name:last.nameEnd]
	if last.nameEscaped {
		name = unescape(name)
	}
	for i := range before {
		other := text[before[i].name:before[i].nameEnd]
		if before[i].nameEscaped {
			other = unescape(other)
		}
		if name == other {
			return twice(name, offset)
		}
	}
	return nil
}

// growSpans moves the spans of the row in hand to where there is room for one more.
func (p *Parser) growSpans(spans []span) []span {
	if p.small {
		return append(make([]span, 0, max(8, 2*len(spans))), spans...)
	}
	p.spans = make([]span, 0, max(spanSlab, 2*len(spans)))
	return append(p.spans, spans...)
}

// newRow takes spans, which lie at the free end of the slab, into use.
func (p *Parser) newRow(text string, spans []span) *Row {
	if p.small {
		return &Row{text: text, spans: spans[:len(spans):len(spans)]}
	}
	p.spans = p.spans[:len(p.spans)+len(spans)]
	if len(p.rows) == cap(p.rows) {
		p.rows = make([]Row, 0, rowSlab)
	}
	p.rows = p.rows[:len(p.rows)+1]
	row := &p.rows[len(p.rows)-1]
	row.text, row.spans = text, spans[:len(spans):len(spans)]
	return row
}

// any reads the value at s[at] into the value part of v, and says where it ends.
func (p *Parser) any(s string, at int, v *span) (int, error) {
	if at >= len(s) {
		return at, unexpected(s, at, "a value")
	}
	v.value = uint32(at)
	switch c := s[at]; c {
	case '"':
		end, escaped, err := scanString(s, at)
		if err != nil {
			return at, err
		}
		v.value, v.valueEnd, v.kind, v.escaped = uint32(at+1), uint32(end-1), String, escaped
		return end, nil
	case '{', '[':
		end, err := p.nested(s, at)
		if err != nil {
			return at, err
		}
		v.valueEnd, v.kind = uint32(end), Object
		if c == '[' {
			v.kind = Array
		}
		return end, nil
	case 't', 'f', 'n':
		word, kind := "true", Bool
		switch c {
		case 'f':
			word = "false"
		case 'n':
			word, kind = "null", Null
		}
		if !strings.HasPrefix(s[at:], word) {
			return at, unexpected(s, at, "a value")
		}
		end := at + len(word)
		v.valueEnd, v.kind = uint32(end), kind
		return end, nil
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		end, kind, err := scanNumber(s, at)
		v.valueEnd, v.kind = uint32(end), kind
		return end, err
	}
	return at, unexpected(s, at, "a value")
}

// nested checks the array or object at s[at], and says where it ends.
func (p *Parser) nested(s string, at int) (int, error) {
	if p.depth++; p.depth > MaxDepth {
		return at, &SyntaxError{at, fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	open := s[at]
	shut := open + 2 // '[' and ']', '{' and '}'
	base := len(p.names)
	at = space(s, at+1)
	if at < len(s) && s[at] == shut {
		p.depth--
		return at + 1, nil
	}
	var (
		v   span
		err error
	)
	for {
		if open == '{' {
			if at, err = p.nestedName(s, at, base); err != nil {
				return at, err
			}
		}
		if at, err = p.any(s, at, &v); err != nil {
			return at, err
		}
		at = space(s, at)
		if at >= len(s) || s[at] != ',' && s[at] != shut {
			return at, unexpected(s, at, "',' or '"+string(shut)+"'")
		}
		at++
		if s[at-1] == shut {
			break
		}
		at = space(s, at)
	}
	if len(p.names)-base > few {
		if err := p.uniqueMany(p.names[base:]); err != nil {
			return at, err
		}
	}
	p.forget(base)
	p.depth--
	return at, nil
}

// nestedName reads a name and the colon after it, and says where the value starts.
func (p *Parser) nestedName(s string, at, base int) (int, error) {
	if at >= len(s) || s[at] != '"' {
		return at, unexpected(s, at, "a field name")
	}
	end, escaped, err := scanString(s, at)
	if err != nil {
		return at, err
	}
	name := s[at+1 : end-1]
	if escaped {
		name = unescape(name)
	}
	if n := len(p.names) - base; n < few {
		for _, other := range p.names[base:] {
			if other.name == name {
				return at, twice(name, at)
			}
		}
	} else if n >= MaxFields {
		return at, tooMany(at)
	}
	p.names = append(p.names, nameAt{name, at})
	if at = space(s, end); at >= len(s) || s[at] != ':' {
		return at, unexpected(s, at, "':' after the field name")
	}
	return space(s, at+1), nil
}

func (p *Parser) uniqueMany(names []nameAt) error {
	if p.seen == nil {
		p.seen = make(map[string]struct{}, len(names))
	}
	defer clear(p.seen) // the names would keep their texts
	for _, n := range names {
		if _, ok := p.seen[n.name]; ok {
			return twice(n.name, n.offset)
		}
		p.seen[n.name] = struct{}{}
	}
	return nil
}

func tooMany(offset int) error {
	return &SyntaxError{offset, fmt.Sprintf("an object of more than %d fields", MaxFields)}
}

func twice(name string, offset int) error {
	return &SyntaxError{offset, fmt.Sprintf("field %s comes twice in one object", quoteShort(name))}
}

// unexpected says what stands at s[at] in place of what was expected.
func unexpected(s string, at int, expected string) error {
	if at >= len(s) {
		return &SyntaxError{len(s), "expected " + expected + ", found the end"}
	}
	r, n := utf8.DecodeRuneInString(s[at:])
	if r == utf8.RuneError && n == 1 {
		return &SyntaxError{at, fmt.Sprintf("expected %s, found the byte 0x%02x", expected, s[at])}
	}
	return &SyntaxError{at, fmt.Sprintf("expected %s, found %q", expected, r)}
}

// quoteShort quotes a text for a message, cut to what a line can bear.
func quoteShort(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// space returns the place of the first byte from at on that is no white space.
func space(s string, at int) int {
	for at < len(s) && isSpace(s[at]) {
		at++
	}
	return at
}

// scanString checks the string whose opening quote is s[at]; it says where the string ends, behind its closing
// quote, and whether it holds escapes.
func scanString(s string, at int) (end int, escaped bool, err error) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	i := at + 1
	for {
		// Eight bytes at a time, up to the first that is a quote, a backslash, a control character or not ASCII.
		// A borrow can only reach bytes above one that has stopped the search, so the lowest is right.
		for i+8 <= len(s) {
			b := s[i : i+8]
			x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
				uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
			stop := (x | (x - ones*0x20) | ((x ^ ones*'"') - ones) | ((x ^ ones*'\\') - ones)) & tops
			if stop != 0 {
				i += bits.TrailingZeros64(stop) / 8
				break
			}
			i += 8
		}
		if i >= len(s) {
			return i, escaped, &SyntaxError{len(s), "expected '\"' at the end of the string, found the end"}
		}
		switch c := s[i]; {
		case c == '"':
			return i + 1, escaped, nil
		case c == '\\':
			escaped = true
			n, err := scanEscape(s, i)
			if err != nil {
				return i, true, err
			}
			i += n
		case c < 0x20:
			return i, escaped, &SyntaxError{i, fmt.Sprintf("control character 0x%02x in a string; it must be escaped", c)}
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				return i, escaped, &SyntaxError{i, fmt.Sprintf("the byte 0x%02x is not UTF-8", c)}
			}
			i += n
		}
	}
}

// scanEscape returns the length of the escape at s[i], a pair of surrogates being one.
func scanEscape(s string, i int) (int, error) {
	if i+1 >= len(s) {
		return 0, &SyntaxError{len(s), "expected an escape, found the end"}
	}
	switch s[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
		r, ok := hex4(s, i+2)
		if !ok {
			return 0, &SyntaxError{i, "expected four hexadecimal digits after \\u"}
		}
		if !utf16.IsSurrogate(r) {
			return 6, nil
		}
		if i+7 < len(s) && s[i+6] == '\\' && s[i+7] == 'u' {
			if low, ok := hex4(s, i+8); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				return 12, nil
			}
		}
		return 0, &SyntaxError{i, fmt.Sprintf("lone surrogate \\u%04x in a string", r)}
	}
	return 0, unexpected(s, i+1, "an escape")
}

func hex4(s string, i int) (r rune, ok bool) {
	if i+4 > len(s) {
		return 0, false
	}
	for _, c := range []byte(s[i : i+4]) {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// unescape decodes the inside of a string that scanString has checked.
func unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		n := strings.IndexByte(s[i:], '\\')
		if n < 0 {
			b = append(b, s[i:]...)
			break
		}
		b = append(b, s[i:i+n]...)
		i += n
		switch c := s[i+1]; c {
		case 'u':
			r, _ := hex4(s, i+2)
			if i += 6; utf16.IsSurrogate(r) {
				low, _ := hex4(s, i+2)
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			b = utf8.AppendRune(b, r)
			continue
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		default:
			b = append(b, c)
		}
		i += 2
	}
	return string(b)
}

// scanNumber checks the number at s[at], and says where it ends and of what kind it is.
func scanNumber(s string, at int) (int, Kind, error) {
	i := at
	if s[i] == '-' {
		i++
	}
	first := i
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	switch {
	case i == first:
		return i, Null, unexpected(s, i, "a digit")
	case s[first] == '0' && i > first+1:
		return i, Null, &SyntaxError{first, "a number with a leading zero"}
	}
	digits := i - first
	kind, exponent := Int, false
	if i < len(s) && s[i] == '.' {
		kind = Float
		dot := i
		for i++; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
		}
		if i == dot+1 {
			return i, Null, unexpected(s, i, "a digit after the point")
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		kind, exponent = Float, true
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		e := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		if i == e {
			return i, Null, unexpected(s, i, "a digit of the exponent")
		}
	}
	switch {
	case kind == Int && digits >= 19:
		if _, err := strconv.ParseInt(s[at:i], 10, 64); err != nil {
			kind = Number
		}
	case kind == Float && (exponent || digits > 300):
		if _, err := strconv.ParseFloat(s[at:i], 64); errors.Is(err, strconv.ErrRange) {
			kind = Number
		}
	}
	return i, kind, nil
}

// parseInt reads an integer of which scanNumber has said that it fits.
func parseInt(s string) int64 {
	i, negative := 0, s[0] == '-'
	if negative {
		i = 1
	}
	var n uint64
	for ; i < len(s); i++ {
		n = n*10 + uint64(s[i]-'0')
	}
	if negative {
		return -int64(n)
	}
	return int64(n)
}
