package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// moves is what one planned change did to the partitions that moved.
type moves struct {
	moved  int
	took   []float64 // seconds until the last one had moved
	pauses []float64 // milliseconds
	others []float64 // of the partitions that stayed
}

// move takes nodes out of service and in again under load, and takes the pause of every partition that moved: the longest
// gap between two of its outputs, less the usual gap. What the partitions that stayed show at the same time, and all of them
// while nothing moves, is what the machine adds.
func (b *bench) move(ctx context.Context, name string, s setup) error {
	all := make(map[string]*moves)
	kinds := []string{"nothing", "drain", "undrain", "join", "leave"}
	err := b.with(ctx, s, func(f *fleet) error {
		if err := f.apply(ctx, pulseDefinitions()); err != nil {
			return err
		}
		counts := make([]int, pulses)
		for i := range b.runs {
			names := f.names()
			node := names[i%len(names)]
			extra, err := f.add(fmt.Sprintf("extra%d", i))
			if err != nil {
				return err
			}
			for _, kind := range kinds {
				m, err := f.move(ctx, counts, func() error {
					switch kind {
					case "drain", "undrain":
						f.drained = ""
						if kind == "drain" {
							f.drained = node
						}
						_, err := f.running()[0].client.DrainNode(ctx, node, kind == "drain")
						return err
					case "join":
						return f.start(ctx, extra.name)
					case "leave":
						return f.stop(extra.name)
					}
					time.Sleep(3 * time.Second)
					return nil
				})
				if err != nil {
					return fmt.Errorf("%s %s: %w", kind, node, err)
				}
				fmt.Fprintf(os.Stderr, "%s %d/%d %s: %d partitions moved in %.2f s, pause p50 %.0f max %.0f ms; %d stayed, p50 %.0f max %.0f ms\n", name, i+1, b.runs, kind,
					m.moved, m.took[0], quantile(m.pauses, 0.5), quantile(m.pauses, 1), len(m.others), quantile(m.others, 0.5), quantile(m.others, 1))
				if all[kind] == nil {
					all[kind] = new(moves)
				}
				all[kind].moved += m.moved
				all[kind].took = append(all[kind].took, m.took...)
				all[kind].pauses = append(all[kind].pauses, m.pauses...)
				all[kind].others = append(all[kind].others, m.others...)
			}
			delete(f.nodes, extra.name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s, %d events/s", s, b.rate)
	var pauses []float64
	for _, kind := range kinds[1:] {
		pauses = append(pauses, all[kind].pauses...)
	}
	b.report.spread(name, what, "pause of a partition that moves, all kinds, ms", pauses, 0, 100)
	for _, kind := range kinds {
		if len(all[kind].pauses) > 0 {
			b.report.spread(name, what, "pause, "+kind+", ms", all[kind].pauses, 0, 100)
			b.report.median(name, what, "until all have moved, "+kind+", s", all[kind].took, nil)
		}
		if len(all[kind].others) > 0 {
			b.report.spread(name, what, "the same of those that stay, "+kind+", ms", all[kind].others, 0, 0)
		}
	}
	return nil
}

// move does something under load and waits until no partition moves any more.
func (f *fleet) move(ctx context.Context, counts []int, do func() error) (m moves, err error) {
	load, err := f.startPulse(ctx, f.running()[:1], f.b.rate, counts)
	if err != nil {
		return m, err
	}
	time.Sleep(warmup)
	before, err := f.owners(ctx)
	if err != nil {
		return m, err
	}
	begin := time.Now()
	if err := do(); err != nil {
		return m, err
	}
	if err := f.await(ctx, "the groups move", settleLimit, func() error { return f.placed(ctx) }); err != nil {
		return m, err
	}
	m.took = []float64{time.Since(begin).Seconds()}
	time.Sleep(after)
	end := time.Now()
	now, err := f.owners(ctx)
	if err != nil {
		return m, err
	}
	arrivals, err := load.end(ctx)
	if err != nil {
		return m, err
	}
	for p := range arrivals {
		pause := pauseOf(arrivals[p], begin, end)
		if now[p] != before[p] {
			m.moved++
			m.pauses = append(m.pauses, pause)
		} else {
			m.others = append(m.others, pause)
		}
	}
	return m, f.settle(ctx)
}

// pauseOf is the longest gap between two outputs, the later one within a stretch of time, less the usual gap before it,
// in milliseconds.
func pauseOf(arrivals []arrival, begin, end time.Time) float64 {
	var usual []time.Duration
	longest := time.Duration(0)
	for i := 1; i < len(arrivals); i++ {
		gap := arrivals[i].stored.Sub(arrivals[i-1].stored)
		switch at := arrivals[i].stored; {
		case at.Before(begin):
			usual = append(usual, gap)
		case at.Before(end):
			longest = max(longest, gap)
		}
	}
	if len(usual) > 0 {
		slices.Sort(usual)
		longest -= usual[len(usual)/2]
	}
	return float64(max(longest, 0)) / float64(time.Millisecond)
}
