// Package process builds and drives the real binaries for tests: kisnode, kisctl and an outside nats-server.
//
// A Node or a Server is a process that may be killed and started again on the same folder and the same
// addresses. Both are for one goroutine.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/api"
)

// packages of the binaries, by name.
var packages = map[string]string{
	"kisnode":     "github.com/kisflow/kisflow/cmd/kisnode",
	"kisctl":      "github.com/kisflow/kisflow/cmd/kisctl",
	"nats-server": "github.com/nats-io/nats-server/v2",
}

// Build builds binaries into a folder: kisnode with the race detector if the test runs with it. It is for a TestMain.
func Build(dir string, names ...string) error {
	for _, name := range names {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if race && name == "kisnode" {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, packages[name])...).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Main is a TestMain that builds binaries and hands over their folder.
func Main(m *testing.M, bin *string, names ...string) {
	code := func() int {
		dir, err := os.MkdirTemp("", "kisflow-test")
		if err == nil {
			defer os.RemoveAll(dir)
			err = Build(dir, names...)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		*bin = dir
		return m.Run()
	}()
	os.Exit(code)
}

// FreeAddress finds an address on which nothing listens. It lies below the ports that the kernel gives to
// connections, so that it is still free when a killed process comes back to it.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		a := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		l, err := net.Listen("tcp", a)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return a
	}
	t.Fatal("no free port in 1000 attempts")
	return ""
}

// process is one program that may be started many times.
type process struct {
	Prefix []string  // of the command, as ip netns exec NAME: a program that becomes the one that it is told
	Output io.Writer // what the program writes goes there as well, from all its starts; may be nil

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	err    error         // of its end; read it after exited
	log    Log
}

func (p *process) start(path string, args ...string) error {
	all := append(append(slices.Clone(p.Prefix), path), args...)
	p.cmd = exec.Command(all[0], all[1:]...)
	dieWithParent(p.cmd)
	var output io.Writer = &p.log
	if p.Output != nil {
		output = io.MultiWriter(&p.log, p.Output)
	}
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.log.reset()
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		return err
	}
	exited := make(chan struct{})
	p.exited = exited
	go func() { // ends with the process
		p.err = p.cmd.Wait()
		close(exited)
	}()
	return nil
}

// await waits until ready answers nil.
func (p *process) await(limit time.Duration, ready func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended: %v\n%s", filepath.Base(p.cmd.Path), p.err, &p.log)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready after %v: %w\n%s", filepath.Base(p.cmd.Path), limit, err, &p.log)
		}
	}
}

// Kill is kill -9. It returns when the process has ended.
func (p *process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}

// Signal sends a signal.
func (p *process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end, and returns how it ended.
func (p *process) Wait(limit time.Duration) error {
	select {
	case <-p.exited:
		return p.err
	case <-time.After(limit):
		return fmt.Errorf("%s still runs after %v\n%s", filepath.Base(p.cmd.Path), limit, &p.log)
	}
}

// Pid is the process's id; of one that was started.
func (p *process) Pid() int { return p.cmd.Process.Pid }

// Running tells whether the process has not ended.
func (p *process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Log is what the process has written since its last start.
func (p *process) Log() string { return p.log.String() }

// readyLimit is how long a start may take, on a machine with much to do.
const readyLimit = 60 * time.Second

// Node is a kisnode.
type Node struct {
	process
	Data       string // its data folder
	Bin        string // folder of the binaries
	NATS       string // URL of the outside NATS; empty: embedded
	NATSListen string
	Listen     string
	Args       []string // further flags
}

// NewNode makes a node that is not started yet. It is killed when the test ends.
func NewNode(t testing.TB, bin, data string, args ...string) *Node {
	t.Helper()
	n := &Node{Data: data, Bin: bin, NATSListen: FreeAddress(t), Listen: FreeAddress(t), Args: args}
	t.Cleanup(n.Kill)
	return n
}

// Launch starts the process and does not wait.
func (n *Node) Launch() error {
	args := []string{"--data", n.Data, "--listen", n.Listen}
	if n.NATS != "" {
		args = append(args, "--nats", n.NATS)
	} else {
		args = append(args, "--nats-listen", n.NATSListen)
	}
	return n.start(filepath.Join(n.Bin, "kisnode"), append(args, n.Args...)...)
}

// Start starts the process and waits until it is ready.
func (n *Node) Start() error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.AwaitReady()
}

// AwaitReady waits until /readyz says so.
func (n *Node) AwaitReady() error { return n.await(readyLimit, n.Ready) }

// AwaitLive waits until the API answers, ready or not.
func (n *Node) AwaitLive() error {
	return n.await(readyLimit, func() error { return n.get("/healthz") })
}

// Ready asks once.
func (n *Node) Ready() error { return n.get("/readyz") }

func (n *Node) get(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body) // for the message only
		return errors.New(path + ": " + resp.Status + ": " + b.String())
	}
	return nil
}

// URL is where the API is.
func (n *Node) URL() string { return "http://" + n.Listen }

// NATSURL is where its NATS is.
func (n *Node) NATSURL() string {
	if n.NATS != "" {
		return n.NATS
	}
	return "nats://" + n.NATSListen
}

// Client is a client of its API; it is closed when the test ends.
func (n *Node) Client(t testing.TB) *api.Client {
	t.Helper()
	c, err := api.NewClient(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Connect connects to its NATS, and keeps trying for as long as the test runs.
func (n *Node) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.NATSURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // a lost connection is what the tests are about
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Ctl runs kisctl and returns what it wrote, and its exit code.
func (n *Node) Ctl(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(n.Bin, "kisctl"), append([]string{"--server", n.URL()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("kisctl %q: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Server is an outside nats-server with JetStream.
type Server struct {
	process
	Dir    string
	Bin    string
	Listen string
	Config string // further lines of its config file
}

// NewServer makes a server that is not started yet. It is killed when the test ends.
func NewServer(t testing.TB, bin, dir string) *Server {
	t.Helper()
	s := &Server{Dir: dir, Bin: bin, Listen: FreeAddress(t)}
	t.Cleanup(s.Kill)
	return s
}

// URL is where clients connect.
func (s *Server) URL() string { return "nats://" + s.Listen }

// Launch starts the process and does not wait.
func (s *Server) Launch() error {
	config := filepath.Join(s.Dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream {\n  store_dir: %q\n}\n%s", s.Listen, filepath.Join(s.Dir, "nats"), s.Config)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	return s.start(filepath.Join(s.Bin, "nats-server"), "-c", config)
}

// Start starts the server and waits until it takes connections.
func (s *Server) Start() error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.await(readyLimit, s.Ready)
}

// Ready asks once whether it takes connections.
func (s *Server) Ready() error {
	nc, err := nats.Connect(s.URL())
	if err == nil {
		nc.Close()
	}
	return err
}

// Log keeps the end of what a process writes. It is safe for use by many goroutines.
type Log struct {
	mu   sync.Mutex
	text []byte
}

// logSize is how much of a log is kept.
const logSize = 64 << 10

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if n := len(l.text) - logSize; n > 0 {
		l.text = append(l.text[:0], l.text[n:]...)
	}
	return len(b), nil
}

func (l *Log) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
