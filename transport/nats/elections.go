package nats

import (
	"fmt"
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/nats-io/nats-server/v2/server"
)

// Elections says how soon a leader that is gone is replaced.
type Elections string

const (
	// ElectionsFast replaces a leader after 1.2 to 2.4 s without a heartbeat.
	ElectionsFast Elections = "fast"
	// ElectionsStock leaves the server as it is: 4 to 9 s.
	ElectionsStock Elections = "stock"
)

// electionsVersion is the server whose variables these are. Another one may use them otherwise: look before it is raised.
const electionsVersion = "2.15.2"

// The server has no option for these. They are of the whole process and are read without a lock, so that they may only be set before
// the first server in a cluster starts.
//
//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
var minElectionTimeout time.Duration

//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
var maxElectionTimeout time.Duration

//go:linkname heartbeatInterval github.com/nats-io/nats-server/v2/server.hbInterval
var heartbeatInterval time.Duration

// pace is how a leader is missed and replaced.
type pace struct{ least, most, heartbeat time.Duration }

// Below 1.2 s a machine of two busy cores replaces leaders that are there.
var (
	stockPace = pace{4 * time.Second, 9 * time.Second, time.Second}
	fastPace  = pace{1200 * time.Millisecond, 2400 * time.Millisecond, 300 * time.Millisecond}
)

func currentPace() pace { return pace{minElectionTimeout, maxElectionTimeout, heartbeatInterval} }

// electing guards the variables against two servers that start at once.
var electing sync.Mutex

// use makes elections as they are asked for, before a server in a cluster starts.
func (e Elections) use() error { return e.useWith(server.VERSION) }

func (e Elections) useWith(version string) error {
	electing.Lock()
	defer electing.Unlock()
	want := fastPace
	if e == ElectionsStock {
		want = stockPace
	}
	have := currentPace()
	switch {
	case have == want:
		return nil
	case e == ElectionsStock && have == fastPace:
		return fmt.Errorf("Cluster.Elections is %s, but another server of this process has made them %s", ElectionsStock, ElectionsFast)
	case version != electionsVersion || have != stockPace:
		return fmt.Errorf("fast elections are made for nats-server %s, and this is %s with elections of %s to %s: set Cluster.Elections to %s",
			electionsVersion, version, have.least, have.most, ElectionsStock)
	}
	minElectionTimeout, maxElectionTimeout, heartbeatInterval = want.least, want.most, want.heartbeat
	return nil
}
