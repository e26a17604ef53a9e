package script

import (
	"context"
	"errors"
	"sync"

	"github.com/kisflow/kisflow/kis"
)

// InProcess runs scripts in this process, for tests: their time is bounded, their memory is not. Each row is
// handled by a script that was just loaded, so a script that keeps anything outside of its state is found out. Log receives
// what scripts write with ctx.log; it may be nil.
func InProcess(log func(step kis.Step, line string)) Host {
	return &inProcess{machine: machine{fresh: true}, lines: log}
}

type inProcess struct {
	mu      sync.Mutex
	machine machine
	lines   func(kis.Step, string)
}

func (h *inProcess) load(_ context.Context, p *program) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machine.load(p)
}

func (h *inProcess) run(_ context.Context, p *program, request []byte, results func([]byte) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.machine.load(p); err != nil {
		return err
	}
	return h.machine.run(request, func(frame []byte) error {
		_, payload, _, ok, err := cutFrame(frame)
		if err != nil || !ok {
			return errors.Join(errFrame, err)
		}
		return results(payload)
	})
}

func (h *inProcess) log(step kis.Step, line string) {
	if h.lines != nil {
		h.lines(step, line)
	}
}
