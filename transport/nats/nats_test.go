package nats

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/transporttest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// freeAddress is an address of this machine that nothing listens on. Its port is below those that the system
// gives to connections, so that it is still free after a restart.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

func embed(t testing.TB, opt Options) *Server {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	s, err := Embed(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t testing.TB, o ConnectOptions) *Conn {
	t.Helper()
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// outside runs the suite over TCP, with restarts.
func outside(sync bool) func(t *testing.T) transporttest.Answer {
	return func(t *testing.T) transporttest.Answer {
		opt := Options{Dir: t.TempDir(), Listen: freeAddress(t), SyncAlways: sync}
		s := embed(t, opt)
		t.Cleanup(func() { s.Shutdown() })
		c := connect(t, ConnectOptions{URL: s.URL()})
		a := answer(t, c, s, StreamsOptions{SyncAlways: sync})
		a.Restart = func(meanwhile func()) {
			s.Shutdown()
			meanwhile()
			s = embed(t, opt)
		}
		a.DropConnections = func() { dropConnections(t, s) }
		return a
	}
}

func answer(t *testing.T, c *Conn, s *Server, opt StreamsOptions) transporttest.Answer {
	t.Helper()
	opt.AckTimeout = 30 * time.Second // a test must not fail because its disk is slow
	streams := NewStreams(c, opt)
	objects, err := NewObjects(streams, SnapshotBucket)
	if err != nil {
		t.Fatal(err)
	}
	return transporttest.Answer{
		Streams: streams, Objects: objects,
		DropConsumers:   func(stream string) int { return dropConsumers(t, c, stream) },
		DropConnections: func() { dropConnections(t, s) },
		Corrupt: func(name string) { // other bytes than its header says
			m, err := streams.LastOn(t.Context(), SnapshotBucket, objects.subject(name))
			if err != nil {
				t.Fatal(err)
			}
			m.Data[0] ^= 1
			if _, err := streams.Append(t.Context(), SnapshotBucket, transport.Outgoing{Subject: m.Subject, Data: m.Data,
				Header: []transport.Field{{Name: objectHeader, Value: m.Get(objectHeader)}}}); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func dropConsumers(t *testing.T, c *Conn, stream string) int {
	t.Helper()
	var names struct {
		Consumers []string `json:"consumers"`
	}
	if err := c.api(t.Context(), "CONSUMER.NAMES."+stream, nil, &names); err != nil {
		t.Fatal(err)
	}
	for _, name := range names.Consumers {
		if err := c.api(t.Context(), "CONSUMER.DELETE."+stream+"."+name, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	return len(names.Consumers)
}

func dropConnections(t *testing.T, s *Server) {
	t.Helper()
	conns, err := s.s.Connz(&server.ConnzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conns.Conns {
		if err := s.s.DisconnectClientByID(c.Cid); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSuiteInProcess(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Answer {
		s := embed(t, Options{})
		t.Cleanup(s.Shutdown)
		return answer(t, connect(t, ConnectOptions{Server: s}), s, StreamsOptions{})
	})
}

func TestSuiteOutside(t *testing.T) { transporttest.Run(t, outside(false)) }

func TestSuiteSyncAlways(t *testing.T) { transporttest.Run(t, outside(true)) }

// Benchmarks: a server in this process that nobody else can reach, one that listens too, and one outside.

func BenchmarkInProcess(b *testing.B) { benchEmbedded(b, Options{}) }

func BenchmarkEmbedded(b *testing.B) { benchEmbedded(b, Options{Listen: "127.0.0.1:0"}) }

func benchEmbedded(b *testing.B, opt Options) {
	transporttest.Bench(b, func(b *testing.B) transport.Streams {
		opt.Dir = b.TempDir()
		s := embed(b, opt)
		b.Cleanup(s.Shutdown)
		return NewStreams(connect(b, ConnectOptions{Server: s}), StreamsOptions{})
	})
}

func BenchmarkOutside(b *testing.B) {
	transporttest.Bench(b, func(b *testing.B) transport.Streams {
		s := embed(b, Options{Listen: "127.0.0.1:0"})
		b.Cleanup(s.Shutdown)
		return NewStreams(connect(b, ConnectOptions{URL: s.URL()}), StreamsOptions{})
	})
}

func TestEmbedRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		opt  Options
		want string
	}{
		{Options{}, "Dir is empty"},
		{Options{Dir: t.TempDir(), MaxPayload: 100}, "MaxPayload is 100"},
		{Options{Dir: t.TempDir(), Listen: "nonsense"}, "listen address"},
		{Options{Dir: t.TempDir(), Listen: "127.0.0.1:99999"}, "port"},
		{Options{Dir: t.TempDir(), Listen: taken.Addr().String()}, "in use"},
		{Options{Dir: file}, "not a directory"},
	} {
		c.opt.Log = slog.New(slog.DiscardHandler)
		s, err := Embed(t.Context(), c.opt)
		if err == nil {
			s.Shutdown()
			t.Errorf("%+v: started", c.opt)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %q, want one line with %q", err, c.want)
		}
	}
}

func TestConnectRefuses(t *testing.T) {
	start := time.Now()
	if _, err := Connect(t.Context(), ConnectOptions{URL: "nats://" + freeAddress(t)}); err == nil || time.Since(start) > 15*time.Second {
		t.Errorf("no server: error %v after %s", err, time.Since(start))
	}
	plain, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go plain.Start()
	defer plain.Shutdown()
	if !plain.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	if _, err := Connect(t.Context(), ConnectOptions{URL: plain.ClientURL()}); err == nil || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("a server without JetStream: %v", err)
	}
}

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		have string
		want bool
	}{
		{"2.15.2", true}, {"2.15.10", true}, {"2.16.0-RC.1", true}, {"3.0.0", true}, {"v2.15.2", true},
		{"2.15.1", false}, {"2.9.99", false}, {"1.99.99", false}, {"", false},
	} {
		if atLeast(c.have, "2.15.2") != c.want {
			t.Errorf("%s is at least 2.15.2: %v, want %v", c.have, !c.want, c.want)
		}
	}
}

func TestParseReply(t *testing.T) {
	for _, c := range []struct {
		reply string
		want  origin
		ok    bool
	}{
		{"$JS.ACK.S.C.1.42.7.1700000000000000001.3", origin{42, 7, 1700000000000000001}, true},
		{"$JS.ACK.hub.ABCD.S.C.1.42.7.1700000000000000001.3", origin{42, 7, 1700000000000000001}, true},
		{"$JS.ACK.hub.ABCD.S.C.1.42.7.1700000000000000001.3.rnd", origin{42, 7, 1700000000000000001}, true},
		{"$JS.ACK.S.C.1.42.7", origin{}, false},
		{"$JS.ACK.", origin{}, false},
		{"_INBOX.x.y", origin{}, false},
		{"", origin{}, false},
	} {
		got, ok := parseReply(c.reply)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %+v, %v", c.reply, got, ok)
		}
	}
	if n := testing.AllocsPerRun(100, func() { parseReply("$JS.ACK.S.C.1.42.7.1700000000000000001.3") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestEmbeddedAndListening(t *testing.T) {
	for _, listen := range []string{"", "127.0.0.1:0", "0.0.0.0:0", "localhost:0"} {
		s := embed(t, Options{Listen: listen, Plain: true})
		defer s.Shutdown()
		c := connect(t, ConnectOptions{Server: s})
		streams := NewStreams(c, StreamsOptions{})
		ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
		if _, err := streams.Publish(t.Context(), "S", numbered(10)); err != nil {
			t.Errorf("listen %q: %v", listen, err)
		}
		if got := stored(t, streams); len(got) != 10 {
			t.Errorf("listen %q: %q", listen, got)
		}
		if (s.URL() == "") != (listen == "") {
			t.Errorf("listen %q: the URL is %q", listen, s.URL())
		}
	}
}

func TestOutgoingHeaders(t *testing.T) {
	f := func(pairs ...string) (fs []transport.Field) {
		for i := 0; i < len(pairs); i += 2 {
			fs = append(fs, transport.Field{Name: pairs[i], Value: pairs[i+1]})
		}
		return fs
	}
	many := []string{}
	for i := range 20 {
		many = append(many, fmt.Sprintf("h%d", i), strconv.Itoa(i))
	}
	var o outgoing
	for round, fs := range [][]transport.Field{
		nil, f("a", "1"), f("a", "2"), f("a", "3", "b", "4"), f("b", "5"), f("b", "5", "a", "6"), nil, f("a", "7", "a", "8", "b", "9"),
		f("a", "1"), f("a", "1", "b", "2", "c", "3"), f("a", "4", "c", "5"), f(many...), f("h1", "x"), f(many...), f("a", "1"),
	} {
		for _, e := range []*transport.Expect{nil, {Sequence: 7}, {Subject: "s", Sequence: 8}} {
			o.begin(&transport.Outgoing{Subject: "x", Header: fs, Expect: e}, "")
			want := nats.Header{}
			for _, h := range fs {
				want[h.Name] = append(want[h.Name], h.Value)
			}
			if e != nil {
				o.fence(e)
				want[hdrExpectSequence] = []string{strconv.FormatUint(e.Sequence, 10)}
				if e.Subject != "" {
					want[hdrExpectSubject] = []string{e.Subject}
				}
			}
			o.forget()
			if !reflect.DeepEqual(o.msg.Header, want) {
				t.Fatalf("round %d: header %v, want %v", round, o.msg.Header, want)
			}
		}
	}
	m := transport.Outgoing{Subject: "x", Header: f("a", "1", "b", "2"), Expect: &transport.Expect{Subject: "s", Sequence: 8}}
	if n := testing.AllocsPerRun(100, func() { o.begin(&m, "r"); o.fence(m.Expect); o.forget() }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}
