package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

func newDeadLetters(a *app) *cobra.Command {
	parent := group(&cobra.Command{Use: "deadletters", Short: "Look at events that were set aside; retry or drop them"})
	parent.AddCommand(newDeadLettersList(a), newDeadLettersShow(a), newDeadLettersResolve(a, "retry"), newDeadLettersResolve(a, "drop"))
	return parent
}

func addFilter(cmd *cobra.Command, f *api.DeadLetterFilter) {
	cmd.Flags().StringVar(&f.Step, "step", "", "only those of step `NAME`")
	cmd.Flags().StringVar(&f.Reason, "reason", "", "only those with `TEXT` in their reason")
}

func newDeadLettersList(a *app) *cobra.Command {
	var (
		flags    listFlags
		filter   api.DeadLetterFilter
		byReason bool
	)
	cmd := &cobra.Command{
		Use: "list FLOW", Short: "List a flow's dead letters, or count them by reason", Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			get := func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.DeadLetter], error) {
				return c.DeadLetters(ctx, args[0], filter, p)
			}
			if byReason {
				return a.countReasons(cmd.Context(), flags, get)
			}
			t := newTable("ID", "STEP", "REASON", "SUBJECT", "#SEQUENCE", "#INDEX", "#ATTEMPTS", "SET ASIDE")
			return printList(cmd.Context(), a, flags, t, func(d api.DeadLetter) []string {
				return []string{d.ID, dash(d.Step), cut(clean(d.Reason), 70), d.Subject, number(d.Sequence), number(d.Index), number(d.Attempts), when(d.Time)}
			}, get)
		},
	}
	flags.add(cmd)
	addFilter(cmd, &filter)
	cmd.Flags().BoolVar(&byReason, "by-reason", false, "count them by step and reason, all of them (no --limit)")
	return cmd
}

// reasonCount is how many dead letters a step has for one reason.
type reasonCount struct {
	Step   string `json:"step"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// maxReasons bounds what countReasons keeps: reasons may name values and so be without number.
const maxReasons = 10000

func (a *app) countReasons(ctx context.Context, flags listFlags, get func(context.Context, *api.Client, api.Page) (api.List[api.DeadLetter], error)) error {
	type reason struct{ step, reason string }
	counts := map[reason]int{}
	_, err := each(ctx, a, listFlags{after: flags.after}, get, func(items []api.DeadLetter) error {
		for _, d := range items {
			r := reason{d.Step, d.Reason}
			if _, known := counts[r]; !known && len(counts) >= maxReasons {
				r = reason{d.Step, "(other reasons)"}
			}
			counts[r]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	out := make([]reasonCount, 0, len(counts))
	for r, n := range counts {
		out = append(out, reasonCount{r.step, r.reason, n})
	}
	slices.SortFunc(out, func(x, y reasonCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Step, y.Step), cmp.Compare(x.Reason, y.Reason))
	})
	if a.json() {
		return a.printJSON(api.List[reasonCount]{Items: out})
	}
	var rows [][]string
	for _, r := range out {
		rows = append(rows, []string{number(r.Count), dash(r.Step), r.Reason})
	}
	return newTable("#COUNT", "STEP", "REASON").print(a.out, rows)
}

func newDeadLettersShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show FLOW ID", Short: "Show a dead letter in full, with its original bytes", Args: exactly(2), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.DeadLetter, error) {
				return c.DeadLetter(ctx, args[0], args[1])
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(d)
			}
			fields := [][2]string{
				{"id", d.ID}, {"flow", d.Flow}, {"step", dash(d.Step)}, {"function", dash(d.Function)}, {"revision", number(d.Revision)}, {"reason", d.Reason},
				{"stream", d.Stream}, {"subject", d.Subject}, {"sequence", fmt.Sprintf("%d, event %d of its message", d.Sequence, d.Index)},
				{"published", when(d.EventTime)}, {"set aside", when(d.Time)}, {"attempts", number(d.Attempts)},
			}
			if d.Stack != "" {
				fields = append(fields, [2]string{"stack", d.Stack + "\n"})
			}
			what := size(len(d.Data))
			if d.Malformed {
				what += ", no JSON object"
			}
			if !utf8.Valid(d.Data) {
				what += ", no UTF-8"
			}
			return a.printFields(append(fields, [2]string{"data", what}, [2]string{"", string(d.Data) + "\n"}))
		},
	}
}

func newDeadLettersResolve(a *app, verb string) *cobra.Command {
	var (
		filter   api.DeadLetterFilter
		all, yes bool
	)
	short, do, done := "Apply dead letters again at the steps where they failed", (*api.Client).RetryDeadLetters, "retried"
	if verb == "drop" {
		short, do, done = "Remove dead letters for good", (*api.Client).DropDeadLetters, "dropped"
	}
	cmd := &cobra.Command{
		Use:   verb + " FLOW {ID... | --all}",
		Short: short,
		Long: short + `.

Name them by their ids, or take --all, which --step and --reason narrow down. An id that is not there is an
error, and the others are ` + done + ` all the same.`,
		Args: atLeast(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, flow, ids := cmd.Context(), args[0], args[1:]
			switch {
			case all && len(ids) > 0:
				return usagef("name ids or take --all, not both")
			case !all && len(ids) == 0:
				return usagef("which ones? name their ids, or take --all")
			case !all && (filter.Step != "" || filter.Reason != ""):
				return usagef("--step and --reason go with --all")
			}
			if all && !yes {
				which := "all dead letters"
				if filter.Step != "" {
					which += " of step " + clean(filter.Step)
				}
				if filter.Reason != "" {
					which += fmt.Sprintf(" with %q in their reason", filter.Reason)
				}
				if err := a.confirm(fmt.Sprintf("%s %s of flow %s?", verb, which, clean(flow))); err != nil {
					return err
				}
			}
			if all { // first all, then none twice: a letter that fails again comes back under another id
				_, err := each(ctx, a, listFlags{}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.DeadLetter], error) {
					return c.DeadLetters(ctx, flow, filter, p)
				}, func(items []api.DeadLetter) error {
					for _, d := range items {
						ids = append(ids, d.ID)
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			r := api.Resolved{Missing: []string{}, Left: []string{}}
			for part := range slices.Chunk(ids, api.MaxIDs) {
				res, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (api.Resolved, error) { return do(c, ctx, flow, part) })
				if err != nil && r.Done > 0 {
					return fmt.Errorf("%s %s, then: %w", count(r.Done, "dead letter"), done, err)
				}
				if err != nil {
					return err
				}
				r.Done += res.Done
				r.Missing = append(r.Missing, res.Missing...)
				r.Left = append(r.Left, res.Left...)
			}
			if all {
				r.Missing = []string{} // what has gone since it was listed is no matter
			}
			return a.printResolved(r, flow, done)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters of the flow that --step and --reason select")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	addFilter(cmd, &filter)
	return cmd
}

// printResolved prints what a retry or drop did; what it did not is an error.
func (a *app) printResolved(r api.Resolved, flow, done string) error {
	var err error
	if a.json() {
		err = a.printJSON(r)
	} else {
		_, err = fmt.Fprintf(a.out, "%s %s\n", count(r.Done, "dead letter"), done)
	}
	switch {
	case err != nil:
		return err
	case len(r.Missing) > 0:
		return fmt.Errorf("flow %s has no dead letter %s", flow, strings.Join(r.Missing, ", "))
	case len(r.Left) > 0:
		return fmt.Errorf("%s not %s: %s", count(len(r.Left), "dead letter"), done, r.Left[0])
	}
	return nil
}
