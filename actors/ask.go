package actors

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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

// Read says what an answer must hold.
type Read struct {
	// Consistent asks for all that was committed before the question: the partition's owner shows by a record that it is the
	// owner. Without it the answer may be that of a node that does not know yet that it is the owner no more.
	Consistent bool
	// AtLeast is a KeyState.Commit: nothing older is an answer.
	AtLeast uint64
}

// State asks the function instance of a step's key for its committed state. With ErrNoState the answer's Commit is set all
// the same.
func (r *Running) State(ctx context.Context, step string, key kis.Key, read Read) (KeyState, error) {
	f := r.Definition()
	s, err := f.StepOf(step)
	if err != nil {
		return KeyState{}, err
	}
	e, err := stateQuestion.ask(ctx, r, f.ownerOf(s, key.Slot()), stateOf{step, []byte(key.Canonical()), read.Consistent, read.AtLeast})
	if err != nil {
		return KeyState{}, err
	}
	if e.None {
		return KeyState{Key: key, Commit: e.Commit}, ErrNoState
	}
	return e.of(s)
}

// States returns up to limit keys of a step with their states, from a place on ("" for the first page), and
// the place of the next page ("" after the last). With prefix only keys whose text begins so are returned.
func (r *Running) States(ctx context.Context, step, place string, limit int, prefix string) (entries []KeyState, next string, err error) {
	f := r.Definition()
	s, err := f.StepOf(step)
	if err != nil {
		return nil, "", err
	}
	number, after, err := parsePlace(place)
	if err != nil {
		return nil, "", err
	}
	for ; number < f.Partitions; number++ {
		l, err := statesQuestion.ask(ctx, r, f.partitionID(stageName(s.Must), number), pageOf{step, after, limit - len(entries), prefix})
		if err != nil {
			return entries, "", err
		}
		for _, k := range l.Entries {
			e, err := k.of(s)
			if err != nil {
				return entries, "", err
			}
			entries = append(entries, e)
		}
		if l.Next != nil {
			return entries, makePlace(number, l.Next), nil
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

// Snapshot makes each partition on this node take a snapshot of its state as it is now, and waits until they are
// announced and what they make needless is deleted.
func (r *Running) Snapshot(ctx context.Context) error {
	want := make(map[*cell]uint64)
	for _, c := range r.all() {
		if c.dead() {
			return fmt.Errorf("partition %s has stopped: %w", c.name, c.why())
		}
		if err := c.ask(ctx, func(p *Partition) error {
			want[c] = p.meta.Sequence
			return nil
		}); err != nil {
			return err
		}
	}
	for len(want) > 0 {
		for c, at := range want {
			done := false
			if err := c.ask(ctx, func(p *Partition) error {
				switch s := &p.snapshots; {
				case s.writing != nil:
				case p.meta.SnapshotSequence >= at:
					done = true
				case s.faults > 0 && p.ports.Clock.Now().Before(s.after):
					return fmt.Errorf("partition %s: the snapshot has come to nothing; the log says why", p.name)
				default:
					p.beginSnapshot()
					c.moveSnapshot()
				}
				return nil
			}); err != nil {
				return err
			}
			if done {
				delete(want, c)
			}
		}
		if err := r.system.clock.Sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// DeadLetters returns up to limit dead letters from a place on, and the next place.
func (r *Running) DeadLetters(ctx context.Context, place string, limit int, filter LetterFilter) (letters []Letter, next string, err error) {
	number, after, err := parsePlace(place)
	if err != nil {
		return nil, "", err
	}
	for places := r.places(); number < len(places); number++ {
		l, err := lettersQuestion.ask(ctx, r, places[number], lettersOf{after, limit - len(letters), filter})
		if err != nil {
			return letters, "", err
		}
		if letters = append(letters, l.Letters...); l.Next != nil {
			return letters, makePlace(number, l.Next), nil
		}
		after = nil
	}
	return letters, "", nil
}

// DeadLetter returns one dead letter.
func (r *Running) DeadLetter(ctx context.Context, id string) (l Letter, err error) {
	at, key, err := r.letter(id)
	if err != nil {
		return l, err
	}
	return letterQuestion.ask(ctx, r, at, key)
}

func (r *Running) letter(id string) (PartitionID, []byte, error) {
	at, key, err := parseDeadID(id)
	if err != nil {
		return PartitionID{}, nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	for _, p := range r.places() {
		if Token(p.Stage) == at.Stage && p.Number == at.Number && p.Generation == at.Generation {
			return p, key, nil
		}
	}
	return PartitionID{}, nil, fmt.Errorf("%w: no dead letter %s", ErrUnknown, id)
}

// maxLetters is how many dead letters one command takes up in one record.
const maxLetters = 500

// Retry takes dead letters up again. It returns how many, and why others were left.
func (r *Running) Retry(ctx context.Context, ids []string) (n int, left []error, err error) {
	err = r.eachLetters(ids, func(at PartitionID, keys [][]byte) error {
		a, err := retryCommand.ask(ctx, r, at, keys)
		n += a.N
		for _, l := range a.Left {
			left = append(left, errors.New(l))
		}
		return err
	})
	return n, left, err
}

// DropLetters removes dead letters.
func (r *Running) DropLetters(ctx context.Context, ids []string) (n int, err error) {
	err = r.eachLetters(ids, func(at PartitionID, keys [][]byte) error {
		k, err := dropCommand.ask(ctx, r, at, keys)
		n += k
		return err
	})
	return n, err
}

func (r *Running) eachLetters(ids []string, f func(PartitionID, [][]byte) error) error {
	keys := make(map[PartitionID][][]byte)
	var order []PartitionID
	for _, id := range ids {
		at, key, err := r.letter(id)
		if err != nil {
			return err
		}
		if keys[at] == nil {
			order = append(order, at)
		}
		keys[at] = append(keys[at], key)
	}
	for _, at := range order {
		for ks := range slices.Chunk(keys[at], maxLetters) {
			if err := f(at, ks); err != nil {
				return err
			}
		}
	}
	return nil
}

// InputStatus is how far an input has been read on this node.
type InputStatus struct {
	Kind    InputKind
	Stream  string
	Filter  []string
	Step    int    // at which its rows go on
	Dealt   uint64 // all up to here has been handed to the partitions
	Last    uint64 // the newest message that concerns the flow
	Lag     uint64 // messages above Dealt, at the most
	Waiting int    // rows handed over and not committed
	Reason  error  // why it is not being read
	index   int    // among the flow's inputs
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
		if d.over.Load() {
			continue
		}
		in := &d.flow.Inputs[d.input]
		st := InputStatus{Kind: in.Kind, Stream: in.Stream, Filter: in.Filter, Step: in.Step, Dealt: d.dealt.Load(), index: d.input}
		filter := in.Filter
		d.mu.Lock()
		st.Reason = d.reason
		if d.dealer != nil {
			filter = d.dealer.filter()
		}
		d.mu.Unlock()
		newest, err := r.newest(limit, in.Stream, filter)
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
	Node        string // that it runs on, in a merged report
	State       string // recovering, running, waiting, stopped; in a merged report also moving
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
