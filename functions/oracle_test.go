package functions

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/expr-lang/expr"

	"github.com/kisflow/kisflow/kis"
)

// TestAgainstExpr holds the closures to expr-lang's own machine: random expressions over a row, of the part of
// the language in which both mean the same, must give the same.
func TestAgainstExpr(t *testing.T) {
	const text = `{"userid":"u1","i":7,"j":-3,"k":0,"f":2.5,"g":-0.5,"s":"banana","t":"an","b":true,"n":null,` +
		`"a":[3,1,2],"e":[],"o":{"x":5,"y":"z","l":[1,2]},"r":[{"p":5,"q":"a"},{"p":3,"q":"b"},{"p":5,"q":"c"}]}`
	row, err := kis.ParseRow([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]any{"row": plain(t, text)}
	for seed := range uint64(5000) {
		g := &generator{rand.New(rand.NewPCG(seed, 1)), 0, ""}
		source := g.any(5)
		if testing.Verbose() && seed < 20 {
			t.Log(source)
		}
		want, wantErr := expr.Eval(source, env)
		p, mistakes := compileTest(source)
		if len(mistakes) > 0 {
			t.Fatalf("seed %d: %s\nexpr says %v, %v\nwe refuse it: %v", seed, source, want, wantErr, mistakes)
		}
		got, err := evaluate(p, row)
		if err != nil || wantErr != nil {
			t.Fatalf("seed %d: %s\nexpr says %v, %v\nwe say %v, %v", seed, source, want, wantErr, got.Text(), err)
		}
		if w := plainOf(t, want); !reflect.DeepEqual(w, plain(t, string(got.AppendJSON(nil)))) {
			t.Fatalf("seed %d: %s\nexpr says %#v\nwe say   %s", seed, source, w, got.AppendJSON(nil))
		}
	}
}

// plain reads JSON as expr's values: integers are int.
func plain(t *testing.T, text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return ints(v)
}

func ints(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return int(i)
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = ints(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = ints(v[k])
		}
	}
	return v
}

// plainOf makes what expr answers comparable with it.
func plainOf(t *testing.T, v any) any {
	switch x := v.(type) {
	case int, bool, string, nil:
		return x
	case float64:
		return x
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice:
		out := make([]any, r.Len())
		for i := range out {
			out[i] = plainOf(t, r.Index(i).Interface())
		}
		return out
	case reflect.Map:
		out := make(map[string]any)
		for _, k := range r.MapKeys() {
			out[fmt.Sprint(k.Interface())] = plainOf(t, r.MapIndex(k).Interface())
		}
		return out
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint8:
		return int(r.Int())
	}
	t.Fatalf("expr answers a %T", v)
	return nil
}

// generator makes random expressions.
type generator struct {
	*rand.Rand
	inside int    // array functions around
	kind   string // of # there
}

func (g *generator) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g *generator) any(depth int) string {
	switch g.IntN(5) {
	case 0:
		return g.int(depth)
	case 1:
		return g.float(depth)
	case 2:
		return g.string(depth)
	case 3:
		return g.array(depth)
	}
	return g.bool(depth)
}

func (g *generator) int(depth int) string {
	if depth <= 0 {
		if g.inside > 0 && g.kind == "int" && g.IntN(2) == 0 {
			return g.pick("#", "#index")
		}
		if g.inside > 0 && g.kind == "object" && g.IntN(2) == 0 {
			return g.pick(".p", "#.p", "#index")
		}
		return g.pick("row.i", "row.j", "row.k", "row.o.x", "row.a[1]", "row.a[-1]", "1", "2", "-5", "row.r[1].p", "(row.n ?? 4)", "(row.missing ?? 3)", "(row?.missing?.x ?? 2)")
	}
	d := depth - 1
	switch g.IntN(12) {
	case 0, 1, 2:
		return "(" + g.int(d) + " " + g.pick("+", "-", "*") + " " + g.int(d) + ")"
	case 3:
		return "(" + g.int(d) + " % " + g.pick("2", "3", "-7") + ")"
	case 4:
		return g.pick("max", "min") + "(" + g.int(d) + ", " + g.int(d) + ")"
	case 5:
		return "abs(" + g.int(d) + ")"
	case 6:
		return "len(" + g.pick(g.string(d), g.array(d)) + ")"
	case 7:
		return "(" + g.bool(d) + " ? " + g.int(d) + " : " + g.int(d) + ")"
	case 8:
		return "sum(" + g.array(d) + ")"
	case 9:
		return g.loop("count", "row.a", "int", func() string { return g.bool(d) })
	case 10:
		return g.loop("sum", g.pick("row.a", "row.a"), "int", func() string { return g.int(d) })
	}
	return g.pick("indexOf", "lastIndexOf") + "(" + g.string(d) + ", " + g.string(d) + ")"
}

func (g *generator) loop(name, array, kind string, body func() string) string {
	if g.IntN(3) == 0 {
		array, kind = "row.r", "object"
	}
	before := g.kind
	g.kind = kind
	g.inside++
	b := body()
	g.inside--
	g.kind = before
	return name + "(" + array + ", " + b + ")"
}

func (g *generator) float(depth int) string {
	if depth <= 0 {
		return g.pick("row.f", "row.g", "0.25", "float(row.i)", "1e2")
	}
	d := depth - 1
	switch g.IntN(4) {
	case 0:
		return "(" + g.float(d) + " " + g.pick("+", "-", "*") + " " + g.pick(g.float(d), g.int(d)) + ")"
	case 1:
		return "(" + g.float(d) + " / " + g.pick("4", "0.5", "-2.0") + ")"
	case 2:
		return "(" + g.bool(d) + " ? " + g.float(d) + " : " + g.float(d) + ")"
	}
	return "abs(" + g.float(d) + ")"
}

func (g *generator) string(depth int) string {
	if depth <= 0 {
		if g.inside > 0 && g.kind == "object" && g.IntN(2) == 0 {
			return g.pick(".q", "#.q")
		}
		return g.pick("row.s", "row.t", "row.o.y", `"an"`, `"A b"`, `""`, "(row.n ?? 'x')")
	}
	d := depth - 1
	switch g.IntN(8) {
	case 0, 1:
		return "(" + g.string(d) + " + " + g.string(d) + ")"
	case 2:
		return g.pick("upper", "lower", "trim") + "(" + g.string(d) + ")"
	case 3:
		return "(" + g.bool(d) + " ? " + g.string(d) + " : " + g.string(d) + ")"
	case 4:
		return "replace(" + g.string(d) + ", \"a\", " + g.string(d) + ")"
	case 5:
		return g.pick("trimPrefix", "trimSuffix") + "(" + g.string(d) + ", " + g.string(d) + ")"
	case 6:
		return "repeat(" + g.string(d) + ", " + g.pick("0", "1", "2") + ")"
	}
	return "join(split(" + g.string(d) + ", " + g.pick(`"a"`, `"n"`, `"an"`) + "), " + g.string(d) + ")"
}

func (g *generator) bool(depth int) string {
	if depth <= 0 {
		return g.pick("row.b", "true", "false", "!row.b")
	}
	d := depth - 1
	switch g.IntN(12) {
	case 0, 1:
		return "(" + g.bool(d) + " " + g.pick("&&", "||", "and", "or") + " " + g.bool(d) + ")"
	case 2:
		return "!" + "(" + g.bool(d) + ")"
	case 3, 4:
		return "(" + g.int(d) + " " + g.pick("<", "<=", ">", ">=", "==", "!=") + " " + g.pick(g.int(d), g.float(d)) + ")"
	case 5:
		return "(" + g.string(d) + " " + g.pick("<", "<=", ">", ">=", "==", "!=") + " " + g.string(d) + ")"
	case 6:
		return "(" + g.string(d) + " " + g.pick("contains", "startsWith", "endsWith", "not contains") + " " + g.string(d) + ")"
	case 7:
		return "(" + g.int(d) + " in " + g.pick("row.a", "[1, 2, 7]", "-3..7", "row.e") + ")"
	case 8:
		return g.loop(g.pick("any", "all", "none", "one"), "row.a", "int", func() string { return g.bool(d) })
	case 9:
		return "(" + g.string(d) + " in " + g.pick("row.o", `["an", "x"]`) + ")"
	case 10:
		return "(" + g.string(d) + " matches \"^[a-z]*an\")"
	}
	return "(" + g.array(d) + " == " + g.array(d) + ")"
}

// array is one of integers.
func (g *generator) array(depth int) string {
	if depth <= 0 {
		return g.pick("row.a", "row.e", "[4, 5]", "row.o.l", "1..3")
	}
	d := depth - 1
	switch g.IntN(8) {
	case 0:
		return g.pick("row.a", "row.a", "row.o.l") + g.pick("[1:]", "[:2]", "[:]", "[0:1]")
	case 1:
		return "[" + g.int(d) + ", " + g.int(d) + "]"
	case 2:
		return "filter(" + g.array(d) + ", " + g.within("int", func() string { return g.bool(d) }) + ")"
	case 3:
		return g.loop("map", "row.a", "int", func() string { return g.int(d) })
	case 4:
		return "sort(" + g.array(d) + ")"
	case 5:
		return "reverse(" + g.array(d) + ")"
	case 6:
		return "concat(" + g.array(d) + ", " + g.array(d) + ")"
	}
	return "take(" + g.array(d) + ", " + g.pick("0", "1", "5") + ")"
}

func (g *generator) within(kind string, body func() string) string {
	before := g.kind
	g.kind = kind
	g.inside++
	b := body()
	g.inside--
	g.kind = before
	return b
}

// TestIntegersExact holds integer arithmetic to math/big: the exact result, or none if it does not fit.
func TestIntegersExact(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	edges := []int64{0, 1, -1, 2, -2, 3, 10, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, math.MinInt64 + 1, 1 << 31, 1 << 32, 1<<53 + 1, -(1 << 53) - 1, 3037000500}
	number := func() int64 {
		if random.IntN(2) == 0 {
			return edges[random.IntN(len(edges))]
		}
		return random.Int64() >> random.IntN(63) * int64(1-2*random.IntN(2))
	}
	ops := map[string]func(z, x, y *big.Int) *big.Int{
		"+": (*big.Int).Add, "-": (*big.Int).Sub, "*": (*big.Int).Mul, "/": (*big.Int).Quo, "%": (*big.Int).Rem}
	programs := make(map[string]*program)
	for op := range ops {
		p, mistakes := compileTest("row.x " + op + " row.y")
		if len(mistakes) > 0 {
			t.Fatal(mistakes)
		}
		programs[op] = p
	}
	for range 20000 {
		x, y := number(), number()
		row := kis.NewRow(kis.Field{Name: "x", Value: kis.IntValue(x)}, kis.Field{Name: "y", Value: kis.IntValue(y)}, kis.Field{Name: "userid", Value: kis.IntValue(1)})
		a, b := big.NewInt(x), big.NewInt(y)
		for op, exact := range ops {
			got, err := evaluate(programs[op], row)
			if (op == "/" || op == "%") && y == 0 {
				if err == nil {
					t.Fatalf("%d %s 0 is %d", x, op, got.Int())
				}
				continue
			}
			want := exact(new(big.Int), a, b)
			fits := want.IsInt64() && !(op == "/" && new(big.Int).Mul(want, b).Cmp(a) != 0)
			switch {
			case fits && err != nil:
				t.Fatalf("%d %s %d: %v, want %s", x, op, y, err, want)
			case !fits && err == nil:
				t.Fatalf("%d %s %d is %d, but the exact result is %s", x, op, y, got.Int(), want)
			case fits && (got.Kind() != kis.Int || got.Int() != want.Int64()):
				t.Fatalf("%d %s %d is %s, want %s", x, op, y, got.Text(), want)
			}
		}
	}
}

// TestNumbersCompareExactly holds the order of integers and floats to math/big.
func TestNumbersCompareExactly(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	ints := []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 1 << 53, 1<<53 + 1, -(1 << 53) - 1, math.MaxInt64 - 1}
	for range 50000 {
		i := ints[random.IntN(len(ints))] + int64(random.IntN(3)) - 1
		var x float64
		switch random.IntN(4) {
		case 0:
			x = float64(i)
		case 1:
			x = math.Nextafter(float64(i), math.Inf(1-2*random.IntN(2)))
		case 2:
			x = float64(i) + 0.5
		default:
			x = math.Float64frombits(random.Uint64())
		}
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		want := new(big.Float).SetPrec(2000).SetInt64(i).Cmp(new(big.Float).SetFloat64(x))
		if got := compareNumbers(kis.IntValue(i), kis.FloatValue(x)); got != want {
			t.Fatalf("%d against %v: %d, want %d", i, x, got, want)
		}
		if got := compareNumbers(kis.FloatValue(x), kis.IntValue(i)); got != -want {
			t.Fatalf("%v against %d: %d, want %d", x, i, got, -want)
		}
	}
}
