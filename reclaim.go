package backstay

import "time"

// DefaultTrash is how long a condemned pack stays before it may be deleted,
// when nothing else is said.
const DefaultTrash = Duration(24 * time.Hour)

// ReclaimParams ask to give back what no point of a vault needs any more.
type ReclaimParams struct {
	Vault VaultName `json:"vault"`
	// Trash is how long a condemned pack stays before it may be deleted; nil
	// means what the server's configuration says.
	Trash *Duration `json:"trash,omitempty"`
	// NoRepack leaves packs as they are that points still need in part.
	NoRepack bool `json:"noRepack,omitempty"`
}

// ReclaimPlan is what a reclaim of a vault would do now, with its reasons. Bytes
// are those of one copy.
type ReclaimPlan struct {
	Vault VaultName `json:"vault"`
	At    time.Time `json:"at"`
	// Points are those that are kept; what any of them needs stays.
	Points int `json:"points"`
	// Packs are all that the vault holds, Live the sealed chunks in them that
	// points refer to. Live is zero when nothing looked at chunks.
	Packs ObjectSum `json:"packs"`
	Live  int64     `json:"live"`
	// Condemn are the packs that no point needs and that nothing lists as
	// condemned yet: they would go to the trash now.
	Condemn ObjectSum `json:"condemn"`
	// Trash are the packs that were condemned earlier, list by list.
	Trash []CondemnedPacks `json:"trash"`
	// Repack are the packs of which the chunks that are needed would be moved to
	// new ones, in the order in which they would be; Later is how many more there
	// are than one run takes on.
	Repack      []PackToMove `json:"repack"`
	RepackLater int          `json:"repackLater"`
	// Indexes would be joined to fewer, Records of the chain and Manifests of
	// dropped points would be removed.
	Indexes   ObjectSum `json:"indexes"`
	Records   int       `json:"records"`
	Manifests int       `json:"manifests"`
	// Now is what would be free when the run ends, Later what would follow when
	// the trash is old enough and nobody reads it any more.
	Now   int64 `json:"now"`
	Later int64 `json:"later"`
}

// ObjectSum counts objects and their bytes in one copy.
type ObjectSum struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Add adds one object.
func (s *ObjectSum) Add(bytes int64) {
	s.Objects++
	s.Bytes += bytes
}

// CondemnedPacks is one list of packs in the trash of a vault.
type CondemnedPacks struct {
	// List is the list's id in the vault.
	List  string    `json:"list"`
	Packs ObjectSum `json:"packs"`
	// Rescued are packs of the list that a point needs again: they stay.
	Rescued ObjectSum `json:"rescued"`
	// Since is when this region first saw the list; it may be deleted from Due on.
	Since time.Time `json:"since"`
	Due   time.Time `json:"due"`
	// Ready tells that it may be deleted now. If not, Waits says for whom.
	Ready bool    `json:"ready"`
	Waits []Lease `json:"waits"`
}

// Lease is a job that reads or writes a vault: nothing that was condemned while
// it ran is deleted before it ends. With the limits of its kind that is when it
// ends, fails or is cancelled; there is no later time that could be promised.
type Lease struct {
	Job     JobID      `json:"job"`
	Kind    JobKind    `json:"kind"`
	Target  string     `json:"target"`
	Started *time.Time `json:"started"`
}

// PackToMove is a pack of which the needed chunks are moved to new packs.
type PackToMove struct {
	Pack   string `json:"pack"`
	Bytes  int64  `json:"bytes"`
	Live   int64  `json:"live"`
	Reason string `json:"reason"`
}

// Reclaimed is what a reclaim did. Bytes are those of one copy.
type Reclaimed struct {
	// Moved are packs whose needed chunks are in new packs now; Condemned went to
	// the trash, Deleted are gone, Rescued were in the trash and are needed again.
	Moved     ObjectSum `json:"moved"`
	Condemned ObjectSum `json:"condemned"`
	Deleted   ObjectSum `json:"deleted"`
	Rescued   ObjectSum `json:"rescued"`
}
