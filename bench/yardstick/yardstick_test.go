package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/bench/load"
)

// TestMain lets the test binary be the program, so that a test can kill it.
func TestMain(m *testing.M) {
	if os.Getenv("YARDSTICK") == "run" {
		main()
		return
	}
	os.Exit(m.Run())
}

// output is what a program printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func startYardstick(t *testing.T, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "YARDSTICK=run")
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // no error counts after the test
	for end := time.Now().Add(30 * time.Second); !bytes.Contains([]byte(out.String()), []byte("ready\n")); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not ready:\n%s", out)
		}
	}
	return cmd, out
}

func startNATS(t *testing.T, sync bool) string {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), SyncAlways: sync})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	return srv.ClientURL()
}

// TestExactlyOnce kills the program again and again while orders come in.
func TestExactlyOnce(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		spec   load.Spec
		pack   int
		atomic int
		sync   bool
	}{
		"single":        {spec: load.Spec{Events: 60_000, Users: 500, Skew: 1.1, Seed: 1}},
		"packed":        {spec: load.Spec{Events: 300_000, Users: 500, Skew: 1.1, Seed: 2}, pack: 100, args: []string{"-pack"}},
		"single synced": {spec: load.Spec{Events: 20_000, Users: 500, Skew: 1.1, Seed: 3}, atomic: 200, sync: true, args: []string{"-sync", "-batch", "100"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			url := startNATS(t, c.sync)
			args := append([]string{"-data", t.TempDir(), "-nats", url}, c.args...)
			cmd, out := startYardstick(t, args...)

			nc, err := nats.Connect(url)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			published := make(chan error, 1)
			go func() {
				published <- load.Publisher{Conn: nc, Subject: "orders.new", Pack: c.pack, Atomic: c.atomic}.Publish(ctx, c.spec)
			}()
			for range 5 {
				time.Sleep(120 * time.Millisecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil {
					t.Fatalf("it ended by itself:\n%s", out)
				}
				cmd, out = startYardstick(t, args...)
			}
			if err := <-published; err != nil {
				t.Fatal(err)
			}

			cons, err := js.OrderedConsumer(ctx, "TOTALS", jetstream.OrderedConsumerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			expect := c.spec.Expect()
			for expect.Seen() < c.spec.Events {
				batch, err := cons.FetchNoWait(1000)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for m := range batch.Messages() {
					expect.Message(m.Data(), nil)
					n++
				}
				if err := errors.Join(batch.Error(), ctx.Err(), expect.Err()); err != nil {
					t.Fatalf("after %d outputs: %v\n%s", expect.Seen(), err, out)
				}
				if n == 0 {
					time.Sleep(20 * time.Millisecond)
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			stream, err := js.Stream(ctx, "TOTALS")
			if err != nil {
				t.Fatal(err)
			}
			want := uint64(c.spec.Events / max(c.pack, 1))
			if got := stream.CachedInfo().State.Msgs; got != want {
				t.Errorf("%d output messages, want %d", got, want)
			}
			if err := expect.Done(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStreamSequence(t *testing.T) {
	for reply, want := range map[string]uint64{
		"$JS.ACK.ORDERS.abc.1.4711.17.1790000000000000000.5":               4711,
		"$JS.ACK.hub.ACCHASH.ORDERS.abc.1.42.17.1790000000000000000.5.tok": 42,
	} {
		if got, err := streamSequence(reply); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", reply, got, err, want)
		}
	}
	if _, err := streamSequence("_INBOX.x"); err == nil {
		t.Error("a reply that is none was taken")
	}
}
