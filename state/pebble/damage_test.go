package pebble

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kisflow/kisflow/state"
)

var damages = flag.Int("damages", 200, "how many images of a database TestDamage damages, each in its own way")

// A history is Installs of two partitions whose effect every reader can check: Install n sets "n" to n and
// some keys to values that only (n, key) determines.
const (
	historyKeys = 40
	dir         = "db"
)

func historyChanges(seed uint64, partition string, n uint64) []state.Change {
	rnd := rand.New(rand.NewPCG(seed, n*3+uint64(len(partition))))
	cs := []state.Change{{Key: []byte("n"), Value: binary.BigEndian.AppendUint64(nil, n)}}
	for range 1 + rnd.IntN(6) {
		c := state.Change{Key: fmt.Appendf(nil, "key%02d", rnd.IntN(historyKeys))}
		if rnd.IntN(8) > 0 {
			c.Value = make([]byte, 16+8*rnd.IntN(40))
			for i := 0; i < len(c.Value); i += 8 {
				binary.LittleEndian.PutUint64(c.Value[i:], rnd.Uint64())
			}
		}
		cs = append(cs, c)
	}
	return cs
}

// checkHistory says whether a store is what it was after some Install, and after which. An error of the
// store's own is returned as err; a content that never was is a wrong.
func checkHistory(seed uint64, partition string, s state.Store, until uint64) (n uint64, wrong string, err error) {
	b, err := s.Get([]byte("n"))
	if err != nil {
		return 0, "", err
	}
	if b != nil {
		n = binary.BigEndian.Uint64(b)
	}
	if n > until {
		return n, fmt.Sprintf("%s is at install %d of %d", partition, n, until), nil
	}
	want := make(map[string]string)
	for i := uint64(1); i <= n; i++ {
		for _, c := range historyChanges(seed, partition, i) {
			if c.Value == nil {
				delete(want, string(c.Key))
			} else {
				want[string(c.Key)] = string(c.Value)
			}
		}
	}
	for i := range historyKeys {
		key := fmt.Sprintf("key%02d", i)
		got, err := s.Get([]byte(key))
		if err != nil {
			return n, "", err
		}
		if value, ok := want[key]; string(got) != value || (got != nil) != ok {
			return n, fmt.Sprintf("%s at install %d: get %s is %.20q, want %.20q", partition, n, key, got, value), nil
		}
	}
	seen := 0
	err = s.Scan(nil, nil, func(k, v []byte) bool {
		if want[string(k)] != string(v) {
			wrong = fmt.Sprintf("%s at install %d: scan has %s as %.20q, want %.20q", partition, n, k, v, want[string(k)])
		}
		seen++
		return wrong == ""
	})
	if err == nil && wrong == "" && seen != len(want) {
		wrong = fmt.Sprintf("%s at install %d: scan has %d keys, want %d", partition, n, seen, len(want))
	}
	return n, wrong, err
}

var quiet = slog.New(slog.DiscardHandler)

func small(fs vfs.FS) Options {
	return Options{FS: fs, MemTableBytes: 64 << 10, CacheBytes: 1 << 20, Logger: quiet}
}

// image is a file system as a crash left it, and how far its stores had come.
type image struct {
	fs       *vfs.MemFS
	seed     uint64
	installs map[string]uint64
	flushed  map[string]uint64 // of them on the disk for sure
}

// slowTables holds up every table for a while, so that several WALs wait for theirs.
type slowTables struct{ vfs.FS }

func (s slowTables) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") {
		time.Sleep(10 * time.Millisecond)
	}
	return s.FS.Create(name, category)
}

// crashOf is a crash in which nothing, some or all of what was not synced reached the disk.
func crashOf(seed, n uint64) vfs.CrashCloneCfg {
	return vfs.CrashCloneCfg{
		UnsyncedDataPercent: []int{0, 20, 80, 100}[(seed+n)%4],
		RNG:                 rand.New(rand.NewPCG(seed, n)),
	}
}

// asItIs is a crash of the process alone.
func asItIs(_, _ uint64) vfs.CrashCloneCfg {
	return vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))}
}

// record runs a history on a database with small memtables and takes images of crashes at random moments.
func record(t testing.TB, seed uint64, installs, images int, crash func(seed, n uint64) vfs.CrashCloneCfg) []image {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 7))
	fs := vfs.NewCrashableMem()
	var disk vfs.FS = fs
	if seed%2 == 1 {
		disk = slowTables{fs}
	}
	db, err := Open(dir, small(disk))
	if err != nil {
		t.Fatal(err)
	}
	var all []image
	at, flushed := map[string]uint64{"a": 0, "bb": 0}, map[string]uint64{"a": 0, "bb": 0}
	clone := func(m map[string]uint64) map[string]uint64 {
		return map[string]uint64{"a": m["a"], "bb": m["bb"]}
	}
	for i := range installs {
		p := []string{"a", "bb"}[rnd.IntN(2)]
		s, err := db.Store(p)
		if err != nil {
			t.Fatal(err)
		}
		at[p]++
		if err := s.Install(historyChanges(seed, p, at[p])); err != nil {
			t.Fatal(err)
		}
		switch {
		case rnd.IntN(400) == 0:
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
			flushed = clone(at)
		case rnd.IntN(1500) == 0: // a clean restart
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			flushed = clone(at)
			if db, err = Open(dir, small(disk)); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(installs/images+1) == 0 || i == installs-1 {
			all = append(all, image{fs.CrashClone(crash(seed, uint64(i))), seed, clone(at), clone(flushed)})
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

func readFile(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := fs.OpenDir(fs.PathDir(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// kind is what a file is for, by its name.
func kind(name string) string {
	switch ext := path.Ext(name); {
	case ext == ".log" || ext == ".sst":
		return ext[1:]
	default:
		kind, _, _ := strings.Cut(name, "-")
		return strings.SplitN(kind, ".", 2)[0]
	}
}

// hurt damages one file of an image and says how.
func hurt(t testing.TB, rnd *rand.Rand, fs vfs.FS) (what string, of string) {
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string][]string{}
	for _, n := range names {
		kinds[kind(n)] = append(kinds[kind(n)], n)
	}
	var order []string
	for k := range kinds {
		order = append(order, k)
	}
	slices.Sort(order)
	of = order[rnd.IntN(len(order))]
	slices.Sort(kinds[of])
	name := kinds[of][rnd.IntN(len(kinds[of]))]
	file := path.Join(dir, name)
	b := readFile(t, fs, file)
	how := rnd.IntN(6)
	if len(b) == 0 {
		how = 5
	}
	switch how {
	case 0, 1, 2:
		bit := rnd.IntN(len(b) * 8)
		b[bit/8] ^= 1 << (bit % 8)
		what = fmt.Sprintf("bit %d of %s (%d bytes) flipped", bit, name, len(b))
	case 3:
		from := rnd.IntN(len(b))
		to := min(len(b), from+1+rnd.IntN(4096))
		clear(b[from:to])
		what = fmt.Sprintf("%s zero from %d to %d", name, from, to)
	case 4:
		n := rnd.IntN(len(b))
		b = b[:n]
		what = fmt.Sprintf("%s cut to %d bytes", name, n)
	case 5:
		if err := fs.Remove(file); err != nil {
			t.Fatal(err)
		}
		return name + " removed", of
	}
	writeFile(t, fs, file, b)
	return what, of
}

// Whatever becomes of a file: an error that says so, or a state that there was, and never one that was not.
func TestDamage(t *testing.T) {
	const each = 20
	outcomes := map[string]map[string]int{}
	var mu sync.Mutex
	for round := range max(1, *damages/each) {
		seed := uint64(round)
		for i, im := range record(t, seed, 2000, each, asItIs) {
			rnd := rand.New(rand.NewPCG(seed, uint64(1000+i)))
			what, of := hurt(t, rnd, im.fs)
			outcome := func(o string) {
				mu.Lock()
				defer mu.Unlock()
				if outcomes[of] == nil {
					outcomes[of] = map[string]int{}
				}
				outcomes[of][o]++
			}
			place := fmt.Sprintf("seed %d image %d: %s", seed, i, what)
			db, err := Open(dir, small(im.fs))
			if err != nil {
				outcome("refused")
				if !errors.Is(err, state.ErrCorrupt) {
					t.Errorf("%s: open says %v, which is not ErrCorrupt", place, err)
				}
				continue
			}
			o := "as it was"
			for _, p := range []string{"a", "bb"} {
				s, err := db.Store(p)
				var n uint64
				var wrong string
				if err == nil {
					n, wrong, err = checkHistory(seed, p, s, im.installs[p])
				}
				switch {
				case err != nil:
					if !errors.Is(err, state.ErrCorrupt) {
						t.Errorf("%s: a call says %v, which is not ErrCorrupt", place, err)
					}
					o = "found later"
				case wrong != "":
					t.Errorf("%s: %s", place, wrong)
					o = "WRONG"
				case n < im.installs[p] && o == "as it was":
					o = "older"
				}
			}
			outcome(o)
			if err := db.Close(); err != nil && o != "found later" && !errors.Is(err, state.ErrCorrupt) {
				t.Errorf("%s: close: %v", place, err)
			}
		}
	}
	for of, o := range outcomes {
		t.Logf("%-10s %v", of, o)
	}
}
