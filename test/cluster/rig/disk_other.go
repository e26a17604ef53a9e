//go:build !linux

package rig

import (
	"testing"
	"time"
)

type slowness struct{}

func mountDisk(_ testing.TB, d *Disk, _, _ string) { d.missing, d.lazy = errNoDisk, errNoDisk }

// Free is how many bytes are free.
func (d *Disk) Free() (int64, error) { return 0, errNoDisk }

// Fill takes space until so many bytes are free.
func (d *Disk) Fill(int64) error { return d.missing }

// Slow stalls the disk again and again.
func (d *Disk) Slow(_, _ time.Duration) error { return d.lazy }

// Quicken ends Slow.
func (d *Disk) Quicken() error { return nil }
