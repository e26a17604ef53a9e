//go:build unix

package transporttest

import (
	"syscall"
	"time"
)

// processor is the time that this process has had of the processors, the server's included where it is embedded.
func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
