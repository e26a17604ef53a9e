package node

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/flowdef"
)

// parseWith parses a definition file whose scripts are in files.
func parseWith(t *testing.T, text string, files map[string]string) *flowdef.Set {
	t.Helper()
	set := new(flowdef.Set)
	mistakes := flowdef.ParseWith("flows/f.yaml", []byte(text), set, func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, errors.New("not there")
	})
	if err := mistakes.Errors().Err(); err != nil {
		t.Fatal(err)
	}
	return set
}

// TestLintScripts finds mistakes of scripts at their places, however the script is written down.
func TestLintScripts(t *testing.T) {
	for _, c := range []struct{ name, body, file, want string }{
		{"block", "script: |\n  // first\n  function handle(row) {\n    retrun row\n  }\n", "", "flows/f.yaml:7:12: unexpected identifier"},
		{"block, indented", "script:\n    text: |\n        function handle(row) {\n          let a = ;\n        }\n", "", "flows/f.yaml:7:19: unexpected token ;"},
		{"quoted", "script: \"function handle(row) {\\n  return }\\n}\"\n", "", "flows/f.yaml:4:46: unexpected token }"},
		{"plain", "script: function handle(row) { return row. }\n", "", "flows/f.yaml:4:44: unexpected token }"},
		{"one function", "script: |\n  function (row) {\n    return row +\n  }\n", "", "flows/f.yaml:7:3: unexpected token }"},
		{"one function, first line", "script: function (row) { return row + }\n", "", "flows/f.yaml:4:39: unexpected token }"},
		{"no handle", "script: function hanlde(row) { return row }\n", "", "flows/f.yaml:4:9: the script has no function handle"},
		{"strict", "script: |\n  function handle(row, row) { }\n", "", "flows/f.yaml:5:24: duplicate parameter name"},
		{"file", "script: {file: js/a.js}\n", "\nfunction handle(row) {\n\treturn row)\n}\n", "flows/js/a.js:3:12: unexpected token )"},
		{"state without a key", "script: |\n  function handle(row, mine, ctx) {\n    row.mine = 1\n    mine.n = 1\n  }\n", "", "flows/f.yaml:7:5: the script uses a state, and the function has no key that it could belong to"},
		{"brackets", "script: '" + strings.Repeat("(", 600) + "'\n", "", "flows/f.yaml:4:510: more than 500 brackets are open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := parseWith(t, "kistype: func\nfname: F\nfmode: Calculate\n"+c.body, map[string]string{"js/a.js": c.file})
			mistakes := Lint(set, nil, true).Errors()
			if len(mistakes) != 1 || mistakes[0].Code != codeScript || !strings.HasPrefix(mistakes[0].Error(), c.want+" ") {
				t.Errorf("got %v, want %s", mistakes, c.want)
			}
		})
	}
}

// runInMemory runs a set on one message and returns the outputs.
func runInMemory(t *testing.T, set *flowdef.Set, message string) ([]string, InMemoryReport, error) {
	t.Helper()
	if err := Lint(set, nil, true).Errors().Err(); err != nil {
		t.Fatal(err)
	}
	var outputs []string
	report, err := InMemory{
		Events: func(_ context.Context, publish func([]byte) error) error { return publish([]byte(message)) },
		Output: func(subject string, b []byte) error {
			outputs = append(outputs, subject+" "+string(b))
			return nil
		},
	}.Run(t.Context(), set)
	return outputs, report, err
}

const scriptFlow = `kistype: flow
status: 1
flow_name: Flow
entry: in
flows: [{fname: F, params: {add: "2"}}, {fname: G}]
---
kistype: func
fname: F
fmode: Calculate
source: {must: [k]}
`

func TestScriptsInMemory(t *testing.T) {
	set := parseWith(t, scriptFlow+`script: |
  function handle(row, state, ctx) {
    state.n = (state.n || 0) + Number(ctx.params.add)
    if (row.bad) throw new Error("bad")
    if (row.elsewhere) ctx.emit({k: 9, n: 0})
    return {k: row.k, n: state.n}
  }
---
kistype: func
fname: G
fmode: Expand
expand: {subject: 'out.{k}'}
script: |
  (row) => ({k: row.k, text: "n is " + row.n})
`, nil)
	outputs, report, err := runInMemory(t, set, `{"k":1} {"k":2} {"k":1,"bad":true} {"k":1,"elsewhere":true}`)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, o := range outputs {
		got[o] = true
	}
	for _, want := range []string{`out.1 {"k":1,"text":"n is 2"}`, `out.2 {"k":2,"text":"n is 2"}`, `out.1 {"k":1,"text":"n is 4"}`, `out.9 {"k":9,"text":"n is 0"}`} {
		if !got[want] {
			t.Errorf("outputs %q lack %s", outputs, want)
		}
	}
	if len(outputs) != 4 || report.DeadLetters != 1 || report.Reasons["F: script:3:22: Error: bad"] != 1 {
		t.Errorf("outputs %q, report %+v", outputs, report)
	}
}

// TestRemoteWithoutNATS names the function that nobody can be asked for.
func TestRemoteWithoutNATS(t *testing.T) {
	set := parseWith(t, scriptFlow+`remote: {subject: f.do}
---
kistype: func
fname: G
fmode: Expand
expand: {subject: out}
`, nil)
	_, _, err := runInMemory(t, set, `{"k":1}`)
	if err == nil || !strings.Contains(err.Error(), "function F calls subject f.do, which cannot be reached without NATS") {
		t.Errorf("got %v", err)
	}
}
