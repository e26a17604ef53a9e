package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLeftovers kills a test that has a network and a disk that stands still, and has them removed.
func TestLeftovers(t *testing.T) {
	if os.Getenv("KISFLOW_RIG_LEAVE") != "" {
		leave(t)
	}
	if why := OpenNetwork(t).Why(); why != nil {
		t.Skip(why)
	}
	c := exec.Command(os.Args[0], "-test.run", "TestLeftovers$")
	c.Env = append(os.Environ(), "KISFLOW_RIG_LEAVE="+t.TempDir())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for said := ""; !strings.Contains(said, "all is made"); {
		b := make([]byte, 100)
		n, err := out.Read(b)
		if said += string(b[:n]); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	if left := leftovers(c.Process.Pid); len(left) != 3 {
		t.Errorf("the killed test left %q, want a namespace, a link and a disk", left)
	}
	sweep()
	if left := leftovers(c.Process.Pid); len(left) > 0 {
		t.Errorf("still there: %q", left)
	}
}

// leave makes what is to be left.
func leave(t *testing.T) {
	OpenNetwork(t).Place(t, "a", 1)
	d := OpenDisk(t, os.Getenv("KISFLOW_RIG_LEAVE"), "disk")
	if d.WhySlow() == nil {
		if err := freeze(d.Path); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("all is made")
	time.Sleep(time.Minute)
}

// leftovers are the things that a process has made.
func leftovers(pid int) (all []string) {
	spaces, _ := filepath.Glob(fmt.Sprintf("/run/netns/%s%d-*", prefix, pid))
	all = append(all, spaces...)
	links, _ := net.Interfaces()
	for _, l := range links {
		if strings.HasPrefix(l.Name, fmt.Sprintf("kr%db", pid)) && !strings.Contains(l.Name, "n") {
			all = append(all, l.Name)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	loops := loopFiles()
	for line := range strings.Lines(string(mounts)) {
		source := strings.Fields(line)[0]
		if strings.HasSuffix(source, fmt.Sprintf("%s%d", prefix, pid)) || strings.HasSuffix(loops[source], fmt.Sprintf("%s%d", prefix, pid)) {
			all = append(all, source)
		}
	}
	return all
}
