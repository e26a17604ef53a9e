package actors

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/internal/checker"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	memstate "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// A world is a small cluster in one thread: streams, two nodes with a store each, and the partitions of its flows,
// which its scheduler moves one step at a time. The seed decides everything: the flows, the events, who moves
// next, and what fails. The engine's own files know nothing of it.
type world struct {
	seed     uint64
	rng      *rand.Rand
	plan     plan
	log      func(format string, args ...any) // nil: nobody reads along
	trace    hash.Hash64
	now      time.Time
	streams  *memory.Streams
	objects  *memory.Objects
	meter    *Meter
	outside  outside
	programs []*program
	revision uint64
	flows    []*Flow
	inputs   [][]Input // of every program
	places   []*place
	nodes    []*simNode
	model    model
	events   int // published so far
	high     int64
	count    map[string]int
	mutant   *mutant // nil: none
	slept    int     // how often in a row

	quiet  bool     // nothing fails
	at     *simNode // whose process is running
	seat   *seat    // and which of its partitions, if any
	nested bool
	err    error // what was found wrong on the way
}

// plan is what the seed decided for all of a run.
type plan struct {
	nodes, partitions, events int
	crash, steal, errors      float64
	mischief                  float64
	opt                       Options
	maxMessage                int
	queue                     int
}

// place is a partition of a flow, wherever it is.
type place struct {
	program int
	must    []string
	number  int
	name    string
	owner   *seat
}

// seat is a partition on a node. It may have lost its place to another one without knowing it.
type seat struct {
	place  *place
	node   *simNode
	p      *Partition
	opened bool
}

// simNode is a process and its disk.
type simNode struct {
	number int
	db     *memstate.DB
	stores map[string]*simStore
	port   *simStreams
	seats  []*seat
	deals  []*simDeal
}

// simDeal is a dealer on a node.
type simDeal struct {
	program, input int
	d              *Dealer
	r              transport.Reader
	last           uint64
}

// errWorld is what the simulation's faults say.
var errWorld = errors.New("the world said no")

func newPlan(rng *rand.Rand) plan {
	pick := func(of ...int) int { return of[rng.IntN(len(of))] }
	p := plan{nodes: 1 + rng.IntN(2), partitions: pick(1, 1, 2, 3), events: 20 + rng.IntN(100), mischief: []float64{0, 0.1, 0.3}[rng.IntN(3)],
		maxMessage: pick(4<<10, 6<<10, 8<<20), queue: pick(5, 50, 400)}
	level := []float64{0, 0.5, 1, 2}[rng.IntN(4)]
	p.crash, p.errors, p.steal = 0.01*level, 0.01*level, 0.004*level
	p.opt = Options{Partitions: p.partitions, BatchRows: pick(1, 3, 7, 50, 1000), BatchBytes: pick(1, 500, 4<<20), QueueRows: p.queue,
		CacheBytes: pick(1, 2000, 32<<20), PendingRows: pick(3, 10_000), SnapshotBytes: uint64(pick(1, 1500, 10_000, 1<<30)), Owner: "sim", chunkBytes: pick(100, 1000, 10_000)}
	return p
}

func newWorld(seed uint64, mutant *mutant, log func(string, ...any)) *world {
	rng := rand.New(rand.NewPCG(seed, 20))
	w := &world{seed: seed, rng: rng, plan: newPlan(rng), log: log, trace: fnv.New64a(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		meter: &Meter{}, revision: 1, count: make(map[string]int), mutant: mutant, quiet: true}
	w.streams = memory.New(memory.Options{Now: w.Now, Faults: w, NonBlocking: true, MaxMessage: w.plan.maxMessage})
	w.objects = memory.NewObjects(memory.Options{Faults: w})
	w.programs = newPrograms(rng)
	w.model = model{programs: w.programs, check: new(checker.Checker), sums: make(map[string]int64), windows: make(map[string]*openWindow)}
	w.say("plan %+v", w.plan)
	for _, p := range w.programs {
		w.say("program %s: %+v", p.name, *p)
	}
	w.setUp()
	for i := range w.plan.nodes {
		n := &simNode{number: i, db: memstate.New(), stores: make(map[string]*simStore)}
		n.db.Keep(20)
		n.port = &simStreams{Streams: w.streams, w: w}
		w.nodes = append(w.nodes, n)
	}
	w.quiet = false
	return w
}

// say notes what happens: two runs of a seed say the same.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.trace, format, args...)
	if w.log != nil {
		w.log(format, args...)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.say("WRONG: %v", w.err)
	}
}

// Now and Sleep make the world a Clock.
func (w *world) Now() time.Time { return w.now }

func (w *world) Sleep(ctx context.Context, d time.Duration) error {
	w.now = w.now.Add(d)
	w.perhapsSteal("sleep")
	if w.slept++; w.slept > 300 {
		return errStuck
	}
	return ctx.Err()
}

// simLog counts what partitions say.
type simLog struct{ w *world }

func (l simLog) Enabled(context.Context, slog.Level) bool { return true }
func (l simLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l simLog) WithGroup(string) slog.Handler            { return l }
func (l simLog) Handle(_ context.Context, r slog.Record) error {
	l.w.count["said: "+r.Message]++
	return nil
}

// setUp creates the streams, and the places of all partitions.
func (w *world) setUp() {
	ctx := context.Background()
	ensure := func(name string, subjects ...string) transport.Info {
		info, err := w.streams.Ensure(ctx, transport.Config{Name: name, Subjects: subjects})
		if err != nil {
			panic(err)
		}
		return info
	}
	entry := ensure("IN", "in.>")
	for i, p := range w.programs {
		var in Input
		if p.load == "" {
			in = Input{Kind: Entry, Name: "IN", Stream: "IN", Created: entry.Created.UnixNano()}
		} else {
			info := ensure(SaveStream(p.load), SaveSubjects(p.load))
			in = Input{Kind: Load, Name: info.Name + " s0", Stream: info.Name, Created: info.Created.UnixNano()}
		}
		ensure(LogStream(p.name), LogSubjects(p.name))
		ensure(outStream(p.name), "out."+p.name+".*", OutputFences(outStream(p.name)))
		hop := ensure(HandOffStream(p.name), HandOffSubjects(p.name))
		ins := []Input{in, {Kind: HandOff, Name: hop.Name, Stream: hop.Name, Created: hop.Created.UnixNano()}}
		w.inputs = append(w.inputs, ins)
		for _, in := range p.steps {
			if in.kind == "save" {
				ensure(SaveStream("rows of "+p.name), SaveSubjects("rows of "+p.name))
			}
		}
		f := p.flow(&w.outside, w.revision, ins)
		w.flows = append(w.flows, f)
		for _, must := range f.Stages() {
			for n := range w.plan.partitions {
				w.places = append(w.places, &place{program: i, must: must, number: n, name: f.partitionName(stageName(must), n)})
			}
		}
	}
}

// guard runs f as a node's process and returns its error; a crash of the process is not one: then the node
// starts again with what its disk kept.
func (w *world) guard(n *simNode, s *seat, f func() error) (err error) {
	at, before := w.at, w.seat
	w.at, w.seat, w.slept = n, s, 0
	defer func() {
		w.at, w.seat = at, before
		r := recover()
		if r == nil {
			return
		}
		c, ok := r.(Crash)
		if !ok {
			panic(r)
		}
		w.crash(n, c.Point)
		err = errCrashed
	}()
	return f()
}

// errStuck: something is tried again and again.
var errStuck = errors.New("it does not get on")

var errCrashed = errors.New("the process has crashed")

// crash ends a node's process; its store loses some of what was installed last.
func (w *world) crash(n *simNode, point string) {
	w.say("node %d crashes at %s", n.number, point)
	w.count["crash"]++
	for _, s := range n.seats {
		if s.place.owner == s {
			s.place.owner = nil
		}
	}
	n.seats, n.deals = nil, nil
	mode := w.rng.IntN(4)
	metas := make(map[string][]byte)
	if w.mutant != nil && w.mutant.meta {
		for name, s := range n.stores {
			metas[name], _ = s.s.Get([]byte{metaKey})
		}
	}
	n.db.Crash(func(_ string, installs int) int {
		lost := 0
		switch mode {
		case 0:
		case 1:
			lost = w.rng.IntN(min(installs, 3) + 1)
		default:
			lost = w.rng.IntN(installs + 1)
		}
		if lost > 0 {
			w.count["installs lost"] += lost
		}
		return lost
	})
	n.db = n.db.Reopen()
	for name, b := range metas {
		if s, err := n.db.Open(name); err == nil && b != nil {
			_ = s.Install([]state.Change{{Key: []byte{metaKey}, Value: b}})
		}
	}
	stores := n.stores
	n.stores = make(map[string]*simStore)
	if w.quiet {
		return
	}
	names := make([]string, 0, len(stores))
	for name := range stores {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch w.rng.IntN(20) {
		case 0:
			w.store(n, name).corrupt = true
			w.count["store corrupt"]++
		case 1:
			if err := w.store(n, name).s.Clear(); err != nil {
				panic(err)
			}
			w.count["store cleared"]++
		}
	}
}

func (w *world) store(n *simNode, name string) *simStore {
	s := n.stores[name]
	if s == nil {
		m, err := n.db.Open(name)
		if err != nil {
			panic(err)
		}
		s = &simStore{w: w, s: m}
		n.stores[name] = s
	}
	return s
}

// open lets a node take a place over. Who owned it does not hear of it.
func (w *world) open(pl *place, n *simNode) {
	for i, s := range n.seats {
		if s.place == pl { // one process does not hold a partition twice
			n.seats = slices.Delete(n.seats, i, i+1)
			break
		}
	}
	if pl.owner != nil {
		w.count["zombie"]++
	}
	s := &seat{place: pl, node: n}
	pl.owner = s
	n.seats = append(n.seats, s)
	w.say("node %d opens %s", n.number, pl.name)
	ports := Ports{Streams: n.port, Objects: &simObjects{w.objects, w}, Store: w.store(n, pl.name), Clock: w, Logger: slog.New(simLog{w}), Meter: w.meter}
	p, err := NewPartition(w.flows[pl.program], pl.must, pl.number, ports, w.plan.opt)
	if err != nil {
		w.fail("new partition %s: %v", pl.name, err)
		return
	}
	s.p = p
	err = w.guard(n, s, func() error { return p.Open(context.Background(), nil) })
	if w.closed(s, "open", err) {
		return
	}
	s.opened = true
	n.deals = slices.DeleteFunc(n.deals, func(d *simDeal) bool { return d.program == pl.program }) // they start again at the lowest place
}

// closed looks at what a partition's call returned, and closes it if that was an error.
func (w *world) closed(s *seat, what string, err error) bool {
	if err == nil {
		return false
	}
	w.say("node %d: %s %s: %v", s.node.number, what, s.place.name, err)
	if i := slices.Index(s.node.seats, s); i >= 0 {
		s.node.seats = slices.Delete(s.node.seats, i, i+1)
	}
	if s.place.owner == s {
		s.place.owner = nil
	}
	switch {
	case errors.Is(err, errCrashed), errors.Is(err, errWorld):
	case errors.Is(err, ErrFenced):
		w.count["fenced"]++
		if w.logEpoch(s) <= s.p.meta.Epoch {
			w.fail("%s %s: fenced, and nobody else is there: %v", what, s.place.name, err)
		}
	case errors.Is(err, transport.ErrDoubt) && !w.quiet:
	default:
		w.fail("%s %s: %v", what, s.place.name, err)
	}
	return true
}

// logEpoch is the epoch of the newest record of a partition's log.
func (w *world) logEpoch(s *seat) uint64 {
	quiet := w.quiet
	w.quiet = true
	defer func() { w.quiet = quiet }()
	ctx := context.Background()
	m, err := w.streams.LastOn(ctx, s.p.stream, s.p.subject)
	if err != nil {
		return 0
	}
	r, err := s.p.wholeRecord(ctx, m)
	if err != nil {
		w.fail("log of %s: %v", s.place.name, err)
		return 0
	}
	return r.Epoch
}

// Deliver: a dealer's rows go to the partitions on its node.
type simDealt struct {
	w       *world
	n       *simNode
	program int
}

func (t simDealt) Deliver(_ context.Context, stage string, number int, c *Chunk) error {
	for _, s := range t.n.seats {
		if s.place.program == t.program && stageName(s.place.must) == stage && s.place.number == number && s.opened {
			s.p.Offer(c)
		}
	}
	return nil
}

// deal lets one dealer of a node read and deal one bunch. It tells whether there was anything.
func (w *world) deal(n *simNode, program, input int) bool {
	f := w.flows[program]
	in := &f.Inputs[input]
	i := slices.IndexFunc(n.deals, func(d *simDeal) bool { return d.program == program && d.input == input })
	for _, s := range n.seats {
		if s.place.program == program && s.place.owner == s && (s.p.QueuedRows() >= w.plan.queue || s.p.Full()) {
			w.count["queue full"]++
			return false
		}
	}
	some := false
	err := w.guard(n, nil, func() error {
		ctx := context.Background()
		if i < 0 {
			d := NewDealer(f, input, w.plan.partitions, simDealt{w, n, program})
			low, any := uint64(0), false
			d.Receivers(func(stage string, number int) {
				for _, s := range n.seats {
					if s.place.program == program && stageName(s.place.must) == stage && s.place.number == number && s.opened {
						if at := s.p.Sequence(input); !any || at < low {
							low, any = at, true
						}
					}
				}
			})
			if !any {
				return nil
			}
			info, err := n.port.Info(ctx, in.Stream)
			if err != nil {
				return err
			}
			if err := CheckInput(in, info, low); err != nil {
				return err
			}
			d.Start(low)
			r, err := n.port.Read(ctx, in.Stream, transport.ReadOptions{From: low + 1, Subjects: in.Filter})
			if err != nil {
				return err
			}
			n.deals = append(n.deals, &simDeal{program: program, input: input, d: d, r: r, last: low})
			i = len(n.deals) - 1
		}
		d := n.deals[i]
		ms, err := d.r.Next(ctx, 1+w.rng.IntN(20))
		if err != nil {
			return err
		}
		some = len(ms) > 0
		if err := d.d.Deal(ctx, ms); err != nil {
			return err
		}
		if some {
			d.last = ms[len(ms)-1].Sequence
			w.say("node %d deals %s (%d) up to %d", n.number, in.Stream, input, d.last)
		} else if w.rng.IntN(4) == 0 && d.last > 0 {
			return d.d.Idle(ctx, d.last)
		}
		return nil
	})
	if err != nil {
		w.say("node %d: deal %s: %v", n.number, in.Stream, err)
		n.deals = slices.DeleteFunc(n.deals, func(d *simDeal) bool { return d.program == program && d.input == input })
		switch {
		case errors.Is(err, errWorld), errors.Is(err, errCrashed), errors.Is(err, transport.ErrDoubt):
		case errors.Is(err, transport.ErrGap) && w.hasRead(n, program, input): // it starts again behind the cut
		default:
			w.fail("deal %s: %v", in.Stream, err)
		}
		return true
	}
	return some
}

// hasRead tells whether all partitions of a program on a node have read what is cut from an input. Those that have
// lost their place need not; they are closed.
func (w *world) hasRead(n *simNode, program, input int) bool {
	n.seats = slices.DeleteFunc(n.seats, func(s *seat) bool { return s.place.program == program && s.place.owner != s })
	quiet := w.quiet
	w.quiet = true
	defer func() { w.quiet = quiet }()
	info, err := w.streams.Info(context.Background(), w.inputs[program][input].Stream)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(n.seats, func(s *seat) bool {
		return s.place.program == program && s.opened && s.p.Sequence(input)+1 < info.First
	})
}

// publish stores a message of some events in the entry.
func (w *world) publish() {
	var payload strings.Builder
	var es []*simEvent
	var bad []uint32
	index := uint32(0)
	n := 1
	if w.rng.IntN(3) == 0 {
		n = 1 + w.rng.IntN(6)
	}
	for range n {
		if w.rng.Float64() < w.plan.mischief/4 {
			payload.WriteString([]string{"no json", `{"id":}`, `[1,2]`, `{"a":1,"a":2}`}[w.rng.IntN(4)] + "\n")
			bad = append(bad, index)
			index++
			continue
		}
		w.events++
		e := newEvent(w.rng, w.programs, w.events, w.now, w.plan.mischief)
		if p := w.programs[0]; p.timed {
			late := simLateness.Milliseconds()
			if p.lates && w.rng.IntN(4) == 0 {
				late *= 4
			}
			w.high = max(w.high, w.now.UnixMilli())
			e.time = w.high - w.rng.Int64N(late)
			if w.rng.IntN(3) == 0 {
				e.time = w.high
			}
			w.high += w.rng.Int64N(600)
		}
		if e.index = index; n > 1 {
			e.pad /= 3 // all of them are one message
		}
		index++
		es = append(es, e)
		payload.WriteString(e.json() + "\n")
	}
	seq, err := w.streams.Append(context.Background(), "IN", transport.Outgoing{Subject: fmt.Sprintf("in.%d", n), Data: []byte(payload.String())})
	if err != nil {
		panic(err)
	}
	w.say("publish %d: %s", seq, payload.String())
	for _, i := range bad {
		w.model.check.Want("dead "+w.programs[0].name, fmt.Sprintf("%d.%d @:malformed", seq, i))
	}
	for _, e := range es {
		e.sequence = seq
		w.model.enter(e)
	}
}

// step lets one thing happen.
func (w *world) step() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch k := w.rng.IntN(103); {
	case k >= 100:
		if len(n.seats) > 0 {
			w.snapshot(n.seats[w.rng.IntN(len(n.seats))])
		}
	case k < 15:
		if w.events < w.plan.events {
			w.publish()
		}
	case k < 35:
		p := w.rng.IntN(len(w.programs))
		w.deal(n, p, w.rng.IntN(len(w.inputs[p])))
	case k < 75:
		if len(n.seats) > 0 {
			w.work(n.seats[w.rng.IntN(len(n.seats))])
		}
	case k < 82:
		w.now = w.now.Add(time.Duration(w.rng.IntN(1500)) * time.Millisecond)
		if len(n.seats) > 0 {
			s := n.seats[w.rng.IntN(len(n.seats))]
			w.still(s)
			w.closed(s, "tick", w.guard(n, s, func() error { return s.p.Tick(context.Background()) }))
		}
	case k < 92:
		pl := w.places[w.rng.IntN(len(w.places))]
		if pl.owner == nil {
			w.open(pl, n)
		} else if w.rng.Float64() < w.plan.steal*10 {
			w.open(pl, n)
		}
	case k < 94:
		if w.rng.Float64() < w.plan.crash*10 {
			w.crash(n, "idle")
		}
	case k < 96:
		if len(n.seats) > 0 {
			w.retry(n.seats[w.rng.IntN(len(n.seats))], w.rng.IntN(2) == 0)
		}
	case k < 98:
		p := w.rng.IntN(len(w.programs))
		w.cutHandOffs(p, 1)
		if w.programs[p].load != "" {
			w.cutHandOffs(p, 0)
		}
	case k < 98+1 && w.programs[0].timed && w.rng.IntN(2) == 0:
		w.tellTime(n)
	case k < 99:
		if w.streams.DeliverLate() {
			w.say("a late write arrives")
			w.count["late write"]++
		}
	default:
		w.damageSnapshot()
	}
}

func (w *world) work(s *seat) {
	err := w.guard(s.node, s, func() error {
		taken, err := s.p.Work(context.Background())
		w.say("node %d: %s took %d rows, at %d %v", s.node.number, s.place.name, taken, s.p.meta.Sequence, s.p.meta.Positions)
		return err
	})
	w.closed(s, "work", err)
}

// retry takes up dead letters again: those that may have another end now, and some that have not.
func (w *world) retry(s *seat, twice bool) {
	var keys [][]byte
	err := w.guard(s.node, s, func() error {
		if err := s.p.DeadLetters(nil, func(l Letter, key []byte) bool {
			if c := classOf(l.Reason); c == "notyet" || (c == "dead" || c == "never" || c == "busy" || c == "no key") && w.rng.IntN(3) == 0 {
				keys = append(keys, key)
				if twice {
					keys = append(keys, key)
				}
			}
			return len(keys) < 10
		}); err != nil || len(keys) == 0 {
			return err
		}
		n, left, err := s.p.Retry(context.Background(), keys)
		w.say("node %d: %s retries %d letters, %d left", s.node.number, s.place.name, n, len(left))
		if err == nil && len(left) > 0 {
			w.fail("retry: %v", left)
		}
		w.count["retried letters"] += n
		return err
	})
	w.closed(s, "retry", err)
}

// cutHandOffs removes what all owners have committed of an input.
func (w *world) cutHandOffs(program, input int) {
	stream := w.inputs[program][input].Stream
	low, some := uint64(0), false
	for _, pl := range w.places {
		if pl.program != program {
			continue
		}
		if pl.owner == nil || !pl.owner.opened {
			return
		}
		if at := pl.owner.p.Sequence(input); !some || at < low {
			low, some = at, true
		}
	}
	if some && low > 0 {
		w.say("%s is cut up to %d", stream, low)
		w.count["hand-offs cut"]++
		quiet := w.quiet
		w.quiet = true
		if err := w.streams.Cut(context.Background(), stream, "", low+1); err != nil {
			panic(err)
		}
		w.quiet = quiet
	}
}

// snapshot moves a partition's snapshot on by some steps, and begins one if there is none.
func (w *world) snapshot(s *seat) {
	err := w.guard(s.node, s, func() error {
		w.count["snapshot"]++
		if s.p.snapshots.writing == nil {
			s.p.beginSnapshot()
		}
		for n := 1 + w.rng.IntN(20); n > 0 && s.p.snapshots.writing != nil; n-- {
			w.still(s)
			if err := s.p.moveSnapshot(context.Background()); err != nil {
				return err
			}
		}
		w.say("node %d: %s has %d and %d as its snapshots", s.node.number, s.place.name, s.p.meta.SnapshotSequence, s.p.meta.SnapshotBeforeSequence)
		return nil
	})
	w.closed(s, "snapshot", err)
}

// still plants a mutant's mistake into a snapshot that is being written.
func (w *world) still(s *seat) {
	if w.mutant != nil && w.mutant.still && s.p.snapshots.writing != nil {
		s.p.snapshots.writing.run.keys = keyList{}
	}
}

// objectsOf names the objects that a partition's snapshot needs.
func (w *world) objectsOf(p *Partition, name string) (names []string) {
	names = []string{name}
	o, err := openSnapshot(context.Background(), w.objects, name)
	if err != nil || o.manifest == nil {
		return names
	}
	for _, c := range o.manifest.Chunks {
		names = append(names, chunkName(p.snapshotPrefix(), c))
		if c.Sequence != o.manifest.Sequence {
			w.count["chunk shared"]++
		}
	}
	for _, r := range o.manifest.Runs {
		for _, c := range r.Chunks {
			names = append(names, chunkName(p.snapshotPrefix(), c))
			if c.Sequence != o.manifest.Sequence {
				w.count["chunk of a run shared"]++
			}
		}
	}
	if len(o.manifest.Epochs) > 0 {
		w.count["snapshot over epochs"]++
	}
	return names
}

// damageSnapshot loses or damages one of the two snapshots that a partition has, never both: an object that the other
// one does not need.
func (w *world) damageSnapshot() {
	pl := w.places[w.rng.IntN(len(w.places))]
	s := pl.owner
	if s == nil || !s.opened || s.p.snapshots.writing != nil || s.p.meta.Snapshot == "" || s.p.meta.SnapshotBefore == "" {
		return
	}
	ctx := context.Background()
	quiet := w.quiet
	w.quiet = true
	defer func() { w.quiet = quiet }()
	if err := s.p.verifySnapshot(ctx, s.p.meta.Snapshot); err != nil {
		return
	}
	if err := s.p.verifySnapshot(ctx, s.p.meta.SnapshotBefore); err != nil {
		return
	}
	of, other := s.p.meta.SnapshotBefore, s.p.meta.Snapshot
	newest := w.rng.IntN(2) == 0
	if newest {
		of, other = other, of
	}
	needed := w.objectsOf(s.p, other)
	alone := slices.DeleteFunc(w.objectsOf(s.p, of), func(name string) bool { return slices.Contains(needed, name) })
	name := alone[w.rng.IntN(len(alone))]
	// Of the newest one an object goes: one that is there, but damaged, would be found only in its turn, and the next
	// snapshot might share it.
	if !newest && w.rng.IntN(2) == 0 {
		w.count["snapshot damaged"]++
		w.objects.Corrupt(name, w.rng.IntN(1000))
		return
	}
	w.count["snapshot lost"]++
	if newest {
		w.count["newest snapshot lost"]++
	}
	if err := w.objects.Delete(ctx, name); err != nil {
		panic(err)
	}
}

// tidied lets every partition take two snapshots: then there is what these need, and nothing else.
func (w *world) tidied() (errs []error) {
	for _, pl := range w.places {
		p := pl.owner.p
		for range 2 {
			if err := p.Snapshot(context.Background()); err != nil {
				return append(errs, fmt.Errorf("%s: snapshot: %w", pl.name, err))
			}
		}
		var want []string
		for _, name := range []string{p.meta.Snapshot, p.meta.SnapshotBefore} {
			if err := p.verifySnapshot(context.Background(), name); err != nil {
				errs = append(errs, fmt.Errorf("%s: snapshot %s: %w", pl.name, name, err))
			}
			want = append(want, w.objectsOf(p, name)...)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		got, err := w.objects.List(context.Background(), p.snapshotPrefix())
		if err != nil || !slices.Equal(got, want) {
			errs = append(errs, fmt.Errorf("%s: its objects are %q, %w; its two snapshots need %q", pl.name, got, err, want))
		}
	}
	return errs
}

// settle lets everything run to its end, with all time that it needs.
func (w *world) settle() {
	for w.streams.DeliverLate() {
		w.count["late write"]++
	}
	for rounds, still := 0, 0; still < 3; rounds++ {
		if w.err != nil {
			return
		}
		if rounds > 3000 {
			w.fail("it does not come to rest")
			return
		}
		moved := false
		for _, pl := range w.places {
			if pl.owner == nil {
				w.open(pl, w.nodes[w.rng.IntN(len(w.nodes))])
				moved = true
			}
		}
		for _, n := range w.nodes {
			for p := range w.programs {
				for i := range w.inputs[p] {
					moved = w.deal(n, p, i) || moved
				}
			}
			for _, s := range slices.Clone(n.seats) {
				if s.opened && s.p.Queued() > 0 {
					w.work(s)
					moved = true
				}
			}
			if rounds%5 == 4 || !moved {
				for _, s := range slices.Clone(n.seats) {
					if !s.opened {
						continue
					}
					if s.p.unwritten || s.p.owes() || slices.ContainsFunc(s.p.pending.order, func(q *pendingQueue) bool { return q.rows[0].due != parked }) {
						moved = true
					}
					w.closed(s, "tick", w.guard(n, s, func() error { return s.p.Tick(context.Background()) }))
				}
			}
		}
		w.now = w.now.Add(600 * time.Millisecond)
		if still++; moved {
			still = 0
		}
	}
}

// finish mends the world outside, takes all up again that was waiting for it, and lets all come to its end.
func (w *world) finish() {
	w.settle()
	w.outside.mended = true
	for range 500 {
		if w.err != nil {
			return
		}
		left := 0
		for _, pl := range w.places {
			var keys, hopeless [][]byte
			err := pl.owner.p.DeadLetters(nil, func(l Letter, key []byte) bool {
				if classOf(l.Reason) == "notyet" {
					keys = append(keys, key)
				} else if l.Parked {
					hopeless = append(hopeless, key)
				}
				return true
			})
			if err == nil && len(hopeless) > 0 {
				w.count["dropped parked rows"] += len(hopeless)
				left += len(hopeless)
				var n int
				if n, err = pl.owner.p.Drop(context.Background(), append(hopeless, hopeless...)); err == nil && n != len(hopeless) {
					w.fail("%d of %d parked rows were dropped", n, len(hopeless))
				}
			}
			if err == nil && len(keys) > 0 {
				left += len(keys)
				_, _, err = pl.owner.p.Retry(context.Background(), keys)
				if err == nil {
					var n int
					if n, _, err = pl.owner.p.Retry(context.Background(), keys); err == nil && n > 0 {
						w.fail("a second retry of the same letters took up %d", n)
					}
				}
			}
			if w.closed(pl.owner, "retry", err) {
				left++
			}
		}
		w.settle()
		if left == 0 {
			return
		}
	}
	w.fail("dead letters come again although all is mended")
}

// run is the whole run of a seed. It returns what is wrong in the end.
func (w *world) run() error {
	for steps := 0; w.err == nil && (w.events < w.plan.events || steps < 4*w.plan.events); steps++ {
		w.step()
		if steps == 2*w.plan.events && !w.programs[0].timed && w.rng.IntN(3) == 0 {
			w.revise()
		}
	}
	w.quiet = true
	w.finish()
	if w.programs[0].timed && w.err == nil {
		w.count["timed"]++
		for range 3 { // who is told may have lost its place without knowing, and then its successor has to be told
			w.end()
			w.settle()
		}
		w.model.close()
	}
	if w.err != nil {
		return w.err
	}
	if errs := w.tidied(); len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, n := range w.nodes { // what is there has to be there after a crash of everything, too
		w.crash(n, "the end")
		for _, pl := range w.places {
			if w.seed%2 == 0 { // and after the loss of all stores
				if err := w.store(n, pl.name).s.Clear(); err != nil {
					return err
				}
			}
		}
	}
	w.settle()
	if w.err != nil {
		return w.err
	}
	return w.verify()
}

// revise lets everything come to rest and makes the next revision of the flows: with one step more.
func (w *world) revise() {
	quiet := w.quiet
	w.quiet = true
	w.finish()
	w.outside.mended = false
	if w.err != nil {
		return
	}
	w.count["revised"]++
	w.revision++
	for i, p := range w.programs {
		at := 1 + w.rng.IntN(len(p.steps))
		must := p.steps[0].must
		for _, in := range p.steps[:at] { // of a stage that there is: its partitions are open
			if len(in.must) > 0 {
				must = in.must
			}
		}
		kind := "check"
		if len(must) > 0 {
			kind = "list"
		}
		p.steps = slices.Insert(slices.Clone(p.steps), at, instruction{name: fmt.Sprintf("%s_new%d", p.name, w.revision), kind: kind, must: must, keeps: true})
		p.note()
		w.flows[i] = p.flow(&w.outside, w.revision, w.inputs[i])
		w.say("program %s: %+v", p.name, *p)
	}
	w.quiet = quiet
	for _, pl := range w.places {
		if s := pl.owner; s != nil {
			w.closed(s, "revise", w.guard(s.node, s, func() error { return s.p.Revise(context.Background(), w.flows[pl.program]) }))
		}
	}
	for _, n := range w.nodes { // zombies are of the old revision; they get no more input
		n.deals = nil
		for _, s := range slices.Clone(n.seats) {
			if s.place.owner != s {
				n.seats = slices.DeleteFunc(n.seats, func(o *seat) bool { return o == s })
			}
		}
	}
}

// verify compares everything with what the model says.
func (w *world) verify() error {
	ctx := context.Background()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	check := w.model.check
	position := make(map[string]map[string]int) // of every member in every list
	for _, pl := range w.places {
		p := pl.owner.p
		f := w.flows[pl.program]
		if p.pending.rows != 0 {
			q := p.pending.order[0]
			wrong("%s: %d rows still wait, the first one at %s: %v", pl.name, p.pending.rows, p.steps[q.step].Name, q.rows[0].row)
		}
		for i := range f.Steps {
			s := &f.Steps[i]
			if len(s.Must) == 0 || stageName(s.Must) != p.stage || !s.Function.Traits().Stateful {
				continue
			}
			if s.Function.Name() == "window" {
				if err := p.States(s.Name, nil, func(k KeyState, _ []byte) bool {
					wrong("%s: the window of %s is still open: %s", pl.name, k.Key, k.State)
					return true
				}); err != nil {
					wrong("%s: states of %s: %v", pl.name, s.Name, err)
				}
				continue
			}
			err := p.States(s.Name, nil, func(k KeyState, _ []byte) bool {
				name := listName(f.Name, s.Name, k.Key.String())
				st, err := parseSimState(k.State)
				if err != nil {
					wrong("%s: %v", name, err)
					return false
				}
				if to := partitionOf(k.Key.Slot(), w.plan.partitions); to != p.number {
					wrong("%s is in partition %d and belongs to %d", name, p.number, to)
				}
				check.Got(name, st.IDs...)
				if st.Sum != w.model.sums[name] {
					wrong("%s: the sum is %d, want %d", name, st.Sum, w.model.sums[name])
				}
				at := make(map[string]int)
				for i, id := range st.IDs {
					at[id] = i + 1
				}
				position[name] = at
				return true
			})
			if err != nil {
				wrong("%s: states of %s: %v", pl.name, s.Name, err)
			}
		}
		letters := uint64(0)
		err := p.DeadLetters(nil, func(l Letter, _ []byte) bool {
			if l.Parked {
				return true // told of above
			}
			letters++
			member := fmt.Sprintf("%d.%d @:malformed", l.Sequence, l.Index)
			if !l.Malformed {
				row, err := kis.ParseRow(l.Data)
				if err != nil {
					wrong("%s: dead letter %s: %v", pl.name, l.ID, err)
					return true
				}
				member = fmt.Sprintf("%d.%d %s@%s:%s", l.Sequence, l.Index, memberOf(text(row, "id"), int(number(row, "pass"))), l.Step, classOf(l.Reason))
			}
			if l.Stream != "IN" {
				wrong("%s: dead letter %s is of stream %q", pl.name, l.ID, l.Stream)
			}
			check.Got("dead "+f.Name, member)
			return true
		})
		if err != nil {
			wrong("%s: dead letters: %v", pl.name, err)
		}
		if letters != p.DeadLetterCount() {
			wrong("%s: it counts %d dead letters and has %d", pl.name, p.DeadLetterCount(), letters)
		}
		errs = append(errs, w.checkLog(pl)...)
	}
	for i, p := range w.programs {
		r, err := w.streams.Read(ctx, outStream(p.name), transport.ReadOptions{})
		if err != nil {
			return err
		}
		places := make(map[string]int64) // of the rows of each key, the last one in its list
		for {
			ms, err := r.Next(ctx, 1000)
			if err != nil {
				return err
			}
			if len(ms) == 0 {
				break
			}
			for _, m := range ms {
				w.say("%s %d: %s %s %s", outStream(p.name), m.Sequence, m.Subject, m.Get(originHeader), m.Data)
				if strings.HasPrefix(m.Subject, "KISFLOW.") {
					continue
				}
				for _, line := range strings.Split(string(m.Data), "\n") {
					row, err := kis.ParseRow([]byte(line))
					if err != nil {
						wrong("output %d of %s: %v", m.Sequence, p.name, err)
						continue
					}
					member := memberOf(text(row, "id"), int(number(row, "pass")))
					if ids := text(row, "members"); ids != "" {
						check.Got("windows "+p.name, member+": "+ids)
						continue
					}
					check.Got("out "+p.name, fmt.Sprintf("%s by %s copy %d", member, text(row, "by"), number(row, "copy")))
					if want := fmt.Sprintf("out.%s.%d", p.name, number(row, "user")); m.Subject != want {
						wrong("output %d of %s is on %s, want %s", m.Sequence, p.name, m.Subject, want)
					}
					w.checkPlaces(i, row, position, wrong)
					w.checkOrder(p, row, places, wrong)
				}
			}
		}
	}
	return errors.Join(append(errs, check.Errors()...)...)
}

// checkOrder looks at the rows to which nothing special has happened: they leave in the order in which the list of
// their last key has them.
func (w *world) checkOrder(p *program, row *kis.Row, places map[string]int64, wrong func(string, ...any)) {
	if text(row, "do") != "" {
		return
	}
	by := p.index(text(row, "by"))
	for i := by - 1; i >= 0; i-- {
		in := p.steps[i]
		if len(in.must) == 0 && in.kind != "split" {
			continue
		}
		n, ok := row.Get("n_" + in.name)
		if !ok {
			return // a split, or a check with a key: the row was elsewhere in between
		}
		key := fmt.Sprint(text(row, "by"), " ", in.name)
		for _, m := range in.must {
			key += fmt.Sprint(" ", number(row, m))
		}
		if p.pack { // of messages of many rows only those on one subject are in order
			key += fmt.Sprint(" on ", number(row, "user"))
		}
		if n.Int() < places[key] {
			wrong("an output of %s, number %d of %s, comes after number %d", p.name, n.Int(), key, places[key])
		}
		places[key] = n.Int()
		return
	}
}

// checkPlaces compares the places in lists that an output tells of with the lists.
func (w *world) checkPlaces(program int, row *kis.Row, position map[string]map[string]int, wrong func(string, ...any)) {
	p := w.programs[program]
	fields := make(map[string]int64)
	for _, f := range []string{"user", "item"} {
		if _, ok := row.Get(f); ok {
			fields[f] = number(row, f)
		}
	}
	for _, in := range p.steps {
		if in.kind != "list" && in.kind != "batch" {
			continue
		}
		n, ok := row.Get("n_" + in.name)
		if !ok {
			continue
		}
		key, _ := keyName(in.must, fields)
		id := text(row, "id")
		list := position[listName(p.name, in.name, key)]
		found := false
		for pass := int(number(row, "pass")); pass >= 0 && !found; pass-- { // it may have jumped after the step
			for at := id; ; { // or have been split
				if list[memberOf(at, pass)] == int(n.Int()) {
					found = true
					break
				}
				cut := strings.LastIndexByte(at, '/')
				if cut < 0 {
					break
				}
				at = at[:cut]
			}
		}
		if _, split := row.Get("split"); !found && !(split && strings.Contains(id, "/") && slices.Contains(in.must, "item")) {
			wrong("an output of %s says that %s was number %d at %s of %s, which it was not", p.name, id, n.Int(), in.name, key)
		}
	}
}

// checkLog reads what is left of a partition's log: numbers without gaps, epochs that only rise.
func (w *world) checkLog(pl *place) (errs []error) {
	p := pl.owner.p
	var number, epoch uint64
	err := p.readLog(context.Background(), 1, p.last, func(r *proto.Record, at logged) error {
		seq := at.last
		if number != 0 && r.Number != number+1 {
			errs = append(errs, fmt.Errorf("%s: record %d at %d follows on %d", pl.name, r.Number, seq, number))
		}
		if r.Epoch < epoch || r.Epoch > epoch && epoch != 0 && r.Kind != proto.Kind_EPOCH {
			errs = append(errs, fmt.Errorf("%s: a record of kind %v at %d is of epoch %d, after epoch %d", pl.name, r.Kind, seq, r.Epoch, epoch))
		}
		number, epoch = r.Number, r.Epoch
		return nil
	})
	if err != nil {
		errs = append(errs, fmt.Errorf("%s: log: %w", pl.name, err))
	}
	return errs
}
