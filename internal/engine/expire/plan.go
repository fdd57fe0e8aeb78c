// Package expire takes away recovery points that no rule keeps any more: a
// pure plan with a reason for each point, and a runner that lets the snapshot
// tier merge its layers and drops manifests from the vault.
//
// It never drops the newest point of a tier (with retention 0 the snapshot tier
// keeps the change map of it), nor a snapshot-tier point whose transfer is under
// way, nor a pinned one, nor one that lies ahead of the clock. A point whose transfer failed goes by the rules of the
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
	Point backstay.PointID
	Tier  backstay.Tier
	Drop  bool
	// KeepMap: of a dropped snapshot-tier point stays what the next change map is
	// relative to.
	KeepMap bool
	Reason  string
	// Needed says why sessions of item-level restore must give way to the drop; ""
	// lets it wait for them.
	Needed string `json:",omitempty"`
}

// NewPlan decides over all points of one VM, oldest first, at the time now. Points
// of replicas are neither counted nor dropped: their retention is another one.
func NewPlan(policy backstay.Policy, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	points = backstay.OwnPoints(points)
	slices.SortFunc(points, func(a, b backstay.RecoveryPoint) int { return a.Time.Compare(b.Time) })
	verdicts := snapshotVerdicts(policy, points, now)
	return append(verdicts, vaultVerdicts(policy, points, now)...)
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

func snapshotVerdicts(policy backstay.Policy, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	keep, points := policy.Snapshot, in(backstay.SnapshotTier, points)
	present, ahead := ticking(points, now)
	newestInVault := time.Time{}
	for _, p := range present {
		if p.Has(backstay.VaultTier) {
			newestInVault = p.Time
		}
	}
	leap := lastLeap(policy, present, now)
	var verdicts []Verdict
	for i, p := range present {
		younger := len(present) - 1 - i
		v := Verdict{Point: p.ID, Tier: backstay.SnapshotTier}
		switch {
		case stateOf(p, backstay.SnapshotTier) == backstay.TierDeleting:
			v.Drop, v.Reason = true, "its deletion had begun"
		case p.Pinned:
			v.Reason = "pinned"
		case keep.MapOnly():
			v.Drop, v.Reason = mapOnly(p, newestInVault)
			v.KeepMap = v.Drop && p.Time.Equal(newestInVault)
		case younger == 0:
			v.Reason = "the newest one: the next change map is relative to it"
		case retained(p, now) && !p.Has(backstay.VaultTier):
			v.Reason = fmt.Sprintf("kept until %s, and only here", p.Expires.UTC().Format(time.RFC3339))
		case stateOf(p, backstay.VaultTier) == backstay.TierCreating && p.Time.After(newestInVault):
			v.Reason = "not in the vault yet"
		case keep.Count > 0 && younger >= keep.Count:
			v.Drop, v.Reason = true, fmt.Sprintf("%d younger ones, %d are kept", younger, keep.Count)
		case keep.Days == 0 || now.Sub(p.Time) <= days(keep.Days):
			v.Reason = "within the retention of the snapshot tier"
		case i <= leap:
			v.Reason = fmt.Sprintf("older than %d days, but too few points were taken since: the clock may have leapt", keep.Days)
		default:
			v.Drop, v.Reason = true, fmt.Sprintf("older than %d days", keep.Days)
		}
		verdicts = append(verdicts, v)
	}
	return append(verdicts, fromTheFuture(ahead, backstay.SnapshotTier)...)
}

// mapOnly decides where the tier keeps nothing but the newest change map. A
// point that the vault lacks stays until a younger one is in the vault, which
// then has all that it had.
func mapOnly(p backstay.RecoveryPoint, newestInVault time.Time) (drop bool, reason string) {
	switch {
	case p.Time.After(newestInVault):
		return false, "not in the vault yet"
	case p.Time.Equal(newestInVault):
		return true, "in the vault; only its change map stays"
	}
	return true, "the snapshot tier keeps no points, and the vault has it or a younger one"
}

// clockSlack is how far ahead of the clock a point may lie and still be one of
// now: hosts of a region do not agree on the time to the second.
const clockSlack = time.Minute

// ticking splits off the points that lie ahead of the clock: it was wrong then,
// or it is now. They are kept, and count for nothing, so that the points that
// are taken meanwhile are judged among themselves.
func ticking(points []backstay.RecoveryPoint, now time.Time) (present, ahead []backstay.RecoveryPoint) {
	for _, p := range points {
		if p.Time.After(now.Add(clockSlack)) {
			ahead = append(ahead, p)
		} else {
			present = append(present, p)
		}
	}
	return present, ahead
}

func fromTheFuture(ahead []backstay.RecoveryPoint, tier backstay.Tier) []Verdict {
	var verdicts []Verdict
	for _, p := range ahead {
		v := Verdict{Point: p.ID, Tier: tier, Reason: "its time lies ahead of the clock: nothing can be said of its age"}
		if stateOf(p, tier) == backstay.TierDeleting {
			v.Drop, v.Reason = true, "its deletion had begun"
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// lastLeap returns the index of the newest point behind which more time passed
// without a point than the retention and two intervals, unless two points were
// taken since; -1 if there is none. Such a gap is a host that was off, backups
// that failed, or a clock that was set far forward: by their age alone all
// points would go at once, so those before the gap wait until two points prove
// that the clock ticks.
func lastLeap(policy backstay.Policy, points []backstay.RecoveryPoint, now time.Time) int {
	usual := max(days(policy.Snapshot.Days), 2*time.Duration(policy.Every))
	next := now
	for i := len(points) - 1; i >= max(0, len(points)-2); i-- {
		if next.Sub(points[i].Time) > usual {
			return i
		}
		next = points[i].Time
	}
	return -1
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

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

func vaultVerdicts(policy backstay.Policy, points []backstay.RecoveryPoint, now time.Time) []Verdict {
	keep := policy.Vault
	points, ahead := ticking(in(backstay.VaultTier, points), now)
	if len(points) == 0 {
		return fromTheFuture(ahead, backstay.VaultTier)
	}
	// While nothing was taken for long, a time that was promised counts as not
	// over: the clock may have leapt.
	if quiet := now.Sub(points[len(points)-1].Time); quiet > max(days(7), 2*time.Duration(policy.Every)) {
		now = points[len(points)-1].Time
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
	return append(verdicts, fromTheFuture(ahead, backstay.VaultTier)...)
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
