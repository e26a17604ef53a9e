package nexmark

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/node"
)

// running is a node with all flows of this folder.
type running struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// logTo writes a node's log into the test's.
type logTo struct{ t *testing.T }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Logf("node: %s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startNode(ctx context.Context, t *testing.T, partitions int) *running {
	t.Helper()
	o := node.Options{
		Data: t.TempDir(), Flows: []string{"flows"}, Durability: "process", Partitions: partitions, LogLevel: slog.LevelWarn.String(),
		NATSListen: freeAddress(t), Listen: freeAddress(t), LogOutput: logTo{t},
	}
	n, err := node.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	r := &running{}
	if r.nc, err = nats.Connect("nats://" + o.NATSListen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(256)); err != nil {
		t.Fatal(err)
	}
	return r
}

// publish publishes events, a hundred in a message.
func (r *running) publish(ctx context.Context, t *testing.T, texts [][]byte) {
	t.Helper()
	for len(texts) > 0 {
		n := min(100, len(texts))
		if _, err := r.js.PublishAsync("nexmark.events", bytes.Join(texts[:n], []byte("\n")), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
		texts = texts[n:]
	}
	select {
	case <-r.js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}

// rows reads a subject until it has so many rows, and then a little longer for those that must not be there.
func (r *running) rows(ctx context.Context, t *testing.T, subject string, n int) []Row {
	t.Helper()
	stream, err := r.js.StreamNameBySubject(ctx, subject)
	if err != nil {
		t.Fatalf("stream of %s: %v", subject, err)
	}
	cons, err := r.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	for wait, quiet := 500*time.Millisecond, 0; ; {
		batch, err := cons.Fetch(1000, jetstream.FetchMaxWait(wait))
		if err != nil {
			t.Fatal(err)
		}
		before := len(rows)
		for m := range batch.Messages() {
			rows = append(rows, decode(t, m.Data())...)
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
		if len(rows) > before {
			quiet = 0
		} else {
			quiet++
		}
		if len(rows) >= n && quiet > 0 || quiet > 120 || ctx.Err() != nil {
			return rows
		}
	}
}
