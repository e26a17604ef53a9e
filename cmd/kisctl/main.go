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

	"github.com/kisflow/kisflow/node"
)

func main() {
	node.Worker()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	program, _ := os.Executable() // without it scripts run in this process
	code := (&app{in: os.Stdin, out: os.Stdout, errs: os.Stderr, program: program}).run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	return (&app{in: in, out: out, errs: errs}).run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	cmd := newRoot(a)
	cmd.SetArgs(args)
	cmd.SetIn(a.in)
	cmd.SetOut(a.out)
	cmd.SetErr(a.errs)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		printError(a.errs, err)
	}
	return exitCode(err)
}
