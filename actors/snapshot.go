package actors

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
)

// snapshotMagic begins a snapshot; the last byte is the format. Then follow pairs of key and value, each with
// its length before it, and at the end a key of length 0 with the xxh64 of all before it as its value.
const snapshotMagic = "kisflow snapshot 1\n"

// snapshotName names a snapshot by partition, epoch and log sequence: it is never written twice.
func (p *Partition) snapshotName() string {
	return strings.Join([]string{Token(p.flow.Name), Token(p.stage), fmt.Sprint(p.number),
		fmt.Sprintf("%08d-%016d", p.meta.Epoch, p.meta.Sequence)}, "/")
}

// maybeSnapshot takes a snapshot when the log has grown by more than one is worth, and cuts the log.
func (p *Partition) maybeSnapshot(ctx context.Context) error {
	if p.meta.LogBytes < max(p.opt.SnapshotBytes, p.snapshotBytes) {
		return nil
	}
	return p.Snapshot(ctx)
}

// Snapshot writes the partition's state to the object store, reads it back, announces it in the log, and cuts
// the log and the snapshots that nobody needs any more (P3). A fault before the announcement changes nothing.
func (p *Partition) Snapshot(ctx context.Context) error {
	name, at := p.snapshotName(), p.meta.Sequence
	size, err := p.writeSnapshot(ctx, name)
	if err == nil {
		err = p.verifySnapshot(ctx, name)
	}
	if err != nil {
		p.ports.Logger.Warn("no snapshot", "partition", p.name, "error", err)
		p.snapshotBytes = p.meta.LogBytes + p.opt.SnapshotBytes // not again at once
		return nil
	}
	p.snapshotBytes = uint64(size)
	old := p.meta.SnapshotBefore
	r := &proto.Record{Format: 1, Kind: proto.Kind_SNAPSHOT, Epoch: p.meta.Epoch, Number: p.meta.Number + 1,
		Revision: p.flow.Revision, Time: p.ports.Clock.Now().UnixNano(), Snapshot: name, SnapshotSequence: at}
	logged, err := p.commit(ctx, r)
	if err != nil {
		return fmt.Errorf("partition %s: announce snapshot %s: %w", p.name, name, err)
	}
	if err := p.install(r, logged); err != nil {
		return fmt.Errorf("partition %s: install the announcement of %s: %w", p.name, name, err)
	}
	return p.cut(ctx, old)
}

// cut removes the records below the second-newest snapshot and the oldest unsettled output, and the snapshot
// that is now the third. Failing, it leaves too much: the next snapshot cuts again.
func (p *Partition) cut(ctx context.Context, old string) error {
	below := p.meta.SnapshotBeforeSequence
	if p.meta.SnapshotBefore == "" {
		return nil
	}
	if p.meta.Unsettled != 0 {
		below = min(below, p.meta.Unsettled)
	}
	if err := p.ports.Streams.Cut(ctx, p.stream, p.subject, below); err != nil {
		p.ports.Logger.Warn("the log was not cut", "partition", p.name, "below", below, "error", err)
	}
	if old != "" {
		if err := p.ports.Objects.Delete(ctx, old); err != nil {
			p.ports.Logger.Warn("an old snapshot was not deleted", "snapshot", old, "error", err)
		}
	}
	return nil
}

// writeSnapshot streams the store's keys into an object.
func (p *Partition) writeSnapshot(ctx context.Context, name string) (int, error) {
	r := &snapshotReader{p: p, hash: xxhash.New(), from: []byte{0}}
	r.add([]byte(snapshotMagic))
	if err := p.ports.Objects.Put(ctx, name, r); err != nil {
		return 0, err
	}
	return r.size, r.err
}

// snapshotReader produces a snapshot piece by piece, so that a large one needs no memory of its size.
type snapshotReader struct {
	p    *Partition
	buf  bytes.Buffer
	hash *xxhash.Digest
	from []byte
	done bool
	size int
	err  error
}

func (r *snapshotReader) add(b []byte) {
	r.buf.Write(b)
	r.hash.Write(b)
	r.size += len(b)
}

func (r *snapshotReader) Read(b []byte) (int, error) {
	for r.buf.Len() == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.done {
			return 0, io.EOF
		}
		r.fill()
	}
	return r.buf.Read(b)
}

// fill reads the next piece of the store.
func (r *snapshotReader) fill() {
	var head [2 * binary.MaxVarintLen64]byte
	more := false
	r.err = r.p.ports.Store.Scan(r.from, nil, func(k, v []byte) bool {
		if r.buf.Len() >= 256<<10 {
			r.from, more = bytes.Clone(k), true
			return false
		}
		h := binary.AppendUvarint(head[:0], uint64(len(k)))
		r.add(binary.AppendUvarint(h, uint64(len(v))))
		r.add(k)
		r.add(v)
		return true
	})
	if r.err == nil && !more {
		r.done = true
		sum := r.hash.Sum64()
		h := binary.AppendUvarint(head[:0], 0)
		r.add(binary.AppendUvarint(h, 8))
		r.add(binary.BigEndian.AppendUint64(nil, sum))
	}
}

// errSnapshot means that a snapshot is not what was written; reading it again does not help.
var errSnapshot = errors.New("damaged snapshot")

// snapshotFault tells a snapshot that ends too early from one that cannot be read just now.
func snapshotFault(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s ends too early", errSnapshot, name)
	}
	return fmt.Errorf("snapshot %s: %w", name, err)
}

// readSnapshot calls f for every pair, and fails where the bytes are not those that were written.
func (p *Partition) readSnapshot(ctx context.Context, name string, f func(key, value []byte) error) error {
	o, err := p.ports.Objects.Get(ctx, name)
	if err != nil {
		return err
	}
	defer o.Close()
	r := bufio.NewReaderSize(o, 256<<10)
	hash := xxhash.New()
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return snapshotFault(name, err)
	}
	if string(magic) != snapshotMagic {
		return fmt.Errorf("%w: %s: not of a known format", errSnapshot, name)
	}
	hash.Write(magic)
	var head []byte
	for {
		k, err := binary.ReadUvarint(r)
		var v uint64
		if err == nil {
			v, err = binary.ReadUvarint(r)
		}
		if err == nil && (k > 64<<20 || v > 1<<30) {
			return fmt.Errorf("%w: %s: a length is damaged", errSnapshot, name)
		}
		if err != nil {
			return snapshotFault(name, err)
		}
		pair := make([]byte, k+v)
		if _, err := io.ReadFull(r, pair); err != nil {
			return snapshotFault(name, err)
		}
		if k == 0 {
			if v != 8 || binary.BigEndian.Uint64(pair) != hash.Sum64() {
				return fmt.Errorf("%w: %s: its checksum is another one", errSnapshot, name)
			}
			switch _, err := r.ReadByte(); err {
			case io.EOF:
				return nil
			case nil:
				return fmt.Errorf("%w: %s: bytes behind its end", errSnapshot, name)
			default:
				return snapshotFault(name, err)
			}
		}
		head = binary.AppendUvarint(binary.AppendUvarint(head[:0], k), v)
		hash.Write(head)
		hash.Write(pair)
		if err := f(pair[:k:k], pair[k:]); err != nil {
			return err
		}
	}
}

func (p *Partition) verifySnapshot(ctx context.Context, name string) error {
	return p.readSnapshot(ctx, name, func(_, _ []byte) error { return nil })
}

// restore fills the cleared store from a snapshot. The meta comes last: a store without it is empty to whoever
// opens it next.
func (p *Partition) restore(ctx context.Context, name string) error {
	var changes []state.Change
	var meta []byte
	bytes := 0
	flush := func() error {
		err := p.ports.Store.Install(changes)
		changes, bytes = changes[:0], 0
		return err
	}
	err := p.readSnapshot(ctx, name, func(k, v []byte) error {
		if len(k) == 1 && k[0] == metaKey {
			meta = v
			return nil
		}
		changes = append(changes, state.Change{Key: k, Value: v})
		if bytes += len(k) + len(v); bytes < 1<<20 {
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
	if err != nil {
		return err
	}
	if err := p.ports.Store.Install([]state.Change{{Key: []byte{metaKey}, Value: meta}}); err != nil {
		return err
	}
	if err := p.meta.UnmarshalVT(meta); err != nil {
		return err
	}
	if p.meta.Partition != p.name {
		return fmt.Errorf("%w: %s is of partition %q", errSnapshot, name, p.meta.Partition)
	}
	return nil
}
