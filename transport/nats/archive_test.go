package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// filled makes stream S with holes in it, and returns what it holds.
func filled(t *testing.T, s *Streams) (transport.Info, []transport.Message) {
	t.Helper()
	ensure(t, s, transport.Config{Name: "S", Subjects: []string{"s.>"}, Description: "kept"})
	ms, random := numbered(3000), rand.New(rand.NewPCG(1, 2))
	for i := range ms {
		ms[i].Subject = fmt.Sprintf("s.%d", i%3)
		ms[i].Header = []transport.Field{{Name: "Kis-Origin", Value: fmt.Sprint(i)}}
		ms[i].Data = make([]byte, 1000) // of several chunks, which do not compress
		for j := range ms[i].Data {
			ms[i].Data[j] = byte(random.Uint32())
		}
	}
	if _, err := s.Publish(t.Context(), "S", ms); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Cut(t.Context(), "S", "", 100), s.Cut(t.Context(), "S", "s.1", 2000)); err != nil {
		t.Fatal(err)
	}
	return whole(t, s)
}

func whole(t *testing.T, s *Streams) (transport.Info, []transport.Message) {
	t.Helper()
	info, err := s.Info(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []transport.Message
	for len(all) < int(info.Messages) {
		ms, err := r.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ms...)
	}
	return info, all
}

// sameStream compares a stream with what one was.
func sameStream(t *testing.T, s *Streams, info transport.Info, ms []transport.Message) {
	t.Helper()
	have, got := whole(t, s)
	if !have.Created.Equal(info.Created) || have.First != info.First || have.Last != info.Last || have.Description != "kept" || len(got) != len(ms) {
		t.Fatalf("restored as %+v, it was %+v", have, info)
	}
	for i := range got {
		if a, b := got[i], ms[i]; a.Sequence != b.Sequence || a.Subject != b.Subject || !a.Time.Equal(b.Time) || !bytes.Equal(a.Data, b.Data) || a.Get("Kis-Origin") != b.Get("Kis-Origin") {
			t.Fatalf("message %d came back as %d on %s", b.Sequence, a.Sequence, a.Subject)
		}
	}
	// It goes on where it was, and its fence holds.
	last, err := s.LastOn(t.Context(), "S", "s.2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), "S", transport.Outgoing{Subject: "s.2", Expect: &transport.Expect{Sequence: last.Sequence - 3}}); !errors.Is(err, transport.ErrFenced) {
		t.Errorf("an old expectation: %v", err)
	}
	if at, err := s.Append(t.Context(), "S", transport.Outgoing{Subject: "s.2", Expect: &transport.Expect{Sequence: last.Sequence}}); err != nil || at != info.Last+1 {
		t.Errorf("the next message is %d, %v", at, err)
	}
}

// TestArchive takes a stream from a server alone into a cluster, and back.
func TestArchive(t *testing.T) {
	alone := func() *Streams {
		s := embed(t, Options{})
		t.Cleanup(s.Shutdown)
		return NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{})
	}
	from := alone()
	info, ms := filled(t, from)
	var kept bytes.Buffer
	if err := from.Backup(t.Context(), "S", &kept); err != nil {
		t.Fatal(err)
	}
	if n := kept.Len(); n < 3*archiveChunk {
		t.Errorf("the archive has %d bytes, which are too few chunks for this test", n)
	}
	if err := from.Restore(t.Context(), bytes.NewReader(kept.Bytes()), transport.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "deleted first") {
		t.Errorf("over itself: %v", err)
	}
	other := alone()
	if err := other.Restore(t.Context(), bytes.NewReader(kept.Bytes()), transport.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	sameStream(t, other, info, ms)
	if testing.Short() {
		return // three servers
	}

	servers := set(t, 3, 1, nil)
	damaged := bytes.Clone(kept.Bytes())
	damaged[len(damaged)-1] ^= 1
	beside := NewStreams(connect(t, ConnectOptions{Server: servers[3]}), StreamsOptions{Replicas: 3})
	if err := beside.Restore(t.Context(), bytes.NewReader(damaged), transport.RestoreOptions{Replicas: 3}); !errors.Is(err, transport.ErrCorrupt) {
		t.Errorf("damaged, into a cluster: %v", err)
	}
	if _, err := beside.Info(t.Context(), "S"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("something is left in the cluster: %v", err)
	}
	if err := beside.Restore(t.Context(), bytes.NewReader(kept.Bytes()), transport.RestoreOptions{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := beside.Backup(t.Context(), "S", &again); err != nil {
		t.Fatal(err)
	}
	if have, err := beside.Info(t.Context(), "S"); err != nil || have.Replicas != 3 {
		t.Errorf("%+v, %v", have, err)
	}
	sameStream(t, beside, info, ms)
	back := alone()
	if err := back.Restore(t.Context(), &again, transport.RestoreOptions{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	sameStream(t, back, info, ms)
}

// TestArchiveDamaged changes, cuts and breaks off archives: each is refused, and nothing of the stream is left.
func TestArchiveDamaged(t *testing.T) {
	s := embed(t, Options{})
	defer s.Shutdown()
	streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{})
	info, ms := filled(t, streams)
	var kept bytes.Buffer
	if err := streams.Backup(t.Context(), "S", &kept); err != nil {
		t.Fatal(err)
	}
	if err := streams.Backup(t.Context(), "NONE", io.Discard); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("a stream that is not there: %v", err)
	}
	if err := streams.Backup(t.Context(), "S", broken{}); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := streams.Delete(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(kept.Bytes())
		b[at] ^= 1
		return b
	}
	n := kept.Len()
	for name, b := range map[string][]byte{
		"another format": flip(3), "the header": flip(len(archiveFormat) + 8), "a length": flip(len(archiveFormat)), "the sum": flip(n - 1), "a chunk": flip(n - sha(40)),
		"nothing": nil, "half": kept.Bytes()[:n/2], "without the sum": kept.Bytes()[:n-32], "cut in the sum": kept.Bytes()[:n-5],
	} {
		err := streams.Restore(t.Context(), bytes.NewReader(b), transport.RestoreOptions{})
		var refused *apiError // where the server saw it first
		if !errors.Is(err, transport.ErrCorrupt) && !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := streams.Info(t.Context(), "S"); !errors.Is(err, transport.ErrNotFound) {
			t.Fatalf("%s: something is left: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	slow := io.MultiReader(bytes.NewReader(kept.Bytes()[:n/2]), waiting{ctx})
	if err := streams.Restore(ctx, slow, transport.RestoreOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("broken off: %v", err)
	}
	if err := streams.Restore(t.Context(), &kept, transport.RestoreOptions{}); err != nil { // after all that
		t.Fatal(err)
	}
	sameStream(t, streams, info, ms)
}

// sha is a place before the sum at the end.
func sha(n int) int { return 32 + n }

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the disk is gone") }

type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) { <-w.ctx.Done(); return 0, w.ctx.Err() }
