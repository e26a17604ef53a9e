package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The ioctls of a file system that is to stand still, and to go on.
const (
	ioctlFreeze = 0xc0045877
	ioctlThaw   = 0xc0045878
)

// mountDisk mounts an image of ext4, which can be filled and stalled, or a tmpfs, which can be filled.
func mountDisk(t testing.TB, d *Disk, folder, name string) {
	t.Helper()
	if os.Getuid() != 0 {
		d.missing, d.lazy = errNoDisk, errNoDisk
		t.Logf("mounting a disk needs root: %v", errNoDisk)
		return
	}
	sweeping.Do(sweep)
	lazy := mountImage(d.Path, filepath.Join(folder, name+"."+diskMark()))
	if lazy != nil {
		if err := unix.Mount(diskMark(), d.Path, "tmpfs", 0, fmt.Sprintf("size=%d", DiskSize)); err != nil {
			d.missing, d.lazy = errNoDisk, lazy
			t.Logf("no disk of its own for %s: %v; %v", name, lazy, err)
			return
		}
		d.lazy = fmt.Errorf("a tmpfs cannot be stalled, and an image cannot be mounted: %w", lazy)
	}
	t.Cleanup(func() { // after that of the node, which was made later
		if err := errors.Join(d.Quicken(), unmount(d.Path)); err != nil {
			t.Errorf("unmount %s: %v", d.Path, err)
		}
	})
}

// diskMark is in the name of what is mounted.
func diskMark() string { return fmt.Sprintf("%s%d", prefix, os.Getpid()) }

// mountImage makes a file system in a sparse file and mounts it.
func mountImage(path, image string) error {
	for _, tool := range []string{"mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(DiskSize), f.Close()); err != nil {
		return err
	}
	// without a journal: nobody cuts the power here
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image}, {"mount", "-o", "loop,noatime", image, path}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c[0], err, strings.TrimSpace(string(out)))
		}
	}
	return os.Remove(filepath.Join(path, "lost+found"))
}

// unmount waits for those who have the disk open, for a while.
func unmount(path string) error {
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = unix.Unmount(path, 0); err == nil {
			return nil
		}
	}
	return errors.Join(err, unix.Unmount(path, unix.MNT_DETACH))
}

// sweepDisks removes the disks of processes that are gone.
func sweepDisks() {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	loops := loopFiles()
	for line := range strings.Lines(string(mounts)) {
		head, tail, _ := strings.Cut(line, " - ")
		h, s := strings.Fields(head), strings.Fields(tail)
		if len(h) < 5 || len(s) < 2 {
			continue
		}
		source := s[1]
		if file := loops[source]; file != "" {
			source = file
		}
		if _, rest, ok := strings.Cut(source, prefix); ok && gone(rest) {
			_ = thaw(h[4]) // most are not frozen
			_ = unix.Unmount(h[4], unix.MNT_DETACH)
		}
	}
}

// loopFiles tells which file is behind which loop device.
func loopFiles() map[string]string {
	files := make(map[string]string)
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range all {
		b, _ := os.ReadFile(path)
		files["/dev/"+strings.Split(path, "/")[3]] = strings.TrimSpace(string(b))
	}
	return files
}

// Free is how many bytes are free.
func (d *Disk) Free() (int64, error) {
	var s unix.Statfs_t
	err := unix.Statfs(d.Path, &s)
	return int64(s.Bavail) * s.Bsize, err
}

// Fill takes space until so many bytes are free.
func (d *Disk) Fill(free int64) error {
	if d.missing != nil {
		return d.missing
	}
	before, err := d.Free()
	if err != nil || before <= free {
		return err
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, s.Size, before-free)
	if free == 0 && errors.Is(err, unix.ENOSPC) { // what the file system needs for the file itself
		return nil
	}
	return err
}

// slowness stalls a disk again and again.
type slowness struct {
	stop chan struct{}
	done sync.WaitGroup
	err  error
}

// Slow stalls the disk again and again: for so long nothing is written, then for so long it works. What is written
// meanwhile waits in the kernel, as it does for a disk that does not answer.
func (d *Disk) Slow(stall, work time.Duration) error {
	if d.lazy != nil {
		return d.lazy
	}
	if d.slow != nil {
		return errors.New("the disk is slow already")
	}
	s := &slowness{stop: make(chan struct{})}
	d.slow = s
	s.done.Go(func() { // ends with stop
		for {
			if s.err = freeze(d.Path); s.err != nil {
				return
			}
			stopped := s.wait(stall)
			if s.err = thaw(d.Path); s.err != nil || stopped || s.wait(work) {
				return
			}
		}
	})
	return nil
}

// wait waits, and tells whether it is to stop.
func (s *slowness) wait(d time.Duration) bool {
	select {
	case <-s.stop:
		return true
	case <-time.After(d):
		return false
	}
}

// Quicken ends Slow.
func (d *Disk) Quicken() error {
	s := d.slow
	if s == nil {
		return nil
	}
	d.slow = nil
	close(s.stop)
	s.done.Wait()
	return s.err
}

func freeze(path string) error { return ioctl(path, ioctlFreeze) }
func thaw(path string) error   { return ioctl(path, ioctlThaw) }

func ioctl(path string, request uint) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}
