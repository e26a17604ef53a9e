package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
)

// TestLintLookups finds what is wrong with look-ups and their connectors at their places.
func TestLintLookups(t *testing.T) {
	const flow = "kistype: flow\nstatus: 1\nflow_name: A\nentry: {subject: a, fields: {user: text}}\nflows: [{fname: F}]\n---\nkistype: func\nfname: F\nfmode: Load\noption: {cname: c}\n"
	const redis = "---\nkistype: conn\ncname: c\ntype: redis\naddrs: h:1\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"good", flow + "load: {key: row.user}\n" + redis + "params: {mode: hash, password: '${ENV:X}'}\n", nil},
		{"of the original", flow + "source: {must: [user]}\n" + redis, nil},
		{"misspelt parameter", flow + "load: {key: row.user}\n" + redis + "params: {mdoe: hash}\n", []string{`f.yaml:17:10: a connector of type redis has no parameter "mdoe" [KF4003]`}},
		{"wrong word", flow + "load: {key: row.user}\n" + redis + "params: {mode: set}\n", []string{`f.yaml:17:16: mode is "set"; it must be one of json, hash, get [KF4003]`}},
		{"secret", flow + "load: {key: row.user}\n" + redis + "params: {password: x}\n", []string{`f.yaml:17:20: password is a secret and stands here in the open [KF4003]`}},
		{"no address", flow + "load: {key: row.user}\n---\nkistype: conn\ncname: c\ntype: redis\n", []string{`f.yaml:14:8: a connector of type redis needs addrs [KF4003]`}},
		{"no bucket", flow + "load: {as: lookup, key: row.user}\n---\nkistype: conn\ncname: c\ntype: nats\n", []string{`f.yaml:14:8: a look-up through a connector of type nats needs params.bucket [KF4003]`}},
		{"URL without a key", flow + "load: {key: row.user}\n---\nkistype: conn\ncname: c\ntype: http\naddrs: http://h/\n", []string{`f.yaml:14:8: connector c: addrs has no {key}; write it where the key goes: https://host/users/{key} [KF4003]`}},
		{"no key", flow + redis, []string{`f.yaml:10:17: function F: the look-up has no key; say it with load: {key: row.user}, or name the key's fields in source: {must: [...]} [KF4002]`}},
		{"key of no field", flow + "load: {key: row.usr}\n" + redis, []string{`f.yaml:11:17: no row has the field usr, at step "F" of flow "A" [KF3001] (did you mean user?`}},
		{"wrong expression", flow + "load: {key: row.user, set: {n: fuond.n}}\n" + redis, []string{`f.yaml:11:32: unknown name fuond [KF4001]`}},
		{"unknown type", flow + "load: {key: row.user}\n---\nkistype: conn\ncname: c\ntype: mysql\n", []string{`f.yaml:10:17: function F: connector c has type "mysql"`}},
		{"handoff", flow + "load: {as: lookup, key: row.user, handoff: h}\n" + redis, []string{`f.yaml:11:35: handoff is for a Load of a hand-off, and this is a look-up through a connector [KF1021]`}},
		{"no connector", strings.Replace(flow, "option: {cname: c}\n", "", 1) + "load: {as: lookup, key: row.user}\n", []string{`f.yaml:10:12: a look-up names neither a connector nor a hand-off [KF1014]`}},
		{"keys of a table", flow + "source: {must: [user]}\nload: {as: table, handoff: h, cache: 1m}\n" + strings.Replace(redis, "redis", "nats", 1), []string{`f.yaml:12:31: cache is for a Load as a look-up [KF1021]`}},
		{"not used", "kistype: conn\ncname: c\ntype: redis\nparams: {args1: x, mdoe: y}\n", []string{`f.yaml:4:20: warning: a connector of type redis has no parameter "mdoe" [KF4003]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := new(flowdef.Set)
			mistakes := flowdef.Parse("f.yaml", []byte(c.text), set)
			mistakes = append(mistakes, Lint(set, nil, true)...)
			var got []string
			for _, m := range mistakes {
				if m.Code != "KF2004" && m.Code != "KF1009" {
					got = append(got, m.Error())
				}
			}
			ok := len(got) == len(c.want)
			for i := range min(len(got), len(c.want)) {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestLookups runs a flow with three look-ups on a node: in a bucket of its own NATS, over HTTP and in Go. The HTTP
// server is down at first, and there is no bucket: the rows wait.
func TestLookups(t *testing.T) {
	var down atomic.Bool
	var asked atomic.Int32
	down.Store(true)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/u/u3" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"city":%q}`, r.URL.Path+r.Header.Get("Authorization"))
	}))
	defer site.Close()
	t.Setenv("KIS_TEST_TOKEN", "t0p-s3cret")
	dir := t.TempDir()
	flows := filepath.Join(dir, "flows.yaml")
	text := fmt.Sprintf(`
kistype: flow
status: 1
flow_name: Orders
entry: {subject: orders}
flows: [{fname: City}, {fname: Limit}, {fname: Rate}, {fname: Send}]
---
{kistype: func, fname: City, fmode: Load, source: {must: [user]}, option: {cname: cities}}
---
{kistype: func, fname: Limit, fmode: Load, option: {cname: limits}, load: {as: lookup, key: row.user, set: {limit: found?.limit ?? 0}}}
---
{kistype: func, fname: Rate, fmode: Load, option: {cname: rates}, load: {key: row.n %% 3, missing: drop}}
---
{kistype: func, fname: Send, fmode: Expand, expand: {subject: out}}
---
{kistype: conn, cname: cities, type: http, addrs: '%s/u/{key}', params: {authorization: '${ENV:KIS_TEST_TOKEN}'}}
---
{kistype: conn, cname: limits, type: nats, params: {bucket: limits}}
---
{kistype: conn, cname: rates, type: rates}
`, site.URL)
	if err := os.WriteFile(flows, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	rates := kis.NewLookup("rates", func(_ context.Context, keys []string) ([]*kis.Row, error) {
		rows := make([]*kis.Row, len(keys))
		for i, key := range keys {
			if key != "0" {
				rows[i] = kis.NewRow(kis.Field{Name: "rate", Value: kis.StringValue("r" + key)})
			}
		}
		return rows, nil
	})
	n, err := Start(t.Context(), Options{Data: filepath.Join(dir, "data"), Flows: []string{flows}, Listen: "127.0.0.1:0", NATSListen: "127.0.0.1:0",
		Durability: "process", LogOutput: io.Discard, Connectors: []kis.ConnectorType{rates}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var messages []api.PublishMessage
	for i := range 600 {
		messages = append(messages, api.PublishMessage{Data: fmt.Appendf(nil, `{"user":"u%d","n":%d}`, i%20, i)})
	}
	if _, err := n.Publish(t.Context(), api.Publication{Flow: "Orders", Messages: messages}); err != nil {
		t.Fatal(err)
	}
	until(t, "the flow says what it waits for", func() string {
		f, err := n.Flow(t.Context(), "Orders")
		if err != nil || !strings.Contains(f.Reason, "connector cities: ") || !strings.Contains(f.Reason, "status 503") {
			return fmt.Sprint(f.Reason, err)
		}
		return ""
	})
	c, err := n.TestConnector(t.Context(), "cities")
	if err != nil || c.Result != api.ResultFailed || !strings.Contains(c.Detail, "503") {
		t.Errorf("test of a site that is down: %+v, %v", c, err)
	}
	down.Store(false)
	asked.Store(0)
	until(t, "the flow waits for the bucket", func() string {
		f, err := n.Flow(t.Context(), "Orders")
		if err != nil || !strings.Contains(f.Reason, `connector limits: there is no bucket "limits"`) {
			return fmt.Sprint(f.Reason, err)
		}
		return ""
	})
	js, err := jetstream.New(n.conn.Client())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "limits"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "u1", `{"limit":7}`); err != nil {
		t.Fatal(err)
	}
	until(t, "400 rows come out", func() string {
		f, err := n.Flow(t.Context(), "Orders")
		if err != nil || f.EventsOut < 400 {
			return fmt.Sprintf("%d came out; %s %v", f.EventsOut, f.Reason, err)
		}
		return ""
	})
	f, err := n.Flow(t.Context(), "Orders")
	if err != nil || f.EventsOut != 400 || f.DeadLetters != 0 {
		t.Errorf("%d out, %d dead letters, %v", f.EventsOut, f.DeadLetters, err)
	}
	stream, err := js.StreamNameBySubject(t.Context(), "out")
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := s.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{FilterSubjects: []string{"out"}})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(400, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m := range batch.Messages() {
		got = append(got, string(m.Data()))
	}
	var want []string
	for i := range 600 {
		if i%3 == 0 {
			continue
		}
		city, limit := fmt.Sprintf(`,"city":"/u/u%dt0p-s3cret"`, i%20), 0
		if i%20 == 3 {
			city = ""
		}
		if i%20 == 1 {
			limit = 7
		}
		want = append(want, fmt.Sprintf(`{"user":"u%d","n":%d%s,"limit":%d,"rate":"r%d"}`, i%20, i, city, limit, i%3))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d rows, want %d; the first is %s, want %s", len(got), len(want), slices.Concat(got, []string{"none"})[0], want[0])
	}
	if a := asked.Load(); a > 40 { // 20 keys; those of a batch that failed in part may come again
		t.Errorf("the site was asked %d times for 20 keys", a)
	}
	list, err := n.Connectors(t.Context(), api.Page{Limit: 10})
	if err != nil || strings.Contains(fmt.Sprintf("%+v", list), "s3cret") {
		t.Errorf("connectors: %+v, %v", list, err)
	}
	if c, err = n.TestConnector(t.Context(), "limits"); err != nil || c.Result != api.ResultOK {
		t.Errorf("test: %+v, %v", c, err)
	}
	if _, err = n.TestConnector(t.Context(), "limit"); err == nil || !strings.Contains(err.Error(), "there are cities, limits, rates") {
		t.Errorf("test of a connector that is not there: %v", err)
	}
}

// until waits until a check has nothing to say.
func until(t *testing.T, what string, check func() string) {
	t.Helper()
	for give := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		why := check()
		if why == "" {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("%s: %s", what, why)
		}
	}
}
