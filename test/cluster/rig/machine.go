package rig

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is what a machine runs: a kisnode or a nats-server.
type Process interface {
	Launch() error // starts it and does not wait
	Ready() error  // nil: it is at work
	Kill()         // kill -9; returns when it has ended
	Signal(syscall.Signal) error
	Wait(time.Duration) error // for its end
	Running() bool
	Pid() int
}

// Machine is a place, a disk and one program that a supervisor keeps running there, as one would in earnest: where
// the program ends by itself it is started again, and the end is written down. Its methods are safe for use by many
// goroutines.
type Machine struct {
	Name  string
	Place *Place
	Disk  *Disk
	Log   *Log

	mu      sync.Mutex
	process Process
	clock   *clock
	jumped  time.Duration
	wanted  bool // the supervisor is to keep it running
	paused  bool
	starts  int
	ends    []End
	stop    chan struct{}
	done    sync.WaitGroup
}

// End is how a program ended that was to run.
type End struct {
	At  time.Time
	Err error
	Log string // its last lines
}

// restartAfter is how long a supervisor waits before it starts a program again that has ended.
const restartAfter = 500 * time.Millisecond

// newMachine puts a process that is not started yet under supervision. It is killed when the test ends.
func newMachine(t testing.TB, place *Place, disk *Disk, log *Log, p Process) *Machine {
	m := &Machine{Name: place.Name, Place: place, Disk: disk, Log: log, process: p, stop: make(chan struct{})}
	m.done.Go(m.supervise) // ends with stop
	t.Cleanup(func() {
		close(m.stop)
		m.done.Wait()
		_ = disk.Quicken() // nobody can be killed who waits for a disk that stands still
		m.Kill()
		log.close()
	})
	return m
}

func (m *Machine) supervise() {
	for {
		select {
		case <-m.stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		m.mu.Lock()
		if m.wanted && !m.process.Running() {
			m.ended()
			m.mu.Unlock()
			select {
			case <-m.stop:
				return
			case <-time.After(restartAfter):
			}
			m.mu.Lock()
			if m.wanted && !m.process.Running() {
				m.launch()
			}
		}
		m.mu.Unlock()
	}
}

// ended writes down an end that nobody asked for.
func (m *Machine) ended() {
	e := End{At: time.Now(), Err: m.process.Wait(time.Second), Log: m.Log.Last(12)}
	m.ends = append(m.ends, e)
	m.Log.Note("%s ended by itself: %v", m.Name, e.Err)
}

func (m *Machine) launch() {
	m.clock, m.jumped, m.paused = nil, 0, false
	m.starts++
	if err := m.process.Launch(); err != nil {
		m.Log.Note("%s cannot be started: %v", m.Name, err)
		return
	}
	m.Log.Note("%s started, process %d", m.Name, m.process.Pid())
}

// Start starts the program and keeps it running from now on. It does not wait.
func (m *Machine) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = true
	if !m.process.Running() {
		m.launch()
	}
}

// AwaitReady waits until the program is at work.
func (m *Machine) AwaitReady(limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := m.process.Ready()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready after %v: %w\n%s", m.Name, limit, err, m.Log.Last(40))
		}
	}
}

// Ready asks once.
func (m *Machine) Ready() error { return m.process.Ready() }

// Kill is kill -9; the program is not started again by itself.
func (m *Machine) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = false
	if m.process.Running() {
		m.Log.Note("kill -9 of %s", m.Name)
	}
	m.process.Kill()
}

// Stop asks the program to end, and kills it where it does not within the limit.
func (m *Machine) Stop(limit time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = false
	if !m.process.Running() {
		return nil
	}
	m.Log.Note("%s is told to stop", m.Name)
	if err := m.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := m.process.Wait(limit)
	if m.process.Running() {
		m.process.Kill()
	}
	return err
}

// Pause is SIGSTOP: the program stands still and notices nothing.
func (m *Machine) Pause() error { return m.pause(syscall.SIGSTOP, true) }

// Continue ends Pause.
func (m *Machine) Continue() error { return m.pause(syscall.SIGCONT, false) }

func (m *Machine) pause(s syscall.Signal, paused bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.process.Running() {
		return fmt.Errorf("%s does not run", m.Name)
	}
	m.Log.Note("%v to %s", s, m.Name)
	m.paused = paused
	return m.process.Signal(s)
}

// JumpClock sets the wall clock of the program off by d, from the true time; it lasts until the program ends.
func (m *Machine) JumpClock(d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.process.Running() || m.paused {
		return fmt.Errorf("%s does not run", m.Name)
	}
	if m.clock == nil {
		c, err := takeClock(m.process.Pid())
		if err != nil {
			return fmt.Errorf("clock of %s: %w", m.Name, err)
		}
		m.clock = c
	}
	if err := m.clock.jump(d); err != nil {
		return fmt.Errorf("clock of %s: %w", m.Name, err)
	}
	m.Log.Note("the clock of %s goes from %v off to %v off", m.Name, m.jumped, d)
	m.jumped = d
	return nil
}

// Running tells whether the program has not ended.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process.Running()
}

// Starts is how often the program was started.
func (m *Machine) Starts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts
}

// Ends are those that nobody asked for.
func (m *Machine) Ends() []End {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]End(nil), m.ends...)
}
