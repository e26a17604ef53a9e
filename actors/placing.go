package actors

import (
	"context"
	"errors"
	"maps"

	"github.com/cespare/xxhash/v2"
)

// Role is what a node does for a partition.
type Role uint8

// The roles. Safety does not hang on them: two owners at once are told apart by the log's fence.
const (
	Elsewhere Role = iota // nothing
	Copy                  // it keeps a warm copy of the state
	Owner                 // it runs the partition
)

// GroupOf is the group that a partition is placed with, out of so many. The partitions of a stage follow on one
// another, so that whoever spreads neighbouring groups spreads every stage.
func GroupOf(flow, stage string, number, groups int) int {
	return int((xxhash.Sum64String(flow+"\x00"+stage) + uint64(number)) % uint64(groups))
}

// Placement tells the role of this node for a partition of a flow. It may be called at any time, by many.
type Placement func(flow, stage string, number int) Role

func (s *System) role(flow, stage string, number int) Role {
	s.mu.Lock()
	place := s.placement
	s.mu.Unlock()
	if place == nil {
		return Owner
	}
	return place(flow, stage, number)
}

// placed tells whether there are other nodes.
func (s *System) placed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placement != nil
}

// Place gives the system another placement: flows that run close the partitions that are not theirs any more, and open
// those that are. It returns at once; Placed waits.
func (s *System) Place(p Placement) {
	s.mu.Lock()
	s.placement = p
	s.placements++
	s.mu.Unlock()
	for _, r := range s.running() {
		r.mu.Lock()
		r.fenced = 0 // what was refused under the former placement is of no interest
		r.mu.Unlock()
		r.poke()
	}
}

// Placed waits until all flows follow the newest placement: with closed, until the partitions are closed that are not
// ours; else until those are open, too, that are.
func (s *System) Placed(ctx context.Context, closed bool) error {
	s.mu.Lock()
	want := s.placements
	s.mu.Unlock()
	for _, r := range s.running() {
		if err := r.placedAt(ctx, want, closed); err != nil {
			return err
		}
	}
	return nil
}

func (r *Running) placedAt(ctx context.Context, want uint64, closed bool) error {
	for {
		r.mu.Lock()
		at := r.opened
		if closed {
			at = r.closed
		}
		done := at >= want || r.closing
		changed := r.moved
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// poke asks for another look at the placement.
func (r *Running) poke() {
	select {
	case r.replaced <- struct{}{}:
	default: // one is asked for already
	}
}

// note tells those who wait how far the flow has followed the placement.
func (r *Running) notePlaced(closed, opened uint64) {
	r.mu.Lock()
	r.closed, r.opened = max(r.closed, closed), max(r.opened, opened)
	close(r.moved)
	r.moved = make(chan struct{})
	r.mu.Unlock()
}

// follow makes the flow follow the placement: what is not ours is closed first, in the middle of nothing, so that its
// next owner need not wait for what we have still to open. It does not wait for partitions that recover: each of them
// asks for another look when it has.
// With reopen partitions that have stopped for a passing reason are opened again.
func (r *Running) follow(ctx context.Context, reopen bool) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.system.mu.Lock()
	at := r.system.placements
	r.system.mu.Unlock()
	var leaving []*cell
	for _, c := range r.all() {
		if r.system.role(r.name, c.stage, c.number) != Owner {
			leaving = append(leaving, c)
		}
	}
	if len(leaving) > 0 {
		r.leave(leaving)
	}
	r.notePlaced(at, 0)
	open := missing
	if reopen {
		open = passing
	}
	if _, err := r.beginOpening(open); err != nil {
		return err
	}
	r.mu.Lock()
	same := maps.Equal(r.dealtTo, r.readyLocked())
	r.mu.Unlock()
	if !same && !r.held.Load() {
		r.deal(r.undeal())
	}
	r.keepCopies()
	if r.opening() {
		return nil
	}
	if !r.left {
		if err := r.openLeft(ctx); err != nil {
			return err
		}
		r.left = true
	}
	r.notePlaced(at, at)
	return nil
}

// beginOpening begins to open cells; each asks for another look at the placement when it has.
func (r *Running) beginOpening(open which) (int, error) {
	stages := r.Definition().Stages()
	opened := make(chan error, r.Definition().Partitions*len(stages))
	n, err := r.beginOpen(stages, open, opened)
	if n > 0 {
		r.wg.Go(func() {
			for range n {
				select {
				case <-opened:
					r.poke()
				case <-r.ctx.Done():
					return
				}
			}
		})
	}
	return n, err
}

// ready are the cells that rows can be dealt to.
func (r *Running) ready() map[*cell]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readyLocked()
}

func (r *Running) readyLocked() map[*cell]bool {
	ready := make(map[*cell]bool)
	for _, c := range r.cells {
		if cellState(c.state.Load()) == cellRunning {
			ready[c] = true
		}
	}
	return ready
}

// opening tells whether any partition here recovers.
func (r *Running) opening() bool {
	for _, c := range r.all() {
		if cellState(c.state.Load()) == cellOpening {
			return true
		}
	}
	return false
}

// leave closes cells, all at once.
func (r *Running) leave(cells []*cell) {
	done := make(chan struct{}, len(cells))
	for _, c := range cells {
		go func() {
			c.leave()
			done <- struct{}{}
		}()
	}
	for range cells {
		<-done
	}
	r.mu.Lock()
	kept := r.cells[:0:0]
	for _, c := range r.cells {
		if !c.leaving.Load() {
			kept = append(kept, c)
			continue
		}
		delete(r.byName, c.name)
	}
	r.cells = kept
	r.mu.Unlock()
	for _, c := range cells {
		r.system.meter.gone(c.name)
	}
}

// errLeft is why a partition does nothing here any more.
var errLeft = errors.New("the partition is placed on another node")
