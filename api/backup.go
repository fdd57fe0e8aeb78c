package api

import backstay "github.com/backstay/backstay"

// BackupRequest asks for a new recovery point of a protected VM, or for points of
// all VMs of a group at one instant.
type BackupRequest struct {
	// VM is a UUID, a NAME, or HOST/NAME; or a group: its NAME, or group:NAME where
	// a VM has that name too.
	VM string `json:"vm" doc:"UUID, NAME or HOST/NAME of a VM; NAME or group:NAME of a group; empty with image"`
	// Image asks for a point of image files that belong to no VM.
	Image *backstay.ImageBackup `json:"image,omitempty"`
	// Tier is how far the point is to go; empty means to the vault.
	Tier backstay.Tier `json:"tier,omitempty" enum:"snapshot,vault"`
	// Consistency is what is wished for; empty means what the policy says.
	Consistency backstay.Consistency `json:"consistency,omitempty" enum:"application,file-system,crash"`
	// Retain keeps the point at least so many seconds; 0 leaves it to the policy.
	Retain backstay.Duration `json:"retain,omitempty" minimum:"0"`
	// DryRun answers with the plan and does nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// BackupPlan is what a backup will do, decided before anything is touched.
type BackupPlan struct {
	VM    backstay.VMRef `json:"vm"`
	Disks []BackupDisk   `json:"disks"`
	// Consistency is what can be expected, and ConsistencyReason why.
	Consistency       backstay.Consistency `json:"consistency"`
	ConsistencyReason string               `json:"consistencyReason"`
	Notes             []string             `json:"notes"`
}

// BackupDisk is one disk of a planned backup.
type BackupDisk struct {
	Target   backstay.DiskTarget `json:"target"`
	Included bool                `json:"included"`
	// Excluded: the user left it out.
	Excluded bool `json:"excluded"`
	// Reason says why a disk is left out.
	Reason string `json:"reason"`
	// Mode is how changes will be found: first copy, changed layers, full
	// compare; with the reason where there was a choice.
	Mode string `json:"mode"`
}

// Included tells whether any disk will be backed up.
func (p *BackupPlan) Included() bool {
	for _, d := range p.Disks {
		if d.Included {
			return true
		}
	}
	return false
}
