package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

func newConnector(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "connector", Short: "Try connectors"})
	c.AddCommand(&cobra.Command{
		Use: "test NAME", Short: "Try whether a connector's place is there and lets the node in",
		Long: "test lets the node try a connector that it knows, and says in one line what is wrong. It ends with 1 when something is.",
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Check, error) { return c.TestConnector(ctx, args[0]) })
			if err != nil {
				return err
			}
			if a.json() {
				if err := a.printJSON(r); err != nil {
					return err
				}
			} else if r.Result == api.ResultOK {
				fmt.Fprintf(a.out, "connector %s: %s\n", r.Name, r.Detail)
			}
			if r.Result != api.ResultOK {
				return errors.New("connector " + r.Name + ": " + r.Detail)
			}
			return nil
		},
	})
	return c
}
