package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// engine is a node's engine that only remembers what it was told.
type engine struct {
	mu     sync.Mutex
	view   View
	open   map[int]bool // groups that it runs
	slow   time.Duration
	lags   bool // copies are not near the end
	views  []View
	answer func(ctx context.Context, c Call) ([]byte, error)
	placed func(v View)
}

func (e *engine) Place(v View) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open == nil {
		e.open = make(map[int]bool)
	}
	e.view = v
	e.views = append(e.views, v)
	for g, r := range v.Roles {
		e.open[g] = r == Owner
	}
	if e.placed != nil {
		e.placed(v)
	}
}

func (e *engine) Caught(int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.lags
}

func (e *engine) Release(ctx context.Context, groups []int) error {
	if err := wait(ctx, e.slow); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range groups {
		if e.open[g] {
			return fmt.Errorf("group %d was not taken from this node before", g)
		}
	}
	return nil
}

func (e *engine) Answer(ctx context.Context, c Call) ([]byte, error) {
	e.mu.Lock()
	answer, open := e.answer, e.open[c.Group]
	e.mu.Unlock()
	if c.Flow != "" && !open {
		return nil, fmt.Errorf("group %d: %w", c.Group, ErrNotOwner)
	}
	if answer != nil {
		return answer(ctx, c)
	}
	return []byte(c.Method + " " + string(c.Body)), nil
}

func (e *engine) owned() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, r := range e.view.Roles {
		if r == Owner {
			n++
		}
	}
	return n
}

// node is one node of a test.
type node struct {
	*Cluster
	e *engine
}

func join(t *testing.T, streams transport.Streams, network *Network, name string, change ...func(*Options)) *node {
	t.Helper()
	o := Options{Name: "test", Node: name, Lease: 2 * time.Second, Standbys: 1, Network: network, Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("self", name)}
	for _, f := range change {
		f(&o)
	}
	e := &engine{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := Join(ctx, streams, e, o)
	if err != nil {
		t.Fatalf("node %s: %v", name, err)
	}
	t.Cleanup(c.Close)
	return &node{c, e}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, within time.Duration, so func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; {
		if so() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s: not %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// balanced tells whether the nodes share the groups evenly, with nothing under way.
func balanced(nodes ...*node) bool {
	for _, n := range nodes {
		t := n.Table()
		if len(t.Groups) == 0 {
			return false
		}
		for _, g := range t.Groups {
			if g.Next != "" {
				return false
			}
		}
		if low := len(t.Groups) / len(nodes); n.e.owned() != low && n.e.owned() != low+1 {
			return false
		}
	}
	return true
}
