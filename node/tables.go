package node

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// latest answers for the latest rows that flows have saved: actors.System does, and actors.Trial.
type latest interface {
	Latest(ctx context.Context, handOff string, must, keys []string, found func(key int, state []byte) error) error
}

// handOffLookup makes the function of a look-up in a hand-off.
func (pl *planner) handOffLookup(set *flowdef.Set, flow string, def *flowdef.Step, fn *flowdef.Func, handOff string) (kis.Function, error) {
	key, err := set.TableKey(handOff)
	if err != nil {
		return nil, fmt.Errorf("function %s: hand-off %s cannot be looked up: %w", fn.Name, handOff, err)
	}
	spec := specOf(set, fn)
	spec.Load.Lookup.From = &savedRows{pl, handOff, key}
	spec.Load.Lookup.Counts = pl.lookups.of(flow, def.Name)
	f, ms := functions.New(spec)
	if len(ms) > 0 {
		return nil, fmt.Errorf("function %s: %w", fn.Name, ms[0])
	}
	return f, nil
}

// savedRows finds the latest rows of a hand-off by their canonical keys.
type savedRows struct {
	pl      *planner
	handOff string
	key     []string
}

// mostSaved is how many keys are asked for at a time.
const mostSaved = 1000

// Most implements kis.Lookup.
func (s *savedRows) Most() int { return mostSaved }

// Check implements kis.Connector.
func (s *savedRows) Check(context.Context) error { return nil }

// Close implements kis.Connector.
func (s *savedRows) Close() error { return nil }

// Find implements kis.Lookup. Where several Saves write the hand-off the newest row counts.
func (s *savedRows) Find(ctx context.Context, keys []string, found []kis.Found) error {
	times := make([]int64, len(keys))
	return s.pl.latest.Latest(ctx, s.handOff, s.key, keys, func(key int, state []byte) error {
		text, t, err := functions.LatestRow(state)
		if err != nil || text == nil || found[key].Row != nil && t < times[key] {
			return err
		}
		row, err := kis.ParseRow(text)
		if err != nil {
			return err
		}
		found[key].Row, times[key] = row, t
		return nil
	})
}

// keptRow takes the state of a step apart that keeps rows.
func keptRow(state []byte) ([]byte, time.Time, error) {
	text, t, err := functions.LatestRow(state)
	return text, time.UnixMilli(t).UTC(), err
}

// beginTable says that a Load as a table begins with the rows that the hand-off's Saves keep, where they do. What a table
// has that was there before is not touched by that: the copy brings nothing that it would not have had.
func (pl *planner) beginTable(set *flowdef.Set, fn *flowdef.Func, handOff string, at starts, input string, info transport.Info) {
	s, known := at[input]
	if pl.fresh || s.Copy || !pl.copies(set, fn, handOff) {
		return
	}
	if s.Copy = true; !known {
		s.Created, s.Sequence = info.Created.UnixNano(), info.Last
	}
	at[input] = s
}

// copies tells whether a Load is a table that can begin with what all Saves of its hand-off keep.
func (pl *planner) copies(set *flowdef.Set, fn *flowdef.Func, handOff string) bool {
	saves := set.SavesOf(handOff)
	return len(saves) > 0 && !slices.ContainsFunc(saves, func(save *flowdef.Func) bool {
		return pl.functions[save.Name] != nil || !set.Keeps(save) || !fn.Copies(save)
	})
}

// kept adds the inputs by which steps that keep rows take in what they have saved before.
func (pl *planner) kept(ctx context.Context, f *actors.Flow) error {
	for i := range f.Steps {
		s := &f.Steps[i]
		if s.Save == "" || !s.Function.Traits().Stateful {
			continue
		}
		info, err := pl.streams.Info(ctx, actors.SaveStream(s.Save))
		if err != nil {
			return fmt.Errorf("step %s: hand-off %s: %w", s.Name, s.Save, err)
		}
		f.Inputs = append(f.Inputs, actors.Input{Kind: actors.Kept, Name: keptInput(info.Name, s), Stream: info.Name, Created: info.Created.UnixNano(), Step: i})
	}
	return nil
}

// keptInput is the name of such an input. It is another one when the step begins anew: then it reads anew.
func keptInput(stream string, s *actors.Step) string {
	return stream + "@" + s.Name + "#" + strconv.FormatUint(s.Begun, 10)
}

// beginKept names the inputs of steps that keep rows when it is known with which revision these began.
func beginKept(f *actors.Flow) {
	for i := range f.Inputs {
		if in := &f.Inputs[i]; in.Kind == actors.Kept {
			in.Name = keptInput(in.Stream, &f.Steps[in.Step])
		}
	}
}

// outside is what a flow takes from the definitions of others in a set, and what it has taken before.
func outside(target *flowdef.Set, def *flowdef.Flow, e *flowEntry) flowdef.Outside {
	var before flowdef.Outside
	if e != nil {
		before = e.Outside
	}
	return target.Outside(def, before)
}

// touched are the names with those of the flows that a set changes although their definitions stay: another flow asks for
// what they save, or the key of what they ask for is another one.
func (n *Node) touched(target *flowdef.Set, names []string) []string {
	for _, def := range target.Flows {
		n.mu.Lock()
		e := n.catalog.Flows[def.Name]
		n.mu.Unlock()
		if e != nil && !slices.Contains(names, def.Name) && !outside(target, def, e).Equal(e.Outside) {
			names = append(names, def.Name)
		}
	}
	slices.Sort(names)
	return names
}

// planTables says what changes at a step because of the rows that it keeps, or asks for.
func (n *Node) planTables(ctx context.Context, base, target *flowdef.Set, function string) (changes []string) {
	fn, was := target.Funcs[function], base.Funcs[function]
	if fn == nil {
		return nil
	}
	if h, ok := target.Handoff(fn); ok && target.Keeps(fn) && (was == nil || !base.Keeps(was)) {
		says := "keeps the latest row of each key from now on"
		if asker, ok := target.Asker(fn); ok {
			says += ", for flow " + asker
		}
		return []string{says + n.leftOf(ctx, h.Value)}
	}
	if h, ok := target.LookedUp(fn); ok && was != nil {
		before, errBefore := base.TableKey(h.Value)
		after, err := target.TableKey(h.Value)
		if err == nil && errBefore == nil && !slices.Equal(before, after) {
			return []string{fmt.Sprintf("hand-off %s is keyed by %s (was %s)", h.Value, strings.Join(after, ", "), strings.Join(before, ", "))}
		}
	}
	return nil
}

// leftOf says what a hand-off has of the rows that were saved before somebody keeps the latest ones.
func (n *Node) leftOf(ctx context.Context, handOff string) string {
	info, err := n.streams.Info(ctx, actors.SaveStream(handOff))
	switch {
	case err != nil || info.Last == 0:
		return ""
	case info.First > info.Last:
		return "; of the rows that were saved before, hand-off " + handOff + " has none any more"
	case info.First == 1:
		return "; it begins with all rows of hand-off " + handOff
	}
	m, err := n.at(ctx, info.Name, info.First)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("; it begins with the rows that hand-off %s still has: those since %s", handOff, m.Time.UTC().Format(time.RFC3339))
}
