package ledger

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Follower sees outputs of keys when they are published, before anything is checked: for the pace of the lanes, and as
// an upper bound of when a count was reached. It may miss some. It is safe for use by many goroutines.
type Follower struct {
	mu   sync.Mutex
	keys map[int64][]Sight
	seen int64
}

// Sight is that a key had counted N events at a time, at the latest.
type Sight struct {
	N  int64
	At time.Time
}

// Follow starts a follower on a connection; it ends with the connection.
func Follow(nc *nats.Conn) (*Follower, error) {
	f := &Follower{keys: make(map[int64][]Sight)}
	_, err := nc.Subscribe(KeyOutputs, func(m *nats.Msg) {
		var o struct{ Key, N int64 }
		if json.Unmarshal(m.Data, &o) == nil {
			f.saw(o.Key, o.N)
		}
	})
	return f, err
}

func (f *Follower) saw(key, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sights := f.keys[key]
	before := int64(0)
	if len(sights) > 0 {
		before = sights[len(sights)-1].N
	}
	if n > before {
		f.keys[key] = append(sights, Sight{n, time.Now()})
		f.seen += n - before
	}
}

// Seen is how many lines are counted, at least.
func (f *Follower) Seen() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// Sights are those of a key, in their order.
func (f *Follower) Sights(key int64) []Sight {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.keys[key])
}
