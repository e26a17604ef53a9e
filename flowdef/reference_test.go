package flowdef

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// reference compares a page of docs/reference with what the tables give, or writes it with -rewrite.
func reference(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("..", "docs", "reference", name)
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the tables say; run go test ./flowdef -rewrite\n%s", path, strings.Join(unified(split(string(got)), split(want)), "\n"))
	}
}

const yamlIntro = `# Definitions in YAML

Everything that a node runs is defined in YAML, in documents of four kinds: ` + "`flow`, `func`, `conn` and `global`" + `. This page is made
from the table of keys that the reader itself uses: a key that is not here is a mistake.

    kistype: flow
    status: 1
    flow_name: OrderTotals
    entry: {subject: orders.>}
    flows:
      - {fname: VerifyOrder}
      - {fname: UserTotals, as: totals}
      - {fname: EmitTotals}
    ---
    kistype: func
    fname: VerifyOrder
    fmode: Verify
    source: {name: orders, must: [userid]}
    verify:
      - {rule: 'row.amount > 0', reason: amount must be above zero}
    ---
    kistype: func
    fname: UserTotals
    fmode: Calculate
    source: {name: orders, must: [userid]}
    calculate:
      state:                       # all sets see the state as it was before the row
        count: {init: 0, set: state.count + 1}
        total: {init: 0, set: state.total + row.amount}
      emit: {userid: row.userid, count: state.count, total: state.total}
    ---
    kistype: func
    fname: EmitTotals
    fmode: Expand
    expand: {subject: totals.user}

## Files

A file holds one document or many, with ` + "`---`" + ` between them. A folder is read with all below it, in lexical order; of it only names
that end in ` + "`.yml` or `.yaml`" + `. The order of documents does not matter. All mistakes of all files are reported at once; they are
listed in [definition-errors.md](definition-errors.md).

Files are UTF-8, with either kind of line ends. Anchors, aliases and merge keys (` + "`<<`" + `) work within a document; tags other than the
standard ones are refused, and so is a key that stands twice in a mapping. Limits: %d MiB a file, %d documents a file, %d KiB a document,
%d words and signs a document, %d values with those behind its aliases, %d values deep, %d blank lines in a row.

Files of the original KisFlow are read unchanged. Their older spellings are in the column *old*; where both stand, the newer one counts,
and a function or a connector may still be named by its old id.

## Values

| type | meaning |
|---|---|
| text | Any scalar, as it is written: ` + "`5`, `true` and `1.50`" + ` stay so. |
| name | Unicode text of at most %d bytes, without control characters and outer blanks. |
| number | A whole number, not negative: ` + "`3`, `1_000`, `0x1F`" + `. |
| true or false | Also ` + "`yes`, `no`, `on`, `off`" + `. |
| duration | Whole numbers with units: ` + "`500ms`, `30s`, `1h30m`, `7d`, `2w`" + `. |
| size | A whole number with a unit, or bytes: ` + "`512MiB`, `10GiB`, `64MB`, `4096`" + `. |
| subject | A NATS subject: words joined by dots. |
| expression | See [expressions.md](expressions.md). One that begins with a quote, or holds ` + "`: ` or ` #`" + `, needs quotes around it. |
| list of texts | ` + "`[a, b]`" + `, or one a line with a dash. |
| mapping of texts | ` + "`{name: value}`" + `, or one a line. |

A key whose value is missing (` + "`key:`" + `) or null counts as left out.
`

var kindIntros = map[string]string{
	"flow":   "A flow is an ordered list of steps. A flow that is disabled is checked and kept, and never runs. Keys below `flows` are those of each step.",
	"func":   "A function has the body that fits its mode, or Go code registered under its name, or both: then the Go code counts. A Verify without either checks `source.must`; a Save and a Load without either go through NATS or their connector.",
	"conn":   "A connector is a place outside. Without one, a Save and a Load go through NATS.",
	"global": "The settings of a node; flags win over them. There is at most one.",
}

// TestYAMLReference keeps docs/reference/yaml.md.
func TestYAMLReference(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, yamlIntro, maxFile>>20, maxDocuments, maxDocument>>10, maxTokens, maxValues, maxDepth, maxBlank, maxName)
	for _, kind := range []string{"flow", "func", "conn", "global"} {
		fmt.Fprintf(&b, "\n## kistype: %s\n\n%s\n\n| key | type | default | old | |\n|---|---|---|---|---|\n", kind, kindIntros[kind])
		for _, k := range Keys() {
			if k.Kind != kind || k.Path == "kistype" {
				continue
			}
			old := ""
			if k.Old != "" {
				old = "`" + k.Old + "`"
			}
			path := strings.ReplaceAll(k.Path, "NAME", "*NAME*")
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", strings.ReplaceAll(path, "*NAME*", "NAME"), k.Type, k.Default, old, k.Doc)
		}
	}
	b.WriteString(yamlEnd)
	b.WriteString("\n## Files with tests\n\nFiles whose names end in `.test.yaml` or `.test.yml` hold tests for `kisctl test`, as documents; they are no definitions, and a\n" +
		"folder that is read for definitions passes over them. Keys below `steps` are those of each step.\n\n| key | type | default | |\n|---|---|---|---|\n")
	for _, k := range testKeys {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Path, k.Type, k.Default, k.Doc)
	}
	reference(t, "yaml.md", b.String())
}

const yamlEnd = `
## What definitions do to each other

**Parameters.** A step's ` + "`params`" + ` win over its function's ` + "`option.default_params`" + `, key by key.

**Step names.** A step is named by ` + "`as`" + `, else by its function, the second time ` + "`NAME#2`" + `. Its state is kept under that name: steps may be
inserted, removed and moved without touching the state of the others.

**Hand-offs.** What one flow saves without a connector, others load by the hand-off's name; the rows join the loading flow at the Load.

**One writer.** A hand-off, or a field of it, has one Save; so has a connector's key. Two Saves are a mistake unless they name different
` + "`save.fields`, or both say `save.shared: true`" + `.

**No circles.** What a flow sends to a subject that it reads itself, directly or through other flows, is a mistake; where only some rows go
round (` + "`when`, or a `{field}`" + ` that only sometimes fits) it is a warning. A Load behind the Save is no circle.

**Disabled flows** take no part in this; what they name and nobody has is a warning.
`

// TestYAMLReferenceExample checks the page's own example.
func TestYAMLReferenceExample(t *testing.T) {
	var example strings.Builder
	for _, l := range strings.Split(yamlIntro, "\n") {
		if rest, ok := strings.CutPrefix(l, "    "); ok {
			example.WriteString(rest + "\n")
		}
	}
	set := &Set{}
	mistakes := append(Parse("yaml.md", []byte(example.String()), set), set.Check(CheckOptions{})...)
	if len(mistakes) > 0 || len(set.Funcs) != 3 {
		t.Errorf("the example has %d functions and mistakes:\n%s", len(set.Funcs), mistakes)
	}
}

// TestErrorReference keeps docs/reference/definition-errors.md.
func TestErrorReference(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Mistakes in definitions

A mistake is reported as ` + "`file:line:col: message [code]`" + `, with the source line, a mark under the place and a hint. All mistakes of all files
are reported at once. An error keeps the definitions from being applied; a warning does not. Codes are stable. This page is made from the
table of mistakes.

    flows/orders.yaml:8:13: unknown function "EmitTotal" in flow "OrderTotals" [KF2002]
          - {fname: EmitTotal}
                    ^
        hint: did you mean "EmitTotals"?

Codes that begin with KF1 are about one file, KF2 about what definitions do to each other, KF4 about what only a node knows.

| code | | |
|---|---|---|
`)
	for _, c := range Codes() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", c.Code, strings.ToLower(c.Code), c.Severity, c.Title)
	}
	for _, c := range Codes() {
		fmt.Fprintf(&b, "\n## %s\n\n**%s** (%s). %s\n\n*What to do:* %s\n", c.Code, strings.ToUpper(c.Title[:1])+c.Title[1:], c.Severity, c.Meaning, c.Remedy)
	}
	reference(t, "definition-errors.md", b.String())
}

// TestCodes checks the table, and that a test shows every mistake at least once.
func TestCodes(t *testing.T) {
	seen := map[string]bool{codeFile: true} // TestLoad shows it
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, mistakes := runScript(archive)
		for _, m := range mistakes {
			seen[m.Code] = true
		}
	}
	for _, c := range badInput() {
		for _, m := range Parse("f", []byte(c.text), &Set{}) {
			seen[m.Code] = true
		}
	}
	form := regexp.MustCompile(`^KF[1234]0[0-9]{2}$`)
	last := ""
	for _, c := range Codes() {
		if !form.MatchString(c.Code) || c.Code <= last {
			t.Errorf("code %s after %s", c.Code, last)
		}
		last = c.Code
		if c.Title == "" || c.Meaning == "" || c.Remedy == "" || !strings.HasSuffix(c.Meaning, ".") || !strings.HasSuffix(c.Remedy, ".") {
			t.Errorf("%s is not described: %+v", c.Code, c)
		}
		if !seen[c.Code] && c.Code < "KF3" { // what package node finds is shown there
			t.Errorf("no test shows %s, %s", c.Code, c.Title)
		}
	}
	for code := range seen {
		if !strings.Contains(fmt.Sprint(Codes()), code) {
			t.Errorf("%s is not in the table", code)
		}
	}
}

// TestKeys checks the table, and that testdata/every-key.txt sets every key to something that is read.
func TestKeys(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/every-key.txt")
	if err != nil {
		t.Fatal(err)
	}
	text := string(archive.Files[0].Data)
	for _, k := range Keys() {
		if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") || k.Type == "" || strings.Contains(k.Doc+k.Default+k.Type, "|") {
			t.Errorf("%s %s is not described", k.Kind, k.Path)
		}
		if p := k.parent(); p != "" && p != "calculate.state.NAME" && p != "calculate.aggregate.NAME" && findKey(k.Kind, parentOf(p), p[strings.LastIndexByte(p, '.')+1:]) == nil {
			t.Errorf("%s %s stands below nothing", k.Kind, k.Path)
		}
		if !strings.Contains(text, k.name()+":") {
			t.Errorf("every-key.txt has no %s", k.name())
		}
	}
	set, mistakes := runScript(archive)
	if len(mistakes) > 0 || set.Global == nil {
		t.Error(mistakes)
	}
}

// TestKeysAreRead gives every key of the table what no key takes. A key that nothing reads would let it pass.
func TestKeysAreRead(t *testing.T) {
	for _, k := range Keys() {
		if k.Path == "kistype" {
			continue
		}
		for _, name := range []string{k.name(), k.Old} {
			if name == "" {
				continue
			}
			value := "{" + name + ": [[x]]}"
			for p := k.parent(); p != ""; p = parentOf(p) {
				if p == "flows" || p == "verify" {
					value = "[" + value + "]"
				}
				value = "{" + p[strings.LastIndexByte(p, '.')+1:] + ": " + value + "}"
			}
			doc := "{kistype: " + k.Kind + "," + value[1:]
			found := false
			for _, m := range Parse("f", []byte(doc), &Set{}) {
				found = found || m.Code == codeType && m.Column >= strings.Index(doc, name+": [[x]]")+len(name)
			}
			if !found {
				t.Errorf("%s: %s takes [[x]] for %s", k.Kind, doc, k.Type)
			}
		}
	}
}

func parentOf(path string) string { return Key{Path: path}.parent() }
