//go:build !linux

package rig

import (
	"errors"
	"testing"
)

var errLinux = errors.New("network namespaces are Linux's")

func openNamespaces(testing.TB) (*Network, error)        { return nil, errLinux }
func (n *Network) addNamespace(testing.TB, *Place) error { return errLinux }
func (p *Place) cut(*Place) error                        { return errLinux }
func (p *Place) heal(*Place) error                       { return errLinux }

// Unplug takes the place off the network, from the tests' own process too; Plug puts it back.
func (p *Place) Unplug() error { return errLinux }

// Plug ends Unplug.
func (p *Place) Plug() error { return errLinux }

func (p *Place) inside(f func() error) error { return f() }
