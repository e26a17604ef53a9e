package functions

import "github.com/kisflow/kisflow/kis"

// Spec is a function as its definition describes it. Names and texts are as written there.
type Spec struct {
	Name string
	Mode kis.Mode
	Must []string // the key's fields, in order

	Verify    []Rule     // of a Verify; none: rows pass when they have a key
	Calculate *Calculate // of a Calculate
	Expand    *Expand    // of an Expand
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
