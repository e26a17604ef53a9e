// Package state is the port to what keys remember on this node: ordered keys and bytes per partition.
// state/pebble answers it on disk, state/memory in memory; both pass the suite in state/statetest.
//
// A Store is a materialised view of its partition's log: the engine installs what a commit record says,
// together with the record's sequence, in one atomic Install. Nothing is synced on the way: after a crash a
// Store holds some earlier Install and all before it, and the engine repairs it from the log.
package state

import "errors"

// ErrCorrupt means that what is on the disk is not what was written. The store is to be cleared and built
// anew from a snapshot and the log.
var ErrCorrupt = errors.New("corrupt state")

// Change is one key's new value; a nil Value deletes the key. A key is not empty.
type Change struct{ Key, Value []byte }

// Store holds the state of one partition. One goroutine uses it at a time, but for Get and Scan: those may be called by
// others meanwhile. Of an Install Get sees all or nothing; a Scan may see it in some keys and not yet in others.
type Store interface {
	// Get returns a copy of the key's value, or nil if there is none.
	Get(key []byte) ([]byte, error)
	// Install applies all changes or none. It may use the changes' bytes until it returns.
	Install(changes []Change) error
	// Scan calls f in order for the keys from 'from' (inclusive) to 'to' (exclusive; nil: to the end), until
	// f returns false. The bytes are valid during the call.
	Scan(from, to []byte, f func(key, value []byte) bool) error
	// Clear removes everything.
	Clear() error
	// Snapshot returns a reader of what the store holds now; it is to be closed.
	Snapshot() (Reader, error)
}

// Reader reads a store as it was at one moment, whatever has become of it since. It may be used beside its Store,
// by one goroutine at a time. While it is open, what it sees takes room.
type Reader interface {
	// Get and Scan are the Store's, of that moment.
	Get(key []byte) ([]byte, error)
	Scan(from, to []byte, f func(key, value []byte) bool) error
	// Close may be called more than once.
	Close() error
}

// DB holds the stores of a node's partitions.
type DB interface {
	// Store returns the store of a partition by its name; a new one is empty.
	Store(partition string) (Store, error)
	// Drop removes a partition's store for good.
	Drop(partition string) error
	// Partitions names the stores that hold anything.
	Partitions() ([]string, error)
	// Flush returns when all that was installed before is on the disk.
	Flush() error
	// Close flushes and closes.
	Close() error
}
