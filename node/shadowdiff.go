package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// Bounds of one comparison.
const (
	diffCatchUp  = 8 * time.Second  // how long it waits for both to have the same events
	diffTime     = 55 * time.Second // and how long it may take at all
	diffKeys     = 1_000_000        // keys of a step
	diffDoubtful = 5_000            // keys of a step that are looked at again
	diffRows     = 40_000           // outputs of the flow, and twice as many of the shadow
	diffReading  = 15 * time.Second // for reading them
	diffText     = 300              // bytes of an example
	diffTexts    = 32 << 20         // bytes of what may become examples
)

// ShadowDiff implements api.Backend. It compares while events come in: what it tells as different has come of
// the same events on both sides, or it says that it does not know.
func (n *Node) ShadowDiff(ctx context.Context, flow string, examples int) (api.ShadowDiff, error) {
	out := api.ShadowDiff{Steps: []api.ShadowStep{}, Outputs: []api.ShadowOutput{}, Notes: []string{}}
	var err error
	if out.Shadow, err = n.Shadow(ctx, flow); err != nil {
		return out, err
	}
	e, counts, shadow := n.shadowEntry(flow), n.system.Flow(flow), n.system.Flow(shadowName(flow))
	if e == nil || counts == nil || shadow == nil || out.State == api.StateStopped {
		return out, api.Errorf(api.ErrUnavailable, "flow %s and its shadow do not both run: %s", flow, out.Reason)
	}
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	d := &shadowDiff{n: n, flow: flow, entry: e, counts: counts, shadow: shadow, examples: examples, out: &out}
	if d.origins, err = counts.Marks(ctx); err != nil {
		return out, answer(err)
	}
	if err := d.meet(ctx); err != nil { // what is there already is to be part of it
		return out, answer(err)
	}
	ends, err := d.ends(ctx)
	if err != nil {
		return out, answer(err)
	}
	if err := d.meet(ctx); err != nil {
		return out, answer(err)
	}
	if d.behind {
		out.Notes = append(out.Notes, fmt.Sprintf("the two have not met within %s; what is on its way is told as a difference of outputs", diffCatchUp))
	}
	if err := d.states(ctx); err != nil {
		return out, answer(err)
	}
	if err := d.outputs(ctx, ends); err != nil {
		return out, answer(err)
	}
	now, err := deadLetters(ctx, counts)
	if err != nil {
		return out, answer(err)
	}
	out.DeadLetters = now - min(now, e.DeadLetters)
	if out.ShadowDeadLetters, err = deadLetters(ctx, shadow); err != nil {
		return out, answer(err)
	}
	out.Shadow, err = n.Shadow(ctx, flow) // how far it is behind now
	return out, err
}

// meet waits until both have had all that the inputs hold now, for a while.
func (d *shadowDiff) meet(ctx context.Context) (err error) {
	if d.marks, err = d.counts.Newest(ctx); err != nil {
		return err
	}
	wait, stop := context.WithTimeout(ctx, diffCatchUp)
	defer stop()
	if err = errors.Join(d.counts.Await(wait, d.marks), d.shadow.Await(wait, d.marks)); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		d.behind = true
		return nil
	}
	return err
}

type shadowDiff struct {
	n              *Node
	flow           string
	entry          *shadowEntry
	counts, shadow *actors.Running
	marks          map[string]uint64 // both have had all that the inputs held up to here,
	behind         bool              // unless this is set
	origins        map[string]bool   // marks of the flow's outputs
	examples       int
	out            *api.ShadowDiff
}

// states compares the steps that keep state in both.
func (d *shadowDiff) states(ctx context.Context) error {
	now, then := d.counts.Definition(), d.shadow.Definition()
	for i := range then.Steps {
		s := &then.Steps[i]
		if !s.Function.Traits().Stateful {
			continue
		}
		old, err := now.StepOf(s.Name)
		switch {
		case err != nil || !old.Function.Traits().Stateful:
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("step %s keeps state only in the shadow", s.Name))
			continue
		case !slices.Equal(old.Must, s.Must):
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("step %s has another key in the shadow: its states are not compared", s.Name))
			continue
		}
		c, err := d.step(ctx, s.Name)
		if err != nil {
			return err
		}
		d.out.Steps = append(d.out.Steps, c)
	}
	for i := range now.Steps {
		s := &now.Steps[i]
		if t, err := then.StepOf(s.Name); s.Function.Traits().Stateful && (err != nil || !t.Function.Traits().Stateful) {
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("step %s keeps state only in the flow", s.Name))
		}
	}
	return nil
}

// statePages reads the states of a step in the store's order.
type statePages struct {
	r     *actors.Running
	step  string
	page  []actors.KeyState
	next  string
	ended bool
}

func (p *statePages) peek(ctx context.Context) (*actors.KeyState, error) {
	for len(p.page) == 0 && !p.ended {
		var err error
		if p.page, p.next, err = p.r.States(ctx, p.step, p.next, 1000, ""); err != nil {
			return nil, err
		}
		p.ended = p.next == ""
	}
	if len(p.page) == 0 {
		return nil, nil
	}
	return &p.page[0], nil
}

// step compares the states of a step: both stores have the same order of keys.
func (d *shadowDiff) step(ctx context.Context, step string) (api.ShadowStep, error) {
	c := api.ShadowStep{Step: step, Examples: []api.ShadowKey{}}
	a, b := &statePages{r: d.counts, step: step}, &statePages{r: d.shadow, step: step}
	var doubtful []kis.Key
	doubt := func(k kis.Key) {
		if c.Keys++; len(doubtful) < diffDoubtful {
			doubtful = append(doubtful, k)
			return
		}
		c.Moving++
	}
	for {
		x, err := a.peek(ctx)
		if err != nil {
			return c, err
		}
		y, err := b.peek(ctx)
		if err != nil {
			return c, err
		}
		order := 0
		switch {
		case x == nil && y == nil:
			return c, d.doubtful(ctx, &c, doubtful)
		case y == nil:
			order = -1
		case x == nil:
			order = 1
		default:
			if order = int(x.Key.Slot()) - int(y.Key.Slot()); order == 0 {
				order = strings.Compare(x.Key.Canonical(), y.Key.Canonical())
			}
		}
		switch {
		case order < 0:
			doubt(x.Key)
			a.page = a.page[1:]
		case order > 0:
			doubt(y.Key)
			b.page = b.page[1:]
		default:
			if sameJSON(x.State, y.State) {
				c.Keys++
				c.Same++
			} else {
				doubt(x.Key)
			}
			a.page, b.page = a.page[1:], b.page[1:]
		}
		if c.Keys >= diffKeys {
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("step %s: only %d keys are compared", step, diffKeys))
			return c, d.doubtful(ctx, &c, doubtful)
		}
	}
}

// doubtful looks again at keys that seem to differ: the two may just not have had the same events.
func (d *shadowDiff) doubtful(ctx context.Context, c *api.ShadowStep, keys []kis.Key) error {
	settled := ^uint64(0) // events up to here are in both, whatever input they came from
	for _, at := range d.marks {
		settled = min(settled, at)
	}
	if d.behind {
		settled = 0
	}
	for try := 0; try < 3 && len(keys) > 0; try++ {
		flow, err := d.counts.StatesOf(ctx, c.Step, keys)
		if err != nil {
			return err
		}
		shadow, err := d.shadow.StatesOf(ctx, c.Step, keys)
		if err != nil {
			return err
		}
		var moving []kis.Key
		for _, key := range keys {
			x, inFlow := flow[key.Canonical()]
			y, inShadow := shadow[key.Canonical()]
			switch {
			case inFlow == inShadow && (!inFlow || sameJSON(x.State, y.State)):
				c.Same++
				continue
			case inFlow && inShadow && (x.Sequence == y.Sequence || x.Sequence <= settled && y.Sequence <= settled):
				c.Differ++
			case !inShadow && x.Sequence <= settled:
				c.OnlyFlow++
			case !inFlow && y.Sequence <= settled:
				c.OnlyShadow++
			default:
				moving = append(moving, key)
				continue
			}
			if len(c.Examples) < d.examples {
				c.Examples = append(c.Examples, api.ShadowKey{Key: key.AppendJSON(nil), Flow: x.State, Shadow: y.State})
			}
		}
		keys = moving
	}
	c.Moving += len(keys)
	return nil
}

// sameJSON compares two JSON texts, whatever the order of their fields.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	read := func(text []byte) (v any, err error) {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		err = dec.Decode(&v)
		return v, err
	}
	x, err := read(a)
	if err != nil {
		return false
	}
	y, err := read(b)
	return err == nil && reflect.DeepEqual(x, y)
}

// sent is how often one row was sent to one target.
type sent struct {
	flow, shadow           int // in all that was read
	flowBefore, shadowThen int // of them before the two caught up
	text                   string
}

// ends is where the streams of outputs end now.
func (d *shadowDiff) ends(ctx context.Context) (map[string]uint64, error) {
	ends := make(map[string]uint64)
	for _, stream := range append(slices.Collect(maps.Keys(d.entry.Outputs)), shadowStream(d.flow)) {
		info, err := d.n.streams.Info(ctx, stream)
		if errors.Is(err, transport.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ends[stream] = info.Last
	}
	return ends, nil
}

// outputs compares what both have sent since the shadow began. What one side had sent before the two caught up, the
// other one must have sent by now.
func (d *shadowDiff) outputs(ctx context.Context, ends map[string]uint64) error {
	seed := maphash.MakeSeed()
	rows := make(map[string]map[uint64]*sent) // by target
	texts := 0
	note := func(target string, line []byte) *sent {
		of := rows[target]
		if of == nil {
			of = make(map[uint64]*sent)
			rows[target] = of
		}
		h := maphash.Bytes(seed, line)
		s := of[h]
		if s == nil {
			s = new(sent)
			if of[h] = s; texts < diffTexts {
				s.text = string(line[:min(len(line), diffText)])
				texts += len(s.text)
			}
		}
		return s
	}
	reading, stop := context.WithTimeout(ctx, diffReading)
	defer stop()
	cut := false
	for stream, from := range d.entry.Outputs {
		n, limited, err := d.read(reading, stream, from, diffRows, func(target string, line []byte, at uint64) {
			s := note(target, line)
			s.flow++
			if at <= ends[stream] {
				s.flowBefore++
			}
		})
		if err != nil {
			return d.late(ctx, reading, err)
		}
		cut = cut || limited || n > diffRows
	}
	own := shadowStream(d.flow)
	info, err := d.n.streams.Info(ctx, own)
	if err != nil {
		return err
	}
	_, limited, err := d.read(reading, own, 0, 2*diffRows, func(target string, line []byte, at uint64) {
		s := note(target, line)
		s.shadow++
		if at <= ends[own] {
			s.shadowThen++
		}
	})
	if err != nil {
		return d.late(ctx, reading, err)
	}
	if cut || limited {
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("of the outputs only the first %d since the shadow began are compared", diffRows))
	}
	lost := info.First > 1 && info.Last > 0
	if lost {
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("the shadow has sent more than the %d MiB that are kept: what only the flow sent is not known", shadowBytes>>20))
	}
	for _, target := range slices.Sorted(maps.Keys(rows)) {
		o := api.ShadowOutput{Target: target, Examples: []string{}}
		var only []string
		for _, s := range rows[target] {
			o.Flow += s.flow
			o.Shadow += s.shadow
			if missing := s.flowBefore - s.shadow; missing > 0 && !lost {
				o.OnlyFlow += missing
				only = append(only, "- "+s.text)
			}
			if extra := s.shadowThen - s.flow; extra > 0 && !cut && !limited {
				o.OnlyShadow += extra
				only = append(only, "+ "+s.text)
			}
		}
		slices.SortFunc(only, func(a, b string) int { return strings.Compare(a[2:]+a[:1], b[2:]+b[:1]) })
		o.Examples = append(o.Examples, only[:min(len(only), d.examples)]...)
		d.out.Outputs = append(d.out.Outputs, o)
	}
	return nil
}

// late notes that there was no time to read all outputs, if that is what an error is about.
func (d *shadowDiff) late(ctx, reading context.Context, err error) error {
	if reading.Err() == nil || ctx.Err() != nil {
		return err
	}
	d.out.Notes = append(d.out.Notes, fmt.Sprintf("the outputs are not compared: to read them takes longer than %s", diffReading))
	return nil
}

// read calls f for each row that the flow, or the shadow, has written to a stream behind a place, up to where the stream
// ends now, or to a number of rows.
func (d *shadowDiff) read(ctx context.Context, stream string, from uint64, most int, f func(target string, line []byte, at uint64)) (rows int, limited bool, err error) {
	info, err := d.n.streams.Info(ctx, stream)
	if errors.Is(err, transport.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil || info.Last <= from {
		return 0, false, err
	}
	opt := transport.ReadOptions{From: max(from+1, info.First), Holes: true}
	save, isSave := "", strings.HasPrefix(stream, "KISFLOW_SAVE_")
	if isSave {
		for i := range d.counts.Definition().Steps {
			if s := &d.counts.Definition().Steps[i]; s.Save != "" && actors.SaveStream(s.Save) == stream {
				save = s.Save
			}
		}
	}
	prefix := shadowSubject(d.flow)
	r, err := d.n.streams.Read(ctx, stream, opt)
	if err != nil {
		return 0, false, err
	}
	defer r.Close()
	for at := from; at < info.Last; {
		wait, stop := context.WithTimeout(ctx, 2*time.Second)
		ms, err := r.Next(wait, 1000)
		stop()
		if err != nil {
			if wait.Err() != nil && ctx.Err() == nil {
				return rows, limited, nil // what is left was removed meanwhile
			}
			return rows, limited, err
		}
		if len(ms) == 0 {
			break
		}
		for i := range ms {
			m := &ms[i]
			if at = m.Sequence; at > info.Last {
				break
			}
			if rows >= most {
				return rows, true, nil
			}
			target := m.Subject
			switch {
			case isSave:
				var e proto.Envelope
				if err := e.UnmarshalVT(m.Data); err != nil || e.Control != proto.Control_ROWS || !d.ofFlow(e.Sender) {
					continue
				}
				for _, row := range e.Rows {
					rows++
					f("handoff "+save, row, at)
				}
				continue
			case stream == shadowStream(d.flow):
				rest, ok := strings.CutPrefix(m.Subject, prefix)
				if !ok {
					continue // a fence
				}
				if target, ok = strings.CutPrefix(rest, "out."); !ok {
					token := strings.TrimPrefix(rest, "save.")
					target = "handoff " + d.saveOf(token)
				}
			case !d.origins[actors.OriginMark(*m)]:
				continue // a fence, or another's
			}
			for line := range bytes.SplitSeq(m.Data, []byte("\n")) {
				if len(line) > 0 {
					rows++
					f(target, line, at)
				}
			}
		}
	}
	return rows, limited, nil
}

// ofFlow tells whether the sender of an envelope is a partition of the flow.
func (d *shadowDiff) ofFlow(sender string) bool {
	i := strings.LastIndexByte(sender, '/')
	return i > 0 && actors.FlowOfPartition(sender[:i]) == d.flow
}

// saveOf is the hand-off of a token.
func (d *shadowDiff) saveOf(token string) string {
	for i := range d.shadow.Definition().Steps {
		if m, ok := d.shadow.Definition().Steps[i].Function.(*muted); ok && m.save != "" && actors.Token(m.save) == token {
			return m.save
		}
	}
	return token
}
