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

// eachPair calls f for every pair of a snapshot but its meta, which it returns.
func (p *Partition) eachPair(ctx context.Context, s *snapshotObject, f func(k, v []byte) error) (meta []byte, err error) {
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
	var before []byte
	for i, c := range s.manifest.Chunks {
		name := chunkName(p.snapshotPrefix(), c)
		pairs, err := codec.read(ctx, p.ports.Objects, name, c)
		if err != nil {
			return nil, err
		}
		end := chunkEnd(s.manifest.Chunks, i)
		for len(pairs) > 0 {
			k, v, n := nextPair(pairs)
			if n == 0 || bytes.Compare(k, before) <= 0 || bytes.Compare(k, c.From) < 0 || end != nil && bytes.Compare(k, end) >= 0 {
				return nil, fmt.Errorf("%w: chunk %s of %s: its keys are not in order", errSnapshot, name, s.name)
			}
			if err := f(k, v); err != nil {
				return nil, err
			}
			before, pairs = append(before[:0], k...), pairs[n:]
		}
	}
	return s.manifest.Meta, nil
}

// verifySnapshot reads all of a snapshot.
func (p *Partition) verifySnapshot(ctx context.Context, name string) error {
	s, err := openSnapshot(ctx, p.ports.Objects, name)
	if err != nil {
		return err
	}
	_, err = p.eachPair(ctx, s, func(_, _ []byte) error { return nil })
	return errors.Join(err, s.Close())
}

// restore fills the cleared store from a snapshot. The meta comes last: a store without it is empty to whoever
// opens it next.
func (p *Partition) restore(ctx context.Context, name string) error {
	s, err := openSnapshot(ctx, p.ports.Objects, name)
	if err != nil {
		return err
	}
	if s.manifest != nil && s.manifest.Partition != p.name {
		return errors.Join(fmt.Errorf("%w: %s is of partition %q", errSnapshot, name, s.manifest.Partition), s.Close())
	}
	var changes []state.Change
	size := 0
	flush := func() error {
		err := p.ports.Store.Install(changes)
		changes, size = changes[:0], 0
		return err
	}
	var keys []byte // of one Install; the bytes of a chunk go with the next
	meta, err := p.eachPair(ctx, s, func(k, v []byte) error {
		if size == 0 {
			keys = keys[:0]
		}
		at := len(keys)
		keys = append(append(keys, k...), v...)
		changes = append(changes, state.Change{Key: keys[at : at+len(k) : at+len(k)], Value: keys[at+len(k) : len(keys) : len(keys)]})
		if size += len(k) + len(v); size < 1<<20 {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == nil && meta == nil {
		err = fmt.Errorf("%w: %s has no meta", errSnapshot, name)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	p.meta = proto.Meta{}
	if err := p.meta.UnmarshalVT(meta); err != nil {
		return fmt.Errorf("%w: %s: meta: %w", errSnapshot, name, err)
	}
	if p.meta.Partition != p.name {
		return fmt.Errorf("%w: %s is of partition %q", errSnapshot, name, p.meta.Partition)
	}
	if err := p.ports.Store.Install([]state.Change{{Key: []byte{metaKey}, Value: meta}}); err != nil {
		return err
	}
	p.snapshots.base, p.snapshots.changed = s.manifest, nil
	if s.manifest != nil {
		p.snapshots.changed = new(changedKeys)
	}
	return nil
}

// rebuild makes the state anew: from the newest snapshot that is announced and whole, or from the log's beginning, and
// then from the log up to a place. It writes nothing but the store, so it needs no ownership.
func (p *Partition) rebuild(ctx context.Context, to uint64, progress Progress) error {
	newest, err := p.newestSnapshot(ctx)
	if err != nil {
		return err
	}
	if newest != "" {
		whole, err := p.tryRestore(ctx, newest)
		if whole {
			return p.replay(ctx, to, progress)
		}
		if err != nil && !notWhole(err) {
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

// tryRestore clears the store and fills it from a snapshot, if that is whole.
func (p *Partition) tryRestore(ctx context.Context, name string) (whole bool, err error) {
	p.reset()
	if err := p.ports.Store.Clear(); err != nil {
		return false, err
	}
	err = p.restore(ctx, name)
	if err != nil {
		p.ports.Logger.Warn("snapshot not usable", "partition", p.name, "snapshot", name, "error", err)
		if notWhole(err) && p.snapshots.unfit == "" {
			p.snapshots.unfit = name // the newest one that is
		}
	}
	return err == nil, err
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
		whole, err := p.tryRestore(ctx, names[i])
		if whole {
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
