package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

func newCluster(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "cluster", Short: "Look at the nodes of a cluster, and take one out of service"})
	c.AddCommand(newClusterStatus(a), newDrain(a, true), newDrain(a, false))
	return c
}

func newClusterStatus(a *app) *cobra.Command {
	var flow string
	var partitions bool
	c := &cobra.Command{
		Use: "status", Short: "Show the nodes, the moves under way and, with --partitions, where each partition is", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Cluster, error) { return c.Cluster(ctx) })
			if err != nil {
				return err
			}
			if !partitions && flow == "" {
				return a.printCluster(status)
			}
			if !a.json() {
				if err := a.printCluster(status); err != nil {
					return err
				}
				fmt.Fprintln(a.out)
			}
			t := newTable("PARTITION", "NODE", "STATE", "#EPOCH", "#COMMITS", "COPIES", "REASON")
			return printList(cmd.Context(), a, listFlags{limit: 100_000}, t, partitionRow, func(ctx context.Context, c *api.Client, p api.Page) (api.List[api.ClusterPartition], error) {
				return c.ClusterPartitions(ctx, flow, p)
			})
		},
	}
	c.Flags().BoolVar(&partitions, "partitions", false, "list the partitions, too")
	c.Flags().StringVar(&flow, "flow", "", "list the partitions of one `FLOW`")
	return c
}

func partitionRow(p api.ClusterPartition) []string {
	var copies []string
	for _, c := range p.Copies {
		at := c.Node
		if c.Behind {
			at += " (behind)"
		}
		copies = append(copies, at)
	}
	state := p.State
	if p.Of > 0 {
		state += fmt.Sprintf(" %d/%d", p.Recovered, p.Of)
	}
	return []string{p.Name, dash(p.Node), state, number(p.Epoch), number(p.Commits), dash(strings.Join(copies, ", ")), cut(p.Reason, 60)}
}

func (a *app) printCluster(c api.Cluster) error {
	if a.json() {
		return a.printJSON(c)
	}
	fields := [][2]string{
		{"cluster", c.Name},
		{"seen by", c.Node},
		{"replicas", number(c.Replicas)},
		{"groups", fmt.Sprintf("%d, %d without an owner", c.Groups, c.Unowned)},
		{"moves", number(len(c.Moves))},
	}
	for i, m := range c.Moves {
		if i == 10 {
			fields = append(fields, [2]string{"", fmt.Sprintf("and %d more", len(c.Moves)-i)})
			break
		}
		how := "the copy there follows"
		if m.Ready {
			how = "ready"
		}
		fields = append(fields, [2]string{"", fmt.Sprintf("group %d from %s to %s: %s", m.Group, dash(m.From), m.To, how)})
	}
	if err := a.printFields(fields); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	var rows [][]string
	for _, n := range c.Nodes {
		state := "alive"
		switch {
		case !n.Alive:
			state = "gone"
		case n.Draining:
			state = "draining"
		}
		rows = append(rows, []string{n.Name, state, number(n.Owns), number(n.Standby), span(n.SilentSeconds), n.API, n.Version, when(n.StartedAt)})
	}
	return newTable("NODE", "STATE", "#OWNS", "#STANDBY", "LAST SEEN", "API", "VERSION", "STARTED").print(a.out, rows)
}

func newDrain(a *app, on bool) *cobra.Command {
	c := &cobra.Command{
		Use: "undrain NODE", Short: "Let a node have partitions again", Args: exactly(1),
	}
	if on {
		c.Use, c.Short = "drain NODE", "Take a node out of service: its partitions move to others"
		c.Long = "drain moves a node's partitions to other nodes, one group after the other, while they work on. It returns when that has\n" +
			"begun; cluster status shows how far it is, and the node may be stopped when it owns nothing any more."
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		status, err := ask(cmd.Context(), a, func(ctx context.Context, c *api.Client) (api.Cluster, error) { return c.DrainNode(ctx, args[0], on) })
		if err != nil {
			return err
		}
		return a.printCluster(status)
	}
	return c
}
