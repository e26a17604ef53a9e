package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

var user = []string{"user"}

func TestARecordLargerThanAMessage(t *testing.T) {
	k := newKit(t, Options{}, 4<<10, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
	k.mustOpen()
	var want []string
	for i := range 40 {
		row := fmt.Sprintf(`{"user":%d,"name":"%s%d"}`, i, strings.Repeat("n", 300), i)
		k.publish(row)
		want = append(want, "out.x "+row)
	}
	k.mustRun()
	same(t, "outputs", k.read("OUT"), want...)
	info, err := k.streams.Info(t.Context(), LogStream("f"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Messages < 4 {
		t.Fatalf("the log has %d messages: the record was no large one", info.Messages)
	}
	// A new owner with an empty store reads it again, whole.
	if err := k.db.Drop("f/user/0"); err != nil {
		t.Fatal(err)
	}
	k.mustOpen()
	k.mustRun()
	same(t, "outputs after a restart", k.read("OUT"), want...)
	if got, want := k.state("note", "user=39"), fmt.Sprintf(`{"names":["%s39"]}`, strings.Repeat("n", 300)); got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
}

// damage replaces the newest record of the log by one with a changed byte.
func damage(t *testing.T, k *kit, p *Partition) {
	t.Helper()
	m, err := k.streams.LastOn(t.Context(), p.stream, p.subject)
	if err != nil {
		t.Fatal(err)
	}
	b := slices.Clone(m.Data)
	b[len(b)/2] ^= 1
	if _, err := k.streams.Append(t.Context(), p.stream, transport.Outgoing{Subject: p.subject, Data: b}); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedRecordStopsThePartition(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	p := k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`)
	k.mustRun()
	damage(t, k, p)
	err := k.open()
	if !errors.Is(err, ErrDamagedLog) || !final(err) {
		t.Fatalf("open says %v, want %v, for people to look at", err, ErrDamagedLog)
	}
	if s := err.Error(); !strings.Contains(s, "partition f/user/0") || !strings.Contains(s, "sequence 3") {
		t.Errorf("the error does not say where: %v", err)
	}
	before, err := k.streams.Info(t.Context(), p.stream)
	if err != nil {
		t.Fatal(err)
	}
	if before.Last != 3 {
		t.Errorf("something was written behind the damaged record: the log ends at %d", before.Last)
	}
}

func TestADamagedRecordInTheMiddle(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	p := k.mustOpen()
	damage(t, k, p) // and then one more, so that it is not the last
	last, err := k.streams.Append(t.Context(), p.stream, transport.Outgoing{Subject: p.subject, Data: func() []byte {
		m, err := k.streams.LastOn(t.Context(), p.stream, p.subject)
		if err != nil {
			t.Fatal(err)
		}
		m.Data[len(m.Data)/2] ^= 1
		return m.Data
	}()})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.open(); !errors.Is(err, ErrDamagedLog) {
		t.Fatalf("open says %v, want %v (the log ends at %d)", err, ErrDamagedLog, last)
	}
}

// corrupt is a store that says so until it is cleared.
type corrupt struct {
	state.Store
	cleared int
}

func (c *corrupt) Get(key []byte) ([]byte, error) {
	if c.cleared == 0 {
		return nil, fmt.Errorf("block 7: %w", state.ErrCorrupt)
	}
	return c.Store.Get(key)
}

func (c *corrupt) Clear() error { c.cleared++; return c.Store.Clear() }

func (k *kit) openCorrupt() (*Partition, *corrupt, error) {
	p, err := k.partition(user, 0)
	if err != nil {
		return nil, nil, err
	}
	c := &corrupt{Store: p.ports.Store}
	p.ports.Store = c
	k.parts, k.dealers = []*Partition{p}, nil
	return p, c, p.Open(k.t.Context(), nil)
}

func TestACorruptStoreIsRebuiltFromTheLog(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, `{"user":1,"name":"b"}`)
	k.mustRun()
	_, c, err := k.openCorrupt()
	if err != nil || c.cleared != 1 {
		t.Fatalf("open says %v, the store was cleared %d times", err, c.cleared)
	}
	k.publish(`{"user":1,"name":"c"}`)
	k.mustRun()
	if got, want := k.state("note", "user=1"), `{"names":["a","b","c"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
	if !strings.Contains(k.log.String(), "rebuilding") {
		t.Errorf("nothing was said of it: %s", k.log.String())
	}
}

func TestACorruptStoreIsRebuiltFromASnapshot(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(k *kit, p *Partition) error
		works  bool
		spoken string
	}{
		{"both are whole", func(*kit, *Partition) error { return nil }, true, ""},
		{"the newest is damaged", func(k *kit, p *Partition) error {
			k.objects.Corrupt(p.meta.Snapshot, 30)
			return nil
		}, true, "snapshot not usable"},
		{"the newest is gone", func(k *kit, p *Partition) error { return k.objects.Delete(k.t.Context(), p.meta.Snapshot) }, true, "snapshot not usable"},
		{"both are damaged", func(k *kit, p *Partition) error {
			k.objects.Corrupt(p.meta.Snapshot, 30)
			k.objects.Corrupt(p.meta.SnapshotBefore, 60)
			return nil
		}, false, "snapshot not usable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}, sends(Step{Function: sendFunction()})))
			p := k.mustOpen()
			for i := range 4 {
				k.publish(fmt.Sprintf(`{"user":1,"name":"%d"}`, i))
				k.mustRun()
				k.pass(time.Second)
				if i > 0 {
					if err := p.Snapshot(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			info, err := k.streams.Info(t.Context(), p.stream)
			if err != nil {
				t.Fatal(err)
			}
			if info.First == 1 {
				t.Fatal("the log was not cut")
			}
			if err := c.spoil(k, p); err != nil {
				t.Fatal(err)
			}
			_, _, err = k.openCorrupt()
			if !strings.Contains(k.log.String(), c.spoken) {
				t.Errorf("the log does not say %q: %s", c.spoken, k.log.String())
			}
			if !c.works {
				if !errors.Is(err, ErrDamagedLog) {
					t.Errorf("open says %v, want %v", err, ErrDamagedLog)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			k.publish(`{"user":1,"name":"more"}`)
			k.mustRun()
			if got, want := k.state("note", "user=1"), `{"names":["0","1","2","3","more"]}`; got != want {
				t.Errorf("state is %s, want %s", got, want)
			}
			if n := len(k.read("OUT")); n != 5 {
				t.Errorf("%d outputs, want 5", n)
			}
		})
	}
}

func TestAnInputThatIsNotTheSame(t *testing.T) {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	in := &Input{Kind: Entry, Name: "IN", Stream: "IN", Created: created.UnixNano()}
	for _, c := range []struct {
		name     string
		info     transport.Info
		position uint64
		want     string // empty: it is fine
	}{
		{"new", transport.Info{Created: created, First: 1, Last: 0}, 0, ""},
		{"read to its end", transport.Info{Created: created, First: 5, Last: 9}, 9, ""},
		{"cut up to the position", transport.Info{Created: created, First: 5, Last: 9}, 4, ""},
		{"recreated", transport.Info{Created: created.Add(time.Second), First: 1, Last: 100}, 9, "another stream"},
		{"went back", transport.Info{Created: created, First: 1, Last: 8}, 9, "went back"},
		{"lost messages", transport.Info{Created: created, First: 13, Last: 20}, 9, "3 messages are gone unread"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := CheckInput(in, c.info, c.position)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case c.want != "" && (!errors.Is(err, ErrInput) || !final(err) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want one that says %q and stops the input", err, c.want)
			}
		})
	}
}

func TestAChunkWithAGapIsRefused(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	p := k.mustOpen()
	p.Offer(&Chunk{Input: 0, After: 3, To: 4})
	if _, err := p.Work(t.Context()); !errors.Is(err, ErrInput) {
		t.Errorf("work says %v, want %v", err, ErrInput)
	}
}

func TestPayloads(t *testing.T) {
	k := newKit(t, Options{Partitions: 2}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	k.mustOpen()
	k.publish(
		`{"user":1,"name":"a"}`,
		"{\"user\":1,\n \"name\":\"b\"}",
		"{\"user\":1,\"name\":\"c\"}\n{\"user\":2,\"name\":\"d\"}\n\n{\"user\":1,\"name\":\"e\"}",
		"{\"user\":1,\"name\":\"f\"}\nnonsense here\n{\"user\":1,\"name\":\"g\"}",
		"",
		"  \n ",
		"[1,2]",
		`{"user":1,"user":2,"name":"x"}`,
		`{"name":"nobody"}`,
		`{"user":null,"name":"null"}`,
		`{"user":{"a":1},"name":"object"}`,
		`{"user":1.0,"name":"h"}`,
		"{\"user\":1,\"name\":\"\xff\"}",
	)
	k.mustRun()
	if got, want := k.state("note", "user=1"), `{"names":["a","b","c","e","f","g","h"]}`; got != want {
		t.Errorf("state of user 1 is %s, want %s", got, want)
	}
	if got, want := k.state("note", "user=2"), `{"names":["d"]}`; got != want {
		t.Errorf("state of user 2 is %s, want %s", got, want)
	}
	said, _ := k.letters()
	var where []string
	for _, p := range k.parts {
		if err := p.DeadLetters(nil, func(l Letter, _ []byte) bool {
			where = append(where, fmt.Sprintf("%d.%d %v", l.Sequence, l.Index, l.Malformed))
			if l.Stream != "IN" || l.Subject != "in.x" || l.Revision != 1 || l.Reason == "" {
				t.Errorf("dead letter %s is not whole: %v", l.ID, l)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(where)
	same(t, "dead letters", where, "10.0 false", "11.0 false", "13.0 true", "4.1 true", "5.0 true", "6.0 true", "7.0 true", "8.0 true", "9.0 false")
	for _, want := range []string{"nonsense here", `key field "user" is missing: {"name":"nobody"}`, "\xff"} {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("no dead letter says %q: %q", want, said)
		}
	}
}

func TestFlowControls(t *testing.T) {
	control := func(f func(row *kis.Row, out *kis.Output[*kis.Row])) kis.Function {
		return kis.Keyed("control", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			s.N++
			f(e.Value, out)
			return nil
		})
	}
	mark := func(name string) Step {
		return Step{Name: name, Function: rowFunction(name, func(row *kis.Row, out *kis.Output[*kis.Row]) error {
			row.Set("at", kis.StringValue(text(row, "at")+" "+name))
			out.Emit(kis.Key{}, row)
			return nil
		})}
	}
	other := kis.NewRow(kis.Field{Name: "user", Value: kis.IntValue(1)}, kis.Field{Name: "name", Value: kis.StringValue("other")})
	for _, c := range []struct {
		name    string
		control func(row *kis.Row, out *kis.Output[*kis.Row])
		want    []string // outputs, without their subject
		dead    string   // part of the only dead letter
		count   string   // state of the step
	}{
		{"continue with nothing emitted ends here", func(*kis.Row, *kis.Output[*kis.Row]) {}, nil, "", `{"n":1}`},
		{"continue", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Emit(kis.Key{}, other) },
			[]string{`{"user":1,"name":"other","at":" b c"}`}, "", `{"n":1}`},
		{"continue with two rows", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Emit(kis.Key{}, other); out.Emit(kis.Key{}, row) },
			[]string{`{"user":1,"name":"other","at":" b c"}`, `{"user":1,"name":"x","at":" a b c"}`}, "", `{"n":1}`},
		{"abort drops what was emitted and sent, and keeps the state", func(row *kis.Row, out *kis.Output[*kis.Row]) {
			out.Emit(kis.Key{}, row)
			out.Send("out.x", row)
			out.Abort()
		}, nil, "", `{"n":1}`},
		{"reuse", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Emit(kis.Key{}, other); out.Reuse() },
			[]string{`{"user":1,"name":"x","at":" a b c"}`}, "", `{"n":1}`},
		{"force next", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.ForceNext() }, []string{`{"user":1,"at":" b c"}`}, "", `{"n":1}`},
		{"force next with something emitted", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Emit(kis.Key{}, other); out.ForceNext() },
			[]string{`{"user":1,"name":"other","at":" b c"}`}, "", `{"n":1}`},
		{"jump forward", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Jump("c") }, []string{`{"user":1,"name":"x","at":" a c"}`}, "", `{"n":1}`},
		{"jump forward with something emitted", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Emit(kis.Key{}, other); out.Jump("c") },
			[]string{`{"user":1,"name":"other","at":" c"}`}, "", `{"n":1}`},
		{"jump back once", func(row *kis.Row, out *kis.Output[*kis.Row]) {
			out.Emit(kis.Key{}, row)
			if text(row, "at") == " a" {
				out.Jump("a")
			}
		}, []string{`{"user":1,"name":"x","at":" a a b c"}`}, "", `{"n":2}`},
		{"jump to itself for ever", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Jump("control") }, nil, "jumped backwards more than 16 times", `{"n":17}`},
		{"jump to nowhere", func(row *kis.Row, out *kis.Output[*kis.Row]) { out.Jump("d") }, nil, `jump to "d": the flow has no such step`, `{"n":1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, Options{}, 0, kitFlow(mark("a"), Step{Name: "control", Function: control(c.control), Must: user}, mark("b"), mark("c"), sends(Step{Function: sendFunction()})))
			k.mustOpen()
			k.publish(`{"user":1,"name":"x"}`)
			k.mustRun()
			var want []string
			for _, w := range c.want {
				want = append(want, "out.x "+w)
			}
			same(t, "outputs", k.read("OUT"), want...)
			if got := k.state("control", "user=1"); got != c.count {
				t.Errorf("state is %s, want %s", got, c.count)
			}
			said, _ := k.letters()
			if c.dead == "" && len(said) > 0 || c.dead != "" && (len(said) != 1 || !strings.Contains(said[0], c.dead)) {
				t.Errorf("dead letters are %v, want %q", said, c.dead)
			}
		})
	}
}

func TestAJumpToAnotherStage(t *testing.T) {
	item := []string{"item"}
	jump := kis.Keyed("jump", func(_ context.Context, s *counted, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.N++
		out.Jump("last")
		return nil
	})
	k := newKit(t, Options{Partitions: 3}, 0, kitFlow(Step{Function: jump, Must: user}, Step{Name: "between", Function: noteFunction(), Must: item},
		Step{Name: "last", Function: noteFunction(), Must: item}))
	k.mustOpen()
	k.publish(`{"user":1,"item":5,"name":"x"}`, `{"user":2,"item":5,"name":"y"}`)
	k.mustRun()
	if got := k.state("between", "item=5"); got != "none" {
		t.Errorf("the step that was jumped over has state %s", got)
	}
	if got := k.state("last", "item=5"); got != `{"names":["x","y"]}` && got != `{"names":["y","x"]}` {
		t.Errorf("state is %s, want x and y", got)
	}
}
