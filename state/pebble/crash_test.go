package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kisflow/kisflow/state"
)

// After a crash each store is at some Install, none before the last Flush; and the database opens, goes on
// and survives the next crash.
func TestCrash(t *testing.T) {
	for seed := range uint64(4) {
		for i, im := range record(t, seed, 1500, 8, crashOf) {
			disk := im.fs
			for life := range 3 {
				place := fmt.Sprintf("seed %d image %d life %d", seed, i, life)
				db, err := Open(dir, small(disk))
				if err != nil {
					t.Fatalf("%s: %v", place, err)
				}
				for p, until := range im.installs {
					s, err := db.Store(p)
					if err != nil {
						t.Fatalf("%s: %v", place, err)
					}
					n, wrong, err := checkHistory(seed, p, s, until)
					if err != nil || wrong != "" {
						t.Fatalf("%s: %s, %v", place, wrong, err)
					}
					if n < im.flushed[p] {
						t.Fatalf("%s: %s is at install %d; %d were flushed", place, p, n, im.flushed[p])
					}
					for range 40 {
						if n++; n > until {
							im.installs[p] = n
						}
						if err := s.Install(historyChanges(seed, p, n)); err != nil {
							t.Fatalf("%s: %v", place, err)
						}
					}
					if life == 1 {
						if err := db.Flush(); err != nil {
							t.Fatalf("%s: %v", place, err)
						}
						im.flushed[p] = n
					}
				}
				crashed := disk.CrashClone(crashOf(seed, uint64(1000*i+life)))
				if err := db.Close(); err != nil {
					t.Fatalf("%s: close: %v", place, err)
				}
				disk = crashed
			}
		}
	}
}

// faultyFS refuses writes with an error, from the nth on.
type faultyFS struct {
	vfs.FS
	left   atomic.Int64 // writes that still work
	err    error
	broken atomic.Int64 // writes that did not
}

func (f *faultyFS) refuse() error {
	if f.left.Add(-1) < 0 {
		f.broken.Add(1)
		return &fs.PathError{Op: "write", Path: "x", Err: f.err}
	}
	return nil
}

func (f *faultyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.refuse(); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return &faultyFile{file, f}, err
}

func (f *faultyFS) ReuseForWrite(o, n string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.refuse(); err != nil {
		return nil, err
	}
	file, err := f.FS.ReuseForWrite(o, n, c)
	return &faultyFile{file, f}, err
}

func (f *faultyFS) Rename(o, n string) error {
	if err := f.refuse(); err != nil {
		return err
	}
	return f.FS.Rename(o, n)
}

type faultyFile struct {
	vfs.File
	f *faultyFS
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.f.refuse(); err != nil {
		n, _ := f.File.Write(b[:len(b)/2]) // a full disk takes a part
		return n, err
	}
	return f.File.Write(b)
}

func (f *faultyFile) Sync() error {
	if err := f.f.refuse(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) SyncData() error {
	if err := f.f.refuse(); err != nil {
		return err
	}
	return f.File.SyncData()
}

// Whichever write the disk refuses: every call answers, with the reason, and the process lives; when the disk
// works again, the state is one that there was, with all that was flushed.
func TestDiskRefusesWrites(t *testing.T) {
	for _, fault := range []struct {
		err  error
		full bool
	}{{syscall.ENOSPC, true}, {syscall.EIO, false}} {
		// Each of the first writes, in which the database is made, and then some.
		for writes := int64(0); ; writes += 1 + writes/30 {
			place := fmt.Sprintf("%v after %d writes", fault.err, writes)
			mem := vfs.NewMem()
			disk := &faultyFS{FS: mem, err: fault.err}
			disk.left.Store(writes)
			seed := uint64(3)
			installed, flushed := uint64(0), uint64(0)
			db, err := Open(dir, small(disk))
			if err == nil {
				var s state.Store
				if s, err = db.Store("a"); err == nil {
					for n := uint64(1); n <= 500 && err == nil; n++ {
						if err = s.Install(historyChanges(seed, "a", n)); err == nil {
							installed = n
							if n%100 == 0 {
								if err = db.Flush(); err == nil {
									flushed = n
								}
							}
						}
					}
				}
				closeErr := db.Close()
				if err == nil {
					err = closeErr
				}
				if err != nil && db.Err() == nil {
					t.Fatalf("%s: a call says %v, the database that all is well", place, err)
				}
			}
			if err == nil {
				if disk.broken.Load() > 0 {
					t.Fatalf("%s: the disk refused %d writes, and nobody was told", place, disk.broken.Load())
				}
				break // it has all the writes it needs
			}
			if errors.Is(err, ErrDiskFull) != fault.full || !errors.Is(err, fault.err) || errors.Is(err, state.ErrCorrupt) {
				t.Fatalf("%s: %v", place, err)
			}
			db, err = Open(dir, small(mem))
			if err != nil {
				t.Fatalf("%s: open again: %v", place, err)
			}
			s, err := db.Store("a")
			if err != nil {
				t.Fatalf("%s: %v", place, err)
			}
			n, wrong, err := checkHistory(seed, "a", s, installed+1) // the refused one may be there
			if err != nil || wrong != "" || n < flushed {
				t.Fatalf("%s: at install %d, %d flushed, %d installed: %s %v", place, n, flushed, installed, wrong, err)
			}
			if err := db.Close(); err != nil {
				t.Fatalf("%s: %v", place, err)
			}
		}
	}
}

// hungFS keeps every write of a table until it is let go.
type hungFS struct {
	vfs.FS
	hold chan struct{}
}

func (h *hungFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") {
		<-h.hold
	}
	return h.FS.Create(name, c)
}

// An Install that the disk holds up is reported, and goes through when the disk is back.
func TestStuckInstallIsReported(t *testing.T) {
	disk := &hungFS{FS: vfs.NewMem(), hold: make(chan struct{})}
	told := make(chan string, 1)
	o := small(disk)
	o.CommitLimit = 50 * time.Millisecond
	o.OnStuck = func(partition string, since time.Duration) {
		if since < 50*time.Millisecond {
			t.Errorf("reported after %s", since)
		}
		select {
		case told <- partition:
		default:
		}
	}
	db, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := db.Store("flow/stage/3")
	if err != nil {
		t.Fatal(err)
	}
	installed := make(chan error, 1)
	go func() {
		for n := range uint64(1000) { // more than the memory takes without a table
			if err := s.Install(historyChanges(1, "a", n+1)); err != nil {
				installed <- err
				return
			}
		}
		installed <- nil
	}()
	select {
	case p := <-told:
		if p != "flow/stage/3" {
			t.Errorf("told of %q", p)
		}
	case err := <-installed:
		t.Fatalf("nothing got stuck: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was told")
	}
	close(disk.hold)
	if err := <-installed; err != nil {
		t.Error(err)
	}
	if got := db.Metrics().StuckInstalls; got < 1 {
		t.Errorf("the figures know of %d stuck installs", got)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestOneOpensAtATime(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new", "state")
	db, err := Open(folder, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(folder, Options{Logger: quiet}); !errors.Is(err, ErrLocked) || errors.Is(err, state.ErrCorrupt) {
		t.Errorf("a second Open says %v, want ErrLocked", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if db, err = Open(folder, Options{Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenThatCannot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{Logger: quiet}); err == nil || errors.Is(err, state.ErrCorrupt) {
		t.Errorf("open of a file: %v; want an error that does not call it corrupt", err)
	}
	_, err := Open(t.TempDir(), Options{MemTableBytes: 1, CacheBytes: -1, CommitLimit: -1})
	for _, want := range []string{"MemTableBytes is 1", "CacheBytes is -1", "CommitLimit is -1ns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open with bad options: %v; want %q in it", err, want)
		}
	}
}

// A prefix that holds another partition's keys is refused, whatever brought it about.
func TestPrefixHasOneOwner(t *testing.T) {
	db, err := Open(dir, small(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := db.Store("mine")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install([]state.Change{{Key: []byte("k"), Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	prefix := prefixOf("mine")
	if _, err := checkName(db.db, prefix, after(prefix), "other"); err == nil || !strings.Contains(err.Error(), `taken by partition "mine"`) {
		t.Errorf("a second name with this hash: %v", err)
	}
	foreign := prefixOf("foreign")
	if err := db.db.Set(foreign[:], []byte("whose?"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Store("foreign"); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("a prefix with a name of another hash: %v; want ErrCorrupt", err)
	}
	if db.Err() == nil {
		t.Error("the database lives on with keys that nobody wrote")
	}
}

func TestMetricsAndFreeSpace(t *testing.T) {
	folder := t.TempDir()
	db, err := Open(folder, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := db.Store("p")
	for i := range 100 {
		if err := s.Install([]state.Change{{Key: fmt.Append(nil, i), Value: make([]byte, 10_000)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	m := db.Metrics()
	if m.DiskBytes == 0 || m.Tables == 0 || m.FlushedBytes == 0 || m.Uptime <= 0 {
		t.Errorf("figures after a flush: %+v", m)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if m := db.Metrics(); m != (Metrics{}) {
		t.Errorf("figures after Close: %+v", m)
	}
	free, total, err := FreeSpace(folder)
	if err != nil || free == 0 || total < free {
		t.Errorf("free space: %d of %d, %v", free, total, err)
	}
	if _, _, err := FreeSpace(filepath.Join(folder, "missing")); err == nil {
		t.Error("the free space of a folder that is not there")
	}
}
