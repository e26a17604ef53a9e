package node

import (
	"context"
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

// slack is how much garbage may gather before a collection: at least so much, however small the live heap is.
// Without it a node with little state collects many times a second.
const slack = 192 << 20

// idleAfter is how long a node must have had nothing to do before it gives memory back to the system.
const idleAfter = 10 * time.Second

// tuneCollector lets garbage gather up to slack, or up to the size of the live heap where that is larger
// (which is Go's default). It leaves alone a process whose environment says GOGC.
//
// A node that has nothing to do any more, as work tells by standing still, collects once and gives back what is
// free: keys that idle cost what they hold and no garbage.
func tuneCollector(ctx context.Context, work func() uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	done, since, freed := work(), time.Now(), true
	for {
		switch now := work(); {
		case now != done:
			done, since, freed = now, time.Now(), false
		case !freed && time.Since(since) > idleAfter:
			debug.FreeOSMemory()
			freed = true
		}
		runtimemetrics.Read(sample)
		live := max(4<<20, sample[0].Value.Uint64())
		percent := int(max(100, min(2000, slack*100/live)))
		if percent < set*9/10 || percent > set*11/10 {
			debug.SetGCPercent(percent)
			set = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
	}
}
