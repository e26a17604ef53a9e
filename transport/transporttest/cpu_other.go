//go:build !unix

package transporttest

import "time"

// processor is not known here.
func processor() time.Duration { return 0 }
