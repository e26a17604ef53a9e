package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

func number[N int | uint64 | uint32](n N) string { return strconv.FormatUint(uint64(n), 10) }

func newGet(a *app) *cobra.Command {
	get := group(&cobra.Command{Use: "get", Short: "List flows, functions or connectors"})
	var flags listFlags
	flows := &cobra.Command{
		Use: "flows", Short: "List the flows", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := newTable("NAME", "STATE", "#STEPS", "#REVISION", "#IN", "#OUT", "#LAG", "#DEAD LETTERS", "REASON")
			return printList(cmd.Context(), a, flags, t, func(f api.FlowSummary) []string {
				return []string{f.Name, f.State, number(f.Steps), number(f.Revision), number(f.EventsIn), number(f.EventsOut),
					number(f.Lag), number(f.DeadLetters), cut(f.Reason, 60)}
			}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.FlowSummary], error) {
				return c.Flows(ctx, p)
			})
		},
	}
	functions := &cobra.Command{
		Use: "functions", Short: "List the functions", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := newTable("NAME", "MODE", "MUST", "IMPLEMENTATION", "CONNECTOR", "USED BY", "FILE")
			return printList(cmd.Context(), a, flags, t, func(f api.Function) []string {
				return []string{f.Name, f.Mode, dash(strings.Join(f.Must, ", ")), f.Implementation, dash(f.Connector),
					dash(strings.Join(f.UsedBy, ", ")), f.File}
			}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.Function], error) {
				return c.Functions(ctx, p)
			})
		},
	}
	connectors := &cobra.Command{
		Use: "connectors", Short: "List the connectors", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := newTable("NAME", "TYPE", "ADDRS", "KEY", "USED BY", "FILE")
			return printList(cmd.Context(), a, flags, t, func(c api.Connector) []string {
				return []string{c.Name, c.Type, dash(c.Addrs), dash(c.Key), dash(strings.Join(c.UsedBy, ", ")), c.File}
			}, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.Connector], error) {
				return c.Connectors(ctx, p)
			})
		},
	}
	for _, c := range []*cobra.Command{flows, functions, connectors} {
		flags.add(c)
		get.AddCommand(c)
	}
	return get
}

func newDescribe(a *app) *cobra.Command {
	describe := group(&cobra.Command{Use: "describe", Short: "Show a flow in full"})
	describe.AddCommand(&cobra.Command{
		Use: "flow NAME", Short: "Show a flow in full: inputs, steps, stages, outputs, figures", Args: exactly(1),
		ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Flow, error) { return c.Flow(ctx, args[0]) })
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(f)
			}
			return a.printFlow(f)
		},
	})
	return describe
}

func (a *app) printFlow(f api.Flow) error {
	fields := [][2]string{{"flow", f.Name}, {"state", f.State}}
	if f.Reason != "" {
		fields = append(fields, [2]string{"reason", f.Reason})
	}
	fields = append(fields, [][2]string{
		{"file", dash(f.File)},
		{"revision", fmt.Sprintf("%d, of %s", f.Revision, when(f.UpdatedAt))},
		{"events", fmt.Sprintf("%d in, %d out", f.EventsIn, f.EventsOut)},
		{"lag", count(f.Lag, "message")},
		{"dead letters", number(f.DeadLetters)},
		{"state kept", fmt.Sprintf("%s, %s", count(f.StateKeys, "key"), size(f.StateBytes))},
	}...)
	if f.PublishSubject != "" {
		fields = append(fields, [2]string{"publish to", f.PublishSubject})
	}
	for _, w := range f.Warnings {
		fields = append(fields, [2]string{"warning", w})
	}
	if err := a.printFields(fields); err != nil {
		return err
	}
	if err := a.section("INPUTS", lagTable(), lagRows(f.Inputs)); err != nil {
		return err
	}
	var rows [][]string
	for i, s := range f.StepList {
		state := "-"
		if s.Stateful {
			state = "yes"
		}
		rows = append(rows, []string{number(i + 1), s.Name, s.Function, s.Mode, dash(strings.Join(s.Must, ", ")), s.Stage, state,
			number(s.Rows), number(s.Errors), number(s.DeadLetters), dash(paramsOf(s.Params))})
	}
	err := a.section("STEPS", newTable("#", "NAME", "FUNCTION", "MODE", "MUST", "STAGE", "STATE", "#ROWS", "#ERRORS", "#DEAD LETTERS", "PARAMS"), rows)
	if err != nil {
		return err
	}
	rows = nil
	for _, s := range f.Stages {
		states, commits, reason := map[string]int{}, uint64(0), ""
		for _, p := range s.Partitions {
			states[p.State]++
			commits += p.Commits
			if p.Reason != "" {
				reason = p.Name + ": " + p.Reason
			}
		}
		rows = append(rows, []string{s.Name, dash(strings.Join(s.Must, ", ")), strings.Join(s.Steps, ", "), partitionStates(states), number(commits), reason})
	}
	if err := a.section("STAGES", newTable("STAGE", "KEY", "STEPS", "PARTITIONS", "#COMMITS", "REASON"), rows); err != nil {
		return err
	}
	rows = nil
	for _, w := range f.Watermarks {
		at := "-"
		if w.Time != nil {
			at = when(*w.Time)
		}
		rows = append(rows, []string{w.Step, at, number(w.Timers), w.Partition, w.Says})
	}
	if err := a.section("WATERMARKS", newTable("STEP", "WATERMARK", "#TIMERS", "FURTHEST BEHIND", "WHY"), rows); err != nil {
		return err
	}
	rows = nil
	for _, o := range f.Outputs {
		rows = append(rows, []string{o.Step, o.Kind, o.Target, dash(o.Stream), o.Guarantee})
	}
	return a.section("OUTPUTS", newTable("STEP", "KIND", "TARGET", "STREAM", "GUARANTEE"), rows)
}

// section prints a table below an empty line and its title, unless it has no rows.
func (a *app) section(title string, t *table, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(a.out, "\n%s\n", title); err != nil {
		return err
	}
	return t.print(a.out, rows)
}

func paramsOf(params map[string]string) string {
	var out []string
	for name, value := range params {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return cut(strings.Join(out, " "), 60)
}

func partitionStates(states map[string]int) string {
	var out []string
	for state, n := range states {
		out = append(out, fmt.Sprintf("%d %s", n, state))
	}
	slices.Sort(out)
	return dash(strings.Join(out, ", "))
}

func newSetFlow(a *app, action api.Action) *cobra.Command {
	short := map[api.Action]string{
		api.ActionPause:  "Pause a flow: it reads no more events until it is resumed",
		api.ActionResume: "Resume a paused flow where it stopped",
		api.ActionDelete: "Delete a flow with its state and dead letters, for good",
	}[action]
	yes, input := false, ""
	parent := group(&cobra.Command{Use: string(action), Short: strings.ToUpper(string(action[:1])) + string(action[1:]) + " a flow"})
	cmd := &cobra.Command{
		Use: "flow NAME", Short: short, Args: exactly(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if action == api.ActionDelete && !yes {
				f, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Flow, error) { return c.Flow(ctx, args[0]) })
				if err != nil {
					return err
				}
				question := fmt.Sprintf("delete flow %s with the state of %s and %s?",
					clean(f.Name), count(f.StateKeys, "key"), count(f.DeadLetters, "dead letter"))
				if err := a.confirm(question); err != nil {
					return err
				}
			}
			do := action
			switch input {
			case "":
			case "beginning":
				do = api.ActionResumeBeginning
			case "now":
				do = api.ActionResumeNow
			default:
				return usagef("--input is %q; it must be beginning or now", input)
			}
			f, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.FlowSummary, error) {
				return c.SetFlow(ctx, args[0], do)
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(f)
			}
			_, err = fmt.Fprintf(a.out, "flow %s is %s\n", clean(f.Name), f.State)
			return err
		},
	}
	if action == api.ActionResume {
		cmd.Flags().StringVar(&input, "input", "", "where to read an input that is another stream now: beginning or now")
	}
	if action == api.ActionDelete {
		cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	}
	parent.AddCommand(cmd)
	return parent
}

func lagTable() *table {
	return newTable("FLOW", "STEP", "INPUT", "SUBJECT", "STREAM", "STATE", "#NEWEST", "#COMMITTED", "#LAG", "#AGE", "REASON")
}

func lagRow(l api.Lag) []string {
	return []string{l.Flow, dash(l.Step), l.Kind, dash(l.Subject), l.Stream, l.State, number(l.Newest), number(l.Committed), number(l.Lag),
		span(l.AgeSeconds), cut(l.Reason, 60)}
}

func lagRows(lags []api.Lag) [][]string {
	rows := make([][]string, 0, len(lags))
	for _, l := range lags {
		rows = append(rows, lagRow(l))
	}
	return rows
}

func newLag(a *app) *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use: "lag [FLOW]", Short: "Show how far inputs are behind", Args: atMost(1), ValidArgsFunction: a.completeFlow(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flow := strings.Join(args, "")
			return printList(cmd.Context(), a, flags, lagTable(), lagRow,
				func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.Lag], error) {
					return c.Lag(ctx, flow, p)
				})
		},
	}
	flags.add(cmd)
	return cmd
}

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how the node is", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(s)
			}
			return a.printStatus(s)
		},
	}
}

func (a *app) printStatus(s api.Status) error {
	ready := "no"
	if s.Ready {
		ready = "yes"
	}
	nats := "not connected"
	if s.NATS.Connected {
		nats = "connected"
	}
	if s.NATS.Embedded {
		nats += ", embedded"
	}
	fields := [][2]string{
		{"node", s.Node},
		{"version", s.Version},
		{"ready", ready},
		{"phase", s.Phase},
		{"started", when(s.StartedAt)},
		{"durability", s.Durability},
		{"data", s.DataDir},
		{"nats", strings.TrimSuffix(fmt.Sprintf("%s, %s, version %s", dash(s.NATS.URL), nats, s.NATS.Version), ", version ")},
		{"recovery", fmt.Sprintf("%d of %s, %s, %s", s.Recovery.Done, count(s.Recovery.Partitions, "partition"),
			count(s.Recovery.Records, "record"), span(s.Recovery.Seconds))},
		{"flows", fmt.Sprintf("%d: %d running, %d paused, %d disabled, %d stopped", s.Flows, s.Running, s.Paused, s.Disabled, s.Stopped)},
		{"partitions", number(s.Partitions)},
		{"events", fmt.Sprintf("%d in, %d out", s.EventsIn, s.EventsOut)},
		{"lag", count(s.Lag, "message")},
		{"dead letters", number(s.DeadLetters)},
		{"state", fmt.Sprintf("%s, %s, %d in memory", count(s.StateKeys, "key"), size(s.StateBytes), s.LiveActors)},
	}
	for _, p := range s.Problems {
		fields = append(fields, [2]string{"problem", p})
	}
	return a.printFields(fields)
}

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check what the node stands on: disk, NATS, syncing, streams",
		Long: "doctor lets the node check what it stands on. It ends with 1 when a check failed.",
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Report, error) { return c.Doctor(ctx) })
			if err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(r)
			} else {
				var rows [][]string
				for _, c := range r.Checks {
					rows = append(rows, []string{c.Name, c.Result, c.Detail, c.Hint})
				}
				err = newTable("CHECK", "RESULT", "FOUND", "WHAT TO DO").print(a.out, rows)
			}
			if err != nil {
				return err
			}
			var failed []string
			for _, c := range r.Checks {
				if c.Result == api.ResultFailed {
					failed = append(failed, c.Name)
				}
			}
			if len(failed) > 0 || !r.OK {
				return errors.New("the node is not sound: " + dash(strings.Join(failed, ", ")))
			}
			return nil
		},
	}
}

// completeFlow completes a flow's name as the first of n arguments.
func (a *app) completeFlow(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 || n < 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.List[api.FlowSummary], error) {
			return c.Flows(ctx, api.Page{Limit: api.MaxLimit})
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, f := range list.Items {
			names = append(names, f.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeStep completes a flow's name, then the name of one of its steps with state.
func (a *app) completeStep(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
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
		if s.Stateful {
			names = append(names, s.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
