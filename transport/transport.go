// Package transport is the port to durable streams: what the engine needs of JetStream and no more.
// transport/nats answers it with JetStream, transport/memory in memory, with faults to order for the
// simulation; both pass the suite in transport/transporttest.
//
// Ownership: who calls Append, AppendAll or Publish may not change the bytes passed until the call has
// returned; a Message's bytes belong to the receiver.
//
// After a crash: what Append, AppendAll and Publish said was stored is there; what was on its way may or
// may not be, AppendAll's messages all or none, Publish's a leading part.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// What a caller branches on. Any other error is passing, and the call may be made again.
var (
	// ErrFenced is a refusal: the expected last sequence was another one. Nothing was stored.
	ErrFenced = errors.New("another writer was here: the expected last sequence is not the last one")
	// ErrDoubt means that no answer came in time: the messages may be stored, or may be stored later.
	// Only reading the stream, or the same write with the same expectation, settles it.
	ErrDoubt = errors.New("no answer: whether it is stored is not known")
	// ErrNotFound is no such stream, message or object.
	ErrNotFound = errors.New("not found")
	// ErrFull means that the stream's limits or the disk refuse more.
	ErrFull = errors.New("the stream is full")
	// ErrTooLarge means that a message is beyond MaxMessage.
	ErrTooLarge = errors.New("the message is larger than the stream takes")
	// ErrGap means that the stream no longer holds messages that a reader has not seen, or has lost its end.
	ErrGap = errors.New("messages are missing from the stream")
	// ErrCorrupt means that an object's bytes are not those that were put.
	ErrCorrupt = errors.New("the checksum does not match")
)

// Field is one header of a message.
type Field struct{ Name, Value string }

// Message is one message of a stream.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time // when it was stored (UTC)
	Header   []Field   // nil for most
	Data     []byte
}

// Get returns a header's value, or "".
func (m *Message) Get(name string) string {
	for _, f := range m.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Outgoing is a message to be stored.
type Outgoing struct {
	Subject string
	Header  []Field
	Data    []byte
	Expect  *Expect // nil: no expectation
}

// Expect is a condition: the last message on Subject (the message's own if empty) has this Sequence, or
// there is none and Sequence is 0. It is the fence.
type Expect struct {
	Subject  string
	Sequence uint64
}

// Config is a stream as we create it: file storage, limits retention. How many servers keep it is the answer's to know.
type Config struct {
	Name     string
	Subjects []string
	MaxAge   time.Duration // 0: no limit
	MaxBytes int64         // 0: no limit
	// PerSubject is the most messages that the stream keeps of one subject: a new one lets the oldest of its
	// subject go. 0: no limit. With 1 the stream is a table, as a bucket of keys and values: LastOn reads a value, an Append that
	// expects the subject's last sequence replaces it only if nobody else has, and a Read with a filter follows all
	// changes. The filter matters: it says that what was replaced before it could be read is no gap.
	PerSubject int64
	// DiscardNew makes a full stream refuse new messages; otherwise it lets its oldest go.
	DiscardNew bool
	// Description is for those who look at the stream with other tools.
	Description string
}

// Info is a stream as it is.
type Info struct {
	Config
	Created     time.Time
	First, Last uint64 // sequences; an empty stream has First = Last+1
	Messages    uint64
	Bytes       int64
	Replicas    int // on how many servers it is kept
	// Lossy says why the stream may discard messages that nobody has read ("max_msgs 1000 with discard old");
	// empty if it does not.
	Lossy string
}

// Streams are the durable streams.
type Streams interface {
	// Ensure creates a stream, or returns it as it is if there is one of that name; its subjects are
	// extended where they lack one of the config's.
	Ensure(ctx context.Context, c Config) (Info, error)
	// Info tells of a stream, or ErrNotFound.
	Info(ctx context.Context, stream string) (Info, error)
	// Capturing tells which stream stores what is published to a subject (wildcards allowed: then a stream
	// whose subjects cover it or are covered by it), or ErrNotFound.
	Capturing(ctx context.Context, subject string) (Info, error)
	// List names the streams whose name starts with prefix, in order.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete deletes a stream; one that is not there is no error.
	Delete(ctx context.Context, stream string) error

	// Append stores one message and returns its sequence.
	Append(ctx context.Context, stream string, m Outgoing) (uint64, error)
	// AppendAll stores messages one after another, all or none, and returns the sequence of the last.
	// Expectations are on what was there before.
	AppendAll(ctx context.Context, stream string, ms []Outgoing) (uint64, error)
	// Publish stores messages in order, each for itself, as fast as the stream takes them. It returns the
	// sequences of those, from the first on, that are known to be stored: of all of them if err is nil.
	// A message's Expect must be one that the other messages of the call leave true.
	// Where err wraps ErrDoubt any of the others may be stored too, and not only a leading part of them: who
	// reads the stream to settle it must look at each.
	Publish(ctx context.Context, stream string, ms []Outgoing) (stored []uint64, err error)

	// LastOn returns the last message on a subject, as its stream's leader has it, or ErrNotFound.
	LastOn(ctx context.Context, stream, subject string) (Message, error)
	// Read opens a reader. Messages come in order; a gap in delivery is mended by reading again from the
	// last one. A gap in the stream is ErrGap, from Read or from Next, unless opt.Holes allows it: the stream
	// ends before From-1 or before the last message read; or, where the reader has no filter, it begins after
	// the next message to be read (not for From 0 and 1: they mean its beginning wherever that is). Single
	// messages removed from within a stream are no gap.
	Read(ctx context.Context, stream string, opt ReadOptions) (Reader, error)
	// Cut removes the messages with a sequence below the given one; with a subject only those on it.
	Cut(ctx context.Context, stream, subject string, below uint64) error

	// MaxMessage is the most bytes of header and data that a message may have.
	MaxMessage() int
}

// ReadOptions say what a reader delivers.
type ReadOptions struct {
	From        uint64   // the first sequence; 0 and 1 mean the stream's beginning
	Subjects    []string // filters; empty: all
	HeadersOnly bool     // messages come without their data
	Holes       bool     // go on behind a gap in the stream: for a stream that may discard unread messages
}

// Reader delivers a stream's messages in order.
type Reader interface {
	// Next waits until there is a message and returns what is there, at most max messages. The slice is
	// valid until the next call, the messages for good. An error ends the reader: ErrNotFound when the
	// stream is gone, ErrGap, or ctx's.
	Next(ctx context.Context, max int) ([]Message, error)
	// Close ends it; Next returns no more.
	Close()
}

// Objects keeps snapshots: named, immutable, verified by a checksum when read.
type Objects interface {
	Put(ctx context.Context, name string, r io.Reader) error
	// Get opens an object or returns ErrNotFound. The reader's last Read returns an error in place of
	// io.EOF where the bytes are not those that were put.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	Delete(ctx context.Context, name string) error // one that is not there is no error
	List(ctx context.Context, prefix string) ([]string, error)
}

// Archive takes streams out of their servers and brings them back. Both ways a stream flows through in pieces.
type Archive interface {
	// Backup writes a stream as it is at one moment: messages with their sequences and times, its settings, and when it was
	// made. Readers and their places are not in it. What is in w is good only if the error is nil.
	Backup(ctx context.Context, stream string, w io.Writer) error
	// Restore makes the stream that Backup wrote, under its name, which must be free. Info says of it that it was made when the
	// first one was: positions name that time, and are good in it. Where the bytes are not those that were written it is
	// ErrCorrupt, and no stream is left.
	Restore(ctx context.Context, r io.Reader, o RestoreOptions) error
}

// RestoreOptions say how a stream comes back.
type RestoreOptions struct {
	Replicas int // on how many servers it is kept; 0: as before
}

// Refused wraps err so that errors.Is finds sentinel, and tells what was refused.
func Refused(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), sentinel)
}
