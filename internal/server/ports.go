package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// JobRequest is a job to be queued.
type JobRequest struct {
	Kind   backstay.JobKind
	Target string           // the VM, as HOST/NAME
	Point  backstay.PointID // the point that is read, if any
	User   string
	Params any // one of the root's …Params; kept as JSON
	// VMs are the VMs that the job may change; Host and Vault the slots it takes.
	VMs     []backstay.VMID
	Host    backstay.HostName
	Vault   backstay.VaultName
	Retries backstay.JobID
	// Alone: refused with CodeConflict while another job of the kind has one of the
	// VMs or waits for it.
	Alone bool
	// Urgent jobs go ahead of all queued ones, and need no slot.
	Urgent bool
	// Tasks are the tasks of this job where its kind has no fixed ones.
	Tasks []string
}

// JobQueue is what the server needs of the queue of jobs. All methods may be
// called concurrently. Errors are coded where a user can do something about
// them: CodeUnknownJob, CodeJobEnded.
type JobQueue interface {
	// Submit makes the job durable and returns it, queued.
	Submit(ctx context.Context, r JobRequest) (backstay.Job, error)
	// Get returns one job as it stands.
	Get(ctx context.Context, id backstay.JobID) (backstay.Job, error)
	// List returns jobs newest first: those of the given states, or all; at most
	// limit of them, or without a limit if it is 0.
	List(ctx context.Context, limit int, states ...backstay.JobState) ([]backstay.Job, error)
	// Cancel ends a queued job, or tells a running one to undo and end.
	Cancel(ctx context.Context, id backstay.JobID) (backstay.Job, error)
	// Retry queues a job that ended anew, as a new job that names the old one.
	Retry(ctx context.Context, id backstay.JobID, user string) (backstay.Job, error)
	// Follow sends the job as it stands and after each change, and closes the
	// channel once it has sent the ended job or ctx ends.
	Follow(ctx context.Context, id backstay.JobID) (<-chan backstay.Job, error)
}

// Planner decides, without touching anything, what a job would do.
type Planner interface {
	// PlanRestore plans a restore of any kind, with its pre-flight list.
	PlanRestore(ctx context.Context, r backstay.RestoreRequest) (backstay.RestorePlan, error)
	// PlanUndo plans to take a restore back. CodeCannotUndo if that cannot be done.
	PlanUndo(ctx context.Context, job backstay.JobID, r backstay.UndoRequest) (backstay.UndoPlan, backstay.UndoParams, error)
	// PlanDeploy plans to make a VM of restored disks, and returns the parameters of
	// their template with the values that count.
	PlanDeploy(ctx context.Context, r backstay.DeployRequest) (backstay.RestorePlan, []backstay.Parameter, error)
	// PlanBackup plans a backup of a VM.
	PlanBackup(ctx context.Context, vm backstay.VMID) (api.BackupPlan, error)
	// PlanImage plans a backup of image files, and completes what is known of them.
	PlanImage(ctx context.Context, image backstay.ImageBackup) (api.BackupPlan, backstay.ImageBackup, error)
	// SimulatePolicy tells what a policy would keep, had it been at work for so
	// many days.
	SimulatePolicy(p backstay.Policy, days int) (backstay.PolicySimulation, error)
	// PlanReclaim plans a reclaim of a vault.
	PlanReclaim(ctx context.Context, params backstay.ReclaimParams) (backstay.ReclaimPlan, error)
}

// Drills plans drills.
type Drills interface {
	// PlanDrill decides what a drill would restore now. What stands in the way is the
	// error.
	PlanDrill(ctx context.Context, plan backstay.DrillPlan) (backstay.DrillParams, error)
}

// Layers does what is to be done at once in the snapshot tier of a host.
type Layers interface {
	// Pin keeps a point's layers until they are unpinned, also when the catalogue is
	// lost. CodeUnknownPoint if the host does not have the point.
	Pin(ctx context.Context, host backstay.HostName, p backstay.PointID, pinned bool) error
	// Rooms tells the room beside the disks as it was last seen.
	Rooms(host backstay.HostName) []backstay.Room
}

// Lives does what is to be done at once about a live restore. The job is one.
type Lives interface {
	// Hurry lets the rest of its disks be copied as fast as they can be.
	Hurry(ctx context.Context, job backstay.JobID) error
	// Abandon removes what the job left, which has ended without success.
	Abandon(ctx context.Context, job backstay.JobID) error
}

// Vaults does what needs a vault's key or its storage units, which the server
// itself never touches.
type Vaults interface {
	// CreateVault makes a vault with its key, on its storage units and in the
	// catalogue. The recovery key is returned here and never again.
	CreateVault(ctx context.Context, r api.CreateVaultRequest) (v backstay.Vault, recoveryKey string, err error)
	// ImportVault takes in a vault that exists on its storage units, with a key
	// that opens it and that is kept nowhere.
	ImportVault(ctx context.Context, r api.ImportVaultRequest) (backstay.Vault, error)
	// VaultUsage says what the vault holds.
	VaultUsage(ctx context.Context, name backstay.VaultName) (backstay.VaultUsage, error)
	// CheckVault looks at every storage unit now, keeps what it found in the
	// catalogue and returns it (I13).
	CheckVault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error)
	// KeepReplica sets the retention of a replica and returns its row.
	KeepReplica(ctx context.Context, name backstay.VaultName, keep backstay.ReplicaKeep) (backstay.Vault, error)
}

// Units does what needs the storage units themselves.
type Units interface {
	// AddUnit makes a place known to the region; a folder is made a unit first.
	AddUnit(ctx context.Context, u api.NewUnit) (backstay.Unit, error)
	// CheckUnit looks at a unit now, keeps what it found and returns it.
	CheckUnit(ctx context.Context, url string) (backstay.Unit, error)
	// ListUnits returns the units of the region with the vaults that are on each, as
	// last looked at.
	ListUnits(ctx context.Context) ([]backstay.Unit, error)
	// SetRedundancy has a vault brought to a redundancy, on the units that are named
	// and others: its row says which, and a redundancy job does the rest.
	SetRedundancy(ctx context.Context, vault backstay.VaultName, r backstay.Redundancy, units []api.NewUnit) (backstay.Vault, error)
	// DrainUnit lets no vault onto a unit any more, and has other units, those named
	// first, take its place in the vaults that are on it, by redundancy jobs.
	// CodeUsage if there are none.
	DrainUnit(ctx context.Context, url string, to []api.NewUnit) (backstay.Unit, error)
	// RemoveUnit forgets a unit. CodeUnitInUse while a vault is on it.
	RemoveUnit(ctx context.Context, url string) error
}
