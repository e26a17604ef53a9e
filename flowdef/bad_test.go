package flowdef

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = "kistype: func\nfname: F\nfmode: Verify\n"

// badInput are files that no script can hold, or that are too large for one, with the code and part of the
// message of their first mistake; "" if they have none, "any" where it does not matter which.
func badInput() []struct{ name, text, code, message string } {
	rep := strings.Repeat
	aliases := "kistype: func\nfname: F\nfmode: Verify\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n"
	for i := 1; i < 12; i++ {
		aliases += fmt.Sprintf("x%d: &x%d [%s]\n", i, i, strings.TrimSuffix(rep(fmt.Sprintf("*x%d, ", i-1), 10), ", "))
	}
	merges := "kistype: func\nx0: &x0 {a: 1}\n"
	for i := 1; i < 100; i++ {
		merges += fmt.Sprintf("x%d: &x%d {<<: *x%d, a%d: 1}\n", i, i, i-1, i)
	}
	deepAlias := "kistype: func\nx0: &x0 [a]\n"
	for i := 1; i < 70; i++ {
		deepAlias += fmt.Sprintf("x%d: &x%d [*x%d]\n", i, i, i-1)
	}
	indented := "kistype: func\n"
	for i := range 70 {
		indented += rep(" ", i) + "a:\n"
	}
	wideMap := func(n int) string {
		var b strings.Builder
		b.WriteString("kistype: conn\ncname: c\nparams:\n")
		for i := range n {
			fmt.Fprintf(&b, "  k%d: v\n", i)
		}
		return b.String()
	}
	return []struct{ name, text, code, message string }{
		{"byte order mark", "\ufeff" + good, "", ""},
		{"byte order mark before a marker", "\ufeff---\n" + good, "", ""},
		{"windows newlines", strings.ReplaceAll(good+"---\nkistype: conn\ncname: c\n", "\n", "\r\n"), "", ""},
		{"old mac newlines", strings.ReplaceAll(good, "\n", "\r"), "", ""},
		{"no newline at the end", strings.TrimSpace(good), "", ""},
		{"blanks at the ends of lines", strings.ReplaceAll(good, "\n", "  \n") + rep("\n", 500), "", ""},
		{"UTF-16", "\xff\xfek\x00i\x00", codeEncoding, "the file is UTF-16"},
		{"UTF-16, big-endian", "\xfe\xff\x00k", codeEncoding, "the file is UTF-16"},
		{"latin 1", good + "source: {name: caf\xe9}\n", codeEncoding, "4:19: byte 0xE9 is not UTF-8"},
		{"half a character", good + "source: {name: \xe8\xae", codeEncoding, "4:16: byte 0xE8 is not UTF-8"},
		{"zero byte", good + "source: {name: \x00}\n", codeEncoding, "4:16: control character U+0000"},
		{"escape byte", "a: \x1b[31m\n", codeEncoding, "1:4: control character U+001B"},
		{"the character for damage", good + "source: {name: \ufffd}\n", "", ""},
		{"tab in front", "kistype: func\n\tfname: F\n", codeTab, "2:1: a tab indents"},
		{"tab behind blanks", "kistype: func\nsource:\n  \tname: F\n", codeTab, "3:3: a tab indents"},
		{"tab inside of braces", "{kistype: func,\n\tfname: F,\n\tfmode: Verify}\n", "", ""},
		{"file too large", good + rep("# word\n", maxFile/7), codeLimit, "at most 4 MiB"},
		{"one line too large", "kistype: func\nfname: " + rep("a", maxFile), codeLimit, "at most 4 MiB"},
		{"document too large", "kistype: func\nfname: " + rep("a", maxDocument), codeLimit, "1:1: the document has"},
		{"large comments", good + rep("# word\n", maxDocument/14), "", ""},
		{"blank lines in a block", "kistype: func\nfname: |\n  a" + rep("\n", maxBlank+2) + "  b\n", codeLimit, "more than 100 blank lines"},
		{"name too long", "kistype: func\nfmode: Verify\nfname: " + rep("名", 67), codeName, "3:8: fname has 201 bytes"},
		{"scalar as large as a document", "kistype: conn\ncname: c\naddrs: \"" + rep("a", maxDocument-100) + "\"\n", "", ""},
		{"too many documents", rep("---\nkistype: conn\ncname: c\n", maxDocuments+1), codeLimit, "6001:1: the file has more than 2000 documents"},
		{"too many mistakes", "kistype: func\n" + func() string {
			var b strings.Builder
			for i := range 2 * maxMistakes {
				fmt.Fprintf(&b, "z%d: 1\n", i)
			}
			return b.String()
		}(), codeKey, ""},
		{"too many documents with mistakes", rep("---\nkistype: none\n", maxMistakes+10), codeKind, ""},
		{"open brackets", rep("[", 10_000), codeLimit, "1:65: values stand more than 64 deep"},
		{"open braces", rep("{a: ", 5_000), codeLimit, "values stand more than 64 deep"},
		{"closed brackets", rep("[", 65) + rep("]", 65), codeLimit, "values stand more than 64 deep"},
		{"64 brackets", "a: " + rep("[", 62) + rep("]", 62), codeNoKind, ""},
		{"dashes in a line", rep("- ", 9_000), codeLimit, "values stand more than 64 deep"},
		{"question marks", rep("? ", 9_000), codeLimit, "values stand more than 64 deep"},
		{"indented", indented, codeLimit, "values stand more than 64 deep"},
		{"many words", "a: [" + rep("b, ", 11_000) + "]", codeLimit, "more than 20000 words and signs"},
		{"map of 6,000 keys", wideMap(6_000), "", ""},
		{"map of 7,000 keys", wideMap(7_000), codeLimit, "more than 20000 words and signs"},
		{"laughs", aliases, codeLimit, "the document comes to more than 20000 values"},
		{"merged laughs", merges, "any", ""},
		{"deep by aliases", deepAlias, codeLimit, "values stand more than 64 deep"},
		{"anchors in a row", rep("&a ", 6_000), "any", ""},
		{"tags in a row", rep("!a ", 6_000), "any", ""},
		{"aliases in a row", rep("*a ", 6_000), "any", ""},
		{"merges in a row", "a: " + rep("<<: ", 3_000), "any", ""},
		{"colons", rep(": ", 9_000), "any", ""},
		{"open quote", "a: \"" + rep("b\n", 100_000), "any", ""},
		{"backslashes", "a: \"" + rep("\\", 200_000), "any", ""},
		{"quotes", rep("\"", 200_000), "any", ""},
		{"blocks", rep("a: |\n", 6_000), "any", ""},
		{"large block with blank lines", "kistype: conn\ncname: c\naddrs: |\n  " + rep("a", 200_000) + rep("\n", maxBlank) + "type: x\n", "", ""},
		{"blocks with blank lines", "kistype: conn\ncname: c\naddrs: |\n" + rep("  a"+rep("\n", maxBlank), 2_500), "", ""},
		{"markers", rep("---\n", 100_000), codeEmpty, ""},
		{"nothing", "", codeEmpty, ""},
		{"blanks", rep(" ", 100_000), codeEmpty, ""},
		{"newlines", rep("\n", 1_000_000), codeEmpty, ""},
	}
}

// TestBadInput gives each file that is hostile or damaged a clear answer, and none much time.
func TestBadInput(t *testing.T) {
	for _, c := range badInput() {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			set := &Set{}
			got := Parse("f", []byte(c.text), set)
			if took := time.Since(start); took > 20*time.Second { // the slowest takes half a second on a quiet machine
				t.Errorf("took %v", took)
			}
			if len(got) > maxMistakes+1 {
				t.Errorf("%d mistakes, want at most %d", len(got), maxMistakes+1)
			}
			switch {
			case c.code == "any":
				if len(got) == 0 || len(set.Funcs)+len(set.Conns)+len(set.Flows) > 0 {
					t.Errorf("%d mistakes, and %d functions were read", len(got), len(set.Funcs))
				}
			case c.code == "":
				if len(got) > 0 {
					t.Errorf("got %v, want no mistake", got)
				}
				if len(set.Funcs)+len(set.Conns) == 0 {
					t.Error("nothing was read")
				}
			default:
				if len(got) == 0 {
					t.Fatalf("no mistake, want %s", c.code)
				}
				m := got[len(got)-1]
				if c.code != codeKey {
					m = got[0]
				}
				if m.Code != c.code && got[0].Code != c.code || !strings.Contains(m.Error(), c.message) {
					t.Errorf("got %v, want %s %s", m, c.code, c.message)
				}
				if len(m.String()) > 2000 {
					t.Errorf("a mistake of %d bytes", len(m.String()))
				}
			}
		})
	}
}

// TestManyMistakes stops at the limit and says so.
func TestManyMistakes(t *testing.T) {
	got := Parse("f", []byte(strings.Repeat("---\nkistype: none\n", maxMistakes+10)), &Set{})
	if len(got) != maxMistakes+1 || got[maxMistakes].Code != codeTooMany {
		t.Errorf("got %d mistakes, the last %v", len(got), got[len(got)-1])
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLoad reads folders as the original does: all below, in lexical order, two endings only.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	f := func(name string) string { return "kistype: func\nfname: " + name + "\nfmode: Verify\n" }
	write(t, filepath.Join(dir, "b", "x.yml"), f("bx"))
	write(t, filepath.Join(dir, "a.yaml"), "kistype: flow\nflow_name: second\nstatus: 0\nflows: [{fname: bx}]\n---\n"+f("a")+"---\nfoo: bar\n")
	write(t, filepath.Join(dir, "a", "0.yaml"), "kistype: flow\nflow_name: first\nstatus: 0\nflows: [{fname: a}]\n")
	write(t, filepath.Join(dir, "c.YAML"), "not read")
	write(t, filepath.Join(dir, "c.yaml.bak"), "not read")
	write(t, filepath.Join(dir, "c.json"), "not read")
	write(t, filepath.Join(dir, "d.yaml"), "fooo: bar\n")
	if err := os.Mkdir(filepath.Join(dir, "e.yaml"), 0o755); err != nil { // a folder of that name is a folder
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "e.yaml", "in.yaml"), f("in"))
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	set, mistakes := Load(dir, filepath.Join(dir, "a.yaml"), empty, filepath.Join(dir, "missing.yaml"))
	var flows []string
	for _, f := range set.Flows {
		flows = append(flows, f.Name)
	}
	if got := strings.Join(flows, " "); got != "second first" && got != "first second" {
		t.Errorf("flows %s", got)
	}
	if len(set.Funcs) != 3 {
		t.Errorf("read %d functions, want 3", len(set.Funcs))
	}
	var got []string
	for _, m := range mistakes {
		got = append(got, strings.TrimPrefix(strings.ReplaceAll(m.Error(), dir, ""), "/"))
	}
	want := []string{
		"a.yaml:10:1: the document has no kistype [KF1010] (add kistype: func, flow, conn or global)",
		"d.yaml:1:1: the document has no kistype [KF1010] (add kistype: func, flow, conn or global)",
		"empty: warning: the folder holds no definitions [KF1009] (only names that end in .yml or .yaml are read)",
		"missing.yaml: no such file or directory [KF1001]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if again := set.Check(CheckOptions{}); len(again.Errors()) > 0 {
		t.Errorf("a file that is named twice is read twice: %v", again)
	}
}

func TestLoadOrder(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"10.yaml", "9.yaml", "a/1.yaml", "B.yaml", "流.yaml"} {
		write(t, filepath.Join(dir, n), "kistype: flow\nflow_name: "+n+"\nstatus: 0\n")
	}
	set, _ := Load(dir)
	var got []string
	for _, f := range set.Flows {
		got = append(got, f.Name)
	}
	if want := "10.yaml 9.yaml B.yaml a/1.yaml 流.yaml"; strings.Join(got, " ") != want {
		t.Errorf("read %s, want %s", strings.Join(got, " "), want)
	}
}

func TestLoadWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "gone.yaml")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), link); err != nil {
		t.Fatal(err)
	}
	if _, mistakes := Load(dir); len(mistakes.Errors()) != 1 || mistakes[0].Code != codeFile {
		t.Errorf("a dangling link: %v", mistakes)
	}
	if _, mistakes := Load("/dev/null"); len(mistakes.Errors()) != 1 || mistakes[0].Code != codeFile {
		t.Errorf("a device: %v", mistakes)
	}
	if _, mistakes := Load(""); len(mistakes.Errors()) != 1 {
		t.Errorf("an empty path: %v", mistakes)
	}
}

func TestErr(t *testing.T) {
	warning := NewMistake(Pos{File: "f", Line: 1, Column: 1}, codeNoStatus, "w", "")
	wrong := NewMistake(Pos{File: "f", Line: 2, Column: 3}, codeKey, "e", "h")
	if err := (Mistakes{warning}).Err(); err != nil {
		t.Errorf("warnings alone are an error: %v", err)
	}
	err := Mistakes{warning, wrong}.Err()
	if err == nil || err.Error() != "f:2:3: e [KF1012] (h)" {
		t.Errorf("got %v", err)
	}
	var m Mistake
	if !errors.As(err, &m) || m.Code != codeKey {
		t.Errorf("the mistake is not in the error: %v", err)
	}
	if n := len((Mistakes{warning, wrong}).Warnings()); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// TestMark puts the mark under its character, however wide the characters before it are.
func TestMark(t *testing.T) {
	set := &Set{}
	long := "kistype: conn\ncname: c\nparams: {" + strings.Repeat("名: 值, ", 100) + "x: [1]" + strings.Repeat(", 名0: 值", 100) + "}\n"
	for _, m := range Parse("f", []byte(long), set) {
		if m.Code != codeType {
			continue
		}
		lines := strings.Split(m.String(), "\n")
		if len(lines) != 3 || len([]rune(lines[1])) != 4+maxLine {
			t.Fatalf("got %q", m.String())
		}
		cells := 0
		for _, r := range lines[1] {
			if r == '[' {
				break
			}
			cells++
			if wide(r) {
				cells++
			}
		}
		if mark := strings.Index(lines[2], "^"); mark != cells {
			t.Errorf("the mark is in cell %d, the place in %d:\n%s", mark, cells, m)
		}
		return
	}
	t.Error("no mistake of type")
}
