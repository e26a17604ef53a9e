package ledger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// sound makes messages, and what sound flows make of them.
func sound(t *testing.T) (map[string]*Message, *Observation) {
	t.Helper()
	b := &Books{opt: Options{Seed: 1, Keys: 20}.withDefaults()}
	messages := make(map[string]*Message)
	o := &Observation{States: make(map[string][]State), DeadLetters: make(map[string][]string)}
	at := time.Now()
	for i := range lanes {
		l := &lane{books: b, number: i, random: rand.New(rand.NewPCG(7, uint64(i)))}
		b.lanes = append(b.lanes, l)
	}
	for n := range 160 {
		l := b.lanes[n%lanes]
		m := l.next()
		l.messages = append(l.messages, m)
		at = at.Add(time.Millisecond)
		m.First, m.Acked, m.Attempts = at, at, 1
		messages[m.ID] = m
		s := Stored{Sequence: uint64(n + 1), ID: m.ID, At: at, Data: []byte(m.text())}
		if m.Transfer {
			o.Transfers = append(o.Transfers, s)
		} else {
			o.Lines = append(o.Lines, s)
		}
	}
	w := keep(entry(&Report{}, "", messages, o.Lines, false), entry(&Report{}, "", messages, o.Transfers, true))
	out := func(into *[]Stored, format string, args ...any) {
		*into = append(*into, Stored{Sequence: uint64(len(*into) + 1), At: at, Data: fmt.Appendf(nil, format, args...)})
	}
	both(w.keys, nil, func(key int64, list, _ []item) {
		for _, i := range list {
			out(&o.Keys, `{"id":%d,"key":%d,"n":%d,"sum":%d}`, i.id, key, i.n, i.sum)
		}
	})
	// events of different keys may come in another order than that of the entry
	byKey := func(a, b item) int { return int(a.key - b.key) }
	both(w.shops, nil, func(shop int64, list, _ []item) {
		var lines []string
		var sum int64
		list = slices.Clone(list)
		slices.SortStableFunc(list, byKey)
		for n, i := range list {
			sum += i.id
			lines = append(lines, fmt.Sprintf(`{"id":%d,"key":%d,"shop":%d,"n":%d,"sum":%d}`, i.id, i.key, shop, n+1, sum))
		}
		out(&o.Shops, "%s", strings.Join(lines, "\n"))
	})
	both(w.payees, nil, func(to int64, list, _ []item) {
		var balance int64
		list = slices.Clone(list)
		slices.SortStableFunc(list, byKey)
		for n, i := range list {
			balance += i.cents
			out(&o.Bank, `{"id":%d,"from":%d,"to":%d,"cents":%d,"n":%d,"balance":%d}`, i.id, i.key, to, i.cents, n+1, balance)
		}
	})
	for step, all := range map[string]map[int64]totals{"Ledger/count": totalsOf(w.keys), "Shops/shop": totalsOf(w.shops), "Bank/credit": totalsOf(w.payees)} {
		for key, s := range all {
			o.States[step] = append(o.States[step], State{key, lower(t, s)})
		}
	}
	for key, a := range w.payers {
		o.States["Bank/debit"] = append(o.States["Bank/debit"], State{key, lower(t, a)})
	}
	for text, n := range w.letters {
		for range n {
			o.DeadLetters["Ledger"] = append(o.DeadLetters["Ledger"], text)
		}
	}
	return messages, o
}

// lower is a state's JSON, as the flows write it.
func lower(t *testing.T, state any) []byte {
	t.Helper()
	b, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.ToLower(string(b)))
}

func TestSound(t *testing.T) {
	r := Check(sound(t))
	if len(r.Findings) > 0 {
		t.Fatal(r)
	}
	for _, name := range []string{"events", "transfers", "outputs of keys", "outputs of shops", "outputs of the bank", "states", "dead letters", "cents that moved"} {
		if r.Checked[name] == 0 {
			t.Errorf("no %s were checked: %s", name, r)
		}
	}
}

// TestPlanted spoils what sound flows have made, in every way that a check has to see.
func TestPlanted(t *testing.T) {
	edit := func(s *Stored, old, new string) {
		t.Helper()
		before := string(s.Data)
		if s.Data = []byte(strings.Replace(before, old, new, 1)); string(s.Data) == before {
			t.Fatalf("%s has no %s", before, old)
		}
	}
	for _, c := range []struct {
		name  string
		plant func(map[string]*Message, *Observation)
		kind  Kind
		where string
	}{
		{"an output is missing", func(_ map[string]*Message, o *Observation) { o.Keys = slices.Delete(o.Keys, 50, 51) }, Lost, "outputs of keys"},
		{"an output is there twice", func(_ map[string]*Message, o *Observation) { o.Keys = append(o.Keys, o.Keys[50]) }, Doubled, "outputs of keys"},
		{"two outputs of a key have changed places", func(_ map[string]*Message, o *Observation) { o.Keys[0], o.Keys[1] = o.Keys[1], o.Keys[0] }, Misplaced, "outputs of keys"},
		{"a count is wrong", func(_ map[string]*Message, o *Observation) { edit(&o.Keys[0], `"n":1`, `"n":2`) }, Wrong, "outputs of keys"},
		{"a sum is wrong", func(_ map[string]*Message, o *Observation) { edit(&o.Keys[0], `"sum":`, `"sum":1`) }, Wrong, "outputs of keys"},
		{"an output is of no event", func(_ map[string]*Message, o *Observation) { edit(&o.Keys[0], `"id":`, `"id":99`) }, Foreign, "outputs of keys"},
		{"an output is of another key", func(_ map[string]*Message, o *Observation) { edit(&o.Keys[0], `"key":`, `"key":9`) }, Foreign, "outputs of keys"},
		{"an output is no JSON", func(_ map[string]*Message, o *Observation) { edit(&o.Keys[0], `}`, ``) }, Foreign, "outputs of keys"},
		{"a line of packed outputs is missing", func(_ map[string]*Message, o *Observation) {
			o.Shops[3].Data = o.Shops[3].Data[strings.Index(string(o.Shops[3].Data), "\n")+1:]
		}, Lost, "outputs of shops"},
		{"a whole shop is missing", func(_ map[string]*Message, o *Observation) { o.Shops = o.Shops[1:] }, Lost, "outputs of shops"},
		{"packed outputs are there twice", func(_ map[string]*Message, o *Observation) { o.Shops = append(o.Shops, o.Shops[0]) }, Doubled, "outputs of shops"},
		{"a shop's lines of one key have changed places", func(_ map[string]*Message, o *Observation) {
			for i, s := range o.Shops {
				lines := strings.Split(string(s.Data), "\n")
				for n := 1; n < len(lines); n++ {
					if field(lines[n-1], "key") == field(lines[n], "key") {
						// the counts stay where they are: only the ids move
						a, b := field(lines[n-1], "id"), field(lines[n], "id")
						lines[n-1], lines[n] = strings.Replace(lines[n-1], a, b, 1), strings.Replace(lines[n], b, a, 1)
						o.Shops[i].Data = []byte(strings.Join(lines, "\n"))
						return
					}
				}
			}
			t.Fatal("no shop has two lines of a key")
		}, Misplaced, "outputs of shops"},
		{"a shop's count is wrong", func(_ map[string]*Message, o *Observation) { edit(&o.Shops[0], `"n":1,`, `"n":0,`) }, Wrong, "outputs of shops"},
		{"a transfer is credited twice", func(_ map[string]*Message, o *Observation) { o.Bank = append(o.Bank, o.Bank[0]) }, Doubled, "outputs of the bank"},
		{"a transfer is not credited", func(_ map[string]*Message, o *Observation) { o.Bank = o.Bank[1:] }, Lost, "outputs of the bank"},
		{"another amount is credited", func(_ map[string]*Message, o *Observation) { edit(&o.Bank[0], `"cents":`, `"cents":1`) }, Wrong, "outputs of the bank"},
		{"a balance is wrong", func(_ map[string]*Message, o *Observation) { edit(&o.Bank[5], `"balance":`, `"balance":1`) }, Wrong, "outputs of the bank"},
		{"a state counts one too many", func(_ map[string]*Message, o *Observation) { plus(o, "Ledger/count", `"n":`) }, Wrong, "state of Ledger/count"},
		{"a state has another last event", func(_ map[string]*Message, o *Observation) { plus(o, "Ledger/count", `"last":[`) }, Wrong, "state of Ledger/count"},
		{"a shop's state counts one too many", func(_ map[string]*Message, o *Observation) { plus(o, "Shops/shop", `"n":`) }, Wrong, "state of Shops/shop"},
		{"a state is missing", func(_ map[string]*Message, o *Observation) { o.States["Shops/shop"] = o.States["Shops/shop"][1:] }, Lost, "state of Shops/shop"},
		{"a state is of no key", func(_ map[string]*Message, o *Observation) {
			o.States["Bank/debit"] = append(o.States["Bank/debit"], State{7777, []byte(`{}`)})
		}, Foreign, "state of Bank/debit"},
		{"a state is listed twice", func(_ map[string]*Message, o *Observation) {
			o.States["Bank/debit"] = append(o.States["Bank/debit"], o.States["Bank/debit"][0])
		}, Doubled, "state of Bank/debit"},
		{"a payer has too much", func(_ map[string]*Message, o *Observation) { plus(o, "Bank/debit", `"left":`) }, Unbalanced, "accounts"},
		{"a payee has too much", func(_ map[string]*Message, o *Observation) { plus(o, "Bank/credit", `"balance":`) }, Unbalanced, "accounts"},
		{"a dead letter is missing", func(_ map[string]*Message, o *Observation) { o.DeadLetters["Ledger"] = o.DeadLetters["Ledger"][1:] }, Lost, "dead letters of Ledger"},
		{"a dead letter is there twice", func(_ map[string]*Message, o *Observation) {
			o.DeadLetters["Ledger"] = append(o.DeadLetters["Ledger"], o.DeadLetters["Ledger"][0])
		}, Doubled, "dead letters of Ledger"},
		{"a good transfer is a dead letter", func(_ map[string]*Message, o *Observation) { o.DeadLetters["Bank"] = []string{`{"id":1}`} }, Foreign, "dead letters of Bank"},
		{"the entry has lost a message", func(_ map[string]*Message, o *Observation) { o.Lines = slices.Delete(o.Lines, 9, 10) }, Lost, "entry of the ledger"},
		{"the entry has a message twice", func(_ map[string]*Message, o *Observation) { o.Lines = append(o.Lines, o.Lines[9]) }, StoredTwice, "entry of the ledger"},
		{"the entry has a message of nobody's", func(_ map[string]*Message, o *Observation) { o.Transfers[9].ID = "x" }, Foreign, "entry of the bank"},
		{"the entry has a message under another id", func(_ map[string]*Message, o *Observation) {
			o.Lines = append(o.Lines, Stored{ID: "copy", Data: o.Lines[9].Data})
		}, Foreign, "entry of the ledger"},
		{"the entry has messages of a lane in another order", func(_ map[string]*Message, o *Observation) { slices.Reverse(o.Lines) }, Misplaced, "entry of the ledger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			messages, o := sound(t)
			c.plant(messages, o)
			r := Check(messages, o)
			for _, f := range r.Findings {
				if f.Kind == c.kind && f.Where == c.where {
					return
				}
			}
			t.Errorf("nothing %s in the %s: %s", c.kind, c.where, r)
		})
	}
}

// field is the text of a line's field with its name.
func field(line, name string) string {
	at := strings.Index(line, `"`+name+`":`)
	return line[at : at+strings.IndexAny(line[at:], ",}")]
}

// plus puts a digit before a number of a state.
func plus(o *Observation, step, before string) {
	s := &o.States[step][0]
	s.Text = []byte(strings.Replace(string(s.Text), before, before+"1", 1))
}

// TestUnknown: a message without an acknowledgement may be stored, or not; its events count where it is.
func TestUnknown(t *testing.T) {
	messages, o := sound(t)
	for _, s := range o.Lines {
		messages[s.ID].Acked = time.Time{}
	}
	if r := Check(messages, o); len(r.Findings) > 0 {
		t.Error(r)
	}
	messages, o = sound(t)
	last := o.Lines[len(o.Lines)-1]
	messages[last.ID].Acked = time.Time{}
	o.Lines = o.Lines[:len(o.Lines)-1]
	if r := Check(messages, o); r.Kinds()[Foreign] == 0 || r.Kinds()[Lost] > 0 {
		t.Errorf("events of a message that is not stored were counted: %s", r)
	}
}

func TestReport(t *testing.T) {
	messages, o := sound(t)
	o.Keys = nil
	text := Check(messages, o).Text(func(at time.Time) string { return "a: what it said\n" })
	if n := strings.Count(text, "      a: what it said\n"); n != mostKeys {
		t.Errorf("%d keys are shown with logs, want %d:\n%s", n, mostKeys, text)
	}
}
