package job

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

var (
	hourly = backstay.Policy{Name: "hourly", Every: backstay.Duration(time.Hour)}
	item   = backstay.ProtectedItem{VM: backstay.VMRef{UUID: "a"}, Since: noon.Add(-100 * time.Hour)} // on the hour
)

func TestWhenAnItemIsDue(t *testing.T) {
	at := func(d time.Duration) *time.Time { t := noon.Add(d); return &t }
	for _, c := range []struct {
		rule   string
		policy backstay.Policy
		last   *time.Time
		due    bool
		next   time.Time
	}{
		{"without an interval never", backstay.Policy{}, nil, false, time.Time{}},
		{"without a point soon after the protection began", hourly, nil, true, noon.Add(-100*time.Hour + firstAfter)},
		{"at the full interval", hourly, at(-time.Hour + 30*time.Second), true, noon},
		{"not before", hourly, at(time.Second - time.Hour), true, noon},
		{"not twice in one interval", hourly, at(0), false, noon.Add(time.Hour)},
		{"many missed ones are one", hourly, at(-90 * time.Hour), true, noon.Add(-89 * time.Hour)},
		{"a point of the future counts as now", hourly, at(24 * time.Hour), false, noon.Add(time.Hour)},
		{"a point from before the protection", hourly, at(-200 * time.Hour), true, noon.Add(-199 * time.Hour)},
	} {
		t.Run(c.rule, func(t *testing.T) {
			due, next := Due(c.policy, item, c.last, noon)
			if due != c.due || !next.Equal(c.next) {
				t.Errorf("due %v, next %v; want %v, %v", due, next, c.due, c.next)
			}
		})
	}
}

func TestANewItemWaitsALittleForItsFirstPoint(t *testing.T) {
	fresh := backstay.ProtectedItem{Since: noon}
	if due, next := Due(hourly, fresh, nil, noon.Add(time.Minute)); due || !next.Equal(noon.Add(firstAfter)) {
		t.Errorf("a minute after protection: due %v, next %v", due, next)
	}
	if due, _ := Due(hourly, fresh, nil, noon.Add(firstAfter)); !due {
		t.Error("not due when the wait is over")
	}
	if due, _ := Due(hourly, fresh, nil, noon.Add(-time.Hour)); !due {
		t.Error("not due although the clock was set back behind the protection")
	}
}

func TestDueTimesDoNotDriftByTheTimeThatBackupsTake(t *testing.T) {
	last := noon
	for range 100 {
		_, next := Due(hourly, item, &last, last)
		if next.Minute() != 0 || next.Sub(last) > time.Hour {
			t.Fatalf("after %v comes %v", last, next)
		}
		last = next.Add(7 * time.Minute) // it waited in the queue
	}
}

// play lets the scheduler's memory decide each minute; a backup that is queued
// makes a point at once if ok, and returns how many there were.
func play(m *memory, last **time.Time, from time.Time, d time.Duration, ok bool) (backups int) {
	for now := from; now.Before(from.Add(d)); now = now.Add(time.Minute) {
		if m.due(hourly, item, *last, now) {
			backups++
			m.tried = now
			if ok {
				taken := now.Add(time.Second)
				if *last == nil || taken.After(**last) { // the newest point by its time
					*last = &taken
				}
			}
		}
	}
	return backups
}

func TestAClockThatJumpsMakesNeitherAStormNorASilence(t *testing.T) {
	for _, jump := range []time.Duration{-30 * time.Second, -90 * time.Minute, -24 * time.Hour, -9000 * time.Hour, 90 * time.Minute, 24 * time.Hour, 9000 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			var m memory
			var last *time.Time
			if n := play(&m, &last, noon, 10*time.Hour, true); n < 10 || n > 11 {
				t.Fatalf("%d backups in the ten hours before", n)
			}
			after := noon.Add(10 * time.Hour).Add(jump)
			if n := play(&m, &last, after, 10*time.Hour, true); n < 9 || n > 12 {
				t.Errorf("%d backups in the ten hours after", n)
			}
			// And back again.
			if n := play(&m, &last, noon.Add(20*time.Hour), 10*time.Hour, true); n < 9 || n > 12 {
				t.Errorf("%d backups in the ten hours after the clock was put right", n)
			}
		})
	}
}

func TestABackupThatFailsIsTriedAgainAfterAWhile(t *testing.T) {
	var m memory
	var last *time.Time
	if n := play(&m, &last, noon, time.Hour, false); n != 4 {
		t.Errorf("%d tries in an hour, want one each quarter", n)
	}
	if n := play(&m, &last, noon.Add(time.Hour), time.Hour, true); n < 1 || n > 2 {
		t.Errorf("%d backups in the hour in which it works again", n)
	}
}

func TestExpiryIsAskedForDailyAndAfterEachNewPoint(t *testing.T) {
	var m memory
	var policy backstay.Policy
	asked := 0
	ask := func(last, now time.Time) {
		if m.sweep(policy, last, now) {
			asked++
		}
	}
	for minute := range 48 * 60 {
		ask(noon, noon.Add(time.Duration(minute)*time.Minute))
	}
	if asked != 2 {
		t.Errorf("asked %d times in two days without a new point", asked)
	}
	now := noon.Add(48 * time.Hour)
	ask(noon, now)
	asked = 0
	ask(now, now)
	ask(now, now.Add(time.Minute))
	if asked != 1 {
		t.Errorf("asked %d times after a new point", asked)
	}
	// The clock is set back by a month: a day later it is asked again.
	for minute := range 25 * 60 {
		ask(now, now.Add(-720*time.Hour+time.Duration(minute)*time.Minute))
	}
	if asked != 2 {
		t.Errorf("asked %d times after the clock was set back", asked)
	}
	asked = 0
	policy.Snapshot.Days = 1
	ask(m.newest, now.Add(time.Hour))
	ask(m.newest, now.Add(2*time.Hour))
	if asked != 1 {
		t.Errorf("asked %d times after the policy keeps something else", asked)
	}
}
