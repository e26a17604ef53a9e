package actors

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/kisflow/kisflow/proto"
)

// wholeWriter is where a snapshotWriter is that reads all keys. It goes by the ranges of the chunks before, and takes
// over those in which it finds the same.
type wholeWriter struct {
	reusable map[string]*proto.Chunk // the chunks before, by hash
	ranges   []*proto.Chunk          // the same in order, or one for all
	reading  bool                    // the range at hand
	cursor   []byte                  // where its reading goes on
	from     []byte                  // where the next chunk begins
	checked  bool                    // the chunk at hand was found whole
}

func (w *snapshotWriter) beginWhole() {
	w.run.closeLog()
	w.run = runWriter{}
	w.stage, w.at, w.buf = snapshotWhole, 0, w.buf[:0]
	w.whole = wholeWriter{reusable: make(map[string]*proto.Chunk), ranges: []*proto.Chunk{{}}}
	w.manifest.Chunks, w.manifest.Runs, w.manifest.Epochs, w.manifest.Place = nil, nil, nil, w.place()
	if w.before != nil && len(w.before.Chunks) > 0 {
		w.whole.ranges = w.before.Chunks
		for _, c := range w.before.Chunks {
			if w.there[w.chunkName(c)] {
				w.whole.reusable[string(c.Hash)] = c
			}
		}
	}
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

// writeWhole adds a chunk to the snapshot.
func (w *snapshotWriter) writeWhole(ctx context.Context) error {
	x := &w.whole
	for w.at < len(x.ranges) {
		next, end := x.ranges[w.at], chunkEnd(x.ranges, w.at)
		if !x.reading {
			if len(w.buf) > 0 && !w.joins(next) {
				return w.emitWhole(ctx, len(w.buf))
			}
			if len(w.buf) == 0 {
				x.from = next.From
			}
			x.reading, x.cursor = true, next.From
		}
		more, err := w.fill(end)
		if err != nil {
			return err
		}
		if more {
			return w.emitWhole(ctx, w.cutPlace())
		}
		w.at, x.reading = w.at+1, false
		if len(w.buf) >= w.least() {
			return w.emitWhole(ctx, len(w.buf))
		}
	}
	if len(w.buf) > 0 {
		return w.emitWhole(ctx, len(w.buf))
	}
	w.stage = snapshotSealing
	return nil
}

// fill reads pairs of the range at hand. It says more where it stops before the range's end.
func (w *snapshotWriter) fill(end []byte) (more bool, err error) {
	size := len(w.buf)
	err = w.reader.Scan(w.whole.cursor, end, func(k, v []byte) bool {
		if len(k) == 1 && k[0] == metaKey {
			return true
		}
		if len(w.buf) > w.most() {
			w.whole.cursor, more = bytes.Clone(k), true
			return false
		}
		if v == nil {
			v = []byte{}
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

// emitWhole makes a chunk of the first n bytes that were read: the one before, if there is one that holds the same.
func (w *snapshotWriter) emitWhole(ctx context.Context, n int) error {
	x := &w.whole
	pairs := w.buf[:n]
	hash := sha256.Sum256(pairs)
	c := x.reusable[string(hash[:])]
	if c != nil && !x.checked && w.checks(len(w.manifest.Chunks)) {
		whole, err := w.check(ctx, c)
		if err != nil {
			return err
		}
		if x.checked = whole; !whole {
			delete(x.reusable, string(hash[:]))
		}
		return nil // the next step has the same to emit
	}
	if c == nil {
		var err error
		if c, err = w.put(ctx, hash, n); err != nil {
			return err
		}
	}
	from := x.from
	if len(w.manifest.Chunks) == 0 {
		from = nil // what is below it belongs to it
	}
	w.manifest.Chunks = append(w.manifest.Chunks, &proto.Chunk{From: from, Hash: c.Hash, Epoch: c.Epoch, Sequence: c.Sequence, Bytes: c.Bytes, Stored: c.Stored})
	x.checked = false
	last := lastKey(pairs)
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
	switch {
	case len(w.buf) > 0:
		next, _, _ := nextPair(w.buf)
		x.from = separator(last, next)
	case x.reading:
		x.from = separator(last, x.cursor)
	}
	return nil
}
