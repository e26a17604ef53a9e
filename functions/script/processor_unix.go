//go:build unix

package script

import (
	"syscall"
	"time"
)

// processorTime is what this process has spent so far; negative: not known.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return -1
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
