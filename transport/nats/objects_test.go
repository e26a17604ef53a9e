package nats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go/jetstream"
)

func openObjects(t testing.TB, o Options) (*Objects, *Server) {
	t.Helper()
	s := embed(t, o)
	t.Cleanup(s.Shutdown)
	objects, err := NewObjects(NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{}), SnapshotBucket)
	if err != nil {
		t.Fatal(err)
	}
	return objects, s
}

func readObject(o *Objects, t testing.TB, name string) ([]byte, error) {
	r, err := o.Get(t.Context(), name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// An object is larger than a message may be: it is whole or damaged, and deleting it leaves nothing.
func TestLargeObject(t *testing.T) {
	o, _ := openObjects(t, Options{Dir: t.TempDir(), MaxPayload: 64 << 10})
	want := make([]byte, 1<<20+17)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for _, name := range []string{"a/large", "a/other"} {
		if err := o.Put(t.Context(), name, bytes.NewReader(want)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := readObject(o, t, "a/large"); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	info, err := o.t.Info(t.Context(), o.bucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.t.c.api(t.Context(), "STREAM.MSG.DELETE."+o.bucket, map[string]any{"seq": info.First + 3}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := readObject(o, t, "a/large"); !errors.Is(err, transport.ErrCorrupt) {
		t.Errorf("with a part gone: %v", err)
	}
	for _, name := range []string{"a/large", "a/other"} {
		if err := o.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if info, err = o.t.Info(t.Context(), o.bucket); err != nil || info.Messages != 0 {
		t.Errorf("%d messages are left, %v", info.Messages, err)
	}
	if err := o.Put(t.Context(), "a/huge", bytes.NewReader(make([]byte, 64<<20))); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("more than an atomic batch holds: %v", err)
	}
}

// What an earlier version kept in JetStream's object store is read, listed and deleted.
func TestFormerObjects(t *testing.T) {
	o, _ := openObjects(t, Options{Dir: t.TempDir()})
	store, err := o.js.CreateObjectStore(t.Context(), jetstream.ObjectStoreConfig{Bucket: SnapshotBucket, Storage: jetstream.FileStorage})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flow/a/0/1-1", "flow/b/0/1-1"} {
		if _, err := store.PutString(t.Context(), name, "former "+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Put(t.Context(), "flow/a/0/1-2", strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	if got, err := readObject(o, t, "flow/a/0/1-1"); err != nil || string(got) != "former flow/a/0/1-1" {
		t.Errorf("got %q, %v", got, err)
	}
	if names, err := o.List(t.Context(), "flow/a/"); err != nil || !slices.Equal(names, []string{"flow/a/0/1-1", "flow/a/0/1-2"}) {
		t.Errorf("listed %q, %v", names, err)
	}
	if err := o.Delete(t.Context(), "flow/a/0/1-1"); err != nil {
		t.Error(err)
	}
	if _, err := readObject(o, t, "flow/a/0/1-1"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
	if names, err := o.List(t.Context(), "flow/"); err != nil || !slices.Equal(names, []string{"flow/a/0/1-2", "flow/b/0/1-1"}) {
		t.Errorf("listed %q, %v", names, err)
	}
}

func FuzzObjectName(f *testing.F) {
	o := &Objects{bucket: SnapshotBucket}
	f.Add("flow/订单/stage 1/p3")
	f.Add("//a=.b>*")
	f.Fuzz(func(t *testing.T, name string) {
		s := o.subject(name)
		if strings.ContainsAny(s, " *>\t\r\n") || strings.Contains(s, "..") || strings.HasSuffix(s, ".") {
			t.Fatalf("%q is on %q", name, s)
		}
		if got, err := o.objectName(s); err != nil || got != name {
			t.Fatalf("%q is on %q, which is read as %q, %v", name, s, got, err)
		}
	})
}

// BenchmarkObjects is what a snapshot's chunks cost.
func BenchmarkObjects(b *testing.B) {
	o, _ := openObjects(b, Options{Dir: b.TempDir()})
	data := make([]byte, 400<<10)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	name := func(i int) string { return fmt.Sprintf("flow/stage/0/1-1/%032x", i) }
	const n = 500
	for i := range n {
		if err := o.Put(b.Context(), name(i), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("put", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := o.Put(b.Context(), "again", bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		i := 0
		for b.Loop() {
			i++
			if _, err := readObject(o, b, name(i%n)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if names, err := o.List(b.Context(), "flow/stage/0/"); err != nil || len(names) != n {
				b.Fatal(len(names), err)
			}
		}
	})
	b.Run("delete", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i += 7
			if err := o.Delete(b.Context(), name(i%n)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
