package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	crdb "github.com/cockroachdb/pebble/v2"

	"github.com/kisflow/kisflow/state"
)

// failure is the end of a database: the first fatal fault, for good. It is Pebble's logger, too, since
// Pebble tells of what it cannot survive by Fatalf.
type failure struct {
	log    *slog.Logger
	once   sync.Once
	reason atomic.Pointer[error]
	done   chan struct{}
}

func newFailure(log *slog.Logger) *failure {
	return &failure{log: log, done: make(chan struct{})}
}

func (f *failure) err() error {
	if p := f.reason.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *failure) set(err error) {
	f.once.Do(func() {
		err = fmt.Errorf("the database has failed: %w", classify(err))
		f.reason.Store(&err)
		close(f.done)
		f.log.Error("state: the database has failed", "error", err)
	})
}

// Infof is Pebble's routine: flushes, compactions, files.
func (f *failure) Infof(format string, args ...any) {
	if f.log.Enabled(context.Background(), slog.LevelDebug) {
		f.log.Debug("state: " + fmt.Sprintf(format, args...))
	}
}

// Errorf is Pebble's word on a fault that it goes on after.
func (f *failure) Errorf(format string, args ...any) {
	f.log.Warn("state: " + fmt.Sprintf(format, args...))
}

// Fatalf is Pebble's last word. Unlike Pebble's own logger this one returns: the database takes no more
// calls, and guardFS lets nothing more reach the disk.
func (f *failure) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if e, ok := a.(error); ok && crdb.IsCorruptionError(e) {
			err = fmt.Errorf("%w: %w", state.ErrCorrupt, err)
			break
		}
	}
	f.set(err)
}

// retryPause slows Pebble's own repeating of a flush or compaction that does not work, which has no pause.
const retryPause = 100 * time.Millisecond

// background is told of every flush or compaction that did not work. Pebble tries each again, for ever; a
// fault that another try does not mend is a failure.
func (f *failure) background(err error) {
	if errors.Is(err, crdb.ErrCancelledCompaction) || errors.Is(err, crdb.ErrClosed) {
		return
	}
	f.set(fmt.Errorf("in the background: %w", err))
	time.Sleep(retryPause)
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
