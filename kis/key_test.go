package kis

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// The bytes and the slots are on disks: a change of this table is a change of every layout there is.
func TestKeyGolden(t *testing.T) {
	for _, c := range []struct {
		row, canonical string
		slot           uint16
		people         string
	}{
		{`{"k":1}`, "i\x80\x00\x00\x00\x00\x00\x00\x01", 3964, "k=1"},
		{`{"k":1.0}`, "i\x80\x00\x00\x00\x00\x00\x00\x01", 3964, "k=1"},
		{`{"k":0}`, "i\x80\x00\x00\x00\x00\x00\x00\x00", 1439, "k=0"},
		{`{"k":-0}`, "i\x80\x00\x00\x00\x00\x00\x00\x00", 1439, "k=0"},
		{`{"k":-0.0}`, "i\x80\x00\x00\x00\x00\x00\x00\x00", 1439, "k=0"},
		{`{"k":-1}`, "i\x7f\xff\xff\xff\xff\xff\xff\xff", 2012, "k=-1"},
		{`{"k":9223372036854775807}`, "i\xff\xff\xff\xff\xff\xff\xff\xff", 2272, "k=9223372036854775807"},
		{`{"k":-9223372036854775808}`, "i\x00\x00\x00\x00\x00\x00\x00\x00", 3156, "k=-9223372036854775808"},
		{`{"k":-9223372036854775808.0}`, "i\x00\x00\x00\x00\x00\x00\x00\x00", 3156, "k=-9223372036854775808"},
		{`{"k":9223372036854775808.0}`, "d\x43\xe0\x00\x00\x00\x00\x00\x00", 2036, "k=9223372036854776000.0"},
		{`{"k":1.5}`, "d\x3f\xf8\x00\x00\x00\x00\x00\x00", 1665, "k=1.5"},
		{`{"k":true}`, "t", 2360, "k=true"},
		{`{"k":false}`, "f", 3328, "k=false"},
		{`{"k":""}`, "s\x00", 1724, `k=""`},
		{`{"k":"1"}`, "s\x011", 1932, `k="1"`},
		{`{"k":"ada"}`, "s\x03ada", 473, "k=ada"},
		{`{"k":"a b"}`, "s\x03a b", 2077, `k="a b"`},
		{`{"k":"名\n"}`, "s\x04名\n", 1603, `k="名\n"`},
		{`{"k":"` + strings.Repeat("x", 200) + `"}`, "s\xc8\x01" + strings.Repeat("x", 200), 3926, "k=" + strings.Repeat("x", 200)},
	} {
		row, err := ParseRow([]byte(c.row))
		if err != nil {
			t.Fatal(err)
		}
		k, err := KeyOf(row, []string{"k"})
		if err != nil {
			t.Errorf("%s: %v", c.row, err)
			continue
		}
		if k.Canonical() != c.canonical || k.Slot() != c.slot || k.String() != c.people {
			t.Errorf("%s: %q, slot %d, %s", c.row, k.Canonical(), k.Slot(), k)
		}
		again, err := KeyFromCanonical([]string{"k"}, c.canonical)
		if err != nil || again.String() != c.people {
			t.Errorf("%s: from its canonical bytes: %s, %v", c.row, again, err)
		}
		if again, err = ParseKey([]string{"k"}, []string{c.people}); err != nil || again.Canonical() != c.canonical {
			t.Errorf("%s: from %s: %q, %v", c.row, c.people, again.Canonical(), err)
		}
	}
}

func TestKeySeveral(t *testing.T) {
	must := []string{"userid", "name", "ok"}
	row, err := ParseRow([]byte(`{"ok":true,"name":"a=b","more":1,"userid":7}`))
	if err != nil {
		t.Fatal(err)
	}
	k, err := KeyOf(row, must)
	if err != nil {
		t.Fatal(err)
	}
	if k.String() != "userid=7 name=a=b ok=true" || string(k.AppendJSON(nil)) != `{"userid":7,"name":"a=b","ok":true}` {
		t.Errorf("%s, %s", k, k.AppendJSON(nil))
	}
	again, err := ParseKey(must, []string{"name=a=b", "ok=true", "userid=7"})
	if err != nil || again.Canonical() != k.Canonical() {
		t.Errorf("%s, %v", again, err)
	}
	if again, err = ParseKey([]string{"a", "a=b"}, []string{"a=b=c", "a=x"}); err != nil || again.String() != "a=x a=b=c" {
		t.Errorf("names with an equals sign: %s, %v", again, err)
	}
	if slot := (Key{}).Slot(); slot != 0xef4 { // XXH64 of nothing is ef46db3751d8e999
		t.Errorf("the zero Key is in slot %#x", slot)
	}
	if k, err := KeyOf(row, nil); err != nil || k.Canonical() != "" || k.Fields() != nil || k.String() != "" {
		t.Errorf("without must: %v, %v", k, err)
	}
	b, err := AppendKey([]byte("before"), row, must)
	if err != nil || string(b) != "before"+k.Canonical() {
		t.Errorf("appended: %q, %v", b, err)
	}
	if n := testing.AllocsPerRun(100, func() { b, _ = AppendKey(b[:0], row, must) }); n != 0 {
		t.Errorf("AppendKey allocates %v times", n)
	}
	if b, err = AppendKey([]byte("before"), row, []string{"ok", "nothing"}); err == nil || string(b) != "before" {
		t.Errorf("after an error: %q, %v", b, err)
	}
}

func TestKeyRefuses(t *testing.T) {
	const kinds = "; it must be a string, an integer, a float or a boolean"
	for row, want := range map[string]string{
		`{}`:                                    `key field "k" is missing`,
		`{"K":1}`:                               `key field "k" is missing`,
		`{"k":null}`:                            `key field "k" is null` + kinds,
		`{"k":[1]}`:                             `key field "k" is an array` + kinds,
		`{"k":{}}`:                              `key field "k" is an object` + kinds,
		`{"k":1e999}`:                           `key field "k" is a number too large to compute with` + kinds,
		`{"k":` + strings.Repeat("1", 20) + `}`: `key field "k" is a number too large to compute with` + kinds,
		`{"k":"` + strings.Repeat("x", MaxKeyBytes) + `"}`:   `key field "k" makes the key longer than 4096 bytes`,
		`{"k":"` + strings.Repeat("x", MaxKeyBytes+1) + `"}`: `key field "k" is longer than 4096 bytes`,
	} {
		r, err := ParseRow([]byte(row))
		if err != nil {
			t.Fatal(err)
		}
		_, err = KeyOf(r, []string{"k"})
		var k *KeyError
		if !errors.As(err, &k) || k.Field != "k" || err.Error() != want {
			t.Errorf("%.60s: %v, want %s", row, err, want)
		}
	}
	for _, c := range []struct{ canonical, want string }{
		{"", `no value of field "k" at offset 0`},
		{"x", `no value of field "k" at offset 0`},
		{"i\x80", `no value of field "k" at offset 0`},
		{"s", `no value of field "k" at offset 0`},
		{"s\x02a", `no value of field "k" at offset 0`},
		{"s\x81\x00a", `no value of field "k" at offset 0`}, // the length in two bytes where one does
		{"s\x01\xff", `no value of field "k" at offset 0`},
		{"s\xff\xff\xff\xff\x7f", `no value of field "k" at offset 0`},
		{"d\x3f\xf0\x00\x00\x00\x00\x00\x00", `no value of field "k" at offset 0`}, // 1.0 is the integer 1
		{"d\x7f\xf0\x00\x00\x00\x00\x00\x00", `no value of field "k" at offset 0`}, // infinite
		{"tt", "1 bytes too many for the fields k"},
		{strings.Repeat("t", MaxKeyBytes+1), "canonical key of 4097 bytes; the most is 4096"},
	} {
		if _, err := KeyFromCanonical([]string{"k"}, c.canonical); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%.20q: %v, want %s", c.canonical, err, c.want)
		}
	}
	for _, c := range []struct {
		assignments []string
		want        string
	}{
		{[]string{"a=1"}, `key field "b" is missing`},
		{[]string{"a=1", "b=1", "a=2"}, `key field "a" comes twice`},
		{[]string{"a=1", "c=1"}, `unknown key field "c"; the key is a, b`},
		{[]string{"a"}, `key field "a" has no value; write FIELD=VALUE`},
		{[]string{"a=1", "b=1e999"}, `key field "b" is a number too large to compute with` + kinds},
	} {
		if _, err := ParseKey([]string{"a", "b"}, c.assignments); err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.assignments, err, c.want)
		}
	}
	if _, err := KeyFromValues([]string{"a"}, nil); err == nil || err.Error() != "0 key values for the 1 key fields a" {
		t.Errorf("too few values: %v", err)
	}
}

// Keys that follow one another must spread over the slots.
func TestSlotsSpread(t *testing.T) {
	for name, make := range map[string]func(int) Value{
		"integers": func(i int) Value { return IntValue(int64(i)) },
		"strings":  func(i int) Value { return StringValue(fmt.Sprintf("user-%d", i)) },
	} {
		var counts [Slots]int
		const keys = 100 * Slots
		for i := range keys {
			k, err := KeyFromValues([]string{"k"}, []Value{make(i)})
			if err != nil {
				t.Fatal(err)
			}
			counts[k.Slot()]++
		}
		var chi float64
		for _, n := range counts {
			chi += math.Pow(float64(n)-keys/Slots, 2) / (keys / Slots)
		}
		// 4095 degrees of freedom: a deviation of five sigma either way is no chance.
		if sigma := (chi - (Slots - 1)) / math.Sqrt(2*(Slots-1)); math.Abs(sigma) > 5 {
			t.Errorf("%s: chi square %.0f is %.1f sigma from what chance gives", name, chi, sigma)
		}
	}
}
