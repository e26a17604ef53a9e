// Package archtest holds the tree to its own rules: who may import whom, and what no package does. The rules
// are those of the house style; they are written down here once more, as tables that a machine reads.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kisflow/kisflow"

// floor says what a folder may import of ours, itself and its subfolders' common rules aside.
type floor struct {
	level   int
	imports []string // folders; nil: none
}

// floors is the import table. "below" stands for every folder of a lower level.
var floors = map[string]floor{
	"cmd":        {7, []string{"node", "api", "flowdef"}},
	"node":       {6, []string{"below"}},
	"console":    {5, []string{"api", "jobs", "flowdef", "proto"}},
	"api":        {5, []string{"jobs", "flowdef", "proto"}},
	"jobs":       {4, []string{"actors", "transport", "proto"}},
	"actors":     {3, []string{"kis", "state", "transport", "proto"}},
	"functions":  {2, []string{"kis"}},
	"connectors": {2, []string{"kis"}},
	"transport":  {2, []string{"proto"}},
	"state":      {2, []string{"proto"}},
	"kis":        {1, nil},
	"flowdef":    {1, nil},
	"proto":      {1, nil},
}

// outside are the folders of main programs and tests that put the product to work. They import anything,
// and nothing imports them.
var outside = []string{"bench", "test", "examples"}

// lent are packages of theirs that a folder may import even so: what they hold is work that a program of ours
// offers to do. They import nothing of ours.
var lent = map[string]string{"bench/nexmark": "cmd"} // queries and events, for kisctl bench nexmark

// answers are the subfolders that answer a port: node, outside and tests import them, and no one else.
var answers = []string{"state/pebble", "state/memory", "transport/nats", "transport/memory"}

// forTests are the packages that only tests import, and what each may import beside its own folder's rules.
// "below:4" stands for every folder of a level below 4.
var forTests = map[string][]string{
	"kis/kistest":             {"below:4", "node"}, // whole flows are put together by node
	"state/statetest":         nil,
	"transport/transporttest": nil,
	"api/apitest":             nil,
}

// core are the files that only compute: no clock, no goroutine, no random numbers of the process. The
// simulation runs them, and a seed must repeat a run.
var core = []string{
	"actors/apply.go", "actors/instance.go", "actors/keys.go", "actors/outbox.go", "actors/partition*.go", "actors/pending.go",
	"actors/plan.go", "actors/query.go", "actors/recover.go", "actors/settle.go", "actors/snapshot*.go",
	"actors/eventtime.go", "actors/watermark.go", "actors/timers.go", "actors/many.go", "actors/passes.go", "actors/trial.go",
	"functions/*.go", "kis/*.go",
}

// forbiddenNames say nothing of what a package does.
var forbiddenNames = []string{"util", "utils", "common", "types", "helpers", "misc", "base"}

// file is one Go file of the tree.
type file struct {
	path    string // from the root, with slashes
	test    bool
	ast     *ast.File
	imports []string // of ours, from the root: "state/pebble"
}

func (f file) dir() string { return path.Dir(f.path) }

// root is the folder with our go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module "+module+"\n") {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod of " + module + " above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
}

func parse(fset *token.FileSet, name, source string, body any) (file, error) {
	tree, err := parser.ParseFile(fset, source, body, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	f := file{path: name, test: strings.HasSuffix(name, "_test.go"), ast: tree}
	for _, s := range tree.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return file{}, err
		}
		if p == module {
			f.imports = append(f.imports, ".")
		} else if of, ok := strings.CutPrefix(p, module+"/"); ok {
			f.imports = append(f.imports, of)
		}
	}
	return f, nil
}

// files parses all Go files of the tree, whatever their build tags.
func files(t *testing.T, fset *token.FileSet) []file {
	t.Helper()
	dir := root(t)
	var all []file
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != dir && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, err := parse(fset, filepath.ToSlash(rel), p, nil)
		if err != nil {
			t.Error(err) // and on with the others
			return nil
		}
		all = append(all, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found %d Go files; this test looks at the wrong tree", len(all))
	}
	return all
}

func folder(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	return first
}

func isAnswer(dir string) bool {
	return slices.ContainsFunc(answers, func(a string) bool { return within(dir, a) }) ||
		strings.HasPrefix(dir, "connectors/")
}

func within(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

func testPackage(dir string) (name string, ok bool) {
	for p := range forTests {
		if within(dir, p) {
			return p, true
		}
	}
	return "", false
}

// refuse says why a file of one folder must not import another one of ours; "" if it may.
func refuse(from string, test bool, to string) string {
	mine, theirs := folder(from), folder(to)
	if to == "." {
		return "no Go file stands in the root"
	}
	if theirs == "internal" {
		return ""
	}
	if slices.Contains(outside, theirs) {
		if mine == theirs || lent[to] == mine {
			return ""
		}
		return "nothing imports " + theirs + "/"
	}
	if _, ok := lent[from]; ok && !test {
		return from + " is lent to programs, and imports nothing of ours"
	}
	if slices.Contains(outside, mine) {
		return ""
	}
	if mine == "internal" {
		return "internal/ helps every floor and knows none"
	}
	me, ok := floors[mine]
	if !ok {
		return fmt.Sprintf("the folder %s/ has no place in the import table", mine)
	}
	them, ok := floors[theirs]
	if !ok {
		return fmt.Sprintf("the folder %s/ has no place in the import table", theirs)
	}
	if test {
		// A test puts its package together with what is below it, and with any answer.
		if mine != theirs && them.level > me.level && !isAnswer(to) {
			return fmt.Sprintf("imports point down, tests' too: %s is on floor %d, %s on floor %d", mine, me.level, theirs, them.level)
		}
		return ""
	}
	if tp, ok := testPackage(to); ok && !within(from, tp) {
		return "only tests import " + tp
	}
	if tp, ok := testPackage(from); ok {
		for _, may := range forTests[tp] {
			if level, ok := strings.CutPrefix(may, "below:"); ok {
				if n, _ := strconv.Atoi(level); them.level < n && !isAnswer(to) {
					return ""
				}
			} else if within(to, may) {
				return ""
			}
		}
	}
	if mine == theirs {
		// A port does not know its answers, nor one answer another.
		if isAnswer(to) && mine != "connectors" && !within(from, to) {
			return "only node, bench and tests import " + to
		}
		return ""
	}
	if isAnswer(to) && mine != "node" {
		return "only node, bench and tests import " + to
	}
	for _, may := range me.imports {
		if may == theirs || may == "below" && them.level < me.level {
			return ""
		}
	}
	return fmt.Sprintf("%s/ imports of ours only %s", mine, allowed(me))
}

func allowed(f floor) string {
	if len(f.imports) == 0 {
		return "internal/"
	}
	return strings.Join(f.imports, ", ") + " and internal/"
}

func TestImports(t *testing.T) {
	for _, f := range files(t, token.NewFileSet()) {
		for _, to := range f.imports {
			if why := refuse(f.dir(), f.test, to); why != "" {
				t.Errorf("%s imports %s: %s", f.path, to, why)
			}
		}
	}
}

// TestRefuse is the table's own test: what it allows, and what it must not.
func TestRefuse(t *testing.T) {
	for _, c := range []struct {
		from string
		test bool
		to   string
		ok   bool
	}{
		{"cmd/kisnode", false, "node", true},
		{"cmd/kisctl", false, "actors", false},
		{"node", false, "actors", true},
		{"node", false, "state/pebble", true},
		{"node", false, "cmd/kisnode", false},
		{"node", false, "bench/load", false},
		{"cmd/kisctl", false, "bench/load", false},
		{"cmd/kisctl", false, "bench/nexmark", true},
		{"node", false, "bench/nexmark", false},
		{"bench/nexmark", false, "kis", false},
		{"bench/nexmark", true, "node", true},
		{"node", false, "kis/kistest", false},
		{"node", true, "kis/kistest", true},
		{"api", false, "node", false},
		{"api", false, "actors", false},
		{"jobs", false, "actors", true},
		{"actors", false, "state", true},
		{"actors", false, "state/memory", false},
		{"actors", true, "state/memory", true},
		{"actors", true, "functions", true},
		{"actors", true, "node", false},
		{"actors", false, "functions", false},
		{"actors", false, "flowdef", false},
		{"actors", false, "internal/key", true},
		{"functions", false, "kis", true},
		{"functions", false, "proto", false},
		{"functions/script", false, "functions", true},
		{"connectors/redis", false, "connectors", true},
		{"state", false, "state/pebble", false},
		{"state/pebble", false, "state", true},
		{"state/pebble", false, "state/memory", false},
		{"state/pebble", false, "proto", true},
		{"state/pebble", false, "kis", false},
		{"state/pebble", true, "state/statetest", true},
		{"state/pebble", false, "state/statetest", false},
		{"state/statetest", false, "state", true},
		{"kis", false, "proto", false},
		{"kis", false, "kis/kistest", false},
		{"kis/kistest", false, "actors", true},
		{"kis/kistest", false, "flowdef", true},
		{"kis/kistest", false, "transport/memory", false},
		{"kis/kistest", false, "transport/nats", false},
		{"kis/kistest", false, "node", true},
		{"kis/kistest", false, "api", false},
		{"flowdef", false, "kis", false},
		{"proto", false, "kis", false},
		{"internal/archtest", false, "kis", false},
		{"bench/kisbench", false, "state/pebble", true},
		{"bench/kisbench", false, "bench/load", true},
		{"examples/orders/demo", false, "examples/orders/orders", true},
		{"novel", false, "kis", false},
	} {
		if why := refuse(c.from, c.test, c.to); (why == "") != c.ok {
			t.Errorf("%s (test: %v) imports %s: %q; allowed should be %v", c.from, c.test, c.to, why, c.ok)
		}
	}
}

func generated(f file) bool { return ast.IsGenerated(f.ast) }

// breaches returns what a file does that no file does.
func breaches(fset *token.FileSet, f file) []string {
	var bad []string
	say := func(n ast.Node, format string, args ...any) {
		p := fset.Position(n.Pos())
		bad = append(bad, fmt.Sprintf("%s:%d: ", f.path, p.Line)+fmt.Sprintf(format, args...))
	}
	// A file that only pins modules while the code that needs them is being written has no package of ours.
	if !strings.Contains(f.path, "/") && !strings.HasSuffix(f.path, "_tmp.go") {
		say(f.ast, "no Go file stands in the root")
	}
	name := strings.TrimSuffix(f.ast.Name.Name, "_test")
	if slices.Contains(forbiddenNames, name) {
		say(f.ast.Name, "a package called %s says nothing of what it does", name)
	}
	if generated(f) {
		return bad
	}
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !f.test {
			say(fn, "nothing registers itself in init")
		}
	}
	if f.test || !isCore(f.path) {
		return bad
	}
	locals := map[string]string{} // a name in this file and the package that it stands for
	for _, s := range f.ast.Imports {
		p, _ := strconv.Unquote(s.Path.Value)
		switch p {
		case "time", "math/rand", "math/rand/v2", "crypto/rand":
			local := path.Base(p)
			if p == "math/rand/v2" {
				local = "rand"
			}
			if s.Name != nil {
				local = s.Name.Name
			}
			locals[local] = p
			if p == "crypto/rand" {
				say(s, "the engine's core takes no random numbers: a seed must repeat a run")
			}
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n, "the engine's core starts no goroutine")
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				break
			}
			switch p := locals[x.Name]; {
			case p == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}, n.Sel.Name):
				say(n, "the engine's core takes time from messages, not by time.%s", n.Sel.Name)
			case strings.HasPrefix(p, "math/rand") && !slices.Contains([]string{"New", "NewPCG", "NewSource", "NewChaCha8", "NewZipf", "Rand", "PCG", "Source", "Zipf", "ChaCha8"}, n.Sel.Name):
				say(n, "the engine's core takes no random numbers of the process: a seed must repeat a run")
			}
		}
		return true
	})
	return bad
}

func isCore(name string) bool {
	return slices.ContainsFunc(core, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		if err != nil {
			panic(err)
		}
		return ok
	})
}

func TestRules(t *testing.T) {
	fset := token.NewFileSet()
	for _, f := range files(t, fset) {
		for _, b := range breaches(fset, f) {
			t.Error(b)
		}
	}
}

// TestBreaches is the rules' own test.
func TestBreaches(t *testing.T) {
	for _, c := range []struct {
		name, path, source, want string
	}{
		{"root", "main.go", "package kisflow", "no Go file stands in the root"},
		{"name", "node/util/a.go", "package util", "says nothing"},
		{"init", "node/a.go", "package node\nfunc init() {}", "nothing registers itself"},
		{"init method", "node/a.go", "package node\ntype x int\nfunc (x) init() {}", ""},
		{"init in generated code", "proto/a.pb.go", "// Code generated by x. DO NOT EDIT.\npackage proto\nfunc init() {}", ""},
		{"clock in the core", "actors/partition.go", "package actors\nimport \"time\"\nvar _ = time.Now", "takes time from messages"},
		{"clock by another name", "actors/partition_apply.go", "package actors\nimport clock \"time\"\nvar _ = clock.Since", "takes time from messages"},
		{"durations in the core", "actors/partition.go", "package actors\nimport \"time\"\nconst d = time.Second", ""},
		{"clock elsewhere", "actors/placement.go", "package actors\nimport \"time\"\nvar _ = time.Now", ""},
		{"goroutine in the core", "actors/partition.go", "package actors\nfunc f() { go f() }", "starts no goroutine"},
		{"chance in the core", "actors/partition.go", "package actors\nimport \"math/rand/v2\"\nvar _ = rand.IntN(3)", "no random numbers"},
		{"seeded chance in the core", "actors/partition.go", "package actors\nimport \"math/rand/v2\"\nvar _ = rand.New(rand.NewPCG(1, 2))", ""},
		{"clock in a core test", "actors/partition_test.go", "package actors\nimport \"time\"\nvar _ = time.Now", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fset := token.NewFileSet()
			f, err := parse(fset, c.path, c.path, c.source)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(breaches(fset, f), "; ")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("breaches: %q, want %q", got, c.want)
			}
		})
	}
}
