package daemon

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/quiesce"
)

// selfCommand is the command line of a process of ours. The program is named by
// its process, so that it is found also when its file was replaced meanwhile.
func (d *Daemon) selfCommand(name string) []string {
	if len(d.Self) > 0 {
		return append(slices.Clone(d.Self), name)
	}
	return []string{"/proc/self/exe", name}
}

// Guard runs a guard: the process that lets a guest go when the one that froze it
// cannot. It takes its orders from standard input, and SIGTERM only makes it let
// go at once.
func (d *Daemon) Guard(ctx context.Context) error {
	// Whoever stops a service may say so more than once, and whoever reads what
	// this process says may be gone: neither may end it while a guest is frozen.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-signals
		cancel()
	}()
	log := newLogger(config.Log{Level: "info", Format: "text"}, os.Stderr).With("guard", os.Getpid())
	open := func(ctx context.Context, uri string) (hypervisor.Guests, func() error, error) {
		h, err := libvirt.Open(ctx, uri, libvirt.Options{})
		if err != nil {
			return nil, nil, err
		}
		return h, h.Close, nil
	}
	return quiesce.Serve(ctx, os.Stdin, os.Stdout, open, log)
}
