package kis

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// oracle says whether a text is a row by the rules of RFC 8259 and our own, with encoding/json doing most of it.
func oracle(text []byte) bool {
	if !json.Valid(text) || !utf8.Valid(text) || loneSurrogate(text) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return false
	}
	ok, err := oracleInside(d, '{', 1)
	return ok && err == nil
}

func oracleInside(d *json.Decoder, open json.Delim, depth int) (bool, error) {
	if depth > MaxDepth {
		return false, nil
	}
	names := make(map[string]bool)
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return false, err
			}
			if names[name.(string)] {
				return false, nil
			}
			names[name.(string)] = true
		}
		token, err := d.Token()
		if err != nil {
			return false, err
		}
		if inner, ok := token.(json.Delim); ok {
			if ok, err := oracleInside(d, inner, depth+1); !ok || err != nil {
				return false, err
			}
		}
	}
	if len(names) > MaxFields {
		return false, nil
	}
	_, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return true, err
}

var (
	backslashes = regexp.MustCompile(`\\\\`)
	pairs       = regexp.MustCompile(`(?i)\\u(d[89ab][0-9a-f]{2})\\u(d[cdef][0-9a-f]{2})`)
	surrogates  = regexp.MustCompile(`(?i)\\ud[89abcdef][0-9a-f]{2}`)
)

func loneSurrogate(text []byte) bool {
	return surrogates.Match(pairs.ReplaceAll(backslashes.ReplaceAll(text, []byte("..")), nil))
}

// asAny makes of a value what encoding/json would, and looks at numbers in its own way.
func asAny(t *testing.T, v Value) any {
	t.Helper()
	switch v.Kind() {
	case Null:
		return nil
	case Bool:
		return v.Bool()
	case String:
		return v.Text()
	case Int:
		return json.Number(strconv.FormatInt(v.Int(), 10))
	case Float:
		if !strings.ContainsAny(v.Text(), ".eE") {
			t.Errorf("the float %s looks like an integer", v.Text())
		}
		return json.Number(v.Text())
	case Number:
		if _, err := strconv.ParseInt(v.Text(), 10, 64); err == nil {
			t.Errorf("%s fits an Int", v.Text())
		}
		if _, err := strconv.ParseFloat(v.Text(), 64); err == nil && strings.ContainsAny(v.Text(), ".eE") {
			t.Errorf("%s fits a Float", v.Text())
		}
		return json.Number(v.Text())
	}
	return decodeAny(t, v.Text())
}

func decodeAny(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var into any
	if err := d.Decode(&into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return into
}

func FuzzParseRow(f *testing.F) {
	f.Add([]byte(order))
	for _, text := range []string{
		``, `{}`, ` { } `, `[]`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":-0,"b":1e400,"c":9223372036854775808,"d":-9223372036854775808}`,
		`{"a":"\ud83d\ude00\\ud83d","b":"\ud83d"}`, "{\"a\":\"\xff\"}", `{"a":[[[{"b":[1,2,{"c":null}]}]]]}`, `{"a":01}`, `{"a":1.5E+10,"b":.5}`, `{"a":tru}`, `{"a" : "\/\b\f\n\r\t\"" }`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var p Parser
		given := bytes.Clone(text)
		row, err := p.Parse(text)
		if !bytes.Equal(given, text) {
			t.Fatal("the text was changed")
		}
		if want := oracle(text); want != (err == nil) {
			t.Fatalf("%q: %v, and the oracle says %v", text, err, want)
		}
		single, err1 := ParseRow(text)
		value, err2 := JSONValue(string(text))
		if (err1 == nil) != (err == nil) || err == nil && err2 != nil || err != nil && err2 == nil && value.Kind() == Object {
			t.Fatalf("%q: %v by the Parser, %v by ParseRow, %v by JSONValue", text, err, err1, err2)
		}
		if err != nil {
			var s *SyntaxError
			if !errors.As(err, &s) || s.Offset < 0 || s.Offset > len(text) || s.Problem == "" {
				t.Fatalf("%q: error %#v", text, err)
			}
			return
		}
		if got := row.String(); got != strings.Trim(string(text), " \t\r\n") || single.String() != got {
			t.Fatalf("%q is written as %q", text, got)
		}
		want := decodeAny(t, string(text)).(map[string]any)
		if row.Len() != len(want) {
			t.Fatalf("%q has %d fields, want %d", text, row.Len(), len(want))
		}
		built := NewRow()
		for i := range row.Len() {
			field := row.At(i)
			w, ok := want[field.Name]
			if n, is := w.(json.Number); is && n == "-0" {
				w = json.Number("0")
			}
			if got := asAny(t, field.Value); !ok || !reflect.DeepEqual(got, w) {
				t.Fatalf("%q: field %q is %#v, want %#v", text, field.Name, got, w)
			}
			if v, ok := row.Get(field.Name); !ok || !v.Equal(field.Value) {
				t.Fatalf("%q: Get(%q) is %s", text, field.Name, v.Text())
			}
			built.Set(field.Name, field.Value)
		}
		again, err := ParseRow(built.AppendJSON(nil))
		if err != nil || again.Len() != row.Len() {
			t.Fatalf("%q is encoded as %s: %v", text, built, err)
		}
		for i := range row.Len() {
			if a, b := row.At(i), again.At(i); a.Name != b.Name || !a.Value.Equal(b.Value) {
				t.Fatalf("%q: field %q %s is read again as %q %s", text, a.Name, a.Value.Text(), b.Name, b.Value.Text())
			}
		}
	})
}

func FuzzSplit(f *testing.F) {
	for _, payload := range []string{
		"", " ", order, order + "\n" + order, "{\"a\":1\n{\"b\":2}\n", "{}{}\n{}", "1 2 [] {} \n x\n", "{\n\"a\":x\n}\n{}", "{\"a\":\"\n\"}", "{\"a\":[\n{\"b\":1}\n{\"c\":1}\n",
	} {
		f.Add([]byte(payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var p Parser
		events, at := 0, 0
		p.Split(payload, func(index uint32, row *Row, bad []byte, err error) {
			if int(index) != events {
				t.Fatalf("%q: index %d, want %d", payload, index, events)
			}
			events++
			text := bad
			if err == nil {
				text = row.AppendJSON(nil)
				if !oracle(text) {
					t.Fatalf("%q: event %d %q is no row", payload, index, text)
				}
			} else if oracle(bad) {
				t.Fatalf("%q: event %d %q is a row, but %v", payload, index, bad, err)
			}
			if len(bytes.Trim(payload, " \t\r\n")) == 0 {
				return
			}
			if len(text) == 0 {
				t.Fatalf("%q: event %d is empty", payload, index)
			}
			// Every byte but the white space between events belongs to an event.
			for at < len(payload) && isSpace(payload[at]) {
				at++
			}
			if !bytes.HasPrefix(payload[at:], text) {
				t.Fatalf("%q: event %d is %q, want it at %d", payload, index, text, at)
			}
			at += len(text)
		})
		if events == 0 {
			t.Fatalf("%q passed silently", payload)
		}
		if rest := payload[at:]; len(bytes.Trim(rest, " \t\r\n")) > 0 {
			t.Fatalf("%q: %q passed silently", payload, rest)
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("t", "a", "b")
	f.Add("i\x80\x00\x00\x00\x00\x00\x00\x01s\x03bob", "userid", "name")
	f.Add("d\x3f\xf8\x00\x00\x00\x00\x00\x00f", "x", "y")
	f.Add("s\x80\x00i", "x", "y")
	f.Fuzz(func(t *testing.T, canonical, a, b string) {
		must := []string{a, b}
		k, err := KeyFromCanonical(must, canonical)
		if err != nil || a == b || !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		if k.Canonical() != canonical {
			t.Fatalf("%q became %q", canonical, k.Canonical())
		}
		fields := k.Fields()
		values := []Value{fields[0].Value, fields[1].Value}
		if again, err := KeyFromValues(must, values); err != nil || again.Canonical() != canonical {
			t.Fatalf("%q: from its values it is %q, %v", canonical, again.Canonical(), err)
		}
		row, err := ParseRow(k.AppendJSON(nil))
		if err != nil {
			t.Fatalf("%q: its JSON: %v", canonical, err)
		}
		if again, err := KeyOf(row, must); err != nil || again.Canonical() != canonical {
			t.Fatalf("%q: from its JSON %s it is %q, %v", canonical, row, again.Canonical(), err)
		}
		for i := range fields {
			one, err := KeyFromValues(must[i:i+1], values[i:i+1])
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseKey(must[i:i+1], []string{one.String()}); err != nil || again.Canonical() != one.Canonical() {
				t.Fatalf("%q: from %s it is %q, %v", one.Canonical(), one, again.Canonical(), err)
			}
		}
	})
}

// loose says whether a value has names which encoding/json would match without regard to case, or arrays that it
// would cut: there we are stricter.
func loose(v any, names []string) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, v := range v {
			for _, n := range names {
				if name != n && strings.EqualFold(name, n) {
					return true
				}
			}
			if list, ok := v.([]any); ok && name == "pair" && len(list) > 2 || loose(v, names) {
				return true
			}
		}
	case []any:
		for _, v := range v {
			if loose(v, names) {
				return true
			}
		}
	}
	return false
}

func FuzzStruct(f *testing.F) {
	f.Add([]byte(`{"userid":9007199254740993,"region":"eu","b":true,"i8":-128,"u64":18446744073709551615,"f":1e3,"f32":0.1,"p":5,"Plain":"x"}`))
	f.Add([]byte(`{"items":[{"sku":"a","qty":255},null,{"sku":"b","qty":0}],"pair":[1,2],"tags":{"x":"y","z":null},"bytes":"aGk="}`))
	f.Add([]byte(`{"at":"2024-01-02T03:04:05Z","raw":[1, 2],"num":12345678901234567890,"value":1.50,"self":{"userid":1,"self":null}}`))
	f.Add([]byte(`{"i8":128,"items":{},"pair":[1],"f32":1e39,"u64":-1,"b":null,"p":null,"any":{"a":[1,2.0]}}`))
	var names []string
	for _, field := range newPlan(reflect.TypeFor[everything]()).fields.fields {
		names = append(names, field.name)
	}
	names = append(names, "sku", "qty")
	plan := newPlan(reflect.TypeFor[everything]())
	f.Fuzz(func(t *testing.T, text []byte) {
		row, err := ParseRow(text)
		if err != nil || loose(decodeAny(t, string(text)), names) {
			return
		}
		var ours, theirs everything
		err = plan.decodeRow(row, reflect.ValueOf(&ours).Elem())
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		theirErr := d.Decode(&theirs)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: we say %v, encoding/json says %v", text, err, theirErr)
		}
		if err != nil {
			return
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("%q: we read\n%+v, encoding/json reads\n%+v", text, ours, theirs)
		}
		encoded, err := plan.fields.appendJSON(nil, reflect.ValueOf(&ours).Elem())
		theirEncoded, theirErr := json.Marshal(&theirs)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: written as %s, %v; by encoding/json as %s, %v", text, encoded, err, theirEncoded, theirErr)
		}
		if err != nil {
			return
		}
		var again everything
		back, err := ParseRow(encoded)
		if err == nil {
			err = plan.decodeRow(back, reflect.ValueOf(&again).Elem())
		}
		if err != nil {
			t.Fatalf("%q: written as %s, which is not read again: %v", text, encoded, err)
		}
		once, err := plan.fields.appendJSON(nil, reflect.ValueOf(&again).Elem())
		if err != nil || !bytes.Equal(once, encoded) {
			t.Fatalf("%q: written as %s, read, and written again as %s, %v", text, encoded, once, err)
		}
	})
}
