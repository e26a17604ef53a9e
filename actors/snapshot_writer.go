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
	snapshotListing    snapshotStage = iota // what objects the partition has
	snapshotComparing                       // what of the snapshot before may be used again
	snapshotCollecting                      // which keys have changed since
	snapshotChecking                        // whether what is taken over can be read
	snapshotRun                             // the chunks of those keys
	snapshotWhole                           // or the chunks of all keys
	snapshotSealing                         // the manifest
	snapshotWritten                         // the partition is to announce it
	snapshotTidying                         // objects that nobody needs any more
	snapshotDone
)

// Bounds.
const (
	snapshotTries = 5        // of a step, before the snapshot is given up
	deletesAStep  = 16       // objects
	pairsAStep    = 8192     // of a run
	checkOneOf    = 16       // of so many chunks that a snapshot takes over it reads one, each in its turn
	keyListMost   = 64 << 20 // bytes of changed keys; with more all keys are read
	runsMost      = 16       // then some become one
	runsMerged    = 8        // at least so many
)

// snapshotWriter writes one snapshot of a partition, a step at a time, each of which reads some MiB at most and writes
// one object. It uses nothing of the partition, so that the steps may be done beside it; where working says no, it is the
// partition's turn.
//
// Nothing that a step does harms another owner. Every name carries epoch and sequence of the snapshot that wrote it, so
// a name is written by one owner at one place of the log, and never again once it was deleted. What is deleted was there
// before the announcement, and nobody else owned the partition up to then: so a later owner has not written it, and does
// not need it either, since of what there was it may use only what the announced snapshots need.
type snapshotWriter struct {
	streams  transport.Streams
	objects  transport.Objects
	clock    Clock
	reader   state.Reader // nil: closed
	codec    chunkCodec
	stream   string // of the log
	subject  string
	prefix   string // of the names of the partition's objects
	aim      int    // size of a chunk
	turn     int    // which of the chunks are checked
	manifest *proto.Manifest
	logBytes uint64 // since the snapshot before, at this one's place
	was      string // the snapshot that is announced now; "": none
	lost     bool   // it is not whole: what it would take to do without it is to be kept

	stage     snapshotStage
	tries     int
	failed    error // it has come to nothing
	announced bool

	there   map[string]bool // the partition's objects when it began
	needed  map[string]bool // those that the snapshot before needs
	garbage []string        // those to be deleted

	before *proto.Manifest // the snapshot before, if it can be read
	all    bool            // all keys are read, whatever has changed
	at     int             // which of the chunks before is next
	buf    []byte          // pairs for the next chunk
	whole  wholeWriter
	run    runWriter

	written, stored uint64 // bytes of new chunks, and of their objects
}

// newSnapshotWriter readies the next snapshot of a partition for its place now.
func newSnapshotWriter(p *Partition, reader state.Reader) *snapshotWriter {
	return &snapshotWriter{streams: p.ports.Streams, objects: p.ports.Objects, clock: p.ports.Clock, reader: reader,
		stream: p.stream, subject: p.subject, prefix: p.snapshotPrefix(), aim: p.opt.chunkBytes,
		turn:     int(p.meta.Epoch%checkOneOf) + p.snapshots.count%checkOneOf,
		manifest: &proto.Manifest{Format: 2, Partition: p.name, Epoch: p.meta.Epoch, Sequence: p.meta.Sequence},
		logBytes: p.meta.LogBytes, was: p.meta.Snapshot, lost: p.meta.Snapshot != "" && p.meta.Snapshot == p.snapshots.unfit}
}

// working tells whether there is a next step; if not, it is the partition's turn.
func (w *snapshotWriter) working() bool {
	return w.failed == nil && w.stage != snapshotWritten && w.stage != snapshotDone
}

// runSteps does steps until it is the partition's turn.
func (w *snapshotWriter) runSteps(ctx context.Context) {
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

// close lets go of what the steps up to the announcement need.
func (w *snapshotWriter) close() error {
	w.run.closeLog()
	if w.reader == nil {
		return nil
	}
	r := w.reader
	w.reader, w.buf, w.run, w.whole = nil, nil, runWriter{}, wholeWriter{}
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
	case snapshotCollecting:
		return w.collect(ctx)
	case snapshotChecking:
		return w.checkNext(ctx)
	case snapshotRun:
		return w.writeRun(ctx)
	case snapshotWhole:
		return w.writeWhole(ctx)
	case snapshotSealing:
		return w.seal(ctx)
	case snapshotTidying:
		return w.deleteSome(ctx)
	}
	return nil
}

// compare looks at the snapshot before: whether it is whole, and so whether a run on it will do.
func (w *snapshotWriter) compare(ctx context.Context) error {
	w.needed = map[string]bool{w.was: true}
	if w.was != "" {
		o, err := openSnapshot(ctx, w.objects, w.was)
		switch {
		case err == nil:
			w.before = o.manifest
			if err := o.Close(); err != nil {
				return err
			}
		case notWhole(err):
			w.lost = true
		default:
			return err
		}
	}
	if w.before != nil {
		for _, c := range chunksOf(w.before) {
			name := w.chunkName(c)
			w.needed[name] = true
			w.lost = w.lost || !w.there[name]
		}
	}
	meta, err := w.reader.Get([]byte{metaKey})
	if err != nil {
		return err
	}
	var m proto.Meta
	if err := m.UnmarshalVT(meta); err != nil {
		return fmt.Errorf("%w: meta: %w", state.ErrCorrupt, err)
	}
	if m.Sequence != w.manifest.Sequence {
		return fmt.Errorf("%w: the store is at log sequence %d, the partition at %d", state.ErrCorrupt, m.Sequence, w.manifest.Sequence)
	}
	w.manifest.Meta = meta
	if w.before == nil || w.lost || w.all || chunkSize(w.before.Chunks) < w.logBytes/4 {
		w.beginWhole()
		return nil
	}
	return w.beginRun()
}

// checks tells whether a chunk is one of those that are read although they are there.
func (w *snapshotWriter) checks(number int) bool { return w.lost || (number+w.turn)%checkOneOf == 0 }

// check reads a chunk that is to be taken over. If it is damaged, the snapshot before is lost.
func (w *snapshotWriter) check(ctx context.Context, c *proto.Chunk) (whole bool, err error) {
	_, err = w.codec.read(ctx, w.objects, w.chunkName(c), c)
	if notWhole(err) {
		w.lost = true
		return false, nil
	}
	return err == nil, err
}

// put writes the first n bytes that were read as a chunk.
func (w *snapshotWriter) put(ctx context.Context, hash [sha256.Size]byte, n int) (*proto.Chunk, error) {
	c := &proto.Chunk{Hash: hash[:], Epoch: w.manifest.Epoch, Sequence: w.manifest.Sequence, Bytes: uint64(n)}
	if err := w.codec.write(ctx, w.objects, w.chunkName(c), c, w.buf[:n]); err != nil {
		return nil, err
	}
	w.written += c.Bytes
	w.stored += c.Stored
	return c, nil
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
		for _, c := range chunksOf(w.manifest) {
			w.needed[w.chunkName(c)] = true
		}
		for name := range w.there {
			if !w.needed[name] {
				w.garbage = append(w.garbage, name)
			}
		}
		slices.Sort(w.garbage)
	}
	w.there, w.needed, w.before = nil, nil, nil
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
