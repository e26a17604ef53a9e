package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// quiet takes what clusters of more and more nodes cost while nothing happens: every node renews its key, and every other
// one hears of it, so that it grows with the square of their number.
func (b *bench) quiet(ctx context.Context, name string) error {
	sizes, watch := []int{1, 2, 4, 8}, 20*time.Second
	if b.quick {
		sizes, watch = []int{1, 3}, 5*time.Second
	}
	for _, nodes := range sizes {
		var cores, brokers []float64
		s := setup{Nodes: nodes, Replicas: 1, Standbys: 1}
		for range b.runs {
			err := b.with(ctx, s, func(f *fleet) error {
				if err := f.apply(ctx, pulseDefinitions()); err != nil {
					return err
				}
				time.Sleep(watch / 4) // for what is done in the background after a start
				before, err := f.used()
				if err != nil {
					return err
				}
				select {
				case <-time.After(watch):
				case <-ctx.Done():
					return ctx.Err()
				}
				now, err := f.used()
				if err != nil {
					return err
				}
				c := now.since(before, watch)
				all, broker := 100*c.cpu/watch.Seconds(), 100*c.broker/watch.Seconds()
				fmt.Fprintf(os.Stderr, "%s %s: %.2f %% of a core, NATS %.2f of them, others %.1f cores\n", name, s, all, broker, c.others)
				cores, brokers = append(cores, all), append(brokers, broker)
				return nil
			})
			if err != nil {
				return err
			}
		}
		b.report.median(name, s.String(), "idle, all processes: percent of a core", cores, nil)
		b.report.median(name, s.String(), "of it NATS: percent of a core", brokers, nil)
	}
	return nil
}
