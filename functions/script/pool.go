package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// PoolOptions tune a Pool. Only Program is required.
type PoolOptions struct {
	// Program is the path of a binary that calls Work when its arguments say so, and Arguments are these. Default:
	// Command alone.
	Program   string
	Arguments []string
	// Workers is the most processes at a time. Default: one for each processor that Go uses, and two at least, so
	// that a script that has to be stopped again and again leaves room for others.
	Workers int
	// Idle is how long a worker without work is kept. Default 1m.
	Idle time.Duration
	// Log receives what happens to workers, and what scripts log. Default slog.Default.
	Log *slog.Logger
}

// Pool runs scripts in worker processes, which it starts when they are needed. The partitions of a node share one.
type Pool struct {
	opt   PoolOptions
	lines lineBudget

	mu      sync.Mutex
	closed  bool
	idle    []*process
	workers int // processes, and those that are being started
	killed  uint64
	waiting []*claim
	known   map[[16]byte]*record
	ending  sync.WaitGroup
}

// record is what a pool knows of a program.
type record struct {
	loaded  bool      // it can be loaded
	busy    int       // workers that run it
	kills   int       // in a row
	suspect time.Time // until then it has one worker at most
	start   time.Time // earliest start of a worker for it
}

// claim is somebody who waits for a worker.
type claim struct {
	id    [16]byte
	given chan *process // nil: start one
}

// Times of a pool.
const (
	helloWithin = 20 * time.Second       // a new worker must answer
	suspectFor  = time.Minute            // after a kill
	firstPause  = 100 * time.Millisecond // before a worker is started for a program that has killed two in a row,
	lastPause   = 5 * time.Second        // doubled up to this
	startFor    = 3 * time.Second        // a worker that cannot be started is tried again at once; then the rows wait
	poll        = 20 * time.Millisecond  // between looks at a worker that answers nothing
	endWithin   = 2 * time.Second        // a worker that was told to end is killed then
	maxKnown    = 10_000                 // programs
)

// NewPool makes a pool; it starts no worker yet.
func NewPool(o PoolOptions) *Pool {
	if o.Workers <= 0 {
		o.Workers = max(2, runtime.GOMAXPROCS(0))
	}
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	if o.Arguments == nil {
		o.Arguments = []string{Command}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Pool{opt: o, known: make(map[[16]byte]*record)}
}

// Close ends all workers; scripts that are running are cut off. It returns when all have ended.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	for _, c := range p.waiting {
		close(c.given)
	}
	p.waiting = nil
	p.mu.Unlock()
	for _, w := range idle {
		p.retire(w)
	}
	p.ending.Wait()
}

// errClosed says that the pool, and so the node, is stopping.
var errClosed = errors.New("the workers of scripts are stopping")

// killedError says that a worker died, or had to be killed, over a request.
type killedError struct {
	cause string
	// limit: it was a limit of the script that killed it, not somebody from outside.
	limit bool
}

func (e *killedError) Error() string { return e.cause }

// Stats are how many workers there are, and how many have died, or had to be killed, over a row.
func (p *Pool) Stats() (workers int, killed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers, p.killed
}

// startError says that no worker can be started now.
type startError struct{ error }

func (e *startError) Error() string { return "no worker can be started: " + e.error.Error() }
func (e *startError) Unwrap() error { return e.error }

// record returns what is known of a program. The caller holds the lock.
func (p *Pool) record(id [16]byte) *record {
	r := p.known[id]
	if r == nil {
		if len(p.known) >= maxKnown {
			for k, old := range p.known {
				if old.busy == 0 {
					delete(p.known, k)
				}
			}
		}
		r = new(record)
		p.known[id] = r
	}
	return r
}

// allowed tells whether a program may have one more worker now. The caller holds the lock.
func (p *Pool) allowed(r *record) bool {
	return r.busy == 0 || time.Now().After(r.suspect)
}

// acquire returns a worker for a program, and waits for one if need be.
func (p *Pool) acquire(ctx context.Context, id [16]byte) (*process, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	r := p.record(id)
	if pause := time.Until(r.start); pause > 0 {
		p.mu.Unlock()
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		p.mu.Lock()
	}
	if p.allowed(r) {
		if w, start := p.take(id); w != nil || start {
			r.busy++
			p.mu.Unlock()
			return p.started(ctx, id, w)
		}
	}
	c := &claim{id, make(chan *process, 1)}
	p.waiting = append(p.waiting, c)
	p.mu.Unlock()
	select {
	case w, ok := <-c.given:
		if !ok {
			return nil, errClosed
		}
		return p.started(ctx, id, w)
	case <-ctx.Done():
	}
	p.mu.Lock()
	for i, o := range p.waiting {
		if o == c {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	p.mu.Unlock()
	if w, ok := <-c.given; ok { // it was given in this moment
		p.release(w, id, nil)
	}
	return nil, ctx.Err()
}

// take takes an idle worker, best one that has the program, or the right to start one. The caller holds the lock.
func (p *Pool) take(id [16]byte) (w *process, start bool) {
	p.idle = slices.DeleteFunc(p.idle, func(w *process) bool {
		select {
		case <-w.ended: // somebody has killed it
			w.ends.Stop()
			_, _ = w.in.Close(), w.out.Close()
			p.workers--
			return true
		default:
			return false
		}
	})
	if n := len(p.idle); n > 0 {
		i := n - 1
		for j, o := range p.idle {
			if o.loaded[id] {
				i = j
			}
		}
		w = p.idle[i]
		p.idle = append(p.idle[:i], p.idle[i+1:]...)
		w.ends.Stop()
		return w, false
	}
	if p.workers < p.opt.Workers {
		p.workers++
		return nil, true
	}
	return nil, false
}

// started returns a worker that was given, or starts the one that may be started.
func (p *Pool) started(ctx context.Context, id [16]byte, w *process) (*process, error) {
	if w != nil {
		return w, nil
	}
	var err error
	for begin, pause := time.Now(), firstPause; ; pause = min(2*pause, lastPause) {
		if w, err = p.start(); err == nil {
			return w, nil
		}
		p.opt.Log.Warn("a worker for scripts could not be started", "error", err)
		if time.Since(begin) > startFor {
			err = &startError{err}
			break
		}
		if serr := sleep(ctx, pause); serr != nil {
			err = serr
			break
		}
	}
	p.release(nil, id, nil)
	return nil, err
}

// release gives a worker back; w is nil, or dead, where there is none any more.
func (p *Pool) release(w *process, id [16]byte, killed *killedError) {
	p.mu.Lock()
	r := p.record(id)
	r.busy = max(0, r.busy-1)
	switch {
	case killed != nil:
		now := time.Now()
		p.killed++
		r.kills++
		r.suspect = now.Add(suspectFor)
		if r.kills > 2 {
			r.start = now.Add(min(firstPause<<min(r.kills-3, 10), lastPause))
		}
	case w != nil:
		r.kills = 0
	}
	if w == nil || w.dead || p.closed {
		p.workers--
		if w != nil && !w.dead {
			defer p.retire(w)
		}
		w = nil
	}
	for i := 0; i < len(p.waiting) && !p.closed; {
		c := p.waiting[i]
		rc := p.record(c.id)
		if !p.allowed(rc) {
			i++
			continue
		}
		if w == nil {
			other, start := p.take(c.id)
			if other == nil && !start {
				break
			}
			w = other
		}
		rc.busy++
		p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
		c.given <- w
		w = nil
	}
	if w != nil {
		p.idle = append(p.idle, w)
		w.ends = time.AfterFunc(p.opt.Idle, func() { p.expire(w) })
	}
	p.mu.Unlock()
}

// expire ends a worker that has been idle.
func (p *Pool) expire(w *process) {
	p.mu.Lock()
	for i, o := range p.idle {
		if o == w {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			p.workers--
			p.mu.Unlock()
			p.retire(w)
			return
		}
	}
	p.mu.Unlock()
}

// retire tells a worker to end, and kills it if it does not.
func (p *Pool) retire(w *process) {
	w.dead = true
	_ = w.in.Close()
	kill := time.AfterFunc(endWithin, func() { _ = w.cmd.Process.Kill() })
	go func() { // ends with the process
		<-w.ended
		kill.Stop()
		_ = w.out.Close()
	}()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// process is one worker. It belongs to one goroutine at a time.
type process struct {
	cmd    *exec.Cmd
	in     *os.File
	out    *os.File
	stderr *headWriter
	ended  chan struct{} // closed when the process has ended
	loaded map[[16]byte]bool
	dead   bool
	base   int64 // resident bytes when it was new
	buf    []byte
	unread []byte // of buf
	ends   *time.Timer
	frame  []byte
}

// start starts a worker.
func (p *Pool) start() (*process, error) {
	if os.Getenv(workerMark) != "" {
		return nil, errors.New("a worker for scripts starts no workers")
	}
	if p.opt.Program == "" {
		return nil, errors.New("no program is known that can be a worker for scripts")
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	p.ending.Add(1)
	p.mu.Unlock()
	begun := false
	defer func() {
		if !begun {
			p.ending.Done()
		}
	}()
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		_, _ = childIn.Close(), in.Close()
		return nil, err
	}
	w := &process{in: in, out: out, stderr: &headWriter{left: 4 << 10}, ended: make(chan struct{}), loaded: make(map[[16]byte]bool), buf: make([]byte, 64<<10)}
	w.cmd = exec.Command(p.opt.Program, p.opt.Arguments...)
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = childIn, childOut, w.stderr
	w.cmd.Env = []string{workerMark + "=1", "TZ=UTC", "LANG=C.UTF-8", "GOTRACEBACK=none"} // nothing of ours
	if root := os.Getenv("SystemRoot"); root != "" {
		w.cmd.Env = append(w.cmd.Env, "SystemRoot="+root) // without it no program starts on Windows
	}
	w.cmd.Dir = os.TempDir()
	w.cmd.WaitDelay = time.Second
	err = w.cmd.Start()
	_, _ = childIn.Close(), childOut.Close()
	if err != nil {
		_, _ = in.Close(), out.Close()
		return nil, err
	}
	begun = true
	go func() { // ends with the process
		defer p.ending.Done()
		_ = w.cmd.Wait()
		close(w.ended)
	}()
	kind, payload, err := w.next(context.Background(), bounds{within: helloWithin})
	if err == nil && (kind != helloFrame || (&cursor{b: payload}).number() != protocol) {
		err = fmt.Errorf("%w: %s %s is no worker of this version", errFrame, p.opt.Program, strings.Join(p.opt.Arguments, " "))
	}
	if err != nil {
		w.kill()
		return nil, fmt.Errorf("start %s: %w%s", p.opt.Program, err, w.said())
	}
	w.base = resident(w.cmd.Process.Pid)
	return w, nil
}

// kill ends the process at once, and waits until it has ended.
func (w *process) kill() {
	w.dead = true
	_ = w.cmd.Process.Kill()
	<-w.ended
	_, _ = w.in.Close(), w.out.Close()
}

// said is what the process wrote to standard error, for a message.
func (w *process) said() string {
	if s := strings.TrimSpace(w.stderr.String()); s != "" {
		first, _, _ := strings.Cut(s, "\n")
		return ": " + cut(first, 200)
	}
	return ""
}

// headWriter keeps the beginning of what is written.
type headWriter struct {
	mu   sync.Mutex
	b    []byte
	left int
}

func (h *headWriter) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(b), h.left)
	h.b, h.left = append(h.b, b[:n]...), h.left-n
	return len(b), nil
}

func (h *headWriter) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.b)
}

var (
	errSlow  = errors.New("no answer")
	errLarge = errors.New("too much memory")
)

// bounds are those of the wait for a frame.
type bounds struct {
	within time.Duration // by the clock
	spends time.Duration // it is over only when the process has spent so much processor time, or waited so often; 0: at once
	most   int64         // resident bytes that the process may have; 0: any
}

// next reads the next frame.
func (w *process) next(ctx context.Context, b bounds) (kind byte, payload []byte, err error) {
	for {
		kind, payload, rest, ok, err := cutFrame(w.unread)
		if err != nil {
			return 0, nil, err
		}
		if ok {
			w.unread = rest
			return kind, payload, nil
		}
		if err := w.more(ctx, b); err != nil {
			return 0, nil, err
		}
	}
}

// more reads more bytes behind those that are unread.
func (w *process) more(ctx context.Context, b bounds) error {
	begin, spent := time.Now(), time.Duration(-1)
	pid := w.cmd.Process.Pid
	n := copy(w.buf, w.unread)
	if n == len(w.buf) {
		w.buf = append(w.buf, make([]byte, len(w.buf))...)
	}
	for {
		now := time.Now()
		waited := now.Sub(begin)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case waited > b.within && (b.spends == 0 || spent < 0 || waited > patience*b.within || spentBy(pid)-spent >= b.spends):
			return errSlow
		case waited >= poll && b.most > 0 && resident(pid) > b.most:
			return errLarge
		}
		_ = w.out.SetReadDeadline(now.Add(poll))
		m, err := w.out.Read(w.buf[n:])
		if m > 0 {
			w.unread = w.buf[:n+m]
			return nil
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if spent < 0 && b.spends > 0 {
				spent = spentBy(pid)
			}
			continue
		case err == nil:
			err = io.ErrNoProgress
		}
		return err
	}
}

// load implements Host.
func (p *Pool) load(ctx context.Context, prog *program) error {
	p.mu.Lock()
	known := p.record(prog.id).loaded
	p.mu.Unlock()
	if known {
		return nil
	}
	return p.run(ctx, prog, nil, nil)
}

// run implements Host; without a request it only loads.
func (p *Pool) run(ctx context.Context, prog *program, request []byte, results func([]byte) error) error {
	w, err := p.acquire(ctx, prog.id)
	if err != nil {
		return err
	}
	var killed *killedError
	defer func() { p.release(w, prog.id, killed) }()
	err = w.run(ctx, prog, request, results)
	if err == nil {
		p.mu.Lock()
		p.record(prog.id).loaded = true
		p.mu.Unlock()
		return nil
	}
	if f := (*faultError)(nil); errors.As(err, &f) {
		return err // of the script; the worker is as good as before
	}
	if ctx.Err() != nil {
		w.kill()
		return ctx.Err()
	}
	if errors.Is(err, errAnswer) || errors.Is(err, errFrame) {
		w.kill()
		return err
	}
	killed = new(killedError)
	slow, large := errors.Is(err, errSlow), errors.Is(err, errLarge)
	if slow || large {
		w.kill()
	} else {
		select { // its end says why
		case <-w.ended:
		case <-time.After(time.Second):
		}
		w.kill()
		large = w.cmd.ProcessState.ExitCode() == exitMemory || strings.Contains(w.stderr.String(), "out of memory")
	}
	killed.limit = slow || large
	switch {
	case large:
		killed.cause = fmt.Sprintf("it used more than %s of memory (script.memory)", size(prog.limits.Memory))
	case slow:
		killed.cause = fmt.Sprintf("it took longer than %s (script.timeout) and had to be killed", prog.limits.Time)
	default:
		killed.cause = "its worker died: " + w.cmd.ProcessState.String() + w.said()
	}
	p.opt.Log.Warn("a worker for scripts is gone", "script", prog.source.name, "cause", killed.cause)
	if request == nil {
		return fmt.Errorf("%s: before its first row %s", prog.source.name, killed.cause)
	}
	return killed
}

// faultError is a script that cannot be loaded.
type faultError struct{ message string }

func (e *faultError) Error() string { return e.message }

// run gives a worker a request.
func (w *process) run(ctx context.Context, prog *program, request []byte, results func([]byte) error) error {
	// The worker stops a row in time; what comes on top is for what it cannot stop.
	b := bounds{within: prog.limits.Time + flushEvery + max(250*time.Millisecond, prog.limits.Time/2), spends: prog.limits.Time}
	if w.base > 0 {
		b.most = w.base + keepBytes + prog.limits.Memory + prog.limits.Memory/4 + 32<<20
	}
	for try := 0; ; try++ {
		if !w.loaded[prog.id] {
			w.frame = append(appendFrame(w.frame[:0], loadFrame), prog.id[:]...)
			w.frame = endFrame(prog.appendTo(w.frame))
			if err := w.answer(ctx, w.frame, b, nil); err != nil {
				return err
			}
			w.loaded[prog.id] = true
		}
		if request == nil {
			return nil
		}
		w.frame = endFrame(append(appendFrame(w.frame[:0], runFrame), request...))
		err := w.answer(ctx, w.frame, b, results)
		if f := (*faultError)(nil); errors.As(err, &f) && f.message == "" && try == 0 {
			delete(w.loaded, prog.id) // it had to give way to others
			continue
		}
		return err
	}
}

// answer sends a frame and reads until the worker is done with it.
func (w *process) answer(ctx context.Context, frame []byte, b bounds, results func([]byte) error) error {
	_ = w.in.SetWriteDeadline(time.Now().Add(b.within + helloWithin))
	if _, err := w.in.Write(frame); err != nil {
		return err
	}
	for {
		kind, payload, err := w.next(ctx, b)
		if err != nil {
			return err
		}
		switch {
		case kind == doneFrame:
			return nil
		case kind == faultFrame:
			c := cursor{b: payload}
			return &faultError{string(c.text())}
		case kind == resultFrame && results != nil:
			if err := results(payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: kind %d", errFrame, kind)
		}
	}
}

func size(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + "GiB"
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + "MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// log implements Host: a line a script wrote becomes a line of the node's log, ten in a second at most.
func (p *Pool) log(step kis.Step, line string) {
	if left, ok := p.lines.take(); ok {
		p.opt.Log.Info("script", "flow", step.Flow, "step", step.Name, "line", line)
	} else if left {
		p.opt.Log.Info("script: more lines in this second are left out")
	}
}

// lineBudget allows so many lines in each second.
type lineBudget struct {
	mu     sync.Mutex
	second int64
	lines  int
}

const linesPerSecond = 10

// take tells whether one more line may be written; last: it is the first that may not.
func (b *lineBudget) take() (last, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := time.Now().Unix(); s != b.second {
		b.second, b.lines = s, 0
	}
	b.lines++
	return b.lines == linesPerSecond+1, b.lines <= linesPerSecond
}
