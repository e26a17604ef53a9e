package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

const (
	maxHTTPRequest = 16 << 20 // bytes
	maxHTTPAnswer  = 16 << 20
)

// HTTP calls a program by POST, over connections that it keeps. It follows no redirects and asks no proxy.
type HTTP struct {
	url    string
	client *http.Client
}

// NewHTTP makes a caller of a URL.
func NewHTTP(address string) *HTTP {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &HTTP{url: address, client: &http.Client{Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// MaxRequest implements Caller.
func (h *HTTP) MaxRequest() int { return maxHTTPRequest }

// Call implements Caller. Answers of 429 and above 500 are passing faults, others but 200 are none that another try
// would change.
func (h *HTTP) Call(ctx context.Context, request []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Accept", "application/json")
	q.Header.Set("User-Agent", "kisflow")
	p, err := h.client.Do(q)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, ErrNobody
		}
		var ue *url.Error
		if errors.As(err, &ue) { // without the URL: it may hold a password
			err = ue.Err
		}
		return nil, err
	}
	defer p.Body.Close()
	body, err := io.ReadAll(io.LimitReader(p.Body, maxHTTPAnswer+1))
	switch {
	case p.StatusCode == http.StatusTooManyRequests, p.StatusCode >= 500:
		return nil, fmt.Errorf("it answers %s: %s", p.Status, head(body))
	case p.StatusCode != http.StatusOK:
		return nil, &AnswerError{fmt.Sprintf("it answers %s: %s", p.Status, head(body))}
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(body) > maxHTTPAnswer:
		return nil, fmt.Errorf("the answer has more than %d bytes: %w", maxHTTPAnswer, ErrTooLarge)
	}
	return body, nil
}
