package actors

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// mutant is a mistake that the engine might have, made in its ports: the simulation is worth something only if
// it finds every one of them.
type mutant struct {
	name    string
	record  func(r *proto.Record)                 // changes records on their way into the log
	publish func(stream string) (unfenced bool)   // writes to the stream lose their expectation
	lastOn  func(stream, subject string) bool     // the last message on the subject is not found
	read    func(stream string) bool              // readers of the stream deliver nothing
	install func([]state.Change) []state.Change   // changes what is installed
	scan    func(key, value []byte) (then []byte) // changes what a snapshot reads
	meta    bool                                  // a crash loses installs, but for their meta
	deaf    bool                                  // clearing a store does not clear it
	still   bool                                  // a snapshot believes that nothing has changed since the one before
	greedy  bool                                  // who writes a snapshot misses a chunk of the one before
}

func isLog(stream string) bool { return strings.HasPrefix(stream, "KISFLOW_LOG_") }
func isOut(stream string) bool { return strings.HasPrefix(stream, "OUT_") }
func isHandOff(stream string) bool {
	return strings.HasPrefix(stream, "KISFLOW_HOP_") || strings.HasPrefix(stream, "KISFLOW_SAVE_")
}

// without drops the record's changes of one kind.
func without(r *proto.Record, drop func(key, value []byte) bool) {
	var keys, values [][]byte
	for i, k := range r.Keys {
		if !drop(k, r.Values[i]) {
			keys, values = append(keys, k), append(values, r.Values[i])
		}
	}
	r.Keys, r.Values = keys, values
}

var mutants = []mutant{
	{name: "the log does not refuse a former owner", publish: isLog},
	{name: "the output streams do not refuse a former owner", publish: isOut},
	{name: "an epoch is that of the owner before", record: func(r *proto.Record) {
		if r.Kind == proto.Kind_EPOCH && r.Epoch > 1 {
			r.Epoch--
		}
	}},
	{name: "positions are not in the record", record: func(r *proto.Record) { r.Positions = nil }},
	{name: "the last numbers of senders are not in the record", record: func(r *proto.Record) {
		for _, p := range r.Positions {
			p.Origins = nil
		}
	}},
	{name: "outputs are not in the record", record: func(r *proto.Record) { r.Outputs = nil }},
	{name: "outputs are noted as stored before they are", record: func(r *proto.Record) {
		for _, o := range r.Outputs {
			n := o.First + uint64(len(o.Payloads)) - 1
			r.Settled = slices.DeleteFunc(r.Settled, func(s *proto.Settled) bool { return s.Target == o.Target })
			r.Settled = append(r.Settled, &proto.Settled{Target: o.Target, Number: n, Sequence: 1})
		}
		outs := r.Outputs
		r.Outputs = nil
		for _, o := range outs {
			r.Outputs = append(r.Outputs, &proto.Outputs{Target: o.Target, First: o.First + uint64(len(o.Payloads)), Subjects: o.Subjects})
		}
	}},
	{name: "states are not in the record", record: func(r *proto.Record) {
		without(r, func(k, _ []byte) bool { return k[0] == stateKind })
	}},
	{name: "one state of a record is missing", record: func(r *proto.Record) {
		if len(r.Keys) > 1 {
			r.Keys, r.Values = r.Keys[:len(r.Keys)-1], r.Values[:len(r.Values)-1]
		}
	}},
	{name: "waiting rows are not in the record", record: func(r *proto.Record) {
		without(r, func(k, _ []byte) bool { return k[0] == pendingKind })
	}},
	{name: "dead letters are not in the record", record: func(r *proto.Record) {
		without(r, func(k, v []byte) bool { return k[0] == deadKind && len(v) > 0 })
	}},
	{name: "a retried dead letter stays in the record", record: func(r *proto.Record) {
		without(r, func(k, v []byte) bool { return k[0] == deadKind && len(v) == 0 })
	}},
	{name: "the list of timers is not in the record", record: func(r *proto.Record) {
		without(r, func(k, v []byte) bool { return k[0] == timerKind && len(v) > 0 })
	}},
	{name: "timers are not in the values", record: func(r *proto.Record) {
		for i, k := range r.Keys {
			var v proto.Value
			if k[0] == stateKind && len(r.Values[i]) > 0 && proto.ParseValue(r.Values[i], &v) == nil && len(v.Timers) > 0 {
				v.Timers = nil
				r.Values[i] = proto.AppendValue(nil, &v)
			}
		}
	}},
	{name: "watermarks are not in the record", record: func(r *proto.Record) {
		r.Watermarks = nil
		for _, p := range r.Positions {
			p.High = 0
		}
	}},
	{name: "stored outputs are not looked for", read: isOut},
	{name: "hand-offs are sent again, and who sent what is not in the record", publish: isHandOff,
		lastOn: func(stream, _ string) bool { return isHandOff(stream) },
		record: func(r *proto.Record) {
			for _, p := range r.Positions {
				p.Origins = nil
			}
		}},
	{name: "the store is not compared with the log", meta: true},
	{name: "an install is torn", install: func(cs []state.Change) []state.Change {
		if len(cs) > 1 {
			return cs[1:]
		}
		return cs
	}},
	{name: "a snapshot is without its place", scan: func(k, v []byte) []byte {
		return changeMeta(k, v, func(m *proto.Meta) { m.Positions = nil })
	}},
	{name: "a snapshot is without the rows that wait", scan: func(k, v []byte) []byte {
		if k[0] == pendingKind {
			return nil
		}
		return v
	}},
	{name: "a snapshot does not see what has changed", still: true},
	{name: "a snapshot tidies away what the one before needs", greedy: true},
	{name: "a store that is cleared keeps what it had", deaf: true},
}

func changeMeta(k, v []byte, f func(*proto.Meta)) []byte {
	if len(k) != 1 || k[0] != metaKey {
		return v
	}
	var m proto.Meta
	if err := m.UnmarshalVT(v); err != nil {
		return v
	}
	f(&m)
	b, err := m.MarshalVT()
	if err != nil {
		return v
	}
	return b
}

// TestSimulationFindsMutants: each planted mistake is found.
func TestSimulationFindsMutants(t *testing.T) {
	most := 1000
	if raceEnabled || testing.Short() {
		most = 300
	}
	for i := range mutants {
		m := &mutants[i]
		t.Run(m.name, func(t *testing.T) {
			for seed := uint64(1); seed <= uint64(most); seed++ {
				if err := runMutant(seed, m); err != nil {
					t.Logf("found by seed %d: %.300v", seed, err)
					return
				}
			}
			t.Errorf("not found by %d seeds", most)
		})
	}
}

func runMutant(seed uint64, m *mutant) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	w := newWorld(seed, m, nil)
	return w.run()
}

// simStreams is a node's way to the streams.
type simStreams struct {
	transport.Streams
	w *world
}

func (s *simStreams) changed(stream string, m transport.Outgoing) transport.Outgoing {
	k := s.w.mutant
	if k == nil {
		return m
	}
	if k.publish != nil && k.publish(stream) {
		m.Expect = nil
	}
	if k.record != nil && isLog(stream) && len(m.Header) == 0 {
		if r, err := proto.OpenRecord(bytes.Clone(m.Data)); err == nil {
			k.record(r)
			m.Data = proto.Seal(r)
		}
	}
	return m
}

func (s *simStreams) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	return s.Streams.Append(ctx, stream, s.changed(stream, m))
}

func (s *simStreams) AppendAll(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	cs := make([]transport.Outgoing, len(ms))
	for i := range ms {
		cs[i] = s.changed(stream, ms[i])
	}
	return s.Streams.AppendAll(ctx, stream, cs)
}

func (s *simStreams) Publish(ctx context.Context, stream string, ms []transport.Outgoing) ([]uint64, error) {
	cs := make([]transport.Outgoing, len(ms))
	for i := range ms {
		cs[i] = s.changed(stream, ms[i])
	}
	return s.Streams.Publish(ctx, stream, cs)
}

func (s *simStreams) LastOn(ctx context.Context, stream, subject string) (transport.Message, error) {
	if k := s.w.mutant; k != nil && k.lastOn != nil && k.lastOn(stream, subject) {
		return transport.Message{}, transport.Refused(transport.ErrNotFound, "mutant")
	}
	return s.Streams.LastOn(ctx, stream, subject)
}

func (s *simStreams) Read(ctx context.Context, stream string, opt transport.ReadOptions) (transport.Reader, error) {
	r, err := s.Streams.Read(ctx, stream, opt)
	if k := s.w.mutant; err == nil && k != nil && k.read != nil && k.read(stream) {
		return blind{r}, nil
	}
	return r, err
}

// blind is a reader that sees nothing.
type blind struct{ transport.Reader }

func (blind) Next(context.Context, int) ([]transport.Message, error) { return nil, nil }
