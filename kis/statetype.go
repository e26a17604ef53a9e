package kis

import (
	"fmt"
	"math"
	"reflect"
	"time"
)

var timeType = reflect.TypeFor[time.Time]()

// checkState says why values of a type would not survive being written as JSON and read again.
func checkState(t reflect.Type) error { return checkStateType(t, "state "+t.String(), nil) }

func checkStateType(t reflect.Type, path string, around []reflect.Type) error {
	for _, a := range around {
		if a == t {
			return nil // a type that holds itself
		}
	}
	if p := reflect.PointerTo(t); (p.Implements(marshaler) || p.Implements(textMarshaler)) && (p.Implements(unmarshaler) || p.Implements(textUnmarshaler)) {
		return nil
	}
	around = append(around, t)
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			switch {
			case !f.IsExported() && !f.Anonymous:
				return fmt.Errorf("%s: field %s is not exported, so JSON would leave it out", path, f.Name)
			case f.Tag.Get("json") == "-":
				return fmt.Errorf("%s: field %s is tagged %q, so JSON would leave it out", path, f.Name, `json:"-"`)
			}
			if err := checkStateType(f.Type, path+"."+f.Name, around); err != nil {
				return err
			}
		}
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return checkStateType(t.Elem(), path, around)
	case reflect.Map:
		switch t.Key().Kind() {
		case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		default:
			if !reflect.PointerTo(t.Key()).Implements(textUnmarshaler) || !reflect.PointerTo(t.Key()).Implements(textMarshaler) {
				return fmt.Errorf("%s: a map by %s cannot stand in JSON", path, t.Key())
			}
		}
		return checkStateType(t.Elem(), path, around)
	case reflect.Interface:
		return fmt.Errorf("%s: an interface does not come back from JSON as what it was", path)
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Errorf("%s: a %s cannot stand in JSON", path, t.Kind())
	}
	return nil
}

// isFlat says whether an assignment copies all that a value of the type holds, and whether checkFlat finds
// all that could keep it from being written as JSON.
func isFlat(t reflect.Type) bool {
	if t == timeType {
		return true
	}
	if hasOwnJSON(t) {
		return false
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return t != jsonNumber
	case reflect.Float32, reflect.Float64:
		return true
	case reflect.Array:
		return isFlat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !isFlat(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return false
}

// needsCheck says whether a flat type holds what checkFlat looks at.
func needsCheck(t reflect.Type) bool {
	if t == timeType {
		return true
	}
	switch t.Kind() {
	case reflect.Float32, reflect.Float64:
		return true
	case reflect.Array:
		return needsCheck(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if needsCheck(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// checkFlat says where a flat value holds what cannot stand in JSON: a float that is no number or not finite, a
// time of the year 10000.
func checkFlat(v reflect.Value, path string) error {
	if v.Type() == timeType {
		if _, err := v.Interface().(time.Time).MarshalText(); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%s: %v cannot stand in JSON", path, f)
		}
	case reflect.Array:
		for i := range v.Len() {
			if err := checkFlat(v.Index(i), path); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if err := checkFlat(v.Field(i), path+"."+v.Type().Field(i).Name); err != nil {
				return err
			}
		}
	}
	return nil
}
