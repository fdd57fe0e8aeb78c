// Package tripwire looks whether a disk is really unchanged where its change map
// says so: it reads a few random pieces there, of the disk and of the point to
// which the map is relative, and compares them (I7).
//
// It proves nothing, and costs little: an error of the kind that changes much is
// found at once, one that changes little within some runs. What to do about a
// piece that differs is the caller's business.
package tripwire

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

const (
	// PieceBytes is the most that is read of a disk at one place.
	PieceBytes = 16 << 10
	// RunPieces is how many pieces one run looks at, all its disks together:
	// 256 KiB, and as many chunks of the vault at most.
	RunPieces = 16

	step    = 4 << 10   // pieces begin and end on it, or at the end of the disk
	window  = 16 << 20  // around a random place, of which extents are asked for
	page    = 256 << 20 // a shorter range of a parent's data is asked for as a whole
	tries   = 8         // random places for each piece, until one has something unchanged
	ofZeros = 4         // every so manieth piece is one that the parent says is zeros
)

// Options say where to look.
type Options struct {
	// Changed are the only ranges that may differ, in order and without overlap.
	Changed []backstay.Range
	// Pieces is how many pieces are looked at. A disk of which no more is unchanged
	// is compared whole.
	Pieces int
	// Rand chooses them; nil is the runtime's own source.
	Rand *rand.Rand
}

// Result says what was seen.
type Result struct {
	// Bytes were read of the disk.
	Bytes int64
	// Differs is the first piece that is not what the parent has; nil if all are.
	Differs *backstay.Range
}

// rough is an image that knows without reading where it is zeros.
type rough interface{ DataRanges() []backstay.Range }

// Check compares pieces of a disk with its parent's. Both have the same size.
// What of the parent cannot be read because it is damaged is left out: that is no
// fault of the map.
func Check(ctx context.Context, disk, parent tier.Image, o Options) (Result, error) {
	c := &check{disk: disk, parent: parent, o: o, data: []backstay.Range{{Length: disk.Size()}}}
	if o.Rand == nil {
		c.o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if r, ok := parent.(rough); ok {
		c.data = r.DataRanges()
	}
	if disk.Size() != parent.Size() {
		return c.result, fmt.Errorf("look at unchanged pieces: the disk has %d bytes, and its parent %d", disk.Size(), parent.Size())
	}
	unchanged := without(backstay.Range{Length: disk.Size()}, o.Changed)
	if backstay.TotalLength(unchanged) <= int64(o.Pieces)*PieceBytes {
		return c.result, c.all(ctx, unchanged)
	}
	for n := range o.Pieces {
		piece, ok, err := c.choose(n%ofZeros == ofZeros-1)
		if err == nil && ok {
			err = c.compare(ctx, piece)
		}
		if err != nil {
			return c.result, fmt.Errorf("look at unchanged pieces: %w", err)
		}
		if c.result.Differs != nil {
			break
		}
	}
	return c.result, nil
}

type check struct {
	disk, parent tier.Image
	o            Options
	data         []backstay.Range // outside of them the parent is zeros
	result       Result
}

// all compares everything that is unchanged.
func (c *check) all(ctx context.Context, unchanged []backstay.Range) error {
	for _, r := range unchanged {
		for at := r.Offset; at < r.End() && c.result.Differs == nil; at += PieceBytes {
			if err := c.compare(ctx, backstay.Range{Offset: at, Length: min(PieceBytes, r.End()-at)}); err != nil {
				return fmt.Errorf("look at what is unchanged: %w", err)
			}
		}
	}
	return nil
}

// choose finds a random unchanged piece: of what the parent has as data, or of
// what it says is zeros, and of that best where the disk has something.
func (c *check) choose(zeros bool) (backstay.Range, bool, error) {
	for range tries {
		around, ok := c.place(zeros)
		if !ok {
			continue
		}
		extents, err := c.parent.Extents(around.Offset, around.Length)
		if backstay.IsCode(err, backstay.CodeDamaged) {
			continue
		}
		if err != nil {
			return backstay.Range{}, false, err
		}
		there := c.unchanged(extents, zeros)
		if zeros && len(there) > 0 {
			own, err := c.disk.Extents(around.Offset, around.Length)
			if err != nil {
				return backstay.Range{}, false, err
			}
			if suspect := both(there, c.unchanged(own, false)); len(suspect) > 0 {
				there = suspect
			}
		}
		if piece, ok := c.pieceOf(there); ok {
			return piece, true, nil
		}
	}
	return backstay.Range{}, false, nil
}

// place returns a window around a random place, or the parent's whole page there.
func (c *check) place(zeros bool) (backstay.Range, bool) {
	in := c.data
	if zeros {
		in = []backstay.Range{{Length: c.disk.Size()}}
	}
	total := backstay.TotalLength(in)
	if total <= 0 {
		return backstay.Range{}, false
	}
	at := c.o.Rand.Int64N(total)
	for _, r := range in {
		if at < r.Length {
			if r.Length <= page {
				return r, true
			}
			from := max((r.Offset+at)/window*window, r.Offset)
			return backstay.Range{Offset: from, Length: min(window, r.End()-from)}, true
		}
		at -= r.Length
	}
	return backstay.Range{}, false
}

// unchanged returns where extents of the wanted sort are that may not differ.
func (c *check) unchanged(extents []tier.Extent, zeros bool) []backstay.Range {
	var out []backstay.Range
	for _, e := range extents {
		if e.Zero == zeros {
			out = append(out, without(e.Range, c.o.Changed)...)
		}
	}
	return out
}

// pieceOf returns a random piece of ranges.
func (c *check) pieceOf(ranges []backstay.Range) (backstay.Range, bool) {
	total := backstay.TotalLength(ranges)
	if total <= 0 {
		return backstay.Range{}, false
	}
	at := c.o.Rand.Int64N(total)
	for _, r := range ranges {
		if at < r.Length {
			from := max((r.Offset+at)/step*step, r.Offset)
			return backstay.Range{Offset: from, Length: min(PieceBytes, r.End()-from)}, true
		}
		at -= r.Length
	}
	return backstay.Range{}, false
}

// compare reads one piece of both.
func (c *check) compare(ctx context.Context, piece backstay.Range) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	was, is := make([]byte, piece.Length), make([]byte, piece.Length)
	if n, err := c.parent.ReadAt(was, piece.Offset); n < len(was) {
		if backstay.IsCode(err, backstay.CodeDamaged) {
			return nil
		}
		return fmt.Errorf("read %d bytes at %d of the parent: %w", len(was), piece.Offset, err)
	}
	if n, err := c.disk.ReadAt(is, piece.Offset); n < len(is) {
		return fmt.Errorf("read %d bytes at %d: %w", len(is), piece.Offset, err)
	}
	c.result.Bytes += piece.Length
	if !bytes.Equal(was, is) {
		c.result.Differs = &piece
	}
	return nil
}

// without returns the parts of r that are in none of the ranges, in order.
func without(r backstay.Range, ranges []backstay.Range) []backstay.Range {
	var out []backstay.Range
	at := r.Offset
	first, _ := slices.BinarySearchFunc(ranges, at, func(x backstay.Range, at int64) int { return cmp.Compare(x.End(), at+1) })
	for _, x := range ranges[first:] {
		if x.Offset >= r.End() {
			break
		}
		if x.Offset > at {
			out = append(out, backstay.Range{Offset: at, Length: x.Offset - at})
		}
		at = x.End()
	}
	if at < r.End() {
		out = append(out, backstay.Range{Offset: at, Length: r.End() - at})
	}
	return out
}

// both returns what lies in ranges of a and of b, each in order.
func both(a, b []backstay.Range) []backstay.Range {
	var out []backstay.Range
	for len(a) > 0 && len(b) > 0 {
		from, to := max(a[0].Offset, b[0].Offset), min(a[0].End(), b[0].End())
		if from < to {
			out = append(out, backstay.Range{Offset: from, Length: to - from})
		}
		if a[0].End() < b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}
