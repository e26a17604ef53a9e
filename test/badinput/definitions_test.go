package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/api"
)

// badDefinitions are files that must not be taken, each with what is wrong with it.
var badDefinitions = []struct{ name, text string }{
	{"unknown kind", "kistype: function\nfname: x\n"},
	{"no kind", "fname: x\nfmode: Verify\n"},
	{"unknown key", "kistype: func\nfname: x\nfmod: Verify\n"},
	{"not YAML", "kistype: [func\nfname: x\n"},
	{"tabs", "kistype: func\n\tfname: x\n"},
	{"a list", "- kistype: func\n- kistype: flow\n"},
	{"a text", "hello\n"},
	{"not UTF-8", "kistype: func\nfname: x\xff\nfmode: Verify\nsource: {name: s, must: [a]}\n"},
	{"NUL", "kistype: func\nfname: a\x00b\n"},
	{"the same key twice", "kistype: func\nfname: x\nfname: y\nfmode: Verify\nsource: {name: s, must: [a]}\n"},
	{"the same function twice", strings.Repeat("kistype: func\nfname: x\nfmode: Verify\nsource: {name: s, must: [a]}\n---\n", 2)},
	{"an alias to nothing", "kistype: func\nfname: *x\n"},
	{"an alias to itself", "kistype: func\nfname: x\nfmode: Verify\nsource: &s {name: s, must: [*s]}\n"},
	{"a billion laughs", laughs()},
	{"nested 20,000 deep", "kistype: func\nfname: " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "\n"},
	{"mappings 5,000 deep", "kistype: func\nfname: " + strings.Repeat("{a: ", 5000) + "1" + strings.Repeat("}", 5000) + "\n"},
	{"a name of 1 MiB", "kistype: func\nfname: " + strings.Repeat("x", 1<<20) + "\nfmode: Verify\nsource: {name: s, must: [a]}\n"},
	{"an expression nested 10,000 deep", "kistype: func\nfname: x\nfmode: Verify\nsource: {name: s, must: [a]}\nverify: [{rule: '" + strings.Repeat("(", 10000) + "1" + strings.Repeat(")", 10000) + "'}]\n"},
	{"an expression that is none", "kistype: func\nfname: x\nfmode: Verify\nsource: {name: s, must: [a]}\nverify: [{rule: 'row.a >'}]\n"},
	{"an unknown function in a flow", "kistype: flow\nstatus: 1\nflow_name: F\nentry: {subject: x}\nflows: [{fname: Chekc}]\n"},
	{"a status that is none", "kistype: flow\nstatus: on\nflow_name: F\nentry: {subject: x}\nflows: [{fname: Check}]\n"},
	{"a subject that is none", "kistype: flow\nstatus: 1\nflow_name: F\nentry: {subject: 'x..y'}\nflows: [{fname: Check}]\n"},
	{"a flow that feeds itself", "kistype: flow\nstatus: 1\nflow_name: F\nentry: {subject: x.>}\nflows: [{fname: E}]\n---\nkistype: func\nfname: E\nfmode: Expand\nexpand: {subject: x.y}\n"},
}

// laughs is the bomb of aliases: ten levels of ten would be ten thousand million values.
func laughs() string {
	var b strings.Builder
	b.WriteString("kistype: func\nfname: x\nfmode: Verify\nsource: {name: s, must: [a]}\noption:\n  default_params:\n    a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i <= 10; i++ {
		fmt.Fprintf(&b, "    a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	return b.String()
}

// TestDefinitions gives kisctl lint and kisctl apply every bad file, and compares what they say with
// testdata/definitions.golden. Nothing that is defined changes.
func TestDefinitions(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	publish(t, n, 10, 1)
	settled(t, n)
	before, _, _ := n.Ctl(t, "describe", "flow", "Totals")
	dir := t.TempDir()
	var out strings.Builder
	for _, d := range badDefinitions {
		path := filepath.Join(dir, "bad.yaml")
		if err := os.WriteFile(path, []byte(d.text), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "== %s\n", d.name)
		for _, args := range [][]string{{"lint", "testdata/flows.yaml", path}, {"apply", "-f", path, "--yes"}} {
			begin := time.Now()
			stdout, stderr, code := n.Ctl(t, args...)
			if code == 0 {
				t.Errorf("%s: kisctl %s takes it", d.name, args[0])
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("%s: kisctl %s took %v", d.name, args[0], took)
			}
			if len(stdout)+len(stderr) > 20_000 {
				t.Errorf("%s: kisctl %s wrote %d bytes", d.name, args[0], len(stdout)+len(stderr))
			}
			fmt.Fprintf(&out, "-- %s: exit code %d\n", args[0], code)
			lines := 0
			for line := range strings.Lines(strings.ReplaceAll(stdout+stderr, dir+string(filepath.Separator), "")) {
				if lines++; lines > 6 {
					fmt.Fprintln(&out, "...")
					break
				}
				if line = strings.TrimSuffix(line, "\n"); len(line) > 200 {
					line = strings.ToValidUTF8(line[:200], "") + "..."
				}
				fmt.Fprintln(&out, line)
			}
		}
	}
	golden(t, "definitions.golden", out.String())
	if after, _, _ := n.Ctl(t, "describe", "flow", "Totals"); after != before {
		t.Errorf("the flow has changed from\n%s\nto\n%s", before, after)
	}
	if list, err := n.Client(t).Flows(ctx, api.Page{Limit: 100}); err != nil || len(list.Items) != 1 {
		t.Errorf("flows: %+v, %v, want Totals alone", list.Items, err)
	}
	publish(t, n, 10, 1)
	settled(t, n)
	totals(t, n, 10, 2, 2)
}
