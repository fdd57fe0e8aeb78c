package drill

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// Due tells whether a plan is to be run at now, and when it is to be run next. last is
// when it was run last and showed something; nil for never.
//
// Due times lie on a grid: the instant at which the schedule was set, and every
// interval after it; the first is one interval later. So they do not drift, and any
// number of missed ones is made up for by one.
func Due(plan backstay.DrillPlan, last *time.Time, now time.Time) (due bool, next time.Time) {
	every := time.Duration(plan.Every)
	if every <= 0 {
		return false, time.Time{}
	}
	from := plan.Since
	if last != nil && last.After(from) {
		from = *last
	}
	if from.After(now) { // the clock was set back
		from = now
	}
	next = plan.Since.Add((from.Sub(plan.Since)/every + 1) * every)
	for !next.After(from) { // the division rounds towards the origin
		next = next.Add(every)
	}
	return !now.Before(next), next
}

// Retry is how long after a run that showed nothing the next is tried: a quarter of
// the interval, at least a minute and at most an hour.
func Retry(every backstay.Duration) time.Duration {
	return min(max(time.Duration(every)/4, time.Minute), time.Hour)
}
