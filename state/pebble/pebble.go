// Package pebble answers the port state on disk, with one Pebble database for all partitions of a node.
//
// A partition's keys stand under a prefix of eight bytes, the hash of its name; the prefix itself is a key
// that holds the name, so that two names of one hash, or a foreign prefix, are found and refused.
//
// What holds after a crash: an Install is atomic and not synced, so a killed process or machine leaves the
// database at some earlier Install of every partition; Flush makes durable what was installed before it. The
// log is the truth, and the engine brings each Store up to it.
//
// What holds after damage: WAL and tables carry checksums (Pebble's newest format; the first WAL of a new
// database, which would lack them, is rotated away before first use), and a ledger beside them knows the
// manifest's bytes and which WALs there must be. Damage is state.ErrCorrupt, from Open or from a later call, never a
// wrong value. A WAL that lost its end cannot be told from a crash: it is an older state.
//
// What holds after a fault of the disk: the database fails once and for all. Failed closes, every call
// answers with the reason, and the process lives on. A full disk is such a fault (ErrDiskFull); whoever
// watches FreeSpace stops before it.
package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	crdb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kisflow/kisflow/state"
)

// ErrDiskFull means that the disk took no more: what was installed before is safe, and the database is to
// be opened again when there is space.
var ErrDiskFull = errors.New("the disk is full")

// ErrLocked means that another process, or another DB of this one, has the folder open.
var ErrLocked = errors.New("the folder is in use")

// ErrClosed is the answer to calls after Close.
var ErrClosed = errors.New("the database is closed")

// Options tunes a database. The zero value is ready to use.
type Options struct {
	// CacheBytes is the memory for blocks read from the disk. Default 128 MiB.
	CacheBytes int64
	// MemTableBytes is how much is written to memory before it is written out as a table; up to four of
	// them are in memory, and the WAL that a start has to read is as large. Default 32 MiB.
	MemTableBytes uint64
	// CommitLimit is how long an Install may take before it is reported as stuck. Default 10 s.
	CommitLimit time.Duration
	// OnStuck is told of an Install that takes longer than CommitLimit, once each. It must return soon.
	// Default: nothing but the log line.
	OnStuck func(partition string, since time.Duration)
	// Logger is where the database says what went wrong; its routine is on the debug level. Default:
	// slog.Default().
	Logger *slog.Logger
	// FS is the file system; default the disk's.
	FS vfs.FS
}

func (o Options) withDefaults() Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	if o.CommitLimit == 0 {
		o.CommitLimit = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	if o.CacheBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("CacheBytes is %d; it must be at least 1 MiB", o.CacheBytes))
	}
	if o.MemTableBytes < 64<<10 || o.MemTableBytes > 1<<30 {
		errs = append(errs, fmt.Errorf("MemTableBytes is %d; it must be from 64 KiB to 1 GiB", o.MemTableBytes))
	}
	if o.CommitLimit < 0 {
		errs = append(errs, fmt.Errorf("CommitLimit is %s; it must be above zero", o.CommitLimit))
	}
	return errors.Join(errs...)
}

// DB is a node's database. Its methods may be called by many goroutines; a Store's as the port says.
type DB struct {
	opt  Options
	dir  string
	fail *failure
	db   *crdb.DB

	lock   *crdb.Lock
	ledger *ledger

	mu      sync.Mutex
	stores  map[string]*Store
	readers map[*Reader]struct{} // open ones

	users  gate
	stuck  atomic.Int64
	once   sync.Once
	stop   chan struct{} // closed by Close
	closed chan struct{} // closed by attend
	ending error         // what closing said; read after closed
}

// Open opens the database in a folder of its own, or makes one. The error is state.ErrCorrupt where the
// folder holds what was never written so; then it is to be moved aside, and the state to be built anew.
func Open(dir string, o Options) (*DB, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	d := &DB{
		opt:     o,
		dir:     dir,
		fail:    newFailure(o.Logger),
		stores:  make(map[string]*Store),
		readers: make(map[*Reader]struct{}),
		stop:    make(chan struct{}),
		closed:  make(chan struct{}),
	}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	go d.attend()
	return d, nil
}

func (d *DB) open() (err error) {
	defer func() {
		// Pebble panics on some of what it finds; at this place that can only be what is on the disk.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", state.ErrCorrupt, p)
		}
		if err != nil && d.ledger != nil {
			err = errors.Join(err, d.ledger.close())
		}
		if err != nil && d.lock != nil {
			err = errors.Join(err, d.lock.Close())
		}
	}()
	if err := makeFolder(d.opt.FS, d.dir); err != nil {
		return err
	}
	if d.lock, err = crdb.LockDirectory(d.dir, d.opt.FS); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if d.ledger, err = openLedger(d.opt.FS, d.dir); err != nil {
		return classifyOpen(err)
	}
	cache := crdb.NewCache(d.opt.CacheBytes)
	defer cache.Unref() // the database holds its own reference
	d.db, err = crdb.Open(d.dir, d.options(cache))
	if err == nil {
		// One rotation: the first WAL of a new database is in the old format, in which damage is silent.
		if err = d.db.Flush(); err == nil {
			err = d.fail.err()
		}
		if err != nil {
			err = errors.Join(err, d.closeDB())
		}
	}
	if failed := d.fail.err(); failed != nil { // the reason, where err may be what came of it
		return failed
	}
	return classifyOpen(err)
}

// makeFolder makes a folder that is there after a crash.
func makeFolder(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(dir))
}

func (d *DB) options(cache *crdb.Cache) *crdb.Options {
	o := &crdb.Options{
		FS:                          newGuardFS(d.opt.FS, d.fail, d.ledger),
		Lock:                        d.lock,
		Cache:                       cache,
		FormatMajorVersion:          crdb.FormatNewest,
		MemTableSize:                d.opt.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       64,
		MaxManifestFileSize:         16 << 20, // a start reads it whole
		MaxOpenFiles:                512,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      d.fail,
		EventListener: &crdb.EventListener{
			BackgroundError: d.fail.background,
			DataCorruption: func(i crdb.DataCorruptionInfo) {
				d.fail.set(fmt.Errorf("%s: %w: %w", i.Path, state.ErrCorrupt, i.Details))
			},
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // a new key costs no read
	}
	return o
}

// classify makes state.ErrCorrupt and ErrDiskFull of Pebble's errors.
func classify(err error) error {
	switch {
	case err == nil, errors.Is(err, state.ErrCorrupt), errors.Is(err, ErrDiskFull):
		return err
	case isDiskFull(err):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case crdb.IsCorruptionError(err), errors.Is(err, fs.ErrNotExist):
		// A file that the manifest names and that is not there is damage too.
		return fmt.Errorf("%w: %w", state.ErrCorrupt, err)
	}
	return err
}

// classifyOpen is classify for what Open meets: there, whatever is not the system's word (no permission, an
// input or output error) is about what the files hold, whether Pebble marks it so or not.
func classifyOpen(err error) error {
	var system syscall.Errno
	if err = classify(err); err == nil || errors.Is(err, state.ErrCorrupt) || errors.Is(err, ErrDiskFull) || errors.As(err, &system) {
		return err
	}
	return fmt.Errorf("%w: %w", state.ErrCorrupt, err)
}

// use runs f on the database, if it lives, and takes f's panic or its word of damage for the database's end.
func (d *DB) use(f func(*crdb.DB) error) (err error) {
	if err := d.fail.err(); err != nil {
		return err
	}
	if !d.users.enter() {
		return ErrClosed
	}
	defer d.users.leave()
	defer func() {
		if p := recover(); p != nil {
			d.fail.set(fmt.Errorf("the database panicked: %v", p))
			err = d.fail.err()
		}
	}()
	if err = classify(f(d.db)); errors.Is(err, state.ErrCorrupt) || errors.Is(err, ErrDiskFull) {
		d.fail.set(err)
	}
	if failed := d.fail.err(); failed != nil { // under the call, and maybe without a word from it
		return failed
	}
	return err
}

// gate counts who is in, and lets nobody in once it is shut. Who is in may enter again.
type gate struct {
	mu    sync.Mutex
	in    int
	shut  bool
	empty chan struct{} // closed when it is shut and nobody is in
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.in++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in--; g.in == 0 && g.shut {
		close(g.empty)
	}
}

// close shuts the gate and returns a channel that is closed when the last one has left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	g.empty = make(chan struct{})
	if g.in == 0 {
		close(g.empty)
	}
	return g.empty
}

const prefixSize = 8

// prefixOf is the hash of a partition's name. The last prefix is not used, so that each has one after it.
func prefixOf(partition string) [prefixSize]byte {
	var p [prefixSize]byte
	binary.BigEndian.PutUint64(p[:], min(xxhash.Sum64String(partition), math.MaxUint64-1))
	return p
}

// after returns the prefix after p.
func after(p [prefixSize]byte) []byte {
	return binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(p[:])+1)
}

// Store returns the store of a partition. The same name gives the same Store.
func (d *DB) Store(partition string) (state.Store, error) {
	if partition == "" {
		return nil, errors.New("a partition has a name; this one is empty")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.stores[partition]; s != nil {
		return s, nil
	}
	s := &Store{d: d, name: partition, prefix: prefixOf(partition)}
	s.end = after(s.prefix)
	err := d.use(func(db *crdb.DB) (err error) {
		s.named, err = checkName(db, s.prefix, s.end, partition)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", partition, err)
	}
	d.stores[partition] = s
	return s, nil
}

// checkName looks whose keys stand under a prefix; named is false when there are none.
func checkName(db *crdb.DB, prefix [prefixSize]byte, end []byte, partition string) (named bool, err error) {
	it, err := db.NewIter(&crdb.IterOptions{LowerBound: prefix[:], UpperBound: end})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.First() {
		return false, it.Error()
	}
	if len(it.Key()) != prefixSize {
		return false, fmt.Errorf("the keys under %x have no name: %w", prefix, state.ErrCorrupt)
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return false, err
	}
	switch name := string(value); {
	case name == partition:
		return true, nil
	case prefixOf(name) == prefix:
		return false, fmt.Errorf("its prefix %x is taken by partition %q: rename one of them", prefix, name)
	default:
		return false, fmt.Errorf("the keys under %x belong to %q: %w", prefix, name, state.ErrCorrupt)
	}
}

// Drop removes a partition's store. Of a partition that has none it is no error.
func (d *DB) Drop(partition string) error {
	s, err := d.Store(partition)
	if err == nil {
		err = s.Clear()
	}
	if err != nil {
		return fmt.Errorf("drop %s: %w", partition, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.stores, partition)
	return nil
}

// Partitions names the stores that hold anything, in the order of their prefixes.
func (d *DB) Partitions() ([]string, error) {
	var names []string
	err := d.use(func(db *crdb.DB) (err error) {
		it, err := db.NewIter(nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, it.Close()) }()
		for ok := it.First(); ok; {
			if len(it.Key()) != prefixSize {
				return fmt.Errorf("key %x has no name before it: %w", it.Key(), state.ErrCorrupt)
			}
			prefix := [prefixSize]byte(it.Key())
			name, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if prefixOf(string(name)) != prefix {
				return fmt.Errorf("the keys under %x belong to %q: %w", prefix, name, state.ErrCorrupt)
			}
			partition := string(name)
			if ok = it.Next(); !ok || [prefixSize]byte(it.Key()) != prefix {
				continue // a name and nothing else
			}
			names = append(names, partition)
			ok = it.SeekGE(after(prefix))
		}
		return it.Error()
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	return names, nil
}

// Flush returns when all that was installed before is on the disk and synced.
func (d *DB) Flush() error {
	err := d.use(func(db *crdb.DB) error {
		// What is in memory becomes synced tables; the sync covers what was written to the WAL meanwhile.
		if err := db.Flush(); err != nil {
			return err
		}
		return db.LogData(nil, crdb.Sync)
	})
	if err != nil {
		return fmt.Errorf("flush state: %w", err)
	}
	return nil
}

// closeWait bounds the closing of a database that has failed: a write that a broken disk does not give back
// is left to the end of the process.
const closeWait = 5 * time.Second

// Close flushes and closes. After a failure the error is the failure. A second Close does nothing.
func (d *DB) Close() (err error) {
	d.once.Do(func() {
		err = d.Flush()
		close(d.stop)
		if d.fail.err() == nil {
			<-d.closed
			err = errors.Join(err, d.ending, d.fail.err()) // closing writes, too
			return
		}
		select {
		case <-d.closed: // what else it says comes of the failure
		case <-time.After(closeWait):
			d.opt.Logger.Warn("state: the failed database does not close: a call is stuck")
		}
	})
	return err
}

func (d *DB) closeDB() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close: %v", p)
		}
	}()
	return d.db.Close()
}

// Failed is closed when the database fails; Err says why.
func (d *DB) Failed() <-chan struct{} { return d.fail.done }

// Err is the reason of a failure, nil while there is none.
func (d *DB) Err() error { return d.fail.err() }

// attend watches over the database, and closes it at Close or at its failure, whichever comes first.
func (d *DB) attend() {
	defer close(d.closed)
	tick := time.NewTicker(max(d.opt.CommitLimit/4, time.Millisecond))
	defer tick.Stop()
	for living := true; living; {
		select {
		case <-d.stop:
			living = false
		case <-d.fail.done:
			living = false
		case now := <-tick.C:
			d.reportStuck(now)
		}
	}
	empty := d.users.close()
	for {
		select {
		case <-empty:
			for r := range d.readers { // nobody uses one any more
				_ = r.snapshot.Close()
			}
			d.ending = errors.Join(d.closeDB(), d.ledger.close(), d.lock.Close())
			return
		case now := <-tick.C:
			d.reportStuck(now)
		}
	}
}

// reportStuck tells of the Installs that take too long.
func (d *DB) reportStuck(now time.Time) {
	d.mu.Lock()
	stores := slices.Collect(maps.Values(d.stores))
	d.mu.Unlock()
	for _, s := range stores {
		began := s.began.Load()
		if began == 0 || began == s.reported {
			continue
		}
		since := now.Sub(time.Unix(0, began))
		if since < d.opt.CommitLimit {
			continue
		}
		s.reported = began
		d.stuck.Add(1)
		d.opt.Logger.Error("state: an install is stuck", "partition", s.name, "since", since)
		if d.opt.OnStuck != nil {
			d.opt.OnStuck(s.name, since)
		}
	}
}

// Metrics are figures of a database, for people and dashboards.
type Metrics struct {
	DiskBytes         uint64        // all files
	WALBytes          uint64        // of it the write-ahead log
	MemTableBytes     uint64        // in memory, not yet in tables
	Tables            int64         // files of sorted keys
	Compactions       int64         // since Open
	CompactionDebt    uint64        // bytes that wait for compaction, an estimate
	CacheHits         int64         // reads of blocks since Open
	CacheMisses       int64         // and those that went to the disk
	CacheBytes        int64         // in the cache
	ReadAmplification int           // how many places a read of a key may look at
	StuckInstalls     int64         // that took longer than CommitLimit, since Open
	FlushedBytes      uint64        // written to tables by flushes, since Open
	CompactedBytes    uint64        // and by compactions
	Uptime            time.Duration // since Open
}

// Metrics reads the figures. It costs some microseconds. After Close or a failure they are zero but for
// StuckInstalls.
func (d *DB) Metrics() Metrics {
	m := Metrics{StuckInstalls: d.stuck.Load()}
	_ = d.use(func(db *crdb.DB) error {
		p := db.Metrics()
		total := p.Total()
		m.DiskBytes = p.DiskSpaceUsage()
		m.WALBytes = p.WAL.PhysicalSize
		m.MemTableBytes = p.MemTable.Size
		m.Tables = total.TablesCount
		m.Compactions = p.Compact.Count
		m.CompactionDebt = p.Compact.EstimatedDebt
		m.CacheHits, m.CacheMisses, m.CacheBytes = p.BlockCache.Hits, p.BlockCache.Misses, p.BlockCache.Size
		m.ReadAmplification = p.ReadAmp()
		m.FlushedBytes, m.CompactedBytes = total.TableBytesFlushed, total.TableBytesCompacted
		m.Uptime = p.Uptime
		return nil
	})
	return m
}

// Store is one partition's store.
type Store struct {
	d        *DB
	name     string
	prefix   [prefixSize]byte
	end      []byte // the first key that is not ours
	named    bool   // the prefix holds the name
	batch    *crdb.Batch
	began    atomic.Int64 // of the Install that runs, unix nanoseconds; 0: none
	reported int64        // the one that watch has reported
}

// Get returns a copy of the key's value, or nil.
func (s *Store) Get(key []byte) ([]byte, error) {
	var value []byte
	err := s.d.use(func(db *crdb.DB) (err error) {
		var room [160]byte // not the store's: others may call Get at the same time
		value, err = get(db, append(append(room[:0], s.prefix[:]...), key...))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: get: %w", s.name, err)
	}
	return value, nil
}

// get returns a copy of a value of the database, or of a snapshot of it.
func get(db crdb.Reader, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if err == crdb.ErrNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 0, len(v)), v...), closer.Close()
}

// Install applies all changes or none, without a sync.
func (s *Store) Install(changes []state.Change) error {
	if err := s.install(changes); err != nil {
		return fmt.Errorf("store %s: install %d changes: %w", s.name, len(changes), err)
	}
	return nil
}

// maxInstall keeps a batch below what Pebble takes (4 GiB).
const maxInstall = 1 << 30

func (s *Store) install(changes []state.Change) error {
	size := 0
	for i, c := range changes {
		if len(c.Key) == 0 {
			return fmt.Errorf("change %d has an empty key", i)
		}
		size += len(c.Key) + len(c.Value) + prefixSize + 16
	}
	if size > maxInstall {
		return fmt.Errorf("%d bytes at once; at most %d", size, maxInstall)
	}
	if len(changes) == 0 {
		return s.d.use(func(*crdb.DB) error { return nil })
	}
	s.began.Store(time.Now().UnixNano())
	defer s.began.Store(0)
	b := s.batch
	if b == nil {
		b = new(crdb.Batch)
	}
	s.batch = nil // one whose commit went wrong, or is stuck, is not used again
	if err := s.fill(b, changes); err != nil {
		return err
	}
	if err := s.d.use(func(db *crdb.DB) error { return db.Apply(b, crdb.NoSync) }); err != nil {
		return err
	}
	s.named = true
	b.Reset()
	s.batch = b
	return nil
}

// fill puts the changes into a batch; it copies their bytes.
func (s *Store) fill(b *crdb.Batch, changes []state.Change) error {
	if !s.named {
		if err := b.Set(s.prefix[:], []byte(s.name), nil); err != nil {
			return err
		}
	}
	for _, c := range changes {
		var op *crdb.DeferredBatchOp
		if c.Value == nil {
			op = b.DeleteDeferred(prefixSize + len(c.Key))
		} else {
			op = b.SetDeferred(prefixSize+len(c.Key), len(c.Value))
			copy(op.Value, c.Value)
		}
		copy(op.Key[copy(op.Key, s.prefix[:]):], c.Key)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	return nil
}

// Scan calls f in order for the keys in [from, to).
func (s *Store) Scan(from, to []byte, f func(key, value []byte) bool) error {
	err := s.d.use(func(db *crdb.DB) error { return s.scan(db, from, to, f) })
	if err != nil {
		return fmt.Errorf("store %s: scan: %w", s.name, err)
	}
	return nil
}

// scan reads the store's keys from the database, or from a snapshot of it.
func (s *Store) scan(db crdb.Reader, from, to []byte, f func(key, value []byte) bool) error {
	lower := append(s.prefix[:prefixSize:prefixSize], from...)
	if len(from) == 0 {
		lower = append(lower, 0) // behind the name
	}
	upper := s.end
	if to != nil {
		upper = append(s.prefix[:prefixSize:prefixSize], to...)
	}
	it, err := db.NewIter(&crdb.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !f(it.Key()[prefixSize:], value) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// Snapshot returns a reader of what the store holds now.
func (s *Store) Snapshot() (state.Reader, error) {
	r := &Reader{s: s}
	err := s.d.use(func(db *crdb.DB) error {
		r.snapshot = db.NewSnapshot()
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		s.d.readers[r] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: snapshot: %w", s.name, err)
	}
	return r, nil
}

// Reader is one partition's store as it was.
type Reader struct {
	s        *Store
	snapshot *crdb.Snapshot
	key      []byte
}

// Get returns a copy of the key's value, or nil.
func (r *Reader) Get(key []byte) (value []byte, err error) {
	err = r.use("get", func() (err error) {
		r.key = append(append(r.key[:0], r.s.prefix[:]...), key...)
		value, err = get(r.snapshot, r.key)
		return err
	})
	return value, err
}

// Scan calls f in order for the keys in [from, to).
func (r *Reader) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return r.use("scan", func() error { return r.s.scan(r.snapshot, from, to, f) })
}

func (r *Reader) use(what string, f func() error) error {
	err := r.s.d.use(func(*crdb.DB) error {
		if !r.open() {
			return errReaderClosed
		}
		return f()
	})
	if err != nil {
		return fmt.Errorf("store %s: %s of a snapshot: %w", r.s.name, what, err)
	}
	return nil
}

var errReaderClosed = errors.New("the reader is closed")

func (r *Reader) open() bool {
	r.s.d.mu.Lock()
	defer r.s.d.mu.Unlock()
	_, open := r.s.d.readers[r]
	return open
}

// Close lets go of what the reader keeps. After the database's Close there is nothing to let go of.
func (r *Reader) Close() error {
	if !r.s.d.users.enter() {
		return nil
	}
	defer r.s.d.users.leave()
	if !r.open() {
		return nil
	}
	r.s.d.mu.Lock()
	delete(r.s.d.readers, r)
	r.s.d.mu.Unlock()
	return r.snapshot.Close()
}

// Clear removes everything.
func (s *Store) Clear() error {
	err := s.d.use(func(db *crdb.DB) error {
		return db.DeleteRange(s.prefix[:], s.end, crdb.NoSync)
	})
	if err != nil {
		return fmt.Errorf("store %s: clear: %w", s.name, err)
	}
	s.named = false
	return nil
}

var (
	_ state.DB     = (*DB)(nil)
	_ state.Store  = (*Store)(nil)
	_ state.Reader = (*Reader)(nil)
)
