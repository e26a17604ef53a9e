//go:build !unix

package main

import "time"

// Processor time is not known.
func processTime() time.Duration { return 0 }

func threadTime() time.Duration { return 0 }
