package functions

import (
	"math"
	"math/bits"
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// Arithmetic. Integers stay integers, exact to 64 bits, or there is no value; floats stay finite, or there is
// no value; an integer meets a float only as a float that is exactly it.

const maxExact = 1 << 53 // every integer up to here is exactly a float

func (f *frame) overflow(at *site, a, b kis.Value) (kis.Value, bool) {
	return f.fail(at, "%s %s %s does not fit a 64-bit integer", a.Text(), at.name, b.Text())
}

// pair makes two numbers floats. wants says what the operator needs, if they are none.
func (f *frame) pair(at *site, wants string, a, b kis.Value) (x, y float64, ok bool) {
	if !numbers.has(a.Kind()) || !numbers.has(b.Kind()) {
		_, ok = f.mismatch(at, wants, a, b)
		return 0, 0, ok
	}
	for _, v := range [...]kis.Value{a, b} {
		if i := v.Int(); v.Kind() == kis.Int && (i > maxExact || i < -maxExact) {
			f.fail(at, "%s mixes the integer %d with a float, which cannot hold it exactly; write float(...) to round it", at.name, i)
			return 0, 0, false
		}
	}
	return a.Float(), b.Float(), true
}

func (f *frame) float(at *site, x float64) (kis.Value, bool) {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return f.fail(at, "%s gives no finite number", at.name)
	}
	return kis.FloatValue(x), true
}

func add(at *site, l, r eval) eval {
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		return f.plus(at, a, b)
	}
}

func (f *frame) plus(at *site, a, b kis.Value) (kis.Value, bool) {
	if a.Kind() == kis.Int && b.Kind() == kis.Int {
		x, y := a.Int(), b.Int()
		if s := x + y; (s > x) == (y > 0) {
			return kis.IntValue(s), true
		}
		return f.overflow(at, a, b)
	}
	if a.Kind() == kis.String && b.Kind() == kis.String {
		if !f.room(at, len(a.Text())+len(b.Text())) {
			return kis.Value{}, false
		}
		return kis.StringValue(a.Text() + b.Text()), true
	}
	x, y, ok := f.pair(at, "two numbers or two strings", a, b)
	if !ok {
		return kis.Value{}, false
	}
	return f.float(at, x+y)
}

func sub(at *site, l, r eval) eval {
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		if a.Kind() == kis.Int && b.Kind() == kis.Int {
			x, y := a.Int(), b.Int()
			if d := x - y; (d < x) == (y > 0) {
				return kis.IntValue(d), true
			}
			return f.overflow(at, a, b)
		}
		x, y, ok := f.pair(at, "two numbers", a, b)
		if !ok {
			return kis.Value{}, false
		}
		return f.float(at, x-y)
	}
}

func mul(at *site, l, r eval) eval {
	return func(f *frame) (kis.Value, bool) {
		a, ok := l(f)
		if !ok {
			return a, false
		}
		b, ok := r(f)
		if !ok {
			return b, false
		}
		if a.Kind() == kis.Int && b.Kind() == kis.Int {
			if p, ok := multiply(a.Int(), b.Int()); ok {
				return kis.IntValue(p), true
			}
			return f.overflow(at, a, b)
		}
		x, y, ok := f.pair(at, "two numbers", a, b)
		if !ok {
			return kis.Value{}, false
		}
		return f.float(at, x*y)
	}
}

// multiply says false where the product does not fit.
func multiply(x, y int64) (int64, bool) {
	hi, lo := bits.Mul64(magnitude(x), magnitude(y))
	if (x < 0) == (y < 0) {
		return int64(lo), hi == 0 && lo <= math.MaxInt64
	}
	return -int64(lo), hi == 0 && lo <= 1<<63
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

func divide(f *frame, at *site, a, b kis.Value) (kis.Value, bool) {
	if a.Kind() == kis.Int && b.Kind() == kis.Int {
		x, y := a.Int(), b.Int()
		switch {
		case y == 0:
			return f.fail(at, "%d / 0: division by zero", x)
		case y == -1 && x == math.MinInt64:
			return f.overflow(at, a, b)
		case x%y != 0:
			return f.fail(at, "%d / %d is no whole number; write div(a, b) for its whole part, or float(a) / b for a float", x, y)
		}
		return kis.IntValue(x / y), true
	}
	x, y, ok := f.pair(at, "two numbers", a, b)
	if !ok {
		return kis.Value{}, false
	}
	if y == 0 {
		return f.fail(at, "%s / 0: division by zero", a.Text())
	}
	return f.float(at, x/y)
}

func wholeDivide(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	x, y := a[0].Int(), a[1].Int()
	switch {
	case y == 0:
		return f.fail(at, "div(%d, 0): division by zero", x)
	case y == -1 && x == math.MinInt64:
		return f.fail(at, "div(%d, %d) does not fit a 64-bit integer", x, y)
	}
	return kis.IntValue(x / y), true
}

func remainder(f *frame, at *site, a, b kis.Value) (kis.Value, bool) {
	if a.Kind() != kis.Int || b.Kind() != kis.Int {
		return f.mismatch(at, "two integers", a, b)
	}
	switch b.Int() {
	case 0:
		return f.fail(at, "%d %% 0: division by zero", a.Int())
	case -1:
		return kis.IntValue(0), true
	}
	return kis.IntValue(a.Int() % b.Int()), true
}

func power(f *frame, at *site, a, b kis.Value) (kis.Value, bool) {
	if a.Kind() == kis.Int && b.Kind() == kis.Int {
		base, n := a.Int(), b.Int()
		if n < 0 {
			return f.fail(at, "%d %s %d is no whole number; write float(a) %s b for a float", base, at.name, n, at.name)
		}
		switch {
		case base == -1 && n%2 == 0:
			base, n = 1, 0
		case base >= -1 && base <= 1:
			n = min(n, 1)
		case n >= 64:
			return f.overflow(at, a, b)
		}
		p, ok := int64(1), true
		for ; n > 0; n-- {
			if p, ok = multiply(p, base); !ok {
				return f.overflow(at, a, b)
			}
		}
		return kis.IntValue(p), true
	}
	x, y, ok := f.pair(at, "two numbers", a, b)
	if !ok {
		return kis.Value{}, false
	}
	return f.float(at, math.Pow(x, y))
}

func negative(f *frame, at *site, v kis.Value) (kis.Value, bool) {
	switch v.Kind() {
	case kis.Int:
		if v.Int() == math.MinInt64 {
			return f.fail(at, "-(%d) does not fit a 64-bit integer", v.Int())
		}
		return kis.IntValue(-v.Int()), true
	case kis.Float:
		return kis.FloatValue(-v.Float()), true
	}
	return f.mismatch(at, "a number", v)
}

// order compares two numbers, or two strings by their characters: -1, 0 or 1.
func (f *frame) order(at *site, a, b kis.Value) (int, bool) {
	switch {
	case a.Kind() == kis.Int && b.Kind() == kis.Int:
		return compareInts(a.Int(), b.Int()), true
	case numbers.has(a.Kind()) && numbers.has(b.Kind()):
		return compareNumbers(a, b), true
	case a.Kind() == kis.String && b.Kind() == kis.String:
		return strings.Compare(a.Text(), b.Text()), true
	}
	_, ok := f.mismatch(at, "two numbers or two strings", a, b)
	return 0, ok
}

func compareInts(x, y int64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// compareNumbers compares integers and floats by their exact values.
func compareNumbers(a, b kis.Value) int {
	switch {
	case a.Kind() == kis.Float && b.Kind() == kis.Float:
		switch x, y := a.Float(), b.Float(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	case a.Kind() == kis.Float:
		return -compareNumbers(b, a)
	case b.Kind() == kis.Int:
		return compareInts(a.Int(), b.Int())
	}
	x, y := a.Int(), b.Float()
	switch {
	case y >= 1<<63:
		return -1
	case y < -1<<63:
		return 1
	}
	whole := math.Trunc(y)
	if c := compareInts(x, int64(whole)); c != 0 {
		return c
	}
	switch {
	case y > whole:
		return -1
	case y < whole:
		return 1
	}
	return 0
}

// same says whether two values are equal: numbers by their exact value, strings, booleans and null as such,
// arrays and objects by what is in them. Values of different kinds differ.
func (f *frame) same(at *site, a, b kis.Value) (equal, ok bool) {
	switch {
	case a.Kind() == kis.Int && b.Kind() == kis.Int:
		return a.Int() == b.Int(), true
	case a.Kind() == kis.String && b.Kind() == kis.String:
		return a.Text() == b.Text(), true
	case numbers.has(a.Kind()) && numbers.has(b.Kind()):
		return compareNumbers(a, b) == 0, true
	case (numbers | isNumber).has(a.Kind()) && (numbers | isNumber).has(b.Kind()):
		_, ok := f.mismatch(at, "numbers that can be computed with", a, b)
		return false, ok
	case a.Kind() != b.Kind():
		return false, true
	case a.Kind() == kis.Null:
		return true, true
	case a.Kind() == kis.Bool:
		return a.Bool() == b.Bool(), true
	}
	if a.Text() == b.Text() {
		return true, true
	}
	if !f.charge(at, len(a.Text())+len(b.Text())) {
		return false, false
	}
	if a.Kind() == kis.Array {
		x, y := elements{text: a.Text()}, elements{text: b.Text()}
		for {
			s, more := x.next()
			t, also := y.next()
			if !more || !also {
				return more == also, true
			}
			if equal, ok := f.same(at, decoded(s), decoded(t)); !equal {
				return false, ok
			}
		}
	}
	return f.sameObjects(at, a.Text(), b.Text())
}

func (f *frame) sameObjects(at *site, a, b string) (equal, ok bool) {
	theirs, n := make(map[string]string), 0
	for m := (members{text: b}); ; {
		name, text, more := m.next()
		if !more {
			break
		}
		theirs[decoded(name).Text()] = text
	}
	for m := (members{text: a}); ; n++ {
		name, text, more := m.next()
		if !more {
			return n == len(theirs), true
		}
		other, there := theirs[decoded(name).Text()]
		if !there {
			return false, true
		}
		if equal, ok := f.same(at, decoded(text), decoded(other)); !equal {
			return false, ok
		}
	}
}
