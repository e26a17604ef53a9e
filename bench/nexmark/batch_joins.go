package nexmark

import (
	"cmp"
	"fmt"
	"slices"
)

// auctionsOf are the auctions by their numbers.
func auctionsOf(events []Event) map[int64]*Auction {
	all := make(map[int64]*Auction)
	for _, e := range events {
		if e.Type == TypeAuction {
			all[e.Auction.ID] = e.Auction
		}
	}
	return all
}

// q3 finds the auctions of category 10 whose sellers live in three states.
func q3(events []Event) []Row {
	people := make(map[int64]*Person)
	for _, e := range events {
		if e.Type == TypePerson && slices.Contains([]string{"OR", "ID", "CA"}, e.Person.State) {
			people[e.Person.ID] = e.Person
		}
	}
	var rows []Row
	for _, e := range events {
		if e.Type != TypeAuction || e.Auction.Category != 10 {
			continue
		}
		if p := people[e.Auction.Seller]; p != nil {
			rows = append(rows, Row{"name": p.Name, "city": p.City, "state": p.State, "id": e.Auction.ID})
		}
	}
	return rows
}

// q4 keeps the average of the final prices of a category's auctions. An auction's final price is that of the highest
// bid from its beginning to its end, both included. There is a row for every bid that is the best one so far of
// those that have come, and whose auction has.
func q4(events []Event) []Row {
	auctions := make(map[int64]*Auction)
	waiting := make(map[int64][]*Bid)
	final, total, ended := make(map[int64]int64), make(map[int64]int64), make(map[int64]int64)
	var rows []Row
	bid := func(a *Auction, b *Bid) {
		if b.DateTime < a.DateTime || b.DateTime > a.Expires || b.Price <= final[a.ID] {
			return
		}
		if final[a.ID] == 0 {
			ended[a.Category]++
		}
		total[a.Category] += b.Price - final[a.ID]
		final[a.ID] = b.Price
		rows = append(rows, Row{"category": a.Category, "average": total[a.Category] / ended[a.Category]})
	}
	for _, e := range events {
		switch {
		case e.Type == TypeAuction:
			auctions[e.Auction.ID] = e.Auction
			for _, b := range waiting[e.Auction.ID] {
				bid(e.Auction, b)
			}
		case e.Type == TypeBid && auctions[e.Bid.Auction] != nil:
			bid(auctions[e.Bid.Auction], e.Bid)
		case e.Type == TypeBid:
			waiting[e.Bid.Auction] = append(waiting[e.Bid.Auction], e.Bid)
		}
	}
	return rows
}

// sale is an auction with the bid that has won it.
type sale struct {
	auction *Auction
	bid     *Bid
}

// sales are the auctions that were won: by the highest bid, the oldest of those, that is not below the reserve, from the
// auction's beginning to before its end. The oldest sale is the first.
func sales(events []Event) []sale {
	auctions := auctionsOf(events)
	won := make(map[int64]*Bid)
	for _, e := range events {
		if e.Type != TypeBid {
			continue
		}
		b, a := e.Bid, auctions[e.Bid.Auction]
		if a == nil || b.Price < a.Reserve || b.DateTime < a.DateTime || b.DateTime >= a.Expires {
			continue
		}
		if best := won[a.ID]; best == nil || b.Price > best.Price || b.Price == best.Price && b.DateTime < best.DateTime {
			won[a.ID] = b
		}
	}
	var all []sale
	for id, b := range won {
		all = append(all, sale{auctions[id], b})
	}
	slices.SortFunc(all, func(x, y sale) int {
		return cmp.Or(cmp.Compare(x.bid.DateTime, y.bid.DateTime), cmp.Compare(x.bid.Price, y.bid.Price), cmp.Compare(x.auction.ID, y.auction.ID))
	})
	return all
}

// q6 keeps the average price of a seller's last ten sales.
func q6(events []Event) []Row {
	prices := make(map[int64][]int64)
	var rows []Row
	for _, s := range sales(events) {
		p := append(prices[s.auction.Seller], s.bid.Price)
		if len(p) > 10 {
			p = p[1:]
		}
		prices[s.auction.Seller] = p
		sum := int64(0)
		for _, price := range p {
			sum += price
		}
		rows = append(rows, Row{"seller": s.auction.Seller, "average": sum / int64(len(p))})
	}
	return rows
}

// q9 finds the bids that have won.
func q9(events []Event) []Row {
	var rows []Row
	for _, s := range sales(events) {
		a, b := s.auction, s.bid
		rows = append(rows, Row{
			"id": a.ID, "itemName": a.ItemName, "description": a.Description, "initialBid": a.InitialBid, "reserve": a.Reserve,
			"dateTime": a.DateTime, "expires": a.Expires, "seller": a.Seller, "category": a.Category, "extra": a.Extra,
			"bidder": b.Bidder, "price": b.Price, "bid_dateTime": b.DateTime, "bid_extra": b.Extra,
		})
	}
	return rows
}

// q13 adds to bids what the side table says of them; a bid of which it says nothing has no row.
func q13(events []Event) []Row {
	side := make(map[int64]string)
	for _, e := range events {
		if e.Type == TypeSide {
			side[e.Side.Key] = e.Side.Value
		}
	}
	return perBid(func(b *Bid) Row {
		value, ok := side[b.Auction%sideRows]
		if !ok {
			return nil
		}
		return Row{"auction": b.Auction, "bidder": b.Bidder, "price": b.Price, "dateTime": b.DateTime, "value": value}
	})(events)
}

// q20 puts bids together with their auctions, of category 10.
func q20(events []Event) []Row {
	auctions := auctionsOf(events)
	return perBid(func(b *Bid) Row {
		a := auctions[b.Auction]
		if a == nil || a.Category != 10 {
			return nil
		}
		return Row{
			"auction": b.Auction, "bidder": b.Bidder, "price": b.Price, "channel": b.Channel, "url": b.URL,
			"dateTime": b.DateTime, "extra": b.Extra,
			"itemName": a.ItemName, "description": a.Description, "initialBid": a.InitialBid, "reserve": a.Reserve,
			"auction_dateTime": a.DateTime, "expires": a.Expires, "seller": a.Seller, "category": a.Category, "auction_extra": a.Extra,
		}
	})(events)
}

// q15 counts the bids of a day, and who bids, and for what, in all and by the ranks of prices.
func q15(events []Event) []Row {
	type set map[int64]bool
	type stats struct {
		bids              [4]int64
		bidders, auctions [4]set
	}
	days := make(map[string]*stats)
	var rows []Row
	for _, e := range events {
		if e.Type != TypeBid {
			continue
		}
		day := e.Bid.DateTime[:len("2006-01-02")]
		s := days[day]
		if s == nil {
			s = &stats{}
			for i := range s.bidders {
				s.bidders[i], s.auctions[i] = make(set), make(set)
			}
			days[day] = s
		}
		row := Row{"day": day}
		for i, what := range []string{"total", "rank1", "rank2", "rank3"} {
			if i == 0 || i == rank(e.Bid) {
				s.bids[i]++
				s.bidders[i][e.Bid.Bidder] = true
				s.auctions[i][e.Bid.Auction] = true
			}
			row[what+"_bids"], row[what+"_bidders"], row[what+"_auctions"] = s.bids[i], int64(len(s.bidders[i])), int64(len(s.auctions[i]))
		}
		rows = append(rows, row)
	}
	return rows
}

// rank is the rank of a bid's price, from 1 to 3.
func rank(b *Bid) int {
	switch {
	case b.Price < 10_000:
		return 1
	case b.Price < 1_000_000:
		return 2
	}
	return 3
}

// q19 keeps the ten highest bids for an auction; of equal ones the older is the higher. There is a row for every bid that
// is among them when it comes.
func q19(events []Event) []Row {
	top := make(map[int64][]*Bid)
	var rows []Row
	for _, e := range events {
		if e.Type != TypeBid {
			continue
		}
		best := append(top[e.Bid.Auction], e.Bid)
		slices.SortStableFunc(best, func(x, y *Bid) int {
			return cmp.Or(cmp.Compare(y.Price, x.Price), cmp.Compare(x.DateTime, y.DateTime))
		})
		best = best[:min(10, len(best))]
		top[e.Bid.Auction] = best
		if e.Bid.Price < best[len(best)-1].Price {
			continue
		}
		list := make([]string, len(best))
		for i, b := range best {
			list[i] = fmt.Sprintf(`{"bidder":%d,"price":%d,"dateTime":%q}`, b.Bidder, b.Price, b.DateTime)
		}
		rows = append(rows, Row{"auction": e.Bid.Auction, "top": list})
	}
	return rows
}
