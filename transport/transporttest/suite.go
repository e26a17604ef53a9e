// Package transporttest holds what every answer to the transport port must do: one suite, which
// transport/memory and transport/nats pass, and the benchmarks that compare them.
package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// Answer is what the suite tests. The functions may be nil where there is nothing of that kind.
type Answer struct {
	Streams transport.Streams
	Objects transport.Objects

	// Restart stops the server, runs meanwhile, and starts the server again with what it had stored.
	Restart func(meanwhile func())
	// DropConsumers takes all readers' consumers of a stream away, behind their backs, and says how many.
	DropConsumers func(stream string) int
	// DropConnections breaks all connections once.
	DropConnections func()
	// Corrupt changes stored bytes of an object.
	Corrupt func(object string)
}

// Run runs the suite. open makes an empty answer, which t's clean-up ends.
func Run(t *testing.T, open func(t *testing.T) Answer) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"ensure", (*suite).ensure},
		{"info", (*suite).info},
		{"capturing", (*suite).capturing},
		{"list and delete", (*suite).listAndDelete},
		{"append and read", (*suite).appendAndRead},
		{"headers", (*suite).headers},
		{"fence", (*suite).fence},
		{"fence on another subject", (*suite).fenceOnAnother},
		{"fence after a cut", (*suite).fenceAfterCut},
		{"batch is atomic", (*suite).batchIsAtomic},
		{"batch of several fences", (*suite).batchOfSeveralFences},
		{"batch limits", (*suite).batchLimits},
		{"publish", (*suite).publish},
		{"publish stops at a refusal", (*suite).publishStops},
		{"last on a subject", (*suite).lastOn},
		{"cut", (*suite).cut},
		{"filters", (*suite).filters},
		{"one message a subject", (*suite).table},
		{"some messages a subject", (*suite).perSubject},
		{"a table is followed", (*suite).followTable},
		{"headers only", (*suite).headersOnly},
		{"bulk", (*suite).bulk},
		{"slow reader", (*suite).slowReader},
		{"order of many", (*suite).orderOfMany},
		{"large messages", (*suite).largeMessages},
		{"full", (*suite).full},
		{"not found", (*suite).notFound},
		{"gap at the front", (*suite).gapAtFront},
		{"gap while reading", (*suite).gapWhileReading},
		{"beyond the end", (*suite).beyondTheEnd},
		{"stream deleted while reading", (*suite).deletedWhileReading},
		{"stream replaced while reading", (*suite).replacedWhileReading},
		{"reader waits and ends", (*suite).waitsAndEnds},
		{"two writers race", (*suite).race},
		{"many writers in batches", (*suite).manyBatches},
		{"a context that is over", (*suite).contextOver},
		{"consumers dropped while reading", (*suite).consumersDropped},
		{"connections dropped", (*suite).connectionsDropped},
		{"restart", (*suite).restart},
		{"objects", (*suite).objects},
		{"object corrupt", (*suite).objectCorrupt},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.test(&suite{T: t, Answer: open(t), ctx: ctx})
		})
	}
}

// suite is one test's tools.
type suite struct {
	*testing.T
	Answer
	ctx context.Context
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) mustBe(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got error %v, want %v", err, want)
	}
}

func (s *suite) stream(c transport.Config) {
	s.Helper()
	_, err := s.Streams.Ensure(s.ctx, c)
	s.must(err)
}

// simple makes stream S with subjects s.>.
func (s *suite) simple() {
	s.Helper()
	s.stream(transport.Config{Name: "S", Subjects: []string{"s.>"}})
}

func (s *suite) add(subject, data string) uint64 {
	s.Helper()
	seq, err := s.Streams.Append(s.ctx, "S", out(subject, data))
	s.must(err)
	return seq
}

func out(subject, data string) transport.Outgoing {
	return transport.Outgoing{Subject: subject, Data: []byte(data)}
}

func fenced(subject, data, on string, seq uint64) transport.Outgoing {
	m := out(subject, data)
	m.Expect = &transport.Expect{Subject: on, Sequence: seq}
	return m
}

func (s *suite) read(stream string, opt transport.ReadOptions) transport.Reader {
	s.Helper()
	r, err := s.Streams.Read(s.ctx, stream, opt)
	s.must(err)
	s.Cleanup(r.Close)
	return r
}

// take reads n messages, and fails if more come than were asked for.
func (s *suite) take(r transport.Reader, n int) []transport.Message {
	s.Helper()
	var all []transport.Message
	for len(all) < n {
		got, err := r.Next(s.ctx, n-len(all))
		if err != nil {
			s.Fatalf("after %d messages: %v", len(all), err)
		}
		if len(got) > n-len(all) {
			s.Fatalf("asked for %d messages, got %d", n-len(all), len(got))
		}
		all = append(all, got...)
	}
	return all
}

// quiet fails if the reader has a message now.
func (s *suite) quiet(r transport.Reader) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	if got, err := r.Next(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("got %v and error %v, want nothing", texts(got), err)
	}
}

func texts(ms []transport.Message) []string {
	var all []string
	for _, m := range ms {
		all = append(all, fmt.Sprintf("%d %s %s", m.Sequence, m.Subject, m.Data))
	}
	return all
}

func (s *suite) same(got []transport.Message, want ...string) {
	s.Helper()
	if !slices.Equal(texts(got), want) {
		s.Fatalf("got %q, want %q", texts(got), want)
	}
}

// all reads the whole of stream S.
func (s *suite) all() []transport.Message {
	s.Helper()
	info, err := s.Streams.Info(s.ctx, "S")
	s.must(err)
	r := s.read("S", transport.ReadOptions{})
	defer r.Close()
	return s.take(r, int(info.Messages))
}

func (s *suite) ensure() {
	c := transport.Config{Name: "S", Subjects: []string{"s.>"}, MaxBytes: 1 << 20, DiscardNew: true, Description: "a test's"}
	first, err := s.Streams.Ensure(s.ctx, c)
	s.must(err)
	if first.Name != "S" || first.MaxBytes != 1<<20 || !first.DiscardNew || first.Description != "a test's" || first.Lossy != "" {
		s.Errorf("made as %+v", first)
	}
	if first.Replicas < 1 || first.First != 1 || first.Last != 0 || first.Messages != 0 || time.Since(first.Created).Abs() > time.Hour {
		s.Errorf("made as %+v", first)
	}
	again, err := s.Streams.Ensure(s.ctx, transport.Config{Name: "S", Subjects: []string{"s.a", "t.*"}, MaxBytes: 2 << 20})
	s.must(err)
	if want := []string{"s.>", "t.*"}; !slices.Equal(again.Subjects, want) || again.MaxBytes != 1<<20 || !again.Created.Equal(first.Created) {
		s.Errorf("ensured again as %+v, want subjects %v and the rest as it was", again, want)
	}
	_, err = s.Streams.Append(s.ctx, "S", out("t.x", "1"))
	s.must(err)
	if _, err := s.Streams.Ensure(s.ctx, transport.Config{Name: "T", Subjects: []string{"s.b.>"}}); err == nil {
		s.Error("a second stream with the same subjects was made")
	}
	for _, name := range []string{"", "a b", "a.b", "a*", "a>", "a/b"} {
		if _, err := s.Streams.Ensure(s.ctx, transport.Config{Name: name, Subjects: []string{"u.>"}}); err == nil {
			s.Errorf("a stream of the name %q was made", name)
		}
	}
}

func (s *suite) info() {
	s.simple()
	for i := range 5 {
		s.add("s.a", strconv.Itoa(i))
	}
	i, err := s.Streams.Info(s.ctx, "S")
	s.must(err)
	if i.First != 1 || i.Last != 5 || i.Messages != 5 || i.Bytes <= 0 {
		s.Errorf("five messages: %+v", i)
	}
	s.must(s.Streams.Cut(s.ctx, "S", "", 4))
	i, err = s.Streams.Info(s.ctx, "S")
	s.must(err)
	if i.First != 4 || i.Last != 5 || i.Messages != 2 {
		s.Errorf("after a cut below 4: %+v", i)
	}
	s.must(s.Streams.Cut(s.ctx, "S", "", 1000))
	i, err = s.Streams.Info(s.ctx, "S")
	s.must(err)
	if i.First != 6 || i.Last != 5 || i.Messages != 0 {
		s.Errorf("after a cut of everything: %+v", i)
	}
	if seq := s.add("s.a", "x"); seq != 6 {
		s.Errorf("the next message has sequence %d, want 6", seq)
	}
	lossy, err := s.Streams.Ensure(s.ctx, transport.Config{Name: "L", Subjects: []string{"l"}, MaxBytes: 1 << 20})
	s.must(err)
	aged, err := s.Streams.Ensure(s.ctx, transport.Config{Name: "M", Subjects: []string{"m"}, MaxAge: time.Hour})
	s.must(err)
	if lossy.Lossy == "" || aged.Lossy == "" {
		s.Errorf("not called lossy: %+v, %+v", lossy, aged)
	}
}

func (s *suite) capturing() {
	s.stream(transport.Config{Name: "A", Subjects: []string{"a.>"}})
	s.stream(transport.Config{Name: "B", Subjects: []string{"b.one", "b.two"}})
	for subject, want := range map[string]string{"a.x": "A", "a.x.y": "A", "a.>": "A", "b.two": "B", "b.*": "B", "a.*": "A"} {
		if i, err := s.Streams.Capturing(s.ctx, subject); err != nil || i.Name != want {
			s.Errorf("%s is stored by %q (%v), want %s", subject, i.Name, err, want)
		}
	}
	for _, subject := range []string{"b.three", "c", "a"} {
		_, err := s.Streams.Capturing(s.ctx, subject)
		s.mustBe(err, transport.ErrNotFound)
	}
}

func (s *suite) listAndDelete() {
	for _, name := range []string{"X2", "X1", "Y1", "X10"} {
		s.stream(transport.Config{Name: name, Subjects: []string{"n." + name}})
	}
	got, err := s.Streams.List(s.ctx, "X")
	s.must(err)
	if want := []string{"X1", "X10", "X2"}; !slices.Equal(got, want) {
		s.Errorf("listed %v, want %v", got, want)
	}
	s.must(s.Streams.Delete(s.ctx, "X10"))
	s.must(s.Streams.Delete(s.ctx, "X10"))
	s.must(s.Streams.Delete(s.ctx, "never"))
	got, err = s.Streams.List(s.ctx, "")
	s.must(err)
	if want := []string{"X1", "X2", "Y1"}; !slices.Equal(got, want) {
		s.Errorf("listed %v, want %v", got, want)
	}
}

func (s *suite) appendAndRead() {
	s.simple()
	before := time.Now()
	for i := range 3 {
		if seq := s.add("s.a", strconv.Itoa(i)); seq != uint64(i+1) {
			s.Fatalf("message %d has sequence %d", i, seq)
		}
	}
	r := s.read("S", transport.ReadOptions{})
	got := s.take(r, 3)
	s.same(got, "1 s.a 0", "2 s.a 1", "3 s.a 2")
	for _, m := range got {
		if m.Time.Before(before.Add(-time.Minute)) || m.Time.After(time.Now().Add(time.Minute)) || m.Time.Location() != time.UTC {
			s.Errorf("message %d has the time %v", m.Sequence, m.Time)
		}
		if m.Header != nil {
			s.Errorf("message %d has the header %v, want none", m.Sequence, m.Header)
		}
	}
	s.add("s.b", "3")
	s.same(s.take(r, 1), "4 s.b 3") // while it waits or before
	s.same(s.take(s.read("S", transport.ReadOptions{From: 3}), 2), "3 s.a 2", "4 s.b 3")
	later := s.read("S", transport.ReadOptions{From: 5})
	s.quiet(later)
	s.add("s.b", "4")
	s.same(s.take(s.read("S", transport.ReadOptions{From: 5}), 1), "5 s.b 4")
	got = s.take(r, 1)
	s.same(got, "5 s.b 4")
	kept := got[0]
	s.add("s.b", "five")
	s.take(r, 1)
	if string(kept.Data) != "4" {
		s.Errorf("a message's data became %q after the next call", kept.Data)
	}
}

func (s *suite) headers() {
	s.simple()
	m := out("s.a", "with")
	m.Header = []transport.Field{{Name: "Kis-Origin", Value: "flow/1"}, {Name: "Kis-Text", Value: "größe 测试 : x"}, {Name: "a", Value: ""}}
	m.Expect = &transport.Expect{}
	_, err := s.Streams.Append(s.ctx, "S", m)
	s.must(err)
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{m2(m, 1), out("s.a", "without")})
	s.must(err)
	got := s.take(s.read("S", transport.ReadOptions{}), 3)
	for _, g := range got[:2] {
		if len(g.Header) != 3 || g.Get("Kis-Origin") != "flow/1" || g.Get("Kis-Text") != "größe 测试 : x" || g.Get("a") != "" {
			s.Errorf("read the header %q", g.Header)
		}
	}
	if got[2].Header != nil {
		s.Errorf("read the header %q, want none", got[2].Header)
	}
	last, err := s.Streams.LastOn(s.ctx, "S", "s.a")
	s.must(err)
	if last.Header != nil || string(last.Data) != "without" {
		s.Errorf("the last message is %+v", last)
	}
}

func m2(m transport.Outgoing, seq uint64) transport.Outgoing {
	m.Expect = &transport.Expect{Sequence: seq}
	return m
}

func (s *suite) fence() {
	s.simple()
	seq, err := s.Streams.Append(s.ctx, "S", fenced("s.a", "1", "", 0))
	s.must(err)
	s.add("s.b", "other") // does not matter to s.a
	for _, wrong := range []uint64{0, 2, 7} {
		_, err = s.Streams.Append(s.ctx, "S", fenced("s.a", "2", "", wrong))
		s.mustBe(err, transport.ErrFenced)
	}
	seq, err = s.Streams.Append(s.ctx, "S", fenced("s.a", "2", "", seq))
	s.must(err)
	if seq != 3 {
		s.Errorf("got sequence %d, want 3", seq)
	}
	s.same(s.all(), "1 s.a 1", "2 s.b other", "3 s.a 2")
}

func (s *suite) fenceOnAnother() {
	s.simple()
	at := s.add("s.fence", "mine")
	for i := range 3 {
		_, err := s.Streams.Append(s.ctx, "S", fenced("s.a", strconv.Itoa(i), "s.fence", at))
		s.must(err)
	}
	now := s.add("s.fence", "yours")
	_, err := s.Streams.Append(s.ctx, "S", fenced("s.a", "x", "s.fence", at))
	s.mustBe(err, transport.ErrFenced)
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{out("s.a", "y"), fenced("s.a", "x", "s.fence", at)})
	s.mustBe(err, transport.ErrFenced)
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced("s.fence", "z", "s.fence", now), out("s.a", "z")})
	s.must(err)
	s.same(s.all(), "1 s.fence mine", "2 s.a 0", "3 s.a 1", "4 s.a 2", "5 s.fence yours", "6 s.fence z", "7 s.a z")
}

func (s *suite) fenceAfterCut() {
	s.simple()
	s.add("s.a", "1")
	s.add("s.a", "2")
	s.must(s.Streams.Cut(s.ctx, "S", "s.a", 2))
	_, err := s.Streams.Append(s.ctx, "S", fenced("s.a", "x", "", 0))
	s.mustBe(err, transport.ErrFenced)
	_, err = s.Streams.Append(s.ctx, "S", fenced("s.a", "3", "", 2))
	s.must(err)
	s.must(s.Streams.Cut(s.ctx, "S", "s.a", 4))
	_, err = s.Streams.Append(s.ctx, "S", fenced("s.a", "x", "", 3))
	s.mustBe(err, transport.ErrFenced) // it is gone: none is there, which is 0
	_, err = s.Streams.Append(s.ctx, "S", fenced("s.a", "4", "", 0))
	s.must(err)
}

func (s *suite) batchIsAtomic() {
	s.simple()
	last, err := s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced("s.a", "1", "", 0), out("s.a", "2"), out("s.b", "3")})
	s.must(err)
	if last != 3 {
		s.Errorf("last sequence %d, want 3", last)
	}
	bad := [][]transport.Outgoing{
		{fenced("s.a", "x", "", 0), out("s.b", "x")},                            // the first is refused
		{out("s.b", "x"), out("s.c", "x"), fenced("s.a", "x", "", 1)},           // the last
		{out("s.b", "x"), fenced("s.a", "x", "", 1), out("s.c", "x")},           // one between
		{fenced("s.a", "x", "", 2), fenced("s.b", "x", "", 2), out("s.c", "x")}, // the second of two fences
	}
	for i, ms := range bad {
		_, err = s.Streams.AppendAll(s.ctx, "S", ms)
		if !errors.Is(err, transport.ErrFenced) {
			s.Errorf("batch %d: %v, want a fence", i, err)
		}
	}
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced("s.a", "4", "", 2)}) // one alone
	s.must(err)
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced("s.a", "x", "", 2)})
	s.mustBe(err, transport.ErrFenced)
	if _, err = s.Streams.AppendAll(s.ctx, "S", nil); err == nil {
		s.Error("a batch of nothing was stored")
	}
	s.same(s.all(), "1 s.a 1", "2 s.a 2", "3 s.b 3", "4 s.a 4")
}

func (s *suite) batchOfSeveralFences() {
	s.simple()
	var ms []transport.Outgoing
	for i := range 8 { // the records of eight partitions
		ms = append(ms, fenced(fmt.Sprintf("s.p%d", i), "1", "", 0))
	}
	_, err := s.Streams.AppendAll(s.ctx, "S", ms)
	s.must(err)
	for i := range ms {
		ms[i].Expect = &transport.Expect{Sequence: uint64(i + 1)}
	}
	ms[5].Expect.Sequence = 5
	_, err = s.Streams.AppendAll(s.ctx, "S", ms)
	s.mustBe(err, transport.ErrFenced)
	ms[5].Expect.Sequence = 6
	last, err := s.Streams.AppendAll(s.ctx, "S", ms)
	s.must(err)
	if last != 16 {
		s.Errorf("last sequence %d, want 16", last)
	}
	// The same fence may be said by each message of a batch.
	at := s.add("s.fence", "")
	for i := range ms {
		ms[i].Expect = &transport.Expect{Subject: "s.fence", Sequence: at}
	}
	_, err = s.Streams.AppendAll(s.ctx, "S", ms)
	s.must(err)
}

func (s *suite) batchLimits() {
	s.simple()
	ms := make([]transport.Outgoing, 1001)
	for i := range ms {
		ms[i] = out("s.a", strconv.Itoa(i))
	}
	_, err := s.Streams.AppendAll(s.ctx, "S", ms)
	s.mustBe(err, transport.ErrTooLarge)
	last, err := s.Streams.AppendAll(s.ctx, "S", ms[:1000])
	s.must(err)
	if last != 1000 {
		s.Errorf("last sequence %d, want 1000", last)
	}
	big := make([]byte, 2<<20)
	last, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{
		{Subject: "s.r", Data: big, Expect: &transport.Expect{}}, {Subject: "s.r", Data: big}, {Subject: "s.r", Data: big}})
	s.must(err)
	if last != 1003 {
		s.Errorf("last sequence %d, want 1003", last)
	}
	for i, m := range s.take(s.read("S", transport.ReadOptions{}), 1003) {
		if i < 1000 && string(m.Data) != strconv.Itoa(i) || i >= 1000 && !bytes.Equal(m.Data, big) {
			s.Fatalf("message %d is %d bytes on %s", i, len(m.Data), m.Subject)
		}
	}
}

func (s *suite) publish() {
	s.simple()
	at := s.add("s.fence", "")
	ms := make([]transport.Outgoing, 5000)
	for i := range ms {
		ms[i] = fenced(fmt.Sprintf("s.k%d", i%7), strconv.Itoa(i), "s.fence", at)
	}
	seqs, err := s.Streams.Publish(s.ctx, "S", ms)
	s.must(err)
	if len(seqs) != len(ms) {
		s.Fatalf("%d stored, want %d", len(seqs), len(ms))
	}
	got := s.take(s.read("S", transport.ReadOptions{From: 2}), len(ms))
	for i, m := range got {
		if string(m.Data) != strconv.Itoa(i) || m.Sequence != seqs[i] || m.Subject != ms[i].Subject {
			s.Fatalf("place %d: message %d on %s is %q; it was said to be %d", i, m.Sequence, m.Subject, m.Data, seqs[i])
		}
	}
	for _, few := range [][]transport.Outgoing{nil, ms[:1]} {
		if seqs, err := s.Streams.Publish(s.ctx, "S", few); err != nil || len(seqs) != len(few) {
			s.Errorf("%d messages: %d stored, error %v", len(few), len(seqs), err)
		}
	}
	// Each its own subject and expectation, as hand-offs to several receivers have it.
	seqs, err = s.Streams.Publish(s.ctx, "S", []transport.Outgoing{fenced("s.x", "1", "", 0), fenced("s.y", "1", "", 0), fenced("s.z", "1", "", 0)})
	if err != nil || len(seqs) != 3 {
		s.Errorf("three receivers: %v stored, error %v", seqs, err)
	}
}

func (s *suite) publishStops() {
	s.simple()
	at := s.add("s.fence", "")
	ms := make([]transport.Outgoing, 100)
	for i := range ms {
		ms[i] = fenced("s.a", strconv.Itoa(i), "s.fence", at-1)
	}
	seqs, err := s.Streams.Publish(s.ctx, "S", ms)
	s.mustBe(err, transport.ErrFenced)
	if len(seqs) != 0 {
		s.Errorf("%d stored behind a fence", len(seqs))
	}
	s.same(s.all(), "1 s.fence ")
}

func (s *suite) lastOn() {
	s.simple()
	_, err := s.Streams.LastOn(s.ctx, "S", "s.a")
	s.mustBe(err, transport.ErrNotFound)
	s.add("s.a", "1")
	s.add("s.a", "2")
	s.add("s.b", "3")
	m, err := s.Streams.LastOn(s.ctx, "S", "s.a")
	s.must(err)
	s.same([]transport.Message{m}, "2 s.a 2")
	if m.Time.IsZero() || m.Time.Location() != time.UTC {
		s.Errorf("its time is %v", m.Time)
	}
	m, err = s.Streams.LastOn(s.ctx, "S", "s.>")
	s.must(err)
	s.same([]transport.Message{m}, "3 s.b 3")
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	_, err = s.Streams.Append(s.ctx, "S", transport.Outgoing{Subject: "s.a", Data: data})
	s.must(err)
	if m, err = s.Streams.LastOn(s.ctx, "S", "s.a"); err != nil || !bytes.Equal(m.Data, data) {
		s.Errorf("1 MiB came back as %d bytes, error %v", len(m.Data), err)
	}
}

func (s *suite) cut() {
	s.simple()
	for i := range 10 {
		s.add([]string{"s.a", "s.b"}[i%2], strconv.Itoa(i))
	}
	s.must(s.Streams.Cut(s.ctx, "S", "s.a", 6)) // 1, 3, 5
	s.same(s.all(), "2 s.b 1", "4 s.b 3", "6 s.b 5", "7 s.a 6", "8 s.b 7", "9 s.a 8", "10 s.b 9")
	s.must(s.Streams.Cut(s.ctx, "S", "", 8))
	s.same(s.all(), "8 s.b 7", "9 s.a 8", "10 s.b 9")
	s.must(s.Streams.Cut(s.ctx, "S", "", 1))
	s.must(s.Streams.Cut(s.ctx, "S", "", 0))
	s.must(s.Streams.Cut(s.ctx, "S", "s.none", 100))
	s.must(s.Streams.Cut(s.ctx, "S", "s.b", 100))
	s.same(s.all(), "9 s.a 8")
	if seq := s.add("s.a", "next"); seq != 11 {
		s.Errorf("the next sequence is %d, want 11", seq)
	}
}

func (s *suite) filters() {
	s.simple()
	for i := range 9 {
		s.add([]string{"s.a", "s.b", "s.c.d"}[i%3], strconv.Itoa(i))
	}
	s.same(s.take(s.read("S", transport.ReadOptions{Subjects: []string{"s.b"}}), 3), "2 s.b 1", "5 s.b 4", "8 s.b 7")
	s.same(s.take(s.read("S", transport.ReadOptions{Subjects: []string{"s.a", "s.c.>"}, From: 4}), 4), "4 s.a 3", "6 s.c.d 5", "7 s.a 6", "9 s.c.d 8")
	s.same(s.take(s.read("S", transport.ReadOptions{Subjects: []string{"s.*"}, From: 6}), 2), "7 s.a 6", "8 s.b 7")
	r := s.read("S", transport.ReadOptions{Subjects: []string{"s.none"}})
	s.quiet(r)
	r = s.read("S", transport.ReadOptions{Subjects: []string{"s.late"}, From: 10})
	s.add("s.a", "x")
	s.add("s.late", "y")
	s.same(s.take(r, 1), "11 s.late y")
	s.quiet(r)
}

// table uses a stream as a bucket of keys and values, with the names that NATS has for one.
func (s *suite) table() {
	info, err := s.Streams.Ensure(s.ctx, transport.Config{Name: "KV_T", Subjects: []string{"$KV.T.>"}, PerSubject: 1})
	s.must(err)
	if info.PerSubject != 1 || info.Lossy == "" {
		s.Errorf("made as %+v", info)
	}
	const key = "$KV.T.member.a"
	put := func(data string, after uint64) (uint64, error) {
		return s.Streams.Append(s.ctx, "KV_T", fenced(key, data, "", after))
	}
	_, err = s.Streams.LastOn(s.ctx, "KV_T", key)
	s.mustBe(err, transport.ErrNotFound)
	first, err := put("1", 0)
	s.must(err)
	_, err = put("x", 0) // it is there already
	s.mustBe(err, transport.ErrFenced)
	second, err := put("2", first)
	s.must(err)
	_, err = put("x", first) // another was quicker
	s.mustBe(err, transport.ErrFenced)
	_, err = s.Streams.Append(s.ctx, "KV_T", fenced("$KV.T.table", "t", key, first)) // and for another key's sake
	s.mustBe(err, transport.ErrFenced)
	_, err = s.Streams.Append(s.ctx, "KV_T", fenced("$KV.T.table", "t", key, second))
	s.must(err)
	last, err := s.Streams.LastOn(s.ctx, "KV_T", key)
	s.must(err)
	s.same([]transport.Message{last}, "2 $KV.T.member.a 2")
	// Both keys at once, then one of them again.
	_, err = s.Streams.AppendAll(s.ctx, "KV_T", []transport.Outgoing{fenced(key, "3", "", second), fenced("$KV.T.table", "u", "", 3)})
	s.must(err)
	_, err = put("4", 4)
	s.must(err)
	info, err = s.Streams.Info(s.ctx, "KV_T")
	s.must(err)
	if info.Messages != 2 || info.First != 5 || info.Last != 6 {
		s.Errorf("two keys: %+v", info)
	}
	for _, from := range []uint64{0, 1, 3, 5} { // what is gone is no gap
		s.ends(s.read("KV_T", transport.ReadOptions{From: from, Subjects: []string{"$KV.T.>"}}), "5 $KV.T.table u", "6 $KV.T.member.a 4")
	}
	one := s.read("KV_T", transport.ReadOptions{Subjects: []string{"$KV.T.member.*"}})
	s.ends(one, "6 $KV.T.member.a 4")
	s.quiet(one)
}

// ends reads until the last of the messages has come: what came before, from a replica that did not have all changes yet, was in order.
func (s *suite) ends(r transport.Reader, want ...string) {
	s.Helper()
	var all []transport.Message
	for len(all) == 0 || texts(all)[len(all)-1] != want[len(want)-1] {
		all = append(all, s.take(r, 1)...)
	}
	for i, m := range all {
		if i > 0 && m.Sequence <= all[i-1].Sequence {
			s.Fatalf("out of order: %q", texts(all))
		}
	}
	if len(all) < len(want) {
		s.Fatalf("got %q, want %q at the end", texts(all), want)
	}
	s.same(all[len(all)-len(want):], want...)
}

func (s *suite) perSubject() {
	s.stream(transport.Config{Name: "S", Subjects: []string{"s.>"}, PerSubject: 3})
	for i := range 5 {
		s.add("s.a", strconv.Itoa(i))
		s.add("s.b", strconv.Itoa(i))
	}
	s.add("s.c", "x")
	s.must(s.Streams.Cut(s.ctx, "S", "s.a", 6))
	s.ends(s.read("S", transport.ReadOptions{}), "6 s.b 2", "7 s.a 3", "8 s.b 3", "9 s.a 4", "10 s.b 4", "11 s.c x")
	s.add("s.a", "5")
	s.add("s.a", "6")
	s.ends(s.read("S", transport.ReadOptions{}), "6 s.b 2", "8 s.b 3", "9 s.a 4", "10 s.b 4", "11 s.c x", "12 s.a 5", "13 s.a 6")
}

// followTable follows keys that are replaced faster than they are read: the last value of each comes.
func (s *suite) followTable() {
	const keys, rounds = 5, 400
	s.stream(transport.Config{Name: "KV_T", Subjects: []string{"$KV.T.>"}, PerSubject: 1})
	r := s.read("KV_T", transport.ReadOptions{Subjects: []string{"$KV.T.>"}})
	var wg sync.WaitGroup
	for k := range keys {
		wg.Go(func() {
			var at uint64
			for i := range rounds {
				var err error
				if at, err = s.Streams.Append(s.ctx, "KV_T", fenced(fmt.Sprintf("$KV.T.%d", k), strconv.Itoa(i), "", at)); err != nil {
					s.Errorf("key %d, value %d: %v", k, i, err)
					return
				}
			}
		})
	}
	have := map[string]int{}
	var last uint64
	for done := 0; done < keys; {
		got, err := r.Next(s.ctx, 7)
		s.must(err)
		for _, m := range got {
			n, err := strconv.Atoi(string(m.Data))
			s.must(err)
			if before, ok := have[m.Subject]; ok && n <= before || m.Sequence <= last {
				s.Fatalf("%s: value %d at sequence %d after value %d and sequence %d", m.Subject, n, m.Sequence, before, last)
			}
			have[m.Subject], last = n, m.Sequence
			if n == rounds-1 {
				done++
			}
		}
	}
	wg.Wait()
}

func (s *suite) headersOnly() {
	s.simple()
	m := out("s.a", "data")
	m.Header = []transport.Field{{Name: "Kis-N", Value: "1"}}
	_, err := s.Streams.Append(s.ctx, "S", m)
	s.must(err)
	got := s.take(s.read("S", transport.ReadOptions{HeadersOnly: true}), 1)
	if len(got[0].Data) != 0 || got[0].Get("Kis-N") != "1" {
		s.Errorf("got %+v", got[0])
	}
}

// fill publishes n numbered messages to s.a and returns the number of bytes of each.
func (s *suite) fill(n, size int) {
	s.Helper()
	ms := make([]transport.Outgoing, 0, 1000)
	for i := range n {
		data := fmt.Appendf(nil, "%d ", i)
		if len(data) < size {
			data = append(data, bytes.Repeat([]byte{'x'}, size-len(data))...)
		}
		ms = append(ms, transport.Outgoing{Subject: "s.a", Data: data})
		if len(ms) == cap(ms) || i == n-1 {
			_, err := s.Streams.Publish(s.ctx, "S", ms)
			s.must(err)
			ms = ms[:0]
		}
	}
}

func (s *suite) numbered(m transport.Message, want int) {
	s.Helper()
	n, _, _ := bytes.Cut(m.Data, []byte(" "))
	if string(n) != strconv.Itoa(want) {
		s.Fatalf("message %d is number %s, want %d", m.Sequence, n, want)
	}
}

func (s *suite) bulk() {
	const n = 20_000
	s.simple()
	s.fill(n, 0)
	r := s.read("S", transport.ReadOptions{})
	calls, have := 0, 0
	for have < n {
		got, err := r.Next(s.ctx, 1<<20)
		s.must(err)
		if len(got) == 0 {
			s.Fatal("no messages and no error")
		}
		for _, m := range got {
			s.numbered(m, have)
			have++
		}
		calls++
		time.Sleep(time.Millisecond) // as one who works on them
	}
	if calls > n/20 {
		s.Errorf("%d calls for %d messages: not in bulk", calls, n)
	}
}

func (s *suite) slowReader() {
	s.simple()
	s.fill(300, 100_000) // 30 MB
	r := s.read("S", transport.ReadOptions{})
	for i := range 300 {
		s.numbered(s.take(r, 1)[0], i)
		if i < 10 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (s *suite) orderOfMany() {
	const writers, each = 4, 2500
	s.simple()
	var wg sync.WaitGroup
	defer wg.Wait()
	for w := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for n := 0; n < each; {
				k := min(1+rng.IntN(200), each-n)
				ms := make([]transport.Outgoing, k)
				for i := range ms {
					ms[i] = out(fmt.Sprintf("s.w%d", w), strconv.Itoa(n+i))
				}
				var err error
				if rng.IntN(2) == 0 {
					_, err = s.Streams.AppendAll(s.ctx, "S", ms)
				} else {
					_, err = s.Streams.Publish(s.ctx, "S", ms)
				}
				if err != nil {
					s.Errorf("writer %d: %v", w, err)
					return
				}
				n += k
			}
		})
	}
	r := s.read("S", transport.ReadOptions{}) // while they write
	next := map[string]int{}
	for seq := uint64(1); seq <= writers*each; {
		got, err := r.Next(s.ctx, 777)
		s.must(err)
		for _, m := range got {
			if m.Sequence != seq {
				s.Fatalf("sequence %d after %d", m.Sequence, seq-1)
			}
			seq++
			if string(m.Data) != strconv.Itoa(next[m.Subject]) {
				s.Fatalf("%s: got %s, want %d", m.Subject, m.Data, next[m.Subject])
			}
			next[m.Subject]++
		}
	}
}

func (s *suite) largeMessages() {
	s.simple()
	most := s.Streams.MaxMessage()
	if most < 1<<20 {
		s.Skipf("messages of at most %d bytes here", most)
	}
	for _, n := range []int{1 << 20, most} {
		data := bytes.Repeat([]byte{7}, n)
		_, err := s.Streams.Append(s.ctx, "S", transport.Outgoing{Subject: "s.a", Data: data, Expect: &transport.Expect{Subject: "s.fence"}})
		s.must(err)
	}
	tooMuch := make([]byte, most+1)
	_, err := s.Streams.Append(s.ctx, "S", transport.Outgoing{Subject: "s.a", Data: tooMuch})
	s.mustBe(err, transport.ErrTooLarge)
	_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{out("s.a", "x"), {Subject: "s.a", Data: tooMuch}})
	s.mustBe(err, transport.ErrTooLarge)
	_, err = s.Streams.Publish(s.ctx, "S", []transport.Outgoing{{Subject: "s.a", Data: tooMuch}, out("s.a", "x")})
	s.mustBe(err, transport.ErrTooLarge)
	r := s.read("S", transport.ReadOptions{})
	for _, n := range []int{1 << 20, most} {
		if m := s.take(r, 1)[0]; len(m.Data) != n {
			s.Fatalf("read %d bytes, want %d", len(m.Data), n)
		}
	}
	s.add("s.a", "after")
	s.same(s.take(r, 1), "3 s.a after")
}

func (s *suite) full() {
	s.stream(transport.Config{Name: "S", Subjects: []string{"s.>"}, MaxBytes: 10_000, DiscardNew: true})
	var ms []transport.Outgoing
	for range 20 {
		ms = append(ms, transport.Outgoing{Subject: "s.a", Data: make([]byte, 1000)})
	}
	seqs, err := s.Streams.Publish(s.ctx, "S", ms)
	s.mustBe(err, transport.ErrFull)
	stored := len(seqs) // none where all went in one batch
	for err = nil; err == nil && stored <= 10; stored++ {
		_, err = s.Streams.Append(s.ctx, "S", ms[0])
	}
	s.mustBe(err, transport.ErrFull)
	if stored < 5 {
		s.Errorf("full after %d messages of 1000 bytes, of 10,000", stored)
	}
	_, err = s.Streams.AppendAll(s.ctx, "S", ms[:2])
	s.mustBe(err, transport.ErrFull)
	s.must(s.Streams.Cut(s.ctx, "S", "", 5))
	_, err = s.Streams.Append(s.ctx, "S", ms[0])
	s.must(err)
}

func (s *suite) notFound() {
	_, err := s.Streams.Info(s.ctx, "NONE")
	s.mustBe(err, transport.ErrNotFound)
	_, err = s.Streams.Read(s.ctx, "NONE", transport.ReadOptions{})
	s.mustBe(err, transport.ErrNotFound)
	_, err = s.Streams.LastOn(s.ctx, "NONE", "s.a")
	s.mustBe(err, transport.ErrNotFound)
	s.mustBe(s.Streams.Cut(s.ctx, "NONE", "", 7), transport.ErrNotFound)
	_, err = s.Streams.Append(s.ctx, "NONE", out("none.a", "x"))
	s.mustBe(err, transport.ErrNotFound)
	_, err = s.Streams.AppendAll(s.ctx, "NONE", []transport.Outgoing{out("none.a", "x"), out("none.a", "x")})
	s.mustBe(err, transport.ErrNotFound)
	_, err = s.Streams.Publish(s.ctx, "NONE", []transport.Outgoing{out("none.a", "x"), out("none.a", "x")})
	s.mustBe(err, transport.ErrNotFound)
}

func (s *suite) gapAtFront() {
	s.simple()
	for i := range 6 {
		s.add("s.a", strconv.Itoa(i))
	}
	s.must(s.Streams.Cut(s.ctx, "S", "", 4))
	_, err := s.Streams.Read(s.ctx, "S", transport.ReadOptions{From: 3})
	s.mustBe(err, transport.ErrGap)
	want := []string{"4 s.a 3", "5 s.a 4", "6 s.a 5"}
	for _, opt := range []transport.ReadOptions{{}, {From: 1}, {From: 4}, {From: 3, Holes: true}, {From: 2, Subjects: []string{"s.a"}}} {
		s.same(s.take(s.read("S", opt), 3), want...)
	}
}

func (s *suite) gapWhileReading() {
	s.simple()
	const n = 6000 // more than a reader has at hand
	s.fill(n, 1000)
	r := s.read("S", transport.ReadOptions{})
	holes := s.read("S", transport.ReadOptions{Holes: true})
	s.take(r, 1)
	s.take(holes, 1)
	s.must(s.Streams.Cut(s.ctx, "S", "", n))
	s.numbered(s.lastOf(holes, n), n-1)
	for next := 1; ; next++ {
		got, err := r.Next(s.ctx, 1)
		if errors.Is(err, transport.ErrGap) {
			break
		}
		s.must(err)
		if next == n-1 {
			s.Fatal("the reader went on behind the gap")
		}
		s.numbered(got[0], next)
	}
	_, err := r.Next(s.ctx, 1)
	s.mustBe(err, transport.ErrGap)
}

// lastOf reads until sequence n, which it returns.
func (s *suite) lastOf(r transport.Reader, n uint64) transport.Message {
	s.Helper()
	for {
		got, err := r.Next(s.ctx, 1000)
		s.must(err)
		if m := got[len(got)-1]; m.Sequence >= n {
			return m
		}
	}
}

func (s *suite) beyondTheEnd() {
	s.simple()
	s.add("s.a", "1")
	s.quiet(s.read("S", transport.ReadOptions{From: 2}))
	_, err := s.Streams.Read(s.ctx, "S", transport.ReadOptions{From: 3})
	s.mustBe(err, transport.ErrGap)
	_, err = s.Streams.Read(s.ctx, "S", transport.ReadOptions{From: 3, Subjects: []string{"s.b"}})
	s.mustBe(err, transport.ErrGap)
}

func (s *suite) deletedWhileReading() {
	s.simple()
	s.add("s.a", "1")
	r := s.read("S", transport.ReadOptions{})
	s.take(r, 1)
	done := make(chan error, 1)
	go func() {
		_, err := r.Next(s.ctx, 1)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	s.must(s.Streams.Delete(s.ctx, "S"))
	s.mustBe(<-done, transport.ErrNotFound)
}

func (s *suite) replacedWhileReading() {
	s.simple()
	s.add("s.a", "1")
	r := s.read("S", transport.ReadOptions{})
	s.take(r, 1)
	s.must(s.Streams.Delete(s.ctx, "S"))
	s.simple()
	s.add("s.a", "1")
	s.add("s.a", "2")
	got, err := r.Next(s.ctx, 1)
	if !errors.Is(err, transport.ErrNotFound) {
		s.Fatalf("got %v and error %v from another stream of that name", texts(got), err)
	}
}

func (s *suite) waitsAndEnds() {
	s.simple()
	r := s.read("S", transport.ReadOptions{})
	got := make(chan []transport.Message, 1)
	go func() {
		ms, _ := r.Next(s.ctx, 10)
		got <- ms
	}()
	time.Sleep(20 * time.Millisecond)
	s.add("s.a", "1")
	s.same(<-got, "1 s.a 1")
	done := make(chan error, 1)
	go func() {
		_, err := r.Next(s.ctx, 10)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	r.Close()
	r.Close()
	if err := <-done; err == nil {
		s.Error("Next returned without an error after Close")
	}
	if _, err := r.Next(s.ctx, 1); err == nil {
		s.Error("Next after Close returned without an error")
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r2 := s.read("S", transport.ReadOptions{From: 2})
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := r2.Next(ctx, 1)
	s.mustBe(err, context.Canceled)
}

func (s *suite) race() {
	s.simple()
	const writers, rounds = 4, 25
	for round := range rounds {
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			winners []int
		)
		m, err := s.Streams.LastOn(s.ctx, "S", "s.log")
		if err != nil && !errors.Is(err, transport.ErrNotFound) {
			s.Fatal(err)
		}
		for w := range writers {
			wg.Go(func() {
				var err error
				if round%2 == 0 {
					_, err = s.Streams.Append(s.ctx, "S", fenced("s.log", strconv.Itoa(w), "", m.Sequence))
				} else {
					_, err = s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced("s.log", "part", "", m.Sequence), out("s.log", strconv.Itoa(w))})
				}
				switch {
				case err == nil:
					mu.Lock()
					winners = append(winners, w)
					mu.Unlock()
				case !errors.Is(err, transport.ErrFenced):
					s.Errorf("writer %d: %v", w, err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			s.Fatalf("round %d was won by %v", round, winners)
		}
		last, err := s.Streams.LastOn(s.ctx, "S", "s.log")
		s.must(err)
		if string(last.Data) != strconv.Itoa(winners[0]) {
			s.Fatalf("round %d: writer %d was told that it won, the log has %s", round, winners[0], last.Data)
		}
	}
}

// manyBatches keeps more batches open than a server allows at once.
func (s *suite) manyBatches() {
	s.simple()
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			subject := fmt.Sprintf("s.p%d", w)
			var at uint64
			for n := range 3 {
				last, err := s.Streams.AppendAll(s.ctx, "S", []transport.Outgoing{fenced(subject, "a", "", at), out(subject, strconv.Itoa(n))})
				if err != nil {
					s.Errorf("partition %d, record %d: %v", w, n, err)
					return
				}
				at = last
			}
		})
	}
	wg.Wait()
	info, err := s.Streams.Info(s.ctx, "S")
	s.must(err)
	if info.Messages != 64*3*2 {
		s.Errorf("%d messages, want %d", info.Messages, 64*3*2)
	}
}

func (s *suite) contextOver() {
	s.simple()
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.Streams.Append(ctx, "S", out("s.a", "x"))
	s.mustBe(err, context.Canceled)
	_, err = s.Streams.AppendAll(ctx, "S", []transport.Outgoing{out("s.a", "x"), out("s.a", "x")})
	s.mustBe(err, context.Canceled)
	_, err = s.Streams.Publish(ctx, "S", []transport.Outgoing{out("s.a", "x"), out("s.a", "x")})
	s.mustBe(err, context.Canceled)
	if _, err = s.Streams.Info(ctx, "S"); err == nil {
		s.Error("Info answered though its context is over")
	}
	s.same(s.all())
}

func (s *suite) consumersDropped() {
	if s.DropConsumers == nil {
		s.Skip("readers have no consumers here")
	}
	const n = 5000
	s.simple()
	s.fill(n, 1000)
	r := s.read("S", transport.ReadOptions{})
	filtered := s.read("S", transport.ReadOptions{Subjects: []string{"s.a"}, From: 11})
	dropped := 0
	for i := range n {
		if i == 3 || i == 2500 || i == n-1 {
			dropped += s.DropConsumers("S")
		}
		s.numbered(s.take(r, 1)[0], i)
		if i >= 10 {
			s.numbered(s.take(filtered, 1)[0], i)
		}
	}
	if dropped < 4 {
		s.Errorf("only %d consumers were dropped", dropped)
	}
	got := make(chan []transport.Message, 1)
	go func() {
		ms, _ := r.Next(s.ctx, 10)
		got <- ms
	}()
	time.Sleep(200 * time.Millisecond)
	s.DropConsumers("S") // while it waits and nothing is there to read
	s.add("s.a", "later")
	s.same(<-got, fmt.Sprintf("%d s.a later", n+1))
}

func (s *suite) connectionsDropped() {
	if s.DropConnections == nil {
		s.Skip("there are no connections here")
	}
	s.simple()
	r := s.read("S", transport.ReadOptions{})
	at := uint64(0)
	for i := range 30 {
		if i%10 == 5 {
			s.DropConnections()
		}
		at = s.settle("s.log", strconv.Itoa(i), at)
	}
	for i, m := range s.take(r, 30) {
		if string(m.Data) != strconv.Itoa(i) {
			s.Fatalf("message %d is %s", m.Sequence, m.Data)
		}
	}
}

// settle appends a record as an owner does: doubt is settled by reading the last record.
func (s *suite) settle(subject, data string, at uint64) uint64 {
	s.Helper()
	for {
		seq, err := s.Streams.Append(s.ctx, "S", fenced(subject, data, "", at))
		switch {
		case err == nil:
			return seq
		case errors.Is(err, transport.ErrFenced):
			last, err := s.Streams.LastOn(s.ctx, "S", subject)
			s.must(err)
			if string(last.Data) != data {
				s.Fatalf("refused at %q: the last record is %q", data, last.Data)
			}
			return last.Sequence
		case s.ctx.Err() != nil:
			s.Fatal(err)
		}
	}
}

func (s *suite) restart() {
	if s.Restart == nil {
		s.Skip("there is no server to restart here")
	}
	s.simple()
	r := s.read("S", transport.ReadOptions{})
	const n = 600
	written := make(chan struct{})
	go func() {
		defer close(written)
		at := uint64(0)
		for i := range n {
			at = s.settle("s.log", strconv.Itoa(i), at)
		}
	}()
	next := 0
	read := func(upTo int) {
		for next < upTo {
			got, err := r.Next(s.ctx, 100)
			s.must(err)
			for _, m := range got {
				if string(m.Data) != strconv.Itoa(next) {
					s.Fatalf("message %d is %s, want %d", m.Sequence, m.Data, next)
				}
				next++
			}
		}
	}
	read(n / 4)
	s.Restart(func() { time.Sleep(200 * time.Millisecond) })
	read(n / 2)
	s.Restart(func() {})
	read(n)
	<-written
	s.same(s.take(s.read("S", transport.ReadOptions{From: n}), 1), fmt.Sprintf("%d s.log %d", n, n-1))
}

func (s *suite) objects() {
	o := s.Objects
	_, err := o.Get(s.ctx, "none")
	s.mustBe(err, transport.ErrNotFound)
	s.must(o.Delete(s.ctx, "none"))
	if names, err := o.List(s.ctx, ""); err != nil || len(names) != 0 {
		s.Errorf("listed %v, error %v", names, err)
	}
	want := map[string][]byte{
		"flow/订单/stage 1/p3/epoch-1/7": []byte("small"),
		"flow/a":                       {},
		"other":                        bytes.Repeat([]byte("0123456789abcdef"), 3<<16), // 3 MiB
	}
	for name, data := range want {
		s.must(o.Put(s.ctx, name, bytes.NewReader(data)))
	}
	for name, data := range want {
		r, err := o.Get(s.ctx, name)
		s.must(err)
		got, err := io.ReadAll(r)
		s.must(err)
		s.must(r.Close())
		if !bytes.Equal(got, data) {
			s.Errorf("%s: %d bytes came back, %d were put", name, len(got), len(data))
		}
	}
	names, err := o.List(s.ctx, "flow/")
	s.must(err)
	if want := []string{"flow/a", "flow/订单/stage 1/p3/epoch-1/7"}; !slices.Equal(names, want) {
		s.Errorf("listed %q, want %q", names, want)
	}
	s.must(o.Delete(s.ctx, "flow/a"))
	s.must(o.Delete(s.ctx, "flow/a"))
	_, err = o.Get(s.ctx, "flow/a")
	s.mustBe(err, transport.ErrNotFound)
	if err := o.Put(s.ctx, "half", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), broken{})); err == nil {
		s.Error("an object was put whose reader failed")
	}
	_, err = o.Get(s.ctx, "half")
	s.mustBe(err, transport.ErrNotFound)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func (s *suite) objectCorrupt() {
	if s.Corrupt == nil {
		s.Skip("stored objects cannot be changed here")
	}
	s.must(s.Objects.Put(s.ctx, "snapshot", bytes.NewReader(bytes.Repeat([]byte("state"), 100_000))))
	s.Corrupt("snapshot")
	r, err := s.Objects.Get(s.ctx, "snapshot")
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		_ = r.Close()
	}
	s.mustBe(err, transport.ErrCorrupt)
}
