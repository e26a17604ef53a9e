package nats

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats-server/v2/server"
)

// cluster starts three servers, as someone else's NATS may be, and returns them.
func cluster(t testing.TB) []*server.Server { return clusterOf(t, false) }

// clusterOf is cluster, with servers that sync every write if they are to.
func clusterOf(t testing.TB, sync bool) []*server.Server {
	t.Helper()
	var routes []*url.URL
	addresses := make([]string, 3)
	for i := range addresses {
		addresses[i] = freeAddress(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: addresses[i]})
	}
	servers := make([]*server.Server, 3)
	for i := range servers {
		_, port, err := hostPort(addresses[i])
		if err != nil {
			t.Fatal(err)
		}
		so := &server.Options{ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, SyncAlways: sync, StoreDir: t.TempDir(), Routes: routes, Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}}
		if servers[i], err = server.NewServer(so); err != nil {
			t.Fatal(err)
		}
		go servers[i].Start()
		t.Cleanup(func() { servers[i].Shutdown(); servers[i].WaitForShutdown() })
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		led := 0
		for _, s := range servers {
			if s.ReadyForConnections(time.Second) && s.JetStreamIsLeader() {
				led++
			}
		}
		if led == 1 {
			return servers
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster has no leader")
		}
	}
}

func TestReplicatedStream(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers, not with -short")
	}
	servers := cluster(t)
	c := connect(t, ConnectOptions{URL: servers[0].ClientURL() + "," + servers[1].ClientURL() + "," + servers[2].ClientURL()})
	s := NewStreams(c, StreamsOptions{})
	config := streamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: "limits", Storage: "file", MaxMsgs: -1, MaxBytes: -1,
		MaxConsumers: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 3, Discard: "old", AllowAtomic: true}
	if err := c.api(t.Context(), "STREAM.CREATE.S", config, nil); err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	at, err := s.Append(t.Context(), "S", transport.Outgoing{Subject: "s.fence", Expect: &transport.Expect{}})
	if err != nil {
		t.Fatal(err)
	}
	// Each fenced by the same message, 1,000 and more at once.
	ms := numbered(2500)
	for i := range ms {
		ms[i].Expect = &transport.Expect{Subject: "s.fence", Sequence: at}
	}
	if seqs, err := s.Publish(t.Context(), "S", ms); err != nil || len(seqs) != len(ms) {
		t.Fatalf("%d stored, error %v", len(seqs), err)
	}
	ms[1].Expect = &transport.Expect{Subject: "s.fence", Sequence: at + 1}
	if _, err := s.AppendAll(t.Context(), "S", ms[:3]); !errors.Is(err, transport.ErrFenced) {
		t.Errorf("got %v, want a fence", err)
	}

	// The stream's leader goes while records are written.
	written := 0
	prior := uint64(0)
	stopped := false
	for deadline := time.Now().Add(60 * time.Second); written < 200; {
		if written == 100 && !stopped {
			stopped = true
			for _, srv := range servers {
				if srv.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "S") {
					go srv.Shutdown() // its clean-up waits for it
					break
				}
			}
		}
		seq, err := s.Append(t.Context(), "S", transport.Outgoing{Subject: "s.log", Data: strconv.AppendInt(nil, int64(written), 10), Expect: &transport.Expect{Sequence: prior}})
		if errors.Is(err, transport.ErrFenced) { // settles a doubt
			last, err := s.LastOn(t.Context(), "S", "s.log")
			if err != nil {
				t.Fatal(err)
			}
			if string(last.Data) != strconv.Itoa(written) {
				t.Fatalf("record %d was refused, the last one is %s", written, last.Data)
			}
			prior, written = last.Sequence, written+1
			continue
		}
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			continue
		}
		prior, written = seq, written+1
	}
	n, logged := uint64(0), 0
	for logged < written {
		got, err := r.Next(t.Context(), 500)
		if err != nil {
			t.Fatalf("after %d: %v", n, err)
		}
		for _, m := range got {
			if m.Sequence != n+1 {
				t.Fatalf("sequence %d after %d", m.Sequence, n)
			}
			n = m.Sequence
			if m.Subject == "s.log" {
				if string(m.Data) != strconv.Itoa(logged) {
					t.Fatalf("record %s, want %d", m.Data, logged)
				}
				logged++
			}
		}
	}
}
