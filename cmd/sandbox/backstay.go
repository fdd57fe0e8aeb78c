package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/daemon"
	"github.com/backstay/backstay/internal/sandbox"
)

// backstayMain is backstay's own command line, with the faults that the world
// plans. Without a world it differs in nothing.
func backstayMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	faults := sandbox.EnvironmentFaults()
	d := &daemon.Daemon{Hooks: daemon.Hooks{BeforeStep: faults.BeforeStep, Unit: faults.Unit}}
	return cli.Main(ctx, args, cli.Env{Version: daemon.Version()}, cli.Daemons{Server: d.Server, Init: d.Init, Agent: d.Agent})
}
