package ledger

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// item is an event as a list has it: an output, or what one has to be.
type item struct {
	id, key, other, cents int64
	n, sum                int64 // the running count, and sum or balance
	at                    time.Time
}

// account is what a payer's state has to be.
type account struct{ N, Granted, Left, Paid int64 }

// totals is what another state has to be.
type totals struct {
	N, Sum  int64
	Last    []int64
	Balance int64
}

// books is what the entries lead to.
type books struct {
	keys      map[int64][]item // the outputs of each key, in order
	shops     map[int64][]item // the outputs of each shop, in the order of the entry: those of one key have to keep it
	payees    map[int64][]item // the same of each account that is paid
	payers    map[int64]account
	letters   map[string]int
	lines     int
	transfers int
}

// Check compares what is there with what the messages have to lead to.
func Check(messages map[string]*Message, o *Observation) *Report {
	r := &Report{Checked: make(map[string]int)}
	lines := entry(r, "entry of the ledger", messages, o.Lines, false)
	transfers := entry(r, "entry of the bank", messages, o.Transfers, true)
	w := keep(lines, transfers)
	r.Checked["events"], r.Checked["transfers"] = w.lines, w.transfers

	inOrder(r, "outputs of keys", w.keys, group(r, "outputs of keys", o.Keys, "key"))
	shops := group(r, "outputs of shops", o.Shops, "shop")
	mixed(r, "outputs of shops", w.shops, shops, func(i item) int64 { return i.id })
	bank := group(r, "outputs of the bank", o.Bank, "to")
	mixed(r, "outputs of the bank", w.payees, bank, func(i item) int64 { return i.cents })

	states(r, o, "Ledger/count", totalsOf(w.keys), equalTotals)
	states(r, o, "Shops/shop", totalsOf(w.shops), sameTotals)
	states(r, o, "Bank/debit", w.payers, func(a, b account) bool { return a == b })
	states(r, o, "Bank/credit", totalsOf(w.payees), samePaid)
	conserved(r, o)
	deadLetters(r, o, w.letters)
	return r
}

// Counted is an event of a key.
type Counted struct {
	ID   int64
	Sent time.Time
}

// Order is the events of each key of the ledger in the order in which they count.
func Order(messages map[string]*Message, o *Observation) map[int64][]Counted {
	all := make(map[int64][]Counted)
	for _, i := range entry(&Report{}, "", messages, o.Lines, false) {
		if i.cents > 0 {
			all[i.key] = append(all[i.key], Counted{i.id, i.at})
		}
	}
	return all
}

// entry checks an entry stream against the books, and returns its events in its order.
func entry(r *Report, where string, messages map[string]*Message, stored []Stored, transfers bool) []item {
	var all []item
	times := make(map[string]int)
	newest := make(map[int]*Message) // of each lane
	for _, s := range stored {
		m := messages[s.ID]
		if m == nil || m.Transfer != transfers || m.text() != string(s.Data) {
			r.add(Foreign, where, 0, s.At, "message %d with id %q is none of the lanes': %.80q", s.Sequence, s.ID, s.Data)
			continue
		}
		if times[m.ID]++; times[m.ID] > 1 {
			r.add(StoredTwice, where, m.Events[0].Key, s.At, "message %s of %d events, %d attempts, is there for the %d. time", m.ID, len(m.Events), m.Attempts, times[m.ID])
		} else if !m.Acked.IsZero() {
			if before := newest[m.Lane]; before != nil && before.First.After(m.First) {
				r.add(Misplaced, where, m.Events[0].Key, s.At, "message %s stands behind %s, which was sent after it was acknowledged", m.ID, before.ID)
			}
			newest[m.Lane] = m
		}
		for _, e := range m.Events {
			all = append(all, item{id: e.ID, key: e.Key, other: e.Other, cents: e.Cents, at: m.First})
		}
	}
	for _, id := range sorted(messages) {
		if m := messages[id]; m.Transfer == transfers && !m.Acked.IsZero() && times[id] == 0 {
			r.add(Lost, where, m.Events[0].Key, m.Acked, "message %s of %d events was acknowledged and is not there", id, len(m.Events))
		}
	}
	return all
}

// keep runs the flows.
func keep(lines, transfers []item) *books {
	w := &books{keys: make(map[int64][]item), shops: make(map[int64][]item), payees: make(map[int64][]item),
		payers: make(map[int64]account), letters: make(map[string]int), lines: len(lines), transfers: len(transfers)}
	for _, i := range lines {
		if i.cents <= 0 {
			w.letters[new(Message).line(Event{i.id, i.key, i.other, i.cents})]++
			continue
		}
		i.n, i.sum = 1, i.id
		if all := w.keys[i.key]; len(all) > 0 {
			i.n, i.sum = all[len(all)-1].n+1, all[len(all)-1].sum+i.id
		}
		w.keys[i.key] = append(w.keys[i.key], i)
		w.shops[i.other] = append(w.shops[i.other], i)
	}
	for _, i := range transfers {
		a, ok := w.payers[i.key]
		if !ok {
			a = account{Granted: 1000, Left: 1000}
		}
		a.N++
		if a.Left < i.cents {
			a.Granted, a.Left, a.Paid = a.Granted+500, a.Left+500, 0
		} else {
			a.Left, a.Paid = a.Left-i.cents, i.cents
		}
		w.payers[i.key] = a
		i.cents = a.Paid
		w.payees[i.other] = append(w.payees[i.other], i)
	}
	return w
}

// group reads outputs, one JSON object a line, by the field that is their key.
func group(r *Report, where string, stored []Stored, field string) map[int64][]item {
	all := make(map[int64][]item)
	for _, s := range stored {
		for line := range bytes.Lines(s.Data) {
			var o struct{ ID, Key, Shop, From, To, Cents, N, Sum, Balance int64 }
			if err := json.Unmarshal(line, &o); err != nil {
				r.add(Foreign, where, 0, s.At, "message %d is no output: %v: %.80q", s.Sequence, err, line)
				continue
			}
			i := item{id: o.ID, n: o.N, at: s.At}
			key := o.Key
			switch field {
			case "key":
				i.key, i.sum = o.Key, o.Sum
			case "shop":
				key, i.key, i.sum = o.Shop, o.Key, o.Sum
			case "to":
				key, i.key, i.sum, i.cents = o.To, o.From, o.Balance, o.Cents
			}
			all[key] = append(all[key], i)
			r.Checked[where]++
		}
	}
	return all
}

// members finds what of a list is lost, doubled or foreign, and tells whether there is none of it.
func members(r *Report, where string, key int64, want, got []item) bool {
	count := make(map[int64]int, len(want))
	at := make(map[int64]time.Time, len(want))
	for _, i := range want {
		count[i.id]++
		at[i.id] = i.at
	}
	good := true
	for _, i := range got {
		if at[i.id].IsZero() {
			r.add(Foreign, where, key, i.at, "event %d is not one of the key's", i.id)
			good = false
			continue
		}
		if count[i.id]--; count[i.id] < 0 {
			r.add(Doubled, where, key, i.at, "event %d is there once more, with count %d and sum %d", i.id, i.n, i.sum)
			good = false
		}
	}
	for _, i := range want {
		if count[i.id] > 0 {
			r.add(Lost, where, key, i.at, "event %d is not there, %d of %d are", i.id, len(got), len(want))
			count[i.id] = 0
			good = false
		}
	}
	return good
}

// both calls f for every key of either.
func both(want, got map[int64][]item, f func(key int64, want, got []item)) {
	var keys []int64
	for k := range want {
		keys = append(keys, k)
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		f(k, want[k], got[k])
	}
}

// inOrder compares lists that have to be the same, one for one.
func inOrder(r *Report, where string, want, got map[int64][]item) {
	both(want, got, func(key int64, want, got []item) {
		if !members(r, where, key, want, got) {
			return
		}
		for n, w := range want {
			if g := got[n]; g.id != w.id {
				r.add(Misplaced, where, key, g.at, "event %d is at place %d, where %d has to be", g.id, n+1, w.id)
				return
			} else if g.n != w.n || g.sum != w.sum {
				r.add(Wrong, where, key, g.at, "event %d has count %d and sum %d, and has to have %d and %d", g.id, g.n, g.sum, w.n, w.sum)
				return
			}
		}
	})
}

// mixed compares lists of events of many keys: in which order those of different keys come is decided by the node, once,
// and those of one key have to keep theirs. The count and the sum have to run with them.
func mixed(r *Report, where string, want, got map[int64][]item, amount func(item) int64) {
	both(want, got, func(key int64, want, got []item) {
		if !members(r, where, key, want, got) {
			return
		}
		next := make(map[int64][]item) // of each sender, what is to come
		for _, w := range want {
			next[w.key] = append(next[w.key], w)
		}
		var n, sum int64
		for _, g := range got {
			ahead := next[g.key]
			if len(ahead) == 0 || ahead[0].id != g.id {
				r.add(Misplaced, where, key, g.at, "event %d comes out of the order of those of %d", g.id, g.key)
				return
			}
			w := ahead[0]
			next[g.key] = ahead[1:]
			n, sum = n+1, sum+amount(w)
			if g.n != n || g.sum != sum || amount(g) != amount(w) {
				r.add(Wrong, where, key, g.at, "event %d has count %d, sum %d and amount %d, and has to have %d, %d and %d", g.id, g.n, g.sum, amount(g), n, sum, amount(w))
				return
			}
		}
	})
}

// LastMost is how many ids a state keeps.
const LastMost = 20

func totalsOf(lists map[int64][]item) map[int64]totals {
	all := make(map[int64]totals)
	for key, list := range lists {
		var t totals
		for _, i := range list {
			t.N++
			t.Sum += i.id
			t.Balance += i.cents
			t.Last = append(t.Last, i.id)
		}
		t.Last = t.Last[max(0, len(t.Last)-LastMost):]
		all[key] = t
	}
	return all
}

// equalTotals is for a key whose events come in one order only.
func equalTotals(want, got totals) bool {
	return want.N == got.N && want.Sum == got.Sum && slices.Equal(want.Last, got.Last)
}

// sameTotals is for a key whose events come in an order of the node's.
func sameTotals(want, got totals) bool {
	return want.N == got.N && want.Sum == got.Sum && len(want.Last) == len(got.Last)
}

func samePaid(want, got totals) bool {
	return want.N == got.N && want.Sum == got.Sum && want.Balance == got.Balance
}

// states compares the states of a step.
func states[T any](r *Report, o *Observation, step string, want map[int64]T, same func(want, got T) bool) {
	where := "state of " + step
	seen := make(map[int64]bool)
	for _, s := range o.States[step] {
		r.Checked["states"]++
		var got T
		if err := json.Unmarshal(s.Text, &got); err != nil {
			r.add(Wrong, where, s.Key, time.Time{}, "%v: %s", err, s.Text)
			continue
		}
		w, ok := want[s.Key]
		switch {
		case seen[s.Key]:
			r.add(Doubled, where, s.Key, time.Time{}, "the key is listed twice")
		case !ok:
			r.add(Foreign, where, s.Key, time.Time{}, "the key has no event: %s", s.Text)
		case !same(w, got):
			r.add(Wrong, where, s.Key, time.Time{}, "%+v, and has to be %+v", got, w)
		}
		seen[s.Key] = true
	}
	missing := 0
	for key := range want {
		if !seen[key] {
			if missing++; missing <= mostKeys {
				r.add(Lost, where, key, time.Time{}, "the key has no state")
			}
		}
	}
}

// conserved checks that all that payers were granted is still with them or with payees. It looks at states alone.
func conserved(r *Report, o *Observation) {
	var granted, left, balance int64
	for _, s := range o.States["Bank/debit"] {
		var a account
		if json.Unmarshal(s.Text, &a) == nil {
			granted += a.Granted
			left += a.Left
		}
	}
	for _, s := range o.States["Bank/credit"] {
		var t totals
		if json.Unmarshal(s.Text, &t) == nil {
			balance += t.Balance
		}
	}
	r.Checked["cents that moved"] += int(balance)
	if granted != left+balance {
		r.add(Unbalanced, "accounts", 0, time.Time{}, "%d cents were granted, %d are left with payers and %d are with payees: %d too many", granted, left, balance, left+balance-granted)
	}
}

func deadLetters(r *Report, o *Observation, want map[string]int) {
	count := make(map[string]int)
	for flow, letters := range o.DeadLetters {
		for _, text := range letters {
			text = strings.TrimSpace(text)
			r.Checked["dead letters"]++
			count[text]++
			if flow != "Ledger" || want[text] == 0 {
				r.add(Foreign, "dead letters of "+flow, 0, time.Time{}, "%.200s", text)
			} else if count[text] > want[text] {
				r.add(Doubled, "dead letters of "+flow, 0, time.Time{}, "%.200s", text)
			}
		}
	}
	for _, text := range sorted(want) {
		if count[text] < want[text] {
			r.add(Lost, "dead letters of Ledger", 0, time.Time{}, "%s is there %d times, and has to be %d times", text, count[text], want[text])
		}
	}
}
