// Package cluster knows who is a member, who owns which group of partitions, and how nodes reach one another.
//
// A partition belongs to one of a fixed number of groups. One small value, the table, names for each group its
// owner, the node that it is moving to (next) and those that keep a warm copy (standbys). The table, a key for each
// member and the lock of cluster-wide changes are the keys of a bucket: a stream that keeps the newest message of
// each subject. All of them are written by compare-and-set only, so whoever writes, races are settled by the stream,
// and there is no leader. What the next table is follows from the newest one and the members alone (assign.go).
//
// A member renews its key every quarter of its lease. It is dead to another node when the key has not moved for a
// whole lease on that node's own monotonic clock, and a read from the stream's leader agrees. A node judges its own
// past first: where its last good renewal began more than three quarters of a lease ago it gives up all it owns
// before it does anything else, and then joins again as another incarnation. The table names the incarnation that
// may own; so at one number of the table a group has at most one process that may start it.
//
// None of this is the safety of the data. A paused process may go on for a moment after its groups have moved:
// the fence in each partition's log refuses it.
//
// A move: the table says next; that node's copies follow the logs; when they are near the end it marks the group
// ready; the owner closes the group's partitions and writes the new owner. A dead owner's group goes to next or to its first
// standby at once.
//
// Nodes call one another through protoactor's remote, and find a virtual actor's owner through its cluster, which is a
// shell here: provider, identity look-up and context are this package's (remote.go). Calls are at most once; those
// that are marked Repeatable are asked again until their context ends. Nothing durable goes that way.
//
// After a crash nothing of a process is left but its keys; a new process of the same node takes them over when
// they have not moved for a lease, or at once where nobody listens at the dead one's address any more.
package cluster
