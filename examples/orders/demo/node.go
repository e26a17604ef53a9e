package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// node is the kisnode process; it can be started again on the same data.
type node struct {
	path, data         string
	natsListen, listen string
	name               string   // in a cluster
	args               []string // further flags
	cmd                *exec.Cmd
	exited             chan struct{} // closed when cmd has ended
	waitErr            error         // read it after exited
	log                *tail
}

func newNode(path, data string) (*node, error) {
	n := &node{path: path, data: data, log: &tail{}}
	for _, to := range []*string{&n.natsListen, &n.listen} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*to = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *node) url() string { return "http://" + n.listen }

// start starts the process and waits until it is ready.
func (n *node) start(ctx context.Context) error {
	n.cmd = exec.Command(n.path, append([]string{"--data", n.data, "--listen", n.listen, "--nats-listen", n.natsListen, "--durability", "process"}, n.args...)...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		n.cmd = nil
		return fmt.Errorf("start kisnode: %w (make build makes it)", err)
	}
	exited := make(chan struct{})
	n.exited = exited
	go func() {
		n.waitErr = n.cmd.Wait()
		close(exited)
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := n.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("kisnode ended: %v\n%s", n.waitErr, n.log)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("kisnode is not ready after a minute: %w\n%s", err, n.log)
		}
	}
}

func (n *node) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("readyz: " + resp.Status)
	}
	return nil
}

// kill is kill -9.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill() // it may have ended already
	<-n.exited
}

// stop ends it in good order, or at once after a mistake.
func (n *node) stop(atOnce bool) error {
	if n.cmd == nil {
		return nil
	}
	if atOnce {
		n.kill()
		return nil
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-n.exited:
	case <-time.After(30 * time.Second):
		n.kill()
		return fmt.Errorf("kisnode did not stop within 30 s after SIGTERM\n%s", n.log)
	}
	if n.waitErr != nil {
		return fmt.Errorf("kisnode: %w\n%s", n.waitErr, n.log)
	}
	return nil
}

// tail keeps the end of what the node logs.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 8 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - tailSize; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
