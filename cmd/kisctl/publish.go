package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

// publication is one run of publish: its flags, then its course.
type publication struct {
	app *app

	subject, flow, file, nats, id string
	packing                       packing
	window                        int
	giveUp                        time.Duration
	progress                      bool

	began time.Time
	shown time.Time
	sum   published
}

// published is the result, for people and programs.
type published struct {
	Subject   string  `json:"subject"`
	Flow      string  `json:"flow,omitempty"`
	Stream    string  `json:"stream"`
	Sequence  uint64  `json:"sequence"` // of the newest message that was acknowledged
	Events    int     `json:"events"`   // acknowledged
	Messages  int     `json:"messages"`
	Bytes     int64   `json:"bytes"`
	Repeats   int     `json:"repeats"` // messages that the stream had already
	Failed    int     `json:"failed"`  // events that were not acknowledged
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
}

func newPublish(a *app) *cobra.Command {
	p := &publication{app: a}
	cmd := &cobra.Command{
		Use:   "publish SUBJECT",
		Short: "Publish events, one a line, and wait until the stream has them",
		Long: `publish reads events, one a line, from a file or standard input and stores them in the stream that captures the
subject (or, with --flow NAME in place of the subject, at that flow's entry). It ends when the stream has
acknowledged all of them, and with 1, saying how many are missing, when it did not.

Lines are packed, many into one message; a line that does not go from { to } travels alone, and what is wrong
with a line is for the flow to say. What is not acknowledged is sent
again under the same Nats-Msg-Id, in order, so nothing is stored twice within the stream's duplicate window. With
--id a whole run over the same file may be repeated within that window.`,
		Example: "  kisctl publish orders.eu -f orders.jsonl\n  generate | kisctl publish --flow OrderTotals",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.subject = strings.Join(args, "")
			return p.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&p.file, "file", "f", "-", "read `FILE`, or - for standard input")
	f.StringVar(&p.flow, "flow", "", "publish to the entry of flow `NAME`")
	f.IntVar(&p.packing.lines, "pack", 100, "at most `N` events in a message; 1: each in its own")
	f.IntVar(&p.packing.bytes, "pack-bytes", 64<<10, "a message is full with `N` bytes")
	f.DurationVar(&p.packing.linger, "linger", 5*time.Millisecond, "how long an event from a pipe waits for others to go with it")
	f.BoolVar(&p.packing.whole, "whole", false, "all input is one message, for an event over several lines")
	f.StringVar(&p.id, "id", "", "begin the messages' Nats-Msg-Ids with `TEXT` in place of a random one")
	f.IntVar(&p.window, "window", 512, "at most `N` messages on their way")
	f.DurationVar(&p.giveUp, "give-up", time.Minute, "end when nothing was acknowledged for so long")
	f.BoolVar(&p.progress, "progress", false, "show progress even if standard error is no terminal")
	f.StringVar(&p.nats, "nats", os.Getenv(envNATS), "`URL` of the NATS server, in place of what the node says; the variable "+envNATS+" sets it too")
	f.Lookup("nats").DefValue = ""
	return cmd
}

func (p *publication) check() error {
	switch {
	case (p.subject == "") == (p.flow == ""):
		return usagef("publish to what? name a subject, or a flow with --flow NAME")
	case p.packing.lines < 1:
		return usagef("--pack is %d; it must be at least 1", p.packing.lines)
	case p.packing.bytes < 1:
		return usagef("--pack-bytes is %d; it must be at least 1", p.packing.bytes)
	case p.packing.linger < 0:
		return usagef("--linger is %s; it must not be negative", p.packing.linger)
	case p.window < 1 || p.window > 1<<16:
		return usagef("--window is %d; it must be 1 to %d", p.window, 1<<16)
	case p.giveUp <= 0:
		return usagef("--give-up is %s; it must be above zero", p.giveUp)
	case strings.ContainsAny(p.id, "\r\n"):
		return usagef("--id has a line break in it")
	}
	if p.subject != "" {
		if err := checkSubject(p.subject, false); err != nil {
			return usagef("%v", err)
		}
	}
	return nil
}

func (p *publication) run(ctx context.Context) error {
	if err := p.check(); err != nil {
		return err
	}
	in, isFile := p.app.in, false
	if p.file != "-" {
		f, err := os.Open(p.file)
		if err != nil {
			return fileError(p.file, err)
		}
		defer f.Close()
		in, isFile = f, true
	}
	if isFile {
		p.packing.linger = 0 // a file does not wait, so the same file always makes the same messages
	}
	if p.id == "" {
		p.id = nuid.Next()
	}
	p.sum.Flow = p.flow
	if p.flow != "" {
		f, err := ask(ctx, p.app, func(ctx context.Context, c *api.Client) (api.Flow, error) { return c.Flow(ctx, p.flow) })
		if err != nil {
			return err
		}
		p.subject = f.PublishSubject
	}
	p.progress = p.progress || isTerminal(p.app.errs)

	address, err := "", error(nil)
	if p.subject != "" {
		if address, err = p.app.natsURL(ctx, p.nats); err != nil {
			return err
		}
	}
	var to carrier = &apiCarrier{p: p}
	if address != "" {
		direct := &natsCarrier{p: p, address: address}
		if err := direct.connect(ctx); err != nil {
			if p.nats != "" || !errors.Is(err, api.ErrUnreachable) {
				return err
			}
		} else {
			defer direct.close()
			to = direct
		}
	}
	return p.carry(ctx, to, in)
}

// carrier brings packs to a stream. run returns when in is closed and all is acknowledged, or when it gives
// up; what it knows is in publication.sum.
type carrier interface {
	max() int // most bytes of a message
	run(ctx context.Context, in <-chan pack) error
}

// carry reads, sends and reports.
func (p *publication) carry(ctx context.Context, to carrier, r io.Reader) error {
	p.packing.max = to.max()
	if p.packing.whole {
		p.packing.lines, p.packing.linger = 1, 0
	}
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	packs := make(chan pack, 16)
	type result struct {
		packed
		err error
	}
	read := make(chan result, 1)
	go func() {
		n, err := p.packing.read(reading, r, packs)
		read <- result{n, err}
	}()
	p.began = time.Now()
	err := to.run(ctx, packs)
	stopReading()
	for pk := range packs { // read, and not taken any more
		p.sum.Failed += pk.events
	}
	input := <-read
	p.sum.Failed += input.tooLong
	p.sum.Subject = p.subject
	p.sum.Seconds = time.Since(p.began).Seconds()
	if p.sum.Seconds > 0 {
		p.sum.PerSecond = float64(p.sum.Events) / p.sum.Seconds
	}
	p.show(true)
	if e := p.report(); e != nil {
		return e
	}
	switch {
	case err != nil:
		return p.missing(err)
	case ctx.Err() != nil:
		return p.missing(errors.New("interrupted"))
	case input.err != nil:
		return p.missing(input.err)
	case input.tooLong > 0:
		return p.missing(fmt.Errorf("line %d and %s in all are longer than the %d bytes that a message may have",
			input.firstLong, count(input.tooLong, "line"), p.packing.max))
	}
	return nil
}

// missing is err with how many events are acknowledged and how many of those read are not.
func (p *publication) missing(err error) error {
	return fmt.Errorf("%s acknowledged, %d not: %w", count(p.sum.Events, "event"), p.sum.Failed, err)
}

func (p *publication) report() error {
	if p.app.json() {
		return p.app.printJSON(p.sum)
	}
	where := p.sum.Subject
	if where == "" {
		where = "flow " + p.flow
	}
	if p.sum.Stream != "" {
		where += fmt.Sprintf(" (stream %s, up to sequence %d)", p.sum.Stream, p.sum.Sequence)
	}
	repeats := ""
	if p.sum.Repeats > 0 {
		repeats = fmt.Sprintf(", %s of them there before", count(p.sum.Repeats, "message"))
	}
	_, err := fmt.Fprintf(p.app.out, "published %s in %s to %s%s: %s, %s events/s\n", count(p.sum.Events, "event"), count(p.sum.Messages, "message"),
		clean(where), repeats, span(p.sum.Seconds), number(uint64(p.sum.PerSecond)))
	return err
}

// show shows progress: on a terminal in place, else a line each second.
func (p *publication) show(last bool) {
	if !p.progress {
		return
	}
	now, terminal := time.Now(), isTerminal(p.app.errs)
	every := time.Second
	if terminal {
		every = 100 * time.Millisecond
	}
	if !last && now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	rate := float64(p.sum.Events) / max(now.Sub(p.began).Seconds(), 1e-3)
	line := fmt.Sprintf("%s acknowledged, %.0f/s", count(p.sum.Events, "event"), rate)
	switch {
	case terminal && last:
		fmt.Fprintf(p.app.errs, "\r\x1b[K")
	case terminal:
		fmt.Fprintf(p.app.errs, "\r\x1b[K%s", line)
	default:
		fmt.Fprintln(p.app.errs, line)
	}
}

// stored counts an acknowledged pack.
func (p *publication) stored(pk pack, sequence uint64, repeat bool) {
	p.sum.Events += pk.events
	p.sum.Messages++
	p.sum.Bytes += int64(len(pk.data))
	if repeat {
		p.sum.Repeats++
	}
	p.sum.Sequence = max(p.sum.Sequence, sequence)
	p.show(false)
}

// natsCarrier publishes to JetStream itself.
//
// The order of the input is the order in the stream: one connection keeps it, and a connection that breaks is
// not mended under our feet (the client library would send what follows before what was lost) but replaced,
// and all that is not acknowledged is sent again from the oldest on, under the same ids. Only where the stream
// refuses a single message for a while, as in a change of its leader, can a later one come before it.
type natsCarrier struct {
	p       *publication
	address string

	nc        *nats.Conn
	acks      chan *nats.Msg
	closed    chan struct{}
	inbox     string
	duplicate time.Duration // the stream's duplicate window
	maxBytes  int

	window []*sending // oldest first; the first one is not acknowledged
	base   uint64     // number of window[0]
	open   int        // of window, not acknowledged
	bytes  int        // of window
	reason string     // of the last refusal
	moved  time.Time  // when there was an acknowledgement last
}

type sending struct {
	pack
	first, last time.Time // sent
	done        bool
}

const (
	ackWait        = 5 * time.Second // then a message is sent again
	maxWindowBytes = 8 << 20
	redialWait     = 200 * time.Millisecond
	headerRoom     = 512 // bytes of a message for its headers
)

// connect connects and learns of the stream.
func (n *natsCarrier) connect(ctx context.Context) error {
	if err := n.dial(); err != nil {
		return err
	}
	fail := func(err error) error {
		n.close()
		return err
	}
	js, err := jetstream.New(n.nc)
	if err != nil {
		return fail(fmt.Errorf("nats %s: %w", redact(n.address), err))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	name, err := js.StreamNameBySubject(ctx, n.p.subject)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fail(fmt.Errorf("no stream stores subject %s; apply a flow with an entry for it first", n.p.subject))
	}
	if err != nil {
		return fail(fmt.Errorf("nats %s: stream of subject %s: %w", redact(n.address), n.p.subject, err))
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fail(fmt.Errorf("nats %s: stream %s: %w", redact(n.address), name, err))
	}
	c := stream.CachedInfo().Config
	n.p.sum.Stream, n.duplicate = name, c.Duplicates
	n.maxBytes = int(n.nc.MaxPayload()) - headerRoom
	if c.MaxMsgSize > 0 {
		n.maxBytes = min(n.maxBytes, int(c.MaxMsgSize)-headerRoom)
	}
	n.maxBytes = max(n.maxBytes, 1)
	return nil
}

func (n *natsCarrier) dial() error {
	closed := make(chan struct{})
	nc, err := dialNATS(n.address, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	acks := make(chan *nats.Msg, 2*n.p.window+64)
	inbox := nc.NewInbox()
	if _, err := nc.ChanSubscribe(inbox+".*", acks); err != nil {
		nc.Close()
		return fmt.Errorf("nats %s: subscribe: %w", redact(n.address), err)
	}
	n.nc, n.acks, n.closed, n.inbox = nc, acks, closed, inbox
	return nil
}

func (n *natsCarrier) close() {
	if n.nc != nil {
		n.nc.Close()
		n.nc = nil
	}
}

func (n *natsCarrier) max() int { return n.maxBytes }

func (n *natsCarrier) run(ctx context.Context, in <-chan pack) error {
	tick := time.NewTicker(redialWait)
	defer tick.Stop()
	n.moved = time.Now()
	stop, giveUp := ctx.Done(), n.p.giveUp
	for in != nil || n.open > 0 {
		take := in
		if n.nc == nil || len(n.window) >= n.p.window || n.bytes >= maxWindowBytes {
			take = nil
		}
		select {
		case pk, more := <-take:
			if !more {
				in = nil
				continue
			}
			if n.open == 0 {
				n.moved = time.Now() // until now there was nothing to wait for
			}
			n.window = append(n.window, &sending{pack: pk})
			n.open++
			n.bytes += len(pk.data)
			n.send(len(n.window) - 1)
		case m := <-n.acks:
			if err := n.ack(m); err != nil {
				return n.left(err)
			}
		case <-n.closed:
			n.close()
			n.closed, n.reason = nil, "the connection to "+redact(n.address)+" broke"
		case <-tick.C:
			if err := n.overdue(giveUp); err != nil {
				return n.left(err)
			}
		case <-stop: // take no more, and give what is on its way a last chance
			stop, in, giveUp = nil, nil, min(giveUp, ackWait)
		}
	}
	return nil
}

// send sends one message of the window. A connection that does not take it is closed, or will be.
func (n *natsCarrier) send(i int) {
	s := n.window[i]
	s.last = time.Now()
	if s.first.IsZero() {
		s.first = s.last
	}
	number := n.base + uint64(i)
	m := nats.NewMsg(n.p.subject)
	m.Reply = n.inbox + "." + strconv.FormatUint(number, 10)
	m.Header.Set(jetstream.MsgIDHeader, n.p.id+"-"+strconv.FormatUint(number+1, 10))
	m.Data = s.data
	if err := n.nc.PublishMsg(m); err != nil {
		n.reason = err.Error()
	}
}

// ack takes an answer of the stream.
func (n *natsCarrier) ack(m *nats.Msg) error {
	number, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	if err != nil || number < n.base || number >= n.base+uint64(len(n.window)) {
		return nil // of a repeat whose first answer came already
	}
	s := n.window[number-n.base]
	if s.done {
		return nil
	}
	var answer struct {
		Stream    string `json:"stream"`
		Sequence  uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"`
		Error     *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	switch {
	case m.Header.Get("Status") == "503":
		n.reason = "no stream takes subject " + n.p.subject
		return nil // it may come back; overdue sends again
	case json.Unmarshal(m.Data, &answer) != nil || answer.Error == nil && answer.Stream == "":
		return fmt.Errorf("subject %s: the answer is none of a stream: %q", n.p.subject, m.Data)
	case answer.Error != nil:
		n.reason = fmt.Sprintf("%s (%d)", answer.Error.Description, answer.Error.ErrCode)
		if answer.Error.Code >= 400 && answer.Error.Code < 500 {
			return errors.New(n.reason) // it will not change its mind
		}
		return nil
	}
	s.done, n.moved, n.reason = true, time.Now(), ""
	n.open--
	n.p.sum.Stream = answer.Stream
	n.p.stored(s.pack, answer.Sequence, answer.Duplicate)
	i := 0
	for i < len(n.window) && n.window[i].done {
		n.bytes -= len(n.window[i].data)
		n.window[i] = nil
		i++
	}
	n.window, n.base = n.window[i:], n.base+uint64(i)
	return nil
}

// overdue mends the connection, sends again what waits for too long, and says when to give up.
func (n *natsCarrier) overdue(giveUp time.Duration) error {
	n.p.show(false)
	now := time.Now()
	if n.open > 0 && now.Sub(n.moved) >= giveUp {
		return n.because("nothing was acknowledged for " + giveUp.String())
	}
	// Beyond the duplicate window a repeat would be stored a second time. Some of it is kept back for the way.
	if n.duplicate > 0 && n.open > 0 && !n.window[0].first.IsZero() && now.Sub(n.window[0].first) > n.duplicate-min(n.duplicate/4, 2*ackWait) {
		return n.because(fmt.Sprintf("the stream's duplicate window of %s is over, so sending again could store twice", n.duplicate))
	}
	if n.nc == nil {
		if err := n.dial(); err != nil {
			n.reason = err.Error()
			return nil
		}
		n.resend()
		return nil
	}
	if n.open > 0 && now.Sub(n.window[0].last) >= ackWait {
		n.resend()
	}
	return nil
}

func (n *natsCarrier) because(what string) error {
	if n.reason == "" {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %s", what, n.reason)
}

// resend sends all that is not acknowledged, oldest first.
func (n *natsCarrier) resend() {
	for i, s := range n.window {
		if !s.done {
			n.send(i)
		}
	}
}

// left counts what is not acknowledged.
func (n *natsCarrier) left(err error) error {
	for _, s := range n.window {
		if !s.done {
			n.p.sum.Failed += s.events
		}
	}
	return err
}

// apiCarrier publishes through the node's API: where its NATS cannot be reached from here, or a flow has no
// subject.
type apiCarrier struct {
	p      *publication
	number uint64
}

// max leaves room for the messages' form in a request of api.MaxBody, in which a byte may take several.
func (c *apiCarrier) max() int { return 1 << 20 }

const maxRequestBytes = 2 << 20

func (c *apiCarrier) run(ctx context.Context, in <-chan pack) error {
	for {
		first, more := <-in
		if !more {
			return nil
		}
		batch, bytes := []pack{first}, len(first.data)
	fill:
		for len(batch) < c.p.window && bytes < maxRequestBytes {
			select {
			case pk, more := <-in:
				if !more {
					break fill
				}
				batch, bytes = append(batch, pk), bytes+len(pk.data)
			default:
				break fill
			}
		}
		if err := c.send(ctx, batch); err != nil {
			for _, pk := range batch {
				c.p.sum.Failed += pk.events
			}
			return err
		}
	}
}

// send publishes a batch, again and again until it is acknowledged or given up.
func (c *apiCarrier) send(ctx context.Context, batch []pack) error {
	publication := api.Publication{Subject: c.p.subject}
	if c.p.flow != "" {
		publication.Flow, publication.Subject = c.p.flow, ""
	}
	for _, pk := range batch {
		c.number++
		publication.Messages = append(publication.Messages, api.PublishMessage{ID: c.p.id + "-" + strconv.FormatUint(c.number, 10), Data: pk.data})
	}
	for began, wait := time.Now(), redialWait; ; wait = min(2*wait, ackWait) {
		done, err := ask(ctx, c.p.app, func(ctx context.Context, client *api.Client) (api.Published, error) {
			return client.Publish(ctx, publication)
		})
		if err == nil && done.Stored < len(batch) {
			return fmt.Errorf("the node stored %d of %s", done.Stored, count(len(batch), "message"))
		}
		if err == nil {
			c.p.sum.Stream = done.Stream
			for i, pk := range slices.Backward(batch) {
				c.p.stored(pk, done.Sequence-uint64(len(batch)-1-i), false)
			}
			return nil
		}
		passing := errors.Is(err, api.ErrUnreachable) || errors.Is(err, api.ErrUnavailable)
		if !passing || time.Since(began) >= c.p.giveUp {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
