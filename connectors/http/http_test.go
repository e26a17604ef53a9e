package http

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

func open(t *testing.T, address string, settings kis.Settings) kis.Lookup {
	t.Helper()
	s := kis.Settings{"parallel": "16"}
	for k, v := range settings {
		s[k] = v
	}
	c, err := Type().Open(kis.ConnectorSpec{Addrs: []string{address}, Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c.(kis.Lookup)
}

func find(t *testing.T, l kis.Lookup, keys ...string) ([]kis.Found, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	found := make([]kis.Found, len(keys))
	return found, l.Find(ctx, keys, found)
}

// users answers by the key.
func users(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.URL.Path, "/u/")
		if r.URL.Query().Has("key") {
			key = r.URL.Query().Get("key")
		}
		switch key {
		case "none":
			http.NotFound(w, r)
		case "busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "bad":
			w.WriteHeader(http.StatusBadRequest)
		case "out":
			w.WriteHeader(http.StatusForbidden)
		case "slow":
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		case "list":
			fmt.Fprint(w, "[]")
		case "large":
			fmt.Fprint(w, `{"x":"`+strings.Repeat("x", 2<<20)+`"}`)
		default:
			fmt.Fprintf(w, `{"key":%q,"authorization":%q}`, key, r.Header.Get("Authorization"))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestFind(t *testing.T) {
	s := users(t)
	for _, address := range []string{s.URL + "/u/{key}", s.URL + "/q?key={key}&x=1"} {
		l := open(t, address, kis.Settings{"authorization": "Bearer t"})
		found, err := find(t, l, "ada", "Zoë ß/用户?&#%", "none", "busy", "bad", "slow", "list", "large", "..")
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{`{"key":"ada","authorization":"Bearer t"}`, `{"key":"Zoë ß/用户?&#%","authorization":"Bearer t"}`, "nothing",
			`retry: key "busy": status 503`, `fault: key "bad": status 400`, "retry: context deadline exceeded", `fault: key "list": the answer is no JSON object`,
			`fault: key "large": the answer has more than 1024 KiB`, `fault: key ".." cannot stand in a URL`} {
			got := "nothing"
			switch f := found[i]; {
			case f.Err != nil && kis.VerdictOf(f.Err) == kis.VerdictRetry:
				got = "retry: " + f.Err.Error()
			case f.Err != nil:
				got = "fault: " + f.Err.Error()
			case f.Row != nil:
				got = f.Row.String()
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s: key %d: %s, want %s", address, i, got, want)
			}
		}
	}
}

// TestDown: where no key is answered, or nobody is let in, it is the site that is at fault.
func TestDown(t *testing.T) {
	s := users(t)
	l := open(t, s.URL+"/u/{key}", nil)
	for keys, want := range map[string]string{"busy": "503", "slow": "deadline exceeded", "busy slow": "503", "ada out": "status 403"} {
		if _, err := find(t, l, strings.Fields(keys)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", keys, err, want)
		}
	}
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	s.Close()
	if _, err := find(t, l, "ada", "bob"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("of a server that is gone: %v", err)
	}
	if err := l.Check(t.Context()); err == nil {
		t.Error("check of a server that is gone: no error")
	}
}

func TestOpen(t *testing.T) {
	for address, want := range map[string]string{
		"ftp://h/{key}": "no URL of HTTP", "http://h/users": "addrs has no {key}", "http://{key}.h/": "in the host's name", "http://h/%zz{key}": "addrs is no URL", "/x/{key}": "no URL of HTTP"} {
		if _, err := Type().Open(kis.ConnectorSpec{Addrs: []string{address}, Settings: kis.Settings{"parallel": "1"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
	if _, err := Type().Open(kis.ConnectorSpec{Addrs: []string{"http://h/{key}"}, Settings: kis.Settings{"parallel": "0"}}); err == nil {
		t.Error("parallel 0: no error")
	}
}
