// Package badinput gives the real kisnode and kisctl what they must not be given, events, definitions, flags and
// damaged files, and holds the answers word by word.
package badinput

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/test/process"
)

var rewrite = flag.Bool("rewrite", false, "write what comes out to testdata")

var bin string

func TestMain(m *testing.M) { flag.Parse(); process.Main(m, &bin, "kisnode", "kisctl") }

// start starts a node with definitions.
func start(t *testing.T, flows string, args ...string) *process.Node {
	t.Helper()
	n := process.NewNode(t, bin, t.TempDir()+"/data", append([]string{"--durability", "process", "--flows", flows}, args...)...)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n
}

// settled waits until no input is behind for a while.
func settled(t *testing.T, n *process.Node) {
	t.Helper()
	client := n.Client(t)
	since := time.Now()
	for end := time.Now().Add(time.Minute); time.Since(since) < 300*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		s, err := client.Status(context.Background())
		if err != nil {
			t.Fatalf("%v\n%s", err, n.Log())
		}
		if s.Lag > 0 {
			since = time.Now()
		}
		if time.Now().After(end) {
			t.Fatalf("still %d behind after a minute, problems %q\n%s", s.Lag, s.Problems, n.Log())
		}
	}
}

func deadLetters(t *testing.T, client *api.Client, flow string) (all []api.DeadLetter) {
	t.Helper()
	for page := (api.Page{Limit: 100}); ; {
		list, err := client.DeadLetters(context.Background(), flow, api.DeadLetterFilter{}, page)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Items...)
		if page.After = list.Next; page.After == "" {
			return all
		}
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -rewrite writes what came out:\n%s", path, got)
	}
}
