package nexmark

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Event is one event of the stream. One of the members is there, as Type says.
type Event struct {
	Type     int      `json:"event_type"`
	DateTime string   `json:"dateTime"` // the event's time, that of its member once more
	Person   *Person  `json:"person,omitempty"`
	Auction  *Auction `json:"auction,omitempty"`
	Bid      *Bid     `json:"bid,omitempty"`
	Side     *Side    `json:"side,omitempty"`
}

// Types of events.
const (
	TypePerson = iota
	TypeAuction
	TypeBid
	TypeSide // a row of query 13's side table; no event of the generator's
	TypeEnd  // an event that only says what time it is
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

// Side is a row of the table in which query 13 looks bids up.
type Side struct {
	Key   int64  `json:"key"`
	Value string `json:"value"`
}

// Config says which stream a generator makes. The zero Config is a thousand events a second of event time, from the
// beginning of 2026 on.
type Config struct {
	Seed  uint64
	Start time.Time // event time of event 0
	Rate  float64   // events a second of event time, at most a million
	// Group is how many neighbours are dealt out of order (5, say), below 953; 0 and 1: all are in order.
	Group int
}

// Generator makes the events of one stream, each from its number alone: in any order, from any number on, in
// several goroutines at once.
type Generator struct {
	Config
	names, urls [channels + 4]string // of channels; the hot ones are behind the others
}

const (
	firstPerson, firstAuction, firstCategory = 1000, 1000, 10

	perEpoch, auctionsFrom, bidsFrom = 50, 1, 4 // of 50 events 1 is a person, 3 are auctions, 46 are bids

	activePeople, openAuctions = 1000, 100
	lead                       = 10  // ids may be named so far ahead
	hotEvery                   = 100 // the hot one of so many ids
	categories, channels       = 5, 10_000
	channelShare               = 10 // of ten cached URLs one has no channel_id
	sideRows                   = 10_000
)

var (
	firstNames = strings.Fields("Peter Paul Luke John Saul Vicky Kate Julie Sarah Deiter Walter")
	lastNames  = strings.Fields("Shultz Abrams Spencer White Bartels Walton Smith Jones Noris")
	cities     = []string{"Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"}
	states     = strings.Fields("AZ CA ID OR WA WY")
	hotChannel = strings.Fields("Google Facebook Baidu Apple")
)

// New makes a generator. It has the addresses of all channels made beforehand, some 10 milliseconds' work.
func New(c Config) *Generator {
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.Rate == 0 {
		c.Rate = 1000
	}
	g := &Generator{Config: c}
	for i := range g.urls {
		g.names[i] = fmt.Sprintf("channel-%d", i)
		if i >= channels {
			g.names[i] = hotChannel[i-channels]
		}
		m := maker{rng: *rand.NewPCG(c.Seed, 1<<63|uint64(i))}
		part := func() string { return string(m.appendText(nil, 5, '_')) }
		g.urls[i] = "https://www.nexmark.com/" + part() + "/" + part() + "/" + part() + "/item.htm?query=1"
		if i < channels && i%channelShare != 0 {
			g.urls[i] += "&channel_id=" + strconv.FormatInt(abs(int32(bits.Reverse32(uint32(i)))), 10)
		}
	}
	return g
}

// Time is the event time of a place of the stream (which is the event's number where all are in order), to the millisecond.
func (g *Generator) Time(place int) time.Time { return time.UnixMilli(g.millis(place)).UTC() }

func (g *Generator) millis(place int) int64 {
	return g.Start.UnixMilli() + int64(float64(place)*1e6/g.Rate)/1000
}

// Place is where event number n stands by its time.
func (g *Generator) Place(n int) int {
	if g.Group > 1 {
		return n/g.Group*g.Group + n*953%g.Group
	}
	return n
}

// Event makes event number n, counted from 0.
func (g *Generator) Event(n int) Event {
	var e Event
	if err := json.Unmarshal(g.Append(nil, n), &e); err != nil {
		panic("nexmark: " + err.Error()) // we have just written it
	}
	return e
}

// Append appends event number n, counted from 0, as a line of JSON without its end. Any two calls with the same
// number append the same.
func (g *Generator) Append(dst []byte, n int) []byte {
	place := g.Place(n)
	m := maker{g: g, id: int64(place) + 1, at: g.millis(place), rng: *rand.NewPCG(g.Seed, uint64(place))}
	var room [32]byte
	when := appendTime(room[:0], m.at)
	dst = append(dst, `{"event_type":`...)
	switch off := m.id % perEpoch; {
	case off < auctionsFrom:
		dst = append(dst, `0,"dateTime":"`...)
		dst = append(append(dst, when...), `","person":`...)
		dst = m.person(dst, when)
	case off < bidsFrom:
		dst = append(dst, `1,"dateTime":"`...)
		dst = append(append(dst, when...), `","auction":`...)
		dst = m.auction(dst, when, place)
	default:
		dst = append(dst, `2,"dateTime":"`...)
		dst = append(append(dst, when...), `","bid":`...)
		dst = m.bid(dst, when)
	}
	return append(dst, '}')
}

// AppendEnd appends an event that says that all events before a time have come.
func AppendEnd(dst []byte, at time.Time) []byte {
	dst = append(dst, `{"event_type":4,"dateTime":"`...)
	return append(appendTime(dst, at.UnixMilli()), `"}`...)
}

// SideRows is how many rows query 13's table has.
func SideRows() int { return sideRows }

// AppendSide appends row number n of query 13's table as an event.
func (g *Generator) AppendSide(dst []byte, n int) []byte {
	m := maker{rng: *rand.NewPCG(g.Seed, 1<<62|uint64(n))}
	dst = append(dst, `{"event_type":3,"dateTime":"`...)
	dst = appendTime(dst, g.Start.UnixMilli())
	dst = append(dst, `","side":{"key":`...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, `,"value":"`...)
	return append(m.appendText(dst, 20, '_'), `"}}`...)
}

// appendTime writes Unix milliseconds as 2026-01-01T00:00:00.000Z.
func appendTime(dst []byte, millis int64) []byte {
	return time.UnixMilli(millis).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
}

// maker makes one event.
type maker struct {
	g    *Generator
	id   int64
	at   int64 // Unix milliseconds
	rng  rand.PCG
	bits uint64 // random bits at hand, for characters
	left int    // how many characters they are good for
}

// below is a number from 0 to n-1. For the numbers here no one is likelier than another by more than 2^-40.
func (m *maker) below(n int64) int64 {
	hi, _ := bits.Mul64(m.rng.Uint64(), uint64(n))
	return int64(hi)
}

// character is a number from 0 to n-1, for n up to 64, made of 16 random bits.
func (m *maker) character(n uint64) uint64 {
	if m.left == 0 {
		m.bits, m.left = m.rng.Uint64(), 4
	}
	c := (m.bits & 0xffff) * n >> 16
	m.bits >>= 16
	m.left--
	return c
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
	return known - active + m.below(active+lead)
}

func (m *maker) anyAuction() int64 {
	last := max(m.lastAuction(), 0)
	low := max(last-openAuctions, 0)
	return low + m.below(last-low+1+lead)
}

// price is between 1 and a million, and each power of ten is as likely as another; in cents.
func (m *maker) price() int64 {
	u := float64(m.rng.Uint64()>>11) / (1 << 53)
	return int64(math.Round(math.Exp(u*6*math.Ln10) * 100))
}

// appendText writes a word or several of random length below most, without blanks at its ends.
func (m *maker) appendText(dst []byte, most int64, gap byte) []byte {
	from := len(dst)
	for range 3 + m.below(most-3) {
		c := byte('a' + m.character(26))
		if m.character(13) == 0 {
			c = gap
		}
		dst = append(dst, c)
	}
	if gap != ' ' {
		return dst
	}
	for len(dst) > from && dst[len(dst)-1] == ' ' {
		dst = dst[:len(dst)-1]
	}
	blanks := 0
	for from+blanks < len(dst) && dst[from+blanks] == ' ' {
		blanks++
	}
	return append(dst[:from], dst[from+blanks:]...)
}

// extra fills an event of so many bytes up to about the average, and ends it. Its characters run from H to z: the backslash
// is one of them, and JSON must escape it.
func (m *maker) extra(dst []byte, have, average int) []byte {
	dst = append(dst, `,"extra":"`...)
	if want := average - have; want >= 0 {
		delta := int(math.Round(0.2 * float64(want)))
		n := want - delta
		if delta > 0 {
			n += int(m.below(int64(2 * delta)))
		}
		for range n {
			c := byte('H' + m.character('z'-'H'+1))
			if c == '\\' {
				dst = append(dst, c)
			}
			dst = append(dst, c)
		}
	}
	return append(dst, `"}`...)
}

// member writes a member whose text needs no escapes.
func member[T string | []byte](dst []byte, name string, value T) []byte {
	dst = append(append(dst, name...), '"')
	return append(append(dst, value...), '"')
}

func numeral(dst []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(dst, name...), n, 10)
}

func (m *maker) pick(list []string) string { return list[m.below(int64(len(list)))] }

// digits appends four of them.
func (m *maker) digits(dst []byte) []byte {
	n := m.below(10_000)
	return append(dst, byte('0'+n/1000), byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
}

func (m *maker) person(dst, when []byte) []byte {
	first, last := m.pick(firstNames), m.pick(lastNames)
	dst = numeral(dst, `{"id":`, m.lastPerson()+firstPerson)
	dst = append(append(dst, `,"name":"`...), first...)
	dst = append(append(dst, ' '), last...)
	dst = append(dst, `","emailAddress":"`...)
	from := len(dst)
	dst = append(m.appendText(dst, 7, ' '), '@')
	dst = append(m.appendText(dst, 5, ' '), ".com"...)
	email := len(dst) - from
	dst = append(dst, `","creditCard":"`...)
	for i := range 4 {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = m.digits(dst)
	}
	city, state := m.pick(cities), m.pick(states)
	dst = member(append(dst, '"'), `,"city":`, city)
	dst = member(dst, `,"state":`, state)
	dst = member(dst, `,"dateTime":`, when)
	return m.extra(dst, 8+len(first)+1+len(last)+email+19+len(city)+len(state), 200)
}

func (m *maker) auction(dst, when []byte, place int) []byte {
	seller := m.lastPerson() / hotEvery * hotEvery
	if m.below(4) == 0 {
		seller = m.anyPerson()
	}
	dst = numeral(dst, `{"id":`, m.lastAuction()+firstAuction)
	dst = append(dst, `,"itemName":"`...)
	from := len(dst)
	dst = m.appendText(dst, 20, ' ')
	name := len(dst) - from
	dst = append(dst, `","description":"`...)
	from = len(dst)
	dst = m.appendText(dst, 100, ' ')
	description := len(dst) - from
	first := m.price()
	dst = numeral(append(dst, '"'), `,"initialBid":`, first)
	dst = numeral(dst, `,"reserve":`, first+m.price())
	dst = member(dst, `,"dateTime":`, when)
	// An auction lives for up to twice the time in which so many auctions begin as are open at once.
	horizon := m.g.millis(place+openAuctions*perEpoch/(bidsFrom-auctionsFrom)) - m.at
	dst = append(dst, `,"expires":"`...)
	dst = appendTime(dst, m.at+1+m.below(max(2*horizon, 1)))
	dst = numeral(append(dst, '"'), `,"seller":`, seller+firstPerson)
	dst = numeral(dst, `,"category":`, firstCategory+m.below(categories))
	return m.extra(dst, 8+name+description+8*5, 500)
}

func (m *maker) bid(dst, when []byte) []byte {
	auction := max(m.lastAuction(), 0) / hotEvery * hotEvery
	if m.below(2) == 0 {
		auction = m.anyAuction()
	}
	bidder := m.lastPerson()/hotEvery*hotEvery + 1
	if m.below(4) == 0 {
		bidder = m.anyPerson()
	}
	channel := m.below(channels)
	if m.below(2) == 0 {
		channel = channels + m.below(int64(len(hotChannel)))
	}
	dst = numeral(dst, `{"auction":`, auction+firstAuction)
	dst = numeral(dst, `,"bidder":`, bidder+firstPerson)
	dst = numeral(dst, `,"price":`, m.price())
	dst = member(dst, `,"channel":`, m.g.names[channel])
	dst = member(dst, `,"url":`, m.g.urls[channel])
	dst = member(dst, `,"dateTime":`, when)
	return m.extra(dst, 8*4, 100)
}

func abs(i int32) int64 {
	if i < 0 {
		return -int64(i)
	}
	return int64(i)
}
