package nexmark

import (
	"slices"
	"time"
)

// Windows are half open: a row exactly at the end of one belongs to the next.

// span is the start of a window in Unix milliseconds.
type span int64

func millis(text string) int64 { return parseTime(text).UnixMilli() }

// tumbling is the start of the window that holds a time.
func tumbling(at int64, size time.Duration) span {
	return span(at - at%size.Milliseconds())
}

// q5 finds the auctions with the most bids in the last ten seconds, every two seconds; all of them where several
// have as many.
func q5(events []Event) []Row {
	const size, every = 10_000, 2000
	windows := make(map[span]map[int64]int64)
	for _, e := range events {
		if e.Type != TypeBid {
			continue
		}
		at := millis(e.Bid.DateTime)
		for start := at - at%every; start > at-size; start -= every {
			if windows[span(start)] == nil {
				windows[span(start)] = make(map[int64]int64)
			}
			windows[span(start)][e.Bid.Auction]++
		}
	}
	var rows []Row
	for start, bids := range windows {
		most := int64(0)
		for _, n := range bids {
			most = max(most, n)
		}
		for auction, n := range bids {
			if n == most {
				rows = append(rows, Row{"auction": auction, "bids": n, "start": int64(start), "end": int64(start) + size})
			}
		}
	}
	return rows
}

// q7 finds the highest bids of every ten seconds; all of them where several are as high.
func q7(events []Event) []Row {
	windows := make(map[span][]*Bid)
	for _, e := range events {
		if e.Type != TypeBid {
			continue
		}
		start := tumbling(millis(e.Bid.DateTime), 10*time.Second)
		switch best := windows[start]; {
		case best == nil || e.Bid.Price > best[0].Price:
			windows[start] = []*Bid{e.Bid}
		case e.Bid.Price == best[0].Price:
			windows[start] = append(best, e.Bid)
		}
	}
	var rows []Row
	for _, best := range windows {
		for _, b := range best {
			rows = append(rows, q0(b))
		}
	}
	return rows
}

// q8 finds those who came and began an auction within the same ten seconds.
func q8(events []Event) []Row {
	type place struct {
		id    int64
		start span
	}
	sold := make(map[place]bool)
	for _, e := range events {
		if e.Type == TypeAuction {
			sold[place{e.Auction.Seller, tumbling(millis(e.Auction.DateTime), 10*time.Second)}] = true
		}
	}
	var rows []Row
	for _, e := range events {
		if e.Type != TypePerson {
			continue
		}
		if start := tumbling(millis(e.Person.DateTime), 10*time.Second); sold[place{e.Person.ID, start}] {
			rows = append(rows, Row{"id": e.Person.ID, "name": e.Person.Name, "start": int64(start)})
		}
	}
	return rows
}

// q11 counts the bids of a bidder until there was none for ten seconds. Two bids exactly ten seconds apart belong to
// one session.
func q11(events []Event) []Row {
	const gap = 10_000
	times := make(map[int64][]int64)
	for _, e := range events {
		if e.Type == TypeBid {
			times[e.Bid.Bidder] = append(times[e.Bid.Bidder], millis(e.Bid.DateTime))
		}
	}
	var rows []Row
	for bidder, all := range times {
		slices.Sort(all)
		for len(all) > 0 {
			n := 1
			for n < len(all) && all[n] <= all[n-1]+gap {
				n++
			}
			rows = append(rows, Row{"bidder": bidder, "bids": int64(n), "start": all[0], "end": all[n-1] + gap})
			all = all[n:]
		}
	}
	return rows
}

// q12 counts the bids of a bidder in every ten seconds of the node's clock. What the batch knows of it is how many bids
// each bidder has in all.
func q12(events []Event) []Row {
	bids := make(map[int64]int64)
	for _, e := range events {
		if e.Type == TypeBid {
			bids[e.Bid.Bidder]++
		}
	}
	var rows []Row
	for bidder, n := range bids {
		rows = append(rows, Row{"bidder": bidder, "bids": n})
	}
	return rows
}
