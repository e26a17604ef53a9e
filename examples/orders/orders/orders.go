// Package orders makes the input of the orders example, and counts by itself what must come of it.
//
// The lines are the same for the same number and seed. One in a hundred is bad, in one of several ways; what
// must become of it is known here too. Nothing in this package knows KisFlow.
package orders

import (
	"fmt"
	"math/rand/v2"
)

// Kind is what is wrong with a line.
type Kind string

// The kinds of lines.
const (
	Good        Kind = "good"
	NoAmount    Kind = "cents of zero or below"
	NoUser      Kind = "no userid"
	WrongAmount Kind = "cents as a text"
	WrongUser   Kind = "userid as an object"
	Malformed   Kind = "no JSON"
)

var badKinds = [...]Kind{NoAmount, NoUser, WrongAmount, WrongUser, Malformed}

// Line is one event: a line of an order.
type Line struct {
	Text    string // as it is published, without the end of line
	Kind    Kind
	User    int64
	Order   int64
	Product string
	Cents   int64
}

// Source makes lines.
type Source struct {
	n, next int
	rng     *rand.Rand
	open    []open // orders that get more lines; bounded by openOrders
	orders  int64
}

// open is an order that is not complete.
type open struct {
	id, user int64
	left     int
}

const (
	openOrders = 50    // orders that grow at the same time
	maxLines   = 5     // of an order
	users      = 2_000 // the most that there can be
)

// New starts a sequence of n lines.
func New(n int, seed uint64) *Source {
	return &Source{n: n, rng: rand.New(rand.NewPCG(seed, 0x6c696e65))}
}

// Next returns the next line, or false after the last.
func (s *Source) Next() (Line, bool) {
	if s.next == s.n {
		return Line{}, false
	}
	s.next++
	for len(s.open) < openOrders {
		s.orders++
		s.open = append(s.open, open{id: s.orders, user: 1 + s.user(), left: 1 + s.rng.IntN(maxLines)})
	}
	i := s.rng.IntN(len(s.open))
	o := &s.open[i]
	l := Line{Kind: Good, User: o.user, Order: o.id, Product: fmt.Sprintf("P-%03d", s.rng.IntN(500)), Cents: 100 + s.rng.Int64N(50_000)}
	if o.left--; o.left == 0 {
		s.open[i] = s.open[len(s.open)-1]
		s.open = s.open[:len(s.open)-1]
	}
	if s.next%100 == 37 {
		l.Kind = badKinds[s.next/100%len(badKinds)]
	}
	l.write(s.next)
	return l, true
}

// user prefers some users to others, so that keys are as uneven as in life.
func (s *Source) user() int64 {
	return min(s.rng.Int64N(users), s.rng.Int64N(users), s.rng.Int64N(users))
}

// write sets Text. The number makes every text another one.
func (l *Line) write(number int) {
	user := fmt.Sprintf(`"userid":%d,`, l.User)
	cents := fmt.Sprint(l.Cents)
	switch l.Kind {
	case NoAmount:
		l.Cents = -l.Cents * int64(number/100%2) // zero or below
		cents = fmt.Sprint(l.Cents)
	case NoUser:
		user = ""
	case WrongAmount:
		cents = fmt.Sprintf("%q", fmt.Sprintf("%d.%02d", l.Cents/100, l.Cents%100))
	case WrongUser:
		user = fmt.Sprintf(`"userid":{"id":%d},`, l.User)
	}
	l.Text = fmt.Sprintf(`{"line":%d,%s"orderid":%d,"product":%q,"cents":%s}`, number, user, l.Order, l.Product, cents)
	if l.Kind == Malformed {
		l.Text = l.Text[:len(l.Text)/2] // as if the sender had died in the middle
	}
}

// UserTotal is what the flow Orders must know of a user.
type UserTotal struct {
	Lines int64 `json:"lines"`
	Cents int64 `json:"cents"`
	Most  int64 `json:"most"`
}

// OrderTotal is what the flow OrderTotals must know of an order.
type OrderTotal struct {
	User  int64 `json:"userid"`
	Lines int64 `json:"lines"`
	Cents int64 `json:"cents"`
}

// Result is what must come of a sequence.
type Result struct {
	Lines  int
	Users  map[int64]UserTotal
	Orders map[int64]OrderTotal
	Bad    map[string]Kind // text of each dead letter
}

// Count reads a whole sequence and counts, line by line.
func Count(s *Source) Result {
	r := Result{Users: make(map[int64]UserTotal), Orders: make(map[int64]OrderTotal), Bad: make(map[string]Kind)}
	for {
		l, ok := s.Next()
		if !ok {
			return r
		}
		r.Lines++
		if l.Kind != Good {
			r.Bad[l.Text] = l.Kind
			continue
		}
		u := r.Users[l.User]
		u.Lines++
		u.Cents += l.Cents
		u.Most = max(u.Most, l.Cents)
		r.Users[l.User] = u
		o := r.Orders[l.Order]
		o.User = l.User
		o.Lines++
		o.Cents += l.Cents
		r.Orders[l.Order] = o
	}
}
