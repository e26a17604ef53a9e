//go:build unix && !linux

package main

import (
	"syscall"
	"time"
)

// processTime is the processor time that this process has had; that of a thread is not known.
func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func threadTime() time.Duration { return 0 }
