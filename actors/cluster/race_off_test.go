//go:build !race

package cluster

// raceEnabled says that the race detector slows everything down.
const raceEnabled = false
