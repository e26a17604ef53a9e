package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/node"
)

// lintPaths reads and checks definitions as a node does; only which functions a program of one's own has in Go
// it cannot know.
func lintPaths(paths []string) flowdef.Mistakes {
	set, mistakes := flowdef.Load(paths...)
	mistakes = append(mistakes, node.Lint(set, nil, false)...)
	mistakes.Sort()
	return mistakes
}

func newLint(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "lint PATH...",
		Short: "Check definitions without a node",
		Long: `lint reads definition files, and folders with all below them (.yml, .yaml), as one set and reports all that is
wrong with them: what cannot be read, names that are not there, expressions, fields that no row has or that are of
another type, flows that write the same or feed themselves. It needs no node. Warnings are reported and leave the exit
code 0.`,
		Example: "  kisctl lint flows/",
		Args:    atLeast(1),
		RunE: func(_ *cobra.Command, args []string) error {
			mistakes := lintPaths(args)
			var err error
			if a.json() {
				err = a.printJSON(api.List[api.Mistake]{Items: api.FromMistakes(mistakes)})
			} else {
				_, err = fmt.Fprint(a.out, cleanLines(mistakes.String()))
			}
			if err != nil {
				return err
			}
			if n := len(mistakes.Errors()); n > 0 {
				return errors.New(count(n, "mistake"))
			}
			if n := len(mistakes.Warnings()); n == 0 && !a.json() {
				_, err = fmt.Fprintln(a.out, "no mistakes")
			}
			return err
		},
	}
}
