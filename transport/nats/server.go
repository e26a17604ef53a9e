package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats-server/v2/server"
)

// Options are an embedded server's.
type Options struct {
	// Dir is where JetStream keeps its files. It is made if it is not there. One process at a time may use it:
	// the caller holds the lock. A server of a cluster that runs no JetStream needs none.
	Dir string
	// Listen is the address for clients, like 127.0.0.1:4222; port 0 takes a free one. Empty: in-process only,
	// or in a cluster a free port for this machine only.
	Listen string
	// SyncAlways syncs every message, or every atomic batch, to the disk before it is acknowledged
	// (`durability: power`). Otherwise the server syncs every two minutes, and what it acknowledged survives
	// kill -9 but not a power cut.
	SyncAlways bool
	// MaxPayload is the most bytes of a message. Default 8 MiB.
	MaxPayload int
	// MaxStore is the most bytes that JetStream may use on disk. Default: what the file system has.
	MaxStore int64
	// MinFree is the least free space in Dir, in bytes: below it writes are refused with transport.ErrFull,
	// because a JetStream that meets a full disk does not recover before its next start. Negative: none.
	// Default 256 MiB.
	MinFree int64
	// StartTimeout bounds the start, which reads what the directory holds and, in a cluster, waits until JetStream
	// has a leader. Default 5 min.
	StartTimeout time.Duration
	// Name is the server's name in the logs and for monitoring. In a cluster it is what JetStream knows the server and its files by: each has
	// its own and keeps it. Default "kisflow".
	Name string
	// TLS is for clients and routes, and Users may connect as clients; none: everybody. The connections of this process itself need neither. An
	// address beyond this machine needs both, unless Plain says otherwise.
	TLS   TLS
	Users []User
	// Plain allows plain text, and clients without a user, on addresses that other machines reach. Who reaches such an address may read and change
	// everything.
	Plain bool
	// Cluster makes it one of several servers; nil: it stands alone.
	Cluster *ClusterOptions
	// Log receives the server's log. Default slog.Default.
	Log *slog.Logger
}

const defaultName = "kisflow"

// handshakeWithin bounds a TLS handshake: more than the server's two seconds, for machines that are busy.
const handshakeWithin = 10 * time.Second

func (o Options) withDefaults() Options {
	if o.MaxPayload == 0 {
		o.MaxPayload = 8 << 20
	}
	if o.Cluster != nil && o.Listen == "" {
		o.Listen = "127.0.0.1:0" // without a listener the server opens no routes either
	}
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 5 * time.Minute
	}
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// validate joins all that is wrong, and says where the server stands in its cluster, if it is in one.
func (o Options) validate() (*standing, error) {
	var errs []error
	p := &standing{member: true}
	if o.Cluster != nil {
		at, err := o.Cluster.standing()
		if err != nil {
			errs = append(errs, err)
		} else {
			p = at
		}
		if o.Name == defaultName || strings.ContainsAny(o.Name, " \t\r\n.*>") {
			errs = append(errs, fmt.Errorf("the option Name is %q; in a cluster each server needs its own, without white space or any of . * >", o.Name))
		}
	}
	if o.Dir == "" && p.member {
		errs = append(errs, errors.New("Dir is empty; it must name a directory"))
	}
	if o.MaxPayload < 64<<10 || o.MaxPayload > server.MAX_PAYLOAD_MAX_SIZE {
		errs = append(errs, fmt.Errorf("MaxPayload is %d; it must be from %d to %d", o.MaxPayload, 64<<10, server.MAX_PAYLOAD_MAX_SIZE))
	}
	if o.MaxStore < 0 {
		errs = append(errs, fmt.Errorf("MaxStore is %d; it must not be negative", o.MaxStore))
	}
	if o.Listen != "" {
		if _, _, err := hostPort(o.Listen); err != nil {
			errs = append(errs, fmt.Errorf("listen address: %w", err))
		}
	}
	for i, u := range o.Users {
		if err := u.validate(fmt.Sprintf("Users[%d]", i)); err != nil {
			errs = append(errs, err)
		}
	}
	if err := o.exposed(p); err != nil {
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return "", 0, fmt.Errorf("address %s: the port must be from 0 to 65535", address)
	}
	return host, n, nil
}

// Server is a NATS server in this process.
type Server struct {
	opt      Options
	s        *server.Server
	log      *logger
	standing *standing
	own      User // whom this process connects as; nobody where there are no users
}

// Embed starts a server and returns when it takes connections: everything in Dir has been read then. In a cluster
// it also waits until JetStream has a leader, and says in the log what it waits for. It handles no signals.
func Embed(ctx context.Context, opt Options) (*Server, error) {
	e, err := start(ctx, opt.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	return e, nil
}

func start(ctx context.Context, opt Options) (*Server, error) {
	standing, err := opt.validate()
	if err != nil {
		return nil, err
	}
	so, err := opt.server(standing)
	if err != nil {
		return nil, err
	}
	var own User
	if len(opt.Users) > 0 {
		if so.CustomClientAuthentication, own, err = newGuard(opt.Users); err != nil {
			return nil, err
		}
	}
	if opt.Cluster != nil && standing.member && !standing.alone() {
		if err := opt.Cluster.Elections.use(); err != nil {
			return nil, err
		}
	}
	s, err := server.NewServer(so)
	if err != nil {
		return nil, err
	}
	e := &Server{opt: opt, s: s, log: &logger{log: opt.Log.With("component", "nats"), fatal: make(chan string, 1)}, standing: standing, own: own}
	s.SetLoggerV2(e.log, false, false, false)
	go s.Start() // returns when it has started; Shutdown waits for what it leaves behind
	if err := e.await(ctx); err != nil {
		e.Shutdown()
		return nil, err
	}
	return e, nil
}

// server makes the server's own options.
func (o Options) server(standing *standing) (*server.Options, error) {
	so := &server.Options{
		ServerName:                 o.Name,
		JetStream:                  true,
		SyncAlways:                 o.SyncAlways,
		JetStreamMaxStore:          o.MaxStore,
		MaxPayload:                 int32(o.MaxPayload),
		MaxPending:                 int64(max(64<<20, 8*o.MaxPayload)),
		NoSigs:                     true,
		NoSystemAccount:            false,
		DisableShortFirstPing:      true,
		DontListen:                 o.Listen == "",
		MaxConn:                    4096,
		WriteDeadline:              time.Minute, // what is on its way is bounded by what clients ask for
		MaxClosedClients:           100,
		LameDuckDuration:           time.Second,
		LameDuckGracePeriod:        time.Second / 2,
		JetStreamRequestQueueLimit: 10_000,
	}
	if o.Listen != "" {
		host, port, _ := hostPort(o.Listen) // validate has seen it
		if port == 0 {
			port = server.RANDOM_PORT
		}
		so.Host, so.Port = host, port
	}
	if o.TLS.CertFile != "" {
		c, err := o.TLS.config()
		if err != nil {
			return nil, err
		}
		so.TLSConfig, so.TLSTimeout = c, handshakeWithin.Seconds()
	}
	if o.Cluster != nil {
		if err := standing.apply(o.Cluster, o.TLS, so); err != nil {
			return nil, err
		}
	}
	if !standing.member {
		return so, nil
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, err
	}
	var err error
	so.StoreDir, err = filepath.Abs(o.Dir)
	return so, err
}

// await returns when the server takes connections and, in a cluster, JetStream has a leader.
func (e *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.opt.StartTimeout)
	defer cancel()
	for !e.s.ReadyForConnections(100 * time.Millisecond) {
		if err := e.log.ended(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("not ready after %s: %w", e.opt.StartTimeout, ctx.Err())
		}
	}
	if err := e.log.ended(); err != nil || e.opt.Cluster == nil || e.standing.alone() {
		return err
	}
	return e.awaitLeader(ctx)
}

// InProcessConn makes a connection without a socket; nats.InProcessServer takes e for it.
func (e *Server) InProcessConn() (net.Conn, error) { return e.s.InProcessConn() }

// URL is where clients connect, or "" if it does not listen.
func (e *Server) URL() string {
	if e.opt.Listen == "" {
		return ""
	}
	return e.s.ClientURL()
}

// loopback is where this process connects over TCP, or "" if the server does not listen.
func (e *Server) loopback() string {
	if e.opt.Listen == "" || e.opt.TLS.CertFile != "" { // with TLS the connection in the process is the cheaper one
		return ""
	}
	host, _, _ := hostPort(e.opt.Listen) // validate has seen it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	address, ok := e.s.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return "nats://" + net.JoinHostPort(host, strconv.Itoa(address.Port))
}

// SyncAlways tells whether it syncs before it acknowledges.
func (e *Server) SyncAlways() bool { return e.opt.SyncAlways }

// Dir is where its files are.
func (e *Server) Dir() string { return e.opt.Dir }

// Shutdown stops the server and waits until its files are closed. Calling it again does nothing.
func (e *Server) Shutdown() {
	e.s.Shutdown()
	e.s.WaitForShutdown()
}

// gate keeps writes from a disk that is nearly full.
type gate struct {
	checked atomic.Int64 // when, in ns
	closed  atomic.Bool
}

// gateEvery is how long one look at the disk counts.
const gateEvery = 250 * time.Millisecond

// check returns transport.ErrFull while less is free than the embedded server's MinFree.
func (g *gate) check(e *Server) error {
	if e == nil || e.opt.MinFree < 0 || !e.standing.member {
		return nil
	}
	now := time.Now().UnixNano()
	if last := g.checked.Load(); now-last >= int64(gateEvery) && g.checked.CompareAndSwap(last, now) {
		free, err := freeBytes(e.opt.Dir)
		g.closed.Store(err == nil && free < e.opt.MinFree)
	}
	if g.closed.Load() {
		return transport.Refused(transport.ErrFull, "less than %d bytes are free in %s", e.opt.MinFree, e.opt.Dir)
	}
	return nil
}

// Member tells whether the server keeps streams: it stands alone, or is one of its cluster's JetStream set.
func (e *Server) Member() bool { return e.standing.member }

// Healthy tells whether JetStream runs, where it should; its error says why not.
func (e *Server) Healthy() error {
	if !e.s.Running() {
		return errors.New("embedded NATS: it is stopped")
	}
	if line := e.log.broken.Load(); line != nil {
		return fmt.Errorf("embedded NATS: %s; free disk space and start again", *line)
	}
	if e.standing.member && !e.s.JetStreamEnabled() {
		return errors.New("embedded NATS: JetStream has been switched off by an error, see its log; free disk space and start again")
	}
	return nil
}

// logger hands the server's lines to slog.
type logger struct {
	log   *slog.Logger
	fatal chan string // the first line that would have ended the process

	last   atomic.Pointer[string] // the last line of an error
	broken atomic.Pointer[string] // the first line that says that a stream takes nothing more before the next start
}

// ended returns the line with which a server of its own would have ended its process, or nil.
func (l *logger) ended() error {
	select {
	case why := <-l.fatal:
		return errors.New(why)
	default:
		return nil
	}
}

// writeError is in the line with which the server gives up a stream whose files it could not write.
const writeError = "critical write error"

// quiet are lines about what Embed says by itself while it waits, and watchServers later.
var quiet = []string{"Waiting for routing to be established", "has not established contact with a meta leader", "Error trying to connect to route"}

func (l *logger) quiet(line string) bool {
	return slices.ContainsFunc(quiet, func(part string) bool { return strings.Contains(line, part) })
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	if l.quiet(line) {
		l.log.Debug(line)
		return
	}
	l.log.Warn(line)
}
func (l *logger) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	if l.quiet(line) {
		l.log.Debug(line)
		return
	}
	l.log.Error(line)
	if !strings.Contains(line, "Error flushing") { // follows the error that closed a connection
		l.last.Store(&line)
	}
	if strings.Contains(line, writeError) {
		l.broken.CompareAndSwap(nil, &line)
	}
}
func (l *logger) Fatalf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.log.Error(line)
	select {
	case l.fatal <- line:
	default:
	}
}
