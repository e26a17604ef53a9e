package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kisflow/kisflow/api"
)

// place is a partition's place in what a pulse returns, by its name flow/stage/number; false where it is none of the load's.
func place(name string) (int, bool) {
	i, k := strings.IndexByte(name, '/'), strings.LastIndexByte(name, '/')
	if i < 0 {
		return 0, false
	}
	flow, err1 := strconv.Atoi(strings.TrimPrefix(name[:i], "Pulse"))
	number, err2 := strconv.Atoi(name[k+1:])
	if err1 != nil || err2 != nil {
		return 0, false
	}
	return flow*partitions + number, true
}

// owners are the nodes of the load's partitions, by place.
func (f *fleet) owners(ctx context.Context) ([]string, error) {
	all, err := f.partitions(ctx, "")
	if err != nil {
		return nil, err
	}
	owners := make([]string, pulses)
	for _, p := range all {
		if at, ok := place(p.Name); ok {
			owners[at] = p.Node
		}
	}
	return owners, nil
}

const (
	warmup = 1500 * time.Millisecond // of the load, before something is done
	after  = time.Second             // of the load, behind it
)

// kill is what one kill -9 did to the partitions of the node.
type kill struct {
	node    string
	frozen  bool      // stopped and not killed: nobody learns that it is gone but by its silence
	leads   int       // of so many streams it was the leader
	outputs []float64 // seconds from the kill to the output of an event that was due after it
	states  []float64 // seconds from the kill to an answer about a key
	known   float64   // seconds from the kill until another node counts the node among the dead
}

// failover kills nodes under load and takes, for every partition that a killed node had, the time until it is served again.
// Every third one is frozen instead (SIGSTOP) and killed when its partitions are served: a node that is lost with its
// machine is silent like that, while the address of a process that was killed refuses calls at once.
func (b *bench) failover(ctx context.Context, name string, s setup) error {
	var all []kill
	err := b.with(ctx, s, func(f *fleet) error {
		if err := f.apply(ctx, pulseDefinitions()); err != nil {
			return err
		}
		counts := make([]int, pulses)
		for i := range b.kills {
			k, err := f.failover(ctx, i, counts)
			if err != nil {
				return fmt.Errorf("kill %d: %w", i+1, err)
			}
			what := "kill -9"
			if k.frozen {
				what = "freeze"
			}
			fmt.Fprintf(os.Stderr, "%s %d/%d: %s of %s with %d partitions and %d leading streams: outputs p50 %.2f max %.2f s, state p50 %.2f max %.2f s\n",
				name, i+1, b.kills, what, k.node, len(k.outputs), k.leads, quantile(k.outputs, 0.5), quantile(k.outputs, 1), quantile(k.states, 0.5), quantile(k.states, 1))
			all = append(all, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var outputs, states, known, leaders, frozen, frozenStates []float64
	kills := 0
	for _, k := range all {
		if k.frozen {
			frozen = append(frozen, k.outputs...)
			frozenStates = append(frozenStates, k.states...)
			continue
		}
		kills++
		outputs = append(outputs, k.outputs...)
		states = append(states, k.states...)
		known = append(known, k.known)
		if k.leads > 0 {
			leaders = append(leaders, k.outputs...)
		}
	}
	what := fmt.Sprintf("%s; %d kills", s, kills)
	b.report.spread(name, what, "kill -9 to the output of a later event, s", outputs, 2, 5)
	b.report.spread(name, what, "kill -9 to an answer about a key, s", states, 2, 5)
	b.report.median(name, what, "kill -9 until another node counts it among the dead, s", known, nil)
	if len(leaders) > 0 {
		b.report.spread(name, what, "the same, where the node led streams: to the output, s", leaders, 2, 5)
	}
	if len(frozen) > 0 {
		what = fmt.Sprintf("%s; %d freezes", s, len(all)-kills)
		b.report.spread(name, what, "a node falls silent to the output of a later event, s", frozen, 0, 5)
		b.report.spread(name, what, "a node falls silent to an answer about a key, s", frozenStates, 0, 5)
	}
	return nil
}

// failover is one kill, and the node's return. counts are the load's, which go on.
func (f *fleet) failover(ctx context.Context, i int, counts []int) (kill, error) {
	names := f.names()
	k := kill{node: names[(i+i/3)%len(names)], frozen: i%3 == 2}
	if f.Embedded {
		leads, err := f.leaders(ctx)
		if err != nil {
			return k, err
		}
		if i%2 == 0 { // every second one is the node that leads the most
			for n, count := range leads {
				if count > leads[k.node] {
					k.node = n
				}
			}
		}
		k.leads = leads[k.node]
	}
	others := f.others(k.node)
	load, err := f.startPulse(ctx, others, f.b.rate, counts)
	if err != nil {
		return k, err
	}
	time.Sleep(warmup)
	owners, err := f.owners(ctx)
	if err != nil {
		return k, err
	}
	at := time.Now()
	if k.frozen {
		err = f.nodes[k.node].Signal(syscall.SIGSTOP)
	} else {
		f.kill(k.node)
	}
	if err != nil {
		return k, err
	}
	dead := make(chan float64, 1)
	go func() { dead <- awaitDead(ctx, others[0].client, k.node, at) }()
	if k.states, err = f.askAfter(ctx, at, k.node, owners, others, load.keys); err != nil {
		return k, err
	}
	k.known = <-dead
	time.Sleep(after)
	if k.frozen {
		f.kill(k.node)
	}
	arrivals, err := load.end(ctx)
	if err != nil {
		return k, err
	}
	for p, owner := range owners {
		if owner != k.node {
			continue
		}
		served := false
		for _, a := range arrivals[p] {
			if a.due.After(at) {
				k.outputs = append(k.outputs, a.stored.Sub(at).Seconds())
				served = true
				break
			}
		}
		if !served {
			return k, fmt.Errorf("place %d: no event that was due after the kill, though an answer came", p)
		}
	}
	if len(k.outputs) == 0 {
		return k, errors.New("the node had no partitions")
	}
	if err := f.start(ctx, k.node); err != nil {
		return k, err
	}
	return k, f.settle(ctx)
}

// awaitDead returns the seconds until a node counts another one among the dead. It gives up after a minute.
func awaitDead(ctx context.Context, client *api.Client, victim string, at time.Time) float64 {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		c, err := client.Cluster(ctx)
		if err == nil && !slices.ContainsFunc(c.Nodes, func(n api.ClusterNode) bool { return n.Name == victim && n.Alive }) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(at).Seconds()
}

// askAfter asks for the state of a key of every partition of a node that was killed, through the others, until there is
// an answer, and returns the seconds since the kill.
func (f *fleet) askAfter(ctx context.Context, at time.Time, victim string, owners []string, through []*node, keys []string) (took []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for p, owner := range owners {
		if owner != victim {
			continue
		}
		wg.Go(func() {
			client := through[p%len(through)].client
			for {
				_, ask := client.State(ctx, pulseFlow(p/partitions), "count", []string{"key=" + keys[p%partitions]}, api.Read{})
				mu.Lock()
				if ask == nil {
					took = append(took, time.Since(at).Seconds())
				} else if ctx.Err() != nil {
					err = fmt.Errorf("state of a key of place %d: %w", p, ask)
				}
				stop := ask == nil || ctx.Err() != nil
				mu.Unlock()
				if stop {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return took, err
}

// leaders counts the streams that each node leads.
func (f *fleet) leaders(ctx context.Context) (map[string]int, error) {
	nc, js, err := f.connect(f.running())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	leads := make(map[string]int)
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		if info.Cluster != nil && f.nodes[info.Cluster.Leader] != nil {
			leads[info.Cluster.Leader]++
		}
	}
	return leads, list.Err()
}
