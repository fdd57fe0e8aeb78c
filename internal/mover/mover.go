// Package mover is the port to a host's disks: everything that reads, writes,
// freezes or defines on a host goes through it, and nothing else in the server
// opens a disk path (architecture decision 7).
//
// The adapters are mover/host, which does the work on the host itself, and
// mover/rpc, which carries the same calls over a socket. The messages hold
// words of the product; a Secret in one is sent by rpc over sockets that only
// root can open, and never printed.
package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// Progress is called as work proceeds. Calls come from one goroutine at a time.
type Progress func(Report)

// Report is one sign of progress of a long call.
type Report struct {
	Phase string `json:"phase,omitempty"` // transfer, validate, write, verify, merge …
	Done  int64  `json:"done"`            // bytes
	Total int64  `json:"total"`           // bytes, the best estimate so far
	// Pack is a pack that is now durable in every copy; a later attempt may name
	// it in TransferRequest.Packs.
	Pack string `json:"pack,omitempty"`
	// Note says for people what holds the work up now; "" if nothing does.
	Note string `json:"note,omitempty"`
}

// VaultAccess is what a mover needs to read and write one vault.
type VaultAccess struct {
	Name backstay.VaultName
	ID   string
	// Units are the URLs of those that are written, in the vault's order: the first
	// decides who wins a name. Joining are those among them that may lack what was in
	// the vault before them.
	Units   []string
	Joining []string `json:",omitempty"`
	// Behind were recorded as lost. They are never written, and only asked for packs
	// that no other copy can show.
	Behind     []string `json:",omitempty"`
	Redundancy backstay.Redundancy
	// Replica: it is another region's vault, which is read and never written.
	Replica bool            `json:",omitempty"`
	Key     backstay.Secret // the vault's master key; rpc carries it, nothing prints it
}

// Inventory answers what a host has.
type Inventory interface {
	// Facts tells what a restore's plan must know of the host.
	Facts(ctx context.Context) (backstay.HostFacts, error)
	// VMs lists the host's VMs as they are now.
	VMs(ctx context.Context) ([]backstay.VM, error)
	// Watch calls fn after each change until ctx ends or the mover goes away. An
	// empty id means: look at everything.
	Watch(ctx context.Context, fn func(backstay.VMID)) error
	// Paths tells for each path whether it exists, how big it is, and how much
	// room its folder has.
	Paths(ctx context.Context, paths []string) ([]PathInfo, error)
}

// PathInfo describes a path on the host.
type PathInfo struct {
	Path      string `json:"path"`
	Exists    bool   `json:"exists"`
	Folder    bool   `json:"folder"`    // the parent folder exists
	Available int64  `json:"available"` // bytes left in the parent's file system
	Device    string `json:"device"`    // identifies that file system
	// Empty tells of a folder that nothing is in it.
	Empty bool `json:"empty,omitempty"`
	// DeviceSize is how big a block device is, in bytes; 0 for all else.
	DeviceSize int64 `json:"deviceSize,omitempty"`
	// Busy says why the host itself uses a block device; "" if it does not.
	Busy string `json:"busy,omitempty"`
	// UsedBy names the VMs of which the file is a disk.
	UsedBy []string `json:"usedBy,omitempty"`
	// LeftBy is the planned VM of a restore that ended because its vault was away,
	// and that left the file for a retry; "" for every other file.
	LeftBy backstay.VMID `json:"leftBy,omitempty"`
}

// PrepareRequest asks to make ready for a snapshot: everything slow.
type PrepareRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	VM    backstay.VMID
	Disks []backstay.DiskTarget
	// Consistency is what Take will wish for; with crash no guest agent is waited
	// for. Empty means file-system.
	Consistency backstay.Consistency
	// Depth is the most points that a disk's chain may hold with the new one;
	// beyond it Prepare fails with CodeTooDeep. 0 means backstay.MaxDepth.
	Depth int
	// Keys say how the point holds the VM's secrets; nil holds their values.
	Keys *KeyPolicy
}

// Prepared is what was made ready. The overlays exist and nobody uses them yet.
type Prepared struct {
	Disks []PreparedDisk
	Agent backstay.AgentState
	// Notes say what will be weaker than wished, e.g. that the agent is silent.
	Notes []string
	// Warnings are for the job: a key service that could not be reached, for instance.
	Warnings []string
}

// PreparedDisk is one disk with its frozen-to-be layer and its new overlay.
type PreparedDisk struct {
	Target  backstay.DiskTarget
	Layer   backstay.LayerID // the layer that will be frozen
	Source  string           // its path
	Format  string
	Size    int64
	Overlay string
	Next    backstay.LayerID // the overlay's layer id
}

// TakeRequest asks for the snapshot itself.
type TakeRequest struct {
	Job         backstay.JobID
	Point       backstay.PointID
	VM          backstay.VMID
	Consistency backstay.Consistency // what is wished for
	// Fallback are the weaker consistencies that may be taken, as in a policy.
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	Time     time.Time
	// Held: Hold froze or paused the guest before, and LetGo will end that.
	Held bool
}

// Taken is a snapshot-tier point: all disks at one instant.
type Taken struct {
	Point       backstay.PointID
	Time        time.Time
	Consistency backstay.Consistency
	Reason      string
	FreezeMs    int64
	Shape       backstay.VM
	Disks       []backstay.PointDisk
	Parent      backstay.PointID // the point whose layers lie directly below; "" for the first
	Pinned      bool             // somebody wants it kept until it is unpinned
	// Secrets say how the point holds the VM's secrets; no values.
	Secrets []backstay.PointSecret
	// Notes are warnings of the call that took the point.
	Notes []string
}

// SweepReport says what a sweep found and mended (I9).
type SweepReport struct {
	Thawed   []backstay.VMID
	Removed  []string // files
	Finished []backstay.PointID
}

// Snapshots makes, lists and ends snapshot-tier points of the VMs of a host.
type Snapshots interface {
	// Prepare makes overlays and journals that it did.
	Prepare(ctx context.Context, r PrepareRequest) (Prepared, error)
	// Take freezes, switches all disks at once, thaws, and records the point
	// beside the disk. Without error the point is restorable.
	Take(ctx context.Context, r TakeRequest) (Taken, error)
	// Settle ends an interrupted Prepare or Take of this point: if the VM was
	// switched, the point is recorded and returned; otherwise everything of it
	// is removed, and found is false. It thaws the guest in either case.
	Settle(ctx context.Context, vm backstay.VMID, p backstay.PointID) (taken Taken, found bool, err error)
	// Points lists the snapshot-tier points that are recorded on the host.
	Points(ctx context.Context) ([]Taken, error)
	// DropPoint takes a point out of the snapshot tier by merging its layers.
	// CodeLayerInUse if something else stands on one of them.
	DropPoint(ctx context.Context, p backstay.PointID, progress Progress) error
	// Sweep mends what a crash left on the host. live are the points and plans
	// of jobs that will go on by themselves.
	Sweep(ctx context.Context, live []backstay.JobID) (SweepReport, error)
	// Release ends protection of a VM: its remaining layers are merged and it is
	// on its own file again. Where others stand on its layers it is put on a copy.
	// CodeLayerInUse if a point of it is pinned or being read. Safe to repeat.
	Release(ctx context.Context, vm backstay.VMID, progress Progress) (Released, error)
}

// TransferRequest asks to carry a snapshot-tier point into a vault.
type TransferRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	Vault VaultAccess
	// Parent is the newest point of the VM in the vault, "" for none. It is a
	// hint: without a provable change map everything is compared (I7).
	Parent backstay.PointID
	// Packs are those that an interrupted attempt made durable.
	Packs []string
	// Avoid are packs that are known to be damaged in every copy.
	Avoid   []string
	Expires *time.Time
	// Guest says what the guest may feel of the transfer; its LatencyLimit counts.
	Guest backstay.GuestRules
	// Header facts that the vault's manifest repeats: with them a catalogue can be
	// rebuilt from the vault.
	Policy backstay.PolicyName
	Host   backstay.HostName
	// LeftOut are the disks that are not in the point, and Group is that of the
	// point: the manifest repeats them too.
	LeftOut []backstay.PointDisk
	Group   backstay.GroupName
}

// Transferred is a point in the vault, validated and committed.
type Transferred struct {
	Disks []backstay.PointDisk
	Stats backstay.JobStats
	// Head is the vault's chain with the point in it.
	Head backstay.VaultHead
	// Mode says for each disk how changes were found: first copy, changed
	// layers, or full compare and why.
	Modes map[backstay.DiskTarget]string
	// Sampled are the bytes of unchanged pieces that were read again and compared
	// with the parent's, as a tripwire for change maps that lie.
	Sampled int64
	// Warnings name change maps that did.
	Warnings []string
}

// VerifyRequest asks to read a whole point through the decoder.
type VerifyRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	Tier  backstay.Tier
	Vault *VaultAccess // with VaultTier
}

// Verified has the SHA-256 of each disk's whole content, in hex.
type Verified struct {
	SHA256 map[backstay.DiskTarget]string
	Stats  backstay.JobStats
}

// Transfers moves points between the tiers.
type Transfers interface {
	// Transfer reads what changed, stores it, validates what was stored and only
	// then commits the point's manifest. Phases: transfer, validate.
	Transfer(ctx context.Context, r TransferRequest, progress Progress) (Transferred, error)
	// Verify reads a whole point and returns the SHA-256 of each disk; what
	// cannot be authenticated is backstay.CodeDamaged (I4).
	Verify(ctx context.Context, r VerifyRequest, progress Progress) (Verified, error)
}

// StageRequest asks to write the disks of a planned restore.
type StageRequest struct {
	Job   backstay.JobID
	Plan  backstay.RestorePlan
	Vault *VaultAccess // with VaultTier
	// Services are the key services that the point's secrets may need.
	Services []KeyService
}

// Staged says what was written. From the snapshot tier that is overlays only.
type Staged struct {
	BytesRead    int64
	BytesWritten int64
	Paths        []string
	// Warnings name copies of objects that were damaged, and for which others
	// were used.
	Warnings []string
	// Damaged are these copies, as many as are worth a repair at once.
	Damaged []DamagedCopy `json:",omitempty"`
}

// DamagedCopy is a copy of a vault's object that gave wrong bytes, or none, where
// another was right. Unit is the URL of its storage unit.
type DamagedCopy struct {
	Object string
	Unit   string
}

// Defined says how the new VM differs from its source where nobody asked for it:
// devices that only one VM can have, for instance.
type Defined struct {
	Warnings []string
}

// Up says how a VM came up.
type Up struct {
	Seconds float64
	How     string
}

// Restores makes VMs out of points. Each call is safe to repeat.
type Restores interface {
	// Stage writes the disks and verifies them. It undoes itself on error.
	Stage(ctx context.Context, r StageRequest, progress Progress) (Staged, error)
	// Define puts firmware variables and TPM state in place and defines the VM.
	// CodeCreateVMFailed leaves the disks.
	Define(ctx context.Context, r StageRequest) (Defined, error)
	// Start starts the VM and waits until the plan's probe says that it is up.
	Start(ctx context.Context, r StageRequest) (Up, error)
	// Abandon removes everything that the plan made, in whatever state it is.
	Abandon(ctx context.Context, r StageRequest) error
}

// Mover is all of a host.
type Mover interface {
	Inventory
	Snapshots
	Holds
	Standings
	Keeps
	Transfers
	Pulls
	Imports
	Streams
	Restores
	Replaces
	Lives
	Previews
	Rooms
	Adopts
	Secrets
	Deploys
	Files
	Indexes
	Puts
	Drills
	GivesWay
}
