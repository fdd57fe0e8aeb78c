// Package restore makes VMs out of recovery points: a pure plan with the
// pre-flight list of everything that would fail, and a runner that stages,
// verifies, switches and starts through the host's mover.
//
// It opens no disk; the mover does. Nothing of a point and nothing of the
// source VM is ever changed (I8).
package restore

import (
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Facts are what the plan is decided from, gathered beforehand.
type Facts struct {
	Point backstay.RecoveryPoint
	// Over is the VM whose disks are to be replaced; empty for the point's own.
	Over backstay.VMID
	// Host is the host that will run the new VM.
	Host backstay.Host
	// VMs are all VMs of the region.
	VMs []backstay.VM
	// Paths has what the host says of the paths that Candidates names.
	Paths map[string]mover.PathInfo
	// VaultProblem says why the vault cannot be read; empty if it can.
	VaultProblem string
	// VaultWarning says what the vault cannot vouch for; empty if it can.
	VaultWarning string
	// SourceProblem says why the host that has the point's layers cannot be asked,
	// where another is to restore them; empty if it can.
	SourceProblem string
	// Secrets are those that the point needs, as the host has them; SecretProblem
	// says why that could not be found out.
	Secrets       []mover.SecretState
	SecretProblem error
	// Source says how the VM stands whose disks are to be replaced, and Item is what
	// it is protected by; nil where that is not asked, or there is none.
	Source *mover.SourceState
	Item   *backstay.ProtectedItem
	// SafetyPoint is a fresh id.
	SafetyPoint backstay.PointID
	// Fresh identities, made beforehand so that the plan is pure.
	UUID backstay.VMID
	MACs []string
}

// margin is kept free in the file system that takes the disks, in bytes.
const margin = 256 << 20

// overlayRoom is what an instant restore's overlay needs at first, in bytes.
const overlayRoom = 16 << 20

// NewPlan decides how to restore a point. The plan is returned also when checks
// refuse it, so that a dry run can show them; the error is only for a request
// that makes no sense.
func NewPlan(r backstay.RestoreRequest, f Facts) (backstay.RestorePlan, error) {
	w, err := wayOf(r.Kind)
	if err != nil {
		return backstay.RestorePlan{}, err
	}
	if err := errors.Join(checkFields(r), checkTierName(r), w.check(r, f)); err != nil {
		return backstay.RestorePlan{}, err
	}
	plan := skeleton(r, f)
	w.plan(r, f, &plan)
	fillDisks(f.Point, &plan)
	fillSecrets(f, &plan)
	plan.Preflight = w.preflight(r, f, plan)
	return plan, nil
}

// skeleton is what the plans of all kinds have.
func skeleton(r backstay.RestoreRequest, f Facts) backstay.RestorePlan {
	tier, reason := ChooseTier(r, f.Point, f.Host.Name)
	var from backstay.HostName
	if tier == backstay.SnapshotTier && f.Host.Name != f.Point.VM.Host && r.Kind != backstay.ReplaceDisks {
		from = f.Point.VM.Host
	}
	return backstay.RestorePlan{
		StreamedFrom: from,
		Kind:         r.Kind, Point: f.Point.ID, Tier: tier, TierReason: reason, Vault: f.Point.Vault,
		Host: f.Host.Name, Source: f.Point.VM, Name: f.Point.VM.Name, UUID: f.Point.VM.UUID,
		Firmware: f.Point.Firmware, TPM: f.Point.TPM, Differences: []backstay.Difference{},
	}
}

func checkTierName(r backstay.RestoreRequest) error {
	if r.Tier == "" || r.Tier == backstay.SnapshotTier || r.Tier == backstay.VaultTier {
		return nil
	}
	return backstay.Errorf(backstay.CodeUsage, "%q is not a tier", r.Tier).Becausef("there are snapshot and vault").Do("say --tier snapshot or --tier vault")
}

// ChooseTier says which tier a request reads, and why.
func ChooseTier(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.HostName) (tier backstay.Tier, reason string) {
	switch {
	case r.Tier != "":
		return r.Tier, "asked for"
	case r.Live:
		return backstay.VaultTier, "a live restore starts from the vault"
	case r.Full:
		return backstay.VaultTier, "whole disks are written from the vault"
	case !p.Has(backstay.SnapshotTier):
		return backstay.VaultTier, "the point is not in the snapshot tier"
	case host != p.VM.Host && p.Has(backstay.VaultTier):
		return backstay.VaultTier, "the snapshot tier of the point is on host " + string(p.VM.Host)
	case host != p.VM.Host:
		return backstay.SnapshotTier, "the point is in no vault yet, and is streamed from host " + string(p.VM.Host)
	}
	return backstay.SnapshotTier, "its layers lie on this host, so that nothing need be copied"
}

// Candidates returns the paths that a plan for this request would use, so that
// the host can be asked about them.
func Candidates(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string {
	if w, err := wayOf(r.Kind); err == nil {
		return w.candidates(r, p, host)
	}
	return nil
}

// fillDisks says of each disk where its content comes from and what is written
// at most, where its kind did not.
func fillDisks(p backstay.RecoveryPoint, plan *backstay.RestorePlan) {
	for i := range plan.Disks {
		d := &plan.Disks[i]
		if d.Action == backstay.DiskDetached || d.Action == backstay.DiskKept {
			continue // nothing is read for it
		}
		if d.From == "" && plan.Tier == backstay.VaultTier {
			d.From = "vault " + string(plan.Vault)
		} else if d.From == "" && plan.StreamedFrom != "" {
			d.From = "streamed from host " + string(plan.StreamedFrom)
		} else if d.From == "" {
			d.From = "the point's layer on " + string(plan.Source.Host)
		}
		if d.Bytes == 0 && (plan.Tier == backstay.VaultTier || plan.StreamedFrom != "") {
			d.Bytes = diskBytes(p, d.Target)
		}
	}
}

// diskBytes is what writing one disk of the point takes, at most.
func diskBytes(p backstay.RecoveryPoint, target backstay.DiskTarget) int64 {
	for _, d := range p.Disks {
		if d.Target == target && d.Included {
			if d.DataBytes > 0 {
				return d.DataBytes
			}
			return d.Size
		}
	}
	return 0
}

// dataBytes is what writing all disks of the point takes, at most.
func dataBytes(p backstay.RecoveryPoint) int64 {
	var total int64
	for _, d := range p.Disks {
		total += diskBytes(p, d.Target)
	}
	return total
}
