package reads

import (
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/test/cluster/ledger"
)

// at is a moment of the history.
func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

var start = time.Now()

// five events of key 7 are sent at 0, 100, ... 400 ms, and their outputs are seen 60 ms later.
func five() (map[int64][]ledger.Counted, func(int64) []ledger.Sight) {
	var events []ledger.Counted
	var sights []ledger.Sight
	for i := range 5 {
		events = append(events, ledger.Counted{ID: int64(10 * (i + 1)), Sent: at(100 * i)})
		sights = append(sights, ledger.Sight{N: int64(i + 1), At: at(100*i + 60)})
	}
	return map[int64][]ledger.Counted{7: events}, func(int64) []ledger.Sight { return sights }
}

// read is one of key 7 that is answered at once.
func read(session, ms int, consistent bool, n int) Read {
	q := Read{Session: session, Node: "a", Key: 7, Consistent: consistent, Call: at(ms), Return: at(ms + 5), State: State{N: int64(n)}}
	for i := range n {
		q.State.Sum += int64(10 * (i + 1))
		q.State.Last = append(q.State.Last, int64(10*(i+1)))
	}
	return q
}

func TestCheck(t *testing.T) {
	spoiled := func(change func(*Read)) Read {
		q := read(0, 480, false, 4)
		change(&q)
		return q
	}
	const plain, consistent = false, true
	for _, c := range []struct {
		name  string
		reads []Read
		want  string // part of the error; empty: none
	}{
		{"as it has to be", []Read{read(0, 10, plain, 0), read(0, 70, consistent, 1), read(1, 130, consistent, 2), read(0, 480, plain, 5)}, ""},
		{"while an event is under way both are right", []Read{read(0, 110, consistent, 1), read(0, 130, consistent, 2)}, ""},
		{"a plain read may be late", []Read{read(0, 480, plain, 1)}, ""},
		{"two sessions may see a plain read go back", []Read{read(0, 200, plain, 2), read(1, 300, plain, 1)}, ""},
		{"before its output is seen", []Read{read(0, 101, consistent, 2)}, ""},
		{"a session goes back", []Read{read(0, 200, plain, 2), read(0, 300, plain, 1)}, "session 0, key 7: answers go back"},
		{"a session goes back from a consistent read", []Read{read(0, 270, consistent, 3), read(0, 300, plain, 1)}, "session 0, key 7: answers go back"},
		{"a consistent read is late", []Read{read(0, 170, consistent, 1)}, "key 7: 1 consistent reads among 5 events fit in no order"},
		{"a consistent read goes back", []Read{read(0, 110, consistent, 2), read(1, 130, consistent, 1)}, "key 7: 2 consistent reads among 5 events fit in no order"},
		{"too many", []Read{read(0, 480, plain, 6)}, "6 events are counted of 5"},
		{"before it was sent", []Read{read(0, 80, plain, 2)}, "event 20 is counted, which was sent 15ms later"},
		{"another sum", []Read{spoiled(func(q *Read) { q.State.Sum++ })}, "has to have the sum 100"},
		{"another last event", []Read{spoiled(func(q *Read) { q.State.Last[2] = 50 })}, "the last events [10 20 30 40]"},
		{"half a commit", []Read{spoiled(func(q *Read) { q.State.N-- })}, "has to have the sum 60"},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, sights := five()
			err := Check(c.reads, events, sights)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestManyReads checks a history of the size that a run has.
func TestManyReads(t *testing.T) {
	events := make(map[int64][]ledger.Counted)
	sights := make(map[int64][]ledger.Sight)
	var all []Read
	const count = 3000
	var sum int64
	var last []int64
	for i := range count {
		events[7] = append(events[7], ledger.Counted{ID: int64(i), Sent: at(10 * i)})
		if i%7 == 0 {
			sights[7] = append(sights[7], ledger.Sight{N: int64(i + 1), At: at(10*i + 40)})
		}
		sum += int64(i)
		last = append(last, int64(i))
		last = last[max(0, len(last)-ledger.LastMost):]
		q := Read{Session: i % sessions, Key: 7, Consistent: true, Call: at(10*i + 2), Return: at(10*i + 50), State: State{int64(i + 1), sum, append([]int64(nil), last...)}}
		all = append(all, q)
	}
	begin := time.Now()
	if err := Check(all, events, func(key int64) []ledger.Sight { return sights[key] }); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reads among %d events in %v", len(all), count, time.Since(begin))
	late := all[2000]
	late.State = all[1990].State
	late.Session = sessions
	if err := Check(append(all, late), events, func(key int64) []ledger.Sight { return sights[key] }); err == nil {
		t.Error("a read that is 10 events late is not found")
	}
}
