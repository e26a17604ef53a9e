// Package memory answers the transport port in memory: for tests, for `kisctl run` and for the simulation.
//
// It keeps the semantics of transport/nats to the letter (the suite in transport/transporttest holds both to
// it) and adds what only a stand-in can: faults to order before and after every effect, a clock from outside,
// and no goroutine of its own. With Options.NonBlocking a whole cluster runs in one thread.
//
// What is stored lives as long as the Streams value. A simulated crash of a node leaves it alone: the new node
// uses the same Streams, as it would find the same NATS.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// Op names an effect to Faults.
type Op string

// The effects, one for each call of the port. Publish asks once for each message, so that it can break in the middle.
const (
	OpEnsure    Op = "ensure"
	OpInfo      Op = "info"
	OpCapturing Op = "capturing"
	OpList      Op = "list"
	OpDelete    Op = "delete"
	OpAppend    Op = "append"
	OpAppendAll Op = "append_all"
	OpPublish   Op = "publish"
	OpLastOn    Op = "last_on"
	OpRead      Op = "read"
	OpNext      Op = "next"
	OpCut       Op = "cut"

	OpPutObject    Op = "put_object"
	OpGetObject    Op = "get_object"
	OpDeleteObject Op = "delete_object"
	OpListObjects  Op = "list_objects"
)

// Faults is asked around every effect, without any lock held. It may panic: that is a crash of the caller
// before or after the effect.
type Faults interface {
	// Before answers for the stream if it returns an error: the effect does not happen. ErrLate has a meaning
	// of its own.
	Before(op Op, stream string) error
	// After replaces the answer of an effect that has happened: transport.ErrDoubt is a lost acknowledgement.
	After(op Op, stream string) error
}

// ErrLate, returned by Faults.Before for append, append_all and publish, lets the caller have
// transport.ErrDoubt at once and keeps the write back until DeliverLate.
var ErrLate = errors.New("the write arrives late")

// Options tunes Streams. The zero value is ready to use.
type Options struct {
	// Now is the clock that stamps messages. Default time.Now.
	Now func() time.Time
	// Faults is asked around every effect. Default: none.
	Faults Faults
	// NonBlocking lets Next return no messages and no error where it would wait.
	NonBlocking bool
	// MaxMessage is the most bytes of header and data of a message. Default 8 MiB.
	MaxMessage int
	// MaxBatch is the most messages of one AppendAll. Default 1000, as JetStream has it.
	MaxBatch int
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 8 << 20
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 1000
	}
	return o
}

// Streams is transport.Streams in memory. It may be used by many goroutines.
type Streams struct {
	opt Options

	mu      sync.Mutex
	streams map[string]*stream
	late    []func()
}

// New returns empty Streams.
func New(opt Options) *Streams {
	return &Streams{opt: opt.withDefaults(), streams: make(map[string]*stream)}
}

var _ transport.Streams = (*Streams)(nil)

// stream is one stream. Streams.mu guards it.
type stream struct {
	config  transport.Config
	created time.Time
	lossy   string

	first, last uint64              // first is last+1 while it is empty
	msgs        []transport.Message // sequences first to last; a hole has Sequence 0
	lastOn      map[string]uint64   // newest sequence by subject
	all         map[string][]uint64 // sequences by subject, oldest first; nil without PerSubject
	count       uint64
	bytes       int64

	gone  bool
	moved chan struct{} // closed when something is stored or it is gone; nil while nobody waits
}

func (s *stream) info() transport.Info {
	c := s.config
	c.Subjects = slices.Clone(c.Subjects)
	return transport.Info{Config: c, Created: s.created, First: s.first, Last: s.last, Messages: s.count, Bytes: s.bytes, Replicas: 1, Lossy: s.lossy}
}

func (s *stream) wake() {
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// at returns the message of a sequence, or nil.
func (s *stream) at(seq uint64) *transport.Message {
	if seq < s.first || seq > s.last {
		return nil
	}
	if m := &s.msgs[seq-s.first]; m.Sequence != 0 {
		return m
	}
	return nil
}

// newest returns the newest sequence on a subject (wildcards allowed), or 0.
func (s *stream) newest(subject string) uint64 {
	if !wild(subject) {
		return s.lastOn[subject]
	}
	var newest uint64
	for have, seq := range s.lastOn {
		if seq > newest && Match(subject, have) {
			newest = seq
		}
	}
	return newest
}

func size(subject string, header []transport.Field, data []byte) int {
	n := len(subject) + len(data)
	for _, f := range header {
		n += len(f.Name) + len(f.Value) + 4
	}
	return n
}

// check tells whether the stream takes the messages, all of them, after what it holds now.
func (s *stream) check(ms []transport.Outgoing, maxMessage int) error {
	var bytes int64
	for i := range ms {
		m := &ms[i]
		if !slices.ContainsFunc(s.config.Subjects, func(pattern string) bool { return Match(pattern, m.Subject) }) {
			return fmt.Errorf("stream %s does not store subject %q", s.config.Name, m.Subject)
		}
		n := size(m.Subject, m.Header, m.Data)
		if n-len(m.Subject) > maxMessage {
			return transport.Refused(transport.ErrTooLarge, "stream %s: message of %d bytes on %s, at most %d", s.config.Name, n, m.Subject, maxMessage)
		}
		bytes += int64(n)
		if m.Expect == nil {
			continue
		}
		subject := m.Expect.Subject
		if subject == "" {
			subject = m.Subject
		}
		if have := s.newest(subject); have != m.Expect.Sequence {
			return transport.Refused(transport.ErrFenced, "stream %s: expected sequence %d as the last on %s, it is %d", s.config.Name, m.Expect.Sequence, subject, have)
		}
	}
	if s.config.DiscardNew && s.config.MaxBytes > 0 && s.bytes+bytes > s.config.MaxBytes {
		return transport.Refused(transport.ErrFull, "stream %s: %d bytes of at most %d", s.config.Name, s.bytes, s.config.MaxBytes)
	}
	return nil
}

// store keeps copies of the messages and returns the last sequence.
func (s *stream) store(ms []transport.Outgoing, now time.Time) uint64 {
	total := 0
	for i := range ms {
		total += len(ms[i].Data)
	}
	arena := make([]byte, 0, total)
	for i := range ms {
		m := &ms[i]
		at := len(arena)
		arena = append(arena, m.Data...)
		s.last++
		s.msgs = append(s.msgs, transport.Message{
			Subject: m.Subject, Sequence: s.last, Time: now.UTC(),
			Header: slices.Clone(m.Header), Data: arena[at:len(arena):len(arena)],
		})
		s.lastOn[m.Subject] = s.last
		s.count++
		s.bytes += int64(size(m.Subject, m.Header, m.Data))
		s.replace(m.Subject)
	}
	s.limit(now)
	s.wake()
	return s.last
}

// replace lets the oldest messages of a subject go for its newest, where the stream keeps only so many.
func (s *stream) replace(subject string) {
	if s.config.PerSubject <= 0 {
		return
	}
	if s.all == nil {
		s.all = make(map[string][]uint64)
	}
	on := append(s.all[subject], s.last)
	for len(on) > 0 && s.at(on[0]) == nil { // other limits and Cut take the oldest too
		on = on[1:]
	}
	for int64(len(on)) > s.config.PerSubject {
		s.remove(on[0])
		on = on[1:]
	}
	s.all[subject] = on
}

// limit lets the oldest go where the stream's limits say so.
func (s *stream) limit(now time.Time) {
	if s.config.MaxBytes > 0 && !s.config.DiscardNew {
		for s.bytes > s.config.MaxBytes && s.count > 1 {
			s.remove(s.first)
		}
	}
	if s.config.MaxAge > 0 {
		for s.count > 0 && now.Sub(s.msgs[0].Time) >= s.config.MaxAge {
			s.remove(s.first)
		}
	}
}

// remove takes one message out and lets first follow.
func (s *stream) remove(seq uint64) {
	m := s.at(seq)
	if m == nil {
		return
	}
	s.count--
	s.bytes -= int64(size(m.Subject, m.Header, m.Data))
	if s.lastOn[m.Subject] == seq {
		delete(s.lastOn, m.Subject)
		for at := seq; at > s.first; { // an older one may be left
			at--
			if o := s.at(at); o != nil && o.Subject == m.Subject {
				s.lastOn[m.Subject] = at
				break
			}
		}
	}
	*m = transport.Message{}
	n := 0
	for n < len(s.msgs) && s.msgs[n].Sequence == 0 {
		n++
	}
	s.msgs, s.first = s.msgs[n:], s.first+uint64(n)
}

// effect runs f between the faults.
func (t *Streams) effect(ctx context.Context, op Op, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h := t.opt.Faults; h != nil {
		if err := h.Before(op, name); err != nil {
			return err
		}
	}
	if err := t.locked(f); err != nil {
		return err
	}
	if h := t.opt.Faults; h != nil {
		return h.After(op, name)
	}
	return nil
}

func (t *Streams) locked(f func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return f()
}

func (t *Streams) stream(name string) (*stream, error) {
	s := t.streams[name]
	if s == nil {
		return nil, transport.Refused(transport.ErrNotFound, "stream %s", name)
	}
	s.limit(t.opt.Now())
	return s, nil
}

// Ensure implements transport.Streams.
func (t *Streams) Ensure(ctx context.Context, c transport.Config) (info transport.Info, err error) {
	err = t.effect(ctx, OpEnsure, c.Name, func() error {
		if err := validName(c.Name); err != nil {
			return err
		}
		s := t.streams[c.Name]
		var missing []string
		for _, subject := range c.Subjects {
			if s != nil && slices.ContainsFunc(s.config.Subjects, func(have string) bool { return Covers(have, subject) }) {
				continue
			}
			for _, other := range t.streams {
				if other != s && slices.ContainsFunc(other.config.Subjects, func(have string) bool { return Overlap(have, subject) }) {
					return fmt.Errorf("stream %s: subject %s overlaps with stream %s", c.Name, subject, other.config.Name)
				}
			}
			missing = append(missing, subject)
		}
		if s == nil {
			s = &stream{config: c, created: t.opt.Now().UTC(), first: 1, lastOn: make(map[string]uint64)}
			s.config.Subjects = missing
			s.lossy = Lossy(c)
			t.streams[c.Name] = s
		} else {
			s.config.Subjects = append(slices.Clone(s.config.Subjects), missing...)
		}
		info = s.info()
		return nil
	})
	return info, err
}

// Lossy says why a stream of this config may discard unread messages, or "".
func Lossy(c transport.Config) string {
	switch {
	case c.MaxAge > 0:
		return fmt.Sprintf("max_age %s", c.MaxAge)
	case c.MaxBytes > 0 && !c.DiscardNew:
		return fmt.Sprintf("max_bytes %d with discard old", c.MaxBytes)
	case c.PerSubject > 0:
		return fmt.Sprintf("max_msgs_per_subject %d with discard old", c.PerSubject)
	}
	return ""
}

func validName(name string) error {
	if name == "" || strings.ContainsAny(name, " \t\r\n.*>/\\") {
		return fmt.Errorf("stream name %q: must not be empty or hold white space or any of . * > / \\", name)
	}
	return nil
}

// Info implements transport.Streams.
func (t *Streams) Info(ctx context.Context, name string) (info transport.Info, err error) {
	err = t.effect(ctx, OpInfo, name, func() error {
		s, err := t.stream(name)
		if err == nil {
			info = s.info()
		}
		return err
	})
	return info, err
}

// Capturing implements transport.Streams.
func (t *Streams) Capturing(ctx context.Context, subject string) (info transport.Info, err error) {
	err = t.effect(ctx, OpCapturing, "", func() error {
		var found *stream
		covered := false
		for _, name := range t.names("") {
			s := t.streams[name]
			for _, have := range s.config.Subjects {
				if Covers(have, subject) && !covered {
					found, covered = s, true
				}
				if found == nil && Overlap(have, subject) {
					found = s
				}
			}
		}
		if found == nil {
			return transport.Refused(transport.ErrNotFound, "a stream that stores subject %s", subject)
		}
		info = found.info()
		return nil
	})
	return info, err
}

func (t *Streams) names(prefix string) []string {
	var names []string
	for name := range t.streams {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// List implements transport.Streams.
func (t *Streams) List(ctx context.Context, prefix string) (names []string, err error) {
	err = t.effect(ctx, OpList, "", func() error {
		names = t.names(prefix)
		return nil
	})
	return names, err
}

// Delete implements transport.Streams.
func (t *Streams) Delete(ctx context.Context, name string) error {
	return t.effect(ctx, OpDelete, name, func() error {
		if s := t.streams[name]; s != nil {
			delete(t.streams, name)
			s.gone = true
			s.wake()
		}
		return nil
	})
}

// Append implements transport.Streams.
func (t *Streams) Append(ctx context.Context, stream string, m transport.Outgoing) (uint64, error) {
	return t.write(ctx, OpAppend, stream, []transport.Outgoing{m})
}

// AppendAll implements transport.Streams.
func (t *Streams) AppendAll(ctx context.Context, stream string, ms []transport.Outgoing) (uint64, error) {
	if len(ms) == 0 {
		return 0, fmt.Errorf("stream %s: nothing to append", stream)
	}
	if len(ms) > t.opt.MaxBatch {
		return 0, transport.Refused(transport.ErrTooLarge, "stream %s: %d messages at once, at most %d", stream, len(ms), t.opt.MaxBatch)
	}
	return t.write(ctx, OpAppendAll, stream, ms)
}

// Publish implements transport.Streams.
func (t *Streams) Publish(ctx context.Context, stream string, ms []transport.Outgoing) ([]uint64, error) {
	stored := make([]uint64, 0, len(ms))
	if t.opt.Faults == nil { // all under one lock
		err := t.effect(ctx, OpPublish, stream, func() error {
			for i := range ms {
				seq, err := t.writeLocked(stream, ms[i:i+1])
				if err != nil {
					return err
				}
				stored = append(stored, seq)
			}
			return nil
		})
		return stored, err
	}
	for i := range ms {
		seq, err := t.write(ctx, OpPublish, stream, ms[i:i+1])
		if err != nil {
			return stored, err
		}
		stored = append(stored, seq)
	}
	return stored, nil
}

// write stores the messages, all or none.
func (t *Streams) write(ctx context.Context, op Op, name string, ms []transport.Outgoing) (uint64, error) {
	var last uint64
	err := t.effect(ctx, op, name, func() error {
		var err error
		last, err = t.writeLocked(name, ms)
		return err
	})
	if errors.Is(err, ErrLate) {
		kept := make([]transport.Outgoing, len(ms))
		for i, m := range ms {
			m.Header, m.Data = slices.Clone(m.Header), slices.Clone(m.Data)
			if m.Expect != nil {
				e := *m.Expect
				m.Expect = &e
			}
			kept[i] = m
		}
		t.mu.Lock()
		t.late = append(t.late, func() { _, _ = t.writeLocked(name, kept) }) // nobody waits for its answer
		t.mu.Unlock()
		err = transport.Refused(transport.ErrDoubt, "stream %s", name)
	}
	if err != nil {
		return 0, err
	}
	return last, nil
}

func (t *Streams) writeLocked(name string, ms []transport.Outgoing) (uint64, error) {
	s, err := t.stream(name)
	if err != nil {
		return 0, err
	}
	if err := s.check(ms, t.opt.MaxMessage); err != nil {
		return 0, err
	}
	return s.store(ms, t.opt.Now()), nil
}

// Late returns the number of writes that are kept back by ErrLate.
func (t *Streams) Late() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.late)
}

// DeliverLate lets the oldest write that was kept back arrive; its expectations are judged now. It returns
// false if there is none.
func (t *Streams) DeliverLate() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.late) == 0 {
		return false
	}
	f := t.late[0]
	t.late = t.late[1:]
	f()
	return true
}

// LastOn implements transport.Streams.
func (t *Streams) LastOn(ctx context.Context, name, subject string) (m transport.Message, err error) {
	err = t.effect(ctx, OpLastOn, name, func() error {
		s, err := t.stream(name)
		if err != nil {
			return err
		}
		found := s.at(s.newest(subject))
		if found == nil {
			return transport.Refused(transport.ErrNotFound, "stream %s: a message on %s", name, subject)
		}
		m = *found
		m.Header, m.Data = slices.Clone(m.Header), slices.Clone(m.Data)
		return nil
	})
	return m, err
}

// Cut implements transport.Streams.
func (t *Streams) Cut(ctx context.Context, name, subject string, below uint64) error {
	return t.effect(ctx, OpCut, name, func() error {
		s, err := t.stream(name)
		if err != nil {
			return err
		}
		for seq := s.first; seq < below && seq <= s.last; seq++ {
			if m := s.at(seq); m != nil && (subject == "" || Match(subject, m.Subject)) {
				s.remove(seq)
			}
		}
		return nil
	})
}

// MaxMessage implements transport.Streams.
func (t *Streams) MaxMessage() int { return t.opt.MaxMessage }
