// Package nats looks up objects in key-value buckets of NATS.
package nats

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/kisflow/kisflow/kis"
)

// atOnce is how many requests of one Find are under way at a time.
const atOnce = 32

// Type is the connector type nats. own is the node's own connection, which definitions without addrs use; nil: there
// is none.
func Type(own *nats.Conn) kis.ConnectorType { return natsType{own} }

type natsType struct{ own *nats.Conn }

func (natsType) Name() string { return "nats" }

func (natsType) Schema() kis.ConnectorSchema {
	return kis.ConnectorSchema{
		Doc:   "NATS with JetStream. Functions whose load is no look-up, and all Saves, take it for the node's own NATS and use hand-offs.",
		Does:  []string{"look-up in a key-value bucket"},
		Addrs: kis.Setting{Doc: "URLs like nats://host:4222 or tls://host:4222; without them it is the node's own NATS"},
		Key:   kis.Setting{Doc: "what the keys of the bucket begin with, in front of what the look-up asks for"},
		Has: []kis.Setting{
			{Name: "bucket", Needed: kis.UseLookup, Doc: "The key-value bucket. A look-up needs it."},
			{Name: "form", Words: []string{"json", "text"}, Default: "json", Doc: "What the values are: JSON objects; or texts, found as the field `value`."},
			{Name: "keys", Words: []string{"plain", "base64"}, Default: "plain", Doc: "How keys are written. A key of NATS has letters, digits and -_=./ only: plain, every other key has nothing; base64 (of the URL alphabet, without padding, behind the prefix) is for keys of any text."},
			{Name: "user", Doc: "The user."},
			{Name: "password", Secret: true, Doc: "The user's password."},
			{Name: "token", Secret: true, Doc: "A token in place of user and password."},
			{Name: "credentials", Doc: "Path of a .creds file in place of user and password."},
		},
	}
}

func (t natsType) Open(spec kis.ConnectorSpec) (kis.Connector, error) {
	b := &bucket{own: t.own, urls: strings.Join(spec.Addrs, ","), prefix: spec.Key, name: spec.Settings.Text("bucket"),
		text: spec.Settings.Text("form") == "text", base64: spec.Settings.Text("keys") == "base64"}
	if user := spec.Settings.Text("user"); user != "" {
		b.options = append(b.options, nats.UserInfo(user, spec.Settings.Text("password")))
	}
	if token := spec.Settings.Text("token"); token != "" {
		b.options = append(b.options, nats.Token(token))
	}
	if path := spec.Settings.Text("credentials"); path != "" {
		b.options = append(b.options, nats.UserCredentials(path))
	}
	return b, nil
}

// bucket is a key-value bucket.
type bucket struct {
	own     *nats.Conn
	urls    string
	options []nats.Option
	prefix  string
	name    string
	text    bool
	base64  bool

	mu   sync.Mutex
	conn *nats.Conn // not the own one
	kv   jetstream.KeyValue
}

// open returns the bucket, and connects if need be.
func (b *bucket) open(ctx context.Context) (jetstream.KeyValue, error) {
	conn, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.name == "":
		return nil, errors.New("params.bucket is missing; it names the key-value bucket")
	case b.kv != nil:
		return b.kv, nil
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	kv, err := js.KeyValue(ctx, b.name)
	if err != nil {
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			return nil, fmt.Errorf("there is no bucket %q", b.name)
		}
		return nil, err
	}
	b.kv = kv
	return kv, nil
}

// connect returns the connection, and makes it if need be.
func (b *bucket) connect(ctx context.Context) (*nats.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.urls == "" && b.own == nil {
		return nil, errors.New("there is no NATS here; say where one is with addrs: nats://HOST:4222")
	}
	if b.conn != nil && b.conn.IsClosed() { // refused twice, say
		b.conn, b.kv = nil, nil
	}
	conn := b.own
	if b.urls != "" {
		if b.conn == nil {
			wait := 2 * time.Second
			if end, ok := ctx.Deadline(); ok {
				wait = max(time.Millisecond, time.Until(end))
			}
			c, err := nats.Connect(b.urls, append([]nats.Option{nats.Name("kisflow connector"), nats.Timeout(wait), nats.MaxReconnects(-1)}, b.options...)...)
			if err != nil {
				return nil, err
			}
			b.conn = c
		}
		conn = b.conn
	}
	return conn, nil
}

// Most implements kis.Lookup.
func (b *bucket) Most() int { return 256 }

// Find implements kis.Lookup.
func (b *bucket) Find(ctx context.Context, keys []string, found []kis.Found) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, key := range keys {
		group.Go(func() error { return b.find(within, kv, key, &found[i]) })
	}
	err = group.Wait()
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrStreamNotFound) {
		b.mu.Lock()
		b.kv = nil // the bucket is gone; the next one asks for it
		b.mu.Unlock()
		return fmt.Errorf("bucket %q: %w", b.name, err)
	}
	return err
}

// validKey is what a key of a bucket looks like.
var validKey = regexp.MustCompile(`^[-/_=.a-zA-Z0-9]+$`)

func (b *bucket) find(ctx context.Context, kv jetstream.KeyValue, key string, found *kis.Found) error {
	name := b.prefix + key
	if b.base64 {
		name = b.prefix + base64.RawURLEncoding.EncodeToString([]byte(key))
	}
	if !validKey.MatchString(name) || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return nil // no bucket has such a key
	}
	e, err := kv.Get(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrInvalidKey):
		return nil
	case err != nil:
		return err
	case b.text:
		found.Row = kis.NewRow(kis.Field{Name: "value", Value: kis.StringValue(string(e.Value()))})
		return nil
	}
	if found.Row, err = kis.ParseRow(e.Value()); err != nil {
		found.Err = fmt.Errorf("the value of key %q is no JSON object: %w", name, err)
	}
	return nil
}

// Check implements kis.Connector.
func (b *bucket) Check(ctx context.Context) error {
	if b.name == "" { // of hand-offs alone
		conn, err := b.connect(ctx)
		if err != nil {
			return err
		}
		return conn.FlushWithContext(ctx)
	}
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	_, err = kv.Status(ctx)
	return err
}

// Close implements kis.Connector.
func (b *bucket) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
	}
	b.kv, b.conn = nil, nil
	return nil
}
