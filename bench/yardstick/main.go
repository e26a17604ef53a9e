// Yardstick is the bare program that KisFlow's figures are divided by: the same parts, and nothing of an
// engine. It reads orders from a JetStream stream, decodes and verifies them, keeps each user's totals in a
// Go map, publishes one output an order, and writes the totals that changed and its position to Pebble.
//
// The path of an order: next, apply, publish; when the outputs of a batch are stored, the batch's totals and
// position are committed to Pebble together. After a crash it starts from the position in Pebble, computes
// the orders since then again, and what it publishes again the stream drops: by Nats-Msg-Id, or with -sync
// by the position that the last output carries.
//
// SIGTERM ends it: it finishes what it has begun, checks its own books, prints them and exits with 1 where
// they are wrong.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type config struct {
	data, nats, listen string
	pack, sync         bool
	batch, window      int
}

// books is what the program says of itself at its end.
type books struct {
	Orders   int64  `json:"orders"`   // applied since it started
	Refused  int64  `json:"refused"`  // of them not valid
	Outputs  int64  `json:"outputs"`  // stored
	Users    int    `json:"users"`    // that have totals
	Counted  int64  `json:"counted"`  // orders in the totals
	Position uint64 `json:"position"` // in Pebble
	Commits  int64  `json:"commits"`
}

func main() {
	var c config
	flag.StringVar(&c.data, "data", "", "folder of the data; a temporary one that is removed at the end if empty")
	flag.StringVar(&c.nats, "nats", "", "URL of an outside NATS; embedded if empty")
	flag.StringVar(&c.listen, "nats-listen", "127.0.0.1:4222", "address of the embedded NATS")
	flag.BoolVar(&c.pack, "pack", false, "one output message for each input message, one output a line")
	flag.BoolVar(&c.sync, "sync", false, "nothing is acknowledged before it is synced to disk")
	flag.IntVar(&c.batch, "batch", 500, "most orders in a commit")
	flag.IntVar(&c.window, "window", 4096, "most output messages on their way")
	flag.Parse()
	if err := run(c); err != nil {
		log.Fatal("yardstick: ", err)
	}
}

func run(c config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if c.data == "" {
		dir, err := os.MkdirTemp("", "yardstick")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.data = dir
	}
	in, out, closeNATS, err := connect(c)
	if err != nil {
		return err
	}
	defer closeNATS()
	w, err := open(ctx, c, in, out)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	err = w.run(ctx)
	b, checkErr := w.close()
	if text, e := json.Marshal(b); e == nil {
		fmt.Println(string(text))
	}
	if err != nil {
		return err
	}
	return checkErr
}

// connect returns one connection for the input and one for the outputs.
func connect(c config) (in, out *nats.Conn, closeAll func(), err error) {
	url, options := c.nats, []nats.Option{nats.MaxReconnects(-1)}
	closeServer := func() {}
	if url == "" {
		host, port, err := splitAddress(c.listen)
		if err != nil {
			return nil, nil, nil, err
		}
		srv, err := server.NewServer(&server.Options{
			ServerName: "yardstick", Host: host, Port: port, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: filepath.Join(c.data, "nats"), SyncAlways: c.sync, MaxPayload: 8 << 20,
		})
		if err != nil {
			return nil, nil, nil, err
		}
		srv.Start()
		closeServer = func() { srv.Shutdown(); srv.WaitForShutdown() }
		if !srv.ReadyForConnections(10 * time.Second) {
			closeServer()
			return nil, nil, nil, fmt.Errorf("embedded NATS: not ready on %s", c.listen)
		}
		options = append(options, nats.InProcessServer(srv))
	}
	if in, err = nats.Connect(url, options...); err != nil {
		closeServer()
		return nil, nil, nil, err
	}
	if out, err = nats.Connect(url, options...); err != nil {
		in.Close()
		closeServer()
		return nil, nil, nil, err
	}
	return in, out, func() { in.Close(); out.Close(); closeServer() }, nil
}

// ensureStreams makes the two streams where they are missing.
func ensureStreams(ctx context.Context, nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	for _, s := range []jetstream.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}},
		{Name: "TOTALS", Subjects: []string{"totals.>"}},
	} {
		s.Storage, s.AllowDirect, s.AllowAtomicPublish, s.Duplicates = jetstream.FileStorage, true, true, 2*time.Minute
		if _, err := js.CreateOrUpdateStream(ctx, s); err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	return js, nil
}
