package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Publisher puts orders on a subject that a JetStream stream captures. The zero values of its settings are
// ready to use.
type Publisher struct {
	Conn    *nats.Conn
	Subject string
	// Pack is how many orders share a message, one a line. Default 1.
	Pack int
	// Rate is orders a second; 0: as fast as the stream takes them.
	Rate int
	// Window is how many messages may be on their way. Default 4096.
	Window int
	// Atomic publishes that many messages as one atomic batch (at most 1,000), which is what keeps a stream
	// that syncs every write at speed. 0: every message for itself.
	Atomic int
	// Sent is called before an order leaves, with its place and the time at which it was due. May be nil.
	Sent func(place int, due time.Time)
}

// Publish publishes all orders of a Spec in order and returns when the stream has acknowledged all.
func (p Publisher) Publish(ctx context.Context, s Spec) error {
	p.Pack = max(p.Pack, 1)
	if p.Window == 0 {
		p.Window = 4096
	}
	a := &acks{window: p.Window}
	a.cond.L = &a.mu
	inbox := nats.NewInbox()
	sub, err := p.Conn.Subscribe(inbox, a.take)
	if err != nil {
		return fmt.Errorf("publish %s: %w", p.Subject, err)
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("publish %s: %w", p.Subject, err)
	}
	stop := context.AfterFunc(ctx, func() { a.fail(context.Cause(ctx)) })
	defer stop()

	out := sender{Publisher: p, acks: a, inbox: inbox}
	start := time.Now()
	var text []byte
	for i, src := 0, s.Source(); ; i++ {
		o, ok := src.Next()
		if !ok {
			break
		}
		due := time.Now()
		if p.Rate > 0 {
			due = start.Add(time.Duration(float64(i) / float64(p.Rate) * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
		}
		if p.Sent != nil {
			p.Sent(i, due)
		}
		if len(text) > 0 {
			text = append(text, '\n')
		}
		text = o.AppendJSON(text, due.UnixMilli())
		if (i+1)%p.Pack != 0 && i+1 < s.Events {
			continue
		}
		if err := out.send(text, i+1 == s.Events); err != nil {
			return err
		}
		text = text[:0]
	}
	return a.wait(0)
}

// sender sends messages, alone or in atomic batches.
type sender struct {
	Publisher
	*acks
	inbox string
	batch string
	n     int // messages in the open batch
}

func (s *sender) send(data []byte, last bool) error {
	m := nats.Msg{Subject: s.Subject, Data: data}
	if s.Atomic <= 1 {
		if err := s.room(); err != nil {
			return err
		}
		m.Reply = s.inbox
		return s.Conn.PublishMsg(&m)
	}
	if s.n == 0 {
		// One batch is on its way at a time: the server has a limit on those that are open.
		if err := s.wait(0); err != nil {
			return err
		}
		s.batch = nats.NewInbox()[len(nats.InboxPrefix):]
	}
	s.n++
	m.Header = nats.Header{"Nats-Batch-Id": {s.batch}, "Nats-Batch-Sequence": {strconv.Itoa(s.n)}}
	if s.n == s.Atomic || last {
		m.Header["Nats-Batch-Commit"] = []string{"1"}
		m.Reply = s.inbox
		s.n = 0
		if err := s.room(); err != nil {
			return err
		}
	}
	return s.Conn.PublishMsg(&m)
}

// acks counts what is on its way. JetStream answers in order.
type acks struct {
	mu           sync.Mutex
	cond         sync.Cond
	sent, stored int
	window       int
	err          error
}

func (a *acks) take(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored++
	if len(m.Data) == 0 || bytes.Contains(m.Data, []byte(`"error"`)) {
		a.err = errors.Join(a.err, fmt.Errorf("publish refused: %s %v", m.Data, m.Header))
	}
	a.cond.Broadcast()
}

func (a *acks) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = errors.Join(a.err, err)
	a.cond.Broadcast()
}

// room waits until less than a window is on its way, and counts one more.
func (a *acks) room() error {
	if err := a.wait(a.window - 1); err != nil {
		return err
	}
	a.mu.Lock()
	a.sent++
	a.mu.Unlock()
	return nil
}

// wait waits until at most n are on their way.
func (a *acks) wait(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.err == nil && a.sent-a.stored > n {
		a.cond.Wait()
	}
	return a.err
}
