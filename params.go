package backstay

// The parameters of a job: what the server hands to the engines through the
// queue. They are kept with the job as JSON and hold no secret.

// BackupParams ask for a new recovery point of a protected VM or, with a group,
// for points of all its VMs at one instant.
type BackupParams struct {
	VM VMID `json:"vm,omitempty"`
	// Group and VMs are the group and its VMs at the time of asking.
	Group GroupName `json:"group,omitempty"`
	VMs   []VMID    `json:"vms,omitempty"`
	// Tier is how far the point is to go: SnapshotTier stops before the
	// transfer; empty or VaultTier means both tiers.
	Tier Tier `json:"tier,omitempty"`
	// Consistency is what is wished for; empty means what the policy says.
	Consistency Consistency `json:"consistency,omitempty"`
	// Retain keeps the point at least this long, whatever the policy says; 0
	// means that the policy alone decides.
	Retain Duration `json:"retain,omitempty"`
	// Image asks for a point of image files instead; VM is then the UUID that they
	// are backed up under.
	Image *ImageBackup `json:"image,omitempty"`
}

// Members returns the VMs of which points are taken.
func (p *BackupParams) Members() []VMID {
	if p.Group == "" {
		return []VMID{p.VM}
	}
	return p.VMs
}

// RestoreParams ask to carry out a plan that was decided and accepted.
type RestoreParams struct {
	Request RestoreRequest `json:"request"`
	Plan    RestorePlan    `json:"plan"`
}

// ExpireParams ask to take away what a VM's policy no longer keeps or, with a
// point, exactly that one.
type ExpireParams struct {
	VM    VMID    `json:"vm"`
	Point PointID `json:"point,omitempty"`
	// Device asks for room instead: points of the VM leave the snapshot tier, oldest
	// first, until the file system has its floor again. Host is where that is.
	// Passed are VMs whose turn it would be, and whose points were found not to go.
	Device string   `json:"device,omitempty"`
	Host   HostName `json:"host,omitempty"`
	// Ahead is what will be written until the room is there, in bytes.
	Passed []VMID `json:"passed,omitempty"`
	Ahead  int64  `json:"ahead,omitempty"`
	// Release asks to end the VM's protection on its host: all its layers are
	// merged, and it is on its own files again.
	Release bool `json:"release,omitempty"`
}

// VerifyParams ask to read a whole point and compute the SHA-256 of its disks.
type VerifyParams struct {
	Point PointID `json:"point"`
	// Tier is the tier to read; empty means the vault if the point has it, else
	// the snapshot tier.
	Tier Tier `json:"tier,omitempty"`
}

// UndoParams ask to take a restore back: all that it made goes, and all that it
// replaced comes back.
type UndoParams struct {
	Job JobID `json:"job"`
	// Plan is the restore's.
	Plan RestorePlan `json:"plan"`
	// Stop shuts a VM off that runs. A VM that a restore made is ended in any case.
	Stop bool `json:"stop,omitempty"`
	// Start starts a VM afterwards whose disks came back.
	Start bool `json:"start,omitempty"`
	// SafetyPoint is the id of the point that is taken of what the undo takes away;
	// empty for none.
	SafetyPoint PointID `json:"safetyPoint,omitempty"`
}

// IndexParams ask to list the files of a point.
type IndexParams struct {
	Point PointID `json:"point"`
	VM    VMID    `json:"vm"`
}

// PutParams ask to put files of a point into a running guest.
type PutParams struct {
	Session FileSessionID `json:"session"`
	Volume  VolumeID      `json:"volume"`
	Paths   []FilePath    `json:"paths"`
	VM      VMID          `json:"vm"`
	Host    HostName      `json:"host"` // the VM's
	// To is the folder in the guest. Strip is the folder of the volume to which the
	// files' paths below To are relative; "" puts each right into To.
	To    FilePath `json:"to"`
	Strip FilePath `json:"strip,omitempty"`
	// Conflict says what happens to a file that is there already.
	Conflict Conflict `json:"conflict"`
}
