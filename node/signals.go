package node

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// signalContext ends with the first SIGTERM or SIGINT; the second one ends the process at once.
func signalContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-c
		cancel()
		<-c
		os.Exit(130)
	}()
	return ctx
}
