package functions

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/kisflow/kisflow/kis"
)

// What New makes of windows, aggregates, joins, tables and versions.

// traitsOf is what the engine must know of a function.
func traitsOf(s *Spec) kis.Traits {
	t := kis.Traits{KeepsKey: Keeps(*s, s.Must)}
	switch {
	case s.Calculate != nil:
		c := s.Calculate
		t.Stateful = len(c.State) > 0 || len(c.Aggregate) > 0 || c.Replace != "" || c.Window != nil
		t.Timed = c.Window != nil && c.Window.Kind != "count" && !c.Window.Processing
	case s.Join != nil:
		t.Stateful, t.Timed = true, s.Join.Bounded
	case s.Load != nil && s.Load.Table:
		t.Stateful = true
	case s.Load != nil && s.Load.Lookup != nil:
		t.Many = true
	case s.Save != nil && s.Save.Keep:
		t.Stateful = true
	}
	return t
}

// save makes a Save that does more than to hand rows on.
func (b *builder) save(body *Save) func(*frame) (kis.Runner, error) {
	if body.Keep && len(b.spec.Must) == 0 {
		b.wrong("save.keep", "name the key's fields in source: {must: [...]}, or in save: {key: [...]}", "the latest row is kept of each key, and the function has none")
	}
	s := saver{body.Need}
	return func(*frame) (kis.Runner, error) {
		if body.Keep {
			return &keeper{saver: s}, nil
		}
		return &plainSaver{saver: s}, nil
	}
}

// emitOf is the fields that a function emits; nil: the rows that come in, with all of their fields.
func emitOf(s *Spec) []EmitField {
	switch {
	case s.Calculate != nil:
		return s.Calculate.Emit
	case s.Join != nil:
		return s.Join.Emit
	}
	return nil // a table adds fields, and none of the key's
}

// isKeyField says whether an expression is a field of the key as it is in all rows of the key.
func isKeyField(s *Spec, source, name string) bool {
	if isField(source, "key", name) {
		return true
	}
	inner := s.Join != nil && (s.Join.Type == "" || s.Join.Type == "inner")
	return inner && (isField(source, "left", name) || isField(source, "right", name))
}

// bodyOf names the body of a Calculate for a message.
func bodyOf(s *Spec) string {
	if s.Calculate == nil && s.Join != nil {
		return "join"
	}
	return "calculate"
}

// versions checks what the definition says of its states' version, and has the runner say it.
func (b *builder) versions(fn *function) {
	if b.spec.Version == 0 && len(b.spec.Migrate) == 0 {
		return
	}
	c := b.spec.Calculate
	if c == nil || c.Window != nil || len(c.State)+len(c.Aggregate) == 0 {
		at := "version"
		if b.spec.Version == 0 {
			at = "migrate"
		}
		b.wrong(at, "", "only a calculate with state or aggregates, and without a window, has states of a version")
		return
	}
	var names []string
	for _, f := range c.State {
		names = append(names, f.Name)
	}
	for _, a := range c.Aggregate {
		names = append(names, a.Name)
	}
	m, open := b.migration(names), fn.open
	fn.open = func(f *frame) (kis.Runner, error) {
		r, err := open(f)
		if err != nil {
			return nil, err
		}
		return &versioned{r, f, m}, nil
	}
}

// resultKinds are the kinds that an aggregate's result can have.
func (a *aggregate) resultKinds() kinds {
	switch a.kind.(type) {
	case counting, distinct, distinctAbout:
		return isInt
	case summing:
		return numbers
	case averaging, percentile, rate:
		return isFloat | isNull
	case best, collecting:
		return isArray
	case extreme:
		return numbers | isString | isNull
	}
	return anyKind
}

// gathering checks what windows and running aggregates have in common: aggregates, replace and the key.
func (b *builder) gathering(body *Calculate) (as *aggregates, id *program) {
	if len(b.spec.Must) == 0 {
		b.wrong("calculate.aggregate", "name the key's fields in source: {must: [...]}", "an aggregate belongs to a key, and the function has none")
	}
	rows := b.see()
	as = b.aggregates(body.Aggregate, rows)
	if body.Replace == "" {
		return as, nil
	}
	id = b.compile("calculate.replace", body.Replace, rows)
	if id != nil && id.kinds&scalars == 0 {
		b.wrong("calculate.replace", "", "must be a text, a number, true or false, but it is %s", id.kinds)
	}
	for i := range as.list {
		a := &as.list[i]
		switch k := a.kind.(type) {
		case distinctAbout:
			b.wrong(a.path, "distinct counts exactly, and can", "distinct_about cannot take back a row that is replaced")
		case percentile:
			b.wrong(a.path, "", "percentile cannot take back a row that is replaced")
		case custom:
			if k.remove == nil {
				b.wrong(a.path, "add remove: what self is without the row", "the aggregate cannot take back a row that is replaced")
			}
		}
	}
	return as, id
}

// keepArguments makes the aggregates of an own kind take their row from the kept arguments.
func (as *aggregates) keepArguments(fields []AggregateField) {
	as.args = 0
	for i := range as.list {
		a := &as.list[i]
		if k, ok := a.kind.(custom); ok {
			at := slices.IndexFunc(fields, func(f AggregateField) bool { return f.Name == a.name })
			var use fieldUse
			use.note(fields[at].Custom.Add, "row")
			use.note(fields[at].Custom.Remove, "row")
			k.kept = true
			a.kind = k
			a.args = []*program{{path: a.path, kinds: isObject, eval: func(f *frame) (kis.Value, bool) {
				return f.build(a.at, []byte(use.of(f.row)))
			}}}
		}
		a.first = as.args
		as.args += len(a.args)
	}
}

// merges says whether all aggregates can be merged.
func (as *aggregates) merges() bool {
	return !slices.ContainsFunc(as.list, func(a aggregate) bool { return !a.merge })
}

// takes says whether all aggregates may be able to take a row back so that nobody can tell. Those of an own kind do
// what their author says.
func (as *aggregates) takes() bool {
	return !slices.ContainsFunc(as.list, func(a aggregate) bool {
		_, own := a.kind.(custom)
		_, takes := a.kind.(taker)
		return own || !takes
	})
}

// places are where expressions find the state's fields and the aggregates.
func (b *builder) places(body *Calculate, as *aggregates, fields int) (names map[string]int, each []kinds) {
	names, each = make(map[string]int), make([]kinds, fields, fields+len(as.list))
	for i := range each {
		each[i] = anyKind
	}
	for i := range as.list {
		names[as.list[i].name] = fields + i
		each = append(each, as.list[i].resultKinds())
	}
	for _, name := range as.wrong {
		names[name] = len(each)
		each = append(each, anyKind)
	}
	return names, each
}

// union says which places any of some programs looks at, from a first place on.
func union(programs []*program, from, n int) []bool {
	out := make([]bool, n)
	for _, p := range programs {
		if p == nil {
			continue
		}
		for i := from; i < min(len(p.reads), from+n); i++ {
			out[i-from] = out[i-from] || p.reads[i]
		}
	}
	return out
}

func emitPrograms(emits []emit) []*program {
	var list []*program
	for _, e := range emits {
		list = append(list, e.expr)
	}
	return list
}

// windows makes a calculation in windows.
func (b *builder) windows(body *Calculate) func(*frame) (kis.Runner, error) {
	plan := b.window(body.Window)
	if len(body.State) > 0 {
		b.wrong("calculate.state", "use aggregate; one of its own is {init, add, result}", "a window has no state beside its aggregates")
	}
	if len(body.Aggregate) == 0 {
		b.wrong("calculate.window", "as in aggregate: {n: count()}", "a window needs aggregate: what is gathered in it")
	}
	as, id := b.gathering(body)
	if id != nil && (plan.kind == "sliding" || plan.kind == "count") {
		b.wrong("calculate.replace", "", "replace has no meaning for a %s window; it is for tumbling, hopping and session windows, and without a window", plan.kind)
	}
	keeps := id != nil || plan.kind == "sliding" || plan.kind == "count" && plan.every != plan.size || plan.kind != "count" && plan.kind != "tumbling" && !as.merges()
	if keeps {
		as.keepArguments(body.Aggregate)
	}
	see := b.see()
	see.row, see.meta = false, false
	see.without["row"] = "cannot be used here: the result of a window is that of many rows"
	see.without["meta"] = "cannot be used here: the result of a window is that of many rows"
	see.state, see.kinds = b.places(body, as, 0)
	see = see.also(further{name: "window", at: 0, fields: []string{"start", "end", "early"}, each: []kinds{isInt, isInt, isBool}})
	if body.Emit == nil {
		b.wrong("calculate.window", "as in emit: {user: key.user, n: state.n, start: window.start}", "a window needs emit: the row of its result")
	}
	emits := b.emits("calculate.emit", body.Emit, see)
	when := b.when(body.When, nil, nil)
	form := formOf(plan, as, keeps)
	return func(f *frame) (kis.Runner, error) {
		n := len(as.list)
		return &windowed{frame: f, plan: plan, aggs: as, id: id, keeps: keeps, takes: as.takes(), form: form, emits: emits, when: when, reads: union(emitPrograms(emits), 0, n),
			args: make([]kis.Value, as.args), scratch: make([]acc, n), out: make([]kis.Value, n)}, nil
	}
}

// formOf tells the states of a window from those of another one. Aggregates may be added and removed, unless the
// arguments of rows are kept.
func formOf(p *windowPlan, as *aggregates, keeps bool) string {
	s := fmt.Sprint(p.kind, p.size, p.every, p.offset, p.processing, keeps)
	if keeps {
		for i := range as.list {
			s += fmt.Sprintf(" %s %d", as.list[i].name, len(as.list[i].args))
		}
	}
	return strconv.FormatUint(xxhash.Sum64String(s)>>40, 36)
}

// when compiles the condition of a calculation.
func (b *builder) when(source string, names map[string]int, each []kinds) *program {
	if source == "" {
		return nil
	}
	see := b.see()
	if names != nil {
		see.state, see.kinds = names, each
	}
	return b.condition("calculate.when", source, see)
}

// running makes a calculation with aggregates of all rows of a key.
func (b *builder) running(body *Calculate) func(*frame) (kis.Runner, error) {
	if len(body.Aggregate) == 0 {
		b.wrong("calculate.replace", "as in aggregate: {total: sum(row.amount)}", "replace is for aggregates, and there are none")
	}
	as, id := b.gathering(body)
	if id != nil {
		as.keepArguments(body.Aggregate)
	}
	names, each := b.places(body, as, len(body.State))
	fields := make([]stateField, len(body.State))
	alone := roots{without: map[string]string{}}
	for _, root := range rootNames {
		alone.without[root] = "cannot be used in init: there is no row yet"
	}
	for i, s := range body.State {
		at := "calculate.state." + s.Name
		if _, twice := names[s.Name]; twice || s.Name == "" {
			b.wrong(at, "", "the field is there twice, or has no name")
		}
		if strings.HasPrefix(s.Name, "@") {
			b.wrong(at, "", "a name that begins with @ is KisFlow's own")
		}
		names[s.Name] = i
		fields[i] = stateField{name: s.Name, init: b.compile(at+".init", s.Init, alone)}
	}
	see := b.see()
	see.state, see.kinds = names, each
	var before []*program
	for i, s := range body.State {
		fields[i].set = b.compile("calculate.state."+s.Name+".set", s.Set, see)
		before = append(before, fields[i].set)
	}
	emits := b.emits("calculate.emit", body.Emit, see)
	when := b.when(body.When, names, each)
	before = append(before, when)
	n := len(as.list)
	r := running{fields: fields, aggs: as, id: id, emits: emits, when: when,
		before: union(before, len(fields), n), after: union(emitPrograms(emits), len(fields), n)}
	r.looks = slices.Contains(r.before, true)
	return func(f *frame) (kis.Runner, error) {
		r := r
		r.frame = f
		for i := range fields {
			v, err := fields[i].init.run(f)
			if err != nil {
				return nil, err
			}
			r.init = append(r.init, v)
			r.names = append(r.names, string(append(kis.StringValue(fields[i].name).AppendJSON(nil), ':')))
		}
		r.args, r.view, r.next = make([]kis.Value, as.args), make([]kis.Value, len(fields)+n), make([]kis.Value, len(fields))
		r.scratch, r.saved = make([]acc, n), make([]acc, n)
		return &r, nil
	}
}
