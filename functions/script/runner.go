package script

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/kis"
)

// Spec is a script as its definition describes it.
type Spec struct {
	Name     string   // of the function
	Mode     kis.Mode // Verify, Calculate or Expand
	Must     []string // the key's fields; empty: no key, and no state
	File     string   // the script's name in messages; "": script
	Source   string
	Limits   Limits
	KeepsKey bool // declared: what is emitted has the key of its row
	// Subject of an Expand is where a row goes that handle returns. The rows that came in go on to the next step.
	Subject func(*kis.Row) (string, error)
}

// Host runs scripts: a Pool, or InProcess.
type Host interface {
	// load finds out whether a program can run.
	load(ctx context.Context, p *program) error
	// run sends a request and gives each payload of results to results, whose error ends the run. The error may be a
	// *killedError.
	run(ctx context.Context, p *program, request []byte, results func(payload []byte) error) error
	// log takes a line that a script has written.
	log(step kis.Step, line string)
}

// Check says what is wrong with a script, without running it. A script of a function without a key has no state.
func Check(file, source string, keyed bool) []Mistake {
	s, mistakes := read(nameOr(file), source)
	if len(mistakes) > 0 || keyed {
		return mistakes
	}
	if at := s.needsState(); at >= 0 {
		return []Mistake{{at, "the script uses a state, and the function has no key that it could belong to", "name the key's fields: source: {must: [userid]}"}}
	}
	return nil
}

func nameOr(file string) string {
	if file == "" {
		return "script"
	}
	return file
}

// New makes the function that a script describes. Its Open loads the script in a worker, so that one that fails
// before its first row is refused.
func New(spec Spec, host Host) (kis.Function, []Mistake) {
	s, mistakes := read(nameOr(spec.File), spec.Source)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return &function{spec: spec, source: s, host: host}, nil
}

type function struct {
	spec   Spec
	source *source
	host   Host
}

func (f *function) Name() string { return f.spec.Name }

func (f *function) Traits() kis.Traits {
	return kis.Traits{Stateful: f.stateful(), Many: true, KeepsKey: f.spec.KeepsKey || f.spec.Mode == kis.Expand}
}

func (f *function) stateful() bool { return f.source.state && len(f.spec.Must) > 0 }

// Open makes the runner of a step.
func (f *function) Open(step kis.Step) (kis.Runner, error) {
	if f.host == nil {
		return nil, fmt.Errorf("step %s: function %s is a script, and nobody here runs scripts", step.Name, f.spec.Name)
	}
	params, err := json.Marshal(step.Params)
	if err != nil {
		return nil, fmt.Errorf("step %s: params: %w", step.Name, err)
	}
	if step.Params == nil {
		params = []byte("{}")
	}
	p := &program{source: f.source, mode: f.spec.Mode, keyed: len(f.spec.Must) > 0, state: f.stateful(),
		sends: f.spec.Subject != nil, limits: f.spec.Limits.withDefaults(), params: params}
	p.identify()
	if err := f.host.load(context.Background(), p); err != nil {
		return nil, fmt.Errorf("step %s: function %s: %w", step.Name, f.spec.Name, err)
	}
	return &runner{step: step, program: p, host: f.host, subject: f.spec.Subject}, nil
}

// keyState is a key's state: JSON, "" for none.
type keyState string

// runner runs a script at a step.
type runner struct {
	step    kis.Step
	program *program
	host    Host
	subject func(*kis.Row) (string, error)

	request []byte
	rows    kis.Parser

	// of the batch in hand:
	calls  []*kis.Call
	states []string // of the calls, as far as results have come
	// the next row without a result, and the calls of the request
	call, row   int
	first, last int // calls of the request
	from        int // row of the first call with which the request begins
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
	for _, err := range append([]error{c.Err}, c.Refused...) {
		if err != nil {
			c.State = before
			c.Emitted, c.Sent = c.Emitted[:0], c.Sent[:0]
			c.Err, c.Refused = nil, nil
			return err
		}
	}
	return nil
}

// requestBytes is about how many bytes of rows go out in one request: the worker sees none before it has all.
const requestBytes = 1 << 20

// maxDeaths is how many workers have to die, not by a limit of the script, before a row is found to be what kills them.
const maxDeaths = 4

// HandleMany handles calls of many keys.
func (r *runner) HandleMany(calls []*kis.Call) error {
	r.calls, r.call, r.row = calls, 0, 0
	r.states = r.states[:0]
	ctx := context.Background()
	for _, c := range calls {
		s, _ := c.State.(keyState)
		r.states = append(r.states, string(s))
		if c.Context != nil {
			ctx = c.Context
		}
	}
	defer func() { r.calls = nil }()
	r.settle() // calls without rows are through
	careful, deaths := false, 0
	for r.call < len(calls) {
		r.build(careful)
		err := r.host.run(ctx, r.program, r.request, r.results)
		var killed *killedError
		switch {
		case err == nil && r.call >= r.last:
		case err == nil:
			return kis.Stop(errors.New("script: the worker left rows out"))
		case errors.As(err, &killed):
			if deaths++; !killed.limit && deaths < maxDeaths { // perhaps it was not the script
				careful = true
				continue
			}
			if careful && r.call < r.last { // it was this row
				deaths = 0
				r.calls[r.call].Refuse(r.row, kis.DeadLetter(fmt.Errorf("%s: %w", r.program.source.name, err)))
				r.next()
			}
			careful = true
			continue
		default:
			for _, c := range calls { // nothing was handled
				c.Emitted, c.Sent, c.Refused = c.Emitted[:0], c.Sent[:0], nil
			}
			if start := (*startError)(nil); errors.As(err, &start) {
				return kis.Retry(fmt.Errorf("script: %w", err)) // the rows wait
			}
			return kis.Stop(fmt.Errorf("script: %w", err))
		}
		careful = false
	}
	if !r.program.state {
		return nil
	}
	for i, c := range calls {
		if s, _ := c.State.(keyState); string(s) != r.states[i] {
			c.State = keyState(r.states[i])
		}
	}
	return nil
}

// build writes the request for the rows that are left.
func (r *runner) build(careful bool) {
	b := append(r.request[:0], r.program.id[:]...)
	if careful {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	r.first, r.last, r.from = r.call, r.call, r.row
	b = binary.AppendVarint(b, r.calls[r.call].Now.UnixMilli())
	countAt := len(b)
	b = append(b, 0, 0, 0, 0) // the number of calls, as a varint of fixed length
	for r.last < len(r.calls) && (r.last == r.first || len(b) < requestBytes && r.last-r.first < 1<<20) {
		c, from := r.calls[r.last], 0
		if r.last == r.first {
			from = r.from
		}
		b = appendKey(b, c.Key)
		b = appendText(b, r.states[r.last])
		b = binary.AppendUvarint(b, uint64(len(c.Rows)-from))
		for i := from; i < len(c.Rows); i++ {
			b = appendRow(b, c.Rows[i])
			m := c.Metas[i]
			b = appendText(b, m.Subject)
			b = appendText(b, m.Stream)
			b = binary.AppendUvarint(b, m.Sequence)
			b = binary.AppendUvarint(b, uint64(m.Index))
			b = binary.AppendVarint(b, m.Time.UnixMilli())
		}
		r.last++
	}
	n := r.last - r.first
	b[countAt], b[countAt+1], b[countAt+2], b[countAt+3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
	r.request = b
}

// appendRow writes a row as a text.
func appendRow(b []byte, row *kis.Row) []byte { return appendMade(b, row.AppendJSON) }

func appendKey(b []byte, key kis.Key) []byte { return appendMade(b, key.AppendJSON) }

// appendMade writes a text of a length that is known only when it is there: its length takes four bytes.
func appendMade(b []byte, text func([]byte) []byte) []byte {
	at := len(b)
	b = text(append(b, 0, 0, 0, 0))
	n := len(b) - at - 4
	b[at], b[at+1], b[at+2], b[at+3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
	return b
}

// next goes on to the next row.
func (r *runner) next() {
	r.row++
	r.settle()
}

func (r *runner) settle() {
	for r.call < len(r.calls) && r.row >= len(r.calls[r.call].Rows) {
		r.call, r.row = r.call+1, 0
	}
}

var errAnswer = errors.New("the worker's answer is none")

// results reads results of rows.
func (r *runner) results(payload []byte) error {
	c := cursor{b: payload}
	for len(c.b) > 0 {
		call, row := int(c.number())+r.first, int(c.number())
		if call == r.first {
			row += r.from
		}
		if c.err != nil || r.call >= r.last || call != r.call || row != r.row {
			return fmt.Errorf("%w: a result for row %d of call %d, not for row %d of call %d", errAnswer, row, call, r.row, r.call)
		}
		for range c.count() {
			r.host.log(r.step, string(c.text()))
		}
		if c.err != nil || len(c.b) == 0 {
			return errAnswer
		}
		verdict := c.b[0]
		c.b = c.b[1:]
		to := r.calls[r.call]
		if verdict != rowDone {
			t := &thrown{reason: string(c.text()), stack: string(c.text())}
			if c.err != nil {
				return errAnswer
			}
			if verdict == rowDrop {
				to.Refuse(r.row, kis.Drop(t))
			} else {
				to.Refuse(r.row, kis.DeadLetter(t))
			}
			r.next()
			continue
		}
		emitted, sent := len(to.Emitted), len(to.Sent)
		var fault error
		for range c.count() {
			if len(c.b) == 0 {
				return errAnswer
			}
			kind := c.b[0]
			c.b = c.b[1:]
			subject := ""
			if kind == outSend {
				subject = string(c.text())
			}
			out := to.Rows[r.row]
			if kind != outPass {
				var err error
				if out, err = r.rows.Parse(append([]byte(nil), c.text()...)); err != nil {
					fault = errors.Join(fault, fmt.Errorf("%s: a row that it made: %w", r.program.source.name, err))
					continue
				}
			}
			switch {
			case kind == outSend:
				to.SendFor(r.row, subject, out)
			case r.subject != nil:
				subject, err := r.subject(out)
				if err != nil {
					fault = errors.Join(fault, err)
					continue
				}
				to.SendFor(r.row, subject, out)
			default:
				to.EmitFor(r.row, out)
			}
		}
		state := string(c.text())
		if c.err != nil {
			return errAnswer
		}
		if fault != nil {
			to.Emitted, to.Sent = to.Emitted[:emitted], to.Sent[:sent]
			to.Refuse(r.row, kis.DeadLetter(fault))
			r.next()
			continue
		}
		if r.subject != nil {
			to.EmitFor(r.row, to.Rows[r.row])
		}
		if r.program.state {
			r.states[r.call] = state
		}
		r.next()
	}
	return nil
}

// thrown is why a script did not handle a row.
type thrown struct{ reason, stack string }

func (t *thrown) Error() string { return t.reason }

// As lends the dead letter the script's stack.
func (t *thrown) As(target any) bool {
	p, ok := target.(**kis.PanicError)
	if !ok || t.stack == "" {
		return false
	}
	*p = &kis.PanicError{Value: t.reason, Stack: t.stack}
	return true
}
