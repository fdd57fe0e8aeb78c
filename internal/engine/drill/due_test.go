package drill

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

func TestAPlanIsDueOnItsGridAndMissedRunsAreMadeUpForByOne(t *testing.T) {
	plan := backstay.DrillPlan{Every: backstay.Duration(24 * time.Hour), Since: began}
	at := func(d time.Duration) *time.Time { t := began.Add(d); return &t }
	for _, c := range []struct {
		last *time.Time
		now  time.Duration
		due  bool
		next time.Duration
	}{
		{nil, 23 * time.Hour, false, 24 * time.Hour},
		{nil, 24 * time.Hour, true, 24 * time.Hour},
		{at(25 * time.Hour), 26 * time.Hour, false, 48 * time.Hour},
		{at(25 * time.Hour), 100 * time.Hour, true, 48 * time.Hour},
		{at(100 * time.Hour), 101 * time.Hour, false, 120 * time.Hour},
		{at(-time.Hour), time.Hour, false, 24 * time.Hour},
		{at(1000 * time.Hour), time.Hour, false, 24 * time.Hour}, // the clock was set back
	} {
		if due, next := Due(plan, c.last, began.Add(c.now)); due != c.due || !next.Equal(began.Add(c.next)) {
			t.Errorf("last %v, now +%v: %v, next +%v", c.last, c.now, due, next.Sub(began))
		}
	}
	if due, _ := Due(backstay.DrillPlan{Since: began}, nil, began.Add(time.Hour)); due {
		t.Error("a plan without a schedule is due")
	}
}
