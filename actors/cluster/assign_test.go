package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func candidatesOf(names ...string) []candidate {
	var cs []candidate
	for _, n := range names {
		cs = append(cs, candidate{node: n, incarnation: n + ".1", weight: 1})
	}
	slices.SortFunc(cs, func(a, b candidate) int {
		if a.node < b.node {
			return -1
		}
		return 1
	})
	return cs
}

// settled runs planned moves to their end: every next catches up and every owner hands over at once.
func settled(t *testing.T, table Table, cs []candidate, l limits) Table {
	t.Helper()
	for range 4 * len(table.Groups) {
		next := assign(table, cs, l)
		moving := false
		for i := range next.Groups {
			if next.Groups[i].Next != "" {
				moving = true
				next.hand(i)
			}
		}
		if !moving && next.equal(table) {
			return next
		}
		table = next
	}
	t.Fatal("the moves do not end")
	return Table{}
}

func testSpreadExperiment(t *testing.T) {
	l := limits{standbys: 1, moves: 16}
	show := func(what string, table Table, names ...string) {
		worst := map[string][2]int{}
		for _, n := range names {
			lo, hi := 99, 0
			for i := range table.Groups {
				c := 0
				for d := range 8 {
					if table.Groups[(i+d)%len(table.Groups)].Owner == n {
						c++
					}
				}
				lo, hi = min(lo, c), max(hi, c)
			}
			worst[n] = [2]int{lo, hi}
		}
		loads, stands := map[string]int{}, map[string]int{}
		for _, g := range table.Groups {
			loads[g.Owner]++
			for _, s := range g.Standbys {
				stands[s]++
			}
		}
		fmt.Println(what, "windows", worst, "loads", loads, "standbys", stands)
	}
	tb := settled(t, newTable(256), candidatesOf("a"), l)
	tb = settled(t, tb, candidatesOf("a", "b"), l)
	show("1-2", tb, "a", "b")
	tb = settled(t, tb, candidatesOf("a", "b", "c"), l)
	show("1-2-3", tb, "a", "b", "c")
	tb3 := settled(t, settled(t, newTable(256), candidatesOf("a"), l), candidatesOf("a", "b", "c"), l)
	show("1-3", tb3, "a", "b", "c")
	show("0-3", settled(t, newTable(256), candidatesOf("a", "b", "c"), l), "a", "b", "c")
	names := []string{"a", "b", "c"}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 12 {
		gone := names[r.IntN(3)]
		rest := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == gone })
		tb = settled(t, tb, candidatesOf(rest...), l)
		show(fmt.Sprint(i, " without ", gone), tb, rest...)
		tb = settled(t, tb, candidatesOf(names...), l)
		show(fmt.Sprint(i, " with ", gone), tb, names...)
	}
	tb = settled(t, tb, candidatesOf("a", "b", "c", "d", "e"), l)
	show("5", tb, "a", "b", "c", "d", "e")
}
