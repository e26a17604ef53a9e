package nexmark

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestGolden holds streams to what they have always been: whoever has noted a seed gets the same events again.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Seed: 1}, "178f6e1323eb1ac7"},
		{Config{Seed: 2}, "baf08c927b77d68e"},
		{Config{Seed: 1, Rate: 33, Group: 7, Start: time.Date(2030, 2, 28, 23, 59, 0, 0, time.UTC)}, "b115ab9a6a7b4c31"},
	} {
		g, h := New(c.config), sha256.New()
		for n := range 20_000 {
			h.Write(append(g.Append(nil, n), '\n'))
		}
		for n := range SideRows() {
			h.Write(append(g.AppendSide(nil, n), '\n'))
		}
		if got := fmt.Sprintf("%x", h.Sum(nil))[:16]; got != c.want {
			t.Errorf("%+v: the events have the hash %s, want %s", c.config, got, c.want)
		}
	}
}

// TestAlone makes events from several goroutines, backwards, and with bytes before them.
func TestAlone(t *testing.T) {
	g := New(Config{Seed: 9, Group: 3})
	const n = 5000
	var want []byte
	for i := range n {
		want = append(g.Append(want, i), '\n')
	}
	parts := make([][]byte, runtime.GOMAXPROCS(0)+2)
	var all sync.WaitGroup
	for p := range parts {
		all.Go(func() {
			from, to := p*n/len(parts), (p+1)*n/len(parts)
			lines := make([][]byte, to-from)
			for i := to - 1; i >= from; i-- {
				lines[i-from] = append(g.Append(nil, i), '\n')
			}
			parts[p] = bytes.Join(lines, nil)
		})
	}
	all.Wait()
	if !bytes.Equal(bytes.Join(parts, nil), want) {
		t.Error("events that are made alone are others than those in a row")
	}
	if a, b := New(Config{Seed: 9, Group: 3}).Append(nil, 4711), g.Append(nil, 4711); !bytes.Equal(a, b) {
		t.Errorf("another generator makes %s, not %s", a, b)
	}
}

// TestWireForm compares what Append writes with what encoding/json makes of the same event.
func TestWireForm(t *testing.T) {
	g := New(Config{Seed: 5})
	for n := range 2000 {
		text := g.Append(nil, n)
		e := g.Event(n)
		var again bytes.Buffer
		enc := json.NewEncoder(&again)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
		if got := bytes.TrimSpace(again.Bytes()); !bytes.Equal(got, text) {
			t.Fatalf("event %d:\n%s\nas encoding/json has it:\n%s", n, text, got)
		}
		if want := g.Time(g.Place(n)).Format("2006-01-02T15:04:05.000Z"); e.DateTime != want {
			t.Fatalf("event %d at %s, want %s", n, e.DateTime, want)
		}
	}
	end := string(AppendEnd(nil, time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)))
	if want := `{"event_type":4,"dateTime":"2026-01-02T03:04:05.006Z"}`; end != want {
		t.Errorf("%s, want %s", end, want)
	}
}

// TestLead looks at what bounds of time in the flows rely on: how far a bid may be from its auction, and how long an auction
// lives, counted in events.
func TestLead(t *testing.T) {
	g := New(Config{Seed: 6})
	place := make(map[int64]int)
	const n = 60_000
	for i := range n {
		if e := g.Event(i); e.Type == TypeAuction {
			place[e.Auction.ID] = i
			if life := millis(e.Auction.Expires) - millis(e.Auction.DateTime); life < 1 || life > 3334 { // at a thousand a second
				t.Fatalf("auction %d lives for %d events", e.Auction.ID, life)
			}
		}
	}
	before, behind := 0, 0
	for i := range n - 1000 {
		if e := g.Event(i); e.Type == TypeBid {
			at, ok := place[e.Bid.Auction]
			if !ok {
				t.Fatalf("a bid for auction %d, which never comes", e.Bid.Auction)
			}
			before, behind = max(before, at-i), max(behind, i-at)
		}
	}
	if before < 100 || before > 200 || behind < 1500 || behind > 1750 {
		t.Errorf("bids come up to %d events before their auction and %d behind it", before, behind)
	}
}

func BenchmarkAppend(b *testing.B) {
	g := New(Config{Seed: 1})
	var line []byte
	n := 0
	for b.Loop() {
		line = g.Append(line[:0], n)
		n++
	}
	b.SetBytes(int64(len(line)))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
