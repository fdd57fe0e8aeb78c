package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestInodesAreReadAsWritten, and nothing else is believed.
func TestInodesAreReadAsWritten(t *testing.T) {
	want := []Inode{
		{2, backstay.TypeFolder, 0, -5, 1e18}, {11, backstay.TypeFile, 1 << 40, 7, 1}, {12, backstay.TypeSocket, 0, 1<<62 - 1, 0}, {1 << 32, backstay.TypeLink, 0, 1, 2},
	}
	var b bytes.Buffer
	w, err := NewInodeWriter(&b, "system")
	for _, i := range want {
		err = errors.Join(err, w.Write(i))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	system, got, err := ReadInodes(bytes.NewReader(whole))
	if err != nil || system != "system" || !slices.Equal(got, want) {
		t.Errorf("%q %v %v", system, got, err)
	}
	for n := range whole {
		if _, _, err := ReadInodes(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for name, bad := range map[string][]byte{
		"a name that is too long": {0xff, 0x7f},
		"a type that is none":     {0, 7, 1, 0, 0, 0, 0xff},
		"a number twice":          {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff},
	} {
		if _, _, err := ReadInodes(bytes.NewReader(bad)); !errors.Is(err, ErrBadRows) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
