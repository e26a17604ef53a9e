package flowdef

import (
	"fmt"
	"strings"
	"time"
)

// Aggregate is one aggregate of a Calculate.
type Aggregate struct {
	Name   string
	Pos    Pos              // of the name
	Call   Text             // as in sum(row.price)
	Custom *CustomAggregate // in place of Call
}

// CustomAggregate is an aggregate of expressions over self.
type CustomAggregate struct{ Init, Add, Remove, Result Text }

// Window says in which stretches rows are gathered.
type Window struct {
	Kind        string        // tumbling, hopping, sliding, session, count; "" if the definition names none
	Size        time.Duration // of a count window 0
	Every       time.Duration // of hopping windows
	Offset      time.Duration
	Count       int64 // rows of a count window
	EveryRows   int64 // of a count window
	Processing  bool  // by processing time
	Early       time.Duration
	EarlyRows   int64
	Late        string // "", dead_letter, drop, update or subject
	LateSubject Text
	Keep        time.Duration

	Pos Pos
	At  map[string]Pos // of the values, by their keys
}

// Join is the body of a Calculate that puts rows of two sides together.
type Join struct {
	Left, Right   JoinSide
	Bounded       bool // within is there
	Before, After time.Duration
	Type          Text // inner, left, right, full; "" is inner
	On            Text
	Emit          []EmitField
	Late          string // "", dead_letter, drop or subject
	LateSubject   Text

	Pos    Pos
	Within Pos // of its value
}

// JoinSide is one side of a join.
type JoinSide struct {
	When Text
	Keep Text // all or last; "" is all
	Pos  Pos
}

var windowKinds = []string{"tumbling", "hopping", "sliding", "session", "count"}

// aggregates decodes calculate.aggregate.
func (d *decoder) aggregates(c *object) []Aggregate {
	n := c.get("aggregate")
	if n == nil {
		return nil
	}
	if n.kind != mapNode {
		d.report(n.pos, codeType, fmt.Sprintf("aggregate is %s; it must be a mapping of names to aggregates", n.what()), "write it like aggregate: {total: sum(row.amount)}")
		return nil
	}
	var out []Aggregate
	for _, f := range n.fields {
		a := Aggregate{Name: f.name, Pos: f.key.pos}
		switch {
		case f.name == "":
			d.report(f.key.pos, codeName, "aggregate holds one without a name", "")
			continue
		case f.val.kind == mapNode:
			o := d.object(f.val, "calculate.aggregate.NAME")
			o.n = f.key // the place of what is missing
			a.Custom = &CustomAggregate{Init: o.expr("init"), Add: o.expr("add"), Remove: o.expr("remove"), Result: o.expr("result")}
			begins, grows := o.required("init", "init is what self is before the first row"), o.required("add", "add is what self is after a row")
			if !begins || !grows {
				continue
			}
		default:
			a.Call = d.scalar(f.val, "aggregate."+f.name)
			if f.val.kind != scalarNode {
				continue
			}
			if strings.TrimSpace(a.Call.Value) == "" {
				d.report(f.key.pos, codeMissing, fmt.Sprintf("aggregate.%s is empty", f.name), "write it like sum(row.amount)")
				continue
			}
		}
		out = append(out, a)
	}
	return out
}

// window decodes calculate.window.
func (d *decoder) window(c *object) *Window {
	o := c.child("window")
	if o == nil {
		return nil
	}
	w := &Window{Pos: c.vals["window"].key.pos, At: make(map[string]Pos)}
	for name, f := range o.vals {
		w.At[name] = f.val.pos
	}
	for _, kind := range windowKinds {
		if o.get(kind) == nil {
			continue
		}
		if w.Kind != "" {
			d.report(o.vals[kind].key.pos, codeValue, fmt.Sprintf("a window is %s or %s, not both", w.Kind, kind), "")
			continue
		}
		w.Kind = kind
		if kind == "count" {
			w.Count = o.integer(kind, 1<<40)
		} else {
			w.Size = o.duration(kind, 0)
		}
	}
	if w.Kind == "count" {
		w.EveryRows = o.integer("every", 1<<40)
		if n := o.get("every"); n != nil && n.isNumber() && w.EveryRows == 0 {
			w.EveryRows = -1 // a mistake, reported once
		}
	} else {
		w.Every = o.duration("every", 0)
	}
	w.Offset = o.duration("offset", 0)
	w.Processing = o.word("time", "event", "event", "processing") == "processing"
	w.Early = o.duration("early", 0)
	w.EarlyRows = o.integer("early_rows", 1<<40)
	w.Keep = o.duration("keep", 0)
	w.Late, w.LateSubject = o.late("dead_letter", "drop", "update")
	for _, name := range []string{"early", "early_rows", "keep"} {
		if n := o.get(name); n != nil && n.kind == scalarNode && (name == "early_rows" && w.EarlyRows == 0 || name == "early" && w.Early == 0 || name == "keep" && w.Keep == 0) &&
			strings.Trim(n.text, "0smhd") == "" {
			d.report(n.pos, codeNumber, name+" is zero", "leave it out, or say how much")
		}
	}
	return w
}

// late decodes what becomes of late rows: a word, or {subject: ...}.
func (o *object) late(words ...string) (string, Text) {
	n := o.get("late")
	if n == nil {
		return "", Text{}
	}
	if n.kind != mapNode {
		return o.word("late", "", words...), Text{}
	}
	s := o.child("late")
	if !s.required("subject", "write it like late: {subject: late.bids}") {
		return "", Text{}
	}
	return "subject", s.subject("subject", false, true)
}

// join decodes a join; nil if the function has none.
func (d *decoder) join(o *object, f *Func) *Join {
	n := o.get("join")
	if n == nil {
		return nil
	}
	pos := o.vals["join"].key.pos
	switch {
	case f.Mode != "Calculate" && f.Mode != "":
		d.report(pos, codeBody, fmt.Sprintf("join is the body of fmode Calculate, and this function's is %s", f.Mode), "change fmode to Calculate, or make it a function of its own")
	case o.get("calculate") != nil:
		d.report(pos, codeBody, "join beside calculate: a function has one implementation", "make them two functions")
	}
	j := o.child("join")
	if j == nil {
		return nil
	}
	out := &Join{Pos: pos, Within: pos, Type: j.text("type"), On: j.expr("on"), Emit: j.emits("emit")}
	side := func(name string) JoinSide {
		s := j.child(name)
		side := JoinSide{Pos: pos}
		if s == nil {
			return side
		}
		side.Pos = j.vals[name].key.pos
		side.When, side.Keep = s.expr("when"), s.text("keep")
		return side
	}
	out.Left, out.Right = side("left"), side("right")
	if w := j.get("within"); w != nil {
		out.Bounded, out.Within = true, w.pos
		if w.kind == mapNode {
			b := j.child("within")
			out.Before, out.After = b.duration("before", 0), b.duration("after", 0)
		} else {
			out.Before = j.duration("within", 0)
			out.After = out.Before
		}
	}
	out.Late, out.LateSubject = j.late("dead_letter", "drop")
	return out
}

// model decodes what a function says of its state's version, and of a Load as a table.
func (d *decoder) model(o *object, f *Func) {
	f.Join = d.join(o, f)
	if n := o.get("version"); n != nil {
		f.Version, f.VersionPos = o.integer("version", 1<<31), n.pos
		if n.isNumber() && f.Version == 0 {
			d.report(n.pos, codeNumber, "version is 0; the first is 1", "")
		}
	}
	f.Migrate = o.emits("migrate")
	if n := o.get("migrate"); n != nil {
		f.MigratePos = o.vals["migrate"].key.pos
	}
}

// table decodes what a Load says of a table.
func (l *object) table(out *LoadBody, conn string) {
	as := l.word("as", "", "stream", "table", "lookup")
	out.Table = as == "table"
	out.Set = l.emits("set")
	out.Missing = l.word("missing", "", "pass", "drop", "dead_letter")
	l.lookup(out, as, conn)
	for _, name := range []string{"set", "missing"} {
		if !out.Table && out.Lookup == nil && l.get(name) != nil {
			l.d.report(l.vals[name].key.pos, codeBody, name+" is for a Load as a table", "as: table")
		}
	}
	if l.get("as") != nil {
		out.AsPos = l.get("as").pos
	}
}
