package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SnapshotBucket is the object store that kisnode keeps its snapshots in.
const SnapshotBucket = "KISFLOW_SNAPSHOTS"

// Objects is transport.Objects in a bucket of JetStream's object store. It may be used by many goroutines.
type Objects struct {
	c      *Conn
	js     jetstream.JetStream
	bucket string

	mu    sync.Mutex
	store jetstream.ObjectStore // nil until it is needed
}

var _ transport.Objects = (*Objects)(nil)

// NewObjects returns the objects of a bucket, which is made when it is first needed.
func NewObjects(c *Conn, bucket string) (*Objects, error) {
	js, err := jetstream.New(c.out)
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	return &Objects{c: c, js: js, bucket: bucket}, nil
}

// insist calls f until it answers, within ctx and apiBudget: around a leader change or a new connection it does
// not at first.
func insist(ctx context.Context, f func() error) error {
	give := time.Now().Add(apiBudget)
	for attempt := 1; ; attempt++ {
		err := f()
		passing := errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
			errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
		if !passing || time.Now().After(give) || sleep(ctx, backoff(attempt, 50*time.Millisecond, time.Second)) != nil {
			return err
		}
	}
}

func (o *Objects) open(ctx context.Context) (jetstream.ObjectStore, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.store != nil {
		return o.store, nil
	}
	var store jetstream.ObjectStore
	err := insist(ctx, func() (err error) {
		store, err = o.js.ObjectStore(ctx, o.bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			store, err = o.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
				Bucket: o.bucket, Description: "snapshots of KisFlow's partitions", Storage: jetstream.FileStorage,
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", o.bucket, err)
	}
	o.store = store
	return store, nil
}

// Put implements transport.Objects.
func (o *Objects) Put(ctx context.Context, name string, r io.Reader) error {
	if err := o.c.free.check(o.c.server); err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	store, err := o.open(ctx)
	if err != nil {
		return err
	}
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, r); err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	return nil
}

// Get implements transport.Objects.
func (o *Objects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	store, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	var got jetstream.ObjectResult
	err = insist(ctx, func() (err error) {
		got, err = store.Get(ctx, name)
		return err
	})
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, transport.Refused(transport.ErrNotFound, "object %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", name, err)
	}
	return &objectReader{name: name, ObjectResult: got}, nil
}

type objectReader struct {
	jetstream.ObjectResult
	name string
}

func (r *objectReader) Read(p []byte) (int, error) {
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
	store, err := o.open(ctx)
	if err != nil {
		return err
	}
	if err := insist(ctx, func() error { return store.Delete(ctx, name) }); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	return nil
}

// List implements transport.Objects.
func (o *Objects) List(ctx context.Context, prefix string) ([]string, error) {
	store, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	var infos []*jetstream.ObjectInfo
	err = insist(ctx, func() (err error) {
		infos, err = store.List(ctx)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	var names []string
	for _, info := range infos {
		if !info.Deleted && strings.HasPrefix(info.Name, prefix) {
			names = append(names, info.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
