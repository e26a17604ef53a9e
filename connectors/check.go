package connectors

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// Definition is a definition of kistype: conn as it was written.
type Definition struct {
	Name   string
	Type   string
	Addrs  string
	Key    string
	Params map[string]string
}

// Fault is something in a definition that does not fit the schema of its type.
type Fault struct {
	Where   string // "addrs", "key" or a parameter's name behind "params."
	InName  bool   // it is the parameter's name that is wrong
	Unknown bool   // the type has no such parameter
	Near    string // of an unknown one: the known name that is near to it, or ""
	Message string
	Hint    string
}

// Error returns the fault as one line.
func (f Fault) Error() string {
	if f.Hint == "" {
		return f.Message
	}
	return f.Message + "; " + f.Hint
}

// Check compares a definition with the schema of its type, and with what a use of it needs (kis.UseLookup; "": none).
// It asks nobody: secrets are not read.
func Check(d Definition, schema kis.ConnectorSchema, use string) []Fault {
	var faults []Fault
	wrong := func(where, hint, format string, args ...any) {
		faults = append(faults, Fault{Where: where, Hint: hint, Message: fmt.Sprintf(format, args...)})
	}
	for _, s := range []struct {
		where, text string
		setting     kis.Setting
	}{{"addrs", d.Addrs, schema.Addrs}, {"key", d.Key, schema.Key}} {
		switch {
		case s.text == "" && s.setting.Required:
			wrong(s.where, s.where+": "+s.setting.Doc, "a connector of type %s needs %s", d.Type, s.where)
		case s.where == "addrs" && s.text != "" && hasPassword(s.text):
			wrong(s.where, "write ${ENV:NAME} or ${file:PATH} in its place", "addrs holds a password")
		}
	}
	for _, s := range schema.Has {
		switch {
		case d.Params[s.Name] != "":
		case s.Required:
			wrong("params", s.Name+": "+s.Doc, "a connector of type %s needs params.%s", d.Type, s.Name)
		case s.Needed != "" && s.Needed == use:
			wrong("params", s.Name+": "+s.Doc, "a %s through a connector of type %s needs params.%s", use, d.Type, s.Name)
		}
	}
	names := make([]string, 0, len(schema.Has))
	for _, s := range schema.Has {
		names = append(names, s.Name)
	}
	for _, name := range sorted(d.Params) {
		i := slices.Index(names, name)
		where := "params." + name
		if i < 0 {
			f := Fault{Where: where, InName: true, Unknown: true, Near: nearest(name, names), Message: fmt.Sprintf("a connector of type %s has no parameter %q", d.Type, name)}
			switch {
			case f.Near != "":
				f.Hint = fmt.Sprintf("did you mean %q?", f.Near)
			case len(names) > 0:
				f.Hint = "known: " + strings.Join(names, ", ")
			}
			faults = append(faults, f)
			continue
		}
		text := d.Params[name]
		refs, err := references(text)
		switch {
		case err != nil:
			wrong(where, "write ${ENV:NAME} or ${file:PATH}", "%s: %v", name, err)
		case schema.Has[i].Secret && text != "" && len(refs) == 0:
			wrong(where, "write ${ENV:NAME} or ${file:PATH}: definitions are stored, shown and compared as they are", "%s is a secret and stands here in the open", name)
		case len(refs) == 0:
			if err := fits(schema.Has[i], text); err != nil {
				hint := ""
				if near := nearest(text, schema.Has[i].Words); near != "" {
					hint = fmt.Sprintf("did you mean %q?", near)
				}
				wrong(where, hint, "%s %v", name, err)
			}
		}
	}
	for where, text := range map[string]string{"addrs": d.Addrs, "key": d.Key} {
		if _, err := references(text); err != nil {
			wrong(where, "write ${ENV:NAME} or ${file:PATH}", "%s: %v", where, err)
		}
	}
	return faults
}

// CheckOpen opens a definition that fits its schema, and closes it: that finds what only the type knows. A
// definition with secrets is left for the node that has them.
func CheckOpen(d Definition, t kis.ConnectorType) error {
	for _, text := range append([]string{d.Addrs, d.Key}, slices.Collect(maps.Values(d.Params))...) {
		if refs, err := references(text); err != nil || len(refs) > 0 {
			return nil // Check says it
		}
	}
	spec, _, err := specOf(d, t.Schema())
	if err != nil {
		return nil // so does it here
	}
	c, err := t.Open(spec)
	if err != nil {
		return err
	}
	return c.Close()
}

// hasPassword says whether one of the addresses holds a password that is not taken from elsewhere.
func hasPassword(addrs string) bool {
	for _, a := range splitAddrs(addrs) {
		u, err := url.Parse(withoutReferences(a))
		if err != nil || u.User == nil {
			continue
		}
		if p, there := u.User.Password(); there && p != "" && p != hidden {
			return true
		}
	}
	return false
}

// splitAddrs splits addresses at commas.
func splitAddrs(text string) []string {
	var addrs []string
	for a := range strings.SplitSeq(text, ",") {
		if a = strings.TrimSpace(a); a != "" {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// fits says whether a text is of the kind that a setting asks for.
func fits(s kis.Setting, text string) error {
	switch s.Kind {
	case kis.SettingNumber:
		if n, err := strconv.Atoi(text); err != nil || n < 0 {
			return fmt.Errorf("is %q; it must be a whole number of at least 0", text)
		}
	case kis.SettingDuration:
		if _, err := kis.ParseSettingDuration(text); err != nil {
			return fmt.Errorf("is no duration: %w", err)
		}
	case kis.SettingBool:
		if text != "true" && text != "false" {
			return fmt.Errorf("is %q; it must be true or false", text)
		}
	default:
		if s.Words != nil && !slices.Contains(s.Words, text) {
			return fmt.Errorf("is %q; it must be one of %s", text, strings.Join(s.Words, ", "))
		}
	}
	return nil
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// nearest returns the known word that is most like a given one, or "" if none is like it.
func nearest(word string, known []string) string {
	best, least := "", max(1, len([]rune(word))/3)+1
	for _, k := range known {
		if len(word) > 64 {
			break
		}
		if d := distance([]rune(strings.ToLower(word)), []rune(strings.ToLower(k))); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many characters must be put in, taken out, changed or swapped with the next one to make one word of
// the other.
func distance(a, b []rune) int {
	var older, old []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		older, old, row = old, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range b {
			change := old[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, row[j]+1, old[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], older[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
