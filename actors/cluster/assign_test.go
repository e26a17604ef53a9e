package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// nodesOf makes candidates of names; "a*3" weighs 3, "a-" is draining, "a'" is another incarnation of a.
func nodesOf(names ...string) []candidate {
	var cs []candidate
	for _, n := range names {
		c := candidate{node: n[:1], incarnation: n[:1] + ".1", weight: 1}
		if strings.Contains(n, "'") {
			c.incarnation = n[:1] + ".2"
		}
		c.draining = strings.Contains(n, "-")
		if _, w, ok := strings.Cut(n, "*"); ok {
			_, _ = fmt.Sscan(w, &c.weight)
		}
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b candidate) int { return strings.Compare(a.node, b.node) })
	return cs
}

// settle runs planned moves to their end: every next catches up and every owner hands over at once.
func settle(t *testing.T, table Table, cs []candidate, l limits) Table {
	t.Helper()
	for range 4*len(table.Groups) + 4 {
		next := assign(table, cs, l)
		check(t, next, cs, l)
		moving := false
		for i := range next.Groups {
			if next.Groups[i].Next != "" {
				next.Groups[i].Ready, moving = true, true
				next.hand(i)
			}
		}
		if !moving {
			return next
		}
		table = next
	}
	t.Fatal("the moves do not end")
	return Table{}
}

// check holds a table to what every table that assign returns must be.
func check(t *testing.T, table Table, cs []candidate, l limits) {
	t.Helper()
	live, open := map[string]bool{}, map[string]bool{}
	for _, c := range cs {
		live[c.node] = true
		if table.nodes[c.node] != c.incarnation {
			t.Fatalf("the table has %q as incarnation of %s", table.nodes[c.node], c.node)
		}
		if !c.draining {
			open[c.node] = true
		}
	}
	if len(table.nodes) != len(cs) {
		t.Fatalf("the table has nodes %v", table.nodes)
	}
	if len(open) == 0 {
		open = live
	}
	moves := 0
	for i, g := range table.Groups {
		if !live[g.Owner] {
			t.Fatalf("group %d has no live owner: %+v", i, g)
		}
		if g.Next != "" {
			if moves++; !open[g.Next] || g.Next == g.Owner {
				t.Fatalf("group %d moves where it cannot be: %+v", i, g)
			}
		} else if g.Ready {
			t.Fatalf("group %d is ready for nothing: %+v", i, g)
		}
		if want := min(l.standbys, len(open)-1); len(g.Standbys) > max(want, 0) || len(g.Standbys) < want-1 {
			t.Fatalf("group %d should have %d standbys: %+v", i, want, g)
		}
		for p, s := range g.Standbys {
			if !open[s] || s == g.Owner || slices.Contains(g.Standbys[:p], s) {
				t.Fatalf("group %d has a wrong standby: %+v", i, g)
			}
		}
	}
	if moves > l.moves {
		t.Fatalf("%d moves at once, at most %d", moves, l.moves)
	}
	if again := assign(table, cs, l); !again.equal(table) {
		t.Fatal("the same table and nodes give another table")
	}
}

// loads counts the groups that nodes own, and those that they stand by for.
func loads(table Table) (own, stand map[string]int) {
	own, stand = map[string]int{}, map[string]int{}
	for _, g := range table.Groups {
		own[g.Owner]++
		for _, s := range g.Standbys {
			stand[s]++
		}
	}
	return own, stand
}

// even holds a table without moves under way to even loads.
func even(t *testing.T, table Table, cs []candidate, l limits) {
	t.Helper()
	own, stand := loads(table)
	total, open := 0, 0
	for _, c := range cs {
		if !c.draining {
			total += c.weight
			open++
		}
	}
	equal := true
	for _, c := range cs {
		if c.draining && open > 0 {
			if own[c.node] > 0 {
				t.Errorf("node %s is draining and owns %d groups", c.node, own[c.node])
			}
			continue
		}
		equal = equal && c.weight == cs[0].weight
		for _, d := range cs {
			if d.draining && open > 0 {
				continue
			}
			if x, y := float64(own[c.node])/float64(c.weight), float64(own[d.node])/float64(d.weight); x-y > 1 {
				t.Errorf("node %s has %.2f groups per weight, node %s %.2f", c.node, x, d.node, y)
			}
		}
	}
	if !equal || open < 2 || open != len(cs) {
		return
	}
	for _, c := range cs {
		if want := len(table.Groups) * min(l.standbys, open-1) / open; stand[c.node] < want-1 || stand[c.node] > want+2 {
			t.Errorf("node %s stands by for %d groups, the mean is %d: %v", c.node, stand[c.node], want, stand)
		}
	}
}

func TestAssignProperties(t *testing.T) {
	seeds := uint64(100)
	if raceEnabled { // nothing here runs beside anything else
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			l := limits{standbys: r.IntN(3), moves: 1 + r.IntN(20)}
			groups := []int{1, 7, 24, 64, 256}[r.IntN(5)]
			table := newTable(groups)
			weights := r.IntN(2) == 0
			incarnations := map[string]int{}
			var cs []candidate
			for range 12 {
				cs = nil
				for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
					if r.IntN(3) == 0 {
						continue
					}
					c := candidate{node: name, weight: 1, draining: r.IntN(6) == 0}
					if r.IntN(4) == 0 {
						incarnations[name]++
					}
					c.incarnation = fmt.Sprint(name, ".", incarnations[name])
					if weights {
						c.weight = 1 + r.IntN(4)
					}
					cs = append(cs, c)
				}
				if len(cs) == 0 { // nothing to be done, and nothing is
					if next := assign(table, nil, l); !next.equal(table) {
						t.Fatal("a table without members was changed")
					}
					continue
				}
				// Some of the moves that are planned come to their end, some do not.
				for range r.IntN(6) {
					table = assign(table, cs, l)
					check(t, table, cs, l)
					for i := range table.Groups {
						if g := &table.Groups[i]; g.Next != "" && r.IntN(2) == 0 {
							if g.Ready = true; r.IntN(2) == 0 {
								table.hand(i)
							}
						}
					}
				}
				if r.IntN(2) == 0 {
					table = settle(t, table, cs, l)
					even(t, table, cs, l)
				}
			}
			if len(cs) > 0 {
				table = settle(t, table, cs, l)
				even(t, table, cs, l)
			}
		})
	}
}

// windows returns the fewest and the most groups that a node has among any so many consecutive ones.
func windows(table Table, node string, size int) (low, high int) {
	low = size
	for i := range table.Groups {
		n := 0
		for d := range size {
			if table.Groups[(i+d)%len(table.Groups)].Owner == node {
				n++
			}
		}
		low, high = min(low, n), max(high, n)
	}
	return low, high
}

// spread holds three equal nodes to their part in any 8 consecutive groups: those are the partitions of one stage.
func spread(t *testing.T, what string, table Table, names ...string) {
	t.Helper()
	for _, n := range names {
		if low, high := windows(table, n, 8); low < 1 || high > 4 {
			t.Errorf("%s: of 8 consecutive groups node %s has between %d and %d", what, n, low, high)
		}
	}
}

func TestNeighboursAreOnDifferentNodes(t *testing.T) {
	l := limits{standbys: 1, moves: 16}
	names := []string{"a", "b", "c"}
	spread(t, "all at once", settle(t, newTable(256), nodesOf(names...), l), names...)
	for _, order := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c", "a"}, {"a", "c", "b"}} {
		table := newTable(256)
		for n := range order {
			table = settle(t, table, nodesOf(order[:n+1]...), l)
		}
		spread(t, fmt.Sprint("one after another ", order), table, names...)
		one := settle(t, newTable(256), nodesOf(order[0]), l)
		spread(t, "two join one "+order[0], settle(t, one, nodesOf(names...), l), names...)
	}
	r := rand.New(rand.NewPCG(1, 1))
	table := settle(t, newTable(256), nodesOf(names...), l)
	rounds := 40
	if raceEnabled {
		rounds = 2
	}
	for i := range rounds { // one dies, another one of its name comes
		gone := names[r.IntN(3)]
		two := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == gone })
		table = settle(t, table, nodesOf(two...), l)
		for _, n := range two {
			if low, high := windows(table, n, 8); low < 1 || high > 7 {
				t.Errorf("without %s node %s has between %d and %d of 8", gone, n, low, high)
			}
		}
		table = settle(t, table, nodesOf(names...), l)
		spread(t, fmt.Sprintf("after %s came back, the %d. time", gone, i), table, names...)
	}
}

// moved counts the groups whose owner is another one.
func moved(a, b Table) (n int) {
	for i := range a.Groups {
		if a.Groups[i].Owner != b.Groups[i].Owner {
			n++
		}
	}
	return n
}

func TestNoMoreMovesThanNeeded(t *testing.T) {
	l := limits{standbys: 1, moves: 16}
	names := []string{"a", "b", "c", "d", "e", "f"}
	table := settle(t, newTable(256), nodesOf("a"), l)
	for n := 2; n <= len(names); n++ {
		next := settle(t, table, nodesOf(names[:n]...), l)
		own, _ := loads(next)
		if got, want := moved(table, next), own[names[n-1]]; got != want || want > (256+n-1)/n {
			t.Errorf("with the %d. node %d groups moved, it has %d", n, got, want)
		}
		table = next
	}
	for n := len(names); n > 1; n-- { // draining: the last one's groups, and no others
		own, _ := loads(table)
		marked := append(slices.Clone(names[:n-1]), names[n-1]+"-")
		next := settle(t, table, nodesOf(marked...), l)
		if got := moved(table, next); got != own[names[n-1]] {
			t.Errorf("%d groups moved when node %s with %d drained", got, names[n-1], own[names[n-1]])
		}
		table = settle(t, next, nodesOf(names[:n-1]...), l)
	}
	// A death: its groups, and what evens out where they went.
	table = settle(t, newTable(256), nodesOf("a", "b", "c", "d"), l)
	own, _ := loads(table)
	next := settle(t, table, nodesOf("a", "b", "d"), l)
	if got := moved(table, next); got > own["c"]*11/10 {
		t.Errorf("%d groups moved when node c with %d died", got, own["c"])
	}
	// The same node again, as another process: nothing moves.
	if next := settle(t, table, nodesOf("a", "b", "c'", "d"), l); moved(table, next) != 0 {
		t.Errorf("%d groups moved when node c was started again", moved(table, next))
	}
}

func TestStandbyTakesOver(t *testing.T) {
	l := limits{standbys: 2, moves: 4}
	table := settle(t, newTable(64), nodesOf("a", "b", "c", "d"), l)
	next := assign(table, nodesOf("a", "b", "d"), l)
	for i, g := range table.Groups {
		if g.Owner != "c" {
			continue
		}
		heir := g.Standbys[0]
		if got := next.Groups[i]; got.Owner != heir || got.Former != "c" {
			t.Errorf("group %d of the dead c, standbys %v, is now %+v", i, g.Standbys, got)
		}
	}
	// A group on its way goes where it was going.
	table = assign(settle(t, newTable(64), nodesOf("a"), l), nodesOf("a", "b"), l)
	i := slices.IndexFunc(table.Groups, func(g Group) bool { return g.Next == "b" })
	if next := assign(table, nodesOf("b", "c"), l); next.Groups[i].Owner != "b" || next.Groups[i].Next == "b" {
		t.Errorf("group %d that was moving to b is %+v", i, next.Groups[i])
	}
}

func TestMovesAreTakenBack(t *testing.T) {
	l := limits{standbys: 1, moves: 4}
	table := assign(settle(t, newTable(16), nodesOf("a"), l), nodesOf("a", "b"), l)
	moving := func(table Table, to string) (n int) {
		for _, g := range table.Groups {
			if g.Next == to {
				n++
			}
		}
		return n
	}
	if got := moving(table, "b"); got != 4 {
		t.Fatalf("%d moves to b, want 4", got)
	}
	if got := moving(assign(table, nodesOf("a"), l), "b"); got != 0 {
		t.Errorf("%d groups move to a dead node", got)
	}
	if got := moving(assign(table, nodesOf("a", "b-"), l), "b"); got != 0 {
		t.Errorf("%d groups move to a draining node", got)
	}
	for i := range table.Groups {
		table.Groups[i].Ready = table.Groups[i].Next != ""
	}
	again := assign(table, nodesOf("a", "b'"), l)
	for i, g := range again.Groups {
		if g.Ready {
			t.Errorf("group %d is ready though b is another process now", i)
		}
	}
	if got := moving(again, "b"); got != 4 {
		t.Errorf("%d moves to the new b, want 4", got)
	}
	// The owner that hands over keeps its copy, in the place of the standby that takes it.
	i := slices.IndexFunc(table.Groups, func(g Group) bool { return g.Next == "b" })
	table.Groups[i].Standbys = []string{"b"}
	table.hand(i)
	if g := table.Groups[i]; g.Owner != "b" || g.Next != "" || g.Ready || g.Former != "a" || !slices.Equal(g.Standbys, []string{"a"}) {
		t.Errorf("handed over: %+v", g)
	}
}

func TestMovesGoWhereACopyIs(t *testing.T) {
	l := limits{standbys: 1, moves: 8}
	// c has died and is back: what was its own comes to it first.
	before := settle(t, newTable(64), nodesOf("a", "b", "c"), l)
	without := settle(t, before, nodesOf("a", "b"), l)
	after := settle(t, without, nodesOf("a", "b", "c'"), l)
	same := 0
	for i := range before.Groups {
		if before.Groups[i].Owner == "c" && after.Groups[i].Owner == "c" {
			same++
		}
	}
	if own, _ := loads(after); same < own["c"]*3/4 {
		t.Errorf("of the %d groups of c only %d were its own before it died", own["c"], same)
	}
}

func TestTableEncoding(t *testing.T) {
	l := limits{standbys: 2, moves: 5}
	table := assign(settle(t, newTable(32), nodesOf("a", "b"), l), nodesOf("a", "b", "c"), l)
	table.Groups[3].Ready = table.Groups[3].Next != ""
	table.Groups[4].Owner, table.Groups[4].Former = "gone", "old"
	table.Draining = []string{"b", "x"}
	data, err := table.encode("shop", "a.1", 7)
	if err != nil {
		t.Fatal(err)
	}
	got, name, err := decodeTable(data)
	if err != nil || name != "shop" || !got.equal(table) {
		t.Errorf("read back %+v of %q, %v", got, name, err)
	}
	other, err := table.encode("shop", "a.1", 8)
	if err != nil || string(other) == string(data) {
		t.Error("two writes of one table have the same bytes")
	}
	if _, _, err := decodeTable(data[:len(data)-3]); err == nil {
		t.Error("a table that was cut short was read")
	}
	if _, _, err := decodeTable([]byte{8, 2}); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a newer form: %v", err)
	}
}

// BenchmarkAssign is a join of a tenth node: what every node computes under way, at most some times a second.
func BenchmarkAssign(b *testing.B) {
	l := limits{standbys: 1, moves: 16}
	table := newTable(256)
	for range 40 {
		table = assign(table, nodesOf("a", "b", "c", "d", "e", "f", "g", "h", "i"), l)
		for i := range table.Groups {
			if table.Groups[i].Next != "" {
				table.hand(i)
			}
		}
	}
	for what, cs := range map[string][]candidate{
		"nothing to do": nodesOf("a", "b", "c", "d", "e", "f", "g", "h", "i"),
		"a join":        nodesOf("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"),
		"a death":       nodesOf("a", "b", "c", "d", "e", "f", "g", "h"),
	} {
		b.Run(what, func(b *testing.B) {
			for b.Loop() {
				assign(table, cs, l)
			}
		})
	}
}

func FuzzDecodeTable(f *testing.F) {
	table := assign(newTable(8), nodesOf("a", "b"), limits{1, 2})
	data, err := table.encode("shop", "a.1", 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		table, _, err := decodeTable(data)
		if err != nil {
			return
		}
		// Whatever it holds, the next one is sound.
		cs := nodesOf("a", "c")
		check(t, assign(table, cs, limits{1, 4}), cs, limits{1, 4 + len(table.Groups)})
	})
}
