package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/bench/load"
	"github.com/kisflow/kisflow/kis"
)

// user is the state of one key.
type user struct {
	load.Total
	epoch uint64 // the batch that changed it last
}

// worker does all the work on one goroutine; only acknowledgements of outputs come in on another.
type worker struct {
	config
	json  kis.Parser
	db    *pebble.DB
	pull  *puller
	sink  sink
	users map[int64]*user

	dirty    []*user
	epoch    uint64
	position uint64 // of the last order applied
	skip     uint64 // outputs of orders up to this position are stored already
	text     []byte
	pending  *pebble.Batch // waits until its outputs are stored
	books    books
}

var positionKey = []byte("position")

// open opens Pebble, reads all totals into the map, and starts reading after the position.
func open(ctx context.Context, c config, in, out *nats.Conn) (*worker, error) {
	js, err := ensureStreams(ctx, in)
	if err != nil {
		return nil, err
	}
	w := &worker{config: c, users: make(map[int64]*user)}
	w.db, err = pebble.Open(filepath.Join(c.data, "pebble"), &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest, MemTableSize: 32 << 20, MemTableStopWritesThreshold: 4,
		CacheSize: 64 << 20, L0CompactionThreshold: 4, L0StopWritesThreshold: 64, Logger: quiet{},
	})
	if err != nil {
		return nil, err
	}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.db.Close())
	}
	if c.sync {
		w.sink, w.skip, err = newAtomicSink(ctx, js, out)
	} else {
		w.sink, err = newSingleSink(out, c.window)
	}
	if err != nil {
		return nil, errors.Join(err, w.db.Close())
	}
	if w.pull, err = newPuller(ctx, js, in, w.position+1, c.batch); err != nil {
		return nil, errors.Join(err, w.db.Close())
	}
	return w, nil
}

// load reads what Pebble holds.
func (w *worker) load() error {
	it, err := w.db.NewIter(nil)
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		k, v := it.Key(), it.Value()
		if bytes.Equal(k, positionKey) {
			w.position = binary.BigEndian.Uint64(v)
			continue
		}
		u := &user{Total: load.Total{User: int64(binary.BigEndian.Uint64(k[1:]))}}
		u.Count, u.Total.Total, u.Max = get(v, 0), get(v, 1), get(v, 2)
		w.users[u.User] = u
	}
	return it.Close()
}

func get(v []byte, i int) int64 { return int64(binary.BigEndian.Uint64(v[8*i:])) }

// run works until ctx ends.
func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case m := <-w.pull.messages:
			// Take what is there, at most a batch: a lone order does not wait for others.
			for n := 0; ; {
				k, err := w.message(m)
				if err != nil {
					return err
				}
				if n += k; n >= w.batch || len(w.pull.messages) == 0 {
					break
				}
				m = <-w.pull.messages
			}
			if err := w.flush(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// message applies the orders of one message and publishes their outputs.
func (w *worker) message(m *nats.Msg) (int, error) {
	if m.Reply == "" { // a pull request ended
		return 0, w.pull.ended(m)
	}
	seq, err := streamSequence(m.Reply)
	if err != nil {
		return 0, err
	}
	if err := w.pull.took(); err != nil {
		return 0, err
	}
	n, index := 0, 0
	w.text = w.text[:0]
	for data := m.Data; len(data) > 0; index++ {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		if !w.apply(line) {
			w.books.Refused++
			continue
		}
		n++
		if w.pack {
			w.text = append(w.text, '\n')
			continue
		}
		if err := w.publish(seq, index); err != nil {
			return n, err
		}
	}
	if w.pack && n > 0 {
		w.text = w.text[:len(w.text)-1]
		if err := w.publish(seq, 0); err != nil {
			return n, err
		}
	}
	w.position = seq
	w.books.Orders += int64(n)
	return n, nil
}

// apply decodes, verifies and counts one order, and appends its output to text.
func (w *worker) apply(line []byte) bool {
	row, err := w.json.Parse(line)
	if err != nil {
		return false
	}
	id, _ := row.Get("userid") // a field that is missing is null
	amount, _ := row.Get("amount")
	if id.Kind() != kis.Int || amount.Kind() != kis.Int || amount.Int() <= 0 {
		return false
	}
	u := w.users[id.Int()]
	if u == nil {
		u = &user{Total: load.Total{User: id.Int()}}
		w.users[u.User] = u
	}
	if u.Total.Total > math.MaxInt64-amount.Int() {
		return false
	}
	u.Add(amount.Int())
	if u.epoch != w.epoch+1 {
		u.epoch = w.epoch + 1
		w.dirty = append(w.dirty, u)
	}
	w.text = u.AppendJSON(w.text)
	return true
}

// publish sends text. Its number is made of the input's place, which a replay repeats.
func (w *worker) publish(seq uint64, index int) error {
	var err error
	if seq > w.skip {
		err = w.sink.publish(w.text, seq, index)
		w.books.Outputs++
	}
	w.text = w.text[:0]
	return err
}

// flush ends a batch. Its totals and position are written when its outputs are stored; until then the next
// batch is applied.
func (w *worker) flush() error {
	if err := w.commit(); err != nil { // the batch before
		return err
	}
	w.epoch++
	b := w.db.NewBatchWithSize(64 * (len(w.dirty) + 1))
	var k, v [24]byte
	k[0] = 'u'
	for _, u := range w.dirty {
		binary.BigEndian.PutUint64(k[1:], uint64(u.User))
		binary.BigEndian.PutUint64(v[0:], uint64(u.Count))
		binary.BigEndian.PutUint64(v[8:], uint64(u.Total.Total))
		binary.BigEndian.PutUint64(v[16:], uint64(u.Max))
		if err := b.Set(k[:9], v[:], nil); err != nil {
			return err
		}
	}
	binary.BigEndian.PutUint64(v[0:], w.position)
	if err := b.Set(positionKey, v[:8], nil); err != nil {
		return err
	}
	w.dirty, w.pending = w.dirty[:0], b
	if err := w.sink.flush(w.position); err != nil {
		return err
	}
	if len(w.pull.messages) == 0 {
		return w.commit()
	}
	return nil
}

// commit waits for the outputs of the batch that is pending and commits it.
func (w *worker) commit() error {
	if w.pending == nil {
		return nil
	}
	if err := w.sink.wait(); err != nil {
		return err
	}
	b := w.pending
	w.pending = nil
	options := pebble.NoSync
	if w.sync {
		options = pebble.Sync
	}
	if err := b.Commit(options); err != nil {
		return err
	}
	w.books.Commits++
	return b.Close()
}

// close ends the work and checks the books.
func (w *worker) close() (books, error) {
	err := w.commit()
	w.pull.close()
	w.sink.close()
	b := &w.books
	b.Users = len(w.users)
	for _, u := range w.users {
		b.Counted += u.Count
	}
	v, closer, getErr := w.db.Get(positionKey)
	if getErr == nil {
		b.Position = binary.BigEndian.Uint64(v)
		err = errors.Join(err, closer.Close())
	} else if !errors.Is(getErr, pebble.ErrNotFound) {
		err = errors.Join(err, getErr)
	}
	if b.Position != w.position {
		err = errors.Join(err, fmt.Errorf("position %d is in Pebble, %d was applied", b.Position, w.position))
	}
	if b.Counted < b.Orders {
		err = errors.Join(err, fmt.Errorf("the totals hold %d orders, %d were applied", b.Counted, b.Orders))
	}
	return *b, errors.Join(err, w.db.Close())
}

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// splitAddress is net.SplitHostPort with a number for the port.
func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}
