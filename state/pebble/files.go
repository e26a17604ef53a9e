package pebble

import (
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// FreeSpace tells how many bytes the disk that holds dir has left for us, and how many it has in all.
func FreeSpace(dir string) (free, total uint64, err error) {
	u, err := vfs.Default.GetDiskUsage(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return u.AvailBytes, u.TotalBytes, nil
}

// guardFS stands between Pebble and the disk. The first write that goes wrong fails the database. From then
// on nothing is written any more, and all that Pebble writes seems to work: what is on the disk is what a crash
// at that moment leaves. Told of the fault, Pebble would end the process where a WAL cannot be made, or
// keep writers waiting for a flush for ever; so it goes on in memory until it is closed, which is at once.
//
// It keeps the ledger on the way.
type guardFS struct {
	vfs.FS
	fail   *failure
	ledger *ledger
	mem    *vfs.MemFS // what is created after the failure
}

func newGuardFS(disk vfs.FS, fail *failure, l *ledger) *guardFS {
	return &guardFS{FS: disk, fail: fail, ledger: l, mem: vfs.NewMem()}
}

// Unwrap is for Pebble, which looks for the file system at the bottom.
func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// write does what changes the disk, while the database lives. It tells whether it was done.
func (g *guardFS) write(what, name string, f func() error) (done bool) {
	if g.fail.err() != nil {
		return false
	}
	if err := f(); err != nil {
		g.fail.set(fmt.Errorf("%s %s: %w", what, name, err))
		return false
	}
	return true
}

// inMemory makes a file for Pebble alone.
func (g *guardFS) inMemory(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.mem.MkdirAll(g.mem.PathDir(name), 0o755); err != nil {
		return nil, err
	}
	return g.mem.Create(name, category)
}

func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f := &guardFile{g: g, name: name}
	done := g.write("create", name, func() (err error) {
		if f.File, err = g.FS.Create(name, category); err == nil {
			f.begin()
		}
		return err
	})
	if !done {
		return g.inMemory(name, category)
	}
	return f, nil
}

func (g *guardFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f := &guardFile{g: g, name: newname}
	done := g.write("reuse", oldname, func() (err error) {
		if err := g.ledger.note(entry{kind: entryGone, file: fileID(oldname)}); err != nil {
			return err
		}
		if f.File, err = g.FS.ReuseForWrite(oldname, newname, category); err == nil {
			f.begin()
		}
		return err
	})
	if !done {
		return g.inMemory(newname, category)
	}
	return f, nil
}

func (g *guardFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f := &guardFile{g: g, name: name}
	done := g.write("open", name, func() (err error) {
		f.File, err = g.FS.OpenReadWrite(name, category, opts...)
		return err
	})
	if !done {
		return g.inMemory(name, category)
	}
	return f, nil
}

// isInMemory says whether a file was made after the failure.
func (g *guardFS) isInMemory(name string) bool {
	if g.fail.err() == nil {
		return false
	}
	_, err := g.mem.Stat(name)
	return err == nil
}

func (g *guardFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if g.isInMemory(name) {
		return g.mem.Open(name, opts...)
	}
	return g.FS.Open(name, opts...)
}

func (g *guardFS) Stat(name string) (vfs.FileInfo, error) {
	if g.isInMemory(name) {
		return g.mem.Stat(name)
	}
	return g.FS.Stat(name)
}

func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: g, name: name}, nil
}

func (g *guardFS) Link(oldname, newname string) error {
	g.write("link", newname, func() error { return g.FS.Link(oldname, newname) })
	return nil
}

func (g *guardFS) Rename(oldname, newname string) error {
	done := g.write("rename", oldname, func() error { return g.FS.Rename(oldname, newname) })
	if !done && g.isInMemory(oldname) {
		return g.mem.Rename(oldname, newname)
	}
	return nil
}

func (g *guardFS) MkdirAll(dir string, perm os.FileMode) error {
	g.write("make folder", dir, func() error { return g.FS.MkdirAll(dir, perm) })
	return nil
}

// Remove removes a file. That it does not work is no failure: nothing is lost.
func (g *guardFS) Remove(name string) error {
	if strings.HasSuffix(name, walSuffix) {
		g.write("note the end of", name, func() error { return g.ledger.note(entry{kind: entryGone, file: fileID(name)}) })
	}
	if g.fail.err() == nil {
		return g.FS.Remove(name)
	}
	if g.isInMemory(name) {
		return g.mem.Remove(name)
	}
	return nil
}

func (g *guardFS) RemoveAll(name string) error {
	if g.fail.err() != nil {
		return nil
	}
	return g.FS.RemoveAll(name)
}

// guardFile is a file that Pebble writes.
type guardFile struct {
	vfs.File
	g    *guardFS
	name string

	// Of a manifest and a WAL; Pebble may sync while another goroutine writes.
	mu   sync.Mutex
	size uint64
	sum  *xxhash.Digest // of a manifest
	wal  bool
}

func (f *guardFile) begin() {
	switch base := path.Base(f.name); {
	case strings.HasPrefix(base, manifestPrefix):
		f.sum = xxhash.New()
	case strings.HasSuffix(base, walSuffix):
		f.wal = true
	}
}

func (f *guardFile) Write(b []byte) (int, error) {
	n := len(b)
	f.g.write("write", f.name, func() error {
		if f.sum != nil || f.wal {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.size += uint64(n)
			if f.sum != nil {
				_, _ = f.sum.Write(b) // before the write, which may change b; a digest takes all
			}
		}
		_, err := f.File.Write(b)
		return err
	})
	return n, nil
}

func (f *guardFile) WriteAt(b []byte, at int64) (int, error) {
	n := len(b)
	f.g.write("write", f.name, func() error { _, err := f.File.WriteAt(b, at); return err })
	return n, nil
}

func (f *guardFile) Preallocate(offset, length int64) error {
	f.g.write("grow", f.name, func() error { return f.File.Preallocate(offset, length) })
	return nil
}

func (f *guardFile) Sync() error {
	f.g.write("sync", f.name, func() error { return f.synced(f.File.Sync) })
	return nil
}

func (f *guardFile) SyncData() error {
	f.g.write("sync", f.name, func() error { return f.synced(f.File.SyncData) })
	return nil
}

func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	f.g.write("sync", f.name, func() error { full, err = f.File.SyncTo(length); return err })
	return full, nil
}

// synced syncs, and notes what is in a manifest now.
func (f *guardFile) synced(sync func() error) error {
	if f.sum == nil {
		return sync()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := sync(); err != nil {
		return err
	}
	return f.g.ledger.note(entry{entryManifest, fileID(f.name), f.size, f.sum.Sum64()})
}

// Close closes the file. A WAL that Pebble closes is complete: it ends with a mark, and is synced.
func (f *guardFile) Close() error {
	f.g.write("close", f.name, func() error {
		if !f.wal {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.File.Sync(); err != nil {
			return err
		}
		return f.g.ledger.note(entry{kind: entryWAL, file: fileID(f.name), size: f.size})
	})
	if err := f.File.Close(); err != nil {
		f.g.write("close", f.name, func() error { return err })
	}
	return nil
}
