package actors

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Flow is a flow as the engine runs it: made by node from the definitions. It is not changed once it runs;
// another revision is another Flow.
type Flow struct {
	Name     string
	Revision uint64
	Inputs   []Input // entries and loads
	Steps    []Step
	Time     EventTime
	// Passes is how often an event may pass the flow: through what it sends and saves it may come in again. 0: the
	// flow is in no circle, and nothing is counted.
	Passes int
	// Partitions is the number of partitions of each of its stages. 0: the system's default.
	Partitions int
	// Generation is that of the layout: where the number of partitions changes, the next one begins, whose partitions have
	// names, logs and hand-offs of their own. 0 and 1 are the first one.
	Generation uint64
}

// partitions is the number of partitions of a stage.
func (f *Flow) partitions(byDefault int) int {
	if f.Partitions > 0 {
		return f.Partitions
	}
	return byDefault
}

// partitionName names a partition of the flow's layout.
func (f *Flow) partitionName(stage string, number int) string {
	return PartitionName(f.Name, stage, number, f.Generation)
}

// EventTime says where the flow's rows have their event time from, and what is expected of it. The zero value: from
// when the stream stored the message.
type EventTime struct {
	// Field is the field that holds the time, with dots between the names of nested ones; "": the time is that of
	// the message.
	Field string
	// Unit is that of a number in the field; a text is in RFC 3339. Default a millisecond.
	Unit time.Duration
	// Lateness is how far behind the newest event time a row may come: the watermark stays so far behind.
	Lateness time.Duration
	// Idle is for how long an input is waited for that brings nothing. Default 30 s.
	Idle time.Duration
	// Ahead is how far an event time may be ahead of when its message was stored. Default 24 h.
	Ahead time.Duration
	// Since is the earliest event time that is believed. Default 2000-01-01.
	Since time.Time
}

func (t EventTime) withDefaults() EventTime {
	if t.Unit == 0 {
		t.Unit = time.Millisecond
	}
	if t.Idle == 0 {
		t.Idle = 30 * time.Second
	}
	if t.Ahead == 0 {
		t.Ahead = 24 * time.Hour
	}
	if t.Since.IsZero() {
		t.Since = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}

// Step is a function at a place of a flow.
type Step struct {
	Name     string // stable: it names the state
	Function kis.Function
	Mode     kis.Mode
	Must     []string // the key's fields; empty: no key
	Params   kis.Params
	OnError  Policy
	// RetryTimes and RetryDelay are for errors that ask for a retry (kis.Retry).
	RetryTimes int
	RetryDelay time.Duration
	// Save names the hand-off to which what the step emits is written, or "".
	Save string
	// Outputs are the streams that a Send of this step may reach.
	Outputs []Output
	// Pack puts the rows of a commit that are sent to one subject into messages of many lines (NDJSON).
	Pack bool
	// TTL is for how long the state of a key stays that is not changed; 0: for ever. TTLByEvent counts it by the
	// event times of the key's rows against the watermark; else it is counted by the times of commits.
	TTL        time.Duration
	TTLByEvent bool
	// Begun is the revision with which the step began: states and timers that an earlier one has left under its name
	// and key are those of another step, and no use to it. 0: what is there is its own.
	Begun uint64
}

// Policy says what becomes of a row that its function refuses.
type Policy uint8

// The policies of a step (on_error).
const (
	SetAside      Policy = iota // it becomes a dead letter; the key goes on
	StopPartition               // the partition stops before it
	ParkKey                     // it waits, and all later rows of its key behind it, until it is retried or dropped
)

// Output is a stream that rows are sent to.
type Output struct {
	Stream  string
	Subject string // what the step sends to, with a wildcard where a part depends on the row
	// Fenced says that the stream also captures the fence subjects (OutputFence); without them the outputs
	// are once only within the stream's duplicate window.
	Fenced bool
}

// Input is a stream that feeds a flow.
type Input struct {
	Kind InputKind
	// Name is what positions call it: the stream's name, and for a Load the step's behind it. No two inputs of
	// a flow have the same.
	Name    string
	Stream  string
	Created int64    // the stream's creation, unix nanoseconds
	Filter  []string // subjects; empty: all
	// Start is the position of a partition that has never read this input: everything above it is read.
	Start uint64
	Step  int // the step at which its rows go on
	// Copy says, of a Load whose step keeps rows, that it begins with the rows that the hand-off's Saves keep.
	Copy *CopyOf
	// MayLose says that the definitions accept that the stream discards events that nobody has read.
	MayLose bool
}

// InputKind is how an input's messages are read.
type InputKind uint8

// The kinds of inputs.
const (
	Entry   InputKind = iota // payloads of users: JSON objects (P15)
	Load                     // envelopes of a Save: every loading flow keys them for itself
	HandOff                  // envelopes between the flow's own partitions: each has its receiver
	// Kept are envelopes that a step of the flow has itself saved, before it kept the rows that it saves: they are taken in
	// at that step, up to where the hand-off ended when this began, and then the input has ended for good.
	Kept
)

// stageName names the partitions of the steps with these key fields. It is made of the fields alone, so a
// step keeps its state wherever it moves in its flow.
func stageName(must []string) string { return strings.Join(must, ",") }

// DefaultPartitions is the number of partitions of a stage: enough for the cores of a few machines, cheap
// when idle.
const DefaultPartitions = 8

// partitionOf returns the partition of a slot: ranges of slots of equal size.
func partitionOf(slot uint16, partitions int) int { return int(slot) * partitions / kis.Slots }

// numbered is a partition's number in names and subjects: 3, and from the second layout generation on 3@2.
func numbered(number int, generation uint64) string {
	if generation <= 1 {
		return strconv.Itoa(number)
	}
	return strconv.Itoa(number) + "@" + strconv.FormatUint(generation, 10)
}

// parseNumbered is its inverse.
func parseNumbered(text string) (number int, generation uint64, ok bool) {
	n, g, later := strings.Cut(text, "@")
	number, err := strconv.Atoi(n)
	generation = 1
	if later && err == nil {
		generation, err = strconv.ParseUint(g, 10, 64)
	}
	return number, generation, err == nil && numbered(number, generation) == text
}

// PartitionName names a partition in logs, in the store and to people: flow/stage/number.
func PartitionName(flow, stage string, number int, generation uint64) string {
	return flow + "/" + strings.ReplaceAll(stage, "/", "=2F") + "/" + numbered(number, generation)
}

// parsePartitionName is its inverse.
func parsePartitionName(name string) (id PartitionID, ok bool) {
	rest, place, ok := cutLast(name, '/')
	if !ok {
		return id, false
	}
	id.Flow, id.Stage, ok = cutLast(rest, '/')
	if !ok {
		return id, false
	}
	id.Stage = strings.ReplaceAll(id.Stage, "=2F", "/")
	id.Number, id.Generation, ok = parseNumbered(place)
	return id, ok
}

// FlowOfPartition is the flow of a partition's name. A flow's name may hold slashes: the
// stage begins behind the last slash but one because a slash in a stage's name is written =2F there.
func FlowOfPartition(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return name
	}
	if i = strings.LastIndexByte(name[:i], '/'); i < 0 {
		return name
	}
	return name[:i]
}

// Token writes a name as one token of a subject, or a part of a stream's name: letters, digits, '-' and '_'
// stay, all else becomes =XX for each byte. Different names have different tokens.
func Token(name string) string {
	plain := name != ""
	for i := 0; i < len(name) && plain; i++ {
		plain = plainByte(name[i])
	}
	if plain {
		return name
	}
	if name == "" {
		return "="
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if c := name[i]; plainByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// The streams and subjects of a flow, and of a hand-off.
func LogStream(flow string) string     { return "KISFLOW_LOG_" + Token(flow) }
func HandOffStream(flow string) string { return "KISFLOW_HOP_" + Token(flow) }
func SaveStream(name string) string    { return "KISFLOW_SAVE_" + Token(name) }

// LogSubjects, HandOffSubjects and SaveSubjects are what those streams capture.
func LogSubjects(flow string) string     { return "KISFLOW.log." + Token(flow) + ".>" }
func HandOffSubjects(flow string) string { return "KISFLOW.hop." + Token(flow) + ".>" }
func SaveSubjects(name string) string    { return "KISFLOW.save." + Token(name) + ".>" }

func logSubject(flow, stage string, number int, generation uint64) string {
	return "KISFLOW.log." + Token(flow) + "." + Token(stage) + "." + numbered(number, generation)
}

// handOffStreamOf tells whether the name of a target is the subject of a hand-off, and its stream.
func handOffStreamOf(f *Flow, target string) (stream string, ok bool) {
	if strings.HasPrefix(target, "KISFLOW.hop.") {
		return HandOffStream(f.Name), true
	}
	if rest, ok := strings.CutPrefix(target, "KISFLOW.save."); ok {
		name, _, _ := strings.Cut(rest, ".")
		return "KISFLOW_SAVE_" + name, true
	}
	return target, false
}

// generationText is a layout generation as the last token of a subject, and in the name of a sender.
func generationText(generation uint64) string { return strconv.FormatUint(max(1, generation), 10) }

// handOffSubject is of one sender and one receiver of a layout.
func handOffSubject(flow, toStage string, to int, fromStage string, from int, generation uint64) string {
	return "KISFLOW.hop." + Token(flow) + "." + Token(toStage) + "." + numbered(to, generation) + "." +
		Token(fromStage) + "." + numbered(from, generation) + "." + generationText(generation)
}

// receiverSubjects is what all senders of the flow send to one partition.
func receiverSubjects(flow, stage string, number int, generation uint64) string {
	return "KISFLOW.hop." + Token(flow) + "." + Token(stage) + "." + numbered(number, generation) + ".>"
}

func saveSubject(name, flow, stage string, number int, generation uint64) string {
	return "KISFLOW.save." + Token(name) + "." + Token(flow) + "." + Token(stage) + "." + numbered(number, generation) + "." + generationText(generation)
}

// OutputFence is the subject of the fence of a partition in an output stream, and OutputFences what such a
// stream has to capture beside its own subjects. It ends in the partition's mark.
func OutputFence(stream, partition string) string {
	return "KISFLOW.fence." + Token(stream) + "." + shortMark(partition)
}

// OutputFences is the filter of all fences of an output stream.
func OutputFences(stream string) string { return "KISFLOW.fence." + Token(stream) + ".>" }

// originHeader is the header of an output: its sender's mark, a space, and the output's number in that stream.
// Readers may use it to drop repeats where the stream is not fenced. The sender's fence message in the stream says
// whose mark it is.
const originHeader = "Kisflow-Origin"

// shortMark stands for a name in what every output carries, where each byte is written, hashed and read many times: 64 bits of
// its SHA-256, in 13 letters and digits.
//
// Two of a hundred thousand partitions that write to one stream share a mark once in four thousand million such streams. Where two
// do, the second one finds a fence that says another name, before it has written any output there, and stops.
func shortMark(name string) string {
	h := sha256.Sum256([]byte(name))
	return markCoding.EncodeToString(h[:8])
}

// The alphabet is without n: the server looks for its own headers by that letter.
var markCoding = base32.NewEncoding("0123456789abcdefghijklmopqrstuvw").WithPadding(base32.NoPadding)

// passesHeader is the header of an output whose event has passed flows that it may pass again.
const passesHeader = "Kisflow-Passes"

// covers tells whether a subject with wildcards captures a plain subject.
func covers(filter, subject string) bool {
	for {
		f, fRest, fMore := strings.Cut(filter, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		switch {
		case f == ">":
			return subject != ""
		case f != "*" && f != s:
			return false
		case fMore != sMore:
			return false
		case !fMore:
			return true
		}
		filter, subject = fRest, sRest
	}
}
