package nexmark

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/sample.jsonl.gz again")

const (
	sampleFile   = "testdata/sample.jsonl.gz"
	sampleEvents = 5000
)

// sampleGenerator makes the sample: every hour of a day, and a little out of order.
var sampleGenerator = New(Config{Seed: 2026, Rate: 0.05, Group: 5})

// events reads a file of events, one a line, and returns them as texts and decoded.
func events(t *testing.T, file string) (texts [][]byte, list []Event) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := bytes.Clone(lines.Bytes())
		var e Event
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		if e.DateTime == "" { // the larger file has it in the members alone
			switch e.Type {
			case TypePerson:
				e.DateTime = e.Person.DateTime
			case TypeAuction:
				e.DateTime = e.Auction.DateTime
			default:
				e.DateTime = e.Bid.DateTime
			}
			text = append([]byte(`{"dateTime":"`+e.DateTime+`",`), text[1:]...)
		}
		texts, list = append(texts, text), append(list, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return texts, list
}

func TestSampleIsTheGenerators(t *testing.T) {
	var text bytes.Buffer
	for n := range sampleEvents {
		text.Write(append(sampleGenerator.Append(nil, n), '\n'))
	}
	if *rewrite {
		var packed bytes.Buffer
		z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(text.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sampleFile, packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	texts, _ := events(t, sampleFile)
	if got := append(bytes.Join(texts, []byte("\n")), '\n'); !bytes.Equal(got, text.Bytes()) {
		t.Errorf("%s is not what the generator makes; -rewrite writes it again", sampleFile)
	}
}

// TestGenerator holds the stream to the benchmark's rules.
func TestGenerator(t *testing.T) {
	g := New(Config{Seed: 1})
	count := [3]int{}
	hotAuction, hotBidder, hotSeller, hotChannels, withID := 0, 0, 0, 0, 0
	persons, auctions := make(map[int64]bool), make(map[int64]bool)
	lastTime := ""
	n := 100_000
	if raceDetector {
		n = 30_000
	}
	for i := range n {
		e := g.Event(i)
		count[e.Type]++
		at := ""
		switch e.Type {
		case TypePerson:
			if persons[e.Person.ID] {
				t.Fatalf("person %d twice", e.Person.ID)
			}
			persons[e.Person.ID], at = true, e.Person.DateTime
		case TypeAuction:
			if auctions[e.Auction.ID] {
				t.Fatalf("auction %d twice", e.Auction.ID)
			}
			auctions[e.Auction.ID], at = true, e.Auction.DateTime
			if e.Auction.Expires <= at || e.Auction.Reserve <= e.Auction.InitialBid {
				t.Fatalf("%+v", e.Auction)
			}
			if e.Auction.Seller%hotEvery == 0 {
				hotSeller++
			}
		case TypeBid:
			b := e.Bid
			at = b.DateTime
			if b.Price < 100 || b.Price > 100_000_000 {
				t.Fatalf("price %d", b.Price)
			}
			if b.Auction%hotEvery == 0 {
				hotAuction++
			}
			if b.Bidder%hotEvery == 1 {
				hotBidder++
			}
			if slices.Contains(hotChannel, b.Channel) {
				hotChannels++
			}
			if strings.Contains(b.URL, "&channel_id=") {
				withID++
			}
			if parts := strings.Split(b.URL, "/"); len(parts) != 7 || parts[2] != "www.nexmark.com" {
				t.Fatalf("url %s", b.URL)
			}
		}
		if at < lastTime {
			t.Fatalf("event %d at %s, after one at %s", i, at, lastTime)
		}
		lastTime = at
	}
	if count != [3]int{n / 50, 3 * n / 50, 46 * n / 50} {
		t.Errorf("%v persons, auctions and bids; want 1 : 3 : 46", count)
	}
	share := func(what string, part, of int, want float64) {
		if got := float64(part) / float64(of); got < want-0.02 || got > want+0.02 {
			t.Errorf("%s: %.3f, want about %.3f", what, got, want)
		}
	}
	bids := count[TypeBid]
	share("bids for hot auctions", hotAuction, bids, 0.5+0.5/hotEvery)
	share("bids of hot bidders", hotBidder, bids, 0.75+0.25/hotEvery)
	share("auctions of hot sellers", hotSeller, count[TypeAuction], 0.75+0.25/hotEvery)
	share("bids by hot channels", hotChannels, bids, 0.5)
	share("bids with a channel_id", withID, bids, 0.45)
	if a, b := g.Event(4711), g.Event(4711); !reflect.DeepEqual(a, b) {
		t.Errorf("%+v and %+v", a, b)
	}
}

// sharedFile is a larger file of events, made elsewhere by the benchmark's rules.
func sharedFile(t *testing.T) string {
	file := os.Getenv("KISFLOW_NEXMARK")
	if file == "" {
		file = filepath.Join("..", "..", "..", "shared", "nexmark", "nexmark-200k.jsonl.gz")
	}
	if _, err := os.Stat(file); err != nil {
		t.Skipf("no larger file of events: %v; KISFLOW_NEXMARK names one", err)
	}
	return file
}

// A scene is a stream and what happens to the node that reads it.
type scene struct {
	rate       float64 // of the stream's event time
	partitions int
	shuffled   bool // events come up to Lateness behind their time
	kills      int  // so often the node's process is killed on the way
}

// TestQueries runs every query's flow through a node, all flows at once, and compares the rows with the batch
// computation.
//
// A query with a key deals its rows anew. With one partition a stage the order of a key's rows is that of the
// stream, and every running row is compared. With several, rows of a key that come from different partitions
// may meet in any order: then it is the last one of each key that must be right, and their number where it does not
// depend on the order.
func TestQueries(t *testing.T) {
	t.Run("day", func(t *testing.T) {
		texts, list := events(t, sampleFile)
		testQueries(t, scene{rate: 0.05, partitions: 1}, texts, list)
	})
	t.Run("minutes", func(t *testing.T) {
		n, partitions := 20_000, 8
		if raceDetector {
			n, partitions = 10_000, 3
			t.Logf("with the race detector: %d events, %d partitions", n, partitions)
		}
		g := New(Config{Seed: 4, Rate: 100})
		texts := make([][]byte, n)
		list := make([]Event, n)
		for i := range n {
			texts[i], list[i] = g.Append(nil, i), g.Event(i)
		}
		testQueries(t, scene{rate: g.Rate, partitions: partitions, shuffled: true, kills: 3}, texts, list)
	})
	t.Run("larger file", func(t *testing.T) {
		if testing.Short() {
			t.Skip("200,000 events; not with -short")
		}
		if raceDetector {
			t.Skip("200,000 events; not with the race detector, which has seen the same with fewer")
		}
		texts, list := events(t, sharedFile(t))
		testQueries(t, scene{rate: 1000, partitions: 8, shuffled: true, kills: 2}, texts, list)
	})
}

// shuffle brings events into an order in which each comes up to Lateness behind those of its time.
func shuffle(texts [][]byte, list []Event) ([][]byte, []Event) {
	random := rand.New(rand.NewPCG(7, 7))
	type arrival struct {
		at    int64
		place int
	}
	order := make([]arrival, len(list))
	for i, e := range list {
		order[i] = arrival{millis(e.DateTime) + random.Int64N(Lateness.Milliseconds()), i}
	}
	slices.SortFunc(order, func(x, y arrival) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.place, y.place)) })
	ts, es := make([][]byte, len(list)), make([]Event, len(list))
	for i, a := range order {
		ts[i], es[i] = texts[a.place], list[a.place]
	}
	return ts, es
}

func testQueries(t *testing.T, s scene, texts [][]byte, list []Event) {
	if s.shuffled {
		texts, list = shuffle(texts, list)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	n := startNode(ctx, t, s.partitions)

	g := New(Config{})
	var side [][]byte
	var sides []Event
	for i := range SideRows() {
		text := g.AppendSide(nil, i)
		var e Event
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		side, sides = append(side, text), append(sides, e)
	}
	n.publish(ctx, t, side) // a table says nothing of the rows that came before it
	for _, flow := range []string{"nexmark-side", "nexmark-q13"} {
		n.idle(ctx, t, flow)
	}
	random := rand.New(rand.NewPCG(8, 8))
	each := len(texts)/(s.kills+1) + 1
	for i := 0; i < len(texts); i += each {
		if i > 0 {
			time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
			t.Logf("kill the node with %d messages of its flows on their way", n.behind(ctx, t))
			n.kill(t)
			n.start(ctx, t)
		}
		n.publish(ctx, t, texts[i:min(i+each, len(texts))])
	}
	end := list[0].DateTime
	for _, e := range list {
		end = max(end, e.DateTime)
	}
	n.publish(ctx, t, [][]byte{AppendEnd(nil, parseTime(end).Add(time.Hour))})

	all := append(slices.Clip(sides), list...)
	for _, q := range Queries() {
		if s.rate < q.Least {
			continue // its flow is for faster streams
		}
		t.Run(q.Name, func(t *testing.T) {
			batch := q.Answer(all)
			want := canonical(t, batch)
			if q.Clock != "" {
				testClock(ctx, t, n, q, batch)
				return
			}
			if !q.Running || s.partitions == 1 {
				got := n.rows(ctx, t, OutSubject(q.Name), len(want), nil)
				if len(got) != len(want) {
					t.Errorf("%d rows, want %d", len(got), len(want))
				}
				compareRows(t, q.Key, got, want)
			} else {
				lasts := last(q.Key, want)
				least := len(want)
				if !q.Counted {
					least = 0
				}
				n.idle(ctx, t, "nexmark-"+q.Name)
				got := n.rows(ctx, t, OutSubject(q.Name), least, func(got []Row) bool {
					return len(got) >= least && same(q.Key, last(q.Key, got), lasts)
				})
				if q.Counted && len(got) != len(want) {
					t.Errorf("%d rows, want %d", len(got), len(want))
				}
				compareRows(t, q.Key, last(q.Key, got), lasts)
			}
			n.deadLetters(ctx, t, "nexmark-"+q.Name)
		})
	}
	t.Logf("%d events, %d kills, all queries: %s", len(list), s.kills, time.Since(began).Round(time.Second))
	if t.Failed() {
		t.Log(n.watch(ctx))
	}
}

// same tells whether rows are the same, whatever their order.
func same(key []string, got, want []Row) bool {
	if len(got) != len(want) {
		return false
	}
	by := make(map[string]string, len(got))
	for _, r := range got {
		by[keyOf(key, r)] = render(r)
	}
	for _, r := range want {
		if by[keyOf(key, r)] != render(r) {
			return false
		}
	}
	return true
}

// testClock compares what of a query's answer does not depend on the clock: the sums of a field by the key.
func testClock(ctx context.Context, t *testing.T, n *running, q Query, batch []Row) {
	sums := func(rows []Row) (map[string]int64, int64) {
		by, all := make(map[string]int64), int64(0)
		for _, r := range rows {
			v, err := strconv.ParseInt(fmt.Sprint(r[q.Clock]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			by[fmt.Sprint(r["bidder"])] += v
			all += v
		}
		return by, all
	}
	want, total := sums(batch)
	got := n.rows(ctx, t, OutSubject(q.Name), 0, func(rows []Row) bool { _, all := sums(rows); return all >= total })
	have, sum := sums(got)
	if !reflect.DeepEqual(have, want) {
		t.Errorf("%d %s of %d bidders, want %d of %d", sum, q.Clock, len(have), total, len(want))
	}
	for _, r := range got {
		start, end := fmt.Sprint(r["start"]), fmt.Sprint(r["end"])
		a, err1 := strconv.ParseInt(start, 10, 64)
		b, err2 := strconv.ParseInt(end, 10, 64)
		if err1 != nil || err2 != nil || b-a != 10_000 || a%10_000 != 0 {
			t.Fatalf("a window from %s to %s", start, end)
		}
	}
}

// last keeps the last row of each key.
func last(key []string, rows []Row) []Row {
	place := make(map[string]int)
	var kept []Row
	for _, r := range rows {
		k := keyOf(key, r)
		if i, ok := place[k]; ok {
			kept[i] = r
			continue
		}
		place[k] = len(kept)
		kept = append(kept, r)
	}
	return kept
}

func keyOf(key []string, r Row) string {
	k := ""
	for _, f := range key {
		k += fmt.Sprint(r[f], "|")
	}
	return k
}

// compareRows compares rows key by key in order, or without a key without order.
func compareRows(t *testing.T, key []string, got, want []Row) {
	t.Helper()
	groups := func(rows []Row) map[string][]string {
		m := make(map[string][]string)
		for _, r := range rows {
			k := keyOf(key, r)
			m[k] = append(m[k], render(r))
		}
		if len(key) == 0 {
			slices.Sort(m[""])
		}
		return m
	}
	g, w := groups(got), groups(want)
	wrong := 0
	for _, k := range slices.Sorted(keysOf(g, w)) {
		a, b := g[k], w[k]
		for i := range max(len(a), len(b)) {
			x, y := "nothing", "nothing"
			if i < len(a) {
				x = a[i]
			}
			if i < len(b) {
				y = b[i]
			}
			if x != y {
				if wrong++; wrong <= 5 {
					t.Errorf("key %q, row %d:\n got %s\nwant %s", k, i, x, y)
				}
			}
		}
	}
	if wrong > 5 {
		t.Errorf("and %d rows more", wrong-5)
	}
	if len(want) == 0 {
		t.Error("the query has no rows: it tests nothing")
	}
}

func keysOf(ms ...map[string][]string) func(func(string) bool) {
	all := make(map[string]bool)
	for _, m := range ms {
		for k := range m {
			all[k] = true
		}
	}
	return func(yield func(string) bool) {
		for k := range all {
			if !yield(k) {
				return
			}
		}
	}
}

// render writes a row with its fields in order of their names.
func render(r Row) string {
	names := make([]string, 0, len(r))
	for name := range r {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%v ", name, r[name])
	}
	return b.String()
}

// canonical brings the batch's rows into the form that decode gives.
func canonical(t *testing.T, rows []Row) []Row {
	t.Helper()
	for _, r := range rows {
		for name, v := range r {
			switch v := v.(type) {
			case int64:
				r[name] = number(t, fmt.Sprint(v))
			case Decimal:
				r[name] = number(t, string(v))
			case string:
				r[name] = fmt.Sprintf("%q", v)
			case []string:
				r[name] = "[" + strings.Join(v, ",") + "]"
			default:
				t.Fatalf("%s is a %T", name, v)
			}
		}
	}
	return rows
}

// number is exact: 2.50 and 2.5 are the same, 0.1 is a tenth.
func number(t *testing.T, text string) string {
	t.Helper()
	if !strings.ContainsAny(text, ".eE") {
		return text
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		t.Fatalf("%q is no number", text)
	}
	return r.RatString()
}

// decode reads an output message: rows, one or several.
func decode(t *testing.T, data []byte) []Row {
	t.Helper()
	var rows []Row
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var in map[string]json.RawMessage
		if err := d.Decode(&in); err == io.EOF {
			return rows
		} else if err != nil {
			t.Fatalf("output %q: %v", data, err)
		}
		r := make(Row, len(in))
		for name, v := range in {
			switch c := v[0]; {
			case c == '"':
				var s string
				if err := json.Unmarshal(v, &s); err != nil {
					t.Fatal(err)
				}
				r[name] = fmt.Sprintf("%q", s)
			case c == '-' || c >= '0' && c <= '9':
				r[name] = number(t, string(v))
			default:
				r[name] = string(v)
			}
		}
		rows = append(rows, r)
	}
}

// TestAnswers looks at the batch computation itself.
func TestAnswers(t *testing.T) {
	_, list := events(t, sampleFile)
	minutes := make([]Event, SideRows(), SideRows()+20_000)
	g := New(Config{Seed: 4, Rate: 100})
	for i := range minutes {
		if err := json.Unmarshal(g.AppendSide(nil, i), &minutes[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20_000 {
		minutes = append(minutes, g.Event(i))
	}
	for _, q := range Queries() {
		rows := q.Answer(minutes)
		if q.Least == 0 && q.Wait == 0 && q.Name != "q13" {
			rows = q.Answer(list)
		}
		least := 10
		switch q.Name {
		case "q3", "q4":
			least = 5
		case "q15":
			least = 2
		}
		if len(q.Key) > 0 {
			rows = last(q.Key, canonical(t, rows))
		}
		if len(rows) < least {
			t.Errorf("%s: %d rows; too few to test anything", q.Name, len(rows))
		}
	}
	late := 0
	for i := 1; i < len(list); i++ {
		if list[i].Bid != nil && list[i-1].Bid != nil && list[i].Bid.DateTime < list[i-1].Bid.DateTime {
			late++
		}
	}
	if late < 100 {
		t.Errorf("%d bids of the sample are out of order; too few to test anything", late)
	}
	// Two queries by hand, over three bids.
	bid := func(auction, price int64, at string) Event {
		return Event{Type: TypeBid, Bid: &Bid{Auction: auction, Bidder: 7, Price: price, DateTime: at, URL: "https://www.nexmark.com/a/b/c/item.htm?query=1"}}
	}
	few := []Event{bid(123, 200, "2026-01-01T07:59:59.999Z"), bid(123, 5_000_000, "2026-01-01T08:00:00.000Z"), bid(124, 1_000_000, "2026-01-01T00:00:00.000Z"), {Type: TypePerson, Person: &Person{}}}
	if got := perBid(q2)(few); len(got) != 2 || got[1]["price"] != int64(5_000_000) {
		t.Errorf("q2: %v", got)
	}
	if got := perBid(q14)(few); len(got) != 1 || got[0]["bidTimeType"] != "dayTime" || got[0]["price"] != Decimal("4540000.000") {
		t.Errorf("q14: %v", got)
	}
	if got := q17(few); len(got) != 3 || got[1]["avg_price"] != int64(2_500_100) || got[1]["rank1_bids"] != int64(1) || got[1]["rank3_bids"] != int64(1) {
		t.Errorf("q17: %v", got)
	}
	if got := q18([]Event{few[1], few[0]}); got[1]["price"] != int64(5_000_000) {
		t.Errorf("q18: %v: an earlier bid that comes later must not win", got)
	}
}
