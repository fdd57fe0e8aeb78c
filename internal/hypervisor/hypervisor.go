// Package hypervisor is the port to libvirt and QEMU on one host: which VMs
// there are, how their disks are switched to overlays, how a new VM is made, and
// how disk images are created, exported and merged.
//
// It decides nothing: which points are taken and which layers merged is the
// snapshot tier's and the engines' business. Adapters live below it (libvirt,
// qemu, fake) and all pass hypervisortest.
package hypervisor

import (
	"context"
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// Errors by which callers decide. Adapters wrap them.
var (
	// ErrNoVM: the host has no VM with this id.
	ErrNoVM = errors.New("no such VM")
	// ErrExists: the name, UUID or file is taken.
	ErrExists = errors.New("already exists")
	// ErrAway: the hypervisor does not answer; the call may be tried again.
	ErrAway = errors.New("hypervisor does not answer")
	// ErrLocked: another process has the image open in a way that forbids this.
	ErrLocked = errors.New("image is in use")
)

// Domain is a VM as the hypervisor defines it. The XML texts are complete,
// secrets included, and must not leave the host in the clear (I10).
type Domain struct {
	VM          backstay.VM
	LiveXML     string // "" when shut off
	InactiveXML string
	NVRAM       string // path of the firmware variables; "" for BIOS
	TPMState    string // folder of the vTPM's state; "" without one
	// Snapshots are the names of libvirt's own snapshots that somebody made.
	Snapshots []string
	// SnapshotFiles are the image files that those snapshots consist of. None of
	// them may be merged or removed: the snapshot would be lost.
	SnapshotFiles []string
	// Inside tells that some of those snapshots lie within the images: a layer
	// that is merged takes them with it.
	Inside bool
	// Saved: the VM is shut off with its memory saved; the saved state names the
	// image files as they are now.
	Saved bool
	// Autostart: the host starts the VM when it starts itself.
	Autostart bool
	// Checkpoints: another tool follows changes by libvirt's checkpoints, which a
	// merge by the image tools would break.
	Checkpoints bool
	// Chains lists for each disk its image files from the active layer down.
	Chains map[backstay.DiskTarget][]string
	// Mirrors are the files that jobs on the VM's disks copy to; the VM may be on
	// one of them any moment.
	Mirrors []string
	// Elements holds for each disk its element in the persistent definition, as
	// text, so that the owner's own words can be put back (I15).
	Elements map[backstay.DiskTarget]string
	// ConsoleLog is the file that the serial console is written to, if any, or
	// its pty.
	Console string
}

// EventKind is what happened to a VM or to the connection.
type EventKind string

// The kinds of event.
const (
	EventChanged EventKind = "changed" // defined, undefined, started, stopped …
	EventAgent   EventKind = "agent"   // the guest agent came or went
	EventUp      EventKind = "up"      // connected (again): look at everything
	EventDown    EventKind = "down"    // connection lost
)

// Event tells that something happened. VM is empty for the connection's own.
type Event struct {
	Kind EventKind
	VM   backstay.VMID
}

// Inventory tells what is on the host. Every method may be called concurrently
// and fails with ErrAway when libvirt does not answer.
type Inventory interface {
	// Facts describes the host. Host-wide and cheap enough for every pre-flight.
	Facts(ctx context.Context) (backstay.HostFacts, error)
	// VMs lists every domain, running or not. The Host field is left empty.
	VMs(ctx context.Context) ([]backstay.VM, error)
	// Domain describes one VM completely; ErrNoVM if it is not there.
	Domain(ctx context.Context, id backstay.VMID) (Domain, error)
	// Watch calls fn for each event until ctx ends; it reconnects by itself and
	// reports EventDown and EventUp. fn is called from one goroutine.
	Watch(ctx context.Context, fn func(Event)) error
}

// Switch is the request that one disk writes to an overlay from now on. The
// overlay file exists already and is backed by the disk's active layer.
type Switch struct {
	Target  backstay.DiskTarget
	Overlay string
}

// SwitchOptions say what else is done around a switch, as close to it as can be.
type SwitchOptions struct {
	// Before, if set, is called when everything is ready, right before the disks
	// are switched. Its error is the call's, and nothing is switched then.
	Before func() error
	// After, if set, is called as soon as the switch has returned, with its error,
	// before anything else is done. It is not called if Before failed or if the
	// switch was not tried.
	After func(error)
}

// Switched is what a switch did. Took is how long the switch alone lasted.
type Switched struct {
	Took time.Duration
}

// Merge is the request to merge the layers above Base up to and including Top
// down into Base. If Top is the active layer the VM continues on Base.
type Merge struct {
	Target    backstay.DiskTarget
	Top, Base string
	// Throttle says how fast. A merge of the active layer that cannot keep up with
	// what the guest writes goes faster than it says, until it can.
	Throttle Throttle
}

// Disks changes which files a VM's disks consist of.
type Disks interface {
	// SwitchAll moves all named disks of a VM to their overlays at one instant:
	// all or none, in the live and in the persistent definition. Works for
	// running, paused and shut-off VMs, and asks nothing of the guest.
	SwitchAll(ctx context.Context, id backstay.VMID, disks []Switch, o SwitchOptions) (Switched, error)
	// MergeLive merges layers of a running VM and returns when done; the merged
	// files are left in place, unused. progress gets bytes done and total.
	MergeLive(ctx context.Context, id backstay.VMID, m Merge, progress func(done, total int64)) error
	// Retarget lets the persistent definition of a shut-off VM use another image
	// for a disk, and drops any recorded backing chain that is not needed to open
	// it. Of a running VM it changes how the image that it is on is named.
	Retarget(ctx context.Context, id backstay.VMID, target backstay.DiskTarget, to Source) error
}

// VMs makes VMs and ends them.
type VMs interface {
	// Define makes a persistent VM from XML; ErrExists if name or UUID is taken.
	Define(ctx context.Context, xml string) (backstay.VMID, error)
	// Undefine removes the definition with firmware variables and TPM state and
	// never a disk. No error if the VM is not there.
	Undefine(ctx context.Context, id backstay.VMID) error
	// Start starts a VM that is shut off.
	Start(ctx context.Context, id backstay.VMID) error
	// Destroy ends a running VM at once. No error if it does not run.
	Destroy(ctx context.Context, id backstay.VMID) error
	// SetAutostart lets the host start the VM when it starts itself, or not.
	SetAutostart(ctx context.Context, id backstay.VMID, on bool) error
	// DiscardSaved throws away the memory that was saved when the VM was shut off
	// (Domain.Saved): resumed over other disks it would destroy their file systems.
	// The VM's next start is a boot. No error if none is saved, or if it runs.
	DiscardSaved(ctx context.Context, id backstay.VMID) error
}

// Host is all of a host's hypervisor.
type Host interface {
	Inventory
	Disks
	Copies
	KeepsSecrets
	VMs
	Stats
	Guests
	Stalls
	Pulls
	Redefines
	CPUs
	Lives
	Networks
	Screens
	// Close lets go of what is open; the VMs go on.
	Close() error
}

// ImageInfo describes an image file.
type ImageInfo struct {
	Path        string
	Format      string // qcow2, raw …
	VirtualSize int64
	DiskSize    int64  // bytes allocated on the host
	Backing     string // absolute path of the backing file, "" if none
	Encrypted   bool
}

// ExportOptions say how an image is exported.
type ExportOptions struct {
	Format   string // of the image; required, never probed (a guest could forge a header)
	Secret   string // see Image.Secret
	Writable bool
	// Alone opens only this layer: what it does not hold reads as absent, and
	// Map tells allocated from not.
	Alone bool
	// Connections is the number of clients that may connect; 0 means 4.
	Connections int
}

// Export is an image being served by NBD on a unix socket. Close ends the
// server process and removes the socket; it may be called twice.
type Export interface {
	// Socket is the path of the unix socket.
	Socket() string
	// Name is the NBD export's name.
	Name() string
	// Close ends the server process and removes the socket.
	Close() error
}

// Images makes and merges image files. It works on files that no running VM
// writes to; QEMU's own locks are respected.
type Images interface {
	Converts
	Encrypts
	// Create makes an empty image of the given guest-visible size, mode 0600.
	// ErrExists if the file is there. Beside a VM's formats it knows vmdk (one
	// sparse file) and vhdx (dynamic), which only Export and Info know too: they
	// carry disks from and to other hypervisors.
	Create(ctx context.Context, path, format string, size int64) error
	// CreateOverlay makes a qcow2 overlay (128 KiB clusters with 4 KiB
	// sub-clusters), mode 0600. ErrExists if the file is there.
	CreateOverlay(ctx context.Context, o Overlay) error
	// Info describes what lies at a location, without following its backing
	// chain and without its key.
	Info(ctx context.Context, location string) (ImageInfo, error)
	// Export serves an image by NBD.
	Export(ctx context.Context, location string, o ExportOptions) (Export, error)
	// Allocated lists the ranges which this layer alone holds (data or explicit
	// zeros), in order, in the finest steps that the image records.
	Allocated(ctx context.Context, image Image) ([]backstay.Range, error)
	// Commit merges an overlay into its backing file; the VM must be shut off. The
	// overlay stays as it is, so that it may be repeated after a crash.
	Commit(ctx context.Context, overlay Image, o CommitOptions) error
	// Rebase makes the overlay name another backing file with the same content.
	Rebase(ctx context.Context, overlay, backing Image) error
}
