package functions

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/kisflow/kisflow/kis"
)

// Aggregates that keep more than a value: sets, rankings, sketches.

// identity appends what tells a value from others: a float that is an integer is that integer.
func identity(dst []byte, v kis.Value) []byte {
	if x := v.Float(); v.Kind() == kis.Float && x == math.Trunc(x) && x >= -1<<63 && x < 1<<63 {
		return strconv.AppendInt(dst, int64(x), 10)
	} else if v.Kind() == kis.Float {
		return kis.FloatValue(x).AppendJSON(dst)
	}
	return v.AppendJSON(dst)
}

// distinct keeps the values themselves.
type distinct struct{}

// valueSet is values as JSON, in the order in which they came.
type valueSet struct {
	texts []string
	index map[string]bool // of sets above a few
	bytes int
}

const indexFrom = 16 // values from which on a set has an index

func (s *valueSet) has(text []byte) bool {
	if s == nil {
		return false
	}
	if s.index != nil {
		return s.index[string(text)]
	}
	for _, t := range s.texts {
		if t == string(text) {
			return true
		}
	}
	return false
}

func (s *valueSet) add(text string) {
	s.texts = append(s.texts, text)
	s.bytes += len(text) + 1
	switch {
	case s.index != nil:
		s.index[text] = true
	case len(s.texts) >= indexFrom:
		s.index = make(map[string]bool, 2*len(s.texts))
		for _, t := range s.texts {
			s.index[t] = true
		}
	}
}

func (distinct) full(f *frame, at *site) bool {
	f.fail(at, "there are more than %d different values; distinct_about estimates any number of them", MaxDistinct)
	return false
}

func (k distinct) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if !(scalars &^ isNumber).has(args[0].Kind()) {
		f.mismatch(at, "a text, a number, true or false", args[0])
		return a, false
	}
	if s, _ := a.more.(*valueSet); s != nil && len(s.texts) >= MaxDistinct {
		var room [64]byte
		if !s.has(identity(room[:0], args[0])) {
			return a, k.full(f, at)
		}
	}
	return a, true
}

func (distinct) commit(a *acc, args []kis.Value, _ int64) {
	var room [64]byte
	text := identity(room[:0], args[0])
	s, _ := a.more.(*valueSet)
	if s == nil {
		s = &valueSet{}
		a.more = s
	}
	if !s.has(text) {
		s.add(string(text))
	}
}

func (k distinct) merge(f *frame, at *site, into, from *acc) bool {
	theirs, _ := from.more.(*valueSet)
	if theirs == nil {
		return true
	}
	all := &valueSet{}
	if mine, _ := into.more.(*valueSet); mine != nil {
		for _, t := range mine.texts {
			all.add(t)
		}
	}
	for _, t := range theirs.texts {
		if !all.has([]byte(t)) {
			all.add(t)
		}
	}
	if len(all.texts) > MaxDistinct {
		return k.full(f, at)
	}
	into.more = all
	return true
}

func (distinct) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) {
	if s, _ := a.more.(*valueSet); s != nil {
		return kis.IntValue(int64(len(s.texts))), true
	}
	return kis.IntValue(0), true
}

func (distinct) encode(dst []byte, a *acc) []byte {
	dst = append(dst, '[')
	if s, _ := a.more.(*valueSet); s != nil {
		for i, t := range s.texts {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, t...)
		}
	}
	return append(dst, ']')
}

func (distinct) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Array {
		return notDecoded("distinct values", v)
	}
	s := &valueSet{}
	for e := (elements{text: v.Text()}); ; {
		t, more := e.next()
		if !more {
			return acc{more: s}, nil
		}
		if text := identity(nil, decoded(t)); !s.has(text) {
			s.add(string(text))
		}
	}
}

// distinctAbout is a HyperLogLog with 4,096 registers: a standard error of 1.04/sqrt(4096), 1.6 %. Few values are
// kept as their hashes, and counted exactly. The estimator is that of O. Ertl, "New cardinality estimation
// algorithms for HyperLogLog sketches" (2017), algorithm 6: without bias at any number, and without tables.
type distinctAbout struct{}

const (
	hllBits      = 12
	hllRegisters = 1 << hllBits
	hllExact     = 100 // values up to which the hashes are kept
	hllLetters   = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

// hll is hashes in order, or registers.
type hll struct {
	hashes    []uint64
	registers []uint8
}

func (h *hll) add(hash uint64) {
	if h.registers == nil {
		i, there := slices.BinarySearch(h.hashes, hash)
		if there {
			return
		}
		if len(h.hashes) < hllExact {
			h.hashes = slices.Insert(h.hashes, i, hash)
			return
		}
		h.dense()
	}
	h.count(hash)
}

func (h *hll) dense() {
	h.registers = make([]uint8, hllRegisters)
	for _, old := range h.hashes {
		h.count(old)
	}
	h.hashes = nil
}

func (h *hll) count(hash uint64) {
	place, rank := hash>>(64-hllBits), uint8(1)
	for rest := hash << hllBits; rest>>63 == 0 && rank <= 64-hllBits; rest <<= 1 {
		rank++
	}
	h.registers[place] = max(h.registers[place], rank)
}

func (h *hll) estimate() int64 {
	if h.registers == nil {
		return int64(len(h.hashes))
	}
	const q = 64 - hllBits
	var of [q + 2]float64 // how many registers have a value
	for _, r := range h.registers {
		of[r]++
	}
	const m = float64(hllRegisters)
	z := m * hllTau(1-of[q+1]/m)
	for k := q; k >= 1; k-- {
		z = 0.5 * (z + of[k])
	}
	z += m * hllSigma(of[0]/m)
	return int64(math.Round(m / (2 * math.Ln2) * m / z))
}

func hllSigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for before := -1.0; z != before; y += y {
		x *= x
		before = z
		z += x * y
	}
	return z
}

func hllTau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for before := -1.0; z != before; {
		x = math.Sqrt(x)
		before = z
		y *= 0.5
		z -= (1 - x) * (1 - x) * y
	}
	return z / 3
}

func (distinctAbout) next(f *frame, at *site, a acc, args []kis.Value, t int64) (acc, bool) {
	if !(scalars &^ isNumber).has(args[0].Kind()) {
		f.mismatch(at, "a text, a number, true or false", args[0])
		return a, false
	}
	return a, true
}

func (distinctAbout) commit(a *acc, args []kis.Value, _ int64) {
	h, _ := a.more.(*hll)
	if h == nil {
		h = &hll{}
		a.more = h
	}
	var room [64]byte
	h.add(xxhash.Sum64(identity(room[:0], args[0])))
}

func (distinctAbout) merge(_ *frame, _ *site, into, from *acc) bool {
	theirs, _ := from.more.(*hll)
	if theirs == nil {
		return true
	}
	all := &hll{}
	if mine, _ := into.more.(*hll); mine != nil {
		all.hashes, all.registers = slices.Clone(mine.hashes), slices.Clone(mine.registers)
	}
	for _, hash := range theirs.hashes {
		all.add(hash)
	}
	if theirs.registers != nil {
		if all.registers == nil {
			all.dense()
		}
		for i, r := range theirs.registers {
			all.registers[i] = max(all.registers[i], r)
		}
	}
	into.more = all
	return true
}

func (distinctAbout) result(_ *frame, _ *site, a *acc, _ int64) (kis.Value, bool) {
	if h, _ := a.more.(*hll); h != nil {
		return kis.IntValue(h.estimate()), true
	}
	return kis.IntValue(0), true
}

// encode writes hashes as 16 hexadecimal digits each, registers as one letter each.
func (distinctAbout) encode(dst []byte, a *acc) []byte {
	h, _ := a.more.(*hll)
	switch {
	case h == nil:
		return append(dst, `""`...)
	case h.registers == nil:
		dst = append(dst, '"')
		for _, hash := range h.hashes {
			dst = fmt.Appendf(dst, "%016x", hash)
		}
		return append(dst, '"')
	}
	dst = append(dst, `"#`...)
	for _, r := range h.registers {
		dst = append(dst, hllLetters[r])
	}
	return append(dst, '"')
}

func (distinctAbout) decode(v kis.Value) (acc, error) {
	text := v.Text()
	switch {
	case v.Kind() != kis.String:
		return notDecoded("a sketch", v)
	case text == "":
		return acc{}, nil
	case text[0] == '#' && len(text) == 1+hllRegisters:
		h := &hll{registers: make([]uint8, hllRegisters)}
		for i := range h.registers {
			r := letterPlace(text[1+i])
			if r < 0 || r > 64-hllBits+1 {
				return notDecoded("a sketch", v)
			}
			h.registers[i] = uint8(r)
		}
		return acc{more: h}, nil
	case len(text)%16 == 0:
		h := &hll{}
		for ; text != ""; text = text[16:] {
			hash, err := strconv.ParseUint(text[:16], 16, 64)
			if err != nil {
				return notDecoded("a sketch", v)
			}
			h.add(hash)
		}
		return acc{more: h}, nil
	}
	return notDecoded("a sketch", v)
}

func letterPlace(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

// percentile is a DDSketch (C. Masson, J. Rim, H. Lee, "DDSketch", 2019): counts of values in buckets whose bounds
// grow by a factor, so that a bucket's middle is within 1 % of all that is in it.
type percentile struct{ share float64 }

const (
	sketchError   = 0.01
	sketchBuckets = 2048 // on each side of zero; beyond, those nearest to zero are thrown together
)

var (
	sketchGrowth = (1 + sketchError) / (1 - sketchError)
	sketchLog    = math.Log(sketchGrowth)
)

type bucketCount struct {
	place int32
	n     int64
}

type sketch struct {
	below, above []bucketCount // of negative and of positive values, by place
	zero         int64
	least, most  float64
}

func count1(list []bucketCount, place int32, n int64) []bucketCount {
	i, there := slices.BinarySearchFunc(list, place, func(b bucketCount, p int32) int { return int(b.place) - int(p) })
	if there {
		list[i].n += n
		return list
	}
	list = slices.Insert(list, i, bucketCount{place, n})
	if len(list) > sketchBuckets {
		list[1].n += list[0].n
		list = slices.Delete(list, 0, 1)
	}
	return list
}

func (s *sketch) total() int64 {
	n := s.zero
	for _, b := range s.below {
		n += b.n
	}
	for _, b := range s.above {
		n += b.n
	}
	return n
}

func (s *sketch) add(x float64) {
	if s.total0() {
		s.least, s.most = x, x
	}
	s.least, s.most = min(s.least, x), max(s.most, x)
	switch abs := math.Abs(x); {
	case abs < 1e-300:
		s.zero++
	case x < 0:
		s.below = count1(s.below, sketchPlace(abs), 1)
	default:
		s.above = count1(s.above, sketchPlace(abs), 1)
	}
}

// total0 says whether the sketch is empty.
func (s *sketch) total0() bool { return s.zero == 0 && len(s.below) == 0 && len(s.above) == 0 }

func sketchPlace(abs float64) int32 { return int32(math.Ceil(math.Log(abs) / sketchLog)) }

func sketchValue(place int32) float64 {
	return 2 / (sketchGrowth + 1) * math.Exp(float64(place)*sketchLog)
}

func (s *sketch) at(share float64) float64 {
	rank := int64(math.Floor(share * float64(s.total()-1)))
	x := s.most
	found := false
	for i := len(s.below) - 1; i >= 0 && !found; i-- {
		if rank -= s.below[i].n; rank < 0 {
			x, found = -sketchValue(s.below[i].place), true
		}
	}
	if !found {
		if rank -= s.zero; rank < 0 {
			x, found = 0, true
		}
	}
	for i := 0; i < len(s.above) && !found; i++ {
		if rank -= s.above[i].n; rank < 0 {
			x, found = sketchValue(s.above[i].place), true
		}
	}
	return min(max(x, s.least), s.most)
}

func (percentile) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if !numbers.has(args[0].Kind()) {
		f.mismatch(at, "a number", args[0])
		return a, false
	}
	return a, true
}

func (percentile) commit(a *acc, args []kis.Value, _ int64) {
	s, _ := a.more.(*sketch)
	if s == nil {
		s = &sketch{}
		a.more = s
	}
	s.add(args[0].Float())
}

func (percentile) merge(_ *frame, _ *site, into, from *acc) bool {
	theirs, _ := from.more.(*sketch)
	if theirs == nil || theirs.total0() {
		return true
	}
	mine, _ := into.more.(*sketch)
	if mine == nil || mine.total0() {
		mine = &sketch{least: theirs.least, most: theirs.most}
	}
	all := &sketch{below: slices.Clone(mine.below), above: slices.Clone(mine.above), zero: mine.zero + theirs.zero,
		least: min(mine.least, theirs.least), most: max(mine.most, theirs.most)}
	for _, b := range theirs.below {
		all.below = count1(all.below, b.place, b.n)
	}
	for _, b := range theirs.above {
		all.above = count1(all.above, b.place, b.n)
	}
	into.more = all
	return true
}

func (k percentile) result(f *frame, at *site, a *acc, _ int64) (kis.Value, bool) {
	s, _ := a.more.(*sketch)
	if s == nil || s.total0() {
		return kis.Value{}, true
	}
	return f.float(at, s.at(k.share))
}

func (percentile) encode(dst []byte, a *acc) []byte {
	s, _ := a.more.(*sketch)
	if s == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, `{"min":`...)
	dst = append(kis.FloatValue(s.least).AppendJSON(dst), `,"max":`...)
	dst = append(kis.FloatValue(s.most).AppendJSON(dst), `,"zero":`...)
	dst = strconv.AppendInt(dst, s.zero, 10)
	for _, side := range []struct {
		name string
		list []bucketCount
	}{{"below", s.below}, {"above", s.above}} {
		dst = append(append(append(dst, `,"`...), side.name...), `":[`...)
		for i, b := range side.list {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(strconv.AppendInt(dst, int64(b.place), 10), ',')
			dst = strconv.AppendInt(dst, b.n, 10)
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func (percentile) decode(v kis.Value) (acc, error) {
	if v.Kind() == kis.Null {
		return acc{}, nil
	}
	if v.Kind() != kis.Object {
		return notDecoded("a sketch", v)
	}
	s := &sketch{}
	for m := (members{text: v.Text()}); ; {
		name, text, more := m.next()
		if !more {
			return acc{more: s}, nil
		}
		value := decoded(text)
		switch name {
		case `"min"`:
			s.least = value.Float()
		case `"max"`:
			s.most = value.Float()
		case `"zero"`:
			s.zero = value.Int()
		case `"below"`, `"above"`:
			if value.Kind() != kis.Array {
				return notDecoded("a sketch", v)
			}
			var list []bucketCount
			for e := (elements{text: text}); ; {
				place, more := e.next()
				if !more {
					break
				}
				n, more := e.next()
				if !more {
					return notDecoded("a sketch", v)
				}
				list = append(list, bucketCount{int32(decoded(place).Int()), decoded(n).Int()})
			}
			if name == `"below"` {
				s.below = list
			} else {
				s.above = list
			}
		}
	}
}

// placed is one row of a ranking or a collection.
type placed struct {
	by, value kis.Value
	t         int64
}

// placedList is what best and collecting keep.
type placedList struct{ items []placed }

func (l *placedList) clone() *placedList {
	if l == nil {
		return &placedList{}
	}
	return &placedList{slices.Clone(l.items)}
}

// best keeps the k rows with the greatest by.
type best struct {
	k     int
	value bool // there is a value beside by
}

// before says whether x ranks before y, of rows that can be compared.
func (best) before(x, y placed) bool {
	order := 0
	if x.by.Kind() == kis.String {
		order = compareTexts(x.by.Text(), y.by.Text())
	} else {
		order = compareNumbers(x.by, y.by)
	}
	return order > 0 || order == 0 && x.t < y.t
}

func compareTexts(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (best) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if !(numbers | isString).has(args[0].Kind()) {
		f.mismatch(at, "a number or a text", args[0])
		return a, false
	}
	if l, _ := a.more.(*placedList); l != nil && len(l.items) > 0 {
		if _, ok := f.order(at, args[0], l.items[0].by); !ok {
			return a, false
		}
	}
	return a, true
}

func (k best) commit(a *acc, args []kis.Value, t int64) {
	l, _ := a.more.(*placedList)
	if l == nil {
		l = &placedList{}
		a.more = l
	}
	p := placed{by: args[0], t: t}
	if k.value {
		p.value = args[1]
	}
	i := k.place(l, p)
	if i >= k.k {
		return
	}
	p.by, p.value = owned(p.by), owned(p.value)
	k.insert(l, i, p)
}

// place is where a row belongs that was handled after all that are there.
func (k best) place(l *placedList, p placed) int {
	i := len(l.items)
	for i > 0 && k.before(p, l.items[i-1]) {
		i--
	}
	return i
}

func (k best) insert(l *placedList, i int, p placed) {
	if l.items = slices.Insert(l.items, i, p); len(l.items) > k.k {
		l.items[k.k] = placed{}
		l.items = l.items[:k.k]
	}
}

func (k best) merge(f *frame, at *site, into, from *acc) bool {
	theirs, _ := from.more.(*placedList)
	if theirs == nil {
		return true
	}
	mine, _ := into.more.(*placedList)
	all := mine.clone()
	for _, p := range theirs.items {
		if len(all.items) > 0 {
			if _, ok := f.order(at, p.by, all.items[0].by); !ok {
				return false
			}
		}
		if i := k.place(all, p); i < k.k {
			k.insert(all, i, p)
		}
	}
	into.more = all
	return true
}

func (k best) result(f *frame, at *site, a *acc, _ int64) (kis.Value, bool) {
	l, _ := a.more.(*placedList)
	if l == nil {
		return f.build(at, []byte("[]"))
	}
	b := make([]byte, 0, 24*len(l.items)+2)
	b = append(b, '[')
	for i, p := range l.items {
		if i > 0 {
			b = append(b, ',')
		}
		if k.value {
			b = p.value.AppendJSON(b)
		} else {
			b = p.by.AppendJSON(b)
		}
	}
	return f.build(at, append(b, ']'))
}

// encode writes [by, time, value, ...].
func (k best) encode(dst []byte, a *acc) []byte {
	l, _ := a.more.(*placedList)
	dst = append(dst, '[')
	if l != nil {
		for i, p := range l.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(p.by.AppendJSON(dst), ',')
			dst = strconv.AppendInt(dst, p.t, 10)
			if k.value {
				dst = p.value.AppendJSON(append(dst, ','))
			}
		}
	}
	return append(dst, ']')
}

func (k best) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Array {
		return notDecoded("a ranking", v)
	}
	l := &placedList{}
	for e := (elements{text: v.Text()}); ; {
		by, more := e.next()
		if !more {
			l.items = l.items[:min(len(l.items), k.k)]
			return acc{more: l}, nil
		}
		t, more := e.next()
		if !more || decoded(t).Kind() != kis.Int || !(numbers | isString).has(decoded(by).Kind()) {
			return notDecoded("a ranking", v)
		}
		p := placed{by: owned(decoded(by)), t: decoded(t).Int()}
		if k.value {
			value, more := e.next()
			if !more {
				return notDecoded("a ranking", v)
			}
			p.value = owned(decoded(value))
		}
		l.items = append(l.items, p)
	}
}

// collecting keeps the values of the newest rows.
type collecting struct{ most int }

func (collecting) next(_ *frame, _ *site, a acc, _ []kis.Value, _ int64) (acc, bool) { return a, true }

func (k collecting) commit(a *acc, args []kis.Value, t int64) {
	l, _ := a.more.(*placedList)
	if l == nil {
		l = &placedList{}
		a.more = l
	}
	k.insert(l, placed{value: args[0], t: t}, true)
}

func (k collecting) insert(l *placedList, p placed, own bool) {
	i := len(l.items)
	for i > 0 && l.items[i-1].t > p.t {
		i--
	}
	if i == 0 && len(l.items) == k.most {
		return // older than all that are kept
	}
	if own {
		p.value = owned(p.value)
	}
	if l.items = slices.Insert(l.items, i, p); len(l.items) > k.most {
		l.items = slices.Delete(l.items, 0, 1)
	}
}

func (k collecting) merge(_ *frame, _ *site, into, from *acc) bool {
	theirs, _ := from.more.(*placedList)
	if theirs == nil {
		return true
	}
	mine, _ := into.more.(*placedList)
	all := mine.clone()
	for _, p := range theirs.items {
		k.insert(all, p, false)
	}
	into.more = all
	return true
}

func (k collecting) result(f *frame, at *site, a *acc, _ int64) (kis.Value, bool) {
	return best{value: true}.result(f, at, a, 0)
}

// encode writes [time, value, ...].
func (collecting) encode(dst []byte, a *acc) []byte {
	l, _ := a.more.(*placedList)
	dst = append(dst, '[')
	if l != nil {
		for i, p := range l.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(strconv.AppendInt(dst, p.t, 10), ',')
			dst = p.value.AppendJSON(dst)
		}
	}
	return append(dst, ']')
}

func (k collecting) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Array {
		return notDecoded("a collection", v)
	}
	l := &placedList{}
	for e := (elements{text: v.Text()}); ; {
		t, more := e.next()
		if !more {
			return acc{more: l}, nil
		}
		value, more := e.next()
		if !more || decoded(t).Kind() != kis.Int {
			return notDecoded("a collection", v)
		}
		k.insert(l, placed{value: decoded(value), t: decoded(t).Int()}, true)
	}
}

// custom is an aggregate of expressions over self.
type custom struct {
	init, add, remove, result_ *program
	kept                       bool // the row is the object in the first argument
}

// customAggregate compiles {init, add, remove, result}.
func (b *builder) customAggregate(path string, body *CustomAggregate, see roots) (aggregate, bool) {
	before := len(b.mistakes)
	self := further{name: "self", at: 0, kinds: anyKind}
	alone := roots{without: map[string]string{}}
	for _, root := range rootNames {
		alone.without[root] = "cannot be used in init: there is no row yet"
	}
	k := custom{init: b.compile(path+".init", body.Init, alone)}
	rows := see.also(self)
	rows.meta, rows.without = false, map[string]string{"meta": "cannot be used in an aggregate of its own", "state": "cannot be used in an aggregate: what is gathered so far is self"}
	k.add = b.compile(path+".add", body.Add, rows)
	if body.Remove != "" {
		k.remove = b.compile(path+".remove", body.Remove, rows)
	}
	if body.Result != "" {
		end := rows
		end.row = false
		end.without = map[string]string{"row": "cannot be used in result: it is that of many rows", "meta": rows.without["meta"], "state": rows.without["state"]}
		k.result_ = b.compile(path+".result", body.Result, end)
	}
	return aggregate{kind: k, nulls: true, at: &site{1, "add", nil}}, len(b.mistakes) == before
}

// start is self before the first row.
func (k custom) start(f *frame, a acc) (kis.Value, bool) {
	if a.n > 0 {
		return a.value, true
	}
	return k.init.eval(f)
}

func (k custom) step(f *frame, p *program, self kis.Value, args []kis.Value) (kis.Value, bool) {
	if k.kept {
		row, err := kis.ParseRow([]byte(args[0].Text()))
		if err != nil {
			panic("functions: checked JSON is none: " + err.Error())
		}
		before := f.row
		f.row = row
		defer func() { f.row = before }()
	}
	before := f.values[0]
	f.values[0] = self
	v, ok := p.eval(f)
	f.values[0] = before
	return v, ok
}

func (k custom) next(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	self, ok := k.start(f, a)
	if !ok {
		return a, false
	}
	if self, ok = k.step(f, k.add, self, args); !ok {
		return a, false
	}
	a.value = self
	a.n++
	return a, true
}

func (custom) commit(a *acc, _ []kis.Value, _ int64) { a.value = owned(a.value) }

func (k custom) take(f *frame, at *site, a acc, args []kis.Value, _ int64) (acc, bool) {
	if k.remove == nil {
		return a, false
	}
	v, ok := k.step(f, k.remove, a.value, args)
	if ok {
		a.value = v
	}
	return a, ok
}

func (custom) merge(f *frame, at *site, _, _ *acc) bool {
	f.fail(at, "an aggregate of its own cannot be merged")
	return false
}

func (k custom) result(f *frame, _ *site, a *acc, _ int64) (kis.Value, bool) {
	self, ok := k.start(f, *a)
	if !ok || k.result_ == nil {
		return self, ok
	}
	return k.step(f, k.result_, self, []kis.Value{emptyObject})
}

var emptyObject = decoded("{}")

func (k custom) encode(dst []byte, a *acc) []byte {
	if a.n == 0 {
		return append(dst, "[]"...)
	}
	dst = append(dst, '[')
	dst = append(strconv.AppendInt(dst, a.n, 10), ',')
	return append(a.value.AppendJSON(dst), ']')
}

func (k custom) decode(v kis.Value) (acc, error) {
	if v.Kind() != kis.Array {
		return notDecoded("an aggregate of its own", v)
	}
	e := elements{text: v.Text()}
	n, more := e.next()
	if !more {
		return acc{}, nil
	}
	value, more := e.next()
	if !more || decoded(n).Kind() != kis.Int {
		return notDecoded("an aggregate of its own", v)
	}
	return acc{n: decoded(n).Int(), value: owned(decoded(value))}, nil
}
