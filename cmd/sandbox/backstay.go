package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/daemon"
	"github.com/backstay/backstay/internal/sandbox"
)

// backstayMain is backstay's own command line, with the faults that the world
// plans. Without a world it differs in nothing.
func backstayMain(args []string) int {
	if err := aim(args); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	faults := sandbox.EnvironmentFaults()
	d := &daemon.Daemon{Self: []string{"/proc/self/exe", "backstay"}, Hooks: daemon.Hooks{BeforeStep: faults.BeforeStep, Unit: faults.Unit, Held: faults.Held}}
	return cli.Main(ctx, args, cli.Env{Version: daemon.Version()}, cli.Daemons{Server: d.Server, Init: d.Init, Agent: d.Agent, Guard: d.Guard, Export: d.Export, SmallMachine: d.SmallMachine})
}

// aim lets a person's commands go to the region of the world that is up, unless
// they name another.
func aim(args []string) error {
	if len(args) == 0 || slices.Contains([]string{"init", "server", "agent", "guard", "export"}, args[0]) ||
		os.Getenv("BACKSTAY_CONFIG") != "" || os.Getenv("BACKSTAY_SERVER") != "" {
		return nil
	}
	w, err := sandbox.Open(defaultDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && w.Region == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Setenv("BACKSTAY_CONFIG", w.Region.Client)
}
