package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is a hardware address that no interface has: frames for it are lost on the wire.
const nobody = "02:00:00:00:00:00"

// prefix leads the names of all that a rig makes in the kernel; the process id follows.
const prefix = "kisrig"

var sweeping sync.Once

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

var networks struct { // of this process
	sync.Mutex
	n int
}

func openNamespaces(t testing.TB) (*Network, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("the ip command is missing (Debian's package is iproute2)")
	}
	sweeping.Do(sweep)
	networks.Lock() // until the subnet is taken
	defer networks.Unlock()
	networks.n++
	n := &Network{tag: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), networks.n), cuts: make(map[[2]*Place]int)}
	n.bridge = fmt.Sprintf("kr%db%d", os.Getpid(), networks.n)
	if err := ip("link", "add", n.bridge, "type", "bridge"); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := ip("link", "del", n.bridge); err != nil {
			t.Errorf("remove the bridge: %v", err)
		}
	})
	var err error
	if n.subnet, err = freeSubnet(); err != nil {
		return nil, err
	}
	if err := ip("addr", "add", n.subnet+".1/24", "dev", n.bridge); err != nil {
		return nil, err
	}
	return n, ip("link", "set", n.bridge, "up")
}

// freeSubnet finds a net that no interface is in.
func freeSubnet() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for i := range 250 {
		subnet := fmt.Sprintf("10.213.%d", 1+(os.Getpid()+i)%250)
		taken := false
		for _, a := range addresses {
			taken = taken || strings.HasPrefix(a.String(), subnet+".")
		}
		if !taken {
			return subnet, nil
		}
	}
	return "", errors.New("no free subnet in 10.213.0.0/16")
}

func (n *Network) addNamespace(t testing.TB, p *Place) error {
	p.ns = n.tag + "-" + p.Name
	p.Host = fmt.Sprintf("%s.%d", n.subnet, 10+p.n)
	p.Inner = "127" + strings.TrimPrefix(p.Host, "10")
	p.Prefix = []string{"ip", "netns", "exec", p.ns}
	if err := ip("netns", "add", p.ns); err != nil {
		return err
	}
	t.Cleanup(func() { // the links go with it
		if err := ip("netns", "del", p.ns); err != nil {
			t.Errorf("remove a network namespace: %v", err)
		}
	})
	outer := p.outer()
	for _, args := range [][]string{
		{"link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", p.ns},
		{"link", "set", outer, "master", n.bridge, "up"},
		{"-n", p.ns, "addr", "add", p.Host + "/24", "dev", "eth0"},
		{"-n", p.ns, "link", "set", "eth0", "up"},
		{"-n", p.ns, "link", "set", "lo", "up"},
		// Loopback addresses are routed in here: nodes without certificates listen on no others.
		{"netns", "exec", p.ns, "sh", "-c", "for i in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done"},
		{"-n", p.ns, "addr", "add", p.Inner + "/24", "dev", "eth0"},
		{"-n", p.ns, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// outer is the name of the link's end at the bridge.
func (p *Place) outer() string { return fmt.Sprintf("%sn%d", p.net.bridge, p.n) }

func (p *Place) cut(o *Place) error {
	for _, address := range []string{o.Host, o.Inner} {
		if err := ip("-n", p.ns, "neigh", "replace", address, "lladdr", nobody, "dev", "eth0", "nud", "permanent"); err != nil {
			return err
		}
	}
	return nil
}

func (p *Place) heal(o *Place) error {
	return errors.Join(ip("-n", p.ns, "neigh", "del", o.Host, "dev", "eth0"), ip("-n", p.ns, "neigh", "del", o.Inner, "dev", "eth0"))
}

// Unplug takes the place off the network, from the tests' own process too; Plug puts it back.
func (p *Place) Unplug() error { return p.link("down") }

// Plug ends Unplug.
func (p *Place) Plug() error { return p.link("up") }

func (p *Place) link(state string) error {
	if p.net.missing != nil {
		return p.net.missing
	}
	return ip("link", "set", p.outer(), state)
}

// inside runs f in the place's namespace. Sockets that f makes stay there.
func (p *Place) inside(f func() error) error {
	if p.net.missing != nil {
		return f()
	}
	// The thread goes back to where it was: one that ends would take the processes with it that it has started.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + p.ns)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the namespace of %s: %w", p.Name, err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("rig: a thread cannot leave the namespace of %s: %v", p.Name, err))
		}
	}()
	return f()
}

// sweep removes what rigs of processes that are gone have left.
func sweep() {
	spaces, _ := filepath.Glob("/run/netns/" + prefix + "*")
	for _, path := range spaces {
		name := filepath.Base(path)
		if gone(strings.TrimPrefix(name, prefix)) {
			_ = ip("netns", "del", name) // another test may be at it, too
		}
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		if rest, ok := strings.CutPrefix(l.Name, "kr"); ok && strings.Contains(rest, "b") && gone(rest) {
			_ = ip("link", "del", l.Name)
		}
	}
	sweepDisks()
}

// gone tells whether the process whose number leads a text is no more.
func gone(text string) bool {
	pid, err := strconv.Atoi(text[:len(text)-len(strings.TrimLeft(text, "0123456789"))])
	return err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
