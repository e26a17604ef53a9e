package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

// app is what the commands share: the streams and the global flags.
type app struct {
	in        io.Reader
	out, errs io.Writer
	program   string // of this process, for workers of scripts; "": they run in this process

	server  string
	output  string // table or json
	timeout time.Duration
}

const (
	envServer = "KISFLOW_SERVER"
	envNATS   = "KISFLOW_NATS"
	envUser   = "KISFLOW_USER"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:               "kisctl",
		Short:             "Look at and steer a KisFlow node",
		Long:              "kisctl checks and applies definitions, shows flows, states and dead letters, publishes events and follows subjects.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	server := os.Getenv(envServer)
	if server == "" {
		server = "http://" + api.DefaultListen
	}
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", server, "`URL` of the node's API; the variable "+envServer+" sets it too")
	f.Lookup("server").DefValue = "http://" + api.DefaultListen
	f.StringVarP(&a.output, "output", "o", "table", "`FORM` of the answer: table or json")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer of the API; 0: for ever")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newLint(a), newGraph(a), newApply(a), newGet(a), newDescribe(a),
		newFlow(a), newRollback(a), newShadow(a),
		newSetFlow(a, api.ActionPause), newSetFlow(a, api.ActionResume), newSetFlow(a, api.ActionDelete),
		newPublish(a), newTail(a), newRun(a), newTest(a), newState(a), newDeadLetters(a), newLag(a), newStatus(a), newDoctor(a), newConnector(a), newVersion(a),
		newBench(a), newCluster(a),
	)
	group(root)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("completion") // any argument: it is part of the program, asked for or not
	tidy(root)
	return root
}

// group makes a command that only holds others: alone it shows its help, an unknown word is a usage error.
func group(c *cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		if len(args) == 0 {
			if cmd.HasParent() {
				return usagef("%s what? it knows %s", cmd.Name(), strings.Join(names, ", "))
			}
			return cmd.Help()
		}
		unknown := strings.TrimPrefix(cmd.CommandPath()+" "+args[0], cmd.Root().Name()+" ")
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("unknown command %q; did you mean %s?", unknown, strings.Join(near, " or "))
		}
		return usagef("unknown command %q; there are %s", unknown, strings.Join(names, ", "))
	}
	return c
}

// tidy turns the argument errors of all commands into usage errors.
func tidy(c *cobra.Command) {
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%v; usage: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		tidy(sub)
	}
}

// exactly wants as many arguments as the command's usage names.
func exactly(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s given", count(len(args), "argument"))
		}
		return nil
	}
}

func atLeast(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return fmt.Errorf("%s given", count(len(args), "argument"))
		}
		return nil
	}
}

func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%s given", count(len(args), "argument"))
		}
		return nil
	}
}

// count says how many: 1 line, 2 lines.
func count[N int | uint64 | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (a *app) checkFlags() error {
	if a.output != "table" && a.output != "json" {
		return usagef("-o is %q; it must be table or json", a.output)
	}
	if a.timeout < 0 {
		return usagef("--timeout is %s; it must not be negative", a.timeout)
	}
	return nil
}

func (a *app) json() bool { return a.output == "json" }

// client makes the client of the API.
func (a *app) client() (*api.Client, error) {
	c, err := api.NewClient(a.server)
	if err != nil {
		return nil, usagef("--server: %v", err)
	}
	return c, nil
}

// ask makes one call of the API under --timeout.
func ask[T any](ctx context.Context, a *app, call func(context.Context, *api.Client) (T, error)) (T, error) {
	var none T
	c, err := a.client()
	if err != nil {
		return none, err
	}
	defer c.Close()
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	return call(ctx, c)
}

// confirm asks a question on standard error and reads the answer from standard input. No answer is no.
func (a *app) confirm(question string) error {
	fmt.Fprintf(a.errs, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if !isTerminal(a.in) {
		fmt.Fprintln(a.errs) // nobody typed the line break
	}
	if err != nil && line == "" {
		return errors.New("not done: nobody answered; --yes says it in advance")
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not done: the answer was not yes")
}

// isTerminal tells whether a person looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of kisctl",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Revision string `json:"revision"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Version = info.Main.Version
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			if a.json() {
				return a.printJSON(v)
			}
			return a.printFields([][2]string{{"version", v.Version}, {"revision", v.Revision}, {"go", v.Go}, {"platform", v.Platform}})
		},
	}
}
