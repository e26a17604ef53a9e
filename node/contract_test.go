package node_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/node"
)

// goFunction is a Go function of which only the name counts.
type goFunction string

func (f goFunction) Name() string                    { return string(f) }
func (goFunction) Traits() kis.Traits                { return kis.Traits{} }
func (goFunction) Open(kis.Step) (kis.Runner, error) { return nil, nil }

func rewriting() bool {
	f := flag.Lookup("rewrite")
	return f != nil && f.Value.String() == "true"
}

// TestContract runs testdata/contract/*.txt: a story, then definitions, then "-- mistakes --", all that lint says of
// them. The story's line "go: NAME, NAME" names Go functions. -rewrite updates the mistakes; read the diff.
func TestContract(t *testing.T) {
	scripts, err := filepath.Glob("testdata/contract/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var goFunctions []kis.Function
			for l := range strings.Lines(string(archive.Comment)) {
				if names, ok := strings.CutPrefix(strings.TrimSpace(l), "go: "); ok {
					for n := range strings.SplitSeq(names, ",") {
						goFunctions = append(goFunctions, goFunction(strings.TrimSpace(n)))
					}
				}
			}
			set, want := new(flowdef.Set), -1
			var mistakes flowdef.Mistakes
			for i, f := range archive.Files {
				if f.Name == "mistakes" {
					want = i
					continue
				}
				mistakes = append(mistakes, flowdef.Parse(f.Name, f.Data, set)...)
			}
			mistakes = append(mistakes, node.Lint(set, goFunctions, false)...)
			mistakes.Sort()
			got := []byte(mistakes.String())
			switch {
			case want < 0:
				t.Fatal("the script has no mistakes section")
			case bytes.Equal(got, archive.Files[want].Data):
			case rewriting():
				archive.Files[want].Data = got
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			default:
				t.Errorf("lint says:\n%s\nwant:\n%s", got, archive.Files[want].Data)
			}
		})
	}
}

// TestContractOfTheTree lints every definition of the tree that is meant to be right: none has a mistake.
func TestContractOfTheTree(t *testing.T) {
	var folders []string
	for _, pattern := range []string{"../examples/*", "../bench/flows/*", "../bench/nexmark/flows", "../test/crash/testdata"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.IsDir() {
				folders = append(folders, f)
			}
		}
	}
	if len(folders) < 5 {
		t.Fatalf("only %v", folders)
	}
	for _, folder := range folders {
		set, mistakes := flowdef.Load(folder)
		if mistakes = append(mistakes, node.Lint(set, nil, false)...); len(mistakes.Errors()) > 0 {
			t.Errorf("%s:\n%s", folder, mistakes.Errors())
		}
	}
}

// chain is a random flow: functions one behind the other, of which each uses fields that the one before it offers.
type chain struct {
	r     *rand.Rand
	text  strings.Builder
	uses  []use // where a field is used, in the order of the text
	names int
}

// use is a place in the text that holds a field's name.
type use struct {
	at   int // byte
	name string
}

// field writes row.NAME and takes note of the place.
func (c *chain) field(name string) string { return "row.\x00" + name + "\x01" }

// write adds text, and takes note of the uses in it.
func (c *chain) write(format string, args ...any) {
	rest := fmt.Sprintf(format, args...)
	for {
		before, after, found := strings.Cut(rest, "\x00")
		c.text.WriteString(before)
		if !found {
			return
		}
		name, behind, _ := strings.Cut(after, "\x01")
		c.uses = append(c.uses, use{c.text.Len(), name})
		c.text.WriteString(name)
		rest = behind
	}
}

// fresh is a name that is like no other.
func (c *chain) fresh() string {
	c.names++
	letters := make([]byte, 9)
	for i := range letters {
		letters[i] = byte('a' + c.r.IntN(26))
	}
	return fmt.Sprintf("%s%d", letters, c.names)
}

// kinds of fields, and an expression that makes each of an own one.
var numberUses = []string{"%s + 1", "%s * 2.5", "max(%s, 0)", "%s > 3 ? %[1]s : 0", "-%s", "abs(%s)", "round(%s)"}
var textUses = []string{`%s + "x"`, "upper(%s)", "len(%s)", `%s == "a" ? 1 : 2`, "string(%s)", `{"in": %s}`, `split(%s, ",")`}

// newChain makes a flow of some steps. The key is the field id, which every function passes on.
func newChain(r *rand.Rand) *chain {
	c := &chain{r: r}
	numbers, texts := []string{c.fresh(), c.fresh()}, []string{c.fresh()}
	id := "id" + c.fresh()
	pick := func(of []string) string { return c.field(of[r.IntN(len(of))]) }
	steps := 2 + r.IntN(5)
	c.write("kistype: flow\nstatus: 1\nflow_name: chain\nentry: {subject: in, fields: {%s: int", id)
	for _, n := range numbers {
		c.write(", %s: number", n)
	}
	for _, n := range texts {
		c.write(", %s: text", n)
	}
	c.write("}}\nflows:\n")
	for i := range steps {
		c.write("  - {fname: F%d}\n", i)
	}
	for i := range steps {
		c.write("---\nkistype: func\nfname: F%d\n", i)
		switch kind := r.IntN(4); kind {
		case 0:
			c.write("fmode: Verify\nverify:\n  - {rule: '%s > 0'}\n  - {rule: '%s != \"\"'}\n", pick(numbers), pick(texts))
		case 1:
			c.write("fmode: Expand\nexpand: {subject: 'out%d.{\x00%s\x01}', emit: {a: '%s'}}\n", i, id, pick(texts))
		default:
			c.write("fmode: Calculate\n")
			if kind == 2 {
				c.write("source: {must: [\x00%s\x01]}\n", id)
			}
			c.write("calculate:\n")
			n := ""
			if kind == 2 {
				n = c.fresh()
				c.write("  state:\n    %s: {init: 0, set: 'state.%[1]s + %s'}\n", n, pick(numbers))
			}
			c.write("  emit:\n    %s: %s\n", id, c.field(id))
			var newNumbers, newTexts []string
			for range 1 + r.IntN(3) {
				name := c.fresh()
				c.write("    %s: '%s'\n", name, fmt.Sprintf(numberUses[r.IntN(len(numberUses))], pick(numbers)))
				newNumbers = append(newNumbers, name)
			}
			if n != "" {
				c.write("    %s: state.%[1]s\n", n)
				newNumbers = append(newNumbers, n)
			}
			for range 1 + r.IntN(2) {
				name := c.fresh()
				c.write("    %s: '%s'\n", name, pick(texts))
				newTexts = append(newTexts, name)
			}
			c.write("    %s: '%s'\n", c.fresh(), fmt.Sprintf(textUses[r.IntN(len(textUses))], pick(texts)))
			numbers, texts = newNumbers, newTexts
		}
	}
	return c
}

// misspell changes a name so that it is that of no field.
func misspell(r *rand.Rand, name string) string {
	b := []byte(name)
	i := r.IntN(len(b))
	switch r.IntN(3) {
	case 0:
		return string(slices.Delete(b, i, i+1)) + "z"
	case 1:
		return string(slices.Insert(b, i, 'q')) + "x"
	}
	b[i] = "zyxwvu"[r.IntN(6)]
	return string(b) + "k"
}

// TestContractFindsOneMisspelling makes chains of functions with known shapes: as they are they have no mistake; with
// one field misspelt at random they have exactly one, at that place.
func TestContractFindsOneMisspelling(t *testing.T) {
	lint := func(text string) flowdef.Mistakes {
		set := new(flowdef.Set)
		mistakes := flowdef.Parse("f", []byte(text), set)
		return append(mistakes, node.Lint(set, nil, false)...)
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		c := newChain(r)
		text := c.text.String()
		if m := lint(text); len(m) > 0 {
			t.Fatalf("seed %d: nothing is misspelt:\n%s\n%s", seed, text, m)
		}
		for range 3 {
			u := c.uses[r.IntN(len(c.uses))]
			wrong := text[:u.at] + misspell(r, u.name) + text[u.at+len(u.name):]
			line, column := 1+strings.Count(text[:u.at], "\n"), u.at-strings.LastIndexByte(text[:u.at], '\n')
			m := lint(wrong)
			if len(m) != 1 || m[0].Code != "KF3001" || m[0].Pos.Line != line || m[0].Column != column || !strings.Contains(m[0].Hint, u.name) {
				t.Fatalf("seed %d: %s is misspelt in line %d, column %d:\n%s\n%s", seed, u.name, line, column, wrong, m)
			}
		}
	}
}
