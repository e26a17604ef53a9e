package script

import (
	"strings"
	"testing"

	"github.com/kisflow/kisflow/kis"
)

func TestScripts(t *testing.T) {
	pool, in := newPool(t, 2), InProcess(nil)
	for _, c := range []struct {
		name   string
		source string
		mode   kis.Mode
		state  string
		rows   []string
		want   string
	}{
		{"state in place", `function handle(row, state) { state.n = (state.n || 0) + 1; return {k: row.k, n: state.n}; }`, "", "",
			[]string{`{"k":1}`, `{"k":1}`}, `
0: {"k":1,"n":1}
1: {"k":1,"n":2}
state {"n":2}`},
		{"one function without a name", `function (row, state) { state.n = 1; return true }`, "", "", []string{`{"k":1,"x":1.0}`}, `
0: {"k":1,"x":1.0}
state {"n":1}`},
		{"an arrow", `(row) => [{a: row.k}, {a: row.k + 1}]`, "", `{"n":1}`, []string{`{"k":1}`}, `
0: {"a":1}
0: {"a":2}
state {"n":1}`},
		{"const", `const handle = (row, state, ctx) => { ctx.state = {was: row.k} }`, "", "", []string{`{"k":"x"}`}, `
state {"was":"x"}`},
		{"nothing", `function handle(row, state) { return null }`, "", `{"n":1}`, []string{`{"k":1}`}, `
state {"n":1}`},
		{"clear", `function handle(row, state, ctx) { ctx.clear() }`, "", `{"n":1}`, []string{`{"k":1}`}, ``},
		{"an empty state is none", `function handle(row, state) { delete state.n }`, "", `{"n":1}`, []string{`{"k":1}`}, ``},
		{"emit, then return", `function handle(row, state, ctx) { const r = {a: 1}; ctx.emit(r); r.a = 2; return r }`, "", "", []string{`{"k":1}`}, `
0: {"a":1}
0: {"a":2}`},
		{"what a throw changed is taken back", `function handle(row, state) {
  state.n = (state.n || 0) + 1
  if (row.bad) throw new Error("bad row")
  return {n: state.n}
}`, "", "", []string{`{"k":1}`, `{"k":1,"bad":true}`, `{"k":1}`}, `
0: {"n":1}
1: dead: script:3:22: Error: bad row
2: {"n":2}
state {"n":2}`},
		{"throw in a function of its own", "function check(x) {\n  return x.y.z\n}\nfunction handle(row) { return check(row) }", "", "", []string{`{"k":1}`}, `
0: dead: script:2:14: TypeError: Cannot read property 'z' of undefined`},
		{"throw of a text", `function handle() { throw "no" }`, "", "", []string{`{"k":1}`}, `
0: dead: script:1:21: no`},
		{"drop and dead letter", `function handle(row, state, ctx) { state.n = 1; if (row.d) ctx.drop("old"); else ctx.deadLetter(row.why); return {a: 1} }`, "", "",
			[]string{`{"k":1,"d":true}`, `{"k":1,"why":"odd"}`, `{"k":1}`}, `
0: drop: old
1: dead: odd
2: dead: set aside by the script`},
		{"64 bits", `function handle(row, state) { state.id = row.id; return {id: row.id, next: row.id + 1n, big: row.big, t: typeof row.id, s: typeof row.small} }`, "", "",
			[]string{`{"id":9223372036854775806,"big":123456789012345678901234567890,"small":9007199254740991}`}, `
0: {"id":9223372036854775806,"next":9223372036854775807,"big":123456789012345678901234567890,"t":"bigint","s":"number"}
state {"id":9223372036854775806}`},
		{"64 bits in an expression of numbers", `function handle(row) { return {next: row.id + 1} }`, "", "", []string{`{"id":9223372036854775806}`}, `
0: dead: script:1:38: TypeError: Cannot mix BigInt and other types, use explicit conversions`},
		{"a number that nothing holds", `function handle(row) { return true }`, "", "", []string{`{"x":1e999}`}, `
0: dead: the number 1e999 is too large for JavaScript`},
		{"numbers", `function handle(row) { return {a: row.a, b: 0.1 + 0.2, c: -0, d: 1e21, e: 5 / 2 * 2, f: -1e-7} }`, "", "", []string{`{"a":1.50}`}, `
0: {"a":1.5,"b":0.30000000000000004,"c":0,"d":1e+21,"e":5,"f":-1e-07}`},
		{"texts", `function handle(row) { return {s: row.s, u: row.s.length, e: "\u0000\"\\"} }`, "", "", []string{`{"s":"日本\ud83d\ude00\n\"q\""}`}, `
0: {"s":"日本😀\n\"q\"","u":8,"e":"\u0000\"\\"}`},
		{"names", `function handle(row) { return row }`, "", "", []string{`{"__proto__":{"a":1},"constructor":2,"toString":3,"":4,"日本":[1,[],{}]}`}, `
0: {"__proto__":{"a":1},"constructor":2,"toString":3,"":4,"日本":[1,[],{}]}`},
		{"a date is its text", `function handle(row, state, ctx) { return {d: new Date(ctx.meta.time)} }`, "", "", []string{`{"k":1}`}, `
0: {"d":"2026-05-04T02:02:01.000Z"}`},
		{"undefined is left out", `function handle(row) { return {a: undefined, b: [undefined, null]} }`, "", "", []string{`{"k":1}`}, `
0: {"b":[null,null]}`},
		{"rubbish", `function handle(row) { return eval(row.r) }`, "", "", []string{
			`{"r":"5"}`, `{"r":"'text'"}`, `{"r":"false"}`, `{"r":"(() => 1)"}`, `{"r":"new Map()"}`, `{"r":"Promise.resolve(1)"}`, `{"r":"[5]"}`, `{"r":"[[]]"}`,
			`{"r":"({a:{b:[1,NaN]}})"}`, `{"r":"({a: 1/0})"}`, `{"r":"({a: () => 1})"}`, `{"r":"({a: new Set([1])})"}`, `{"r":"let o = {}; o.o = o; o"}`, `{"r":"Symbol('x')"}`,
			`{"r":"({a: Symbol('x')})"}`, `{"r":"({get a() { throw new Error('no') }})"}`, `{"r":"({a: 1n << 9000n})"}`, `{"r":"({s: 'x'.repeat(2e6)})"}`, `{"r":"let a = []; a.length = 4e9; ({a})"}`}, `
0: dead: script: handle returned the number 5; it returns a row, an array of rows, true for the row as it came, or nothing
1: dead: script: handle returned the text "text"; it returns a row, an array of rows, true for the row as it came, or nothing
2: dead: script: handle returned false; it returns a row, an array of rows, true for the row as it came, or nothing
3: dead: script: handle returned what is no row: it is a function
4: dead: script: handle returned what is no row: it is a Map
5: dead: script: handle returned what is no row: it is a Promise
6: dead: script: item 0 of what handle returned is no row: it is the number 5
7: dead: script: item 0 of what handle returned is no row: it is an array
8: dead: script: handle returned what cannot be a row: a.b[1] is NaN, which cannot stand in JSON
9: dead: script: handle returned what cannot be a row: a is Infinity, which cannot stand in JSON
10: dead: script: handle returned what cannot be a row: a is a function, which cannot stand in JSON; use arrays and plain objects
11: dead: script: handle returned what cannot be a row: a is a Set, which cannot stand in JSON; use arrays and plain objects
12: dead: script: handle returned what cannot be a row: o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.... is nested deeper than 64 levels, or holds itself
13: dead: script: handle returned a Symbol; it returns a row, an array of rows, true for the row as it came, or nothing
14: dead: script: handle returned what cannot be a row: a is a Symbol, which cannot stand in JSON
15: dead: script: Error: no
16: dead: script: handle returned what cannot be a row: a is an integer of 9001 bits
17: dead: script: handle returned what makes more than 1048576 bytes of rows
18: dead: script: handle returned what cannot be a row: a[209715] is larger than 1048576 bytes`},
		{"states that cannot be", `function handle(row, state, ctx) { state.x = 1; if (row.s) ctx.state = eval(row.s); else state.f = NaN }`, "", `{"n":1}`, []string{
			`{"s":"5"}`, `{"s":"[]"}`, `{"s":"new Date()"}`, `{}`, `{"s":"({a: 'x'.repeat(2e6)})"}`, `{"s":"({a: new Map()})"}`}, `
0: dead: script: the state is the number 5; it must be an object
1: dead: script: the state is an array; it must be a plain object
2: dead: script: the state is a Date; it must be a plain object
3: dead: script: the state cannot be kept: f is NaN, which cannot stand in JSON
4: dead: script: the state has 2000008 bytes; the most is 1048576
5: dead: script: the state cannot be kept: a is a Map, which cannot stand in JSON; use arrays and plain objects
state {"n":1}`},
		{"verify", `function handle(row) { if (row.n > 2) throw "large"; return row.n ? row.n > 0 : undefined }`, kis.Verify, "",
			[]string{`{"n":1}`, `{"n":-1}`, `{"n":3}`, `{}`}, `
0: {"n":1}
1: dead: script: handle returned false
2: dead: script:1:39: large
3: dead: script: handle returned nothing; in a Verify it returns true, false, or a row`},
		{"strict", `function handle(row) { n = 1; return true }`, "", "", []string{`{"k":1}`}, `
0: dead: script:1:24: ReferenceError: n is not defined`},
		{"recursion", `function handle(row) { return handle(row) }`, "", "", []string{`{"k":1}`}, `
0: dead: script:1:37: its calls are nested deeper than 2000`},
		{"the world", `function handle(row, state, ctx) { return {key: ctx.key, meta: ctx.meta, now: ctx.now, date: Date.now(), params: ctx.params} }`, "", "", []string{`{"k":7}`}, `
0: {"key":{"k":7},"meta":{"subject":"a.b","stream":"S","sequence":1,"index":0,"time":1777860121000},"now":1777863721000,"date":1777863721000,"params":{}}`},
	} {
		for name, h := range map[string]Host{"pool": pool, "in process": in} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				r := open(t, h, Spec{Source: c.source, Mode: c.mode, Must: []string{"k"}})
				k := call(t, c.state, c.rows...)
				if err := r.HandleMany([]*kis.Call{k}); err != nil {
					t.Fatal(err)
				}
				got, want := shown(k), strings.TrimPrefix(c.want, "\n")
				if strings.HasSuffix(want, "\n") { // the beginning
					got = got[:min(len(got), len(want))]
				} else if want != "" {
					want += "\n"
				}
				if got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}
