package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/kisflow/kisflow/proto"
)

// A snapshot is a partition's state at one place of its log: an object, the manifest, that names others, the chunks.
// Some of them hold all keys, by ranges, as they were at some place; the others, in runs, hold the keys that have changed
// since, run by run. So a snapshot writes what has changed since the one before: a run, for which it reads from the log
// which keys those are. When the runs would outweigh the keys it reads these and writes them anew, but for ranges in
// which nothing has changed.
//
// The partition begins one, and announces it in its log when it is written and read back; both take moments. What is
// between, and the tidying after it, is a snapshotWriter's, which works beside the partition on a reader of the store.
// A fault before the announcement changes nothing.

// snapshotPause is how long a partition waits after a snapshot that it has given up, the first time.
const snapshotPause = 30 * time.Second

// snapshots is what a partition knows of its snapshots.
type snapshots struct {
	unfit   string          // an announced one that was found not to be whole
	writing *snapshotWriter // nil: none
	count   int             // of those that this owner has written
	faults  int             // in a row
	after   time.Time       // no new one before
}

// snapshotDue tells whether the log has grown by as much as makes a new snapshot worth its while.
func (p *Partition) snapshotDue() bool {
	return p.snapshotNear() && !p.ports.Clock.Now().Before(p.snapshots.after)
}

// snapshotNear tells whether a snapshot is due, but for a pause after one that was given up.
func (p *Partition) snapshotNear() bool { return p.owned && p.meta.LogBytes >= p.opt.SnapshotBytes }

// tickSnapshot begins a snapshot that is worth its while, and moves one on that is begun, unless somebody else does.
func (p *Partition) tickSnapshot(ctx context.Context) error {
	switch {
	case p.snapshots.writing != nil && !p.opt.aside:
		return p.moveSnapshot(ctx)
	case p.snapshots.writing == nil && p.snapshotDue():
		p.beginSnapshot()
	}
	return nil
}

// Snapshot writes a snapshot, announces it and tidies up, in the partition's turn.
func (p *Partition) Snapshot(ctx context.Context) error {
	if p.snapshots.writing == nil {
		p.beginSnapshot()
	}
	for p.snapshots.writing != nil {
		if err := p.moveSnapshot(ctx); err != nil {
			return err
		}
	}
	return nil
}

// beginSnapshot takes the state as it is now for the next snapshot.
func (p *Partition) beginSnapshot() {
	s := &p.snapshots
	reader, err := p.ports.Store.Snapshot()
	if err != nil {
		p.noSnapshot(err)
		return
	}
	s.writing = newSnapshotWriter(p, reader)
}

// moveSnapshot does the next step of the snapshot that is being written.
func (p *Partition) moveSnapshot(ctx context.Context) error {
	w := p.snapshots.writing
	if w.working() {
		if err := w.try(ctx); err == nil || w.working() {
			return nil // the next step, or this one again
		}
	}
	return p.turnSnapshot(ctx)
}

// turnSnapshot does what a snapshot needs the partition's turn for: it is written, tidied up, or has come to nothing.
func (p *Partition) turnSnapshot(ctx context.Context) error {
	s := &p.snapshots
	w := s.writing
	switch {
	case w.stage == snapshotWritten:
		return p.announceSnapshot(ctx)
	case w.stage == snapshotDone:
		s.writing = nil
	case w.failed != nil && w.announced: // the next one tidies up
		p.ports.Logger.Warn("old snapshots were not deleted", "partition", p.name, "error", w.failed)
		s.writing = nil
	case w.failed != nil:
		s.writing = nil
		p.noSnapshot(w.failed)
	}
	return nil
}

// noSnapshot notes that a snapshot has come to nothing. It is not tried again at once.
func (p *Partition) noSnapshot(why error) {
	s := &p.snapshots
	p.ports.Logger.Warn("no snapshot", "partition", p.name, "error", why)
	s.after = p.ports.Clock.Now().Add(snapshotPause << min(s.faults, 4))
	s.faults++
}

// announceSnapshot writes the record that makes a snapshot count, and cuts the log.
func (p *Partition) announceSnapshot(ctx context.Context) error {
	s := &p.snapshots
	w := s.writing
	name := w.manifestName()
	r := &proto.Record{Format: 1, Kind: proto.Kind_SNAPSHOT, Epoch: p.meta.Epoch, Number: p.meta.Number + 1,
		Revision: p.flow.Revision, Time: p.ports.Clock.Now().UnixNano(), Snapshot: name,
		SnapshotEpoch: w.manifest.Epoch, SnapshotSequence: w.manifest.Sequence, LogBytes: p.meta.LogBytes - w.logBytes}
	logged, err := p.commit(ctx, r)
	if err != nil {
		return fmt.Errorf("partition %s: announce snapshot %s: %w", p.name, name, err)
	}
	if err := p.install(r, logged); err != nil {
		return fmt.Errorf("partition %s: install the announcement of %s: %w", p.name, name, err)
	}
	s.count, s.faults = s.count+1, 0
	p.ports.Meter.Snapshots.Add(1)
	p.ports.Meter.SnapshotBytes.Add(w.stored)
	w.tidy() // from here on what it does may be left to the next snapshot
	if w.lost {
		p.ports.Logger.Warn("the snapshot before is not whole; the log and older snapshots stay until the next one", "partition", p.name, "snapshot", p.meta.SnapshotBefore)
		return nil
	}
	p.cut(ctx)
	return nil
}

// cut removes the records below the second-newest snapshot and the oldest unsettled output. Failing, it leaves too
// much: the next snapshot cuts again.
func (p *Partition) cut(ctx context.Context) {
	below := p.meta.SnapshotBeforeSequence
	if p.meta.SnapshotBefore == "" {
		return
	}
	if p.meta.Unsettled != 0 {
		below = min(below, p.meta.Unsettled)
	}
	if err := p.ports.Streams.Cut(ctx, p.stream, p.subject, below); err != nil {
		p.ports.Logger.Warn("the log was not cut", "partition", p.name, "below", below, "error", err)
	}
}
