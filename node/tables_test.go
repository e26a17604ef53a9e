package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/transport"
)

const usersFlow = `
kistype: flow
status: 1
flow_name: Users
entry: {subject: users, fields: {user: text, device: text, name: text}}
flows: [{fname: SaveUser}]
---
`

const ordersFlow = `
---
kistype: flow
status: 1
flow_name: Orders
entry: {subject: orders, fields: {id: int, buyer: text, user: text, device: text}}
flows: [{fname: WithUser}, {fname: Send}]
---
{kistype: func, fname: Send, fmode: Expand, expand: {subject: out}}
---
`

// TestLintSavedRows finds what is wrong with look-ups of what other flows save, at their places.
func TestLintSavedRows(t *testing.T) {
	const save = "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user]}}"
	const two = "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user, device]}}"
	load := func(text string) string {
		return ordersFlow + "{kistype: func, fname: WithUser, fmode: Load, load: {as: lookup, " + text + "}}\n"
	}
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"by the row's own field", usersFlow + save + load("handoff: users"), nil},
		{"by another field", usersFlow + save + load("handoff: users, key: row.buyer, set: {name: found?.name}, cache: 1m, timeout: 1s, missing: drop"), nil},
		{"of two fields", usersFlow + two + load("handoff: users, key: {user: row.buyer, device: row.device}"), nil},
		{"of two fields of the row", usersFlow + two + load("handoff: users"), nil},
		{"by save.key", usersFlow + "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user, name]}, save: {key: [user]}}" + load("handoff: users"), nil},
		{"misspelt hand-off", usersFlow + save + load("handoff: user, key: row.user"), []string{`f:18:75: no flow saves hand-off "user", which function "WithUser" looks up [KF2004] (did you mean "users"?)`}},
		{"unknown hand-off", usersFlow + save + load("handoff: clients, key: row.user"), []string{`f:18:75: warning: no flow saves hand-off "clients", which function "WithUser" looks up [KF2004] (known: users)`}},
		{"without a key", usersFlow + "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users}}" + load("handoff: users, key: row.user"),
			[]string{`f:18:75: function "SaveUser" saves the rows of hand-off "users" without a key, so function "WithUser" cannot look them up [KF2015] (name the key's fields there`}},
		{"that keeps none", usersFlow + "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user]}, save: {keep: none}}" + load("handoff: users"),
			[]string{`f:18:75: function "SaveUser" keeps no rows of hand-off "users" (save.keep: none), so function "WithUser" cannot look them up [KF2015]`}},
		{"one expression for two", usersFlow + two + load("handoff: users, key: row.buyer"), []string{`f:18:87: the key of hand-off "users" is user, device: one expression is not enough [KF2015] (say what each of them is: key: {user: row.user, ...})`}},
		{"misspelt field of the key", usersFlow + two + load("handoff: users, key: {user: row.user, devise: row.device}"),
			[]string{`f:18:88: the key of hand-off "users" is user, device, and load.key does not say what "device" is [KF2015]`, `f:18:104: the key of hand-off "users" is user, device, without "devise" [KF2015] (did you mean "device"?)`}},
		{"key of no field", usersFlow + save + load("handoff: users, key: row.byer"), []string{`f:18:91: no row has the field byer, at step "WithUser" of flow "Orders" [KF3001] (did you mean buyer?`}},
		{"no field of the key", usersFlow + two + strings.Replace(load("handoff: users"), ", device: text", "", 1), []string{`f:18:58: no row has the field device, at step "WithUser" of flow "Orders" [KF3001]`}},
		{"field that nobody saves", usersFlow + save + load("handoff: users, missing: drop, set: {n: found.nme}"), []string{`f:18:112: no row has the field found.nme, at step "WithUser" of flow "Orders" [KF3001] (did you mean name?`}},
		{"from", usersFlow + save + load("handoff: users, from: now"), []string{`f:18:82: from is for a Load that follows a hand-off, and this one looks rows up [KF1021]`}},
		{"neither", usersFlow + save + load("key: row.user"), []string{`f:18:58: a look-up names neither a connector nor a hand-off [KF1014]`}},
		{"keep without a key", usersFlow + "{kistype: func, fname: SaveUser, fmode: Save, source: {name: users}, save: {keep: last}}", []string{`f:8:77: function "SaveUser" is to keep the latest row of each key, and has no key [KF1024]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := new(flowdef.Set)
			mistakes := flowdef.Parse("f", []byte(c.text), set)
			mistakes = append(mistakes, Lint(set, nil, true)...)
			var got []string
			for _, m := range mistakes {
				if m.Severity == flowdef.Error || m.Code == "KF2004" {
					got = append(got, m.Error())
				}
			}
			ok := len(got) == len(c.want)
			for i := range min(len(got), len(c.want)) {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestTrialLooksUp: a look-up sees what was saved last, by event time, and what it saw stays as it is.
func TestTrialLooksUp(t *testing.T) {
	const text = `
kistype: flow
status: 1
flow_name: Users
entry: {subject: users}
time: {field: at}
flows: [{fname: SaveUser, as: save}]
---
{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user]}, ttl: 30d}
---
kistype: flow
status: 1
flow_name: Orders
entry: {subject: orders}
flows: [{fname: WithUser, as: user}, {fname: Send}]
---
{kistype: func, fname: WithUser, fmode: Load, load: {as: lookup, handoff: users, key: row.buyer, missing: dead_letter, set: {name: found.name}}}
---
{kistype: func, fname: Send, fmode: Expand, expand: {subject: out}}
`
	set := new(flowdef.Set)
	if ms := append(flowdef.Parse("f", []byte(text), set), Lint(set, nil, true)...).Errors(); len(ms) > 0 {
		t.Fatal(ms)
	}
	trial, err := NewTrial(t.Context(), set, TrialOptions{Flow: "Orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer trial.Close()
	out := func() (all []string) {
		ms, err := trial.Outputs(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			all = append(all, string(m.Data))
		}
		return all
	}
	send := func(subject, row string) {
		t.Helper()
		if err := trial.Publish(t.Context(), subject, []byte(row)); err != nil {
			t.Fatal(err)
		}
	}
	send("orders", `{"id":1,"buyer":7}`) // nobody is there yet
	send("users", `{"user":7,"name":"ada","at":"2025-12-31T10:00:00Z"}`)
	send("users", `{"user":"7","name":"other","at":"2025-12-31T10:00:00Z"}`) // a key of another type
	send("orders", `{"id":2,"buyer":7}`)
	send("users", `{"user":7,"name":"late","at":"2025-12-31T09:00:00Z"}`) // older than what is there
	send("orders", `{"id":3,"buyer":7.0}`)
	send("users", `{"user":7,"name":"Ada L.","at":"2025-12-31T10:00:00Z"}`) // of the same time, but later
	send("orders", `{"id":4,"buyer":7}`)
	send("orders", `{"id":5,"buyer":null}`)
	send("orders", `{"id":6,"buyer":[7]}`)
	want := []string{`{"id":2,"buyer":7,"name":"ada"}`, `{"id":3,"buyer":7.0,"name":"ada"}`, `{"id":4,"buyer":7,"name":"Ada L."}`}
	if got := out(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("sent\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	letters, err := trial.DeadLetters("Orders")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, l := range letters {
		reasons = append(reasons, l.Reason)
	}
	if got := strings.Join(reasons, "; "); got != "hand-off users has nothing of the key; hand-off users has nothing of the key; load.key: key field \"user\" is an array; it must be a string, an integer, a float or a boolean" {
		t.Errorf("dead letters: %s", got)
	}
	if state, err := trial.State("Users", "save", "user=7"); err != nil || !strings.Contains(string(state), `"row":{"user":7,"name":"Ada L."`) {
		t.Errorf("the state of the Save is %s, %v", state, err)
	}
	if err := trial.Wait(t.Context(), 31*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	send("orders", `{"id":7,"buyer":7}`) // the time to live of what was saved is over
	if got := out(); len(got) > 0 {
		t.Errorf("after the time to live: sent %v", got)
	}
}

// nodeOf is a node on a folder of its own, which the test starts and stops.
type nodeOf struct {
	*testing.T
	*Node
	opt Options
}

func startNode(t *testing.T, opt Options) *nodeOf {
	t.Helper()
	opt.Data, opt.Listen, opt.NATSListen, opt.Durability, opt.LogOutput = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0", "process", io.Discard
	n := &nodeOf{T: t, opt: opt}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *nodeOf) start() {
	n.Helper()
	var err error
	if n.Node, err = Start(n.Context(), n.opt); err != nil {
		n.Fatal(err)
	}
}

func (n *nodeOf) stop() {
	if n.Node == nil {
		return
	}
	if err := n.Close(context.Background()); err != nil {
		n.Error(err)
	}
	n.Node = nil
}

func (n *nodeOf) applies(text string) {
	n.Helper()
	if _, err := n.Apply(n.Context(), []api.File{{Name: "f.yaml", Text: text}}, api.Approval{By: "test"}); err != nil {
		n.Fatal(err)
	}
}

func (n *nodeOf) sends(flow string, rows ...string) {
	n.Helper()
	var ms []api.PublishMessage
	for _, r := range rows {
		ms = append(ms, api.PublishMessage{Data: []byte(r)})
	}
	if _, err := n.Publish(n.Context(), api.Publication{Flow: flow, Messages: ms}); err != nil {
		n.Fatal(err)
	}
}

// done waits until a flow has done all that was sent to it.
func (n *nodeOf) done(flow string) {
	n.Helper()
	r := n.system.Flow(flow)
	marks, err := r.Newest(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.Context(), 60*time.Second)
	defer cancel()
	for err = r.Await(ctx, marks); errors.Is(err, actors.ErrWaiting) && ctx.Err() == nil; err = r.Await(ctx, marks) {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		f, _ := n.Flow(n.Context(), flow)
		n.Fatalf("flow %s: %v: %s", flow, err, f.Reason)
	}
}

// sent returns all that is on a subject, sorted.
func (n *nodeOf) sent(subject string) []string {
	n.Helper()
	info, err := n.streams.Capturing(n.Context(), subject)
	if err != nil {
		n.Fatal(err)
	}
	var all []string
	if info.Last > 0 {
		r, err := n.streams.Read(n.Context(), info.Name, transport.ReadOptions{})
		if err != nil {
			n.Fatal(err)
		}
		defer r.Close()
		for at := uint64(0); at < info.Last; {
			ms, err := r.Next(n.Context(), 1000)
			if err != nil {
				n.Fatal(err)
			}
			for _, m := range ms {
				if at = m.Sequence; m.Subject == subject {
					all = append(all, string(m.Data))
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

const (
	usersDef  = "{kistype: flow, status: 1, flow_name: Users, flows: [{fname: SaveUser, as: save}]}\n---\n{kistype: func, fname: SaveUser, fmode: Save, source: {name: users, must: [user]}}\n"
	ordersDef = "{kistype: flow, status: 1, flow_name: Orders, flows: [{fname: WithUser, as: user}, {fname: Send}]}\n---\n" +
		"{kistype: func, fname: WithUser, fmode: Load, load: {as: lookup, handoff: users, key: row.buyer, set: {name: found?.name ?? 'nobody'}}}\n---\n" +
		"{kistype: func, fname: Send, fmode: Expand, expand: {subject: out}}\n"
)

// TestLooksUpSavedRows: a flow saves rows and keeps none, until another one looks them up. Then what the hand-off has is
// taken in first. It survives a restart, changes of both flows, and the end of the saver.
func TestLooksUpSavedRows(t *testing.T) {
	n := startNode(t, Options{})
	n.applies(usersDef)
	var rows []string
	for i := range 120 {
		rows = append(rows, fmt.Sprintf(`{"user":%d,"name":"n%d.%d"}`, i%40, i%40, i/40))
	}
	n.sends("Users", rows...)
	n.done("Users")
	if f, err := n.Flow(t.Context(), "Users"); err != nil || f.StateKeys != 0 {
		t.Errorf("nobody asks for rows, and %d are kept, %v", f.StateKeys, err)
	}
	p, err := n.Plan(t.Context(), []api.File{{Name: "f.yaml", Text: ordersDef}})
	if err != nil || len(p.Flows) != 2 || p.Flows[1].Flow != "Users" || p.Flows[1].To != 2 || p.Flows[1].Steps[0].State != api.StateIsNew ||
		strings.Join(p.Flows[1].Steps[0].Changes, "") != "keeps the latest row of each key from now on, for flow Orders; it begins with all rows of hand-off users" {
		t.Errorf("plan %+v, %v", p.Flows, err)
	}
	n.applies(ordersDef)
	flow := "Orders"
	ask := func(from, to int) (want []string) {
		var orders []string
		for i := from; i < to; i++ {
			orders = append(orders, fmt.Sprintf(`{"id":%d,"buyer":%d}`, i, i%50))
			want = append(want, fmt.Sprintf(`{"id":%d,"buyer":%d,"name":"n%d.2"}`, i, i%50, i%50))
			if i%50 >= 40 {
				want[len(want)-1] = fmt.Sprintf(`{"id":%d,"buyer":%d,"name":"nobody"}`, i, i%50)
			}
		}
		n.sends(flow, orders...)
		return want
	}
	same := func(what string, want []string) {
		t.Helper()
		n.done(flow)
		slices.Sort(want)
		if got := n.sent("out"); !slices.Equal(got, want) {
			t.Fatalf("%s: sent %d rows\n%s\nwant %d\n%s", what, len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
		}
	}
	want := ask(0, 100)
	same("at first", want)
	if f, err := n.Flow(t.Context(), "Users"); err != nil || f.StateKeys != 40 || f.Revision != 2 || f.DeadLetters != 0 {
		t.Errorf("%d rows are kept at revision %d, %v", f.StateKeys, f.Revision, err)
	}
	if in, err := n.Lag(t.Context(), "Users", api.Page{Limit: 10}); err != nil || slices.ContainsFunc(in.Items, func(l api.Lag) bool { return l.Kind == "kept" }) {
		t.Errorf("what was taken in is still an input: %+v, %v", in.Items, err)
	}
	n.stop()
	n.start()
	want = append(want, ask(100, 150)...)
	same("after a restart", want)
	n.applies(strings.Replace(usersDef, "[{fname: SaveUser", "[{fname: Check}, {fname: SaveUser", 1) + "---\n{kistype: func, fname: Check, fmode: Verify, source: {must: [user]}}\n")
	n.sends("Users", `{"user":49,"name":"n49.2"}`)
	n.done("Users")
	n.sends("Orders", `{"id":150,"buyer":49}`)
	want = append(want, `{"id":150,"buyer":49,"name":"n49.2"}`)
	same("after a change of the saver", want)

	// The flow that asks goes: what was kept stays kept.
	if _, err := n.SetFlow(t.Context(), "Orders", api.ActionDelete); err != nil {
		t.Fatal(err)
	}
	n.applies(usersDef)
	if f, err := n.Flow(t.Context(), "Users"); err != nil || f.StateKeys != 41 {
		t.Errorf("%d rows are kept when nobody asks for them any more, %v", f.StateKeys, err)
	}
	n.applies(strings.Replace(ordersDef, "flow_name: Orders", "flow_name: Again", 1))
	flow = "Again"
	n.sends(flow, `{"id":151,"buyer":49}`)
	want = append(want, `{"id":151,"buyer":49,"name":"n49.2"}`)
	same("when somebody asks again", want)

	// The saver goes: who asks waits, and says for what.
	if _, err := n.SetFlow(t.Context(), "Users", api.ActionDelete); err != nil {
		t.Fatal(err)
	}
	n.sends(flow, `{"id":152,"buyer":1}`)
	until(t, "the flow says what it waits for", func() string {
		f, err := n.Flow(t.Context(), flow)
		if err != nil || !strings.Contains(f.Reason, "hand-off users: its rows cannot be asked for now: no flow that runs saves and keeps them") {
			return fmt.Sprint(f.Reason, err)
		}
		return ""
	})
	n.applies("{kistype: flow, status: 1, flow_name: Other, entry: other, flows: []}\n") // it keeps nobody from changing others
	n.applies(strings.Replace(usersDef, "flow_name: Users", "flow_name: Users2", 1))
	want = append(want, `{"id":152,"buyer":1,"name":"n1.2"}`) // of what the hand-off still has
	same("when another flow saves", want)
}

// TestTableBeginsWithKeptRows: what was cut from a hand-off is not missing in a table that is new, and rows that come
// before the table is there wait for it. Without kept rows the cut is told of, as far as it can be.
func TestTableBeginsWithKeptRows(t *testing.T) {
	n := startNode(t, Options{})
	n.applies(strings.Replace(usersDef, "must: [user]}", "must: [user]}, save: {keep: last}", 1))
	var rows []string
	for i := range 3000 {
		rows = append(rows, fmt.Sprintf(`{"user":%d,"name":"n%d.%d"}`, i%1000, i%1000, i/1000))
	}
	n.sends("Users", rows...)
	n.done("Users")
	cut := func() {
		t.Helper()
		info, err := n.streams.Info(t.Context(), actors.SaveStream("users"))
		if err == nil {
			err = n.streams.Cut(t.Context(), info.Name, "", info.Last+1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cut()
	table := func(flow, must, set string) string {
		return fmt.Sprintf("{kistype: flow, status: 1, flow_name: %s, entry: in.%s, flows: [{fname: With%s, as: user}, {fname: Send%s}]}\n---\n"+
			"{kistype: func, fname: With%s, fmode: Load, source: {must: [%s]}, load: {as: table, handoff: users, missing: dead_letter, set: {%s}}}\n---\n"+
			"{kistype: func, fname: Send%s, fmode: Expand, expand: {subject: %s}}\n", flow, flow, flow, flow, flow, must, set, flow, strings.ToLower(flow))
	}
	// A table by a field that is not of the Save's key cannot begin with the kept rows, so the cut matters.
	_, err := n.Apply(t.Context(), []api.File{{Name: "f.yaml", Text: table("Names", "name", "u: table.user")}}, api.Approval{})
	if err == nil || !strings.Contains(err.Error(), "the beginning of the hand-off is gone: nothing is left of it") {
		t.Errorf("a table by another key: %v", err)
	}
	if err := n.catalogHas("Names"); err {
		t.Error("the flow was taken over")
	}
	n.applies(table("Orders", "user", "name: table.name"))
	var orders, want []string
	for i := range 1000 {
		orders = append(orders, fmt.Sprintf(`{"user":%d}`, i))
		want = append(want, fmt.Sprintf(`{"user":%d,"name":"n%d.2"}`, i, i))
	}
	n.sends("Orders", orders...)
	n.sends("Users", `{"user":5,"name":"later"}`)
	n.done("Orders")
	slices.Sort(want)
	got := n.sent("orders")
	for i := range got {
		got[i] = strings.Replace(got[i], `"later"`, `"n5.2"`, 1) // it may have come before or after
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d rows, want %d: %.300s", len(got), len(want), strings.Join(got, "\n"))
	}
	f, err := n.Flow(t.Context(), "Orders")
	if err != nil || f.StateKeys != 1000 || f.DeadLetters != 0 {
		t.Errorf("the table has %d rows, %d dead letters, %v", f.StateKeys, f.DeadLetters, err)
	}
	n.done("Users")
	n.done("Orders")
	n.sends("Orders", `{"user":5,"again":true}`)
	n.done("Orders")
	if got := n.sent("orders"); !slices.Contains(got, `{"user":5,"again":true,"name":"later"}`) {
		t.Errorf("what was saved after the copy is not there")
	}
	// A restart copies nothing again, though the saver does not run.
	if _, err := n.SetFlow(t.Context(), "Users", api.ActionPause); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	n.sends("Orders", `{"user":7,"again":true}`)
	n.done("Orders")
	if got := n.sent("orders"); !slices.Contains(got, `{"user":7,"again":true,"name":"n7.2"}`) {
		t.Errorf("after a restart the table does not go on")
	}
	// A flow that is new waits while the saver does not run, and says so; then it goes on.
	cut()
	n.applies(table("Later", "user", "name: table.name"))
	n.sends("Later", `{"user":5}`)
	until(t, "the flow says what it waits for", func() string {
		f, err := n.Flow(t.Context(), "Later")
		if err != nil || !strings.Contains(f.Reason, "waits until the rows are copied that hand-off users has kept (0 so far)") {
			return fmt.Sprint(f.Reason, err)
		}
		return ""
	})
	if _, err := n.SetFlow(t.Context(), "Users", api.ActionResume); err != nil {
		t.Fatal(err)
	}
	n.done("Later")
	if got := n.sent("later"); !slices.Equal(got, []string{`{"user":5,"name":"later"}`}) {
		t.Errorf("sent %s", got)
	}
}

// catalogHas tells whether a flow is in the catalog.
func (n *nodeOf) catalogHas(flow string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.catalog.Flows[flow] != nil
}
