package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/flowdef"
)

// TestModelMistakes: what only the expressions and the windows themselves show has its place in the file.
func TestModelMistakes(t *testing.T) {
	const text = `kistype: func
fname: A
fmode: Calculate
source: {must: [k]}
calculate:
  replace: rw.id
  window: {hopping: 10s, every: 0s, late: {subject: a.b}}
  aggregate:
    n: cuont()
    x: sum(row.v) / 2
    own: {init: row.x, add: slf + 1, remove: self -, result: row.y}
  emit: {n: state.m, begin: window.begin}
---
kistype: func
fname: B
fmode: Calculate
source: {must: [k]}
join:
  left: {when: row.a + 1, keep: first}
  right: {when: rw.b}
  within: 400d
  type: outer
  on: left.x = 1
  emit: {a: lft.x}
---
kistype: func
fname: C
fmode: Load
source: {must: [k]}
load: {handoff: h, as: table, set: {a: tabel.a, k: table.k}}
---
kistype: func
fname: D
fmode: Calculate
source: {must: [k]}
version: 2
migrate: {a: row.x, b: state.b}
calculate: {state: {a: {set: state.a + 1}}}
---
kistype: func
fname: E
fmode: Calculate
source: {must: [k]}
version: 3
calculate: {window: {tumbling: 367d}, aggregate: {n: count()}, emit: {n: state.n}}
`
	set := &flowdef.Set{}
	mistakes := flowdef.Parse("f", []byte(text), set)
	mistakes = append(mistakes, Lint(set, nil, false)...)
	mistakes.Sort()
	var got []string
	for _, m := range mistakes {
		if m.Severity == flowdef.Error {
			got = append(got, fmt.Sprintf("%d:%d %s", m.Pos.Line, m.Column, m.Message))
		}
	}
	want := []string{
		"6:12 unknown name rw",
		"7:33 every must be above zero",
		"9:8 unknown aggregate cuont",
		"10:8 an aggregate is one call, nothing before or behind it",
		"11:17 row cannot be used in init: there is no row yet",
		"11:29 unknown name slf",
		"11:51 the expression ends too early",
		"11:62 row cannot be used in result: it is that of many rows",
		"12:19 unknown state field m",
		"12:36 window has no begin",
		"19:16 must say true or false, but it is a number",
		`19:33 unknown word "first"`,
		"20:17 unknown name rw",
		"21:11 within is 400 days; the most is 92 days",
		`22:9 unknown word "outer"`,
		"23:14 unexpected =",
		"24:13 unknown name lft",
		"30:40 unknown name tabel",
		"30:52 k is a field of the key",
		"37:14 row cannot be used in migrate: there is no row; what is known is state and version",
		"37:24 the state has no field b",
		"44:10 only a calculate with state or aggregates, and without a window, has states of a version",
		"45:32 tumbling is 367 days; the most is 366 days",
	}
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !strings.HasPrefix(g, w) {
			t.Errorf("mistake %d: %s, want %s", i, g, w)
		}
	}
}
