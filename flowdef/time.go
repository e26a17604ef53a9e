package flowdef

import (
	"fmt"
	"strings"
	"time"
)

// Time says where a flow's rows have their event time from.
type Time struct {
	Pos      Pos
	Field    Text          // dots between the names of nested fields; "": when the stream stored the message
	Unit     time.Duration // of a number in the field
	Lateness time.Duration // how far the watermark stays behind the newest event time
	Idle     time.Duration // for how long an input that brings nothing is waited for
	Ahead    time.Duration // how far an event time may be ahead of its message's
	Since    time.Time     // the earliest event time that is believed
}

// TTL says how long a key's state stays that is not changed.
type TTL struct {
	Pos     Pos
	After   time.Duration
	ByEvent bool // counted by the event times of the key's rows against the watermark; else by the times of commits
}

// defaultTime holds the defaults of a flow's time.
var defaultTime = Time{Unit: time.Millisecond, Idle: 30 * time.Second, Ahead: 24 * time.Hour, Since: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}

// maxLateness bounds time.lateness: everything that waits for a watermark waits for so long.
const maxLateness = 366 * 24 * time.Hour

func (o *object) time() *Time {
	n := o.get("time")
	if n == nil {
		return nil
	}
	t := defaultTime
	t.Pos = n.pos
	if n.kind == scalarNode { // just the field
		t.Field = o.name("time")
		return &t
	}
	c := o.child("time")
	t.Field = c.name("field")
	t.Unit = map[string]time.Duration{"s": time.Second, "ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}[c.word("unit", "ms", "s", "ms", "us", "ns")]
	t.Lateness = c.span("lateness", 0, maxLateness)
	t.Idle = c.span("idle", t.Idle, maxLateness)
	t.Ahead = c.span("ahead", t.Ahead, 100*maxLateness)
	if since := c.text("since"); since.Value != "" {
		at, err := parseTime(since.Value)
		if err != nil {
			o.d.report(since.Pos, codeValue, fmt.Sprintf("since is %s, which is no time", quote(since.Value)), "write it like 2020-01-01 or 2020-01-01T12:00:00Z")
		} else {
			t.Since = at
		}
	}
	for _, name := range []string{"unit", "ahead", "since"} {
		if c.get(name) != nil && c.get("field") == nil {
			o.d.report(c.vals[name].key.pos, codeScope, name+" is about a field, and time names none", "add field, or leave it out")
		}
	}
	return &t
}

// span is a duration with an upper limit.
func (o *object) span(name string, def, limit time.Duration) time.Duration {
	v := o.duration(name, def)
	if v > limit {
		o.d.report(o.get(name).pos, codeNumber, fmt.Sprintf("%s is more than %d days", name, int(limit.Hours()/24)), "")
		return def
	}
	return v
}

func (o *object) ttl() *TTL {
	n := o.get("ttl")
	if n == nil {
		return nil
	}
	t := &TTL{Pos: n.pos}
	if n.kind == scalarNode {
		t.After = o.duration("ttl", 0)
	} else {
		c := o.child("ttl")
		there := c.required("after", "how long the state stays that is not changed, like 30d")
		t.After = c.duration("after", 0)
		t.ByEvent = c.word("by", "processing", "processing", "event") == "event"
		if !there {
			return nil
		}
	}
	if t.After == 0 {
		o.d.report(n.pos, codeNumber, "a ttl of 0 keeps nothing", "write how long the state stays, like 30d, or leave ttl out")
		return nil
	}
	return t
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is no time", quote(s))
}

// Start is where the reading of a stream begins that was never read: at its beginning, at its end, or at a time.
type Start struct {
	Now bool
	At  time.Time     // messages that were stored before it are passed over
	Ago time.Duration // the same, counted back from when the reading begins
}

// ParseStart reads what stands at entry.from and load.from: beginning (or nothing), now, a time (2026-01-31 or
// 2026-01-31T12:00:00Z), or how long ago (-2h).
func ParseStart(s string) (Start, error) {
	switch s {
	case "", "beginning":
		return Start{}, nil
	case "now":
		return Start{Now: true}, nil
	}
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		d, err := parseDuration(rest)
		if err != nil {
			return Start{}, err
		}
		return Start{Ago: d}, nil
	}
	t, err := parseTime(s)
	return Start{At: t}, err
}

// from reads and checks a place to start at.
func (o *object) from() string {
	t := o.text("from")
	if t.Value == "" {
		return "beginning"
	}
	if _, err := ParseStart(t.Value); err != nil {
		hint := "beginning, now, a time like 2026-01-31T12:00:00Z, or how long ago, like -2h"
		if near := meantWord(t.Value, []string{"beginning", "now"}); near != "" {
			hint = "did you mean " + quote(near) + "? one of " + hint
		}
		o.d.report(t.Pos, codeValue, fmt.Sprintf("unknown from %s", quote(t.Value)), hint)
		return "beginning"
	}
	return t.Value
}
