package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// The simulation runs whole nodes over one memory transport, in a bubble whose clock jumps from event to event. A seed
// decides what happens to them: they are killed and started again, paused, cut off from the streams; acknowledgements
// are lost, and writes arrive late. What must hold while that goes on is checked whenever an engine is told something,
// and in the end, when nothing happens any more, every group must have found its one owner.

var (
	simSeeds = flag.Int("sim.seeds", 1000, "how many schedules TestSimulation runs")
	simLog   = flag.String("sim.log", "", "where TestSimulation writes the log of a schedule that failed")
	simSeed  = flag.Uint64("sim.seed", 0, "the only schedule that TestSimulation runs")
)

const (
	simLease  = 2 * time.Second
	simGroups = 24
)

// world is what the nodes of a schedule live in.
type world struct {
	t       *testing.T
	seed    uint64
	streams *memory.Streams
	network *Network
	log     *slog.Logger

	mu     sync.Mutex
	random *rand.Rand
	calm   bool                   // no faults any more
	nodes  map[string]*simNode    // those that run, by name
	starts map[[2]uint64]*simNode // (number of a table, group): who was told that it owns
	faults []string
	counts map[string]int
}

// simNode is a process.
type simNode struct {
	w       *world
	name    string
	started int // of that name
	c       *Cluster
	joined  chan struct{}
	giveUp  func() // ends its Join

	mu      sync.Mutex
	dead    bool          // killed: nothing of it has an effect any more
	paused  chan struct{} // not nil: closed when it goes on
	resumed time.Duration // when it went on last
	cut     bool          // no way to the streams
	lease   bool          // it heeds the lease

	view     View
	open     map[int]bool          // groups that it runs
	released map[int]bool          // and those that it must hold closed until it is told that they are not its own
	lagging  map[int]time.Duration // groups: when their copies are near the end
}

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

// chance is true once in n times while there are faults.
func (w *world) chance(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.calm && w.random.IntN(n) == 0
}

func (w *world) faultf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < 10 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// gate holds a node up while it is paused, and lets a killed one go no further.
func (n *simNode) gate(ctx context.Context) error {
	for {
		n.mu.Lock()
		dead, paused := n.dead, n.paused
		n.mu.Unlock()
		switch {
		case dead:
			<-ctx.Done() // its goroutines end with its membership
			return ctx.Err()
		case paused == nil:
			return ctx.Err()
		}
		select {
		case <-paused:
		case <-ctx.Done():
			n.mu.Lock()
			still := n.paused != nil && !n.dead
			n.mu.Unlock()
			if !still {
				return ctx.Err()
			}
			<-paused // nothing of a paused process goes on, not even a time-out
		}
	}
}

// Now and Timer are the clock of a node: timers of a paused one do not fire.
func (n *simNode) Now() time.Duration { return time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) }

func (n *simNode) Timer(d time.Duration) (<-chan time.Time, func()) {
	fired, quit := make(chan time.Time, 1), make(chan struct{})
	t := time.NewTimer(d)
	go func() {
		defer t.Stop()
		select {
		case <-t.C:
		case <-quit:
			return
		}
		for {
			n.mu.Lock()
			paused, dead := n.paused, n.dead
			n.mu.Unlock()
			if paused == nil || dead {
				fired <- time.Now()
				return
			}
			select {
			case <-paused:
			case <-quit:
				return
			}
		}
	}()
	var once sync.Once
	return fired, func() { once.Do(func() { close(quit) }) }
}

// Place is the engine's.
func (n *simNode) Place(v View) {
	w := n.w
	n.mu.Lock()
	if n.dead {
		n.mu.Unlock()
		return
	}
	if v.Number < n.view.Number {
		w.faultf("node %s is placed at %d after %d", n.name, v.Number, n.view.Number)
	}
	var gained []int
	for g, r := range v.Roles {
		was := Elsewhere
		if g < len(n.view.Roles) {
			was = n.view.Roles[g]
		}
		if r == Owner && n.released[g] {
			w.faultf("group %d is node %s's again, and after it was released nothing said that it was not", g, n.name)
		}
		if r != Owner {
			delete(n.released, g)
			if n.open[g] { // it closes in its own time
				go n.close(g)
			}
			if r == Elsewhere {
				delete(n.lagging, g)
			} else if _, ok := n.lagging[g]; !ok {
				n.lagging[g] = n.Now() + time.Duration(w.n(300))*time.Millisecond
			}
			continue
		}
		if was != Owner {
			gained = append(gained, g)
		}
		n.open[g] = true
	}
	n.view = v
	n.mu.Unlock()
	w.count("views")

	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range gained {
		key := [2]uint64{v.Number, uint64(g)}
		if other := w.starts[key]; other != nil && other != n {
			w.faults = append(w.faults, fmt.Sprintf("group %d: %s(%d) and %s(%d) may both start it at number %d", g, other.name, other.started, n.name, n.started, v.Number))
		}
		w.starts[key] = n
		for _, other := range w.nodes {
			if other == n || !other.lease {
				continue
			}
			other.mu.Lock()
			// One that was paused notices within a moment that it is too late; until then the fence is all there is.
			if other.open[g] && !other.dead && other.paused == nil && n.Now()-other.resumed > 100*time.Millisecond {
				w.faults = append(w.faults, fmt.Sprintf("at %s group %d: %s(%d) still believes that it owns it (number %d) when %s(%d) begins (number %d)", time.Since(simStart), g, other.name, other.started, other.view.Number, n.name, n.started, v.Number))
			}
			other.mu.Unlock()
		}
	}
}

var simStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Caught is the engine's: copies take a moment.
func (n *simNode) Caught(g int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.lagging[g]
	return ok && n.Now() >= at
}

// close closes a group, if it is not this node's again.
func (n *simNode) close(g int) {
	_ = wait(context.Background(), time.Duration(n.w.n(40))*time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.view.Roles[g] != Owner {
		delete(n.open, g)
	}
}

// Release is the engine's: it takes a moment, and fails now and then.
func (n *simNode) Release(ctx context.Context, groups []int) error {
	for {
		if err := n.gate(ctx); err != nil {
			return err
		}
		n.mu.Lock()
		left := 0
		for _, g := range groups {
			if n.view.Roles[g] == Owner {
				n.w.faultf("group %d of node %s is to be released, and it was not told that it is not its own", g, n.name)
			}
			if n.open[g] {
				left++
			}
		}
		if left == 0 {
			for _, g := range groups {
				n.released[g] = true
			}
		}
		n.mu.Unlock()
		if left == 0 {
			n.w.count("released")
			return nil
		}
		if n.w.chance(50) {
			return errors.New("one partition does not close")
		}
		if err := wait(ctx, 3*time.Millisecond); err != nil {
			return err
		}
	}
}

// Answer is the engine's.
func (n *simNode) Answer(ctx context.Context, c Call) ([]byte, error) {
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.Flow != "" && !n.open[c.Group] {
		return nil, ErrNotOwner
	}
	return []byte(n.name), nil
}

// simStreams are the streams as one node has them.
type simStreams struct {
	*memory.Streams
	n *simNode
}

var errCut = errors.New("no servers available")

// effect runs f as the network has it.
func (s simStreams) effect(ctx context.Context, f func() error) error {
	w := s.n.w
	if err := s.n.gate(ctx); err != nil {
		return err
	}
	if err := s.n.reach(ctx); err != nil {
		return err
	}
	if err := wait(ctx, time.Duration(w.n(4000))*time.Microsecond); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrDoubt, err)
	}
	if w.chance(40) {
		w.count("refused")
		return errCut
	}
	if err := s.n.gate(ctx); err != nil {
		return err
	}
	err := f()
	if err := s.n.gate(ctx); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrDoubt, err)
	}
	if err := wait(ctx, time.Duration(w.n(4000))*time.Microsecond); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrDoubt, err)
	}
	return err
}

// reach waits out a time-out where the node is cut off.
func (n *simNode) reach(ctx context.Context) error {
	n.mu.Lock()
	cut := n.cut
	n.mu.Unlock()
	if !cut {
		return nil
	}
	if n.w.n(2) == 0 {
		_ = wait(ctx, 50*time.Millisecond)
		return errCut
	}
	_ = wait(ctx, 5*time.Second)
	return fmt.Errorf("%w: %w", transport.ErrDoubt, errCut)
}

func (s simStreams) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	var seq uint64
	w := s.n.w
	if w.chance(40) { // it arrives, but late
		w.count("late")
		m.Data = bytes.Clone(m.Data)
		go func() {
			_ = wait(context.Background(), time.Duration(w.n(3000))*time.Millisecond)
			_, _ = s.Streams.Append(context.Background(), stream, m)
		}()
		_ = wait(ctx, time.Duration(w.n(1500))*time.Millisecond)
		return 0, transport.ErrDoubt
	}
	lost := w.chance(40)
	err := s.effect(ctx, func() (err error) {
		seq, err = s.Streams.Append(context.Background(), stream, m)
		return err
	})
	if err == nil && lost {
		w.count("lost")
		_ = wait(ctx, time.Duration(w.n(1500))*time.Millisecond)
		return 0, transport.ErrDoubt
	}
	return seq, err
}

func (s simStreams) LastOn(ctx context.Context, stream, subject string) (m transport.Message, err error) {
	err = s.effect(ctx, func() error {
		m, err = s.Streams.LastOn(context.Background(), stream, subject)
		return err
	})
	return m, err
}

func (s simStreams) Ensure(ctx context.Context, c transport.Config) (i transport.Info, err error) {
	err = s.effect(ctx, func() error {
		i, err = s.Streams.Ensure(context.Background(), c)
		return err
	})
	return i, err
}

func (s simStreams) Read(ctx context.Context, stream string, o transport.ReadOptions) (r transport.Reader, err error) {
	err = s.effect(ctx, func() error {
		r, err = s.Streams.Read(context.Background(), stream, o)
		return err
	})
	return simReader{r, s}, err
}

// simReader is a watch that lags, and breaks now and then.
type simReader struct {
	transport.Reader
	s simStreams
}

func (r simReader) Next(ctx context.Context, max int) ([]transport.Message, error) {
	ms, err := r.Reader.Next(ctx, max)
	if err != nil {
		return nil, err
	}
	ms = slices.Clone(ms)
	n := r.s.n
	if err := wait(ctx, time.Duration(n.w.n(6000))*time.Microsecond); err != nil {
		return nil, err
	}
	if n.w.chance(60) { // it hangs
		_ = wait(ctx, time.Duration(n.w.n(4000))*time.Millisecond)
	}
	if n.w.chance(60) {
		return nil, errCut
	}
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	if err := n.reach(ctx); err != nil {
		return nil, err
	}
	return ms, nil
}

// start starts a process of a name. It joins by itself.
func (w *world) start(name string, generation int, lease bool) {
	n := &simNode{w: w, name: name, started: generation, joined: make(chan struct{}), lease: lease, open: map[int]bool{}, released: map[int]bool{}, lagging: map[int]time.Duration{}}
	w.mu.Lock()
	w.nodes[name] = n
	w.mu.Unlock()
	w.count("starts")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	n.giveUp = cancel
	go func() {
		defer close(n.joined)
		defer cancel()
		for ctx.Err() == nil {
			n.mu.Lock()
			dead := n.dead
			n.mu.Unlock()
			if dead {
				return
			}
			c, err := Join(ctx, simStreams{w.streams, n}, n, Options{
				Name: "sim", Node: name, Lease: simLease, Groups: simGroups, Standbys: 1, Moves: 6, IgnoreLease: !lease,
				Clock: n, Network: w.network, Log: w.log.With("self", fmt.Sprintf("%s(%d)", name, generation)),
			})
			if err == nil {
				n.mu.Lock()
				n.c = c
				n.mu.Unlock()
				return
			}
			w.log.Info("join", "node", name, "error", err)
			_ = wait(ctx, 500*time.Millisecond)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.dead {
			return
		}
		w.faultf("node %s(%d) does not join", name, generation)
	}()
}

// kill ends a process; nothing that it had under way has an effect.
func (n *simNode) kill() {
	n.mu.Lock()
	n.dead = true
	paused := n.paused
	n.paused = nil
	n.mu.Unlock()
	if paused != nil {
		close(paused)
	}
	n.giveUp()
	go func() {
		<-n.joined
		n.mu.Lock()
		c := n.c
		n.mu.Unlock()
		if c != nil {
			c.Close()
		}
	}()
}

func (n *simNode) pause(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case on && n.paused == nil:
		n.paused = make(chan struct{})
	case !on && n.paused != nil:
		n.resumed = n.Now()
		close(n.paused)
		n.paused = nil
	}
}

func (n *simNode) number() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		return 0
	}
	return n.c.Table().Number
}

func runSchedule(t *testing.T, seed uint64, lease bool, log *slog.Logger) *world {
	w := &world{
		t: t, seed: seed, streams: memory.New(memory.Options{}), network: &Network{}, log: log, random: rand.New(rand.NewPCG(seed, 1)),
		nodes: map[string]*simNode{}, starts: map[[2]uint64]*simNode{}, counts: map[string]int{},
	}
	names := []string{"a", "b", "c", "d"}[:2+w.n(3)]
	started := map[string]int{}
	begin := func(name string) {
		started[name]++
		w.start(name, started[name], lease)
	}
	for _, name := range names {
		begin(name)
		_ = wait(context.Background(), time.Duration(w.n(500))*time.Millisecond)
	}
	up := map[string]bool{}
	for _, name := range names {
		up[name] = true
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		_ = wait(context.Background(), time.Duration(w.n(2500))*time.Millisecond)
		name := names[w.n(len(names))]
		w.mu.Lock()
		n := w.nodes[name]
		w.mu.Unlock()
		n.mu.Lock()
		c := n.c
		n.mu.Unlock()
		what := w.n(12)
		log.Info("happens", "what", what, "node", name, "at", time.Since(simStart))
		switch {
		case !up[name]:
			begin(name)
			up[name] = true
		case what < 2:
			w.count("kills")
			n.kill()
			up[name] = false
			if w.n(2) == 0 { // back at once
				begin(name)
				up[name] = true
			}
		case what < 5:
			w.count("pauses")
			n.pause(true)
			_ = wait(context.Background(), time.Duration(w.n(6000))*time.Millisecond)
			n.pause(false)
		case what < 8:
			w.count("cuts")
			n.mu.Lock()
			n.cut = true
			n.mu.Unlock()
			_ = wait(context.Background(), time.Duration(w.n(6000))*time.Millisecond)
			n.mu.Lock()
			n.cut = false
			n.mu.Unlock()
		case what < 9 && c != nil:
			w.count("leaves")
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(w.n(10))*time.Second)
			err := c.Leave(ctx)
			cancel()
			log.Info("left", "node", name, "error", err)
			n.kill()
			up[name] = false
		case what < 11 && c != nil:
			w.count("drains")
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(w.n(4000))*time.Millisecond)
			_ = c.Drain(ctx, names[w.n(len(names))], w.n(2) == 0)
			cancel()
		}
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	for _, name := range names {
		if !up[name] {
			begin(name)
		}
	}
	w.mu.Lock()
	nodes := w.nodes
	w.mu.Unlock()
	for _, n := range nodes {
		<-n.joined
		if n.c == nil {
			continue
		}
		for _, name := range names {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := n.c.Drain(ctx, name, false); err != nil {
				w.faultf("undrain when all is calm: %v", err)
			}
			cancel()
		}
	}
	settled := func() string {
		numbers := map[uint64]bool{}
		owners := make([]string, simGroups)
		low := simGroups / len(names)
		for _, n := range nodes {
			if n.c == nil {
				return n.name + " has not joined"
			}
			if err := n.c.Err(); err != nil {
				return fmt.Sprintf("%s: %v", n.name, err)
			}
			table := n.c.Table()
			numbers[table.Number] = true
			n.mu.Lock()
			for g := range n.open {
				if owners[g] != "" {
					n.mu.Unlock()
					return fmt.Sprintf("group %d is run by %s and %s", g, owners[g], n.name)
				}
				owners[g] = n.name
			}
			mine := len(n.open)
			n.mu.Unlock()
			if mine < low || mine > low+1 {
				return fmt.Sprintf("node %s has %d of %d groups", n.name, mine, simGroups)
			}
			for g := range table.Groups {
				if table.Groups[g].Next != "" || len(table.Groups[g].Standbys) != 1 {
					return fmt.Sprintf("group %d: %+v", g, table.Groups[g])
				}
			}
		}
		if len(numbers) != 1 {
			return fmt.Sprintf("tables %v", numbers)
		}
		return ""
	}
	why, since, number := "", time.Now(), uint64(0)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && time.Since(since) < 5*time.Second; {
		why = settled()
		if now := nodes[names[0]].number(); why != "" || now != number {
			since, number = time.Now(), now
		}
		_ = wait(context.Background(), 100*time.Millisecond)
	}
	switch {
	case why != "":
		w.faultf("30 s after all faults: %s", why)
	case time.Since(since) < 5*time.Second:
		w.faultf("the table is written again and again, up to number %d", number)
	default:
		first := nodes[names[0]]
		for g := range simGroups { // and all can be asked
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if _, err := first.c.Ask(ctx, Identity{Flow: "f", Group: g}, "x", nil, Repeatable); err != nil {
				w.faultf("ask: %v", err)
			}
			cancel()
		}
	}
	for _, n := range nodes {
		n.kill()
	}
	_ = wait(context.Background(), 10*time.Second) // late writes
	return w
}

func TestSimulation(t *testing.T) { simulate(t, true) }

// TestSimulationWithoutLease lets no node give up anything because of time: tables alone keep the promise of one
// owner at a number.
func TestSimulationWithoutLease(t *testing.T) { simulate(t, false) }

func simulate(t *testing.T, lease bool) {
	first, last := uint64(1), uint64(*simSeeds)
	if testing.Short() || raceEnabled {
		last = min(last, 60)
	}
	if !lease {
		last = (last + 9) / 10
	}
	if *simSeed > 0 {
		first, last = *simSeed, *simSeed
	}
	total := map[string]int{}
	failed := 0
	for seed := first; seed <= last && failed < 5; seed++ {
		synctest.Test(t, func(t *testing.T) {
			var kept bytes.Buffer // goroutines of one instant run in any order: a seed alone does not repeat a run
			w := runSchedule(t, seed, lease, slog.New(slog.NewTextHandler(&kept, &slog.HandlerOptions{Level: slog.LevelDebug})))
			if len(w.faults) > 0 {
				failed++
				if *simLog != "" {
					_ = os.WriteFile(*simLog, kept.Bytes(), 0o600)
				}
			}
			for _, f := range w.faults {
				t.Errorf("seed %d: %s", seed, f)
			}
			for k, n := range w.counts {
				total[k] += n
			}
		})
	}
	t.Logf("%d schedules: %v", last-first+1, total)
	for _, what := range []string{"kills", "pauses", "cuts", "leaves", "drains", "late", "lost", "refused"} {
		if total[what] == 0 && last-first > 20 {
			t.Errorf("no %s happened", what)
		}
	}
}
