package raw_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/raw"
)

var _ tier.Image = (*raw.Image)(nil)

const mib = 1 << 20

// sparse makes a file of 8 MiB and a bit with content at 1 MiB and at 5 MiB.
func sparse(t *testing.T) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	want := make([]byte, 8*mib+512)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(int64(len(want))); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{mib, 5 * mib} {
		run := bytes.Repeat([]byte("backstay"), mib/8)
		copy(want[at:], run)
		if _, err := f.WriteAt(run, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return path, want
}

func open(t *testing.T, path string) *raw.Image {
	t.Helper()
	m, err := raw.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestExtentsAreCompleteAndWhatTheyCallZeroIsZero(t *testing.T) {
	path, want := sparse(t)
	m := open(t, path)
	var wait sync.WaitGroup
	for _, r := range [][2]int64{{0, int64(len(want))}, {0, 0}, {1, 3 * mib}, {mib + 17, 100}, {2 * mib, mib}, {8 * mib, 512}, {int64(len(want)), 0}} {
		wait.Go(func() {
			extents, err := m.Extents(r[0], r[1])
			if err != nil {
				t.Error(err)
				return
			}
			at := r[0]
			for _, e := range extents {
				if e.Offset != at || e.Length <= 0 {
					t.Errorf("%v: extent at %d of %d bytes, want one at %d", r, e.Offset, e.Length, at)
				}
				at = e.End()
				if part := want[e.Offset:e.End()]; e.Zero && !bytes.Equal(part, make([]byte, len(part))) {
					t.Errorf("%v: data at %d is called zeros", r, e.Offset)
				}
			}
			if at != r[0]+r[1] {
				t.Errorf("%v: the extents end at %d", r, at)
			}
		})
	}
	wait.Wait()
	if _, err := m.Extents(0, int64(len(want))+1); err == nil {
		t.Error("extents behind the end were answered")
	}
}

func TestHolesOfTheFileNeedNotBeRead(t *testing.T) {
	path, _ := sparse(t)
	extents, err := open(t, path).Extents(0, 8*mib)
	if err != nil {
		t.Fatal(err)
	}
	var data int64
	for _, e := range extents {
		if !e.Zero {
			data += e.Length
		}
	}
	if data >= 8*mib {
		t.Errorf("all %d bytes are called data", data)
	}
}

func TestReadAtFillsOrFails(t *testing.T) {
	path, want := sparse(t)
	m := open(t, path)
	b := make([]byte, 3*mib)
	if n, err := m.ReadAt(b, mib/2); n != len(b) || err != nil || !bytes.Equal(b, want[mib/2:][:len(b)]) {
		t.Errorf("read: %d bytes, %v", n, err)
	}
	if n, err := m.ReadAt(b, 8*mib); n != 512 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d bytes, %v", n, err)
	}
	if err := os.Truncate(path, 2*mib); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReadAt(b, mib); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a file that became shorter: %v", err)
	}
}

func TestAFolderIsNoImage(t *testing.T) {
	if _, err := raw.Open(t.TempDir()); err == nil {
		t.Error("a folder was opened as an image")
	}
}

func TestWhatIsWrittenIsReadAndTheRestAreHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.raw")
	target, err := raw.Create(path, 64*mib)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("backstay"), mib/8)
	var wait sync.WaitGroup
	for at := int64(4 * mib); at < 24*mib; at += mib {
		wait.Go(func() {
			if n, err := target.WriteAt(content, at); n != mib || err != nil {
				t.Errorf("write at %d: %d bytes, %v", at, n, err)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(target.Sync(), target.Close()); err != nil {
		t.Fatal(err)
	}
	m := open(t, path)
	if m.Size() != 64*mib {
		t.Errorf("the image has %d bytes", m.Size())
	}
	got := make([]byte, 64*mib)
	if _, err := m.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 64*mib)
	copy(want[4*mib:], bytes.Repeat(content, 20))
	if !bytes.Equal(got, want) {
		t.Error("what is read is not what was written")
	}
	extents, err := m.Extents(32*mib, 32*mib)
	if err != nil || len(extents) != 1 || !extents[0].Zero {
		t.Errorf("what was not written: %v, %v", extents, err)
	}
}

func TestAnImageThatExistsIsNotReplaced(t *testing.T) {
	path, want := sparse(t)
	if _, err := raw.Create(path, mib); !errors.Is(err, os.ErrExist) {
		t.Errorf("created over an image: %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image was changed (%v)", err)
	}
}
