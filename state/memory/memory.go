// Package memory answers the port state in memory: for tests, for the simulation, and for runs that keep
// nothing.
//
// It is deterministic and starts no goroutine. Keep makes it remember what each of the last Installs
// overwrote, so that Rewind can take them back: a Store after a crash holds some earlier Install and all
// before it, and the simulation chooses which.
package memory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kisflow/kisflow/state"
)

var errClosed = errors.New("the database is closed")

// DB is a state.DB in memory. The zero value is not usable; New makes one.
type DB struct {
	mu     sync.Mutex
	stores map[string]*Store
	closed bool
	keep   int
}

// New returns an empty DB.
func New() *DB { return &DB{stores: make(map[string]*Store)} }

// Keep makes every store remember its last n Installs for Rewind. Default 0: none. It holds for Installs
// from now on.
func (d *DB) Keep(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep = n
	for _, s := range d.stores {
		s.keep = n
		s.trim()
	}
}

// Store returns the store of a partition.
func (d *DB) Store(partition string) (state.Store, error) { return d.Open(partition) }

// Open is Store with the type that has Rewind.
func (d *DB) Open(partition string) (*Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("store %s: %w", partition, errClosed)
	}
	if partition == "" {
		return nil, errors.New("a partition has a name; this one is empty")
	}
	s := d.stores[partition]
	if s == nil {
		s = &Store{keep: d.keep}
		d.stores[partition] = s
	}
	return s, nil
}

// Drop removes a partition's store.
func (d *DB) Drop(partition string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("drop %s: %w", partition, errClosed)
	}
	if s := d.stores[partition]; s != nil {
		delete(d.stores, partition)
		return s.Clear()
	}
	return nil
}

// Partitions names the stores that hold anything, in order.
func (d *DB) Partitions() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	var names []string
	for name, s := range d.stores {
		if s.Len() > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Flush makes what was installed durable: Rewind goes back to here and no further.
func (d *DB) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	for _, s := range d.stores {
		s.mu.Lock()
		s.undo = nil
		s.mu.Unlock()
	}
	return nil
}

// Close ends it; later calls answer with an error. What the stores hold is kept for Reopen.
func (d *DB) Close() error {
	if err := d.Flush(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, s := range d.stores {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	return nil
}

// Crash ends it as a crash does: nothing is flushed. Each store loses its newest Installs, as many as lose
// says of the store's name and of the number that it remembers. Then Reopen goes on with what is left.
func (d *DB) Crash(lose func(partition string, installs int) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make([]string, 0, len(d.stores))
	for name := range d.stores {
		names = append(names, name)
	}
	slices.Sort(names) // lose may be a random choice: the order must not be
	for _, name := range names {
		s := d.stores[name]
		s.Rewind(lose(name, s.Installs()))
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	d.closed = true
}

// Reopen returns a new DB with a copy of what this one holds, as a restart finds it. Stores of the old one
// do not reach the new one.
func (d *DB) Reopen() *DB {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &DB{stores: make(map[string]*Store, len(d.stores)), keep: d.keep}
	for name, s := range d.stores {
		s.mu.Lock()
		// Values are never changed in place, so both may hold the same bytes.
		n.stores[name] = &Store{values: maps.Clone(s.values), keep: d.keep, keys: s.sorted()}
		s.mu.Unlock()
	}
	return n
}

// Store is one partition's store.
type Store struct {
	mu     sync.Mutex // Partitions and Crash look in from outside
	values map[string][]byte
	keep   int
	undo   [][]old // of the newest Installs, oldest first
	closed bool

	// The keys in order, as of the last Scan; never changed in place.
	keys    []string
	added   []string // since then, in any order, some maybe deleted again
	deleted bool     // a key since then
}

// old is what an Install overwrote.
type old struct {
	key   string
	value []byte // nil: there was none
}

// Get returns a copy of the key's value, or nil.
func (s *Store) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	v, ok := s.values[string(key)]
	if !ok {
		return nil, nil
	}
	return append(make([]byte, 0, len(v)), v...), nil
}

// Install applies all changes, the last one of a key winning.
func (s *Store) Install(changes []state.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	for i, c := range changes {
		if len(c.Key) == 0 {
			return fmt.Errorf("install: change %d has an empty key", i)
		}
	}
	if s.values == nil {
		s.values = make(map[string][]byte)
	}
	var undo []old
	for _, c := range changes {
		was, ok := s.values[string(c.Key)]
		if s.keep > 0 {
			undo = append(undo, old{string(c.Key), was})
		}
		if c.Value == nil {
			delete(s.values, string(c.Key))
			s.deleted = s.deleted || ok
			continue
		}
		key := string(c.Key)
		s.values[key] = append(make([]byte, 0, len(c.Value)), c.Value...)
		if !ok {
			s.added = append(s.added, key)
		}
	}
	if len(s.added) > 1024+2*len(s.values) { // keys that come and go, and no Scan
		s.sorted()
	}
	if s.keep > 0 {
		s.undo = append(s.undo, undo)
		s.trim()
	}
	return nil
}

func (s *Store) trim() {
	if n := len(s.undo) - s.keep; n > 0 {
		s.undo = slices.Delete(s.undo, 0, n)
	}
}

// sorted returns all keys in order. What was put in since the last call is merged into a new slice, so that a
// Scan may keep the old one.
func (s *Store) sorted() []string {
	if len(s.added) == 0 && !s.deleted {
		return s.keys
	}
	slices.Sort(s.added)
	s.added = slices.Compact(s.added)
	merged := make([]string, 0, len(s.values))
	old, added := s.keys, s.added
	for len(old) > 0 || len(added) > 0 {
		var k string
		switch {
		case len(added) == 0 || len(old) > 0 && old[0] < added[0]:
			k, old = old[0], old[1:]
		case len(old) > 0 && old[0] == added[0]: // deleted, and put in again
			k, old, added = old[0], old[1:], added[1:]
		default:
			k, added = added[0], added[1:]
		}
		if _, ok := s.values[k]; ok {
			merged = append(merged, k)
		}
	}
	s.keys, s.added, s.deleted = merged, s.added[:0], false
	return merged
}

// Scan calls f in order for the keys in [from, to).
func (s *Store) Scan(from, to []byte, f func(key, value []byte) bool) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	keys := s.sorted()
	s.mu.Unlock() // f may call Get
	scan(keys, from, to, f, func(key string) ([]byte, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		v, ok := s.values[key]
		return v, ok
	})
	return nil
}

// scan calls f for those of the keys that have a value.
func scan(keys []string, from, to []byte, f func(key, value []byte) bool, get func(key string) ([]byte, bool)) {
	i, _ := slices.BinarySearch(keys, string(from))
	var k, v []byte
	for ; i < len(keys) && (to == nil || keys[i] < string(to)); i++ {
		value, ok := get(keys[i])
		k, v = append(k[:0], keys[i]...), append(v[:0], value...)
		if ok && !f(k, v) {
			return
		}
	}
}

// Snapshot returns a reader of what the store holds now. It copies the map, though not the values.
func (s *Store) Snapshot() (state.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	return &Reader{s: s, keys: s.sorted(), values: maps.Clone(s.values)}, nil
}

// Reader is a store as it was.
type Reader struct {
	s      *Store
	keys   []string
	values map[string][]byte
	closed bool
}

// Get returns a copy of the key's value, or nil.
func (r *Reader) Get(key []byte) (value []byte, err error) {
	err = r.Scan(key, append(slices.Clone(key), 0), func(_, v []byte) bool {
		value = append(make([]byte, 0, len(v)), v...)
		return false
	})
	return value, err
}

// Scan calls f in order for the keys in [from, to).
func (r *Reader) Scan(from, to []byte, f func(key, value []byte) bool) error {
	r.s.mu.Lock()
	closed := r.s.closed
	r.s.mu.Unlock()
	if closed || r.closed {
		return errClosed
	}
	scan(r.keys, from, to, f, func(key string) ([]byte, bool) {
		v, ok := r.values[key]
		return v, ok
	})
	return nil
}

// Close lets go of the copy.
func (r *Reader) Close() error {
	r.closed, r.keys, r.values = true, nil, nil
	return nil
}

// Clear removes everything. It is an Install to Rewind.
func (s *Store) Clear() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if s.keep > 0 {
		var undo []old
		for _, k := range s.sorted() {
			undo = append(undo, old{k, s.values[k]})
		}
		s.undo = append(s.undo, undo)
		s.trim()
	}
	s.values, s.keys, s.added, s.deleted = nil, nil, nil, false
	return nil
}

// Len is the number of keys.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// Installs is how many Installs Rewind can take back.
func (s *Store) Installs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.undo)
}

// Rewind takes back the newest n Installs (and Clears), or as many as are remembered.
func (s *Store) Rewind(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && len(s.undo) > 0; n-- {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		if s.values == nil {
			s.values = make(map[string][]byte)
		}
		for _, o := range slices.Backward(last) {
			if o.value == nil {
				delete(s.values, o.key)
				s.deleted = true
			} else {
				s.values[o.key] = o.value
				s.added = append(s.added, o.key)
			}
		}
	}
}

var (
	_ state.DB     = (*DB)(nil)
	_ state.Store  = (*Store)(nil)
	_ state.Reader = (*Reader)(nil)
)
