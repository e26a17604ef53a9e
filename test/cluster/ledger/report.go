package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind is how something is wrong.
type Kind string

// The kinds.
const (
	Lost       Kind = "lost"
	Doubled    Kind = "doubled"
	Foreign    Kind = "foreign" // nobody has sent it
	Misplaced  Kind = "out of order"
	Wrong      Kind = "wrong value"
	Unbalanced Kind = "not conserved"
	// StoredTwice is of an event that the entry stream took twice: its sender tried again because no acknowledgement
	// came, and the stream did not know it any more. To the flows these are two events.
	StoredTwice Kind = "stored twice by the entry"
)

// Finding is one thing that is not as it has to be.
type Finding struct {
	Kind  Kind
	Where string // what was looked at: "outputs of keys", "state Ledger/count"
	Key   int64
	What  string
	At    time.Time // about when it went wrong; zero: unknown
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: key %d: %s: %s", f.Where, f.Key, f.Kind, f.What)
}

// Report is what a check found.
type Report struct {
	Findings []Finding
	Checked  map[string]int // how much was compared, by what it is
}

func (r *Report) add(kind Kind, where string, key int64, at time.Time, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{kind, where, key, fmt.Sprintf(format, args...), at})
}

// Kinds counts the findings.
func (r *Report) Kinds() map[Kind]int {
	all := make(map[Kind]int)
	for _, f := range r.Findings {
		all[f.Kind]++
	}
	return all
}

// Without returns the findings that are of no such kind.
func (r *Report) Without(kinds ...Kind) []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return slices.Contains(kinds, f.Kind) })
}

// mostKeys is how many keys that differ a report shows.
const mostKeys = 20

// String shows what was checked, how much is wrong, and the findings of the first keys. Around says what was going on at
// a time; it may be nil.
func (r *Report) String() string { return r.Text(nil) }

// Text is String, with what was going on at the time of each key's first finding.
func (r *Report) Text(around func(time.Time) string) string {
	var b strings.Builder
	b.WriteString("checked:")
	for _, name := range sorted(r.Checked) {
		fmt.Fprintf(&b, " %d %s,", r.Checked[name], name)
	}
	if len(r.Findings) == 0 {
		b.WriteString(" all as it has to be\n")
		return b.String()
	}
	b.WriteString(" and found:")
	for _, k := range sorted(r.Kinds()) {
		fmt.Fprintf(&b, " %d %s,", r.Kinds()[k], k)
	}
	b.WriteString("\n")
	type place struct {
		where string
		key   int64
	}
	shown := make(map[place]int)
	for _, f := range r.Findings {
		p := place{f.Where, f.Key}
		if shown[p] == 0 && len(shown) == mostKeys {
			continue
		}
		shown[p]++
		if shown[p] > 3 {
			continue
		}
		fmt.Fprintf(&b, "  %s\n", f)
		if shown[p] == 1 && around != nil && !f.At.IsZero() {
			for line := range strings.Lines(around(f.At)) {
				b.WriteString("      " + line)
			}
		}
	}
	return b.String()
}

func sorted[K ~string, V any](m map[K]V) []K {
	var all []K
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

func cut(step string) (flow, name string, ok bool) { return strings.Cut(step, "/") }
