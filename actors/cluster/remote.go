package cluster

import (
	"context"
	"errors"
)

// remote is the link between processes.
type remote struct{}

func newRemote(Options, linkHost) link { return remote{} }

var errNoRemote = errors.New("calls between processes are being built: set Network")

func (remote) start(context.Context, string) (string, error)    { return "", errNoRemote }
func (remote) call(context.Context, peer, Call) ([]byte, error) { return nil, errUnsent }
func (remote) ask(context.Context, Call) ([]byte, error)        { return nil, errUnsent }
func (remote) members([]Member)                                 {}
func (remote) stop()                                            {}
