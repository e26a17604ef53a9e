package actors

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
)

// passMany is a kis.Many that hands every row on: as a script does, it gets all rows of a batch at once.
type passMany struct{ calls int }

func (m *passMany) Name() string                             { return "many" }
func (m *passMany) Traits() kis.Traits                       { return kis.Traits{Many: true, KeepsKey: true} }
func (m *passMany) Open(kis.Step) (kis.Runner, error)        { return m, nil }
func (m *passMany) Activate([]byte) (any, error)             { return nil, nil }
func (m *passMany) Encode(dst []byte, _ any) ([]byte, error) { return dst, nil }
func (m *passMany) Handle(c *kis.Call) error                 { return m.HandleMany([]*kis.Call{c}) }
func (m *passMany) HandleMany(calls []*kis.Call) error {
	m.calls++
	for _, c := range calls {
		for i, r := range c.Rows {
			c.EmitFor(i, r)
		}
	}
	return nil
}

// TestRowsThatWaitInABatchSeeTheirOwnWatermark: a batch may hold rows of hours, and a function before a window may take
// all of them in one call. What is late and what a window holds does not depend on it.
func TestRowsThatWaitInABatchSeeTheirOwnWatermark(t *testing.T) {
	user := []string{"user"}
	window := func(w functions.Window) kis.Function {
		return modelFunction(t, functions.Spec{Name: "W", Must: user, Calculate: &functions.Calculate{Window: &w,
			Aggregate: []functions.AggregateField{{Name: "ids", Call: "collect(row.id, 100)"}},
			Emit:      []functions.EmitField{{Name: "user", Expr: "key.user"}, {Name: "id", Expr: `join(state.ids, "+")`}, {Name: "end", Expr: "window.end"}}}})
	}
	batch := noteFunction() // a keyed step before the others, which takes rows one by one
	many := new(passMany)
	for name, steps := range map[string][]Step{
		"many":       {{Function: many}, {Name: "w", Function: window(functions.Window{Kind: "tumbling", Size: 5 * time.Second}), Must: user}},
		"keyed many": {{Name: "n", Function: batch, Must: user}, {Function: many, Must: user}, {Name: "w", Function: window(functions.Window{Kind: "session", Size: 2 * time.Second}), Must: user}},
		"two": {{Function: many}, {Name: "w", Function: window(functions.Window{Kind: "tumbling", Size: 2 * time.Second}), Must: user}, {Name: "again", Function: many},
			{Name: "v", Function: window(functions.Window{Kind: "hopping", Size: 6 * time.Second, Every: 3 * time.Second}), Must: user}},
		"before": {{Name: "w", Function: window(functions.Window{Kind: "tumbling", Size: 2 * time.Second}), Must: user}, {Function: many},
			{Name: "v", Function: window(functions.Window{Kind: "session", Size: 3 * time.Second}), Must: user}},
		"timers": {{Function: many}, {Name: "alarm", Function: alarmFunction(), Must: user}, {Name: "w", Function: noteFunction(), Must: user, TTL: 7 * time.Second, TTLByEvent: true}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				random := rand.New(rand.NewPCG(seed, 3))
				var rows []string
				high := 0
				for i := range 120 {
					second := max(0, high-random.IntN(12))
					if random.IntN(3) == 0 {
						second = high
					}
					alarm := ""
					if name == "timers" && random.IntN(2) == 0 {
						alarm = fmt.Sprintf(`,"alarm":"a%d","at":%d`, i, second+random.IntN(9)-3)
					}
					rows = append(rows, fmt.Sprintf(`{"user":%d,"id":"%d","name":"n%d","t":%d%s}`, random.IntN(3), i, i, secondOf(second), alarm))
					high += random.IntN(3)
				}
				rows = append(rows, fmt.Sprintf(`{"user":9,"id":"end","name":"end","t":%d}`, secondOf(high+100)), fmt.Sprintf(`{"user":9,"id":"end","name":"end","t":%d}`, secondOf(high+200)))
				var said []string
				for _, most := range []int{1, 7, 1000} {
					k := newKit(t, Options{BatchRows: most}, 8<<20, kitFlow(append(slices.Clone(steps), sends(Step{Function: sendFunction()}))...))
					k.flow.Time = EventTime{Field: "t", Unit: time.Second, Lateness: 4 * time.Second, Ahead: 1000 * time.Hour}
					k.most = most
					k.mustOpen()
					calls := many.calls
					k.publish(rows...)
					k.mustRun()
					letters, _ := k.letters()
					out := k.read("OUT")
					if name != "before" {
						slices.Sort(out)
					}
					slices.Sort(letters)
					for i, l := range letters { // how far the watermark was does not matter
						letters[i], _, _ = strings.Cut(l, ", and the watermark")
					}
					if len(out) < 10 || most == 1000 && many.calls-calls > 100 {
						t.Errorf("seed %d: %d outputs, %d calls: it tests nothing", seed, len(out), many.calls-calls)
					}
					states := fmt.Sprint(k.kept())
					said = append(said, strings.Join(out, "\n")+"\n"+strings.Join(letters, "\n")+"\n"+states)
				}
				for i := range said {
					if said[i] != said[0] {
						t.Fatalf("seed %d: in batches of other sizes it came to\n%s\nin batches of one row to\n%s", seed, said[i], said[0])
					}
				}
			}
		})
	}
}
