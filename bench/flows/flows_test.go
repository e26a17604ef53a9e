// Package flows_test checks the definitions that are measured and shown: a figure of a flow that lint would
// complain about is worth nothing.
package flows_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/node"
)

func TestDefinitions(t *testing.T) {
	folders, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{filepath.Join("..", "nexmark", "flows"), filepath.Join("..", "..", "examples", "orders", "flows.yaml")}
	for _, f := range folders {
		if f.IsDir() {
			paths = append(paths, f.Name())
		}
	}
	if len(paths) < 5 {
		t.Fatalf("only %v: are the definitions gone?", paths)
	}
	// What gonode has in Go.
	inGo := []kis.Function{
		kis.Stateless[*kis.Row, *kis.Row]("VerifyOrder", nil), kis.Stateless[*kis.Row, *kis.Row]("UserTotals", nil),
	}
	for _, path := range paths {
		set, mistakes := flowdef.Load(path)
		if len(mistakes) == 0 {
			mistakes = node.Lint(set, inGo, true)
		}
		for _, m := range mistakes {
			t.Errorf("%s", m)
		}
	}
}
