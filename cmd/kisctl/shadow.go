package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

// newShadow makes the commands for a revision that runs beside the one that counts.
func newShadow(a *app) *cobra.Command {
	parent := group(&cobra.Command{Use: "shadow", Short: "Compare a revision that runs beside a flow with it, and promote or discard it"})
	status := &cobra.Command{
		Use: "status FLOW", Short: "Show how the shadow of a flow is", Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Shadow, error) { return c.Shadow(ctx, args[0]) })
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(s)
			}
			return a.printFields(shadowFields(s))
		},
	}
	parent.AddCommand(newShadowDiff(a), newPromote(a), newDiscard(a), status)
	return parent
}

func shadowFields(s api.Shadow) [][2]string {
	fields := [][2]string{
		{"flow", s.Flow},
		{"shadow", s.State},
		{"beside", fmt.Sprintf("revision %d", s.Revision)},
		{"since", when(s.StartedAt)},
		{"by", dash(s.By)},
		{"lag", count(s.Lag, "message")},
	}
	if s.Reason != "" {
		fields = append(fields, [2]string{"reason", s.Reason})
	}
	return fields
}

func newShadowDiff(a *app) *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use: "diff FLOW", Short: "Show where a shadow's states and outputs differ from the flow's",
		Long: `diff compares the states of each step, key by key, and what was sent and saved since the shadow began. It does so while events
come in: a key whose state changed meanwhile is told as moving. It ends with 0, different or not.`,
		Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > api.MaxLimit {
				return usagef("--limit is %d; it must be 1 to %d", limit, api.MaxLimit)
			}
			longer := *a
			if longer.timeout > 0 {
				longer.timeout += applyTimeout
			}
			d, err := ask(cmd.Context(), &longer, func(ctx context.Context, c *api.Client) (api.ShadowDiff, error) {
				return c.ShadowDiff(ctx, args[0], limit)
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(d)
			}
			return a.printShadowDiff(d)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 5, "at most `N` examples for each step and each target")
	return cmd
}

func (a *app) printShadowDiff(d api.ShadowDiff) error {
	fields := shadowFields(d.Shadow)
	fields = append(fields, [2]string{"dead letters", fmt.Sprintf("%d of the flow, %d of the shadow", d.DeadLetters, d.ShadowDeadLetters)})
	for _, n := range d.Notes {
		fields = append(fields, [2]string{"note", n})
	}
	if err := a.printFields(fields); err != nil {
		return err
	}
	var rows [][]string
	for _, s := range d.Steps {
		rows = append(rows, []string{s.Step, number(s.Keys), number(s.Same), number(s.Differ), number(s.OnlyFlow), number(s.OnlyShadow), number(s.Moving)})
	}
	if err := a.section("STATES", newTable("STEP", "#KEYS", "#SAME", "#DIFFER", "#ONLY FLOW", "#ONLY SHADOW", "#MOVING"), rows); err != nil {
		return err
	}
	for _, s := range d.Steps {
		for _, k := range s.Examples {
			fmt.Fprintf(a.out, "  %s %s\n", clean(s.Step), clean(fieldsOf([]byte(k.Key))))
			fmt.Fprintf(a.out, "    - %s\n    + %s\n", clean(dash(string(k.Flow))), clean(dash(string(k.Shadow))))
		}
	}
	rows = nil
	for _, o := range d.Outputs {
		rows = append(rows, []string{o.Target, number(o.Flow), number(o.Shadow), number(o.OnlyFlow), number(o.OnlyShadow)})
	}
	if err := a.section("OUTPUTS", newTable("TARGET", "#FLOW", "#SHADOW", "#ONLY FLOW", "#ONLY SHADOW"), rows); err != nil {
		return err
	}
	for _, o := range d.Outputs {
		for i, e := range o.Examples {
			if i == 0 {
				fmt.Fprintf(a.out, "  %s\n", clean(o.Target))
			}
			fmt.Fprintf(a.out, "    %s\n", clean(e))
		}
	}
	return nil
}

func newPromote(a *app) *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use: "promote FLOW", Short: "Apply the revision that runs as a shadow; the flow goes on with its own state",
		Long: `promote makes the shadow's definitions the flow's next revision, as apply does with files: the difference is shown, and asked about.
The flow goes on with its own state, at one place of its input; the shadow, its state and its outputs are removed.`,
		Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := ask(cmd.Context(), a, func(ctx context.Context, client *api.Client) (api.Shadow, error) { return client.Shadow(ctx, args[0]) })
			if err != nil {
				return err
			}
			c.files, c.verb, c.done = s.Files, "promote", "promoted"
			c.same = "nothing to change: the flow is what its shadow is; discard that"
			c.send = func(ctx context.Context, client *api.Client, ok api.Approval) (api.Plan, error) {
				return client.PromoteShadow(ctx, args[0], ok)
			}
			return a.change(cmd.Context(), c)
		},
	}
	c.add(cmd.Flags())
	return cmd
}

func newDiscard(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "discard FLOW", Short: "End the shadow of a flow, and remove its state and outputs", Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Shadow, error) { return c.DiscardShadow(ctx, args[0]) })
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(s)
			}
			_, err = fmt.Fprintf(a.out, "the shadow of flow %s is discarded\n", clean(s.Flow))
			return err
		},
	}
}
