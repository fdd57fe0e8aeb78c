package volumes

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/backstay/backstay/internal/tier"
)

// notedImage notes what is read of it.
type notedImage struct {
	tier.Image
	size int64

	mu   sync.Mutex
	read [][2]int64 // guarded by mu: from, to
}

func (i *notedImage) Size() int64  { return i.size }
func (i *notedImage) Close() error { return nil }
func (i *notedImage) ReadAt(p []byte, off int64) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if off < 0 || off+int64(len(p)) > i.size || len(p) == 0 {
		return 0, fmt.Errorf("%d bytes at %d", len(p), off)
	}
	i.read = append(i.read, [2]int64{off, off + int64(len(p))})
	return len(p), nil
}

// TestOnlyWhoReadsInARowIsReadAhead: looking around in a file system costs nothing that
// was not asked for; a long file is on its way before it is asked for, once, and never
// what is behind the disk's end.
func TestOnlyWhoReadsInARowIsReadAhead(t *testing.T) {
	const piece = 128 << 10
	looked := &notedImage{size: 1 << 42}
	around := Ahead(t.Context(), looked)
	asked := 0
	for n := range int64(200) {
		at := n * 7 << 30
		for off := at; off < at+4*piece; off += piece {
			_, err := around.ReadAt(make([]byte, piece), off)
			if err != nil {
				t.Fatal(err)
			}
			asked++
		}
	}
	if err := around.Close(); err != nil {
		t.Fatal(err)
	}
	if len(looked.read) != asked {
		t.Errorf("%d reads for %d that were asked for", len(looked.read), asked)
	}

	long := &notedImage{size: 64<<20 + 100}
	row := Ahead(t.Context(), long)
	for off := int64(0); off < long.size; off += piece {
		_, err := row.ReadAt(make([]byte, min(piece, long.size-off)), off)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := row.Close(); err != nil {
		t.Fatal(err)
	}
	var ahead [][2]int64
	for _, r := range long.read {
		if r[1]-r[0] > piece {
			ahead = append(ahead, r)
		}
	}
	slices.SortFunc(ahead, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	if len(ahead) < 8 || ahead[0][0] < aheadAfter {
		t.Errorf("read ahead: %v", ahead)
	}
	for i := 1; i < len(ahead); i++ {
		if ahead[i][0] < ahead[i-1][1] {
			t.Errorf("twice: %v %v", ahead[i-1], ahead[i])
		}
	}
}
