package actors

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter counts what partitions do. Node reads it for the metrics; the engine only adds. The zero value is
// ready to use.
type Meter struct {
	// Batch is called after every batch, if set: rows, the time from its start to its outputs being stored,
	// and the age of its newest row at that end (both seconds). It must be safe for concurrent use.
	Batch func(flow string, rows int, took, latency float64)
	// Call is called for a sample of the calls of functions, if set, with the time that one took (seconds).
	Call func(flow, step, function, mode string, took float64)

	// Snapshots that were announced, and the bytes of the chunks that were written for them.
	Snapshots, SnapshotBytes atomic.Uint64

	batches    atomic.Uint64
	mu         sync.Mutex
	steps      map[[2]string]*StepMeter
	partitions map[string][2]int
}

// StepMeter counts what one step of a flow did on this node.
type StepMeter struct {
	Flow, Step, Function, Mode string

	Calls, Rows, Out, Refused, DeadLetters, Dropped, Waited, Sent, Timers, Expired atomic.Uint64

	observe func(flow, step, function, mode string, took float64)
}

func (m *Meter) step(flow string, s *Step) *StepMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := [2]string{flow, s.Name}
	if m.steps[k] == nil {
		if m.steps == nil {
			m.steps = make(map[[2]string]*StepMeter)
		}
		m.steps[k] = &StepMeter{Flow: flow, Step: s.Name, Function: s.Function.Name(), Mode: string(s.Mode), observe: m.Call}
	}
	return m.steps[k]
}

// Steps returns the counters of all steps.
func (m *Meter) Steps() []*StepMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*StepMeter, 0, len(m.steps))
	for _, s := range m.steps {
		all = append(all, s)
	}
	return all
}

// Instances returns how many function instances are in memory, and about how many bytes they take.
func (m *Meter) Instances() (count, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.partitions {
		count += p[0]
		bytes += p[1]
	}
	return count, bytes
}

func (m *Meter) instances(partition string, count, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.partitions == nil {
		m.partitions = make(map[string][2]int)
	}
	m.partitions[partition] = [2]int{count, bytes}
}

func (m *Meter) gone(partition string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.partitions, partition)
}

// Batches is how many batches the partitions of this node have handled.
func (m *Meter) Batches() uint64 { return m.batches.Load() }

func (m *Meter) batch(flow string, w *work, start, end time.Time) {
	m.batches.Add(1)
	if m.Batch == nil || w.rows == 0 {
		return
	}
	latency := 0.0
	if !w.arrived.IsZero() {
		latency = end.Sub(w.arrived).Seconds()
	}
	m.Batch(flow, w.rows, end.Sub(start).Seconds(), latency)
}

// call counts a call, and tells whether its time is to be taken: of one in 32.
func (m *StepMeter) call(rows int) (timed bool) {
	m.Rows.Add(uint64(rows))
	return m.Calls.Add(1)%32 == 1 && m.observe != nil
}

func (m *StepMeter) out(rows int) { m.Out.Add(uint64(rows)) }
func (m *StepMeter) refuse()      { m.Refused.Add(1) }
func (m *StepMeter) setAside()    { m.DeadLetters.Add(1) }
func (m *StepMeter) drop()        { m.Dropped.Add(1) }
func (m *StepMeter) wait()        { m.Waited.Add(1) }
func (m *StepMeter) send()        { m.Sent.Add(1) }
func (m *StepMeter) timer()       { m.Timers.Add(1) }
func (m *StepMeter) expire()      { m.Expired.Add(1) }
