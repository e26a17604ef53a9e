package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

// newFlow makes the commands that change the steps of a flow, and those that show its revisions.
func newFlow(a *app) *cobra.Command {
	parent := group(&cobra.Command{Use: "flow", Short: "Change the steps of a flow, and look at its revisions"})
	parent.AddCommand(newEdit(a, flowdef.Insert, "insert"), newEdit(a, flowdef.Insert, "append"), newEdit(a, flowdef.Remove, "remove"),
		newEdit(a, flowdef.Replace, "replace"), newRevisions(a), newShowFlow(a))
	return parent
}

// newEdit makes a command that changes one step in the text of a flow, as the node has it, and applies that.
func newEdit(a *app, kind flowdef.EditKind, word string) *cobra.Command {
	var (
		e      flowdef.Edit
		c      change
		params []string
		paths  []string
		print  bool
	)
	cmd := &cobra.Command{Args: exactly(1)}
	f := cmd.Flags()
	switch word {
	case "insert":
		cmd.Use, cmd.Short = "insert FLOW --fname NAME {--before STEP | --after STEP | --at N}", "Insert a step into a flow"
		cmd.Example = "  kisctl flow insert Meters --fname Positive --before sum\n  kisctl flow insert Meters --fname Limit --as limit --after sum --param max=100"
	case "append":
		cmd.Use, cmd.Short = "append FLOW --fname NAME", "Add a step at the end of a flow"
		cmd.Example = "  kisctl flow append Meters --fname Tell"
	case "remove":
		cmd.Use, cmd.Short, cmd.Args = "remove FLOW STEP", "Remove a step from a flow", exactly(2)
		cmd.Example = "  kisctl flow remove Meters sum --drop-state sum"
	case "replace":
		cmd.Use, cmd.Short, cmd.Args = "replace FLOW STEP [--fname NAME] [--param KEY=VALUE]", "Give a step another function or other parameters", exactly(2)
		cmd.Example = "  kisctl flow replace Meters sum --fname AddUpTwice\n  kisctl flow replace Meters limit --param max=200"
	}
	cmd.Long = map[string]string{
		"insert":  "insert puts a step before or behind another one, or at a place counted from 1.",
		"append":  "append puts a step behind all others.",
		"remove":  "remove takes a step out. Its state is dropped, for good, and has to be named.",
		"replace": "replace lets a step run another function, or gives it other parameters. The step keeps its name, and with it its state,\nunless --as gives it another one.",
	}[word] + `
The text of the flow is changed as the node has it, with its comments and layout. Then it is as with apply: the difference is
shown, and asked about. --print only prints the new text.`
	if kind != flowdef.Remove {
		f.StringVar(&e.Function, "fname", "", "the `NAME` of the function")
		f.StringVar(&e.As, "as", "", "the step's `NAME`; its state is kept under it")
		f.StringArrayVar(&params, "param", nil, "a parameter, `KEY=VALUE`; may stand more than once")
		f.StringArrayVarP(&paths, "file", "f", nil, "further definitions at `PATH`, as that of the function; may stand more than once")
	}
	if word == "insert" {
		f.StringVar(&e.Before, "before", "", "put it before `STEP`")
		f.StringVar(&e.After, "after", "", "put it behind `STEP`")
		f.IntVar(&e.At, "at", 0, "put it at place `N`, from 1")
	}
	f.BoolVar(&print, "print", false, "only print the new text of the flow")
	c.add(f)
	cmd.ValidArgsFunction = a.completeAnyStep(kind != flowdef.Insert)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e.Kind = kind
		if len(args) > 1 {
			e.Step = args[1]
		}
		places := 0
		for _, flag := range []string{"before", "after", "at"} {
			if word == "insert" && cmd.Flags().Changed(flag) {
				places++
			}
		}
		switch {
		case kind == flowdef.Insert && e.Function == "":
			return usagef("which function? name it with --fname NAME")
		case word == "insert" && places != 1:
			return usagef("where? say one of --before STEP, --after STEP, --at N")
		case word == "insert" && cmd.Flags().Changed("at") && e.At < 1:
			return usagef("--at is %d; places count from 1", e.At)
		case kind == flowdef.Replace && e.Function == "" && e.As == "" && len(params) == 0:
			return usagef("replace what? say --fname NAME, --param KEY=VALUE or --as NAME")
		}
		for _, p := range params {
			k, v, ok := strings.Cut(p, "=")
			if !ok || k == "" {
				return usagef("--param is %q; write KEY=VALUE", p)
			}
			if e.Params == nil {
				e.Params = make(map[string]string)
			}
			e.Params[k] = v
		}
		return a.edit(cmd.Context(), args[0], e, c, paths, print)
	}
	return cmd
}

func (a *app) edit(ctx context.Context, flow string, e flowdef.Edit, c change, paths []string, print bool) error {
	r, err := ask(ctx, a, func(ctx context.Context, client *api.Client) (api.Revision, error) {
		return client.Revision(ctx, flow, 0)
	})
	if err != nil {
		return err
	}
	doc, err := flowFile(r)
	if err != nil {
		return err
	}
	if doc.Text, err = flowdef.EditSteps(doc.Text, e); err != nil {
		return err
	}
	if print {
		_, err := fmt.Fprint(a.out, doc.Text)
		return err
	}
	if len(paths) > 0 {
		if c.files, err = a.readFiles(paths); err != nil {
			return err
		}
	}
	c.files = append(c.files, doc)
	c.from = map[string]uint64{flow: r.Revision}
	c.note = string(e.Kind) + " step " + e.Step
	if e.Kind == flowdef.Insert {
		c.note = "insert step " + e.Function
	}
	return a.change(ctx, c)
}

// flowFile is the file of a revision that defines the flow itself.
func flowFile(r api.Revision) (api.File, error) {
	for _, f := range r.Files {
		set := new(flowdef.Set)
		flowdef.Parse(f.Name, []byte(f.Text), set)
		for _, g := range set.Flows {
			if g.Name == r.Flow {
				return f, nil
			}
		}
	}
	return api.File{}, fmt.Errorf("revision %d of flow %s does not hold its text", r.Revision, clean(r.Flow))
}

func newRevisions(a *app) *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use: "revisions FLOW", Short: "List the revisions of a flow that are kept, the newest first", Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := newTable("#REVISION", "", "APPLIED", "BY", "NOTE", "STEPS")
			return printList(cmd.Context(), a, flags, t, func(r api.RevisionSummary) []string {
				current := ""
				if r.Current {
					current = "current"
				}
				return []string{number(r.Revision), current, when(r.AppliedAt), dash(r.By), dash(cut(r.Note, 50)), cut(strings.Join(r.Steps, ", "), 80)}
			}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.RevisionSummary], error) {
				return c.Revisions(ctx, args[0], p)
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func newShowFlow(a *app) *cobra.Command {
	var revision uint64
	cmd := &cobra.Command{
		Use: "show FLOW", Short: "Print the definitions of a flow: its own, its functions', its connectors'", Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Revision, error) {
				return c.Revision(ctx, args[0], revision)
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			for i, f := range r.Files {
				if i > 0 {
					fmt.Fprintln(a.out, "---")
				}
				if _, err := fmt.Fprintln(a.out, cleanLines(strings.TrimRight(f.Text, "\n"))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&revision, "revision", 0, "of revision `N`; 0: of the one that runs")
	return cmd
}

func newRollback(a *app) *cobra.Command {
	var (
		to uint64
		c  change
	)
	cmd := &cobra.Command{
		Use: "rollback FLOW", Short: "Apply an earlier revision of a flow again",
		Long: `rollback makes an earlier revision of a flow its next one: the flow, its functions and its connectors become what they were.
The difference is shown, and asked about, as by apply. States are not rolled back: what events have led to stays, and a
step that the earlier revision does not have loses its state.`,
		Example: "  kisctl rollback Meters\n  kisctl rollback Meters --to 3 --yes",
		Args:    exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flow := args[0]
			now, err := ask(cmd.Context(), a, func(ctx context.Context, client *api.Client) (api.Revision, error) {
				return client.Revision(ctx, flow, 0)
			})
			if err != nil {
				return err
			}
			switch {
			case !cmd.Flags().Changed("to") && now.Revision == 1:
				return fmt.Errorf("flow %s is at its first revision", clean(flow))
			case !cmd.Flags().Changed("to"):
				to = now.Revision - 1
			case to == 0:
				return usagef("--to is 0; revisions count from 1")
			}
			old, err := ask(cmd.Context(), a, func(ctx context.Context, client *api.Client) (api.Revision, error) {
				return client.Revision(ctx, flow, to)
			})
			if err != nil {
				return err
			}
			c.files, c.from = old.Files, map[string]uint64{flow: now.Revision}
			c.note = fmt.Sprintf("rollback to revision %d", to)
			c.same = fmt.Sprintf("nothing to change: flow %s is as in revision %d", clean(flow), to)
			return a.change(cmd.Context(), c)
		},
	}
	cmd.Flags().Uint64Var(&to, "to", 0, "the revision `N`; default: the one before the one that runs")
	c.add(cmd.Flags())
	return cmd
}

// completeAnyStep completes a flow's name and, where steps says so, the name of one of its steps.
func (a *app) completeAnyStep(steps bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 || !steps {
			return a.completeFlow(1)(cmd, args, prefix)
		}
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		f, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Flow, error) { return c.Flow(ctx, args[0]) })
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, s := range f.StepList {
			names = append(names, s.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
