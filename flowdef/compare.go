package flowdef

import (
	"fmt"
	"slices"
	"strings"
)

// FlowChange is what differs between two revisions of a flow: what the definitions mean, not how they are written.
type FlowChange struct {
	// Settings are the changes of all but the steps: one sentence each.
	Settings []string
	Steps    []StepChange // in their new order, those that go at their old place
}

// StepChange is what differs at one step. Steps are the same if their names are.
type StepChange struct {
	Name     string
	Function string     // that it runs then; of a removed step, that it ran
	Action   StepAction //
	From, To int        // its places, from 1; 0: none
	Changes  []string   // one sentence each
	// MustBefore and MustAfter are the fields of its key; Rekeyed says that they differ.
	MustBefore, MustAfter []string
	Rekeyed               bool
	// Fields of the state that are new, that go, and that are computed in another way.
	StateAdded, StateRemoved, StateChanged []string
	// Recast are aggregates in windows that have become others, as a sum that is a count now: what they have gathered cannot
	// be read any more, and with it the windows that are open.
	Recast []string
	// Migrates: the function has a new version of its state, and says how to make it of the old one.
	Migrates bool
}

// StepAction is what happens to a step.
type StepAction string

// The actions. A step that is moved and changed is changed.
const (
	StepKept    StepAction = "kept"
	StepAdded   StepAction = "added"
	StepRemoved StepAction = "removed"
	StepChanged StepAction = "changed"
	StepMoved   StepAction = "moved"
)

// maxSentences is the most changes of one definition that are told one by one.
const maxSentences = 30

// CompareFlows tells what changes in a flow from one set to another one. A nil set, or one without the flow, has no
// steps.
func CompareFlows(from, to *Set, name string) FlowChange {
	a, b := from.flow(name), to.flow(name)
	var c FlowChange
	if a != nil && b != nil {
		c.Settings = compareTexts(a.Source, b.Source, "kistype", "flow_name", "flow_id", "flows", "status")
	}
	var old, now []Step
	if a != nil {
		old = a.Steps
	}
	if b != nil {
		now = b.Steps
	}
	place := make(map[string]int)
	for i, s := range old {
		place[s.Name] = i
	}
	stays := inOrder(now, place)
	for i := range now {
		s := &now[i]
		fn := to.Funcs[s.Function.Value]
		d := StepChange{Name: s.Name, Function: s.Function.Value, Action: StepAdded, To: i + 1, MustAfter: mustOf(fn)}
		if p, there := place[s.Name]; there {
			d.From, d.Action = p+1, StepKept
			d.compare(from, to, &old[p], s)
			if len(d.Changes) > 0 {
				d.Action = StepChanged
			} else if !stays[s.Name] {
				d.Action = StepMoved
			}
		}
		c.Steps = append(c.Steps, d)
	}
	for i := range old {
		s := &old[i]
		if slices.ContainsFunc(now, func(n Step) bool { return n.Name == s.Name }) {
			continue
		}
		d := StepChange{Name: s.Name, Function: s.Function.Value, Action: StepRemoved, From: i + 1, MustBefore: mustOf(from.Funcs[s.Function.Value])}
		for _, n := range c.Steps { // a new name for the same thing?
			if n.Action == StepAdded && n.Function == d.Function && slices.Equal(n.MustAfter, d.MustBefore) {
				d.Changes = append(d.Changes, fmt.Sprintf("step %s runs the same function: with \"as: %s\" it would be the same step, and keep its state", n.Name, d.Name))
				break
			}
		}
		at := 0
		if i > 0 {
			at = slices.IndexFunc(c.Steps, func(n StepChange) bool { return n.Name == old[i-1].Name }) + 1
		}
		c.Steps = slices.Insert(c.Steps, at, d)
	}
	return c
}

func (s *Set) flow(name string) *Flow {
	if s == nil {
		return nil
	}
	for _, f := range s.Flows {
		if f.Name == name {
			return f
		}
	}
	return nil
}

func mustOf(fn *Func) []string {
	if fn == nil {
		return nil
	}
	var must []string
	for _, m := range fn.Key() {
		must = append(must, m.Value)
	}
	return must
}

// inOrder tells which steps keep their order: the others have moved past them. It finds the longest row of steps
// whose old places rise.
func inOrder(now []Step, place map[string]int) map[string]bool {
	type best struct{ length, before int }
	all := make([]best, len(now))
	last := -1
	for i := range now {
		p, there := place[now[i].Name]
		if !there {
			continue
		}
		all[i] = best{1, -1}
		for j := range i {
			if q, there := place[now[j].Name]; there && q < p && all[j].length >= all[i].length {
				all[i] = best{all[j].length + 1, j}
			}
		}
		if last < 0 || all[i].length > all[last].length {
			last = i
		}
	}
	stays := make(map[string]bool)
	for ; last >= 0; last = all[last].before {
		stays[now[last].Name] = true
	}
	return stays
}

// compare tells what differs at a step that both revisions have.
func (d *StepChange) compare(from, to *Set, a, b *Step) {
	x, y := from.Funcs[a.Function.Value], to.Funcs[b.Function.Value]
	if a.Function.Value != b.Function.Value {
		d.Changes = append(d.Changes, fmt.Sprintf("function %s replaced by %s", a.Function.Value, b.Function.Value))
	}
	for _, k := range sortedKeys(a.Params, b.Params) {
		v, before := a.Params[k]
		w, after := b.Params[k]
		switch {
		case before && !after:
			d.Changes = append(d.Changes, fmt.Sprintf("params.%s removed (was %s)", k, short(v)))
		case after && !before:
			d.Changes = append(d.Changes, fmt.Sprintf("params.%s added: %s", k, short(w)))
		case v != w:
			d.Changes = append(d.Changes, fmt.Sprintf("params.%s: %s -> %s", k, short(v), short(w)))
		}
	}
	d.MustBefore, d.MustAfter = mustOf(x), mustOf(y)
	d.Rekeyed = !slices.Equal(d.MustBefore, d.MustAfter)
	if x == nil || y == nil {
		return
	}
	d.Changes = append(d.Changes, compareTexts(x.Text, y.Text, "kistype", "fname", "fid")...)
	if p, q := from.Conns[x.Option.Conn.Value], to.Conns[y.Option.Conn.Value]; p != nil && q != nil && p.Name == q.Name && !same(p.Text, q.Text) {
		d.Changes = append(d.Changes, fmt.Sprintf("connector %s changed", q.Name)) // its text may hold a password
	}
	s, t := treeOf(x.Text), treeOf(y.Text)
	for _, part := range []string{"state", "aggregate"} {
		before, after := s.at("calculate", part), t.at("calculate", part)
		for _, f := range before.all() {
			if g := after.at(f.name); g == nil {
				d.StateRemoved = append(d.StateRemoved, f.name)
			} else if dumped(f.val) != dumped(g) {
				d.StateChanged = append(d.StateChanged, f.name)
			}
		}
		for _, f := range after.all() {
			if before.at(f.name) == nil {
				d.StateAdded = append(d.StateAdded, f.name)
			}
		}
	}
	if t.at("calculate", "window") != nil {
		for _, f := range s.at("calculate", "aggregate").all() {
			if g := t.at("calculate", "aggregate", f.name); g != nil && callOf(f.val) != callOf(g) {
				d.Recast = append(d.Recast, f.name)
			}
		}
	}
	d.Migrates = t.at("migrate") != nil && dumped(s.at("version")) != dumped(t.at("version"))
}

// callOf is what an aggregate calls, sum of sum(row.amount); "" for one of its own.
func callOf(n *node) string {
	if n.kind != scalarNode {
		return ""
	}
	name, _, _ := strings.Cut(n.text, "(")
	return strings.TrimSpace(name)
}

func sortedKeys(a, b map[string]string) []string {
	var all []string
	for k := range a {
		all = append(all, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			all = append(all, k)
		}
	}
	slices.Sort(all)
	return all
}

// treeOf reads a definition's text, which has been read before; nil if it cannot be read.
func treeOf(text string) *node {
	src, fault := newSource("", []byte(text))
	if fault != nil {
		return nil
	}
	docs := src.documents()
	if len(docs) == 0 {
		return nil
	}
	return readDocument(src, docs[0], new(Mistakes))
}

// all returns the fields of a mapping; none of anything else.
func (n *node) all() []field {
	if n == nil || n.kind != mapNode {
		return nil
	}
	return n.fields
}

// at follows keys, to nil where there is none.
func (n *node) at(keys ...string) *node {
	for _, k := range keys {
		var next *node
		for _, f := range n.all() {
			if f.name == k {
				next = f.val
			}
		}
		n = next
	}
	return n
}

func dumped(n *node) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	n.dump(&b)
	return b.String()
}

// compareTexts tells how the meaning of one definition's text differs from another one's, but for some keys.
func compareTexts(a, b string, but ...string) []string {
	if same(a, b) {
		return nil
	}
	var out []string
	compareNodes("", treeOf(a), treeOf(b), but, &out)
	if n := len(out); n > maxSentences {
		out = append(out[:maxSentences], fmt.Sprintf("and %d more", n-maxSentences))
	}
	return out
}

func compareNodes(path string, a, b *node, but []string, out *[]string) {
	say := func(format string, args ...any) {
		*out = append(*out, strings.TrimPrefix(path, ".")+fmt.Sprintf(format, args...))
	}
	switch {
	case a.isNull() && b.isNull() || dumped(a) == dumped(b):
	case a.isNull():
		say(" added: %s", brief(b))
	case b.isNull():
		say(" removed (was %s)", brief(a))
	case a.kind == mapNode && b.kind == mapNode:
		for _, f := range a.fields {
			if !slices.Contains(but, f.name) {
				compareNodes(path+"."+f.name, f.val, b.at(f.name), nil, out)
			}
		}
		for _, f := range b.fields {
			if a.at(f.name) == nil && !slices.Contains(but, f.name) {
				compareNodes(path+"."+f.name, nil, f.val, nil, out)
			}
		}
	case a.kind == listNode && b.kind == listNode && len(a.items) == len(b.items) && slices.ContainsFunc(a.items, func(n *node) bool { return n.kind != scalarNode }):
		for i := range a.items {
			compareNodes(fmt.Sprintf("%s[%d]", path, i+1), a.items[i], b.items[i], nil, out)
		}
	default:
		say(": %s -> %s", brief(a), brief(b))
	}
}

// brief writes a value in one short line.
func brief(n *node) string {
	var b strings.Builder
	n.brief(&b)
	return short(b.String())
}

func (n *node) brief(b *strings.Builder) {
	if b.Len() > 4*shortText {
		return
	}
	switch n.kind {
	case scalarNode:
		b.WriteString(n.text)
	case mapNode:
		b.WriteString("{")
		for i, f := range n.fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(f.name + ": ")
			f.val.brief(b)
		}
		b.WriteString("}")
	case listNode:
		b.WriteString("[")
		for i, item := range n.items {
			if i > 0 {
				b.WriteString(", ")
			}
			item.brief(b)
		}
		b.WriteString("]")
	}
}

// shortText is how many characters of a value a sentence shows.
const shortText = 60

func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > shortText {
		return string(r[:shortText-1]) + "…"
	}
	if s == "" {
		return `""`
	}
	return s
}
