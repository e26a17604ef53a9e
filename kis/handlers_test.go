package kis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

type testOrder struct {
	UserID int64   `json:"userid"`
	Amount int64   `json:"amount"`
	Note   string  `json:"note"`
	Rate   float32 `json:"rate,omitempty"`
}

type testTotal struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
}

func openTest(t testing.TB, f Function, must ...string) Runner {
	t.Helper()
	r, err := f.Open(Step{Flow: "flow", Name: "step", Function: f.Name(), Must: must, Params: Params{"p": "q"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func callOf(t testing.TB, text string, must ...string) *Call {
	t.Helper()
	row, err := ParseRow([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	key, err := KeyOf(row, must)
	if err != nil {
		t.Fatal(err)
	}
	return &Call{Context: context.Background(), Key: key, Rows: []*Row{row}, Metas: []*Meta{{Sequence: 1}}}
}

func total(_ context.Context, s *testTotal, e Event[testOrder], out *Output[testTotal]) error {
	s.Count++
	s.Total += e.Value.Amount
	if e.Value.Note == "panic" {
		panic("note")
	}
	if e.Value.Note == "bad" {
		return errors.New("bad note")
	}
	out.Emit(e.Key, *s)
	return nil
}

func TestKeyed(t *testing.T) {
	r := openTest(t, Keyed("total", total), "userid")
	state, err := r.Activate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ row, err, out, state string }{
		{`{"userid":1,"amount":5}`, "", `{"userid":1,"count":1,"total":5}`, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":5,"note":"bad"}`, "bad note", ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":5,"note":"panic"}`, "panic: note", ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":"5"}`, `decode: field "amount": expected an integer, found a string, "5"`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":9223372036854775808}`, `decode: field "amount": 9223372036854775808 does not fit int64`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":1.5}`, `decode: field "amount": expected an integer, found a float, 1.5`, ``, `{"count":1,"total":5}`},
		{`{"userid":1,"amount":6,"more":[1]}`, "", `{"userid":1,"count":2,"total":11}`, `{"count":2,"total":11}`},
	} {
		c := callOf(t, step.row, "userid")
		c.State = state
		err := r.Handle(c)
		if step.err == "" && err != nil || step.err != "" && (err == nil || err.Error() != step.err) {
			t.Errorf("%s: error %v, want %q", step.row, err, step.err)
		}
		var out []string
		for _, e := range c.Emitted {
			out = append(out, e.Row.String())
		}
		if got := strings.Join(out, " "); got != step.out {
			t.Errorf("%s: emitted %s, want %s", step.row, got, step.out)
		}
		if got, err := r.Encode(nil, state); err != nil || string(got) != step.state {
			t.Errorf("%s: state %s, %v, want %s", step.row, got, err, step.state)
		}
	}
}

func BenchmarkKeyed(b *testing.B) {
	r := openTest(b, Keyed("total", total), "userid")
	state, _ := r.Activate(nil)
	c := callOf(b, order, "userid")
	c.State = state
	b.ReportAllocs()
	for b.Loop() {
		c.Reset()
		if err := r.Handle(c); err != nil {
			b.Fatal(err)
		}
	}
}

// say calls a runner with rows of one key, and returns all that there is to see.
func say(t *testing.T, r Runner, state any, must []string, rows ...string) string {
	t.Helper()
	c := &Call{Context: context.Background(), State: state, Now: time.Unix(1000, 0).UTC(), Revision: 7}
	for i, text := range rows {
		one := callOf(t, text, must...)
		c.Key, c.Rows, c.Metas = one.Key, append(c.Rows, one.Rows[0]), append(c.Metas, &Meta{Sequence: uint64(i + 1)})
	}
	err := r.Handle(c)
	var b strings.Builder
	for _, e := range c.Emitted {
		fmt.Fprintf(&b, "emit %d %s; ", e.Cause, e.Row)
	}
	for _, s := range c.Sent {
		fmt.Fprintf(&b, "send %d %s %s; ", s.Cause, s.Subject, s.Row)
	}
	if c.Control != Continue {
		fmt.Fprintf(&b, "control %d %s; ", c.Control, c.Target)
	}
	if err != nil {
		fmt.Fprintf(&b, "verdict %d: %v; ", VerdictOf(err), err)
	}
	if state != nil {
		encoded, err := r.Encode(nil, state)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "state %s; ", encoded)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func activate(t *testing.T, r Runner, encoded string) any {
	t.Helper()
	var b []byte
	if encoded != "" {
		b = []byte(encoded)
	}
	state, err := r.Activate(b)
	if err != nil {
		t.Fatalf("activate %s: %v", encoded, err)
	}
	for i := range b {
		b[i] = 'x' // nobody may keep the engine's bytes
	}
	return state
}

type inner struct {
	Sku string `json:"sku"`
	Qty uint8  `json:"qty"`
}

type base struct {
	UserID int64  `json:"userid"`
	Region string `json:"region,omitempty"`
}

type everything struct {
	base
	B      bool              `json:"b"`
	I8     int8              `json:"i8"`
	U64    uint64            `json:"u64"`
	F      float64           `json:"f"`
	F32    float32           `json:"f32"`
	P      *int              `json:"p"`
	Items  []inner           `json:"items"`
	Pair   [2]int            `json:"pair"`
	Tags   map[string]string `json:"tags"`
	Any    any               `json:"any"`
	Bytes  []byte            `json:"bytes"`
	At     time.Time         `json:"at,omitzero"`
	Raw    json.RawMessage   `json:"raw,omitempty"`
	Num    json.Number       `json:"num,omitempty"`
	Value  Value             `json:"value"`
	Self   *everything       `json:"self,omitempty"`
	Skip   int               `json:"-"`
	hidden int
	Plain  string
}

func TestStructs(t *testing.T) {
	var got everything
	r := openTest(t, Stateless("f", func(_ context.Context, e Event[everything], out *Output[everything]) error {
		got = e.Value
		out.Emit(e.Key, e.Value)
		return nil
	}))
	const row = `{"userid":9007199254740993,"region":"eu","b":true,"i8":-128,"u64":18446744073709551615,"f":1e3,"f32":0.1,"p":5,` +
		`"items":[{"sku":"a","qty":255},{"sku":"b","qty":0}],"pair":[1,2],"tags":{"x":"y"},"any":{"n":9007199254740993},"bytes":"aGk=",` +
		`"at":"2024-01-02T03:04:05Z","raw":[1, 2],"num":12345678901234567890,"value":1.50,"self":{"userid":1,"b":false,"i8":0,"u64":0,"f":0,"f32":0,"p":null,` +
		`"items":null,"pair":[0,0],"tags":null,"any":null,"bytes":null,"value":null,"Plain":""},"Plain":"<&>","unknown":[{}]}`
	said := say(t, r, nil, nil, row)
	want := `emit 0 ` + strings.NewReplacer(`,"unknown":[{}]`, ``, `"f":1e3`, `"f":1000.0`, `[1, 2]`, `[1,2]`).Replace(row)
	if said != want {
		t.Errorf("said\n%s\nwant\n%s", said, want)
	}
	if n := got.Any.(map[string]any)["n"]; n != json.Number("9007199254740993") {
		t.Errorf("an integer in an interface is the %T %v", n, n)
	}
	if got.Skip != 0 || got.hidden != 0 || *got.P != 5 || got.Region != "eu" || got.Self.UserID != 1 {
		t.Errorf("%+v", got)
	}
	// What encoding/json makes of the same row, where it is no less strict.
	var std everything
	if err := json.Unmarshal([]byte(row), &std); err != nil {
		t.Fatal(err)
	}
	std.Any, got.Any = nil, nil
	if !reflect.DeepEqual(std, got) {
		t.Errorf("encoding/json reads\n%+v, and we\n%+v", std, got)
	}
	for row, want := range map[string]string{
		`{"i8":128}`:                       `field "i8": 128 does not fit int8`,
		`{"i8":1.0}`:                       `field "i8": expected an integer, found a float, 1.0`,
		`{"i8":"1"}`:                       `field "i8": expected an integer, found a string, "1"`,
		`{"i8":true}`:                      `field "i8": expected an integer, found a boolean, true`,
		`{"i8":[1]}`:                       `field "i8": expected an integer, found an array`,
		`{"i8":1e999}`:                     `field "i8": expected an integer, found a number too large to compute with, 1e999`,
		`{"u64":-1}`:                       `field "u64": -1 does not fit uint64`,
		`{"u64":18446744073709551616}`:     `field "u64": 18446744073709551616 does not fit uint64`,
		`{"b":1}`:                          `field "b": expected a boolean, found an integer, 1`,
		`{"f":1e999}`:                      `field "f": 1e999 does not fit float64`,
		`{"f":"1"}`:                        `field "f": expected a number, found a string, "1"`,
		`{"f32":1e39}`:                     `field "f32": 1e39 does not fit float32`,
		`{"Plain":1}`:                      `field "Plain": expected a string, found an integer, 1`,
		`{"p":"x"}`:                        `field "p": expected an integer, found a string, "x"`,
		`{"items":{}}`:                     `field "items": expected an array, found an object`,
		`{"items":[{},{"qty":256}]}`:       `field "items": element 1: field "qty": 256 does not fit uint8`,
		`{"items":[{},3]}`:                 `field "items": element 1: expected an object, found an integer, 3`,
		`{"pair":[1,2,3]}`:                 `field "pair": element 2: one too many for [2]int`,
		`{"tags":{"x":1}}`:                 `field "tags": field "x": expected a string, found an integer, 1`,
		`{"tags":[]}`:                      `field "tags": expected an object, found an array`,
		`{"self":{"self":{"userid":1.5}}}`: `field "self": field "self": field "userid": expected an integer, found a float, 1.5`,
		`{"at":"noon"}`:                    `field "at": parsing time "noon" as "2006-01-02T15:04:05Z07:00": cannot parse "noon" as "2006"`,
		`{"bytes":1}`:                      `field "bytes": found number where []uint8 was expected`,
		`{"Plain":1,"` + strings.Repeat("x", 100) + `":1}`: `field "Plain": expected a string, found an integer, 1`,
	} {
		if said := say(t, r, nil, nil, row); said != "verdict 0: decode: "+want {
			t.Errorf("%s: said\n%s\nwant\n%s", row, said, want)
		}
	}
	got = everything{}
	say(t, r, nil, nil, `{"I8":1,"PLAIN":"x","plain":"y","items":[{"SKU":"a","Qty":1}],"p":null,"b":null,"Plain":null}`)
	if got.I8 != 0 || got.Plain != "" || got.Items[0] != (inner{}) || got.P != nil {
		t.Errorf("names were matched without regard to case: %+v", got)
	}
}

func TestEventFields(t *testing.T) {
	r := openTest(t, Stateless("f", func(_ context.Context, e Event[*Row], out *Output[map[string]any]) error {
		out.Send("to."+e.Params["p"], map[string]any{
			"key": e.Key.String(), "row": e.Row, "seq": e.Meta.Sequence, "now": e.Now, "rev": e.Revision,
		})
		e.Value.Set("more", IntValue(1)) // its own
		return nil
	}), "k")
	want := `send 0 to.q {"key":"k=1","now":"1970-01-01T00:16:40Z","rev":7,"row":{"k":1},"seq":1}`
	if said := say(t, r, nil, []string{"k"}, `{"k":1}`); said != want {
		t.Errorf("said %s, want %s", said, want)
	}
}

func TestEmitAddsKey(t *testing.T) {
	rows := openTest(t, Stateless("f", func(_ context.Context, e Event[*Row], out *Output[*Row]) error {
		e.Value.Delete("a")
		out.Emit(e.Key, e.Value)
		other, err := KeyFromValues([]string{"a"}, []Value{IntValue(9)})
		if err != nil {
			return err
		}
		out.Emit(other, e.Value)
		out.Emit(e.Key, e.Row)
		return nil
	}), "a", "b")
	want := `emit 0 {"a":1,"b":2,"c":3}; emit 0 {"a":9,"b":2,"c":3}; emit 0 {"b":2,"c":3,"a":1}`
	if said := say(t, rows, nil, []string{"a", "b"}, `{"b":2,"c":3,"a":1}`); said != want {
		t.Errorf("rows: said %s, want %s", said, want)
	}
	type out struct {
		A int `json:"a,omitempty"`
		C int `json:"c"`
	}
	structs := openTest(t, Stateless("f", func(_ context.Context, e Event[out], o *Output[out]) error {
		o.Emit(e.Key, out{C: 1})
		o.Emit(e.Key, out{A: 7})
		o.Emit(Key{}, out{})
		return nil
	}), "a", "b")
	want = `emit 0 {"a":1,"b":2,"c":1}; emit 0 {"b":2,"a":7,"c":0}; emit 0 {"c":0}`
	if said := say(t, structs, nil, []string{"a", "b"}, `{"b":2,"c":3,"a":1}`); said != want {
		t.Errorf("structs: said %s, want %s", said, want)
	}
	maps := openTest(t, Stateless("f", func(_ context.Context, e Event[map[string]int], o *Output[map[string]int]) error {
		delete(e.Value, "a")
		o.Emit(e.Key, e.Value)
		return nil
	}), "a", "b")
	want = `emit 0 {"a":1,"b":2,"c":3}`
	if said := say(t, maps, nil, []string{"a", "b"}, `{"b":2,"c":3,"a":1}`); said != want {
		t.Errorf("maps: said %s, want %s", said, want)
	}
}

func TestOutputMistakes(t *testing.T) {
	type out struct {
		F float64 `json:"f"`
	}
	for name, c := range map[string]struct {
		f    Function
		want string
	}{
		"NaN": {Stateless("f", func(_ context.Context, e Event[*Row], o *Output[out]) error {
			o.Emit(e.Key, out{1})
			o.Emit(e.Key, out{math.NaN()})
			o.Emit(e.Key, out{math.Inf(1)})
			return nil
		}), `verdict 0: emit: field "f": NaN cannot stand in JSON`},
		"nil row": {Stateless("f", func(_ context.Context, e Event[*Row], o *Output[*Row]) error {
			o.Send("x", nil)
			return nil
		}), `verdict 0: send: no row`},
		"nil map": {Stateless("f", func(_ context.Context, e Event[*Row], o *Output[map[string]int]) error {
			o.Emit(e.Key, nil)
			return nil
		}), `verdict 0: emit: offset 0: expected an object, found 'n'`},
		"any": {Stateless("f", func(_ context.Context, e Event[any], o *Output[any]) error {
			o.Emit(e.Key, 5)
			return nil
		}), `verdict 0: emit: offset 0: expected an object, found '5'`},
		"jump": {Stateless("f", func(_ context.Context, e Event[any], o *Output[any]) error {
			o.Jump("")
			return nil
		}), `verdict 0: jump to a step without a name`},
		"cause": {Stateless("f", func(_ context.Context, e Event[*Row], o *Output[*Row]) error {
			o.EmitFor(1, e.Key, e.Value)
			return nil
		}), `verdict 0: panic: kis: emit: cause 1 of a call with 1 events`},
	} {
		if said := say(t, openTest(t, c.f), nil, nil, `{}`); said != c.want {
			t.Errorf("%s: said %s, want %s", name, said, c.want)
		}
	}
	var kept *Output[*Row]
	r := openTest(t, Stateless("f", func(_ context.Context, _ Event[*Row], o *Output[*Row]) error { kept = o; return nil }))
	say(t, r, nil, nil, `{}`)
	for name, use := range map[string]func(){
		"Emit": func() { kept.Emit(Key{}, NewRow()) }, "Abort": func() { kept.Abort() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s after the handler's return did not panic", name)
				}
			}()
			use()
		}()
	}
}

func TestControls(t *testing.T) {
	r := openTest(t, Stateless("f", func(_ context.Context, e Event[struct{ Do string }], out *Output[*Row]) error {
		switch e.Value.Do {
		case "abort":
			out.Abort()
		case "reuse":
			out.Reuse()
		case "force":
			out.ForceNext()
		case "jump":
			out.Abort()
			out.Jump("there")
		case "fail":
			out.Emit(e.Key, NewRow())
			out.Send("x", NewRow())
			out.Jump("there")
			return Retry(errors.New("later"))
		}
		return nil
	}))
	for do, want := range map[string]string{
		"abort": "control 1", "reuse": "control 2", "force": "control 3", "jump": "control 4 there", "fail": "verdict 1: later", "": "",
	} {
		if said := strings.TrimSpace(say(t, r, nil, nil, `{"Do":"`+do+`"}`)); said != want {
			t.Errorf("%s: said %q, want %q", do, said, want)
		}
	}
}

// states runs one story for a kind of state: it grows, is refused after a change, panics after a change, is
// written and read again, and ends as the zero value.
func states[S any](t *testing.T, name string, grow func(*S), want1, want2 string) {
	t.Run(name, func(t *testing.T) {
		handle := func(_ context.Context, s *S, e Event[struct{ Do string }], out *Output[*Row]) error {
			if e.Value.Do == "zero" {
				*s = *new(S)
				return nil
			}
			grow(s)
			switch e.Value.Do {
			case "refuse":
				return errors.New("refused")
			case "panic":
				panic("panicked")
			case "emit":
				out.Emit(e.Key, nil) // fails after the handler
			}
			return nil
		}
		r := openTest(t, Keyed("f", handle))
		state := activate(t, r, "")
		for i, step := range []struct{ do, want string }{
			{"refuse", "verdict 0: refused; state "},
			{"grow", "state " + want1},
			{"refuse", "verdict 0: refused; state " + want1},
			{"panic", "verdict 0: panic: panicked; state " + want1},
			{"emit", "verdict 0: emit: no row; state " + want1},
			{"again", ""},
			{"panic", "verdict 0: panic: panicked; state " + want1},
			{"grow", "state " + want2},
			{"again", ""},
			{"refuse", "verdict 0: refused; state " + want2},
			{"zero", "state "},
			{"panic", "verdict 0: panic: panicked; state "},
			{"grow", "state " + want1},
		} {
			if step.do == "again" {
				encoded, err := r.Encode(nil, state)
				if err != nil {
					t.Fatal(err)
				}
				state = activate(t, r, string(encoded))
				continue
			}
			if said := say(t, r, state, nil, `{"Do":"`+step.do+`"}`); said != step.want {
				t.Fatalf("step %d, %s: said %s, want %s", i, step.do, said, step.want)
			}
		}
	})
}

// counter has a form of its own, and what is not exported.
type counter struct{ n int64 }

func (c *counter) AppendState(dst []byte) ([]byte, error) {
	return strconv.AppendInt(dst, c.n, 10), nil
}
func (c *counter) ParseState(text []byte) (err error) {
	c.n, err = strconv.ParseInt(string(text), 10, 64)
	return err
}

// ownList is such a thing too, but not flat.
type ownList struct{ n []int64 }

func (l *ownList) AppendState(dst []byte) ([]byte, error) {
	text, err := json.Marshal(l.n)
	return append(dst, text...), err
}
func (l *ownList) ParseState(text []byte) (err error) { return json.Unmarshal(text, &l.n) }

func TestStates(t *testing.T) {
	states(t, "struct", func(s *testTotal) { s.Count++ }, `{"count":1,"total":0}`, `{"count":2,"total":0}`)
	states(t, "integer", func(s *int64) { *s++ }, `1`, `2`)
	states(t, "string", func(s *string) { *s += "é\n" }, `"é\n"`, `"é\né\n"`)
	states(t, "float", func(s *float64) { *s += 0.5 }, `0.5`, `1`)
	states(t, "array", func(s *[2]uint8) { s[1]++ }, `[0,1]`, `[0,2]`)
	states(t, "slice", func(s *[]int) { *s = append(*s, 1) }, `[1]`, `[1,1]`)
	states(t, "map", func(s *map[string]int) {
		if *s == nil {
			*s = make(map[string]int)
		}
		(*s)["x"]++
	}, `{"x":1}`, `{"x":2}`)
	states(t, "map by integers", func(s *map[int64]int) {
		if *s == nil {
			*s = make(map[int64]int)
		}
		(*s)[-1]++
	}, `{"-1":1}`, `{"-1":2}`)
	states(t, "pointer", func(s **testTotal) {
		if *s == nil {
			*s = new(testTotal)
		}
		(*s).Total--
	}, `{"count":0,"total":-1}`, `{"count":0,"total":-2}`)
	states(t, "deep", func(s *struct {
		Last  time.Time
		Items []inner
		Big   *big.Int
	}) {
		if s.Big == nil {
			s.Big = big.NewInt(math.MaxInt64)
			s.Last = time.Unix(0, 0).UTC()
		}
		s.Items = append(s.Items, inner{"a", 1})
		s.Big.Add(s.Big, big.NewInt(1))
		s.Last = s.Last.Add(time.Second)
	}, `{"Last":"1970-01-01T00:00:01Z","Items":[{"sku":"a","qty":1}],"Big":9223372036854775808}`,
		`{"Last":"1970-01-01T00:00:02Z","Items":[{"sku":"a","qty":1},{"sku":"a","qty":1}],"Big":9223372036854775809}`)
	states(t, "time", func(s *struct{ At time.Time }) {
		if s.At.IsZero() {
			s.At = time.Unix(0, 0).UTC()
		}
		s.At = s.At.Add(time.Second)
	}, `{"At":"1970-01-01T00:00:01Z"}`, `{"At":"1970-01-01T00:00:02Z"}`)
	states(t, "unsigned", func(s *struct{ U uint64 }) {
		if s.U == 0 {
			s.U = math.MaxInt64
		}
		s.U++
	}, `{"U":9223372036854775808}`, `{"U":9223372036854775809}`)
	states(t, "embedded", func(s *struct {
		base
		N int
	}) {
		s.UserID++
	}, `{"userid":1,"N":0}`, `{"userid":2,"N":0}`)
	states(t, "own form", func(s *counter) { s.n++ }, `1`, `2`)
	states(t, "own form, deep", func(s *ownList) { s.n = append(s.n, 1) }, `[1]`, `[1,1]`)
}

func TestStateThatCannotBeWritten(t *testing.T) {
	flat := openTest(t, Keyed("f", func(_ context.Context, s *struct{ A [1]float64 }, _ Event[*Row], _ *Output[*Row]) error {
		s.A[0] = 1 / (s.A[0] - 1)
		return nil
	}))
	state := activate(t, flat, `{"A":[1]}`)
	if said := say(t, flat, state, nil, `{}`); said != `verdict 0: state.A: +Inf cannot stand in JSON; state {"A":[1]}` {
		t.Errorf("flat: said %s", said)
	}
	deep := openTest(t, Keyed("f", func(_ context.Context, s *[]float64, _ Event[*Row], _ *Output[*Row]) error {
		(*s)[0] = math.NaN()
		return nil
	}))
	state = activate(t, deep, `[1.5]`)
	if said := say(t, deep, state, nil, `{}`); said != `verdict 0: state: json: unsupported value: NaN; state [1.5]` {
		t.Errorf("deep: said %s", said)
	}
	late := openTest(t, Keyed("f", func(_ context.Context, s *time.Time, _ Event[*Row], _ *Output[*Row]) error {
		*s = s.AddDate(9000, 0, 0)
		return nil
	}))
	state = activate(t, late, `"2000-01-01T00:00:00Z"`)
	if said := say(t, late, state, nil, `{}`); !strings.HasSuffix(said, `outside of range [0,9999]; state "2000-01-01T00:00:00Z"`) {
		t.Errorf("late: said %s", said)
	}
}

func TestActivateRefuses(t *testing.T) {
	r := openTest(t, Keyed("f", total))
	for encoded, want := range map[string]string{
		`{"count":"x"}`:         `state of step: field "count": expected an integer, found a string, "x"`,
		`{"count":1`:            `state of step: offset 10: expected ',' or '}', found the end`,
		`{"count":1,"count":2}`: `state of step: offset 11: field "count" comes twice in one object`,
		`[]`:                    `state of step: expected an object, found an array`,
	} {
		if _, err := r.Activate([]byte(encoded)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", encoded, err, want)
		}
	}
}

func keyedBy[S any]() Function {
	return Keyed("f", func(context.Context, *S, Event[*Row], *Output[*Row]) error { return nil })
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		f    Function
		want string
	}{
		{keyedBy[struct{ n int }](), `function f: state struct { n int }: field n is not exported, so JSON would leave it out`},
		{keyedBy[[]map[string]*struct{ n int }](), `function f: state []map[string]*struct { n int }: field n is not exported, so JSON would leave it out`},
		{keyedBy[struct {
			X struct {
				N int `json:"-"`
			}
		}](), "function f: state struct { X struct { N int \"json:\\\"-\\\"\" } }.X: field N is tagged \"json:\\\"-\\\"\", so JSON would leave it out"},
		{keyedBy[struct{ X any }](), `function f: state struct { X interface {} }.X: an interface does not come back from JSON as what it was`},
		{keyedBy[struct{ X map[float64]int }](), `function f: state struct { X map[float64]int }.X: a map by float64 cannot stand in JSON`},
		{keyedBy[struct{ X chan int }](), `function f: state struct { X chan int }.X: a chan cannot stand in JSON`},
		{Stateless("f", func(context.Context, Event[int], *Output[*Row]) error { return nil }),
			`function f: event int: a row is a JSON object; use a struct, a map with string keys or *kis.Row`},
		{Stateless("f", func(context.Context, Event[*Row], *Output[[]int]) error { return nil }),
			`function f: output []int: a row is a JSON object; use a struct, a map with string keys or *kis.Row`},
		{Stateless("f", func(context.Context, Event[Row], *Output[map[int]int]) error { return nil }),
			`function f: output map[int]int: a row is a JSON object; use a struct, a map with string keys or *kis.Row`},
		{Stateless("f", func(context.Context, Event[*Row], *Output[*Row]) error { return nil }, CheckParams(func(p Params) error {
			return fmt.Errorf("p is %s", p["p"])
		})), `function f: params: p is q`},
	} {
		if _, err := c.f.Open(Step{Params: Params{"p": "q"}}); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	type node struct {
		Next *node
		N    []node
	}
	if _, err := keyedBy[node]().Open(Step{}); err != nil {
		t.Errorf("a type that holds itself: %v", err)
	}
}

func TestTraits(t *testing.T) {
	for _, c := range []struct {
		f    Function
		want Traits
	}{
		{keyedBy[int](), Traits{Stateful: true}},
		{Keyed("f", total, KeepsKey()), Traits{Stateful: true, KeepsKey: true}},
		{Stateless("f", func(context.Context, Event[any], *Output[any]) error { return nil }), Traits{}},
		{Batch("f", func(context.Context, *int, []Event[any], *Output[any]) error { return nil }), Traits{Stateful: true, Batch: true}},
	} {
		if c.f.Traits() != c.want || c.f.Name() != "f" && c.f.Name() != "total" {
			t.Errorf("%s: %+v, want %+v", c.f.Name(), c.f.Traits(), c.want)
		}
	}
}

func TestBatch(t *testing.T) {
	r := openTest(t, Batch("sum", func(_ context.Context, s *[]int64, events []Event[testOrder], out *Output[testTotal]) error {
		for i, e := range events {
			*s = append(*s, e.Value.Amount)
			out.EmitFor(i, e.Key, testTotal{Count: int64(len(*s)), Total: int64(e.Meta.Sequence)})
			if e.Value.Note == "send" {
				out.SendFor(i, "x", testTotal{})
			}
			if e.Value.Note == "bad" {
				return Drop(errors.New("bad note"))
			}
		}
		return nil
	}), "userid")
	state := activate(t, r, "")
	must := []string{"userid"}
	want := `emit 0 {"userid":1,"count":1,"total":1}; emit 1 {"userid":1,"count":2,"total":2}; send 1 x {"count":0,"total":0}; state [5,6]`
	if said := say(t, r, state, must, `{"userid":1,"amount":5}`, `{"userid":1,"amount":6,"note":"send"}`); said != want {
		t.Errorf("said %s, want %s", said, want)
	}
	if said := say(t, r, state, must, `{"userid":1,"amount":7}`, `{"userid":1,"amount":8,"note":"bad"}`); said != `verdict 3: bad note; state [5,6]` {
		t.Errorf("said %s", said)
	}
	if said := say(t, r, state, must, `{"userid":1,"amount":7}`, `{"userid":1,"amount":"8"}`); said != `verdict 0: decode: field "amount": expected an integer, found a string, "8"; state [5,6]` {
		t.Errorf("said %s", said)
	}
}

func TestPanicHasStack(t *testing.T) {
	r := openTest(t, Keyed("total", total))
	c := callOf(t, `{"note":"panic"}`)
	c.State = activate(t, r, "")
	var p *PanicError
	if err := r.Handle(c); !errors.As(err, &p) || p.Value != "note" || !strings.Contains(p.Stack, "kis.total(") {
		t.Errorf("error %#v", err)
	}
}

func TestGoexit(t *testing.T) {
	r := openTest(t, Keyed("f", func(_ context.Context, s *int, _ Event[any], _ *Output[any]) error {
		*s = 5
		runtime.Goexit()
		return nil
	}))
	state := activate(t, r, "3")
	returned, done := false, make(chan bool)
	go func() {
		defer close(done)
		c := callOf(t, `{}`)
		c.State = state
		r.Handle(c)
		returned = true
	}()
	<-done
	if encoded, err := r.Encode(nil, state); returned || err != nil || string(encoded) != "3" {
		t.Errorf("returned %v, state %s, %v", returned, encoded, err)
	}
}

// quick has forms of its own for rows.
type quick struct{ user, amount int64 }

func (q *quick) DecodeRow(row *Row) error {
	v, ok := row.Get("amount")
	if !ok || v.Kind() != Int {
		return errors.New("no amount")
	}
	q.amount = v.Int()
	v, _ = row.Get("userid")
	q.user = v.Int()
	return nil
}

func (q quick) EncodeRow(b *Builder) error {
	if q.amount < 0 {
		return errors.New("below zero")
	}
	b.Add("amount", IntValue(q.amount))
	return nil
}

func quickly(_ context.Context, s *counter, e Event[quick], out *Output[quick]) error {
	s.n += e.Value.amount
	out.Emit(e.Key, quick{amount: s.n})
	return nil
}

func TestOwnForms(t *testing.T) {
	r := openTest(t, Keyed("f", quickly), "userid")
	state := activate(t, r, "4")
	for _, c := range []struct{ row, want string }{
		{`{"userid":7,"amount":5}`, `emit 0 {"amount":9,"userid":7}; state 9`},
		{`{"userid":7,"amount":-10}`, `verdict 0: emit: below zero; state 9`},
		{`{"userid":7}`, `verdict 0: decode: no amount; state 9`},
	} {
		if said := say(t, r, state, []string{"userid"}, c.row); said != c.want {
			t.Errorf("%s: said %s, want %s", c.row, said, c.want)
		}
	}
	boom := openTest(t, Stateless("f", func(context.Context, Event[panicky], *Output[any]) error { return nil }))
	if said := say(t, boom, nil, nil, `{}`); said != "verdict 0: panic: in DecodeRow" {
		t.Errorf("said %s", said)
	}
}

type panicky struct{}

func (*panicky) DecodeRow(*Row) error { panic("in DecodeRow") }

// Strings that a handler keeps must not be pieces of the message that they came in.
func TestStringsAreCopies(t *testing.T) {
	var kept []string
	r := openTest(t, Stateless("f", func(_ context.Context, e Event[struct {
		S string
		L []string
		M map[string]string
	}], _ *Output[any]) error {
		kept = append(kept, e.Value.S, e.Value.L[0])
		for k, v := range e.Value.M {
			kept = append(kept, k, v)
		}
		return nil
	}))
	text := []byte(`{"S":"aaaaaaaa","L":["bbbbbbbb"],"M":{"cccccccc":"dddddddd"}}`)
	row, err := ParseRow(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Handle(&Call{Context: context.Background(), Rows: []*Row{row}}); err != nil {
		t.Fatal(err)
	}
	clear(text)
	if got := strings.Join(kept, " "); got != "aaaaaaaa bbbbbbbb cccccccc dddddddd" {
		t.Errorf("kept %q", got)
	}
}

func BenchmarkQuick(b *testing.B) {
	r := openTest(b, Keyed("quick", quickly), "userid")
	state, _ := r.Activate(nil)
	c := callOf(b, order, "userid")
	c.State = state
	b.ReportAllocs()
	for b.Loop() {
		c.Reset()
		if err := r.Handle(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRows(b *testing.B) {
	r := openTest(b, Keyed("rows", func(_ context.Context, s *testTotal, e Event[*Row], out *Output[testTotal]) error {
		v, _ := e.Value.Get("amount")
		s.Count++
		s.Total += v.Int()
		out.Emit(e.Key, *s)
		return nil
	}), "userid")
	state, _ := r.Activate(nil)
	c := callOf(b, order, "userid")
	c.State = state
	b.ReportAllocs()
	for b.Loop() {
		c.Reset()
		if err := r.Handle(c); err != nil {
			b.Fatal(err)
		}
	}
}
