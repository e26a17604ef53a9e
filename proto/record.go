package proto

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// RecordFormat is the format of the records that Seal writes, and the newest that OpenRecord reads.
const RecordFormat = 1

// ErrDamaged means that bytes are not those that were sealed.
var ErrDamaged = errors.New("damaged record")

// ErrNewer means that bytes were written in a form that this build does not know.
var ErrNewer = errors.New("written by a newer version")

// The hash is field 15, fixed64, and always the last field of a sealed record: what comes before it is the
// encoding with the field zero, which is what it hashes.
const (
	hashTag  = 15<<3 | 1
	hashSize = 1 + 8
)

// Seal encodes a record, sets r.Hash to the hash of the encoding, and puts it at the end. A Format of 0
// becomes RecordFormat.
func Seal(r *Record) []byte {
	if r.Format == 0 {
		r.Format = RecordFormat
	}
	r.Hash = 0
	size := r.SizeVT()
	b := make([]byte, size+hashSize)
	// The generated code writes into a buffer of SizeVT bytes without a way to fail.
	if n, err := r.MarshalToSizedBufferVT(b[:size]); err != nil || n != size {
		panic(fmt.Sprintf("proto: record %d: wrote %d of %d bytes: %v", r.Number, n, size, err))
	}
	r.Hash = xxhash.Sum64(b[:size])
	b[size] = hashTag
	binary.LittleEndian.PutUint64(b[size+1:], r.Hash)
	return b
}

// SealedHash returns the hash at the end of a sealed record without a look at the rest: it tells whose
// bytes these are. It is 0 for bytes that end in no hash.
func SealedHash(b []byte) uint64 {
	if len(b) < hashSize || b[len(b)-hashSize] != hashTag {
		return 0
	}
	return binary.LittleEndian.Uint64(b[len(b)-8:])
}

// OpenRecord decodes what Seal wrote. Bytes and strings of the record point into b, which must not change
// any more. The error is ErrDamaged where the bytes are not those that were sealed, and ErrNewer where the
// record's format is unknown.
func OpenRecord(b []byte) (*Record, error) {
	if len(b) < hashSize || b[len(b)-hashSize] != hashTag {
		return nil, fmt.Errorf("%d bytes that do not end in a hash: %w", len(b), ErrDamaged)
	}
	body := b[:len(b)-hashSize]
	if got, want := xxhash.Sum64(body), SealedHash(b); got != want {
		return nil, fmt.Errorf("%d bytes with hash %016x, sealed with %016x: %w", len(b), got, want, ErrDamaged)
	}
	r := new(Record)
	if err := r.UnmarshalVTUnsafe(b); err != nil {
		return nil, fmt.Errorf("%d bytes: %w: %w", len(b), err, ErrDamaged)
	}
	if r.Format != RecordFormat {
		return nil, fmt.Errorf("record %d has format %d, this build reads %d: %w", r.Number, r.Format, RecordFormat, ErrNewer)
	}
	if len(r.Keys) != len(r.Values) {
		return nil, fmt.Errorf("record %d has %d keys and %d values: %w", r.Number, len(r.Keys), len(r.Values), ErrDamaged)
	}
	return r, nil
}
