package api

import backstay "github.com/backstay/backstay"

// CreateVaultRequest asks for a new vault.
type CreateVaultRequest struct {
	Name       backstay.VaultName  `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._-]*$"`
	Redundancy backstay.Redundancy `json:"redundancy,omitempty" enum:"LRS,ZRS,GRS" doc:"empty means LRS"`
	// Pair is the region to which a GRS vault is replicated; empty means the one with
	// which this region was paired first.
	Pair backstay.RegionName `json:"pair,omitempty" maxLength:"63" doc:"the paired region of a GRS vault; empty for the first"`
	// Units are the storage units, one for each copy; without any, free ones of the
	// region are chosen.
	Units []NewUnit `json:"units,omitempty" maxItems:"16" nullable:"false"`
	// Recipients can open the vault besides this server; a fresh recovery key is
	// made as well, unless NoRecoveryKey.
	Recipients    []AddRecipientRequest `json:"recipients,omitempty" maxItems:"64" nullable:"false"`
	NoRecoveryKey bool                  `json:"noRecoveryKey,omitempty" doc:"make no fresh recovery key"`
	// Force makes a vault that nobody can open once this server is lost.
	Force bool `json:"force,omitempty" doc:"a vault without any recovery recipient: lost with its server"`
}

// NewUnit is one storage unit of a new vault, or of the region. What is left out of
// one that the region knows is as it is known.
type NewUnit struct {
	URL       string `json:"url" minLength:"1" doc:"file:///path, s3://bucket/prefix or azure://account/container/prefix, with options but never with credentials; see docs/storage-units.md"`
	Zone      string `json:"zone,omitempty" doc:"failure domain; ZRS needs three different ones"`
	Redundant bool   `json:"redundant,omitempty" doc:"it keeps several copies by itself and counts for all: declared, nothing here can check that"`
}

// CreateVaultResponse has the new vault, and its recovery key: this once.
type CreateVaultResponse struct {
	Vault       backstay.Vault `json:"vault"`
	RecoveryKey string         `json:"recoveryKey" doc:"shown once; whoever has it can read the vault without any server; empty if none was made"`
}

// ImportVaultRequest asks to take in a vault that exists on its storage units.
type ImportVaultRequest struct {
	Name backstay.VaultName `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._-]*$"`
	// Units are the storage units in the order in which the vault was made.
	Units []NewUnit `json:"units" minItems:"1" maxItems:"16" nullable:"false"`
	// Key or Passphrase opens the vault: a recovery key, for instance. It is used once and kept nowhere.
	Key        string `json:"key,omitempty" doc:"an age identity that opens the vault; kept nowhere"`
	Passphrase string `json:"passphrase,omitempty" doc:"in place of the key"`
}

// ImportVaultResponse has the vault, and the job that fills the catalogue from it.
type ImportVaultResponse struct {
	Vault backstay.Vault `json:"vault"`
	Job   backstay.Job   `json:"job"`
}

// SetVaultKeepRequest says how long this region keeps the points of a replica. What is
// left out stays as it is.
type SetVaultKeepRequest struct {
	Days   *int `json:"days,omitempty" minimum:"0" maximum:"36500" doc:"for how many days after its instant a point is kept at least"`
	Points *int `json:"points,omitempty" minimum:"1" maximum:"100000" doc:"how many of the newest points of each VM are kept, whatever their age"`
}

// VerifyVaultRequest says what of a vault to verify.
type VerifyVaultRequest struct {
	// Points verifies only the points that were never verified.
	Points bool `json:"points,omitempty"`
}

// ReclaimRequest asks to give back what no recovery point of a vault needs.
type ReclaimRequest struct {
	// DryRun answers with the plan and does nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// Trash is how many seconds a condemned pack stays before it may be deleted.
	Trash *backstay.Duration `json:"trash,omitempty" minimum:"0" doc:"seconds; left out, what the server's configuration says"`
	// NoRepack leaves alone packs that are needed in part.
	NoRepack bool `json:"noRepack,omitempty"`
}

// ReclaimResponse has the job, or the plan if nothing but that was asked for.
type ReclaimResponse struct {
	Plan *backstay.ReclaimPlan `json:"plan,omitempty"`
	Job  *backstay.Job         `json:"job,omitempty"`
}

// SetRedundancyRequest asks to bring a vault to a redundancy.
type SetRedundancyRequest struct {
	Redundancy backstay.Redundancy `json:"redundancy" enum:"LRS,ZRS,GRS"`
	// Units are to be among those of the vault; free ones of the region are taken for
	// what lacks then.
	Units []NewUnit `json:"units,omitempty" maxItems:"16" nullable:"false"`
}

// SetRedundancyResponse has the vault as it is now, and the job that brings it to what
// was asked for.
type SetRedundancyResponse struct {
	Vault backstay.Vault `json:"vault"`
	Job   backstay.Job   `json:"job"`
}

// DrainUnitRequest asks to make the copies that are on a unit elsewhere.
type DrainUnitRequest struct {
	// To are the units that take its place; without any, free ones of the region do.
	To []NewUnit `json:"to,omitempty" maxItems:"16" nullable:"false"`
}

// DrainUnitResponse has the unit, which takes no vault from now on, and one job for
// each vault that is on it.
type DrainUnitResponse struct {
	Unit backstay.Unit  `json:"unit"`
	Jobs []backstay.Job `json:"jobs" nullable:"false"`
}
