package backstay

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a part of the day, on some days of the week, by a local clock.
type Window struct {
	// Days are those on which it begins; none means all.
	Days []time.Weekday
	// From and To are minutes since midnight. A To that is not after From is on the
	// next day.
	From, To int
}

// Windows are when something may be done; none means always.
type Windows []Window

const dayMinutes = 24 * 60

// ParseWindow reads FROM-TO or DAYS FROM-TO, such as 22:00-06:00, or
// mon-fri,sun 00:00-24:00.
func ParseWindow(s string) (Window, error) {
	var w Window
	fields := strings.Fields(strings.ToLower(s))
	if len(fields) == 0 || len(fields) > 2 {
		return w, fmt.Errorf("%q is no window: it is FROM-TO, with days before it or without", s)
	}
	if len(fields) == 2 {
		for part := range strings.SplitSeq(fields[0], ",") {
			days, err := parseDays(part)
			if err != nil {
				return w, err
			}
			w.Days = append(w.Days, days...)
		}
	}
	from, to, ok := strings.Cut(fields[len(fields)-1], "-")
	if !ok {
		return w, fmt.Errorf("%q is no window: there is no - between two times", s)
	}
	var err error
	if w.From, err = parseMinute(from); err != nil {
		return w, err
	}
	if w.To, err = parseMinute(to); err != nil {
		return w, err
	}
	if w.From == w.To || w.From == dayMinutes {
		return w, fmt.Errorf("%q is no window: nothing is between its times; a whole day is 00:00-24:00", s)
	}
	return w, nil
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// parseDays reads mon or mon-fri.
func parseDays(s string) ([]time.Weekday, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
	if from < 0 || to < 0 {
		return nil, fmt.Errorf("%q names no days: use %s", s, strings.Join(dayNames, ", "))
	}
	days := []time.Weekday{time.Weekday(from)}
	for from != to {
		from = (from + 1) % 7
		days = append(days, time.Weekday(from))
	}
	return days, nil
}

// parseMinute reads HH:MM, up to 24:00.
func parseMinute(s string) (int, error) {
	if s == "24:00" {
		return dayMinutes, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of the day: use HH:MM", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// Open tells whether it is time now, and when that changes next; the zero time if it
// never does. The clock that counts is that of now's zone.
func (ws Windows) Open(now time.Time) (open bool, until time.Time) {
	if len(ws) == 0 {
		return true, time.Time{}
	}
	open = ws.at(now)
	// It changes at full minutes only, and the same each week; a change of the clock may
	// move it by some hours.
	next := now.Truncate(time.Minute)
	for range 8 * dayMinutes {
		next = next.Add(time.Minute)
		if ws.at(next) != open {
			return open, next
		}
	}
	return open, time.Time{}
}

func (ws Windows) at(t time.Time) bool {
	minute, day := t.Hour()*60+t.Minute(), t.Weekday()
	yesterday := (day + 6) % 7
	on := func(w Window, d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }
	return slices.ContainsFunc(ws, func(w Window) bool {
		if w.From < w.To {
			return on(w, day) && minute >= w.From && minute < w.To
		}
		return on(w, day) && minute >= w.From || on(w, yesterday) && minute < w.To
	})
}
