//go:build !race

package actors

// raceEnabled says that the race detector slows everything down; here it does not.
const raceEnabled = false
