//go:build !linux

package main

import "time"

// Where the processor time of a thread is not known, there are no figures of the bare program.
func processTime() time.Duration { return 0 }

func threadTime() time.Duration { return 0 }
