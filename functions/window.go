package functions

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Bounds of windows.
const (
	// MaxOverlap is in how many hopping windows a row may be.
	MaxOverlap = 1000
	// MaxWindows is how many windows (of hopping ones: pieces) a key may have open.
	MaxWindows = 10_000
	// MaxWindow is the longest tumbling or hopping window, MaxGap that of all other stretches of time.
	MaxWindow = 366 * 24 * time.Hour
	MaxGap    = 92 * 24 * time.Hour
	// MaxWindowRows is the most rows of a count window, MaxKeptRows that of one with every, which keeps their values.
	MaxWindowRows = 100_000
	MaxKeptRows   = 10_000
)

// A window's times are Unix milliseconds: it holds the rows whose time, without what is below a millisecond, is at
// its start or behind it, and before its end. It closes when the watermark reaches its end, and a session one
// millisecond later, because a row exactly at its end still belongs to it.
//
// A tumbling or hopping window is made of panes: the stretches between two places where a window starts or ends. A
// row is added to one pane, whatever the number of windows it is in; what the panes of a window have gathered is
// merged when the window closes. Where an aggregate cannot be merged, or takes rows back, the arguments of each row
// are kept, and gathered when the window closes.
//
// A key has one event timer, at the next time at which something is to be done, or earlier, never later. A result that
// cannot be computed sets a timer that is due at once, whose name says why: its call fails with that, so that the
// failure is a dead letter of its own and what else the call has done stays.

const (
	windowTimer  = "window"
	earlyTimer   = "early"
	failedTimer  = "failed: "
	maxFailed    = 300           // bytes of what a result that failed says
	noTime       = math.MinInt64 // a time that is not known
	furthestTime = 1 << 53       // of either side of 1970, in milliseconds
)

// windowPlan is a window of a definition, checked.
type windowPlan struct {
	kind       string
	size       int64 // in milliseconds; of a session the gap; of a count window rows
	every      int64 // of hopping windows milliseconds, of count windows rows; else as size
	offset     int64
	cut        int64 // size modulo every: where a window ends between two starts
	processing bool
	early      int64
	earlyRows  int64
	keep       int64
	late       string
	subject    subject
}

// window checks a definition's window.
func (b *builder) window(w *Window) *windowPlan {
	const path = "calculate.window"
	p := &windowPlan{kind: w.Kind, size: w.Size.Milliseconds(), every: w.Every.Milliseconds(), offset: w.Offset.Milliseconds(),
		processing: w.Processing, early: w.Early.Milliseconds(), earlyRows: w.EarlyRows, keep: w.Keep.Milliseconds(), late: w.Late}
	// stretch checks a time that must be there.
	stretch := func(name string, d, most time.Duration) bool {
		switch {
		case d <= 0:
			b.wrong(path+"."+name, "as in 10s", "%s must be above zero", name)
		case d%time.Millisecond != 0:
			b.wrong(path+"."+name, "", "%s must be whole milliseconds", name)
		case d > most:
			b.wrong(path+"."+name, "", "%s is %s; the most is %s", name, inDays(d), inDays(most))
		default:
			return true
		}
		return false
	}
	only := func(name string, there bool, kinds ...string) {
		if there && !slices.Contains(kinds, w.Kind) {
			b.wrong(path+"."+name, "", "%s has no meaning for a %s window; it is for %s windows", name, w.Kind, strings.Join(kinds, ", "))
		}
	}
	switch w.Kind {
	case "tumbling":
		stretch("tumbling", w.Size, MaxWindow)
		p.every = p.size
	case "hopping":
		if !stretch("hopping", w.Size, MaxWindow) || !stretch("every", w.Every, MaxWindow) {
			break
		}
		switch {
		case p.every > p.size:
			b.wrong(path+".every", "between the windows rows would be lost", "every is longer than the window")
		case (p.size+p.every-1)/p.every > MaxOverlap:
			b.wrong(path+".every", "", "a row would be in %d windows; the most is %d", (p.size+p.every-1)/p.every, MaxOverlap)
		default:
			p.cut = p.size % p.every
		}
	case "sliding":
		stretch("sliding", w.Size, MaxGap)
	case "session":
		stretch("session", w.Size, MaxGap)
	case "count":
		p.size, p.every = w.Count, w.EveryRows
		if p.every == 0 {
			p.every = p.size
		}
		switch {
		case p.size < 1 || p.size > MaxWindowRows:
			b.wrong(path+".count", "", "a window of %d rows; it has 1 to %d", p.size, MaxWindowRows)
		case p.every != p.size && p.size > MaxKeptRows:
			b.wrong(path+".count", "", "with every a window keeps the values of its rows, and has at most %d", MaxKeptRows)
		case p.every < 1 || p.every > p.size:
			b.wrong(path+".every", "", "every is %d rows; it is from 1 to the window's %d", p.every, p.size)
		}
	default:
		b.wrong(path, "one of tumbling, hopping, sliding, session, count", "the window does not say which kind it is")
		return p
	}
	only("every", w.Every != 0, "hopping")
	only("every", w.EveryRows != 0, "count")
	only("offset", w.Offset != 0, "tumbling", "hopping")
	only("early", w.Early != 0, "tumbling", "hopping", "session")
	only("early_rows", w.EarlyRows != 0, "tumbling", "hopping", "session")
	only("time", w.Processing, "tumbling", "hopping", "session", "sliding")
	only("keep", w.Keep != 0, "tumbling", "hopping", "session")
	if w.Early != 0 {
		stretch("early", w.Early, 24*time.Hour)
	}
	if w.EarlyRows < 0 {
		b.wrong(path+".early_rows", "", "early_rows must be above zero")
	}
	if p.every > 0 && (p.offset <= -p.every || p.offset >= p.every) {
		b.wrong(path+".offset", "", "offset is %s; it is less than the time between two windows, %s", w.Offset, time.Duration(p.every)*time.Millisecond)
	}
	switch {
	case w.Late != "" && w.Kind == "count":
		b.wrong(path+".late", "", "no row is late for a count window: it takes rows as they come")
	case w.Late != "" && w.Processing:
		b.wrong(path+".late", "", "no row is late by processing time")
	case w.Late == "update" && w.Kind == "sliding":
		b.wrong(path+".late", "dead_letter, drop or a subject", "a sliding window has no update: one late row would change many results")
	case w.Late == "update" && w.Keep == 0:
		b.wrong(path+".late", "as in keep: 1h", "update needs keep, the time after its end for which a window may still change")
	case w.Late != "update" && w.Keep != 0:
		b.wrong(path+".keep", "late: update", "keep is for windows that late rows update")
	case w.Late == "subject":
		p.subject = b.subject(path+".late.subject", w.LateSubject)
	case !slices.Contains([]string{"", "dead_letter", "drop", "update"}, w.Late):
		b.wrong(path+".late", "dead_letter, drop, update or {subject: ...}", "unknown word %q", w.Late)
	}
	if w.Keep != 0 {
		stretch("keep", w.Keep, MaxGap)
	}
	return p
}

// inDays writes a long time in days.
func inDays(d time.Duration) string {
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " days"
	}
	return d.String()
}

// floorTo is the greatest multiple of step that is not above t.
func floorTo(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return t - r
}

// pane is the pane of a row's time.
func (p *windowPlan) pane(t int64) (start, end int64) {
	start = floorTo(t-p.offset, p.every) + p.offset
	switch {
	case p.cut == 0:
		return start, start + p.every
	case t < start+p.cut:
		return start, start + p.cut
	}
	return start + p.cut, start + p.every
}

// lastEnd is the end of the last window that a pane is in.
func (p *windowPlan) lastEnd(pane int64) int64 {
	return floorTo(pane-p.offset, p.every) + p.offset + p.size
}

// endAfter is the first end after a time of a window that a pane is in; it may be beyond lastEnd, then there is none.
func (p *windowPlan) endAfter(pane, t int64) int64 {
	t = max(t, pane)
	return floorTo(t-p.offset-p.size, p.every) + p.offset + p.size + p.every
}

// closes is when the window that ends at a time closes.
func (p *windowPlan) closes(end int64) int64 {
	if p.kind == "session" {
		return end + 1
	}
	return end
}

// bucket is what has been gathered of a pane, a session, or of all rows of a sliding or count window.
type bucket struct {
	start, end int64
	news       int64 // rows since the last early result, or since the last result of a count window
	accs       []acc
	rows       []keptRow      // where each row is kept
	ids        map[string]int // of many rows: their places by id

	// Of a sliding window, and not part of the state: what the first rows have come to, so that the next result
	// need not begin anew; nil: nobody knows.
	run []acc
	ran int // how many rows these are
}

// keptRow is the arguments of a row.
type keptRow struct {
	t    int64
	id   string // JSON; "" where rows are not replaced
	args []kis.Value
}

const idsFrom = 16 // rows from which on a bucket has an index of ids

func (b *bucket) find(id string) int {
	if b.ids != nil {
		if i, ok := b.ids[id]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(b.rows, func(r keptRow) bool { return r.id == id })
}

// put adds a row, or puts it in the place of the older one with its id.
func (b *bucket) put(r keptRow) {
	if r.id != "" {
		if i := b.find(r.id); i >= 0 {
			if r.t >= b.rows[i].t {
				b.rows[i] = r
			}
			return
		}
		switch {
		case b.ids != nil:
			b.ids[r.id] = len(b.rows)
		case len(b.rows) >= idsFrom:
			b.ids = make(map[string]int, 2*len(b.rows))
			for i := range b.rows {
				b.ids[b.rows[i].id] = i
			}
			b.ids[r.id] = len(b.rows)
		}
	}
	b.rows = append(b.rows, r)
}

// windowState is what a key has open.
type windowState struct {
	buckets []*bucket // by start
	timer   int64     // when the event timer is due
	early   int64     // when the early timer is due
	size    int       // about what it takes, never too little
}

// windowed runs a calculation in windows.
type windowed struct {
	frame *frame
	plan  *windowPlan
	aggs  *aggregates
	id    *program // of rows that are replaced; nil: none are
	keeps bool     // each row's arguments are kept
	takes bool     // all aggregates may be able to take rows back exactly
	form  string   // tells states of this window from those of another one
	emits []emit
	when  *program
	reads []bool // the aggregates that emits look at
	build kis.Builder

	args    []kis.Value // of the row in hand
	scratch []acc
	out     []kis.Value // of the result in hand
	room    []byte
}

// domain is the time that the windows go by.
func (r *windowed) domain() kis.TimeDomain {
	if r.plan.processing {
		return kis.ProcessingTime
	}
	return kis.EventTime
}

// Activate reads what Encode wrote. What another window than this one has left open is dropped: its rows cannot be
// told apart any more.
func (r *windowed) Activate(encoded []byte) (any, error) {
	s := &windowState{timer: noTime, early: noTime, size: len(encoded)}
	if len(encoded) == 0 {
		return s, nil
	}
	row, err := kis.ParseRow(encoded)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if form, _ := row.Get("form"); form.Text() != r.form {
		return s, nil
	}
	if v, ok := row.Get("timer"); ok {
		s.timer = v.Int()
	}
	if v, ok := row.Get("early"); ok {
		s.early = v.Int()
	}
	list, _ := row.Get("windows")
	if list.Kind() != kis.Array {
		return s, nil
	}
	for e := (elements{text: list.Text()}); ; {
		text, more := e.next()
		if !more {
			return s, nil
		}
		b, err := r.decode(text)
		if err != nil { // an aggregate has become another one
			return &windowState{timer: noTime, early: noTime}, nil
		}
		s.buckets = append(s.buckets, b)
	}
}

func (r *windowed) decode(text string) (*bucket, error) {
	b := &bucket{}
	v := decoded(text)
	if v.Kind() != kis.Object {
		return nil, fmt.Errorf("a window is %s", describe(v))
	}
	var err error
	for m := (members{text: text}); ; {
		name, text, more := m.next()
		if !more {
			break
		}
		switch name {
		case `"start"`:
			b.start = decoded(text).Int()
		case `"end"`:
			b.end = decoded(text).Int()
		case `"new"`:
			b.news = decoded(text).Int()
		case `"values"`:
			if b.accs, err = r.aggs.decode(text); err != nil {
				return nil, err
			}
		case `"rows"`:
			if b.rows, err = decodeRows(text, r.id != nil, r.aggs.args); err != nil {
				return nil, err
			}
		}
	}
	if r.plan.kind == "tumbling" || r.plan.kind == "hopping" {
		_, b.end = r.plan.pane(b.start)
	}
	if b.accs == nil && !r.keeps {
		b.accs = make([]acc, len(r.aggs.list))
	}
	return b, nil
}

// Encode writes {"windows":[...],"timer":...}; nothing where nothing is open.
func (r *windowed) Encode(dst []byte, state any) ([]byte, error) {
	s, ok := state.(*windowState)
	if !ok || s == nil || len(s.buckets) == 0 {
		return dst, nil
	}
	return r.encode(dst, s), nil
}

func (r *windowed) encode(dst []byte, s *windowState) []byte {
	dst = append(dst, `{"windows":[`...)
	for i, b := range s.buckets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"start":`...)
		dst = strconv.AppendInt(dst, b.start, 10)
		if r.plan.kind == "session" || r.plan.kind == "count" {
			dst = append(dst, `,"end":`...)
			dst = strconv.AppendInt(dst, b.end, 10)
		}
		if b.news > 0 {
			dst = append(dst, `,"new":`...)
			dst = strconv.AppendInt(dst, b.news, 10)
		}
		if r.keeps {
			dst = encodeRows(append(dst, `,"rows":`...), b.rows)
		} else {
			dst = r.aggs.encode(append(dst, `,"values":{`...), b.accs)
			dst = append(dst, '}')
		}
		dst = append(dst, '}')
	}
	dst = append(append(append(dst, `],"form":"`...), r.form...), '"')
	if s.timer != noTime {
		dst = append(dst, `,"timer":`...)
		dst = strconv.AppendInt(dst, s.timer, 10)
	}
	if s.early != noTime {
		dst = append(dst, `,"early":`...)
		dst = strconv.AppendInt(dst, s.early, 10)
	}
	return append(dst, '}')
}

// encodeRows writes [[time, id, argument, ...], ...].
func encodeRows(dst []byte, rows []keptRow) []byte {
	dst = append(dst, '[')
	for i := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(append(dst, '['), rows[i].t, 10)
		if rows[i].id != "" {
			dst = append(append(dst, ','), rows[i].id...)
		}
		for _, v := range rows[i].args {
			dst = v.AppendJSON(append(dst, ','))
		}
		dst = append(dst, ']')
	}
	return append(dst, ']')
}

func decodeRows(text string, ids bool, args int) ([]keptRow, error) {
	if text[0] != '[' {
		return nil, errors.New("the rows are no array")
	}
	var rows []keptRow
	for e := (elements{text: text}); ; {
		t, more := e.next()
		if !more {
			return rows, nil
		}
		if t[0] != '[' {
			return nil, errors.New("a row is no array")
		}
		var r keptRow
		at := 0
		for in := (elements{text: t}); ; at++ {
			v, more := in.next()
			if !more {
				break
			}
			switch {
			case at == 0:
				r.t = decoded(v).Int()
			case at == 1 && ids:
				r.id = strings.Clone(v)
			default:
				r.args = append(r.args, owned(decoded(v)))
			}
		}
		if len(r.args) != args {
			return nil, fmt.Errorf("a row of %d values was kept, and the aggregates have %d", len(r.args), args)
		}
		rows = append(rows, r)
	}
}

// Handle adds a row, or does what a timer is for.
func (r *windowed) Handle(c *kis.Call) error {
	s, _ := c.State.(*windowState)
	if s == nil {
		return kis.Stop(errors.New("a window was called without the state of its key"))
	}
	f := r.frame
	defer r.done()
	if c.Timer != nil {
		f.showTimer(c)
		return r.due(c, s)
	}
	f.show(c)
	if r.when != nil {
		if applies, err := r.when.truth(f); err != nil {
			return err
		} else if !applies {
			c.Emit(c.Rows[0])
			return nil
		}
	}
	if err := r.aggs.arguments(f, r.args); err != nil {
		return err
	}
	id := ""
	if r.id != nil {
		v, err := r.id.run(f)
		if err != nil {
			return err
		}
		if !scalars.has(v.Kind()) {
			return fmt.Errorf("calculate.replace must be a text, a number, true or false, but it is %s", describe(v))
		}
		var room [64]byte
		id = string(identity(room[:0], v))
	}
	t, watermark := c.Metas[0].Time.UnixMilli(), int64(noTime)
	switch {
	case r.plan.processing:
		t = c.Now.UnixMilli()
	case !c.Watermark.IsZero():
		watermark = c.Watermark.UnixMilli()
	}
	if t > furthestTime || t < -furthestTime {
		return fmt.Errorf("the row's time, %s, is out of range", c.Metas[0].Time.Format(time.RFC3339))
	}
	switch r.plan.kind {
	case "session":
		return r.session(c, s, t, watermark, id)
	case "sliding":
		return r.slide(c, s, t, watermark)
	case "count":
		return r.count(c, s, t)
	}
	return r.tumble(c, s, t, watermark, id)
}

// done lets go of the row that was handled.
func (r *windowed) done() {
	r.frame.hide()
	clear(r.args)
	clear(r.scratch)
	clear(r.out)
}

// late does what the definition says of a row that comes after its windows are closed.
func (r *windowed) late(c *kis.Call, t, end, watermark int64) error {
	says := fmt.Errorf("the row of %s is late: its window closed at %s, and the watermark is at %s", timeText(t), timeText(end), timeText(watermark))
	switch r.plan.late {
	case "drop":
		return kis.Drop(says)
	case "subject":
		to, err := r.plan.subject.of(c.Rows[0])
		if err != nil {
			return err
		}
		c.Send(to, c.Rows[0])
		return nil
	}
	return says
}

func timeText(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z") }

// gather adds the row in hand to a bucket that may not be part of the state yet. On an error nothing has changed.
func (r *windowed) gather(s *windowState, b *bucket, t int64, id string) error {
	grows := 40
	for _, v := range r.args {
		grows += size(v)
	}
	if len(id) > 0 {
		grows += len(id) + 1
	}
	if s.size+grows > MaxState {
		r.room = r.encode(r.room[:0], s)
		if s.size = len(r.room); s.size+grows > MaxState {
			return fmt.Errorf("the windows of this key would take more than %d bytes", MaxState)
		}
	}
	if r.keeps {
		row := keptRow{t: t, id: id, args: make([]kis.Value, len(r.args))}
		for i, v := range r.args {
			row.args[i] = owned(v)
		}
		b.put(row)
	} else {
		for i := range r.aggs.list {
			next, err := r.aggs.list[i].next(r.frame, b.accs[i], r.args, t)
			if err != nil {
				return err
			}
			r.scratch[i] = next
		}
		for i := range r.aggs.list {
			b.accs[i] = r.scratch[i]
			r.aggs.list[i].commit(&b.accs[i], r.args, t)
		}
	}
	if r.plan.early > 0 || r.plan.earlyRows > 0 || r.plan.kind == "count" {
		b.news++
	}
	s.size += grows
	return nil
}

// fresh is an empty bucket.
func (r *windowed) fresh(start, end int64) *bucket {
	b := &bucket{start: start, end: end}
	if !r.keeps {
		b.accs = make([]acc, len(r.aggs.list))
	}
	return b
}

// place finds the bucket with a start, or where it would be; most rows belong to the last ones.
func (s *windowState) place(start int64) (i int, there bool) {
	i = len(s.buckets)
	for n := 0; i > 0 && s.buckets[i-1].start >= start; n++ {
		if n == 8 {
			return slices.BinarySearchFunc(s.buckets, start, func(b *bucket, t int64) int { return compareInts(b.start, t) })
		}
		i--
	}
	return i, i < len(s.buckets) && s.buckets[i].start == start
}

// insert adds a bucket.
func (s *windowState) insert(i int, b *bucket) error {
	if len(s.buckets) >= MaxWindows {
		return fmt.Errorf("this key has %d windows open, and there may be no more", len(s.buckets))
	}
	s.buckets = slices.Insert(s.buckets, i, b)
	return nil
}

// arm sets the event timer where it is not set for as early already.
func (r *windowed) arm(c *kis.Call, s *windowState, at int64) {
	if s.timer == noTime || at < s.timer {
		s.timer = at
		c.SetTimer(windowTimer, r.domain(), time.UnixMilli(at).UTC())
	}
}

// tumble adds a row to its pane.
func (r *windowed) tumble(c *kis.Call, s *windowState, t, watermark int64, id string) error {
	p := r.plan
	start, end := p.pane(t)
	last := p.lastEnd(start)
	if watermark != noTime && last+p.keep <= watermark {
		return r.late(c, t, last, watermark)
	}
	i, there := s.place(start)
	if !there && len(s.buckets) >= MaxWindows {
		return s.insert(i, nil)
	}
	var b *bucket
	if there {
		b = s.buckets[i]
	} else {
		b = r.fresh(start, end)
	}
	if err := r.gather(s, b, t, id); err != nil {
		return err
	}
	if !there {
		s.buckets = slices.Insert(s.buckets, i, b)
		r.arm(c, s, r.paneNext(b, watermark))
	}
	if p.keep > 0 && watermark != noTime { // windows that are closed already, and may still change
		for e := p.endAfter(start, watermark-p.keep); e <= min(watermark, last); e += p.every {
			r.emit(c, s, e-p.size, e, false)
		}
	}
	r.soon(c, s, b, watermark)
	return nil
}

// paneNext is when something is to be done next about a pane.
func (r *windowed) paneNext(b *bucket, after int64) int64 {
	p := r.plan
	last := p.lastEnd(b.start)
	if e := p.endAfter(b.start, after); e <= last {
		return e
	}
	return last + p.keep
}

// soon sees to early results after a row.
func (r *windowed) soon(c *kis.Call, s *windowState, b *bucket, watermark int64) {
	p := r.plan
	if p.earlyRows > 0 && b.news >= p.earlyRows {
		b.news = 0
		r.emitOpen(c, s, b, watermark)
	}
	if p.early > 0 && s.early == noTime {
		s.early = c.Now.UnixMilli() + p.early
		c.SetTimer(earlyTimer, kis.ProcessingTime, time.UnixMilli(s.early).UTC())
	}
}

// emitOpen emits early results of the open windows that a bucket is in.
func (r *windowed) emitOpen(c *kis.Call, s *windowState, b *bucket, watermark int64) {
	p := r.plan
	if p.kind == "session" {
		if p.closes(b.end) > watermark {
			r.emit(c, s, b.start, b.end, true)
		}
		return
	}
	for e, last := p.endAfter(b.start, watermark), p.lastEnd(b.start); e <= last; e += p.every {
		r.emit(c, s, e-p.size, e, true)
	}
}

// session adds a row to the session that it belongs to, which may make one of several.
func (r *windowed) session(c *kis.Call, s *windowState, t, watermark int64, id string) error {
	p := r.plan
	start, end := t, t+p.size
	// The sessions that the row touches are neighbours.
	from := len(s.buckets)
	for from > 0 && s.buckets[from-1].end >= start {
		from--
	}
	to := from
	for to < len(s.buckets) && s.buckets[to].start <= end {
		to++
	}
	touched := s.buckets[from:to]
	if len(touched) > 0 {
		start, end = min(start, touched[0].start), max(end, touched[len(touched)-1].end)
	}
	closes := p.closes(end)
	if watermark != noTime && closes+p.keep <= watermark {
		return r.late(c, t, end, watermark)
	}
	var b *bucket
	switch len(touched) {
	case 0:
		if len(s.buckets) >= MaxWindows {
			return s.insert(from, nil)
		}
		b = r.fresh(start, end)
	case 1:
		b = touched[0]
	default:
		b = r.fresh(start, end)
		for _, o := range touched {
			if err := r.merge(b, o); err != nil {
				return err
			}
			b.news += o.news
		}
	}
	if err := r.gather(s, b, t, id); err != nil {
		return err
	}
	b.start, b.end = start, end
	if len(touched) == 0 {
		s.buckets = slices.Insert(s.buckets, from, b)
	} else if len(touched) > 1 {
		s.buckets[from] = b
		s.buckets = slices.Delete(s.buckets, from+1, to)
	}
	if closes > watermark {
		r.arm(c, s, closes)
	} else {
		r.arm(c, s, closes+p.keep)
		r.emit(c, s, b.start, b.end, false)
	}
	r.soon(c, s, b, watermark)
	return nil
}

// merge adds to a bucket of ours what another one has gathered; that one stays as it is.
func (r *windowed) merge(into, from *bucket) error {
	if r.keeps {
		for _, row := range from.rows {
			into.put(row)
		}
		return nil
	}
	return r.aggs.merge(r.frame, into.accs, from.accs)
}

// merge adds what others have gathered.
func (as *aggregates) merge(f *frame, into, from []acc) error {
	for i := range as.list {
		a := &as.list[i]
		f.work = maxWork
		if !a.kind.merge(f, a.at, &into[i], &from[i]) {
			return a.failed(f)
		}
	}
	return nil
}

// slide adds a row to those of a sliding window. It is in the window that ends right behind it, and in those of
// the rows that follow within the window's length.
func (r *windowed) slide(c *kis.Call, s *windowState, t, watermark int64) error {
	if watermark != noTime && t+1 <= watermark {
		return r.late(c, t, t+1, watermark)
	}
	fresh := len(s.buckets) == 0
	var b *bucket
	if fresh {
		b = r.fresh(0, 0)
	} else {
		b = s.buckets[0]
	}
	if err := r.gather(s, b, t, ""); err != nil {
		return err
	}
	if fresh {
		s.buckets = append(s.buckets, b)
	}
	rows := b.rows
	for i := len(rows) - 1; i > 0 && rows[i-1].t > rows[i].t; i-- { // by time, and those of one time as they came
		rows[i-1], rows[i] = rows[i], rows[i-1]
	}
	r.arm(c, s, t+1)
	return nil
}

// count adds a row to a count window, and emits its result where it is full.
func (r *windowed) count(c *kis.Call, s *windowState, t int64) error {
	p := r.plan
	fresh := len(s.buckets) == 0
	var b *bucket
	if fresh {
		b = r.fresh(t, t+1)
	} else {
		b = s.buckets[0]
	}
	if err := r.gather(s, b, t, ""); err != nil {
		return err
	}
	b.start, b.end = min(b.start, t), max(b.end, t+1)
	if fresh {
		s.buckets = append(s.buckets, b)
	}
	if most := int(p.size); r.keeps && len(b.rows) > most+most/4+16 { // not at each row: what is behind moves
		b.rows = slices.Delete(b.rows, 0, len(b.rows)-most)
	}
	if b.news < p.every {
		return nil
	}
	b.news = 0
	start, end := b.start, b.end
	if r.keeps {
		rows := b.rows[max(0, len(b.rows)-int(p.size)):]
		start, end = rows[0].t, rows[0].t+1
		for i := range rows {
			start, end = min(start, rows[i].t), max(end, rows[i].t+1)
		}
	}
	r.emit(c, s, start, end, false)
	if !r.keeps {
		s.buckets, s.size = s.buckets[:0], 0
	}
	return nil
}

// due does what a timer is for.
func (r *windowed) due(c *kis.Call, s *windowState) error {
	name, at := c.Timer.Name, c.Timer.At.UnixMilli()
	switch {
	case strings.HasPrefix(name, failedTimer):
		return errors.New(name[len(failedTimer):])
	case name == earlyTimer:
		return r.earlyDue(c, s)
	case name != windowTimer:
		return nil // of another revision
	}
	p := r.plan
	s.timer = noTime
	next := int64(math.MaxInt64)
	switch p.kind {
	case "session":
		kept := s.buckets[:0:0]
		for _, b := range s.buckets {
			closes := p.closes(b.end)
			if closes == at {
				r.emit(c, s, b.start, b.end, false)
			}
			if closes+p.keep > at {
				kept = append(kept, b)
				if closes <= at {
					closes += p.keep
				}
				next = min(next, closes)
			}
		}
		s.buckets = kept
	case "sliding":
		next = r.slideDue(c, s, at)
	case "tumbling", "hopping":
		// A pane that ends with this window, or before it, or begins in it: there is a result.
		if slices.ContainsFunc(s.buckets, func(b *bucket) bool { return b.start >= at-p.size && b.end <= at && p.endAfter(b.start, at-1) == at }) {
			r.emit(c, s, at-p.size, at, false)
		}
		drop := 0
		for drop < len(s.buckets) && p.lastEnd(s.buckets[drop].start)+p.keep <= at {
			drop++
		}
		s.buckets = slices.Delete(s.buckets, 0, drop)
		for _, b := range s.buckets {
			next = min(next, r.paneNext(b, at))
			if b.start >= at { // those behind it have theirs later
				break
			}
		}
	default:
		return nil // a count window has no timer: it is of another revision
	}
	if len(s.buckets) == 0 {
		s.size = 0
		if s.early != noTime {
			s.early = noTime
			c.StopTimer(earlyTimer, kis.ProcessingTime)
		}
		return nil
	}
	if next != math.MaxInt64 {
		r.arm(c, s, next)
	}
	return nil
}

// slideDue emits the result of the sliding window that ends at a time, and drops the rows that no later one holds.
func (r *windowed) slideDue(c *kis.Call, s *windowState, at int64) (next int64) {
	next = math.MaxInt64
	if len(s.buckets) == 0 {
		return next
	}
	b, size := s.buckets[0], r.plan.size
	r.unslide(b, at-size) // those that no result from now on has
	ends := false
	for i := len(b.rows) - 1; i >= 0 && b.rows[i].t >= at-1; i-- {
		if ends = ends || b.rows[i].t == at-1; b.rows[i].t >= at {
			next = b.rows[i].t + 1
		}
	}
	if ends {
		r.emit(c, s, at-size, at, false)
	}
	if r.unslide(b, at-size+1); len(b.rows) == 0 {
		s.buckets = s.buckets[:0]
		return next
	}
	if next == math.MaxInt64 {
		next = b.rows[len(b.rows)-1].t + size // all are to go then, unless a row comes before
	}
	return next
}

// slid is what the rows of a sliding window have come to that ends at a time. All rows that are left are in it, but
// for those at its end and behind.
func (r *windowed) slid(b *bucket, end int64) ([]acc, error) {
	last := len(b.rows)
	for last > 0 && b.rows[last-1].t >= end {
		last--
	}
	if b.run == nil || !r.takes || b.ran > last {
		b.run, b.ran = r.accs(), 0
	}
	run := b.run
	b.run = nil // if it fails
	if err := r.fold(run, b.rows[b.ran:last]); err != nil {
		return nil, err
	}
	b.run, b.ran = run, last
	return run, nil
}

// unslide drops the rows before a time.
func (r *windowed) unslide(b *bucket, before int64) {
	n := 0
	for n < len(b.rows) && b.rows[n].t < before {
		if b.run != nil && n < b.ran {
			r.take(b, &b.rows[n])
		}
		n++
	}
	clear(b.rows[:n])
	b.rows = b.rows[n:] // nothing moves; what is appended finds new room now and then
	b.ran = max(0, b.ran-n)
}

// take takes a row back from what the rows have come to.
func (r *windowed) take(b *bucket, row *keptRow) {
	for i := range r.aggs.list {
		a := &r.aggs.list[i]
		if len(a.args) > 0 && row.args[a.first].Kind() == kis.Null {
			continue
		}
		var ok bool
		if t, is := a.kind.(taker); is {
			r.frame.work = maxWork
			b.run[i], ok = t.take(r.frame, a.at, b.run[i], row.args[a.first:a.first+len(a.args)], row.t)
		}
		if !ok {
			r.frame.err, b.run = nil, nil
			return
		}
	}
}

// earlyDue emits early results of the windows that have changed.
func (r *windowed) earlyDue(c *kis.Call, s *windowState) error {
	s.early = noTime
	watermark := int64(noTime)
	if !r.plan.processing && !c.Watermark.IsZero() {
		watermark = c.Watermark.UnixMilli()
	}
	emitted := int64(noTime) // the last window's end
	for _, b := range s.buckets {
		if b.news == 0 {
			continue
		}
		b.news = 0
		if r.plan.kind == "session" {
			r.emitOpen(c, s, b, watermark)
			continue
		}
		p := r.plan
		for e, last := p.endAfter(b.start, watermark), p.lastEnd(b.start); e <= last; e += p.every {
			if e > emitted {
				emitted = e
				r.emit(c, s, e-p.size, e, true)
			}
		}
	}
	return nil
}

// emit computes the result of a window and emits it. A result that cannot be computed becomes a dead letter of its
// own, by a timer that is due at once: what this call changes must not be lost with it.
func (r *windowed) emit(c *kis.Call, s *windowState, start, end int64, early bool) {
	row, err := r.result(s, start, end, early)
	if err != nil {
		if !early { // what is final says it
			says := fmt.Sprintf("the window from %s to %s: %v", timeText(start), timeText(end), err)
			if len(says) > maxFailed {
				says = strings.ToValidUTF8(says[:maxFailed], "")
			}
			c.SetTimer(failedTimer+says, kis.ProcessingTime, c.Now)
		}
		return
	}
	if r.plan.kind == "count" {
		c.Emit(row)
		return
	}
	c.EmitAt(time.UnixMilli(r.plan.closes(end)-1).UTC(), row)
}

// result is the row of a window.
func (r *windowed) result(s *windowState, start, end int64, early bool) (*kis.Row, error) {
	f, p := r.frame, r.plan
	row := f.row
	f.row = nil // an aggregate of its own that is computed again sees the kept rows
	defer func() { f.row = row }()
	span := end - start
	var accs []acc
	switch p.kind {
	case "count":
		span = 0
		if one := s.buckets[0]; r.keeps {
			accs = r.accs()
			if err := r.fold(accs, one.rows[max(0, len(one.rows)-int(p.size)):]); err != nil {
				return nil, err
			}
		} else {
			accs = one.accs
		}
	case "sliding":
		var err error
		if accs, err = r.slid(s.buckets[0], end); err != nil {
			return nil, err
		}
	default:
		first, _ := s.place(start)
		last := first
		for last < len(s.buckets) && s.buckets[last].start < end {
			last++
		}
		of := s.buckets[first:last]
		if len(of) == 1 && !r.keeps {
			accs = of[0].accs
			break
		}
		accs = r.accs()
		all := &bucket{accs: accs}
		for _, b := range of {
			if err := r.merge(all, b); err != nil {
				return nil, err
			}
		}
		if err := r.fold(accs, all.rows); err != nil {
			return nil, err
		}
	}
	if err := r.aggs.results(f, accs, span, r.reads, r.out); err != nil {
		return nil, err
	}
	f.state = r.out
	f.values = [3]kis.Value{kis.IntValue(start), kis.IntValue(end), kis.BoolValue(early)}
	return emitted(f, r.emits, &r.build)
}

// accs are empty ones for a result.
func (r *windowed) accs() []acc { return make([]acc, len(r.aggs.list)) }

// fold gathers kept rows.
func (r *windowed) fold(accs []acc, rows []keptRow) error {
	for i := range rows {
		for j := range r.aggs.list {
			a := &r.aggs.list[j]
			next, err := a.next(r.frame, accs[j], rows[i].args, rows[i].t)
			if err != nil {
				return err
			}
			accs[j] = next
			a.commit(&accs[j], rows[i].args, rows[i].t)
		}
	}
	return nil
}
