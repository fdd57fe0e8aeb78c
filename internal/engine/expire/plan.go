// Package expire takes away recovery points that no rule keeps any more: a
// pure plan with a reason for each point, and a runner that lets the snapshot
// tier merge its layers and drops manifests from the vault.
//
// It never drops the newest point of a tier, nor a snapshot-tier point whose
// transfer is under way. A point whose transfer failed goes by the rules of the
// snapshot tier like any other: layers that pile up while a vault is away would
// fill the disk that the guest writes to (I12), and the newest point stays.
package expire

import (
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
)

// Verdict says of one tier of one point whether it goes, and why.
type Verdict struct {
	Point  backstay.PointID
	Tier   backstay.Tier
	Drop   bool
	Reason string
}

// NewPlan decides over all points of one VM, oldest first, at the time now.
func NewPlan(policy backstay.Policy, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b backstay.RecoveryPoint) int { return a.Time.Compare(b.Time) })
	verdicts := snapshotVerdicts(policy.Snapshot, points, now)
	return append(verdicts, vaultVerdicts(policy.Vault, points, now)...)
}

func in(tier backstay.Tier, points []backstay.RecoveryPoint) []backstay.RecoveryPoint {
	var has []backstay.RecoveryPoint
	for _, p := range points {
		for _, t := range p.Tiers {
			// A tier whose drop broke off is still to be dropped.
			if t.Tier == tier && t.State != backstay.TierCreating {
				has = append(has, p)
			}
		}
	}
	return has
}

func stateOf(p backstay.RecoveryPoint, tier backstay.Tier) backstay.TierState {
	for _, t := range p.Tiers {
		if t.Tier == tier {
			return t.State
		}
	}
	return ""
}

func snapshotVerdicts(keep backstay.SnapshotKeep, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	points = in(backstay.SnapshotTier, points)
	newestInVault := time.Time{}
	for _, p := range points {
		if p.Has(backstay.VaultTier) {
			newestInVault = p.Time
		}
	}
	var verdicts []Verdict
	for i, p := range points {
		younger := len(points) - 1 - i
		v := Verdict{Point: p.ID, Tier: backstay.SnapshotTier}
		switch {
		case stateOf(p, backstay.SnapshotTier) == backstay.TierDeleting:
			v.Drop, v.Reason = true, "its deletion had begun"
		case younger == 0:
			v.Reason = "the newest one: the next change map is relative to it"
		case p.Pinned:
			v.Reason = "pinned"
		case retained(p, now):
			v.Reason = fmt.Sprintf("kept until %s", p.Expires.UTC().Format(time.RFC3339))
		case stateOf(p, backstay.VaultTier) == backstay.TierCreating && p.Time.After(newestInVault):
			v.Reason = "not in the vault yet"
		case keep.Count > 0 && younger >= keep.Count:
			v.Drop, v.Reason = true, fmt.Sprintf("%d younger ones, %d are kept", younger, keep.Count)
		case keep.Days > 0 && now.Sub(p.Time) > time.Duration(keep.Days)*24*time.Hour:
			v.Drop, v.Reason = true, fmt.Sprintf("older than %d days", keep.Days)
		default:
			v.Reason = "within the retention of the snapshot tier"
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func retained(p backstay.RecoveryPoint, now time.Time) bool {
	return p.Expires != nil && p.Expires.After(now)
}

// A slot is one day, week, month or year; the newest point in it is kept.
type slot struct {
	name  string
	count int
	key   func(time.Time) string
}

func slots(keep backstay.VaultKeep) []slot {
	return []slot{
		{"daily", keep.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", keep.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", keep.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", keep.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

func vaultVerdicts(keep backstay.VaultKeep, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	points = in(backstay.VaultTier, points)
	if len(points) == 0 {
		return nil
	}
	kept := map[backstay.PointID]string{points[len(points)-1].ID: "the newest one"}
	for i := range points {
		p := points[len(points)-1-i]
		if i < keep.Last {
			note(kept, p.ID, "one of the last "+fmt.Sprint(keep.Last))
		}
		if p.Pinned {
			note(kept, p.ID, "pinned")
		}
		if retained(p, now) {
			note(kept, p.ID, "kept until "+p.Expires.UTC().Format(time.RFC3339))
		}
	}
	for _, s := range slots(keep) {
		keepSlots(s, points, kept)
	}
	var verdicts []Verdict
	for _, p := range points {
		v := Verdict{Point: p.ID, Tier: backstay.VaultTier, Reason: kept[p.ID]}
		switch {
		case stateOf(p, backstay.VaultTier) == backstay.TierDeleting:
			v.Drop, v.Reason = true, "its deletion had begun"
		case v.Reason == "":
			v.Drop, v.Reason = true, "no keep rule names it"
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func note(kept map[backstay.PointID]string, id backstay.PointID, reason string) {
	if kept[id] == "" {
		kept[id] = reason
	}
}

// keepSlots keeps the newest point in each of the newest s.count slots that have one.
func keepSlots(s slot, points []backstay.RecoveryPoint, kept map[backstay.PointID]string) {
	seen := map[string]bool{}
	for i := range points {
		p := points[len(points)-1-i]
		key := s.key(p.Time.UTC())
		if seen[key] {
			continue
		}
		if len(seen) >= s.count {
			return
		}
		seen[key] = true
		note(kept, p.ID, s.name+" "+key)
	}
}
