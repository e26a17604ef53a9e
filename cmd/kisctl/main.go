// Command kisctl looks at and steers a KisFlow node: it checks and applies definitions, shows flows, states
// and dead letters, publishes events and follows subjects.
//
// It talks to the node's API; publish and tail talk to NATS itself where they can. What it is asked for goes
// to standard output, as a table or, with -o json, in a stable form; questions, progress and errors go to
// standard error, an error in one line. The exit code says how it ended (exit.go).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	a := &app{in: in, out: out, errs: errs}
	cmd := newRoot(a)
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errs)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		printError(errs, err)
	}
	return exitCode(err)
}
