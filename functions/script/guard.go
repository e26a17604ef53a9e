package script

import (
	"fmt"
	"sync"
	"time"

	"github.com/dop251/goja"
)

// guard interrupts what takes too long, and ends the process that takes too much memory.
type guard struct {
	// memory tells how many bytes the process uses, and over ends it; nil where nobody bounds the memory.
	memory func() int64
	over   func()
	base   int64 // bytes that the process had before it had anything to do
	kept   int64 // bytes that it has beyond that before a request: other scripts, and what is not collected yet

	mu    sync.Mutex
	vm    *goja.Runtime // of the row in hand; nil between two rows
	since time.Time
	limit time.Duration
	stop  chan struct{} // ends the watching; nil while nobody watches
	most  int64         // bytes
	row   uint64        // counts the rows
	seen  uint64        // the row that was in hand at the last look,
	spent time.Duration // and the processor time that the process had spent when it was seen first
}

// Times between two looks of the guard.
const (
	minLook = time.Millisecond
	maxLook = 10 * time.Millisecond
)

// begin notes that a row is begun.
func (g *guard) begin(vm *goja.Runtime, limit time.Duration) {
	now := time.Now()
	vm.ClearInterrupt()
	g.mu.Lock()
	g.vm, g.since, g.limit = vm, now, limit
	g.row++
	alone := g.stop == nil
	g.mu.Unlock()
	if alone { // a load: it has a watch of its own
		g.watch(Limits{Time: limit, Memory: MaxMemory})
	}
}

// end notes that it is through.
func (g *guard) end() {
	g.mu.Lock()
	g.vm = nil
	g.mu.Unlock()
}

// watch looks at the rows until rest.
func (g *guard) watch(l Limits) {
	stop := make(chan struct{})
	g.mu.Lock()
	if g.stop != nil {
		close(g.stop)
	}
	g.stop, g.most = stop, g.base+g.kept+l.Memory
	g.mu.Unlock()
	go func() { // ends with rest, or the next watch
		t := time.NewTicker(min(max(l.Time/10, minLook), maxLook))
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				g.look(stop, now)
			}
		}
	}()
}

func (g *guard) look(mine chan struct{}, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop != mine {
		return
	}
	if g.vm != nil && g.overTime(now) {
		g.vm.Interrupt(fmt.Sprintf("longer than %s", g.limit))
	}
	if g.memory != nil && g.memory() > g.most {
		g.over()
	}
}

// overTime tells whether the row in hand has had its time: by the clock, and by the processor time that was spent, so that
// a machine that is busy with other things, or was asleep, is not held against the row.
func (g *guard) overTime(now time.Time) bool {
	if g.seen != g.row {
		g.seen, g.spent = g.row, processorTime()
		return false
	}
	if now.Sub(g.since) <= g.limit {
		return false
	}
	spent := processorTime()
	return spent < 0 || spent-g.spent >= g.limit*3/4 || now.Sub(g.since) > patience*g.limit
}

// patience is how many times the limit a row may take by the clock if it has not had as much processor time.
const patience = 10

// rest ends the watching.
func (g *guard) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop != nil {
		close(g.stop)
		g.stop = nil
	}
}
