package node

import (
	"context"
	"fmt"

	"github.com/kisflow/kisflow/api"
	"github.com/kisflow/kisflow/state/pebble"
	"github.com/kisflow/kisflow/transport/nats"
)

// lowSpace is the share of the disk that must be free, and lowBytes the least in bytes: below either NATS and
// the store are about to fail.
const (
	lowSpace = 0.05
	lowBytes = 256 << 20
)

// Doctor implements api.Backend.
func (n *Node) Doctor(ctx context.Context) (api.Report, error) {
	r := api.Report{OK: true, Checks: []api.Check{}}
	add := func(c api.Check) {
		r.OK = r.OK && c.Result != api.ResultFailed
		r.Checks = append(r.Checks, c)
	}
	free, total, err := pebble.FreeSpace(n.opt.Data)
	disk := api.Check{Name: "disk", Result: api.ResultOK, Detail: fmt.Sprintf("%d MiB of %d MiB free at %s", free>>20, total>>20, n.opt.Data)}
	switch {
	case err != nil:
		disk.Result, disk.Detail = api.ResultWarning, err.Error()
	case free < lowBytes || float64(free) < lowSpace*float64(total):
		disk.Result, disk.Hint = api.ResultFailed, "free space: NATS and the store of states stop when the disk is full"
	}
	add(disk)
	store := api.Check{Name: "store", Result: api.ResultOK, Detail: "the store of states answers"}
	if err := n.db.Err(); err != nil {
		store.Result, store.Detail, store.Hint = api.ResultFailed, err.Error(), "restart kisnode: what is corrupt is set aside and built anew"
	}
	add(store)
	for _, c := range n.checkNATS(ctx) {
		add(c)
	}
	if why := n.notReady(); why != "" {
		add(api.Check{Name: "flows", Result: api.ResultFailed, Detail: why, Hint: "kisctl status and kisctl describe flow say more"})
	} else {
		add(api.Check{Name: "flows", Result: api.ResultOK, Detail: fmt.Sprintf("%d run", len(n.system.Running()))})
	}
	return r, nil
}

// checkNATS says whether NATS holds what the durability promises.
func (n *Node) checkNATS(ctx context.Context) []api.Check {
	s, ok := n.streams.(*nats.Streams)
	if !ok {
		return nil
	}
	o := nats.CheckOptions{Power: n.opt.Durability == "power", MonitorURL: n.opt.Monitor}
	for _, r := range n.system.Running() {
		for _, in := range r.Definition().Inputs {
			if !in.MayLose {
				o.Inputs = append(o.Inputs, in.Stream)
			}
		}
	}
	var out []api.Check
	for _, f := range s.Check(ctx, o) {
		c := api.Check{Name: f.About, Detail: f.Text, Result: api.ResultOK}
		switch f.Level {
		case nats.LevelWarning:
			c.Result = api.ResultWarning
		case nats.LevelFault:
			c.Result = api.ResultFailed
		}
		out = append(out, c)
	}
	return out
}
