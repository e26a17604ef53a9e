// Package functions answers for functions that are written without Go: the rules of a Verify, the state, the aggregates, the
// windows and the emitted fields of a Calculate, the two sides of its join, the table of a Load, the subject of an Expand.
//
// What a key remembers is JSON, and small: of a window what its aggregates have gathered (window.go, aggregate.go, sketch.go),
// of a join the fields of rows that a partner may still come for (join.go), of a table its row (table.go). What is to happen later
// is a timer of the key, so nothing but the state and the timers need survive a crash, and a result is the same whatever
// the batches were.
//
// New takes what a definition says (Spec), reads every expression once with expr-lang's parser, checks it, and
// makes Go closures of it that compute on kis.Value, so that no row is decoded into maps and no number is
// boxed. All mistakes come back at once, each with its place in the definition. What is left to find out with
// a row in hand, a missing field or a type mistake, is that row's dead letter, and changes no state.
//
// Expressions are pure: what they see is the row, the key, the key's state, the event's meta and the step's
// parameters, never a clock, a random source or the outside. They have no loops but those of the array
// functions, and a budget bounds what one expression may read and build. Their language is described in
// docs/reference/expressions.md; Builtins lists the functions that it knows.
package functions
