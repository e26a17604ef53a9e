package actors

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// snapshotStage is how far a snapshot is.
type snapshotStage int

const (
	snapshotListing   snapshotStage = iota // what objects the partition has
	snapshotComparing                      // the snapshot before: what of it may be used again
	snapshotWriting                        // chunks
	snapshotSealing                        // the manifest
	snapshotWritten                        // the partition is to announce it
	snapshotTidying                        // objects that nobody needs any more
	snapshotDone
)

// Bounds of a step.
const (
	deletesAStep = 16
	keepsAStep   = 4096
)

// checkOneOf: a snapshot reads one of so many of the chunks that it takes over again, each in its turn.
const checkOneOf = 16

// snapshotWriter writes one snapshot of a partition, a step at a time, each of which reads some MiB at most and writes
// one object. It uses nothing of the partition, so that the steps may be done beside it; between working and the next
// step, working tells whether it is the partition's turn.
//
// Nothing that a step does harms another owner. Every name carries epoch and sequence of the snapshot that wrote it, so
// a name is written by one owner at one place of the log, and never again once it was deleted. What is deleted was there
// before the announcement, and nobody else owned the partition up to then: so a later owner has not written it, and does
// not need it either, since of what there was it may use only what the announced snapshots need.
type snapshotWriter struct {
	objects   transport.Objects
	clock     Clock
	reader    state.Reader // nil: closed
	codec     chunkCodec
	prefix    string // of the names of the partition's objects
	manifest  *proto.Manifest
	logBytes  uint64 // since the snapshot before, at this one's place
	was       string // the snapshot that is announced now; "": none
	lost      bool   // it is not whole: what it would take to do without it is to be kept
	base      *proto.Manifest
	changed   *changedKeys // since the base; nil: anything may have
	turn      int          // which of the chunks are checked
	stage     snapshotStage
	tries     int
	failed    error // it has come to nothing
	announced bool

	there    map[string]bool         // the partition's objects when it began
	needed   map[string]bool         // those that the snapshot before needs
	reusable map[string]*proto.Chunk // the base's, by hash
	ranges   []*proto.Chunk          // the base's chunks, or one for all
	at       int                     // which of them is next, or being read
	reading  bool
	cursor   []byte // where its reading goes on
	checked  bool   // it was found whole
	buf      []byte // pairs for the next chunk
	from     []byte // where that begins
	aim      int
	garbage  []string

	written, stored uint64 // bytes of new chunks, and of their objects
}

// newSnapshotWriter readies the next snapshot of a partition for its place now.
func newSnapshotWriter(p *Partition, reader state.Reader) *snapshotWriter {
	s := &p.snapshots
	w := &snapshotWriter{objects: p.ports.Objects, clock: p.ports.Clock, reader: reader, prefix: p.snapshotPrefix(), aim: p.opt.chunkBytes,
		manifest: &proto.Manifest{Format: 2, Partition: p.name, Epoch: p.meta.Epoch, Sequence: p.meta.Sequence},
		logBytes: p.meta.LogBytes, was: p.meta.Snapshot, base: s.base, changed: s.changed, turn: int(p.meta.Epoch%checkOneOf) + s.count%checkOneOf}
	w.lost = w.was != "" && w.was == s.unfit
	return w
}

// working tells whether there is a next step; if not, it is the partition's turn.
func (w *snapshotWriter) working() bool {
	return w.failed == nil && w.stage != snapshotWritten && w.stage != snapshotDone
}

// run does steps until it is the partition's turn.
func (w *snapshotWriter) run(ctx context.Context) {
	for w.working() {
		if err := w.try(ctx); err != nil && w.working() {
			_ = w.clock.Sleep(ctx, time.Second<<w.tries) // the next step says that ctx has ended
		}
	}
}

// try does a step. One that fails is done again, some times.
func (w *snapshotWriter) try(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		err = w.step(ctx)
	}
	if err == nil {
		w.tries = 0
		return nil
	}
	if w.tries++; w.tries >= snapshotTries || ctx.Err() != nil || errors.Is(err, state.ErrCorrupt) {
		w.failed = errors.Join(err, w.close())
	}
	return err
}

func (w *snapshotWriter) close() error {
	if w.reader == nil {
		return nil
	}
	r := w.reader
	w.reader, w.buf = nil, nil
	return r.Close()
}

func (w *snapshotWriter) step(ctx context.Context) error {
	switch w.stage {
	case snapshotListing:
		names, err := w.objects.List(ctx, w.prefix)
		if err != nil {
			return err
		}
		w.there = make(map[string]bool, len(names))
		for _, name := range names {
			w.there[name] = true
		}
		w.stage = snapshotComparing
	case snapshotComparing:
		return w.compare(ctx)
	case snapshotWriting:
		return w.write(ctx)
	case snapshotSealing:
		return w.seal(ctx)
	case snapshotTidying:
		return w.deleteSome(ctx)
	}
	return nil
}

// compare looks at the snapshot before: whether it is whole, and what of it, or of the base, may be used again.
func (w *snapshotWriter) compare(ctx context.Context) error {
	var before *proto.Manifest
	w.needed = map[string]bool{w.was: true}
	if w.was != "" {
		o, err := openSnapshot(ctx, w.objects, w.was)
		switch {
		case err == nil:
			before = o.manifest
			if err := o.Close(); err != nil {
				return err
			}
		case notWhole(err):
			w.lost = true
		default:
			return err
		}
	}
	if before != nil {
		for _, c := range before.Chunks {
			name := w.chunkName(c)
			w.needed[name] = true
			w.lost = w.lost || !w.there[name]
		}
		if w.base == nil {
			w.base = before
		}
	}
	w.reusable = make(map[string]*proto.Chunk)
	w.ranges = []*proto.Chunk{{}}
	if w.base != nil && len(w.base.Chunks) > 0 {
		w.ranges = w.base.Chunks
		for _, c := range w.base.Chunks {
			if w.there[w.chunkName(c)] {
				w.reusable[string(c.Hash)] = c
			}
		}
	}
	if err := w.readMeta(); err != nil {
		return err
	}
	w.stage = snapshotWriting
	return nil
}

// readMeta takes the partition's meta from the store.
func (w *snapshotWriter) readMeta() error {
	w.manifest.Meta = nil
	err := w.reader.Scan([]byte{metaKey}, []byte{metaKey, 0}, func(_, v []byte) bool {
		w.manifest.Meta = bytes.Clone(v)
		return true
	})
	if err == nil && w.manifest.Meta == nil {
		err = fmt.Errorf("%w: the store has no meta", state.ErrCorrupt)
	}
	return err
}

// Sizes of chunks. One that is there stays as long as it is not larger than four times the aim; a larger one is cut into
// pieces of about the aim, and one that is smaller than a quarter becomes part of its neighbour, if that is not large.
// So what changes in one chunk moves no border of another.
func (w *snapshotWriter) least() int { return w.aim / 4 }
func (w *snapshotWriter) most() int  { return 4 * w.aim }

// joins tells whether what is read so far is to become part of the chunk of the next range.
func (w *snapshotWriter) joins(next *proto.Chunk) bool {
	return len(w.buf) < w.least() && uint64(len(w.buf))+next.Bytes <= uint64(2*w.aim)
}

// write adds a chunk to the snapshot, or some that are taken over as they are.
func (w *snapshotWriter) write(ctx context.Context) error {
	for n := 0; n < keepsAStep; n++ {
		if w.at == len(w.ranges) {
			if len(w.buf) > 0 {
				return w.emit(ctx, len(w.buf))
			}
			w.stage = snapshotSealing
			return nil
		}
		next := w.ranges[w.at]
		end := chunkEnd(w.ranges, w.at)
		if !w.reading {
			if len(w.buf) > 0 && !w.joins(next) {
				return w.emit(ctx, len(w.buf))
			}
			if len(w.buf) == 0 {
				w.from = next.From
				if w.changed != nil && w.reusable[string(next.Hash)] != nil && !w.changed.any(next.From, end) {
					if !w.checked && w.checks() {
						return w.check(ctx, next)
					}
					w.add(next)
					w.at++
					continue
				}
			}
			w.reading, w.cursor = true, next.From
		}
		more, err := w.fill(end)
		if err != nil {
			return err
		}
		if more {
			return w.emit(ctx, w.cutPlace())
		}
		w.at, w.reading = w.at+1, false
		if len(w.buf) >= w.least() {
			return w.emit(ctx, len(w.buf))
		}
	}
	return nil
}

// checks tells whether the next chunk is one of those that are read although they are there.
func (w *snapshotWriter) checks() bool { return (len(w.manifest.Chunks)+w.turn)%checkOneOf == 0 }

// check reads a chunk that is to be taken over. One that is damaged is written anew, and the snapshot before is lost.
func (w *snapshotWriter) check(ctx context.Context, c *proto.Chunk) error {
	_, err := w.codec.read(ctx, w.objects, w.chunkName(c), c)
	if notWhole(err) {
		w.lost = true
		delete(w.reusable, string(c.Hash))
		return nil
	}
	w.checked = err == nil
	return err
}

// add makes a chunk that is there the snapshot's next, from where the next one is to begin.
func (w *snapshotWriter) add(c *proto.Chunk) {
	from := w.from
	if len(w.manifest.Chunks) == 0 {
		from = nil // what is below it belongs to it
	}
	w.manifest.Chunks = append(w.manifest.Chunks, &proto.Chunk{From: from, Hash: c.Hash, Epoch: c.Epoch, Sequence: c.Sequence, Bytes: c.Bytes, Stored: c.Stored})
	w.checked = false
}

// fill reads pairs of the range at hand. It says more where it stops before the range's end.
func (w *snapshotWriter) fill(end []byte) (more bool, err error) {
	size := len(w.buf)
	err = w.reader.Scan(w.cursor, end, func(k, v []byte) bool {
		if len(k) == 1 && k[0] == metaKey {
			return true
		}
		if len(w.buf) > w.most() {
			w.cursor, more = bytes.Clone(k), true
			return false
		}
		w.buf = appendPair(w.buf, k, v)
		return true
	})
	if err != nil {
		w.buf = w.buf[:size]
	}
	return more, err
}

// cutPlace is where a chunk ends that goes on: where a slot does, if that is near the aim.
func (w *snapshotWriter) cutPlace() int {
	var before []byte
	at, aim := 0, 0
	for at < len(w.buf) && at <= 2*w.aim {
		k, _, n := nextPair(w.buf[at:])
		if before != nil && at >= w.aim/2 && slotPrefix(k) != slotPrefix(before) {
			return at
		}
		if aim == 0 && at >= w.aim {
			aim = at
		}
		before, at = k, at+n
	}
	if aim == 0 {
		aim = at // one pair is larger than all that a chunk should be
	}
	return aim
}

// emit makes a chunk of the first n bytes that were read: the base's, if there is one that holds the same.
func (w *snapshotWriter) emit(ctx context.Context, n int) error {
	pairs := w.buf[:n]
	hash := sha256.Sum256(pairs)
	c := w.reusable[string(hash[:])]
	switch {
	case c == nil:
		c = &proto.Chunk{Hash: hash[:], Epoch: w.manifest.Epoch, Sequence: w.manifest.Sequence, Bytes: uint64(n)}
		if err := w.codec.write(ctx, w.objects, w.chunkName(c), c, pairs); err != nil {
			return err
		}
		w.written += c.Bytes
		w.stored += c.Stored
	case !w.checked && w.checks():
		return w.check(ctx, c) // and then again
	}
	w.add(c)
	last := lastKey(pairs)
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
	switch {
	case len(w.buf) > 0:
		next, _, _ := nextPair(w.buf)
		w.from = separator(last, next)
	case w.reading:
		w.from = separator(last, w.cursor)
	}
	return nil
}

// seal writes the manifest and reads it back.
func (w *snapshotWriter) seal(ctx context.Context) error {
	b, name := sealManifest(w.manifest), w.manifestName()
	if err := w.objects.Put(ctx, name, bytes.NewReader(b)); err != nil {
		return err
	}
	o, err := openSnapshot(ctx, w.objects, name)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := o.Close(); err != nil {
		return err
	}
	if o.manifest == nil || !bytes.Equal(sealManifest(o.manifest), b) {
		return fmt.Errorf("read back: %w: %s is not what was written", errSnapshot, name)
	}
	if err := w.close(); err != nil {
		return err
	}
	w.stage = snapshotWritten
	return nil
}

// tidy says that the snapshot is announced, and finds what is not needed any more: what neither it nor the one before
// it names, of this owner and of former ones. What it leaves, because it ends before, the next snapshot finds.
func (w *snapshotWriter) tidy() {
	w.announced, w.stage, w.tries = true, snapshotTidying, 0
	if !w.lost {
		w.needed[w.manifestName()] = true
		for _, c := range w.manifest.Chunks {
			w.needed[w.chunkName(c)] = true
		}
		for name := range w.there {
			if !w.needed[name] {
				w.garbage = append(w.garbage, name)
			}
		}
		slices.Sort(w.garbage)
	}
	w.there, w.needed, w.reusable, w.ranges, w.base = nil, nil, nil, nil, nil
}

func (w *snapshotWriter) deleteSome(ctx context.Context) error {
	for n := 0; n < deletesAStep && len(w.garbage) > 0; n++ {
		last := len(w.garbage) - 1
		if err := w.objects.Delete(ctx, w.garbage[last]); err != nil {
			return err
		}
		w.garbage = w.garbage[:last]
	}
	if len(w.garbage) == 0 {
		w.stage = snapshotDone
	}
	return nil
}

func (w *snapshotWriter) manifestName() string {
	return w.prefix + snapshotID(w.manifest.Epoch, w.manifest.Sequence)
}

func (w *snapshotWriter) chunkName(c *proto.Chunk) string { return chunkName(w.prefix, c) }
