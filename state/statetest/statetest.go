// Package statetest is the suite that every answer to the port state passes.
package statetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sort"
	"sync"
	"testing"

	"github.com/kisflow/kisflow/state"
)

// Run tests an answer. Open makes an empty database; reopen closes one and opens it again, or is nil where
// nothing outlives a Close.
func Run(t *testing.T, open func(t *testing.T) state.DB, reopen func(t *testing.T, db state.DB) state.DB) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, state.DB)
	}{
		{"get", testGet}, {"install", testInstall}, {"ownership", testOwnership}, {"scan", testScan},
		{"clear", testClear}, {"partitions", testPartitions}, {"model", testModel}, {"misuse", testMisuse},
		{"snapshot", testSnapshot},
		{"beside", testBeside},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := open(t)
			c.test(t, db)
			if err := db.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	t.Run("closed", func(t *testing.T) { testClosed(t, open(t)) })
	if reopen != nil {
		t.Run("reopen", func(t *testing.T) { testReopen(t, open(t), reopen) })
	}
}

// testBeside: Get and Scan answer others, too, while the store's owner installs.
func testBeside(t *testing.T, db state.DB) {
	const keys, rounds = 20, 300
	s := mustStore(t, db, "p")
	put := func(round int) {
		var cs []state.Change
		for k := range keys {
			cs = append(cs, state.Change{Key: fmt.Appendf(nil, "k%02d", k), Value: fmt.Appendf(nil, "v%d.%d", k, round)})
		}
		if err := s.Install(cs); err != nil {
			t.Errorf("install: %v", err)
		}
	}
	put(0)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for reader := range 3 {
		readers.Go(func() {
			last := make([]int, keys)
			seen := func(k int, v []byte) {
				var of, round int
				if n, err := fmt.Sscanf(string(v), "v%d.%d", &of, &round); n != 2 || err != nil || of != k || round < last[k] {
					t.Errorf("reader %d: key %d is %q after round %d", reader, k, v, last[k])
				}
				last[k] = round
			}
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				k := i % keys
				v, err := s.Get(fmt.Appendf(nil, "k%02d", k))
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				seen(k, v)
				n := 0
				if err := s.Scan([]byte("k"), nil, func(_, v []byte) bool { seen(n, v); n++; return true }); err != nil || n != keys {
					t.Errorf("scan: %d keys, %v", n, err)
					return
				}
			}
		})
	}
	for round := range rounds {
		put(round + 1)
	}
	close(done)
	readers.Wait()
}

func mustStore(t *testing.T, db state.DB, partition string) state.Store {
	t.Helper()
	s, err := db.Store(partition)
	if err != nil {
		t.Fatalf("store %s: %v", partition, err)
	}
	return s
}

func install(t *testing.T, s state.Store, pairs ...string) {
	t.Helper()
	var cs []state.Change
	for i := 0; i < len(pairs); i += 2 {
		c := state.Change{Key: []byte(pairs[i])}
		if pairs[i+1] != "-" {
			c.Value = []byte(pairs[i+1])
		}
		cs = append(cs, c)
	}
	if err := s.Install(cs); err != nil {
		t.Fatalf("install %q: %v", pairs, err)
	}
}

func expect(t *testing.T, s state.Store, key, want string) {
	t.Helper()
	v, err := s.Get([]byte(key))
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	got := string(v)
	if v == nil {
		got = "-"
	}
	if got != want {
		t.Errorf("get %q = %q, want %q", key, got, want)
	}
}

// Dump returns the content of a store, or of a reader, as "key=value" in the order of Scan.
func Dump(s interface {
	Scan(from, to []byte, f func(key, value []byte) bool) error
}) ([]string, error) {
	var all []string
	err := s.Scan(nil, nil, func(k, v []byte) bool {
		all = append(all, string(k)+"="+string(v))
		return true
	})
	return all, err
}

func expectAll(t *testing.T, s state.Store, want ...string) {
	t.Helper()
	got, err := Dump(s)
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("scan = %q, want %q", got, want)
	}
}

func testGet(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	expect(t, s, "a", "-")
	install(t, s, "a", "1")
	expect(t, s, "a", "1")
	expect(t, s, "aa", "-")
	install(t, s, "a", "")
	if v, err := s.Get([]byte("a")); err != nil || v == nil || len(v) != 0 {
		t.Errorf("an empty value reads as %v, %v; want one that is empty and not nil", v, err)
	}
	install(t, s, "a", "-")
	expect(t, s, "a", "-")
	// The same partition is the same store, another one is not.
	install(t, s, "k", "p's")
	expect(t, mustStore(t, db, "p"), "k", "p's")
	expect(t, mustStore(t, db, "q"), "k", "-")
}

func testInstall(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	install(t, s)
	expectAll(t, s)
	install(t, s, "b", "1", "a", "2", "c", "3")
	install(t, s, "b", "-", "a", "4", "missing", "-")
	expectAll(t, s, "a=4", "c=3")
	install(t, s, "x", "first", "x", "-", "x", "last") // in order: the last change of a key counts
	install(t, s, "c", "5", "c", "-")
	expectAll(t, s, "a=4", "x=last")
	big := bytes.Repeat([]byte("v"), 3<<20)
	if err := s.Install([]state.Change{{Key: []byte("big"), Value: big}}); err != nil {
		t.Fatalf("install 3 MiB: %v", err)
	}
	if v, err := s.Get([]byte("big")); err != nil || !bytes.Equal(v, big) {
		t.Errorf("3 MiB read back as %d bytes, %v", len(v), err)
	}
	var many []state.Change
	for i := range 20_000 {
		many = append(many, state.Change{Key: fmt.Appendf(nil, "many%05d", i), Value: fmt.Appendf(nil, "%d", i)})
	}
	if err := s.Install(many); err != nil {
		t.Fatalf("install %d changes: %v", len(many), err)
	}
	expect(t, s, "many19999", "19999")
}

func testOwnership(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	key, value := []byte("key"), []byte("value")
	if err := s.Install([]state.Change{{Key: key, Value: value}}); err != nil {
		t.Fatal(err)
	}
	copy(key, "xxx")
	copy(value, "xxxxx")
	expect(t, s, "key", "value")
	expect(t, s, "xxx", "-")
	v, err := s.Get([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	copy(v, "yyyyy") // ours
	expect(t, s, "key", "value")
}

func testScan(t *testing.T, db state.DB) {
	// Neighbours on both sides, whatever the order of partitions on the disk.
	for i := range 8 {
		install(t, mustStore(t, db, fmt.Sprintf("neighbour%d", i)), "a", "no", "zzz", "no", "\xff\xff", "no")
	}
	s := mustStore(t, db, "p")
	keys := []string{"\x00", "\x00\x00", "a", "a\x00", "aa", "ab", "b", "\xfe", "\xff", "\xff\xff"}
	for i, k := range slices.Backward(keys) {
		install(t, s, k, fmt.Sprint(i))
	}
	var all []string
	for i, k := range keys {
		all = append(all, fmt.Sprintf("%s=%d", k, i))
	}
	expectAll(t, s, all...)
	for _, c := range []struct {
		from, to    string
		first, last int // of all
	}{
		{"a", "b", 2, 6}, {"a", "a", 2, 2}, {"aa", "ab\x00", 4, 6}, {"b", "a", 0, 0}, {"a1", "z", 4, 7},
		{"", "a", 0, 2}, {"\x00", "\x00\x01", 0, 2}, {"\xff\xff\xff", "", 0, 0}, {"\xff", "\xff\xff", 8, 9},
	} {
		var got []string
		err := s.Scan([]byte(c.from), []byte(c.to), func(k, v []byte) bool {
			got = append(got, string(k)+"="+string(v))
			return true
		})
		if want := all[c.first:c.last]; err != nil || !slices.Equal(got, want) {
			t.Errorf("scan from %q to %q = %q, %v; want %q", c.from, c.to, got, err, want)
		}
	}
	n := 0
	if err := s.Scan(nil, nil, func(_, _ []byte) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("a scan that is stopped at 3 called %d times, %v", n, err)
	}
	// A scan may read its store.
	err := s.Scan([]byte("a"), []byte("b"), func(k, v []byte) bool {
		expect(t, s, string(k), string(v))
		return true
	})
	if err != nil {
		t.Error(err)
	}
}

func testClear(t *testing.T, db state.DB) {
	p, q := mustStore(t, db, "p"), mustStore(t, db, "q")
	install(t, p, "a", "1", "\xff\xff\xff", "2")
	install(t, q, "a", "3")
	if err := p.Clear(); err != nil {
		t.Fatal(err)
	}
	expectAll(t, p)
	expect(t, p, "a", "-")
	expectAll(t, q, "a=3")
	install(t, p, "b", "4")
	expectAll(t, p, "b=4")
	if err := p.Clear(); err != nil {
		t.Fatal(err)
	}
	if err := p.Clear(); err != nil {
		t.Errorf("clear of an empty store: %v", err)
	}
	expectAll(t, p)
}

// A reader sees what there was, whatever becomes of its store, and beside it.
func testSnapshot(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	install(t, mustStore(t, db, "q"), "a", "no")
	read := func(r state.Reader, want ...string) {
		t.Helper()
		got, err := Dump(r)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("the reader has %q, %v; want %q", got, err, want)
		}
	}
	snapshot := func() state.Reader {
		t.Helper()
		r, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	empty := snapshot()
	install(t, s, "a", "1", "b", "2", "c", "3")
	first := snapshot()
	install(t, s, "b", "-", "c", "4", "d", "5")
	second := snapshot()
	if err := s.Clear(); err != nil {
		t.Fatal(err)
	}
	install(t, s, "e", "6")
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	read(empty)
	read(first, "a=1", "b=2", "c=3")
	read(second, "a=1", "c=4", "d=5")
	n := 0
	if err := second.Scan([]byte("b"), []byte("d"), func(k, _ []byte) bool { n++; return string(k) == "c" }); err != nil || n != 1 {
		t.Errorf("a part of a reader has %d keys, %v", n, err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for range 50 {
			read(first, "a=1", "b=2", "c=3")
		}
	})
	for i := range 50 {
		install(t, s, "a", fmt.Sprint(i), "e", "-")
		expect(t, s, "a", fmt.Sprint(i))
	}
	all.Wait()
	for _, r := range []state.Reader{empty, first, first} {
		if err := r.Close(); err != nil {
			t.Errorf("close of a reader: %v", err)
		}
	}
	if err := first.Scan(nil, nil, func(_, _ []byte) bool { return true }); err == nil {
		t.Error("a closed reader reads on")
	}
	for key, want := range map[string]string{"a": "1", "b": "", "c": "4", "e": ""} {
		if v, err := second.Get([]byte(key)); err != nil || string(v) != want || (v == nil) != (want == "") {
			t.Errorf("the reader's %s is %q, %v; want %q", key, v, err, want)
		}
	}
	if _, err := first.Get([]byte("a")); err == nil {
		t.Error("a closed reader has values")
	}
	read(second, "a=1", "c=4", "d=5") // it is left open: the database's Close closes it
}

func partitions(t *testing.T, db state.DB, want ...string) {
	t.Helper()
	got, err := db.Partitions()
	if err != nil {
		t.Fatalf("partitions: %v", err)
	}
	sort.Strings(got)
	if !slices.Equal(got, want) {
		t.Errorf("partitions = %q, want %q", got, want)
	}
}

func testPartitions(t *testing.T, db state.DB) {
	partitions(t, db)
	a, b := mustStore(t, db, "flow/stage/0"), mustStore(t, db, "流/步骤/1")
	partitions(t, db) // nothing is in them
	install(t, a, "k", "1")
	install(t, b, "k", "1", "l", "2")
	partitions(t, db, "flow/stage/0", "流/步骤/1")
	install(t, a, "k", "-")
	partitions(t, db, "流/步骤/1")
	install(t, a, "k", "2")
	if err := db.Drop("流/步骤/1"); err != nil {
		t.Fatalf("drop: %v", err)
	}
	if err := db.Drop("never seen"); err != nil {
		t.Errorf("drop of a partition that is not there: %v", err)
	}
	partitions(t, db, "flow/stage/0")
	expectAll(t, mustStore(t, db, "流/步骤/1"))
	install(t, mustStore(t, db, "流/步骤/1"), "n", "new")
	expectAll(t, mustStore(t, db, "流/步骤/1"), "n=new")
	if err := a.Clear(); err != nil {
		t.Fatal(err)
	}
	partitions(t, db, "流/步骤/1")
}

func testMisuse(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	install(t, s, "a", "1")
	err := s.Install([]state.Change{{Key: []byte("a"), Value: []byte("2")}, {Value: []byte("3")}})
	if err == nil {
		t.Error("an empty key was installed; want an error")
	}
	expectAll(t, s, "a=1") // all changes or none
	if _, err := db.Store(""); err == nil {
		t.Error("a partition without a name has a store; want an error")
	}
}

func testClosed(t *testing.T, db state.DB) {
	s := mustStore(t, db, "p")
	install(t, s, "a", "1")
	r, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, snapshotErr := s.Snapshot()
	_, getErr := s.Get([]byte("a"))
	_, storeErr := db.Store("q")
	_, partitionsErr := db.Partitions()
	for call, err := range map[string]error{
		"Get":        getErr,
		"Install":    s.Install([]state.Change{{Key: []byte("a"), Value: []byte("2")}}),
		"Scan":       s.Scan(nil, nil, func(_, _ []byte) bool { return true }),
		"Clear":      s.Clear(),
		"Store":      storeErr,
		"Partitions": partitionsErr,
		"Drop":       db.Drop("p"),
		"Flush":      db.Flush(),
		"Snapshot":   snapshotErr,
		"a reader":   r.Scan(nil, nil, func(_, _ []byte) bool { return true }),
	} {
		if err == nil {
			t.Errorf("%s after Close gave no error", call)
		}
	}
	if err := r.Close(); err != nil {
		t.Errorf("close of a reader after its database: %v", err)
	}
}

func testReopen(t *testing.T, db state.DB, reopen func(*testing.T, state.DB) state.DB) {
	install(t, mustStore(t, db, "p"), "a", "1", "b", "2")
	install(t, mustStore(t, db, "q"), "a", "3")
	install(t, mustStore(t, db, "gone"), "a", "4")
	if err := db.Drop("gone"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		db = reopen(t, db)
		partitions(t, db, "p", "q")
		expectAll(t, mustStore(t, db, "p"), "a=1", "b=2")
		expectAll(t, mustStore(t, db, "q"), "a=3")
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// testModel compares random calls with a map.
func testModel(t *testing.T, db state.DB) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		stores := make([]state.Store, 3)
		models := make([]map[string]string, len(stores))
		for i := range stores {
			stores[i] = mustStore(t, db, fmt.Sprintf("model/%d/%d", seed, i))
			models[i] = make(map[string]string)
		}
		key := func() string {
			b := make([]byte, 1+rnd.IntN(3))
			for i := range b {
				b[i] = "\x00a\xff"[rnd.IntN(3)]
			}
			return string(b)
		}
		for n := range 200 {
			i := rnd.IntN(len(stores))
			s, m := stores[i], models[i]
			switch k := rnd.IntN(20); {
			case k < 12:
				var pairs []string
				for range rnd.IntN(6) {
					k := key()
					if rnd.IntN(3) == 0 {
						pairs = append(pairs, k, "-")
						delete(m, k)
					} else {
						v := fmt.Sprint(n)
						pairs = append(pairs, k, v)
						m[k] = v
					}
				}
				install(t, s, pairs...)
			case k < 16:
				k := key()
				want, ok := m[k]
				if !ok {
					want = "-"
				}
				expect(t, s, k, want)
			case k < 17 && n%5 == 0:
				if err := s.Clear(); err != nil {
					t.Fatal(err)
				}
				clear(m)
			default:
				from, to := key(), key()
				want := []string{}
				for k, v := range m {
					if k >= from && k < to {
						want = append(want, k+"="+v)
					}
				}
				sort.Strings(want)
				got := []string{}
				err := s.Scan([]byte(from), []byte(to), func(k, v []byte) bool {
					got = append(got, string(k)+"="+string(v))
					return true
				})
				if err != nil || !reflect.DeepEqual(sortedByKey(got), sortedByKey(want)) {
					t.Fatalf("seed %d call %d: scan %q to %q = %q, %v; want %q", seed, n, from, to, got, err, want)
				}
			}
		}
	}
}

// sortedByKey undoes that "a=1" sorts before "a\x00=1" or behind it by its equals sign.
func sortedByKey(pairs []string) []string {
	sort.Slice(pairs, func(i, j int) bool { return cut(pairs[i]) < cut(pairs[j]) })
	return pairs
}

func cut(pair string) string {
	k, _, _ := bytes.Cut([]byte(pair), []byte("="))
	return string(k)
}
