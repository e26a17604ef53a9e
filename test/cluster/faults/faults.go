// Package faults breaks what the machines of a rig stand on, again and again, several things at a time, from a seed.
//
// Every fault shows that it had an effect: that a killed leader had led and another one leads then, that a cut link lets
// nothing through, that a slow disk is slow. It heals what it broke, and events have to be acknowledged and counted again
// afterwards. A fault without an effect is a failure, as is a run without traffic: it would prove nothing.
package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/test/cluster/rig"
)

// World is what faults are done to.
type World struct {
	Rig     *rig.Rig
	Stream  jetstream.JetStream
	Acked   func() int64                               // events that are acknowledged so far
	Counted func() int64                               // events that are counted so far, at least
	Ctl     func(*rig.Node, ...string) (string, error) // runs kisctl
	Refused *regexp.Regexp                             // what a node says that was refused, or gave up what it had
	Older   string                                     // folder of an older build; empty: there is none
	Logf    func(format string, args ...any)
}

// Kind is a way to break something.
type Kind struct {
	Name string
	Why  func(*World) error // why it cannot be had here; nil: it can
	Do   func(*Fault) error // breaks, shows the effect, heals
}

// Fault is one that is being done.
type Fault struct {
	*World
	Kind   *Kind
	Number int
	Random *rand.Rand

	claims *claims
	mine   []*rig.Machine
	result *Result
}

// Result is what became of a fault.
type Result struct {
	Number     int
	Kind       string
	On         string // machines
	Begin, End time.Time
	Effects    []Effect
	Traffic    int64 // events that were acknowledged meanwhile
	Err        error
}

// Effect is something that was seen, and how long it took; 0: no time.
type Effect struct {
	What string
	Took time.Duration
}

// Saw writes down an effect.
func (f *Fault) Saw(what string, took time.Duration) {
	f.result.Effects = append(f.result.Effects, Effect{what, took})
}

// Between is a random time.
func (f *Fault) Between(least, most time.Duration) time.Duration {
	return least + time.Duration(f.Random.Int64N(int64(most-least)))
}

// claims are machines that a fault has for itself.
type claims struct {
	mu    sync.Mutex
	taken map[*rig.Machine]bool
}

// try takes n of the machines, if so many are free, chosen at random.
func (c *claims) try(random *rand.Rand, n int, among []*rig.Machine) []*rig.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	free := slices.DeleteFunc(slices.Clone(among), func(m *rig.Machine) bool { return c.taken[m] })
	if len(free) < n {
		return nil
	}
	random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for _, m := range free[:n] {
		c.taken[m] = true
	}
	return free[:n]
}

func (c *claims) release(ms []*rig.Machine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range ms {
		delete(c.taken, m)
	}
}

// Claim waits until n of the machines are free and takes them until the fault ends. The others' faults go on meanwhile.
func (f *Fault) Claim(n int, among []*rig.Machine) ([]*rig.Machine, error) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if ms := f.claims.try(f.Random, n, among); ms != nil {
			f.took(ms)
			return ms, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no %d machines are free after %v", n, patience)
		}
	}
}

// took notes what the fault has.
func (f *Fault) took(ms []*rig.Machine) {
	f.mine = append(f.mine, ms...)
	var names []string
	for _, m := range f.mine {
		names = append(names, m.Name)
	}
	f.result.On = strings.Join(names, " ")
}

// One claims one machine.
func (f *Fault) One(among []*rig.Machine) (*rig.Machine, error) {
	ms, err := f.Claim(1, among)
	if err != nil {
		return nil, err
	}
	return ms[0], nil
}

const (
	patience   = 2 * time.Minute  // with a fault, and with what comes after it
	flowWithin = 90 * time.Second // after a fault events have to be acknowledged and counted again
)

// Run does so many faults of the kinds, so many at a time, and returns what became of them. It ends early when nothing
// flows after a fault, or when a program crashes.
func Run(ctx context.Context, w *World, kinds []*Kind, seed uint64, count, overlap int) []*Result {
	var able []*Kind
	for _, k := range kinds {
		if k.Why != nil {
			if err := k.Why(w); err != nil {
				w.Logf("left out: %s: %v", k.Name, err)
				continue
			}
		}
		able = append(able, k)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	var plan []*Kind
	for len(plan) < count { // every kind about as often as every other
		round := slices.Clone(able)
		random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		plan = append(plan, round...)
	}
	plan = plan[:count]
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	results := make([]*Result, 0, count)
	var mu sync.Mutex
	next := 0
	c := &claims{taken: make(map[*rig.Machine]bool)}
	var done sync.WaitGroup
	for range overlap {
		done.Go(func() { // ends with the plan
			for {
				mu.Lock()
				if next == len(plan) || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				f := &Fault{World: w, Kind: plan[next], Number: next + 1, claims: c,
					Random: rand.New(rand.NewPCG(seed, 1000+uint64(next))), result: &Result{Number: next + 1, Kind: plan[next].Name}}
				next++
				results = append(results, f.result)
				mu.Unlock()
				f.run(ctx)
				if crashed := w.Rig.Crashes(); len(crashed) > 0 && f.result.Err == nil {
					f.result.Err = errCrash
				}
				if errors.Is(f.result.Err, errStill) || errors.Is(f.result.Err, errCrash) {
					stop()
				}
			}
		})
	}
	done.Wait()
	return results
}

// A run ends when nothing flows any more, and when a program has crashed: what comes after proves nothing.
var (
	errStill = errors.New("nothing flows")
	errCrash = errors.New("a program has crashed: its log says where")
)

func (f *Fault) run(ctx context.Context) {
	r := f.result
	time.Sleep(f.Between(0, 500*time.Millisecond))
	r.Begin = time.Now()
	before := f.Acked()
	r.Err = f.Kind.Do(f)
	f.claims.release(f.mine)
	r.Traffic = f.Acked() - before
	if err := f.flows(ctx); err != nil && r.Err == nil {
		r.Err = err
	}
	r.End = time.Now()
	var effects []string
	for _, e := range r.Effects {
		effects = append(effects, e.String())
	}
	f.Logf("%3d %-28s %-8s %5.1fs %6d events; %s%s", r.Number, r.Kind, r.On, r.End.Sub(r.Begin).Seconds(), r.Traffic, strings.Join(effects, "; "), failure(r.Err))
}

func (e Effect) String() string {
	if e.Took == 0 {
		return e.What
	}
	return fmt.Sprintf("%s after %v", e.What, e.Took.Round(10*time.Millisecond))
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("; FAILED: %.500v", err)
}

// flows waits until events are acknowledged and counted that were not when it was called.
func (f *Fault) flows(ctx context.Context) error {
	begin := time.Now()
	acked, counted := f.Acked(), f.Counted()
	for f.Acked() == acked || f.Counted() == counted {
		if time.Since(begin) > flowWithin {
			return fmt.Errorf("%w %v after the fault: %d events more are acknowledged, %d counted", errStill, flowWithin, f.Acked()-acked, f.Counted()-counted)
		}
		select {
		case <-ctx.Done():
			return nil // another one has failed
		case <-time.After(10 * time.Millisecond):
		}
	}
	f.Saw("flows again", time.Since(begin))
	return nil
}

// Summary is a line for each kind: how often, how many failed, what was seen, how often and at most after which time.
func Summary(results []*Result) string {
	type seen struct {
		times   int
		longest time.Duration
	}
	type kind struct {
		done, failed int
		effects      map[string]*seen
		order        []string
	}
	kinds := make(map[string]*kind)
	var names []string
	for _, r := range results {
		k := kinds[r.Kind]
		if k == nil {
			k = &kind{effects: make(map[string]*seen)}
			kinds[r.Kind] = k
			names = append(names, r.Kind)
		}
		k.done++
		if r.Err != nil {
			k.failed++
		}
		for _, e := range r.Effects {
			s := k.effects[e.What]
			if s == nil {
				s = &seen{}
				k.effects[e.What] = s
				k.order = append(k.order, e.What)
			}
			s.times++
			s.longest = max(s.longest, e.Took)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		k := kinds[name]
		fmt.Fprintf(&b, "%-28s %3d done, %d failed", name, k.done, k.failed)
		for _, what := range k.order {
			s := k.effects[what]
			fmt.Fprintf(&b, "; %d %s", s.times, what)
			if s.longest > 0 {
				fmt.Fprintf(&b, " (%v at most)", s.longest.Round(10*time.Millisecond))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Judge says what is wrong with a run: faults that failed, and too little traffic to prove anything.
func Judge(results []*Result, count int) error {
	var errs []error
	var traffic int64
	busy := 0
	for _, r := range results {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("fault %d, %s on %s: %w", r.Number, r.Kind, r.On, r.Err))
		}
		if traffic += r.Traffic; r.Traffic > 0 {
			busy++
		}
	}
	if len(results) < count {
		errs = append(errs, fmt.Errorf("%d of %d faults were done", len(results), count))
	}
	if busy*2 < len(results) || traffic < leastTraffic*int64(len(results)) {
		errs = append(errs, fmt.Errorf("%d events were acknowledged during the faults, some during %d of %d: the run proves too little", traffic, busy, len(results)))
	}
	return errors.Join(errs...)
}

// leastTraffic is how many events have to be acknowledged during a fault, on average.
const leastTraffic = 50
