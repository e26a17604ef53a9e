package apitest

import (
	"context"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/flowdef"
)

// Graph implements api.Backend. Of the flows that do not parse, as those of New, the net has nothing.
func (b *Backend) Graph(ctx context.Context) (flowdef.Graph, error) {
	unlock, err := b.begin(ctx, "Graph")
	if err != nil {
		return flowdef.Graph{}, err
	}
	defer unlock()
	set, states := new(flowdef.Set), make(map[string]string)
	for _, name := range b.names() {
		f := b.flows[name]
		flowdef.Parse(f.File, []byte(f.Source), set)
		states[name] = f.State
	}
	g := set.Graph(nil)
	g.States(states)
	return g, nil
}

var _ api.Backend = (*Backend)(nil)
