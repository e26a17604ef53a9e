package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

func TestTheCreditBoundsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCredit(10)
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.take(ctx, 25); err != nil { // a chunk larger than the limit goes in alone
			t.Fatal(err)
		}
		took := make(chan error, 3)
		for range 3 {
			go func() { took <- c.take(ctx, 4) }()
		}
		synctest.Wait()
		if len(took) != 0 {
			t.Fatal("taken although the limit is passed")
		}
		c.give(25)
		synctest.Wait()
		if len(took) != 2 || c.rows != 8 {
			t.Fatalf("%d taken, %d rows wait; want 2 and 8, at most 10", len(took), c.rows)
		}
		cancel()
		synctest.Wait()
		errs := []error{<-took, <-took, <-took}
		if err := errors.Join(errs...); !errors.Is(err, context.Canceled) || c.rows != 8 {
			t.Errorf("got %v and %d rows, want the third to be told that it is over", errs, c.rows)
		}
		go func() { took <- c.take(t.Context(), 4) }()
		synctest.Wait()
		c.end()
		if err := <-took; !errors.Is(err, errGone) {
			t.Errorf("got %v, want %v", err, errGone)
		}
		if err := c.take(t.Context(), 1); !errors.Is(err, errGone) {
			t.Errorf("after the end: got %v, want %v", err, errGone)
		}
	})
}

// TestTheQueueIsBounded: a partition that does not get on slows its dealer, whatever comes in.
func TestTheQueueIsBounded(t *testing.T) {
	gate := make(chan struct{})
	b := newRunningBench(t, Options{Partitions: 1, QueueRows: 20, BatchRows: 5})
	slow := kis.Keyed("count", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		<-gate
		s.N++
		return nil
	})
	b.publish(0, 2000)
	r, err := b.system.Start(t.Context(), b.flow(1, Step{Name: "count", Function: slow, Must: user}))
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for range 200 {
		most = max(most, r.Waiting())
		select {
		case gate <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
	}
	close(gate)
	if most > chunkRows+8 { // a chunk larger than the limit goes in alone; its bytes count a little
		t.Errorf("%d rows waited, want 20, or one chunk of about %d", most, chunkRows)
	}
	if n := b.total(r, "count"); n != 2000 {
		t.Errorf("%d of 2000 events counted", n)
	}
}

// TestWaitingRowsAreBounded: rows that wait at a step use up the room of the partition, and then no more come in.
func TestWaitingRowsAreBounded(t *testing.T) {
	opt := Options{Partitions: 1, QueueRows: 20, PendingRows: 30, BatchRows: 5}
	b := newRunningBench(t, opt)
	r, err := b.system.Start(t.Context(), b.flow(1, Step{Name: "note", Function: noteFunction(), Must: user, OnError: ParkKey}))
	if err != nil {
		t.Fatal(err)
	}
	const all = 3000
	for i := range all {
		if _, err := b.streams.Append(t.Context(), "IN", transport.Outgoing{Subject: "in.x", Data: fmt.Appendf(nil, `{"user":%d,"name":"%d","fail":"dead"}`, i, i)}); err != nil {
			t.Fatal(err)
		}
	}
	pending := func() int {
		ps, err := r.Partitions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return ps[0].Pending
	}
	for end := time.Now().Add(10 * time.Second); pending() < opt.PendingRows && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	most := opt.PendingRows + 2*chunkRows // what had come in, and what was let in before it was counted
	if n := pending(); n < opt.PendingRows || n > most {
		t.Errorf("%d rows wait, want %d to %d", n, opt.PendingRows, most)
	}
	// What is dropped makes room.
	dropped := 0
	for end := time.Now().Add(20 * time.Second); dropped < all && time.Now().Before(end); {
		letters, _, err := r.DeadLetters(t.Context(), "", 1000, LetterFilter{})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, l := range letters {
			ids = append(ids, l.ID)
		}
		n, err := r.DropLetters(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		dropped += n
		time.Sleep(5 * time.Millisecond)
	}
	if dropped != all {
		t.Errorf("%d of %d rows came through", dropped, all)
	}
}

// refusing lets the log refuse everything.
type refusing struct{ on bool }

func (r *refusing) Before(op memory.Op, stream string) error {
	if r.on && op == memory.OpAppend && strings.HasPrefix(stream, "KISFLOW_LOG_") {
		return errors.New("no space left on device")
	}
	return nil
}

func (r *refusing) After(memory.Op, string) error { return nil }

// tired ends a wait after some tries.
type tired struct {
	*kit
	tries int
}

func (c *tired) Sleep(ctx context.Context, d time.Duration) error {
	if c.tries--; c.tries < 0 {
		return context.Canceled
	}
	return c.kit.Sleep(ctx, d)
}

func TestQueriesSeeCommittedStateOnly(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	faults := &refusing{}
	opened := memory.New(memory.Options{Now: k.Now, NonBlocking: true, Faults: faults})
	k.streams = opened
	entry := k.ensure("IN", "in.>")
	k.ensure(LogStream("f"), LogSubjects("f"))
	hop := k.ensure(HandOffStream("f"), HandOffSubjects("f"))
	k.flow.Inputs[0].Created, k.flow.Inputs[1].Created = entry.Created.UnixNano(), hop.Created.UnixNano()
	p := k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`)
	k.mustRun()
	k.publish(`{"user":1,"name":"b"}`, `{"user":2,"name":"c","fail":"dead"}`)
	faults.on = true
	p.ports.Clock = &tired{k, 3}
	if err := k.run(); err == nil || !strings.Contains(err.Error(), "write to the log") || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("work says %v, want that the log takes nothing", err)
	}
	if got, want := k.state("note", "user=1"), `{"names":["a"]}`; got != want {
		t.Errorf("state is %s, want %s: nothing else is committed", got, want)
	}
	if said, _ := k.letters(); len(said) != 0 {
		t.Errorf("letters are %v, none is committed", said)
	}
	faults.on = false
	k.mustOpen()
	k.mustRun()
	if got, want := k.state("note", "user=1"), `{"names":["a","b"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
	if said, _ := k.letters(); len(said) != 1 {
		t.Errorf("letters are %v, want one", said)
	}
}

func TestWhatIsTooLargeIsSetAside(t *testing.T) {
	grow := rowFunction("grow", func(row *kis.Row, out *kis.Output[*kis.Row]) error {
		row.Set("pad", kis.StringValue(strings.Repeat("x", int(number(row, "grow")))))
		out.Emit(kis.Key{}, row)
		return nil
	})
	for _, c := range []struct {
		name string
		last Step
	}{
		{"as an output", sends(Step{Function: sendFunction()})},
		{"as a packed output", sends(Step{Function: sendFunction(), Pack: true})},
		{"on its way to another stage", Step{Function: noteFunction(), Must: user}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, Options{}, 4<<10, kitFlow(Step{Function: grow}, c.last))
			k.mustOpen()
			for _, n := range []int{10, 2900, 2500, 3100, 2000, 9000, 2700} {
				k.publish(fmt.Sprintf(`{"user":1,"name":"%d","grow":%d}`, n, n))
			}
			k.mustRun()
			said, _ := k.letters()
			if len(said) != 2 || !strings.Contains(said[0], "is larger than a message may be") || !strings.Contains(said[1], `"name":"9000"`) {
				for i := range said {
					said[i] = said[i][:min(len(said[i]), 120)]
				}
				t.Errorf("letters are %q, want those of 3100 and 9000", said)
			}
		})
	}
}

func TestManySmallRowsFitTheirEnvelopes(t *testing.T) {
	k := newKit(t, Options{}, 4<<10, kitFlow(Step{Function: passFunction()}, Step{Function: noteFunction(), Must: user}))
	k.mustOpen()
	for i := range 50 {
		k.publish(strings.Repeat(fmt.Sprintf("{\"user\":%d}\n", i), 20))
	}
	k.mustRun()
	total := 0
	for i := range 50 {
		total += strings.Count(k.state("note", fmt.Sprintf("user=%d", i)), `""`)
	}
	if total != 1000 {
		t.Errorf("%d of 1000 rows arrived", total)
	}
}

func TestASubjectThatTheStepDoesNotDeclare(t *testing.T) {
	stray := rowFunction("stray", func(row *kis.Row, out *kis.Output[*kis.Row]) error {
		out.Send(text(row, "to"), row)
		return nil
	})
	k := newKit(t, Options{}, 0, kitFlow(sends(Step{Function: stray})))
	k.mustOpen()
	k.publish(`{"to":"out.a"}`, `{"to":"elsewhere.a"}`, `{"to":"out"}`)
	k.mustRun()
	same(t, "outputs", k.read("OUT"), `out.a {"to":"out.a"}`)
	said, _ := k.letters()
	same(t, "letters", said, `dead stray: subject "elsewhere.a" is not one that the step declares: {"to":"elsewhere.a"}`,
		`dead stray: subject "out" is not one that the step declares: {"to":"out"}`)
}

// TestAFormerOwnerIsRefused: by the log, and by the output streams.
func TestAFormerOwnerIsRefused(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
	old := k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`)
	k.mustRun()
	k.mustOpen()
	k.publish(`{"user":1,"name":"b"}`)
	k.mustRun()
	old.Offer(&Chunk{Input: 0, After: 1, To: 2})
	if _, err := old.Work(t.Context()); !errors.Is(err, ErrFenced) {
		t.Errorf("work of the former owner says %v, want %v", err, ErrFenced)
	}
	tg := old.targets["OUT"]
	tg.waiting = []waiting{{number: 2, subject: "out.x", payload: []byte("forged")}}
	if err := old.settle(t.Context()); !errors.Is(err, ErrFenced) {
		t.Errorf("an output of the former owner: %v, want %v", err, ErrFenced)
	}
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":1,"name":"b"}`)
}
