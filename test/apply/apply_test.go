// Package apply changes flows of the real kisnode while events flow through them and while it is killed: what is
// counted before a change, after it and around it has to be exact.
package apply

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/test/process"
)

var bin string

func TestMain(m *testing.M) { flag.Parse(); process.Main(m, &bin, "kisnode", "kisctl") }

// ctx is for calls that end by themselves.
var ctx = context.Background()

// definitions of a flow that totals a user's amounts and tells them.
const (
	flowText = `
kistype: flow
status: %d
flow_name: Totals
entry: {subject: apply.in}
flows:
%s`
	check = `
---
kistype: func
fname: Check
fmode: Verify
source: {name: lines, must: [user]}
verify: [{rule: 'row.amount > %d', reason: amount is too small}]
`
	count = `
---
kistype: func
fname: Count
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  state:
    count: {init: 0, set: state.count + 1}
    total: {init: 0, set: state.total + row.amount}
  emit: {user: row.user, count: state.count, total: state.total, version: %d%s}
`
	seen = `
---
kistype: func
fname: Seen
fmode: Calculate
source: {name: lines, must: [user]}
calculate:
  state:
    n: {init: 0, set: state.n + 1}
  emit: {user: row.user, amount: row.amount, seen: state.n}
`
	tell = `
---
kistype: func
fname: Tell
fmode: Expand
expand: {subject: apply.out}
`
)

// first is the flow as it begins: Check, Count, Tell.
func first(status, above int) string {
	return fmt.Sprintf(flowText, status, "  - {fname: Check}\n  - {fname: Count, as: totals}\n  - {fname: Tell}\n") +
		fmt.Sprintf(check, above) + fmt.Sprintf(count, 1, "") + tell
}

// second has another step with a state of its own in the middle, and another Count.
func second() string {
	return fmt.Sprintf(flowText, 1, "  - {fname: Check}\n  - {fname: Seen}\n  - {fname: Count, as: totals}\n  - {fname: Tell}\n") +
		fmt.Sprintf(check, 0) + seen + fmt.Sprintf(count, 2, ", seen: row.seen") + tell
}

// bench is a node and what a test does with it.
type bench struct {
	*testing.T
	node   *process.Node
	client *api.Client
	js     jetstream.JetStream
	sent   int // messages
}

func newBench(t *testing.T) *bench {
	t.Parallel()
	return benchOf(t, process.NewNode(t, bin, t.TempDir()+"/data", "--durability", "process"))
}

// benchOf starts a node.
func benchOf(t *testing.T, n *process.Node) *bench {
	b := &bench{T: t, node: n}
	b.start()
	b.client = b.node.Client(t)
	js, err := jetstream.New(b.node.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	b.js = js
	return b
}

func (b *bench) start() {
	b.Helper()
	if err := b.node.Start(); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) restart() {
	b.Helper()
	b.node.Kill()
	b.start()
}

// ctl runs kisctl, which must do it.
func (b *bench) ctl(args ...string) string {
	b.Helper()
	out, errs, code := b.node.Ctl(b, args...)
	if code != 0 {
		b.Fatalf("kisctl %q: exit code %d\n%s%s\n%s", args, code, out, errs, b.node.Log())
	}
	return out
}

func (b *bench) apply(text string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "flow.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return b.ctl("apply", "-f", path, "--yes")
}

// publish publishes one event of every user, and tries until it is acknowledged.
func (b *bench) publish(users, amount int) {
	b.Helper()
	b.publishLines(func(lines *strings.Builder) {
		for u := 1; u <= users; u++ {
			fmt.Fprintf(lines, "{\"user\":%d,\"amount\":%d}\n", u, amount)
		}
	})
}

// publishLines publishes one message, and tries until it is acknowledged.
func (b *bench) publishLines(write func(*strings.Builder)) {
	b.Helper()
	var lines strings.Builder
	write(&lines)
	b.sent++
	m := &nats.Msg{Subject: "apply.in", Data: []byte(lines.String()), Header: nats.Header{jetstream.MsgIDHeader: {fmt.Sprint(b.sent)}}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, cancel := context.WithTimeout(ctx, time.Second)
		_, err := b.js.PublishMsg(c, m)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
	}
}

// pace keeps a publisher from being far ahead of the node, on a machine that has much else to do. A node that is
// being started is not waited for.
func (b *bench) pace() {
	for b.sent%10 == 0 {
		if s, err := b.client.Status(ctx); err != nil || s.Lag < 100 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// settled waits until no input is behind for a while.
func (b *bench) settled() {
	b.Helper()
	since := time.Now()
	for end := time.Now().Add(time.Minute); time.Since(since) < 300*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		s, err := b.client.Status(ctx)
		if err != nil {
			b.Fatalf("%v\n%s", err, b.node.Log())
		}
		if s.Lag > 0 || s.Phase != "running" {
			since = time.Now()
		}
		if time.Now().After(end) {
			b.Fatalf("still %d behind after a minute, problems %q\n%s", s.Lag, s.Problems, b.node.Log())
		}
	}
}

// totals checks the states of all users.
func (b *bench) totals(users, count, total int) {
	b.Helper()
	want := fmt.Sprintf(`{"count":%d,"total":%d}`, count, total)
	seen := 0
	for page := (api.Page{Limit: 40}); ; {
		list, err := b.client.States(ctx, "Totals", "totals", "", page)
		if err != nil {
			b.Fatalf("%v\n%s", err, b.node.Log())
		}
		for _, s := range list.Items {
			if seen++; string(s.State) != want {
				b.Errorf("state of %s: %s, want %s", s.Key, s.State, want)
			}
		}
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	if seen != users {
		b.Errorf("%d keys, want %d", seen, users)
	}
}

// told is one output.
type told struct{ User, Count, Total, Version, Seen int }

// outputs reads all outputs.
func (b *bench) outputs() (all []told) {
	b.Helper()
	b.eachOutput(func(m jetstream.Msg) {
		var o told
		if err := json.Unmarshal(m.Data(), &o); err != nil {
			b.Fatal(err)
		}
		all = append(all, o)
	})
	return all
}

func (b *bench) eachOutput(f func(jetstream.Msg)) {
	b.Helper()
	c, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	name, err := b.js.StreamNameBySubject(c, "apply.out")
	if err != nil {
		b.Fatal(err)
	}
	consumer, err := b.js.OrderedConsumer(c, name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"apply.out"}})
	if err != nil {
		b.Fatal(err)
	}
	for {
		batch, err := consumer.Fetch(1000, jetstream.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			f(m)
		}
		if n == 0 {
			return
		}
	}
}

// TestInsertStep applies a step in the middle of a flow while events come in and the node is killed around it.
// Every user's events go through one of both revisions, once; the old step keeps its state, the new one counts
// from the change on.
func TestInsertStep(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	const users, rounds = 60, 60
	stop := make(chan struct{})
	published := make(chan struct{})
	go func() { // ends with its rounds
		defer close(published)
		for i := range rounds {
			b.publish(users, 2)
			if i == rounds/2 {
				close(stop)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	<-stop
	if out := b.apply(second()); !regexp.MustCompile(`totals \(3, was 2\) +changed; its state is kept`).MatchString(out) {
		t.Errorf("apply says\n%s", out)
	}
	b.restart()
	<-published
	b.restart()
	b.settled()
	b.totals(users, rounds, 2*rounds)
	b.restart() // what a start sends again, nobody counts twice
	b.settled()
	last := make(map[int]told)
	old := 0
	for _, o := range b.outputs() {
		before := last[o.User]
		want := told{o.User, before.Count + 1, before.Total + 2, o.Version, before.Seen}
		if o.Version == 2 {
			want.Seen++
		} else {
			old++
		}
		if o != want || o.Version < before.Version {
			t.Errorf("output %+v behind %+v, want %+v", o, before, want)
		}
		last[o.User] = o
	}
	for u := 1; u <= users; u++ {
		if o := last[u]; o.Count != rounds || o.Version != 2 || o.Seen == rounds {
			t.Errorf("last output of user %d: %+v, want count %d of version 2, and some of version 1", u, o, rounds)
		}
	}
	t.Logf("%d outputs of the first revision, %d of the second", old, users*rounds-old)
}

// TestPause pauses and resumes a flow; a node that is killed meanwhile keeps it paused.
func TestPause(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	b.publish(20, 1)
	b.settled()
	b.ctl("pause", "flow", "Totals")
	b.publish(20, 1)
	b.restart()
	if out := b.ctl("get", "flows"); !regexp.MustCompile(`(?m)^Totals +paused `).MatchString(out) {
		t.Errorf("get flows says\n%s", out)
	}
	b.publish(20, 1)
	b.ctl("resume", "flow", "Totals")
	b.settled()
	b.totals(20, 3, 3)
}

// TestDisable disables a flow by status: 0 and enables it again.
func TestDisable(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 0))
	b.publish(20, 1)
	b.settled()
	b.apply(first(0, 0))
	b.publish(20, 1)
	if out := b.ctl("get", "flows"); !regexp.MustCompile(`(?m)^Totals +disabled `).MatchString(out) {
		t.Errorf("get flows says\n%s", out)
	}
	b.restart()
	b.publish(20, 1)
	if _, errs, code := b.node.Ctl(b, "state", "get", "Totals", "totals", "user=1"); code == 0 || !strings.Contains(errs, "status: 0") {
		t.Errorf("state get: exit code %d, %s", code, errs)
	}
	b.apply(first(1, 0))
	b.settled()
	b.totals(20, 3, 3)
}

// TestDelete deletes a flow and makes another one of its name, which reads the entry from its beginning and
// knows nothing of the first.
func TestDelete(t *testing.T) {
	b := newBench(t)
	for round := 1; round <= 3; round++ {
		b.apply(first(1, 0))
		b.publish(20, 1)
		b.publish(20, -1)
		b.settled()
		b.totals(20, round, round)
		if list, err := b.client.DeadLetters(ctx, "Totals", api.DeadLetterFilter{}, api.Page{Limit: 1000}); err != nil || len(list.Items) != 20*round {
			t.Errorf("round %d: %d dead letters, %v, want %d", round, len(list.Items), err, 20*round)
		}
		b.ctl("delete", "flow", "Totals", "--yes")
		if out := b.ctl("get", "flows"); strings.Contains(out, "Totals") {
			t.Errorf("get flows says\n%s", out)
		}
		if round == 2 {
			b.restart()
		}
	}
	// 1, then 1 and 2, then 1, 2 and 3: what one flow has told is no reason for the next to keep quiet
	counts := make(map[int][]int)
	for _, o := range b.outputs() {
		counts[o.User] = append(counts[o.User], o.Count)
	}
	for u := 1; u <= 20; u++ {
		if got := fmt.Sprint(counts[u]); got != "[1 1 2 1 2 3]" {
			t.Errorf("user %d: outputs with the counts %s", u, got)
		}
	}
}

// TestDeadLetters retries dead letters after the function has been put right, with the node killed in between.
func TestDeadLetters(t *testing.T) {
	b := newBench(t)
	b.apply(first(1, 5)) // amounts must be above 5: a mistake
	b.publish(30, 3)
	b.publish(30, -1)
	b.publish(30, 10)
	b.settled()
	b.totals(30, 1, 10)
	list, err := b.client.DeadLetters(ctx, "Totals", api.DeadLetterFilter{}, api.Page{Limit: 1000})
	if err != nil || len(list.Items) != 60 {
		t.Fatalf("%d dead letters, %v, want 60", len(list.Items), err)
	}
	if out := b.ctl("deadletters", "show", "Totals", list.Items[0].ID); !strings.Contains(out, "amount is too small") || !regexp.MustCompile(`"amount":(3|-1)`).MatchString(out) {
		t.Errorf("show says\n%s", out)
	}
	b.apply(first(1, 0))
	if out := b.ctl("describe", "flow", "Totals"); !regexp.MustCompile(`(?m)revision +2, of `).MatchString(out) {
		t.Errorf("describe says\n%s", out)
	}
	out := b.ctl("deadletters", "retry", "Totals", "--all", "--yes")
	t.Logf("retry: %s", out)
	b.restart()
	b.settled()
	b.totals(30, 2, 13)
	b.ctl("deadletters", "retry", "Totals", "--all", "--yes") // those below zero come back
	b.settled()
	b.totals(30, 2, 13)
	left, err := b.client.DeadLetters(ctx, "Totals", api.DeadLetterFilter{}, api.Page{Limit: 1000})
	if err != nil || len(left.Items) != 30 {
		t.Errorf("%d dead letters are left, %v, want 30", len(left.Items), err)
	}
	if out := b.ctl("deadletters", "drop", "Totals", "--all", "--yes"); out != "30 dead letters dropped\n" {
		t.Errorf("drop says %q", out)
	}
	b.restart()
	if s, err := b.client.Status(ctx); err != nil || s.DeadLetters != 0 {
		t.Errorf("%d dead letters after a restart, %v", s.DeadLetters, err)
	}
	b.totals(30, 2, 13)
}
