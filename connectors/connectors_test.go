package connectors

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// double is a type whose connectors count what happens to them.
type double struct {
	opened, closed atomic.Int32
	down           atomic.Bool
	spec           kis.ConnectorSpec
}

func (*double) Name() string { return "Double" }

func (*double) Schema() kis.ConnectorSchema {
	return kis.ConnectorSchema{Addrs: kis.Setting{Required: true, Doc: "where"}, Has: []kis.Setting{
		{Name: "mode", Words: []string{"json", "hash"}, Default: "json"}, {Name: "password", Secret: true}, {Name: "db", Kind: kis.SettingNumber},
		{Name: "wait", Kind: kis.SettingDuration}, {Name: "tls", Kind: kis.SettingBool}}}
}

func (d *double) Open(spec kis.ConnectorSpec) (kis.Connector, error) {
	d.opened.Add(1)
	d.spec = spec
	return &doubleConn{d}, nil
}

type doubleConn struct{ *double }

func (c *doubleConn) Most() int { return 2 }

func (c *doubleConn) Find(_ context.Context, keys []string, found []kis.Found) error {
	if c.down.Load() {
		return errors.New("cannot log in with " + c.spec.Settings.Text("password"))
	}
	found[0].Err = kis.Retry(errors.New("not with " + c.spec.Settings.Text("password")))
	return nil
}

func (c *doubleConn) Check(context.Context) error {
	return errors.New("refused " + c.spec.Settings.Text("password"))
}

func (c *doubleConn) Close() error {
	c.closed.Add(1)
	return nil
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name   string
		addrs  string
		params map[string]string
		want   string
	}{
		{"good", "h:1", map[string]string{"mode": "hash", "password": "${ENV:X}", "db": "1", "wait": "1d", "tls": "true"}, ""},
		{"no address", "", nil, "a connector of type double needs addrs; addrs: where"},
		{"misspelt", "h", map[string]string{"pasword": "${ENV:X}"}, `a connector of type double has no parameter "pasword"; did you mean "password"?`},
		{"swapped", "h", map[string]string{"moed": "json"}, `did you mean "mode"?`},
		{"unknown", "h", map[string]string{"args1": "x"}, `has no parameter "args1"; known: mode, password, db, wait, tls`},
		{"word", "h", map[string]string{"mode": "hassh"}, `mode is "hassh"; it must be one of json, hash; did you mean "hash"?`},
		{"open secret", "h", map[string]string{"password": "x"}, "password is a secret and stands here in the open"},
		{"open secret in a URL", "http://u:p@h/,http://h", nil, "addrs holds a password"},
		{"secret in a URL", "http://u:${ENV:P}@h/", nil, ""},
		{"number", "h", map[string]string{"db": "-1"}, "db is \"-1\"; it must be a whole number of at least 0"},
		{"duration", "h", map[string]string{"wait": "soon"}, "wait is no duration"},
		{"truth", "h", map[string]string{"tls": "yes"}, "tls is \"yes\"; it must be true or false"},
		{"reference", "h", map[string]string{"password": "${PW}"}, "password: ${PW} is neither ${ENV:NAME} nor ${file:PATH}"},
		{"open reference", "${ENV:X", nil, "addrs: a ${ is not closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			faults := Check(Definition{Name: "c", Type: "double", Addrs: test.addrs, Params: test.params}, new(double).Schema(), "")
			got := ""
			for _, f := range faults {
				got += f.Error()
			}
			if !strings.Contains(got, test.want) || (test.want == "") != (got == "") || len(faults) > 1 {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(path, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KIS_TEST_PW", "from the environment")
	var known secrets
	for text, want := range map[string]string{"a": "a", "${ENV:KIS_TEST_PW}": "from the environment", "x${file:" + path + "}y${ENV:KIS_TEST_PW}": "xfrom a fileyfrom the environment"} {
		if got, err := known.resolve(text); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"${ENV:KIS_TEST_NONE}": "no variable KIS_TEST_NONE", "${file:" + path + ".none}": "no such file", "${env:X}": "neither"} {
		if _, err := known.resolve(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestHost: what a host returns holds no secret, and asks for what it asked for before.
func TestHost(t *testing.T) {
	t.Setenv("KIS_TEST_PW", "hunter2")
	d := &double{}
	h := NewHost(d)
	def := Definition{Name: "c", Type: "DOUBLE", Addrs: "a, b", Params: map[string]string{"password": "${ENV:KIS_TEST_PW}"}}
	l := h.Lookup(def)
	if d.opened.Load() != 0 {
		t.Error("it was opened before it was needed")
	}
	found := make([]kis.Found, 2)
	if err := l.Find(t.Context(), []string{"a", "b"}, found); err != nil {
		t.Fatal(err)
	}
	if err := found[0].Err; err.Error() != "not with redacted" || kis.VerdictOf(err) != kis.VerdictRetry {
		t.Errorf("fault %v, verdict %d", err, kis.VerdictOf(err))
	}
	if err := h.Test(t.Context(), def); err == nil || err.Error() != "refused redacted" {
		t.Errorf("test: %v", err)
	}
	d.down.Store(true)
	if err := l.Find(t.Context(), []string{"a"}, found[:1]); err == nil || err.Error() != "cannot log in with redacted" {
		t.Errorf("find: %v", err)
	}
	if d.opened.Load() != 1 || strings.Join(d.spec.Addrs, "|") != "a|b" || d.spec.Settings.Text("mode") != "json" {
		t.Errorf("opened %d times, with %+v", d.opened.Load(), d.spec)
	}
	if err := h.Ready(Definition{Type: "none"}, ""); err == nil {
		t.Error("an unknown type is ready")
	}
	if err := h.Close(); err != nil || d.closed.Load() != 1 {
		t.Errorf("closed %d times: %v", d.closed.Load(), err)
	}
	if err := l.Find(t.Context(), []string{"a"}, found[:1]); err == nil {
		t.Error("it answers after the host was closed")
	}
	if d.opened.Load() != 1 {
		t.Error("it was opened after the host was closed")
	}
}

// TestIdle closes what nobody uses, and opens it again.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &double{}
		h := NewHost(d)
		defer h.Close()
		found := make([]kis.Found, 1)
		one, other := h.Lookup(Definition{Type: "double", Addrs: "a"}), h.Lookup(Definition{Type: "double", Addrs: "b"})
		ask := func(l kis.Lookup) {
			t.Helper()
			if err := l.Find(t.Context(), []string{"k"}, found); err != nil {
				t.Fatal(err)
			}
		}
		ask(one)
		ask(other)
		for range 3 {
			time.Sleep(idleAfter / 2)
			ask(one)
		}
		if d.opened.Load() != 2 || d.closed.Load() != 1 {
			t.Errorf("opened %d and closed %d, want 2 and 1", d.opened.Load(), d.closed.Load())
		}
		ask(other)
		if d.opened.Load() != 3 {
			t.Errorf("opened %d, want 3", d.opened.Load())
		}
	})
}

// TestRest: a place that does not answer is asked less and less, and at once when it does again.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var down atomic.Bool
		down.Store(true)
		h := NewHost(kis.NewLookup("go", func(_ context.Context, keys []string) ([]*kis.Row, error) {
			asked.Add(1)
			if down.Load() {
				return nil, errors.New("down")
			}
			return make([]*kis.Row, len(keys)), nil
		}))
		defer h.Close()
		l := h.Lookup(Definition{Type: "go"})
		var group sync.WaitGroup
		for range 8 { // partitions
			group.Go(func() {
				for range 6000 {
					if err := l.Find(t.Context(), []string{"k"}, make([]kis.Found, 1)); err != nil && err.Error() != "down" {
						t.Error(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		group.Wait()
		if n := asked.Load(); n < 12 || n > 300 { // within a minute
			t.Errorf("asked %d times", n)
		}
		down.Store(false)
		time.Sleep(maxRest)
		for range 10 {
			if err := l.Find(t.Context(), []string{"k"}, make([]kis.Found, 1)); err != nil {
				t.Error(err)
			}
		}
	})
}
