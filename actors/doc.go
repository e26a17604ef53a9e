// Package actors is the engine. A flow's steps are grouped into stages by the fields of their keys; a stage's
// keys are shared out to partitions; every partition is one actor, run by one goroutine at a time, which
// alone touches its fields and its store. A function instance, the virtual actor (flow, step, key), is an
// object in its partition: activated from the store by its first row, passivated when idle, reached through
// the partition's mailbox.
//
// An event's path, and the order in which partition.go and apply.go read: a dealer reads an input for all
// partitions of a node and deals its rows out by key (fetch); a partition drops what its position already
// covers, applies the rows to its instances (apply), and writes one record to its log, fenced by the sequence
// of its own last record (commit). Then the changed states go to the store (install), and the outputs leave
// (settle). Rows for other partitions are outputs too: envelopes on a subject that only this pair uses.
//
// What holds after a crash: the log has the record or it has not. If it has, the next owner installs it
// into the store if need be, finds out which of its outputs are stored, and sends the others. If it has not,
// nothing happened, and the rows come again, because the position is in the record. Nothing is acknowledged
// to the broker.
//
// One writer: who takes a partition over writes an epoch record first. From then on the log refuses the
// former owner, and the fence messages that the new one writes to the output streams refuse its outputs.
//
// The files partition*.go, apply.go, timers.go, watermark.go, recover.go, settle.go and snapshot.go are the core: they start no
// goroutine and look at no clock but the port, so that a seeded simulation (sim_*_test.go) drives them, and
// crashes them between any two effects. A seed that fails is run again, told step by step, with
// go test ./actors -run 'TestSimulation$' -seed=N. running.go, cell.go and runtime.go put goroutines and
// protoactor around the core; dealer.go is between the two.
package actors
