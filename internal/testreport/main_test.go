package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const (
		start = `{"Action":"start","Package":"m/a"}` + "\n"
		run1  = `{"Action":"run","Package":"m/a","Test":"TestOne"}` + "\n"
		pass1 = `{"Action":"pass","Package":"m/a","Test":"TestOne","Elapsed":0.1}` + "\n"
		run2  = `{"Action":"run","Package":"m/a","Test":"TestTwo"}` + "\n"
		passA = `{"Action":"pass","Package":"m/a","Elapsed":1.25}` + "\n"
		failA = `{"Action":"fail","Package":"m/a","Elapsed":1.25}` + "\n"
	)
	said := func(text string) string {
		return `{"Action":"output","Package":"m/a","Test":"TestTwo","Output":"` + text + `\n"}` + "\n"
	}
	for _, c := range []struct {
		name, in string
		ok       bool
		want     []string // lines of the report, the last one its last
	}{
		{"passes", start + run1 + pass1 + passA, true, []string{"ok    m/a  1.2s", "1 passed, 0 failed, 0 skipped"}},
		{"a skip says why", start + run1 + pass1 + run2 + said("    x_test.go:7: no server: not here") +
			`{"Action":"skip","Package":"m/a","Test":"TestTwo"}` + "\n" + passA,
			true, []string{"  m/a TestTwo: no server: not here", "1 passed, 0 failed, 1 skipped"}},
		{"a failure shows its output", start + run1 + pass1 + run2 + said("got 1") +
			`{"Action":"fail","Package":"m/a","Test":"TestTwo"}` + "\n" + failA,
			false, []string{"--- FAILED: m/a TestTwo", "    got 1", "FAIL  m/a  1.2s", "1 passed, 1 failed, 0 skipped"}},
		{"a package that dies", start + run1 + pass1 + run2 + said("panic: boom") + failA,
			false, []string{"--- FAILED: m/a", "    running: TestTwo", "    panic: boom", "1 passed, 1 failed, 0 skipped"}},
		{"a package that does not build", `{"ImportPath":"m/a","Action":"build-output","Output":"a.go:1: undefined: x\n"}` + "\n" +
			`{"ImportPath":"m/a","Action":"build-fail"}` + "\n" +
			`{"Action":"fail","Package":"m/a","Elapsed":0,"FailedBuild":"m/a"}` + "\n",
			false, []string{"--- FAILED: m/a", "    a.go:1: undefined: x", "0 passed, 1 failed, 0 skipped"}},
		{"cut off", start + run1 + pass1 + run2, false, []string{"--- FAILED: m/a TestTwo", "1 passed, 1 failed, 0 skipped"}},
		{"the go command's own failure", "FAIL	m/b [setup failed]\n" + start + run1 + pass1 + passA,
			false, []string{"FAIL	m/b [setup failed]", "1 passed, 1 failed, 0 skipped"}},
		{"nothing", "", false, []string{"0 passed, 0 failed, 0 skipped"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := report(strings.NewReader(c.in), &out)
			if err != nil || ok != c.ok {
				t.Errorf("ok = %v, %v; want %v", ok, err, c.ok)
			}
			for _, l := range c.want {
				if !strings.Contains("\n"+out.String(), "\n"+l+"\n") {
					t.Errorf("no line %q in\n%s", l, out.String())
				}
			}
			if want := c.want[len(c.want)-1] + "\n"; !strings.HasSuffix(out.String(), "\n"+want) {
				t.Errorf("the report ends with %q, want %q", out.String()[max(0, out.Len()-60):], want)
			}
		})
	}
}
