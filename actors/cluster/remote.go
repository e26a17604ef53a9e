package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	shell "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/kisflow/kisflow/proto"
)

// What the remote is bounded by. It limits a batch by count and a message by bytes, so the product must be below what
// a receiver takes; its queues grow, so the calls under way are counted here.
const (
	remoteBatch   = 16
	remoteQueue   = 1024
	remoteMessage = remoteBatch*(MaxBody+64<<10) + 1<<20
	callsOut      = 1024 // of this node, under way at once
	callsIn       = 512  // of others, handled at once

	pingEvery   = 10 * time.Second // of a connection; gRPC takes no less
	pingTimeout = 3 * time.Second
	dialTimeout = 2 * time.Second
	stopTimeout = 3 * time.Second
)

// protoLink is the link between processes: protoactor's remote carries the calls, and its cluster, as a shell, finds
// virtual actors. One actor system serves all incarnations: starting a remote again sets what is the whole process's.
// To the shell a member's id is its incarnation, for it bans the ids of members that were away for ever.
type protoLink struct {
	opt  Options
	host linkHost

	mu  sync.Mutex
	now *station // nil while stopped
}

func newRemote(o Options, host linkHost) link { return &protoLink{opt: o, host: host} }

func (l *protoLink) start(ctx context.Context, incarnation string) (string, error) {
	s := l.station()
	if s == nil {
		var err error
		if s, err = l.open(ctx); err != nil {
			return "", fmt.Errorf("listen %s: %w", l.opt.Listen, err)
		}
		l.mu.Lock()
		l.now = s
		l.mu.Unlock()
	}
	return s.address, s.become(incarnation)
}

// open listens. A free port that another process takes before it is ours is tried no more.
func (l *protoLink) open(ctx context.Context) (*station, error) {
	host, port, err := splitAddress(l.opt.Listen)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		take := port
		if take == 0 {
			if take, err = freePort(host); err != nil {
				return nil, err
			}
		}
		s, err := newStation(l.opt, l.host, host, take)
		if err == nil || port != 0 || try == 5 || wait(ctx, 0) != nil {
			return s, err
		}
	}
}

func freePort(host string) (int, error) {
	lis, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = lis.Close() }()
	return lis.Addr().(*net.TCPAddr).Port, nil
}

func (l *protoLink) station() *station {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *protoLink) stop() {
	l.mu.Lock()
	s := l.now
	l.now = nil
	l.mu.Unlock()
	if s != nil {
		s.stop()
	}
}

func (l *protoLink) call(ctx context.Context, to peer, c Call) ([]byte, error) {
	s := l.station()
	if s == nil {
		return nil, errUnsent
	}
	return s.send(ctx, s.pid(to), c)
}

// ask goes through the shell: its context (ours) asks its identity look-up (ours) for the owner.
func (l *protoLink) ask(ctx context.Context, c Call) ([]byte, error) {
	s := l.station()
	if s == nil {
		return nil, errUnsent
	}
	actorOf := c.Key
	if c.Partition != "" {
		actorOf = c.Partition
	}
	body, err := s.shell.Request(strconv.Itoa(c.Group)+"/"+actorOf, c.Flow+"/"+c.Step, &request{ctx, c})
	if err != nil {
		return nil, err
	}
	return body.([]byte), nil
}

func (l *protoLink) members(ms []Member) {
	if s := l.station(); s != nil {
		s.members(ms)
	}
}

// station is this node's actor system.
type station struct {
	host    linkHost
	address string
	system  *actor.ActorSystem
	shell   *shell.Cluster
	started chan struct{} // by the shell
	starter sync.WaitGroup
	calls   *actor.PID // takes the calls of our incarnation; only become changes it

	out, in chan struct{}   // one for each call under way
	ctx     context.Context // of the calls that are handled
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu        sync.Mutex
	stopped   bool
	pending   map[string]map[*pending]bool // by address
	connected map[string]bool              // addresses
}

func newStation(o Options, host linkHost, listen string, port int) (*station, error) {
	s := &station{
		host: host, started: make(chan struct{}), out: make(chan struct{}, callsOut), in: make(chan struct{}, callsIn),
		pending: make(map[string]map[*pending]bool), connected: make(map[string]bool),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.address, err = advertised(o, listen, port); err != nil {
		return nil, err
	}
	log := slog.New(quiet{o.Log.With("part", "remote").Handler()})
	s.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return log }))
	s.system.ID = newIncarnation(o.Node)
	s.system.EventStream.Subscribe(s.event)
	if strings.Contains(listen, ":") {
		listen = "[" + listen + "]" // it puts host and port together by itself
	}
	rc := remote.Configure(listen, port, remote.WithAdvertisedHost(s.address), remote.WithEndpointWriterBatchSize(remoteBatch),
		remote.WithEndpointWriterQueueSize(remoteQueue), remote.WithServerOptions(serverOptions(o.TLS)...), remote.WithDialOptions(dialOptions(o.TLS)...))
	rc.MaxRetryCount = 1 // it sleeps for two seconds after each
	sc := shell.Configure(o.Name, provider{s}, lookup{s}, rc, shell.WithClusterContextProducer(func(*shell.Cluster) shell.Context { return shellContext{s} }))
	sc.GossipInterval = 24 * time.Hour // never: members are known by their keys
	s.shell = shell.New(s.system, sc)

	failed := make(chan error, 1)
	s.starter.Add(1)
	go func() { // it sleeps for a second after all is done, and panics where it cannot listen
		defer s.starter.Done()
		defer func() {
			if r := recover(); r != nil {
				failed <- fmt.Errorf("%v", r)
			}
		}()
		s.shell.StartMember()
	}()
	select {
	case <-s.started:
	case err := <-failed:
		s.cancel()
		return nil, err
	}
	return s, nil
}

// become takes the calls for an incarnation, and no more those for the one before it.
func (s *station) become(incarnation string) error {
	if !s.begin() {
		return errClosed
	}
	defer s.work.Done()
	if s.calls != nil {
		s.system.Root.Poison(s.calls)
		s.calls = nil
	}
	calls, err := s.system.Root.SpawnNamed(actor.PropsFromFunc(s.receive), callsName(incarnation))
	if err != nil && !errors.Is(err, actor.ErrNameExists) {
		return err
	}
	s.calls = calls
	return nil
}

// advertised is where others reach this node.
func advertised(o Options, listen string, port int) (string, error) {
	if o.Advertise == "" {
		return net.JoinHostPort(listen, strconv.Itoa(port)), nil
	}
	host, p, err := splitAddress(o.Advertise)
	if err != nil {
		return "", err
	}
	if p == 0 {
		p = port
	}
	return net.JoinHostPort(host, strconv.Itoa(p)), nil
}

func serverOptions(t *tls.Config) []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(remoteMessage),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(dialTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	}
	if t != nil {
		// Whoever gets in may send anything to any actor: both sides show who they are.
		t = t.Clone()
		t.ClientAuth = tls.RequireAndVerifyClientCert
		if t.ClientCAs == nil {
			t.ClientCAs = t.RootCAs
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(t)))
	}
	return opts
}

func dialOptions(t *tls.Config) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if t != nil {
		creds = credentials.NewTLS(t.Clone())
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: dialTimeout}, MinConnectTimeout: dialTimeout}),
	}
}

// callsName names the actor that takes the calls of one incarnation.
func callsName(incarnation string) string { return "kisflow-calls-" + incarnation }

func (s *station) pid(to peer) *actor.PID { return actor.NewPID(to.address, callsName(to.incarnation)) }

// stop ends it in bounded time. The shell's own end and the graceful one of the remote are not used: they sleep, and
// set what others read to nil.
func (s *station) stop() {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	s.stopped = true
	s.cancel()
	var addresses []string
	for a, ps := range s.pending {
		addresses = append(addresses, a)
		for p := range ps {
			p.end(errLost)
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
		for _, a := range addresses {
			s.system.EventStream.Publish(&remote.EndpointTerminatedEvent{Address: a}) // closes the connection
		}
		s.shell.Remote.Shutdown(false)
		s.shell.Gossip.Shutdown()
		s.starter.Wait()
		s.system.Shutdown()
	}()
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.system.Logger().Warn("the remote is slow to stop")
	}
}

// begin counts a piece of work that stop waits for.
func (s *station) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.work.Add(1)
	return true
}

// event notes which connections there are.
func (s *station) event(e any) {
	switch e := e.(type) {
	case *remote.EndpointConnectedEvent:
		s.mu.Lock()
		s.connected[e.Address] = true
		s.mu.Unlock()
	case *remote.EndpointTerminatedEvent:
		s.mu.Lock()
		// Where there was no connection nothing was sent.
		end := errUnsent
		if s.connected[e.Address] {
			end = errLost
		}
		delete(s.connected, e.Address)
		for p := range s.pending[e.Address] {
			p.end(end)
		}
		stopped := s.stopped
		s.mu.Unlock()
		if !stopped {
			s.host.broken(e.Address)
		}
	}
}

// pending is a call that waits for its answer. To protoactor it is a process, as its futures are; but it ends with a
// context.
type pending struct{ result chan result }

type result struct {
	answer *proto.ClusterAnswer
	err    error
}

// end delivers the first result; others are of no use.
func (p *pending) end(err error) { p.deliver(result{err: err}) }

func (p *pending) deliver(r result) {
	select {
	case p.result <- r:
	default:
	}
}

// SendUserMessage implements actor.Process.
func (p *pending) SendUserMessage(_ *actor.PID, message any) {
	switch m := actor.UnwrapEnvelopeMessage(message).(type) {
	case *proto.ClusterAnswer:
		p.deliver(result{answer: m})
	case *actor.DeadLetterResponse: // there is no such incarnation at the address, or no connection to it
		p.end(errUnsent)
	}
}

// SendSystemMessage implements actor.Process.
func (p *pending) SendSystemMessage(*actor.PID, any) {}

// Stop implements actor.Process.
func (p *pending) Stop(*actor.PID) {}

// send sends a call and waits for its answer.
func (s *station) send(ctx context.Context, to *actor.PID, c Call) ([]byte, error) {
	if !s.begin() {
		return nil, errUnsent
	}
	defer s.work.Done()
	select {
	case s.out <- struct{}{}:
		defer func() { <-s.out }()
	case <-ctx.Done():
		return nil, errUnsent
	case <-s.ctx.Done():
		return nil, errUnsent
	}
	m := &proto.ClusterCall{
		From: c.From, Flow: c.Flow, Step: c.Step, Key: c.Key, Partition: c.Partition, Group: uint32(c.Group), Method: c.Method, Body: c.Body,
	}
	if end, ok := ctx.Deadline(); ok {
		m.Timeout = max(int64(time.Until(end)), 1)
	}
	p := &pending{make(chan result, 1)}
	sender, _ := s.system.ProcessRegistry.Add(p, "kisflow-ask"+s.system.ProcessRegistry.NextID())
	defer s.system.ProcessRegistry.Remove(sender)
	s.mu.Lock()
	if s.pending[to.Address] == nil {
		s.pending[to.Address] = make(map[*pending]bool)
	}
	s.pending[to.Address][p] = true // kept when it is empty: stop closes all connections that there were
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending[to.Address], p)
		s.mu.Unlock()
	}()
	s.system.Root.RequestWithCustomSender(to, m, sender)
	select {
	case r := <-p.result:
		switch {
		case r.err != nil:
			return nil, r.err
		case r.answer.Failed:
			return nil, &Error{r.answer.Code, r.answer.Text}
		}
		return r.answer.Body, nil
	case <-ctx.Done():
		return nil, errLost
	}
}

// receive takes a call in and lets a goroutine handle it: the mailbox goes on.
func (s *station) receive(ctx actor.Context) {
	m, ok := ctx.Message().(*proto.ClusterCall)
	sender := ctx.Sender()
	if !ok || sender == nil {
		return
	}
	select {
	case s.in <- struct{}{}:
	default:
		s.system.Root.Send(sender, failure(errorf(CodeBusy, "the node handles %d calls at the moment", callsIn)))
		return
	}
	if !s.begin() {
		<-s.in
		return
	}
	go func() {
		defer s.work.Done()
		defer func() { <-s.in }()
		s.system.Root.Send(sender, s.handle(m))
	}()
}

// handle calls the host.
func (s *station) handle(m *proto.ClusterCall) (answer *proto.ClusterAnswer) {
	ctx, cancel := context.WithTimeout(s.ctx, attemptMost)
	if m.Timeout > 0 {
		cancel()
		ctx, cancel = context.WithTimeout(s.ctx, time.Duration(m.Timeout))
	}
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			s.system.Logger().Error("a call panicked", "method", m.Method, "panic", r)
			answer = failure(errorf(CodeInternal, "%s panicked: %v", m.Method, r))
		}
	}()
	body, err := s.host.answer(ctx, Call{
		Identity: Identity{Flow: m.Flow, Step: m.Step, Key: m.Key, Partition: m.Partition, Group: int(m.Group)},
		From:     m.From, Method: m.Method, Body: m.Body,
	})
	if err != nil {
		return failure(err)
	}
	return &proto.ClusterAnswer{Body: body}
}

func failure(err error) *proto.ClusterAnswer {
	e := asError(err)
	return &proto.ClusterAnswer{Failed: true, Code: e.Code, Text: e.Text}
}

// members tells the shell who is there.
func (s *station) members(ms []Member) {
	var all shell.Members
	for _, m := range ms {
		host, port, err := splitAddress(m.Address)
		if m.Alive && err == nil {
			all = append(all, &shell.Member{Host: host, Port: int32(port), Id: m.Incarnation, Kinds: []string{}})
		}
	}
	if s.begin() {
		defer s.work.Done()
		s.shell.MemberList.UpdateClusterTopology(all)
	}
}

// provider is the shell's: who is a member it is told by members.
type provider struct{ s *station }

func (p provider) StartMember(*shell.Cluster) error { close(p.s.started); return nil }
func (p provider) StartClient(*shell.Cluster) error { return errors.New("a node is a member") }
func (p provider) Shutdown(bool) error              { return nil }

// lookup is the shell's: an identity begins with its group, and the table names the group's owner.
type lookup struct{ s *station }

func (l lookup) Get(id *shell.ClusterIdentity) *actor.PID {
	group, _, _ := strings.Cut(id.Identity, "/")
	n, err := strconv.Atoi(group)
	if err != nil {
		return nil
	}
	to, ok := l.s.host.resolve(n)
	if !ok {
		return nil
	}
	return l.s.pid(to)
}

func (l lookup) RemovePid(*shell.ClusterIdentity, *actor.PID) {}
func (l lookup) Setup(*shell.Cluster, []string, bool)         {}
func (l lookup) Shutdown()                                    {}

// request is a call with the context that it ends with.
type request struct {
	ctx  context.Context
	call Call
}

// shellContext is the shell's: one attempt. Who calls it knows when there may be another.
type shellContext struct{ s *station }

func (c shellContext) Request(identity, kind string, message any, _ ...shell.GrainCallOption) (any, error) {
	r, ok := message.(*request)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be asked", message)
	}
	pid := c.s.shell.Get(identity, kind)
	if pid == nil {
		return nil, errUnsent
	}
	return c.s.send(r.ctx, pid, r.call)
}

func (c shellContext) RequestFuture(string, string, any, ...shell.GrainCallOption) (actor.Future, error) {
	return nil, errors.New("calls end with a context: use Request")
}

// quiet shows what protoactor logs for those who look for faults in it, and nobody else: it tells of each lost
// connection as an error.
type quiet struct{ slog.Handler }

func (h quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, min(l, slog.LevelDebug))
}

func (h quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = min(r.Level, slog.LevelDebug)
	return h.Handler.Handle(ctx, r)
}

func (h quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{h.Handler.WithAttrs(a)} }
func (h quiet) WithGroup(name string) slog.Handler   { return quiet{h.Handler.WithGroup(name)} }
