// Package crash kills the real kisnode at random moments, many times, while events flow through it, and then
// compares everything that it kept and put out with what the events must lead to: every key's state, every output,
// every dead letter, all exactly once and in the order of their key.
package crash

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/internal/checker"
	"github.com/kisflow/kisflow/test/process"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the events and the kills; 0: a new one each run")
	killsFlag = flag.Int("kills", 0, "kills of each test; 0: 20 embedded and 30 outside, or as KISFLOW_SOAK says")
)

var bin string

func TestMain(m *testing.M) { flag.Parse(); process.Main(m, &bin, "kisnode", "nats-server") }

func TestKillEmbedded(t *testing.T) { t.Parallel(); newRun(t, false, 20, 500).run() }

func TestKillOutside(t *testing.T) { t.Parallel(); newRun(t, true, 30, 500).run() }

// messagesPerKill is what every lane may publish from one kill to the next.
const messagesPerKill = 25

// run is one test.
type run struct {
	*testing.T
	random *rand.Rand
	kills  int
	node   *process.Node
	server *process.Server // nil with the embedded NATS
	client *api.Client
	nc     *nats.Conn
	gen    *generator

	killed     []time.Time
	inRecovery int // kills before the node was ready
	ofServer   int // kills of the outside server
	slowest    time.Duration
	recovered  uint64 // log records read again
}

func newRun(t *testing.T, outside bool, kills, soak int) *run {
	if os.Getenv("KISFLOW_SOAK") == "1" {
		kills = soak
	}
	if *killsFlag > 0 {
		kills = *killsFlag
	}
	if testing.Short() {
		kills = min(kills, 5)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() | 1
	}
	t.Logf("replay: go test ./test/crash -count=1 -run '%s$' -seed=%d -kills=%d", t.Name(), seed, kills)
	r := &run{T: t, random: rand.New(rand.NewPCG(seed, 99)), kills: kills}
	dir := t.TempDir()
	r.node = process.NewNode(t, bin, dir+"/data", "--durability", "process", "--flows", "testdata/flows.yaml")
	if outside {
		r.server = process.NewServer(t, bin, dir)
		r.must(r.server.Start())
		r.node.NATS = r.server.URL()
	}
	r.client, r.nc = r.node.Client(t), r.node.Connect(t)
	r.must(r.node.Start())
	var err error
	r.gen, err = newGenerator(r.nc, seed, (kills+1)*messagesPerKill)
	r.must(err)
	return r
}

func (r *run) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%v\n%s", err, r.node.Log())
	}
}

func (r *run) run() {
	begin := time.Now()
	for range r.kills {
		r.gen.permit(messagesPerKill)
		r.killOnce()
	}
	r.gen.permit(messagesPerKill)
	r.must(r.gen.finish())
	want := r.want()
	r.settled(want)
	r.node.Kill() // what a start sends again must be dropped by whoever has it
	r.must(r.node.Start())
	r.settled(want)
	r.check(want)
	r.notVacuous(want)
	r.Logf("%d kills, %d of them in a recovery, %d of the server; %d events, %d dead letters, %d messages sent again; slowest start %v; %d log records read again; %v",
		len(r.killed)+r.ofServer, r.inRecovery, r.ofServer, want.events, want.letters, want.repeats, r.slowest.Round(time.Millisecond), r.recovered, time.Since(begin).Round(time.Second))
}

// killOnce waits a random time and kills: mostly the node at work, sometimes in its recovery, sometimes the
// outside server.
func (r *run) killOnce() {
	if r.random.IntN(5) > 0 {
		r.flowing()
	}
	switch {
	case r.server != nil && r.random.IntN(3) == 0:
		time.Sleep(r.moment(100 * time.Millisecond))
		r.server.Kill()
		r.ofServer++
		time.Sleep(r.moment(100 * time.Millisecond))
		both := r.random.IntN(2) == 0
		if both {
			r.node.Kill()
			r.killed = append(r.killed, time.Now())
		}
		r.must(r.server.Start())
		if both {
			r.restart()
		}
	case r.random.IntN(5) == 0:
		r.node.Kill()
		r.killed = append(r.killed, time.Now())
		r.must(r.node.Launch())
		time.Sleep(r.moment(400 * time.Millisecond))
		if r.node.Ready() != nil {
			r.inRecovery++
		}
		r.node.Kill()
		r.restart()
	default:
		time.Sleep(r.moment(100 * time.Millisecond))
		r.node.Kill()
		r.killed = append(r.killed, time.Now())
		r.restart()
	}
}

// flowing waits until an event has been acknowledged since it was called.
func (r *run) flowing() {
	before := r.gen.acked.Load()
	for end := time.Now().Add(10 * time.Second); r.gen.acked.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("no event was acknowledged in 10 s after a start\n%s", r.node.Log())
		}
	}
}

func (r *run) moment(most time.Duration) time.Duration {
	return time.Duration(r.random.Int64N(int64(most)))
}

func (r *run) restart() {
	begin := time.Now()
	r.must(r.node.Start())
	r.slowest = max(r.slowest, time.Since(begin))
	s, err := r.client.Status(context.Background())
	r.must(err)
	r.recovered += s.Recovery.Records
}

// totals is the state of a key in an order or a shop.
type totals struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
}

// userTotals is the state of a user.
type userTotals struct {
	totals
	Last int64 `json:"last"`
}

// wanted is what the acknowledged events must lead to.
type wanted struct {
	lists                          checker.Checker
	users                          map[int64]userTotals
	orders, shops                  map[int64]totals
	events, good, letters, repeats int
	acks                           []ack
}

// ack is when so many good events more were acknowledged.
type ack struct {
	at time.Time
	n  int
}

// want computes it from what the lanes published, and from nothing else.
func (r *run) want() *wanted {
	w := &wanted{users: make(map[int64]userTotals), orders: make(map[int64]totals), shops: make(map[int64]totals)}
	for _, l := range r.gen.lanes {
		w.repeats += l.repeats
		for _, s := range l.stored {
			w.acks = append(w.acks, ack{s.at, len(s.good)})
			w.good += len(s.good)
			w.events += len(s.good) + len(s.bad)
			w.letters += len(s.bad)
			for _, line := range s.bad {
				w.lists.Want("dead letters", line)
			}
			for _, e := range s.good {
				u := w.users[e.User]
				u = userTotals{totals{u.Count + 1, u.Total + e.Amount}, e.ID}
				w.users[e.User] = u
				w.lists.Want("outputs of users", fmt.Sprintf("user %d event %d count %d total %d", e.User, e.ID, u.Count, u.Total), fmt.Sprint("user ", e.User))
				if e.lost {
					w.letters++
					w.lists.Want("dead letters", fmt.Sprintf(`{"id":%d,"user":%d,"order":null,"shop":%d,"amount":%d,"count":%d,"total":%d}`,
						e.ID, e.User, e.Shop, e.Amount, u.Count, u.Total))
					continue
				}
				add(w.orders, e.Order, e.Amount)
				add(w.shops, e.Shop, e.Amount)
				w.lists.Want("outputs of orders", fmt.Sprintf("order %d event %d", e.Order, e.ID), fmt.Sprintf("order %d user %d", e.Order, e.User))
			}
		}
	}
	return w
}

func add(m map[int64]totals, key, amount int64) {
	t := m[key]
	m[key] = totals{t.Count + 1, t.Total + amount}
}

// settleLimit is how long the node may take for what the kills have left.
const settleLimit = 2 * time.Minute

// settled waits until all outputs are there and nothing is behind.
func (r *run) settled(w *wanted) {
	r.Helper()
	var still time.Time
	for end := time.Now().Add(settleLimit); ; time.Sleep(50 * time.Millisecond) {
		s, err := r.client.Status(context.Background())
		r.must(err)
		if s.Stopped > 0 {
			r.Fatalf("problems: %q\n%s", s.Problems, r.node.Log())
		}
		if s.Lag > 0 || s.DeadLetters < uint64(w.letters) {
			still = time.Time{}
		} else if still.IsZero() {
			still = time.Now()
		} else if time.Since(still) > 500*time.Millisecond {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("not all is counted after %v: lag %d, %d of %d dead letters\n%s", settleLimit, s.Lag, s.DeadLetters, w.letters, r.node.Log())
		}
	}
}

// check compares everything.
func (r *run) check(w *wanted) {
	states(r, "Orders", "user", "user", w.users)
	states(r, "Orders", "order", "order", w.orders)
	states(r, "Shops", "shop", "shop", w.shops)
	r.deadLetters(w)
	r.userOutputs(w)
	r.orderOutputs(w)
	for _, err := range w.lists.Errors() {
		r.Errorf("%.2000v", err)
	}
}

// states compares the states of a step, read page by page.
func states[T comparable](r *run, flow, step, field string, want map[int64]T) {
	seen := make(map[int64]bool)
	for page := (api.Page{Limit: 97}); ; {
		list, err := r.client.States(context.Background(), flow, step, "", page)
		r.must(err)
		for _, e := range list.Items {
			var key map[string]int64
			var got T
			r.must(json.Unmarshal(e.Key, &key))
			r.must(json.Unmarshal(e.State, &got))
			k := key[field]
			if seen[k] {
				r.Errorf("%s %s: key %d is listed twice", flow, step, k)
			}
			seen[k] = true
			if got != want[k] {
				r.Errorf("%s %s: key %d: %+v, want %+v", flow, step, k, got, want[k])
			}
		}
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	if len(seen) != len(want) {
		r.Errorf("%s %s: %d keys, want %d", flow, step, len(seen), len(want))
	}
}

func (r *run) deadLetters(w *wanted) {
	for page := (api.Page{Limit: 97}); ; {
		list, err := r.client.DeadLetters(context.Background(), "Orders", api.DeadLetterFilter{}, page)
		r.must(err)
		for _, item := range list.Items {
			full, err := r.client.DeadLetter(context.Background(), "Orders", item.ID)
			r.must(err)
			w.lists.Got("dead letters", strings.TrimRight(string(full.Data), "\n"))
		}
		if page.After = list.Next; page.After == "" {
			return
		}
	}
}

// output is one output, of a user or of an order.
type output struct {
	ID, User, Order, Count, Total int64
	at                            time.Time // when it was stored
}

// outputs reads a subject from its beginning to its end.
func (r *run) outputs(subject string) []output {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	js, err := jetstream.New(r.nc)
	r.must(err)
	name, err := js.StreamNameBySubject(ctx, subject)
	r.must(err)
	c, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	r.must(err)
	var all []output
	for {
		// nothing in half a second is the end: the node has been idle for longer
		batch, err := c.Fetch(1000, jetstream.FetchMaxWait(500*time.Millisecond))
		r.must(err)
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			r.must(err)
			for line := range strings.Lines(string(m.Data())) {
				o := output{at: meta.Timestamp}
				r.must(json.Unmarshal([]byte(line), &o))
				all = append(all, o)
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			r.Fatal(err)
		}
		if n == 0 {
			return all
		}
	}
}

func (r *run) userOutputs(w *wanted) {
	for _, o := range r.outputs("crash.out.user") {
		w.lists.Got("outputs of users", fmt.Sprintf("user %d event %d count %d total %d", o.User, o.ID, o.Count, o.Total))
	}
}

// orderOutputs compares the outputs of orders. In which order the events of several users came to an order is
// decided by the node, once: the counts have to go up one by one, and the totals with the amounts.
func (r *run) orderOutputs(w *wanted) {
	amounts := make(map[int64]int64)
	for _, l := range r.gen.lanes {
		for _, s := range l.stored {
			for _, e := range s.good {
				amounts[e.ID] = e.Amount
			}
		}
	}
	sums := make(map[int64]totals)
	wrong := 0
	for _, o := range r.outputs("crash.out.order") {
		w.lists.Got("outputs of orders", fmt.Sprintf("order %d event %d", o.Order, o.ID))
		add(sums, o.Order, amounts[o.ID])
		if got := (totals{o.Count, o.Total}); got != sums[o.Order] {
			if wrong++; wrong <= 5 {
				r.Errorf("output of order %d, event %d: %+v, want %+v", o.Order, o.ID, got, sums[o.Order])
			}
			sums[o.Order] = got
		}
	}
}

// notVacuous proves that the kills met a node at work: outputs came between the kills, and at many of them events
// were acknowledged whose outputs were not out yet.
func (r *run) notVacuous(w *wanted) {
	outs := r.outputs("crash.out.user")
	slices.SortFunc(w.acks, func(a, b ack) int { return a.at.Compare(b.at) })
	flowed, atWork, acked, i, j := 0, 0, 0, 0, 0
	for _, at := range r.killed {
		for i < len(w.acks) && w.acks[i].at.Before(at) {
			acked += w.acks[i].n
			i++
		}
		before := j
		for j < len(outs) && outs[j].at.Before(at) {
			j++
		}
		if j > before {
			flowed++
		}
		if acked > j {
			atWork++
		}
	}
	r.Logf("outputs came before %s of the kills, and events were under way at %s of them", share(flowed, len(r.killed)), share(atWork, len(r.killed)))
	if flowed*2 < len(r.killed) || atWork*5 < len(r.killed) {
		r.Error("the kills met an idle node too often: the test proves too little")
	}
	if w.letters == 0 || len(w.users) < users/4 || r.recovered == 0 {
		r.Errorf("%d dead letters, %d users, %d log records read again: the test proves too little", w.letters, len(w.users), r.recovered)
	}
}

func share(n, of int) string { return strconv.Itoa(n) + "/" + strconv.Itoa(of) }
