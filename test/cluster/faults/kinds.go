package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/test/cluster/rig"
)

// Kinds are all kinds of faults.
func Kinds() []*Kind {
	return []*Kind{
		{"kill -9", nil, kill},
		{"kill -9 of a leader", clustered, killLeader},
		{"kill -9 of two", several, killTwo},
		{"pause longer than the lease", nil, pause},
		{"cut off", links, func(f *Fault) error { return cut(f, true, true) }},
		{"cut off, sends nothing", links, func(f *Fault) error { return cut(f, true, false) }},
		{"cut off, hears nothing", links, func(f *Fault) error { return cut(f, false, true) }},
		{"unplugged", links, unplug},
		{"slow disk", disks((*rig.Disk).WhySlow), slowDisk},
		{"full disk", disks((*rig.Disk).Why), fullDisk},
		{"clock jumps", clocks, jump},
		{"leave and join", nil, leave},
		{"older build", older, olderBuild},
		{"stream leader moved", clustered, moveLeader},
		{"object store deleted", nil, deleteObjects},
	}
}

// Why a kind cannot be had.

func clustered(w *World) error {
	if len(w.Rig.JetStream()) < 2 {
		return errors.New("JetStream is one server")
	}
	if leaders, err := w.leaders(); err == nil && len(leaders) == 0 {
		return errors.New("no stream has more than one copy")
	}
	return nil
}

func several(w *World) error {
	if len(w.Rig.Machines()) < 2 {
		return errors.New("there is one machine")
	}
	return nil
}

func links(w *World) error { return errors.Join(w.Rig.Network.Why(), several(w)) }

func disks(why func(*rig.Disk) error) func(*World) error {
	return func(w *World) error { return why(w.Rig.Nodes[0].Disk) }
}

func clocks(*World) error {
	if !rig.CanJump {
		return errors.New("the clock of one process can be set off on linux/amd64 only")
	}
	return nil
}

func older(w *World) error {
	if w.Older == "" {
		return errors.New("there is no older build")
	}
	return nil
}

// nodes are the machines that run kisnode.
func (w *World) nodes() []*rig.Machine {
	var all []*rig.Machine
	for _, n := range w.Rig.Nodes {
		all = append(all, n.Machine)
	}
	return all
}

// node is the node on a machine; nil: it is a nats-server's.
func (w *World) node(m *rig.Machine) *rig.Node {
	for _, n := range w.Rig.Nodes {
		if n.Machine == m {
			return n
		}
	}
	return nil
}

// back starts machines and waits until they are at work.
func (f *Fault) back(ms ...*rig.Machine) error {
	begin := time.Now()
	for _, m := range ms {
		m.Start()
	}
	for _, m := range ms {
		if err := m.AwaitReady(patience); err != nil {
			return err
		}
	}
	f.Saw("ready again", time.Since(begin))
	return nil
}

func kill(f *Fault) error {
	m, err := f.One(f.Rig.Machines())
	if err != nil {
		return err
	}
	owned, at := f.owning(m), time.Now()
	m.Kill()
	if f.cluster() && owned && f.node(m) != nil && f.Random.IntN(2) == 0 { // it stays away until others have what it had
		f.taken(m, at)
	} else {
		time.Sleep(f.Between(0, 3*time.Second))
	}
	return f.back(m)
}

func killTwo(f *Fault) error {
	ms, err := f.Claim(2, f.Rig.Machines())
	if err != nil {
		return err
	}
	ms[0].Kill()
	time.Sleep(f.Between(0, 1500*time.Millisecond))
	ms[1].Kill()
	time.Sleep(f.Between(0, 1500*time.Millisecond))
	return f.back(ms...)
}

// leaders are those of the streams with more than one copy.
func (w *World) leaders() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	leaders := make(map[string]string)
	list := w.Stream.ListStreams(ctx)
	for s := range list.Info() {
		if s.Cluster != nil && s.Cluster.Leader != "" && s.Config.Replicas > 1 {
			leaders[s.Config.Name] = s.Cluster.Leader
		}
	}
	return leaders, list.Err()
}

// leader asks who leads a stream.
func (f *Fault) leader(stream string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := f.Stream.Stream(ctx, stream)
	if err != nil {
		return "", err
	}
	if c := s.CachedInfo().Cluster; c != nil {
		return c.Leader, nil
	}
	return "", nil
}

// anyStream chooses a stream that has a leader among machines that are free.
func (f *Fault) anyStream() (stream string, leader *rig.Machine, err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var leaders map[string]string
		if leaders, err = f.leaders(); err != nil {
			continue
		}
		var names []string
		for name := range leaders {
			names = append(names, name)
		}
		slices.Sort(names)
		f.Random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			for _, m := range f.Rig.JetStream() {
				if m.Name != leaders[name] {
					continue
				}
				if ms := f.claims.try(f.Random, 1, []*rig.Machine{m}); ms != nil {
					f.took(ms)
					return name, m, nil
				}
			}
		}
		err = fmt.Errorf("no stream of several copies has a leader that is free, of %v", leaders)
	}
	return "", nil, err
}

// another waits until somebody else leads a stream.
func (f *Fault) another(stream, before string) error {
	begin := time.Now()
	for {
		now, err := f.leader(stream)
		if err == nil && now != "" && now != before {
			f.Saw("another leads", time.Since(begin))
			return nil
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("stream %s is still led by %q, before by %s: %w", stream, now, before, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func killLeader(f *Fault) error {
	stream, m, err := f.anyStream()
	if err != nil {
		return err
	}
	m.Kill()
	time.Sleep(f.Between(0, time.Second))
	if f.Random.IntN(2) == 0 { // it may be back before another one is elected
		return f.back(m)
	}
	err = f.another(stream, m.Name)
	return errors.Join(err, f.back(m))
}

func moveLeader(f *Fault) error {
	stream, m, err := f.anyStream()
	if err != nil {
		return err
	}
	f.claims.release(f.mine) // the machine only had to be well
	f.mine = nil
	reply, err := f.Stream.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 10*time.Second)
	if err != nil {
		return fmt.Errorf("step down of the leader of %s: %w", stream, err)
	}
	if strings.Contains(string(reply.Data), `"error"`) {
		return fmt.Errorf("step down of the leader of %s: %s", stream, reply.Data)
	}
	return f.another(stream, m.Name)
}

// owns asks the nodes how many groups of partitions one of them has, as one that is not it sees it, or it itself.
func (f *Fault) owns(m *rig.Machine, itself bool) (int, error) {
	err := errors.New("nobody is asked")
	for _, n := range f.Rig.Nodes {
		if (n.Machine == m) != itself {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		var c struct {
			Nodes []struct {
				Name string
				Owns int
			}
		}
		err = n.Get(ctx, "/api/v1/cluster", &c)
		cancel()
		if err != nil {
			continue
		}
		for _, member := range c.Nodes {
			if member.Name == m.Name {
				return member.Owns, nil
			}
		}
		return 0, nil
	}
	return 0, err
}

// owning waits until a node has partitions: what becomes of one that has none proves nothing.
func (f *Fault) owning(m *rig.Machine) bool {
	if !f.cluster() || f.node(m) == nil {
		return true
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if n, err := f.owns(m, true); err == nil && n > 0 {
			return true
		}
	}
	f.Saw("had no partitions", 0)
	return false
}

func (w *World) cluster() bool { return len(w.Rig.Nodes) > 1 }

// taken waits for a while until others have what a node had that does not answer.
func (f *Fault) taken(m *rig.Machine, since time.Time) bool {
	for end := time.Now().Add(3*f.Rig.Lease() + 5*time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if n, err := f.owns(m, false); err == nil && n == 0 {
			f.Saw("others took over", time.Since(since))
			return true
		}
	}
	f.Saw("nobody took over", 0) // others' faults may be why
	return false
}

// pause stops a node for longer than its lease. What it had is with others then: when it wakes up it has to be refused, or to
// see by itself that it is late, and its log has to say so.
func pause(f *Fault) error {
	m, err := f.One(f.nodes())
	if err != nil {
		return err
	}
	owned := f.owning(m)
	asleep := time.Now()
	if err := m.Pause(); err != nil {
		return err
	}
	time.Sleep(f.Rig.Lease() / 2)
	if m.Ready() == nil {
		err = fmt.Errorf("%s answers while it is paused", m.Name)
	}
	taken := f.cluster() && owned && f.taken(m, asleep)
	time.Sleep(time.Until(asleep.Add(f.Rig.Lease()*3/2 + f.Between(0, f.Rig.Lease()))))
	awake := time.Now()
	if err := errors.Join(err, m.Continue()); err != nil {
		return err
	}
	if err := f.well(m); err != nil || !taken || f.Refused == nil {
		return err
	}
	for time.Since(awake) < 10*time.Second {
		if found := m.Log.Find(awake, time.Now(), f.Refused, 1); len(found) > 0 {
			f.Saw("was refused", found[0].At.Sub(awake))
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("others have the partitions of %s, and its log does not say that it was refused", m.Name)
}

// others are all places but one.
func (f *Fault) others(m *rig.Machine) []*rig.Place {
	var all []*rig.Place
	for _, o := range f.Rig.Machines() {
		if o != m {
			all = append(all, o.Place)
		}
	}
	return all
}

// reaches tells whether a machine gets through to a port of another one.
func reaches(from, to *rig.Place) bool {
	c, err := from.Dial(to.Host+":4222", time.Second)
	if err != nil {
		return strings.Contains(err.Error(), "refused") // by a machine that does not run: the link is there
	}
	_ = c.Close()
	return true
}

func cut(f *Fault, sends, hears bool) error {
	m, err := f.One(f.Rig.Machines())
	if err != nil {
		return err
	}
	others := f.others(m)
	f.Random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	if f.Random.IntN(3) == 0 { // from some of them only
		others = others[:1+f.Random.IntN(len(others))]
	}
	heal := func() (err error) {
		if sends {
			err = m.Place.Heal(others...)
		}
		if hears {
			for _, o := range others {
				err = errors.Join(err, o.Heal(m.Place))
			}
		}
		return err
	}
	if sends {
		err = m.Place.Cut(others...)
	}
	if hears {
		for _, o := range others {
			err = errors.Join(err, o.Cut(m.Place))
		}
	}
	m.Log.Note("%s is cut off from %d others: sends nothing %t, hears nothing %t", m.Name, len(others), sends, hears)
	if err == nil && reaches(m.Place, others[0]) {
		err = fmt.Errorf("%s still reaches %s", m.Name, others[0].Name)
	}
	if err == nil {
		f.Saw("nothing gets through", 0)
		time.Sleep(f.Between(0, 2*f.Rig.Lease()+2*time.Second))
	}
	m.Log.Note("%s is not cut off any more", m.Name)
	return errors.Join(err, heal(), f.well(m))
}

// well waits until a machine is at work.
func (f *Fault) well(m *rig.Machine) error {
	begin := time.Now()
	if err := m.AwaitReady(patience); err != nil {
		return err
	}
	f.Saw("ready again", time.Since(begin))
	return nil
}

func unplug(f *Fault) error {
	m, err := f.One(f.Rig.Machines())
	if err != nil {
		return err
	}
	if err := m.Place.Unplug(); err != nil {
		return err
	}
	m.Log.Note("%s is unplugged", m.Name)
	time.Sleep(f.Between(0, 2*f.Rig.Lease()+2*time.Second))
	if m.Ready() == nil {
		err = fmt.Errorf("%s answers while it is unplugged", m.Name)
	} else {
		f.Saw("nothing gets through", 0)
	}
	m.Log.Note("%s is plugged again", m.Name)
	return errors.Join(err, m.Place.Plug(), f.well(m))
}

// slowDisk makes a disk slow, which takes about what a tired disk takes.
func slowDisk(f *Fault) error {
	m, err := f.One(f.Rig.Machines())
	if err != nil {
		return err
	}
	stall, work := f.Between(50*time.Millisecond, 400*time.Millisecond), f.Between(10*time.Millisecond, 100*time.Millisecond)
	if err := m.Disk.Slow(stall, work); err != nil {
		return err
	}
	m.Log.Note("the disk of %s is slow: stalls of %v", m.Name, stall)
	var slowest time.Duration
	for end := time.Now().Add(f.Between(2*time.Second, 5*time.Second)); time.Now().Before(end) || slowest == 0; time.Sleep(f.Between(time.Millisecond, 50*time.Millisecond)) {
		begin := time.Now()
		path := filepath.Join(m.Disk.Path, "probe")
		if err = errors.Join(os.WriteFile(path, make([]byte, 4096), 0o600), os.Remove(path)); err != nil {
			break
		}
		slowest = max(slowest, time.Since(begin))
	}
	m.Log.Note("the disk of %s is not slow any more", m.Name)
	if err == nil && slowest < stall/2 {
		err = fmt.Errorf("the slowest write took %v with stalls of %v", slowest, stall)
	}
	f.Saw("slow write", slowest)
	return errors.Join(err, m.Disk.Quicken(), f.well(m))
}

// full is what a program says whose disk is full.
var full = regexp.MustCompile(`(?i)bytes are free|no space left|insufficient|disk is full|resource limits`)

func fullDisk(f *Fault) error {
	m, err := f.One(f.Rig.Machines())
	if err != nil {
		return err
	}
	begin := time.Now()
	free := []int64{0, 4 << 20, 100 << 20}[f.Random.IntN(3)]
	if err := m.Disk.Fill(free); err != nil {
		return errors.Join(err, m.Disk.Release())
	}
	m.Log.Note("the disk of %s has %d bytes left", m.Name, free)
	left, err := m.Disk.Free()
	if err == nil && left > free {
		err = fmt.Errorf("%d bytes are free, want %d", left, free)
	}
	hold := f.Between(time.Second, 5*time.Second)
	for time.Since(begin) < hold {
		time.Sleep(50 * time.Millisecond)
	}
	if said := m.Log.Find(begin, time.Now(), full, 1); len(said) > 0 {
		f.Saw("said so", said[0].At.Sub(begin))
	} else if n := f.node(m); n != nil && f.problem(n, full) {
		f.Saw("has it in its status", 0)
	}
	m.Log.Note("the disk of %s has space again", m.Name)
	if err := errors.Join(err, m.Disk.Release()); err != nil {
		return err
	}
	if f.node(m) == nil { // a nats-server whose disk was full writes again only after a restart
		m.Kill()
		return f.back(m)
	}
	return f.well(m)
}

// problem tells whether a node's status has a problem of a kind.
func (f *Fault) problem(n *rig.Node, pattern *regexp.Regexp) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var status struct{ Problems []string }
	return n.Get(ctx, "/api/v1/status", &status) == nil && slices.ContainsFunc(status.Problems, pattern.MatchString)
}

func jump(f *Fault) error {
	m, err := f.One(f.nodes())
	if err != nil {
		return err
	}
	n := f.node(m)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 1 + f.Random.IntN(3) {
		d := time.Duration(f.Random.IntN(49)-24) * time.Hour
		if f.Random.IntN(4) == 0 {
			d *= 100
		}
		if err := m.JumpClock(d); err != nil {
			return err
		}
		time.Sleep(f.Between(100*time.Millisecond, 3*time.Second))
		at, err := n.Clock(ctx)
		if err != nil {
			return err
		}
		if off := time.Until(at); off < d-time.Minute || off > d+time.Minute {
			return fmt.Errorf("the clock of %s is %v off, want %v", m.Name, off, d)
		}
		f.Saw("clock was off", 0)
	}
	if f.Random.IntN(2) == 0 { // with a clock that is off until the next start
		m.Kill()
		return f.back(m)
	}
	return errors.Join(m.JumpClock(0), f.well(m))
}

// leave has a node leave in good order and join again.
func leave(f *Fault) error {
	m, err := f.One(f.nodes())
	if err != nil {
		return err
	}
	if f.cluster() && f.Ctl != nil {
		if out, err := f.Ctl(f.node(m), "cluster", "drain", m.Name); err != nil {
			return fmt.Errorf("drain: %w: %s", err, out)
		}
		f.Saw("drained", 0)
	}
	begin := time.Now()
	if err := m.Stop(time.Minute); err != nil {
		return errors.Join(fmt.Errorf("stop: %w", err), f.back(m))
	}
	f.Saw("stopped", time.Since(begin))
	time.Sleep(f.Between(0, 3*time.Second))
	err = f.back(m)
	if f.cluster() && f.Ctl != nil {
		out, e := f.Ctl(f.node(m), "cluster", "undrain", m.Name)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("undrain: %w: %s", e, out))
		}
	}
	return err
}

// olderBuild has a node run an older build beside the newer ones for a while.
func olderBuild(f *Fault) error {
	m, err := f.One(f.nodes())
	if err != nil {
		return err
	}
	n := f.node(m)
	newer := n.Binaries()
	for _, binaries := range []string{f.Older, newer} {
		if f.Random.IntN(2) == 0 {
			m.Kill()
		} else if err := m.Stop(time.Minute); err != nil {
			return fmt.Errorf("stop: %w", err)
		}
		n.UseBinaries(binaries)
		if err := f.back(m); err != nil {
			n.UseBinaries(newer)
			return err
		}
		time.Sleep(f.Between(time.Second, 4*time.Second))
	}
	f.Saw("ran beside newer ones", 0)
	return nil
}

// objects is the stream of the object store where snapshots are.
const objects = "OBJ_KISFLOW_SNAPSHOTS"

func deleteObjects(f *Fault) error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = f.Stream.DeleteStream(ctx, objects)
		cancel()
		if err == nil {
			f.Saw("is gone", 0)
			return nil
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			f.Saw("was gone already", 0)
			return nil
		}
	}
	return fmt.Errorf("delete %s: %w", objects, err)
}
