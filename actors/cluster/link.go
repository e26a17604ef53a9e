package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// What a link's call ends with when there is no answer.
var (
	// errUnsent: it did not get to anybody.
	errUnsent = errors.New("it does not answer at its address")
	// errLost: it may have been handled; no answer came.
	errLost = errors.New("no answer: whether it was done is not known")
)

// peer is where a call goes: to one incarnation, so that a message with an old view meets nobody.
type peer struct{ node, incarnation, address string }

// link carries calls between nodes.
type link interface {
	// start takes calls as one incarnation; it returns where others reach it. Started again it is another incarnation.
	start(ctx context.Context, incarnation string) (address string, err error)
	// call sends a call to a peer and waits for its answer: an *Error is the other side's.
	call(ctx context.Context, to peer, c Call) ([]byte, error)
	// ask sends a call to the virtual actor's owner, as resolve has it.
	ask(ctx context.Context, c Call) ([]byte, error)
	// members tells who is there.
	members(ms []Member)
	// stop takes no more calls. It returns in bounded time.
	stop()
}

// linkHost is what a link needs of the node.
type linkHost interface {
	// answer handles a call.
	answer(ctx context.Context, c Call) ([]byte, error)
	// resolve says where a group's owner is.
	resolve(group int) (peer, bool)
	// broken says that what connected this node with an address is not there any more.
	broken(address string)
}

// Network connects nodes of one process, for tests and the simulation. Its zero value is ready to use.
type Network struct {
	mu    sync.Mutex
	nodes map[string]*networkLink // by address
	cut   map[[2]string]bool      // from a node to a node
	delay func(from, to string) time.Duration
	hints bool // that an address is left is told to the others
}

// Cut lets no call through from one node to another until it is mended.
func (n *Network) Cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut == nil {
		n.cut = make(map[[2]string]bool)
	}
	n.cut[[2]string{from, to}] = cut
}

// Delay says how long each message takes, there and back.
func (n *Network) Delay(delay func(from, to string) time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = delay
}

func (n *Network) link(node string, host linkHost) *networkLink {
	return &networkLink{network: n, node: node, host: host}
}

// networkLink is one node's end of a Network.
type networkLink struct {
	network *Network
	node    string
	host    linkHost

	incarnation string // network.mu guards it
}

func (l *networkLink) address() string { return "node:" + l.node }

func (l *networkLink) start(_ context.Context, incarnation string) (string, error) {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil {
		n.nodes = make(map[string]*networkLink)
	}
	if have := n.nodes[l.address()]; have != nil && have != l {
		return "", fmt.Errorf("listen %s: the address is in use", l.address())
	}
	n.nodes[l.address()] = l
	l.incarnation = incarnation
	return l.address(), nil
}

func (l *networkLink) stop() {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[l.address()] != l {
		return
	}
	delete(n.nodes, l.address())
	l.incarnation = ""
	if n.hints {
		for _, other := range n.nodes {
			go other.host.broken(l.address())
		}
	}
}

// listens tells whether somebody takes calls at an address.
func (n *Network) listens(address string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nodes[address] != nil
}

func (l *networkLink) members([]Member) {}

func (l *networkLink) ask(ctx context.Context, c Call) ([]byte, error) {
	to, ok := l.host.resolve(c.Group)
	if !ok {
		return nil, errUnsent
	}
	return l.call(ctx, to, c)
}

func (l *networkLink) call(ctx context.Context, to peer, c Call) ([]byte, error) {
	there, delay := l.reach(to)
	if there == nil {
		return nil, errUnsent
	}
	if err := wait(ctx, delay); err != nil {
		return nil, errLost
	}
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // the other side goes on when the caller does not wait any more
		body, err := there.host.answer(ctx, c)
		done <- result{body, err}
	}()
	select {
	case r := <-done:
		if err := wait(ctx, delay); err != nil {
			return nil, errLost
		}
		if back, _ := there.reach(peer{node: l.node, address: l.address()}); back == nil {
			return nil, errLost
		}
		if r.err != nil {
			return nil, asError(r.err)
		}
		return r.body, nil
	case <-ctx.Done():
		return nil, errLost
	}
}

// reach returns the peer's end, or nil where it cannot be reached.
func (l *networkLink) reach(to peer) (*networkLink, time.Duration) {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	there := n.nodes[to.address]
	if there == nil || n.cut[[2]string{l.node, to.node}] || to.incarnation != "" && there.incarnation != to.incarnation {
		return nil, 0
	}
	var delay time.Duration
	if n.delay != nil {
		delay = n.delay(l.node, to.node)
	}
	return there, delay
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
