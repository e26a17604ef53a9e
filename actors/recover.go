package actors

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// partHeader numbers the messages of a record that is larger than one may be: "2/5".
const partHeader = "Kisflow-Part"

// parts is how many messages a record of so many bytes is.
func (p *Partition) parts(size int) int { return max(1, (size+p.room()-1)/p.room()) }

// append writes one record's bytes to the log with the fence.
func (p *Partition) append(ctx context.Context, b []byte) (uint64, error) {
	expect := &transport.Expect{Sequence: p.last}
	n, limit := p.parts(len(b)), p.room()
	if n == 1 {
		return p.ports.Streams.Append(ctx, p.stream, transport.Outgoing{Subject: p.subject, Data: b, Expect: expect})
	}
	ms := make([]transport.Outgoing, n)
	for i := range ms {
		ms[i] = transport.Outgoing{Subject: p.subject, Data: b[i*limit : min((i+1)*limit, len(b))],
			Header: []transport.Field{{Name: partHeader, Value: fmt.Sprintf("%d/%d", i+1, n)}}}
	}
	ms[0].Expect = expect
	return p.ports.Streams.AppendAll(ctx, p.stream, ms)
}

// lastRecord returns the sequence of the log's newest message and the hash of the record it ends.
func (p *Partition) lastRecord(ctx context.Context) (sequence, hash uint64, err error) {
	m, err := p.ports.Streams.LastOn(ctx, p.stream, p.subject)
	if errors.Is(err, transport.ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the log's last record: %w", err)
	}
	r, err := p.wholeRecord(ctx, m)
	if err != nil {
		return 0, 0, err
	}
	return m.Sequence, r.Hash, nil
}

// wholeRecord opens the record that a message ends.
func (p *Partition) wholeRecord(ctx context.Context, m transport.Message) (*proto.Record, error) {
	b := m.Data
	if part := m.Get(partHeader); part != "" {
		var i, n uint64
		if _, err := fmt.Sscanf(part, "%d/%d", &i, &n); err != nil || i != n {
			return nil, fmt.Errorf("%w: message %d is part %s of a record", ErrDamagedLog, m.Sequence, part)
		}
		rd, err := p.ports.Streams.Read(ctx, p.stream, transport.ReadOptions{From: m.Sequence - n + 1, Subjects: []string{p.subject}})
		if err != nil {
			return nil, err
		}
		defer rd.Close()
		b = nil
		for i = 0; i < n; {
			ms, err := rd.Next(ctx, int(n-i))
			if err != nil {
				return nil, err
			}
			if len(ms) == 0 {
				return nil, fmt.Errorf("%w: parts of the record that ends at %d are missing", ErrDamagedLog, m.Sequence)
			}
			for _, m := range ms {
				b = append(b, m.Data...)
				i++
			}
		}
	}
	r, err := proto.OpenRecord(b)
	if err != nil {
		return nil, fmt.Errorf("%w: record at sequence %d: %w", ErrDamagedLog, m.Sequence, err)
	}
	return r, nil
}

// Progress is called while a partition recovers: so many of about so many records are in.
type Progress func(p *Partition, done, of uint64)

// Open takes the partition over and readies it for work: it claims the log with an epoch record, brings the
// store up to it, and stores the outputs that a former owner left behind.
func (p *Partition) Open(ctx context.Context, progress Progress) error {
	if err := p.claim(ctx); err != nil {
		return fmt.Errorf("partition %s: claim: %w", p.name, err)
	}
	if err := p.recover(ctx, progress); err != nil {
		return fmt.Errorf("partition %s: recover: %w", p.name, err)
	}
	if err := p.settle(ctx); err != nil {
		return fmt.Errorf("partition %s: settle what was left: %w", p.name, err)
	}
	p.noteKept()
	return nil
}

// claim writes our epoch record. From then on the log refuses every other owner.
func (p *Partition) claim(ctx context.Context) error {
	for try := 0; ; try++ {
		err := p.claimOnce(ctx)
		if err == nil || errors.Is(err, ErrDamagedLog) {
			return err
		}
		if try >= 20 {
			return err
		}
		if err := p.retry(ctx, try, "claim the partition", err); err != nil {
			return err
		}
	}
}

func (p *Partition) claimOnce(ctx context.Context) error {
	info, err := p.ports.Streams.Info(ctx, p.stream)
	if err != nil {
		return fmt.Errorf("log %s: %w", p.stream, err)
	}
	p.incarnation = info.Created.UnixNano()
	p.senderName = p.name + "/" + generationText(p.flow.Generation) + "@" + strconv.FormatInt(p.incarnation, 36)
	p.senderMark = shortMark(p.senderName)
	before := new(proto.Record)
	p.last = 0
	m, err := p.ports.Streams.LastOn(ctx, p.stream, p.subject)
	switch {
	case errors.Is(err, transport.ErrNotFound):
	case err != nil:
		return err
	default:
		if before, err = p.wholeRecord(ctx, m); err != nil {
			return err
		}
		p.last = m.Sequence
	}
	if p.flow.Revision < before.Revision {
		return fmt.Errorf("the log is at revision %d of the flow, we run %d", before.Revision, p.flow.Revision)
	}
	epoch := before.Epoch + 1
	b := proto.Seal(&proto.Record{Format: 1, Kind: proto.Kind_EPOCH, Epoch: epoch, Number: before.Number + 1,
		Revision: p.flow.Revision, Time: p.ports.Clock.Now().UnixNano(), Owner: p.opt.Owner,
		SnapshotEpoch: before.SnapshotEpoch, SnapshotSequence: before.SnapshotSequence})
	seq, err := p.append(ctx, b)
	if err != nil {
		return err // refused: another one is at it; in doubt: the next try reads what is there
	}
	p.last, p.owned = seq, true
	p.meta.Epoch = epoch
	return nil
}

// recover reads the store and then the log, up to our epoch record at p.last.
func (p *Partition) recover(ctx context.Context, progress Progress) error {
	own, epoch := p.last, p.meta.Epoch
	err := p.loadMeta(own)
	if err == nil {
		err = p.replay(ctx, own, progress)
	}
	if errors.Is(err, state.ErrCorrupt) || errors.Is(err, errOlder) {
		p.ports.Logger.Warn("rebuilding the partition's state", "partition", p.name, "because", err)
		err = p.rebuild(ctx, err, own, progress)
	}
	if err != nil {
		return err
	}
	if p.meta.Sequence != own || p.meta.Epoch != epoch {
		return fmt.Errorf("%w: reading the log ended at %d of epoch %d, our epoch record is at %d of %d",
			ErrFenced, p.meta.Sequence, p.meta.Epoch, own, epoch)
	}
	if err := p.lookForStates(); err != nil {
		return err
	}
	p.loadTime()
	return p.loadPending()
}

// lookForStates finds out whether the store holds the state of any key.
func (p *Partition) lookForStates() error {
	p.instances.complete = true
	err := p.ports.Store.Scan([]byte{stateKind}, []byte{stateKind + 1}, func(_, _ []byte) bool {
		p.instances.complete = false
		return false
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	return nil
}

// errOlder: the store ends before the log begins, or does not fit it.
var errOlder = errors.New("the store does not fit the log")

// loadMeta reads what the store says of itself.
func (p *Partition) loadMeta(own uint64) error {
	p.meta = proto.Meta{}
	b, err := p.ports.Store.Get([]byte{metaKey})
	if err != nil || b == nil {
		return err
	}
	if err := p.meta.UnmarshalVT(b); err != nil {
		return fmt.Errorf("%w: meta: %w", state.ErrCorrupt, err)
	}
	if p.meta.Partition != p.name {
		return fmt.Errorf("%w: it is of partition %q", state.ErrCorrupt, p.meta.Partition)
	}
	if p.meta.Sequence >= own {
		return fmt.Errorf("%w: it is at log sequence %d, the log ended before %d", errOlder, p.meta.Sequence, own)
	}
	return nil
}

// replay reads the log from where the store is, installs what the store lacks, and collects the outputs that
// nobody noted as settled.
func (p *Partition) replay(ctx context.Context, own uint64, progress Progress) error {
	from := p.meta.Sequence + 1
	if p.meta.Unsettled != 0 {
		from = min(from, p.meta.Unsettled)
	}
	next := uint64(0) // the number that the next record must have, once known
	return p.readLog(ctx, from, own, func(r *proto.Record, at logged) error {
		seq := at.last
		if next == 0 && seq > p.meta.Sequence && r.Number != p.meta.Number+1 || next != 0 && r.Number != next {
			return fmt.Errorf("%w: record %d follows on %d", errOlder, r.Number, max(p.meta.Number, next))
		}
		if seq > p.meta.Sequence && r.Epoch != p.meta.Epoch && r.Kind != proto.Kind_EPOCH {
			return fmt.Errorf("%w: record %d is of epoch %d, the one before it of %d", errOlder, r.Number, r.Epoch, p.meta.Epoch)
		}
		next = r.Number + 1
		if !p.warm { // else they are the owner's to send
			for _, o := range r.Outputs {
				p.targetOf(o.Target).attempted = true
				p.enqueue(o)
			}
		}
		if seq <= p.meta.Sequence {
			return nil
		}
		if err := p.install(r, at); err != nil {
			return err
		}
		for _, s := range r.Settled {
			if p.warm {
				break
			}
			t := p.targetOf(s.Target)
			if s.Number > t.settled {
				t.settled, t.at = s.Number, s.Sequence
			}
			t.drop(nil)
		}
		if progress != nil {
			progress(p, seq-min(from, seq), own-min(from, own))
		}
		return nil
	})
}

// targetOf finds the target of a record's outputs: a stream's name, or the subject of a hand-off.
func (p *Partition) targetOf(name string) *target {
	if t := p.targets[name]; t != nil {
		return t
	}
	stream, handOff := handOffStreamOf(p.flow, name)
	if handOff {
		return p.target(name, stream, false)
	}
	fenced := true
	for _, s := range p.flow.Steps {
		for _, o := range s.Outputs {
			if o.Stream == name {
				fenced = o.Fenced
			}
		}
	}
	return p.target(name, name, fenced)
}

// readLog calls f for every record from a sequence up to and including another.
func (p *Partition) readLog(ctx context.Context, from, to uint64, f func(r *proto.Record, at logged) error) error {
	if from > to {
		return nil
	}
	rd, err := p.ports.Streams.Read(ctx, p.stream, transport.ReadOptions{From: from, Subjects: []string{p.subject}})
	if err != nil {
		return err
	}
	defer rd.Close()
	var asm assembler
	for {
		ms, err := rd.Next(ctx, 256)
		if err != nil {
			return err
		}
		if len(ms) == 0 {
			return fmt.Errorf("%w: it ends before sequence %d", errOlder, to)
		}
		for i := range ms {
			r, at, err := asm.add(p.stream, &ms[i])
			if err != nil {
				return err
			}
			if r == nil {
				continue
			}
			if err := f(r, at); err != nil {
				return err
			}
			if at.last >= to {
				return nil
			}
		}
	}
}

// assembler makes records of the messages of a log, in order.
type assembler struct {
	parts []byte
	first uint64 // sequence of the message that the record begins with
}

// add takes the next message. It returns nil where the record has not ended yet, or has begun before the first message.
func (a *assembler) add(stream string, m *transport.Message) (*proto.Record, logged, error) {
	b := m.Data
	if a.parts == nil {
		a.first = m.Sequence
	}
	if part := m.Get(partHeader); part != "" {
		var i, n int
		if _, err := fmt.Sscanf(part, "%d/%d", &i, &n); err != nil {
			return nil, logged{}, fmt.Errorf("%w: part %q at sequence %d", ErrDamagedLog, part, m.Sequence)
		}
		if i > 1 && a.parts == nil {
			return nil, logged{}, nil
		}
		if a.parts = append(a.parts, b...); i < n {
			return nil, logged{}, nil
		}
		b, a.parts = a.parts, nil
	}
	r, err := proto.OpenRecord(b)
	if err != nil {
		return nil, logged{}, fmt.Errorf("%w: record at sequence %d of stream %s: %w", ErrDamagedLog, m.Sequence, stream, err)
	}
	return r, logged{a.first, m.Sequence, len(b)}, nil
}

// reset forgets what was read so far.
func (p *Partition) reset() {
	p.meta = proto.Meta{}
	p.targets, p.targeted = make(map[string]*target), nil
	for i := range p.steps {
		p.steps[i].handOffs, p.steps[i].saved = nil, nil
	}
	p.instances.clear()
}

// Revise makes the flow's next revision the partition's: a record marks the place, and all later rows meet it.
func (p *Partition) Revise(ctx context.Context, f *Flow) error {
	p.instances.clear()
	if err := p.bind(f); err != nil {
		return err
	}
	r := &proto.Record{Format: 1, Kind: proto.Kind_REVISION, Epoch: p.meta.Epoch, Number: p.meta.Number + 1,
		Revision: f.Revision, Time: p.ports.Clock.Now().UnixNano()}
	at, err := p.commit(ctx, r)
	if err == nil {
		err = p.install(r, at)
	}
	if err == nil {
		err = p.lookForStates()
	}
	if err == nil {
		err = p.loadPending()
	}
	p.noteKept()
	return err
}

// value reads an instance's committed state from the store.
func (p *Partition) value(s *step, key kis.Key) (*proto.Value, error) {
	k := []byte(key.Canonical())
	b, err := p.ports.Store.Get(appendInstanceKey(nil, stateKind, slotOf(k), s.Name, k))
	if err != nil || b == nil {
		return nil, err
	}
	v := new(proto.Value)
	if err := proto.ParseValue(b, v); err != nil {
		return nil, err
	}
	if s.others(v) {
		return nil, nil
	}
	return v, nil
}

// Age is when the partition committed last.
func (p *Partition) Age() time.Time { return time.Unix(0, p.meta.Time).UTC() }
