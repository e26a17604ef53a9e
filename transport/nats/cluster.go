package nats

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ClusterOptions make an embedded server one of a cluster.
//
// JetStream runs on a fixed set of one, three or five servers, which Join names by their route addresses. A server
// whose own route address is one of them keeps streams; every other one takes clients and passes on what they ask.
// The set is what elects leaders and stores replicas, so that all servers must name the same one. A set of three goes on without
// one of them, a set of five without two; only its very first start waits for all of them, because none can know that the others hold nothing.
type ClusterOptions struct {
	// Name is the cluster's. A server with another name is refused, and so is one that joins it.
	Name string
	// Listen is the address for the routes of the other servers, like 10.0.0.1:6222.
	Listen string
	// Advertise is where the others reach Listen. Default: Listen, which may not be 0.0.0.0 then.
	Advertise string
	// Join are the route addresses of the JetStream set, host:port or nats://host:port. Order does not matter, but the spelling does:
	// a server knows that it is one of them by its Advertise.
	//
	// A set of one runs JetStream by itself and takes no routes: JetStream in a cluster needs two servers at least. Other nodes are
	// clients of its Listen then, by ConnectOptions.URL. It becomes three by a backup and a restore.
	Join []string
	// User is whom the servers show each other, with a password; each has the same.
	User User
	// Elections says how soon a leader that is gone is replaced. Default ElectionsFast.
	Elections Elections
}

// setSizes are the sizes that a JetStream set may have: an even one needs as many as the next odd one for a majority and holds no more.
var setSizes = []int{1, 3, 5}

// standing is where a server stands in its cluster, as the options say.
type standing struct {
	own    string   // its route address
	set    []string // the route addresses of the JetStream set
	member bool     // it runs JetStream
	tls    *tls.Config
}

// alone tells that JetStream runs on one server, which takes no routes.
func (p *standing) alone() bool { return len(p.set) == 1 }

// standing reads the options. Its error joins all that is wrong.
func (c *ClusterOptions) standing() (*standing, error) {
	p := new(standing)
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n.*>") {
		wrong("Cluster.Name is %q; it must not be empty or hold white space or any of . * >", c.Name)
	}
	if c.Elections != "" && c.Elections != ElectionsFast && c.Elections != ElectionsStock {
		wrong("Cluster.Elections is %q; it must be %s or %s", c.Elections, ElectionsFast, ElectionsStock)
	}
	if c.User.given() {
		if err := c.User.validate("Cluster.User"); err != nil {
			wrong("%w", err)
		} else if c.User.Token != "" {
			wrong("Cluster.User has a token; routes need a name and a password")
		}
	}
	host, port, err := hostPort(c.Listen)
	ip := net.ParseIP(host)
	switch {
	case err != nil:
		wrong("Cluster.Listen: %w", err)
	case port == 0:
		wrong("Cluster.Listen is %s; it must have a port above 0", c.Listen)
	case c.Advertise != "":
		if p.own, err = routeAddress(c.Advertise); err != nil {
			wrong("Cluster.Advertise: %w", err)
		}
	case host == "" || ip != nil && ip.IsUnspecified():
		wrong("Cluster.Listen is %s, which is no address that others can reach: set Cluster.Advertise", c.Listen)
	default:
		p.own, _ = routeAddress(c.Listen) // it is one: hostPort has seen it
	}
	for _, address := range c.Join {
		a, err := routeAddress(address)
		switch {
		case err != nil:
			wrong("Cluster.Join: %w", err)
		case slices.Contains(p.set, a):
			wrong("Cluster.Join names %s twice", a)
		default:
			p.set = append(p.set, a)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	p.member = slices.Contains(p.set, p.own)
	switch n := len(p.set); {
	case !slices.Contains(setSizes, n):
		return nil, fmt.Errorf("Cluster.Join names %d JetStream servers; it must name 1, 3 or 5: a set of %d survives no more failures than one of %d", n, n, max(n-1|1, 1))
	case n == 1 && !p.member:
		return nil, fmt.Errorf("Cluster.Join names one JetStream server, %s, and this one is %s: a set of one takes no routes; connect to it as a client of its NATS address, or let Join name three servers", p.set[0], p.own)
	}
	return p, nil
}

// routeAddress returns the host:port of an address that may be written as a URL.
func routeAddress(address string) (string, error) {
	if rest, ok := strings.CutPrefix(address, "nats://"); ok {
		address = strings.TrimSuffix(rest, "/")
	}
	if strings.Contains(address, "@") {
		return "", errors.New("a route address must not hold a user or password")
	}
	host, port, err := hostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" || port == 0 {
		return "", fmt.Errorf("address %s: it must have a host and a port above 0", address)
	}
	return net.JoinHostPort(strings.ToLower(host), strconv.Itoa(port)), nil
}

// The domains keep servers without JetStream out of the members' count. A set that starts and sees as many servers as it
// has members, but fewer with JetStream, makes itself smaller (server 2.15.2): two of five would be a majority with three
// servers beside them that have none, and the other three one too.
const (
	domainOfMembers = "kisflow"
	domainOfOthers  = "kisflow-clients"
)

// apply sets the server's options.
func (p *standing) apply(c *ClusterOptions, files TLS, so *server.Options) error {
	so.JetStream = p.member
	if p.alone() {
		return nil
	}
	if files.CertFile != "" {
		if files.CAFile == "" {
			return errors.New("TLS.CAFile is empty; routes need it to know each other's certificates")
		}
		var err error
		if p.tls, err = files.routes(); err != nil {
			return err
		}
	}
	host, port, _ := hostPort(c.Listen) // standing has seen it
	so.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: port, Advertise: p.own,
		NoAdvertise:  loopbackHost(so.Host),
		PingInterval: 5 * time.Second, // a server that is gone without a word is noticed after three of them
		MaxPingsOut:  2,
		Username:     c.User.Name,
		Password:     string(c.User.Password),
		TLSConfig:    p.tls,
		TLSTimeout:   handshakeWithin.Seconds(),
	}
	var user *url.Userinfo
	if c.User.given() {
		user = url.UserPassword(c.User.Name, string(c.User.Password))
	}
	so.JetStreamDomain = domainOfOthers
	if p.member {
		so.JetStreamDomain = domainOfMembers
	}
	for _, address := range p.set { // with its own: their number is the size of the set
		so.Routes = append(so.Routes, &url.URL{Scheme: "nats-route", Host: address, User: user})
	}
	return nil
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// How often the wait for a leader looks, and says what it waits for.
const (
	leaderEvery = 100 * time.Millisecond
	sayAfter    = 2 * time.Second
	sayEvery    = 15 * time.Second
)

// awaitLeader returns when JetStream answers: the set has a leader.
func (e *Server) awaitLeader(ctx context.Context) error {
	nc, err := e.client()
	if err != nil {
		return err
	}
	defer nc.Close()
	say := time.Now().Add(sayAfter)
	for {
		if err := e.leads(ctx, nc); err == nil {
			return nil
		}
		if err := e.log.ended(); err != nil {
			return err
		}
		if err := sleep(ctx, leaderEvery); err != nil {
			seen, why := e.sight(context.WithoutCancel(ctx))
			if why != nil {
				return why
			}
			if last := e.log.last.Load(); last != nil {
				seen += "; the last error of the server: " + *last
			}
			return fmt.Errorf("%w: %s", err, seen)
		}
		if time.Now().After(say) {
			seen, err := e.sight(ctx)
			if err != nil {
				return err
			}
			e.opt.Log.Info(seen, "cluster", e.opt.Cluster.Name, "address", e.standing.own)
			say = time.Now().Add(sayEvery)
		}
	}
}

// leads asks JetStream for the least.
func (e *Server) leads(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.INFO", nil)
	if err != nil {
		return err
	}
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

// client is a connection of the server's own process.
func (e *Server) client() (*nats.Conn, error) {
	opts := []nats.Option{nats.InProcessServer(e), nats.Name(e.opt.Name + " start"), nats.NoReconnect()}
	if e.own.given() {
		opts = append(opts, nats.UserInfo(e.own.Name, string(e.own.Password)))
	}
	return nats.Connect("", opts...)
}

// sight looks at the route addresses of the set and says in a line what is missing. Its error is what waiting cannot mend.
func (e *Server) sight(ctx context.Context) (string, error) {
	var wg sync.WaitGroup
	sights := make([]sighting, len(e.standing.set))
	for i, address := range e.standing.set {
		if address == e.standing.own {
			continue
		}
		wg.Go(func() { sights[i] = look(ctx, address, e.standing.tls) })
	}
	wg.Wait()
	var missing, present []string
	for i, address := range e.standing.set {
		s := &sights[i]
		switch {
		case address == e.standing.own:
		case s.err != nil:
			missing = append(missing, fmt.Sprintf("%s (%v)", address, s.err))
		case s.Name == e.opt.Name && s.ID != e.s.ID():
			return "", fmt.Errorf("the server at %s has the name %q too: each needs its own", address, s.Name)
		case s.Cluster != e.opt.Cluster.Name:
			return "", fmt.Errorf("the server at %s is of cluster %q, this one of %q", address, s.Cluster, e.opt.Cluster.Name)
		default:
			present = append(present, s.Name)
		}
	}
	switch n := len(e.standing.set); {
	case len(missing) > 0:
		return fmt.Sprintf("waiting for %d of %d JetStream nodes: %s", len(missing), n, strings.Join(missing, ", ")), nil
	case !e.standing.member:
		return fmt.Sprintf("waiting for JetStream's leader; its %d nodes are there: %s. This node is none of them: its route address is %s",
			n, strings.Join(present, ", "), e.standing.own), nil
	default:
		return fmt.Sprintf("waiting for JetStream's leader; the other nodes are there: %s", strings.Join(present, ", ")), nil
	}
}

// sighting is what a server says of itself to one that opens a route.
type sighting struct {
	ID      string `json:"server_id"`
	Name    string `json:"server_name"`
	Cluster string `json:"cluster"`
	err     error
}

// look opens a connection to a route address and closes it again.
func look(ctx context.Context, address string, secure *tls.Config) (s sighting) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) { // without the address, which is said already
			err = op.Err
		}
		return sighting{err: err}
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if secure != nil { // on a route TLS comes first, and what a server says of itself after it
		over, err := shake(ctx, conn, address, secure)
		if err != nil {
			return sighting{err: err}
		}
		conn = over
	}
	line, err := bufio.NewReaderSize(conn, 64<<10).ReadSlice('\n')
	if err != nil {
		if secure == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return sighting{err: errors.New("it says nothing: it may want TLS, and this server has no certificate")}
		}
		return sighting{err: fmt.Errorf("it says nothing: %w", err)}
	}
	text, ok := strings.CutPrefix(string(line), "INFO ")
	if !ok || json.Unmarshal([]byte(text), &s) != nil {
		return sighting{err: errors.New("it is no NATS server")}
	}
	return s
}

// shake makes the handshake of a route. Whether the other side believes our certificate shows in the read after it.
func shake(ctx context.Context, conn net.Conn, address string, secure *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	secure = secure.Clone()
	secure.ServerName = host
	over := tls.Client(conn, secure)
	return over, over.HandshakeContext(ctx)
}

// serversEvery is how often the other servers are counted.
const serversEvery = 100 * time.Millisecond

// watchServers calls left for each server whose routes to this one are gone, until ctx ends. One that dies closes its routes at once; one that is
// cut off is missed by the pings of the routes, or before that by who waits for it.
func (e *Server) watchServers(ctx context.Context, left func(name string)) {
	if len(e.standing.set) < 2 {
		return
	}
	count, names := -1, map[string]bool{}
	for sleep(ctx, serversEvery) == nil {
		n := e.s.NumRoutes()
		if n == count {
			continue
		}
		routes, err := e.s.Routez(nil)
		if err != nil {
			continue // the server is stopping
		}
		count = n
		now := make(map[string]bool, len(names))
		for _, r := range routes.Routes {
			now[r.RemoteName] = true
		}
		for name := range names {
			if !now[name] {
				e.opt.Log.Warn("a NATS server left the cluster", "server", name)
				left(name)
			}
		}
		names = now
	}
}
