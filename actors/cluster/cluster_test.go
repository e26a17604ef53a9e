package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kisflow/kisflow/transport/memory"
)

func TestJoinDeathDrainLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a := join(t, streams, network, "a")
		eventually(t, "all is the only node's", time.Second, func() bool { return a.e.owned() == 256 })
		b := join(t, streams, network, "b")
		c := join(t, streams, network, "c")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b, c) })

		c.Close()
		start := time.Now()
		eventually(t, "balanced without c", 5*time.Second, func() bool { return balanced(a, b) })
		if d := time.Since(start); d < 1500*time.Millisecond || d > 3*time.Second {
			t.Errorf("a dead node's groups moved after %s, want about a lease", d)
		}
		if ms := a.Members(); len(ms) != 3 || ms[2].Alive || !ms[1].Alive {
			t.Errorf("members %+v", ms)
		}

		c = join(t, streams, network, "c")
		eventually(t, "balanced with c again", 5*time.Second, func() bool { return balanced(a, b, c) })

		if err := a.Drain(t.Context(), "b", true); err != nil {
			t.Fatal(err)
		}
		eventually(t, "b is empty", 5*time.Second, func() bool { return b.e.owned() == 0 && balanced(a, c) })
		if err := c.Drain(t.Context(), "b", false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "balanced with b again", 5*time.Second, func() bool { return balanced(a, b, c) })
		if err := a.Drain(t.Context(), "x", true); err == nil || !strings.Contains(err.Error(), "no node x; there are [a b c]") {
			t.Errorf("drain of an unknown node: %v", err)
		}

		start = time.Now()
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("leaving took %s", d)
		}
		eventually(t, "balanced without b", time.Second, func() bool { return balanced(a, c) && len(a.Members()) == 2 })
	})
}

func TestLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		release, err := a.Lock(t.Context(), "apply orders")
		if err != nil {
			t.Fatal(err)
		}
		var held *HeldError
		if _, err := b.Lock(t.Context(), "apply users"); !errors.As(err, &held) || held.Node != "a" || held.What != "apply orders" {
			t.Errorf("a held lock: %v", err)
		}
		if _, err := a.Lock(t.Context(), "apply users"); !errors.As(err, &held) || held.Node != "a" {
			t.Errorf("a lock held here: %v", err)
		}
		release()
		release()
		if release, err = b.Lock(t.Context(), "apply users"); err != nil {
			t.Fatal(err)
		}
		b.Close()
		eventually(t, "the lock of a dead node is broken", 5*time.Second, func() bool {
			release, err := a.Lock(t.Context(), "apply more")
			if err == nil {
				release()
			}
			return err == nil
		})
		release()
	})
}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams, network := memory.New(memory.Options{}), &Network{}
		a, b := join(t, streams, network, "a"), join(t, streams, network, "b")
		eventually(t, "balanced", 5*time.Second, func() bool { return balanced(a, b) })
		for g := range 256 {
			body, err := a.Ask(t.Context(), Identity{Flow: "f", Step: "s", Key: "k", Group: g}, "get", []byte("x"))
			if err != nil || string(body) != "get x" {
				t.Fatalf("group %d: %q, %v", g, body, err)
			}
		}
		if body, err := a.Call(t.Context(), "b", "status", nil); err != nil || string(body) != "status " {
			t.Errorf("call: %q, %v", body, err)
		}
		if _, err := a.Call(t.Context(), "x", "status", nil); !errors.Is(err, ErrNoMember) {
			t.Errorf("call of nobody: %v", err)
		}
		b.e.answer = func(context.Context, Call) ([]byte, error) { return nil, &Error{Code: "odd", Text: "no such key"} }
		var e *Error
		if _, err := a.Call(t.Context(), "b", "x", nil); !errors.As(err, &e) || e.Code != "odd" || err.Error() != "no such key" {
			t.Errorf("an error of the other side: %v", err)
		}
	})
}
