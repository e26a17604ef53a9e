package actors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/state/statetest"
	"github.com/kisflow/kisflow/transport/memory"
)

// snapshotKit is a partition with some keys, whose chunks are small.
func snapshotKit(t *testing.T, faults memory.Faults, keys int) (*kit, *Partition) {
	k := newKit(t, Options{SnapshotBytes: 1 << 40, chunkBytes: 400}, 0, kitFlow(Step{Function: noteFunction(), Must: user}))
	if faults != nil {
		k.faulty(faults, 0)
		k.objects = memory.NewObjects(memory.Options{Faults: faults})
	}
	p := k.mustOpen()
	var rows []string
	for i := range keys {
		rows = append(rows, fmt.Sprintf(`{"user":%d,"name":"first %d"}`, i, i))
	}
	k.publish(strings.Join(rows, "\n"))
	k.mustRun()
	return k, p
}

func (k *kit) note(user int, name string) {
	k.t.Helper()
	k.publish(fmt.Sprintf(`{"user":%d,"name":%q}`, user, name))
	k.mustRun()
}

func (k *kit) snapshot() *proto.Manifest {
	k.t.Helper()
	p := k.parts[0]
	if err := p.Snapshot(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	return k.manifest(p.meta.Snapshot)
}

// snapshotOfAll takes a snapshot that reads all keys.
func (k *kit) snapshotOfAll() *proto.Manifest {
	k.t.Helper()
	p := k.parts[0]
	p.beginSnapshot()
	p.snapshots.writing.all = true
	m := k.snapshot()
	if len(m.Runs) > 0 || m.Place.Sequence != m.Sequence {
		k.t.Errorf("a snapshot that has read all keys at %d has %d runs, and keys of %d", m.Sequence, len(m.Runs), m.Place.Sequence)
	}
	return m
}

func (k *kit) manifest(name string) *proto.Manifest {
	k.t.Helper()
	o, err := openSnapshot(k.t.Context(), k.objects, name)
	if err != nil {
		k.t.Fatal(err)
	}
	return o.manifest
}

// lose forgets the store: the next open has to do without it.
func (k *kit) lose() {
	k.t.Helper()
	if err := k.db.Drop(k.parts[0].name); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) dump() []string {
	k.t.Helper()
	all, err := statetest.Dump(k.parts[0].ports.Store)
	if err != nil {
		k.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(s string) bool { return strings.HasPrefix(s, "m=") })
}

// tidy fails where a partition has other objects than its two newest snapshots need.
func (k *kit) tidy() {
	k.t.Helper()
	p := k.parts[0]
	var want []string
	for _, name := range []string{p.meta.Snapshot, p.meta.SnapshotBefore} {
		if name == "" {
			continue
		}
		if err := p.verifySnapshot(k.t.Context(), name); err != nil {
			k.t.Errorf("snapshot %s: %v", name, err)
		}
		want = append(want, name)
		if m := k.manifest(name); m != nil {
			for _, c := range chunksOf(m) {
				want = append(want, chunkName(p.snapshotPrefix(), c))
			}
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got, err := k.objects.List(k.t.Context(), p.snapshotPrefix())
	if err != nil || !slices.Equal(got, want) {
		k.t.Errorf("the objects are\n  %s\n(%v), the two snapshots need\n  %s", strings.Join(got, "\n  "), err, strings.Join(want, "\n  "))
	}
}

// ofPlace is how many chunks a snapshot has written.
func ofPlace(m *proto.Manifest) (own int) {
	for _, c := range chunksOf(m) {
		if c.Epoch == m.Epoch && c.Sequence == m.Sequence {
			own++
		}
	}
	return own
}

// TestASnapshotWritesWhatHasChanged: some keys' change costs a run with these keys, none costs nothing, a new owner knows
// as much, and the log is cut.
func TestASnapshotWritesWhatHasChanged(t *testing.T) {
	k, p := snapshotKit(t, nil, 300)
	first := k.snapshot()
	if n := ofPlace(first); n < 10 || n != len(first.Chunks) || len(first.Runs) != 0 {
		t.Fatalf("the first one has %d chunks, %d of them its own, and %d runs", len(first.Chunks), n, len(first.Runs))
	}
	for i, c := range first.Chunks {
		if c.Bytes < 100 || c.Bytes > 1600 {
			t.Errorf("chunk %d holds %d bytes", i, c.Bytes)
		}
		if i > 0 && i < len(first.Chunks)-1 && len(c.From) != 3 {
			t.Errorf("chunk %d begins at %x, in the middle of a slot", i, c.From)
		}
	}
	for i := range 300 { // keys of all chunks
		if i%30 == 0 {
			k.note(i, "again")
		}
	}
	m := k.snapshot()
	if ofPlace(m) > 4 || len(m.Runs) != 1 || chunkSize(m.Runs[0].Chunks) > 1500 || m.Place.Sequence != first.Sequence {
		t.Errorf("after a change of ten keys %d chunks were written, %d bytes", ofPlace(m), chunkSize(m.Runs[0].Chunks))
	}
	k.tidy()
	if m = k.snapshot(); ofPlace(m) != 0 || len(m.Runs) != 1 {
		t.Errorf("after no change %d chunks were written, there are %d runs", ofPlace(m), len(m.Runs))
	}
	k.tidy()
	info, err := k.streams.Info(t.Context(), p.stream)
	if err != nil || info.First != p.meta.SnapshotBeforeSequence {
		t.Errorf("the log begins at %d, %v; the snapshot before is of %d", info.First, err, p.meta.SnapshotBeforeSequence)
	}
	k.mustOpen()
	k.note(8, "again")
	if m := k.snapshot(); ofPlace(m) != 1 || m.Epoch != 2 || len(m.Epochs) != 1 || m.Epochs[0].Epoch != 2 {
		t.Errorf("the next owner, of epoch %d, wrote %d chunks, and knows of epochs %v", m.Epoch, ofPlace(m), m.Epochs)
	}
	k.tidy()
	before := k.dump()
	k.lose()
	k.mustOpen()
	same(t, "the state from the snapshot", k.dump(), before...)
	k.note(9, "again")
	if n := ofPlace(k.snapshot()); n != 1 {
		t.Errorf("from a snapshot on, %d chunks were written", n)
	}
	k.tidy()
}

// remove deletes a key's state, as a step's removal does.
func (k *kit) remove(users ...int) {
	k.t.Helper()
	p := k.parts[0]
	r := &proto.Record{Number: p.meta.Number + 1, Epoch: p.meta.Epoch, Revision: 1}
	for _, user := range users {
		key, err := kis.ParseKey([]string{"user"}, []string{fmt.Sprintf("user=%d", user)})
		if err != nil {
			k.t.Fatal(err)
		}
		c := []byte(key.Canonical())
		r.Keys, r.Values = append(r.Keys, appendInstanceKey(nil, stateKind, slotOf(c), "note", c)), append(r.Values, nil)
	}
	at, err := p.commit(k.t.Context(), r)
	if err == nil {
		err = p.install(r, at)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	p.instances.clear()
}

// TestRuns: many snapshots after few changes each have few runs, which hold what was deleted, too; when they would
// outweigh all keys, these are written anew.
func TestRuns(t *testing.T) {
	k, p := snapshotKit(t, nil, 400)
	k.snapshot()
	most, anew, merged := 0, 0, 0
	before := 0
	for i := range 120 {
		k.note(i*7%400, fmt.Sprint("in round ", i))
		if i%3 == 0 {
			k.remove(i * 7 % 400)
		}
		m := k.snapshot()
		most = max(most, len(m.Runs))
		switch {
		case m.Place.Sequence == m.Sequence:
			anew++
		case len(m.Runs) < before:
			merged++
		}
		before = len(m.Runs)
		if i%10 == 9 {
			want := k.dump()
			k.lose()
			p = k.mustOpen()
			same(t, fmt.Sprintf("the state from %d runs", len(m.Runs)), k.dump(), want...)
		}
	}
	if most != runsMost || merged < 5 || anew > 1 {
		t.Errorf("there were up to %d runs; they became fewer %d times, and all keys were written %d times", most, merged, anew)
	}
	k.tidy()
	for i := range 400 {
		k.note(i, "once more, and with a longer name")
	}
	if m := k.snapshot(); len(m.Runs) != 0 {
		t.Errorf("after all keys have changed there are %d runs of %d bytes, and %d bytes of keys", len(m.Runs), chunkSize(m.Runs[0].Chunks), chunkSize(m.Chunks))
	}
	k.tidy()
	_ = p
}

// TestRecordsThatAreGone: a log that does not hold all since the snapshot before makes the next one read all keys.
func TestRecordsThatAreGone(t *testing.T) {
	k, p := snapshotKit(t, nil, 200)
	k.snapshot()
	k.note(3, "second")
	k.note(4, "second")
	if err := k.streams.Cut(t.Context(), p.stream, p.subject, p.meta.Sequence); err != nil {
		t.Fatal(err)
	}
	k.note(5, "second")
	want := k.dump()
	if m := k.snapshot(); len(m.Runs) != 0 || m.Place.Sequence != m.Sequence || ofPlace(m) == 0 || ofPlace(m) > 3 {
		t.Errorf("it has %d runs, and %d chunks of its own", len(m.Runs), ofPlace(m))
	}
	k.lose()
	k.mustOpen()
	same(t, "the state", k.dump(), want...)
}

// TestAnOldStoreCatchesUp: a node whose store is older than the log's beginning reads what has changed, and no more.
func TestAnOldStoreCatchesUp(t *testing.T) {
	k, p := snapshotKit(t, nil, 400)
	k.snapshot()
	k.note(399, "seen by both")
	old := k.db.Reopen() // another node's, as of now
	for i := range 5 {
		k.note(i, "unseen")
		if i == 2 {
			p = k.mustOpen() // a new epoch
		}
		k.remove(100 + i)
		k.snapshot()
	}
	k.note(7, "after the snapshots")
	want := k.dump()
	name := p.meta.Snapshot
	for _, c := range k.manifest(name).Chunks { // nothing of these is needed
		if err := k.objects.Delete(t.Context(), chunkName(p.snapshotPrefix(), c)); err != nil {
			t.Fatal(err)
		}
	}
	k.db = old
	k.log.Reset()
	k.mustOpen()
	same(t, "the state", k.dump(), want...)
	if !strings.Contains(k.log.String(), "brought up to a snapshot") || strings.Contains(k.log.String(), "not usable") {
		t.Errorf("it says\n%s", k.log.String())
	}
}

// TestAnotherLogsStoreDoesNotCatchUp: a store with records that the log has lost, or of another log, is not taken for an
// older one.
func TestAnotherLogsStoreDoesNotCatchUp(t *testing.T) {
	m := &proto.Manifest{Sequence: 100, Place: &proto.Place{Sequence: 10, Number: 5, Epoch: 1}, Epochs: []*proto.Place{{Sequence: 50, Number: 30, Epoch: 2}, {Sequence: 80, Number: 60, Epoch: 4}},
		Runs: []*proto.Run{{Place: &proto.Place{Sequence: 40, Number: 25, Epoch: 1}}, {Place: &proto.Place{Sequence: 90, Number: 70, Epoch: 4}}}}
	p := &Partition{name: "p"}
	for _, c := range []struct {
		sequence, number, epoch uint64
		want                    bool
	}{
		{10, 5, 1, true}, {39, 24, 1, true}, {40, 25, 1, true}, {49, 29, 1, true}, {50, 30, 2, true}, {79, 59, 2, true}, {80, 60, 4, true}, {100, 75, 4, true},
		{9, 4, 1, false},                       // before all keys
		{101, 76, 4, false},                    // behind the snapshot
		{60, 40, 1, false},                     // it has records that the log has lost
		{45, 28, 2, false},                     // of an epoch that came later
		{45, 31, 1, false},                     // more records than there were
		{45, 25, 1, false}, {40, 24, 1, false}, // fewer
		{85, 65, 3, false},
	} {
		if got := p.reaches(m, &proto.Meta{Partition: "p", Sequence: c.sequence, Number: c.number, Epoch: c.epoch}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if p.reaches(m, &proto.Meta{Partition: "q", Sequence: 10, Number: 5, Epoch: 1}) || p.reaches(nil, &proto.Meta{Partition: "p"}) {
		t.Error("another partition's store, or a former snapshot")
	}
}

// TestChunksOfRandomChanges: whatever changes, a snapshot holds what the store held, its chunks are neither small nor
// large, and what is in other chunks than the changes is not written.
func TestChunksOfRandomChanges(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		k, p := snapshotKit(t, nil, 1)
		w := p.ports.Store
		have := make(map[string]bool)
		var m *proto.Manifest
		for round := range 25 {
			// Keys of all kinds, some of them in one slot; their number goes up and down, a round's changes are all
			// over the store or in one place.
			some := []int{1, 10, 100, 400}[rnd.IntN(4)]
			slots := []int{2, 40, 4096}[rnd.IntN(3)]
			grows := rnd.IntN(3) > 0
			r := &proto.Record{Number: p.meta.Number + 1, Epoch: p.meta.Epoch, Revision: 1}
			touched := make(map[string]bool)
			for range some {
				key := []byte{"sdxy"[rnd.IntN(4)]}
				key = binary.BigEndian.AppendUint16(key, uint16(rnd.IntN(slots)))
				key = fmt.Appendf(key, "%03d", rnd.IntN(200))
				value := []byte(nil)
				if grows || rnd.IntN(4) == 0 {
					value = bytes.Repeat([]byte{byte(rnd.IntN(256))}, rnd.IntN(60)+1)
					if rnd.IntN(300) == 0 {
						value = make([]byte, 3000) // more than a chunk
					}
				}
				r.Keys, r.Values = append(r.Keys, key), append(r.Values, value)
				have[string(key)] = value != nil
				touched[string(key)] = true
			}
			at, err := p.commit(t.Context(), r)
			if err == nil {
				err = p.install(r, at)
			}
			if err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(8) == 0 {
				p = k.mustOpen()
				w = p.ports.Store
			}
			old := m
			if m = k.snapshot(); rnd.IntN(3) > 0 || len(m.Runs) == 0 {
				m = k.snapshotOfAll()
			}
			if p.meta.Snapshot != p.snapshotPrefix()+snapshotID(m.Epoch, m.Sequence) {
				t.Fatalf("seed %d round %d: %s is announced", seed, round, p.meta.Snapshot)
			}
			var got []string
			o, err := openSnapshot(t.Context(), k.objects, p.meta.Snapshot)
			if err != nil {
				t.Fatal(err)
			}
			pairs := make(map[string]string)
			if _, err := p.eachPair(t.Context(), o, 0, func(key, v []byte) error {
				if pairs[string(key)] = string(v); v == nil {
					delete(pairs, string(key))
				}
				return nil
			}); err != nil {
				t.Fatalf("seed %d round %d: %v", seed, round, err)
			}
			for _, key := range slices.Sorted(maps.Keys(pairs)) {
				got = append(got, key+"="+pairs[key])
			}
			want, err := statetest.Dump(w)
			want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "m=") })
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("seed %d round %d: the snapshot holds %d pairs, the store %d, %v", seed, round, len(got), len(want), err)
			}
			small := 0
			for _, c := range m.Chunks {
				if c.Bytes > 1600+3100 {
					t.Errorf("seed %d round %d: a chunk of %d bytes", seed, round, c.Bytes)
				}
				if c.Bytes < 100 {
					small++
				}
			}
			if small > 1+len(m.Chunks)/2 {
				t.Errorf("seed %d round %d: %d of %d chunks are small", seed, round, small, len(m.Chunks))
			}
			if old == nil || len(old.Runs) > 0 || len(m.Runs) > 0 {
				continue
			}
			// A range with a change may be cut in pieces, and may take its neighbours in; no more is written.
			changed := 0
			for i := range old.Chunks {
				if slices.ContainsFunc(r.Keys, func(key []byte) bool {
					end := chunkEnd(old.Chunks, i)
					return bytes.Compare(key, old.Chunks[i].From) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
				}) {
					changed++
				}
			}
			grown := 0
			for i := range r.Keys {
				grown += len(r.Values[i]) + 16
			}
			if n := ofPlace(m); n > 3*changed+grown/200+1 {
				t.Errorf("seed %d round %d: %d chunks were written where %d of %d had a change of %d keys", seed, round, n, changed, len(old.Chunks), len(touched))
			}
		}
		k.tidy()
	}
}

// TestKeyList compares it with a set.
func TestKeyList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var l keyList
	set := make(map[string]bool)
	for i := range 200_000 {
		k := fmt.Appendf(nil, "%0*d", 1+rnd.IntN(20), rnd.IntN(1+i/20))
		set[string(k)] = true
		l.add(k)
	}
	l.tidy()
	want := slices.Sorted(maps.Keys(set))
	if len(l.keys) != len(want) {
		t.Fatalf("%d keys, want %d", len(l.keys), len(want))
	}
	for i := range want {
		if string(l.at(i)) != want[i] {
			t.Fatalf("key %d is %s, want %s", i, l.at(i), want[i])
		}
	}
}

// TestDamagedSnapshots: the one before is taken, whatever is wrong with the newest; without a whole one the partition
// says so.
func TestDamagedSnapshots(t *testing.T) {
	damages := map[string]func(k *kit, name string){
		"gone": func(k *kit, name string) {
			if err := k.objects.Delete(k.t.Context(), name); err != nil {
				k.t.Fatal(err)
			}
		},
		"changed": func(k *kit, name string) { k.objects.Corrupt(name, 40) },
		"short": func(k *kit, name string) {
			b := k.object(name)
			k.put(name, b[:len(b)-1])
		},
		"empty":     func(k *kit, name string) { k.put(name, nil) },
		"something": func(k *kit, name string) { k.put(name, []byte("something else, and long enough for a checksum")) },
		"longer":    func(k *kit, name string) { k.put(name, append(k.object(name), 0)) },
	}
	for what, damage := range damages {
		for _, part := range []string{"manifest", "chunk"} {
			k, p := snapshotKit(t, nil, 100)
			k.snapshot()
			for i := range 100 {
				k.note(i, "second")
			}
			m := k.snapshot()
			k.note(3, "third")
			want := k.dump()
			name := p.meta.Snapshot
			if part == "chunk" {
				name = chunkName(p.snapshotPrefix(), m.Chunks[len(m.Chunks)/2])
			}
			damage(k, name)
			k.lose()
			k.mustOpen()
			same(t, part+" "+what, k.dump(), want...)
			if !strings.Contains(k.log.String(), "snapshot not usable") {
				t.Errorf("%s %s: nobody was told: %s", part, what, k.log.String())
			}
			// The next snapshot leaves the log, the one after it cuts it.
			before := k.parts[0].meta.SnapshotBeforeSequence
			k.snapshot()
			if info, err := k.streams.Info(t.Context(), p.stream); err != nil || info.First > before {
				t.Errorf("%s %s: the log begins at %d, %v, and the whole snapshot is of %d", part, what, info.First, err, before)
			}
			k.note(4, "fourth")
			k.snapshot()
			k.tidy()

			for _, name := range []string{k.parts[0].meta.Snapshot, k.parts[0].meta.SnapshotBefore} {
				damage(k, name)
			}
			k.lose()
			if err := k.open(); !errors.Is(err, ErrDamagedLog) || !strings.Contains(err.Error(), "no whole snapshot is left") {
				t.Errorf("%s %s: with both damaged it says %v", part, what, err)
			}
		}
	}
}

func (k *kit) object(name string) []byte {
	k.t.Helper()
	r, err := k.objects.Get(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

func (k *kit) put(name string, b []byte) {
	k.t.Helper()
	if err := k.objects.Put(k.t.Context(), name, bytes.NewReader(b)); err != nil {
		k.t.Fatal(err)
	}
}

// TestALostChunkIsWrittenAgain: the partition has its state, so what has gone from the objects comes back with the next
// snapshot; until then the log and what the damaged one needs stay.
func TestALostChunkIsWrittenAgain(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		k, p := snapshotKit(t, nil, 200)
		first := k.snapshot()
		name := chunkName(p.snapshotPrefix(), first.Chunks[3])
		if damaged {
			k.objects.Corrupt(name, 9)
		} else if err := k.objects.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		found := -1
		for i := range checkOneOf + 1 { // a damaged one is found in its turn
			m := k.snapshot()
			if n := ofPlace(m); n > 1 {
				t.Fatalf("%d chunks were written", n)
			} else if n == 1 {
				found = i
				if err := p.verifySnapshot(t.Context(), p.meta.Snapshot); err != nil {
					t.Error(err)
				}
				info, err := k.streams.Info(t.Context(), p.stream)
				if err != nil || i == 0 && info.First != 1 {
					t.Errorf("the log begins at %d, %v", info.First, err)
				}
			}
		}
		if found < 0 || !damaged && found != 0 {
			t.Errorf("damaged %v: found by snapshot %d", damaged, found)
		}
		k.tidy()
	}
}

// TestTwoWholeSnapshotsStay: while one of the two newest is not whole, the third is kept, and the log above it.
func TestTwoWholeSnapshotsStay(t *testing.T) {
	k, p := snapshotKit(t, nil, 100)
	k.snapshot()
	k.note(1, "second")
	m := k.snapshot()
	for _, c := range m.Chunks {
		if c.Sequence == m.Sequence {
			if err := k.objects.Delete(t.Context(), chunkName(p.snapshotPrefix(), c)); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.note(2, "third")
	k.snapshot()
	k.note(3, "fourth")
	want := k.dump()
	if err := k.objects.Delete(t.Context(), p.meta.Snapshot); err != nil {
		t.Fatal(err)
	}
	k.lose()
	k.mustOpen()
	same(t, "the state from the third snapshot", k.dump(), want...)
}

// formerSnapshot writes a snapshot in the former format.
func formerSnapshot(k *kit, p *Partition) {
	k.t.Helper()
	b := []byte(snapshotFormerMagic)
	if err := p.ports.Store.Scan(nil, nil, func(key, v []byte) bool {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(len(key))), uint64(len(v)))
		b = append(append(b, key...), v...)
		return true
	}); err != nil {
		k.t.Fatal(err)
	}
	sum := xxhash.Sum64(b)
	b = binary.AppendUvarint(binary.AppendUvarint(b, 0), 8)
	name, at := p.snapshotPrefix()+snapshotID(p.meta.Epoch, p.meta.Sequence), p.meta.Sequence
	k.put(name, binary.BigEndian.AppendUint64(b, sum))
	r := &proto.Record{Kind: proto.Kind_SNAPSHOT, Epoch: p.meta.Epoch, Number: p.meta.Number + 1, Revision: 1, Snapshot: name, SnapshotSequence: at}
	logged, err := p.commit(k.t.Context(), r)
	if err == nil {
		err = p.install(r, logged)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	p.cut(k.t.Context())
}

// TestTheFormerFormat: snapshots of a former version are read, and give way to new ones.
func TestTheFormerFormat(t *testing.T) {
	k, p := snapshotKit(t, nil, 50)
	formerSnapshot(k, p)
	k.note(1, "second")
	formerSnapshot(k, p)
	k.note(2, "third")
	want := k.dump()
	k.lose()
	p = k.mustOpen()
	same(t, "the state from a former snapshot", k.dump(), want...)
	former := p.meta.Snapshot
	if m := k.snapshot(); m == nil || ofPlace(m) != len(m.Chunks) || p.meta.SnapshotBefore != former {
		t.Errorf("the first new one is %v, before it is %s", m, p.meta.SnapshotBefore)
	}
	// Two of the former stay: the announced one, and the one before it, which the new one does not know to be needless.
	k.note(3, "fourth")
	want = k.dump()
	if err := k.objects.Delete(t.Context(), p.meta.Snapshot); err != nil {
		t.Fatal(err)
	}
	k.lose()
	k.mustOpen()
	same(t, "the state from the former one before", k.dump(), want...)
	for range 3 {
		k.snapshot()
	}
	k.tidy()
	b := []byte(snapshotFormerMagic + "\x01\x01k")
	k.put("short", b)
	o, err := openSnapshot(t.Context(), k.objects, "short")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.readFormer(func(_, _ []byte) error { return nil }); !errors.Is(err, errSnapshot) {
		t.Errorf("a former one that ends too early: %v", err)
	}
}

// nthEffect calls f before or after the n-th effect on objects, streams or both.
type nthEffect struct {
	n     int
	after bool
	count int
	f     func() error
}

func (e *nthEffect) at(after bool) error {
	if e.f == nil || e.after != after {
		return nil
	}
	if e.count++; e.count != e.n {
		return nil
	}
	return e.f()
}

func (e *nthEffect) Before(memory.Op, string) error { return e.at(false) }
func (e *nthEffect) After(memory.Op, string) error  { return e.at(true) }

// TestSnapshotCrashesAnywhere: the process dies before or after each effect of a snapshot. The state is what it was, also
// without a store, and the next snapshots leave nothing lying about.
func TestSnapshotCrashesAnywhere(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			e := new(nthEffect)
			k, p := snapshotKit(t, e, 60)
			k.snapshot()
			k.note(5, "second")
			k.snapshot()
			for i := range 20 {
				k.note(3*i, "third")
			}
			want := k.dump()
			*e = nthEffect{n: n, after: after, f: crash}
			crashed := func() (crashed bool) {
				defer func() {
					if r := recover(); r != nil {
						if !isCrash(r) {
							panic(r)
						}
						crashed = true
					}
				}()
				if err := p.Snapshot(t.Context()); err != nil {
					t.Fatalf("effect %d: %v", n, err)
				}
				return false
			}()
			e.f = nil
			if !crashed {
				if n < 12 {
					t.Fatalf("a snapshot of %d effects", n-1)
				}
				break
			}
			if n%2 == 0 {
				k.lose()
			}
			p = k.mustOpen()
			same(t, fmt.Sprintf("the state after a crash at effect %d", n), k.dump(), want...)
			k.note(1, "fourth")
			k.snapshot()
			k.snapshot()
			k.tidy()
			want = k.dump()
			k.lose()
			k.mustOpen()
			same(t, fmt.Sprintf("the state from the snapshots after a crash at effect %d", n), k.dump(), want...)
		}
	}
}

// TestSnapshotMeetsFaults: whatever fails once is tried again; what fails for long ends the snapshot, and nothing else.
func TestSnapshotMeetsFaults(t *testing.T) {
	for n := 1; ; n++ {
		e := new(nthEffect)
		k, p := snapshotKit(t, e, 60)
		k.snapshot()
		k.note(5, "second")
		*e = nthEffect{n: n, f: func() error { return errors.New("not now") }}
		before := p.meta.SnapshotSequence
		if err := p.Snapshot(t.Context()); err != nil {
			t.Fatalf("effect %d: %v", n, err)
		}
		done := e.count < n
		e.f = nil
		if p.meta.SnapshotSequence == before {
			t.Fatalf("effect %d failed once, and there is no snapshot", n)
		}
		k.snapshot()
		k.snapshot()
		k.tidy()
		if done {
			break
		}
	}
	e := new(nthEffect)
	k, p := snapshotKit(t, e, 60)
	first := k.snapshot()
	for range 20 {
		k.note(5, "second")
	}
	stuck := errors.New("not ever")
	*e = nthEffect{n: 3, f: func() error { e.n++; return stuck }}
	if err := p.Snapshot(t.Context()); err != nil || p.meta.SnapshotSequence != first.Sequence {
		t.Errorf("a snapshot that cannot be written: %v, announced is %d", err, p.meta.SnapshotSequence)
	}
	e.f = nil
	if p.opt.SnapshotBytes = 1; p.snapshotDue() {
		t.Error("it is tried again at once")
	}
	k.now = k.now.Add(snapshotPause)
	if !p.snapshotDue() {
		t.Error("it is not tried again")
	}
	k.note(9, "third")
	if n := ofPlace(k.snapshot()); n != 1 {
		t.Errorf("%d chunks were written for two keys", n)
	}
	k.tidy()
}

// TestAZombiesSnapshot: a former owner goes on with its snapshot, at each of its effects, after another one has taken over
// and has taken snapshots: it announces nothing, and what the new owner needs stays.
func TestAZombiesSnapshot(t *testing.T) {
	for n := 1; ; n++ {
		e := new(nthEffect)
		k, old := snapshotKit(t, e, 60)
		k.snapshot()
		for i := range 30 {
			k.note(2*i, "second")
		}
		k.snapshot()
		for i := range 30 {
			k.note(2*i, "first again")
		}
		zombies := k.parts
		*e = nthEffect{n: n, f: func() error {
			e.f = nil
			k.mustOpen() // the store is the new owner's copy of the same state
			for i := range 60 {
				k.note(i, "new owner's")
				if i%20 == 0 {
					k.snapshot()
				}
			}
			return nil
		}}
		err := old.Snapshot(t.Context())
		if e.count < n {
			break
		}
		if err != nil && !errors.Is(err, ErrFenced) {
			t.Fatalf("effect %d: %v", n, err)
		}
		if zombies[0] == k.parts[0] {
			t.Fatal("nobody took over")
		}
		for range 3 { // it never gives up
			_ = old.Snapshot(t.Context())
		}
		p := k.parts[0]
		for _, name := range []string{p.meta.Snapshot, p.meta.SnapshotBefore} {
			if err := p.verifySnapshot(t.Context(), name); err != nil {
				t.Errorf("effect %d: the new owner's snapshot %s: %v", n, name, err)
			}
		}
		want := k.dump()
		k.snapshot()
		k.snapshot()
		k.tidy()
		k.lose()
		k.mustOpen()
		same(t, fmt.Sprintf("the state after a zombie's effect %d", n), k.dump(), want...)
	}
}

// TestSnapshotBesideWork: between two steps the partition goes on; the snapshot is of the place where it began, and what
// comes after it is of the next.
func TestSnapshotBesideWork(t *testing.T) {
	k, p := snapshotKit(t, nil, 200)
	k.snapshot()
	for i := range 200 {
		k.note(i, "second")
	}
	p.opt.SnapshotBytes = 1
	at, names := p.meta.Sequence, k.state("note", "user=199")
	steps := 0
	for p.meta.SnapshotSequence != at {
		if err := p.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.note(199, fmt.Sprint("beside ", steps))
		if steps++; steps > 1000 {
			t.Fatal("it is never announced")
		}
		if !p.Restless() {
			t.Fatal("nobody would go on with the snapshot")
		}
	}
	if steps < 20 {
		t.Errorf("it took %d steps", steps)
	}
	if p.meta.LogBytes < uint64(steps)*80 || p.meta.LogBytes > uint64(steps)*1000 {
		t.Errorf("%d bytes of records are said to follow on the snapshot", p.meta.LogBytes)
	}
	o, err := openSnapshot(t.Context(), k.objects, p.meta.Snapshot)
	if err != nil {
		t.Fatal(err)
	}
	key := appendInstanceKey(nil, stateKind, kis.SlotOfBytes([]byte{}), "", nil)[:1]
	some := false
	if _, err := p.eachPair(t.Context(), o, 0, func(k, v []byte) error {
		if bytes.HasPrefix(k, key) && bytes.Contains(v, []byte("beside")) {
			t.Errorf("the snapshot has %q", v)
		}
		some = some || bytes.Contains(v, []byte(names))
		return nil
	}); err != nil || !some {
		t.Errorf("the snapshot does not have %s: %v", names, err)
	}
	for p.snapshots.writing != nil {
		if err := p.moveSnapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.opt.SnapshotBytes = 1 << 40
	if n := ofPlace(k.snapshot()); n != 1 {
		t.Errorf("the next one wrote %d chunks", n)
	}
	want := k.dump()
	k.lose()
	k.mustOpen()
	same(t, "the state", k.dump(), want...)
}

// FuzzSnapshot: whatever an object holds, reading it ends with an error or with what was written.
func FuzzSnapshot(f *testing.F) {
	m := &proto.Manifest{Format: 2, Partition: "f/user/0", Meta: []byte("m"), Chunks: []*proto.Chunk{{Hash: make([]byte, 32), Bytes: 10, Stored: 10}}}
	f.Add(sealManifest(m))
	f.Add([]byte(snapshotFormerMagic + "\x01\x01kv\x00\x0812345678"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00"))
	p := &Partition{name: "f/user/0", flow: &Flow{Name: "f"}, stage: "user"}
	f.Fuzz(func(t *testing.T, b []byte) {
		objects := memory.NewObjects(memory.Options{})
		p.ports.Objects = objects
		put := func(name string, b []byte) {
			if err := objects.Put(t.Context(), name, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		}
		put("s", b)
		if o, err := openSnapshot(t.Context(), objects, "s"); err == nil {
			_, _ = p.eachPair(t.Context(), o, 0, func(_, _ []byte) error { return nil })
		} else if !notWhole(err) {
			t.Fatalf("it seems to be a passing fault: %v", err)
		}
		var codec chunkCodec
		put("c", b)
		if _, err := codec.read(t.Context(), objects, "c", &proto.Chunk{Hash: make([]byte, 32), Bytes: 1000, Stored: uint64(len(b))}); !notWhole(err) {
			t.Fatalf("a chunk of another hash: %v", err)
		}
		for rest := b; len(rest) > 0; {
			k, v, n := nextPair(rest)
			if n == 0 {
				break
			}
			if again := appendPair(nil, k, v); len(again) > n || n > len(rest) {
				t.Fatalf("a pair of %d bytes is written with %d", n, len(again))
			}
			rest = rest[n:]
		}
	})
}
