// Package script runs functions that are written in JavaScript.
//
// A script defines handle(row, state, ctx), which is called for one row after another. Rows and states travel as
// JSON; integers stay exact to 64 bits and beyond (as BigInt where a number of JavaScript could not hold them).
//
// JavaScript cannot be bounded from within its own process, so scripts run in workers: processes of the same
// binary, which a Pool starts when they are needed. A worker knows nothing but what comes in through its standard input: a
// script has no files, no network, no timers and no clock. The pool bounds what a row may take:
//
//   - time: the worker interrupts the script; if that does not help, the pool kills the worker;
//   - memory: the worker watches its own heap and ends itself, and the pool watches the worker;
//   - depth of calls, bytes of state and of output.
//
// All rows of a batch go to a worker in one request (kis.Many). If a worker dies, the rows that it has not answered go
// to a new one, which answers row by row; so the row that kills is found, and becomes a dead letter alone.
//
// The path of a batch: runner.go makes the request, pool.go hands it to a worker, worker.go reads it there, machine.go
// calls the script, runner.go reads the answers. wire.go holds the form of both.
package script
