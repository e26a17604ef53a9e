package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Options say who a node is and how its cluster works. Name, Node and Listen have no default.
type Options struct {
	// Name is the cluster's. A bucket holds one cluster; a node of another name is refused.
	Name string
	// Node is this node's name: stable over restarts, for its copies of the states are found by it. Letters, digits, - and _.
	Node string
	// Listen is where this node takes calls of others, HOST:PORT; port 0 takes a free one.
	Listen string
	// Advertise is where others reach it, HOST:PORT; port 0 stands for Listen's. Default: Listen, with the port that it got.
	Advertise string
	// API is the base URL of this node's API, told to the others.
	API string
	// Version is this node's, told to the others.
	Version string
	// Weight is this node's share of the groups relative to the others'. Default 1.
	Weight int
	// Lease is how long a member may be silent before its groups go elsewhere; it renews every quarter of it. Default 2 s.
	Lease time.Duration
	// Groups is the number of groups: only the cluster's first node's counts. Default 256.
	Groups int
	// Standbys is how many nodes beside the owner keep a warm copy of a group: 0 to 2, -1 means the default, 1. Where
	// nodes were told different counts the highest holds.
	Standbys int
	// Moves is how many planned moves are under way at once in the cluster; the highest of the nodes' counts
	// holds. Default 16.
	Moves int
	// TLS secures the calls, as server and as client. It may be nil only where Listen and Advertise are loopback.
	TLS *tls.Config
	// IgnoreLease lets this node believe that it owns what it owned however long it has been away. For tests: the
	// fence alone must keep things right.
	IgnoreLease bool
	// Clock is the node's. Default: the machine's.
	Clock Clock
	// Log says who comes and goes. Default: nothing.
	Log *slog.Logger
	// Network, for tests, connects nodes of one process without sockets. Default: protoactor's remote.
	Network *Network
}

// Clock is monotonic time and timers.
type Clock interface {
	// Now is the time since some moment that stays the same.
	Now() time.Duration
	// Timer fires once after d; stop frees what is left of it.
	Timer(d time.Duration) (fired <-chan time.Time, stop func())
}

const (
	minLease  = 100 * time.Millisecond
	maxLease  = 10 * time.Minute
	maxGroups = 1024
	maxWeight = 1000
	maxName   = 64
)

func (o Options) withDefaults() Options {
	if o.Weight == 0 {
		o.Weight = 1
	}
	if o.Lease == 0 {
		o.Lease = 2 * time.Second
	}
	if o.Groups == 0 {
		o.Groups = 256
	}
	if o.Standbys == -1 {
		o.Standbys = 1
	}
	if o.Moves == 0 {
		o.Moves = 16
	}
	if o.Clock == nil {
		o.Clock = machineClock{time.Now()}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate joins all that is wrong with the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	var wrong []error
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for _, n := range []struct{ what, name string }{{"cluster name", o.Name}, {"node name", o.Node}} {
		if err := validName(n.name); err != nil {
			say("%s %q: %w", n.what, n.name, err)
		}
	}
	if o.Weight < 1 || o.Weight > maxWeight {
		say("weight is %d; it must be 1 to %d", o.Weight, maxWeight)
	}
	if o.Lease < minLease || o.Lease > maxLease {
		say("lease is %s; it must be %s to %s", o.Lease, minLease, maxLease)
	}
	if o.Groups < 1 || o.Groups > maxGroups {
		say("groups is %d; it must be 1 to %d", o.Groups, maxGroups)
	}
	if o.Standbys < 0 || o.Standbys > 2 {
		say("standbys is %d; it must be 0 to 2", o.Standbys)
	}
	if o.Moves < 1 || o.Moves > maxGroups {
		say("moves is %d; it must be 1 to %d", o.Moves, maxGroups)
	}
	if o.Network == nil {
		wrong = append(wrong, o.validateAddresses())
	}
	return errors.Join(wrong...)
}

func (o Options) validateAddresses() error {
	host, _, err := splitAddress(o.Listen)
	if err != nil {
		return fmt.Errorf("listen %q: %w", o.Listen, err)
	}
	advertised := host
	if o.Advertise != "" {
		if advertised, _, err = splitAddress(o.Advertise); err != nil {
			return fmt.Errorf("advertise %q: %w", o.Advertise, err)
		}
	}
	if ip := net.ParseIP(advertised); advertised == "" || ip != nil && ip.IsUnspecified() {
		if o.Advertise == "" {
			return fmt.Errorf("listen %q is every address of this machine: advertise must say at which of them other nodes reach it", o.Listen)
		}
		return fmt.Errorf("advertise %q: it must name a host that other nodes reach", o.Advertise)
	}
	if o.TLS == nil && !(loopback(host) && loopback(advertised)) {
		where := o.Listen
		if loopback(host) {
			where = o.Advertise
		}
		return fmt.Errorf("nodes call one another at %s without TLS: certificates are needed for any address but 127.0.0.1 and its like", where)
	}
	return nil
}

func validName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is needed: letters, digits, - and _")
	case len(name) > maxName:
		return fmt.Errorf("it has %d letters, at most %d", len(name), maxName)
	}
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return fmt.Errorf("it has %q; it may have letters, digits, - and _", r)
		}
	}
	return nil
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, errors.New("it must be HOST:PORT, as in 127.0.0.1:7100")
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q must be 0 to 65535", text)
	}
	return host, port, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// machineClock is the machine's monotonic clock.
type machineClock struct{ start time.Time }

func (c machineClock) Now() time.Duration { return time.Since(c.start) }

func (c machineClock) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// sleep waits for d, or for ctx.
func sleep(ctx context.Context, clock Clock, d time.Duration) error {
	fired, stop := clock.Timer(d)
	defer stop()
	select {
	case <-fired:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
