package nats

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// nodeVariable holds the Options of a server that this binary is to be, in place of running tests.
const nodeVariable = "KISFLOW_TEST_NATS_NODE"

func TestMain(m *testing.M) {
	if text := os.Getenv(nodeVariable); text != "" {
		beNode(text)
		return
	}
	os.Exit(m.Run())
}

// beNode runs a server until standard input ends, so that it does not outlive the test.
func beNode(text string) {
	var opt Options
	if err := json.Unmarshal([]byte(text), &opt); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	opt.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := Embed(context.Background(), opt)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("ready", s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
}

// node is a server in a process of its own.
type node struct {
	opt   Options
	cmd   *exec.Cmd
	stdin io.Closer
	ready chan string // its URL, or what went wrong
}

// processes starts a JetStream set of n servers, each in its own process, and returns when they are ready.
func processes(t testing.TB, n int, change func(*Options)) []*node {
	t.Helper()
	var join []string
	for range n {
		join = append(join, freeAddress(t))
	}
	nodes := make([]*node, n)
	for i := range nodes {
		nodes[i] = &node{opt: Options{
			Dir: t.TempDir(), Name: string(rune('a' + i)), Listen: freeAddress(t), MinFree: -1,
			Cluster: &ClusterOptions{Name: "test", Listen: join[i], Join: join},
		}}
		if change != nil {
			change(&nodes[i].opt)
		}
		nodes[i].start(t)
		t.Cleanup(nodes[i].kill)
	}
	for _, n := range nodes {
		n.await(t)
	}
	return nodes
}

func (n *node) start(t testing.TB) {
	t.Helper()
	opt := n.opt
	opt.Log = nil
	text, err := json.Marshal(opt)
	if err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(os.Args[0])
	n.cmd.Env = append(os.Environ(), nodeVariable+"="+string(text))
	if testing.Verbose() {
		n.cmd.Stderr = os.Stderr
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	n.ready = ready
	go func() { // ends with the process
		defer close(ready)
		if lines := bufio.NewScanner(stdout); lines.Scan() {
			ready <- lines.Text()
		}
		_, _ = io.Copy(io.Discard, stdout)
	}()
}

// await returns when the server is ready.
func (n *node) await(t testing.TB) {
	t.Helper()
	select {
	case line := <-n.ready:
		if !strings.HasPrefix(line, "ready") {
			t.Fatalf("node %s: %s", n.opt.Name, line)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("node %s is not ready", n.opt.Name)
	}
}

// kill is kill -9.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait() // says how it ended, which is known
	_ = n.stdin.Close()
	n.cmd = nil
}

// streamLeader is the name of the server that leads a stream.
func streamLeader(t testing.TB, c *Conn, stream string) string {
	t.Helper()
	name, err := NewStreams(c, StreamsOptions{}).Leader(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func named(nodes []*node, name string) *node {
	for _, n := range nodes {
		if n.opt.Name == name {
			return n
		}
	}
	return nil
}
