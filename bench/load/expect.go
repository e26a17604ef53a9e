package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Expect knows what must come out of a Spec's orders, and follows what does.
type Expect struct {
	spec   Spec
	first  []int32 // first[u] is where the orders of user After+u+1 start in amount and place
	amount []int32 // of a user's orders, in order
	place  []int32 // of the same orders in the Spec's sequence
	now    []Total // of each user, after the outputs seen so far
	seen   int
	errs   []error
}

// Expect computes what must come out, from the orders alone.
func (s Spec) Expect() *Expect {
	e := &Expect{spec: s, first: make([]int32, s.Users+1), amount: make([]int32, s.Events), place: make([]int32, s.Events), now: make([]Total, s.Users)}
	for src := s.Source(); ; {
		o, ok := src.Next()
		if !ok {
			break
		}
		e.first[o.User-s.After]++
	}
	for u := range s.Users {
		e.first[u+1] += e.first[u]
		e.now[u].User = s.After + int64(u) + 1
	}
	at := append([]int32(nil), e.first...)
	for i, src := 0, s.Source(); ; i++ {
		o, ok := src.Next()
		if !ok {
			return e
		}
		u := o.User - s.After - 1
		e.amount[at[u]], e.place[at[u]] = int32(o.Amount), int32(i)
		at[u]++
	}
}

// Message takes the payload of one output message: JSON objects, one a line.
func (e *Expect) Message(data []byte, each func(place int)) {
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		if len(line) == 0 {
			continue
		}
		if place := e.Output(line); each != nil && place >= 0 {
			each(place)
		}
	}
}

// Output takes one output and returns the place, from 0, of the order that it answers, or -1 if there is
// none. What is wrong with it is in Err.
func (e *Expect) Output(line []byte) int {
	got, ok := parseTotal(line)
	if !ok {
		if err := json.Unmarshal(line, &got); err != nil {
			e.wrong("output %q: %w", line, err)
			return -1
		}
	}
	u := got.User - e.spec.After - 1
	if u < 0 || u >= int64(e.spec.Users) {
		e.wrong("output %s: there is no such user", line)
		return -1
	}
	at := e.first[u] + int32(e.now[u].Count)
	if at == e.first[u+1] {
		e.wrong("output %s: the user has %d orders only", line, e.now[u].Count)
		return -1
	}
	e.now[u].Add(int64(e.amount[at]))
	e.seen++
	if got != e.now[u] {
		e.wrong("output %s in place of %s", line, e.now[u].AppendJSON(nil))
	}
	return int(e.place[at])
}

// wrong keeps the first mistakes.
func (e *Expect) wrong(format string, args ...any) {
	if len(e.errs) < 10 {
		e.errs = append(e.errs, fmt.Errorf(format, args...))
	}
}

// Seen is how many outputs have come.
func (e *Expect) Seen() int { return e.seen }

// Users is how many users have orders.
func (e *Expect) Users() int {
	n := 0
	for u := range e.spec.Users {
		if e.first[u+1] > e.first[u] {
			n++
		}
	}
	return n
}

// Final is what a user's totals must be in the end.
func (e *Expect) Final(user int64) Total {
	t := Total{User: user}
	for i := e.first[user-e.spec.After-1]; i < e.first[user-e.spec.After]; i++ {
		t.Add(int64(e.amount[i]))
	}
	return t
}

// Err says what was wrong so far.
func (e *Expect) Err() error { return errors.Join(e.errs...) }

// Done says what was wrong when all outputs are in.
func (e *Expect) Done() error {
	if e.seen != e.spec.Events {
		e.wrong("%d outputs for %d orders", e.seen, e.spec.Events)
	}
	return e.Err()
}

// parseTotal reads an output in the form of Total.AppendJSON, which is what nearly all have; others take
// the long way.
func parseTotal(line []byte) (t Total, ok bool) {
	rest := line
	for _, f := range [...]struct {
		name string
		to   *int64
	}{{`{"userid":`, &t.User}, {`,"count":`, &t.Count}, {`,"total":`, &t.Total}, {`,"max":`, &t.Max}} {
		if !bytes.HasPrefix(rest, []byte(f.name)) {
			return t, false
		}
		rest = rest[len(f.name):]
		i := 0
		for ; i < len(rest) && i < 18 && '0' <= rest[i] && rest[i] <= '9'; i++ {
			*f.to = *f.to*10 + int64(rest[i]-'0')
		}
		if i == 0 {
			return t, false
		}
		rest = rest[i:]
	}
	return t, len(rest) == 1 && rest[0] == '}'
}
