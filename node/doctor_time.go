package node

import (
	"fmt"
	"time"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
)

// watermarks explains the watermark of each step of a running flow: that of its partition which is furthest behind.
func watermarks(f *actors.Flow, all []actors.WatermarkStatus) []api.Watermark {
	idle := f.Time.Idle
	if idle == 0 {
		idle = 30 * time.Second
	}
	out := []api.Watermark{}
	at := make(map[string]int)
	timers := make(map[string]int)
	for i := range all {
		w := &all[i]
		timers[w.Step] += w.Timers
		k, known := at[w.Step]
		if known && !all[k].Time.After(w.Time) {
			continue
		}
		at[w.Step] = i
	}
	for _, s := range f.Steps {
		i, ok := at[s.Name]
		if !ok {
			continue
		}
		w := all[i]
		o := api.Watermark{Step: w.Step, Time: timeOrNil(w.Time), Ended: w.Ended, Partition: w.Partition, Timers: timers[w.Step], Next: timeOrNil(w.Next),
			Sources: []api.WatermarkSource{}}
		if w.Ended {
			o.Time = nil
		}
		for _, s := range w.Sources {
			o.Sources = append(o.Sources, api.WatermarkSource{Name: s.Name, Time: timeOrNil(s.Time), Idle: s.Idle, Holds: s.Holds, Since: timeOrNil(s.Since)})
		}
		o.Says = sayWatermark(w, idle)
		out = append(out, o)
	}
	return out
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// sayWatermark says what holds a watermark, and what will happen.
func sayWatermark(w actors.WatermarkStatus, idle time.Duration) string {
	if w.Ended {
		return "the inputs have ended: nothing waits any more"
	}
	var holds *actors.WatermarkSource
	waiting := 0
	for i := range w.Sources {
		if s := &w.Sources[i]; s.Holds {
			holds = s
		}
		if !w.Sources[i].Idle {
			waiting++
		}
	}
	if holds == nil {
		return "all inputs are idle: it moves on with the next row"
	}
	what := fmt.Sprintf("%s holds it", holds.Name)
	if holds.Time.IsZero() {
		what = fmt.Sprintf("%s has brought no row with a time yet", holds.Name)
	}
	switch {
	case holds.Since.IsZero():
		what += ": it moves on when that does"
	case waiting > 1:
		what += fmt.Sprintf(", which brought a message last at %s; without another one it is waited for until %s",
			holds.Since.Format(time.TimeOnly), holds.Since.Add(idle).Format(time.TimeOnly))
	default:
		what += fmt.Sprintf(", which brought a message last at %s: it moves on with newer rows", holds.Since.Format(time.TimeOnly))
	}
	if !w.Next.IsZero() {
		what += "; what is due first waits for " + w.Next.UTC().Format("2006-01-02T15:04:05.999Z")
	}
	return what
}
