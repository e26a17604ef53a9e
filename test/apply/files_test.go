package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/test/process"
)

// TestFilesDropNoState: a node whose files would drop a state leaves the flow as it was, and says so, until somebody
// says that it may.
func TestFilesDropNoState(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "flows.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first(1, 0))
	b := benchOf(t, process.NewNode(t, bin, t.TempDir()+"/data", "--durability", "process", "--flows", folder))
	b.publish(20, 1)
	b.settled()
	write(strings.Replace(first(1, 0), "as: totals", "as: sums", 1))
	b.restart()
	b.publish(20, 1)
	b.settled()
	b.totals(20, 2, 2)
	s, err := b.client.Status(ctx)
	if err != nil || !s.Ready || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "flow Totals goes on as it was: its files would drop the state of Totals/totals for good") {
		t.Errorf("ready %t, problems %q, %v", s.Ready, s.Problems, err)
	}
	b.ctl("apply", "-f", folder, "--yes", "--drop-state", "totals")
	if s, err := b.client.Status(ctx); err != nil || len(s.Problems) > 0 {
		t.Errorf("problems %q, %v", s.Problems, err)
	}
	b.restart()
	b.settled()
	if s, err := b.client.Status(ctx); err != nil || len(s.Problems) > 0 {
		t.Errorf("problems %q, %v", s.Problems, err)
	}
	if r, err := b.client.Revision(ctx, "Totals", 0); err != nil || r.Revision != 2 || fmt.Sprint(r.Steps) != "[Check sums Tell]" {
		t.Errorf("revision %d with steps %v, %v", r.Revision, r.Steps, err)
	}
}

const (
	saveText = `
kistype: func
fname: Keep
fmode: Save
source: {name: kept, must: [user]}
`
	otherText = `
kistype: flow
status: 1
flow_name: Other
entry: {subject: other.in}
flows:
  - {fname: Add, as: sum}
---
kistype: func
fname: Add
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  state:
    count: {init: 0, set: state.count + 1}
---
kistype: func
fname: Bring
fmode: Load
source: {name: kept}
load: {handoff: kept, from: beginning}
`
)

// TestMergeAndSplit splits a flow that runs, by a Save that is inserted into it, and merges what that saves into another one
// that runs, by a Load; both are taken out and put in again. Events come in all the time, and the node dies on the way.
func TestMergeAndSplit(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	b.apply(otherText)
	stop, done := make(chan struct{}), make(chan struct{})
	var published atomic.Int64
	go func() { // ends with stop
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				b.publish(20, 1)
				published.Add(1)
				time.Sleep(time.Millisecond)
			}
		}
	}()
	more := func() { // waits for some more events
		t.Helper()
		want := published.Load() + 20
		for end := time.Now().Add(time.Minute); published.Load() < want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing is published")
			}
		}
	}
	save := filepath.Join(t.TempDir(), "save.yaml")
	if err := os.WriteFile(save, []byte(saveText), 0o600); err != nil {
		t.Fatal(err)
	}
	more()
	b.ctl("flow", "insert", "Totals", "--fname", "Keep", "--after", "totals", "-f", save, "--yes") // split
	more()
	b.restart()
	more()
	b.ctl("flow", "insert", "Other", "--fname", "Bring", "--before", "sum", "--yes") // merge
	more()
	b.ctl("flow", "remove", "Other", "Bring", "--yes")
	b.restart()
	more()
	b.ctl("flow", "insert", "Other", "--fname", "Bring", "--at", "1", "--yes")
	more()
	b.ctl("flow", "remove", "Totals", "Keep", "--yes")
	more()
	close(stop)
	<-done
	b.settled()
	b.totals(20, b.sent, b.sent)
	// What was saved between the two changes of the first flow has come to the second one, all of it, once.
	saved := -1
	list, err := b.client.States(ctx, "Other", "sum", "", api.Page{Limit: 100})
	if err != nil || len(list.Items) != 20 {
		t.Fatalf("%d keys, %v", len(list.Items), err)
	}
	for _, s := range list.Items {
		var n int
		if _, err := fmt.Sscanf(string(s.State), `{"count":%d}`, &n); err != nil {
			t.Fatal(err)
		}
		if saved < 0 {
			saved = n
		}
		if n != saved || n < 60 || n >= b.sent {
			t.Errorf("key %s has %d of %d events, others %d", s.Key, n, b.sent, saved)
		}
	}
	t.Logf("%d events of a user, %d of them saved", b.sent, saved)
}

// TestEntryOfAFlowThatStands: a flow that deals its entry by another key after a change that was made while it was
// paused does not read the entry a second time, also where the node was killed right after the pause: its input
// stops, with a way out.
func TestEntryOfAFlowThatStands(t *testing.T) {
	b := newBench(t)
	after := first(1, 0) + "---\nkistype: func\nfname: Free\nfmode: Calculate\ncalculate: {emit: {user: row.user, amount: row.amount}}\n"
	before := strings.Replace(after, "  - {fname: Check}\n", "  - {fname: Free}\n  - {fname: Check}\n", 1)
	b.apply(before)
	b.publish(20, 1)
	b.settled()
	b.ctl("pause", "flow", "Totals")
	b.restart()
	b.apply(after)
	b.ctl("resume", "flow", "Totals")
	var reason string
	for end := time.Now().Add(20 * time.Second); !strings.Contains(reason, "the key changed while the flow did not run"); time.Sleep(20 * time.Millisecond) {
		list, err := b.client.Flows(ctx, api.Page{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if reason = list.Items[0].Reason; time.Now().After(end) {
			t.Fatalf("the flow is %s, %q; %d outputs of 20", list.Items[0].State, reason, len(b.outputs()))
		}
	}
	b.ctl("rollback", "Totals", "--yes")
	b.publish(20, 1)
	b.ctl("pause", "flow", "Totals")
	b.ctl("resume", "flow", "Totals")
	b.settled()
	b.totals(20, 2, 2)
}
