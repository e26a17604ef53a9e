package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/internal/checker"
	"github.com/kisflow/kisflow/kis"
)

// The flows of the simulation are random programs of a few kinds of steps. Every event carries in its field
// "do" what is to happen to it where; nothing else decides what becomes of it, so a model that knows nothing of
// partitions and batches (model, below) can say what every list has to hold.

// program is a flow of the simulation in the model's words.
type program struct {
	name   string
	load   string // the hand-off that feeds it; empty: the entry
	steps  []instruction
	retry  int // RetryTimes of all steps
	direct bool
	pack   bool
	park   bool // on_error: park_key
	timed  bool // it has windows, or feeds those of another program
	lates  bool // some events come later than the watermark allows
}

// instruction is one step of a program.
type instruction struct {
	name  string
	kind  string   // check, list, batch, split, send, save
	must  []string // empty: no key
	keeps bool     // declares that it keeps the key
	size  int64    // of a window, ms
}

// simEvent is a row in the model's words.
type simEvent struct {
	sequence uint64
	index    uint32
	id       string
	fields   map[string]int64 // user, item; one may be missing
	amount   int64
	do       map[string]string // what happens at which step
	until    int64             // of later, unix nanoseconds
	split    int
	copies   int
	pad      int

	time    int64  // of the event, ms
	high    int64  // the newest time of all messages before the event's, ms
	members string // of a window

	pass  int
	chain string // rows with the same one stay in order
	free  bool   // it may overtake or be overtaken
}

func (e *simEvent) json() string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"id":%q`, e.id)
	for _, f := range []string{"user", "item"} {
		if v, ok := e.fields[f]; ok {
			fmt.Fprintf(&b, `,%q:%d`, f, v)
		}
	}
	fmt.Fprintf(&b, `,"amount":%d,"t":%d`, e.amount, e.time)
	if len(e.do) > 0 {
		var do []string
		for k, v := range e.do {
			do = append(do, k+"="+v)
		}
		slices.Sort(do)
		fmt.Fprintf(&b, `,"do":%q,"until":%d`, strings.Join(do, " "), e.until)
	}
	if e.pad > 0 {
		fmt.Fprintf(&b, `,"pad":%q`, strings.Repeat("x", e.pad))
	}
	fmt.Fprintf(&b, `,"split":%d,"copies":%d}`, e.split, e.copies)
	return b.String()
}

// outside is the world outside the flows that functions look at.
type outside struct{ mended bool }

// simState is what a list step keeps for a key.
type simState struct {
	IDs []string `json:"ids"`
	Sum int64    `json:"sum"`
}

// text and number are a field's value, or nothing where it is missing.
func text(r *kis.Row, name string) string {
	v, ok := r.Get(name)
	if !ok {
		return ""
	}
	return v.Text()
}

func number(r *kis.Row, name string) int64 {
	v, _ := r.Get(name)
	return v.Int()
}

// memberOf is a row's name in lists: its id, and how often it has jumped back.
func memberOf(id string, pass int) string { return id + strings.Repeat("'", pass) }

// action does what the row's event says is to happen at a step. Where it returns true the row's way is decided.
func (o *outside) action(step string, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) (bool, error) {
	do := ""
	for _, a := range strings.Fields(text(e.Row, "do")) {
		if s, what, _ := strings.Cut(a, "="); s == step {
			do = what
		}
	}
	what, rest, _ := strings.Cut(do, ":")
	switch what {
	case "":
	case "dead":
		return true, errors.New("bad luck")
	case "drop":
		return true, kis.Drop(errors.New("unwanted"))
	case "panic":
		panic("boom")
	case "never":
		return true, kis.Retry(errors.New("busy"))
	case "later":
		if e.Now.UnixNano() < number(e.Row, "until") {
			return true, kis.Retry(errors.New("too early"))
		}
	case "notyet":
		if !o.mended {
			return true, kis.DeadLetter(errors.New("not yet"))
		}
	case "abort":
		out.Emit(kis.Key{}, e.Value)
		out.Abort()
		return true, nil
	case "reuse":
		out.Emit(kis.Key{}, kis.NewRow(kis.Field{Name: "id", Value: kis.StringValue("nobody")}))
		out.Reuse()
		return true, nil
	case "nowhere":
		out.Jump("no such step")
		return true, nil
	case "skip":
		out.Jump(rest)
		return true, nil
	case "back":
		to, times, _ := strings.Cut(rest, ":")
		n, err := strconv.ParseInt(times, 10, 64)
		if err != nil {
			panic(err)
		}
		if pass := number(e.Row, "pass"); pass < n {
			e.Value.Set("pass", kis.IntValue(pass+1))
			out.Emit(kis.Key{}, e.Value)
			out.Jump(to)
			return true, nil
		}
	default:
		panic("the simulation's functions do not know " + what)
	}
	return false, nil
}

// function makes the function of an instruction.
func (o *outside) function(flow string, in instruction) kis.Function {
	var opts []kis.Option
	if in.keeps {
		opts = append(opts, kis.KeepsKey())
	}
	enter := func(s *simState, e kis.Event[*kis.Row]) {
		s.IDs = append(s.IDs, memberOf(text(e.Row, "id"), int(number(e.Row, "pass"))))
		s.Sum += number(e.Row, "amount")
		e.Value.Set("n_"+in.name, kis.IntValue(int64(len(s.IDs))))
	}
	switch in.kind {
	case "window":
		return o.window(in)
	case "check":
		return kis.Stateless(in.kind, func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			if done, err := o.action(in.name, e, out); done {
				return err
			}
			out.Emit(kis.Key{}, e.Value)
			return nil
		}, opts...)
	case "list":
		return kis.Keyed(in.kind, func(_ context.Context, s *simState, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			s.Sum += 1000 // to be taken back where the row is refused
			if done, err := o.action(in.name, e, out); done {
				if err == nil {
					s.Sum -= 1000
				}
				return err
			}
			s.Sum -= 1000
			enter(s, e)
			out.Emit(kis.Key{}, e.Value)
			return nil
		}, opts...)
	case "batch":
		return kis.Batch(in.kind, func(_ context.Context, s *simState, es []kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			for i, e := range es {
				if _, err := o.action(in.name, e, out); err != nil { // only such actions as fail
					return err
				}
				enter(s, e)
				out.EmitFor(i, kis.Key{}, e.Value)
			}
			return nil
		}, opts...)
	case "split":
		return kis.Stateless(in.kind, func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			if done, err := o.action(in.name, e, out); done {
				return err
			}
			id, item, split := text(e.Row, "id"), number(e.Row, "item"), number(e.Row, "split")
			for i := range split {
				row := e.Row.Clone()
				row.Set("id", kis.StringValue(id+"/"+strconv.FormatInt(i, 10)))
				row.Set("item", kis.IntValue((item+i)%simItems))
				out.Emit(kis.Key{}, row)
			}
			return nil
		}, opts...)
	case "send":
		return kis.Stateless(in.kind, func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			if done, err := o.action(in.name, e, out); done {
				return err
			}
			for i := range number(e.Row, "copies") {
				row := e.Row.Clone()
				row.Set("copy", kis.IntValue(i))
				row.Set("by", kis.StringValue(in.name))
				out.Send(fmt.Sprintf("out.%s.%d", flow, number(e.Row, "user")), row)
			}
			out.Emit(kis.Key{}, e.Value)
			return nil
		}, opts...)
	case "save":
		return kis.Stateless(in.kind, func(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
			if done, err := o.action(in.name, e, out); done {
				return err
			}
			out.Reuse()
			return nil
		}, opts...)
	}
	panic("no kind of step " + in.kind)
}

// steady is a function whose panics have a stack that is the same in every run: that of a goroutine has numbers and
// addresses of other lengths, and the length of a record counts.
type steady struct{ kis.Function }

func (f steady) Open(s kis.Step) (kis.Runner, error) {
	r, err := f.Function.Open(s)
	return steadyRunner{r}, err
}

type steadyRunner struct{ kis.Runner }

func (r steadyRunner) Handle(c *kis.Call) error {
	err := r.Runner.Handle(c)
	var p *kis.PanicError
	if errors.As(err, &p) {
		p.Stack = "goroutine of the simulation"
	}
	return err
}

const (
	simUsers = 5
	simItems = 4
	simNever = 2 // retries of a row that never succeeds
)

// flow makes the engine's flow of a program.
func (p *program) flow(o *outside, revision uint64, inputs []Input) *Flow {
	f := &Flow{Name: p.name, Revision: revision, Inputs: inputs}
	if p.timed && p.load == "" {
		f.Time = EventTime{Field: "t", Lateness: simLateness}
	}
	for _, in := range p.steps {
		s := Step{Name: in.name, Function: steady{o.function(p.name, in)}, Mode: kis.Calculate, Must: in.must,
			RetryTimes: p.retry, RetryDelay: 700 * time.Millisecond}
		if p.park {
			s.OnError = ParkKey
		}
		switch in.kind {
		case "send":
			s.Mode, s.Pack = kis.Expand, p.pack
			s.Outputs = []Output{{Stream: outStream(p.name), Subject: "out." + p.name + ".*", Fenced: true}}
		case "save":
			s.Mode, s.Save = kis.Save, "rows of "+p.name
		}
		f.Steps = append(f.Steps, s)
	}
	return f
}

func outStream(flow string) string { return "OUT_" + flow }

// newPrograms makes the programs of a world: one that reads the entry, and perhaps one that loads what it saves.
func newPrograms(rng *rand.Rand) []*program {
	patient := rng.IntN(2) == 0
	retry := simNever
	if patient {
		retry = 1 << 20 // all that waits gets its turn in the end
	}
	musts := [][]string{{"user"}, {"item"}, {"user", "item"}}
	park := rng.IntN(4) == 0
	first := &program{name: "f1", retry: retry, pack: rng.IntN(3) == 0, park: park}
	body := func(p *program, n int) {
		keyed := false
		for i := range n {
			in := instruction{name: fmt.Sprintf("%s_%d", p.name, i)}
			switch k := rng.IntN(10); {
			case k < 2:
				in.kind, in.keeps = "check", rng.IntN(3) > 0
				if rng.IntN(4) == 0 {
					in.must = musts[rng.IntN(len(musts))]
				}
			case k < 6 || i == n-1 && !keyed:
				in.kind, in.must, in.keeps = "list", musts[rng.IntN(len(musts))], rng.IntN(2) == 0
				keyed = true
			case k < 8:
				in.kind, in.must, in.keeps = "batch", musts[rng.IntN(len(musts))], rng.IntN(2) == 0
				keyed = true
			case k < 9:
				in.kind = "split"
			default:
				in.kind = "send"
			}
			p.steps = append(p.steps, in)
		}
	}
	all := []*program{first}
	switch rng.IntN(9) {
	case 6, 7, 8:
		all = timedPrograms(rng, retry)
	case 0: // verify, keyed totals, expand: one stage
		first.steps = []instruction{{name: "verify", kind: "check", keeps: true}, {name: "totals", kind: "list", must: musts[0], keeps: true}, {name: "expand", kind: "send"}}
	case 1: // two keys
		first.steps = []instruction{{name: "users", kind: "list", must: musts[0]}, {name: "lines", kind: "split"}, {name: "items", kind: "list", must: musts[1]}, {name: "expand", kind: "send"}}
	case 2: // save and load
		body(first, 2)
		first.steps = append(first.steps, instruction{name: "save", kind: "save"})
		second := &program{name: "f2", load: "rows of f1", retry: retry, pack: rng.IntN(3) == 0, park: park}
		body(second, 2)
		second.steps = append(second.steps, instruction{name: "expand", kind: "send"})
		all = append(all, second)
	default:
		body(first, 2+rng.IntN(4))
		first.steps = append(first.steps, instruction{name: "expand", kind: "send"})
	}
	for _, p := range all {
		p.note()
	}
	return all
}

// note works out whether rows are dealt by the key of the first step that has one.
func (p *program) note() {
	p.direct = false
	for _, in := range p.steps {
		if len(in.must) > 0 {
			p.direct = true
			break
		}
		if !in.keeps {
			break
		}
	}
}

// newEvent makes an event for the programs.
func newEvent(rng *rand.Rand, ps []*program, id int, now time.Time, mischief float64) *simEvent {
	e := &simEvent{id: strconv.Itoa(id), fields: map[string]int64{}, amount: 1 + rng.Int64N(9), do: map[string]string{},
		split: 1 + rng.IntN(3), copies: 1, until: now.Add(time.Duration(rng.IntN(8000)) * time.Millisecond).UnixNano()}
	e.time = now.UnixMilli()
	e.fields["user"] = rng.Int64N(1 + rng.Int64N(simUsers))
	e.fields["item"] = rng.Int64N(simItems)
	if rng.IntN(10) == 0 {
		e.copies = rng.IntN(4)
	}
	if rng.IntN(10) == 0 {
		e.pad = rng.IntN(900)
	}
	if rng.Float64() < mischief {
		switch rng.IntN(12) {
		case 0:
			delete(e.fields, []string{"user", "item"}[rng.IntN(2)])
			return e
		default:
			p := ps[rng.IntN(len(ps))]
			i := rng.IntN(len(p.steps))
			in := p.steps[i]
			acts := []string{"dead", "drop", "panic", "notyet"}
			if p.timed { // rows that wait come too late for their windows, and when that is nobody can say
				if e.do[in.name] = acts[rng.IntN(3)]; in.kind == "save" {
					e.do[in.name] = "drop"
				}
				return e
			}
			if p.retry == simNever {
				acts = append(acts, "never", "never")
			} else {
				acts = append(acts, "later", "later")
			}
			if in.kind != "batch" && in.kind != "save" {
				acts = append(acts, "abort", "reuse", "nowhere")
				acts = append(acts, "skip:"+p.steps[i+rng.IntN(len(p.steps)-i)].name)
				if strings.HasSuffix(acts[len(acts)-1], ":"+in.name) {
					acts = acts[:len(acts)-1] // a step that jumps to itself does so until it may not
				}
				acts = append(acts, "back:"+p.steps[rng.IntN(i+1)].name+":"+[]string{"1", "2", "100"}[rng.IntN(3)])
			}
			a := acts[rng.IntN(len(acts))]
			if strings.HasPrefix(a, "back:") { // it goes round: without a fan-out on its way
				e.split, e.copies = 1, min(e.copies, 1)
			}
			e.do[in.name] = a
		}
	}
	return e
}

// model says what events have to lead to.
type model struct {
	programs []*program
	check    *checker.Checker
	sums     map[string]int64 // of every list
	windows  map[string]*openWindow
	high     int64 // the newest time of the messages before the one in hand, ms
	next     int64 // and with it
	message  uint64
}

func keyName(must []string, fields map[string]int64) (string, bool) {
	var b strings.Builder
	for i, m := range must {
		v, ok := fields[m]
		if !ok {
			return "", false
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%d", m, v)
	}
	return b.String(), true
}

func listName(flow, step, key string) string { return "list " + flow + " " + step + " " + key }

// enter walks an event through the program that reads the entry.
func (m *model) enter(e *simEvent) {
	p := m.programs[0]
	if e.sequence != m.message {
		m.message, m.high = e.sequence, m.next
	}
	m.next = max(m.next, e.time)
	e.high = m.high
	x := *e
	x.chain = "entry"
	if !p.direct {
		x.chain = fmt.Sprintf("message %d", e.sequence) // dealt by message
	}
	m.walk(p, 0, x)
}

func (m *model) dead(p *program, step string, e *simEvent, why string) {
	m.check.Want("dead "+p.name, fmt.Sprintf("%d.%d %s@%s:%s", e.sequence, e.index, memberOf(e.id, e.pass), step, why))
}

func (m *model) walk(p *program, i int, e simEvent) {
	for ; i < len(p.steps); i++ {
		in := &p.steps[i]
		key := ""
		if len(in.must) > 0 {
			var ok bool
			if key, ok = keyName(in.must, e.fields); !ok {
				m.dead(p, in.name, &e, "no key")
				return
			}
			e.chain += " | " + key
		}
		what, rest, _ := strings.Cut(e.do[in.name], ":")
		switch what {
		case "dead", "panic", "never":
			if !p.park { // else it is dropped in the end
				m.dead(p, in.name, &e, what)
			}
			return
		case "nowhere":
			m.dead(p, in.name, &e, what)
			return
		case "drop", "abort":
			return
		case "later":
			if key == "" {
				e.free = true
			}
		case "notyet":
			if !p.park || key == "" { // else all of its key wait with it
				e.free = true
			}
		case "skip":
			e.free = true
			i = p.index(rest) - 1
			continue
		case "back":
			to, times, _ := strings.Cut(rest, ":")
			n, _ := strconv.Atoi(times)
			if e.pass < n {
				if e.pass+1 > kis.MaxJumps {
					m.dead(p, in.name, &e, "loop")
					return
				}
				e.pass++
				e.free = true
				i = p.index(to) - 1
				continue
			}
		case "reuse":
			switch in.kind {
			case "save":
				m.save(p, e)
			}
			continue
		}
		switch in.kind {
		case "window":
			m.window(p, i, &e)
			return
		case "list", "batch":
			name := listName(p.name, in.name, key)
			m.check.Want(name, memberOf(e.id, e.pass), e.chains()...)
			m.sums[name] += e.amount
		case "split":
			for k := range e.split {
				x := e
				x.id = e.id + "/" + strconv.Itoa(k)
				x.fields = map[string]int64{}
				for f, v := range e.fields {
					x.fields[f] = v
				}
				x.fields["item"] = (e.fields["item"] + int64(k)) % simItems
				m.walk(p, i+1, x)
			}
			return
		case "send":
			for k := range e.copies {
				x := e
				x.chain += " by " + in.name
				if e.members != "" {
					m.check.Want("windows "+p.name, memberOf(e.id, e.pass)+": "+e.members)
					continue
				}
				if p.pack { // messages of many rows: only rows on one subject are in order
					x.chain += fmt.Sprint(" on ", e.fields["user"])
				}
				m.check.Want("out "+p.name, fmt.Sprintf("%s by %s copy %d", memberOf(e.id, e.pass), in.name, k), x.chains()...)
			}
		case "save":
			m.save(p, e)
		}
	}
}

func (p *program) index(step string) int {
	return slices.IndexFunc(p.steps, func(in instruction) bool { return in.name == step })
}

// save hands a row to the programs that load what another one saves.
func (m *model) save(p *program, e simEvent) {
	for _, l := range m.programs {
		if l.load != "rows of "+p.name {
			continue
		}
		x := e
		if !l.direct {
			x.chain = "row " + e.id // dealt by envelope
		}
		m.walk(l, 0, x)
	}
}

func (e *simEvent) chains() []string {
	if e.free {
		return nil
	}
	return []string{e.chain}
}

// classOf finds the class of a dead letter's reason.
func classOf(reason string) string {
	for _, c := range [][2]string{{"too late", "late"}, {"bad luck", "dead"}, {"panic: boom", "panic"}, {fmt.Sprintf("after %d retries: busy", simNever), "never"}, {"busy", "busy"},
		{"not yet", "notyet"}, {`jump to "no such step"`, "nowhere"}, {"jumped backwards", "loop"}, {"missing", "no key"}} {
		if strings.Contains(reason, c[0]) {
			return c[1]
		}
	}
	return "? " + reason
}
