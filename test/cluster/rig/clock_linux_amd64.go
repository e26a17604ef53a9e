package rig

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CanJump says whether the clock of a process can be set off here.
const CanJump = true

// clock is the wall clock of one process, as that process sees it. Go programs, and the C library, ask the kernel's
// vDSO for the time: code that the kernel maps into every process. The pages are the process's own as soon as
// somebody writes to them, as debuggers do. There clock_gettime is replaced by one that asks the kernel by a system
// call and adds an offset to CLOCK_REALTIME; the monotonic clocks stay as they are, and so do all other processes.
type clock struct {
	pid    int
	offset int64 // where the offset in seconds stands in the process's memory
}

// stub is the new clock_gettime(edi clock, rsi timespec).
var stub = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi (CLOCK_REALTIME is 0)
	0x75, 0x0a, // jne to ret
	0x48, 0x8b, 0x0d, 0x06, 0x00, 0x00, 0x00, // mov rcx, [rip+6], the offset
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,       // ret
	0x90, 0x90, // the offset is aligned
	0, 0, 0, 0, 0, 0, 0, 0, // the offset
}

const stubOffset = 24 // of the offset in stub

// takeClock replaces the clock of a process that runs.
func takeClock(pid int) (*clock, error) {
	base, size, err := vdsoOf(pid)
	if err != nil {
		return nil, err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	image := make([]byte, size)
	if _, err := memory.ReadAt(image, base); err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	at, length, err := clockGettime(image)
	if err != nil {
		return nil, err
	}
	begin := (at + 7) &^ 7 // only to be sure: functions are aligned
	if begin != at || length < uint64(len(stub)) {
		return nil, fmt.Errorf("clock_gettime of the vDSO is at %#x with %d bytes: no room for another", at, length)
	}
	// No thread may be inside while the code changes.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	defer syscall.Kill(pid, syscall.SIGCONT) // it may have ended
	for range 200 {
		inside, err := threadsIn(pid, uint64(base), uint64(base)+uint64(size))
		if err != nil {
			return nil, err
		}
		if !inside {
			if _, err := memory.WriteAt(stub, base+int64(at)); err != nil {
				return nil, fmt.Errorf("write to the vDSO: %w", err)
			}
			return &clock{pid, base + int64(at) + stubOffset}, nil
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
		time.Sleep(time.Millisecond)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("a thread is always inside clock_gettime")
}

// jump sets how far the clock is off.
func (c *clock) jump(d time.Duration) error {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	_, err = memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(d/time.Second))), c.offset)
	return err
}

func vdsoOf(pid int) (base int64, size int, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		from, to, _ := strings.Cut(strings.Fields(line)[0], "-")
		b, err := strconv.ParseInt(from, 16, 64)
		if err != nil {
			return 0, 0, err
		}
		e, err := strconv.ParseInt(to, 16, 64)
		return b, int(e - b), err
	}
	return 0, 0, fmt.Errorf("process %d has no vDSO", pid)
}

func clockGettime(image []byte) (at, length uint64, err error) {
	f, err := elf.NewFile(strings.NewReader(string(image)))
	if err != nil {
		return 0, 0, fmt.Errorf("the vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, 0, fmt.Errorf("the vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return s.Value, s.Size, nil
		}
	}
	return 0, 0, errors.New("the vDSO has no clock_gettime")
}

// threadsIn waits until all threads of a process have stopped, and tells whether one of them is within a stretch of
// memory.
func threadsIn(pid int, from, to uint64) (bool, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false, err
	}
	for _, t := range tasks {
		where := ""
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, t.Name()))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				break // the thread has ended
			}
			if err != nil {
				return false, err
			}
			if where = strings.TrimSpace(string(b)); where != "running" {
				break
			}
			if time.Now().After(end) {
				return false, fmt.Errorf("thread %s does not stop", t.Name())
			}
		}
		fields := strings.Fields(where) // ends with the stack and the program counter
		if len(fields) == 0 {
			continue
		}
		pc, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil {
			return false, fmt.Errorf("thread %s: %q", t.Name(), where)
		}
		if pc >= from && pc < to {
			return true, nil
		}
	}
	return false, nil
}
