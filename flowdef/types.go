package flowdef

import (
	"fmt"
	"time"
)

// Pos is a place in a definition file. Lines and columns count from 1, columns in characters.
type Pos struct {
	File         string
	Line, Column int

	src *source // the file's text, for the source line of a mistake; may be nil
}

// String returns the place as file:line:col.
func (p Pos) String() string {
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Text is a string of a definition with its place, for later checks that may find it wrong. Pos is the
// place of the first character of Value: behind an opening quote, on the first line of a block.
type Text struct {
	Value string
	Pos   Pos

	raw *scalar // how it is written; nil if it stands in no file
}

// Set is all definitions of the files that were loaded.
type Set struct {
	Flows  []*Flow // in the order of their files, enabled or not
	Funcs  map[string]*Func
	Conns  map[string]*Conn
	Global *Global // nil if no file has one

	outside Outside  // With
	found   Mistakes // about several definitions, found while reading: duplicate names; Check reports them
}

// Flow is a definition of kind flow.
type Flow struct {
	Name    string
	Pos     Pos
	Enabled bool    // status: 1
	Entries []Entry // how events come in; empty: fed by the API, Go code, or a Load step alone
	Steps   []Step
	Time    *Time           // event time; nil: when the stream stored the message
	Outputs *StreamSettings // settings of output streams that kisnode creates for the flow; may be nil
	Loop    *Loop           // the flow may be fed by what it sends; nil: it must not
	Source  string          // the document's text, for get and for the diff of apply
}

// Entry is one subject that feeds a flow.
type Entry struct {
	Subject Text
	// From says where a flow that is new starts in the stream, as ParseStart reads it.
	From string
	// Stream settings for a stream that kisnode creates; ignored where one captures the subject already.
	Stream *StreamSettings
	// AllowLossy accepts a stream that may discard unread events.
	AllowLossy bool
	// Fields are the fields of the rows that come in, where the flow says it; else nil.
	Fields *Fields
}

// StreamSettings are the settings of a stream that kisnode creates.
type StreamSettings struct {
	Name     Text          // default: made from the subject
	MaxAge   time.Duration // retention; 0: for ever
	MaxBytes int64         // 0: no limit; a full stream refuses new messages
}

// Step is a function at a place of a flow.
type Step struct {
	Name     string // stable: as, or the function's name, then name#2, ...
	Function Text
	Params   map[string]string // the flow's; the function's defaults are under Func.Option
	Pos      Pos
}

// Func is a definition of kind func.
type Func struct {
	Name   string
	ID     string // fid where fname stands beside it: steps may name the function by either; else ""
	Mode   string // Verify, Save, Load, Calculate, Expand
	Pos    Pos
	Source struct {
		Name string
		Must []Text
	}
	Option struct {
		Conn          Text // cname; "" if none
		RetryTimes    int
		RetryDuration time.Duration
		DefaultParams map[string]string
	}
	OnError    string // dead_letter (default), stop, park_key
	TTL        *TTL   // nil: states stay for ever
	Verify     []Rule
	Calculate  *Calculate
	Expand     *Expand
	Join       *Join // of a Calculate, in place of Calculate
	Save       *Save
	Load       *LoadBody
	Script     *Script     // its implementation in JavaScript; else nil
	Remote     *Remote     // its implementation in another program; else nil
	Needs      *Fields     // fields that every row must bring, where the function says it; else nil
	Offers     *Fields     // fields of the rows that it emits, where it says it; else nil
	Version    int64       // of the state's form; 0: none is given
	Migrate    []EmitField // fields of a state of an earlier version
	VersionPos Pos         // of the version, where it is given
	MigratePos Pos
	Text       string // the document's text
}

// Rule is one rule of a Verify.
type Rule struct {
	Rule   Text
	Reason string
	Else   string // dead_letter (default) or drop
}

// Calculate is the body of a Calculate function.
type Calculate struct {
	State []StateField // in the order of the file
	Emit  []EmitField  // in the order of the file; nil: the row itself goes on
	When  Text         // optional: rows for which it is false pass unchanged and leave the state alone

	Aggregate []Aggregate // in the order of the file
	Window    *Window     // nil: aggregates of all rows
	Replace   Text        // optional: a row takes the place of the older one with the same value
}

// StateField is one field of the key's state.
type StateField struct {
	Name string
	Init Text // an expression without row and state; default 0 is written as such
	Set  Text
	Pos  Pos
}

// EmitField is one field of an emitted row.
type EmitField struct {
	Name string
	Expr Text
	Pos  Pos
}

// Expand is the body of an Expand function.
type Expand struct {
	Subject Text        // may hold {field}: the row's value there
	Emit    []EmitField // nil: the row itself
	Pack    bool        // several rows in a message, one a line (NDJSON)
	When    Text        // optional: only rows for which it is true are sent
	Shared  bool        // other flows send to the subject, too; all of them must say it
}

// Save is the body of a Save function whose connector is NATS (the default): a named hand-off.
type Save struct {
	Handoff   Text          // name: default the function's source.name, else its fname
	Retention time.Duration // default 7 days
	MaxBytes  int64         // default 0: no limit; a full one pauses the saver
	// Fields are the row's fields that this Save writes; empty: all. Two flows may save to one hand-off or one
	// connector key only when their fields differ, or when both say Shared.
	Fields          []Text
	Shared          bool
	Key             []Text // the fields of the key; empty: source.must
	Keep            string // of the rows, in partition state: last, none, or "": the last of each key where a Load needs it
	KeyPos, KeepPos Pos
}

// LoadBody is the body of a Load function whose connector is NATS: rows of a hand-off join the flow at this step.
type LoadBody struct {
	Handoff Text        // default as in Save
	From    string      // as in Entry
	Table   bool        // as: table
	Set     []EmitField // of a table: fields that are added; nil: all that the row lacks
	Missing string      // of a table: "", pass, drop or dead_letter
	AsPos   Pos         // of as
	Lookup  *Lookup     // as: lookup; else nil
}

// Conn is a definition of kind conn.
type Conn struct {
	Name   string
	ID     string // cid where cname stands beside it: functions may name the connector by either; else ""
	Pos    Pos
	Addrs  string
	Type   string
	Key    string
	Params map[string]string
	Load   []string
	Save   []string
	Text   string

	TypePos, AddrsPos, KeyPos Pos
	ParamList                 []ParamText // of Params, in the order of the file
}

// Global is a definition of kind global: the settings of a node.
type Global struct {
	Pos              Pos
	PrometheusEnable bool
	PrometheusListen bool
	PrometheusServe  string // address, e.g. 0.0.0.0:20004

	Data       string // folder
	Flows      []string
	NATS       string // URL of an outside NATS; "": embedded
	NATSListen string // default 127.0.0.1:4222
	Listen     string // API, metrics, health; default 127.0.0.1:7070
	Durability string // power (default) or process
	LogFormat  string // text (default) or json
	LogLevel   string // debug, info (default), warn, error
	StateCache int64  // bytes of key state kept in memory; default 256 MiB

	Cluster  *Cluster  // nil: the node is alone
	Security *Security // nil: plain text and no users, for loopback only
}

// Cluster are the settings of a node of a cluster.
type Cluster struct {
	Pos                           Pos
	Name                          string // the cluster's
	Node                          string // this node's
	Listen, Advertise             string // of the embedded NATS, for those of the other nodes
	Join                          []string
	ActorsListen, ActorsAdvertise string // for calls of other nodes
	Lease                         time.Duration
	Standbys                      int // -1: not said
	Replicas                      int
}

// Security are certificates and the user of a node, for NATS and for calls between nodes.
type Security struct {
	Pos            Pos
	Cert, Key, CA  string // files in PEM
	User, Password string // the password by ${ENV:NAME} or ${file:PATH} only
}
