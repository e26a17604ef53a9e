package flowdef

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// TestSuffixes end the names of files with tests of flows. A folder that is read for definitions passes over them.
var testSuffixes = []string{".test.yaml", ".test.yml"}

// IsTestFile tells whether a file's name says that it holds tests.
func IsTestFile(name string) bool {
	for _, s := range testSuffixes {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// Test is one test of flows: events go in, time goes by, and what comes out is compared. A file holds one or many, as
// documents.
type Test struct {
	Name  string
	Pos   Pos
	Flow  string    // that is fed; "": the only one that takes events
	Start time.Time // of the test's clock
	Steps []TestStep
}

// TestStep is one thing that a test does or expects. Just one of its parts is set.
type TestStep struct {
	Pos     Pos
	Subject string // of In and Out; "": that of the flow's entry, or any

	In          []TestRow
	Wait        time.Duration
	End         bool
	Out         []TestRow // what has come out since it was looked at last; not nil
	State       *TestState
	DeadLetters []TestLetter // that have come since they were looked at last; not nil
	AnyOrder    bool         // of Out and DeadLetters
	Partial     bool         // rows may have more fields than are named
}

// TestRow is a row as the test's file has it.
type TestRow struct {
	Pos  Pos
	JSON []byte // an object; of In, whatever text is to be published
}

// TestState is what the state of a key is to be.
type TestState struct {
	Flow string // "": the one that is fed
	Step Text
	Key  []TestField
	Is   []byte // JSON; nil: the key has no state
}

// TestField is a field of a key.
type TestField struct{ Name, Value string }

// TestLetter is a dead letter that is expected.
type TestLetter struct {
	Pos    Pos
	Step   string // "": any
	Reason string // a part of it
	Row    []byte // JSON; nil: any
}

// LoadTests reads the tests of files and folders. Of a folder those files are read whose names end in .test.yaml or
// .test.yml.
func LoadTests(paths ...string) ([]*Test, Mistakes) {
	var tests []*Test
	var all Mistakes
	seen := make(map[string]bool)
	for _, path := range paths {
		files, err := listed(path, func(name string) bool { return IsTestFile(name) })
		if err != nil {
			all = append(all, NewMistake(Pos{File: path}, codeFile, err.Error(), ""))
			continue
		}
		for _, f := range files {
			if clean := filepath.Clean(f); seen[clean] || !IsTestFile(f) {
				continue
			} else {
				seen[clean] = true
			}
			text, err := read(f)
			if err != nil {
				all = append(all, NewMistake(Pos{File: f}, codeFile, err.Error(), ""))
				continue
			}
			ts, ms := ParseTests(f, text)
			tests, all = append(tests, ts...), append(all, ms...)
		}
	}
	all.Sort()
	return tests, all
}

// ParseTests reads the tests of one file.
func ParseTests(name string, text []byte) ([]*Test, Mistakes) {
	var mistakes Mistakes
	src, fault := newSource(name, text)
	if fault != nil {
		return nil, Mistakes{*fault}
	}
	var tests []*Test
	for i, doc := range src.documents() {
		if i == maxDocuments {
			mistakes = append(mistakes, NewMistake(src.pos(doc.first+1, 1), codeLimit, fmt.Sprintf("the file has more than %d documents", maxDocuments), "split it into several files"))
			break
		}
		if root := readDocument(src, doc, &mistakes); root != nil {
			d := &decoder{mistakes: &mistakes, kind: "test"}
			if t := d.test(root); t != nil {
				tests = append(tests, t)
			}
		}
	}
	mistakes.Sort()
	return tests, mistakes
}

// testStart is when a test's clock starts that names no start.
var testStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (d *decoder) test(root *node) *Test {
	o := d.object(root, "")
	if o == nil {
		return nil
	}
	t := &Test{Pos: root.pos, Start: testStart}
	o.required("test", "what the test shows, in a few words")
	t.Name, t.Flow = o.str("test"), o.str("flow")
	if s := o.text("start"); s.Value != "" {
		at, err := parseTime(s.Value)
		if err != nil {
			d.report(s.Pos, codeValue, fmt.Sprintf("start is %s, which is no time", quote(s.Value)), "write it like 2026-01-31T12:00:00Z")
		} else {
			t.Start = at
		}
	}
	n := o.get("steps")
	if n == nil {
		o.required("steps", "what goes in and what is to come out")
		return nil
	}
	if n.kind != listNode {
		d.report(n.pos, codeType, fmt.Sprintf("steps is %s; it must be a list", n.what()), "put a dash before each step")
		return nil
	}
	for _, item := range n.items {
		if s, ok := d.testStep(item); ok {
			t.Steps = append(t.Steps, s)
		}
	}
	return t
}

// testParts are the keys of a step of which it has one.
var testParts = []string{"in", "wait", "end", "out", "state", "dead_letters"}

func (d *decoder) testStep(n *node) (TestStep, bool) {
	s := TestStep{Pos: n.pos}
	o := d.object(n, "steps")
	if o == nil {
		return s, false
	}
	var has []string
	for _, part := range testParts {
		if _, ok := o.vals[part]; ok {
			has = append(has, part)
		}
	}
	if len(has) != 1 {
		what := "a step has none of " + strings.Join(testParts, ", ")
		if len(has) > 1 {
			what = "a step has " + strings.Join(has, " and ") + "; it does one thing"
		}
		d.report(n.pos, codeMissing, what, "put a dash before each")
		return s, false
	}
	s.Subject, s.AnyOrder, s.Partial = o.str("subject"), o.boolean("any_order"), o.boolean("partial")
	v := o.get(has[0])
	switch has[0] {
	case "in":
		s.In = d.testRows(v, "in", true)
	case "out":
		s.Out = append([]TestRow{}, d.testRows(v, "out", false)...)
	case "wait":
		s.Wait = o.duration("wait", 0)
	case "end":
		if s.End = o.boolean("end"); !s.End {
			d.report(n.pos, codeValue, "end is true or is not there", "")
		}
	case "state":
		c := o.child("state")
		if !c.required("step", "the step whose state is looked at") || !c.required("key", "the values of the step's must fields") {
			return s, false
		}
		s.State = &TestState{Flow: c.str("flow"), Step: c.text("step")}
		k := c.get("key")
		if k.kind != mapNode {
			d.report(k.pos, codeType, fmt.Sprintf("key is %s; it must be a mapping", k.what()), "write it like {userid: 1}")
			return s, false
		}
		for _, f := range k.fields {
			s.State.Key = append(s.State.Key, TestField{f.name, f.val.text})
		}
		if is := c.get("is"); is != nil {
			s.State.Is = appendJSON(nil, is)
		}
	case "dead_letters":
		s.DeadLetters = []TestLetter{}
		if v == nil {
			break
		}
		if v.kind != listNode {
			d.report(v.pos, codeType, fmt.Sprintf("dead_letters is %s; it must be a list", v.what()), "write [] where none are expected")
			return s, false
		}
		for _, item := range v.items {
			c := d.object(item, "steps.dead_letters")
			if c == nil {
				continue
			}
			l := TestLetter{Pos: item.pos, Step: c.str("step"), Reason: c.str("reason")}
			if r := c.get("row"); r != nil {
				l.Row = appendJSON(nil, r)
			}
			s.DeadLetters = append(s.DeadLetters, l)
		}
	}
	return s, true
}

// testRows reads rows: a mapping, or a list of them; what goes in may be any text, too.
func (d *decoder) testRows(n *node, name string, texts bool) []TestRow {
	if n == nil {
		return nil
	}
	items := []*node{n}
	if n.kind == listNode {
		items = n.items
	}
	var rows []TestRow
	for _, item := range items {
		switch {
		case item.kind == mapNode:
			rows = append(rows, TestRow{item.pos, appendJSON(nil, item)})
		case item.kind == scalarNode && texts:
			rows = append(rows, TestRow{item.pos, []byte(item.text)})
		default:
			d.report(item.pos, codeType, fmt.Sprintf("%s holds %s; it must hold rows", name, item.what()), "a row is a mapping of fields")
		}
	}
	return rows
}

// appendJSON writes a value of a file as JSON. Numbers stay as they are written where JSON can write them so.
func appendJSON(b []byte, n *node) []byte {
	switch n.kind {
	case mapNode:
		b = append(b, '{')
		for i, f := range n.fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, f.name), ':')
			b = appendJSON(b, f.val)
		}
		return append(b, '}')
	case listNode:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, item)
		}
		return append(b, ']')
	}
	if n.isNull() {
		return append(b, "null"...)
	}
	if v, ok := parseBool(n); ok && n.typ == boolScalar {
		return strconv.AppendBool(b, v)
	}
	if n.isNumber() {
		if v, err := parseInt(n.text); err == nil {
			return strconv.AppendInt(b, v, 10)
		}
		if isJSONNumber(n.text) {
			return append(b, n.text...)
		}
	}
	return appendText(b, n.text)
}

func appendText(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("flowdef: " + err.Error()) // a string can always be written
	}
	return append(b, text...)
}

func isJSONNumber(s string) bool { return json.Valid([]byte(s)) }
