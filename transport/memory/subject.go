package memory

import "strings"

func wild(subject string) bool { return strings.ContainsAny(subject, "*>") }

func token(s string) (first, rest string) {
	if i := strings.IndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// Match tells whether a subject without wildcards is one of the pattern's.
func Match(pattern, subject string) bool {
	if pattern == subject {
		return true
	}
	var p, s string
	for pattern != "" && subject != "" {
		p, pattern = token(pattern)
		if p == ">" {
			return true
		}
		s, subject = token(subject)
		if p != "*" && p != s {
			return false
		}
	}
	return pattern == "" && subject == ""
}

// Covers tells whether every subject of narrow is one of wide's.
func Covers(wide, narrow string) bool {
	var w, n string
	for wide != "" && narrow != "" {
		w, wide = token(wide)
		n, narrow = token(narrow)
		switch {
		case w == ">":
			return true
		case n == ">", w != "*" && w != n:
			return false
		}
	}
	return wide == "" && narrow == ""
}

// Overlap tells whether some subject is one of both.
func Overlap(a, b string) bool {
	var x, y string
	for a != "" && b != "" {
		x, a = token(a)
		y, b = token(b)
		switch {
		case x == ">" || y == ">":
			return true
		case x != "*" && y != "*" && x != y:
			return false
		}
	}
	return a == "" && b == ""
}
