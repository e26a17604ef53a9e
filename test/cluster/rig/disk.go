package rig

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Disk is where a node keeps its data. Its methods may be called while the node runs, by one goroutine.
type Disk struct {
	Path    string // where files may be made
	missing error  // why it is no file system of its own; nil: it is
	lazy    error  // why it cannot be stalled; nil: it can
	slow    *slowness
}

// DiskSize is the size of a disk: four times what a node wants free.
const DiskSize = 1 << 30

// errNoDisk is of a disk that is a folder like others.
var errNoDisk = errors.New("the data is on the machine's own disk")

// OpenDisk makes a disk below a folder, or falls back to a part of the machine's; it is gone when the test ends.
func OpenDisk(t testing.TB, folder, name string) *Disk {
	t.Helper()
	d := &Disk{Path: filepath.Join(folder, name)}
	if err := os.MkdirAll(d.Path, 0o750); err != nil {
		t.Fatal(err)
	}
	mountDisk(t, d, folder, name)
	return d
}

// Why says why the disk cannot be filled; nil: it can.
func (d *Disk) Why() error { return d.missing }

// WhySlow says why the disk cannot be made slow; nil: it can.
func (d *Disk) WhySlow() error { return d.lazy }

// ballast is a file that only takes space.
func (d *Disk) ballast() string { return filepath.Join(d.Path, "ballast") }

// Release ends Fill.
func (d *Disk) Release() error {
	err := os.Remove(d.ballast())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
