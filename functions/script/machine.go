package script

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"

	"github.com/kisflow/kisflow/kis"
)

const (
	maxLoaded  = 64       // programs that a machine holds; the one used least recently goes
	flushBytes = 64 << 10 // of results
	maxReason  = 4 << 10  // bytes of a reason, and of a stack
	maxLogs    = 10       // lines of ctx.log that a row may write
	maxLogLine = 1 << 10  // bytes of each
	maxOutputs = 100_000  // rows that a row may emit
	flushEvery = 50 * time.Millisecond
)

// machine runs programs; one goroutine uses it.
type machine struct {
	loaded map[[16]byte]*instance
	turn   uint64
	guard  guard
	frame  []byte
	// fresh has each row run by a script that was just loaded: what it keeps outside of its state shows as an error
	// of the script in tests, and not in production.
	fresh bool
}

// instance is a program that is loaded.
type instance struct {
	program *program
	used    uint64 // turn
	vm      *goja.Runtime
	handle  goja.Callable
	row     goja.Callable // handles the row in hand; native
	ctx     *goja.Object
	read    reader
	write   writer

	now time.Time
	// of the row in hand:
	key    []byte
	keyed  goja.Value // key, once it was asked for
	input  []byte
	before []byte // state
	meta   rowMeta
	metaOf goja.Value
	random uint64
	state  goja.Value
	logs   []string
	out    []byte // outputs, as in a result
	outs   int
	size   int // bytes of rows in out
	fault  *rowFault
	after  []byte // state
}

// rowMeta is a kis.Meta on its way.
type rowMeta struct {
	subject, stream []byte
	sequence        uint64
	index           uint64
	millis          int64
}

// rowFault is why a row was not handled.
type rowFault struct {
	verdict byte
	reason  string
	stack   string
	broken  bool // the instance is of no use any more
}

// load makes a program ready. The error says what is wrong with the program.
func (m *machine) load(p *program) error {
	if m.loaded == nil {
		m.loaded = make(map[[16]byte]*instance)
	}
	if m.loaded[p.id] != nil {
		return nil
	}
	defer m.guard.rest()
	in, err := m.start(p)
	if err != nil {
		return err
	}
	if len(m.loaded) >= maxLoaded {
		var oldest *instance
		for _, o := range m.loaded {
			if oldest == nil || o.used < oldest.used {
				oldest = o
			}
		}
		delete(m.loaded, oldest.program.id)
	}
	m.turn++
	in.used = m.turn
	m.loaded[p.id] = in
	return nil
}

// start makes an instance and runs the script's own level.
func (m *machine) start(p *program) (in *instance, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the engine of scripts broke: %v", r)
		}
	}()
	vm := goja.New()
	vm.SetParserOptions(parser.WithDisableSourceMaps) // they would be read from files
	vm.SetMaxCallStackSize(maxCalls)
	in = &instance{program: p, vm: vm, now: time.UnixMilli(0)}
	in.read.vm = vm
	vm.SetTimeSource(func() time.Time { return in.now })
	vm.SetRandSource(in.nextRandom)
	in.row, _ = goja.AssertFunction(vm.ToValue(func(goja.FunctionCall) goja.Value {
		in.once()
		return nil
	}))
	if err := in.context(); err != nil {
		return nil, err
	}
	m.guard.begin(vm, p.limits.Time)
	defer m.guard.end()
	last, err := vm.RunProgram(p.source.code)
	if err != nil {
		f := in.faultOf(err)
		return nil, errors.New(f.reason)
	}
	h := last
	if f, err := vm.RunString("typeof handle === 'undefined' ? undefined : handle"); err == nil && !goja.IsUndefined(f) {
		h = f
	}
	ok := false
	if h != nil {
		in.handle, ok = goja.AssertFunction(h)
	}
	if !ok {
		return nil, fmt.Errorf("%s: handle is no function", p.source.name)
	}
	return in, nil
}

// context makes what a script sees as ctx, and console.
func (in *instance) context() error {
	vm, p := in.vm, in.program
	in.ctx = vm.NewObject()
	get := func(name string, f func() goja.Value) error {
		return in.ctx.DefineAccessorProperty(name, vm.ToValue(func(goja.FunctionCall) goja.Value { return f() }), nil, goja.FLAG_FALSE, goja.FLAG_TRUE)
	}
	if err := vm.GlobalObject().Delete("GoError"); err != nil { // nothing here makes one
		return err
	}
	params := in.read.read(string(p.params)).(*goja.Object)
	log := func(c goja.FunctionCall) goja.Value {
		var parts []string
		for _, a := range c.Arguments {
			parts = append(parts, a.String())
		}
		in.log(strings.Join(parts, " "))
		return goja.Undefined()
	}
	console := vm.NewObject()
	for _, name := range []string{"log", "info", "warn", "error", "debug"} {
		if err := console.Set(name, log); err != nil {
			return err
		}
	}
	return errors.Join(
		vm.Set("console", console),
		get("params", func() goja.Value { return params }),
		get("now", func() goja.Value { return vm.ToValue(in.now.UnixMilli()) }),
		get("key", func() goja.Value {
			if in.keyed == nil {
				in.keyed = in.read.read(string(in.key))
			}
			return in.keyed
		}),
		get("meta", func() goja.Value {
			if in.metaOf == nil {
				o := vm.NewObject()
				set(o, "subject", vm.ToValue(string(in.meta.subject)))
				set(o, "stream", vm.ToValue(string(in.meta.stream)))
				set(o, "sequence", vm.ToValue(in.meta.sequence))
				set(o, "index", vm.ToValue(in.meta.index))
				set(o, "time", vm.ToValue(in.meta.millis))
				in.metaOf = o
			}
			return in.metaOf
		}),
		in.ctx.DefineAccessorProperty("state",
			vm.ToValue(func(goja.FunctionCall) goja.Value { return in.state }),
			vm.ToValue(func(c goja.FunctionCall) goja.Value {
				if !p.state {
					panic(vm.NewTypeError("ctx.state: the function has no key, so it has no state; name the key's fields in source.must"))
				}
				in.state = c.Argument(0)
				return goja.Undefined()
			}), goja.FLAG_FALSE, goja.FLAG_TRUE),
		in.ctx.Set("clear", func(goja.FunctionCall) goja.Value {
			in.state = goja.Undefined()
			return goja.Undefined()
		}),
		in.ctx.Set("emit", func(c goja.FunctionCall) goja.Value {
			in.emit("ctx.emit", c.Argument(0))
			return goja.Undefined()
		}),
		in.ctx.Set("send", func(c goja.FunctionCall) goja.Value {
			if !p.sends {
				panic(vm.NewTypeError("ctx.send: only a function of mode Expand sends, to the subjects that its expand.subject covers"))
			}
			in.send(c.Argument(0).String(), c.Argument(1))
			return goja.Undefined()
		}),
		in.ctx.Set("deadLetter", func(c goja.FunctionCall) goja.Value {
			in.refuse(rowDead, c.Argument(0), "set aside by the script")
			return goja.Undefined()
		}),
		in.ctx.Set("drop", func(c goja.FunctionCall) goja.Value {
			in.refuse(rowDrop, c.Argument(0), "dropped by the script")
			return goja.Undefined()
		}),
		in.ctx.Set("log", log),
	)
}

func (in *instance) refuse(verdict byte, reason goja.Value, without string) {
	text := without
	if !goja.IsUndefined(reason) {
		text = reason.String()
	}
	in.fault = &rowFault{verdict: verdict, reason: text}
}

func (in *instance) log(line string) {
	switch n := len(in.logs); {
	case n < maxLogs:
		in.logs = append(in.logs, cut(line, maxLogLine))
	case n == maxLogs:
		in.logs = append(in.logs, "(more lines of this row are left out)")
	}
}

// nextRandom is Math.random: a sequence that the row's place in its stream determines.
func (in *instance) nextRandom() float64 {
	in.random += 0x9e3779b97f4a7c15
	z := in.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// run handles a request; out is given frames of results, in the order of the rows.
func (m *machine) run(payload []byte, out func(frame []byte) error) error {
	if len(payload) < 17 {
		return errFrame
	}
	in := m.loaded[[16]byte(payload[:16])]
	if in == nil {
		return errors.New("the program is not loaded")
	}
	m.turn++
	in.used = m.turn
	careful := payload[16] != 0
	c := cursor{b: payload[17:]}
	in.now = time.UnixMilli(c.signed())
	m.guard.watch(in.program.limits)
	defer m.guard.rest()
	flushed := time.Now()
	m.frame = appendFrame(m.frame[:0], resultFrame)
	calls := c.count()
	for call := range calls {
		in.key, in.keyed = c.text(), nil
		state := c.text()
		rows := c.count()
		for row := range rows {
			in.input, in.before = c.text(), state
			in.meta = rowMeta{subject: c.text(), stream: c.text(), sequence: c.number(), index: c.number(), millis: c.signed()}
			if c.err != nil {
				return c.err
			}
			if m.fresh {
				fresh, err := m.renew(in)
				if err != nil {
					return err
				}
				in = fresh
			}
			f := m.handle(in)
			m.frame = in.appendResult(m.frame, call, row, f)
			if f == nil {
				state = in.after
			} else if f.broken {
				fresh, err := m.renew(in)
				if err != nil {
					return err
				}
				in = fresh
			}
			if now := time.Now(); careful || len(m.frame) > flushBytes || now.Sub(flushed) >= flushEvery {
				flushed = now
				if err := out(endFrame(m.frame)); err != nil {
					return err
				}
				m.frame = appendFrame(m.frame[:0], resultFrame)
			}
		}
	}
	if c.err != nil {
		return c.err
	}
	if len(m.frame) > frameHead {
		return out(endFrame(m.frame))
	}
	return nil
}

// renew loads an instance's script anew, for the row in hand: what an interrupt left behind is not to be trusted.
func (m *machine) renew(old *instance) (*instance, error) {
	in, err := m.start(old.program)
	if err != nil {
		return nil, err
	}
	in.used, in.now, in.key, in.input, in.before, in.meta = old.used, old.now, old.key, old.input, old.before, old.meta
	m.loaded[in.program.id] = in
	return in, nil
}

// handle handles the row in hand.
func (m *machine) handle(in *instance) (f *rowFault) {
	defer func() {
		if r := recover(); r != nil {
			f = &rowFault{verdict: rowDead, reason: fmt.Sprintf("the engine of scripts broke: %v", r), stack: string(debug.Stack()), broken: true}
		}
	}()
	in.metaOf, in.random, in.fault, in.after = nil, in.seed(), nil, nil
	in.logs, in.out, in.outs, in.size = in.logs[:0], in.out[:0], 0, 0
	m.guard.begin(in.vm, in.program.limits.Time)
	_, err := in.row(goja.Undefined())
	m.guard.end()
	if err != nil {
		return in.faultOf(err)
	}
	return in.fault
}

func (in *instance) seed() uint64 {
	h := fnv.New64a()
	h.Write(in.meta.stream)
	return h.Sum64() ^ in.meta.sequence*0x9e3779b97f4a7c15 ^ in.meta.index<<32
}

// once is the row's way through the script. It runs within the virtual machine, so what it throws is caught there.
func (in *instance) once() {
	defer func() {
		if r := recover(); r != nil {
			u, ok := r.(unfit)
			if !ok {
				panic(r)
			}
			in.fault = &rowFault{verdict: rowDead, reason: u.Error()}
		}
	}()
	row := in.read.read(string(in.input))
	var state goja.Value = goja.Undefined()
	if in.program.state {
		if len(in.before) > 0 {
			state = in.read.read(string(in.before))
		} else {
			state = in.vm.NewObject()
		}
	}
	in.state = state
	given, err := in.handle(goja.Undefined(), row, state, in.ctx)
	if err != nil {
		in.fault = in.faultOf(err)
		return
	}
	if in.fault == nil {
		in.answer(given)
	}
	if in.fault == nil {
		in.keep()
	}
}

// answer takes what handle has returned.
func (in *instance) answer(given goja.Value) {
	verify := in.program.mode == kis.Verify
	say := func(format string, args ...any) {
		in.fault = &rowFault{verdict: rowDead, reason: in.program.source.name + ": " + fmt.Sprintf(format, args...)}
	}
	if given == nil || goja.IsUndefined(given) || goja.IsNull(given) {
		if verify && in.outs == 0 {
			say("handle returned nothing; in a Verify it returns true, false, or a row")
		}
		return
	}
	o, ok := given.(*goja.Object)
	if !ok {
		switch v := given.Export().(type) {
		case bool:
			switch {
			case v:
				in.pass()
			case verify:
				in.fault = &rowFault{verdict: rowDead, reason: in.program.source.name + ": handle returned false"}
			default:
				say("handle returned false; it returns a row, an array of rows, true for the row as it came, or nothing")
			}
		default:
			say("handle returned %s; it returns a row, an array of rows, true for the row as it came, or nothing", in.show(given))
		}
		return
	}
	if array, _, _ := plain(o); !array {
		in.emit("handle returned what", given)
		return
	}
	n := o.Get("length").ToInteger()
	if n > maxOutputs {
		say("handle returned %d rows; the most is %d", n, maxOutputs)
		return
	}
	for i := range n {
		if in.emit(fmt.Sprintf("item %d of what handle returned", i), o.Get(fmt.Sprint(i))); in.fault != nil {
			return
		}
	}
}

// show names a value in a message.
func (in *instance) show(v goja.Value) string {
	if _, ok := v.(*goja.Symbol); ok {
		return "a Symbol"
	}
	switch v.Export().(type) {
	case string:
		return fmt.Sprintf("the text %.40q", v.String())
	case int64, float64:
		return "the number " + v.String()
	}
	return fmt.Sprintf("%.40s", v.String())
}

func (in *instance) pass() {
	in.outs++
	in.out = append(in.out, outPass)
}

// emit takes a row that goes on.
func (in *instance) emit(what string, v goja.Value) {
	if text := in.encode(what, v); text != nil {
		in.out = appendText(append(in.out, outEmit), text)
	}
}

// send takes a row for a subject.
func (in *instance) send(subject string, v goja.Value) {
	if text := in.encode("ctx.send", v); text != nil {
		in.out = appendText(append(in.out, outSend), subject)
		in.out = appendText(in.out, text)
	}
}

// encode makes JSON of a row, or notes why it cannot.
func (in *instance) encode(what string, v goja.Value) []byte {
	if in.fault != nil {
		return nil
	}
	name := in.program.source.name + ": " + what
	say := func(format string, args ...any) []byte {
		in.fault = &rowFault{verdict: rowDead, reason: name + " " + fmt.Sprintf(format, args...)}
		return nil
	}
	o, ok := v.(*goja.Object)
	if !ok {
		if v == nil {
			v = goja.Undefined()
		}
		return say("is no row: it is %s", in.show(v))
	}
	if array, ok, what := plain(o); array || !ok {
		if array {
			what = "an array"
		}
		return say("is no row: it is %s", what)
	}
	if in.outs++; in.outs > maxOutputs {
		return say("makes more than %d rows", maxOutputs)
	}
	text, err := in.write.object(nil, o)
	if err != nil {
		return say("cannot be a row: %s", err)
	}
	if in.size += len(text); in.size > maxOutput {
		return say("makes more than %d bytes of rows", maxOutput)
	}
	return text
}

// keep takes the state that handle left.
func (in *instance) keep() {
	if !in.program.state {
		return
	}
	say := func(format string, args ...any) {
		in.fault = &rowFault{verdict: rowDead, reason: in.program.source.name + ": " + fmt.Sprintf(format, args...)}
	}
	if in.state == nil || goja.IsUndefined(in.state) || goja.IsNull(in.state) {
		return
	}
	o, ok := in.state.(*goja.Object)
	if !ok {
		say("the state is %s; it must be an object", in.show(in.state))
		return
	}
	if array, ok, what := plain(o); array || !ok {
		if array {
			what = "an array"
		}
		say("the state is %s; it must be a plain object", what)
		return
	}
	text, err := in.write.object(nil, o)
	if err != nil {
		say("the state cannot be kept: %s", err)
		return
	}
	if len(text) > maxState {
		say("the state has %d bytes; the most is %d", len(text), maxState)
		return
	}
	if string(text) != "{}" { // an empty state and none are the same
		in.after = text
	}
}

// faultOf says what an error of the virtual machine means for the row.
func (in *instance) faultOf(err error) *rowFault {
	f := &rowFault{verdict: rowDead}
	var ex *goja.Exception
	var over *goja.StackOverflowError
	var stopped *goja.InterruptedError
	var frames []goja.StackFrame
	reason := ""
	switch {
	case errors.As(err, &stopped):
		f.broken = true
		frames = stopped.Stack()
		reason = fmt.Sprintf("it took longer than %s (script.timeout)", in.program.limits.Time)
	case errors.As(err, &over):
		f.broken = true
		frames = over.Stack()
		reason = fmt.Sprintf("its calls are nested deeper than %d", maxCalls)
	case errors.As(err, &ex):
		frames = ex.Stack()
		if v := ex.Value(); v != nil {
			reason = "something that has no text"
			if e := in.vm.Try(func() { reason = v.String() }); e != nil {
				reason = "an error that throws when it is asked what it is"
			}
		}
	default:
		reason = err.Error()
	}
	place := in.program.source.name
	var stack strings.Builder
	found := false
	for i := range frames {
		if i == 20 {
			stack.WriteString("...\n")
			break
		}
		p := frames[i].Position()
		if p.Filename != in.program.source.name {
			continue
		}
		if in.program.source.wrapped && p.Line == 1 {
			p.Column--
		}
		at := fmt.Sprintf("%s:%d:%d", p.Filename, p.Line, p.Column)
		if !found {
			found, place = true, at
		}
		fmt.Fprintf(&stack, "%s at %s\n", frames[i].FuncName(), at)
	}
	f.reason = cut(place+": "+reason, maxReason)
	f.stack = cut(stack.String(), maxReason)
	return f
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// appendResult writes what became of the row in hand.
func (in *instance) appendResult(b []byte, call, row int, f *rowFault) []byte {
	b = binary.AppendUvarint(b, uint64(call))
	b = binary.AppendUvarint(b, uint64(row))
	b = binary.AppendUvarint(b, uint64(len(in.logs)))
	for _, l := range in.logs {
		b = appendText(b, l)
	}
	if f != nil {
		b = append(b, f.verdict)
		b = appendText(b, cut(f.reason, maxReason))
		return appendText(b, f.stack)
	}
	b = append(b, rowDone)
	b = binary.AppendUvarint(b, uint64(in.outs))
	b = append(b, in.out...)
	return appendText(b, in.after)
}
