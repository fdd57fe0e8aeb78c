package backstay

import (
	"slices"
	"strings"
	"time"
)

// RestoreKind is a way to restore.
type RestoreKind string

// The ways to restore.
const (
	CreateVM     RestoreKind = "create-vm"     // a new VM beside everything that is there
	ReplaceDisks RestoreKind = "replace-disks" // the point's disks in the VM that it is of
	RestoreDisks RestoreKind = "disks"         // disks and a template, without a VM
)

// RestoreRequest asks for a restore of a point. Fields that a kind does not know
// must be empty: nothing that somebody asked for is passed over.
type RestoreRequest struct {
	Kind  RestoreKind `json:"kind"`
	Point PointID     `json:"point"`
	// Tier is the tier to read; empty means the snapshot tier if the point has
	// it, else the vault.
	Tier Tier     `json:"tier,omitempty"`
	Host HostName `json:"host,omitempty"` // empty: the point's own host
	// VM is the VM whose disks are replaced, where it is not the one that the point is
	// of: naming it is the consent (replace-disks).
	VM     VMID `json:"vm,omitempty"`
	DryRun bool `json:"dryRun,omitempty"`

	// Name is that of the new VM (create-vm).
	Name string `json:"name,omitempty"`
	Pool string `json:"pool,omitempty"` // a pool's name or an absolute folder; empty: beside the source disks, or the host's default pool
	// Networks maps the networks of the point to those of the host.
	Networks map[string]string `json:"networks,omitempty"`
	KeepMAC  bool              `json:"keepMAC,omitempty"`
	KeepUUID bool              `json:"keepUUID,omitempty"`
	NoStart  bool              `json:"noStart,omitempty"`
	// Partial makes a VM also of a point from which the user left disks out: it
	// will lack them.
	Partial bool `json:"partial,omitempty"`
	// Isolated gives the new VM no network at all: every link is down.
	Isolated bool  `json:"isolated,omitempty"`
	Probe    Probe `json:"probe,omitzero"`
	// Live starts the new VM from the vault at once and copies its disks in behind it.
	Live bool `json:"live,omitempty"`
	// Machine is the QEMU machine type of the new VM; empty means the point's own
	// (create-vm).
	Machine string `json:"machine,omitempty"`

	// Disks are the disks that are wanted; empty means all (replace-disks, disks).
	Disks []DiskTarget `json:"disks,omitempty"`
	// OSDisk wants the disk that the VM boots from alone (disks).
	OSDisk bool `json:"osDisk,omitempty"`

	// Stop shuts the VM down first, where it runs; Start starts it afterwards
	// (replace-disks).
	Stop  bool `json:"stop,omitempty"`
	Start bool `json:"start,omitempty"`
	// NoSafetyPoint takes no point of the present state first.
	NoSafetyPoint bool `json:"noSafetyPoint,omitempty"`
	// Full writes whole disks, where otherwise only what differs is written.
	Full bool `json:"full,omitempty"`
	// DiscardSaved throws away the memory that was saved when the VM was shut off:
	// it would be resumed over other disks.
	DiscardSaved bool `json:"discardSaved,omitempty"`
	// KeepOld is how long what was replaced is kept for an undo; 0 means DefaultKeepOld.
	KeepOld Duration `json:"keepOld,omitempty"`

	// To is a folder, a pool, or, with one disk, a block device (disks).
	To string `json:"to,omitempty"`
	// Format is that of the files: qcow2, raw, vmdk, vhdx; empty means the disk's
	// own (disks).
	Format string `json:"format,omitempty"`
}

// DefaultKeepOld is how long replaced disks are kept for an undo.
const DefaultKeepOld = Duration(14 * 24 * time.Hour)

// Probe says how to tell that a VM came up.
type Probe struct {
	Kind ProbeKind `json:"kind,omitempty"` // empty: agent
	// Text is what the console must show, or the HOST:PORT that must accept.
	Text    string   `json:"text,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // 0: five minutes
}

// ProbeKind is one way to tell that a VM came up.
type ProbeKind string

// The ways to tell that a VM came up.
const (
	ProbeAgent   ProbeKind = "agent"   // the guest agent answered a ping
	ProbeConsole ProbeKind = "console" // the serial console showed a text
	ProbePort    ProbeKind = "port"    // a TCP port accepted
	ProbeNone    ProbeKind = "none"    // started is enough
)

// RestorePlan is everything that a restore will do. It is decided before
// anything is touched, is kept with the job, and names every file, so that
// undoing it needs nothing else.
type RestorePlan struct {
	Kind  RestoreKind `json:"kind"`
	Point PointID     `json:"point"`
	Tier  Tier        `json:"tier"`
	// TierReason says why that tier.
	TierReason string `json:"tierReason"`
	// StreamedFrom is the host that has the point's layers, where another restores;
	// empty for none.
	StreamedFrom HostName  `json:"streamedFrom,omitempty"`
	Vault        VaultName `json:"vault"`
	Host         HostName  `json:"host"`
	Source       VMRef     `json:"source"`
	// Name and UUID are those of the VM that will stand on the disks; of a
	// replace-disks they are the source's own.
	Name     string        `json:"name"`
	UUID     VMID          `json:"uuid"`
	Firmware Firmware      `json:"firmware"`
	TPM      bool          `json:"tpm"`
	Disks    []PlannedDisk `json:"disks"`
	NICs     []PlannedNIC  `json:"nics"`
	Start    bool          `json:"start"`
	Probe    Probe         `json:"probe"`
	Live     bool          `json:"live,omitempty"`
	// Machine replaces the point's QEMU machine type; empty keeps it.
	Machine string `json:"machine,omitempty"`
	// Drill is set in a plan of a drill.
	Drill *DrillSetting `json:"drill,omitempty"`
	// Stop, DiscardSaved, SafetyPoint, Full and KeepOld are of a replace-disks.
	Stop         bool `json:"stop,omitempty"`
	DiscardSaved bool `json:"discardSaved,omitempty"`
	Full         bool `json:"full,omitempty"`
	// SafetyPoint is the id of the point that is taken of the present state first;
	// empty for none.
	SafetyPoint PointID  `json:"safetyPoint,omitempty"`
	KeepOld     Duration `json:"keepOld,omitempty"`
	// Folder is what a restore of disks fills; removing it removes all of it.
	Folder string `json:"folder,omitempty"`
	// Tasks are the steps of the job.
	Tasks []string `json:"tasks"`
	// Bytes is what will be written at most, in bytes.
	Bytes int64 `json:"bytes"`
	// Seconds is how long it may take, from what restores on this host took
	// lately; nil where nothing is known.
	Seconds *int64 `json:"seconds"`
	// Differences are the fields of the definition in which the VM will differ from
	// the point's.
	Differences []Difference `json:"differences"`
	// Preflight lists what was checked; the plan may run only if none refuses.
	Preflight []Check `json:"preflight"`
}

// Difference is one field of a VM's definition that will not be as it was.
type Difference struct {
	Path string `json:"path"` // XPath of the element or attribute
	From string `json:"from"` // "" for one that is added
	To   string `json:"to"`   // "" for one that goes
}

// DiskAction is what becomes of one disk in a replace-disks.
type DiskAction string

// What becomes of a disk.
const (
	DiskCreated  DiskAction = ""         // it is made anew
	DiskReplaced DiskAction = "replaced" // the VM has the target now, and gets the point's content
	DiskReturned DiskAction = "returned" // the VM lost it since
	DiskDetached DiskAction = "detached" // it was added since: detached and kept
	DiskKept     DiskAction = "kept"     // not asked for, or not in the point: stays as it is
)

// PlannedDisk is one disk of a planned restore.
type PlannedDisk struct {
	Target DiskTarget `json:"target"`
	Path   string     `json:"path"` // the file or device that is made or filled; "" if none is
	Format string     `json:"format"`
	Size   int64      `json:"size"`
	Action DiskAction `json:"action,omitempty"`
	// Device: Path is a block device that is there. It is never made, cut or removed.
	Device bool `json:"device,omitempty"`
	// From says where the content comes from; "" if none is read.
	From string `json:"from,omitempty"`
	// Bytes is what will be written at most, in bytes.
	Bytes int64 `json:"bytes"`
	// Difference: only what differs from the present disk is written.
	Difference bool `json:"difference,omitempty"`
	// Old is what the VM has in its place until then.
	Old string `json:"old,omitempty"`
	// Secret is the UUID of the host's secret that the new disk is encrypted with;
	// empty for a plain disk.
	Secret string `json:"secret,omitempty"`
}

// PlannedNIC is one network interface of a planned VM, in the order of the source.
type PlannedNIC struct {
	MAC      string `json:"mac"`
	Kind     string `json:"kind"`
	Network  string `json:"network"`
	LinkDown bool   `json:"linkDown"`
}

// Check is one line of a pre-flight list.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Code and Action are of a check that refuses: what stands in the way, and the way
	// out. Where that is a command or an option, it stands there as it is typed.
	Code   Code   `json:"code,omitempty"`
	Action string `json:"action,omitempty"`
}

// Refused returns the checks that stand in the way.
func (p *RestorePlan) Refused() []Check {
	var refused []Check
	for _, c := range p.Preflight {
		if !c.OK {
			refused = append(refused, c)
		}
	}
	return refused
}

// Refusal is the one error that names every check that stands in the way; nil if
// none does. Its code is that of the checks where all have the same, else
// CodePreflight, and then the cause begins each reason with its code.
func (p *RestorePlan) Refusal() error {
	refused := p.Refused()
	if len(refused) == 0 {
		return nil
	}
	code, same := refused[0].reason(), true
	var causes, codedCauses, actions []string
	for _, c := range refused {
		same = same && c.reason() == code
		causes, codedCauses = append(causes, c.Detail), append(codedCauses, string(c.reason())+": "+c.Detail)
		if c.Action != "" && !slices.Contains(actions, c.Action) {
			actions = append(actions, c.Action)
		}
	}
	if !same {
		code, causes = CodePreflight, codedCauses
	}
	e := Errorf(code, "%s was refused before anything was touched", p.intent()).Becausef("%s", strings.Join(causes, "; "))
	if len(actions) > 0 {
		e.Action = strings.Join(actions, "; ")
	}
	return e
}

// reason is the check's code.
func (c Check) reason() Code {
	if c.Code == "" {
		return CodePreflight
	}
	return c.Code
}

// intent says in words what the plan is for.
func (p *RestorePlan) intent() string {
	switch p.Kind {
	case ReplaceDisks:
		return "replacing the disks of " + p.Name
	case RestoreDisks:
		return "restoring disks of " + p.Source.Name
	case DeployPlan:
		return "the deploy of " + p.Name
	}
	return "the restore as " + p.Name
}
