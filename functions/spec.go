package functions

import (
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Spec is a function as its definition describes it. Names and texts are as written there.
type Spec struct {
	Name string
	Mode kis.Mode
	Must []string // the key's fields, in order

	Verify    []Rule     // of a Verify; none: rows pass when they have a key
	Calculate *Calculate // of a Calculate
	Expand    *Expand    // of an Expand
	Join      *Join      // of a Calculate, in place of Calculate
	Load      *Load      // of a Load; nil: rows pass
	Save      *Save      // of a Save; nil: rows pass

	// Version is that of the states' form, 0 where the definition says nothing; Migrate makes fields of a state of
	// an earlier version those of this one, and sees the old fields as state and the old version as version.
	Version int64
	Migrate []EmitField
}

// Rule is one rule of a Verify. A row for which it is false is set aside or dropped.
type Rule struct {
	Rule   string // an expression that says true or false
	Reason string // what to say of a row that fails it
	Else   string // what becomes of that row: "dead_letter" (also "") or "drop"
}

// Calculate is the body of a Calculate function.
type Calculate struct {
	State []StateField
	Emit  []EmitField // nil: the row itself goes on
	When  string      // "": always; a row for which it is false passes unchanged and leaves the state alone

	Aggregate []AggregateField // of all rows of the key, or of those of a window; emit sees them as fields of the state
	Window    *Window          // nil: none
	Replace   string           // an expression: a row takes the place of the older one for which it has the same value; "": none
}

// AggregateField is an aggregate with its name.
type AggregateField struct {
	Name   string
	Call   string           // as in "sum(row.price)"; see Aggregates
	Custom *CustomAggregate // in place of Call
}

// CustomAggregate is an aggregate of expressions. Self is what is gathered so far.
type CustomAggregate struct {
	Init   string // self before the first row: an expression without row and self
	Add    string // self after a row
	Remove string // self when a row is taken back; "": it cannot be
	Result string // what emit sees; "": self
}

// Window says in which stretches rows are gathered.
type Window struct {
	Kind       string        // tumbling, hopping, sliding, session or count
	Size       time.Duration // its length; of a session the gap
	Every      time.Duration // of hopping windows: from one start to the next
	Offset     time.Duration // by which tumbling and hopping windows start later than at multiples of Every
	Count      int64         // of count windows: rows
	EveryRows  int64         // of count windows: rows from one result to the next; 0: Count
	Processing bool          // by processing time
	Early      time.Duration // results so far come out after this processing time; 0: none
	EarlyRows  int64         // and after so many rows; 0: none
	// Late says what becomes of a row that comes after its windows are closed: dead_letter (also ""), drop, update (a
	// result comes out once more, until Keep after the window's end), or subject.
	Late        string
	LateSubject string // as Expand.Subject
	Keep        time.Duration
}

// Join is the body of a Calculate that puts rows of two sides together.
type Join struct {
	Left, Right JoinSide
	// Bounded: a right row goes with a left one if its time is from the left one's less Before to the left one's and
	// After. Else rows of any time go together, and all are kept for ever.
	Bounded       bool
	Before, After time.Duration
	Type          string // inner (also ""), left, right, full
	On            string // a further condition on left and right; "": none
	Emit          []EmitField
	Late          string // dead_letter (also ""), drop or subject
	LateSubject   string
}

// JoinSide is one side of a join.
type JoinSide struct {
	When string // which rows are of this side; "": those that are not of the other
	Keep string // all (also ""), or last: only the newest by event time
}

// Save is the body of a Save.
type Save struct {
	Keep bool     // the latest row of each key is kept
	Need []string // fields that rows must have beside those of the key
}

// Load is the body of a Load.
type Load struct {
	Table   bool        // the latest row of each key is kept, and its fields are added to the rows of the stream
	Set     []EmitField // of a table: the fields that are added; nil: all that the row lacks
	Missing string      // of a table, where it has no row of the key: pass (also ""), drop or dead_letter
	Lookup  *Lookup     // a place outside is asked for each row, in place of a table; Set and Missing are as there
}

// StateField is one field of a key's state.
type StateField struct {
	Name string
	Init string // its value before the first row: an expression without row, key, meta and state
	Set  string // its value after a row; sees the state as it was before the row
}

// EmitField is one field of a row that is emitted.
type EmitField struct {
	Name string
	Expr string
}

// Expand is the body of an Expand function.
type Expand struct {
	Subject string      // may hold {field}: the row's value there
	Emit    []EmitField // nil: the row itself is sent
	When    string      // "": always; a row for which it is false is not sent
}

// Mistake is something in a Spec that is not right.
type Mistake struct {
	Path    string // of the text it is in, as in "calculate.state.total.set" or "verify.0.rule"
	Column  int    // of the byte in that text, from 1; 0: the text as a whole
	Message string // what is wrong
	Hint    string // what would be right; may be empty

	// Of what Infer finds: Missing is the row's field that is not there, "" for other mistakes; Guarded says that
	// it is in a part of the expression that is not computed for every row.
	Missing string
	Guarded bool
}

// Error returns the mistake as one line.
func (m Mistake) Error() string {
	s := m.Path
	if m.Column > 0 {
		s += ", column " + itoa(m.Column)
	}
	s += ": " + m.Message
	if m.Hint != "" {
		s += " (" + m.Hint + ")"
	}
	return s
}
