package functions

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

func windowSpec(w Window, aggregate []AggregateField, emit ...EmitField) Spec {
	if emit == nil {
		emit = []EmitField{{"k", "key.k"}, {"start", "window.start"}, {"end", "window.end"}}
		for _, a := range aggregate {
			emit = append(emit, EmitField{a.Name, "state." + a.Name})
		}
	}
	return Spec{Name: "W", Mode: kis.Calculate, Must: []string{"k"}, Calculate: &Calculate{Window: &w, Aggregate: aggregate, Emit: emit}}
}

// allAggregates is each aggregate that a plain model computes exactly.
var allAggregates = []AggregateField{
	{Name: "n", Call: "count()"}, {Name: "odd", Call: "count(row.v != null && row.v % 2 != 0)"}, {Name: "sum", Call: "sum(row.v)"}, {Name: "avg", Call: "avg(row.v)"},
	{Name: "min", Call: "min(row.v)"}, {Name: "max", Call: "max(row.s)"}, {Name: "first", Call: "first(row.v)"}, {Name: "last", Call: "last(row.s)"},
	{Name: "who", Call: "distinct(row.s)"}, {Name: "about", Call: "distinct_about(row.s)"}, {Name: "top", Call: "top(3, row.v, row.s)"}, {Name: "new", Call: "collect(row.v, 4)"}}

var ownAggregate = AggregateField{Name: "own", Custom: &CustomAggregate{Init: "0", Add: "self + (row.v ?? 0) * 2", Remove: "self - (row.v ?? 0) * 2", Result: "self + 1"}}

// event is a row of the tests.
type event struct {
	at  int64
	k   string
	v   *int64
	s   string
	id  int
	seq int // its place in the order of arrival
}

func (e event) text() string {
	b, err := json.Marshal(map[string]any{"k": e.k, "v": e.v, "s": e.s, "id": e.id})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// events makes rows in an order that is off by at most lateness.
func events(random *rand.Rand, n int, span, lateness int64) []event {
	list := make([]event, n)
	for i := range list {
		e := event{at: 1_767_225_600_000 + random.Int64N(span), k: string(rune('a' + random.IntN(3))), s: fmt.Sprint("s", random.IntN(20)), id: random.IntN(1 + n/2)}
		if random.IntN(10) > 0 {
			v := random.Int64N(100) - 50
			e.v = &v
		}
		list[i] = e
	}
	slices.SortStableFunc(list, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	if lateness > 0 {
		order := make(map[int]int64)
		for i := range list {
			order[i] = list[i].at + random.Int64N(lateness+1)
			list[i].seq = i
		}
		slices.SortStableFunc(list, func(a, b event) int { return cmp.Compare(order[a.seq], order[b.seq]) })
	}
	for i := range list {
		list[i].seq = i
	}
	return list
}

// plainResult is the aggregates of rows, computed plainly. It is the object's text without its first fields.
func plainResult(rows []event, own bool) string {
	byTime := slices.Clone(rows)
	slices.SortStableFunc(byTime, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	n, odd, sum, count := len(rows), 0, int64(0), int64(0)
	least, most, first, last := "null", "null", "null", "null"
	var lowest int64
	who := map[string]bool{}
	var values []string
	type ranked struct {
		v int64
		s string
	}
	var top []ranked
	total := int64(0)
	for _, e := range byTime {
		if who[e.s] = true; most == "null" || e.s > most {
			most = e.s
		}
		last = e.s
		if e.v == nil {
			continue
		}
		count++
		sum += *e.v
		total += *e.v * 2
		if *e.v%2 != 0 {
			odd++
		}
		if least == "null" || *e.v < lowest {
			least, lowest = fmt.Sprint(*e.v), *e.v
		}
		if first == "null" {
			first = fmt.Sprint(*e.v)
		}
		values = append(values, fmt.Sprint(*e.v))
		top = append(top, ranked{*e.v, e.s})
	}
	avg := "null"
	if count > 0 {
		avg = string(kis.FloatValue(float64(sum) / float64(count)).AppendJSON(nil))
	}
	slices.SortStableFunc(top, func(a, b ranked) int { return -cmp.Compare(a.v, b.v) })
	var best []string
	for _, r := range top[:min(3, len(top))] {
		best = append(best, `"`+r.s+`"`)
	}
	values = values[max(0, len(values)-4):]
	s := fmt.Sprintf(`"n":%d,"odd":%d,"sum":%d,"avg":%s,"min":%s,"max":"%s","first":%s,"last":"%s","who":%d,"about":%d,"top":[%s],"new":[%s]`,
		n, odd, sum, avg, least, most, first, last, len(who), len(who), strings.Join(best, ","), strings.Join(values, ","))
	if own {
		s += fmt.Sprintf(`,"own":%d`, total+1)
	}
	return s
}

// plainWindows assigns rows to windows plainly.
func plainWindows(w Window, rows []event) map[string]map[[2]int64][]event {
	out := make(map[string]map[[2]int64][]event)
	put := func(k string, start, end int64, e event) {
		if out[k] == nil {
			out[k] = make(map[[2]int64][]event)
		}
		out[k][[2]int64{start, end}] = append(out[k][[2]int64{start, end}], e)
	}
	size, every, offset := w.Size.Milliseconds(), w.Every.Milliseconds(), w.Offset.Milliseconds()
	switch w.Kind {
	case "tumbling":
		every = size
		fallthrough
	case "hopping":
		for _, e := range rows {
			for start := offset - 10*every; start <= e.at; {
				if start+size <= e.at {
					start += max(every, (e.at-start-size)/every*every)
					continue
				}
				put(e.k, start, start+size, e)
				start += every
			}
		}
	case "session":
		byKey := make(map[string][]event)
		for _, e := range rows {
			byKey[e.k] = append(byKey[e.k], e)
		}
		for k, list := range byKey {
			sorted := slices.Clone(list)
			slices.SortStableFunc(sorted, func(a, b event) int { return cmp.Compare(a.at, b.at) })
			for from := 0; from < len(sorted); {
				to := from + 1
				for to < len(sorted) && sorted[to].at <= sorted[to-1].at+size {
					to++
				}
				for _, e := range sorted[from:to] {
					put(k, sorted[from].at, sorted[to-1].at+size, e)
				}
				from = to
			}
		}
	case "sliding":
		for _, e := range rows {
			if out[e.k][[2]int64{e.at + 1 - size, e.at + 1}] != nil {
				continue
			}
			for _, o := range rows {
				if o.k == e.k && o.at <= e.at && o.at > e.at-size {
					put(e.k, e.at+1-size, e.at+1, o)
				}
			}
		}
	}
	return out
}

// wantWindows is what should come out, by key in the order of the windows' ends.
func wantWindows(w Window, rows []event, own, replace bool) map[string][]string {
	out := make(map[string][]string)
	for k, windows := range plainWindows(w, rows) {
		var at [][2]int64
		for b := range windows {
			at = append(at, b)
		}
		slices.SortFunc(at, func(a, b [2]int64) int { return cmp.Compare(a[1], b[1]) })
		for _, b := range at {
			list := windows[b]
			slices.SortStableFunc(list, func(a, b event) int { return cmp.Compare(a.seq, b.seq) })
			if replace {
				list = newest(list)
			}
			out[k] = append(out[k], fmt.Sprintf(`{"k":"%s","start":%d,"end":%d,%s}`, k, b[0], b[1], plainResult(list, own)))
		}
	}
	return out
}

// newest keeps of each id the newest row, in the place of its first.
func newest(list []event) []event {
	var out []event
	for _, e := range list {
		i := slices.IndexFunc(out, func(o event) bool { return o.id == e.id })
		switch {
		case i < 0:
			out = append(out, e)
		case e.at >= out[i].at:
			out[i] = e
		}
	}
	return out
}

func byKey(out []string) map[string][]string {
	m := make(map[string][]string)
	for _, s := range out {
		k := s[strings.Index(s, `"k":"`)+5:]
		k = k[:strings.IndexByte(k, '"')]
		m[k] = append(m[k], s)
	}
	return m
}

func compare(t *testing.T, got, want map[string][]string) {
	t.Helper()
	for k := range want {
		for i := range max(len(got[k]), len(want[k])) {
			g, w := "nothing", "nothing"
			if i < len(got[k]) {
				g = got[k][i]
			}
			if i < len(want[k]) {
				w = want[k][i]
			}
			if g != w {
				t.Fatalf("key %s, result %d:\n got %s\nwant %s", k, i, g, w)
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d keys, want %d", len(got), len(want))
	}
}

var testWindows = []Window{
	{Kind: "tumbling", Size: 10 * time.Second},
	{Kind: "tumbling", Size: 7 * time.Second, Offset: -3 * time.Second},
	{Kind: "hopping", Size: 10 * time.Second, Every: 2 * time.Second},
	{Kind: "hopping", Size: 10 * time.Second, Every: 3 * time.Second, Offset: time.Second},
	{Kind: "hopping", Size: 5 * time.Second, Every: 5 * time.Second},
	{Kind: "session", Size: 3 * time.Second},
	{Kind: "sliding", Size: 10 * time.Second},
}

// TestWindows compares every kind of window with a plain computation: rows out of order within the lateness, states
// forgotten between calls, windows and timers gone at the end.
func TestWindows(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for _, w := range testWindows {
		for _, own := range []bool{false, true} {
			for _, replace := range []bool{false, true} {
				if replace && w.Kind == "sliding" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s/own=%v/replace=%v", w.Kind, w.Size, w.Every, own, replace), func(t *testing.T) {
					for seed := range rounds {
						random := rand.New(rand.NewPCG(uint64(seed), 7))
						lateness := []int64{0, 1, 4000, 60_000}[seed%4]
						list := events(random, 1+random.IntN(150), 1+random.Int64N(100_000), lateness)
						spec := windowSpec(w, slices.Clone(allAggregates))
						if own {
							spec = windowSpec(w, append(slices.Clone(allAggregates), ownAggregate))
						}
						if replace {
							spec.Calculate.Replace = "row.id"
							spec = withoutAbout(spec)
						}
						e := newEngine(t, spec, random)
						e.lateness = lateness
						for _, row := range list {
							e.send(row.at, row.text())
						}
						e.finish()
						if len(e.letters) > 0 || len(e.encoded) > 0 {
							t.Fatalf("seed %d: dead letters %v, states %v", seed, e.letters, e.encoded)
						}
						want := wantWindows(w, list, own, replace)
						if replace {
							for k := range want {
								for i := range want[k] {
									want[k][i] = cutAbout(want[k][i])
								}
							}
						}
						compare(t, byKey(e.out), want)
					}
				})
			}
		}
	}
}

// TestSlidingTakesBack: a sliding window that takes rows back says what one says that gathers them anew.
func TestSlidingTakesBack(t *testing.T) {
	for seed := range 30 {
		random := rand.New(rand.NewPCG(uint64(seed), 12))
		lateness := []int64{0, 4000}[seed%2]
		list := events(random, 300, 30_000, lateness)
		fields := []AggregateField{{Name: "n", Call: "count()"}, {Name: "odd", Call: "count(row.v != null && row.v % 2 != 0)"}, {Name: "sum", Call: "sum(row.v)"}, {Name: "avg", Call: "avg(row.v)"},
			{Name: "min", Call: "min(row.v)"}, {Name: "max", Call: "max(row.s)"}, {Name: "first", Call: "first(row.v)"}, {Name: "last", Call: "last(row.s)"}}
		if seed%3 == 0 {
			fields = fields[:4] // these never fail to take a row back
		}
		w := Window{Kind: "sliding", Size: 5 * time.Second}
		taking := windowSpec(w, fields)
		anew := windowSpec(w, append(slices.Clone(fields), AggregateField{Name: "all", Call: "collect(row.v, 1)"}), taking.Calculate.Emit...)
		var out [2][]string
		for i, spec := range []Spec{taking, anew} {
			e := newEngine(t, spec, rand.New(rand.NewPCG(uint64(seed), uint64(i))))
			if r := e.runner.(*windowed); r.takes != (i == 0) {
				t.Fatalf("takes is %v", r.takes)
			}
			e.lateness = lateness
			for _, row := range list {
				e.send(row.at, row.text())
			}
			e.finish()
			out[i] = e.out
		}
		if len(out[0]) < 200 || !slices.Equal(out[0], out[1]) {
			t.Fatalf("seed %d: %d results, %d gathered anew, and they differ", seed, len(out[0]), len(out[1]))
		}
	}
}

// withoutAbout leaves the estimate out, which cannot take rows back.
func withoutAbout(s Spec) Spec {
	s.Calculate.Aggregate = slices.DeleteFunc(slices.Clone(s.Calculate.Aggregate), func(a AggregateField) bool { return a.Name == "about" })
	s.Calculate.Emit = slices.DeleteFunc(slices.Clone(s.Calculate.Emit), func(e EmitField) bool { return e.Name == "about" })
	return s
}

func cutAbout(s string) string {
	from := strings.Index(s, `"about":`)
	return s[:from] + s[from+strings.IndexByte(s[from:], ',')+1:]
}

// TestLateRows compares the windows of rows of which some are late: those are in no window, and are counted.
func TestLateRows(t *testing.T) {
	for _, w := range []Window{testWindows[0], testWindows[3], testWindows[6]} {
		for seed := range 20 {
			random := rand.New(rand.NewPCG(uint64(seed), 8))
			list := events(random, 100, 60_000, 20_000)
			e := newEngine(t, windowSpec(w, allAggregates), random)
			e.lateness = 4000
			high := int64(0)
			late := 0
			var inTime []event
			want := make(map[string][]string)
			type place struct {
				k          string
				start, end int64
			}
			rows := make(map[place][]event)
			for _, row := range list {
				high = max(high, row.at)
				one := plainWindows(w, []event{row})[row.k]
				open := false
				for b := range one {
					if b[1] > high-4000 {
						open = true
					}
				}
				if !open {
					late++
				} else {
					inTime = append(inTime, row)
				}
				for b := range one {
					if b[1] > high-4000 {
						rows[place{row.k, b[0], b[1]}] = append(rows[place{row.k, b[0], b[1]}], row)
					}
				}
				e.send(row.at, row.text())
			}
			e.finish()
			if w.Kind == "sliding" {
				want = wantWindows(w, inTime, false, false)
			} else {
				var places []place
				for p := range rows {
					places = append(places, p)
				}
				slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.end, b.end) })
				for _, p := range places {
					want[p.k] = append(want[p.k], fmt.Sprintf(`{"k":"%s","start":%d,"end":%d,%s}`, p.k, p.start, p.end, plainResult(rows[p], false)))
				}
			}
			if len(e.letters) != late {
				t.Fatalf("%s, seed %d: %d dead letters, want %d: %v", w.Kind, seed, len(e.letters), late, e.letters)
			}
			compare(t, byKey(e.out), want)
		}
	}
}
