// Package reads asks nodes for the states of keys while things break, and checks the answers afterwards, with porcupine and
// with the books.
//
// Every answer has to be committed: what a key had after some number of its events, none of which was sent only later.
// Through one session, which hands on what place of the log it has seen, answers for a key never go back, whichever node
// is asked. Consistent answers are linearizable together with the events themselves: an event counts at one moment between
// its sending and the first sight of its output, and a consistent read sees exactly what has counted at a moment while it was
// under way.
package reads

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kisflow/kisflow/test/cluster/ledger"
	"github.com/kisflow/kisflow/test/cluster/rig"
)

// Read is one answer.
type Read struct {
	Session    int
	Node       string
	Key        int64
	Consistent bool
	Call       time.Time
	Return     time.Time
	State      State
}

// State is what Ledger's count has of a key; of one that has no events yet the zero value.
type State struct {
	N    int64
	Sum  int64
	Last []int64
}

// Readers are sessions that ask. Its methods are safe for use by many goroutines; Reads is for after Finish.
type Readers struct {
	nodes []*rig.Node
	keys  int64
	stop  chan struct{}
	done  sync.WaitGroup

	mu     sync.Mutex
	reads  []Read
	failed map[string]int // by what was wrong
}

const (
	sessions   = 8
	pause      = 40 * time.Millisecond // between reads of a session
	answerIn   = 2 * time.Second
	mostReads  = 200_000
	busiestKey = 12 // keys below it are read most
)

// Open starts the sessions, which read until Finish.
func Open(nodes []*rig.Node, keys int, seed uint64) *Readers {
	r := &Readers{nodes: nodes, keys: int64(keys), stop: make(chan struct{}), failed: make(map[string]int)}
	for i := range sessions {
		random := rand.New(rand.NewPCG(seed, 5000+uint64(i)))
		r.done.Go(func() { r.session(i, random) }) // ends with stop
	}
	return r
}

// Finish ends the sessions.
func (r *Readers) Finish() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	r.done.Wait()
}

// Reads are all answers.
func (r *Readers) Reads() []Read { return r.reads }

// session asks one question after the other, of any node. Half of them are consistent; the others hand on the newest place
// that the session has seen of the key's partition.
func (r *Readers) session(number int, random *rand.Rand) {
	seen := make(map[int64]uint64) // by key
	for {
		select {
		case <-r.stop:
			return
		case <-time.After(pause/2 + time.Duration(random.Int64N(int64(pause)))):
		}
		q := Read{Session: number, Key: random.Int64N(min(busiestKey, r.keys)), Consistent: random.IntN(2) == 0}
		if random.IntN(8) == 0 {
			q.Key = random.Int64N(r.keys)
		}
		node := r.nodes[random.IntN(len(r.nodes))]
		q.Node = node.Name
		place, err := ask(node, &q, seen[q.Key])
		r.mu.Lock()
		switch {
		case err != nil:
			r.failed[short(err)]++
		case len(r.reads) < mostReads:
			r.reads = append(r.reads, q)
			seen[q.Key] = max(seen[q.Key], place)
		}
		r.mu.Unlock()
	}
}

// ask fills in the answer, and returns the place of the log that it is of.
func ask(n *rig.Node, q *Read, atLeast uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	path := fmt.Sprintf("/api/v1/flows/Ledger/steps/count/state?key=key=%d", q.Key)
	if q.Consistent {
		path += "&consistent=true"
	}
	if atLeast > 0 {
		path += fmt.Sprintf("&at_least=%d", atLeast)
	}
	var answer struct {
		State  State
		Commit uint64
	}
	q.Call = time.Now()
	err := n.Get(ctx, path, &answer)
	q.Return = time.Now()
	q.State = answer.State
	var status *rig.StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound && status.Code == "no_state" {
		return 0, nil // of no events: an answer like others
	}
	return answer.Commit, err
}

// short is what is wrong, without the particulars.
func short(err error) string {
	var status *rig.StatusError
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("%d %s", status.Status, status.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return "no connection"
}

// Summary counts.
func (r *Readers) Summary() string {
	consistent, keys := 0, make(map[int64]bool)
	by := make(map[string]int)
	for _, q := range r.reads {
		if q.Consistent {
			consistent++
		}
		keys[q.Key] = true
		by[q.Node]++
	}
	return fmt.Sprintf("%d reads of %d keys, %d of them consistent, answered by %v; not answered: %v", len(r.reads), len(keys), consistent, by, r.failed)
}

// checkLimit bounds the search for an order.
const checkLimit = time.Minute

// Check says what is wrong with the answers, given the events of each key in the order in which they count, and when the
// outputs of each key were seen.
func Check(reads []Read, events map[int64][]ledger.Counted, sights func(key int64) []ledger.Sight) error {
	var errs []error
	for _, q := range reads {
		if err := committed(q, events[q.Key]); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs[:min(len(errs), 20)]...) // what never was cannot be put in an order
	}
	begin := time.Now()
	for _, q := range reads {
		if q.Call.Before(begin) {
			begin = q.Call
		}
	}
	h := history{begin}
	errs = append(errs, h.monotonic(reads), h.linearizable(reads, events, sights))
	return errors.Join(errs...)
}

// committed compares an answer with what the key had after so many of its events.
func committed(q Read, events []ledger.Counted) error {
	who := fmt.Sprintf("session %d, key %d at node %s, %s", q.Session, q.Key, q.Node, q.Call.Format("15:04:05.000"))
	if q.State.N < 0 || q.State.N > int64(len(events)) {
		return fmt.Errorf("%s: %d events are counted of %d", who, q.State.N, len(events))
	}
	var sum int64
	var last []int64
	for _, e := range events[:q.State.N] {
		sum += e.ID
		last = append(last, e.ID)
		if e.Sent.After(q.Return) {
			return fmt.Errorf("%s: event %d is counted, which was sent %v later", who, e.ID, e.Sent.Sub(q.Return))
		}
	}
	last = last[max(0, len(last)-ledger.LastMost):]
	if sum != q.State.Sum || !slices.Equal(last, q.State.Last) {
		return fmt.Errorf("%s: the state of %d events is %+v, and has to have the sum %d and the last events %v", who, q.State.N, q.State, sum, last)
	}
	return nil
}

// history makes porcupine's operations.
type history struct{ begin time.Time }

func (h history) at(t time.Time) int64 { return int64(t.Sub(h.begin)) }

// put is the input of an operation that counts the event with a number; 0: it reads.
type put int64

// model is of one number that goes up: read exactly, or never below what was read before.
func model(exactly bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return int64(0) },
		Step: func(state, input, output any) (bool, any) {
			now := state.(int64)
			if n := input.(put); n > 0 {
				return now == int64(n)-1, int64(n)
			}
			read := output.(int64)
			return read == now || !exactly && read > now, read
		},
		Equal:             func(a, b any) bool { return a == b },
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v %v", input, output) },
	}
}

func (h history) read(q Read) porcupine.Operation {
	return porcupine.Operation{ClientId: q.Session, Input: put(0), Call: h.at(q.Call), Output: q.State.N, Return: h.at(q.Return)}
}

func (h history) monotonic(reads []Read) error {
	type place struct {
		session int
		key     int64
	}
	parts := make(map[place][]porcupine.Operation)
	for _, q := range reads {
		p := place{q.Session, q.Key}
		parts[p] = append(parts[p], h.read(q))
	}
	var errs []error
	for p, ops := range parts {
		if result := porcupine.CheckOperationsTimeout(model(false), ops, checkLimit); result != porcupine.Ok {
			var found string
			for i := 1; i < len(ops); i++ {
				if before, now := ops[i-1].Output.(int64), ops[i].Output.(int64); now < before {
					found = fmt.Sprintf(": %d, and then %d at %s", before, now, h.begin.Add(time.Duration(ops[i].Call)).Format("15:04:05.000"))
					break
				}
			}
			errs = append(errs, fmt.Errorf("session %d, key %d: answers go back (%s)%s", p.session, p.key, result, found))
		}
	}
	return errors.Join(errs...)
}

func (h history) linearizable(reads []Read, events map[int64][]ledger.Counted, sights func(int64) []ledger.Sight) error {
	parts := make(map[int64][]porcupine.Operation)
	for _, q := range reads {
		if q.Consistent {
			parts[q.Key] = append(parts[q.Key], h.read(q))
		}
	}
	var errs []error
	for key, ops := range parts {
		seen := sights(key)
		for i, e := range events[key] {
			op := porcupine.Operation{ClientId: sessions, Input: put(i + 1), Call: h.at(e.Sent), Output: int64(0), Return: math.MaxInt64}
			for len(seen) > 0 && seen[0].N <= int64(i) {
				seen = seen[1:]
			}
			if len(seen) > 0 {
				op.Return = h.at(seen[0].At)
			}
			ops = append(ops, op)
		}
		if result := porcupine.CheckOperationsTimeout(model(true), ops, checkLimit); result != porcupine.Ok {
			errs = append(errs, fmt.Errorf("key %d: %d consistent reads among %d events fit in no order (%s)", key, len(ops)-len(events[key]), len(events[key]), result))
		}
	}
	return errors.Join(errs...)
}
