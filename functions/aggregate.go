package functions

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Bounds of aggregates.
const (
	// MaxDistinct is how many different values a distinct keeps.
	MaxDistinct = 10_000
	// MaxTop is the most that top(k, ...) and collect(x, most) keep.
	MaxTop = 1000
)

// Where order counts, rows are in the order of their event time, and those of one millisecond in the order in which
// they were handled. A value that is null is left out by every aggregate; one that is missing is the row's dead letter.

// aggregateCalls are the functions that a calculation's aggregates can call.
var aggregateCalls = []Builtin{
	{"count", "count(condition?)", "How many rows, or for how many of them the condition is true.", "aggregates"},
	{"sum", "sum(x)", "The sum; 0 if there is none.", "aggregates"},
	{"avg", "avg(x)", "The mean as a float, of integers from their exact sum; null if there is none.", "aggregates"},
	{"min", "min(x)", "The least of numbers, or of texts; null if there is none.", "aggregates"},
	{"max", "max(x)", "The greatest of numbers, or of texts; null if there is none.", "aggregates"},
	{"first", "first(x)", "That of the oldest row; null if there is none.", "aggregates"},
	{"last", "last(x)", "That of the newest row; null if there is none.", "aggregates"},
	{"distinct", "distinct(x)", "How many different values, exactly; at most 10000.", "aggregates"},
	{"distinct_about", "distinct_about(x)", "How many different values, estimated (HyperLogLog): the standard error is 1.6 %; up to 100 values it is exact.", "aggregates"},
	{"top", "top(k, by, value?)", "The values (default: by itself) of the k rows in which by is greatest, from the greatest on; k is at most 1000.", "aggregates"},
	{"percentile", "percentile(p, x)", "The value below which p per cent of the values are (0 to 100), estimated (DDSketch) within 1 % of it; null if there is none.", "aggregates"},
	{"rate", "rate(x?, per)", `The sum of x, or the number of rows, in each stretch of time that per names: rate("1m").`, "aggregates"},
	{"collect", "collect(x, most)", "The values of the newest rows, at most so many (1000), from the oldest to the newest.", "aggregates"},
}

// Aggregates lists the functions that the aggregates of a calculation can call.
func Aggregates() []Builtin { return slices.Clone(aggregateCalls) }

// acc is what an aggregate has gathered of some rows. Its zero value has gathered nothing.
type acc struct {
	value kis.Value // the sum, the least, the newest, ...
	n     int64     // how many, or the time that belongs to value
	more  any       // of aggregates that need more room; a pointer, or nil
}

// aggregateKind is what an aggregate does. A failing method says so in the frame, as an expression does.
type aggregateKind interface {
	// next is what a row makes of a. It changes nothing; what is to change in a.more is for commit.
	next(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool)
	// commit does the rest of next, and cannot fail. Values that are kept are made owned.
	commit(a *acc, args []kis.Value, t int64)
	// merge adds what another one has gathered, of rows that were handled later as far as order counts. The other stays as it is.
	merge(f *frame, at *site, into *acc, from *acc) bool
	// result is the value that expressions see. span is the window's length in milliseconds, 0 outside of one.
	result(f *frame, at *site, a *acc, span int64) (kis.Value, bool)
	// encode appends a as a JSON value; decode reads it.
	encode(dst []byte, a *acc) []byte
	decode(v kis.Value) (acc, error)
}

// taker is a kind that may be able to take back what next has added. It says false where it cannot do so exactly.
type taker interface {
	take(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool)
}

// aggregate is one compiled aggregate of a calculation.
type aggregate struct {
	name  string
	quote string // the name as it stands in JSON, with colon
	path  string
	at    *site
	args  []*program // of each row
	nulls bool       // rows are not left out where the first argument is null
	kind  aggregateKind
	merge bool // it can be merged
	first int  // the place of its first argument among those of all aggregates
}

// failed makes an error of what the frame says.
func (a *aggregate) failed(f *frame) error {
	p := program{path: a.path}
	return p.failed(f)
}

// aggregates are those of one calculation.
type aggregates struct {
	list  []aggregate
	args  int      // of all of them together
	wrong []string // the names of those with mistakes: what looks at them makes no mistake of its own
}

// aggregates makes the aggregates of a definition.
func (b *builder) aggregates(fields []AggregateField, see roots) *aggregates {
	out := &aggregates{}
	for i, field := range fields {
		path := "calculate.aggregate." + field.Name
		switch {
		case field.Name == "":
			path = "calculate.aggregate." + itoa(i)
			b.wrong(path, "", "the aggregate has no name")
			continue
		case strings.HasPrefix(field.Name, "@"):
			b.wrong(path, "", "a name that begins with @ is KisFlow's own")
			continue
		case slices.ContainsFunc(fields[:i], func(o AggregateField) bool { return o.Name == field.Name }):
			b.wrong(path, "", "the aggregate is there twice")
			continue
		}
		var a aggregate
		ok := false
		if field.Custom != nil {
			a, ok = b.customAggregate(path, field.Custom, see)
		} else {
			a, ok = b.aggregateCall(path, field.Call, see)
		}
		if !ok {
			out.wrong = append(out.wrong, field.Name)
			continue
		}
		a.name, a.path, a.first = field.Name, path, out.args
		a.quote = string(append(kis.StringValue(field.Name).AppendJSON(nil), ':'))
		out.args += len(a.args)
		out.list = append(out.list, a)
	}
	return out
}

// aggregateCall compiles `sum(row.price)`.
func (b *builder) aggregateCall(path, source string, see roots) (a aggregate, ok bool) {
	names := make([]string, len(aggregateCalls))
	for i := range aggregateCalls {
		names[i] = aggregateCalls[i].Name
	}
	wrong := func(column int, hint, format string, args ...any) (aggregate, bool) {
		b.mistakes = append(b.mistakes, Mistake{Path: path, Column: column, Message: fmt.Sprintf(format, args...), Hint: hint})
		return a, false
	}
	known := "one of " + strings.Join(names, ", ")
	start := len(source) - len(strings.TrimLeft(source, " \t\r\n"))
	end := start
	for end < len(source) && (source[end] == '_' || source[end] >= 'a' && source[end] <= 'z' || source[end] >= 'A' && source[end] <= 'Z' || source[end] >= '0' && source[end] <= '9') {
		end++
	}
	name := source[start:end]
	switch {
	case strings.TrimSpace(source) == "":
		return wrong(0, "as in sum(row.amount)", "the aggregate is empty")
	case name == "" || !strings.HasPrefix(strings.TrimLeft(source[end:], " \t\r\n"), "("):
		return wrong(start+1, "as in sum(row.amount); "+known, "an aggregate is one call")
	case !slices.Contains(names, name):
		hint := didYouMean(name, names)
		if hint == "" || !strings.HasPrefix(hint, "did") {
			hint = known
		}
		return wrong(start+1, hint, "unknown aggregate %s", name)
	}
	signature := aggregateCalls[slices.Index(names, name)].Signature
	// The parser knows some of the names as functions on arrays; under another name of the same length it does not.
	c := &compiler{path: path, source: source[:start] + "_" + source[start+1:], roots: see, params: &b.params, builtins: b.builtins}
	defer func() { b.mistakes = append(b.mistakes, c.mistakes...) }()
	root, parsed := c.parse()
	if !parsed {
		return a, false
	}
	c.expect(root)
	call, isCall := root.(*ast.CallNode)
	if callee, is := callOf(call, isCall); !is || callee != c.source[start:end] {
		return wrong(start+1, "as in sum(row.amount); what is computed of it belongs into emit", "an aggregate is one call, nothing before or behind it")
	}
	args := call.Arguments
	a.at = &site{start + 1, name, args}
	least, most := map[string]int{"count": 0, "top": 2, "percentile": 2, "collect": 2}, map[string]int{"top": 3, "percentile": 2, "rate": 2, "collect": 2}
	low, has := least[name]
	if !has {
		low = 1
	}
	if high := max(1, most[name]); len(args) < low || len(args) > high {
		return wrong(start+1, signature, "%s takes %s, not %d", name, argumentCount(low, high), len(args))
	}
	constant := func(i int, what string, wants kinds) (kis.Value, bool) {
		n := c.compile(args[i], false)
		switch {
		case n.bad:
			return kis.Value{}, false
		case !n.fixed || n.kinds&wants == 0:
			c.wrong(args[i], signature, "%s is %s, written out: not %s", what, wants, sourceOf(args[i]))
			return kis.Value{}, false
		}
		return n.value, true
	}
	each := func(i int, wants kinds) bool {
		n := c.compile(args[i], false)
		if n.bad || !c.need(c.site(args[i], name, args[i]), wants, args[i], n) {
			return false
		}
		a.args = append(a.args, &program{path: path, eval: n.eval, kinds: n.kinds, fixed: n.fixed, value: n.value})
		return true
	}
	plus := &site{start + 1, "+", args}
	ok, a.merge = true, true
	switch name {
	case "count":
		a.kind = counting{}
		ok = len(args) == 0 || each(0, isBool)
	case "sum":
		a.kind, ok = summing{plus}, each(0, numbers)
	case "avg":
		a.kind, ok = averaging{summing{plus}}, each(0, numbers)
	case "min":
		a.kind, ok = extreme{-1}, each(0, numbers|isString)
	case "max":
		a.kind, ok = extreme{1}, each(0, numbers|isString)
	case "first":
		a.kind, ok = edge{last: false}, each(0, anyKind)
	case "last":
		a.kind, ok = edge{last: true}, each(0, anyKind)
	case "distinct":
		a.kind, ok = distinct{}, each(0, scalars&^isNumber)
	case "distinct_about":
		a.kind, ok = distinctAbout{}, each(0, scalars&^isNumber)
	case "top":
		var k kis.Value
		if k, ok = constant(0, "k", isInt); ok && (k.Int() < 1 || k.Int() > MaxTop) {
			c.wrong(args[0], "", "k is from 1 to %d, not %d", MaxTop, k.Int())
			ok = false
		}
		a.kind = best{k: int(k.Int()), value: len(args) == 3}
		ok = ok && each(1, numbers|isString) && (len(args) < 3 || each(2, anyKind))
	case "percentile":
		var p kis.Value
		if p, ok = constant(0, "p", numbers); ok && (p.Float() < 0 || p.Float() > 100) {
			c.wrong(args[0], "", "p is from 0 to 100 per cent, not %s", p.Text())
			ok = false
		}
		a.kind = percentile{p.Float() / 100}
		ok = ok && each(1, numbers)
	case "rate":
		var per kis.Value
		if per, ok = constant(len(args)-1, "per", isString); !ok {
			break
		}
		d, err := perOf(per.Text())
		if err != nil {
			c.wrong(args[len(args)-1], `as in rate("1m")`, "per %v", err)
			ok = false
		}
		a.kind = rate{summing{plus}, float64(d.Milliseconds())}
		ok = ok && (len(args) == 1 || each(0, numbers))
	case "collect":
		var most kis.Value
		if most, ok = constant(1, "most", isInt); ok && (most.Int() < 1 || most.Int() > MaxTop) {
			c.wrong(args[1], "", "most is from 1 to %d, not %d", MaxTop, most.Int())
			ok = false
		}
		a.kind = collecting{int(most.Int())}
		ok = ok && each(0, anyKind)
	}
	return a, ok && len(c.mistakes) == 0
}

func callOf(call *ast.CallNode, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	callee, ok := call.Callee.(*ast.IdentifierNode)
	if !ok {
		return "", false
	}
	return callee.Value, true
}

func argumentCount(low, high int) string {
	switch {
	case low == high && low == 1:
		return "one argument"
	case low == high:
		return strconv.Itoa(low) + " arguments"
	}
	return fmt.Sprintf("%d to %d arguments", low, high)
}

// perOf reads the stretch of a rate: 500ms, 1s, 5m, 1h, 1d.
func perOf(text string) (time.Duration, error) {
	number, day := strings.CutSuffix(text, "d")
	if day {
		text = number + "h"
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no duration", text)
	case d < time.Millisecond:
		return 0, fmt.Errorf("%q is below a millisecond", text)
	case d > 10*366*24*time.Hour:
		return 0, fmt.Errorf("%q is too long", text)
	}
	if day {
		d *= 24
	}
	return d, nil
}

// arguments evaluates those of the row that the frame shows, into args.
func (as *aggregates) arguments(f *frame, args []kis.Value) error {
	for i := range as.list {
		a := &as.list[i]
		for j, p := range a.args {
			v, err := p.run(f)
			if err != nil {
				return err
			}
			args[a.first+j] = v
		}
	}
	return nil
}

// next is what a row makes of one aggregate; a null leaves it as it is.
func (a *aggregate) next(f *frame, have acc, args []kis.Value, t int64) (acc, error) {
	if len(a.args) > 0 && !a.nulls && args[a.first].Kind() == kis.Null {
		return have, nil
	}
	f.work = maxWork
	got, ok := a.kind.next(f, a.at, have, args[a.first:a.first+len(a.args)], t)
	if !ok {
		return have, a.failed(f)
	}
	return got, nil
}

// commit does the rest of next.
func (a *aggregate) commit(have *acc, args []kis.Value, t int64) {
	if len(a.args) > 0 && !a.nulls && args[a.first].Kind() == kis.Null {
		return
	}
	a.kind.commit(have, args[a.first:a.first+len(a.args)], t)
}

// results computes what expressions see of all that reads asks for (nil: of all).
func (as *aggregates) results(f *frame, accs []acc, span int64, reads []bool, out []kis.Value) error {
	for i := range as.list {
		if reads != nil && (i >= len(reads) || !reads[i]) {
			continue
		}
		a := &as.list[i]
		f.work = maxWork
		v, ok := a.kind.result(f, a.at, &accs[i], span)
		if !ok {
			return a.failed(f)
		}
		out[i] = v
	}
	return nil
}

// encode appends the members of an object, without its braces.
func (as *aggregates) encode(dst []byte, accs []acc) []byte {
	for i := range as.list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = as.list[i].kind.encode(append(dst, as.list[i].quote...), &accs[i])
	}
	return dst
}

// decode reads what encode wrote: those that the object lacks have gathered nothing.
func (as *aggregates) decode(object string) ([]acc, error) {
	accs := make([]acc, len(as.list))
	for m := (members{text: object}); ; {
		name, text, more := m.next()
		if !more {
			return accs, nil
		}
		for i := range as.list {
			if !sameName(name, as.list[i].name) {
				continue
			}
			a, err := as.list[i].kind.decode(decoded(text))
			if err != nil {
				return nil, fmt.Errorf("aggregate %s: %w", as.list[i].name, err)
			}
			accs[i] = a
		}
	}
}

// size is about how many bytes a value takes in a state.
func size(v kis.Value) int {
	switch v.Kind() {
	case kis.String, kis.Array, kis.Object, kis.Number:
		return len(v.Text()) + 8
	}
	return 20
}

// notDecoded is the error of a state that has another form.
func notDecoded(what string, v kis.Value) (acc, error) {
	return acc{}, fmt.Errorf("%s, not %s, was written", what, describe(v))
}

// counting counts rows.
type counting struct{}

func (counting) counts(args []kis.Value) bool { return len(args) == 0 || args[0].Bool() }

func (k counting) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if len(args) > 0 && args[0].Kind() != kis.Bool {
		f.mismatch(at, "true or false", args[0])
		return a, false
	}
	if k.counts(args) {
		a.n++
	}
	return a, true
}

func (counting) commit(*acc, []kis.Value, int64) {}

func (k counting) take(_ *frame, _ *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if k.counts(args) {
		a.n--
	}
	return a, true
}

func (counting) merge(_ *frame, _ *site, into, from *acc) bool {
	into.n += from.n
	return true
}

func (counting) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) {
	return kis.IntValue(a.n), true
}

func (counting) encode(dst []byte, a *acc) []byte { return strconv.AppendInt(dst, a.n, 10) }

func (counting) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Int {
		return notDecoded("a count", v)
	}
	return acc{n: v.Int()}, nil
}

// summing adds numbers. value is null before the first.
type summing struct{ plus *site }

func (k summing) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	v := args[0]
	if !numbers.has(v.Kind()) {
		f.mismatch(at, "a number", v)
		return a, false
	}
	if a.value.Kind() == kis.Null {
		if a.value = v; v.Kind() == kis.Float {
			a.value = kis.FloatValue(v.Float()) // without the text that it came with
		}
		return a, true
	}
	var ok bool
	a.value, ok = f.plus(k.plus, a.value, v)
	return a, ok
}

func (summing) commit(*acc, []kis.Value, int64) {}

// take is exact for integers only.
func (summing) take(_ *frame, _ *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	x, y := a.value.Int(), args[0].Int()
	if a.value.Kind() != kis.Int || args[0].Kind() != kis.Int {
		return a, false
	}
	d := x - y
	if (d < x) != (y > 0) {
		return a, false
	}
	a.value = kis.IntValue(d)
	return a, true
}

func (k summing) merge(f *frame, at *site, into, from *acc) bool {
	if from.value.Kind() == kis.Null {
		return true
	}
	got, ok := k.next(f, at, *into, []kis.Value{from.value}, 0)
	*into = got
	return ok
}

func (summing) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) {
	if a.value.Kind() == kis.Null {
		return kis.IntValue(0), true
	}
	return a.value, true
}

func (summing) encode(dst []byte, a *acc) []byte { return a.value.AppendJSON(dst) }

func (summing) decode(v kis.Value) (acc, error) {
	switch v.Kind() {
	case kis.Null, kis.Int:
		return acc{value: v}, nil
	case kis.Float:
		return acc{value: kis.FloatValue(v.Float())}, nil
	}
	return notDecoded("a sum", v)
}

// averaging keeps the sum and how many there are.
type averaging struct{ summing }

func (k averaging) next(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool) {
	a, ok := k.summing.next(f, at, a, args, t)
	a.n++
	return a, ok
}

func (k averaging) take(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool) {
	a, ok := k.summing.take(f, at, a, args, t)
	if a.n--; a.n == 0 {
		a.value = kis.Value{}
	}
	return a, ok
}

func (k averaging) merge(f *frame, at *site, into, from *acc) bool {
	if !k.summing.merge(f, at, into, from) {
		return false
	}
	into.n += from.n
	return true
}

func (averaging) result(f *frame, at *site, a *acc, _ int64) (kis.Value, bool) {
	if a.n == 0 {
		return kis.Value{}, true
	}
	if a.value.Kind() == kis.Float {
		return f.float(at, a.value.Float()/float64(a.n))
	}
	return kis.FloatValue(quotient(a.value.Int(), a.n)), true
}

func (averaging) encode(dst []byte, a *acc) []byte {
	dst = append(dst, `{"sum":`...)
	dst = a.value.AppendJSON(dst)
	dst = append(dst, `,"count":`...)
	return append(strconv.AppendInt(dst, a.n, 10), '}')
}

func (k averaging) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Object {
		return notDecoded("an average", v)
	}
	sum, _ := member(v.Text(), "sum")
	count, _ := member(v.Text(), "count")
	if sum == "" || count == "" || decoded(count).Kind() != kis.Int {
		return notDecoded("an average", v)
	}
	a, err := k.summing.decode(decoded(sum))
	a.n = decoded(count).Int()
	return a, err
}

// quotient is the float nearest to x / n for n above 0.
func quotient(x, n int64) float64 {
	if magnitude(x) <= maxExact && n <= maxExact {
		return float64(x) / float64(n) // both exact: rounded once
	}
	q, _ := big.NewRat(x, n).Float64()
	return q
}

// extreme keeps the least or the greatest.
type extreme struct{ sign int }

func (k extreme) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	v := args[0]
	if a.value.Kind() == kis.Null {
		if !(numbers | isString).has(v.Kind()) {
			f.mismatch(at, "a number or a text", v)
			return a, false
		}
		a.value = v
		return a, true
	}
	order, ok := f.order(at, v, a.value)
	if ok && order*k.sign > 0 {
		a.value = v
	}
	return a, ok
}

func (extreme) commit(a *acc, args []kis.Value, _ int64) {
	if a.value.Kind() != kis.Int && sameText(a.value, args[0]) {
		a.value = owned(a.value)
	}
}

// sameText says whether two values may be one and the same.
func sameText(a, b kis.Value) bool { return a.Kind() == b.Kind() && a.Equal(b) }

// take cannot tell what comes after the one that it loses.
func (extreme) take(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	order, ok := f.order(at, args[0], a.value)
	f.err = nil
	return a, ok && order != 0
}

func (k extreme) merge(f *frame, at *site, into, from *acc) bool {
	if from.value.Kind() == kis.Null {
		return true
	}
	got, ok := k.next(f, at, *into, []kis.Value{from.value}, 0)
	*into = got
	return ok
}

func (extreme) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) { return a.value, true }

func (extreme) encode(dst []byte, a *acc) []byte { return a.value.AppendJSON(dst) }

func (extreme) decode(v kis.Value) (acc, error) {
	if !(numbers | isString | isNull).has(v.Kind()) {
		return notDecoded("a least or greatest", v)
	}
	return acc{value: owned(v)}, nil
}

// edge keeps the value of the oldest or the newest row, and its time in n.
type edge struct{ last bool }

func (k edge) next(_ *frame, _ *site, a acc, args []kis.Value, t int64) (acc, bool) {
	if a.value.Kind() == kis.Null || k.last && t >= a.n || !k.last && t < a.n {
		a.value, a.n = args[0], t
	}
	return a, true
}

func (edge) commit(a *acc, args []kis.Value, t int64) {
	if a.n == t && sameText(a.value, args[0]) {
		a.value = owned(a.value)
	}
}

func (edge) take(_ *frame, _ *site, a acc, args []kis.Value, t int64) (acc, bool) {
	return a, a.n != t
}

func (k edge) merge(f *frame, at *site, into, from *acc) bool {
	if from.value.Kind() != kis.Null {
		*into, _ = k.next(f, at, *into, []kis.Value{from.value}, from.n)
	}
	return true
}

func (edge) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) { return a.value, true }

func (edge) encode(dst []byte, a *acc) []byte {
	if a.value.Kind() == kis.Null {
		return append(dst, "null"...)
	}
	dst = append(dst, `{"time":`...)
	dst = append(strconv.AppendInt(dst, a.n, 10), `,"value":`...)
	return append(a.value.AppendJSON(dst), '}')
}

func (edge) decode(v kis.Value) (acc, error) {
	if v.Kind() == kis.Null {
		return acc{}, nil
	}
	if v.Kind() != kis.Object {
		return notDecoded("a first or last", v)
	}
	t, _ := member(v.Text(), "time")
	x, ok := member(v.Text(), "value")
	if t == "" || !ok || decoded(t).Kind() != kis.Int {
		return notDecoded("a first or last", v)
	}
	return acc{value: owned(decoded(x)), n: decoded(t).Int()}, nil
}

// rate adds up as sum or count does; over is the stretch of rows outside of windows.
type rate struct {
	summing
	per float64
}

type stretch struct{ from, to int64 }

func (k rate) next(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool) {
	if len(args) == 0 {
		a.n++
		return a, true
	}
	a, ok := k.summing.next(f, at, a, args, t)
	a.n++
	return a, ok
}

// take cannot tell which stretch is left.
func (rate) take(_ *frame, _ *site, a acc, _ []kis.Value, _ int64) (acc, bool) { return a, false }

func (rate) commit(a *acc, _ []kis.Value, t int64) {
	s, _ := a.more.(*stretch)
	if s == nil {
		a.more = &stretch{t, t}
		return
	}
	s.from, s.to = min(s.from, t), max(s.to, t)
}

func (k rate) merge(f *frame, at *site, into, from *acc) bool {
	if !k.summing.merge(f, at, into, from) {
		return false
	}
	into.n += from.n
	other, _ := from.more.(*stretch)
	if other == nil {
		return true
	}
	s, _ := into.more.(*stretch)
	if s == nil {
		into.more = &stretch{other.from, other.to}
		return true
	}
	s.from, s.to = min(s.from, other.from), max(s.to, other.to)
	return true
}

func (k rate) result(f *frame, at *site, a *acc, span int64) (kis.Value, bool) {
	if span == 0 {
		if s, _ := a.more.(*stretch); s != nil {
			span = s.to - s.from
		}
	}
	total := float64(a.n)
	if a.value.Kind() != kis.Null {
		total = a.value.Float()
	}
	if span == 0 {
		return kis.Value{}, true
	}
	return f.float(at, total*k.per/float64(span))
}

func (rate) encode(dst []byte, a *acc) []byte {
	dst = append(dst, `{"sum":`...)
	dst = append(a.value.AppendJSON(dst), `,"count":`...)
	dst = strconv.AppendInt(dst, a.n, 10)
	if s, _ := a.more.(*stretch); s != nil {
		dst = append(dst, `,"from":`...)
		dst = append(strconv.AppendInt(dst, s.from, 10), `,"to":`...)
		dst = strconv.AppendInt(dst, s.to, 10)
	}
	return append(dst, '}')
}

func (rate) decode(v kis.Value) (acc, error) {
	a, err := averaging{}.decode(v)
	if err != nil {
		return a, err
	}
	from, ok := member(v.Text(), "from")
	to, also := member(v.Text(), "to")
	if ok && also {
		a.more = &stretch{decoded(from).Int(), decoded(to).Int()}
	}
	return a, nil
}
