package config

import "testing"

func TestAFloorIsASizeOrAPartAndNeverMoreThanHalf(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		floor       Floor
		total, want int64
	}{
		{"", 100 * gib, 5 * gib}, {"", 20 * gib, 2 * gib}, {"", gib, gib / 4}, {"", 4 << 40, 4 << 40 / 20},
		{"10%", 100 * gib, 10 * gib}, {"1.5 GiB", 100 * gib, 3 * gib / 2}, {"4096", gib, 4096}, {"10GiB", gib, gib / 2}, {"0%", gib, 0},
	} {
		if got, err := c.floor.Of(c.total); err != nil || got != c.want {
			t.Errorf("%q of %d: %d, %v, want %d", c.floor, c.total, got, err, c.want)
		}
	}
	for _, bad := range []Floor{"51%", "-1GiB", "lots", "%", "GiB", "NaN%", "1e400B"} {
		if got, err := bad.Of(gib); err == nil {
			t.Errorf("%q was taken as %d", bad, got)
		}
	}
}
