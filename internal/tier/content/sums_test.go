package content

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// TestEqualSumsMeanEqualDisks, in whatever order the content was seen.
func TestEqualSumsMeanEqualDisks(t *testing.T) {
	const size = 3<<20 + 512
	r := rand.New(rand.NewPCG(3, 4))
	disk := make([]byte, size)
	for i := range disk[:size/2] {
		disk[i] = byte(r.Uint32())
	}
	disk[size-1] = 1
	sum := func(s *Sums, disk []byte, order []int) *Sums {
		for _, i := range order {
			end := min((i+1)*8192, size)
			must(t, s.Add(int64(i*8192), disk[i*8192:end]))
		}
		return s
	}
	order := make([]int, (size+8191)/8192)
	for i := range order {
		order[i] = i
	}
	empty, err := NewSums(size)
	must(t, err)
	a, _ := empty.Again()
	sum(a, disk, order)
	b, _ := empty.Again()
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	sum(b, disk, order)
	if _, same := a.Equal(b); !same {
		t.Error("order matters")
	}
	for _, at := range []int{0, 4095, 1 << 20, size - 1, size - 600} {
		changed := slices.Clone(disk)
		changed[at] ^= 0x40
		c, _ := empty.Again()
		if where, same := a.Equal(sum(c, changed, order)); same || where != int64(at)/Page*Page {
			t.Errorf("a bit at %d: same %v, found at %d", at, same, where)
		}
	}
	if err := empty.Add(100, disk[:4096]); err == nil {
		t.Error("content off the steps was taken")
	}
}

// TestZerosAreLeftOutAndNothingElse: what WriteNonZero writes is the data.
func TestZerosAreLeftOutAndNothingElse(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		data := make([]byte, 512*(1+r.IntN(1024)))
		for at := 0; at < len(data); at += 4096 * (1 + r.IntN(40)) {
			copy(data[at:], bytes.Repeat([]byte{byte(1 + r.IntN(255))}, 4096*r.IntN(5)))
		}
		got := make(memory, len(data)+4096)
		wrote, err := WriteNonZero(got, 4096, data)
		must(t, err)
		if !bytes.Equal(got[4096:], data) {
			t.Fatal("the content is not the same")
		}
		if bytes.Equal(data, make([]byte, len(data))) && wrote != 0 {
			t.Errorf("%d bytes of zeros were written", wrote)
		}
	}
	got := make(memory, 1<<20)
	data := make([]byte, 1<<20)
	data[0], data[512<<10] = 1, 1
	if wrote, _ := WriteNonZero(got, 0, data); wrote != 2*4096 {
		t.Errorf("two steps of data took %d bytes", wrote)
	}
}

// fine is an image whose map is in steps of 512 bytes.
type fine []byte

func (f fine) ReadAt(b []byte, off int64) (int, error) { return copy(b, f[off:]), nil }
func (f fine) Close() error                            { return nil }
func (f fine) Size() int64                             { return int64(len(f)) }
func (f fine) Extents(offset, length int64) (out []tier.Extent, err error) {
	for at := offset; at < offset+length; {
		n := min(512-at%512, offset+length-at)
		zero := bytes.Equal(f[at:at+n], make([]byte, n))
		out = append(out, tier.Extent{Range: backstay.Range{Offset: at, Length: n}, Zero: zero})
		at += n
	}
	return out, nil
}

// TestAllDataIsHandedOutOnceInWholeSteps, however fine the image's map is.
func TestAllDataIsHandedOutOnceInWholeSteps(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	image := make(fine, 5<<20+700)
	for range 300 {
		at := r.IntN(len(image) - 600)
		copy(image[at:], bytes.Repeat([]byte{byte(1 + r.IntN(255))}, 1+r.IntN(600)))
	}
	image[len(image)-1] = 7
	sums, err := NewSums(image.Size())
	must(t, err)
	want, _ := sums.Again()
	must(t, want.Add(0, image))
	got := make(memory, len(image))
	var mu sync.Mutex
	must(t, Each(t.Context(), image, 4, func(offset int64, data []byte) error {
		mu.Lock()
		copy(got[offset:], data)
		mu.Unlock()
		return sums.Add(offset, data)
	}))
	if !bytes.Equal(got, image) {
		t.Error("the content is not the same")
	}
	if _, same := sums.Equal(want); !same {
		t.Error("a part was handed out twice or not at all")
	}
	if n, err := DataBytes(t.Context(), image); err != nil || n <= 0 || n >= image.Size() {
		t.Errorf("%d bytes of data, %v", n, err)
	}
	failed := errors.New("no more")
	if err := Each(t.Context(), image, 4, func(int64, []byte) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("the first error is %v", err)
	}
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSumsGoOnFromWhereTheyWereSaved: as if all had been seen in one go.
func TestSumsGoOnFromWhereTheyWereSaved(t *testing.T) {
	const size = 3<<20 + 512
	disk := bytes.Repeat([]byte("backstay"), size/8)
	whole, err := NewSums(size)
	must(t, err)
	first, _ := whole.Again()
	must(t, whole.Add(0, disk))
	must(t, first.Add(0, disk[:2*Page]))
	rest, err := LoadSums(size, first.Key(), first.Save(0, 2))
	must(t, err)
	must(t, rest.Add(2*Page, disk[2*Page:]))
	if at, same := whole.Equal(rest); !same {
		t.Errorf("they differ at %d", at)
	}
	if _, err := LoadSums(size, first.Key(), first.Save(0, 2)[:20]); err == nil {
		t.Error("half a sum was taken")
	}
}

// TestPiecesAreWrittenInOrderAndNoneIsLost, however they come.
func TestPiecesAreWrittenInOrderAndNoneIsLost(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 7))
	want, got := make(memory, 70<<20), make(memory, 70<<20)
	batches := 0
	g := &Gatherer{Write: func(_ context.Context, sorted []Piece) error {
		batches++
		if !slices.IsSortedFunc(sorted, func(a, b Piece) int { return cmp.Compare(a.Offset, b.Offset) }) {
			t.Error("a batch is not in order")
		}
		for _, group := range Near(sorted, 0, 1<<20) {
			p := Join(group)
			if len(group) > 1 && len(p.Data) > 1<<20 {
				t.Errorf("a run of %d bytes", len(p.Data))
			}
			if _, err := got.WriteAt(p.Data, p.Offset); err != nil {
				return err
			}
		}
		return nil
	}}
	order := r.Perm(len(want) / (40 << 10))
	parts := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range parts {
				data := bytes.Repeat([]byte{byte(i + 1)}, 40<<10)
				if err := g.Add(t.Context(), int64(i)*40<<10, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, i := range order {
		copy(want[i*40<<10:], bytes.Repeat([]byte{byte(i + 1)}, 40<<10))
		parts <- i
	}
	close(parts)
	wg.Wait()
	must(t, g.End(t.Context()))
	if !bytes.Equal(got, want) || batches < 4 || batches > 8 {
		t.Errorf("%d batches, or the content is not the same", batches)
	}
}
