package nats

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
)

// An archive is a line that names its format, a header in JSON, the chunks of JetStream's own snapshot, and the SHA-256 of
// all that. Header and chunks have their length before them, four bytes; a length of 0 ends the chunks.
const (
	archiveFormat  = "KISFLOW-STREAM-1\n"
	archiveChunk   = 512 << 10
	archiveWindow  = 8 << 20
	archiveHeader  = 16 << 20 // the most bytes of a header, and
	archiveMost    = 2 << 20  // of a chunk: more is damage
	archivePatient = 60 * time.Second
)

// createdMetadata is where a restored stream keeps the creation time of the one that it was.
const createdMetadata = "kisflow.created"

var _ transport.Archive = (*Streams)(nil)

// archived is an archive's header.
type archived struct {
	Stream  string                     `json:"stream"`
	Created time.Time                  `json:"created"`
	Config  map[string]json.RawMessage `json:"config"`
	State   json.RawMessage            `json:"state"`
}

// Backup implements transport.Archive.
func (t *Streams) Backup(ctx context.Context, stream string, w io.Writer) error {
	if err := t.backup(ctx, stream, w); err != nil {
		return fmt.Errorf("back up stream %s: %w", stream, err)
	}
	return nil
}

func (t *Streams) backup(ctx context.Context, stream string, w io.Writer) error {
	info, err := t.info(ctx, stream)
	if err != nil {
		return err
	}
	nc := t.c.in
	before := nc.Stats().Reconnects
	sub, head, err := t.snapshot(ctx, stream)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // ends the server's sending too
	head.Stream, head.Created = stream, info.info().Created
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	sum := sha256.New()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	_, _ = out.WriteString(archiveFormat) // a writer that fails fails at the next Flush
	writePiece(out, text)
	for index := 1; ; {
		m, err := next(ctx, sub)
		if err != nil {
			return err
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return fmt.Errorf("the server gave up: %s %s", status, m.Header.Get("Description"))
			}
			break
		}
		if m.Reply != "" { // all but the last, if it is shorter
			at, err := strconv.Atoi(m.Reply[strings.LastIndexByte(m.Reply, '.')+1:])
			if err != nil || at != index {
				return fmt.Errorf("chunk %d is missing", index)
			}
			index++
		}
		writePiece(out, m.Data)
		if err := out.Flush(); err != nil {
			return err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return err
			}
		}
	}
	if dropped, err := sub.Dropped(); err != nil || dropped > 0 || nc.Stats().Reconnects != before {
		return errors.New("chunks were lost with the connection; begin again")
	}
	writePiece(out, nil)
	if err := out.Flush(); err != nil {
		return err
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return err
	}
	after, err := t.info(ctx, stream)
	if err == nil && !after.Created.Equal(info.Created) {
		err = errors.New("it was replaced meanwhile")
	}
	return err
}

// snapshot asks the stream's leader to send its files. Each attempt has its own subscription: an answer may be late.
func (t *Streams) snapshot(ctx context.Context, stream string) (*nats.Subscription, archived, error) {
	give := time.Now().Add(apiBudget)
	for attempt := 1; ; attempt++ {
		inbox := t.c.in.NewInbox()
		sub, err := t.c.in.SubscribeSync(inbox)
		if err != nil {
			return nil, archived{}, err
		}
		wait, cancel := context.WithTimeout(ctx, apiAttempt)
		err = t.c.in.FlushWithContext(wait)
		cancel()
		if err != nil {
			_ = sub.Unsubscribe()
			return nil, archived{}, err
		}
		body, err := json.Marshal(map[string]any{"deliver_subject": inbox, "no_consumers": true, "jsck": true, "chunk_size": archiveChunk, "window_size": archiveWindow})
		if err != nil {
			return nil, archived{}, err
		}
		var head archived
		err = t.c.ask(ctx, "STREAM.SNAPSHOT."+stream, body, &head, archivePatient)
		if err == nil {
			return sub, head, nil
		}
		_ = sub.Unsubscribe()
		var refused *apiError
		if errors.As(err, &refused) && !refused.passing() || time.Now().After(give) || sleep(ctx, backoff(attempt, 100*time.Millisecond, time.Second)) != nil {
			return nil, archived{}, err
		}
	}
}

// next waits for a message.
func next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	wait, cancel := context.WithTimeout(ctx, archivePatient)
	defer cancel()
	m, err := sub.NextMsgWithContext(wait)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the server sends nothing for %s", archivePatient)
	}
	return m, err
}

func writePiece(w *bufio.Writer, b []byte) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	_, _ = w.Write(n[:])
	_, _ = w.Write(b)
}

// Restore implements transport.Archive.
func (t *Streams) Restore(ctx context.Context, r io.Reader, o transport.RestoreOptions) error {
	sum := sha256.New()
	in := &archiveReader{in: bufio.NewReaderSize(r, 64<<10), sum: sum}
	head, err := in.header()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := t.restore(ctx, head, in, o); err != nil {
		return fmt.Errorf("restore stream %s: %w", head.Stream, err)
	}
	return nil
}

func (t *Streams) restore(ctx context.Context, head archived, in *archiveReader, o transport.RestoreOptions) (err error) {
	config := maps.Clone(head.Config)
	metadata := make(map[string]string)
	if text, ok := config["metadata"]; ok {
		if err := json.Unmarshal(text, &metadata); err != nil {
			return transport.Refused(transport.ErrCorrupt, "its metadata: %v", err)
		}
	}
	metadata[createdMetadata] = head.Created.Format(time.RFC3339Nano)
	if config["metadata"], err = json.Marshal(metadata); err != nil {
		return err
	}
	if o.Replicas > 0 {
		config["num_replicas"] = json.RawMessage(strconv.Itoa(o.Replicas))
	}
	if _, err := t.info(ctx, head.Stream); !errors.Is(err, transport.ErrNotFound) {
		if err == nil {
			err = errors.New("there is a stream of that name; it must be deleted first")
		}
		return err
	}
	body, err := json.Marshal(map[string]any{"config": config, "state": head.State})
	if err != nil {
		return err
	}
	var begun struct {
		Subject string `json:"deliver_subject"`
	}
	if err := t.c.ask(ctx, "STREAM.RESTORE."+head.Stream, body, &begun, archivePatient); err != nil {
		return err
	}
	// From here on the stream of that name is ours.
	defer func() {
		if err == nil {
			return
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiBudget)
		defer cancel()
		_ = t.c.out.Publish(begun.Subject, []byte{0}) // a chunk without a reply subject ends the restore
		if cerr := t.Delete(clean, head.Stream); cerr != nil {
			err = fmt.Errorf("%w (and what is there of it could not be deleted: %w)", err, cerr)
		}
	}()
	most := min(archiveChunk, t.MaxMessage())
	for first := true; ; {
		chunk, err := in.piece(archiveMost)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			break
		}
		for len(chunk) > 0 {
			n := min(most, len(chunk))
			if err := t.chunk(ctx, begun.Subject, chunk[:n], first, nil); err != nil {
				return err
			}
			chunk, first = chunk[n:], false
		}
	}
	if err := in.check(); err != nil { // before the stream comes to be
		return err
	}
	var made streamInfo
	if err := t.chunk(ctx, begun.Subject, nil, false, &made); err != nil {
		return err
	}
	return t.compare(ctx, head)
}

// chunk sends one and waits until it is taken. The first may be sent before the server that takes it is known here.
func (t *Streams) chunk(ctx context.Context, subject string, data []byte, first bool, answer *streamInfo) error {
	give := time.Now().Add(apiAttempt)
	for {
		wait, cancel := context.WithTimeout(ctx, 5*archivePatient) // the last one's answer comes when all is read
		m, err := t.c.out.RequestWithContext(wait, subject, data)
		cancel()
		if first && errors.Is(err, nats.ErrNoResponders) && time.Now().Before(give) && sleep(ctx, 20*time.Millisecond) == nil {
			continue
		}
		if err != nil {
			return err
		}
		if len(m.Data) == 0 && answer == nil {
			return nil
		}
		var said struct {
			streamInfo
			Error *apiError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &said); err != nil {
			return fmt.Errorf("answer to a chunk: %w", err)
		}
		if said.Error != nil {
			return said.Error
		}
		if answer != nil {
			*answer = said.streamInfo
		}
		return nil
	}
}

// compare tells whether the stream is what was backed up.
func (t *Streams) compare(ctx context.Context, head archived) error {
	var want struct {
		Messages uint64 `json:"messages"`
		First    uint64 `json:"first_seq"`
		Last     uint64 `json:"last_seq"`
	}
	if err := json.Unmarshal(head.State, &want); err != nil {
		return transport.Refused(transport.ErrCorrupt, "its state: %v", err)
	}
	info, err := t.info(ctx, head.Stream)
	if err != nil {
		return err
	}
	if have := info.info(); have.Messages != want.Messages || have.Last != want.Last || !have.Created.Equal(head.Created) {
		return fmt.Errorf("it has %d messages up to %d, made at %s; in the archive are %d up to %d, made at %s",
			have.Messages, have.Last, have.Created, want.Messages, want.Last, head.Created)
	}
	return nil
}

// archiveReader reads an archive's parts and sums them up.
type archiveReader struct {
	in  *bufio.Reader
	sum hash.Hash
	buf []byte
}

// fill reads n bytes.
func (a *archiveReader) fill(n int) ([]byte, error) {
	if cap(a.buf) < n {
		a.buf = make([]byte, n)
	}
	b := a.buf[:n]
	_, err := io.ReadFull(a.in, b)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, transport.Refused(transport.ErrCorrupt, "the archive ends too early")
	case err != nil:
		return nil, err
	}
	return b, nil
}

// piece returns what comes next. It is valid until the next call.
func (a *archiveReader) piece(most int) ([]byte, error) {
	b, err := a.fill(4)
	if err != nil {
		return nil, err
	}
	a.sum.Write(b)
	n := binary.BigEndian.Uint32(b)
	if n > uint32(most) {
		return nil, transport.Refused(transport.ErrCorrupt, "the archive has a piece of %d bytes", n)
	}
	if b, err = a.fill(int(n)); err != nil {
		return nil, err
	}
	a.sum.Write(b)
	return b, nil
}

func (a *archiveReader) header() (head archived, err error) {
	b, err := a.fill(len(archiveFormat))
	if err != nil {
		return head, err
	}
	if string(b) != archiveFormat {
		return head, transport.Refused(transport.ErrCorrupt, "it is no archive of a stream, or of another version")
	}
	a.sum.Write(b)
	if b, err = a.piece(archiveHeader); err != nil {
		return head, err
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return head, transport.Refused(transport.ErrCorrupt, "its header: %v", err)
	}
	if err := validName(head.Stream); err != nil {
		return head, transport.Refused(transport.ErrCorrupt, "its header: %v", err)
	}
	return head, nil
}

// check compares the sums; nothing may follow.
func (a *archiveReader) check() error {
	want := a.sum.Sum(nil)
	have, err := a.fill(sha256.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return transport.Refused(transport.ErrCorrupt, "the archive")
	}
	return nil
}
