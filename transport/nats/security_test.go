package nats

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// authority signs certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), next: 1}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(a.dir, "ca.pem"), "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sign writes a certificate for this machine under a name, and returns its files.
func (a *authority) sign(t *testing.T, name string) TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.next++
	c := &x509.Certificate{SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := TLS{CertFile: filepath.Join(a.dir, name+".pem"), KeyFile: filepath.Join(a.dir, name+".key"), CAFile: filepath.Join(a.dir, "ca.pem")}
	writePEM(t, files.CertFile, "CERTIFICATE", der)
	writePEM(t, files.KeyFile, "EC PRIVATE KEY", raw)
	return files
}

// canary is a secret that must be found nowhere.
const canary = "s3cr3t-canary"

func TestExposedAddresses(t *testing.T) {
	files, users := TLS{CertFile: "c", KeyFile: "k", CAFile: "a"}, []User{{Name: "u", Password: canary}}
	routes := func(listen string) *ClusterOptions {
		return &ClusterOptions{Name: "c", Listen: listen, Join: []string{listen, "10.0.0.2:1", "10.0.0.3:1"}, User: User{Name: "r", Password: canary}}
	}
	open := routes("10.0.0.1:1")
	open.User = User{}
	one := routes("10.0.0.1:1")
	one.Join = one.Join[:1]
	for _, c := range []struct {
		opt     Options
		missing []string // nil: it is not refused
	}{
		{Options{Listen: "127.0.0.1:4222"}, nil},
		{Options{Listen: "localhost:4222"}, nil},
		{Options{Listen: "[::1]:4222"}, nil},
		{Options{}, nil},
		{Options{Listen: "0.0.0.0:4222", Plain: true}, nil},
		{Options{Listen: "0.0.0.0:4222", TLS: files, Users: users}, nil},
		{Options{Listen: "10.0.0.1:4222", TLS: files, Users: users, Cluster: routes("10.0.0.1:1")}, nil},
		{Options{Cluster: routes("127.0.0.1:1")}, nil},
		{Options{Cluster: one}, nil}, // it takes no routes
		{Options{Listen: "0.0.0.0:4222"}, []string{"TLS.CertFile", "TLS.KeyFile", "Users"}},
		{Options{Listen: ":4222", TLS: files}, []string{"Users"}},
		{Options{Listen: "host:4222", Users: users}, []string{"TLS.CertFile", "TLS.KeyFile"}},
		{Options{Cluster: open}, []string{"TLS.CertFile", "TLS.KeyFile", "TLS.CAFile", "Cluster.User"}},
		{Options{TLS: files, Cluster: open}, []string{"Cluster.User"}},
	} {
		c.opt.Dir, c.opt.Name = "data", "a"
		_, err := c.opt.withDefaults().validate()
		if c.missing == nil {
			if err != nil {
				t.Errorf("%+v: %v", c.opt, err)
			}
			continue
		}
		var refused *ExposedError
		if !errors.As(err, &refused) || strings.Join(refused.Missing, " ") != strings.Join(c.missing, " ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: got %v, want a refusal that names %v", c.opt, err, c.missing)
		}
	}
}

func TestSecretIsNotShown(t *testing.T) {
	u := User{Name: "u", Password: canary, Token: canary}
	text, err := json.Marshal(Options{Users: []User{u}})
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "user", u, "secret", u.Password)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "user", u, "secret", u.Password)
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d", u, u, u, u.Password, u.Password, u.Password, u.Password) + string(text) + logged.String()
	if strings.Contains(all, canary) || strings.Contains(all, fmt.Sprintf("%x", canary)) {
		t.Errorf("shown: %s", all)
	}
	if text, err := json.Marshal(User{}); err != nil || strings.Contains(string(text), "*") {
		t.Errorf("nobody is shown as %s, %v", text, err)
	}
	for _, bad := range []string{"nats://u:" + canary + "@127.0.0.1:1", "nats://" + canary + "@127.0.0.1:1", "u:" + canary + "@127.0.0.1:1", "nats://u:" + canary + "@[::1", "nats://h:1,nats://u:" + canary + "@%zz"} {
		if _, err := Connect(t.Context(), ConnectOptions{URL: bad}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("connected to nothing: %v", err)
		}
	}
}

// TestSecureCluster has servers that show each other certificates and a user, and clients that have to be somebody.
func TestSecureCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("four servers, not with -short")
	}
	ca, other := newAuthority(t), newAuthority(t)
	var logged lines
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var mu sync.Mutex
	var join []string
	servers := set(t, 3, 1, func(o *Options) {
		mu.Lock()
		defer mu.Unlock()
		o.Listen, o.TLS, o.Log = "127.0.0.1:0", ca.sign(t, o.Name), log
		o.Users = []User{{Name: "app", Password: canary}, {Token: canary + "-token"}}
		o.Cluster.User = User{Name: "route", Password: canary + "-route"}
		join = o.Cluster.Join
	})
	for _, s := range []*Server{servers[0], servers[3]} { // one of the set, and one beside it
		streams := NewStreams(connect(t, ConnectOptions{Server: s}), StreamsOptions{Replicas: 3})
		ensure(t, streams, transport.Config{Name: "S", Subjects: []string{"s.>"}})
		if _, err := streams.Publish(t.Context(), "S", numbered(10)); err != nil {
			t.Fatal(err)
		}
	}
	url := strings.Replace(servers[1].URL(), "tls://", "nats://", 1)
	trust := TLS{CAFile: filepath.Join(ca.dir, "ca.pem")}
	for _, o := range []ConnectOptions{
		{URL: url, TLS: trust, User: User{Name: "app", Password: canary}},
		{URL: url, TLS: trust, User: User{Token: canary + "-token"}},
		{URL: strings.Replace(url, "nats://", "nats://app:"+canary+"@", 1), TLS: trust},
	} {
		o.Log = log
		if got := stored(t, NewStreams(connect(t, o), StreamsOptions{})); len(got) != 20 {
			t.Errorf("%+v read %d messages", o.User, len(got))
		}
	}
	for want, o := range map[string]ConnectOptions{
		"nats: Authorization Violation":    {URL: url, TLS: trust, User: User{Name: "app", Password: canary + "x"}},
		"Authorization Violation":          {URL: url, TLS: trust},
		"signed by unknown authority":      {URL: url, TLS: TLS{CAFile: filepath.Join(other.dir, "ca.pem")}, User: User{Name: "app", Password: canary}},
		"no such file":                     {URL: url, TLS: TLS{CAFile: "missing.pem"}, User: User{Name: "app", Password: canary}},
		"must be set both or none":         {URL: url, TLS: TLS{CertFile: "x"}, User: User{Name: "app", Password: canary}},
		"User lacks its name or its passw": {URL: url, TLS: trust, User: User{Password: canary}},
	} {
		o.Log = log
		if _, err := Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("want %q, got %v", want, err)
		}
	}

	// Servers that are not let in, and what they say.
	for want, change := range map[string]func(*Options){
		"it may want TLS, and this server has no certificate": func(o *Options) { o.TLS = TLS{} },
		"signed by unknown authority":                         func(o *Options) { o.TLS = other.sign(t, "x") },
		"tls: ": func(o *Options) { // it believes them, they do not believe it
			o.TLS = other.sign(t, "y")
			o.TLS.CAFile = trust.CAFile
		},
		"Authorization": func(o *Options) { o.Cluster.User.Password = canary + "-wrong" },
	} {
		o := Options{Name: "z", Log: log, TLS: ca.sign(t, "z"), StartTimeout: 4 * time.Second,
			Cluster: &ClusterOptions{Name: "test", Listen: freeAddress(t), Join: join, User: User{Name: "route", Password: canary + "-route"}}}
		change(&o)
		s, err := Embed(t.Context(), o)
		if err == nil {
			s.Shutdown()
		}
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if line := logged.find(canary); line != "" {
		t.Errorf("a secret was logged: %s", line)
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	ca := newAuthority(t)
	files := ca.sign(t, "a")
	s := embed(t, Options{Listen: "127.0.0.1:0", TLS: files, Users: []User{{Name: "u", Password: "p"}}})
	defer s.Shutdown()
	o := ConnectOptions{URL: strings.Replace(s.URL(), "tls://", "nats://", 1), TLS: TLS{CAFile: files.CAFile}, User: User{Name: "u", Password: "p"}}
	serial := func() int64 {
		state, err := connect(t, o).out.TLSConnectionState()
		if err != nil {
			t.Fatal(err)
		}
		if state.Version < tls.VersionTLS13 {
			t.Errorf("TLS version %x", state.Version)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 2 {
		t.Errorf("serial %d", n)
	}
	if err := os.WriteFile(files.KeyFile, []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := serial(); n != 2 { // the old one is good until both are there
		t.Errorf("serial %d while the files are written", n)
	}
	ca.sign(t, "a")
	if n := serial(); n != 3 {
		t.Errorf("serial %d after a new certificate", n)
	}
}
