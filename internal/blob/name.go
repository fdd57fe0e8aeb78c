package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// ReadExactly returns the n bytes that r has. It is an error if r has fewer or
// more, or ends in one; a wrong n costs no more memory than r has bytes.
func ReadExactly(r io.Reader, n int64) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(min(n, 64<<20)) + bytes.MinRead)
	got, err := data.ReadFrom(io.LimitReader(r, n+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("after %d of %d bytes: %w", got, n, err)
	case got < n:
		return nil, fmt.Errorf("after %d of %d bytes: %w", got, n, io.ErrUnexpectedEOF)
	case got > n:
		return nil, errors.New("there are more bytes than were announced")
	}
	return data.Bytes(), nil
}
