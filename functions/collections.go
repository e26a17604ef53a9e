package functions

import "github.com/kisflow/kisflow/kis"

// Functions that make of a map, a list or a set in a state what it is after a row.

func put(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	name := a[1].Text()
	b := make([]byte, 0, len(a[0].Text())+len(name)+32)
	b = append(b, '{')
	set := false
	add := func(quoted string, value []byte) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, quoted...), ':'), value...)
	}
	value := a[2].AppendJSON(nil)
	if a[0].Kind() == kis.Object {
		if !f.charge(at, len(a[0].Text())) {
			return kis.Value{}, false
		}
		for m := (members{text: a[0].Text()}); ; {
			quoted, text, more := m.next()
			if !more {
				break
			}
			if sameName(quoted, name) {
				add(quoted, value)
				set = true
				continue
			}
			add(quoted, []byte(text))
		}
	}
	if !set {
		add(string(a[1].AppendJSON(nil)), value)
	}
	return f.build(at, append(b, '}'))
}

func remove(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	switch a[0].Kind() {
	case kis.Null:
		return a[0], true
	case kis.Array:
		list, ok := f.list(at, a[0])
		if !ok {
			return kis.Value{}, false
		}
		kept := list[:0]
		for _, v := range list {
			is, ok := f.same(at, v, a[1])
			if !ok {
				return kis.Value{}, false
			}
			if !is {
				kept = append(kept, v)
			}
		}
		return f.array(at, kept)
	}
	if a[1].Kind() != kis.String {
		return f.mismatch(&site{at.column, at.name, nil}, "a field's name to remove from an object", a[1])
	}
	if !f.charge(at, len(a[0].Text())) {
		return kis.Value{}, false
	}
	b := []byte{'{'}
	for m := (members{text: a[0].Text()}); ; {
		quoted, text, more := m.next()
		if !more {
			return f.build(at, append(b, '}'))
		}
		if sameName(quoted, a[1].Text()) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, quoted...), ':'), text...)
	}
}

func appendTo(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	var list []kis.Value
	if a[0].Kind() == kis.Array {
		var ok bool
		if list, ok = f.list(at, a[0]); !ok {
			return kis.Value{}, false
		}
	}
	list = append(list, a[1])
	if len(a) > 2 {
		most := a[2].Int()
		if most < 0 {
			return f.fail(at, "append keeps 0 or more elements, not %d", most)
		}
		if int64(len(list)) > most {
			list = list[int64(len(list))-most:]
		}
	}
	return f.array(at, list)
}

func addTo(f *frame, at *site, a []kis.Value) (kis.Value, bool) {
	if a[0].Kind() == kis.Array {
		if !f.charge(at, len(a[0].Text())) {
			return kis.Value{}, false
		}
		for e := (elements{text: a[0].Text()}); ; {
			text, more := e.next()
			if !more {
				break
			}
			if !f.charge(at, stepCost) {
				return kis.Value{}, false
			}
			is, ok := f.same(at, decoded(text), a[1])
			if !ok {
				return kis.Value{}, false
			}
			if is {
				return a[0], true
			}
		}
	}
	return appendTo(f, at, a)
}
