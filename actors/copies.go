package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/transport"
)

// copies keeps warm copies of the partitions of a flow that run on other nodes: it reads their logs and installs each
// record into the store of this node, so that a partition that comes here finds its state here. A copy writes nothing
// but its store. While it is at work nobody else uses the stores.
type copies struct {
	r      *Running
	names  []string // of the partitions, sorted
	parts  map[string]*warmCopy
	cancel context.CancelFunc
	done   chan struct{}
}

// warmCopy is one partition's.
type warmCopy struct {
	p    *Partition // without steps: of it the store and what absorb knows are used
	asm  assembler
	at   atomic.Uint64 // sequence of the newest record that is installed
	seen atomic.Uint64 // that of the log's newest one, when somebody looked last
}

// keepCopies makes the copies those that the placement asks for.
func (r *Running) keepCopies() {
	f := r.Definition()
	var want []*warmCopy
	var names []string
	for _, must := range f.Stages() {
		for number := range f.Partitions {
			name := f.partitionName(stageName(must), number)
			if r.cell(name) == nil && r.system.role(r.name, stageName(must), number) == Copy {
				names = append(names, name)
				want = append(want, &warmCopy{p: r.bare(f, must, number)})
			}
		}
	}
	slices.Sort(names)
	r.mu.Lock()
	old, closing := r.copies, r.closing
	r.mu.Unlock()
	if old.at(names) || closing {
		return
	}
	old.stopAll()
	var c *copies
	if len(want) > 0 {
		c = &copies{r: r, names: names, parts: make(map[string]*warmCopy), done: make(chan struct{})}
		for _, w := range want {
			c.parts[w.p.subject] = w
		}
		ctx, cancel := context.WithCancel(r.ctx)
		c.cancel = cancel
		go c.run(ctx)
	}
	r.mu.Lock()
	r.copies = c
	r.mu.Unlock()
}

// bare is a partition that runs nothing.
func (r *Running) bare(f *Flow, must []string, number int) *Partition {
	stage := stageName(must)
	return &Partition{flow: f, stage: stage, must: must, number: number, of: f.Partitions, name: f.partitionName(stage, number), warm: true,
		ports: Ports{r.system.streams, r.system.objects, nil, r.system.clock, r.system.log, r.system.meter, nil}, opt: r.system.opt,
		stream: LogStream(f.Name), subject: logSubject(f.Name, stage, number, f.Generation), targets: make(map[string]*target)}
}

// at tells whether the copies are of these partitions, and still at work.
func (c *copies) at(names []string) bool {
	if c == nil {
		return len(names) == 0
	}
	select {
	case <-c.done:
		return false
	default:
		return slices.Equal(c.names, names)
	}
}

// stop ends the copies if one of them is of a partition: who opens it uses its store next.
func (c *copies) stop(name string) {
	if c != nil && slices.Contains(c.names, name) {
		c.stopAll()
	}
}

func (c *copies) stopAll() {
	if c != nil {
		c.cancel()
		<-c.done
	}
}

// run keeps the copies going over passing faults.
func (c *copies) run(ctx context.Context) {
	defer close(c.done)
	for try := 0; ; try++ {
		begin := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > time.Minute {
			try = 0
		}
		c.r.log.Warn("warm copies begin again", "error", err)
		if c.r.system.clock.Sleep(ctx, min(200*time.Millisecond<<min(try, 6), 10*time.Second)) != nil {
			return
		}
	}
}

// once brings the copies up to their logs and follows these until something fails.
func (c *copies) once(ctx context.Context) error {
	from := uint64(math.MaxUint64)
	var subjects []string
	for subject, w := range c.parts {
		if err := c.prepare(ctx, w); err != nil {
			return fmt.Errorf("partition %s: %w", w.p.name, err)
		}
		subjects = append(subjects, subject)
		from = min(from, w.at.Load()+1)
	}
	slices.Sort(subjects)
	rd, err := c.r.system.streams.Read(ctx, LogStream(c.r.name), transport.ReadOptions{From: from, Subjects: subjects})
	if err != nil {
		return err
	}
	defer rd.Close()
	for {
		ms, err := rd.Next(ctx, 256)
		if err != nil {
			return err
		}
		for i := range ms {
			w := c.parts[ms[i].Subject]
			if w == nil || ms[i].Sequence <= w.at.Load() {
				continue
			}
			if err := w.take(&ms[i]); err != nil {
				return fmt.Errorf("partition %s: %w", w.p.name, err)
			}
		}
	}
}

// prepare opens a copy's store. One that does not fit the log, or ends before its beginning, is built anew from the
// newest snapshot.
func (c *copies) prepare(ctx context.Context, w *warmCopy) error {
	p := w.p
	w.asm = assembler{}
	if p.ports.Store == nil {
		store, err := c.r.system.db.Store(p.name)
		if err != nil {
			return err
		}
		p.ports.Store = store
	}
	last, err := c.r.system.streams.LastOn(ctx, p.stream, p.subject)
	if errors.Is(err, transport.ErrNotFound) {
		last.Sequence = 0
	} else if err != nil {
		return err
	}
	w.seen.Store(last.Sequence)
	err = p.loadMeta(math.MaxUint64)
	if err == nil && p.meta.Sequence > last.Sequence {
		err = fmt.Errorf("%w: it is at log sequence %d, the log ends at %d", errOlder, p.meta.Sequence, last.Sequence)
	}
	if err == nil && p.meta.Sequence < last.Sequence {
		err = p.fits(ctx, last.Sequence)
	}
	if errors.Is(err, state.ErrCorrupt) || errors.Is(err, errOlder) {
		c.r.log.Info("a warm copy is built anew", "partition", p.name, "because", err)
		if last.Sequence == 0 {
			p.reset()
			err = p.ports.Store.Clear()
		} else {
			err = p.rebuild(ctx, err, last.Sequence, nil)
		}
	}
	if err != nil {
		return err
	}
	w.at.Store(p.meta.Sequence)
	return nil
}

// fits tells whether the log still has the record that follows on what the store holds.
func (p *Partition) fits(ctx context.Context, last uint64) error {
	stop := errors.New("enough")
	err := p.readLog(ctx, p.meta.Sequence+1, last, func(r *proto.Record, _ logged) error {
		if r.Number != p.meta.Number+1 {
			return fmt.Errorf("%w: record %d follows on %d", errOlder, r.Number, p.meta.Number)
		}
		return stop
	})
	if errors.Is(err, stop) {
		return nil
	}
	return err
}

// take installs the record that a message ends.
func (w *warmCopy) take(m *transport.Message) error {
	r, at, err := w.asm.add(w.p.stream, m)
	if r == nil || err != nil {
		return err
	}
	if r.Number != w.p.meta.Number+1 {
		return fmt.Errorf("%w: record %d follows on %d", errOlder, r.Number, w.p.meta.Number)
	}
	if err := w.p.install(r, at); err != nil {
		return err
	}
	w.at.Store(at.last)
	if w.seen.Load() < at.last {
		w.seen.Store(at.last)
	}
	return nil
}

// CopyStatus is how far a warm copy is.
type CopyStatus struct {
	Partition string
	Node      string // that keeps it, in a merged report
	Sequence  uint64 // of the newest record that it holds, in the log
	Behind    bool   // the log was further when somebody looked last
}

// Copies tells of the warm copies of the flow on this node.
func (r *Running) Copies() []CopyStatus {
	r.mu.Lock()
	c := r.copies
	r.mu.Unlock()
	if c == nil {
		return nil
	}
	var all []CopyStatus
	for _, w := range c.parts {
		at := w.at.Load()
		all = append(all, CopyStatus{w.p.name, "", at, at < w.seen.Load()})
	}
	slices.SortFunc(all, func(a, b CopyStatus) int { return strings.Compare(a.Partition, b.Partition) })
	return all
}

// Caught tells whether the warm copies of a flow that wanted chooses hold all that was in their logs when somebody asked
// the last time, and asks anew. It takes a look at the log's newest record of each.
func (r *Running) Caught(ctx context.Context, wanted func(stage string, number int) bool) (bool, error) {
	r.mu.Lock()
	c := r.copies
	r.mu.Unlock()
	caught := true
	f := r.Definition()
	for _, must := range f.Stages() {
		for number := range f.Partitions {
			stage := stageName(must)
			if !wanted(stage, number) || r.cell(f.partitionName(stage, number)) != nil {
				continue
			}
			var w *warmCopy
			if c != nil {
				w = c.parts[logSubject(r.name, stage, number, f.Generation)]
			}
			if w == nil {
				return false, nil // it has not begun
			}
			before := w.seen.Load()
			m, err := r.system.streams.LastOn(ctx, LogStream(r.name), w.p.subject)
			if err != nil && !errors.Is(err, transport.ErrNotFound) {
				return false, err
			}
			w.seen.Store(m.Sequence)
			caught = caught && w.at.Load() >= min(before, m.Sequence)
		}
	}
	return caught, nil
}
