package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/api/apitest"
)

var rewrite = flag.Bool("rewrite", false, "write scripts and references anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kisctl": main})
}

// TestScripts runs the scripts in testdata. Each has a node of its own, api/apitest, at $KISFLOW_SERVER, and
// these commands:
//
//	exits CODE kisctl ARGS...   runs it and wants that exit code
//	fault CODE kisctl ARGS...   the same in the test's own process: sooner, and for what reads no file
//	nats STREAM SUBJECT...      starts a JetStream server that the node names as its own, with a stream
//	stored STREAM               puts into stdout what the stream holds: subject, then lines
//	sorted FILE                 wants that stdout's lines, sorted, are the file's
//	received                    puts into stdout what was published through the API
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *rewrite,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			b := apitest.New()
			b.SetNATS(api.NATS{Embedded: true, Connected: true, Version: "2.15.2"}) // listens nowhere until a script says so
			s := httptest.NewServer(api.NewServer(b, api.Options{Log: slog.New(slog.DiscardHandler)}))
			env.Defer(s.Close)
			env.Values["backend"] = b
			env.Setenv("KISFLOW_SERVER", s.URL)
			env.Setenv("TZ", "UTC")
			env.Setenv("COLUMNS", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"fault":    fault,
			"nats":     startNATS,
			"stored":   stored,
			"received": received,
			"broken":   broken,
			"sorted":   sorted,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	checkExit(ts, got, want, ts.ReadFile("stderr"))
}

func fault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fault CODE kisctl args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var errs bytes.Buffer
	got := run(context.Background(), append([]string{"--server", ts.Getenv("KISFLOW_SERVER")}, args[2:]...), strings.NewReader(""), ts.Stdout(), &errs)
	io.Copy(ts.Stderr(), bytes.NewReader(errs.Bytes()))
	checkExit(ts, got, want, errs.String())
}

func checkExit(ts *testscript.TestScript, got, want int, message string) {
	if got != want {
		ts.Fatalf("exit code %d, want %d: %s", got, want, message)
	}
	if want != 0 && (strings.Count(message, "kisctl: ") != 1 || !strings.HasSuffix(message, "\n")) {
		ts.Fatalf("the error is not one line: %q", message)
	}
}

func startNATS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: nats STREAM SUBJECT...")
	}
	if ts.Getenv("NATS") == "" {
		s := runServer(ts, filepath.Join(ts.MkAbs("."), "jetstream"), -1)
		ts.Value("backend").(*apitest.Backend).SetNATS(api.NATS{URL: s.ClientURL(), Embedded: true, Connected: true, Version: "2.15.2"})
		ts.Setenv("NATS", s.ClientURL())
	}
	nc, js := dialStream(ts, ts.Getenv("NATS"))
	defer nc.Close()
	_, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: args[0], Subjects: args[1:]})
	ts.Check(err)
}

// fataler is what testing.T and testscript.TestScript have in common.
type fataler interface {
	Fatalf(format string, args ...any)
}

func runServer(t fataler, dir string, port int) *server.Server {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatalf("nats server: %v", err)
	}
	s.Start()
	stop := func() { s.Shutdown(); s.WaitForShutdown() }
	switch t := t.(type) {
	case *testscript.TestScript:
		t.Defer(stop)
	case *testing.T:
		t.Cleanup(stop)
	}
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("nats server is not ready")
	}
	return s
}

func dialStream(t fataler, url string) (*nats.Conn, jetstream.JetStream) {
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("jetstream: %v", err)
	}
	return nc, js
}

// streamMessages reads a whole stream.
func streamMessages(t fataler, js jetstream.JetStream, name string) []*jetstream.RawStreamMsg {
	ctx := context.Background()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatalf("stream %s: %v", name, err)
	}
	var out []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			t.Fatalf("stream %s: message %d: %v", name, seq, err)
		}
		out = append(out, m)
	}
	return out
}

func sorted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sorted FILE")
	}
	lines := strings.SplitAfter(ts.ReadFile("stdout"), "\n")
	slices.Sort(lines)
	if got, want := strings.Join(lines, ""), ts.ReadFile(args[0]); got != want {
		ts.Fatalf("got:\n%swant:\n%s", got, want)
	}
}

func stored(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stored STREAM")
	}
	nc, js := dialStream(ts, ts.Getenv("NATS"))
	defer nc.Close()
	for _, m := range streamMessages(ts, js, args[0]) {
		if m.Header.Get("Nats-Msg-Id") == "" {
			ts.Fatalf("message %d has no Nats-Msg-Id", m.Sequence)
		}
		fmt.Fprintf(ts.Stdout(), "%d %s\n%s\n", m.Sequence, m.Subject, m.Data)
	}
}

func received(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: received")
	}
	for _, p := range ts.Value("backend").(*apitest.Backend).Published() {
		for _, m := range p.Messages {
			fmt.Fprintf(ts.Stdout(), "subject=%s flow=%s id=%s\n%s\n", p.Subject, p.Flow, m.ID, m.Data)
		}
	}
}

// broken makes one method of the node fail with one of the API's errors: broken METHOD TIMES MESSAGE.
func broken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: broken METHOD TIMES MESSAGE")
	}
	left, err := strconv.Atoi(args[1])
	ts.Check(err)
	var mu sync.Mutex
	ts.Value("backend").(*apitest.Backend).Fail(func(_ context.Context, method string) error {
		mu.Lock()
		defer mu.Unlock()
		if method != args[0] || left == 0 {
			return nil
		}
		left--
		return api.Errorf(api.ErrUnavailable, "%s", args[2])
	})
}

// TestReference keeps docs/reference/cli.md what the commands say.
func TestReference(t *testing.T) {
	t.Setenv(envServer, "")
	file := filepath.Join("..", "..", "docs", "reference", "cli.md")
	got := reference(newRoot(&app{}))
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the commands say; go test ./cmd/kisctl -rewrite, and read the difference", file)
	}
}
