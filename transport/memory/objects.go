package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/kisflow/kisflow/transport"
)

// Objects is transport.Objects in memory. It may be used by many goroutines.
type Objects struct {
	faults Faults

	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	data []byte
	sum  [sha256.Size]byte
}

// NewObjects returns empty Objects. Of the options only Faults matters; its stream is the object's name.
func NewObjects(opt Options) *Objects {
	return &Objects{faults: opt.Faults, objects: make(map[string]object)}
}

var _ transport.Objects = (*Objects)(nil)

func (o *Objects) effect(ctx context.Context, op Op, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.faults != nil {
		if err := o.faults.Before(op, name); err != nil {
			return err
		}
	}
	o.mu.Lock()
	err := f()
	o.mu.Unlock()
	if err == nil && o.faults != nil {
		err = o.faults.After(op, name)
	}
	return err
}

// Put implements transport.Objects.
func (o *Objects) Put(ctx context.Context, name string, r io.Reader) error {
	if name == "" {
		return errors.New("an object needs a name")
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return o.effect(ctx, OpPutObject, name, func() error {
		o.objects[name] = object{data, sha256.Sum256(data)}
		return nil
	})
}

// Get implements transport.Objects.
func (o *Objects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	var got object
	err := o.effect(ctx, OpGetObject, name, func() error {
		var ok bool
		if got, ok = o.objects[name]; !ok {
			return transport.Refused(transport.ErrNotFound, "object %s", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &objectReader{name: name, r: bytes.NewReader(got.data), whole: sha256.Sum256(got.data) == got.sum}, nil
}

type objectReader struct {
	name  string
	r     *bytes.Reader
	whole bool
}

func (r *objectReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == io.EOF && !r.whole {
		err = transport.Refused(transport.ErrCorrupt, "object %s", r.name)
	}
	return n, err
}

func (r *objectReader) Close() error { return nil }

// Delete implements transport.Objects.
func (o *Objects) Delete(ctx context.Context, name string) error {
	return o.effect(ctx, OpDeleteObject, name, func() error {
		delete(o.objects, name)
		return nil
	})
}

// List implements transport.Objects.
func (o *Objects) List(ctx context.Context, prefix string) (names []string, err error) {
	err = o.effect(ctx, OpListObjects, "", func() error {
		for name := range o.objects {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

// Corrupt changes one byte of an object, so that its next reading finds it broken. It returns false if there is
// no such object or it is empty.
func (o *Objects) Corrupt(name string, at int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	got, ok := o.objects[name]
	if !ok || len(got.data) == 0 {
		return false
	}
	got.data = slices.Clone(got.data)
	got.data[at%len(got.data)] ^= 0x40
	o.objects[name] = got
	return true
}
