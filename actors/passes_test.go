package actors

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/kis"
)

// circle is a flow that sends what it gets to its own entry, with its rounds counted in the row.
func circle(most int, pack bool) *Flow {
	round := kis.Keyed("round", func(_ context.Context, s *notes, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
		n := number(e.Row, "round")
		if n == 100 {
			return nil // not reached
		}
		s.Names = append(s.Names, fmt.Sprint(n))
		e.Value.Set("round", kis.IntValue(n+1))
		out.Emit(kis.Key{}, e.Value)
		return nil
	})
	again := rowFunction("again", func(row *kis.Row, out *kis.Output[*kis.Row]) error {
		out.Send("in.again", row)
		return nil
	})
	f := kitFlow(Step{Function: round, Must: []string{"user"}}, Step{Function: again, Mode: kis.Expand, Pack: pack,
		Outputs: []Output{{Stream: "IN", Subject: "in.>"}}})
	f.Passes = most
	return f
}

func TestACircleHasABound(t *testing.T) {
	for _, pack := range []bool{false, true} {
		t.Run(fmt.Sprint("packed ", pack), func(t *testing.T) {
			k := newKit(t, Options{}, 8<<20, circle(3, pack))
			k.mustOpen()
			k.publish(`{"user":1,"round":0}`, `{"user":2,"round":0}`)
			k.mustRun()
			k.mustOpen() // the count is in the stream
			k.publish(`{"user":1,"round":50}`)
			k.mustRun()
			if got := k.state("round", "user=1"); got != `{"names":["0","1","2","3","50","51","52","53"]}` {
				t.Errorf("state of 1 is %s", got)
			}
			if got := k.state("round", "user=2"); got != `{"names":["0","1","2","3"]}` {
				t.Errorf("state of 2 is %s", got)
			}
			said, keys := k.letters()
			if len(said) != 3 || !strings.Contains(said[0], "the event has passed flow f 3 times, as often as it may (loop.most)") {
				t.Errorf("dead letters are %v", said)
			}
			// A retry does not begin anew.
			if n, left, err := k.parts[0].Retry(t.Context(), keys[:1]); n != 1 || len(left) > 0 || err != nil {
				t.Errorf("retry: %d, %v, %v", n, left, err)
			}
			k.mustRun()
			if again, _ := k.letters(); len(again) != 3 {
				t.Errorf("after a retry the dead letters are %v", again)
			}
		})
	}
}

func TestPassesOfOtherFlowsStay(t *testing.T) {
	k := newKit(t, Options{}, 8<<20, circle(2, false))
	p := k.mustOpen()
	for _, c := range [][2]string{{"", "f=1"}, {"f=1", "f=2"}, {"g=7 f=1", "g=7 f=2"}, {"=E4=BD=A0=5", "=E4=BD=A0=5 f=1"}} {
		got, err := p.passed(&kis.Meta{Passes: c[0]})
		if err != nil || got != c[1] {
			t.Errorf("after %q: %q, %v; want %q", c[0], got, err, c[1])
		}
	}
	for _, bad := range []string{"f=2", "f=many", "f=-1", strings.Repeat("g=1 ", maxCircle)} {
		if got, err := p.passed(&kis.Meta{Passes: bad}); err == nil {
			t.Errorf("after %.20q: %.20q, want an error", bad, got)
		}
	}
}
