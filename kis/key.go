package kis

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// Slots is into how many slots keys fall. It is part of every layout on disk and never changes.
const Slots = 4096

// MaxKeyBytes is the most canonical bytes that a key may have.
const MaxKeyBytes = 4096

// Key is the values of a function's must fields: it routes a row and names its state. The zero Key is the
// key of a step that has no must fields.
//
// Its canonical bytes are the same on every machine and in every version: per field, in declared order, a
// tag and the value. Tags: 'i' and 8 bytes, big endian with the sign bit turned over, an integer; 'd' and
// 8 bytes, big endian, the bits of a float that is no integer of 64 bits; 's', the length as a varint, and
// the UTF-8 bytes of a string; 't' true; 'f' false.
type Key struct {
	names     []string
	canonical string
}

// KeyError says why a row has no key.
type KeyError struct {
	Field   string // the must field
	Problem string // what is wrong with it
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("key field %s %s", quoteShort(e.Field), e.Problem)
}

// KeyOf takes the key out of a row. A float that is exactly an integer is that integer, so 1.0 and 1 are the
// same key. The key keeps must. The error is a *KeyError: a field is missing, null, an array, an object, or a
// number that fits neither an Int nor a Float.
func KeyOf(row *Row, must []string) (Key, error) {
	if len(must) == 0 {
		return Key{}, nil
	}
	var room [128]byte
	b, err := AppendKey(room[:0], row, must)
	if err != nil {
		return Key{}, err
	}
	return Key{must, string(b)}, nil
}

// AppendKey appends the canonical bytes of a row's key, as KeyOf does, without the Key.
func AppendKey(dst []byte, row *Row, must []string) ([]byte, error) {
	start := len(dst)
	for _, name := range must {
		v, ok := row.Get(name)
		if !ok {
			return dst[:start], &KeyError{name, "is missing"}
		}
		var err error
		if dst, err = appendKeyValue(dst, name, v); err != nil {
			return dst[:start], err
		}
		if len(dst)-start > MaxKeyBytes {
			return dst[:start], &KeyError{name, fmt.Sprintf("makes the key longer than %d bytes", MaxKeyBytes)}
		}
	}
	return dst, nil
}

func appendKeyValue(dst []byte, name string, v Value) ([]byte, error) {
	switch v.kind {
	case Bool:
		if v.bits != 0 {
			return append(dst, 't'), nil
		}
		return append(dst, 'f'), nil
	case Int:
		return appendKeyInt(dst, int64(v.bits)), nil
	case Float:
		f := math.Float64frombits(v.bits)
		if i, ok := exactInt(f); ok {
			return appendKeyInt(dst, i), nil
		}
		return binary.BigEndian.AppendUint64(append(dst, 'd'), v.bits), nil
	case String:
		if len(v.text) > MaxKeyBytes {
			return dst, &KeyError{name, fmt.Sprintf("is longer than %d bytes", MaxKeyBytes)}
		}
		dst = binary.AppendUvarint(append(dst, 's'), uint64(len(v.text)))
		return append(dst, v.text...), nil
	}
	return dst, &KeyError{name, "is " + v.kind.String() + "; it must be a string, an integer, a float or a boolean"}
}

func appendKeyInt(dst []byte, i int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 'i'), uint64(i)^1<<63)
}

// exactInt returns the integer that a float is, if it is one of 64 bits.
func exactInt(f float64) (int64, bool) {
	if f != math.Trunc(f) || f < -1<<63 || f >= 1<<63 {
		return 0, false
	}
	return int64(f), true
}

// KeyFromValues makes the key of which values are the must fields' values. The error is a *KeyError, or says
// that there are too few or too many values.
func KeyFromValues(must []string, values []Value) (Key, error) {
	if len(values) != len(must) {
		return Key{}, fmt.Errorf("%d key values for the %d key fields %s", len(values), len(must), strings.Join(must, ", "))
	}
	if len(must) == 0 {
		return Key{}, nil
	}
	var b []byte
	var err error
	for i, v := range values {
		if b, err = appendKeyValue(b, must[i], v); err != nil {
			return Key{}, err
		}
	}
	if len(b) > MaxKeyBytes {
		return Key{}, &KeyError{must[len(must)-1], fmt.Sprintf("makes the key longer than %d bytes", MaxKeyBytes)}
	}
	return Key{must, string(b)}, nil
}

// TrustedKey makes a key from canonical bytes that AppendKey wrote for the same fields, without looking at them.
func TrustedKey(must []string, canonical string) Key { return Key{must, canonical} }

// KeyFromCanonical makes a key from its canonical bytes, which it checks.
func KeyFromCanonical(must []string, canonical string) (Key, error) {
	if len(canonical) > MaxKeyBytes {
		return Key{}, fmt.Errorf("canonical key of %d bytes; the most is %d", len(canonical), MaxKeyBytes)
	}
	rest := canonical
	for _, name := range must {
		var ok bool
		if _, rest, ok = cutKeyValue(rest); !ok {
			return Key{}, fmt.Errorf("canonical key %q: no value of field %q at offset %d", canonical, name, len(canonical)-len(rest))
		}
	}
	if rest != "" {
		return Key{}, fmt.Errorf("canonical key %q: %d bytes too many for the fields %s", canonical, len(rest), strings.Join(must, ", "))
	}
	if len(must) == 0 {
		return Key{}, nil
	}
	return Key{must, canonical}, nil
}

// cutKeyValue reads the first value of canonical bytes. It accepts only what appendKeyValue writes, so that
// a key has one canonical form.
func cutKeyValue(s string) (v Value, rest string, ok bool) {
	if s == "" {
		return v, s, false
	}
	switch s[0] {
	case 't', 'f':
		return BoolValue(s[0] == 't'), s[1:], true
	case 'i':
		if len(s) >= 9 {
			return IntValue(int64(bigEndian(s[1:9]) ^ 1<<63)), s[9:], true
		}
	case 'd':
		if len(s) >= 9 {
			f := math.Float64frombits(bigEndian(s[1:9]))
			if _, exact := exactInt(f); exact || math.IsNaN(f) || math.IsInf(f, 0) {
				return v, s, false
			}
			return FloatValue(f), s[9:], true
		}
	case 's':
		n, size := uint64(0), 0
		for size < 3 && 1+size < len(s) { // MaxKeyBytes takes two bytes
			c := s[1+size]
			n |= uint64(c&0x7f) << (7 * size)
			if size++; c < 0x80 {
				if size > 1 && c == 0 || n > uint64(len(s)-1-size) {
					return v, s, false
				}
				text := s[1+size : 1+size+int(n)]
				if !utf8.ValidString(text) {
					return v, s, false
				}
				return StringValue(text), s[1+size+int(n):], true
			}
		}
	}
	return v, s, false
}

func bigEndian(s string) (n uint64) {
	for i := range len(s) {
		n = n<<8 | uint64(s[i])
	}
	return n
}

// ParseKey reads a key as people write it: one assignment a field, in any order, as in userid=1 name=bob. A
// value that is a number, true, false or a quoted string in JSON is that; any other is a string as it stands.
func ParseKey(must []string, assignments []string) (Key, error) {
	values := make([]Value, len(must))
	given := make([]bool, len(must))
	for _, a := range assignments {
		name, text, ok := strings.Cut(a, "=")
		if !ok {
			return Key{}, fmt.Errorf("key field %q has no value; write FIELD=VALUE", a)
		}
		at := -1
		for i := range must { // a name may hold an '=' itself
			if strings.HasPrefix(a, must[i]) && strings.HasPrefix(a[len(must[i]):], "=") && (at < 0 || len(must[i]) > len(name)) {
				at, name, text = i, must[i], a[len(must[i])+1:]
			}
		}
		if at < 0 {
			return Key{}, fmt.Errorf("unknown key field %q; the key is %s", name, strings.Join(must, ", "))
		}
		if given[at] {
			return Key{}, fmt.Errorf("key field %q comes twice", name)
		}
		given[at] = true
		values[at] = StringValue(text)
		if v, err := JSONValue(text); err == nil {
			switch v.kind {
			case Bool, Int, Float, Number, String:
				values[at] = v
			}
		}
	}
	for i := range must {
		if !given[i] {
			return Key{}, &KeyError{must[i], "is missing"}
		}
	}
	return KeyFromValues(must, values)
}

// Canonical is the key's canonical bytes; "" for the zero Key.
func (k Key) Canonical() string { return k.canonical }

// Fields are the must fields with their values, in declared order.
func (k Key) Fields() []Field {
	if len(k.names) == 0 {
		return nil
	}
	fields := make([]Field, 0, len(k.names))
	rest := k.canonical
	for _, name := range k.names {
		v, r, ok := cutKeyValue(rest)
		if !ok {
			break // not from one of our makers
		}
		fields = append(fields, Field{name, v})
		rest = r
	}
	return fields
}

// AppendJSON appends the key as a JSON object: {"userid":1}.
func (k Key) AppendJSON(dst []byte) []byte {
	r := Row{fields: k.Fields()}
	return r.AppendJSON(dst)
}

// String returns the key for people, as ParseKey reads it: userid=1 name=bob. A string that would be read as
// something else, or that has white space, quotes or nothing in it, stands in JSON's quotes.
func (k Key) String() string {
	var b []byte
	for i, f := range k.Fields() {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, f.Name...)
		b = append(b, '=')
		if f.Value.kind == String && bare(f.Value.text) {
			b = append(b, f.Value.text...)
		} else {
			b = f.Value.AppendJSON(b)
		}
	}
	return string(b)
}

// bare says whether a string can stand without quotes.
func bare(s string) bool {
	if s == "" || strings.ContainsAny(s, " \t\r\n\"'\\") || !isPlain(s) {
		return false
	}
	_, err := JSONValue(s)
	return err != nil
}

// Slot is the slot that the key falls into: the upper 12 bits of the XXH64 hash of its canonical bytes.
func (k Key) Slot() uint16 { return SlotOf(k.canonical) }

// SlotOf is Slot for canonical bytes.
func SlotOf(canonical string) uint16 { return uint16(xxhash.Sum64String(canonical) >> 52) }

// SlotOfBytes is SlotOf without a string.
func SlotOfBytes(canonical []byte) uint16 { return uint16(xxhash.Sum64(canonical) >> 52) }
