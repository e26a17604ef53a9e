package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/api"
)

// pause is how long a node is stopped: longer than the lease, so that the others take its partitions over.
const (
	lease = 4 * time.Second
	pause = 7 * time.Second
)

// startCluster starts three nodes that are JetStream's set of three.
func (d *demo) startCluster(ctx context.Context) error {
	step("starting three nodes in %s", d.dir)
	var routes []string
	for _, name := range []string{"a", "b", "c"} {
		n, err := newNode(filepath.Join(d.bin, "kisnode"), filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		n.name = name
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		routes = append(routes, l.Addr().String())
		if err := l.Close(); err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
	}
	started := make(chan error, len(d.nodes))
	for i, n := range d.nodes {
		n.args = []string{"--cluster-name", "demo", "--node", n.name, "--cluster-listen", routes[i], "--join", strings.Join(routes, ","), "--lease", lease.String()}
		go func() { started <- n.start(ctx) }() // the very first start waits for all three
	}
	var first error
	for range d.nodes {
		if err := <-started; err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	d.node = d.nodes[0]
	return d.kisctl(ctx, os.Stdout, "cluster", "status")
}

// clusterFaults are a kill, a pause and a drain, one after the other. The node that is asked is spared.
func (d *demo) clusterFaults() map[int]func(context.Context) error {
	b, c := d.nodes[1], d.nodes[2]
	return map[int]func(context.Context) error{
		d.lines / 5: func(ctx context.Context) error {
			b.kill()
			fmt.Println("   node b is killed (SIGKILL)")
			start := time.Now()
			if err := d.until(ctx, "node b is gone", func(c api.Cluster) bool { return owns(c, "b") == 0 && c.Unowned == 0 }); err != nil {
				return err
			}
			fmt.Printf("   its partitions are elsewhere after %.2f s\n", time.Since(start).Seconds())
			return nil
		},
		2 * d.lines / 5: func(ctx context.Context) error {
			if err := b.start(ctx); err != nil {
				return err
			}
			fmt.Println("   node b is started again")
			return d.until(ctx, "node b has partitions again", func(c api.Cluster) bool { return owns(c, "b") > 0 && len(c.Moves) == 0 })
		},
		3 * d.lines / 5: func(ctx context.Context) error {
			if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			fmt.Printf("   node c is paused for %s (SIGSTOP)\n", pause)
			err := d.until(ctx, "node c is taken for gone", func(c api.Cluster) bool { return owns(c, "c") == 0 })
			time.Sleep(pause - lease)
			if cerr := c.cmd.Process.Signal(syscall.SIGCONT); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			fmt.Println("   it goes on (SIGCONT), and finds its partitions elsewhere")
			return d.until(ctx, "node c has partitions again", func(c api.Cluster) bool { return owns(c, "c") > 0 && len(c.Moves) == 0 })
		},
		4 * d.lines / 5: func(ctx context.Context) error {
			var out strings.Builder
			if err := d.kisctl(ctx, &out, "cluster", "drain", "b"); err != nil {
				return err
			}
			start := time.Now()
			if err := d.until(ctx, "node b is empty", func(c api.Cluster) bool { return owns(c, "b") == 0 && len(c.Moves) == 0 }); err != nil {
				return err
			}
			fmt.Printf("   node b is taken out of service (kisctl cluster drain b): empty after %.2f s\n", time.Since(start).Seconds())
			return d.kisctl(ctx, os.Stdout, "cluster", "status")
		},
	}
}

// owns is how many groups a node owns.
func owns(c api.Cluster, node string) int {
	for _, n := range c.Nodes {
		if n.Name == node {
			return n.Owns
		}
	}
	return 0
}

// until waits until the cluster is as wanted.
func (d *demo) until(ctx context.Context, what string, so func(api.Cluster) bool) error {
	client, err := api.NewClient(d.node.url())
	if err != nil {
		return err
	}
	defer client.Close()
	var last string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		c, err := client.Cluster(ctx)
		if err == nil && so(c) {
			return nil
		}
		if last = fmt.Sprintf("%+v, %v", c, err); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("two minutes were not enough until %s: %s\n%s", what, last, d.node.log)
}
