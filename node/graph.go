package node

import (
	"context"

	"github.com/kisflow/kisflow/flowdef"
)

// Graph implements api.Backend.
func (n *Node) Graph(ctx context.Context) (flowdef.Graph, error) {
	n.mu.Lock()
	set := n.set
	native := make(map[string]bool)
	for name := range n.planner.functions {
		native[name] = true
	}
	n.mu.Unlock()
	g := set.Overlay(nil).Graph(native) // a copy: Graph resolves names
	states := make(map[string]string)
	for _, f := range set.Flows {
		s, err := n.summary(ctx, f.Name)
		if err != nil {
			return flowdef.Graph{}, err
		}
		states[f.Name] = s.State
	}
	g.States(states)
	return g, nil
}
