package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// hooked are streams with faults to order.
type hooked struct {
	*memory.Streams
	before func(op, subject string) error // instead of the effect
	after  func(op, subject string) error // instead of its answer
}

func (h *hooked) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	if h.before != nil {
		if err := h.before("append", m.Subject); err != nil {
			return 0, err
		}
	}
	seq, err := h.Streams.Append(ctx, stream, m)
	if err == nil && h.after != nil {
		if err := h.after("append", m.Subject); err != nil {
			return 0, err
		}
	}
	return seq, err
}

func (h *hooked) LastOn(ctx context.Context, stream, subject string) (transport.Message, error) {
	if h.before != nil {
		if err := h.before("last", subject); err != nil {
			return transport.Message{}, err
		}
	}
	return h.Streams.LastOn(ctx, stream, subject)
}

func (h *hooked) Read(ctx context.Context, stream string, o transport.ReadOptions) (transport.Reader, error) {
	if h.before != nil {
		if err := h.before("read", ""); err != nil {
			return nil, err
		}
	}
	return h.Streams.Read(ctx, stream, o)
}

// lapses counts how often an engine lost all that it had at once.
func (e *engine) lapses() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	had := false
	for _, v := range e.views {
		has := slices.Contains(v.Roles, Owner)
		if had && !has && !slices.Contains(v.Roles, Standby) {
			n++
		}
		had = has
	}
	return n
}

// TestOutage cuts all nodes off from the streams at once, for longer than a lease: all give up, and all have what they
// had when it is over.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, network := memory.New(memory.Options{}), &Network{}
		var out atomic.Bool
		streams := &hooked{Streams: inner, before: func(string, string) error {
			if out.Load() {
				return errors.New("no servers available")
			}
			return nil
		}}
		a, b, c := join(t, streams, network, "a"), join(t, streams, network, "b"), join(t, streams, network, "c")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b, c) })
		time.Sleep(3 * time.Second)
		before := a.Table()
		incarnation := b.Self().Incarnation
		out.Store(true)
		time.Sleep(1600 * time.Millisecond)
		for _, n := range []*node{a, b, c} {
			if n.e.owned() != 0 {
				t.Errorf("node %s has %d groups though it could not renew for %s", n.opt.Node, n.e.owned(), 1600*time.Millisecond)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Ask(ctx, Identity{Flow: "f", Group: 1}, "x", nil); err == nil || !strings.Contains(err.Error(), "x of f/ in group 1") {
			t.Errorf("asked a node that has given up: %v", err)
		}
		time.Sleep(20 * time.Second)
		out.Store(false)
		eventually(t, "all is back", 5*time.Second, func() bool { return balanced(a, b, c) })
		time.Sleep(5 * time.Second)
		after := a.Table()
		for g := range before.Groups {
			if before.Groups[g].Owner != after.Groups[g].Owner {
				t.Errorf("group %d moved from %s to %s", g, before.Groups[g].Owner, after.Groups[g].Owner)
			}
		}
		if b.Self().Incarnation == incarnation {
			t.Error("a lapsed node is the same incarnation")
		}
		if b.e.lapses() != 1 {
			t.Errorf("%d lapses, want one", b.e.lapses())
		}
	})
}

// TestShortOutage is over before anybody has to give up.
func TestShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, network := memory.New(memory.Options{}), &Network{}
		var out atomic.Bool
		streams := &hooked{Streams: inner, before: func(string, string) error {
			if out.Load() {
				return transport.ErrDoubt
			}
			return nil
		}}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		for range 5 {
			out.Store(true)
			time.Sleep(800 * time.Millisecond)
			out.Store(false)
			time.Sleep(900 * time.Millisecond)
		}
		if a.e.lapses()+b.e.lapses() > 0 || !balanced(a, b) {
			t.Errorf("lapses %d and %d", a.e.lapses(), b.e.lapses())
		}
	})
}

// TestLostAcknowledgements loses the answer of every third write: each is settled by reading back.
func TestLostAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &Network{}
		var n atomic.Int64
		streams := &hooked{Streams: memory.New(memory.Options{}), after: func(string, string) error {
			if n.Add(1)%3 == 0 {
				return transport.ErrDoubt
			}
			return nil
		}}
		a, b, c := join(t, streams, network, "a"), join(t, streams, network, "b"), join(t, streams, network, "c")
		eventually(t, "balanced", 10*time.Second, func() bool { return balanced(a, b, c) })
		if err := a.Drain(t.Context(), "b", true); err != nil {
			t.Error(err)
		}
		eventually(t, "b is empty", 10*time.Second, func() bool { return b.e.owned() == 0 && balanced(a, c) })
		for range 9 {
			release, err := a.Lock(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			release()
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if a.e.lapses()+c.e.lapses() > 0 {
			t.Errorf("lapses %d and %d", a.e.lapses(), c.e.lapses())
		}
	})
}

func TestNameIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := memory.New(memory.Options{})
		a := join(t, streams, &Network{}, "a", func(o *Options) { o.Version = "1.2" })
		_, err := Join(t.Context(), streams, &engine{}, Options{Name: "test", Node: "a", Network: &Network{}})
		if err == nil || !strings.Contains(err.Error(), "join cluster test: node name a is taken: another node a at node:a (version 1.2, started 2000-01-01T00:00:00Z) is alive") {
			t.Errorf("the name of a live node: %v", err)
		}
		_, err = Join(t.Context(), streams, &engine{}, Options{Name: "other", Node: "b", Network: &Network{}})
		if err == nil || !strings.Contains(err.Error(), "these streams are those of cluster test") {
			t.Errorf("the streams of another cluster: %v", err)
		}
		// It dies, and its successor need not be another one: after a lease the name is free.
		a.Close()
		start := time.Now()
		b := join(t, streams, &Network{}, "a")
		if d := time.Since(start); d < 1500*time.Millisecond || d > 3*time.Second {
			t.Errorf("a dead node's name was free after %s", d)
		}
		eventually(t, "it has the groups", time.Second, func() bool { return b.e.owned() == 256 })
		// A node that leaves frees its name at once.
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		join(t, streams, &Network{}, "a")
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("the name of a node that left was free after %s", d)
		}
	})
}

// TestNameIsTakenWhileAway: a paused node finds another process in its place when it wakes up. It must end, and say why.
func TestNameIsTakenWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New(memory.Options{})
		var out atomic.Bool
		streams := &hooked{Streams: inner, before: func(string, string) error {
			if out.Load() {
				return errors.New("no servers available")
			}
			return nil
		}}
		first := join(t, streams, &Network{}, "a")
		eventually(t, "it has the groups", time.Second, func() bool { return first.e.owned() == 256 })
		out.Store(true)
		second := join(t, inner, &Network{}, "a")
		out.Store(false)
		select {
		case <-first.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("the first process goes on")
		}
		if err := first.Err(); err == nil || !strings.Contains(err.Error(), "node name a is taken") {
			t.Errorf("it ended with %v", err)
		}
		if first.e.owned() != 0 || second.e.owned() != 256 {
			t.Errorf("the first has %d groups, the second %d", first.e.owned(), second.e.owned())
		}
		if _, err := first.Ask(t.Context(), Identity{Flow: "f", Group: 1}, "x", nil, Repeatable); err == nil || !strings.Contains(err.Error(), "taken") {
			t.Errorf("a call after the end: %v", err)
		}
		if err := first.Drain(t.Context(), "a", true); err == nil {
			t.Error("a drain after the end")
		}
		if err := first.Leave(t.Context()); err != nil {
			t.Errorf("leave after the end: %v", err)
		}
	})
}

// TestBucketIsGone deletes the bucket: the nodes make another one, and all of them are in it.
func TestBucketIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		for range 3 {
			number := a.Table().Number
			if err := streams.Delete(t.Context(), Stream); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			eventually(t, "balanced again", 10*time.Second, func() bool { return balanced(a, b) && len(a.Members()) == 2 })
			if now := a.Table().Number; now >= number && number > 10 {
				t.Errorf("the table's number is %d after %d", now, number)
			}
		}
	})
}

func TestNewerTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a := join(t, streams, network, "a")
		data, err := (&proto.ClusterTable{Format: tableFormat + 1}).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := streams.Append(t.Context(), Stream, transport.Outgoing{Subject: tableSubject, Data: data}); err != nil {
			t.Fatal(err)
		}
		<-a.Done()
		if err := a.Err(); err == nil || !strings.Contains(err.Error(), "this node must be upgraded") {
			t.Errorf("ended with %v", err)
		}
		if _, err := Join(t.Context(), streams, &engine{}, Options{Name: "test", Node: "b", Network: network}); err == nil || !strings.Contains(err.Error(), "must be upgraded") {
			t.Errorf("joined an newer cluster: %v", err)
		}
	})
}

// TestDamagedTable: nothing is placed on a table that cannot be read, nothing is written over it, and what runs goes on.
func TestDamagedTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a := join(t, streams, network, "a")
		eventually(t, "it has the groups", time.Second, func() bool { return a.e.owned() == 256 })
		good, err := streams.LastOn(t.Context(), Stream, tableSubject)
		if err != nil {
			t.Fatal(err)
		}
		bad := transport.Outgoing{Subject: tableSubject, Data: good.Data[:len(good.Data)/2]}
		if _, err := streams.Append(t.Context(), Stream, bad); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if last, err := streams.LastOn(t.Context(), Stream, tableSubject); err != nil || !bytes.Equal(last.Data, bad.Data) {
			t.Error("a table that cannot be read was written over")
		}
		if a.e.owned() != 256 || a.Err() != nil {
			t.Errorf("it has %d groups, %v", a.e.owned(), a.Err())
		}
	})
}

func TestLeaveEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		b.e.mu.Lock()
		b.e.lags = true // it never catches up
		b.e.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := a.Leave(ctx); err != nil {
			t.Errorf("leave: %v", err)
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("leaving took %s", d)
		}
		if a.e.owned() != 0 {
			t.Errorf("who left has %d groups", a.e.owned())
		}
		// The key is deleted: nobody waits for the lease.
		eventually(t, "b has all", 100*time.Millisecond, func() bool { return b.e.owned() == 256 })
		select {
		case <-a.Done():
		default:
			t.Error("Done is open after Leave")
		}
		a.Close()
		// The last one has nobody to hand over to.
		start = time.Now()
		if err := b.Leave(t.Context()); err != nil || time.Since(start) > 200*time.Millisecond {
			t.Errorf("the last one left after %s: %v", time.Since(start), err)
		}
	})
}

// TestCloseIsBounded: whatever the streams do, Close returns.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &Network{}
		var out atomic.Bool
		streams := &hooked{Streams: memory.New(memory.Options{})}
		streams.before = func(string, string) error {
			if out.Load() {
				time.Sleep(time.Second)
				return errors.New("no servers available")
			}
			return nil
		}
		a := join(t, streams, network, "a")
		out.Store(true)
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := a.Leave(ctx); err == nil {
			t.Error("left without a word to anybody")
		}
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("leaving and closing took %s", d)
		}
		if _, err := Join(ctx, streams, &engine{}, Options{Name: "test", Node: "b", Network: network}); err == nil {
			t.Error("joined without streams")
		}
	})
}

func TestAskSemantics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		group := slices.IndexFunc(a.Table().Groups, func(g Group) bool { return g.Owner == "b" })
		id := Identity{Flow: "f", Step: "s", Key: "k", Group: group}
		var mu sync.Mutex
		handled := 0
		slow := func(d time.Duration) func(context.Context, Call) ([]byte, error) {
			return func(ctx context.Context, _ Call) ([]byte, error) {
				mu.Lock()
				handled++
				mu.Unlock()
				if err := wait(ctx, d); err != nil {
					return nil, err
				}
				return []byte("done"), nil
			}
		}
		times := func() int {
			mu.Lock()
			defer mu.Unlock()
			n := handled
			handled = 0
			return n
		}
		// A slow answer is waited for; a repeatable one is asked for again with more patience.
		b.e.answer = slow(5 * time.Second)
		if body, err := a.Ask(t.Context(), id, "x", nil); err != nil || string(body) != "done" || times() != 1 {
			t.Errorf("slow: %q, %v", body, err)
		}
		if body, err := a.Ask(t.Context(), id, "x", nil, Repeatable); err != nil || string(body) != "done" {
			t.Errorf("slow and repeatable: %q, %v", body, err)
		}
		if n := times(); n != 4 { // 1, 2, 4 and 8 s of patience
			t.Errorf("handled %d times", n)
		}
		// An end of the context is an end, and what may have been done is in doubt.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := a.Ask(ctx, id, "x", nil); !errors.Is(err, ErrDoubt) || time.Since(start) > 2100*time.Millisecond {
			t.Errorf("ended: %v after %s", err, time.Since(start))
		}
		times()
		// A lost answer: in doubt where it may not be repeated.
		b.e.answer = slow(0)
		network.Cut("b", "a", true)
		if _, err := a.Ask(t.Context(), id, "x", nil); !errors.Is(err, ErrDoubt) || times() != 1 {
			t.Errorf("a lost answer: %v", err)
		}
		mend := time.AfterFunc(700*time.Millisecond, func() { network.Cut("b", "a", false) })
		defer mend.Stop()
		if body, err := a.Ask(t.Context(), id, "x", nil, Repeatable); err != nil || string(body) != "done" || times() < 2 {
			t.Errorf("a lost answer, repeatable: %q, %v", body, err)
		}
		// What did not get through is sent again in any case.
		network.Cut("a", "b", true)
		mend = time.AfterFunc(700*time.Millisecond, func() { network.Cut("a", "b", false) })
		defer mend.Stop()
		if body, err := a.Ask(t.Context(), id, "x", nil); err != nil || string(body) != "done" || times() != 1 {
			t.Errorf("unreachable for a moment: %q, %v", body, err)
		}
		// The owner dies while it is asked: the next one answers.
		b.e.answer = slow(time.Hour)
		dies := time.AfterFunc(500*time.Millisecond, b.Close)
		defer dies.Stop()
		a.e.mu.Lock()
		a.e.answer = func(context.Context, Call) ([]byte, error) { return []byte("by a"), nil }
		a.e.mu.Unlock()
		if body, err := a.Ask(t.Context(), id, "x", nil, Repeatable); err != nil || string(body) != "by a" {
			t.Errorf("the owner died: %q, %v", body, err)
		}
		if _, err := a.Ask(t.Context(), id, "x", make([]byte, MaxBody+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large body: %v", err)
		}
		a.e.mu.Lock()
		a.e.answer = func(context.Context, Call) ([]byte, error) { return make([]byte, MaxBody+1), nil }
		a.e.mu.Unlock()
		if _, err := a.Ask(t.Context(), id, "x", nil); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large answer: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Ask(ctx, Identity{Flow: "f", Group: 999}, "x", nil); !errors.Is(err, ErrNoOwner) {
			t.Errorf("a group that there is not: %v", err)
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		if err := a.Drain(t.Context(), "b", true); err != nil {
			t.Fatal(err)
		}
		if err := a.Forget(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), "forget node b: it is alive") {
			t.Errorf("a live node: %v", err)
		}
		if err := a.Forget(t.Context(), "x"); !errors.Is(err, ErrNoMember) {
			t.Errorf("an unknown node: %v", err)
		}
		b.Close()
		eventually(t, "b is dead", 5*time.Second, func() bool { return len(a.Members()) == 2 && !a.Members()[1].Alive })
		if err := a.Forget(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if ms := a.Members(); len(ms) != 1 || len(a.Table().Draining) != 0 {
			t.Errorf("members %+v, draining %v", ms, a.Table().Draining)
		}
		b = join(t, streams, network, "b")
		eventually(t, "it is a node again", 5*time.Second, func() bool { return balanced(a, b) })
	})
}

func TestWhatPeopleSee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a := join(t, streams, network, "a", func(o *Options) { o.Groups, o.API, o.Version = 2, "http://a", "1.0" })
		var changes atomic.Int64
		a.OnChange(func() { changes.Add(1) })
		time.Sleep(3 * time.Second)
		quiet := changes.Load()
		time.Sleep(10 * time.Second)
		if changes.Load() != quiet {
			t.Error("renewals are no changes")
		}
		b := join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		if changes.Load() == quiet {
			t.Error("a node joined, and nobody was told")
		}
		text, err := json.Marshal(a.Table())
		if err != nil || !strings.Contains(string(text), `"groups":[{"owner":"`) || !strings.Contains(string(text), `"standbys":["`) {
			t.Errorf("%s, %v", text, err)
		}
		ms := b.Members()
		if len(ms) != 2 || ms[0].API != "http://a" || ms[0].Version != "1.0" || !ms[0].Alive || ms[0].Seen > time.Second || ms[0].Weight != 1 {
			t.Errorf("members %+v", ms)
		}
		if self := a.Self(); self.Node != "a" || self.Incarnation != ms[0].Incarnation || !self.Alive {
			t.Errorf("self %+v", self)
		}
		if owner, ok := a.Owner(0); !ok || owner != a.Table().Groups[0].Owner {
			t.Errorf("owner %q, %v", owner, ok)
		}
		if _, ok := a.Owner(2); ok {
			t.Error("a group beyond the last one has an owner")
		}
		for r, want := range map[Role]string{Elsewhere: "elsewhere", Standby: "standby", Receiving: "receiving", Owner: "owner", 9: "role 9"} {
			if r.String() != want {
				t.Errorf("%d is %q", r, r)
			}
		}
	})
}

// TestHint: the others know at once that a process is gone, where its address says so.
func TestHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{hints: true}
		a, b, c := join(t, streams, network, "a"), join(t, streams, network, "b"), join(t, streams, network, "c")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b, c) })
		c.Close()
		eventually(t, "balanced without c", 300*time.Millisecond, func() bool { return balanced(a, b) })
	})
}

func TestWeightsStandbysAndMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a := join(t, streams, network, "a", func(o *Options) { o.Weight, o.Standbys = 3, 0 })
		b := join(t, streams, network, "b", func(o *Options) { o.Standbys = 0 })
		eventually(t, "3 to 1", 5*time.Second, func() bool { return a.e.owned() == 192 && b.e.owned() == 64 })
		if _, stand := loads(a.Table()); len(stand) != 0 {
			t.Errorf("standbys %v", stand)
		}
		// A node that was told 2 decides for all: where counts differ the highest holds.
		c := join(t, streams, network, "c", func(o *Options) { o.Standbys = 2 })
		eventually(t, "two standbys everywhere", 5*time.Second, func() bool {
			for _, g := range a.Table().Groups {
				if len(g.Standbys) != 2 || g.Next != "" {
					return false
				}
			}
			return c.e.owned() == 51 || c.e.owned() == 52
		})
	})
}
