package backstay

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// CopyState says what was found of one object of a vault in one copy.
type CopyState string

// The states of one object in one copy. Unreadable says nothing of the object (I5).
const (
	CopySound      CopyState = "sound"
	CopyMissing    CopyState = "missing"
	CopyDamaged    CopyState = "damaged"
	CopyUnreadable CopyState = "unreadable"
)

// Damage is an object of a vault that is not sound in every copy.
type Damage struct {
	Object string `json:"object"`
	// Copies has the state in each copy, in the order of the storage units; Why
	// says of each that is not sound what is wrong.
	Copies []CopyState `json:"copies"`
	Why    []string    `json:"why"`
	// Points need this object and cannot be restored whole; only set if it is lost.
	Points []PointID `json:"points,omitempty"`
}

// Lost tells whether every copy answered, and none is sound.
func (d Damage) Lost() bool {
	return !slices.Contains(d.Copies, CopySound) && !slices.Contains(d.Copies, CopyUnreadable)
}

// Repairable tells whether a copy is missing or damaged.
func (d Damage) Repairable() bool {
	return slices.Contains(d.Copies, CopyMissing) || slices.Contains(d.Copies, CopyDamaged)
}

// String says which copies of what are wrong, and why.
func (d Damage) String() string {
	var parts []string
	for i, state := range d.Copies {
		if state != CopySound {
			parts = append(parts, fmt.Sprintf("%s in copy %d (%s)", state, i+1, d.Why[i]))
		}
	}
	return d.Object + ": " + strings.Join(parts, ", ")
}

// CopyCount counts what was found in one copy of a vault.
type CopyCount struct {
	// Objects and Bytes were looked at and are there, sound or not.
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Unreadable is counted apart from the others: it is no damage (I5).
	Missing    int64 `json:"missing"`
	Damaged    int64 `json:"damaged"`
	Unreadable int64 `json:"unreadable"`
}

// Count adds the states of one object to those of the copies.
func (d Damage) Count(copies []CopyCount) {
	for i, state := range d.Copies {
		if i >= len(copies) {
			return
		}
		switch c := &copies[i]; state {
		case CopyMissing:
			c.Missing++
		case CopyDamaged:
			c.Damaged++
		case CopyUnreadable:
			c.Unreadable++
		}
	}
}

// CopyHealth is what is known of one copy of a vault from reading it (I13).
type CopyHealth struct {
	CopyCount
	// LastScrubbed is the end of the last verify that read the whole copy.
	LastScrubbed *time.Time `json:"lastScrubbed"`
}

// VaultHealth is what verifying and repairing found out of a vault.
type VaultHealth struct {
	Vault VaultName `json:"vault"`
	// Started and Ended are those of the last verify of the whole vault.
	Started *time.Time `json:"started"`
	Ended   *time.Time `json:"ended"`
	// LastRun is when anything of the vault was verified last.
	LastRun *time.Time `json:"lastRun"`
	// Copies are in the order of the storage units: objects, bytes and what was
	// unreadable as the last whole verify found it, damaged and missing as of now.
	Copies []CopyHealth `json:"copies"`
	// Damages are those that no repair has mended, as far as is known.
	Damages []Damage `json:"damages"`
	// Round is the verify of the whole vault that is under way; nil if none is.
	Round *VerifyRound `json:"round,omitempty"`
}

// VerifyRound is a verify of a whole vault, in as many parts as it takes.
type VerifyRound struct {
	Started time.Time `json:"started"`
	// Cursor is the object that was looked at last.
	Cursor string `json:"cursor"`
	// Objects and Bytes are what was looked at and read so far, over all copies.
	Objects int64       `json:"objects"`
	Bytes   int64       `json:"bytes"`
	Copies  []CopyCount `json:"copies"`
	// Unproved is how many objects no copy could show, and some could not be read.
	Unproved int64 `json:"unproved"`
}

// Settle counts the damaged and missing objects anew from the damages.
func (h *VaultHealth) Settle() {
	counts := make([]CopyCount, len(h.Copies))
	for _, d := range h.Damages {
		d.Count(counts)
	}
	for i := range h.Copies {
		h.Copies[i].Damaged, h.Copies[i].Missing = counts[i].Damaged, counts[i].Missing
	}
}

// LostPacks returns the ids of the packs that are known to have no sound copy.
func (h *VaultHealth) LostPacks() []string {
	var ids []string
	for _, d := range h.Damages {
		if strings.HasPrefix(d.Object, "packs/") && d.Lost() {
			ids = append(ids, d.Object[strings.LastIndexByte(d.Object, '/')+1:])
		}
	}
	return ids
}

// VerifyVaultParams ask to verify a vault: every object in every copy.
type VerifyVaultParams struct {
	Vault VaultName `json:"vault"`
	// Points verifies the points that were never verified before anything else,
	// Whole the whole vault.
	Points bool `json:"points,omitempty"`
	Whole  bool `json:"whole,omitempty"`
	// Days makes it one part of a verify of the whole vault that takes so many
	// days; 0 means all of it, from the beginning.
	Days int `json:"days,omitempty"`
	// Rate bounds the reading, in bytes a second; 0 leaves it to the job.
	Rate int64 `json:"rate,omitempty"`
}

// RepairParams ask to mend what verifying a vault found.
type RepairParams struct {
	Vault VaultName `json:"vault"`
}

// RebuildParams ask to make the catalogue agree with a vault.
type RebuildParams struct {
	Vault VaultName `json:"vault"`
}
