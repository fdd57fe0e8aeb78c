package blob

import (
	"fmt"
	"strings"
)

// CheckName returns an error for a name that no store accepts: empty, longer
// than 512 bytes, with other characters than letters, digits, '-', '_', '.' and
// '/', with an empty part, or with a part that starts with a dot (so ".." too).
func CheckName(name string) error {
	if name == "" || len(name) > 512 {
		return fmt.Errorf("object name of %d bytes: want 1 to 512", len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > 200 {
			return fmt.Errorf("object name %q: bad part %q", name, part)
		}
		for _, c := range []byte(part) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			default:
				return fmt.Errorf("object name %q: bad character %q", name, c)
			}
		}
	}
	return nil
}

// CheckRange turns offset and length (negative: to the end) of a Get into a
// half-open range, or returns an error if it reaches outside the object.
func CheckRange(size, offset, length int64) (from, to int64, err error) {
	if length < 0 {
		length = size - offset
	}
	if offset < 0 || offset > size || length < 0 || length > size-offset {
		return 0, 0, fmt.Errorf("range of %d bytes at %d is outside an object of %d bytes", length, offset, size)
	}
	return offset, offset + length, nil
}
