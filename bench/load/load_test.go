package load

import (
	"encoding/json"
	"strings"
	"testing"
)

func outputs(t *testing.T, s Spec) [][]byte {
	t.Helper()
	totals := make(map[int64]*Total)
	var lines [][]byte
	for src := s.Source(); ; {
		o, ok := src.Next()
		if !ok {
			return lines
		}
		text := o.AppendJSON(nil, 1_790_000_000_000)
		if len(text) != Size {
			t.Fatalf("order %s has %d bytes, want %d", text, len(text), Size)
		}
		var in struct{ UserID, OrderID, Amount int64 }
		if err := json.Unmarshal(text, &in); err != nil || in.UserID != o.User || in.OrderID != o.ID || in.Amount != o.Amount {
			t.Fatalf("order %s reads as %+v, %v", text, in, err)
		}
		if totals[o.User] == nil {
			totals[o.User] = &Total{User: o.User}
		}
		totals[o.User].Add(o.Amount)
		lines = append(lines, totals[o.User].AppendJSON(nil))
	}
}

func TestExpectAccepts(t *testing.T) {
	for _, s := range []Spec{{Events: 5000, Users: 100, Skew: 1.1, Seed: 1}, {Events: 1000, Users: 1000}, {Events: 3, Users: 1, Seed: 9}, {Events: 500, Users: 60, After: 1000}} {
		e := s.Expect()
		for i, line := range outputs(t, s) {
			if place := e.Output(line); place != i {
				t.Fatalf("%v: output %d answers order %d", s, i, place)
			}
		}
		if err := e.Done(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
		if s.Skew == 0 && e.Users() != s.Users {
			t.Errorf("%v: %d users", s, e.Users())
		}
	}
}

func TestExpectTakesPacked(t *testing.T) {
	s := Spec{Events: 1000, Users: 10, Skew: 1.1, Seed: 3}
	e := s.Expect()
	var text []byte
	for _, line := range outputs(t, s) {
		text = append(append(text, line...), '\n')
	}
	e.Message(text, nil)
	if err := e.Done(); err != nil {
		t.Error(err)
	}
}

func TestExpectRefuses(t *testing.T) {
	s := Spec{Events: 1000, Users: 10, Skew: 1.1, Seed: 3}
	good := outputs(t, s)
	for name, spoil := range map[string]func([][]byte) [][]byte{
		"lost":      func(l [][]byte) [][]byte { return append(l[:500:500], l[501:]...) },
		"twice":     func(l [][]byte) [][]byte { return append(l[:501:501], l[500:]...) },
		"last lost": func(l [][]byte) [][]byte { return l[:999] },
		"wrong value": func(l [][]byte) [][]byte {
			l[7] = []byte(strings.Replace(string(l[7]), `"max":`, `"max":1`, 1))
			return l
		},
		"no such user": func(l [][]byte) [][]byte { l[7] = []byte(`{"userid":11,"count":1,"total":1,"max":1}`); return l },
		"not JSON":     func(l [][]byte) [][]byte { l[7] = []byte(`{`); return l },
		"two of one user the other way round": func(l [][]byte) [][]byte {
			first := -1
			for i, line := range l {
				if strings.HasPrefix(string(line), `{"userid":1,`) {
					if first < 0 {
						first = i
						continue
					}
					l[first], l[i] = l[i], l[first]
					break
				}
			}
			return l
		},
	} {
		e := s.Expect()
		for _, line := range spoil(append([][]byte(nil), good...)) {
			e.Output(line)
		}
		if e.Done() == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestSourceIsTheSameAgain(t *testing.T) {
	s := Spec{Events: 100, Users: 50, Skew: 1.1, Seed: 5}
	a, b := s.Source(), s.Source()
	other := Spec{Events: 100, Users: 50, Skew: 1.1, Seed: 6}.Source()
	differs := false
	for {
		x, ok := a.Next()
		y, _ := b.Next()
		z, _ := other.Next()
		if x != y {
			t.Fatalf("%v and %v", x, y)
		}
		if !ok {
			break
		}
		differs = differs || x != z
	}
	if !differs {
		t.Error("another seed gives the same orders")
	}
}
