package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/transporttest"
	"github.com/nats-io/nats-server/v2/server"
)

// beside embeds a server in this process that is none of the nodes' set.
func beside(t testing.TB, nodes []*node) *Server {
	t.Helper()
	return embed(t, Options{Name: "beside", Log: slog.New(slog.DiscardHandler), Cluster: &ClusterOptions{Name: "test", Listen: freeAddress(t), Join: nodes[0].opt.Cluster.Join}})
}

// TestLeadersAreKilled does everything that the port offers, without an end, while one after another the servers that lead are
// killed. Nothing may fail for good, nothing be lost, nothing be there twice.
func TestLeadersAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers, not with -short")
	}
	nodes := processes(t, 3, nil)
	s := beside(t, nodes)
	defer s.Shutdown()
	conn := connect(t, ConnectOptions{Server: s})
	streams := NewStreams(conn, StreamsOptions{Replicas: 3})
	for _, name := range []string{"LOG", "BATCH", "OUT", "KV_T"} {
		c := transport.Config{Name: name, Subjects: []string{name + ".>"}}
		if name == "KV_T" {
			c.Subjects, c.PerSubject = []string{"$KV.T.>"}, 1
		}
		if info, err := streams.Ensure(t.Context(), c); err != nil || info.Replicas != 3 {
			t.Fatalf("%+v, %v", info, err)
		}
	}

	var (
		ctx, cancel = context.WithTimeout(t.Context(), 4*time.Minute)
		stop        atomic.Bool
		wg          sync.WaitGroup
		logged      int // records of LOG
		batches     int // of BATCH, three messages each
		sent        int // messages of OUT
		value       int // of the key
		kept        int // objects
		slowest     atomic.Int64
	)
	defer cancel()
	// timed keeps the longest time that something took.
	timed := func(f func() error) error {
		start := time.Now()
		err := f()
		for {
			have, now := slowest.Load(), int64(time.Since(start))
			if now <= have || slowest.CompareAndSwap(have, now) {
				return err
			}
		}
	}
	// settled writes as an owner does: in doubt the same again, and on a refusal the last record tells.
	settled := func(stream, subject, data string, at uint64, write func(e *transport.Expect) (uint64, error)) (uint64, bool) {
		for ctx.Err() == nil {
			seq, err := write(&transport.Expect{Subject: subject, Sequence: at})
			switch {
			case err == nil:
				return seq, true
			case errors.Is(err, transport.ErrFenced):
				last, err := streams.LastOn(ctx, stream, subject)
				if err == nil && string(last.Data) == data {
					return last.Sequence, true
				}
				if err == nil {
					t.Errorf("%s: %q was refused at %d, the last is %q at %d", stream, data, at, last.Data, last.Sequence)
					return 0, false
				}
				t.Errorf("%s: last message: %v", stream, err)
				return 0, false
			case errors.Is(err, transport.ErrDoubt):
			default:
				t.Errorf("%s: %v", stream, err)
				return 0, false
			}
		}
		t.Errorf("%s: %v", stream, ctx.Err())
		return 0, false
	}
	wg.Go(func() {
		for at := uint64(0); !stop.Load(); logged++ {
			data, ok := strconv.Itoa(logged), true
			_ = timed(func() error {
				at, ok = settled("LOG", "LOG.p", data, at, func(e *transport.Expect) (uint64, error) {
					return streams.Append(ctx, "LOG", transport.Outgoing{Subject: "LOG.p", Data: []byte(data), Expect: e})
				})
				return nil
			})
			if !ok {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Go(func() {
		for at := uint64(0); !stop.Load(); batches++ {
			var ok bool
			ms := make([]transport.Outgoing, 3)
			for i := range ms {
				ms[i] = transport.Outgoing{Subject: "BATCH.p", Data: []byte(strconv.Itoa(3*batches + i))}
			}
			at, ok = settled("BATCH", "BATCH.p", string(ms[2].Data), at, func(e *transport.Expect) (uint64, error) {
				ms[0].Expect = e
				return streams.AppendAll(ctx, "BATCH", ms)
			})
			if !ok {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Go(func() { // with ids, so that the same may be sent again
		for ; !stop.Load(); sent += 20 {
			ms := make([]transport.Outgoing, 20)
			for i := range ms {
				n := strconv.Itoa(sent + i)
				ms[i] = transport.Outgoing{Subject: "OUT.p", Data: []byte(n), Header: []transport.Field{{Name: "Nats-Msg-Id", Value: n}}}
			}
			for {
				_, err := streams.Publish(ctx, "OUT", ms)
				if err == nil {
					break
				}
				if !errors.Is(err, transport.ErrDoubt) {
					t.Errorf("OUT: %v", err)
					return
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Go(func() {
		for at := uint64(0); !stop.Load(); value++ {
			data, ok := strconv.Itoa(value), true
			at, ok = settled("KV_T", "$KV.T.key", data, at, func(e *transport.Expect) (uint64, error) {
				return streams.Append(ctx, "KV_T", transport.Outgoing{Subject: "$KV.T.key", Data: []byte(data), Expect: e})
			})
			if !ok {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			_, err := streams.Info(ctx, "LOG")
			if err == nil {
				_, err = streams.Ensure(ctx, transport.Config{Name: fmt.Sprintf("NEW%d", i%5), Subjects: []string{fmt.Sprintf("NEW%d.>", i%5)}})
			}
			if err == nil {
				_, err = streams.List(ctx, "NEW")
			}
			if err != nil {
				t.Errorf("the API: %v", err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	objects, err := NewObjects(streams, SnapshotBucket)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			name, data := fmt.Sprintf("o%d", i), bytes.Repeat([]byte{byte(i), 1, 2, 3}, 1<<20)
			if err := objects.Put(ctx, name, bytes.NewReader(data)); err != nil {
				t.Error(err)
				return
			}
			r, err := objects.Get(ctx, name)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("object %s: %d bytes came back, of %d: %v", name, len(got), len(data), err)
				return
			}
			_ = r.Close()
			if err := objects.Delete(ctx, name); err != nil {
				t.Error(err)
				return
			}
			kept++
			time.Sleep(20 * time.Millisecond)
		}
	})
	// Readers of all, each from a consumer on one of the servers.
	type reading struct {
		stream string
		count  atomic.Int64
	}
	var readers sync.WaitGroup
	reads := make([]*reading, 0, 12)
	for i := range 12 {
		r := &reading{stream: []string{"LOG", "BATCH", "OUT"}[i%3]}
		reads = append(reads, r)
		reader, err := streams.Read(ctx, r.stream, transport.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			defer reader.Close()
			next := 0
			for {
				ms, err := reader.Next(ctx, 100)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("read %s: %v", r.stream, err)
					}
					return
				}
				for _, m := range ms {
					if string(m.Data) == "end" {
						return
					}
					if string(m.Data) != strconv.Itoa(next) || m.Sequence != uint64(next+1) {
						t.Errorf("read %s: got %s at %d, want %d", r.stream, m.Data, m.Sequence, next)
						return
					}
					next++
				}
				r.count.Store(int64(next))
			}
		})
	}
	watch, err := streams.Read(ctx, "KV_T", transport.ReadOptions{Subjects: []string{"$KV.T.>"}})
	if err != nil {
		t.Fatal(err)
	}
	readers.Go(func() {
		defer watch.Close()
		for last := -1; ; {
			ms, err := watch.Next(ctx, 100)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			for _, m := range ms {
				if string(m.Data) == "end" {
					return
				}
				n, _ := strconv.Atoi(string(m.Data))
				if n <= last {
					t.Errorf("watch: got %d after %d", n, last)
				}
				last = n
			}
		}
	})

	for round, stream := range []string{"LOG", "BATCH", "KV_T", "OUT"} {
		time.Sleep(time.Second)
		n := named(nodes, streamLeader(t, conn, stream))
		n.kill()
		time.Sleep(time.Duration(1+round) * time.Second)
		n.start(t)
		n.await(t)
	}
	time.Sleep(time.Second)
	stop.Store(true)
	wg.Wait()
	for _, stream := range []string{"LOG", "BATCH", "OUT", "KV_T"} {
		subject := stream + ".p"
		if stream == "KV_T" {
			subject = "$KV.T.end"
		}
		for {
			_, err := streams.Append(ctx, stream, transport.Outgoing{Subject: subject, Data: []byte("end")})
			if err == nil {
				break
			}
			if !errors.Is(err, transport.ErrDoubt) {
				t.Fatal(err)
			}
		}
	}
	if t.Failed() {
		cancel()
	}
	readers.Wait()
	t.Logf("%d records, %d batches, %d messages, %d values, %d objects; the slowest record took %s", logged, batches, sent, value, kept, time.Duration(slowest.Load()))
	for _, r := range reads {
		want := map[string]int{"LOG": logged, "BATCH": 3 * batches, "OUT": sent}[r.stream]
		if got := int(r.count.Load()); got > want || got < want-200 { // what came with the end is not counted
			t.Errorf("a reader of %s saw %d messages, of %d", r.stream, got, want)
		}
	}
}

// set embeds a JetStream set of n servers and others beside it, all in this process. change may alter the options of each.
func set(t testing.TB, n, others int, change func(*Options)) []*Server {
	t.Helper()
	var join []string
	for range n {
		join = append(join, freeAddress(t))
	}
	servers := make([]*Server, n+others)
	var wg sync.WaitGroup
	for i := range servers {
		o := Options{Name: string(rune('a' + i)), Log: slog.New(slog.DiscardHandler), MinFree: -1, Cluster: &ClusterOptions{Name: "test", Join: join}}
		if i < n {
			o.Dir, o.Cluster.Listen = t.TempDir(), join[i]
		} else {
			o.Cluster.Listen = freeAddress(t)
		}
		if change != nil {
			change(&o)
		}
		wg.Go(func() {
			var err error
			if servers[i], err = Embed(t.Context(), o); err != nil {
				t.Errorf("server %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, s := range servers {
			if s != nil {
				wg.Go(s.Shutdown)
			}
		}
		wg.Wait()
	})
	if t.Failed() {
		t.FailNow()
	}
	return servers
}

func TestSuiteCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers, not with -short")
	}
	servers := set(t, 3, 1, nil)
	conn := connect(t, ConnectOptions{Server: servers[3]})
	transporttest.Run(t, func(t *testing.T) transporttest.Answer {
		a := answer(t, conn, servers[3], StreamsOptions{Replicas: 3})
		streams := a.Streams.(*Streams)
		names, err := streams.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names { // of the test before
			if err := streams.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		return a
	})
}

func TestClusterOptions(t *testing.T) {
	three := []string{"10.0.0.1:6222", "nats://10.0.0.2:6222", "nats://Node-C:6222/"}
	good := Options{Name: "a", Dir: "data", Plain: true, Cluster: &ClusterOptions{Name: "shop", Listen: "10.0.0.1:6222", Join: three}}
	for _, c := range []struct {
		change func(*Options, *ClusterOptions)
		member bool
		want   string // in the error; empty: none
	}{
		{func(*Options, *ClusterOptions) {}, true, ""},
		{func(_ *Options, c *ClusterOptions) { c.Listen = "10.0.0.2:6222" }, true, ""},
		{func(_ *Options, c *ClusterOptions) { c.Listen, c.Advertise = "0.0.0.0:6222", "node-c:6222" }, true, ""},
		{func(o *Options, c *ClusterOptions) { c.Listen, o.Dir = "10.0.0.4:6222", "" }, false, ""},
		{func(_ *Options, c *ClusterOptions) { c.Join = []string{"10.0.0.1:6222"} }, true, ""},
		{func(_ *Options, c *ClusterOptions) { c.Join = append(c.Join[:3:3], "10.0.0.5:6222", "10.0.0.6:6222") }, true, ""},

		{func(_ *Options, c *ClusterOptions) { c.Join = c.Join[:2] }, false, "names 2 JetStream servers; it must name 1, 3 or 5"},
		{func(_ *Options, c *ClusterOptions) { c.Join = append(c.Join[:3:3], "10.0.0.5:6222") }, false, "names 4 JetStream servers"},
		{func(_ *Options, c *ClusterOptions) { c.Join = nil }, false, "names 0 JetStream servers"},
		{func(_ *Options, c *ClusterOptions) { c.Join = []string{"10.0.0.2:6222"} }, false, "a set of one takes no routes; connect to it as a client"},
		{func(_ *Options, c *ClusterOptions) { c.Join = append(c.Join[:2:2], "10.0.0.1:6222") }, false, "names 10.0.0.1:6222 twice"},
		{func(_ *Options, c *ClusterOptions) { c.Join = append(c.Join[:2:2], "10.0.0.3") }, false, "missing port"},
		{func(_ *Options, c *ClusterOptions) { c.Join = append(c.Join[:2:2], "nats://u:hunter2@10.0.0.3:6222") }, false, "must not hold a user"},
		{func(_ *Options, c *ClusterOptions) { c.Listen = "0.0.0.0:6222" }, false, "set Cluster.Advertise"},
		{func(_ *Options, c *ClusterOptions) { c.Listen = ":6222" }, false, "set Cluster.Advertise"},
		{func(_ *Options, c *ClusterOptions) { c.Listen = "10.0.0.1:0" }, false, "a port above 0"},
		{func(_ *Options, c *ClusterOptions) { c.Name = "my shop" }, false, "Cluster.Name is"},
		{func(o *Options, _ *ClusterOptions) { o.Name = "" }, false, "each server needs its own"},
		{func(o *Options, _ *ClusterOptions) { o.Dir = "" }, false, "Dir is empty"},
		{func(_ *Options, c *ClusterOptions) { c.Elections = "slow" }, false, "it must be fast or stock"},
	} {
		o, cluster := good, *good.Cluster
		o.Cluster = &cluster
		c.change(&o, &cluster)
		p, err := o.withDefaults().validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", cluster, err)
		case c.want == "" && p.member != c.member:
			t.Errorf("%+v: runs JetStream: %v", cluster, p.member)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%+v: got %v, want one line with %q", cluster, err, c.want)
		}
	}
}

// TestSetOfOne is JetStream by itself, which others reach as clients.
func TestSetOfOne(t *testing.T) {
	address := freeAddress(t)
	s := embed(t, Options{Name: "a", Cluster: &ClusterOptions{Name: "shop", Listen: address, Join: []string{address}}})
	defer s.Shutdown()
	streams := NewStreams(connect(t, ConnectOptions{URL: s.URL()}), StreamsOptions{})
	ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
	if seen := look(t.Context(), address, nil); seen.err == nil {
		t.Errorf("it takes routes: %+v", seen)
	}
	_, err := NewStreams(streams.c, StreamsOptions{Replicas: 3}).Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}})
	if err == nil || !strings.Contains(err.Error(), "raise replicas from 1 to 3: replicas > 1 not supported in non-clustered mode") {
		t.Errorf("three replicas on one server: %v", err)
	}
}

// TestTwoOfFiveElectNoLeader starts a part of a set that is no majority, with as many servers beside it as make it five.
func TestTwoOfFiveElectNoLeader(t *testing.T) {
	var join []string
	for range 5 {
		join = append(join, freeAddress(t))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 5 {
		o := Options{Name: string(rune('a' + i)), Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Cluster: &ClusterOptions{Name: "test", Listen: freeAddress(t), Join: join}}
		if i < 2 {
			o.Cluster.Listen = join[i]
		}
		wg.Go(func() {
			s, err := Embed(ctx, o)
			if err == nil {
				s.Shutdown()
			}
			if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), " of 5 JetStream nodes: ") {
				t.Errorf("server %s: %v", o.Name, err)
			}
		})
	}
	wg.Wait()
}

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) find(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func TestWaitsForTheSet(t *testing.T) {
	join := []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	var logged lines
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	options := func(i int) Options {
		return Options{Name: string(rune('a' + i)), Dir: dirs[i], Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelInfo})), Cluster: &ClusterOptions{Name: "test", Listen: join[i], Join: join}}
	}
	first := make(chan *Server, 1)
	go func() {
		s, err := Embed(t.Context(), options(0))
		if err != nil {
			t.Error(err)
		}
		first <- s
	}()
	for deadline := time.Now().Add(time.Minute); logged.find("waiting for 2 of 3 JetStream nodes") == ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not say what it waits for: %q", logged.all)
		}
	}
	if line := logged.find("waiting for 2 of 3"); !strings.Contains(line, join[1]+" (connect: connection refused), "+join[2]) {
		t.Errorf("it says: %s", line)
	}

	// Two that cannot join it.
	other := options(1)
	other.Cluster.Name, other.Dir = "other", t.TempDir()
	if _, err := Embed(t.Context(), other); err == nil || !strings.Contains(err.Error(), `the server at `+join[0]+` is of cluster "test", this one of "other"`) {
		t.Errorf("another cluster: %v", err)
	}
	twin := options(1)
	twin.Name, twin.Dir = "a", t.TempDir()
	if _, err := Embed(t.Context(), twin); err == nil || !strings.Contains(err.Error(), `has the name "a" too`) {
		t.Errorf("another of that name: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	beside := options(1)
	beside.Cluster.Listen, beside.Dir = freeAddress(t), ""
	if _, err := Embed(ctx, beside); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}

	second := make(chan *Server, 1)
	go func() {
		s, err := Embed(t.Context(), options(1))
		if err != nil {
			t.Error(err)
		}
		second <- s
	}()
	for deadline := time.Now().Add(time.Minute); logged.find("waiting for 1 of 3 JetStream nodes: "+join[2]) == ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the first start does not wait for all: %q", logged.all)
		}
	}
	third, err := Embed(t.Context(), options(2))
	if err != nil {
		t.Fatal(err)
	}
	s := <-first
	defer s.Shutdown()
	s2 := <-second
	if err := errors.Join(s.Healthy(), s2.Healthy(), third.Healthy()); err != nil {
		t.Error(err)
	}
	third.Shutdown()
	s2.Shutdown()
	s2, err = Embed(t.Context(), options(1)) // now that the set has begun, two of them are enough
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Shutdown()
	streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{})
	ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
}

// TestReplicasAreRaised is what happens when one server becomes three: what was kept once is kept three times.
func TestReplicasAreRaised(t *testing.T) {
	servers := set(t, 3, 0, nil)
	conn := connect(t, ConnectOptions{Server: servers[0]})
	once, thrice := NewStreams(conn, StreamsOptions{}), NewStreams(conn, StreamsOptions{Replicas: 3})
	ensure(t, once, transport.Config{Name: "S", Subjects: []string{"s.>"}, MaxBytes: 1 << 30, Description: "kept"})
	if _, err := once.Publish(t.Context(), "S", numbered(100)); err != nil {
		t.Fatal(err)
	}
	objects, err := NewObjects(once, SnapshotBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := objects.Put(t.Context(), "x", strings.NewReader("one copy")); err != nil {
		t.Fatal(err)
	}
	info, err := thrice.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>", "t"}})
	if err != nil || info.Replicas != 3 || len(info.Subjects) != 2 || info.MaxBytes != 1<<30 || info.Description != "kept" || info.Last != 100 {
		t.Fatalf("%+v, %v", info, err)
	}
	if info, err := once.Ensure(t.Context(), transport.Config{Name: "S", Subjects: []string{"s.>"}}); err != nil || info.Replicas != 3 {
		t.Errorf("ensured without a number: %+v, %v", info, err)
	}
	if objects, err = NewObjects(thrice, SnapshotBucket); err != nil {
		t.Fatal(err)
	}
	if err := objects.Put(t.Context(), "y", strings.NewReader("three copies")); err != nil {
		t.Fatal(err)
	}
	if info, err := thrice.Info(t.Context(), SnapshotBucket); err != nil || info.Replicas != 3 {
		t.Errorf("the bucket: %+v, %v", info, err)
	}

	// The copies come to be, and each of them is one.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		current := 0
		for _, s := range servers {
			if s.s.JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, "S") {
				current++
			}
		}
		if current == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d copies are current", current)
		}
	}
	leader := streamLeader(t, conn, "S")
	for _, s := range servers {
		if s.opt.Name == leader {
			s.Shutdown()
			continue
		}
		conn = connect(t, ConnectOptions{Server: s})
	}
	if got := stored(t, NewStreams(conn, StreamsOptions{})); len(got) != 100 || got[99] != "99" {
		t.Errorf("without the server that had it: %q", got)
	}
}

// TestElections reads back what the server now uses, and the refusals.
func TestElections(t *testing.T) {
	if server.VERSION != electionsVersion {
		t.Fatalf("the elections are set for nats-server %s, this is %s: look at its raft.go and raise electionsVersion", electionsVersion, server.VERSION)
	}
	before := currentPace()
	if before != stockPace && before != fastPace {
		t.Fatalf("the server's variables are %+v: they are others than they were", before)
	}
	if err := ElectionsFast.use(); err != nil {
		t.Fatal(err)
	}
	if have := currentPace(); have != fastPace {
		t.Errorf("the server's variables are %+v", have)
	}
	if err := Elections("").use(); err != nil { // fast is the default
		t.Error(err)
	}
	if err := ElectionsStock.use(); err == nil || !strings.Contains(err.Error(), "Cluster.Elections is stock") {
		t.Errorf("another choice in the same process: %v", err)
	}

	minElectionTimeout, maxElectionTimeout, heartbeatInterval = stockPace.least, stockPace.most, stockPace.heartbeat
	if err := ElectionsFast.useWith("2.16.0"); err == nil || !strings.Contains(err.Error(), "2.16.0") || !strings.Contains(err.Error(), "set Cluster.Elections to stock") {
		t.Errorf("another server: %v", err)
	}
	minElectionTimeout = 0 // as if the name had moved
	if err := ElectionsFast.use(); err == nil {
		t.Error("variables that are not the server's were set")
	}
	minElectionTimeout = stockPace.least
	if err := errors.Join(ElectionsStock.use(), ElectionsFast.use()); err != nil {
		t.Error(err)
	}
}
