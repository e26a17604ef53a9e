package flowdef

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// input is a place where rows come into an enabled flow: an entry or a Load.
type input struct {
	flow  *Flow
	step  int // the first step that sees the rows
	entry int // of the flow's entries, unless load
	name  string
	load  bool

	words []string // of an entry's subject
}

// output is a place where rows leave a flow: an Expand or a Save.
type output struct {
	flow *Flow
	step int
	name Text
	save bool
	when bool // some rows only

	words []string // of an Expand's subject
}

// edge says that what comes in at one input leaves the flow and comes in at another.
type edge struct {
	to   int
	via  output
	sure bool
}

// loops reports flows that feed themselves, directly or through others, unless one of them declares it.
func (c *checker) loops() {
	ins, outs := c.set.ends(c.opts.GoFunctions, false)
	graph := make([][]edge, len(ins))
	index := indexInputs(ins)
	for _, out := range outs {
		if out.flow.Loop != nil {
			continue // a way around over this flow has its end
		}
		for to, sure := range index.reached(out, ins) {
			for _, from := range index.flows[out.flow] {
				if ins[from].step <= out.step {
					graph[from] = append(graph[from], edge{to: to, via: out, sure: sure == always && !out.when})
				}
			}
		}
	}
	for i := range graph {
		slices.SortStableFunc(graph[i], func(a, b edge) int { return a.to - b.to })
	}
	told := make([]bool, len(ins))
	for _, sure := range []bool{true, false} {
		for _, cycle := range cycles(graph, sure) {
			if !slices.ContainsFunc(cycle, func(i int) bool { return told[i] }) {
				c.loop(ins, graph, cycle, sure)
				for _, i := range cycle {
					told[i] = true
				}
			}
		}
	}
}

// ends returns the places where rows come into flows and leave them, in the order of the flows: of the enabled
// ones, or of all.
func (s *Set) ends(goFunctions map[string]bool, all bool) (ins []input, outs []output) {
	for _, flow := range s.Flows {
		if !flow.Enabled && !all {
			continue
		}
		for i, e := range flow.Entries {
			if checkSubject(e.Subject.Value, true, false) != nil {
				continue
			}
			ins = append(ins, input{flow: flow, entry: i, name: e.Subject.Value, words: subjectWords(e.Subject.Value)})
		}
		for i, step := range flow.Steps {
			f := s.Funcs[step.Function.Value]
			if f == nil {
				continue
			}
			h, handoff := s.Handoff(f)
			switch {
			case handoff && f.Mode == "Load":
				ins = append(ins, input{flow: flow, step: i + 1, name: h.Value, load: true})
			case handoff && !goFunctions[f.Name]: // Go code saves where it likes
				outs = append(outs, output{flow: flow, step: i, name: Text{Value: h.Value, Pos: step.Function.Pos}, save: true})
			case f.Mode == "Expand" && f.Expand != nil && checkSubject(f.Expand.Subject.Value, false, true) == nil:
				outs = append(outs, output{flow: flow, step: i, name: f.Expand.Subject, when: f.Expand.When.Value != "", words: subjectWords(f.Expand.Subject.Value)})
			}
			if late := f.LateSubject(); late.Value != "" && !goFunctions[f.Name] && checkSubject(late.Value, false, true) == nil {
				outs = append(outs, output{flow: flow, step: i, name: late, when: true, words: subjectWords(late.Value)})
			}
		}
	}
	return ins, outs
}

// inputIndex finds the inputs that an output may reach without comparing it with all.
type inputIndex struct {
	handoffs map[string][]int
	words    map[string][]int // by the subject's first word
	wild     []int            // whose first word is a wildcard
	entries  []int
	flows    map[*Flow][]int // the inputs of each flow
}

func indexInputs(ins []input) inputIndex {
	x := inputIndex{handoffs: map[string][]int{}, words: map[string][]int{}, flows: map[*Flow][]int{}}
	for i, in := range ins {
		x.flows[in.flow] = append(x.flows[in.flow], i)
		first, _, _ := strings.Cut(in.name, ".")
		switch {
		case in.load:
			x.handoffs[in.name] = append(x.handoffs[in.name], i)
			continue
		case first == "*" || first == ">":
			x.wild = append(x.wild, i)
		default:
			x.words[first] = append(x.words[first], i)
		}
		x.entries = append(x.entries, i)
	}
	return x
}

// reached yields the inputs that an output reaches, and how surely.
func (x inputIndex) reached(out output, ins []input) iter.Seq2[int, overlap] {
	return func(yield func(int, overlap) bool) {
		for _, to := range x.candidates(out) {
			sure := always
			if !out.save {
				sure = overlaps(out.words, ins[to].words)
			}
			if sure != never && !yield(to, sure) {
				return
			}
		}
	}
}

func (x inputIndex) candidates(out output) []int {
	if out.save {
		return x.handoffs[out.name.Value]
	}
	first, _, _ := strings.Cut(out.name.Value, ".")
	if strings.Contains(first, "{") {
		return x.entries
	}
	return append(slices.Clone(x.words[first]), x.wild...)
}

// cycles returns the inputs of each group that reach one another, in the order of the inputs; only over
// edges that are sure if so asked. (Tarjan's strongly connected components, without recursion.)
func cycles(graph [][]edge, sure bool) [][]int {
	n := len(graph)
	number, low := make([]int, n), make([]int, n)
	onStack := make([]bool, n)
	var stack []int
	var found [][]int
	next := 1
	type frame struct{ node, edge int }
	for root := range n {
		if number[root] != 0 {
			continue
		}
		work := []frame{{root, 0}}
		for len(work) > 0 {
			f := &work[len(work)-1]
			v := f.node
			if f.edge == 0 {
				number[v], low[v] = next, next
				next++
				stack, onStack[v] = append(stack, v), true
			}
			descended := false
			for f.edge < len(graph[v]) {
				e := graph[v][f.edge]
				f.edge++
				if sure && !e.sure {
					continue
				}
				if number[e.to] == 0 {
					work = append(work, frame{e.to, 0})
					descended = true
					break
				}
				if onStack[e.to] {
					low[v] = min(low[v], number[e.to])
				}
			}
			if descended {
				continue
			}
			if low[v] == number[v] {
				var group []int
				for {
					w := stack[len(stack)-1]
					stack, onStack[w] = stack[:len(stack)-1], false
					group = append(group, w)
					if w == v {
						break
					}
				}
				self := slices.ContainsFunc(graph[v], func(e edge) bool { return e.to == v && (e.sure || !sure) })
				if len(group) > 1 || self {
					slices.Sort(group)
					found = append(found, group)
				}
			}
			work = work[:len(work)-1]
			if len(work) > 0 {
				p := work[len(work)-1].node
				low[p] = min(low[p], low[v])
			}
		}
	}
	slices.SortFunc(found, func(a, b []int) int { return a[0] - b[0] })
	return found
}

// loop reports the shortest way around from the first input of a group.
func (c *checker) loop(ins []input, graph [][]edge, group []int, sure bool) {
	start := group[0]
	type step struct {
		from int
		e    edge
	}
	came := map[int]step{}
	queue := []int{start}
	for len(queue) > 0 && came[start].e.via.flow == nil {
		v := queue[0]
		queue = queue[1:]
		for _, e := range graph[v] {
			if sure && !e.sure || !slices.Contains(group, e.to) {
				continue
			}
			if _, seen := came[e.to]; !seen {
				came[e.to] = step{v, e}
				queue = append(queue, e.to)
			}
		}
	}
	var path []edge
	for v := start; ; {
		s := came[v]
		path = append(path, s.e)
		if v = s.from; v == start {
			break
		}
	}
	slices.Reverse(path)
	var told []string
	for i, e := range path {
		if i == 5 && len(path) > 6 {
			told = append(told, fmt.Sprintf("... %d more", len(path)-i))
			break
		}
		sends, reads := "sends", "reads"
		if e.via.save {
			sends, reads = "saves", "loads"
		}
		told = append(told, fmt.Sprintf("%s %s %s and %s %s it", quote(e.via.flow.Name), sends, e.via.name.Value, quote(ins[e.to].flow.Name), reads))
	}
	code, message, hint := codeLoop, "flow %s feeds itself: %s", "send it elsewhere, or say in the flow how often an event may pass it: loop: {most: 10}"
	if !sure {
		code, message, hint = codeMayLoop, "flow %s may feed itself: %s", "check that this ends, or say in the flow how often an event may pass it: loop: {most: 10}"
	}
	c.report(sure, path[0].via.name.Pos, code, fmt.Sprintf(message, quote(path[0].via.flow.Name), strings.Join(told, "; ")), hint)
}
