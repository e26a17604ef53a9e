package nats

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/kis"
)

const password = "s3cret-of-the-test"

func startServer(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	o.Host, o.JetStream, o.NoLog, o.NoSigs = "127.0.0.1", true, true, true
	if o.Port == 0 {
		o.Port = -1
	}
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS does not come up")
	}
	return s
}

func find(t *testing.T, l kis.Lookup, keys ...string) ([]kis.Found, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	found := make([]kis.Found, len(keys))
	return found, l.Find(ctx, keys, found)
}

func hostOf(t *testing.T, own *nats.Conn) *connectors.Host {
	t.Helper()
	h := connectors.NewHost(Type(own))
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestFind(t *testing.T) {
	s := startServer(t, server.Options{Username: "u", Password: password})
	t.Setenv("KIS_TEST_NATS", password)
	conn, err := nats.Connect(s.ClientURL(), nats.UserInfo("u", password))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "users"})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"u.ada": `{"name":"Ada"}`, "u.list": "[1]", "u.gone": "{}", "u.Wm_DqyDDnw": `{"name":"Zoë"}`} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Delete(t.Context(), "u.gone"); err != nil {
		t.Fatal(err)
	}
	h := hostOf(t, conn)
	define := func(addrs string, params map[string]string) connectors.Definition {
		return connectors.Definition{Name: "users", Type: "nats", Addrs: addrs, Key: "u.", Params: params}
	}
	for _, test := range []struct {
		name  string
		addrs string
		more  map[string]string
		keys  string
		want  []string
	}{
		{"own", "", nil, "ada,nobody,gone,list,Zoë ß,.,a..b,a.*", []string{`{"name":"Ada"}`, "nothing", "nothing", `fault: the value of key "u.list" is no JSON object`, "nothing", "nothing", "nothing", "nothing"}},
		{"outside", s.ClientURL(), map[string]string{"user": "u", "password": "${ENV:KIS_TEST_NATS}"}, "ada", []string{`{"name":"Ada"}`}},
		{"text", "", map[string]string{"form": "text"}, "list", []string{`{"value":"[1]"}`}},
		{"base64", "", map[string]string{"keys": "base64"}, "Zoë ß,ada", []string{`{"name":"Zoë"}`, "nothing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			params := map[string]string{"bucket": "users"}
			for k, v := range test.more {
				params[k] = v
			}
			d := define(test.addrs, params)
			if err := h.Test(t.Context(), d); err != nil {
				t.Errorf("test: %v", err)
			}
			found, err := find(t, h.Lookup(d), strings.Split(test.keys, ",")...)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range test.want {
				got := "nothing"
				if found[i].Err != nil {
					got = "fault: " + found[i].Err.Error()
				} else if found[i].Row != nil {
					got = found[i].Row.String()
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("key %d: %s, want %s", i, got, want)
				}
			}
		})
	}
	t.Run("no bucket", func(t *testing.T) {
		if _, err := find(t, h.Lookup(define("", map[string]string{"bucket": "uesrs"})), "a"); err == nil || !strings.Contains(err.Error(), `there is no bucket "uesrs"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Setenv("KIS_TEST_NATS", "wrong-"+password)
		d := define(s.ClientURL(), map[string]string{"bucket": "users", "user": "other", "password": "${ENV:KIS_TEST_NATS}"})
		if _, err := find(t, h.Lookup(d), "a"); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the bucket is removed and made again", func(t *testing.T) {
		l := h.Lookup(define("", map[string]string{"bucket": "users"}))
		if err := js.DeleteKeyValue(t.Context(), "users"); err != nil {
			t.Fatal(err)
		}
		if found, err := find(t, l, "ada"); err == nil {
			t.Errorf("without the bucket: %v", found)
		}
		kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "users"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.PutString(t.Context(), "u.ada", `{"name":"New"}`); err != nil {
			t.Fatal(err)
		}
		for give := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			found, err := find(t, l, "ada")
			if err == nil && found[0].Row != nil {
				break
			}
			if time.Now().After(give) {
				t.Fatalf("with the new bucket: %v, %v", found, err)
			}
		}
	})
}

// TestDown: a server that is not there is an error of all keys, and so is none at all.
func TestDown(t *testing.T) {
	s := startServer(t, server.Options{})
	addr := s.ClientURL()
	s.Shutdown()
	s.WaitForShutdown()
	h := hostOf(t, nil)
	l := h.Lookup(connectors.Definition{Name: "users", Type: "nats", Addrs: addr, Params: map[string]string{"bucket": "users"}})
	if _, err := find(t, l, "ada"); err == nil {
		t.Fatal("nobody listens: no error")
	}
	if err := h.Ready(connectors.Definition{Name: "users", Type: "nats", Params: map[string]string{}}, ""); err != nil {
		t.Errorf("a hand-off needs no bucket: %v", err)
	}
	if err := h.Ready(connectors.Definition{Name: "users", Type: "nats"}, kis.UseLookup); err == nil || !strings.Contains(err.Error(), "a look-up through a connector of type nats needs params.bucket") {
		t.Errorf("a look-up without a bucket: %v", err)
	}
	if _, err := find(t, h.Lookup(connectors.Definition{Name: "x", Type: "nats", Params: map[string]string{"bucket": "b"}}), "a"); err == nil || !strings.Contains(err.Error(), "there is no NATS here") {
		t.Errorf("without a NATS of its own: %v", err)
	}
}
