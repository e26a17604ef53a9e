//go:build !linux

package script

import "time"

// resident is not known here; the worker still watches its own heap.
func resident(int) int64 { return 0 }

// spentBy is not known here: the clock alone counts.
func spentBy(int) time.Duration { return -1 }
