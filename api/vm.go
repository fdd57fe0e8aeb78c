package api

import backstay "github.com/backstay/backstay"

// VMDetail is a VM with its protection.
type VMDetail struct {
	backstay.VM
	// Protection is the VM's protected item, if it has one.
	Protection *backstay.ProtectedItem `json:"protection"`
	// Verdicts say of each disk whether it is backed up, or could be, and if not,
	// why.
	Verdicts []backstay.DiskVerdict `json:"verdicts"`
	// Group is the group that the VM is in, if any.
	Group backstay.GroupName `json:"group,omitempty"`
	// Warnings say what threatens the VM: too little room beside its disks.
	Warnings []string `json:"warnings"`
}

// ProtectRequest asks to put a VM under a policy, in a vault.
type ProtectRequest struct {
	Policy backstay.PolicyName `json:"policy" minLength:"1"`
	Vault  backstay.VaultName  `json:"vault" minLength:"1"`
	// IncludeDisks are the only disks to back up, so that disks which are added
	// later are not; ExcludeDisks are left out, and disks which are added later are
	// backed up. At most one of the two may be given; they replace what was said
	// before, and none of them means all disks.
	IncludeDisks []backstay.DiskTarget `json:"includeDisks,omitempty"`
	ExcludeDisks []backstay.DiskTarget `json:"excludeDisks,omitempty"`
	// Method is how points are taken: layers, which is the default, or pull. A
	// VM that has points in the snapshot tier must be unprotected before it goes
	// from layers to pull.
	Method backstay.Method `json:"method,omitempty" enum:"layers,pull"`
	// KeyService is the outside key service that wraps the VM's secrets in its
	// points, by its name in the server's configuration; without it points hold them
	// sealed.
	KeyService string `json:"keyService,omitempty"`
	// Adopt is the protected item, or the VM that points are of, whose points become
	// this VM's: UUID, NAME or HOST/NAME. No host may have that VM any more.
	Adopt string `json:"adopt,omitempty"`
}

// ProtectResponse is the new item. Warnings name the disks that cannot be
// backed up, with the reason.
type ProtectResponse struct {
	Item backstay.ProtectedItem `json:"item"`
	// Disks say of each disk whether it will be backed up, and if not, why.
	Disks    []backstay.DiskVerdict `json:"disks"`
	Warnings []string               `json:"warnings"`
}

// UnprotectResponse says what became of the points.
type UnprotectResponse struct {
	Item backstay.ProtectedItem `json:"item"` // as it was
	// PointsKept is the number of points that stay: those in vaults.
	PointsKept int `json:"pointsKept"`
	// Jobs delete the points, if that was asked for; the last one puts the VM back
	// on its own files.
	Jobs []backstay.Job `json:"jobs"`
}
