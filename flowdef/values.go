package flowdef

import (
	"fmt"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// quote writes a name in double quotes, shortened, for a message; other scripts than Latin stay readable.
func quote(s string) string {
	r := []rune(s)
	if len(r) > 80 {
		s = string(r[:77]) + "..."
	}
	return strconv.Quote(s)
}

var units = []struct {
	name string
	d    time.Duration
}{ // the longer names first: "ms" is not "m"
	{"ms", time.Millisecond}, {"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second},
}

// parseDuration reads "7d", "12h", "1h30m", "500ms". Zero is "0" or "0s".
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if s == "" {
		return 0, fmt.Errorf("is empty")
	}
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("is negative")
	}
	var total time.Duration
	rest := s
	for rest != "" {
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n == 0 {
			return 0, fmt.Errorf("is not a duration")
		}
		v, err := strconv.ParseInt(rest[:n], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("is too long")
		}
		rest = rest[n:]
		if rest == "" {
			return 0, fmt.Errorf("has no unit")
		}
		unit := time.Duration(0)
		for _, u := range units {
			if strings.HasPrefix(rest, u.name) {
				unit, rest = u.d, rest[len(u.name):]
				break
			}
		}
		if unit == 0 {
			return 0, fmt.Errorf("is not a duration")
		}
		if v > int64((math.MaxInt64-total)/unit) {
			return 0, fmt.Errorf("is too long")
		}
		total += time.Duration(v) * unit
	}
	return total, nil
}

var sizeUnits = map[string]int64{
	"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}

// parseSize reads "10GiB", "64 MB", "4096".
func parseSize(s string) (int64, error) {
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("is negative")
	}
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	unit, known := sizeUnits[strings.ToUpper(strings.TrimSpace(s[n:]))]
	if n == 0 || !known {
		return 0, fmt.Errorf("is not a size")
	}
	v, err := strconv.ParseInt(s[:n], 10, 64)
	if err != nil || v > math.MaxInt64/unit {
		return 0, fmt.Errorf("is too large")
	}
	return v * unit, nil
}

// parseInt reads a whole number as YAML writes it: 10, 1_000, 0x1F, and 2.0.
func parseInt(s string) (int64, error) {
	s = strings.ReplaceAll(s, "_", "")
	v, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		if f, ferr := strconv.ParseFloat(s, 64); ferr == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
	}
	return v, err
}

// parseBool reads a truth value, in the words of YAML 1.1 as well.
func parseBool(n *node) (bool, bool) {
	if n.kind != scalarNode || n.raw != nil && n.raw.style != plain {
		return false, false
	}
	switch strings.ToLower(n.text) {
	case "true", "yes", "on", "y":
		return true, true
	case "false", "no", "off", "n":
		return false, true
	}
	return false, false
}

// checkName says what is wrong with a name, or "".
func checkName(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxName:
		return fmt.Sprintf("has %d bytes; a name has at most %d", len(s), maxName)
	case strings.TrimSpace(s) != s:
		return "begins or ends with a blank"
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return fmt.Sprintf("holds the control character %U", r)
		}
	}
	return ""
}

// ownWord begins the subjects and the stream names of KisFlow itself.
const ownWord = "KISFLOW"

// maxSubject is the most bytes of a subject; the server's protocol line holds 4,096 with all the rest.
const maxSubject = 1024

var template = regexp.MustCompile(`\{([^{}]*)\}`)

// subjectFault is what is wrong with a subject, and at which byte of it.
type subjectFault struct {
	offset        int
	message, hint string
}

// checkSubject checks a subject by the rules of NATS. Wildcards are for entries, {field} for expands.
func checkSubject(s string, wildcards, fields bool) *subjectFault {
	fault := func(offset int, message, hint string) *subjectFault {
		return &subjectFault{offset, message, hint}
	}
	switch {
	case s == "":
		return fault(0, "is empty", "name it like orders.new")
	case len(s) > maxSubject:
		return fault(0, fmt.Sprintf("has %d bytes; at most %d", len(s), maxSubject), "")
	case s[0] == '$':
		return fault(0, "begins with $, which belongs to the server", "")
	case s == ownWord || strings.HasPrefix(s, ownWord+"."):
		return fault(0, "begins with "+ownWord+", which belongs to KisFlow itself", "")
	case wildcards && s == ">":
		return fault(0, "reads everything, also what the server and KisFlow say to themselves", "begin with a word, like orders.>")
	}
	for i, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return fault(i, "holds a blank", "words are joined by dots")
		}
	}
	if fields {
		open := -1
		for i, r := range s {
			switch {
			case r == '{' && open >= 0, r == '}' && open < 0:
				return fault(i, "has braces that do not pair", "a field of the row is written {field}")
			case r == '{':
				open = i
			case r == '}' && i == open+1:
				return fault(open, "has an empty {}", "a field of the row is written {field}")
			case r == '}':
				open = -1
			}
		}
		if open >= 0 {
			return fault(open, "has braces that do not pair", "a field of the row is written {field}")
		}
	}
	plain := template.ReplaceAllStringFunc(s, func(f string) string {
		if fields {
			return strings.Repeat("x", len(f)) // a dot in a field's name is no dot of the subject
		}
		return f
	})
	at := 0
	tokens := strings.Split(plain, ".")
	for i, t := range tokens {
		switch {
		case t == "":
			return fault(min(at, len(s)-1), "has an empty word", "there is a dot too many")
		case t == "*" || t == ">":
			if !wildcards {
				return fault(at, "holds the wildcard "+t, "only an entry may; here a subject is one place")
			}
			if t == ">" && i < len(tokens)-1 {
				return fault(at, "holds > before its end", "> stands for all the rest; use * for one word")
			}
		case wildcards && strings.ContainsAny(t, "*>"):
			return fault(at+strings.IndexAny(t, "*>"), "holds a wildcard inside of a word", "* and > stand alone between dots")
		case !wildcards && strings.ContainsAny(t, "*>"):
			return fault(at+strings.IndexAny(t, "*>"), "holds a wildcard", "only an entry may; here a subject is one place")
		case !fields && strings.ContainsAny(t, "{}"):
			return fault(at+strings.IndexAny(t, "{}"), "holds a {field}", "only an expand may")
		}
		at += len(t) + 1
	}
	return nil
}

// overlap says how surely a message of an expand's subject arrives at an entry's.
type overlap int

const (
	never overlap = iota
	maybe         // for some values of a {field}
	always
)

// subjectWords splits a subject at its dots; a {field} is {} in it.
func subjectWords(s string) []string {
	if strings.Contains(s, "{") {
		s = template.ReplaceAllString(s, "{}")
	}
	return strings.Split(s, ".")
}

// overlaps compares the words of an expand's subject, which may hold {field}, with those of an entry's, which
// may hold wildcards.
func overlaps(out, in []string) overlap {
	result := always
	for i, w := range in {
		if w == ">" {
			if len(out) > i {
				return result
			}
			return never
		}
		if i >= len(out) {
			return never
		}
		switch {
		case w == "*" || w == out[i]:
		case strings.Contains(out[i], "{}"):
			parts := strings.Split(out[i], "{}")
			if len(w) < len(out[i])-2*(len(parts)-1) || !strings.HasPrefix(w, parts[0]) || !strings.HasSuffix(w, parts[len(parts)-1]) {
				return never
			}
			result = maybe
		default:
			return never
		}
	}
	if len(out) > len(in) {
		return never
	}
	return result
}

// intersect tells whether two entries may read the same message.
func intersect(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		switch {
		case i == len(x) || i == len(y):
			return len(x) == len(y)
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != y[i] && x[i] != "*" && y[i] != "*":
			return false
		}
	}
}

// usesNames returns the offset of the first of some names that an expression uses, or -1. It knows strings
// and members (x.row is no row), nothing else: the expression itself is checked elsewhere.
func usesNames(expr string, names ...string) (int, string) {
	word := func(c byte) bool {
		return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
	}
	for i := 0; i < len(expr); {
		switch c := expr[i]; {
		case c == '\'' || c == '"' || c == '`':
			i++
			for i < len(expr) && expr[i] != c {
				if expr[i] == '\\' && c != '`' {
					i++
				}
				i++
			}
			i++
		case word(c):
			from := i
			for i < len(expr) && word(expr[i]) {
				i++
			}
			before := strings.TrimRight(expr[:from], " ")
			if strings.HasSuffix(before, ".") && !strings.HasSuffix(before, "..") {
				continue
			}
			for _, n := range names {
				if expr[from:i] == n {
					return from, n
				}
			}
		default:
			i++
		}
	}
	return -1, ""
}

// checkAddress says what is wrong with an address to listen on, or "".
func checkAddress(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "is no address with a port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return "has no port from 0 to 65535"
	}
	if strings.ContainsAny(host, " \t/") {
		return "has no host name"
	}
	return ""
}
