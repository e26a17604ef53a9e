package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/api"
)

// natsURL finds the NATS to talk to: what the user says, else what the node says. It is empty when the node's
// cannot be reached from here.
func (a *app) natsURL(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	s, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	if err != nil {
		return "", err
	}
	if s.NATS.URL == "" || isLoopback(s.NATS.URL) && !isLoopback(a.server) {
		return "", nil // it listens nowhere, or only on the node's own machine
	}
	return s.NATS.URL, nil
}

// isLoopback tells whether an address is of this machine alone.
func isLoopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// dialNATS connects once.
func dialNATS(address string, options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(address, append([]nats.Option{nats.Name("kisctl"), nats.Timeout(3 * time.Second)}, options...)...)
	if err != nil {
		return nil, api.Errorf(api.ErrUnreachable, "no NATS answers at %s: %v", redact(address), err)
	}
	return nc, nil
}

// redact is an address without its password.
func redact(address string) string {
	parts := strings.Split(address, ",")
	for i, p := range parts {
		u, err := url.Parse(strings.TrimSpace(p))
		switch {
		case err != nil:
			parts[i] = "(an address that cannot be read)"
		case u.User != nil:
			if _, has := u.User.Password(); !has {
				u.User = url.User("xxxxx") // a token
			}
			parts[i] = u.Redacted()
		}
	}
	return strings.Join(parts, ",")
}

// checkSubject tells what is wrong with a subject. Wildcards are for those who read.
func checkSubject(subject string, wildcards bool) error {
	if subject == "" {
		return errors.New("the subject is empty")
	}
	if strings.ContainsAny(subject, " \t\r\n\x00") {
		return fmt.Errorf("subject %q has white space in it", subject)
	}
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		switch {
		case t == "":
			return fmt.Errorf("subject %q has an empty part between dots", subject)
		case (t == "*" || t == ">") && !wildcards:
			return fmt.Errorf("subject %q has a wildcard; a message goes to one subject", subject)
		case t == ">" && i < len(tokens)-1:
			return fmt.Errorf("subject %q: > must be the last part", subject)
		}
	}
	return nil
}
