package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

// follower is one run of tail.
type follower struct {
	app *app

	subject, from, nats string
	limit               int
	noFollow            bool
	wait                time.Duration

	safe  bool // a person looks: nothing that a terminal would obey
	shown int
}

func newTail(a *app) *cobra.Command {
	t := &follower{app: a}
	cmd := &cobra.Command{
		Use:   "tail SUBJECT",
		Short: "Print what is published to a subject, wildcards allowed",
		Long: `tail prints the payloads of messages as they come, or with --from those that the subject's stream holds first. With
-o json it prints one object a message: subject, sequence, time, headers and data. It runs until it is
interrupted, unless -n or --no-follow ends it.`,
		Example: "  kisctl tail totals.user\n  kisctl tail 'orders.>' --from beginning -n 10",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.subject = args[0]
			return t.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.from, "from", "now", "where to begin: now, beginning, or a sequence `NUMBER` of the stream")
	f.IntVarP(&t.limit, "limit", "n", 0, "end after `N` lines (with -o json: messages); 0: never")
	f.BoolVar(&t.noFollow, "no-follow", false, "end with the newest message that the stream holds at the start")
	f.DurationVar(&t.wait, "wait", 0, "end with 1 when nothing came for so `LONG`; 0: never")
	f.StringVar(&t.nats, "nats", os.Getenv(envNATS), "`URL` of the NATS server, in place of what the node says; the variable "+envNATS+" sets it too")
	f.Lookup("nats").DefValue = ""
	return cmd
}

func (t *follower) run(ctx context.Context) error {
	if err := checkSubject(t.subject, true); err != nil {
		return usagef("%v", err)
	}
	from := uint64(0) // now
	if t.from == "beginning" {
		from = 1
	} else if t.from != "now" {
		n, err := strconv.ParseUint(t.from, 10, 64)
		if err != nil || n == 0 {
			return usagef("--from is %q; it must be now, beginning, or a sequence from 1 on", t.from)
		}
		from = n
	}
	switch {
	case t.limit < 0:
		return usagef("-n is %d; it must not be negative", t.limit)
	case t.wait < 0:
		return usagef("--wait is %s; it must not be negative", t.wait)
	case t.noFollow && from == 0:
		return usagef("--no-follow needs --from beginning or a sequence: from now on there is nothing yet")
	}
	address, err := t.app.natsURL(ctx, t.nats)
	if err != nil {
		return err
	}
	if address == "" {
		return errors.New("the node's NATS cannot be reached from here; let it listen by --nats-listen, or name it by --nats URL")
	}
	nc, err := dialNATS(address, nats.MaxReconnects(-1), nats.ReconnectWait(redialWait))
	if err != nil {
		return err
	}
	defer nc.Close()
	t.safe = isTerminal(t.app.out)
	if from == 0 {
		err = t.live(ctx, nc)
	} else {
		err = t.stored(ctx, nc, from)
	}
	if ctx.Err() != nil {
		return nil // interrupting is how one ends it
	}
	return err
}

// live prints what is published from now on, whether a stream stores it or not.
func (t *follower) live(ctx context.Context, nc *nats.Conn) error {
	sub, err := nc.SubscribeSync(t.subject)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", t.subject, err)
	}
	for {
		m, err := next(ctx, t.wait, sub.NextMsgWithContext)
		if errors.Is(err, nats.ErrSlowConsumer) {
			fmt.Fprintln(t.app.errs, "kisctl: messages were left out: they come faster than they are printed; --from beginning shows all")
			continue
		}
		if err != nil {
			return t.ended(err)
		}
		if done, err := t.print(m.Subject, 0, time.Now(), m.Header, m.Data); done || err != nil {
			return err
		}
	}
}

// stored prints what a stream holds, then what comes.
func (t *follower) stored(ctx context.Context, nc *nats.Conn, from uint64) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	begin, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	name, err := js.StreamNameBySubject(begin, t.subject)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("no stream stores subject %s; without --from tail prints what is published from now on", t.subject)
	}
	if err != nil {
		return fmt.Errorf("stream of subject %s: %w", t.subject, err)
	}
	last := uint64(0)
	if t.noFollow {
		stream, err := js.Stream(begin, name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		m, err := stream.GetLastMsgForSubject(begin, t.subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stream %s: last message of %s: %w", name, t.subject, err)
		}
		if last = m.Sequence; last < from {
			return nil
		}
	}
	c := jetstream.OrderedConsumerConfig{FilterSubjects: []string{t.subject}, DeliverPolicy: jetstream.DeliverAllPolicy}
	if from > 1 {
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	consumer, err := js.OrderedConsumer(begin, name, c)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	defer messages.Stop()
	for {
		m, err := next(ctx, t.wait, func(ctx context.Context) (jetstream.Msg, error) { return messages.Next(jetstream.NextContext(ctx)) })
		if err != nil {
			return t.ended(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		done, err := t.print(m.Subject(), meta.Sequence.Stream, meta.Timestamp, m.Headers(), m.Data())
		if done || err != nil || last > 0 && meta.Sequence.Stream >= last {
			return err
		}
	}
}

// next waits for a message, for at most wait if that is set.
func next[M any](ctx context.Context, wait time.Duration, get func(context.Context) (M, error)) (M, error) {
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	return get(ctx)
}

func (t *follower) ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("nothing came for %s; %s printed", t.wait, count(t.shown, "line"))
	}
	return fmt.Errorf("subject %s: %w", t.subject, err)
}

// message is one message with -o json.
type message struct {
	Subject  string      `json:"subject"`
	Sequence uint64      `json:"sequence,omitempty"` // of the stream, with --from
	Time     time.Time   `json:"time"`               // when it was stored, without --from when it was received
	Headers  nats.Header `json:"headers,omitempty"`
	Data     api.Bytes   `json:"data"`
}

// print prints a message; done says that it was the last one.
func (t *follower) print(subject string, sequence uint64, at time.Time, header nats.Header, data []byte) (done bool, err error) {
	if t.app.json() {
		b, err := json.Marshal(message{subject, sequence, at.UTC(), header, data})
		if err != nil {
			return false, err
		}
		t.shown++
		_, err = t.app.out.Write(append(b, '\n'))
		return t.shown == t.limit, err
	}
	for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		if t.safe {
			line = []byte(clean(string(line)))
		}
		if _, err := t.app.out.Write(append(bytes.Clone(line), '\n')); err != nil {
			return false, err
		}
		if t.shown++; t.shown == t.limit {
			return true, nil
		}
	}
	return false, nil
}
