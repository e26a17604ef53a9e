// Package nexmark runs queries of the Nexmark benchmark as flows: people, auctions and bids come in as one
// stream, and flows/qN.yaml answers query N. Generate makes the stream, Queries computes each answer a
// second time from a list of events in memory, and the test compares both row by row.
//
// What is ours: an event is made from its number and the seed alone, so that any part of the stream can be
// made by itself and again; the first number of people is added to a bidder once. A query over a stream
// without end gives a running answer: a row for every bid that it counts.
package nexmark
