package nats

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// proxy is a link to a server that can be held: what is sent stays under way.
type proxy struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cond  *sync.Cond
	up    bool // client to server passes
	down  bool // server to client passes
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: to, up: true, down: true, conns: map[net.Conn]bool{}}
	p.cond = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns[client], p.conns[up] = true, true
			p.mu.Unlock()
			wg.Go(func() { p.copy(up, client, &p.up) })
			wg.Go(func() { p.copy(client, up, &p.down) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.set(true, true)
		p.cut()
		wg.Wait()
	})
	return p
}

func (p *proxy) copy(to, from net.Conn, open *bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for !*open && p.conns[from] {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) set(up, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
	p.cond.Broadcast()
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
		delete(p.conns, c)
	}
	p.cond.Broadcast()
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

// through opens streams over a proxy, and others that go straight, with stream S.
func through(t *testing.T, opt StreamsOptions) (*proxy, *Streams, *Streams) {
	t.Helper()
	s := embed(t, Options{Listen: "127.0.0.1:0"})
	t.Cleanup(s.Shutdown)
	p := newProxy(t, strings.TrimPrefix(s.URL(), "nats://"))
	slow := NewStreams(connect(t, ConnectOptions{URL: p.url()}), opt)
	straight := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{})
	ensure(t, straight, transport.Config{Name: "S", Subjects: []string{"s.>"}})
	return p, slow, straight
}

func ensure(t testing.TB, s *Streams, c transport.Config) {
	t.Helper()
	if _, err := s.Ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func numbered(n int) []transport.Outgoing {
	ms := make([]transport.Outgoing, n)
	for i := range ms {
		ms[i] = transport.Outgoing{Subject: "s.a", Data: strconv.AppendInt(nil, int64(i), 10)}
	}
	return ms
}

// stored reads the whole of stream S.
func stored(t *testing.T, s *Streams) []string {
	t.Helper()
	info, err := s.Info(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for len(all) < int(info.Messages) {
		ms, err := r.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			all = append(all, string(m.Data))
		}
	}
	return all
}

func TestAcknowledgementLost(t *testing.T) {
	for _, how := range []string{"time-out", "cut"} {
		t.Run(how, func(t *testing.T) {
			p, slow, straight := through(t, StreamsOptions{AckTimeout: 300 * time.Millisecond})
			m := transport.Outgoing{Subject: "s.log", Data: []byte("record"), Expect: &transport.Expect{}}
			p.set(true, false) // it arrives, its acknowledgement does not
			if how == "cut" {
				slow.opt.AckTimeout = time.Minute
				time.AfterFunc(200*time.Millisecond, p.cut)
			}
			start := time.Now()
			_, err := slow.Append(t.Context(), "S", m)
			if !errors.Is(err, transport.ErrDoubt) || errors.Is(err, transport.ErrFenced) {
				t.Fatalf("got %v, want doubt", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("in doubt after %s only", d)
			}
			if got := stored(t, straight); len(got) != 1 {
				t.Fatalf("stored: %q", got)
			}
			p.set(true, true)
			// The same write again is refused: the record is there.
			for err = transport.ErrDoubt; errors.Is(err, transport.ErrDoubt); {
				_, err = slow.Append(t.Context(), "S", m)
			}
			if !errors.Is(err, transport.ErrFenced) {
				t.Errorf("got %v, want a fence", err)
			}
		})
	}
}

func TestPublishInDoubt(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{AckTimeout: 300 * time.Millisecond, Window: 64})
	if _, err := slow.Info(t.Context(), "S"); err != nil { // or the first Publish asks for it
		t.Fatal(err)
	}
	p.set(true, false)
	seqs, err := slow.Publish(t.Context(), "S", numbered(500))
	if !errors.Is(err, transport.ErrDoubt) || len(seqs) != 0 {
		t.Fatalf("%d known to be stored, error %v", len(seqs), err)
	}
	p.set(true, true)
	got := stored(t, straight)
	if len(got) > 64 {
		t.Errorf("%d are stored, though the window is 64", len(got))
	}
	for i, d := range got {
		if d != strconv.Itoa(i) {
			t.Fatalf("place %d holds %s", i, d)
		}
	}
}

func TestBatchInDoubt(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{AckTimeout: 300 * time.Millisecond})
	p.set(true, false)
	if _, err := slow.AppendAll(t.Context(), "S", numbered(50)); !errors.Is(err, transport.ErrDoubt) {
		t.Fatalf("got %v, want doubt", err)
	}
	p.set(true, true)
	if got := stored(t, straight); len(got) != 0 && len(got) != 50 {
		t.Errorf("%d of a batch of 50 are stored", len(got))
	}
}

func TestContextEndsAWrite(t *testing.T) {
	p, slow, _ := through(t, StreamsOptions{})
	p.set(false, false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := slow.Append(ctx, "S", numbered(1)[0]); !errors.Is(err, transport.ErrDoubt) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want doubt and the context's error", err)
	}
}

func TestWriteWaitsForTheConnection(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{})
	p.set(false, false)
	p.cut()
	for slow.c.out.IsConnected() {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(300*time.Millisecond, func() { p.set(true, true) })
	// Certainly not sent yet: it is no doubt, it waits.
	if _, err := slow.Append(t.Context(), "S", numbered(1)[0]); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, straight); len(got) != 1 {
		t.Errorf("stored: %q", got)
	}
}

func TestReaderMissesHeartbeats(t *testing.T) {
	p, slow, straight := through(t, StreamsOptions{Heartbeat: 100 * time.Millisecond})
	r, err := slow.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := straight.Publish(t.Context(), "S", numbered(10)); err != nil {
		t.Fatal(err)
	}
	next := 0
	take := func(n int) {
		t.Helper()
		for next < n {
			ms, err := r.Next(t.Context(), 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms {
				if m.Sequence != uint64(next+1) {
					t.Fatalf("sequence %d after %d", m.Sequence, next)
				}
				next++
			}
		}
	}
	take(10)
	first := r.(*reader).run.name
	p.set(false, false)
	time.AfterFunc(600*time.Millisecond, func() { p.set(true, true) })
	if _, err := straight.Publish(t.Context(), "S", numbered(10)); err != nil {
		t.Fatal(err)
	}
	take(20)
	if r.(*reader).run.name == first {
		t.Error("the reader kept a consumer that was silent for six heartbeats")
	}
	// And a link in order is left alone.
	first = r.(*reader).run.name
	time.AfterFunc(700*time.Millisecond, func() { _, _ = straight.Publish(context.Background(), "S", numbered(1)) })
	take(21)
	if r.(*reader).run.name != first {
		t.Error("the reader left a consumer that was alive")
	}
}

func TestReaderMendsAGap(t *testing.T) {
	_, s, _ := through(t, StreamsOptions{PullMessages: 10})
	if _, err := s.Publish(t.Context(), "S", numbered(100)); err != nil {
		t.Fatal(err)
	}
	read, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	r := read.(*reader)
	for n := uint64(1); n <= 100; n++ {
		ms, err := r.Next(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if ms[0].Sequence != n {
			t.Fatalf("got sequence %d, want %d", ms[0].Sequence, n)
		}
		if n%30 == 0 { // one message was lost on its way
			r.mu.Lock()
			u := r.run
			reply := fmt.Sprintf("$JS.ACK.S.%s.1.%d.%d.1700000000000000000.0", u.name, r.next+1, u.seq+2)
			r.mu.Unlock()
			r.handle(u, &nats.Msg{Subject: "s.a", Reply: reply, Data: []byte("behind the gap")})
			if r.broken == "" {
				t.Fatal("the gap was not seen")
			}
		}
	}
}

func TestReaderKeepsItsConsumer(t *testing.T) {
	_, s, _ := through(t, StreamsOptions{PullMessages: 100})
	if _, err := s.Publish(t.Context(), "S", numbered(5000)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first := r.(*reader).run.name
	for n := 0; n < 5000; { // fifty requests that the server ends, because they have got as many messages as they asked for
		ms, err := r.Next(t.Context(), 64)
		if err != nil {
			t.Fatal(err)
		}
		n += len(ms)
	}
	if r.(*reader).run.name != first {
		t.Error("the reader left a consumer that was in order")
	}
}

func TestReaderAsksOnlyForWhatFits(t *testing.T) {
	s := embed(t, Options{MaxPayload: 64 << 10})
	defer s.Shutdown()
	streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{PullMessages: 100, PullBytes: 1 << 10})
	ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
	var ms []transport.Outgoing
	for range 1000 {
		ms = append(ms, transport.Outgoing{Subject: "s.a", Data: make([]byte, 10<<10)})
	}
	if _, err := streams.Publish(t.Context(), "S", ms); err != nil {
		t.Fatal(err)
	}
	read, err := streams.Read(t.Context(), "S", transport.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	r := read.(*reader)
	most := 3 * streams.opt.PullBytes
	for n := 0; n < 1000; {
		time.Sleep(time.Millisecond)
		r.mu.Lock()
		have := r.bytes
		r.mu.Unlock()
		if have > most {
			t.Fatalf("the reader holds %d bytes, more than %d", have, most)
		}
		ms, err := r.Next(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		n += len(ms)
	}
}

// TestRefusedInTheMiddle refuses a large message in the middle, behind which small ones might get in.
func TestRefusedInTheMiddle(t *testing.T) {
	limited := streamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: "limits", Storage: "file", MaxMsgs: -1, MaxBytes: 10_000,
		MaxConsumers: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 1, Discard: "new", AllowAtomic: true}
	for _, c := range []struct {
		name   string
		change func(*streamConfig)
		known  int // to be stored
		sees   bool
		want   error
	}{
		{"in a batch", func(*streamConfig) {}, 0, true, transport.ErrFull},
		{"one by one", func(c *streamConfig) { c.AllowAtomic = false }, 3, true, transport.ErrFull},
		{"by a limit of the size", func(c *streamConfig) { c.AllowAtomic, c.MaxBytes, c.MaxMsgSize = false, -1, 10_000 }, 3, true, transport.ErrTooLarge},
		{"by limits that came later", func(*streamConfig) {}, 3, false, nil}, // mostly in doubt
	} {
		t.Run(c.name, func(t *testing.T) {
			s := embed(t, Options{})
			defer s.Shutdown()
			conn := connect(t, ConnectOptions{Server: s})
			streams := NewStreams(conn, StreamsOptions{})
			config := limited
			c.change(&config)
			free := config
			free.MaxBytes = -1
			if err := conn.api(t.Context(), "STREAM.CREATE.S", free, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := streams.Info(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			if err := conn.api(t.Context(), "STREAM.UPDATE.S", config, nil); err != nil {
				t.Fatal(err)
			}
			if c.sees {
				if _, err := streams.Info(t.Context(), "S"); err != nil {
					t.Fatal(err)
				}
			}
			ms := numbered(40)
			ms[3].Data = make([]byte, 20_000)
			seqs, err := streams.Publish(t.Context(), "S", ms)
			if len(seqs) != c.known || err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%d known to be stored, error %v; want %d and %v", len(seqs), err, c.known, c.want)
			}
			info, err2 := streams.Info(t.Context(), "S")
			if err2 != nil {
				t.Fatal(err2)
			}
			if more := int(info.Messages) > c.known; more != errors.Is(err, transport.ErrDoubt) {
				t.Errorf("%d messages are stored, %d known, error %v", info.Messages, c.known, err)
			}
		})
	}
}

// TestNoMessagesOfADeletedStream makes and deletes a stream faster than the server removes its files.
func TestNoMessagesOfADeletedStream(t *testing.T) {
	_, s, _ := through(t, StreamsOptions{})
	for round := range 30 {
		if err := s.Delete(t.Context(), "S"); err != nil {
			t.Fatal(err)
		}
		info, err := s.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}})
		if err != nil {
			t.Fatal(err)
		}
		if info.Messages != 0 || info.Last != 0 {
			t.Fatalf("round %d: a new stream is %+v", round, info)
		}
		if _, err := s.Publish(t.Context(), "S", numbered(40)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDuplicateIDsInBatches(t *testing.T) {
	s := embed(t, Options{})
	defer s.Shutdown()
	streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{SyncAlways: true})
	ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
	ms := numbered(10)
	for i := range ms {
		ms[i].Header = []transport.Field{{Name: "Nats-Msg-Id", Value: strconv.Itoa(i)}}
	}
	if _, err := streams.Publish(t.Context(), "S", ms[:6]); err != nil {
		t.Fatal(err)
	}
	seqs, err := streams.Publish(t.Context(), "S", ms) // again, with more
	if err != nil || len(seqs) != 10 || seqs[5] != 6 || seqs[9] != 10 {
		t.Errorf("stored as %v, error %v", seqs, err)
	}
	if got := stored(t, streams); len(got) != 10 {
		t.Errorf("the stream holds %q", got)
	}
}

func TestStreamWithoutBatches(t *testing.T) {
	s := embed(t, Options{})
	defer s.Shutdown()
	c := connect(t, ConnectOptions{Server: s})
	streams := NewStreams(c, StreamsOptions{SyncAlways: true})
	foreign := streamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: "limits", Storage: "file", MaxMsgs: -1, MaxBytes: -1, MaxConsumers: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 1, Discard: "old"}
	if err := c.api(t.Context(), "STREAM.CREATE.S", foreign, nil); err != nil {
		t.Fatal(err)
	}
	info, err := streams.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>", "more.>"}})
	if err != nil || len(info.Subjects) != 2 {
		t.Fatalf("%+v, error %v", info, err)
	}
	if seqs, err := streams.Publish(t.Context(), "S", numbered(20)); err != nil || len(seqs) != 20 {
		t.Errorf("%d stored, error %v", len(seqs), err)
	}
	if _, err := streams.AppendAll(t.Context(), "S", numbered(2)); err == nil || !strings.Contains(err.Error(), "atomic publish is disabled") {
		t.Errorf("a batch: %v", err)
	}
}

func TestLossy(t *testing.T) {
	good := streamConfig{Retention: "limits", Discard: "old", Storage: "file", MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1}
	if why := good.lossy(); why != "" {
		t.Errorf("a stream without limits: %q", why)
	}
	full := good
	full.Discard, full.MaxMsgs, full.MaxBytes = "new", 10, 10
	if why := full.lossy(); why != "" {
		t.Errorf("a stream that refuses when it is full: %q", why)
	}
	for want, change := range map[string]func(*streamConfig){
		"retention interest":                      func(c *streamConfig) { c.Retention = "interest" },
		"retention workqueue":                     func(c *streamConfig) { c.Retention = "workqueue" },
		"max_age 1h0m0s":                          func(c *streamConfig) { c.MaxAge = int64(time.Hour) },
		"max_msgs 5 with discard old":             func(c *streamConfig) { c.MaxMsgs = 5 },
		"max_bytes 5 with discard old":            func(c *streamConfig) { c.MaxBytes = 5 },
		"max_msgs_per_subject 5 with discard old": func(c *streamConfig) { c.MaxMsgsPer = 5 },
		"allow_msg_ttl":                           func(c *streamConfig) { c.AllowMsgTTL = true },
		"storage memory":                          func(c *streamConfig) { c.Storage = "memory" },
	} {
		c := good
		change(&c)
		if why := c.lossy(); why != want {
			t.Errorf("got %q, want %q", why, want)
		}
	}
}

func TestNearlyFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := embed(t, Options{Dir: dir})
	streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{})
	ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
	if _, err := streams.Publish(t.Context(), "S", numbered(3)); err != nil {
		t.Fatal(err)
	}
	streams.c.Close()
	s.Shutdown()

	s = embed(t, Options{Dir: dir, MinFree: 1 << 60})
	defer s.Shutdown()
	c := connect(t, ConnectOptions{Server: s})
	streams = NewStreams(c, StreamsOptions{})
	_, err := streams.Append(t.Context(), "S", numbered(1)[0])
	_, err2 := streams.AppendAll(t.Context(), "S", numbered(2))
	_, err3 := streams.Publish(t.Context(), "S", numbered(2))
	objects, _ := NewObjects(streams, SnapshotBucket)
	err4 := objects.Put(t.Context(), "x", strings.NewReader("x"))
	for i, err := range []error{err, err2, err3, err4} {
		if !errors.Is(err, transport.ErrFull) {
			t.Errorf("write %d: %v, want full", i, err)
		}
	}
	if got := stored(t, streams); len(got) != 3 {
		t.Errorf("reading gave %q", got)
	}
	if err := streams.Cut(t.Context(), "S", "", 3); err != nil { // it must stay possible to make room
		t.Error(err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func find(fs []Finding, about string) Finding {
	for _, f := range fs {
		if f.About == about {
			return f
		}
	}
	return Finding{}
}

func TestCheck(t *testing.T) {
	for _, always := range []bool{false, true} {
		so := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, SyncAlways: always}
		s, err := server.NewServer(so)
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		defer s.Shutdown()
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("not ready")
		}
		c := connect(t, ConnectOptions{URL: s.ClientURL()})
		streams := NewStreams(c, StreamsOptions{})
		ensure(t, streams, transport.Config{Name: "GOOD", Subjects: []string{"good"}})
		ensure(t, streams, transport.Config{Name: "AGED", Subjects: []string{"aged"}, MaxAge: time.Hour})
		async := streamConfig{Name: "ASYNC", Subjects: []string{"async"}, Retention: "limits", Storage: "file", MaxMsgs: -1, MaxBytes: -1, MaxConsumers: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: 1, Discard: "old", PersistMode: "async"}
		if err := c.api(t.Context(), "STREAM.CREATE.ASYNC", async, nil); err != nil {
			t.Fatal(err)
		}
		monitor := "http://" + s.MonitorAddr().String()
		fs := streams.Check(t.Context(), CheckOptions{Power: true, MonitorURL: monitor, Inputs: []string{"GOOD", "AGED", "GONE"}})
		sync := LevelFault
		if always {
			sync = LevelOK
		}
		for about, want := range map[string]Level{
			"version": LevelOK, "jetstream": LevelOK, "payload": LevelFault, // the stock server takes 1 MiB, headers included
			"sync": sync, "stream GOOD": LevelOK, "stream AGED": LevelFault, "stream ASYNC": LevelFault, "stream GONE": LevelFault,
		} {
			if f := find(fs, about); f.Level != want {
				t.Errorf("always %v: %s is %+v, want %s", always, about, f, want)
			}
		}
		if f := find(streams.Check(t.Context(), CheckOptions{Power: true}), "sync"); f.Level != LevelWarning {
			t.Errorf("without a monitoring address: %+v", f)
		}
		if f := find(streams.Check(t.Context(), CheckOptions{Power: true, MonitorURL: "http://" + freeAddress(t)}), "sync"); f.Level != LevelWarning {
			t.Errorf("with a wrong monitoring address: %+v", f)
		}
		if f := find(streams.Check(t.Context(), CheckOptions{MonitorURL: monitor}), "sync"); f.Level != LevelOK {
			t.Errorf("durability process: %+v", f)
		}
	}
	notNATS := &http.Server{Handler: http.NotFoundHandler()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = notNATS.Serve(l) }() // ends with Close
	defer notNATS.Close()
	if _, _, err := readSync(t.Context(), "http://"+l.Addr().String()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a server that is not NATS: %v", err)
	}
}

func TestCheckEmbedded(t *testing.T) {
	for _, always := range []bool{false, true} {
		s := embed(t, Options{SyncAlways: always})
		defer s.Shutdown()
		fs := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{}).Check(t.Context(), CheckOptions{Power: always})
		for _, about := range []string{"version", "jetstream", "payload", "disk", "sync"} {
			if f := find(fs, about); f.Level != LevelOK {
				t.Errorf("always %v: %s is %+v", always, about, f)
			}
		}
	}
}

// TestOldServer speaks to one that says it is 2.10.
func TestOldServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, `INFO {"server_id":"X","version":"2.10.7","max_payload":1048576,"proto":1,"headers":true}`+"\r\n")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if strings.HasPrefix(lines.Text(), "PING") {
						_, _ = io.WriteString(c, "PONG\r\n")
					}
				}
			})
		}
	})
	defer wg.Wait()
	defer l.Close()
	_, err = Connect(t.Context(), ConnectOptions{URL: "nats://" + l.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "2.10.7") || !strings.Contains(err.Error(), MinVersion) {
		t.Errorf("got %v", err)
	}
}
