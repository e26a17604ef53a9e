package api

import (
	"errors"
	"fmt"
	"net/http"
)

// What a caller branches on. The server maps each to a code and an HTTP status, the client maps them back.
var (
	ErrNotFound    = errors.New("not found")
	ErrNoState     = errors.New("the key has no state")
	ErrConflict    = errors.New("conflict: what was there has changed")
	ErrInvalid     = errors.New("invalid")
	ErrTooLarge    = errors.New("too large")
	ErrForbidden   = errors.New("forbidden")
	ErrUnavailable = errors.New("unavailable for now")
	ErrInternal    = errors.New("internal error")
	// ErrUnreachable is the client's own: no server answered.
	ErrUnreachable = errors.New("no server answers")
)

// codes is how sentinels travel. A code, once released, keeps its meaning.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{ErrNotFound, "not_found", http.StatusNotFound},
	{ErrNoState, "no_state", http.StatusNotFound},
	{ErrConflict, "conflict", http.StatusConflict},
	{ErrInvalid, "invalid", http.StatusBadRequest},
	{ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
	{ErrInternal, "internal", http.StatusInternalServerError},
}

// Error is an error of the API: errors.Is finds its sentinel.
type Error struct {
	Sentinel error
	Message  string
	Mistakes []Mistake // of ErrInvalid definitions
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Sentinel }

// Errorf makes an error that travels as sentinel. The message stands alone: it says which thing was not
// found, and what there is.
func Errorf(sentinel error, format string, args ...any) error {
	return &Error{Sentinel: sentinel, Message: fmt.Sprintf(format, args...)}
}

// Invalid is ErrInvalid with the mistakes of the definitions.
func Invalid(mistakes []Mistake) error {
	n := 0
	for _, m := range mistakes {
		if m.Severity != SeverityWarning {
			n++
		}
	}
	message := fmt.Sprintf("the definitions have %d mistakes", n)
	if n == 1 {
		message = "the definitions have 1 mistake"
	}
	return &Error{Sentinel: ErrInvalid, Message: message, Mistakes: mistakes}
}
