package actors

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// unknown is a watermark before any is known, endOfTime the one after which nothing comes any more.
const (
	unknown   = math.MinInt64
	endOfTime = math.MaxInt64
)

// latest is the last time that a watermark in nanoseconds can name: in the year 2262.
var latest = time.Unix(0, math.MaxInt64).UTC()

// of is a row's event time. stored is when its message was.
func (t *EventTime) of(row *kis.Row, stored time.Time) (time.Time, error) {
	if t.Field == "" {
		return stored, nil
	}
	v, ok := row.Get(t.Field)
	if !ok {
		v, ok = nested(row, t.Field)
	}
	if !ok || v.Kind() == kis.Null {
		return time.Time{}, fmt.Errorf("the time field %s is missing", t.Field)
	}
	at, err := t.read(v)
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("the time field %s: %w", t.Field, err)
	case at.Before(t.Since):
		return time.Time{}, fmt.Errorf("the time field %s says %s, before %s (time.since)%s", t.Field, say(at), say(t.Since), t.guess(v, stored))
	case at.After(stored.Add(t.Ahead)) || at.After(latest):
		return time.Time{}, fmt.Errorf("the time field %s says %s, more than %s (time.ahead) after the event came at %s%s", t.Field, say(at), t.Ahead, say(stored), t.guess(v, stored))
	}
	return at, nil
}

func (t *EventTime) read(v kis.Value) (time.Time, error) {
	switch v.Kind() {
	case kis.String:
		at, err := time.Parse(time.RFC3339Nano, v.Text())
		if err != nil {
			return at, fmt.Errorf("%.60q is no time; a text is to be like 2006-01-02T15:04:05Z", v.Text())
		}
		return at.UTC(), nil
	case kis.Int:
		return scaled(v.Int(), t.Unit), nil
	case kis.Float, kis.Number:
		f, err := strconv.ParseFloat(v.Text(), 64)
		if v.Kind() == kis.Float {
			f, err = v.Float(), nil
		}
		if err != nil || math.IsNaN(f) || math.Abs(f) >= 1<<62 {
			return time.Time{}, fmt.Errorf("%.60s is no time in %s", v.Text(), unitName(t.Unit))
		}
		whole := math.Floor(f)
		return scaled(int64(whole), t.Unit).Add(time.Duration((f - whole) * float64(t.Unit))), nil
	}
	return time.Time{}, fmt.Errorf("it is %s; it must be a number in %s, or a text like 2006-01-02T15:04:05Z", v.Kind(), unitName(t.Unit))
}

// scaled is the time that is so many units after 1970; no number overflows.
func scaled(n int64, unit time.Duration) time.Time {
	each := int64(time.Second / unit) // units of a second
	sec := n / each
	rest := n % each
	const most = 1 << 40 // seconds, 34,000 years: beyond it a time.Time is of no use to us
	return time.Unix(min(max(sec, -most), most), rest*int64(unit)).UTC()
}

// guess adds what the number might be, if another unit makes a likely time of it.
func (t *EventTime) guess(v kis.Value, stored time.Time) string {
	if v.Kind() != kis.Int {
		return ""
	}
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond, time.Nanosecond} {
		if at := scaled(v.Int(), unit); unit != t.Unit && at.After(t.Since) && at.Before(stored.Add(t.Ahead)) {
			return fmt.Sprintf("; as %s it would be %s (time.unit: %s)", unitName(unit), say(at), unitKey(unit))
		}
	}
	return ""
}

func say(t time.Time) string { return t.Format("2006-01-02T15:04:05.999Z07:00") }

func unitName(u time.Duration) string {
	switch u {
	case time.Second:
		return "seconds"
	case time.Microsecond:
		return "microseconds"
	case time.Nanosecond:
		return "nanoseconds"
	}
	return "milliseconds"
}

func unitKey(u time.Duration) string {
	switch u {
	case time.Second:
		return "s"
	case time.Microsecond:
		return "us"
	case time.Nanosecond:
		return "ns"
	}
	return "ms"
}

// nested finds a field by the names on the way to it, with dots between them.
func nested(row *kis.Row, path string) (kis.Value, bool) {
	name, rest, more := strings.Cut(path, ".")
	v, ok := row.Get(name)
	if !ok || !more {
		return v, ok
	}
	if v.Kind() != kis.Object {
		return kis.Value{}, false
	}
	inner, err := kis.ParseRow([]byte(v.Text()))
	if err != nil {
		return kis.Value{}, false
	}
	if v, ok = inner.Get(rest); ok {
		return v, true
	}
	return nested(inner, rest)
}

// nanos and moment turn a time into a watermark's number and back; what lies outside becomes the nearest one.
func nanos(t time.Time) int64 {
	switch sec := t.Unix(); {
	case sec > math.MaxInt64/int64(time.Second)-1:
		return endOfTime - 1
	case sec < math.MinInt64/int64(time.Second)+1:
		return unknown + 1
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == unknown {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// behind is a watermark: so far behind the newest event time.
func behind(high int64, lateness time.Duration) int64 {
	if high == unknown || high == endOfTime || high < unknown+int64(lateness) {
		return high
	}
	return high - int64(lateness)
}
