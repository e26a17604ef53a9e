package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
)

// The flow of the tests of changes counts a user's events and tells each; `rev` is the revision that the event met at
// the first step, which is a parameter, and `end` the one that it met at the last one.
const changing = `
kistype: flow
status: 1
flow_name: Totals
entry: {subject: apply.in}
flows:
  - {fname: Mark, params: {rev: "1"}}   # the first step
  - {fname: Count, as: totals}
  # tells it
  - {fname: Tell, params: {end: "1"}}
---
kistype: func
fname: Mark
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  emit: {user: row.user, id: row.id, rev: params.rev}
---
kistype: func
fname: Count
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  state: {count: {init: 0, set: state.count + 1}}
  emit: {user: row.user, id: row.id, rev: row.rev, count: state.count}
---
kistype: func
fname: Other
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  state: {count: {init: 0, set: state.count + 1}}
  emit: {user: row.user, id: row.id, rev: row.rev, count: state.count}
---
kistype: func
fname: Check
fmode: Verify
source: {name: lines, must: [user]}
verify: [{rule: 'row.user > 0', reason: no such user}]
---
kistype: func
fname: Tell
fmode: Expand
expand:
  subject: apply.out
  emit: {user: row.user, id: row.id, rev: row.rev, count: row.count, end: params.end}
`

// TestEveryEventMeetsOneRevision changes single steps of a flow again and again while events flow in, with kills in
// between. Each event is counted and told once, and meets the same revision at the first and the last step; what a
// partition tells changes its revision in order.
func TestEveryEventMeetsOneRevision(t *testing.T) {
	b := newBench(t)
	b.apply(changing)
	const users = 40
	stop, published := make(chan struct{}), make(chan int)
	go func() { // ends with stop
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				published <- n
				return
			default:
			}
			b.publishLines(func(lines *strings.Builder) {
				for u := 1; u <= users; u++ {
					fmt.Fprintf(lines, "{\"user\":%d,\"id\":%d}\n", u, n)
				}
			})
			b.pace()
		}
	}()
	finish := sync.OnceValue(func() int {
		close(stop)
		return <-published
	})
	defer finish()
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	revision := 1
	for i := range rounds {
		// One change marks the first and the last step: both belong to the same revision.
		change := func(args ...string) {
			b.Helper()
			b.ctl(append([]string{"flow"}, args...)...)
			revision++
		}
		mark := func() {
			b.Helper()
			out := b.ctl("flow", "show", "Totals")
			next := fmt.Sprint(revision + 1)
			text := regexp.MustCompile(`rev: "?\d+"?`).ReplaceAllString(out, `rev: "`+next+`"`)
			text = regexp.MustCompile(`end: "?\d+"?`).ReplaceAllString(text, `end: "`+next+`"`)
			b.apply(text)
			revision++
		}
		mark()
		switch i % 4 {
		case 0:
			change("insert", "Totals", "--fname", "Check", "--before", "totals", "--yes")
		case 1:
			change("replace", "Totals", "totals", "--fname", map[bool]string{true: "Other", false: "Count"}[i%8 < 4], "--yes")
		case 2:
			change("remove", "Totals", "Check", "--yes")
		case 3:
			change("append", "Totals", "--fname", "Check", "--as", "last", "--yes")
			change("remove", "Totals", "last", "--yes")
		}
		if i%3 == 1 {
			b.restart()
		}
		mark()
	}
	// and a change in the middle of which the node dies
	for range 3 {
		out := b.ctl("flow", "show", "Totals")
		next := fmt.Sprint(revision + 100)
		text := regexp.MustCompile(`rev: "?\d+"?`).ReplaceAllString(out, `rev: "`+next+`"`)
		text = regexp.MustCompile(`end: "?\d+"?`).ReplaceAllString(text, `end: "`+next+`"`)
		path := filepath.Join(b.TempDir(), "flow.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { // ends with its command
			defer close(done)
			b.node.Ctl(b, "apply", "-f", path, "--yes") // it may fail: the node dies
		}()
		time.Sleep(time.Duration(20+revision%20) * time.Millisecond)
		b.restart()
		<-done
		r, err := b.client.Revision(ctx, "Totals", 0)
		if err != nil {
			t.Fatal(err)
		}
		revision = int(r.Revision)
	}
	n := finish()
	b.settled()
	if list, err := b.client.DeadLetters(ctx, "Totals", api.DeadLetterFilter{}, api.Page{Limit: 10}); err != nil || len(list.Items) > 0 {
		t.Errorf("dead letters %v, %v", list.Items, err)
	}

	type line struct {
		User, ID, Count int
		Rev, End        string
	}
	next := make(map[int]int)         // by user: the count that comes next
	last := make(map[string]int)      // by partition: the revision
	seen := make(map[string][]string) // by partition: revisions in order
	total := 0
	for _, m := range b.rawOutputs() {
		var l line
		if err := json.Unmarshal(m.Data(), &l); err != nil {
			t.Fatal(err)
		}
		total++
		next[l.User]++
		if l.Count != next[l.User] || l.ID != next[l.User]-1 {
			t.Fatalf("user %d: output %+v, want count %d", l.User, l, next[l.User])
		}
		if l.Rev != l.End {
			t.Fatalf("an event met revision %s at its first step and %s at its last: %+v", l.Rev, l.End, l)
		}
		from, _, _ := strings.Cut(m.Headers().Get("Kisflow-Origin"), " ")
		var rev int
		fmt.Sscan(l.Rev, &rev)
		if before := last[from]; rev < before {
			t.Fatalf("partition %s tells of revision %d behind %d: %+v", from, rev, before, l)
		} else if rev != before {
			last[from] = rev
			seen[from] = append(seen[from], l.Rev)
		}
	}
	if total != n*users {
		t.Errorf("%d outputs, want %d", total, n*users)
	}
	for from, revs := range seen {
		if len(revs) < rounds {
			t.Errorf("partition %s has told of revisions %v only", from, revs)
		}
	}
	t.Logf("%d messages of %d events, %d revisions, %d partitions", n, users, revision, len(seen))
	list, err := b.client.Revisions(ctx, "Totals", api.Page{Limit: 1000})
	if want := min(revision, api.MaxRevisions); err != nil || len(list.Items) != want {
		t.Errorf("%d revisions are kept, %v, want %d", len(list.Items), err, want)
	}
}

// rawOutputs reads all outputs with their headers.
func (b *bench) rawOutputs() (all []jetstream.Msg) {
	b.Helper()
	b.eachOutput(func(m jetstream.Msg) { all = append(all, m) })
	return all
}

// TestDropState: a state that would go has to be named; then it is gone, through a kill in the middle.
func TestDropState(t *testing.T) {
	b := newBench(t)
	count := func() {
		t.Helper()
		b.publishLines(func(lines *strings.Builder) {
			for u := 1; u <= 40; u++ {
				fmt.Fprintf(lines, "{\"user\":%d,\"id\":1}\n", u)
			}
		})
	}
	b.apply(changing)
	count()
	b.settled()
	renamed := strings.Replace(changing, "as: totals", "as: sums", 1)
	path := filepath.Join(t.TempDir(), "flow.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(renamed)
	out, errs, code := b.node.Ctl(t, "apply", "-f", path, "--yes")
	if code != 1 || !strings.Contains(errs, "drops the state of step totals of flow Totals (40 keys)") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if !strings.Contains(out, `with "as: totals" it would be the same step`) {
		t.Errorf("the plan does not say what would keep the state:\n%s", out)
	}
	if _, err := b.client.Apply(ctx, []api.File{{Name: "f", Text: renamed}}, api.Approval{}); err == nil || !strings.Contains(err.Error(), "Totals/totals") {
		t.Errorf("the API drops the state without a word: %v", err)
	}
	if r, err := b.client.Revision(ctx, "Totals", 0); err != nil || r.Revision != 1 {
		t.Errorf("revision %d, %v", r.Revision, err)
	}
	b.ctl("apply", "-f", path, "--yes", "--drop-state", "totals")
	count()
	b.restart()
	count()
	b.settled()
	write(changing)
	b.ctl("apply", "-f", path, "--yes", "--drop-state", "Totals/sums")
	count()
	b.settled()
	list, err := b.client.States(ctx, "Totals", "totals", "", api.Page{Limit: 1000})
	if err != nil || len(list.Items) != 40 {
		t.Fatalf("%d keys, %v", len(list.Items), err)
	}
	for _, s := range list.Items {
		if string(s.State) != `{"count":1}` {
			t.Errorf("the step that is back has %s for %s: its former state was dropped", s.State, s.Key)
		}
	}

	// A paused flow: what is dropped is gone when it runs again, also where the step is back by then.
	b.ctl("pause", "flow", "Totals")
	write(renamed)
	b.ctl("apply", "-f", path, "--yes", "--drop-state", "totals")
	write(changing)
	b.ctl("apply", "-f", path, "--yes", "--drop-state", "sums")
	b.restart()
	b.ctl("resume", "flow", "Totals")
	count()
	b.settled()
	list, err = b.client.States(ctx, "Totals", "totals", "", api.Page{Limit: 1000})
	if err != nil || len(list.Items) != 40 || string(list.Items[0].State) != `{"count":1}` {
		t.Errorf("%d keys, %v; the first: %s\n%s", len(list.Items), err, list.Items[0].State, b.node.Log())
	}
}

// TestRollback applies an earlier revision again, and refuses what it cannot do.
func TestRollback(t *testing.T) {
	b := newBench(t)
	b.apply(changing)
	if _, errs, code := b.node.Ctl(t, "rollback", "Totals", "--yes"); code != 1 || !strings.Contains(errs, "is at its first revision") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	b.ctl("flow", "insert", "Totals", "--fname", "Check", "--at", "1", "--yes")
	b.ctl("flow", "replace", "Totals", "Tell", "--param", "end=7", "--yes")
	b.publish(10, 1)
	out := b.ctl("rollback", "Totals", "--to", "1", "--yes")
	if !regexp.MustCompile(`(?m)^applied 1 change: flow Totals, revision 4$`).MatchString(out) {
		t.Errorf("rollback says\n%s", out)
	}
	b.restart()
	out = b.ctl("flow", "revisions", "Totals")
	if !regexp.MustCompile(`(?m)^ +4  current .* rollback to revision 1  +Mark, totals, Tell$`).MatchString(out) ||
		!regexp.MustCompile(`(?m)^ +2 .* insert step Check  +Check, Mark, totals, Tell$`).MatchString(out) {
		t.Errorf("revisions says\n%s", out)
	}
	if out := b.ctl("rollback", "Totals", "--to", "1", "--yes"); !strings.Contains(out, "nothing to change: flow Totals is as in revision 1") {
		t.Errorf("a second rollback says\n%s", out)
	}
	first, now := b.ctl("flow", "show", "Totals", "--revision", "1"), b.ctl("flow", "show", "Totals")
	if first != now || !strings.Contains(now, "# the first step") {
		t.Errorf("the flow is\n%s\nwant\n%s", now, first)
	}
	for _, bad := range [][]string{{"rollback", "Totals", "--to", "9", "--yes"}, {"rollback", "Nobody", "--yes"}, {"flow", "revisions", "Nobody"},
		{"flow", "insert", "Totals", "--fname", "Nobody", "--at", "1", "--yes"}, {"flow", "insert", "Totals", "--fname", "Check", "--as", "totals", "--at", "1", "--yes"},
		{"flow", "insert", "Totals", "--fname", "Check", "--before", "nobody", "--yes"}, {"flow", "remove", "Totals", "nobody", "--yes"},
		{"flow", "insert", "Totals", "--fname", "Check", "--at", "9", "--yes"}, {"flow", "remove", "Totals", "totals", "--yes"}} {
		if out, errs, code := b.node.Ctl(t, bad...); code != 1 || errs == "" {
			t.Errorf("kisctl %q: exit code %d, %s%s", bad, code, out, errs)
		}
	}
	if r, err := b.client.Revision(ctx, "Totals", 0); err != nil || r.Revision != 4 {
		t.Errorf("after all that was refused: revision %d, %v", r.Revision, err)
	}
}

// TestShadow runs a revision beside the one that counts, through a kill, and compares, discards and promotes it.
func TestShadow(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	b.publish(30, 10)
	b.settled()
	path := filepath.Join(t.TempDir(), "flow.yaml")
	// Another sum: every fifth user's amounts count twice; and one event more is refused.
	text := strings.Replace(first(1, 0), "state.total + row.amount", "state.total + (row.user % 5 == 0 ? 2 * row.amount : row.amount)", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := b.node.Ctl(t, "shadow", "diff", "Totals"); code != 1 || !strings.Contains(errs, "has no shadow") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	b.ctl("apply", "-f", path, "--shadow", "--yes")
	diff := func() api.ShadowDiff {
		t.Helper()
		d, err := b.client.ShadowDiff(ctx, "Totals", 2)
		if err != nil {
			t.Fatalf("%v\n%s", err, b.node.Log())
		}
		return d
	}
	check := func(d api.ShadowDiff, same, differ, sent, only int) {
		t.Helper()
		if len(d.Steps) != 1 || len(d.Notes) > 0 || d.State != api.StateRunning {
			t.Fatalf("diff: %+v", d)
		}
		if s := d.Steps[0]; s.Step != "totals" || s.Keys != 30 || s.Same != same || s.Differ != differ || s.OnlyFlow+s.OnlyShadow+s.Moving > 0 {
			t.Errorf("states: %+v, want %d the same and %d that differ", s, same, differ)
		}
		if sent == 0 {
			return
		}
		if len(d.Outputs) != 1 || d.Outputs[0].Target != "apply.out" || d.Outputs[0].Flow != sent || d.Outputs[0].Shadow != sent ||
			d.Outputs[0].OnlyFlow != only || d.Outputs[0].OnlyShadow != only {
			t.Errorf("outputs: %+v, want %d, and %d that differ", d.Outputs, sent, only)
		}
	}
	check(diff(), 30, 0, 0, 0) // it begins with a copy
	b.publish(30, 1)
	b.publish(30, -1)
	d := diff()
	check(d, 24, 6, 30, 6)
	if d.DeadLetters != 30 || d.ShadowDeadLetters != 30 {
		t.Errorf("%d and %d dead letters, want 30", d.DeadLetters, d.ShadowDeadLetters)
	}
	if e := d.Steps[0].Examples; len(e) != 2 || !strings.Contains(string(e[0].Flow), `"total":11`) || !strings.Contains(string(e[0].Shadow), `"total":12`) {
		t.Errorf("examples %+v", e)
	}
	b.restart()
	b.publish(30, 1)
	check(diff(), 24, 6, 60, 12)
	b.settled()
	b.totals(30, 3, 12) // the flow has not noticed
	if n := len(b.outputs()); n != 90 {
		t.Errorf("%d outputs, want 90: those of the shadow stay apart", n)
	}

	// While it runs the flow stays as it is.
	if _, errs, code := b.node.Ctl(t, "apply", "-f", path, "--yes"); code != 1 || !strings.Contains(errs, "has a shadow; promote or discard it first") {
		t.Errorf("apply: exit code %d, %s", code, errs)
	}
	if _, errs, code := b.node.Ctl(t, "apply", "-f", path, "--shadow", "--yes"); code != 1 || !strings.Contains(errs, "has a shadow already") {
		t.Errorf("apply --shadow: exit code %d, %s", code, errs)
	}
	b.ctl("pause", "flow", "Totals")
	if s, err := b.client.Shadow(ctx, "Totals"); err != nil || s.State != api.StateStopped {
		t.Errorf("of a paused flow: %+v, %v", s, err)
	}
	b.ctl("resume", "flow", "Totals")
	b.publish(30, 1)
	check(diff(), 24, 6, 90, 18)

	b.ctl("shadow", "discard", "Totals")
	if s, err := b.client.Status(ctx); err != nil || s.Partitions != 8 || len(s.Problems) > 0 {
		t.Errorf("after the shadow: %+v, %v", s, err)
	}
	if _, err := b.js.Stream(ctx, "KISFLOW_SHADOW_Totals"); err == nil {
		t.Error("the shadow's stream is still there")
	}

	// A second one begins with a copy of the state as it is then; promoted, the flow goes on with its own state.
	b.ctl("apply", "-f", path, "--shadow", "--yes")
	b.publish(30, 1)
	check(diff(), 24, 6, 30, 6)
	out := b.ctl("shadow", "promote", "Totals", "--yes")
	if !regexp.MustCompile(`(?m)^promoted 1 change: flow Totals, revision 2$`).MatchString(out) {
		t.Errorf("promote says\n%s", out)
	}
	b.restart()
	b.publish(30, 1)
	b.settled()
	for user, want := range map[string]string{"user=5": `{"count":6,"total":16}`, "user=1": `{"count":6,"total":15}`} {
		if s, err := b.client.State(ctx, "Totals", "totals", []string{user}, api.Read{}); err != nil || string(s.State) != want {
			t.Errorf("%s: %s, %v, want %s", user, s.State, err, want)
		}
	}
	if n := len(b.outputs()); n != 30*6 {
		t.Errorf("%d outputs, want %d", n, 30*6)
	}

	// A flow that is deleted takes its shadow along.
	b.apply(first(1, 0))
	b.ctl("apply", "-f", path, "--shadow", "--yes")
	b.ctl("delete", "flow", "Totals", "--yes")
	for _, stream := range []string{"KISFLOW_SHADOW_Totals", "KISFLOW_LOG_Totals=20=28shadow=29=20"} {
		if _, err := b.js.Stream(ctx, stream); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("stream %s: %v", stream, err)
		}
	}
	if s, err := b.client.Status(ctx); err != nil || s.Flows+s.Partitions+len(s.Problems) > 0 {
		t.Errorf("after the delete: %+v, %v", s, err)
	}
}

// TestRevisionsAreBounded: the newest fifty are kept.
func TestRevisionsAreBounded(t *testing.T) {
	b := newBench(t)
	b.apply(changing)
	const all = api.MaxRevisions + 4
	for i := 2; i <= all; i++ {
		text := strings.Replace(changing, `end: "1"`, fmt.Sprintf("end: %q", fmt.Sprint(i)), 1)
		if _, err := b.client.Apply(ctx, []api.File{{Name: "flow.yaml", Text: text}}, api.Approval{By: "test", Note: fmt.Sprint("number ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	b.restart()
	var got []uint64
	for page := (api.Page{Limit: 7}); ; {
		list, err := b.client.Revisions(ctx, "Totals", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.Items {
			got = append(got, r.Revision)
			if want := fmt.Sprint("number ", r.Revision); r.By != "test" || r.Note != want || r.Current != (r.Revision == all) {
				t.Errorf("revision %+v, want the note %q", r, want)
			}
		}
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	if len(got) != api.MaxRevisions || got[0] != all || got[len(got)-1] != all-api.MaxRevisions+1 {
		t.Errorf("revisions %v, want the newest %d of %d", got, api.MaxRevisions, all)
	}
	s, err := b.js.Stream(ctx, "KISFLOW_REVISIONS")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != api.MaxRevisions {
		t.Errorf("the stream holds %d messages, want %d", n, api.MaxRevisions)
	}
	if _, err := b.client.Revision(ctx, "Totals", 4); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a revision that is too old: %v", err)
	}
	b.ctl("delete", "flow", "Totals", "--yes")
	if s, err = b.js.Stream(ctx, "KISFLOW_REVISIONS"); err != nil || s.CachedInfo().State.Msgs != 0 {
		t.Errorf("the stream holds %d messages after the delete, %v", s.CachedInfo().State.Msgs, err)
	}
}

// TestShadowUnderLoad compares while events come in: what does not differ is never said to.
func TestShadowUnderLoad(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				b.publish(50, 1)
				b.pace()
				time.Sleep(2 * time.Millisecond)
			}
		}
	}()
	end := sync.OnceFunc(func() {
		close(stop)
		<-done
	})
	defer end()
	path := filepath.Join(t.TempDir(), "flow.yaml")
	text := strings.Replace(first(1, 0), "reason: amount is too small", "reason: amount is much too small", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ctl("apply", "-f", path, "--shadow", "--yes")
	for range 5 {
		d, err := b.client.ShadowDiff(ctx, "Totals", 5)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Steps {
			if s.Differ+s.OnlyFlow+s.OnlyShadow > 0 || s.Same+s.Moving != s.Keys {
				t.Errorf("states: %+v", s)
			}
		}
		for _, o := range d.Outputs {
			if o.OnlyFlow+o.OnlyShadow > 0 {
				t.Errorf("outputs: %+v", o)
			}
		}
	}
	end()
	b.settled()
	b.ctl("shadow", "promote", "Totals", "--yes")
	b.settled()
	b.totals(50, b.sent, b.sent)
}
