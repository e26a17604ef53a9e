package kistest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/kis/kistest"
)

const rewards = `
kistype: flow
status: 1
flow_name: Rewards
entry: {subject: orders.>}
flows: [{fname: Reward}, {fname: SendReward}]
---
kistype: func
fname: Reward
fmode: Calculate
source: {name: orders, must: [customer]}
---
kistype: func
fname: SendReward
fmode: Expand
expand: {subject: rewards}
`

type order struct {
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
}

type spend struct {
	Cents int64 `json:"cents"`
}

// reward gives ten points for every hundred euros, and forgets what was spent after a day without an order.
func reward() kis.Function {
	type points struct {
		Points int64 `json:"points"`
	}
	return kis.KeyedTimers("Reward", func(_ context.Context, s *spend, e kis.Event[order], out *kis.Output[points]) error {
		if e.Value.Cents < 0 {
			return errors.New("an order below zero")
		}
		if s.Cents += e.Value.Cents; s.Cents >= 100_00 {
			out.Emit(e.Key, points{10})
			s.Cents -= 100_00
		}
		out.SetTimer("forget", kis.ProcessingTime, e.Now.Add(24*time.Hour))
		return nil
	}, func(_ context.Context, s *spend, d kis.Due, _ *kis.Output[points]) error {
		*s = spend{}
		return nil
	})
}

func TestRunFlows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rewards.yaml")
	if err := os.WriteFile(path, []byte(rewards), 0o600); err != nil {
		t.Fatal(err)
	}
	f := kistest.RunFlows(t, []kis.Function{reward()}, []string{path})
	f.Send(order{"ada", 60_00}, order{"ada", 70_00}, `{"customer":"bob","cents":-1}`)
	if got := f.Out("rewards"); len(got) != 1 || got[0].String() != `{"customer":"ada","points":10}` {
		t.Errorf("sent %v, want one reward for ada", got)
	}
	if got := f.Out("rewards"); len(got) != 0 {
		t.Errorf("sent %v again", got)
	}
	if got := f.State("Reward", "customer=ada"); got != `{"cents":3000}` {
		t.Errorf("the state is %s", got)
	}
	if got := f.DeadLetters(); len(got) != 1 || got[0] != `Reward: an order below zero: {"customer":"bob","cents":-1}` {
		t.Errorf("dead letters %v", got)
	}
	f.Wait(23 * time.Hour)
	f.Send(order{"ada", 1})
	f.Wait(23 * time.Hour)
	if got := f.State("Reward", "customer=ada"); got != `{"cents":3001}` {
		t.Errorf("the state is %s", got)
	}
	f.Wait(2 * time.Hour)
	if got := f.State("Reward", "customer=ada"); got != "" {
		t.Errorf("the state is %s, want none", got)
	}
}

func TestTimersOfOneFunction(t *testing.T) {
	r := kistest.New(t, reward(), kistest.Must("customer"))
	r.Send("ada", order{"ada", 60_00})
	r.Advance(time.Hour)
	r.Send("ada", order{"ada", 1})
	ts := r.Timers("ada")
	if len(ts) != 1 || ts[0].Name != "forget" {
		t.Fatalf("timers are %v", ts)
	}
	if got := r.Fire("ada", "forget", kis.ProcessingTime); got.Err != nil || len(r.Timers("ada")) != 0 || r.State("ada") != "" {
		t.Errorf("after the timer: %s, timers %v, state %s", got, r.Timers("ada"), r.State("ada"))
	}
}
