package rig

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// Network connects nodes. It is safe for use by many goroutines.
type Network struct {
	tag     string // of this process; empty: loopback
	bridge  string
	subnet  string // three of the four numbers of an address
	missing error  // why there are no namespaces; nil: there are
}

// Place is where a node is in a network.
type Place struct {
	Name   string
	Host   string   // its address; of the loopback network 127.0.0.1, as everybody's
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
	p := &Place{Name: name, Host: "127.0.0.1", n: number, net: n}
	if n.missing != nil {
		return p
	}
	if err := n.addNamespace(t, p); err != nil {
		t.Fatalf("network namespace for %s: %v", name, err)
	}
	return p
}

// Cut loses everything that p sends to others from now on; what they send still arrives. Both directions are cut by
// cutting on both sides. Cutting twice is cutting once.
func (p *Place) Cut(others ...*Place) error { return p.each(others, p.cut) }

// Heal ends Cut.
func (p *Place) Heal(others ...*Place) error { return p.each(others, p.heal) }

func (p *Place) each(others []*Place, f func(*Place) error) error {
	if p.net.missing != nil {
		return p.net.missing
	}
	for _, o := range others {
		if o == p {
			continue
		}
		if err := f(o); err != nil {
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
