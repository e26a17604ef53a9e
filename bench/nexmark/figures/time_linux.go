package main

import (
	"syscall"
	"time"
)

// processTime is the processor time that this process has had; threadTime that of the
// thread that asks.
func processTime() time.Duration { return usage(syscall.RUSAGE_SELF) }

func threadTime() time.Duration { return usage(syscall.RUSAGE_THREAD) }

func usage(who int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
