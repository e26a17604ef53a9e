package nexmark

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/node"
)

// asNode makes the test's program a node: it holds its settings.
const asNode = "KISFLOW_NEXMARK_NODE"

// settings are those of a node in a process of its own.
type settings struct {
	Data, NATS, Listen string
	Partitions         int
}

func TestMain(m *testing.M) {
	node.Worker()
	if text := os.Getenv(asNode); text != "" {
		if err := runNode(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runNode(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return node.Run(context.Background(), node.Options{
		Data: s.Data, Flows: []string{"flows"}, Durability: "process", Partitions: s.Partitions, LogLevel: slog.LevelWarn.String(),
		NATSListen: s.NATS, Listen: s.Listen, ScriptWorker: program, LogOutput: os.Stderr,
	})
}

// running is a node with all flows of this folder, in a process of its own.
type running struct {
	settings settings
	api      *api.Client
	cmd      *exec.Cmd
	nc       *nats.Conn
	js       jetstream.JetStream
}

// logTo writes a node's log into the test's. What the race detector finds in the node is the test's failure.
type logTo struct{ t *testing.T }

func (l logTo) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("WARNING: DATA RACE")) || bytes.Contains(b, []byte("panic: ")) {
		l.t.Fail()
	}
	l.t.Logf("node: %s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startNode(ctx context.Context, t *testing.T, partitions int) *running {
	t.Helper()
	r := &running{settings: settings{Data: t.TempDir(), NATS: freeAddress(t), Listen: freeAddress(t), Partitions: partitions}}
	var err error
	if r.api, err = api.NewClient("http://" + r.settings.Listen); err != nil {
		t.Fatal(err)
	}
	r.start(ctx, t)
	t.Cleanup(func() { r.kill(t) })
	return r
}

// start starts the node's process, and waits for its flows.
func (r *running) start(ctx context.Context, t *testing.T) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r.settings)
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(program)
	r.cmd.Env = append(os.Environ(), asNode+"="+string(text))
	r.cmd.Stdout, r.cmd.Stderr = logTo{t}, logTo{t}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		s, err := r.api.Status(ctx)
		if err == nil && s.Ready {
			break
		}
		if time.Since(began) > 4*time.Minute || ctx.Err() != nil {
			t.Fatalf("the node is not ready: %v, %+v", err, s)
		}
	}
	if r.nc, err = nats.Connect("nats://" + r.settings.NATS); err != nil {
		t.Fatal(err)
	}
	if r.js, err = jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(256)); err != nil {
		t.Fatal(err)
	}
}

// kill ends the node's process without a word.
func (r *running) kill(t *testing.T) {
	t.Helper()
	r.nc.Close()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = r.cmd.Wait() // it says that it was killed
}

// publish publishes events, a hundred in a message.
func (r *running) publish(ctx context.Context, t *testing.T, texts [][]byte) {
	t.Helper()
	for len(texts) > 0 {
		n := min(100, len(texts))
		if _, err := r.js.PublishAsync(Subject, bytes.Join(texts[:n], []byte("\n")), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
		texts = texts[n:]
	}
	select {
	case <-r.js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}

// idle waits until a flow has counted all that has come in.
func (r *running) idle(ctx context.Context, t *testing.T, flow string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		lags, err := r.api.Lag(ctx, flow, api.Page{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		behind := uint64(0)
		for _, l := range lags.Items {
			behind += l.Lag
		}
		if behind == 0 {
			return
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("flow %s is %d messages behind", flow, behind)
		}
	}
}

// behind is how many messages all flows have not counted yet.
func (r *running) behind(ctx context.Context, t *testing.T) (n uint64) {
	t.Helper()
	flows, err := r.api.Flows(ctx, api.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows.Items {
		n += f.Lag
	}
	return n
}

// deadLetters tells of a flow's dead letters; none is expected.
func (r *running) deadLetters(ctx context.Context, t *testing.T, flow string) {
	t.Helper()
	letters, err := r.api.DeadLetters(ctx, flow, api.DeadLetterFilter{}, api.Page{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters.Items {
		t.Errorf("dead letter of %s at %s: %s", flow, l.Step, l.Reason)
	}
}

// rows reads a subject until it has so many rows, and then a little longer for those that must not be there. enough, if it
// is there, says instead of their number whether the rows are all.
func (r *running) rows(ctx context.Context, t *testing.T, subject string, n int, enough func([]Row) bool) []Row {
	t.Helper()
	stream, err := r.js.StreamNameBySubject(ctx, subject)
	if err != nil {
		t.Fatalf("stream of %s: %v", subject, err)
	}
	cons, err := r.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	for wait, quiet := 300*time.Millisecond, 0; ; {
		batch, err := cons.Fetch(1000, jetstream.FetchMaxWait(wait))
		if err != nil {
			t.Fatal(err)
		}
		before := len(rows)
		for m := range batch.Messages() {
			rows = append(rows, decode(t, m.Data())...)
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
		if len(rows) > before {
			quiet = 0
		} else {
			quiet++
		}
		all := len(rows) >= n
		if enough != nil && quiet > 0 {
			all = enough(rows)
		}
		if all && quiet > 0 || quiet > 100 || ctx.Err() != nil {
			return rows
		}
	}
}

// watch says how far the flows are when a test fails.
func (r *running) watch(ctx context.Context) string {
	flows, err := r.api.Flows(ctx, api.Page{Limit: 100})
	if err != nil {
		return err.Error()
	}
	s := ""
	for _, f := range flows.Items {
		s += fmt.Sprintf("%s: %s; ", f.Name, f.State)
	}
	return s
}
