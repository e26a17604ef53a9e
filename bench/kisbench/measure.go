package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

// run is one measured run.
type run struct {
	Seconds float64 `json:"seconds"`         // from the first order to the last output
	Rate    float64 `json:"orders_per_s"`    //
	CPU     float64 `json:"cpu_s_per_M"`     // processor seconds a million orders, generator excluded
	Others  float64 `json:"other_cores"`     // cores that the rest of the machine used meanwhile, generator excluded
	P50     float64 `json:"p50_ms,omitzero"` // end to end, from when an order was due to its output's arrival
	P99     float64 `json:"p99_ms,omitzero"`
	Max     float64 `json:"max_ms,omitzero"`
}

// job is what is done with a system.
type job struct {
	Spec   load.Spec
	Pack   int // orders in an input message
	Rate   int // orders a second; 0: as many as can be
	Warmup int // of a job with a rate: that many first orders are not in the latencies
}

// throughput publishes all orders as fast as the streams take them, waits for the outputs, and checks them.
func (b *bench) throughput(ctx context.Context, c setup, j job) (run, error) {
	expect := j.Spec.Expect()
	s, err := b.open(ctx, c)
	if err != nil {
		return run{}, err
	}
	r, err := s.throughput(ctx, j, expect)
	if err != nil {
		s.abandon()
		return r, err
	}
	return r, s.close()
}

func (s *system) throughput(ctx context.Context, j job, expect *load.Expect) (run, error) {
	stream, err := s.outputs(ctx)
	if err != nil {
		return run{}, err
	}
	outputs := reader{s: s, next: stream.CachedInfo().State.LastSeq + 1}
	m, err := startMeter(s)
	if err != nil {
		return run{}, err
	}
	if err := s.publisher(j).Publish(ctx, j.Spec); err != nil {
		return run{}, fmt.Errorf("%w\n%s", err, s.worker.Log)
	}
	for {
		last, err := s.settled(ctx)
		if err != nil {
			return run{}, err
		}
		r, err := m.read(j.Spec.Events, last)
		if err != nil {
			return run{}, err
		}
		if err := outputs.upTo(ctx, expect); err != nil {
			return run{}, err
		}
		if expect.Seen() >= j.Spec.Events || expect.Err() != nil || time.Since(m.start) > 10*time.Minute {
			return r, expect.Done()
		}
	}
}

func (s *system) publisher(j job) load.Publisher {
	p := load.Publisher{Conn: s.nc, Subject: inSubject, Pack: j.Pack, Rate: j.Rate}
	if s.Power && j.Rate == 0 && j.Pack <= 1 {
		p.Atomic = 500
	}
	return p
}

// latency publishes orders at a rate and takes the time to each output's arrival.
func (b *bench) latency(ctx context.Context, c setup, j job) (run, error) {
	expect := j.Spec.Expect()
	s, err := b.open(ctx, c)
	if err != nil {
		return run{}, err
	}
	r, err := s.latency(ctx, j, expect)
	if err != nil {
		s.abandon()
		return r, err
	}
	return r, s.close()
}

func (s *system) latency(ctx context.Context, j job, expect *load.Expect) (run, error) {
	stream, err := s.outputs(ctx)
	if err != nil {
		return run{}, err
	}
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{outSubject}})
	if err != nil {
		return run{}, err
	}
	start := time.Now()
	due := make([]atomic.Int64, j.Spec.Events) // since start
	took := make([]time.Duration, 0, j.Spec.Events)
	done := make(chan struct{})
	reading, err := cons.Consume(func(m jetstream.Msg) {
		now := time.Since(start)
		expect.Message(m.Data(), func(place int) {
			if place >= j.Warmup {
				took = append(took, now-time.Duration(due[place].Load()))
			}
		})
		if expect.Seen() == j.Spec.Events {
			select {
			case <-done:
			default:
				close(done)
			}
		}
	})
	if err != nil {
		return run{}, err
	}
	defer reading.Stop()
	m, err := startMeter(s)
	if err != nil {
		return run{}, err
	}
	p := s.publisher(j)
	p.Sent = func(place int, t time.Time) { due[place].Store(int64(t.Sub(start))) }
	if err := p.Publish(ctx, j.Spec); err != nil {
		return run{}, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return run{}, ctx.Err()
	case <-time.After(time.Minute):
		reading.Stop()
		<-reading.Closed()
		return run{}, fmt.Errorf("a minute after the last order: %w\n%s", expect.Done(), s.worker.Log)
	}
	r, err := m.read(j.Spec.Events, time.Now())
	if err != nil {
		return run{}, err
	}
	slices.Sort(took)
	r.P50, r.P99, r.Max = ms(program.Quantile(took, 0.5)), ms(program.Quantile(took, 0.99)), ms(took[len(took)-1])
	return r, expect.Done()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// meter takes a system's processor time.
type meter struct {
	s                  *system
	start              time.Time
	used, own, machine time.Duration
}

func startMeter(s *system) (m meter, err error) {
	m = meter{s: s, start: time.Now(), own: program.OwnTime()}
	if m.used, err = program.Usage(s.measured()...); err != nil {
		return m, err
	}
	m.machine, err = program.MachineTime()
	return m, err
}

// read is a run of so many orders that ended at end.
func (m meter) read(orders int, end time.Time) (run, error) {
	used, err := program.Usage(m.s.measured()...)
	if err != nil {
		return run{}, err
	}
	machine, err := program.MachineTime()
	if err != nil {
		return run{}, err
	}
	used -= m.used
	elapsed := end.Sub(m.start)
	others := machine - m.machine - used - (program.OwnTime() - m.own)
	return run{
		Seconds: elapsed.Seconds(),
		Rate:    float64(orders) / elapsed.Seconds(),
		CPU:     used.Seconds() / float64(orders) * 1e6,
		Others:  max(0, others.Seconds()/time.Since(m.start).Seconds()),
	}, nil
}

func (s *system) outputs(ctx context.Context) (jetstream.Stream, error) {
	name, err := s.js.StreamNameBySubject(ctx, outSubject)
	if err != nil {
		return nil, fmt.Errorf("stream of %s: %w", outSubject, err)
	}
	return s.js.Stream(ctx, name)
}

// quietFor is how long the output stream must stand still to count as done.
const quietFor = time.Second

// settled waits until the output stream stands still and returns when its last message was stored.
func (s *system) settled(ctx context.Context) (time.Time, error) {
	stream, err := s.outputs(ctx)
	if err != nil {
		return time.Time{}, err
	}
	for last, since := uint64(0), time.Now(); ; time.Sleep(50 * time.Millisecond) {
		info, err := stream.Info(ctx)
		if err != nil {
			return time.Time{}, err
		}
		if err := s.worker.Gone(); err != nil {
			return time.Time{}, err
		}
		if info.State.LastSeq != last {
			last, since = info.State.LastSeq, time.Now()
		} else if time.Since(since) > quietFor {
			return info.State.LastTime, nil
		}
	}
}

// reader reads the outputs, on from where it stopped.
type reader struct {
	s    *system
	next uint64
}

// upTo feeds expect with all outputs that are there.
func (r *reader) upTo(ctx context.Context, expect *load.Expect) error {
	stream, err := r.s.outputs(ctx)
	if err != nil {
		return err
	}
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{outSubject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next,
	})
	if err != nil {
		return err
	}
	left := cons.CachedInfo().NumPending
	messages, err := cons.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for ; left > 0; left-- {
		m, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read %s: %w", outSubject, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		r.next = meta.Sequence.Stream + 1
		expect.Message(m.Data(), nil)
	}
	return nil
}
