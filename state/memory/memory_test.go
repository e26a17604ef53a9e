package memory

import (
	"fmt"
	"slices"
	"testing"

	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/state/statetest"
)

func TestSuite(t *testing.T) {
	statetest.Run(t, func(*testing.T) state.DB { return New() }, func(t *testing.T, db state.DB) state.DB {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return db.(*DB).Reopen()
	})
}

func put(t *testing.T, s state.Store, key, value string) {
	t.Helper()
	c := state.Change{Key: []byte(key)}
	if value != "-" {
		c.Value = []byte(value)
	}
	if err := s.Install([]state.Change{c}); err != nil {
		t.Fatal(err)
	}
}

func TestRewindTakesBackInstalls(t *testing.T) {
	db := New()
	db.Keep(10)
	s, err := db.Open("p")
	if err != nil {
		t.Fatal(err)
	}
	states := [][]string{nil}
	for i := range 20 {
		switch i {
		case 15:
			if err := s.Clear(); err != nil {
				t.Fatal(err)
			}
		default:
			put(t, s, fmt.Sprint("k", i%4), []string{"-", "1", "2", "3", "4"}[i%5])
		}
		all, err := statetest.Dump(s)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, all)
	}
	if got := s.Installs(); got != 10 {
		t.Fatalf("%d installs are remembered, want 10", got)
	}
	for n, back := 20, 0; back < 10; {
		step := 1 + back%3
		s.Rewind(step)
		back += step
		n = max(20-back, 10)
		if got, _ := statetest.Dump(s); !slices.Equal(got, states[n]) {
			t.Errorf("%d installs back: %q, want %q", back, got, states[n])
		}
	}
	s.Rewind(5)
	if got, _ := statetest.Dump(s); !slices.Equal(got, states[10]) {
		t.Errorf("beyond what is remembered: %q, want %q", got, states[10])
	}
}

func TestCrashLosesWhatWasNotFlushed(t *testing.T) {
	db := New()
	db.Keep(100)
	a, _ := db.Store("a")
	b, _ := db.Store("b")
	put(t, a, "k", "1")
	put(t, b, "k", "1")
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	put(t, a, "k", "2")
	put(t, a, "k", "3")
	put(t, b, "k", "2")
	var asked []string
	db.Crash(func(partition string, installs int) int {
		asked = append(asked, fmt.Sprint(partition, installs))
		return map[string]int{"a": 1, "b": 99}[partition]
	})
	if want := []string{"a2", "b1"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if _, err := a.Get([]byte("k")); err == nil {
		t.Error("a store of the crashed database still answers")
	}
	db = db.Reopen()
	for partition, want := range map[string]string{"a": "k=2", "b": "k=1"} {
		s, _ := db.Store(partition)
		if got, _ := statetest.Dump(s); !slices.Equal(got, []string{want}) {
			t.Errorf("%s after the crash: %q, want %q", partition, got, want)
		}
	}
}

// Keys that come and go cost no memory that stays.
func TestKeysThatComeAndGo(t *testing.T) {
	s, err := New().Open("p")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "stays", "1")
	for i := range 10_000 {
		put(t, s, fmt.Sprint(i), "1")
		put(t, s, fmt.Sprint(i), "-")
	}
	if n := len(s.added); n > 2000 {
		t.Errorf("%d keys are remembered, of 1 that is there", n)
	}
	if got, _ := statetest.Dump(s); !slices.Equal(got, []string{"stays=1"}) {
		t.Errorf("scan = %q", got)
	}
}

func BenchmarkInstall(b *testing.B) {
	s, _ := New().Open("p")
	changes := make([]state.Change, 512)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range changes {
			n++
			changes[i] = state.Change{Key: fmt.Appendf(changes[i].Key[:0], "key%06d", n%10_000), Value: []byte("a value of some length, as states are")}
		}
		if err := s.Install(changes); err != nil {
			b.Fatal(err)
		}
	}
}
