package badinput

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
)

// badEvents are what publishers get wrong, each as the whole payload of a message.
var badEvents = []struct{ name, payload string }{
	{"not JSON", `hello`},
	{"cut off", `{"user":1,"amount":1`},
	{"two lines, the first cut off", `{"user":1,"amount":` + "\n" + `{"user":1,"amount":1}`},
	{"bad line in the middle", `{"user":1,"amount":1}` + "\n" + `{"user":1,amount:1}` + "\n" + `{"user":1,"amount":1}`},
	{"empty payload", ""},
	{"only white space", " \n\t\n"},
	{"an array", `[{"user":1,"amount":1}]`},
	{"a number", `17`},
	{"a text", `"user"`},
	{"null", `null`},
	{"empty object", `{}`},
	{"key field missing", `{"amount":1}`},
	{"key field null", `{"user":null,"amount":1}`},
	{"key field an object", `{"user":{"id":1},"amount":1}`},
	{"key field a list", `{"user":[1],"amount":1}`},
	{"key field a fraction", `{"user":1.5,"amount":1}`},
	{"key field a huge number", `{"user":123456789012345678901234567890,"amount":1}`},
	{"key field an empty text", `{"user":"","amount":1}`},
	{"amount missing", `{"user":1}`},
	{"amount null", `{"user":1,"amount":null}`},
	{"amount a text", `{"user":1,"amount":"1"}`},
	{"amount zero", `{"user":1,"amount":0}`},
	{"amount beyond 64 bits", `{"user":1,"amount":9223372036854775808}`},
	{"amount that overflows the total", `{"user":2,"amount":9223372036854775807}` + "\n" + `{"user":2,"amount":1}`},
	{"amount beyond a double", `{"user":1,"amount":1e999}`},
	{"amount not a JSON number", `{"user":1,"amount":01}`},
	{"amount NaN", `{"user":1,"amount":NaN}`},
	{"nested 10,000 deep", `{"user":1,"amount":1,"x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`},
	{"not closed 100,000 deep", strings.Repeat(`{"a":`, 100000)},
	{"not UTF-8", "{\"user\":1,\"amount\":1,\"name\":\"\xff\xfe\"}"},
	{"not UTF-8 in the key", "{\"user\":\"\xff\",\"amount\":1}"},
	{"a lone surrogate", `{"user":1,"amount":1,"name":"\ud800"}`},
	{"a control character", "{\"user\":1,\"amount\":1,\"name\":\"a\x00b\"}"},
	{"the same field twice", `{"user":1,"amount":1,"amount":2}`},
	{"the key field twice", `{"user":1,"user":2,"amount":1}`},
	{"byte order mark", "\ufeff" + `{"user":1,"amount":1}`},
	{"rubbish behind an object", `{"user":1,"amount":1} tail`},
	{"1 MiB of text", `{"user":1,"amount":1,"text":"` + strings.Repeat("x", 1<<20) + `"}`},
	{"1 MiB of brackets", strings.Repeat("[", 1<<20)},
	{"1 MiB of numbers", `{"user":1,"amount":1,"list":[` + strings.TrimSuffix(strings.Repeat("1,", 1<<19), ",") + `]}`},
	{"a number of 1 MiB", `{"user":1,"amount":` + strings.Repeat("9", 1<<20) + `}`},
	{"100,000 fields", `{"user":1,"amount":1` + manyFields(100000) + `}`},
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"f%d":%d`, i, i)
	}
	return b.String()
}

// TestEvents publishes every bad event, one good event of a user of its own beside each, and compares the dead
// letters' reasons with testdata/events.golden.
func TestEvents(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	names := make(map[uint64]string)
	for _, e := range badEvents {
		a, err := js.PublishMsg(ctx, &nats.Msg{Subject: "bad.in", Data: []byte(e.payload)})
		if err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		names[a.Sequence] = e.name
		if _, err := js.Publish(ctx, "bad.in", []byte(`{"user":"good","amount":2}`)); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, n)

	client := n.Client(t)
	letters := make(map[string][]api.DeadLetter)
	for _, l := range deadLetters(t, client, "Totals") {
		full, err := client.DeadLetter(ctx, "Totals", l.ID)
		if err != nil {
			t.Fatal(err)
		}
		letters[names[l.Sequence]] = append(letters[names[l.Sequence]], full)
	}
	var out strings.Builder
	for _, e := range badEvents {
		fmt.Fprintf(&out, "%s\n", e.name)
		ls := letters[e.name]
		slices.SortFunc(ls, func(a, b api.DeadLetter) int { return int(a.Index) - int(b.Index) })
		if len(ls) == 0 {
			fmt.Fprintf(&out, "    counted, no dead letter\n")
		}
		for _, l := range ls {
			fmt.Fprintf(&out, "    event %d at %s: %s\n", l.Index, l.Step, l.Reason)
			if !strings.Contains(e.payload, strings.TrimSuffix(string(l.Data), "\n")) {
				t.Errorf("%s: the dead letter's %d bytes are none of the message's %d", e.name, len(l.Data), len(e.payload))
			}
		}
	}
	list, err := client.States(ctx, "Totals", "user", "", api.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		fmt.Fprintf(&out, "state of %.60s: %s\n", s.Key, s.State)
	}
	golden(t, "events.golden", out.String())
	s, err := client.State(ctx, "Totals", "user", []string{"user=good"}, api.Read{})
	if want := fmt.Sprintf(`{"count":%d,"total":%d}`, len(badEvents), 2*len(badEvents)); err != nil || string(s.State) != want {
		t.Errorf("the good events: %s, %v, want %s", s.State, err, want)
	}
	if !n.Running() {
		t.Error("the node has ended")
	}
}
