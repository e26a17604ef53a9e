package nats

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
)

// A pull request waits this long for messages; what it cost an idle stream is one request in that time.
const pullExpires = 2 * time.Minute

// inactive is how long the server keeps a consumer that nobody asks.
const inactive = 5 * time.Minute

var errReaderClosed = errors.New("the reader is closed")

// reader reads one stream. One goroutine calls Next, which also opens the consumer again; messages arrive on
// the goroutine of the subscription.
type reader struct {
	t      *Streams
	stream string
	opt    transport.ReadOptions

	mu       sync.Mutex
	run      *run // the consumer in use; nil while there is none
	buf      []transport.Message
	bytes    int
	next     uint64 // the stream sequence to go on from
	begun    bool   // next is behind a message that was read, not where the caller wanted to begin
	jump     uint64 // the first missing sequence that is to be looked into; 0: none
	broken   string // why the consumer is to be opened again
	err      error  // what ended it
	closed   bool
	wake     chan struct{}
	activity atomic.Int64 // when something arrived, in ns

	created time.Time // the stream's
	out     []transport.Message
	timer   *time.Timer
}

// run is one consumer with its subscription.
type run struct {
	name  string
	host  string // the server that the consumer lives on; "" where it is the only one
	inbox string
	sub   *nats.Subscription
	pull  string // the subject that pull requests go to
	seq   uint64 // the consumer sequence of the last message
	asked int    // messages that were asked for and have not come

	opened time.Time
	heard  bool // it has answered a request
}

// Another server than the one that made a consumer may not know of it yet: then a request is made again after unheardAgain, for unheard at most.
const (
	unheard      = 2 * time.Second
	unheardAgain = 10 * time.Millisecond
)

// Read implements transport.Streams.
func (t *Streams) Read(ctx context.Context, stream string, opt transport.ReadOptions) (transport.Reader, error) {
	opt.Subjects = slices.Clone(opt.Subjects)
	r := &reader{t: t, stream: stream, opt: opt, next: max(opt.From, 1), wake: make(chan struct{}, 1)}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	t.c.mu.Lock()
	closed := t.c.closed
	if !closed {
		t.c.readers[r] = struct{}{}
	}
	t.c.mu.Unlock()
	if closed {
		r.Close()
		return nil, errConnClosed
	}
	return r, nil
}

// open makes a consumer that begins at r.next. Only Read and Next call it.
func (r *reader) open(ctx context.Context) error {
	r.drop()
	next, err := r.start(ctx)
	if err != nil {
		return err
	}

	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	u := &run{name: "kisflow-" + hex.EncodeToString(id[:]), inbox: r.t.c.in.NewInbox()}
	u.pull = "$JS.API.CONSUMER.MSG.NEXT." + r.stream + "." + u.name
	config := map[string]any{
		"name": u.name, "deliver_policy": "by_start_sequence", "opt_start_seq": next, "ack_policy": "none",
		"replay_policy": "instant", "inactive_threshold": int64(inactive), "num_replicas": 1, "mem_storage": true,
		"headers_only": r.opt.HeadersOnly, "max_deliver": -1,
	}
	subject := "CONSUMER.CREATE." + r.stream + "." + u.name
	switch len(r.opt.Subjects) {
	case 0:
	case 1:
		config["filter_subject"] = r.opt.Subjects[0]
		subject += "." + r.opt.Subjects[0]
	default:
		config["filter_subjects"] = r.opt.Subjects
	}
	if u.sub, err = r.t.c.in.Subscribe(u.inbox, func(m *nats.Msg) { r.handle(u, m) }); err != nil {
		return fmt.Errorf("read stream %s: %w", r.stream, err)
	}
	_ = u.sub.SetPendingLimits(-1, -1) // bounded by what is asked for
	request := map[string]any{"stream_name": r.stream, "config": config, "action": "create"}
	var made struct {
		Cluster struct {
			Leader string `json:"leader"`
		} `json:"cluster"`
	}
	if err := r.t.c.api(ctx, subject, request, &made); err != nil {
		_ = u.sub.Unsubscribe() // the next attempt makes another
		return fmt.Errorf("read stream %s: %w", r.stream, err)
	}
	u.host, u.opened = made.Cluster.Leader, time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run, r.broken = u, ""
	r.activity.Store(time.Now().UnixNano())
	r.ask()
	return nil
}

// applyPatience is how long a leader may take to apply what a replica of its has delivered already.
const applyPatience = 5 * time.Second

// start returns the sequence to go on from, and refuses a stream that does not hold it any more.
func (r *reader) start(ctx context.Context) (uint64, error) {
	patience := time.Now().Add(applyPatience)
	for attempt := 1; ; attempt++ {
		info, err := r.t.info(ctx, r.stream)
		if err != nil {
			return 0, fmt.Errorf("read stream %s: %w", r.stream, err)
		}
		if r.created.IsZero() {
			r.created = info.Created
		}
		if !info.Created.Equal(r.created) {
			return 0, transport.Refused(transport.ErrNotFound, "read stream %s: it was replaced by another of that name at %s", r.stream, info.Created.Format(time.RFC3339))
		}
		first, last := info.info().First, info.State.Last
		r.mu.Lock()
		if !r.begun && r.opt.From <= 1 {
			r.next = max(r.next, first) // the consumer may be on a replica that still has what was cut
		}
		next, begun := r.next, r.begun
		r.mu.Unlock()
		switch {
		case !begun && r.opt.From <= 1 || r.opt.Holes:
		case next > last+1:
			// A replica may be ahead of its leader by what both are about to apply.
			if info.Config.Replicas > 1 && time.Now().Before(patience) && sleep(ctx, backoff(attempt, 10*time.Millisecond, 200*time.Millisecond)) == nil {
				continue
			}
			return 0, transport.Refused(transport.ErrGap, "read stream %s: it ends at %d, before %d", r.stream, last, next)
		case first > next && len(r.opt.Subjects) == 0:
			return 0, transport.Refused(transport.ErrGap, "read stream %s: it begins at %d, after %d", r.stream, first, next)
		}
		return next, nil
	}
}

// drop lets go of the consumer.
func (r *reader) drop() {
	r.mu.Lock()
	u := r.run
	r.run = nil
	r.mu.Unlock()
	if u != nil {
		_ = u.sub.Unsubscribe()                                                   // an error means that the connection is closed
		_ = r.t.c.in.Publish("$JS.API.CONSUMER.DELETE."+r.stream+"."+u.name, nil) // or it goes when it is inactive for long
	}
}

// ask sends a pull request if there is room. r.mu is held.
func (r *reader) ask() {
	u := r.run
	n := r.t.opt.PullMessages
	if u == nil || r.broken != "" || u.asked > n/2 || len(r.buf) >= n || r.bytes >= r.t.opt.PullBytes {
		return
	}
	body := make([]byte, 0, 96)
	body = append(body, `{"batch":`...)
	body = strconv.AppendInt(body, int64(n), 10)
	body = append(body, `,"max_bytes":`...)
	body = strconv.AppendInt(body, int64(r.t.opt.PullBytes), 10)
	body = append(body, `,"expires":`...)
	body = strconv.AppendInt(body, int64(pullExpires), 10)
	body = append(body, `,"idle_heartbeat":`...)
	body = strconv.AppendInt(body, int64(r.t.opt.Heartbeat), 10)
	body = append(body, '}')
	if err := r.t.c.in.PublishRequest(u.pull, u.inbox, body); err != nil {
		r.loseLocked("ask: " + err.Error())
		return
	}
	u.asked += n
}

// lose makes Next open the consumer again.
func (r *reader) lose(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loseLocked(why)
}

func (r *reader) loseLocked(why string) {
	if r.broken == "" {
		r.broken = why
	}
	r.signal()
}

// leave starts again if the consumer was on a server that is gone.
func (r *reader) leave(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run != nil && r.run.host == host {
		r.loseLocked("the consumer's server " + host + " is gone")
	}
}

func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.signal()
}

// signal wakes Next. r.mu is held.
func (r *reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// handle takes what arrives for one consumer.
func (r *reader) handle(u *run, m *nats.Msg) {
	a, isMessage := parseReply(m.Reply)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run != u || r.broken != "" || r.closed {
		return
	}
	if !isMessage {
		r.activity.Store(time.Now().UnixNano())
		r.status(u, m)
		return
	}
	if a.consumer != u.seq+1 {
		r.loseLocked(fmt.Sprintf("message %d of the consumer followed %d", a.consumer, u.seq))
		return
	}
	u.seq++
	u.asked--
	if a.stream > r.next && len(r.opt.Subjects) == 0 && !r.opt.Holes && r.jump == 0 && (r.begun || r.opt.From > 1) {
		r.jump = r.next
	}
	msg := transport.Message{Subject: m.Subject, Sequence: a.stream, Time: time.Unix(0, a.time).UTC(), Data: m.Data}
	if len(m.Header) > 0 {
		msg.Header = fields(m.Header)
	}
	r.next, r.begun = a.stream+1, true
	r.buf = append(r.buf, msg)
	r.bytes += len(m.Data)
	if len(r.buf) == 1 {
		r.activity.Store(time.Now().UnixNano())
		r.signal()
	}
	r.ask()
}

// status takes a message that is about a pull request. r.mu is held.
func (r *reader) status(u *run, m *nats.Msg) {
	defer func() { u.heard = u.heard || m.Header.Get("Status") != "503" }()
	switch code, text := m.Header.Get("Status"), m.Header.Get("Description"); {
	case code == "100": // a heartbeat
	case code == "503" && u.seq == 0 && !u.heard && time.Since(u.opened) < unheard:
		// The consumer is new, and that it is there has not come around yet to the server that we are connected to.
		time.AfterFunc(unheardAgain, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.run == u {
				u.asked = 0
				r.ask()
			}
		})
	case code == "408", code == "409" && (strings.Contains(text, "MaxBytes") || text == "Batch Completed"): // the request is over
		n, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			r.loseLocked("a pull request ended: " + text)
			return
		}
		u.asked -= n
		r.ask()
	default: // the consumer or its server is gone
		if text == "" {
			text = "no answer to a pull request"
		}
		r.loseLocked(code + " " + text)
	}
}

// Next implements transport.Reader.
func (r *reader) Next(ctx context.Context, max int) ([]transport.Message, error) {
	if max <= 0 {
		return nil, errors.New("next: max must be above zero")
	}
	for attempt := 0; ; {
		r.mu.Lock()
		if r.jump != 0 && r.err == nil {
			jump := r.jump
			r.mu.Unlock()
			if err := r.look(ctx, jump); err != nil {
				return nil, err
			}
			continue
		}
		if len(r.buf) > 0 && !r.closed {
			r.take(max)
			r.mu.Unlock()
			return r.out, nil
		}
		err, broken := r.err, r.broken
		if r.closed {
			err = errReaderClosed
		}
		r.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if broken != "" {
			if attempt > 0 {
				if err := sleep(ctx, backoff(attempt, 20*time.Millisecond, time.Second)); err != nil {
					return nil, err
				}
			}
			attempt++
			r.t.c.log.Debug("reader starts again", "stream", r.stream, "reason", broken)
			if err := r.open(ctx); err != nil {
				if errors.Is(err, transport.ErrNotFound) || errors.Is(err, transport.ErrGap) || ctx.Err() != nil || errors.Is(err, nats.ErrConnectionClosed) {
					r.fail(err)
					return nil, err
				}
				r.t.c.log.Warn("reader cannot start again", "stream", r.stream, "reason", broken, "error", err)
			}
			continue
		}
		if err := r.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait returns when something may have changed.
func (r *reader) wait(ctx context.Context) error {
	silence := r.t.opt.Heartbeat * 5 / 2
	if r.timer == nil {
		r.timer = time.NewTimer(silence)
	} else {
		r.timer.Reset(silence)
	}
	defer r.timer.Stop()
	select {
	case <-r.wake:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.timer.C:
		if time.Since(time.Unix(0, r.activity.Load())) >= silence {
			r.lose("no heartbeat for " + silence.String())
		}
	}
	return nil
}

// take moves up to max messages from r.buf to r.out. r.mu is held.
func (r *reader) take(max int) {
	if len(r.buf) <= max {
		clear(r.out)
		r.buf, r.out = r.out[:0], r.buf
		r.bytes = 0
	} else {
		r.out = append(r.out[:0], r.buf[:max]...)
		n := copy(r.buf, r.buf[max:])
		clear(r.buf[n:])
		r.buf = r.buf[:n]
		for i := range r.out {
			r.bytes -= len(r.out[i].Data)
		}
	}
	r.ask()
}

// look finds out why the sequence missing was not delivered: removed from within the stream, which is
// all right, or with everything before it, unread, which is not.
func (r *reader) look(ctx context.Context, missing uint64) error {
	info, err := r.t.info(ctx, r.stream)
	if err != nil && !errors.Is(err, transport.ErrNotFound) {
		return fmt.Errorf("read stream %s: %w", r.stream, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jump = 0
	if err != nil || info.info().First <= missing {
		return nil // what is gone shows itself when the consumer is opened again
	}
	n, _ := slices.BinarySearchFunc(r.buf, missing, func(m transport.Message, seq uint64) int {
		if m.Sequence < seq {
			return -1
		}
		return 1
	})
	r.buf = r.buf[:n] // what came before it is still good
	r.err = transport.Refused(transport.ErrGap, "read stream %s: it begins at %d, after %d", r.stream, info.info().First, missing)
	return nil
}

// Close implements transport.Reader.
func (r *reader) Close() {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.buf = nil
	r.signal()
	r.mu.Unlock()
	if closed {
		return
	}
	r.t.c.mu.Lock()
	delete(r.t.c.readers, r)
	r.t.c.mu.Unlock()
	r.drop()
}

// origin is what a delivered message's reply subject tells.
type origin struct {
	stream, consumer uint64 // sequences
	time             int64  // ns
}

// parseReply reads $JS.ACK.STREAM.CONSUMER.DELIVERED.STREAMSEQ.CONSUMERSEQ.TIME.PENDING, or the longer form
// that begins with $JS.ACK.DOMAIN.ACCOUNT.STREAM, without allocating.
func parseReply(reply string) (o origin, ok bool) {
	const prefix = "$JS.ACK."
	if !strings.HasPrefix(reply, prefix) {
		return origin{}, false
	}
	var starts [12]int // of the tokens behind the prefix
	starts[0] = len(prefix)
	n := 1
	for i := len(prefix); i < len(reply) && n < len(starts); i++ {
		if reply[i] == '.' {
			starts[n] = i + 1
			n++
		}
	}
	at := 3 // the stream sequence's token
	switch {
	case n == 7:
	case n >= 9:
		at = 5
	default:
		return origin{}, false
	}
	o.stream = digits(reply[starts[at]:])
	o.consumer = digits(reply[starts[at+1]:])
	o.time = int64(digits(reply[starts[at+2]:]))
	return o, o.stream != 0 && o.consumer != 0
}

// digits reads a number up to the first byte that is no digit.
func digits(s string) (n uint64) {
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		n = n*10 + uint64(s[i]-'0')
	}
	return n
}
