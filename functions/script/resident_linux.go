package script

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// resident is how many bytes of memory a process holds, 0 where that is not known.
func resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// spentBy is the processor time that a process has spent, to a hundredth of a second; negative: not known.
func spentBy(pid int) time.Duration {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return -1
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // from the third on
	if len(fields) < 13 {
		return -1
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return -1
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return -1
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of Linux
	return time.Duration(user+system) * tick
}
