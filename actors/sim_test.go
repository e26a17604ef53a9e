package actors

import (
	"flag"
	"fmt"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run only this seed of TestSimulation, and say what happens")
	seedsFlag = flag.Int("seeds", 300, "how many seeds TestSimulation runs")
)

func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		w := newWorld(*seedFlag, "", func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	total := make(map[string]int)
	failed := 0
	for seed := uint64(1); seed <= uint64(*seedsFlag); seed++ {
		w := newWorld(seed, "", nil)
		if err := w.run(); err != nil {
			t.Errorf("seed %d: %.1500v\nreplay: go test ./actors -run 'TestSimulation$' -seed=%d", seed, err, seed)
			if failed++; failed >= 5 {
				break
			}
		}
		for k, n := range w.count {
			total[k] += n
		}
		total["events"] += w.events
	}
	t.Log(total)
}
