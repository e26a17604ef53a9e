package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions/script"
	"github.com/kisflow/kisflow/kis"
	statememory "github.com/kisflow/kisflow/state/memory"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// InMemory runs flows once: without NATS, without a store on disk, and nothing is left of it at the end. The
// engine is the same; its log keeps only each partition's last record, for there is nobody to recover.
type InMemory struct {
	Functions []kis.Function // Go functions
	// ScriptWorker is as in Options; empty: scripts run in this process, without a bound of their memory.
	ScriptWorker string
	// Flow is the one that is fed; empty: the only one that takes events. Subject is what the events are
	// published to; empty: a subject of the flow's entry.
	Flow, Subject string
	// Events calls publish for each message, in order, and returns at the end. A message holds one event or
	// many, as in a stream. publish waits while the flows are far behind; it does not keep the bytes.
	Events func(ctx context.Context, publish func(message []byte) error) error
	// Output is called for each message that a flow sends to a subject, one at a time; the bytes are valid
	// during the call. Messages of a key come in order.
	Output func(subject string, message []byte) error
	Log    *slog.Logger
}

// InMemoryReport is what a run in memory led to.
type InMemoryReport struct {
	Subject     string         // the events were published to
	Outputs     uint64         // messages
	DeadLetters uint64         // that are left
	Reasons     map[string]int // of the dead letters, by "step: reason"; at most maxReasons of them
	Pending     int            // rows that still wait at their steps
}

const maxReasons = 1000

// Run runs all enabled flows of a set, which has been linted, until the events are at their end and all that
// they cause is done. A partition that stops ends the run with its reason.
func (m InMemory) Run(ctx context.Context, set *flowdef.Set) (report InMemoryReport, err error) {
	if m.Log == nil {
		m.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go tuneCollector(ctx, func() uint64 { return 0 }) // ends with ctx
	inner := memory.New(memory.Options{})
	s := &sinkStreams{Streams: inner, output: m.Output, failed: cancel, sinks: make(map[string]*sink), logs: make(map[string]transport.Message),
		logNext: 1 << 40}
	scripts := script.NewPool(script.PoolOptions{Program: m.ScriptWorker, Log: m.Log})
	defer scripts.Close()
	host := connectors.NewHost(ConnectorTypes()...)
	defer host.Close() // what it says changes nothing any more
	pl := &planner{streams: s, functions: make(map[string]kis.Function), scripts: scripts, connectors: host, lookups: new(lookupCounts), fresh: true}
	if m.ScriptWorker == "" {
		pl.scripts = script.InProcess(nil)
	}
	for _, f := range m.Functions {
		pl.functions[f.Name()] = f
	}
	var flows []*actors.Flow
	for _, def := range set.Flows {
		if !def.Enabled {
			continue
		}
		f, err := pl.plan(ctx, set, def, 1, make(starts))
		if err != nil {
			return report, err
		}
		flows = append(flows, f)
		s.logs[actors.LogStream(f.Name)] = transport.Message{} // marks the stream
	}
	if report.Subject, err = m.subject(set); err != nil {
		return report, err
	}
	entry, err := s.Capturing(ctx, report.Subject)
	if err != nil {
		return report, fmt.Errorf("no flow takes events on subject %s: %w", report.Subject, err)
	}
	s.sink(flows)

	meter := new(actors.Meter)
	system := actors.NewSystem(s, memory.NewObjects(memory.Options{}), statememory.New(), m.Log, meter, actors.Options{
		Partitions: min(actors.DefaultPartitions, max(2, runtime.GOMAXPROCS(0))), CacheBytes: 1 << 30, SnapshotBytes: 1 << 62, Owner: owner()})
	pl.latest = system
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, system.Close(stop))
	}()
	for _, f := range flows {
		if _, err := system.Start(ctx, f); err != nil {
			return report, fmt.Errorf("flow %s: %w", f.Name, err)
		}
	}
	r := &inMemoryRun{system: system, streams: s, entry: entry.Name, subject: report.Subject}
	if err := m.Events(ctx, func(message []byte) error { return r.publish(ctx, message) }); err != nil {
		return report, cmp.Or(context.Cause(ctx), err)
	}
	err = r.finish(ctx, &report)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	report.Outputs = s.count()
	return report, err
}

// subject is what the events are published to.
func (m InMemory) subject(set *flowdef.Set) (string, error) {
	if m.Subject != "" {
		return m.Subject, nil
	}
	var fed []string
	subject := ""
	for _, def := range set.Flows {
		if !def.Enabled || m.Flow != "" && def.Name != m.Flow {
			continue
		}
		loads := slices.ContainsFunc(def.Steps, func(s flowdef.Step) bool {
			fn := set.Funcs[s.Function.Value]
			return fn != nil && fn.Mode == string(kis.Load) && (fn.Load == nil || fn.Load.Lookup == nil)
		})
		switch {
		case len(def.Entries) > 0:
			subject = strings.NewReplacer("*", "run", ">", "run").Replace(def.Entries[0].Subject.Value)
		case !loads || m.Flow != "":
			subject = ownEntry(def.Name)
		default:
			continue
		}
		fed = append(fed, def.Name)
	}
	switch {
	case len(fed) == 0 && m.Flow != "":
		return "", fmt.Errorf("no enabled flow %q", m.Flow)
	case len(fed) == 0:
		return "", errors.New("no enabled flow takes events")
	case len(fed) > 1:
		return "", fmt.Errorf("%d flows take events: name one of %s, or a subject", len(fed), strings.Join(fed, ", "))
	}
	return subject, nil
}

// inMemoryRun feeds the flows and waits for them.
type inMemoryRun struct {
	system  *actors.System
	streams *sinkStreams
	entry   string // stream
	subject string

	published, checked uint64 // sequences of the entry stream
}

// inMemoryAhead is how many messages the events may be ahead of the flows.
const inMemoryAhead = 1024

func (r *inMemoryRun) publish(ctx context.Context, message []byte) error {
	stored, err := r.streams.Streams.Publish(ctx, r.entry, []transport.Outgoing{{Subject: r.subject, Data: message}})
	if err != nil {
		return err
	}
	if r.published = stored[0]; r.published-r.checked < inMemoryAhead {
		return nil
	}
	for tries := 0; ; tries++ {
		done, err := r.dealt(ctx)
		if err != nil {
			return err
		}
		r.checked = done
		if r.published-done < inMemoryAhead/2 {
			return r.streams.Cut(ctx, r.entry, "", done+1)
		}
		if tries%100 == 99 {
			if _, err := r.busy(ctx, nil); err != nil {
				return err
			}
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dealt is up to where all flows have read the entry stream.
func (r *inMemoryRun) dealt(ctx context.Context) (uint64, error) {
	low := r.published
	for _, f := range r.system.Running() {
		inputs, err := f.Inputs(ctx)
		if err != nil {
			return 0, err
		}
		for _, in := range inputs {
			if in.Reason != nil {
				return 0, fmt.Errorf("flow %s: input %s: %w", f.Name(), in.Stream, in.Reason)
			}
			if in.Stream == r.entry {
				low = min(low, in.Dealt)
			}
		}
	}
	return low, nil
}

// busy tells whether anything is still on its way; it counts what stays into the report.
func (r *inMemoryRun) busy(ctx context.Context, report *InMemoryReport) (bool, error) {
	busy := false
	if report != nil {
		report.DeadLetters, report.Pending = 0, 0
	}
	for _, f := range r.system.Running() {
		inputs, err := f.Inputs(ctx)
		if err != nil {
			return false, err
		}
		for _, in := range inputs {
			if in.Reason != nil {
				return false, fmt.Errorf("flow %s: input %s: %w", f.Name(), in.Stream, in.Reason)
			}
			busy = busy || in.Lag > 0
		}
		partitions, err := f.Partitions(ctx)
		if err != nil {
			return false, err
		}
		for _, p := range partitions {
			if p.State == "stopped" {
				return false, fmt.Errorf("partition %s: %w", p.Name, p.Reason)
			}
			busy = busy || p.Waiting > 0 || p.Owes
			if report != nil {
				report.DeadLetters += p.DeadLetters
				report.Pending += p.Pending
			}
		}
	}
	return busy, nil
}

// inMemoryPatience is how long rows that wait at their steps (for a retry, or for people) are waited for while
// nothing happens.
const inMemoryPatience = 5 * time.Second

// finish waits until nothing is on its way. What was idle is asked a second time: a flow may have handed on to
// another one that was asked before.
func (r *inMemoryRun) finish(ctx context.Context, report *InMemoryReport) error {
	quiet, since, before := 0, time.Now(), -1
	ends := []actors.InputKind{actors.Entry, actors.Load} // first what comes from outside; a Load whose writers run here ends behind it
	for quiet < 2 || len(ends) > 0 {
		if quiet >= 2 {
			for _, f := range r.system.Running() {
				f.EndInputs(ends[0])
			}
			ends, quiet = ends[1:], 0
		}

		busy, err := r.busy(ctx, report)
		if err != nil {
			return err
		}
		if report.Pending != before {
			before, since = report.Pending, time.Now()
		}
		if busy || report.Pending > 0 && time.Since(since) < inMemoryPatience {
			quiet = 0
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
			continue
		}
		quiet++
	}
	report.Reasons = make(map[string]int)
	for _, f := range r.system.Running() {
		for place := ""; ; {
			letters, next, err := f.DeadLetters(ctx, place, 1000, actors.LetterFilter{})
			if err != nil {
				return err
			}
			for _, l := range letters {
				reason := l.Reason
				if l.Step != "" {
					reason = l.Step + ": " + reason
				}
				if _, known := report.Reasons[reason]; !known && len(report.Reasons) >= maxReasons {
					reason = "other reasons"
				}
				report.Reasons[reason]++
			}
			if place = next; place == "" {
				break
			}
		}
	}
	return nil
}

// sinkStreams are streams in memory, but for two kinds: of a log only each subject's last message is kept, and
// what is sent to an output goes to the run's caller.
type sinkStreams struct {
	*memory.Streams
	output func(subject string, message []byte) error
	failed context.CancelCauseFunc

	mu      sync.Mutex
	sinks   map[string]*sink             // by stream
	logs    map[string]transport.Message // by subject; log streams have an empty one under their name
	logNext uint64                       // above all sequences of claims

	outMu   sync.Mutex
	outputs uint64
}

// sink is an output stream: whether anybody here reads it too, and the sequence of the last message that nobody
// keeps.
type sink struct {
	kept bool
	last uint64
}

// sink marks the output streams of the flows.
func (s *sinkStreams) sink(flows []*actors.Flow) {
	for _, f := range flows {
		for _, step := range f.Steps {
			for _, o := range step.Outputs {
				s.sinks[o.Stream] = &sink{}
			}
		}
	}
	for _, f := range flows {
		for _, in := range f.Inputs {
			if k := s.sinks[in.Stream]; k != nil {
				k.kept = true
			}
		}
	}
}

func (s *sinkStreams) count() uint64 {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	return s.outputs
}

// Publish implements transport.Streams.
func (s *sinkStreams) Publish(ctx context.Context, stream string, ms []transport.Outgoing) ([]uint64, error) {
	k := s.sinks[stream]
	if k == nil {
		return s.Streams.Publish(ctx, stream, ms)
	}
	s.outMu.Lock()
	defer s.outMu.Unlock()
	stored := make([]uint64, len(ms))
	for i := range ms {
		if err := s.output(ms[i].Subject, ms[i].Data); err != nil {
			s.failed(fmt.Errorf("output: %w", err))
			return stored[:i], transport.Refused(transport.ErrNotFound, "output") // which no partition tries again
		}
		s.outputs++
		k.last++
		stored[i] = k.last
	}
	if k.kept {
		return s.Streams.Publish(ctx, stream, ms)
	}
	return stored, nil
}

func (s *sinkStreams) isLog(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, log := s.logs[stream]
	return log
}

// Append implements transport.Streams.
func (s *sinkStreams) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	if !s.isLog(stream) {
		return s.Streams.Append(ctx, stream, m)
	}
	if m.Expect != nil && m.Expect.Sequence == 0 { // the claim of the partition: it is read back from the stream
		sequence, err := s.Streams.Append(ctx, stream, m)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logs[m.Subject] = transport.Message{Subject: m.Subject, Sequence: sequence, Data: slices.Clone(m.Data)}
		}
		return sequence, err
	}
	return s.log([]transport.Outgoing{m})
}

// AppendAll implements transport.Streams.
func (s *sinkStreams) AppendAll(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	if !s.isLog(stream) {
		return s.Streams.AppendAll(ctx, stream, ms)
	}
	return s.log(ms)
}

// log keeps the last record of a partition: its expectation is checked as a stream does.
func (s *sinkStreams) log(ms []transport.Outgoing) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ms {
		m := &ms[i]
		if e := m.Expect; e != nil {
			if last := s.logs[cmp.Or(e.Subject, m.Subject)].Sequence; last != e.Sequence {
				return 0, transport.Refused(transport.ErrFenced, "subject %s: its last sequence is %d, not %d", m.Subject, last, e.Sequence)
			}
		}
	}
	now := time.Now().UTC()
	for i := range ms {
		m := &ms[i]
		s.logNext++
		last := transport.Message{Subject: m.Subject, Sequence: s.logNext, Time: now, Header: slices.Clone(m.Header)}
		last.Data = append(s.logs[m.Subject].Data[:0], m.Data...) // nobody holds the old one: LastOn copies
		s.logs[m.Subject] = last
	}
	return s.logNext, nil
}

// LastOn implements transport.Streams.
func (s *sinkStreams) LastOn(ctx context.Context, stream, subject string) (transport.Message, error) {
	if !s.isLog(stream) {
		return s.Streams.LastOn(ctx, stream, subject)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.logs[subject]
	if !ok {
		return m, transport.Refused(transport.ErrNotFound, "no message on %s", subject)
	}
	m.Header, m.Data = slices.Clone(m.Header), slices.Clone(m.Data)
	return m, nil
}
