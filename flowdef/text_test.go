package flowdef

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestTextAt looks up every byte of texts in all writings: the place must hold the very character, or the
// escape, blank or line break that makes it.
func TestTextAt(t *testing.T) {
	cases := []struct {
		name, yaml string // the value of addrs
		value      string
		escapes    bool // places hold escapes: only the plain characters are compared
	}{
		{"plain", "row.a + 订单 - b", "row.a + 订单 - b", false},
		{"plain with a comment", "row.a # not", "row.a", false},
		{"plain, blanks behind", "aa aa   ", "aa aa", false},
		{"plain over lines", "row.a\n    + row.b\n\n    + c", "row.a + row.b\n+ c", false},
		{"single", "'max(a, \"b\")'", `max(a, "b")`, false},
		{"single with quotes", "'it''s ''x'''", "it's 'x'", false},
		{"single over lines", "'a b\n    c\n\n    d'", "a b c\nd", false},
		{"double", `"a \"b\" \\ c\td"`, "a \"b\" \\ c\td", true},
		{"double with numbers", `"\x41\u8ba2\U0001F600 é z"`, "A订😀 é z", true},
		{"double over lines", "\"a b\n    c\\\n    d\\n  e\"", "a b cd\n  e", true},
		{"literal", "|\n    row.a +\n      row.b\n\n    + 订", "row.a +\n  row.b\n\n+ 订\n", false},
		{"literal, stripped", "|-\n    a\n    b", "a\nb", false},
		{"literal, kept", "|+\n    a\n\n", "a\n\n\n", false},
		{"literal, blank lines first", "|\n\n    a", "\na\n", false},
		{"folded", ">\n    a\n    b\n\n    c", "a b\nc\n", false},
		{"folded, stripped", ">-\n    a\n    b", "a b", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := "kistype: conn\ncname: c\nx:\n  - {deep: " + "}\n" // an unknown key: the file's lines count all the same
			text += "params:\n  中文: " + c.yaml + "\n"
			src, fault := newSource("f", []byte(text))
			if fault != nil {
				t.Fatal(fault)
			}
			var mistakes Mistakes
			root := readDocument(src, src.documents()[0], &mistakes)
			if root == nil {
				t.Fatal(mistakes)
			}
			got := root.fields[3].val.fields[0].val.asText()
			if got.Value != c.value {
				t.Fatalf("read %q, want %q", got.Value, c.value)
			}
			if first := got.At(0); first != got.Pos {
				t.Errorf("At(0) is %v, Pos %v", first, got.Pos)
			}
			last := Pos{}
			for i, r := range got.Value {
				p := got.At(i)
				if p.Line < last.Line || p.Line == last.Line && p.Column < last.Column {
					t.Errorf("byte %d is at %v, before %v", i, p, last)
				}
				last = p
				at := []rune(src.line(p.Line) + "\n")
				if p.Column > len(at) {
					t.Errorf("byte %d is at %v, beyond its line", i, p)
					continue
				}
				here := at[p.Column-1]
				switch {
				case here == r, r == ' ' && here == '\n', r == '\n' && here == '\n':
				case c.escapes && (here == '\\' || r == ' ' || r == '\n'):
				case r == '\n' && i == 0: // blank lines before a block's text
				default:
					t.Errorf("byte %d, %q, is at %v, where %q stands", i, r, p, here)
				}
				for n := 1; n < utf8.RuneLen(r); n++ {
					if q := got.At(i + n); q != p {
						t.Errorf("byte %d of %q is at %v, the character at %v", n, r, q, p)
					}
				}
			}
			if end := got.At(len(got.Value)); end.Line < last.Line {
				t.Errorf("the end is at %v, before %v", end, last)
			}
			if beyond := got.At(len(got.Value) + 100); beyond != got.At(len(got.Value)) {
				t.Errorf("beyond the end is %v", beyond)
			}
		})
	}
}

// TestTextAtLong finds places in texts as long as a document may be, without going over blanks again and again.
func TestTextAtLong(t *testing.T) {
	for name, value := range map[string]string{
		"plain": "a" + strings.Repeat(" ", 200_000) + "b", "single": "'" + strings.Repeat("a ", 50_000) + strings.Repeat(" ", 100_000) + "b'",
		"double": `"` + strings.Repeat(` \x41`, 30_000) + `"`, "literal": "|-\n  " + strings.Repeat("a ", 100_000) + "b",
	} {
		src, fault := newSource("f", []byte("x: "+value+"\n"))
		if fault != nil {
			t.Fatal(fault)
		}
		var mistakes Mistakes
		root := readDocument(src, src.documents()[0], &mistakes)
		if root == nil {
			t.Fatal(mistakes)
		}
		text := root.fields[0].val.asText()
		start := time.Now()
		last := text.At(len(text.Value) - 1)
		if r := []rune(src.line(last.Line)); last.Column > len(r) || !strings.ContainsRune("bA\\", r[last.Column-1]) {
			t.Errorf("%s: the last character is at %v", name, last)
		}
		if took := time.Since(start); took > 5*time.Second { // some milliseconds on a quiet machine
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestTextWithoutFile(t *testing.T) {
	text := Text{Value: "订单 b", Pos: Pos{File: "f", Line: 3, Column: 5}}
	if got := text.At(7); got.Line != 3 || got.Column != 8 {
		t.Errorf("got %v, want f:3:8", got)
	}
	if got := (Text{}).At(3); got != (Pos{}) {
		t.Errorf("got %v", got)
	}
}

func TestDurations(t *testing.T) {
	good := map[string]string{"0": "0s", "0s": "0s", "5ms": "5ms", "30s": "30s", "90m": "1h30m0s", "12h": "12h0m0s", "7d": "168h0m0s", "1w": "168h0m0s", "1d12h30m5s7ms": "36h30m5.007s", "106751d": "2562024h0m0s"}
	for in, want := range good {
		if got, err := parseDuration(in); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1s", "1", "s", "1x", "1.5h", "1h30", " 1s", "1s ", "106752d", "9999999999999999999s", "200000000w", "1 d", "一天", "1µs"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%q is read as %v", in, got)
		}
	}
}

func TestSizes(t *testing.T) {
	good := map[string]int64{"0": 0, "4096": 4096, "5B": 5, "1KiB": 1024, "1kib": 1024, "10 GiB": 10 << 30, "64MB": 64e6, "8388607TiB": 8388607 << 40}
	for in, want := range good {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "GiB", "-1", "1.5GiB", "10G", "1 2", "8388608TiB", "99999999999999999999", "1GiBB"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("%q is read as %v", in, got)
		}
	}
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		out, in string
		want    overlap
	}{
		{"a.b", "a.b", always}, {"a.b", "a.c", never}, {"a.b", "a", never}, {"a", "a.b", never}, {"a", "a.>", never},
		{"a.b", "a.>", always}, {"a.b.c", "a.>", always}, {"a.b", ">", always}, {"a", ">", always}, {"a.b", "a.*", always},
		{"a.b.c", "a.*", never}, {"a.b", "*.b", always}, {"a.b", "*.*.>", never},
		{"a.{x}", "a.*", always}, {"a.{x}", "a.>", always}, {"a.{x}", "a.b", maybe}, {"a.{x}", "b.c", never}, {"a.{x}.c", "a.b.c", maybe},
		{"a.u-{x}", "a.u-5", maybe}, {"a.u-{x}", "a.v-5", never}, {"a.u-{x}-z", "a.u-z", never}, {"a.{x.y}", "a.b", maybe}, {"a.{x}{y}", "a.b", maybe},
	} {
		if got := overlaps(subjectWords(c.out), subjectWords(c.in)); got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.out, c.in, got, c.want)
		}
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a.b", false}, {"a.>", "a", false}, {"a.>", "a.b.c", true}, {"a.*", "a.b", true}, {"a.*", "a.b.c", false},
		{"a.*.c", "a.b.*", true}, {"*.b", "a.*", true}, {"*.b", "a.c", false}, {"a.>", "*.b", true}, {"a.b.>", "a.*", false}, {"a.>", "b.>", false}, {"a.*.>", "a.b.c", true},
	} {
		if got := intersect(c.a, c.b); got != c.want || intersect(c.b, c.a) != c.want {
			t.Errorf("%s and %s: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestUsesNames(t *testing.T) {
	for expr, want := range map[string]int{
		"row": 0, "row.a": 0, "1 + row": 4, "rows": -1, "arow": -1, "x.row": -1, "x. row": -1, "'row'": -1, `"\"row"`: -1,
		"`row\\`row": 6, "params.row + state.x": 13, "[1..row]": 4, "行row": -1, "'": -1, `"\`: -1, "row.row": 0, "(row)": 1, "#.row": -1,
	} {
		if got, _ := usesNames(expr, "row", "state"); got != want {
			t.Errorf("%s: %d, want %d", expr, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"fname", "fmode", "source", "option", "on_error", "测试函数", "a"}
	for in, want := range map[string]string{
		"fnmae": "fname", "FNAME": "fname", "sorce": "source", "soruce": "source", "测试涵数": "测试函数", "zzz": "", "": "", "b": "a", "onerror": "on_error",
		strings.Repeat("x", 1000): "",
	} {
		if got := nearest(in, known); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
