package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printJSON prints one value for programs.
func (a *app) printJSON(v any) error {
	b, err := compactJSON(v)
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		return err
	}
	pretty.WriteByte('\n')
	_, err = a.out.Write(pretty.Bytes())
	return err
}

// compactJSON is a value as JSON, with < and > as they are.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// printFields prints names and values in two columns; a value of several lines is indented below its name.
func (a *app) printFields(fields [][2]string) error {
	w := bufio.NewWriter(a.out)
	wide := 0
	for _, f := range fields {
		if !strings.Contains(f[1], "\n") {
			wide = max(wide, width(f[0]))
		}
	}
	for _, f := range fields {
		if text := strings.TrimSuffix(f[1], "\n"); strings.Contains(f[1], "\n") {
			fmt.Fprintf(w, "%s\n", f[0])
			for line := range strings.SplitSeq(text, "\n") {
				fmt.Fprintf(w, "    %s\n", clean(line))
			}
			continue
		}
		fmt.Fprintln(w, strings.TrimRight(padRight(f[0], wide)+"  "+clean(f[1]), " "))
	}
	return w.Flush()
}

// table prints rows in aligned columns. Columns named in right are numbers.
type table struct {
	head   []string
	right  map[int]bool
	widths []int
	begun  bool
}

// newTable makes a table; a column whose head starts with "#" holds numbers.
func newTable(head ...string) *table {
	t := &table{right: map[int]bool{}, widths: make([]int, len(head))}
	for i, h := range head {
		name, number := strings.CutPrefix(h, "#")
		t.head = append(t.head, name)
		t.right[i] = number
	}
	return t
}

// print prints rows below those that were printed before.
func (t *table) print(out io.Writer, rows [][]string) error {
	w := bufio.NewWriter(out)
	if !t.begun {
		rows = append([][]string{t.head}, rows...)
		t.begun = true
	}
	for _, row := range rows {
		for i := range row {
			row[i] = clean(row[i])
			t.widths[i] = max(t.widths[i], width(row[i]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			if t.right[i] {
				line.WriteString(strings.Repeat(" ", t.widths[i]-width(cell)))
				line.WriteString(cell)
			} else {
				line.WriteString(padRight(cell, t.widths[i]))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	return w.Flush()
}

func padRight(s string, n int) string { return s + strings.Repeat(" ", max(0, n-width(s))) }

// clean makes text safe for a terminal and fit for one line: what is no printable character is escaped.
func clean(s string) string {
	plain := true
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case unicode.IsPrint(r), unicode.In(r, unicode.Mn, unicode.Me):
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// width is how many cells of a terminal a text takes: the scripts of East Asia and emoji take two a
// character, marks that stand on another one none.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case r < 0x300:
			n++
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case r >= 0x1100 && r <= 0x115F, r >= 0x2E80 && r <= 0x303E, r >= 0x3041 && r <= 0x4DBF,
			r >= 0x4E00 && r <= 0xA4CF, r >= 0xA960 && r <= 0xA97C, r >= 0xAC00 && r <= 0xD7A3, r >= 0xF900 && r <= 0xFAFF,
			r >= 0xFE30 && r <= 0xFE6F, r >= 0xFF00 && r <= 0xFF60, r >= 0xFFE0 && r <= 0xFFE6,
			r >= 0x1F300 && r <= 0x1F64F, r >= 0x1F680 && r <= 0x1F6FF, r >= 0x1F900 && r <= 0x1F9FF, r >= 0x20000 && r <= 0x3FFFD:
			n += 2
		default:
			n++
		}
	}
	return n
}

// cut shortens a text to n cells for a table.
func cut(s string, n int) string {
	if width(s) <= n {
		return s
	}
	w := 0
	for i, r := range s {
		if w += width(string(r)); w > n-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// when is a time for people: local, to the second; "-" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// span is a time span for people.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d <= 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// size is a number of bytes for people.
func size[N int | int64 | uint64](n N) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/1024, []string{"KiB", "MiB", "GiB", "TiB"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}

// dash is "-" for an empty text.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// fieldsOf is a JSON object as people write a key: userid=7 name="a b".
func fieldsOf(object json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return string(object)
	}
	var out []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return string(object)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return string(object)
		}
		text := string(value)
		var s string
		if json.Unmarshal(value, &s) == nil && plainValue(s) {
			text = s
		}
		out = append(out, fmt.Sprintf("%v=%s", name, text))
	}
	return strings.Join(out, " ")
}

// plainValue tells whether a string reads as itself where a key is written: not as a number or other JSON.
func plainValue(s string) bool {
	return s != "" && !json.Valid([]byte(s)) && !strings.ContainsFunc(s, func(r rune) bool { return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r) })
}
