// Package http looks up objects by GET requests, several at a time.
package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/kis"
)

const (
	hole      = "{key}"
	maxAnswer = 1 << 20
	maxAtOnce = 256
)

// Type is the connector type http.
func Type() kis.ConnectorType { return httpType{} }

type httpType struct{}

func (httpType) Name() string { return "http" }

func (httpType) Schema() kis.ConnectorSchema {
	return kis.ConnectorSchema{
		Doc:   "An HTTP interface that answers a GET of a key with a JSON object. 404, 410 and 204 say that there is none; 401 and 403, that the node is not let in; 408, 425, 429 and all from 500 on pass, and the key is asked for again; every other status is the fault of the key. Cache headers are not looked at: load.cache says it.",
		Does:  []string{"look-up"},
		Addrs: kis.Setting{Required: true, Doc: "the URL, with {key} where the key goes, escaped as its place asks for: https://host/users/{key}"},
		Has: []kis.Setting{
			{Name: "authorization", Secret: true, Doc: "The header Authorization: `Bearer ${ENV:TOKEN}`."},
			{Name: "parallel", Kind: kis.SettingNumber, Default: "16", Doc: "Requests at a time, 1 to 256, of each partition."},
		},
	}
}

func (httpType) Open(spec kis.ConnectorSpec) (kis.Connector, error) {
	address := strings.Join(spec.Addrs, ",")
	u, err := url.Parse(strings.ReplaceAll(address, hole, "key"))
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err
		}
		return nil, fmt.Errorf("addrs is no URL: %w", err)
	}
	path, query, _ := strings.Cut(address, "?")
	scheme := u.Scheme + "://"
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("addrs is no URL of HTTP; write it like https://host/users/{key}")
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(path, scheme), "/")
	if strings.Contains(host, hole) {
		return nil, errors.New("addrs has {key} in the host's name; it belongs to the path or behind the question mark")
	}
	if !strings.Contains(address, hole) {
		return nil, errors.New("addrs has no {key}; write it where the key goes: https://host/users/{key}")
	}
	at := spec.Settings.Int("parallel")
	if at < 1 || at > maxAtOnce {
		return nil, fmt.Errorf("params.parallel is %d; it must be 1 to %d", at, maxAtOnce)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: maxAtOnce, IdleConnTimeout: 90 * time.Second,
	}
	return &site{path: path, query: query, atOnce: at, authorization: spec.Settings.Text("authorization"), transport: transport, client: &http.Client{Transport: transport}}, nil
}

// site is an interface of HTTP.
type site struct {
	path, query   string
	authorization string
	atOnce        int
	transport     *http.Transport
	client        *http.Client
}

// Most implements kis.Lookup: all keys are asked for at once, so that each of them has the whole time.
func (s *site) Most() int { return s.atOnce }

// errDown says that it is not the key's fault, nor one of this moment alone.
type errDown struct{ error }

// Find implements kis.Lookup. A key that is not answered while others are is to be tried again; where none is, the
// site is down.
func (s *site) Find(ctx context.Context, keys []string, found []kis.Found) error {
	var group sync.WaitGroup
	errs := make([]error, len(keys))
	for i, key := range keys {
		group.Go(func() { found[i], errs[i] = s.get(ctx, key) })
	}
	group.Wait()
	answered := false
	for i, err := range errs {
		if down := (errDown{}); errors.As(err, &down) {
			return err
		}
		answered = answered || err == nil && kis.VerdictOf(found[i].Err) != kis.VerdictRetry
	}
	for i, err := range errs {
		if err == nil && kis.VerdictOf(found[i].Err) == kis.VerdictRetry {
			err = found[i].Err
		}
		if err == nil {
			continue
		}
		if !answered {
			return err
		}
		found[i] = kis.Found{Err: kis.Retry(err)}
	}
	return nil
}

// address is the URL of a key.
func (s *site) address(key string) string {
	a := strings.ReplaceAll(s.path, hole, url.PathEscape(key))
	if s.query != "" {
		a += "?" + strings.ReplaceAll(s.query, hole, url.QueryEscape(key))
	}
	return a
}

// get asks for one key. Its error is that no answer came.
func (s *site) get(ctx context.Context, key string) (kis.Found, error) {
	if key == "." || key == ".." {
		return kis.Found{Err: fmt.Errorf("key %q cannot stand in a URL", key)}, nil
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address(key), nil)
	if err != nil {
		return kis.Found{Err: fmt.Errorf("key %q: %w", key, err)}, nil
	}
	q.Header.Set("Accept", "application/json")
	if s.authorization != "" {
		q.Header.Set("Authorization", s.authorization)
	}
	a, err := s.client.Do(q)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err // without the URL
		}
		return kis.Found{}, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	if err != nil {
		return kis.Found{}, err
	}
	switch {
	case a.StatusCode == http.StatusNotFound, a.StatusCode == http.StatusGone, a.StatusCode == http.StatusNoContent:
		return kis.Found{}, nil
	case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden:
		return kis.Found{}, errDown{fmt.Errorf("status %s", a.Status)}
	case a.StatusCode == http.StatusRequestTimeout, a.StatusCode == http.StatusTooEarly, a.StatusCode == http.StatusTooManyRequests, a.StatusCode >= 500:
		return kis.Found{Err: kis.Retry(fmt.Errorf("key %q: status %s", key, a.Status))}, nil
	case a.StatusCode != http.StatusOK:
		return kis.Found{Err: fmt.Errorf("key %q: status %s", key, a.Status)}, nil
	case len(text) > maxAnswer:
		return kis.Found{Err: fmt.Errorf("key %q: the answer has more than %d KiB", key, maxAnswer>>10)}, nil
	}
	row, err := kis.ParseRow(text)
	if err != nil {
		return kis.Found{Err: fmt.Errorf("key %q: the answer is no JSON object: %w", key, err)}, nil
	}
	return kis.Found{Row: row}, nil
}

// Check implements kis.Connector: whatever the site answers to a key that it hardly has, it is there.
func (s *site) Check(ctx context.Context) error {
	found, err := s.get(ctx, "kisflow-connector-test")
	if err == nil && kis.VerdictOf(found.Err) == kis.VerdictRetry {
		return found.Err
	}
	return err
}

// Close implements kis.Connector.
func (s *site) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}
