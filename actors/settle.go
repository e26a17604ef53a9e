package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// settle stores what waits at the targets, in order, and returns when nothing waits any more. It does not
// give up on passing faults: a stream that takes no more holds the partition up, and so its input.
func (p *Partition) settle(ctx context.Context) error {
	for try := 0; ; try++ {
		left, err := p.settleOnce(ctx)
		if err == nil && !left {
			return nil
		}
		if err == nil {
			try = -1
			continue
		}
		if errors.Is(err, ErrFenced) || errors.Is(err, ErrDamagedLog) || errors.Is(err, transport.ErrNotFound) || errors.Is(err, transport.ErrTooLarge) {
			return err
		}
		if err := p.retry(ctx, try, "store outputs", err); err != nil {
			return err
		}
	}
}

// settleOnce makes one attempt at every target. Hand-offs go one a subject and round: each names the sequence
// of the one before it, so the stream holds each number once and in order.
func (p *Partition) settleOnce(ctx context.Context) (left bool, err error) {
	byStream := make(map[string][]*target)
	var streams []string
	for _, t := range p.targeted {
		if len(t.waiting) == 0 {
			continue
		}
		if !t.known {
			if err := p.reconcile(ctx, t); err != nil {
				return true, err
			}
			if len(t.waiting) == 0 {
				continue
			}
		}
		if !t.handOff {
			if err := p.publish(ctx, t); err != nil {
				return true, err
			}
			continue
		}
		if byStream[t.stream] == nil {
			streams = append(streams, t.stream)
		}
		byStream[t.stream] = append(byStream[t.stream], t)
	}
	for _, s := range streams {
		ts := byStream[s]
		ms := make([]transport.Outgoing, len(ts))
		for i, t := range ts {
			ms[i] = transport.Outgoing{Subject: t.name, Data: t.waiting[0].payload, Expect: &transport.Expect{Sequence: t.at}}
		}
		stored, err := p.ports.Streams.Publish(ctx, s, ms)
		for i, seq := range stored {
			ts[i].stored(1, seq)
		}
		if err != nil {
			for _, t := range ts[len(stored):] {
				t.known = false // which of these are stored is to be read
			}
			return true, fmt.Errorf("stream %s: %w", s, err)
		}
		p.touched()
		for _, t := range ts {
			left = left || len(t.waiting) > 0
		}
	}
	return left, nil
}

// stored notes that the first n waiting outputs are stored, the last at a sequence.
func (t *target) stored(n int, sequence uint64) {
	t.at = max(t.at, sequence)
	clear(t.waiting[:n])
	t.waiting = t.waiting[n:]
	t.settle()
}

// settle sets the number up to which all is stored: to the one before the first that waits. What lies between
// those that waited was found stored before.
func (t *target) settle() {
	if len(t.waiting) > 0 {
		t.settled = max(t.settled, t.waiting[0].number-1)
		return
	}
	t.waiting, t.settled = nil, max(t.settled, t.written)
}

// touched notes that a record should say soon what has been settled.
func (p *Partition) touched() {
	if !p.unwritten {
		p.unwritten, p.moved = true, p.ports.Clock.Now()
	}
}

// publish stores the outputs that wait at an output stream. Each names our fence: none of them gets in after
// another owner has written his.
func (p *Partition) publish(ctx context.Context, t *target) error {
	var expect *transport.Expect
	if t.fenced {
		expect = &transport.Expect{Subject: t.subject, Sequence: t.fence}
	}
	ms := make([]transport.Outgoing, len(t.waiting))
	fields := make([]transport.Field, 2*len(t.waiting))
	var origins strings.Builder // of all, in one piece of memory
	var digits [20]byte
	origins.Grow(len(t.waiting) * (len(p.senderMark) + 1 + len(digits)))
	for i := range t.waiting {
		o := &t.waiting[i]
		h := fields[2*i : 2*i : 2*i+2]
		start := origins.Len()
		origins.WriteString(p.senderMark)
		origins.WriteByte(' ')
		origins.Write(strconv.AppendUint(digits[:0], o.number, 10))
		origin := origins.String()[start:]
		h = append(h, transport.Field{Name: originHeader, Value: origin})
		if !t.fenced {
			h = append(h, transport.Field{Name: "Nats-Msg-Id", Value: origin})
		}
		if o.passes != "" {
			h = append(h, transport.Field{Name: passesHeader, Value: o.passes})
		}
		ms[i] = transport.Outgoing{Subject: o.subject, Header: h, Data: o.payload, Expect: expect}
	}
	t.attempted = true
	stored, err := p.ports.Streams.Publish(ctx, t.stream, ms)
	if n := len(stored); n > 0 {
		t.stored(n, stored[n-1])
		p.touched()
	}
	if err != nil {
		t.known = false
		return fmt.Errorf("stream %s: %w", t.stream, err)
	}
	return nil
}

// reconcile finds out which outputs to a target are stored: after a start, and after any doubt.
func (p *Partition) reconcile(ctx context.Context, t *target) error {
	if t.handOff {
		return p.reconcileHandOff(ctx, t)
	}
	return p.reconcileOutput(ctx, t)
}

// reconcileHandOff reads the last envelope on the subject, which only this partition writes: all numbers up to
// its own are stored. Where the receiver has cut everything, the next one is to be the first.
func (p *Partition) reconcileHandOff(ctx context.Context, t *target) error {
	m, err := p.ports.Streams.LastOn(ctx, t.stream, t.name)
	switch {
	case errors.Is(err, transport.ErrNotFound):
		t.at = 0
	case err != nil:
		return fmt.Errorf("read %s: %w", t.name, err)
	default:
		var e proto.Envelope
		if err := e.UnmarshalVT(m.Data); err != nil {
			return fmt.Errorf("%w: envelope %d on %s: %w", ErrDamagedLog, m.Sequence, t.name, err)
		}
		if t.at = m.Sequence; e.Sender == p.sender() { // else it is of a flow of this name that was deleted
			t.settled = max(t.settled, e.Number)
			t.drop(nil)
		}
	}
	t.known = true
	return nil
}

// drop forgets what waits and is stored: up to the last number that is settled, and the numbers that were read
// back, with their sequences. A stream that refused one output and took the next leaves a hole; only the hole
// is sent again, and until then at stays before it, so that whoever comes next reads back the same.
func (t *target) drop(stored map[uint64]uint64) {
	for n := t.settled + 1; stored[n] != 0; n++ {
		t.at = max(t.at, stored[n])
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(o waiting) bool { return o.number <= t.settled || stored[o.number] != 0 })
	t.settle()
}

// reconcileOutput writes a fence message to the output stream, after which nothing that was on its way before
// can be stored any more, and, where any of what waits may have been sent before, reads from the last output
// known to be stored up to the fence.
func (p *Partition) reconcileOutput(ctx context.Context, t *target) error {
	info, err := p.ports.Streams.Info(ctx, t.stream)
	if err != nil {
		return fmt.Errorf("output stream %s: %w", t.stream, err)
	}
	from, to := t.at, info.Last
	if t.fenced {
		if from, to, err = p.writeFence(ctx, t, info.Last); err != nil {
			return err
		}
	}
	if t.attempted {
		stored, err := p.storedOutputs(ctx, t, max(from+1, info.First), to)
		if err != nil {
			return fmt.Errorf("read back %s: %w", t.stream, err)
		}
		if len(stored) > 0 {
			p.touched()
		}
		t.drop(stored)
	}
	t.known = true
	return nil
}

// storedOutputs reads the origins of a stretch of an output stream and returns our numbers there, with their
// sequences.
func (p *Partition) storedOutputs(ctx context.Context, t *target, from, to uint64) (map[uint64]uint64, error) {
	stored := make(map[uint64]uint64)
	if from > to {
		return stored, nil
	}
	r, err := p.ports.Streams.Read(ctx, t.stream, transport.ReadOptions{From: from, HeadersOnly: true})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for seen := from - 1; seen < to; {
		ms, err := r.Next(ctx, 1000)
		if err != nil {
			return nil, err
		}
		if len(ms) == 0 {
			break // a stream without waiting has no more
		}
		for i := range ms {
			if seen = ms[i].Sequence; seen > to {
				break
			}
			name, n, ok := cutLast(ms[i].Get(originHeader), ' ')
			if !ok || name != p.senderMark {
				continue
			}
			if k, err := strconv.ParseUint(n, 10, 64); err == nil {
				stored[k] = seen
			}
		}
	}
	return stored, nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// fence is what a fence message says: which incarnation of the flow, which epoch, from where on outputs of
// this partition are to be looked for that no record knows to be stored; and for people the mark that its outputs carry,
// and whose fence it is.
type fence struct {
	incarnation int64
	epoch       uint64
	from        uint64
	sender      string
	partition   string
}

func (f fence) String() string {
	return fmt.Sprintf("%d %d %d %s %s", f.incarnation, f.epoch, f.from, f.sender, f.partition)
}

// parseFence is the inverse of String. A partition's name may hold spaces.
func parseFence(text string) (f fence, err error) {
	_, err = fmt.Sscan(text, &f.incarnation, &f.epoch, &f.from, &f.sender)
	if words := strings.SplitN(text, " ", 5); err == nil && len(words) == 5 {
		f.partition = words[4]
		return f, nil
	}
	return f, fmt.Errorf("%q is no fence", text)
}

// writeFence puts a message of this epoch on our fence subject of an output stream, and returns from where to
// where our outputs are to be looked for. A fence of a later epoch there means that another node owns the
// partition.
func (p *Partition) writeFence(ctx context.Context, t *target, end uint64) (from, sequence uint64, err error) {
	_, noted := mark(p.meta.Settled, t.name) // what a record says: the next owner knows no more than that
	for try := 0; ; try++ {
		var before uint64
		own := fence{p.incarnation, p.meta.Epoch, end, p.senderMark, p.name}
		last, err := p.ports.Streams.LastOn(ctx, t.stream, t.subject)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			own.from = min(end, noted)
			if !t.attempted {
				own.from = end
			}
		case err != nil:
			return 0, 0, fmt.Errorf("read the fence of %s: %w", t.stream, err)
		default:
			before = last.Sequence
			f, err := parseFence(string(last.Data))
			if err != nil || f.partition != own.partition ||
				f.incarnation > own.incarnation || f.incarnation == own.incarnation && f.epoch > own.epoch {
				return 0, 0, fmt.Errorf("%w: the fence in %s is %q, ours would be %q", ErrFenced, t.stream, last.Data, own)
			}
			if f.incarnation == own.incarnation && t.attempted {
				own.from = f.from
			}
			own.from = max(own.from, noted)
		}
		t.fence, err = p.ports.Streams.Append(ctx, t.stream, transport.Outgoing{Subject: t.subject,
			Data: []byte(own.String()), Expect: &transport.Expect{Sequence: before}})
		if err == nil {
			return max(own.from, t.at), t.fence, nil
		}
		if !errors.Is(err, transport.ErrFenced) && !errors.Is(err, transport.ErrDoubt) {
			return 0, 0, fmt.Errorf("write the fence of %s: %w", t.stream, err)
		}
		if err := p.retry(ctx, try, "write the fence of "+t.stream, err); err != nil {
			return 0, 0, err
		}
	}
}
