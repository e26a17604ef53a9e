package flowdef

import (
	"strings"
	"time"
)

// Lookup is what a Load as a look-up says beside set and missing.
type Lookup struct {
	// Key is an expression; "": the must fields, joined by colons, or of a hand-off the fields of its key.
	Key       Text
	Keys      []EmitField // of a hand-off, in place of Key: what each field of its key is
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

// newLookup is a look-up of which nothing is said. What a hand-off has is asked for each time: that is cheap.
func newLookup(conn string) *Lookup {
	if conn == "" {
		return &Lookup{CacheSize: defaultLookupSize, Timeout: defaultLookupTimeout}
	}
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
	k := newLookup(conn)
	if n := l.get("key"); n != nil && n.kind == mapNode && conn == "" {
		k.Keys = l.emits("key")
	} else {
		k.Key = l.expr("key")
	}
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

// lookupPlace checks that a look-up has a connector or a hand-off, and not both.
func (l *object) lookupPlace(f *Func) {
	if f.Load.Lookup == nil {
		return
	}
	names := []string{"handoff", "from"}
	if f.Option.Conn.Value == "" {
		names = names[1:]
		if f.Load.Handoff.Value == "" && f.Source.Name == "" {
			pos := f.Load.AsPos
			if pos.Line == 0 {
				pos = l.n.pos
			}
			l.d.report(pos, codeMissing, "a look-up names neither a connector nor a hand-off", "say it with option: {cname: ...}, or with load: {handoff: ...}")
		}
	}
	for _, name := range names {
		switch {
		case l.get(name) == nil:
		case name == "from" && f.Option.Conn.Value == "":
			l.d.report(l.vals[name].key.pos, codeBody, "from is for a Load that follows a hand-off, and this one looks rows up", "remove from, or say as: table")
		default:
			l.d.report(l.vals[name].key.pos, codeBody, name+" is for a Load of a hand-off, and this is a look-up through a connector", "remove "+name+", or option.cname")
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
		f.Load = &LoadBody{From: "beginning", Lookup: newLookup(f.Option.Conn.Value)}
		f.Load.Lookup.Implied = true
	case f.Load.Lookup == nil && !f.Load.Table && f.Load.Handoff.Value == "":
		f.Load.Lookup = newLookup(f.Option.Conn.Value)
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
