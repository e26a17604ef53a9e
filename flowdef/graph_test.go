package flowdef

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// randomNet is a set of flows that save, load, send and read at random.
func randomNet(r *rand.Rand) *Set {
	set := &Set{}
	var b strings.Builder
	flows, places := 1+r.IntN(6), 1+r.IntN(5)
	for i := range flows {
		fmt.Fprintf(&b, "kistype: flow\nstatus: 1\nflow_name: F%d\n", i)
		if r.IntN(2) == 0 {
			fmt.Fprintf(&b, "entry: s.%d\n", r.IntN(places))
		}
		b.WriteString("flows:\n")
		for j := range 1 + r.IntN(3) {
			fmt.Fprintf(&b, "  - {fname: %s%d, as: x%d}\n", []string{"save", "load", "send"}[r.IntN(3)], r.IntN(places), j)
		}
		b.WriteString("---\n")
	}
	for i := range places {
		fmt.Fprintf(&b, "kistype: func\nfname: save%d\nfmode: Save\nsave: {handoff: h%d, shared: true}\n---\n", i, i)
		fmt.Fprintf(&b, "kistype: func\nfname: load%d\nfmode: Load\nload: {handoff: h%d}\n---\n", i, i)
		fmt.Fprintf(&b, "kistype: func\nfname: send%d\nfmode: Expand\nexpand: {subject: s.%d, shared: true}\n---\n", i, i)
	}
	if m := Parse("f", []byte(strings.TrimSuffix(b.String(), "---\n")), set); len(m) > 0 {
		panic(m.String())
	}
	return set
}

// reaches says which nodes a graph's nodes reach, by a plain search.
func reaches(next map[string][]string, from string) map[string]bool {
	seen := map[string]bool{}
	work := []string{from}
	for len(work) > 0 {
		at := work[0]
		work = work[1:]
		for _, to := range next[at] {
			if !seen[to] {
				seen[to] = true
				work = append(work, to)
			}
		}
	}
	return seen
}

// TestGraphLoops holds the marks of a graph, and the order and the marks of the links, to a plain search; and lint says
// of a net that it feeds itself just where the graph has a loop.
func TestGraphLoops(t *testing.T) {
	loops, none := 0, 0
	for seed := range uint64(600) {
		set := randomNet(rand.New(rand.NewPCG(seed, 5)))
		g := set.Graph(nil)
		next := map[string][]string{}
		known := map[string]bool{}
		for _, n := range g.Nodes {
			if known[n.ID] {
				t.Fatalf("seed %d: %s stands twice", seed, n.ID)
			}
			known[n.ID] = true
		}
		for _, e := range g.Edges {
			if !known[e.From] || !known[e.To] {
				t.Fatalf("seed %d: an edge from %q to %q", seed, e.From, e.To)
			}
			next[e.From] = append(next[e.From], e.To)
		}
		loop := false
		for _, e := range g.Edges {
			if back := reaches(next, e.To)[e.From]; back != e.Loop {
				t.Fatalf("seed %d: %+v, and a search says %v\n%s", seed, e, back, g.Text())
			}
			loop = loop || e.Loop
		}
		said := false
		for _, m := range set.Check(CheckOptions{}) {
			said = said || m.Code == codeLoop || m.Code == codeMayLoop
		}
		if said != loop {
			t.Fatalf("seed %d: lint says %v\n%s", seed, said, g.Text())
		}
		if loop {
			loops++
		} else {
			none++
		}

		order, links := set.Links(nil)
		place, between := map[*Flow]int{}, map[string][]string{}
		for i, f := range order {
			place[f] = i
		}
		for _, l := range links {
			between[l.From.Name] = append(between[l.From.Name], l.To.Name)
		}
		for _, l := range links {
			if back := reaches(between, l.To.Name)[l.From.Name]; back != l.Back {
				t.Fatalf("seed %d: a link from %s to %s: back %v, and a search says %v", seed, l.From.Name, l.To.Name, l.Back, back)
			}
		}
		if len(place) != len(set.Flows) {
			t.Fatalf("seed %d: %d flows in order, of %d", seed, len(place), len(set.Flows))
		}
		// Without ways back, who gives comes before who gets.
		if !slices.ContainsFunc(links, func(l Link) bool { return l.Back }) {
			for _, l := range links {
				if place[l.From] >= place[l.To] {
					t.Fatalf("seed %d: %s comes behind %s, which it feeds", seed, l.From.Name, l.To.Name)
				}
			}
		}
	}
	if loops < 50 || none < 50 {
		t.Errorf("%d nets with loops, %d without: the test tests little", loops, none)
	}
}

// TestGraphForms sees that names of any text stay labels in every form.
func TestGraphForms(t *testing.T) {
	set := &Set{}
	if m := Parse("f", []byte("kistype: flow\nstatus: 1\nflow_name: 'a \"b\" <c> # `d` \\ 流'\nentry: a.b\nflows: [{fname: 'x\"]; n0 --> n1'}]\n---\nkistype: func\nfname: 'x\"]; n0 --> n1'\nfmode: Verify\n"), set); len(m) > 0 {
		t.Fatal(m)
	}
	g := set.Graph(nil)
	for form, want := range map[string]string{
		g.Text():    "flow a \"b\" <c> # `d` \\ 流\n  entry a.b\n  x\"]; n0 --> n1 (Verify)\n",
		g.Mermaid(): "flowchart LR\n  subgraph f0[\"a #quot;b#quot; #lt;c#gt; #35; #96;d#96; \\ 流\"]\n    n0([\"a.b\"])\n    n1[\"x#quot;]; n0 --#gt; n1 (Verify)\"]\n  end\n  n0 --> n1\n",
		g.DOT(): "digraph kisflow {\n  rankdir=LR;\n  node [shape=box];\n  subgraph cluster_0 {\n    label=\"a \\\"b\\\" <c> # `d` \\\\ 流\";\n    n0 [shape=cds, label=\"a.b\"];\n" +
			"    n1 [shape=box, label=\"x\\\"]; n0 --> n1 (Verify)\"];\n  }\n  n0 -> n1;\n}\n",
		(&Set{}).Graph(nil).Text(): "no flows\n",
	} {
		if form != want {
			t.Errorf("%s\nwant\n%s", form, want)
		}
	}
}
