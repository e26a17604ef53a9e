package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/api/apitest"
)

var rewrite = flag.Bool("rewrite", false, "write golden files and references anew")

// start serves a backend and returns its client and address.
func start(t *testing.T, b api.Backend, opt api.Options) (*api.Client, string) {
	t.Helper()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := httptest.NewServer(api.NewServer(b, opt))
	t.Cleanup(s.Close)
	c, err := api.NewClient(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, s.URL
}

// request sends one request and returns its answer.
func request(t *testing.T, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestRoutes(t *testing.T) {
	permissions := []api.Permission{api.PermitRead, api.PermitPublish, api.PermitOperate, api.PermitDefine}
	seen := map[string]bool{}
	for _, r := range api.Routes() {
		name := r.Method + " " + r.Path
		if seen[name] {
			t.Errorf("%s stands twice", name)
		}
		seen[name] = true
		if !slices.Contains(permissions, r.Permission) {
			t.Errorf("%s has permission %q", name, r.Permission)
		}
		if reads := r.Method == "GET" || r.Path == "/api/v1/plan"; reads != (r.Permission == api.PermitRead) {
			t.Errorf("%s has permission %s", name, r.Permission)
		}
		if !strings.HasPrefix(r.Path, "/api/v1/") || r.Timeout <= 0 || r.Doc == "" || r.Answer == "" {
			t.Errorf("%s is not complete: %+v", name, r)
		}
	}
	// Every method of Backend has a way in.
	if got, want := len(seen), reflect.TypeFor[api.Backend]().NumMethod()+6; got != want { // SetFlow has five, Publish and DrainNode two
		t.Errorf("%d routes, want %d", got, want)
	}
}

// TestAuthorize asks every route for its permission, and sees that a refusal keeps the backend out.
func TestAuthorize(t *testing.T) {
	var asked api.Permission
	b := apitest.New()
	b.Fail(func(_ context.Context, method string) error { t.Errorf("%s was called", method); return nil })
	_, url := start(t, b, api.Options{Authorize: func(_ *http.Request, p api.Permission) error {
		asked = p
		return errors.New("you may not")
	}})
	for _, r := range api.Routes() {
		asked = ""
		path := strings.NewReplacer("{flow}", "OrderTotals", "{step}", "totals", "{id}", "x", "{revision}", "1", "{connector}", "c").Replace(r.Path)
		status, _, body := request(t, r.Method, url+path, "{}", "Content-Type", "application/json")
		if status != http.StatusForbidden || asked != r.Permission || !strings.Contains(body, `"code":"forbidden","message":"you may not"`) {
			t.Errorf("%s %s: %d, asked for %q: %s", r.Method, path, status, asked, body)
		}
	}
}

// TestShapes holds the JSON of every answer.
func TestShapes(t *testing.T) {
	_, url := start(t, apitest.New(), api.Options{})
	var out bytes.Buffer
	for _, r := range []struct{ method, path, body string }{
		{"GET", "status", ""},
		{"GET", "doctor", ""},
		{"GET", "flows", ""},
		{"GET", "flows?limit=1", ""},
		{"GET", "functions?limit=2", ""},
		{"GET", "connectors", ""},
		{"POST", "connectors/%E6%B5%8B%E8%AF%95KisConnector_1/test", ""},
		{"GET", "flows/OrderTotals", ""},
		{"GET", "flows/%E7%94%A8%E6%88%B7%E8%AE%A2%E5%8D%95", ""},
		{"GET", "lag", ""},
		{"GET", "lag?flow=OrderTotals", ""},
		{"GET", "flows/OrderTotals/steps/totals/state?key=userid=1", ""},
		{"GET", "flows/OrderTotals/steps/totals/state?key=userid=99", ""},
		{"GET", "flows/OrderTotals/steps/totals/states?prefix=userid%3D&limit=2", ""},
		{"GET", "flows/OrderTotals/steps/totals/states?prefix=nobody", ""},
		{"GET", "flows/OrderTotals/deadletters", ""},
		{"GET", "flows/OrderTotals/deadletters/0-VerifyOrder-3", ""},
		{"POST", "flows/OrderTotals/deadletters/retry", `{"ids":["0-VerifyOrder-1","gone"]}`},
		{"POST", "flows/OrderTotals/deadletters/drop", `{"ids":["0-VerifyOrder-2"]}`},
		{"POST", "plan", `{"files":[{"name":"a.yaml","text":"flow_name: A\nmistake: 1\n"}]}`},
		{"POST", "apply", `{"files":[{"name":"a.yaml","text":"flow_name: A\nmistake: 1\n"}]}`},
		{"POST", "apply", `{"files":[{"name":"a.yaml","text":"flow_name: A\n"}]}`},
		{"POST", "apply", `{"files":[{"name":"a.yaml","text":"flow_name: A\n# drop totals\n"}]}`},
		{"POST", "plan", `{"files":[{"name":"a.yaml","text":"flow_name: A\n# drop totals\n"}]}`},
		{"POST", "apply", `{"files":[{"name":"a.yaml","text":"flow_name: A\n# drop totals\n"}],"drop_state":["A/totals"],"by":"ada","note":"try"}`},
		{"GET", "flows/OrderTotals/revisions?limit=2", ""},
		{"GET", "flows/OrderTotals/revisions/0", ""},
		{"GET", "flows/OrderTotals/revisions/9", ""},
		{"GET", "flows/OrderTotals/revisions/x", ""},
		{"POST", "shadow", `{"files":[{"name":"b.yaml","text":"flow_name: A\n# new\n"}],"by":"ada"}`},
		{"POST", "shadow", `{"files":[{"name":"b.yaml","text":"flow_name: A\n# new\n"}]}`},
		{"GET", "flows/A/shadow", ""},
		{"GET", "flows/A/shadow/diff?limit=1", ""},
		{"POST", "flows/A/shadow/promote", `{"by":"ada"}`},
		{"POST", "flows/A/shadow/discard", ""},
		{"POST", "flows/A/pause", ""},
		{"POST", "flows/A/resume", ""},
		{"DELETE", "flows/A", ""},
		{"POST", "publish", `{"subject":"orders.eu","messages":[{"id":"1","data":"{\"userid\":1}"},{"data":{"base64":"/w=="}}]}`},
		{"POST", "flows/OrderTotals/events", `{"userid":1}`},
	} {
		status, header, body := request(t, r.method, url+"/api/v1/"+r.path, r.body, "Content-Type", "application/json")
		if got := header.Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("%s: content type %s", r.path, got)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, []byte(body), "", "  "); err != nil {
			t.Errorf("%s: %v: %s", r.path, err, body)
		}
		fmt.Fprintf(&out, "%s %s %s\n%d\n%s\n", r.method, r.path, r.body, status, pretty.String())
	}
	golden(t, filepath.Join("testdata", "shapes.txt"), out.Bytes())
}

// golden compares with a file, or writes it with -rewrite.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what is written there; go test -rewrite, and read the difference. Got:\n%s", file, got)
	}
}

// TestClient calls every method through the wire and compares with the backend's own answer.
func TestClient(t *testing.T) {
	ctx := t.Context()
	near, far := apitest.New(), apitest.New()
	client, _ := start(t, far, api.Options{})
	calls := map[string]func(api.Backend) (any, error){
		"Status":             func(b api.Backend) (any, error) { return b.Status(ctx) },
		"Doctor":             func(b api.Backend) (any, error) { return b.Doctor(ctx) },
		"Cluster":            func(b api.Backend) (any, error) { return b.Cluster(ctx) },
		"ClusterPartitions":  func(b api.Backend) (any, error) { return b.ClusterPartitions(ctx, "OrderTotals", api.Page{Limit: 5}) },
		"DrainNode":          func(b api.Backend) (any, error) { return b.DrainNode(ctx, "b", true) },
		"DrainNode back":     func(b api.Backend) (any, error) { return b.DrainNode(ctx, "b", false) },
		"DrainNode nobody":   func(b api.Backend) (any, error) { return b.DrainNode(ctx, "nobody", false) },
		"Flows":              func(b api.Backend) (any, error) { return b.Flows(ctx, api.Page{Limit: 1, After: "1"}) },
		"Functions":          func(b api.Backend) (any, error) { return b.Functions(ctx, api.Page{Limit: 100}) },
		"Connectors":         func(b api.Backend) (any, error) { return b.Connectors(ctx, api.Page{Limit: 100}) },
		"TestConnector":      func(b api.Backend) (any, error) { return b.TestConnector(ctx, "测试KisConnector_1") },
		"TestConnector none": func(b api.Backend) (any, error) { return b.TestConnector(ctx, "nobody/..") },
		"Graph":              func(b api.Backend) (any, error) { return b.Graph(ctx) },
		"Flow":               func(b api.Backend) (any, error) { return b.Flow(ctx, "用户订单") },
		"Flow none":          func(b api.Backend) (any, error) { return b.Flow(ctx, "a/b c?d#%") },
		"Flow dots":          func(b api.Backend) (any, error) { return b.Flow(ctx, "..") },
		"Lag":                func(b api.Backend) (any, error) { return b.Lag(ctx, "OrderTotals", api.Page{Limit: 5}) },
		"State": func(b api.Backend) (any, error) {
			return b.State(ctx, "OrderTotals", "totals", []string{"userid=2"}, api.Read{})
		},
		"State none": func(b api.Backend) (any, error) {
			return b.State(ctx, "OrderTotals", "totals", []string{"userid=9"}, api.Read{})
		},
		"State wrong": func(b api.Backend) (any, error) {
			return b.State(ctx, "OrderTotals", "totals", []string{"a=b", "c=d&e"}, api.Read{})
		},
		"States": func(b api.Backend) (any, error) {
			return b.States(ctx, "OrderTotals", "totals", "userid=3", api.Page{Limit: 5})
		},
		"DeadLetters": func(b api.Backend) (any, error) {
			return b.DeadLetters(ctx, "OrderTotals", api.DeadLetterFilter{Step: "VerifyOrder", Reason: "above zero"}, api.Page{Limit: 1})
		},
		"DeadLetter": func(b api.Backend) (any, error) { return b.DeadLetter(ctx, "OrderTotals", "0-VerifyOrder-3") },
		"RetryDeadLetters": func(b api.Backend) (any, error) {
			return b.RetryDeadLetters(ctx, "OrderTotals", []string{"0-VerifyOrder-1", "x"})
		},
		"DropDeadLetters": func(b api.Backend) (any, error) {
			return b.DropDeadLetters(ctx, "OrderTotals", []string{"0-VerifyOrder-2"})
		},
		"Plan": func(b api.Backend) (any, error) {
			return b.Plan(ctx, []api.File{{Name: "a", Text: "flow_name: A\nmistake"}})
		},
		"Apply invalid": func(b api.Backend) (any, error) {
			return b.Apply(ctx, []api.File{{Name: "a", Text: "flow_name: A\nmistake"}}, api.Approval{})
		},
		"Apply stale": func(b api.Backend) (any, error) {
			return b.Apply(ctx, []api.File{{Name: "a", Text: "x"}}, api.Approval{Plan: "old"})
		},
		"SetFlow": func(b api.Backend) (any, error) { return b.SetFlow(ctx, "用户订单", api.ActionResume) },
		"SetFlow none": func(b api.Backend) (any, error) {
			return b.SetFlow(ctx, "nobody", api.ActionDelete)
		},
		"Publish": func(b api.Backend) (any, error) {
			return b.Publish(ctx, api.Publication{Flow: "OrderTotals", Messages: []api.PublishMessage{{ID: "a", Data: []byte("\xff{}")}}})
		},
	}
	// One order for both, though any will do: some calls change what others see.
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range calls {
			if !yield(name) {
				return
			}
		}
	})
	for _, name := range names {
		want, wantErr := calls[name](near)
		got, err := calls[name](client)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%s: error %v, want %v", name, err, wantErr)
		}
		var e, wantE *api.Error
		if errors.As(wantErr, &wantE) && (!errors.As(err, &e) || e.Sentinel != wantE.Sentinel || !reflect.DeepEqual(e.Mistakes, wantE.Mistakes)) {
			t.Errorf("%s: error %#v, want %#v", name, err, wantErr)
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if empty := strings.NewReplacer(":null", ":[]"); wantErr == nil && empty.Replace(strings.ReplaceAll(string(g), ":{}", ":[]")) != empty.Replace(string(w)) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, g, w)
		}
	}
	if got, want := far.Published(), near.Published(); !reflect.DeepEqual(got, want) {
		t.Errorf("published %v, want %v", got, want)
	}
}

// TestForeignPages sends what a browser sends for a page of another site.
func TestForeignPages(t *testing.T) {
	_, url := start(t, apitest.New(), api.Options{Hosts: []string{"kis.example.com"}})
	own := strings.TrimPrefix(url, "http://")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		header []string
		status int
	}{
		{nil, 200},
		{[]string{"Host", "localhost:7070"}, 200},
		{[]string{"Host", "LOCALHOST"}, 200},
		{[]string{"Host", "[::1]:7070"}, 200},
		{[]string{"Host", "10.1.2.3:7070"}, 200},
		{[]string{"Host", name + ":7070"}, 200},
		{[]string{"Host", "kis.example.com."}, 200},
		{[]string{"Host", "evil.example.com:7070"}, 403},
		{[]string{"Host", "localhost.evil.example.com"}, 403},
		{[]string{"Host", "127.0.0.1.evil.example.com"}, 403},
		{[]string{"Origin", url}, 200},
		{[]string{"Origin", "http://evil.example.com"}, 403},
		{[]string{"Origin", "http://" + own + ".evil.example.com"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", url, "Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Sec-Fetch-Site", "none"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
	} {
		for _, path := range []string{"/api/v1/status", "/api/v1/nothing"} {
			want := test.status
			if want == 200 && path != "/api/v1/status" {
				want = 404
			}
			status, header, body := request(t, "GET", url+path, "", test.header...)
			if status != want {
				t.Errorf("%s with %q: %d, want %d: %s", path, test.header, status, want, body)
			}
			if header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s with %q: another origin may read the answer", path, test.header)
			}
		}
	}
}

// TestBadRequests sends what no route takes.
func TestBadRequests(t *testing.T) {
	b := apitest.New()
	_, url := start(t, b, api.Options{})
	const asJSON = "application/json"
	for _, test := range []struct{ method, path, contentType, body, want string }{
		{"GET", "/api", "", "", `404 {"error":{"code":"not_found","message":"no route /api"}}`},
		{"GET", "/api/v1", "", "", `404 {"error":{"code":"not_found","message":"no route /api/v1"}}`},
		{"GET", "/api/v2/status", "", "", `404 {"error":{"code":"not_found","message":"no route /api/v2/status"}}`},
		{"POST", "/api/v1/status", asJSON, "{}", `405 {"error":{"code":"invalid","message":"method POST is not for /api/v1/status; use GET"}}`},
		{"PUT", "/api/v1/flows/A", asJSON, "{}", `405 {"error":{"code":"invalid","message":"method PUT is not for /api/v1/flows/A; use DELETE or GET"}}`},
		{"GET", "/api/v1/flows?limit=0", "", "", `400 {"error":{"code":"invalid","message":"limit is \"0\"; it must be a number from 1 to 1000"}}`},
		{"GET", "/api/v1/flows?limit=x", "", "", `400 {"error":{"code":"invalid","message":"limit is \"x\"; it must be a number from 1 to 1000"}}`},
		{"GET", "/api/v1/flows?limt=1", "", "", `400 {"error":{"code":"invalid","message":"unknown parameter \"limt\"; this route has limit, after"}}`},
		{"GET", "/api/v1/status?a=1", "", "", `400 {"error":{"code":"invalid","message":"unknown parameter \"a\"; this route has none"}}`},
		{"GET", "/api/v1/flows?limit=%zz", "", "", `400 {"error":{"code":"invalid","message":"query: invalid URL escape \"%zz\""}}`},
		{"GET", "/api/v1/flows/OrderTotals/steps/totals/state", "", "", `400 {"error":{"code":"invalid","message":"no key given; add key=FIELD=VALUE for each field of the step's key"}}`},
		{"POST", "/api/v1/plan", "text/plain", "{}", `400 {"error":{"code":"invalid","message":"content type is \"text/plain\"; it must be application/json"}}`},
		{"POST", "/api/v1/plan", "", "{}", `400 {"error":{"code":"invalid","message":"content type is \"\"; it must be application/json"}}`},
		{"POST", "/api/v1/plan", asJSON, "", `400 {"error":{"code":"invalid","message":"body: EOF"}}`},
		{"POST", "/api/v1/plan", asJSON, "{", `400 {"error":{"code":"invalid","message":"body: unexpected EOF"}}`},
		{"POST", "/api/v1/plan", asJSON, "{} {}", `400 {"error":{"code":"invalid","message":"body: there is more after the JSON value"}}`},
		{"POST", "/api/v1/plan", asJSON, `{"fiels":[]}`, `400 {"error":{"code":"invalid","message":"body: json: unknown field \"fiels\""}}`},
		{"POST", "/api/v1/flows/OrderTotals/deadletters/drop", asJSON, "{}", `400 {"error":{"code":"invalid","message":"no dead letters named; ids must hold 1 to 1000"}}`},
		{"POST", "/api/v1/flows/OrderTotals/deadletters/drop", asJSON, `{"ids":["` + strings.Repeat(`","`, 1000) + `"]}`,
			`413 {"error":{"code":"too_large","message":"1001 dead letters named; at most 1000 in one request"}}`},
		{"POST", "/api/v1/publish", asJSON, `{}`, `400 {"error":{"code":"invalid","message":"name either a subject or a flow to publish to"}}`},
		{"POST", "/api/v1/publish", asJSON, `{"subject":"a","flow":"b"}`, `400 {"error":{"code":"invalid","message":"name either a subject or a flow to publish to"}}`},
		{"POST", "/api/v1/publish", asJSON, `{"subject":"a"}`, `400 {"error":{"code":"invalid","message":"no messages; there must be 1 to 10000"}}`},
		{"POST", "/api/v1/publish", asJSON, `{"subject":"a","messages":[{"data":""}]}`, `400 {"error":{"code":"invalid","message":"message 1 is empty"}}`},
		{"POST", "/api/v1/flows/OrderTotals/events", "", "", `400 {"error":{"code":"invalid","message":"message 1 is empty"}}`},
		{"POST", "/api/v1/flows/OrderTotals/events", "", strings.Repeat("x", api.MaxBody+1), `413 {"error":{"code":"too_large","message":"the body is larger than 33554432 bytes"}}`},
	} {
		var header []string
		if test.contentType != "" {
			header = []string{"Content-Type", test.contentType}
		}
		status, _, body := request(t, test.method, url+test.path, test.body, header...)
		if got := fmt.Sprintf("%d %s", status, strings.TrimSpace(body)); got != test.want {
			t.Errorf("%s %s %.40s\ngot  %s\nwant %s", test.method, test.path, test.body, got, test.want)
		}
	}
	if got := b.Published(); len(got) > 0 {
		t.Errorf("published %v", got)
	}
}

// TestBackendFaults has a backend that fails in every way it can.
func TestBackendFaults(t *testing.T) {
	var fault func(context.Context) error
	b := apitest.New()
	b.Fail(func(ctx context.Context, _ string) error { return fault(ctx) })
	var logged bytes.Buffer
	client, _ := start(t, b, api.Options{Log: slog.New(slog.NewTextHandler(&logged, nil))})
	for _, test := range []struct {
		name    string
		fault   func(context.Context) error
		want    error
		message string
		logged  string
	}{
		{"sentinel", func(context.Context) error { return fmt.Errorf("flow x: %w", api.ErrUnavailable) }, api.ErrUnavailable, "flow x: unavailable for now", ""},
		{"wrapped", func(context.Context) error { return fmt.Errorf("a: %w", api.Errorf(api.ErrConflict, "b")) }, api.ErrConflict, "a: b", ""},
		{"other", func(context.Context) error { return errors.New("disk on fire") }, api.ErrInternal, "disk on fire", "disk on fire"},
		{"panic", func(context.Context) error { panic("oh") }, api.ErrInternal, "panic: oh", "api_test.go"},
		{"late", func(context.Context) error { return context.DeadlineExceeded }, api.ErrInternal, "context deadline exceeded", "deadline"},
	} {
		logged.Reset()
		fault = test.fault
		_, err := client.Status(t.Context())
		if !errors.Is(err, test.want) || err.Error() != test.message {
			t.Errorf("%s: %v, want %s that is %v", test.name, err, test.message, test.want)
		}
		if !strings.Contains(logged.String(), test.logged) || test.logged == "" && logged.Len() > 0 {
			t.Errorf("%s: logged %q, want %q", test.name, logged.String(), test.logged)
		}
	}
}

// TestFullServer holds all slots and sees the next request refused, and taken again later.
func TestFullServer(t *testing.T) {
	held, release := make(chan bool), make(chan bool)
	b := apitest.New()
	b.Fail(func(_ context.Context, method string) error {
		if method == "Doctor" {
			held <- true
			<-release
		}
		return nil
	})
	client, _ := start(t, b, api.Options{MaxRequests: 1})
	done := make(chan error)
	go func() { _, err := client.Doctor(t.Context()); done <- err }()
	<-held
	if _, err := client.Status(t.Context()); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("with all slots taken: %v, want unavailable", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the request that held the slot: %v", err)
	}
	if _, err := client.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestContext sees that a caller who goes away ends the backend's work.
func TestContext(t *testing.T) {
	begun, ended := make(chan bool), make(chan error, 1)
	b := apitest.New()
	b.Fail(func(ctx context.Context, _ string) error {
		close(begun)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	client, _ := start(t, b, api.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := client.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the backend's context ended with %v", err)
	}
}

// TestServe stops a server while a request is under way.
func TestServe(t *testing.T) {
	begun := make(chan bool)
	b := apitest.New()
	b.Fail(func(context.Context, string) error {
		close(begun)
		time.Sleep(50 * time.Millisecond)
		return nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	health := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") })
	s := api.NewServer(b, api.Options{Handlers: map[string]http.Handler{"GET /healthz": health}})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	url := "http://" + l.Addr().String()
	if status, _, body := request(t, "GET", url+"/healthz", "", "Host", "probe.example.com"); status != 200 || body != "fine" {
		t.Errorf("healthz: %d %s", status, body)
	}
	client, err := api.NewClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answered := make(chan error, 1)
	go func() { _, err := client.Status(context.WithoutCancel(ctx)); answered <- err }()
	<-begun
	stop()
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, api.ErrUnreachable) {
		t.Errorf("after the stop: %v, want unreachable", err)
	}
	if err := s.Serve(t.Context(), l); err == nil {
		t.Error("Serve on a closed listener returned no error")
	}
}

// TestNoKisflow asks servers that are something else.
func TestNoKisflow(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"web page": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"404":      func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) },
		"code": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":{"code":"odd"}}`)
		},
	} {
		s := httptest.NewServer(handler)
		client, err := api.NewClient(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Status(t.Context())
		if !errors.Is(err, api.ErrInternal) || !strings.Contains(err.Error(), "does not answer as a kisflow server does") {
			t.Errorf("%s: %v", name, err)
		}
		client.Close()
		s.Close()
	}
	for _, server := range []string{"", "127.0.0.1:7070", "ftp://x", "http://", "http://a/?b", "http://[::1"} {
		if _, err := api.NewClient(server); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("server %q: %v, want invalid", server, err)
		}
	}
	if _, err := api.NewClient("ftp://ada:secret@x"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password in the error: %v", err)
	}
}

// TestBytes takes bytes through JSON and back.
func TestBytes(t *testing.T) {
	for _, test := range []struct{ in, json string }{
		{"", `""`}, {`{"a":1}`, `"{\"a\":1}"`}, {"用户", `"用户"`}, {"\xff\x00", `{"base64":"/wA="}`},
	} {
		b, err := json.Marshal(api.Bytes(test.in))
		if err != nil || string(b) != test.json {
			t.Errorf("%q is %s, %v; want %s", test.in, b, err, test.json)
		}
		var back api.Bytes
		if err := json.Unmarshal(b, &back); err != nil || string(back) != test.in {
			t.Errorf("%s is %q, %v; want %q", b, back, err, test.in)
		}
	}
	var b api.Bytes
	if err := json.Unmarshal([]byte("7"), &b); err == nil {
		t.Error("a number is taken for bytes")
	}
}

// TestReference keeps docs/reference/api.md what the table of routes says.
func TestReference(t *testing.T) {
	golden(t, filepath.Join("..", "docs", "reference", "api.md"), []byte(api.Reference()))
}
