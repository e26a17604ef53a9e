package actors

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// cell is one partition on this node: its actor, what may wait for it, and how it is.
type cell struct {
	name      string
	stage     string
	must      []string
	number    int
	layout    uint64 // its generation
	box       mailbox
	credit    *credit
	ctx       context.Context
	cancel    context.CancelFunc
	leaving   atomic.Bool   // it is placed on another node: nothing more is taken up
	ended     chan struct{} // closed when the actor has ended: what is asked then finds nobody
	end       sync.Once
	failed    func(c *cell, err error) // called once, from the actor, when the partition is of no use any more
	p         *Partition               // the actor's alone
	held      int                      // rows whose credit is kept back while the partition is full
	working   bool                     // a work message is in the mailbox, or on its way
	busy      bool                     // the last batch was of a size that says that more is coming
	worked    time.Time                // when the last batch was done
	state     atomic.Int32             // cellState
	restless  atomic.Bool
	told      map[int]int64  // by input: the event time that the partition was told of; the ticker's alone
	aside     func(f func()) // calls f beside the partition
	moving    bool           // the partition's snapshot is being moved on beside it
	linger    *time.Timer
	lingering bool // the linger message is awaited before the work message is sent

	mu     sync.Mutex
	reason error
	known  PartitionStatus // what it answered last
	cut    uint64          // up to which place its hand-offs were removed
	done   uint64          // records read in recovery
	of     uint64
}

type cellState int32

const (
	cellOpening cellState = iota
	cellRunning
	cellFailed
)

func (s cellState) String() string { return [...]string{"recovering", "running", "stopped"}[s] }

// The messages of a partition's mailbox; a *Chunk is one too.
type (
	openMessage   struct{ opened chan<- error }
	workMessage   struct{}
	lingerMessage struct{}
	tickMessage   struct{}
	// snapshotMessage: the snapshot that was moved on beside the partition needs its turn.
	snapshotMessage struct{}
	// askMessage is a question, or a command, to the partition: it meets committed state only.
	askMessage struct {
		f    func(*Partition) error
		done chan<- error
	}
)

// receive handles one message. Only the mailbox's goroutine calls it.
func (c *cell) receive(message any) {
	defer func() {
		c.p.waits.Store(nil)
		if r := recover(); r != nil {
			c.fail(fmt.Errorf("partition %s: %w\n%s", c.name, fmt.Errorf("broken: %v", r), debug.Stack()))
		}
	}()
	switch m := message.(type) {
	case openMessage:
		err := c.p.Open(c.ctx, c.progress)
		if err != nil {
			c.fail(err)
		} else {
			c.state.Store(int32(cellRunning))
			c.restless.Store(c.p.Restless())
		}
		m.opened <- err
	case *Chunk:
		if c.dead() || c.leaving.Load() {
			return
		}
		c.p.Offer(m)
		c.work()
	case lingerMessage:
		if c.lingering && !c.dead() {
			c.lingering = false
			c.box.Tell(workMessage{})
		}
	case workMessage:
		c.working = false
		if c.dead() || c.leaving.Load() {
			return
		}
		taken, err := c.p.Work(c.ctx)
		if err != nil {
			c.fail(err)
			return
		}
		now := time.Now()
		c.busy = taken >= lingerRows && int64(taken)*int64(time.Millisecond) > lingerRate*int64(now.Sub(c.worked))
		c.worked = now
		c.giveBack(taken)
		c.work()
	case tickMessage:
		if c.dead() || c.leaving.Load() || cellState(c.state.Load()) == cellOpening {
			return
		}
		if err := c.p.Tick(c.ctx); err != nil {
			c.fail(err)
			return
		}
		c.moveSnapshot()
		c.giveBack(0)
	case snapshotMessage:
		c.moving = false
		if c.dead() || c.leaving.Load() {
			return
		}
		if err := c.p.turnSnapshot(c.ctx); err != nil {
			c.fail(err)
			return
		}
		c.moveSnapshot()
		c.giveBack(0)
	case askMessage:
		m.done <- c.answer(m.f)
	default:
		panic(fmt.Sprintf("actors: partition %s received %T", c.name, m)) // our bug, not an input's
	}
}

func (c *cell) answer(f func(*Partition) error) (err error) {
	if c.dead() {
		return c.why()
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("broken: %v\n%s", r, debug.Stack())
			c.fail(err)
		}
	}()
	err = f(c.p)
	if fatal(err) {
		c.fail(err)
	}
	c.giveBack(0) // a command may have made room
	return err
}

// leavePatience is how long a batch may take that is at hand when its partition is placed on another node. Longer, and it
// is cut short: it waits for NATS, or for something outside. Its record is in the log or not, as after a crash.
const leavePatience = 2 * time.Second

// leave ends the partition on this node: the batch at hand is finished, and what waits is read again by the next owner.
func (c *cell) leave() {
	c.leaving.Store(true)
	c.credit.end()
	if cellState(c.state.Load()) == cellRunning && c.p.waits.Load() == nil {
		patience, cancel := context.WithTimeout(c.ctx, leavePatience)
		_ = c.ask(patience, func(*Partition) error { return nil }) // behind the batch at hand
		cancel()
	}
	c.cancel()
	c.mu.Lock()
	if c.reason == nil {
		c.reason = errLeft
	}
	c.mu.Unlock()
	c.stop()
	c.state.Store(int32(cellFailed))
	c.restless.Store(false)
}

// stop ends the actor, and returns when it has ended.
func (c *cell) stop() {
	c.box.Stop()
	c.end.Do(func() { close(c.ended) })
}

// moveSnapshot lets the partition's snapshot go on beside it, if one is being written.
func (c *cell) moveSnapshot() {
	w := c.p.snapshots.writing
	if w == nil || c.moving || !w.working() {
		return
	}
	c.moving = true
	c.aside(func() {
		w.runSteps(c.ctx) // it ends with ctx, and closes what it has open
		c.box.Tell(snapshotMessage{})
	})
}

// fatal tells whether a command's error leaves the partition without use.
func fatal(err error) bool {
	return errors.Is(err, ErrFenced) || errors.Is(err, ErrStopped) || errors.Is(err, errStore) || errors.Is(err, ErrDamagedLog)
}

func (c *cell) dead() bool { return cellState(c.state.Load()) == cellFailed }

// A partition that is busy waits a little for its batch to fill: a commit costs about as much processor time as
// thirty rows do. One that is not takes what is there at once, so that a lone row does not wait.
const (
	lingerRows = 12                    // a batch of so many rows, and
	lingerRate = 2                     // so many in a millisecond since the one before, say that the partition is busy
	fullRows   = 400                   // so many waiting rows are worth a commit at once
	lingerTime = 25 * time.Millisecond // the longest wait
)

// work asks for another batch if anything waits. Chunks that arrived meanwhile are ahead of the message in the
// mailbox, and so part of the batch.
func (c *cell) work() {
	rows := c.p.QueuedRows()
	switch {
	case c.working && !(c.lingering && (rows >= fullRows || c.p.Unfinished())), c.p.Queued() == 0:
	case c.busy && rows < fullRows && !c.lingering && !c.p.Unfinished():
		c.working, c.lingering = true, true
		if c.linger == nil {
			c.linger = time.AfterFunc(lingerTime, func() { c.box.Tell(lingerMessage{}) })
		} else {
			c.linger.Reset(lingerTime)
		}
	default:
		if c.lingering {
			c.linger.Stop() // if it has fired, its message finds nobody waiting for it
		}
		c.working, c.lingering = true, false
		c.box.Tell(workMessage{})
	}
}

// giveBack returns the credit of rows that are through, unless so many wait at the steps that no more may come.
func (c *cell) giveBack(rows int) {
	c.restless.Store(c.p.Restless())
	c.held += rows
	if c.held > 0 && !c.p.Full() {
		c.credit.give(c.held)
		c.held = 0
	}
}

// fail ends the partition's work, for good.
func (c *cell) fail(err error) {
	if c.dead() {
		return
	}
	c.mu.Lock()
	c.reason = err
	c.mu.Unlock()
	c.state.Store(int32(cellFailed))
	c.restless.Store(false)
	c.credit.end()
	c.failed(c, err)
}

func (c *cell) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

func (c *cell) progress(_ *Partition, done, of uint64) {
	c.mu.Lock()
	c.done, c.of = done, of
	c.mu.Unlock()
}

// deliver hands a chunk over when there is room for it.
func (c *cell) deliver(ctx context.Context, k *Chunk) error {
	if err := c.credit.take(ctx, k.cost()); err != nil {
		if errors.Is(err, errGone) {
			return nil // it is read again when the partition is back
		}
		return err
	}
	c.box.Tell(k)
	return nil
}

// query is ask for a question that may be asked again: while the partition waits it is refused with what for.
func (c *cell) query(ctx context.Context, f func(*Partition) error) error {
	if waits := c.p.waits.Load(); waits != nil && !c.dead() {
		return fmt.Errorf("%w: partition %s: %w", ErrWaiting, c.name, *waits)
	}
	return c.ask(ctx, f)
}

// ask runs f in the partition's turn.
func (c *cell) ask(ctx context.Context, f func(*Partition) error) error {
	done := make(chan error, 1)
	c.box.Tell(askMessage{f, done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("partition %s: %w", c.name, ctx.Err())
	case <-c.ended:
		select {
		case err := <-done: // it was the last one
			return err
		default:
		}
		if err := c.why(); err != nil {
			return err
		}
		return errLeft // the flow stops
	}
}
