package verify

import (
	"time"

	backstay "github.com/backstay/backstay"
)

const (
	// freshWithin is how old a point may get before it is verified: half of the
	// day that is promised, the rest is for waiting and reading.
	freshWithin = 12 * time.Hour
	// again is how long after a run the next one is due, or is tried because of a
	// point that could not be verified.
	again, soon = 24 * time.Hour, 6 * time.Hour
	// floor is the least that a part of a round reads, in bytes: a small vault is
	// verified whole every day.
	floor = 1 << 30
	// partTime is how long the reading of a part may take, and slowest the least
	// rate to which it is held, in bytes a second.
	partTime = 6 * time.Hour
	slowest  = 8 << 20
)

// Due tells whether a vault that was made at the given time is to be verified
// now, in its turn: daily, and when a point was never verified for half a day.
// points are those in the vault.
func Due(now, created time.Time, h backstay.VaultHealth, points []backstay.RecoveryPoint) bool {
	last := created
	if h.LastRun != nil {
		last = *h.LastRun
	}
	if len(points) == 0 {
		return false
	}
	if now.Sub(last) >= again {
		return true
	}
	for _, p := range points {
		if p.Verified == nil && now.Sub(since(p)) >= freshWithin {
			return now.Sub(last) >= soon
		}
	}
	return false
}

// TooSoon tells whether a verify that was tried at the given time is too fresh for
// another. What a vault's health says of its last run does not tell: a verify
// that finds the vault away leaves nothing there.
func TooSoon(now, tried time.Time) bool {
	return !tried.After(now) && now.Sub(tried) < soon
}

// since is when the point came into the vault; zero if it is not there.
func since(p backstay.RecoveryPoint) time.Time {
	for _, t := range p.Tiers {
		if t.Tier == backstay.VaultTier && t.State == backstay.TierAvailable {
			return t.Since
		}
	}
	return time.Time{}
}

// part is how many bytes one part of a round reads, and how fast at most.
type part struct{ budget, rate int64 }

// planPart shares what is left of a round between the days that are left of it.
// total is that of all copies.
func planPart(now time.Time, round backstay.VerifyRound, total int64, days int) part {
	left := max(1, int64(days)-1-int64(now.Sub(round.Started)/(24*time.Hour)))
	p := part{budget: max(floor, (total-round.Bytes+left-1)/left)}
	p.rate = max(slowest, p.budget/int64(partTime/time.Second))
	return p
}
