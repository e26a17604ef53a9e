package script

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
)

// Command is the argument with which a binary is told to be a worker, and workerMark the environment variable that says
// that it was a pool who told it.
const (
	Command    = "script-worker"
	workerMark = "KISFLOW_SCRIPT_WORKER"
)

// exitMemory is the code with which a worker ends itself that uses too much memory.
const exitMemory = 86

// Work is the life of a worker: it handles what comes in through standard input, writes the results to standard output, and
// returns when standard input ends, as it does when the process of the pool dies.
func Work(in io.Reader, out io.Writer) error {
	if os.Getenv(workerMark) == "" {
		return errors.New("this command is for kisnode itself: it runs scripts that come in through standard input")
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // a terminal sends them to all; the pool says when it is over
	debug.SetGCPercent(400)                      // the heap is small
	debug.SetMaxStack(64 << 20)
	runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))
	hello := binary.AppendUvarint(appendFrame(nil, helloFrame), protocol)
	if _, err := out.Write(endFrame(hello)); err != nil {
		return err
	}
	w := &worker{machine: machine{guard: guard{memory: memoryInUse, over: func() { os.Exit(exitMemory) }}}, out: out}
	runtime.GC()
	w.machine.guard.base = memoryInUse()
	frames := make(chan incoming)
	go func() { // ends the process with standard input, whatever a script is doing
		r := bufio.NewReaderSize(in, 64<<10)
		for {
			kind, payload, err := readFrame(r, nil)
			if err != nil {
				if errors.Is(err, io.EOF) {
					os.Exit(0)
				}
				fmt.Fprintln(os.Stderr, "script worker:", err)
				os.Exit(1)
			}
			frames <- incoming{kind, payload}
		}
	}()
	for f := range frames {
		if err := w.frame(f.kind, f.payload); err != nil {
			return err
		}
	}
	return nil
}

type incoming struct {
	kind    byte
	payload []byte
}

type worker struct {
	machine machine
	out     io.Writer
	limit   int64 // for the collector
}

func (w *worker) send(frame []byte) error {
	_, err := w.out.Write(frame)
	return err
}

// frame handles one frame of the pool.
func (w *worker) frame(kind byte, payload []byte) error {
	switch kind {
	case loadFrame:
		if len(payload) < 16 {
			return errFrame
		}
		p, err := readProgram([16]byte(payload[:16]), payload[16:])
		if err == nil {
			w.measure()
			w.collect(p.limits.Memory)
			err = w.machine.load(p)
		}
		if err != nil {
			return w.send(endFrame(appendText(appendFrame(nil, faultFrame), err.Error())))
		}
	case runFrame:
		if len(payload) < 17 {
			return errFrame
		}
		w.measure()
		in := w.machine.loaded[[16]byte(payload[:16])]
		if in == nil { // it had to give way to others
			return w.send(endFrame(appendText(appendFrame(nil, faultFrame), "")))
		}
		w.collect(in.program.limits.Memory)
		if err := w.machine.run(payload, w.send); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: kind %d", errFrame, kind)
	}
	return w.send(endFrame(appendFrame(nil, doneFrame)))
}

// keepBytes is how much a worker may keep between two requests: its scripts, and what is not collected yet.
const keepBytes = 64 << 20

// measure looks how much memory is in use before a request: that is not held against it. A worker that keeps too much,
// because a script keeps what it sees, forgets all its scripts.
func (w *worker) measure() {
	g := &w.machine.guard
	if g.kept = max(0, memoryInUse()-g.base); g.kept <= keepBytes {
		return
	}
	runtime.GC()
	if g.kept = max(0, memoryInUse()-g.base); g.kept <= keepBytes {
		return
	}
	w.machine.loaded = nil
	debug.FreeOSMemory()
	g.kept = min(keepBytes, max(0, memoryInUse()-g.base))
}

// collect has the collector work harder before a limit is reached.
func (w *worker) collect(memory int64) {
	limit := w.machine.guard.base + w.machine.guard.kept + memory*3/4
	if d := limit - w.limit; d > 4<<20 || d < -4<<20 {
		w.limit = limit
		debug.SetMemoryLimit(limit)
	}
}

// memoryInUse is what the process holds of memory and has not given back.
func memoryInUse() int64 {
	s := [3]metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s[:])
	return int64(s[0].Value.Uint64()) - int64(s[1].Value.Uint64()) - int64(s[2].Value.Uint64())
}
