package flowdef

import (
	"fmt"
	"strings"
)

// Fields are declared fields of rows: what an entry brings, or what a function needs or offers.
type Fields struct {
	List []FieldType // in the order of the file
	Open bool        // '*': any: there may be others
	Pos  Pos
}

// FieldType is the declared type of one field.
type FieldType struct {
	Name Text
	// Type is int, float, number (int or float), text, bool, array, object or any.
	Type string
	// Optional is written type?: the field may be missing or null.
	Optional bool
	// Inside are the declared fields of an object; nil where nothing is said of them.
	Inside *Fields
}

// fieldTypes are the types of fields, as a definition writes them.
var fieldTypes = []string{"int", "float", "number", "text", "bool", "array", "object", "any"}

// maxFieldDepth is how deep declared fields may lie in others.
const maxFieldDepth = 4

// fields returns a mapping of field names to types; nil if there is none.
func (o *object) fields(name string) *Fields {
	n := o.get(name)
	if n == nil {
		return nil
	}
	return o.d.fieldsOf(n, name, 1)
}

func (d *decoder) fieldsOf(n *node, name string, depth int) *Fields {
	if n.kind != mapNode {
		d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a mapping of field names to types", name, n.what()), fmt.Sprintf("write it like %s: {userid: int, note: text?}", name))
		return nil
	}
	if depth > maxFieldDepth {
		d.report(n.pos, codeLimit, fmt.Sprintf("%s lies more than %d levels deep", name, maxFieldDepth), "write object, which says nothing of what is in it")
		return nil
	}
	out := &Fields{Pos: n.pos}
	for _, f := range n.fields {
		if f.name == "" {
			d.report(f.key.pos, codeName, name+" holds a field without a name", "")
			continue
		}
		if f.name == "*" {
			if t := d.scalar(f.val, name+".*"); f.val.kind == scalarNode && t.Value != "any" {
				d.report(f.val.pos, codeValue, fmt.Sprintf("%s.* is %s; it must be any", name, quote(t.Value)), "'*': any says that there may be other fields")
			}
			out.Open = true
			continue
		}
		field := FieldType{Name: f.key.asText()}
		if f.val.kind == mapNode {
			field.Type, field.Inside = "object", d.fieldsOf(f.val, name+"."+f.name, depth+1)
		} else if !d.fieldType(f.val, name+"."+f.name, &field) {
			continue
		}
		out.List = append(out.List, field)
	}
	if len(out.List) == 0 && !out.Open && len(n.fields) == 0 {
		d.report(n.pos, codeMissing, name+" names no field", "leave it out, or write "+name+": {userid: int}")
		return nil
	}
	return out
}

// fieldType reads int, text? and so on.
func (d *decoder) fieldType(n *node, name string, into *FieldType) bool {
	hint := "one of " + strings.Join(fieldTypes, ", ") + "; with ? behind it where the field may be missing or null"
	if n.kind != scalarNode || n.isNull() {
		d.report(n.pos, codeType, fmt.Sprintf("%s is %s; it must be a type", name, n.what()), hint)
		return false
	}
	t := n.asText()
	typ, optional := strings.CutSuffix(t.Value, "?")
	into.Type, into.Optional = typ, optional
	for _, known := range fieldTypes {
		if typ == known {
			return true
		}
	}
	if meant := map[string]string{"string": "text", "str": "text", "integer": "int", "long": "int", "double": "float", "decimal": "number",
		"boolean": "bool", "list": "array", "map": "object", "mapping": "object"}[strings.ToLower(typ)]; meant != "" {
		hint = "did you mean " + quote(meant) + "?"
	} else if near := nearest(typ, fieldTypes); near != "" {
		hint = "did you mean " + quote(near) + "?"
	}
	d.report(t.Pos, codeValue, fmt.Sprintf("unknown type %s of %s", quote(t.Value), name), hint)
	return false
}

// Loop is the declaration of a flow that may be fed by what it sends, directly or through others.
type Loop struct {
	Most int // how often one event may pass the flow; at least 1
	Pos  Pos
}

// maxHops is the most that loop.most may be.
const maxHops = 10_000

// loop decodes the loop of a flow; nil if it declares none.
func (o *object) loop() *Loop {
	n := o.get("loop")
	if n == nil {
		return nil
	}
	l := o.child("loop")
	if !l.required("most", "a loop ends: say how often an event may pass the flow, like loop: {most: 10}") {
		return nil
	}
	most := int(l.integer("most", maxHops))
	if most < 1 {
		if v := l.get("most"); v.isNumber() && v.text == "0" {
			o.d.report(v.pos, codeNumber, "most is 0; it must be at least 1", "")
		}
		return nil
	}
	return &Loop{Most: most, Pos: n.pos}
}
