package crash

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

// event is one good event.
type event struct {
	ID, User, Order, Shop, Amount int64
	lost                          bool // it has no order: a dead letter behind the totals of its user
}

// stored is a message that the entry stream has acknowledged.
type stored struct {
	at   time.Time // of the acknowledgement
	good []event
	bad  []string // the lines that have to become dead letters
}

// lane publishes the events of its own users, one message after the other: the next one only after the one before
// was acknowledged. So the order of a user's events is known, whatever happens to the messages.
type lane struct {
	number  int
	random  *rand.Rand
	permits chan struct{} // one for each message that it may publish; closed at the end
	stored  []stored      // read it when the lane has ended
	events  int64
	repeats int // publishes without an acknowledgement, sent again
	err     error
}

const (
	lanes       = 4
	users       = 400
	orders      = 3000
	shops       = 50
	packMost    = 20 // events of a message
	ackWait     = time.Second
	ackAtLatest = 2 * time.Minute
)

// generator is all lanes.
type generator struct {
	lanes []*lane
	lost  atomic.Pointer[chan struct{}] // closed when the connection at hand is lost: no acknowledgement will come
	acked atomic.Int64                  // events so far
	done  sync.WaitGroup
}

// newGenerator starts the lanes; they wait for permits. A lane ends when its permits do.
func newGenerator(nc *nats.Conn, seed uint64, permits int) (*generator, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(2*ackWait))
	if err != nil {
		return nil, err
	}
	g := &generator{}
	lost := make(chan struct{})
	g.lost.Store(&lost)
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) {
		next := make(chan struct{})
		close(*g.lost.Swap(&next))
	})
	for i := range lanes {
		l := &lane{number: i, random: rand.New(rand.NewPCG(seed, uint64(i))), permits: make(chan struct{}, permits)}
		g.lanes = append(g.lanes, l)
		g.done.Go(func() { l.err = g.run(js, l) })
	}
	return g, nil
}

// permit lets every lane publish n more messages.
func (g *generator) permit(n int) {
	for _, l := range g.lanes {
		for range n {
			l.permits <- struct{}{}
		}
	}
}

// finish waits until all that is permitted is acknowledged.
func (g *generator) finish() error {
	for _, l := range g.lanes {
		close(l.permits)
	}
	g.done.Wait()
	for _, l := range g.lanes {
		if l.err != nil {
			return l.err
		}
	}
	return nil
}

func (g *generator) run(js jetstream.JetStream, l *lane) error {
	message := 0
	for range l.permits {
		text, s := l.next()
		message++
		m := &nats.Msg{Subject: fmt.Sprintf("crash.in.%d", l.number), Data: text, Header: nats.Header{
			jetstream.MsgIDHeader: {fmt.Sprintf("%d-%d", l.number, message)}}}
		for end := time.Now().Add(ackAtLatest); ; time.Sleep(10 * time.Millisecond) {
			err := publish(js, m, *g.lost.Load())
			if err == nil {
				break
			}
			l.repeats++
			if time.Now().After(end) {
				return fmt.Errorf("lane %d: message %d has no acknowledgement after %v: %w", l.number, message, ackAtLatest, err)
			}
		}
		s.at = time.Now()
		l.stored = append(l.stored, s)
		g.acked.Add(int64(len(s.good) + len(s.bad)))
		time.Sleep(time.Duration(l.random.IntN(4000)) * time.Microsecond)
	}
	return nil
}

// publish sends a message and waits for its acknowledgement, for as long as the connection is there.
func publish(js jetstream.JetStream, m *nats.Msg, lost chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), ackWait)
	defer cancel()
	f, err := js.PublishMsgAsync(m)
	if err != nil {
		return err
	}
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	case <-lost:
		return nats.ErrDisconnected
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next makes a message of one event or of many.
func (l *lane) next() ([]byte, stored) {
	var s stored
	var lines []string
	n := 1
	if l.random.IntN(2) == 0 {
		n = 2 + l.random.IntN(packMost-1)
	}
	for range n {
		l.events++
		e := event{
			ID:     l.events*lanes + int64(l.number),
			User:   l.random.Int64N(users/lanes)*lanes + int64(l.number),
			Order:  l.random.Int64N(orders),
			Shop:   l.random.Int64N(shops),
			Amount: 1 + l.random.Int64N(1000),
		}
		if l.random.IntN(100) > 0 {
			s.good = append(s.good, e)
			lines = append(lines, e.line())
			continue
		}
		if l.random.IntN(3) == 0 {
			e.lost = true
			s.good = append(s.good, e)
			lines = append(lines, e.line())
			continue
		}
		line := l.bad(e)
		s.bad = append(s.bad, line)
		lines = append(lines, line)
	}
	return []byte(strings.Join(lines, "\n")), s
}

func (e event) line() string {
	if e.lost {
		return fmt.Sprintf(`{"id":%d,"user":%d,"order":null,"shop":%d,"amount":%d}`, e.ID, e.User, e.Shop, e.Amount)
	}
	return fmt.Sprintf(`{"id":%d,"user":%d,"order":%d,"shop":%d,"amount":%d}`, e.ID, e.User, e.Order, e.Shop, e.Amount)
}

// bad spoils an event. Its number stays in it, so that no two bad lines are the same.
func (l *lane) bad(e event) string {
	good := e.line()
	switch l.random.IntN(3) {
	case 0:
		return strings.TrimSuffix(good, "}") // cut off
	case 1:
		return strings.Replace(good, `"user"`, `"nobody"`, 1)
	default:
		return strings.Replace(good, `"amount":`, `"amount":-`, 1)
	}
}
