package content

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"lukechampine.com/blake3"
)

const (
	// Step is the number of bytes in steps of which disks change. Content is
	// handed to Sums in whole steps, but for a disk's end.
	Step = 4096
	// Page is the number of bytes of a disk that one sum covers.
	Page = 1 << 20
)

// Sums are sums over the content of a disk that do not depend on the order
// in which it is seen: for each page of 1 MiB the sum, modulo 2^128, of the
// keyed hashes of its steps and their places. Steps of zeros add nothing, so a
// hole and written zeros are the same. Two disks with the same sums hold the
// same bytes, but for a chance of 2^-128 or so, which nobody can better without
// the key. They take 16 bytes for each MiB of disk, whatever is on it.
//
// Add may be called concurrently.
type Sums struct {
	size  int64
	key   []byte
	locks [64]sync.Mutex // one for every 64th page
	pages []pageSum      // guarded by locks[page%64]
}

type pageSum struct{ hi, lo uint64 }

// NewSums returns the sums of a disk of size bytes of which nothing was seen yet.
func NewSums(size int64) (*Sums, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make key of sums: %w", err)
	}
	return &Sums{size: size, key: key, pages: make([]pageSum, (size+Page-1)/Page)}, nil
}

// Again returns empty sums for a disk that is to be compared with this one.
func (s *Sums) Again() (*Sums, error) {
	if s == nil {
		return nil, fmt.Errorf("compare disk: it was not written")
	}
	return &Sums{size: s.size, key: s.key, pages: make([]pageSum, len(s.pages))}, nil
}

// Saved is how many bytes the sums of a page take in Save.
const Saved = 16

// Key is what the sums are keyed with. Who has it and the sums can tell whether a
// disk holds something that he guesses, as who has the disk can.
func (s *Sums) Key() []byte { return s.key }

// Save returns the sums of the pages [from, to), Saved bytes each. Nobody may Add
// to them meanwhile.
func (s *Sums) Save(from, to int64) []byte {
	out := make([]byte, 0, (to-from)*Saved)
	for _, p := range s.pages[from:to] {
		out = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(out, p.lo), p.hi)
	}
	return out
}

// LoadSums returns the sums of a disk of size bytes of whose first pages all was
// seen, as Save had them, and of the others nothing.
func LoadSums(size int64, key, saved []byte) (*Sums, error) {
	s := &Sums{size: size, key: key, pages: make([]pageSum, (size+Page-1)/Page)}
	if len(key) != 32 || len(saved)%Saved != 0 || len(saved)/Saved > len(s.pages) {
		return nil, fmt.Errorf("read sums: %d bytes of %d pages", len(saved), len(s.pages))
	}
	for i := range len(saved) / Saved {
		s.pages[i] = pageSum{lo: binary.LittleEndian.Uint64(saved[i*Saved:]), hi: binary.LittleEndian.Uint64(saved[i*Saved+8:])}
	}
	return s, nil
}

// Add adds a run of content, once for each part of the disk; runs begin and end
// on a step or at the disk's end.
func (s *Sums) Add(offset int64, data []byte) error {
	end := offset + int64(len(data))
	if offset < 0 || offset%Step != 0 || end > s.size || (end%Step != 0 && end != s.size) {
		return fmt.Errorf("content at [%d, %d) is not in steps of %d bytes of a disk of %d", offset, end, Step, s.size)
	}
	hasher := blake3.New(16, s.key)
	var place [8]byte
	var sum [16]byte
	for len(data) > 0 {
		n := min(Step, len(data))
		if ZeroPrefix(data[:n]) < n {
			hasher.Reset()
			binary.LittleEndian.PutUint64(place[:], uint64(offset))
			_, _ = hasher.Write(place[:]) // never fails
			_, _ = hasher.Write(data[:n])
			hasher.Sum(sum[:0])
			s.addSum(offset/Page, binary.LittleEndian.Uint64(sum[8:]), binary.LittleEndian.Uint64(sum[:8]))
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

func (s *Sums) addSum(page int64, hi, lo uint64) {
	lock := &s.locks[page%int64(len(s.locks))]
	lock.Lock()
	defer lock.Unlock()
	p := &s.pages[page]
	var carry uint64
	p.lo, carry = bits.Add64(p.lo, lo, 0)
	p.hi, _ = bits.Add64(p.hi, hi, carry)
}

// Equal tells whether two disks hold the same, and if not, where the first
// page begins that differs.
func (s *Sums) Equal(o *Sums) (at int64, same bool) {
	for i := range s.pages {
		if s.pages[i] != o.pages[i] {
			return int64(i) * Page, false
		}
	}
	return 0, true
}

var zeroStep [Step]byte

// ZeroPrefix returns how many bytes of whole steps at the start are zeros; a
// short last step counts as whole.
func ZeroPrefix(data []byte) int {
	n := 0
	for n < len(data) {
		step := data[n:min(n+Step, len(data))]
		if !bytes.Equal(step, zeroStep[:len(step)]) {
			break
		}
		n += len(step)
	}
	return n
}
