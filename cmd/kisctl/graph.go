package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

func newGraph(a *app) *cobra.Command {
	form := ""
	cmd := &cobra.Command{
		Use:   "graph [PATH...]",
		Short: "Show the net of all flows",
		Long: `graph shows how flows hang together: the subjects that they read, their steps with their keys, what Saves and Loads
hand on, the subjects that they send to, the connectors, and the ways back. With paths it is the net of definition
files, and needs no node; without, that of the node's definitions, with the state of each flow.

The forms: text for people; mermaid for Markdown pages; dot for Graphviz; json for programs.`,
		Example: "  kisctl graph flows/\n  kisctl graph -o mermaid flows/ > flows.mmd\n  kisctl graph -o dot | dot -Tsvg > flows.svg",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch form {
			case "text", "mermaid", "dot", "json":
			default:
				return usagef("-o is %q; it must be text, mermaid, dot or json", form)
			}
			g, faults, err := a.graph(cmd.Context(), args)
			if err != nil {
				return err
			}
			switch form {
			case "text":
				_, err = fmt.Fprint(a.out, cleanLines(g.Text()))
			case "mermaid":
				_, err = fmt.Fprint(a.out, cleanLines(g.Mermaid()))
			case "dot":
				_, err = fmt.Fprint(a.out, cleanLines(g.DOT()))
			default:
				err = a.printJSON(g)
			}
			if err == nil && len(faults) > 0 {
				fmt.Fprint(a.errs, cleanLines(faults.String()))
				err = errors.New(count(len(faults), "mistake"))
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&form, "output", "o", "text", "`FORM` of the net: text, mermaid, dot or json")
	return cmd
}

// graph is the net of files, with what could not be read of them, or of the node's definitions.
func (a *app) graph(ctx context.Context, paths []string) (flowdef.Graph, flowdef.Mistakes, error) {
	if len(paths) > 0 {
		set, mistakes := flowdef.Load(paths...)
		return set.Graph(nil), mistakes.Errors(), nil
	}
	g, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (flowdef.Graph, error) { return c.Graph(ctx) })
	return g, nil, err
}
