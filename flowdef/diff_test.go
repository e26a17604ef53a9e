package flowdef

import (
	"fmt"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) *Set {
	t.Helper()
	set := &Set{}
	if m := Parse("f", []byte(text), set); len(m.Errors()) > 0 {
		t.Fatal(m)
	}
	return set
}

const before = `kistype: flow
status: 1
flow_name: A
flows: [{fname: F}]
---
kistype: func
fname: F
fmode: Calculate
source:
  name: rows
  must: [a]
# what it does
calculate:
  emit:
    a: row.a
    b: row.b
    c: row.c
---
kistype: func
fname: gone
fmode: Verify
---
kistype: conn
cname: same
addrs: x
`

const after = `
kistype: conn
cname: same
addrs: x   
---
kistype: func
fname: new
fmode: Verify
---
# the text begins here
kistype: flow
status: 1
flow_name: A
flows: [{fname: F}, {fname: new}]
---
kistype: func
fname: F
fmode: Calculate
source:
  name: rows
  must: [a]
# what it does
calculate:
  emit:
    a: row.a
    b: row.b + 1
    c: row.c
`

func TestDiff(t *testing.T) {
	var b strings.Builder
	for _, c := range Diff(parse(t, before), parse(t, after)) {
		b.WriteString(c.String())
	}
	want := `~ func F
  ...
     emit:
       a: row.a
  -    b: row.b
  +    b: row.b + 1
       c: row.c
- func gone
  -kistype: func
  -fname: gone
  -fmode: Verify
+ func new
  +kistype: func
  +fname: new
  +fmode: Verify
~ flow A
  +# the text begins here
   kistype: flow
   status: 1
   flow_name: A
  -flows: [{fname: F}]
  +flows: [{fname: F}, {fname: new}]
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s", got)
	}
	if d := Diff(parse(t, before), parse(t, before)); len(d) > 0 {
		t.Errorf("a set differs from itself: %v", d)
	}
	if d := Diff(nil, parse(t, before)); len(d) != 4 || d[0].Change != "added" {
		t.Errorf("nothing to four: %v", d)
	}
	if d := Diff(parse(t, before), nil); len(d) != 4 || d[0].Change != "removed" {
		t.Errorf("four to nothing: %v", d)
	}
}

// TestUnified checks on small texts of all kinds that the marked lines are both texts.
func TestUnified(t *testing.T) {
	texts := []string{"", "a", "b", "a a", "a b", "b a", "a b c", "c b a", "a b a b", "b b", "a c b", "a b c d e f g h", "a b c x e f g h", "x a b c d e f g h y"}
	for _, x := range texts {
		for _, y := range texts {
			a, b := strings.Fields(x), strings.Fields(y)
			var from, to []string
			lines := unified(a, b)
			for _, l := range lines {
				switch l[0] {
				case '-':
					from = append(from, l[1:])
				case '+':
					to = append(to, l[1:])
				case ' ':
					from, to = append(from, l[1:]), append(to, l[1:])
				}
			}
			whole := !strings.Contains(strings.Join(lines, ""), "...")
			if whole && (strings.Join(from, " ") != x || strings.Join(to, " ") != y) {
				if x != y { // equal texts show nothing
					t.Errorf("%q to %q: %q", x, y, lines)
				}
			}
		}
	}
}

// TestUnifiedLarge replaces texts too large to compare line by line.
func TestUnifiedLarge(t *testing.T) {
	var a, b []string
	for i := range maxDiff + 10 {
		a, b = append(a, fmt.Sprint("a", i)), append(b, fmt.Sprint("b", i))
	}
	if got := unified(a, b); len(got) != 2*(maxDiff+10) {
		t.Errorf("%d lines", len(got))
	}
}

// TestExport parses what was exported: the same definitions come out, as written.
func TestExport(t *testing.T) {
	set := parse(t, before)
	again := parse(t, string(set.Export()))
	if d := Diff(set, again); len(d) > 0 {
		t.Errorf("export and parse changed %v", d)
	}
	if len(again.Flows) != 1 || len(again.Funcs) != 2 || len(again.Conns) != 1 {
		t.Errorf("got %d flows, %d functions, %d connectors", len(again.Flows), len(again.Funcs), len(again.Conns))
	}
	if !strings.Contains(set.Funcs["F"].Text, "# what it does") {
		t.Errorf("a comment is lost: %s", set.Funcs["F"].Text)
	}
}

// TestSource keeps a document's text as it is written, without markers and directives.
func TestSource(t *testing.T) {
	set := parse(t, "%YAML 1.2\n---\n\nkistype: func\r\nfname: F\r\nfmode: Verify # x\r\n\n\n--- # words\nkistype: conn\ncname: c\n...\n--- {kistype: conn, cname: d}\n")
	if got, want := set.Funcs["F"].Text, "kistype: func\nfname: F\nfmode: Verify # x\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := set.Conns["c"].Text, "--- # words\nkistype: conn\ncname: c\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := set.Conns["d"].Text, "--- {kistype: conn, cname: d}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if d := Diff(set, parse(t, string(set.Export()))); len(d) > 0 {
		t.Errorf("export and parse changed %v", d)
	}
}

func TestOverlay(t *testing.T) {
	base, over := parse(t, before), parse(t, "kistype: flow\nflow_name: A\nstatus: 0\n---\nkistype: func\nfname: gone\nfmode: Save\n---\nkistype: flow\nflow_name: B\nstatus: 1\n---\nkistype: global\n")
	got := base.Overlay(over)
	if len(got.Flows) != 2 || got.Flows[0].Enabled || got.Flows[1].Name != "B" {
		t.Errorf("flows %v", got.Flows)
	}
	if got.Funcs["gone"].Mode != "Save" || base.Funcs["gone"].Mode != "Verify" || len(got.Funcs) != 2 {
		t.Errorf("functions %v", got.Funcs)
	}
	if got.Global == nil || base.Global != nil {
		t.Errorf("global %v, before %v", got.Global, base.Global)
	}
	if m := got.Check(CheckOptions{}); len(m.Errors()) > 0 {
		t.Errorf("what replaces is no duplicate: %v", m)
	}
	if !base.Flows[0].Enabled {
		t.Error("the base changed")
	}
}
