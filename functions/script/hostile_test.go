package script

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// hostile does to its worker what its row says.
const hostile = `
function handle(row, state) {
  state.n = (state.n || 0) + 1
  switch (row.do) {
  case "loop": for (;;) {}
  case "catch": for (;;) { try { for (;;) {} } catch (e) {} finally { continue } }
  case "grow": { const a = []; for (;;) a.push("x".repeat(100) + a.length) }
  case "double": { let s = "x"; for (;;) s += s }
  case "repeat": return { s: "x".repeat(2 ** 30).length }
  case "fill": return { n: new Array(2 ** 30).fill(0).length }
  case "buffer": return { n: new ArrayBuffer(2 ** 32).byteLength }
  case "regexp": return { m: /^(a+)+\1$/.test("a".repeat(40) + "b") }
  case "recurse": { const f = () => [1].map(f); return f() }
  case "json": { let o = {}; for (let i = 0; i < 1e6; i++) o = {o}; return o }
  case "keys": { const o = {}; for (let i = 0; i < 5000; i++) o[i] = i; return o }
  case "emit": return new Array(200000).fill({})
  case "tostring": throw {toString() { for (;;) {} }}
  case "getter": return {get a() { for (;;) {} }}
  case "proxy": return new Proxy({}, {ownKeys() { for (;;) {} }})
  }
  return {n: state.n}
}`

// TestHostile has a row that harms its worker among others, which go on as if it had not been there.
func TestHostile(t *testing.T) {
	p := newPool(t, 2)
	for what, want := range map[string]string{
		"loop": "longer than", "catch": "longer than", "grow": "memory|longer than", "double": "memory|longer than", "repeat": "memory|longer than", "fill": "memory|longer than", "buffer": "|",
		"regexp": "had to be killed", "recurse": "nested deeper than 2000", "json": "nested deeper than 64|memory|longer than", "keys": "5000 fields", "emit": "200000 rows",
		"tostring": "longer than", "getter": "longer than", "proxy": "longer than",
	} {
		t.Run(what, func(t *testing.T) {
			before := ownMemory()
			r := open(t, p, Spec{Source: hostile, Must: []string{"k"}, Limits: Limits{Time: 300 * time.Millisecond, Memory: 48 << 20}})
			var calls []*kis.Call
			for k := range 5 {
				rows := []string{fmt.Sprintf(`{"k":%d}`, k), fmt.Sprintf(`{"k":%d}`, k), fmt.Sprintf(`{"k":%d}`, k)}
				if k == 2 {
					rows[1] = fmt.Sprintf(`{"k":%d,"do":%q}`, k, what)
				}
				calls = append(calls, call(t, "", rows...))
			}
			start := time.Now()
			if err := r.HandleMany(calls); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			for k, c := range calls {
				got := shown(c)
				if k != 2 {
					if want := "0: {\"n\":1}\n1: {\"n\":2}\n2: {\"n\":3}\nstate {\"n\":3}\n"; got != want {
						t.Errorf("key %d:\n%s", k, got)
					}
					continue
				}
				lines := strings.Split(got, "\n")
				if what == "buffer" && lines[1] == `1: {"n":4294967296}` {
					continue // nothing of it was used
				}
				if lines[0] != `0: {"n":1}` || !strings.HasPrefix(lines[1], "1: dead: script") || !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.Contains(lines[1], w) }) || lines[2] != `2: {"n":2}` || lines[3] != `state {"n":2}` {
					t.Errorf("the key of the row:\n%swant %s", got, want)
				}
			}
			if took > time.Minute { // the limit is a row's processor time; the clock is that of a busy machine, too
				t.Errorf("it took %s", took)
			}
			if grown := ownMemory() - before; grown > 64<<20 {
				t.Errorf("this process has grown by %d MiB", grown>>20)
			}
		})
	}
}

func ownMemory() int64 {
	runtime.GC()
	return memoryInUse()
}

// TestHostileBeforeTheFirstRow has a script that does harm when it is loaded: its flow is refused.
func TestHostileBeforeTheFirstRow(t *testing.T) {
	p := newPool(t, 2)
	for source, want := range map[string]string{
		`for (;;) {}; function handle() {}`:                                                  "longer than 200ms",
		`const a = []; for (;;) a.push("xxxx".repeat(100) + a.length); function handle() {}`: "",
		`throw new Error("no"); function handle() {}`:                                        "script:1:7: Error: no",
		`var handle = 5`: "handle is no function",
	} {
		_, err := tryOpen(p, Spec{Source: source, Limits: Limits{Time: 200 * time.Millisecond, Memory: 32 << 20}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || want == "" && !strings.Contains(err.Error(), "memory") && !strings.Contains(err.Error(), "longer") {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
}

// TestOthersGoOn has a script that has to be stopped all the time, and one that has not, in one pool.
func TestOthersGoOn(t *testing.T) {
	p := newPool(t, 2)
	bad := Spec{Source: hostile, Must: []string{"k"}, Limits: Limits{Time: 50 * time.Millisecond, Memory: 32 << 20}}
	good := open(t, p, Spec{Source: `function handle(row) { return row }`})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		r := open(t, p, bad)
		wg.Go(func() {
			for ctx.Err() == nil {
				c := call(t, "", `{"k":1,"do":"regexp"}`, `{"k":1,"do":"grow"}`)
				c.Context = ctx
				if err := r.HandleMany([]*kis.Call{c}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	slowest := time.Duration(0)
	for range 50 {
		begin := time.Now()
		c := call(t, "", `{"k":1}`)
		if err := good.HandleMany([]*kis.Call{c}); err != nil || len(c.Emitted) != 1 {
			t.Fatalf("%v %s", err, shown(c))
		}
		slowest = max(slowest, time.Since(begin))
	}
	cancel()
	wg.Wait()
	if slowest > time.Second {
		t.Errorf("a good row took %s", slowest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.workers > 2 {
		t.Errorf("%d workers", p.workers)
	}
}

// TestWorkerIsKilled kills the worker from outside in the middle of a batch: nothing is lost, and nobody is blamed.
func TestWorkerIsKilled(t *testing.T) {
	p := newPool(t, 1)
	r := open(t, p, Spec{Source: `function handle(row, state) { const end = 3e4; for (let i = 0; i < end; i++) {}; state.n = (state.n || 0) + 1; return {n: state.n} }`,
		Must: []string{"k"}})
	var rows []string
	for range 100 {
		rows = append(rows, `{"k":1}`)
	}
	p.mu.Lock()
	w := p.idle[0]
	p.mu.Unlock()
	time.AfterFunc(30*time.Millisecond, func() { _ = w.cmd.Process.Kill() })
	c := call(t, "", rows...)
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	if c.Refused != nil || len(c.Emitted) != 100 || c.State != keyState(`{"n":100}`) {
		t.Errorf("%d rows emitted, state %s, refused %v", len(c.Emitted), c.State, c.Refused)
	}
}

// TestStop ends a batch with its context, and the workers with their pool.
func TestStop(t *testing.T) {
	p := newPool(t, 1)
	r := open(t, p, Spec{Source: hostile, Must: []string{"k"}, Limits: Limits{Time: time.Minute}})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	c := call(t, "", `{"k":1,"do":"loop"}`)
	c.Context = ctx
	begin := time.Now()
	if err := r.HandleMany([]*kis.Call{c}); !errors.Is(err, context.Canceled) || kis.VerdictOf(err) != kis.VerdictStop {
		t.Errorf("error %v, want that of the context, and a stop", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	c = call(t, "", `{"k":1}`)
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	w := p.idle[0]
	p.mu.Unlock()
	p.Close()
	select {
	case <-w.ended:
	default:
		t.Error("Close left a worker")
	}
	if err := r.HandleMany([]*kis.Call{c}); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestWorkersCannotBeStarted takes the program of the workers away: the rows are to be tried again, and nothing of them has
// happened.
func TestWorkersCannotBeStarted(t *testing.T) {
	p := newPool(t, 1)
	r := open(t, p, Spec{Source: hostile, Must: []string{"k"}})
	p.mu.Lock()
	w := p.idle[0]
	program := p.opt.Program
	p.opt.Program = filepath.Join(t.TempDir(), "gone")
	p.mu.Unlock()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.ended
	c := call(t, `{"n":5}`, `{"k":1}`)
	err := r.HandleMany([]*kis.Call{c})
	if err == nil || kis.VerdictOf(err) != kis.VerdictRetry || !strings.Contains(err.Error(), "no worker can be started") || shown(c) != "state {\"n\":5}\n" {
		t.Errorf("%v: %s", err, shown(c))
	}
	p.opt.Program = program
	if err := r.HandleMany([]*kis.Call{c}); err != nil || shown(c) != "0: {\"n\":6}\nstate {\"n\":6}\n" {
		t.Errorf("%v: %s", err, shown(c))
	}
}

// TestNoWorker names a program that is none.
func TestNoWorker(t *testing.T) {
	for program, want := range map[string]string{"": "no program is known", filepath.Join(t.TempDir(), "none"): "no such file"} {
		p := NewPool(PoolOptions{Program: program, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := p.start()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", program, err, want)
		}
		if err := p.run(ctx, &program0, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %v", program, err)
		}
		cancel()
		p.Close()
	}
}

var program0 program

// TestWorld looks at all that a script can see: nothing of it reaches out.
func TestWorld(t *testing.T) {
	r := open(t, newPool(t, 1), Spec{Source: `
//# sourceMappingURL=/etc/passwd
function handle(row, state, ctx) {
  return {globals: Object.getOwnPropertyNames(globalThis).sort(), ctx: Object.getOwnPropertyNames(ctx).sort(),
    zone: new Date(0).getHours(), env: typeof process, load: typeof require, timer: typeof setTimeout, net: typeof fetch, imported: row.src}
}`})
	c := call(t, "", `{"k":1}`)
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	if len(c.Emitted) != 1 {
		t.Fatal(shown(c))
	}
	want := `{"globals":["AggregateError","Array","ArrayBuffer","BigInt","BigInt64Array","BigUint64Array","Boolean","DataView","Date","Error","EvalError","Float32Array","Float64Array",` +
		`"Function","Infinity","Int16Array","Int32Array","Int8Array","JSON","Map","Math","NaN","Number","Object","Promise","Proxy","RangeError","ReferenceError","Reflect","RegExp",` +
		`"Set","String","Symbol","SyntaxError","TypeError","URIError","Uint16Array","Uint32Array","Uint8Array","Uint8ClampedArray","WeakMap","WeakSet","console","decodeURI",` +
		`"decodeURIComponent","encodeURI","encodeURIComponent","escape","eval","globalThis","handle","isFinite","isNaN","parseFloat","parseInt","undefined","unescape"],` +
		`"ctx":["clear","deadLetter","drop","emit","key","log","meta","now","params","send","state"],"zone":0,"env":"undefined","load":"undefined","timer":"undefined","net":"undefined"}`
	if got := c.Emitted[0].Row.String(); got != want {
		t.Errorf("a script sees\n%s\nwant\n%s", got, want)
	}
	if _, mistakes := read("a.js", `import fs from "fs"; function handle() {}`); len(mistakes) == 0 {
		t.Error("import is accepted")
	}
	for _, source := range []string{
		`function handle() { return {a: eval("1\n//# sourceMappingURL=/etc/hostname")} }`,
		`function handle() { return {a: new Function("return 1\n//# sourceMappingURL=file:///etc/hostname")()} }`,
	} {
		c := call(t, "", `{"k":1}`)
		if err := open(t, InProcess(nil), Spec{Source: source}).HandleMany([]*kis.Call{c}); err != nil || shown(c) != "0: {\"a\":1}\n" {
			t.Errorf("%s: %v %s", source, err, shown(c))
		}
	}
}

// TestBatches gives the same rows in batches of any size, to workers and to this process: what comes of them is the same,
// also what depends on time and chance.
func TestBatches(t *testing.T) {
	const source = `
let kept = 0
function handle(row, state, ctx) {
  if (row.v % 7 === 3) throw new Error("three")
  state.seen = state.seen || []
  state.seen.push(row.v)
  state.when = new Date(ctx.meta.time)
  state.last = state.seen                       // the same array twice: next time two
  state.last.length = Math.min(state.last.length, 3)
  if (row.v % 5 === 0) ctx.state = {fresh: row.v}
  if (row.v % 11 === 0) ctx.clear()
  return {v: row.v, n: (state.seen || []).length, random: Math.random(), now: Date.now(), date: String(state.when)}
}`
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	const rows, keys = 300, 5
	pool := newPool(t, 2)
	var want string
	for round := range 6 {
		var h Host = pool
		if round == 5 {
			h = InProcess(nil)
		}
		r := open(t, h, Spec{Source: source, Must: []string{"k"}})
		states := make([]any, keys)
		var out [keys]strings.Builder
		for at := 0; at < rows; {
			n := rows
			switch round {
			case 0:
				n = 1
			case 1:
			default:
				n = 1 + rng.IntN(40)
			}
			end := min(rows, at+n)
			byKey := map[int]*kis.Call{}
			var calls []*kis.Call
			for v := at; v < end; v++ {
				k := v * 7919 % keys
				c := byKey[k]
				if c == nil {
					c = call(t, "")
					if states[k] != nil {
						c.State = states[k]
					}
					byKey[k] = c
					calls = append(calls, c)
				}
				c.Rows = append(c.Rows, row(t, fmt.Sprintf(`{"k":%d,"v":%d}`, k, v)))
				c.Metas = append(c.Metas, &kis.Meta{Stream: "S", Sequence: uint64(v), Time: commit})
			}
			if err := r.HandleMany(calls); err != nil {
				t.Fatal(err)
			}
			for k, c := range byKey {
				states[k] = c.State
				lines := slices.DeleteFunc(strings.Split(shown(c), "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "state") })
				for _, l := range lines {
					_, l, _ = strings.Cut(l, ": ")
					out[k].WriteString(l + "\n")
				}
			}
			at = end
		}
		got := ""
		for k := range out {
			got += out[k].String() + fmt.Sprintln(states[k])
		}
		if round == 0 {
			want = got
		} else if got != want {
			a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
			for i := range a {
				if i >= len(b) || a[i] != b[i] {
					t.Fatalf("seed %d, round %d, line %d:\n%s\nwant\n%s", seed, round, i, b[min(i, len(b)-1)], a[i])
				}
			}
			t.Fatalf("seed %d, round %d: more lines", seed, round)
		}
	}
}

// TestManyPrograms loads more programs than a worker holds.
func TestManyPrograms(t *testing.T) {
	p := newPool(t, 1)
	var all []*runner
	for i := range maxLoaded + 10 {
		all = append(all, open(t, p, Spec{Source: fmt.Sprintf(`function handle() { return {i: %d} }`, i)}))
	}
	for i, r := range all {
		c := call(t, "", `{"k":1}`)
		if err := r.HandleMany([]*kis.Call{c}); err != nil || shown(c) != fmt.Sprintf("0: {\"i\":%d}\n", i) {
			t.Fatalf("%d: %v %s", i, err, shown(c))
		}
	}
}

func TestLog(t *testing.T) {
	var lines []string
	h := InProcess(func(s kis.Step, line string) { lines = append(lines, s.Name+": "+line) })
	r := open(t, h, Spec{Source: `function handle(row, state, ctx) { ctx.log("a", 1, {b: 2}); for (let i = 0; i < 100; i++) console.log("x".repeat(5000)) }`})
	if err := r.HandleMany([]*kis.Call{call(t, "", `{"k":1}`)}); err != nil {
		t.Fatal(err)
	}
	if len(lines) != maxLogs+1 || lines[0] != "step: a 1 [object Object]" || len(lines[1]) > maxLogLine+20 || !strings.Contains(lines[maxLogs], "left out") {
		t.Errorf("%d lines, the first %q, the last %q", len(lines), lines[0], lines[len(lines)-1])
	}
}

func TestExpand(t *testing.T) {
	subject := func(r *kis.Row) (string, error) {
		a, err := r.Text("a")
		return "out." + a, err
	}
	r := open(t, InProcess(nil), Spec{Mode: kis.Expand, Subject: subject, Source: `function handle(row, state, ctx) {
  if (row.both) ctx.send("other.x", {b: 1})
  return row.none ? null : row.pass ? true : {a: row.a}
}`})
	c := call(t, "", `{"a":"x"}`, `{"a":"y","both":true}`, `{"none":1}`, `{"a":"z","pass":1}`, `{}`)
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		t.Fatal(err)
	}
	want := `0: {"a":"x"}
0: to out.x {"a":"x"}
1: {"a":"y","both":true}
1: to other.x {"b":1}
1: to out.y {"a":"y"}
2: {"none":1}
3: {"a":"z","pass":1}
3: to out.z {"a":"z","pass":1}
4: dead: field "a" is missing
`
	if got := shown(c); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestHandle is the way of a row that is tried again: alone.
func TestHandle(t *testing.T) {
	r := open(t, InProcess(nil), Spec{Must: []string{"k"}, Source: `function handle(row, state) { state.n = 1; if (row.bad) throw "bad"; return true }`})
	c := call(t, `{"old":1}`, `{"k":1,"bad":true}`)
	err := r.Handle(c)
	var pe *kis.PanicError
	if err == nil || kis.VerdictOf(err) != kis.VerdictDeadLetter || c.State != keyState(`{"old":1}`) || c.Refused != nil || len(c.Emitted) > 0 {
		t.Errorf("%v: %s", err, shown(c))
	}
	if !errors.As(err, &pe) || !strings.Contains(pe.Stack, "handle at script:1:") {
		t.Errorf("no stack: %v", pe)
	}
	if c := call(t, ``, `{"k":1}`); r.Handle(c) != nil || shown(c) != "0: {\"k\":1}\nstate {\"n\":1}\n" {
		t.Error(shown(c))
	}
}

// TestWorkerDies has a row that ends its worker by something that is no limit of ours: the engine's own stack.
func TestWorkerDies(t *testing.T) {
	r := open(t, newPool(t, 2), Spec{Must: []string{"k"}, Limits: Limits{Time: 10 * time.Second, Memory: 1 << 30}, Source: `function handle(row, state) {
  if (row.deep) { let a = []; for (let i = 0; i < 3e5; i++) a = [a]; a.flat(Infinity) }
  return {k: row.k}
}`})
	a, b := call(t, "", `{"k":1}`, `{"k":1,"deep":1}`, `{"k":1}`), call(t, "", `{"k":2}`)
	if err := r.HandleMany([]*kis.Call{a, b}); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(shown(a), "\n")
	if got[0] != `0: {"k":1}` || !strings.HasPrefix(got[1], "1: dead: script: its worker died: exit status 2: runtime: goroutine stack exceeds") || got[2] != `2: {"k":1}` || shown(b) != "0: {\"k\":2}\n" {
		t.Errorf("got %s%s", shown(a), shown(b))
	}
}

// TestKeeper has a script that keeps all that it sees, which no row alone is to blame for: its worker forgets it in time.
func TestKeeper(t *testing.T) {
	p := newPool(t, 1)
	keeper := open(t, p, Spec{Limits: Limits{Memory: 32 << 20}, Source: `
const kept = []
function handle(row) {
  for (let i = 0; i < 2000; i++) kept.push("x".repeat(200) + i)
  return {n: kept.length}
}`})
	other := open(t, p, Spec{Source: `function handle(row) { return row }`, Limits: Limits{Memory: 16 << 20}})
	last, forgot := int64(0), false
	for i := range 1000 {
		c := call(t, "", `{"k":1}`)
		if err := keeper.HandleMany([]*kis.Call{c}); err != nil || len(c.Emitted) != 1 {
			t.Fatalf("row %d: %v %s", i, err, shown(c))
		}
		n, err := c.Emitted[0].Row.Int("n")
		if err != nil {
			t.Fatal(err)
		}
		forgot, last = forgot || n < last, n
		if i%50 == 0 {
			c := call(t, "", `{"k":1}`)
			if err := other.HandleMany([]*kis.Call{c}); err != nil || len(c.Emitted) != 1 {
				t.Fatalf("the other script suffers: %v %s", err, shown(c))
			}
		}
		if forgot {
			return
		}
	}
	t.Errorf("the worker keeps %d texts", last)
}
