package backstay

import (
	"testing"
	"time"
)

func TestAWindowIsOpenFromItsBeginToItsEnd(t *testing.T) {
	at := func(s string) time.Time {
		when, err := time.Parse("Mon 2006-01-02 15:04:05", s)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, c := range []struct {
		windows []string
		now     string
		open    bool
		until   string // "" for never
	}{
		{nil, "Mon 2026-03-02 12:00:00", true, ""},
		{[]string{"22:00-06:00"}, "Mon 2026-03-02 12:00:00", false, "Mon 2026-03-02 22:00:00"},
		{[]string{"22:00-06:00"}, "Mon 2026-03-02 21:59:59", false, "Mon 2026-03-02 22:00:00"},
		{[]string{"22:00-06:00"}, "Mon 2026-03-02 22:00:00", true, "Tue 2026-03-03 06:00:00"},
		{[]string{"22:00-06:00"}, "Tue 2026-03-03 05:59:59", true, "Tue 2026-03-03 06:00:00"},
		{[]string{"22:00-06:00"}, "Tue 2026-03-03 06:00:00", false, "Tue 2026-03-03 22:00:00"},
		// The days are those on which a window begins.
		{[]string{"fri 22:00-06:00"}, "Sat 2026-03-07 05:00:00", true, "Sat 2026-03-07 06:00:00"},
		{[]string{"fri 22:00-06:00"}, "Sat 2026-03-07 23:00:00", false, "Fri 2026-03-13 22:00:00"},
		{[]string{"sat-mon 00:00-24:00"}, "Sun 2026-03-08 12:00:00", true, "Tue 2026-03-10 00:00:00"},
		{[]string{"mon,wed 10:00-11:00"}, "Mon 2026-03-02 11:00:00", false, "Wed 2026-03-04 10:00:00"},
		{[]string{"10:00-11:00", "11:00-12:00"}, "Mon 2026-03-02 10:30:00", true, "Mon 2026-03-02 12:00:00"},
		{[]string{"00:00-24:00"}, "Mon 2026-03-02 10:30:00", true, ""},
	} {
		var ws Windows
		for _, text := range c.windows {
			w, err := ParseWindow(text)
			if err != nil {
				t.Fatal(err)
			}
			ws = append(ws, w)
		}
		open, until := ws.Open(at(c.now))
		want := time.Time{}
		if c.until != "" {
			want = at(c.until)
		}
		if open != c.open || !until.Equal(want) {
			t.Errorf("%v at %s: %v until %s, want %v until %s", c.windows, c.now, open, until, c.open, want)
		}
	}
}

func TestWhatIsNoWindowIsRefused(t *testing.T) {
	for _, text := range []string{"", "22:00", "22:00-25:00", "22-06", "someday 22:00-06:00", "mon-fri", "10:00-10:00", "24:00-06:00", "mon tue 10:00-11:00", "mon- 10:00-11:00"} {
		if w, err := ParseWindow(text); err == nil {
			t.Errorf("%q is %+v", text, w)
		}
	}
}
