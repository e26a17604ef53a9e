// Package remote runs functions in other programs, in any language: over NATS request and reply, or over HTTP. The
// protocol is docs/reference/remote-protocol.md.
//
// A key's state travels with the request and comes back in the answer, so the program keeps nothing, may be started and
// stopped at will, and may run many times. A request holds rows of many keys; a key's rows are in their order, and those that do
// not fit into one request go into the next one with the state that the answer brought.
//
// A request may be sent again, after a crash here or there: it then has the same id. What an answer says counts once, with
// the commit of its rows.
//
// Where nobody answers, nothing is lost: the partition waits and asks again, unless the program says that it is there
// (a request without rows) and only these rows get no answer; then they alone wait. An answer that is not
// understood is the fault of its rows: they are asked for one by one, and those that are not answered properly become
// dead letters which say what was wrong.
package remote
