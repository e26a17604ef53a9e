package functions

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

var rewrite = flag.Bool("rewrite", false, "write what the tests make in place of comparing with it")

const page = "../docs/reference/expressions.md"

// TestExamples runs every example of the reference.
func TestExamples(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var row *kis.Row
	block, ran, used := "", 0, make(map[string]bool)
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			if block == "json" && row == nil {
				t.Fatal("the page has no row")
			}
			block = strings.TrimPrefix(line, "```")
			continue
		case block == "json":
			if row == nil {
				all := string(text)
				all = all[strings.Index(all, "```json")+7:]
				if row, err = kis.ParseRow([]byte(strings.TrimSpace(all[:strings.Index(all, "```")]))); err != nil {
					t.Fatal(err)
				}
			}
			continue
		case block != "expr":
			continue
		}
		source, want := line, ""
		for _, mark := range []string{" => dead letter: ", " => mistake: ", " => "} {
			if at := strings.LastIndex(line, mark); at >= 0 {
				source, want = line[:at], strings.TrimPrefix(line[at:], " => ")
				break
			}
		}
		if want == "" {
			t.Errorf("line %d: no => in %s", i+1, line)
			continue
		}
		for _, b := range Builtins() {
			if strings.Contains(source, b.Name+"(") {
				used[b.Name] = true
			}
		}
		ran++
		if got := answer(source, row); !sameAnswer(got, want) {
			t.Errorf("line %d: %s\n got %s\nwant %s", i+1, source, got, want)
		}
	}
	if ran < 100 {
		t.Errorf("the page has %d examples; they have not been found", ran)
	}
	for _, b := range Builtins() {
		if !used[b.Name] {
			t.Errorf("no example calls %s", b.Name)
		}
	}
}

// answer says what an expression makes of a row, as the reference writes it.
func answer(source string, row *kis.Row) string {
	p, mistakes := compileTest(source)
	if len(mistakes) > 0 {
		return "mistake: " + mistakes[0].Message
	}
	v, err := evaluate(p, row)
	if err != nil {
		return "dead letter: " + err.(Mistake).Message
	}
	return string(v.AppendJSON(nil))
}

// sameAnswer compares JSON without its white space.
func sameAnswer(got, want string) bool {
	var g, w bytes.Buffer
	if json.Compact(&g, []byte(got)) == nil && json.Compact(&w, []byte(want)) == nil {
		return g.String() == w.String()
	}
	return got == want
}

// compileTest compiles an expression that sees a row with the key userid and a state.
func compileTest(source string) (*program, []Mistake) {
	see := roots{row: true, meta: true, must: []string{"userid"},
		state: map[string]int{"count": 0, "text": 1}, kinds: []kinds{anyKind, anyKind}}
	return compile("test", source, see, &paramTable{optional: make(map[string]bool)}, builtinIndex())
}

func evaluate(p *program, row *kis.Row) (kis.Value, error) {
	f := newFrame(&params{values: make([]kis.Value, 64), known: make([]bool, 64)})
	f.row, f.meta = row, &kis.Meta{Stream: "ORDERS", Subject: "orders.eu", Sequence: 7, Index: 1, Time: time.UnixMilli(1000).UTC()}
	f.key, _ = kis.KeyOf(row, []string{"userid"})
	f.state = []kis.Value{kis.IntValue(3), kis.StringValue("abc")}
	return p.run(f)
}

// TestReferenceTable holds the reference's tables of functions to those that the compiler uses.
func TestReferenceTable(t *testing.T) {
	checkTable(t, "with -rewrite -->\n", "<!-- end of functions -->", Builtins())
	checkTable(t, "<!-- aggregates, made by a test with -rewrite -->\n", "<!-- end of aggregates -->", Aggregates())
}

func checkTable(t *testing.T, begin, end string, functions []Builtin) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Index(string(text), begin)
	to := strings.Index(string(text), end)
	if from < 0 || to < from {
		t.Fatal("the page has no place for the table")
	}
	from += len(begin)
	var b strings.Builder
	group := ""
	for _, f := range functions {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "\n| %s | |\n|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.Signature, strings.ReplaceAll(f.Doc, "|", "\\|"))
	}
	b.WriteString("\n")
	if got := string(text[from:to]); got == b.String() {
		return
	}
	if !*rewrite {
		t.Fatalf("%s is not up to date; run: go test ./functions -run ReferenceTable -rewrite", page)
	}
	if err := os.WriteFile(page, []byte(string(text[:from])+b.String()+string(text[to:])), 0o644); err != nil {
		t.Fatal(err)
	}
}
