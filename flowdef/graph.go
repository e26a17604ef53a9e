package flowdef

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Graph is the net of all flows of a set: what comes in, the steps, what they hand to each other and send, and the
// ways of the rows between them. Nodes and edges stand in the order of the definitions.
type Graph struct {
	Nodes []GraphNode `json:"nodes"`
	Edges []GraphEdge `json:"edges"`
}

// Kinds of nodes.
const (
	NodeEntry     = "entry"     // a subject that a flow reads
	NodeStep      = "step"      // a function at a place of a flow
	NodeHandoff   = "handoff"   // what Saves write and Loads read
	NodeSubject   = "subject"   // what Expands send to
	NodeConnector = "connector" // the outside of a Save or a Load
)

// GraphNode is a place in the net.
type GraphNode struct {
	ID   string `json:"id"`   // unique in the graph, and the same as long as the names are
	Kind string `json:"kind"` // entry, step, handoff, subject or connector
	Name string `json:"name"`

	// Of entries and steps.
	Flow    string `json:"flow,omitempty"`
	Enabled bool   `json:"enabled"` // of the flow; of others: an enabled flow uses it
	// State is the flow's on a running node; "" in a graph of files.
	State string `json:"state,omitempty"`

	// Of steps.
	Function string   `json:"function,omitempty"`
	Mode     string   `json:"mode,omitempty"`
	Key      []string `json:"key,omitempty"` // the must fields

	Type string `json:"type,omitempty"` // of connectors
	Most int    `json:"most,omitempty"` // of steps and entries whose flow declares a loop: how often an event may pass
}

// GraphEdge is a way of rows from one node to another.
type GraphEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
	Kind string `json:"kind"` // next, enter, save, load, lookup, send or feed
	// Maybe: not all rows go here (a condition, or some values of a {field} only).
	Maybe bool `json:"maybe,omitempty"`
	// Loop: the way leads back to where it comes from.
	Loop bool `json:"loop,omitempty"`
}

// Kinds of edges.
const (
	EdgeEnter = "enter" // from an entry to a flow's first step
	EdgeNext  = "next"  // from a step to the next one
	EdgeSave  = "save"  // from a Save to a hand-off or a connector
	EdgeLoad  = "load"  // from a hand-off or a connector to a Load
	// EdgeLookup: from a hand-off to a Load that asks for its latest rows: no row goes that way.
	EdgeLookup = "lookup"
	EdgeSend   = "send" // from an Expand to a subject
	EdgeFeed   = "feed" // from a subject to an entry that reads it
)

// Graph returns the net of the flows of a set. The names of functions that Go code implements are goFunctions: a
// Save of these writes where it likes.
func (s *Set) Graph(goFunctions map[string]bool) Graph {
	s.Resolve()
	g := &grapher{Graph: Graph{Nodes: []GraphNode{}, Edges: []GraphEdge{}}, set: s, nodes: map[string]int{}}
	for _, flow := range s.Flows {
		most := 0
		if flow.Loop != nil {
			most = flow.Loop.Most
		}
		var heads []string // what the next step is reached from
		for _, e := range flow.Entries {
			id := entryID(flow, e.Subject.Value)
			g.add(GraphNode{ID: id, Kind: NodeEntry, Name: e.Subject.Value, Flow: flow.Name, Enabled: flow.Enabled, Most: most})
			heads = append(heads, id)
		}
		kind := EdgeEnter
		for i := range flow.Steps {
			step := &flow.Steps[i]
			f := s.Funcs[step.Function.Value]
			id := stepID(flow, step)
			n := GraphNode{ID: id, Kind: NodeStep, Name: step.Name, Flow: flow.Name, Enabled: flow.Enabled, Function: step.Function.Value, Most: most}
			if f != nil {
				n.Mode = f.Mode
				for _, m := range f.Key() {
					n.Key = append(n.Key, m.Value)
				}
			}
			g.add(n)
			for _, h := range heads {
				g.edge(GraphEdge{From: h, To: id, Kind: kind})
			}
			heads, kind = []string{id}, EdgeNext
			if f != nil {
				g.outside(flow, id, f, goFunctions[f.Name])
			}
		}
	}
	ins, outs := s.ends(goFunctions, true)
	index := indexInputs(ins)
	for _, out := range outs {
		if out.save {
			continue // by way of the hand-off's node
		}
		for to, sure := range index.reached(out, ins) {
			in := ins[to]
			g.edge(GraphEdge{From: "subject:" + out.name.Value, To: entryID(in.flow, in.name), Kind: EdgeFeed, Maybe: sure != always})
		}
	}
	g.loops()
	return g.Graph
}

func entryID(flow *Flow, subject string) string { return "entry:" + flow.Name + "/" + subject }
func stepID(flow *Flow, step *Step) string      { return "step:" + flow.Name + "/" + step.Name }
func (g *grapher) has(id string) bool           { _, ok := g.nodes[id]; return ok }
func (g *grapher) at(id string) *GraphNode      { return &g.Nodes[g.nodes[id]] }

type grapher struct {
	Graph
	set   *Set
	nodes map[string]int
	seen  map[GraphEdge]bool
}

// add adds a node, or enables one that is there.
func (g *grapher) add(n GraphNode) {
	if g.has(n.ID) {
		g.at(n.ID).Enabled = g.at(n.ID).Enabled || n.Enabled
		return
	}
	g.nodes[n.ID] = len(g.Nodes)
	g.Nodes = append(g.Nodes, n)
}

// edge adds an edge once.
func (g *grapher) edge(e GraphEdge) {
	if g.seen == nil {
		g.seen = map[GraphEdge]bool{}
	}
	if !g.seen[e] {
		g.seen[e] = true
		g.Edges = append(g.Edges, e)
	}
}

// outside adds what a step exchanges with others.
func (g *grapher) outside(flow *Flow, step string, f *Func, goCode bool) {
	send := func(subject string, maybe bool) {
		id := "subject:" + subject
		g.add(GraphNode{ID: id, Kind: NodeSubject, Name: subject, Enabled: flow.Enabled})
		g.edge(GraphEdge{From: step, To: id, Kind: EdgeSend, Maybe: maybe})
	}
	if late := f.LateSubject(); late.Value != "" && !goCode {
		send(late.Value, true)
	}
	switch {
	case f.Mode == "Expand" && f.Expand != nil && f.Expand.Subject.Value != "":
		send(f.Expand.Subject.Value, f.Expand.When.Value != "")
	case f.Mode != "Save" && f.Mode != "Load":
		return
	default:
		id := ""
		h, ok := g.set.Handoff(f)
		looked := false
		if !ok {
			h, looked = g.set.LookedUp(f)
		}
		if ok && (!goCode || f.Mode == "Load") || looked && !goCode {
			id = "handoff:" + h.Value
			g.add(GraphNode{ID: id, Kind: NodeHandoff, Name: h.Value, Enabled: flow.Enabled})
		} else if conn := g.set.Conns[f.Option.Conn.Value]; conn != nil {
			id = "connector:" + conn.Name
			g.add(GraphNode{ID: id, Kind: NodeConnector, Name: conn.Name, Type: conn.Type, Enabled: flow.Enabled})
		}
		switch {
		case id == "":
		case f.Mode == "Save":
			g.edge(GraphEdge{From: step, To: id, Kind: EdgeSave})
		case looked:
			g.edge(GraphEdge{From: id, To: step, Kind: EdgeLookup})
		default:
			g.edge(GraphEdge{From: id, To: step, Kind: EdgeLoad})
		}
	}
}

// loops marks the edges between flows that lie on a way back to where they come from.
func (g *grapher) loops() {
	graph := make([][]edge, len(g.Nodes))
	for _, e := range g.Edges {
		if from, to := g.nodes[e.From], g.nodes[e.To]; g.has(e.From) && g.has(e.To) && e.Kind != EdgeLookup && g.Nodes[to].Kind != NodeConnector && g.Nodes[from].Kind != NodeConnector {
			graph[from] = append(graph[from], edge{to: to, sure: true})
		}
	}
	group := map[int]int{}
	for i, cycle := range cycles(graph, false) {
		for _, n := range cycle {
			group[n] = i + 1
		}
	}
	for i, e := range g.Edges {
		a, b := group[g.nodes[e.From]], group[g.nodes[e.To]]
		g.Edges[i].Loop = a != 0 && a == b
	}
}

// Label is a node for a person: its name, and what says most of it.
func (n GraphNode) Label() string {
	switch n.Kind {
	case NodeStep:
		l := n.Name
		if n.Mode != "" {
			l += " (" + n.Mode + ")"
		}
		if len(n.Key) > 0 {
			l += " by " + strings.Join(n.Key, ", ")
		}
		return l
	case NodeConnector:
		return strings.TrimSpace(n.Name + " " + n.Type)
	}
	return n.Name
}

// flows returns the names of the flows in the order of their nodes, with the nodes of each.
func (g Graph) flows() (names []string, of map[string][]GraphNode) {
	of = map[string][]GraphNode{}
	for _, n := range g.Nodes {
		if n.Flow != "" {
			if of[n.Flow] == nil {
				names = append(names, n.Flow)
			}
			of[n.Flow] = append(of[n.Flow], n)
		}
	}
	return names, of
}

// Text writes the net for a terminal: flow by flow, each step with what it reads and writes beside the way
// through the flow, and in the end what flows hand to each other.
func (g Graph) Text() string {
	if len(g.Nodes) == 0 {
		return "no flows\n"
	}
	var b strings.Builder
	node := map[string]GraphNode{}
	for _, n := range g.Nodes {
		node[n.ID] = n
	}
	out, in := map[string][]GraphEdge{}, map[string][]GraphEdge{}
	for _, e := range g.Edges {
		out[e.From] = append(out[e.From], e)
		in[e.To] = append(in[e.To], e)
	}
	names, of := g.flows()
	for i, name := range names {
		if i > 0 {
			b.WriteByte('\n')
		}
		first := of[name][0]
		b.WriteString("flow " + name)
		if first.State != "" {
			b.WriteString(", " + first.State)
		} else if !first.Enabled {
			b.WriteString(", disabled")
		}
		if first.Most > 0 {
			fmt.Fprintf(&b, ", an event passes at most %d times", first.Most)
		}
		b.WriteByte('\n')
		for _, n := range of[name] {
			if n.Kind == NodeEntry {
				b.WriteString("  entry " + n.Name)
				for _, e := range in[n.ID] {
					b.WriteString("  <- " + e.from(node, in))
				}
				b.WriteByte('\n')
				continue
			}
			b.WriteString("  " + n.Label())
			for _, e := range in[n.ID] {
				if e.Kind == EdgeLookup {
					b.WriteString("  ? " + node[e.From].Kind + " " + node[e.From].Label())
				}
				if e.Kind == EdgeLoad {
					b.WriteString("  <- " + node[e.From].Kind + " " + node[e.From].Label() + e.marks())
				}
			}
			for _, e := range out[n.ID] {
				if e.Kind == EdgeSave || e.Kind == EdgeSend {
					b.WriteString("  -> " + node[e.To].Kind + " " + node[e.To].Label() + e.marks())
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String() + g.between(node, in, out)
}

// from names the flows that send to a subject which feeds an entry.
func (e GraphEdge) from(node map[string]GraphNode, in map[string][]GraphEdge) string {
	var flows []string
	for _, s := range in[e.From] {
		flows = append(flows, node[s.From].Flow)
	}
	slices.Sort(flows)
	return "flow " + strings.Join(slices.Compact(flows), ", ") + e.marks()
}

func (e GraphEdge) marks() string {
	s := ""
	if e.Maybe {
		s += " (some)"
	}
	if e.Loop {
		s += " (loop)"
	}
	return s
}

// between writes one line for each pair of flows of which one gives rows to the other.
func (g Graph) between(node map[string]GraphNode, in, out map[string][]GraphEdge) string {
	var lines []string
	for _, n := range g.Nodes {
		if n.Kind != NodeHandoff && n.Kind != NodeSubject {
			continue
		}
		for _, w := range in[n.ID] {
			for _, r := range out[n.ID] {
				from, to := node[w.From].Flow, node[r.To].Flow
				if r.Kind == EdgeLookup {
					lines = append(lines, fmt.Sprintf("  %s looks up what %s saves by %s %s\n", to, from, n.Kind, n.Name))
					continue
				}
				lines = append(lines, fmt.Sprintf("  %s -> %s by %s %s%s\n", from, to, n.Kind, n.Name, GraphEdge{Maybe: w.Maybe || r.Maybe, Loop: w.Loop && r.Loop}.marks()))
			}
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return "\nbetween flows\n" + strings.Join(slices.Compact(lines), "")
}

// ids gives every node a short name that needs no quoting: n0, n1, ...
func (g Graph) ids() map[string]string {
	ids := map[string]string{}
	for i, n := range g.Nodes {
		ids[n.ID] = fmt.Sprintf("n%d", i)
	}
	return ids
}

// Mermaid writes the net as a Mermaid flowchart, for Markdown pages.
func (g Graph) Mermaid() string {
	var b strings.Builder
	ids := g.ids()
	b.WriteString("flowchart LR\n")
	shapes := map[string][2]string{NodeEntry: {"([", "])"}, NodeStep: {"[", "]"}, NodeHandoff: {"[(", ")]"}, NodeSubject: {"([", "])"}, NodeConnector: {"[[", "]]"}}
	line := func(indent string, n GraphNode) {
		s := shapes[n.Kind]
		fmt.Fprintf(&b, "%s%s%s%s%s\n", indent, ids[n.ID], s[0], mermaidText(n.Label()), s[1])
	}
	names, of := g.flows()
	for i, name := range names {
		title := name
		if !of[name][0].Enabled {
			title += " (disabled)"
		}
		fmt.Fprintf(&b, "  subgraph f%d[%s]\n", i, mermaidText(title))
		for _, n := range of[name] {
			line("    ", n)
		}
		b.WriteString("  end\n")
	}
	for _, n := range g.Nodes {
		if n.Flow == "" {
			line("  ", n)
		}
	}
	for _, e := range g.Edges {
		arrow := "-->"
		switch {
		case e.Loop && e.Maybe:
			arrow = "-. loop .->"
		case e.Loop && e.Kind != EdgeNext && e.Kind != EdgeEnter:
			arrow = "-- loop -->"
		case e.Maybe:
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", ids[e.From], arrow, ids[e.To])
	}
	return b.String()
}

// mermaidText quotes a label; what Mermaid would read as markup is written as an entity.
func mermaidText(s string) string {
	return `"` + strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "`", "#96;", "\n", " ").Replace(s) + `"`
}

// DOT writes the net for Graphviz.
func (g Graph) DOT() string {
	var b strings.Builder
	ids := g.ids()
	b.WriteString("digraph kisflow {\n  rankdir=LR;\n  node [shape=box];\n")
	shapes := map[string]string{NodeEntry: "cds", NodeStep: "box", NodeHandoff: "cylinder", NodeSubject: "cds", NodeConnector: "component"}
	line := func(indent string, n GraphNode) {
		fmt.Fprintf(&b, "%s%s [shape=%s, label=%s];\n", indent, ids[n.ID], shapes[n.Kind], dotText(n.Label()))
	}
	names, of := g.flows()
	for i, name := range names {
		style := ""
		if !of[name][0].Enabled {
			style = " style=dashed;"
		}
		fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%s;%s\n", i, dotText(name), style)
		for _, n := range of[name] {
			line("    ", n)
		}
		b.WriteString("  }\n")
	}
	for _, n := range g.Nodes {
		if n.Flow == "" {
			line("  ", n)
		}
	}
	for _, e := range g.Edges {
		var attributes []string
		if e.Maybe {
			attributes = append(attributes, "style=dashed")
		}
		if e.Loop && e.Kind != EdgeNext && e.Kind != EdgeEnter {
			attributes = append(attributes, `label="loop"`)
		}
		fmt.Fprintf(&b, "  %s -> %s", ids[e.From], ids[e.To])
		if len(attributes) > 0 {
			fmt.Fprintf(&b, " [%s]", strings.Join(attributes, ", "))
		}
		b.WriteString(";\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText quotes a label of DOT.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s) + `"`
}

// LateSubject returns the subject to which a function of windows or a join sends the rows that come too late, "" if
// it does not.
func (f *Func) LateSubject() Text {
	switch {
	case f.Mode != "Calculate":
	case f.Calculate != nil && f.Calculate.Window != nil:
		return f.Calculate.Window.LateSubject
	case f.Join != nil:
		return f.Join.LateSubject
	}
	return Text{}
}

// Link says that rows which leave a flow at a step come in at another flow, or at the same one.
type Link struct {
	From *Flow
	Step int // of From: a Save, an Expand, or a Calculate that sends late rows
	To   *Flow
	// Load is the step of To that loads the rows, or -1; Entry is its entry that reads them, or -1.
	Load, Entry int
	// Whole: the entry reads what the Expand sends to and nothing else; always true of a Load.
	Whole bool
	// Back: From gets rows that To has handled, so that what it sends depends on what it sent.
	Back bool
}

// Links returns the ways of rows between the flows of a set, disabled ones included. The flows are returned in an
// order in which those that give rows come before those that get them, as far as they do not get them back.
func (s *Set) Links(goFunctions map[string]bool) (order []*Flow, links []Link) {
	ins, outs := s.ends(goFunctions, true)
	index := indexInputs(ins)
	place := map[*Flow]int{}
	for i, f := range s.Flows {
		place[f] = i
	}
	graph := make([][]edge, len(s.Flows))
	for _, out := range outs {
		for to := range index.reached(out, ins) {
			in := ins[to]
			l := Link{From: out.flow, Step: out.step, To: in.flow, Load: -1, Entry: -1, Whole: true}
			if in.load {
				l.Load = in.step - 1
			} else {
				l.Entry, l.Whole = in.entry, pattern(out.words) == in.name
			}
			links = append(links, l)
			graph[place[out.flow]] = append(graph[place[out.flow]], edge{to: place[in.flow]})
		}
	}
	group := map[int]int{}
	for i, cycle := range cycles(graph, false) {
		for _, n := range cycle {
			group[n] = i + 1
		}
	}
	for i, l := range links {
		a, b := group[place[l.From]], group[place[l.To]]
		links[i].Back = a != 0 && a == b
	}
	// Those that give come first: by the longest way from a flow that gets nothing, over links that do not lead back.
	level := make([]int, len(s.Flows))
	before := make([]int, len(s.Flows))
	for _, l := range links {
		if !l.Back {
			before[place[l.To]]++
		}
	}
	next := map[*Flow][]*Flow{}
	for _, l := range links {
		if !l.Back {
			next[l.From] = append(next[l.From], l.To)
		}
	}
	var ready []int
	for i := range s.Flows {
		if before[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		i := ready[0]
		ready = ready[1:]
		for _, to := range next[s.Flows[i]] {
			j := place[to]
			level[j] = max(level[j], level[i]+1)
			if before[j]--; before[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	order = slices.Clone(s.Flows)
	slices.SortStableFunc(order, func(a, b *Flow) int { return cmp.Compare(level[place[a]], level[place[b]]) })
	return order, links
}

// pattern is the subject with a wildcard for every word that depends on the row.
func pattern(words []string) string {
	out := slices.Clone(words)
	for i, w := range out {
		if strings.Contains(w, "{}") {
			out[i] = "*"
		}
	}
	return strings.Join(out, ".")
}

// States notes the states of flows on a running node, by the names of the flows.
func (g Graph) States(of map[string]string) {
	for i := range g.Nodes {
		g.Nodes[i].State = of[g.Nodes[i].Flow]
	}
}
