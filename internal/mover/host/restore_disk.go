package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
)

// writesOut is how many writes of one disk are under way at a time.
const writesOut = 4

// A window is what is made durable at a time: a part of the disk's data, within
// bounds. What a crash takes back is about one window. look is how many bytes of
// disk extents are asked for at once, a multiple of content.Page. Tests have smaller
// ones.
var windows = struct{ parts, least, most, look int64 }{32, 16 << 20, 512 << 20, 16 << 20}

// writtenDisk is one disk on its way from a vault into a file or device.
type writtenDisk struct {
	images   hypervisor.Images
	log      *slog.Logger
	plan     backstay.PlannedDisk
	image    tier.Image
	data     int64 // bytes of it that are not zeros
	journal  *restoreJournal
	progress *diskProgress

	sums    *content.Sums // of what was read from the vault
	resumed bool          // an earlier life wrote a part
	read    atomic.Int64
	wrote   atomic.Int64
}

// target is the image that is filled.
func (d *writtenDisk) target() hypervisor.Image { return imageOf(d.plan) }

// written and verified are how many bytes an earlier life did.
func (d *writtenDisk) written() int64 { return d.progress.Read }

func (d *writtenDisk) verified() int64 {
	if d.progress.Verified {
		return d.data
	}
	return 0
}

// check sees that the point's disk is the planned one, and returns how many
// bytes of it are data.
func (d *writtenDisk) check(ctx context.Context) (int64, error) {
	size := d.image.Size()
	if size != d.plan.Size {
		return 0, fmt.Errorf("the point has %d bytes and the plan %d", size, d.plan.Size)
	}
	return content.DataBytes(ctx, d.image)
}

// prepare makes the image, or sees that what an earlier life made is still there.
func (d *writtenDisk) prepare(ctx context.Context) error {
	p := d.progress
	if p.File == nil {
		return d.make(ctx)
	}
	now, err := identify(p.Path)
	if errors.Is(err, unix.ENOENT) {
		return d.make(ctx)
	}
	if err != nil {
		return err
	}
	if now != *p.File {
		return errors.Join(taken(p.Path), d.journal.disown(p.Path))
	}
	if d.sums, err = d.journal.loadSums(p, d.plan.Size); err != nil {
		d.log.Warn("a disk is written from its beginning", "path", p.Path, "reason", err)
		return d.make(ctx)
	}
	d.resumed = p.Done > 0
	d.read.Store(p.Read)
	d.wrote.Store(p.Wrote)
	return nil
}

// make makes the image anew. What lies there is the journal's.
func (d *writtenDisk) make(ctx context.Context) error {
	target := d.target()
	if d.plan.Device {
		if err := readyDevice(d.plan); err != nil {
			return err
		}
	} else {
		if d.journal.foreign(target.Location) {
			return taken(target.Location)
		}
		if err := durable.Remove(target.Location); err != nil {
			return err
		}
		if err := errors.Join(createImage(ctx, d.images, d.plan), durable.Sync(filepath.Dir(target.Location))); err != nil {
			return err
		}
	}
	id, err := identify(target.Location)
	if err != nil {
		return err
	}
	if d.sums, err = content.NewSums(d.plan.Size); err != nil {
		return err
	}
	d.read.Store(0)
	d.wrote.Store(0)
	d.resumed = false
	return d.journal.update(func() {
		p := d.progress
		p.File, p.Key, p.Done, p.Read, p.Wrote, p.Verified = &id, d.sums.Key(), 0, 0, 0, false
	})
}

// connect exports the image and calls fn with a connection to it.
func (d *writtenDisk) connect(ctx context.Context, writable bool, fn func(*nbd.Client) error) error {
	size := d.plan.Size
	if d.plan.Device {
		size = -1 // may be larger
	}
	return connectImage(ctx, d.images, d.target(), hypervisor.ExportOptions{Writable: writable}, size, func(client *nbd.Client) error {
		if client.Size() < d.plan.Size {
			return fmt.Errorf("%s has %d bytes, and the disk %d", d.plan.Path, client.Size(), d.plan.Size)
		}
		return fn(client)
	})
}

// write writes what is not written yet, window by window.
func (d *writtenDisk) write(ctx context.Context, advanced func(int64)) error {
	if d.progress.Done >= d.plan.Size {
		return nil
	}
	err := d.connect(ctx, true, func(client *nbd.Client) error {
		var durable errgroup.Group // one at a time, behind the writes of the next window
		for from := d.progress.Done; from < d.plan.Size; {
			part, err := d.window(ctx, from)
			if err == nil {
				err = d.writePart(ctx, client, part, advanced)
			}
			if err := errors.Join(err, durable.Wait()); err != nil {
				return err
			}
			read, wrote := d.read.Load(), d.wrote.Load()
			durable.Go(func() error { return d.keep(client, part, read, wrote) })
			from = part.End()
		}
		return durable.Wait()
	})
	if err != nil || d.plan.Device {
		return err
	}
	if err := durable.Sync(d.plan.Path); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(d.plan.Path))
}

// window returns the next part of the disk that is made durable as one.
func (d *writtenDisk) window(ctx context.Context, from int64) (backstay.Range, error) {
	part := backstay.Range{Offset: from}
	wanted := min(max(d.data/windows.parts, windows.least), windows.most)
	for data := int64(0); part.End() < d.plan.Size && data < wanted; {
		if err := ctx.Err(); err != nil {
			return part, err
		}
		look := min(windows.look, d.plan.Size-part.End())
		extents, err := d.image.Extents(part.End(), look)
		if err != nil {
			return part, err
		}
		for _, e := range extents {
			if !e.Zero {
				data += e.Length
			}
		}
		part.Length += look
	}
	return part, nil
}

// keep makes a window durable, and then says so in the journal.
func (d *writtenDisk) keep(client *nbd.Client, part backstay.Range, read, wrote int64) error {
	if err := client.Flush(); err != nil {
		return err
	}
	if err := d.journal.keepSums(d.progress, d.sums, part); err != nil {
		return err
	}
	return d.journal.update(func() {
		d.progress.Done, d.progress.Read, d.progress.Wrote = part.End(), read, wrote
	})
}

// writePart writes all of a part that is not zero: a fresh image reads as zeros
// and stays sparse. One that does not is given zeros too.
func (d *writtenDisk) writePart(ctx context.Context, client *nbd.Client, part backstay.Range, advanced func(int64)) error {
	target := d.target()
	if err := zeroIn(ctx, client, target, d.image, part); err != nil {
		return err
	}
	gather := &content.Gatherer{Write: func(ctx context.Context, sorted []content.Piece) error {
		g, within := errgroup.WithContext(ctx)
		g.SetLimit(writesOut)
		for _, group := range content.Near(sorted, 0, 2*readBlock) {
			g.Go(func() error {
				if err := within.Err(); err != nil {
					return err
				}
				run := content.Join(group)
				n, err := writeInto(client, target, run.Offset, run.Data)
				d.wrote.Add(n)
				return err
			})
		}
		return g.Wait()
	}}
	err := content.EachIn(ctx, d.image, part, workers(), func(offset int64, data []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.sums.Add(offset, data); err != nil {
			return err
		}
		if err := gather.Add(ctx, offset, data); err != nil {
			return err
		}
		d.read.Add(int64(len(data)))
		advanced(int64(len(data)))
		return nil
	})
	if err != nil {
		return err
	}
	return gather.End(ctx)
}

// verify reads the whole image back, unless that was done, and compares it with
// what came from the vault. Where that does not fit, and an earlier life wrote a
// part, a power cut may have taken some of it: then it is written once more.
func (d *writtenDisk) verify(ctx context.Context, advanced func(int64)) error {
	if d.progress.Verified {
		return nil
	}
	at, same, err := d.compare(ctx, advanced)
	if err == nil && !same && d.resumed {
		d.log.Warn("a disk that was written in parts is written anew", "path", d.plan.Path, "differs", at)
		quiet := func(int64) {}
		if err = d.make(ctx); err == nil {
			err = d.write(ctx, quiet)
		}
		if err == nil {
			at, same, err = d.compare(ctx, quiet)
		}
	}
	if err != nil {
		return err
	}
	if !same {
		return backstay.Errorf(backstay.CodeRestoreFailed, "disk %s was not written as the point has it", d.plan.Target).
			Becausef("%s differs from the point in the MiB at byte %d", d.plan.Path, at).
			Do("check the storage of %s; nothing of the restore was kept", filepath.Dir(d.plan.Path))
	}
	return d.journal.update(func() { d.progress.Verified = true })
}

// compare reads the image from the disk and not from the page cache. What is
// neither data in it nor in the point is zeros in both.
func (d *writtenDisk) compare(ctx context.Context, advanced func(int64)) (at int64, same bool, err error) {
	if err := durable.DropCache(d.plan.Path); err != nil {
		return 0, false, err
	}
	found, err := d.sums.Again()
	if err != nil {
		return 0, false, err
	}
	err = d.connect(ctx, false, func(client *nbd.Client) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(workers())
		next := int64(0) // up to here the disk was looked at
		for offset := int64(0); offset < d.plan.Size; offset += extentWindow {
			extents, err := client.BlockStatus(ctx, nbd.BaseAllocation, offset, min(extentWindow, d.plan.Size-offset))
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			for _, e := range extents {
				if e.Flags&nbd.Zero != 0 {
					continue
				}
				// The file's map may be finer than our steps.
				run := backstay.Range{Offset: max(e.Offset/content.Step*content.Step, next)}
				next = min((e.Offset+e.Length+content.Step-1)/content.Step*content.Step, d.plan.Size)
				run.Length = next - run.Offset
				if err := readRun(ctx, g, client, run, found, advanced); err != nil {
					return errors.Join(err, g.Wait())
				}
			}
		}
		return g.Wait()
	})
	if err != nil {
		return 0, false, err
	}
	at, same = d.sums.Equal(found)
	return at, same, nil
}

// readRun adds one run of the file to the sums, block by block.
func readRun(ctx context.Context, g *errgroup.Group, client *nbd.Client, run backstay.Range, sums *content.Sums, advanced func(int64)) error {
	for offset := run.Offset; offset < run.End(); offset += readBlock {
		if err := ctx.Err(); err != nil {
			return err
		}
		length := min(readBlock, run.End()-offset)
		g.Go(func() error {
			data := make([]byte, length)
			if n, err := client.ReadAt(data, offset); n < len(data) {
				return fmt.Errorf("read %d bytes at %d: %w", len(data), offset, err)
			}
			advanced(length)
			return sums.Add(offset, data)
		})
	}
	return nil
}
