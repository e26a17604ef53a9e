package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// ErrNoState: the key has no state.
var ErrNoState = errors.New("no state")

// ErrWaiting: the partition waits for NATS or for room on a disk, and answers no questions meanwhile.
var ErrWaiting = errors.New("no answer now")

// ErrUnknown: the flow has no such step, or the partition no such dead letter.
var ErrUnknown = errors.New("unknown")

// KeyState is one key's committed state.
type KeyState struct {
	Key      kis.Key
	State    []byte // JSON
	Revision uint64
	Sequence uint64 // entry sequence of the event that changed it last
	Time     time.Time
	// Commit is the place of the partition's log that the answer is of: who asks again and wants nothing older says so.
	Commit uint64
}

// Confirm writes an empty record: whoever gets it into the log is the partition's owner, and has all that was committed
// before.
func (p *Partition) Confirm(ctx context.Context) error { return p.finish(ctx, p.begin()) }

// Letter is one dead letter.
type Letter struct {
	ID string
	*proto.DeadLetter
	// Parked says that the row waits at its step and holds up its key (on_error: park_key): Retry lets it try
	// again, and Drop lets the next one go on.
	Parked bool
}

// State returns the committed state of a function instance. Between two calls of Work nothing is uncommitted.
func (p *Partition) State(step string, key kis.Key) (KeyState, error) {
	s, err := p.stateful(step)
	if err != nil {
		return KeyState{}, err
	}
	v, err := p.value(s, key)
	if err != nil {
		return KeyState{}, err
	}
	if v == nil || len(v.State) == 0 { // timers alone are no state
		return KeyState{}, ErrNoState
	}
	return KeyState{Key: key, State: bytes.Clone(v.State), Revision: v.Revision, Sequence: v.Sequence, Time: time.Unix(0, v.Time).UTC()}, nil
}

func (p *Partition) stateful(name string) (*step, error) {
	i := p.stepNamed(name)
	if i < 0 || !p.steps[i].here {
		return nil, fmt.Errorf("%w: step %q", ErrUnknown, name)
	}
	return &p.steps[i], nil
}

// States calls f for the keys of a step after a place, in the store's order, until f returns false. The place
// of an entry is what the next page starts after.
func (p *Partition) States(step string, after []byte, f func(e KeyState, place []byte) bool) error {
	s, err := p.stateful(step)
	if err != nil {
		return err
	}
	from := []byte{stateKind}
	if after != nil {
		from = append(bytes.Clone(after), 0)
	}
	var fault error
	for from != nil {
		next := []byte(nil)
		err = p.ports.Store.Scan(from, []byte{stateKind + 1}, func(k, v []byte) bool {
			name, key, err := parseInstanceKey(k)
			if err != nil {
				fault = err
				return false
			}
			if name != s.Name { // on to this step's keys in this slot, or to the next slot
				slot := uint16(k[1])<<8 | uint16(k[2])
				want := appendInstanceKey(nil, stateKind, slot, s.Name, nil)
				if bytes.Compare(want, k) <= 0 {
					want = appendInstanceKey(nil, stateKind, slot+1, s.Name, nil)
					if slot == kis.Slots-1 {
						return false
					}
				}
				next = want
				return false
			}
			var val proto.Value
			err = proto.ParseValue(v, &val)
			if err == nil && (len(val.State) == 0 || s.others(&val)) {
				return true
			}
			if err == nil {
				var kk kis.Key
				if kk, err = kis.KeyFromCanonical(s.Must, string(key)); err == nil {
					return f(KeyState{Key: kk, State: bytes.Clone(val.State), Revision: val.Revision, Sequence: val.Sequence, Time: time.Unix(0, val.Time).UTC()}, bytes.Clone(k))
				}
			}
			fault = err
			return false
		})
		if err == nil {
			err = fault
		}
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// DeadLetters calls f for the dead letters after an id's key, oldest first, and then for the rows that are parked at
// their steps, until f returns false.
func (p *Partition) DeadLetters(after []byte, f func(l Letter, key []byte) bool) error {
	for _, kind := range []byte{deadKind, pendingKind} {
		from := []byte{kind}
		if after != nil && after[0] > kind {
			continue
		}
		if after != nil && after[0] == kind {
			from = append(bytes.Clone(after), 0)
		}
		more := true
		var fault error
		err := p.ports.Store.Scan(from, []byte{kind + 1}, func(k, v []byte) bool {
			l, ok, err := p.letter(k, v)
			if fault = err; err != nil {
				return false
			}
			more = !ok || f(l, bytes.Clone(k))
			return more
		})
		if err == nil {
			err = fault
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// letter reads a dead letter, or a row that waits; ok is false for one that waits for its retry only.
func (p *Partition) letter(k, v []byte) (l Letter, ok bool, err error) {
	if k[0] == pendingKind {
		return p.parkedLetter(k, v)
	}
	l = Letter{ID: deadID(p.stage, p.number, p.flow.Generation, k), DeadLetter: new(proto.DeadLetter)}
	err = l.DeadLetter.UnmarshalVT(v)
	return l, err == nil, err
}

// DeadLetter returns the one of a key, or ErrUnknown.
func (p *Partition) DeadLetter(key []byte) (Letter, error) {
	b, err := p.ports.Store.Get(key)
	if err != nil {
		return Letter{}, err
	}
	if b != nil {
		l, ok, err := p.letter(key, b)
		if ok || err != nil {
			return l, err
		}
	}
	return Letter{}, fmt.Errorf("%w: no dead letter %s", ErrUnknown, deadID(p.stage, p.number, p.flow.Generation, key))
}

// DeadLetterCount is how many dead letters the partition holds.
func (p *Partition) DeadLetterCount() uint64 { return p.meta.DeadLetters }

// once returns the keys without repeats: a letter that a command names twice is one letter.
func once(keys [][]byte) [][]byte {
	seen := make(map[string]bool, len(keys))
	return slices.DeleteFunc(slices.Clone(keys), func(k []byte) bool {
		again := seen[string(k)]
		seen[string(k)] = true
		return again
	})
}

// WatermarkStatus explains the watermark of one step in one partition.
type WatermarkStatus struct {
	Partition string
	Step      string
	Time      time.Time // no older row is expected; the zero time: none known yet
	Ended     bool      // the inputs have ended: nothing is expected any more
	Sources   []WatermarkSource
	Timers    int       // that are in memory for the watermark to reach
	Next      time.Time // the first of them
}

// WatermarkSource is one of those whose lowest a watermark is.
type WatermarkSource struct {
	Name  string    // a stream, a partition, or "step NAME"
	Time  time.Time // its own watermark; the zero time: none known yet
	Idle  bool      // it brings nothing, and is not waited for
	Holds bool      // it is the lowest: the watermark waits for it
	Since time.Time // of an input, when it brought something last; the zero time: not known
}

// Watermarks explains the watermarks of all steps that rows reach in this partition.
func (p *Partition) Watermarks() []WatermarkStatus {
	if !p.timed {
		return nil
	}
	t := &p.time
	var all []WatermarkStatus
	for i := range p.steps {
		if !t.reached[i] {
			continue
		}
		st := WatermarkStatus{Partition: p.name, Step: p.steps[i].Name, Time: moment(t.at[i]), Ended: t.at[i] == endOfTime}
		var low *WatermarkSource
		least := int64(endOfTime)
		source := func(name string, w int64, idle bool) {
			st.Sources = append(st.Sources, WatermarkSource{Name: name, Time: moment(w), Idle: idle})
			if !idle && w < least {
				least, low = w, &st.Sources[len(st.Sources)-1]
			}
		}
		st.Sources = make([]WatermarkSource, 0, 1+len(t.inputs[i])+len(t.senders[i])) // low points into it
		if t.local[i] {
			source("step "+p.steps[i-1].Name, t.at[i-1], false)
		}
		for _, k := range t.inputs[i] {
			w, waits := p.inputMark(k)
			if !waits {
				w = behind(t.high[k], t.setting.Lateness)
			}
			source(p.flow.Inputs[k].Name, w, !waits)
		}
		for _, from := range t.senders[i] {
			w, known := t.marks[from][p.steps[i].Name]
			if !known {
				w = unknown
			}
			source("partition "+from, w, false)
		}
		if low != nil {
			low.Holds = true
		}
		if q := &p.timers[i][eventTimers]; len(q.next) > 0 {
			st.Timers, st.Next = len(q.next), moment(entryTime(q.next[0]))
		}
		all = append(all, st)
	}
	return all
}

// Drop removes dead letters; those that are gone already are not counted.
func (p *Partition) Drop(ctx context.Context, keys [][]byte) (int, error) {
	w := p.begin()
	n := 0
	for _, k := range once(keys) {
		if k[0] == pendingKind {
			if p.dropParked(w, k) {
				n++
			}
			continue
		}
		b, err := p.ports.Store.Get(k)
		if err != nil {
			return 0, err
		}
		if b != nil {
			w.put(k, nil)
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	return n, p.finish(ctx, w)
}

// Retry takes dead letters up again at the step that set them aside, under the current revision. One record
// removes them and holds what they came to (P14). What was no row, or whose step is gone, stays.
func (p *Partition) Retry(ctx context.Context, keys [][]byte) (retried int, left []error, err error) {
	w := p.begin()
	for _, k := range once(keys) {
		if k[0] == pendingKind {
			ok, err := p.retryParked(ctx, w, k)
			if err != nil {
				return 0, nil, err
			}
			if ok {
				retried++
			}
			continue
		}
		b, err := p.ports.Store.Get(k)
		if err != nil {
			return 0, nil, err
		}
		if b == nil {
			continue
		}
		var d proto.DeadLetter
		if err := d.UnmarshalVT(b); err != nil {
			return 0, nil, err
		}
		id := deadID(p.stage, p.number, p.flow.Generation, k)
		i := p.stepNamed(d.Step)
		switch {
		case d.Malformed:
			left = append(left, fmt.Errorf("%s: its bytes are no JSON object: publish a corrected event and drop it", id))
			continue
		case i < 0:
			left = append(left, fmt.Errorf("%s: the flow has no step %q any more", id, d.Step))
			continue
		}
		row, err := kis.ParseRow(d.Data)
		if err != nil {
			left = append(left, fmt.Errorf("%s: %w", id, err))
			continue
		}
		meta := &kis.Meta{Stream: d.Stream, Subject: d.Subject, Sequence: d.Sequence, Index: d.Index, Time: time.Unix(0, d.EventTime).UTC(), Passes: d.Passes}
		w.order = w.rows
		w.rows++
		retried++
		w.put(k, nil)
		err = p.walkOn(ctx, w, row, meta, i, 0, false, d.Loaded)
		if err == nil {
			err = p.unpile(ctx, w) // before the next letter has its turn
		}
		if err != nil {
			return 0, nil, err
		}
	}
	if retried == 0 {
		return 0, left, nil
	}
	return retried, left, p.finish(ctx, w)
}
