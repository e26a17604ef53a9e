package flowdef

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestCompareFlows runs testdata/compare/*.txt: "-- from --" and "-- to --" are definitions, "-- changes --" is what
// differs in flow F.
func TestCompareFlows(t *testing.T) {
	scripts, err := filepath.Glob("testdata/compare/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sets := make(map[string]*Set)
		for i, f := range archive.Files {
			if f.Name != "changes" {
				sets[f.Name] = parse(t, string(f.Data))
				sets[f.Name].Resolve()
				continue
			}
			got := told(CompareFlows(sets["from"], sets["to"], "F"))
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
			t.Errorf("%s:\n%s", path, strings.Join(unified(split(string(f.Data)), split(got)), "\n"))
		}
	}
	if c := CompareFlows(nil, nil, "F"); len(c.Steps)+len(c.Settings) > 0 {
		t.Errorf("between nothing and nothing: %+v", c)
	}
}

// told writes what differs.
func told(c FlowChange) string {
	var b strings.Builder
	for _, s := range c.Settings {
		fmt.Fprintln(&b, s)
	}
	for _, s := range c.Steps {
		fmt.Fprintf(&b, "%s: %s, runs %s, place %d to %d", s.Name, s.Action, s.Function, s.From, s.To)
		if s.Rekeyed {
			fmt.Fprintf(&b, ", key %v to %v", s.MustBefore, s.MustAfter)
		}
		if s.Migrates {
			b.WriteString(", migrates")
		}
		for _, p := range []struct {
			word   string
			fields []string
		}{{"added", s.StateAdded}, {"removed", s.StateRemoved}, {"changed", s.StateChanged}} {
			if len(p.fields) > 0 {
				fmt.Fprintf(&b, ", state %s %v", p.word, p.fields)
			}
		}
		b.WriteString("\n")
		for _, l := range s.Changes {
			fmt.Fprintf(&b, "    %s\n", l)
		}
	}
	return b.String()
}
