//go:build race

package actors

// raceEnabled says that the race detector slows everything down.
const raceEnabled = true
