package backstay

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

// Policy says when points are taken and how long each tier keeps them.
type Policy struct {
	Name PolicyName `json:"name"`
	// Every is the interval between two backups, in seconds; 0 means that only
	// people take points.
	Every Duration `json:"every"`
	// Consistency is what is wished for; a weaker one is taken, and said, when
	// the guest does not allow it.
	Consistency Consistency `json:"consistency"`
	// Fallback are the weaker consistencies that may be taken when the wished one
	// cannot be had, strongest first. Nil allows all weaker ones; an empty list
	// lets the backup fail rather than take a weaker point.
	Fallback []Consistency `json:"fallback,omitzero"`
	Guest    GuestRules    `json:"guest,omitzero"`
	Snapshot SnapshotKeep  `json:"snapshot"`
	Vault    VaultKeep     `json:"vault"`
	// NoIndex leaves out the list of a point's files that `files find` searches.
	NoIndex bool `json:"noIndex,omitempty"`
}

// GuestRules say what a backup may ask of a guest (I12).
type GuestRules struct {
	// SkipMounts are mount points in the guest that are not frozen.
	SkipMounts []string `json:"skipMounts,omitempty"`
	// Hooks says who runs the application's hooks; empty means HooksByUs.
	Hooks HookMode `json:"hooks,omitempty"`
	// FreezeBudget is the longest that file systems stay frozen, in seconds; 0
	// means DefaultFreezeBudget. A guest that is frozen longer is thawed, and the
	// point is only crash-consistent.
	FreezeBudget Duration `json:"freezeBudget,omitempty"`
	// LatencyLimit is the time of one of the guest's own disk requests, in
	// seconds, beyond which transfers and merges slow down and then stop; 0
	// means DefaultLatencyLimit.
	LatencyLimit Duration `json:"latencyLimit,omitempty"`
}

// HookMode says who runs the hooks in the guest that make a point application-
// consistent.
type HookMode string

// The ways to run hooks.
const (
	// HooksByUs: backstay reads a configuration in the guest and runs its scripts
	// through the guest agent.
	HooksByUs HookMode = "exec"
	// HooksByAgent: the guest agent's own fsfreeze-hook runs them, for guests whose
	// agent may not execute commands.
	HooksByAgent HookMode = "agent"
)

// The limits that hold where a policy names none.
const (
	DefaultFreezeBudget = Duration(2 * time.Second)
	DefaultLatencyLimit = Duration(100 * time.Millisecond)
)

// SnapshotKeep says how long points stay in the snapshot tier. A point goes
// when either limit says so; the newest one of a VM always stays, since the
// next change map is relative to it. Days 0 with Count 0 keeps only that change
// map: a point leaves the tier as soon as it is in its vault.
type SnapshotKeep struct {
	Days  int `json:"days"`  // 0 to 30; 0 means no limit by age
	Count int `json:"count"` // at most this many for each VM; 0 means no limit
	// Depth is the most points, each of them a layer, that a disk's chain may
	// hold, 1 to MaxDepth; 0 means DefaultDepth.
	Depth int `json:"depth,omitempty"`
}

// The bounds of a disk's chain of layers.
const (
	DefaultDepth = 8
	MaxDepth     = 32
)

// MapOnly tells whether points leave the snapshot tier as soon as their vault
// has them.
func (k SnapshotKeep) MapOnly() bool { return k.Days == 0 && k.Count == 0 }

// MaxPoints is the bound of points in a chain.
func (k SnapshotKeep) MaxPoints() int {
	if k.Depth == 0 {
		return DefaultDepth
	}
	return k.Depth
}

// ChainPoints is how many points the policy lets a disk's chain grow to: what its
// schedule makes within the retention of the snapshot tier. 0 means that it
// cannot be told, since only people take points and only their age is bounded.
func (p Policy) ChainPoints() int {
	if p.Snapshot.MapOnly() {
		return 1 // the one that is on its way into the vault
	}
	byAge := 0
	if every := time.Duration(p.Every); every > 0 && p.Snapshot.Days > 0 {
		kept := time.Duration(p.Snapshot.Days) * 24 * time.Hour
		byAge = int((kept + every - 1) / every)
	}
	switch {
	case byAge == 0 || p.Snapshot.Count > 0 && p.Snapshot.Count < byAge:
		return p.Snapshot.Count
	}
	return byAge
}

// VaultKeep says which points stay in the vault tier: the newest Last ones and
// the newest one of each of so many days, weeks, months and years that have one.
// All times are UTC; weeks are ISO weeks.
type VaultKeep struct {
	Last    int `json:"last"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
	Yearly  int `json:"yearly"`
}

// Duration is a time.Duration whose JSON is a number of seconds.
type Duration time.Duration

// MarshalJSON writes whole and fractional seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Seconds())
}

// UnmarshalJSON reads a number of seconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return fmt.Errorf("a duration is a number of seconds: %w", err)
	}
	// Beyond this an int64 of nanoseconds wraps around, to a negative one perhaps.
	if most := time.Duration(math.MaxInt64).Seconds(); seconds <= -most || seconds >= most {
		return fmt.Errorf("a duration of %g seconds is out of range", seconds)
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

// ProtectedItem is a VM under a policy, in a vault.
type ProtectedItem struct {
	VM     VMRef      `json:"vm"`
	Policy PolicyName `json:"policy"`
	Vault  VaultName  `json:"vault"`
	// Included are the only disks that are backed up; a disk that is added later
	// is not among them. Empty means all that are not excluded.
	Included []DiskTarget `json:"included,omitempty"`
	// Excluded are the disks that the user left out; a disk that is added later
	// is backed up.
	Excluded []DiskTarget `json:"excluded"`
	// Adopted are the VMs that were deleted, moved or made again by hand and whose
	// points are this item's by consent.
	Adopted []VMID `json:"adopted,omitempty"`
	// Method is how points are taken; empty means MethodLayers.
	Method Method `json:"method,omitempty"`
	// KeyService wraps the VM's secrets in its points; empty means that they hold the
	// values, sealed.
	KeyService string     `json:"keyService,omitempty"`
	Since      time.Time  `json:"since"`
	LastPoint  *time.Time `json:"lastPoint"`
	NextDue    *time.Time `json:"nextDue"`
}

// Judge says whether a disk of the item's VM is backed up: an include list leaves
// out all others, also those that are added later, and an exclude list names
// those that stay out. What cannot be backed up is not, whatever the lists say.
func (i *ProtectedItem) Judge(d Disk) DiskVerdict {
	v := DiskVerdict{Target: d.Target, Reason: d.Reason}
	switch {
	case slices.Contains(i.Excluded, d.Target):
		v.Excluded, v.Reason = true, "left out by the user"
	case len(i.Included) > 0 && !slices.Contains(i.Included, d.Target):
		v.Excluded, v.Reason = true, "not among the disks that the user chose"
	case d.Reason == "":
		v.Included = true
	}
	// What is no disk is nobody's choice: nothing is missing without it.
	if v.Excluded && d.Device != "disk" && d.Reason != "" {
		v.Excluded, v.Reason = false, d.Reason
	}
	return v
}

// Method is how the points of a protected item are taken.
type Method string

// The methods.
const (
	// MethodLayers freezes the layer that a disk writes to and puts an overlay on
	// it: points live in the snapshot tier first.
	MethodLayers Method = "layers"
	// MethodPull lets QEMU serve a running disk as it was at one instant, with the
	// changes that its dirty bitmap names: points live in the vault only.
	MethodPull Method = "pull"
)

// Group is a set of VMs whose points are taken at one instant, or not at all.
type Group struct {
	Name  GroupName `json:"name"`
	VMs   []VMRef   `json:"vms"`
	Since time.Time `json:"since"`
}
