package docs

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	blocks, err := parse("# A page\n\n```yaml file=a.yaml\nx: 1\n```\n\n    not run\n\n```console any-order\n$ echo a; \\\n> echo b\na\nb\n$ true\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 2 || blocks[0].file != "a.yaml" || blocks[0].text != "x: 1\n" || blocks[0].line != 3 {
		t.Fatalf("blocks: %+v", blocks)
	}
	c := blocks[1].commands
	if len(c) != 2 || c[0].text != "echo a; \\\necho b" || len(c[0].want) != 2 || !c[0].anyOrder || c[0].line != 10 || c[1].text != "true" {
		t.Errorf("commands: %+v", c)
	}
	for page, want := range map[string]string{
		"```yaml\nx: 1\n```\n":       "line 1: a block of \"yaml\" is neither",
		"```console\nhello\n```\n":   "line 2: a session begins with a command",
		"x\n```console\n$ hello\n":   "line 2: the block does not end",
		"```console never\n$ x\n```": "is neither",
	} {
		if _, err := parse(page); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", page, err, want)
		}
	}
}

func TestFits(t *testing.T) {
	for _, c := range []struct {
		want, got string
		anyOrder  bool
		fits      bool
	}{
		{"", "", false, true},
		{"", "a", false, false},
		{"a", "", false, false},
		{"a  b", "a     b  ", false, true},
		{"a", "a|b", false, false},
		{"a|...", "a|b|c", false, true},
		{"...|c", "a|b|c", false, true},
		{"...|b", "a|b|c", false, false},
		{"a|...|a", "a", false, false},
		{"took ...s (.*)", "took 12.5s (.*)", false, true},
		{"took ...s", "took 12.5m", false, false},
		{"a|b", "b|a", false, false},
		{"a|b", "b|a", true, true},
		{"a|a", "a|b", true, false},
		{"a", "b|a", true, false},
		{"a|...", "b|a", true, true},
	} {
		split := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == '|' }) }
		if got := (command{want: split(c.want), anyOrder: c.anyOrder}).fits(split(c.got)); got != c.fits {
			t.Errorf("%q with %q (any order %v): %v, want %v", c.want, c.got, c.anyOrder, got, c.fits)
		}
	}
}
