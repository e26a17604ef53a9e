package flowdef

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Edit is one change of a flow's steps.
type Edit struct {
	Kind EditKind
	// Step is the name of the step to remove or replace.
	Step string
	// Function is what the new step runs; of Replace, what the step runs from now on. Empty, a replaced step keeps
	// its function: only its parameters change.
	Function string
	// As names the new step. Empty, an inserted step is named after its function, and a replaced one keeps its name,
	// and with it its state.
	As string
	// Before and After name the step beside which the new one goes, At is its place, counted from 1. At most one of
	// them is set; with none the new step is the last.
	Before, After string
	At            int
	// Params are the new step's parameters; of Replace, those that change.
	Params map[string]string
}

// EditKind is what an Edit does.
type EditKind string

// The kinds of edits.
const (
	Insert  EditKind = "insert"
	Remove  EditKind = "remove"
	Replace EditKind = "replace"
)

// errLayout: the text is written in a way that is not edited here.
var errLayout = errors.New("its steps are written in a way that only a person should edit: change the file and apply it")

// EditSteps returns the text of a flow's document with one change of its steps. All else stays as it is
// written, comments and layout as well; all other steps keep their names. What comes out has been read again and
// compared: where the layout of the text leads to anything else, the error says so.
func EditSteps(text string, e Edit) (string, error) {
	s, err := newSheet(text)
	if err != nil {
		return "", err
	}
	want, at, err := s.plan(e)
	if err != nil {
		return "", err
	}
	switch e.Kind {
	case Insert:
		s, err = s.insert(at, want[at])
	case Remove:
		s, err = s.remove(at)
	case Replace:
		s, err = s.replace(at, want[at])
	}
	if err != nil {
		return "", fmt.Errorf("flow %s: %w", quote(s.flow.Name), err)
	}
	for i := len(want) - 1; i >= 0; i-- { // what is named by its function only may be another one's namesake now
		if i < len(s.flow.Steps) && s.flow.Steps[i].Name != want[i].Name {
			if s, err = s.set(i, []string{"as"}, want[i].Name); err != nil {
				return "", fmt.Errorf("flow %s: %w", quote(s.flow.Name), err)
			}
		}
	}
	before, _ := newSheet(text)
	same := slices.EqualFunc(want, s.flow.Steps, func(a, b Step) bool {
		return a.Name == b.Name && a.Function.Value == b.Function.Value && maps.Equal(a.Params, b.Params)
	})
	if !same || s.rest() != before.rest() {
		return "", fmt.Errorf("flow %s: %w", quote(s.flow.Name), errLayout)
	}
	return s.text, nil
}

// sheet is the text of a flow's document with what it says.
type sheet struct {
	text string
	src  *source
	root *node
	key  *node // of the list of steps; nil if there is none
	list *node
	flow *Flow
}

func newSheet(text string) (*sheet, error) {
	src, fault := newSource("the flow", []byte(text))
	if fault != nil {
		return nil, errors.New(fault.String())
	}
	docs := src.documents()
	if len(docs) != 1 {
		return nil, fmt.Errorf("the text holds %d definitions; it must be one flow", len(docs))
	}
	s := &sheet{text: strings.Join(src.lines, "\n") + "\n", src: src}
	var mistakes Mistakes
	set := new(Set)
	if s.root = readDocument(src, docs[0], &mistakes); s.root != nil {
		set.add(s.root, docs[0].body, &mistakes)
	}
	if err := mistakes.Errors().Err(); err != nil {
		return nil, err
	}
	if len(set.Flows) != 1 {
		return nil, errors.New("the text is no flow")
	}
	s.flow = set.Flows[0]
	for _, f := range s.root.fields {
		if f.name == "flows" {
			s.key, s.list = f.key, f.val
		}
	}
	return s, nil
}

// rest is all that the document says beside its steps.
func (s *sheet) rest() string {
	var b strings.Builder
	for _, f := range s.root.fields {
		if f.name != "flows" {
			fmt.Fprintf(&b, "%q: ", f.name)
			f.val.dump(&b)
		}
	}
	return b.String()
}

// dump writes a node's meaning.
func (n *node) dump(b *strings.Builder) {
	switch n.kind {
	case scalarNode:
		fmt.Fprintf(b, "%d %q ", n.typ, n.text)
	case mapNode:
		b.WriteString("{")
		for _, f := range n.fields {
			fmt.Fprintf(b, "%q: ", f.name)
			f.val.dump(b)
		}
		b.WriteString("}")
	case listNode:
		b.WriteString("[")
		for _, item := range n.items {
			item.dump(b)
		}
		b.WriteString("]")
	}
}

// plan returns the steps that there are to be, and the place of the one that the edit is about.
func (s *sheet) plan(e Edit) (want []Step, at int, err error) {
	want = slices.Clone(s.flow.Steps)
	find := func(name string) (int, error) {
		if i := slices.IndexFunc(want, func(t Step) bool { return t.Name == name }); i >= 0 {
			return i, nil
		}
		var names []string
		for _, t := range want {
			names = append(names, t.Name)
		}
		hint := "it has no steps"
		if len(names) > 0 {
			hint = "it has " + strings.Join(names, ", ")
		}
		if near := nearest(name, names); near != "" && len(name) > 2 {
			hint = fmt.Sprintf("did you mean %s?", quote(near))
		}
		return 0, fmt.Errorf("flow %s has no step %s; %s", quote(s.flow.Name), quote(name), hint)
	}
	taken := func(name string, but int) bool {
		return slices.ContainsFunc(want, func(t Step) bool { return t.Name == name && (but < 0 || want[but].Name != name) })
	}
	for what, name := range map[string]string{"the function's name": e.Function, "the step's name": e.As} {
		if fault := checkName(name); name != "" && fault != "" {
			return nil, 0, fmt.Errorf("%s %s", what, fault)
		}
	}
	switch e.Kind {
	case Insert:
		if e.Function == "" {
			return nil, 0, errors.New("the new step names no function")
		}
		at = len(want)
		switch {
		case e.Before != "" && e.After != "" || (e.Before != "" || e.After != "") && e.At != 0:
			return nil, 0, errors.New("say one of before, after and at")
		case e.Before != "":
			at, err = find(e.Before)
		case e.After != "":
			at, err = find(e.After)
			at++
		case e.At < 0 || e.At > len(want)+1:
			return nil, 0, fmt.Errorf("place %d: flow %s has %d steps, so the new one can stand at 1 to %d", e.At, quote(s.flow.Name), len(want), len(want)+1)
		case e.At > 0:
			at = e.At - 1
		}
		if err != nil {
			return nil, 0, err
		}
		if e.As != "" && taken(e.As, -1) {
			return nil, 0, fmt.Errorf("flow %s has a step %s already; give the new one another name", quote(s.flow.Name), quote(e.As))
		}
		name := cmp.Or(e.As, e.Function)
		for n := 2; taken(name, -1); n++ {
			name = fmt.Sprintf("%s#%d", e.Function, n)
		}
		want = slices.Insert(want, at, Step{Name: name, Function: Text{Value: e.Function}, Params: maps.Clone(e.Params)})
	case Remove:
		if at, err = find(e.Step); err != nil {
			return nil, 0, err
		}
		if len(want) == 1 {
			return nil, 0, fmt.Errorf("step %s is the only one of flow %s; disable or delete the flow instead", quote(e.Step), quote(s.flow.Name))
		}
		want = slices.Delete(want, at, at+1)
	case Replace:
		if at, err = find(e.Step); err != nil {
			return nil, 0, err
		}
		t := want[at]
		if e.As != "" && e.As != t.Name && taken(e.As, at) {
			return nil, 0, fmt.Errorf("flow %s has a step %s already", quote(s.flow.Name), quote(e.As))
		}
		t.Name, t.Function.Value = cmp.Or(e.As, t.Name), cmp.Or(e.Function, t.Function.Value)
		if t.Params = maps.Clone(t.Params); t.Params == nil && len(e.Params) > 0 {
			t.Params = make(map[string]string)
		}
		maps.Copy(t.Params, e.Params)
		want[at] = t
	default:
		return nil, 0, fmt.Errorf("unknown edit %s; it is insert, remove or replace", quote(string(e.Kind)))
	}
	return want, at, nil
}

// splice returns the sheet with another text from one byte to another one.
func (s *sheet) splice(from, to int, text string) (*sheet, error) {
	next, err := newSheet(s.text[:from] + text + s.text[to:])
	if err != nil {
		return s, errLayout
	}
	return next, nil
}

// offset is the byte at which a place stands in the text.
func (s *sheet) offset(line, column int) int {
	n := 0
	for _, l := range s.src.lines[:min(line-1, len(s.src.lines))] {
		n += len(l) + 1
	}
	l := s.src.line(line)
	for range column - 1 {
		_, w := utf8.DecodeRuneInString(l)
		l = l[w:]
		n += w
	}
	return n
}

// item is where a step stands in the text.
type item struct {
	from, to int // its bytes: without the dash and the comments, or the comma
	dash     int // line of its dash, counted from 0; -1 in brackets
	head     int // first line of the comment above it
	last     int // its last line with anything of it
}

// layout finds the steps in the text: in lines with dashes, or in brackets.
func (s *sheet) layout() (items []item, brackets bool, err error) {
	if s.list == nil || s.list.kind != listNode {
		return nil, false, errLayout
	}
	start := s.offset(s.key.pos.Line, s.key.pos.Column)
	colon := strings.IndexByte(s.text[start:], ':')
	if colon < 0 {
		return nil, false, errLayout
	}
	i := start + colon + 1
	for i < len(s.text) && s.text[i] == ' ' {
		i++
	}
	if i < len(s.text) && s.text[i] == '[' {
		items, err = s.inBrackets(i)
		brackets = true
	} else {
		items, err = s.inLines()
	}
	if err == nil && len(items) != len(s.list.items) {
		err = errLayout
	}
	return items, brackets, err
}

// inLines finds the steps of a list with dashes.
func (s *sheet) inLines() ([]item, error) {
	var items []item
	indent := -1
	lines := s.src.lines
	for n := s.key.pos.Line; n < len(lines); n++ {
		l := lines[n]
		body := strings.TrimLeft(l, " ")
		in := len(l) - len(body)
		if body == "" || body[0] == '#' && (indent < 0 || in <= indent) {
			continue // a comment that is indented further is part of its step
		}
		dash := body == "-" || strings.HasPrefix(body, "- ")
		if indent < 0 {
			if !dash {
				return nil, errLayout
			}
			indent = in
		}
		if in < indent || in == indent && !dash {
			break
		}
		if in == indent {
			head := n
			for head > s.key.pos.Line && strings.HasPrefix(strings.TrimLeft(lines[head-1], " "), "#") &&
				len(lines[head-1])-len(strings.TrimLeft(lines[head-1], " ")) == indent {
				head--
			}
			it := item{dash: n, head: head}
			it.from = s.offset(n+1, 1) + indent + 1
			for it.from < len(s.text) && s.text[it.from] == ' ' {
				it.from++
			}
			items = append(items, it)
		}
		it := &items[len(items)-1]
		it.last, it.to = n, s.offset(n+1, 1)+len(strings.TrimRight(l, " "))
	}
	return items, nil
}

// inBrackets finds the steps of a list in brackets, the first of which is at a byte.
func (s *sheet) inBrackets(at int) ([]item, error) {
	var items []item
	depth := 0
	from := at + 1
	add := func(to int) {
		part := s.text[from:to]
		lead := len(part) - len(strings.TrimLeft(part, " \n"))
		if trimmed := strings.TrimRight(part[lead:], " \n"); trimmed != "" {
			items = append(items, item{from: from + lead, to: from + lead + len(trimmed), dash: -1})
		}
	}
	for i := at; i < len(s.text); i++ {
		switch c := s.text[i]; c {
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				add(i)
				return items, nil
			}
		case '\'', '"':
			end := quotedEnd(s.text, i)
			if before := strings.TrimRight(s.text[:i], " \n"); end < 0 || !strings.ContainsAny(before[len(before)-1:], "[{,:") {
				continue // a quote in the middle of a plain text
			}
			i = end - 1
		case '#':
			if s.text[i-1] == ' ' || s.text[i-1] == '\n' {
				return nil, errLayout // a comment between the steps
			}
		case ',':
			if depth == 1 {
				add(i)
				from = i + 1
			}
		}
	}
	return nil, errLayout
}

// quotedEnd is the byte behind a quoted text that begins at one, or -1.
func quotedEnd(text string, at int) int {
	quote := text[at]
	for i := at + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote && quote == '\'' && i+1 < len(text) && text[i+1] == quote:
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return -1
}

// insert puts a step at a place.
func (s *sheet) insert(at int, step Step) (*sheet, error) {
	if s.list == nil || s.list.isNull() || s.list.kind == listNode && len(s.list.items) == 0 {
		return s.insertFirst(step)
	}
	items, brackets, err := s.layout()
	if err != nil {
		return s, err
	}
	name := step.Name
	if name == step.Function.Value {
		name = ""
	}
	if brackets {
		text := inBraces(step, name)
		if at == len(items) {
			last := items[at-1]
			return s.splice(last.to, last.to, s.gap(last)+text)
		}
		return s.splice(items[at].from, items[at].from, text+s.gap(items[at]))
	}
	beside := items[min(at, len(items)-1)]
	line := s.src.line(beside.dash + 1)
	indent := line[:strings.IndexByte(line, '-')]
	text := indent + "- "
	if s.text[beside.from] == '{' || s.text[beside.from] == '*' || s.text[beside.from] == '&' {
		text += inBraces(step, name)
	} else {
		text += strings.ReplaceAll(inBlock(step, name), "\n", "\n"+indent+"  ")
	}
	if at == len(items) {
		return s.splice(beside.to, beside.to, "\n"+text)
	}
	start := s.offset(beside.head+1, 1)
	return s.splice(start, start, text+"\n")
}

// gap is what goes between an item in brackets and the next: a new line where the item begins one.
func (s *sheet) gap(it item) string {
	line := s.text[strings.LastIndexByte(s.text[:it.from], '\n')+1 : it.from]
	if strings.TrimSpace(line) == "" {
		return ",\n" + line
	}
	return ", "
}

// insertFirst puts the first step into a flow without any.
func (s *sheet) insertFirst(step Step) (*sheet, error) {
	name := step.Name
	if name == step.Function.Value {
		name = ""
	}
	if s.key == nil {
		return s.splice(len(s.text), len(s.text), "flows:\n  - "+inBraces(step, name)+"\n")
	}
	n := s.key.pos.Line
	line := s.src.line(n)
	i := strings.IndexByte(line, ':')
	value, comment := line[i+1:], ""
	if c := strings.Index(value, " #"); c >= 0 {
		value, comment = value[:c], value[c:]
	}
	if v := strings.TrimSpace(value); i < 0 || v != "" && v != "[]" && v != "null" && v != "~" {
		return s, errLayout
	}
	start := s.offset(n, 1)
	return s.splice(start, start+len(line), line[:i+1]+comment+"\n  - "+inBraces(step, name))
}

// remove takes a step out, with the comment above it.
func (s *sheet) remove(at int) (*sheet, error) {
	items, brackets, err := s.layout()
	if err != nil {
		return s, err
	}
	it := items[at]
	switch {
	case !brackets:
		return s.splice(s.offset(it.head+1, 1), s.offset(it.last+2, 1), "")
	case at+1 < len(items):
		return s.splice(it.from, items[at+1].from, "")
	}
	return s.splice(items[at-1].to, it.to, "")
}

// replace gives a step its new function, name and parameters.
func (s *sheet) replace(at int, want Step) (*sheet, error) {
	have := s.flow.Steps[at]
	var err error
	if want.Function.Value != have.Function.Value {
		if s, err = s.set(at, []string{"fname"}, want.Function.Value); err != nil {
			return s, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Params)) {
		if v, there := have.Params[name]; there && v == want.Params[name] {
			continue
		}
		if s, err = s.set(at, []string{"params", name}, want.Params[name]); err != nil {
			return s, err
		}
	}
	return s, nil // its name is seen to with all others'
}

// set gives a key of a step a value: in place of the one it has, or as a new key behind the function's name.
func (s *sheet) set(at int, path []string, value string) (*sheet, error) {
	items, _, err := s.layout()
	if err != nil {
		return s, err
	}
	it, n := items[at], s.list.items[at]
	inside := func(n *node) bool {
		o := s.offset(n.pos.Line, n.pos.Column)
		return o >= it.from && o <= it.to
	}
	fname := fieldOf(n, "fname", "fid")
	if fname == nil || !inside(fname.key) || fname.val.kind != scalarNode {
		return s, errLayout // an alias, say
	}
	f := fieldOf(n, path[0])
	if path[0] == "fname" {
		f = fname
	}
	behind, key, braces, what := fname, fname.key, s.text[it.from] == '{', plainText(path[0])+": "+plainText(value)
	if len(path) == 2 {
		what = "params: {" + plainText(path[1]) + ": " + plainText(value) + "}"
		if f != nil {
			if f.val.kind != mapNode || len(f.val.fields) == 0 || !inside(f.val.fields[0].key) {
				return s, errLayout
			}
			last := f.val.fields[len(f.val.fields)-1]
			what = plainText(path[1]) + ": " + plainText(value)
			o := s.offset(f.key.pos.Line, f.key.pos.Column)
			after := strings.TrimLeft(s.text[o+strings.IndexByte(s.text[o:], ':')+1:], " \n")
			behind, key, braces = &last, last.key, strings.HasPrefix(after, "{")
			f = fieldOf(f.val, path[1])
		}
	}
	if f != nil {
		from, to, ok := s.span(f.val)
		if !ok || !inside(f.val) {
			return s, errLayout
		}
		return s.splice(from, to, plainText(value))
	}
	_, to, ok := s.span(behind.val)
	if !ok {
		return s, errLayout
	}
	if braces {
		return s.splice(to, to, ", "+what)
	}
	line := s.src.line(key.pos.Line)
	if i := strings.IndexByte(s.text[to:], '\n'); i >= 0 {
		to += i // behind a comment
	}
	return s.splice(to, to, "\n"+strings.Repeat(" ", indentOf(line, key.pos.Column))+what)
}

// indentOf is how far a key is indented: to its own column, where a dash may stand before it.
func indentOf(line string, column int) int {
	n := 0
	for i, r := range line {
		if utf8.RuneCountInString(line[:i]) >= column-1 {
			break
		}
		if n++; r != ' ' && r != '-' {
			return column - 1
		}
	}
	return n
}

// fieldOf returns a field of a mapping, or nil.
func fieldOf(n *node, names ...string) *field {
	for i := range n.fields {
		if slices.Contains(names, n.fields[i].name) {
			return &n.fields[i]
		}
	}
	return nil
}

// span is where a text stands, with its quotes, if it stands in one line.
func (s *sheet) span(n *node) (from, to int, ok bool) {
	if n.kind != scalarNode || n.raw == nil {
		return 0, 0, false
	}
	from = s.offset(n.raw.line, n.raw.column)
	switch n.raw.style {
	case plain:
		to = from + len(n.text)
		ok = strings.HasPrefix(s.text[from:], n.text)
	case singleQuoted, doubleQuoted:
		to = quotedEnd(s.text, from)
		ok = to > 0 && !strings.Contains(s.text[from:to], "\n")
	}
	return from, to, ok
}

// inBraces writes a step in one line.
func inBraces(s Step, as string) string {
	out := "{fname: " + plainText(s.Function.Value)
	if as != "" {
		out += ", as: " + plainText(as)
	}
	if len(s.Params) > 0 {
		var params []string
		for _, k := range slices.Sorted(maps.Keys(s.Params)) {
			params = append(params, plainText(k)+": "+plainText(s.Params[k]))
		}
		out += ", params: {" + strings.Join(params, ", ") + "}"
	}
	return out + "}"
}

// inBlock writes a step with a line for each key, for the place behind a dash.
func inBlock(s Step, as string) string {
	out := "fname: " + plainText(s.Function.Value)
	if as != "" {
		out += "\nas: " + plainText(as)
	}
	if len(s.Params) > 0 {
		out += "\nparams:"
		for _, k := range slices.Sorted(maps.Keys(s.Params)) {
			out += "\n  " + plainText(k) + ": " + plainText(s.Params[k])
		}
	}
	return out
}

var (
	plainWord   = regexp.MustCompile(`^[\p{L}_][\p{L}\p{N}_#./-]*$`)
	plainNumber = regexp.MustCompile(`^(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?$`)
	otherWords  = []string{"true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"}
)

// plainText writes a text as YAML: as it is where it can be read as nothing else, or in quotes.
func plainText(s string) string {
	if plainNumber.MatchString(s) || plainWord.MatchString(s) && !slices.Contains(otherWords, strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(s)
}
