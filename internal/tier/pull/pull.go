// Package pull reads the disks of a VM as they are at one instant without a
// layer of ours below them: QEMU itself serves a running VM's disks, keeps what
// the guest overwrites in scratch images, and tells by dirty bitmaps what
// changed since the checkpoint of an earlier point. It is no tier: its points
// live in a vault only, and who reads a Session writes them there.
//
// A change map is told only if the checkpoint is bound to the very point that
// the caller builds on (I7); the record of that lies in the state folder, and so
// does the journal of a session, so that a crash leaves no job, no scratch image
// and no socket behind (I9). The guest comes first: a session ends, and its
// reader fails, before scratch images have no room left (I12).
//
// How the guest is held still for the instant is internal/quiesce's. It never ends or changes what other tools made.
package pull

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
)

// Options say what a Puller works on. Hypervisor, Images and StateDir are
// required.
type Options struct {
	Hypervisor hypervisor.Host
	Images     hypervisor.Images
	// StateDir is a folder of its own for records and journals.
	StateDir string
	// SocketDir is the folder in which each session makes one for its socket; its
	// path must be short. QEMU's user must be able to pass through it. Empty
	// means /run/backstay.
	SocketDir string
	// LayerDir takes the scratch images of disks that are no files in a folder.
	LayerDir string
	// Guards see to it that a guest is let go when this process dies (I9). Nil
	// means guards that die with it.
	Guards quiesce.Guards
	Log    *slog.Logger
}

// Puller begins and mends sessions on one host. Its methods may be called
// concurrently; those of one VM must be called one at a time, which is the
// caller's duty.
type Puller struct {
	hv      hypervisor.Host
	images  hypervisor.Images
	state   string
	sockets string
	layers  string
	guards  quiesce.Guards
	log     *slog.Logger

	mu   sync.Mutex
	open map[backstay.VMID]bool // sessions of this process; guarded by mu
}

// The timing of what watches over a session.
const (
	watchEvery = 50 * time.Millisecond
	stallEvery = 20 // of those: how often it is asked whether the guest stands
)

// New returns a puller. It makes the state folder if it is not there.
func New(o Options) (*Puller, error) {
	if o.Hypervisor == nil || o.Images == nil || o.StateDir == "" {
		return nil, errors.New("pull: hypervisor, images and state folder are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Guards == nil {
		o.Guards = quiesce.Within(o.Hypervisor, o.Log)
	}
	if o.SocketDir == "" {
		o.SocketDir = "/run/backstay"
	}
	state, err := filepath.Abs(o.StateDir)
	if err == nil {
		err = os.MkdirAll(state, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	if o.LayerDir == "" {
		o.LayerDir = filepath.Join(state, "scratch")
	}
	return &Puller{
		hv: o.Hypervisor, images: o.Images, state: state, sockets: o.SocketDir, layers: o.LayerDir,
		guards: o.Guards, log: o.Log, open: map[backstay.VMID]bool{},
	}, nil
}

// setOpen notes whether a session of the VM is open in this process.
func (p *Puller) setOpen(vm backstay.VMID, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, vm)
	if open {
		p.open[vm] = true
	}
}

func (p *Puller) isOpen(vm backstay.VMID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[vm]
}
