package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/kis"
)

// A pulse is a steady load on all partitions of some flows that count events a key, one key in each partition. It tells
// when each event was due and when its output was stored, by the clock of this machine, which is that of NATS, too. No
// one reads while it runs: the outputs are read from their streams at its end, and the counts that they carry show that
// no event was lost or counted twice.
const (
	pulseFlows = 8                                     // of one stage each
	partitions = actors.DefaultPartitions              // of a stage
	pulses     = pulseFlows * actors.DefaultPartitions // partitions under load
)

// pulseFlow is the name of one of the flows.
func pulseFlow(f int) string { return fmt.Sprintf("Pulse%d", f) }

// pulseDefinitions are the flows of the load.
func pulseDefinitions() string {
	var b strings.Builder
	b.WriteString(`kistype: func
fname: CountPulse
fmode: Calculate
source: {must: [key]}
calculate:
  state:
    n: {init: 0, set: state.n + 1}
  emit: {key: row.key, n: state.n, i: row.i}
`)
	for f := range pulseFlows {
		fmt.Fprintf(&b, `---
kistype: func
fname: SendPulse%d
fmode: Expand
expand: {subject: pulse%d.out}
---
kistype: flow
status: 1
flow_name: %s
entry: {subject: pulse%d.in}
flows:
  - {fname: CountPulse, as: count}
  - {fname: SendPulse%d}
`, f, f, pulseFlow(f), f, f)
	}
	return b.String()
}

// keyOf makes keys that fall into a partition, one after another: texts that begin with a prefix.
func keyOf(prefix string, partition int) func() string {
	next := 0
	return func() string {
		for ; ; next++ {
			text := prefix + strconv.Itoa(next)
			k, err := kis.KeyFromValues([]string{"key"}, []kis.Value{kis.StringValue(text)})
			if err != nil {
				panic(err) // a text is a key
			}
			if int(k.Slot())*partitions/kis.Slots == partition {
				next++
				return text
			}
		}
	}
}

// pulseKeys are the keys of the load, by partition.
func pulseKeys() []string {
	keys := make([]string, partitions)
	for p := range keys {
		keys[p] = keyOf("k", p)()
	}
	return keys
}

// pulse is the load while it runs.
type pulse struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	keys []string
	rate int // events a second

	from   []uint64 // by flow: the output stream's next sequence at the start
	before []int    // by partition of all flows: what was counted before
	sub    *nats.Subscription
	stop   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	due     [][]int64 // by flow and number of the event: unix nanoseconds
	waiting map[string]*sent
	err     error
}

// sent is an event whose stream has not acknowledged it.
type sent struct {
	m     *nats.Msg
	order int
	at    time.Time // sent last
}

// startPulse starts the load on the pulse's flows. It connects to NATS through some nodes: those that are to stay.
func (f *fleet) startPulse(ctx context.Context, through []*node, rate int, before []int) (*pulse, error) {
	nc, js, err := f.connect(through)
	if err != nil {
		return nil, err
	}
	p := &pulse{nc: nc, js: js, keys: pulseKeys(), rate: rate, before: before, stop: make(chan struct{}), done: make(chan struct{}),
		due: make([][]int64, pulseFlows), waiting: make(map[string]*sent)}
	for flow := range pulseFlows {
		s, err := p.outputs(ctx, flow)
		if err != nil {
			nc.Close()
			return nil, err
		}
		p.from = append(p.from, s.CachedInfo().State.LastSeq+1)
	}
	inbox := nats.NewInbox()
	if p.sub, err = nc.Subscribe(inbox+".*", p.acknowledged); err != nil {
		nc.Close()
		return nil, err
	}
	go p.run(inbox)
	return p, nil
}

// outputs finds a flow's output stream. JetStream may be about to elect leaders: it is asked for a while.
func (p *pulse) outputs(ctx context.Context, flow int) (s jetstream.Stream, err error) {
	subject := fmt.Sprintf("pulse%d.out", flow)
	for end := time.Now().Add(30 * time.Second); ; {
		var name string
		if name, err = p.js.StreamNameBySubject(ctx, subject); err == nil {
			if s, err = p.js.Stream(ctx, name); err == nil {
				return s, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, fmt.Errorf("stream of %s: %w", subject, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// again is after which time without an answer an event is sent again, under the same id.
const again = 250 * time.Millisecond

// run sends events, each partition of each flow in turn, and those again that nobody acknowledges.
func (p *pulse) run(inbox string) {
	defer close(p.done)
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	start := time.Now()
	gap := time.Second / time.Duration(p.rate)
	looked := start
	for i := 0; ; i++ {
		due := start.Add(time.Duration(i) * gap)
		if wait := time.Until(due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-p.stop:
				return
			}
		}
		select {
		case <-p.stop:
			return
		default:
		}
		flow, partition := i%pulseFlows, i/pulseFlows%partitions
		p.mu.Lock()
		number := len(p.due[flow])
		p.due[flow] = append(p.due[flow], due.UnixNano())
		id := run + "-" + strconv.Itoa(i)
		m := &nats.Msg{Subject: fmt.Sprintf("pulse%d.in", flow), Reply: inbox + "." + strconv.Itoa(i), Header: nats.Header{"Nats-Msg-Id": {id}},
			Data: fmt.Appendf(nil, `{"key":%q,"i":%d}`, p.keys[partition], number)}
		p.waiting[m.Reply] = &sent{m, i, time.Now()}
		p.mu.Unlock()
		p.send(m)
		if time.Since(looked) > again/2 {
			looked = time.Now()
			p.sendAgain()
		}
	}
}

func (p *pulse) send(m *nats.Msg) {
	if err := p.nc.PublishMsg(m); err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) {
		p.mu.Lock()
		if p.err == nil {
			p.err = err
		}
		p.mu.Unlock()
	}
}

func (p *pulse) sendAgain() {
	p.mu.Lock()
	var old []*sent
	now := time.Now()
	for _, s := range p.waiting {
		if now.Sub(s.at) > again {
			s.at = now
			old = append(old, s)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(old, func(a, b *sent) int { return a.order - b.order })
	for _, s := range old {
		p.send(s.m)
	}
}

// acknowledged takes an answer; a refusal, and that nobody is there to answer, make the event go out again.
func (p *pulse) acknowledged(m *nats.Msg) {
	var ack struct {
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if len(m.Data) == 0 || json.Unmarshal(m.Data, &ack) != nil {
		return // no responders: there is no leader
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ack.Error != nil && ack.Error.Code != 503 && ack.Error.Code != 409 { // no leader; the first of two sendings is being stored
		if p.err == nil {
			p.err = fmt.Errorf("publish refused: %s", m.Data)
		}
		return
	}
	if ack.Error == nil {
		delete(p.waiting, m.Subject)
	}
}

// arrival is an event, and when its output was stored.
type arrival struct {
	due, stored time.Time
}

// end stops the load, waits for all outputs and returns them by partition of all flows, in the order in which they were
// stored. An output that is lost, doubled or out of its order is an error. The counts go on in before.
func (p *pulse) end(ctx context.Context) (all [][]arrival, err error) {
	close(p.stop)
	<-p.done
	defer p.nc.Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		left, err := len(p.waiting), p.err
		p.mu.Unlock()
		if left == 0 {
			break
		}
		if err != nil || ctx.Err() != nil || time.Now().After(end) {
			return nil, fmt.Errorf("%d events are not acknowledged: %w", left, errors.Join(err, ctx.Err()))
		}
		p.sendAgain()
	}
	all = make([][]arrival, pulses)
	for flow := range pulseFlows {
		if err := p.read(ctx, flow, all); err != nil {
			return nil, fmt.Errorf("outputs of %s: %w", pulseFlow(flow), err)
		}
	}
	return all, nil
}

// readLimit is how long the outputs of a flow may take to come.
const readLimit = 2 * time.Minute

func (p *pulse) read(ctx context.Context, flow int, all [][]arrival) error {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	s, err := p.outputs(ctx, flow)
	if err != nil {
		return err
	}
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{fmt.Sprintf("pulse%d.out", flow)}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.from[flow],
	})
	if err != nil {
		return err
	}
	messages, err := cons.Messages()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	defer messages.Stop()
	due := p.due[flow]
	seen := make([]bool, len(due))
	for left := len(due); left > 0; {
		m, err := messages.Next()
		if err != nil {
			return fmt.Errorf("%d of %d are missing (%s): %w", left, len(due), missing(seen), errors.Join(err, ctx.Err()))
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		for line := range bytes.Lines(m.Data()) {
			var out struct {
				Key  string
				N, I int
			}
			if err := json.Unmarshal(line, &out); err != nil {
				return fmt.Errorf("output %q: %w", line, err)
			}
			at := slices.Index(p.keys, out.Key)
			if at < 0 || out.I < 0 || out.I >= len(due) || seen[out.I] {
				return fmt.Errorf("output %s: no such event, or one whose output was there already", line)
			}
			at += flow * partitions
			if p.before[at]++; out.N != p.before[at] {
				return fmt.Errorf("output %s: the key was counted %d times before", line, p.before[at]-1)
			}
			seen[out.I] = true
			left--
			all[at] = append(all[at], arrival{time.Unix(0, due[out.I]), meta.Timestamp})
		}
	}
	return nil
}

// missing says of which partitions events have no output, and the first and the last of these.
func missing(seen []bool) string {
	var all []string
	for p := range partitions {
		first, last, n := -1, 0, 0
		for i := p; i < len(seen); i += partitions {
			if !seen[i] {
				if first < 0 {
					first = i
				}
				last, n = i, n+1
			}
		}
		if n > 0 {
			all = append(all, fmt.Sprintf("partition %d: %d, events %d to %d", p, n, first, last))
		}
	}
	return strings.Join(all, "; ")
}
