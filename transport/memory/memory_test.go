package memory

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/transporttest"
)

func TestSuite(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Answer {
		objects := NewObjects(Options{})
		return transporttest.Answer{Streams: New(Options{}), Objects: objects, Corrupt: func(name string) {
			if !objects.Corrupt(name, 1234) {
				t.Fatalf("no object %s", name)
			}
		}}
	})
}

func BenchmarkStreams(b *testing.B) {
	transporttest.Bench(b, func(*testing.B) transport.Streams { return New(Options{}) })
}

// faults answers as the test says and notes what was asked.
type faults struct {
	before, after func(op Op) error
	asked         []Op
}

func (f *faults) Before(op Op, _ string) error {
	f.asked = append(f.asked, op)
	if f.before == nil {
		return nil
	}
	return f.before(op)
}

func (f *faults) After(op Op, _ string) error {
	if f.after == nil {
		return nil
	}
	return f.after(op)
}

var ctx = context.Background()

func open(t *testing.T, f *faults) *Streams {
	t.Helper()
	s := New(Options{Faults: f, NonBlocking: true, Now: func() time.Time { return time.Unix(1000, 0) }})
	if _, err := s.Ensure(ctx, transport.Config{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func data(t *testing.T, s *Streams) []string {
	t.Helper()
	r, err := s.Read(ctx, "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ms, err := r.Next(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range ms {
		all = append(all, string(m.Data))
	}
	return all
}

func out(d string) transport.Outgoing { return transport.Outgoing{Subject: "s.a", Data: []byte(d)} }

func TestFaultBeforeAndAfter(t *testing.T) {
	f := &faults{}
	s := open(t, f)
	f.before = func(op Op) error { return transport.ErrDoubt }
	if _, err := s.Append(ctx, "S", out("never")); !errors.Is(err, transport.ErrDoubt) {
		t.Errorf("before: %v", err)
	}
	f.before, f.after = nil, func(op Op) error { return transport.ErrDoubt }
	if _, err := s.Append(ctx, "S", out("stored")); !errors.Is(err, transport.ErrDoubt) {
		t.Errorf("after: %v", err)
	}
	f.after = nil
	if got := data(t, s); !slices.Equal(got, []string{"stored"}) {
		t.Errorf("the stream holds %q", got)
	}
}

func TestPublishBreaksInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after int // the call that breaks; 0: none
		known         int
		stored        []string
	}{
		{"before the third", 3, 0, 2, []string{"1", "2"}},
		{"after the third", 0, 3, 2, []string{"1", "2", "3"}},
	} {
		f := &faults{}
		s := open(t, f)
		n, m := 0, 0
		f.before = func(op Op) error {
			if n++; op == OpPublish && n == c.before {
				return errors.New("refused")
			}
			return nil
		}
		f.after = func(op Op) error {
			if m++; op == OpPublish && m == c.after {
				return transport.ErrDoubt
			}
			return nil
		}
		seqs, err := s.Publish(ctx, "S", []transport.Outgoing{out("1"), out("2"), out("3"), out("4")})
		if err == nil || len(seqs) != c.known {
			t.Errorf("%s: %d known to be stored, error %v", c.name, len(seqs), err)
		}
		f.before, f.after = nil, nil
		if got := data(t, s); !slices.Equal(got, c.stored) {
			t.Errorf("%s: the stream holds %q", c.name, got)
		}
	}
}

func TestCrashLeavesNoLock(t *testing.T) {
	f := &faults{}
	s := open(t, f)
	crash := func(op Op) error { panic("crash") }
	for _, when := range []string{"before", "after"} {
		f.before, f.after = nil, nil
		if when == "before" {
			f.before = crash
		} else {
			f.after = crash
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no crash", when)
				}
			}()
			_, _ = s.AppendAll(ctx, "S", []transport.Outgoing{out(when), out(when)})
		}()
	}
	f.before, f.after = nil, nil
	if got := data(t, s); !slices.Equal(got, []string{"after", "after"}) {
		t.Errorf("the stream holds %q", got)
	}
}

func TestLateWrite(t *testing.T) {
	f := &faults{}
	s := open(t, f)
	f.before = func(op Op) error { return ErrLate }
	first := out("late")
	first.Expect = &transport.Expect{}
	if _, err := s.Append(ctx, "S", first); !errors.Is(err, transport.ErrDoubt) {
		t.Errorf("got %v, want doubt", err)
	}
	if _, err := s.Append(ctx, "S", out("later")); !errors.Is(err, transport.ErrDoubt) {
		t.Errorf("got %v, want doubt", err)
	}
	f.before = nil
	if _, err := s.Append(ctx, "S", out("now")); err != nil {
		t.Fatal(err)
	}
	if s.Late() != 2 || !s.DeliverLate() || !s.DeliverLate() || s.DeliverLate() {
		t.Error("two writes were to arrive late")
	}
	if got := data(t, s); !slices.Equal(got, []string{"now", "later"}) { // the fence met the first
		t.Errorf("the stream holds %q", got)
	}
}

func TestNonBlockingNext(t *testing.T) {
	f := &faults{}
	s := open(t, f)
	r, err := s.Read(ctx, "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ms, err := r.Next(ctx, 1); err != nil || len(ms) != 0 {
		t.Errorf("an empty stream gave %v, error %v", ms, err)
	}
	if _, err := s.Append(ctx, "S", out("x")); err != nil {
		t.Fatal(err)
	}
	if ms, err := r.Next(ctx, 1); err != nil || len(ms) != 1 || !ms[0].Time.Equal(time.Unix(1000, 0)) {
		t.Errorf("got %v, error %v", ms, err)
	}
}

func TestSubjects(t *testing.T) {
	for _, c := range []struct {
		a, b                    string
		match, covers, overlaps bool
	}{
		{"a", "a", true, true, true},
		{"a", "b", false, false, false},
		{"a.*", "a.b", true, true, true},
		{"a.*", "a.b.c", false, false, false},
		{"a.*", "a", false, false, false},
		{"a.>", "a", false, false, false},
		{"a.>", "a.b.c", true, true, true},
		{">", "x.y", true, true, true},
		{"*.b", "a.b", true, true, true},
		{"a.*", "a.>", false, false, true},
		{"a.>", "a.*", true, true, true},
		{"a.b", "a.*", false, false, true},
		{"a.b", "*.c", false, false, false},
		{"*.b", "a.*", false, false, true},
	} {
		if !wild(c.b) && Match(c.a, c.b) != c.match {
			t.Errorf("Match(%s, %s) is %v", c.a, c.b, !c.match)
		}
		if Covers(c.a, c.b) != c.covers {
			t.Errorf("Covers(%s, %s) is %v", c.a, c.b, !c.covers)
		}
		if Overlap(c.a, c.b) != c.overlaps || Overlap(c.b, c.a) != c.overlaps {
			t.Errorf("Overlap(%s, %s) is not %v both ways", c.a, c.b, c.overlaps)
		}
	}
}
