package job

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// Due tells whether a backup of the item is due at now, and when the next one is
// (or was) due. last is the time of its newest point, nil if it has none.
//
// Due times lie on a grid: the instant at which the item's protection began, and
// every interval of the policy after it. So they do not drift by the time that
// backups take, and any number of missed ones is made up for by one. An item
// with no point is due firstAfter its protection began; a policy without an interval is never due, and
// next is zero. A last point that lies after now, because the clock was set
// back, counts as taken now.
func Due(policy backstay.Policy, item backstay.ProtectedItem, last *time.Time, now time.Time) (due bool, next time.Time) {
	every := time.Duration(policy.Every)
	// Image files are backed up when somebody says so: nobody knows where the next are.
	if every <= 0 || item.Method == backstay.MethodImage {
		return false, time.Time{}
	}
	if last == nil {
		next = item.Since.Add(min(firstAfter, every))
		if item.Since.After(now) {
			next = now
		}
		return !now.Before(next), next
	}
	from := *last
	if from.After(now) {
		from = now
	}
	next = gridAfter(item.Since, every, from)
	return !now.Before(next), next
}

// firstAfter is how long a new item waits for its first point: long enough for
// whoever protects a VM to take it by hand, as most do, and to see it work.
const firstAfter = 10 * time.Minute

// gridAfter returns the first instant after t that is a whole number of
// intervals away from origin.
func gridAfter(origin time.Time, every time.Duration, t time.Time) time.Time {
	if origin.IsZero() {
		origin = t
	}
	steps := t.Sub(origin) / every
	next := origin.Add(steps * every)
	for !next.After(t) { // at most twice: the division rounds towards the origin
		next = next.Add(every)
	}
	return next
}

// retryAfter is how long after a backup that made no point the next is tried: a
// quarter of the interval, at least a minute and at most an hour.
func retryAfter(every time.Duration) time.Duration {
	return min(max(every/4, time.Minute), time.Hour)
}

// memory is what the scheduler remembers of one item while it runs. What it
// forgets in a restart costs at most one backup more.
type memory struct {
	tried  time.Time // the last backup was submitted
	ahead  time.Time // when the newest point was first seen to lie in the future
	last   time.Time // the newest point, as last seen
	swept  time.Time // an expiry was last asked for
	newest time.Time // the newest point at that time
	keep   keep      // what was to be kept at that time
}

// due tells whether to submit a backup now. It keeps a clock that was set back
// or forward from causing a storm or a silence: what lies in the future counts
// as of the moment at which that was noticed.
func (m *memory) due(policy backstay.Policy, item backstay.ProtectedItem, last *time.Time, now time.Time) bool {
	if m.tried.After(now) {
		m.tried = now
	}
	if last == nil || !last.After(now) {
		m.ahead = time.Time{}
		if !m.tried.IsZero() && (last == nil || last.Before(m.tried)) {
			// The last try made no point.
			due, _ := Due(policy, item, last, now)
			return due && !now.Before(m.tried.Add(retryAfter(time.Duration(policy.Every))))
		}
		due, _ := Due(policy, item, last, now)
		return due
	}
	if m.ahead.IsZero() || m.ahead.After(now) {
		m.ahead = now
	}
	from := m.ahead
	if m.tried.After(from) {
		from = m.tried
	}
	due, _ := Due(policy, item, &from, now)
	return due
}

// keep is the part of a policy that decides what expires.
type keep struct {
	snapshot backstay.SnapshotKeep
	vault    backstay.VaultKeep
}

// sweepEvery is the time between two expiries of an item that has no new point.
const sweepEvery = 24 * time.Hour

// sweep tells whether to ask for an expiry now: daily, after a new point, and when
// the policy keeps something else than before.
func (m *memory) sweep(policy backstay.Policy, last, now time.Time) bool {
	keeps := keep{policy.Snapshot, policy.Vault}
	if m.swept.After(now) {
		m.swept = now
	}
	if !m.swept.IsZero() && now.Sub(m.swept) < sweepEvery && last.Equal(m.newest) && keeps == m.keep {
		return false
	}
	m.swept, m.newest, m.keep = now, last, keeps
	return true
}
