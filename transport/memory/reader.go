package memory

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/kisflow/kisflow/transport"
)

var errClosed = errors.New("the reader is closed")

// nextBytes bounds the data of one Next.
const nextBytes = 8 << 20

// reader reads one stream. One goroutine calls Next; Close may come from another.
type reader struct {
	t    *Streams
	s    *stream
	name string
	opt  transport.ReadOptions
	next uint64 // the sequence to look at next
	out  []transport.Message
	err  error // what ended it

	once   sync.Once
	closed chan struct{}
}

// Read implements transport.Streams.
func (t *Streams) Read(ctx context.Context, name string, opt transport.ReadOptions) (transport.Reader, error) {
	var r *reader
	err := t.effect(ctx, OpRead, name, func() error {
		s, err := t.stream(name)
		if err != nil {
			return err
		}
		opt.Subjects = slices.Clone(opt.Subjects)
		r = &reader{t: t, s: s, name: name, opt: opt, next: max(opt.From, 1), closed: make(chan struct{})}
		if opt.From <= 1 {
			r.next = s.first
		}
		if opt.Holes {
			return nil
		}
		if r.next > s.last+1 {
			return transport.Refused(transport.ErrGap, "stream %s: it ends at %d, before %d", name, s.last, r.next)
		}
		return r.front()
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// front tells whether messages that the reader has not seen were taken from the stream's front.
func (r *reader) front() error {
	if !r.opt.Holes && len(r.opt.Subjects) == 0 && r.s.first > r.next {
		return transport.Refused(transport.ErrGap, "stream %s: it begins at %d, after %d", r.name, r.s.first, r.next)
	}
	return nil
}

// Next implements transport.Reader.
func (r *reader) Next(ctx context.Context, max int) ([]transport.Message, error) {
	if r.err == nil && max <= 0 {
		return nil, errors.New("next: max must be above zero")
	}
	for r.err == nil {
		select {
		case <-r.closed:
			r.err = errClosed
			continue
		default:
		}
		var wait chan struct{}
		r.out = r.out[:0]
		r.err = r.t.effect(ctx, OpNext, r.name, func() error {
			if r.s.gone {
				return transport.Refused(transport.ErrNotFound, "stream %s", r.name)
			}
			r.s.limit(r.t.opt.Now())
			if err := r.front(); err != nil {
				return err
			}
			r.take(max)
			if len(r.out) == 0 && !r.t.opt.NonBlocking {
				if r.s.moved == nil {
					r.s.moved = make(chan struct{})
				}
				wait = r.s.moved
			}
			return nil
		})
		if r.err != nil {
			break
		}
		if wait == nil {
			return r.out, nil
		}
		select {
		case <-wait:
		case <-r.closed:
		case <-ctx.Done():
			r.err = ctx.Err()
		}
	}
	return nil, r.err
}

// take copies what is there into r.out.
func (r *reader) take(max int) {
	s := r.s
	if r.next < s.first {
		r.next = s.first
	}
	total := 0
	for ; r.next <= s.last && len(r.out) < max; r.next++ {
		m := &s.msgs[r.next-s.first]
		if m.Sequence == 0 || !r.wants(m.Subject) {
			continue
		}
		if total > 0 && total+len(m.Data) > nextBytes {
			break
		}
		total += len(m.Data)
		r.out = append(r.out, *m)
	}
	if r.opt.HeadersOnly {
		total = 0
	}
	arena := make([]byte, 0, total) // one allocation for all of them
	for i := range r.out {
		m := &r.out[i]
		m.Header = slices.Clone(m.Header)
		if r.opt.HeadersOnly {
			m.Data = nil
			continue
		}
		at := len(arena)
		arena = append(arena, m.Data...)
		m.Data = arena[at:len(arena):len(arena)]
	}
}

func (r *reader) wants(subject string) bool {
	if len(r.opt.Subjects) == 0 {
		return true
	}
	for _, pattern := range r.opt.Subjects {
		if Match(pattern, subject) {
			return true
		}
	}
	return false
}

// Close implements transport.Reader.
func (r *reader) Close() { r.once.Do(func() { close(r.closed) }) }
