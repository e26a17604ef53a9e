package flowdef

import (
	"slices"
	"strings"
)

// nearest returns the known name that is most like the given one, or "" if none is like it.
func nearest(name string, known []string) string {
	best, bestDist := "", 0
	lower := []rune(strings.ToLower(name))
	if len(lower) == 0 || len(lower) > maxName {
		return ""
	}
	limit := max(1, len(lower)/3)
	if len(lower) > 4 {
		limit = max(2, limit)
	}
	for _, k := range slices.Sorted(slices.Values(known)) {
		r := []rune(strings.ToLower(k))
		if len(r) > maxName || len(r)-len(lower) > limit || len(lower)-len(r) > limit {
			continue
		}
		d := distance(lower, r)
		if d <= limit && (best == "" || d < bestDist) {
			best, bestDist = k, d
		}
	}
	return best
}

// didYouMean returns a hint: the nearest known name, else the known names if they are few.
func didYouMean(name string, known []string) string {
	if n := nearest(name, known); n != "" {
		return "did you mean " + quote(n) + "?"
	}
	if n := holding(name, known); n != "" {
		return "did you mean " + quote(n) + "?"
	}
	return knownNames(known)
}

// holding returns the only known name that holds the given one, or that it holds; "" if there is none.
func holding(name string, known []string) string {
	found := ""
	for _, k := range known {
		a, b := strings.ToLower(name), strings.ToLower(k)
		if min(len(a), len(b)) >= 4 && (strings.Contains(a, b) || strings.Contains(b, a)) {
			if found != "" {
				return ""
			}
			found = k
		}
	}
	return found
}

// knownNames lists names for a hint, the first ten of them.
func knownNames(known []string) string {
	if len(known) == 0 {
		return ""
	}
	names := slices.Compact(slices.Sorted(slices.Values(known)))
	more := ""
	if len(names) > 10 {
		names, more = names[:10], ", ..."
	}
	return "known: " + strings.Join(names, ", ") + more
}

// distance is the number of characters to insert, delete, replace or swap with their neighbour to make a
// into b.
func distance(a, b []rune) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i, x := range a {
		cur[0] = i + 1
		for j, y := range b {
			cost := 1
			if x == y {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
			if i > 0 && j > 0 && x == b[j-1] && a[i-1] == y {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
