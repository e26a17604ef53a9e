package apitest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/api"
)

// Cluster implements api.Backend.
func (b *Backend) Cluster(ctx context.Context) (api.Cluster, error) {
	unlock, err := b.begin(ctx, "Cluster")
	if err != nil {
		return api.Cluster{}, err
	}
	defer unlock()
	return b.clusterNow(), nil
}

func (b *Backend) clusterNow() api.Cluster {
	c := api.Cluster{Name: "shop", Node: "a", Table: 12, Groups: 256, Replicas: 3, Moves: []api.Move{}}
	for i, n := range []api.ClusterNode{{Name: "a", Owns: 86, Standby: 85}, {Name: "b", Owns: 85, Standby: 86}, {Name: "c", Owns: 85, Standby: 85}} {
		n.Host = fmt.Sprintf("10.0.0.%d", i+1)
		n.API, n.Version, n.StartedAt, n.Alive, n.SilentSeconds = "http://"+n.Host+":7070", "v0.1.0", Start, true, 0.25
		n.Draining = slices.Contains(b.draining, n.Name)
		c.Nodes = append(c.Nodes, n)
	}
	if len(b.draining) > 0 {
		c.Moves = append(c.Moves, api.Move{Group: 7, From: b.draining[0], To: "a", Ready: true})
	}
	return c
}

// ClusterPartitions implements api.Backend.
func (b *Backend) ClusterPartitions(ctx context.Context, flow string, page api.Page) (api.List[api.ClusterPartition], error) {
	unlock, err := b.begin(ctx, "ClusterPartitions")
	if err != nil {
		return api.List[api.ClusterPartition]{}, err
	}
	defer unlock()
	var l api.List[api.ClusterPartition]
	for _, p := range []api.ClusterPartition{
		{Name: "OrderTotals/userid/0", Node: "a", State: "running", Epoch: 3, Commits: 41, Copies: []api.ClusterCopy{{Node: "b", Sequence: 80}}},
		{Name: "OrderTotals/userid/1", Node: "b", State: "recovering", Epoch: 4, Commits: 40, Recovered: 7, Of: 9, Copies: []api.ClusterCopy{{Node: "a", Sequence: 70, Behind: true}}},
		{Name: "用户订单/userid/0", State: "moving", Copies: []api.ClusterCopy{}},
	} {
		if flow == "" || strings.HasPrefix(p.Name, flow+"/") {
			l.Items = append(l.Items, p)
		}
	}
	if len(l.Items) > page.Limit {
		l.Items, l.Next = l.Items[:page.Limit], "more"
	}
	return l, nil
}

// DrainNode implements api.Backend.
func (b *Backend) DrainNode(ctx context.Context, node string, on bool) (api.Cluster, error) {
	unlock, err := b.begin(ctx, "DrainNode")
	if err != nil {
		return api.Cluster{}, err
	}
	defer unlock()
	if !slices.Contains([]string{"a", "b", "c"}, node) {
		return api.Cluster{}, api.Errorf(api.ErrNotFound, "there is no node %q", node)
	}
	b.draining = slices.DeleteFunc(b.draining, func(s string) bool { return s == node })
	if on {
		b.draining = append(b.draining, node)
	}
	return b.clusterNow(), nil
}
