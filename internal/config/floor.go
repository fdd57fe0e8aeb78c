package config

import (
	"fmt"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
)

// Floor is how much of a file system must stay free: a number of bytes with a
// unit, or a part of the whole in percent.
type Floor string

var units = []struct {
	name  string
	bytes float64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// Of returns the floor of a file system of that size, in bytes; never more than
// half of it, since backstay could not hold that.
func (f Floor) Of(total int64) (int64, error) {
	text := strings.TrimSpace(string(f))
	if text == "" {
		return backstay.DefaultFloor(total), nil
	}
	if part, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(strings.TrimSpace(part), 64)
		if err != nil || !(percent >= 0 && percent <= 50) {
			return 0, fmt.Errorf("a part is from 0%% to 50%%")
		}
		return int64(float64(total) * percent / 100), nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n >= 0 && n*u.bytes < 1<<62) {
			break
		}
		return min(int64(n*u.bytes), total/2), nil
	}
	return 0, fmt.Errorf("it is neither a size nor a part")
}
