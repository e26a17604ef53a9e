package pebble

import (
	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS stands between Pebble and the disk.
type guardFS struct {
	vfs.FS
	fail *failure
}

// Unwrap is for Pebble, which looks for the file system at the bottom.
func (g *guardFS) Unwrap() vfs.FS { return g.FS }

func (g *guardFS) check(string) error { return nil }

// FreeSpace is how many bytes the disk that holds dir has left for us, and how many it has in all.
func FreeSpace(dir string) (free, total uint64, err error) {
	u, err := vfs.Default.GetDiskUsage(dir)
	return u.AvailBytes, u.TotalBytes, err
}
