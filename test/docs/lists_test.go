package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDependencies compares docs/dependencies.md with go.mod.
func TestDependencies(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var required, explained []string
	for l := range strings.Lines(string(mod)) {
		l = strings.TrimPrefix(strings.TrimSpace(l), "require ")
		if m := regexp.MustCompile(`^(\S+\.\S+/\S+) v\S+$`).FindStringSubmatch(l); m != nil { // "// indirect" does not fit
			required = append(required, m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\S+)` \\| (.*) \\|$").FindAllStringSubmatch(string(page), -1) {
		explained = append(explained, m[1])
		if m[2] == "" {
			t.Errorf("docs/dependencies.md gives no reason for %s", m[1])
		}
	}
	slices.Sort(required)
	if len(required) == 0 || !slices.Equal(required, explained) {
		t.Errorf("go.mod requires\n%s\ndocs/dependencies.md explains\n%s", strings.Join(required, "\n"), strings.Join(explained, "\n"))
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchor is what a heading is called in a link.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r > 127 || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}, strings.ToLower(heading))
}

// TestLinks looks for what the links of the documentation point to.
func TestLinks(t *testing.T) {
	pages := []string{"../../README.md", "../../README.zh-CN.md", "../../bench/README.md"}
	err := filepath.WalkDir("../../docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, part, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			if part == "" {
				continue
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			if !slices.ContainsFunc(heading.FindAllStringSubmatch(string(there), -1), func(h []string) bool { return anchor(h[1]) == part }) {
				t.Errorf("%s: link to %s: no such heading there", page, m[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links found", links)
	}
}

// TestErrors looks in the code for the lines that docs/reference/errors.md explains: those in the first column of its tables.
// A page that explains what nothing says any more is worse than none.
func TestErrors(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, dir := range []string{"actors", "api", "cmd", "functions", "kis", "node", "state", "transport"} {
		err := filepath.WalkDir("../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			code.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	text := code.String()
	lines := 0
	for l := range strings.Lines(string(page)) {
		column, _, ok := strings.Cut(strings.TrimPrefix(l, "| "), " | ")
		if !ok || !strings.HasPrefix(l, "| `") || strings.HasPrefix(column, "`kisctl ") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(column, -1) {
			quoted := strings.TrimRight(m[1], " :")
			if strings.HasSuffix(quoted, "...") || strings.HasPrefix(quoted, "decode: ") {
				continue // an example of a line, not its fixed part
			}
			lines++
			if !strings.Contains(text, quoted) {
				t.Errorf("errors.md explains %q, which nothing says", quoted)
			}
		}
	}
	if lines < 30 {
		t.Errorf("only %d lines found in errors.md", lines)
	}
}
