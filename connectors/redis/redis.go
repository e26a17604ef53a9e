// Package redis looks up objects in Redis: all keys of a request in one pipeline.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/kisflow/kisflow/kis"
)

const (
	port     = "6379"
	mostKeys = 500
	poolSize = 16
)

// Type is the connector type redis.
func Type() kis.ConnectorType { return redisType{} }

type redisType struct{}

func (redisType) Name() string { return "redis" }

func (redisType) Schema() kis.ConnectorSchema {
	return kis.ConnectorSchema{
		Doc:   "Redis, and what speaks its protocol.",
		Does:  []string{"look-up"},
		Addrs: kis.Setting{Required: true, Doc: "HOST:PORT; several are the nodes of one cluster, or, with params.master, its sentinels"},
		Key:   kis.Setting{Doc: "what the keys begin with, in front of what the look-up asks for"},
		Has: []kis.Setting{
			{Name: "mode", Words: []string{"json", "hash", "get"}, Default: "json", Doc: "What the values are: json, texts that hold a JSON object (GET); hash, hashes, whose fields are texts (HGETALL); get, any texts, found as the field `value` (GET)."},
			{Name: "user", Doc: "The user, where there is another one than default."},
			{Name: "password", Secret: true, Doc: "The password."},
			{Name: "db", Kind: kis.SettingNumber, Default: "0", Doc: "The number of the database; a cluster has only 0."},
			{Name: "tls", Kind: kis.SettingBool, Default: "false", Doc: "Whether the connection is encrypted, by the certificates that the system trusts."},
			{Name: "master", Doc: "The name of the master that the sentinels in addrs know."},
		},
	}
}

func (redisType) Open(spec kis.ConnectorSpec) (kis.Connector, error) {
	o := &redis.UniversalOptions{
		ClientName: "kisflow", Username: spec.Settings.Text("user"), Password: spec.Settings.Text("password"), DB: spec.Settings.Int("db"),
		MasterName: spec.Settings.Text("master"), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, PoolSize: poolSize, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	for _, a := range spec.Addrs {
		if strings.Contains(a, "://") {
			return nil, fmt.Errorf("addrs holds a URL; write HOST:PORT, and the rest as params")
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), port)
		}
		o.Addrs = append(o.Addrs, a)
	}
	if len(o.Addrs) > 1 && o.MasterName == "" && o.DB != 0 {
		return nil, errors.New("a cluster has no databases but 0; leave params.db out, or name one address")
	}
	if spec.Settings.Bool("tls") {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	quiet.Do(func() { redis.SetLogger(silent{}) })
	return &store{client: redis.NewUniversalClient(o), prefix: spec.Key, mode: spec.Settings.Text("mode")}, nil
}

// quiet has the client write nothing to standard error beside the node's log: whatever it would say there is an
// error of ours.
var quiet sync.Once

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// store is a Redis.
type store struct {
	client redis.UniversalClient
	prefix string
	mode   string
}

// Most implements kis.Lookup.
func (s *store) Most() int { return mostKeys }

// Find implements kis.Lookup.
func (s *store) Find(ctx context.Context, keys []string, found []kis.Found) error {
	pipe := s.client.Pipeline()
	cmds := make([]redis.Cmder, len(keys))
	for i, key := range keys {
		if s.mode == "hash" {
			cmds[i] = pipe.HGetAll(ctx, s.prefix+key)
		} else {
			cmds[i] = pipe.Get(ctx, s.prefix+key)
		}
	}
	// A connection that cannot be made is the error of Exec alone: the commands know nothing of it.
	if _, err := pipe.Exec(ctx); err != nil && !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() == err }) {
		return err
	}
	for i, cmd := range cmds {
		err := cmd.Err()
		switch {
		case errors.Is(err, redis.Nil):
		case err == nil:
			found[i] = s.read(s.prefix+keys[i], cmd)
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
			found[i].Err = fmt.Errorf("key %q holds another type of value than params.mode %s reads", s.prefix+keys[i], s.mode)
		default:
			return err
		}
	}
	return nil
}

// read makes a row of what came back.
func (s *store) read(key string, cmd redis.Cmder) kis.Found {
	if m, ok := cmd.(*redis.MapStringStringCmd); ok {
		hash := m.Val()
		if len(hash) == 0 {
			return kis.Found{} // Redis has no empty hashes
		}
		fields := make([]kis.Field, 0, len(hash))
		for name, text := range hash {
			fields = append(fields, kis.Field{Name: name, Value: kis.StringValue(text)})
		}
		slices.SortFunc(fields, func(a, b kis.Field) int { return strings.Compare(a.Name, b.Name) })
		return kis.Found{Row: kis.NewRow(fields...)}
	}
	c, ok := cmd.(*redis.StringCmd)
	if !ok {
		return kis.Found{Err: fmt.Errorf("key %q: an answer of type %T", key, cmd)}
	}
	text := c.Val()
	if s.mode == "get" {
		return kis.Found{Row: kis.NewRow(kis.Field{Name: "value", Value: kis.StringValue(text)})}
	}
	row, err := kis.ParseRow([]byte(text))
	if err != nil {
		return kis.Found{Err: fmt.Errorf("the value of key %q is no JSON object: %w", key, err)}
	}
	return kis.Found{Row: row}
}

// Check implements kis.Connector.
func (s *store) Check(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// Close implements kis.Connector.
func (s *store) Close() error { return s.client.Close() }
