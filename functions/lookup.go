package functions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Lookup is the part of a Load that asks a place outside for each row.
type Lookup struct {
	Key string // an expression; "": the must fields, joined by colons
	// Fields are those of the key where what is asked has keys of several values with types, as what a flow has saved:
	// its look-ups are asked for canonical keys. Else nil, and a key is a text.
	Fields    []KeyField
	Cache     time.Duration // how long what was found is used again; 0: not at all
	CacheSize int           // keys
	Timeout   time.Duration // of one request
	Where     string        // what messages call the place: "connector users"
	From      kis.Lookup    // nil: it cannot be run, only checked
	Counts    *LookupCounts // nil: nobody counts
}

// KeyField is a field of a key that is asked for.
type KeyField struct {
	Name string
	Expr string // its value; "": the row's field of that name
	Path string // of the expression, for mistakes
}

// LookupCounts counts the rows of a look-up by what became of their keys.
type LookupCounts struct {
	Found, Missing atomic.Uint64 // the place was asked
	Cached         atomic.Uint64 // it was known, found or not
	Errors         atomic.Uint64 // the place, or the key, was at fault
}

// maxLookupKey is the most bytes of a key that is asked for.
const maxLookupKey = 4096

// What was not found is remembered for a missShare-th of what was found, and no longer than maxMiss.
const (
	missShare = 10
	maxMiss   = 30 * time.Second
)

// lookup checks a Load as a look-up.
func (b *builder) lookup(body *Load) func(*frame) (kis.Runner, error) {
	l := body.Lookup
	var key *program
	var fields []emit
	switch {
	case l.Fields != nil:
		fields = b.keyFields(l.Fields)
	case l.Key != "":
		key = b.compile("load.key", l.Key, b.see())
		if key != nil && key.kinds&(scalars|isNull) == 0 {
			b.wrong("load.key", "", "a key is a text, a number or a truth value, but it is %s", key.kinds)
		}
	case len(b.spec.Must) == 0:
		b.wrong("load", "say it with load: {key: row.user}, or name the key's fields in source: {must: [...]}", "the look-up has no key")
	}
	see := b.see().also(further{name: "found", at: 0, row: true, shape: b.side("found"), null: body.Missing == "" || body.Missing == "pass"})
	sets := b.emits("load.set", body.Set, see)
	for _, e := range body.Set {
		if slices.Contains(b.spec.Must, e.Name) {
			b.wrong("load.set."+e.Name, "", "%s is a field of the key", e.Name)
		}
	}
	var cache *lookupCache
	if l.Cache > 0 {
		cache = newLookupCache(l.CacheSize)
	}
	counts := l.Counts
	if counts == nil {
		counts = new(LookupCounts)
	}
	return func(f *frame) (kis.Runner, error) {
		if l.From == nil {
			return nil, fmt.Errorf("%s cannot be asked from here", l.Where)
		}
		return &looker{frame: f, spec: l, key: key, fields: fields, keyed: make([]kis.Value, len(fields)), must: namesOf(fields), sets: sets, missing: body.Missing, values: make([]kis.Value, len(sets)), cache: cache, counts: counts}, nil
	}
}

// keyFields compiles what the fields of a key are made of.
func (b *builder) keyFields(fields []KeyField) []emit {
	out := make([]emit, len(fields))
	for i, f := range fields {
		source := f.Expr
		if source == "" {
			source = "row[" + string(kis.StringValue(f.Name).AppendJSON(nil)) + "]"
		}
		out[i] = emit{f.Name, b.compile(f.Path, source, b.see())}
		if p := out[i].expr; p != nil && p.kinds&(scalars|isNull) == 0 {
			b.wrong(f.Path, "", "a key is a text, a number or a truth value, but %s is %s", f.Name, p.kinds)
		}
	}
	return out
}

func namesOf(fields []emit) []string {
	names := make([]string, len(fields))
	for i := range fields {
		names[i] = fields[i].name
	}
	return names
}

// looker runs a look-up: all rows of a batch at once, each key asked for once.
type looker struct {
	stateless
	frame   *frame
	spec    *Lookup
	key     *program // nil: the must fields, or fields
	fields  []emit   // of a canonical key; nil: a key is a text
	must    []string // their names
	keyed   []kis.Value
	sets    []emit // nil: all fields that the row lacks
	missing string
	build   kis.Builder
	values  []kis.Value
	cache   *lookupCache // shared by the partitions of the step; nil: none
	counts  *LookupCounts

	// of the batch in hand:
	place map[string]int // of a key in answers
	ask   []string       // keys that are not known
	asked []int          // their places
	found []kis.Found    // by place
	cells []cell
}

// cell is a row of the batch in hand: its call, its place there, and that of its key in found; -1: it has no key.
type cell struct {
	call, row, key int
	known          bool // its key was known
}

// Handle handles one call; a fault of its row is the call's.
func (r *looker) Handle(c *kis.Call) error {
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		return err
	}
	for _, err := range c.Refused {
		if err != nil {
			c.Emitted, c.Refused = c.Emitted[:0], nil
			return err
		}
	}
	return nil
}

// HandleMany handles the rows of a batch. Where the place does not answer it returns an error that asks for a retry
// of all.
func (r *looker) HandleMany(calls []*kis.Call) error {
	defer r.done()
	r.place = make(map[string]int)
	ctx, now := context.Background(), time.Time{}
	for i, c := range calls {
		now = c.Now
		if c.Context != nil {
			ctx = c.Context
		}
		if c.Timer != nil {
			continue // of another revision
		}
		for n := range c.Rows {
			r.enter(c, i, n)
		}
	}
	r.recall(now)
	if err := r.request(ctx, now); err != nil {
		for _, c := range calls { // nothing was handled: all of it comes again
			c.Emitted, c.Refused = c.Emitted[:0], nil
		}
		r.counts.Errors.Add(uint64(len(r.cells)))
		if ctx.Err() != nil {
			return kis.Stop(fmt.Errorf("%s: %w", r.spec.Where, context.Cause(ctx)))
		}
		return kis.Retry(fmt.Errorf("%s: %w", r.spec.Where, err))
	}
	waits := make(map[int]error) // of a call: why its further rows wait
	for _, cell := range r.cells {
		c := calls[cell.call]
		err := waits[cell.call]
		if err == nil {
			err = r.finish(c, cell)
		}
		if err == nil {
			continue
		}
		c.Refuse(cell.row, err)
		if kis.VerdictOf(err) == kis.VerdictRetry {
			waits[cell.call] = err
		}
	}
	return nil
}

// done lets go of the batch.
func (r *looker) done() {
	r.frame.hide()
	r.place = nil
	clear(r.ask)
	clear(r.found)
	clear(r.values)
	r.ask, r.asked, r.found, r.cells = r.ask[:0], r.asked[:0], r.found[:0], r.cells[:0]
}

// enter notes a row and its key.
func (r *looker) enter(c *kis.Call, call, row int) {
	key, err := r.keyOf(c, row)
	switch {
	case err != nil:
		c.Refuse(row, err)
		return
	case key == "":
		r.cells = append(r.cells, cell{call, row, -1, false})
		return
	}
	place, there := r.place[key]
	if !there {
		place = len(r.found)
		r.place[key] = place
		r.found = append(r.found, kis.Found{})
		r.ask, r.asked = append(r.ask, key), append(r.asked, place)
	}
	r.cells = append(r.cells, cell{call, row, place, there})
}

// keyOf is the key of a row, "" where it has none.
func (r *looker) keyOf(c *kis.Call, row int) (string, error) {
	if r.fields != nil {
		return r.canonical(c, row)
	}
	text := ""
	if r.key == nil {
		for i, f := range c.Key.Fields() {
			if i > 0 {
				text += ":"
			}
			text += f.Value.Text()
		}
	} else {
		r.frame.showRow(c, row)
		v, err := r.key.run(r.frame)
		if err != nil {
			return "", err
		}
		switch v.Kind() {
		case kis.Null:
			return "", nil
		case kis.Array, kis.Object, kis.Number:
			return "", fmt.Errorf("load.key is %s; it must be a text, a number or a truth value", v.Kind())
		}
		text = v.Text()
	}
	if len(text) > maxLookupKey {
		return "", fmt.Errorf("the key to look up has %d bytes; the most is %d", len(text), maxLookupKey)
	}
	return strings.Clone(text), nil // the cache must not keep the row's message
}

// canonical is the canonical key of a row, "" where a part of it is null.
func (r *looker) canonical(c *kis.Call, row int) (string, error) {
	r.frame.showRow(c, row)
	defer clear(r.keyed)
	for i := range r.fields {
		v, err := r.fields[i].expr.run(r.frame)
		if err != nil {
			return "", err
		}
		if v.Kind() == kis.Null {
			return "", nil
		}
		r.keyed[i] = v
	}
	key, err := kis.KeyFromValues(r.must, r.keyed)
	if err != nil {
		return "", fmt.Errorf("load.key: %w", err)
	}
	return key.Canonical(), nil
}

// recall takes what is known from the cache, and leaves the rest to ask.
func (r *looker) recall(now time.Time) {
	if r.cache == nil || len(r.ask) == 0 {
		return
	}
	known := make([]bool, len(r.found))
	rest := 0
	r.cache.mu.Lock()
	for i, key := range r.ask {
		if row, ok := r.cache.get(key, now); ok {
			r.found[r.asked[i]].Row, known[r.asked[i]] = row, true
			continue
		}
		r.ask[rest], r.asked[rest] = key, r.asked[i]
		rest++
	}
	r.cache.mu.Unlock()
	r.ask, r.asked = r.ask[:rest], r.asked[:rest]
	for i := range r.cells {
		if k := r.cells[i].key; k >= 0 && known[k] {
			r.cells[i].known = true
		}
	}
}

// request asks for the keys that are not known, as many at a time as the place takes. What was answered stays known
// when a later request fails.
func (r *looker) request(ctx context.Context, now time.Time) error {
	most := max(1, r.spec.From.Most())
	for from := 0; from < len(r.ask); from += most {
		to := min(from+most, len(r.ask))
		found := make([]kis.Found, to-from)
		if err := r.find(ctx, r.ask[from:to], found); err != nil {
			return err
		}
		for i := range found {
			r.found[r.asked[from+i]] = found[i]
		}
		if r.cache == nil {
			continue
		}
		r.cache.mu.Lock()
		for i, f := range found {
			if f.Err == nil {
				r.cache.put(r.ask[from+i], f.Row, now, r.spec.Cache)
			}
		}
		r.cache.mu.Unlock()
	}
	return nil
}

// find sends one request.
func (r *looker) find(ctx context.Context, keys []string, found []kis.Found) error {
	within, cancel := context.WithTimeout(ctx, r.spec.Timeout)
	defer cancel()
	err := r.spec.From.Find(within, keys, found)
	if err != nil && ctx.Err() == nil && within.Err() != nil {
		return fmt.Errorf("no answer within %s: %w", r.spec.Timeout, context.DeadlineExceeded)
	}
	return err
}

// finish lets a row go on with what was found.
func (r *looker) finish(c *kis.Call, at cell) error {
	var row *kis.Row
	if at.key >= 0 {
		f := r.found[at.key]
		switch {
		case f.Err != nil:
			r.counts.Errors.Add(1)
			return fmt.Errorf("%s: %w", r.spec.Where, f.Err)
		case at.known:
			r.counts.Cached.Add(1)
		case f.Row != nil:
			r.counts.Found.Add(1)
		}
		row = f.Row
	}
	if row == nil && !at.known {
		r.counts.Missing.Add(1)
	}
	in := c.Rows[at.row]
	if row == nil {
		switch r.missing {
		case "drop":
			return kis.Drop(errors.New(r.spec.Where + " has nothing of the key"))
		case "dead_letter":
			return errors.New(r.spec.Where + " has nothing of the key")
		}
		if r.sets == nil {
			c.EmitFor(at.row, in)
			return nil
		}
	}
	out, err := r.added(c, at.row, row)
	if err != nil {
		return err
	}
	c.EmitFor(at.row, out)
	return nil
}

// added is a row with the fields that the look-up adds.
func (r *looker) added(c *kis.Call, n int, found *kis.Row) (*kis.Row, error) {
	f, row := r.frame, c.Rows[n]
	f.showRow(c, n)
	f.rows[0] = found
	defer f.hide()
	for i := range r.sets {
		v, err := r.sets[i].expr.run(f)
		if err != nil {
			return nil, err
		}
		r.values[i] = v
	}
	r.build.Begin()
	for i := range row.Len() {
		field := row.At(i)
		if !slices.ContainsFunc(r.sets, func(s emit) bool { return s.name == field.Name }) {
			r.build.Add(field.Name, field.Value)
		}
	}
	for i := range r.sets {
		r.build.Add(r.sets[i].name, r.values[i])
	}
	if r.sets == nil {
		for i := range found.Len() {
			field := found.At(i)
			if _, there := row.Get(field.Name); !there {
				r.build.Add(field.Name, field.Value)
			}
		}
	}
	return r.build.End(), nil
}

// showRow is show for one of a call's rows.
func (f *frame) showRow(c *kis.Call, n int) {
	f.row, f.meta, f.key, f.keys, f.state = c.Rows[n], c.Metas[n], c.Key, nil, nil
}
