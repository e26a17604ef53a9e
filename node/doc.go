// Package node puts one KisFlow process together: NATS and Pebble, embedded or outside, the engine, the catalog
// of definitions, the API, metrics and health.
//
// The path of a definition: files (--flows, kisctl apply) are parsed and checked by flowdef, their expressions
// by functions; the catalog, a stream with one writer, keeps every definition and, for each flow, the
// definitions of the revision that it runs; plan.go turns those into the engine's Flow.
//
// After a crash: every flow starts again with the revision that the catalog names. Where the definitions have
// moved on since, the flow is switched once it runs, at an exact place like any other change.
package node
