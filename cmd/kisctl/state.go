package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

func newState(a *app) *cobra.Command {
	state := group(&cobra.Command{Use: "state", Short: "Show what keys remember"})
	var read api.Read
	get := &cobra.Command{
		Use:   "get FLOW STEP FIELD=VALUE...",
		Short: "Show the committed state of one key",
		Long: `get shows the committed state of one key of a step. The key is given by all fields of the step's must, in
any order. A value is read as JSON if it is a number, true, false or a quoted string, else as text:
userid=7 is the number, userid='"7"' the text.

It ends with 4 where the key has no state.`,
		Example:           "  kisctl state get OrderTotals totals userid=7",
		Args:              atLeast(3),
		ValidArgsFunction: a.completeStep,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, assignment := range args[2:] {
				if name, _, ok := strings.Cut(assignment, "="); !ok || name == "" {
					return usagef("%q is no field of a key; it must be FIELD=VALUE", assignment)
				}
			}
			e, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.StateEntry, error) {
				return c.State(ctx, args[0], args[1], args[2:], read)
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(e)
			}
			return a.printFields([][2]string{
				{"flow", e.Flow}, {"step", e.Step}, {"key", fieldsOf(e.Key)}, {"state", string(e.State)},
				{"revision", number(e.Revision)}, {"sequence", number(e.Sequence)}, {"updated", when(e.UpdatedAt)},
			})
		},
	}
	get.Flags().BoolVar(&read.Consistent, "consistent", false, "everything that was committed before the question, in a cluster, too")
	get.Flags().Uint64Var(&read.AtLeast, "at-least", 0, "nothing older than the `COMMIT` of an earlier answer (-o json) for this key")
	var flags listFlags
	prefix := ""
	list := &cobra.Command{
		Use:               "list FLOW STEP",
		Short:             "List the committed states of a step",
		Example:           "  kisctl state list OrderTotals totals --prefix userid=1 --limit 20",
		Args:              exactly(2),
		ValidArgsFunction: a.completeStep,
		RunE: func(cmd *cobra.Command, args []string) error {
			t := newTable("KEY", "STATE", "#REVISION", "#SEQUENCE", "UPDATED")
			return printList(cmd.Context(), a, flags, t, func(e api.StateEntry) []string {
				return []string{fieldsOf(e.Key), cut(clean(string(e.State)), 100), number(e.Revision), number(e.Sequence), when(e.UpdatedAt)}
			}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.StateEntry], error) {
				return c.States(ctx, args[0], args[1], prefix, p)
			})
		},
	}
	flags.add(list)
	list.Flags().StringVar(&prefix, "prefix", "", "only keys whose `TEXT`, as in the column KEY, starts so")
	state.AddCommand(get, list)
	return state
}
