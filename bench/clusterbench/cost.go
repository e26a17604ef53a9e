package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/bench/program"
)

// job is what a cluster is to work through.
type job struct {
	name   string
	pack   int // orders in a message of the entry; with more than one the outputs are packed, too
	stages int // with different keys: 1 or 2
	orders int
}

func (b *bench) jobs() []job {
	all := []job{{"single, one stage", 1, 1, 200_000}, {"single, two stages", 1, 2, 150_000}, {"packed, one stage", 100, 1, 1_500_000}, {"packed, two stages", 100, 2, 600_000}}
	if b.quick {
		for i := range all {
			all[i].orders /= 20
		}
	}
	return all
}

const (
	ordersIn  = "orders.new"
	totalsOut = "totals.user" // of one stage and of two
)

// definitions are the flow of a job.
func (j job) definitions() (string, error) {
	if j.stages == 1 {
		folder := "order-totals"
		if j.pack > 1 {
			folder = "order-totals-packed"
		}
		text, err := os.ReadFile(filepath.Join("bench", "flows", folder, "flow.yaml"))
		return string(text), err
	}
	pack := ""
	if j.pack > 1 {
		pack = ", pack: true"
	}
	return strings.Replace(twoStages, "PACK", pack, 1), nil
}

// twoStages counts orders a user, and then of each sku: rows go from partition to partition in between.
const twoStages = `kistype: flow
status: 1
flow_name: OrderTotals
entry: {subject: orders.>}
flows:
  - {fname: UserTotals, as: totals}
  - {fname: SkuTotals, as: skus}
  - {fname: EmitTotals}
---
kistype: func
fname: UserTotals
fmode: Calculate
source: {must: [userid]}
calculate:
  state:
    count: {init: 0, set: state.count + 1}
    total: {init: 0, set: state.total + row.amount}
  emit: {userid: row.userid, sku: row.sku, amount: row.amount}
---
kistype: func
fname: SkuTotals
fmode: Calculate
source: {must: [sku]}
calculate:
  state:
    count: {init: 0, set: state.count + 1}
    total: {init: 0, set: state.total + row.amount}
  emit: {sku: row.sku, count: state.count, total: state.total}
---
kistype: func
fname: EmitTotals
fmode: Expand
expand: {subject: totals.userPACK}
`

// check follows the outputs of a job.
type check interface {
	Message(data []byte, each func(place int))
	Seen() int
	Err() error
	Done() error
}

// skus is the check of two stages: every sku is counted one by one, and comes to what its orders come to.
type skus struct {
	want, have map[string]*load.Total
	events     int
	seen       int
	err        error
}

func newSkus(s load.Spec) *skus {
	c := &skus{want: make(map[string]*load.Total), have: make(map[string]*load.Total), events: s.Events}
	for src := s.Source(); ; {
		o, ok := src.Next()
		if !ok {
			return c
		}
		sku := o.SKU()
		if c.want[sku] == nil {
			c.want[sku], c.have[sku] = new(load.Total), new(load.Total)
		}
		c.want[sku].Add(o.Amount)
	}
}

// Message takes the payload of one output message: JSON objects, one a line.
func (c *skus) Message(data []byte, _ func(int)) {
	for line := range strings.Lines(string(data)) {
		var sku string
		var count, total int64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), `{"sku":%q,"count":%d,"total":%d}`, &sku, &count, &total); err != nil {
			c.wrong("output %q: %w", line, err)
			continue
		}
		have := c.have[sku]
		if have == nil || count != have.Count+1 {
			c.wrong("output %s: the sku was counted %+v before", line, have)
			continue
		}
		have.Count, have.Total = count, total
		c.seen++
	}
}

func (c *skus) wrong(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// Seen is how many outputs have come.
func (c *skus) Seen() int { return c.seen }

// Err says what was wrong so far.
func (c *skus) Err() error { return c.err }

// Done says what was wrong when all outputs are in.
func (c *skus) Done() error {
	for sku, want := range c.want {
		if have := c.have[sku]; have.Count != want.Count || have.Total != want.Total {
			c.wrong("sku %s has %d orders of %d in all, want %d of %d", sku, have.Count, have.Total, want.Count, want.Total)
		}
	}
	return c.err
}

// cost is what one run took.
type cost struct {
	seconds float64 // from the first order to the last output
	cpu     float64 // processor seconds of all nodes and of NATS
	broker  float64 // of it, the outside NATS's
	others  float64 // cores that the rest of the machine used meanwhile, the generator excluded
	stored  float64 // bytes of an event in all streams together, one replica of each
}

// work sends a job's orders through a new cluster as fast as its streams take them, and checks the outputs.
func (b *bench) work(ctx context.Context, s setup, j job) (c cost, err error) {
	err = b.with(ctx, s, func(f *fleet) error {
		text, err := j.definitions()
		if err != nil {
			return err
		}
		if err := f.apply(ctx, text); err != nil {
			return err
		}
		c, err = f.work(ctx, j)
		return err
	})
	return c, err
}

func (f *fleet) work(ctx context.Context, j job) (c cost, err error) {
	spec := load.Spec{Events: j.orders, Users: 10_000, Skew: 1.1, Seed: 1}
	var expect check = spec.Expect()
	if j.stages == 2 {
		expect = newSkus(spec)
	}
	nc, js, err := f.connect(f.running())
	if err != nil {
		return c, err
	}
	defer nc.Close()
	name, err := js.StreamNameBySubject(ctx, totalsOut)
	if err != nil {
		return c, fmt.Errorf("stream of %s: %w", totalsOut, err)
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return c, err
	}
	before, err := f.used()
	if err != nil {
		return c, err
	}
	begin := time.Now()
	if err := (load.Publisher{Conn: nc, Subject: ordersIn, Pack: j.pack}).Publish(ctx, spec); err != nil {
		return c, err
	}
	// The stream's counters are looked at until they stand still: reading the outputs meanwhile would be part of the cost.
	for end, next := begin.Add(10*time.Minute), uint64(1); expect.Seen() < j.orders; {
		last, err := f.quiet(ctx, stream)
		if err != nil {
			return c, err
		}
		now, err := f.used()
		if err != nil {
			return c, err
		}
		c = now.since(before, last.Sub(begin))
		if next, err = readOn(ctx, stream, next, expect); err != nil {
			return c, err
		}
		if expect.Err() != nil || time.Now().After(end) {
			return c, errors.Join(expect.Err(), fmt.Errorf("%d outputs for %d orders", expect.Seen(), j.orders))
		}
	}
	if c.stored, err = storedBytes(ctx, js); err != nil {
		return c, err
	}
	c.stored /= float64(j.orders)
	return c, expect.Done()
}

// storedBytes is what all streams hold.
func storedBytes(ctx context.Context, js jetstream.JetStream) (sum float64, err error) {
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		sum += float64(info.State.Bytes)
	}
	return sum, list.Err()
}

// usage is processor time so far.
type usage struct {
	at                        time.Time
	all, broker, own, machine time.Duration
}

func (f *fleet) used() (u usage, err error) {
	u = usage{at: time.Now(), own: program.OwnTime()}
	if u.all, err = program.Usage(f.measured()...); err != nil {
		return u, err
	}
	if f.broker != nil {
		if u.broker, err = program.Usage(f.broker); err != nil {
			return u, err
		}
	}
	u.machine, err = program.MachineTime()
	return u, err
}

func (u usage) since(before usage, took time.Duration) cost {
	all := u.all - before.all
	others := u.machine - before.machine - all - (u.own - before.own)
	return cost{seconds: took.Seconds(), cpu: all.Seconds(), broker: (u.broker - before.broker).Seconds(), others: max(0, others.Seconds()/u.at.Sub(before.at).Seconds())}
}

// quiet waits until a stream stands still for a second and returns when its last message was stored.
func (f *fleet) quiet(ctx context.Context, stream jetstream.Stream) (at time.Time, err error) {
	var last uint64
	since := time.Now()
	err = f.await(ctx, "the outputs stand still", settleLimit, func() error {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.LastSeq != last {
			last, since, at = info.State.LastSeq, time.Now(), info.State.LastTime
		}
		if time.Since(since) < time.Second {
			return errors.New("they grow")
		}
		return nil
	})
	return at, err
}

// readOn feeds a check with the outputs that are there, from a sequence on, and returns the next one.
func readOn(ctx context.Context, stream jetstream.Stream, from uint64, expect check) (uint64, error) {
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{totalsOut}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return from, err
	}
	left := cons.CachedInfo().NumPending
	messages, err := cons.Messages()
	if err != nil {
		return from, err
	}
	defer messages.Stop()
	for ; left > 0; left-- {
		m, err := messages.Next()
		if err != nil {
			return from, fmt.Errorf("read %s: %w", totalsOut, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return from, err
		}
		from = meta.Sequence.Stream + 1
		expect.Message(m.Data(), nil)
	}
	return from, nil
}

// costs runs all jobs on some clusters, which take turns so that all meet the same minutes of a shared machine. What the
// first one gets done in a processor second is what the others are compared with; least is the aim for the ratio.
func (b *bench) costs(ctx context.Context, name string, entrants []entrant) error {
	for _, j := range b.jobs() {
		all := make([][]cost, len(entrants))
		for i := range b.runs {
			for k, e := range entrants {
				c, err := b.work(ctx, e.setup, j)
				if err != nil {
					return fmt.Errorf("%s: run %d: %w", j.name, i+1, err)
				}
				fmt.Fprintf(os.Stderr, "%s %d/%d %s, %s: %.1f s/M (outside NATS %.1f), %.0f orders/s, others %.1f cores\n", name, i+1, b.runs, j.name, e.setup,
					c.cpu/float64(j.orders)*1e6, c.broker/float64(j.orders)*1e6, float64(j.orders)/c.seconds, c.others)
				all[k] = append(all[k], c)
			}
		}
		var first float64
		for k, e := range entrants {
			var perSecond, nats, stored, rates, others []float64
			for _, c := range all[k] {
				perSecond = append(perSecond, float64(j.orders)/c.cpu)
				nats = append(nats, c.broker/float64(j.orders)*1e6)
				stored = append(stored, c.stored)
				rates = append(rates, float64(j.orders)/c.seconds)
				others = append(others, c.others)
			}
			set := func(w *row) { w.Rate, w.Others = program.Median(rates), program.Median(others) }
			b.report.median(name, j.name+"; "+e.String(), "events a processor second", perSecond, set)
			if !e.Embedded {
				b.report.median(name, j.name+"; "+e.String(), "NATS's part of it: processor s per million", nats, nil)
			}
			if k == 0 {
				b.report.median(name, j.name+"; "+e.String(), "bytes in all streams an event", stored, nil)
				first = program.Median(perSecond)
				continue
			}
			var ratios []float64
			for _, v := range perSecond {
				ratios = append(ratios, v/first)
			}
			b.report.median(name, j.name+"; "+e.String(), "of the first cluster's", ratios, func(w *row) { w.Least = e.least })
		}
	}
	return nil
}

// entrant is a cluster, with the least that its events a processor second are to be of the first cluster's; 0: no aim.
type entrant struct {
	setup
	least float64
}
