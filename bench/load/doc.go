// Package load is the work that all figures of bench are about: orders of 128 bytes of JSON, totals a user,
// one output an order. It makes the orders, publishes them, and checks what came out.
//
// The path: a Spec names a sequence of orders, the same for the same Spec; a Publisher puts them on a
// subject; Expect computes from the same Spec, without any engine, what must come out, and is then fed
// every output. An order that is lost, counted twice or counted out of its key's order shows there.
package load
