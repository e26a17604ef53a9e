package flowdef

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestEditSteps runs testdata/edit/*.txt: "-- flow --" is a flow's text, and each file behind it is an edit of it, by its
// name, and what comes out.
func TestEditSteps(t *testing.T) {
	scripts, err := filepath.Glob("testdata/edit/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text, rewritten := "", false
		for i, f := range archive.Files {
			if f.Name == "flow" {
				text = string(f.Data)
				continue
			}
			got, err := EditSteps(text, editOf(t, f.Name))
			if err != nil {
				got = err.Error() + "\n"
			}
			if got == string(f.Data) {
				continue
			}
			if *rewrite {
				archive.Files[i].Data, rewritten = []byte(got), true
				continue
			}
			t.Errorf("%s: %s:\n%s", path, f.Name, strings.Join(unified(split(string(f.Data)), split(got)), "\n"))
		}
		if rewritten {
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// editOf reads an edit: insert FUNCTION before=STEP as=NAME param.K=V.
func editOf(t *testing.T, line string) Edit {
	t.Helper()
	words := strings.Fields(line)
	e := Edit{Kind: EditKind(words[0])}
	for _, w := range words[1:] {
		k, v, ok := strings.Cut(w, "=")
		v = strings.ReplaceAll(v, "_", " ")
		param, isParam := strings.CutPrefix(k, "param.")
		switch {
		case !ok && e.Kind == Insert:
			e.Function = w
		case !ok:
			e.Step = w
		case k == "fname":
			e.Function = v
		case k == "as":
			e.As = v
		case k == "before":
			e.Before = v
		case k == "after":
			e.After = v
		case k == "at":
			e.At, _ = strconv.Atoi(v)
		case isParam:
			if e.Params == nil {
				e.Params = map[string]string{}
			}
			e.Params[param] = v
		default:
			t.Fatalf("%s: %s", line, w)
		}
	}
	return e
}

// FuzzEditSteps: whatever the text, an edit either says that it cannot be done or does just that.
func FuzzEditSteps(f *testing.F) {
	scripts, _ := filepath.Glob("testdata/edit/*.txt")
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "flow" {
				f.Add(string(file.Data), "A", "New", uint8(0), 1)
				f.Add(string(file.Data), "B", "b c: #", uint8(1), 2)
				f.Add(string(file.Data), "C", "true", uint8(2), 3)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text, step, name string, kind uint8, at int) {
		e := Edit{Kind: []EditKind{Insert, Remove, Replace}[kind%3], Step: step, Function: name, At: at, Params: map[string]string{"k": step}}
		before, err := newSheet(text)
		if err != nil {
			return
		}
		got, err := EditSteps(text, e)
		if err != nil {
			return
		}
		after, err := newSheet(got)
		if err != nil {
			t.Fatalf("%v\n%s\nbecame\n%s", err, text, got)
		}
		want := len(before.flow.Steps) + map[EditKind]int{Insert: 1, Remove: -1}[e.Kind]
		if len(after.flow.Steps) != want || after.rest() != before.rest() {
			t.Errorf("%d steps, want %d:\n%s\nbecame\n%s", len(after.flow.Steps), want, text, got)
		}
	})
}
