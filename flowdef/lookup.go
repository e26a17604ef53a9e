package flowdef

import (
	"strings"
	"time"
)

// Lookup is what a Load as a look-up says beside set and missing.
type Lookup struct {
	Key       Text // an expression; "": the must fields, joined by colons
	Cache     time.Duration
	CacheSize int // keys
	Timeout   time.Duration
	Implied   bool // the definition does not say that it is a look-up: its connector can do nothing else
}

// ParamText is a parameter of a connector with its places.
type ParamText struct {
	Name  string
	Pos   Pos // of the name
	Value Text
}

const (
	defaultLookupCache   = time.Minute
	maxLookupCache       = 30 * 24 * time.Hour
	defaultLookupSize    = 10_000
	maxLookupSize        = 10_000_000
	defaultLookupTimeout = time.Second
	maxLookupTimeout     = 5 * time.Minute
)

func newLookup() *Lookup {
	return &Lookup{Cache: defaultLookupCache, CacheSize: defaultLookupSize, Timeout: defaultLookupTimeout}
}

// lookupKeys are the keys of a load that only a look-up has.
var lookupKeys = []string{"key", "cache", "cache_size", "timeout"}

// lookup decodes what a Load says of a look-up; conn is the function's connector. A Load that names a connector and
// adds fields is one without saying so.
func (l *object) lookup(out *LoadBody, as, conn string) {
	given := ""
	for _, name := range lookupKeys {
		if l.get(name) != nil {
			given = name
			break
		}
	}
	k := newLookup()
	k.Key = l.expr("key")
	k.Cache = l.between("cache", k.Cache, 0, maxLookupCache)
	if l.get("cache_size") != nil {
		if k.CacheSize = int(l.integer("cache_size", maxLookupSize)); k.CacheSize == 0 {
			k.CacheSize = 1
		}
	}
	k.Timeout = l.between("timeout", k.Timeout, time.Millisecond, maxLookupTimeout)
	switch {
	case as == "lookup", as == "" && given != "", as == "" && conn != "" && (l.get("set") != nil || l.get("missing") != nil):
		out.Lookup = k
	case given != "":
		l.d.report(l.vals[given].key.pos, codeBody, given+" is for a Load as a look-up", "as: lookup")
	}
}

// lookupPlace checks that a look-up has a connector and no hand-off.
func (l *object) lookupPlace(f *Func) {
	if f.Load.Lookup == nil {
		return
	}
	if f.Option.Conn.Value == "" {
		pos := f.Load.AsPos
		if pos.Line == 0 {
			pos = l.n.pos
		}
		l.d.report(pos, codeMissing, "a look-up names no connector", "say it with option: {cname: ...}, and define the connector with kistype: conn")
	}
	for _, name := range []string{"handoff", "from"} {
		if l.get(name) != nil {
			l.d.report(l.vals[name].key.pos, codeBody, name+" is for a Load of a hand-off, and this is a look-up", "remove "+name+", or say as: table")
		}
	}
}

// resolveLookup makes a Load through a connector that is not NATS a look-up, which is all that it can be.
func (s *Set) resolveLookup(f *Func) {
	conn := s.Conns[f.Option.Conn.Value]
	if f.Mode != "Load" || f.Option.Conn.Value == "" || conn == nil || strings.EqualFold(conn.Type, "nats") {
		return
	}
	switch {
	case f.Load == nil:
		f.Load = &LoadBody{From: "beginning", Lookup: newLookup()}
		f.Load.Lookup.Implied = true
	case f.Load.Lookup == nil && !f.Load.Table && f.Load.Handoff.Value == "":
		f.Load.Lookup = newLookup()
		f.Load.Lookup.Implied = true
	}
}

// connectorPlaces notes where a connector says what.
func (o *object) connectorPlaces(c *Conn) {
	at := func(name string) Pos {
		if n := o.get(name); n != nil && n.kind == scalarNode {
			return n.asText().Pos
		}
		return c.Pos
	}
	c.TypePos, c.AddrsPos, c.KeyPos = at("type"), at("addrs"), at("key")
	n := o.get("params")
	if n == nil || n.kind != mapNode {
		return
	}
	for _, f := range n.fields {
		p := ParamText{Name: f.name, Pos: f.key.pos}
		if f.val.kind == scalarNode && f.val.typ != nullScalar {
			p.Value = f.val.asText()
		}
		c.ParamList = append(c.ParamList, p)
	}
}
