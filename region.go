package backstay

import "time"

// Host is a machine that runs libvirt, as the region knows it.
type Host struct {
	Name HostName `json:"name"`
	// State is "connected" or "unreachable"; Reason says why it is the latter.
	State    string    `json:"state"`
	Reason   string    `json:"reason,omitempty"`
	LastSeen time.Time `json:"lastSeen"`
	Facts    HostFacts `json:"facts"`
}

// HostFacts are what a restore's plan must know of a host.
type HostFacts struct {
	Hypervisor string     `json:"hypervisor"` // "libvirt 9.0.0, QEMU 7.2.22"
	Emulators  []Emulator `json:"emulators"`
	Networks   []string   `json:"networks"` // active libvirt networks
	Bridges    []string   `json:"bridges"`
	Pools      []Pool     `json:"pools"`
	UEFI       bool       `json:"uefi"` // firmware images for UEFI guests are installed
	TPM        bool       `json:"tpm"`  // swtpm is installed
	// Accelerated tells whether libvirt offers KVM.
	Accelerated bool `json:"accelerated"`
	// MemoryFree is how much memory VMs can still take, in bytes; 0 means not known.
	MemoryFree int64 `json:"memoryFree"`
}

// Emulator is one QEMU binary and what it can run.
type Emulator struct {
	Arch     string   `json:"arch"`
	Path     string   `json:"path"`
	Machines []string `json:"machines"` // with aliases: q35, pc-q35-7.2
}

// Pool is a folder on a host in which disks can be put: a libvirt directory
// pool, or a folder that the host's configuration names.
type Pool struct {
	Name      string `json:"name"`
	Path      string `json:"path"`
	Available int64  `json:"available"` // bytes
}

// AuditEntry is one change that somebody asked for. Entries are only ever added.
type AuditEntry struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Role    Role      `json:"role"`
	Action  string    `json:"action"` // METHOD /route, or an engine's own word
	Target  string    `json:"target"`
	Outcome string    `json:"outcome"` // "ok", the code of the error, or the state in which a job ended
	Job     JobID     `json:"job,omitempty"`
}

// Role is what a token may do. Each role has the rights of those before it.
type Role string

// The roles, from the least rights to the most.
const (
	Reader   Role = "reader"
	Operator Role = "operator"
	Owner    Role = "owner"
)

// Covers tells whether a token with role r may do what demands the role need.
func (r Role) Covers(need Role) bool {
	rank := map[Role]int{Reader: 1, Operator: 2, Owner: 3}
	return rank[need] > 0 && rank[r] >= rank[need]
}

// Token is a key to the API. Its secret is shown once and never kept.
type Token struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Role Role   `json:"role"`
	// Files lets the token open recovery points and take files out of them, beside what
	// its role lets it do. No role has that by itself.
	Files bool `json:"files"`
	// Point binds the token to one recovery point: it looks at it, restores it beside
	// what is there, and sees and cancels the jobs that it started. It opens nothing
	// else, whatever its role.
	Point   PointID   `json:"point,omitempty"`
	Created time.Time `json:"created"`
	// Expires is when the token ceases to count; nil means never.
	Expires *time.Time `json:"expires"`
}

// MaxPointTokenLife bounds how long a token of one point counts.
const MaxPointTokenLife = Duration(7 * 24 * time.Hour)

// Expired tells whether the token has ceased to count.
func (t Token) Expired(now time.Time) bool { return t.Expires != nil && !now.Before(*t.Expires) }

// Started tells whether a job is one that the token may see: of one that is bound
// to a point, a job about that point which it started itself. Another token may
// have had its name before.
func (t Token) Started(j Job) bool {
	return t.Point == "" || j.Point == t.Point && j.User == t.Name && !j.Created.Before(t.Created)
}
