package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// System runs flows on this node.
type System struct {
	streams transport.Streams
	objects transport.Objects
	db      state.DB
	clock   Clock
	log     *slog.Logger
	meter   *Meter
	opt     Options
	runtime runtime

	mu         sync.Mutex
	flows      map[string]*Running
	placement  Placement // nil: every partition is ours
	placements uint64    // how many there have been
	remote     Remote    // nil: there are no other nodes

	ticker context.CancelFunc
	ticked sync.WaitGroup
	spawns atomic.Uint64
	asides chan struct{} // holds one for each thing that is done beside partitions
}

// NewSystem readies the engine; nothing runs yet.
func NewSystem(streams transport.Streams, objects transport.Objects, db state.DB, log *slog.Logger, meter *Meter, opt Options) *System {
	ctx, cancel := context.WithCancel(context.Background())
	opt = opt.withDefaults()
	opt.aside = true
	s := &System{streams: streams, objects: objects, db: db, clock: RealClock(), log: log, meter: meter,
		opt: opt, runtime: newRuntime(log), flows: make(map[string]*Running), ticker: cancel, asides: make(chan struct{}, asides)}
	s.ticked.Go(func() { s.tick(ctx) })
	return s
}

// tickEvery is how often the partitions that have something to do with time are asked to.
const tickEvery = 500 * time.Millisecond

func (s *System) tick(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, r := range s.running() {
			r.tick(ctx, n)
		}
	}
}

// Running returns the flows that run here, by name.
func (s *System) Running() []*Running {
	all := s.running()
	slices.SortFunc(all, func(a, b *Running) int { return strings.Compare(a.name, b.name) })
	return all
}

func (s *System) running() []*Running {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Running, 0, len(s.flows))
	for _, r := range s.flows {
		all = append(all, r)
	}
	return all
}

// Flow returns a flow that runs here, or nil.
func (s *System) Flow(name string) *Running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows[name]
}

// Close stops all flows: their partitions finish the batch they are at.
func (s *System) Close(ctx context.Context) error {
	s.ticker()
	s.ticked.Wait()
	var errs []error
	for _, r := range s.running() {
		errs = append(errs, r.Stop(ctx))
	}
	s.runtime.Shutdown()
	return errors.Join(errs...)
}

// Running is a flow that runs on this node.
type Running struct {
	system *System
	name   string // the flow's
	log    *slog.Logger

	// changing is held by who opens or closes partitions, or begins or ends dealers.
	changing sync.Mutex
	left     bool // what stages have left here that are no more is open; changing guards it

	mu      sync.Mutex
	flow    *Flow
	cells   []*cell
	byName  map[string]*cell
	deals   []*deal
	dealtTo map[*cell]bool // those that were ready when the dealers began
	copies  *copies        // warm copies of partitions of other nodes; nil if there are none
	closing bool
	cancel  context.CancelFunc // of everything
	ctx     context.Context
	wg      sync.WaitGroup
	restart chan struct{}
	fenced  int // how often in a row partitions found another owner

	replaced       chan struct{} // the placement is another one
	closed, opened uint64        // up to which placement partitions were closed, and opened
	moved          chan struct{} // closed, and made anew, when one of these changes

	congested       atomic.Bool // so many hand-offs wait that no more input may come
	held            atomic.Bool // it stands still: nothing is done that time asks for
	events, batches atomic.Uint64

	filled     map[string]bool // by copyMark: tables that have the rows with which they begin, in all partitions
	copiedRows atomic.Int64    // of the copy that is at work
}

// deal is a dealer at work.
type deal struct {
	flow   *Flow
	input  int
	dealt  atomic.Uint64 // all up to here was delivered
	cancel context.CancelFunc
	stop   context.CancelFunc // ends it when what it has read is dealt
	reads  context.Context    // stop ends it
	done   chan struct{}

	over  atomic.Bool      // the input has ended, and is done with
	known map[*cell]uint64 // what a dealer before it has delivered, until this one has begun

	mu     sync.Mutex
	reason error   // why it stopped, if it did by itself
	dealer *Dealer // at work
	idle   bool    // its partitions know that nothing comes
}

// Start starts a flow: it opens its partitions, each of which recovers, and then reads its inputs. It returns
// when all partitions have answered; those that could not be opened are in the status, and the error is for
// what concerns the flow as a whole. With a placement it returns at once: Placed waits.
func (s *System) Start(ctx context.Context, f *Flow) (*Running, error) {
	if err := s.ensure(ctx, f); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.flows[f.Name] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("flow %s runs already", f.Name)
	}
	r := &Running{system: s, name: f.Name, flow: f, log: s.log.With("flow", f.Name), byName: make(map[string]*cell), restart: make(chan struct{}, 1),
		replaced: make(chan struct{}, 1), moved: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	s.flows[f.Name] = r
	s.mu.Unlock()
	if s.placed() { // what is ours follows on
		r.poke()
		r.wg.Go(r.watch)
		return r, nil
	}
	if err := r.open(ctx, false); err != nil {
		_ = r.Stop(ctx)
		return nil, err
	}
	if err := r.openLeft(ctx); err != nil {
		_ = r.Stop(ctx)
		return nil, err
	}
	r.changing.Lock()
	r.deal(nil)
	r.changing.Unlock()
	r.wg.Go(r.watch)
	return r, nil
}

// ensure creates the flow's own streams, and fills in what it leaves to the system.
func (s *System) ensure(ctx context.Context, f *Flow) error {
	f.Partitions = f.partitions(s.opt.Partitions)
	if _, err := s.streams.Ensure(ctx, transport.Config{Name: LogStream(f.Name), Subjects: []string{LogSubjects(f.Name)},
		Description: "partition logs of flow " + f.Name}); err != nil {
		return fmt.Errorf("flow %s: log: %w", f.Name, err)
	}
	hop, err := s.streams.Ensure(ctx, transport.Config{Name: HandOffStream(f.Name), Subjects: []string{HandOffSubjects(f.Name)},
		Description: "hand-offs between the partitions of flow " + f.Name})
	if err != nil {
		return fmt.Errorf("flow %s: hand-offs: %w", f.Name, err)
	}
	for i := range f.Inputs {
		if f.Inputs[i].Kind == HandOff {
			return nil
		}
	}
	f.Inputs = append(f.Inputs, Input{Kind: HandOff, Name: hop.Name, Stream: hop.Name, Created: hop.Created.UnixNano()})
	return nil
}

// open opens a cell for every partition that has none that is any good; with all, those too that wait for
// people.
func (r *Running) open(ctx context.Context, all bool) error {
	return r.openStages(ctx, r.Definition().Stages(), all)
}

// which are the cells that are to be opened besides those that are not there.
type which uint8

const (
	missing which = iota // none
	passing              // those that have stopped for a passing reason
	every                // those, too, that wait for people
)

// openStages does so for some stages, and waits for their partitions.
func (r *Running) openStages(ctx context.Context, stages [][]string, all bool) error {
	opened := make(chan error, r.Definition().Partitions*len(stages))
	open := passing
	if all {
		open = every
	}
	n, err := r.beginOpen(stages, open, opened)
	if err != nil {
		return err
	}
	for range n {
		select {
		case <-opened: // the cell knows the error
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// beginOpen begins to open the cells; each sends to opened when it has.
func (r *Running) beginOpen(stages [][]string, open which, opened chan<- error) (n int, err error) {
	s, f := r.system, r.Definition()
	for _, must := range stages {
		for number := range f.Partitions {
			name := f.partitionName(stageName(must), number)
			if s.role(r.name, stageName(must), number) != Owner {
				continue
			}
			if old := r.cell(name); old != nil && (!old.dead() || open == missing || open == passing && final(old.why())) {
				continue
			}
			r.mu.Lock()
			copies := r.copies
			r.mu.Unlock()
			copies.stop(name) // one at a time uses a store
			store, err := s.db.Store(name)
			if err != nil {
				return n, fmt.Errorf("partition %s: %w", name, err)
			}
			p, err := NewPartition(f, must, number, Ports{s.streams, s.objects, store, s.clock, s.log, s.meter, &r.events}, s.opt)
			if err != nil {
				return n, err
			}
			c := &cell{name: name, stage: stageName(must), must: must, number: number, layout: f.Generation, credit: newCredit(s.opt.QueueRows),
				failed: r.failed, aside: r.aside, p: p, ended: make(chan struct{})}
			c.ctx, c.cancel = context.WithCancel(r.ctx)
			if c.box, err = s.runtime.Spawn(fmt.Sprintf("%s/%d", name, s.spawns.Add(1)), c.receive); err != nil {
				return n, err
			}
			r.put(c)
			c.box.Tell(openMessage{opened})
			n++
		}
	}
	return n, nil
}

// asides is how many things a node does beside its partitions at once: each takes a processor, and some MiB.
const asides = 2

// aside calls f in a goroutine, when it is its turn.
func (r *Running) aside(f func()) {
	r.wg.Go(func() {
		select {
		case r.system.asides <- struct{}{}:
			defer func() { <-r.system.asides }()
		case <-r.ctx.Done(): // f ends at once
		}
		f()
	})
}

func (r *Running) put(c *cell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.byName[c.name]; old != nil {
		for i := range r.cells {
			if r.cells[i] == old {
				r.cells[i] = c
			}
		}
		go old.stop()
	} else {
		r.cells = append(r.cells, c)
	}
	r.byName[c.name] = c
}

func (r *Running) cell(name string) *cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byName[name]
}

// cellAt is the cell of a partition of the flow's layout, or nil.
func (r *Running) cellAt(stage string, number int) *cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byName[r.flow.partitionName(stage, number)]
}

func (r *Running) all() []*cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*cell(nil), r.cells...)
}

// Deliver implements Dealt.
func (r *Running) Deliver(ctx context.Context, stage string, number int, k *Chunk) error {
	c := r.cellAt(stage, number)
	if c == nil {
		return nil // it has just left; its next owner reads this again
	}
	return c.deliver(ctx, k)
}

// receives tells whether the rows of an input go to any partition here.
func (r *Running) receives(f *Flow, input int) bool {
	some := false
	r.newDealer(f, input).Receivers(func(string, int) { some = true })
	return some
}

// newDealer makes the dealer of an input for the partitions that are here.
func (r *Running) newDealer(f *Flow, input int) *Dealer {
	d := NewDealer(f, input, f.Partitions, r)
	if r.system.placed() {
		d.Only(func(stage string, number int) bool { // one that recovers would hold the others up
			c := r.cellAt(stage, number)
			return c != nil && cellState(c.state.Load()) == cellRunning
		})
	}
	return d
}

// delivered is what dealers have delivered to partitions, by input's name.
type delivered map[string]map[*cell]uint64

// deal starts a dealer for every input. Partitions of which a dealer before is known to have delivered something are dealt
// what comes behind that; the others, what comes behind their positions.
func (r *Running) deal(before delivered) {
	f := r.Definition()
	to := r.ready()
	var inputs []int
	for i := range f.Inputs {
		if r.receives(f, i) {
			inputs = append(inputs, i)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return
	}
	r.dealtTo = to
	for _, i := range inputs {
		ctx, cancel := context.WithCancel(r.ctx)
		d := &deal{flow: f, input: i, cancel: cancel, done: make(chan struct{}), known: before[f.Inputs[i].Name]}
		d.reads, d.stop = context.WithCancel(ctx)
		r.deals = append(r.deals, d)
		r.wg.Go(func() {
			defer close(d.done)
			r.runDeal(ctx, d)
		})
	}
}

// runDeal keeps a dealer going over passing faults.
func (r *Running) runDeal(ctx context.Context, d *deal) {
	for try := 0; ; try++ {
		start := r.system.clock.Now()
		err := r.dealOnce(ctx, d)
		if d.reads.Err() != nil {
			return
		}
		if err == nil {
			d.over.Store(true)
			return
		}
		d.mu.Lock()
		d.reason, d.dealer = err, nil
		d.mu.Unlock()
		if errors.Is(err, ErrInput) {
			r.log.Error("an input has stopped", "input", d.flow.Inputs[d.input].Stream, "error", err)
			return
		}
		if r.system.clock.Now().Sub(start) > time.Minute {
			try = 0
		}
		r.log.Warn("reading an input again", "input", d.flow.Inputs[d.input].Stream, "error", err)
		if r.system.clock.Sleep(ctx, min(100*time.Millisecond<<min(try, 6), 5*time.Second)) != nil {
			return
		}
	}
}

func (r *Running) dealOnce(ctx context.Context, d *deal) error {
	in := &d.flow.Inputs[d.input]
	if in.Kind == Kept {
		return r.refill(ctx, d)
	}
	if in.Kind != HandOff && in.Copy == nil {
		if err := r.awaitTables(ctx, d); err != nil {
			return err
		}
	}
	info, err := r.system.streams.Info(ctx, in.Stream)
	if err != nil {
		return fmt.Errorf("input %s: %w", in.Stream, err)
	}
	dealer := r.newDealer(d.flow, d.input)
	dealer.to = dealt{r, d}
	known := d.known
	d.known = nil // what a dealer that has failed has delivered is asked for
	from, err := r.begin(ctx, dealer, d.input, info, known)
	if err != nil {
		return err
	}
	if err := CheckInput(in, info, from); err != nil {
		return err
	}
	if known == nil {
		if err := r.checkStage(ctx, d); err != nil {
			return err
		}
	}
	if in.Copy != nil {
		if from, err = r.copyTable(ctx, d, dealer, from); err != nil {
			return err
		}
	}
	d.dealt.Store(from)
	d.mu.Lock()
	d.reason, d.dealer = nil, dealer
	d.mu.Unlock()
	dealer.brought.Store(time.Now().UnixNano())
	return dealer.Run(ctx, progressStreams{r, d}, from)
}

// checkStage refuses to deal an input to a stage where another one has read further: then the revision has changed the
// key by which the input is dealt while the flow did not run, and what is behind the places of this stage has been
// counted there. Change moves the places; a start cannot, because the former stage has no one place.
func (r *Running) checkStage(ctx context.Context, d *deal) error {
	in := &d.flow.Inputs[d.input]
	if in.Kind == HandOff {
		return nil
	}
	stage := stageName(entryStage(d.flow, in.Step))
	var here, elsewhere uint64
	other := ""
	note := func(partition string, of bool, ps []*proto.Position) {
		if pos := findPosition(ps, in.Name); pos != nil && pos.Created == in.Created {
			if of {
				here = max(here, pos.Sequence)
			} else if pos.Sequence > elsewhere {
				elsewhere, other = pos.Sequence, partition
			}
		}
	}
	for _, c := range r.all() {
		if err := c.ask(ctx, func(p *Partition) error {
			note(c.name, c.stage == stage, p.meta.Positions)
			return nil
		}); err != nil && !c.dead() {
			return err
		}
	}
	names, err := r.system.db.Partitions()
	if err != nil {
		return err
	}
	for _, name := range names { // of stages that the flow has no more
		id, ok := parsePartitionName(name)
		if !ok || id.Flow != r.name || id.Generation != max(1, d.flow.Generation) || r.cell(name) != nil || id.Stage == stage {
			continue // of this stage, but on another node, and a copy of it here
		}
		store, err := r.system.db.Store(name)
		if err != nil {
			return err
		}
		b, err := store.Get([]byte{metaKey})
		if err != nil {
			return fmt.Errorf("partition %s: %w", name, err)
		}
		var m proto.Meta
		if err := m.UnmarshalVT(b); err == nil {
			note(name, false, m.Positions)
		}
	}
	if elsewhere > here {
		return fmt.Errorf("%w: partition %s has read %s up to %d, and the partitions to which revision %d deals it up to %d: "+
			"the key changed while the flow did not run; apply the former revision, let it run, and then apply this one",
			ErrInput, other, in.Stream, elsewhere, d.flow.Revision, here)
	}
	return nil
}

// dealt passes chunks on to the partitions, and counts what comes in.
type dealt struct {
	*Running
	d *deal
}

func (t dealt) Deliver(ctx context.Context, stage string, number int, k *Chunk) error {
	t.batches.Add(1)
	return t.Running.Deliver(ctx, stage, number, k)
}

// Counts returns how many rows have come in from outside the flow on this node, and in how many deliveries.
func (r *Running) Counts() (rows, deliveries uint64) { return r.events.Load(), r.batches.Load() }

// progressStreams notes how far a dealer has come: when it asks for more, all before was delivered.
type progressStreams struct {
	r *Running
	d *deal
}

func (s progressStreams) Read(ctx context.Context, stream string, opt transport.ReadOptions) (transport.Reader, error) {
	r, err := s.r.system.streams.Read(ctx, stream, opt)
	if err != nil {
		return nil, err
	}
	return &progressReader{Reader: r, r: s.r, d: s.d}, nil
}

type progressReader struct {
	transport.Reader
	r    *Running
	d    *deal
	last uint64
}

func (r *progressReader) Next(_ context.Context, max int) ([]transport.Message, error) {
	if r.last > 0 {
		r.d.dealt.Store(r.last)
	}
	for r.d.flow.Inputs[r.d.input].Kind != HandOff && r.r.congested.Load() {
		if err := r.r.system.clock.Sleep(r.d.reads, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
	ms, err := r.Reader.Next(r.d.reads, max)
	if n := len(ms); n > 0 {
		r.last = ms[n-1].Sequence
	}
	return ms, err
}

// lowest is the lowest position of an input among its receivers here.
func (r *Running) lowest(ctx context.Context, d *Dealer, input int, info transport.Info) (uint64, error) {
	return r.begin(ctx, d, input, info, nil)
}

// begin finds the place from which a dealer is to read, and tells it what partitions have been dealt already.
func (r *Running) begin(ctx context.Context, d *Dealer, input int, info transport.Info, known map[*cell]uint64) (uint64, error) {
	low, some := uint64(0), false
	var fault error
	d.Receivers(func(stage string, number int) {
		c := r.cellAt(stage, number)
		if c == nil || c.dead() {
			return
		}
		if at, ok := known[c]; ok {
			d.Skip(stage, number, at)
			if !some || at < low {
				low, some = at, true
			}
			return
		}
		var at uint64 // of this question alone: it may still be answered when nobody waits for it any more
		err := c.ask(ctx, func(p *Partition) error {
			at = p.Sequence(input)
			if pos := p.position(input); pos != nil {
				in := &d.flow.Inputs[input]
				if pos.Created != in.Created {
					return fmt.Errorf("%w: stream %s was created %s, partition %s has read one of %s: it is another stream", ErrInput,
						in.Stream, info.Created.UTC().Format(time.RFC3339), p.name, time.Unix(0, pos.Created).UTC().Format(time.RFC3339))
				}
			}
			return nil
		})
		switch {
		case err == nil:
			if !some || at < low {
				low, some = at, true
			}
		case !c.dead() && fault == nil:
			fault = err
		}
	})
	return low, fault
}

// failed is told by a cell that its partition is of no use any more.
func (r *Running) failed(c *cell, err error) {
	if c.ctx.Err() != nil {
		return
	}
	r.log.Error("partition stopped", "partition", c.name, "error", err)
	r.system.meter.gone(c.name)
	if errors.Is(err, ErrFenced) {
		r.mu.Lock()
		r.fenced++
		other := r.fenced > fencedOften
		r.mu.Unlock()
		if other {
			c.mu.Lock()
			c.reason = fmt.Errorf("%w: %w; is another kisnode running this flow on the same NATS? kisctl resume flow %s claims it again", ErrStopped, err, r.name)
			c.mu.Unlock()
			return
		}
	}
	if !final(err) {
		select {
		case r.restart <- struct{}{}:
		default:
		}
	}
}

// fencedOften is how often a flow's partitions claim again after another owner has fenced them, until people
// look: two nodes would else take them from one another for ever.
const fencedOften = 24

// final tells whether a partition may only be opened again by people.
func final(err error) bool {
	return errors.Is(err, ErrStopped) || errors.Is(err, ErrDamagedLog) || errors.Is(err, ErrInput)
}

// watch follows the placement, and opens partitions again that stopped for a passing reason, with a growing delay.
func (r *Running) watch() {
	var again <-chan time.Time // when partitions that have stopped are opened again
	try := 0
	for {
		reopen := false
		select {
		case <-r.ctx.Done():
			return
		case <-r.replaced:
		case <-r.restart:
			if again == nil {
				again = time.After(min(200*time.Millisecond<<min(try, 6), 10*time.Second))
				try++
			}
			continue
		case <-again:
			again, reopen = nil, true
		}
		var err error
		if reopen && !r.system.placed() {
			err = r.Reopen(r.ctx, false)
		} else {
			err = r.follow(r.ctx, reopen)
		}
		switch {
		case err != nil && r.ctx.Err() == nil:
			r.log.Warn("partitions could not be opened", "error", err)
			select {
			case r.restart <- struct{}{}:
			default:
			}
		case !reopen && !r.failing():
			try = 0
		}
	}
}

// failing tells whether a partition here has stopped.
func (r *Running) failing() bool {
	return slices.ContainsFunc(r.all(), (*cell).dead)
}

// Reopen opens the partitions again that have stopped; with all, those too that are waiting for people.
func (r *Running) Reopen(ctx context.Context, all bool) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	before := r.undeal()
	if all {
		r.mu.Lock()
		r.fenced = 0
		r.mu.Unlock()
		before = nil // inputs that have stopped are looked at again, too
	}
	if r.system.placed() { // who recovers asks for the dealers when it has
		open := passing
		if all {
			open = every
		}
		_, err := r.beginOpening(open)
		r.deal(before)
		return err
	}
	err := r.open(ctx, all)
	r.deal(before)
	return err
}

// AcceptInputs takes the flow's inputs as they are now: those that have stopped because they are not what they
// were are read from their beginning, or from now on.
func (r *Running) AcceptInputs(ctx context.Context, now bool) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	f := r.Definition()
	r.mu.Lock()
	stopped := make(map[int]bool)
	for _, d := range r.deals {
		d.mu.Lock()
		stopped[d.input] = errors.Is(d.reason, ErrInput)
		d.mu.Unlock()
	}
	r.mu.Unlock()
	r.undeal()
	defer r.deal(nil)
	for i := range f.Inputs {
		if !stopped[i] {
			continue
		}
		info, err := r.system.streams.Info(ctx, f.Inputs[i].Stream)
		if err != nil {
			return fmt.Errorf("input %s: %w", f.Inputs[i].Stream, err)
		}
		at := info.Last
		if !now && info.First > 0 {
			at = info.First - 1
		}
		f.Inputs[i].Created = info.Created.UnixNano()
		for _, c := range r.all() {
			if c.dead() {
				return fmt.Errorf("partition %s has stopped: %w", c.name, c.why())
			}
			if err := c.ask(ctx, func(p *Partition) error { return p.Accept(ctx, i, f.Inputs[i].Created, at) }); err != nil {
				return err
			}
		}
		r.log.Warn("an input is taken as it is now", "input", f.Inputs[i].Stream, "read_from", at+1)
	}
	return nil
}

// Committed returns the sequences of a stream up to which the partitions here that read it have committed, by their names.
func (r *Running) Committed(ctx context.Context, stream string) (map[string]uint64, error) {
	f := r.Definition()
	at := make(map[string]uint64)
	for i := range f.Inputs {
		if f.Inputs[i].Stream != stream {
			continue
		}
		stage := stageName(entryStage(f, f.Inputs[i].Step))
		for _, c := range r.all() {
			if c.stage != stage || c.dead() {
				continue // its position is not known here
			}
			var sequence uint64
			if err := c.query(ctx, func(p *Partition) error {
				sequence = p.Sequence(i)
				return nil
			}); err != nil {
				return nil, err
			}
			if before, ok := at[c.name]; !ok || sequence < before {
				at[c.name] = sequence
			}
		}
	}
	return at, nil
}

// Readers are the names of the partitions, here and elsewhere, that read a stream.
func (r *Running) Readers(stream string) (names []string) {
	f := r.Definition()
	for i := range f.Inputs {
		if f.Inputs[i].Stream != stream || f.Inputs[i].Kind == HandOff {
			continue
		}
		for number := range f.Partitions {
			names = append(names, f.partitionName(stageName(entryStage(f, f.Inputs[i].Step)), number))
		}
	}
	return names
}

// undeal ends all dealers, waits for them, and returns what they have delivered.
func (r *Running) undeal() delivered {
	r.mu.Lock()
	deals := r.deals
	r.deals = nil
	r.mu.Unlock()
	for _, d := range deals {
		d.cancel()
	}
	all := make(delivered)
	for _, d := range deals {
		<-d.done
		d.mu.Lock()
		dealer := d.dealer
		d.mu.Unlock()
		if dealer == nil {
			continue // it never began, or has failed
		}
		known := make(map[*cell]uint64)
		dealer.Delivered(func(stage string, number int, at uint64) {
			if c := r.cellAt(stage, number); c != nil {
				known[c] = at
			}
		})
		all[d.flow.Inputs[d.input].Name] = known
	}
	return all
}

// Stop ends the flow on this node: no more input, the batch at hand is finished, the rest is read again later.
func (r *Running) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	r.undeal()
	var errs []error
	for _, c := range r.all() {
		if !c.dead() {
			if err := c.ask(ctx, func(*Partition) error { return nil }); err != nil && !c.dead() {
				errs = append(errs, err)
			}
		}
	}
	r.cancel()
	for _, c := range r.all() {
		c.credit.end()
		c.stop()
		r.system.meter.gone(c.name)
	}
	r.wg.Wait()
	r.mu.Lock()
	copies := r.copies
	r.mu.Unlock()
	copies.stopAll()
	r.notePlaced(0, 0)
	r.system.mu.Lock()
	delete(r.system.flows, r.name)
	r.system.mu.Unlock()
	return errors.Join(errs...)
}

// Drain waits until nothing that has come in is on its way any more: the flow's inputs are no longer read, its
// hand-offs are.
func (r *Running) Drain(ctx context.Context) error {
	r.mu.Lock()
	var hop *deal
	rest := r.deals[:0:0]
	for _, d := range r.deals {
		if d.flow.Inputs[d.input].Kind == HandOff {
			hop = d
		} else {
			rest = append(rest, d)
		}
	}
	r.mu.Unlock()
	for _, d := range rest {
		d.stop()
	}
	for _, d := range rest {
		select {
		case <-d.done:
		case <-ctx.Done():
			d.cancel()
			return ctx.Err()
		}
	}
	for {
		busy, err := r.busy(ctx)
		if err != nil {
			return err
		}
		info, err := r.system.streams.Info(ctx, HandOffStream(r.name))
		if err != nil {
			return err
		}
		if !busy && (hop == nil || hop.dealt.Load() >= info.Last || info.Messages == 0) {
			if busy, err = r.busy(ctx); err != nil || !busy {
				return err
			}
		}
		if err := r.system.clock.Sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// busy tells whether rows wait for any partition.
func (r *Running) busy(ctx context.Context) (bool, error) {
	busy := false
	for _, c := range r.all() {
		if c.dead() {
			return false, fmt.Errorf("partition %s has stopped: %w", c.name, c.why())
		}
		err := c.ask(ctx, func(p *Partition) error {
			busy = busy || p.Queued() > 0
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return busy, nil
}

// Change switches a flow to its next revision at one exact place: what has come in is finished under the old
// one, and written is called, before any row meets the new one. If the drain or written fails, the flow goes on under
// the old one, unless written's error is transport.ErrDoubt; on any other error the flow has stopped.
func (r *Running) Change(ctx context.Context, f *Flow, written func() error) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	moves, err := r.moves(ctx, f)
	if err != nil {
		return err
	}
	if err := r.Drain(ctx); err != nil {
		r.undeal()
		r.deal(nil) // on as before
		return fmt.Errorf("flow %s: drain: %w", f.Name, err)
	}
	r.undeal()
	if err := r.system.ensure(ctx, f); err != nil {
		r.deal(nil)
		return err
	}
	if err := r.move(ctx, moves); err != nil {
		r.deal(nil)
		return err
	}
	if err := written(); err != nil {
		if errors.Is(err, transport.ErrDoubt) { // then no partition may read on, neither the former ones nor the next
			return fmt.Errorf("flow %s: whether revision %d is in force is not known until the node starts again: %w", f.Name, f.Revision, err)
		}
		r.deal(nil)
		return err
	}
	r.mu.Lock()
	r.flow = f
	r.mu.Unlock()
	for _, c := range r.all() {
		if err := c.ask(ctx, func(p *Partition) error { return p.Revise(ctx, f) }); err != nil {
			return fmt.Errorf("flow %s: partition %s: %w", f.Name, c.name, err)
		}
	}
	if err := r.open(ctx, false); err != nil { // stages that are new
		return err
	}
	r.deal(nil)
	return nil
}

// move is an input that another stage reads from the next revision on.
type move struct {
	d     *deal
	least uint64   // what some partition of the former stage has read
	must  []string // of the stage that is to read it
}

// moves finds the inputs that the next revision deals to another stage, and waits until their dealers have passed
// every place that a partition has read already: what is dealt then is what the former stage has had, all of it.
func (r *Running) moves(ctx context.Context, f *Flow) ([]move, error) {
	r.mu.Lock()
	deals := append([]*deal(nil), r.deals...)
	r.mu.Unlock()
	var all []move
	for _, d := range deals {
		in := &d.flow.Inputs[d.input]
		at := slices.IndexFunc(f.Inputs, func(n Input) bool { return n.Name == in.Name })
		if in.Kind == HandOff || in.Kind == Kept || at < 0 {
			continue
		}
		must := entryStage(f, f.Inputs[at].Step)
		if stageName(must) == stageName(entryStage(d.flow, in.Step)) {
			continue
		}
		m := move{d: d, must: must}
		for _, c := range r.all() {
			if c.stage != stageName(entryStage(d.flow, in.Step)) {
				continue
			}
			if err := c.ask(ctx, func(p *Partition) error {
				m.least = max(m.least, p.Sequence(d.input))
				return nil
			}); err != nil {
				return nil, err
			}
		}
		if err := r.dealtUpTo(ctx, d, m.least); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// dealtUpTo waits until a dealer has dealt all up to a place, or all that there is.
func (r *Running) dealtUpTo(ctx context.Context, d *deal, at uint64) error {
	in := &d.flow.Inputs[d.input]
	for d.dealt.Load() < at {
		newest, err := r.newest(ctx, in.Stream, in.Filter)
		if err != nil {
			return err
		}
		if d.dealt.Load() >= newest {
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("flow %s: input %s has stopped; a revision that deals it by another key has to wait until it is read again", r.name, in.Stream)
		default:
		}
		if err := r.system.clock.Sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("flow %s: input %s is dealt up to %d of %d: %w", r.name, in.Stream, d.dealt.Load(), at, err)
		}
	}
	return nil
}

// newest is the sequence of the newest message of a stream that a filter lets through.
func (r *Running) newest(ctx context.Context, stream string, filter []string) (uint64, error) {
	if len(filter) == 0 {
		info, err := r.system.streams.Info(ctx, stream)
		return info.Last, err
	}
	var newest uint64
	for _, f := range filter {
		m, err := r.system.streams.LastOn(ctx, stream, f)
		if err != nil && !errors.Is(err, transport.ErrNotFound) {
			return 0, err
		}
		newest = max(newest, m.Sequence)
	}
	return newest, nil
}

// move gives the partitions that are to read an input from now on the place up to which it was dealt. Their logs
// have it before the revision is written: after a crash either the former stage goes on, or they do.
func (r *Running) move(ctx context.Context, moves []move) error {
	for _, m := range moves {
		if err := r.openStages(ctx, [][]string{m.must}, false); err != nil {
			return err
		}
		at := max(m.least, m.d.dealt.Load())
		created := m.d.flow.Inputs[m.d.input].Created
		for _, c := range r.all() {
			if c.stage != stageName(m.must) {
				continue
			}
			if err := c.ask(ctx, func(p *Partition) error { return p.Follow(ctx, m.d.input, created, at) }); err != nil {
				return fmt.Errorf("partition %s: %w", c.name, err)
			}
		}
	}
	return nil
}

// tick does what is to be done now and then.
func (r *Running) tick(ctx context.Context, n int) {
	r.tellTime(time.Now())
	if r.held.Load() {
		return
	}
	for _, c := range r.all() {
		if c.restless.Load() {
			c.box.Tell(tickMessage{})
		}
	}
	r.watchHandOffs(ctx)
	if n%40 == 0 {
		r.cutHandOffs(ctx)
	}
}

// tellTime tells the partitions how far the event time of their inputs has come, those too that got no rows, and
// which inputs nobody needs to wait for.
func (r *Running) tellTime(now time.Time) {
	r.mu.Lock()
	f := r.flow
	deals := append([]*deal(nil), r.deals...)
	r.mu.Unlock()
	if !f.timed() {
		return
	}
	wait := f.Time.withDefaults().Idle
	for _, d := range deals {
		d.mu.Lock()
		dealer := d.dealer
		d.mu.Unlock()
		in := &d.flow.Inputs[d.input]
		if dealer == nil || in.Kind == HandOff || in.Kind == Kept {
			continue
		}
		high, known := dealer.High()
		idle := now.Sub(time.Unix(0, dealer.brought.Load())) > wait
		turned := idle != d.idle
		d.idle = idle
		if !known && !turned {
			continue
		}
		stage := stageName(entryStage(d.flow, in.Step))
		for _, c := range r.all() {
			if c.stage != stage || c.dead() {
				continue
			}
			if c.told == nil {
				c.told = make(map[int]int64)
			}
			if last, ok := c.told[d.input]; (!known || ok && last >= high) && !turned {
				continue
			}
			c.told[d.input] = high
			c.box.Tell(&Chunk{Input: d.input, Quiet: true, Idle: idle, High: high})
		}
	}
}

// EndInputs tells the partitions that inputs of a kind are at their end: no row comes any more, so all that waits for
// a time has its turn. For runs that have an end, as over a file; a Load ends by itself when its writers' entries
// have, if it has any.
func (r *Running) EndInputs(kind InputKind) {
	f := r.Definition()
	for i := range f.Inputs {
		in := &f.Inputs[i]
		if in.Kind != kind {
			continue
		}
		stage := stageName(entryStage(f, in.Step))
		for _, c := range r.all() {
			if c.stage == stage && !c.dead() {
				c.box.Tell(&Chunk{Input: i, Quiet: true, High: endOfTime})
			}
		}
	}
}

// handOffsWaiting is how many envelopes may wait in a flow's hand-off stream before its inputs are held up:
// a slow stage slows the source, not the disk.
const handOffsWaiting = 5000

// watchHandOffs holds the flow's inputs up while too many hand-offs wait.
func (r *Running) watchHandOffs(ctx context.Context) {
	r.mu.Lock()
	f := r.flow
	var hop *deal
	for _, d := range r.deals {
		if d.flow.Inputs[d.input].Kind == HandOff {
			hop = d
		}
	}
	r.mu.Unlock()
	if hop == nil || len(f.Stages()) < 2 {
		r.congested.Store(false)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	info, err := r.system.streams.Info(ctx, HandOffStream(f.Name))
	if err != nil {
		return // the next tick asks again
	}
	if r.system.placed() { // how far the dealers of other nodes are is seen by what is left
		if info.Messages > handOffsWaiting {
			r.cutHandOffs(ctx)
		}
		r.congested.Store(info.Messages > 4*handOffsWaiting)
		return
	}
	r.congested.Store(info.Last-min(info.Last, hop.dealt.Load()) > handOffsWaiting)
}

// cutHandOffs removes the hand-offs that every receiver has committed.
func (r *Running) cutHandOffs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r.mu.Lock()
	f := r.flow
	r.mu.Unlock()
	stream := HandOffStream(f.Name)
	info, err := r.system.streams.Info(ctx, stream)
	if err != nil || info.Messages == 0 {
		return
	}
	for i := range f.Inputs {
		if f.Inputs[i].Kind != HandOff {
			continue
		}
		for _, c := range r.all() {
			if c.dead() {
				return
			}
		}
		if r.system.placed() {
			r.cutOwn(ctx, i)
			continue
		}
		low, err := r.lowest(ctx, r.newDealer(f, i), i, info)
		if err == nil && low >= info.First {
			err = r.system.streams.Cut(ctx, stream, "", low+1)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("hand-offs were not cut", "error", err)
		}
	}
}

// cutOwn removes the hand-offs that each partition here has committed: those to partitions of other nodes are theirs to
// remove.
func (r *Running) cutOwn(ctx context.Context, input int) {
	for c := range r.ready() {
		var at uint64
		err := c.query(ctx, func(p *Partition) error {
			at = p.Sequence(input)
			return nil
		})
		c.mu.Lock()
		cut := c.cut
		c.mu.Unlock()
		if err != nil || at <= cut {
			continue
		}
		if err := r.system.streams.Cut(ctx, HandOffStream(r.name), receiverSubjects(r.name, c.stage, c.number, c.layout), at+1); err != nil {
			if ctx.Err() == nil {
				r.log.Warn("hand-offs were not cut", "partition", c.name, "error", err)
			}
			continue
		}
		c.mu.Lock()
		c.cut = at
		c.mu.Unlock()
	}
}

// Name is the flow's name.
func (r *Running) Name() string { return r.name }

// Progress tells how many of the partitions are ready, and how much of the logs those have read that recover.
func (r *Running) Progress() (ready, all int, read, of uint64) {
	for _, c := range r.all() {
		all++
		if cellState(c.state.Load()) != cellOpening {
			ready++
		}
		c.mu.Lock()
		read += c.done
		of += c.of
		c.mu.Unlock()
	}
	return ready, all, read, of
}

// Definition is the flow that runs.
func (r *Running) Definition() *Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flow
}
