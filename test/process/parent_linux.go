package process

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill the process when the test dies, so that one that panics leaves nothing behind.
func dieWithParent(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
