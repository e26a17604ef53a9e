package actors

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// Timers. A key's timers are part of its value in the store; the store also lists them by step and time, so that
// those which are due next are found without looking at the others. Of that list the partition holds the next
// few in memory.
//
// A timer that is moved to a later time stays listed under its former one, and is listed anew when that has
// come: a session that each row prolongs costs one entry, not one a row.

// The two domains of a step's timers, as they stand in the keys of the store.
const (
	eventTimers      = 0
	processingTimers = 1
	timerDomains     = 2
)

// ttlTimer is the name of the timer that ends a key's state; no function can set one of that name.
const ttlTimer = "\x00ttl"

// timer is a timer of an instance.
type timer struct {
	name   string
	domain byte
	at     int64
	queued int64 // the time that it is listed under: at, or an earlier one
}

// timerQueue are the timers of one step and domain, the earliest first. An entry is its key in the store behind the
// prefix: time, slot, and the instance's key.
type timerQueue struct {
	prefix []byte
	next   entryHeap // everything up to upTo
	upTo   string    // what of the store is in next
	all    bool      // all of it is
	fresh  []string  // entries above upTo that a batch has made which is not installed yet
}

// Bounds of what of a queue is in memory.
const (
	timersLoaded = 1024 // entries read at once
	timersKept   = 8192 // entries after a commit; the later ones are read again
)

func timerPrefix(domain byte, step string) []byte {
	b := append([]byte{timerKind}, domain)
	b = binary.AppendUvarint(b, uint64(len(step)))
	return append(b, step...)
}

// appendTimerEntry appends an entry; entries sort by time.
func appendTimerEntry(dst []byte, at int64, slot uint16, key string) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(at)^1<<63)
	dst = append(dst, byte(slot>>8), byte(slot))
	return append(dst, key...)
}

func entryTime(e string) int64 {
	return int64(binary.BigEndian.Uint64([]byte(e[:8])) ^ 1<<63)
}

func entryKey(e string) string { return e[10:] }

// entryHeap is a heap of entries.
type entryHeap []string

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *entryHeap) Push(x any)        { *h = append(*h, x.(string)) }
func (h *entryHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = ""
	*h = (*h)[:last]
	return x
}

// add puts an entry in that the batch in hand makes.
func (q *timerQueue) add(e string) {
	if q.all || e <= q.upTo {
		heap.Push(&q.next, e)
		return
	}
	q.fresh = append(q.fresh, e)
}

// due returns the earliest entry if its time is at or before a time.
func (q *timerQueue) due(limit int64, scan func(from, to []byte, f func(k, v []byte) bool) error) (e string, ok bool, err error) {
	for {
		if len(q.next) > 0 {
			return q.next[0], entryTime(q.next[0]) <= limit, nil
		}
		if q.all || q.upTo != "" && entryTime(q.upTo) > limit {
			return "", false, nil
		}
		if err := q.load(scan); err != nil {
			return "", false, err
		}
	}
}

// load reads the next entries from the store.
func (q *timerQueue) load(scan func(from, to []byte, f func(k, v []byte) bool) error) error {
	from := append(slices.Clone(q.prefix), q.upTo...)
	if q.upTo != "" {
		from = append(from, 0) // behind it
	}
	n := 0
	err := scan(from, keyAfter(q.prefix), func(k, _ []byte) bool {
		if len(k) < len(q.prefix)+10 {
			return true // none of ours
		}
		q.upTo = string(k[len(q.prefix):])
		q.next = append(q.next, q.upTo)
		n++
		return n < timersLoaded
	})
	if err != nil {
		return fmt.Errorf("%w: timers: %w", errStore, err)
	}
	q.all = n < timersLoaded
	rest := q.fresh[:0]
	for _, e := range q.fresh {
		if q.all || e <= q.upTo {
			q.next = append(q.next, e)
		} else {
			rest = append(rest, e)
		}
	}
	q.fresh = rest
	heap.Init(&q.next)
	return nil
}

// keyAfter is the first key behind all that begin with a prefix.
func keyAfter(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// installed notes that the store has all that the batch has made.
func (q *timerQueue) installed() {
	q.fresh = q.fresh[:0]
	if len(q.next) > 2*timersKept {
		slices.Sort(q.next)
		q.upTo, q.all = q.next[timersKept-1], false
		clear(q.next[timersKept:])
		q.next = q.next[:timersKept] // sorted, so a heap
	}
}

// queue returns the queue of a step's timers.
func (p *Partition) timerQueue(step int, domain byte) *timerQueue {
	q := &p.timers[step][domain]
	if q.prefix == nil {
		q.prefix = timerPrefix(domain, p.steps[step].Name)
	}
	return q
}

// list puts a timer into the list, and takes its former entry out where no other timer needs it.
func (p *Partition) list(w *work, in *instance, t *timer, at int64) {
	p.unlist(w, in, t)
	t.queued = at
	q := p.timerQueue(in.step, t.domain)
	e := string(appendTimerEntry(nil, at, in.slot, in.key.Canonical()))
	q.add(e)
	w.put(append(slices.Clone(q.prefix), e...), timerThere)
}

var timerThere = []byte{1}

// noEntry is the time of a timer that is not in the list.
const noEntry = math.MinInt64

func (p *Partition) unlist(w *work, in *instance, t *timer) {
	if t.queued == noEntry {
		return
	}
	at := t.queued
	t.queued = noEntry
	for i := range in.timers {
		if o := &in.timers[i]; o.domain == t.domain && o.queued == at {
			return
		}
	}
	q := p.timerQueue(in.step, t.domain)
	w.put(appendTimerEntry(slices.Clone(q.prefix), at, in.slot, in.key.Canonical()), nil)
}

// maxTimers is how many timers a key may have at a step.
const maxTimers = 10_000

// changeTimers does what a call has asked for.
func (p *Partition) changeTimers(w *work, in *instance, changes []kis.TimerChange) {
	for _, c := range changes {
		if c.At.IsZero() {
			p.stopTimer(w, in, c.Name, byte(c.Domain))
		} else {
			p.setTimer(w, in, c.Name, byte(c.Domain), nanos(c.At))
		}
	}
}

func (p *Partition) setTimer(w *work, in *instance, name string, domain byte, at int64) {
	i := slices.IndexFunc(in.timers, func(t timer) bool { return t.domain == domain && t.name == name })
	if i < 0 {
		if in.step < len(p.time.at) && domain == eventTimers {
			p.time.finished = false // it may be due already
		}
		in.timers = append(in.timers, timer{name: name, domain: domain, queued: noEntry})
		i = len(in.timers) - 1
	}
	t := &in.timers[i]
	t.at = at
	if t.queued == noEntry || at < t.queued {
		if domain == eventTimers {
			p.time.finished = false
		}
		p.list(w, in, t, at)
		t = nil
	}
}

func (p *Partition) stopTimer(w *work, in *instance, name string, domain byte) {
	i := slices.IndexFunc(in.timers, func(t timer) bool { return t.domain == domain && t.name == name })
	if i >= 0 {
		p.removeTimer(w, in, i)
	}
}

func (p *Partition) removeTimer(w *work, in *instance, i int) {
	t := in.timers[i]
	in.timers = slices.Delete(in.timers, i, i+1)
	p.unlist(w, in, &t)
}

// fireDue fires a step's timers up to a time. It says false when the batch is full.
func (p *Partition) fireDue(ctx context.Context, w *work, step int, domain byte, limit int64) (done bool, err error) {
	if !p.steps[step].keyed || p.steps[step].runner == nil {
		return true, nil
	}
	q := p.timerQueue(step, domain)
	for {
		e, due, err := q.due(limit, p.ports.Store.Scan)
		if err != nil || !due {
			return err == nil, err
		}
		if w.rows+w.fired >= p.opt.BatchRows && w.fired > 0 && !w.shifting { // what waits in the batch is part of it
			return false, nil
		}
		if w.piled && !w.shifting { // rows that wait in the batch come before what the watermark ends
			if err := p.unpile(ctx, w); err != nil {
				return false, err
			}
			continue
		}
		heap.Pop(&q.next)
		w.fired++
		if err := p.fire(ctx, w, step, domain, e, limit); err != nil {
			return false, err
		}
	}
}

// fire calls the function for the timers of one key that are listed under one time.
func (p *Partition) fire(ctx context.Context, w *work, step int, domain byte, e string, limit int64) error {
	s := &p.steps[step]
	listed := entryTime(e)
	drop := func() { w.put(append(slices.Clone(p.timerQueue(step, domain).prefix), e...), nil) }
	in, err := p.instance(s, []byte(entryKey(e)))
	if isOwn(err) {
		return err
	}
	if err != nil {
		drop()
		p.timerLetter(w, s, kis.TrustedKey(s.Must, entryKey(e)), kis.Timer{At: moment(listed)}, err)
		return nil
	}
	p.own(w, in)
	var due []timer
	for i := 0; i < len(in.timers); {
		t := &in.timers[i]
		switch {
		case t.domain != domain || t.queued != listed:
			i++
		case t.at > listed:
			w.touch(in)
			p.list(w, in, t, t.at)
			i++
		case t.name == ttlTimer && p.ended:
			i++ // the end of the input is not the end of what is remembered
		default:
			w.touch(in)
			due = append(due, *t)
			p.removeTimer(w, in, i)
		}
	}
	slices.SortFunc(due, func(a, b timer) int { return strings.Compare(a.name, b.name) })
	if len(due) == 0 && !slices.ContainsFunc(in.timers, func(t timer) bool { return t.domain == domain && t.queued == listed }) {
		drop() // a former one's
	}
	for _, t := range due {
		if t.name == ttlTimer {
			err = p.expire(w, s, in, domain, limit)
		} else {
			err = p.callTimer(ctx, w, s, in, kis.Timer{Name: t.name, Domain: kis.TimeDomain(domain), At: moment(t.at)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// callTimer calls the function for a timer.
func (p *Partition) callTimer(ctx context.Context, w *work, s *step, in *instance, t kis.Timer) error {
	if !w.shifting { // else it has the place of the row before
		w.order++
	}
	meta := &kis.Meta{Sequence: in.sequence, Time: t.At}
	c, release := s.borrow()
	defer release()
	c.Rows, c.Metas = c.Rows[:0], append(c.Metas[:0], meta)
	c.Timer = &t
	p.ready(ctx, w, s, c)
	if t.Domain == kis.EventTime && c.Watermark.Before(t.At) {
		c.Watermark = t.At
	}
	if t.Domain == kis.ProcessingTime && c.Now.Before(t.At) {
		c.Now = t.At // the run has ended before its time
	}
	c.Key, c.State = in.key, in.state
	s.meter.timer()
	err := s.handle(p.ports.Clock, c)
	if err == nil && len(in.timers)+len(c.Timers) > maxTimers {
		err = fmt.Errorf("more than %d timers", maxTimers)
	}
	if err != nil {
		if isOwn(err) {
			return err
		}
		s.meter.refuse()
		switch {
		case kis.VerdictOf(err) == kis.VerdictStop, s.OnError == StopPartition:
			return fmt.Errorf("%w: step %s: timer %s of %s: %w", ErrStopped, s.Name, t.Name, in.key, err)
		case kis.VerdictOf(err) == kis.VerdictDrop:
			w.dropped++
			return nil
		}
		p.timerLetter(w, s, in.key, t, err)
		return nil
	}
	in.state = c.State
	w.touch(in)
	p.changeTimers(w, in, c.Timers)
	p.touchTTL(w, s, in, nil)
	jumps := 0
	next, err := p.after(ctx, w, s, c, meta, &jumps)
	if err != nil || next.row == nil {
		return err
	}
	return p.walk(ctx, w, next.row, next.meta, next.step, jumps)
}

// timerLetter sets aside what a timer should have done.
func (p *Partition) timerLetter(w *work, s *step, key kis.Key, t kis.Timer, err error) {
	row := kis.NewRow(key.Fields()...)
	row.Set("timer", kis.StringValue(t.Name))
	row.Set("at", kis.StringValue(t.At.Format(time.RFC3339Nano)))
	reason := fmt.Sprintf("timer %q: %v", t.Name, err)
	if strings.HasSuffix(t.Name, err.Error()) {
		reason = err.Error() // the name says it: a function's way to say what failed beside what it has done
	}
	d := &proto.DeadLetter{Step: s.Name, Function: s.Function.Name(), Reason: reason,
		Data: row.AppendJSON(nil), Malformed: true}
	var pe *kis.PanicError
	if errors.As(err, &pe) {
		d.Stack = pe.Stack
	}
	s.meter.setAside()
	p.dead(w, d, &kis.Meta{Time: t.At})
}

// touchTTL keeps the time when a key's state was changed, and sees to it that its end is thought of.
func (p *Partition) touchTTL(w *work, s *step, in *instance, metas []*kis.Meta) {
	if s.TTL <= 0 {
		return
	}
	domain, now := byte(processingTimers), w.now.UnixNano()
	if s.TTLByEvent {
		domain, now = eventTimers, 0
		for _, m := range metas {
			now = max(now, nanos(m.Time))
		}
	}
	if in.used = max(in.used, now); in.used == 0 {
		return // a timer's call before any row's
	}
	now = in.used
	if !slices.ContainsFunc(in.timers, func(t timer) bool { return t.name == ttlTimer }) {
		p.setTimer(w, in, ttlTimer, domain, add(now, s.TTL))
	}
}

// expire ends a key's state, unless it was used since. The limit is the time up to which timers fire.
func (p *Partition) expire(w *work, s *step, in *instance, domain byte, limit int64) error {
	if end := add(in.used, s.TTL); s.TTL > 0 && (domain == eventTimers) == s.TTLByEvent {
		now := w.now.UnixNano()
		if domain == eventTimers {
			now = limit
		}
		if end > now {
			p.setTimer(w, in, ttlTimer, domain, end)
			return nil
		}
	} else {
		return nil // the definition has no such end any more
	}
	state, err := s.runner.Activate(nil)
	if err != nil {
		return fmt.Errorf("step %s: a new state: %w", s.Name, err)
	}
	for len(in.timers) > 0 {
		p.removeTimer(w, in, len(in.timers)-1)
	}
	in.state, in.gone = state, true
	s.meter.expire()
	w.touch(in)
	return nil
}

func add(at int64, d time.Duration) int64 {
	if at > endOfTime-1-int64(d) {
		return endOfTime - 1
	}
	return at + int64(d)
}

// fireProcessing fires the timers whose time has come by the clock.
func (p *Partition) fireProcessing(ctx context.Context, w *work) (done bool, err error) {
	limit := p.clockLimit(w.now)
	for i := range p.steps {
		if done, err := p.fireDue(ctx, w, i, processingTimers, limit); !done || err != nil {
			return false, err
		}
	}
	return true, nil
}

// clockLimit is up to when timers fire that go by the clock. Where the inputs have ended nobody waits for it: what a
// day would still bring has its turn at once.
func (p *Partition) clockLimit(now time.Time) int64 {
	if p.ended {
		return add(now.UnixNano(), 24*time.Hour)
	}
	return now.UnixNano()
}

// processingDue tells whether a timer is due that goes by the clock.
func (p *Partition) processingDue(by int64) (bool, error) {
	for i := range p.steps {
		if !p.steps[i].keyed || p.steps[i].runner == nil {
			continue
		}
		if _, due, err := p.timerQueue(i, processingTimers).due(by, p.ports.Store.Scan); due || err != nil {
			return due, err
		}
	}
	return false, nil
}

// timersInstalled lets the queues know that the batch is in the store.
func (p *Partition) timersInstalled() {
	for i := range p.timers {
		for d := range p.timers[i] {
			p.timers[i][d].installed()
		}
	}
}

// encodeTimers and decodeTimers are the timers' form in a value.
func encodeTimers(ts []timer) []*proto.Timer {
	if len(ts) == 0 {
		return nil
	}
	out := make([]*proto.Timer, len(ts))
	for i, t := range ts {
		out[i] = &proto.Timer{Name: t.name, Processing: t.domain == processingTimers, At: t.at}
		if t.queued != t.at {
			out[i].Queued = t.queued
		}
	}
	return out
}

func decodeTimers(ts []*proto.Timer) []timer {
	if len(ts) == 0 {
		return nil
	}
	out := make([]timer, len(ts))
	for i, t := range ts {
		out[i] = timer{name: strings.Clone(t.Name), at: t.At, queued: t.At}
		if t.Processing {
			out[i].domain = processingTimers
		}
		if t.Queued != 0 {
			out[i].queued = t.Queued
		}
	}
	return out
}

// touch makes an instance part of the batch.
func (w *work) touch(in *instance) {
	if !in.dirty {
		in.dirty = true
		w.dirty = append(w.dirty, in)
	}
}
