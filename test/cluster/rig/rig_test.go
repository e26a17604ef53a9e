package rig

import (
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/test/process"
)

var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("KISFLOW_RIG_LEAVE") != "" { // it needs no binaries
		os.Exit(m.Run())
	}
	process.Main(m, &bin, "kisnode", "nats-server")
}

func start(t *testing.T, o Options) *Rig {
	t.Helper()
	o.Bin = bin
	r := New(t, o)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLinks cuts links between the servers of a NATS: in one direction, in both, and to all.
func TestLinks(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Servers: 3})
	if why := r.Network.Why(); why != nil {
		t.Skip(why)
	}
	a, b, c := r.Servers[0].Place, r.Servers[1].Place, r.Servers[2].Place
	reaches := func(from, to *Place, limit time.Duration) bool {
		conn, err := from.Dial(to.Host+":6222", limit)
		if err == nil {
			_ = conn.Close()
		}
		_, inner := from.Dial(to.Inner+":6222", limit) // where nobody listens
		if refused := inner != nil && strings.Contains(inner.Error(), "refused"); refused != (err == nil) {
			t.Errorf("%s reaches %s: %v, at the inner address: %v", from.Name, to.Name, err, inner)
		}
		return err == nil
	}
	expect := func(when string, want map[[2]*Place]bool) {
		t.Helper()
		for pair, w := range want {
			limit := 300 * time.Millisecond
			if w { // a first packet may have to be sent again
				limit = 5 * time.Second
			}
			if got := reaches(pair[0], pair[1], limit); got != w {
				t.Errorf("%s: %s reaches %s: %t, want %t", when, pair[0].Name, pair[1].Name, got, w)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("at first", map[[2]*Place]bool{{a, b}: true, {b, a}: true, {a, c}: true, {c, a}: true})
	// A connection is made by packets of both, so one direction cut means none; the third does not notice.
	must(a.Cut(b))
	expect("a to b cut", map[[2]*Place]bool{{a, b}: false, {b, a}: false, {a, c}: true, {c, a}: true, {b, c}: true})
	must(a.Cut(b))
	must(b.Cut(a))
	must(a.Heal(b))
	expect("a to b healed once of two times", map[[2]*Place]bool{{a, b}: false, {b, a}: false})
	must(a.Heal(b))
	expect("b to a cut", map[[2]*Place]bool{{a, b}: false, {b, a}: false, {c, b}: true})
	must(b.Heal(a))
	must(b.Heal(a))
	expect("healed", map[[2]*Place]bool{{a, b}: true, {b, a}: true})
	must(a.Unplug())
	expect("unplugged", map[[2]*Place]bool{{a, b}: false, {c, a}: false, {b, c}: true})
	must(a.Plug())
	expect("plugged", map[[2]*Place]bool{{a, b}: true, {c, a}: true})
	if found := r.Servers[0].Log.Find(time.Time{}, time.Now(), regexp.MustCompile(`metadata leader`), 1); len(found) == 0 {
		t.Errorf("the servers are no cluster:\n%s", r.Servers[0].Log.Last(20))
	}
}

// TestOneDirection shows that a cut in one direction leaves the other: a sender that waits for no answer gets through.
func TestOneDirection(t *testing.T) {
	t.Parallel()
	n := OpenNetwork(t)
	if why := n.Why(); why != nil {
		t.Skip(why)
	}
	a, b := n.Place(t, "a", 1), n.Place(t, "b", 2)
	if err := b.Cut(a); err != nil {
		t.Fatal(err)
	}
	ears := make(map[*Place]net.PacketConn)
	for _, p := range []*Place{a, b} {
		err := p.inside(func() (err error) {
			ears[p], err = net.ListenPacket("udp4", p.Host+":7000")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ears[p].Close()
	}
	hears := func(from, to *Place) bool {
		if _, err := ears[from].WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(to.Host), Port: 7000}); err != nil {
			t.Fatal(err)
		}
		if err := ears[to].SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, _, err := ears[to].ReadFrom(make([]byte, 10))
		return err == nil
	}
	if !hears(a, b) || hears(b, a) {
		t.Error("b is to hear a, and a is not to hear b")
	}
	if err := b.Heal(a); err != nil {
		t.Fatal(err)
	}
	if !hears(a, b) || !hears(b, a) {
		t.Error("both are to hear each other")
	}
}

// TestDisk fills a disk and makes one slow.
func TestDisk(t *testing.T) {
	t.Parallel()
	d := OpenDisk(t, t.TempDir(), "disk")
	if why := d.Why(); why != nil {
		t.Skip(why)
	}
	write := func(size int) error {
		path := filepath.Join(d.Path, "file")
		defer os.Remove(path)
		return os.WriteFile(path, make([]byte, size), 0o600)
	}
	for _, free := range []int64{50 << 20, 20 << 20, 0} { // each takes more than the one before
		if err := d.Fill(free); err != nil {
			t.Fatal(err)
		}
		left, err := d.Free()
		if err != nil || left > free || left < free-1<<20 {
			t.Errorf("%d bytes are free, %v, want %d", left, err, free)
		}
	}
	if err := write(1 << 20); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a write to the full disk: %v", err)
	}
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
	if err := write(1 << 20); err != nil {
		t.Errorf("a write after Release: %v", err)
	}
	if why := d.WhySlow(); why != nil {
		t.Skip(why)
	}
	slowest := func() (most time.Duration) {
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			begin := time.Now()
			if err := write(4096); err != nil {
				t.Fatal(err)
			}
			most = max(most, time.Since(begin))
		}
		return most
	}
	if err := d.Slow(300*time.Millisecond, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got := slowest(); got < 150*time.Millisecond {
		t.Errorf("the slowest write to a slow disk took %v", got)
	}
	if err := d.Quicken(); err != nil {
		t.Fatal(err)
	}
}

// TestMachine kills, pauses and stops a node, and sets its clock off.
func TestMachine(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := start(t, Options{Args: []string{"--durability", "process"}})
	n := r.Nodes[0]
	n.Kill()
	if n.Running() || n.Ready() == nil {
		t.Error("a killed node runs")
	}
	n.Start()
	if err := n.AwaitReady(startLimit); err != nil {
		t.Fatal(err)
	}
	// One that ends by itself is started again.
	n.mu.Lock()
	n.process.Kill()
	n.mu.Unlock()
	for end := time.Now().Add(startLimit); n.Starts() < 3 || n.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a node that ended was not started again")
		}
	}
	if ends := n.Ends(); len(ends) != 1 || !strings.Contains(ends[0].Err.Error(), "killed") {
		t.Errorf("ends by itself: %v", ends)
	}
	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; { // its threads stop one after the other
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		err := n.Get(short, "/api/v1/status", new(struct{}))
		cancel()
		if err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a paused node answers")
		}
	}
	if err := n.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitReady(startLimit); err != nil {
		t.Fatal(err)
	}
	if CanJump {
		for _, d := range []time.Duration{5 * time.Hour, -30 * time.Hour, 0} {
			if err := n.JumpClock(d); err != nil {
				t.Fatal(err)
			}
			at, err := n.Clock(ctx)
			if off := time.Until(at); err != nil || off > d+5*time.Second || off < d-5*time.Second {
				t.Errorf("the clock is %v off, %v, want %v", off, err, d)
			}
		}
	}
	if err := n.Stop(30 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if crashed := r.Crashes(); len(crashed) > 0 {
		t.Errorf("crashes: %q", crashed)
	}
}

// TestLoopback runs a rig without namespaces.
func TestLoopback(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Servers: 3, Loopback: true})
	if err := r.Servers[0].Place.Cut(r.Servers[1].Place); err == nil {
		t.Error("a link of the loopback network was cut")
	}
	if !strings.Contains(r.NATSURLs(), "127.0.0.1") {
		t.Error(r.NATSURLs())
	}
}
