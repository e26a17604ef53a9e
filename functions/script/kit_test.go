package script

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// TestMain makes the test binary a worker where a pool of a test asks for one.
func TestMain(m *testing.M) {
	if os.Getenv(workerMark) != "" {
		if err := Work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newPool(t testing.TB, workers int) *Pool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(PoolOptions{Program: self, Workers: workers, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(p.Close)
	return p
}

func open(t testing.TB, h Host, s Spec) *runner {
	t.Helper()
	r, err := tryOpen(h, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryOpen(h Host, s Spec, params kis.Params) (*runner, error) {
	if s.Name == "" {
		s.Name = "F"
	}
	if s.Mode == "" {
		s.Mode = kis.Calculate
	}
	f, mistakes := New(s, h)
	if len(mistakes) > 0 {
		return nil, mistakes[0]
	}
	if params == nil {
		params = kis.Params{}
	}
	r, err := f.Open(kis.Step{Flow: "flow", Name: "step", Function: s.Name, Mode: s.Mode, Must: s.Must, Params: params})
	if err != nil {
		return nil, err
	}
	return r.(*runner), nil
}

var commit = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func row(t testing.TB, text string) *kis.Row {
	t.Helper()
	r, err := kis.ParseRow([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call makes a call of rows, with the key that their field k says.
func call(t testing.TB, state string, rows ...string) *kis.Call {
	t.Helper()
	c := &kis.Call{State: keyState(state), Now: commit}
	for i, text := range rows {
		r := row(t, text)
		c.Rows = append(c.Rows, r)
		c.Metas = append(c.Metas, &kis.Meta{Stream: "S", Subject: "a.b", Sequence: uint64(i + 1), Time: commit.Add(-time.Hour)})
		if k, err := kis.KeyOf(r, []string{"k"}); err == nil {
			c.Key = k
		}
	}
	return c
}

// shown is what a call led to, a line each.
func shown(c *kis.Call) string {
	var b strings.Builder
	if c.Err != nil {
		fmt.Fprintf(&b, "call: %v\n", c.Err)
	}
	for i := range c.Rows {
		for _, e := range c.Emitted {
			if e.Cause == i {
				fmt.Fprintf(&b, "%d: %s\n", i, e.Row)
			}
		}
		for _, e := range c.Sent {
			if e.Cause == i {
				fmt.Fprintf(&b, "%d: to %s %s\n", i, e.Subject, e.Row)
			}
		}
		if c.Refused != nil && c.Refused[i] != nil {
			verdict := map[kis.Verdict]string{kis.VerdictDeadLetter: "dead", kis.VerdictDrop: "drop", kis.VerdictRetry: "retry", kis.VerdictStop: "stop"}[kis.VerdictOf(c.Refused[i])]
			fmt.Fprintf(&b, "%d: %s: %v\n", i, verdict, c.Refused[i])
		}
	}
	if s, _ := c.State.(keyState); s != "" {
		fmt.Fprintf(&b, "state %s\n", s)
	}
	return b.String()
}
