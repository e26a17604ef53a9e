package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// What ends a partition's work; Restart tells whether placement may claim it again by itself.
var (
	// ErrFenced: another owner has written to the log.
	ErrFenced = errors.New("another node owns the partition now")
	// ErrStopped: a function or the on_error policy asked for it.
	ErrStopped = errors.New("stopped by a function")
	// ErrDamagedLog: a record of the log is not what was written.
	ErrDamagedLog = errors.New("the partition log is damaged")
	// ErrInput: an input is not the one that the position belongs to, or has lost messages (P5).
	ErrInput = errors.New("the input does not fit the position")
)

// Clock is the engine's time: of commits, of retries, and for waiting.
type Clock interface {
	Now() time.Time
	// Sleep waits, or returns ctx's error.
	Sleep(ctx context.Context, d time.Duration) error
}

// Ports are what a partition works on.
type Ports struct {
	Streams transport.Streams
	Objects transport.Objects
	Store   state.Store
	Clock   Clock
	Logger  *slog.Logger
	Meter   *Meter // never nil
	// In counts the rows that come in from outside the flow, each once. It may be nil.
	In *atomic.Uint64
}

// Options tune partitions. The zero value is ready to use.
type Options struct {
	// Partitions is the number of partitions of a stage of flows that say none. Default 8.
	Partitions int
	// BatchRows is the most rows that one commit covers. More raise throughput and the time that the first
	// row of a batch waits. Default 1000.
	BatchRows int
	// BatchBytes is the most bytes of rows that one commit covers, but for a single larger message.
	// Default 4 MiB.
	BatchBytes int
	// QueueRows is the most rows that wait for a partition; a full queue slows the input. Default 4000.
	QueueRows int
	// CacheBytes is what a partition's instances in memory may take; beyond it the idle ones are passivated.
	// Default 32 MiB.
	CacheBytes int
	// PendingRows is the most rows that may wait at a partition's steps for a retry or behind one; beyond it
	// the partition stops taking input until some are gone. Default 10000.
	PendingRows int
	// SnapshotBytes is how many bytes of records make a new snapshot worth its while. Default 64 MiB.
	SnapshotBytes uint64
	// Owner is who writes, for people to read.
	Owner string

	eager      bool // watermarks are told at once: a trial's clock stands still
	aside      bool // snapshots are moved on beside the partition, not by its Tick
	chunkBytes int  // of a snapshot; default chunkBytes
}

func (o Options) withDefaults() Options {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&o.Partitions, DefaultPartitions)
	set(&o.BatchRows, 1000)
	set(&o.BatchBytes, 4<<20)
	set(&o.QueueRows, 4000)
	set(&o.CacheBytes, 32<<20)
	set(&o.PendingRows, 10_000)
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 64 << 20
	}
	set(&o.chunkBytes, chunkBytes)
	return o
}

// Item is one event, or one row of an envelope, on its way into a partition.
type Item struct {
	Row      *kis.Row
	Bad      []byte // the bytes that are no row; then Err says why
	Err      error
	Meta     *kis.Meta
	Sequence uint64 // of the message in the input
	Step     int    // where the row goes on
	Jumps    int
	Sender   string // of an envelope
	Number   uint64
	High     int64           // the newest event time of all messages before this one
	Envelope *proto.Envelope // no row, but what an envelope says of watermarks, behind its rows
}

// Chunk is what a dealer has for a partition from one input: every row for it in the messages above After up
// to To. A message is never split between chunks.
type Chunk struct {
	Input     int // index in Flow.Inputs
	After, To uint64
	Items     []Item
	Bytes     int
	High      int64     // the newest event time of all messages up to To, of this partition and of others
	Arrived   time.Time // when the stream stored the last message of Items
	// Quiet: there are no rows, and the position stays: it only says how far the event time has come (High), or
	// that nobody needs to wait for the input (Idle).
	Quiet, Idle bool
	// Copied: the rows are those with which a table begins (tablecopy.go); To is 1 at their end, else 0.
	Copied bool
}

// Partition is a share of a stage's keys: its state, its log, its outputs. One goroutine at a time uses it;
// no field needs a lock. After any error from Open, Work or Tick it is to be closed, and only opening another
// one goes on.
type Partition struct {
	flow   *Flow
	stage  string
	must   []string
	number int
	of     int // how many partitions each stage has
	name   string
	ports  Ports
	opt    Options

	kept  atomic.Pointer[[]keptStep] // what others may know of the steps that keep rows; nil: nothing yet
	waits atomic.Pointer[error]      // what it waits for in its turn, for those who cannot ask meanwhile; nil: nothing

	steps       []step // all of the flow's, by index; those of other stages have no runner
	stream      string // of the log
	subject     string
	incarnation int64 // when the log was created, unix nanoseconds
	senderName  string
	senderMark  string // shortMark of it
	owned       bool   // our epoch record is the log's: only then may anything leave
	warm        bool   // it is a warm copy of another node's: it runs nothing and sends nothing
	last        uint64 // sequence of our last record: what the next one expects
	meta        proto.Meta
	targets     map[string]*target
	targeted    []*target // in the order of their first use
	instances   cache
	encoded     []byte // scratch
	storeKey    []byte // scratch
	pending     pendings
	timed       bool // the flow looks at event time
	ended       bool // its inputs have ended (a run over a file)
	time        timely
	timers      [][timerDomains]timerQueue // by step
	carried     []*proto.Position          // positions that moved without anything else to commit

	queue      []*Chunk
	queuedRows int
	w          work
	snapshots  snapshots
	unwritten  bool      // settled marks or positions that no record holds yet
	moved      time.Time // when they changed
}

// step is a step as one partition runs it.
type step struct {
	*Step
	index   int
	stage   string
	keyed   bool
	here    bool // its rows with keys of this partition are applied here
	after   bool // it has a key, and a Batch function is before it: its rows wait for those that the Batch function holds
	runner  kis.Runner
	traits  kis.Traits
	piles   bool // its rows wait for the rest of the batch: Batch or Many
	call    kis.Call
	version uint32 // of its states' form
	busy    bool   // its call is in use further up
	// Where its rows go that leave the partition, by receiver, and what it saves; known from the first row on.
	handOffs []*target
	saved    *target
	meter    *StepMeter
}

// NewPartition makes a partition of a flow's stage; Open readies it.
func NewPartition(f *Flow, must []string, number int, ports Ports, opt Options) (*Partition, error) {
	opt = opt.withDefaults()
	stage := stageName(must)
	p := &Partition{
		flow: f, stage: stage, must: must, number: number, of: f.partitions(opt.Partitions), name: f.partitionName(stage, number),
		ports: ports, opt: opt,
		stream: LogStream(f.Name), subject: logSubject(f.Name, stage, number, f.Generation),
		targets: make(map[string]*target),
	}
	p.instances.limit = opt.CacheBytes
	if err := p.bind(f); err != nil {
		return nil, err
	}
	return p, nil
}

// bind opens the runners of a flow's revision.
func (p *Partition) bind(f *Flow) error {
	steps := make([]step, len(f.Steps))
	batch := false
	for i := range f.Steps {
		s := &steps[i]
		s.Step, s.index = &f.Steps[i], i
		s.stage, s.keyed = stageName(s.Must), len(s.Must) > 0
		s.here = !s.keyed || s.stage == p.stage
		s.traits = s.Function.Traits()
		s.meter = p.ports.Meter.step(f.Name, s.Step)
		if s.traits.Stateful && !s.keyed {
			return fmt.Errorf("flow %s: step %s: %s keeps state but has no must fields to key it by", f.Name, s.Name, s.Function.Name())
		}
		if !s.here {
			continue
		}
		s.after = batch && s.keyed
		s.piles = s.traits.Batch || s.traits.Many
		batch = batch || s.piles
		var err error
		s.runner, err = s.Function.Open(kis.Step{Flow: f.Name, Name: s.Name, Function: s.Function.Name(),
			Mode: s.Mode, Must: s.Must, Params: s.Params})
		if err != nil {
			return fmt.Errorf("flow %s: step %s: %w", f.Name, s.Name, err)
		}
		if r, ok := s.runner.(kis.Versioned); ok {
			s.version = r.Version()
		}
	}
	p.flow, p.steps = f, steps
	p.timers = make([][timerDomains]timerQueue, len(steps))
	p.bindTime(f)
	return nil
}

// Name is the partition's name: flow/stage/number.
func (p *Partition) Name() string { return p.name }

// Sequence is how far the partition has read an input, and whether it has read it at all.
func (p *Partition) Sequence(input int) uint64 {
	if pos := p.position(input); pos != nil {
		return pos.Sequence
	}
	return p.flow.Inputs[input].Start
}

func (p *Partition) position(input int) *proto.Position {
	for _, pos := range p.meta.Positions {
		if pos.Input == p.flow.Inputs[input].Name {
			return pos
		}
	}
	return nil
}

// Offer queues a chunk; Work takes it up.
func (p *Partition) Offer(c *Chunk) {
	p.queue = append(p.queue, c)
	p.queuedRows += len(c.Items)
}

// Queued is how many chunks wait, and one more where a batch had no room for all that the watermark asks for.
func (p *Partition) Queued() int {
	if p.Unfinished() {
		return len(p.queue) + 1
	}
	return len(p.queue)
}

// Unfinished tells whether watermarks are to be moved on although no rows wait.
func (p *Partition) Unfinished() bool { return p.timed && p.owned && !p.time.finished }

// owes tells whether the partition has something to do that no row has to come for, or receivers to tell that its
// inputs have ended.
func (p *Partition) owes() bool {
	if p.Queued() > 0 || p.timed && p.untold(endOfTime) {
		return true
	}
	due, err := p.processingDue(p.clockLimit(p.ports.Clock.Now()))
	return due || err != nil
}

// QueuedRows is how many rows they hold.
func (p *Partition) QueuedRows() int { return p.queuedRows }

// Work takes one batch through its whole life. It returns the cost of the chunks that it took from the queue.
func (p *Partition) Work(ctx context.Context) (int, error) {
	if p.Queued() == 0 {
		return 0, nil
	}
	start := p.ports.Clock.Now()
	w := p.begin()
	taken, err := p.take(ctx, w) // only computes: what is to happen stays data until the log has it
	if err != nil {
		return taken, err
	}
	if w.quiet() && !p.marksDue(w.now) {
		p.carry(w)
		return taken, nil
	}
	if err := p.finish(ctx, w); err != nil {
		return taken, err
	}
	p.ports.Meter.batch(p.flow.Name, w, start, p.ports.Clock.Now())
	if p.ports.In != nil {
		p.ports.In.Add(uint64(w.came))
	}
	return taken, nil
}

// finish commits, installs and settles what a batch has come to.
func (p *Partition) finish(ctx context.Context, w *work) error {
	r, err := p.record(w)
	if err != nil {
		return err
	}
	at, err := p.commit(ctx, r) // the fence: refused means that we own it no more
	if err != nil {
		return fmt.Errorf("partition %s: commit %d: %w", p.name, r.Number, err)
	}
	if err := p.install(r, at); err != nil { // from here on a crash repeats only this and the next line
		return fmt.Errorf("partition %s: install commit %d: %w", p.name, r.Number, err)
	}
	p.carried = nil
	if p.filling() {
		p.noteKept()
	}
	p.timersInstalled()
	p.clean(w)
	p.send(r, w)
	if err := p.settle(ctx); err != nil {
		return fmt.Errorf("partition %s: settle commit %d: %w", p.name, r.Number, err)
	}
	return nil
}

// take makes a batch of what waits in the queue: message by message it drops what the positions cover already,
// applies the rows, and moves the watermarks on. Of a chunk that is too much for one batch the rest stays in the
// queue; a message is never split.
func (p *Partition) take(ctx context.Context, w *work) (taken int, err error) {
	done, err := p.fireProcessing(ctx, w)
	if done && err == nil && p.timed { // what the last batch had no room for
		done, err = p.advance(ctx, w)
	}
	if err != nil {
		return 0, err
	}
	if !done {
		return 0, p.unpile(ctx, w) // what has fired is part of this batch, to its end
	}
	bytes := 0
	for len(p.queue) > 0 {
		c := p.queue[0]
		if w.rows > 0 && (w.rows+w.fired+len(c.Items) > p.opt.BatchRows || bytes+c.Bytes > p.opt.BatchBytes) {
			break
		}
		cost, size := c.cost(), c.Bytes
		done, err := p.takeChunk(ctx, w, c)
		taken += cost - c.cost() // of what it has left
		if err != nil {
			return taken, err
		}
		bytes += size
		if !done && len(c.Items) > 0 {
			break // the rest of it has its turn in the next batch
		}
		p.queue[0], p.queue = nil, p.queue[1:]
		if !done {
			break
		}
	}
	if len(p.queue) == 0 {
		p.queue = nil
	}
	return taken, p.passAll(ctx, w)
}

// passAll takes all rows on that wait for the rest of the batch, and moves the watermarks on with them.
func (p *Partition) passAll(ctx context.Context, w *work) error {
	for {
		if err := p.unpile(ctx, w); err != nil || !p.timed {
			return err
		}
		if done, err := p.advance(ctx, w); !done || err != nil || !w.piled {
			return err
		}
	}
}

// takeChunk applies a chunk. It says false where the batch was full before all that is due had fired; the items
// that are left are in the chunk then.
func (p *Partition) takeChunk(ctx context.Context, w *work, c *Chunk) (done bool, err error) {
	if p.timed && p.time.idle[c.Input] != c.Idle {
		p.time.idle[c.Input], p.time.finished = c.Idle, false
	}
	if c.Quiet {
		p.note(c.Input, c.High)
		done, err := p.advanceIf(ctx, w)
		if done && err == nil && p.ended {
			done, err = p.fireProcessing(ctx, w)
		}
		return done, err
	}
	if c.Copied {
		return true, p.takeCopy(ctx, w, c)
	}
	pos, at, err := w.advance(p, c)
	if err != nil {
		return false, err
	}
	var before uint64 // the message of the item before
	for i := range c.Items {
		it := &c.Items[i]
		if p.timed && it.Sequence != before && it.High != 0 {
			p.note(c.Input, it.High)
			done, err := p.advanceIf(ctx, w)
			if err != nil {
				return false, err
			}
			if !done {
				if before > 0 {
					pos.Sequence = max(at, before)
				} else {
					pos.Sequence = at
				}
				c.After, c.Items = max(c.After, pos.Sequence), c.Items[i:]
				p.queuedRows -= i
				return false, nil
			}
		}
		before = it.Sequence
		if it.Sequence <= at {
			continue // counted before
		}
		if it.Sender != "" {
			repeat, err := w.origin(p, pos, c.Input, it)
			if err != nil {
				return false, err
			}
			if repeat {
				continue
			}
		}
		if it.Envelope != nil {
			p.hear(c.Input, it.Envelope)
			continue
		}
		w.last, w.arrived = it, c.Arrived
		if k := p.flow.Inputs[c.Input].Kind; k != HandOff && k != Kept {
			w.came++
		}
		if err := p.apply(ctx, w, it, loads(p.flow.Inputs[c.Input].Kind)); err != nil {
			return false, err
		}
	}
	p.queuedRows -= len(c.Items)
	c.Items, c.Bytes = nil, 0
	pos.Sequence = max(at, c.To)
	if !p.timed {
		return true, nil
	}
	p.note(c.Input, c.High)
	if high := p.time.high[c.Input]; high != unknown {
		pos.High = high
	}
	return p.advanceIf(ctx, w)
}

func (p *Partition) advanceIf(ctx context.Context, w *work) (done bool, err error) {
	if !p.timed || p.time.finished {
		if p.timed && w.piled {
			w.pause()
		}
		return true, nil
	}
	return p.advance(ctx, w)
}

// carry keeps the positions of a batch that has come to nothing else for the next record; if none comes, Tick writes
// one.
func (p *Partition) carry(w *work) {
	for _, q := range w.positions {
		if o := findPosition(p.carried, q.Input); o != nil {
			*o = proto.Position{Input: q.Input, Created: q.Created, Sequence: q.Sequence, Origins: q.Origins, High: q.High}
		} else {
			p.carried = append(p.carried, q)
		}
	}
	if len(w.positions) > 0 {
		p.touched()
	}
}

// logged is where a record is in the log: the sequences of its first and its last message, and its bytes.
type logged struct {
	first, last uint64
	size        int
}

// commit writes one record. A time-out is settled by sending the same bytes again with the same expectation
// until they are acknowledged or refused, and a refusal by reading the log's last record (P7).
func (p *Partition) commit(ctx context.Context, r *proto.Record) (logged, error) {
	if r.Kind != proto.Kind_SNAPSHOT {
		r.SnapshotEpoch, r.SnapshotSequence = p.meta.SnapshotEpoch, p.meta.SnapshotSequence
	}
	b := proto.Seal(r)
	at := func(last uint64) logged {
		p.last = last
		return logged{last - uint64(p.parts(len(b))) + 1, last, len(b)}
	}
	for try := 0; ; try++ {
		sequence, err := p.append(ctx, b)
		switch {
		case err == nil:
			return at(sequence), nil
		case errors.Is(err, transport.ErrFenced):
			last, hash, rerr := p.lastRecord(ctx)
			if errors.Is(rerr, ErrDamagedLog) { // somebody else has written there: no waiting mends it
				return logged{}, rerr
			}
			if rerr != nil {
				err = rerr
				break
			}
			if hash == r.Hash && last > p.last {
				return at(last), nil
			}
			p.owned = false
			return logged{}, fmt.Errorf("%w: its log stands at %d, ours ends at %d", ErrFenced, last, p.last)
		case errors.Is(err, transport.ErrTooLarge), errors.Is(err, transport.ErrNotFound):
			return logged{}, err
		}
		if err := p.retry(ctx, try, "write to the log", err); err != nil {
			return logged{}, err
		}
	}
}

// retry waits before another try at something that failed for a passing reason, and says so now and then.
func (p *Partition) retry(ctx context.Context, try int, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w (last: %w)", what, ctx.Err(), err)
	}
	if try >= 3 {
		why := fmt.Errorf("waiting: %s: %w", what, err)
		p.waits.Store(&why)
	}
	if try == 3 || try%50 == 49 {
		p.ports.Logger.Warn("waiting: "+what, "partition", p.name, "tries", try+1, "error", err)
	}
	d := min(10*time.Millisecond<<min(try, 7), time.Second)
	if serr := p.ports.Clock.Sleep(ctx, d); serr != nil {
		return fmt.Errorf("%s: %w (last: %w)", what, serr, err)
	}
	return nil
}

// install makes a committed record part of the store and of what the partition knows.
func (p *Partition) install(r *proto.Record, at logged) error {
	p.absorb(r, at)
	changes := make([]state.Change, 0, len(r.Keys)+1)
	for i, k := range r.Keys {
		v := r.Values[i]
		if len(v) == 0 {
			v = nil
		}
		changes = append(changes, state.Change{Key: k, Value: v})
	}
	m, err := p.meta.MarshalVT()
	if err != nil {
		return err
	}
	changes = append(changes, state.Change{Key: []byte{metaKey}, Value: m})
	return p.ports.Store.Install(changes)
}

// absorb takes over what a record says about positions, outputs and the partition itself.
func (p *Partition) absorb(r *proto.Record, at logged) {
	m := &p.meta
	m.Format, m.Partition = 1, p.name
	m.Sequence, m.Epoch, m.Number, m.Revision, m.Time = at.last, r.Epoch, r.Number, r.Revision, r.Time
	m.LogBytes += uint64(at.size)
	for _, q := range r.Positions {
		pos := findPosition(m.Positions, q.Input)
		if pos == nil || pos.Created != q.Created {
			if pos == nil {
				pos = &proto.Position{Input: q.Input}
				m.Positions = append(m.Positions, pos)
			}
			pos.Created, pos.Origins = q.Created, nil
		}
		pos.Sequence = q.Sequence
		if q.High != 0 {
			pos.High = q.High
		}
		for _, o := range q.Origins {
			own := setOrigin(pos, o.Sender, o.Number)
			own.Watermarks = setWatermarks(own.Watermarks, o.Watermarks)
		}
	}
	m.Watermarks = setWatermarks(m.Watermarks, r.Watermarks)
	for _, s := range r.Settled {
		m.Settled = setMark(m.Settled, s.Target, s.Number, s.Sequence)
	}
	if m.Unsettled != 0 && allSettled(m.Written, m.Settled) {
		m.Unsettled = 0
	}
	for _, o := range r.Outputs {
		m.Written = setMark(m.Written, o.Target, o.First+uint64(len(o.Payloads))-1, 0)
		if m.Unsettled == 0 {
			m.Unsettled = at.first // a record of many messages is read from its first one
		}
	}
	m.StateKeys += r.NewKeys
	if r.Kind == proto.Kind_SNAPSHOT {
		m.SnapshotBefore, m.SnapshotBeforeSequence = m.Snapshot, m.SnapshotSequence
		m.Snapshot, m.SnapshotEpoch, m.SnapshotSequence = r.Snapshot, r.SnapshotEpoch, r.SnapshotSequence
		m.LogBytes = r.LogBytes
	}
	for i, k := range r.Keys {
		if k[0] == deadKind {
			if len(r.Values[i]) > 0 {
				m.DeadLetters++
			} else if m.DeadLetters > 0 {
				m.DeadLetters--
			}
		}
	}
}

func findPosition(ps []*proto.Position, input string) *proto.Position {
	for _, p := range ps {
		if p.Input == input {
			return p
		}
	}
	return nil
}

func setOrigin(pos *proto.Position, sender string, number uint64) *proto.Origin {
	for _, o := range pos.Origins {
		if o.Sender == sender {
			o.Number = number
			return o
		}
	}
	o := &proto.Origin{Sender: sender, Number: number}
	pos.Origins = append(pos.Origins, o)
	return o
}

func setMark(ms []*proto.Settled, target string, number, sequence uint64) []*proto.Settled {
	for _, m := range ms {
		if m.Target == target {
			m.Number, m.Sequence = number, sequence
			return ms
		}
	}
	return append(ms, &proto.Settled{Target: target, Number: number, Sequence: sequence})
}

func mark(ms []*proto.Settled, target string) (number, sequence uint64) {
	for _, m := range ms {
		if m.Target == target {
			return m.Number, m.Sequence
		}
	}
	return 0, 0
}

func allSettled(written, settled []*proto.Settled) bool {
	for _, w := range written {
		if n, _ := mark(settled, w.Target); n < w.Number {
			return false
		}
	}
	return true
}

// Accept sets the position of an input, whatever was read before: people have decided it. A record holds it.
func (p *Partition) Accept(ctx context.Context, input int, created int64, sequence uint64) error {
	p.carried = nil // what was carried is of no use where people decide
	w := p.begin()
	w.positions = append(w.positions, &proto.Position{Input: p.flow.Inputs[input].Name, Created: created, Sequence: sequence})
	return p.finish(ctx, w)
}

// Follow takes an input over from another stage at the place up to which that has read it. A partition that has read further,
// before another stage did, reads on from there: nothing is read twice.
func (p *Partition) Follow(ctx context.Context, input int, created int64, sequence uint64) error {
	if pos := p.position(input); pos != nil && pos.Created == created && pos.Sequence >= sequence {
		return nil
	}
	return p.Accept(ctx, input, created, sequence)
}

// Tick does what time asks for: rows whose retry is due, a record of what was settled or read since the last
// one, a snapshot that is worth its while. Placement calls it about every second while Restless says so.
func (p *Partition) Tick(ctx context.Context) error {
	now := p.ports.Clock.Now()
	if done, err := p.tickTimers(ctx, now); !done || err != nil {
		return err
	}
	if p.pending.due(now) {
		w := p.begin()
		if err := p.applyDue(ctx, w, now); err != nil {
			return err
		}
		if err := p.finish(ctx, w); err != nil {
			return err
		}
	}
	if p.unwritten && now.Sub(p.moved) >= time.Second {
		if err := p.finish(ctx, p.begin()); err != nil {
			return err
		}
	}
	return p.tickSnapshot(ctx)
}

// tickTimers fires the timers that go by the clock, and tells receivers of watermarks that have moved. It says false
// where more is to be done in the next batch.
func (p *Partition) tickTimers(ctx context.Context, now time.Time) (done bool, err error) {
	due, err := p.processingDue(p.clockLimit(now))
	if err != nil {
		return false, err
	}
	if p.timed && !p.time.finished || due {
		w := p.begin()
		done, err := p.fireProcessing(ctx, w)
		if err == nil && done && p.timed {
			done, err = p.advance(ctx, w)
		}
		if err == nil && done {
			err = p.passAll(ctx, w)
		} else if err == nil {
			err = p.unpile(ctx, w)
		}
		if err != nil {
			return false, err
		}
		if !w.quiet() {
			return done, p.finish(ctx, w)
		}
		p.carry(w)
	}
	if p.marksDue(now) {
		return true, p.finish(ctx, p.begin())
	}
	return true, nil
}

// Restless tells whether there is anything that Tick would have to do sooner or later.
func (p *Partition) Restless() bool {
	return p.unwritten || p.pending.rows > 0 || p.snapshots.writing != nil || p.snapshotNear() || p.timed && (!p.time.finished || p.untold(0)) || p.waitsForClock()
}

// waitsForClock tells whether a timer may wait that goes by the clock.
func (p *Partition) waitsForClock() bool {
	for i := range p.timers {
		s := &p.steps[i]
		if q := &p.timers[i][processingTimers]; s.keyed && s.runner != nil && (len(q.next) > 0 || !q.all) {
			return true // or it has not been looked yet
		}
	}
	return false
}

// Full tells whether so many rows wait at the steps that no more input may come.
func (p *Partition) Full() bool { return p.pending.rows >= p.opt.PendingRows }
