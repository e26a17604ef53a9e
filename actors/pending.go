package actors

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// parked is the due time of a row that waits for people.
const parked = math.MaxInt64

// pendings are the rows that wait at steps: for their retry, or behind such a row of the same key (P8). The
// store holds them; this is the index in memory.
type pendings struct {
	rows   int
	queues map[string]*pendingQueue // by step index and key
	order  []*pendingQueue          // for a walk that does not depend on the map's
}

// pendingQueue are the rows that wait at one step for one key, the first one to come first.
type pendingQueue struct {
	id   string
	step int
	key  string
	slot uint16
	rows []pendingRow
	next uint64 // number of the next row
}

type pendingRow struct {
	number uint64
	due    int64 // unix nanoseconds; 0: behind another row
	row    *proto.Pending
}

func pendingID(step int, key []byte) string {
	return string(append(binary.AppendUvarint(nil, uint64(step)), key...))
}

// waits tells whether rows of a key wait at a step.
func (q *pendings) waits(step int, key []byte) bool { return q.queues[pendingID(step, key)] != nil }

// due tells whether any row's time has come: that of a retry, or of a row that has nothing before it any more.
func (q *pendings) due(now time.Time) bool {
	for _, e := range q.order {
		if e.rows[0].due <= now.UnixNano() {
			return true
		}
	}
	return false
}

// pend makes a row wait at a step. A step without a key has a queue for each event.
func (p *Partition) pend(w *work, s *step, key []byte, row *kis.Row, meta *kis.Meta, jumps, attempts int, due int64, err error, loaded bool) {
	if !s.keyed {
		key = fmt.Appendf(nil, "%s %d %d", meta.Stream, meta.Sequence, meta.Index)
	}
	v := &proto.Pending{Row: row.AppendJSON(nil), Stream: meta.Stream, Subject: meta.Subject, Sequence: meta.Sequence,
		Index: meta.Index, EventTime: meta.Time.UnixNano(), Jumps: uint32(jumps), Attempts: uint32(attempts), Due: due, Loaded: loaded, Passes: meta.Passes}
	if err != nil {
		v.Reason = err.Error()
	}
	q := p.pending.queue(s.index, key)
	r := pendingRow{q.next, due, v}
	q.next++
	q.rows = append(q.rows, r)
	p.pending.rows++
	s.meter.wait()
	p.putPending(w, s, q, r)
}

func (q *pendings) queue(step int, key []byte) *pendingQueue {
	id := pendingID(step, key)
	e := q.queues[id]
	if e == nil {
		if q.queues == nil {
			q.queues = make(map[string]*pendingQueue)
		}
		e = &pendingQueue{id: id, step: step, key: string(key), slot: slotOf(key), next: 1}
		q.queues[id] = e
		q.order = append(q.order, e)
	}
	return e
}

func (p *Partition) pendingKey(s *step, q *pendingQueue, number uint64) []byte {
	k := appendInstanceKey(nil, pendingKind, q.slot, s.Name, []byte(q.key))
	return binary.BigEndian.AppendUint64(k, number)
}

func (p *Partition) putPending(w *work, s *step, q *pendingQueue, r pendingRow) {
	v, err := r.row.MarshalVT()
	if err != nil {
		panic("actors: pending row: " + err.Error())
	}
	w.put(p.pendingKey(s, q, r.number), v)
}

// put notes a change of the store; a later one of the same key takes an earlier one's place when installed.
func (w *work) put(key, value []byte) {
	w.keys, w.values = append(w.keys, key), append(w.values, value)
}

// applyDue tries the rows again whose time has come, and those that waited behind them.
func (p *Partition) applyDue(ctx context.Context, w *work, now time.Time) error {
	for _, q := range slices.Clone(p.pending.order) {
		if err := p.applyQueue(ctx, w, q, now); err != nil {
			return err
		}
	}
	return nil
}

// applyQueue does so for one queue. What it has caused is through, or waits in other queues, before the next one has
// its turn.
func (p *Partition) applyQueue(ctx context.Context, w *work, q *pendingQueue, now time.Time) error {
	s := &p.steps[q.step]
	for len(q.rows) > 0 && w.rows < p.opt.BatchRows {
		r := q.rows[0]
		if r.due > now.UnixNano() {
			break
		}
		row, err := kis.ParseRow(r.row.Row)
		if err != nil {
			return fmt.Errorf("%w: pending row at %s: %w", errStore, s.Name, err)
		}
		meta := pendingMeta(r.row)
		w.order = w.rows
		w.rows++
		err = p.again(ctx, w, s, q, row, meta, int(r.row.Jumps), r.row.Loaded)
		if err == nil {
			p.unpend(w, s, q)
			continue
		}
		gone, err := p.refusedAgain(w, s, q, row, meta, err)
		if err != nil {
			return err
		}
		if !gone {
			break
		}
	}
	if len(q.rows) == 0 {
		p.pending.remove(q)
	}
	return p.unpile(ctx, w)
}

// again applies a row at its step, past its own queue.
func (p *Partition) again(ctx context.Context, w *work, s *step, q *pendingQueue, row *kis.Row, meta *kis.Meta, jumps int, loaded bool) error {
	c := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{meta}, Loaded: loaded}
	key := []byte(q.key)
	if !s.keyed {
		key = nil
	}
	if err := p.call(ctx, w, s, c, key); err != nil {
		return err
	}
	next, err := p.after(ctx, w, s, c, meta, &jumps)
	if err == nil && next.row != nil {
		err = p.walk(ctx, w, next.row, next.meta, next.step, jumps)
	}
	if err != nil {
		return errAfter{err}
	}
	return nil
}

// refusedAgain does with a waiting row what another error asks for, and tells whether it is gone.
func (p *Partition) refusedAgain(w *work, s *step, q *pendingQueue, row *kis.Row, meta *kis.Meta, err error) (gone bool, _ error) {
	if isOwn(err) {
		return false, err
	}
	r := &q.rows[0]
	if kis.VerdictOf(err) == kis.VerdictRetry && int(r.row.Attempts) < s.RetryTimes {
		r.row.Attempts++
		r.row.Due, r.row.Reason = w.now.Add(s.RetryDelay).UnixNano(), err.Error()
		r.due = r.row.Due
		p.putPending(w, s, q, *r)
		return false, nil
	}
	if s.OnError == ParkKey && kis.VerdictOf(err) != kis.VerdictDrop && kis.VerdictOf(err) != kis.VerdictStop {
		r.row.Due, r.row.Reason = parked, err.Error()
		r.due = parked
		p.putPending(w, s, q, *r)
		return false, nil
	}
	if err := p.refused(w, s, []byte(q.key), row, meta, int(r.row.Jumps), max(int(r.row.Attempts), s.RetryTimes), err, r.row.Loaded); err != nil {
		return false, err
	}
	p.unpend(w, s, q)
	return true, nil
}

// unpend takes the first row out of a queue.
func (p *Partition) unpend(w *work, s *step, q *pendingQueue) {
	w.put(p.pendingKey(s, q, q.rows[0].number), nil)
	q.rows = q.rows[1:]
	p.pending.rows--
}

func (q *pendings) remove(e *pendingQueue) {
	if q.queues[e.id] == e {
		delete(q.queues, e.id)
	}
	q.order = slices.DeleteFunc(q.order, func(o *pendingQueue) bool { return o == e })
}

func pendingMeta(r *proto.Pending) *kis.Meta {
	return &kis.Meta{Stream: r.Stream, Subject: r.Subject, Sequence: r.Sequence, Index: r.Index, Time: time.Unix(0, r.EventTime).UTC(), Passes: r.Passes}
}

// parkedRow finds the parked row that a key of the store names, or -1 where it is not parked any more.
func (p *Partition) parkedRow(k []byte) (*pendingQueue, int) {
	name, key, number, err := parsePendingKey(k)
	if err != nil {
		return nil, -1
	}
	q := p.pending.queues[pendingID(p.stepNamed(name), key)]
	if q == nil {
		return nil, -1
	}
	return q, slices.IndexFunc(q.rows, func(r pendingRow) bool { return r.number == number && r.due == parked })
}

// retryParked lets a parked row have its turn again, and those that wait behind it.
func (p *Partition) retryParked(ctx context.Context, w *work, k []byte) (bool, error) {
	q, i := p.parkedRow(k)
	if i < 0 {
		return false, nil
	}
	r := &q.rows[i]
	r.due, r.row.Due, r.row.Attempts = 0, 0, 0
	p.putPending(w, &p.steps[q.step], q, *r)
	return true, p.applyQueue(ctx, w, q, w.now)
}

// dropParked removes a parked row; those behind it have their turn at the next tick.
func (p *Partition) dropParked(w *work, k []byte) bool {
	q, i := p.parkedRow(k)
	if i < 0 {
		return false
	}
	w.put(p.pendingKey(&p.steps[q.step], q, q.rows[i].number), nil)
	q.rows = slices.Delete(q.rows, i, i+1)
	if p.pending.rows--; len(q.rows) == 0 {
		p.pending.remove(q)
	}
	return true
}

// parkedLetter is a parked row as people see it. Its time is that of its event.
func (p *Partition) parkedLetter(k, v []byte) (l Letter, ok bool, err error) {
	name, _, _, err := parsePendingKey(k)
	r := new(proto.Pending)
	if err == nil {
		err = r.UnmarshalVT(v)
	}
	if err != nil || r.Due != parked {
		return l, false, err
	}
	l = Letter{ID: deadID(p.stage, p.number, p.flow.Generation, k), Parked: true, DeadLetter: &proto.DeadLetter{Step: name, Reason: r.Reason, Data: r.Row,
		Revision: p.flow.Revision, Time: r.EventTime, Stream: r.Stream, Subject: r.Subject, Sequence: r.Sequence, Index: r.Index,
		EventTime: r.EventTime, Attempts: r.Attempts}}
	if i := p.stepNamed(name); i >= 0 {
		l.Function = p.steps[i].Function.Name()
	}
	return l, true, nil
}

// loadPending reads the rows that wait from the store.
func (p *Partition) loadPending() error {
	p.pending = pendings{}
	var fault error
	err := p.ports.Store.Scan([]byte{pendingKind}, []byte{pendingKind + 1}, func(k, v []byte) bool {
		name, key, number, err := parsePendingKey(k)
		r := new(proto.Pending)
		if err == nil {
			err = r.UnmarshalVT(v)
		}
		if err != nil {
			fault = err
			return false
		}
		step := p.stepNamed(name)
		if step < 0 || !p.steps[step].here {
			return true // the step is gone from here; what waits there stays until it is back or removed
		}
		q := p.pending.queue(step, []byte(strings.Clone(string(key))))
		q.rows = append(q.rows, pendingRow{number, r.Due, r})
		q.next = number + 1
		p.pending.rows++
		return true
	})
	if err == nil {
		err = fault
	}
	if err != nil {
		return fmt.Errorf("%w: pending rows: %w", errStore, err)
	}
	return nil
}
