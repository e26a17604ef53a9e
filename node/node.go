package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions/script"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/state/pebble"
	"github.com/kisflow/kisflow/transport"
	"github.com/kisflow/kisflow/transport/nats"
)

// Node is one process of KisFlow.
type Node struct {
	opt     Options
	log     *slog.Logger
	started time.Time

	lock    *flock.Flock
	server  *nats.Server // nil with an outside NATS
	conn    *nats.Conn
	streams transport.Streams
	objects transport.Objects
	db      *pebble.DB
	system  *actors.System
	meter   *actors.Meter
	metrics *metrics
	planner *planner
	scripts *script.Pool

	connectors *connectors.Host
	members    *membership // nil: this node is alone

	http     []*http.Server
	listener net.Listener
	serving  errgroup.Group

	endBackground context.CancelFunc // of what runs beside the flows; nil before it does

	recovered atomic.Pointer[time.Time] // when the flows ran again after the start
	phase     atomic.Value              // string
	change    sync.Mutex                // one change of the catalog at a time

	mu       sync.Mutex
	catalog  *catalog
	set      *flowdef.Set      // of catalog.Definitions
	problems map[string]string // by flow: why it does not run
	warnings map[string]string // by flow: why its files are not taken over

	lastSaved string // fingerprint of the definitions in the catalog's stream
}

// Run starts a node and keeps it going until ctx ends; then it drains and stops. A store of states that turns
// out to be corrupt is set aside, and the node starts again: the logs and the snapshots hold all that was in it.
func Run(ctx context.Context, o Options) error {
	o.meter = new(actors.Meter)
	go tuneCollector(ctx, o.meter.Batches) // ends with ctx
	for restarts := 0; ; restarts++ {
		n, err := Start(ctx, o)
		if err != nil {
			if ctx.Err() != nil {
				return nil // told to stop while starting: all is as it was
			}
			return err
		}
		watch, unwatch := context.WithCancel(ctx)
		select {
		case <-ctx.Done():
			n.log.Info("stopping: the batches at hand are finished, nothing else is taken up")
		case <-n.db.Failed():
			err = fmt.Errorf("the store of states: %w", n.db.Err())
			n.log.Error("stopping", "error", err)
		case err = <-n.natsFailed(watch):
			n.log.Error("stopping", "error", err)
		case <-n.outcast():
			err = n.members.c.Err()
			n.log.Error("stopping", "error", err)
		}
		unwatch()
		stop, cancel := context.WithTimeout(context.Background(), stopWithin)
		cerr := n.Close(stop)
		cancel()
		if !errors.Is(err, state.ErrCorrupt) || restarts == maxRestarts {
			return errors.Join(err, cerr)
		}
		if err := n.setAside(err); err != nil {
			return err
		}
	}
}

// natsFailed tells when the embedded NATS is of no use any more, as after a full disk: within the process
// JetStream does not come back.
func (n *Node) natsFailed(ctx context.Context) <-chan error {
	failed := make(chan error, 1)
	if n.server == nil {
		return failed
	}
	go func() { // ends with ctx, or when it has told
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			if err := n.server.Healthy(); err != nil {
				failed <- err
				return
			}
		}
	}()
	return failed
}

// maxRestarts is how often a process sets a corrupt store aside: more often, it is the disk.
const maxRestarts = 3

// stopWithin is how long a stop may take; what is not finished then is read again at the next start.
const stopWithin = 10 * time.Second

// Start starts a node: it returns when the API answers and all flows have been started; what a flow's partitions
// recover is done by then, or in the status.
func Start(ctx context.Context, o Options) (_ *Node, err error) {
	files, err := definitions(o)
	if err != nil {
		return nil, err
	}
	if files != nil {
		o = o.under(files.Global) // a folder of definitions may hold the node's settings, as the original's do
	}
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	n := &Node{opt: o, log: o.logger(), started: time.Now().UTC(), problems: make(map[string]string), meter: o.meter}
	if n.meter == nil {
		n.meter = new(actors.Meter)
	}
	n.phase.Store("starting")
	defer func() {
		if err != nil {
			stop, cancel := context.WithTimeout(context.Background(), stopWithin)
			defer cancel()
			_ = n.Close(stop)
		}
	}()
	if err := n.lockData(ctx); err != nil {
		return nil, err
	}
	if err := n.listen(); err != nil {
		return nil, err
	}
	if err := n.connect(ctx); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		return nil, err
	}
	n.metrics = newMetrics(n)
	perPartition := int(min(o.StateCache/16, 1<<30))
	n.system = actors.NewSystem(n.streams, n.objects, n.db, n.log, n.meter,
		actors.Options{Partitions: o.Partitions, CacheBytes: perPartition, Owner: owner()})
	n.scripts = script.NewPool(script.PoolOptions{Program: o.ScriptWorker, Log: n.log.With("part", "scripts")})
	if err := twiceNamed(o.Connectors); err != nil {
		return nil, err
	}
	n.connectors = connectors.NewHost(connectorTypes(n.conn.Client(), o.Connectors)...)
	n.planner = &planner{streams: n.streams, functions: make(map[string]kis.Function), scripts: n.scripts, client: n.conn.Client(),
		connectors: n.connectors, lookups: new(lookupCounts), latest: n.system}
	for _, f := range o.Functions {
		if n.planner.functions[f.Name()] != nil {
			return nil, fmt.Errorf("function %s is registered twice", f.Name())
		}
		n.planner.functions[f.Name()] = f
	}
	if o.ClusterName != "" {
		if err := n.joinCluster(ctx); err != nil {
			return nil, err
		}
	}
	if err := n.readCatalog(ctx); err != nil {
		return nil, err
	}
	if err := n.serve(); err != nil {
		return nil, err
	}
	n.phase.Store("recovering")
	if err := n.startAll(ctx, files); err != nil {
		return nil, err
	}
	ready := time.Now()
	n.recovered.Store(&ready)
	n.phase.Store("running")
	background, cancel := context.WithCancel(context.Background())
	n.endBackground = cancel
	n.serving.Go(func() error {
		n.keepRetention(background)
		return nil
	})
	if n.members != nil {
		n.serving.Go(func() error {
			n.followCatalog(background)
			return nil
		})
		n.serving.Go(func() error {
			n.members.watchCopies(background)
			return nil
		})
		n.serving.Go(func() error {
			n.finishLeft(background)
			return nil
		})
	}
	n.log.Info("kisnode runs", "api", "http://"+n.listener.Addr().String(), "nats", n.natsURL(), "data", o.Data,
		"durability", o.Durability, "flows", len(n.system.Running()), "after", time.Since(n.started).Round(time.Millisecond).String())
	return n, nil
}

// readCatalog reads the catalog for the first time. Other nodes may ask for it already.
func (n *Node) readCatalog(ctx context.Context) error {
	n.change.Lock()
	defer n.change.Unlock()
	c, err := loadCatalog(ctx, n.streams)
	if err != nil {
		return err
	}
	set, err := setOf(c.Definitions)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.catalog, n.set = c, set
	n.mu.Unlock()
	n.lastSaved = fingerprint(c.Definitions)
	return nil
}

func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s pid %d", host, os.Getpid())
}

// definitions reads the files of --flows, and refuses to start where one is wrong.
func definitions(o Options) (*flowdef.Set, error) {
	if len(o.Flows) == 0 {
		return nil, nil
	}
	set, mistakes := flowdef.Load(o.Flows...)
	if err := mistakes.Errors().Err(); err != nil {
		return nil, err
	}
	return set, nil
}

// lockWait is how long a start waits for the lock of a process that has just been killed.
const lockWait = 3 * time.Second

// lockData makes the data folder ours.
func (n *Node) lockData(ctx context.Context) error {
	if err := os.MkdirAll(n.opt.Data, 0o755); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	path := filepath.Join(n.opt.Data, "LOCK")
	n.lock = flock.New(path)
	// A process that was killed holds the lock until the kernel has taken it down.
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	ok, err := n.lock.TryLockContext(wait, 50*time.Millisecond)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("data folder: lock %s: %w", path, err)
	}
	if !ok {
		who, _ := os.ReadFile(path + ".owner") // for the message only
		return fmt.Errorf("data folder %s is in use by another kisnode (%s); stop it, or give this one its own --data", n.opt.Data, who)
	}
	return os.WriteFile(path+".owner", []byte(owner()), 0o644)
}

func (n *Node) listen() error {
	l, err := net.Listen("tcp", n.opt.Listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	n.listener = l
	return nil
}

// connect starts the embedded NATS, or finds the outside one.
func (n *Node) connect(ctx context.Context) (err error) {
	power := n.opt.Durability == "power"
	o := nats.ConnectOptions{URL: n.opt.NATS, Name: "kisnode", Log: n.log}
	files := n.opt.tls()
	var user nats.User
	if n.opt.User != "" {
		password, err := connectors.Secret(n.opt.Password)
		if err != nil {
			return fmt.Errorf("password of user %s: %w", n.opt.User, err)
		}
		user = nats.User{Name: n.opt.User, Password: nats.Secret(password)}
	}
	if n.opt.NATS == "" {
		so := nats.Options{Dir: filepath.Join(n.opt.Data, "nats"), Listen: n.opt.NATSListen, SyncAlways: power, Log: n.log.With("part", "nats"), TLS: files,
			Plain: n.opt.ClusterListen == ""} // alone a node may listen anywhere, as ever: who opens it stands a proxy before it
		if user != (nats.User{}) {
			so.Users = []nats.User{user}
		}
		if n.opt.ClusterListen != "" {
			so.Name = n.opt.NodeName
			so.Cluster = &nats.ClusterOptions{Name: n.opt.ClusterName, Listen: n.opt.ClusterListen, Advertise: n.opt.ClusterAdvertise, Join: n.opt.Join, User: user}
		}
		n.server, err = nats.Embed(ctx, so)
		if err != nil {
			return err
		}
		o.Server = n.server
	} else {
		o.TLS, o.User = files, user
	}
	if n.conn, err = nats.Connect(ctx, o); err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	streams := nats.NewStreams(n.conn, nats.StreamsOptions{SyncAlways: power, Replicas: n.opt.Replicas})
	n.streams = streams
	n.objects, err = nats.NewObjects(streams, nats.SnapshotBucket)
	return err
}

// open opens the store. A corrupt one is set aside: the logs and the snapshots hold all that was in it.
func (n *Node) open() error {
	dir := filepath.Join(n.opt.Data, "state")
	o := pebble.Options{Logger: n.log.With("part", "state"), CacheBytes: max(8<<20, n.opt.StateCache/4)}
	db, err := pebble.Open(dir, o)
	if errors.Is(err, state.ErrCorrupt) {
		if err := n.setAside(err); err != nil {
			return err
		}
		db, err = pebble.Open(dir, o)
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	n.db = db
	return nil
}

// setAside moves a corrupt store away.
func (n *Node) setAside(why error) error {
	dir := filepath.Join(n.opt.Data, "state")
	aside := dir + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	n.log.Error("the store of states is corrupt; it is set aside and built anew from the logs", "moved_to", aside, "error", why)
	if err := os.Rename(dir, aside); err != nil {
		return fmt.Errorf("store: %w; and it could not be set aside: %w", why, err)
	}
	return nil
}

func (n *Node) natsURL() string {
	if n.server != nil {
		return n.server.URL()
	}
	return redactURL(n.opt.NATS)
}

// serve starts the API, health and metrics.
func (n *Node) serve() error {
	handlers := map[string]http.Handler{
		"GET /healthz": http.HandlerFunc(n.healthz),
		"GET /readyz":  http.HandlerFunc(n.readyz),
	}
	own := n.opt.PrometheusListen || n.opt.PrometheusServe != ""
	if !own {
		handlers["GET /metrics"] = n.metrics.handler()
	}
	host, _, _ := net.SplitHostPort(n.opt.Listen)
	s := api.NewServer(n, api.Options{Handlers: handlers, Log: n.log, Hosts: []string{host}})
	n.goServe(&http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}, n.listener)
	if n.opt.DebugListen != "" {
		l, err := net.Listen("tcp", n.opt.DebugListen)
		if err != nil {
			return fmt.Errorf("listen for profiles: %w", err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		n.goServe(&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, l)
	}
	if !own {
		return nil
	}
	address := n.opt.PrometheusServe
	if address == "" {
		address = "127.0.0.1:20004"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", n.metrics.handler())
	n.goServe(&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, l)
	return nil
}

func (n *Node) goServe(s *http.Server, l net.Listener) {
	n.http = append(n.http, s)
	n.serving.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("HTTP server ended", "address", l.Addr().String(), "error", err)
		}
		return nil
	})
}

func (n *Node) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := n.db.Err(); err != nil {
		http.Error(w, "the store of states: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (n *Node) readyz(w http.ResponseWriter, _ *http.Request) {
	if why := n.notReady(); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (n *Node) notReady() string {
	if p := n.phase.Load().(string); p != "running" {
		return p
	}
	if !n.conn.Connected() {
		return "not connected to NATS"
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, why := range n.problems {
		return "flow " + name + ": " + why
	}
	return ""
}

// Address is where the API listens.
func (n *Node) Address() string { return n.listener.Addr().String() }

// NATSAddress is where the embedded NATS listens for clients.
func (n *Node) NATSAddress() string { return n.natsURL() }

// Close stops the node: flows first, then what they stand on.
func (n *Node) Close(ctx context.Context) error {
	n.phase.Store("stopping")
	var errs []error
	if n.members != nil {
		if err := n.members.c.Leave(ctx); err != nil {
			n.log.Warn("the cluster was not left in good order: its other nodes take over when the lease has ended", "error", err)
		}
		n.members.c.Close()
	}
	if n.system != nil {
		errs = append(errs, n.system.Close(ctx))
	}
	if n.scripts != nil {
		n.scripts.Close()
	}
	if n.connectors != nil {
		errs = append(errs, n.connectors.Close())
	}
	for _, s := range n.http {
		errs = append(errs, s.Shutdown(ctx))
	}
	if len(n.http) == 0 && n.listener != nil {
		_ = n.listener.Close()
	}
	if n.endBackground != nil {
		n.endBackground()
	}
	_ = n.serving.Wait()
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.server != nil {
		n.server.Shutdown()
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Unlock())
	}
	return errors.Join(errs...)
}
