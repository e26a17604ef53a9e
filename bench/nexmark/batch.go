package nexmark

import (
	"fmt"
	"strings"
	"time"
)

// Row is one row of an answer. Fields are as the flow names them; a number that is not an int64 is a Decimal.
type Row map[string]any

// Decimal is a number as a text of digits.
type Decimal string

// Query is one query, computed from a list of events.
type Query struct {
	Name string // q0: flows/q0.yaml answers it on OutSubject("q0")
	// Key is the fields whose rows come in an order of their own. Without fields no order is promised.
	Key []string
	// Running: there is a row for every change, and the last one of each key is the answer.
	Running bool
	// Counted: the number of rows is the same in whatever order the events come.
	Counted bool
	// Least is the lowest rate, in events a second of event time, for which the flow has rows at all, and its bounds of time
	// are wide enough.
	Least float64
	// Clock: the rows depend on the clock. What can be compared is the sum of a field.
	Clock string
	// Wait is how long behind the event that completes them rows come out, in event time.
	Wait time.Duration
	// Answer computes the rows, in the order of the events that cause them.
	Answer func([]Event) []Row
}

// Lateness is how far events may be out of order for the queries that go by event time.
const Lateness = 4 * time.Second

// Queries are the queries that there are flows for.
func Queries() []Query {
	return []Query{
		{Name: "q0", Answer: perBid(q0)},
		{Name: "q1", Answer: perBid(q1)},
		{Name: "q2", Answer: perBid(q2)},
		{Name: "q3", Answer: q3},
		{Name: "q4", Key: []string{"category"}, Running: true, Least: 30, Answer: q4},
		{Name: "q5", Wait: Lateness, Answer: q5},
		{Name: "q6", Key: []string{"seller"}, Running: true, Least: 30, Wait: Lateness, Answer: q6},
		{Name: "q7", Wait: Lateness, Answer: q7},
		{Name: "q8", Least: 1, Wait: Lateness, Answer: q8},
		{Name: "q9", Least: 30, Wait: Lateness, Answer: q9},
		{Name: "q11", Wait: Lateness, Answer: q11},
		{Name: "q12", Clock: "bids", Answer: q12},
		{Name: "q13", Answer: q13},
		{Name: "q14", Answer: perBid(q14)},
		{Name: "q15", Key: []string{"day"}, Running: true, Counted: true, Answer: q15},
		{Name: "q17", Key: []string{"auction", "day"}, Running: true, Counted: true, Answer: q17},
		{Name: "q18", Key: []string{"bidder", "auction"}, Running: true, Counted: true, Answer: q18},
		{Name: "q19", Key: []string{"auction"}, Running: true, Answer: q19},
		{Name: "q20", Least: 40, Answer: q20},
		{Name: "q22", Answer: perBid(q22)},
	}
}

// perBid is a query that looks at one bid at a time; nil is no row.
func perBid(row func(*Bid) Row) func([]Event) []Row {
	return func(events []Event) []Row {
		var rows []Row
		for _, e := range events {
			if e.Type != TypeBid {
				continue
			}
			if r := row(e.Bid); r != nil {
				rows = append(rows, r)
			}
		}
		return rows
	}
}

// q0 passes bids through.
func q0(b *Bid) Row {
	return Row{"auction": b.Auction, "bidder": b.Bidder, "price": b.Price, "dateTime": b.DateTime, "extra": b.Extra}
}

// q1 turns dollars into euros, exactly.
func q1(b *Bid) Row {
	return Row{"auction": b.Auction, "bidder": b.Bidder, "price": euros(b), "dateTime": b.DateTime, "extra": b.Extra}
}

func euros(b *Bid) Decimal {
	return Decimal(fmt.Sprintf("%d.%03d", 908*b.Price/1000, 908*b.Price%1000))
}

// q2 selects the bids of some auctions.
func q2(b *Bid) Row {
	if b.Auction%123 != 0 {
		return nil
	}
	return Row{"auction": b.Auction, "price": b.Price}
}

// q14 selects bids by their price in euros, and names the time of the day.
func q14(b *Bid) Row {
	if p := 908 * b.Price; p <= 1_000_000_000 || p >= 50_000_000_000 {
		return nil
	}
	kind := "otherTime"
	switch h := parseTime(b.DateTime).Hour(); {
	case h >= 8 && h <= 18:
		kind = "dayTime"
	case h <= 6 || h >= 20:
		kind = "nightTime"
	}
	return Row{
		"auction": b.Auction, "bidder": b.Bidder, "price": euros(b), "bidTimeType": kind, "dateTime": b.DateTime,
		"extra": b.Extra, "c_counts": int64(strings.Count(b.Extra, "c")),
	}
}

// q17 keeps statistics of an auction's bids on a day.
func q17(events []Event) []Row {
	type key struct {
		auction int64
		day     string
	}
	type stats struct{ total, rank1, rank2, rank3, low, high, sum int64 }
	all := make(map[key]*stats)
	var rows []Row
	for _, e := range events {
		b := e.Bid
		if e.Type != TypeBid {
			continue
		}
		k := key{b.Auction, parseTime(b.DateTime).Format(time.DateOnly)}
		s := all[k]
		if s == nil {
			s = &stats{low: b.Price, high: b.Price}
			all[k] = s
		}
		s.total++
		switch {
		case b.Price < 10_000:
			s.rank1++
		case b.Price < 1_000_000:
			s.rank2++
		default:
			s.rank3++
		}
		s.low, s.high, s.sum = min(s.low, b.Price), max(s.high, b.Price), s.sum+b.Price
		rows = append(rows, Row{
			"auction": k.auction, "day": k.day, "total_bids": s.total, "rank1_bids": s.rank1, "rank2_bids": s.rank2,
			"rank3_bids": s.rank3, "min_price": s.low, "max_price": s.high, "avg_price": s.sum / s.total, "sum_price": s.sum,
		})
	}
	return rows
}

// q18 keeps the last bid of a bidder for an auction, by event time; of two at the same time the later one.
func q18(events []Event) []Row {
	type key struct{ bidder, auction int64 }
	last := make(map[key]*Bid)
	var rows []Row
	for _, e := range events {
		b := e.Bid
		if e.Type != TypeBid {
			continue
		}
		k := key{b.Bidder, b.Auction}
		if old := last[k]; old == nil || !parseTime(b.DateTime).Before(parseTime(old.DateTime)) {
			last[k] = b
		}
		b = last[k]
		rows = append(rows, Row{
			"auction": b.Auction, "bidder": b.Bidder, "price": b.Price, "channel": b.Channel, "url": b.URL,
			"dateTime": b.DateTime, "extra": b.Extra,
		})
	}
	return rows
}

// q22 takes the folders out of a bid's address.
func q22(b *Bid) Row {
	part := strings.Split(b.URL, "/")
	return Row{
		"auction": b.Auction, "bidder": b.Bidder, "price": b.Price, "channel": b.Channel,
		"dir1": part[3], "dir2": part[4], "dir3": part[5],
	}
}

// parseTime reads a time that the generator wrote.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic("nexmark: " + err.Error()) // the events are ours
	}
	return t.UTC()
}
