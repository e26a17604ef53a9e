package kis

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"time"
)

// Event is what a handler is given: one row, decoded, and what is known of it.
//
// In is how the handler wants its rows:
//   - a struct with the tags of encoding/json. Names match exactly; fields that the struct lacks are passed
//     over; a value that does not fit its field (a string for a number, 300 for an int8, 1.5 for an int) is
//     the row's dead letter, and its reason names the field. Strings are copies.
//   - *Row: nothing is decoded. The row is the handler's own: it may change it, and emit it. Its strings are
//     pieces of the message that it came in: a state that keeps one must take a strings.Clone of it.
//   - a type whose pointer is a RowDecoder.
//   - a map with string keys, any (a map[string]any with json.Number), or what else encoding/json makes of an
//     object.
type Event[In any] struct {
	Key      Key       // of the step; the zero Key for a step without one
	Value    In        // the row, decoded
	Row      *Row      // the row itself; it must not be changed, nor kept
	Meta     *Meta     // of the event by which the row came into the flow; it must not be changed, nor kept
	Params   Params    // of the step; they must not be changed
	Now      time.Time // of the commit that the call is part of: take the time from here or from Meta, not from a clock
	Revision uint64    // of the flow
	// Watermark is the event time below which no more rows are expected; the zero time where none is known, or
	// where no function of the flow says that it looks at it (KeyedTimers, Timed).
	Watermark time.Time
	Loaded    bool // the row came in through this Load step's hand-off
}

// Due is what a handler of timers is given: a timer of the key whose time has come.
type Due struct {
	Timer
	Key       Key
	Params    Params    // of the step; they must not be changed
	Now       time.Time // as in Event
	Revision  uint64    // of the flow
	Watermark time.Time // as in Event; for a timer of event time, at or behind its time
}

// Output takes what a handler has to say beside its state. It is good until the handler returns; if the
// handler returns an error, all of it is dropped. Of a value that cannot be written as a row the handler's
// whole row becomes a dead letter.
//
// Out is a struct, as in Event, a *Row (which must not be changed any more), a RowEncoder, or what else
// encoding/json writes as an object.
type Output[Out any] struct {
	call    *Call
	plan    *plan
	builder Builder
	value   Out   // the value in hand: a place that can be pointed to without allocation
	err     error // the first
	timed   bool  // the function has a handler of timers
}

// Emit hands a row to the next step: value's fields, after those of key that value lacks. In a Batch handler
// the first event is its cause: see EmitFor.
func (o *Output[Out]) Emit(key Key, value Out) { o.EmitFor(0, key, value) }

// EmitFor is Emit for Batch handlers: cause is the index of the event that caused the row; the row leaves in
// that event's turn.
func (o *Output[Out]) EmitFor(cause int, key Key, value Out) {
	if row := o.row("emit", cause, key, value); row != nil {
		o.call.EmitFor(cause, row)
	}
}

// EmitAt is Emit for a row with an event time of its own: the result of a window, say, has the window's last
// moment.
func (o *Output[Out]) EmitAt(at time.Time, key Key, value Out) {
	if row := o.row("emit", 0, key, value); row != nil {
		o.call.EmitAt(at, row)
	}
}

// SetTimer sets a timer of the key, or moves the one of that name and domain: when its time has come, the function's
// handler of timers is called once (KeyedTimers). It is durable with the commit, like the state. A handler
// that fails has set nothing. At most 10,000 timers a key.
func (o *Output[Out]) SetTimer(name string, domain TimeDomain, at time.Time) {
	if at.IsZero() {
		o.fail(fmt.Errorf("set timer %q: to no time; StopTimer takes one back", name))
		return
	}
	o.timers("SetTimer")
	o.call.SetTimer(name, domain, at)
}

// StopTimer takes a timer back, if one of that name is set.
func (o *Output[Out]) StopTimer(name string, domain TimeDomain) {
	o.timers("StopTimer")
	o.call.StopTimer(name, domain)
}

func (o *Output[Out]) timers(what string) {
	if o.call == nil {
		panic("kis: an Output was used after its handler had returned")
	}
	if !o.timed {
		panic("kis: " + what + " in a function without a handler of timers: make it with KeyedTimers")
	}
}

// Send puts a row into the outbox for a subject, one that the step declares; it leaves after the commit. In a
// Batch handler the first event is its cause: see SendFor.
func (o *Output[Out]) Send(subject string, value Out) { o.SendFor(0, subject, value) }

// SendFor is Send for Batch handlers: cause is the index of the event that caused the row.
func (o *Output[Out]) SendFor(cause int, subject string, value Out) {
	if row := o.row("send", cause, Key{}, value); row != nil {
		o.call.SendFor(cause, subject, row)
	}
}

// Abort ends the way of the call's rows here: what the handler emitted and sent is dropped, its state is kept.
// Of several flow controls in one call the last one counts.
func (o *Output[Out]) Abort() { o.control(Abort, "") }

// Reuse hands the call's input rows to the next step in place of what the handler emitted.
func (o *Output[Out]) Reuse() { o.control(Reuse, "") }

// ForceNext enters the next step although the handler emits nothing: with a row of the key's fields. If it
// emits something, ForceNext changes nothing.
func (o *Output[Out]) ForceNext() { o.control(ForceNext, "") }

// Jump hands what the handler emits, or the input rows if it emits nothing, to the step of that name in place
// of the next. A row may jump backwards MaxJumps times.
func (o *Output[Out]) Jump(step string) {
	if step == "" {
		o.fail(errors.New("jump to a step without a name"))
		return
	}
	o.control(Jump, step)
}

func (o *Output[Out]) control(c Control, target string) {
	if o.call == nil {
		panic("kis: an Output was used after its handler had returned")
	}
	o.call.Control, o.call.Target = c, target
}

func (o *Output[Out]) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// row makes the row of a value and the key's fields; nil if it cannot, which fail has been told.
func (o *Output[Out]) row(verb string, cause int, key Key, value Out) *Row {
	if o.call == nil {
		panic("kis: an Output was used after its handler had returned")
	}
	if cause < 0 || cause >= max(1, len(o.call.Rows)) {
		panic(fmt.Sprintf("kis: %s: cause %d of a call with %d events", verb, cause, len(o.call.Rows)))
	}
	row, err := o.encode(key, value)
	if err != nil {
		o.fail(fmt.Errorf("%s: %w", verb, err))
		return nil
	}
	return row
}

func (o *Output[Out]) encode(key Key, value Out) (row *Row, err error) {
	o.value = value
	switch v := any(&o.value).(type) {
	case **Row:
		if row = *v; row == nil {
			return nil, errors.New("no row")
		}
	case RowEncoder:
		o.builder.Begin()
		if err := v.EncodeRow(&o.builder); err != nil {
			return nil, err
		}
		o.builder.addMissing(key, o.builder.has)
		return o.builder.End(), nil
	default:
		if from := reflect.ValueOf(v).Elem(); o.plan.form == structure {
			o.builder.Begin()
			if len(key.names) > 0 {
				o.builder.addMissing(key, func(name string) bool { return o.plan.fields.has(name, from) })
			}
			if err := o.plan.fields.build(&o.builder, from); err != nil {
				return nil, err
			}
			return o.builder.End(), nil
		}
		if row, err = marshalRow(v); err != nil {
			return nil, err
		}
	}
	has := func(name string) bool { _, ok := row.Get(name); return ok }
	for _, name := range key.names {
		if !has(name) {
			o.builder.Begin()
			o.builder.addMissing(key, has)
			for i := range row.Len() {
				o.builder.Add(row.At(i).Name, row.At(i).Value)
			}
			return o.builder.End(), nil
		}
	}
	return row, nil
}

// marshalRow makes a row by encoding/json.
func marshalRow(value any) (*Row, error) {
	text, err := jsonMarshal(value)
	if err != nil {
		return nil, err
	}
	return ParseRow(text)
}

// Option tunes a function that is written in Go.
type Option func(*function)

// KeepsKey declares that what a handler emits has the same must fields as the event that caused it. Steps
// that share a key can then share a partition; the engine looks all the same, and re-routes a row that
// belongs elsewhere.
func KeepsKey() Option { return func(f *function) { f.traits.KeepsKey = true } }

// Timed declares that a function looks at the watermark: only then does the engine carry it to its step.
// KeyedTimers implies it.
func Timed() Option { return func(f *function) { f.traits.Timed = true } }

// Version gives a keyed function's state a form with a version. A state that an earlier version has stored (one
// without a version is of 0) is handed to migrate as it was encoded, when its key is used the next time; migrate
// returns it in the present form, as JSON. Its error is the fault of that key alone: the key's rows are dead letters,
// and its state stays as it was.
func Version(version uint32, migrate func(from uint32, state []byte) ([]byte, error)) Option {
	return func(f *function) { f.version, f.migrate = version, migrate }
}

// CheckParams looks at a step's parameters before the flow starts; an error refuses the flow.
func CheckParams(check func(Params) error) Option { return func(f *function) { f.check = check } }

// function is a function that is written in Go.
type function struct {
	name   string
	traits Traits
	check  func(Params) error
	types  error // what is wrong with its types

	version uint32
	migrate func(from uint32, state []byte) ([]byte, error)

	open func(*function, Step) Runner
}

func (f *function) Name() string   { return f.name }
func (f *function) Traits() Traits { return f.traits }

func (f *function) Open(s Step) (Runner, error) {
	if f.types != nil {
		return nil, fmt.Errorf("function %s: %w", f.name, f.types)
	}
	if f.check != nil {
		if err := f.check(s.Params); err != nil {
			return nil, fmt.Errorf("function %s: params: %w", f.name, err)
		}
	}
	return f.open(f, s), nil
}

// MaxState is the most bytes that a key's state may have as JSON: all of it is written with every commit that changes
// it. A row that would make it larger is a dead letter.
const MaxState = 1 << 20

// Keyed makes a function of a handler with a state per key. The handler is called for one row at a time, with
// the state of the row's key; the zero value and no state are the same thing.
//
// S is anything that survives being written by encoding/json and read again; Open refuses a type that does not
// (a field that is not exported, an interface). If a handler returns an error or panics, the state is what
// it was before. For a state of plain values, strings, arrays and structs of these a copy sees to that; any
// other state (pointers, slices, maps, types with a JSON form of their own) is written as JSON after each row and read again
// after an error, which costs accordingly. A pointer to S may be a StateAppender and StateParser.
//
// A panic is the row's dead letter, with its stack. What no handler may do is what nobody can catch: call
// runtime.Goexit (as FailNow of package testing does), overflow the stack, or write to a map that another goroutine
// uses. After a Goexit the state is restored, but the goroutine, which is the partition's, ends.
func Keyed[S, In, Out any](name string, handle func(ctx context.Context, state *S, event Event[In], out *Output[Out]) error, options ...Option) Function {
	return newFunction[S, In, Out](name, Traits{Stateful: true}, true, func(r *runner[S, In, Out], c *Call, s *S) error {
		return handle(c.Context, s, r.events[0], &r.out)
	}, options)
}

// KeyedTimers is Keyed for a function with timers: handle and due may set them (Output.SetTimer), and due is called
// for each one when its time has come, with the state of its key. If due returns an error, what the timer should
// have done is a dead letter; the state stays.
func KeyedTimers[S, In, Out any](name string, handle func(ctx context.Context, state *S, event Event[In], out *Output[Out]) error,
	due func(ctx context.Context, state *S, due Due, out *Output[Out]) error, options ...Option) Function {
	return newTimedFunction[S, In, Out](name, Traits{Stateful: true, Timed: true}, true, func(r *runner[S, In, Out], c *Call, s *S) error {
		return handle(c.Context, s, r.events[0], &r.out)
	}, func(r *runner[S, In, Out], c *Call, s *S) error {
		return due(c.Context, s, Due{Timer: *c.Timer, Key: c.Key, Params: r.step.Params, Now: c.Now, Revision: c.Revision, Watermark: c.Watermark}, &r.out)
	}, options)
}

// Stateless makes a function of a handler without a state. Whether its step has a key is for the function's
// definition to say.
func Stateless[In, Out any](name string, handle func(ctx context.Context, event Event[In], out *Output[Out]) error, options ...Option) Function {
	return newFunction[struct{}, In, Out](name, Traits{}, false, func(r *runner[struct{}, In, Out], c *Call, _ *struct{}) error {
		return handle(c.Context, r.events[0], &r.out)
	}, options)
}

// Batch makes a function of a handler that is given all rows of a key which one commit covers, in one call and
// in their order; how many these are depends on load, so what it computes must not. The handler must
// not keep the slice. An error or a panic takes all of the call back; the engine then calls again with one row at a
// time, so that only the bad ones become dead letters.
func Batch[S, In, Out any](name string, handle func(ctx context.Context, state *S, events []Event[In], out *Output[Out]) error, options ...Option) Function {
	return newFunction[S, In, Out](name, Traits{Stateful: true, Batch: true}, true, func(r *runner[S, In, Out], c *Call, s *S) error {
		return handle(c.Context, s, r.events, &r.out)
	}, options)
}

func newFunction[S, In, Out any](name string, traits Traits, stateful bool, call func(*runner[S, In, Out], *Call, *S) error, options []Option) Function {
	return newTimedFunction(name, traits, stateful, call, nil, options)
}

func newTimedFunction[S, In, Out any](name string, traits Traits, stateful bool, call, due func(*runner[S, In, Out], *Call, *S) error, options []Option) Function {
	f := &function{name: name, traits: traits}
	state := newStateKind[S]()
	var types []error
	if stateful && !state.own {
		types = append(types, checkState(reflect.TypeFor[S]()))
	}
	types = append(types, checkObject(reflect.TypeFor[In](), "event", reflect.TypeFor[RowDecoder]()),
		checkObject(reflect.TypeFor[Out](), "output", reflect.TypeFor[RowEncoder]()))
	f.types = errors.Join(types...)
	in, out := newPlan(reflect.TypeFor[In]()), newPlan(reflect.TypeFor[Out]())
	f.open = func(f *function, s Step) Runner {
		r := &runner[S, In, Out]{step: s, stateful: stateful, batch: f.traits.Batch, state: state, in: in, handle: call, due: due}
		r.out.plan, r.out.timed = out, due != nil
		if f.migrate != nil {
			return &versioned[S, In, Out]{r, f}
		}
		return r
	}
	for _, o := range options {
		o(f)
	}
	return f
}

// checkObject says why values of a type cannot be rows. Own is what the type may offer to be one.
func checkObject(t reflect.Type, what string, own reflect.Type) error {
	if t == reflect.TypeFor[*Row]() || reflect.PointerTo(t).Implements(own) {
		return nil
	}
	e := t
	if e.Kind() == reflect.Pointer {
		e = e.Elem()
	}
	switch {
	case hasOwnJSON(e), e.Kind() == reflect.Struct, e.Kind() == reflect.Interface:
		return nil
	case e.Kind() == reflect.Map && e.Key().Kind() == reflect.String:
		return nil
	}
	return fmt.Errorf("%s %s: a row is a JSON object; use a struct, a map with string keys or *kis.Row", what, t)
}

// stateKind is what is known of a state's type.
type stateKind[S any] struct {
	own   bool // appends and parses itself
	flat  bool // an assignment is a copy
	check bool // flat, with values that checkFlat looks at
	plan  *plan
}

func newStateKind[S any]() stateKind[S] {
	t := reflect.TypeFor[S]()
	var k stateKind[S]
	_, a := any(new(S)).(StateAppender)
	_, p := any(new(S)).(StateParser)
	k.own = a && p
	k.flat = isFlat(t)
	k.check = k.flat && needsCheck(t)
	k.plan = newPlan(t)
	return k
}

// cell is the state of one key in memory.
type cell[S any] struct {
	value   S
	encoded []byte // of a state that is not flat: what value is in JSON
}

// append appends the state; nothing for the zero value.
func (k *stateKind[S]) append(dst []byte, s *S) ([]byte, error) {
	v := reflect.ValueOf(s).Elem()
	if v.IsZero() {
		return dst, nil
	}
	if k.own {
		return any(s).(StateAppender).AppendState(dst)
	}
	if k.plan.form == structure {
		return k.plan.fields.appendJSON(dst, v)
	}
	text, err := jsonMarshal(s)
	return append(dst, text...), err
}

// parse reads a state into a zero value.
func (k *stateKind[S]) parse(text []byte, s *S) error {
	if len(text) == 0 {
		return nil
	}
	if k.own {
		return any(s).(StateParser).ParseState(text)
	}
	v, err := JSONValue(view(text))
	if err != nil {
		return err
	}
	return k.plan.decode(v, reflect.ValueOf(s).Elem())
}

// runner runs a handler for one step in one partition.
type runner[S, In, Out any] struct {
	step     Step
	stateful bool
	batch    bool
	none     cell[S] // the state of a function without one
	state    stateKind[S]
	in       *plan
	handle   func(*runner[S, In, Out], *Call, *S) error
	due      func(*runner[S, In, Out], *Call, *S) error // of timers; nil: none

	events []Event[In] // of the call in hand
	out    Output[Out]
}

// Activate implements Runner.
func (r *runner[S, In, Out]) Activate(encoded []byte) (any, error) {
	c := new(cell[S])
	if err := r.state.parse(encoded, &c.value); err != nil {
		return nil, fmt.Errorf("state of %s: %w", r.step.Name, err)
	}
	if !r.state.flat {
		c.encoded = append(c.encoded, encoded...)
	}
	return c, nil
}

// Encode implements Runner.
func (r *runner[S, In, Out]) Encode(dst []byte, state any) ([]byte, error) {
	c := state.(*cell[S])
	if !r.state.flat {
		return append(dst, c.encoded...), nil
	}
	dst, err := r.state.append(dst, &c.value)
	if err != nil {
		return dst, fmt.Errorf("state of %s: %w", r.step.Name, err)
	}
	return dst, nil
}

// Handle implements Runner.
func (r *runner[S, In, Out]) Handle(c *Call) error {
	if c.Timer == nil && !r.batch && len(c.Rows) != 1 {
		panic(fmt.Sprintf("kis: function of one row at a time called with %d", len(c.Rows)))
	}
	defer r.tidy()
	state := &r.none
	if r.stateful {
		state = c.State.(*cell[S])
	}
	return r.run(c, state)
}

// run decodes the rows, calls the handler, and takes back all that it did if it fails.
func (r *runner[S, In, Out]) run(c *Call, state *cell[S]) (err error) {
	var before S
	if r.state.flat {
		before = state.value
	}
	done := false
	defer func() {
		if done {
			return
		}
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: string(debug.Stack())}
		} // else an error, or the goroutine is about to exit
		c.Reset()
		if r.state.flat {
			state.value = before
			return
		}
		state.value = *new(S)
		if e := r.state.parse(state.encoded, &state.value); e != nil {
			// It was read and written before: only a codec of the author's own can do this.
			err = Stop(fmt.Errorf("state of %s cannot be restored: %w; after %w", r.step.Name, e, err))
		}
	}()
	for i, row := range c.Rows {
		r.events = append(r.events, Event[In]{
			Key: c.Key, Row: row, Params: r.step.Params, Now: c.Now, Revision: c.Revision, Watermark: c.Watermark, Loaded: c.Loaded,
		})
		e := &r.events[i]
		if i < len(c.Metas) {
			e.Meta = c.Metas[i]
		}
		if err := r.decode(row, &e.Value); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
	}
	r.out.call = c
	handle := r.handle
	if c.Timer != nil {
		if handle = r.due; handle == nil {
			done = true
			return nil // a timer of a former revision's function
		}
	}
	if err := handle(r, c, &state.value); err != nil {
		return err
	}
	if r.out.err != nil {
		return r.out.err
	}
	switch {
	case !r.state.flat:
		encoded, err := r.state.append(nil, &state.value)
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if len(encoded) > MaxState {
			return fmt.Errorf("the state would have %d bytes; at most %d: keep less of each row, or give the function a key with more fields", len(encoded), MaxState)
		}
		state.encoded = encoded
	case r.state.check:
		if err := checkFlat(reflect.ValueOf(&state.value).Elem(), "state"); err != nil {
			return err
		}
	}
	done = true
	return nil
}

// tidy lets go of what belongs to the call.
func (r *runner[S, In, Out]) tidy() {
	clear(r.events)
	r.events = r.events[:0]
	r.out.call, r.out.err = nil, nil
	r.out.value = *new(Out)
}

func (r *runner[S, In, Out]) decode(row *Row, into *In) error {
	switch into := any(into).(type) {
	case **Row:
		*into = r.out.builder.copyRow(row)
		return nil
	case RowDecoder:
		return into.DecodeRow(row)
	}
	return r.in.decodeRow(row, reflect.ValueOf(into).Elem())
}

// versioned is a runner whose state has a version.
type versioned[S, In, Out any] struct {
	*runner[S, In, Out]
	f *function
}

// Version implements Versioned.
func (r *versioned[S, In, Out]) Version() uint32 { return r.f.version }

// Migrate implements Versioned. A panic of the author's is that key's fault, too.
func (r *versioned[S, In, Out]) Migrate(from uint32, encoded []byte) (state []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: string(debug.Stack())}
		}
	}()
	state, err = r.f.migrate(from, encoded)
	if err != nil {
		return nil, err
	}
	if _, err := r.Activate(state); err != nil {
		return nil, fmt.Errorf("what migrate returned is no %s: %w", reflect.TypeFor[S](), err)
	}
	return state, nil
}
