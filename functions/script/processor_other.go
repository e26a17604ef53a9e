//go:build !unix

package script

import "time"

// processorTime is not known here: the clock alone counts.
func processorTime() time.Duration { return -1 }
