package actors

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/kisflow/kisflow/state"
	memstate "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// faults tells whether anything may fail here and now.
func (w *world) faults() bool { return !w.quiet && w.at != nil }

// perhapsSteal lets another node take over the place of the partition that is in the middle of something.
func (w *world) perhapsSteal(where string) {
	if !w.faults() || w.nested || w.seat == nil || len(w.nodes) < 2 || w.rng.Float64() >= w.plan.steal {
		return
	}
	w.nested = true
	at, s := w.at, w.seat
	other := w.nodes[(at.number+1)%len(w.nodes)]
	w.say("stolen at %s: %s from node %d", where, s.place.name, at.number)
	w.count["stolen in the middle"]++
	w.open(s.place, other)
	for range w.rng.IntN(12) {
		w.deal(other, s.place.program, w.rng.IntN(2))
		if o := s.place.owner; o != nil && o.node == other && o.opened {
			w.work(o)
		}
	}
	w.nested = false
}

// answers tells whether an effect's answer is never wrong: a mutant that changes records is to be found by what it
// does to the state, not because the record in the log is not the one that was sent.
func (w *world) answers(op memory.Op, stream string) bool {
	return w.mutant != nil && w.mutant.record != nil && isLog(stream) && (op == memory.OpAppend || op == memory.OpAppendAll)
}

// Before and After make the world the streams' and the objects' Faults.
func (w *world) Before(op memory.Op, stream string) error {
	if !w.faults() {
		return nil
	}
	w.perhapsSteal(string(op))
	if w.rng.Float64() < w.plan.crash/4 {
		w.count["crash before "+string(op)]++
		panic(Crash{fmt.Sprintf("before %s %s", op, stream)})
	}
	if w.rng.Float64() >= w.plan.errors || w.answers(op, stream) {
		return nil
	}
	switch op {
	case memory.OpAppend, memory.OpAppendAll, memory.OpPublish:
		switch w.rng.IntN(3) {
		case 0:
			w.count["late "+string(op)]++
			w.say("late: %s %s", op, stream)
			return memory.ErrLate
		case 1:
			w.count["doubt before "+string(op)]++
			w.say("no answer, not done: %s %s", op, stream)
			return transport.Refused(transport.ErrDoubt, "stream %s: %v", stream, errWorld)
		}
	}
	w.count["refused "+string(op)]++
	w.say("refused: %s %s", op, stream)
	return fmt.Errorf("%s %s: %w", op, stream, errWorld)
}

// After: see Before.
func (w *world) After(op memory.Op, stream string) error {
	if !w.faults() {
		return nil
	}
	w.perhapsSteal("after " + string(op))
	if w.rng.Float64() < w.plan.crash/4 {
		w.count["crash after "+string(op)]++
		panic(Crash{fmt.Sprintf("after %s %s", op, stream)})
	}
	if w.rng.Float64() >= w.plan.errors || w.answers(op, stream) {
		return nil
	}
	switch op {
	case memory.OpAppend, memory.OpAppendAll, memory.OpPublish:
		w.count["doubt after "+string(op)]++
		w.say("no answer, but done: %s %s", op, stream)
		return transport.Refused(transport.ErrDoubt, "stream %s: %v", stream, errWorld)
	}
	return nil
}

// simObjects is a node's way to the objects.
type simObjects struct {
	transport.Objects
	w *world
}

func (o *simObjects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := o.Objects.Get(ctx, name)
	k := o.w.mutant
	if err != nil || k == nil || !k.greedy || o.w.seat == nil || o.w.seat.p == nil || name != o.w.seat.p.meta.Snapshot {
		return r, err
	}
	// The manifest of the snapshot before, without its first chunk.
	b, err := io.ReadAll(r)
	if err != nil || !bytes.HasPrefix(b, []byte(snapshotMagic)) {
		return io.NopCloser(bytes.NewReader(b)), err
	}
	m, err := openManifest(b[len(snapshotMagic):])
	if err == nil && len(m.Chunks) > 0 {
		m.Chunks = m.Chunks[1:]
		b = sealManifest(m)
	}
	return io.NopCloser(bytes.NewReader(b)), err
}

// simStore is a node's store of one partition, as its disk lets it be.
type simStore struct {
	w       *world
	s       *memstate.Store
	corrupt bool
}

func (s *simStore) fault(op string) error {
	w := s.w
	if s.corrupt && op != "clear" {
		return fmt.Errorf("%s: %w", op, state.ErrCorrupt)
	}
	if !w.faults() {
		return nil
	}
	if w.rng.Float64() < w.plan.crash/4 {
		w.count["crash before store "+op]++
		panic(Crash{"before store " + op})
	}
	if w.rng.Float64() < w.plan.errors/4 {
		w.count["store refused"]++
		return fmt.Errorf("store: %s: %w", op, errWorld)
	}
	return nil
}

func (s *simStore) after(op string) {
	if w := s.w; w.faults() {
		w.perhapsSteal("after store " + op)
		if w.rng.Float64() < w.plan.crash/4 {
			w.count["crash after store "+op]++
			panic(Crash{"after store " + op})
		}
	}
}

func (s *simStore) Get(key []byte) ([]byte, error) {
	if err := s.fault("get"); err != nil {
		return nil, err
	}
	return s.s.Get(key)
}

func (s *simStore) Install(changes []state.Change) error {
	if err := s.fault("install"); err != nil {
		return err
	}
	if k := s.w.mutant; k != nil && k.install != nil {
		changes = k.install(changes)
	}
	if err := s.s.Install(changes); err != nil {
		return err
	}
	s.after("install")
	return nil
}

func (s *simStore) Scan(from, to []byte, f func(key, value []byte) bool) error {
	if err := s.fault("scan"); err != nil {
		return err
	}
	return s.s.Scan(from, to, f)
}

// Snapshot gives a reader that fails as its store does.
func (s *simStore) Snapshot() (state.Reader, error) {
	if err := s.fault("snapshot"); err != nil {
		return nil, err
	}
	r, err := s.s.Snapshot()
	if err != nil {
		return nil, err
	}
	return &simReader{s, r}, nil
}

type simReader struct {
	s *simStore
	state.Reader
}

func (r *simReader) Get(key []byte) ([]byte, error) {
	if err := r.s.fault("get of a snapshot"); err != nil {
		return nil, err
	}
	v, err := r.Reader.Get(key)
	if k := r.s.w.mutant; k != nil && k.scan != nil && v != nil {
		v = k.scan(key, v)
	}
	return v, err
}

func (r *simReader) Scan(from, to []byte, f func(key, value []byte) bool) error {
	if err := r.s.fault("scan of a snapshot"); err != nil {
		return err
	}
	if k := r.s.w.mutant; k != nil && k.scan != nil {
		g := f
		f = func(key, value []byte) bool {
			v := k.scan(key, value)
			return v == nil || g(key, v)
		}
	}
	return r.Reader.Scan(from, to, f)
}

func (s *simStore) Clear() error {
	if err := s.fault("clear"); err != nil {
		return err
	}
	s.corrupt = false
	if k := s.w.mutant; k != nil && k.deaf {
		return nil
	}
	if err := s.s.Clear(); err != nil {
		return err
	}
	s.after("clear")
	return nil
}

func parseSimState(b []byte) (s simState, err error) {
	err = json.Unmarshal(b, &s)
	return s, err
}
