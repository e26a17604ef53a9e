package orders

import (
	"encoding/json"
	"testing"
)

// TestCount counts the published texts once more, by reading them as JSON.
func TestCount(t *testing.T) {
	const n = 20_000
	want := Count(New(n, 1))
	users, orders := make(map[int64]UserTotal), make(map[int64]OrderTotal)
	kinds := make(map[Kind]int)
	for s := New(n, 1); ; {
		l, ok := s.Next()
		if !ok {
			break
		}
		var in struct{ UserID, OrderID, Cents *int64 }
		err := json.Unmarshal([]byte(l.Text), &in)
		good := err == nil && in.UserID != nil && in.OrderID != nil && in.Cents != nil && *in.Cents > 0
		if good != (l.Kind == Good) {
			t.Fatalf("%s is called %s, but reads as %+v, %v", l.Text, l.Kind, in, err)
		}
		kinds[l.Kind]++
		if !good {
			if want.Bad[l.Text] != l.Kind {
				t.Errorf("%s is no dead letter", l.Text)
			}
			continue
		}
		u, o := users[*in.UserID], orders[*in.OrderID]
		users[*in.UserID] = UserTotal{u.Lines + 1, u.Cents + *in.Cents, max(u.Most, *in.Cents)}
		orders[*in.OrderID] = OrderTotal{*in.UserID, o.Lines + 1, o.Cents + *in.Cents}
	}
	bad := 0
	for _, k := range badKinds {
		if kinds[k] == 0 {
			t.Errorf("no line with %s", k)
		}
		bad += kinds[k]
	}
	if bad != n/100 || len(want.Bad) != bad {
		t.Errorf("%d bad lines, %d of them different, want one in a hundred", bad, len(want.Bad))
	}
	if len(users) != len(want.Users) || len(orders) != len(want.Orders) {
		t.Errorf("%d users and %d orders, want %d and %d", len(users), len(orders), len(want.Users), len(want.Orders))
	}
	for id, u := range users {
		if want.Users[id] != u {
			t.Errorf("user %d: %+v, want %+v", id, want.Users[id], u)
		}
	}
	several := false
	for id, o := range orders {
		if want.Orders[id] != o {
			t.Errorf("order %d: %+v, want %+v", id, want.Orders[id], o)
		}
		several = several || o.Lines > 1
	}
	if !several {
		t.Error("every order has one line only")
	}
}

func TestSameSeedSameLines(t *testing.T) {
	a, b, other := New(1000, 7), New(1000, 7), New(1000, 8)
	differs := false
	for {
		x, ok := a.Next()
		y, _ := b.Next()
		z, _ := other.Next()
		if x != y {
			t.Fatalf("%s and %s", x.Text, y.Text)
		}
		if !ok {
			break
		}
		differs = differs || x != z
	}
	if !differs {
		t.Error("another seed gives the same lines")
	}
}
