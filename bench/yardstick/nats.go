package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// puller keeps pull requests open on a consumer that needs no acknowledgements: the position is in Pebble.
type puller struct {
	nc       *nats.Conn
	sub      *nats.Subscription
	messages chan *nats.Msg
	subject  string // to ask on
	inbox    string
	request  []byte
	batch    int
	asked    int // messages asked for that have not come
}

func newPuller(ctx context.Context, js jetstream.JetStream, nc *nats.Conn, from uint64, batch int) (*puller, error) {
	cons, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, MemoryStorage: true,
	})
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	p := &puller{nc: nc, messages: make(chan *nats.Msg, 8*batch), inbox: nats.NewInbox(), batch: batch}
	p.subject = "$JS.API.CONSUMER.MSG.NEXT.ORDERS." + cons.CachedInfo().Name
	p.request = fmt.Appendf(nil, `{"batch":%d,"expires":600000000000}`, batch)
	if p.sub, err = nc.ChanSubscribe(p.inbox, p.messages); err != nil {
		return nil, err
	}
	return p, p.ask()
}

// ask keeps three batches on order.
func (p *puller) ask() error {
	for p.asked <= 2*p.batch {
		p.asked += p.batch
		if err := p.nc.PublishRequest(p.subject, p.inbox, p.request); err != nil {
			return err
		}
	}
	return nil
}

// took counts a message that came.
func (p *puller) took() error {
	p.asked--
	return p.ask()
}

// ended takes the message by which a pull request ends without all that it asked for.
func (p *puller) ended(m *nats.Msg) error {
	if status := m.Header.Get("Status"); status != "408" && status != "404" && status != "100" {
		return fmt.Errorf("pull: %s %s", status, m.Header.Get("Description"))
	}
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil {
		left = 0
	}
	p.asked -= left
	return p.ask()
}

func (p *puller) close() {
	_ = p.sub.Unsubscribe() // the connection is about to be closed anyway
}

// streamSequence reads the stream's sequence out of a message's reply subject,
// $JS.ACK.stream.consumer.deliveries.SEQUENCE..., or the longer form with domain and account.
func streamSequence(reply string) (uint64, error) {
	field := 5
	if strings.Count(reply, ".") > 8 {
		field = 7
	}
	for ; field > 0; field-- {
		_, reply, _ = strings.Cut(reply, ".")
	}
	text, _, _ := strings.Cut(reply, ".")
	return strconv.ParseUint(text, 10, 64)
}

// sink publishes outputs.
type sink interface {
	publish(data []byte, seq uint64, index int) error
	flush(position uint64) error // ends a batch
	wait() error                 // until all that was flushed is stored
	close()
}

const outSubject = "totals.user"

// acks counts output messages on their way and acknowledged.
type acks struct {
	mu           sync.Mutex
	cond         sync.Cond
	sent, stored int
	flushed      int // of sent
	err          error
	sub          *nats.Subscription
	inbox        string
}

func (a *acks) open(nc *nats.Conn) (err error) {
	a.cond.L, a.inbox = &a.mu, nats.NewInbox()
	a.sub, err = nc.Subscribe(a.inbox, a.take)
	return err
}

func (a *acks) take(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored++
	if len(m.Data) == 0 || bytes.Contains(m.Data, []byte(`"error"`)) {
		a.err = errors.Join(a.err, fmt.Errorf("publish: %s %v", m.Data, m.Header))
	}
	a.cond.Signal()
}

// room waits until less than n are on their way and counts one more.
func (a *acks) room(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.err == nil && a.sent-a.stored >= n {
		a.cond.Wait()
	}
	a.sent++
	return a.err
}

func (a *acks) wait() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.err == nil && a.stored < a.flushed {
		a.cond.Wait()
	}
	return a.err
}

func (a *acks) close() {
	_ = a.sub.Unsubscribe() // the connection is about to be closed anyway
}

// singleSink publishes every output for itself, under a number that the stream remembers for two minutes.
type singleSink struct {
	acks
	nc     *nats.Conn
	window int
}

func newSingleSink(nc *nats.Conn, window int) (*singleSink, error) {
	s := &singleSink{nc: nc, window: window}
	return s, s.open(nc)
}

func (s *singleSink) publish(data []byte, seq uint64, index int) error {
	if err := s.room(s.window); err != nil {
		return err
	}
	id := strconv.FormatUint(seq, 10)
	if index > 0 {
		id += "-" + strconv.Itoa(index)
	}
	return s.nc.PublishMsg(&nats.Msg{Subject: outSubject, Reply: s.inbox, Data: data, Header: nats.Header{"Nats-Msg-Id": {id}}})
}

func (s *singleSink) flush(uint64) error {
	s.mu.Lock()
	s.flushed = s.sent
	s.mu.Unlock()
	return nil
}

// atomicSink publishes the outputs of a batch together: one sync covers them. The last one carries the
// position of the input, so that a start knows what is stored.
type atomicSink struct {
	acks
	nc    *nats.Conn
	id    string
	n     int
	batch []*nats.Msg
}

const positionHeader = "Position"

func newAtomicSink(ctx context.Context, js jetstream.JetStream, nc *nats.Conn) (*atomicSink, uint64, error) {
	s := &atomicSink{nc: nc, id: nats.NewInbox()[len(nats.InboxPrefix):]}
	if err := s.open(nc); err != nil {
		return nil, 0, err
	}
	stream, err := js.Stream(ctx, "TOTALS")
	if err != nil {
		return nil, 0, err
	}
	last, err := stream.GetLastMsgForSubject(ctx, outSubject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return s, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	position, err := strconv.ParseUint(last.Header.Get(positionHeader), 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("the last output has no position: %w", err)
	}
	return s, position, nil
}

func (s *atomicSink) publish(data []byte, _ uint64, _ int) error {
	s.batch = append(s.batch, &nats.Msg{Subject: outSubject, Data: bytes.Clone(data)})
	return nil
}

// maxBatch is the server's limit of messages in an atomic batch.
const maxBatch = 1000

func (s *atomicSink) flush(position uint64) error {
	if len(s.batch) == 0 {
		return nil
	}
	if len(s.batch) > maxBatch {
		return fmt.Errorf("%d outputs in a batch; the server takes %d", len(s.batch), maxBatch)
	}
	s.n++
	id := s.id + strconv.Itoa(s.n)
	for i, m := range s.batch {
		m.Header = nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}
		if i+1 == len(s.batch) {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
			m.Header[positionHeader] = []string{strconv.FormatUint(position, 10)}
			m.Reply = s.inbox
			if err := s.room(2); err != nil {
				return err
			}
		}
		if err := s.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	s.batch = s.batch[:0]
	s.mu.Lock()
	s.flushed = s.sent
	s.mu.Unlock()
	return nil
}
