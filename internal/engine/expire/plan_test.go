package expire

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

var now = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

// history makes one available point in both tiers for each age given, oldest first.
func history(ages ...time.Duration) []backstay.RecoveryPoint {
	var points []backstay.RecoveryPoint
	for i, age := range ages {
		p := backstay.RecoveryPoint{ID: backstay.PointID(rune('a' + i)), Time: now.Add(-age)}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, p.Time)
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, p.Time)
		points = append(points, p)
	}
	return points
}

func dropped(verdicts []Verdict, tier backstay.Tier) string {
	var ids string
	for _, v := range verdicts {
		if v.Tier == tier && v.Drop {
			ids += string(v.Point)
		}
	}
	return ids
}

const day = 24 * time.Hour

func TestSnapshotTierGoesByAgeAndByCount(t *testing.T) {
	points := history(9*day, 5*day, 2*day, day, time.Hour)
	for _, c := range []struct {
		keep backstay.SnapshotKeep
		want string
	}{
		{backstay.SnapshotKeep{Days: 3}, "ab"},
		{backstay.SnapshotKeep{Count: 2}, "abc"},
		{backstay.SnapshotKeep{Days: 7, Count: 3}, "ab"},
		{backstay.SnapshotKeep{Days: 30, Count: 9}, ""},
	} {
		got := dropped(NewPlan(backstay.Policy{Snapshot: c.keep, Vault: backstay.VaultKeep{Last: 99}}, points, now), backstay.SnapshotTier)
		if got != c.want {
			t.Errorf("%+v drops %q, want %q", c.keep, got, c.want)
		}
	}
}

func TestTheNewestPointOfATierIsNeverDropped(t *testing.T) {
	points := history(90*day, 80*day, 79*day)
	verdicts := NewPlan(backstay.Policy{Snapshot: backstay.SnapshotKeep{Count: 1}}, points, now)
	if got := dropped(verdicts, backstay.SnapshotTier); got != "ab" {
		t.Errorf("snapshot tier drops %q, want ab", got)
	}
	if got := dropped(verdicts, backstay.VaultTier); got != "ab" {
		t.Errorf("vault tier drops %q, want ab", got)
	}
}

func TestASnapshotThatTheVaultWaitsForStays(t *testing.T) {
	points := history(20*day, 10*day, 2*time.Hour, time.Hour)
	for i := 1; i < 4; i++ {
		points[i].SetTier(backstay.VaultTier, backstay.TierCreating, now)
	}
	if got := dropped(NewPlan(backstay.Policy{Snapshot: backstay.SnapshotKeep{Days: 1}}, points, now), backstay.SnapshotTier); got != "a" {
		t.Errorf("drops %q, want only a, which is in the vault", got)
	}
}

func TestAPointInCreationIsNotExpiredFromTheVault(t *testing.T) {
	points := history(3*day, 2*day, day)
	points[0].SetTier(backstay.VaultTier, backstay.TierCreating, now)
	if got := dropped(NewPlan(backstay.Policy{Vault: backstay.VaultKeep{Last: 1}}, points, now), backstay.VaultTier); got != "b" {
		t.Errorf("drops %q, want b", got)
	}
}

func TestVaultKeepsTheNewestOfEachSlot(t *testing.T) {
	// Two points a day, over forty days.
	var ages []time.Duration
	for i := 80; i >= 1; i-- {
		ages = append(ages, time.Duration(i)*12*time.Hour)
	}
	points := history(ages...)
	for i := range points {
		points[i].ID = backstay.PointID(points[i].Time.Format(time.RFC3339))
	}
	policy := backstay.Policy{Vault: backstay.VaultKeep{Last: 2, Daily: 3, Weekly: 2, Monthly: 2}}
	kept := map[backstay.PointID]bool{}
	for _, v := range NewPlan(policy, points, now) {
		if v.Tier == backstay.VaultTier && !v.Drop {
			kept[v.Point] = true
		}
	}
	want := []backstay.PointID{
		"2026-03-31T00:00:00Z", "2026-03-30T12:00:00Z", "2026-03-29T12:00:00Z", // last 2, 3 days, 2 weeks
		"2026-02-28T12:00:00Z", // the newest of February
	}
	for _, id := range want {
		if !kept[id] {
			t.Errorf("%s is dropped", id)
		}
		delete(kept, id)
	}
	for id := range kept {
		t.Errorf("%s is kept by no rule that was asked for", id)
	}
}

func TestPinnedAndRetainedPointsStay(t *testing.T) {
	points := history(90*day, 80*day, time.Hour)
	points[0].Pinned = true
	until := now.Add(day)
	points[1].Expires = &until
	policy := backstay.Policy{Snapshot: backstay.SnapshotKeep{Days: 1}}
	if verdicts := NewPlan(policy, points, now); dropped(verdicts, backstay.VaultTier)+dropped(verdicts, backstay.SnapshotTier) != "" {
		t.Errorf("a pinned or retained point is dropped: %+v", verdicts)
	}
	if got := dropped(NewPlan(policy, points, now.Add(2*day)), backstay.VaultTier); got != "b" {
		t.Errorf("after its time drops %q, want b", got)
	}
}

func TestADropThatBrokeOffIsTakenUpAgain(t *testing.T) {
	points := history(2*time.Hour, time.Hour)
	points[0].SetTier(backstay.VaultTier, backstay.TierDeleting, now)
	points[0].SetTier(backstay.SnapshotTier, backstay.TierDeleting, now)
	verdicts := NewPlan(backstay.Policy{Snapshot: backstay.SnapshotKeep{Days: 30}, Vault: backstay.VaultKeep{Last: 9}}, points, now)
	if dropped(verdicts, backstay.VaultTier) != "a" || dropped(verdicts, backstay.SnapshotTier) != "a" {
		t.Errorf("%+v", verdicts)
	}
}

func TestEveryVerdictHasAReason(t *testing.T) {
	for _, v := range NewPlan(backstay.Policy{Snapshot: backstay.SnapshotKeep{Days: 3}, Vault: backstay.VaultKeep{Daily: 1}}, history(9*day, day, 0), now) {
		if v.Reason == "" {
			t.Errorf("no reason for %+v", v)
		}
	}
}

// Retention 0: a point leaves the tier once the vault has it or a younger one.
func TestWithRetentionZeroOnlyTheChangeMapStays(t *testing.T) {
	keep := backstay.Policy{Vault: backstay.VaultKeep{Last: 99}}
	points := history(3*day, 2*day, day, time.Hour)
	points[1].DropTier(backstay.VaultTier) // its transfer failed, a younger one is in the vault
	points[3].SetTier(backstay.VaultTier, backstay.TierCreating, now)
	if got := dropped(NewPlan(keep, points, now), backstay.SnapshotTier); got != "abc" {
		t.Errorf("drops %q, want abc", got)
	}
	points[3].SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	if got := dropped(NewPlan(keep, points, now), backstay.SnapshotTier); got != "abcd" {
		t.Errorf("drops %q, want abcd", got)
	}
	for i := range points {
		points[i].DropTier(backstay.VaultTier)
	}
	if got := dropped(NewPlan(keep, points, now), backstay.SnapshotTier); got != "" {
		t.Errorf("drops %q although the vault has none of them", got)
	}
}

// A clock that leaps a year ahead expires nothing by age alone, neither at once
// nor when the first point is taken on the new time.
func TestAClockThatLeapsAheadExpiresNothingByAge(t *testing.T) {
	policy := backstay.Policy{Every: backstay.Duration(day), Snapshot: backstay.SnapshotKeep{Days: 3}, Vault: backstay.VaultKeep{Last: 2}}
	points := history(3*day, 2*day, day, time.Hour)
	until := now.Add(20 * day)
	points[0].Expires = &until
	later := now.Add(365 * day)
	check := func(at time.Time, snapshot, vault string) {
		t.Helper()
		verdicts := NewPlan(policy, points, at)
		if s, v := dropped(verdicts, backstay.SnapshotTier), dropped(verdicts, backstay.VaultTier); s != snapshot || v != vault {
			t.Errorf("drops %q and %q, want %q and %q: %+v", s, v, snapshot, vault, verdicts)
		}
	}
	check(later, "", "b") // a was promised to be kept, and nothing proves that its time is over
	add := func(id backstay.PointID, at time.Time) {
		p := backstay.RecoveryPoint{ID: id, Time: at}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, at)
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, at)
		points = append(points, p)
	}
	add("e", later)
	check(later, "", "abc")
	add("f", later.Add(day))
	check(later.Add(day), "abcd", "abcd")
}

// A clock that is set back makes points that lie ahead: they are kept, and the
// points that are taken now are not counted against them.
func TestAClockThatIsSetBackExpiresNothing(t *testing.T) {
	policy := backstay.Policy{Every: backstay.Duration(day), Snapshot: backstay.SnapshotKeep{Days: 3, Count: 2}, Vault: backstay.VaultKeep{Last: 1}}
	points := history(2*day, day, time.Hour)
	back := now.Add(-300 * day)
	verdicts := NewPlan(policy, points, back)
	if got := dropped(verdicts, backstay.SnapshotTier) + dropped(verdicts, backstay.VaultTier); got != "" {
		t.Errorf("drops %q", got)
	}
	fresh := backstay.RecoveryPoint{ID: "x", Time: back}
	fresh.SetTier(backstay.SnapshotTier, backstay.TierAvailable, back)
	fresh.SetTier(backstay.VaultTier, backstay.TierAvailable, back)
	verdicts = NewPlan(policy, append(points, fresh), back)
	if got := dropped(verdicts, backstay.SnapshotTier) + dropped(verdicts, backstay.VaultTier); got != "" {
		t.Errorf("drops %q: the point just taken must stay, it is the newest in truth", got)
	}
}

func TestAPromisedPointStaysInTheSnapshotTierOnlyWhileTheVaultLacksIt(t *testing.T) {
	points := history(9*day, 8*day, 2*time.Hour, time.Hour)
	until := now.Add(day)
	points[0].Expires, points[1].Expires = &until, &until
	points[1].DropTier(backstay.VaultTier)
	verdicts := NewPlan(backstay.Policy{Snapshot: backstay.SnapshotKeep{Days: 1}, Vault: backstay.VaultKeep{Last: 1}}, points, now)
	if got := dropped(verdicts, backstay.SnapshotTier); got != "a" {
		t.Errorf("drops %q, want a: %+v", got, verdicts)
	}
}

func TestASimulationKeepsWhatThePolicySays(t *testing.T) {
	policy := backstay.Policy{Every: backstay.Duration(6 * time.Hour), Snapshot: backstay.SnapshotKeep{Days: 2, Count: 5}, Vault: backstay.VaultKeep{Daily: 7, Weekly: 4}}
	sim, err := Simulate(policy, 60, now)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, vault := 0, 0
	for _, p := range sim.Points {
		if p.Snapshot != "" {
			snapshot++
		}
		if p.Vault != "" {
			vault++
		}
	}
	if sim.Taken != 240 || snapshot != 5 || sim.Deepest != 6 || vault != 9 {
		t.Errorf("%d taken, %d in the snapshot tier, deepest %d, %d in the vault", sim.Taken, snapshot, sim.Deepest, vault)
	}
	if len(sim.Notes) > 0 {
		t.Errorf("%q", sim.Notes)
	}
	if _, err := Simulate(backstay.Policy{Every: backstay.Duration(time.Minute)}, 3000, now); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("got %v", err)
	}
}

// TestPointsOfAReplicaCountForNothingHere: a VM may have the same UUID in two
// regions, and each region's retention is its own (I11).
func TestPointsOfAReplicaCountForNothingHere(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	point := func(id backstay.PointID, vault backstay.VaultName, days int) backstay.RecoveryPoint {
		p := backstay.RecoveryPoint{ID: id, Vault: vault, Time: now.Add(-time.Duration(days) * 24 * time.Hour)}
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, p.Time)
		return p
	}
	policy := backstay.Policy{Vault: backstay.VaultKeep{Last: 1}}
	verdicts := NewPlan(policy, []backstay.RecoveryPoint{point("01A", "main", 3), point("01B", "main@west", 2), point("01C", "main@west", 1)}, now)
	if len(verdicts) != 1 || verdicts[0].Point != "01A" || verdicts[0].Drop {
		t.Errorf("verdicts are %+v", verdicts)
	}
}
