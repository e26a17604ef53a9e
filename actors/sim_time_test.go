package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Event time in the simulation. Some programs have windows: tumbling ones that list the ids of their rows and emit
// one row when the watermark has passed their end. An event's time is in its field "t", in ms, and behind the
// newest one by no more than the lateness; where the windows are dealt to directly some events are later than that, and
// have to be dead letters exactly where the messages before theirs say so.

const simLateness = 3 * time.Second

// timedPrograms makes programs with windows.
// No key is parked in them: its rows would come too late.
func timedPrograms(rng *rand.Rand, retry int) []*program {
	user, item := []string{"user"}, []string{"item"}
	window := func(name string, must []string) instruction {
		return instruction{name: name, kind: "window", must: must, size: int64(1+rng.IntN(4)) * 1000, keeps: true}
	}
	first := &program{name: "f1", retry: retry, timed: true, pack: rng.IntN(3) == 0}
	all := []*program{first}
	expand := instruction{name: "expand", kind: "send"}
	switch rng.IntN(5) {
	case 0:
		first.lates = true
		first.steps = []instruction{{name: "verify", kind: "check", keeps: true}, window("window", user), expand}
	case 1:
		first.steps = []instruction{{name: "users", kind: "list", must: user}, {name: "lines", kind: "split"}, window("window", item), expand}
	case 2: // windows of windows, and on to another key
		first.steps = []instruction{window("small", user), window("large", item), expand}
	case 3: // a key, another one, and the first again: each step has a watermark of its own
		first.steps = []instruction{window("one", user), {name: "items", kind: "list", must: item}, window("two", user), expand}
	default:
		first.steps = []instruction{{name: "verify", kind: "check", keeps: true}, {name: "save", kind: "save"}}
		second := &program{name: "f2", load: "rows of f1", retry: retry, timed: true}
		second.steps = []instruction{window("window", []string{"user", "item"}), expand}
		all = append(all, second)
	}
	return all
}

// windows is the state of a window step.
type windows struct {
	Open map[string][]string `json:"open"` // ids by the window's start in ms
}

func floorTo(t, size int64) int64 { return t - ((t%size)+size)%size }

// window makes a function that lists what came in a window.
func (o *outside) window(in instruction) kis.Function {
	return kis.KeyedTimers(in.kind, func(_ context.Context, s *windows, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		if done, err := o.action(in.name, e, out); done {
			return err
		}
		start := floorTo(e.Meta.Time.UnixMilli(), in.size)
		end := time.UnixMilli(start + in.size)
		if !e.Watermark.IsZero() && !end.After(e.Watermark) {
			return errors.New("too late for its window")
		}
		name := strconv.FormatInt(start, 10)
		if s.Open == nil {
			s.Open = make(map[string][]string)
		}
		s.Open[name] = append(s.Open[name], text(e.Row, "id"))
		out.SetTimer(name, kis.EventTime, end)
		return nil
	}, func(_ context.Context, s *windows, due kis.Due, out *kis.Output[*kis.Row]) error {
		ids, ok := s.Open[due.Name]
		if !ok {
			return errors.New("a timer without a window")
		}
		if due.Watermark.Before(due.At) {
			return errors.New("a timer before its time")
		}
		delete(s.Open, due.Name)
		if len(s.Open) == 0 {
			s.Open = nil
		}
		slices.Sort(ids)
		start, err := strconv.ParseInt(due.Name, 10, 64)
		if err != nil {
			return err
		}
		fields := map[string]int64{}
		for _, f := range due.Key.Fields() {
			fields[f.Name] = f.Value.Int()
		}
		row := kis.NewRow(kis.Field{Name: "id", Value: kis.StringValue(windowID(in.name, fields, start))})
		closed := closedWindow(fields, start)
		row.Set("user", kis.IntValue(closed["user"]))
		row.Set("item", kis.IntValue(closed["item"]))
		row.Set("amount", kis.IntValue(0))
		row.Set("copies", kis.IntValue(1))
		row.Set("members", kis.StringValue(strings.Join(ids, ",")))
		out.EmitAt(time.UnixMilli(start+in.size-1).UTC(), kis.Key{}, row)
		return nil
	}, kis.KeepsKey())
}

func windowID(step string, key map[string]int64, start int64) string {
	name := step
	for _, f := range []string{"user", "item"} {
		if v, ok := key[f]; ok {
			name += fmt.Sprintf("-%s%d", f, v)
		}
	}
	return fmt.Sprintf("%s@%d", name, start)
}

// closedWindow is the key of the row that a window emits: its own, and what else it has to have.
func closedWindow(key map[string]int64, start int64) map[string]int64 {
	out := map[string]int64{"user": (start / 1000) % simUsers, "item": (start / 1000) % simItems}
	for f, v := range key {
		out[f] = v
	}
	return out
}

// openWindow is a window of the model.
type openWindow struct {
	program, step int
	key           map[string]int64
	start         int64
	ids           []string
}

// window puts an event into its window, or says that it is late.
func (m *model) window(p *program, step int, e *simEvent) {
	in := &p.steps[step]
	start := floorTo(e.time, in.size)
	if e.high != 0 && start+in.size <= e.high-simLateness.Milliseconds() && p.lates {
		m.dead(p, in.name, e, "late")
		return
	}
	key := make(map[string]int64)
	for _, f := range in.must {
		key[f] = e.fields[f]
	}
	program := slices.Index(m.programs, p)
	id := fmt.Sprint(program, " ", step, " ", windowID(in.name, key, start))
	w := m.windows[id]
	if w == nil {
		w = &openWindow{program: program, step: step, key: key, start: start}
		m.windows[id] = w
	}
	w.ids = append(w.ids, e.id)
}

// close ends all windows: what they list is known now, and their rows go on.
func (m *model) close() {
	for len(m.windows) > 0 {
		var names []string
		first := -1
		for name, w := range m.windows { // the first program and step: only then are those behind it complete
			at := w.program*100 + w.step
			if first < 0 || at < first {
				first, names = at, nil
			}
			if at == first {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			w := m.windows[name]
			delete(m.windows, name)
			p := m.programs[w.program]
			in := &p.steps[w.step]
			slices.Sort(w.ids)
			e := simEvent{id: windowID(in.name, w.key, w.start), fields: closedWindow(w.key, w.start), time: w.start + in.size - 1,
				copies: 1, free: true, members: strings.Join(w.ids, ",")}
			m.walk(p, w.step+1, e)
		}
	}
}

// tellTime tells partitions how far the entries have come.
func (w *world) tellTime(n *simNode) {
	if len(n.deals) == 0 {
		return
	}
	d := n.deals[w.rng.IntN(len(n.deals))]
	f := w.flows[d.program]
	if f.Inputs[d.input].Kind == HandOff {
		return
	}
	high, ok := d.d.High()
	if !ok {
		return
	}
	w.count["told the time"]++
	stage := stageName(entryStage(f, f.Inputs[d.input].Step))
	for _, s := range n.seats {
		if s.opened && s.place.program == d.program && stageName(s.place.must) == stage && w.rng.IntN(2) == 0 {
			s.p.Offer(&Chunk{Input: d.input, Quiet: true, High: high})
		}
	}
}

// end tells all owners that the entry has ended.
func (w *world) end() {
	for _, pl := range w.places {
		f := w.flows[pl.program]
		if f.Inputs[0].Kind == Entry && stageName(pl.must) == stageName(entryStage(f, 0)) && pl.owner != nil && pl.owner.opened {
			pl.owner.p.Offer(&Chunk{Input: 0, Quiet: true, High: endOfTime})
		}
	}
}
