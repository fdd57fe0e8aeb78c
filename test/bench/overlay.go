package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/tier/raw"
)

// makeOverlay makes the overlay that a guest's QEMU would have written between
// two points: on the first image, with what of t.Image differs, in steps of 4 KiB.
func makeOverlay(ctx context.Context, t task) (map[string]float64, error) {
	ranges, err := loadRanges(t.Ranges)
	if err != nil {
		return nil, err
	}
	images := qemu.New(qemu.Options{})
	if err := os.Remove(t.Overlay); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := images.CreateOverlay(ctx, hypervisor.Overlay{Path: t.Overlay, Backing: hypervisor.Plain(t.Out, "raw")}); err != nil {
		return nil, err
	}
	e, err := exported(ctx, images, t.Overlay, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = e.Close() }()
	m, err := raw.Open(t.Image)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }()
	buf := make([]byte, mib)
	for _, r := range ranges {
		for at := r.Offset; at < r.End(); {
			part := buf[:min(int64(len(buf)), r.End()-at)]
			if _, err := m.ReadAt(part, at); err != nil && err != io.EOF {
				return nil, err
			}
			if err := writeBlocks(e, part, at); err != nil {
				return nil, err
			}
			at += int64(len(part))
		}
	}
	if err := errors.Join(e.Flush(), e.Close()); err != nil {
		return nil, err
	}
	held, err := images.Allocated(ctx, hypervisor.Plain(t.Overlay, "qcow2"))
	if err != nil {
		return nil, err
	}
	var sum int64
	for _, r := range held {
		sum += r.Length
	}
	return map[string]float64{"held": float64(sum)}, nil
}

// writeBlocks writes content in runs, and blocks of zeros as such.
func writeBlocks(e *exportedImage, part []byte, at int64) error {
	for len(part) > 0 {
		n, zero := 0, bytes.Equal(part[:block], zeroBlock[:])
		for n < len(part) && bytes.Equal(part[n:n+block], zeroBlock[:]) == zero {
			n += block
		}
		var err error
		if zero {
			err = e.WriteZeroes(at, int64(n))
		} else {
			_, err = e.WriteAt(part[:n], at)
		}
		if err != nil {
			return err
		}
		part, at = part[n:], at+int64(n)
	}
	return nil
}

// sameImages demands that two raw images hold the same bytes.
func sameImages(ctx context.Context, t task) (map[string]float64, error) {
	var a, b prints
	var g errgroup.Group
	g.Go(func() (err error) { a, err = fingerprint(t.Image); return })
	g.Go(func() (err error) { b, err = fingerprint(t.Out); return })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if len(a) != len(b) {
		return nil, fmt.Errorf("%s has %d blocks and %s %d", t.Out, len(b), t.Image, len(a))
	}
	if diff := a.changes(b); len(diff) > 0 {
		return nil, fmt.Errorf("%s differs from %s at %d", t.Out, t.Image, diff[0].Offset)
	}
	return nil, ctx.Err()
}
