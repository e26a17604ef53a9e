package actors

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// callMany hands all rows of a batch that have reached a step to its function in one call. An error of the whole
// call that asks for a retry is waited out: nothing is lost, the rows behind wait, and the partition says for what.
func (p *Partition) callMany(ctx context.Context, w *work, s *step, rows []piled) error {
	byKey := make(map[string]int, len(rows))
	var calls []*kis.Call
	var groups [][]piled
	var instances []*instance
	for _, r := range rows {
		i, ok := byKey[r.key]
		if !ok {
			c := new(kis.Call)
			p.ready(ctx, w, s, c)
			var in *instance
			if s.traits.Stateful {
				var err error
				if in, err = p.instance(s, []byte(r.key)); err != nil {
					if isOwn(err) {
						return err
					}
					w.order = r.order
					if err := p.refused(w, s, []byte(r.key), r.row, r.meta, r.jumps, 0, err, r.loaded); err != nil {
						return err
					}
					continue
				}
				c.Key, c.State = in.key, in.state
			} else if s.keyed {
				c.Key = kis.TrustedKey(s.Must, r.key)
			}
			i = len(calls)
			byKey[r.key] = i
			calls, groups, instances = append(calls, c), append(groups, nil), append(instances, in)
		}
		c := calls[i]
		c.Rows, c.Metas = append(c.Rows, r.row), append(c.Metas, r.meta)
		c.Loaded = c.Loaded || r.loaded
		groups[i] = append(groups[i], r)
	}
	if len(calls) == 0 {
		return nil
	}
	fault := p.handleMany(ctx, s, calls)
	if isOwn(fault) || errors.Is(fault, context.Canceled) {
		return fault
	}
	var all []caused
	for i, c := range calls {
		err := c.Err
		if fault != nil {
			err = fault
		}
		c.Err = nil
		if err == nil && len(c.Timers) > 0 && len(instances[i].timers)+len(c.Timers) > maxTimers {
			err = fmt.Errorf("more than %d timers", maxTimers)
		}
		if err == nil && instances[i] != nil {
			p.changed(w, s, instances[i], c)
		}
		for n, r := range groups[i] {
			refusal := err
			if refusal == nil && n < len(c.Refused) {
				refusal = c.Refused[n]
			}
			if refusal == nil {
				continue
			}
			w.order = r.order
			if err := p.refused(w, s, []byte(r.key), r.row, r.meta, r.jumps, 0, refusal, r.loaded); err != nil {
				return err
			}
		}
		if err == nil {
			for n, one := range causes(c, groups[i]) {
				if n >= len(c.Refused) || c.Refused[n] == nil {
					all = append(all, one)
				}
			}
		}
	}
	return p.goOn(ctx, w, s, all)
}

// handleMany calls the function until its error is not one that asks for a retry of everything.
func (p *Partition) handleMany(ctx context.Context, s *step, calls []*kis.Call) error {
	many, ok := s.runner.(kis.Many)
	if !ok {
		return &brokenError{fmt.Errorf("step %s: %s says that it is a kis.Many and is none", s.Name, s.Function.Name())}
	}
	n := 0
	for _, c := range calls {
		n += len(c.Rows)
	}
	once := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				if isCrash(r) {
					panic(r)
				}
				err = &brokenError{fmt.Errorf("step %s: %s broke: %w\n%s", s.Name, s.Function.Name(), &kis.PanicError{Value: r}, debug.Stack())}
			}
		}()
		return many.HandleMany(calls)
	}
	timed := s.meter.call(n)
	start := time.Time{}
	if timed {
		start = p.ports.Clock.Now()
	}
	defer p.waits.Store(nil)
	for try := 0; ; try++ {
		err := once()
		if err == nil && timed {
			s.meter.observe(s.meter.Flow, s.Name, s.meter.Function, s.meter.Mode, p.ports.Clock.Now().Sub(start).Seconds())
		}
		if err == nil || isOwn(err) || kis.VerdictOf(err) != kis.VerdictRetry {
			return err
		}
		if err := p.retry(ctx, try, "call "+s.Function.Name()+" at step "+s.Name, err); err != nil {
			return &brokenError{err} // the partition is told to stop
		}
	}
}
