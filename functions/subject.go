package functions

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/kisflow/kisflow/kis"
)

// maxSubject is the most bytes that a subject may have.
const maxSubject = 1024

// subject is a subject with places for values: text, field, text, field, ..., text.
type subject struct {
	texts  []string
	fields []string
}

// subject checks what Expand.Subject says.
func (b *builder) subject(path, source string) subject {
	var s subject
	if source == "" {
		b.wrong(path, "as in totals.user or totals.{userid}", "an Expand needs a subject")
		return s
	}
	rest, sample := source, ""
	for {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			break
		}
		if end := strings.IndexAny(rest[open+1:], "{}"); rest[open] == '}' || end < 0 || rest[open+1+end] == '{' {
			b.mistakes = append(b.mistakes, Mistake{Path: path, Column: len(source) - len(rest) + open + 1, Message: "a brace without its other one", Hint: "a value stands as {field}"})
			return s
		} else if end == 0 {
			b.mistakes = append(b.mistakes, Mistake{Path: path, Column: len(source) - len(rest) + open + 1, Message: "braces without a field", Hint: "a value stands as {field}"})
			return s
		} else {
			s.texts = append(s.texts, rest[:open])
			s.fields = append(s.fields, rest[open+1:open+1+end])
			sample += rest[:open] + "x"
			rest = rest[open+end+2:]
		}
	}
	s.texts = append(s.texts, rest)
	sample += rest
	for token := range strings.SplitSeq(sample, ".") {
		if why := badToken(token); why != "" {
			b.wrong(path, "", "%q is no subject to publish to: a part %s", source, why)
			break
		}
	}
	if strings.HasPrefix(sample, "$") {
		b.wrong(path, "", "%q is no subject to publish to: what starts with $ belongs to NATS", source)
	}
	if len(sample) > maxSubject {
		b.wrong(path, "", "the subject has more than %d bytes", maxSubject)
	}
	return s
}

// badToken says what is wrong with what stands between two points of a subject, as a dot cannot.
func badToken(token string) string {
	if token == "" {
		return "is empty"
	}
	for _, r := range token {
		switch {
		case r == '*' || r == '>':
			return fmt.Sprintf("holds %c, which stands for other subjects", r)
		case r == '.':
			return "holds a point"
		case r <= ' ' || unicode.IsControl(r) || unicode.IsSpace(r):
			return fmt.Sprintf("holds the character %q", r)
		}
	}
	return ""
}

// of is the subject of a row.
func (s *subject) of(row *kis.Row) (string, error) {
	if len(s.fields) == 0 {
		return s.texts[0], nil
	}
	var room [128]byte
	b := room[:0]
	for i, name := range s.fields {
		b = append(b, s.texts[i]...)
		v, ok := row.Get(name)
		start := len(b)
		switch {
		case !ok:
			return "", fmt.Errorf("expand.subject: row.%s is missing", name)
		case v.Kind() == kis.String:
			b = append(b, v.Text()...)
		case v.Kind() == kis.Int || v.Kind() == kis.Bool:
			b = v.AppendJSON(b)
		default:
			return "", fmt.Errorf("expand.subject: row.%s is %s; a subject takes texts, integers, true and false", name, describe(v))
		}
		if len(b) > maxSubject {
			return "", fmt.Errorf("expand.subject: with row.%s the subject has more than %d bytes", name, maxSubject)
		}
		if why := badToken(string(b[start:])); why != "" {
			return "", fmt.Errorf("expand.subject: row.%s, %s, cannot be part of a subject: it %s", name, describe(v), why)
		}
	}
	if b = append(b, s.texts[len(s.texts)-1]...); b[0] == '$' {
		return "", fmt.Errorf("expand.subject: with row.%s the subject starts with $, which belongs to NATS", s.fields[0])
	}
	return string(b), nil
}
