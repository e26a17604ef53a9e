package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Identity names a virtual actor: a key of a step of a flow, or a partition.
type Identity struct {
	Flow, Step     string
	Key, Partition string
	Group          int // that its partition belongs to
}

// Call is a message to a virtual actor of this node, or to the node itself (no Flow).
type Call struct {
	Identity
	From   string // the node that calls
	Method string
	Body   []byte
}

// Codes of this package's errors. An engine adds its own.
const (
	CodeNotOwner = "not_owner" // the node does not own the group
	CodeNoOwner  = "no_owner"  // nobody does
	CodeNoMember = "no_member" // there is no live node of that name
	CodeBusy     = "busy"      // the node handles as many calls as it may
	CodeDoubt    = "doubt"     // no answer came: whether it was done is not known
	CodeTooLarge = "too_large" // a body is beyond MaxBody
	CodeInternal = "internal"  // an error that has no code of its own
)

// Error is an error of a call as it travels: a code to branch on, and a text for people.
type Error struct {
	Code, Text string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code
	}
	return e.Text
}

// Is lets errors.Is find an error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Text == "" && t.Code == e.Code
}

// What a caller branches on. Texts differ; codes are compared.
var (
	// ErrNotOwner from an Engine makes Ask look for the owner again.
	ErrNotOwner error = &Error{Code: CodeNotOwner}
	// ErrNoOwner means that a group had no live owner until the context ended.
	ErrNoOwner error = &Error{Code: CodeNoOwner}
	// ErrNoMember means that no live node has the name.
	ErrNoMember error = &Error{Code: CodeNoMember}
	// ErrDoubt means that a call may have been handled, or not.
	ErrDoubt error = &Error{Code: CodeDoubt}
	// ErrTooLarge means that a body was larger than MaxBody.
	ErrTooLarge error = &Error{Code: CodeTooLarge}

	errBusy error = &Error{Code: CodeBusy}
)

func errorf(code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// asError is err as it travels.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Code: e.Code, Text: err.Error()}
	}
	return &Error{Code: CodeInternal, Text: err.Error()}
}

// MaxBody is the most bytes that a call or its answer carries.
const MaxBody = 4 << 20

// Mark says how a call may be treated.
type Mark uint8

// Repeatable marks a call that may be handled more than once: it is sent again when no answer comes.
const Repeatable Mark = 1

const (
	attemptFirst = time.Second      // how long a repeatable call waits for its first answer; then twice as long
	attemptMost  = 30 * time.Second // and at most that
	pauseFirst   = 5 * time.Millisecond
	pauseMost    = 500 * time.Millisecond
)

// Ask sends a call to a virtual actor's owner and returns its answer. Where the owner moves, dies or is not there
// yet it looks again until ctx ends. What may have been handled is sent again only where the call is Repeatable;
// otherwise the error is ErrDoubt.
func (c *Cluster) Ask(ctx context.Context, id Identity, method string, body []byte, marks ...Mark) ([]byte, error) {
	call := Call{Identity: id, From: c.opt.Node, Method: method, Body: body}
	what := func() string { return fmt.Sprintf("%s of %s/%s in group %d", method, id.Flow, id.Step, id.Group) }
	return c.repeat(ctx, marks, what, func() (peer, error) {
		if to, ok := c.resolve(id.Group); ok {
			return to, nil
		}
		return peer{}, errorf(CodeNoOwner, "group %d has no live owner", id.Group)
	}, func(ctx context.Context, to peer) ([]byte, error) {
		if to.node == c.opt.Node {
			return c.answer(ctx, call)
		}
		return c.link.ask(ctx, call)
	}, call)
}

// Call sends a call to a node, by its name; it may be this one.
func (c *Cluster) Call(ctx context.Context, node, method string, body []byte, marks ...Mark) ([]byte, error) {
	call := Call{From: c.opt.Node, Method: method, Body: body}
	what := func() string { return fmt.Sprintf("%s on node %s", method, node) }
	return c.repeat(ctx, marks, what, func() (peer, error) {
		if to, ok := c.peer(node); ok {
			return to, nil
		}
		return peer{}, errorf(CodeNoMember, "there is no live node %s", node)
	}, func(ctx context.Context, to peer) ([]byte, error) {
		if to.node == c.opt.Node {
			return c.answer(ctx, call)
		}
		return c.link.call(ctx, to, call)
	}, call)
}

// repeat finds the peer and sends, again and again, until there is an answer or no right to go on.
func (c *Cluster) repeat(ctx context.Context, marks []Mark, what func() string, find func() (peer, error),
	send func(context.Context, peer) ([]byte, error), call Call) ([]byte, error) {
	if len(call.Body) > MaxBody {
		return nil, errorf(CodeTooLarge, "%s: %d bytes, at most %d", what(), len(call.Body), MaxBody)
	}
	repeatable := false
	for _, m := range marks {
		repeatable = repeatable || m == Repeatable
	}
	pause, patience := pauseFirst, attemptFirst
	for {
		changed := c.changes()
		to, err := find()
		var body []byte
		if err == nil {
			attempt, cancel := ctx, context.CancelFunc(func() {})
			if repeatable {
				attempt, cancel = context.WithTimeout(ctx, patience)
			}
			body, err = c.attempt(attempt, to, repeatable, find, send)
			cancel()
		}
		var failed *Error
		switch {
		case err == nil:
			return body, nil
		case errors.Is(err, errLost), errors.Is(err, ErrDoubt):
			if !repeatable {
				return nil, errorf(CodeDoubt, "%s: %v", what(), err)
			}
			patience = min(2*patience, attemptMost)
		case errors.Is(err, errUnsent), errors.Is(err, ErrNotOwner), errors.Is(err, errBusy), errors.Is(err, ErrNoOwner):
		case errors.As(err, &failed) && failed.Code == CodeNoMember && call.Flow == "":
			return nil, err // by name: it does not come back by looking again
		default:
			return nil, err
		}
		fired, stop := c.opt.Clock.Timer(pause + rand.N(pause))
		pause = min(2*pause, pauseMost)
		select {
		case <-fired:
		case <-changed:
			stop()
			if sleep(ctx, c.opt.Clock, pauseFirst) == nil { // who now owns has still to begin
				continue
			}
		case <-c.stopped:
		case <-ctx.Done():
		}
		stop()
		if ctx.Err() != nil || c.closed() {
			cause := context.Cause(ctx)
			if cause == nil {
				cause = errClosed
				if failed := c.Err(); failed != nil {
					cause = failed
				}
			}
			code := CodeDoubt
			if e := (*Error)(nil); errors.As(err, &e) {
				code = e.Code
			} else if errors.Is(err, errUnsent) {
				code = CodeNoOwner
				if call.Flow == "" {
					code = CodeNoMember
				}
			}
			return nil, errorf(code, "%s: %v (%v)", what(), err, cause)
		}
	}
}

// attempt sends once. It does not wait for a peer that is known to be gone.
func (c *Cluster) attempt(ctx context.Context, to peer, repeatable bool, find func() (peer, error), send func(context.Context, peer) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	defer func() { cancel(); <-watched }()
	go func() {
		defer close(watched)
		for {
			changed := c.changes()
			if now, err := find(); (err != nil || now != to) && (repeatable || !c.lives(to)) {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return send(ctx, to)
}

// answer handles a call that came in.
func (c *Cluster) answer(ctx context.Context, call Call) ([]byte, error) {
	if call.Method == helloMethod {
		return nil, nil
	}
	if call.Flow != "" && !c.owns(call.Group) {
		return nil, errorf(CodeNotOwner, "node %s does not own group %d", c.opt.Node, call.Group)
	}
	body, err := c.engine.Answer(ctx, call)
	if err != nil {
		if ctx.Err() != nil { // the caller's attempt was over
			return nil, errorf(CodeDoubt, "%v: %v", context.Cause(ctx), err)
		}
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, errorf(CodeTooLarge, "the answer to %s has %d bytes, at most %d", call.Method, len(body), MaxBody)
	}
	return body, nil
}

// helloMethod is a call that only shows that the other side is there.
const helloMethod = "cluster.hello"
