package expire

import (
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
)

// The bounds of a simulation.
const (
	mostDays   = 3660
	mostPoints = 20000
)

// Simulate imagines that the policy was at work for so many days until the given
// time, that every backup went well and that expiry followed each. CodeUsage if
// that is more than can be gone through.
func Simulate(policy backstay.Policy, days int, until time.Time) (backstay.PolicySimulation, error) {
	sim := backstay.PolicySimulation{
		Policy: policy, Days: days, Until: until.UTC(), Bound: policy.Snapshot.MaxPoints(),
		Points: []backstay.SimulatedPoint{}, Notes: []string{},
	}
	every := time.Duration(policy.Every)
	if every == 0 {
		every = 24 * time.Hour
		sim.Notes = append(sim.Notes, "the policy takes no points by itself: one a day, taken by hand, is assumed")
	}
	if days < 1 || days > mostDays {
		return sim, backstay.Errorf(backstay.CodeUsage, "%d days cannot be simulated", days).Becausef("it must be from 1 to %d", mostDays).Do("give --days from 1 to %d", mostDays)
	}
	span := time.Duration(days) * 24 * time.Hour
	if n := int64(span / every); n > mostPoints {
		return sim, backstay.Errorf(backstay.CodeUsage, "%d days of this policy cannot be simulated", days).
			Becausef("it takes %d points in that time, and at most %d are gone through", n, mostPoints).
			Do("give fewer --days")
	}
	var points []backstay.RecoveryPoint
	for at := until.Add(-span).Add(every); !at.After(until); at = at.Add(every) {
		points = take(points, at)
		sim.Taken++
		measure(&sim, points, at)
		points = apply(points, NewPlan(policy, points, at))
	}
	return endOf(sim, points, until), nil
}

// take adds a point that is in both tiers.
func take(points []backstay.RecoveryPoint, at time.Time) []backstay.RecoveryPoint {
	p := backstay.RecoveryPoint{ID: backstay.PointID(at.UTC().Format(time.RFC3339Nano)), Time: at.UTC()}
	p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, at)
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, at)
	return append(points, p)
}

// apply drops what the verdicts name.
func apply(points []backstay.RecoveryPoint, verdicts []Verdict) []backstay.RecoveryPoint {
	byID := map[backstay.PointID]int{}
	for i := range points {
		byID[points[i].ID] = i
	}
	for _, v := range verdicts {
		if v.Drop {
			points[byID[v.Point]].DropTier(v.Tier)
		}
	}
	var kept []backstay.RecoveryPoint
	for _, p := range points {
		if len(p.Tiers) > 0 {
			kept = append(kept, p)
		}
	}
	return kept
}

// measure notes how full the tiers are when a point was just taken.
func measure(sim *backstay.PolicySimulation, points []backstay.RecoveryPoint, at time.Time) {
	if n := len(in(backstay.SnapshotTier, points)); n > sim.Deepest {
		sim.Deepest, sim.DeepestAt = n, at.UTC()
	}
	sim.MostInVault = max(sim.MostInVault, len(in(backstay.VaultTier, points)))
}

// endOf lists what is kept at the end, and why.
func endOf(sim backstay.PolicySimulation, points []backstay.RecoveryPoint, until time.Time) backstay.PolicySimulation {
	reasons := map[backstay.PointID]*backstay.SimulatedPoint{}
	for _, p := range points {
		sim.Points = append(sim.Points, backstay.SimulatedPoint{Time: p.Time})
	}
	for i, p := range points {
		reasons[p.ID] = &sim.Points[i]
	}
	for _, v := range NewPlan(sim.Policy, points, until) {
		switch {
		case v.Drop:
		case v.Tier == backstay.SnapshotTier:
			reasons[v.Point].Snapshot = v.Reason
		default:
			reasons[v.Point].Vault = v.Reason
		}
	}
	if sim.Deepest > sim.Bound+1 {
		sim.Notes = append(sim.Notes, fmt.Sprintf("the chain would hold %d points and may hold %d: the oldest ones would go before their time", sim.Deepest, sim.Bound))
	}
	return sim
}
