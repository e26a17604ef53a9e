package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
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
	// the caller holds the lock.
	Dir string
	// Listen is the address for clients, like 127.0.0.1:4222; port 0 takes a free one. Empty: in-process only.
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
	// StartTimeout bounds the start, which reads what the directory holds. Default 5 min.
	StartTimeout time.Duration
	// Name is the server's name in the logs and for monitoring. Default "kisflow".
	Name string
	// Log receives the server's log. Default slog.Default.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxPayload == 0 {
		o.MaxPayload = 8 << 20
	}
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 5 * time.Minute
	}
	if o.Name == "" {
		o.Name = "kisflow"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	if o.Dir == "" {
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
	return errors.Join(errs...)
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
	opt Options
	s   *server.Server
	log *logger
}

// Embed starts a server and returns when it takes connections: everything in Dir has been read then. It
// handles no signals.
func Embed(opt Options) (*Server, error) {
	opt = opt.withDefaults()
	if err := opt.validate(); err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	if err := os.MkdirAll(opt.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	dir, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	so := &server.Options{
		ServerName:                 opt.Name,
		JetStream:                  true,
		StoreDir:                   dir,
		SyncAlways:                 opt.SyncAlways,
		JetStreamMaxStore:          opt.MaxStore,
		MaxPayload:                 int32(opt.MaxPayload),
		MaxPending:                 int64(max(64<<20, 8*opt.MaxPayload)),
		NoSigs:                     true,
		NoSystemAccount:            false,
		DisableShortFirstPing:      true,
		DontListen:                 opt.Listen == "",
		MaxConn:                    4096,
		WriteDeadline:              time.Minute, // what is on its way is bounded by what clients ask for
		MaxClosedClients:           100,
		LameDuckDuration:           time.Second,
		LameDuckGracePeriod:        time.Second / 2,
		JetStreamRequestQueueLimit: 10_000,
	}
	if opt.Listen != "" {
		host, port, _ := hostPort(opt.Listen) // validate has seen it
		if port == 0 {
			port = server.RANDOM_PORT
		}
		so.Host, so.Port = host, port
	}
	s, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	fatal := make(chan string, 1)
	l := &logger{log: opt.Log.With("component", "nats"), fatal: fatal}
	s.SetLoggerV2(l, false, false, false)
	go s.Start() // returns when it has started; Shutdown waits for what it leaves behind
	e := &Server{opt: opt, s: s, log: l}
	ready := make(chan bool, 1)
	go func() { ready <- s.ReadyForConnections(opt.StartTimeout) }()
	select {
	case ok := <-ready:
		if ok {
			return e, nil
		}
		e.Shutdown()
		select {
		case why := <-fatal:
			return nil, fmt.Errorf("embedded NATS: %s", why)
		default:
			return nil, fmt.Errorf("embedded NATS: not ready after %s", opt.StartTimeout)
		}
	case why := <-fatal:
		e.Shutdown()
		return nil, fmt.Errorf("embedded NATS: %s", why)
	}
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
	if e.opt.Listen == "" {
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
	if e == nil || e.opt.MinFree < 0 {
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

// Healthy tells whether JetStream runs; its error says why not.
func (e *Server) Healthy() error {
	if !e.s.Running() {
		return errors.New("embedded NATS: it is stopped")
	}
	if line := e.log.broken.Load(); line != nil {
		return fmt.Errorf("embedded NATS: %s; free disk space and start again", *line)
	}
	if !e.s.JetStreamEnabled() {
		return errors.New("embedded NATS: JetStream has been switched off by an error, see its log; free disk space and start again")
	}
	return nil
}

// logger hands the server's lines to slog.
type logger struct {
	log   *slog.Logger
	fatal chan string // the first line that would have ended the process

	broken atomic.Pointer[string] // the first line that says that a stream takes nothing more before the next start
}

// writeError is in the line with which the server gives up a stream whose files it could not write.
const writeError = "critical write error"

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.log.Error(line)
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
