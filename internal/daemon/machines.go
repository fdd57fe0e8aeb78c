package daemon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/mover/host"
)

// beside is how many small machines may run beside those of sessions: one that is
// kept ready, and those of a host's own work: a list of files, and a comparison of two.
const beside = 4

// smallMachines makes the pool of a mover, and what ends it. A mover that cannot have
// one backs up and restores all the same.
func smallMachines(o hostOptions) (host.Machines, func() error) {
	pool, err := guest.NewPool(poolOptions(o.files, filepath.Join(o.state, "machines"), o.log))
	if err != nil {
		o.log.Warn("files cannot be read out of points on this host", "error", err)
		return nil, func() error { return nil }
	}
	return host.PoolMachines(pool), pool.Close
}

func poolOptions(f config.Files, run string, log *slog.Logger) guest.Options {
	o := guest.Options{Run: run, Parts: f.Machine, Memory: int64(f.Memory) << 20, Most: cmp.Or(f.Sessions, host.MaxSessions) + beside, Log: log}
	if f.Warm == "off" {
		o.Keep = -1
	}
	return o
}

// SmallMachine starts a small machine and ends it, and says how that went: a check of
// this machine for `backstay doctor`. dir is the folder of what it starts from; ""
// means the one that was installed.
func (d *Daemon) SmallMachine(ctx context.Context, dir string) (string, error) {
	run, err := os.MkdirTemp("", "backstay-doctor-")
	if err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(run) }()
	pool, err := guest.NewPool(poolOptions(config.Files{Machine: dir, Warm: "off"}, run, slog.New(slog.DiscardHandler)))
	if err != nil {
		return "", backstay.Errorf(backstay.CodeMachineFailed, "no small machine can be made").Because(err)
	}
	defer func() { _ = pool.Close() }()
	began := time.Now()
	machine, err := pool.Machine(ctx, guest.Need{})
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	if err := machine.Close(); err != nil {
		return "", err
	}
	return fmt.Sprintf("starts in %.1f s", took.Seconds()), nil
}
