// Package snapshot is the tier whose points live beside the disk they were
// taken from: each point is a set of frozen layers, one for each disk, in a tree
// of overlays. It makes points (Prepare, Take, Settle), lists and opens them,
// tells what changed between two, and ends them by merging layers.
//
// The truth of this tier is the folder .backstay beside the disks: a record for
// each layer and each point, and an intent for everything that is half done, so
// that a crash at any instant leaves a state from which Settle and Sweep reach
// the whole of it or nothing (I9). The package does not copy points elsewhere
// and makes no VM; those who stand on a layer register as its users, and a layer
// with users is never merged (architecture decision 1).
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// HostKey is the name of the key in the host's keyring with which definitions
// are sealed beside the disks (architecture decision 10).
const HostKey = "host-key"

// Options say what a Tier works on. Hypervisor, Images, Keyring and StateDir
// are required.
type Options struct {
	Hypervisor hypervisor.Host
	Images     hypervisor.Images
	Keyring    keyring.Keyring
	// StateDir is a folder of this host's own, in which the folders that hold
	// records are remembered.
	StateDir string
	// Pace tells for a VM how fast its layers may be merged and copied; nil means
	// without limit. It is called once for each merge.
	Pace func(backstay.VMID) hypervisor.Throttle
	// LayerDir is the folder for the layers and records of disks that are no file
	// in a folder of their own: block devices and disks on the network. Empty means
	// a folder in StateDir.
	LayerDir string
	Host     backstay.HostName
	// Guards see to it that a guest is let go when this process dies (I9). Nil
	// means guards inside this process, which cannot: for tests.
	Guards quiesce.Guards
	// OnHeld, if set, is called while a guest is frozen or paused, before its disks
	// are switched: for tests that interfere there.
	OnHeld func(context.Context, backstay.VMID)
	Log    *slog.Logger
	Now    func() time.Time
}

// Tier is the snapshot tier of one host. Its methods may be called
// concurrently; those that change one VM's layers must be called one at a time
// for each VM, which is the caller's duty.
type Tier struct {
	hv      hypervisor.Host
	images  hypervisor.Images
	layers  string // folder for layers of disks that have none of their own
	keys    keyring.Keyring
	records *record.Store
	pace    func(backstay.VMID) hypervisor.Throttle
	host    backstay.HostName
	guards  quiesce.Guards
	onHeld  func(context.Context, backstay.VMID)
	log     *slog.Logger
	now     func() time.Time

	mu sync.Mutex
	// making are the points that this process is taking. Guarded by mu.
	making map[backstay.PointID]*making
	// reading are the jobs that read layers in this process, so that a sweep
	// leaves their entries alone. Guarded by mu.
	reading map[string]int
}

// New returns the snapshot tier of a host. It makes the state folder if it is
// not there.
func New(o Options) (*Tier, error) {
	if o.Hypervisor == nil || o.Images == nil || o.Keyring == nil || o.StateDir == "" {
		return nil, errors.New("snapshot tier: hypervisor, images, keyring and state folder are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pace == nil {
		o.Pace = func(backstay.VMID) hypervisor.Throttle { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Guards == nil {
		o.Guards = quiesce.Within(o.Hypervisor, o.Log)
	}
	if o.LayerDir == "" {
		o.LayerDir = filepath.Join(o.StateDir, "layers")
	}
	layers, err := filepath.Abs(o.LayerDir)
	if err != nil {
		return nil, fmt.Errorf("find layer folder: %w", err)
	}
	records, err := record.NewStore(o.StateDir)
	if err != nil {
		return nil, err
	}
	return &Tier{
		hv: o.Hypervisor, images: o.Images, layers: layers, keys: o.Keyring, pace: o.Pace, records: records,
		host: o.Host, guards: o.Guards, onHeld: o.OnHeld, log: o.Log, now: o.Now,
		making: map[backstay.PointID]*making{}, reading: map[string]int{},
	}, nil
}

// hostKey returns the key that seals definitions, made at its first use.
func (t *Tier) hostKey(ctx context.Context) ([]byte, error) {
	secret, err := t.keys.Create(ctx, HostKey, freshKey)
	if err != nil {
		return nil, fmt.Errorf("get host key: %w", err)
	}
	if len(secret.Reveal()) != 32 {
		return nil, errors.New("get host key: it does not have 32 bytes")
	}
	return secret.Reveal(), nil
}
