package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	memstate "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// counted is what the tests of running flows keep for a key.
type counted struct {
	N int64 `json:"n"`
}

func countFunction() kis.Function {
	return kis.Keyed("count", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.N++
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
}

func passFunction(opts ...kis.Option) kis.Function {
	return kis.Stateless("pass", func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		out.Emit(kis.Key{}, e.Value)
		return nil
	}, opts...)
}

// runningBench is a system over streams in memory.
type runningBench struct {
	t       *testing.T
	streams *memory.Streams
	objects *memory.Objects
	db      *memstate.DB
	system  *System
	entry   transport.Info
}

func newRunningBench(t *testing.T, opt Options) *runningBench {
	t.Helper()
	b := &runningBench{t: t, streams: memory.New(memory.Options{}), objects: memory.NewObjects(memory.Options{}), db: memstate.New()}
	var err error
	if b.entry, err = b.streams.Ensure(t.Context(), transport.Config{Name: "IN", Subjects: []string{"in.>"}}); err != nil {
		t.Fatal(err)
	}
	b.start(opt)
	return b
}

func (b *runningBench) start(opt Options) {
	b.system = NewSystem(b.streams, b.objects, b.db, slog.New(slog.DiscardHandler), &Meter{}, opt)
	s := b.system
	b.t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *runningBench) flow(revision uint64, steps ...Step) *Flow {
	return &Flow{Name: "f", Revision: revision, Steps: steps,
		Inputs: []Input{{Kind: Entry, Name: "IN", Stream: "IN", Created: b.entry.Created.UnixNano()}}}
}

func (b *runningBench) publish(from, to int) {
	b.t.Helper()
	for i := from; i < to; i++ {
		if _, err := b.streams.Append(b.t.Context(), "IN", transport.Outgoing{Subject: "in.x", Data: fmt.Appendf(nil, `{"user":%d,"id":%d}`, i%7, i)}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// total adds up what all keys of a step have counted, when nothing moves any more.
func (b *runningBench) total(r *Running, step string) int64 {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	var sum, before int64 = 0, -1
	for still := 0; still < 4; {
		time.Sleep(20 * time.Millisecond)
		sum = 0
		states, _, err := r.States(ctx, step, "", 1000, "")
		if err != nil {
			b.t.Fatal(err)
		}
		for _, s := range states {
			var n int64
			if _, err := fmt.Sscanf(string(s.State), `{"n":%d}`, &n); err != nil {
				b.t.Fatalf("state %s: %v", s.State, err)
			}
			sum += n
		}
		still++
		if sum != before {
			still, before = 0, sum
		}
	}
	return sum
}

// TestChangeOfTheFirstStage: a revision whose entry is dealt in another way reads on where the one before it was.
func TestChangeOfTheFirstStage(t *testing.T) {
	b := newRunningBench(t, Options{Partitions: 3})
	user := []string{"user"}
	count := Step{Name: "count", Function: countFunction(), Must: user}
	direct := func(revision uint64) *Flow { return b.flow(revision, count) }
	routed := func(revision uint64) *Flow {
		return b.flow(revision, Step{Name: "pass", Function: passFunction()}, count)
	}
	r, err := b.system.Start(t.Context(), direct(1))
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	for revision := uint64(1); revision <= 5; revision++ {
		if revision > 1 {
			f := direct(revision)
			if revision%2 == 0 {
				f = routed(revision)
			}
			if err := r.Change(t.Context(), f, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		b.publish(published, published+40)
		published += 40
		if n := b.total(r, "count"); n != int64(published) {
			t.Fatalf("revision %d: %d events counted, %d published", revision, n, published)
		}
	}
}

// TestAChangeThatIsCutShort: whether the revision was written or not, nothing is counted twice and nothing left out.
func TestAChangeThatIsCutShort(t *testing.T) {
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprintf("written %v", written), func(t *testing.T) {
			opt := Options{Partitions: 3}
			b := newRunningBench(t, opt)
			count := Step{Name: "count", Function: countFunction(), Must: user}
			before := func() *Flow { return b.flow(1, count) }
			after := func() *Flow { return b.flow(2, Step{Name: "pass", Function: passFunction()}, count) }
			r, err := b.system.Start(t.Context(), before())
			if err != nil {
				t.Fatal(err)
			}
			b.publish(0, 50)
			b.total(r, "count")
			b.publish(50, 90)
			cut := errors.New("the catalog is full")
			if written {
				cut = transport.ErrDoubt
			}
			if err := r.Change(t.Context(), after(), func() error { return cut }); !errors.Is(err, cut) {
				t.Fatalf("change says %v, want %v", err, cut)
			}
			b.publish(90, 100)
			if !written { // the flow goes on as it was, and the change is made again
				if n := b.total(r, "count"); n != 100 {
					t.Errorf("%d events counted, 100 published", n)
				}
				if err := r.Change(t.Context(), after(), func() error { return nil }); err != nil {
					t.Fatal(err)
				}
			} else { // the process dies, and the next one finds the revision
				if err := r.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.start(opt)
				if r, err = b.system.Start(t.Context(), after()); err != nil {
					t.Fatal(err)
				}
			}
			b.publish(100, 130)
			if n := b.total(r, "count"); n != 130 {
				t.Errorf("%d events counted, 130 published", n)
			}
		})
	}
}

// TestAChangeOfTheFirstStageWhileTheFlowStands: it is refused, and made up for by running the former revision.
func TestAChangeOfTheFirstStageWhileTheFlowStands(t *testing.T) {
	opt := Options{Partitions: 3}
	b := newRunningBench(t, opt)
	count := Step{Name: "count", Function: countFunction(), Must: user}
	routed := func(revision uint64) *Flow {
		return b.flow(revision, Step{Name: "pass", Function: passFunction()}, count)
	}
	direct := func(revision uint64) *Flow { return b.flow(revision, count) }
	published := 0
	run := func(f *Flow, reads bool) *Running {
		t.Helper()
		r, err := b.system.Start(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		before := published
		b.publish(published, published+40)
		published += 40
		want := int64(published)
		if !reads {
			want = int64(before)
		}
		if n := b.total(r, "count"); n != want {
			t.Fatalf("revision %d: %d events counted, want %d", f.Revision, n, want)
		}
		ins, err := r.Inputs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stopped := errors.Is(ins[0].Reason, ErrInput); stopped == reads {
			t.Errorf("revision %d: the input says %v", f.Revision, ins[0].Reason)
		}
		return r
	}
	stop := func(r *Running) {
		t.Helper()
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop(run(routed(1), true))
	stop(run(direct(2), false)) // the partitions of the first stage are not even open
	r := run(routed(3), true)
	if n := b.total(r, "count"); n != int64(published) {
		t.Errorf("%d events counted, %d published", n, published)
	}
	if err := r.Change(t.Context(), direct(4), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	stop(r)
	stop(run(direct(4), true))
	stop(run(routed(5), false))
	stop(run(direct(6), true))
}
