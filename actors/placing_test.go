package actors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	memstate "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// placedWorld is a flow on several systems over the same streams, each with a store of its own.
type placedWorld struct {
	t       *testing.T
	streams *memory.Streams
	systems []*System
	running []*Running
	owners  [16]atomic.Int32 // by group: the system that runs it
	copies  [16]atomic.Int32 // and the one that keeps a copy; -1: none
}

// record counts the key's events, passes them on once more keyed by shop, and notes them with their numbers.
func userFunction() kis.Function {
	return kis.Keyed("user", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.N++
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
}

func shopFunction() kis.Function {
	return kis.Keyed("shop", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.N++
		out.Send("out.shop", e.Value)
		return nil
	})
}

func newPlacedWorld(t *testing.T, systems int) *placedWorld {
	w := &placedWorld{t: t, streams: memory.New(memory.Options{})}
	objects := memory.NewObjects(memory.Options{})
	entry, err := w.streams.Ensure(t.Context(), transport.Config{Name: "IN", Subjects: []string{"in.>"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.streams.Ensure(t.Context(), transport.Config{Name: "OUT", Subjects: []string{"out.>", OutputFences("OUT")}}); err != nil {
		t.Fatal(err)
	}
	for g := range w.copies {
		w.owners[g].Store(int32(g % systems))
		w.copies[g].Store(int32((g + 1) % systems))
	}
	for i := range systems {
		s := NewSystem(w.streams, objects, memstate.New(), slog.New(slog.DiscardHandler), &Meter{}, Options{Partitions: 4, SnapshotBytes: 20_000})
		w.systems = append(w.systems, s)
		w.place(i)
	}
	for i, s := range w.systems {
		f := &Flow{Name: "f", Revision: 1, Inputs: []Input{{Kind: Entry, Name: "IN", Stream: "IN", Created: entry.Created.UnixNano()}},
			Steps: []Step{{Name: "user", Function: userFunction(), Must: []string{"user"}, Mode: kis.Calculate},
				{Name: "shop", Function: shopFunction(), Must: []string{"shop"}, Mode: kis.Expand,
					Outputs: []Output{{Stream: "OUT", Subject: "out.>", Fenced: true}}}}}
		r, err := s.Start(t.Context(), f)
		if err != nil {
			t.Fatalf("system %d: %v", i, err)
		}
		w.running = append(w.running, r)
	}
	t.Cleanup(func() {
		for _, s := range w.systems {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// place tells a system how the groups are placed now.
func (w *placedWorld) place(system int) {
	var owners, copies [16]int32
	for g := range owners {
		owners[g], copies[g] = w.owners[g].Load(), w.copies[g].Load()
	}
	w.systems[system].Place(func(flow, stage string, number int) Role {
		switch g := GroupOf(flow, stage, number, len(owners)); int32(system) {
		case owners[g]:
			return Owner
		case copies[g]:
			return Copy
		}
		return Elsewhere
	})
}

func (w *placedWorld) publish(from, to int) {
	w.t.Helper()
	for i := from; i < to; i++ {
		if _, err := w.streams.Append(w.t.Context(), "IN", transport.Outgoing{Subject: "in.x",
			Data: fmt.Appendf(nil, `{"user":%d,"shop":%d,"id":%d}`, i%37, i%11, i)}); err != nil {
			w.t.Error(err)
			return
		}
	}
}

// outputs reads the numbers of the events that have left, and checks that none left twice.
func (w *placedWorld) outputs() map[int]bool {
	w.t.Helper()
	r, err := w.streams.Read(w.t.Context(), "OUT", transport.ReadOptions{Subjects: []string{"out.>"}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	seen := make(map[int]bool)
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), 50*time.Millisecond)
		ms, err := r.Next(ctx, 1000)
		cancel()
		if err != nil || len(ms) == 0 {
			return seen
		}
		for _, m := range ms {
			var e struct{ ID int }
			if err := json.Unmarshal(m.Data, &e); err != nil {
				w.t.Fatalf("output %s: %v", m.Data, err)
			}
			if seen[e.ID] {
				w.t.Errorf("event %d has left twice", e.ID)
			}
			seen[e.ID] = true
		}
	}
}

// await waits until all events have left, and checks the states of the owners.
func (w *placedWorld) await(published int) {
	w.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	var seen map[int]bool
	for {
		if seen = w.outputs(); len(seen) == published || w.t.Failed() {
			break
		}
		if time.Now().After(deadline) {
			for i, r := range w.running {
				parts, _ := r.Partitions(w.t.Context())
				inputs, _ := r.Inputs(w.t.Context())
				w.t.Logf("system %d: partitions %+v\ninputs %+v\ncopies %+v", i, parts, inputs, r.Copies())
			}
			w.t.Fatalf("%d of %d events have left", len(seen), published)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for step, keys := range map[string]int{"user": 37, "shop": 11} {
		sum, n := int64(0), 0
		for _, r := range w.running {
			for number := range 4 {
				c := r.cell(PartitionName("f", step, number, 1))
				if c == nil || c.dead() {
					continue
				}
				if err := c.ask(w.t.Context(), func(p *Partition) error {
					return p.States(step, nil, func(e KeyState, _ []byte) bool {
						var v int64
						if _, err := fmt.Sscanf(string(e.State), `{"n":%d}`, &v); err != nil {
							w.t.Errorf("state %s: %v", e.State, err)
						}
						sum, n = sum+v, n+1
						return true
					})
				}); err != nil {
					w.t.Error(err)
				}
			}
		}
		if sum != int64(published) || n != keys {
			w.t.Errorf("step %s counts %d events of %d keys, want %d of %d", step, sum, n, published, keys)
		}
	}
}

// TestPartitionsMove: partitions move between systems while events come: in good order, and with a former owner that does
// not know yet that it is none.
func TestPartitionsMove(t *testing.T) {
	w := newPlacedWorld(t, 3)
	rng := rand.New(rand.NewPCG(1, 2))
	const events = 6000
	var publishing sync.WaitGroup
	publishing.Go(func() { w.publish(0, events) })
	orderly, abrupt := 0, 0
	for range 25 {
		time.Sleep(20 * time.Millisecond)
		g := rng.IntN(16)
		from := int(w.owners[g].Load())
		to := (from + 1 + rng.IntN(2)) % 3
		if rng.IntN(3) > 0 { // prepared
			w.copies[g].Store(int32(to))
			w.place(to)
			orderly++
		} else {
			abrupt++
		}
		w.owners[g].Store(int32(to))
		w.copies[g].Store(int32(from))
		if rng.IntN(4) == 0 { // the new owner begins before the former one hears of it
			w.place(to)
			if err := w.systems[to].Placed(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			w.place(from)
		} else {
			w.place(from)
			if err := w.systems[from].Placed(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			w.place(to)
		}
	}
	publishing.Wait()
	w.await(events)
	t.Logf("%d moves with a copy, %d without", orderly, abrupt)
}

// TestCopyIsWarm: who takes a partition over has its state already but for the log's newest records.
func TestCopyIsWarm(t *testing.T) {
	w := newPlacedWorld(t, 2)
	w.publish(0, 500)
	w.await(500)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		caught := true
		for _, r := range w.running {
			ok, err := r.Caught(t.Context(), func(string, int) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			caught = caught && ok
		}
		if caught {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("copies: %+v and %+v", w.running[0].Copies(), w.running[1].Copies())
		}
	}
	copied := 0
	for i, r := range w.running {
		for _, c := range r.Copies() {
			copied++
			if c.Sequence == 0 {
				t.Errorf("system %d holds nothing of %s", i, c.Partition)
			}
		}
	}
	if copied != 8 {
		t.Errorf("%d copies, want one of each of 8 partitions", copied)
	}
	for g := range w.owners { // all to the second one
		w.owners[g].Store(1)
		w.copies[g].Store(0)
	}
	w.place(0)
	if err := w.systems[0].Placed(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	w.place(1)
	w.publish(500, 1000)
	w.await(1000)
}

// neighbours is a Remote that knows the other systems of its world.
type neighbours struct {
	w     *placedWorld
	asked atomic.Int64
}

func (n *neighbours) Ask(ctx context.Context, id PartitionID, question string, again bool, body []byte) ([]byte, error) {
	for {
		n.asked.Add(1)
		owner := n.w.owners[GroupOf(id.Flow, id.Stage, id.Number, len(n.w.owners))].Load()
		b, err := n.w.systems[owner].Answer(ctx, id, question, body)
		if err == nil {
			return b, nil
		}
		err = RemoteError(ErrorCode(err), err.Error())
		if !errors.Is(err, ErrElsewhere) {
			return nil, err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// TestAskAnywhere: every system answers for all keys, while their partitions move.
func TestAskAnywhere(t *testing.T) {
	w := newPlacedWorld(t, 3)
	n := &neighbours{w: w}
	for _, s := range w.systems {
		s.Ask(n)
	}
	w.publish(0, 370)
	w.await(370)
	stop := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		for rng := rand.New(rand.NewPCG(3, 4)); ; {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			g := rng.IntN(16)
			from := w.owners[g].Load()
			to := (from + 1) % 3
			w.copies[g].Store(from)
			w.owners[g].Store(to)
			w.place(int(from))
			w.place(int(to))
		}
	})
	for round := range 20 {
		for i, r := range w.running {
			key, err := kis.ParseKey([]string{"user"}, []string{fmt.Sprintf("user=%d", round)})
			if err != nil {
				t.Fatal(err)
			}
			e, err := r.State(t.Context(), "user", key, Read{Consistent: round%2 == 0})
			if err != nil || string(e.State) != `{"n":10}` {
				t.Fatalf("system %d: user %d: %s, %v", i, round, e.State, err)
			}
			all, next, err := r.States(t.Context(), "shop", "", 1000, "")
			if err != nil || len(all) != 11 || next != "" {
				t.Fatalf("system %d: %d shops, %v", i, len(all), err)
			}
			if _, err := r.State(t.Context(), "user", mustKey(t, "user=999"), Read{}); !errors.Is(err, ErrNoState) {
				t.Fatalf("a key without state: %v", err)
			}
			if _, err := r.State(t.Context(), "nobody", key, Read{}); !errors.Is(err, ErrUnknown) {
				t.Fatalf("a step that is not there: %v", err)
			}
		}
	}
	close(stop)
	moving.Wait()
	if n.asked.Load() == 0 {
		t.Error("no question went to another system")
	}
}

func mustKey(t *testing.T, text string) kis.Key {
	t.Helper()
	k, err := kis.ParseKey([]string{"user"}, []string{text})
	if err != nil {
		t.Fatal(err)
	}
	return k
}
