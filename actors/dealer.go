package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// Dealt is where a dealer's rows go: the partitions of one stage, or for hand-offs of all of them.
type Dealt interface {
	// Deliver hands a chunk to a partition; it waits while the partition's queue is full. A partition that
	// has stopped takes it and lets it go.
	Deliver(ctx context.Context, stage string, number int, c *Chunk) error
}

// Dealer reads one input for all partitions of a node and deals its rows out by key (P6). It does no work of
// its own: what it deals is decided by the messages alone, so reading again from an earlier place deals the
// same rows to the same partitions.
type Dealer struct {
	flow       *Flow
	input      int
	partitions int
	to         Dealt
	key        []string // of the first step with a key, if it may be taken at the entry
	stage      string

	time    EventTime // the flow's, with its defaults
	timed   bool      // the flow looks at event time
	high    int64     // the newest event time of what was dealt
	passed  atomic.Int64
	brought atomic.Int64 // when a message came last, by the clock

	parser  kis.Parser
	some    bool // some of the hands are away
	hands   []*hand
	byName  map[string]*hand // hand-offs: by receiver
	senders map[string]lastNumber
	keybuf  []byte
}

// lastNumber is the newest number that a Save's writer was seen to have sent.
type lastNumber struct {
	number uint64
	// first: nothing else of the writer was seen since the start. It may be a repeat, which a former owner's late write
	// has put behind what was cut; then the next number follows on one that this dealer has not seen.
	first bool
}

// hand is what the dealer holds for one partition.
type hand struct {
	stage  string
	number int
	chunk  *Chunk
	after  uint64 // all up to here was delivered or did not concern it
	skip   uint64 // all up to here was delivered by a dealer before
	away   bool   // the partition is on another node
}

// entryStage returns the key fields of the stage in which the rows of an input start: those of the first step
// with a key, if all steps before it keep the fields, else none.
func entryStage(f *Flow, step int) []string {
	for i := step; i < len(f.Steps); i++ {
		s := &f.Steps[i]
		if len(s.Must) > 0 {
			return s.Must
		}
		if !s.Function.Traits().KeepsKey {
			return nil
		}
	}
	return nil
}

// Stages returns the key fields of the stages that a flow needs, each once: those of its steps with a key,
// and none where the rows of an input start without one.
func (f *Flow) Stages() [][]string {
	var all [][]string
	seen := make(map[string]bool)
	add := func(must []string) {
		if n := stageName(must); !seen[n] {
			seen[n] = true
			all = append(all, must)
		}
	}
	for i := range f.Inputs {
		if f.Inputs[i].Kind != HandOff {
			add(entryStage(f, f.Inputs[i].Step))
		}
	}
	for i := range f.Steps {
		if len(f.Steps[i].Must) > 0 {
			add(f.Steps[i].Must)
		}
	}
	if len(all) == 0 {
		add(nil)
	}
	return all
}

// NewDealer makes the dealer of a flow's input.
func NewDealer(f *Flow, input, partitions int, to Dealt) *Dealer {
	in := &f.Inputs[input]
	d := &Dealer{flow: f, input: input, partitions: partitions, to: to, senders: make(map[string]lastNumber), time: f.Time.withDefaults(), timed: f.timed(), high: unknown}
	d.passed.Store(unknown)
	if in.Kind == HandOff {
		d.byName = make(map[string]*hand)
		for _, must := range f.Stages() {
			for n := range partitions {
				h := &hand{stage: stageName(must), number: n}
				d.hands = append(d.hands, h)
				d.byName[Token(h.stage)+"."+numbered(n, f.Generation)] = h
			}
		}
		return d
	}
	d.key = entryStage(f, in.Step)
	d.stage = stageName(d.key)
	for n := range partitions {
		d.hands = append(d.hands, &hand{stage: d.stage, number: n})
	}
	return d
}

// Receivers calls f for every partition that the dealer deals to.
func (d *Dealer) Receivers(f func(stage string, number int)) {
	for _, h := range d.hands {
		if !h.away {
			f(h.stage, h.number)
		}
	}
}

// Only lets the dealer deal to some partitions alone: the others are on other nodes.
func (d *Dealer) Only(here func(stage string, number int) bool) {
	d.some = false
	for _, h := range d.hands {
		h.away = !here(h.stage, h.number)
		d.some = d.some || h.away
	}
}

// filter is which subjects of its stream the dealer has to read.
func (d *Dealer) filter() []string {
	in := &d.flow.Inputs[d.input]
	if in.Kind != HandOff || !d.some {
		return in.Filter
	}
	var subjects []string
	for _, h := range d.hands {
		if !h.away {
			subjects = append(subjects, receiverSubjects(d.flow.Name, h.stage, h.number, d.flow.Generation))
		}
	}
	return subjects
}

// Skip says that a partition has been dealt all up to a place.
func (d *Dealer) Skip(stage string, number int, at uint64) {
	for _, h := range d.hands {
		if h.stage == stage && h.number == number {
			h.skip = at
		}
	}
}

// Delivered calls f for every partition with the place up to which it was dealt everything. Run has ended.
func (d *Dealer) Delivered(f func(stage string, number int, at uint64)) {
	for _, h := range d.hands {
		if !h.away {
			f(h.stage, h.number, max(h.after, h.skip))
		}
	}
}

// High is the newest event time of all messages that have been delivered; false before any is known. It may be
// called while Run runs.
func (d *Dealer) High() (int64, bool) {
	h := d.passed.Load()
	return h, h != unknown
}

// Start sets the place from which on everything is dealt: the lowest position of its receivers.
func (d *Dealer) Start(at uint64) {
	for _, h := range d.hands {
		h.after, h.chunk = at, nil
	}
}

// reading is what a dealer needs of transport.Streams.
type reading interface {
	Read(ctx context.Context, stream string, opt transport.ReadOptions) (transport.Reader, error)
}

// Run reads until ctx ends or the input is not what it was.
func (d *Dealer) Run(ctx context.Context, streams reading, from uint64) error {
	d.Start(from)
	in := &d.flow.Inputs[d.input]
	r, err := streams.Read(ctx, in.Stream, transport.ReadOptions{From: from + 1, Subjects: d.filter()})
	if err != nil {
		return fmt.Errorf("input %s: %w", in.Stream, err)
	}
	defer r.Close()
	idle := time.Now()
	var pace pacer
	for {
		if err := pace.wait(ctx); err != nil {
			return err
		}
		ms, err := r.Next(ctx, 2000)
		pace.read(len(ms))
		if len(ms) > 0 && d.timed {
			d.brought.Store(time.Now().UnixNano())
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("input %s: %w", in.Stream, err)
		}
		if err := d.Deal(ctx, ms); err != nil {
			return err
		}
		if len(ms) > 0 && time.Since(idle) > idlePosition {
			idle = time.Now()
			if err := d.Idle(ctx, ms[len(ms)-1].Sequence); err != nil {
				return err
			}
		}
	}
}

// pacer spaces out the reads of a busy input, so that a read brings many messages and every partition gets its
// share of them at once. An input that is not busy is read as its messages come.
type pacer struct {
	since    time.Time // when the stretch began that is being measured
	messages int       // read in it
	gap      time.Duration
	full     bool // the last read was of as many as one may bring
}

const (
	paceEvery   = 6 * time.Millisecond  // reads of a busy input
	paceStretch = 20 * time.Millisecond // over which it is measured how busy an input is
	paceRate    = 12                    // messages in a millisecond that make an input a busy one
	paceEnough  = 500                   // a read of so many messages needs no wait
)

func (p *pacer) read(messages int) {
	p.messages += messages
	if now := time.Now(); now.Sub(p.since) >= paceStretch {
		p.gap = 0
		if int64(p.messages)*int64(time.Millisecond) > paceRate*int64(now.Sub(p.since)) {
			p.gap = paceEvery
		}
		p.since, p.messages = now, 0
	}
	p.full = messages >= paceEnough
}

func (p *pacer) wait(ctx context.Context) error {
	if p.gap == 0 || p.full {
		return nil
	}
	return realClock{}.Sleep(ctx, p.gap)
}

// idlePosition is how often partitions without rows are told how far their input has moved.
const idlePosition = 10 * time.Second

// Idle tells the partitions that had no rows of late how far the input is read.
func (d *Dealer) Idle(ctx context.Context, at uint64) error {
	for _, h := range d.hands {
		if h.away || h.chunk != nil || max(h.after, h.skip) >= at {
			continue
		}
		c := &Chunk{Input: d.input, After: h.after, To: at}
		if err := d.to.Deliver(ctx, h.stage, h.number, c); err != nil {
			return err
		}
		h.after = at
	}
	return nil
}

// Deal deals messages out and delivers what came of them.
func (d *Dealer) Deal(ctx context.Context, ms []transport.Message) error {
	if len(ms) == 0 {
		return nil
	}
	in := &d.flow.Inputs[d.input]
	metas := make([]kis.Meta, 0, len(ms))
	for i := range ms {
		m := &ms[i]
		var err error
		if in.Kind == Entry {
			metas, err = d.entry(ctx, m, metas)
		} else {
			err = d.envelope(ctx, in, m)
		}
		if err != nil {
			return err
		}
	}
	last := ms[len(ms)-1].Sequence
	for _, h := range d.hands {
		if h.chunk != nil {
			h.chunk.To = last // nothing between its last row and here concerns it
			h.chunk.Arrived = ms[len(ms)-1].Time
			if err := d.flush(ctx, h); err != nil {
				return err
			}
		}
	}
	d.passed.Store(d.high) // who hears of it now has all that is older in its queue
	return nil
}

func (d *Dealer) flush(ctx context.Context, h *hand) error {
	c := h.chunk
	h.chunk = nil
	c.High = d.high
	if c.Arrived.IsZero() && len(c.Items) > 0 && d.flow.Time.Field == "" {
		if m := c.Items[len(c.Items)-1].Meta; m != nil {
			c.Arrived = m.Time
		}
	}
	if err := d.to.Deliver(ctx, h.stage, h.number, c); err != nil {
		return err
	}
	h.after = c.To // not before: whoever deals on behind this dealer begins there
	return nil
}

// chunkRows is when a chunk is delivered although more of the same read are to come.
const chunkRows = 500

// put adds a row to a hand. A message whose rows would be split stays whole.
func (d *Dealer) put(ctx context.Context, h *hand, it Item, size int) error {
	if h.away || it.Sequence <= h.skip {
		return nil
	}
	if h.chunk != nil && len(h.chunk.Items) >= chunkRows && h.chunk.To < it.Sequence {
		if err := d.flush(ctx, h); err != nil {
			return err
		}
	}
	if h.chunk == nil {
		h.chunk = &Chunk{Input: d.input, After: h.after, Items: make([]Item, 0, 64)}
	}
	h.chunk.To = it.Sequence
	h.chunk.Items = append(h.chunk.Items, it)
	h.chunk.Bytes += size
	return nil
}

// entry deals the events of a user's message.
func (d *Dealer) entry(ctx context.Context, m *transport.Message, metas []kis.Meta) ([]kis.Meta, error) {
	in := &d.flow.Inputs[d.input]
	var fault error
	before, high := d.high, d.high
	passes := ""
	if len(m.Header) > 0 {
		passes = m.Get(passesHeader)
	}
	d.parser.Split(m.Data, func(index uint32, row *kis.Row, bad []byte, err error) {
		if fault != nil {
			return
		}
		if len(metas) == cap(metas) {
			metas = make([]kis.Meta, 0, 2*cap(metas)+1) // the old ones stay with their rows
		}
		metas = append(metas, kis.Meta{Stream: in.Stream, Subject: m.Subject, Sequence: m.Sequence, Index: index, Time: m.Time, Passes: passes})
		it := Item{Row: row, Bad: bad, Err: err, Meta: &metas[len(metas)-1], Sequence: m.Sequence, Step: in.Step, High: before}
		high = max(high, d.date(&it, m.Time))
		size := 0
		if index == 0 {
			size = len(m.Data) // the rest of the message comes along
		}
		fault = d.put(ctx, d.hands[d.partition(row, in.Stream, m.Sequence)], it, size)
	})
	d.high = high // from the next message on: a message is of one time
	return metas, fault
}

// date gives a row its event time and returns it; a row that has none becomes bad.
func (d *Dealer) date(it *Item, stored time.Time) int64 {
	if d.flow.Time.Field == "" || it.Row == nil {
		if !d.timed || it.Row == nil {
			return unknown
		}
		return nanos(it.Meta.Time)
	}
	at, err := d.time.of(it.Row, stored)
	if err != nil {
		it.Bad, it.Err, it.Row = it.Row.AppendJSON(nil), err, nil
		return unknown
	}
	it.Meta.Time = at
	return nanos(at)
}

// keyed tells whether a row has the key by which it is dealt.
func (d *Dealer) keyed(row *kis.Row) bool {
	if row == nil {
		return false
	}
	var err error
	d.keybuf, err = kis.AppendKey(d.keybuf[:0], row, d.key)
	return err == nil
}

// partition is the one that a row starts in. Rows without a readable key belong to the partition of the hash
// of their origin and number: stream and sequence, or of a Save the sender and the envelope, which is in another
// place of the stream if it comes again.
func (d *Dealer) partition(row *kis.Row, origin string, number uint64) int {
	if row != nil && len(d.key) > 0 {
		var err error
		if d.keybuf, err = kis.AppendKey(d.keybuf[:0], row, d.key); err == nil {
			return partitionOf(slotOf(d.keybuf), d.partitions)
		}
	}
	d.keybuf = append(d.keybuf[:0], origin...)
	for i := range 8 {
		d.keybuf = append(d.keybuf, byte(number>>(8*i)))
	}
	return partitionOf(slotOf(d.keybuf), d.partitions)
}

// envelope deals the rows of a hand-off.
func (d *Dealer) envelope(ctx context.Context, in *Input, m *transport.Message) error {
	var e proto.Envelope
	if err := e.UnmarshalVT(m.Data); err != nil || len(e.Rows) != len(e.Identities) {
		return fmt.Errorf("%w: envelope %d of stream %s is damaged: %v", ErrInput, m.Sequence, in.Stream, err)
	}
	if e.Control != proto.Control_ROWS && e.Control != proto.Control_WATERMARK {
		return nil
	}
	var to *hand
	if in.Kind == HandOff {
		rest := strings.TrimPrefix(m.Subject, "KISFLOW.hop."+Token(d.flow.Name)+".")
		stage, rest, _ := strings.Cut(rest, ".")
		number, _, _ := strings.Cut(rest, ".")
		if to = d.byName[stage+"."+number]; to == nil {
			if _, of, ok := parseNumbered(number); ok && of != max(1, d.flow.Generation) {
				return nil // of another layout of the flow, which it has no more
			}
			if e.Revision < d.flow.Revision {
				return nil // of a stage that a later revision has not; it was finished before the switch
			}
			return fmt.Errorf("%w: hand-off on %s is for no partition of the flow", ErrInput, m.Subject)
		}
		if to.away {
			return nil
		}
	} else {
		last, known := d.senders[e.Sender]
		switch {
		case known && e.Number <= last.number:
			return nil // sent again by its owner's successor
		case known && e.Number > last.number+1 && !last.first && in.Kind != Kept:
			return fmt.Errorf("%w: hand-off on %s goes from number %d to %d", ErrInput, m.Subject, last.number, e.Number)
		}
		d.senders[e.Sender] = lastNumber{e.Number, !known}
	}
	before, high := d.high, d.high
	for i, b := range e.Rows {
		id := e.Identities[i]
		if int(id.Stream) >= len(e.Streams) || int(id.Subject) >= len(e.Subjects) || in.Kind == HandOff && int(id.Step) >= len(e.Steps) {
			return fmt.Errorf("%w: envelope %d of stream %s is damaged", ErrInput, m.Sequence, in.Stream)
		}
		meta := &kis.Meta{Stream: e.Streams[id.Stream], Subject: e.Subjects[id.Subject], Sequence: id.Sequence,
			Index: id.Index, Time: time.Unix(0, id.Time).UTC(), Passes: id.Passes}
		it := Item{Meta: meta, Sequence: m.Sequence, Step: in.Step, Sender: e.Sender, Number: e.Number}
		row, err := d.parser.Parse(b)
		if err != nil {
			it.Bad, it.Err = b, err
		} else {
			it.Row = row
		}
		if in.Kind == Load && d.flow.Time.Field != "" {
			it.High = before
			high = max(high, d.date(&it, m.Time))
		}
		h := to
		if h == nil {
			if in.Kind == Kept && !d.keyed(row) {
				continue // saved when the key was another one: there is nothing to keep it by
			}
			h = d.hands[d.partition(row, e.Sender, e.Number)]
		} else {
			it.Jumps = int(id.Jumps)
			if it.Step = d.step(&e, id); it.Step < 0 && it.Row != nil {
				it.Row, it.Bad, it.Err = nil, b, errors.New("the step at which the row was to go on is not in the flow any more")
			}
		}
		if err := d.put(ctx, h, it, len(b)); err != nil {
			return err
		}
	}
	d.high = high
	if e.Control == proto.Control_ROWS && (!d.timed || len(e.Watermarks) == 0) || !d.timed && to == nil || in.Kind == Kept {
		return nil
	}
	mark := Item{Sequence: m.Sequence, Sender: e.Sender, Number: e.Number,
		Envelope: &proto.Envelope{Sender: e.Sender, Watermarks: e.Watermarks, Peers: e.Peers}}
	if to != nil {
		return d.put(ctx, to, mark, 0)
	}
	for _, h := range d.hands { // of a Save everyone has to know how far its writers are
		if err := d.put(ctx, h, mark, 0); err != nil {
			return err
		}
	}
	return nil
}

// step is the index of the step at which a row goes on, or -1.
func (d *Dealer) step(e *proto.Envelope, id *proto.Identity) int {
	for i := range d.flow.Steps {
		if d.flow.Steps[i].Name == e.Steps[id.Step] {
			return i
		}
	}
	return -1
}

// End tells the partitions that nothing comes any more.
func (d *Dealer) End(ctx context.Context) error {
	for _, h := range d.hands {
		if h.away {
			continue
		}
		if err := d.to.Deliver(ctx, h.stage, h.number, &Chunk{Input: d.input, After: max(h.after, h.skip), To: endOfInput}); err != nil {
			return err
		}
	}
	return nil
}

// loads tells whether the rows of an input come in through the step's hand-off.
func loads(k InputKind) bool { return k == Load || k == Kept }

// CheckInput compares an input's stream with a position in it (P5).
func CheckInput(in *Input, info transport.Info, position uint64) error {
	switch {
	case info.Created.UnixNano() != in.Created:
		return fmt.Errorf("%w: stream %s was created %s, the flow read one of %s: it is another stream", ErrInput, in.Stream,
			info.Created.UTC().Format(time.RFC3339), time.Unix(0, in.Created).UTC().Format(time.RFC3339))
	case info.Last < position:
		return fmt.Errorf("%w: stream %s ends at %d, the flow has read it up to %d: the stream went back", ErrInput, in.Stream, info.Last, position)
	case info.First > position+1 && in.Kind == Entry:
		return fmt.Errorf("%w: stream %s begins at %d, the flow has read it up to %d: %d messages are gone unread", ErrInput, in.Stream,
			info.First, position, info.First-position-1)
	}
	return nil
}

// credit bounds what waits for a partition: who delivers waits while it is used up.
type credit struct {
	mu    sync.Mutex
	free  sync.Cond
	rows  int
	limit int
	gone  bool
}

func newCredit(limit int) *credit {
	c := &credit{limit: limit}
	c.free.L = &c.mu
	return c
}

var errGone = errors.New("the partition has stopped")

// cost is what a chunk takes of the credit: its rows, and a row more for every 8 KiB.
func (c *Chunk) cost() int { return len(c.Items) + c.Bytes>>13 }

// take waits until there is room and takes it. A chunk larger than the limit goes in alone.
func (c *credit) take(ctx context.Context, rows int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows > 0 && c.rows+rows > c.limit && !c.gone {
		stop := context.AfterFunc(ctx, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.free.Broadcast()
		})
		defer stop()
		for c.rows > 0 && c.rows+rows > c.limit && !c.gone && ctx.Err() == nil {
			c.free.Wait()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.gone {
		return errGone
	}
	c.rows += rows
	return nil
}

func (c *credit) give(rows int) {
	c.mu.Lock()
	c.rows -= rows
	c.mu.Unlock()
	c.free.Broadcast()
}

// end lets nobody wait any more.
func (c *credit) end() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.free.Broadcast()
}
