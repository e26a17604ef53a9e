// Package rig runs nodes of the real binary for tests, and breaks what they stand on: processes, links between
// nodes, disks and clocks.
//
// Where the machine allows it (Linux, root, the ip command) every node runs in a network namespace of its own, all on
// one bridge, and its data lies in a file system of its own; else nodes share the loopback address and one disk, and
// Network.Why and Disk.Why say what is missing. Nothing outside is touched: no clock, no rule, no link of the machine.
//
// All that a rig makes carries the number of the process that made it. It is removed when the test ends, and what a
// killed test left behind is removed by the next one.
//
// A Rig and what it hands out are for one goroutine, but for the methods that say otherwise.
package rig
