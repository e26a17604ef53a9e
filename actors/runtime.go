package actors

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// mailbox is the only way to an actor: messages are received one after another, in the order in which one
// sender sent them.
type mailbox interface {
	Tell(message any)
	// Stop ends the actor after the messages that are in the mailbox, and returns when it has ended.
	Stop()
}

// runtime starts actors. It is all that the engine knows of protoactor.
type runtime interface {
	Spawn(name string, receive func(message any)) (mailbox, error)
	Shutdown()
}

// protoRuntime is protoactor's local runtime.
type protoRuntime struct {
	system *actor.ActorSystem
}

// newRuntime starts protoactor with its own metrics off: they cost more than a message.
func newRuntime(log *slog.Logger) runtime {
	return &protoRuntime{actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(faultsOnly{log.With("part", "actors").Handler()})
	}))}
}

// faultsOnly lets through what is at least a warning: protoactor tells at info level of every message to an
// actor that has stopped, which is as it should be here.
type faultsOnly struct{ slog.Handler }

func (h faultsOnly) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

func (h faultsOnly) WithAttrs(a []slog.Attr) slog.Handler { return faultsOnly{h.Handler.WithAttrs(a)} }
func (h faultsOnly) WithGroup(name string) slog.Handler   { return faultsOnly{h.Handler.WithGroup(name)} }

func (r *protoRuntime) Spawn(name string, receive func(any)) (mailbox, error) {
	props := actor.PropsFromFunc(func(c actor.Context) {
		switch m := c.Message().(type) {
		case actor.SystemMessage, actor.AutoReceiveMessage:
		default:
			receive(m)
		}
	})
	pid, err := r.system.Root.SpawnNamed(props, name)
	if err != nil {
		return nil, fmt.Errorf("spawn %s: %w", name, err)
	}
	return &protoMailbox{r.system, pid}, nil
}

func (r *protoRuntime) Shutdown() { r.system.Shutdown() }

type protoMailbox struct {
	system *actor.ActorSystem
	pid    *actor.PID
}

func (m *protoMailbox) Tell(message any) { m.system.Root.Send(m.pid, message) }

// Stop poisons: protoactor's Stop would lose what is in the mailbox without a trace.
func (m *protoMailbox) Stop() {
	_ = m.system.Root.PoisonFuture(m.pid).Wait() // its error is a time-out of the future, checked by the caller's own
}

// realClock is the clock of a node.
type realClock struct{}

func (realClock) Now() time.Time { return time.Now().UTC() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RealClock is the machine's clock.
func RealClock() Clock { return realClock{} }
