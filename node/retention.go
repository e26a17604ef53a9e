package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

const (
	// retentionEvery is how often the hand-offs of Saves are looked through for what may go.
	retentionEvery = 10 * time.Minute
	// defaultRetention is how long they are kept at least, whoever has loaded them (P11).
	defaultRetention = 7 * 24 * time.Hour
)

// keepRetention cuts the hand-offs of Saves until ctx ends.
func (n *Node) keepRetention(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(retentionEvery):
		}
		if n.members != nil && !n.members.first() {
			continue // one node does it for all
		}
		if err := n.cutSaves(ctx, time.Now()); err != nil && ctx.Err() == nil {
			n.log.Warn("hand-offs were not cut", "error", err)
		}
	}
}

// cutSaves removes from every Save's hand-off what is older than its retention and has been committed by every
// flow that loads it. A flow that loads it and does not run holds everything back.
func (n *Node) cutSaves(ctx context.Context, now time.Time) error {
	n.mu.Lock()
	set := n.set
	n.mu.Unlock()
	retention := make(map[string]time.Duration)
	loaded, saved := make(map[string][]string), make(map[string][]string)
	for _, flow := range set.Flows {
		for _, s := range flow.Steps {
			fn := set.Funcs[s.Function.Value]
			if fn == nil {
				continue
			}
			h, ok := set.Handoff(fn)
			if !ok {
				continue
			}
			switch fn.Mode {
			case string(kis.Save):
				keep := defaultRetention
				if fn.Save != nil && fn.Save.Retention > 0 {
					keep = fn.Save.Retention
				}
				retention[h.Value] = max(retention[h.Value], keep)
				saved[h.Value] = append(saved[h.Value], flow.Name)
			case string(kis.Load):
				loaded[h.Value] = append(loaded[h.Value], flow.Name)
			}
		}
	}
	var errs []error
	for name, keep := range retention {
		errs = append(errs, n.cutSave(ctx, name, loaded[name], saved[name], now.Add(-keep)))
	}
	return errors.Join(errs...)
}

// cutSave cuts one hand-off. Flows that save it read it as well while they take in what they are to keep of it.
func (n *Node) cutSave(ctx context.Context, name string, flows, savers []string, before time.Time) error {
	stream := actors.SaveStream(name)
	info, err := n.streams.Info(ctx, stream)
	if errors.Is(err, transport.ErrNotFound) {
		return nil
	}
	if err != nil || info.Messages == 0 {
		return err
	}
	below := info.Last + 1
	for i, f := range slices.Concat(flows, savers) {
		if i >= len(flows) {
			if r := n.system.Flow(f); r == nil || len(r.Readers(stream)) == 0 {
				continue
			}
		}
		at, known, err := n.committed(ctx, f, stream)
		if err != nil || !known {
			return err
		}
		below = min(below, at+1)
	}
	old, err := n.firstSince(ctx, stream, info.First, info.Last+1, before)
	if err != nil {
		return err
	}
	if below = min(below, old); below <= info.First {
		return nil
	}
	return n.streams.Cut(ctx, stream, "", below)
}

// committed is the sequence of a stream up to which all partitions of a flow have committed it, on whatever node they are;
// false where that is not known of each.
func (n *Node) committed(ctx context.Context, flow, stream string) (uint64, bool, error) {
	r := n.system.Flow(flow)
	if r == nil {
		return 0, false, nil
	}
	at, err := r.Committed(ctx, stream)
	if err != nil {
		return 0, false, err
	}
	if n.members != nil {
		answers, err := n.members.each(ctx, committedMethod, nodeCall{Flow: flow, Stream: stream})
		if err != nil {
			return 0, false, err
		}
		for node, b := range answers {
			var there map[string]uint64
			if err := json.Unmarshal(b, &there); err != nil {
				return 0, false, fmt.Errorf("node %s: %w", node, err)
			}
			for name, sequence := range there {
				if before, ok := at[name]; !ok || sequence < before { // it is told of twice while it moves
					at[name] = sequence
				}
			}
		}
	}
	low := uint64(math.MaxUint64)
	for _, name := range r.Readers(stream) {
		sequence, ok := at[name]
		if !ok {
			return 0, false, nil // it moves, or has stopped: nothing may go
		}
		low = min(low, sequence)
	}
	return low, low != math.MaxUint64, nil
}

// firstSince finds the first sequence from lo up to hi whose message was stored at a time or later; hi if none.
func (n *Node) firstSince(ctx context.Context, stream string, lo, hi uint64, since time.Time) (uint64, error) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		m, err := n.at(ctx, stream, mid)
		if err != nil {
			return 0, err
		}
		if m.Time.Before(since) {
			lo = m.Sequence + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// at reads the first message at or above a sequence.
func (n *Node) at(ctx context.Context, stream string, sequence uint64) (transport.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := n.streams.Read(ctx, stream, transport.ReadOptions{From: sequence, HeadersOnly: true})
	if err != nil {
		return transport.Message{}, err
	}
	defer r.Close()
	ms, err := r.Next(ctx, 1)
	if err != nil {
		return transport.Message{}, err
	}
	return ms[0], nil
}
