package backstay

// VMState is a VM's power state, as far as backing up and restoring care.
type VMState string

// The power states.
const (
	VMRunning VMState = "running"
	VMPaused  VMState = "paused"
	VMShutOff VMState = "shut-off"
	VMOther   VMState = "other"
)

// Firmware is what starts the guest.
type Firmware string

// The kinds of firmware.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// AgentState says whether the guest agent can be used.
type AgentState string

// The states of a guest agent.
const (
	AgentConnected    AgentState = "connected"    // the channel is open
	AgentDisconnected AgentState = "disconnected" // there is a channel, and nobody answers
	AgentNone         AgentState = "none"         // the VM has no agent channel
)

// VM is a libvirt domain on a host that backstay knows. It holds no secret.
type VM struct {
	ID        VMID       `json:"id"`
	Name      string     `json:"name"`
	Host      HostName   `json:"host"`
	State     VMState    `json:"state"`
	Firmware  Firmware   `json:"firmware"`
	TPM       bool       `json:"tpm"`
	Agent     AgentState `json:"agent"`
	Arch      string     `json:"arch"`
	Machine   string     `json:"machine"` // QEMU machine type, e.g. pc-q35-7.2
	Virt      string     `json:"virt"`    // libvirt domain type: kvm or qemu
	Emulator  string     `json:"emulator"`
	MemoryMiB int64      `json:"memoryMiB"`
	VCPUs     int        `json:"vcpus"`
	Disks     []Disk     `json:"disks"`
	NICs      []NIC      `json:"nics"`
	// Reason says why the VM cannot be protected; empty if it can.
	Reason string `json:"reason,omitempty"`
	// AntiAffinityGroup is the group of which no two VMs shall be on one host; empty
	// for none. It is kept in the VM's own definition.
	AntiAffinityGroup string `json:"antiAffinityGroup,omitempty"`
	// Checkpoints are the names of the VM's checkpoints, with which dirty bitmaps
	// tell what changed since a backup: ours and those of other tools.
	Checkpoints []string `json:"checkpoints,omitempty"`
}

// CheckpointPrefix begins the names of the checkpoints that backstay makes.
const CheckpointPrefix = "backstay-"

// Obstacle says why the VM cannot be protected by the method; empty if it can.
func (vm *VM) Obstacle(m Method) string {
	if vm.Reason == "" && m != MethodPull && vm.State == VMShutOff && len(vm.Checkpoints) > 0 {
		return "it is shut off and has libvirt checkpoints, with which libvirt makes no new layer; start it, or delete them (virsh checkpoint-list, checkpoint-delete)"
	}
	return vm.Reason
}

// Disk is one disk device of a VM.
type Disk struct {
	Target DiskTarget `json:"target"`
	Device string     `json:"device"` // disk, cdrom, floppy, lun
	Bus    string     `json:"bus"`
	Source string     `json:"source"` // path of the active layer on the host, or its URI; "" when there is none
	Format string     `json:"format"` // of the active layer: qcow2, raw
	Size   int64      `json:"size"`   // guest-visible bytes
	// Kind is what the active layer is where it is no file of its own name: block,
	// volume, network. Empty for a file.
	Kind string `json:"kind,omitempty"`
	// Secret is the UUID of the host's secret that the disk is encrypted with,
	// never the secret. Empty for a disk that is not encrypted on the host.
	Secret string `json:"secret,omitempty"`
	// Boot is the disk's turn when the VM looks for what to boot; 0 if none is given.
	Boot int `json:"boot,omitempty"`
	// Reason says why the disk cannot be backed up; empty if it can.
	Reason string `json:"reason,omitempty"`
}

// The kinds of disk that are no plain file. A volume of a pool of folders is a
// file that only its definition names otherwise.
const (
	BlockDisk   = "block"
	VolumeDisk  = "volume"
	NetworkDisk = "network"
)

// NIC is one network interface of a VM.
type NIC struct {
	MAC     string `json:"mac"`
	Kind    string `json:"kind"`    // network, bridge, user, direct …
	Network string `json:"network"` // the libvirt network or bridge; "" for user
	Model   string `json:"model"`
}

// VMRef is how a recovery point names its VM.
type VMRef struct {
	Name string   `json:"name"`
	UUID VMID     `json:"uuid"`
	Host HostName `json:"host"`
}

// Ref returns the reference by which points and jobs name the VM.
func (vm *VM) Ref() VMRef { return VMRef{Name: vm.Name, UUID: vm.ID, Host: vm.Host} }

// DiskVerdict says of a disk whether it is backed up, and if not, why.
type DiskVerdict struct {
	Target   DiskTarget `json:"target"`
	Included bool       `json:"included"`
	// Excluded: the user left it out, so that it is missed by nobody.
	Excluded bool   `json:"excluded"`
	Reason   string `json:"reason"`
}

// Possible returns the disks that can be backed up.
func (vm *VM) Possible() []Disk {
	var possible []Disk
	for _, d := range vm.Disks {
		if d.Reason == "" {
			possible = append(possible, d)
		}
	}
	return possible
}
