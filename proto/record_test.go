package proto

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	gproto "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/golden anew")

// message is what the generated code gives every message.
type message interface {
	gproto.Message
	MarshalVT() ([]byte, error)
	SizeVT() int
	UnmarshalVT([]byte) error
	UnmarshalVTUnsafe([]byte) error
}

// full sets every field of a message, each to a value of its own that depends on the field alone: a field that
// is added later leaves the others' values as they are.
func full(m gproto.Message) { fill(m.ProtoReflect(), 0) }

func fill(m protoreflect.Message, salt uint64) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		n := 1 + (salt+uint64(f.Number())*31)%997
		if !f.IsList() {
			m.Set(f, value(f, n))
			continue
		}
		list := m.Mutable(f).List()
		for j := range uint64(2) {
			if f.Kind() == protoreflect.MessageKind {
				fill(list.AppendMutable().Message(), n*7+j)
			} else {
				list.Append(value(f, n+j))
			}
		}
	}
}

func value(f protoreflect.FieldDescriptor, n uint64) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("s" + strings.Repeat("é", int(n%5)) + string(rune('a'+n%26)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(n), 0, 0xff})
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n * 1_000_003))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(n * 1_000_000_007 * 1_000_003)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind:
		return protoreflect.ValueOfInt64(-int64(n * 1_000_000_007))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	}
	panic("a kind without a value: " + f.Kind().String())
}

func all() map[string]message {
	return map[string]message{
		"Record": new(Record), "Meta": new(Meta), "Envelope": new(Envelope), "DeadLetter": new(DeadLetter),
		"Pending": new(Pending), "Value": new(Value),
	}
}

// What the fast code writes, the reflecting code of the standard library reads, and the other way round.
func TestRoundTrip(t *testing.T) {
	for name, m := range all() {
		full(m)
		fast, err := m.MarshalVT()
		if err != nil || len(fast) != m.SizeVT() {
			t.Fatalf("%s: %d bytes of %d, %v", name, len(fast), m.SizeVT(), err)
		}
		slow, err := gproto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{fast, slow} {
			for _, read := range []struct {
				name string
				f    func(message) error
			}{
				{"UnmarshalVT", func(m message) error { return m.UnmarshalVT(b) }},
				{"UnmarshalVTUnsafe", func(m message) error { return m.UnmarshalVTUnsafe(b) }},
				{"proto.Unmarshal", func(m message) error { return gproto.Unmarshal(b, m) }},
			} {
				got := all()[name]
				if err := read.f(got); err != nil {
					t.Errorf("%s: %s: %v", name, read.name, err)
				} else if !gproto.Equal(got, m) {
					t.Errorf("%s: %s read %v, want %v", name, read.name, got, m)
				}
			}
		}
	}
}

// The bytes of the forms are for ever: what was written once reads the same, and is written the same.
func TestGolden(t *testing.T) {
	for name, m := range all() {
		full(m)
		file := filepath.Join("testdata", "golden", name+".hex")
		if *rewrite {
			var b []byte
			var err error
			if r, ok := m.(*Record); ok {
				r.Format = RecordFormat
				b = Seal(r)
			} else if b, err = m.MarshalVT(); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(lines(hex.EncodeToString(b))), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v (go test -rewrite writes it)", err)
		}
		golden, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		read := all()[name]
		if r, ok := read.(*Record); ok {
			opened, err := OpenRecord(bytes.Clone(golden))
			if err != nil {
				t.Fatalf("the golden record does not open: %v", err)
			}
			r.Reset()
			gproto.Merge(r, opened)
			m.(*Record).Format, m.(*Record).Hash = RecordFormat, opened.Hash
			if again := Seal(opened); !bytes.Equal(again, golden) {
				t.Errorf("%s is sealed as\n%x, for ever it is\n%x", name, again, golden)
			}
		} else {
			if err := read.UnmarshalVT(golden); err != nil {
				t.Fatalf("%s: the golden bytes do not read: %v", name, err)
			}
			if again, err := read.MarshalVT(); err != nil || !bytes.Equal(again, golden) {
				t.Errorf("%s is written as\n%x, for ever it is\n%x", name, again, golden)
			}
		}
		unlike(t, name, read.ProtoReflect(), m.ProtoReflect())
	}
}

// unlike reports fields that read otherwise than they were written. A field that the golden bytes do not
// have is a newer one; a field that they have and the form has no more was taken away, and that is a mistake.
func unlike(t *testing.T, name string, got, want protoreflect.Message) {
	t.Helper()
	if u := got.GetUnknown(); len(u) > 0 {
		t.Errorf("%s: the golden bytes have fields that the form has lost: %x", name, u)
	}
	fields := got.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		where := name + "." + string(f.Name())
		switch {
		case !got.Has(f):
			t.Logf("%s is newer than the golden bytes", where)
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			g, w := got.Get(f).List(), want.Get(f).List()
			if g.Len() != w.Len() {
				t.Errorf("%s has %d elements, want %d", where, g.Len(), w.Len())
				continue
			}
			for j := range g.Len() {
				unlike(t, where, g.Get(j).Message(), w.Get(j).Message())
			}
		case !got.Get(f).Equal(want.Get(f)):
			t.Errorf("%s reads as %v, want %v", where, got.Get(f), want.Get(f))
		}
	}
}

func lines(s string) string {
	var b strings.Builder
	for len(s) > 96 {
		b.WriteString(s[:96] + "\n")
		s = s[96:]
	}
	return b.String() + s + "\n"
}

func sealed(t testing.TB) (*Record, []byte) {
	t.Helper()
	r := new(Record)
	full(r)
	r.Format = 0
	b := Seal(r)
	if r.Format != RecordFormat || r.Hash == 0 || r.Hash != SealedHash(b) {
		t.Fatalf("sealed with format %d and hash %x, at the end stands %x", r.Format, r.Hash, SealedHash(b))
	}
	return r, b
}

func TestSealAndOpen(t *testing.T) {
	r, b := sealed(t)
	got, err := OpenRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if !gproto.Equal(got, r) {
		t.Errorf("opened %v, want %v", got, r)
	}
	if again := Seal(got); !bytes.Equal(again, b) {
		t.Errorf("sealed again:\n%x, want\n%x", again, b)
	}
	empty := Seal(new(Record))
	if got, err := OpenRecord(empty); err != nil || got.Number != 0 {
		t.Errorf("an empty record opens as %v, %v", got, err)
	}
	if SealedHash(nil) != 0 || SealedHash([]byte("no record at all")) != 0 {
		t.Error("bytes that are no record have a hash")
	}
}

func TestOpenFindsDamage(t *testing.T) {
	_, b := sealed(t)
	damaged := func(what string, b []byte) {
		t.Helper()
		if r, err := OpenRecord(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v; want ErrDamaged", what, r, err)
		}
	}
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		damaged("one bit flipped", c)
	}
	for n := range b {
		damaged("cut at the end", b[:n])
		damaged("cut at the beginning", b[n+1:])
	}
	damaged("with a byte more", append(bytes.Clone(b), 0))
	damaged("twice", append(bytes.Clone(b), b...))
	zeroed := bytes.Clone(b)
	clear(zeroed[len(b)/2:])
	damaged("half of it zero", zeroed)
	odd := Seal(&Record{Keys: [][]byte{{1}, {2}}, Values: [][]byte{{1}}})
	damaged("a key without a value", odd)
}

func TestOpenRefusesNewerFormats(t *testing.T) {
	if _, err := OpenRecord(Seal(&Record{Format: RecordFormat + 1})); !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) {
		t.Errorf("a record of the next format: %v; want ErrNewer", err)
	}
}

func TestReadersSkipWhatTheyDoNotKnow(t *testing.T) {
	r := &Record{Number: 7}
	b, err := r.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0x82, 0x7d, 3, 'n', 'e', 'w') // field 2000, three bytes
	got := new(Record)
	if err := got.UnmarshalVTUnsafe(b); err != nil || got.Number != 7 {
		t.Errorf("read %v, %v", got, err)
	}
}

func TestValue(t *testing.T) {
	prefix := []byte("before")
	v := &Value{State: []byte(`{"count":1}`), Revision: 3, Sequence: 1 << 40, Time: -5}
	b := AppendValue(bytes.Clone(prefix), v)
	if !bytes.HasPrefix(b, prefix) {
		t.Fatalf("what stood there is %q now", b)
	}
	got := &Value{State: []byte("old"), Revision: 9, Sequence: 9, Time: 9}
	if err := ParseValue(b[len(prefix):], got); err != nil || !gproto.Equal(got, v) {
		t.Errorf("parsed %v, %v; want %v", got, err, v)
	}
	// Nothing of an earlier value stays, whatever is not in the next one.
	if err := ParseValue(nil, got); err != nil || !gproto.Equal(got, new(Value)) {
		t.Errorf("parsed %v, %v; want the zero value", got, err)
	}
	if err := ParseValue([]byte{0x0a, 0x7f, 1}, got); err == nil {
		t.Error("a state that is cut off parses")
	}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = AppendValue(buf[:0], v) }); n != 0 {
		t.Errorf("AppendValue into a buffer with room allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = ParseValue(buf, got) }); n != 0 {
		t.Errorf("ParseValue allocates %v times", n)
	}
}

// Whatever the bytes are: no panic, no more memory than the bytes can pay for, and the copying reader and
// the one that points into its input read the same.
func FuzzDecode(f *testing.F) {
	for _, m := range all() {
		full(m)
		b, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	_, b := sealed(f)
	f.Add(b)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})                               // a length beyond the end
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}) // one that overflows
	f.Add(bytes.Repeat([]byte{0x0b}, 1000))                                         // groups in groups
	f.Add(bytes.Repeat([]byte{0x3a, 0}, 1000))                                      // many empty messages
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, m := range all() {
			err := m.UnmarshalVT(b)
			other := all()[name]
			errUnsafe := other.UnmarshalVTUnsafe(bytes.Clone(b))
			if (err == nil) != (errUnsafe == nil) {
				t.Fatalf("%s: UnmarshalVT says %v, UnmarshalVTUnsafe %v", name, err, errUnsafe)
			}
			if err != nil {
				continue
			}
			one, err1 := m.MarshalVT()
			two, err2 := other.MarshalVT()
			if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
				t.Fatalf("%s: read as %x (%v) and %x (%v)", name, one, err1, two, err2)
			}
		}
		if r, err := OpenRecord(bytes.Clone(b)); err == nil && r.Hash != SealedHash(b) {
			t.Fatalf("opened a record with hash %x, sealed with %x", r.Hash, SealedHash(b))
		}
	})
}

func TestDecodingIsBounded(t *testing.T) {
	for name, hostile := range map[string][]byte{
		"many empty messages": bytes.Repeat([]byte{0x3a, 0}, 1<<18),
		"many empty fields":   bytes.Repeat([]byte{0x42, 0}, 1<<18),
		"groups in groups":    bytes.Repeat([]byte{0x0b}, 1<<18),
		"a length of 2 GiB":   {0x42, 0xff, 0xff, 0xff, 0xff, 0x07},
	} {
		var r Record
		allocated := allocatedBy(func() { _ = r.UnmarshalVTUnsafe(hostile) })
		if limit := uint64(200*len(hostile) + 4096); allocated > limit {
			t.Errorf("%s: %d bytes made %d bytes of memory; at most %d", name, len(hostile), allocated, limit)
		}
	}
}

// allocatedBy is the memory that f takes, what it frees again included.
func allocatedBy(f func()) uint64 {
	var before, behind runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&behind)
	return behind.TotalAlloc - before.TotalAlloc
}

func benchmarkRecord(n int) *Record {
	rnd := rand.New(rand.NewPCG(1, 2))
	r := &Record{Epoch: 3, Number: 8412, Revision: 2, Time: 1_760_000_000_000_000_000, Rows: uint64(n),
		Positions: []*Position{{Input: "KIS_IN_orders", Created: 1_760_000_000_000_000_000, Sequence: 123456}}}
	out := &Outputs{Target: "totals", First: 100, Subjects: []string{"totals.user"}}
	for range n {
		key := binary.BigEndian.AppendUint64(nil, rnd.Uint64())
		r.Keys = append(r.Keys, key)
		r.Values = append(r.Values, bytes.Repeat([]byte("v"), 60))
		out.Payloads = append(out.Payloads, bytes.Repeat([]byte("o"), 60))
	}
	r.Outputs = []*Outputs{out}
	return r
}

func BenchmarkSeal(b *testing.B) {
	r := benchmarkRecord(512)
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(Seal(r))))
	}
}

func BenchmarkOpenRecord(b *testing.B) {
	s := Seal(benchmarkRecord(512))
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenRecord(s); err != nil {
			b.Fatal(err)
		}
	}
}
