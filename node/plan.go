package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/functions/script"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport"
)

// Codes of the mistakes that only a node finds; flowdef has the others.
const (
	codeExpression = "KF4001" // an expression is wrong
	codeConnector  = "KF4002" // the connector's type has no such side in this build
	codeSetting    = "KF4003" // a setting of a connector does not fit its type
)

// Lint checks definitions completely: what flowdef finds, every expression, and the fields of the rows along the flows.
func Lint(set *flowdef.Set, goFunctions []kis.Function, mustRun bool) flowdef.Mistakes {
	return lint(set, goFunctions, mustRun, connectors.NewHost(ConnectorTypes()...))
}

// lint is Lint for a program with connectors of its own.
func lint(set *flowdef.Set, goFunctions []kis.Function, mustRun bool, host *connectors.Host) flowdef.Mistakes {
	known := make(map[string]bool)
	for _, f := range goFunctions {
		known[f.Name()] = true
	}
	set.Resolve()
	expressions, faulty := lintExpressions(set, known)
	fields, saved := lintFields(set, known, faulty)
	mistakes := set.Check(flowdef.CheckOptions{GoFunctions: known, MustRun: mustRun, Saved: saved})
	faulted := make(map[string]bool) // places of which something is said already
	for _, m := range mistakes {
		faulted[m.Pos.String()] = true
	}
	for _, m := range slices.Concat(expressions, fields) {
		if !faulted[m.Pos.String()] {
			mistakes = append(mistakes, m)
		}
	}
	mistakes = append(mistakes, lintConnectors(set, known, mustRun, host)...)
	mistakes = append(mistakes, lintSettings(set, known, host)...)
	mistakes.Sort()
	return mistakes
}

// lintExpressions finds what is wrong with functions whatever the rows, and which ones are wrong.
func lintExpressions(set *flowdef.Set, known map[string]bool) (mistakes flowdef.Mistakes, faulty map[string]bool) {
	faulty = make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(set.Funcs)) {
		def := set.Funcs[name]
		if !known[name] && def.Script != nil {
			mistakes = append(mistakes, lintScript(def)...)
		}
		if known[name] || !hasBody(def) || def.Script != nil || def.Remote != nil {
			continue
		}
		_, ms := functions.New(specOf(set, def))
		for _, m := range ms {
			faulty[name] = true
			t := textOf(def, m.Path)
			pos := t.Pos
			if m.Column > 0 {
				pos = t.At(m.Column - 1)
			}
			mistakes = append(mistakes, flowdef.NewMistake(pos, codeExpression, m.Message, m.Hint))
		}
	}
	return mistakes, faulty
}

// lintConnectors finds the Saves and Loads of enabled flows that this build has no connector for. They are
// mistakes for a node that is to run them, and warnings for a reader.
func lintConnectors(set *flowdef.Set, known map[string]bool, mustRun bool, host *connectors.Host) flowdef.Mistakes {
	var mistakes flowdef.Mistakes
	said := make(map[string]bool)
	for _, flow := range set.Flows {
		for _, s := range flow.Steps {
			fn := set.Funcs[s.Function.Value]
			if !flow.Enabled || fn == nil || known[fn.Name] || said[fn.Name] || fn.Mode != string(kis.Save) && fn.Mode != string(kis.Load) {
				continue
			}
			if _, ok := set.Handoff(fn); ok || set.Conns[fn.Option.Conn.Value] == nil {
				continue
			}
			wrong := connectorMissing(set, fn)
			if _, ok := lookupOf(set, fn, host); ok && !keyless(fn) {
				continue
			} else if ok {
				wrong = noKey(fn)
			}
			said[fn.Name] = true
			m := flowdef.NewMistake(fn.Option.Conn.Pos, codeConnector, wrong.Error(), "")
			if !mustRun {
				m.Severity = flowdef.Warning
			}
			mistakes = append(mistakes, m)
		}
	}
	return mistakes
}

// hasBody tells whether a function is described in YAML, wholly or as far as its mode needs.
func hasBody(def *flowdef.Func) bool {
	if def.Script != nil || def.Remote != nil {
		return true
	}
	switch kis.Mode(def.Mode) {
	case kis.Calculate:
		return def.Calculate != nil || def.Join != nil
	case kis.Expand:
		return def.Expand != nil
	}
	return true
}

// specOf is a function's definition as package functions takes it. What others in the set save and ask for is part of it.
func specOf(set *flowdef.Set, def *flowdef.Func) functions.Spec {
	s := functions.Spec{Name: def.Name, Mode: kis.Mode(def.Mode), Must: mustOf(def)}
	for _, r := range def.Verify {
		s.Verify = append(s.Verify, functions.Rule{Rule: r.Rule.Value, Reason: r.Reason, Else: r.Else})
	}
	emit := func(in []flowdef.EmitField) (out []functions.EmitField) {
		for _, e := range in {
			out = append(out, functions.EmitField{Name: e.Name, Expr: e.Expr.Value})
		}
		return out
	}
	if c := def.Calculate; c != nil {
		s.Calculate = &functions.Calculate{Emit: emit(c.Emit), When: c.When.Value}
		for _, f := range c.State {
			s.Calculate.State = append(s.Calculate.State, functions.StateField{Name: f.Name, Init: f.Init.Value, Set: f.Set.Value})
		}
	}
	modelOf(set, def, &s, emit)
	if e := def.Expand; e != nil {
		s.Expand = &functions.Expand{Subject: e.Subject.Value, Emit: emit(e.Emit), When: e.When.Value}
	}
	return s
}

func mustOf(def *flowdef.Func) []string {
	var must []string
	for _, m := range def.Key() {
		must = append(must, m.Value)
	}
	return must
}

// textOf finds the text that a mistake's path names; the definition's own place if it is none of them.
func textOf(def *flowdef.Func, path string) flowdef.Text {
	part := strings.Split(path, ".")
	at := flowdef.Text{Pos: def.Pos}
	emit := func(fields []flowdef.EmitField, name string) flowdef.Text {
		for _, e := range fields {
			if e.Name == name {
				return e.Expr
			}
		}
		return at
	}
	rest := strings.Join(part[min(2, len(part)):], ".")
	if t, ok := modelText(def, part, rest, emit); ok {
		return t
	}
	switch {
	case len(part) >= 2 && part[0] == "verify":
		if i, err := strconv.Atoi(part[1]); err == nil && i >= 0 && i < len(def.Verify) {
			return def.Verify[i].Rule
		}
	case len(part) >= 2 && part[0] == "calculate" && def.Calculate != nil:
		switch part[1] {
		case "when":
			return def.Calculate.When
		case "emit":
			return emit(def.Calculate.Emit, rest)
		case "state":
			name, which := rest, ""
			if i := strings.LastIndexByte(rest, '.'); i >= 0 {
				name, which = rest[:i], rest[i+1:]
			}
			for _, f := range def.Calculate.State {
				switch {
				case f.Name == name && which == "init":
					return f.Init
				case f.Name == name && which == "set":
					return f.Set
				case f.Name == rest || f.Name == name:
					return flowdef.Text{Pos: f.Pos}
				}
			}
		}
	case len(part) == 3 && part[0] == "source" && part[1] == "must":
		if i, err := strconv.Atoi(part[2]); err == nil && i >= 0 && i < len(def.Key()) {
			return def.Key()[i]
		}
	case len(part) >= 2 && part[0] == "expand" && def.Expand != nil:
		switch part[1] {
		case "subject":
			return def.Expand.Subject
		case "when":
			return def.Expand.When
		case "emit":
			return emit(def.Expand.Emit, rest)
		}
	}
	return at
}

// planner turns definitions into what the engine runs.
type planner struct {
	streams   transport.Streams
	functions map[string]kis.Function
	scripts   script.Host
	client    *nats.Conn // for remote functions; nil: there is no NATS

	connectors *connectors.Host
	lookups    *lookupCounts
	latest     latest // of what flows have saved; set before any of them runs
	fresh      bool   // nothing was saved before: the streams are new
}

// starts says where a flow began to read its inputs when it was new; the catalog keeps it.
type starts map[string]start

type start struct {
	Created  int64  `json:"created"` // of the stream, unix nanoseconds
	Sequence uint64 `json:"sequence"`
	// Copy: of a Load as a table, that it begins with the rows that the hand-off's Saves keep, and reads on above Sequence.
	Copy bool `json:"copy,omitempty"`
}

// plan makes the engine's flow of a definition. It creates the streams that are missing, and adds to at where
// inputs that are new begin.
func (pl *planner) plan(ctx context.Context, set *flowdef.Set, def *flowdef.Flow, revision uint64, at starts) (*actors.Flow, error) {
	f := &actors.Flow{Name: def.Name, Revision: revision, Time: timeOf(def)}
	if def.Loop != nil {
		f.Passes = def.Loop.Most
	}
	for i := range def.Steps {
		s, err := pl.step(ctx, set, def, &def.Steps[i])
		if err != nil {
			return nil, fmt.Errorf("%s: step %s: %w", def.Steps[i].Pos, def.Steps[i].Name, err)
		}
		f.Steps = append(f.Steps, s)
	}
	for _, e := range def.Entries {
		in, err := pl.entry(ctx, &e, at)
		if err != nil {
			return nil, fmt.Errorf("%s: entry %s: %w", e.Subject.Pos, e.Subject.Value, err)
		}
		if i := slices.IndexFunc(f.Inputs, func(o actors.Input) bool { return o.Name == in.Name }); i >= 0 {
			// one stream captures several entries: they are one input, read in the stream's order
			if len(in.Filter) == 0 || len(f.Inputs[i].Filter) == 0 {
				f.Inputs[i].Filter = nil
			} else {
				f.Inputs[i].Filter = append(f.Inputs[i].Filter, in.Filter...)
			}
			continue
		}
		f.Inputs = append(f.Inputs, in)
	}
	loads := 0
	for i := range def.Steps {
		fn := set.Funcs[def.Steps[i].Function.Value]
		if fn.Mode != string(kis.Load) {
			continue
		}
		handOff, ok := set.Handoff(fn)
		if !ok {
			continue
		}
		loads++
		info, err := pl.ensureSave(ctx, handOff.Value, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: load %s: %w", fn.Pos, handOff.Value, err)
		}
		from := ""
		if fn.Load != nil {
			from = fn.Load.From
		}
		input := info.Name + "@" + def.Steps[i].Name
		pl.beginTable(set, fn, handOff.Value, at, input, info)
		begin, err := pl.beginLoad(ctx, at, input, info, from)
		if err != nil {
			return nil, fmt.Errorf("%s: load %s: %w", fn.Pos, handOff.Value, err)
		}
		in := actors.Input{Kind: actors.Load, Name: input, Stream: info.Name, Created: info.Created.UnixNano(), Start: begin, Step: i}
		if at[input].Copy {
			in.Copy = &actors.CopyOf{HandOff: handOff.Value, Row: keptRow}
		}
		f.Inputs = append(f.Inputs, in)
	}
	if err := pl.kept(ctx, f); err != nil {
		return nil, fmt.Errorf("%s: %w", def.Pos, err)
	}
	if len(def.Entries) == 0 && loads == 0 {
		in, err := pl.entry(ctx, &flowdef.Entry{Subject: flowdef.Text{Value: ownEntry(def.Name), Pos: def.Pos}}, at)
		if err != nil {
			return nil, fmt.Errorf("%s: own entry: %w", def.Pos, err)
		}
		f.Inputs = append(f.Inputs, in)
	}
	return f, nil
}

// ownEntry is the subject of a flow that names no entry.
func ownEntry(flow string) string { return "KISFLOW.in." + actors.Token(flow) }

// begin is where a flow starts to read an input: as it was decided when it was new.
func (pl *planner) begin(ctx context.Context, at starts, input string, info transport.Info, from string) (uint64, error) {
	if s, ok := at[input]; ok {
		return s.Sequence, nil
	}
	s := start{Created: info.Created.UnixNano()}
	where, err := flowdef.ParseStart(from)
	if err != nil {
		return 0, fmt.Errorf("from %s: %w", from, err)
	}
	if where.Ago > 0 {
		where.At = time.Now().Add(-where.Ago)
	}
	switch {
	case where.Now:
		s.Sequence = info.Last
	case !where.At.IsZero():
		if s.Sequence, err = pl.before(ctx, info, where.At); err != nil {
			return 0, fmt.Errorf("from %s: %w", from, err)
		}
	case info.First > 0:
		s.Sequence = info.First - 1
	}
	at[input] = s
	return s.Sequence, nil
}

// beginLoad is begin for a hand-off: rows that were cut are not passed over without a word (P11).
func (pl *planner) beginLoad(ctx context.Context, at starts, input string, info transport.Info, from string) (uint64, error) {
	if _, known := at[input]; !known && (from == "" || from == "beginning") && info.First > 1 {
		since := "nothing is left of it"
		if info.First <= info.Last {
			m, err := pl.next(ctx, info.Name, info.First)
			if err != nil {
				return 0, err
			}
			since = "the earliest row that is left is of " + m.Time.UTC().Format(time.RFC3339)
		}
		return 0, fmt.Errorf("the beginning of the hand-off is gone: %s; say from: with a time from then on, or from: now", since)
	}
	return pl.begin(ctx, at, input, info, from)
}

// before finds the sequence of the last message that a stream stored before a time. Where messages were removed that
// may be younger, it says since when there are some.
func (pl *planner) before(ctx context.Context, info transport.Info, t time.Time) (uint64, error) {
	low, high := max(info.First, 1), info.Last+1 // the first message at or after t is in [low, high]
	for low < high {
		mid := low + (high-low)/2
		m, err := pl.next(ctx, info.Name, mid)
		if err != nil {
			return 0, err
		}
		if m.Sequence == 0 || !m.Time.Before(t) { // nothing is left behind mid, or it is young enough
			high = mid
			continue
		}
		low = m.Sequence + 1
	}
	if low == max(info.First, 1) && info.First > 1 && info.First <= info.Last {
		m, err := pl.next(ctx, info.Name, info.First)
		if err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("stream %s holds nothing from before %s; the earliest that can be asked for is that time",
			info.Name, m.Time.UTC().Format(time.RFC3339))
	}
	return low - 1, nil
}

// next reads the first message at or behind a sequence; one without a sequence where there is none.
func (pl *planner) next(ctx context.Context, stream string, from uint64) (transport.Message, error) {
	r, err := pl.streams.Read(ctx, stream, transport.ReadOptions{From: from, HeadersOnly: true, Holes: true})
	if err != nil {
		return transport.Message{}, err
	}
	defer r.Close()
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ms, err := r.Next(limit, 1)
	if len(ms) == 0 || err != nil {
		if ctx.Err() == nil && (err == nil || errors.Is(err, context.DeadlineExceeded)) {
			return transport.Message{}, nil
		}
		return transport.Message{}, err
	}
	return ms[0], nil
}

// timeOf is a flow's event time as the engine takes it.
func timeOf(def *flowdef.Flow) actors.EventTime {
	t := def.Time
	if t == nil {
		return actors.EventTime{}
	}
	return actors.EventTime{Field: t.Field.Value, Unit: t.Unit, Lateness: t.Lateness, Idle: t.Idle, Ahead: t.Ahead, Since: t.Since}
}

func (pl *planner) step(ctx context.Context, set *flowdef.Set, flow *flowdef.Flow, def *flowdef.Step) (actors.Step, error) {
	fn := set.Funcs[def.Function.Value]
	if fn == nil {
		return actors.Step{}, fmt.Errorf("unknown function %q", def.Function.Value)
	}
	s := actors.Step{Name: def.Name, Mode: kis.Mode(fn.Mode), Must: mustOf(fn), Params: mergedParams(fn, def),
		RetryTimes: fn.Option.RetryTimes, RetryDelay: fn.Option.RetryDuration}
	if fn.TTL != nil {
		s.TTL, s.TTLByEvent = fn.TTL.After, fn.TTL.ByEvent
	}
	remoteRetries(fn, &s)
	switch fn.OnError {
	case "stop":
		s.OnError = actors.StopPartition
	case "park_key":
		s.OnError = actors.ParkKey
	}
	f, looks, err := pl.lookup(set, flow.Name, def, fn, &s)
	if looks {
		s.Function = f
		return s, err
	}
	if s.Function, err = pl.function(set, fn); err != nil {
		return s, err
	}
	if fn.Mode == string(kis.Save) && pl.functions[fn.Name] == nil {
		handOff, ok := set.Handoff(fn)
		if !ok {
			return s, connectorMissing(set, fn)
		}
		if _, err := pl.ensureSave(ctx, handOff.Value, fn.Save); err != nil {
			return s, err
		}
		s.Save = handOff.Value
	}
	if fn.Mode == string(kis.Load) && pl.functions[fn.Name] == nil {
		if _, ok := set.Handoff(fn); !ok {
			return s, connectorMissing(set, fn)
		}
	}
	if late := lateSubject(fn); late != "" && pl.functions[fn.Name] == nil {
		out, err := pl.output(ctx, late, flow.Outputs)
		if err != nil {
			return s, err
		}
		s.Outputs = []actors.Output{out}
	}
	if fn.Expand != nil {
		out, err := pl.output(ctx, fn.Expand.Subject.Value, flow.Outputs)
		if err != nil {
			return s, err
		}
		s.Outputs, s.Pack = []actors.Output{out}, fn.Expand.Pack
	}
	return s, nil
}

func connectorMissing(set *flowdef.Set, fn *flowdef.Func) error {
	typ := ""
	if c := set.Conns[fn.Option.Conn.Value]; c != nil {
		typ = c.Type
	}
	return fmt.Errorf("function %s: connector %s has type %q, for which this build has no %s; it has nats, and a Go function of that name may do it",
		fn.Name, fn.Option.Conn.Value, typ, fn.Mode)
}

func (pl *planner) function(set *flowdef.Set, fn *flowdef.Func) (kis.Function, error) {
	if f := pl.functions[fn.Name]; f != nil {
		return f, nil
	}
	if f, err := pl.body(fn); f != nil || err != nil {
		return f, err
	}
	f, ms := functions.New(specOf(set, fn))
	if len(ms) > 0 {
		return nil, fmt.Errorf("function %s: %w", fn.Name, ms[0])
	}
	return f, nil
}

// madeByUs begins the description of streams that nodes create, so that they may be given more subjects later.
const madeByUs = "made by kisflow: "

// entry finds or makes the stream of an entry.
func (pl *planner) entry(ctx context.Context, e *flowdef.Entry, at starts) (actors.Input, error) {
	subject := e.Subject.Value
	info, err := pl.streams.Capturing(ctx, subject)
	if errors.Is(err, transport.ErrNotFound) {
		info, err = pl.streams.Ensure(ctx, streamConfig("ENTRY", subject, e.Stream, "events for flows"))
	}
	if err != nil {
		return actors.Input{}, err
	}
	if info.Lossy != "" && !e.AllowLossy && !strings.HasPrefix(info.Description, madeByUs) {
		return actors.Input{}, fmt.Errorf("stream %s may discard events that nobody has read (%s); change its limits or say allow_lossy: true", info.Name, info.Lossy)
	}
	begin, err := pl.begin(ctx, at, info.Name, info, e.From)
	if err != nil {
		return actors.Input{}, err
	}
	in := actors.Input{Kind: actors.Entry, Name: info.Name, Stream: info.Name, Created: info.Created.UnixNano(), Start: begin}
	in.MayLose = e.AllowLossy || strings.HasPrefix(info.Description, madeByUs)
	if len(info.Subjects) != 1 || info.Subjects[0] != subject {
		in.Filter = []string{subject}
	}
	return in, nil
}

// streamConfig is the stream that is made for a subject: its name, unless the flow gives one, is made of the
// subject's.
func streamConfig(kind, subject string, s *flowdef.StreamSettings, what string) transport.Config {
	c := transport.Config{Subjects: []string{subject}, Description: madeByUs + what}
	name := strings.NewReplacer(".", "_", "*", "any", ">", "all").Replace(subject)
	c.Name = kind + "_" + actors.Token(name)
	if s != nil {
		c.Name = cmp.Or(s.Name.Value, c.Name)
		c.MaxAge, c.MaxBytes = s.MaxAge, s.MaxBytes
		c.DiscardNew = s.MaxBytes > 0
	}
	return c
}

// output finds or makes the stream of what an Expand sends, with room for the fences of its writers.
func (pl *planner) output(ctx context.Context, subject string, s *flowdef.StreamSettings) (actors.Output, error) {
	pattern := outputPattern(subject)
	info, err := pl.streams.Capturing(ctx, pattern)
	switch {
	case errors.Is(err, transport.ErrNotFound):
		c := streamConfig("OUTPUT", pattern, s, "outputs of flows")
		c.Subjects = append(c.Subjects, actors.OutputFences(c.Name))
		info, err = pl.streams.Ensure(ctx, c)
	case err == nil && strings.HasPrefix(info.Description, madeByUs) && !slices.Contains(info.Subjects, actors.OutputFences(info.Name)):
		info, err = pl.streams.Ensure(ctx, transport.Config{Name: info.Name, Subjects: []string{actors.OutputFences(info.Name)}})
	}
	if err != nil {
		return actors.Output{}, fmt.Errorf("output %s: %w", subject, err)
	}
	return actors.Output{Stream: info.Name, Subject: pattern, Fenced: slices.Contains(info.Subjects, actors.OutputFences(info.Name))}, nil
}

// outputPattern puts a wildcard in the place of every token that depends on the row.
func outputPattern(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if strings.Contains(t, "{") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

func (pl *planner) ensureSave(ctx context.Context, name string, s *flowdef.Save) (transport.Info, error) {
	c := transport.Config{Name: actors.SaveStream(name), Subjects: []string{actors.SaveSubjects(name)}, Description: madeByUs + "hand-off " + name}
	if s != nil && s.MaxBytes > 0 {
		c.MaxBytes, c.DiscardNew = s.MaxBytes, true
	}
	return pl.streams.Ensure(ctx, c)
}
