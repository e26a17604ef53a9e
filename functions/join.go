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

// A join keeps the rows of both sides for as long as a row may come that they go with. A row that comes is put
// together with all rows that are kept of the other side, so each pair comes out once, with the later of its two
// rows, whatever the order. What is kept of a row is the fields that the expressions look at.

const joinTimer = "join"

// joinSide is one side of a join, compiled.
type joinSide struct {
	name  string
	when  *program // nil: the rows that are not of the other side
	last  bool     // only the newest row is kept
	outer bool     // a row without a partner comes out
	life  int64    // for how long behind its time a row is kept, in milliseconds; -1: for ever
	from  int64    // a row's partners: from its time less this
	to    int64    // to its time and this
	use   fieldUse
}

// joinPlan is a join of a definition, checked.
type joinPlan struct {
	sides   [2]joinSide // left, right
	bounded bool
	late    string
	subject subject
	on      *program
}

// joinRow is a row that is kept.
type joinRow struct {
	t      int64
	text   []byte
	row    *kis.Row // of text, once it was needed
	paired bool     // of outer sides
}

func (r *joinRow) parsed() *kis.Row {
	if r.row == nil {
		row, err := kis.ParseRow(r.text)
		if err != nil {
			panic("functions: checked JSON is none: " + err.Error())
		}
		r.row = row
	}
	return r.row
}

// joinState is what a key keeps.
type joinState struct {
	rows  [2][]joinRow // by time
	timer int64
	size  int // of all rows
}

const joinRowCost = 24 // bytes that a kept row takes beside its text

// join checks a definition's join.
func (b *builder) join(body *Join) func(*frame) (kis.Runner, error) {
	const path = "join"
	p := &joinPlan{bounded: body.Bounded, late: body.Late}
	if len(b.spec.Must) == 0 {
		b.wrong(path, "name the fields that both sides have in source: {must: [...]}", "a join puts rows of one key together, and the function has none")
	}
	names := []string{"before", "after"}
	if body.Before == body.After {
		names = []string{"within"}
	}
	for i, name := range names {
		d := body.Before
		if i > 0 {
			d = body.After
		}
		switch {
		case d < 0:
			b.wrong(path+".within", "as in 10s", "%s must not be negative", name)
		case d%time.Millisecond != 0:
			b.wrong(path+".within", "", "%s must be whole milliseconds", name)
		case d > MaxGap:
			b.wrong(path+".within", "leave within out to join rows whatever their times are", "%s is %s; the most is %s", name, inDays(d), inDays(MaxGap))
		}
	}
	before, after := body.Before.Milliseconds(), body.After.Milliseconds()
	p.sides[0] = joinSide{name: "left", life: after, from: before, to: after, last: body.Left.Keep == "last"}
	p.sides[1] = joinSide{name: "right", life: before, from: after, to: before, last: body.Right.Keep == "last"}
	if !body.Bounded {
		p.sides[0].life, p.sides[1].life = -1, -1
	}
	switch body.Type {
	case "", "inner":
	case "left", "right", "full":
		p.sides[0].outer = body.Type != "right"
		p.sides[1].outer = body.Type != "left"
		if !body.Bounded {
			b.wrong(path+".type", "say within, or make it an inner join", "without within it is never known that a row has no partner")
		}
	default:
		b.wrong(path+".type", "inner, left, right or full", "unknown word %q", body.Type)
	}
	rows := b.see()
	if body.Left.When == "" && body.Right.When == "" {
		b.wrong(path, `as in left: {when: 'row.kind == "order"'}`, "neither side says which rows are its own")
	}
	for i, side := range []JoinSide{body.Left, body.Right} {
		s := &p.sides[i]
		if side.When != "" {
			s.when = b.condition(path+"."+s.name+".when", side.When, rows.holding())
		}
		switch side.Keep {
		case "", "all", "last":
		default:
			b.wrong(path+"."+s.name+".keep", "all or last", "unknown word %q", side.Keep)
		}
		if s.last && s.outer {
			b.wrong(path+"."+s.name+".keep", "keep: all", "a %s join says which rows of the %s side have no partner, so it keeps all of them", body.Type, s.name)
		}
	}
	see := b.see()
	see.row, see.meta = false, false
	see.without["row"] = "cannot be used here: a pair has two rows, left and right"
	see.without["meta"] = "cannot be used here: a pair has two events"
	see = see.also(further{name: "left", at: 0, row: true, shape: b.side("left"), null: p.sides[1].outer},
		further{name: "right", at: 1, row: true, shape: b.side("right"), null: p.sides[0].outer})
	if body.On != "" {
		p.on = b.condition(path+".on", body.On, see)
	}
	if body.Emit == nil {
		b.wrong(path, "as in emit: {id: left.id, price: right.price}", "a join needs emit")
	}
	emits := b.emits(path+".emit", body.Emit, see)
	sources := []string{body.On}
	for _, e := range body.Emit {
		sources = append(sources, e.Expr)
	}
	for i := range p.sides {
		for _, source := range sources {
			p.sides[i].use.note(source, p.sides[i].name)
		}
	}
	switch body.Late {
	case "", "dead_letter", "drop":
	case "subject":
		p.subject = b.subject(path+".late.subject", body.LateSubject)
	default:
		b.wrong(path+".late", "dead_letter, drop or {subject: ...}", "unknown word %q", body.Late)
	}
	if body.Late != "" && !body.Bounded {
		b.wrong(path+".late", "", "without within no row is late")
	}
	return func(f *frame) (kis.Runner, error) { return &joiner{frame: f, plan: p, emits: emits}, nil }
}

// joiner runs a join.
type joiner struct {
	frame *frame
	plan  *joinPlan
	emits []emit
	build kis.Builder
	pairs []int // of the row in hand: places of its partners
}

// Activate reads what Encode wrote.
func (r *joiner) Activate(encoded []byte) (any, error) {
	s := &joinState{timer: noTime}
	if len(encoded) == 0 {
		return s, nil
	}
	row, err := kis.ParseRow(encoded)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if v, ok := row.Get("timer"); ok {
		s.timer = v.Int()
	}
	for i := range r.plan.sides {
		v, _ := row.Get(r.plan.sides[i].name)
		if v.Kind() != kis.Array {
			continue
		}
		for e := (elements{text: v.Text()}); ; {
			text, more := e.next()
			if !more {
				break
			}
			kept, err := decodeJoinRow(text)
			if err != nil {
				return nil, fmt.Errorf("read state: %w", err)
			}
			s.rows[i] = append(s.rows[i], kept)
			s.size += len(kept.text) + joinRowCost
		}
	}
	return s, nil
}

func decodeJoinRow(text string) (r joinRow, err error) {
	if text[0] != '[' {
		return r, errors.New("a row is no array")
	}
	e := elements{text: text}
	t, more := e.next()
	if !more {
		return r, errors.New("a row has no time")
	}
	row, more := e.next()
	if !more || row[0] != '{' {
		return r, errors.New("a row has no fields")
	}
	r.t, r.text = decoded(t).Int(), []byte(row)
	_, r.paired = e.next()
	return r, nil
}

// Encode writes {"left":[[time,row],...],"right":[...],"timer":...}; a row of an outer side that has a partner has a 1
// behind it.
func (r *joiner) Encode(dst []byte, state any) ([]byte, error) {
	s, ok := state.(*joinState)
	if !ok || s == nil || len(s.rows[0])+len(s.rows[1]) == 0 {
		return dst, nil
	}
	dst = append(dst, '{')
	for i := range s.rows {
		dst = append(append(append(dst, '"'), r.plan.sides[i].name...), `":[`...)
		for j := range s.rows[i] {
			kept := &s.rows[i][j]
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(append(dst, '['), kept.t, 10)
			dst = append(append(dst, ','), kept.text...)
			if kept.paired {
				dst = append(dst, ",1"...)
			}
			dst = append(dst, ']')
		}
		dst = append(dst, "],"...)
	}
	if s.timer == noTime {
		dst[len(dst)-1] = '}'
		return dst, nil
	}
	dst = append(dst, `"timer":`...)
	return append(strconv.AppendInt(dst, s.timer, 10), '}'), nil
}

// Handle puts a row together with those of the other side, and keeps it.
func (r *joiner) Handle(c *kis.Call) error {
	s, _ := c.State.(*joinState)
	if s == nil {
		return kis.Stop(errors.New("a join was called without the state of its key"))
	}
	f, p := r.frame, r.plan
	defer f.hide()
	if c.Timer != nil {
		f.showTimer(c)
		return r.due(c, s)
	}
	f.show(c)
	var is [2]bool
	for i := range p.sides {
		if p.sides[i].when == nil {
			continue
		}
		var err error
		if is[i], err = p.sides[i].when.truth(f); err != nil {
			return err
		}
	}
	for i := range p.sides {
		if p.sides[i].when == nil {
			is[i] = !is[1-i]
		}
	}
	if !is[0] && !is[1] {
		return kis.Drop(errors.New("the row is of neither side of the join"))
	}
	t := c.Metas[0].Time.UnixMilli()
	if t > furthestTime || t < -furthestTime {
		return fmt.Errorf("the row's time, %s, is out of range", c.Metas[0].Time.Format(time.RFC3339))
	}
	watermark := int64(noTime)
	if p.bounded && !c.Watermark.IsZero() {
		watermark = c.Watermark.UnixMilli()
		latest := int64(noTime)
		for i := range p.sides {
			if is[i] {
				latest = max(latest, p.sides[i].expiry(t))
			}
		}
		if latest <= watermark {
			return r.late(c, t, latest, watermark)
		}
	}
	return r.add(c, s, is, t, watermark)
}

// expiry is when a row of the side can have no partner any more.
func (s *joinSide) expiry(t int64) int64 { return t + s.life + 1 }

func (r *joiner) late(c *kis.Call, t, expiry, watermark int64) error {
	says := fmt.Errorf("the row of %s is late: its partners could come until %s, and the watermark is at %s", timeText(t), timeText(expiry), timeText(watermark))
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

// add does the work of Handle. Nothing is changed before all of it is known to succeed.
func (r *joiner) add(c *kis.Call, s *joinState, is [2]bool, t, watermark int64) error {
	p := r.plan
	r.pairs = r.pairs[:0]
	var counts [2]int // of r.pairs: how many are of the left row with right ones, and of the right one with left ones
	var place [2]int
	var kept [2]joinRow
	var texts, gone int
	for i := range p.sides {
		if !is[i] {
			continue
		}
		side, mine := &p.sides[i], s.rows[i]
		if side.last && len(mine) > 0 && t < mine[0].t {
			is[i] = false // an older row than the one that the table has
			continue
		}
		kept[i] = joinRow{t: t, text: []byte(side.use.of(c.Rows[0])), row: nil}
		texts += len(kept[i].text) + joinRowCost
		if side.last && len(mine) > 0 {
			gone += len(mine[0].text) + joinRowCost
		}
		place[i] = len(mine)
		for place[i] > 0 && mine[place[i]-1].t > t {
			place[i]--
		}
		others := s.rows[1-i]
		first := 0
		if p.bounded {
			first, _ = slices.BinarySearchFunc(others, t-side.from, func(o joinRow, t int64) int { return compareInts(o.t, t) })
		}
		for j := first; j < len(others) && (!p.bounded || others[j].t <= t+side.to); j++ {
			met, err := r.pair(c, i, c.Rows[0], others[j].parsed(), max(t, others[j].t))
			if err != nil {
				return err
			}
			if met {
				r.pairs = append(r.pairs, j)
				counts[i]++
			}
		}
	}
	both := false
	if is[0] && is[1] { // of both sides: it goes with itself, once
		var err error
		if both, err = r.pair(c, 0, c.Rows[0], c.Rows[0], t); err != nil {
			return err
		}
	}
	if texts > 0 && s.size+texts-gone-r.expired(s, watermark, false) > MaxState {
		return fmt.Errorf("the join would keep more than %d bytes of rows for this key; keep: last, a shorter within or fewer fields in emit make it less", MaxState)
	}
	for n, j := range r.pairs {
		i := 0
		if n >= counts[0] {
			i = 1
		}
		s.rows[1-i][j].paired = p.sides[1-i].outer
		kept[i].paired = p.sides[i].outer
	}
	for i := range p.sides {
		if !is[i] {
			continue
		}
		kept[i].paired = kept[i].paired || both && p.sides[i].outer
		if p.sides[i].last {
			s.rows[i] = append(s.rows[i][:0], kept[i])
		} else {
			s.rows[i] = slices.Insert(s.rows[i], place[i], kept[i])
		}
		if p.bounded && (s.timer == noTime || p.sides[i].outer && !kept[i].paired && p.sides[i].expiry(t) < s.timer) {
			r.arm(c, s, p.sides[i].expiry(t))
		}
	}
	s.size += texts - gone
	r.expired(s, watermark, true)
	return nil
}

// pair emits a pair if it meets the condition.
func (r *joiner) pair(c *kis.Call, side int, mine, other *kis.Row, t int64) (met bool, err error) {
	f := r.frame
	row := f.row
	f.row = nil
	defer func() { f.row = row }()
	f.rows[side], f.rows[1-side] = mine, other
	if r.plan.on != nil {
		if met, err = r.plan.on.truth(f); !met || err != nil {
			return false, err
		}
	}
	out, err := emitted(f, r.emits, &r.build)
	if err != nil {
		return false, err
	}
	c.EmitAt(time.UnixMilli(t).UTC(), out)
	return true, nil
}

// expired says how many bytes the rows take whose time is over and of which nothing has to come out any more, and
// drops them if it is to.
func (r *joiner) expired(s *joinState, watermark int64, drop bool) (bytes int) {
	if !r.plan.bounded {
		return 0
	}
	for i := range r.plan.sides {
		side, n := &r.plan.sides[i], 0
		for n < len(s.rows[i]) && side.expiry(s.rows[i][n].t) <= watermark && (!side.outer || s.rows[i][n].paired) {
			bytes += len(s.rows[i][n].text) + joinRowCost
			n++
		}
		if drop && n > 0 {
			s.rows[i] = slices.Delete(s.rows[i], 0, n)
		}
	}
	if drop {
		s.size -= bytes
	}
	return bytes
}

func (r *joiner) arm(c *kis.Call, s *joinState, at int64) {
	s.timer = at
	c.SetTimer(joinTimer, kis.EventTime, time.UnixMilli(at).UTC())
}

// due lets go of the rows whose time is over; those of outer sides without a partner come out.
func (r *joiner) due(c *kis.Call, s *joinState) error {
	name, at := c.Timer.Name, c.Timer.At.UnixMilli()
	switch {
	case strings.HasPrefix(name, failedTimer):
		return errors.New(name[len(failedTimer):])
	case name != joinTimer || !r.plan.bounded:
		return nil // of another revision
	}
	s.timer = noTime
	next, newest := int64(math.MaxInt64), int64(noTime)
	for i := range r.plan.sides {
		side := &r.plan.sides[i]
		left := s.rows[i][:0]
		for _, kept := range s.rows[i] {
			expiry := side.expiry(kept.t)
			if expiry <= at {
				if side.outer && !kept.paired {
					r.alone(c, i, &kept)
				}
				s.size -= len(kept.text) + joinRowCost
				continue
			}
			left = append(left, kept)
			if newest = max(newest, expiry); side.outer && !kept.paired {
				next = min(next, expiry)
			}
		}
		clear(s.rows[i][len(left):])
		s.rows[i] = left
	}
	if newest != noTime {
		r.arm(c, s, min(next, newest))
	}
	return nil
}

// alone emits a row without a partner.
func (r *joiner) alone(c *kis.Call, side int, kept *joinRow) {
	f := r.frame
	f.rows = [2]*kis.Row{}
	f.rows[side] = kept.parsed()
	out, err := emitted(f, r.emits, &r.build)
	f.rows = [2]*kis.Row{}
	if err != nil {
		says := fmt.Sprintf("the %s row of %s without a partner: %v", r.plan.sides[side].name, timeText(kept.t), err)
		if len(says) > maxFailed {
			says = strings.ToValidUTF8(says[:maxFailed], "")
		}
		c.SetTimer(failedTimer+says, kis.ProcessingTime, c.Now)
		return
	}
	c.EmitAt(time.UnixMilli(r.plan.sides[side].expiry(kept.t)-1).UTC(), out)
}
