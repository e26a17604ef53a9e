package actors

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// runWriter is where a snapshotWriter is that writes the keys that have changed: those that the log names from the place
// of the snapshot before on, and those of its newest runs, where they are to become one with this.
type runWriter struct {
	log    transport.Reader // nil: closed
	asm    assembler
	at     uint64 // sequence of the newest record that was read
	number uint64 // and its number
	keys   keyList
	pairs  uint64 // how many pairs the records had
	size   uint64 // and how large those were

	kept    int // runs that stay as they are
	sources []*keySource
	run     *proto.Run
}

func (x *runWriter) closeLog() {
	if x.log != nil {
		x.log.Close()
		x.log = nil
	}
}

// place is the place of the snapshot.
func (w *snapshotWriter) place() *proto.Place {
	var m proto.Meta
	if err := m.UnmarshalVT(w.manifest.Meta); err != nil {
		panic(fmt.Sprintf("actors: a meta that could be read before: %v", err))
	}
	return &proto.Place{Sequence: m.Sequence, Number: m.Number, Epoch: m.Epoch}
}

func (w *snapshotWriter) beginRun() error {
	var m proto.Meta
	if err := m.UnmarshalVT(w.before.Meta); err != nil {
		w.beginWhole()
		return nil
	}
	w.stage = snapshotCollecting
	w.run = runWriter{at: m.Sequence, number: m.Number}
	w.manifest.Epochs = w.before.Epochs
	return nil
}

// collect reads some records for the keys that they change. Where the log does not hold what has come since the snapshot
// before, or that is too much, all keys are read instead.
func (w *snapshotWriter) collect(ctx context.Context) error {
	x := &w.run
	if x.at >= w.manifest.Sequence {
		w.decide()
		return nil
	}
	if x.log == nil {
		x.asm = assembler{}
		r, err := w.streams.Read(ctx, w.stream, transport.ReadOptions{From: x.at + 1, Subjects: []string{w.subject}})
		if errors.Is(err, transport.ErrGap) {
			w.beginWhole()
			return nil
		}
		if err != nil {
			return err
		}
		x.log = r
	}
	ms, err := x.log.Next(ctx, 64)
	if err != nil {
		x.closeLog()
		return err
	}
	for i := range ms {
		r, at, err := x.asm.add(w.stream, &ms[i])
		if err == nil && r == nil {
			continue
		}
		if err != nil || r.Number != x.number+1 || at.last > w.manifest.Sequence {
			x.closeLog()
			w.beginWhole()
			return nil
		}
		x.at, x.number = at.last, r.Number
		if r.Kind == proto.Kind_EPOCH {
			w.manifest.Epochs = append(w.manifest.Epochs, &proto.Place{Sequence: at.last, Number: r.Number, Epoch: r.Epoch})
		}
		for i, k := range r.Keys {
			x.keys.add(k)
			x.pairs++
			x.size += uint64(len(k) + len(r.Values[i]))
		}
		if at.last == w.manifest.Sequence {
			break
		}
	}
	if len(ms) == 0 || len(x.keys.bytes) > keyListMost {
		x.closeLog()
		w.beginWhole()
	}
	return nil
}

// decide tells whether a run is worth its while, and which runs before become part of it.
func (w *snapshotWriter) decide() {
	x := &w.run
	x.closeLog()
	x.keys.tidy()
	estimate := uint64(0)
	if x.pairs > 0 {
		estimate = x.size / x.pairs * uint64(len(x.keys.keys))
	}
	runs := w.before.Runs
	size := estimate
	for _, r := range runs {
		size += chunkSize(r.Chunks)
	}
	if size > chunkSize(w.before.Chunks) {
		w.beginWhole()
		return
	}
	x.kept = len(runs)
	if x.kept >= runsMost {
		for x.kept > 0 && (len(runs)-x.kept < runsMerged || chunkSize(runs[x.kept-1].Chunks) <= 2*estimate) {
			x.kept--
			estimate += chunkSize(runs[x.kept].Chunks)
		}
	}
	x.sources = []*keySource{{list: &x.keys}}
	for _, r := range runs[x.kept:] {
		x.sources = append(x.sources, &keySource{chunks: r.Chunks})
	}
	x.run = &proto.Run{Place: w.place()}
	w.manifest.Chunks, w.manifest.Place, w.manifest.Runs = w.before.Chunks, w.before.Place, runs[:x.kept:x.kept]
	w.stage, w.at = snapshotChecking, 0
}

// checkNext reads one of the chunks that are taken over and in their turn. Where one is damaged, all keys are read.
func (w *snapshotWriter) checkNext(ctx context.Context) error {
	all := chunksOf(w.manifest)
	for w.at < len(all) && !w.checks(w.at) {
		w.at++
	}
	if w.at == len(all) {
		w.stage = snapshotRun
		return nil
	}
	whole, err := w.check(ctx, all[w.at])
	if err != nil {
		return err
	}
	if !whole {
		w.there[w.chunkName(all[w.at])] = false
		w.beginWhole()
		return nil
	}
	w.at++
	return nil
}

// keySource is keys in order: of a list, or of a run's chunks.
type keySource struct {
	list   *keyList
	next   int // key of the list, or chunk
	chunks []*proto.Chunk
	pairs  []byte // what is left of the chunk before
	key    []byte // the next key; nil: it is to be looked for
}

// head returns the source's next key; nil is its end.
func (s *keySource) head(ctx context.Context, w *snapshotWriter) ([]byte, error) {
	if s.key != nil {
		return s.key, nil
	}
	if s.list != nil {
		if s.next < len(s.list.keys) {
			s.key = s.list.at(s.next)
			s.next++
		}
		return s.key, nil
	}
	for len(s.pairs) == 0 {
		if s.next == len(s.chunks) {
			return nil, nil
		}
		c := s.chunks[s.next]
		pairs, err := w.codec.read(ctx, w.objects, w.chunkName(c), c)
		if err != nil {
			return nil, err
		}
		s.pairs = bytes.Clone(pairs)
		s.next++
	}
	k, _, n := nextPair(s.pairs)
	if n == 0 {
		return nil, fmt.Errorf("%w: a chunk of %s", errSnapshot, w.was)
	}
	s.key, s.pairs = k, s.pairs[n:]
	return s.key, nil
}

// writeRun adds pairs to the next chunk of the run, or writes it.
func (w *snapshotWriter) writeRun(ctx context.Context) error {
	x := &w.run
	for range pairsAStep {
		if len(w.buf) >= w.aim {
			return w.emitRun(ctx)
		}
		var key []byte
		for _, s := range x.sources {
			k, err := s.head(ctx, w)
			if notWhole(err) {
				w.lost = true
				w.beginWhole()
				return nil
			}
			if err != nil {
				return err
			}
			if k != nil && (key == nil || bytes.Compare(k, key) < 0) {
				key = k
			}
		}
		if key == nil {
			if len(w.buf) > 0 {
				return w.emitRun(ctx)
			}
			if len(x.run.Chunks) > 0 {
				w.manifest.Runs = append(w.manifest.Runs, x.run)
			}
			w.stage = snapshotSealing
			return nil
		}
		v, err := w.reader.Get(key)
		if err != nil {
			return err
		}
		w.buf = appendPair(w.buf, key, v)
		for _, s := range x.sources {
			if s.key != nil && bytes.Equal(s.key, key) {
				s.key = nil
			}
		}
	}
	return nil
}

func (w *snapshotWriter) emitRun(ctx context.Context) error {
	c, err := w.put(ctx, sha256.Sum256(w.buf), len(w.buf))
	if err != nil {
		return err
	}
	first, _, _ := nextPair(w.buf)
	c.From = bytes.Clone(first)
	w.run.run.Chunks = append(w.run.run.Chunks, c)
	w.buf = w.buf[:0]
	return nil
}
