package actors

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// StepOf returns the flow's step of a name, or ErrUnknown.
func (f *Flow) StepOf(name string) (*Step, error) {
	var names []string
	for i := range f.Steps {
		if f.Steps[i].Name == name {
			return &f.Steps[i], nil
		}
		names = append(names, f.Steps[i].Name)
	}
	return nil, fmt.Errorf("%w: flow %s has no step %q; it has %s", ErrUnknown, f.Name, name, strings.Join(names, ", "))
}

// State asks the function instance of a step's key for its committed state.
func (r *Running) State(ctx context.Context, step string, key kis.Key) (KeyState, error) {
	s, err := r.Definition().StepOf(step)
	if err != nil {
		return KeyState{}, err
	}
	c, err := r.partitionOfKey(s, key)
	if err != nil {
		return KeyState{}, err
	}
	var e KeyState
	err = c.query(ctx, func(p *Partition) (err error) {
		e, err = p.State(step, key)
		return err
	})
	return e, err
}

// States returns up to limit keys of a step with their states, from a place on ("" for the first page), and
// the place of the next page ("" after the last). With match only keys for which it is true are returned.
func (r *Running) States(ctx context.Context, step, place string, limit int, match func(kis.Key) bool) (entries []KeyState, next string, err error) {
	s, err := r.Definition().StepOf(step)
	if err != nil {
		return nil, "", err
	}
	number, after, err := parsePlace(place)
	if err != nil {
		return nil, "", err
	}
	for ; number < r.system.opt.Partitions; number++ {
		c := r.cell(PartitionName(r.name, stageName(s.Must), number))
		if c == nil {
			return nil, "", fmt.Errorf("%w: step %s keeps no state by key", ErrUnknown, step)
		}
		looked := 0
		err := c.query(ctx, func(p *Partition) error {
			return p.States(step, after, func(e KeyState, at []byte) bool {
				if looked++; match == nil || match(e.Key) {
					entries = append(entries, e)
				}
				if len(entries) >= limit || looked >= 100_000 { // a look through many keys does not hold up the partition's work for long
					next = makePlace(number, at)
					return false
				}
				return true
			})
		})
		if err != nil || next != "" {
			return entries, next, err
		}
		after = nil
	}
	return entries, "", nil
}

// makePlace and parsePlace write where a page ends: the partition's number, and its store's key.
func makePlace(number int, key []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.AppendUvarint(nil, uint64(number)), key...))
}

func parsePlace(place string) (number int, after []byte, err error) {
	if place == "" {
		return 0, nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(place)
	n, w := binary.Uvarint(b)
	if err != nil || w <= 0 || n > 1<<20 {
		return 0, nil, fmt.Errorf("%w: place %q is not one of a list's next", ErrUnknown, place)
	}
	return int(n), b[w:], nil
}

// DeadLetters returns up to limit dead letters from a place on, and the next place.
func (r *Running) DeadLetters(ctx context.Context, place string, limit int, match func(Letter) bool) (letters []Letter, next string, err error) {
	number, after, err := parsePlace(place)
	if err != nil {
		return nil, "", err
	}
	cells := r.all()
	for ; number < len(cells); number++ {
		looked := 0
		err := cells[number].query(ctx, func(p *Partition) error {
			return p.DeadLetters(after, func(l Letter, at []byte) bool {
				if looked++; match == nil || match(l) {
					letters = append(letters, l)
				}
				if len(letters) >= limit || looked >= 100_000 {
					next = makePlace(number, at)
					return false
				}
				return true
			})
		})
		if err != nil || next != "" {
			return letters, next, err
		}
		after = nil
	}
	return letters, "", nil
}

// DeadLetter returns one dead letter.
func (r *Running) DeadLetter(ctx context.Context, id string) (l Letter, err error) {
	c, key, err := r.letter(id)
	if err != nil {
		return l, err
	}
	err = c.query(ctx, func(p *Partition) (err error) {
		l, err = p.DeadLetter(key)
		return err
	})
	return l, err
}

func (r *Running) letter(id string) (*cell, []byte, error) {
	stage, number, key, err := parseDeadID(id)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	for _, c := range r.all() {
		if Token(c.stage) == stage && c.number == number {
			return c, key, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: no dead letter %s", ErrUnknown, id)
}

// maxLetters is how many dead letters one command takes up in one record.
const maxLetters = 500

// Retry takes dead letters up again. It returns how many, and why others were left.
func (r *Running) Retry(ctx context.Context, ids []string) (n int, left []error, err error) {
	err = r.eachLetters(ctx, ids, func(p *Partition, keys [][]byte) error {
		k, l, err := p.Retry(r.ctx, keys)
		n, left = n+k, append(left, l...)
		return err
	})
	return n, left, err
}

// DropLetters removes dead letters.
func (r *Running) DropLetters(ctx context.Context, ids []string) (n int, err error) {
	err = r.eachLetters(ctx, ids, func(p *Partition, keys [][]byte) error {
		k, err := p.Drop(r.ctx, keys)
		n += k
		return err
	})
	return n, err
}

func (r *Running) eachLetters(ctx context.Context, ids []string, f func(*Partition, [][]byte) error) error {
	keys := make(map[*cell][][]byte)
	var order []*cell
	for _, id := range ids {
		c, key, err := r.letter(id)
		if err != nil {
			return err
		}
		if keys[c] == nil {
			order = append(order, c)
		}
		keys[c] = append(keys[c], key)
	}
	for _, c := range order {
		for ks := keys[c]; len(ks) > 0; {
			n := min(len(ks), maxLetters)
			if err := c.ask(ctx, func(p *Partition) error { return f(p, ks[:n]) }); err != nil {
				return err
			}
			ks = ks[n:]
		}
	}
	return nil
}

// InputStatus is how far an input has been read on this node.
type InputStatus struct {
	Kind    InputKind
	Stream  string
	Filter  []string
	Dealt   uint64 // all up to here has been handed to the partitions
	Last    uint64 // the newest message that concerns the flow
	Lag     uint64 // messages above Dealt, at the most
	Waiting int    // rows handed over and not committed
	Reason  error  // why it is not being read
}

// Inputs tells of all inputs. Of one whose stream does not answer it tells what is known, and the reason.
func (r *Running) Inputs(ctx context.Context) ([]InputStatus, error) {
	r.mu.Lock()
	deals := append([]*deal(nil), r.deals...)
	r.mu.Unlock()
	limit, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var all []InputStatus
	for _, d := range deals {
		in := &d.flow.Inputs[d.input]
		st := InputStatus{Kind: in.Kind, Stream: in.Stream, Filter: in.Filter, Dealt: d.dealt.Load()}
		d.mu.Lock()
		st.Reason = d.reason
		d.mu.Unlock()
		newest, err := r.newest(limit, in)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && st.Reason == nil {
			st.Reason = fmt.Errorf("how far it is behind is not known: %w", err)
		}
		st.Last = max(newest, st.Dealt)
		st.Lag = st.Last - min(st.Last, st.Dealt)
		all = append(all, st)
	}
	return all, nil
}

// PartitionStatus is how a partition is.
type PartitionStatus struct {
	Name        string
	Stage       string
	Number      int
	State       string // recovering, running, waiting, stopped
	Reason      error  // why it has stopped, or what it waits for
	Recovered   uint64 // of Of log positions, while recovering
	Of          uint64
	Epoch       uint64
	Commits     uint64
	Revision    uint64
	Committed   time.Time
	DeadLetters uint64
	StateKeys   int64
	Pending     int
	Waiting     int  // rows in its queue
	Owes        bool // timers are due, or receivers are to be told how far it is
	Snapshot    string
}

// Watermarks explains the watermarks of all steps in all partitions of this node; nothing where the flow does not look
// at event time.
func (r *Running) Watermarks(ctx context.Context) ([]WatermarkStatus, error) {
	if !r.Definition().timed() {
		return nil, nil
	}
	limit, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var all []WatermarkStatus
	for _, c := range r.all() {
		if c.dead() || c.p.waits.Load() != nil {
			continue // its status says why
		}
		if err := c.ask(limit, func(p *Partition) error {
			all = append(all, p.Watermarks()...)
			return nil
		}); err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	since := make(map[string]time.Time)
	r.mu.Lock()
	for _, d := range r.deals {
		d.mu.Lock()
		if d.dealer != nil {
			since[d.flow.Inputs[d.input].Name] = time.Unix(0, d.dealer.brought.Load()).UTC()
		}
		d.mu.Unlock()
	}
	r.mu.Unlock()
	for i := range all {
		for k := range all[i].Sources {
			s := &all[i].Sources[k]
			s.Since = since[s.Name]
		}
	}
	return all, nil
}

// askLimit is how long Inputs and Partitions wait for answers, all together. What does not answer by then is
// told as it was known last, with the reason.
const askLimit = 2 * time.Second

// Partitions tells of all partitions. One that waits, for NATS or for room on a disk, is told as it answered last.
func (r *Running) Partitions(ctx context.Context) ([]PartitionStatus, error) {
	limit, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var all []PartitionStatus
	for _, c := range r.all() {
		all = append(all, c.status(limit))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return all, nil
}

// status tells how the partition is.
func (c *cell) status(ctx context.Context) PartitionStatus {
	c.mu.Lock()
	st := c.known
	c.mu.Unlock()
	waits := c.p.waits.Load()
	if cellState(c.state.Load()) == cellRunning && waits == nil {
		now := PartitionStatus{}
		err := c.ask(ctx, func(p *Partition) error {
			now.Epoch, now.Commits, now.Revision, now.Committed = p.meta.Epoch, p.meta.Number, p.meta.Revision, p.Age()
			now.StateKeys, now.Owes = p.meta.StateKeys, p.owes()
			now.DeadLetters, now.Pending, now.Snapshot = p.meta.DeadLetters, p.pending.rows, p.meta.Snapshot
			c.mu.Lock()
			c.known = now
			c.mu.Unlock()
			return nil
		})
		if err == nil {
			st = now
		} else if waits = c.p.waits.Load(); waits == nil {
			waits = &err
		}
	}
	state := cellState(c.state.Load())
	st.Name, st.Stage, st.Number, st.State = c.name, c.stage, c.number, state.String()
	if state == cellRunning && waits != nil {
		st.State, st.Reason = "waiting", *waits
	}
	c.mu.Lock()
	if c.reason != nil {
		st.Reason = c.reason
	}
	st.Recovered, st.Of = c.done, c.of
	c.mu.Unlock()
	c.credit.mu.Lock()
	st.Waiting = c.credit.rows
	c.credit.mu.Unlock()
	return st
}

// Waiting is how many rows wait for the partitions.
func (r *Running) Waiting() int {
	n := 0
	for _, c := range r.all() {
		c.credit.mu.Lock()
		n += c.credit.rows
		c.credit.mu.Unlock()
	}
	return n
}
