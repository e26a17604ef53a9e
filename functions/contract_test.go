package functions

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/kis"
)

func declared(types ...string) Shape {
	s := Shape{Fields: make(map[string]Field)}
	for _, t := range types {
		name, typ, _ := strings.Cut(t, " ")
		typ, optional := strings.CutSuffix(typ, "?")
		f, ok := FieldOf(typ, optional)
		if !ok {
			panic(t)
		}
		s.Fields[name] = f
	}
	return s
}

// TestInfer says what functions make of rows, and what is wrong with them for such rows.
func TestInfer(t *testing.T) {
	rows := declared("id int", "name text", "at int?", "price number", "tags array", "ok bool")
	rows.Fields["who"] = ObjectOf(declared("first text", "age int?"), false)
	open := Shape{Open: true}
	verify := func(rules ...string) Spec {
		s := Spec{Name: "F", Mode: kis.Verify}
		for _, r := range rules {
			s.Verify = append(s.Verify, Rule{Rule: r})
		}
		return s
	}
	emit := func(expr string) Spec {
		return Spec{Name: "F", Mode: kis.Calculate, Calculate: &Calculate{Emit: []EmitField{{"x", expr}}}}
	}
	for _, c := range []struct {
		spec     Spec
		in       Shape
		out      string // "" for anything
		mistakes string // one a line
	}{
		// what goes on
		{emit("row.id + 1"), rows, "{x: an integer}", ""},
		{emit("row.id + row.price"), rows, "{x: a number}", ""},
		{emit("row.id > 1 ? row.id : row.name"), rows, "{x: an integer or a string}", ""},
		{emit("row.at ?? row.name"), rows, "{x: an integer or a string}", ""},
		{emit("row.at"), rows, "{x: an integer or null}", ""},
		{emit("row.who"), rows, "{x: an object {age?: an integer or null, first: a string}}", ""},
		{emit(`{"a": row.id, "b": {"c": row.name}}`), rows, "{x: an object {a: an integer, b: an object {c: a string}}}", ""},
		{emit(`{(row.name): 1, "b": 2}`), rows, "{x: an object {b: an integer ...}}", ""},
		{emit(`let w = row.who; w.first`), rows, "{x: a string}", ""},
		{emit("row.x.y"), open, "{x: any value}", ""},
		{verify("row.x > 1"), open, "{x: a number ...}", ""},
		{verify("row.x > 1 or row.y > 1"), open, "{x: a number ...}", ""},
		{verify("row.x > 1 and row.y == \"a\" and row.z"), open, "{x: a number, y: a string, z: a boolean ...}", ""},
		{verify("1 > 0 ? row.x : row.y"), open, "{ ...}", ""},
		{verify("has(row.x)", "row?.y == 1", "type(row.z) == \"int\"", "row.u != null"), open,
			"{u: a number, a boolean, a number too large to compute with, a string, an array or an object, x: a number, a boolean, a number too large to compute with, a string, an array or an object, y: a number, z: an integer ...}", ""},
		{verify(`upper(row.x) == "A"`, "row.n % 2 == 0", `row.t + "x" == "y"`, "row.s startsWith \"a\"", "row.c < row.d"), open,
			"{c: a number or a string, d: a number or a string, n: an integer, s: a string, t: a string, x: a string ...}", ""},
		{verify("row.at > 1"), declared("at int?"), "{at: an integer}", ""},
		{Spec{Mode: kis.Verify, Must: []string{"k"}}, open, "{k: a number, a boolean or a string ...}", ""},
		{Spec{Mode: kis.Verify, Must: []string{"k"}}, declared("k int?"), "{k: an integer}", ""},
		{Spec{Mode: kis.Save}, declared("k int?"), "{k?: an integer or null}", ""},
		{Spec{Mode: kis.Calculate, Must: []string{"id"}, Calculate: &Calculate{When: "row.id > 1",
			State: []StateField{{"n", "0", "state.n + row.id"}}, Emit: []EmitField{{"n", "state.n"}}}}, declared("id int"), "{id?: an integer, n?: an integer}", ""},
		{Spec{Mode: kis.Calculate, Must: []string{"id"}, Calculate: &Calculate{State: []StateField{{"n", "0", "state.n + row.v"}}}}, open,
			"{id: a number, a boolean or a string, v: a number ...}", ""},

		// fields that are not there
		{emit("row.nmae"), rows, "{x: any value}", "calculate.emit.x, column 5: no row has the field nmae (did you mean name?)"},
		{emit("row.nmae + row.nmae"), rows, "", "calculate.emit.x, column 5: no row has the field nmae (did you mean name?)"},
		{emit("row.who.frist"), rows, "", "calculate.emit.x, column 9: no row has the field who.frist (did you mean first?)"},
		{emit(`let w = row.who; w.frist`), rows, "", "calculate.emit.x, column 20: there is no field w.frist (did you mean first?)"},
		{emit("row.用户名"), declared("用戶名 text", "金额 int"), "", "calculate.emit.x, column 5: no row has the field 用户名 (did you mean 用戶名?)"},
		{emit("row.总计"), declared("用户 text", "金额 int"), "", "calculate.emit.x, column 5: no row has the field 总计 (known: 用户, 金额)"},
		{emit(`row["nmae"]`), rows, "", "calculate.emit.x, column 5: no row has the field nmae (did you mean name?)"},
		{emit("row.z"), rows, "", "calculate.emit.x, column 5: no row has the field z (known: at, id, name, ok, price, tags, who)"},
		{emit("row.ok ? row.nmae : 1"), rows, "", "calculate.emit.x, column 14: no row has the field nmae (did you mean name?) guarded"},
		{emit("row.ok && row.nmae"), rows, "", "calculate.emit.x, column 15: no row has the field nmae (did you mean name?) guarded"},
		{emit("any(row.tags, # == row.nmae)"), rows, "", "calculate.emit.x, column 24: no row has the field nmae (did you mean name?) guarded"},
		{Spec{Mode: kis.Verify, Must: []string{"idd"}}, rows, "", "source.must.0, column 1: no row has the field idd (did you mean id?)"},
		{Spec{Mode: kis.Expand, Expand: &Expand{Subject: "a.{nam}.{id}"}}, rows, "", "expand.subject, column 4: no row has the field nam (did you mean name?)"},
		{verify("row.nmae > 1", "row.nmae > 2"), rows, "", "verify.0.rule, column 5: no row has the field nmae (did you mean name?)"},

		// fields that may be missing
		{emit("row.at"), rows, "{x: an integer or null}", ""},
		{emit("row?.z"), rows, "", ""},
		{emit("row.z ?? 1"), rows, "", ""},
		{emit("has(row.z) ? row.z : 1"), rows, "", ""},
		{emit(`"z" in row ? row.z : 1`), rows, "", ""},
		{emit("row.who?.z"), rows, "", ""},
		{emit("row.who.z ?? 1"), rows, "", ""},
		{emit("has(row.who.z) ? row.who.z + 1 : 1"), rows, "", ""},
		{emit("row[params.p]"), rows, "", ""},

		// types
		{emit("row.name * 2"), rows, "", "calculate.emit.x, column 10: * needs two numbers; row.name is a string, 2 is an integer"},
		{emit("row.id == row.name"), rows, "", "calculate.emit.x, column 8: row.id is an integer and row.name is a string: they are never equal"},
		{emit("upper(row.who.age)"), rows, "", "calculate.emit.x, column 1: upper needs a string; row.who.age is an integer or null"},
		{emit("row.id.x"), rows, "", "calculate.emit.x, column 8: .x needs an object or null; row.id is an integer"},
		{emit(`type(row.id) == "string" ? row.id + "x" : "y"`), rows, "", ""},
		{verify("row.x > 1", `upper(row.x) == "A"`), open, "", "verify.1.rule, column 1: upper needs a string; row.x is a number"},
		{Spec{Mode: kis.Verify, Must: []string{"tags"}}, rows, "", "source.must.0, column 1: a key is a string, an integer, a float or a boolean; row.tags is an array"},
		{Spec{Mode: kis.Expand, Expand: &Expand{Subject: "a.{tags}"}}, rows, "", "expand.subject, column 4: a subject takes texts, integers, true and false; row.tags is an array"},
		{Spec{Mode: kis.Calculate, Must: []string{"id"}, Calculate: &Calculate{When: "row.name", State: []StateField{{"n", "0", "1"}}}}, rows, "",
			"calculate.when: must say true or false, but it is a string"},
	} {
		if _, m := New(c.spec); len(m) > 0 {
			t.Fatalf("%+v: %v", c.spec, m)
		}
		made, mistakes := Infer(c.spec, c.in)
		if got := made.Out.String(); c.out != "" && got != c.out {
			t.Errorf("%+v: goes on as\n%s, want\n%s", c.spec, got, c.out)
		}
		var lines []string
		for _, m := range mistakes {
			l := m.Error()
			if m.Guarded {
				l += " guarded"
			}
			lines = append(lines, l)
		}
		if got := strings.Join(lines, "\n"); got != c.mistakes {
			t.Errorf("%+v of %s:\n%s\nwant\n%s", c.spec, c.in, got, c.mistakes)
		}
	}
}

func TestNeeds(t *testing.T) {
	s := declared("id int", "a.b text")
	s.Fields["who"] = ObjectOf(declared("first text"), false)
	number, _ := FieldOf("number", false)
	for _, c := range []struct {
		of   Shape
		name string
		want Field
		says string
	}{
		{s, "id", Anything(), ""},
		{s, "id", number, ""},
		{s, "a.b", number, "the field a.b is a string; it must be a number"},
		{s, "who.first", Anything(), ""},
		{s, "who.frist", Anything(), "no row has the field who.frist"},
		{s, "whose.first", Anything(), "no row has the field whose.first"},
		{s, "id.x", Anything(), ""}, // nothing is known of what is in it; its type is the expression's business
		{Shape{Open: true}, "x.y", number, ""},
		{s, "who", ObjectOf(declared("first int"), false), "the field who.first is a string; it must be an integer"},
		{s, "who", ObjectOf(declared("last text"), false), "no row has the field who.last"},
		{s, "who", ObjectOf(declared("last text?"), false), ""},
	} {
		if m := c.of.Needs(c.name, c.want); m.Message != c.says {
			t.Errorf("%s of %s: %q, want %q", c.name, c.of, m.Message, c.says)
		}
	}
}

func TestUnion(t *testing.T) {
	a, b := declared("x int", "y text"), declared("x text", "z bool?")
	a.Fields["o"], b.Fields["o"] = ObjectOf(declared("p int"), false), ObjectOf(declared("q int"), false)
	for _, c := range []struct {
		a, b Shape
		want string
	}{
		{a, b, "{o: an object {p?: an integer, q?: an integer}, x: an integer or a string, y?: a string, z?: a boolean or null}"},
		{a, Shape{Open: true}, "{ ...}"},
		{a, Shape{Open: true}.With("x", b.Fields["x"]), "{x: an integer or a string ...}"},
		{a, Shape{}, "{o?: an object {p: an integer}, x?: an integer, y?: a string}"},
		{declared("o int"), b, "{o: an integer or an object {q: an integer}, x?: a string, z?: a boolean or null}"},
		{declared("o object"), b, "{o: an object, x?: a string, z?: a boolean or null}"},
	} {
		if got := Union(c.a, c.b).String(); got != c.want {
			t.Errorf("%s or %s: %s, want %s", c.a, c.b, got, c.want)
		}
		if x, y := Union(c.a, c.b).String(), Union(c.b, c.a).String(); x != y {
			t.Errorf("%s is not %s", x, y)
		}
	}
}

// contracts makes random functions, of which many are wrong, and rows.
type contracts struct{ *rand.Rand }

func (g contracts) pick(s ...string) string { return s[g.IntN(len(s))] }

// expr is a random expression. Nobody says that it has a value.
func (g contracts) expr(depth int) string {
	name := g.pick("i", "j", "f", "s", "b", "a", "o", "m", "zz")
	if depth == 0 || g.IntN(5) == 0 {
		switch g.IntN(12) {
		case 0:
			return g.pick("1", "2.5", `"x"`, "true", "null", "[1, 2]")
		case 1:
			return "row?." + name
		case 2:
			return "(row." + name + " ?? " + g.pick("1", `"q"`, "false") + ")"
		case 3:
			return "row.o." + g.pick("p", "q", "r")
		case 4:
			return "has(row." + name + ")"
		}
		return "row." + name
	}
	a, b := g.expr(depth-1), g.expr(depth-1)
	switch g.IntN(14) {
	case 0, 1:
		return "(" + a + " " + g.pick("+", "-", "*", "%") + " " + b + ")"
	case 2, 3:
		return "(" + a + " " + g.pick("<", ">", ">=", "==", "!=") + " " + b + ")"
	case 4, 5:
		return "(" + a + " " + g.pick("and", "or") + " " + b + ")"
	case 6:
		return "(" + a + " ? " + b + " : " + g.expr(depth-1) + ")"
	case 7:
		return "(type(row." + name + `) == "` + g.pick("int", "string", "bool") + `")`
	case 8:
		return g.pick("len", "upper", "abs", "string", "toJSON", "not ") + "(" + a + ")"
	case 9:
		return "(" + a + " ?? " + b + ")"
	case 10:
		return `{"k": ` + a + `, "l": ` + b + "}" + g.pick("", ".k", ".l", ".m")
	case 11:
		return "(let v = " + a + "; " + g.pick("v", "v + 1", "v.p", "[v]") + ")"
	case 12:
		return "map(row.a, # + " + a + ")"
	}
	return "max(" + a + ", " + b + ")"
}

// rule is a random condition, more likely to be true of some rows than expr is.
func (g contracts) rule(depth int) string {
	if depth == 0 {
		number, name := g.pick("row.i", "row.j", "row.f", "row.zz", "row.m", "row?.m", "row.o.p"), g.pick("i", "s", "m", "zz", "o")
		return g.pick(number+" > "+g.pick("-1", "0", "row.i"), "has(row."+name+")", "row."+name+" != null", `row.s + "x" > "a"`, "row.b", "not row.b",
			"type(row."+name+`) == "int"`, "row?."+name+" == 1", `upper(row.s) == "X"`, "row.j % 2 == 0", `"`+name+`" in row`, "row."+name+" in [1, 2]")
	}
	a, b := g.rule(depth-1), g.rule(depth-1)
	return g.pick(a, "("+a+" and "+b+")", "("+a+" or "+b+")", "not ("+a+")", "("+a+" ? "+b+" : "+g.rule(depth-1)+")")
}

// shape is a random shape.
func (g contracts) shape() Shape {
	s := Shape{Fields: make(map[string]Field), Open: g.IntN(5) == 0}
	types := []string{"int", "float", "number", "text", "bool", "array", "object", "any"}
	usual := map[string]string{"i": "int", "j": "int", "f": "float", "s": "text", "b": "bool", "a": "array", "m": "int"}
	for _, name := range []string{"i", "j", "f", "s", "b", "a", "m", "o"} {
		typ := usual[name]
		if typ == "" || g.IntN(4) == 0 {
			typ = types[g.IntN(len(types))]
		}
		if g.IntN(8) == 0 {
			continue
		}
		f, _ := FieldOf(typ, name == "m" || g.IntN(8) == 0)
		if name == "o" && g.IntN(4) > 0 {
			f = ObjectOf(declared("p int", "q text?"), g.IntN(4) == 0)
		}
		s.Fields[name] = f
	}
	return s
}

// value is a random value of a field, as JSON.
func (g contracts) value(f Field) string {
	for {
		k := kinds(1) << g.IntN(8)
		if f.kinds&k == 0 || k == isNumber {
			continue
		}
		switch k {
		case isNull:
			return "null"
		case isBool:
			return g.pick("true", "false")
		case isInt:
			return fmt.Sprint(g.IntN(7) - 3)
		case isFloat:
			return g.pick("0.5", "-2.25")
		case isString:
			return g.pick(`"x"`, `""`, `"int"`, `"q"`)
		case isArray:
			return g.pick("[]", "[1,2]", `["x",null]`)
		}
		if f.Inside == nil {
			return g.pick("{}", `{"p":1}`, `{"p":"x","q":2}`)
		}
		return g.row(*f.Inside)
	}
}

// row is a random row of a shape.
func (g contracts) row(s Shape) string {
	var fields []string
	for _, name := range s.Names() {
		if f := s.Fields[name]; !f.Optional || g.IntN(2) == 0 {
			fields = append(fields, fmt.Sprintf("%q:%s", name, g.value(f)))
		}
	}
	if s.Open && g.IntN(2) == 0 && s.Lacks("zz") == false {
		if _, known := s.Fields["zz"]; !known {
			fields = append(fields, fmt.Sprintf(`"zz":%s`, g.value(Anything())))
		}
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// conforms says why a row is not of a shape, or "".
func conforms(text string, s Shape) string {
	row, err := kis.ParseRow([]byte(text))
	if err != nil {
		return err.Error()
	}
	for name, f := range s.Fields {
		v, there := row.Get(name)
		switch {
		case !there && !f.Optional:
			return name + " is missing"
		case !there:
		case !f.kinds.has(v.Kind()):
			return name + " is " + v.Kind().String()
		case f.Inside != nil && v.Kind() == kis.Object:
			if why := conforms(v.Text(), *f.Inside); why != "" {
				return name + ": " + why
			}
		}
	}
	for m := (members{text: text}); !s.Open; {
		name, _, more := m.next()
		if !more {
			break
		}
		if n := decoded(name).Text(); s.Lacks(n) {
			return n + " is unknown"
		}
	}
	return ""
}

// TestInferAgainstRows runs random functions on random rows of random shapes. Without a mistake, what comes out is
// of the shape that Infer says. And where Infer says of a part that is computed for every row that a field is
// missing, no row comes out.
func TestInferAgainstRows(t *testing.T) {
	right, wrong, came := 0, 0, 0
	for seed := range uint64(6000) {
		g := contracts{rand.New(rand.NewPCG(seed, 7))}
		in := g.shape()
		spec := Spec{Name: "F", Mode: kis.Calculate}
		if g.IntN(3) == 0 {
			spec.Must = []string{g.pick("i", "s", "m", "zz")}
		}
		condition := func() string {
			if g.IntN(4) == 0 {
				return g.expr(3)
			}
			return g.rule(2)
		}
		when := ""
		if g.IntN(3) == 0 {
			when = condition()
		}
		emits := []EmitField{{"x", g.expr(3)}, {"y", g.expr(2)}}
		switch g.IntN(5) {
		case 4:
			spec.Must = []string{g.pick("i", "s", "m", "zz")}
			x := func() string {
				return g.pick("row.i", "row.f", "row.s", "row.m", "row.zz", "row?.m", g.rule(0), g.expr(1))
			}
			calls := []string{"count()", "count(" + g.rule(1) + ")", "sum(" + x() + ")", "avg(" + x() + ")", "min(" + x() + ")", "max(" + x() + ")", "first(" + x() + ")",
				"last(" + x() + ")", "distinct(" + x() + ")", "top(2, " + x() + ")", "percentile(50, " + x() + ")", "collect(" + x() + ", 3)"}
			spec.Calculate = &Calculate{When: g.pick("", g.rule(1), "state.n == null or state.n == 0 or "+g.rule(0)), Aggregate: []AggregateField{{Name: "n", Call: calls[g.IntN(len(calls))]}, {Name: "k", Call: calls[g.IntN(len(calls))]}},
				Emit: []EmitField{{"n", "state.n"}, {"x", g.pick("state.k", "[state.k]", "row.i", g.expr(1))}}}
			when = spec.Calculate.When
		case 0:
			spec.Mode = kis.Verify
			for range 1 + g.IntN(3) {
				spec.Verify = append(spec.Verify, Rule{Rule: condition()})
			}
		case 1:
			spec.Mode, spec.Expand = kis.Expand, &Expand{Subject: "a.{" + g.pick("i", "s", "m", "zz") + "}", When: when, Emit: emits}
		case 2:
			spec.Must = []string{g.pick("i", "s", "m", "zz")}
			spec.Calculate = &Calculate{When: when, State: []StateField{{"n", g.pick("0", `"x"`, "null"), g.pick("state.n + row.i", "row.s", g.expr(2))}}, Emit: append(emits, EmitField{"n", "state.n"})}
			if g.IntN(3) == 0 {
				spec.Calculate.Emit = nil
			}
		default:
			spec.Calculate = &Calculate{When: when, Emit: emits}
		}
		if _, m := New(spec); len(m) > 0 {
			continue
		}
		made, mistakes := Infer(spec, in)
		certain := slices.ContainsFunc(mistakes, func(m Mistake) bool {
			return m.Missing != "" && !m.Guarded && (when == "" || strings.HasSuffix(m.Path, ".when") || strings.HasPrefix(m.Path, "source"))
		})
		if len(mistakes) == 0 {
			right++
		} else if certain {
			wrong++
		} else {
			continue
		}
		for range 8 {
			text := g.row(in)
			if why := conforms(text, in); why != "" {
				t.Fatalf("seed %d: %s is not of %s: %s", seed, text, in, why)
			}
			out, sent, err := newChain(t, spec).send(text)
			if certain {
				if len(out)+len(sent) > 0 {
					t.Fatalf("seed %d: %+v %+v\nof %s\nhas %v, and %s comes out of %s", seed, spec, spec.Calculate, in, mistakes, out, text)
				}
				continue
			}
			if err != nil {
				continue
			}
			came++
			for _, o := range out {
				if why := conforms(o, made.Out); why != "" {
					t.Fatalf("seed %d: %+v %+v %+v\nof %s\nmakes of %s\n%s, which is not of %s: %s", seed, spec, spec.Calculate, spec.Expand, in, text, o, made.Out, why)
				}
			}
			for _, o := range sent {
				if _, row, _ := strings.Cut(o, " "); made.Sent == nil || conforms(row, *made.Sent) != "" {
					t.Fatalf("seed %d: %+v %+v\nof %s\nsends for %s\n%s, which is not of %v", seed, spec, spec.Expand, in, text, o, made.Sent)
				}
			}
		}
	}
	if right < 300 || wrong < 300 || came < 300 {
		t.Errorf("%d functions were right, %d wrong, and %d rows came out: the test tests little", right, wrong, came)
	}
}

// TestInferIsBounded nests rows in rows: what is known of them grows no further than its bounds.
func TestInferIsBounded(t *testing.T) {
	spec := Spec{Name: "F", Mode: kis.Calculate, Calculate: &Calculate{}}
	for i := range 100 {
		spec.Calculate.Emit = append(spec.Calculate.Emit, EmitField{fmt.Sprint("f", i), `{"a": row, "b": {"c": row, "d": [row]}}`})
	}
	in := Shape{Open: true}
	for range 10 {
		made, mistakes := Infer(spec, in)
		if len(mistakes) > 0 {
			t.Fatal(mistakes)
		}
		in = made.Out
	}
	if n := len(in.String()); n > 200_000 {
		t.Errorf("the shape has %d bytes", n)
	}
	_, mistakes := Infer(Spec{Mode: kis.Verify, Verify: []Rule{{Rule: "row.f0.a.f0.b.x > 1"}}}, in)
	if len(mistakes) != 1 {
		t.Errorf("what lies within the bounds is known: %v", mistakes)
	}
}

// shapeOfRow is the shape of a row that has just these fields.
func shapeOfRow(text string) (Shape, bool) {
	row, err := kis.ParseRow([]byte(text))
	if err != nil {
		return Shape{}, false
	}
	s := Shape{Fields: make(map[string]Field)}
	for i := range row.Len() {
		f := row.At(i)
		field := Field{kinds: kindsOf(f.Value.Kind())}
		if f.Value.Kind() == kis.Object {
			if inside, ok := shapeOfRow(f.Value.Text()); ok {
				field.Inside = &inside
			}
		}
		s.Fields[f.Name] = field
	}
	return s, true
}

// FuzzInfer holds what Infer says of a row's own shape to what the function does with the row.
func FuzzInfer(f *testing.F) {
	f.Add("row.a + row.b.c", "row.a > 0", `{"a":2,"b":{"c":1}}`)
	f.Add("has(row.x) ? row.x : row.y", "", `{"y":2.5}`)
	f.Add("let v = row.b; v.c ?? {\"d\": row}", `row.a == "x" and row.a != null`, `{"a":"x","b":{}}`)
	f.Fuzz(func(t *testing.T, emit, when, text string) {
		shape, ok := shapeOfRow(text)
		if !ok {
			return
		}
		spec := Spec{Name: "F", Mode: kis.Calculate, Calculate: &Calculate{Emit: []EmitField{{"e", emit}}, When: when}}
		fn, _ := New(spec)
		if fn == nil {
			return
		}
		made, mistakes := Infer(spec, shape)
		r, err := fn.Open(kis.Step{Name: "F"})
		if err != nil {
			return
		}
		row, _ := kis.ParseRow([]byte(text))
		call := &kis.Call{Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}}
		if err := r.Handle(call); err != nil {
			return
		}
		for _, m := range mistakes {
			if m.Missing != "" && !m.Guarded && (when == "" || m.Path == "calculate.when") {
				t.Fatalf("%v, and it has a value for %s", m, text)
			}
		}
		if len(mistakes) > 0 {
			return
		}
		for _, e := range call.Emitted {
			if why := conforms(e.Row.String(), made.Out); why != "" {
				t.Fatalf("%s of %s is not of %s: %s", e.Row, text, made.Out, why)
			}
		}
	})
}
