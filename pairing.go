package backstay

import (
	"slices"
	"strings"
	"time"
)

// Region is another region with which this one is paired, as it is known here.
type Region struct {
	Name RegionName `json:"name"`
	// Address is HOST:PORT, where the other region's server takes what is replicated;
	// empty if only the other one can call.
	Address string `json:"address"`
	// Server is the URL of the other region's API, for a client that wants to go on
	// there; empty if the other region did not say.
	Server string `json:"server,omitempty"`
	// Fingerprint is the SHA-256 of the other server's certificate, in hex. It is all
	// that the other one is known by.
	Fingerprint string `json:"fingerprint"`
	// Recipient is the public key to which the keys of vaults are wrapped that the
	// other region may restore from; empty if it holds without being able to read.
	Recipient string    `json:"recipient,omitempty"`
	Paired    time.Time `json:"paired"`
	// State is "connected" or "unreachable"; Reason says why it is the latter.
	State    string     `json:"state"`
	Reason   string     `json:"reason,omitempty"`
	LastSeen *time.Time `json:"lastSeen"`
	// Paused: nothing is pushed to it until somebody says so.
	Paused bool `json:"paused"`
}

// VaultOrigin says of which region's vault a replica is.
type VaultOrigin struct {
	Region RegionName `json:"region"`
	Vault  VaultName  `json:"vault"` // its name there
}

// ReplicaName is the name of a replica in the region that holds it. No vault that
// a person makes can have it.
func ReplicaName(o VaultOrigin) VaultName { return VaultName(string(o.Vault) + "@" + string(o.Region)) }

// ReplicaKeep is the retention of a replica in the region that holds it. It is that
// region's own: nothing of it comes from the vault's region, or goes there.
type ReplicaKeep struct {
	// Days is for how long after its instant a point is kept at least.
	Days int `json:"days"`
	// Points is how many of the newest points of each VM are kept, whatever their age.
	Points int `json:"points"`
}

// DefaultReplicaKeep is the retention of a replica of which nobody said another.
func DefaultReplicaKeep() ReplicaKeep { return ReplicaKeep{Days: 30, Points: 7} }

// Kept is the retention of a replica.
func (v *Vault) Kept() ReplicaKeep {
	if v.Keep == nil {
		return DefaultReplicaKeep()
	}
	return *v.Keep
}

// ReplicaState says how far a point is in another region.
type ReplicaState string

// The states of a replica of a point.
const (
	// ReplicaPending: nothing of it was pushed yet.
	ReplicaPending ReplicaState = "pending"
	// ReplicaCopying: it is being pushed.
	ReplicaCopying ReplicaState = "copying"
	// ReplicaAvailable: all that it needs is durable there, and was checked there.
	ReplicaAvailable ReplicaState = "available"
	// ReplicaGone: the other region let it go by its own retention.
	ReplicaGone ReplicaState = "gone"
)

// Replica is the state of a point in another region.
type Replica struct {
	Region RegionName   `json:"region"`
	State  ReplicaState `json:"state"`
	// At is when it became available there; for the other states, when it was last
	// looked at.
	At time.Time `json:"at"`
	// LagSeconds is how long after the point's own time it was available there; of one
	// that is not, how long ago the point's time is.
	LagSeconds int64 `json:"lagSeconds"`
}

// WithLag fills in how long after a point's own time it was available there or, if
// it is not, how long ago the point's time is. A time of zero is not known.
func (r Replica) WithLag(taken, now time.Time) Replica {
	until := now
	if r.State == ReplicaAvailable || r.State == ReplicaGone {
		until = r.At
	}
	r.LagSeconds = 0
	if !taken.IsZero() && until.After(taken) {
		r.LagSeconds = int64(until.Sub(taken) / time.Second)
	}
	return r
}

// Replication is how far a vault is in the paired region.
type Replication struct {
	Vault  VaultName  `json:"vault"`
	Region RegionName `json:"region"`
	// State is "idle", "copying", "waiting" (for the window, or for the other region to
	// answer), "paused" or "failed"; Reason says why it is one of the latter three.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Points are those of the vault, Available those that are whole there.
	Points    int `json:"points"`
	Available int `json:"available"`
	// Newest is the newest point that is available there, and LagSeconds how much
	// older it is than the newest point of the vault: what would be lost now.
	Newest     *PointID `json:"newest"`
	LagSeconds int64    `json:"lagSeconds"`
	// BacklogObjects and BacklogBytes are what is known to be missing there.
	BacklogObjects int64 `json:"backlogObjects"`
	BacklogBytes   int64 `json:"backlogBytes"`
	// Rate is that of the last minute, in bytes a second; 0 if nothing is pushed.
	Rate int64 `json:"rate"`
	// EtaSeconds is how long the backlog takes at that rate; nil if nobody can tell.
	EtaSeconds *int64 `json:"etaSeconds"`
	// Job is the one that pushes now; empty if none does.
	Job  JobID      `json:"job,omitempty"`
	Last *time.Time `json:"last"` // when anything became available there last
}

// ReplicateParams ask to push what the paired region lacks of a vault.
type ReplicateParams struct {
	Vault  VaultName  `json:"vault"`
	Region RegionName `json:"region"`
}

// RejoinParams ask to bring a vault back from its replica in the paired region.
type RejoinParams struct {
	Vault  VaultName  `json:"vault"`
	Region RegionName `json:"region"`
}

// Origin tells of which region's vault a replica is, from its name; false for a
// vault of this region's own.
func (n VaultName) Origin() (VaultOrigin, bool) {
	vault, region, ok := strings.Cut(string(n), "@")
	return VaultOrigin{Region: RegionName(region), Vault: VaultName(vault)}, ok
}

// OwnPoints are those of the points that are this region's own. Nothing that this
// region decides of its VMs is decided by what another one pushed, though the UUID of
// a VM may be the same in both.
func OwnPoints(points []RecoveryPoint) []RecoveryPoint {
	return slices.DeleteFunc(slices.Clone(points), func(p RecoveryPoint) bool {
		_, replica := p.Vault.Origin()
		return replica
	})
}

// AwayHost is the name of another region's host in the points of a replica. No host
// of this region has such a name, also if the two are called the same at home.
func AwayHost(host HostName, region RegionName) HostName {
	return HostName(string(host) + "@" + string(region))
}
