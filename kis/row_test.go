package kis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
)

const order = `{"userid":4711,"orderid":"o-000123456","amount":1299,"currency":"EUR","time":"2024-05-06T07:08:09Z","note":"thank you all"}`

func BenchmarkParse(b *testing.B) {
	var p Parser
	text := []byte(order)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseGetKey(b *testing.B) {
	var p Parser
	text := []byte(order)
	must := []string{"userid"}
	var key []byte
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		row, err := p.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		if key, err = AppendKey(key[:0], row, must); err != nil {
			b.Fatal(err)
		}
		if v, _ := row.Get("amount"); v.Int() != 1299 {
			b.Fatal("amount is not 1299")
		}
		SlotOf(string(key))
	}
}

func BenchmarkSplit(b *testing.B) {
	var p Parser
	payload := bytes.Repeat([]byte(order+"\n"), 100)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		p.Split(payload, func(_ uint32, row *Row, _ []byte, err error) {
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		r := NewRow(Field{"userid", IntValue(4711)}, Field{"count", IntValue(12)}, Field{"total", IntValue(129900)}, Field{"max", IntValue(1299)})
		dst = r.AppendJSON(dst[:0])
	}
}

func TestParseValues(t *testing.T) {
	r, err := ParseRow([]byte(" \t\r\n" + `{"n":null,"t":true,"f":false,"i":-12,"z":-0,"max":9223372036854775807,"min":-9223372036854775808,` +
		`"over":9223372036854775808,"d":1.50,"e":1E3,"tiny":1e-400,"huge":-1e400,"s":"a/\u00e9\n\ud83d\ude00\/","":"empty name",` +
		`"a":[1, {"b":[ ]}],"o":{ "x" : 1 },"n\u0061me":"escaped name","中文":"名"}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		want Value
		kind Kind
		json string
	}{
		{"n", NullValue(), Null, "null"},
		{"t", BoolValue(true), Bool, "true"},
		{"f", BoolValue(false), Bool, "false"},
		{"i", IntValue(-12), Int, "-12"},
		{"z", IntValue(0), Int, "0"},
		{"max", IntValue(math.MaxInt64), Int, "9223372036854775807"},
		{"min", IntValue(math.MinInt64), Int, "-9223372036854775808"},
		{"over", Value{kind: Number, text: "9223372036854775808"}, Number, "9223372036854775808"},
		{"d", FloatValue(1.5), Float, "1.50"},
		{"e", FloatValue(1000), Float, "1E3"},
		{"tiny", FloatValue(0), Float, "1e-400"},
		{"huge", Value{kind: Number, text: "-1e400"}, Number, "-1e400"},
		{"s", StringValue("a/é\n😀/"), String, `"a/é\n😀/"`},
		{"", StringValue("empty name"), String, `"empty name"`},
		{"a", Value{kind: Array, text: `[1, {"b":[ ]}]`}, Array, `[1, {"b":[ ]}]`},
		{"o", Value{kind: Object, text: `{ "x" : 1 }`}, Object, `{ "x" : 1 }`},
		{"name", StringValue("escaped name"), String, `"escaped name"`},
		{"中文", StringValue("名"), String, `"名"`},
	} {
		got, ok := r.Get(c.name)
		if !ok {
			t.Errorf("%q is missing", c.name)
			continue
		}
		if got.Kind() != c.kind || !got.Equal(c.want) || string(got.AppendJSON(nil)) != c.json {
			t.Errorf("%q is %s %s, want %s %s", c.name, got.Kind(), got.AppendJSON(nil), c.kind, c.json)
		}
	}
	if _, ok := r.Get("nothing"); ok {
		t.Error("a field that is not there was found")
	}
	if r.Len() != 18 || r.At(16).Name != "name" {
		t.Errorf("%d fields, number 16 is %q", r.Len(), r.At(16).Name)
	}
}

func TestParseRefuses(t *testing.T) {
	deep := func(levels int) string {
		return `{"a":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	wide := func(fields int) string {
		var b strings.Builder
		for i := range fields {
			fmt.Fprintf(&b, `,"f%d":0`, i)
		}
		return "{" + strings.TrimPrefix(b.String(), ",") + "}"
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, "offset 0: expected an object, found the end"},
		{"white space", " \n", "offset 2: expected an object, found the end"},
		{"array", `[1]`, "offset 0: expected an object, found '['"},
		{"number", `12`, "offset 0: expected an object, found '1'"},
		{"byte order mark", "\ufeff{}", `offset 0: expected an object, found '\ufeff'`},
		{"two objects", `{} {}`, "offset 3: expected the end after the object, found '{'"},
		{"cut 1", `{`, "offset 1: expected a field name, found the end"},
		{"cut 2", `{"a`, `offset 3: expected '"' at the end of the string, found the end`},
		{"cut 3", `{"a"`, "offset 4: expected ':' after the field name, found the end"},
		{"cut 4", `{"a":`, "offset 5: expected a value, found the end"},
		{"cut 5", `{"a":1`, "offset 6: expected ',' or '}' after the field's value, found the end"},
		{"cut 6", `{"a":1,`, "offset 7: expected a field name, found the end"},
		{"cut 7", `{"a":"\`, "offset 7: expected an escape, found the end"},
		{"cut 8", `{"a":"\u12`, `offset 6: expected four hexadecimal digits after \u`},
		{"cut 9", `{"a":[`, "offset 6: expected a value, found the end"},
		{"cut 10", `{"a":{"b"`, "offset 9: expected ':' after the field name, found the end"},
		{"trailing comma", `{"a":1,}`, "offset 7: expected a field name, found '}'"},
		{"trailing comma in array", `{"a":[1,]}`, "offset 8: expected a value, found ']'"},
		{"trailing comma in object", `{"a":{"b":1,}}`, "offset 12: expected a field name, found '}'"},
		{"leading comma", `{,"a":1}`, "offset 1: expected a field name, found ','"},
		{"name without quotes", `{a:1}`, "offset 1: expected a field name, found 'a'"},
		{"single quotes", `{'a':1}`, `offset 1: expected a field name, found '\''`},
		{"comment", `{"a":1/*x*/}`, "offset 6: expected ',' or '}' after the field's value, found '/'"},
		{"word", `{"a":tru}`, "offset 5: expected a value, found 't'"},
		{"longer word", `{"a":nulll}`, "offset 9: expected ',' or '}' after the field's value, found 'l'"},
		{"NaN", `{"a":NaN}`, "offset 5: expected a value, found 'N'"},
		{"plus", `{"a":+1}`, "offset 5: expected a value, found '+'"},
		{"minus", `{"a":-}`, "offset 6: expected a digit, found '}'"},
		{"leading zero", `{"a":01}`, "offset 5: a number with a leading zero"},
		{"leading zero after minus", `{"a":-00.5}`, "offset 6: a number with a leading zero"},
		{"point", `{"a":1.}`, "offset 7: expected a digit after the point, found '}'"},
		{"no integer part", `{"a":.5}`, "offset 5: expected a value, found '.'"},
		{"exponent", `{"a":1e}`, "offset 7: expected a digit of the exponent, found '}'"},
		{"exponent's sign", `{"a":1e+}`, "offset 8: expected a digit of the exponent, found '}'"},
		{"hexadecimal", `{"a":0x10}`, "offset 6: expected ',' or '}' after the field's value, found 'x'"},
		{"escape", `{"a":"\x"}`, "offset 7: expected an escape, found 'x'"},
		{"escape digits", `{"a":"\u12g4"}`, `offset 6: expected four hexadecimal digits after \u`},
		{"high surrogate", `{"a":"\ud83d"}`, `offset 6: lone surrogate \ud83d in a string`},
		{"low surrogate", `{"a":"\ude00"}`, `offset 6: lone surrogate \ude00 in a string`},
		{"two high surrogates", `{"a":"\ud83d\ud83d"}`, `offset 6: lone surrogate \ud83d in a string`},
		{"surrogate in a name", `{"\ud83d":1}`, `offset 2: lone surrogate \ud83d in a string`},
		{"control character", "{\"a\":\"x\ny\"}", "offset 7: control character 0x0a in a string; it must be escaped"},
		{"null byte", "{\"a\":\"\x00\"}", "offset 6: control character 0x00 in a string; it must be escaped"},
		{"last control character", "{\"a\":\"\x1f\"}", "offset 6: control character 0x1f in a string; it must be escaped"},
		{"not UTF-8", "{\"a\":\"\xff\"}", "offset 6: the byte 0xff is not UTF-8"},
		{"UTF-8 cut", "{\"a\":\"\xe4\xb8\"}", "offset 6: the byte 0xe4 is not UTF-8"},
		{"UTF-8 too long", "{\"a\":\"\xc0\x80\"}", "offset 6: the byte 0xc0 is not UTF-8"},
		{"UTF-8 surrogate", "{\"a\":\"\xed\xa0\x80\"}", "offset 6: the byte 0xed is not UTF-8"},
		{"not UTF-8 in a name", "{\"\xff\":1}", "offset 2: the byte 0xff is not UTF-8"},
		{"not UTF-8 outside", "{\"a\":\xff}", "offset 5: expected a value, found the byte 0xff"},
		{"no-break space", "{\u00a0}", `offset 1: expected a field name, found '\u00a0'`},
		{"form feed", "{\f}", `offset 1: expected a field name, found '\f'`},
		{"twice", `{"a":1,"b":2,"a":3}`, `offset 13: field "a" comes twice in one object`},
		{"twice, escaped", `{"a":1,"\u0061":3}`, `offset 7: field "a" comes twice in one object`},
		{"twice, escaped before", `{"\u0061":1,"a":3}`, `offset 12: field "a" comes twice in one object`},
		{"twice, nested", `{"x":[{"y":{"a":1,"a":3}}]}`, `offset 18: field "a" comes twice in one object`},
		{"twice, late", strings.TrimSuffix(wide(40), "}") + `,"f3":1}`, `offset 311: field "f3" comes twice in one object`},
		{"twice, late, nested", `{"x":` + strings.TrimSuffix(wide(40), "}") + `,"f3":1}}`, `offset 316: field "f3" comes twice in one object`},
		{"twice, long name", `{"` + strings.Repeat("é", 50) + `":1,"` + strings.Repeat("é", 50) + `":1}`, `offset 106: field "` + strings.Repeat("é", 32) + `"... comes twice in one object`},
		{"deep", deep(MaxDepth + 1), "offset 68: nested deeper than 64 levels"},
		{"very deep", strings.Repeat(`{"a":`, 1<<18), "offset 320: nested deeper than 64 levels"},
		{"wide", wide(MaxFields + 1), "offset 39851: an object of more than 4096 fields"},
		{"wide, nested", `{"x":` + wide(MaxFields+1) + `}`, "offset 39856: an object of more than 4096 fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseRow([]byte(c.text))
			if err == nil || err.Error() != c.want {
				t.Errorf("%.80s: %v, want %s", c.text, err, c.want)
			}
		})
	}
	for _, c := range []struct{ name, text string }{
		{"empty", `{}`},
		{"deep", deep(MaxDepth)},
		{"wide", wide(MaxFields)},
		{"wide, nested", `{"x":` + wide(MaxFields) + `}`},
		{"same name at different depths", `{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}`},
		{"names that differ in case", `{"a":1,"A":2}`},
		{"many side by side", `{"a":[` + strings.Repeat(`[1],{"a":1},[],{},`, 2*MaxDepth) + `0]}`},
		{"1 MiB string", `{"a":"` + strings.Repeat("x", 1<<20) + `"}`},
		{"1 MiB digits", `{"a":` + strings.Repeat("9", 1<<20) + `}`},
		{"1 MiB fraction", `{"a":0.` + strings.Repeat("9", 1<<20) + `}`},
		{"1 MiB array", `{"a":[` + strings.Repeat("1,", 1<<19) + `1]}`},
		{"delete", "{\"a\":\"\x7f\"}"},
		{"noncharacter", `{"a":"\uffff` + "\uffff" + `"}`},
	} {
		t.Run("takes "+c.name, func(t *testing.T) {
			r, err := ParseRow([]byte(c.text))
			if err != nil {
				t.Fatalf("%.80s: %v", c.text, err)
			}
			if r.String() != c.text {
				t.Errorf("%.80s is written as %.80s", c.text, r)
			}
			for i := range r.Len() {
				r.Set(r.At(i).Name, r.At(i).Value) // so that it is encoded anew
			}
			if !jsonEqual(t, []byte(c.text), r.AppendJSON(nil)) {
				t.Errorf("%.80s is encoded as %.80s", c.text, r)
			}
		})
	}
}

func jsonEqual(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	for _, p := range []struct {
		text []byte
		into *any
	}{{a, &x}, {b, &y}} {
		d := json.NewDecoder(bytes.NewReader(p.text))
		d.UseNumber()
		if err := d.Decode(p.into); err != nil {
			t.Fatalf("%.80s: %v", p.text, err)
		}
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

func TestChange(t *testing.T) {
	const text = `{"a": 1, "b":"x", "c":1.0}`
	r, err := ParseRow([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c := r.Clone()
	c.Delete("nothing")
	if c.String() != text {
		t.Errorf("without a change: %s", c)
	}
	c.Set("b", StringValue("y\"\x01\\\xff"))
	c.Delete("a")
	c.Set("d", BoolValue(true))
	c.Set("é\n", NullValue())
	c.Set("e", FloatValue(2))
	c.Set("f", FloatValue(1e300))
	c.Set("g", FloatValue(-1e-7))
	c.Set("h", FloatValue(math.Copysign(0, -1)))
	if want := `{"b":"y\"\u0001\\` + "\ufffd" + `","c":1.0,"d":true,"é\n":null,"e":2.0,"f":1e+300,"g":-1e-07,"h":-0.0}`; c.String() != want {
		t.Errorf("changed: %s, want %s", c, want)
	}
	d := c.Clone()
	d.Set("b", IntValue(1))
	if v, _ := c.Get("b"); v.Kind() != String {
		t.Error("a change of a clone changed the row")
	}
	again, err := ParseRow(c.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Len() {
		if f := again.At(i); f.Name != c.At(i).Name || !f.Value.Equal(c.At(i).Value) {
			t.Errorf("field %d is read again as %v", i, f)
		}
	}
	if r.String() != text {
		t.Errorf("a change of a clone changed the row: %s", r)
	}
	if got := NewRow(Field{"a", IntValue(1)}, Field{"b", NullValue()}, Field{"a", IntValue(2)}).String(); got != `{"a":2,"b":null}` {
		t.Errorf("a name twice: %s", got)
	}
	if got := new(Row).String(); got != "{}" {
		t.Errorf("the zero Row is %s", got)
	}
}

func TestRowInStruct(t *testing.T) {
	var v struct {
		R *Row
		V Value
	}
	if err := json.Unmarshal([]byte(`{"R":{"a":12345678901234567},"V":0.10}`), &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil || string(text) != `{"R":{"a":12345678901234567},"V":0.10}` {
		t.Errorf("%s, %v", text, err)
	}
	if err := json.Unmarshal([]byte(`{"R":{"a":1,"a":2}}`), &v); err == nil {
		t.Error("a name twice was taken")
	}
}

func TestFloatValuePanics(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("FloatValue(%v) did not panic", f)
				}
			}()
			FloatValue(f)
		}()
	}
}

func TestParserKeepsRows(t *testing.T) {
	var p Parser
	var rows []*Row
	var want []string
	for i := range 3000 {
		text := fmt.Sprintf(`{"i":%d,"a":"x%d","b":[%d],"c":{"d":%d}}`, i, i, i, i)
		if i%100 == 0 {
			text = strings.TrimSuffix(text, "}")
			for j := range i {
				text += fmt.Sprintf(`,"f%d":%d`, j, j)
			}
			text += "}"
		}
		if i%7 == 0 {
			p.Parse([]byte(text[:len(text)-1])) // a failure must leave no trace
		}
		row, err := p.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		rows, want = append(rows, row), append(want, text)
	}
	for i, row := range rows {
		if row.String() != want[i] {
			t.Fatalf("row %d is %.80s", i, row)
		}
		if v, _ := row.Get("i"); v.Int() != int64(i) {
			t.Fatalf("i of row %d is %d", i, v.Int())
		}
		row.Set("more", IntValue(1)) // must not reach into the neighbour
	}
	for i, row := range rows {
		if want := strings.TrimSuffix(want[i], "}") + `,"more":1}`; row.String() != want {
			t.Fatalf("row %d is %.80s", i, row)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct{ name, payload, want string }{
		{"one", `{"a":1}`, `{"a":1}`},
		{"one over several lines", "\n{\n \"a\": 1,\n \"b\": [\n  2\n ]\n}\n", "{\n \"a\": 1,\n \"b\": [\n  2\n ]\n}"},
		{"a line each", "{\"a\":1}\n{\"a\":2}\r\n\n{\"a\":3}", `{"a":1}|{"a":2}|{"a":3}`},
		{"in one line", `{"a":1} {"a":2}	{"a":3}`, `{"a":1}|{"a":2}|{"a":3}`},
		{"empty", ``, `bad() offset 0: expected an object, found nothing`},
		{"white space", " \n ", "bad( \n ) offset 3: expected an object, found nothing"},
		{"not separated", "{\"a\":1}{\"a\":2}\n{\"a\":3}", `bad({"a":1}{"a":2}) offset 7: expected white space or the end after the object, found '{'|{"a":3}`},
		{"no objects", "1 \"x\"\n[{}] null {}", `bad(1) offset 0: expected an object, found an integer|bad("x") offset 2: expected an object, found a string|` +
			`bad([{}]) offset 6: expected an object, found an array|bad(null) offset 11: expected an object, found null|{}`},
		{"no object, not separated", "1x {}\n{}", `bad(1x {}) offset 0: expected an object, found an integer|{}`},
		{"cut line", "{\"a\":1\n{\"a\":2}\n", `bad({"a":1) offset 7: expected ',' or '}' after the field's value, found '{'|{"a":2}`},
		{"cut line, carriage return", "{\"a\":1\r\n{\"a\":2}\r\n", `bad({"a":1) offset 8: expected ',' or '}' after the field's value, found '{'|{"a":2}`},
		{"cut line in a string", "{\"a\":\"x\n{\"a\":2}\n", `bad({"a":"x) offset 7: control character 0x0a in a string; it must be escaped|{"a":2}`},
		{"cut at the end", "{\"a\":1}\n{\"a\":", `{"a":1}|bad({"a":) offset 13: expected a value, found the end`},
		{"bad line", "{\"a\":1}\n{\"a\":x} {\"a\":2}  \n{\"a\":3}", `{"a":1}|bad({"a":x} {"a":2}) offset 13: expected a value, found 'x'|{"a":3}`},
		{"no JSON", "hello\n\xff\xfe\n{}", "bad(hello) offset 0: expected a value, found 'h'|bad(\xff\xfe) offset 6: expected a value, found the byte 0xff|{}"},
		{"twice", "{\"a\":1,\"a\":2}\n{}", `bad({"a":1,"a":2}) offset 7: field "a" comes twice in one object|{}`},
		{"bad over lines", "{\n\"a\": x\n}\n{}", "bad({\n\"a\": x) offset 7: expected a value, found 'x'|bad(}) offset 9: expected a value, found '}'|{}"},
		{"indented brace", "{\"a\":1\n {\"b\":2}\n{}", "bad({\"a\":1\n {\"b\":2}) offset 8: expected ',' or '}' after the field's value, found '{'|{}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := splitString(t, []byte(c.payload)); got != c.want {
				t.Errorf("split into\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func splitString(t *testing.T, payload []byte) string {
	t.Helper()
	var p Parser
	var got []string
	p.Split(payload, func(index uint32, row *Row, bad []byte, err error) {
		if int(index) != len(got) {
			t.Errorf("index %d, want %d", index, len(got))
		}
		if (row == nil) != (err != nil) || row != nil && bad != nil {
			t.Errorf("event %d: row %v, bad %q, error %v", index, row, bad, err)
		}
		if err != nil {
			got = append(got, fmt.Sprintf("bad(%s) %v", bad, err))
		} else {
			got = append(got, row.String())
		}
	})
	return strings.Join(got, "|")
}

func BenchmarkBuilder(b *testing.B) {
	var dst []byte
	var builder Builder
	b.ReportAllocs()
	for b.Loop() {
		r := builder.Row(Field{"userid", IntValue(4711)}, Field{"count", IntValue(12)}, Field{"total", IntValue(129900)}, Field{"max", IntValue(1299)})
		dst = r.AppendJSON(dst[:0])
	}
}

func TestBuilder(t *testing.T) {
	fields := []Field{
		{"a", IntValue(-5)}, {"b\"\n", StringValue("x\ty")}, {"é", StringValue("é")}, {"d", FloatValue(2)}, {"e", NullValue()},
		{"f", BoolValue(true)}, {"\xff", StringValue("")}, {"", Value{kind: Array, text: "[1]"}}, {"h", Value{kind: Number, text: "1e999"}},
	}
	var b Builder
	b.Begin()
	b.Add("dropped", NullValue())
	var rows []*Row
	var want []string
	for i := range 2000 {
		f := append(fields[i%9:], Field{"i", IntValue(int64(i))}, Field{"long", StringValue(strings.Repeat("x", i))})
		rows, want = append(rows, b.Row(f...)), append(want, NewRow(f...).String())
	}
	for i, row := range rows {
		if row.String() != want[i] {
			t.Fatalf("row %d is %.200s, want %.200s", i, row, want[i])
		}
		parsed, err := ParseRow(row.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		for j := range parsed.Len() {
			if p, q := parsed.At(j), row.At(j); p.Name != q.Name || !p.Value.Equal(q.Value) {
				t.Fatalf("row %d field %d is %v, want %v", i, j, q, p)
			}
		}
	}
	if got := b.Row().String(); got != "{}" {
		t.Errorf("a row without fields is %s", got)
	}
	if got := b.Row(Field{"a", IntValue(1)}, Field{"b", IntValue(2)}, Field{"a", IntValue(3)}).String(); got != `{"a":3,"b":2}` {
		t.Errorf("a name twice: %s", got)
	}
	if got := b.Row(Field{"a", IntValue(1)}, Field{"b", IntValue(2)}, Field{"a", IntValue(3)}, Field{"\xff", IntValue(4)}, Field{"\xfe", IntValue(5)}).String(); got != `{"a":3,"b":2,"`+"\ufffd"+`":5}` {
		t.Errorf("a name twice: %s", got)
	}
}

func TestTypedGet(t *testing.T) {
	r, err := ParseRow([]byte(`{"i":5,"f":1.5,"s":"x","b":true,"n":null,"big":1e999}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{"i", `5 <nil>; 5 <nil>;  field "i": expected a string, found an integer, 5; false field "i": expected a boolean, found an integer, 5`},
		{"f", `0 field "f": expected an integer, found a float, 1.5; 1.5 <nil>;  field "f": expected a string, found a float, 1.5; false field "f": expected a boolean, found a float, 1.5`},
		{"s", `0 field "s": expected an integer, found a string, "x"; 0 field "s": expected a number, found a string, "x"; x <nil>; false field "s": expected a boolean, found a string, "x"`},
		{"b", `0 field "b": expected an integer, found a boolean, true; 0 field "b": expected a number, found a boolean, true;  field "b": expected a string, found a boolean, true; true <nil>`},
		{"n", `0 field "n": expected an integer, found null; 0 field "n": expected a number, found null;  field "n": expected a string, found null; false field "n": expected a boolean, found null`},
		{"big", `0 field "big": expected an integer, found a number too large to compute with, 1e999; 0 field "big": expected a number, found a number too large to compute with, 1e999;  ` +
			`field "big": expected a string, found a number too large to compute with, 1e999; false field "big": expected a boolean, found a number too large to compute with, 1e999`},
		{"no", `0 field "no" is missing; 0 field "no" is missing;  field "no" is missing; false field "no" is missing`},
	} {
		i, err1 := r.Int(c.name)
		f, err2 := r.Float(c.name)
		s, err3 := r.Text(c.name)
		b, err4 := r.Bool(c.name)
		if got := fmt.Sprintf("%v %v; %v %v; %v %v; %v %v", i, err1, f, err2, s, err3, b, err4); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

// TestSplitCutOff holds that a line that was cut off takes no other line with it, wherever it was cut.
func TestSplitCutOff(t *testing.T) {
	whole := `{"user":1,"items":[{"a":"b"},2],"amount":12.5,"ok":true}`
	for cut := 1; cut < len(whole); cut++ {
		var rows, bad int
		new(Parser).Split([]byte(whole[:cut]+"\n"+whole+"\n"+whole), func(_ uint32, row *Row, _ []byte, _ error) {
			if row != nil {
				rows++
			} else {
				bad++
			}
		})
		if rows != 2 || bad != 1 {
			t.Errorf("cut after %q: %d rows and %d malformed, want 2 and 1", whole[:cut], rows, bad)
		}
	}
}
