//go:build !race

package process

// race says that the test runs with the race detector; the binaries are then built with it too.
const race = false
