package flowdef

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse holds what must be true of any file: no panic, no long work, places inside of the file, no
// definition without its text, and an export that gives the same definitions.
func FuzzParse(f *testing.F) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name != "mistakes" && file.Name != "set" {
				f.Add(file.Data)
			}
		}
	}
	examples, err := filepath.Glob("../examples/*/*.y*ml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range examples {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, c := range badInput() {
		if len(c.text) < 10_000 {
			f.Add([]byte(c.text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		start := time.Now()
		set := &Set{}
		mistakes := Parse("f", text, set)
		mistakes = append(mistakes, set.Check(CheckOptions{})...)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%d bytes took %v", len(text), took)
		}
		lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n"), "\r", "\n"), "\n")
		for _, m := range mistakes {
			if m.Code == "" || m.Message == "" || severityOf(m.Code) == Warning && m.Severity == Error && m.Code != codeNoBody {
				t.Errorf("%+v", m)
			}
			if m.Pos.Line > len(lines) || m.Pos.Line < 0 {
				t.Errorf("%v: the file has %d lines", m, len(lines))
			} else if m.Pos.Line > 0 && m.Column > utf8.RuneCountInString(lines[m.Pos.Line-1])+1 {
				t.Errorf("%v: the line has %d characters", m, utf8.RuneCountInString(lines[m.Pos.Line-1]))
			}
			_ = m.String()
		}
		again := &Set{}
		more := Parse("again", set.Export(), again)
		if len(mistakes.Errors()) == 0 && len(more.Errors()) > 0 {
			t.Errorf("exported without a mistake, read with %v\n%s", more, set.Export())
		}
		if d := Diff(set, again); len(d) > 0 {
			t.Errorf("export and parse changed %v", d)
		}
		for _, d := range set.Definitions() {
			if d.Name == "" || d.Text == "" {
				t.Errorf("a definition without name or text: %+v", d)
			}
		}
	})
}

// FuzzTextAt follows any text of a file: no panic, and places in order.
func FuzzTextAt(f *testing.F) {
	for _, s := range []string{"plain", "'single''s'", `"dou\x41ble\
   x"`, "|\n   a\n  b", ">-\n  a\n\n  b", "|2+\n    a\n\n", "a # b", "&x y", "!!str y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		src, fault := newSource("f", []byte("x: "+s+"\n"))
		if fault != nil {
			return
		}
		docs := src.documents()
		if len(docs) != 1 {
			return
		}
		var mistakes Mistakes
		root := readDocument(src, docs[0], &mistakes)
		if root == nil || root.kind != mapNode || len(root.fields) == 0 || root.fields[0].val.kind != scalarNode {
			return
		}
		text := root.fields[0].val.asText()
		last := text.Pos
		for i := range min(len(text.Value), 100) {
			p := text.At(i)
			if p.Line < last.Line || p.Line == last.Line && p.Column < last.Column || p.Line > len(src.lines) {
				t.Fatalf("%q: byte %d is at %v, before %v", text.Value, i, p, last)
			}
			last = p
		}
	})
}
