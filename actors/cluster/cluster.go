package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// Engine is what runs this node's partitions. Only Answer is called by several goroutines at once.
type Engine interface {
	// Place says what this node is to be for each group, at every change, in order, from one goroutine. It returns
	// soon: the engine follows in its own time.
	Place(v View)
	// Caught tells whether the copies of a group's partitions are near the ends of their logs; true where there
	// are none. It returns at once.
	Caught(group int) bool
	// Release waits until all partitions of groups that Place has taken from this node are closed, their batches at
	// hand finished or given up: once it has returned nil this node commits nothing for them under that ownership.
	// With an error it is called again. Before a group is this node's again a View after Release says that it is
	// not, so that an engine may hold closed what it has released until then. It must not hang on streams that do not answer: a node that cannot reach
	// them must be able to give up.
	Release(ctx context.Context, groups []int) error
	// Answer handles a call of another node, or of this one.
	Answer(ctx context.Context, c Call) ([]byte, error)
}

var errClosed = errors.New("this node has left the cluster")

// Cluster is this node's membership. It may be used by many goroutines.
type Cluster struct {
	opt     Options
	engine  Engine
	streams transport.Streams
	clock   Clock
	log     *slog.Logger
	link    link
	started time.Time // of the process, for people

	ctx     context.Context // of all goroutines
	cancel  context.CancelFunc
	work    sync.WaitGroup
	stopped chan struct{} // closed when the membership has ended, for whatever reason
	once    sync.Once
	kick    chan struct{} // wakes renew

	mu          sync.Mutex
	created     time.Time     // the bucket, as it was joined
	changed     chan struct{} // closed at the next change
	incarnation string
	address     string
	sequence    uint64 // of our own key
	renewal     uint64 // our writes of it
	write       uint64 // our writes of the table
	good        time.Duration
	lapsed      bool   // nothing is ours until we have joined again
	generation  int    // of our ownerships: lapses so far
	joined      uint64 // the sequence of our key when we joined last: what is older must have been watched
	leaving     bool
	ended       bool // it does not join again
	err         error
	own         map[string]bool // our incarnations so far
	gaveUp      []int           // what was ours at the last lapse

	members map[string]*member
	table   Table
	watched uint64 // the watch has seen all up to here
	// unreadable says why the newest table cannot be read; nothing is written then.
	unreadable error
	held       lockState
	locked     bool // the lock is ours

	placed      View // what the engine was told last
	order       int  // counts what the engine must have been told before we go on
	placedOrder int  // what it has been told
	releases    map[int]*release
	releasing   int                // calls of Release for moves that have not returned
	releaseCtx  context.Context    // theirs, of this generation
	abandon     context.CancelFunc // ends it
	onChange    []func()
	outdated    map[string]uint64 // by node: the number of the table that is known to be wrong about it
	unread      map[string]bool   // nodes whose keys could not be read, and that was said
	cut         map[string]bool   // addresses whose connection broke, until greet has seen it
}

// Join makes this node a member and returns when the table knows it. Place may be called before Join returns. The
// error of a name that another process uses says which.
func Join(ctx context.Context, streams transport.Streams, e Engine, o Options) (*Cluster, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	c := &Cluster{
		opt: o, engine: e, streams: streams, clock: o.Clock, log: o.Log.With("cluster", o.Name), started: time.Now(),
		stopped: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}),
		lapsed: true, own: make(map[string]bool), cut: make(map[string]bool), unread: make(map[string]bool), outdated: make(map[string]uint64), members: make(map[string]*member), releases: make(map[int]*release),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.Network != nil {
		c.link = o.Network.link(o.Node, c)
	} else {
		c.link = newRemote(o, c)
	}
	if err := c.join(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("join cluster %s: %w", o.Name, err)
	}
	return c, nil
}

func (c *Cluster) join(ctx context.Context) error {
	info, err := c.streams.Ensure(ctx, bucketConfig())
	if err != nil {
		return err
	}
	c.created = info.Created
	m, err := c.last(ctx, tableSubject)
	if err != nil {
		return err
	}
	if m.Sequence > 0 {
		_, name, err := decodeTable(m.Data)
		if err != nil {
			return err
		}
		if name != c.opt.Name {
			return fmt.Errorf("these streams are those of cluster %s: give this node its name, or other streams", name)
		}
	}
	if err := c.enter(ctx); err != nil {
		return err
	}
	for _, loop := range []func(){c.watch, c.renew, c.place, c.decide, c.greet, c.tell} {
		c.work.Add(1)
		go func() {
			defer c.work.Done()
			loop()
		}()
	}
	// What the others wrote before us is read before anything is believed.
	return c.until(ctx, func() bool { return c.watched >= c.joined && c.table.nodes[c.opt.Node] == c.incarnation })
}

// until waits for something that mu guards.
func (c *Cluster) until(ctx context.Context, so func() bool) error {
	for {
		c.mu.Lock()
		yes, changed, err := so(), c.changed, c.err
		c.mu.Unlock()
		if yes {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return errClosed
		}
	}
}

// notify wakes who waits for a change. mu is held.
func (c *Cluster) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Cluster) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// tell calls who asked for changes.
func (c *Cluster) tell() {
	for {
		c.mu.Lock()
		changed, all := c.changed, slices.Clone(c.onChange)
		c.mu.Unlock()
		for _, f := range all {
			f()
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		}
	}
}

// OnChange calls f after members or the table have changed, from one goroutine; several changes may be one call.
func (c *Cluster) OnChange(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onChange = append(c.onChange, f)
	c.notify()
}

// Table returns the newest table.
func (c *Cluster) Table() Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.clone()
}

// Owner returns the live node that owns a group.
func (c *Cluster) Owner(group int) (node string, ok bool) {
	p, ok := c.resolve(group)
	return p.node, ok
}

// resolve implements linkHost.
func (c *Cluster) resolve(group int) (peer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if group < 0 || group >= len(c.table.Groups) {
		return peer{}, false
	}
	node := c.table.Groups[group].Owner
	p, ok := c.livePeer(node)
	return p, ok && c.table.nodes[node] == p.incarnation
}

// peer returns a live node's address.
func (c *Cluster) peer(node string) (peer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.livePeer(node)
}

func (c *Cluster) livePeer(node string) (peer, bool) {
	if node == c.opt.Node {
		return peer{node, c.incarnation, c.address}, !c.lapsed
	}
	m := c.members[node]
	if m == nil || !m.alive() {
		return peer{}, false
	}
	return peer{node, m.Incarnation, m.Address}, true
}

// lives tells whether a peer is still the node's live incarnation.
func (c *Cluster) lives(p peer) bool {
	now, ok := c.peer(p.node)
	return ok && now == p
}

// owns tells whether a group is this node's.
func (c *Cluster) owns(group int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judge()
	return group >= 0 && group < len(c.table.Groups) && c.roleOf(group) == Owner
}

// Done is closed when this node is no member any more: after Leave and Close, or because another process has taken
// its name. Err says why.
func (c *Cluster) Done() <-chan struct{} { return c.stopped }

// Err returns nil while this node is a member or has left by itself.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// closed tells whether the membership has ended.
func (c *Cluster) closed() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return false
	}
}

// fail ends the membership. mu is held.
func (c *Cluster) fail(err error) {
	if c.err == nil {
		c.err = err
		c.log.Error("this node is no member any more", "error", err)
	}
	c.ended = true
	c.lapse("it has failed")
	c.notify()
	c.once.Do(func() { close(c.stopped) })
}

// Leave hands all groups of this node over to others, deletes its key and ends the membership. When ctx ends before
// all are handed over, the rest is released and the others take it from there. Leave ends the membership in any case.
func (c *Cluster) Leave(ctx context.Context) error {
	c.mu.Lock()
	c.leaving = true
	c.notify()
	c.mu.Unlock()
	c.wake()
	handed := c.until(ctx, c.empty)
	if c.closed() {
		c.Close()
		return handed
	}
	err := c.part(ctx)
	c.Close()
	return err
}

// empty tells whether nothing is ours, or nobody could have it. mu is held.
func (c *Cluster) empty() bool {
	if c.lapsed {
		return true
	}
	others := slices.ContainsFunc(c.candidates(), func(o candidate) bool { return o.node != c.opt.Node && !o.draining })
	if !others {
		return true
	}
	return !slices.ContainsFunc(c.table.Groups, func(g Group) bool { return g.Owner == c.opt.Node || g.Next == c.opt.Node })
}

// part gives up what is left and deletes the member key.
func (c *Cluster) part(ctx context.Context) error {
	// Even where ctx has ended there is a moment for the last steps: they spare the others a lease of waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(c.opt.Lease, time.Second))
	defer cancel()
	c.mu.Lock()
	c.ended = true
	c.lapse("it leaves")
	groups := c.gaveUp // of a lapse before, too
	incarnation, expect, order := c.incarnation, c.sequence, c.order
	c.notify()
	c.mu.Unlock()
	if err := c.until(ctx, func() bool { return c.placedOrder >= order }); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	if len(groups) > 0 {
		if err := c.engine.Release(ctx, groups); err != nil {
			return fmt.Errorf("leave: release groups: %w", err)
		}
	}
	data, err := c.record(incarnation, 0)
	if err != nil {
		return err
	}
	for {
		_, newest, err := c.put(ctx, memberPrefix+c.opt.Node, data, true, expect)
		if err == nil {
			return nil
		}
		if errors.Is(err, transport.ErrFenced) {
			if of, err := decodeMember(&newest); err != nil || of.Incarnation != incarnation || isDeleted(&newest) {
				return nil // somebody else's by now
			}
			expect = newest.Sequence // a renewal of ours was under way
		}
		if err := sleep(ctx, c.clock, c.opt.Lease/16); err != nil {
			return fmt.Errorf("leave: delete the member key: %w", err)
		}
	}
}

// Close ends the membership at once: nothing is handed over, and the others wait for the lease. When it has
// returned Place, Caught and Release are not called any more.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.ended = true
	c.lapse("it is closed")
	c.notify()
	c.cancel()
	c.mu.Unlock()
	c.once.Do(func() { close(c.stopped) })
	c.link.stop()
	c.work.Wait()
}

// newIncarnation names a membership: no other has its name.
func newIncarnation(node string) string { return node + "." + rand.Text()[:12] }
