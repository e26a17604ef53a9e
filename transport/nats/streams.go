package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
)

// StreamsOptions tunes Streams. The zero value is ready to use.
type StreamsOptions struct {
	// SyncAlways says that the server syncs before it acknowledges (`durability: power`): then Publish sends
	// atomic batches, so that one sync covers many messages.
	SyncAlways bool
	// AckTimeout is how long a write waits for an acknowledgement before it is in doubt. Default 5 s.
	AckTimeout time.Duration
	// Window is the most messages of one Publish on their way. Default 4096.
	Window int
	// Replicas is how many servers of a cluster keep each stream and object: 1, 3 or 5, and no more than there are with JetStream. Streams
	// that Ensure meets with fewer get more. Default 1, and what is there is left as it is.
	Replicas int
	// PullMessages and PullBytes are what one pull request of a reader asks for; a reader has at most two under
	// way and holds the messages of one more. Default 1000 messages, and 1 MiB or one message of the largest size.
	PullMessages, PullBytes int
	// Heartbeat is how often the server shows a waiting reader that it is there; after two and a half times
	// that in silence the reader starts again, from a consumer that is on a server that lives. Default 15 s, and 1 s in a cluster.
	Heartbeat time.Duration
}

func (o StreamsOptions) withDefaults(maxPayload int, cluster bool) StreamsOptions {
	if o.AckTimeout <= 0 {
		o.AckTimeout = 5 * time.Second
	}
	if o.Window <= 0 {
		o.Window = 4096
	}
	if o.PullMessages <= 0 {
		o.PullMessages = 1000
	}
	if o.PullBytes <= 0 {
		o.PullBytes = 1 << 20
	}
	o.PullBytes = max(o.PullBytes, maxPayload+64<<10) // a request that no message fits would never end
	if o.Heartbeat <= 0 {
		o.Heartbeat = 15 * time.Second
		if cluster {
			o.Heartbeat = time.Second
		}
	}
	return o
}

// Streams is transport.Streams on JetStream. It may be used by many goroutines.
type Streams struct {
	c     *Conn
	opt   StreamsOptions
	kinds sync.Map // of streams seen: name to kind

	combiners sync.Map // of streams that several write to: name to *combiner
	apart     bool     // for a comparison: no combiner
}

// kind is what decides how a stream is written to.
type kind struct {
	atomic     bool // takes atomic batches
	replicated bool
	bounded    bool // may refuse a message and take a smaller one behind it
}

// kind tells of a stream, by what was last heard of it.
func (t *Streams) kind(ctx context.Context, stream string) (kind, error) {
	if k, ok := t.kinds.Load(stream); ok {
		return k.(kind), nil
	}
	info, err := t.info(ctx, stream)
	if err != nil {
		return kind{}, err
	}
	return info.kind(), nil
}

func (s *streamInfo) kind() kind {
	c := &s.Config
	limits := c.Discard == "new" && (c.MaxBytes > 0 || c.MaxMsgs > 0 || c.MaxMsgsPer > 0)
	return kind{atomic: c.AllowAtomic, replicated: c.Replicas > 1, bounded: limits || c.MaxMsgSize > 0}
}

var _ transport.Streams = (*Streams)(nil)

// NewStreams returns the streams behind a connection.
func NewStreams(c *Conn, opt StreamsOptions) *Streams {
	return &Streams{c: c, opt: opt.withDefaults(c.maxPayload(), c.out.ConnectedClusterName() != "")}
}

// MaxMessage implements transport.Streams. It is what the server takes less room for our headers.
func (t *Streams) MaxMessage() int { return t.c.maxPayload() - ownHeaders }

// streamConfig is the part of JetStream's stream configuration that we read or set.
type streamConfig struct {
	Name           string            `json:"name"`
	Description    string            `json:"description,omitempty"`
	Subjects       []string          `json:"subjects,omitempty"`
	Retention      string            `json:"retention"`
	MaxConsumers   int               `json:"max_consumers"`
	MaxMsgs        int64             `json:"max_msgs"`
	MaxBytes       int64             `json:"max_bytes"`
	MaxAge         int64             `json:"max_age"` // ns
	MaxMsgsPer     int64             `json:"max_msgs_per_subject"`
	MaxMsgSize     int32             `json:"max_msg_size"`
	Discard        string            `json:"discard"`
	DiscardNewPer  bool              `json:"discard_new_per_subject,omitempty"`
	Storage        string            `json:"storage"`
	Replicas       int               `json:"num_replicas"`
	Duplicates     int64             `json:"duplicate_window,omitempty"` // ns
	AllowDirect    bool              `json:"allow_direct"`
	AllowAtomic    bool              `json:"allow_atomic,omitempty"`
	AllowMsgTTL    bool              `json:"allow_msg_ttl,omitempty"`
	PersistMode    string            `json:"persist_mode,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Sealed         bool              `json:"sealed,omitempty"`
	NoAck          bool              `json:"no_ack,omitempty"`
	Mirror         any               `json:"mirror,omitempty"`
	RePublishTo    any               `json:"republish,omitempty"`
	SubjectMapping any               `json:"subject_transform,omitempty"`
}

type streamInfo struct {
	Config  streamConfig `json:"config"`
	Created time.Time    `json:"created"`
	State   struct {
		Messages  uint64    `json:"messages"`
		Bytes     int64     `json:"bytes"`
		First     uint64    `json:"first_seq"`
		FirstTime time.Time `json:"first_ts"`
		Last      uint64    `json:"last_seq"`
		Consumers int       `json:"consumer_count"`

		Subjects map[string]int `json:"subjects"` // where they were asked for, a page of them
	} `json:"state"`
	Total   int `json:"total"` // subjects on all pages
	Cluster *struct {
		Leader string `json:"leader"`
	} `json:"cluster"`
}

// leaderless tells that the answer came from a replica, and not from the stream's leader: while there is none, any
// replica answers with what it has applied so far, which may be less than a reader has been given already.
func (s *streamInfo) leaderless() bool {
	return s.Config.Replicas > 1 && s.Cluster != nil && s.Cluster.Leader == ""
}

func (s *streamInfo) info() transport.Info {
	c := &s.Config
	info := transport.Info{
		Config: transport.Config{
			Name: c.Name, Subjects: c.Subjects, MaxAge: time.Duration(c.MaxAge),
			MaxBytes: max(c.MaxBytes, 0), PerSubject: max(c.MaxMsgsPer, 0), DiscardNew: c.Discard == "new", Description: c.Description,
		},
		Created: s.born(), First: s.State.First, Last: s.State.Last,
		Messages: s.State.Messages, Bytes: s.State.Bytes, Replicas: max(c.Replicas, 1), Lossy: c.lossy(),
	}
	if info.Messages == 0 {
		info.First = info.Last + 1
	}
	return info
}

// born is when the stream was made; of a restored one, when the stream was that it was restored from: positions in it are still good.
// A restore into a cluster makes a new creation time (server 2.15.2), so that it is kept beside.
func (s *streamInfo) born() time.Time {
	if at, err := time.Parse(time.RFC3339Nano, s.Config.Metadata[createdMetadata]); err == nil {
		return at.UTC()
	}
	return s.Created.UTC()
}

// haunted tells whether a stream that was made just now holds messages of an earlier one: when a stream is
// deleted while the files of the one before are still being removed, the server (2.15.2) cannot move its files
// away, and the next stream of that name finds them.
func (s *streamInfo) haunted() bool {
	return s.State.Messages > 0 && s.State.FirstTime.Before(s.Created)
}

// lossy says why a stream may discard messages that nobody has read, or "".
func (c *streamConfig) lossy() string {
	old := c.Discard != "new"
	switch {
	case c.Retention == "interest":
		return "retention interest"
	case c.Retention == "workqueue":
		return "retention workqueue"
	case c.MaxAge > 0:
		return fmt.Sprintf("max_age %s", time.Duration(c.MaxAge))
	case c.MaxMsgs > 0 && old:
		return fmt.Sprintf("max_msgs %d with discard old", c.MaxMsgs)
	case c.MaxBytes > 0 && old:
		return fmt.Sprintf("max_bytes %d with discard old", c.MaxBytes)
	case c.MaxMsgsPer > 0 && !(c.Discard == "new" && c.DiscardNewPer):
		return fmt.Sprintf("max_msgs_per_subject %d with discard old", c.MaxMsgsPer)
	case c.AllowMsgTTL:
		return "allow_msg_ttl"
	case c.Storage == "memory":
		return "storage memory"
	}
	return ""
}

// Ensure implements transport.Streams.
func (t *Streams) Ensure(ctx context.Context, c transport.Config) (transport.Info, error) {
	if err := validName(c.Name); err != nil {
		return transport.Info{}, err
	}
	info, err := t.ensure(ctx, c)
	if err != nil {
		return transport.Info{}, fmt.Errorf("stream %s: %w", c.Name, err)
	}
	t.kinds.Store(c.Name, info.kind())
	return info.info(), nil
}

func (t *Streams) ensure(ctx context.Context, c transport.Config) (*streamInfo, error) {
	var raw streamInfo
	for attempt := 1; ; attempt++ {
		err := t.c.api(ctx, "STREAM.INFO."+c.Name, nil, &raw)
		if err == nil {
			break
		}
		if !errors.Is(err, transport.ErrNotFound) {
			return nil, err
		}
		config := streamConfig{
			Name: c.Name, Description: c.Description, Subjects: c.Subjects, Retention: "limits", Storage: "file",
			MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1, MaxMsgSize: -1, Replicas: max(t.opt.Replicas, 1),
			MaxAge: int64(c.MaxAge), Discard: "old", AllowDirect: true, AllowAtomic: true,
		}
		if c.MaxBytes > 0 {
			config.MaxBytes = c.MaxBytes
		}
		if c.PerSubject > 0 {
			config.MaxMsgsPer = c.PerSubject
		}
		if c.DiscardNew {
			config.Discard = "new"
		}
		var made streamInfo
		err = t.c.api(ctx, "STREAM.CREATE."+c.Name, config, &made)
		if err == nil && !made.haunted() {
			return &made, nil
		}
		if err == nil {
			if attempt > 8 {
				return nil, fmt.Errorf("made anew, it holds %d messages of a deleted stream of that name", made.State.Messages)
			}
			if err := t.Delete(ctx, c.Name); err != nil {
				return nil, err
			}
			if err := sleep(ctx, backoff(attempt, 20*time.Millisecond, time.Second)); err != nil {
				return nil, err
			}
			continue
		}
		var refused *apiError
		if attempt > 4 || !errors.As(err, &refused) || refused.ErrCode != codeStreamNameInUse && refused.ErrCode != codeStreamCreate {
			return nil, err
		}
		// Another made it meanwhile: take it as it is. Or its name was in use a moment ago.
		if sleep(ctx, backoff(attempt, 20*time.Millisecond, time.Second)) != nil {
			return nil, err
		}
	}
	changes := make(map[string]any)
	var what []string
	if missing := missingSubjects(raw.Config.Subjects, c.Subjects); len(missing) > 0 {
		changes["subjects"] = append(slices.Clone(raw.Config.Subjects), missing...)
		what = append(what, "add subjects "+strings.Join(missing, ", "))
	}
	if t.opt.Replicas > raw.Config.Replicas {
		changes["num_replicas"] = t.opt.Replicas
		what = append(what, fmt.Sprintf("raise replicas from %d to %d", raw.Config.Replicas, t.opt.Replicas))
	}
	if len(changes) == 0 {
		return &raw, nil
	}
	made, err := t.c.update(ctx, c.Name, changes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(what, " and "), err)
	}
	return made, nil
}

// update changes settings of a stream. Its request carries every setting, those too that we do not know.
func (c *Conn) update(ctx context.Context, stream string, changes map[string]any) (*streamInfo, error) {
	var whole struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := c.api(ctx, "STREAM.INFO."+stream, nil, &whole); err != nil {
		return nil, err
	}
	for name, value := range changes {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		whole.Config[name] = text
	}
	var made streamInfo
	if err := c.api(ctx, "STREAM.UPDATE."+stream, whole.Config, &made); err != nil {
		return nil, err
	}
	return &made, nil
}

func missingSubjects(have, want []string) []string {
	var missing []string
	for _, subject := range want {
		if !slices.ContainsFunc(have, func(h string) bool { return covers(h, subject) }) {
			missing = append(missing, subject)
		}
	}
	return missing
}

// covers tells whether every subject of narrow is one of wide's.
func covers(wide, narrow string) bool {
	w, n := strings.Split(wide, "."), strings.Split(narrow, ".")
	for i := range w {
		switch {
		case i >= len(n):
			return false
		case w[i] == ">":
			return true
		case n[i] == ">", w[i] != "*" && w[i] != n[i]:
			return false
		}
	}
	return len(w) == len(n)
}

func validName(name string) error {
	if name == "" || strings.ContainsAny(name, " \t\r\n.*>/\\") {
		return fmt.Errorf("stream name %q: must not be empty or hold white space or any of . * > / \\", name)
	}
	return nil
}

// Info implements transport.Streams.
func (t *Streams) Info(ctx context.Context, stream string) (transport.Info, error) {
	info, err := t.info(ctx, stream)
	if err != nil {
		return transport.Info{}, fmt.Errorf("stream %s: %w", stream, err)
	}
	return info.info(), nil
}

func (t *Streams) info(ctx context.Context, stream string) (*streamInfo, error) {
	if err := validName(stream); err != nil {
		return nil, err
	}
	var info streamInfo
	if err := t.c.api(ctx, "STREAM.INFO."+stream, nil, &info); err != nil {
		if errors.Is(err, transport.ErrNotFound) {
			t.kinds.Delete(stream)
		}
		return nil, err
	}
	t.kinds.Store(stream, info.kind())
	return &info, nil
}

// Leader names the server that leads a stream, or "" where there is only one.
func (t *Streams) Leader(ctx context.Context, stream string) (string, error) {
	info, err := t.info(ctx, stream)
	if err != nil {
		return "", fmt.Errorf("stream %s: %w", stream, err)
	}
	if info.Cluster == nil {
		return "", nil
	}
	return info.Cluster.Leader, nil
}

// Capturing implements transport.Streams.
func (t *Streams) Capturing(ctx context.Context, subject string) (transport.Info, error) {
	names, err := t.names(ctx, subject)
	if err != nil {
		return transport.Info{}, fmt.Errorf("stream of subject %s: %w", subject, err)
	}
	var found *transport.Info
	for _, name := range names {
		info, err := t.Info(ctx, name)
		if errors.Is(err, transport.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return transport.Info{}, err
		}
		if slices.ContainsFunc(info.Subjects, func(have string) bool { return covers(have, subject) }) {
			return info, nil
		}
		if found == nil {
			found = &info
		}
	}
	if found == nil {
		return transport.Info{}, transport.Refused(transport.ErrNotFound, "a stream that stores subject %s", subject)
	}
	return *found, nil
}

// names lists the streams, or those whose subjects overlap with one.
func (t *Streams) names(ctx context.Context, subject string) ([]string, error) {
	var names []string
	for {
		var page struct {
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		request := map[string]any{"offset": len(names)}
		if subject != "" {
			request["subject"] = subject
		}
		if err := t.c.api(ctx, "STREAM.NAMES", request, &page); err != nil {
			return nil, err
		}
		names = append(names, page.Streams...)
		if len(page.Streams) == 0 || len(names) >= page.Total {
			slices.Sort(names)
			return slices.Compact(names), nil
		}
	}
}

// List implements transport.Streams.
func (t *Streams) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := t.names(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}

// Delete implements transport.Streams.
func (t *Streams) Delete(ctx context.Context, stream string) error {
	if err := validName(stream); err != nil {
		return err
	}
	t.kinds.Delete(stream)
	t.combiners.Delete(stream)
	if err := t.c.api(ctx, "STREAM.DELETE."+stream, nil, nil); err != nil && !errors.Is(err, transport.ErrNotFound) {
		return fmt.Errorf("delete stream %s: %w", stream, err)
	}
	return nil
}

// LastOn implements transport.Streams. It asks the stream's leader, not a replica.
func (t *Streams) LastOn(ctx context.Context, stream, subject string) (transport.Message, error) {
	if err := validName(stream); err != nil {
		return transport.Message{}, err
	}
	m, err := t.stored(ctx, stream, map[string]any{"last_by_subj": subject})
	if err != nil {
		return transport.Message{}, fmt.Errorf("stream %s: last message on %s: %w", stream, subject, err)
	}
	return m, nil
}

// stored asks a stream's leader for one message.
func (t *Streams) stored(ctx context.Context, stream string, which map[string]any) (transport.Message, error) {
	var answer struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := t.c.api(ctx, "STREAM.MSG.GET."+stream, which, &answer); err != nil {
		return transport.Message{}, err
	}
	m := transport.Message{Subject: answer.Message.Subject, Sequence: answer.Message.Seq, Time: answer.Message.Time.UTC(), Data: answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return transport.Message{}, fmt.Errorf("header of message %d: %w", m.Sequence, err)
		}
		m.Header = fields(h)
	}
	return m, nil
}

// fields makes a message's header of nats.go's, in the order of the names, without what was for JetStream.
func fields(h nats.Header) []transport.Field {
	var fs []transport.Field
	for name, values := range h {
		if ours(name) || name == "Nats-Msg-Size" {
			continue
		}
		for _, v := range values {
			fs = append(fs, transport.Field{Name: name, Value: v})
		}
	}
	slices.SortStableFunc(fs, func(a, b transport.Field) int { return strings.Compare(a.Name, b.Name) })
	return fs
}

// Cut implements transport.Streams.
func (t *Streams) Cut(ctx context.Context, stream, subject string, below uint64) error {
	info, err := t.info(ctx, stream)
	if err != nil {
		return fmt.Errorf("stream %s: cut: %w", stream, err)
	}
	// Beyond the end the server would move the end.
	if below = min(below, info.State.Last+1); below <= 1 {
		return nil
	}
	request := map[string]any{"seq": below}
	if subject != "" {
		request["filter"] = subject
	}
	if err := t.c.api(ctx, "STREAM.PURGE."+stream, request, nil); err != nil {
		return fmt.Errorf("stream %s: cut: %w", stream, err)
	}
	return nil
}
