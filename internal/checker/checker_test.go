package checker

import (
	"errors"
	"strings"
	"testing"
)

func TestChecker(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []string
		want string // what the errors say; empty: none
	}{
		{"as wanted", []string{"a1", "a2", "b1", "b2", "free"}, ""},
		{"chains may mix", []string{"free", "b1", "a1", "b2", "a2"}, ""},
		{"missing", []string{"a1", "b1", "b2", "free"}, "key 7: 1 of 5 are missing: a2"},
		{"doubled", []string{"a1", "a2", "b1", "a1", "b2", "free"}, "key 7: a1 is there for the 2. time, as member 3"},
		{"foreign", []string{"a1", "a2", "x", "b1", "b2", "free"}, "key 7: member 2 is x, which nobody wanted"},
		{"out of order", []string{"a2", "a1", "b1", "b2", "free"}, "key 7: a1 comes after a2, and had to come before it (chain a)"},
		{"nothing", nil, "key 7: 5 of 5 are missing: a1 a2 b1 b2 free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k Checker
			k.Want("key 7", "a1", "a")
			k.Want("key 7", "b1", "b")
			k.Want("key 7", "a2", "a")
			k.Want("key 7", "b2", "b")
			k.Want("key 7", "free")
			k.Got("key 7", c.got...)
			text := ""
			if err := errors.Join(k.Errors()...); err != nil {
				text = err.Error()
			}
			if text != c.want {
				t.Errorf("errors are %q, want %q", text, c.want)
			}
		})
	}
}

func TestAListThatNobodyWanted(t *testing.T) {
	var k Checker
	k.Want("a", "1")
	k.Got("a", "1")
	k.Got("b", "2")
	if errs := k.Errors(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "b: member 0 is 2") {
		t.Errorf("errors are %v, want one about list b", errs)
	}
}
