package backstay

// RestoreRequest asks for a restore of a point as a new VM.
type RestoreRequest struct {
	Point PointID `json:"point"`
	// Tier is the tier to read; empty means the snapshot tier if the point has
	// it, else the vault.
	Tier Tier     `json:"tier,omitempty"`
	Name string   `json:"name"`
	Host HostName `json:"host,omitempty"` // empty: the point's own host
	Pool string   `json:"pool,omitempty"` // a pool's name or an absolute folder; empty: beside the source disks, or the host's default pool
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
	DryRun   bool  `json:"dryRun,omitempty"`
}

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

// RestorePlan is everything that a restore as a new VM will do. It is decided
// before anything is touched, is kept with the job, and names every file, so
// that undoing it needs nothing else.
type RestorePlan struct {
	Point    PointID       `json:"point"`
	Tier     Tier          `json:"tier"`
	Vault    VaultName     `json:"vault"`
	Host     HostName      `json:"host"`
	Source   VMRef         `json:"source"`
	Name     string        `json:"name"`
	UUID     VMID          `json:"uuid"`
	Firmware Firmware      `json:"firmware"`
	TPM      bool          `json:"tpm"`
	Disks    []PlannedDisk `json:"disks"`
	NICs     []PlannedNIC  `json:"nics"`
	Start    bool          `json:"start"`
	Probe    Probe         `json:"probe"`
	// Bytes is what will be written at most.
	Bytes int64 `json:"bytes"`
	// Preflight lists what was checked; the plan may run only if none refuses.
	Preflight []Check `json:"preflight"`
}

// PlannedDisk is one disk of a planned VM.
type PlannedDisk struct {
	Target DiskTarget `json:"target"`
	Path   string     `json:"path"`
	Format string     `json:"format"`
	Size   int64      `json:"size"`
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
