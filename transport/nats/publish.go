package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
)

// Headers that JetStream reads.
const (
	hdrExpectSequence = "Nats-Expected-Last-Subject-Sequence"
	hdrExpectSubject  = "Nats-Expected-Last-Subject-Sequence-Subject"
	hdrBatchID        = "Nats-Batch-Id"
	hdrBatchSequence  = "Nats-Batch-Sequence"
	hdrBatchCommit    = "Nats-Batch-Commit"
)

// ours tells whether a header was for JetStream only: a reader does not show it.
func ours(name string) bool {
	return strings.HasPrefix(name, "Nats-") && (strings.HasPrefix(name, "Nats-Batch-") || strings.HasPrefix(name, "Nats-Expected-"))
}

const (
	maxBatch = 1000 // messages of an atomic batch, the server's limit
	// batchBytes bounds the batches that Publish makes of its messages for durability power.
	batchBytes = 16 << 20
	// ownHeaders is what our headers and their values may add to a message.
	ownHeaders = 1024
	// writeBudget bounds how long a write is tried again that was certainly not stored.
	writeBudget = 20 * time.Second
	// writeBackoff is the longest wait before such a try: a stream without a leader says so at once.
	writeBackoff = 200 * time.Millisecond
)

// errNoAnswerer is the answer where no stream listens on a subject: certainly not stored.
var errNoAnswerer = errors.New("no stream answers")

// pending are the writes on their way. One subscription receives all acknowledgements; the reply subject of a
// call's messages ends in its number.
//
// The place of an acknowledgement in its call is the order of its arrival: a stream answers in the order that it
// receives in, and all messages of a call take the same way. A reply subject for each message would say it
// without doubt, but costs the server a look-up that its cache does not hold: 0.8 µs each. Where the order is
// not kept (a replicated stream answers refusals first), a refusal seems to belong to an earlier message: then
// later ones seem stored, and the call is in doubt, which is safe. Where an answer is missing no place is sure,
// and nothing of the call counts as stored.
type pending struct {
	inbox string // with the dot at its end

	mu    sync.Mutex
	calls map[uint64]*call
	last  uint64
}

// call is one write of some messages.
type call struct {
	number uint64
	stream string
	reply  string // the reply subject of its messages

	mu     sync.Mutex
	seqs   []uint64 // by place; 0 where it was refused or nothing has come yet
	err    error    // why the first one was refused
	doubt  error    // nobody will answer
	moved  bool     // the stream has another leader than when it began: who was asked may never answer
	got    int      // answers
	wanted int      // answers that wake the waiting writer; 0: none waits
	wake   chan struct{}
}

func (p *pending) open(nc *nats.Conn) error {
	p.inbox = nc.NewInbox() + "."
	p.calls = make(map[uint64]*call)
	sub, err := nc.Subscribe(p.inbox+"*", p.ack)
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, -1) // bounded by the windows of the calls
}

// begin registers a call of n messages to a stream.
func (p *pending) begin(stream string, n int) *call {
	c := &call{stream: stream, seqs: make([]uint64, n), wake: make(chan struct{}, 1)}
	p.mu.Lock()
	p.last++
	c.number = p.last
	p.calls[c.number] = c
	p.mu.Unlock()
	c.reply = p.inbox + strconv.FormatUint(c.number, 36)
	return c
}

func (p *pending) end(c *call) {
	p.mu.Lock()
	delete(p.calls, c.number)
	p.mu.Unlock()
}

// lost puts everything on its way in doubt.
func (p *pending) lost(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		c.mu.Lock()
		if c.doubt == nil {
			c.doubt = why
		}
		c.signal()
		c.mu.Unlock()
	}
}

// moved tells the calls on their way to a stream that it has a new leader.
func (p *pending) moved(stream string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c.stream == stream {
			c.mu.Lock()
			c.moved = true
			c.signal()
			c.mu.Unlock()
		}
	}
}

// ack takes one acknowledgement.
func (p *pending) ack(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[len(p.inbox):], 36, 64)
	if err != nil {
		return // none of ours
	}
	p.mu.Lock()
	c := p.calls[number]
	p.mu.Unlock()
	if c == nil {
		return // its writer gave up
	}
	seq, err := parseAck(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == len(c.seqs) {
		return
	}
	if err == nil {
		c.seqs[c.got] = seq
	} else if c.err == nil {
		c.err = err
	}
	c.got++
	if c.wanted > 0 && (c.got >= c.wanted || c.err != nil) {
		c.signal()
	}
}

// signal wakes the writer. c.mu is held.
func (c *call) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// movedGrace is how long a new leader leaves the acknowledgements of the one before: those that are on their way are there sooner.
const movedGrace = 300 * time.Millisecond

// wait returns when n answers have come, one was a refusal, nobody will answer, or no answer has come for
// timeout, or for movedGrace after the stream got a new leader. It returns why it is in doubt, or nil.
func (c *call) wait(ctx context.Context, n int, timeout time.Duration, despite bool) error {
	var timer *time.Timer
	seen := -1
	for {
		c.mu.Lock()
		got, doubt := c.got, c.doubt
		moved := c.moved
		done := got >= n || c.err != nil && !despite
		c.wanted = n
		if done || doubt != nil {
			c.wanted = 0
		}
		c.mu.Unlock()
		if done {
			return nil
		}
		if doubt != nil {
			return doubt
		}
		if moved && timeout > movedGrace {
			timeout, seen = movedGrace, -1
		}
		switch {
		case timer == nil:
			timer = time.NewTimer(timeout)
			defer timer.Stop()
		case got != seen:
			timer.Reset(timeout)
		}
		seen = got
		select {
		case <-c.wake:
		case <-timer.C:
			if moved {
				return errors.New("the stream has another leader, and no acknowledgement has come")
			}
			return fmt.Errorf("no acknowledgement for %s", timeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var (
	ackSeq   = []byte(`"seq":`)
	ackError = []byte(`"error":`)
)

// parseAck reads an acknowledgement: {"stream":"S", "seq":7}, or one with an error.
func parseAck(m *nats.Msg) (uint64, error) {
	if len(m.Data) == 0 {
		switch m.Header.Get("Status") {
		case "":
			return 1, nil // a batch is open
		case "503":
			return 0, errNoAnswerer
		}
		return 0, fmt.Errorf("empty acknowledgement %v", m.Header)
	}
	if !bytes.Contains(m.Data, ackError) {
		if i := bytes.Index(m.Data, ackSeq); i >= 0 {
			if seq, ok := number(m.Data[i+len(ackSeq):]); ok && seq > 0 {
				return seq, nil
			}
		}
	}
	var a struct {
		Seq   uint64    `json:"seq"`
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return 0, fmt.Errorf("acknowledgement %q: %w", m.Data, err)
	}
	if a.Error != nil {
		return 0, a.Error
	}
	if a.Seq == 0 {
		return 0, fmt.Errorf("acknowledgement %q names no sequence", m.Data)
	}
	return a.Seq, nil
}

// number reads decimal digits.
func number(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		if c == ' ' && !ok {
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		n, ok = n*10+uint64(c-'0'), true
	}
	return n, ok
}

// outgoing writes messages for nats.go. It keeps one message and its header map for all of them: where a message
// has the same header names as the one before, only the values change.
type outgoing struct {
	msg   nats.Msg
	slots [12]slot
	n     int  // slots that are in the map
	at    int  // slots that the message in work has filled
	mixed bool // the map holds values that are in no slot

	sequence uint64 // what expect says
	expect   string
}

type slot struct {
	name  string
	value [1]string
}

// begin starts the next message.
func (o *outgoing) begin(m *transport.Outgoing, reply string) {
	o.msg.Subject, o.msg.Reply, o.msg.Data = m.Subject, reply, m.Data
	if o.msg.Header == nil {
		o.msg.Header = make(nats.Header, 4)
	}
	if o.mixed {
		clear(o.msg.Header)
		o.n, o.mixed = 0, false
	}
	o.at = 0
	for i := range m.Header {
		o.put(m.Header[i].Name, m.Header[i].Value)
	}
}

// put adds a header.
func (o *outgoing) put(name, value string) {
	if o.at < o.n && o.slots[o.at].name == name {
		o.slots[o.at].value[0] = value
		o.at++
		return
	}
	o.forget()
	if have, ok := o.msg.Header[name]; ok || o.n == len(o.slots) {
		o.msg.Header[name] = append(have, value)
		o.mixed = true
		return
	}
	s := &o.slots[o.n]
	s.name, s.value[0] = name, value
	o.msg.Header[name] = s.value[:]
	o.n++
	o.at++
}

// forget drops what is left of the message before.
func (o *outgoing) forget() {
	for ; o.n > o.at; o.n-- {
		delete(o.msg.Header, o.slots[o.n-1].name)
	}
}

// fence adds an expectation.
func (o *outgoing) fence(e *transport.Expect) {
	if o.expect == "" || o.sequence != e.Sequence {
		o.sequence, o.expect = e.Sequence, strconv.FormatUint(e.Sequence, 10)
	}
	o.put(hdrExpectSequence, o.expect)
	if e.Subject != "" {
		o.put(hdrExpectSubject, e.Subject)
	}
}

// send publishes the message in work.
func (o *outgoing) send(nc *nats.Conn) error {
	o.forget()
	return nc.PublishMsg(&o.msg)
}

// Append implements transport.Streams.
func (t *Streams) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	return t.AppendAll(ctx, stream, []transport.Outgoing{m})
}

// Publish implements transport.Streams.
func (t *Streams) Publish(ctx context.Context, stream string, ms []transport.Outgoing) ([]uint64, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	if len(ms) == 1 {
		seq, err := t.Append(ctx, stream, ms[0])
		if err != nil {
			return nil, err
		}
		return []uint64{seq}, nil
	}
	k, err := t.kind(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	switch {
	case !k.atomic && (k.replicated || k.bounded):
		return t.singles(ctx, stream, ms, 1)
	case !k.atomic || !t.opt.SyncAlways && !k.replicated && !k.bounded:
		return t.singles(ctx, stream, ms, t.opt.Window)
	}
	// One sync covers a batch. Where there are replicas, fenced messages are not taken singly while others are
	// on their way; where there are limits, none may get in behind one that was refused.
	stored := make([]uint64, 0, len(ms))
	for len(ms) > 0 {
		n, bytes := 0, 0
		for n < len(ms) && n < maxBatch && (n == 0 || bytes+len(ms[n].Data) <= batchBytes) {
			bytes += len(ms[n].Data)
			n++
		}
		last, err := t.AppendAll(ctx, stream, ms[:n])
		var refused *apiError
		switch {
		case err == nil:
			for i := range n {
				stored = append(stored, last-uint64(n-1-i)) // a batch is stored without anything in between
			}
		case errors.As(err, &refused) && (refused.ErrCode == codeBatchDuplicate || refused.ErrCode == codeBatchDisabled):
			// Some are stored already, which only single messages are told. Or the stream was replaced.
			seqs, err := t.singles(ctx, stream, ms[:n], 1)
			stored = append(stored, seqs...)
			if err != nil {
				return stored, err
			}
		default:
			return stored, err
		}
		ms = ms[n:]
	}
	return stored, nil
}

// singles publishes messages one after another, each for itself, at most window of them on their way.
func (t *Streams) singles(ctx context.Context, stream string, ms []transport.Outgoing, window int) ([]uint64, error) {
	if err := t.fit(stream, ms); err != nil {
		return nil, err
	}
	if err := t.c.free.check(t.c.server); err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	var stored []uint64
	give := time.Now().Add(writeBudget)
	for attempt := 1; ; attempt++ {
		seqs, err := t.pipeline(ctx, stream, ms[len(stored):], window)
		if stored == nil {
			stored = seqs
		} else {
			stored = append(stored, seqs...)
		}
		if err == nil {
			return stored, nil
		}
		if again, err := t.again(ctx, stream, err, attempt, give); !again {
			return stored, fmt.Errorf("stream %s: %w", stream, err)
		}
	}
}

// again waits before the next attempt of a write that was certainly not stored, and tells whether to make it;
// if not, with the error to return.
func (t *Streams) again(ctx context.Context, stream string, err error, attempt int, give time.Time) (bool, error) {
	var refused *apiError
	switch {
	case errors.Is(err, transport.ErrDoubt):
		return false, err
	case errors.Is(err, errNoAnswerer):
		if attempt == 1 { // it may have no leader just now; or it is not there
			if _, missing := t.info(ctx, stream); errors.Is(missing, transport.ErrNotFound) {
				return false, missing
			}
		}
	case errors.As(err, &refused) && refused.passing(), errors.Is(err, nats.ErrReconnectBufExceeded):
	default:
		return false, err
	}
	if time.Now().After(give) {
		return false, fmt.Errorf("tried for %s: %w", writeBudget, err)
	}
	if sleep(ctx, backoff(attempt, 5*time.Millisecond, writeBackoff)) != nil {
		return false, fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return true, nil
}

// pipeline sends messages and waits for all answers. It returns the sequences of the leading ones that are
// stored. Its error wraps ErrDoubt unless nothing behind these is stored.
func (t *Streams) pipeline(ctx context.Context, stream string, ms []transport.Outgoing, window int) ([]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := t.c.acks.begin(stream, len(ms))
	defer t.c.acks.end(c)
	var (
		o    outgoing
		sent int
		stop error // why no more were sent
	)
	for sent < len(ms) {
		if sent >= window {
			// Wake at half a window, so that one wakes the other once for many messages.
			if stop = c.wait(ctx, sent-window/2, t.opt.AckTimeout, false); stop != nil {
				break
			}
		}
		if c.stopped() {
			break
		}
		m := &ms[sent]
		o.begin(m, c.reply)
		if m.Expect != nil {
			o.fence(m.Expect)
		}
		if err := o.send(t.c.out); err != nil {
			stop = err
			break
		}
		sent++
	}
	doubt := c.wait(ctx, sent, t.opt.AckTimeout, true)

	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0 // all up to n are stored
	for n < sent && c.seqs[n] != 0 {
		n++
	}
	stored := c.seqs[:n:n]
	err := c.err
	if err == nil {
		err = stop
	}
	if doubt != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrDoubt, doubt)
	}
	for i := n; i < sent; i++ {
		if c.seqs[i] != 0 { // a later one got in although this one did not
			return stored, fmt.Errorf("%w: message %d of %d was refused (%v), %d was stored", transport.ErrDoubt, n+1, len(ms), err, i+1)
		}
	}
	return stored, err
}

func (c *call) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil || c.doubt != nil
}

// fit refuses what no server would take.
func (t *Streams) fit(stream string, ms []transport.Outgoing) error {
	most := t.MaxMessage()
	for i := range ms {
		m := &ms[i]
		n := len(m.Data)
		for _, f := range m.Header {
			n += len(f.Name) + len(f.Value) + 4
		}
		if n > most {
			return transport.Refused(transport.ErrTooLarge, "stream %s: message of %d bytes on %s, at most %d", stream, n, m.Subject, most)
		}
	}
	return nil
}

// AppendAll implements transport.Streams.
func (t *Streams) AppendAll(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	switch {
	case len(ms) == 0:
		return 0, fmt.Errorf("stream %s: nothing to append", stream)
	case len(ms) > maxBatch:
		return 0, transport.Refused(transport.ErrTooLarge, "stream %s: %d messages at once, at most %d", stream, len(ms), maxBatch)
	}
	alone := func() (uint64, error) { return t.appendAlone(ctx, stream, ms) }
	if t.combines(ctx, stream, ms) {
		return t.together(ctx, stream, ms, alone)
	}
	return alone()
}

// appendAlone is AppendAll without other writers' messages.
func (t *Streams) appendAlone(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	if len(ms) == 1 {
		seqs, err := t.singles(ctx, stream, ms, 1)
		if err != nil {
			return 0, err
		}
		return seqs[0], nil
	}
	if err := t.fit(stream, ms); err != nil {
		return 0, err
	}
	if err := t.c.free.check(t.c.server); err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	give := time.Now().Add(writeBudget)
	for attempt := 1; ; attempt++ {
		last, err := t.batch(ctx, stream, ms)
		if err == nil {
			return last, nil
		}
		if again, err := t.again(ctx, stream, err, attempt, give); !again {
			return 0, fmt.Errorf("stream %s: %w", stream, err)
		}
	}
}

// batch sends one atomic batch. The first message and the last ask for an answer: the first one's says that
// the batch is open.
func (t *Streams) batch(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	c := t.c.acks.begin(stream, 2)
	defer t.c.acks.end(c)
	id := t.c.name + "-" + strconv.FormatUint(c.number, 36)
	var o outgoing
	said := make(map[transport.Expect]bool, 4)
	for i := range ms {
		m := &ms[i]
		reply := ""
		if i == 0 || i == len(ms)-1 {
			reply = c.reply
		}
		o.begin(m, reply)
		if m.Expect != nil {
			e := *m.Expect
			if e.Subject == "" {
				e.Subject = m.Subject
			}
			if !said[e] { // once is enough: all are judged against what was there before
				said[e] = true
				o.fence(&e)
			}
		}
		o.put(hdrBatchID, id)
		o.put(hdrBatchSequence, strconv.Itoa(i+1))
		if i == len(ms)-1 {
			o.put(hdrBatchCommit, "1")
		}
		if err := o.send(t.c.out); err != nil {
			if i < len(ms)-1 {
				return 0, err // the commit was not sent: nothing is stored, now or later
			}
			return 0, fmt.Errorf("%w: %w", transport.ErrDoubt, err)
		}
		if i%64 == 63 && c.stopped() {
			break
		}
	}
	doubt := c.wait(ctx, 2, t.opt.AckTimeout, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.seqs[1] != 0:
		return c.seqs[1], nil
	case c.err != nil:
		return 0, c.err
	case doubt != nil:
		return 0, fmt.Errorf("%w: %w", transport.ErrDoubt, doubt)
	}
	return 0, fmt.Errorf("%w: the acknowledgement names no sequence", transport.ErrDoubt)
}
