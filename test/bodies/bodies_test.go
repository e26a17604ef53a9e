//go:build unix

// Package bodies runs functions that are not written in Go or in expressions with the real binaries: scripts in their
// worker processes, and programs in other languages, which die and come back in the middle.
package bodies

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/test/process"
)

var bin string

func TestMain(m *testing.M) { flag.Parse(); process.Main(m, &bin, "kisnode", "kisctl") }

// patience is how long what must happen may take on a slow machine.
const patience = time.Minute

// eventually waits until a condition holds; why says what is the matter while it does not.
func eventually(t *testing.T, why func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = why(); last == "" {
			return
		}
	}
	t.Fatal(last)
}

// node is a node of a test and its folder.
type node struct {
	*process.Node
	t   *testing.T
	dir string
}

func start(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{process.NewNode(t, bin, dir+"/data", "--durability", "process"), t, dir}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) write(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// ctl runs kisctl, which must succeed.
func (n *node) ctl(args ...string) string {
	n.t.Helper()
	out, errs, code := n.Ctl(n.t, args...)
	if code != 0 {
		n.t.Fatalf("kisctl %q: %s%s", args, out, errs)
	}
	return out
}

func (n *node) publish(subject string, lines ...string) {
	n.t.Helper()
	js, err := jetstream.New(n.Connect(n.t))
	if err != nil {
		n.t.Fatal(err)
	}
	for len(lines) > 0 { // 50 events a message
		some := lines[:min(50, len(lines))]
		lines = lines[len(some):]
		if _, err := js.Publish(n.t.Context(), subject, []byte(strings.Join(some, "\n"))); err != nil {
			n.t.Fatal(err)
		}
	}
}

// state is the state of a user at a step, as JSON; "" for none.
func (n *node) state(flow, step, user string) string {
	out, _, code := n.Ctl(n.t, "state", "get", flow, step, "user="+user, "-o", "json")
	if code != 0 {
		return ""
	}
	var e struct {
		State json.RawMessage `json:"state"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		n.t.Fatal(err)
	}
	return string(e.State)
}

// awaitStates waits until users have these states.
func (n *node) awaitStates(flow, step string, want map[string]string) {
	n.t.Helper()
	eventually(n.t, func() string {
		for user, w := range want {
			if got := n.state(flow, step, user); !sameJSON(got, w) {
				return fmt.Sprintf("user %s has %s, want %s\n%s", user, got, w, n.Log())
			}
		}
		return ""
	})
}

func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

// program is a program in another language that answers.
type program struct {
	cmd *exec.Cmd
}

// run starts a program of examples/remote and waits until it answers.
func run(t *testing.T, language, at string) *program {
	t.Helper()
	name, file := "python3", "python/points.py"
	if language == "javascript" {
		name, file = "node", "javascript/points.js"
	}
	p := &program{exec.Command(name, "../../examples/remote/"+file, at)}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	answers := make(chan bool, 1)
	go func() { // ends with the program
		for s := bufio.NewScanner(out); s.Scan(); {
			if strings.HasPrefix(s.Text(), "answers on") {
				answers <- true
			}
		}
	}()
	select {
	case <-answers:
	case <-time.After(patience):
		t.Fatalf("%s does not answer", file)
	}
	return p
}

func (p *program) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// TestRemote gives points by programs in Python and JavaScript, over NATS and HTTP. The program is killed in the middle and
// comes back: nothing is lost, and nothing is counted twice.
func TestRemote(t *testing.T) {
	text, err := os.ReadFile("../../examples/remote/flows.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for language, interpreter := range map[string]string{"python": "python3", "javascript": "node"} {
		for _, way := range []string{"nats", "http"} {
			t.Run(language+"/"+way, func(t *testing.T) {
				if out, err := exec.Command(interpreter, "--version").CombinedOutput(); err != nil {
					t.Skipf("there is no %s here, so nobody can answer: %v %s", interpreter, err, out)
				}
				n := start(t)
				at, body := n.NATSURL()+"/points."+language, "subject: points."+language
				if way == "http" {
					at = "http://" + process.FreeAddress(t) + "/"
					body = "url: '" + at + "'"
				}
				flows := strings.Replace(string(text), "subject: points.python", body, 1)
				if flows == string(text) && language+way != "pythonnats" {
					t.Fatal("flows.yaml has no subject to replace")
				}
				n.ctl("apply", "-f", n.write("flows.yaml", flows), "--yes")

				const users, orders = 20, 500
				line := func(i int) string {
					return fmt.Sprintf(`{"user":"u%d","amount":%d}`, i%users, i)
				}
				var lines []string
				want := map[string]string{}
				counts, points := map[int]int{}, map[int]int{}
				for i := 1; i <= orders; i++ {
					lines = append(lines, line(i))
					counts[i%users]++
					points[i%users] += i / 10
				}
				for u := range users {
					want[fmt.Sprint("u", u)] = fmt.Sprintf(`{"orders":%d,"points":%d}`, counts[u], points[u])
				}
				n.publish("orders.new", `{"user":"u1","amount":-5}`, `{"user":"u1","amount":0}`)
				n.publish("orders.new", lines[:orders/2]...) // nobody answers yet
				eventually(t, func() string {
					if out, _, _ := n.Ctl(t, "describe", "flow", "Points"); !strings.Contains(out, "nobody answers there") {
						return "describe does not say that nobody answers: " + out
					}
					return ""
				})
				p := run(t, language, at)
				n.publish("orders.new", lines[orders/2:orders*3/4]...)
				time.Sleep(50 * time.Millisecond)
				p.kill()
				n.publish("orders.new", lines[orders*3/4:]...)
				time.Sleep(200 * time.Millisecond)
				run(t, language, at)
				n.awaitStates("Points", "points", want)
				out := n.ctl("deadletters", "list", "Points")
				if strings.Count(out, "an amount of -5") != 1 || strings.Count(out, "\n") != 2 {
					t.Errorf("dead letters:\n%s", out)
				}
			})
		}
	}
}

const countFlow = `
kistype: flow
status: 1
flow_name: Count
entry: {subject: count.in}
flows: [{fname: CountUser, as: count}, {fname: Tell}]
---
kistype: func
fname: CountUser
fmode: Calculate
source: {must: [user]}
script: {file: js/count.js, timeout: 500ms, memory: 48MiB, keeps_key: true}
---
kistype: func
fname: Tell
fmode: Expand
expand: {subject: count.out}
`

// TestScript runs a script from a file: it is replaced while it runs, its worker and its node are killed, its file goes.
func TestScript(t *testing.T) {
	n := start(t)
	file := n.write("flows/flow.yaml", countFlow)
	n.write("flows/js/count.js", "function handle(row, state) {\n  state.n = (state.n || 0) + 1\n  if (row.bad) throw new Error('bad row')\n  return {user: row.user, n: state.n}\n}\n")
	n.ctl("apply", "-f", file, "--yes")
	line := func(i int) string { return fmt.Sprintf(`{"user":"u%d"}`, i%10) }
	var lines []string
	for i := range 1000 {
		lines = append(lines, line(i))
	}
	want := func(state string) map[string]string {
		all := map[string]string{}
		for u := range 10 {
			all[fmt.Sprint("u", u)] = state
		}
		return all
	}
	n.publish("count.in", `{"user":"u1","bad":true}`)
	n.publish("count.in", lines...)
	n.awaitStates("Count", "count", want(`{"n":100}`))
	if out := n.ctl("deadletters", "list", "Count"); !strings.Contains(out, "js/count.js:3:22: Error: bad row") {
		t.Errorf("dead letters:\n%s", out)
	}

	killed := 0
	for _, pid := range workers(t, n) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Error("the node has no worker for scripts")
	}
	n.publish("count.in", lines...)
	n.awaitStates("Count", "count", want(`{"n":200}`))

	n.write("flows/js/count.js", "function handle(row, state) {\n  state.n = (state.n || 0) + 1\n  state.version = 2\n  return {user: row.user, n: state.n}\n}\n")
	out := n.ctl("apply", "-f", file, "--yes")
	if !strings.Contains(out, "+    state.version = 2") || !strings.Contains(out, "-    if (row.bad)") {
		t.Errorf("the change of the script is not shown:\n%s", out)
	}
	n.publish("count.in", lines...)
	n.awaitStates("Count", "count", want(`{"n":300,"version":2}`))

	before := workers(t, n)
	n.Kill()
	for _, pid := range before {
		eventually(t, func() string {
			if syscall.Kill(pid, 0) == nil && zombie(pid) != "Z" {
				return fmt.Sprintf("worker %d lives on without its node", pid)
			}
			return ""
		})
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "flows")); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	n.publish("count.in", lines...)
	n.awaitStates("Count", "count", want(`{"n":400,"version":2}`))
	if err := n.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	last := workers(t, n)
	if err := n.Wait(patience); err != nil {
		t.Error(err)
	}
	for _, pid := range last {
		if syscall.Kill(pid, 0) == nil && zombie(pid) != "Z" {
			t.Errorf("worker %d lives on after its node has stopped", pid)
		}
	}
}

// workers are the processes that a node has started.
func workers(t *testing.T, n *node) (pids []int) {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,args=").Output()
	if err != nil {
		t.Skip("ps cannot tell the node's workers: ", err)
	}
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		if len(f) == 4 && f[1] == strconv.Itoa(n.Pid()) && f[3] == "script-worker" {
			pid, err := strconv.Atoi(f[0])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// zombie is the state of a process: Z where it has ended and nobody has asked how.
func zombie(pid int) string {
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "Z" // it is gone
	}
	return strings.TrimSpace(string(out))[:1]
}

// TestHostileScript has rows that loop and allocate without end among good ones of other keys, in a flow beside another one.
func TestHostileScript(t *testing.T) {
	n := start(t)
	n.write("flows/js/count.js", `function handle(row, state) {
  state.n = (state.n || 0) + 1
  if (row.do === "loop") for (;;) {}
  if (row.do === "grow") { const a = []; for (;;) a.push("x".repeat(1000) + a.length) }
  return {user: row.user, n: state.n}
}
`)
	n.ctl("apply", "-f", n.write("flows/flow.yaml", countFlow), "--yes")
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf(`{"user":"u%d"}`, i%10))
		switch i {
		case 50:
			lines = append(lines, `{"user":"u1","do":"loop"}`)
		case 60:
			lines = append(lines, `{"user":"u2","do":"grow"}`)
		}
	}
	n.publish("count.in", lines...)
	want := map[string]string{}
	for u := range 10 {
		want[fmt.Sprint("u", u)] = `{"n":20}`
	}
	n.awaitStates("Count", "count", want)
	out := n.ctl("deadletters", "list", "Count")
	if !strings.Contains(out, "it took longer than 500ms (script.timeout)") ||
		!strings.Contains(out, "it used more than 48MiB of memory (script.memory)") && strings.Count(out, "it took longer than") != 2 || strings.Count(out, "\n") != 3 {
		t.Errorf("dead letters:\n%s", out)
	}
}

const badFlow = `
kistype: flow
status: 1
flow_name: Bad
entry: {subject: bad.in}
flows: [{fname: CountUser, as: count}, {fname: Tell}]
---
kistype: func
fname: CountUser
fmode: Calculate
source: {must: [user]}
option: {retry_duration: 100ms}
remote: {subject: bad.count, timeout: 300ms, retries: 1}
---
kistype: func
fname: Tell
fmode: Expand
expand: {subject: bad.out}
`

// TestBadRemote has a program that hangs over one row, answers rubbish to another one, and answers everything twice: only
// the rows at fault suffer, and what is said twice counts once.
func TestBadRemote(t *testing.T) {
	n := start(t)
	nc := n.Connect(t)
	type count struct {
		N int `json:"n"`
	}
	_, err := nc.Subscribe("bad.count", func(m *nats.Msg) {
		var q struct {
			ID    string
			Calls []struct {
				State *count
				Rows  []struct {
					Row struct{ User, Do string }
				}
			}
		}
		if err := json.Unmarshal(m.Data, &q); err != nil {
			t.Error(err)
			return
		}
		type result struct {
			State count `json:"state"`
			Rows  []any `json:"rows"`
		}
		results := []result{}
		for _, c := range q.Calls {
			var r result
			if c.State != nil {
				r.State = *c.State
			}
			for _, row := range c.Rows {
				switch row.Row.Do {
				case "hang":
					return
				case "rubbish":
					_ = m.Respond([]byte("?"))
					return
				}
				r.State.N++
				r.Rows = append(r.Rows, map[string]any{"emit": []any{map[string]any{"user": row.Row.User, "n": r.State.N}}})
			}
			results = append(results, r)
		}
		answer, err := json.Marshal(map[string]any{"v": 1, "id": q.ID, "results": results})
		if err != nil {
			t.Error(err)
			return
		}
		_ = m.Respond(answer)
		_ = m.Respond([]byte(strings.ReplaceAll(string(answer), `"n":`, `"n":1`))) // and once more, with other numbers
	})
	if err != nil {
		t.Fatal(err)
	}
	n.ctl("apply", "-f", n.write("flow.yaml", badFlow), "--yes")
	var lines []string
	want := map[string]string{}
	for i := range 200 {
		lines = append(lines, fmt.Sprintf(`{"user":"u%d"}`, i%10))
		switch i {
		case 51:
			lines = append(lines, `{"user":"u1","do":"hang"}`)
		case 62:
			lines = append(lines, `{"user":"u2","do":"rubbish"}`)
		}
		want[fmt.Sprint("u", i%10)] = `{"n":20}`
	}
	n.publish("bad.in", lines...)
	n.awaitStates("Bad", "count", want)
	out := n.ctl("deadletters", "list", "Bad", "-o", "json")
	if !strings.Contains(out, "after 1 retries: subject bad.count: no answer within 300ms: context deadline exceeded, and answers others") ||
		!strings.Contains(out, "subject bad.count: the answer is not of the protocol") || strings.Count(out, `"reason"`) != 2 {
		t.Errorf("dead letters:\n%s", out)
	}
	if out := n.ctl("tail", "bad.out", "--from", "beginning", "--no-follow", "--server", n.URL()); strings.Count(out, "\n") != 200 {
		t.Errorf("%d outputs, want 200", strings.Count(out, "\n"))
	}
}
