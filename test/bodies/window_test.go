package bodies

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// TestScriptBeforeAWindow lets a flow that was paused catch up, with a script in front of a window: the script takes many
// rows in one call, and each of them is in time for its window as it is without the script.
func TestScriptBeforeAWindow(t *testing.T) {
	n := start(t)
	n.ctl("apply", "--yes", "-f", n.write("flow.yaml", `
kistype: flow
status: 1
flow_name: Catch
entry: {subject: catch.in}
time: {field: at, lateness: 1s}
flows: [{fname: Pass}, {fname: Count, as: count}, {fname: Out}]
---
kistype: func
fname: Pass
fmode: Calculate
source: {name: rows, must: [user]}
script: 'function handle(row) { return true }'
---
kistype: func
fname: Count
fmode: Calculate
source: {name: rows, must: [user]}
calculate:
  window: {tumbling: 10s}
  aggregate: {n: count()}
  emit: {user: key.user, start: window.start, n: state.n}
---
kistype: func
fname: Out
fmode: Expand
expand: {subject: catch.out}
`))
	n.ctl("pause", "flow", "Catch")
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	const rows = 300
	want := make(map[string]bool)
	for i := range rows {
		at := 1767225600000 + 5000*i
		if _, err := js.Publish(t.Context(), "catch.in", fmt.Appendf(nil, `{"user":1,"at":%d}`, at)); err != nil {
			t.Fatal(err)
		}
		if i < rows-2 { // the last window is open
			want[fmt.Sprintf(`{"user":1,"start":%d,"n":2}`, at-at%10000)] = true
		}
	}
	n.ctl("resume", "flow", "Catch")
	var got []string
	eventually(t, func() string {
		got = strings.Split(strings.TrimSpace(n.ctl("tail", "catch.out", "--from", "beginning", "--no-follow")), "\n")
		if len(got) != len(want) {
			return fmt.Sprintf("%d windows, want %d\n%s", len(got), len(want), n.ctl("deadletters", "list", "Catch", "--by-reason"))
		}
		return ""
	})
	for _, g := range got {
		if !want[g] {
			t.Errorf("nobody wants %s", g)
		}
	}
	if out := n.ctl("deadletters", "list", "Catch"); strings.Count(out, "\n") > 1 {
		t.Errorf("dead letters:\n%s", out)
	}
}
