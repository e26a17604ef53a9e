package load

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// Size is the length of an order in bytes.
const Size = 128

// Spec names a sequence of orders. The zero Spec has no orders.
type Spec struct {
	Events int     // how many orders
	Users  int     // of how many users; at least 1
	Skew   float64 // Zipf's exponent, above 1; 0: every user in turn
	Seed   uint64  // another seed, another sequence
	After  int64   // users are numbered from After+1 on
}

// Order is one event.
type Order struct {
	User, ID, Amount int64
}

// Source makes the orders of a Spec, one after another.
type Source struct {
	spec Spec
	rng  *rand.Rand
	zipf *rand.Zipf
	next int
}

// Source starts at the first order.
func (s Spec) Source() *Source {
	src := &Source{spec: s, rng: rand.New(rand.NewPCG(s.Seed, 0x6b69736f72646572))}
	if s.Skew > 0 {
		src.zipf = rand.NewZipf(src.rng, s.Skew, 1, uint64(s.Users-1))
	}
	return src
}

// Next returns the next order, or false after the last.
func (s *Source) Next() (Order, bool) {
	if s.next == s.spec.Events {
		return Order{}, false
	}
	o := Order{ID: int64(s.next) + 1}
	if s.zipf != nil {
		o.User = s.spec.After + int64(s.zipf.Uint64()) + 1
	} else {
		o.User = s.spec.After + int64(s.next%s.spec.Users) + 1
	}
	o.Amount = 1 + s.rng.Int64N(100_000)
	s.next++
	return o, true
}

// AppendJSON appends the order to dst; now is its time in milliseconds since 1970. The text is Size bytes
// long as long as its numbers leave room for that.
func (o Order) AppendJSON(dst []byte, now int64) []byte {
	start := len(dst)
	dst = append(dst, `{"userid":`...)
	dst = strconv.AppendInt(dst, o.User, 10)
	dst = append(dst, `,"orderid":`...)
	dst = strconv.AppendInt(dst, o.ID, 10)
	dst = append(dst, `,"amount":`...)
	dst = strconv.AppendInt(dst, o.Amount, 10)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, now, 10)
	dst = append(dst, `,"sku":"`...)
	dst = o.appendSKU(dst)
	dst = append(dst, `","pad":"`...)
	for len(dst)-start < Size-2 {
		dst = append(dst, 'x')
	}
	return append(dst, `"}`...)
}

// SKU is what was ordered: one of a thousand.
func (o Order) SKU() string { return string(o.appendSKU(nil)) }

func (o Order) appendSKU(dst []byte) []byte {
	return strconv.AppendInt(append(dst, "sku-"...), 1000+o.Amount%1000, 10)
}

// Total is what one order's output says: the user's totals after it.
type Total struct {
	User  int64 `json:"userid"`
	Count int64 `json:"count"`
	Total int64 `json:"total"`
	Max   int64 `json:"max"`
}

// AppendJSON appends the output as every program here writes it.
func (t Total) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"userid":`...)
	dst = strconv.AppendInt(dst, t.User, 10)
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, t.Count, 10)
	dst = append(dst, `,"total":`...)
	dst = strconv.AppendInt(dst, t.Total, 10)
	dst = append(dst, `,"max":`...)
	dst = strconv.AppendInt(dst, t.Max, 10)
	return append(dst, '}')
}

// Add counts one more order of the user.
func (t *Total) Add(amount int64) {
	t.Count++
	t.Total += amount
	t.Max = max(t.Max, amount)
}

func (s Spec) String() string {
	return fmt.Sprintf("%d orders of %d users, Zipf %g, seed %d", s.Events, s.Users, s.Skew, s.Seed)
}
