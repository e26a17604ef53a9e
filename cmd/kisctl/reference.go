package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// reference is docs/reference/cli.md: all commands as a page for people. A test keeps the page current.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# kisctl\n\n")
	b.WriteString(root.Long)
	b.WriteString(`

Answers go to standard output, as a table or with ` + "`-o json`" + ` in a stable form: one value, or for commands that list,
` + "`{\"items\":[...],\"next\":...}`" + `, where ` + "`next`" + ` is null at the end and else goes into ` + "`--after`" + `. Questions, progress and errors go to
standard error, an error in one line. This page is made from the commands.

## Exit codes

| code | |
|---|---|
`)
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", c.code, c.doc)
	}
	b.WriteString("\n## Global flags\n\n")
	flags(&b, root.PersistentFlags())
	b.WriteString("\n## Commands\n")
	commands(&b, root)
	return b.String()
}

func commands(b *strings.Builder, c *cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.Name() == "help" || sub.Hidden {
			continue
		}
		if sub.HasSubCommands() && sub.Name() != "completion" {
			commands(b, sub)
			continue
		}
		use := strings.TrimSuffix(sub.UseLine(), " [flags]")
		if sub.Name() == "completion" {
			use += " {bash|zsh|fish|powershell}"
		}
		fmt.Fprintf(b, "\n### %s\n\n", sub.CommandPath())
		fmt.Fprintf(b, "    %s\n\n", use)
		switch {
		case sub.Name() == "completion":
			b.WriteString("Print the completion script of a shell. It completes commands, flags, flows and steps.\n")
		case sub.Long != "":
			b.WriteString(sub.Long + "\n")
		default:
			b.WriteString(sub.Short + ".\n")
		}
		if sub.Example != "" {
			b.WriteString("\n")
			for line := range strings.SplitSeq(sub.Example, "\n") {
				fmt.Fprintf(b, "    %s\n", strings.TrimSpace(line))
			}
		}
		if sub.LocalNonPersistentFlags().HasAvailableFlags() {
			b.WriteString("\n")
			flags(b, sub.LocalNonPersistentFlags())
		}
	}
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	b.WriteString("| flag | default | |\n|---|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + strings.ToUpper(kind)
		}
		value := f.DefValue
		if value == "[]" || value == "false" {
			value = ""
		}
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, value, usage)
	})
}
