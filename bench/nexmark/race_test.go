//go:build race

package nexmark

// raceDetector says that this test is built with the race detector, which makes the node some ten times slower.
const raceDetector = true
