package actors

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/kisflow/kisflow/proto"
	"github.com/kisflow/kisflow/transport"
)

// The first bytes of a snapshot's object say its format.
//
// Format 2 is the manifest: behind them stand a proto.Manifest and its xxh64. A chunk is an object of its own, a zstd
// frame of pairs of key and value: the key's length, the value's plus one, key, value. 0 for the value's length is a key
// that was deleted, in runs only.
//
// Format 1 was all in one: the pairs, and at the end a key of length 0 with the xxh64 of all before it as its value.
const (
	snapshotMagic       = "kisflow snapshot 2\n"
	snapshotFormerMagic = "kisflow snapshot 1\n"
)

// chunkBytes is about how large chunks are, before they are compressed. Smaller ones cost less where few keys change,
// and more otherwise.
const chunkBytes = 1 << 20

// Bounds of what is read.
const (
	manifestMost = 1 << 30
	pairMost     = 1 << 30
	keyMost      = 64 << 20
)

// errSnapshot means that a snapshot is not what was written; reading it again does not help.
var errSnapshot = errors.New("damaged snapshot")

// notWhole tells whether an error means that a snapshot, or a part of it, is gone or damaged for good.
func notWhole(err error) bool {
	return errors.Is(err, errSnapshot) || errors.Is(err, transport.ErrNotFound) || errors.Is(err, transport.ErrCorrupt)
}

// snapshotPrefix begins the names of all objects of a partition.
func (p *Partition) snapshotPrefix() string {
	return Token(p.flow.Name) + "/" + Token(p.stage) + "/" + numbered(p.number, p.flow.Generation) + "/"
}

// snapshotID names a snapshot by epoch and log sequence: it is never written twice.
func snapshotID(epoch, sequence uint64) string { return fmt.Sprintf("%08d-%016d", epoch, sequence) }

func chunkName(prefix string, c *proto.Chunk) string {
	return prefix + snapshotID(c.Epoch, c.Sequence) + "/" + hex.EncodeToString(c.Hash[:min(len(c.Hash), 16)])
}

// chunkEnd is where the range of a chunk ends; nil: nowhere.
func chunkEnd(chunks []*proto.Chunk, i int) []byte {
	if i+1 < len(chunks) {
		return chunks[i+1].From
	}
	return nil
}

// chunksOf are all chunks of a snapshot.
func chunksOf(m *proto.Manifest) []*proto.Chunk {
	all := slices.Clone(m.Chunks)
	for _, r := range m.Runs {
		all = append(all, r.Chunks...)
	}
	return all
}

func chunkSize(chunks []*proto.Chunk) (size uint64) {
	for _, c := range chunks {
		size += c.Bytes
	}
	return size
}

// appendPair appends a key with its value; nil is a deleted key's.
func appendPair(dst, k, v []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(k)))
	if v == nil {
		return append(binary.AppendUvarint(dst, 0), k...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(v))+1)
	return append(append(dst, k...), v...)
}

// nextPair takes the first pair of some, and says how many bytes it is; 0 if it is none.
func nextPair(b []byte) (k, v []byte, n int) {
	nk, w := binary.Uvarint(b)
	if w <= 0 || nk == 0 {
		return nil, nil, 0
	}
	nv, x := binary.Uvarint(b[w:])
	w += x
	if x <= 0 || nk > uint64(len(b)-w) || nv > uint64(len(b)-w)-nk+1 {
		return nil, nil, 0
	}
	n = w + int(nk)
	k = b[w:n:n]
	if nv > 0 {
		v = b[n : n+int(nv-1) : n+int(nv-1)]
		n += int(nv - 1)
	}
	return k, v, n
}

func lastKey(pairs []byte) (key []byte) {
	for len(pairs) > 0 {
		k, _, n := nextPair(pairs)
		key, pairs = k, pairs[n:]
	}
	return bytes.Clone(key)
}

// slotPrefix is what of a key says its kind and slot: its first three bytes.
func slotPrefix(k []byte) uint32 {
	var b [4]byte
	copy(b[1:], k[:min(len(k), 3)])
	return binary.BigEndian.Uint32(b[:])
}

// separator is a key above last and not above next: the slot's beginning where they are of different slots.
func separator(last, next []byte) []byte {
	if len(next) > 3 && slotPrefix(last) != slotPrefix(next) {
		next = next[:3]
	}
	return bytes.Clone(next)
}

// keyList gathers keys; the same key may come often. The zero value is ready to use.
type keyList struct {
	bytes  []byte
	keys   []keyPlace
	tidied int // bytes after the last tidying
}

type keyPlace struct{ at, size uint32 }

// keyListTidy is from how many bytes on keys that have come often are let go while others come.
const keyListTidy = 4 << 20

func (l *keyList) add(k []byte) {
	l.keys = append(l.keys, keyPlace{uint32(len(l.bytes)), uint32(len(k))})
	l.bytes = append(l.bytes, k...)
	if len(l.bytes) > 2*max(l.tidied, keyListTidy) {
		l.tidy()
	}
}

func (l *keyList) at(i int) []byte {
	k := l.keys[i]
	return l.bytes[k.at : k.at+k.size : k.at+k.size]
}

// tidy sorts the keys, and leaves each once.
func (l *keyList) tidy() {
	key := func(k keyPlace) []byte { return l.bytes[k.at : k.at+k.size] }
	slices.SortFunc(l.keys, func(a, b keyPlace) int { return bytes.Compare(key(a), key(b)) })
	l.keys = slices.CompactFunc(l.keys, func(a, b keyPlace) bool { return bytes.Equal(key(a), key(b)) })
	rest := make([]byte, 0, len(l.bytes)/2)
	for i, k := range l.keys {
		at := len(rest)
		rest = append(rest, key(k)...)
		l.keys[i].at = uint32(at)
	}
	l.bytes, l.tidied = rest, len(rest)
}

// chunkCodec writes and reads chunks. The zero value is ready to use, by one goroutine at a time.
type chunkCodec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	buf []byte
}

// write stores a chunk and reads it back.
func (x *chunkCodec) write(ctx context.Context, objects transport.Objects, name string, c *proto.Chunk, pairs []byte) (err error) {
	if x.enc == nil {
		x.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return err
		}
	}
	x.buf = x.enc.EncodeAll(pairs, x.buf[:0])
	c.Stored = uint64(len(x.buf))
	if err := objects.Put(ctx, name, bytes.NewReader(x.buf)); err != nil {
		return err
	}
	if _, err := x.read(ctx, objects, name, c); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return nil
}

// read returns the pairs of a chunk; they are valid until the next call.
func (x *chunkCodec) read(ctx context.Context, objects transport.Objects, name string, c *proto.Chunk) (pairs []byte, err error) {
	if x.dec == nil {
		// It writes no more than what there is room for.
		x.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(2*pairMost))
		if err != nil {
			return nil, err
		}
	}
	if c.Bytes > 2*pairMost || len(c.Hash) != sha256.Size {
		return nil, fmt.Errorf("%w: %s is said to hold %d bytes", errSnapshot, name, c.Bytes)
	}
	r, err := objects.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var stored bytes.Buffer
	stored.Grow(int(min(c.Stored, 2*pairMost)) + bytes.MinRead)
	if _, err := stored.ReadFrom(io.LimitReader(r, int64(c.Stored)+1)); err != nil {
		return nil, err
	}
	if uint64(stored.Len()) != c.Stored {
		return nil, fmt.Errorf("%w: chunk %s is not of %d bytes", errSnapshot, name, c.Stored)
	}
	// The room is exactly what it is to hold, and some for the decoder's last look.
	if uint64(cap(x.buf)) < c.Bytes {
		x.buf = make([]byte, 0, c.Bytes)
	}
	pairs, err = x.dec.DecodeAll(stored.Bytes(), x.buf[:0:c.Bytes])
	if err != nil {
		return nil, fmt.Errorf("%w: chunk %s: %w", errSnapshot, name, err)
	}
	if hash := sha256.Sum256(pairs); uint64(len(pairs)) != c.Bytes || !bytes.Equal(hash[:], c.Hash) {
		return nil, fmt.Errorf("%w: chunk %s holds something else than was written", errSnapshot, name)
	}
	return pairs, nil
}

// sealManifest encodes a manifest as an object.
func sealManifest(m *proto.Manifest) []byte {
	b := make([]byte, len(snapshotMagic), len(snapshotMagic)+m.SizeVT()+8)
	copy(b, snapshotMagic)
	b = b[:len(snapshotMagic)+m.SizeVT()]
	if n, err := m.MarshalToSizedBufferVT(b[len(snapshotMagic):]); err != nil || n != len(b)-len(snapshotMagic) {
		panic(fmt.Sprintf("actors: manifest of %d bytes: wrote %d: %v", len(b)-len(snapshotMagic), n, err))
	}
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

// openManifest decodes what sealManifest wrote, without its magic.
func openManifest(b []byte) (*proto.Manifest, error) {
	if len(b) < 8 {
		return nil, errors.New("it ends too early")
	}
	h := xxhash.New()
	h.Write([]byte(snapshotMagic))
	h.Write(b[:len(b)-8])
	if h.Sum64() != binary.BigEndian.Uint64(b[len(b)-8:]) {
		return nil, errors.New("its checksum is another one")
	}
	m := new(proto.Manifest)
	if err := m.UnmarshalVT(b[:len(b)-8]); err != nil {
		return nil, err
	}
	if m.Format != 2 {
		return nil, fmt.Errorf("format %d is not known", m.Format)
	}
	return m, nil
}

// snapshotObject is an open snapshot.
type snapshotObject struct {
	manifest *proto.Manifest // nil: it is of format 1
	name     string
	o        io.ReadCloser
	r        *bufio.Reader
}

// Close ends the reading.
func (s *snapshotObject) Close() error { return s.o.Close() }

// openSnapshot opens a snapshot, and reads its manifest if it has one.
func openSnapshot(ctx context.Context, objects transport.Objects, name string) (*snapshotObject, error) {
	o, err := objects.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &snapshotObject{name: name, o: o, r: bufio.NewReaderSize(o, 256<<10)}
	magic := make([]byte, len(snapshotMagic))
	_, err = io.ReadFull(s.r, magic)
	switch {
	case err != nil:
		err = snapshotFault(name, err)
	case string(magic) == snapshotMagic:
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(s.r, manifestMost)); err != nil {
			err = snapshotFault(name, err)
		} else if s.manifest, err = openManifest(b); err != nil {
			err = fmt.Errorf("%w: %s: %w", errSnapshot, name, err)
		}
	case string(magic) != snapshotFormerMagic:
		err = fmt.Errorf("%w: %s: not of a known format", errSnapshot, name)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return s, nil
}

// snapshotFault tells a snapshot that ends too early from one that cannot be read just now.
func snapshotFault(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s ends too early", errSnapshot, name)
	}
	return fmt.Errorf("snapshot %s: %w", name, err)
}

// readFormer calls f for every pair of a snapshot of format 1, and fails where the bytes are not those that were
// written.
func (s *snapshotObject) readFormer(f func(key, value []byte) error) error {
	hash := xxhash.New()
	hash.Write([]byte(snapshotFormerMagic))
	var head []byte
	for {
		k, err := binary.ReadUvarint(s.r)
		var v uint64
		if err == nil {
			v, err = binary.ReadUvarint(s.r)
		}
		if err == nil && (k > keyMost || v > pairMost) {
			return fmt.Errorf("%w: %s: a length is damaged", errSnapshot, s.name)
		}
		if err != nil {
			return snapshotFault(s.name, err)
		}
		pair := make([]byte, k+v)
		if _, err := io.ReadFull(s.r, pair); err != nil {
			return snapshotFault(s.name, err)
		}
		if k == 0 {
			if v != 8 || binary.BigEndian.Uint64(pair) != hash.Sum64() {
				return fmt.Errorf("%w: %s: its checksum is another one", errSnapshot, s.name)
			}
			switch _, err := s.r.ReadByte(); err {
			case io.EOF:
				return nil
			case nil:
				return fmt.Errorf("%w: %s: bytes behind its end", errSnapshot, s.name)
			default:
				return snapshotFault(s.name, err)
			}
		}
		head = binary.AppendUvarint(binary.AppendUvarint(head[:0], k), v)
		hash.Write(head)
		hash.Write(pair)
		if err := f(pair[:k:k], pair[k:]); err != nil {
			return err
		}
	}
}
