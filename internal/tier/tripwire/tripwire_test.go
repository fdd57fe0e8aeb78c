package tripwire

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

const mib = int64(1) << 20

// disk is zeros but for some runs, each full of one byte.
type disk struct {
	size   int64
	runs   []run // in order
	read   []backstay.Range
	rotten backstay.Range // cannot be read: damaged
}

type run struct {
	backstay.Range
	fill byte
}

func at(offset, length int64) backstay.Range {
	return backstay.Range{Offset: offset, Length: length}
}

func (d *disk) Size() int64  { return d.size }
func (d *disk) Close() error { return nil }

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.read = append(d.read, at(off, int64(len(p))))
	if off < d.rotten.End() && off+int64(len(p)) > d.rotten.Offset {
		return 0, backstay.Errorf(backstay.CodeDamaged, "rotten")
	}
	clear(p)
	for _, r := range d.runs {
		for i := max(r.Offset, off); i < min(r.End(), off+int64(len(p))); i++ {
			p[i-off] = r.fill
		}
	}
	return len(p), nil
}

func (d *disk) Extents(offset, length int64) ([]tier.Extent, error) {
	var out []tier.Extent
	next, end := offset, offset+length
	for _, r := range d.runs {
		from, to := max(r.Offset, next), min(r.End(), end)
		if from >= to {
			continue
		}
		if from > next {
			out = append(out, tier.Extent{Range: at(next, from-next), Zero: true})
		}
		out, next = append(out, tier.Extent{Range: at(from, to-from)}), to
	}
	if next < end {
		out = append(out, tier.Extent{Range: at(next, end-next), Zero: true})
	}
	return out, nil
}

// knowing is a disk that knows roughly where it has something.
type knowing struct{ *disk }

func (k knowing) DataRanges() []backstay.Range {
	var out []backstay.Range
	for _, r := range k.runs {
		from := r.Offset / (256 * mib) * (256 * mib)
		out = append(out, at(from, min(256*mib, k.size-from)))
	}
	return slices.Compact(out)
}

func look(t *testing.T, is, was tier.Image, seed uint64, changed ...backstay.Range) Result {
	t.Helper()
	r, err := Check(context.Background(), is, was, Options{
		Changed: changed, Pieces: RunPieces, Rand: rand.New(rand.NewPCG(seed, 1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOnlyUnchangedPiecesAreReadAndFew: of a disk of 1 TiB with data in one
// place, within half of what a run may read.
func TestOnlyUnchangedPiecesAreReadAndFew(t *testing.T) {
	const size = 1 << 40
	data := run{at(700<<30, 40*mib), 7}
	changed := []backstay.Range{at(0, 4096), at(700<<30+mib, 8*mib), at(900<<30, 64<<30)}
	for seed := range uint64(50) {
		is, was := &disk{size: size, runs: []run{data}}, &disk{size: size, runs: []run{data}}
		r := look(t, is, knowing{was}, seed, changed...)
		if r.Differs != nil || r.Bytes > 256<<10 || r.Bytes < 4*RunPieces*step/2 {
			t.Fatalf("seed %d: %+v", seed, r)
		}
		zeros := 0
		for _, piece := range is.read {
			if piece.Length > PieceBytes || len(without(piece, changed)) != 1 || without(piece, changed)[0] != piece {
				t.Fatalf("seed %d: read %+v, where the disk may differ", seed, piece)
			}
			if piece.Offset < data.Offset || piece.End() > data.End() {
				zeros++
			}
		}
		if len(is.read) != RunPieces || zeros == 0 || zeros > RunPieces/ofZeros {
			t.Fatalf("seed %d: %d pieces, %d of zeros", seed, len(is.read), zeros)
		}
	}
}

// TestWhatTheParentSaysIsZerosIsLookedAtWhereTheDiskHasSomething: one stray piece
// in a window of nothing is found.
func TestWhatTheParentSaysIsZerosIsLookedAtWhereTheDiskHasSomething(t *testing.T) {
	was := &disk{size: 16 * mib, runs: []run{{at(0, mib), 1}}}
	is := &disk{size: 16 * mib, runs: []run{{at(0, mib), 1}, {at(9*mib, step), 5}}}
	for seed := range uint64(20) {
		r := look(t, is, was, seed)
		if r.Differs == nil || *r.Differs != at(9*mib, step) {
			t.Fatalf("seed %d: %+v", seed, r)
		}
	}
}

// TestAMapThatMissesMuchIsFoundWithinSomeRuns: a tenth of the data.
func TestAMapThatMissesMuchIsFoundWithinSomeRuns(t *testing.T) {
	was := &disk{size: 1 << 30, runs: []run{{at(0, 200*mib), 1}}}
	is := &disk{size: 1 << 30, runs: []run{{at(0, 80*mib), 1}, {at(80*mib, 20*mib), 2}, {at(100*mib, 100*mib), 1}}}
	found := 0
	for seed := range uint64(50) {
		if look(t, is, was, seed).Differs != nil {
			found++
		}
	}
	if found < 25 {
		t.Errorf("found in %d of 50 runs", found)
	}
}

func TestASmallDiskIsComparedWhole(t *testing.T) {
	was := &disk{size: 200 << 10, runs: []run{{at(0, 100<<10), 1}}}
	is := &disk{size: 200 << 10, runs: []run{{at(0, 100<<10), 1}, {at(200<<10-1, 1), 1}}}
	if r := look(t, is, was, 1, at(0, 8192)); r.Differs == nil || r.Bytes != 192<<10 {
		t.Errorf("%+v", r)
	}
}

// TestADamagedParentIsNoFaultOfTheMap: I5.
func TestADamagedParentIsNoFaultOfTheMap(t *testing.T) {
	was := &disk{size: 64 * mib, runs: []run{{at(0, 64*mib), 1}}, rotten: at(0, 64*mib)}
	is := &disk{size: 64 * mib, runs: []run{{at(0, 64*mib), 2}}}
	if r := look(t, is, was, 1); r.Differs != nil || r.Bytes != 0 {
		t.Errorf("%+v", r)
	}
}

func TestWhereEverythingChangedNothingIsRead(t *testing.T) {
	was := &disk{size: 64 * mib, runs: []run{{at(0, 64*mib), 1}}}
	is := &disk{size: 64 * mib}
	if r := look(t, is, was, 1, at(0, 64*mib)); r.Differs != nil || len(is.read)+len(was.read) > 0 {
		t.Errorf("%+v", r)
	}
}
