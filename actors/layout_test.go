package actors

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// What is written to logs, streams and stores stays readable: these names and bytes never change.

func TestTokens(t *testing.T) {
	seen := make(map[string]string)
	for _, c := range []struct{ name, token string }{
		{"orders", "orders"}, {"Orders_2-b", "Orders_2-b"}, {"", "="}, {"=", "=3D"}, {"a.b", "a=2Eb"}, {"a b", "a=20b"}, {"a=2Eb", "a=3D2Eb"},
		{"*", "=2A"}, {">", "=3E"}, {"user,item", "user=2Citem"}, {"订单", "=E8=AE=A2=E5=8D=95"}, {"f/user/0", "f=2Fuser=2F0"},
	} {
		got := Token(c.name)
		if got != c.token {
			t.Errorf("Token(%q) is %q, want %q", c.name, got, c.token)
		}
		if strings.ContainsAny(got, ". *>/\\\t") {
			t.Errorf("Token(%q) is %q: not one token of a subject", c.name, got)
		}
		if before, ok := seen[got]; ok {
			t.Errorf("%q and %q have the same token", before, c.name)
		}
		seen[got] = c.name
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{PartitionName("f", "user", 3, 0), "f/user/3"},
		{PartitionName("f", "", 0, 1), "f//0"},
		{PartitionName("a/b", "x/y,z", 12, 1), "a/b/x=2Fy,z/12"},
		{PartitionName("a/b", "x/y,z", 12, 2), "a/b/x=2Fy,z/12@2"},
		{FlowOfPartition("a/b/x=2Fy,z/12@2"), "a/b"},
		{senderPartition("f/user/3/1@dk3"), "f/user/3"},
		{senderPartition("f/user/3@2/2@dk3"), "f/user/3@2"},
		{FlowOfPartition("a/b/x=2Fy,z/12"), "a/b"},
		{FlowOfPartition("f//0"), "f"},
		{LogStream("my flow"), "KISFLOW_LOG_my=20flow"},
		{LogSubjects("f"), "KISFLOW.log.f.>"},
		{logSubject("f", "user,item", 3, 1), "KISFLOW.log.f.user=2Citem.3"},
		{logSubject("f", "", 3, 0), "KISFLOW.log.f.=.3"},
		{logSubject("f", "", 3, 4), "KISFLOW.log.f.=.3@4"},
		{HandOffStream("f"), "KISFLOW_HOP_f"},
		{HandOffSubjects("f"), "KISFLOW.hop.f.>"},
		{handOffSubject("f", "item", 2, "user", 1, 0), "KISFLOW.hop.f.item.2.user.1.1"},
		{handOffSubject("f", "item", 2, "user", 1, 3), "KISFLOW.hop.f.item.2@3.user.1@3.3"},
		{SaveStream("a.b"), "KISFLOW_SAVE_a=2Eb"},
		{SaveSubjects("a.b"), "KISFLOW.save.a=2Eb.>"},
		{saveSubject("s", "f", "user", 1, 1), "KISFLOW.save.s.f.user.1.1"},
		{saveSubject("s", "f", "user", 1, 2), "KISFLOW.save.s.f.user.1@2.2"},
		{OutputFence("OUT", "f/user/3"), "KISFLOW.fence.OUT.e92dsr1btjiiv"},
		{OutputFences("OUT"), "KISFLOW.fence.OUT.>"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParsePartitionName(t *testing.T) {
	for _, id := range []PartitionID{{"f", "user", 3, 1}, {"f", "", 0, 1}, {"a/b", "x/y,z@2", 12, 7}, {"f@3", "", 255, 12}} {
		if back, ok := parsePartitionName(id.String()); !ok || back != id {
			t.Errorf("%s is taken apart as %+v, %v", id, back, ok)
		}
	}
	for _, bad := range []string{"", "f", "f/user", "f/user/x", "f/user/3@", "f/user/3@1", "f/user/3@02", "f/user/03", "f/user/-0"} {
		if id, ok := parsePartitionName(bad); ok {
			t.Errorf("%q is taken apart as %+v", bad, id)
		}
	}
}

func TestStoreKeys(t *testing.T) {
	row, err := kis.ParseRow([]byte(`{"user":7,"name":"ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	key, err := kis.KeyOf(row, []string{"user", "name"})
	if err != nil {
		t.Fatal(err)
	}
	canonical := []byte(key.Canonical())
	b := appendInstanceKey(nil, stateKind, slotOf(canonical), "totals", canonical)
	if got, want := fmt.Sprintf("%x", b), fmt.Sprintf("73%04x06", key.Slot())+fmt.Sprintf("%x", "totals")+"698000000000000007"+"7303"+fmt.Sprintf("%x", "ada"); got != want {
		t.Errorf("key of a state is %s, want %s", got, want)
	}
	if key.Slot() != 616 {
		t.Errorf("the slot is %d: keys would be elsewhere than they were", key.Slot())
	}
	step, rest, err := parseInstanceKey(b)
	if err != nil || step != "totals" || !bytes.Equal(rest, canonical) {
		t.Errorf("read back: %q %x %v", step, rest, err)
	}
	for i := range b[:11] {
		if _, _, err := parseInstanceKey(b[:i]); err == nil && i < 10 {
			t.Errorf("%d bytes of it are read without an error", i)
		}
	}
	dead := appendDeadKey(nil, 258, 3)
	if got := fmt.Sprintf("%x", dead); got != "64000000000000010200000003" {
		t.Errorf("key of a dead letter is %s", got)
	}
	waits := append(appendInstanceKey(nil, pendingKind, 5, "s", []byte("key")), 0, 0, 0, 0, 0, 0, 0, 9)
	for _, c := range []struct {
		generation uint64
		key        []byte
		id         string
	}{{1, dead, "user=2Citem.4.258.3"}, {1, waits, "user=2Citem.4.parked.AAUBc2tleQAAAAAAAAAJ"}, {2, dead, "user=2Citem.4@2.258.3"}} {
		id := deadID("user,item", 4, c.generation, c.key)
		if id != c.id {
			t.Errorf("id is %s, want %s", id, c.id)
		}
		at, back, err := parseDeadID(id)
		if want := (PartitionID{"", "user=2Citem", 4, c.generation}); err != nil || at != want || !bytes.Equal(back, c.key) {
			t.Errorf("id %s is read as %+v %x, %v", id, at, back, err)
		}
	}
	for _, id := range []string{"", "a.b.c.d", "user.1.2", "user.1.2.3.4", "user.-1.2.3", "user.1.2.99999999999", "user.1.parked.", "user.1.parked.AA", "user.1.parked.*", "user.1@1.2.3", "user.1@.2.3"} {
		if _, _, err := parseDeadID(id); err == nil {
			t.Errorf("%q is taken for an id", id)
		}
	}
}

func TestPartitionsOfSlots(t *testing.T) {
	for _, n := range []int{1, 2, 3, 8, 100} {
		count := make([]int, n)
		last := 0
		for slot := range kis.Slots {
			to := partitionOf(uint16(slot), n)
			if to < last || to >= n {
				t.Fatalf("slot %d of %d partitions is in %d, after %d", slot, n, to, last)
			}
			last = to
			count[to]++
		}
		if slices.Max(count)-slices.Min(count) > 1 {
			t.Errorf("%d partitions have %d to %d slots", n, slices.Min(count), slices.Max(count))
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a.b", "a.b", true}, {"a.b", "a", false}, {"a", "a.b", false}, {"a.*", "a.b", true}, {"a.*", "a", false},
		{"a.*", "a.b.c", false}, {"*.b", "a.b", true}, {"*.b", "a.c", false}, {"a.>", "a.b", true}, {"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a.b", true},
	} {
		if got := covers(c.filter, c.subject); got != c.want {
			t.Errorf("covers(%q, %q) is %v", c.filter, c.subject, got)
		}
	}
}

func TestStages(t *testing.T) {
	item := []string{"item"}
	keeps, changes := passFunction(kis.KeepsKey()), passFunction()
	keyed := func(must []string) Step { return Step{Function: noteFunction(), Must: must} }
	for _, c := range []struct {
		name  string
		steps []Step
		want  string
	}{
		{"no key at all", []Step{{Function: keeps}}, "[]"},
		{"one key", []Step{keyed(user)}, "[user]"},
		{"a check that keeps the key", []Step{{Function: keeps}, keyed(user)}, "[user]"},
		{"a check that may change it", []Step{{Function: changes}, keyed(user)}, "[|user]"},
		{"two keys", []Step{keyed(user), keyed(item), keyed(user)}, "[user|item]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := kitFlow(c.steps...)
			f.Inputs = []Input{{Kind: Entry}}
			var names []string
			for _, must := range f.Stages() {
				names = append(names, stageName(must))
			}
			if got := "[" + strings.Join(names, "|") + "]"; got != c.want {
				t.Errorf("stages are %s, want %s", got, c.want)
			}
		})
	}
}

// taken notes what a dealer delivers.
type taken struct{ said []string }

func (d *taken) Deliver(_ context.Context, stage string, number int, c *Chunk) error {
	for i := range c.Items {
		it := &c.Items[i]
		d.said = append(d.said, fmt.Sprintf("%s/%d: %d.%d %s", stage, number, it.Meta.Sequence, it.Meta.Index, it.Row))
	}
	return nil
}

// TestADealerDealsTheSameAgain: what a partition gets depends on the messages alone, not on where the reading
// began, nor on how much was read at once; and a message is never split between chunks.
func TestADealerDealsTheSameAgain(t *testing.T) {
	k := newKit(t, Options{}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	var ms []transport.Message
	for i := range 300 {
		payload := ""
		for j := range 1 + i%7*i%40 {
			payload += fmt.Sprintf("{\"user\":%d}\n", (i*31+j*17)%23)
		}
		if i%11 == 0 {
			payload += "nonsense\n{\"name\":1}"
		}
		ms = append(ms, transport.Message{Subject: "in.x", Sequence: uint64(i + 1), Data: []byte(payload)})
	}
	deal := func(from, step int) map[string][]string {
		to := &taken{}
		d := NewDealer(k.flow, 0, 4, to)
		d.Start(uint64(from))
		for at := from; at < len(ms); at += step {
			if err := d.Deal(t.Context(), ms[at:min(at+step, len(ms))]); err != nil {
				t.Fatal(err)
			}
		}
		all := make(map[string][]string)
		for _, s := range to.said {
			p, _, _ := strings.Cut(s, ":")
			all[p] = append(all[p], s)
		}
		return all
	}
	want := deal(0, 1)
	if len(want) != 4 {
		t.Fatalf("rows for %d partitions, want 4", len(want))
	}
	for _, step := range []int{2, 7, 1000} {
		got := deal(0, step)
		for p := range want {
			if !slices.Equal(got[p], want[p]) {
				t.Errorf("partition %s gets something else when %d are read at once", p, step)
			}
		}
	}
	late := deal(123, 50)
	for p := range want {
		if n := len(want[p]) - len(late[p]); n <= 0 || !slices.Equal(late[p], want[p][n:]) {
			t.Errorf("partition %s gets something else when the reading begins in the middle", p)
		}
	}
	chunks := &whole{t: t}
	d := NewDealer(k.flow, 0, 4, chunks)
	if err := d.Deal(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
	if len(chunks.at) != 4 {
		t.Fatalf("chunks for %d partitions", len(chunks.at))
	}
}

// whole checks that the chunks of a partition follow on each other and hold whole messages.
type whole struct {
	t  *testing.T
	at map[int]uint64
}

func (d *whole) Deliver(_ context.Context, _ string, number int, c *Chunk) error {
	if d.at == nil {
		d.at = make(map[int]uint64)
	}
	if c.After != d.at[number] || c.To <= c.After {
		d.t.Errorf("partition %d: a chunk after %d up to %d follows on %d", number, c.After, c.To, d.at[number])
	}
	for i := range c.Items {
		if s := c.Items[i].Sequence; s <= c.After || s > c.To {
			d.t.Errorf("partition %d: a row of message %d in a chunk after %d up to %d", number, s, c.After, c.To)
		}
	}
	d.at[number] = c.To
	return nil
}
