package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

func policyKit(t *testing.T, opt Options, note Step) *kit {
	t.Helper()
	note.Function, note.Must = noteFunction(), user
	k := newKit(t, opt, 0, kitFlow(note, sends(Step{Function: sendFunction()})))
	k.mustOpen()
	return k
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		fail   string
		policy Policy
		want   []string // dead letters and parked rows
		state  string   // of the key, after a good row before and one behind
		stops  bool
	}{
		{"dead", SetAside, []string{`dead note: bad: {"user":1,"name":"x","fail":"dead"}`}, `{"names":["a","b"]}`, false},
		{"panic", SetAside, []string{`dead note: panic: boom: {"user":1,"name":"x","fail":"panic"}`}, `{"names":["a","b"]}`, false},
		{"retry", SetAside, []string{`dead note: after 0 retries: busy: {"user":1,"name":"x","fail":"retry"}`}, `{"names":["a","b"]}`, false},
		{"drop", SetAside, nil, `{"names":["a","b"]}`, false},
		{"drop", StopPartition, nil, `{"names":["a","b"]}`, false},
		{"drop", ParkKey, nil, `{"names":["a","b"]}`, false},
		{"stop", SetAside, nil, `none`, true}, // nothing of the batch is committed
		{"stop", ParkKey, nil, `none`, true},
		{"dead", StopPartition, nil, `none`, true},
		{"panic", StopPartition, nil, `none`, true},
		{"dead", ParkKey, []string{`parked note: bad: {"user":1,"name":"x","fail":"dead"}`}, `{"names":["a"]}`, false},
		{"panic", ParkKey, []string{`parked note: panic: boom: {"user":1,"name":"x","fail":"panic"}`}, `{"names":["a"]}`, false},
		{"retry", ParkKey, []string{`parked note: after 0 retries: busy: {"user":1,"name":"x","fail":"retry"}`}, `{"names":["a"]}`, false},
	} {
		t.Run(fmt.Sprintf("%s with policy %d", c.fail, c.policy), func(t *testing.T) {
			k := policyKit(t, Options{}, Step{OnError: c.policy})
			k.publish(`{"user":1,"name":"a"}`, fmt.Sprintf(`{"user":1,"name":"x","fail":%q}`, c.fail), `{"user":1,"name":"b"}`, `{"user":2,"name":"c"}`)
			err := k.run()
			if c.stops {
				if !errors.Is(err, ErrStopped) || !final(err) || !strings.Contains(err.Error(), "step note") || !strings.Contains(err.Error(), "event IN 2.0") {
					t.Errorf("work says %v, want %v with the step and the event", err, ErrStopped)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			said, _ := k.letters()
			same(t, "dead letters", said, c.want...)
			if got := k.state("note", "user=1"); got != c.state {
				t.Errorf("state is %s, want %s", got, c.state)
			}
			if got := k.state("note", "user=2"); !c.stops && got != `{"names":["c"]}` {
				t.Errorf("another key has state %s", got)
			}
		})
	}
}

func TestAPanicsLetterHasItsStack(t *testing.T) {
	k := policyKit(t, Options{}, Step{})
	k.publish(`{"user":1,"name":"x","fail":"panic"}`)
	k.mustRun()
	_, keys := k.letters()
	l, err := k.parts[0].DeadLetter(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(l.Stack, "noteFunction") {
		t.Errorf("the stack does not show the handler:\n%s", l.Stack)
	}
}

func TestARetryWaitsAndItsKeyWithIt(t *testing.T) {
	k := policyKit(t, Options{}, Step{RetryTimes: 5, RetryDelay: 2 * time.Second})
	until := k.now.Add(3 * time.Second).Unix()
	k.publish(`{"user":1,"name":"a"}`, fmt.Sprintf(`{"user":1,"name":"late","until":%d}`, until), `{"user":2,"name":"other"}`)
	k.mustRun()
	k.publish(`{"user":1,"name":"b"}`, `{"user":1,"name":"c","fail":"dead"}`, `{"user":1,"name":"d"}`)
	k.mustRun()
	check := func(one string, outputs int) {
		t.Helper()
		if got := k.state("note", "user=1"); got != one {
			t.Errorf("at %s: state is %s, want %s", k.now.Format(time.TimeOnly), got, one)
		}
		if n := len(k.read("OUT")); n != outputs {
			t.Errorf("at %s: %d outputs, want %d", k.now.Format(time.TimeOnly), n, outputs)
		}
	}
	check(`{"names":["a"]}`, 2)
	if got := k.parts[0].pending.rows; got != 4 {
		t.Errorf("%d rows wait, want 4", got)
	}
	k.mustOpen() // a crash forgets nothing of it
	k.pass(time.Second)
	check(`{"names":["a"]}`, 2)
	k.pass(time.Second + time.Millisecond) // the first retry is still too early
	check(`{"names":["a"]}`, 2)
	k.mustOpen()
	k.pass(2*time.Second + time.Millisecond)
	check(`{"names":["a","late","b","d"]}`, 5)
	said, _ := k.letters()
	same(t, "dead letters", said, `dead note: bad: {"user":1,"name":"c","fail":"dead"}`)
	if p := k.parts[0]; p.pending.rows != 0 || p.Restless() && !p.unwritten {
		t.Errorf("%d rows still wait", p.pending.rows)
	}
}

func TestRetriesEnd(t *testing.T) {
	k := policyKit(t, Options{}, Step{RetryTimes: 2})
	k.publish(`{"user":1,"name":"x","fail":"retry"}`, `{"user":1,"name":"b"}`)
	k.mustRun()
	for range 5 {
		k.pass(time.Millisecond)
	}
	said, _ := k.letters()
	same(t, "dead letters", said, `dead note: after 2 retries: busy: {"user":1,"name":"x","fail":"retry"}`)
	if got, want := k.state("note", "user=1"), `{"names":["b"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
}

func TestRowsBehindARetryComeWithSmallBatches(t *testing.T) {
	k := policyKit(t, Options{BatchRows: 2}, Step{RetryTimes: 100})
	k.publish(fmt.Sprintf(`{"user":1,"name":"late","until":%d}`, k.now.Add(time.Second).Unix()))
	for i := range 9 {
		k.publish(fmt.Sprintf(`{"user":1,"name":"%d"}`, i))
	}
	k.mustRun()
	for range 10 {
		k.pass(time.Second)
	}
	if got, want := k.state("note", "user=1"), `{"names":["late","0","1","2","3","4","5","6","7","8"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
}

func TestAParkedRow(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(k *kit, keys [][]byte) (int, error)
		state string
	}{
		{"is retried", func(k *kit, keys [][]byte) (int, error) {
			n, left, err := k.parts[0].Retry(k.t.Context(), keys)
			return n, errors.Join(append(left, err)...)
		}, `{"names":["late","a","b"]}`},
		{"is dropped", func(k *kit, keys [][]byte) (int, error) { return k.parts[0].Drop(k.t.Context(), keys) }, `{"names":["a","b"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := policyKit(t, Options{}, Step{OnError: ParkKey})
			k.publish(fmt.Sprintf(`{"user":1,"name":"late","until":%d}`, k.now.Add(time.Minute).Unix()), `{"user":1,"name":"a"}`, `{"user":2,"name":"other"}`)
			k.mustRun()
			k.publish(`{"user":1,"name":"b"}`)
			k.mustRun()
			k.pass(time.Hour) // no time brings it back
			k.mustOpen()
			if got := k.state("note", "user=1") + k.state("note", "user=2"); got != `none{"names":["other"]}` {
				t.Errorf("states are %s", got)
			}
			_, keys := k.letters()
			if len(keys) != 1 {
				t.Fatalf("%d letters, want the parked row", len(keys))
			}
			// Its name is good for the way through the API.
			l, err := k.parts[0].DeadLetter(keys[0])
			if err != nil {
				t.Fatal(err)
			}
			at, key, err := parseDeadID(l.ID)
			if err != nil || at.Stage != "user" || at.Number != 0 || string(key) != string(keys[0]) {
				t.Errorf("id %s is read as %+v %q, %v", l.ID, at, key, err)
			}
			if n, err := c.end(k, append(keys, keys...)); n != 1 || err != nil {
				t.Errorf("the command took up %d, %v", n, err)
			}
			k.pass(time.Millisecond)
			if got := k.state("note", "user=1"); got != c.state {
				t.Errorf("state is %s, want %s", got, c.state)
			}
			if n, err := c.end(k, keys); n != 0 || err != nil {
				t.Errorf("a second command took up %d, %v", n, err)
			}
			if n := k.parts[0].pending.rows; n != 0 {
				t.Errorf("%d rows still wait", n)
			}
		})
	}
}

func TestADeadLetterIsRetriedOnce(t *testing.T) {
	mended := false
	fragile := kis.Keyed("note", func(_ context.Context, s *notes, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		if !mended {
			return errors.New("broken")
		}
		s.Names = append(s.Names, text(e.Row, "name"))
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: fragile, Must: user}, sends(Step{Function: sendFunction()})))
	p := k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, "no json", `{"user":1,"name":"b"}`)
	k.mustRun()
	_, keys := k.letters()
	if n, left, err := p.Retry(t.Context(), keys); n != 2 || len(left) != 1 || err != nil {
		t.Errorf("a retry that is in vain: %d, %v, %v", n, left, err)
	}
	if said, _ := k.letters(); len(said) != 3 || p.DeadLetterCount() != 3 {
		t.Errorf("letters are %v, %d counted", said, p.DeadLetterCount())
	}
	mended = true
	_, keys = k.letters()
	if n, left, err := p.Retry(t.Context(), append(keys, keys...)); n != 2 || len(left) != 1 || err != nil {
		t.Errorf("retry: %d, %v, %v", n, left, err)
	}
	if n, left, err := p.Retry(t.Context(), keys); n != 0 || len(left) != 1 || err != nil {
		t.Errorf("a second retry: %d, %v, %v", n, left, err)
	}
	p = k.mustOpen()
	if got, want := k.state("note", "user=1"), `{"names":["a","b"]}`; got != want {
		t.Errorf("state is %s, want %s", got, want)
	}
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":1,"name":"b"}`)
	said, keys := k.letters()
	if len(said) != 1 || !strings.Contains(said[0], "no json") {
		t.Errorf("letters are %v, want the one that is no JSON", said)
	}
	if n, err := p.Drop(t.Context(), append(keys, keys...)); n != 1 || err != nil {
		t.Errorf("drop: %d, %v", n, err)
	}
	if said, _ := k.letters(); len(said) != 0 || p.DeadLetterCount() != 0 {
		t.Errorf("letters are %v, %d counted", said, p.DeadLetterCount())
	}
	if _, err := p.DeadLetter(keys[0]); !errors.Is(err, ErrUnknown) {
		t.Errorf("the dropped letter: %v, want %v", err, ErrUnknown)
	}
}

func TestABadRowOfABatchIsTheOnlyOne(t *testing.T) {
	calls := 0
	batch := kis.Batch("note", func(_ context.Context, s *notes, es []kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		calls++
		for i, e := range es {
			s.Names = append(s.Names, text(e.Row, "name"))
			if text(e.Row, "fail") != "" {
				return errors.New("bad")
			}
			out.EmitFor(i, kis.Key{}, e.Value)
		}
		return nil
	})
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: batch, Must: user}, sends(Step{Function: sendFunction()})))
	k.mustOpen()
	k.publish("{\"user\":1,\"name\":\"a\"}\n{\"user\":2,\"name\":\"b\"}\n{\"user\":1,\"name\":\"c\",\"fail\":\"x\"}\n{\"user\":1,\"name\":\"d\"}\n{\"user\":2,\"name\":\"e\"}")
	k.mustRun()
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":2,"name":"b"}`, `out.x {"user":1,"name":"d"}`, `out.x {"user":2,"name":"e"}`)
	if got := k.state("note", "user=1") + k.state("note", "user=2"); got != `{"names":["a","d"]}{"names":["b","e"]}` {
		t.Errorf("states are %s", got)
	}
	if said, _ := k.letters(); len(said) != 1 || !strings.Contains(said[0], `"name":"c"`) {
		t.Errorf("letters are %v", said)
	}
	if calls != 5 {
		t.Errorf("%d calls, want one for each key and three for the rows of the one with a bad row", calls)
	}
}

// TestResultsDoNotDependOnBatches: whatever is grouped, and whatever is kept in memory, the same comes out.
func TestResultsDoNotDependOnBatches(t *testing.T) {
	item := []string{"item"}
	batch := kis.Batch("pairs", func(_ context.Context, s *counted, es []kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		for i, e := range es {
			s.N++
			e.Value.Set("pair", kis.IntValue(s.N))
			out.EmitFor(i, kis.Key{}, e.Value)
			if s.N%3 == 0 {
				out.EmitFor(i, kis.Key{}, e.Row.Clone())
			}
		}
		return nil
	})
	other := rowFunction("other", func(row *kis.Row, out *kis.Output[*kis.Row]) error { // another key, in the same stage
		row.Set("item", kis.IntValue((number(row, "item")+number(row, "user"))%5))
		out.Emit(kis.Key{}, row)
		return nil
	})
	run := func(opt Options, most int, packed bool) (outputs, states []string) {
		last := sends(Step{Function: sendFunction(), Pack: packed})
		k := newKit(t, opt, 0, kitFlow(Step{Name: "first", Function: batch, Must: user}, Step{Name: "second", Function: noteFunction(), Must: item},
			Step{Name: "third", Function: batch, Must: item}, Step{Function: other}, Step{Name: "fourth", Function: noteFunction(), Must: item}, last))
		k.most = most
		k.mustOpen()
		for i := range 150 {
			k.publish(fmt.Sprintf(`{"user":%d,"item":%d,"name":"%d"}`, i*i%7, i*i*i%5, i),
				fmt.Sprintf(`{"user":%d,"item":%d,"name":"%d+"%s}`, i%3, i%5, i, []string{"", `,"fail":"dead"`}[i%13/12]))
		}
		k.mustRun()
		for i := range 5 {
			states = append(states, k.state("second", fmt.Sprintf("item=%d", i)), k.state("third", fmt.Sprintf("item=%d", i)),
				k.state("fourth", fmt.Sprintf("item=%d", i)))
		}
		return strings.Split(strings.ReplaceAll(strings.Join(k.read("OUT"), "\n"), "out.x ", ""), "\n"), states
	}
	wantOutputs, wantStates := run(Options{BatchRows: 1}, 1, false)
	if len(wantOutputs) < 300 {
		t.Fatalf("only %d outputs", len(wantOutputs))
	}
	for _, opt := range []Options{{BatchRows: 7}, {BatchRows: 1000}, {BatchBytes: 1}, {BatchRows: 1, CacheBytes: 1}, {CacheBytes: 1}, {BatchRows: 50, CacheBytes: 2000}} {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d rows %d bytes cache %d packed %v", opt.BatchRows, opt.BatchBytes, opt.CacheBytes, packed), func(t *testing.T) {
				outputs, states := run(opt, 1000, packed)
				same(t, "outputs", outputs, wantOutputs...)
				same(t, "states", states, wantStates...)
			})
		}
	}
}
