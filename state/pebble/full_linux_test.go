package pebble

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kisflow/kisflow/state"
)

// A disk that is really full, not one that plays it: the database says so, the process lives, and with space
// again nothing that was flushed is missing.
func TestFullDisk(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("kisflow-test", mount, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("no disk to fill: mounting a tmpfs of 24 MiB: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(mount, "state")
	o := Options{MemTableBytes: 256 << 10, CacheBytes: 1 << 20, Logger: quiet}
	db, err := Open(folder, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := db.Store("a")
	if err != nil {
		t.Fatal(err)
	}
	installed, flushed := uint64(0), uint64(0)
	for n := uint64(1); err == nil; n++ {
		if n > 10_000 {
			t.Fatal("the disk does not fill up")
		}
		// The history, and new keys beside it that fill the disk.
		changes := append(historyChanges(5, "a", n), state.Change{Key: filler(n), Value: fillerValue(n)})
		if err = s.Install(changes); err == nil {
			installed = n
			if n%100 == 0 {
				if err = db.Flush(); err == nil {
					flushed = n
				}
			}
		}
	}
	if !errors.Is(err, ErrDiskFull) {
		t.Fatalf("at install %d: %v; want ErrDiskFull", installed, err)
	}
	if _, err := s.Get([]byte("n")); !errors.Is(err, ErrDiskFull) {
		t.Errorf("get on the failed database: %v; want ErrDiskFull", err)
	}
	if err := db.Close(); !errors.Is(err, ErrDiskFull) {
		t.Errorf("close of the failed database: %v; want ErrDiskFull", err)
	}
	// Still full: it does not open, and does not call the state corrupt.
	if db, err := Open(folder, o); err == nil {
		if _, err := db.Store("a"); err != nil && !errors.Is(err, ErrDiskFull) {
			t.Errorf("open on a full disk: %v", err)
		}
		if err := db.Close(); err != nil && !errors.Is(err, ErrDiskFull) {
			t.Errorf("close on a full disk: %v", err)
		}
	} else if !errors.Is(err, ErrDiskFull) || errors.Is(err, state.ErrCorrupt) {
		t.Errorf("open on a full disk: %v; want ErrDiskFull", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(folder, o); err != nil {
		t.Fatalf("open with space again: %v", err)
	}
	if s, err = db.Store("a"); err != nil {
		t.Fatal(err)
	}
	b, err := s.Get([]byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for i := range b {
		n = n<<8 | uint64(b[i])
	}
	if n < flushed || n > installed+1 {
		t.Errorf("at install %d; %d were flushed, %d installed", n, flushed, installed)
	}
	for i := uint64(1); i <= n; i++ {
		if v, err := s.Get(filler(i)); err != nil || string(v) != string(fillerValue(i)) {
			t.Fatalf("install %d of %d: %d bytes, %v", i, n, len(v), err)
		}
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func filler(n uint64) []byte { return []byte{'f', byte(n >> 16), byte(n >> 8), byte(n)} }

// fillerValue is 8 KiB that do not compress.
func fillerValue(n uint64) []byte {
	v := make([]byte, 8<<10)
	x := n*0x9e3779b97f4a7c15 + 1
	for i := range v {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		v[i] = byte(x)
	}
	return v
}
