package functions

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// The Nexmark queries that need no join and no window, as functions without Go, against plain Go over the same
// events.

type bid struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"`
	Channel  string `json:"channel"`
	URL      string `json:"url"`
	DateTime string `json:"dateTime"`
	Extra    string `json:"extra"`
}

// nexmarkEvents makes events of the Nexmark shape; the same on every run.
func nexmarkEvents(n int) (lines []string, bids []bid) {
	random := rand.New(rand.NewPCG(4, 4))
	start := time.Date(2026, 1, 31, 22, 0, 0, 0, time.UTC)
	for i := range n {
		if i%10 == 0 {
			lines = append(lines, fmt.Sprintf(`{"event_type":0,"person":{"id":%d,"name":"Kate White","dateTime":"2026-01-31T22:00:00Z"}}`, 1000+i))
			continue
		}
		var extra strings.Builder
		for range random.IntN(60) {
			extra.WriteByte('H' + byte(random.IntN('z'-'H'+1)))
		}
		price := int64(100)
		for range random.IntN(7) {
			price = price*10 + random.Int64N(10)
		}
		b := bid{1000 + random.Int64N(300), 2000 + random.Int64N(20), price, "Apple",
			fmt.Sprintf("https://www.nexmark.com/d%d/e_%d/f/item.htm?query=1", random.IntN(9), random.IntN(9)),
			start.Add(time.Duration(i) * 97 * time.Second).Format("2006-01-02T15:04:05.000Z07:00"), extra.String()}
		text, err := json.Marshal(b)
		if err != nil {
			panic(err)
		}
		lines, bids = append(lines, `{"event_type":2,"bid":`+string(text)+`}`), append(bids, b)
	}
	return lines, bids
}

// thousandths writes n/1000 with three decimals.
func thousandths(n *big.Int) string {
	q, r := new(big.Int).QuoRem(n, big.NewInt(1000), new(big.Int))
	return fmt.Sprintf("%d.%03d", q, r)
}

func TestNexmark(t *testing.T) {
	onlyBids := Spec{Name: "OnlyBids", Mode: kis.Verify, Verify: []Rule{{Rule: "row.event_type == 2", Reason: "no bid", Else: "drop"}}}
	emit := func(fields ...EmitField) Spec {
		return Spec{Name: "Emit", Mode: kis.Calculate, Calculate: &Calculate{Emit: fields}}
	}
	flat := emit(EmitField{"auction", "row.bid.auction"}, EmitField{"bidder", "row.bid.bidder"}, EmitField{"price", "row.bid.price"},
		EmitField{"dateTime", "row.bid.dateTime"}, EmitField{"day", "day(row.bid.dateTime)"}, EmitField{"extra", "row.bid.extra"})
	drop := func(rule string) Spec {
		return Spec{Name: "Filter", Mode: kis.Verify, Verify: []Rule{{Rule: rule, Else: "drop"}}}
	}
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	lines, bids := nexmarkEvents(3000)

	type auctionDay struct {
		auction int64
		day     string
	}
	prices := make(map[auctionDay][]int64)
	last := make(map[[2]int64]bid)
	queries := []struct {
		name  string
		flow  []Spec
		wants func(b bid) string // "" : nothing comes out
	}{
		{"q0", []Spec{onlyBids, emit(EmitField{"auction", "row.bid.auction"}, EmitField{"bidder", "row.bid.bidder"}, EmitField{"price", "row.bid.price"},
			EmitField{"dateTime", "row.bid.dateTime"}, EmitField{"extra", "row.bid.extra"})},
			func(b bid) string {
				return fmt.Sprintf(`{"auction":%d,"bidder":%d,"price":%d,"dateTime":"%s","extra":%s}`, b.Auction, b.Bidder, b.Price, b.DateTime, quote(b.Extra))
			}},
		{"q1", []Spec{onlyBids, emit(EmitField{"auction", "row.bid.auction"}, EmitField{"price", "decimal(908 * row.bid.price, 3)"})},
			func(b bid) string {
				return fmt.Sprintf(`{"auction":%d,"price":%s}`, b.Auction, thousandths(new(big.Int).Mul(big.NewInt(908), big.NewInt(b.Price))))
			}},
		{"q2", []Spec{onlyBids, drop("row.bid.auction % 123 == 0"), emit(EmitField{"auction", "row.bid.auction"}, EmitField{"price", "row.bid.price"})},
			func(b bid) string {
				if b.Auction%123 != 0 {
					return ""
				}
				return fmt.Sprintf(`{"auction":%d,"price":%d}`, b.Auction, b.Price)
			}},
		{"q14", []Spec{onlyBids, drop("1000000000 < 908 * row.bid.price < 50000000000"), emit(
			EmitField{"auction", "row.bid.auction"}, EmitField{"price", "decimal(908 * row.bid.price, 3)"},
			EmitField{"bidTimeType", `let h = hour(row.bid.dateTime); h in 8..18 ? "dayTime" : h <= 6 || h >= 20 ? "nightTime" : "otherTime"`},
			EmitField{"c", `occurrences(row.bid.extra, "c")`})},
			func(b bid) string {
				if p := b.Price * 908; p <= 1_000_000_000 || p >= 50_000_000_000 {
					return ""
				}
				at, err := time.Parse(time.RFC3339, b.DateTime)
				if err != nil {
					t.Fatal(err)
				}
				kind := "otherTime"
				if h := at.Hour(); h >= 8 && h <= 18 {
					kind = "dayTime"
				} else if h <= 6 || h >= 20 {
					kind = "nightTime"
				}
				return fmt.Sprintf(`{"auction":%d,"price":%s,"bidTimeType":"%s","c":%d}`, b.Auction,
					thousandths(big.NewInt(b.Price*908)), kind, strings.Count(b.Extra, "c"))
			}},
		{"q17", []Spec{onlyBids, flat, {Name: "Days", Mode: kis.Calculate, Must: []string{"auction", "day"}, Calculate: &Calculate{
			State: []StateField{{"total", "0", "state.total + 1"},
				{"rank1", "0", "state.rank1 + (row.price < 10000 ? 1 : 0)"},
				{"rank2", "0", "state.rank2 + (10000 <= row.price < 1000000 ? 1 : 0)"},
				{"rank3", "0", "state.rank3 + (row.price >= 1000000 ? 1 : 0)"},
				{"min", "null", "min(state.min ?? row.price, row.price)"},
				{"max", "0", "max(state.max, row.price)"},
				{"sum", "0", "state.sum + row.price"}},
			Emit: []EmitField{{"auction", "row.auction"}, {"day", "row.day"}, {"total", "state.total"}, {"rank1", "state.rank1"}, {"rank2", "state.rank2"},
				{"rank3", "state.rank3"}, {"min", "state.min"}, {"max", "state.max"}, {"avg", "div(state.sum, state.total)"}, {"sum", "state.sum"}}}}},
			func(b bid) string {
				at := auctionDay{b.Auction, b.DateTime[:10]}
				prices[at] = append(prices[at], b.Price)
				var ranks [3]int
				sum := int64(0)
				for _, p := range prices[at] {
					sum += p
					switch {
					case p < 10_000:
						ranks[0]++
					case p < 1_000_000:
						ranks[1]++
					default:
						ranks[2]++
					}
				}
				return fmt.Sprintf(`{"auction":%d,"day":"%s","total":%d,"rank1":%d,"rank2":%d,"rank3":%d,"min":%d,"max":%d,"avg":%d,"sum":%d}`, b.Auction, at.day, len(prices[at]),
					ranks[0], ranks[1], ranks[2], slices.Min(prices[at]), slices.Max(prices[at]), sum/int64(len(prices[at])), sum)
			}},
		{"q18", []Spec{onlyBids, flat, {Name: "Last", Mode: kis.Calculate, Must: []string{"bidder", "auction"}, Calculate: &Calculate{
			State: []StateField{{"at", "0", "max(state.at, millis(row.dateTime))"},
				{"price", "0", "millis(row.dateTime) >= state.at ? row.price : state.price"}},
			Emit: []EmitField{{"bidder", "row.bidder"}, {"auction", "row.auction"}, {"price", "state.price"}}}}},
			func(b bid) string {
				id := [2]int64{b.Bidder, b.Auction}
				if b.DateTime >= last[id].DateTime {
					last[id] = b
				}
				return fmt.Sprintf(`{"bidder":%d,"auction":%d,"price":%d}`, b.Bidder, b.Auction, last[id].Price)
			}},
		{"q22", []Spec{onlyBids, emit(EmitField{"auction", "row.bid.auction"}, EmitField{"dir1", `split(row.bid.url, "/")[3]`},
			EmitField{"dir2", `split(row.bid.url, "/")[4]`}, EmitField{"dir3", `split(row.bid.url, "/")[5]`})},
			func(b bid) string {
				parts := strings.Split(b.URL, "/")
				return fmt.Sprintf(`{"auction":%d,"dir1":"%s","dir2":"%s","dir3":"%s"}`, b.Auction, parts[3], parts[4], parts[5])
			}},
	}
	for _, q := range queries {
		t.Run(q.name, func(t *testing.T) {
			c, next, came := newChain(t, q.flow...), 0, 0
			for _, line := range lines {
				out, _, err := c.send(line)
				if err != nil && kis.VerdictOf(err) != kis.VerdictDrop {
					t.Fatalf("%s: %v", line, err)
				}
				want := ""
				if strings.HasPrefix(line, `{"event_type":2`) {
					want = q.wants(bids[next])
					next++
				}
				if got := strings.Join(out, " "); got != want {
					t.Fatalf("%s\n got %s\nwant %s", line, got, want)
				}
				if want != "" {
					came++
				}
			}
			if came < 20 {
				t.Errorf("only %d rows came out", came)
			}
		})
	}
}
