package badinput

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/test/process"
)

// ctx is for calls that end by themselves.
var ctx = context.Background()

// publish publishes a good event of every user from 1 to users, amounts n to a user.
func publish(t *testing.T, n *process.Node, users, amount int) {
	t.Helper()
	var lines strings.Builder
	for u := 1; u <= users; u++ {
		fmt.Fprintf(&lines, "{\"user\":%d,\"amount\":%d}\n", u, amount)
	}
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "bad.in", []byte(lines.String())); err != nil {
		t.Fatalf("%v\n%s", err, n.Log())
	}
}

// totals checks the states of all users.
func totals(t *testing.T, n *process.Node, users, count, total int) {
	t.Helper()
	client := n.Client(t)
	want := fmt.Sprintf(`{"count":%d,"total":%d}`, count, total)
	seen := 0
	for page := (api.Page{Limit: 1000}); ; {
		list, err := client.States(ctx, "Totals", "user", "", page)
		if err != nil {
			t.Fatalf("%v\n%s", err, n.Log())
		}
		for _, s := range list.Items {
			if seen++; string(s.State) != want {
				t.Errorf("state of %s: %s, want %s", s.Key, s.State, want)
			}
		}
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	if seen != users {
		t.Errorf("%d keys, want %d", seen, users)
	}
}

// until asks until the answer matches, and returns it.
func until(t *testing.T, n *process.Node, pattern string, ask func() string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := ask()
		if re.MatchString(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in 30 s, but\n%s\n%s", pattern, s, n.Log())
		}
	}
}

func ctl(t *testing.T, n *process.Node, args ...string) func() string {
	return func() string {
		out, errs, _ := n.Ctl(t, args...)
		return out + errs
	}
}

// oneLine checks that a process that must not start says so in one line.
func oneLine(t *testing.T, want string, args ...string) {
	t.Helper()
	c, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(c, filepath.Join(bin, "kisnode"), args...).CombinedOutput()
	if err == nil {
		t.Errorf("kisnode %q ended with 0", args)
	}
	text := strings.TrimSuffix(string(out), "\n")
	if strings.Contains(text, "\n") || !regexp.MustCompile(want).MatchString(text) {
		t.Errorf("kisnode %q says\n%s\nwant one line like %s", args, text, want)
	}
}

func TestFlags(t *testing.T) {
	oneLine(t, `^kisnode: no data folder; say --data DIR$`)
	oneLine(t, `^kisnode: unknown flag: --dat$`, "--dat", "x")
	oneLine(t, `^kisnode: durability is "soon"; it must be power or process$`, "--data", t.TempDir(), "--durability", "soon")
	oneLine(t, `^kisnode: listen is "here"; it must be HOST:PORT: .*missing port`, "--data", t.TempDir(), "--listen", "here")
	oneLine(t, `^kisnode: unknown command "start" for "kisnode"$`, "start")
	oneLine(t, `no such file`, "--data", t.TempDir(), "--flows", "nowhere")
	oneLine(t, `^kisnode: .*: no definition of kistype: global in it$`, "--data", t.TempDir(), "--config", "testdata/flows.yaml")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(t, `^kisnode: data folder: mkdir .*: not a directory$`, "--data", file)
}

// TestSecondProcess starts a node on the data folder and on the addresses of another one.
func TestSecondProcess(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	oneLine(t, `^kisnode: data folder .* is in use by another kisnode \(.* pid \d+\); stop it, or give this one its own --data$`,
		"--data", n.Data, "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	oneLine(t, `^kisnode: listen for the API: .*address already in use$`, "--data", t.TempDir(), "--listen", n.Listen, "--nats-listen", "127.0.0.1:0")
	publish(t, n, 10, 1)
	settled(t, n)
	totals(t, n, 10, 1, 1)
}

// TestSIGTERM stops a node in the middle of its work.
func TestSIGTERM(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	for range 20 {
		publish(t, n, 500, 1)
	}
	begin := time.Now()
	if err := n.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := n.Wait(10 * time.Second); err != nil {
		t.Fatalf("it ended with %v after %v\n%s", err, time.Since(begin), n.Log())
	}
	t.Logf("stopped after %v", time.Since(begin).Round(time.Millisecond))
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	settled(t, n)
	totals(t, n, 500, 20, 20)
}

// TestTooLarge publishes events beyond the limit of a message.
func TestTooLarge(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	file := filepath.Join(t.TempDir(), "large.jsonl")
	if err := os.WriteFile(file, []byte(`{"user":1,"amount":1,"text":"`+strings.Repeat("x", 9<<20)+`"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := n.Ctl(t, "publish", "bad.in", "-f", file)
	t.Logf("kisctl publish: %.300s", errs)
	if code == 0 || strings.Count(errs, "\n") != 1 || !regexp.MustCompile(`line 1.*(bytes|MiB)`).MatchString(errs) {
		t.Errorf("kisctl publish: exit code %d, %.300s, %.300s", code, out, errs)
	}
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "bad.in", make([]byte, 9<<20)); err == nil || !strings.Contains(err.Error(), nats.ErrMaxPayload.Error()) {
		t.Errorf("publish by NATS: %v", err)
	}
	publish(t, n, 3, 1)
	settled(t, n)
	totals(t, n, 3, 1, 1)
}

// flip damages the largest file that matches.
func flip(t *testing.T, dir, pattern string) string {
	t.Helper()
	var name string
	var size int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ok, _ := filepath.Match(pattern, d.Name()); ok {
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Size() > size {
				name, size = path, info.Size()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		return ""
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(b) / 3; i < len(b)*2/3; i++ {
		b[i] ^= 0x55
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDamagedStore flips bytes in what Pebble has on the disk; the log holds all of it.
func TestDamagedStore(t *testing.T) {
	for _, pattern := range []string{"*.sst", "MANIFEST-*", "*.log", "OPTIONS-*"} {
		t.Run(pattern, func(t *testing.T) {
			n := start(t, "testdata/flows.yaml")
			publish(t, n, 2000, 5)
			settled(t, n)
			// a stop writes the memory to tables; after the kill there is a log too
			if err := n.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := n.Wait(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			publish(t, n, 2000, 5)
			settled(t, n)
			n.Kill()
			name := flip(t, filepath.Join(n.Data, "state"), pattern)
			if name == "" {
				t.Fatalf("no file %s", pattern)
			}
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			settled(t, n)
			totals(t, n, 2000, 2, 10)
			publish(t, n, 2000, 5)
			settled(t, n)
			totals(t, n, 2000, 3, 15)
			for line := range strings.Lines(n.Log()) {
				if strings.Contains(line, "corrupt") {
					t.Logf("%.400s", line)
				}
			}
		})
	}
}

// TestForeignRecord publishes a message that is no record into a partition's log: that partition stops by name,
// the others go on.
func TestForeignRecord(t *testing.T) {
	n := start(t, "testdata/flows.yaml", "--log-level", "info")
	publish(t, n, 100, 1)
	settled(t, n)
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, actors.LogStream("Totals"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	subject := ""
	for name := range info.State.Subjects {
		if strings.HasSuffix(name, ".0") {
			subject = name
		}
	}
	if subject == "" {
		t.Fatalf("no subject of partition 0 in %v", info.State.Subjects)
	}
	if _, err := js.Publish(ctx, subject, binary.BigEndian.AppendUint64(nil, 0xdeadbeef)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		publish(t, n, 100, 1) // the partition meets it at its next commit
		time.Sleep(100 * time.Millisecond)
	}
	status := until(t, n, `problem .*partition Totals/user/0: .*the partition log is damaged: record at sequence`, ctl(t, n, "status"))
	t.Logf("status:\n%s", status)
	live := 0
	for _, p := range must(n.Client(t).Flow(ctx, "Totals")).Stages[0].Partitions {
		if p.Reason == "" {
			live++
		}
	}
	if live < 7 {
		t.Errorf("%d partitions go on, want the 7 others", live)
	}
	n.Kill()
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitLive(); err != nil {
		t.Fatal(err)
	}
	t.Logf("status after a restart:\n%s", until(t, n, `problem .*partition Totals/user/0: .*the partition log is damaged`, ctl(t, n, "status")))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestEntryRecreated deletes the entry stream under a node and makes it anew.
func TestEntryRecreated(t *testing.T) {
	n := start(t, "testdata/flows.yaml")
	publish(t, n, 10, 1)
	settled(t, n)
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	name, err := js.StreamNameBySubject(ctx, "bad.in")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, name); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{"bad.in"}}); err != nil {
		t.Fatal(err)
	}
	publish(t, n, 10, 1)
	text := until(t, n, name+`.*another stream`, ctl(t, n, "status"))
	t.Logf("%s", text)
	totals(t, n, 10, 1, 1) // it never resumes by itself
	n.Kill()
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitLive(); err != nil {
		t.Fatal(err)
	}
	until(t, n, name+`.*another stream`, ctl(t, n, "status"))
	out, errs, code := n.Ctl(t, "resume", "flow", "Totals", "--input", "beginning")
	if code != 0 {
		t.Fatalf("kisctl resume: exit code %d: %s%s\n%s", code, out, errs, n.Log())
	}
	settled(t, n)
	totals(t, n, 10, 2, 2)
}

// TestLossyEntry starts a flow on a stream that may discard events that nobody has read.
func TestLossyEntry(t *testing.T) {
	n := start(t, "testdata/empty.yaml")
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "MINE", Subjects: []string{"bad.>"}, MaxMsgs: 10}); err != nil {
		t.Fatal(err)
	}
	out, errs, code := n.Ctl(t, "apply", "-f", "testdata/flows.yaml", "--yes")
	t.Logf("%s", errs)
	if code == 0 || !regexp.MustCompile(`stream MINE may discard events that nobody has read \(.*\); change its limits or say allow_lossy: true`).MatchString(out+errs) {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// TestStreamsOfTheUser lets a flow write into a stream that has no place for its fences.
func TestStreamsOfTheUser(t *testing.T) {
	n := start(t, "testdata/empty.yaml")
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.StreamConfig{{Name: "IN", Subjects: []string{"mine.in.>"}}, {Name: "OUT", Subjects: []string{"mine.out.>"}}} {
		if _, err := js.CreateStream(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	if out, errs, code := n.Ctl(t, "apply", "-f", "testdata/mine.yaml", "--yes"); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	until(t, n, `effectively once within its duplicate window`, ctl(t, n, "describe", "flow", "Mine"))
	for i := range 50 {
		if _, err := js.Publish(ctx, "mine.in.a", fmt.Appendf(nil, `{"user":1,"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
		if i == 25 {
			n.Kill()
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	settled(t, n)
	until(t, n, `^50$`, func() string {
		s, err := js.Stream(ctx, "OUT")
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(s.CachedInfo().State.Msgs)
	})
}
