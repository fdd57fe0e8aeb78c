package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/keyring"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/host"
	"github.com/backstay/backstay/internal/mover/rpc"
	"github.com/backstay/backstay/internal/quiesce"
)

// Agent runs the data mover of a host in a process of its own until ctx ends.
func (d *Daemon) Agent(ctx context.Context, o config.AgentOptions) error {
	socket, ok := strings.CutPrefix(o.Listen, "unix://")
	if !ok || !filepath.IsAbs(socket) {
		return backstay.Errorf(backstay.CodeUsage, "%q is not a place to listen", o.Listen).
			Becausef("a mover listens at a unix socket with an absolute path").Do("give --listen unix:///absolute/path.sock")
	}
	limitMemory()
	log := newLogger(config.Log{Level: "info", Format: "text"}, os.Stderr)
	keys := keyfile.New(filepath.Join(o.State, "keys"))
	m, closeHost, err := d.hostMover(ctx, hostOptions{libvirt: o.Libvirt, state: o.State, layers: o.Layers, files: o.Files, keys: keys, log: log})
	if err != nil {
		return err
	}
	defer func() {
		if err := closeHost(); err != nil {
			log.Warn("close", "error", err)
		}
	}()
	listener, err := rpc.Listen(socket)
	if err != nil {
		return err
	}
	log.Info("mover listens", "socket", socket, "libvirt", o.Libvirt)
	return rpc.Serve(ctx, listener, m, log)
}

// hostOptions say what a mover works on.
type hostOptions struct {
	name    backstay.HostName
	libvirt string
	state   string
	layers  string // folder for layers of disks that are no file; "" means the default
	files   config.Files
	keys    keyring.Keyring
	log     *slog.Logger
}

// hostMover makes the mover of this machine.
func (d *Daemon) hostMover(ctx context.Context, o hostOptions) (mover.Mover, func() error, error) {
	var images *qemu.Images
	hv, err := libvirt.Open(ctx, o.libvirt, libvirt.Options{Log: o.log, Size: func(ctx context.Context, location string) (int64, error) {
		info, err := images.Info(ctx, location)
		return info.VirtualSize, err
	}})
	if err != nil {
		return nil, nil, err
	}
	images = qemu.New(qemu.Options{Dir: filepath.Join(o.state, "exports"), Secrets: hv})
	machines, closeMachines := smallMachines(o)
	m, err := host.New(host.Options{
		Machines: machines, Sessions: o.files.Sessions,
		Hypervisor: hv, Images: images, Keyring: o.keys, StateDir: o.state, LayerDir: cmp.Or(o.layers, config.DefaultLayers), Name: o.name, Log: o.log,
		Guards: quiesce.Processes{Command: d.selfCommand("guard"), Libvirt: o.libvirt}, OnHeld: d.Hooks.Held,
		OpenVault: units{hooks: d.Hooks}.openVault, OpenKeyService: openKeyService, Exports: live.Processes{Command: d.selfCommand("export")},
	})
	if err != nil {
		return nil, nil, errors.Join(err, closeMachines())
	}
	if err := m.SweepSessions(); err != nil {
		o.log.Warn("what sessions of an earlier mover left could not be removed", "error", err)
	}
	tending, stop := context.WithCancel(ctx)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		m.Tend(tending)
	}()
	return m, func() error {
		stop()
		<-tended
		m.CloseAll()
		return errors.Join(closeMachines(), hv.Close())
	}, nil
}
