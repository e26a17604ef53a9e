package nats

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Secret is a password or a token. However it is printed, it shows itself as ***, or as nothing where there is none.
type Secret string

func (s Secret) shown() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Format implements fmt.Formatter for all verbs.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.shown()) }

// MarshalText implements encoding.TextMarshaler, for JSON and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.shown()), nil }

// User is who may connect: a name with a password, or a token.
type User struct {
	Name     string
	Password Secret
	Token    Secret
}

func (u User) given() bool { return u != User{} }

func (u User) validate(field string) error {
	switch {
	case u.Token != "" && (u.Name != "" || u.Password != ""):
		return fmt.Errorf("%s has a token and a name or password; it must have a token, or a name and a password", field)
	case u.Token == "" && (u.Name == "" || u.Password == ""):
		return fmt.Errorf("%s lacks its name or its password", field)
	}
	return nil
}

// TLS names files in PEM. A server needs a certificate and a key; CAFile is whom it believes of other servers, and a client of
// servers. Files are read again when they change, but for CAFile.
type TLS struct {
	CertFile, KeyFile string
	// CAFile holds the certificates of authorities. Empty: the system's. Routes need it: both sides of a route show a certificate.
	CAFile string
}

func (t TLS) given() bool { return t != TLS{} }

// config makes what both sides of a connection use.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("TLS.CertFile and TLS.KeyFile must be set both or none")
	}
	if t.CertFile != "" {
		p := &pair{files: t}
		if _, err := p.get(); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.get() }
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.get() }
	}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("TLS: %s holds no certificate", t.CAFile)
		}
	}
	return c, nil
}

// Mutual makes what both sides of a connection between nodes use: each shows a certificate of the authority that both believe.
// It is nil where no certificate is named.
func (t TLS) Mutual() (*tls.Config, error) {
	if t.CertFile == "" && t.KeyFile == "" {
		return nil, nil
	}
	return t.routes()
}

// routes makes what both sides of a route use: each shows a certificate of the authority that both believe.
func (t TLS) routes() (*tls.Config, error) {
	c, err := t.config()
	if err != nil {
		return nil, err
	}
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, c.RootCAs
	return c, nil
}

// pair is a certificate with its key, as the files have it now.
type pair struct {
	files TLS

	mu   sync.Mutex
	have *tls.Certificate
	at   [2]time.Time // when the files were changed
}

// get reads the files if they have changed. While they do not belong together, as between the writes of both, it returns what it has.
func (p *pair) get() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var at [2]time.Time
	for i, name := range []string{p.files.CertFile, p.files.KeyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return p.have, p.missed(err)
		}
		at[i] = info.ModTime()
	}
	if p.have != nil && at == p.at {
		return p.have, nil
	}
	c, err := tls.LoadX509KeyPair(p.files.CertFile, p.files.KeyFile)
	if err != nil {
		return p.have, p.missed(fmt.Errorf("%s and %s: %w", p.files.CertFile, p.files.KeyFile, err))
	}
	p.have, p.at = &c, at
	return p.have, nil
}

// missed returns err where there is no certificate from before.
func (p *pair) missed(err error) error {
	if p.have != nil {
		return nil
	}
	return err
}

// ExposedError refuses an address that other machines reach without TLS and a user.
type ExposedError struct {
	Address string
	Route   bool     // it is the address for routes, not for clients
	Missing []string // fields of Options that would have to be set
}

func (e *ExposedError) Error() string {
	what := "listen address"
	if e.Route {
		what = "Cluster.Listen"
	}
	return fmt.Sprintf("%s %s can be reached from other machines: set %s, or use a loopback address", what, e.Address, strings.Join(e.Missing, ", "))
}

// exposed refuses addresses in plain text beyond this machine.
func (o Options) exposed(p *standing) error {
	if o.Plain {
		return nil
	}
	var errs []error
	refuse := func(address string, route bool, needs map[string]bool, order ...string) {
		if host, _, err := hostPort(address); err != nil || loopbackHost(host) {
			return
		}
		e := &ExposedError{Address: address, Route: route}
		for _, field := range order {
			if !needs[field] {
				e.Missing = append(e.Missing, field)
			}
		}
		if len(e.Missing) > 0 {
			errs = append(errs, e)
		}
	}
	has := map[string]bool{"TLS.CertFile": o.TLS.CertFile != "", "TLS.KeyFile": o.TLS.KeyFile != "", "TLS.CAFile": o.TLS.CAFile != "", "Users": len(o.Users) > 0}
	if o.Listen != "" {
		refuse(o.Listen, false, has, "TLS.CertFile", "TLS.KeyFile", "Users")
	}
	if o.Cluster != nil && len(p.set) > 1 {
		has["Cluster.User"] = o.Cluster.User.given()
		refuse(o.Cluster.Listen, true, has, "TLS.CertFile", "TLS.KeyFile", "TLS.CAFile", "Cluster.User")
	}
	return errors.Join(errs...)
}

// guard lets users in. It implements server.Authentication.
type guard struct{ users []User }

// newGuard returns a guard and the user that this process itself is, who is nowhere else.
func newGuard(users []User) (*guard, User, error) {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, User{}, err
	}
	own := User{Name: "kisflow-" + hex.EncodeToString(b[:8]), Password: Secret(hex.EncodeToString(b[8:]))}
	return &guard{users: append([]User{own}, users...)}, own, nil
}

// Check compares with all users, however early one of them is right: the time tells nothing.
func (g *guard) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	right := 0
	for _, u := range g.users {
		if u.Token != "" {
			right |= same(string(u.Token), o.Token)
		} else {
			right |= same(u.Name, o.Username) & same(string(u.Password), o.Password)
		}
	}
	return right == 1
}

func same(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}

// redacted returns the URLs without their passwords, or an error that does not show them either.
func redacted(urls string) (string, error) {
	var all []string
	for _, text := range strings.Split(urls, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil {
			return "", errors.New("the URL of NATS cannot be read; it must be like nats://host:4222")
		}
		if _, has := u.User.Password(); !has && u.User != nil {
			u.User = url.User("***") // a token
		}
		all = append(all, u.Redacted())
	}
	return strings.Join(all, ","), nil
}
