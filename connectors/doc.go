// Package connectors opens the places outside that definitions of kistype: conn describe, and keeps them open for the
// steps that use them.
//
// A definition is checked against the schema of its type (Check): that needs nothing but the definition. To use it,
// its secrets are taken from where they are kept (${ENV:NAME}, ${file:PATH}), and the type opens it. A Host does that
// when a place is asked for the first time, closes what nobody has used for a while, and opens it again when it is
// asked once more; by then a password may be another one. Steps that share a definition share its connector.
//
// No error that leaves this package holds a secret: what was put in its place is taken out of every message.
//
// A place that does not answer is left alone for a moment that grows with every failure, so that many partitions
// together do not press on a server that is coming up: until then each of them is told at once what the last one was
// told.
package connectors
