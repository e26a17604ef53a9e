package flowdef

import (
	"slices"
	"strings"
)

// Key describes one key of a definition.
type Key struct {
	Kind    string // func, flow, conn, global
	Path    string // where it stands: source.must, flows[].as; NAME stands for any name
	Type    string
	Default string // "" if it has none
	Doc     string
	Old     string // an older spelling that is read as well
}

// Keys returns all keys of all kinds, in the order of the reference.
func Keys() []Key { return append([]Key(nil), keys...) }

// Types of keys. The reference explains them.
const (
	typeText     = "text"
	typeName     = "name"
	typeInt      = "number"
	typeBool     = "true or false"
	typeDuration = "duration"
	typeSize     = "size"
	typeSubject  = "subject"
	typeExpr     = "expression"
	typeTexts    = "list of texts"
	typeParams   = "mapping of texts"
	typeMapping  = "mapping"
	typeList     = "list"
)

var keys = []Key{
	{Kind: "flow", Path: "kistype", Type: "flow", Doc: "The kind of the definition."},
	{Kind: "flow", Path: "status", Type: typeInt, Default: "0", Doc: "1 enables the flow, 0 disables it. Missing means disabled, with a warning."},
	{Kind: "flow", Path: "flow_name", Old: "flow_id", Type: typeName, Doc: "The flow's name, any Unicode text, unique among flows. Required."},
	{Kind: "flow", Path: "entry", Type: "mapping, list or subject", Doc: "How events come in: one entry, a list of entries, or just a subject. Without an entry the flow is fed by Go code, by the API, by `kisctl publish --flow NAME`, or by a Load."},
	{Kind: "flow", Path: "entry.subject", Type: typeSubject, Doc: "The NATS subject to read; `*` stands for one word, `>` at the end for the rest. Required."},
	{Kind: "flow", Path: "entry.from", Type: "beginning, now, a time, or how long ago", Default: "beginning", Doc: "Where a new flow starts in the stream: `beginning`, `now`, a time (`2026-01-31T12:00:00Z`) or how long ago (`-2h`)."},
	{Kind: "flow", Path: "entry.allow_lossy", Type: typeBool, Default: "false", Doc: "Accepts a stream whose limits may discard unread events."},
	{Kind: "flow", Path: "entry.fields", Type: "mapping of types", Default: "unknown", Doc: "The fields of the rows that come in, and their types: int, float, number (int or float), text, bool, array, object (or a mapping of its fields) and any; with ? behind it where the field may be missing or null. `'*': any` says that there may be others. With it, a field that a step misspells is a mistake."},
	{Kind: "flow", Path: "entry.stream", Type: typeMapping, Doc: "Settings of the stream that kisnode creates where none captures the subject yet."},
	{Kind: "flow", Path: "entry.stream.name", Type: typeName, Default: "made from the subject", Doc: "The stream's name: without blanks, dots, `*`, `>` and slashes."},
	{Kind: "flow", Path: "entry.stream.retention", Type: typeDuration, Default: "for ever", Doc: "How long the stream keeps events."},
	{Kind: "flow", Path: "entry.stream.size", Type: typeSize, Default: "no limit", Doc: "How large the stream may become; a full one refuses new events."},
	{Kind: "flow", Path: "loop", Type: typeMapping, Doc: "Allows that what the flow sends comes in again, directly or through other flows."},
	{Kind: "flow", Path: "loop.most", Type: typeInt, Doc: "How often an event may pass the flow, 1 to 10000. Required."},
	{Kind: "flow", Path: "time", Type: "mapping or name", Default: "when the stream stored the event", Doc: "The event time of the flow's rows, or just its field."},
	{Kind: "flow", Path: "time.field", Type: typeName, Default: "when the stream stored the event", Doc: "The field that holds the time; dots stand between the names of nested ones. A row without a time in it is a dead letter."},
	{Kind: "flow", Path: "time.unit", Type: "s, ms, us or ns", Default: "ms", Doc: "The unit of a number in the field, counted from 1970. A text is read as RFC 3339 (`2026-01-31T12:00:00Z`)."},
	{Kind: "flow", Path: "time.lateness", Type: typeDuration, Default: "0s", Doc: "How far rows may be out of order: the watermark stays so far behind the newest time. At most 366d."},
	{Kind: "flow", Path: "time.idle", Type: typeDuration, Default: "30s", Doc: "How long an input that brings nothing is waited for."},
	{Kind: "flow", Path: "time.ahead", Type: typeDuration, Default: "1d", Doc: "A row whose time is so far ahead of when it came is a dead letter: it would make all others late."},
	{Kind: "flow", Path: "time.since", Type: "time", Default: "2000-01-01", Doc: "A row with an earlier time is a dead letter: most likely the unit is another one."},
	{Kind: "flow", Path: "outputs", Type: typeMapping, Doc: "Settings of output streams that kisnode creates for the flow."},
	{Kind: "flow", Path: "outputs.name", Type: typeName, Default: "made from the subject", Doc: "As entry.stream.name."},
	{Kind: "flow", Path: "outputs.retention", Type: typeDuration, Default: "for ever", Doc: "As entry.stream.retention."},
	{Kind: "flow", Path: "outputs.size", Type: typeSize, Default: "no limit", Doc: "As entry.stream.size."},
	{Kind: "flow", Path: "flows", Type: typeList, Doc: "The steps in their order."},
	{Kind: "flow", Path: "flows.fname", Old: "fid", Type: typeName, Doc: "The step's function. Required."},
	{Kind: "flow", Path: "flows.as", Type: typeName, Default: "the function's name; the second time name#2, and so on", Doc: "The step's name. State is kept under it: a step that keeps its name keeps its state."},
	{Kind: "flow", Path: "flows.params", Type: typeParams, Doc: "Parameters of this step; they win over the function's option.default_params, key by key."},

	{Kind: "func", Path: "kistype", Type: "func", Doc: "The kind of the definition."},
	{Kind: "func", Path: "fname", Old: "fid", Type: typeName, Doc: "The function's name, any Unicode text, unique among functions. Required."},
	{Kind: "func", Path: "fmode", Type: "Verify, Save, Load, Calculate or Expand", Doc: "What the function does. Required."},
	{Kind: "func", Path: "source", Type: typeMapping, Doc: "What the function reads."},
	{Kind: "func", Path: "source.name", Type: typeText, Doc: "A name for the rows; a Save or Load without save.handoff and load.handoff uses it as the hand-off's."},
	{Kind: "func", Path: "source.must", Type: typeTexts, Doc: "The fields that every row must have. Their values are the key: rows of one key are handled in order and share state."},
	{Kind: "func", Path: "needs", Type: "mapping of types", Doc: "The fields that every row must bring, with their types as in the entry.fields of a flow; for Go functions and others that cannot be looked into."},
	{Kind: "func", Path: "offers", Type: "mapping of types", Default: "unknown", Doc: "The fields of the rows that the function emits, with their types as in needs."},
	{Kind: "func", Path: "option", Type: typeMapping, Doc: "Settings of the function."},
	{Kind: "func", Path: "option.cname", Old: "cid", Type: typeName, Doc: "The connector of a Save or Load. Without one it is NATS: a hand-off between flows."},
	{Kind: "func", Path: "option.retry_times", Type: typeInt, Default: "0", Doc: "How often a row is tried again after a passing fault."},
	{Kind: "func", Path: "option.retry_duration", Old: "return_duration", Type: "number of ms, or duration", Default: "0", Doc: "The wait before each retry."},
	{Kind: "func", Path: "option.default_params", Type: typeParams, Doc: "Parameters; a flow's params win over them, key by key."},
	{Kind: "func", Path: "on_error", Type: "dead_letter, stop or park_key", Default: "dead_letter", Doc: "What becomes of a row that fails for good: it is set aside as a dead letter, it stops its partition, or it holds up its key."},
	{Kind: "func", Path: "ttl", Type: "duration or mapping", Default: "for ever", Doc: "How long the state of a key stays that is not changed; then it goes, from memory, disk and log."},
	{Kind: "func", Path: "ttl.after", Type: typeDuration, Doc: "As ttl. Required."},
	{Kind: "func", Path: "ttl.by", Type: "processing or event", Default: "processing", Doc: "Counted by the node's clock, or by the event times of the key's rows against the watermark."},
	{Kind: "func", Path: "verify", Type: typeList, Doc: "The rules of a Verify, tried in their order. Without them it checks source.must alone."},
	{Kind: "func", Path: "verify.rule", Type: typeExpr, Doc: "True for a good row. Required."},
	{Kind: "func", Path: "verify.reason", Type: typeText, Default: "the rule", Doc: "What the dead letter says."},
	{Kind: "func", Path: "verify.else", Type: "dead_letter or drop", Default: "dead_letter", Doc: "What becomes of a row that breaks the rule."},
	{Kind: "func", Path: "calculate", Type: typeMapping, Doc: "The body of a Calculate."},
	{Kind: "func", Path: "calculate.when", Type: typeExpr, Doc: "Rows for which it is false pass unchanged and leave the state alone."},
	{Kind: "func", Path: "calculate.state", Type: typeMapping, Doc: "The fields of the key's state, by name."},
	{Kind: "func", Path: "calculate.state.NAME.init", Type: typeExpr, Default: "0", Doc: "The field's value before the first row; it cannot use row, state or meta."},
	{Kind: "func", Path: "calculate.state.NAME.set", Type: typeExpr, Doc: "The field's value after a row. All of them see the state as it was before the row. Required."},
	{Kind: "func", Path: "calculate.aggregate", Type: typeMapping, Doc: "What is gathered of the key's rows, by name: one of the aggregates, as in `total: sum(row.amount)`, or one of its own. `emit` sees them as fields of the state."},
	{Kind: "func", Path: "calculate.aggregate.NAME.init", Type: typeExpr, Doc: "Of an aggregate of its own: `self` before the first row. Required."},
	{Kind: "func", Path: "calculate.aggregate.NAME.add", Type: typeExpr, Doc: "`self` after a row. Required."},
	{Kind: "func", Path: "calculate.aggregate.NAME.remove", Type: typeExpr, Default: "rows cannot be taken back", Doc: "`self` when a row is taken back, because another one replaces it."},
	{Kind: "func", Path: "calculate.aggregate.NAME.result", Type: typeExpr, Default: "`self`", Doc: "What `emit` sees."},
	{Kind: "func", Path: "calculate.replace", Type: typeExpr, Default: "no row is replaced", Doc: "A row takes the place of the older one with the same value here: an order that changes its amount."},
	{Kind: "func", Path: "calculate.window", Type: typeMapping, Default: "all rows of the key", Doc: "Gathers the rows of a stretch of time, or so many rows, and emits their result when it is over. One of tumbling, hopping, sliding, session and count says which kind."},
	{Kind: "func", Path: "calculate.window.tumbling", Type: typeDuration, Doc: "Windows of this length, one behind the other. At most 366d."},
	{Kind: "func", Path: "calculate.window.hopping", Type: typeDuration, Doc: "Windows of this length that overlap: every says when the next one begins. At most 366d."},
	{Kind: "func", Path: "calculate.window.sliding", Type: typeDuration, Doc: "For each row the rows of this length up to it. At most 92d."},
	{Kind: "func", Path: "calculate.window.session", Type: typeDuration, Doc: "Rows with no longer gap between them. At most 92d."},
	{Kind: "func", Path: "calculate.window.count", Type: typeInt, Doc: "So many rows, 1 to 100000, in the order in which they come."},
	{Kind: "func", Path: "calculate.window.every", Type: "duration, or number of rows", Default: "a count window's count", Doc: "Of a hopping window: the time from one start to the next; a row may be in 1000 windows at most. Of a count window: the rows from one result to the next."},
	{Kind: "func", Path: "calculate.window.offset", Type: typeDuration, Default: "0s", Doc: "Tumbling and hopping windows start at multiples of their length (of every) since 1970 and this."},
	{Kind: "func", Path: "calculate.window.time", Type: "event or processing", Default: "event", Doc: "The time that the window goes by."},
	{Kind: "func", Path: "calculate.window.early", Type: typeDuration, Default: "no early results", Doc: "Emits the results so far, this long after a row changed them, with `window.early` true. At most 24h."},
	{Kind: "func", Path: "calculate.window.early_rows", Type: typeInt, Default: "no early results", Doc: "Emits the result so far after so many rows."},
	{Kind: "func", Path: "calculate.window.late", Type: "dead_letter, drop, update or mapping", Default: "dead_letter", Doc: "What becomes of a row whose windows are closed: `update` emits their results once more, `{subject: ...}` sends the row there."},
	{Kind: "func", Path: "calculate.window.late.subject", Type: "subject, may hold {field}", Doc: "Where late rows are sent. Required."},
	{Kind: "func", Path: "calculate.window.keep", Type: typeDuration, Doc: "With late: update, how long after its end a window may still change. At most 92d."},
	{Kind: "func", Path: "calculate.emit", Type: "mapping of expressions", Default: "the row itself", Doc: "The fields of the row that goes on. They see the state after the row."},
	{Kind: "func", Path: "join", Type: typeMapping, Doc: "The body of a Calculate that puts rows of two sides together, which have the same source.must fields."},
	{Kind: "func", Path: "join.left", Type: typeMapping, Default: "the rows that are not of the right side", Doc: "One side."},
	{Kind: "func", Path: "join.left.when", Type: typeExpr, Default: "the rows that are not of the other side", Doc: "Which rows are of this side."},
	{Kind: "func", Path: "join.left.keep", Type: "all or last", Default: "all", Doc: "Which rows are kept for those that come later: all, or only the newest by event time, as in a table."},
	{Kind: "func", Path: "join.right", Type: typeMapping, Default: "the rows that are not of the left side", Doc: "The other side."},
	{Kind: "func", Path: "join.right.when", Type: typeExpr, Default: "the rows that are not of the other side", Doc: "As join.left.when."},
	{Kind: "func", Path: "join.right.keep", Type: "all or last", Default: "all", Doc: "As join.left.keep."},
	{Kind: "func", Path: "join.within", Type: "duration or mapping", Default: "for ever", Doc: "How far the times of two rows may be apart. Without it rows of any time go together, and are kept for ever. At most 92d."},
	{Kind: "func", Path: "join.within.before", Type: typeDuration, Default: "0s", Doc: "How far the right row may be before the left one."},
	{Kind: "func", Path: "join.within.after", Type: typeDuration, Default: "0s", Doc: "How far the right row may be behind the left one."},
	{Kind: "func", Path: "join.type", Type: "inner, left, right or full", Default: "inner", Doc: "Which rows come out without a partner when their time is over; their other side is null."},
	{Kind: "func", Path: "join.on", Type: typeExpr, Default: "every pair", Doc: "A further condition on `left` and `right`."},
	{Kind: "func", Path: "join.emit", Type: "mapping of expressions", Doc: "The fields of the row that goes on, of `left`, `right` and `key`. Required."},
	{Kind: "func", Path: "join.late", Type: "dead_letter, drop or mapping", Default: "dead_letter", Doc: "What becomes of a row that comes when its time is over; `{subject: ...}` sends it there."},
	{Kind: "func", Path: "join.late.subject", Type: "subject, may hold {field}", Doc: "Where late rows are sent. Required."},
	{Kind: "func", Path: "expand", Type: typeMapping, Doc: "The body of an Expand."},
	{Kind: "func", Path: "expand.subject", Type: "subject, may hold {field}", Doc: "Where the row goes; {field} is the row's value there. Required."},
	{Kind: "func", Path: "expand.emit", Type: "mapping of expressions", Default: "the row itself", Doc: "The fields of what is sent."},
	{Kind: "func", Path: "expand.pack", Type: typeBool, Default: "false", Doc: "Sends several rows in one message, one a line (NDJSON)."},
	{Kind: "func", Path: "expand.shared", Type: typeBool, Default: "false", Doc: "Allows several flows to send to the subject. All of their Expands must say it."},
	{Kind: "func", Path: "expand.when", Type: typeExpr, Doc: "Only rows for which it is true are sent."},
	{Kind: "func", Path: "script", Type: "script, or mapping", Doc: "The body of a Verify, Calculate or Expand in JavaScript: `function handle(row, state, ctx)`."},
	{Kind: "func", Path: "script.text", Type: "script", Doc: "The script itself, where settings stand beside it."},
	{Kind: "func", Path: "script.file", Type: "path", Doc: "The file of the script, which ends in .js, in the folder of the definition or below. It is read together with the definition, and is part of it from then on."},
	{Kind: "func", Path: "script.timeout", Type: typeDuration, Default: "1s", Doc: "How long the script may take for a row; a longer one is a dead letter."},
	{Kind: "func", Path: "script.memory", Type: typeSize, Default: "64MiB", Doc: "How much memory it may use; the row for which it uses more is a dead letter."},
	{Kind: "func", Path: "script.keeps_key", Type: typeBool, Default: "false", Doc: "Declares that the rows that it returns have the source.must fields of the row that they come of."},
	{Kind: "func", Path: "script_text", Type: "script", Doc: "What script.file held when the definition was read. It is put there by kisctl and kisnode, and not written by hand."},
	{Kind: "func", Path: "remote", Type: typeMapping, Doc: "The body of a Verify, Calculate or Expand that another program answers, in any language."},
	{Kind: "func", Path: "remote.subject", Type: typeSubject, Doc: "The NATS subject to which the requests go."},
	{Kind: "func", Path: "remote.url", Type: "URL", Doc: "The HTTP address to which they go instead."},
	{Kind: "func", Path: "remote.timeout", Type: typeDuration, Default: "2s", Doc: "How long an answer may take."},
	{Kind: "func", Path: "remote.batch", Type: typeInt, Default: "100", Doc: "The most rows in a request."},
	{Kind: "func", Path: "remote.retries", Type: typeInt, Default: "without end", Doc: "How often a row is tried again when nobody answers, before it becomes a dead letter. The wait between is option.retry_duration, 1s by default."},
	{Kind: "func", Path: "remote.keeps_key", Type: typeBool, Default: "false", Doc: "As script.keeps_key."},
	{Kind: "func", Path: "save", Type: typeMapping, Doc: "The body of a Save."},
	{Kind: "func", Path: "save.handoff", Type: typeName, Default: "source.name, else fname", Doc: "The name under which other flows load the rows."},
	{Kind: "func", Path: "save.retention", Type: typeDuration, Default: "7d", Doc: "How long rows are kept at least. Rows that a registered Load has not read yet are kept longer."},
	{Kind: "func", Path: "save.size", Type: typeSize, Default: "no limit", Doc: "How large the hand-off may become; a full one pauses the saving flow."},
	{Kind: "func", Path: "save.fields", Type: typeTexts, Default: "all", Doc: "The fields that this Save writes; flows that write different fields do not disturb each other."},
	{Kind: "func", Path: "save.shared", Type: typeBool, Default: "false", Doc: "Allows several flows to write the same fields. All of their Saves must say it."},
	{Kind: "func", Path: "save.key", Type: typeTexts, Default: "source.must", Doc: "The fields of the key by which rows are saved in order, and the latest one is kept. The other fields of source.must are only looked for."},
	{Kind: "func", Path: "save.keep", Type: "last or none", Default: "last, from when a Load first needs it", Doc: "`last` keeps the latest row of each key from the first row on, `none` never does. Tables and look-ups of other flows need it; a Save without a key cannot."},
	{Kind: "func", Path: "load", Type: typeMapping, Doc: "The body of a Load."},
	{Kind: "func", Path: "load.handoff", Type: typeName, Default: "source.name, else fname", Doc: "The hand-off whose rows join the flow at this step, or of a look-up whose latest rows are asked for."},
	{Kind: "func", Path: "load.from", Type: "beginning, now, a time, or how long ago", Default: "beginning", Doc: "Where a new Load starts in the hand-off, as entry.from. A time before the earliest row that is there is a mistake of the flow, which says which one that is. A table from the beginning begins with the rows that the Saves keep (save.keep), so that it lacks nothing that was cut."},

	{Kind: "func", Path: "load.as", Type: "stream, table or lookup", Default: "stream; lookup where option.cname names a connector other than nats", Doc: "As a stream, the rows that are loaded go on from here. As a table, the latest one of each key is kept, and its fields are added to the rows that come from the step before. As a lookup, the connector of `option.cname` is asked for each row that comes from the step before, or without one the latest row that was saved to the hand-off."},
	{Kind: "func", Path: "load.set", Type: "mapping of expressions", Default: "all fields that the row lacks", Doc: "Of a table or a look-up: the fields that are added. They see `row`, and `table` or `found`, which is null where there is nothing of the key."},
	{Kind: "func", Path: "load.missing", Type: "pass, drop or dead_letter", Default: "pass", Doc: "Of a table or a look-up: what becomes of a row whose key it does not have."},
	{Kind: "func", Path: "load.key", Type: "expression, or mapping of expressions", Default: "the must fields, joined by `:`; of a hand-off the row's fields of the same names", Doc: "Of a look-up: the key that is asked for, a text, a number or a truth value. Where it is null or empty there is nothing to be found. Of a hand-off with a key of several fields: what each of them is."},
	{Kind: "func", Path: "load.cache", Type: typeDuration, Default: "1m; of a hand-off 0s", Doc: "Of a look-up: how long what was found is used again. That there was nothing is remembered for a tenth of it, at most 30s. 0s: each batch asks. At most 30d."},
	{Kind: "func", Path: "load.cache_size", Type: typeInt, Default: "10000", Doc: "Of a look-up: how many keys are remembered, at most 10000000; and no more than 256 MiB."},
	{Kind: "func", Path: "load.timeout", Type: typeDuration, Default: "1s", Doc: "Of a look-up: how long one request may take, 1ms to 5m."},
	{Kind: "func", Path: "version", Type: typeInt, Default: "none", Doc: "The version of the state's form, from 1 on. A state of an earlier version is migrated when its key is next used; a definition without a version had version 0."},
	{Kind: "func", Path: "migrate", Type: "mapping of expressions", Default: "fields keep their values", Doc: "Fields of the state, made from a state of an earlier `version`, which is `state`. Where that fails the key keeps its state, and its rows are dead letters."},

	{Kind: "conn", Path: "kistype", Type: "conn", Doc: "The kind of the definition."},
	{Kind: "conn", Path: "cname", Old: "cid", Type: typeName, Doc: "The connector's name, any Unicode text, unique among connectors. Required."},
	{Kind: "conn", Path: "addrs", Type: typeText, Doc: "Addresses, joined by commas."},
	{Kind: "conn", Path: "type", Type: typeText, Doc: "What it connects to: nats, redis, http and file, as the [reference of connectors](connectors.md) says; another name needs Go code."},
	{Kind: "conn", Path: "key", Type: typeText, Doc: "Table, topic, or prefix of keys; the type says what it is."},
	{Kind: "conn", Path: "params", Type: typeParams, Doc: "Further settings of the connector."},
	{Kind: "conn", Path: "load", Type: typeTexts, Doc: "Functions that load through it. For the reader only: what counts is option.cname of the function."},
	{Kind: "conn", Path: "save", Type: typeTexts, Doc: "Functions that save through it. For the reader only."},
	{Kind: "conn", Path: "flow", Type: typeTexts, Doc: "Flows that use it. For the reader only; written by early versions."},

	{Kind: "global", Path: "kistype", Type: "global", Doc: "The kind of the definition."},
	{Kind: "global", Path: "prometheus_enable", Type: typeBool, Default: "false", Doc: "Counts what the flows do."},
	{Kind: "global", Path: "prometheus_listen", Type: typeBool, Default: "false", Doc: "Serves the metrics on an address of their own, with prometheus_enable."},
	{Kind: "global", Path: "prometheus_serve", Type: typeText, Doc: "That address, for example 0.0.0.0:20004."},
	{Kind: "global", Path: "data", Type: typeText, Doc: "The data folder."},
	{Kind: "global", Path: "flows", Type: typeTexts, Doc: "Files and folders with definitions, as a list or one path."},
	{Kind: "global", Path: "nats", Type: typeText, Default: "the embedded server", Doc: "URL of an outside NATS."},
	{Kind: "global", Path: "nats_listen", Type: typeText, Default: "127.0.0.1:4222", Doc: "Address of the embedded NATS."},
	{Kind: "global", Path: "listen", Type: typeText, Default: "127.0.0.1:7070", Doc: "Address of the API, of health and of the metrics."},
	{Kind: "global", Path: "durability", Type: "power or process", Default: "power", Doc: "What an acknowledged event survives: a power cut, or the end of the process."},
	{Kind: "global", Path: "log_format", Type: "text or json", Default: "text", Doc: "How log lines are written."},
	{Kind: "global", Path: "log_level", Type: "debug, info, warn or error", Default: "info", Doc: "The least level that is logged."},
	{Kind: "global", Path: "state_cache", Type: typeSize, Default: "256MiB", Doc: "Key state that is kept in memory."},
	{Kind: "global", Path: "cluster", Type: typeMapping, Default: "the node is alone", Doc: "Makes the node one of a cluster."},
	{Kind: "global", Path: "cluster.name", Type: typeText, Doc: "The cluster's name: letters, digits, - and _. Required."},
	{Kind: "global", Path: "cluster.node", Type: typeText, Doc: "This node's name in it, the same at every start. Required, here or as --node."},
	{Kind: "global", Path: "cluster.listen", Type: typeText, Doc: "Address of the embedded NATS for those of the other nodes."},
	{Kind: "global", Path: "cluster.advertise", Type: typeText, Default: "cluster.listen", Doc: "Where they reach it."},
	{Kind: "global", Path: "cluster.join", Type: typeTexts, Doc: "Those addresses of the one, three or five nodes that JetStream runs on; the same at all nodes."},
	{Kind: "global", Path: "cluster.actors_listen", Type: typeText, Default: "the host of cluster.listen, a free port", Doc: "Address for calls of other nodes."},
	{Kind: "global", Path: "cluster.actors_advertise", Type: typeText, Default: "cluster.actors_listen", Doc: "Where they reach it."},
	{Kind: "global", Path: "cluster.lease", Type: typeDuration, Default: "5s", Doc: "How long a node may be silent before others take its partitions over."},
	{Kind: "global", Path: "cluster.standbys", Type: typeInt, Default: "1", Doc: "How many nodes keep a warm copy of each partition beside its owner: 0 to 2."},
	{Kind: "global", Path: "cluster.replicas", Type: typeInt, Default: "3 where JetStream runs on as many nodes, else 1", Doc: "Replicas of every stream."},
	{Kind: "global", Path: "security", Type: typeMapping, Default: "plain text, on loopback only", Doc: "Certificates and the user, for NATS, between its servers, and for calls between nodes."},
	{Kind: "global", Path: "security.cert", Type: typeText, Doc: "File of this node's certificate, in PEM."},
	{Kind: "global", Path: "security.key", Type: typeText, Doc: "File of its key."},
	{Kind: "global", Path: "security.ca", Type: typeText, Doc: "File of the certificates that those of the others are signed by."},
	{Kind: "global", Path: "security.user", Type: typeText, Doc: "The user that nodes and other clients of NATS present."},
	{Kind: "global", Path: "security.password", Type: typeText, Doc: "Its password, as `${ENV:NAME}` or `${file:PATH}`."},
}

// testKeys are the keys of files with tests.
var testKeys = []Key{
	{Kind: "test", Path: "test", Type: typeText, Doc: "What the test shows, in a few words. Required."},
	{Kind: "test", Path: "flow", Type: typeName, Default: "the only one that takes events", Doc: "The flow that is fed and looked at."},
	{Kind: "test", Path: "start", Type: "time", Default: "2026-01-01T00:00:00Z", Doc: "When the test's clock starts. It moves only by `wait`."},
	{Kind: "test", Path: "steps", Type: typeList, Doc: "What the test does and expects, in order: each step has one of in, wait, end, out, state and dead_letters. Required."},
	{Kind: "test", Path: "steps.in", Type: "row or list of rows", Doc: "Events that are published, one a message. A text is published as it is: to see what becomes of what is no row."},
	{Kind: "test", Path: "steps.subject", Type: typeSubject, Default: "the flow's entry; any", Doc: "Of in: where it is published. Of out: the subject that is looked at."},
	{Kind: "test", Path: "steps.wait", Type: typeDuration, Doc: "Moves the clock on; what falls due on the way happens at its time."},
	{Kind: "test", Path: "steps.end", Type: typeBool, Doc: "Ends the entries: all windows close, all timers fire."},
	{Kind: "test", Path: "steps.out", Type: "row or list of rows", Doc: "What has come out since the last `out`, in order; `[]` for nothing."},
	{Kind: "test", Path: "steps.any_order", Type: typeBool, Default: "false", Doc: "Of out and dead_letters: the order does not matter."},
	{Kind: "test", Path: "steps.partial", Type: typeBool, Default: "false", Doc: "Of out, state and dead_letters: there may be more fields than are named."},
	{Kind: "test", Path: "steps.state", Type: typeMapping, Doc: "The state of a key."},
	{Kind: "test", Path: "steps.state.flow", Type: typeName, Default: "the one that is fed", Doc: "The flow."},
	{Kind: "test", Path: "steps.state.step", Type: typeName, Doc: "The step. Required."},
	{Kind: "test", Path: "steps.state.key", Type: typeMapping, Doc: "The values of the step's must fields. Required."},
	{Kind: "test", Path: "steps.state.is", Type: typeMapping, Default: "none", Doc: "The state's fields; left out: the key has no state."},
	{Kind: "test", Path: "steps.dead_letters", Type: typeList, Doc: "The dead letters of the flow that have come since the last look; `[]` for none."},
	{Kind: "test", Path: "steps.dead_letters.step", Type: typeName, Default: "any", Doc: "The step."},
	{Kind: "test", Path: "steps.dead_letters.reason", Type: typeText, Default: "any", Doc: "A part of the reason."},
	{Kind: "test", Path: "steps.dead_letters.row", Type: typeMapping, Default: "any", Doc: "The row."},
}

// keysOf returns the keys of a kind of documents.
func keysOf(kind string) []Key {
	if kind == "test" {
		return testKeys
	}
	return keys
}

// kinds are the kinds of definitions.
var kinds = []string{"func", "flow", "conn", "global"}

// findKey returns the key at a path of a kind, by its name or its older spelling.
func findKey(kind, parent, name string) *Key {
	keys := keysOf(kind)
	for i := range keys {
		k := &keys[i]
		if k.Kind != kind || k.parent() != parent {
			continue
		}
		if k.name() == name || k.Old != "" && k.Old == name {
			return k
		}
	}
	return nil
}

// keysAt returns the names of the keys below a path of a kind.
func keysAt(kind, parent string) []string {
	var names []string
	for _, k := range keysOf(kind) {
		if k.Kind == kind && k.parent() == parent {
			names = append(names, k.name())
		}
	}
	return names
}

// kindsOf returns where else a key of that name stands, for a hint.
func (k Key) parent() string {
	if i := strings.LastIndexByte(k.Path, '.'); i >= 0 {
		return k.Path[:i]
	}
	return ""
}

func (k Key) name() string { return k.Path[strings.LastIndexByte(k.Path, '.')+1:] }

// elsewhere returns the path of a key of that name at another place of the kind, if there is just one.
func elsewhere(kind, parent, name string) string {
	var found []string
	for _, k := range keysOf(kind) {
		if k.Kind == kind && k.parent() != parent && (k.name() == name || k.Old == name && name != "") {
			found = append(found, k.Path)
		}
	}
	if len(slices.Compact(found)) == 1 {
		return found[0]
	}
	return ""
}
