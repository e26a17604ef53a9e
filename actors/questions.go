package actors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Remote asks partitions that run on other nodes.
type Remote interface {
	// Ask sends a question to the owner of a partition. One that may be asked again is, while the partition moves; the error
	// is made of what ErrorCode said of the one there.
	Ask(ctx context.Context, p PartitionID, question string, again bool, body []byte) ([]byte, error)
}

// PartitionID is a partition's identity.
type PartitionID struct {
	Flow, Stage string
	Number      int
	Generation  uint64 // of the flow's layout, from 1
}

// String is the partition's name.
func (p PartitionID) String() string {
	return PartitionName(p.Flow, p.Stage, p.Number, p.Generation)
}

// partitionID identifies a partition of the flow's layout.
func (f *Flow) partitionID(stage string, number int) PartitionID {
	return PartitionID{f.Name, stage, number, max(1, f.Generation)}
}

// ownerOf is the partition that owns a step's key, by the key's slot: this is how a virtual actor's identity, flow, step and
// key, finds where it lives. The flow runs.
func (f *Flow) ownerOf(s *Step, slot uint16) PartitionID {
	return f.partitionID(stageName(s.Must), partitionOf(slot, f.Partitions))
}

// ErrElsewhere: the partition does not run on this node.
var ErrElsewhere = errors.New("the partition does not run here")

// Ask lets the system reach partitions of other nodes.
func (s *System) Ask(r Remote) {
	s.mu.Lock()
	s.remote = r
	s.mu.Unlock()
}

// question is what may be asked of a partition, wherever it runs: a message to its mailbox, and in a form that a node can
// send to another one. What changes something is a command: it is not asked again when its answer got lost.
type question[Q, A any] struct {
	name    string
	command bool
	answer  func(ctx context.Context, p *Partition, q Q) (A, error)
}

// The questions. They are answered under the flow's own context: who asked may be gone before a record is written.
var (
	stateQuestion = question[stateOf, keptState]{"state", false, func(ctx context.Context, p *Partition, q stateOf) (keptState, error) {
		s, err := p.stateful(q.Step)
		if err != nil {
			return keptState{}, err
		}
		key, err := kis.KeyFromCanonical(s.Must, string(q.Key))
		if err != nil {
			return keptState{}, err
		}
		if q.Consistent {
			if err := p.Confirm(ctx); err != nil {
				return keptState{}, err
			}
		}
		if p.meta.Sequence < q.AtLeast { // a former owner who has not heard yet that it is none
			return keptState{}, fmt.Errorf("%w: its log stands at %d here, %d was seen already", ErrElsewhere, p.meta.Sequence, q.AtLeast)
		}
		e, err := p.State(q.Step, key)
		if errors.Is(err, ErrNoState) {
			return keptState{None: true, Commit: p.meta.Sequence}, nil
		}
		k := keep(e)
		k.Commit = p.meta.Sequence
		return k, err
	}}
	statesOfQuestion = question[statesOf, []keptState]{"states of", false, func(_ context.Context, p *Partition, q statesOf) (found []keptState, err error) {
		s, err := p.stateful(q.Step)
		if err != nil {
			return nil, err
		}
		for _, k := range q.Keys {
			key, err := kis.KeyFromCanonical(s.Must, string(k))
			if err != nil {
				return nil, err
			}
			e, err := p.State(q.Step, key)
			if errors.Is(err, ErrNoState) {
				continue
			}
			if err != nil {
				return nil, err
			}
			found = append(found, keep(e))
		}
		return found, nil
	}}
	statesQuestion = question[pageOf, keptStates]{"states", false, func(_ context.Context, p *Partition, q pageOf) (l keptStates, err error) {
		looked := 0
		size := 0
		err = p.States(q.Step, q.After, func(e KeyState, at []byte) bool {
			if looked++; q.Prefix == "" || strings.HasPrefix(e.Key.String(), q.Prefix) {
				l.Entries = append(l.Entries, keep(e))
				size += len(e.State)
			}
			if len(l.Entries) >= q.Limit || looked >= lookedMost || size >= answerBytes {
				l.Next = at
				return false
			}
			return true
		})
		return l, err
	}}
	lettersQuestion = question[lettersOf, keptLetters]{"letters", false, func(_ context.Context, p *Partition, q lettersOf) (l keptLetters, err error) {
		looked, size := 0, 0
		err = p.DeadLetters(q.After, func(e Letter, at []byte) bool {
			if looked++; q.Filter.matches(e) {
				l.Letters = append(l.Letters, e)
				size += len(e.Data) + len(e.Stack) + len(e.Reason)
			}
			if len(l.Letters) >= q.Limit || looked >= lookedMost || size >= answerBytes {
				l.Next = at
				return false
			}
			return true
		})
		return l, err
	}}
	letterQuestion = question[[]byte, Letter]{"letter", false, func(_ context.Context, p *Partition, key []byte) (Letter, error) { return p.DeadLetter(key) }}
	retryCommand   = question[[][]byte, retried]{"retry", true, func(ctx context.Context, p *Partition, keys [][]byte) (a retried, err error) {
		var left []error
		a.N, left, err = p.Retry(ctx, keys)
		for _, l := range left {
			a.Left = append(a.Left, l.Error())
		}
		return a, err
	}}
	dropCommand       = question[[][]byte, int]{"drop", true, func(ctx context.Context, p *Partition, keys [][]byte) (int, error) { return p.Drop(ctx, keys) }}
	countKeysQuestion = question[countOf, int]{"count keys", false, func(_ context.Context, p *Partition, q countOf) (int, error) { return p.CountKeys(q.Step, q.Limit) }}
	markQuestion      = question[struct{}, string]{"mark", false, func(_ context.Context, p *Partition, _ struct{}) (string, error) { return p.senderMark, nil }}
)

// answerTo finds a question by its name, for who answers other nodes.
func answerTo(name string) (func(ctx context.Context, p *Partition, body []byte) ([]byte, error), bool) {
	switch name {
	case stateQuestion.name:
		return stateQuestion.encoded, true
	case statesOfQuestion.name:
		return statesOfQuestion.encoded, true
	case statesQuestion.name:
		return statesQuestion.encoded, true
	case lettersQuestion.name:
		return lettersQuestion.encoded, true
	case letterQuestion.name:
		return letterQuestion.encoded, true
	case retryCommand.name:
		return retryCommand.encoded, true
	case dropCommand.name:
		return dropCommand.encoded, true
	case countKeysQuestion.name:
		return countKeysQuestion.encoded, true
	case markQuestion.name:
		return markQuestion.encoded, true
	case copiedQuestion.name:
		return copiedQuestion.encoded, true
	case keptQuestion.name:
		return keptQuestion.encoded, true
	case keptPageQuestion.name:
		return keptPageQuestion.encoded, true
	}
	return nil, false
}

func (q question[Q, A]) encoded(ctx context.Context, p *Partition, body []byte) ([]byte, error) {
	var in Q
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("question %s: %w", q.name, err)
	}
	out, err := q.answer(ctx, p, in)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// ask asks a partition of the flow, here or on another node.
func (q question[Q, A]) ask(ctx context.Context, r *Running, id PartitionID, in Q) (out A, err error) {
	if c := r.cell(id.String()); c != nil {
		var a A // of this question alone: it may be answered when nobody waits any more
		f := func(p *Partition) (err error) {
			a, err = q.answer(r.ctx, p, in)
			return err
		}
		switch {
		case q.command:
			err = c.ask(ctx, f)
		case beside(q.name):
			err = c.peek(f)
		default:
			err = c.query(ctx, f)
		}
		if err == nil {
			return a, nil
		}
		if !moved(err) {
			return out, err
		}
	}
	r.system.mu.Lock()
	remote := r.system.remote
	r.system.mu.Unlock()
	if remote == nil {
		if r.cell(id.String()) == nil {
			return out, fmt.Errorf("%w: partition %s", ErrUnknown, id)
		}
		return out, err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	b, err := remote.Ask(ctx, id, q.name, !q.command, body)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("partition %s: answer to %s: %w", id, q.name, err)
	}
	return out, nil
}

// Answer answers another node's question to a partition of this one.
func (s *System) Answer(ctx context.Context, id PartitionID, question string, body []byte) (out []byte, err error) {
	r := s.Flow(id.Flow)
	if r == nil {
		return nil, fmt.Errorf("%w: %s", ErrElsewhere, id)
	}
	c := r.cell(id.String())
	if c == nil {
		return nil, fmt.Errorf("%w: %s", ErrElsewhere, id)
	}
	f, ok := answerTo(question)
	if !ok {
		return nil, fmt.Errorf("%w: question %q; this node is of another version", ErrUnknown, question)
	}
	var a []byte
	g := func(p *Partition) (err error) {
		a, err = f(r.ctx, p, body)
		return err
	}
	if beside(question) {
		err = c.peek(g)
	} else {
		err = c.query(ctx, g)
	}
	if moved(err) {
		err = fmt.Errorf("%w: %w", ErrElsewhere, err)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// moved tells whether whoever has the partition now may answer: nothing was done here.
func moved(err error) bool {
	return errors.Is(err, errLeft) || errors.Is(err, ErrElsewhere) || errors.Is(err, ErrFenced)
}

// errorCodes are the errors that another node has to tell apart.
var errorCodes = []struct {
	code string
	err  error
}{
	{"elsewhere", ErrElsewhere}, {"no-state", ErrNoState}, {"waiting", ErrWaiting}, {"unknown", ErrUnknown}, {"fenced", ErrFenced},
	{"stopped", ErrStopped}, {"damaged-log", ErrDamagedLog}, {"input", ErrInput}, {"deadline", context.DeadlineExceeded}, {"no-table", ErrNoTable},
}

// ErrorCode is a word for what an error is, and "" for one that nobody branches on.
func ErrorCode(err error) string {
	for _, e := range errorCodes {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return ""
}

// RemoteError is an error of another node, by its code and text.
func RemoteError(code, text string) error {
	for _, e := range errorCodes {
		if e.code == code {
			return remoteError{text, e.err}
		}
	}
	return errors.New(text)
}

type remoteError struct {
	text string
	is   error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.is }

// lookedMost is how many entries one question looks through: a look through many keys does not hold up the partition's
// work for long.
const lookedMost = 100_000

// answerBytes is when a page ends that holds much: answers travel between nodes in one piece.
const answerBytes = 1 << 20

// The forms of questions and answers.
type (
	stateOf struct {
		Step       string
		Key        []byte // canonical
		Consistent bool
		AtLeast    uint64
	}
	statesOf struct {
		Step string
		Keys [][]byte
	}
	pageOf struct {
		Step   string
		After  []byte
		Limit  int
		Prefix string // of the key's text; "": all
	}
	lettersOf struct {
		After  []byte
		Limit  int
		Filter LetterFilter
	}
	countOf struct {
		Step  string
		Limit int
	}
	keptState struct {
		Key, State         []byte
		Revision, Sequence uint64
		Time               time.Time
		Commit             uint64
		None               bool // the key has no state
	}
	keptStates struct {
		Entries []keptState
		Next    []byte
	}
	keptLetters struct {
		Letters []Letter
		Next    []byte
	}
	retried struct {
		N    int
		Left []string
	}
)

func keep(e KeyState) keptState {
	return keptState{Key: []byte(e.Key.Canonical()), State: e.State, Revision: e.Revision, Sequence: e.Sequence, Time: e.Time}
}

func (k keptState) of(s *Step) (KeyState, error) {
	key, err := kis.KeyFromCanonical(s.Must, string(k.Key))
	return KeyState{key, k.State, k.Revision, k.Sequence, k.Time, k.Commit}, err
}

// LetterFilter chooses dead letters.
type LetterFilter struct {
	Step   string // "": all
	Reason string // a part of it
}

func (f LetterFilter) matches(l Letter) bool {
	return (f.Step == "" || l.Step == f.Step) && strings.Contains(l.Reason, f.Reason)
}

// places are the partitions of the flow, and those of stages that it has no more and that are open here.
func (r *Running) places() []PartitionID {
	var all []PartitionID
	f := r.Definition()
	for _, must := range f.Stages() {
		for number := range f.Partitions {
			all = append(all, f.partitionID(stageName(must), number))
		}
	}
	for _, c := range r.all() {
		if id := f.partitionID(c.stage, c.number); !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}
