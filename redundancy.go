package backstay

import (
	"slices"
	"time"
)

// Redundancy is how many copies a vault keeps, and where.
type Redundancy string

// The redundancies.
const (
	LRS Redundancy = "LRS" // three copies in one zone
	ZRS Redundancy = "ZRS" // one copy in each of three zones
	GRS Redundancy = "GRS" // LRS here, and asynchronously LRS in the paired region
)

// Copies is the number of copies that the redundancy demands in this region.
func (r Redundancy) Copies() int { return 3 }

// Standing is what a storage unit is to a vault.
type Standing string

// The standings. The empty Standing is that of a unit of an older release, which
// is a Current one.
const (
	// Current: a copy of everything. It is written and read.
	Current Standing = "current"
	// Behind: recorded as lost. Nothing is written to it, and what is in it is only
	// read where no other copy can be. A point says of how many copies it is short.
	Behind Standing = "behind"
	// Joining: what is new is written to it, what it lacks is being copied.
	Joining Standing = "joining"
	// Leaving: a copy as good as a Current one, until what takes its place is.
	Leaving Standing = "leaving"
)

// Written tells whether what is new is written to a unit of this standing.
func (s Standing) Written() bool { return s != Behind }

// Whole tells whether a unit of this standing has a copy of everything.
func (s Standing) Whole() bool { return s == "" || s == Current || s == Leaving }

// NoCopy is the state of a storage unit that answers and has no vault's header.
const NoCopy = "no-copy"

// StorageUnit is one place that can hold one copy of an object.
type StorageUnit struct {
	URL  string `json:"url"` // file:///path, s3://…, azure://…; holds no credential
	Zone string `json:"zone,omitempty"`
	// Device identifies the physical device as far as it can be told; units
	// with the same device are one failure domain (architecture decision 12).
	Device string `json:"device,omitempty"`
	State  string `json:"state"` // ok, unreachable, read-only, full, no-copy, other-vault; "" before a check
	// Redundant: whoever added the unit declared that it keeps several copies by
	// itself. Nothing here can check that, and what is said of it says so (I13).
	Redundant bool `json:"redundant,omitempty"`
	// Standing is what the unit is to the vault, and Since from when on; Why says
	// what made it so, where that is no order of a person.
	Standing Standing   `json:"standing,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
	Why      string     `json:"why,omitempty"`
	// Copy is what verifying found out of this unit's copy; nil where it was not
	// asked for.
	Copy *CopyHealth `json:"copy,omitempty"`
}

// Unit is a storage unit that the region knows, whether a vault is on it or not.
type Unit struct {
	URL       string `json:"url"`
	Zone      string `json:"zone,omitempty"`
	Redundant bool   `json:"redundant,omitempty"`
	// Closed: no vault is put on it any more, because it is drained.
	Closed bool      `json:"closed,omitempty"`
	Added  time.Time `json:"added"`
	// State, Device and Available (bytes; -1 if unknown) are as of Checked.
	State     string     `json:"state,omitempty"`
	Device    string     `json:"device,omitempty"`
	Available int64      `json:"available"`
	Checked   *time.Time `json:"checked,omitempty"`
	// Vaults are those that have a copy on it.
	Vaults []VaultName `json:"vaults"`
}

// Written returns the URLs of the units that are written, in the vault's order: the
// first decides who wins a name.
func (v *Vault) Written() []string { return v.urls(Standing.Written) }

// Whole returns the URLs of the units that have a copy of everything.
func (v *Vault) Whole() []string { return v.urls(Standing.Whole) }

// Standing returns the URLs of the units of this standing, in the vault's order.
func (v *Vault) Standing(s Standing) []string {
	return v.urls(func(o Standing) bool { return o == s })
}

func (v *Vault) urls(of func(Standing) bool) []string {
	var urls []string
	for _, u := range v.Units {
		if of(u.Standing) {
			urls = append(urls, u.URL)
		}
	}
	return urls
}

// Short is of how many copies the vault is short: those that its redundancy
// demands, without those on units that have everything. A unit that was declared
// redundant stands for all of them.
func (v *Vault) Short() int {
	if slices.ContainsFunc(v.Units, func(u StorageUnit) bool { return u.Redundant && u.Standing.Whole() }) {
		return 0
	}
	return max(0, v.Redundancy.Copies()-len(v.Whole()))
}

// RedundancyParams ask to bring a vault to what is wished for: every unit that is
// joining gets all that it lacks, is checked, and counts; then those that are
// leaving go.
type RedundancyParams struct {
	Vault VaultName `json:"vault"`
}
