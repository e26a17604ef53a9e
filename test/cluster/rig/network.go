package rig

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Network connects nodes. It is safe for use by many goroutines.
type Network struct {
	tag     string // of this process; empty: loopback
	bridge  string
	subnet  string // three of the four numbers of an address
	missing error  // why there are no namespaces; nil: there are

	mu   sync.Mutex
	cuts map[[2]*Place]int // how often each is cut, from the first to the second
}

// Place is where a node is in a network.
type Place struct {
	Name   string
	Host   string   // its address; of the loopback network 127.0.0.1, as everybody's
	Inner  string   // an address in 127.0.0.0/8 at which the other places reach it, and the tests' own process does not
	Prefix []string // what runs a command there
	n      int      // its number in the network, from 1
	ns     string
	net    *Network
}

// Why says why the links of the network cannot be cut; nil: they can.
func (n *Network) Why() error { return n.missing }

// Loopback is the network where nothing can be cut: all nodes on 127.0.0.1.
func Loopback(why error) *Network { return &Network{missing: why} }

// OpenNetwork makes a network of namespaces, or falls back to the loopback one.
func OpenNetwork(t testing.TB) *Network {
	t.Helper()
	n, err := openNamespaces(t)
	if err != nil {
		t.Logf("nodes share the loopback address, no link is cut: %v", err)
		return Loopback(err)
	}
	return n
}

// Place makes a place for a node; it is gone when the test ends.
func (n *Network) Place(t testing.TB, name string, number int) *Place {
	t.Helper()
	p := &Place{Name: name, Host: "127.0.0.1", Inner: "127.0.0.1", n: number, net: n}
	if n.missing != nil {
		return p
	}
	if err := n.addNamespace(t, p); err != nil {
		t.Fatalf("network namespace for %s: %v", name, err)
	}
	return p
}

// Cut loses everything that p sends to others from now on; what they send still arrives. Both directions are cut by
// cutting on both sides. A link that is cut twice has to be healed twice.
func (p *Place) Cut(others ...*Place) error { return p.each(others, 1) }

// Heal ends Cut.
func (p *Place) Heal(others ...*Place) error { return p.each(others, -1) }

func (p *Place) each(others []*Place, by int) error {
	if p.net.missing != nil {
		return p.net.missing
	}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for _, o := range others {
		if o == p {
			continue
		}
		link := [2]*Place{p, o}
		before := p.net.cuts[link]
		if before+by < 0 {
			continue // it is whole
		}
		p.net.cuts[link] = before + by
		var err error
		switch {
		case before == 0:
			err = p.cut(o)
		case before+by == 0:
			err = p.heal(o)
		}
		if err != nil {
			return fmt.Errorf("link from %s to %s: %w", p.Name, o.Name, err)
		}
	}
	return nil
}

// Dial connects from the place to an address of numbers.
func (p *Place) Dial(address string, limit time.Duration) (conn net.Conn, err error) {
	err = p.inside(func() error {
		conn, err = net.DialTimeout("tcp", address, limit)
		return err
	})
	return conn, err
}
