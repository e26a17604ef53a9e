package main

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/bench/nexmark"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/memory"
)

// ahead is how many messages may be stored and not read, for the bare program as for the engine in memory.
const ahead = 1024

// bare does what query 0 does, and returns events per processor second without those that made the events. One goroutine
// stores the events in a stream in memory, another one reads them from it.
func bare(ctx context.Context, events int) (float64, error) {
	const pack, stream = 100, "events"
	streams := memory.New(memory.Options{})
	if _, err := streams.Ensure(ctx, transport.Config{Name: stream, Subjects: []string{nexmark.Subject}}); err != nil {
		return 0, err
	}
	reader, err := streams.Read(ctx, stream, transport.ReadOptions{})
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := nexmark.New(nexmark.Config{Seed: 1})
	runtime.GC()

	before := processTime()
	var making time.Duration
	var done atomic.Int64 // messages that are read
	var storing sync.WaitGroup
	storing.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var message []byte
		for n, stored := 0, int64(0); n < events; stored++ {
			for stored-done.Load() >= ahead && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			begin := threadTime()
			message = message[:0]
			for to := min(n+pack, events); n < to; n++ {
				message = append(g.Append(message, n), '\n')
			}
			making += threadTime() - begin
			if _, err := streams.Publish(ctx, stream, []transport.Outgoing{{Subject: nexmark.Subject, Data: message}}); err != nil {
				cancel(err)
				return
			}
		}
	})
	rows, sent := 0, 0
	var p passer
	for all := int64((events + pack - 1) / pack); done.Load() < all && err == nil; {
		var ms []transport.Message
		if ms, err = reader.Next(ctx, 64); err != nil {
			break
		}
		for i := range ms {
			var n, size int
			if n, size, err = p.pass(ms[i].Data); err != nil {
				break
			}
			rows, sent = rows+n, sent+size
		}
		if n := done.Add(int64(len(ms))); err == nil && n%512 < int64(len(ms)) {
			err = streams.Cut(ctx, stream, "", uint64(n)+1)
		}
	}
	cause := context.Cause(ctx)
	cancel(nil)
	storing.Wait()
	took := processTime() - before - making
	switch {
	case errors.Join(cause, err) != nil:
		return 0, errors.Join(cause, err)
	case rows == 0 || sent == 0:
		return 0, errors.New("the bare program has sent nothing")
	case took <= 0:
		return 0, errors.New("the processor time is not known on this system")
	}
	return float64(events) / took.Seconds(), nil
}

// passer holds what is used again for each message.
type passer struct {
	parser, inner kis.Parser
	build         kis.Builder
	out           []byte
}

// pass parses a message and makes of its bids a message to send.
func (p *passer) pass(message []byte) (rows, size int, fault error) {
	out := p.out[:0]
	p.parser.Split(message, func(_ uint32, row *kis.Row, _ []byte, err error) {
		if err != nil {
			fault = err
			return
		}
		kind, _ := row.Get("event_type")
		if kind.Int() != nexmark.TypeBid {
			return
		}
		member, _ := row.Get("bid")
		bid, err := p.inner.Parse([]byte(member.Text()))
		if err != nil {
			fault = err
			return
		}
		p.build.Begin()
		for _, name := range [...]string{"auction", "bidder", "price", "dateTime", "extra"} {
			v, _ := bid.Get(name)
			p.build.Add(name, v)
		}
		if len(out) > 0 {
			out = append(out, '\n')
		}
		out = p.build.End().AppendJSON(out)
		rows++
	})
	p.out = out
	return rows, len(out), fault
}
