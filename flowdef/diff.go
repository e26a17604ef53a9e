package flowdef

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one definition that differs between two sets.
type Change struct {
	Change string   // added, changed, removed
	Kind   string   // flow, func, conn
	Name   string   //
	Lines  []string // the change as unified text: each begins with " ", "-", "+" or is a "..." of left out lines
}

// String returns the change as text: a head line and its lines.
func (c Change) String() string {
	sign := map[string]string{"added": "+", "changed": "~", "removed": "-"}[c.Change]
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", sign, c.Kind, c.Name)
	for _, l := range c.Lines {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	return b.String()
}

// Diff returns what changes from one set to another, by the definitions' text: connectors, functions and
// flows, each by name. A nil set is an empty one. Global is no part of it: it belongs to a node.
func Diff(from, to *Set) []Change {
	var out []Change
	for _, kind := range []string{"conn", "func", "flow"} {
		a, b := from.texts(kind), to.texts(kind)
		names := maps.Clone(a)
		maps.Copy(names, b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			x, before := a[name]
			y, after := b[name]
			c := Change{Change: "changed", Kind: kind, Name: name}
			switch {
			case before && after && same(x, y):
				continue
			case !before:
				c.Change = "added"
			case !after:
				c.Change = "removed"
			}
			c.Lines = unified(split(x), split(y))
			out = append(out, c)
		}
	}
	return out
}

// Definition is a definition as it is written.
type Definition struct {
	Kind, Name, Text string
}

// Definitions returns the text of all definitions but global: connectors, functions, flows, each by name.
func (s *Set) Definitions() []Definition {
	var out []Definition
	for _, kind := range []string{"conn", "func", "flow"} {
		texts := s.texts(kind)
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			out = append(out, Definition{kind, name, texts[name]})
		}
	}
	return out
}

// Export returns all definitions but global in one file, as they are written; parsed again, it gives the
// same definitions.
func (s *Set) Export() []byte {
	var b strings.Builder
	for i, d := range s.Definitions() {
		if i > 0 {
			b.WriteString("---\n")
		}
		b.WriteString(strings.TrimRight(d.Text, "\n") + "\n")
	}
	return []byte(b.String())
}

// Overlay returns a set with the definitions of s and, where a name is in both, those of over: what a node
// has after over is applied to it. The order of flows is that of s, new ones at the end. Neither set changes.
func (s *Set) Overlay(over *Set) *Set {
	out := &Set{Funcs: map[string]*Func{}, Conns: map[string]*Conn{}}
	if over != nil {
		out.found = over.found
	}
	for _, from := range []*Set{s, over} {
		if from == nil {
			continue
		}
		maps.Copy(out.Funcs, from.Funcs)
		maps.Copy(out.Conns, from.Conns)
		out.Global = cmp.Or(from.Global, out.Global)
		for _, f := range from.Flows {
			if i := slices.IndexFunc(out.Flows, func(g *Flow) bool { return g.Name == f.Name }); i >= 0 {
				out.Flows[i] = f
			} else {
				out.Flows = append(out.Flows, f)
			}
		}
	}
	return out
}

func (s *Set) texts(kind string) map[string]string {
	out := map[string]string{}
	if s == nil {
		return out
	}
	switch kind {
	case "flow":
		for _, f := range s.Flows {
			out[f.Name] = f.Source
		}
	case "func":
		for _, f := range s.Funcs {
			out[f.Name] = f.Text
		}
	case "conn":
		for _, c := range s.Conns {
			out[c.Name] = c.Text
		}
	}
	return out
}

// same compares two texts without blanks at the ends of lines.
func same(a, b string) bool { return slices.Equal(split(a), split(b)) }

func split(s string) []string {
	s = strings.TrimRight(s, " \t\n")
	if s == "" {
		return nil
	}
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t")
	}
	return lines
}

// maxDiff is the most lines of a text that are compared one by one: it takes time and memory by the square.
const maxDiff = 2_000

// around is the number of unchanged lines that are shown about a change.
const around = 2

// unified returns the lines of both texts, marked, without those far from any change.
func unified(a, b []string) []string {
	type line struct {
		sign byte
		text string
	}
	var lines []line
	add := func(sign byte, texts ...string) {
		for _, t := range texts {
			lines = append(lines, line{sign, t})
		}
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	add(' ', a[:head]...)
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	if len(x) > maxDiff || len(y) > maxDiff {
		add('-', x...)
		add('+', y...)
		x, y = nil, nil
	}
	// common[i][j] is the length of the longest common part of x[i:] and y[j:].
	common := make([][]int32, len(x)+1)
	for i := range common {
		common[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			add(' ', x[i])
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			add('-', x[i])
			i++
		default:
			add('+', y[j])
			j++
		}
	}
	add(' ', a[len(a)-tail:]...)

	near := make([]bool, len(lines))
	for n, l := range lines {
		if l.sign != ' ' {
			for k := max(0, n-around); k <= min(len(lines)-1, n+around); k++ {
				near[k] = true
			}
		}
	}
	var out []string
	for n, l := range lines {
		switch {
		case near[n]:
			out = append(out, strings.TrimRight(string(l.sign)+l.text, " "))
		case n == 0 || near[n-1]:
			out = append(out, "...")
		}
	}
	return out
}
