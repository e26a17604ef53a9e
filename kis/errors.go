package kis

import (
	"errors"
	"fmt"
)

// Verdict is what an error asks for.
type Verdict uint8

const (
	// VerdictDeadLetter sets the row aside as a dead letter. It is what an error means that says nothing else.
	VerdictDeadLetter Verdict = iota
	// VerdictRetry tries the row again after the step's retry_duration, at most retry_times, then sets it
	// aside as a dead letter. Later rows of the same key wait behind it.
	VerdictRetry
	// VerdictStop stops the partition before the row. Nothing of the row's batch is committed.
	VerdictStop
	// VerdictDrop drops the row: declared, counted, and without a trace otherwise.
	VerdictDrop
)

type verdictError struct {
	verdict Verdict
	err     error
}

func (e *verdictError) Error() string { return e.err.Error() }
func (e *verdictError) Unwrap() error { return e.err }

// DeadLetter says that a row is to become a dead letter with err as its reason.
func DeadLetter(err error) error { return &verdictError{VerdictDeadLetter, orUnknown(err)} }

// Retry says that a passing fault kept a row from being handled, and that it is to be tried again.
func Retry(err error) error { return &verdictError{VerdictRetry, orUnknown(err)} }

// Stop says that going on would do harm: the partition stops before the row and says why.
func Stop(err error) error { return &verdictError{VerdictStop, orUnknown(err)} }

// Drop says that a row is unwanted by a declared rule; it is counted, and leaves no dead letter.
func Drop(err error) error { return &verdictError{VerdictDrop, orUnknown(err)} }

// VerdictOf says what an error asks for.
func VerdictOf(err error) Verdict {
	var v *verdictError
	if errors.As(err, &v) {
		return v.verdict
	}
	return VerdictDeadLetter
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("no reason given")
	}
	return err
}

// PanicError is what becomes of a handler's panic: the row's dead letter carries it.
type PanicError struct {
	Value any    // what the handler panicked with
	Stack string // of the handler's goroutine
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }
