package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// Caller reaches the program that answers.
type Caller interface {
	// Call sends a request and returns the answer to it. The error is ErrNobody where nobody is there to answer,
	// ErrTooLarge where the request, or the answer, is larger than may be, ctx's where it took too long, or what
	// else keeps an answer from coming; an *AnswerError where it is known that asking again helps nothing.
	Call(ctx context.Context, request []byte) (answer []byte, err error)
	// MaxRequest is the most bytes that a request may have.
	MaxRequest() int
}

// Errors of a Caller.
var (
	ErrNobody   = errors.New("nobody answers there")
	ErrTooLarge = errors.New("too large")
)

// AnswerError is an answer that is none, whatever it says.
type AnswerError struct{ Problem string }

func (e *AnswerError) Error() string { return e.Problem }

// Spec is a remote function as its definition describes it.
type Spec struct {
	Name     string
	Mode     kis.Mode      // Verify, Calculate or Expand
	Must     []string      // the key's fields; empty: no key, and no state
	Where    string        // what messages call the program: subject price.quote
	Caller   Caller        // nil: it cannot be reached from here
	Timeout  time.Duration // for an answer
	Batch    int           // rows in a request at most
	KeepsKey bool          // declared: what is emitted has the key of its row
	// Subject of an Expand is where a row goes that comes back. The rows that came in go on to the next step.
	Subject func(*kis.Row) (string, error)
}

// New makes the function.
func New(spec Spec) kis.Function { return &function{spec} }

type function struct{ spec Spec }

func (f *function) Name() string { return f.spec.Name }

func (f *function) Traits() kis.Traits {
	return kis.Traits{Stateful: len(f.spec.Must) > 0, Many: true, KeepsKey: f.spec.KeepsKey || f.spec.Mode == kis.Expand}
}

// Open makes the runner of a step. It calls nobody: the program may come later.
func (f *function) Open(step kis.Step) (kis.Runner, error) {
	if f.spec.Caller == nil {
		return nil, fmt.Errorf("step %s: function %s calls %s, which cannot be reached without NATS", step.Name, f.spec.Name, f.spec.Where)
	}
	params := step.Params
	if params == nil {
		params = kis.Params{}
	}
	head, err := json.Marshal(struct {
		V        int        `json:"v"`
		Flow     string     `json:"flow"`
		Step     string     `json:"step"`
		Function string     `json:"function"`
		Mode     kis.Mode   `json:"mode"`
		Params   kis.Params `json:"params"`
	}{version, step.Flow, step.Name, f.spec.Name, f.spec.Mode, params})
	if err != nil {
		return nil, fmt.Errorf("step %s: %w", step.Name, err)
	}
	return &runner{spec: f.spec, head: head[:len(head)-1], stateful: f.Traits().Stateful, verify: f.spec.Mode == kis.Verify}, nil
}

// keyState is a key's state: JSON, "" for none.
type keyState string

type runner struct {
	spec     Spec
	head     []byte // of every request, without its brace at the end
	stateful bool
	verify   bool
	rows     kis.Parser
	buf      []byte

	// of the batch in hand:
	calls  []*kis.Call
	states []string
	waits  []error // of a call: why its further rows are not sent
	next   part    // the first row that is not settled; to is not used
}

func (r *runner) Activate(encoded []byte) (any, error) { return keyState(encoded), nil }

func (r *runner) Encode(dst []byte, state any) ([]byte, error) {
	s, _ := state.(keyState)
	return append(dst, s...), nil
}

// Handle handles one call; a fault of one of its rows is the call's.
func (r *runner) Handle(c *kis.Call) error {
	before := c.State
	if err := r.HandleMany([]*kis.Call{c}); err != nil {
		return err
	}
	for _, err := range c.Refused {
		if err != nil {
			c.State = before
			c.Emitted, c.Sent, c.Refused = c.Emitted[:0], c.Sent[:0], nil
			return err
		}
	}
	return nil
}

// passing is a fault that goes by: the rows are as good as before.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

// HandleMany handles calls of many keys. Where the program is not there it returns an error that asks for a retry of
// all.
func (r *runner) HandleMany(calls []*kis.Call) error {
	r.calls, r.next = calls, part{}
	r.states, r.waits = r.states[:0], r.waits[:0]
	ctx := context.Background()
	for _, c := range calls {
		s, _ := c.State.(keyState)
		r.states, r.waits = append(r.states, string(s)), append(r.waits, nil)
		if c.Context != nil {
			ctx = c.Context
		}
	}
	defer func() { r.calls = nil }()
	for {
		parts := r.take(r.spec.Batch)
		if len(parts) == 0 {
			break
		}
		if err := r.send(ctx, parts); err != nil {
			for _, c := range calls { // nothing was handled: all of it comes again
				c.Emitted, c.Sent, c.Refused = c.Emitted[:0], c.Sent[:0], nil
			}
			if ctx.Err() != nil {
				return kis.Stop(fmt.Errorf("%s: %w", r.spec.Where, context.Cause(ctx)))
			}
			return kis.Retry(fmt.Errorf("%s: %w", r.spec.Where, err))
		}
	}
	if r.stateful {
		for i, c := range calls {
			if s, _ := c.State.(keyState); string(s) != r.states[i] {
				c.State = keyState(r.states[i])
			}
		}
	}
	return nil
}

// take takes the next rows for a request. Rows behind one that is to be tried again are refused like it.
func (r *runner) take(most int) []part {
	var parts []part
	for rows := 0; r.next.call < len(r.calls) && rows < most; {
		c := r.calls[r.next.call]
		if why := r.waits[r.next.call]; why != nil {
			for ; r.next.from < len(c.Rows); r.next.from++ {
				c.Refuse(r.next.from, why)
			}
		}
		n := min(len(c.Rows)-r.next.from, most-rows)
		if n > 0 {
			parts = append(parts, part{r.next.call, r.next.from, r.next.from + n})
		}
		rows += n
		if r.next.from += n; r.next.from == len(c.Rows) {
			r.next = part{call: r.next.call + 1}
		}
	}
	return parts
}

func count(parts []part) (n int) {
	for _, p := range parts {
		n += p.to - p.from
	}
	return n
}

// send gets the rows of some parts answered. Its error is passing.
func (r *runner) send(ctx context.Context, parts []part) error {
	for i := range parts { // what its key waits for may have come up since it was taken
		p := &parts[i]
		if why := r.waits[p.call]; why != nil {
			for n := p.from; n < p.to; n++ {
				r.calls[p.call].Refuse(n, why)
			}
			p.from = p.to
		}
	}
	rows := count(parts)
	if rows == 0 {
		return nil
	}
	o, err := r.ask(ctx, parts)
	var bad rubbish
	switch {
	case err == nil:
		r.settle(parts, o)
		return nil
	case ctx.Err() != nil:
		return err
	case errors.Is(err, ErrTooLarge) && rows > 1:
		return r.halve(ctx, parts, rows)
	case errors.Is(err, ErrTooLarge):
		r.refuse(parts, kis.DeadLetter(fmt.Errorf("%s: %w", r.spec.Where, err)))
		return nil
	case errors.As(err, &bad) && rows > 1:
		return r.singly(ctx, parts)
	case errors.As(err, &bad):
		r.refuse(parts, kis.DeadLetter(fmt.Errorf("%s: %w", r.spec.Where, err)))
		return nil
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	// No answer in time: is the program there?
	if _, perr := r.ask(ctx, nil); perr != nil {
		return err
	}
	if rows > 1 {
		return r.singly(ctx, parts)
	}
	r.refuse(parts, kis.Retry(fmt.Errorf("%s: %w, and answers others", r.spec.Where, err)))
	return nil
}

// ask sends a request and reads the answer.
func (r *runner) ask(ctx context.Context, parts []part) (*outcome, error) {
	request, id := r.request(r.buf, parts)
	r.buf = request
	if most := r.spec.Caller.MaxRequest(); len(request) > most {
		return nil, fmt.Errorf("the request has %d bytes, the most is %d: %w", len(request), most, ErrTooLarge)
	}
	within, cancel := context.WithTimeout(ctx, r.spec.Timeout)
	defer cancel()
	text, err := r.spec.Caller.Call(within, request)
	var none *AnswerError
	switch {
	case err == nil:
		return r.read(text, id, parts)
	case errors.As(err, &none):
		return nil, rubbish{err}
	case errors.Is(err, ErrTooLarge):
		return nil, err
	case ctx.Err() == nil && within.Err() != nil:
		return nil, fmt.Errorf("no answer within %s: %w", r.spec.Timeout, context.DeadlineExceeded)
	}
	return nil, err
}

// halve sends two requests in place of one that was too large.
func (r *runner) halve(ctx context.Context, parts []part, rows int) error {
	first, second := split(parts, rows/2)
	if err := r.send(ctx, first); err != nil {
		return err
	}
	return r.send(ctx, second)
}

// split splits parts behind so many rows.
func split(parts []part, rows int) (first, second []part) {
	for _, p := range parts {
		n := min(rows, p.to-p.from)
		if n > 0 {
			first = append(first, part{p.call, p.from, p.from + n})
		}
		if p.from+n < p.to {
			second = append(second, part{p.call, p.from + n, p.to})
		}
		rows -= n
	}
	return first, second
}

// singly sends a request for each row, so that only those suffer that are at fault.
func (r *runner) singly(ctx context.Context, parts []part) error {
	for _, p := range parts {
		for n := p.from; n < p.to; n++ {
			if err := r.send(ctx, []part{{p.call, n, n + 1}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuse refuses all rows of parts, which are one.
func (r *runner) refuse(parts []part, why error) {
	for _, p := range parts {
		for n := p.from; n < p.to; n++ {
			r.calls[p.call].Refuse(n, why)
		}
		if kis.VerdictOf(why) == kis.VerdictRetry {
			r.waits[p.call] = why
		}
	}
}

// settle does what an answer says.
func (r *runner) settle(parts []part, o *outcome) {
	for i, p := range parts {
		c, res := r.calls[p.call], &o.parts[i]
		for n := p.from; n < p.to; n++ {
			row := &res.rows[n-p.from]
			if row.refused == nil {
				row.refused = r.pass(c, n, row)
			}
			if row.refused == nil {
				continue
			}
			c.Refuse(n, row.refused)
			if kis.VerdictOf(row.refused) == kis.VerdictRetry {
				r.waits[p.call] = row.refused
			}
		}
		if !res.keep {
			r.states[p.call] = res.state
		}
	}
}

// pass lets what a row has caused go on.
func (r *runner) pass(c *kis.Call, n int, row *outcomeRow) error {
	out := row.emit
	if row.pass {
		out = append([]*kis.Row{c.Rows[n]}, out...)
	}
	if r.spec.Subject == nil {
		for _, o := range out {
			c.EmitFor(n, o)
		}
		return nil
	}
	subjects := make([]string, len(out))
	for i, o := range out {
		var err error
		if subjects[i], err = r.spec.Subject(o); err != nil {
			return kis.DeadLetter(err)
		}
	}
	for i, o := range out {
		c.SendFor(n, subjects[i], o)
	}
	c.EmitFor(n, c.Rows[n])
	return nil
}
