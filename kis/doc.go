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
package kis
