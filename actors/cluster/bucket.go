package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// The bucket, in the form that NATS tools show as a key-value bucket.
const (
	Stream        = "KV_KISFLOW_CLUSTER"
	subjectPrefix = "$KV.KISFLOW_CLUSTER."
	memberPrefix  = subjectPrefix + "member."
	tableSubject  = subjectPrefix + "table"
	lockSubject   = subjectPrefix + "change"
)

// Where a key is deleted its newest message says so, as NATS clients have it.
const (
	operation = "KV-Operation"
	deleted   = "DEL"
)

func bucketConfig() transport.Config {
	return transport.Config{Name: Stream, Subjects: []string{subjectPrefix + ">"}, PerSubject: 1, Description: "members of the cluster, and who owns which partitions"}
}

func isDeleted(m *transport.Message) bool { return m.Get(operation) == deleted }

// errUnsettled is a write that is not stored, and may be stored later.
var errUnsettled = errors.New("not stored so far")

// put writes a key by compare-and-set. Where the answer is in doubt it reads the key back: data must be bytes that
// nobody else writes. ErrFenced means that the key is at another sequence: newest then is what is there (zero where
// there is nothing). errUnsettled means that the same write may still arrive.
func (c *Cluster) put(ctx context.Context, subject string, data []byte, del bool, expect uint64) (seq uint64, newest transport.Message, err error) {
	m := transport.Outgoing{Subject: subject, Data: data, Expect: &transport.Expect{Sequence: expect}}
	if del {
		m.Header = []transport.Field{{Name: operation, Value: deleted}}
	}
	seq, err = c.streams.Append(ctx, Stream, m)
	if err == nil {
		return seq, transport.Message{Subject: subject, Sequence: seq, Header: m.Header, Data: data}, nil
	}
	newest, readErr := c.last(ctx, subject)
	switch {
	case readErr != nil && errors.Is(err, transport.ErrFenced):
		return 0, newest, fmt.Errorf("%w; then %w", err, readErr)
	case readErr != nil:
		return 0, newest, fmt.Errorf("%w: %w", errUnsettled, err)
	case newest.Sequence > expect && bytes.Equal(newest.Data, data) && isDeleted(&newest) == del:
		return newest.Sequence, newest, nil // it had arrived
	case newest.Sequence != expect:
		return 0, newest, fmt.Errorf("%s: %w", subject, transport.ErrFenced)
	case errors.Is(err, transport.ErrFenced): // it was another one a moment ago, and that is not possible
		return 0, newest, err
	}
	return 0, newest, fmt.Errorf("%w: %w", errUnsettled, err)
}

// last reads a key's newest message from the leader; the zero Message where there is none.
func (c *Cluster) last(ctx context.Context, subject string) (transport.Message, error) {
	m, err := c.streams.LastOn(ctx, Stream, subject)
	if errors.Is(err, transport.ErrNotFound) {
		return transport.Message{}, nil
	}
	return m, err
}

// watch follows the bucket until the cluster is closed. It begins anew after every error: the bucket is small.
func (c *Cluster) watch() {
	pause := watchPause
	for c.ctx.Err() == nil {
		err := c.follow(func() { pause = watchPause })
		if c.ctx.Err() != nil {
			return
		}
		c.log.Debug("the watch of the cluster's bucket ended", "error", err)
		if errors.Is(err, transport.ErrNotFound) || errors.Is(err, transport.ErrGap) {
			c.ensureAgain(c.ctx)
		}
		_ = sleep(c.ctx, c.clock, pause/2+rand.N(pause))
		pause = min(2*pause, watchPauseMost)
	}
}

const (
	watchPause     = 20 * time.Millisecond
	watchPauseMost = time.Second
)

func (c *Cluster) follow(good func()) error {
	r, err := c.streams.Read(c.ctx, Stream, transport.ReadOptions{Holes: true})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		ms, err := r.Next(c.ctx, 256)
		if err != nil {
			return err
		}
		good()
		for i := range ms {
			c.apply(&ms[i])
		}
		if len(ms) > 0 {
			c.saw(ms[len(ms)-1].Sequence)
		}
	}
}

// ensureAgain creates the bucket where it is gone. A new one knows nobody: what was known is of no use.
func (c *Cluster) ensureAgain(ctx context.Context) {
	info, err := c.streams.Ensure(ctx, bucketConfig())
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if info.Created.Equal(c.created) {
		return
	}
	c.log.Error("the cluster's bucket is another one: all members join again", "stream", Stream)
	c.created = info.Created
	c.members = make(map[string]*member)
	c.table, c.held, c.watched = Table{}, lockState{}, 0
	c.lapse("its bucket is gone")
	c.notify()
	c.wake()
}

// nodeOf returns the node that a key is the member key of, or "".
func nodeOf(subject string) string {
	node, ok := strings.CutPrefix(subject, memberPrefix)
	if !ok {
		return ""
	}
	return node
}
