// Package program runs the programs that are measured, takes their processor time and memory, and keeps what they print for
// the day they fail. A Process and what it started is ended by whoever started it, with Stop or Kill.
package program

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one program that is measured.
type Process struct {
	cmd    *exec.Cmd
	name   string
	Log    *Tail
	exited chan struct{}
	err    error // of Wait; read it after exited
}

// Start runs a program; what it prints is kept for the day it fails.
func Start(path string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(path, args...), name: filepath.Base(path), Log: &Tail{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.Log, p.Log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop ends a program in good order and says what it said if that went wrong.
func (p *Process) Stop() error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.exited:
	case <-time.After(60 * time.Second):
		p.Kill()
		return fmt.Errorf("%s did not stop within a minute after SIGTERM:\n%s", p.name, p.Log)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w:\n%s", p.name, p.err, p.Log)
	}
	return nil
}

// Kill is kill -9.
func (p *Process) Kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}

// Gone says why a program ended though nobody asked it to, or nil.
func (p *Process) Gone() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended: %v:\n%s", p.name, p.err, p.Log)
	default:
		return nil
	}
}

// WaitFor asks again and again until the answer is nil, for at most limit.
func (p *Process) WaitFor(ctx context.Context, what string, limit time.Duration, ask func() error) error {
	end := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if err := errors.Join(ctx.Err(), p.Gone()); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v: %w:\n%s", what, limit, err, p.Log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Tail keeps the last output of a program.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 16 << 10

func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - tailSize; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

func (t *Tail) Has(line string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.text, []byte(line))
}

// Usage is the processor time of programs and their descendants so far.
func Usage(ps ...*Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range ps {
		d, err := usageOf(p.cmd.Process.Pid)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", p.name, err)
		}
		sum += d
	}
	return sum, nil
}

// usageOf adds up a process, its children that have ended and, each in the same way, those that live.
func usageOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	sum, err := statTime(text)
	if err != nil {
		return 0, err
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(text)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", list, err)
			}
			if d, err := usageOf(id); err == nil { // else it has just ended and is its parent's
				sum += d
			}
		}
	}
	return sum, nil
}

// tick is the unit of /proc/PID/stat; Linux fixes it for programs at a hundredth of a second.
const tick = 10 * time.Millisecond

// statTime adds utime, stime, cutime and cstime: fields 14 to 17, counted behind the name in brackets.
func statTime(stat []byte) (time.Duration, error) {
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 15 {
		return 0, fmt.Errorf("unknown form %q", stat)
	}
	var sum time.Duration
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("unknown form %q: %w", stat, err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// Resident is the memory of a program in bytes.
func Resident(p *Process) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return statusBytes(text, "VmRSS:")
}

func statusBytes(status []byte, name string) (int64, error) {
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// MachineTime is the processor time that the whole machine has used.
func MachineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: unknown form %q", line)
	}
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// OwnTime is the processor time of this program.
func OwnTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// FreeAddress is a loopback address that nobody listens on now. It lies below the ports that the kernel gives to connections,
// so that it is still free when a killed process comes back to it.
func FreeAddress() (string, error) {
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		return address, l.Close()
	}
	return "", errors.New("no free port in 1000 attempts")
}

// Build builds a program of the module in a working tree, or of another that it requires.
func Build(ctx context.Context, tree, to, pkg string, w io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", to, pkg)
	cmd.Dir = tree
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

// ModuleRoot is the folder of go.mod.
func ModuleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if !strings.HasSuffix(file, "go.mod") {
		return "", errors.New("run it inside the module")
	}
	return filepath.Dir(file), nil
}

// HTTPOK asks a URL and returns why the answer is not 200, or nil.
func HTTPOK(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
