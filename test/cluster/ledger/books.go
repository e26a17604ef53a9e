package ledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Subjects of the flows; a lane's number follows those of the entries.
const (
	lineSubject     = "rig.ledger."
	transferSubject = "rig.bank."
	KeyOutputs      = "rig.out.key"
	ShopOutputs     = "rig.out.shop"
	BankOutputs     = "rig.out.bank"
)

// Event is a line of the ledger or a transfer of the bank.
type Event struct {
	ID    int64
	Key   int64 // the line's key; who pays
	Other int64 // the line's shop; who is paid
	Cents int64 // 0: a line that becomes a dead letter
}

// Message is what a lane published at once.
type Message struct {
	ID       string // Nats-Msg-Id
	Lane     int
	Transfer bool // transfers; else lines
	Events   []Event
	First    time.Time // when it was sent first
	Acked    time.Time // zero: it may be stored or not
	Attempts int
}

func (m *Message) subject() string {
	if m.Transfer {
		return fmt.Sprint(transferSubject, m.Lane)
	}
	return fmt.Sprint(lineSubject, m.Lane)
}

// text is the message's body: one event a line.
func (m *Message) text() string {
	var b strings.Builder
	for _, e := range m.Events {
		b.WriteString(m.line(e))
		b.WriteByte('\n')
	}
	return b.String()
}

func (m *Message) line(e Event) string {
	if m.Transfer {
		return fmt.Sprintf(`{"id":%d,"from":%d,"to":%d,"cents":%d}`, e.ID, e.Key, e.Other, e.Cents)
	}
	return fmt.Sprintf(`{"id":%d,"key":%d,"shop":%d,"cents":%d}`, e.ID, e.Key, e.Other, e.Cents)
}

// Options tune what is published.
type Options struct {
	Seed     uint64
	Rate     int           // events a second, of all lanes; default 500
	Keys     int           // keys of the ledger, and accounts of the bank; default 200
	GiveUp   time.Duration // for how long a message is tried; default 90 s, below the duplicate window of a stream
	FallBack int64         // events that flows may be behind before lanes slow down; default 5000
}

const (
	lanes    = 4
	shops    = 40
	packMost = 20 // events of a message
	ackWait  = 2 * time.Second
)

func (o Options) withDefaults() Options {
	if o.Rate == 0 {
		o.Rate = 500
	}
	if o.Keys == 0 {
		o.Keys = 200
	}
	if o.GiveUp == 0 {
		o.GiveUp = 90 * time.Second
	}
	if o.FallBack == 0 {
		o.FallBack = 5000
	}
	return o
}

// Books are what the lanes have published. Its methods are safe for use by many goroutines; Messages is read after Finish.
type Books struct {
	opt      Options
	follower *Follower
	lanes    []*lane
	stop     chan struct{}
	done     sync.WaitGroup

	acked   atomic.Int64 // events
	sent    atomic.Int64 // lines of the ledger that may be stored
	newest  atomic.Int64 // Unix ns of the newest acknowledgement
	longest atomic.Int64 // ns between two of them, at most
}

type lane struct {
	books    *Books
	number   int
	random   *rand.Rand
	conn     *nats.Conn
	js       jetstream.JetStream
	messages []*Message
	events   int64
}

// Open starts the lanes, each on a connection of its own. They publish until Finish.
func Open(connect func() *nats.Conn, f *Follower, o Options) (*Books, error) {
	b := &Books{opt: o.withDefaults(), follower: f, stop: make(chan struct{})}
	b.newest.Store(time.Now().UnixNano())
	for i := range lanes {
		l := &lane{books: b, number: i, random: rand.New(rand.NewPCG(o.Seed, uint64(i))), conn: connect()}
		var err error
		if l.js, err = jetstream.New(l.conn); err != nil {
			return nil, err
		}
		b.lanes = append(b.lanes, l)
	}
	for _, l := range b.lanes {
		b.done.Go(l.run) // ends with stop
	}
	return b, nil
}

// Finish ends the lanes, each when its message is acknowledged or given up.
func (b *Books) Finish() {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.done.Wait()
}

// Acked is how many events are acknowledged.
func (b *Books) Acked() int64 { return b.acked.Load() }

// Longest is the longest time without an acknowledgement so far.
func (b *Books) Longest() time.Duration {
	return max(time.Duration(b.longest.Load()), time.Since(time.Unix(0, b.newest.Load())))
}

// Messages are all that were sent, by their id.
func (b *Books) Messages() map[string]*Message {
	all := make(map[string]*Message)
	for _, l := range b.lanes {
		for _, m := range l.messages {
			all[m.ID] = m
		}
	}
	return all
}

// Summary counts.
func (b *Books) Summary() string {
	messages, events, again, unknown := 0, 0, 0, 0
	for _, m := range b.Messages() {
		messages++
		events += len(m.Events)
		again += m.Attempts - 1
		if m.Acked.IsZero() {
			unknown++
		}
	}
	return fmt.Sprintf("%d events in %d messages, %d of them sent again, %d given up; longest time without an acknowledgement %v",
		events, messages, again, unknown, time.Duration(b.longest.Load()).Round(100*time.Millisecond))
}

func (l *lane) run() {
	pause := time.Second * lanes / time.Duration(l.books.opt.Rate) // for each event
	for {
		m := l.next()
		l.messages = append(l.messages, m)
		l.publish(m)
		wait := pause * time.Duration(len(m.Events))
		if l.books.follower != nil && l.books.sent.Load()-l.books.follower.Seen() > l.books.opt.FallBack {
			wait += time.Second
		}
		select {
		case <-l.books.stop:
			return
		case <-time.After(wait):
		}
	}
}

// publish sends a message until it is acknowledged or given up.
func (l *lane) publish(m *Message) {
	b := l.books
	msg := &nats.Msg{Subject: m.subject(), Data: []byte(m.text()), Header: nats.Header{jetstream.MsgIDHeader: {m.ID}}}
	m.First = time.Now()
	if !m.Transfer {
		b.sent.Add(int64(len(m.Events)))
	}
	for time.Since(m.First) < b.opt.GiveUp {
		m.Attempts++
		ctx, cancel := context.WithTimeout(context.Background(), ackWait)
		_, err := l.js.PublishMsg(ctx, msg)
		cancel()
		if err == nil {
			m.Acked = time.Now()
			b.acked.Add(int64(len(m.Events)))
			before := b.newest.Swap(m.Acked.UnixNano())
			if gap := m.Acked.UnixNano() - before; gap > b.longest.Load() { // about right is enough
				b.longest.Store(gap)
			}
			return
		}
		if m.Attempts%2 == 0 { // the server at hand may be cut off from the others
			_ = l.conn.ForceReconnect() // it is on its way already, then
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// next makes a message of one event or of many.
func (l *lane) next() *Message {
	m := &Message{ID: fmt.Sprintf("%d-%d-%d", l.books.opt.Seed, l.number, len(l.messages)), Lane: l.number, Transfer: l.random.IntN(3) == 0}
	n := 1
	if l.random.IntN(2) == 0 {
		n = 2 + l.random.IntN(packMost-1)
	}
	own := int64(l.books.opt.Keys / lanes) // keys of the lane
	for range n {
		l.events++
		e := Event{ID: l.events*lanes + int64(l.number), Key: l.random.Int64N(own)*lanes + int64(l.number), Other: l.random.Int64N(shops), Cents: 1 + l.random.Int64N(400)}
		switch {
		case m.Transfer:
			e.Other = l.random.Int64N(int64(l.books.opt.Keys))
		case l.random.IntN(200) == 0:
			e.Cents = 0
		case l.random.IntN(10) == 0: // one key in three of all events
			e.Key = int64(l.number)
		}
		m.Events = append(m.Events, e)
	}
	return m
}
