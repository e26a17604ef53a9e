package actors

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/proto"
)

// Watermarks. The dealer of an input tells with every chunk the newest event time of all messages up to there, not
// only of those that the partition was dealt; less the flow's lateness that is the input's watermark. It moves between
// messages, never within one, and stands at the same place whatever the batches were.
//
// A step's watermark is the lowest of its sources: of the inputs that start there, of the step before it in the
// same partition, and of the partitions of other stages that hand rows to it, which say theirs in their envelopes
// behind the rows. It moves step by step: the timers that are due at a step fire, in the order of their times,
// before its watermark moves on, and so before that of the step behind it.

// timely is what a partition knows of event time.
type timely struct {
	setting EventTime  // the flow's, with its defaults
	at      []int64    // the watermark of each step
	reached []bool     // rows come to the step in this partition
	local   []bool     // and some from the step before it, here
	inputs  [][]int    // the inputs that start at the step in this stage
	senders [][]string // the partitions that hand rows to the step
	outs    []int      // the steps of other stages that rows go to from here
	saves   []int      // the steps whose Saves are written here

	high  []int64                     // of each input: its newest event time, or a Load's watermark
	idle  []bool                      // inputs that nobody waits for
	marks map[string]map[string]int64 // of senders by partition: what they said of the steps (a Save: of itself)
	heard map[string]time.Time        // when a Load's sender was heard of last
	peers map[string]writers          // of the stages that write Loads' hand-offs

	told     map[string]int64 // by the step and the stage of a hand-off: the watermark that its receivers know
	toldAt   time.Time
	finished bool // everything that the watermarks ask for is done
}

// writers are the partitions of a stage that write a hand-off: those of its newest layout.
type writers struct {
	count      uint32
	generation uint64
}

// timed tells whether a flow's partitions keep watermarks: some step of it looks at them, or another flow may.
func (f *Flow) timed() bool {
	for i := range f.Steps {
		s := &f.Steps[i]
		if s.Function.Traits().Timed || s.Save != "" || s.TTL > 0 && s.TTLByEvent {
			return true
		}
	}
	return false
}

// bindTime finds out how watermarks reach the steps of a revision.
func (p *Partition) bindTime(f *Flow) {
	if p.timed = f.timed(); !p.timed {
		p.time = timely{finished: true}
		return
	}
	n := len(f.Steps)
	t := timely{setting: f.Time.withDefaults(), at: make([]int64, n), reached: make([]bool, n), local: make([]bool, n), inputs: make([][]int, n), senders: make([][]string, n),
		high: make([]int64, len(f.Inputs)), idle: make([]bool, len(f.Inputs)), marks: p.time.marks, heard: p.time.heard, peers: p.time.peers,
		told: make(map[string]int64)}
	if t.marks == nil {
		t.marks, t.heard, t.peers = make(map[string]map[string]int64), make(map[string]time.Time), make(map[string]writers)
	}
	for i := range t.at {
		t.at[i] = unknown
	}
	for i := range t.high {
		t.high[i] = unknown
	}
	var stages []string
	for _, must := range f.Stages() {
		stages = append(stages, stageName(must))
	}
	here := func(stage string, i int) bool {
		return len(f.Steps[i].Must) == 0 || stageName(f.Steps[i].Must) == stage
	}
	reached := make(map[string][]bool)
	for _, s := range stages {
		reached[s] = make([]bool, n)
	}
	for i := range n {
		for _, s := range stages {
			starts := false
			for k := range f.Inputs {
				if in := &f.Inputs[k]; in.Kind != HandOff && in.Kind != Kept && in.Step == i && stageName(entryStage(f, i)) == s {
					starts = true
					if s == p.stage {
						t.inputs[i] = append(t.inputs[i], k)
					}
				}
			}
			local := i > 0 && reached[s][i-1] && here(s, i)
			reached[s][i] = here(s, i) && (starts || local)
			if s == p.stage {
				t.local[i] = local
			}
		}
		if i == 0 || len(f.Steps[i].Must) == 0 {
			continue
		}
		own := stageName(f.Steps[i].Must)
		for _, from := range stages {
			if from == own || !reached[from][i-1] {
				continue
			}
			reached[own][i] = true
			if own == p.stage {
				for number := range p.of {
					t.senders[i] = append(t.senders[i], f.partitionName(from, number))
				}
			}
			if from == p.stage {
				t.outs = append(t.outs, i)
			}
		}
	}
	copy(t.reached, reached[p.stage])
	for i := range f.Steps {
		if f.Steps[i].Save != "" && t.reached[i] {
			t.saves = append(t.saves, i)
		}
	}
	p.time = t
	p.loadTime()
}

// loadTime takes over what the store says of watermarks.
func (p *Partition) loadTime() {
	if !p.timed {
		return
	}
	t := &p.time
	for _, m := range p.meta.Watermarks {
		if i := p.stepNamed(m.Step); i >= 0 {
			t.at[i] = max(t.at[i], m.Time)
		}
	}
	for i := range p.flow.Inputs {
		pos := p.position(i)
		if pos == nil {
			continue
		}
		if pos.High != 0 {
			t.high[i] = max(t.high[i], pos.High)
		}
		for _, o := range pos.Origins {
			p.mark(o.Sender, o.Watermarks)
		}
	}
	t.finished = false
}

// senderPartition is the partition behind a sender's name.
func senderPartition(sender string) string {
	if i := strings.LastIndexByte(sender, '@'); i >= 0 {
		sender = sender[:i]
	}
	if i := strings.LastIndexByte(sender, '/'); i >= 0 {
		sender = sender[:i]
	}
	return sender
}

// mark notes what a sender has said of its watermarks.
func (p *Partition) mark(sender string, ws []*proto.Watermark) {
	if len(ws) == 0 {
		return
	}
	from := senderPartition(sender)
	m := p.time.marks[from]
	if m == nil {
		m = make(map[string]int64)
		p.time.marks[from] = m
	}
	for _, w := range ws {
		if old, ok := m[w.Step]; !ok || w.Time > old {
			m[strings.Clone(w.Step)] = w.Time
		}
	}
}

// note takes over what an input is known to have come to.
func (p *Partition) note(input int, high int64) {
	if high == endOfTime {
		p.ended = true
	}
	if p.timed && high > p.time.high[input] {
		p.time.high[input] = high
		p.time.finished = false
	}
}

// arriving is the watermark that a step's sources say, where at are those of the steps; no lower than what it is.
func (p *Partition) arriving(i int, at []int64) int64 {
	t := &p.time
	low, some := int64(endOfTime), false
	take := func(w int64) { low, some = min(low, w), true }
	if t.local[i] {
		take(at[i-1])
	}
	for _, k := range t.inputs[i] {
		if w, waits := p.inputMark(k); waits {
			take(w)
		}
	}
	for _, from := range t.senders[i] {
		w, known := t.marks[from][p.steps[i].Name]
		if !known {
			w = unknown
		}
		take(w)
	}
	if !some {
		return at[i]
	}
	return max(low, at[i])
}

// inputMark is an input's watermark, and whether it is waited for.
func (p *Partition) inputMark(k int) (w int64, waits bool) {
	t := &p.time
	in := &p.flow.Inputs[k]
	if t.idle[k] {
		return 0, false
	}
	if in.Kind != Load || t.high[k] == endOfTime {
		return behind(t.high[k], t.setting.Lateness), true
	}
	// Rows that are loaded keep their times, unless the flow has a time field of its own; and the writers of the
	// hand-off say how far they are, and when nothing comes any more.
	w, some := int64(endOfTime), false
	for _, from := range p.loadSenders(k) {
		m, known := t.marks[from][""]
		if !known {
			m = unknown
		}
		if h, ok := t.heard[from]; ok && p.ports.Clock.Now().Sub(h) > t.setting.Idle {
			continue
		}
		w, some = min(w, m), true
	}
	switch {
	case p.flow.Time.Field != "" && !(some && w == endOfTime):
		return behind(t.high[k], t.setting.Lateness), true
	case !some:
		return unknown, len(t.peers) == 0
	}
	return behind(w, t.setting.Lateness), true
}

// loadSenders are the partitions that write a Load's hand-off, as far as any of their stage was heard of.
func (p *Partition) loadSenders(k int) []string {
	var all []string
	prefix := p.flow.Inputs[k].Name + "\x00"
	for stage, of := range p.time.peers {
		if stage, ok := strings.CutPrefix(stage, prefix); ok {
			for i := range of.count {
				all = append(all, stage+"/"+numbered(int(i), of.generation))
			}
		}
	}
	return all
}

// hear takes in what an envelope says of its sender's watermarks. It comes behind the envelope's rows.
func (p *Partition) hear(input int, e *proto.Envelope) {
	if !p.timed {
		return
	}
	p.mark(e.Sender, e.Watermarks)
	p.time.finished = false
	if p.flow.Inputs[input].Kind != Load {
		return
	}
	from := senderPartition(e.Sender)
	p.time.heard[from] = p.ports.Clock.Now()
	stage, place, ok := cutLast(from, '/')
	_, generation, known := parseNumbered(place)
	if !ok || !known || e.Peers == 0 {
		return
	}
	key := p.flow.Inputs[input].Name + "\x00" + stage
	if generation < p.time.peers[key].generation {
		return
	}
	p.time.peers[key] = writers{min(e.Peers, 4096), generation}
	for n := range min(e.Peers, 4096) { // those that have never been heard of are waited for from now on
		peer := stage + "/" + numbered(int(n), generation)
		if _, ok := p.time.heard[peer]; !ok {
			p.time.heard[peer] = p.ports.Clock.Now()
		}
	}
}

// advance moves the watermarks on as far as their sources say, and fires what is due on the way. It stops, and
// says false, when the batch is full: then another batch goes on from there before it takes any more rows. Where rows of
// the batch wait at a step, the watermarks from there on move when those have passed (shift).
func (p *Partition) advance(ctx context.Context, w *work) (done bool, err error) {
	t := &p.time
	if t.finished {
		return true, nil
	}
	for i := range p.steps {
		if !t.reached[i] {
			continue
		}
		if w.piled && i >= w.firstPile() {
			return p.shift(ctx, w, i)
		}
		to := p.arriving(i, t.at)
		if to == unknown {
			continue
		}
		if done, err := p.fireDue(ctx, w, i, eventTimers, to); !done || err != nil {
			return false, err
		}
		t.at[i] = to
	}
	t.finished = true
	return true, nil
}

// shift is a place between two messages of a batch, while rows waited at steps: there the watermarks may have moved, and
// timers have their turn.
type shift struct {
	order int     // of the row before it
	at    []int64 // the watermark of each step; nil: as before
}

// pause notes a place between two messages at which no watermark has moved.
func (w *work) pause() {
	if n := len(w.shifts); n == 0 || w.shifts[n-1].order < w.order {
		w.shifts = append(w.shifts, shift{order: w.order})
	}
}

// firstPile is the first step at which rows wait for the rest of the batch.
func (w *work) firstPile() int {
	return slices.IndexFunc(w.piles, func(rows []piled) bool { return len(rows) > 0 })
}

// shift notes where the watermarks of the steps from one on have moved: the rows that wait there came before, and are
// to see them as they were. Where timers are due, those rows pass first.
func (p *Partition) shift(ctx context.Context, w *work, first int) (done bool, err error) {
	t := &p.time
	at := t.at
	for n := len(w.shifts) - 1; n >= 0; n-- {
		if w.shifts[n].at != nil {
			at = w.shifts[n].at
			break
		}
	}
	at = slices.Clone(at)
	copy(at, t.at[:first])
	moved := false
	for i := first; i < len(p.steps); i++ {
		if !t.reached[i] {
			continue
		}
		to := p.arriving(i, at)
		if to == unknown {
			continue
		}
		due := false
		if p.steps[i].keyed && p.steps[i].runner != nil {
			if _, due, err = p.timerQueue(i, eventTimers).due(to, p.ports.Store.Scan); err != nil {
				return false, err
			}
		}
		if due {
			if err := p.unpile(ctx, w); err != nil {
				return false, err
			}
			return p.advance(ctx, w)
		}
		moved = moved || to > at[i]
		at[i] = to
	}
	if moved {
		w.shifts = append(w.shifts, shift{w.order, at})
	} else {
		w.pause()
	}
	t.finished = true
	return true, nil
}

// shiftTo moves the watermarks of some steps on as far as they had come before the row of an order, and fires what the
// rows before it have made due.
func (p *Partition) shiftTo(ctx context.Context, w *work, from, to, order int) error {
	if w.shifted == nil && len(w.shifts) > 0 {
		w.shifted = make([]int, len(p.steps))
	}
	for len(w.shifts) > 0 && w.shifted[from] < len(w.shifts) {
		s := &w.shifts[w.shifted[from]]
		if s.order >= order {
			return nil
		}
		w.shifted[from]++
		if s.at == nil && p.time.finished {
			continue // no timer was set
		}
		w.order, w.shifting = s.order, true
		for i := from; i < to; i++ {
			limit := p.time.at[i]
			if s.at != nil {
				limit = max(limit, s.at[i])
			}
			if !p.time.reached[i] || limit == unknown {
				continue
			}
			if _, err := p.fireDue(ctx, w, i, eventTimers, limit); err != nil {
				return err
			}
			p.time.at[i] = limit
		}
		w.shifting = false
	}
	return nil
}

// How often partitions that hand over no rows say how far they are: to the flow's own stages, to the readers of a
// Save, and to those of a Save in a flow that itself has no use for event time. What a Save says is kept as long as
// its rows are.
const (
	markEvery     = 250 * time.Millisecond
	saveMarkEvery = time.Second
	dullMarkEvery = 10 * time.Second
)

// markPause is how often this partition does.
func (p *Partition) markPause() time.Duration {
	switch {
	case p.opt.eager:
		return 0
	case len(p.time.outs) > 0:
		return markEvery
	case p.flow.Time.Field != "" || slices.ContainsFunc(p.flow.Steps, func(s Step) bool { return s.Function.Traits().Timed }):
		return saveMarkEvery
	}
	return dullMarkEvery
}

// marksDue tells whether receivers should be told of a watermark that has moved.
func (p *Partition) marksDue(now time.Time) bool {
	if !p.timed || len(p.time.outs) == 0 && len(p.time.saves) == 0 {
		return false
	}
	if now.Sub(p.time.toldAt) >= p.markPause() || p.untold(endOfTime) {
		return p.untold(0)
	}
	return false
}

// untold tells whether some receiver does not know a watermark; with a time, one that has come to it.
func (p *Partition) untold(least int64) bool {
	t := &p.time
	for _, i := range t.outs {
		if at := t.at[i-1]; at != unknown && at > t.toldOf(p.steps[i].Name, p.steps[i].stage) && (least == 0 || at >= least) {
			return true
		}
	}
	for _, i := range t.saves {
		if at := t.at[i]; at != unknown && at > t.toldOf(p.steps[i].Name, "\x00save") && (least == 0 || at >= least) {
			return true
		}
	}
	return false
}

func (t *timely) toldOf(step, stage string) int64 {
	if at, ok := t.told[step+"\x00"+stage]; ok {
		return at
	}
	return unknown
}

// tell puts the watermarks behind the rows of the batch's envelopes, and where it is time makes envelopes for the
// receivers that get no rows.
func (p *Partition) tell(w *work) {
	if !p.timed {
		return
	}
	t := &p.time
	all := p.marksDue(w.now)
	last := make(map[*target]*envelope, len(w.envelopes))
	for _, e := range w.envelopes {
		last[e.target] = e
	}
	envelopeTo := func(to *target) *envelope {
		e := last[to]
		if e == nil && all {
			e = &envelope{target: to, message: proto.Envelope{Format: 1, Sender: p.sender(), Revision: p.flow.Revision,
				Time: w.now.UnixNano(), Control: proto.Control_WATERMARK}}
			w.envelopes = append(w.envelopes, e)
			last[to] = e
		}
		return e
	}
	for _, i := range t.outs {
		s := &p.steps[i]
		at := t.at[i-1]
		if at == unknown {
			continue
		}
		for to := range p.of {
			if e := envelopeTo(p.handOffTarget(s, to)); e != nil {
				e.message.Watermarks = append(e.message.Watermarks, &proto.Watermark{Step: s.Name, Time: at})
			}
		}
		if all {
			t.told[s.Name+"\x00"+s.stage] = at
		}
	}
	for _, i := range t.saves {
		s := &p.steps[i]
		at := t.at[i]
		if at == unknown {
			continue
		}
		if e := envelopeTo(p.saveTarget(s)); e != nil {
			e.message.Peers = uint32(p.of)
			e.message.Watermarks = append(e.message.Watermarks, &proto.Watermark{Time: at})
			t.told[s.Name+"\x00\x00save"] = at // one subject: who reads it has been told with these rows
		}
	}
	if all {
		t.toldAt = w.now
	}
}

// recordTime notes in a record the watermarks that have moved.
func (p *Partition) recordTime(r *proto.Record) {
	if !p.timed {
		return
	}
	for i, at := range p.time.at {
		if at == unknown {
			continue
		}
		name := p.steps[i].Name
		if w := findWatermark(p.meta.Watermarks, name); w == nil || w.Time < at {
			r.Watermarks = append(r.Watermarks, &proto.Watermark{Step: name, Time: at})
		}
	}
}

func findWatermark(ws []*proto.Watermark, step string) *proto.Watermark {
	for _, w := range ws {
		if w.Step == step {
			return w
		}
	}
	return nil
}

// setWatermarks takes over those of a list into another one.
func setWatermarks(into []*proto.Watermark, from []*proto.Watermark) []*proto.Watermark {
	for _, f := range from {
		if w := findWatermark(into, f.Step); w != nil {
			w.Time = max(w.Time, f.Time)
		} else {
			into = append(into, &proto.Watermark{Step: f.Step, Time: f.Time})
		}
	}
	return into
}
