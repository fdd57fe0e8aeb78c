// Package catalog is the port to the region's catalogue: an index of the
// hosts, VMs, vaults and points, and the durable queue of jobs. It can be
// rebuilt from the vaults and from the files beside the disks, except for
// policies, tokens, jobs and the audit log, which live here alone.
//
// Adapters (sqlite) live below it and pass catalogtest. One small interface for
// each noun; Catalog holds them together.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// Errors by which callers decide. Reading, updating or deleting what is not
// there is ErrNotFound, creating what is there is ErrExists, unless a method
// says otherwise.
var (
	ErrNotFound = errors.New("not in the catalogue")
	ErrExists   = errors.New("already in the catalogue")
	// ErrFenced: another server took the job over; stop working on it.
	ErrFenced = errors.New("the job is locked by another server")
	// ErrBusy: a VM that the job may change is being changed by another job.
	ErrBusy = errors.New("a VM of the job is being changed by another job")
)

// Catalog is the catalogue of one region. All methods of all its parts may be
// called concurrently; a write that returned nil is durable.
type Catalog struct {
	Hosts      Hosts
	VMs        VMs
	Vaults     Vaults
	Policies   Policies
	Items      Items
	Groups     Groups
	Points     Points
	Jobs       Jobs
	Audit      Audit
	Tokens     Tokens
	Trash      Trash
	Health     Health
	Replicas   Replicas
	Drills     Drills
	DrillPlans DrillPlans
	Held       Held
	Units      Units
	Regions    Regions
	Close      func() error
}

// Hosts keeps what was last seen of the hosts.
type Hosts interface {
	// PutHost inserts or replaces.
	PutHost(ctx context.Context, h backstay.Host) error
	// Host returns one host.
	Host(ctx context.Context, name backstay.HostName) (backstay.Host, error)
	// ListHosts returns all hosts, by name.
	ListHosts(ctx context.Context) ([]backstay.Host, error)
	// DeleteHost forgets the host and its VMs.
	DeleteHost(ctx context.Context, name backstay.HostName) error
}

// VMs keeps what was last seen of the VMs.
type VMs interface {
	// ReplaceVMs sets the VMs of one host to exactly these.
	ReplaceVMs(ctx context.Context, host backstay.HostName, vms []backstay.VM) error
	// VM returns the VM; the running one if two hosts define the same UUID.
	VM(ctx context.Context, id backstay.VMID) (backstay.VM, error)
	// ListVMs returns the VMs of all hosts, by host and name.
	ListVMs(ctx context.Context) ([]backstay.VM, error)
}

// Vaults keeps the vaults' names and places; keys are in the keyring and the
// vaults.
type Vaults interface {
	// CreateVault inserts; ErrExists if the name is taken.
	CreateVault(ctx context.Context, v backstay.Vault) error
	// UpdateVault replaces.
	UpdateVault(ctx context.Context, v backstay.Vault) error
	// Vault returns one vault.
	Vault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error)
	// ListVaults returns all vaults, by name.
	ListVaults(ctx context.Context) ([]backstay.Vault, error)
}

// Policies keeps the policies.
type Policies interface {
	// CreatePolicy inserts; ErrExists if the name is taken.
	CreatePolicy(ctx context.Context, p backstay.Policy) error
	// UpdatePolicy replaces.
	UpdatePolicy(ctx context.Context, p backstay.Policy) error
	// Policy returns one policy.
	Policy(ctx context.Context, name backstay.PolicyName) (backstay.Policy, error)
	// ListPolicies returns all policies, by name.
	ListPolicies(ctx context.Context) ([]backstay.Policy, error)
	// DeletePolicy fails with ErrExists while an item uses it.
	DeletePolicy(ctx context.Context, name backstay.PolicyName) error
}

// Items keeps the protected items.
type Items interface {
	// PutItem inserts or replaces; ErrNotFound if the policy or the vault is unknown.
	PutItem(ctx context.Context, i backstay.ProtectedItem) error
	// ChangeItem reads, changes and writes in one transaction; ErrNotFound if the
	// VM is not protected (any more).
	ChangeItem(ctx context.Context, vm backstay.VMID, change func(*backstay.ProtectedItem) error) error
	// Item returns a VM's protected item; ErrNotFound if the VM is not protected.
	Item(ctx context.Context, vm backstay.VMID) (backstay.ProtectedItem, error)
	// ListItems returns all items, by their VMs' UUIDs.
	ListItems(ctx context.Context) ([]backstay.ProtectedItem, error)
	// DeleteItem ends the VM's protection; its points stay.
	DeleteItem(ctx context.Context, vm backstay.VMID) error
}

// Groups keeps the groups of VMs whose points are taken at one instant. A VM is in
// one group at most.
type Groups interface {
	// CreateGroup inserts; ErrExists if the name is taken or a VM is in a group.
	CreateGroup(ctx context.Context, g backstay.Group) error
	// Group returns one group.
	Group(ctx context.Context, name backstay.GroupName) (backstay.Group, error)
	// GroupOf returns the group that a VM is in; ErrNotFound if it is in none.
	GroupOf(ctx context.Context, vm backstay.VMID) (backstay.Group, error)
	// ListGroups returns all groups, by name.
	ListGroups(ctx context.Context) ([]backstay.Group, error)
	// DeleteGroup forgets the group; its VMs stay protected as they are.
	DeleteGroup(ctx context.Context, name backstay.GroupName) error
}

// Points keeps the index of recovery points.
type Points interface {
	// PutPoint inserts or replaces.
	PutPoint(ctx context.Context, p backstay.RecoveryPoint) error
	// ChangePoint reads, changes and writes in one transaction.
	ChangePoint(ctx context.Context, id backstay.PointID, change func(*backstay.RecoveryPoint) error) error
	// Point returns one point.
	Point(ctx context.Context, id backstay.PointID) (backstay.RecoveryPoint, error)
	// ListPoints returns the points of one VM, or of all if vm is empty, oldest first.
	ListPoints(ctx context.Context, vm backstay.VMID) ([]backstay.RecoveryPoint, error)
	// DeletePoint is no error for a point that is gone: expiry repeats itself.
	DeletePoint(ctx context.Context, id backstay.PointID) error
}

// JobRecord is a job with what only the queue needs.
type JobRecord struct {
	backstay.Job
	// Params are what the job was asked to do; State is what its runner saved.
	Params json.RawMessage
	State  json.RawMessage
	// VMs are the VMs that the job may change: one job at a time for each.
	// Host and Vault are the slots that it takes; each may be empty.
	VMs   []backstay.VMID
	Host  backstay.HostName
	Vault backstay.VaultName
	// VMsFree: the job has let go of its VMs, and changes them no more.
	VMsFree bool
	// Fence grows with each claim; a write with an old one fails with ErrFenced.
	Fence     int64
	Attempt   int
	LockedBy  string
	LockUntil time.Time
}

// Claim takes the job for owner until the given time: the fence and the attempt
// grow by one, and a queued job becomes a running one. ErrFenced if it has ended
// or somebody's lock still holds. Adapters call it inside their transaction.
func (r *JobRecord) Claim(owner string, now, until time.Time) error {
	held := r.LockedBy != "" && r.LockUntil.After(now)
	if r.Job.State.Ended() || (r.Job.State != backstay.JobQueued && held) {
		return ErrFenced
	}
	if r.Job.State == backstay.JobQueued {
		r.Job.State = backstay.JobRunning
	}
	if r.Job.Started == nil {
		r.Job.Started = &now
	}
	r.Job.Waiting = ""
	r.Fence, r.Attempt = r.Fence+1, r.Attempt+1
	r.LockedBy, r.LockUntil = owner, until
	return nil
}

// Release lets go of the lock, so that anybody may claim the job at once.
func (r *JobRecord) Release() { r.LockedBy, r.LockUntil = "", time.Time{} }

// Jobs keeps the queue.
type Jobs interface {
	// InsertJob inserts; ErrExists if the id is taken.
	InsertJob(ctx context.Context, j JobRecord) error
	// Job returns one job.
	Job(ctx context.Context, id backstay.JobID) (JobRecord, error)
	// ListJobs returns jobs newest first: those of the given states, or all; at
	// most limit of them, or without a limit if it is 0.
	ListJobs(ctx context.Context, limit int, states ...backstay.JobState) ([]JobRecord, error)
	// ClaimJob locks a queued job, or a running or cancelling one whose lock ran
	// out or was released, for owner until the given time and returns it with a
	// higher fence and one attempt more (JobRecord.Claim). ErrFenced if somebody
	// else has it or it ended; ErrBusy if another claimed job that has not ended
	// may change one of its VMs; a job whose VMs are free asks for none. Of many concurrent claims exactly one succeeds.
	ClaimJob(ctx context.Context, id backstay.JobID, owner string, now, until time.Time) (JobRecord, error)
	// ExtendJob prolongs the lock and returns the job's present state, so that
	// the owner learns of a cancel. ErrFenced if the lock was lost.
	ExtendJob(ctx context.Context, id backstay.JobID, fence int64, until time.Time) (backstay.JobState, error)
	// UpdateJob reads, changes and writes in one transaction. fence 0 means that
	// the caller is not the runner (a cancel); otherwise it must be the present
	// one. The change may not touch the id or the fence; an error of it is
	// returned and nothing is written. A job that ends lets go of its lock and its
	// VMs in the same transaction, and one that sets VMsFree of its VMs.
	UpdateJob(ctx context.Context, id backstay.JobID, fence int64, change func(*JobRecord) error) (JobRecord, error)
}

// Audit keeps the append-only log of changes. The adapter refuses updates and
// deletes by a trigger.
type Audit interface {
	// Append gives the entry the next Seq, whatever Seq it has, and keeps it for ever.
	Append(ctx context.Context, e backstay.AuditEntry) error
	// ListAudit returns up to limit entries with Seq > after, oldest first.
	ListAudit(ctx context.Context, after int64, limit int) ([]backstay.AuditEntry, error)
}

// Tokens keeps the API's tokens, by the SHA-256 of their secret.
type Tokens interface {
	// PutToken inserts or replaces; of the secret only its hash is kept.
	PutToken(ctx context.Context, t backstay.Token, secretHash [32]byte) error
	// TokenByHash finds the token of a secret, or ErrNotFound.
	TokenByHash(ctx context.Context, secretHash [32]byte) (backstay.Token, error)
	// ListTokens returns all tokens, by id.
	ListTokens(ctx context.Context) ([]backstay.Token, error)
	// DeleteToken makes the secret useless at once.
	DeleteToken(ctx context.Context, id string) error
}

// TrashRecord is what the region knows of one list of condemned packs of a
// vault: when it first saw the list, and who read or wrote the vault then.
type TrashRecord struct {
	Vault  backstay.VaultName `json:"vault"`
	List   string             `json:"list"`
	Since  time.Time          `json:"since"`
	Leases []backstay.Lease   `json:"leases"`
}

// Trash keeps the leases on condemned packs. The lists themselves are in the
// vaults; a record that is lost is made anew, which only puts a deletion off.
type Trash interface {
	// PutTrash inserts; ErrExists if there is one for the list, which stays.
	PutTrash(ctx context.Context, r TrashRecord) error
	// ListTrash returns the records of one vault, by list.
	ListTrash(ctx context.Context, vault backstay.VaultName) ([]TrashRecord, error)
	// DeleteTrash is no error for a record that is gone.
	DeleteTrash(ctx context.Context, vault backstay.VaultName, list string) error
}

// Health keeps what verifying and repairing found out of the vaults.
type Health interface {
	// VaultHealth returns what is known of one vault; nothing is no error.
	VaultHealth(ctx context.Context, vault backstay.VaultName) (backstay.VaultHealth, error)
	// ChangeVaultHealth reads, changes and writes in one transaction; a vault of
	// which nothing is known starts from the zero value.
	ChangeVaultHealth(ctx context.Context, vault backstay.VaultName, change func(*backstay.VaultHealth) error) error
}

// ReplicaRecord is how far one point of this region is in another one.
type ReplicaRecord struct {
	Point backstay.PointID   `json:"point"`
	Vault backstay.VaultName `json:"vault"`
	backstay.Replica
}

// Replicas keeps how far the points of this region's vaults are in other regions,
// as those said last. What is lost of it is asked for again.
type Replicas interface {
	// PutReplicas inserts or replaces, all in one transaction.
	PutReplicas(ctx context.Context, records ...ReplicaRecord) error
	// ListReplicas returns those of one vault, or of all if vault is empty, by point
	// and region.
	ListReplicas(ctx context.Context, vault backstay.VaultName) ([]ReplicaRecord, error)
	// ReplicasOf returns those of one point, by region.
	ReplicasOf(ctx context.Context, point backstay.PointID) ([]ReplicaRecord, error)
	// DeleteReplicas forgets those points of a region. No error for one that is gone.
	DeleteReplicas(ctx context.Context, region backstay.RegionName, points ...backstay.PointID) error
}

// HeldPoint is a point of another region's vault that became whole here.
type HeldPoint struct {
	Vault backstay.VaultName `json:"vault"` // the replica's name in this region
	Point backstay.PointID   `json:"point"`
	// Since is when it became whole here, Taken the point's own time.
	Since time.Time `json:"since"`
	Taken time.Time `json:"taken"`
	// Item is the pseudonym of the point's VM, Root what its manifest says to be the
	// hash over all of it, both in hex; Packs is how many packs it refers to.
	Item  string `json:"item"`
	Root  string `json:"root"`
	Packs int    `json:"packs"`
	// Gone is when it was let go by this region's own retention; nil while it is held.
	// It is never taken in again then.
	Gone *time.Time `json:"gone,omitempty"`
}

// Held keeps what this region holds of other regions' vaults, and what it held of
// them: nothing is ever removed.
type Held interface {
	// PutHeld inserts or replaces.
	PutHeld(ctx context.Context, h HeldPoint) error
	// HeldPoint returns one.
	HeldPoint(ctx context.Context, vault backstay.VaultName, point backstay.PointID) (HeldPoint, error)
	// ListHeld returns those of one replica, by point.
	ListHeld(ctx context.Context, vault backstay.VaultName) ([]HeldPoint, error)
}

// RegionRecord is a paired region with what only the pairing needs.
type RegionRecord struct {
	backstay.Region
	// Tokens are those by which regions of this name were paired and that have not
	// expired yet: none of them pairs another server.
	Tokens []UsedToken `json:"tokens"`
	// Removed: it is paired no more, and is kept for its tokens alone. Only ChangeRegions
	// shows it.
	Removed bool `json:"removed,omitempty"`
}

// UsedToken is a token of pairing that was used.
type UsedToken struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// Regions keeps what is known of the regions with which this one is paired.
type Regions interface {
	// Region returns one region.
	Region(ctx context.Context, name backstay.RegionName) (RegionRecord, error)
	// ListRegions returns all regions, by name.
	ListRegions(ctx context.Context) ([]RegionRecord, error)
	// ChangeRegions reads all regions, changes them and writes them in one
	// transaction: whether two servers may have one name, or one certificate two names,
	// is decided by change. What it removes is forgotten. An error of it is returned,
	// and nothing is written.
	ChangeRegions(ctx context.Context, change func(map[backstay.RegionName]RegionRecord) error) error
}

// Drills keeps the records of drills. The adapter refuses updates and deletes by a
// trigger.
type Drills interface {
	// AppendDrill gives the record its number, the hash of the one before and its own,
	// keeps it for ever and returns it so. One whose id is there already is returned as
	// it is: a drill has one record.
	AppendDrill(ctx context.Context, r backstay.DrillRecord) (backstay.DrillRecord, error)
	// Drill returns one record.
	Drill(ctx context.Context, id backstay.DrillID) (backstay.DrillRecord, error)
	// ListDrills returns records newest first, at most limit of them, or all if it is 0.
	ListDrills(ctx context.Context, limit int) ([]backstay.DrillRecord, error)
}

// DrillPlans keeps the plans of drills.
type DrillPlans interface {
	// CreateDrillPlan inserts; ErrExists if the name is taken.
	CreateDrillPlan(ctx context.Context, p backstay.DrillPlan) error
	// ChangeDrillPlan reads, changes and writes in one transaction.
	ChangeDrillPlan(ctx context.Context, name backstay.DrillName, change func(*backstay.DrillPlan) error) error
	// DrillPlan returns one plan.
	DrillPlan(ctx context.Context, name backstay.DrillName) (backstay.DrillPlan, error)
	// ListDrillPlans returns all plans, by name.
	ListDrillPlans(ctx context.Context) ([]backstay.DrillPlan, error)
	// DeleteDrillPlan forgets a plan; the records of its drills stay.
	DeleteDrillPlan(ctx context.Context, name backstay.DrillName) error
}
