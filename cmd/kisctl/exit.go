package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/kisflow/kisflow/api"
)

// The exit codes.
const (
	exitOK          = 0
	exitError       = 1 // what was asked for was not done, or not all of it
	exitUsage       = 2 // the command line is wrong; nothing was done
	exitUnreachable = 3 // no server answers
	exitNoState     = 4 // state get: the key has no state
)

// exitCodes is the table for people; the reference shows it.
var exitCodes = []struct {
	code int
	doc  string
}{
	{exitOK, "all that was asked for was done"},
	{exitError, "it was not done, or not all of it; standard error says why in one line"},
	{exitUsage, "the command line is wrong; nothing was done"},
	{exitUnreachable, "no server answers at the address of --server, or no NATS at that of --nats"},
	{exitNoState, "`state get`: the key has no state"},
}

// usageError is a fault of the command line.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitCode is the exit code for the error that a command ended with.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	switch {
	case errors.Is(err, api.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, api.ErrNoState):
		return exitNoState
	}
	return exitError
}

// printError prints an error in one line.
func printError(w io.Writer, err error) {
	message := strings.ReplaceAll(err.Error(), context.Canceled.Error(), "interrupted")
	fields := strings.FieldsFunc(message, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range fields {
		fields[i] = strings.TrimSpace(strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, fields[i]))
	}
	fmt.Fprintf(w, "kisctl: %s\n", strings.Join(fields, "; "))
}
