package actors

import (
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
)

// errStore wraps what the store says: never a row's fault.
var errStore = errors.New("store")

// instance is a function instance, the virtual actor (flow, step, key), while it is in memory.
type instance struct {
	step     int
	key      kis.Key
	state    any
	sequence uint64 // of the event that changed it last
	revision uint64
	time     int64
	stored   bool // the store holds a state for it
	dirty    bool // in a batch that is not committed: it stays in memory until then
	recent   bool // used since the clock's hand came by
	bytes    int  // what it takes, about
	id       string
	slot     uint16

	timers []timer
	used   int64 // when it was used last, by the clock that its time to live goes by; 0: it has none
	gone   bool  // its time is over: it has no state until it is used again
	// left says that what the store has is that of another step, which had the name before (Step.Begun): the timers
	// are the other one's, and go with the first change.
	left bool
}

// instanceBytes is what an instance takes in memory beside its key and its state: the object, its entry in
// the map, its place in the ring (measured by BenchmarkIdleKeys in bench).
const instanceBytes = 320

// timerBytes is about what a timer takes in memory beside its name.
const timerBytes = 48

// migrate brings a state of an earlier version of the function's into the present form.
func (s *step) migrate(version uint32, encoded []byte) ([]byte, error) {
	r, ok := s.runner.(kis.Versioned)
	if !ok || version == s.version || len(encoded) == 0 {
		return encoded, nil
	}
	if version > s.version {
		return nil, fmt.Errorf("this revision of %s writes version %d", s.Function.Name(), s.version)
	}
	return r.Migrate(version, encoded)
}

// cache holds the instances in memory. Beyond its limit those go that were not used since the hand's last
// round (second chance).
type cache struct {
	limit int
	bytes int
	byID  map[string]*instance // by appendInstanceKey without its kind: slot, step, key
	ring  []*instance
	hand  int
	// complete: every key that has a state is in memory, so the store need not be asked for one that is not.
	complete bool
}

// others tells whether a value is not the step's own: an earlier step of its name has left it.
func (s *step) others(v *proto.Value) bool { return v.Revision < s.Begun }

// own lets go of what another step has left at a key.
func (p *Partition) own(w *work, in *instance) {
	if !in.left {
		return
	}
	in.left = false
	w.touch(in)
	for len(in.timers) > 0 {
		p.removeTimer(w, in, len(in.timers)-1)
	}
}

// instance returns a step's instance for a key: from memory, or activated from the store.
func (p *Partition) instance(s *step, key []byte) (*instance, error) {
	slot := slotOf(key)
	p.storeKey = appendInstanceKey(p.storeKey[:0], stateKind, slot, s.Name, key)
	storeKey := p.storeKey
	if in := p.instances.byID[string(storeKey)]; in != nil {
		in.recent = true
		return in, nil
	}
	in := &instance{step: s.index, id: string(storeKey), slot: slot, recent: true}
	in.key = kis.TrustedKey(s.Must, in.id[len(in.id)-len(key):])
	k := in.key
	var b, encoded []byte
	var err error
	if !p.instances.complete {
		if b, err = p.ports.Store.Get(storeKey); err != nil {
			return nil, fmt.Errorf("%w: activate %s %s: %w", errStore, s.Name, k, err)
		}
	}
	if b != nil {
		var v proto.Value
		if err := proto.ParseValue(b, &v); err != nil {
			return nil, fmt.Errorf("%w: activate %s %s: %w", errStore, s.Name, k, err)
		}
		in.stored = len(v.State) > 0
		encoded, in.sequence, in.revision, in.time = v.State, v.Sequence, v.Revision, v.Time
		in.timers, in.used = decodeTimers(v.Timers), v.Used
		if in.left = s.others(&v); in.left {
			encoded, in.used = nil, 0
		} else if encoded, err = s.migrate(v.Version, encoded); err != nil {
			return nil, fmt.Errorf("step %s: the state of %s is of version %d: migrate: %w", s.Name, k, v.Version, err)
		}
	}
	if in.state, err = s.runner.Activate(encoded); err != nil {
		return nil, fmt.Errorf("activate from %.200s: %w", encoded, err)
	}
	in.bytes = instanceBytes + len(in.id) + len(encoded)
	p.instances.add(in)
	return in, nil
}

// encode writes a changed instance as the store is to hold it; no value means that the key has no state.
func (in *instance) encode(p *Partition, w *work) (key, value []byte, err error) {
	s := &p.steps[in.step]
	in.revision, in.time = p.flow.Revision, w.now.UnixNano()
	if cap(w.bytes)-len(w.bytes) < 1<<10 {
		w.bytes = make([]byte, 0, max(64<<10, 2*cap(w.bytes)))
	}
	start := len(w.bytes)
	w.bytes = append(w.bytes, in.id...)
	key = w.bytes[start:len(w.bytes):len(w.bytes)]
	if p.encoded = p.encoded[:0]; !in.gone {
		if p.encoded, err = s.runner.Encode(p.encoded, in.state); err != nil {
			return nil, nil, fmt.Errorf("%w: step %s: encode the state of %s: %w", ErrStopped, s.Name, in.key, err)
		}
	}
	if len(p.encoded) == 0 && len(in.timers) == 1 && in.timers[0].name == ttlTimer {
		p.removeTimer(w, in, 0) // there is nothing to end
	}
	if len(p.encoded) > 0 || len(in.timers) > 0 {
		start = len(w.bytes)
		w.bytes = proto.AppendValue(w.bytes, &proto.Value{State: p.encoded, Revision: in.revision, Sequence: in.sequence, Time: in.time,
			Used: in.used, Timers: encodeTimers(in.timers), Version: s.version})
		value = w.bytes[start:len(w.bytes):len(w.bytes)]
	}
	if has := len(p.encoded) > 0; has != in.stored {
		in.stored = has
		if w.newKeys++; !has {
			w.newKeys -= 2
		}
	}
	p.instances.bytes -= in.bytes
	in.bytes = instanceBytes + len(in.id) + len(p.encoded) + len(in.timers)*timerBytes
	p.instances.bytes += in.bytes
	return key, value, nil
}

// clean ends a committed batch's hold on its instances, and passivates idle ones beyond the limit.
func (p *Partition) clean(w *work) {
	for _, in := range w.dirty {
		in.dirty = false
	}
	p.instances.shrink()
	p.ports.Meter.instances(p.name, len(p.instances.ring), p.instances.bytes)
}

func (c *cache) add(in *instance) {
	if c.byID == nil {
		c.byID = make(map[string]*instance)
	}
	c.byID[in.id] = in
	c.ring = append(c.ring, in)
	c.bytes += in.bytes
}

// shrink moves the hand on until the limit holds or nothing else may go.
func (c *cache) shrink() {
	for looked := 0; c.bytes > c.limit && looked < 2*len(c.ring); looked++ {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		in := c.ring[c.hand]
		if in.dirty || in.recent {
			in.recent = false
			c.hand++
			continue
		}
		last := len(c.ring) - 1
		c.ring[c.hand], c.ring[last] = c.ring[last], nil
		c.ring = c.ring[:last]
		delete(c.byID, in.id)
		c.complete = false
		c.bytes -= in.bytes
		looked = 0
	}
}

// clear passivates all: another revision activates them with its own runners.
func (c *cache) clear() { *c = cache{limit: c.limit} }
