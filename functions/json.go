package functions

import (
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// Arrays and objects are JSON text in a kis.Value, already checked, so walking them needs no checks of its own.

// elements walks an array's text.
type elements struct {
	text string
	at   int
}

// next returns the text of the next element.
func (e *elements) next() (string, bool) {
	e.at = skipSpace(e.text, e.at)
	switch e.text[e.at] {
	case '[', ',':
		e.at = skipSpace(e.text, e.at+1)
	}
	if e.text[e.at] == ']' {
		return "", false
	}
	start := e.at
	e.at = skipValue(e.text, start)
	return e.text[start:e.at], true
}

// members walks an object's text.
type members struct {
	text string
	at   int
}

// next returns the name (with its quotes) and the text of the value of the next member.
func (m *members) next() (name, value string, ok bool) {
	m.at = skipSpace(m.text, m.at)
	switch m.text[m.at] {
	case '{', ',':
		m.at = skipSpace(m.text, m.at+1)
	}
	if m.text[m.at] == '}' {
		return "", "", false
	}
	start := m.at
	m.at = skipString(m.text, start)
	name = m.text[start:m.at]
	m.at = skipSpace(m.text, skipSpace(m.text, m.at)+1) // the colon
	start = m.at
	m.at = skipValue(m.text, start)
	return name, m.text[start:m.at], true
}

// member returns the text of an object's member.
func member(object, name string) (string, bool) {
	for m := (members{text: object}); ; {
		n, v, ok := m.next()
		if !ok {
			return "", false
		}
		if sameName(n, name) {
			return v, true
		}
	}
}

func sameName(quoted, name string) bool {
	if strings.IndexByte(quoted, '\\') < 0 {
		return quoted[1:len(quoted)-1] == name
	}
	return decoded(quoted).Text() == name
}

// decoded reads a text that is known to be JSON.
func decoded(text string) kis.Value {
	v, err := kis.JSONValue(text)
	if err != nil {
		panic("functions: checked JSON is none: " + err.Error())
	}
	return v
}

func skipSpace(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
		i++
	}
	return i
}

func skipString(s string, i int) int {
	for i++; s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func skipValue(s string, i int) int {
	switch s[i] {
	case '"':
		return skipString(s, i)
	case '[', '{':
		for depth := 0; ; {
			switch s[i] {
			case '"':
				i = skipString(s, i)
				continue
			case '[', '{':
				depth++
			case ']', '}':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for i < len(s) {
		switch s[i] {
		case ',', ']', '}', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

// depth is how deep arrays and objects are nested in a text.
func depth(s string) int {
	most, now := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			i = skipString(s, i) - 1
		case '[', '{':
			now++
			most = max(most, now)
		case ']', '}':
			now--
		}
	}
	return most
}
