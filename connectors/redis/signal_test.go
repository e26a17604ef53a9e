//go:build unix

package redis

import "syscall"

const (
	stopped = syscall.SIGSTOP
	goesOn  = syscall.SIGCONT
)
