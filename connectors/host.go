package connectors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/kis"
)

const (
	// idleAfter is how long a connector stays open that nobody uses.
	idleAfter = 10 * time.Minute
	// maxRest is the longest that a place is left alone after a failure; the first time it is minRest.
	maxRest = 5 * time.Second
	minRest = 50 * time.Millisecond
)

// Host keeps connectors open. Its methods may be called by several goroutines at a time.
type Host struct {
	types map[string]kis.ConnectorType

	mu     sync.Mutex
	open   map[string]*place // by what the definition says
	closed bool
}

// NewHost makes a host of types. A type whose name is there already is left out.
func NewHost(types ...kis.ConnectorType) *Host {
	h := &Host{types: make(map[string]kis.ConnectorType), open: make(map[string]*place)}
	for _, t := range types {
		if name := strings.ToLower(t.Name()); h.types[name] == nil {
			h.types[name] = t
		}
	}
	return h
}

// Type returns the type of that name, nil if there is none. Large and small letters are the same.
func (h *Host) Type(name string) kis.ConnectorType { return h.types[strings.ToLower(name)] }

// Types returns the names of the types, in order.
func (h *Host) Types() []string { return slices.Sorted(maps.Keys(h.types)) }

// Close closes all connectors, when what they are doing is done.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	all := h.open
	h.open = nil
	h.mu.Unlock()
	var errs []error
	for _, p := range all {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// place is a connector that is open, or is to be opened.
type place struct {
	use  sync.RWMutex // held for reading while the connector is used
	made bool
	gone bool // it was closed, and is not opened again
	conn kis.Connector
	err  error // why it could not be opened
	hide secrets

	mu    sync.Mutex
	last  time.Time // of use
	tries int       // failures in a row
	until time.Time // it is left alone
	why   error
}

// close closes the connector when nobody uses it any more.
func (p *place) close() error {
	p.use.Lock()
	defer p.use.Unlock()
	p.gone = true
	if !p.made {
		return nil
	}
	conn := p.conn
	p.made, p.conn = false, nil
	return p.hide.redact(conn.Close())
}

// key tells definitions apart that lead to different connectors.
func (d Definition) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q", strings.ToLower(d.Type), d.Addrs, d.Key)
	for _, name := range sorted(d.Params) {
		fmt.Fprintf(&b, " %q=%q", name, d.Params[name])
	}
	return b.String()
}

// at returns the place of a definition, and lets go of those that nobody has used for long.
func (h *Host) at(d Definition) (*place, error) {
	now, key := time.Now(), d.key()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, errors.New("the node is stopping")
	}
	var idle []*place
	for k, p := range h.open {
		p.mu.Lock()
		if k != key && now.Sub(p.last) > idleAfter {
			delete(h.open, k)
			idle = append(idle, p)
		}
		p.mu.Unlock()
	}
	p := h.open[key]
	if p == nil {
		p = &place{}
		h.open[key] = p
	}
	p.mu.Lock()
	p.last = now
	p.mu.Unlock()
	h.mu.Unlock()
	for _, p := range idle {
		_ = p.close() // nothing was under way
	}
	return p, nil
}

// with calls f with the connector of a definition, which is opened if need be and stays open meanwhile.
func (h *Host) with(d Definition, f func(kis.Connector) error) error {
	t := h.Type(d.Type)
	if t == nil {
		return fmt.Errorf("there is no type %q", d.Type)
	}
	p, err := h.at(d)
	if err != nil {
		return err
	}
	p.use.RLock()
	for !p.made {
		p.use.RUnlock()
		p.use.Lock()
		if !p.made {
			p.openAs(t, d)
		}
		err := p.err
		p.use.Unlock()
		if err != nil {
			return err
		}
		p.use.RLock()
	}
	defer p.use.RUnlock()
	return p.hide.redact(f(p.conn))
}

func (p *place) openAs(t kis.ConnectorType, d Definition) {
	if p.gone {
		p.err = errors.New("it was closed")
		return
	}
	spec, known, err := specOf(d, t.Schema())
	p.hide, p.err = known, err
	if err != nil {
		return
	}
	conn, err := t.Open(spec)
	if err != nil {
		p.err = known.redact(err)
		return
	}
	p.conn, p.made = conn, true
}

// Ready says whether a definition can be opened for a use, as Check takes it: its type is known, it fits the schema,
// its secrets are there, and the type finds nothing else. It does not say that the place answers.
func (h *Host) Ready(d Definition, use string) error {
	t := h.Type(d.Type)
	if t == nil {
		return fmt.Errorf("there is no type %q", d.Type)
	}
	var errs []error
	for _, f := range Check(d, t.Schema(), use) {
		errs = append(errs, f)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return h.with(d, func(kis.Connector) error { return nil })
}

// Test tries whether a place is there and lets us in.
func (h *Host) Test(ctx context.Context, d Definition) error {
	if err := h.Ready(d, ""); err != nil {
		return err
	}
	return h.with(d, func(c kis.Connector) error { return c.Check(ctx) })
}

// Lookup returns the look-up side of a definition. It calls nobody: the place may come up later.
func (h *Host) Lookup(d Definition) kis.Lookup { return &lookup{h, d} }

// lookup is a kis.Lookup that opens its connector when it is needed.
type lookup struct {
	host *Host
	def  Definition
}

// Most implements kis.Lookup.
func (l *lookup) Most() int {
	most := 1
	_ = l.host.with(l.def, func(c kis.Connector) error { // Find says what is wrong
		if k, ok := c.(kis.Lookup); ok {
			most = k.Most()
		}
		return nil
	})
	return most
}

// Find implements kis.Lookup.
func (l *lookup) Find(ctx context.Context, keys []string, found []kis.Found) error {
	p, err := l.host.at(l.def)
	if err != nil {
		return err
	}
	if err := p.resting(time.Now()); err != nil {
		return err
	}
	err = l.host.with(l.def, func(c kis.Connector) error {
		k, ok := c.(kis.Lookup)
		if !ok {
			return fmt.Errorf("type %s cannot look up", l.def.Type)
		}
		return k.Find(ctx, keys, found)
	})
	p.tried(time.Now(), err)
	for i := range found {
		found[i].Err = p.redacted(found[i].Err)
	}
	return err
}

// redacted is an error without the place's secrets.
func (p *place) redacted(err error) error {
	if err == nil {
		return nil
	}
	p.use.RLock()
	defer p.use.RUnlock()
	return p.hide.redact(err)
}

// Check implements kis.Connector.
func (l *lookup) Check(ctx context.Context) error { return l.host.Test(ctx, l.def) }

// Close implements kis.Connector: the host closes what is open.
func (l *lookup) Close() error { return nil }

// resting says why the place is left alone at this time.
func (p *place) resting(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.until) {
		return p.why
	}
	return nil
}

// tried notes how a request went. After each failure the place is left alone for longer; who comes next may try.
func (p *place) tried(now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || errors.Is(err, context.Canceled) {
		p.tries, p.until, p.why = 0, time.Time{}, nil
		return
	}
	rest := maxRest
	if p.tries < 7 {
		rest = minRest << p.tries
	}
	p.tries++
	p.until, p.why = now.Add(rest/2+rand.N(rest/2)), err
}
