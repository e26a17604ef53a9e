package node

import (
	"io/fs"
	"path/filepath"
)

// diskBytes is what the store of states takes on disk.
func (n *Node) diskBytes() uint64 {
	total := uint64(0)
	_ = filepath.WalkDir(filepath.Join(n.opt.Data, "state"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += uint64(info.Size())
			}
		}
		return nil // a file that a compaction removed meanwhile does not count
	})
	return total
}
