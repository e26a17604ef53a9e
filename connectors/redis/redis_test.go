//go:build unix

package redis

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/kis"
)

const password = "s3cret-of-the-test"

// server is a Redis of the test's own.
type server struct {
	addr string
	cmd  *exec.Cmd
	dir  string
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startServer starts a Redis on a free port; without a program the test is skipped.
func startServer(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("there is no redis-server on this machine; internal/tools/servers.sh installs it")
	}
	s := &server{addr: freePort(t), dir: t.TempDir()}
	s.start(t)
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no",
		"--requirepass", password, "--daemonize", "no")
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := s.client()
	defer c.Close()
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.Ping(context.Background()).Err()
		if err == nil {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("redis-server does not come up: %v", err)
		}
	}
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.addr, Password: password})
}

// hostOf opens a definition as a node does.
func hostOf(t *testing.T) *connectors.Host {
	t.Helper()
	h := connectors.NewHost(Type())
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func find(t *testing.T, l kis.Lookup, keys ...string) ([]kis.Found, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	found := make([]kis.Found, len(keys))
	err := l.Find(ctx, keys, found)
	return found, err
}

func text(f kis.Found) string {
	switch {
	case f.Err != nil:
		return "fault: " + f.Err.Error()
	case f.Row == nil:
		return "nothing"
	}
	return f.Row.String()
}

func TestFind(t *testing.T) {
	s := startServer(t)
	t.Setenv("KIS_TEST_REDIS", password)
	c := s.client()
	defer c.Close()
	ctx := t.Context()
	for key, value := range map[string]string{"u:ada": `{"name":"Ada","age":36}`, "u:Zoë ß 用户": `{"name":"Zoë"}`, "u:list": "[1]", "u:broken": `{"name":`, "u:text": "plain\xff"} {
		if err := c.Set(ctx, key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.HSet(ctx, "u:hash", "name", "Hash", "age", "7").Err(); err != nil {
		t.Fatal(err)
	}
	h := hostOf(t)
	for _, test := range []struct {
		mode string
		want []string // of ada, Zoë, list, broken, hash, nobody
	}{
		{"json", []string{`{"name":"Ada","age":36}`, `{"name":"Zoë"}`, "fault: the value of key \"u:list\" is no JSON object", "fault: the value of key \"u:broken\" is no JSON object", "fault: key \"u:hash\" holds another type of value than params.mode json reads", "nothing"}},
		{"get", []string{`{"value":"{\"name\":\"Ada\",\"age\":36}"}`, `{"value":"{\"name\":\"Zoë\"}"}`, `{"value":"[1]"}`, `{"value":"{\"name\":"}`, "fault: key \"u:hash\" holds", "nothing"}},
		{"hash", []string{"fault: key \"u:ada\" holds another type", "fault: ", "fault: ", "fault: ", `{"age":"7","name":"Hash"}`, "nothing"}},
	} {
		t.Run(test.mode, func(t *testing.T) {
			l := h.Lookup(connectors.Definition{Name: "users", Type: "redis", Addrs: s.addr, Key: "u:", Params: map[string]string{"mode": test.mode, "password": "${ENV:KIS_TEST_REDIS}"}})
			found, err := find(t, l, "ada", "Zoë ß 用户", "list", "broken", "hash", "nobody")
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range test.want {
				if got := text(found[i]); !strings.HasPrefix(got, want) || !strings.HasPrefix(want, "fault") && got != want {
					t.Errorf("key %d: %s, want %s", i, got, want)
				}
			}
		})
	}
	keys := make([]string, mostKeys)
	for i := range keys {
		keys[i] = fmt.Sprint(i)
		c.Set(ctx, "n:"+keys[i], fmt.Sprintf(`{"n":%d}`, i), 0)
	}
	l := h.Lookup(connectors.Definition{Name: "n", Type: "redis", Addrs: s.addr, Key: "n:", Params: map[string]string{"password": "${ENV:KIS_TEST_REDIS}"}})
	found, err := find(t, l, keys...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		if got := text(found[i]); got != fmt.Sprintf(`{"n":%d}`, i) {
			t.Fatalf("key %d: %s", i, got)
		}
	}
}

// TestFaults: whatever keeps the whole store from answering is the error of all keys, and never shows the password.
func TestFaults(t *testing.T) {
	s := startServer(t)
	t.Setenv("KIS_TEST_REDIS", password)
	t.Setenv("KIS_TEST_WRONG", "wrong-"+password)
	h := hostOf(t)
	define := func(addr, secret string) connectors.Definition {
		return connectors.Definition{Name: "users", Type: "redis", Addrs: addr, Params: map[string]string{"password": secret}}
	}
	for _, test := range []struct {
		name, addr, secret, want string
	}{
		{"wrong password", s.addr, "${ENV:KIS_TEST_WRONG}", "WRONGPASS"},
		{"no password", s.addr, "", "NOAUTH"},
		{"nobody listens", freePort(t), "${ENV:KIS_TEST_REDIS}", "connection refused"},
		{"no variable", s.addr, "${ENV:KIS_TEST_NONE}", "the environment has no variable KIS_TEST_NONE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := define(test.addr, test.secret)
			_, err := find(t, h.Lookup(d), "a", "b")
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), password) {
				t.Errorf("find: %v, want %s", err, test.want)
			}
			if err := h.Test(t.Context(), d); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), password) {
				t.Errorf("test: %v, want %s", err, test.want)
			}
		})
	}
	d := define(s.addr, "${ENV:KIS_TEST_REDIS}")
	if err := h.Test(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	l := h.Lookup(d)

	// It does not answer: the time of a request is kept.
	if err := s.cmd.Process.Signal(stopped); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := find(t, l, "a")
	if took := time.Since(start); err == nil || took > 3*time.Second {
		t.Errorf("of a store that hangs: %v after %s", err, took)
	}
	if err := s.cmd.Process.Signal(goesOn); err != nil {
		t.Fatal(err)
	}
	wait(t, l, "it goes on")

	// It dies, and comes back.
	s.stop()
	if _, err := find(t, l, "a"); err == nil {
		t.Error("of a store that is dead: no error")
	}
	s.start(t)
	wait(t, l, "it is back")
}

// wait waits until the store answers again.
func wait(t *testing.T, l kis.Lookup, when string) {
	t.Helper()
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := find(t, l, "a")
		if err == nil {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("%s: %v", when, err)
		}
	}
}

func TestOpen(t *testing.T) {
	for _, test := range []struct {
		spec kis.ConnectorSpec
		want string
	}{
		{kis.ConnectorSpec{Addrs: []string{"redis://u@h:1"}}, "addrs holds a URL; write HOST:PORT"},
		{kis.ConnectorSpec{Addrs: []string{"a:1", "b:2"}, Settings: kis.Settings{"db": "1"}}, "a cluster has no databases but 0"},
	} {
		if _, err := Type().Open(test.spec); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %s", test.spec, err, test.want)
		}
	}
}
