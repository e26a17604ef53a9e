package nats

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// gathered makes writers wait while somebody else leads, and lets them go when all are there. It returns what they got.
func gathered(t *testing.T, s *Streams, writers int, write func(i int) (uint64, error)) (seqs []uint64, errs []error) {
	t.Helper()
	c := s.combiner("S")
	if c.join(new(record)) != leads {
		t.Fatal("somebody leads already")
	}
	seqs, errs = make([]uint64, writers), make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { seqs[i], errs[i] = write(i) })
	}
	for here := 0; here < writers; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		here = len(c.waiting)
		c.mu.Unlock()
	}
	c.pass()
	wg.Wait()
	if c.led || len(c.waiting) > 0 {
		t.Errorf("led is %t and %d wait when all is done", c.led, len(c.waiting))
	}
	return seqs, errs
}

// recordOf is a writer's record number n, on its own subject.
func recordOf(writer, n int, last uint64) transport.Outgoing {
	return transport.Outgoing{Subject: fmt.Sprintf("s.%d", writer), Data: fmt.Appendf(nil, "%d/%d", writer, n), Expect: &transport.Expect{Sequence: last}}
}

// inBatch tells whether a stored message came in an atomic batch.
func inBatch(t *testing.T, c *Conn, seq uint64) bool {
	t.Helper()
	var answer struct {
		Message struct {
			Headers string `json:"hdrs"`
		} `json:"message"`
	}
	if err := c.api(t.Context(), "STREAM.MSG.GET.S", map[string]any{"seq": seq}, &answer); err != nil {
		t.Fatal(err)
	}
	header, err := base64.StdEncoding.DecodeString(answer.Message.Headers)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(header), hdrBatchID)
}

// TestTogether: records that waited go in one batch, one with several messages among them; each writer learns its own
// last sequence, and the one that is fenced does.
func TestTogether(t *testing.T) {
	srv := embed(t, Options{SyncAlways: true})
	t.Cleanup(srv.Shutdown)
	c := connect(t, ConnectOptions{Server: srv})
	s := NewStreams(c, StreamsOptions{SyncAlways: true})
	if _, err := s.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	const writers, fenced, large = 12, 5, 7
	write := func(n int, last []uint64) func(i int) (uint64, error) {
		return func(i int) (uint64, error) {
			if i == large {
				return s.AppendAll(t.Context(), "S", []transport.Outgoing{recordOf(i, n, last[i]), recordOf(i, n, last[i])})
			}
			return s.Append(t.Context(), "S", recordOf(i, n, last[i]))
		}
	}
	check := func(seqs []uint64, n, i int, together bool) {
		t.Helper()
		m, err := s.LastOn(t.Context(), "S", fmt.Sprintf("s.%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%d/%d", i, n); m.Sequence != seqs[i] || string(m.Data) != want {
			t.Errorf("writer %d was told %d; the stream has %q at %d, want %q", i, seqs[i], m.Data, m.Sequence, want)
		}
		if i != large && inBatch(t, c, seqs[i]) != together {
			t.Errorf("writer %d, record %d: in a batch: %t", i, n, !together)
		}
	}

	seqs, errs := gathered(t, s, writers, write(1, make([]uint64, writers)))
	for i, err := range errs {
		if err != nil {
			t.Fatalf("writer %d: %v", i, err)
		}
		check(seqs, 1, i, true)
	}
	last := append([]uint64(nil), seqs...)
	last[fenced] += 100
	seqs, errs = gathered(t, s, writers, write(2, last))
	for i, err := range errs {
		switch {
		case i == fenced:
			if !errors.Is(err, transport.ErrFenced) {
				t.Errorf("writer %d: got %v, want a fence", i, err)
			}
		case err != nil:
			t.Errorf("writer %d: %v", i, err)
		default:
			check(seqs, 2, i, false)
		}
	}
}

// TestFewGoAlone: a batch would cost more than what it saves.
func TestFewGoAlone(t *testing.T) {
	srv := embed(t, Options{SyncAlways: true})
	t.Cleanup(srv.Shutdown)
	c := connect(t, ConnectOptions{Server: srv})
	s := NewStreams(c, StreamsOptions{SyncAlways: true})
	if _, err := s.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	seqs, errs := gathered(t, s, batchCost, func(i int) (uint64, error) { return s.Append(t.Context(), "S", recordOf(i, 1, 0)) })
	for i, err := range errs {
		if err != nil || inBatch(t, c, seqs[i]) {
			t.Errorf("writer %d: error %v, or in a batch", i, err)
		}
	}
}

// TestManyWritersTogether: every writer's records are there, once and in order, however they met.
func TestManyWritersTogether(t *testing.T) {
	srv := embed(t, Options{SyncAlways: true})
	t.Cleanup(srv.Shutdown)
	s := NewStreams(connect(t, ConnectOptions{Server: srv}), StreamsOptions{SyncAlways: true, AckTimeout: 30 * time.Second})
	if _, err := s.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	const writers, records = 16, 25
	told := make([][]uint64, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := uint64(0)
			for n := range records {
				var err error
				if last, err = s.Append(t.Context(), "S", recordOf(w, n, last)); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				told[w] = append(told[w], last)
			}
		})
	}
	wg.Wait()
	r, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := make([]int, writers)
	for seen := 0; seen < writers*records && !t.Failed(); {
		ms, err := r.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			seen++
			var w, n int
			if _, err := fmt.Sscanf(string(m.Data), "%d/%d", &w, &n); err != nil {
				t.Fatal(err)
			}
			if n != next[w] || told[w][n] != m.Sequence {
				t.Fatalf("%s at %d; record %d comes next, and its writer was told %d", m.Data, m.Sequence, next[w], told[w][n])
			}
			next[w]++
		}
	}
}

// TestTogetherInDoubt: a batch without an answer is in doubt for each of its writers, and each settles it as if it had
// been alone.
func TestTogetherInDoubt(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{SyncAlways: true, AckTimeout: 300 * time.Millisecond})
	if _, err := slow.Info(t.Context(), "S"); err != nil { // or the first Append asks for it
		t.Fatal(err)
	}
	const writers = 10
	write := func(i int) (uint64, error) { return slow.Append(t.Context(), "S", recordOf(i, 1, 0)) }
	p.set(true, false)
	_, errs := gathered(t, slow, writers, write)
	for i, err := range errs {
		if !errors.Is(err, transport.ErrDoubt) {
			t.Errorf("writer %d: got %v, want doubt", i, err)
		}
	}
	p.set(true, true)
	_, errs = gathered(t, slow, writers, func(i int) (seq uint64, err error) {
		for err = transport.ErrDoubt; errors.Is(err, transport.ErrDoubt); {
			seq, err = write(i)
		}
		return seq, err
	})
	for i, err := range errs {
		if !errors.Is(err, transport.ErrFenced) {
			t.Errorf("writer %d: got %v, want a fence: it is stored", i, err)
		}
	}
	if got := stored(t, straight); len(got) != writers {
		t.Errorf("stored: %q", got)
	}
}

// TestContextEndsAWait: who only waits may go, and nothing of it is stored. A batch ends early when all of its writers want to go.
func TestContextEndsAWait(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{SyncAlways: true, AckTimeout: time.Minute})
	if _, err := slow.Info(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	c := slow.combiner("S")
	c.join(new(record)) // somebody else leads
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := slow.Append(ctx, "S", recordOf(0, 1, 0)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, transport.ErrDoubt) {
		t.Errorf("got %v, want the context's error and no doubt", err)
	}
	if len(c.waiting) != 0 {
		t.Errorf("%d wait", len(c.waiting))
	}
	c.pass()
	if got := stored(t, straight); len(got) != 0 {
		t.Errorf("stored: %q", got)
	}

	p.set(false, false)
	ctx, cancel = context.WithCancel(t.Context())
	start := time.Now()
	time.AfterFunc(100*time.Millisecond, cancel)
	_, errs := gathered(t, slow, 10, func(i int) (uint64, error) { return slow.Append(ctx, "S", recordOf(i, 1, 0)) })
	for i, err := range errs {
		if !errors.Is(err, transport.ErrDoubt) || !errors.Is(err, context.Canceled) {
			t.Errorf("writer %d: got %v, want doubt and the context's error", i, err)
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("they went after %s only", d)
	}
}

// TestTake: what goes with a record, and what waits for the next batch.
func TestTake(t *testing.T) {
	on := func(subject string) transport.Outgoing {
		return transport.Outgoing{Subject: subject, Expect: &transport.Expect{Sequence: 7}}
	}
	fenced := func(subject, fence string) transport.Outgoing {
		return transport.Outgoing{Subject: subject, Expect: &transport.Expect{Subject: fence, Sequence: 7}}
	}
	many := func(n int) []transport.Outgoing {
		ms := make([]transport.Outgoing, n)
		for i := range ms {
			ms[i] = on(fmt.Sprintf("many.%d.%d", n, i))
		}
		return ms
	}
	for name, x := range map[string]struct {
		first, second []transport.Outgoing
		bytes         int
		want          int
	}{
		"different subjects":                   {[]transport.Outgoing{on("a")}, []transport.Outgoing{on("b")}, 0, 2},
		"the same subject":                     {[]transport.Outgoing{on("a")}, []transport.Outgoing{on("a")}, 0, 1},
		"outputs to one subject":               {[]transport.Outgoing{fenced("a", "f1")}, []transport.Outgoing{fenced("a", "f2")}, 0, 2},
		"outputs behind one fence":             {[]transport.Outgoing{fenced("a", "f")}, []transport.Outgoing{fenced("b", "f")}, 0, 2},
		"a fence, and outputs behind it":       {[]transport.Outgoing{on("f")}, []transport.Outgoing{fenced("b", "f")}, 0, 1},
		"outputs, and a fence before them":     {[]transport.Outgoing{fenced("b", "f")}, []transport.Outgoing{on("f")}, 0, 1},
		"more messages than a batch may have":  {many(600), many(401), 0, 1},
		"as many messages as a batch may have": {many(600), many(400), 0, 2},
		"more bytes than a batch may have":     {many(1), many(2), batchBytes, 1},
	} {
		var c combiner
		a, b := &record{ms: x.first, bytes: 1}, &record{ms: x.second, bytes: x.bytes}
		c.join(a)
		c.join(b)
		if got := len(c.take(a)); got != x.want || len(c.waiting) != 2-x.want {
			t.Errorf("%s: %d records together, %d wait; want %d and %d", name, got, len(c.waiting), x.want, 2-x.want)
		}
	}
	var c combiner
	c.join(new(record))
	for range maxWaiting {
		c.join(new(record))
	}
	if at := c.join(new(record)); at != full {
		t.Errorf("with %d waiting the next one is told %d", maxWaiting, at)
	}
}

// BenchmarkRecords is several partitions that write records of 2 KiB, each to its own subject of one log, with a sync before
// each answer.
func BenchmarkRecords(b *testing.B) {
	s := embed(b, Options{SyncAlways: true})
	b.Cleanup(s.Shutdown)
	c := connect(b, ConnectOptions{Server: s})
	for _, writers := range []int{1, 2, 4, 8, 32} {
		for _, apart := range []bool{true, false} {
			b.Run(fmt.Sprintf("writers=%d/apart=%t", writers, apart), func(b *testing.B) {
				t := NewStreams(c, StreamsOptions{SyncAlways: true})
				t.apart = apart
				name := fmt.Sprintf("B%d", benchStreams.Add(1))
				if _, err := t.Ensure(b.Context(), transport.Config{Name: name, Subjects: []string{name + ".>"}}); err != nil {
					b.Fatal(err)
				}
				benchRecords(b, t, name, writers)
			})
		}
	}
}

// BenchmarkReplicatedRecords is the same with three replicas.
func BenchmarkReplicatedRecords(b *testing.B) {
	servers := clusterOf(b, true)
	c := connect(b, ConnectOptions{URL: servers[0].ClientURL()})
	for _, writers := range []int{1, 2, 4, 8, 32} {
		for _, apart := range []bool{true, false} {
			b.Run(fmt.Sprintf("writers=%d/apart=%t", writers, apart), func(b *testing.B) {
				t := NewStreams(c, StreamsOptions{SyncAlways: true})
				t.apart = apart
				name := fmt.Sprintf("R%d", benchStreams.Add(1))
				config := streamConfig{Name: name, Subjects: []string{name + ".>"}, Retention: "limits", Storage: "file", MaxMsgs: -1, MaxBytes: -1,
					MaxConsumers: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 3, Discard: "old", AllowAtomic: true}
				if err := c.api(b.Context(), "STREAM.CREATE."+name, config, nil); err != nil {
					b.Fatal(err)
				}
				benchRecords(b, t, name, writers)
			})
		}
	}
}

func benchRecords(b *testing.B, t *Streams, name string, writers int) {
	data := make([]byte, 2<<10)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := uint64(0)
			for left.Add(-1) >= 0 {
				var err error
				last, err = t.Append(b.Context(), name, transport.Outgoing{Subject: fmt.Sprintf("%s.%d", name, w), Data: data, Expect: &transport.Expect{Sequence: last}})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

var benchStreams atomic.Int64
