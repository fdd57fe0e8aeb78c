package direct

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func random(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := Buffer(int64(n))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestWhatIsWrittenPastTheCacheIsWhatIsRead(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, Worthwhile - 1, Worthwhile, Worthwhile + 1, 3<<20 + 4097, 4 << 20} {
		for _, skip := range []int{0, 1} { // memory that is aligned, and that is not
			f := create(t)
			want := random(n + skip)[skip:]
			if err := WriteAt(f, want, 0); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			for _, r := range [][2]int{{0, n}, {n / 3, n - n/3}, {n / 2, n / 4}, {max(n-5, 0), min(n, 5)}} {
				got, err := ReadAt(f, int64(r[0]), int64(r[1]))
				if err != nil || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
					t.Fatalf("%d bytes, %d at %d: %v", n, r[1], r[0], err)
				}
			}
			if _, err := ReadAt(f, 0, int64(n)+1); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("a byte more than there is: %v", err)
			}
		}
	}
}

func TestWriterFillsAFileInAnyOrder(t *testing.T) {
	f := create(t)
	w := NewWriter(f)
	want := random(6<<20 + 1000)
	for _, p := range []struct{ from, to int }{
		{2 << 20, 4 << 20}, {1<<20 + 8192, 2 << 20}, {4 << 20, 6<<20 + 1000}, {0, 1 << 20}, {1 << 20, 1<<20 + 8192},
	} {
		if n, err := w.WriteAt(want[p.from:p.to], int64(p.from)); err != nil || n != p.to-p.from {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if err := errors.Join(w.Close(), f.Sync()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other bytes: %v", err)
	}
}
