package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kisflow/kisflow/bench/program"
)

// setup is what runs: a program, where its NATS is, and how safely both write.
type setup struct {
	Program string // yardstick, kisnode or gonode
	Flows   string // folder under bench/flows; of kisnode and gonode
	Pack    bool   // many outputs in a message
	Outside bool   // NATS is a process of its own
	Power   bool   // durability: power
}

// system is a setup that runs, with a connection to its NATS.
type system struct {
	setup
	bin, dir   string
	natsURL    string
	natsListen string
	listen     string // the node's API
	broker     *program.Process
	worker     *program.Process
	nc         *nats.Conn
	js         jetstream.JetStream
}

const (
	inSubject  = "orders.new"
	outSubject = "totals.user"
	startLimit = 2 * time.Minute
)

// open starts a setup in a new folder and waits until it takes orders.
func (b *bench) open(ctx context.Context, c setup) (*system, error) {
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		return nil, err
	}
	s := &system{setup: c, bin: b.bin, dir: dir}
	if err := s.open(ctx); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

func (s *system) open(ctx context.Context) (err error) {
	if s.natsListen, err = program.FreeAddress(); err != nil {
		return err
	}
	if s.listen, err = program.FreeAddress(); err != nil {
		return err
	}
	s.natsURL = "nats://" + s.natsListen
	if s.Outside {
		if err := s.startBroker(ctx); err != nil {
			return err
		}
	}
	if err := s.startWorker(ctx); err != nil {
		return err
	}
	return s.connect(ctx)
}

func (s *system) startBroker(ctx context.Context) error {
	syncs := "2m"
	if s.Power {
		syncs = "always"
	}
	config := filepath.Join(s.dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream {\n  store_dir: %q\n  sync_interval: %s\n}\n", s.natsListen, filepath.Join(s.dir, "nats"), syncs)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	var err error
	if s.broker, err = program.Start(filepath.Join(s.bin, "nats-server"), "-c", config); err != nil {
		return err
	}
	return s.broker.WaitFor(ctx, "nats-server", startLimit, func() error {
		nc, err := nats.Connect(s.natsURL)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

// startWorker starts the program and waits until it is ready.
func (s *system) startWorker(ctx context.Context) (err error) {
	data := filepath.Join(s.dir, "data")
	args := []string{"--data", data}
	if s.Outside {
		args = append(args, "--nats", s.natsURL)
	} else {
		args = append(args, "--nats-listen", s.natsListen)
	}
	ready := func() error { return program.HTTPOK("http://" + s.listen + "/readyz") }
	if s.Program == "yardstick" {
		if s.Pack {
			args = append(args, "--pack")
		}
		if s.Power {
			args = append(args, "--sync")
		}
		ready = func() error {
			if !s.worker.Log.Has("ready\n") {
				return errors.New("it has not said that it is ready")
			}
			return nil
		}
	} else {
		durability := "process"
		if s.Power {
			durability = "power"
		}
		args = append(args, "--flows", filepath.Join("bench", "flows", s.Flows), "--listen", s.listen, "--durability", durability)
	}
	if s.worker, err = program.Start(filepath.Join(s.bin, s.Program), args...); err != nil {
		return err
	}
	return s.worker.WaitFor(ctx, s.Program, startLimit, ready)
}

// connect waits until both streams are there.
func (s *system) connect(ctx context.Context) (err error) {
	if s.nc, err = nats.Connect(s.natsURL, nats.MaxReconnects(-1)); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return err
	}
	return s.worker.WaitFor(ctx, "streams", startLimit, func() error {
		_, err := s.js.StreamNameBySubject(ctx, inSubject)
		if err == nil {
			_, err = s.js.StreamNameBySubject(ctx, outSubject)
		}
		return err
	})
}

// measured are the processes whose time counts.
func (s *system) measured() []*program.Process {
	if s.broker != nil {
		return []*program.Process{s.worker, s.broker}
	}
	return []*program.Process{s.worker}
}

// close stops everything in good order and removes the data.
func (s *system) close() error {
	s.nc.Close()
	err := errors.Join(s.worker.Stop(), s.broker.Stop())
	return errors.Join(err, os.RemoveAll(s.dir))
}

// abandon ends everything after a mistake.
func (s *system) abandon() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.worker.Kill()
	s.broker.Kill()
	_ = os.RemoveAll(s.dir) // a temporary folder, and there is a mistake to report already
}
