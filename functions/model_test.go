package functions

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

var countOnly = []AggregateField{{Name: "n", Call: "count()"}}

func window(w Window, fields ...EmitField) Spec {
	return windowSpec(w, []AggregateField{{Name: "n", Call: "count()"}, {Name: "sum", Call: "sum(row.v)"}}, fields...)
}

// TestFarTimes: windows of negative, huge and touching times.
func TestFarTimes(t *testing.T) {
	e := newEngine(t, windowSpec(Window{Kind: "tumbling", Size: 10 * time.Millisecond}, countOnly), nil)
	for _, at := range []int64{-20, -11, -10, -1, 0, 9, 10, 253_402_300_799_999} {
		e.send(at, `{"k":"a"}`)
	}
	e.finish()
	e.expect(`{"k":"a","start":-20,"end":-10,"n":2}`, `{"k":"a","start":-10,"end":0,"n":2}`, `{"k":"a","start":0,"end":10,"n":2}`,
		`{"k":"a","start":10,"end":20,"n":1}`, `{"k":"a","start":253402300799990,"end":253402300800000,"n":1}`)
	e = newEngine(t, windowSpec(Window{Kind: "session", Size: 10 * time.Millisecond}, countOnly), nil)
	for _, at := range []int64{-30, -20, -9, 2, 12} { // touching sessions are one, the next millisecond is another
		e.send(at, `{"k":"a"}`)
	}
	e.finish()
	e.expect(`{"k":"a","start":-30,"end":-10,"n":2}`, `{"k":"a","start":-9,"end":1,"n":1}`, `{"k":"a","start":2,"end":22,"n":2}`)
	e = newEngine(t, windowSpec(Window{Kind: "tumbling", Size: time.Second}, countOnly), nil)
	e.send(1<<53+1, `{"k":"a"}`)
	e.expect()
	if len(e.letters) != 1 || !strings.Contains(e.letters[0], "out of range") {
		t.Errorf("dead letters %v", e.letters)
	}
}

// TestResultTimes: a result has the time at which its window closes less a millisecond, so no window behind it finds it late.
func TestResultTimes(t *testing.T) {
	for kind, want := range map[string]string{"tumbling": "9 ", "sliding": "3 ", "session": "13 "} {
		e := newEngine(t, windowSpec(Window{Kind: kind, Size: 10 * time.Millisecond}, countOnly), nil)
		e.timed = true
		e.send(3, `{"k":"a"}`)
		e.finish()
		if len(e.out) != 1 || !strings.HasPrefix(e.out[0], want) {
			t.Errorf("%s: %v, want the time %s", kind, e.out, want)
		}
	}
}

func TestCountWindows(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		random := rand.New(rand.NewPCG(seed, 1))
		e := newEngine(t, window(Window{Kind: "count", Count: 3}), random)
		for i := range 7 {
			e.send(int64(100-i), fmt.Sprintf(`{"k":"a","v":%d}`, i))
		}
		e.expect(`{"k":"a","start":98,"end":101,"n":3,"sum":3}`, `{"k":"a","start":95,"end":98,"n":3,"sum":12}`)
		e = newEngine(t, window(Window{Kind: "count", Count: 3, EveryRows: 2}), random)
		for i := range 60 {
			e.send(int64(i), fmt.Sprintf(`{"k":"a","v":%d}`, i))
		}
		var want []string
		for i := 1; i < 60; i += 2 {
			n, sum := min(3, i+1), 0
			for v := i + 1 - n; v <= i; v++ {
				sum += v
			}
			want = append(want, fmt.Sprintf(`{"k":"a","start":%d,"end":%d,"n":%d,"sum":%d}`, i+1-n, i+1, n, sum))
		}
		e.expect(want...)
	}
}

func TestEarlyResults(t *testing.T) {
	fields := []EmitField{{"n", "state.n"}, {"start", "window.start"}, {"early", "window.early"}}
	e := newEngine(t, window(Window{Kind: "tumbling", Size: 10 * time.Second, Early: 5 * time.Second}, fields...), rand.New(rand.NewPCG(1, 1)))
	e.send(1000, `{"k":"a","v":1}`)
	e.wait(4999)
	e.expect()
	e.send(12000-10001, `{"k":"a","v":1}`)
	e.wait(1)
	e.expect(`{"n":2,"start":0,"early":true}`)
	e.wait(60_000) // nothing has changed
	e.expect()
	e.send(2000, `{"k":"a","v":1}`)
	e.send(11000, `{"k":"a","v":1}`) // the first window closes
	e.expect(`{"n":3,"start":0,"early":false}`)
	e.wait(5000)
	e.expect(`{"n":1,"start":10000,"early":true}`)
	e.finish()
	e.expect(`{"n":1,"start":10000,"early":false}`)

	e = newEngine(t, window(Window{Kind: "hopping", Size: 4 * time.Second, Every: 2 * time.Second, EarlyRows: 2}, fields...), rand.New(rand.NewPCG(1, 1)))
	e.send(1000, `{"k":"a","v":1}`)
	e.expect()
	e.send(1500, `{"k":"a","v":1}`)
	e.expect(`{"n":2,"start":-2000,"early":true}`, `{"n":2,"start":0,"early":true}`)
	e.finish()
	e.expect(`{"n":2,"start":-2000,"early":false}`, `{"n":2,"start":0,"early":false}`)
}

func TestUpdates(t *testing.T) {
	e := newEngine(t, window(Window{Kind: "tumbling", Size: 10 * time.Second, Late: "update", Keep: 20 * time.Second}), rand.New(rand.NewPCG(2, 1)))
	e.send(1000, `{"k":"a","v":1}`)
	e.send(15_000, `{"k":"b","v":1}`)
	e.expect(`{"k":"a","start":0,"end":10000,"n":1,"sum":1}`)
	e.send(2000, `{"k":"a","v":5}`)
	e.expect(`{"k":"a","start":0,"end":10000,"n":2,"sum":6}`)
	e.send(29_999, `{"k":"b","v":1}`)
	e.expect(`{"k":"b","start":10000,"end":20000,"n":1,"sum":1}`)
	e.send(3000, `{"k":"c","v":7}`) // the window was closed, and never there for this key
	e.expect(`{"k":"c","start":0,"end":10000,"n":1,"sum":7}`)
	e.send(30_000, `{"k":"b","v":1}`)
	e.expect(`{"k":"b","start":20000,"end":30000,"n":1,"sum":1}`)
	e.send(4000, `{"k":"a","v":5}`)
	e.expect()
	if len(e.letters) != 1 || !strings.Contains(e.letters[0], "is late") {
		t.Errorf("dead letters %v", e.letters)
	}
	e.finish()
	if len(e.encoded) > 0 {
		t.Errorf("states are left: %s", e.encoded)
	}
	// A late row that makes one of two sessions, of which one is closed.
	e = newEngine(t, window(Window{Kind: "session", Size: 5 * time.Second, Late: "update", Keep: 60 * time.Second}), rand.New(rand.NewPCG(2, 2)))
	e.send(1000, `{"k":"a","v":1}`)
	e.send(10_000, `{"k":"a","v":2}`)
	e.expect(`{"k":"a","start":1000,"end":6000,"n":1,"sum":1}`)
	e.send(5_500, `{"k":"a","v":4}`)
	e.expect() // one session now, and open
	e.send(40_000, `{"k":"b","v":1}`)
	e.expect(`{"k":"a","start":1000,"end":15000,"n":3,"sum":7}`)
	e.send(2000, `{"k":"a","v":8}`)
	e.expect(`{"k":"a","start":1000,"end":15000,"n":4,"sum":15}`)
	e.finish()
	if len(e.encoded) > 0 || len(e.letters) > 0 {
		t.Errorf("states %s, dead letters %v", e.encoded, e.letters)
	}
}

func TestLatePolicies(t *testing.T) {
	for late, want := range map[string]string{"": "1 0 []", "dead_letter": "1 0 []", "drop": "0 1 []", "subject": `0 0 [late.a {"k":"a","v":2}]`} {
		e := newEngine(t, window(Window{Kind: "tumbling", Size: time.Second, Late: late, LateSubject: "late.{k}"}), nil)
		e.send(1500, `{"k":"a","v":1}`)
		e.send(999, `{"k":"a","v":2}`)
		if got := fmt.Sprint(len(e.letters), e.dropped, e.sent); got != want {
			t.Errorf("late %q: %s, want %s", late, got, want)
		}
	}
}

// TestProcessingTime: windows by the time of the commits.
func TestProcessingTime(t *testing.T) {
	e := newEngine(t, window(Window{Kind: "tumbling", Size: 10 * time.Second, Processing: true}), rand.New(rand.NewPCG(3, 1)))
	e.send(5, `{"k":"a","v":1}`)
	e.wait(9999)
	e.send(1, `{"k":"a","v":2}`)
	e.expect()
	e.wait(1)
	e.expect(`{"k":"a","start":1000000,"end":1010000,"n":2,"sum":3}`)
	e.send(1, `{"k":"a","v":2}`)
	e.finish()
	e.expect(`{"k":"a","start":1010000,"end":1020000,"n":1,"sum":2}`)
}

// TestFailedResult: a result that cannot be computed is a dead letter of its own; the other windows go on.
func TestFailedResult(t *testing.T) {
	e := newEngine(t, window(Window{Kind: "tumbling", Size: time.Second}, EmitField{"x", "10 / state.sum"}), rand.New(rand.NewPCG(4, 1)))
	e.send(100, `{"k":"a","v":0}`)
	e.send(1100, `{"k":"a","v":5}`)
	e.finish()
	e.expect(`{"x":2}`)
	if len(e.letters) != 1 || e.letters[0] != "the window from 1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.000Z: calculate.emit.x, column 4: 10 / 0: division by zero" {
		t.Errorf("dead letters %q", e.letters)
	}
	if len(e.encoded) > 0 {
		t.Errorf("states are left: %s", e.encoded)
	}
}

// TestBadRows: a row that cannot be gathered changes nothing, whatever part of it is wrong.
func TestBadRows(t *testing.T) {
	for _, w := range append(slices.Clone(testWindows), Window{Kind: "count", Count: 100}, Window{}) {
		aggregate := []AggregateField{{Name: "who", Call: "distinct(row.s)"}, {Name: "p", Call: "percentile(50, row.w ?? 1)"}, {Name: "top", Call: "top(2, row.v)"}, {Name: "sum", Call: "sum(row.v)"}}
		spec := windowSpec(w, aggregate)
		if w.Kind == "" {
			spec.Calculate.Window, spec.Calculate.Emit = nil, []EmitField{{"sum", "state.sum"}, {"s", "row.s + ''"}}
		}
		e := newEngine(t, spec, rand.New(rand.NewPCG(5, 1)))
		e.send(1, fmt.Sprintf(`{"k":"a","v":%d,"s":"x"}`, int64(math.MaxInt64)))
		before := string(e.encoded[keyOf(t, "a").Canonical()])
		kept := strings.Contains(before, `"rows"`) // gathered when the window closes
		for i, bad := range []string{`{"k":"a","v":1,"s":"y"}`, `{"k":"a","v":"text","s":"y"}`, `{"k":"a","s":"y"}`, `{"k":"a","v":-1,"s":[1]}`, `{"k":"a","v":-1,"s":7,"w":"x"}`} {
			if kept && (i == 0 || i == 1 || i >= 3) {
				continue
			}
			e.send(1, bad)
			if len(e.letters) != 1 {
				t.Errorf("%s: %s: dead letters %v", w.Kind, bad, e.letters)
			}
			e.letters = nil
		}
		if w.Kind == "" { // what emit cannot make of the row changes nothing either
			e.send(1, `{"k":"a","v":-1,"s":7}`)
			if len(e.letters) != 1 || !strings.Contains(e.letters[0], "calculate.emit.s") {
				t.Errorf("dead letters %v", e.letters)
			}
		}
		if after := string(e.encoded[keyOf(t, "a").Canonical()]); after != before {
			t.Errorf("%s: the state is\n%s, and was\n%s", w.Kind, after, before)
		}
	}
}

// TestRunning compares aggregates of all rows with a plain computation, after each row.
func TestRunning(t *testing.T) {
	for _, replace := range []bool{false, true} {
		for seed := range 20 {
			random := rand.New(rand.NewPCG(uint64(seed), 11))
			list := events(random, 120, 60_000, 10_000)
			spec := windowSpec(Window{}, append(slices.Clone(allAggregates), ownAggregate))
			spec.Calculate.Window = nil
			spec.Calculate.Emit = spec.Calculate.Emit[3:]
			spec.Calculate.State = []StateField{{"seen", "0", "state.seen + 1"}, {"before", "0", "state.n"}}
			spec.Calculate.Emit = append([]EmitField{{"k", "row.k"}, {"seen", "state.seen"}, {"before", "state.before"}}, spec.Calculate.Emit...)
			if replace {
				spec.Calculate.Replace = "row.id"
				spec = withoutAbout(spec)
			}
			e := newEngine(t, spec, random)
			gathered := make(map[string][]event)
			for i, row := range list {
				was := gathered[row.k]
				if replace {
					was = newest(was)
				}
				gathered[row.k] = append(gathered[row.k], row)
				now := gathered[row.k]
				if replace {
					now = newest(now)
				}
				e.out = nil
				e.send(row.at, row.text())
				want := fmt.Sprintf(`{"k":"%s","seen":%d,"before":%d,%s}`, row.k, len(gathered[row.k]), len(was), plainResult(now, true))
				if replace {
					want = cutAbout(want)
				}
				if len(e.out) != 1 || e.out[0] != want {
					t.Fatalf("seed %d, row %d, replace %v: %v\n got %s\nwant %s", seed, i, replace, e.letters, e.out, want)
				}
			}
		}
	}
}

// TestRunningRetractsSums: of integers a sum is taken back without a look at the other rows, and of floats it is added up anew.
func TestRunningFloats(t *testing.T) {
	spec := Spec{Name: "F", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "sum", Call: "sum(row.v)"}, {Name: "avg", Call: "avg(row.v)"}},
		Replace: "row.id", Emit: []EmitField{{"sum", "state.sum"}, {"avg", "state.avg"}}}}
	e := newEngine(t, spec, rand.New(rand.NewPCG(1, 1)))
	e.send(1, `{"k":"a","id":1,"v":0.1}`)
	e.send(1, `{"k":"a","id":2,"v":0.2}`)
	e.send(1, `{"k":"a","id":3,"v":1e300}`)
	e.send(1, `{"k":"a","id":3,"v":0.5}`)
	if got := e.out[3]; got != `{"sum":0.8,"avg":0.26666666666666666}` {
		t.Errorf("got %s", got)
	}
	e.send(1, `{"k":"a","id":1,"v":null}`)
	if got := e.out[4]; got != `{"sum":0.7,"avg":0.35}` {
		t.Errorf("got %s", got)
	}
}

// TestStateBounds: what a key may keep is bounded, with a clear error, and other keys go on.
func TestStateBounds(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, spec := range map[string]Spec{
		"running":  {Name: "B", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "w", Call: "distinct(row.s)"}}}},
		"replace":  {Name: "B", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "w", Call: "last(row.s)"}}, Replace: "row.s"}},
		"tumbling": windowSpec(Window{Kind: "tumbling", Size: time.Hour}, []AggregateField{{Name: "w", Call: "distinct(row.s)"}}),
		"sliding":  windowSpec(Window{Kind: "sliding", Size: time.Hour}, []AggregateField{{Name: "w", Call: "max(row.s)"}}),
	} {
		e := newEngine(t, spec, nil)
		for i := range 300 {
			e.send(1, fmt.Sprintf(`{"k":"a","s":"%d%s"}`, i, long))
		}
		if n := len(e.letters); n < 80 || n > 250 || !strings.Contains(e.letters[0], "more than 1048576 bytes") {
			t.Errorf("%s: %d dead letters of 300", name, n)
		}
		e.send(1, `{"k":"b","s":"y"}`)
		if e.encoded[keyOf(t, "b").Canonical()] == nil {
			t.Errorf("%s: another key has no state", name)
		}
	}
	// Without the engine of these tests, which writes the state at each call.
	r := newEngine(t, windowSpec(Window{Kind: "tumbling", Size: time.Millisecond}, countOnly), nil).runner
	state, err := r.Activate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxWindows + 1 {
		c := &kis.Call{Key: keyOf(t, "a"), Rows: []*kis.Row{kis.NewRow()}, Metas: []*kis.Meta{{Time: time.UnixMilli(int64(i))}}, State: state}
		if err = r.Handle(c); err != nil && i < MaxWindows {
			t.Fatal(err)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "10000 windows open") {
		t.Errorf("one window too many: %v", err)
	}
	r = newEngine(t, Spec{Name: "D", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "w", Call: "distinct(row.i)"}}}}, nil).runner
	if state, err = r.Activate(nil); err != nil {
		t.Fatal(err)
	}
	for i := range MaxDistinct + 2 {
		row := kis.NewRow(kis.Field{Name: "i", Value: kis.IntValue(int64(min(i, MaxDistinct)))})
		err = r.Handle(&kis.Call{Key: keyOf(t, "a"), Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}, State: state})
		if err != nil && i < MaxDistinct {
			t.Fatal(err)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "more than 10000 different values") {
		t.Errorf("one value too many: %v", err)
	}
}

// TestSketches: estimates are as near as they promise, also when they are merged and stored.
func TestSketches(t *testing.T) {
	for _, n := range []int{1, 100, 101, 1000, 20_000, 200_000} {
		var all, half [2]acc
		k := distinctAbout{}
		for i := range n {
			v := []kis.Value{kis.IntValue(int64(i))}
			k.commit(&all[0], v, 0)
			k.commit(&half[i%2], v, 0)
			if i%3 == 0 {
				k.commit(&half[1], v, 0)
			}
		}
		back, err := k.decode(decoded(string(k.encode(nil, &half[0]))))
		if err != nil || !k.merge(nil, nil, &back, &half[1]) {
			t.Fatal(err)
		}
		a, _ := k.result(nil, nil, &all[0], 0)
		b, _ := k.result(nil, nil, &back, 0)
		if off := math.Abs(float64(a.Int())/float64(n) - 1); off > 0.05 || n <= 100 && off > 0 || a.Int() != b.Int() {
			t.Errorf("%d values: estimated %d, merged %d", n, a.Int(), b.Int())
		}
		if len(k.encode(nil, &all[0])) > 4200 {
			t.Errorf("%d values: %d bytes", n, len(k.encode(nil, &all[0])))
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for name, make := range map[string]func() float64{"exponential": func() float64 { return random.ExpFloat64() * 100 }, "normal": func() float64 { return random.NormFloat64() * 1000 },
		"wide": func() float64 { return math.Exp(random.Float64()*40 - 20) }} {
		var parts [2]acc
		var values []float64
		for i := range 20_000 {
			x := make()
			values = append(values, x)
			percentile{}.commit(&parts[i%2], []kis.Value{kis.FloatValue(x)}, 0)
		}
		slices.Sort(values)
		back, err := percentile{}.decode(decoded(string(percentile{}.encode(nil, &parts[0]))))
		if err != nil || !(percentile{}).merge(nil, nil, &back, &parts[1]) {
			t.Fatal(err)
		}
		for _, share := range []float64{0, 0.01, 0.5, 0.9, 0.999, 1} {
			got, _ := percentile{share}.result(newFrame(nil), &site{name: "p"}, &back, 0)
			exact := values[int(math.Floor(share*float64(len(values)-1)))]
			if math.Abs(got.Float()-exact) > 0.0101*math.Abs(exact) {
				t.Errorf("%s: percentile %v is %v, exactly %v", name, share*100, got.Float(), exact)
			}
		}
	}
}

// TestAverages: the mean of integers is rounded once.
func TestAverages(t *testing.T) {
	for _, c := range []struct {
		sum, n int64
		want   float64
	}{{7, 2, 3.5}, {math.MaxInt64, 3, 3074457345618258602}, {-1, 3, -1.0 / 3}, {1<<53 + 1, 1, 1 << 53}, {math.MinInt64, 7, -1317624576693539401}} {
		if got := quotient(c.sum, c.n); got != c.want {
			t.Errorf("%d / %d is %v, want %v", c.sum, c.n, got, c.want)
		}
	}
}

// TestRates: outside of windows a rate is that of the time between the rows.
func TestRates(t *testing.T) {
	spec := Spec{Name: "R", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: []AggregateField{{Name: "r", Call: `rate("1m")`}, {Name: "b", Call: `rate(row.v, "1s")`}},
		Emit: []EmitField{{"r", "state.r"}, {"b", "state.b"}}}}
	e := newEngine(t, spec, rand.New(rand.NewPCG(1, 1)))
	e.send(0, `{"k":"a","v":10}`)
	e.send(30_000, `{"k":"a","v":20}`)
	e.send(10_000, `{"k":"a","v":null}`)
	e.expect(`{"r":null,"b":null}`, `{"r":4.0,"b":1.0}`, `{"r":6.0,"b":1.0}`)
}

// TestMigration: a state of an earlier version is made one of this version, or its rows are dead letters.
func TestMigration(t *testing.T) {
	spec := Spec{Name: "M", Mode: kis.Calculate, Must: []string{"k"}, Version: 2, Migrate: []EmitField{{"cents", "state.total * 100 + version"}, {"n", "state.count"}},
		Calculate: &Calculate{State: []StateField{{"cents", "0", "state.cents + row.v"}, {"kept", "7", "state.kept"}}, Aggregate: []AggregateField{{Name: "n", Call: "count()"}},
			Emit: []EmitField{{"cents", "state.cents"}, {"kept", "state.kept"}, {"n", "state.n"}}}}
	fn, mistakes := New(spec)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	r, err := fn.Open(kis.Step{Name: "M", Params: kis.Params{}})
	if err != nil {
		t.Fatal(err)
	}
	v, ok := r.(kis.Versioned)
	if !ok || v.Version() != 2 {
		t.Fatalf("the runner is a %T", r)
	}
	encoded, err := v.Migrate(1, []byte(`{"total":5,"kept":8,"count":3}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"total":5,"kept":8,"count":3,"cents":501,"n":3}`; string(encoded) != want {
		t.Errorf("migrated to %s, want %s", encoded, want)
	}
	state, err := v.Activate(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := v.Encode(nil, state); string(again) != `{"cents":501,"kept":8,"n":3}` || err != nil {
		t.Errorf("stored as %s, %v", again, err)
	}
	for _, bad := range []string{`{"kept":8}`, `{"total":"x","count":1}`, `no JSON`} {
		if _, err := v.Migrate(1, []byte(bad)); err == nil {
			t.Errorf("%s was migrated", bad)
		}
	}
	if encoded, err = v.Migrate(0, []byte(`{"total":1,"count":"text"}`)); err == nil {
		if _, err = v.Activate(encoded); err == nil {
			t.Error("a count that is a text was activated")
		}
	}
}

// TestModelMistakes: what is wrong with windows, aggregates, joins, tables and versions is said with its place.
func TestModelMistakes(t *testing.T) {
	must := []string{"k"}
	calc := func(c Calculate) Spec { return Spec{Name: "F", Mode: kis.Calculate, Must: must, Calculate: &c} }
	win := func(w Window) Spec {
		return calc(Calculate{Window: &w, Aggregate: countOnly, Emit: []EmitField{{"n", "state.n"}}})
	}
	agg := func(call string) Spec { return calc(Calculate{Aggregate: []AggregateField{{Name: "x", Call: call}}}) }
	joined := func(j Join) Spec {
		if j.Emit == nil {
			j.Emit = []EmitField{{"x", "left.x"}}
		}
		return Spec{Name: "F", Mode: kis.Calculate, Must: must, Join: &j}
	}
	side := JoinSide{When: "row.a"}
	cases := []struct {
		spec Spec
		want string
	}{
		{win(Window{}), "calculate.window: the window does not say which kind it is (one of tumbling, hopping, sliding, session, count)"},
		{win(Window{Kind: "tumbling"}), "calculate.window.tumbling: tumbling must be above zero (as in 10s)"},
		{win(Window{Kind: "tumbling", Size: -time.Second}), "calculate.window.tumbling: tumbling must be above zero (as in 10s)"},
		{win(Window{Kind: "tumbling", Size: 367 * 24 * time.Hour}), "calculate.window.tumbling: tumbling is 367 days; the most is 366 days"},
		{win(Window{Kind: "session", Size: 365 * 24 * time.Hour}), "calculate.window.session: session is 365 days; the most is 92 days"},
		{win(Window{Kind: "sliding", Size: 1500 * time.Microsecond}), "calculate.window.sliding: sliding must be whole milliseconds"},
		{win(Window{Kind: "hopping", Size: time.Second}), "calculate.window.every: every must be above zero (as in 10s)"},
		{win(Window{Kind: "hopping", Size: time.Second, Every: 2 * time.Second}), "calculate.window.every: every is longer than the window (between the windows rows would be lost)"},
		{win(Window{Kind: "hopping", Size: 1001 * time.Second, Every: time.Second}), "calculate.window.every: a row would be in 1001 windows; the most is 1000"},
		{win(Window{Kind: "count", Count: 0}), "calculate.window.count: a window of 0 rows; it has 1 to 100000"},
		{win(Window{Kind: "count", Count: 5, EveryRows: 6}), "calculate.window.every: every is 6 rows; it is from 1 to the window's 5"},
		{win(Window{Kind: "count", Count: 5, Late: "drop"}), "calculate.window.late: no row is late for a count window: it takes rows as they come"},
		{win(Window{Kind: "count", Count: 5, Processing: true}), "calculate.window.time: time has no meaning for a count window; it is for tumbling, hopping, session, sliding windows"},
		{win(Window{Kind: "tumbling", Size: time.Second, Every: time.Second}), "calculate.window.every: every has no meaning for a tumbling window; it is for hopping windows"},
		{win(Window{Kind: "session", Size: time.Second, Offset: 1}), "calculate.window.offset: offset has no meaning for a session window; it is for tumbling, hopping windows"},
		{win(Window{Kind: "tumbling", Size: time.Second, Offset: time.Second}), "calculate.window.offset: offset is 1s; it is less than the time between two windows, 1s"},
		{win(Window{Kind: "tumbling", Size: time.Second, Late: "update"}), "calculate.window.late: update needs keep, the time after its end for which a window may still change (as in keep: 1h)"},
		{win(Window{Kind: "tumbling", Size: time.Second, Keep: 1}), "calculate.window.keep: keep is for windows that late rows update (late: update)"},
		{win(Window{Kind: "sliding", Size: time.Second, Late: "update", Keep: time.Hour}), "calculate.window.keep: keep has no meaning for a sliding window"},
		{win(Window{Kind: "tumbling", Size: time.Second, Late: "keep"}), "calculate.window.late: unknown word \"keep\" (dead_letter, drop, update or {subject: ...})"},
		{win(Window{Kind: "tumbling", Size: time.Second, Late: "subject", LateSubject: "a..b"}), "calculate.window.late.subject: \"a..b\" is no subject to publish to: a part is empty"},
		{win(Window{Kind: "tumbling", Size: time.Second, Processing: true, Late: "drop"}), "calculate.window.late: no row is late by processing time"},
		{win(Window{Kind: "tumbling", Size: time.Second, Early: 25 * time.Hour}), "calculate.window.early: early is 25h0m0s; the most is 24h0m0s"},
		{calc(Calculate{Window: &testWindows[0], Emit: []EmitField{{"n", "1"}}}), "calculate.window: a window needs aggregate: what is gathered in it (as in aggregate: {n: count()})"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly}), "calculate.window: a window needs emit: the row of its result"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly, Emit: []EmitField{{"n", "row.x"}}}), "calculate.emit.n, column 1: row cannot be used here: the result of a window is that of many rows"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly, Emit: []EmitField{{"n", "window.begin"}}}), "calculate.emit.n, column 8: window has no begin"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly, Emit: []EmitField{{"n", "state.m"}}}), "calculate.emit.n, column 7: unknown state field m"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly, Emit: []EmitField{{"n", "state.n contains 'x'"}}}), "calculate.emit.n, column 9: contains needs a string; state.n is an integer"},
		{calc(Calculate{Window: &testWindows[6], Aggregate: countOnly, Emit: []EmitField{{"n", "1"}}, Replace: "row.id"}), "calculate.replace: replace has no meaning for a sliding window"},
		{calc(Calculate{Window: &testWindows[0], Aggregate: countOnly, Emit: []EmitField{{"n", "1"}}, State: []StateField{{"a", "0", "1"}}}), "calculate.state: a window has no state beside its aggregates"},
		{calc(Calculate{Replace: "row.id", Emit: []EmitField{{"n", "1"}}}), "calculate.replace: replace is for aggregates, and there are none"},
		{Spec{Name: "F", Mode: kis.Calculate, Calculate: &Calculate{Aggregate: countOnly}}, "calculate.aggregate: an aggregate belongs to a key, and the function has none"},
		{agg("row.price"), "calculate.aggregate.x, column 1: an aggregate is one call"},
		{agg(""), "calculate.aggregate.x: the aggregate is empty"},
		{agg("summ(row.v)"), "calculate.aggregate.x, column 1: unknown aggregate summ (did you mean sum?)"},
		{agg("  sum(row.v) + 1"), "calculate.aggregate.x, column 3: an aggregate is one call, nothing before or behind it"},
		{agg("sum()"), "calculate.aggregate.x, column 1: sum takes one argument, not 0 (sum(x))"},
		{agg("sum(row.a, row.b)"), "calculate.aggregate.x, column 1: sum takes one argument, not 2 (sum(x))"},
		{agg("sum('x')"), "calculate.aggregate.x, column 5: sum needs a number; \"x\" is a string"},
		{agg("sum(row.)"), "calculate.aggregate.x, column 9: expected name"},
		{agg("count(row.v + 1)"), "calculate.aggregate.x, column 13: count needs a boolean; row.v + 1 is a number"},
		{agg("top(row.k, row.v)"), "calculate.aggregate.x, column 9: k is an integer, written out: not row.k"},
		{agg("top(0, row.v)"), "calculate.aggregate.x, column 5: k is from 1 to 1000, not 0"},
		{agg("percentile(101, row.v)"), "calculate.aggregate.x, column 12: p is from 0 to 100 per cent, not 101"},
		{agg("rate(row.v)"), "calculate.aggregate.x, column 10: per is a string, written out: not row.v"},
		{agg("rate('soon')"), "calculate.aggregate.x, column 6: per \"soon\" is no duration"},
		{agg("collect(row.v, 5000)"), "calculate.aggregate.x, column 16: most is from 1 to 1000, not 5000"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "x", Call: "distinct_about(row.v)"}}, Replace: "row.id"}), "calculate.aggregate.x: distinct_about cannot take back a row that is replaced (distinct counts exactly, and can)"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "x", Call: "percentile(5, row.v)"}}, Replace: "row.id"}), "calculate.aggregate.x: percentile cannot take back a row that is replaced"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "x", Custom: &CustomAggregate{Init: "0", Add: "self + 1"}}}, Replace: "row.id"}), "calculate.aggregate.x: the aggregate cannot take back a row that is replaced (add remove: what self is without the row)"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "x", Custom: &CustomAggregate{Init: "row.v", Add: "self + 1"}}}}), "calculate.aggregate.x.init, column 1: row cannot be used in init: there is no row yet"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "x", Custom: &CustomAggregate{Init: "0", Add: "selff + 1"}}}}), "calculate.aggregate.x.add, column 1: unknown name selff (did you mean self?)"},
		{calc(Calculate{Aggregate: []AggregateField{{Name: "@x", Call: "count()"}}}), "calculate.aggregate.@x: a name that begins with @ is KisFlow's own"},
		{calc(Calculate{Aggregate: countOnly, State: []StateField{{"n", "0", "1"}}}), "calculate.state.n: the field is there twice, or has no name"},
		{joined(Join{}), "join: neither side says which rows are its own"},
		{joined(Join{Left: side, Type: "left"}), "join.type: without within it is never known that a row has no partner"},
		{joined(Join{Left: side, Type: "outer"}), "join.type: unknown word \"outer\""},
		{joined(Join{Left: JoinSide{When: "row.a", Keep: "first"}}), "join.left.keep: unknown word \"first\""},
		{joined(Join{Left: JoinSide{When: "row.a", Keep: "last"}, Bounded: true, Type: "full"}), "join.left.keep: a full join says which rows of the left side have no partner"},
		{joined(Join{Left: side, Bounded: true, Before: 365 * 24 * time.Hour}), "join.within: before is 365 days; the most is 92 days"},
		{joined(Join{Left: side, On: "row.x == 1"}), "join.on, column 1: row cannot be used here: a pair has two rows, left and right"},
		{joined(Join{Left: side, On: "left.x"}), ""},
		{joined(Join{Left: side, Late: "drop"}), "join.late: without within no row is late"},
		{joined(Join{Left: side, Emit: []EmitField{}}), ""},
		{Spec{Name: "F", Mode: kis.Calculate, Join: &Join{Left: side, Emit: []EmitField{{"x", "1"}}}}, "join: a join puts rows of one key together, and the function has none"},
		{Spec{Name: "F", Mode: kis.Load, Load: &Load{Table: true}}, "load.as: a table has a row for each key, and the function has none"},
		{Spec{Name: "F", Mode: kis.Load, Must: must, Load: &Load{Table: true, Set: []EmitField{{"k", "1"}}}}, "load.set.k: k is a field of the key"},
		{Spec{Name: "F", Mode: kis.Load, Must: must, Load: &Load{Table: true, Missing: "wait"}}, "load.missing: unknown word \"wait\""},
		{Spec{Name: "F", Mode: kis.Calculate, Must: must, Version: 2, Calculate: &Calculate{Emit: []EmitField{{"x", "1"}}}}, "version: only a calculate with state or aggregates, and without a window, has states of a version"},
		{Spec{Name: "F", Mode: kis.Calculate, Must: must, Migrate: []EmitField{{"n", "1"}}, Calculate: &Calculate{Aggregate: countOnly}}, "version: migrate says how states of an earlier version become those of this one"},
		{Spec{Name: "F", Mode: kis.Calculate, Must: must, Version: 2, Migrate: []EmitField{{"m", "1"}}, Calculate: &Calculate{Aggregate: countOnly}}, "migrate.m: the state has no field m"},
		{Spec{Name: "F", Mode: kis.Calculate, Must: must, Version: 2, Migrate: []EmitField{{"n", "row.x"}}, Calculate: &Calculate{Aggregate: countOnly}}, "migrate.n, column 1: row cannot be used in migrate"},
	}
	for _, c := range cases {
		_, mistakes := New(c.spec)
		var got []string
		for _, m := range mistakes {
			got = append(got, m.Error())
		}
		if c.want == "" && len(got) == 0 {
			continue
		}
		if !slices.ContainsFunc(got, func(g string) bool { return c.want != "" && strings.HasPrefix(g, c.want) }) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestModelTraits: what the engine is told of functions.
func TestModelTraits(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want kis.Traits
	}{
		{windowSpec(testWindows[0], countOnly), kis.Traits{Stateful: true, KeepsKey: true, Timed: true}},
		{windowSpec(Window{Kind: "count", Count: 3}, countOnly), kis.Traits{Stateful: true, KeepsKey: true}},
		{windowSpec(Window{Kind: "tumbling", Size: 1e9, Processing: true}, countOnly, EmitField{"n", "state.n"}), kis.Traits{Stateful: true}},
		{joinSpec(Join{}), kis.Traits{Stateful: true, KeepsKey: true}},
		{joinSpec(Join{Bounded: true, Emit: []EmitField{{"k", "right.k"}}}), kis.Traits{Stateful: true, KeepsKey: true, Timed: true}},
		{joinSpec(Join{Bounded: true, Type: "left", Emit: []EmitField{{"k", "right.k"}}}), kis.Traits{Stateful: true, Timed: true}},
		{Spec{Name: "T", Mode: kis.Load, Must: []string{"k"}, Load: &Load{Table: true}}, kis.Traits{Stateful: true, KeepsKey: true}},
		{Spec{Name: "T", Mode: kis.Load, Must: []string{"k"}}, kis.Traits{KeepsKey: true}},
	} {
		fn, mistakes := New(c.spec)
		if len(mistakes) > 0 {
			t.Fatal(mistakes)
		}
		if fn.Traits() != c.want {
			t.Errorf("%+v: %+v, want %+v", c.spec, fn.Traits(), c.want)
		}
	}
}

// TestChangedWindow: aggregates may come and go while windows are open; another window begins anew.
func TestChangedWindow(t *testing.T) {
	e := newEngine(t, windowSpec(Window{Kind: "tumbling", Size: 10 * time.Second}, []AggregateField{{Name: "n", Call: "count()"}, {Name: "v", Call: "sum(row.v)"}}), nil)
	e.send(1000, `{"k":"a","v":1}`)
	change := func(w Window, a ...AggregateField) {
		t.Helper()
		fn, mistakes := New(windowSpec(w, a))
		if len(mistakes) > 0 {
			t.Fatal(mistakes)
		}
		e.fn = fn
		clear(e.states)
		e.open()
	}
	change(Window{Kind: "tumbling", Size: 10 * time.Second}, AggregateField{Name: "n", Call: "count()"}, AggregateField{Name: "max", Call: "max(row.v)"})
	e.send(2000, `{"k":"a","v":5}`)
	change(Window{Kind: "session", Size: 10 * time.Second}, AggregateField{Name: "n", Call: "count()"})
	e.send(3000, `{"k":"a","v":5}`)
	change(Window{Kind: "session", Size: 10 * time.Second}, AggregateField{Name: "n", Call: "collect(row.v, 3)"})
	e.send(4000, `{"k":"a","v":6}`)
	e.finish()
	e.expect(`{"k":"a","start":4000,"end":14000,"n":[6]}`)
	if len(e.encoded) > 0 || len(e.letters) > 0 {
		t.Errorf("states %s, dead letters %v", e.encoded, e.letters)
	}
}

// TestUndo: a row whose emit fails after all aggregates have it leaves each of them as it was.
func TestUndo(t *testing.T) {
	fields := append(withoutAbout(windowSpec(Window{}, allAggregates)).Calculate.Aggregate, AggregateField{Name: "r", Call: `rate("1s")`})
	for _, replace := range []string{"", "row.id"} {
		if replace == "" {
			fields = append(fields, AggregateField{Name: "p", Call: "percentile(50, row.v)"}, AggregateField{Name: "about", Call: "distinct_about(row.v)"})
		} else {
			fields = fields[:len(fields)-2]
		}
		spec := Spec{Name: "U", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Aggregate: fields, Replace: replace, Emit: []EmitField{{"x", "row.bad ? 1 / (state.n - state.n) : state.sum"}}}}
		e := newEngine(t, spec, rand.New(rand.NewPCG(6, 1)))
		random := rand.New(rand.NewPCG(6, 2))
		for i := range 400 {
			bad := random.IntN(3) == 0 // the engine of these tests compares the states
			e.send(int64(random.IntN(1000)), fmt.Sprintf(`{"k":"a","id":%d,"v":%d,"s":"s%d","bad":%v}`, random.IntN(50), random.IntN(300), random.IntN(200), bad))
			if replace == "" && len(e.letters)+len(e.out) != i+1 {
				t.Fatalf("row %d is neither out nor a dead letter", i)
			}
		}
		if len(e.letters) < 80 {
			t.Errorf("%d dead letters", len(e.letters))
		}
	}
}
