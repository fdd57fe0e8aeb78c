package backstay

// ImageBackup asks for a point of image files that belong to no VM of a host: they
// are backed up as if they were the disks of one.
type ImageBackup struct {
	// Name is what the VM is called. The same name again continues its points.
	Name string `json:"name"`
	// Host has the files; empty means the only host there is.
	Host HostName `json:"host,omitempty"`
	// Vault gets the point; empty means where the earlier points of the name are, or
	// the only vault there is.
	Vault VaultName `json:"vault,omitempty"`
	// Policy says how long points are kept; empty keeps all.
	Policy PolicyName  `json:"policy,omitempty"`
	Disks  []ImageDisk `json:"disks"`
	// Firmware and Network are of the VM that a restore makes: bios or uefi, and the
	// libvirt network that its only interface is in, none if empty.
	Firmware Firmware `json:"firmware,omitempty"`
	Network  string   `json:"network,omitempty"`
	// Folders are the only ones in which the files may lie; empty means all. The
	// server sets them by the rights of who asks.
	Folders []string `json:"folders,omitempty"`
}

// ImageDisk is one image file.
type ImageDisk struct {
	// Target names the disk in the VM, and by its first letters what it is connected
	// to: vda is virtio, sda is SATA.
	Target DiskTarget `json:"target"`
	Path   string     `json:"path"` // absolute, on the host
	// Format is qcow2, raw, vmdk or vhdx; empty means that the file's first bytes say.
	Format string `json:"format,omitempty"`
	// Size is the guest-visible bytes, once somebody looked.
	Size int64 `json:"size,omitempty"`
}

// MethodImage is how the points of image files are made: when somebody says so,
// straight into a vault.
const MethodImage Method = "image"
