package kis

import (
	"context"
	"time"
)

// Mode is what a function is for; the five modes of a function definition.
type Mode string

// The modes. A function of any mode may be written in Go.
const (
	Verify    Mode = "Verify"    // checks rows
	Save      Mode = "Save"      // writes rows through its connector
	Load      Mode = "Load"      // brings rows in
	Calculate Mode = "Calculate" // computes, with keyed state
	Expand    Mode = "Expand"    // emits to the outside: the flow's open end
)

// Params are a step's parameters: the function's defaults, overwritten key by key by the flow's.
type Params map[string]string

// Step says where a function stands; it is what a function is opened with.
type Step struct {
	Flow     string   // the flow's name
	Name     string   // the step's stable name: it names the state
	Function string   // the function's name
	Mode     Mode     // the function's mode
	Must     []string // the key's fields, in order; empty for a step without a key
	Params   Params   // never nil, never changed
}

// Traits is what the engine must know of a function before it runs it.
type Traits struct {
	// Stateful functions keep a state per key; the engine activates and encodes it.
	Stateful bool
	// Batch functions are given all rows of a key that a commit covers in one call; others one row a call.
	Batch bool
	// KeepsKey says that a row that is emitted has the same must fields as the row that caused it, so that
	// steps before and after it that share a key can share a partition without another look.
	KeepsKey bool
	// Timed functions look at the watermark or set timers of event time: the engine carries watermarks to them.
	Timed bool
	// Many: the runner is a Many, and is given the rows of all keys that a commit covers in one call.
	Many bool
}

// Function is an implementation that a step runs: a Go function (Keyed, Stateless, Batch), or one that is
// described in YAML.
type Function interface {
	// Name is the fname under which a flow uses the function.
	Name() string
	// Traits are the same for all steps.
	Traits() Traits
	// Open makes the runner of one step in one partition. A runner is used by one goroutine at a time.
	// The error is the definition's fault (a parameter that is missing or malformed, say).
	Open(Step) (Runner, error)
}

// Runner runs one step in one partition. None of its methods may keep what the engine passes in, nor start
// goroutines, nor look at a clock: time comes with the row's Meta and the Call.
type Runner interface {
	// Activate makes a key's state from its encoded form; nil stands for a key without a state. Only
	// called for stateful functions.
	Activate(encoded []byte) (state any, err error)
	// Encode appends a key's state as JSON to dst. Appending nothing means that the key has no state any
	// more.
	Encode(dst []byte, state any) ([]byte, error)
	// Handle handles the call's rows. On an error or a panic the state must be what it was before: a
	// runner changes it only at its end, or restores it. What was emitted before an error is dropped.
	Handle(c *Call) error
}

// Many is a Runner that handles many keys at once: it waits on something outside, once for all of them. The
// engine hands it every row of a batch that has reached the step: one Call for each key, with the key's rows in
// order.
type Many interface {
	Runner
	// HandleMany handles the calls; what Handle says of one call holds for each of them. The returned error is
	// that of all calls: nothing was handled. The fault of a single call goes into its Err, that of a single row
	// to Refuse.
	HandleMany(calls []*Call) error
}

// Versioned is a Runner whose states have a form with a version. A state of an older version is migrated when its
// key is activated; it is stored in the new form with the key's next commit.
type Versioned interface {
	Runner
	// Version is that of the states that Encode writes.
	Version() uint32
	// Migrate makes of a state that an earlier version has encoded one of this version. Its error is the fault of
	// that key alone: its rows are dead letters, its state stays as it was.
	Migrate(version uint32, encoded []byte) ([]byte, error)
}

// TimeDomain is the time that a timer goes by.
type TimeDomain uint8

const (
	// EventTime timers fire when the watermark reaches them.
	EventTime TimeDomain = iota
	// ProcessingTime timers fire when the time of a commit reaches them.
	ProcessingTime
)

// Timer is a timer of a key at a step.
type Timer struct {
	Name   string
	Domain TimeDomain
	At     time.Time
}

// TimerChange is a timer that a call has set; with the zero time, one that it has stopped.
type TimerChange struct {
	Name   string
	Domain TimeDomain
	At     time.Time
}

// Meta is what is known of a row beside its fields. It belongs to the event by which the row came into the
// flow, and stays the same on the row's way through the steps. A row that a timer has caused has the Meta of the
// timer: its Stream and Subject are empty, its Time is the timer's.
type Meta struct {
	Stream   string    // the entry stream's name
	Subject  string    // the subject the event was published to
	Sequence uint64    // the message's place in its stream
	Index    uint32    // the event's place in its message, from 0
	Time     time.Time // the event's time: of the flow's time field, or when the stream stored the message (UTC)
	// Passes says how often the event has passed flows that it may pass again (loop), as in "Refine=2"; "" for most.
	Passes string
}

// Call is one call of a runner: rows of one key, with that key's state. The engine owns it and uses it
// again; it is valid until Handle returns.
type Call struct {
	// Context ends when the partition is told to stop.
	Context context.Context
	// Key is the step's key; the zero Key for a step without one.
	Key Key
	// Rows are the rows of the key in order: one, or more for a Batch function.
	Rows []*Row
	// Metas belong to Rows, index by index.
	Metas []*Meta
	// State is the key's state as Activate made it or an earlier call left it; nil if the function is not
	// stateful. A runner may replace it.
	State any
	// Now is the time of the commit that this call is part of: the same for all rows of a batch.
	Now time.Time
	// Revision is the flow's revision under which the rows are handled.
	Revision uint64
	// Watermark is the event time below which no more rows are expected; the zero time where nothing is known. It
	// stands where it stood when the row came, and never goes back.
	Watermark time.Time
	// Timer is set where the call is for a timer that is due: then Rows is empty, and Metas holds the timer's.
	Timer *Timer
	// Loaded: the rows came in through this Load step's hand-off, not from the step before.
	Loaded bool

	// The answers, in the engine's hands: read them after Handle.
	Emitted []Emission
	Sent    []Sending
	Control Control
	Target  string        // of Control Jump
	Timers  []TimerChange // in the order in which they were asked for
	Err     error         // Many: why the call's rows were not handled
	Refused []error       // Many: why single rows were not handled, by index in Rows; nil where all were
}

// Emission is one row that a call emitted.
type Emission struct {
	Row   *Row
	Cause int       // index in Rows of the row that caused it; its outputs leave in that row's turn
	Time  time.Time // its event time; the zero time: that of the row that caused it
}

// Sending is one row that a call sent to the outside.
type Sending struct {
	Subject string
	Row     *Row
	Cause   int // as in Emission
}

// Send puts a row into the outbox for a subject; it leaves after the commit. The subject must be one that
// the step declares (expand: subject), or the row becomes a dead letter.
func (c *Call) Send(subject string, row *Row) {
	c.Sent = append(c.Sent, Sending{Subject: subject, Row: row})
}

// SendFor is Send for Batch functions: cause is the index in Rows of the row that caused this one.
func (c *Call) SendFor(cause int, subject string, row *Row) {
	c.Sent = append(c.Sent, Sending{Subject: subject, Row: row, Cause: cause})
}

// Emit hands a row to the next step (or, where Control says so, to another), caused by the first row of the
// call.
func (c *Call) Emit(row *Row) { c.Emitted = append(c.Emitted, Emission{Row: row}) }

// EmitFor is Emit for Batch functions: cause is the index in Rows of the row that caused this one.
func (c *Call) EmitFor(cause int, row *Row) {
	c.Emitted = append(c.Emitted, Emission{Row: row, Cause: cause})
}

// EmitAt is Emit for a row with an event time of its own, as the result of a window has.
func (c *Call) EmitAt(at time.Time, row *Row) {
	c.Emitted = append(c.Emitted, Emission{Row: row, Time: at})
}

// SetTimer sets a timer of the call's key at this step, or moves it where one of that name is set in the same time
// domain. It is part of the commit, like the state: it survives crash and move, and fires once. An event timer at or
// below the watermark, and a processing timer whose time is over, fire right after this call. Only a
// function with state has timers.
func (c *Call) SetTimer(name string, domain TimeDomain, at time.Time) {
	c.Timers = append(c.Timers, TimerChange{name, domain, at})
}

// StopTimer takes a timer back; nothing happens where none of that name is set.
func (c *Call) StopTimer(name string, domain TimeDomain) {
	c.Timers = append(c.Timers, TimerChange{Name: name, Domain: domain})
}

// Refuse notes why a row of the call was not handled (Many). The function's error says what becomes of it, as the
// error of Handle does; rows behind one that is to be tried again must be refused in the same way.
func (c *Call) Refuse(row int, err error) {
	if c.Refused == nil {
		c.Refused = make([]error, len(c.Rows))
	}
	c.Refused[row] = err
}

// Reset readies a call for the next use; the engine calls it.
func (c *Call) Reset() {
	c.Emitted, c.Sent, c.Control, c.Target = c.Emitted[:0], c.Sent[:0], Continue, ""
	c.Timers, c.Timer, c.Loaded, c.Err, c.Refused = c.Timers[:0], nil, false, nil, nil
}

// Control is a flow control: what is to happen after this function to the rows of this call.
type Control uint8

const (
	// Continue hands what was emitted to the next step; with nothing emitted the way ends here.
	Continue Control = iota
	// Abort ends the way of these rows here: what the call emitted and sent is dropped. The state that the call
	// changed is kept.
	Abort
	// Reuse hands the call's input rows to the next step in place of what it emitted.
	Reuse
	// ForceNext enters the next step although nothing was emitted: with a row that holds only the fields
	// of the key. If something was emitted it is Continue.
	ForceNext
	// Jump hands what was emitted (with nothing emitted: the input rows) to the step named by Target, in
	// place of the next one. A jump to this step or to one before it is counted; a row that has jumped back
	// MaxJumps times becomes a dead letter.
	Jump
)

// MaxJumps is how often one event may jump backwards on its way through a flow.
const MaxJumps = 16
