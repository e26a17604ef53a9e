package kistest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

type order struct {
	Cents int64 `json:"cents"`
}

type spend struct {
	Cents int64 `json:"cents"`
}

type points struct {
	Points int64 `json:"points"`
}

func reward(_ context.Context, s *spend, e kis.Event[order], out *kis.Output[points]) error {
	if e.Value.Cents < 0 {
		return kis.DeadLetter(fmt.Errorf("order of %d cents", e.Value.Cents))
	}
	if s.Cents += e.Value.Cents; s.Cents >= 100_00 {
		out.Emit(e.Key, points{10})
		*s = spend{}
	}
	return nil
}

func TestSend(t *testing.T) {
	r := New(t, kis.Keyed("reward", reward))
	r.Send("ada", order{60_00})
	r.Send("bob", order{90_00})
	if got := r.State("ada"); got != `{"cents":6000}` {
		t.Errorf("ada's state is %s", got)
	}
	if got := As[points](t, r.Send("ada", order{50_00})); len(got) != 1 || got[0].Points != 10 {
		t.Errorf("after 110.00: emitted %v, want one reward", got)
	}
	if got := r.State("ada"); got != "" {
		t.Errorf("ada's state is %s, want none", got)
	}
	if got := r.Do("ada", order{-1}); got.String() != "dead letter: order of -1 cents\n" {
		t.Errorf("said %s", got)
	}
	if keys := fmt.Sprint(r.Keys()); keys != "[key=bob]" {
		t.Errorf("keys with a state are %s", keys)
	}
}

func TestDo(t *testing.T) {
	handle := func(_ context.Context, _ *spend, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		what, _ := e.Value.Get("do")
		switch what.Text() {
		case "retry":
			return kis.Retry(errors.New("later"))
		case "stop":
			return kis.Stop(errors.New("no more"))
		case "drop":
			return kis.Drop(errors.New("unwanted"))
		case "panic":
			panic("ouch")
		case "abort":
			out.Abort()
		case "reuse":
			out.Reuse()
		case "force":
			out.ForceNext()
		case "jump":
			out.Jump("there")
		case "send":
			out.Send("a.b", kis.NewRow())
		case "now":
			out.Emit(e.Key, kis.NewRow(kis.Field{Name: "now", Value: kis.StringValue(e.Now.Format(time.TimeOnly))}))
		}
		return nil
	}
	r := New(t, kis.Keyed("do", handle), Must("a", "b"), Now(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)))
	for do, want := range map[string]string{
		"retry": "retry: later\n",
		"stop":  "stop: no more\n",
		"drop":  "drop: unwanted\n",
		"panic": "dead letter: panic: ouch\n",
		"abort": "abort\n",
		"reuse": "reuse\n",
		"force": "force next\n",
		"jump":  "jump to there\n",
		"send":  "send a.b {}\n",
		"no":    "",
	} {
		if got := r.Do([]any{1, "x"}, fmt.Sprintf(`{"do":%q}`, do)).String(); got != want {
			t.Errorf("%s: said %q, want %q", do, got, want)
		}
	}
	r.Advance(time.Hour)
	if got := r.Do(nil, `{"do":"now","a":1,"b":"x"}`).String(); got != `emit {"a":1,"b":"x","now":"01:00:10"}`+"\n" {
		t.Errorf("now: said %s", got)
	}
}

func TestBatch(t *testing.T) {
	sum := func(_ context.Context, s *spend, events []kis.Event[order], out *kis.Output[spend]) error {
		for i, e := range events {
			s.Cents += e.Value.Cents
			out.EmitFor(i, e.Key, *s)
		}
		return nil
	}
	r := New(t, kis.Batch("sum", sum))
	want := "emit {\"key\":1,\"cents\":1}\nemit {\"key\":1,\"cents\":3} for 1\n"
	if got := r.Do(1, order{1}, order{2}).String(); got != want {
		t.Errorf("said %s, want %s", got, want)
	}
}

// fakeT takes the failure of a test for an answer.
type fakeT struct {
	testing.TB
	failure string
}

func (t *fakeT) Helper() {}

func (t *fakeT) Fatalf(format string, args ...any) {
	t.failure = fmt.Sprintf(format, args...)
	panic(t)
}

func failureOf(f func(t testing.TB)) (failure string) {
	t := &fakeT{}
	defer func() {
		if v := recover(); v != nil && v != any(t) {
			panic(v)
		}
		failure = t.failure
	}()
	f(t)
	return ""
}

// sloppy is a state whose JSON forgets a part.
type sloppy struct{ kept, forgotten int }

func (s *sloppy) AppendState(dst []byte) ([]byte, error) { return fmt.Appendf(dst, "%d", s.kept), nil }
func (s *sloppy) ParseState(text []byte) error {
	_, err := fmt.Sscan(string(text), &s.kept)
	return err
}

func TestFailures(t *testing.T) {
	chance := 0
	for _, c := range []struct {
		name, want string
		run        func(t testing.TB)
	}{
		{"chance", "is not deterministic", func(t testing.TB) {
			New(t, kis.Keyed("f", func(_ context.Context, s *spend, e kis.Event[order], out *kis.Output[points]) error {
				chance++
				s.Cents += int64(chance)
				return nil
			})).Send(1, order{1})
		}},
		{"sloppy", "does not survive", func(t testing.TB) {
			r := New(t, kis.Keyed("f", func(_ context.Context, s *sloppy, e kis.Event[order], out *kis.Output[points]) error {
				s.kept++
				s.forgotten++
				out.Emit(e.Key, points{int64(s.forgotten)})
				return nil
			}))
			r.Send(1, order{1})
			r.Send(1, order{1})
		}},
		{"changed row", "changed the row that it was given", func(t testing.TB) {
			New(t, kis.Stateless("f", func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
				e.Row.Set("x", kis.IntValue(1))
				return nil
			})).Send(1, order{1})
		}},
		{"changed params", "changed its params", func(t testing.TB) {
			New(t, kis.Stateless("f", func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
				e.Params["x"] = "y"
				return nil
			})).Send(1, order{1})
		}},
		{"refused", "dead letter: order of -1 cents", func(t testing.TB) {
			New(t, kis.Keyed("f", reward)).Send(1, order{-1})
		}},
		{"state type", "not exported", func(t testing.TB) {
			New(t, kis.Keyed("f", func(_ context.Context, s *struct{ n int }, e kis.Event[order], out *kis.Output[points]) error {
				return nil
			}))
		}},
		{"wrong key", "is of the key key=2, not key=1", func(t testing.TB) {
			New(t, kis.Keyed("f", reward)).Send(1, `{"key":2}`)
		}},
		{"too many keys", "2 key values for the 1 key fields", func(t testing.TB) {
			New(t, kis.Keyed("f", reward)).Send([]any{1, 2}, `{}`)
		}},
		{"two rows", "2 rows for a function that takes one", func(t testing.TB) {
			New(t, kis.Keyed("f", reward)).Do(1, `{}`, `{}`)
		}},
		{"no object", "expected an object", func(t testing.TB) {
			New(t, kis.Keyed("f", reward)).Send(1, `[]`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := failureOf(c.run); !strings.Contains(got, c.want) {
				t.Errorf("failed with %q, want %q in it", got, c.want)
			}
		})
	}
}
