package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	natsclient "github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/connectors"
	"github.com/kisflow/kisflow/connectors/file"
	"github.com/kisflow/kisflow/connectors/http"
	connats "github.com/kisflow/kisflow/connectors/nats"
	"github.com/kisflow/kisflow/connectors/redis"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/functions"
	"github.com/kisflow/kisflow/kis"
)

// ConnectorTypes are the types of connectors that every node has, in the order of the reference.
func ConnectorTypes() []kis.ConnectorType {
	return connectorTypes(nil, nil)
}

// connectorTypes are those of a program with types of its own; client is the node's NATS, nil where there is none.
func connectorTypes(client *natsclient.Conn, own []kis.ConnectorType) []kis.ConnectorType {
	return append([]kis.ConnectorType{connats.Type(client), redis.Type(), http.Type(), file.Type()}, own...)
}

// twiceNamed says which type of a program's own is there already.
func twiceNamed(own []kis.ConnectorType) error {
	names := make(map[string]bool)
	for _, t := range connectorTypes(nil, own) {
		name := strings.ToLower(t.Name())
		if names[name] {
			return fmt.Errorf("connector type %s is registered twice", t.Name())
		}
		names[name] = true
	}
	return nil
}

// definitionOf is a connector's definition as package connectors takes it.
func definitionOf(c *flowdef.Conn) connectors.Definition {
	return connectors.Definition{Name: c.Name, Type: c.Type, Addrs: c.Addrs, Key: c.Key, Params: c.Params}
}

// lookupOf returns the connector of a look-up whose type is known; false for every other function.
func lookupOf(set *flowdef.Set, fn *flowdef.Func, host *connectors.Host) (*flowdef.Conn, bool) {
	if fn.Mode != string(kis.Load) || fn.Load == nil || fn.Load.Lookup == nil {
		return nil, false
	}
	conn := set.Conns[fn.Option.Conn.Value]
	if conn == nil || host.Type(conn.Type) == nil {
		return nil, false
	}
	return conn, true
}

// keyless says of a look-up that is one only because its connector makes it one that it has no key.
func keyless(fn *flowdef.Func) bool {
	return fn.Load.Lookup.Implied && fn.Load.Lookup.Key.Value == "" && len(fn.Source.Must) == 0
}

// noKey is what is wrong with a look-up without a key.
func noKey(fn *flowdef.Func) error {
	return fmt.Errorf("function %s: the look-up has no key; say it with load: {key: row.user}, or name the key's fields in source: {must: [...]}", fn.Name)
}

// lintSettings compares connectors with the schemas of their types. What keeps a look-up of an enabled flow from
// working is a mistake; of the others only what looks like a slip is told: files of the original may hold any
// parameters.
func lintSettings(set *flowdef.Set, known map[string]bool, host *connectors.Host) flowdef.Mistakes {
	looked := make(map[string]bool)
	for _, flow := range set.Flows {
		for _, s := range flow.Steps {
			fn := set.Funcs[s.Function.Value]
			if !flow.Enabled || fn == nil || known[fn.Name] {
				continue
			}
			if conn, ok := lookupOf(set, fn, host); ok {
				looked[conn.Name] = true
			}
		}
	}
	var mistakes flowdef.Mistakes
	for _, name := range slices.Sorted(maps.Keys(set.Conns)) {
		conn := set.Conns[name]
		t := host.Type(conn.Type)
		if t == nil {
			continue
		}
		use := ""
		if looked[name] {
			use = kis.UseLookup
		}
		faults := connectors.Check(definitionOf(conn), t.Schema(), use)
		if err := connectors.CheckOpen(definitionOf(conn), t); looked[name] && len(faults) == 0 && err != nil {
			mistakes = append(mistakes, flowdef.NewMistake(conn.Pos, codeSetting, "connector "+name+": "+err.Error(), ""))
		}
		for _, f := range faults {
			if !looked[name] && f.Near == "" {
				continue
			}
			m := flowdef.NewMistake(settingPos(conn, f), codeSetting, f.Message, f.Hint)
			if !looked[name] {
				m.Severity = flowdef.Warning
			}
			mistakes = append(mistakes, m)
		}
	}
	return mistakes
}

// settingPos is the place of a fault in a connector's definition.
func settingPos(c *flowdef.Conn, f connectors.Fault) flowdef.Pos {
	switch {
	case f.Where == "addrs" && c.Addrs != "":
		return c.AddrsPos
	case f.Where == "key" && c.Key != "":
		return c.KeyPos
	}
	for _, p := range c.ParamList {
		if f.Where == "params."+p.Name {
			if f.InName || p.Value.Value == "" {
				return p.Pos
			}
			return p.Value.Pos
		}
	}
	return c.Pos
}

const (
	lookupRetries = 5
	lookupDelay   = time.Second
)

// lookup makes the function of a look-up. A row whose key alone is not answered is tried again a few times, unless
// the definition says how often.
func (pl *planner) lookup(set *flowdef.Set, flow string, def *flowdef.Step, fn *flowdef.Func, s *actors.Step) (kis.Function, bool, error) {
	if pl.functions[fn.Name] != nil {
		return nil, false, nil
	}
	if h, ok := set.LookedUp(fn); ok {
		f, err := pl.handOffLookup(set, flow, def, fn, h.Value)
		return f, true, err
	}
	conn, ok := lookupOf(set, fn, pl.connectors)
	if !ok {
		return nil, false, nil
	}
	if keyless(fn) {
		return nil, true, noKey(fn)
	}
	where := "connector " + conn.Name
	d := definitionOf(conn)
	if err := pl.connectors.Ready(d, kis.UseLookup); err != nil {
		return nil, true, fmt.Errorf("%s: %s: %w", conn.Pos, where, err)
	}
	spec := specOf(set, fn)
	spec.Load.Lookup.Where, spec.Load.Lookup.From = where, pl.connectors.Lookup(d)
	spec.Load.Lookup.Counts = pl.lookups.of(flow, def.Name)
	f, ms := functions.New(spec)
	if len(ms) > 0 {
		return nil, true, fmt.Errorf("function %s: %w", fn.Name, ms[0])
	}
	if s.RetryTimes == 0 {
		s.RetryTimes = lookupRetries
		if s.RetryDelay == 0 {
			s.RetryDelay = lookupDelay
		}
	}
	return f, true, nil
}

// lookupCounts are the counts of all look-ups, by flow and step; those of flows that are gone stay, as counters do.
type lookupCounts struct {
	mu     sync.Mutex
	bySite map[lookupSite]*functions.LookupCounts
}

type lookupSite struct{ flow, step string }

func (l *lookupCounts) of(flow, step string) *functions.LookupCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bySite == nil {
		l.bySite = make(map[lookupSite]*functions.LookupCounts)
	}
	at := lookupSite{flow, step}
	if l.bySite[at] == nil {
		l.bySite[at] = new(functions.LookupCounts)
	}
	return l.bySite[at]
}

// each calls f for all counts.
func (l *lookupCounts) each(f func(flow, step string, c *functions.LookupCounts)) {
	l.mu.Lock()
	all := maps.Clone(l.bySite)
	l.mu.Unlock()
	for at, c := range all {
		f(at.flow, at.step, c)
	}
}

// testWithin is how long a test of a connector may take.
const testWithin = 10 * time.Second

// testConnector tries a connector, and says in one line what is wrong; "" if nothing is.
func testConnector(ctx context.Context, host *connectors.Host, c *flowdef.Conn) string {
	if host.Type(c.Type) == nil {
		return fmt.Sprintf("this build has no connector of type %q; it has %s", c.Type, strings.Join(host.Types(), ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, testWithin)
	defer cancel()
	err := host.Test(ctx, definitionOf(c))
	if err == nil {
		return ""
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
