package api

import "time"

// FlowPlan is what an Apply does to one flow: to one whose own text changes, or that of a function or connector that
// it uses.
type FlowPlan struct {
	Flow   string `json:"flow"`
	Action string `json:"action"` // added, changed, enabled or disabled
	From   uint64 `json:"from"`   // its revision now; 0: it is new
	To     uint64 `json:"to"`     // and then
	// Settings are the changes of all but the steps: entry, time, outputs; one sentence each.
	Settings []string   `json:"settings"`
	Steps    []StepPlan `json:"steps"` // in their new order, those that go at their old place
	Notes    []string   `json:"notes"` // consequences that are none of a single step
}

// StepPlan is what an Apply does to one step.
type StepPlan struct {
	Step     string   `json:"step"`
	Function string   `json:"function"`
	Action   string   `json:"action"`  // kept, added, removed, changed or moved
	From     int      `json:"from"`    // its place now, from 1; 0: it is new
	To       int      `json:"to"`      // and then; 0: it goes
	Changes  []string `json:"changes"` // one sentence each
	// State is what becomes of its keys' state: "" (it has none), new (it begins empty), kept, migrated or dropped. The
	// state of a step that is removed, renamed or keyed by other fields is dropped, for good.
	State string `json:"state"`
	// Keys is how many keys lose their state, or have it migrated: counted up to MaxCounted, 0 while the flow does not run.
	Keys int `json:"keys"`
	// Fields of the state that are new, that go, and that are computed in another way.
	StateAdded   []string `json:"state_added"`
	StateRemoved []string `json:"state_removed"`
	StateChanged []string `json:"state_changed"`
}

// MaxCounted is how far a plan counts the keys of a step.
const MaxCounted = 100_000

// What becomes of a step's state.
const (
	StateIsNew      = "new"
	StateIsKept     = "kept"
	StateIsMigrated = "migrated"
	StateIsDropped  = "dropped"
)

// DropName is how an Approval names a step whose state may be dropped.
func DropName(flow, step string) string { return flow + "/" + step }

// Approval is what a person has said to a plan.
type Approval struct {
	// Plan is the ID of the Plan that the person saw: when the definitions have changed since, nothing is done.
	// Empty: whatever is defined now.
	Plan string `json:"plan,omitempty"`
	// DropState names the steps whose state may be dropped (DropName).
	DropState []string `json:"drop_state,omitempty"`
	// By says who it is, and Note what for; revisions show both.
	By   string `json:"by,omitempty"`
	Note string `json:"note,omitempty"`
}

// MaxRevisions is how many revisions of a flow are kept: the newest ones.
const MaxRevisions = 50

// RevisionSummary is a revision in a list.
type RevisionSummary struct {
	Flow      string    `json:"flow"`
	Revision  uint64    `json:"revision"`
	Current   bool      `json:"current"`
	AppliedAt time.Time `json:"applied_at"`
	By        string    `json:"by"`
	Note      string    `json:"note"`
	Steps     []string  `json:"steps"` // their names
}

// Revision is a revision in full: the flow as it was defined, with its functions and connectors.
type Revision struct {
	RevisionSummary
	Files []File `json:"files"` // one for each definition
}

// Shadow is a revision that runs beside the one that counts.
type Shadow struct {
	Flow      string    `json:"flow"`
	Revision  uint64    `json:"revision"`   // the one that it is compared with
	StartedAt time.Time `json:"started_at"` // its state was copied then
	By        string    `json:"by"`
	State     string    `json:"state"` // running or stopped
	Reason    string    `json:"reason,omitempty"`
	Lag       uint64    `json:"lag"`
	Files     []File    `json:"files"` // its definitions
}

// ShadowDiff is where a shadow differs from the flow that counts.
type ShadowDiff struct {
	Shadow
	Steps   []ShadowStep   `json:"steps"`
	Outputs []ShadowOutput `json:"outputs"`
	// DeadLetters of the flow since the shadow began, and of the shadow.
	DeadLetters       uint64   `json:"dead_letters"`
	ShadowDeadLetters uint64   `json:"shadow_dead_letters"`
	Notes             []string `json:"notes"` // what could not be compared
}

// ShadowStep compares the states of one step.
type ShadowStep struct {
	Step       string `json:"step"`
	Keys       int    `json:"keys"` // that were compared
	Same       int    `json:"same"`
	Differ     int    `json:"differ"`
	OnlyFlow   int    `json:"only_flow"`   // keys that only the flow has
	OnlyShadow int    `json:"only_shadow"` // and only the shadow
	Moving     int    `json:"moving"`      // changed while they were compared: not known
	// Examples of keys that differ, at most the limit that was asked for.
	Examples []ShadowKey `json:"examples"`
}

// ShadowKey is a key whose states differ.
type ShadowKey struct {
	Key    Bytes `json:"key"`    // JSON object of the must fields
	Flow   Bytes `json:"flow"`   // its state in the flow; empty: none
	Shadow Bytes `json:"shadow"` // and in the shadow
}

// ShadowOutput compares what was sent to one subject, or saved to one hand-off, since the shadow began.
type ShadowOutput struct {
	Target     string   `json:"target"` // the subject; of a Save "handoff NAME"
	Flow       int      `json:"flow"`   // rows that the flow sent
	Shadow     int      `json:"shadow"`
	OnlyFlow   int      `json:"only_flow"`   // rows that only the flow sent
	OnlyShadow int      `json:"only_shadow"` // and only the shadow
	Examples   []string `json:"examples"`    // of those, marked - (only the flow) and + (only the shadow)
}
