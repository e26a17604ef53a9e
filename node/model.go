package node

import (
	"slices"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
)

// modelOf adds to a function what its definition says of windows, aggregates, joins, tables and versions.
func modelOf(set *flowdef.Set, def *flowdef.Func, s *functions.Spec, emit func([]flowdef.EmitField) []functions.EmitField) {
	s.Version, s.Migrate = def.Version, emit(def.Migrate)
	if c := def.Calculate; c != nil {
		s.Calculate.Replace = c.Replace.Value
		for _, a := range c.Aggregate {
			f := functions.AggregateField{Name: a.Name, Call: a.Call.Value}
			if o := a.Custom; o != nil {
				f.Custom = &functions.CustomAggregate{Init: o.Init.Value, Add: o.Add.Value, Remove: o.Remove.Value, Result: o.Result.Value}
			}
			s.Calculate.Aggregate = append(s.Calculate.Aggregate, f)
		}
		if w := c.Window; w != nil {
			s.Calculate.Window = &functions.Window{Kind: w.Kind, Size: w.Size, Every: w.Every, Offset: w.Offset, Count: w.Count, EveryRows: w.EveryRows,
				Processing: w.Processing, Early: w.Early, EarlyRows: w.EarlyRows, Late: w.Late, LateSubject: w.LateSubject.Value, Keep: w.Keep}
		}
	}
	if j := def.Join; j != nil {
		s.Join = &functions.Join{
			Left:    functions.JoinSide{When: j.Left.When.Value, Keep: j.Left.Keep.Value},
			Right:   functions.JoinSide{When: j.Right.When.Value, Keep: j.Right.Keep.Value},
			Bounded: j.Bounded, Before: j.Before, After: j.After, Type: j.Type.Value, On: j.On.Value, Emit: emit(j.Emit),
			Late: j.Late, LateSubject: j.LateSubject.Value}
	}
	if l := def.Load; l != nil && l.Table {
		s.Load = &functions.Load{Table: true, Set: emit(l.Set), Missing: l.Missing}
	}
	if l := def.Load; l != nil && l.Lookup != nil && !keyless(def) {
		k := l.Lookup
		s.Load = &functions.Load{Set: emit(l.Set), Missing: l.Missing, Lookup: &functions.Lookup{Key: k.Key.Value, Cache: k.Cache, CacheSize: k.CacheSize,
			Timeout: k.Timeout, Where: "connector " + def.Option.Conn.Value}}
		if h, ok := set.LookedUp(def); ok {
			s.Load.Lookup.Where, s.Load.Lookup.Fields = "hand-off "+h.Value, keyFields(set, h.Value, k)
		}
	}
	if _, ok := set.Handoff(def); ok && def.Mode == string(kis.Save) {
		s.Save = &functions.Save{Keep: set.Keeps(def)}
		for _, m := range def.Source.Must {
			if !slices.Contains(s.Must, m.Value) {
				s.Save.Need = append(s.Save.Need, m.Value)
			}
		}
		if !s.Save.Keep && s.Save.Need == nil {
			s.Save = nil
		}
	}
}

// keyFields are the fields of a hand-off's key as a look-up asks for them; what is wrong with that is told elsewhere.
func keyFields(set *flowdef.Set, handOff string, l *flowdef.Lookup) []functions.KeyField {
	key, err := set.TableKey(handOff)
	if err != nil { // then only what is written can be checked
		key = nil
		for _, e := range l.Keys {
			key = append(key, e.Name)
		}
	}
	fields := []functions.KeyField{}
	for _, name := range key {
		f := functions.KeyField{Name: name, Path: "load.key"}
		for _, e := range l.Keys {
			if e.Name == name {
				f.Expr, f.Path = e.Expr.Value, "load.key."+name
			}
		}
		if l.Key.Value != "" {
			f.Expr = l.Key.Value
		}
		fields = append(fields, f)
	}
	if len(fields) == 0 && l.Key.Value != "" {
		fields = append(fields, functions.KeyField{Name: "key", Expr: l.Key.Value, Path: "load.key"})
	}
	return fields
}

// modelText finds the text that a mistake's path names in what modelOf has added. part is the path, rest what is
// behind its second part.
func modelText(def *flowdef.Func, part []string, rest string, emit func([]flowdef.EmitField, string) flowdef.Text) (flowdef.Text, bool) {
	at := func(p flowdef.Pos) (flowdef.Text, bool) {
		if p.Line == 0 {
			p = def.Pos
		}
		return flowdef.Text{Pos: p}, true
	}
	name := ""
	if len(part) > 1 {
		name = part[1]
	}
	switch part[0] {
	case "version":
		return at(def.VersionPos)
	case "migrate":
		if t := emit(def.Migrate, join(part[1:])); t.Value != "" {
			return t, true
		}
		return at(def.MigratePos)
	case "calculate":
		if def.Calculate != nil {
			return calculateText(def.Calculate, name, part, rest, at)
		}
	case "join":
		j := def.Join
		if j == nil {
			break
		}
		if name == "emit" {
			return emit(j.Emit, rest), true
		}
		t, ok := map[string]flowdef.Text{"on": j.On, "type": j.Type, "within": {Pos: j.Within}, "late": j.LateSubject,
			"left": {Pos: j.Left.Pos}, "right": {Pos: j.Right.Pos}}[name]
		for side, of := range map[string]flowdef.JoinSide{"left": j.Left, "right": j.Right} {
			switch {
			case name == side && rest == "when":
				t = of.When
			case name == side && rest == "keep":
				t = of.Keep
			}
		}
		if !ok || t.Pos.Line == 0 {
			return at(j.Pos)
		}
		return t, true
	case "load":
		l := def.Load
		if l == nil {
			break
		}
		if name == "set" {
			return emit(l.Set, rest), true
		}
		if name == "key" && l.Lookup != nil {
			if t := emit(l.Lookup.Keys, rest); rest != "" && t.Value != "" {
				return t, true
			}
			if l.Lookup.Key.Value != "" {
				return l.Lookup.Key, true
			}
		}
		return at(l.AsPos)
	}
	return flowdef.Text{}, false
}

func calculateText(c *flowdef.Calculate, name string, part []string, rest string, at func(flowdef.Pos) (flowdef.Text, bool)) (flowdef.Text, bool) {
	switch name {
	case "replace":
		return c.Replace, true
	case "window":
		if c.Window == nil {
			break
		}
		if rest == "late.subject" {
			return c.Window.LateSubject, true
		}
		if len(part) > 2 {
			if p, ok := c.Window.At[part[2]]; ok {
				return at(p)
			}
		}
		return at(c.Window.Pos)
	case "aggregate":
		for _, a := range c.Aggregate {
			if rest == a.Name && a.Custom == nil {
				return a.Call, true
			}
			if rest == a.Name {
				return at(a.Pos)
			}
			if a.Custom == nil || len(rest) <= len(a.Name) || rest[:len(a.Name)+1] != a.Name+"." {
				continue
			}
			texts := map[string]flowdef.Text{"init": a.Custom.Init, "add": a.Custom.Add, "remove": a.Custom.Remove, "result": a.Custom.Result}
			if t, ok := texts[rest[len(a.Name)+1:]]; ok {
				return t, true
			}
		}
	}
	return flowdef.Text{}, false
}

// join is the parts of a path again.
func join(part []string) string {
	s := ""
	for i, p := range part {
		if i > 0 {
			s += "."
		}
		s += p
	}
	return s
}

// lateSubject is the subject to which a function sends late rows, or "".
func lateSubject(def *flowdef.Func) string {
	switch {
	case def.Calculate != nil && def.Calculate.Window != nil:
		return def.Calculate.Window.LateSubject.Value
	case def.Join != nil:
		return def.Join.LateSubject.Value
	}
	return ""
}
