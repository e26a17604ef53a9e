package flowdef

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var rewrite = flag.Bool("rewrite", false, "write what came out into testdata and docs/reference; read the diff")

// TestScripts runs testdata/*.txt. A script is a story, then files; "-- mistakes --" holds what Parse of all of
// them and Check must say, "-- set --" what they must have been read as. The story's last line may be
// "go: NAME, NAME" (known Go functions) or "must-run".
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			script(t, path)
		})
	}
}

func script(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set, mistakes := runScript(archive)
	for i, f := range archive.Files {
		got := ""
		switch f.Name {
		case "mistakes":
			got = mistakes.String()
		case "set":
			got = dump(set)
		default:
			continue
		}
		if got == string(f.Data) {
			continue
		}
		if *rewrite {
			archive.Files[i].Data = []byte(got)
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("%s:\n%s", f.Name, strings.Join(unified(split(string(f.Data)), split(got)), "\n"))
	}
}

// runScript reads the files of a script, in their order, and checks them.
func runScript(archive *txtar.Archive) (*Set, Mistakes) {
	opts := CheckOptions{}
	for _, l := range strings.Split(string(archive.Comment), "\n") {
		if names, ok := strings.CutPrefix(l, "go: "); ok {
			opts.GoFunctions = map[string]bool{}
			for _, n := range strings.Split(names, ",") {
				opts.GoFunctions[strings.TrimSpace(n)] = true
			}
		}
		opts.MustRun = opts.MustRun || l == "must-run"
	}
	set := &Set{}
	var mistakes Mistakes
	for _, f := range archive.Files {
		if f.Name == "mistakes" || f.Name == "set" || strings.HasSuffix(f.Name, ".js") {
			continue
		}
		mistakes = append(mistakes, ParseWith(f.Name, f.Data, set, func(path string) ([]byte, error) {
			for _, o := range archive.Files {
				if o.Name == path {
					return o.Data, nil
				}
			}
			return nil, fs.ErrNotExist
		})...)
	}
	mistakes = append(mistakes, set.Check(opts)...)
	mistakes.Sort()
	return set, mistakes
}

// dump writes everything that a set holds and that is not the zero value.
func dump(s *Set) string {
	var b strings.Builder
	for _, f := range s.Flows {
		b.WriteString("flow\n")
		dumpValue(&b, "  ", reflect.ValueOf(*f))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Funcs)) {
		b.WriteString("func\n")
		dumpValue(&b, "  ", reflect.ValueOf(*s.Funcs[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Conns)) {
		b.WriteString("conn\n")
		dumpValue(&b, "  ", reflect.ValueOf(*s.Conns[name]))
	}
	if s.Global != nil {
		b.WriteString("global\n")
		dumpValue(&b, "  ", reflect.ValueOf(*s.Global))
	}
	return b.String()
}

func dumpValue(b *strings.Builder, indent string, v reflect.Value) {
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if name == "Source" && f.Kind() == reflect.String || v.Type().Field(i).PkgPath != "" || f.IsZero() {
			continue
		}
		if name == "Text" { // the document as written has tests of its own
			continue
		}
		dumpField(b, indent, name, f)
	}
}

func dumpField(b *strings.Builder, indent, name string, f reflect.Value) {
	if f.Kind() == reflect.Pointer {
		f = f.Elem()
	}
	switch x := f.Interface().(type) {
	case Text:
		fmt.Fprintf(b, "%s%s: %q at %d:%d\n", indent, name, x.Value, x.Pos.Line, x.Pos.Column)
		return
	case Pos:
		fmt.Fprintf(b, "%sat %v\n", indent, x)
		return
	case map[string]Pos:
		for _, k := range slices.Sorted(maps.Keys(x)) {
			fmt.Fprintf(b, "%s%s[%s]: %v\n", indent, name, k, x[k])
		}
		return
	case time.Duration:
		fmt.Fprintf(b, "%s%s: %v\n", indent, name, x)
		return
	}
	switch f.Kind() {
	case reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		dumpValue(b, indent+"  ", f)
	case reflect.Slice:
		for i := range f.Len() {
			dumpField(b, indent, fmt.Sprintf("%s[%d]", name, i), f.Index(i))
		}
	case reflect.Map:
		for _, k := range slices.SortedFunc(maps.Keys(f.Interface().(map[string]string)), strings.Compare) {
			fmt.Fprintf(b, "%s%s[%s]: %q\n", indent, name, k, f.Interface().(map[string]string)[k])
		}
	case reflect.String:
		fmt.Fprintf(b, "%s%s: %q\n", indent, name, f.String())
	default:
		fmt.Fprintf(b, "%s%s: %v\n", indent, name, f.Interface())
	}
}
