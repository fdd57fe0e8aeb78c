package daemon

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// exportMemory is memoryLimit for an export, whose cache is larger, in bytes.
const exportMemory = 208 << 20

// Export runs an export: the process that serves a point to a VM which runs before
// its disks were copied. It takes its order from standard input, and SIGTERM ends
// it only when no VM is connected: whoever stops a service does not mean the VMs.
func (d *Daemon) Export(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		<-signals
		cancel()
	}()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(exportMemory)
	}
	log := newLogger(config.Log{Level: "info", Format: "text"}, os.Stderr).With("export", os.Getpid())
	open := func(ctx context.Context, o live.Order) (live.Source, error) {
		// Each chunk is authenticated, so a cache of a unit far away is as good as the unit.
		v, err := units{hooks: d.Hooks}.openVault(blob.AllowCached(ctx), o.Vault, vault.CacheBytes(vault.ServingCache))
		if err != nil {
			return nil, err
		}
		point, err := v.OpenPoint(ctx, o.Point)
		if err != nil {
			_ = v.Close() // nothing was done with it
			return nil, err
		}
		return servedPoint{point, v}, nil
	}
	return live.Serve(ctx, os.Stdin, os.Stdout, open, log)
}

// servedPoint is a vault's point as an export reads it.
type servedPoint struct {
	point *vault.Point
	vault *vault.Vault
}

// Disk implements live.Source.
func (p servedPoint) Disk(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
	return p.point.Disk(blob.AllowCached(ctx), target)
}

// Close implements live.Source.
func (p servedPoint) Close() error { return p.vault.Close() }
