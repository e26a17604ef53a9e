package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

// applyTimeout is how long an apply may take beyond --timeout: it waits until the partitions have the change.
const applyTimeout = 5 * time.Minute

func newApply(a *app) *cobra.Command {
	var (
		paths       []string
		yes, dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f PATH",
		Short: "Add and change definitions on the node, after showing the difference",
		Long: `apply sends definition files to the node, shows what they would change and asks before it is done. A folder is
read with all below it (.yml, .yaml). Definitions that the files do not name stay as they are. Without a yes
nothing changes; neither with a mistake in any of the files.`,
		Example: "  kisctl apply -f flows/\n  kisctl apply -f orders.yaml --yes",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usagef("which definitions? name a file or folder with -f PATH")
			}
			files, err := a.readFiles(paths)
			if err != nil {
				return err
			}
			return a.apply(cmd.Context(), files, yes, dryRun)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&paths, "file", "f", nil, "definition file or folder at `PATH`, or - for standard input; may stand more than once")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&dryRun, "dry-run", false, "only show the difference")
	return cmd
}

func (a *app) apply(ctx context.Context, files []api.File, yes, dryRun bool) error {
	plan, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (api.Plan, error) { return c.Plan(ctx, files) })
	if err != nil {
		return err
	}
	faults := 0
	for _, m := range plan.Mistakes {
		if m.Severity != api.SeverityWarning {
			faults++
		}
	}
	ready := faults == 0 && len(plan.Changes) > 0 && !dryRun
	if !a.json() {
		a.printPlan(plan, faults)
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
	if !yes {
		if err := a.confirm(fmt.Sprintf("apply %s?", count(len(plan.Changes), "change"))); err != nil {
			return err
		}
	}
	if a.timeout > 0 {
		longer := *a
		longer.timeout += applyTimeout
		a = &longer
	}
	done, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (api.Plan, error) { return c.Apply(ctx, files, plan.ID) })
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(done)
	}
	_, err = fmt.Fprintf(a.out, "applied %s: revision %d\n", count(len(done.Changes), "change"), done.Revision)
	return err
}

// printPlan prints mistakes and differences. What a definition's text holds is shown as text, not obeyed by the
// terminal.
func (a *app) printPlan(p api.Plan, faults int) {
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
		fmt.Fprintln(a.out, "nothing to change")
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
