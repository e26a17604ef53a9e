// Package checker compares what a system kept and put out with what it had to. It knows nothing of the system:
// a test tells it what it wants of every list and then what it got.
//
// A list is anything with members in an order: the events that a key has counted, the outputs on a subject, the
// dead letters of a partition. A member is a text that is unique in what is wanted of its list. The checker finds
// members that are missing, that are there twice, that nobody wanted, and that are in the wrong order; a list that
// nobody wanted is found as well.
package checker

import (
	"fmt"
	"slices"
	"strings"
)

// Checker holds what is wanted and what was got. The zero value is ready to use. It is not for concurrent use.
type Checker struct {
	lists map[string]*list
	names []string // in the order in which they came up
}

type list struct {
	want   map[string]*wanted
	chains map[string]int // members so far
	got    []string
}

type wanted struct {
	chains []place
	count  int // how often it was got
}

// place is a member's place in a chain.
type place struct {
	chain string
	n     int
}

func (c *Checker) list(name string) *list {
	l := c.lists[name]
	if l == nil {
		if c.lists == nil {
			c.lists = make(map[string]*list)
		}
		l = &list{want: make(map[string]*wanted), chains: make(map[string]int)}
		c.lists[name] = l
		c.names = append(c.names, name)
	}
	return l
}

// Want says that a list has to hold a member once. Members that share a chain have to stand in the order in which
// they were wanted; a member without a chain may stand anywhere. It panics if the member is wanted already: then
// the test does not know what it wants.
func (c *Checker) Want(name, member string, chains ...string) {
	l := c.list(name)
	if l.want[member] != nil {
		panic(fmt.Sprintf("checker: %s of %s is wanted twice", member, name))
	}
	w := &wanted{}
	for _, chain := range chains {
		w.chains = append(w.chains, place{chain, l.chains[chain]})
		l.chains[chain]++
	}
	l.want[member] = w
}

// Wanted is how many members are wanted in all.
func (c *Checker) Wanted() int {
	n := 0
	for _, l := range c.lists {
		n += len(l.want)
	}
	return n
}

// Got says that a list holds these members, in this order, behind those that it was said to hold before.
func (c *Checker) Got(name string, members ...string) {
	l := c.list(name)
	l.got = append(l.got, members...)
}

// Errors returns everything that is not as wanted, in a fixed order.
func (c *Checker) Errors() []error {
	var errs []error
	names := slices.Clone(c.names)
	slices.Sort(names)
	for _, name := range names {
		l := c.lists[name]
		errs = append(errs, l.check(name)...)
	}
	return errs
}

// seen is the member of a chain that was seen last.
type seen struct {
	member string
	n      int
}

func (l *list) check(name string) []error {
	var errs []error
	last := make(map[string]seen) // of each chain
	for _, w := range l.want {
		w.count = 0
	}
	for at, m := range l.got {
		w := l.want[m]
		if w == nil {
			errs = append(errs, fmt.Errorf("%s: member %d is %s, which nobody wanted", name, at, m))
			continue
		}
		if w.count++; w.count > 1 {
			errs = append(errs, fmt.Errorf("%s: %s is there for the %d. time, as member %d", name, m, w.count, at))
			continue
		}
		for _, p := range w.chains {
			if before, ok := last[p.chain]; ok && before.n > p.n {
				errs = append(errs, fmt.Errorf("%s: %s comes after %s, and had to come before it (chain %s)", name, m, before.member, p.chain))
			}
			last[p.chain] = seen{m, p.n}
		}
	}
	var missing []string
	for m, w := range l.want {
		if w.count == 0 {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		errs = append(errs, fmt.Errorf("%s: %d of %d are missing: %s", name, len(missing), len(l.want), short(missing)))
	}
	return errs
}

func short(members []string) string {
	if len(members) > 10 {
		return strings.Join(members[:10], " ") + " ..."
	}
	return strings.Join(members, " ")
}
