package flowdef

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Severity says whether a mistake forbids to apply the definitions.
type Severity int

const (
	// Error is a definition that cannot be applied.
	Error Severity = iota
	// Warning is a definition that can be applied, and probably is not meant so.
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// MarshalText writes the severity as String does.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Mistake is one thing that is wrong at one place of a definition.
type Mistake struct {
	Pos
	Severity Severity
	Code     string // stable, of Codes, e.g. KF1012
	Message  string // what is wrong, in lower case
	Hint     string // what would be right; may be ""
	Line     string // the source line of Pos; "" if it is not known
}

// NewMistake returns a mistake at a place, with its source line. The code must be one of Codes, which gives
// the severity as well.
func NewMistake(pos Pos, code, message, hint string) Mistake {
	m := Mistake{Pos: pos, Severity: severityOf(code), Code: code, Message: message, Hint: hint}
	if pos.src != nil {
		m.Line = pos.src.line(pos.Line)
	}
	return m
}

// Error returns the mistake in one line: file:line:col: message (hint) [code].
func (m Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.head())
	if m.Hint != "" {
		fmt.Fprintf(&b, " (%s)", m.Hint)
	}
	return b.String()
}

// String returns the mistake for a person: its line, the source line with a mark under the place, the hint.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.head())
	if m.Line != "" {
		line, column := window(m.Line, m.Column)
		fmt.Fprintf(&b, "\n    %s\n    %s^", strings.ReplaceAll(line, "\t", " "), pad(line, column))
	}
	if m.Hint != "" {
		fmt.Fprintf(&b, "\n    hint: %s", m.Hint)
	}
	return b.String()
}

func (m Mistake) head() string {
	place := m.Pos.String()
	if m.Pos.Line == 0 {
		place = m.File // the file itself
	}
	if m.Severity == Warning {
		return fmt.Sprintf("%s: warning: %s [%s]", place, m.Message, m.Code)
	}
	return fmt.Sprintf("%s: %s [%s]", place, m.Message, m.Code)
}

// maxLine is the most characters of a source line that a mistake shows.
const maxLine = 160

// window cuts a very long line to the surroundings of a column.
func window(line string, column int) (string, int) {
	if utf8.RuneCountInString(line) <= maxLine {
		return line, column
	}
	r := []rune(line)
	from := min(max(0, column-1-maxLine/2), len(r)-maxLine)
	return string(r[from : from+maxLine]), column - from
}

// pad returns as many blanks as the line takes up on a terminal before the column.
func pad(line string, column int) string {
	var b strings.Builder
	n := 1
	for _, r := range line {
		if n >= column {
			break
		}
		b.WriteByte(' ')
		if wide(r) {
			b.WriteByte(' ')
		}
		n++
	}
	return b.String()
}

// wide tells whether a terminal draws a character in two cells, as it does the scripts of East Asia.
func wide(r rune) bool {
	switch {
	case r < 0x1100:
		return false
	case r <= 0x115F, r >= 0x2E80 && r <= 0x303E, r >= 0x3041 && r <= 0x33FF, r >= 0x3400 && r <= 0x4DBF,
		r >= 0x4E00 && r <= 0x9FFF, r >= 0xA000 && r <= 0xA4CF, r >= 0xAC00 && r <= 0xD7A3,
		r >= 0xF900 && r <= 0xFAFF, r >= 0xFE30 && r <= 0xFE6F, r >= 0xFF00 && r <= 0xFF60,
		r >= 0xFFE0 && r <= 0xFFE6, r >= 0x1F300 && r <= 0x1F64F, r >= 0x1F900 && r <= 0x1F9FF,
		r >= 0x20000 && r <= 0x3FFFD:
		return true
	}
	return false
}

// Mistakes are all that is wrong with some definitions.
type Mistakes []Mistake

// Sort orders mistakes by file, line, column and code.
func (ms Mistakes) Sort() {
	slices.SortStableFunc(ms, func(a, b Mistake) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if c := a.Pos.Line - b.Pos.Line; c != 0 {
			return c
		}
		if c := a.Column - b.Column; c != 0 {
			return c
		}
		return strings.Compare(a.Code, b.Code)
	})
}

// Errors returns those that forbid to apply.
func (ms Mistakes) Errors() Mistakes { return ms.only(Error) }

// Warnings returns those that do not.
func (ms Mistakes) Warnings() Mistakes { return ms.only(Warning) }

func (ms Mistakes) only(s Severity) Mistakes {
	var out Mistakes
	for _, m := range ms {
		if m.Severity == s {
			out = append(out, m)
		}
	}
	return out
}

// Err returns all mistakes of severity Error as one error, one a line, or nil if there are only warnings.
func (ms Mistakes) Err() error {
	var errs []error
	for _, m := range ms.Errors() {
		errs = append(errs, m)
	}
	return errors.Join(errs...)
}

// String returns all mistakes for a person, an empty line between them and a line break at the end.
func (ms Mistakes) String() string {
	var b strings.Builder
	for i, m := range ms {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.String())
		b.WriteByte('\n')
	}
	return b.String()
}
