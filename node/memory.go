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

// tuneCollector lets garbage gather up to slack, or up to the size of the live heap where that is larger
// (which is Go's default). It leaves alone a process whose environment says GOGC.
func tuneCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	for {
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
