package flowdef

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const scriptInFile = `kistype: func
fname: F
fmode: Calculate
source: {must: [k]}
script:
  file: js/f.js   # beside it
  timeout: 2s
`

// TestScriptIsTakenIn reads a script's file with its definition, whose text is whole from then on.
func TestScriptIsTakenIn(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "js"), 0o755); err != nil {
		t.Fatal(err)
	}
	const source = "\n// first\nfunction handle(row) {\n\n\treturn  row\n}\n  // last\n"
	for _, c := range []struct{ name, definition string }{
		{"lines", scriptInFile},
		{"indented", strings.ReplaceAll("  "+strings.TrimSuffix(scriptInFile, "\n"), "\n", "\n  ") + "\n"},
		{"braces", "{kistype: func, fname: F, fmode: Calculate, source: {must: [k]},\n script: {file: js/f.js, timeout: 2s}}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write := func(name, text string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("f.yaml", c.definition)
			write("js/f.js", source)
			load := func() *Set {
				set, mistakes := Load(dir)
				if err := mistakes.Errors().Err(); err != nil {
					t.Fatal(err)
				}
				return set
			}
			first := load()
			s := first.Funcs["F"].Script
			if got := s.Source(); got != source {
				t.Errorf("source %q, want %q", got, source)
			}
			at := s.At(strings.Index(source, "return"))
			if want := filepath.Join(dir, "js/f.js") + ":5:2"; at.String() != want {
				t.Errorf("return is at %s, want %s", at, want)
			}

			again := new(Set)
			if err := Parse("catalog", []byte(first.Funcs["F"].Text), again).Errors().Err(); err != nil {
				t.Fatalf("%v\n%s", err, first.Funcs["F"].Text)
			}
			s = again.Funcs["F"].Script
			if got := s.Source(); strings.TrimRight(got, "\n") != strings.TrimRight(source, "\n") {
				t.Errorf("from its text: source %q, want %q", got, source)
			}
			if again.Funcs["F"].Text != first.Funcs["F"].Text {
				t.Errorf("its text is another one when read again:\n%s", again.Funcs["F"].Text)
			}
			if p := s.At(strings.Index(s.Source(), "return")); p.Line < 7 && c.name != "braces" {
				t.Errorf("return is at %s of the taken text", p)
			}
			if d := Diff(first, again); len(d) != 0 {
				t.Errorf("changes: %v", d)
			}

			write("js/f.js", strings.Replace(source, "return  row", "return true", 1))
			changes := Diff(first, load())
			if len(changes) != 1 || changes[0].Change != "changed" {
				t.Fatalf("changes: %v", changes)
			}
			if text := changes[0].String(); c.name == "lines" && (!strings.Contains(text, "-  \treturn  row") || !strings.Contains(text, "+  \treturn true")) {
				t.Errorf("the change does not show the line:\n%s", text)
			}
		})
	}
}

func TestScriptFiles(t *testing.T) {
	text := scriptInFile + "---\n" + strings.Replace(scriptInFile, "F", "G", 1) + "---\n" + strings.Replace(scriptInFile, "js/f", "h", 1)
	if got := ScriptFiles("flow.yaml", []byte(text)); !slices.Equal(got, []string{"js/f.js", "h.js"}) {
		t.Errorf("files %q", got)
	}
}

func TestScriptFileFaults(t *testing.T) {
	for _, c := range []struct {
		text []byte
		err  error
		want string
	}{
		{nil, errors.New("permission denied"), `script file "js/f.js": permission denied`},
		{[]byte(" \n"), nil, "the script is empty"},
		{[]byte("a\xff"), nil, "byte 0xFF is not UTF-8"},
		{[]byte("a\x00"), nil, "control character U+0000"},
		{[]byte(strings.Repeat("x", maxScript+1)), nil, "more than 192 KiB"},
		{[]byte(strings.Repeat("\n", 200) + "x"), nil, "cannot be taken into the definition"},
	} {
		set := new(Set)
		mistakes := ParseWith("f.yaml", []byte(scriptInFile), set, func(string) ([]byte, error) { return c.text, c.err })
		if len(mistakes) != 1 || !strings.Contains(mistakes[0].Message, c.want) {
			t.Errorf("got %v, want %s", mistakes, c.want)
		}
	}
}
