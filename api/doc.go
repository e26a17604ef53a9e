// Package api is how people and programs talk to a node: Backend is what a node answers, Server offers it as
// JSON over HTTP under /api/v1, and Client, which kisctl and tests use, is a Backend again.
//
// A request's path: the checks of host and origin, the route's permission, the bounds on its body, decoding,
// one call of the Backend with the request's context, encoding. All routes stand in one table (routes.go),
// each with its permission; there is no other way in.
//
// The package keeps nothing: after a crash there is nothing to repair. What a request changed is durable
// when its answer comes; without an answer the caller looks, or sends it again where that is harmless.
package api
