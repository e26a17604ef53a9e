package api

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Bounds of what one call may ask for.
const (
	DefaultLimit = 100      // items of a list when a caller names no limit
	MaxLimit     = 1000     // and the most that it gets
	MaxIDs       = 1000     // dead letters of one retry or drop
	MaxMessages  = 10000    // messages of one publication
	MaxBody      = 32 << 20 // bytes of a request's body
)

// Page asks for a part of a list.
type Page struct {
	Limit int    // most items; the server hands a Backend a value from 1 to MaxLimit
	After string // the Next of the list before; empty: from the beginning
}

// List is a part of a list. In JSON, items is never null, and next is null at the end.
type List[T any] struct {
	Items []T
	Next  string // for Page.After; empty: there is no more
}

// Status is how a node is.
type Status struct {
	Node       string    `json:"node"`    // its name
	Version    string    `json:"version"` // of KisFlow
	StartedAt  time.Time `json:"started_at"`
	Ready      bool      `json:"ready"`      // recovered, and all enabled flows run
	Phase      string    `json:"phase"`      // starting, recovering, running, stopping
	Durability string    `json:"durability"` // power or process
	DataDir    string    `json:"data_dir"`

	NATS     NATS     `json:"nats"`
	Recovery Recovery `json:"recovery"`

	Flows      int `json:"flows"` // defined
	Running    int `json:"running"`
	Paused     int `json:"paused"`
	Disabled   int `json:"disabled"`
	Stopped    int `json:"stopped"`    // flows with a partition that stopped with an error
	Partitions int `json:"partitions"` // active on this node

	EventsIn    uint64 `json:"events_in"` // since the start of the node
	EventsOut   uint64 `json:"events_out"`
	DeadLetters uint64 `json:"dead_letters"` // there now
	Lag         uint64 `json:"lag"`          // messages, over all inputs
	StateKeys   uint64 `json:"state_keys"`
	StateBytes  uint64 `json:"state_bytes"`
	LiveActors  uint64 `json:"live_actors"`

	// Problems are sentences that a person should read: a stopped partition, a disk that is nearly full.
	Problems []string `json:"problems"`
}

// NATS is the NATS that a node uses.
type NATS struct {
	// URL is where clients connect, without credentials; empty if the embedded server listens nowhere.
	URL       string `json:"url"`
	Embedded  bool   `json:"embedded"`
	Connected bool   `json:"connected"`
	Version   string `json:"version"`
}

// Recovery is how far a node is with making its partitions ready after a start.
type Recovery struct {
	Partitions int     `json:"partitions"` // to be recovered in all
	Done       int     `json:"done"`
	Records    uint64  `json:"records"` // log records read again so far
	Seconds    float64 `json:"seconds"` // since its beginning, or that it took
}

// Report is what Doctor found.
type Report struct {
	OK     bool    `json:"ok"` // no check failed
	Checks []Check `json:"checks"`
}

// Check is one thing that Doctor looked at.
type Check struct {
	Name   string `json:"name"`
	Result string `json:"result"`         // ok, warning or failed
	Detail string `json:"detail"`         // what was found
	Hint   string `json:"hint,omitempty"` // what would be right, unless ok
}

// Results of a Check.
const (
	ResultOK      = "ok"
	ResultWarning = "warning"
	ResultFailed  = "failed"
)

// States of a flow or an input.
const (
	StateRunning    = "running"
	StateRecovering = "recovering"
	StatePaused     = "paused"
	StateDisabled   = "disabled" // status: 0
	StateStopped    = "stopped"  // by an error; Reason says which
	StateDeleted    = "deleted"
)

// FlowSummary is a flow in a list.
type FlowSummary struct {
	Name        string    `json:"name"`
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"` // why it is stopped
	Steps       int       `json:"steps"`
	Revision    uint64    `json:"revision"`
	UpdatedAt   time.Time `json:"updated_at"` // when the revision was applied
	EventsIn    uint64    `json:"events_in"`  // since the start of the node
	EventsOut   uint64    `json:"events_out"`
	Lag         uint64    `json:"lag"` // messages, over its inputs
	DeadLetters uint64    `json:"dead_letters"`
}

// Flow is a flow in full.
type Flow struct {
	FlowSummary
	File       string   `json:"file"`   // where it is defined
	Source     string   `json:"source"` // its document
	Inputs     []Lag    `json:"inputs"`
	Stages     []Stage  `json:"stages"`
	StepList   []Step   `json:"step_list"`
	Outputs    []Output `json:"outputs"`
	StateKeys  uint64   `json:"state_keys"`
	StateBytes uint64   `json:"state_bytes"`
	// PublishSubject is where publishing feeds the flow; empty where that is not one plain subject.
	PublishSubject string      `json:"publish_subject"`
	Warnings       []string    `json:"warnings"`
	Watermarks     []Watermark `json:"watermarks"` // of the steps of a flow that looks at event time
}

// Watermark explains how far the event time of a step has come: that of the partition which is furthest behind.
type Watermark struct {
	Step      string            `json:"step"`
	Time      *time.Time        `json:"time"`      // no older row is expected; null: none known yet
	Ended     bool              `json:"ended"`     // the inputs have ended
	Partition string            `json:"partition"` // the one that is furthest behind
	Sources   []WatermarkSource `json:"sources"`
	Timers    int               `json:"timers"`         // that wait for the watermark, as far as they are in memory
	Next      *time.Time        `json:"next,omitempty"` // when the first of them is due
	Says      string            `json:"says"`           // what holds it, and what will happen, for people
}

// WatermarkSource is one of those whose lowest a watermark is.
type WatermarkSource struct {
	Name  string     `json:"name"`            // an input, a partition, or the step before
	Time  *time.Time `json:"time"`            // its own watermark; null: none known yet
	Idle  bool       `json:"idle"`            // it brings nothing, and is not waited for
	Holds bool       `json:"holds"`           // the watermark waits for it
	Since *time.Time `json:"since,omitempty"` // when it brought something last
}

// Stage is a run of steps that share a key.
type Stage struct {
	Name       string      `json:"name"`
	Must       []string    `json:"must"` // the key's fields; empty: no key
	Steps      []string    `json:"steps"`
	Partitions []Partition `json:"partitions"`
}

// Partition is a share of a stage's keys.
type Partition struct {
	Name    string `json:"name"`
	Node    string `json:"node,omitempty"` // that it runs on, in a cluster
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"`
	Epoch   uint64 `json:"epoch"`
	Commits uint64 `json:"commits"` // number of its newest commit
}

// Step is a step of a flow.
type Step struct {
	Name        string            `json:"name"`
	Function    string            `json:"function"`
	Mode        string            `json:"mode"`
	Must        []string          `json:"must"`
	Stage       string            `json:"stage"`
	Params      map[string]string `json:"params"` // merged; secrets redacted
	Stateful    bool              `json:"stateful"`
	Rows        uint64            `json:"rows"` // handled since the start of the node
	Errors      uint64            `json:"errors"`
	DeadLetters uint64            `json:"dead_letters"` // there now
}

// Output is where a flow sends rows to.
type Output struct {
	Step      string `json:"step"`
	Kind      string `json:"kind"` // subject, handoff or connector
	Target    string `json:"target"`
	Stream    string `json:"stream"`
	Guarantee string `json:"guarantee"` // "exactly once", "effectively once within its duplicate window", ...
}

// Function is a function in a list.
type Function struct {
	Name           string   `json:"name"`
	Mode           string   `json:"mode"`
	Must           []string `json:"must"`
	Implementation string   `json:"implementation"` // yaml, go, connector or none
	Connector      string   `json:"connector"`      // "" if none
	UsedBy         []string `json:"used_by"`        // flows
	File           string   `json:"file"`
}

// Connector is a connector in a list.
type Connector struct {
	Name   string            `json:"name"`
	Type   string            `json:"type"`
	Addrs  string            `json:"addrs"` // without credentials
	Key    string            `json:"key"`
	Params map[string]string `json:"params"`  // secrets redacted
	UsedBy []string          `json:"used_by"` // functions
	File   string            `json:"file"`
}

// File is one definition file.
type File struct {
	Name string `json:"name"` // as mistakes shall name it
	Text string `json:"text"`
}

// Plan is what an Apply does.
type Plan struct {
	ID       string     `json:"id"`       // of the files and what is defined now
	Changes  []Change   `json:"changes"`  // without what stays as it is
	Flows    []FlowPlan `json:"flows"`    // what that does to flows
	Mistakes []Mistake  `json:"mistakes"` // and warnings; with an error among them Apply refuses
	Notes    []string   `json:"notes"`    // what else to know, as that the node's own files say something else
	// Revision is the node's after Apply; in a Plan the one that it would be.
	Revision uint64 `json:"revision"`
}

// Change is one definition that an Apply adds, changes or removes.
type Change struct {
	Kind   string   `json:"kind"` // func, flow, conn or global
	Name   string   `json:"name"`
	Action string   `json:"action"` // added, changed or removed
	Diff   string   `json:"diff"`   // unified, without a header
	Notes  []string `json:"notes"`  // consequences: state that is kept or lost, where the flow starts
}

// Mistake is something wrong with a definition, at its place.
type Mistake struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Severity string `json:"severity"` // error or warning
	Code     string `json:"code"`     // stable, as KF1003
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`   // what would be right
	Source   string `json:"source,omitempty"` // the line
}

// Severities of a Mistake.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
)

// Action is what SetFlow does.
type Action string

// The actions.
const (
	ActionPause  Action = "pause"
	ActionResume Action = "resume"
	// ActionResumeBeginning and ActionResumeNow resume a flow whose input is not the stream that it was (created
	// anew, gone back, or with messages lost): the input is read from its beginning, or from now on, whatever
	// was read before. Inputs that are as they were keep their positions.
	ActionResumeBeginning Action = "resume-beginning"
	ActionResumeNow       Action = "resume-now"
	// ActionDelete removes the flow, its state, its dead letters and its logs for good. Entry and output
	// streams stay.
	ActionDelete Action = "delete"
)

// Lag is one input of a flow and how far it is behind.
type Lag struct {
	Flow       string  `json:"flow"`
	Step       string  `json:"step"` // where it comes in
	Kind       string  `json:"kind"` // entry, handoff or stage
	Subject    string  `json:"subject"`
	Stream     string  `json:"stream"`
	State      string  `json:"state"`
	Reason     string  `json:"reason,omitempty"`
	Newest     uint64  `json:"newest"`      // sequence of the newest message
	Committed  uint64  `json:"committed"`   // all up to here is counted, in all partitions
	Lag        uint64  `json:"lag"`         // messages
	AgeSeconds float64 `json:"age_seconds"` // of the oldest message that is not counted; 0 without lag
	Partitions int     `json:"partitions"`
}

// StateEntry is the committed state of a key.
type StateEntry struct {
	Flow      string          `json:"flow"`
	Step      string          `json:"step"`
	Key       json.RawMessage `json:"key"` // object of the must fields, in their order
	State     json.RawMessage `json:"state"`
	Revision  uint64          `json:"revision"` // under which it changed last
	Sequence  uint64          `json:"sequence"` // of the entry event that changed it last
	UpdatedAt time.Time       `json:"updated_at"`
	// Commit is the place of the partition's log that the answer is of, for Read.AtLeast; 0 in a list.
	Commit uint64 `json:"commit,omitempty"`
}

// Read says what an answer must hold.
type Read struct {
	// Consistent asks for everything that was committed before the question was asked. Without it an answer is committed, but
	// may be of a moment ago: of a node that does not know yet that a partition is another node's.
	Consistent bool
	// AtLeast is the Commit of an earlier answer for the same key: nothing older is an answer.
	AtLeast uint64
}

// DeadLetterFilter selects dead letters; an empty field selects all.
type DeadLetterFilter struct {
	Step   string
	Reason string // part of the reason
}

// DeadLetter is an event set aside with its reason.
type DeadLetter struct {
	ID        string    `json:"id"` // opaque, fit for a URL path's segment without escaping
	Flow      string    `json:"flow"`
	Step      string    `json:"step"`
	Function  string    `json:"function"`
	Revision  uint64    `json:"revision"`
	Reason    string    `json:"reason"`
	Stack     string    `json:"stack,omitempty"` // of a panic
	Malformed bool      `json:"malformed"`       // the data is no JSON object
	Stream    string    `json:"stream"`
	Subject   string    `json:"subject"`
	Sequence  uint64    `json:"sequence"`
	Index     uint32    `json:"index"` // of the event in its message
	EventTime time.Time `json:"event_time"`
	Time      time.Time `json:"time"` // when it was set aside
	Attempts  uint32    `json:"attempts"`
	Size      int       `json:"size"`           // of Data, bytes
	Data      Bytes     `json:"data,omitempty"` // the original bytes
}

// Resolved is what a retry or drop did.
type Resolved struct {
	Done    int      `json:"done"`    // retried or dropped
	Missing []string `json:"missing"` // were not there
	// Left says of those that were there and could not be retried why, one sentence each; they stay.
	Left []string `json:"left"`
}

// Publication is messages to be published.
type Publication struct {
	// One of these: a plain subject, or a flow that takes events at one.
	Subject  string           `json:"subject,omitempty"`
	Flow     string           `json:"flow,omitempty"`
	Messages []PublishMessage `json:"messages"`
}

// PublishMessage is one message of a Publication.
type PublishMessage struct {
	ID   string `json:"id,omitempty"` // Nats-Msg-Id: the stream stores it once within its duplicate window
	Data Bytes  `json:"data"`         // one event or many, one a line
}

// Published is where messages were stored.
type Published struct {
	Stream   string `json:"stream"`
	Stored   int    `json:"stored"`   // messages, repeats included
	Sequence uint64 `json:"sequence"` // of the last
}

// Bytes are bytes that mostly are text: in JSON a string, or {"base64":"..."} where they are not valid UTF-8.
type Bytes []byte

type base64JSON struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON writes a string or an object.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return marshal(string(b))
	}
	return marshal(base64JSON{b})
}

// marshal is json.Marshal that leaves <, > and & as they are: subjects and expressions are full of them.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '{' {
		var in base64JSON
		err := json.Unmarshal(text, &in)
		*b = in.Base64
		return err
	}
	var s string
	err := json.Unmarshal(text, &s)
	*b = Bytes(s)
	return err
}

type listJSON[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

// MarshalJSON writes {"items":[...],"next":...}.
func (l List[T]) MarshalJSON() ([]byte, error) {
	out := listJSON[T]{Items: l.Items}
	if out.Items == nil {
		out.Items = []T{}
	}
	if l.Next != "" {
		out.Next = &l.Next
	}
	return marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	var in listJSON[T]
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*l = List[T]{Items: in.Items}
	if in.Next != nil {
		l.Next = *in.Next
	}
	return nil
}

// Cluster is a cluster as a node sees it.
type Cluster struct {
	Name     string        `json:"name"`
	Node     string        `json:"node"`     // that answers
	Table    uint64        `json:"table"`    // number of the table that says who owns what
	Groups   int           `json:"groups"`   // of partitions: they are placed by groups
	Unowned  int           `json:"unowned"`  // groups without an owner
	Replicas int           `json:"replicas"` // of every stream
	Nodes    []ClusterNode `json:"nodes"`
	Moves    []Move        `json:"moves"` // planned ones under way
}

// ClusterNode is a member of a cluster.
type ClusterNode struct {
	Name          string    `json:"name"`
	Host          string    `json:"host"`
	API           string    `json:"api"`
	Version       string    `json:"version"`
	StartedAt     time.Time `json:"started_at"`
	Alive         bool      `json:"alive"`
	Draining      bool      `json:"draining"`
	SilentSeconds float64   `json:"silent_seconds"` // since its lease was last seen to move
	Owns          int       `json:"owns"`           // groups
	Standby       int       `json:"standby"`        // groups of which it keeps a warm copy
}

// Move is a group on its way to another node.
type Move struct {
	Group int    `json:"group"`
	From  string `json:"from"`
	To    string `json:"to"`
	Ready bool   `json:"ready"` // the copy there has caught up
}

// ClusterPartition is where a partition is.
type ClusterPartition struct {
	Name      string        `json:"name"`  // flow/stage/number
	Node      string        `json:"node"`  // empty while it moves
	State     string        `json:"state"` // running, recovering, waiting, stopped, moving
	Reason    string        `json:"reason,omitempty"`
	Epoch     uint64        `json:"epoch"`
	Commits   uint64        `json:"commits"`
	Recovered uint64        `json:"recovered,omitempty"` // of Of log positions, while it recovers
	Of        uint64        `json:"of,omitempty"`
	Copies    []ClusterCopy `json:"copies"`
}

// ClusterCopy is a warm copy of a partition's state.
type ClusterCopy struct {
	Node     string `json:"node"`
	Sequence uint64 `json:"sequence"` // of the newest record that it holds, in the partition's log
	Behind   bool   `json:"behind"`   // the log was further when it was looked at last
}
