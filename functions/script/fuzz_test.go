package script

import (
	"testing"

	"github.com/kisflow/kisflow/kis"
)

// FuzzResults reads what a worker of an evil mind may answer: nothing panics, and no row is answered twice.
func FuzzResults(f *testing.F) {
	in := &inProcess{machine: machine{}}
	source := `function handle(row, state, ctx) { state.n = row.k; ctx.log("x"); if (row.t) throw "t"; return [row, {a: 1n << 60n}] }`
	r, err := tryOpen(in, Spec{Source: source, Must: []string{"k"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	calls := []*kis.Call{call(f, "", `{"k":1}`, `{"k":1,"t":1}`), call(f, `{"n":1}`, `{"k":2}`)}
	r.calls, r.states = calls, []string{"", ""}
	r.build(false)
	if err := in.run(f.Context(), r.program, r.request, func(b []byte) error { f.Add(append([]byte(nil), b...)); return nil }); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		calls := []*kis.Call{call(t, "", `{"k":1}`, `{"k":1,"t":1}`), call(t, `{"n":1}`, `{"k":2}`)}
		r := &runner{program: r.program, host: in, calls: calls, states: []string{"", ""}, last: 2}
		if err := r.results(payload); err == nil && r.call > 2 {
			t.Errorf("results for call %d", r.call)
		}
		for _, c := range calls {
			for _, e := range c.Emitted {
				if _, err := kis.ParseRow(e.Row.AppendJSON(nil)); err != nil {
					t.Errorf("emitted what is no row: %v", err)
				}
			}
		}
	})
}

// FuzzRequest reads requests that no pool writes.
func FuzzRequest(f *testing.F) {
	in := &inProcess{machine: machine{}}
	r, err := tryOpen(in, Spec{Source: `function handle(row) { return row }`, Must: []string{"k"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	r.calls, r.states = []*kis.Call{call(f, "", `{"k":1}`)}, []string{""}
	r.build(false)
	f.Add(append([]byte(nil), r.request[17:]...))
	f.Fuzz(func(t *testing.T, rest []byte) {
		c := cursor{b: rest}
		for c.err == nil && len(c.b) > 0 {
			c.text()
			c.number()
			c.signed()
			c.count()
		}
		kind, payload, _, ok, err := cutFrame(rest)
		if ok && (err != nil || len(payload) > len(rest)) {
			t.Errorf("kind %d, %d bytes, %v", kind, len(payload), err)
		}
	})
}

// FuzzSource reads scripts: whatever they hold, they are read in a bounded depth.
func FuzzSource(f *testing.F) {
	f.Add(`function handle(row) { return row }`)
	f.Add(`(row) => row`)
	f.Add("function (a) {\n}\n;")
	f.Add("const handle = `${1}`\n//# sourceMappingURL=x")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		_, mistakes := read("script", text)
		for _, m := range mistakes {
			if m.Offset < -1 || m.Offset > len(text) || m.Message == "" {
				t.Errorf("mistake %+v in %q", m, text)
			}
		}
	})
}
