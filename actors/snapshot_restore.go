package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// eachPair calls f for every pair of a snapshot but its meta, which it returns: for all keys, and then for those of the
// runs, where a deleted key has no value. With above only runs count that end above that log sequence.
func (p *Partition) eachPair(ctx context.Context, s *snapshotObject, above uint64, f func(k, v []byte) error) (meta []byte, err error) {
	if s.manifest == nil {
		err := s.readFormer(func(k, v []byte) error {
			if len(k) == 1 && k[0] == metaKey {
				meta = v
				return nil
			}
			return f(k, v)
		})
		return meta, err
	}
	var codec chunkCodec
	if above == 0 {
		if err := p.eachPairOf(ctx, &codec, s.manifest.Chunks, false, f); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.name, err)
		}
	}
	for _, r := range s.manifest.Runs {
		if r.Place.GetSequence() <= above {
			continue
		}
		if err := p.eachPairOf(ctx, &codec, r.Chunks, true, f); err != nil {
			return nil, fmt.Errorf("snapshot %s: run up to %d: %w", s.name, r.Place.GetSequence(), err)
		}
	}
	return s.manifest.Meta, nil
}

func (p *Partition) eachPairOf(ctx context.Context, codec *chunkCodec, chunks []*proto.Chunk, run bool, f func(k, v []byte) error) error {
	var before []byte
	for i, c := range chunks {
		name := chunkName(p.snapshotPrefix(), c)
		pairs, err := codec.read(ctx, p.ports.Objects, name, c)
		if err != nil {
			return err
		}
		end := chunkEnd(chunks, i)
		for len(pairs) > 0 {
			k, v, n := nextPair(pairs)
			if n == 0 || v == nil && !run || bytes.Compare(k, before) <= 0 || bytes.Compare(k, c.From) < 0 || end != nil && bytes.Compare(k, end) >= 0 {
				return fmt.Errorf("%w: the keys of chunk %s are not in order", errSnapshot, name)
			}
			if err := f(k, v); err != nil {
				return err
			}
			before, pairs = append(before[:0], k...), pairs[n:]
		}
	}
	return nil
}

// verifySnapshot reads all of a snapshot.
func (p *Partition) verifySnapshot(ctx context.Context, name string) error {
	s, err := openSnapshot(ctx, p.ports.Objects, name)
	if err != nil {
		return err
	}
	_, err = p.eachPair(ctx, s, 0, func(_, _ []byte) error { return nil })
	return errors.Join(err, s.Close())
}

// restoreBytes is about how many bytes of a snapshot are installed at once.
const restoreBytes = 1 << 20

// restore installs a snapshot in the store: all of it in a cleared one, or with above what has changed in one that is at
// that log sequence. The meta comes last: until then the store is at the place that it was at, or is empty, to whoever
// opens it next.
func (p *Partition) restore(ctx context.Context, s *snapshotObject, above uint64) error {
	if s.manifest != nil && s.manifest.Partition != p.name {
		return fmt.Errorf("%w: %s is of partition %q", errSnapshot, s.name, s.manifest.Partition)
	}
	var changes []state.Change
	var kept []byte // what the changes point into: the bytes of a chunk go with the next
	flush := func() error {
		err := p.ports.Store.Install(changes)
		changes, kept = changes[:0], kept[:0]
		return err
	}
	meta, err := p.eachPair(ctx, s, above, func(k, v []byte) error {
		if len(changes) > 0 && len(kept)+len(k)+len(v) > restoreBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		at := len(kept)
		kept = append(append(kept, k...), v...)
		c := state.Change{Key: kept[at : at+len(k) : at+len(k)]}
		if v != nil {
			c.Value = kept[at+len(k) : len(kept) : len(kept)]
		}
		changes = append(changes, c)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil && meta == nil {
		err = fmt.Errorf("%w: %s has no meta", errSnapshot, s.name)
	}
	if err != nil {
		return err
	}
	p.meta = proto.Meta{}
	if err := p.meta.UnmarshalVT(meta); err != nil {
		return fmt.Errorf("%w: %s: meta: %w", errSnapshot, s.name, err)
	}
	if p.meta.Partition != p.name {
		return fmt.Errorf("%w: %s is of partition %q", errSnapshot, s.name, p.meta.Partition)
	}
	return p.ports.Store.Install([]state.Change{{Key: []byte{metaKey}, Value: meta}})
}

// reaches tells whether a snapshot can bring a store up to its own place that is at a place of the same log before it:
// whether its runs begin there or below. That it is the same log shows in the numbers and the epochs of its records.
func (p *Partition) reaches(m *proto.Manifest, at *proto.Meta) bool {
	if m == nil || at.Partition != p.name || m.Place == nil || at.Sequence < m.Place.Sequence || at.Sequence > m.Sequence {
		return false
	}
	epoch := m.Place.Epoch
	for _, e := range m.Epochs {
		if e.Sequence <= at.Sequence {
			epoch = e.Epoch
		}
	}
	if at.Epoch != epoch {
		return false
	}
	places := []*proto.Place{m.Place}
	for _, r := range m.Runs {
		places = append(places, r.Place)
	}
	for _, e := range append(places, m.Epochs...) {
		if e == nil || (e.Sequence < at.Sequence) != (e.Number < at.Number) || (e.Sequence == at.Sequence) != (e.Number == at.Number) {
			return false
		}
	}
	return true
}

// rebuild makes the state anew: from the newest snapshot that is announced and whole, or from the log's beginning, and
// then from the log up to a place. A store that is only too old, as the reason to rebuild it tells, is brought up to the
// snapshot by what has changed. It writes nothing but the store, so it needs no ownership.
func (p *Partition) rebuild(ctx context.Context, because error, to uint64, progress Progress) error {
	newest, err := p.newestSnapshot(ctx)
	if err != nil {
		return err
	}
	if newest != "" {
		err := because
		if errors.Is(because, errOlder) {
			err = p.catchUp(ctx, newest)
		}
		if errors.Is(err, errOlder) || errors.Is(err, state.ErrCorrupt) || notWhole(err) {
			err = p.restoreAnew(ctx, newest)
		}
		if err == nil {
			return p.replay(ctx, to, progress)
		}
		if !notWhole(err) {
			return err
		}
	}
	return p.rebuildFromOlder(ctx, to, newest, progress)
}

// newestSnapshot is the name of the newest announced snapshot as the log's newest record has it; "" where that knows of
// none, or was written by a version that did not say.
func (p *Partition) newestSnapshot(ctx context.Context) (string, error) {
	m, err := p.ports.Streams.LastOn(ctx, p.stream, p.subject)
	if errors.Is(err, transport.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the log's last record: %w", err)
	}
	r, err := p.wholeRecord(ctx, m)
	if err != nil || r.SnapshotEpoch == 0 {
		return "", err
	}
	return p.snapshotPrefix() + snapshotID(r.SnapshotEpoch, r.SnapshotSequence), nil
}

// catchUp brings a store that is whole, though too old for what is left of the log, up to a snapshot.
func (p *Partition) catchUp(ctx context.Context, name string) error {
	var at proto.Meta
	b, err := p.ports.Store.Get([]byte{metaKey})
	if err != nil {
		return err
	}
	if err := at.UnmarshalVT(b); err != nil || len(b) == 0 {
		return errOlder
	}
	s, err := openSnapshot(ctx, p.ports.Objects, name)
	if err != nil {
		return err
	}
	if !p.reaches(s.manifest, &at) {
		return errors.Join(errOlder, s.Close())
	}
	p.reset()
	err = errors.Join(p.restore(ctx, s, at.Sequence), s.Close())
	if err == nil {
		p.ports.Logger.Info("the store was brought up to a snapshot", "partition", p.name, "from", at.Sequence, "to", p.meta.Sequence)
	}
	return err
}

// restoreAnew clears the store and fills it from a snapshot.
func (p *Partition) restoreAnew(ctx context.Context, name string) error {
	p.reset()
	if err := p.ports.Store.Clear(); err != nil {
		return err
	}
	s, err := openSnapshot(ctx, p.ports.Objects, name)
	if err == nil {
		err = errors.Join(p.restore(ctx, s, 0), s.Close())
	}
	if err != nil {
		p.ports.Logger.Warn("snapshot not usable", "partition", p.name, "snapshot", name, "error", err)
		if notWhole(err) && p.snapshots.unfit == "" {
			p.snapshots.unfit = name // the newest one that is
		}
	}
	return err
}

// rebuildFromOlder looks for announcements in all of the log.
func (p *Partition) rebuildFromOlder(ctx context.Context, to uint64, tried string, progress Progress) error {
	var names []string
	first := uint64(0)
	err := p.readLog(ctx, 1, to, func(r *proto.Record, _ logged) error {
		if first == 0 {
			first = r.Number
		}
		if r.Kind == proto.Kind_SNAPSHOT && r.Snapshot != tried {
			names = append(names, r.Snapshot)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var fault error // a passing one: then people need not look
	for i := len(names) - 1; i >= 0; i-- {
		err := p.restoreAnew(ctx, names[i])
		if err == nil {
			return p.replay(ctx, to, progress)
		}
		if !notWhole(err) {
			fault = err
		}
	}
	p.reset()
	if err := p.ports.Store.Clear(); err != nil {
		return err
	}
	switch {
	case first == 1:
		return p.replay(ctx, to, progress)
	case fault != nil:
		return fault
	default:
		return fmt.Errorf("%w: no whole snapshot is left, and the log begins at record %d", ErrDamagedLog, first)
	}
}
