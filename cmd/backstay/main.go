// Command backstay backs up and restores virtual machines that run on QEMU/KVM
// under libvirt.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	var d daemon.Daemon
	os.Exit(cli.Main(ctx, os.Args[1:], cli.Env{Version: daemon.Version()}, cli.Daemons{Server: d.Server, Init: d.Init, Agent: d.Agent, Guard: d.Guard, Export: d.Export, SmallMachine: d.SmallMachine}))
}
