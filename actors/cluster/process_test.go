package cluster

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport/nats"
)

// The tests in this file run nodes as processes: protoactor's remote sets what is the whole process's, and only a
// process can be killed. A node is this test binary again.

const nodeEnv = "KISFLOW_CLUSTER_TEST_NODE"

func TestMain(m *testing.M) {
	if name := os.Getenv(nodeEnv); name != "" {
		if err := runNode(name); err != nil {
			fmt.Println("err", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runNode is a node's process: it takes commands line by line, and answers each with a line.
func runNode(name string) error {
	ctx := context.Background()
	level := slog.LevelInfo
	if os.Getenv("KISFLOW_CLUSTER_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("self", name)
	conn, err := nats.Connect(ctx, nats.ConnectOptions{URL: os.Getenv("KISFLOW_CLUSTER_TEST_NATS"), Log: log})
	if err != nil {
		return err
	}
	defer conn.Close()
	e := &engine{}
	e.answer = func(ctx context.Context, c Call) ([]byte, error) {
		switch c.Method {
		case "slow":
			d, _ := time.ParseDuration(string(c.Body))
			if err := wait(ctx, d); err != nil {
				return nil, err
			}
		case "odd":
			return nil, fmt.Errorf("key %s: %w", c.Key, &Error{Code: "odd", Text: "there is none"})
		case "large":
			n, _ := strconv.Atoi(string(c.Body))
			return make([]byte, n), nil
		case "panic":
			panic("as asked")
		}
		return []byte(name + " " + c.Method + " " + c.Key), nil
	}
	var secure *tls.Config
	if dir := os.Getenv("KISFLOW_CLUSTER_TEST_TLS"); dir != "" {
		if secure, err = testTLS(dir); err != nil {
			return err
		}
	}
	c, err := Join(ctx, nats.NewStreams(conn, nats.StreamsOptions{}), e, Options{
		Name: "test", Node: name, Listen: os.Getenv("KISFLOW_CLUSTER_TEST_LISTEN"), Lease: 2 * time.Second, Standbys: 1, Log: log, TLS: secure,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("ok", c.Self().Address)
	var load *askLoad
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		var out string
		var err error
		switch f[0] {
		case "ask": // group method body [repeatable]
			group, _ := strconv.Atoi(f[1])
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			var marks []Mark
			if len(f) > 4 {
				marks = []Mark{Repeatable}
			}
			var body []byte
			body, err = c.Ask(ctx, Identity{Flow: "f", Step: "s", Key: "k" + f[1], Group: group}, f[2], []byte(f[3]), marks...)
			cancel()
			if out = string(body); len(body) > 100 {
				out = fmt.Sprint(len(body))
			}
		case "call": // node method body
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			var body []byte
			body, err = c.Call(ctx, f[1], f[2], []byte(f[3]))
			cancel()
			out = string(body)
		case "load":
			load = startLoad(c)
		case "loaded":
			out = load.stop()
		case "drain":
			err = c.Drain(ctx, f[1], f[2] == "on")
		case "state":
			groups := map[string]int{}
			for _, g := range c.Table().Groups {
				groups[g.Owner]++
				if g.Next != "" {
					groups["moving"]++
				}
			}
			alive := []string{}
			for _, m := range c.Members() {
				if m.Alive {
					alive = append(alive, m.Node)
				}
			}
			var b []byte
			b, err = json.Marshal(nodeState{groups, alive, c.Self().Incarnation, e.owned()})
			out = string(b)
		case "owners":
			for _, g := range c.Table().Groups {
				out += g.Owner
			}
		case "leave":
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			err = c.Leave(ctx)
			cancel()
		}
		if err != nil {
			var e *Error
			code := "-"
			if errors.As(err, &e) {
				code = e.Code
			}
			fmt.Println("err", code, strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok", out)
	}
	return nil
}

type nodeState struct {
	Groups      map[string]int
	Alive       []string
	Incarnation string
	Owned       int
}

// askLoad asks without a pause.
type askLoad struct {
	quit         chan struct{}
	work         sync.WaitGroup
	done, failed atomic.Int64
	longest      atomic.Int64
	first        atomic.Pointer[string]
}

func startLoad(c *Cluster) *askLoad {
	l := &askLoad{quit: make(chan struct{})}
	for range 4 {
		l.work.Add(1)
		go func() {
			defer l.work.Done()
			for {
				select {
				case <-l.quit:
					return
				default:
				}
				g := rand.IntN(256)
				start := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				_, err := c.Ask(ctx, Identity{Flow: "f", Step: "s", Key: "k", Group: g}, "get", nil, Repeatable)
				cancel()
				if err != nil {
					l.failed.Add(1)
					text := err.Error()
					l.first.CompareAndSwap(nil, &text)
				}
				l.done.Add(1)
				for d := int64(time.Since(start)); ; {
					if was := l.longest.Load(); was >= d || l.longest.CompareAndSwap(was, d) {
						break
					}
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
	}
	return l
}

func (l *askLoad) stop() string {
	close(l.quit)
	l.work.Wait()
	first := ""
	if p := l.first.Load(); p != nil {
		first = *p
	}
	return fmt.Sprintf("%d %d %s %s", l.done.Load(), l.failed.Load(), time.Duration(l.longest.Load()), first)
}

// process is a node's process as the test has it.
type process struct {
	t       *testing.T
	name    string
	address string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     chan string
}

// natsServer starts a server for the nodes.
func natsServer(t *testing.T, dir, listen string) *nats.Server {
	t.Helper()
	s, err := nats.Embed(t.Context(), nats.Options{Dir: dir, Listen: listen, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func spawn(t *testing.T, url, name, listen string, env ...string) (*process, error) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), nodeEnv+"="+name, "KISFLOW_CLUSTER_TEST_NATS="+url, "KISFLOW_CLUSTER_TEST_LISTEN="+listen)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	logPath := filepath.Join(t.TempDir(), name+".log")
	logFile, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = logFile
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, cmd: cmd, in: in, out: make(chan string, 100)}
	go func() {
		defer close(p.out)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.out <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = logFile.Close()
		b, _ := os.ReadFile(logPath)
		if strings.Contains(string(b), "DATA RACE") || strings.Contains(string(b), "panic") {
			t.Errorf("node %s has a race or a panic", name)
		}
		if t.Failed() || os.Getenv("KISFLOW_CLUSTER_TEST_DEBUG") != "" {
			t.Logf("log of node %s:\n%s", name, b)
		}
	})
	p.address, err = p.read(60 * time.Second)
	return p, err
}

func start(t *testing.T, url, name string, env ...string) *process {
	t.Helper()
	p, err := spawn(t, url, name, "127.0.0.1:0", env...)
	if err != nil {
		t.Fatalf("node %s: %v", name, err)
	}
	return p
}

func (p *process) read(within time.Duration) (string, error) {
	select {
	case line, ok := <-p.out:
		if !ok {
			return "", errors.New("it has ended")
		}
		status, text, _ := strings.Cut(line, " ")
		if status == "ok" {
			return text, nil
		}
		return "", errors.New(text)
	case <-time.After(within):
		return "", fmt.Errorf("no answer within %s", within)
	}
}

func (p *process) do(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		return "", err
	}
	return p.read(60 * time.Second)
}

func (p *process) must(format string, args ...any) string {
	p.t.Helper()
	out, err := p.do(format, args...)
	if err != nil {
		p.t.Fatalf("node %s: %s: %v", p.name, fmt.Sprintf(format, args...), err)
	}
	return out
}

func (p *process) state() (s nodeState) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.must("state")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// settled waits until the nodes, and no others, share the groups.
func allSettled(t *testing.T, nodes ...*process) {
	t.Helper()
	eventually(t, "settled", 60*time.Second, func() bool {
		for _, n := range nodes {
			s := n.state()
			if len(s.Alive) != len(nodes) || s.Groups["moving"] > 0 {
				return false
			}
			for _, o := range nodes {
				if low := 256 / len(nodes); s.Groups[o.name] != low && s.Groups[o.name] != low+1 {
					return false
				}
			}
			if s.Owned != s.Groups[n.name] {
				return false
			}
		}
		return true
	})
}

func loaded(t *testing.T, p *process, what string) {
	t.Helper()
	out := strings.SplitN(p.must("loaded"), " ", 4)
	t.Logf("%s: node %s asked %s times, %s failed, the longest took %s", what, p.name, out[0], out[1], out[2])
	if n, _ := strconv.Atoi(out[0]); n < 50 {
		t.Errorf("%s: node %s asked only %d times", what, p.name, n)
	}
	if out[1] != "0" {
		t.Errorf("%s: node %s: %s of %s repeatable calls failed: %s", what, p.name, out[1], out[0], out[3])
	}
}

func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	url := natsServer(t, t.TempDir(), "127.0.0.1:0").URL()
	a, b, c := start(t, url, "a"), start(t, url, "b"), start(t, url, "c")
	allSettled(t, a, b, c)

	// By identity, from any node to any group.
	owners := map[string]bool{}
	for g := 0; g < 256; g += 5 {
		first := a.must("ask %d get x", g)
		if out := b.must("ask %d get x", g); out != first {
			t.Errorf("group %d: %q from a, %q from b", g, first, out)
		}
		owner, rest, _ := strings.Cut(first, " ")
		if owners[owner] = true; rest != fmt.Sprintf("get k%d", g) {
			t.Errorf("group %d: %q", g, first)
		}
	}
	if len(owners) != 3 {
		t.Errorf("owners %v", owners)
	}
	for _, x := range []struct{ command, want string }{
		{"ask 7 odd x", "odd key k7: there is none"},
		{"ask 7 panic x", "internal panic panicked: as asked"},
		{"ask 7 large 5000000", "too_large the answer to large has 5000000 bytes, at most 4194304"},
		{"call x get y", "no_member there is no live node x"},
	} {
		for _, n := range []*process{a, b, c} {
			if x.command == "ask 7 panic x" {
				if owner, _, _ := strings.Cut(n.must("ask 7 get x"), " "); owner == n.name {
					continue // a panic of the process's own call is its own
				}
			}
			if out, err := n.do(x.command); err == nil || err.Error() != x.want {
				t.Errorf("%s from %s: %q, %v, want %s", x.command, n.name, out, err, x.want)
			}
		}
	}
	if out := b.must("ask 7 large 4000000"); out != "4000000" {
		t.Errorf("a large answer: %s", out)
	}
	if out := a.must("call c get y"); out != "c get " {
		t.Errorf("a call by name: %q", out)
	}

	// An owner is killed while it is asked.
	a.must("load")
	b.must("load")
	time.Sleep(300 * time.Millisecond)
	killed := time.Now()
	c.kill()
	eventually(t, "c is dead", 10*time.Second, func() bool { return a.state().Groups["c"] == 0 })
	t.Logf("its groups were others' after %s", time.Since(killed))
	allSettled(t, a, b)
	loaded(t, a, "kill -9")
	loaded(t, b, "kill -9")

	// It comes back under its name at the same address at once, and all is moved while it is asked.
	a.must("load")
	b.must("load")
	var err error
	if c, err = spawn(t, url, "c", c.address); err != nil {
		t.Fatal(err)
	}
	allSettled(t, a, b, c)
	a.must("drain b on")
	eventually(t, "b is empty", 30*time.Second, func() bool { return a.state().Groups["b"] == 0 })
	a.must("drain b off")
	allSettled(t, a, b, c)
	loaded(t, a, "moves")
	loaded(t, b, "moves")

	// A second process of the name is refused while the first one lives.
	if _, err := spawn(t, url, "b", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "node name b is taken: another node b at "+b.address) {
		t.Errorf("a second b: %v", err)
	}

	// A paused node loses its groups, and joins again as another incarnation.
	was := b.state().Incarnation
	a.must("load")
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is dead", 20*time.Second, func() bool { return a.state().Groups["b"] == 0 })
	if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	allSettled(t, a, b, c)
	if now := b.state().Incarnation; now == was {
		t.Errorf("b is still incarnation %s", now)
	}
	loaded(t, a, "pause")

	// One leaves.
	a.must("load")
	c.must("leave")
	loaded(t, a, "leave")
	allSettled(t, a, b)
	for _, n := range []*process{a, b} {
		n.must("leave")
	}
}

// TestServerRestart takes NATS away for longer than a lease: all nodes give up their groups, and all have them again.
func TestServerRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	server := natsServer(t, dir, "127.0.0.1:0")
	url := server.URL()
	a, b, c := start(t, url, "a"), start(t, url, "b"), start(t, url, "c")
	allSettled(t, a, b, c)
	before := a.must("owners")
	a.must("load")
	server.Shutdown()
	for _, n := range []*process{a, b, c} {
		eventually(t, "all groups are given up", 10*time.Second, func() bool { return n.state().Owned == 0 })
	}
	time.Sleep(2 * time.Second)
	up := time.Now()
	natsServer(t, dir, strings.TrimPrefix(url, "nats://"))
	allSettled(t, a, b, c)
	t.Logf("all is as it was %s after the server is there again", time.Since(up))
	loaded(t, a, "no server")
	if after := a.must("owners"); after != before {
		t.Errorf("owners before %s\nand after  %s", before, after)
	}
}

// testTLS reads a node's certificate, and whom it trusts.
func testTLS(dir string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}

// certificates writes a node's certificate by an authority of its own.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, nodeKey := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	node := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(crand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	if der, err = x509.CreateCertificate(crand.Reader, node, ca, &nodeKey.PublicKey, caKey); err != nil {
		t.Fatal(err)
	}
	write("node.pem", "CERTIFICATE", der)
	if der, err = x509.MarshalPKCS8PrivateKey(nodeKey); err != nil {
		t.Fatal(err)
	}
	write("node.key", "PRIVATE KEY", der)
	return dir
}

func TestTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	url := natsServer(t, t.TempDir(), "127.0.0.1:0").URL()
	dir := certificates(t)
	a, b := start(t, url, "a", "KISFLOW_CLUSTER_TEST_TLS="+dir), start(t, url, "b", "KISFLOW_CLUSTER_TEST_TLS="+dir)
	allSettled(t, a, b)
	for g := range 8 {
		if x, y := a.must("ask %d get x", g), b.must("ask %d get x", g); x != y {
			t.Errorf("group %d: %q from a, %q from b", g, x, y)
		}
	}
	// Who has no certificate of the same authority does not get in, and neither reaches nor is reached.
	secure, err := testTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	secure.Certificates = nil
	if conn, err := tls.Dial("tcp", a.address, secure); err == nil { // the server's refusal comes with the first read
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate was let in")
		}
		_ = conn.Close()
	}
	for what, env := range map[string]string{"plain": "", "another authority": certificates(t)} {
		stranger := start(t, url, "c", "KISFLOW_CLUSTER_TEST_TLS="+env)
		if out, err := stranger.do("call a get x"); err == nil {
			t.Errorf("%s: a stranger was answered %q", what, out)
		}
		if out, err := a.do("call c get x"); err == nil {
			t.Errorf("%s: a stranger answered %q", what, out)
		}
		stranger.must("leave")
	}
}

func TestAddressInUse(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	url := natsServer(t, t.TempDir(), "127.0.0.1:0").URL()
	if _, err := spawn(t, url, "a", lis.Addr().String()); err == nil || !strings.Contains(err.Error(), "listen "+lis.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("an address in use: %v", err)
	}
}
