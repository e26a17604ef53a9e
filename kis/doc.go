// Package kis is what authors of functions write against: rows, keys, handlers and the errors by which a
// handler says what is to become of a row. It knows no engine; the engine (package actors) runs what is
// declared here, package kistest runs it in tests, and the YAML functions of package functions are
// implementations of the same Function interface.
//
// A row's path through a step: the engine finds the step's key in the row, activates the key's function
// instance if it is not in memory (Runner.Activate with the committed bytes, or nil), and hands over the
// row, or with Traits.Batch all rows of the key that the batch holds, by one Runner.Handle. What the
// runner emits goes on to the next step. Nothing leaves the partition before the commit; if Handle
// returns an error, the rows that it was given have no effect but the one that the error asks for.
//
// A function in Go is a handler made a Function by Keyed, Stateless or Batch. Event says what a handler is given,
// Output what it can say, and Keyed what its state may be.
//
// A Row is one JSON object, read strictly (Parser says how) and written as it came unless somebody changed it.
// Integers are exact to 64 bits and never become floats; a number that fits neither is kept as text. A row, and every
// string out of it, is a piece of the message that it came in, and keeps all of that in memory: what outlives the
// call takes a copy (handlers of structs get copies). A row made by a Builder or an Output shares memory with the rows
// made around it in the same way.
//
// A Key's canonical bytes name a state on disk, and its slot places it. Both are for ever: the golden table in
// key_test.go holds them.
package kis
