package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// at calls f before the n-th effect of a kind on a stream.
type at struct {
	op     memory.Op
	stream string
	n      int
	f      func() error
}

func (a *at) Before(op memory.Op, stream string) error {
	if op != a.op || !strings.HasPrefix(stream, a.stream) {
		return nil
	}
	if a.n--; a.n != 0 {
		return nil
	}
	return a.f()
}

func (a *at) After(memory.Op, string) error { return nil }

// crash is a process that dies there.
func crash() error { panic(Crash{"test"}) }

// faulty gives the kit streams with faults.
func (k *kit) faulty(f memory.Faults, maxMessage int) {
	k.t.Helper()
	k.streams = memory.New(memory.Options{Now: k.Now, NonBlocking: true, Faults: f, MaxMessage: maxMessage})
	entry := k.ensure("IN", "in.>")
	k.ensure("OUT", "out.>", OutputFences("OUT"))
	k.ensure(LogStream("f"), LogSubjects("f"))
	hop := k.ensure(HandOffStream("f"), HandOffSubjects("f"))
	k.flow.Inputs[0].Created, k.flow.Inputs[1].Created = entry.Created.UnixNano(), hop.Created.UnixNano()
}

// runAndCrash runs until the process dies, and fails if it does not.
func (k *kit) runAndCrash() {
	k.t.Helper()
	defer func() {
		if r := recover(); !isCrash(r) {
			k.t.Fatalf("it did not crash: %v", r)
		}
	}()
	k.mustRun()
}

// TestOutputsOfALargeRecordSurvive: the store holds the record, the outputs had not left, and the record is of many
// messages.
func TestOutputsOfALargeRecordSurvive(t *testing.T) {
	k := newKit(t, Options{}, 4<<10, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
	a := &at{op: memory.OpPublish, stream: "OUT", n: 3, f: crash}
	k.faulty(a, 4<<10)
	k.mustOpen()
	var want []string
	for i := range 20 {
		row := fmt.Sprintf(`{"user":%d,"name":"%s%d"}`, i, strings.Repeat("n", 500), i)
		k.publish(row)
		want = append(want, "out.x "+row)
	}
	k.runAndCrash()
	if n := len(k.read("OUT")); n != 2 {
		t.Fatalf("%d outputs had left, want 2", n)
	}
	k.mustOpen()
	k.mustRun()
	same(t, "outputs", k.read("OUT"), want...)
}

// TestFenceOfAnother: two partitions whose marks are the same do not take turns at one fence, and nothing leaves.
func TestFenceOfAnother(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
	theirs := fence{1, 1, 0, shortMark("g/user/0/1@1"), "g/a user/0"}
	_, err := k.streams.Append(t.Context(), "OUT", transport.Outgoing{
		Subject: OutputFence("OUT", PartitionName("f", "user", 0, 1)), Data: []byte(theirs.String())})
	if err != nil {
		t.Fatal(err)
	}
	k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`)
	if err := k.run(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "g/a user/0") {
		t.Errorf("got %v, want %v that names the other partition", err, ErrFenced)
	}
	same(t, "outputs", k.read("OUT"))
	if f, err := parseFence(theirs.String()); err != nil || f != theirs {
		t.Errorf("%q is read as %+v, %v", theirs, f, err)
	}
}

// TestTwoOwnersCrashInTurn: what one of them knows to be stored and no record says is looked for by the next.
func TestTwoOwnersCrashInTurn(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
	a := &at{op: memory.OpPublish, stream: "OUT"}
	k.faulty(a, 0)
	k.mustOpen()
	var want []string
	for i := range 9 {
		row := fmt.Sprintf(`{"user":1,"name":"%d"}`, i)
		k.publish(row)
		want = append(want, "out.x "+row)
	}
	a.n, a.f = 3, crash
	k.runAndCrash()
	// The second owner stores some more, is in doubt, looks, and dies before a record says what it saw.
	a.n, a.f = 3, func() error {
		a.n, a.f = 1, crash
		return errors.New("no answer")
	}
	func() {
		defer func() {
			if r := recover(); !isCrash(r) {
				t.Fatalf("it did not crash: %v", r)
			}
		}()
		k.mustOpen()
	}()
	k.mustOpen()
	k.mustRun()
	same(t, "outputs", k.read("OUT"), want...)
}

// TestASaveThatIsCutAndSentAgain: a Save's stream has let everything go, and its sender does not know that it was
// stored; the flow that loads it counts it once.
func TestASaveThatIsCutAndSentAgain(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user, Save: "rows", Mode: kis.Save}))
	stream := k.ensure(SaveStream("rows"), SaveSubjects("rows"))
	k.mustOpen()
	loader := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	loader.flow.Name = "g"
	loader.streams = k.streams
	loader.ensure(LogStream("g"), LogSubjects("g"))
	hop := loader.ensure(HandOffStream("g"), HandOffSubjects("g"))
	loader.flow.Inputs = []Input{{Kind: Load, Name: "rows", Stream: stream.Name, Created: stream.Created.UnixNano()},
		{Kind: HandOff, Name: hop.Name, Stream: hop.Name, Created: hop.Created.UnixNano()}}
	loader.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, `{"user":1,"name":"b"}`)
	k.mustRun()
	loader.mustRun()
	if got, want := loader.state("note", "user=1"), `{"names":["a","b"]}`; got != want {
		t.Fatalf("state is %s, want %s", got, want)
	}
	info, err := k.streams.Info(t.Context(), stream.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.streams.Cut(t.Context(), stream.Name, "", info.Last+1); err != nil {
		t.Fatal(err)
	}
	k.mustOpen() // nothing but the stream said that the rows were stored
	loader.mustOpen()
	k.publish(`{"user":1,"name":"c"}`)
	k.mustRun()
	loader.mustRun()
	if got, want := loader.state("note", "user=1"), `{"names":["a","b","c"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
}

// failing is a store whose reading fails once.
type failing struct {
	state.Store
	gets int
}

func (f *failing) Get(key []byte) ([]byte, error) {
	if f.gets--; f.gets == 0 {
		return nil, errors.New("the disk is away")
	}
	return f.Store.Get(key)
}

// TestAStoreFaultBelowABatchFunction: it stops the batch. The function is not called again on the state that it has
// changed, and no row is blamed for it.
func TestAStoreFaultBelowABatchFunction(t *testing.T) {
	batch := kis.Batch("pairs", func(_ context.Context, s *counted, es []kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		for i, e := range es {
			s.N++
			out.EmitFor(i, kis.Key{}, e.Value)
		}
		return nil
	})
	for _, policy := range []Policy{SetAside, ParkKey} {
		k := newKit(t, Options{}, 0, kitFlow(Step{Function: batch, Must: user, OnError: policy}, Step{Function: noteFunction(), Must: user, OnError: policy}))
		k.mustOpen()
		k.publish(`{"user":1,"name":"0"}`)
		k.mustRun()
		p := k.mustOpen()
		p.ports.Store = &failing{p.ports.Store, 2}
		k.publish("{\"user\":1,\"name\":\"a\"}\n{\"user\":1,\"name\":\"b\"}")
		if err := k.run(); err == nil || !errors.Is(err, errStore) {
			t.Fatalf("policy %d: work says %v, want %v", policy, err, errStore)
		}
		k.mustOpen()
		k.mustRun()
		if got, want := k.state("pairs", "user=1")+k.state("note", "user=1"), `{"n":3}{"names":["0","a","b"]}`; got != want {
			t.Errorf("policy %d: states are %s, want %s", policy, got, want)
		}
		if said, _ := k.letters(); len(said) != 0 {
			t.Errorf("policy %d: letters are %v", policy, said)
		}
	}
}

// TestAStopBelowABatchFunctionIsAStop: people have to look; it is not tried for ever.
func TestAStopBelowABatchFunctionIsAStop(t *testing.T) {
	batch := kis.Batch("pairs", func(_ context.Context, s *counted, es []kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		for i, e := range es {
			s.N++
			out.EmitFor(i, kis.Key{}, e.Value)
		}
		return nil
	})
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: batch, Must: user}, Step{Function: noteFunction(), Must: user}))
	k.mustOpen()
	k.publish("{\"user\":1,\"name\":\"a\"}\n{\"user\":1,\"name\":\"b\",\"fail\":\"stop\"}")
	if err := k.run(); !errors.Is(err, ErrStopped) || !final(err) {
		t.Fatalf("work says %v, want %v", err, ErrStopped)
	}
	if got := k.state("pairs", "user=1"); got != "none" {
		t.Errorf("state is %s: something of the batch was committed", got)
	}
}

// TestARevision: a record marks the place; what waits goes on under the new revision.
func TestARevision(t *testing.T) {
	note := Step{Name: "note", Function: noteFunction(), Must: user, RetryTimes: 3, RetryDelay: time.Second}
	k := newKit(t, Options{}, 0, kitFlow(note, sends(Step{Function: sendFunction()})))
	p := k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, fmt.Sprintf(`{"user":2,"name":"late","until":%d}`, k.now.Add(time.Second).Unix()))
	k.mustRun()
	mark := Step{Name: "mark", Function: rowFunction("mark", func(row *kis.Row, out *kis.Output[*kis.Row]) error {
		row.Set("marked", kis.BoolValue(true))
		out.Emit(kis.Key{}, row)
		return nil
	})}
	next := kitFlow(note, mark, sends(Step{Function: sendFunction()}))
	next.Revision, next.Inputs = 2, k.flow.Inputs
	if err := p.Revise(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	old := k.flow
	k.flow, k.dealers = next, nil
	k.publish(`{"user":1,"name":"b"}`)
	k.mustRun()
	k.pass(2 * time.Second)
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":1,"name":"b","marked":true}`,
		`out.x {"user":2,"name":"late","until":`+fmt.Sprint(k.now.Add(-time.Second).Unix())+`,"marked":true}`)
	key, err := kis.ParseKey(user, []string{"user=1"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := p.State("note", key); err != nil || st.Revision != 2 || st.Sequence != 3 {
		t.Errorf("state is %+v, %v; want revision 2 of event 3", st, err)
	}
	k.flow = old
	if err := k.open(); err == nil || !strings.Contains(err.Error(), "the log is at revision 2 of the flow, we run 1") {
		t.Errorf("the former revision opens again: %v", err)
	}
}

// TestTimeoutsOfTheLog: an answer that does not come is settled by reading, whatever has become of the record.
func TestTimeoutsOfTheLog(t *testing.T) {
	for _, c := range []struct {
		name   string
		before error
	}{
		{"the record is not stored", transport.ErrDoubt},
		{"the record is stored later", memory.ErrLate},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
			a := &at{op: memory.OpAppend, stream: "KISFLOW_LOG"}
			k.faulty(a, 0)
			k.mustOpen()
			k.publish(`{"user":1,"name":"a"}`)
			a.n, a.f = 1, func() error { return c.before }
			k.mustRun()
			for k.streams.DeliverLate() {
			}
			k.publish(`{"user":1,"name":"b"}`)
			k.mustRun()
			same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":1,"name":"b"}`)
			if got, want := k.state("note", "user=1"), `{"names":["a","b"]}`; got != want {
				t.Errorf("state is %s, want %s", got, want)
			}
		})
	}
}
