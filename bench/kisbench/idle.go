package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

// rest is what a system costs that has nothing to do, and how it comes back.
type rest struct {
	Keys        int     `json:"keys"`
	IdleEmpty   float64 `json:"idle_core_percent"`           // no key yet, nothing to do
	IdleKeys    float64 `json:"idle_core_percent_with_keys"` // all keys there, nothing to do
	MemoryEmpty int64   `json:"memory_bytes"`
	MemoryFew   int64   `json:"memory_bytes_with_a_fifth"` // of the keys
	MemoryKeys  int64   `json:"memory_bytes_with_keys"`
	StateBytes  float64 `json:"state_bytes_per_key"`
	KeyBytes    float64 `json:"memory_bytes_per_idle_key"`    // all that came with the keys, caches too, beyond their state
	NextBytes   float64 `json:"memory_bytes_per_further_key"` // from a fifth of the keys to all of them, beyond their state
	Ready       float64 `json:"restart_to_ready_s"`           // after kill -9
	Recovered   float64 `json:"restart_to_output_s"`          // until the first new order's output was stored
}

// rest fills a system with keys, leaves it alone, and kills it.
func (b *bench) rest(ctx context.Context, c setup, keys int, idle time.Duration) (rest, error) {
	s, err := b.open(ctx, c)
	if err != nil {
		return rest{}, err
	}
	r, err := s.rest(ctx, keys, idle)
	if err != nil {
		s.abandon()
		return r, err
	}
	return r, s.close()
}

func (s *system) rest(ctx context.Context, keys int, idle time.Duration) (rest, error) {
	r := rest{Keys: keys}
	var err error
	if r.IdleEmpty, err = s.idle(ctx, idle); err != nil {
		return r, err
	}
	if r.MemoryEmpty, err = program.Resident(s.worker); err != nil {
		return r, err
	}
	few := keys / 5
	if _, err := s.fill(ctx, load.Spec{Events: few, Users: few, Seed: 7}, idle); err != nil {
		return r, err
	}
	if r.MemoryFew, err = program.Resident(s.worker); err != nil {
		return r, err
	}
	expect, err := s.fill(ctx, load.Spec{Events: keys - few, Users: keys - few, Seed: 8, After: int64(few)}, idle)
	if err != nil {
		return r, err
	}
	if r.IdleKeys, err = s.idle(ctx, idle); err != nil {
		return r, err
	}
	if r.MemoryKeys, err = program.Resident(s.worker); err != nil {
		return r, err
	}
	for u := range min(1000, keys-few) {
		t := expect.Final(int64(few + u + 1))
		r.StateBytes += float64(len(fmt.Sprintf(`{"count":%d,"total":%d,"max":%d}`, t.Count, t.Total, t.Max)))
	}
	r.StateBytes /= float64(min(1000, keys-few))
	r.KeyBytes = float64(r.MemoryKeys-r.MemoryEmpty)/float64(keys) - r.StateBytes
	r.NextBytes = float64(r.MemoryKeys-r.MemoryFew)/float64(keys-few) - r.StateBytes
	return r, s.recover(ctx, &r, expect.Final(int64(keys)))
}

// fill sends one order of each of a number of new users, and leaves the system alone for a while after it.
func (s *system) fill(ctx context.Context, spec load.Spec, idle time.Duration) (*load.Expect, error) {
	expect := spec.Expect()
	if _, err := s.throughput(ctx, job{Spec: spec, Pack: 100}, expect); err != nil {
		return nil, err
	}
	_, err := s.idle(ctx, 2*idle) // for what is done in the background after work
	return expect, err
}

// idle is the share of a core, in percent, that a system uses though nothing happens.
func (s *system) idle(ctx context.Context, d time.Duration) (float64, error) {
	before, err := program.Usage(s.measured()...)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := program.Usage(s.measured()...)
	return 100 * (after - before).Seconds() / d.Seconds(), err
}

// recover kills the worker, starts it again, and sends one more order of a known user.
func (s *system) recover(ctx context.Context, r *rest, before load.Total) error {
	s.worker.Kill()
	start := time.Now()
	if err := s.startWorker(ctx); err != nil {
		return err
	}
	r.Ready = time.Since(start).Seconds()
	s.nc.Close()
	if err := s.connect(ctx); err != nil {
		return err
	}
	stream, err := s.outputs(ctx)
	if err != nil {
		return err
	}
	order := load.Order{User: before.User, ID: int64(r.Keys) + 1, Amount: 77}
	want := before
	want.Add(order.Amount)
	m := &nats.Msg{Subject: inSubject, Data: order.AppendJSON(nil, time.Now().UnixMilli())}
	err = s.worker.WaitFor(ctx, "publish after the restart", startLimit, func() error {
		m.Header = nats.Header{"Nats-Msg-Id": {"after-restart"}} // stored once, however often it is sent
		_, err := s.js.PublishMsg(ctx, m)
		return err
	})
	if err != nil {
		return err
	}
	err = s.worker.WaitFor(ctx, "output after the restart", startLimit, func() error {
		last, err := stream.GetLastMsgForSubject(ctx, outSubject)
		if err != nil {
			return err
		}
		if text := string(want.AppendJSON(nil)); string(last.Data) != text {
			return fmt.Errorf("the last output is %.200q, want %q", last.Data, text)
		}
		return nil
	})
	r.Recovered = time.Since(start).Seconds()
	return errors.Join(err, ctx.Err())
}
