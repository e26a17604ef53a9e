//go:build !linux && !darwin && !freebsd

package nats

import "math"

// freeBytes is not known here: the gate stays open.
func freeBytes(string) (int64, error) { return math.MaxInt64, nil }
