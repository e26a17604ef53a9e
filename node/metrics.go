package node

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/functions"
)

// metrics are the node's for Prometheus. Counters are read from the engine when they are asked for; only the
// histograms are kept here.
type metrics struct {
	registry *prometheus.Registry

	batch    *prometheus.HistogramVec
	commit   *prometheus.HistogramVec
	latency  *prometheus.HistogramVec
	call     *prometheus.HistogramVec
	callMS   *prometheus.HistogramVec // the original's
	flowMS   *prometheus.HistogramVec
	inEvents *prometheus.CounterVec
	batches  *prometheus.CounterVec
}

// seconds are buckets from 50 microseconds to 50 seconds.
var seconds = []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10, 50}

func newMetrics(n *Node) *metrics {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	ms := []float64{0.005, 0.01, 0.03, 0.08, 0.1, 0.5, 1, 5, 10, 100, 1000, 5000, 30000}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		batch:    histogram("kisflow_batch_rows", "Rows of a commit.", prometheus.ExponentialBuckets(1, 2, 12), "flow"),
		commit:   histogram("kisflow_commit_seconds", "From the start of a batch to its outputs being stored.", seconds, "flow"),
		latency:  histogram("kisflow_end_to_end_seconds", "Age of a batch's newest event when its outputs are stored.", seconds, "flow"),
		call:     histogram("kisflow_function_seconds", "Time of a function's call (one of 32 is timed).", append([]float64{1e-6, 5e-6, 10e-6, 25e-6}, seconds...), "flow", "step", "function"),
		callMS:   histogram("func_run_duration", "Time of a function's call in milliseconds (one of 32 is timed).", ms, "func_name", "func_mode"),
		flowMS:   histogram("flow_run_duration", "Time of a flow's batch in milliseconds.", append(ms, 60000), "flow_name"),
		inEvents: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kisflow_events_in_total", Help: "Rows handled by a flow's batches, those of hand-offs included."}, []string{"flow"}),
		batches:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kisflow_commits_total", Help: "Batches committed."}, []string{"flow"}),
	}
	m.registry.MustRegister(m.batch, m.commit, m.latency, m.call, m.callMS, m.flowMS, m.inEvents, m.batches,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &engineCollector{n})
	n.meter.Batch = func(flow string, rows int, took, latency float64) {
		m.batch.WithLabelValues(flow).Observe(float64(rows))
		m.commit.WithLabelValues(flow).Observe(took)
		if latency > 0 {
			m.latency.WithLabelValues(flow).Observe(latency)
		}
		m.flowMS.WithLabelValues(flow).Observe(took * 1000)
		m.inEvents.WithLabelValues(flow).Add(float64(rows))
		m.batches.WithLabelValues(flow).Inc()
	}
	n.meter.Call = func(flow, step, function, mode string, took float64) {
		m.call.WithLabelValues(flow, step, function).Observe(took)
		m.callMS.WithLabelValues(function, mode).Observe(took * 1000)
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)})
}

// engineCollector reads what the engine counts.
type engineCollector struct{ n *Node }

type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func describe(name, help string, kind prometheus.ValueType, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), kind}
}

var (
	stepLabels = []string{"flow", "step", "function", "mode"}

	metricCalls       = describe("kisflow_function_calls_total", "Calls of a function.", prometheus.CounterValue, stepLabels...)
	metricRows        = describe("kisflow_function_rows_total", "Rows handed to a function.", prometheus.CounterValue, stepLabels...)
	metricOut         = describe("kisflow_function_rows_out_total", "Rows emitted by a function.", prometheus.CounterValue, stepLabels...)
	metricErrors      = describe("kisflow_function_errors_total", "Calls that a function answered with an error.", prometheus.CounterValue, stepLabels...)
	metricSetAside    = describe("kisflow_dead_letters_total", "Rows set aside as dead letters.", prometheus.CounterValue, stepLabels...)
	metricDropped     = describe("kisflow_rows_dropped_total", "Rows dropped by a declared rule.", prometheus.CounterValue, stepLabels...)
	metricWaited      = describe("kisflow_rows_waited_total", "Rows that had to wait for a retry or behind one.", prometheus.CounterValue, stepLabels...)
	metricSent        = describe("kisflow_events_out_total", "Messages sent to subjects.", prometheus.CounterValue, stepLabels...)
	metricTimers      = describe("kisflow_timers_fired_total", "Timers of keys that have fired.", prometheus.CounterValue, stepLabels...)
	metricExpired     = describe("kisflow_states_expired_total", "States of keys that have ended by their time to live.", prometheus.CounterValue, stepLabels...)
	metricWatermark   = describe("kisflow_watermark_timestamp_seconds", "Watermark of a step, that of the partition furthest behind, in seconds since 1970; not there before one is known.", prometheus.GaugeValue, "flow", "step")
	metricLag         = describe("kisflow_lag_messages", "Messages of an input that the flow has not taken up yet.", prometheus.GaugeValue, "flow", "input")
	metricWaiting     = describe("kisflow_rows_waiting", "Rows taken up and not committed.", prometheus.GaugeValue, "flow")
	metricDead        = describe("kisflow_dead_letters", "Dead letters there now.", prometheus.GaugeValue, "flow")
	metricKeys        = describe("kisflow_state_keys", "Keys that have a state.", prometheus.GaugeValue, "flow")
	metricPartitions  = describe("kisflow_partitions", "Partitions on this node.", prometheus.GaugeValue, "flow", "state")
	metricRecovery    = describe("kisflow_recovery_ratio", "Share of the partitions' logs that is read again after a start; 1 when ready.", prometheus.GaugeValue, "flow")
	metricLive        = describe("kisflow_live_actors", "Function instances in memory.", prometheus.GaugeValue)
	metricLiveBytes   = describe("kisflow_live_actor_bytes", "About what the function instances in memory take.", prometheus.GaugeValue)
	metricStateBytes  = describe("kisflow_state_disk_bytes", "Bytes of the store of states on disk.", prometheus.GaugeValue)
	metricSnapshots   = describe("kisflow_snapshots_total", "Snapshots of partitions that were written and announced.", prometheus.CounterValue)
	metricSnapBytes   = describe("kisflow_snapshot_bytes_total", "Bytes that were written for snapshots: what had changed, compressed.", prometheus.CounterValue)
	metricWorkers     = describe("kisflow_script_workers", "Worker processes for scripts.", prometheus.GaugeValue)
	metricKilled      = describe("kisflow_script_workers_killed_total", "Workers for scripts that died, or had to be killed, over a row.", prometheus.CounterValue)
	metricLookups     = describe("kisflow_lookup_total", "Rows of a look-up by what became of their key: found or missing when the connector was asked, cached, error.", prometheus.CounterValue, "flow", "step", "result")
	metricDataTotal   = describe("kisflow_data_total", "Source rows of all flows.", prometheus.CounterValue)
	metricFlowData    = describe("flow_data_total", "Source rows of a flow.", prometheus.GaugeValue, "flow_name")
	metricFlowCount   = describe("flow_schedule_cnts", "Batches of a flow.", prometheus.GaugeValue, "flow_name")
	metricFuncCount   = describe("func_schedule_cnts", "Calls of a function.", prometheus.GaugeValue, "func_name", "func_mode")
	metricDescribable = []metric{metricCalls, metricRows, metricOut, metricErrors, metricSetAside, metricDropped, metricWaited, metricSent, metricTimers, metricExpired, metricWatermark, metricLag,
		metricWaiting, metricDead, metricKeys, metricPartitions, metricRecovery, metricLive, metricLiveBytes, metricStateBytes, metricSnapshots, metricSnapBytes, metricWorkers, metricKilled, metricLookups, metricDataTotal, metricFlowData, metricFlowCount, metricFuncCount}
)

// Describe implements prometheus.Collector.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metricDescribable {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	put := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	calls := make(map[[2]string]uint64)
	for _, s := range c.n.meter.Steps() {
		l := []string{s.Flow, s.Step, s.Function, s.Mode}
		put(metricCalls, float64(s.Calls.Load()), l...)
		put(metricRows, float64(s.Rows.Load()), l...)
		put(metricOut, float64(s.Out.Load()), l...)
		put(metricErrors, float64(s.Refused.Load()), l...)
		put(metricSetAside, float64(s.DeadLetters.Load()), l...)
		put(metricDropped, float64(s.Dropped.Load()), l...)
		put(metricWaited, float64(s.Waited.Load()), l...)
		put(metricSent, float64(s.Sent.Load()), l...)
		put(metricTimers, float64(s.Timers.Load()), l...)
		put(metricExpired, float64(s.Expired.Load()), l...)
		calls[[2]string{s.Function, s.Mode}] += s.Calls.Load()
	}
	for k, v := range calls {
		put(metricFuncCount, float64(v), k[0], k[1])
	}
	all := uint64(0)
	if c.n.system != nil {
		for _, r := range c.n.system.Running() {
			all += c.flow(r, put)
		}
	}
	put(metricDataTotal, float64(all))
	live, bytes := c.n.meter.Instances()
	put(metricLive, float64(live))
	put(metricLiveBytes, float64(bytes))
	put(metricStateBytes, float64(c.n.diskBytes()))
	put(metricSnapshots, float64(c.n.meter.Snapshots.Load()))
	put(metricSnapBytes, float64(c.n.meter.SnapshotBytes.Load()))
	if c.n.planner != nil {
		c.n.planner.lookups.each(func(flow, step string, l *functions.LookupCounts) {
			put(metricLookups, float64(l.Found.Load()), flow, step, "found")
			put(metricLookups, float64(l.Missing.Load()), flow, step, "missing")
			put(metricLookups, float64(l.Cached.Load()), flow, step, "cached")
			put(metricLookups, float64(l.Errors.Load()), flow, step, "error")
		})
	}
	if c.n.scripts != nil {
		workers, killed := c.n.scripts.Stats()
		put(metricWorkers, float64(workers))
		put(metricKilled, float64(killed))
	}
}

func (c *engineCollector) flow(r *actors.Running, put func(metric, float64, ...string)) uint64 {
	in, batches := r.Counts()
	put(metricFlowData, float64(in), r.Name())
	put(metricFlowCount, float64(batches), r.Name())
	put(metricWaiting, float64(r.Waiting()), r.Name())
	ctx, cancel := scrapeContext()
	defer cancel()
	if inputs, err := r.Inputs(ctx); err == nil {
		for _, i := range inputs {
			put(metricLag, float64(i.Lag), r.Name(), i.Stream)
		}
	}
	states := map[string]int{"running": 0, "recovering": 0, "stopped": 0}
	dead, keys := uint64(0), int64(0)
	if parts, err := r.Partitions(ctx); err == nil {
		for _, p := range parts {
			states[p.State]++
			dead += p.DeadLetters
			keys += p.StateKeys
		}
	}
	if all, err := r.Watermarks(ctx); err == nil {
		for _, w := range watermarks(r.Definition(), all) {
			if w.Time != nil {
				put(metricWatermark, float64(w.Time.UnixMilli())/1000, r.Name(), w.Step)
			}
		}
	}
	put(metricKeys, float64(keys), r.Name())
	for s, k := range states {
		put(metricPartitions, float64(k), r.Name(), s)
	}
	put(metricDead, float64(dead), r.Name())
	ready, parts, read, of := r.Progress()
	ratio := 1.0
	if ready < parts && of > 0 {
		ratio = float64(read) / float64(of)
	}
	put(metricRecovery, ratio, r.Name())
	return in
}
