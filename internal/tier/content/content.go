// Package content is what every restore does with the content of a disk,
// wherever it is written to: read all of an image at once, leave out the zeros,
// and prove that what is read back is what was read.
//
// It knows no tier, no format and no file. What it hands out was authenticated
// by the image that it came from (I4).
package content

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

const (
	window    = 256 << 20 // bytes of which extents are asked for at once
	readBlock = 1 << 20   // bytes of one read; a multiple of Step
	zeroGap   = 64 << 10  // fewer zeros than these are written rather than left out
)

// bulkReader is an image that knows the fastest order of reading itself.
type bulkReader interface {
	Chunks(ctx context.Context, workers int, fn func(offset int64, data []byte) error) error
}

// Each calls fn with all data of an image, concurrently from the given number of
// goroutines, in whole steps and any order. Zeros may be left out. data is only valid during the
// call. The first error ends it.
func Each(ctx context.Context, image tier.Image, workers int, fn func(offset int64, data []byte) error) error {
	if bulk, ok := image.(bulkReader); ok {
		return bulk.Chunks(ctx, workers, fn)
	}
	return EachIn(ctx, image, backstay.Range{Length: image.Size()}, workers, fn)
}

// rangeReader is a bulkReader that can be asked for a part.
type rangeReader interface {
	ChunksIn(ctx context.Context, ranges []backstay.Range, workers int, fn func(offset int64, data []byte) error) error
}

// EachIn is Each for a part of the image, which begins on a step, and ends on one
// or at the end of the disk.
func EachIn(ctx context.Context, image tier.Image, part backstay.Range, workers int, fn func(offset int64, data []byte) error) error {
	if bulk, ok := image.(rangeReader); ok {
		return bulk.ChunksIn(ctx, []backstay.Range{part}, workers, fn)
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(max(workers, 1))
	for offset := part.Offset; offset < part.End() && within.Err() == nil; offset += readBlock {
		g.Go(func() error { return eachIn(image, offset, min(readBlock, part.End()-offset), fn) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// eachIn reads one block. An image's map may be finer than steps; what is handed
// out begins and ends on one, or at the end of the disk.
func eachIn(image tier.Image, offset, length int64, fn func(offset int64, data []byte) error) error {
	extents, err := image.Extents(offset, length)
	if err != nil {
		return err
	}
	next, end := offset, offset+length
	for _, e := range extents {
		if e.Zero {
			continue
		}
		from := max(e.Offset/Step*Step, next)
		next = min((e.End()+Step-1)/Step*Step, end)
		if from >= next {
			continue
		}
		data := make([]byte, next-from)
		if n, err := image.ReadAt(data, from); n < len(data) {
			return fmt.Errorf("read %d bytes at %d: %w", len(data), from, err)
		}
		if err := fn(from, data); err != nil {
			return err
		}
	}
	return nil
}

// DataBytes returns how many bytes of an image are not known to be zeros.
func DataBytes(ctx context.Context, image tier.Image) (int64, error) {
	var data int64
	for offset := int64(0); offset < image.Size(); offset += window {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		extents, err := image.Extents(offset, min(window, image.Size()-offset))
		if err != nil {
			return 0, err
		}
		for _, e := range extents {
			if !e.Zero {
				data += e.Length
			}
		}
	}
	return data, nil
}

// WriteNonZero writes data without the zeros in it, as far as leaving them out
// makes a hole that is worth it. It returns how many bytes it wrote.
func WriteNonZero(to io.WriterAt, offset int64, data []byte) (wrote int64, err error) {
	for len(data) > 0 {
		skip := ZeroPrefix(data)
		data, offset = data[skip:], offset+int64(skip)
		n := 0
		for n < len(data) {
			zeros := ZeroPrefix(data[n:])
			if zeros >= zeroGap || (zeros > 0 && n+zeros == len(data)) {
				break
			}
			n += max(zeros, min(Step, len(data)-n))
		}
		if n > 0 {
			if _, err := to.WriteAt(data[:n], offset); err != nil {
				return wrote, err
			}
			wrote += int64(n)
		}
		data, offset = data[n:], offset+int64(n)
	}
	return wrote, nil
}
