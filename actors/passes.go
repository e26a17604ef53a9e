package actors

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// maxCircle is how many flows with a bound of their own one circle may go through.
const maxCircle = 64

// passed counts that an event leaves the flow, where it may come in again: the event takes along how often it has
// passed such flows. The count of an event that a timer has caused begins anew.
func (p *Partition) passed(meta *kis.Meta) (string, error) {
	if p.flow.Passes == 0 {
		return meta.Passes, nil
	}
	own := Token(p.flow.Name)
	var others []string
	n := 0
	for _, f := range strings.Fields(meta.Passes) {
		name, count, _ := cutLast(f, '=') // a token may hold the sign, too
		if name != own {
			others = append(others, f)
			continue
		}
		var err error
		if n, err = strconv.Atoi(count); err != nil || n < 0 {
			return "", fmt.Errorf("the event says %q of how often it has passed flows, which is no count", meta.Passes)
		}
	}
	if n++; n > p.flow.Passes {
		return "", fmt.Errorf("the event has passed flow %s %d times, as often as it may (loop.most)", p.flow.Name, p.flow.Passes)
	}
	if len(others) >= maxCircle {
		return "", fmt.Errorf("the event has passed %d flows that count their events, more than a circle may have", maxCircle)
	}
	return strings.Join(append(others, own+"="+strconv.Itoa(n)), " "), nil
}
