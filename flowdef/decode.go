package flowdef

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// decoder makes one definition of one document's nodes.
type decoder struct {
	kind     string
	mistakes *Mistakes
	open     Opener // of files that definitions name; may be nil
}

func (d *decoder) report(pos Pos, code, message, hint string) {
	if len(*d.mistakes) < maxMistakes {
		*d.mistakes = append(*d.mistakes, NewMistake(pos, code, message, hint))
	}
}

// object is a mapping at a path of a kind. Its getters ask for keys of the table by name.
type object struct {
	d    *decoder
	n    *node
	path string
	vals map[string]field // by the table's name
	// meant are keys that an unknown one is near to: they are not reported as missing as well.
	meant map[string]bool
}

// object checks that a node is a mapping of known keys; nil if it is no mapping. Null is an empty one.
func (d *decoder) object(n *node, path string) *object {
	o := &object{d: d, n: n, path: path, vals: map[string]field{}, meant: map[string]bool{}}
	if n.isNull() {
		return o
	}
	if n.kind != mapNode {
		d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a mapping", d.label(path), n.what()), "known keys: "+strings.Join(keysAt(d.kind, path), ", "))
		return nil
	}
	for _, f := range n.fields {
		k := findKey(d.kind, path, f.name)
		if k == nil {
			o.meant[d.unknown(f, path)] = true
			continue
		}
		name := k.name()
		old, twice := o.vals[name]
		if twice { // both spellings: the newer counts
			f := f
			if f.name != name {
				old, f = f, old
			}
			o.vals[name] = f
			if sameKey := strings.HasSuffix(name, "name"); !sameKey && old.val.text != f.val.text {
				d.report(old.key.pos, codeTwoKeys, fmt.Sprintf("%s and %s differ; %s counts", f.name, old.name, f.name), "remove "+old.name)
			}
			continue
		}
		o.vals[name] = f
	}
	return o
}

// label names a mapping for a message.
func (d *decoder) label(path string) string {
	switch path {
	case "":
		return "a " + d.kind
	case "flows":
		return "a step"
	case "entry":
		return "an entry"
	case "verify":
		return "a rule"
	case "calculate.aggregate.NAME":
		return "an aggregate"
	case "calculate.window":
		return "a window"
	case "calculate.state.NAME":
		return "a field of the state"
	}
	return path
}

// unknown reports an unknown key and returns the known one that is near to it, or "".
func (d *decoder) unknown(f field, path string) string {
	known := keysAt(d.kind, path)
	near := nearest(f.name, known)
	hint := "known: " + strings.Join(known, ", ")
	if near != "" {
		hint = "did you mean " + quote(near) + "?"
	} else if other := elsewhere(d.kind, path, f.name); other != "" {
		hint = "it belongs to " + strings.ReplaceAll(other, ".NAME", "")
	}
	d.report(f.key.pos, codeKey, fmt.Sprintf("unknown key %s in %s", quote(f.name), d.label(path)), hint)
	return near
}

// get returns a key's value, nil if it is missing or null. A name that the table lacks is our own mistake.
func (o *object) get(name string) *node {
	if o == nil {
		return nil
	}
	k := findKey(o.d.kind, o.path, name)
	if k == nil || k.name() != name {
		panic(fmt.Sprintf("flowdef: no key %q at %s %q", name, o.d.kind, o.path))
	}
	f, ok := o.vals[name]
	if !ok || f.val.isNull() {
		return nil
	}
	return f.val
}

func (o *object) sub(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// child returns the mapping under a key, nil if there is none.
func (o *object) child(name string) *object {
	n := o.get(name)
	if n == nil {
		return nil
	}
	return o.d.object(n, o.sub(name))
}

// text returns a scalar as it is written.
func (o *object) text(name string) Text {
	n := o.get(name)
	if n == nil {
		return Text{}
	}
	return o.d.scalar(n, o.vals[name].name)
}

func (d *decoder) scalar(n *node, name string) Text {
	if n.kind != scalarNode {
		d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be one text", name, n.what()), "")
		return Text{}
	}
	if n.typ == nullScalar {
		return Text{Pos: n.pos}
	}
	return n.asText()
}

func (o *object) str(name string) string { return o.text(name).Value }

// expr returns an expression; an empty one is a mistake.
func (o *object) expr(name string) Text {
	t := o.text(name)
	if n := o.get(name); n != nil && n.kind == scalarNode && strings.TrimSpace(t.Value) == "" {
		o.d.report(t.Pos, codeMissing, name+" is empty", "write an expression, or leave the key out")
	}
	return t
}

// name returns a name and checks it.
func (o *object) name(name string) Text {
	t := o.text(name)
	if n := o.get(name); n != nil && n.kind == scalarNode {
		if fault := checkName(t.Value); fault != "" {
			o.d.report(t.Pos, codeName, fmt.Sprintf("%s %s", o.vals[name].name, fault), "")
		}
	}
	return t
}

// required reports a key that must be there.
func (o *object) required(name, hint string) bool {
	if o == nil {
		return false
	}
	if o.get(name) != nil {
		return true
	}
	if o.meant[name] {
		return false
	}
	pos := o.n.pos
	if f, ok := o.vals[name]; ok {
		pos = f.key.pos
		o.d.report(pos, codeMissing, name+" is empty", hint)
		return false
	}
	o.d.report(pos, codeMissing, fmt.Sprintf("%s has no %s", o.d.label(o.path), name), hint)
	return false
}

// word returns one of a few words.
func (o *object) word(name, def string, words ...string) string {
	n := o.get(name)
	if n == nil {
		return def
	}
	t := o.d.scalar(n, name)
	if n.kind != scalarNode || slices.Contains(words, t.Value) {
		return t.Value
	}
	hint := "one of " + strings.Join(words, ", ")
	for _, w := range words {
		if strings.EqualFold(w, t.Value) {
			hint = fmt.Sprintf("write it as %s: large and small letters differ", w)
		}
	}
	if near := meantWord(t.Value, words); near != "" && strings.HasPrefix(hint, "one of") {
		hint = "did you mean " + quote(near) + "? " + hint
	}
	o.d.report(t.Pos, codeValue, fmt.Sprintf("unknown %s %s", name, quote(t.Value)), hint)
	return def
}

// meantWord returns the word that is near to a text, or that it begins, or "".
func meantWord(text string, words []string) string {
	if near := nearest(text, words); near != "" || text == "" {
		return near
	}
	for _, w := range words {
		if strings.HasPrefix(strings.ToLower(w), strings.ToLower(text)) {
			return w
		}
	}
	return ""
}

func (o *object) boolean(name string) bool {
	n := o.get(name)
	if n == nil {
		return false
	}
	v, ok := parseBool(n)
	if !ok {
		o.d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be true or false", name, n.what()), "")
	}
	return v
}

// integer returns a whole number from 0 to limit.
func (o *object) integer(name string, limit int64) int64 {
	n := o.get(name)
	if n == nil {
		return 0
	}
	if !n.isNumber() {
		hint := ""
		if n.kind == scalarNode {
			if _, err := parseInt(n.text); err == nil {
				hint = "write it without quotes"
			}
		}
		o.d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a number", name, n.what()), hint)
		return 0
	}
	v, err := parseInt(n.text)
	switch {
	case err != nil && n.typ == floatScalar:
		o.d.report(n.pos, codeNumber, fmt.Sprintf("%s is %s; it must be a whole number", name, n.text), "")
	case err != nil || v > limit:
		o.d.report(n.pos, codeNumber, fmt.Sprintf("%s is %s; it must be at most %d", name, n.text, limit), "")
	case v < 0:
		o.d.report(n.pos, codeNumber, fmt.Sprintf("%s is %s; it must not be negative", name, n.text), "")
	default:
		return v
	}
	return 0
}

func (o *object) duration(name string, def time.Duration) time.Duration {
	n := o.get(name)
	if n == nil {
		return def
	}
	t := o.d.scalar(n, name)
	if n.kind != scalarNode {
		return def
	}
	v, err := parseDuration(t.Value)
	if err != nil {
		o.d.report(t.Pos, codeDuration, fmt.Sprintf("%s %s %v", name, quote(t.Value), err), "write it like 30s, 12h or 7d")
		return def
	}
	return v
}

func (o *object) size(name string, def int64) int64 {
	n := o.get(name)
	if n == nil {
		return def
	}
	t := o.d.scalar(n, name)
	if n.kind != scalarNode {
		return def
	}
	v, err := parseSize(t.Value)
	if err != nil {
		o.d.report(t.Pos, codeSize, fmt.Sprintf("%s %s %v", name, quote(t.Value), err), "write it like 512MiB or 10GiB")
		return def
	}
	return v
}

// texts returns a list of texts; each may stand once where unique says so.
func (o *object) texts(name string, unique bool) []Text {
	n := o.get(name)
	if n == nil {
		return nil
	}
	if n.kind != listNode {
		o.d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a list", name, n.what()), fmt.Sprintf("write it like %s: [a, b]", name))
		return nil
	}
	var out []Text
	seen := map[string]Pos{}
	for _, item := range n.items {
		if item.kind != scalarNode {
			o.d.report(item.pos, codeType, fmt.Sprintf("%s holds %s; it must hold texts", name, item.what()), "")
			continue
		}
		t := o.d.scalar(item, name)
		if unique {
			if t.Value == "" {
				o.d.report(t.Pos, codeMissing, name+" holds an empty name", "")
				continue
			}
			if first, twice := seen[t.Value]; twice {
				o.d.report(t.Pos, codeRepeated, fmt.Sprintf("%s holds %s twice", name, quote(t.Value)), fmt.Sprintf("the first is in line %d, column %d", first.Line, first.Column))
				continue
			}
			seen[t.Value] = t.Pos
		}
		out = append(out, t)
	}
	return out
}

func (o *object) strs(name string) []string {
	var out []string
	for _, t := range o.texts(name, false) {
		out = append(out, t.Value)
	}
	return out
}

// params returns a mapping of texts. Null is an empty text.
func (o *object) params(name string) map[string]string {
	n := o.get(name)
	if n == nil {
		return nil
	}
	if n.kind != mapNode {
		o.d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a mapping of texts", name, n.what()), fmt.Sprintf("write it like %s: {name: value}", name))
		return nil
	}
	out := map[string]string{}
	for _, f := range n.fields {
		out[f.name] = o.d.scalar(f.val, name+"."+f.name).Value
	}
	return out
}

// emits returns a mapping of expressions, in the order of the file.
func (o *object) emits(name string) []EmitField {
	n := o.get(name)
	if n == nil {
		return nil
	}
	if n.kind != mapNode {
		o.d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a mapping of field names to expressions", name, n.what()), fmt.Sprintf("write it like %s: {total: state.total}", name))
		return nil
	}
	if len(n.fields) == 0 {
		o.d.report(o.vals[name].key.pos, codeMissing, name+" names no field", "leave it out to pass the row on as it is")
		return nil
	}
	out := make([]EmitField, 0, len(n.fields))
	for _, f := range n.fields {
		e := EmitField{Name: f.name, Pos: f.key.pos, Expr: o.d.scalar(f.val, name+"."+f.name)}
		if f.name == "" {
			o.d.report(f.key.pos, codeName, name+" holds a field without a name", "")
		}
		if f.val.kind == scalarNode && strings.TrimSpace(e.Expr.Value) == "" {
			o.d.report(f.key.pos, codeMissing, fmt.Sprintf("%s.%s has no expression", name, f.name), "")
		}
		out = append(out, e)
	}
	return out
}

func (o *object) subject(name string, wildcards, fields bool) Text {
	t := o.text(name)
	if n := o.get(name); n != nil && n.kind == scalarNode {
		o.d.checkSubject(t, wildcards, fields)
	}
	return t
}

func (d *decoder) checkSubject(t Text, wildcards, fields bool) {
	if f := checkSubject(t.Value, wildcards, fields); f != nil {
		d.report(t.At(f.offset), codeSubject, fmt.Sprintf("subject %s %s", quote(t.Value), f.message), f.hint)
	}
}

// streamName checks the name of a stream, which NATS uses in subjects and folders.
func (o *object) streamName(name string) Text {
	t := o.name(name)
	if i := strings.IndexAny(t.Value, ".*>/\\ \t"); i >= 0 {
		o.d.report(t.At(i), codeName, fmt.Sprintf("stream name %s holds %q", quote(t.Value), t.Value[i]), "use letters, digits, - and _")
	}
	if strings.HasPrefix(strings.ToUpper(t.Value), ownWord+"_") {
		o.d.report(t.Pos, codeName, fmt.Sprintf("stream name %s begins with %s_, which belongs to KisFlow itself", quote(t.Value), ownWord), "")
	}
	return t
}

func (o *object) stream() *StreamSettings {
	if o == nil {
		return nil
	}
	return &StreamSettings{Name: o.streamName("name"), MaxAge: o.duration("retention", 0), MaxBytes: o.size("size", 0)}
}

// flow decodes a definition of kind flow; nil if it has no name to go by.
func (d *decoder) flow(root *node, body string) *Flow {
	o := d.object(root, "")
	if o == nil {
		return nil
	}
	f := &Flow{Pos: root.pos, Source: body}
	o.required("flow_name", "every flow has a name")
	name := o.name("flow_name")
	f.Name = name.Value
	if name.Value != "" {
		f.Pos = name.Pos
	}
	if n := o.get("status"); n != nil {
		v := o.integer("status", 1<<31)
		f.Enabled = v != 0
		if v > 1 {
			d.report(n.pos, codeStatus, fmt.Sprintf("status is %d; it counts as 1", v), "write 1 to enable, 0 to disable")
		}
	} else if f.Name != "" && !o.meant["status"] {
		d.report(f.Pos, codeNoStatus, fmt.Sprintf("flow %s has no status, so it is DISABLED and never runs", quote(f.Name)), "add status: 1 to enable it, or status: 0 if that is meant")
	}
	f.Entries = d.entries(o)
	f.Time = o.time()
	f.Outputs = o.child("outputs").stream()
	f.Loop = o.loop()
	f.Steps = d.steps(o)
	if f.Name == "" {
		return nil
	}
	return f
}

func (d *decoder) entries(o *object) []Entry {
	n := o.get("entry")
	if n == nil {
		return nil
	}
	items := []*node{n}
	if n.kind == listNode {
		items = n.items
	}
	var out []Entry
	for _, item := range items {
		if item.kind == scalarNode && item.typ != nullScalar { // just a subject
			t := d.scalar(item, "entry")
			d.checkSubject(t, true, false)
			out = append(out, Entry{Subject: t, From: "beginning"})
			continue
		}
		e := d.object(item, "entry")
		ok := e.required("subject", "an entry reads a subject, like entry: {subject: orders.>}")
		entry := Entry{
			Subject:    e.subject("subject", true, false),
			From:       e.from(),
			Stream:     e.child("stream").stream(),
			AllowLossy: e.boolean("allow_lossy"),
			Fields:     e.fields("fields"),
		}
		if ok {
			out = append(out, entry)
		}
	}
	for i := range out {
		for j := range i {
			a, b := out[j].Subject, out[i].Subject
			if a.Value == b.Value {
				d.report(b.Pos, codeRepeated, fmt.Sprintf("entry reads %s twice", quote(b.Value)), fmt.Sprintf("the first is in line %d", a.Pos.Line))
				break
			}
			if checkSubject(a.Value, true, false) == nil && checkSubject(b.Value, true, false) == nil && intersect(a.Value, b.Value) {
				d.report(b.Pos, codeRepeated, fmt.Sprintf("entry %s reads what %s reads as well", quote(b.Value), quote(a.Value)), "an event comes in once; leave one of them out, or narrow it")
				break
			}
		}
	}
	return out
}

func (d *decoder) steps(o *object) []Step {
	n := o.get("flows")
	if n == nil {
		return nil
	}
	if n.kind != listNode {
		d.report(n.pos, codeType, fmt.Sprintf("flows is %s; it must be a list of steps", n.what()), "write it like flows: [{fname: A}, {fname: B}]")
		return nil
	}
	var out []Step
	named := map[string]Pos{}
	count := map[string]int{}
	for _, item := range n.items {
		if item.kind == scalarNode && item.typ != nullScalar {
			d.report(item.pos, codeType, fmt.Sprintf("a step is %s; it must be a mapping", item.what()), fmt.Sprintf("write it like - fname: %s", item.text))
			continue
		}
		s := d.object(item, "flows")
		ok := s.required("fname", "every step names its function")
		step := Step{Function: s.name("fname"), Params: s.params("params"), Pos: item.pos}
		as := s.name("as")
		if !ok {
			continue
		}
		step.Name = as.Value
		if step.Name == "" {
			fn := step.Function.Value
			count[fn]++
			step.Name = fn
			if count[fn] > 1 {
				step.Name = fmt.Sprintf("%s#%d", fn, count[fn])
			}
			as = step.Function
		}
		if first, twice := named[step.Name]; twice && step.Name != "" {
			d.report(as.Pos, codeStepName, fmt.Sprintf("a second step is named %s", quote(step.Name)), fmt.Sprintf("the first is in line %d; name this one with as", first.Line))
		} else {
			named[step.Name] = as.Pos
		}
		out = append(out, step)
	}
	return out
}

// modes are the modes of functions, with the key of their body.
var modes = map[string]string{"Verify": "verify", "Save": "save", "Load": "load", "Calculate": "calculate", "Expand": "expand"}

// function decodes a definition of kind func; nil if it has no name to go by.
func (d *decoder) function(root *node, body string) *Func {
	o := d.object(root, "")
	if o == nil {
		return nil
	}
	f := &Func{Pos: root.pos, Text: body}
	o.required("fname", "every function has a name")
	name := o.name("fname")
	f.Name = name.Value
	if f.Name != "" {
		f.Pos = name.Pos
	}
	f.ID = otherSpelling(o, root, "fname", "fid")
	if o.required("fmode", "one of Verify, Save, Load, Calculate, Expand") {
		f.Mode = o.word("fmode", "", "Verify", "Save", "Load", "Calculate", "Expand")
	}
	src := o.child("source")
	f.Source.Name = src.str("name")
	f.Source.Must = src.texts("must", true)
	opt := o.child("option")
	f.Option.Conn = opt.name("cname")
	f.Option.RetryTimes = int(opt.integer("retry_times", 1_000_000))
	f.Option.RetryDuration = opt.retryDuration()
	f.Option.DefaultParams = opt.params("default_params")
	f.OnError = o.word("on_error", "dead_letter", "dead_letter", "stop", "park_key")
	f.TTL = o.ttl()
	f.Verify = d.verify(o)
	f.Calculate = d.calculate(o, f)
	f.Expand = d.expand(o)
	d.bodies(o, f)
	d.model(o, f)
	f.Needs, f.Offers = o.fields("needs"), o.fields("offers")
	if s := o.child("save"); s != nil {
		f.Save = &Save{
			Handoff: s.name("handoff"), Retention: s.duration("retention", 7*24*time.Hour), MaxBytes: s.size("size", 0),
			Fields: s.texts("fields", true), Shared: s.boolean("shared"), Key: s.texts("key", true), Keep: s.word("keep", "", "last", "none"),
		}
		f.Save.KeyPos, f.Save.KeepPos = s.keyPos("key"), s.keyPos("keep")
	}
	if l := o.child("load"); l != nil {
		f.Load = &LoadBody{Handoff: l.name("handoff"), From: l.from()}
		l.table(f.Load, f.Option.Conn.Value)
		l.lookupPlace(f)
	}
	if f.Save == nil && f.Mode == "Save" && f.Option.Conn.Value == "" {
		f.Save = &Save{Retention: 7 * 24 * time.Hour}
	}
	if f.Load == nil && f.Mode == "Load" && f.Option.Conn.Value == "" {
		f.Load = &LoadBody{From: "beginning"}
	}
	if f.Mode != "" {
		for mode, key := range modes {
			if mode != f.Mode && o.get(key) != nil {
				d.report(o.vals[key].key.pos, codeBody, fmt.Sprintf("%s is the body of fmode %s, and this function's is %s", key, mode, f.Mode), "change fmode to "+mode+", or make it a function of its own")
			}
		}
	}
	if f.Name == "" {
		return nil
	}
	d.takeScript(root, f)
	return f
}

// keyPos is the place of a key; the zero Pos where it is not there.
func (o *object) keyPos(name string) Pos {
	if o.get(name) == nil {
		return Pos{}
	}
	return o.vals[name].key.pos
}

// otherSpelling returns the value of the older spelling where both stand.
func otherSpelling(o *object, root *node, name, old string) string {
	if o.vals[name].name != name {
		return ""
	}
	for _, f := range root.fields {
		if f.name == old && f.val.kind == scalarNode && f.val.typ != nullScalar && f.val.text != o.vals[name].val.text {
			return f.val.text
		}
	}
	return ""
}

// retryDuration is a number of milliseconds, or a duration with its unit.
func (o *object) retryDuration() time.Duration {
	n := o.get("retry_duration")
	if n == nil {
		return 0
	}
	if n.kind == scalarNode && !n.isNumber() {
		return o.duration("retry_duration", 0)
	}
	return time.Duration(o.integer("retry_duration", int64(365*24*time.Hour/time.Millisecond))) * time.Millisecond
}

func (d *decoder) verify(o *object) []Rule {
	n := o.get("verify")
	if n == nil {
		return nil
	}
	if n.kind != listNode {
		d.report(n.pos, codeType, fmt.Sprintf("verify is %s; it must be a list of rules", n.what()), "write it like verify: [{rule: row.amount > 0, reason: amount must be above zero}]")
		return nil
	}
	var out []Rule
	for _, item := range n.items {
		if item.kind == scalarNode && item.typ != nullScalar {
			d.report(item.pos, codeType, fmt.Sprintf("a rule is %s; it must be a mapping", item.what()), fmt.Sprintf("write it like {rule: %s, reason: ...}", quote(item.text)))
			continue
		}
		r := d.object(item, "verify")
		ok := r.required("rule", "a rule is an expression that is true for a good row")
		rule := Rule{Rule: r.expr("rule"), Reason: r.str("reason"), Else: r.word("else", "dead_letter", "dead_letter", "drop")}
		if rule.Reason == "" {
			rule.Reason = strings.Join(strings.Fields(rule.Rule.Value), " ")
		}
		if ok {
			out = append(out, rule)
		}
	}
	return out
}

func (d *decoder) calculate(o *object, f *Func) *Calculate {
	c := o.child("calculate")
	if c == nil {
		return nil
	}
	out := &Calculate{When: c.expr("when"), Emit: c.emits("emit"), Aggregate: d.aggregates(c), Window: d.window(c), Replace: c.expr("replace")}
	n := c.get("state")
	if n != nil && n.kind != mapNode {
		d.report(n.pos, codeType, fmt.Sprintf("state is %s; it must be a mapping of field names", n.what()), "write it like state: {count: {init: 0, set: state.count + 1}}")
		n = nil
	}
	if n != nil {
		for _, fl := range n.fields {
			if fl.name == "" {
				d.report(fl.key.pos, codeName, "state holds a field without a name", "")
				continue
			}
			if fl.val.kind == scalarNode && fl.val.typ != nullScalar {
				d.report(fl.val.pos, codeType, fmt.Sprintf("state.%s is %s; it must be a mapping", fl.name, fl.val.what()), fmt.Sprintf("write it like %s: {init: 0, set: %s}", fl.name, fl.val.text))
				continue
			}
			s := d.object(fl.val, "calculate.state.NAME")
			if s == nil {
				continue
			}
			s.n = fl.key // the place of what is missing
			ok := s.required("set", "set is the field's value after a row")
			sf := StateField{Name: fl.name, Pos: fl.key.pos, Init: s.expr("init"), Set: s.expr("set")}
			if s.get("init") == nil {
				sf.Init = Text{Value: "0", Pos: fl.key.pos}
			} else if at, used := usesNames(sf.Init.Value, "row", "state", "meta"); at >= 0 {
				d.report(sf.Init.At(at), codeScope, fmt.Sprintf("init of %s uses %s; there is none before the first row", quote(fl.name), used), "use a fixed value or params here; what needs the row belongs to set")
			}
			if ok {
				out.State = append(out.State, sf)
			}
		}
	}
	if n != nil && len(n.fields) > 0 && len(f.Source.Must) == 0 {
		d.report(o.vals["calculate"].key.pos, codeNoKey, "calculate keeps state, and the function has no key", "name the key's fields: source: {must: [userid]}")
	}
	if len(out.State) == 0 && out.Emit == nil && n == nil && c.get("emit") == nil && c.get("aggregate") == nil && c.get("window") == nil && c.get("replace") == nil {
		d.report(o.vals["calculate"].key.pos, codeMissing, "calculate has neither state nor emit", "")
	}
	return out
}

func (d *decoder) expand(o *object) *Expand {
	e := o.child("expand")
	if e == nil {
		return nil
	}
	if e.n != nil && e.get("subject") == nil {
		e.n = o.vals["expand"].key
	}
	e.required("subject", "an expand sends to a subject, like expand: {subject: totals.user}")
	return &Expand{Subject: e.subject("subject", false, true), Emit: e.emits("emit"), Pack: e.boolean("pack"), When: e.expr("when"), Shared: e.boolean("shared")}
}

// connector decodes a definition of kind conn; nil if it has no name to go by.
func (d *decoder) connector(root *node, body string) *Conn {
	o := d.object(root, "")
	if o == nil {
		return nil
	}
	o.required("cname", "every connector has a name")
	name := o.name("cname")
	c := &Conn{
		Name: name.Value, Pos: root.pos, Addrs: o.str("addrs"), Type: o.str("type"), Key: o.str("key"),
		Params: o.params("params"), Load: o.strs("load"), Save: o.strs("save"), Text: body,
	}
	o.strs("flow")
	o.connectorPlaces(c)
	c.ID = otherSpelling(o, root, "cname", "cid")
	if c.Name == "" {
		return nil
	}
	c.Pos = name.Pos
	return c
}

// global decodes a definition of kind global.
func (d *decoder) global(root *node) *Global {
	o := d.object(root, "")
	if o == nil {
		return nil
	}
	g := &Global{
		Pos:              root.pos,
		PrometheusEnable: o.boolean("prometheus_enable"),
		PrometheusListen: o.boolean("prometheus_listen"),
		PrometheusServe:  o.address("prometheus_serve", ""),
		Data:             o.str("data"),
		NATS:             o.str("nats"),
		NATSListen:       o.address("nats_listen", "127.0.0.1:4222"),
		Listen:           o.address("listen", "127.0.0.1:7070"),
		Durability:       o.word("durability", "power", "power", "process"),
		LogFormat:        o.word("log_format", "text", "text", "json"),
		LogLevel:         o.word("log_level", "info", "debug", "info", "warn", "error"),
		StateCache:       o.size("state_cache", 256<<20),
	}
	g.Cluster, g.Security = o.cluster(), o.security()
	if n := o.get("flows"); n != nil && n.kind == scalarNode {
		g.Flows = []string{n.text}
	} else {
		g.Flows = o.strs("flows")
	}
	return g
}

func (o *object) cluster() *Cluster {
	c := o.child("cluster")
	if c == nil {
		return nil
	}
	c.required("name", "the same at all nodes of the cluster")
	out := &Cluster{
		Pos: c.n.pos, Name: c.str("name"), Node: c.str("node"), Listen: c.address("listen", ""), Advertise: c.address("advertise", ""),
		Join: c.strs("join"), ActorsListen: c.address("actors_listen", ""), ActorsAdvertise: c.address("actors_advertise", ""),
		Lease: c.duration("lease", 0), Standbys: -1, Replicas: int(c.integer("replicas", 5)),
	}
	if c.get("standbys") != nil {
		out.Standbys = int(c.integer("standbys", 2))
	}
	return out
}

func (o *object) security() *Security {
	s := o.child("security")
	if s == nil {
		return nil
	}
	out := &Security{Pos: s.n.pos, Cert: s.str("cert"), Key: s.str("key"), CA: s.str("ca"), User: s.str("user")}
	password := s.text("password")
	if out.Password = password.Value; out.Password != "" && !(strings.HasPrefix(out.Password, "${") && strings.HasSuffix(out.Password, "}")) {
		o.d.report(password.Pos, codeValue, "password is a secret and stands here in the open", "write ${ENV:NAME} or ${file:PATH}")
	}
	return out
}

// address returns host:port.
func (o *object) address(name, def string) string {
	n := o.get(name)
	if n == nil {
		return def
	}
	t := o.text(name)
	if n.kind == scalarNode {
		if fault := checkAddress(t.Value); fault != "" {
			o.d.report(t.Pos, codeValue, fmt.Sprintf("%s %s %s", name, quote(t.Value), fault), "write it like 127.0.0.1:7070")
		}
	}
	return t.Value
}
