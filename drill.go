package backstay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// DrillID names a drill; it is the id of the job that ran it.
type DrillID string

// DrillName is the name of a plan of drills.
type DrillName string

// DrillPoint says which point of each VM a drill restores.
type DrillPoint string

// The points that a drill can take.
const (
	DrillNewest DrillPoint = "newest"
	DrillOldest DrillPoint = "oldest"
	DrillRandom DrillPoint = "random"
)

// DrillFrom says what a drill restores from.
type DrillFrom string

// What a drill can restore from.
const (
	// FromVault: a vault of this region, live: the VM boots from it.
	FromVault DrillFrom = "vault"
	// FromSnapshot: the layers beside the disks.
	FromSnapshot DrillFrom = "snapshot"
	// FromReplica: what this region holds of a paired region's vault, live.
	FromReplica DrillFrom = "replica"
)

// DrillPlan is which VMs a drill restores, in which order, and how it tells that
// they are well.
type DrillPlan struct {
	Name DrillName `json:"name,omitempty"` // empty for a drill of a VM or a point alone
	// VMs are started in this order, all on one host: their network is there.
	VMs []DrillVM `json:"vms"`
	// Point is which point of each VM is taken; empty means the newest.
	Point DrillPoint `json:"point,omitempty"`
	// From is what they are restored from; empty means a vault of this region or, for
	// a VM that has points only in a replica, that.
	From DrillFrom `json:"from,omitempty"`
	// Host runs the VMs; empty means the host of the first one's point or, if this
	// region does not have that, its only host.
	Host HostName `json:"host,omitempty"`
	// Pool is where the VMs' overlays lie; empty as for a restore.
	Pool string `json:"pool,omitempty"`
	// Subnet is that of the isolated network, as 10.0.0.1/24 with the address of the
	// host in it; empty means one that is free. VMs with addresses of their own
	// want theirs.
	Subnet string `json:"subnet,omitempty"`
	// MaxCPUs and MaxMemory (bytes) cap what each VM gets; 0 leaves it as it was.
	MaxCPUs   int   `json:"maxCPUs,omitempty"`
	MaxMemory int64 `json:"maxMemory,omitempty"`
	// Every is how often the plan is run by itself, in seconds; 0 means that people
	// run it. The first is due one interval after Since.
	Every Duration  `json:"every,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// DrillVM is one VM of a plan.
type DrillVM struct {
	// VM is its name, or HOST/NAME where two hosts have it.
	VM string `json:"vm"`
	// UUID is that of the VM; where it is set, it alone counts.
	UUID VMID `json:"uuid,omitempty"`
	// PointID is the point to take whatever the plan says; empty for none.
	PointID PointID `json:"pointId,omitempty"`
	// Delay is waited before the VM is started, in seconds.
	Delay Duration `json:"delay,omitempty"`
	// NoWait starts the next VM without waiting until this one is healthy.
	NoWait bool `json:"noWait,omitempty"`
	// Probes must all pass for the VM to be healthy; none means the guest agent.
	Probes []DrillProbe `json:"probes,omitempty"`
	// Timeout is how long it may take from the start until all probes passed; 0 means
	// DefaultDrillTimeout.
	Timeout Duration `json:"timeout,omitempty"`
}

// DefaultDrillTimeout is how long a VM may take to be healthy.
const DefaultDrillTimeout = Duration(10 * time.Minute)

// MaxDrillVMs is how many VMs a drill may have.
const MaxDrillVMs = 32

// DrillVerdict is what came of a drill.
type DrillVerdict string

// The verdicts.
const (
	DrillPassed DrillVerdict = "passed" // every VM was healthy, and all of it was taken down
	DrillFailed DrillVerdict = "failed"
	// DrillAborted: it was cancelled, or its server was stopped. It shows nothing of
	// the points.
	DrillAborted DrillVerdict = "aborted"
)

// DrillRecord is the evidence of one drill. Records are only ever added, and each
// holds the hash of the one before.
type DrillRecord struct {
	ID   DrillID   `json:"id"`
	Seq  int64     `json:"seq"` // from 1
	Plan DrillPlan `json:"plan"`
	// User ran it; "schedule" if nobody did.
	User   string     `json:"user"`
	Region RegionName `json:"region"`
	Host   HostName   `json:"host"`
	// Started is when the job began, Ended when all was taken down again.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`

	Verdict DrillVerdict `json:"verdict"`
	// Cause says why it did not pass.
	Cause *Error `json:"cause,omitempty"`
	// VMs are those that were to be restored, in the plan's order.
	VMs []DrilledVM `json:"vms"`
	// RPOSeconds is how much older than the start of the drill the oldest of its
	// points is: what a disaster at that time would have cost at most.
	RPOSeconds *float64 `json:"rpoSeconds"`
	// RTOSeconds is the time from the start of the drill until all VMs were healthy;
	// nil if they never were.
	RTOSeconds *float64 `json:"rtoSeconds"`
	// Network says what the isolated network was.
	Network string `json:"network,omitempty"`
	// Steps are what was done when, for the report's timeline.
	Steps []DrillStep `json:"steps"`
	// Cleaned: nothing of the drill is left. Left says what is.
	Cleaned bool   `json:"cleaned"`
	Left    string `json:"left,omitempty"`
	// Notes say what the evidence does not show, or was different from the VM's own
	// surroundings.
	Notes []string `json:"notes,omitempty"`

	// Previous is the Hash of the record before; empty in the first. Hash is the
	// SHA-256 of all else in this one, in hex.
	Previous string `json:"previous"`
	Hash     string `json:"hash,omitempty"`
}

// Digest is what the record's Hash must be.
func (r DrillRecord) Digest() (string, error) {
	r.Hash = ""
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode the record of drill %s: %w", r.ID, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// CheckDrills tells at which of the records, oldest first and without a gap from
// the first one on, their chain is broken, and how; "" and 0 if it is whole.
func CheckDrills(records []DrillRecord) (seq int64, how string) {
	previous := ""
	for i, r := range records {
		digest, err := r.Digest()
		switch {
		case r.Seq != int64(i+1):
			return int64(i + 1), fmt.Sprintf("there is record %d in its place", r.Seq)
		case err != nil:
			return r.Seq, err.Error()
		case r.Hash != digest:
			return r.Seq, "the record was changed after it was written"
		case r.Previous != previous:
			return r.Seq, "the record does not follow the one before it"
		}
		previous = r.Hash
	}
	return 0, ""
}

// DrilledVM is what was found of one VM of a drill.
type DrilledVM struct {
	// Source is the VM of which the point is, Name that of the one made of it.
	Source VMRef  `json:"source"`
	Name   string `json:"name"`

	Point       PointID     `json:"point"`
	PointTime   time.Time   `json:"pointTime"`
	Consistency Consistency `json:"consistency"`
	Tier        Tier        `json:"tier"`
	Vault       VaultName   `json:"vault,omitempty"`
	VaultID     string      `json:"vaultId,omitempty"`
	// Head is the vault's chain as it was last seen before the drill.
	Head *VaultHead `json:"head,omitempty"`
	// Disks are those that were restored. A SHA256 is of the whole content, as a
	// verify computed it; nil if none ever did.
	Disks []DrilledDisk `json:"disks"`

	// CPUs and Memory (bytes) are what the VM was given; 0 for what it had.
	CPUs   int   `json:"cpus,omitempty"`
	Memory int64 `json:"memory,omitempty"`
	// Address is that under which it was found on the isolated network.
	Address string `json:"address,omitempty"`

	// BootSeconds is the time from its start until it was first heard of: its guest
	// agent, an address on the network, or a probe that passed; nil if it never was.
	BootSeconds *float64 `json:"bootSeconds"`
	// HealthySeconds is the time from its start until all its probes passed; nil if
	// they never did.
	HealthySeconds *float64           `json:"healthySeconds"`
	Probes         []DrillProbeResult `json:"probes"`
	Screenshot     *DrillScreenshot   `json:"screenshot,omitempty"`
	// Error says why it was not healthy.
	Error *Error `json:"error,omitempty"`
}

// DrilledDisk is one disk that a drill restored.
type DrilledDisk struct {
	Target DiskTarget `json:"target"`
	Size   int64      `json:"size"`
	SHA256 *string    `json:"sha256"`
}

// DrillScreenshot is how a VM looked at the end.
type DrillScreenshot struct {
	PNG []byte `json:"png,omitempty"`
	// Of is "display" or "console", a serial console's last lines drawn as text.
	Of     string    `json:"of"`
	Taken  time.Time `json:"taken"`
	SHA256 string    `json:"sha256"` // of the PNG
}

// DrillStep is one thing that a drill did.
type DrillStep struct {
	VM    string    `json:"vm,omitempty"` // as in DrilledVM.Name; empty for all of them
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	OK    bool      `json:"ok"`
}

// DrillParams ask to run a drill that was planned and accepted.
type DrillParams struct {
	Plan DrillPlan   `json:"plan"`
	VMs  []DrilledVM `json:"vms"`
	// Restores are the plans of the VMs' restores, in the same order.
	Restores []RestorePlan `json:"restores"`
	Host     HostName      `json:"host"`
	Network  string        `json:"network"` // its name on the host
	// Notes are what planning it found worth saying.
	Notes []string `json:"notes,omitempty"`
}

// DrillSetting is what a restore's plan says of a VM that is restored for a drill.
type DrillSetting struct {
	// Drill is the job of the drill: what is restored for it never outlives it.
	Drill JobID `json:"drill"`
	// Network is the isolated network that all its interfaces are put in.
	Network string `json:"network"`
	// MaxCPUs and MaxMemory (bytes) are as in DrillPlan.
	MaxCPUs   int   `json:"maxCPUs,omitempty"`
	MaxMemory int64 `json:"maxMemory,omitempty"`
}

// Due tells whether the plan is to be run at now, and when it is to be run next. last is
// when it was run last and showed something; nil for never.
//
// Due times lie on a grid: the instant at which the schedule was set, and every
// interval after it; the first is one interval later. So they do not drift, and any
// number of missed ones is made up for by one.
func (p *DrillPlan) Due(last *time.Time, now time.Time) (due bool, next time.Time) {
	every := time.Duration(p.Every)
	if every <= 0 {
		return false, time.Time{}
	}
	from := p.Since
	if last != nil && last.After(from) {
		from = *last
	}
	if from.After(now) { // the clock was set back
		from = now
	}
	next = p.Since.Add((from.Sub(p.Since)/every + 1) * every)
	for !next.After(from) { // the division rounds towards the origin
		next = next.Add(every)
	}
	return !now.Before(next), next
}

// Check says what is wrong with a plan; nil if nothing is.
func (p *DrillPlan) Check() error {
	bad := func(format string, args ...any) error {
		return Errorf(CodeUsage, "this plan of a drill makes no sense").Becausef(format, args...).Do("see `backstay drill plan create --help`")
	}
	switch {
	case len(p.VMs) == 0:
		return bad("it names no VM")
	case len(p.VMs) > MaxDrillVMs:
		return bad("it names %d VMs, and %d is the most", len(p.VMs), MaxDrillVMs)
	case !slices.Contains([]DrillPoint{"", DrillNewest, DrillOldest, DrillRandom}, p.Point):
		return bad("%q is not a choice of points: there are newest, oldest and random", p.Point)
	case !slices.Contains([]DrillFrom{"", FromVault, FromSnapshot, FromReplica}, p.From):
		return bad("%q is nothing to restore from: there are vault, snapshot and replica", p.From)
	case p.MaxCPUs < 0 || p.MaxMemory < 0:
		return bad("a cap is below zero")
	case p.MaxMemory > 0 && p.MaxMemory < 32<<20:
		return bad("no VM boots with less than 32 MiB of memory")
	case p.Every != 0 && time.Duration(p.Every) < time.Minute:
		return bad("a plan is run every minute at most")
	}
	seen := map[string]bool{}
	for _, vm := range p.VMs {
		key := vm.VM + " " + string(vm.UUID)
		if vm.VM == "" && vm.UUID == "" && vm.PointID == "" {
			return bad("one of its VMs has no name")
		}
		if seen[key] {
			return bad("VM %s is in it twice", vm.VM)
		}
		seen[key] = true
		if vm.Delay < 0 || vm.Timeout < 0 {
			return bad("a time of VM %s is below zero", vm.VM)
		}
		for _, probe := range vm.Probes {
			if err := probe.Check(); err != nil {
				return err
			}
		}
	}
	return nil
}
