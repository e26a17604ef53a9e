package flowdef

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// CheckOptions tell Check what it cannot know of the definitions. The zero value is ready to use.
type CheckOptions struct {
	// GoFunctions are the names of the functions that Go code implements. Default none.
	GoFunctions map[string]bool
	// Saved returns the fields, but those of the key, that the Save at a step of a flow writes where it does not say
	// it by save.fields; nil: all, or nobody knows. Default nil.
	Saved func(flow *Flow, step int) []string
	// MustRun makes a function without implementation an error where an enabled flow uses it, as a node needs
	// it. Default false: a warning, as for a reader who does not know the node's Go functions.
	MustRun bool
}

// Resolve puts the function's and the connector's own name where a definition names them by their old id, so
// that Funcs and Conns answer for every reference that is right. Check does it as well; definitions that were
// checked before, and perhaps together with others, need no more than this.
func (s *Set) Resolve() {
	funcs, conns := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.Funcs)) {
		if id := s.Funcs[name].ID; id != "" && funcs[id] == "" {
			funcs[id] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Conns)) {
		if id := s.Conns[name].ID; id != "" && conns[id] == "" {
			conns[id] = name
		}
	}
	for _, flow := range s.Flows {
		for i := range flow.Steps {
			fn := &flow.Steps[i].Function
			if name := funcs[fn.Value]; name != "" && s.Funcs[fn.Value] == nil {
				fn.Value, fn.raw = name, nil
			}
		}
	}
	for _, f := range s.Funcs {
		conn := &f.Option.Conn
		if name := conns[conn.Value]; name != "" && s.Conns[conn.Value] == nil {
			conn.Value, conn.raw = name, nil
		}
		s.resolveLookup(f)
	}
}

// Check finds what the definitions of a set do to each other: names that are missing or defined twice, Saves
// that write the same, flows that feed themselves. It calls Resolve first. What a disabled flow does is at
// most a warning.
func (s *Set) Check(o CheckOptions) Mistakes {
	s.Resolve()
	c := &checker{set: s, opts: o, used: map[string]bool{}, running: map[string]bool{}, mistakes: slices.Clone(s.found)}
	c.steps()
	c.connectors()
	c.implementations()
	c.handoffs()
	c.writers()
	c.senders()
	c.loops()
	c.mistakes.Sort()
	return c.mistakes
}

type checker struct {
	set      *Set
	opts     CheckOptions
	used     map[string]bool // functions of any flow
	running  map[string]bool // functions of enabled flows
	mistakes Mistakes
}

// report adds a mistake; one that is not serious is a warning whatever its code says.
func (c *checker) report(serious bool, pos Pos, code, message, hint string) {
	m := NewMistake(pos, code, message, hint)
	if !serious {
		m.Severity = Warning
	}
	c.mistakes = append(c.mistakes, m)
}

// funcs returns the functions by name, so that mistakes come out in one order.
func (c *checker) funcs() []*Func {
	return slices.SortedFunc(maps.Values(c.set.Funcs), func(a, b *Func) int { return cmp.Compare(a.Name, b.Name) })
}

// steps looks up the functions of all steps.
func (c *checker) steps() {
	names := slices.Collect(maps.Keys(c.set.Funcs))
	for _, flow := range c.set.Flows {
		if len(flow.Steps) == 0 {
			c.report(false, flow.Pos, codeNoSteps, fmt.Sprintf("flow %s has no steps", quote(flow.Name)), "list its functions under flows")
		}
		for i := range flow.Steps {
			fn := &flow.Steps[i].Function
			if c.set.Funcs[fn.Value] == nil {
				if fn.Value != "" {
					c.used[nearest(fn.Value, names)] = true // what is meant is not unused as well
					c.report(flow.Enabled, fn.Pos, codeNoFunc, fmt.Sprintf("unknown function %s in flow %s", quote(fn.Value), quote(flow.Name)), c.functionHint(fn.Value, names))
				}
				continue
			}
			c.used[fn.Value] = true
			c.running[fn.Value] = c.running[fn.Value] || flow.Enabled
		}
	}
	if len(c.used) == 0 {
		return
	}
	for _, f := range c.funcs() {
		if !c.used[f.Name] {
			c.report(false, f.Pos, codeUnused, fmt.Sprintf("no flow uses function %s", quote(f.Name)), "")
		}
	}
}

func (c *checker) functionHint(name string, names []string) string {
	if c.opts.GoFunctions[name] {
		return "a Go function of that name is there; add its definition, kistype: func"
	}
	return didYouMean(name, names)
}

// connectors looks up the connectors of all functions.
func (c *checker) connectors() {
	names := slices.Collect(maps.Keys(c.set.Conns))
	for _, f := range c.funcs() {
		ref := &f.Option.Conn
		if ref.Value == "" {
			continue
		}
		if c.set.Conns[ref.Value] == nil {
			c.report(c.running[f.Name], ref.Pos, codeNoConn, fmt.Sprintf("unknown connector %s in function %s", quote(ref.Value), quote(f.Name)), didYouMean(ref.Value, names))
		}
	}
}

func (c *checker) implementations() {
	for _, f := range c.funcs() {
		switch {
		case c.opts.GoFunctions[f.Name], f.Mode == "", f.Mode == "Verify", f.Mode == "Save", f.Mode == "Load",
			f.Script != nil, f.Remote != nil, f.Mode == "Calculate" && (f.Calculate != nil || f.Join != nil), f.Mode == "Expand" && f.Expand != nil:
			continue
		}
		hint := fmt.Sprintf("add %s, or register a Go function of that name", modes[f.Mode])
		if near := nearest(f.Name, slices.Collect(maps.Keys(c.opts.GoFunctions))); near != "" {
			hint = fmt.Sprintf("add %s; or did you mean the Go function %s?", modes[f.Mode], quote(near))
		}
		m := NewMistake(f.Pos, codeNoBody, fmt.Sprintf("function %s has no implementation", quote(f.Name)), hint)
		if c.opts.MustRun && c.running[f.Name] {
			m.Severity = Error
		}
		c.mistakes = append(c.mistakes, m)
	}
}

// Handoff returns the hand-off that a Save or a Load of a set writes or reads through NATS, with the name's
// place; false for other functions and where another connector does it.
func (s *Set) Handoff(f *Func) (Text, bool) {
	if f.Mode != "Save" && f.Mode != "Load" {
		return Text{}, false
	}
	if name := f.Option.Conn.Value; name != "" {
		if conn := s.Conns[name]; conn == nil || !strings.EqualFold(conn.Type, "nats") {
			return Text{}, false
		}
	}
	if f.Load != nil && f.Load.Lookup != nil {
		return Text{}, false
	}
	return handoffName(f), true
}

// handoffName is the name of a Save's or a Load's hand-off.
func handoffName(f *Func) Text {
	switch {
	case f.Save != nil && f.Save.Handoff.Value != "":
		return f.Save.Handoff
	case f.Load != nil && f.Load.Handoff.Value != "":
		return f.Load.Handoff
	case f.Source.Name != "":
		return Text{Value: f.Source.Name, Pos: f.Pos}
	}
	return Text{Value: f.Name, Pos: f.Pos}
}

// handoffs checks that somebody saves what is loaded.
func (c *checker) handoffs() {
	saved := map[string]bool{} // true: by an enabled flow
	for _, flow := range c.set.Flows {
		for _, step := range flow.Steps {
			if f := c.set.Funcs[step.Function.Value]; f != nil && f.Mode == "Save" && !c.opts.GoFunctions[f.Name] {
				if h, ok := c.set.Handoff(f); ok {
					saved[h.Value] = saved[h.Value] || flow.Enabled
				}
			}
		}
	}
	for _, f := range c.funcs() {
		if f.Mode != "Load" || !c.used[f.Name] {
			continue
		}
		h, ok := c.set.Handoff(f)
		verb, waits := "loads", "the Load waits until a flow does"
		if !ok && (f.Load == nil || f.Load.Handoff.Value != "" || f.Source.Name != "") {
			h, ok = c.set.LookedUp(f)
			verb, waits = "looks up", "the flow that looks it up can run when one does"
		}
		if !ok || c.opts.GoFunctions[f.Name] {
			continue
		}
		enabled, known := saved[h.Value]
		switch {
		case !known:
			// A hand-off may come later, with another flow; a name like one that is there is a slip.
			names := slices.Collect(maps.Keys(saved))
			hint := didYouMean(h.Value, names)
			if hint == "" {
				hint = waits
			}
			c.report(nearest(h.Value, names) != "" && c.running[f.Name], h.Pos, codeNoHandoff, fmt.Sprintf("no flow saves hand-off %s, which function %s %s", quote(h.Value), quote(f.Name), verb), hint)
		case !enabled && c.running[f.Name]:
			c.report(false, h.Pos, codeNoHandoff, fmt.Sprintf("hand-off %s is saved by disabled flows only", quote(h.Value)), "")
		}
	}
	c.lookups()
	c.kept()
}

// writer is a Save at a step.
type writer struct {
	flow   *Flow
	step   *Step
	f      *Func
	fields []string // that it writes; none: all, or nobody knows
}

func (c *checker) writer(flow *Flow, step int, f *Func) writer {
	w := writer{flow: flow, step: &flow.Steps[step], f: f}
	switch {
	case f.Save != nil && len(f.Save.Fields) > 0:
		for _, field := range f.Save.Fields {
			w.fields = append(w.fields, field.Value)
		}
	case c.opts.Saved != nil:
		w.fields = c.opts.Saved(flow, step)
	}
	return w
}

func (w writer) shared() bool { return w.f.Save != nil && w.f.Save.Shared }

// writers checks the single writer rule: a field of a hand-off or of a connector's key has one Save.
func (c *checker) writers() {
	targets := map[string][]writer{}
	var order []string
	for _, flow := range c.set.Flows {
		if !flow.Enabled {
			continue
		}
		for i := range flow.Steps {
			f := c.set.Funcs[flow.Steps[i].Function.Value]
			if f == nil || f.Mode != "Save" {
				continue
			}
			target := ""
			if h, ok := c.set.Handoff(f); ok && !c.opts.GoFunctions[f.Name] {
				target = "hand-off " + quote(h.Value)
			} else if conn := c.set.Conns[f.Option.Conn.Value]; conn != nil {
				target = "connector " + quote(conn.Name)
				if conn.Key != "" { // two connectors to one place are one
					target = fmt.Sprintf("key %s of %s %s", quote(conn.Key), conn.Type, quote(conn.Addrs))
				}
			}
			if target == "" {
				continue
			}
			if targets[target] == nil {
				order = append(order, target)
			}
			targets[target] = append(targets[target], c.writer(flow, i, f))
		}
	}
	for _, target := range order {
		ws := targets[target]
		for i := 1; i < len(ws); i++ {
			for j := range i {
				if c.clash(target, ws[j], ws[i]) {
					break // one mistake for each Save that is too much
				}
			}
		}
	}
}

// clash reports the second of two writers where both may write a field.
func (c *checker) clash(target string, a, b writer) bool {
	field := ""
	if len(a.fields) > 0 && len(b.fields) > 0 {
		for _, x := range a.fields {
			if slices.Contains(b.fields, x) {
				field = " field " + quote(x) + " of"
				break
			}
		}
		if field == "" {
			return false
		}
	}
	if a.shared() && b.shared() {
		return false
	}
	hint := fmt.Sprintf("step %s of flow %s at %s writes it already; name different save.fields, or say save.shared: true in both", quote(a.step.Name), quote(a.flow.Name), a.step.Function.Pos)
	message := fmt.Sprintf("flow %s is a second writer of%s %s", quote(b.flow.Name), field, target)
	if a.flow == b.flow {
		message = fmt.Sprintf("step %s is a second writer of%s %s", quote(b.step.Name), field, target)
	}
	if strings.HasPrefix(target, "hand-off") || field != "" || a.f.Save != nil || b.f.Save != nil {
		c.report(true, b.step.Function.Pos, codeWriters, message, hint)
		return true
	}
	// Neither says what it writes: Go code may keep them apart, as files of the original KisFlow do.
	c.report(false, b.step.Function.Pos, codeMayWrite, strings.Replace(message, " is a ", " may be a ", 1), hint)
	return true
}
