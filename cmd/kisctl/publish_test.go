package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
)

// TestPack checks which messages lines become.
func TestPack(t *testing.T) {
	for _, test := range []struct {
		name string
		p    packing
		in   string
		want []string
		long int
	}{
		{"lines", packing{lines: 2, bytes: 100, max: 100}, "{a}\n{b}\n{c}\n", []string{"{a}\n{b}", "{c}"}, 0},
		{"no last break", packing{lines: 2, bytes: 100, max: 100}, "{a}\n{b}", []string{"{a}\n{b}"}, 0},
		{"one each", packing{lines: 1, bytes: 100, max: 100}, "{a}\n{b}\n", []string{"{a}", "{b}"}, 0},
		{"blank", packing{lines: 9, bytes: 100, max: 100}, "\n  \n{a}\r\n\r\n\t\n {b} \n\n", []string{"{a}\n {b} "}, 0},
		{"nothing", packing{lines: 9, bytes: 100, max: 100}, "", nil, 0},
		{"bytes", packing{lines: 9, bytes: 9, max: 100}, "{aa}\n{bb}\n{cc}\n", []string{"{aa}\n{bb}", "{cc}"}, 0},
		{"bytes, not reached", packing{lines: 9, bytes: 10, max: 100}, "{aa}\n{bb}\n{cccc}\n", []string{"{aa}\n{bb}", "{cccc}"}, 0},
		{"longer than a pack", packing{lines: 9, bytes: 5, max: 100}, "{a}\n{bbbbbb}\n{c}\n", []string{"{a}", "{bbbbbb}", "{c}"}, 0},
		{"longer than a message", packing{lines: 9, bytes: 100, max: 5}, "{a}\n{bbbb}\n{ccc}\r\n{ddddddd}\n", []string{"{a}", "{ccc}"}, 2},
		{"the last is too long", packing{lines: 9, bytes: 100, max: 3}, "{a}\n{bbbb", []string{"{a}"}, 1},
		{"whole", packing{lines: 1, bytes: 1, max: 100, whole: true}, "{\n\n}\n", []string{"{\n\n}\n"}, 0},
		{"whole is too long", packing{lines: 1, bytes: 1, max: 3, whole: true}, "{\n\n}\n", nil, 1},
		{"no objects", packing{lines: 9, bytes: 100, max: 100}, "{a}\n{\"b\":\n{c}\n[\n{d}\n{e\n7\n}\n{f}\n{g}",
			[]string{"{a}", "{\"b\":", "{c}", "[", "{d}", "{e", "7", "}", "{f}\n{g}"}, 0},
	} {
		for _, step := range []int{1, 3, 1000} {
			packs := make(chan pack, 100)
			n, err := test.p.read(t.Context(), &slowReader{[]byte(test.in), step}, packs)
			var got []string
			for pk := range packs {
				got = append(got, string(pk.data))
				if want := strings.Count(string(pk.data), "\n") + 1; pk.events != want && !test.p.whole {
					t.Errorf("%s: %q counts %d events", test.name, pk.data, pk.events)
				}
			}
			if err != nil || !slices.Equal(got, test.want) || n.tooLong != test.long {
				t.Errorf("%s, %d bytes a read: %q and %d too long, %v; want %q and %d", test.name, step, got, n.tooLong, err, test.want, test.long)
			}
		}
	}
}

// slowReader gives a few bytes a read.
type slowReader struct {
	rest []byte
	step int
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:min(r.step, len(r.rest))])
	r.rest = r.rest[n:]
	return n, nil
}

// TestLinger sees that a lone event leaves after the linger, and a full pack at once.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		packs := make(chan pack)
		done := make(chan error)
		go func() {
			_, err := packing{lines: 3, bytes: 100, max: 100, linger: 5 * time.Millisecond}.read(t.Context(), r, packs)
			done <- err
		}()
		for _, step := range []struct {
			in, out string
			after   time.Duration
		}{
			{"{a}\n", "{a}", 5 * time.Millisecond},
			{"{b}\n{c}\n{d}\n", "{b}\n{c}\n{d}", 0},
			{"{e}\n{f", "{e}", 5 * time.Millisecond}, // the half line stays
			{"g}\n", "{fg}", 5 * time.Millisecond},
		} {
			began := time.Now()
			io.WriteString(w, step.in)
			pk := <-packs
			if took := time.Since(began); string(pk.data) != step.out || took != step.after {
				t.Errorf("%q became %q after %s; want %q after %s", step.in, pk.data, took, step.out, step.after)
			}
		}
		w.CloseWithError(errors.New("the pipe burst"))
		if _, more := <-packs; more {
			t.Error("a pack after the end")
		}
		if err := <-done; err == nil || err.Error() != "read input: the pipe burst" {
			t.Errorf("the end is %v", err)
		}
	})
}

// publishTo runs a publication of lines 0..n-1 and returns its output and error.
func publishTo(ctx context.Context, p *publication, in io.Reader) (string, error) {
	var out bytes.Buffer
	p.app = &app{in: in, out: &out, errs: io.Discard, output: "json", timeout: 5 * time.Second}
	p.file = "-"
	if p.packing.lines == 0 {
		p.packing.lines = 10
	}
	p.packing.bytes = 1 << 16
	p.packing.linger = time.Millisecond
	if p.window == 0 {
		p.window = 64
	}
	if p.giveUp == 0 {
		p.giveUp = 20 * time.Second
	}
	err := p.run(ctx)
	return out.String(), err
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"n":%d}`+"\n", i)
	}
	return b.String()
}

// cutter is a TCP proxy that breaks each connection after some bytes from the client, at most cuts times.
type cutter struct {
	l      net.Listener
	target string
	wait   sync.WaitGroup

	mu   sync.Mutex
	rand *rand.Rand
	cuts int
}

func newCutter(t *testing.T, target string, seed uint64, cuts int) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, target: target, rand: rand.New(rand.NewPCG(seed, 0)), cuts: cuts}
	c.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wait.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); c.wait.Wait() })
	return c
}

func (c *cutter) pass(client net.Conn) {
	defer client.Close()
	up, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer up.Close()
	var answers sync.WaitGroup
	answers.Go(func() { io.Copy(client, up); client.Close() })
	defer answers.Wait()
	defer up.Close()
	c.mu.Lock()
	left := int64(1) << 60
	if c.cuts > 0 {
		c.cuts--
		left = 600 + c.rand.Int64N(20_000) // the first bytes are for saying hello
	}
	c.mu.Unlock()
	io.CopyN(up, client, left)
}

// TestPublishThroughBreaks breaks the connection again and again in the middle of messages. The stream must hold
// every line once and in order.
func TestPublishThroughBreaks(t *testing.T) {
	s := runServer(t, t.TempDir(), -1)
	nc, js := dialStream(t, s.ClientURL())
	defer nc.Close()
	const n = 5000
	for seed := range uint64(4) {
		name := fmt.Sprintf("S%d", seed)
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
		c := newCutter(t, strings.TrimPrefix(s.ClientURL(), "nats://"), seed, 6)
		p := &publication{subject: name, nats: "nats://" + c.l.Addr().String()}
		out, err := publishTo(t.Context(), p, strings.NewReader(lines(n)))
		if err != nil {
			// The first connection may be cut while it asks for the stream: then nothing was published.
			t.Fatalf("seed %d: %v\n%s", seed, err, out)
		}
		if c.cuts > 0 {
			t.Errorf("seed %d: %d breaks did not happen", seed, c.cuts)
		}
		if p.sum.Events != n || p.sum.Failed != 0 {
			t.Errorf("seed %d: %+v", seed, p.sum)
		}
		var got strings.Builder
		for _, m := range streamMessages(t, js, name) {
			got.Write(m.Data)
			got.WriteByte('\n')
		}
		if got.String() != lines(n) {
			t.Errorf("seed %d: the stream does not hold the lines once and in order", seed)
		}
	}
}

// TestPublishThroughRestart stops the server in the middle and starts it again later on the same port.
func TestPublishThroughRestart(t *testing.T) {
	dir := t.TempDir()
	s := runServer(t, dir, -1)
	url := s.ClientURL()
	port := s.Addr().(*net.TCPAddr).Port
	nc, js := dialStream(t, url)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	in, w := io.Pipe()
	const n = 3000
	all := lines(n)
	half := strings.Index(all, fmt.Sprintf(`{"n":%d}`, n/2))
	go func() {
		io.WriteString(w, all[:half])
		s.Shutdown()
		s.WaitForShutdown()
		io.WriteString(w, all[half:half+200]) // taken while there is no server
		s2 := runServer(t, dir, port)
		_ = s2
		io.WriteString(w, all[half+200:])
		w.Close()
	}()
	p := &publication{subject: "s", nats: url}
	out, err := publishTo(t.Context(), p, in)
	if err != nil || p.sum.Events != n {
		t.Fatalf("%v\n%s", err, out)
	}
	nc, js = dialStream(t, url)
	defer nc.Close()
	var got strings.Builder
	for _, m := range streamMessages(t, js, "S") {
		got.Write(m.Data)
		got.WriteByte('\n')
	}
	if got.String() != all {
		t.Error("the stream does not hold the lines once and in order")
	}
}

// TestPublishRefused publishes what the stream does not take.
func TestPublishRefused(t *testing.T) {
	s := runServer(t, t.TempDir(), -1)
	nc, js := dialStream(t, s.ClientURL())
	defer nc.Close()
	for _, test := range []struct {
		name   string
		config jetstream.StreamConfig
		in     string
		err    string
	}{
		{"full", jetstream.StreamConfig{MaxMsgs: 2, Discard: jetstream.DiscardNew}, lines(50),
			"20 events acknowledged, 30 not: nothing was acknowledged for 500ms: maximum messages exceeded (10077)"},
		{"too long", jetstream.StreamConfig{MaxMsgSize: 612}, `{"a":1}` + "\n" + strings.Repeat("x", 101) + "\n{}\n",
			"2 events acknowledged, 1 not: line 2 and 1 line in all are longer than the 100 bytes that a message may have"},
		{"sealed", jetstream.StreamConfig{Sealed: true}, lines(15), "0 events acknowledged, 15 not: "},
		{"old", jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew, Duplicates: 200 * time.Millisecond}, lines(20),
			"10 events acknowledged, 10 not: the stream's duplicate window of 200ms is over, so sending again could store twice: maximum messages exceeded (10077)"},
	} {
		name := strings.ReplaceAll(test.name, " ", "-")
		test.config.Name, test.config.Subjects = name, []string{name}
		sealed := test.config.Sealed
		test.config.Sealed = false
		if _, err := js.CreateStream(t.Context(), test.config); err != nil {
			t.Fatal(err)
		}
		if sealed {
			test.config.Sealed = true
			if _, err := js.UpdateStream(t.Context(), test.config); err != nil {
				t.Fatal(err)
			}
		}
		p := &publication{subject: name, nats: s.ClientURL(), giveUp: 500 * time.Millisecond}
		_, err := publishTo(t.Context(), p, strings.NewReader(test.in))
		if err == nil || !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%s: %v, want %s", test.name, err, test.err)
		}
		if exitCode(err) != exitError {
			t.Errorf("%s: exit code %d", test.name, exitCode(err))
		}
	}
}

// TestPublishInterrupted interrupts a publication whose input has no end: what was read is acknowledged.
func TestPublishInterrupted(t *testing.T) {
	s := runServer(t, t.TempDir(), -1)
	nc, js := dialStream(t, s.ClientURL())
	defer nc.Close()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	in, w := io.Pipe()
	defer w.Close()
	go func() {
		io.WriteString(w, lines(100))
		for {
			if stream, err := js.Stream(t.Context(), "S"); err != nil || stream.CachedInfo().State.Msgs > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		interrupt()
	}()
	p := &publication{subject: "s", nats: s.ClientURL()}
	_, err := publishTo(ctx, p, in)
	if err == nil || !strings.HasSuffix(err.Error(), ": interrupted") {
		t.Errorf("the error is %v", err)
	}
	messages := streamMessages(t, js, "S")
	if p.sum.Events == 0 || p.sum.Messages != len(messages) {
		t.Errorf("%d messages are said to be stored, %d are", p.sum.Messages, len(messages))
	}
}

// TestLoopback decides where publish goes.
func TestNATSURL(t *testing.T) {
	for address, want := range map[string]bool{
		"nats://127.0.0.1:4222": true, "http://localhost:7070": true, "nats://[::1]:4222": true,
		"nats://10.0.0.1:4222": false, "http://kis.example.com": false, "http://127.0.0.1.example.com": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("isLoopback(%s) = %v", address, got)
		}
	}
	for in, want := range map[string]string{
		"nats://a:4222":                       "nats://a:4222",
		"nats://ada:secret@a:4222":            "nats://ada:xxxxx@a:4222",
		"nats://secret@a:4222, nats://b:4222": "nats://xxxxx@a:4222, nats://b:4222",
		"nats://ada:secret@%zz":               "(an address that cannot be read)",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%s) = %s, want %s", in, got, want)
		}
	}
}

// TestWidth holds how wide a terminal draws text, and what it must not be given.
func TestWidth(t *testing.T) {
	for text, want := range map[string]int{"": 0, "abc": 3, "用户": 4, "ｱ": 1, "Ａ": 2, "é": 1, "e\u0301": 1, "한글": 4, "😀": 2, "a\u200db": 2, "ünï": 3} {
		if got := width(text); got != want {
			t.Errorf("width(%q) = %d, want %d", text, got, want)
		}
	}
	for in, want := range map[string]string{
		"plain 用户": "plain 用户", "a\tb\n": `a\tb\n`, "\x1b[31mred": `\x1b[31mred`, "\xff": `\xff`, "\u202eabc": `\u{202e}abc`, "\u0085": `\u{85}`, "e\u0301": "e\u0301",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"short": "short", "longer than that": "longer th…", "用户用户用户": "用户用户…"} {
		if got := cut(in, 10); got != want || width(got) > 10 {
			t.Errorf("cut(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestFieldsOf writes keys as people type them.
func TestFieldsOf(t *testing.T) {
	for in, want := range map[string]string{
		`{"userid":7}`: "userid=7", `{"a":"x","b":true}`: "a=x b=true", `{"a":"7"}`: `a="7"`, `{"a":"x y"}`: `a="x y"`,
		`{"a":""}`: `a=""`, `{"a":"用户"}`: "a=用户", `{"a":"x\ny"}`: `a="x\ny"`, `[1]`: "[1]", `{}`: "", `{"a":9007199254740993}`: "a=9007199254740993",
	} {
		if got := fieldsOf([]byte(in)); got != want {
			t.Errorf("fieldsOf(%s) = %s, want %s", in, got, want)
		}
	}
}

// TestReadFiles stops at what is too much.
func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.yaml"), make([]byte, api.MaxBody+1), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{}
	if _, err := a.readFiles([]string{dir}); err == nil || !strings.Contains(err.Error(), "the files have more than 32.0 MiB") {
		t.Errorf("a file that is too large: %v", err)
	}
}
