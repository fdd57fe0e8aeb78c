// Package host is the mover on the host itself: it does what the port asks with
// the hypervisor, the image tools and the tiers of this machine. It is for the
// process that runs where the disks are; carrying its calls over a socket is
// mover/rpc's business, and deciding what to do is the engines'.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/pull"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/vault"
)

// Options say what a Host works on. Log and Now may be left out.
type Options struct {
	Hypervisor hypervisor.Host
	Images     hypervisor.Images
	// Keyring holds "host-key", which seals definitions in the snapshot tier.
	Keyring keyring.Keyring
	// StateDir is the mover's own folder on this host.
	StateDir string
	// LayerDir is the folder for layers of disks that are no file; see
	// snapshot.Options.
	LayerDir string
	// SocketDir is the folder for the sockets on which QEMU serves disks; empty
	// means /run/backstay.
	SocketDir string
	// OpenVault opens a vault from here. It is called for each transfer anew, since
	// a vault does not see what others wrote to it after it was opened.
	OpenVault func(ctx context.Context, a mover.VaultAccess, options ...vault.OpenOption) (*vault.Vault, error)
	// OpenKeyService opens an outside key service; nil for a mover that can use none.
	OpenKeyService func(mover.KeyService) (keyring.Service, error)
	Name           backstay.HostName
	// Guards and OnHeld are the snapshot tier's.
	Guards quiesce.Guards
	// Exports serve VMs that are restored live; nil if that is never asked for.
	Exports live.Exports
	OnHeld  func(context.Context, backstay.VMID)
	// Machines starts the small machines in which points' files are read; nil for a
	// mover that reads none.
	Machines Machines
	// Sessions is how many small machines may be open at a time; 0 means MaxSessions.
	Sessions int
	Log      *slog.Logger
	Now      func() time.Time
}

// Host is a mover for the machine it runs on. Its methods may be called
// concurrently; calls that change one VM wait for each other.
type Host struct {
	hv             hypervisor.Host
	images         hypervisor.Images
	keys           keyring.Keyring
	state          string
	openVault      func(ctx context.Context, a mover.VaultAccess, options ...vault.OpenOption) (*vault.Vault, error)
	name           backstay.HostName
	openKeyService func(mover.KeyService) (keyring.Service, error)
	log            *slog.Logger
	now            func() time.Time

	sockets  string
	exports  live.Exports
	machines Machines

	tier    *snapshot.Tier
	pacer   *pacer
	pulls   *pull.Puller
	streams streams
	files   fileSessions
	vms     keyedMutex // one changing call at a time for each VM
	puts    keyedMutex // one call at a time for each job that puts
}

// New returns the mover of this machine.
func New(o Options) (*Host, error) {
	if o.OpenVault == nil {
		return nil, errors.New("mover: a way to open vaults is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	pacer := newPacer(pace.New(pace.Options{Stats: o.Hypervisor, Log: o.Log}), o.StateDir, o.Log)
	t, err := snapshot.New(snapshot.Options{
		Pace:       pacer.throttle,
		Hypervisor: o.Hypervisor, Images: o.Images, Keyring: o.Keyring,
		StateDir: o.StateDir, LayerDir: o.LayerDir, Host: o.Name, Guards: o.Guards, OnHeld: o.OnHeld, Log: o.Log, Now: o.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("make mover: %w", err)
	}
	pulls, err := pull.New(pull.Options{
		Hypervisor: o.Hypervisor, Images: o.Images, StateDir: filepath.Join(o.StateDir, "pulls"),
		SocketDir: o.SocketDir, LayerDir: o.LayerDir, Guards: o.Guards, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("make mover: %w", err)
	}
	return &Host{
		pulls: pulls, sockets: cmp.Or(o.SocketDir, "/run/backstay"), exports: o.Exports, machines: o.Machines,
		hv: o.Hypervisor, images: o.Images, keys: o.Keyring, state: o.StateDir,
		openVault: o.OpenVault, openKeyService: o.OpenKeyService, name: o.Name, log: o.Log, now: o.Now, tier: t, pacer: pacer,
		files:   fileSessions{most: cmp.Or(o.Sessions, MaxSessions), open: map[backstay.FileSessionID]*fileSession{}, barred: map[backstay.LayerID]time.Time{}},
		streams: streams{serving: map[backstay.JobID]*serving{}, desks: map[backstay.JobID]*desk{}},
	}, nil
}

// openPoint opens a snapshot-tier point: its facts, its definition unsealed,
// and the layers of each disk.
func (h *Host) openPoint(ctx context.Context, p backstay.PointID) (*snapshot.Point, error) {
	return h.tier.Open(ctx, p)
}
