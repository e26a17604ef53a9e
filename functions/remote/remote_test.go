package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// callerFunc answers requests in the test's own process.
type callerFunc func(ctx context.Context, q request) (string, error)

// request is a request as a program reads it.
type request struct {
	V        int               `json:"v"`
	ID       string            `json:"id"`
	Flow     string            `json:"flow"`
	Step     string            `json:"step"`
	Function string            `json:"function"`
	Mode     string            `json:"mode"`
	Params   map[string]string `json:"params"`
	Revision int               `json:"revision"`
	Now      int64             `json:"now"`
	Calls    []struct {
		Key   map[string]any `json:"key"`
		State map[string]any `json:"state"`
		Rows  []struct {
			Row  map[string]any `json:"row"`
			Meta struct {
				Stream, Subject string
				Sequence, Index uint64
				Time            int64
			} `json:"meta"`
		} `json:"rows"`
	} `json:"calls"`
}

func (f callerFunc) MaxRequest() int { return 4096 }

func (f callerFunc) Call(ctx context.Context, b []byte) ([]byte, error) {
	var q request
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return nil, fmt.Errorf("the request is none: %w: %s", err, b)
	}
	text, err := f(ctx, q)
	return []byte(text), err
}

func open(t *testing.T, s Spec) kis.Many {
	t.Helper()
	if s.Mode == "" {
		s.Mode = kis.Calculate
	}
	if s.Timeout == 0 {
		s.Timeout = 50 * time.Millisecond
	}
	if s.Batch == 0 {
		s.Batch = 100
	}
	s.Name, s.Where, s.Must = "F", "subject f", []string{"k"}
	r, err := New(s).Open(kis.Step{Flow: "flow", Name: "step", Function: "F", Mode: s.Mode, Must: s.Must, Params: kis.Params{"p": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.(kis.Many)
}

// calls makes calls of rows: each text is "key: row row".
func calls(t *testing.T, texts ...string) []*kis.Call {
	t.Helper()
	var all []*kis.Call
	n := uint64(0)
	for _, text := range texts {
		k, rows, _ := strings.Cut(text, ": ")
		c := &kis.Call{Context: t.Context(), Now: time.UnixMilli(1000), Revision: 7, State: keyState("")}
		for _, v := range strings.Fields(rows) {
			n++
			row, err := kis.ParseRow([]byte(`{"k":"` + k + `","v":"` + v + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			c.Rows = append(c.Rows, row)
			c.Metas = append(c.Metas, &kis.Meta{Stream: "S", Subject: "a", Sequence: n, Time: time.UnixMilli(500)})
			if c.Key, err = kis.KeyOf(row, []string{"k"}); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, c)
	}
	return all
}

// shown is what calls led to.
func shown(all []*kis.Call) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "%s:", c.Key)
		for i, r := range c.Rows {
			v, _ := r.Get("v")
			for _, e := range c.Emitted {
				if e.Cause == i {
					fmt.Fprintf(&b, " %s->%s", v.Text(), e.Row)
				}
			}
			for _, e := range c.Sent {
				if e.Cause == i {
					fmt.Fprintf(&b, " %s to %s %s", v.Text(), e.Subject, e.Row)
				}
			}
			if c.Refused != nil && c.Refused[i] != nil {
				verdict := map[kis.Verdict]string{kis.VerdictDeadLetter: "dead", kis.VerdictDrop: "drop", kis.VerdictRetry: "retry"}[kis.VerdictOf(c.Refused[i])]
				fmt.Fprintf(&b, " %s %s (%v)", v.Text(), verdict, c.Refused[i])
			}
		}
		fmt.Fprintf(&b, " state %s\n", c.State)
	}
	return b.String()
}

// counter is a program as it should be: it counts a key's rows; of a row it does what its v says.
func counter(_ context.Context, q request) (string, error) {
	results := []any{}
	for _, c := range q.Calls {
		n := 0.0
		if c.State != nil {
			n = c.State["n"].(float64)
		}
		rows, again := []any{}, false
		for _, r := range c.Rows {
			v := r.Row["v"].(string)
			switch {
			case again || v == "again":
				again = true
				rows = append(rows, map[string]any{"retry": "later"})
				continue
			case v == "bad":
				rows = append(rows, map[string]any{"error": "bad row"})
				continue
			case v == "drop":
				rows = append(rows, map[string]any{"drop": "unwanted"})
				continue
			case v == "pass":
				rows = append(rows, map[string]any{"pass": true})
			default:
				rows = append(rows, map[string]any{"emit": []any{map[string]any{"n": n + 1}}})
			}
			n++
		}
		results = append(results, map[string]any{"state": map[string]any{"n": n}, "rows": rows})
	}
	b, err := json.Marshal(map[string]any{"v": 1, "id": q.ID, "results": results})
	return string(b), err
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		batch int
		calls []string
		want  string
	}{
		{"rows of some keys", 0, []string{"a: 1 2", "b: pass"}, `
k=a: 1->{"n":1} 2->{"n":2} state {"n":2}
k=b: pass->{"k":"b","v":"pass"} state {"n":1}
`},
		{"one row in a request", 1, []string{"a: 1 2 3", "b: pass"}, `
k=a: 1->{"n":1} 2->{"n":2} 3->{"n":3} state {"n":3}
k=b: pass->{"k":"b","v":"pass"} state {"n":1}
`},
		{"two rows in a request", 2, []string{"a: 1 2 3", "b: pass"}, `
k=a: 1->{"n":1} 2->{"n":2} 3->{"n":3} state {"n":3}
k=b: pass->{"k":"b","v":"pass"} state {"n":1}
`},
		{"refused rows", 0, []string{"a: 1 bad drop 2"}, `
k=a: 1->{"n":1} bad dead (bad row) drop drop (unwanted) 2->{"n":2} state {"n":2}
`},
		{"what is to be tried again holds up its key", 2, []string{"a: 1 again 3 4 5", "b: 1"}, `
k=a: 1->{"n":1} again retry (later) 3 retry (later) 4 retry (later) 5 retry (later) state {"n":1}
k=b: 1->{"n":1} state {"n":1}
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := calls(t, c.calls...)
			if err := open(t, Spec{Caller: callerFunc(counter), Batch: c.batch}).HandleMany(all); err != nil {
				t.Fatal(err)
			}
			if got := shown(all); got != c.want[1:] {
				t.Errorf("got\n%swant%s", got, c.want)
			}
		})
	}
}

// TestRequest looks at what a program is sent: all of it, and the same id for the same rows.
func TestRequest(t *testing.T) {
	var seen []request
	caller := callerFunc(func(ctx context.Context, q request) (string, error) {
		seen = append(seen, q)
		return counter(ctx, q)
	})
	for range 2 {
		if err := open(t, Spec{Caller: caller}).HandleMany(calls(t, "a: 1", "b: 2")); err != nil {
			t.Fatal(err)
		}
	}
	q := seen[0]
	if q.V != 1 || q.Flow != "flow" || q.Step != "step" || q.Function != "F" || q.Mode != "Calculate" || q.Revision != 7 || q.Now != 1000 || q.Params["p"] != "1" || len(q.Calls) != 2 {
		t.Errorf("request %+v", q)
	}
	if r := q.Calls[1].Rows[0]; r.Row["v"] != "2" || r.Meta.Stream != "S" || r.Meta.Sequence != 2 || r.Meta.Time != 500 || q.Calls[1].Key["k"] != "b" {
		t.Errorf("call %+v", q.Calls[1])
	}
	if seen[0].ID == "" || seen[0].ID != seen[1].ID {
		t.Errorf("ids %q and %q of the same rows", seen[0].ID, seen[1].ID)
	}
}

// TestRubbish sends answers that are none: the row that it is about becomes a dead letter which says what is wrong.
func TestRubbish(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{``, "the answer is empty"},
		{`no`, "the answer is not of the protocol: invalid character 'o' in literal null (expecting 'u'); it begins with \"no\""},
		{`[]`, "the answer is not of the protocol"},
		{`{"results":[{"rows":[{}]}]} {}`, "more than one JSON object"},
		{`{"v":2,"results":[{"rows":[{}]}]}`, "the answer is of version 2; this is version 1"},
		{`{"id":"x","results":[{"rows":[{}]}]}`, `the answer has the id "x"; it belongs to another request`},
		{`{"results":[]}`, "the answer has 0 results for 1 calls"},
		{`{"results":[{}]}`, "results[0]: it has 0 rows for 1"},
		{`{"results":[{"rows":[{"emits":[]}]}]}`, `unknown field "emits"`},
		{`{"results":[{"rows":[{"emit":[5]}]}]}`, "results[0]: rows[0]: emit[0] is no row: offset 0"},
		{`{"results":[{"rows":[{"emit":[{"a":1,"a":2}]}]}]}`, "emit[0] is no row"},
		{`{"results":[{"rows":[{"emit":{}}]}]}`, "the answer is not of the protocol"},
		{`{"results":[{"state":5,"rows":[{}]}]}`, "results[0]: state: it must be an object or null"},
		{`{"results":[{"state":{"x":"` + strings.Repeat("x", maxState) + `"},"rows":[{}]}]}`, "results[0]: state: it has 1048584 bytes; the most is 1048576"},
		{`{"results":[{"rows":[{"pass":true,"error":"x"}]}]}`, "only one of pass or emit, drop, error and retry"},
	} {
		all := calls(t, "a: 1")
		all[0].State = keyState(`{"n":1}`)
		caller := callerFunc(func(context.Context, request) (string, error) { return c.answer, nil })
		if err := open(t, Spec{Caller: caller}).HandleMany(all); err != nil {
			t.Fatal(err)
		}
		got := shown(all)
		if !strings.HasPrefix(got, "k=a: 1 dead (subject f: ") || !strings.Contains(got, c.want) || !strings.HasSuffix(got, `state {"n":1}`+"\n") {
			t.Errorf("%.60s: got %s, want %s", c.answer, got, c.want)
		}
	}
	caller := callerFunc(func(context.Context, request) (string, error) { return `{"results":[{"rows":[{}]}]}`, nil })
	all := calls(t, "a: 1")
	if err := open(t, Spec{Caller: caller, Mode: kis.Verify}).HandleMany(all); err != nil || !strings.Contains(shown(all), "a Verify answers pass") {
		t.Errorf("Verify: %v %s", err, shown(all))
	}
}

// TestFaultsOfOneRow has one row among others for which the program answers rubbish, hangs, or finds its answer too large:
// only this row suffers.
func TestFaultsOfOneRow(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(ctx context.Context) (string, error)
		want  string
	}{
		"rubbish": {func(context.Context) (string, error) { return "?", nil }, "dead (subject f: the answer is not of the protocol"},
		"no use":  {func(context.Context) (string, error) { return "", &AnswerError{"it answers 404 Not Found"} }, "dead (subject f: it answers 404 Not Found"},
		"hangs": {func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, "retry (subject f: no answer within 50ms: context deadline exceeded, and answers others)"},
		"too large": {func(context.Context) (string, error) { return "", ErrTooLarge }, "dead (subject f: too large)"},
	} {
		t.Run(name, func(t *testing.T) {
			caller := callerFunc(func(ctx context.Context, q request) (string, error) {
				for _, k := range q.Calls {
					for _, r := range k.Rows {
						if r.Row["v"] == "x" {
							return c.fault(ctx)
						}
					}
				}
				return counter(ctx, q)
			})
			all := calls(t, "a: 1 2", "b: 1 x", "c: 1")
			if err := open(t, Spec{Caller: caller}).HandleMany(all); err != nil {
				t.Fatal(err)
			}
			got := strings.Split(shown(all), "\n")
			if got[0] != `k=a: 1->{"n":1} 2->{"n":2} state {"n":2}` || got[2] != `k=c: 1->{"n":1} state {"n":1}` {
				t.Errorf("other keys: %s", strings.Join(got, "\n"))
			}
			if !strings.HasPrefix(got[1], `k=b: 1->{"n":1} x `+c.want) || !strings.HasSuffix(got[1], `state {"n":1}`) {
				t.Errorf("got %s, want %s", got[1], c.want)
			}
		})
	}
}

// TestNobody has no program there, or one that cannot answer now: everything is to be tried again, and nothing of it has
// happened.
func TestNobody(t *testing.T) {
	hang := func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	for name, fault := range map[string]func(context.Context) (string, error){
		"nobody":  func(context.Context) (string, error) { return "", ErrNobody },
		"hangs":   hang,
		"is busy": func(context.Context) (string, error) { return `{"error":"busy"}`, nil },
		"broken":  func(context.Context) (string, error) { return "", errors.New("connection reset") },
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			caller := callerFunc(func(ctx context.Context, q request) (string, error) {
				if requests++; requests == 1 {
					return counter(ctx, q)
				}
				return fault(ctx)
			})
			all := calls(t, "a: 1 2", "b: 1")
			err := open(t, Spec{Caller: caller, Batch: 2}).HandleMany(all)
			if err == nil || kis.VerdictOf(err) != kis.VerdictRetry {
				t.Fatalf("error %v, want one that asks for a retry", err)
			}
			if got := shown(all); got != "k=a: state \nk=b: state \n" {
				t.Errorf("something has happened:\n%s", got)
			}
		})
	}
	t.Run("told to stop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		all := calls(t, "a: 1")
		all[0].Context = ctx
		caller := callerFunc(func(ctx context.Context, _ request) (string, error) { return hang(ctx) })
		if err := open(t, Spec{Caller: caller, Timeout: time.Minute}).HandleMany(all); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that of the context", err)
		}
	})
}

func TestLargeRequests(t *testing.T) {
	requests := 0
	caller := callerFunc(func(ctx context.Context, q request) (string, error) { requests++; return counter(ctx, q) })
	all := calls(t, "a: 1 "+strings.Repeat("x", 5000)+" 2 "+strings.Repeat("y ", 100))
	if err := open(t, Spec{Caller: caller, Batch: 1000}).HandleMany(all); err != nil {
		t.Fatal(err)
	}
	got := shown(all)
	if !strings.Contains(got, "dead (subject f: the request has 5") || !strings.HasSuffix(got, `state {"n":102}`+"\n") {
		t.Errorf("got %.300s ... %s", got, got[len(got)-20:])
	}
	if requests < 5 || requests > 40 {
		t.Errorf("%d requests", requests)
	}
}

func TestExpand(t *testing.T) {
	subject := func(r *kis.Row) (string, error) {
		n, err := r.Int("n")
		return fmt.Sprint("out.", n), err
	}
	all := calls(t, "a: 1 pass 2")
	for i := range all[0].Rows {
		all[0].Rows[i].Delete("k")
	}
	if err := open(t, Spec{Caller: callerFunc(counter), Mode: kis.Expand, Subject: subject}).HandleMany(all); err != nil {
		t.Fatal(err)
	}
	if got, want := shown(all), `k=a: 1->{"v":"1"} 1 to out.1 {"n":1} pass dead (field "n" is missing) 2->{"v":"2"} 2 to out.3 {"n":3} state {"n":3}`+"\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestHTTP(t *testing.T) {
	status, body := http.StatusOK, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s of %s", q.Method, q.Header.Get("Content-Type"))
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer s.Close()
	h := NewHTTP(s.URL)
	for _, c := range []struct {
		status   int
		body     string
		want     string
		hopeless bool
		tooLarge bool
	}{
		{200, "yes", "", false, false},
		{404, "no such page", `it answers 404 Not Found: "no such page"`, true, false},
		{302, "", "it answers 302 Found", true, false},
		{500, "oops", `it answers 500 Internal Server Error: "oops"`, false, false},
		{429, "", "it answers 429", false, false},
		{200, strings.Repeat("x", maxHTTPAnswer+1), "too large", false, true},
	} {
		status, body = c.status, c.body
		got, err := h.Call(t.Context(), []byte("{}"))
		if c.want == "" {
			if err != nil || string(got) != c.body {
				t.Errorf("%d: %q, %v", c.status, got, err)
			}
			continue
		}
		var none *AnswerError
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &none) != c.hopeless || errors.Is(err, ErrTooLarge) != c.tooLarge {
			t.Errorf("%d: %v, want %s", c.status, err, c.want)
		}
	}
	s.Close()
	if _, err := h.Call(t.Context(), nil); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody there: %v", err)
	}
}
