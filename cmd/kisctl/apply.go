package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

// applyTimeout is how long an apply may take beyond --timeout: it waits until the partitions have the change.
const applyTimeout = 5 * time.Minute

func newApply(a *app) *cobra.Command {
	var (
		paths  []string
		shadow bool
		c      change
	)
	cmd := &cobra.Command{
		Use:   "apply -f PATH",
		Short: "Add and change definitions on the node, after showing the difference",
		Long: `apply sends definition files to the node, shows what they would change and asks before it is done. A folder is
read with all below it (.yml, .yaml). Definitions that the files do not name stay as they are. Without a yes
nothing changes; neither with a mistake in any of the files. A step that is removed, renamed or keyed by other fields
loses its state for good: each such step has to be named, by --drop-state or when it is asked for.

Revisions name who applied them: the user and the machine, or what the variable KISFLOW_USER says.

With --shadow the flow that the files change goes on as it is, and runs as they define it beside itself, on the same
events and with a copy of its state; what that one sends is kept apart. See kisctl shadow.`,
		Example: "  kisctl apply -f flows/\n  kisctl apply -f orders.yaml --yes\n  kisctl apply -f orders.yaml --yes --drop-state totals\n  kisctl apply -f orders.yaml --shadow",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usagef("which definitions? name a file or folder with -f PATH")
			}
			var err error
			if c.files, err = a.readFiles(paths); err != nil {
				return err
			}
			if shadow {
				c.keeps, c.verb, c.done = true, "start a shadow with", "started a shadow with"
				c.send = func(ctx context.Context, client *api.Client, ok api.Approval) (api.Plan, error) {
					return client.StartShadow(ctx, c.files, ok)
				}
			}
			return a.change(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&paths, "file", "f", nil, "definition file or folder at `PATH`, or - for standard input; may stand more than once")
	f.BoolVar(&shadow, "shadow", false, "run the changed flow beside itself, without effect")
	c.add(f)
	return cmd
}

// change is a change of definitions that a person may be asked about.
type change struct {
	files       []api.File
	yes, dryRun bool
	drop        []string // steps whose state may be dropped: STEP or FLOW/STEP
	keeps       bool     // it touches no state
	note        string
	from        map[string]uint64 // revisions of flows that it was made for
	verb, done  string            // "apply", "applied"
	same        string            // said where there is nothing to change
	send        func(context.Context, *api.Client, api.Approval) (api.Plan, error)
}

func (c *change) add(f *pflag.FlagSet) {
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&c.dryRun, "dry-run", false, "only show the difference")
	c.addDrop(f)
}

func (c *change) addDrop(f *pflag.FlagSet) {
	f.StringArrayVar(&c.drop, "drop-state", nil, "the state of `STEP` (or FLOW/STEP) may be dropped; may stand more than once")
}

// change shows what a change would do, asks, and does it.
func (a *app) change(ctx context.Context, c change) error {
	plan, err := ask(ctx, a, func(ctx context.Context, client *api.Client) (api.Plan, error) { return client.Plan(ctx, c.files) })
	if err != nil {
		return err
	}
	faults := 0
	for _, m := range plan.Mistakes {
		if m.Severity != api.SeverityWarning {
			faults++
		}
	}
	if faults == 0 {
		for _, f := range plan.Flows {
			if from, of := c.from[f.Flow]; of && f.From != from {
				return fmt.Errorf("flow %s was changed meanwhile: it is at revision %d, not %d any more; nothing was changed", clean(f.Flow), f.From, from)
			}
		}
	}
	ready := faults == 0 && len(plan.Changes) > 0 && !c.dryRun
	if !a.json() {
		a.printPlan(plan, faults, cmp.Or(c.same, "nothing to change"))
	} else if !ready {
		if err := a.printJSON(plan); err != nil {
			return err
		}
	}
	if faults > 0 {
		return fmt.Errorf("%s; nothing was changed", count(faults, "mistake"))
	}
	if !ready {
		return nil
	}
	ok := api.Approval{Plan: plan.ID, By: whoami(), Note: c.note}
	if !c.keeps {
		if ok.DropState, err = a.mayDrop(plan, c); err != nil {
			return err
		}
	}
	if !c.yes {
		if err := a.confirm(fmt.Sprintf("%s %s?", cmp.Or(c.verb, "apply"), count(len(plan.Changes), "change"))); err != nil {
			return err
		}
	}
	if a.timeout > 0 {
		longer := *a
		longer.timeout += applyTimeout
		a = &longer
	}
	done, err := ask(ctx, a, func(ctx context.Context, client *api.Client) (api.Plan, error) {
		if c.send != nil {
			return c.send(ctx, client, ok)
		}
		return client.Apply(ctx, c.files, ok)
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(done)
	}
	now := fmt.Sprintf("revision %d of the definitions", done.Revision)
	switch len(done.Flows) {
	case 0:
	case 1:
		now = fmt.Sprintf("flow %s, revision %d", clean(done.Flows[0].Flow), done.Flows[0].To)
	default:
		now = count(len(done.Flows), "flow")
	}
	_, err = fmt.Fprintf(a.out, "%s %s: %s\n", cmp.Or(c.done, "applied"), count(len(done.Changes), "change"), now)
	return err
}

// mayDrop names the steps whose state a plan drops, when a person has said for each that it may.
func (a *app) mayDrop(p api.Plan, c change) ([]string, error) {
	var names []string
	for _, f := range p.Flows {
		for _, s := range f.Steps {
			if s.State != api.StateIsDropped {
				continue
			}
			name := api.DropName(f.Flow, s.Step)
			switch {
			case slices.Contains(c.drop, s.Step) || slices.Contains(c.drop, name):
			case c.yes:
				return nil, fmt.Errorf("the change drops the state of step %s of flow %s%s for good: say --drop-state %s, or keep the step's name and key; nothing was changed",
					clean(s.Step), clean(f.Flow), ofKeys(s.Keys), shellQuote(s.Step))
			default:
				fmt.Fprintf(a.errs, "the state of step %s of flow %s%s will be dropped for good; type the step's name if it may: ", clean(s.Step), clean(f.Flow), ofKeys(s.Keys))
				if line := a.line(); line != s.Step {
					return nil, fmt.Errorf("not done: that is not the step's name")
				}
			}
			names = append(names, name)
		}
	}
	return names, nil
}

func ofKeys(n int) string {
	switch {
	case n == 0:
		return ""
	case n >= api.MaxCounted:
		return fmt.Sprintf(" (%d keys or more)", n)
	}
	return " (" + count(n, "key") + ")"
}

// line reads a line of standard input, and nothing behind it.
func (a *app) line() string {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := a.in.Read(b)
		if n > 0 && b[0] != '\n' {
			line = append(line, b[0])
		}
		if n > 0 && b[0] == '\n' || err != nil {
			break
		}
	}
	if !isTerminal(a.in) {
		fmt.Fprintln(a.errs) // nobody typed the line break
	}
	return strings.TrimSpace(string(line))
}

// whoami is how revisions name who applied them: what the variable says, or the user and the machine.
func whoami() string {
	if name := os.Getenv(envUser); name != "" {
		return name
	}
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// printPlan prints mistakes and differences. What a definition's text holds is shown as text, not obeyed by the
// terminal.
func (a *app) printPlan(p api.Plan, faults int, same string) {
	for i, m := range p.Mistakes {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		fmt.Fprintln(a.out, cleanLines(m.String()))
	}
	if faults > 0 {
		return // the changes would not be those that are meant
	}
	if len(p.Changes) == 0 {
		fmt.Fprintln(a.out, same)
		return
	}
	for _, c := range p.Changes {
		fmt.Fprintf(a.out, "%s %s: %s\n", c.Kind, clean(c.Name), c.Action)
		for line := range strings.SplitSeq(strings.TrimSuffix(c.Diff, "\n"), "\n") {
			fmt.Fprintln(a.out, strings.TrimRight("    "+clean(line), " "))
		}
		for _, note := range c.Notes {
			fmt.Fprintf(a.out, "  note: %s\n", clean(note))
		}
	}
	for _, f := range p.Flows {
		a.printFlowPlan(f)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(a.out, "note: %s\n", clean(note))
	}
}

// printFlowPlan prints what a change does to a flow and its steps.
func (a *app) printFlowPlan(f api.FlowPlan) {
	fmt.Fprintf(a.out, "plan of flow %s: %s, ", clean(f.Flow), f.Action)
	if f.From == 0 {
		fmt.Fprintf(a.out, "revision %d\n", f.To)
	} else {
		fmt.Fprintf(a.out, "revision %d becomes %d\n", f.From, f.To)
	}
	for _, s := range f.Settings {
		fmt.Fprintf(a.out, "  ~ %s\n", clean(s))
	}
	wide := 0
	for _, s := range f.Steps {
		wide = max(wide, width(stepHead(s)))
	}
	for _, s := range f.Steps {
		sign := map[string]string{"added": "+", "removed": "-", "changed": "~", "moved": ">"}[s.Action]
		fmt.Fprintln(a.out, strings.TrimRight("  "+padRight(cmp.Or(sign, " "), 1)+" "+padRight(stepHead(s), wide)+"  "+stepFate(s), " "))
		for _, c := range s.Changes {
			fmt.Fprintf(a.out, "        %s\n", clean(c))
		}
	}
	for _, note := range f.Notes {
		fmt.Fprintf(a.out, "  note: %s\n", clean(note))
	}
}

// stepHead is a step with its place.
func stepHead(s api.StepPlan) string {
	at := number(s.To)
	switch {
	case s.To == 0:
		at = "was " + number(s.From)
	case s.From != 0 && s.From != s.To:
		at += ", was " + number(s.From)
	}
	return clean(s.Step) + " (" + at + ")"
}

// stepFate says what happens to a step and its state.
func stepFate(s api.StepPlan) string {
	out := s.Action
	switch s.State {
	case api.StateIsNew:
		out += "; begins without state"
	case api.StateIsKept:
		out += "; its state is kept"
	case api.StateIsMigrated:
		out += "; its state" + ofKeys(s.Keys) + " is migrated key by key"
	case api.StateIsDropped:
		out += "; its state" + ofKeys(s.Keys) + " IS DROPPED"
	}
	for _, part := range []struct {
		what   string
		fields []string
	}{{"new", s.StateAdded}, {"gone", s.StateRemoved}, {"computed otherwise", s.StateChanged}} {
		if len(part.fields) > 0 && s.State != api.StateIsDropped {
			out += "; " + part.what + ": " + clean(strings.Join(part.fields, ", "))
		}
	}
	return out
}

// cleanLines is clean for a text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// maxFiles and api.MaxBody bound what is read.
const maxFiles = 10_000

// readFiles reads definition files, folders with all below them in lexical order.
func (a *app) readFiles(paths []string) ([]api.File, error) {
	var files []api.File
	total := 0
	// script reads a script that a definition names; of one that cannot be read the node says where it is named.
	script := func(path string) error {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || slices.ContainsFunc(files, func(f api.File) bool { return f.Name == path }) {
			return nil
		}
		if total += int(min(info.Size(), api.MaxBody)); total > api.MaxBody {
			return fmt.Errorf("the files have more than %s", size(api.MaxBody))
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return fmt.Errorf("%s: it is not UTF-8; nothing was changed", path)
		}
		files = append(files, api.File{Name: path, Text: string(text)})
		return nil
	}
	read := func(name string, r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, int64(api.MaxBody-total)+1))
		if err != nil {
			return err
		}
		if total += len(text); total > api.MaxBody {
			return fmt.Errorf("the files have more than %s", size(api.MaxBody))
		}
		if len(files) == maxFiles {
			return fmt.Errorf("there are more than %d files", maxFiles)
		}
		if !utf8.Valid(text) { // on the way to the node it would become other text
			for _, m := range flowdef.Parse(name, text, new(flowdef.Set)) {
				return fmt.Errorf("line %d, column %d: %s; %s; nothing was changed", m.Pos.Line, m.Pos.Column, m.Message, m.Hint)
			}
		}
		files = append(files, api.File{Name: name, Text: string(text)})
		for _, path := range flowdef.ScriptFiles(name, text) {
			path = filepath.Join(filepath.Dir(name), filepath.FromSlash(path))
			if err := script(path); err != nil {
				return err
			}
		}
		return nil
	}
	open := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return read(path, f)
	}
	for _, path := range paths {
		if path == "-" {
			if err := read("standard input", a.in); err != nil {
				return nil, fmt.Errorf("standard input: %w", err)
			}
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fileError(path, err)
		}
		if !info.IsDir() {
			if err := open(path); err != nil {
				return nil, fileError(path, err)
			}
			continue
		}
		before := len(files)
		err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if ext := filepath.Ext(p); e.IsDir() || ext != ".yml" && ext != ".yaml" {
				return nil
			}
			return open(p)
		})
		if err != nil {
			return nil, fileError(path, err)
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s: the folder holds no definitions; only names that end in .yml or .yaml are read", path)
		}
	}
	return files, nil
}

// fileError is an error with its path, once.
func fileError(path string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return fmt.Errorf("%s: %w", path, err)
}
