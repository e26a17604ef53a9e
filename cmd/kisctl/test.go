package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/node"
)

// testResult is one test for programs.
type testResult struct {
	Name    string   `json:"name"`
	Place   string   `json:"place"` // file:line:col
	Passed  bool     `json:"passed"`
	Message string   `json:"message,omitempty"`
	Diff    []string `json:"diff,omitempty"`
	Seconds float64  `json:"seconds"`
}

// testResults is the answer of test for programs.
type testResults struct {
	Items  []testResult `json:"items"`
	Passed int          `json:"passed"`
	Failed int          `json:"failed"`
}

func newTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "test PATH...",
		Short: "Run the tests of flows, without a node",
		Long: `test runs the tests in files that end in .test.yaml or .test.yml over the definitions beside them: events go in, the
test's clock moves, and outputs, states and dead letters are compared. It needs no node, and time takes no time.

PATH is a folder with definitions and tests, or a file of tests, whose folder holds the definitions.`,
		Example: "  kisctl test flows/",
		Args:    atLeast(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runTests(cmd.Context(), args) },
	}
}

func (a *app) runTests(ctx context.Context, paths []string) error {
	tests, mistakes := flowdef.LoadTests(paths...)
	var definitions []string
	for _, p := range paths {
		if flowdef.IsTestFile(p) {
			p = filepath.Dir(p)
		}
		if _, err := os.Stat(p); err == nil { // else LoadTests has said so
			definitions = append(definitions, p)
		}
	}
	set, ms := flowdef.Load(definitions...)
	mistakes = append(append(mistakes, ms...), node.Lint(set, nil, true)...)
	mistakes.Sort()
	if faults := mistakes.Errors(); len(faults) > 0 {
		fmt.Fprint(a.errs, cleanLines(faults.String()))
		return errors.New(count(len(faults), "mistake"))
	}
	if len(tests) == 0 {
		return fmt.Errorf("%s: no tests; they are in files that end in .test.yaml", paths[0])
	}
	var all testResults
	begin := time.Now()
	for _, t := range tests {
		start := time.Now()
		err := node.RunTest(ctx, set, t, node.TrialOptions{})
		r := testResult{Name: t.Name, Place: t.Pos.String(), Passed: err == nil}
		r.Seconds = time.Since(start).Seconds()
		if err != nil {
			all.Failed++
			r.Message = err.Error()
			var f *node.TestFailure
			if errors.As(err, &f) {
				r.Place, r.Message, r.Diff = f.Pos.String(), f.Message, f.Diff
			}
		} else {
			all.Passed++
		}
		all.Items = append(all.Items, r)
		if !a.json() {
			if err := a.printTest(r, err); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if a.json() {
		if err := a.printJSON(all); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(a.out, "%d passed, %d failed, %s\n", all.Passed, all.Failed, time.Since(begin).Round(time.Millisecond)); err != nil {
		return err
	}
	if all.Failed > 0 {
		return errors.New(count(all.Failed, "failed test"))
	}
	return nil
}

func (a *app) printTest(r testResult, err error) error {
	if err == nil {
		_, werr := fmt.Fprintf(a.out, "ok    %s\n", clean(r.Name))
		return werr
	}
	_, werr := fmt.Fprintf(a.out, "FAIL  %s\n      %s\n", clean(r.Name), cleanLines(r.Place+": "+r.Message))
	for _, l := range r.Diff {
		if werr == nil {
			_, werr = fmt.Fprintf(a.out, "        %s\n", clean(l))
		}
	}
	return werr
}
