package actors

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// clockNotes is the state of alarmFunction.
type clockNotes struct {
	Names []string `json:"names"`
	Rings []string `json:"rings"`
}

// alarmFunction sets a timer for each row with a field in (by the clock, in seconds) or at (event time, a second of
// the hour), named as the row's field alarm says; stop takes one back. A timer notes its name and emits a row.
func alarmFunction(options ...kis.Option) kis.Function {
	hour := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	return kis.KeyedTimers("alarm", func(_ context.Context, s *clockNotes, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.Names = append(s.Names, text(e.Row, "name"))
		name := text(e.Row, "alarm")
		if v, ok := e.Row.Get("in"); ok {
			out.SetTimer(name, kis.ProcessingTime, e.Now.Add(time.Duration(v.Int())*time.Second))
		}
		if v, ok := e.Row.Get("at"); ok {
			out.SetTimer(name, kis.EventTime, hour.Add(time.Duration(v.Int())*time.Second))
		}
		if stop := text(e.Row, "stop"); stop != "" {
			out.StopTimer(stop, kis.EventTime)
			out.StopTimer(stop, kis.ProcessingTime)
		}
		if text(e.Row, "fail") != "" {
			return errors.New("bad")
		}
		return nil
	}, func(_ context.Context, s *clockNotes, d kis.Due, out *kis.Output[*kis.Row]) error {
		if d.Name == "bad" {
			return errors.New("no good timer")
		}
		s.Rings = append(s.Rings, d.Name)
		row := kis.NewRow(kis.Field{Name: "ring", Value: kis.StringValue(d.Name)})
		row.Set("second", kis.IntValue(int64(d.At.Sub(hour)/time.Second)))
		out.EmitAt(d.At, d.Key, row)
		return nil
	}, options...)
}

func alarmKit(t *testing.T, opt Options) *kit {
	t.Helper()
	k := newKit(t, opt, 8<<20, kitFlow(Step{Function: alarmFunction(), Must: []string{"user"}}, sends(Step{Function: sendFunction()})))
	k.flow.Time = EventTime{Field: "t", Unit: time.Second}
	return k
}

// at is the second of the test's hour as the time field has it.
func secondOf(n int) int64 { return time.Date(2026, 3, 4, 5, 0, n, 0, time.UTC).Unix() }

func alarmRow(user int, second int, more string) string {
	return fmt.Sprintf(`{"user":%d,"name":"n%d","t":%d%s}`, user, second, secondOf(second), more)
}

func TestEventTimersFireInOrderBeforeTheRow(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			k := alarmKit(t, Options{})
			k.mustOpen()
			step := func(rows ...string) {
				k.publish(rows...)
				k.mustRun()
				if restart {
					k.mustOpen()
				}
			}
			step(alarmRow(1, 10, `,"alarm":"late","at":40`), alarmRow(2, 10, `,"alarm":"soon","at":20`))
			step(alarmRow(3, 15, `,"alarm":"soon","at":20`))
			same(t, "outputs before the watermark", k.read("OUT"))
			step(alarmRow(3, 30, ""))
			same(t, "outputs", k.read("OUT"), `out.x {"user":3,"ring":"soon","second":20}`, `out.x {"user":2,"ring":"soon","second":20}`) // of one time: by slot
			if got := k.state("alarm", "user=3"); got != `{"names":["n15","n30"],"rings":["soon"]}` {
				t.Errorf("state of 3 is %s", got)
			}
			step(alarmRow(9, 41, ""))
			if got := k.state("alarm", "user=1"); got != `{"names":["n10"],"rings":["late"]}` {
				t.Errorf("state of 1 is %s", got)
			}
			if n := len(k.read("OUT")); n != 3 {
				t.Errorf("%d outputs, want 3: a timer fires once", n)
			}
		})
	}
}

func TestTimersAreMovedAndStopped(t *testing.T) {
	k := alarmKit(t, Options{})
	k.mustOpen()
	k.publish(alarmRow(1, 10, `,"alarm":"a","at":20`), alarmRow(1, 11, `,"alarm":"a","at":25`), alarmRow(1, 12, `,"alarm":"b","at":21`),
		alarmRow(1, 13, `,"alarm":"c","at":22`), alarmRow(1, 14, `,"stop":"b"`), alarmRow(1, 15, `,"alarm":"c","at":18`),
		alarmRow(1, 15, `,"alarm":"d","at":19,"fail":"x"`))
	k.mustRun()
	k.mustOpen()
	for s := 16; s <= 30; s++ {
		k.publish(alarmRow(2, s, ""))
		k.mustRun()
	}
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"ring":"c","second":18}`, `out.x {"user":1,"ring":"a","second":25}`)
	// Nothing is left of them in the store.
	n := 0
	if err := k.parts[0].ports.Store.Scan([]byte{timerKind}, []byte{timerKind + 1}, func(_, _ []byte) bool { n++; return true }); err != nil || n > 0 {
		t.Errorf("%d timers are still listed, %v", n, err)
	}
}

func TestProcessingTimersFireByTheClock(t *testing.T) {
	k := alarmKit(t, Options{})
	p := k.mustOpen()
	k.publish(alarmRow(1, 10, `,"alarm":"tick","in":5`), alarmRow(2, 10, `,"alarm":"tock","in":8`))
	k.mustRun()
	k.pass(4 * time.Second)
	same(t, "outputs after 4 s", k.read("OUT"))
	if !p.Restless() {
		t.Error("the partition does not wait for its timers")
	}
	k.pass(time.Second)
	if p = k.mustOpen(); !p.Restless() {
		t.Error("the partition does not look for its timers after a restart")
	}
	k.pass(3 * time.Second)
	if out := k.read("OUT"); len(out) != 2 || !strings.Contains(out[0], "tick") || !strings.Contains(out[1], "tock") {
		t.Errorf("outputs are %v", out)
	}
	k.pass(time.Second) // what was settled is written
	k.pass(2 * time.Second)
	if k.parts[0].Restless() {
		t.Error("the partition is restless although nothing waits")
	}
}

func TestATimerThatFailsIsADeadLetter(t *testing.T) {
	k := alarmKit(t, Options{})
	k.mustOpen()
	k.publish(alarmRow(1, 10, `,"alarm":"bad","at":20`), alarmRow(1, 10, `,"alarm":"good","at":20`), alarmRow(1, 21, ""))
	k.mustRun()
	said, _ := k.letters()
	same(t, "dead letters", said, `dead alarm: timer "bad": no good timer: {"user":1,"timer":"bad","at":"2026-03-04T05:00:20Z"}`)
	if got := k.state("alarm", "user=1"); !strings.Contains(got, `"rings":["good"]`) {
		t.Errorf("state is %s", got)
	}
}

// TestManyDueTimersAreSharedOutToBatches: what one watermark asks for may be more than a record can hold.
func TestManyDueTimersAreSharedOutToBatches(t *testing.T) {
	const keys = 3000
	k := alarmKit(t, Options{BatchRows: 50})
	p := k.mustOpen()
	for i := range keys {
		k.publish(alarmRow(i, 10, `,"alarm":"x","at":`+strconv.Itoa(20+i%7)))
	}
	k.mustRun()
	before := p.meta.Number
	k.publish(alarmRow(keys, 12, ""), alarmRow(keys, 60, ""), alarmRow(keys, 61, ""))
	if _, err := k.deal(); err != nil {
		t.Fatal(err)
	}
	for range 20 { // a crash in the middle of it
		if _, err := p.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.time.at[0]; got >= nanos(time.Unix(secondOf(60), 0)) {
		t.Error("the watermark has moved before its timers have fired")
	}
	p = k.mustOpen()
	k.mustRun()
	if n := p.meta.Number - before; n < keys/50 {
		t.Errorf("%d commits for %d timers, want at least %d", n, keys, keys/50)
	}
	out := k.read("OUT")
	if len(out) != keys {
		t.Fatalf("%d outputs, want %d", len(out), keys)
	}
	last := 0
	for _, o := range out {
		_, s, _ := strings.Cut(o, `"second":`)
		n, err := strconv.Atoi(strings.TrimSuffix(s, "}"))
		if err != nil || n < last {
			t.Fatalf("%s comes after a timer of second %d", o, last)
		}
		last = n
	}
	if got := k.state("alarm", "user="+strconv.Itoa(keys)); got != `{"names":["n12","n60","n61"],"rings":null}` {
		t.Errorf("state of the last key is %s", got)
	}
}

// TestFewTimersAreInMemory: the partition holds the next ones, however many there are.
func TestFewTimersAreInMemory(t *testing.T) {
	const keys = 20_000
	k := alarmKit(t, Options{CacheBytes: 1 << 20})
	p := k.mustOpen()
	var b strings.Builder
	for i := range keys {
		b.WriteString(alarmRow(i, 10, `,"alarm":"x","at":`+strconv.Itoa(1000+i)) + "\n")
		if i%100 == 99 {
			k.publish(b.String())
			b.Reset()
		}
	}
	k.mustRun()
	held := func() int {
		q := &p.timers[0][eventTimers]
		return len(q.next) + len(q.fresh)
	}
	if n := held(); n > 2*timersKept+1000 {
		t.Errorf("%d timers are in memory", n)
	}
	p = k.mustOpen()
	k.publish(alarmRow(keys, 1000+keys/2, ""))
	k.mustRun()
	if n := held(); n > 2*timersKept+1000 {
		t.Errorf("%d timers are in memory", n)
	}
	if n := len(k.read("OUT")); n != keys/2+1 {
		t.Errorf("%d timers have fired, want %d", n, keys/2+1)
	}
}

func TestTimeToLive(t *testing.T) {
	for _, byEvent := range []bool{false, true} {
		t.Run(fmt.Sprint("by event ", byEvent), func(t *testing.T) {
			k := newKit(t, Options{}, 8<<20, kitFlow(Step{Function: noteFunction(), Must: []string{"user"}, TTL: 10 * time.Second, TTLByEvent: byEvent}))
			k.flow.Time = EventTime{Field: "t", Unit: time.Second}
			k.mustOpen()
			second := 0
			row := func(user int, name string) {
				k.publish(fmt.Sprintf(`{"user":%d,"name":%q,"t":%d}`, user, name, secondOf(second)))
				k.mustRun()
			}
			wait := func(s int) { // the clock or the watermark moves on
				second += s
				if byEvent {
					row(99, "tick")
				} else {
					k.pass(time.Duration(s) * time.Second)
				}
			}
			row(1, "a")
			row(2, "a")
			wait(6)
			row(1, "b")
			k.mustOpen()
			wait(6) // user 2 is gone, user 1 was used 6 s ago
			if got := k.state("note", "user=2"); got != "none" {
				t.Errorf("state of 2 is %s, want none", got)
			}
			if got := k.state("note", "user=1"); got != `{"names":["a","b"]}` {
				t.Errorf("state of 1 is %s", got)
			}
			wait(5) // 11 s after user 1 was used; that its end was put off at 10 s is no use of it
			if got := k.state("note", "user=1"); got != "none" {
				t.Errorf("state of 1 is %s, want none", got)
			}
			row(2, "c")
			if got := k.state("note", "user=2"); got != `{"names":["c"]}` {
				t.Errorf("state of 2 is %s, want a new one", got)
			}
			wait(60)
			wait(60)
			for _, user := range []string{"user=1", "user=2"} {
				if got := k.state("note", user); got != "none" {
					t.Errorf("state of %s is %s, want none", user, got)
				}
			}
			left := 0
			if err := k.parts[0].ports.Store.Scan([]byte{stateKind}, []byte{timerKind + 1}, func(key, _ []byte) bool {
				if !strings.Contains(string(key), "99") && key[0] != metaKey {
					left++
				}
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if n := k.parts[0].meta.StateKeys; !byEvent && (n != 0 || left != 0) {
				t.Errorf("%d keys are counted and %d are in the store, want none", n, left)
			}
		})
	}
}

func TestIdleInputsAreNotWaitedFor(t *testing.T) {
	k := alarmKit(t, Options{})
	other := k.ensure("IN2", "in2.>")
	k.flow.Inputs = append(k.flow.Inputs, Input{Kind: Entry, Name: "IN2", Stream: "IN2", Created: other.Created.UnixNano()})
	p := k.mustOpen()
	k.publish(alarmRow(1, 10, `,"alarm":"x","at":20`), alarmRow(1, 30, ""))
	k.mustRun()
	same(t, "outputs while the second input may still bring older rows", k.read("OUT"))
	ws := p.Watermarks()
	if len(ws) == 0 || len(ws[0].Sources) != 2 || !ws[0].Sources[1].Holds || ws[0].Sources[0].Holds {
		t.Errorf("watermarks say %+v, want that IN2 holds it", ws)
	}
	p.Offer(&Chunk{Input: 2, Quiet: true, Idle: true, High: unknown})
	k.mustRun()
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"ring":"x","second":20}`)
	if ws := p.Watermarks(); !ws[0].Sources[1].Idle || !ws[0].Time.Equal(time.Unix(secondOf(30), 0)) {
		t.Errorf("watermarks say %+v, want that IN2 is idle", ws)
	}
}

func TestTimesThatAreNone(t *testing.T) {
	stored := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, c := range []struct{ row, unit, want string }{
		{`{"t":1772600767000}`, "ms", "2026-03-04T05:06:07Z"},
		{`{"t":1772600767000.5}`, "ms", "2026-03-04T05:06:07.0005Z"},
		{`{"t":"2026-03-04T06:06:07+01:00"}`, "ms", "2026-03-04T05:06:07Z"},
		{`{"t":1772600767}`, "s", "2026-03-04T05:06:07Z"},
		{`{"t":1772600767}`, "ms", "the time field t says 1970-01-21T12:23:20.767Z, before 2000-01-01T00:00:00Z (time.since); as seconds it would be 2026-03-04T05:06:07Z (time.unit: s)"},
		{`{"t":1772600767000}`, "s", "the time field t says 36812-02-20T00:36:16Z, more than 24h0m0s (time.ahead)"},
		{`{"t":9223372036854775807}`, "ns", "more than 24h0m0s (time.ahead)"},
		{`{"t":9223372036854775807}`, "s", "more than 24h0m0s (time.ahead)"},
		{`{"t":-9223372036854775808}`, "s", "before 2000-01-01"},
		{`{"t":1e300}`, "ms", "is no time in milliseconds"},
		{`{"t":99999999999999999999}`, "ms", "is no time in milliseconds"},
		{`{"t":"0001-01-01T00:00:00Z"}`, "ms", "before 2000-01-01"},
		{`{"t":"9999-12-31T23:59:59Z"}`, "ms", "more than 24h0m0s (time.ahead)"},
		{`{"t":"yesterday"}`, "ms", `"yesterday" is no time; a text is to be like 2006-01-02T15:04:05Z`},
		{`{"t":null}`, "ms", "the time field t is missing"},
		{`{"a":1}`, "ms", "the time field t is missing"},
		{`{"t":[1]}`, "ms", "it is an array; it must be a number in milliseconds"},
		{`{"t":true}`, "ms", "it is a bool"},
	} {
		units := map[string]time.Duration{"s": time.Second, "ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}
		row, err := kis.ParseRow([]byte(c.row))
		if err != nil {
			t.Fatal(err)
		}
		et := EventTime{Field: "t", Unit: units[c.unit]}.withDefaults()
		got, err := et.of(row, stored)
		said := got.Format(time.RFC3339Nano)
		if err != nil {
			said = err.Error()
		}
		if !strings.Contains(said, c.want) {
			t.Errorf("%s in %s: %s\nwant %s", c.row, c.unit, said, c.want)
		}
	}
	row, err := kis.ParseRow([]byte(`{"a":{"b":{"t":"2026-03-04T05:06:07Z"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	et := EventTime{Field: "a.b.t"}.withDefaults()
	if got, err := et.of(row, stored); err != nil || !got.Equal(stored) {
		t.Errorf("a nested field: %s, %v", got, err)
	}
}

// manySums is a kis.Many: it adds up the rows of each key, and fails as the rows say.
type manySums struct {
	calls, keys, rows int
	down              int // calls that find nobody
}

func (m *manySums) Name() string       { return "many" }
func (m *manySums) Traits() kis.Traits { return kis.Traits{Stateful: true, Many: true, KeepsKey: true} }
func (m *manySums) Open(kis.Step) (kis.Runner, error) {
	return m, nil
}
func (m *manySums) Activate(encoded []byte) (any, error) { return string(encoded), nil }
func (m *manySums) Encode(dst []byte, state any) ([]byte, error) {
	return append(dst, state.(string)...), nil
}
func (m *manySums) Handle(*kis.Call) error { panic("one row at a time") }
func (m *manySums) HandleMany(calls []*kis.Call) error {
	if m.calls++; m.down > 0 {
		m.down--
		return kis.Retry(errors.New("nobody answers"))
	}
	for _, c := range calls {
		m.keys++
		state := c.State.(string)
		for i, r := range c.Rows {
			m.rows++
			switch text(r, "fail") {
			case "key":
				c.Err = errors.New("bad key")
			case "row":
				c.Refuse(i, errors.New("bad row"))
				continue
			}
			if state == "" {
				state = `"`
			}
			state = strings.TrimSuffix(state, `"`) + text(r, "name") + `"`
			if !strings.HasPrefix(state, `"`) {
				state = `"` + state
			}
			c.EmitFor(i, r)
		}
		if c.Err == nil {
			c.State = state
		}
	}
	return nil
}

func TestManyGetsAWholeBatch(t *testing.T) {
	m := &manySums{down: 3}
	k := newKit(t, Options{}, 8<<20, kitFlow(Step{Function: m, Must: []string{"user"}}, sends(Step{Function: sendFunction()})))
	k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, `{"user":2,"name":"b"}`, `{"user":1,"name":"c","fail":"row"}`, `{"user":3,"name":"d","fail":"key"}`,
		`{"user":1,"name":"e"}`, `{"user":2,"name":"f"}`)
	k.mustRun()
	if m.calls != 4 || m.keys != 3 || m.rows != 6 {
		t.Errorf("%d calls of %d keys and %d rows, want 4 (three found nobody) of 3 and 6", m.calls, m.keys, m.rows)
	}
	for user, want := range map[string]string{"user=1": `"ae"`, "user=2": `"bf"`, "user=3": "none"} {
		if got := k.state("many", user); got != want {
			t.Errorf("state of %s is %s, want %s", user, got, want)
		}
	}
	said, _ := k.letters()
	same(t, "dead letters", said, `dead many: bad row: {"user":1,"name":"c","fail":"row"}`, `dead many: bad key: {"user":3,"name":"d","fail":"key"}`)
	same(t, "outputs", k.read("OUT"), `out.x {"user":1,"name":"a"}`, `out.x {"user":2,"name":"b"}`, `out.x {"user":1,"name":"e"}`, `out.x {"user":2,"name":"f"}`)
}

func TestStatesAreMigratedOnTheirWay(t *testing.T) {
	k := newKit(t, Options{}, 8<<20, kitFlow(Step{Function: noteFunction(), Must: []string{"user"}}))
	k.mustOpen()
	k.publish(`{"user":1,"name":"a"}`, `{"user":2,"name":"b"}`)
	k.mustRun()
	type total struct {
		Count int64  `json:"count"`
		Last  string `json:"last"`
	}
	count := kis.Keyed("note", func(_ context.Context, s *total, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		s.Count++
		s.Last = text(e.Row, "name")
		return nil
	}, kis.Version(2, func(from uint32, state []byte) ([]byte, error) {
		if strings.Contains(string(state), `"b"`) {
			return nil, errors.New("no way to migrate this one")
		}
		return []byte(`{"count":1000}`), nil
	}))
	next := kitFlow(Step{Function: count, Must: []string{"user"}})
	next.Revision, next.Inputs = 2, k.flow.Inputs
	if err := k.parts[0].Revise(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	k.flow, k.dealers = next, nil
	k.publish(`{"user":1,"name":"c"}`, `{"user":2,"name":"d"}`, `{"user":3,"name":"e"}`)
	k.mustRun()
	k.mustOpen()
	k.publish(`{"user":1,"name":"f"}`)
	k.mustRun()
	for user, want := range map[string]string{"user=1": `{"count":1002,"last":"f"}`, "user=2": `{"names":["b"]}`, "user=3": `{"count":1,"last":"e"}`} {
		if got := k.state("note", user); got != want {
			t.Errorf("state of %s is %s, want %s", user, got, want)
		}
	}
	said, _ := k.letters()
	if len(said) != 1 || !strings.Contains(said[0], "version 0: migrate: no way to migrate this one") {
		t.Errorf("dead letters are %v", said)
	}
}
