package transporttest

import (
	"testing"

	"github.com/kisflow/kisflow/transport"
)

// measure starts the clocks and returns what stops them.
func measure(b *testing.B) func() {
	b.ResetTimer()
	start := processor()
	return func() {
		b.StopTimer()
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	}
}

// Bench runs the benchmarks; ns/op is the time of one message, cpu-ns/op its processor time in this process.
func Bench(b *testing.B, open func(b *testing.B) transport.Streams) {
	data := make([]byte, 128)
	prepare := func(b *testing.B) (transport.Streams, *transport.Expect) {
		s := open(b)
		if _, err := s.Ensure(b.Context(), transport.Config{Name: "B", Subjects: []string{"b.>"}}); err != nil {
			b.Fatal(err)
		}
		at, err := s.Append(b.Context(), "B", transport.Outgoing{Subject: "b.fence"})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		return s, &transport.Expect{Subject: "b.fence", Sequence: at}
	}
	batch := func(n int, fence *transport.Expect) []transport.Outgoing {
		ms := make([]transport.Outgoing, n)
		for i := range ms {
			ms[i] = transport.Outgoing{Subject: "b.out", Data: data, Expect: fence}
		}
		return ms
	}
	b.Run("Append", func(b *testing.B) {
		s, fence := prepare(b)
		defer measure(b)()
		for range b.N {
			if _, err := s.Append(b.Context(), "B", transport.Outgoing{Subject: "b.out", Data: data, Expect: fence}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, write := range map[string]func(transport.Streams, *testing.B, []transport.Outgoing) error{
		"Publish500": func(s transport.Streams, b *testing.B, ms []transport.Outgoing) error {
			_, err := s.Publish(b.Context(), "B", ms)
			return err
		},
		"AppendAll500": func(s transport.Streams, b *testing.B, ms []transport.Outgoing) error {
			_, err := s.AppendAll(b.Context(), "B", ms)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			s, fence := prepare(b)
			ms := batch(500, fence)
			defer measure(b)()
			for n := 0; n < b.N; n += len(ms) {
				if err := write(s, b, ms[:min(len(ms), b.N-n)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Read", func(b *testing.B) {
		s, _ := prepare(b)
		ms := batch(500, nil)
		for n := 0; n < b.N; n += len(ms) {
			if _, err := s.Publish(b.Context(), "B", ms[:min(len(ms), b.N-n)]); err != nil {
				b.Fatal(err)
			}
		}
		defer measure(b)()
		r, err := s.Read(b.Context(), "B", transport.ReadOptions{From: 2})
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		for n := 0; n < b.N; {
			got, err := r.Next(b.Context(), 2000)
			if err != nil {
				b.Fatal(err)
			}
			n += len(got)
		}
	})
}
