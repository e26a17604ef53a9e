package nexmark

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestByHand runs the plain computations over a few events whose answers are plain to see.
func TestByHand(t *testing.T) {
	at := func(second string) string { return "2026-01-01T00:00:" + second + "Z" }
	person := func(id int64, name, state, second string) Event {
		return Event{Type: TypePerson, DateTime: at(second), Person: &Person{ID: id, Name: name, City: "Bend", State: state, DateTime: at(second)}}
	}
	auction := func(id, seller, category, reserve int64, begin, end string) Event {
		return Event{Type: TypeAuction, DateTime: at(begin), Auction: &Auction{ID: id, Seller: seller, Category: category, Reserve: reserve, DateTime: at(begin), Expires: at(end)}}
	}
	bid := func(auction, bidder, price int64, second string) Event {
		return Event{Type: TypeBid, DateTime: at(second), Bid: &Bid{Auction: auction, Bidder: bidder, Price: price, DateTime: at(second)}}
	}
	events := []Event{
		bid(1, 8, 300, "00.500"),                   // before its auction
		person(5, "Ann", "OR", "01.000"),           //
		auction(1, 5, 10, 100, "01.000", "05.000"), //
		auction(2, 5, 11, 500, "02.000", "06.000"), //
		auction(3, 6, 10, 100, "02.000", "06.000"), // its seller comes later
		bid(1, 7, 200, "02.000"),                   //
		bid(1, 9, 90, "03.000"),                    // below the reserve
		bid(2, 7, 400, "03.000"),                   // below the reserve
		bid(1, 8, 200, "04.000"),                   // as high as the first
		bid(1, 7, 900, "05.000"),                   // at the end
		person(6, "Bob", "AZ", "10.000"),           // of another state, in the next window
		bid(3, 7, 150, "12.000"),                   // too late
		bid(2, 7, 900, "22.001"),                   // a new session: more than 10 s
	}
	start := parseTime(at("00.000")).UnixMilli()
	text := func(rows []Row, fields string) string {
		var out []string
		for _, r := range rows {
			line := ""
			for _, f := range strings.Fields(fields) {
				v := r[f]
				if f == "start" || f == "end" {
					v = (v.(int64) - start) / 1000
				}
				line += fmt.Sprint(v, " ")
			}
			out = append(out, strings.TrimSpace(line))
		}
		return strings.Join(out, ", ")
	}
	sorted := func(s string) string {
		parts := strings.Split(s, ", ")
		slices.Sort(parts)
		return strings.Join(parts, ", ")
	}
	for _, c := range []struct {
		query        string
		answer       func([]Event) []Row
		fields, want string
	}{
		{"q3", q3, "name id", "Ann 1"},
		{"q4", q4, "category average", "10 200, 11 400, 10 900"},
		{"q6", q6, "seller average", "5 200"},
		{"q7", q7, "price auction", "150 3, 900 1, 900 2"},
		{"q8", q8, "id name start", "5 Ann 0"},
		{"q9", q9, "id bidder price", "1 7 200"},
		{"q12", q12, "bidder bids", "7 5, 8 2, 9 1"},
	} {
		got := text(c.answer(events), c.fields)
		if c.query != "q4" { // whose order counts
			got = sorted(got)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.query, got, c.want)
		}
	}
	if got := sorted(text(q11(events), "bidder bids start")); got != "7 1 22, 7 4 2, 8 2 0, 9 1 3" {
		t.Errorf("q11: %s", got)
	}
	all := q5(events)
	seen := make(map[int64]string)
	for _, r := range all {
		from := (r["start"].(int64) - start) / 1000
		seen[from] += fmt.Sprintf("%d:%d ", r["auction"], r["bids"])
	}
	for from, want := range map[int64]string{-8: "1:1 ", -2: "1:5 ", 0: "1:5 ", 4: "1:2 ", 12: "3:1 ", 14: "2:1 "} {
		if seen[from] != want {
			t.Errorf("q5, window from %d s: %s, want %s", from, seen[from], want)
		}
	}
	if got := text(q15(events)[7:], "total_bids total_bidders total_auctions rank1_bids rank2_bids"); got != "8 3 3 8 0" {
		t.Errorf("q15: %s", got)
	}
	last := q19(events)
	if got := fmt.Sprint(last[len(last)-1]["top"]); !strings.Contains(got, `"price":900`) || strings.Index(got, `"price":900`) > strings.Index(got, `"price":400`) {
		t.Errorf("q19: %s", got)
	}
	if got := text(q20(events), "auction bidder price auction_dateTime"); !strings.HasPrefix(got, "1 8 300 "+at("01.000")) || strings.Count(got, ",") != 5 {
		t.Errorf("q20: %s", got)
	}
}
