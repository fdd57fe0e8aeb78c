package backstay

import (
	"slices"
	"time"
)

// Consistency says in what state the guest was at a point's instant.
type Consistency string

// The kinds of consistency, from the strongest down.
const (
	ApplicationConsistent Consistency = "application" // guest hooks succeeded
	FileSystemConsistent  Consistency = "file-system" // guest file systems were frozen
	CrashConsistent       Consistency = "crash"       // neither
)

// Tier is where a copy of a recovery point lives.
type Tier string

// The tiers.
const (
	SnapshotTier Tier = "snapshot"
	VaultTier    Tier = "vault"
)

// TierState says whether a tier's copy can be used.
type TierState string

// The states of a tier's copy. Only an available one is ever restored from.
const (
	TierCreating  TierState = "creating"
	TierAvailable TierState = "available"
	TierDeleting  TierState = "deleting"
)

// PointTier is one tier of one recovery point.
type PointTier struct {
	Tier  Tier      `json:"tier"`
	State TierState `json:"state"`
	Since time.Time `json:"since"`
}

// PointDisk is one disk of a recovery point. ChangedBytes is what the change
// map named relative to the parent, StoredBytes what the vault grew by; SHA256
// is of the whole guest-visible content, nil until a verify has computed it.
type PointDisk struct {
	Target   DiskTarget `json:"target"`
	Size     int64      `json:"size"`
	Format   string     `json:"format"`
	Included bool       `json:"included"`
	Reason   string     `json:"reason,omitempty"`
	// Excluded: the user left the disk out. A disk that could not be backed up is
	// only not Included.
	Excluded     bool    `json:"excluded"`
	ChangedBytes int64   `json:"changedBytes"`
	StoredBytes  int64   `json:"storedBytes"`
	DataBytes    int64   `json:"dataBytes"` // guest-visible bytes that are not known to be zero; 0 until known
	SHA256       *string `json:"sha256"`
}

// Encryption says what of a point's VM was encrypted before backstay saw it.
// Keys are references, never secrets.
type Encryption struct {
	Guest bool     `json:"guest"`
	Host  bool     `json:"host"`
	Keys  []string `json:"keys"`
	// Secrets say how the point holds each secret that its disks and its TPM need.
	Secrets []PointSecret `json:"secrets,omitempty"`
}

// PointSecret is a reference to a secret of the host that a point needs.
type PointSecret struct {
	UUID string `json:"uuid"`
	// Scheme is where its value is: in the point, sealed with it; wrapped by a key
	// service; or nowhere but on the host.
	Scheme SecretScheme `json:"scheme"`
	// Service is the key service that wrapped it.
	Service string `json:"service,omitempty"`
	// Reason says what is missing, if anything is.
	Reason string `json:"reason,omitempty"`
}

// SecretScheme is how a point holds the value of a secret.
type SecretScheme string

// The schemes. A point records its own, and is restored by that, whatever its VM
// has now.
const (
	// SecretInPoint: the value is in the point's definition, which is sealed.
	SecretInPoint SecretScheme = "point"
	// SecretInService: an outside key service wrapped the value, and the point holds
	// what came of it.
	SecretInService SecretScheme = "service"
	// SecretAbsent: the value could not be read. A restore needs it on the host.
	SecretAbsent SecretScheme = "absent"
)

// SecretAbout is what a wrapped or escrowed secret is bound to: what was wrapped for
// one cannot be passed off as another.
func SecretAbout(uuid string) string { return "backstay secret " + uuid }

// EncryptionOf says which of a point's disks were encrypted on the host, and by
// which secrets: references, never values. secrets are what the point holds of
// them; a point of an older release holds none.
func EncryptionOf(shape VM, disks []PointDisk, secrets []PointSecret) Encryption {
	e := Encryption{Keys: []string{}, Secrets: secrets}
	for _, d := range disks {
		key := shape.SecretOf(d.Target)
		if !d.Included || key == "" {
			continue
		}
		e.Host = true
		if !slices.Contains(e.Keys, key) {
			e.Keys = append(e.Keys, key)
		}
	}
	return e
}

// SecretOf is the UUID of the host's secret that a disk is encrypted with; empty
// for a plain disk.
func (v *VM) SecretOf(target DiskTarget) string {
	for _, d := range v.Disks {
		if d.Target == target {
			return d.Secret
		}
	}
	return ""
}

// Allowed says whether one kind of restore is possible, and if not, why.
type Allowed struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
}

// PossibleRestores says which kinds of restore a point allows.
type PossibleRestores struct {
	CreateVM     Allowed `json:"createVM"`
	ReplaceDisks Allowed `json:"replaceDisks"`
	Disks        Allowed `json:"disks"`
	Files        Allowed `json:"files"`
	// Live is create-vm with --live.
	Live Allowed `json:"live"`
}

// RecoveryPoint is a copy of a VM at one instant.
type RecoveryPoint struct {
	ID                PointID          `json:"id"`
	VM                VMRef            `json:"vm"`
	Vault             VaultName        `json:"vault"`
	Time              time.Time        `json:"time"`
	Consistency       Consistency      `json:"consistency"`
	ConsistencyReason string           `json:"consistencyReason"`
	Tiers             []PointTier      `json:"tiers"`
	Disks             []PointDisk      `json:"disks"`
	Encrypted         Encryption       `json:"encrypted"`
	Expires           *time.Time       `json:"expires"`
	Pinned            bool             `json:"pinned"`
	Parent            PointID          `json:"parent"`
	Firmware          Firmware         `json:"firmware"`
	TPM               bool             `json:"tpm"`
	Replicas          []Replica        `json:"replicas"`
	Restores          PossibleRestores `json:"restores"`
	// Shape is the VM as it was at the instant, without secrets: what a
	// restore's plan needs to know.
	Shape VM `json:"shape"`
	// Verified is when all that the point needs in its vault was last read and
	// proved; nil if never.
	Verified *time.Time `json:"verified,omitempty"`
	// Damage says why the point cannot be restored from its vault; empty if nothing
	// is known to stand in the way.
	Damage string `json:"damage,omitempty"`
	// ShortCopies is of how many copies of its vault the point is short now: those on
	// storage units that are recorded as lost, or are being filled. It is told and kept
	// nowhere.
	ShortCopies int `json:"shortCopies,omitempty"`
	// Group is the group whose VMs all have a point of the same instant; empty for
	// a point that was taken alone.
	Group GroupName `json:"group,omitempty"`
	// Job is the job that made the point.
	Job JobID `json:"job"`
}

// LeftOut returns the disks that the user left out of the point.
func (p *RecoveryPoint) LeftOut() []DiskTarget {
	var targets []DiskTarget
	for _, d := range p.Disks {
		if d.Excluded {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

// Has tells whether the point can be restored from the tier.
func (p *RecoveryPoint) Has(tier Tier) bool {
	for _, t := range p.Tiers {
		if t.Tier == tier && t.State == TierAvailable {
			return true
		}
	}
	return false
}

// SetTier puts the tier into the given state since now; an absent tier is added.
func (p *RecoveryPoint) SetTier(tier Tier, state TierState, now time.Time) {
	for i := range p.Tiers {
		if p.Tiers[i].Tier == tier {
			if p.Tiers[i].State != state {
				p.Tiers[i].State, p.Tiers[i].Since = state, now
			}
			return
		}
	}
	p.Tiers = append(p.Tiers, PointTier{Tier: tier, State: state, Since: now})
}

// DropTier takes the tier away.
func (p *RecoveryPoint) DropTier(tier Tier) {
	kept := p.Tiers[:0]
	for _, t := range p.Tiers {
		if t.Tier != tier {
			kept = append(kept, t)
		}
	}
	p.Tiers = kept
}
