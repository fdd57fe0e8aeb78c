package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

func TestRowsComeBackAsTheyWere(t *testing.T) {
	rows := []Row{
		{Path: "/a", Type: backstay.TypeFolder, ModTime: -5, Changed: 1 << 60, Inode: 12},
		{Path: "/a/x", Type: backstay.TypeFile, Size: 1 << 50},
		{Path: "/a/x\xff\n", Type: backstay.TypeLink},
		{Path: "/a.b", Type: backstay.TypeFolder, Unread: true},
	}
	got, err := readRows(writeRows(t, rows))
	if err != nil || !slices.Equal(got, rows) {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestRowsThatLieAreRefused(t *testing.T) {
	for name, rows := range map[string][]Row{
		"out of order": {{Path: "/b", Type: backstay.TypeFile}, {Path: "/a", Type: backstay.TypeFile}},
		"twice":        {{Path: "/b", Type: backstay.TypeFile}, {Path: "/b", Type: backstay.TypeFile}},
		"dots":         {{Path: "/b/../c", Type: backstay.TypeFile}},
		"relative":     {{Path: "b", Type: backstay.TypeFile}},
		"zero byte":    {{Path: "/b\x00", Type: backstay.TypeFile}},
	} {
		if _, err := readRows(writeRows(t, rows)); !errors.Is(err, ErrBadRows) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := writeRows(t, []Row{{Path: "/abc", Type: backstay.TypeFile, Size: 7}})
	for n := range whole {
		if _, err := readRows(whole[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off behind %d bytes: %v", n, err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte("\x00\x00\x02/a\x01\x02\x03\x04\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := readRows(data)
		if err != nil {
			return
		}
		if again, err := readRows(writeRows(t, rows)); err != nil || !slices.Equal(again, rows) {
			t.Errorf("%v: %+v became %+v", err, rows, again)
		}
	})
}

func writeRows(t *testing.T, rows []Row) []byte {
	var b bytes.Buffer
	w := NewRowWriter(&b)
	for _, r := range rows {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readRows(data []byte) ([]Row, error) {
	var rows []Row
	for r := NewRowReader(bytes.NewReader(data)); ; {
		row, err := r.Next()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
}
