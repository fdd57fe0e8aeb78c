package host

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"path/filepath"
	"sync"

	"lukechampine.com/blake3"
)

const (
	sumStep = 4096    // bytes; the step in which disks change
	sumPage = 1 << 20 // bytes of disk that one sum covers
)

// diskSums are sums over the content of a disk that do not depend on the order
// in which it is seen: for each page of 1 MiB the sum, modulo 2^128, of the
// keyed hashes of its steps and their places. Steps of zeros add nothing, so a
// hole and written zeros are the same. Two disks with the same sums hold the
// same bytes, but for a chance of 2^-128 or so, which nobody can better without
// the key. They take 16 bytes for each MiB of disk, whatever is on it.
type diskSums struct {
	size  int64
	key   []byte
	locks [64]sync.Mutex // one for every 64th page
	pages []pageSum      // guarded by locks[page%64]
}

type pageSum struct{ hi, lo uint64 }

func newDiskSums(size int64) (*diskSums, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make key of sums: %w", err)
	}
	return &diskSums{size: size, key: key, pages: make([]pageSum, (size+sumPage-1)/sumPage)}, nil
}

// again returns empty sums for a disk that is to be compared with this one.
func (s *diskSums) again() (*diskSums, error) {
	if s == nil {
		return nil, fmt.Errorf("compare disk: it was not written")
	}
	return &diskSums{size: s.size, key: s.key, pages: make([]pageSum, len(s.pages))}, nil
}

// add adds a run of content. It may be called concurrently, once for each part
// of the disk; runs begin and end on a step or at the disk's end.
func (s *diskSums) add(offset int64, data []byte) error {
	end := offset + int64(len(data))
	if offset < 0 || offset%sumStep != 0 || end > s.size || (end%sumStep != 0 && end != s.size) {
		return fmt.Errorf("content at [%d, %d) is not in steps of %d bytes of a disk of %d", offset, end, sumStep, s.size)
	}
	hasher := blake3.New(16, s.key)
	var place [8]byte
	var sum [16]byte
	for len(data) > 0 {
		n := min(sumStep, len(data))
		if zeroPrefix(data[:n]) < n {
			hasher.Reset()
			binary.LittleEndian.PutUint64(place[:], uint64(offset))
			_, _ = hasher.Write(place[:]) // never fails
			_, _ = hasher.Write(data[:n])
			hasher.Sum(sum[:0])
			s.addSum(offset/sumPage, binary.LittleEndian.Uint64(sum[8:]), binary.LittleEndian.Uint64(sum[:8]))
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

func (s *diskSums) addSum(page int64, hi, lo uint64) {
	lock := &s.locks[page%int64(len(s.locks))]
	lock.Lock()
	defer lock.Unlock()
	p := &s.pages[page]
	var carry uint64
	p.lo, carry = bits.Add64(p.lo, lo, 0)
	p.hi, _ = bits.Add64(p.hi, hi, carry)
}

// equal tells whether two disks hold the same, and if not, where the first
// page begins that differs.
func (s *diskSums) equal(o *diskSums) (at int64, same bool) {
	for i := range s.pages {
		if s.pages[i] != o.pages[i] {
			return int64(i) * sumPage, false
		}
	}
	return 0, true
}

var zeroStep [sumStep]byte

// zeroPrefix returns how many bytes of whole steps at the start are zeros; a
// short last step counts as whole.
func zeroPrefix(data []byte) int {
	n := 0
	for n < len(data) {
		step := data[n:min(n+sumStep, len(data))]
		if !bytes.Equal(step, zeroStep[:len(step)]) {
			break
		}
		n += len(step)
	}
	return n
}

func folderOf(path string) string { return filepath.Dir(path) }
