package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/bench/nexmark"
)

// benchGrace is how long the cleaning up after a run in a node may take.
const benchGrace = time.Minute

// inNode runs a query in a running node: under names and subjects of their own, so that nothing of an earlier run is in
// it, and removes all of it at the end.
func (b *nexmarkBench) inNode(ctx context.Context, q nexmark.Query) (r benchmarked, err error) {
	client, err := b.app.client()
	if err != nil {
		return r, err
	}
	defer client.Close()
	address, err := b.app.natsURL(ctx, b.nats)
	if err != nil {
		return r, err
	}
	if address == "" {
		return r, api.Errorf(api.ErrUnreachable, "the node's NATS listens only on its own machine; name its address with --nats")
	}
	nc, err := dialNATS(address)
	if err != nil {
		return r, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return r, err
	}

	run := strings.ToLower(nuid.Next()[14:])
	files, err := b.definitions(q)
	if err != nil {
		return r, err
	}
	own := rename(files, run)
	flows := flowNames(own)
	in, out := "nexmark-"+run+".events", "nexmark-"+run+".out."+q.Name
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), benchGrace)
		defer cancel()
		err = errors.Join(err, removeBench(clean, client, js, flows, in, out))
	}()
	if _, err := client.Apply(ctx, own, api.Approval{By: "kisctl bench"}); err != nil {
		return r, err
	}

	a := &answers{bench: b, query: q}
	stream, err := js.StreamNameBySubject(ctx, out)
	if err != nil {
		return r, fmt.Errorf("the stream of %s: %w", out, err)
	}
	reader, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{out}})
	if err != nil {
		return r, err
	}
	reading, err := reader.Consume(func(m jetstream.Msg) { a.add(m.Data()) })
	if err != nil {
		return r, err
	}
	defer reading.Stop()

	f := &feeder{bench: b, publish: func(message []byte) error {
		_, err := js.PublishAsync(in, bytes.Clone(message), jetstream.WithStallWait(time.Minute))
		return err
	}}
	stored := func() error {
		select {
		case <-js.PublishAsyncComplete():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if q.Name == "q13" {
		if err := f.side(); err != nil {
			return r, err
		}
		if err := errors.Join(stored(), idleFlows(ctx, client, flows)); err != nil {
			return r, err
		}
	}
	before, err := nodeTime(ctx, b.app.server)
	if err != nil {
		return r, err
	}
	a.begin(time.Now())
	if err := f.feed(ctx); err != nil {
		return r, err
	}
	end := nexmark.AppendEnd(nil, b.gen.Time(b.events).Add(time.Hour)) // so that all windows close
	if err := f.publish(end); err != nil {
		return r, err
	}
	if err := errors.Join(stored(), idleFlows(ctx, client, flows)); err != nil {
		return r, err
	}
	counted := time.Now()
	if err := a.quiet(ctx, reader); err != nil {
		return r, err
	}
	after, err := nodeTime(ctx, b.app.server)
	if err != nil {
		return r, err
	}
	reading.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.After(counted) {
		counted = a.last
	}
	r = b.figures(q, a, counted.Sub(f.began), after-before)
	for _, name := range flows {
		s, err := client.Flow(ctx, name)
		if err != nil {
			return r, err
		}
		if s.DeadLetters == 0 {
			continue
		}
		r.DeadLetters += s.DeadLetters
		letters, err := client.DeadLetters(ctx, name, api.DeadLetterFilter{}, api.Page{Limit: 1})
		if err != nil {
			return r, err
		}
		for _, l := range letters.Items {
			r.reason = l.Step + ": " + l.Reason
		}
	}
	return r, nil
}

// benchQuiet is how long no row of an answer comes before it is taken to be whole: when all events are counted, watermarks
// may still be on their way from one stage to the next.
const benchQuiet = time.Second

// quiet waits until the answer is whole and has come.
func (a *answers) quiet(ctx context.Context, reader jetstream.Consumer) error {
	rows, since := uint64(0), time.Now()
	for {
		info, err := reader.Info(ctx)
		if err != nil {
			return err
		}
		a.mu.Lock()
		more := a.rows != rows || info.NumPending > 0
		rows = a.rows
		a.mu.Unlock()
		if more {
			since = time.Now()
		} else if time.Since(since) > benchQuiet {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ownNames are the names in the definitions that a run makes its own: of flows, functions, hand-offs and subjects.
var ownNames = regexp.MustCompile(`\bnexmark([-.][a-z])|\bNexmark([A-Z])`)

// rename gives the flows of a run names and subjects of their own.
func rename(files []nexmark.File, run string) []api.File {
	var own []api.File
	for _, f := range files {
		text := ownNames.ReplaceAllString(string(f.Text), "nexmark-"+run+"$1$2")
		own = append(own, api.File{Name: strings.Replace(f.Name, "nexmark/", "nexmark-"+run+"/", 1), Text: text})
	}
	return own
}

// flowNames are the flows that files define.
func flowNames(files []api.File) []string {
	var names []string
	for _, f := range files {
		for line := range strings.SplitSeq(f.Text, "\n") {
			if name, ok := strings.CutPrefix(line, "flow_name: "); ok {
				names = append(names, name)
			}
		}
	}
	return names
}

// idleFlows waits until flows have counted all that has come in.
func idleFlows(ctx context.Context, client *api.Client, flows []string) error {
	for quiet := 0; quiet < 2; {
		behind := uint64(0)
		for _, name := range flows {
			lags, err := client.Lag(ctx, name, api.Page{Limit: 100})
			if err != nil {
				return err
			}
			for _, l := range lags.Items {
				if behind += l.Lag; l.State == "stopped" {
					return fmt.Errorf("flow %s has stopped at %s: %s", name, l.Step, l.Reason)
				}
			}
		}
		if behind == 0 {
			quiet++
		} else {
			quiet = 0
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// removeBench removes what a run has made.
func removeBench(ctx context.Context, client *api.Client, js jetstream.JetStream, flows []string, subjects ...string) error {
	var errs []error
	for i := len(flows) - 1; i >= 0; i-- { // those that load before those that save
		if _, err := client.SetFlow(ctx, flows[i], api.ActionDelete); err != nil && !errors.Is(err, api.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	for _, subject := range subjects {
		stream, err := js.StreamNameBySubject(ctx, subject)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err == nil {
			err = js.DeleteStream(ctx, stream)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove the stream of %s: %w", subject, err))
		}
	}
	return errors.Join(errs...)
}

// nodeTime is the processor time that the node's process has had, as its metrics say; 0 where they do not.
func nodeTime(ctx context.Context, server string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(server, "/")+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "process_cpu_seconds_total "); ok {
			seconds, err := strconv.ParseFloat(text, 64)
			return time.Duration(seconds * float64(time.Second)), err
		}
	}
	return 0, lines.Err()
}
