package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	crdb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kisflow/kisflow/state"
)

// ledger is a file beside Pebble's, in which guardFS notes what must be there at the next open: the bytes of
// the manifest, and the WALs that are complete.
//
// Pebble itself takes a damaged end of a manifest for one that was never written, and does not miss a WAL:
// it then goes on from an older list of tables, or without some writes, and replays younger ones onto that.
// The state has a hole that nothing else shows.
//
// An entry is written and synced before anything that builds on what it notes, so the file may be behind the
// truth and never before it. Each carries a hash over itself and the one before it.
type ledger struct {
	mu   sync.Mutex
	file vfs.File
	last uint64 // hash of the last entry
}

const (
	ledgerName     = "LEDGER"
	ledgerTemp     = "LEDGER.new"
	manifestPrefix = "MANIFEST-"
	walSuffix      = ".log"
)

// Kinds of entries. A later entry of a file replaces an earlier one.
const (
	entryManifest = 'M' // the first size bytes of the manifest have this hash
	entryWAL      = 'W' // the WAL is complete and has size bytes
	entryGone     = 'G' // the WAL is not needed any more
)

// entry is 40 bytes on the disk: kind, file, size, hash, and the hash of these and of the entry before.
type entry struct {
	kind byte
	file uint64 // the hash of its name
	size uint64
	hash uint64
}

const entrySize = 40

func fileID(name string) uint64 { return xxhash.Sum64String(path.Base(name)) }

func (e entry) append(b []byte, before uint64) []byte {
	n := len(b)
	for _, v := range []uint64{uint64(e.kind), e.file, e.size, e.hash} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return binary.LittleEndian.AppendUint64(b, entryHash(b[n:], before))
}

func entryHash(b []byte, before uint64) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(before)
	_, _ = d.Write(b) // a digest takes all
	return d.Sum64()
}

// parseLedger returns the entries by file, the newest of each. A crash may have torn the end: a part of an
// entry, or zeros in its place. Anything else that is no entry is damage.
func parseLedger(b []byte) (map[uint64]entry, error) {
	entries := make(map[uint64]entry)
	last := uint64(0)
	for n := 0; len(b) >= entrySize; n++ {
		field := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		if field(4) != entryHash(b[:32], last) {
			if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
				return nil, fmt.Errorf("entry %d of %s is damaged: %w", n, ledgerName, state.ErrCorrupt)
			}
			break
		}
		entries[field(1)] = entry{byte(field(0)), field(1), field(2), field(3)}
		last = field(4)
		b = b[entrySize:]
	}
	return entries, nil
}

// openLedger compares a folder with its ledger and begins a new one with what still counts.
func openLedger(fs vfs.FS, dir string) (*ledger, error) {
	entries, err := verify(fs, dir)
	if err != nil {
		return nil, err
	}
	l := new(ledger)
	temp := fs.PathJoin(dir, ledgerTemp)
	if l.file, err = fs.Create(temp, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	var b []byte
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		b = entries[id].append(b, l.last)
		l.last = binary.LittleEndian.Uint64(b[len(b)-8:])
	}
	if len(b) > 0 {
		_, err = l.file.Write(b)
	}
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		err = fs.Rename(temp, fs.PathJoin(dir, ledgerName))
	}
	if err == nil {
		err = syncDir(fs, dir)
	}
	if err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	return l, nil
}

// note writes and syncs an entry.
func (l *ledger) note(e entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := e.append(make([]byte, 0, entrySize), l.last)
	last := binary.LittleEndian.Uint64(b[entrySize-8:]) // before the write, which may change b
	if _, err := l.file.Write(b); err != nil {
		return err
	}
	if err := l.file.SyncData(); err != nil {
		return err
	}
	l.last = last
	return nil
}

func (l *ledger) close() error { return l.file.Close() }

// verify compares a folder with its ledger, and returns the entries that still count. A folder without a
// database passes.
func verify(fs vfs.FS, dir string) (map[uint64]entry, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	d, err := crdb.Peek(dir, fs)
	if err != nil {
		return nil, err
	}
	if !d.Exists {
		for _, n := range names {
			if ext := path.Ext(n); ext == walSuffix || ext == ".sst" {
				return nil, fmt.Errorf("%s is there, and nothing says which manifest it belongs to: %w", n, state.ErrCorrupt)
			}
		}
		return nil, nil
	}
	b, err := readAll(fs, fs.PathJoin(dir, ledgerName))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", state.ErrCorrupt, err)
	}
	entries, err := parseLedger(b)
	if err != nil {
		return nil, err
	}
	manifest, err := readAll(fs, d.ManifestFilename)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", state.ErrCorrupt, err)
	}
	count := make(map[uint64]entry)
	name := path.Base(d.ManifestFilename)
	switch e := entries[fileID(name)]; {
	case e.kind != entryManifest:
		return nil, fmt.Errorf("%s knows nothing of %s: %w", ledgerName, name, state.ErrCorrupt)
	case e.size > uint64(len(manifest)):
		return nil, fmt.Errorf("%s has %d bytes, it had %d: %w", name, len(manifest), e.size, state.ErrCorrupt)
	case xxhash.Sum64(manifest[:e.size]) != e.hash:
		return nil, fmt.Errorf("the first %d bytes of %s are not those that were written: %w", e.size, name, state.ErrCorrupt)
	default:
		count[e.file] = e
	}
	there := make(map[uint64]string)
	for _, n := range names {
		if strings.HasSuffix(n, walSuffix) {
			there[fileID(n)] = n
		}
	}
	for id, e := range entries {
		if e.kind != entryWAL {
			continue
		}
		n, ok := there[id]
		if !ok {
			return nil, fmt.Errorf("a WAL of %d bytes is missing: %w", e.size, state.ErrCorrupt)
		}
		info, err := fs.Stat(fs.PathJoin(dir, n))
		if err != nil {
			return nil, err
		}
		if size := uint64(info.Size()); size < e.size {
			return nil, fmt.Errorf("%s has %d bytes, it had %d: %w", n, size, e.size, state.ErrCorrupt)
		}
		count[id] = e
	}
	return count, nil
}

func readAll(fs vfs.FS, name string) (b []byte, err error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
