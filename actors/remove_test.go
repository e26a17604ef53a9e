package actors

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// refuseFunction keeps a count, and refuses the rows of user 3.
func refuseFunction() kis.Function {
	return kis.Keyed("refuse", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		if id, _ := e.Value.Get("user"); id.Int() == 3 {
			return errors.New("not him")
		}
		s.N++
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
}

// TestRemoveStep: a step goes with its states, and the rows that wait at it become dead letters, which are there
// after a restart although the flow has no stage of their key any more.
func TestRemoveStep(t *testing.T) {
	opt := Options{Partitions: 3}
	b := newRunningBench(t, opt)
	byID := Step{Name: "count", Function: countFunction(), Must: []string{"id"}}
	both := b.flow(1, Step{Name: "gate", Function: refuseFunction(), Must: user, OnError: ParkKey}, byID)
	r, err := b.system.Start(t.Context(), both)
	if err != nil {
		t.Fatal(err)
	}
	b.publish(0, 70)
	if n := b.total(r, "count"); n != 60 {
		t.Fatalf("%d events counted, want 60", n)
	}
	if n, err := r.CountKeys(t.Context(), "gate", 1000); n != 6 || err != nil {
		t.Errorf("%d keys, %v, want 6", n, err)
	}
	if n, err := r.CountKeys(t.Context(), "count", 10); n != 10 || err != nil {
		t.Errorf("%d keys counted up to 10, %v", n, err)
	}
	if _, err := r.Remove(t.Context(), Removal{Step: "gate", Must: user, Before: 2, Rows: true}); err == nil {
		t.Error("a step that is part of the flow was removed")
	}
	if err := r.Change(t.Context(), b.flow(2, byID), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Remove(t.Context(), Removal{Step: "gate", Must: user, Before: 2, Rows: true}); n != 6 || err != nil {
		t.Errorf("%d keys removed, %v, want 6", n, err)
	}
	if n, err := r.Remove(t.Context(), Removal{Step: "gate", Must: user, Before: 2, Rows: true}); n != 0 || err != nil {
		t.Errorf("a second time: %d keys removed, %v", n, err)
	}
	letters := func() {
		t.Helper()
		all, _, err := r.DeadLetters(t.Context(), "", 100, LetterFilter{})
		if err != nil || len(all) != 10 {
			t.Fatalf("%d dead letters, %v, want 10", len(all), err)
		}
		if want := "the step was taken out of the flow while the row waited at it: not him"; all[0].Reason != want || all[0].Step != "gate" || all[0].Parked {
			t.Errorf("a dead letter of step %q says %q, want %q", all[0].Step, all[0].Reason, want)
		}
	}
	letters()
	b.publish(70, 140)
	if n := b.total(r, "count"); n != 130 {
		t.Errorf("%d events counted, want 130", n)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.start(opt)
	if r, err = b.system.Start(t.Context(), b.flow(2, byID)); err != nil {
		t.Fatal(err)
	}
	letters()

	// The step comes back, and begins anew.
	if err := r.Change(t.Context(), b.flow(3, Step{Name: "gate", Function: refuseFunction(), Must: user}, byID), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	b.publish(140, 147)
	if n := b.total(r, "gate"); n != 6 {
		t.Errorf("%d events counted by the step that came back, want 6", n)
	}
}

// TestRemoveStepOfAFlowThatStands: before a flow starts, a step that it has again loses what a former one has left.
func TestRemoveStepOfAFlowThatStands(t *testing.T) {
	opt := Options{Partitions: 3}
	b := newRunningBench(t, opt)
	f := func() *Flow { return b.flow(1, Step{Name: "count", Function: countFunction(), Must: user}) }
	r, err := b.system.Start(t.Context(), f())
	if err != nil {
		t.Fatal(err)
	}
	b.publish(0, 70)
	b.total(r, "count")
	if _, err := b.system.Remove(t.Context(), f(), Removal{Step: "count", Must: user, Rows: true}); err == nil {
		t.Error("a step was removed under a flow that runs")
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := b.system.Remove(t.Context(), f(), Removal{Step: "count", Must: user, Rows: true}); n != 7 || err != nil {
		t.Errorf("%d keys removed, %v, want 7", n, err)
	}
	if r, err = b.system.Start(t.Context(), f()); err != nil {
		t.Fatal(err)
	}
	b.publish(70, 84)
	if n := b.total(r, "count"); n != 14 {
		t.Errorf("%d events counted, want 14", n)
	}
}

// TestRemoveManyKeys: more keys than a record takes, with their timers.
func TestRemoveManyKeys(t *testing.T) {
	b := newRunningBench(t, Options{Partitions: 1})
	timed := Step{Name: "timed", Function: kis.Keyed("timed", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.N++
		out.Emit(kis.Key{}, e.Value)
		return nil
	}), Must: []string{"id"}, TTL: time.Hour}
	count := Step{Name: "count", Function: countFunction(), Must: []string{"id"}}
	r, err := b.system.Start(t.Context(), b.flow(1, timed, count))
	if err != nil {
		t.Fatal(err)
	}
	const keys = 2*removeKeys + 7
	for i := 0; i < keys; {
		var lines []byte
		for range min(1000, keys-i) {
			lines = fmt.Appendf(lines, "{\"id\":%d}\n", i)
			i++
		}
		if _, err := b.streams.Append(t.Context(), "IN", transport.Outgoing{Subject: "in.x", Data: lines}); err != nil {
			t.Fatal(err)
		}
	}
	marks, err := r.Newest(t.Context())
	if err == nil {
		err = r.Await(t.Context(), marks)
	}
	if err != nil {
		t.Fatal(err)
	}
	store, err := b.db.Store(PartitionName("f", "id", 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	kinds := func() map[byte]int {
		n := make(map[byte]int)
		if err := store.Scan([]byte{0}, nil, func(k, _ []byte) bool { n[k[0]]++; return true }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := kinds(); n[stateKind] != 2*keys || n[timerKind] != keys {
		t.Fatalf("the store holds %d states and %d timers, want %d and %d", n[stateKind], n[timerKind], 2*keys, keys)
	}
	if err := r.Change(t.Context(), b.flow(2, count), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Remove(t.Context(), Removal{Step: "timed", Must: []string{"id"}, Before: 2}); n != keys || err != nil {
		t.Errorf("%d keys removed, %v, want %d", n, err, keys)
	}
	parts, err := r.Partitions(t.Context())
	if err != nil || parts[0].StateKeys != keys {
		t.Errorf("%d keys are left, %v, want those of the other step, %d", parts[0].StateKeys, err, keys)
	}
	if n := kinds(); n[stateKind] != keys || n[timerKind] != 0 {
		t.Errorf("the store holds %d states and %d timers, want %d and none", n[stateKind], n[timerKind], keys)
	}
}

// TestCopy: a copy is made while events come in. Both flows count all of them, through two stages, and rows that wait
// wait in both.
func TestCopy(t *testing.T) {
	b := newRunningBench(t, Options{Partitions: 3})
	flow := func(name string) *Flow {
		f := b.flow(1, Step{Name: "gate", Function: refuseFunction(), Must: user, OnError: ParkKey},
			Step{Name: "count", Function: countFunction(), Must: []string{"id"}})
		f.Name = name
		return f
	}
	r, err := b.system.Start(t.Context(), flow("f"))
	if err != nil {
		t.Fatal(err)
	}
	b.publish(0, 350)
	b.total(r, "gate")
	done := make(chan struct{})
	go func() { // ends with its events
		defer close(done)
		b.publish(350, 700)
	}()
	called := 0
	keys, _, err := b.system.Copy(t.Context(), r, flow("g"), func() error { called++; return nil })
	if err != nil || called != 1 {
		t.Fatalf("copy: %v, called %d times", err, called)
	}
	if _, _, err := b.system.Copy(t.Context(), r, flow("g"), func() error { return nil }); err == nil {
		t.Error("a second copy was made into the first one")
	}
	g, err := b.system.Start(t.Context(), flow("g"))
	if err != nil {
		t.Fatal(err)
	}
	<-done
	marks, err := r.Newest(t.Context())
	if err != nil || marks["IN"] != 700 {
		t.Fatalf("newest: %v, %v", marks, err)
	}
	for _, x := range []*Running{r, g} {
		if err := x.Await(t.Context(), marks); err != nil {
			t.Fatal(err)
		}
		sum := func(step string) (n int) {
			t.Helper()
			states, _, err := x.States(t.Context(), step, "", 1000, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range states {
				var k int
				if _, err := fmt.Sscanf(string(s.State), `{"n":%d}`, &k); err != nil {
					t.Fatal(err)
				}
				n += k
			}
			return n
		}
		if a, c := sum("gate"), sum("count"); a != 600 || c != 600 { // Await has waited for both stages
			t.Errorf("flow %s: %d and %d events counted, want 600", x.Name(), a, c)
		}
		parts, err := x.Partitions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiting := 0
		for _, p := range parts {
			waiting += p.Pending
		}
		if waiting != 100 {
			t.Errorf("flow %s: %d rows wait, want 100", x.Name(), waiting)
		}
	}
	if keys < 6 {
		t.Errorf("%d keys copied", keys)
	}
}
