package nexmark

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"strings"
	"time"
)

// Event is one event of the stream. One of the three is there, as Type says.
type Event struct {
	Type    int      `json:"event_type"`
	Person  *Person  `json:"person,omitempty"`
	Auction *Auction `json:"auction,omitempty"`
	Bid     *Bid     `json:"bid,omitempty"`
}

// Types of events.
const (
	TypePerson = iota
	TypeAuction
	TypeBid
)

// Person is someone who sells and bids.
type Person struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	Email      string `json:"emailAddress"`
	CreditCard string `json:"creditCard"`
	City       string `json:"city"`
	State      string `json:"state"`
	DateTime   string `json:"dateTime"`
	Extra      string `json:"extra"`
}

// Auction is something that is sold. Prices are in cents.
type Auction struct {
	ID          int64  `json:"id"`
	ItemName    string `json:"itemName"`
	Description string `json:"description"`
	InitialBid  int64  `json:"initialBid"`
	Reserve     int64  `json:"reserve"`
	DateTime    string `json:"dateTime"`
	Expires     string `json:"expires"`
	Seller      int64  `json:"seller"`
	Category    int64  `json:"category"`
	Extra       string `json:"extra"`
}

// Bid is an offer of a person for an auction.
type Bid struct {
	Auction  int64  `json:"auction"`
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"`
	Channel  string `json:"channel"`
	URL      string `json:"url"`
	DateTime string `json:"dateTime"`
	Extra    string `json:"extra"`
}

// Generator makes events. The zero Generator makes a thousand events a second of event time, from the
// beginning of 2026 on.
type Generator struct {
	Seed  uint64
	Start time.Time // event time of event 0
	Rate  float64   // events a second of event time
	// Group is how many neighbours are dealt out of order (5, say); 0 and 1: all are in order.
	Group int
}

const (
	firstPerson, firstAuction, firstCategory = 1000, 1000, 10

	perEpoch, auctionsFrom, bidsFrom = 50, 1, 4 // of 50 events 1 is a person, 3 are auctions, 46 are bids

	activePeople, openAuctions = 1000, 100
	lead                       = 10  // ids may be named so far ahead
	hotEvery                   = 100 // the hot one of so many ids
	categories, channels       = 5, 10_000
	channelShare               = 10 // of ten cached URLs one has no channel_id
)

var (
	firstNames = strings.Fields("Peter Paul Luke John Saul Vicky Kate Julie Sarah Deiter Walter")
	lastNames  = strings.Fields("Shultz Abrams Spencer White Bartels Walton Smith Jones Noris")
	cities     = []string{"Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"}
	states     = strings.Fields("AZ CA ID OR WA WY")
	hotChannel = strings.Fields("Google Facebook Baidu Apple")
)

// Event makes event number n, counted from 0. Any two calls with the same number give the same event.
func (g Generator) Event(n int) Event {
	place := n
	if g.Group > 1 {
		place = n/g.Group*g.Group + n*953%g.Group
	}
	m := maker{g: g, id: int64(place) + 1, at: g.time(place), rng: rand.New(rand.NewPCG(g.Seed, uint64(place)))}
	switch off := m.id % perEpoch; {
	case off < auctionsFrom:
		return Event{Type: TypePerson, Person: m.person()}
	case off < bidsFrom:
		return Event{Type: TypeAuction, Auction: m.auction(place)}
	}
	return Event{Type: TypeBid, Bid: m.bid()}
}

// time is the event time of a place, to the millisecond.
func (g Generator) time(place int) time.Time {
	start, rate := g.Start, g.Rate
	if start.IsZero() {
		start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if rate == 0 {
		rate = 1000
	}
	return start.Add(time.Duration(float64(place)*1e6/float64(rate)) * time.Microsecond).Truncate(time.Millisecond)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// maker makes one event.
type maker struct {
	g   Generator
	id  int64
	at  time.Time
	rng *rand.Rand
}

func (m *maker) lastPerson() int64 { return m.id / perEpoch }

func (m *maker) lastAuction() int64 {
	epoch, off := m.id/perEpoch, m.id%perEpoch
	const each = bidsFrom - auctionsFrom
	switch {
	case off < auctionsFrom:
		return (epoch-1)*each + each - 1
	case off >= bidsFrom:
		return epoch*each + each - 1
	}
	return epoch*each + off - auctionsFrom
}

func (m *maker) anyPerson() int64 {
	known := m.lastPerson() + 1
	active := min(known, activePeople)
	return known - active + m.rng.Int64N(active+lead)
}

func (m *maker) anyAuction() int64 {
	last := max(m.lastAuction(), 0)
	low := max(last-openAuctions, 0)
	return low + m.rng.Int64N(last-low+1+lead)
}

// price is between 1 and a million, and each power of ten is as likely as another; in cents.
func (m *maker) price() int64 { return int64(math.Round(math.Pow(10, 6*m.rng.Float64()) * 100)) }

// text is a word or several of random length below most.
func (m *maker) text(most int, gap byte) string {
	b := make([]byte, 3+m.rng.IntN(most-3))
	for i := range b {
		if b[i] = byte('a' + m.rng.IntN(26)); m.rng.IntN(13) == 0 {
			b[i] = gap
		}
	}
	return strings.TrimSpace(string(b))
}

// extra fills an event of so many bytes up to about the average. Its characters run from H to z: the
// backslash is one of them, and JSON must escape it.
func (m *maker) extra(have, average int) string {
	if have > average {
		return ""
	}
	want := average - have
	delta := int(math.Round(0.2 * float64(want)))
	n := want - delta
	if delta > 0 {
		n += m.rng.IntN(2 * delta)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('H' + m.rng.IntN('z'-'H'+1))
	}
	return string(b)
}

func (m *maker) person() *Person {
	p := &Person{
		ID:         m.lastPerson() + firstPerson,
		Name:       firstNames[m.rng.IntN(len(firstNames))] + " " + lastNames[m.rng.IntN(len(lastNames))],
		Email:      m.text(7, ' ') + "@" + m.text(5, ' ') + ".com",
		CreditCard: fmt.Sprintf("%04d %04d %04d %04d", m.rng.IntN(10_000), m.rng.IntN(10_000), m.rng.IntN(10_000), m.rng.IntN(10_000)),
		City:       cities[m.rng.IntN(len(cities))],
		State:      states[m.rng.IntN(len(states))],
		DateTime:   stamp(m.at),
	}
	p.Extra = m.extra(8+len(p.Name)+len(p.Email)+len(p.CreditCard)+len(p.City)+len(p.State), 200)
	return p
}

func (m *maker) auction(place int) *Auction {
	seller := m.lastPerson() / hotEvery * hotEvery
	if m.rng.IntN(4) == 0 {
		seller = m.anyPerson()
	}
	a := &Auction{
		ID: m.lastAuction() + firstAuction, ItemName: m.text(20, ' '), Description: m.text(100, ' '),
		InitialBid: m.price(), DateTime: stamp(m.at), Seller: seller + firstPerson,
		Category: firstCategory + m.rng.Int64N(categories),
	}
	a.Reserve = a.InitialBid + m.price()
	horizon := m.g.time(place + openAuctions*perEpoch/(bidsFrom-auctionsFrom)).Sub(m.at).Milliseconds()
	a.Expires = stamp(m.at.Add(time.Duration(1+m.rng.Int64N(max(2*horizon, 1))) * time.Millisecond))
	a.Extra = m.extra(8+len(a.ItemName)+len(a.Description)+8*5, 500)
	return a
}

func (m *maker) bid() *Bid {
	auction := max(m.lastAuction(), 0) / hotEvery * hotEvery
	if m.rng.IntN(2) == 0 {
		auction = m.anyAuction()
	}
	bidder := m.lastPerson()/hotEvery*hotEvery + 1
	if m.rng.IntN(4) == 0 {
		bidder = m.anyPerson()
	}
	b := &Bid{Auction: auction + firstAuction, Bidder: bidder + firstPerson, Price: m.price(), DateTime: stamp(m.at)}
	if m.rng.IntN(2) == 0 {
		i := m.rng.IntN(len(hotChannel))
		b.Channel, b.URL = hotChannel[i], m.url(uint64(channels+i))
	} else {
		i := m.rng.IntN(channels)
		b.Channel, b.URL = fmt.Sprintf("channel-%d", i), m.url(uint64(i))
		if i%channelShare != 0 {
			b.URL += fmt.Sprintf("&channel_id=%d", abs(int32(bits.Reverse32(uint32(i)))))
		}
	}
	b.Extra = m.extra(8*4, 100)
	return b
}

// url is the one address of a channel.
func (m *maker) url(channel uint64) string {
	own := maker{rng: rand.New(rand.NewPCG(m.g.Seed, 1<<63|channel))}
	return fmt.Sprintf("https://www.nexmark.com/%s/%s/%s/item.htm?query=1", own.text(5, '_'), own.text(5, '_'), own.text(5, '_'))
}

func abs(i int32) int64 {
	if i < 0 {
		return -int64(i)
	}
	return int64(i)
}
