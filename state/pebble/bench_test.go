package pebble

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kisflow/kisflow/state"
)

func BenchmarkInstall(b *testing.B) {
	for _, n := range []int{1, 16, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db, err := Open(b.TempDir(), Options{Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			s, _ := db.Store("flow/stage/0")
			rnd := rand.New(rand.NewPCG(1, 2))
			changes := make([]state.Change, n)
			value := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				for i := range changes {
					changes[i] = state.Change{Key: binary.BigEndian.AppendUint64(changes[i].Key[:0], rnd.Uint64N(1_000_000)), Value: value}
				}
				if err := s.Install(changes); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	db, err := Open(b.TempDir(), Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s, _ := db.Store("flow/stage/0")
	const keys = 200_000
	for n := 0; n < keys; n += 500 {
		var changes []state.Change
		for i := range 500 {
			changes = append(changes, state.Change{Key: binary.BigEndian.AppendUint64(nil, uint64(n+i)), Value: make([]byte, 100)})
		}
		if err := s.Install(changes); err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, from := range map[string]uint64{"there": 0, "absent": keys} {
		b.Run(name, func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 2))
			key := make([]byte, 0, 8)
			for b.Loop() {
				v, err := s.Get(binary.BigEndian.AppendUint64(key, from+rnd.Uint64N(keys)))
				if err != nil || (v == nil) != (from > 0) {
					b.Fatal(v, err)
				}
			}
		})
	}
}
