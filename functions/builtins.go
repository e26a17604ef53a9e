package functions

import (
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"

	"github.com/kisflow/kisflow/kis"
)

// Builtin is a function that expressions can call.
type Builtin struct {
	Name      string
	Signature string // as in "round(number, digits?)"
	Doc       string // one or two sentences
	Group     string // of the reference: values, numbers, text, arrays, state, time
}

// Builtins lists all functions that expressions can call, group by group.
func Builtins() []Builtin {
	table := builtinTable()
	list := make([]Builtin, len(table))
	for i := range table {
		list[i] = table[i].Builtin
	}
	return list
}

// builtin is a function with its implementation: special compiles the call, or call computes it from its
// arguments, whose kinds have been looked at.
type builtin struct {
	Builtin
	least   int     // arguments that it must have
	args    []kinds // of its arguments; the last one stands for all further ones if more
	more    bool
	result  kinds
	call    func(f *frame, at *site, a []kis.Value) (kis.Value, bool)
	special func(c *compiler, n ast.Node, b *builtin, args []ast.Node) node
}

// refused are the functions of expr-lang that there are none of here, and why.
var refused = map[string]string{
	"now":        "an expression must answer the same when a row is handled again; the event's time is meta.time",
	"date":       "times are Unix milliseconds or RFC 3339 texts; see millis, day, hour",
	"duration":   "times are Unix milliseconds; a minute is 60000",
	"timezone":   "times are read in UTC",
	"splitAfter": "use split",
}

func builtinIndex() map[string]*builtin {
	table := builtinTable()
	index := make(map[string]*builtin, len(table))
	for i := range table {
		index[table[i].Name] = &table[i]
	}
	return index
}

func builtinTable() []builtin {
	str1, str2 := []kinds{isString}, []kinds{isString, isString}
	number1, int2 := []kinds{numbers}, []kinds{isInt, isInt}
	array1, timeArg := []kinds{isArray}, []kinds{isInt | isString}
	b := func(group, signature, doc string, least int, args []kinds, result kinds,
		call func(f *frame, at *site, a []kis.Value) (kis.Value, bool)) builtin {
		name, _, _ := strings.Cut(signature, "(")
		return builtin{Builtin: Builtin{name, signature, doc, group}, least: least, args: args,
			more: strings.Contains(signature, "..."), result: result, call: call}
	}
	s := func(group, signature, doc string, special func(c *compiler, n ast.Node, b *builtin, args []ast.Node) node) builtin {
		t := b(group, signature, doc, 0, nil, anyKind, nil)
		t.special = special
		return t
	}
	return []builtin{
		s("values", "has(path)", "Whether what the path names is there and not null: has(row.address.city).", (*compiler).has),
		b("values", "get(object_or_array, name_or_place)", "The field or element, or null if there is none.", 2, []kinds{isObject | isArray | isString | isNull, isInt | isString}, anyKind, get),
		b("values", "type(value)", `What the value is: "null", "bool", "int", "float", "number" (too large to compute with), "string", "array" or "object".`, 1, []kinds{anyKind}, isString, typeOf),
		b("values", "int(value)", "The integer that a text holds, or a float without what follows its point.", 1, []kinds{numbers | isString}, isInt, toInt),
		b("values", "float(value)", "The float that a text holds, or the float nearest to an integer.", 1, []kinds{numbers | isString}, isFloat, toFloat),
		b("values", "string(value)", "The value as text; what is no string as JSON.", 1, []kinds{anyKind}, isString, toString),
		b("values", "toJSON(value)", "The value as JSON text.", 1, []kinds{anyKind}, isString, toJSON),
		b("values", "fromJSON(text)", "The value that a JSON text holds.", 1, str1, anyKind, fromJSON),

		b("numbers", "abs(number)", "The number without its sign.", 1, number1, numbers, abs),
		b("numbers", "floor(number)", "The next lower integer.", 1, number1, isInt, rounding(math.Floor)),
		b("numbers", "ceil(number)", "The next higher integer.", 1, number1, isInt, rounding(math.Ceil)),
		b("numbers", "round(number, digits?)", "The nearest integer, halves away from zero; with digits (0 to 15) the nearest float with so many decimals. An integer stays as it is.", 1, []kinds{numbers, isInt}, numbers, round),
		b("numbers", "div(a, b)", "The whole part of a / b for two integers: div(7, 2) is 3, div(-7, 2) is -3.", 2, int2, isInt, wholeDivide),
		b("numbers", "decimal(integer, digits)", "integer / 10^digits as a number with exactly so many decimals (0 to 18): decimal(1234500, 3) is 1234.500.", 2, int2, numbers, decimal),
		b("numbers", "min(value, ...)", "The least of numbers, or of texts; arrays count by their elements. null if there is none.", 1, []kinds{numbers | isString | isArray}, numbers|isString|isNull, least(-1)),
		b("numbers", "max(value, ...)", "The greatest of numbers, or of texts; arrays count by their elements. null if there is none.", 1, []kinds{numbers | isString | isArray}, numbers|isString|isNull, least(1)),
		s("numbers", "sum(array, element?)", "The sum of the elements, or of what element makes of each: sum(row.items, .price * .count). 0 for an empty array.", (*compiler).sum),
		b("numbers", "mean(array)", "The mean as a float; null for an empty array.", 1, array1, isFloat|isNull, mean),
		b("numbers", "median(array)", "The middle element in order, as a float the mean of the two in the middle; null for an empty array.", 1, array1, isFloat|isNull, median),
		b("numbers", "bitand(a, b)", "Bitwise and.", 2, int2, isInt, bitwise(func(x, y int64) int64 { return x & y })),
		b("numbers", "bitor(a, b)", "Bitwise or.", 2, int2, isInt, bitwise(func(x, y int64) int64 { return x | y })),
		b("numbers", "bitxor(a, b)", "Bitwise exclusive or.", 2, int2, isInt, bitwise(func(x, y int64) int64 { return x ^ y })),
		b("numbers", "bitnand(a, b)", "a without the bits of b.", 2, int2, isInt, bitwise(func(x, y int64) int64 { return x &^ y })),
		b("numbers", "bitshl(a, n)", "a shifted left by n bits, 0 to 63; bits beyond 64 are lost.", 2, int2, isInt, shift(func(x int64, n uint) int64 { return x << n })),
		b("numbers", "bitshr(a, n)", "a shifted right by n bits, 0 to 63; the sign stays.", 2, int2, isInt, shift(func(x int64, n uint) int64 { return x >> n })),
		b("numbers", "bitushr(a, n)", "a shifted right by n bits, 0 to 63; zeros come in.", 2, int2, isInt, shift(func(x int64, n uint) int64 { return int64(uint64(x) >> n) })),
		b("numbers", "bitnot(a)", "a with every bit turned over.", 1, []kinds{isInt}, isInt, func(_ *frame, _ *site, a []kis.Value) (kis.Value, bool) { return kis.IntValue(^a[0].Int()), true }),

		b("text", "len(value)", "The number of characters of a text, elements of an array, or fields of an object.", 1, []kinds{isString | isArray | isObject}, isInt, length),
		b("text", "lower(text)", "The text in small letters.", 1, str1, isString, textOf(strings.ToLower)),
		b("text", "upper(text)", "The text in capital letters.", 1, str1, isString, textOf(strings.ToUpper)),
		b("text", "trim(text, characters?)", "The text without white space, or without the characters, at its ends.", 1, str2, isString, trim),
		b("text", "trimPrefix(text, prefix)", "The text without the prefix.", 2, str2, isString, textBy(strings.TrimPrefix)),
		b("text", "trimSuffix(text, suffix)", "The text without the suffix.", 2, str2, isString, textBy(strings.TrimSuffix)),
		b("text", "hasPrefix(text, prefix)", "Whether the text starts with the prefix; the same as startsWith.", 2, str2, isBool, testBy(strings.HasPrefix)),
		b("text", "hasSuffix(text, suffix)", "Whether the text ends with the suffix; the same as endsWith.", 2, str2, isBool, testBy(strings.HasSuffix)),
		b("text", "indexOf(text, part)", "The place of the first part in the text, from 0; -1 if there is none.", 2, str2, isInt, placeBy(strings.Index)),
		b("text", "lastIndexOf(text, part)", "The place of the last part in the text, from 0; -1 if there is none.", 2, str2, isInt, placeBy(strings.LastIndex)),
		b("text", "occurrences(text, part)", "How often the part, which must not be empty, is in the text, without overlaps.", 2, str2, isInt, occurrences),
		b("text", "replace(text, old, new)", "The text with every old replaced by new.", 3, []kinds{isString, isString, isString}, isString, replace),
		b("text", "repeat(text, times)", "The text, so many times.", 2, []kinds{isString, isInt}, isString, repeat),
		b("text", "split(text, separator, most?)", "The parts between the separators, at most so many. With an empty separator the characters.", 2, []kinds{isString, isString, isInt}, isArray, split),
		b("text", "join(array, separator?)", "The texts of the array with the separator between them.", 1, []kinds{isArray, isString}, isString, join),
		s("text", "capture(text, pattern, group?)", "What the pattern's group (default 1; 0 is the whole match) matches in the text; null if the pattern does not match or the group took no part.", (*compiler).capture),
		b("text", "toBase64(text)", "The text in base64.", 1, str1, isString, textOf(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) })),
		b("text", "fromBase64(text)", "The text that is written in base64; it must be UTF-8.", 1, str1, isString, fromBase64),

		s("arrays", "all(array, condition)", "Whether the condition is true for all elements.", (*compiler).search),
		s("arrays", "any(array, condition)", "Whether the condition is true for any element.", (*compiler).search),
		s("arrays", "none(array, condition)", "Whether the condition is true for no element.", (*compiler).search),
		s("arrays", "one(array, condition)", "Whether the condition is true for exactly one element.", (*compiler).search),
		s("arrays", "count(array, condition?)", "For how many elements the condition is true; without one, how many elements are true.", (*compiler).search),
		s("arrays", "find(array, condition)", "The first element for which the condition is true, or null.", (*compiler).search),
		s("arrays", "findLast(array, condition)", "The last element for which the condition is true, or null.", (*compiler).search),
		s("arrays", "findIndex(array, condition)", "The place of the first such element, from 0, or null.", (*compiler).search),
		s("arrays", "findLastIndex(array, condition)", "The place of the last such element, from 0, or null.", (*compiler).search),
		s("arrays", "filter(array, condition)", "The elements for which the condition is true.", (*compiler).search),
		s("arrays", "map(array, element)", "What element makes of each element.", (*compiler).mapping),
		s("arrays", "reduce(array, step, start?)", "What step makes of all elements, one after another: #acc is what it made so far, # the element. Without start it begins with the first element.", (*compiler).reduce),
		s("arrays", "sortBy(array, element, order?)", `The elements in the order of what element makes of each; order is "asc" (default) or "desc".`, (*compiler).sortBy),
		s("arrays", "groupBy(array, element)", "An object of arrays: the elements by what element makes of each, in the order in which they come.", (*compiler).groupBy),
		b("arrays", "sort(array, order?)", `The elements, all numbers or all texts, in order; order is "asc" (default) or "desc".`, 1, []kinds{isArray, isString}, isArray, sortArray),
		b("arrays", "first(array)", "The first element, or null.", 1, array1, anyKind, end(0)),
		b("arrays", "last(array)", "The last element, or null.", 1, array1, anyKind, end(-1)),
		b("arrays", "take(array, most)", "The first elements, at most so many.", 2, []kinds{isArray, isInt}, isArray, take),
		b("arrays", "reverse(array)", "The elements from the last to the first.", 1, array1, isArray, reverse),
		b("arrays", "concat(array, ...)", "The elements of all arrays.", 1, []kinds{isArray}, isArray, concat),
		b("arrays", "flatten(array)", "The elements, with those of arrays in it at any depth in their place.", 1, array1, isArray, flatten),
		b("arrays", "uniq(array)", "The elements without those that are equal to one before them.", 1, array1, isArray, uniq),
		b("arrays", "keys(object)", "The names of the fields, in order.", 1, []kinds{isObject}, isArray, keys),
		b("arrays", "values(object)", "The values of the fields, in order.", 1, []kinds{isObject}, isArray, values),
		b("arrays", "toPairs(object)", "The fields as arrays of name and value.", 1, []kinds{isObject}, isArray, toPairs),
		b("arrays", "fromPairs(array)", "The object of arrays of name and value.", 1, array1, isObject, fromPairs),

		b("state", "put(object, name, value)", "The object with the field set; an object that is null is empty.", 3, []kinds{isObject | isNull, isString, anyKind}, isObject, put),
		b("state", "remove(object_or_array, name_or_value)", "The object without the field, or the array without the elements that are equal to the value.", 2, []kinds{isObject | isArray | isNull, anyKind}, isObject|isArray, remove),
		b("state", "append(array, value, most?)", "The array with the value at its end, and of more than so many elements the last ones. An array that is null is empty.", 2, []kinds{isArray | isNull, anyKind, isInt}, isArray, appendTo),
		b("state", "add(array, value)", "The array as a set: with the value at its end, unless there is one that is equal. An array that is null is empty.", 2, []kinds{isArray | isNull, anyKind}, isArray, addTo),

		b("time", "millis(time)", "The time in Unix milliseconds.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(t.UnixMilli()) })),
		b("time", "rfc3339(time)", `The time as text, "2026-01-31T08:30:00.250Z".`, 1, timeArg, isString, timePart(func(t time.Time) kis.Value { return kis.StringValue(t.Format("2006-01-02T15:04:05.000Z07:00")) })),
		b("time", "day(time)", `The day as text, "2026-01-31".`, 1, timeArg, isString, timePart(func(t time.Time) kis.Value { return kis.StringValue(t.Format(time.DateOnly)) })),
		b("time", "year(time)", "The year.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Year())) })),
		b("time", "month(time)", "The month, 1 to 12.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Month())) })),
		b("time", "dayOfMonth(time)", "The day of the month, 1 to 31.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Day())) })),
		b("time", "weekday(time)", "The day of the week, 1 (Monday) to 7 (Sunday).", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64((t.Weekday()+6)%7 + 1)) })),
		b("time", "hour(time)", "The hour, 0 to 23.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Hour())) })),
		b("time", "minute(time)", "The minute, 0 to 59.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Minute())) })),
		b("time", "second(time)", "The second, 0 to 59.", 1, timeArg, isInt, timePart(func(t time.Time) kis.Value { return kis.IntValue(int64(t.Second())) })),
	}
}

// call compiles the call of a builtin.
func (c *compiler) call(n ast.Node, name string, args []ast.Node) node {
	b := c.builtins[name]
	if b == nil {
		if why := refused[name]; why != "" {
			return c.wrong(n, why, "there is no function %s", name)
		}
		known := make([]string, 0, len(c.builtins))
		for k := range c.builtins {
			known = append(known, k)
		}
		return c.wrong(n, didYouMean(name, known), "unknown function %s", name)
	}
	if b.special != nil {
		return b.special(c, n, b, args)
	}
	if !c.arity(n, b, len(args), b.least, len(b.args)) {
		return badNode
	}
	if name == "type" {
		c.asksType = true
		c.roots.shape.asks(args)
	}
	at := c.site(n, name, args...)
	nodes, ok := c.all(args)
	if !ok {
		return badNode
	}
	for i := range nodes {
		if ok = c.need(at, b.arg(i), args[i], nodes[i]) && ok; !ok {
			return badNode
		}
	}
	result := b.result
	switch {
	case name == "min" || name == "max":
		if all := kindsOfAll(nodes); all&isArray == 0 {
			result = all
		}
		if len(nodes) == 2 {
			return c.result(result, pickTwo(at, nodes[0].eval, nodes[1].eval, name == "max"), nodes...)
		}
	case name == "abs" && nodes[0].kinds&numbers == isInt:
		result = isInt
	}
	return c.result(result, func(f *frame) (kis.Value, bool) {
		base := len(f.stack)
		for i := range nodes {
			v, ok := nodes[i].eval(f)
			if !ok {
				return v, false
			}
			if !b.arg(i).has(v.Kind()) {
				one := &site{at.column, at.name, args[i : i+1]}
				return f.mismatch(one, b.arg(i).String(), v)
			}
			f.stack = append(f.stack, v)
		}
		v, ok := b.call(f, at, f.stack[base:])
		clear(f.stack[base:])
		f.stack = f.stack[:base]
		return v, ok
	}, nodes...)
}

func (b *builtin) arg(i int) kinds { return b.args[min(i, len(b.args)-1)] }

// arity notes a mistake if there are too few or too many arguments.
func (c *compiler) arity(n ast.Node, b *builtin, have, least, most int) bool {
	switch {
	case have < least:
		c.wrong(n, b.Signature, "%s needs %d arguments, not %d", b.Name, least, have)
	case have > most && !b.more:
		c.wrong(n, b.Signature, "%s takes %d arguments, not %d", b.Name, most, have)
	default:
		return true
	}
	return false
}

func kindsOfAll(nodes []node) (k kinds) {
	for _, n := range nodes {
		k |= n.kinds
	}
	return k & (numbers | isString | isArray)
}

// has is special: its argument is a path that may lead nowhere.
func (c *compiler) has(n ast.Node, b *builtin, args []ast.Node) node {
	if !c.arity(n, b, len(args), 1, 1) {
		return badNode
	}
	switch args[0].(type) {
	case *ast.MemberNode, *ast.ChainNode:
	default:
		return c.wrong(args[0], "as in has(row.address.city)", "has needs a path, not %s", sourceOf(args[0]))
	}
	arg := c.compile(args[0], true)
	if arg.bad {
		return badNode
	}
	e := arg.eval
	return c.result(isBool, func(f *frame) (kis.Value, bool) {
		v, ok := e(f)
		return kis.BoolValue(v.Kind() != kis.Null), ok
	}, arg)
}

func get(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	v, _, ok := f.access(at, a[0], a[1])
	return v, ok
}

func typeOf(_ *frame, _ *site, a []kis.Value) (kis.Value, bool) {
	names := [...]string{"null", "bool", "int", "float", "number", "string", "array", "object"}
	return kis.StringValue(names[a[0].Kind()]), true
}

func toInt(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	switch v := a[0]; v.Kind() {
	case kis.Int:
		return v, true
	case kis.Float:
		return f.whole(at, math.Trunc(v.Float()))
	default:
		i, err := strconv.ParseInt(v.Text(), 10, 64)
		if err != nil {
			return f.fail(at, "int needs a text that is an integer of 64 bits, not %s", short(strconv.Quote(v.Text())))
		}
		return kis.IntValue(i), true
	}
}

// whole makes a float without decimals an integer.
func (f *frame) whole(at *site, x float64) (kis.Value, bool) {
	if x >= 1<<63 || x < -1<<63 {
		return f.fail(at, "%s gives %v, which does not fit a 64-bit integer", at.name, x)
	}
	return kis.IntValue(int64(x)), true
}

func toFloat(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if numbers.has(a[0].Kind()) {
		return kis.FloatValue(a[0].Float()), true
	}
	text := a[0].Text()
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(x, 0) || math.IsNaN(x) || strings.ContainsAny(text, "xX_pP") {
		return f.fail(at, "float needs a text that is a number, not %s", short(strconv.Quote(text)))
	}
	return kis.FloatValue(x), true
}

func toString(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if a[0].Kind() == kis.String {
		return a[0], true
	}
	return toJSON(f, at, a)
}

func toJSON(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if a[0].Kind() == kis.Array || a[0].Kind() == kis.Object {
		return f.text(at, a[0].Text())
	}
	return f.text(at, string(a[0].AppendJSON(nil)))
}

func fromJSON(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	return f.build(at, []byte(strings.TrimSpace(a[0].Text())))
}

func abs(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	v := a[0]
	if v.Kind() == kis.Float {
		return kis.FloatValue(math.Abs(v.Float())), true
	}
	if v.Int() < 0 {
		return negative(f, at, v)
	}
	return v, true
}

func rounding(to func(float64) float64) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		if a[0].Kind() == kis.Int {
			return a[0], true
		}
		return f.whole(at, to(a[0].Float()))
	}
}

func round(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if len(a) == 1 {
		return rounding(math.Round)(f, at, a)
	}
	digits := a[1].Int()
	switch {
	case digits < 0 || digits > 15:
		return f.fail(at, "round takes 0 to 15 digits, not %d", digits)
	case a[0].Kind() == kis.Int:
		return a[0], true
	}
	x, err := strconv.ParseFloat(strconv.FormatFloat(a[0].Float(), 'f', int(digits), 64), 64)
	if err != nil {
		return f.fail(at, "round: %v", err)
	}
	return kis.FloatValue(x), true
}

func decimal(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	n, digits := a[0].Int(), a[1].Int()
	if digits < 0 || digits > 18 {
		return f.fail(at, "decimal takes 0 to 18 digits, not %d", digits)
	}
	if digits == 0 {
		return a[0], true
	}
	v, err := kis.DecimalValue(n, int(digits))
	if err != nil {
		return f.fail(at, "decimal: %v", err)
	}
	return v, true
}

// pickTwo is min or max of two.
func pickTwo(at *site, l, r eval, greatest bool) eval {
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		if a.Kind() == kis.Array || b.Kind() == kis.Array {
			sign := -1
			if greatest {
				sign = 1
			}
			return least(sign)(f, at, []kis.Value{a, b})
		}
		order, ok := f.order(at, a, b)
		if !ok {
			return kis.Value{}, false
		}
		if order < 0 && greatest || order > 0 && !greatest {
			return b, true
		}
		return a, true
	}
}

// least is min (sign -1) or max (sign 1). Of equals the first is taken.
func least(sign int) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		one := &site{at.column, at.name, nil}
		var best kis.Value
		any := false
		take := func(v kis.Value) bool {
			if !any {
				if !(numbers | isString).has(v.Kind()) {
					f.mismatch(one, "numbers or texts", v)
					return false
				}
				best, any = v, true
				return true
			}
			order, ok := f.order(one, v, best)
			if order*sign > 0 {
				best = v
			}
			return ok
		}
		for _, v := range a {
			if v.Kind() != kis.Array {
				if !take(v) {
					return kis.Value{}, false
				}
				continue
			}
			list, ok := f.list(at, v)
			if !ok {
				return kis.Value{}, false
			}
			for _, e := range list {
				if !take(e) {
					return kis.Value{}, false
				}
			}
		}
		return best, true
	}
}

// floats makes the elements of an array floats.
func (f *frame) floats(at *site, array kis.Value) ([]float64, bool) {
	list, ok := f.list(at, array)
	if !ok {
		return nil, false
	}
	one := &site{at.column, at.name, nil}
	out := make([]float64, len(list))
	for i, v := range list {
		x, _, ok := f.pair(one, "an array of numbers", v, kis.FloatValue(0))
		if !ok {
			return nil, false
		}
		out[i] = x
	}
	return out, true
}

func mean(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.floats(at, a[0])
	if !ok || len(list) == 0 {
		return kis.Value{}, ok
	}
	sum := 0.0
	for _, x := range list {
		sum += x
	}
	return f.float(at, sum/float64(len(list)))
}

func median(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.floats(at, a[0])
	if !ok || len(list) == 0 {
		return kis.Value{}, ok
	}
	slices.Sort(list)
	half := len(list) / 2
	if len(list)%2 == 1 {
		return kis.FloatValue(list[half]), true
	}
	return f.float(at, list[half-1]/2+list[half]/2)
}

func bitwise(op func(x, y int64) int64) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(_ *frame, _ *site, a []kis.Value) (kis.Value, bool) {
		return kis.IntValue(op(a[0].Int(), a[1].Int())), true
	}
}

func shift(op func(x int64, n uint) int64) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		if n := a[1].Int(); n < 0 || n > 63 {
			return f.fail(at, "%s shifts by 0 to 63 bits, not %d", at.name, n)
		}
		return kis.IntValue(op(a[0].Int(), uint(a[1].Int()))), true
	}
}

func length(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	text := a[0].Text()
	if !f.charge(at, len(text)) {
		return kis.Value{}, false
	}
	n := 0
	switch a[0].Kind() {
	case kis.String:
		n = utf8.RuneCountInString(text)
	case kis.Array:
		n = count(text)
	default:
		for m := (members{text: text}); ; n++ {
			if _, _, ok := m.next(); !ok {
				break
			}
		}
	}
	return kis.IntValue(int64(n)), true
}

func textOf(op func(string) string) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) { return f.text(at, op(a[0].Text())) }
}

func textBy(op func(s, by string) string) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		return f.text(at, op(a[0].Text(), a[1].Text()))
	}
}

func testBy(op func(s, by string) bool) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(_ *frame, _ *site, a []kis.Value) (kis.Value, bool) {
		return kis.BoolValue(op(a[0].Text(), a[1].Text())), true
	}
}

func placeBy(op func(s, by string) int) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		s := a[0].Text()
		i := op(s, a[1].Text())
		if i > 0 {
			i = utf8.RuneCountInString(s[:i])
		}
		return kis.IntValue(int64(i)), f.charge(at, len(s))
	}
}

func trim(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if len(a) == 1 {
		return f.text(at, strings.TrimSpace(a[0].Text()))
	}
	return f.text(at, strings.Trim(a[0].Text(), a[1].Text()))
}

func occurrences(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if a[1].Text() == "" {
		return f.fail(at, "occurrences needs a part that is not empty")
	}
	return kis.IntValue(int64(strings.Count(a[0].Text(), a[1].Text()))), f.charge(at, len(a[0].Text()))
}

func replace(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	s, old, by := a[0].Text(), a[1].Text(), a[2].Text()
	if grown := len(s) + (len(s)+1)*len(by); grown > MaxText {
		if n := len(s) + strings.Count(s, old)*(len(by)-len(old)); n > MaxText {
			return kis.Value{}, f.room(at, n)
		}
	}
	return f.text(at, strings.ReplaceAll(s, old, by))
}

func repeat(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	s, n := a[0].Text(), a[1].Int()
	switch {
	case n < 0:
		return f.fail(at, "repeat needs 0 times or more, not %d", n)
	case s == "":
		return a[0], true
	case n > MaxText:
		return kis.Value{}, f.room(at, MaxText+1)
	case int(n)*len(s) > MaxText:
		return kis.Value{}, f.room(at, int(n)*len(s))
	}
	return f.text(at, strings.Repeat(s, int(n)))
}

func split(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	most := int64(-1)
	if len(a) == 3 {
		if most = a[2].Int(); most < 1 {
			return f.fail(at, "split gives at least 1 part, not %d", most)
		}
	}
	if !f.charge(at, len(a[0].Text())*stepCost) {
		return kis.Value{}, false
	}
	parts := strings.SplitN(a[0].Text(), a[1].Text(), int(min(most, MaxText)))
	list := make([]kis.Value, len(parts))
	for i, p := range parts {
		list[i] = kis.StringValue(p)
	}
	return f.array(at, list)
}

func join(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.list(at, a[0])
	if !ok {
		return kis.Value{}, false
	}
	var b strings.Builder
	for i, v := range list {
		if v.Kind() != kis.String {
			return f.fail(at, "join needs an array of texts; element %d is %s", i, describe(v))
		}
		if i > 0 && len(a) == 2 {
			b.WriteString(a[1].Text())
		}
		if b.WriteString(v.Text()); b.Len() > MaxText {
			return kis.Value{}, f.room(at, b.Len())
		}
	}
	return f.text(at, b.String())
}

func fromBase64(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	b, err := base64.StdEncoding.DecodeString(a[0].Text())
	if err != nil || !utf8.Valid(b) {
		return f.fail(at, "fromBase64 needs a UTF-8 text in base64, not %s", short(strconv.Quote(a[0].Text())))
	}
	return f.text(at, string(b))
}

// timePart computes something of a time: an integer is Unix milliseconds, a text is read by RFC 3339.
func timePart(part func(time.Time) kis.Value) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	const from, to = -62135596800000, 253402300799999 // the years 1 to 9999
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		if a[0].Kind() == kis.Int {
			ms := a[0].Int()
			if ms < from || ms > to {
				return f.fail(at, "%s needs a time of the years 1 to 9999 in Unix milliseconds, not %d", at.name, ms)
			}
			return part(time.UnixMilli(ms).UTC()), true
		}
		t, err := time.Parse(time.RFC3339Nano, a[0].Text())
		if err != nil {
			return f.fail(at, "%s needs a time as in 2026-01-31T08:30:00Z, not %s", at.name, short(strconv.Quote(a[0].Text())))
		}
		if ms := t.UnixMilli(); ms < from || ms > to {
			return f.fail(at, "%s needs a time of the years 1 to 9999, not %s", at.name, a[0].Text())
		}
		return part(t.UTC()), true
	}
}

// orderOf reads the order of a sort.
func (f *frame) orderOf(at *site, v kis.Value) (sign int, ok bool) {
	switch v.Text() {
	case "asc":
		return 1, true
	case "desc":
		return -1, true
	}
	_, ok = f.fail(at, `the order of %s is "asc" or "desc", not %s`, at.name, describe(v))
	return 0, ok
}

func sortArray(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.list(at, a[0])
	if !ok {
		return kis.Value{}, false
	}
	if list, ok = f.sorted(at, list, list, a[1:]); !ok {
		return kis.Value{}, false
	}
	return f.array(at, list)
}

// sorted puts the values in the order of by, stably.
func (f *frame) sorted(at *site, list, by []kis.Value, order []kis.Value) ([]kis.Value, bool) {
	sign, ok := 1, true
	if len(order) == 1 {
		if sign, ok = f.orderOf(at, order[0]); !ok {
			return nil, false
		}
	}
	one := &site{at.column, at.name, nil}
	places := make([]int, len(list))
	for i := range places {
		places[i] = i
		if !(numbers | isString).has(by[i].Kind()) {
			f.mismatch(one, "numbers or texts to order by", by[i])
			return nil, false
		}
	}
	slices.SortStableFunc(places, func(i, j int) int {
		if !ok || !f.charge(at, stepCost) {
			ok = false
			return 0
		}
		c, good := f.order(one, by[i], by[j])
		ok = ok && good
		return c * sign
	})
	out := make([]kis.Value, len(list))
	for i, p := range places {
		out[i] = list[p]
	}
	return out, ok
}

func end(place int64) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		v, _, ok := f.access(at, a[0], kis.IntValue(place))
		return v, ok
	}
}

func take(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if a[1].Int() < 0 {
		return f.fail(at, "take needs 0 elements or more, not %d", a[1].Int())
	}
	return cut(f, at, a[0], 0, a[1].Int())
}

func reverse(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.list(at, a[0])
	if !ok {
		return kis.Value{}, false
	}
	slices.Reverse(list)
	return f.array(at, list)
}

func concat(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	var all []kis.Value
	for _, v := range a {
		list, ok := f.list(at, v)
		if !ok {
			return kis.Value{}, false
		}
		all = append(all, list...)
	}
	return f.array(at, all)
}

func flatten(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.flat(at, nil, a[0])
	if !ok {
		return kis.Value{}, false
	}
	return f.array(at, list)
}

func (f *frame) flat(at *site, to []kis.Value, array kis.Value) ([]kis.Value, bool) {
	list, ok := f.list(at, array)
	for _, v := range list {
		if !ok {
			break
		}
		if v.Kind() == kis.Array {
			to, ok = f.flat(at, to, v)
		} else {
			to = append(to, v)
		}
	}
	return to, ok
}

func uniq(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.list(at, a[0])
	if !ok {
		return kis.Value{}, false
	}
	var out []kis.Value
next:
	for _, v := range list {
		for _, w := range out {
			if !f.charge(at, stepCost) {
				return kis.Value{}, false
			}
			is, ok := f.same(at, v, w)
			if !ok {
				return kis.Value{}, false
			}
			if is {
				continue next
			}
		}
		out = append(out, v)
	}
	return f.array(at, out)
}

// fields calls each for the fields of an object.
func (f *frame) fields(at *site, object kis.Value, each func(name, value string)) bool {
	if !f.charge(at, len(object.Text())) {
		return false
	}
	for m := (members{text: object.Text()}); ; {
		name, value, ok := m.next()
		if !ok {
			return true
		}
		if !f.charge(at, stepCost) {
			return false
		}
		each(name, value)
	}
}

func ofFields(form func(b []byte, name, value string) []byte) func(*frame, *site, []kis.Value) (kis.Value, bool) {
	return func(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
		b := []byte{'['}
		ok := f.fields(at, a[0], func(name, value string) {
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = form(b, name, value)
		})
		if !ok {
			return kis.Value{}, false
		}
		return f.build(at, append(b, ']'))
	}
}

func keys(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	return ofFields(func(b []byte, name, _ string) []byte { return append(b, name...) })(f, at, a)
}

func values(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	return ofFields(func(b []byte, _, value string) []byte { return append(b, value...) })(f, at, a)
}

func toPairs(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	return ofFields(func(b []byte, name, value string) []byte { return fmt.Appendf(b, "[%s,%s]", name, value) })(f, at, a)
}

func fromPairs(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	list, ok := f.list(at, a[0])
	if !ok {
		return kis.Value{}, false
	}
	b := []byte{'{'}
	for i, pair := range list {
		var parts []kis.Value
		if pair.Kind() == kis.Array {
			if parts, ok = f.list(at, pair); !ok {
				return kis.Value{}, false
			}
		}
		if len(parts) != 2 || parts[0].Kind() != kis.String {
			return f.fail(at, "fromPairs needs arrays of a name and a value; element %d is none", i)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(parts[0].AppendJSON(b), ':')
		b = parts[1].AppendJSON(b)
	}
	return f.build(at, append(b, '}'))
}
