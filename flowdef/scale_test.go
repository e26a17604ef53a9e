package flowdef

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestScale reads and checks a thousand flows in a row, each fed by the one before it, the last by none.
func TestScale(t *testing.T) {
	const flows = 1000
	var b strings.Builder
	for i := range flows {
		fmt.Fprintf(&b, `kistype: flow
status: 1
flow_name: F%d
entry: [in.%d, more.%d.*]
flows: [{fname: load%d}, {fname: sum%d}, {fname: save%d}, {fname: send%d}]
---
kistype: func
fname: load%d
fmode: Load
load: {handoff: h%d}
---
kistype: func
fname: sum%d
fmode: Calculate
source: {must: [userid]}
calculate: {state: {n: {set: state.n + 1}}, emit: {n: state.n}}
---
kistype: func
fname: save%d
fmode: Save
save: {handoff: h%d}
---
kistype: func
fname: send%d
fmode: Expand
expand: {subject: 'more.%d.{x}'}
---
`, i, i, i, i, i, i, i, i, i, i, i, i+1, i, i+1)
	}
	start := time.Now()
	set := &Set{}
	mistakes := Parse("f", []byte(strings.Repeat("# flows\n", 1)+b.String()), set)
	if len(mistakes) == 0 || mistakes[len(mistakes)-1].Code != codeLimit {
		t.Fatalf("five thousand documents of one file: %v", mistakes)
	}
	set = &Set{}
	for i, doc := range strings.Split(b.String(), "---\n") {
		if doc != "" {
			if m := Parse(fmt.Sprint("f", i), []byte(doc), set); len(m) > 0 {
				t.Fatal(m)
			}
		}
	}
	got := set.Check(CheckOptions{})
	if len(got) != 1 || got[0].Code != codeNoHandoff { // nobody saves h0
		t.Errorf("%d mistakes: %v", len(got), got[:min(3, len(got))])
	}
	if took := time.Since(start); took > time.Minute { // two seconds on a quiet machine
		t.Errorf("took %v", took)
	}
	// The last flow feeds the first: one circle through all of them.
	set.Flows[0].Entries[0].Subject.Value = fmt.Sprintf("more.%d.x", flows)
	set.Funcs[fmt.Sprint("send", flows-1)].Expand.Subject.Value = set.Flows[0].Entries[0].Subject.Value
	got = set.Check(CheckOptions{})
	if len(got) != 2 || got[1].Code != codeLoop && got[0].Code != codeLoop {
		t.Errorf("%d mistakes: %v", len(got), got[:min(3, len(got))])
	}
}
