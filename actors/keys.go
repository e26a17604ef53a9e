package actors

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// The keys of a partition's store. The first byte is the kind; for what belongs to a function instance the
// slot follows, so that a range of slots is a range of keys.
const (
	metaKey     = 'm' // proto.Meta
	stateKind   = 's' // slot step key -> proto.Value
	pendingKind = 'p' // slot step key number -> proto.Pending
	deadKind    = 'd' // commit ordinal -> proto.DeadLetter
	timerKind   = 't' // domain step time slot key -> 1: which timers are due next; all of it stands in the values, too
)

// appendInstanceKey appends the store's key of a function instance.
func appendInstanceKey(dst []byte, kind byte, slot uint16, step string, key []byte) []byte {
	dst = append(dst, kind, byte(slot>>8), byte(slot))
	dst = binary.AppendUvarint(dst, uint64(len(step)))
	dst = append(dst, step...)
	return append(dst, key...)
}

// parseInstanceKey is its inverse; the key still holds what was appended to it.
func parseInstanceKey(b []byte) (step string, key []byte, err error) {
	if len(b) < 4 {
		return "", nil, errors.New("instance key too short")
	}
	n, w := binary.Uvarint(b[3:])
	if w <= 0 || n > uint64(len(b)-3-w) {
		return "", nil, errors.New("instance key damaged")
	}
	b = b[3+w:]
	return string(b[:n]), b[n:], nil
}

// parsePendingKey takes the store's key of a waiting row apart: the step, the key, and the row's number.
func parsePendingKey(b []byte) (step string, key []byte, number uint64, err error) {
	step, rest, err := parseInstanceKey(b)
	if err == nil && len(rest) < 8 {
		err = errors.New("key of a waiting row damaged")
	}
	if err != nil {
		return "", nil, 0, err
	}
	n := len(rest) - 8
	return step, rest[:n], binary.BigEndian.Uint64(rest[n:]), nil
}

func appendDeadKey(dst []byte, commit uint64, ordinal uint32) []byte {
	dst = append(dst, deadKind)
	dst = binary.BigEndian.AppendUint64(dst, commit)
	return binary.BigEndian.AppendUint32(dst, ordinal)
}

// deadID is how people and the API name a dead letter: stage.partition.commit.ordinal; and a row that is parked at
// its step: stage.partition.parked.place.
func deadID(stage string, number int, generation uint64, key []byte) string {
	id := Token(stage) + "." + numbered(number, generation) + "."
	if key[0] == pendingKind {
		return id + "parked." + base64.RawURLEncoding.EncodeToString(key[1:])
	}
	return id + strconv.FormatUint(binary.BigEndian.Uint64(key[1:]), 10) + "." +
		strconv.FormatUint(uint64(binary.BigEndian.Uint32(key[9:])), 10)
}

// parseDeadID is its inverse: the partition, with its stage as a token, and the store's key.
func parseDeadID(id string) (at PartitionID, key []byte, err error) {
	parts := strings.Split(id, ".")
	bad := errors.New("dead letter id " + strconv.Quote(id) + ": want stage.partition.commit.ordinal")
	if len(parts) != 4 {
		return at, nil, bad
	}
	at.Stage = parts[0]
	var ok bool
	if at.Number, at.Generation, ok = parseNumbered(parts[1]); !ok || at.Number < 0 {
		return at, nil, bad
	}
	if parts[2] == "parked" {
		b, err := base64.RawURLEncoding.DecodeString(parts[3])
		key = append([]byte{pendingKind}, b...)
		if _, _, _, perr := parsePendingKey(key); err != nil || perr != nil {
			return at, nil, bad
		}
		return at, key, nil
	}
	commit, err1 := strconv.ParseUint(parts[2], 10, 64)
	ordinal, err2 := strconv.ParseUint(parts[3], 10, 32)
	if err1 != nil || err2 != nil {
		return at, nil, bad
	}
	return at, appendDeadKey(nil, commit, uint32(ordinal)), nil
}

// slotOf is the slot of a key's canonical bytes.
func slotOf(canonical []byte) uint16 { return kis.SlotOfBytes(canonical) }
