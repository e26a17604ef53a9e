package actors

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run only this seed of TestSimulation, and say what happens")
	seedsFlag = flag.Int("seeds", 0, "how many seeds TestSimulation runs; 0: as many as there is time for")
)

func seeds() uint64 {
	switch {
	case *seedsFlag > 0:
		return uint64(*seedsFlag)
	case os.Getenv("KISFLOW_SOAK") != "":
		return 60_000
	case raceEnabled, testing.Short():
		return 300
	}
	return 3000
}

// has tells whether some count that begins with a name is above zero.
func has(count map[string]int, name string) bool {
	for k, n := range count {
		if n > 0 && strings.HasPrefix(k, name) {
			return true
		}
	}
	return false
}

// TestSimulation runs worlds that fail in every way that the ports can fail in, and compares what is left with what
// the events had to lead to.
func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		w := newWorld(*seedFlag, nil, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	total := make(map[string]int)
	failed := 0
	for seed := uint64(1); seed <= seeds(); seed++ {
		w := newWorld(seed, nil, nil)
		if err := w.run(); err != nil {
			t.Errorf("seed %d: %.1500v\nreplay: go test ./actors -run 'TestSimulation$' -seed=%d", seed, err, seed)
			if failed++; failed >= 5 {
				t.Fatal("five seeds are enough")
			}
		}
		for k, n := range w.count {
			total[k] += n
		}
		total["events"] += w.events
		total["members wanted"] += w.model.check.Wanted()
	}
	var said []string
	for _, k := range slices.Sorted(maps.Keys(total)) {
		said = append(said, fmt.Sprintf("%s %d", k, total[k]))
	}
	t.Logf("%d seeds: %s", seeds(), strings.Join(said, ", "))
	if *seedsFlag > 0 {
		return
	}
	// A run in which nothing went wrong shows nothing.
	if total["events"] < 20*int(seeds()) || total["members wanted"] < total["events"] {
		t.Errorf("only %d events that led to %d members of lists", total["events"], total["members wanted"])
	}
	for _, k := range []string{"crash after append", "crash after publish", "crash after store install", "crash before append", "crash before publish",
		"crash before store install", "crash before put_object", "doubt after append", "doubt after publish", "doubt before append", "doubt before publish",
		"late append", "late publish", "late write", "refused append", "refused publish", "refused put_object", "refused get_object", "refused next", "store refused",
		"installs lost", "store cleared", "store corrupt", "snapshot", "snapshot damaged", "newest snapshot lost", "chunk shared", "chunk of a run shared", "snapshot over epochs", "said: the store was brought up to a snapshot", "said: the snapshot before is not whole",
		"crash before list_objects", "crash after list_objects", "crash after put_object", "crash before delete_object", "crash after delete_object", "refused cut", "refused list_objects", "refused delete_object", "hand-offs cut", "fenced", "zombie", "stolen in the middle",
		"retried letters", "dropped parked rows", "revised", "queue full", "timed", "told the time"} {
		if !has(total, k) {
			t.Errorf("it never came to: %s", k)
		}
	}
}

// TestSimulationRepeats: a seed is a run. What a replay shows is what happened.
func TestSimulationRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 25; seed++ {
		var sums [2]uint64
		for i := range sums {
			w := newWorld(seed, nil, nil)
			if err := w.run(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			sums[i] = w.trace.Sum64()
		}
		if sums[0] != sums[1] {
			t.Errorf("seed %d: two runs differ: %x and %x", seed, sums[0], sums[1])
		}
	}
}
