package cluster

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kisflow/kisflow/proto"
)

// Role is what a node is to a group.
type Role uint8

// The roles. Receiving is a standby that is about to own the group.
const (
	Elsewhere Role = iota
	Standby
	Receiving
	Owner
)

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case Elsewhere:
		return "elsewhere"
	case Standby:
		return "standby"
	case Receiving:
		return "receiving"
	case Owner:
		return "owner"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// View is what this node is to be, and who owns what.
type View struct {
	Number uint64   // of the table; 0 before there is one
	Roles  []Role   // this node's, by group
	Owners []string // the nodes' names, by group; "" where there is none
}

// Table says who owns which group. It is a value: who has one does not change it.
type Table struct {
	Number   uint64   `json:"number"` // its sequence in the bucket; 0 before it is stored
	Groups   []Group  `json:"groups"`
	Draining []string `json:"draining,omitempty"` // nodes that people took out, in order

	nodes map[string]string // name to the incarnation that may own
}

// Group is who has one group.
type Group struct {
	Owner    string   `json:"owner,omitempty"`
	Next     string   `json:"next,omitempty"`  // a planned move goes there
	Ready    bool     `json:"ready,omitempty"` // next has caught up
	Standbys []string `json:"standbys,omitempty"`
	Former   string   `json:"former,omitempty"` // owned it before: its copy is the next best
}

// newTable is what the cluster's first node begins with: groups without owners.
func newTable(groups int) Table { return Table{Groups: make([]Group, groups)} }

func (t Table) clone() Table {
	t.Groups = slices.Clone(t.Groups)
	for i := range t.Groups {
		t.Groups[i].Standbys = slices.Clone(t.Groups[i].Standbys)
	}
	t.Draining = slices.Clone(t.Draining)
	nodes := make(map[string]string, len(t.nodes))
	for n, i := range t.nodes {
		nodes[n] = i
	}
	t.nodes = nodes
	return t
}

// equal compares all but the number.
func (t Table) equal(o Table) bool {
	if len(t.nodes) != len(o.nodes) || !slices.Equal(t.Draining, o.Draining) {
		return false
	}
	for n, i := range t.nodes {
		if j, ok := o.nodes[n]; !ok || i != j {
			return false
		}
	}
	return slices.EqualFunc(t.Groups, o.Groups, func(a, b Group) bool {
		return a.Owner == b.Owner && a.Next == b.Next && a.Ready == b.Ready && a.Former == b.Former && slices.Equal(a.Standbys, b.Standbys)
	})
}

// role is what an incarnation of a node is to a group.
func (t Table) role(g int, node, incarnation string) Role {
	if t.nodes[node] != incarnation || incarnation == "" {
		return Elsewhere
	}
	switch group := &t.Groups[g]; {
	case group.Owner == node:
		return Owner
	case group.Next == node:
		return Receiving
	case slices.Contains(group.Standbys, node):
		return Standby
	}
	return Elsewhere
}

// tableFormat is the newest form of a table that this code reads.
const tableFormat = 1

// encode writes the table's form. What it holds beside the table makes the bytes the writer's own.
func (t Table) encode(cluster, writer string, write uint64) ([]byte, error) {
	m := &proto.ClusterTable{Format: tableFormat, Cluster: cluster, Draining: t.Draining, Writer: writer, Write: write}
	place := make(map[string]uint32)
	of := func(name string) uint32 {
		if name == "" {
			return 0
		}
		n, ok := place[name]
		if !ok {
			m.Nodes = append(m.Nodes, &proto.ClusterNode{Name: name, Incarnation: t.nodes[name]})
			n = uint32(len(m.Nodes))
			place[name] = n
		}
		return n
	}
	names := make([]string, 0, len(t.nodes))
	for n := range t.nodes {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		of(n)
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		e := &proto.ClusterGroup{Owner: of(g.Owner), Next: of(g.Next), Ready: g.Ready, Former: of(g.Former)}
		for _, s := range g.Standbys {
			e.Standbys = append(e.Standbys, of(s))
		}
		m.Groups = append(m.Groups, e)
	}
	return m.MarshalVT()
}

// errNewer is a key that a newer version has written.
var errNewer = errors.New("a newer version is in the cluster: this node must be upgraded")

// decodeTable reads what encode wrote.
func decodeTable(data []byte) (t Table, cluster string, err error) {
	m := &proto.ClusterTable{}
	if err := m.UnmarshalVT(data); err != nil {
		return Table{}, "", fmt.Errorf("the table is damaged: %w", err)
	}
	if m.Format != tableFormat {
		return Table{}, "", fmt.Errorf("%w: the cluster's table has form %d, and this version reads form %d", errNewer, m.Format, tableFormat)
	}
	if n := len(m.Groups); n < 1 || n > maxGroups {
		return Table{}, "", fmt.Errorf("the table is damaged: %d groups", n)
	}
	t = Table{Draining: m.Draining, Groups: make([]Group, len(m.Groups)), nodes: make(map[string]string, len(m.Nodes))}
	for _, n := range m.Nodes {
		if n.Incarnation != "" {
			t.nodes[n.Name] = n.Incarnation
		}
	}
	name := func(place uint32) string {
		if place == 0 {
			return ""
		}
		if int(place) > len(m.Nodes) {
			err = fmt.Errorf("the table is damaged: node %d of %d", place, len(m.Nodes))
			return ""
		}
		return m.Nodes[place-1].Name
	}
	for i, e := range m.Groups {
		g := Group{Owner: name(e.Owner), Next: name(e.Next), Ready: e.Ready, Former: name(e.Former)}
		for _, s := range e.Standbys {
			g.Standbys = append(g.Standbys, name(s))
		}
		t.Groups[i] = g
	}
	return t, m.Cluster, err
}
