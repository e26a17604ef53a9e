package actors

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// envelopeBytes is when an envelope is full; one larger row has an envelope of its own.
const envelopeBytes = 256 << 10

// packRows and packBytes are when a packed message is full.
const (
	packRows  = 500
	packBytes = 64 << 10
)

// target is where outputs go: an output stream, or the subject of a hand-off. Its numbers have no gaps.
type target struct {
	name    string // in records: the stream, or the subject of the hand-off
	stream  string
	handOff bool
	fenced  bool   // outputs: the stream takes our fence
	subject string // of our fence in the stream
	fence   uint64 // sequence of our fence message; 0: not written yet
	written uint64 // last number given out
	settled uint64 // last number known to be stored
	at      uint64 // its sequence in the stream
	known   bool   // settled and at have been compared with the stream since we own the partition
	waiting []waiting

	// attempted: some of what waits may be stored already, by us or by a former owner.
	attempted bool
}

// waiting is an output that a record holds and its stream perhaps not.
type waiting struct {
	number  uint64
	subject string
	payload []byte
	passes  string
}

// target finds or makes the target of outputs to a stream.
func (p *Partition) target(name, stream string, fenced bool) *target {
	t := p.targets[name]
	if t == nil {
		t = &target{name: name, stream: stream, handOff: name != stream, fenced: fenced}
		t.written, _ = mark(p.meta.Written, name)
		t.settled, t.at = mark(p.meta.Settled, name)
		if fenced {
			t.subject = OutputFence(stream, p.name)
		}
		p.targets[name] = t
		p.targeted = append(p.targeted, t)
	}
	return t
}

// payload appends a row to the batch's bytes.
func (w *work) payload(row *kis.Row) []byte {
	if cap(w.bytes)-len(w.bytes) < 1<<10 {
		w.bytes = make([]byte, 0, max(64<<10, 2*cap(w.bytes)))
	}
	start := len(w.bytes)
	w.bytes = row.AppendJSON(w.bytes)
	return w.bytes[start:len(w.bytes):len(w.bytes)]
}

// handed is a row on its way to another partition, or to the flows that load it.
type handed struct {
	order  int
	target *target
	row    []byte
	meta   *kis.Meta
	step   string
	jumps  int
}

// cost is about what a row takes of an envelope, or a little more.
func (h *handed) cost() int {
	return len(h.row) + len(h.meta.Stream) + len(h.meta.Subject) + len(h.step) + len(h.meta.Passes) + 64
}

// envelope is an envelope that is being filled.
type envelope struct {
	target  *target
	bytes   int
	message proto.Envelope
}

// handOff puts a row into the envelope for the partition that its key belongs to.
func (p *Partition) handOff(w *work, s *step, to int, row *kis.Row, meta *kis.Meta, jumps int) {
	p.handTo(w, s, p.handOffTarget(s, to), row, meta, jumps)
}

// handOffTarget is where rows for a partition of a step's stage go.
func (p *Partition) handOffTarget(s *step, to int) *target {
	if s.handOffs == nil {
		s.handOffs = make([]*target, p.of)
	}
	if s.handOffs[to] == nil {
		subject := handOffSubject(p.flow.Name, s.stage, to, p.stage, p.number, p.flow.Generation)
		s.handOffs[to] = p.target(subject, HandOffStream(p.flow.Name), false)
	}
	return s.handOffs[to]
}

// saveRow puts a row into the envelope of a Save's hand-off.
func (p *Partition) saveRow(w *work, s *step, row *kis.Row, meta *kis.Meta) {
	passes, err := p.passed(meta)
	if err != nil {
		p.setAside(w, s, row, meta, err, 0)
		return
	}
	if passes != meta.Passes {
		m := *meta
		m.Passes = passes
		meta = &m
	}
	p.handTo(w, s, p.saveTarget(s), row, meta, 0)
}

// saveTarget is where the rows of a step's Save go.
func (p *Partition) saveTarget(s *step) *target {
	if s.saved == nil {
		s.saved = p.target(saveSubject(s.Save, p.flow.Name, p.stage, p.number, p.flow.Generation), SaveStream(s.Save), false)
	}
	return s.saved
}

func (p *Partition) handTo(w *work, s *step, t *target, row *kis.Row, meta *kis.Meta, jumps int) {
	h := handed{w.order, t, w.payload(row), meta, s.Name, jumps}
	if h.cost()+len(p.sender()) > p.room() {
		p.setAside(w, s, row, meta, fmt.Errorf("the row of %d bytes is larger than a message may be", len(h.row)), 0)
		return
	}
	w.handed = append(w.handed, h)
}

// room is how many bytes a message of ours may have beside its headers.
func (p *Partition) room() int { return p.ports.Streams.MaxMessage() - 1<<10 }

// enclose puts the rows that are handed on into envelopes.
func (p *Partition) enclose(w *work) {
	limit := min(envelopeBytes, p.room())
	for i := range w.handed {
		h := &w.handed[i]
		var e *envelope
		for i := len(w.envelopes) - 1; i >= 0 && e == nil; i-- {
			if w.envelopes[i].target == h.target {
				e = w.envelopes[i]
			}
		}
		if e == nil || e.bytes+h.cost() > limit {
			e = &envelope{target: h.target, bytes: len(p.sender())}
			e.message = proto.Envelope{Format: 1, Sender: p.sender(), Revision: p.flow.Revision, Time: w.now.UnixNano()}
			w.envelopes = append(w.envelopes, e)
		}
		e.bytes += h.cost()
		m := &e.message
		m.Rows = append(m.Rows, h.row)
		m.Identities = append(m.Identities, &proto.Identity{
			Stream: indexOf(&m.Streams, h.meta.Stream), Subject: indexOf(&m.Subjects, h.meta.Subject),
			Sequence: h.meta.Sequence, Index: h.meta.Index, Time: h.meta.Time.UnixNano(), Step: indexOf(&m.Steps, h.step), Jumps: uint32(h.jumps), Passes: h.meta.Passes,
		})
	}
}

// sender is the partition as a sender of hand-offs and outputs: with its layout generation, and with the time
// at which the flow's log was created, so that a flow that is deleted and made again is another sender.
func (p *Partition) sender() string { return p.senderName }

// indexOf returns a text's place in a list, which it joins if need be. Most envelopes hold one or a few.
func indexOf(list *[]string, s string) uint32 {
	for i := len(*list) - 1; i >= 0; i-- {
		if (*list)[i] == s {
			return uint32(i)
		}
	}
	*list = append(*list, s)
	return uint32(len(*list) - 1)
}

// pack is a packed message that is being filled.
type pack struct {
	out   int // its place among the outputs: that of its first row
	rows  int
	lines []byte
}

// packOutputs puts the outputs that are to be packed into messages, a line each.
func (p *Partition) packOutputs(w *work) {
	limit := min(packBytes, p.room())
	left, one := w.toPack()
	kept := w.outs[:0]
	for _, o := range w.outs {
		if !o.pack {
			kept = append(kept, o)
			continue
		}
		var k *pack
		for i := len(w.packs) - 1; i >= 0 && k == nil; i-- {
			if f := &kept[w.packs[i].out]; f.target == o.target && f.subject == o.subject && f.passes == o.passes {
				k = &w.packs[i]
			}
		}
		if k == nil || k.rows >= packRows || len(k.lines)+len(o.payload) >= limit {
			size := 4 << 10
			if one { // all of it is for the same place, so how much comes is known
				size = min(left, limit+len(o.payload)+1)
			}
			w.packs = append(w.packs, pack{out: len(kept), lines: make([]byte, 0, size)})
			k = &w.packs[len(w.packs)-1]
			kept = append(kept, o)
			p.steps[0].meter.send()
		} else {
			k.lines = append(k.lines, '\n')
		}
		k.lines = append(k.lines, o.payload...)
		k.rows++
		left -= len(o.payload) + 1
	}
	w.outs = kept
	for i := range w.packs {
		w.outs[w.packs[i].out].payload = w.packs[i].lines
	}
}

// toPack is how many bytes of lines are to be packed, and whether all of them are for one subject.
func (w *work) toPack() (bytes int, one bool) {
	var first *out
	one = true
	for i := range w.outs {
		o := &w.outs[i]
		if !o.pack {
			continue
		}
		bytes += len(o.payload) + 1
		if first == nil {
			first = o
		}
		one = one && o.target == first.target && o.subject == first.subject && o.passes == first.passes
	}
	return bytes, one
}

// record turns a batch into its commit record. It encodes the changed states, and gives the outputs their
// numbers.
func (p *Partition) record(w *work) (*proto.Record, error) {
	r := &proto.Record{Format: 1, Kind: proto.Kind_COMMIT, Epoch: p.meta.Epoch, Number: p.meta.Number + 1,
		Revision: p.flow.Revision, Time: w.now.UnixNano(), Positions: w.positions, Rows: uint64(w.rows)}
	slices.SortFunc(w.dirty, func(a, b *instance) int { return strings.Compare(a.id, b.id) }) // the store takes them faster in order
	for _, in := range w.dirty {
		k, v, err := in.encode(p, w)
		if err != nil {
			return nil, err
		}
		w.keys, w.values = append(w.keys, k), append(w.values, v)
	}
	r.Keys, r.Values, r.NewKeys = w.keys, w.values, w.newKeys
	p.packOutputs(w)
	p.enclose(w)
	p.tell(w)
	p.recordTime(r)
	for i := range w.outs {
		o := &w.outs[i]
		b := block(r, o.target)
		switch {
		case len(b.Subjects) == 0:
			b.Subjects = append(b.Subjects, o.subject)
		case len(b.Subjects) == 1 && o.subject != b.Subjects[0]:
			for len(b.Subjects) < len(b.Payloads) {
				b.Subjects = append(b.Subjects, b.Subjects[0])
			}
			b.Subjects = append(b.Subjects, o.subject)
		case len(b.Subjects) > 1:
			b.Subjects = append(b.Subjects, o.subject)
		}
		if o.passes != "" || len(b.Passes) > 0 {
			for len(b.Passes) < len(b.Payloads) {
				b.Passes = append(b.Passes, "")
			}
			b.Passes = append(b.Passes, o.passes)
		}
		b.Payloads = append(b.Payloads, o.payload)
	}
	for _, e := range w.envelopes {
		b := block(r, e.target)
		e.message.Number = b.First + uint64(len(b.Payloads))
		payload, err := e.message.MarshalVT()
		if err != nil {
			return nil, err
		}
		b.Payloads = append(b.Payloads, payload)
	}
	for _, t := range p.targeted {
		if n, _ := mark(p.meta.Settled, t.name); t.settled > n {
			r.Settled = append(r.Settled, &proto.Settled{Target: t.name, Number: t.settled, Sequence: t.at})
		}
	}
	return r, nil
}

// block returns the record's outputs to a target.
func block(r *proto.Record, t *target) *proto.Outputs {
	for _, b := range r.Outputs {
		if b.Target == t.name {
			return b
		}
	}
	b := &proto.Outputs{Target: t.name, First: t.written + 1}
	r.Outputs = append(r.Outputs, b)
	return b
}

// send hands a committed record's outputs to their targets; settle stores them.
func (p *Partition) send(r *proto.Record, w *work) {
	p.unwritten = false
	for _, b := range r.Outputs {
		p.enqueue(b)
	}
}

// enqueue puts a block of outputs behind those that wait at its target.
func (p *Partition) enqueue(b *proto.Outputs) {
	t := p.targets[b.Target]
	for i, payload := range b.Payloads {
		subject := b.Target // a hand-off's target is its subject
		if n := len(b.Subjects); n > 0 {
			subject = b.Subjects[min(i, n-1)]
		}
		n := b.First + uint64(i)
		t.written = max(t.written, n)
		if n > t.settled {
			passes := ""
			if i < len(b.Passes) {
				passes = b.Passes[i]
			}
			t.waiting = append(t.waiting, waiting{n, subject, payload, passes})
		}
	}
}
