package main

import (
	"bytes"
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kisflow/kisflow/node"
)

// TestNode runs the scripts of testdata/node against a real node, which starts with the definitions of the
// script's folder flows. The command "until PATTERN kisctl ARGS..." runs it until its output matches.
func TestNode(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/node",
		UpdateScripts:       *rewrite,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			var log logBuffer
			ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
			n, err := node.Start(ctx, node.Options{Data: env.Getenv("WORK") + "/data", Flows: []string{env.Getenv("WORK") + "/flows"},
				NATSListen: "127.0.0.1:0", Listen: "127.0.0.1:0", Durability: "process", LogOutput: &log, Partitions: 2})
			if err != nil {
				stop()
				return err
			}
			env.Defer(func() {
				defer stop()
				if err := n.Close(ctx); err != nil {
					t.Errorf("close: %v\n%s", err, log.String())
				}
			})
			env.Setenv("KISFLOW_SERVER", "http://"+n.Address())
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until},
	})
}

// logBuffer keeps a node's log for a test that fails.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// until runs a command until its output matches, for at most 20 seconds.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN command args...")
	}
	pattern := regexp.MustCompile(`(?m)` + args[0])
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %q in 20 s, last error %v", args[0], err)
		}
	}
}
