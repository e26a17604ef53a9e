package nats

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SnapshotBucket is the bucket that kisnode keeps its snapshots in.
const SnapshotBucket = "KISFLOW_SNAPSHOTS"

// Objects is transport.Objects in a stream of its own, named as the bucket: an object is the newest message on a
// subject made of its name, or, where it is larger than a message may be, an atomic batch of messages there. So it
// is there whole or not at all, reading it is one request, deleting it leaves nothing behind, and a prefix of names
// is listed without a look at the others. It may be used by many goroutines.
//
// Earlier versions kept objects in JetStream's object store of that name. Those are still read, listed and deleted.
type Objects struct {
	t      *Streams
	js     jetstream.JetStream
	bucket string

	mu    sync.Mutex
	made  bool                  // the stream is there
	asked bool                  // for the object store of an earlier version
	store jetstream.ObjectStore // nil: there is none
}

var _ transport.Objects = (*Objects)(nil)

// objectHeader says of an object's last message how many messages it is, how many bytes, and their xxh64.
const objectHeader = "Kisflow-Object"

// NewObjects returns the objects of a bucket, which is made when it is first written to.
func NewObjects(t *Streams, bucket string) (*Objects, error) {
	js, err := jetstream.New(t.c.out)
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	return &Objects{t: t, js: js, bucket: bucket}, nil
}

// subject is where an object of a name is: a token for each of the name's parts between slashes.
func (o *Objects) subject(name string) string {
	var b strings.Builder
	b.WriteString(o.bucket)
	for _, part := range strings.Split(name, "/") {
		b.WriteByte('.')
		if part == "" {
			b.WriteByte('=')
		}
		for _, c := range []byte(part) {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "=%02X", c)
			}
		}
	}
	return b.String()
}

// objectName is its inverse.
func (o *Objects) objectName(subject string) (string, error) {
	parts := strings.Split(strings.TrimPrefix(subject, o.bucket+"."), ".")
	for i, part := range parts {
		if part == "=" {
			parts[i] = ""
			continue
		}
		pieces := strings.Split(part, "=")
		for j, piece := range pieces[1:] {
			if len(piece) < 2 {
				return "", fmt.Errorf("bucket %s holds %s, which is no object", o.bucket, subject)
			}
			c, err := hex.DecodeString(piece[:2])
			if err != nil {
				return "", fmt.Errorf("bucket %s holds %s, which is no object", o.bucket, subject)
			}
			pieces[j+1] = string(c) + piece[2:]
		}
		parts[i] = strings.Join(pieces, "")
	}
	return strings.Join(parts, "/"), nil
}

// ensure makes the stream.
func (o *Objects) ensure(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made {
		return nil
	}
	_, err := o.t.Ensure(ctx, transport.Config{Name: o.bucket, Subjects: []string{o.bucket + ".>"}, Description: "snapshots of KisFlow's partitions"})
	o.made = err == nil
	return err
}

// former returns the object store of an earlier version, or nil.
func (o *Objects) former(ctx context.Context) (jetstream.ObjectStore, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked {
		return o.store, nil
	}
	_, err := o.t.info(ctx, "OBJ_"+o.bucket)
	if errors.Is(err, transport.ErrNotFound) {
		o.asked = true
		return nil, nil
	}
	if err == nil {
		o.store, err = o.js.ObjectStore(ctx, o.bucket)
	}
	o.asked = err == nil
	return o.store, err
}

// Put implements transport.Objects.
func (o *Objects) Put(ctx context.Context, name string, r io.Reader) error {
	if err := o.put(ctx, name, r); err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	return nil
}

func (o *Objects) put(ctx context.Context, name string, r io.Reader) error {
	if name == "" {
		return errors.New("an object needs a name")
	}
	limit := o.t.MaxMessage() - 1024
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)*maxBatch+1))
	if err != nil {
		return err
	}
	n := max(1, (len(b)+limit-1)/limit)
	if n > maxBatch {
		return transport.Refused(transport.ErrTooLarge, "more than %d bytes", limit*maxBatch)
	}
	if err := o.ensure(ctx); err != nil {
		return err
	}
	ms := make([]transport.Outgoing, n)
	for i := range ms {
		ms[i] = transport.Outgoing{Subject: o.subject(name), Data: b[i*limit : min((i+1)*limit, len(b))]}
	}
	ms[n-1].Header = []transport.Field{{Name: objectHeader, Value: fmt.Sprintf("%d %d %016x", n, len(b), xxhash.Sum64(b))}}
	for {
		if _, err = o.t.appendAlone(ctx, o.bucket, ms); !errors.Is(err, transport.ErrDoubt) || ctx.Err() != nil {
			return err // in doubt it is written again: the newest counts
		}
	}
}

// Get implements transport.Objects.
func (o *Objects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	b, err := o.get(ctx, o.subject(name))
	if errors.Is(err, transport.ErrNotFound) {
		store, ferr := o.former(ctx)
		if ferr == nil && store != nil {
			return getFormer(ctx, store, name)
		}
		if ferr != nil {
			err = ferr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", name, err)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (o *Objects) get(ctx context.Context, subject string) ([]byte, error) {
	last, err := o.message(ctx, subject, 0)
	if err != nil {
		return nil, err
	}
	var n, size, sum uint64
	if _, err := fmt.Sscanf(last.Get(objectHeader), "%d %d %x", &n, &size, &sum); err != nil || n == 0 || n > last.Sequence {
		return nil, transport.Refused(transport.ErrCorrupt, "message %d of stream %s", last.Sequence, o.bucket)
	}
	b := last.Data
	if n > 1 {
		b = nil
		for s := last.Sequence - n + 1; s <= last.Sequence; s++ {
			m, err := o.message(ctx, subject, s)
			if errors.Is(err, transport.ErrNotFound) {
				err = transport.Refused(transport.ErrCorrupt, "message %d of stream %s is gone", s, o.bucket)
			}
			if err != nil {
				return nil, err
			}
			b = append(b, m.Data...)
		}
	}
	if uint64(len(b)) != size || xxhash.Sum64(b) != sum {
		return nil, transport.Refused(transport.ErrCorrupt, "messages up to %d of stream %s", last.Sequence, o.bucket)
	}
	return b, nil
}

// message returns the message of a sequence, or with 0 the newest on the subject. Any server that has the stream may
// answer, without the detour through JSON; one that is behind does not have it yet, so the leader has the last word
// on what is not there.
func (o *Objects) message(ctx context.Context, subject string, sequence uint64) (transport.Message, error) {
	to, request, which := "$JS.API.DIRECT.GET."+o.bucket+"."+subject, "", map[string]any{"last_by_subj": subject}
	if sequence != 0 {
		to, request, which = "$JS.API.DIRECT.GET."+o.bucket, fmt.Sprintf(`{"seq":%d}`, sequence), map[string]any{"seq": sequence}
	}
	attempt, cancel := context.WithTimeout(ctx, apiAttempts[1])
	defer cancel()
	// The reading connection: the one in the process passes a large message on in small pieces.
	m, err := o.t.c.in.RequestWithContext(attempt, to, []byte(request))
	if err == nil && m.Header.Get("Status") == "" {
		s, err := strconv.ParseUint(m.Header.Get(nats.JSSequence), 10, 64)
		if err == nil && m.Header.Get(nats.JSSubject) == subject {
			return transport.Message{Subject: subject, Sequence: s, Header: fields(m.Header), Data: m.Data}, nil
		}
	}
	stored, err := o.t.stored(ctx, o.bucket, which)
	if err == nil && stored.Subject != subject {
		err = transport.Refused(transport.ErrCorrupt, "message %d of stream %s is on %s", stored.Sequence, o.bucket, stored.Subject)
	}
	return stored, err
}

// getFormer opens an object of an earlier version.
func getFormer(ctx context.Context, store jetstream.ObjectStore, name string) (io.ReadCloser, error) {
	got, err := store.Get(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, transport.Refused(transport.ErrNotFound, "object %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", name, err)
	}
	return &formerReader{name: name, ObjectResult: got}, nil
}

type formerReader struct {
	jetstream.ObjectResult
	name string
}

func (r *formerReader) Read(p []byte) (int, error) {
	n, err := r.ObjectResult.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case errors.Is(err, jetstream.ErrDigestMismatch):
		err = transport.Refused(transport.ErrCorrupt, "object %s", r.name)
	default:
		err = fmt.Errorf("get object %s: %w", r.name, err)
	}
	return n, err
}

// Delete implements transport.Objects.
func (o *Objects) Delete(ctx context.Context, name string) error {
	err := o.t.c.api(ctx, "STREAM.PURGE."+o.bucket, map[string]string{"filter": o.subject(name)}, nil)
	if err != nil && !errors.Is(err, transport.ErrNotFound) {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	store, err := o.former(ctx)
	if err == nil && store != nil {
		if err = store.Delete(ctx, name); errors.Is(err, jetstream.ErrObjectNotFound) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	return nil
}

// List implements transport.Objects.
func (o *Objects) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := o.list(ctx, prefix)
	if err == nil {
		var former []string
		if former, err = o.listFormer(ctx, prefix); len(former) > 0 {
			names = append(names, former...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list objects %s...: %w", prefix, err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (o *Objects) list(ctx context.Context, prefix string) (names []string, err error) {
	filter := o.bucket + ".>"
	if cut := strings.LastIndexByte(prefix, '/'); cut >= 0 {
		filter = o.subject(prefix[:cut]) + ".>"
	}
	for offset := 0; ; { // a page at a time
		var page streamInfo
		err := o.t.c.api(ctx, "STREAM.INFO."+o.bucket, map[string]any{"subjects_filter": filter, "offset": offset}, &page)
		if errors.Is(err, transport.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for subject := range page.State.Subjects {
			name, err := o.objectName(subject)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		if offset += len(page.State.Subjects); len(page.State.Subjects) == 0 || offset >= page.Total {
			return names, nil
		}
	}
}

func (o *Objects) listFormer(ctx context.Context, prefix string) (names []string, err error) {
	store, err := o.former(ctx)
	if err != nil || store == nil {
		return nil, err
	}
	infos, err := store.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, err
	}
	for _, info := range infos {
		if !info.Deleted && strings.HasPrefix(info.Name, prefix) {
			names = append(names, info.Name)
		}
	}
	return names, nil
}
