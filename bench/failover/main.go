// Failover prints how long a cluster of three servers keeps a writer and a reader waiting when the server that leads their stream is
// ended by kill -9, and what opening a reader costs. Each server is a process of its own; the writer and the readers are on a fourth that
// keeps no streams.
//
//	go run ./bench/failover
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/nats"
)

// serverVariable holds the options of a server that this process is to be.
const serverVariable = "FAILOVER_SERVER"

func main() {
	if text := os.Getenv(serverVariable); text != "" {
		if err := serve(text); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	runs := flag.Int("runs", 5, "leaders that are killed, of each kind")
	flag.Parse()
	fmt.Println("| elections | sync | next record acknowledged, ms: least / median / most | reader goes on, ms | an API call, ms | opening a reader, ms: median / most |\n|---|---|---|---|---|---|")
	for _, elections := range []nats.Elections{nats.ElectionsFast, nats.ElectionsStock} {
		for _, sync := range []bool{false, true} {
			if err := measure(*runs, elections, sync); err != nil {
				fmt.Fprintln(os.Stderr, "failover: "+err.Error())
				os.Exit(1)
			}
		}
	}
}

// serve is a server until standard input ends.
func serve(text string) error {
	var opt nats.Options
	if err := json.Unmarshal([]byte(text), &opt); err != nil {
		return err
	}
	opt.Log = slog.New(slog.DiscardHandler)
	s, err := nats.Embed(context.Background(), opt)
	if err != nil {
		return err
	}
	defer s.Shutdown()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// server is one of the three.
type server struct {
	opt   nats.Options
	cmd   *exec.Cmd
	stdin io.Closer
	ready chan string
}

func (s *server) start() error {
	text, err := json.Marshal(s.opt)
	if err != nil {
		return err
	}
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), serverVariable+"="+string(text))
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	s.ready = make(chan string, 1)
	go func() { // ends with the process
		line, _ := bufio.NewReader(out).ReadString('\n')
		s.ready <- line
	}()
	return s.cmd.Start()
}

func (s *server) await() error {
	if line := <-s.ready; !strings.HasPrefix(line, "ready") {
		return fmt.Errorf("server %s: %s", s.opt.Name, line)
	}
	return nil
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = s.stdin.Close()
}

func address() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func measure(runs int, elections nats.Elections, sync bool) error {
	dir, err := os.MkdirTemp("", "failover")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var join [4]string
	for i := range join {
		if join[i], err = address(); err != nil {
			return err
		}
	}
	var servers [3]*server
	for i := range servers {
		servers[i] = &server{opt: nats.Options{Dir: filepath.Join(dir, strconv.Itoa(i)), Name: string(rune('a' + i)), SyncAlways: sync, MinFree: -1,
			Cluster: &nats.ClusterOptions{Name: "failover", Listen: join[i], Join: join[:3], Elections: elections}}}
		if err := servers[i].start(); err != nil {
			return err
		}
		defer func() { servers[i].kill() }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	beside, err := nats.Embed(ctx, nats.Options{Name: "beside", Log: quiet, Cluster: &nats.ClusterOptions{Name: "failover", Listen: join[3], Join: join[:3]}})
	if err != nil {
		return err
	}
	defer beside.Shutdown()
	for _, s := range servers {
		if err := s.await(); err != nil {
			return err
		}
	}
	conn, err := nats.Connect(ctx, nats.ConnectOptions{Server: beside, Log: quiet})
	if err != nil {
		return err
	}
	defer conn.Close()
	streams := nats.NewStreams(conn, nats.StreamsOptions{Replicas: 3, SyncAlways: sync})
	if _, err := streams.Ensure(ctx, transport.Config{Name: "LOG", Subjects: []string{"log.>"}}); err != nil {
		return err
	}

	w := &watch{streams: streams}
	w.wrote.Store(time.Now().UnixNano())
	work, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 2)
	go func() { done <- w.write(work) }()
	go func() { done <- w.read(work) }()
	var acked, read, asked []time.Duration
	for range runs {
		time.Sleep(time.Second)
		leader, err := streams.Leader(ctx, "LOG")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(servers[:], func(s *server) bool { return s.opt.Name == leader })
		w.longestWrite.Store(0)
		w.longestRead.Store(0)
		start := time.Now()
		servers[i].kill()
		if _, err := streams.Info(ctx, "LOG"); err != nil {
			return err
		}
		asked = append(asked, time.Since(start))
		time.Sleep(12 * time.Second) // longer than any election
		acked = append(acked, time.Duration(w.longestWrite.Load()))
		read = append(read, time.Duration(w.longestRead.Load()))
		if err := servers[i].start(); err != nil {
			return err
		}
		if err := servers[i].await(); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			return err
		}
	}
	var opened []time.Duration
	for range 200 {
		start := time.Now()
		r, err := streams.Read(ctx, "LOG", transport.ReadOptions{})
		if err == nil {
			_, err = r.Next(ctx, 1)
		}
		if err != nil {
			return err
		}
		opened = append(opened, time.Since(start))
		r.Close()
	}
	how := "every 2 min"
	if sync {
		how = "always"
	}
	fmt.Printf("| %s | %s | %s | %s | %s | %.1f / %.1f |\n", elections, how, three(acked), three(read), three(asked), millis(middle(opened)), millis(slices.Max(opened)))
	return nil
}

// watch writes and reads a stream, and keeps the longest pauses.
type watch struct {
	streams                   *nats.Streams
	wrote                     atomic.Int64 // when the last record was acknowledged
	longestWrite, longestRead atomic.Int64
}

func (w *watch) write(ctx context.Context) error {
	at := uint64(0)
	for ctx.Err() == nil {
		seq, err := w.streams.Append(ctx, "LOG", transport.Outgoing{Subject: "log.p", Data: []byte("record"), Expect: &transport.Expect{Sequence: at}})
		if errors.Is(err, transport.ErrFenced) { // it was stored when nobody could say so
			var m transport.Message
			m, err = w.streams.LastOn(ctx, "LOG", "log.p")
			seq = m.Sequence
		}
		switch {
		case err == nil:
			at = seq
			now := time.Now().UnixNano()
			w.longestWrite.Store(max(w.longestWrite.Load(), now-w.wrote.Swap(now)))
		case !errors.Is(err, transport.ErrDoubt) && ctx.Err() == nil:
			return err
		}
		_ = sleep(ctx, time.Millisecond)
	}
	return nil
}

func (w *watch) read(ctx context.Context) error {
	r, err := w.streams.Read(ctx, "LOG", transport.ReadOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	for last := time.Now(); ; last = time.Now() {
		if _, err := r.Next(ctx, 1000); err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return err
		}
		w.longestRead.Store(max(w.longestRead.Load(), int64(time.Since(last))))
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func middle(ds []time.Duration) time.Duration {
	ds = slices.Clone(ds)
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func three(ds []time.Duration) string {
	return fmt.Sprintf("%.0f / %.0f / %.0f", millis(slices.Min(ds)), millis(middle(ds)), millis(slices.Max(ds)))
}
