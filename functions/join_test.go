package functions

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

func joinSpec(j Join) Spec {
	j.Left.When = "row.id % 2 == 0"
	if j.Emit == nil {
		j.Emit = []EmitField{{"k", "key.k"}, {"l", "left.v"}, {"r", "right.v"}}
	}
	return Spec{Name: "J", Mode: kis.Calculate, Must: []string{"k"}, Join: &j}
}

// TestJoins compares joins of all types with a plain computation.
func TestJoins(t *testing.T) {
	bounds := []struct{ before, after time.Duration }{{0, 0}, {time.Second, 10 * time.Second}, {5 * time.Second, 0}}
	for _, kind := range []string{"inner", "left", "right", "full", "ever"} {
		for _, within := range bounds {
			for _, on := range []string{"", "left.v > right.v"} {
				t.Run(fmt.Sprintf("%s/%s-%s/%s", kind, within.before, within.after, on), func(t *testing.T) {
					for seed := range 12 {
						random := rand.New(rand.NewPCG(uint64(seed), 9))
						lateness := []int64{0, 4000, 60_000}[seed%3]
						list := events(random, 1+random.IntN(150), 1+random.Int64N(60_000), lateness)
						for i := range list {
							v := int64(i)
							list[i].v = &v
						}
						j := Join{Bounded: kind != "ever", Before: within.before, After: within.after, Type: kind, On: on}
						if kind == "ever" {
							j.Type, j.Before, j.After = "", 0, 0
						}
						e := newEngine(t, joinSpec(j), random)
						e.lateness, e.timed = lateness, true
						for _, row := range list {
							e.send(row.at, row.text())
						}
						e.finish()
						if len(e.letters) > 0 || kind != "ever" && len(e.encoded) > 0 {
							t.Fatalf("seed %d: dead letters %v, states %v", seed, e.letters, e.encoded)
						}
						var want []string
						paired := make(map[int]bool)
						for _, l := range list {
							for _, r := range list {
								if l.id%2 != 0 || r.id%2 == 0 || l.k != r.k || on != "" && *l.v <= *r.v {
									continue
								}
								if kind != "ever" && (r.at < l.at-within.before.Milliseconds() || r.at > l.at+within.after.Milliseconds()) {
									continue
								}
								paired[l.seq], paired[r.seq] = true, true
								want = append(want, fmt.Sprintf(`%d {"k":"%s","l":%d,"r":%d}`, max(l.at, r.at), l.k, *l.v, *r.v))
							}
						}
						for _, row := range list {
							switch left := row.id%2 == 0; {
							case paired[row.seq] || kind == "ever":
							case left && (kind == "left" || kind == "full"):
								want = append(want, fmt.Sprintf(`%d {"k":"%s","l":%d,"r":null}`, row.at+within.after.Milliseconds(), row.k, *row.v))
							case !left && (kind == "right" || kind == "full"):
								want = append(want, fmt.Sprintf(`%d {"k":"%s","l":null,"r":%d}`, row.at+within.before.Milliseconds(), row.k, *row.v))
							}
						}
						slices.Sort(want)
						got := slices.Clone(e.out)
						slices.Sort(got)
						if !slices.Equal(got, want) {
							t.Fatalf("seed %d:\n got %s\nwant %s", seed, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
						}
					}
				})
			}
		}
	}
}

// TestJoinTable: of a side that keeps the last row, the newest by event time counts.
func TestJoinTable(t *testing.T) {
	spec := joinSpec(Join{Right: JoinSide{Keep: "last"}})
	e := newEngine(t, spec, rand.New(rand.NewPCG(1, 1)))
	e.send(100, `{"k":"a","id":2,"v":1}`)
	e.expect()
	e.send(200, `{"k":"a","id":1,"v":10}`)
	e.expect(`{"k":"a","l":1,"r":10}`)
	e.send(150, `{"k":"a","id":1,"v":11}`) // older than the one that is there
	e.expect()
	e.send(50, `{"k":"a","id":2,"v":2}`)
	e.expect(`{"k":"a","l":2,"r":10}`)
	e.send(200, `{"k":"a","id":1,"v":12}`) // by the same time the later one
	e.expect(`{"k":"a","l":2,"r":12}`, `{"k":"a","l":1,"r":12}`)
	e.send(300, `{"k":"b","id":2,"v":3}`)
	e.expect()
	if e.encoded[keyOf(t, "a").Canonical()] == nil || len(e.letters) > 0 {
		t.Errorf("states %s, dead letters %v", e.encoded, e.letters)
	}
}

func keyOf(t *testing.T, k string) kis.Key {
	t.Helper()
	key, err := kis.KeyFromValues([]string{"k"}, []kis.Value{kis.StringValue(k)})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestJoinLate: a row whose time is over is what late says.
func TestJoinLate(t *testing.T) {
	for _, late := range []string{"", "drop", "subject"} {
		e := newEngine(t, joinSpec(Join{Bounded: true, After: time.Second, Late: late, LateSubject: "late.{k}"}), nil)
		e.send(10_000, `{"k":"a","id":1,"v":1}`)
		e.send(8_998, `{"k":"a","id":2,"v":2}`) // its partners came until 9,998
		e.send(9_000, `{"k":"a","id":2,"v":3}`) // exactly one second before
		e.expect(`{"k":"a","l":3,"r":1}`)
		got := fmt.Sprint(len(e.letters), e.dropped, e.sent)
		if want := map[string]string{"": "1 0 []", "drop": "0 1 []", "subject": `0 0 [late.a {"k":"a","id":2,"v":2}]`}[late]; got != want {
			t.Errorf("late %q: %s, want %s", late, got, want)
		}
	}
}

// TestJoinNeither drops rows of neither side, and joins a row of both with itself once.
func TestJoinSides(t *testing.T) {
	spec := joinSpec(Join{Right: JoinSide{When: "row.id % 3 == 0"}})
	e := newEngine(t, spec, nil)
	e.send(1, `{"k":"a","id":6,"v":1}`)
	e.expect(`{"k":"a","l":1,"r":1}`)
	e.send(2, `{"k":"a","id":7,"v":2}`)
	e.expect()
	if e.dropped != 1 {
		t.Errorf("%d rows dropped", e.dropped)
	}
	e.send(3, `{"k":"a","id":12,"v":3}`)
	slices.Sort(e.out)
	e.expect(`{"k":"a","l":1,"r":3}`, `{"k":"a","l":3,"r":1}`, `{"k":"a","l":3,"r":3}`)
}

// TestJoinBounds: what a join keeps of one key is bounded, and a row that does not fit changes nothing.
func TestJoinBounds(t *testing.T) {
	e := newEngine(t, joinSpec(Join{Bounded: true, After: time.Hour, Emit: []EmitField{{"l", "left"}}}), nil)
	long := strings.Repeat("x", 10_000)
	for i := range 200 {
		e.send(int64(i), fmt.Sprintf(`{"k":"a","id":2,"v":"%s"}`, long))
	}
	if n := len(e.letters); n < 80 || n > 120 || !strings.Contains(e.letters[0], "more than 1048576 bytes") {
		t.Errorf("%d dead letters, the first %.100s", n, e.letters[0])
	}
	e.send(10_000_000, `{"k":"a","id":2,"v":1}`) // the others' time is over
	if n := len(e.encoded[keyOf(t, "a").Canonical()]); n > 100 {
		t.Errorf("the state has %d bytes", n)
	}
	e.finish()
	if len(e.encoded) > 0 {
		t.Errorf("states are left: %v", e.encoded)
	}
}

// TestJoinFailure: a pair that cannot be emitted is its row's dead letter, and so is a row without a partner.
func TestJoinFailure(t *testing.T) {
	e := newEngine(t, joinSpec(Join{Bounded: true, After: time.Second, Type: "left", Emit: []EmitField{{"x", "left.v / (right.v ?? 0)"}}}), rand.New(rand.NewPCG(1, 2)))
	e.send(1, `{"k":"a","id":2,"v":8}`)
	e.send(2, `{"k":"a","id":1,"v":0}`) // 8 / 0
	e.send(3, `{"k":"a","id":1,"v":2}`)
	e.expect(`{"x":4}`)
	e.send(4, `{"k":"b","id":2,"v":8}`)
	e.finish()
	if len(e.letters) != 2 || !strings.Contains(e.letters[0], "division by zero") || !strings.HasPrefix(e.letters[1], "the left row of 1970-01-01T00:00:00.004Z without a partner: join.emit.x, column 8: 8 / 0") {
		t.Errorf("dead letters %q", e.letters)
	}
	if len(e.encoded) > 0 {
		t.Errorf("states are left: %v", e.encoded)
	}
}

// TestTable: a Load as a table keeps the latest row of a key and adds its fields.
func TestTable(t *testing.T) {
	for _, c := range []struct {
		load Load
		want []string // of a row without a table row, and with one
	}{
		{Load{Table: true}, []string{`{"k":"a","v":1}`, `{"k":"a","v":1,"name":"new","tier":2}`}},
		{Load{Table: true, Missing: "drop"}, []string{"", `{"k":"a","v":1,"name":"new","tier":2}`}},
		{Load{Table: true, Missing: "dead_letter"}, []string{"", `{"k":"a","v":1,"name":"new","tier":2}`}},
		{Load{Table: true, Set: []EmitField{{"who", "table.name"}, {"v", "row.v + (table.tier ?? 0)"}}}, []string{`{"k":"a","who":null,"v":1}`, `{"k":"a","who":"new","v":3}`}},
	} {
		c.load.Set = slices.Clip(c.load.Set)
		e := newEngine(t, Spec{Name: "T", Mode: kis.Load, Must: []string{"k"}, Load: &c.load}, rand.New(rand.NewPCG(1, 3)))
		send := func(want string) {
			t.Helper()
			e.out = nil
			e.send(e.high+1, `{"k":"a","v":1}`)
			if got := strings.Join(e.out, " "); got != want {
				t.Errorf("%+v: got %s, want %s", c.load, got, want)
			}
		}
		e.high = 0
		send(c.want[0])
		e.deliver(100, `{"k":"a","v":9,"name":"new","tier":2,"other":[1]}`, true)
		e.deliver(50, `{"k":"a","v":9,"name":"old","tier":1}`, true)
		want := c.want[1]
		if c.load.Set == nil {
			want = strings.Replace(want, "}", `,"other":[1]}`, 1)
		}
		send(want)
		if wantLetters := map[string]int{"dead_letter": 1}[c.load.Missing]; len(e.letters) != wantLetters {
			t.Errorf("%+v: dead letters %v", c.load, e.letters)
		}
	}
}

// TestSortedPairs: pairs of one row come in the order of their partners' times.
func TestSortedPairs(t *testing.T) {
	e := newEngine(t, joinSpec(Join{}), nil)
	for _, at := range []int64{5, 3, 9, 1, 7} {
		e.send(at, fmt.Sprintf(`{"k":"a","id":1,"v":%d}`, at))
	}
	e.send(4, `{"k":"a","id":2,"v":0}`)
	if !slices.IsSortedFunc(e.out, cmp.Compare[string]) || len(e.out) != 5 {
		t.Errorf("got %v", e.out)
	}
}
