package nats

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// MinVersion is the oldest server that this package works with.
const MinVersion = "2.15.2"

// ConnectOptions say how to reach NATS. The zero value and a URL are ready to use.
type ConnectOptions struct {
	// URL is one server or several with commas between them: nats://host:4222. It may hold user and password.
	URL string
	// Server is asked instead of URL where it is set: the embedded one, in this process.
	Server *Server
	// Name is shown by the server for each connection. Default "kisflow".
	Name string
	// Credentials is the path of a credentials file; empty: none.
	Credentials string
	// TLS says whom to believe and what to show; empty: the system's authorities, and no certificate of our own.
	TLS TLS
	// User is whom to connect as. Empty: whom URL names; with Server the process itself, whom the server knows.
	User User
	// Log receives what happens to the connections. Default slog.Default.
	Log *slog.Logger
	// Extra are further options of nats.go, applied last.
	Extra []nats.Option
}

// Conn is the pair of connections to NATS. It may be used by many goroutines.
type Conn struct {
	log  *slog.Logger
	name string // of this process, random: part of batch ids, inboxes and consumer names

	out *nats.Conn // publishes, acknowledgements, the API
	in  *nats.Conn // readers

	acks   pending
	most   atomic.Int64 // the most bytes of a message, as the server said when it was last connected to
	server *Server      // the embedded one; nil for one outside
	free   gate

	watching    sync.WaitGroup // goroutines that endWatching ends
	endWatching context.CancelFunc
	mu          sync.Mutex
	readers     map[*reader]struct{}
	closed      bool
}

// Connect opens the connections. It fails if no server answers within ctx (or 10 s), if it is older than
// MinVersion, or if it has no JetStream. Once open, a Conn reconnects for ever.
func Connect(ctx context.Context, o ConnectOptions) (*Conn, error) {
	if o.Name == "" {
		o.Name = "kisflow"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &Conn{log: o.Log, name: hex.EncodeToString(id[:]), readers: make(map[*reader]struct{}), server: o.Server}
	where, err := redacted(o.URL)
	if o.Server != nil {
		where, err = "the embedded server", nil
		if !o.User.given() {
			o.User = o.Server.own
		}
	}
	if err == nil && o.User.given() {
		err = o.User.validate("User")
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if c.out, err = c.dial(o, "out", c.outLost, func(nc *nats.Conn) { c.most.Store(nc.MaxPayload()) }); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", where, err)
	}
	c.most.Store(c.out.MaxPayload())
	reading := o
	if o.Server != nil {
		// Over TCP where that is possible: measured, a message of a backlog costs 4.4 µs of processor time there
		// and 5.9 in the process, where the server hands over its buffers of 512 bytes one by one.
		if url := o.Server.loopback(); url != "" {
			reading.URL, reading.Server, reading.TLS = url, nil, TLS{}
		}
	}
	if c.in, err = c.dial(reading, "in", func() {}, func(*nats.Conn) { c.inBack() }); err != nil {
		c.out.Close()
		return nil, fmt.Errorf("connect to %s: %w", where, err)
	}
	if err := c.acks.open(c.out); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", where, err)
	}
	if err := c.watchLeaders(); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", where, err)
	}
	watched, cancel := context.WithCancel(context.Background())
	c.endWatching = cancel
	if o.Server != nil {
		c.watching.Go(func() { o.Server.watchServers(watched, c.serverLeft) })
	}
	if v := c.out.ConnectedServerVersion(); !atLeast(v, MinVersion) {
		c.Close()
		return nil, fmt.Errorf("connect to %s: its version is %s, this needs %s or newer", where, v, MinVersion)
	}
	wait, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	if _, err := c.account(wait); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", where, err)
	}
	return c, nil
}

func (c *Conn) dial(o ConnectOptions, kind string, lost func(), back func(*nats.Conn)) (*nats.Conn, error) {
	log := c.log.With("connection", kind)
	opts := []nats.Option{
		nats.Name(o.Name + " " + kind),
		nats.Timeout(10 * time.Second),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(false),
		nats.ReconnectBufSize(-1), // a write waits for the connection here, where it is known not to be sent
		nats.CustomReconnectDelay(reconnectDelay),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			lost()
			if err != nil {
				log.Warn("NATS connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted())
			back(nc)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Warn("NATS connection", "error", err)
		}),
	}
	url := o.URL
	if o.Server != nil {
		url = ""
		opts = append(opts, nats.InProcessServer(o.Server))
	}
	if o.Credentials != "" {
		opts = append(opts, nats.UserCredentials(o.Credentials))
	}
	if o.TLS.given() && o.Server == nil {
		c, err := o.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(c))
	}
	switch {
	case o.User.Token != "":
		opts = append(opts, nats.Token(string(o.User.Token)))
	case o.User.given():
		opts = append(opts, nats.UserInfo(o.User.Name, string(o.User.Password)))
	}
	return nats.Connect(url, append(opts, o.Extra...)...)
}

// leaderElected is the subject of what JetStream says when a stream has a new leader; the stream's name ends it.
const leaderElected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

// watchLeaders hears of new leaders: what was asked of the one before, and not answered, may never be. A write then is in doubt
// when there is somebody to ask again, and not only after its time-out.
func (c *Conn) watchLeaders() error {
	_, err := c.out.Subscribe(leaderElected+"*", func(m *nats.Msg) { c.acks.moved(strings.TrimPrefix(m.Subject, leaderElected)) })
	return err
}

// reconnectDelay is asked after each round through all servers: 50 ms doubled up to 3 s, of which a random half.
func reconnectDelay(attempts int) time.Duration {
	return backoff(attempts, 50*time.Millisecond, 3*time.Second)
}

func backoff(attempt int, first, most time.Duration) time.Duration {
	d := first << min(max(attempt-1, 0), 20)
	if d > most || d <= 0 {
		d = most
	}
	return d/2 + time.Duration(mathrand.Int64N(int64(d/2)+1))
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outLost settles what was on its way: nobody will answer it.
func (c *Conn) outLost() { c.acks.lost(errConnectionLost) }

// inBack lets the readers start again: their pull requests went with the connection.
func (c *Conn) inBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		r.lose("the connection was renewed")
	}
}

// serverLeft lets the readers start again whose consumer was on a server that is gone.
func (c *Conn) serverLeft(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		r.leave(name)
	}
}

var (
	errConnectionLost = errors.New("the connection was lost")
	errConnClosed     = errors.New("the connection to NATS is closed")
)

// Close closes the connections. Writes on their way are in doubt; readers end.
func (c *Conn) Close() {
	c.mu.Lock()
	c.closed = true
	readers := c.readers
	c.readers = map[*reader]struct{}{}
	c.mu.Unlock()
	for r := range readers {
		r.fail(errConnClosed)
	}
	if c.endWatching != nil {
		c.endWatching()
		c.watching.Wait()
	}
	if c.in != nil {
		c.in.Close()
	}
	if c.out != nil {
		c.out.Close()
	}
	c.acks.lost(errConnClosed)
}

// maxPayload is the most bytes of a message. A server says it to who connects, and only then; nats.go keeps it behind a lock
// that is dear to take for each row.
func (c *Conn) maxPayload() int { return int(c.most.Load()) }

// Version is the server's version.
func (c *Conn) Version() string { return c.out.ConnectedServerVersion() }

// Client is the connection that publishes, for what the port does not cover: core NATS messages, advisories.
// Its owner is c.
func (c *Conn) Client() *nats.Conn { return c.out }

// Connected tells whether both connections stand.
func (c *Conn) Connected() bool { return c.out.IsConnected() && c.in.IsConnected() }

// atLeast compares versions like 2.15.2; what follows a - or + does not count.
func atLeast(have, want string) bool {
	h, w := numbers(have), numbers(want)
	for i := range h {
		if h[i] != w[i] {
			return h[i] > w[i]
		}
	}
	return true
}

func numbers(v string) (n [3]int) {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "-")
	v, _, _ = strings.Cut(v, "+")
	for i, part := range strings.SplitN(v, ".", 3) {
		n[i], _ = strconv.Atoi(part)
	}
	return n
}
