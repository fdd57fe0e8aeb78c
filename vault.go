package backstay

import "time"

// Vault is a named store of recovery points with one redundancy, one key and
// one immutability setting.
type Vault struct {
	Name       VaultName  `json:"name"`
	ID         string     `json:"id"` // a UUID, written in every object's associated data
	Redundancy Redundancy `json:"redundancy"`
	// Wish is the redundancy that the vault is being brought to; empty if it is that.
	Wish    Redundancy    `json:"wish,omitempty"`
	Units   []StorageUnit `json:"units"`
	Created time.Time     `json:"created"`
	// KeyID tells the vault's key from another's and says nothing of it: keys
	// that were put on the storage units by somebody else are noticed by it. Empty
	// before the vault was first opened.
	KeyID string `json:"keyId,omitempty"`
	// Origin is where a replica comes from; nil for a vault of this region.
	Origin *VaultOrigin `json:"origin,omitempty"`
	// Pair is the region to which a GRS vault is replicated; empty before it was chosen.
	Pair RegionName `json:"pair,omitempty"`
	// Keep is how long this region keeps the points of a replica; nil means
	// DefaultReplicaKeep. A vault of this region has policies for that.
	Keep *ReplicaKeep `json:"keep,omitempty"`
	// Copies and FailureDomains are what was last checked, not what was
	// configured (I13).
	Copies         int        `json:"copies"`
	FailureDomains int        `json:"failureDomains"`
	Checked        *time.Time `json:"checked"`
	// Note says what is short of the redundancy, in words; empty if nothing is.
	Note string `json:"note,omitempty"`
	// Health is what verifying found out; nil where it was not asked for.
	Health *VaultHealth `json:"health,omitempty"`
	// Head is the newest record of the vault's chain that was seen: the witness
	// by which an older state of the vault is noticed. Nil before the first.
	Head *VaultHead `json:"head,omitempty"`
}

// VaultHead names a record of a vault's chain by its number, from 1, and its
// BLAKE3-256 in hex. The zero VaultHead names none.
type VaultHead struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// VaultUsage is what a vault holds.
type VaultUsage struct {
	Vault   VaultName `json:"vault"`
	Points  int       `json:"points"`
	Objects int64     `json:"objects"`
	// StoredBytes are those of one copy; LogicalBytes the sum of the sizes of
	// the disks of all points.
	StoredBytes  int64 `json:"storedBytes"`
	LogicalBytes int64 `json:"logicalBytes"`
}
