package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	natsclient "github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"

	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/functions/remote"
	"github.com/kisflow/kisflow/functions/script"
	"github.com/kisflow/kisflow/kis"
)

// codeScript is the code of a mistake in a script.
const codeScript = "KF4005"

// Worker turns the process into a worker for scripts if its arguments ask for that, and does not return then. Main
// calls it; a program that runs nodes or flows without Main calls it first of all, and names itself as the worker's
// program (Options.ScriptWorker, InMemory.ScriptWorker).
func Worker() {
	if len(os.Args) != 2 || os.Args[1] != script.Command {
		return
	}
	if err := script.Work(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "script worker: "+err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// ownProgram is the path of this process's binary, "" if it is not known.
func ownProgram() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

// isScript tells whether a file holds a script, and no definitions.
func isScript(f api.File) bool { return strings.HasSuffix(f.Name, ".js") }

// scriptsAmong opens the scripts that a definition file names, where they are among the files that came with it.
func scriptsAmong(files []api.File, name string) flowdef.Opener {
	return func(path string) ([]byte, error) {
		want := filepath.Join(filepath.Dir(name), filepath.FromSlash(path))
		for _, f := range files {
			if isScript(f) && filepath.Clean(filepath.FromSlash(f.Name)) == want {
				return []byte(f.Text), nil
			}
		}
		return nil, errors.New("it is not among the files that came with the definition")
	}
}

// lintScript finds what is wrong with a function's script.
func lintScript(def *flowdef.Func) flowdef.Mistakes {
	var mistakes flowdef.Mistakes
	if strings.TrimSpace(def.Script.Source()) == "" {
		return nil // it could not be read, which was said
	}
	for _, m := range script.Check(def.Script.File, def.Script.Source(), len(def.Source.Must) > 0) {
		pos := def.Script.Code.Pos
		if m.Offset >= 0 {
			pos = def.Script.At(m.Offset)
		}
		mistakes = append(mistakes, flowdef.NewMistake(pos, codeScript, m.Message, m.Hint))
	}
	return mistakes
}

// body makes a function that is described in YAML, but not by expressions; nil if the definition has no such body.
func (pl *planner) body(fn *flowdef.Func) (kis.Function, error) {
	if fn.Script == nil && fn.Remote == nil {
		return nil, nil
	}
	var subject func(*kis.Row) (string, error)
	if fn.Expand != nil {
		var err error
		if subject, err = functions.Subject(fn.Expand.Subject.Value); err != nil {
			return nil, fmt.Errorf("function %s: %w", fn.Name, err)
		}
	}
	if fn.Remote != nil {
		return pl.remote(fn, subject), nil
	}
	s := fn.Script
	f, ms := script.New(script.Spec{Name: fn.Name, Mode: kis.Mode(fn.Mode), Must: mustOf(fn), File: s.File, Source: s.Source(),
		Limits: script.Limits{Time: s.Timeout, Memory: s.Memory}, KeepsKey: s.KeepsKey, Subject: subject}, pl.scripts)
	if len(ms) > 0 {
		return nil, fmt.Errorf("function %s: script: %w", fn.Name, ms[0])
	}
	return f, nil
}

// remote makes a function that another program answers.
func (pl *planner) remote(fn *flowdef.Func, subject func(*kis.Row) (string, error)) kis.Function {
	r := fn.Remote
	spec := remote.Spec{Name: fn.Name, Mode: kis.Mode(fn.Mode), Must: mustOf(fn), Timeout: r.Timeout, Batch: r.Batch, KeepsKey: r.KeepsKey, Subject: subject}
	switch {
	case r.URL.Value != "":
		spec.Where, spec.Caller = redactURL(r.URL.Value), remote.NewHTTP(r.URL.Value)
	default:
		spec.Where = "subject " + r.Subject.Value
		if pl.client != nil {
			spec.Caller = &natsCaller{pl.client, r.Subject.Value}
		}
	}
	return remote.New(spec)
}

// remoteRetries gives the step of a remote function its retries: a row that is not answered while others are is tried
// again.
func remoteRetries(fn *flowdef.Func, s *actors.Step) {
	if fn.Remote == nil {
		return
	}
	if s.RetryTimes == 0 {
		if s.RetryTimes = fn.Remote.Retries; s.RetryTimes < 0 {
			s.RetryTimes = math.MaxInt32
		}
	}
	s.RetryDelay = cmp.Or(s.RetryDelay, time.Second)
}

// natsCaller calls a program over NATS request and reply. Of several answers to a request the first one counts.
type natsCaller struct {
	conn    *natsclient.Conn
	subject string
}

// MaxRequest implements remote.Caller.
func (c *natsCaller) MaxRequest() int { return int(c.conn.MaxPayload()) }

// Call implements remote.Caller.
func (c *natsCaller) Call(ctx context.Context, request []byte) ([]byte, error) {
	m, err := c.conn.RequestWithContext(ctx, c.subject, request)
	switch {
	case errors.Is(err, natsclient.ErrNoResponders):
		return nil, remote.ErrNobody
	case errors.Is(err, natsclient.ErrMaxPayload):
		return nil, remote.ErrTooLarge
	case err != nil:
		return nil, err
	}
	return m.Data, nil
}
