package actors

import (
	"context"
	"testing"
	"time"
)

// TestSnapshotsOfARunningFlow: they are written beside the partitions while these work, also where a flow only keeps
// states; without its stores the node finds all again.
func TestSnapshotsOfARunningFlow(t *testing.T) {
	opt := Options{Partitions: 2, SnapshotBytes: 500, chunkBytes: 100}
	b := newRunningBench(t, opt)
	f := b.flow(1, Step{Name: "count", Function: countFunction(), Must: []string{"user"}})
	r, err := b.system.Start(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	published := 0
	for { // until both partitions have two snapshots and have cut their logs
		b.publish(published, published+50)
		published += 50
		done := 0
		for _, c := range r.all() {
			if err := c.ask(ctx, func(p *Partition) error {
				if p.meta.SnapshotBefore != "" && p.snapshots.count > 2 {
					done++
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if done == 2 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	info, err := b.streams.Info(ctx, LogStream("f"))
	if err != nil || info.Messages == info.Last {
		t.Errorf("the log holds %d of %d records, %v", info.Messages, info.Last, err)
	}
	if n := b.total(r, "count"); n != int64(published) {
		t.Errorf("%d events counted, %d published", n, published)
	}
	before := b.system.meter.Snapshots.Load()
	if err := r.Snapshot(ctx); err != nil || b.system.meter.Snapshots.Load() < before+2 || b.system.meter.SnapshotBytes.Load() == 0 {
		t.Errorf("asked for: %v, %d snapshots after %d", err, b.system.meter.Snapshots.Load(), before)
	}
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for number := range 2 {
		if err := b.db.Drop(PartitionName("f", "user", number, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = b.system.Start(ctx, f); err != nil {
		t.Fatal(err)
	}
	if n := b.total(r, "count"); n != int64(published) {
		t.Errorf("from the snapshots: %d events counted, %d published", n, published)
	}
}
