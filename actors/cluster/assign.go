package cluster

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// candidate is a live member, as the assignment needs it.
type candidate struct {
	node, incarnation string
	weight            int
	draining          bool // nothing goes there, all goes away
}

// limits bound what the assignment does.
type limits struct {
	standbys int // copies of a group beside its owner
	moves    int // planned moves under way at once
}

// near is how many consecutive groups should be on different nodes as far as there are nodes: a flow's
// partitions of one stage are consecutive groups, and there are 8 of them by default.
const near = 8

// assign returns the table that is to follow t while the candidates live. It depends on nothing else, and leaves a
// table that needs no change as it is. The candidates must be in the order of their names.
//
//   - A group whose owner is gone goes to where it was moving, to its first standby, or to the node with the least;
//     one whose owner lives stays, and leaves only by a planned move.
//   - Every node ends with its share by weight, rounded down or up. Only what is above a share moves.
//   - Of the groups that could move, those go whose leaving and coming spread neighbours best, and rather to where
//     there is a copy.
func assign(t Table, candidates []candidate, l limits) Table {
	t = t.clone()
	a := newAssignment(&t, candidates, l)
	if len(a.nodes) == 0 {
		return t
	}
	a.forget()
	a.bury()
	a.move()
	a.stand()
	return t
}

// assignment is the work of one call.
type assignment struct {
	t     *Table
	l     limits
	nodes []candidate    // those that live
	index map[string]int // of a live node in nodes
	open  []int          // those that may get groups
	quota []int          // by node: groups that it is to have; 0 where it is not open

	future []int // by group: the node that owns it once its move is done, -1 none
	load   []int // by node: groups of the future
}

func newAssignment(t *Table, candidates []candidate, l limits) *assignment {
	a := &assignment{t: t, l: l, nodes: candidates, index: make(map[string]int, len(candidates))}
	for i, c := range candidates {
		a.index[c.node] = i
		if !c.draining {
			a.open = append(a.open, i)
		}
	}
	if len(a.open) == 0 { // somebody must
		for i := range candidates {
			a.open = append(a.open, i)
		}
	}
	return a
}

func (a *assignment) isOpen(n int) bool { return n >= 0 && slices.Contains(a.open, n) }

// at returns a live node's index, or -1.
func (a *assignment) at(name string) int {
	if i, ok := a.index[name]; ok {
		return i
	}
	return -1
}

// forget takes out of the table who is not there any more, or is to have nothing.
func (a *assignment) forget() {
	nodes := make(map[string]string, len(a.nodes))
	for _, c := range a.nodes {
		nodes[c.node] = c.incarnation
	}
	before := a.t.nodes
	a.t.nodes = nodes
	for i := range a.t.Groups {
		g := &a.t.Groups[i]
		if g.Next != "" && (!a.isOpen(a.at(g.Next)) || g.Next == g.Owner) {
			g.Next, g.Ready = "", false // taken back
		}
		if g.Ready && nodes[g.Next] != before[g.Next] { // another process, which has still to catch up
			g.Ready = false
		}
		kept := g.Standbys[:0]
		for _, s := range g.Standbys {
			if a.isOpen(a.at(s)) && s != g.Owner && !slices.Contains(kept, s) {
				kept = append(kept, s)
			}
		}
		g.Standbys = kept
	}
}

// bury gives groups without a live owner to others.
func (a *assignment) bury() {
	a.future = make([]int, len(a.t.Groups))
	a.load = make([]int, len(a.nodes))
	var orphans []int
	for i := range a.t.Groups {
		g := &a.t.Groups[i]
		a.future[i] = -1
		if a.at(g.Owner) >= 0 {
			a.settle(i)
			continue
		}
		heir := g.Next
		if heir == "" && len(g.Standbys) > 0 {
			heir = g.Standbys[0]
		}
		if heir == "" {
			orphans = append(orphans, i)
			continue
		}
		a.own(i, heir)
	}
	a.share()
	for _, i := range orphans {
		a.own(i, a.nodes[a.roomiest(i)].node)
	}
}

// own makes a node a group's owner at once.
func (a *assignment) own(i int, node string) {
	g := &a.t.Groups[i]
	if g.Owner != "" {
		g.Former = g.Owner
	}
	g.Owner, g.Next, g.Ready = node, "", false
	g.Standbys = slices.DeleteFunc(g.Standbys, func(s string) bool { return s == node })
	a.settle(i)
}

// settle notes where a group will be.
func (a *assignment) settle(i int) {
	if n := a.future[i]; n >= 0 {
		a.load[n]--
	}
	g := &a.t.Groups[i]
	to := g.Owner
	if g.Next != "" {
		to = g.Next
	}
	a.future[i] = a.at(to)
	a.load[a.future[i]]++
}

// share says how many groups each open node is to have: its share by weight rounded down, and one more for as many
// as are needed, first for those that hold more already.
func (a *assignment) share() {
	a.quota = make([]int, len(a.nodes))
	total := 0
	for _, n := range a.open {
		total += a.nodes[n].weight
	}
	left := len(a.t.Groups)
	for _, n := range a.open {
		a.quota[n] = len(a.t.Groups) * a.nodes[n].weight / total
		left -= a.quota[n]
	}
	order := slices.Clone(a.open)
	rest := func(n int) int { return len(a.t.Groups) * a.nodes[n].weight % total }
	order = slices.DeleteFunc(order, func(n int) bool { return rest(n) == 0 })
	slices.SortFunc(order, func(x, y int) int {
		if more := a.load[x] > a.quota[x]; more != (a.load[y] > a.quota[y]) {
			if more {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rest(y), rest(x)), cmp.Compare(mix(a.nodes[x].node, 0), mix(a.nodes[y].node, 0)))
	})
	for _, n := range order[:left] {
		a.quota[n]++
	}
}

// roomiest returns the open node that lacks groups and has the fewest near a group.
func (a *assignment) roomiest(i int) int {
	best := -1
	for _, n := range a.open {
		if best < 0 || a.rather(i, n, best) {
			best = n
		}
	}
	return best
}

// rather says whether a group without an owner is better at n than at m.
func (a *assignment) rather(i, n, m int) bool {
	if room := a.load[n] < a.quota[n]; room != (a.load[m] < a.quota[m]) {
		return room
	}
	if x, y := a.crowd(i, n), a.crowd(i, m); x != y {
		return x < y
	}
	if x, y := a.t.Groups[i].Former == a.nodes[n].node, a.t.Groups[i].Former == a.nodes[m].node; x != y {
		return x
	}
	return mix(a.nodes[n].node, uint64(i)) > mix(a.nodes[m].node, uint64(i))
}

// crowd weighs how many groups near i a node has; the nearer the heavier.
func (a *assignment) crowd(i, n int) int {
	w := 0
	for d := 1; d < near && d < len(a.future); d++ {
		if a.future[(i+d)%len(a.future)] == n {
			w += near - d
		}
		if a.future[(i-d+len(a.future))%len(a.future)] == n {
			w += near - d
		}
	}
	return w
}

// move plans moves from nodes with more than their share to nodes with less.
func (a *assignment) move() {
	under := 0
	for i := range a.t.Groups {
		if a.t.Groups[i].Next != "" {
			under++
		}
	}
	for under < a.l.moves {
		i, n := a.bestMove()
		if i < 0 {
			return
		}
		g := &a.t.Groups[i]
		if g.Next != "" { // it was on its way elsewhere
			under--
		}
		g.Next, g.Ready = a.nodes[n].node, false
		if g.Next == g.Owner {
			g.Next = ""
		} else {
			under++
		}
		a.settle(i)
	}
}

// bestMove returns the group and the node that make the best move, or -1 where none is needed.
func (a *assignment) bestMove() (group, node int) {
	group, node = -1, -1
	least := 0
	for i := range a.t.Groups {
		from := a.future[i]
		if a.load[from] <= a.quota[from] || a.t.Groups[i].Ready {
			continue
		}
		leaves := a.crowd(i, from)
		for _, n := range a.open {
			if a.load[n] >= a.quota[n] {
				continue
			}
			cost := a.crowd(i, n) - leaves - a.copyBonus(i, n)
			if group < 0 || cost < least {
				group, node, least = i, n, cost
			}
		}
	}
	return group, node
}

// What a copy at the receiver is worth, in the measure of crowd.
const (
	standbyBonus = 8
	formerBonus  = 6
)

func (a *assignment) copyBonus(i, n int) int {
	switch name := a.nodes[n].node; {
	case slices.Contains(a.t.Groups[i].Standbys, name):
		return standbyBonus
	case a.t.Groups[i].Former == name:
		return formerBonus
	}
	return 0
}

// stand gives each group its standbys, evenly, and so that the groups of an owner that dies are spread again.
func (a *assignment) stand() {
	s := &standing{assignment: a, load: make([]int, len(a.nodes)), quota: make([]int, len(a.nodes))}
	s.want = min(a.l.standbys, len(a.open)-1)
	moving := false
	for i := range a.t.Groups {
		g := &a.t.Groups[i]
		moving = moving || g.Next != ""
		if len(g.Standbys) > s.want {
			g.Standbys = g.Standbys[:max(s.want, 0)]
		}
		for _, name := range g.Standbys {
			s.load[a.at(name)]++
		}
	}
	if s.want <= 0 {
		return
	}
	s.share()
	for i := range a.t.Groups {
		s.fill(i)
	}
	if moving { // a copy that is made anew costs as much as a move: first the moves
		return
	}
	for s.even() {
	}
}

// standing is the work of stand.
type standing struct {
	*assignment
	want        int
	load, quota []int // by node: standby places
}

// share says how many standby places each open node is to have.
func (s *standing) share() {
	total := 0
	for _, n := range s.open {
		total += s.nodes[n].weight
	}
	places := s.want * len(s.t.Groups)
	left := places
	order := slices.Clone(s.open)
	for _, n := range s.open {
		s.quota[n] = places * s.nodes[n].weight / total
		left -= s.quota[n]
	}
	rest := func(n int) int { return places * s.nodes[n].weight % total }
	order = slices.DeleteFunc(order, func(n int) bool { return rest(n) == 0 })
	slices.SortFunc(order, func(x, y int) int {
		if more := s.load[x] > s.quota[x]; more != (s.load[y] > s.quota[y]) {
			if more {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rest(y), rest(x)), cmp.Compare(mix(s.nodes[x].node, 0), mix(s.nodes[y].node, 0)))
	})
	for _, n := range order[:left] {
		s.quota[n]++
	}
}

// may says whether a node can be one more standby of a group.
func (s *standing) may(i, n int) bool {
	g := &s.t.Groups[i]
	name := s.nodes[n].node
	return name != g.Owner && name != g.Next && !slices.Contains(g.Standbys, name)
}

// fill gives a group the standbys that it lacks.
func (s *standing) fill(i int) {
	g := &s.t.Groups[i]
	for len(g.Standbys) < s.want {
		best := -1
		for _, n := range s.open {
			if s.may(i, n) && (best < 0 || s.rather(i, n, best)) {
				best = n
			}
		}
		if best < 0 {
			return
		}
		g.Standbys = append(g.Standbys, s.nodes[best].node)
		s.load[best]++
	}
}

// rather says whether n is the better standby of a group than m.
func (s *standing) rather(i, n, m int) bool {
	if x, y := s.nodes[n].node == s.t.Groups[i].Former, s.nodes[m].node == s.t.Groups[i].Former; x != y {
		return x // it has a copy
	}
	if room := s.load[n] < s.quota[n]; room != (s.load[m] < s.quota[m]) {
		return room
	}
	if x, y := s.crowd(i, n), s.crowd(i, m); x != y {
		return x < y
	}
	return mix(s.nodes[n].node, uint64(i)) > mix(s.nodes[m].node, uint64(i))
}

// crowd weighs how many groups near i a node would have if i's owner died.
func (s *standing) crowd(i, n int) int {
	w := s.assignment.crowd(i, n)
	for d := 1; d < near && d < len(s.future); d++ {
		for _, j := range [2]int{(i + d) % len(s.future), (i - d + len(s.future)) % len(s.future)} {
			if g := &s.t.Groups[j]; s.future[j] == s.future[i] && len(g.Standbys) > 0 && g.Standbys[0] == s.nodes[n].node {
				w += near - d
			}
		}
	}
	return w
}

// even moves one standby place from a node with more than its share to one with less, and tells whether there was one.
func (s *standing) even() bool {
	group, place, node, least := -1, 0, 0, 0
	for i := range s.t.Groups {
		for p, name := range s.t.Groups[i].Standbys {
			from := s.at(name)
			if s.load[from] <= s.quota[from] {
				continue
			}
			leaves := s.crowd(i, from)
			for _, n := range s.open {
				if s.load[n] >= s.quota[n] || !s.may(i, n) {
					continue
				}
				if cost := s.crowd(i, n) - leaves; group < 0 || cost < least {
					group, place, node, least = i, p, n, cost
				}
			}
		}
	}
	if group < 0 {
		return false
	}
	g := &s.t.Groups[group]
	s.load[s.at(g.Standbys[place])]--
	s.load[node]++
	g.Standbys[place] = s.nodes[node].node
	return true
}

// hand ends a move: next owns the group, and the owner before it keeps its copy where a standby is lacking now.
func (t *Table) hand(i int) {
	g := &t.Groups[i]
	g.Former = g.Owner
	for p, name := range g.Standbys {
		if name == g.Next {
			g.Standbys[p] = g.Owner
		}
	}
	g.Owner, g.Next, g.Ready = g.Next, "", false
}

// mix is a hash of a stable name and a number.
func mix(name string, n uint64) uint64 {
	h := xxhash.Sum64String(name) ^ (n+1)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
