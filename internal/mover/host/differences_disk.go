package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	compareGap  = 64 << 10 // so much that is not wanted is read rather than left out
	requestsOut = 8        // reads and writes of one disk under way at a time
)

// localDisk is an exported image as what is compared.
type localDisk struct {
	ctx    context.Context // bounds Extents, which has none of its own
	client *nbd.Client
	read   *atomic.Int64
}

func (l *localDisk) Size() int64  { return l.client.Size() }
func (l *localDisk) Close() error { return nil }

func (l *localDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.client.ReadAt(p, off)
	l.read.Add(int64(n))
	return n, err
}

func (l *localDisk) Extents(offset, length int64) ([]tier.Extent, error) {
	status, err := l.client.BlockStatus(l.ctx, nbd.BaseAllocation, offset, length)
	if err != nil {
		return nil, fmt.Errorf("read extents: %w", err)
	}
	extents := make([]tier.Extent, len(status))
	for i, s := range status {
		extents[i] = tier.Extent{Range: backstay.Range{Offset: s.Offset, Length: s.Length}, Zero: s.Flags&nbd.Zero != 0}
	}
	return extents, nil
}

// differingDisk is one disk on its way to the content of a point.
type differingDisk struct {
	*Host
	request differencesRequest
	disk    differencesDisk
	vault   *vault.Vault
	image   tier.Image // of the point
	pieces  int        // that are sampled

	mode        string
	warning     string
	earlier     stepSet // what an earlier attempt wrote
	written     stepSet // that and what this one did
	sums        *content.Sums
	read, wrote atomic.Int64
}

// overlay is the file that is filled.
func (d *differingDisk) overlay() hypervisor.Image {
	return hypervisor.Image{Location: d.disk.Overlay, Format: "qcow2", Secret: d.disk.Present.Secret}
}

// make makes the overlay, or sees what an earlier attempt wrote to it.
func (d *differingDisk) make(ctx context.Context) (earlier []backstay.Range, err error) {
	if !exists(d.disk.Overlay) {
		err := d.images.CreateOverlay(ctx, hypervisor.Overlay{Path: d.disk.Overlay, Backing: d.disk.Present, Size: d.disk.Size})
		if err != nil {
			return nil, err
		}
		return nil, durable.Sync(filepath.Dir(d.disk.Overlay))
	}
	info, err := d.images.Info(ctx, d.disk.Overlay)
	if err != nil {
		return nil, err
	}
	if info.Format != "qcow2" || info.Backing != d.disk.Present.Location || info.VirtualSize != d.disk.Size {
		return nil, taken(d.disk.Overlay)
	}
	earlier, err = d.images.Allocated(ctx, d.overlay())
	if err != nil {
		return nil, err
	}
	earlier = wholeSteps(earlier, d.disk.Size)
	for _, r := range earlier {
		d.earlier.add(r.Offset, r.Length)
		d.written.add(r.Offset, r.Length)
	}
	return earlier, nil
}

// write finds what differs and writes that.
func (d *differingDisk) write(ctx context.Context, m *meter) error {
	if size := d.image.Size(); size != d.disk.Size {
		return fmt.Errorf("the point has %d bytes and the plan %d", size, d.disk.Size)
	}
	earlier, err := d.make(ctx)
	if err != nil {
		return err
	}
	if d.sums, err = content.NewSums(d.disk.Size); err != nil {
		return err
	}
	err = connectTo(ctx, d.images, d.overlay(), d.disk.Size, func(client *nbd.Client) error {
		local := &localDisk{ctx, client, &d.read}
		where, err := d.suspect(ctx, local, m)
		if err != nil {
			return err
		}
		// What an earlier attempt wrote is proved with the rest.
		where.data, where.zeros = wholeSteps(append(where.data, earlier...), d.disk.Size), wholeSteps(append(where.zeros, earlier...), d.disk.Size)
		m.expect(backstay.TotalLength(where.data))
		if err := d.clear(ctx, local, where.zeros); err != nil {
			return err
		}
		if err := d.fill(ctx, local, where.data, m); err != nil {
			return err
		}
		return client.Flush()
	})
	if err != nil {
		return err
	}
	return durable.Sync(d.disk.Overlay)
}

// connectTo exports an image writable and calls fn with a connection to it.
func connectTo(ctx context.Context, images hypervisor.Images, image hypervisor.Image, size int64, fn func(*nbd.Client) error) error {
	return connectImage(ctx, images, image, hypervisor.ExportOptions{Writable: true}, size, fn)
}

func connectImage(ctx context.Context, images hypervisor.Images, image hypervisor.Image, o hypervisor.ExportOptions, size int64, fn func(*nbd.Client) error) (err error) {
	o.Format, o.Secret, o.Connections = image.Format, image.Secret, 1
	export, err := images.Export(ctx, image.Location, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, export.Close()) }()
	client, err := nbd.Dial(ctx, export.Socket(), export.Name(), nbd.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if size >= 0 && client.Size() != size {
		return fmt.Errorf("the file has %d bytes and not %d", client.Size(), size)
	}
	return fn(client)
}

// clear makes zeros of what the point has as zeros and the disk has not.
func (d *differingDisk) clear(ctx context.Context, local *localDisk, ranges []backstay.Range) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(requestsOut)
	for _, r := range ranges {
		for at := r.Offset; at < r.End() && within.Err() == nil; at += extentWindow {
			extents, err := d.image.Extents(at, min(extentWindow, r.End()-at))
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			for _, e := range extents {
				if !e.Zero {
					continue
				}
				if err := d.clearRun(local, e.Range, g); err != nil {
					return errors.Join(err, g.Wait())
				}
			}
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// clearRun looks at one run that the point has as zeros.
func (d *differingDisk) clearRun(local *localDisk, run backstay.Range, g *errgroup.Group) error {
	there, err := local.Extents(run.Offset, run.Length)
	if err != nil {
		return err
	}
	next := run.Offset
	for _, e := range there {
		if e.Zero {
			continue
		}
		// The disk's map may be finer than our steps.
		from := max(e.Offset/content.Step*content.Step, next)
		next = min((e.End()+content.Step-1)/content.Step*content.Step, run.End())
		for at := from; at < next; at += readBlock {
			length := min(readBlock, next-at)
			g.Go(func() error { return d.clearBlock(local, at, length) })
		}
	}
	return nil
}

func (d *differingDisk) clearBlock(local *localDisk, offset, length int64) error {
	data := make([]byte, length)
	if n, err := local.ReadAt(data, offset); n < len(data) {
		return fmt.Errorf("read %d bytes at %d: %w", len(data), offset, errors.Join(errShort, err))
	}
	for at := 0; at < len(data); {
		if skip := content.ZeroPrefix(data[at:]); skip > 0 {
			at += skip
			continue
		}
		from := at
		for at < len(data) && content.ZeroPrefix(data[at:min(at+content.Step, len(data))]) == 0 {
			at = min(at+content.Step, len(data))
		}
		d.written.add(offset+int64(from), int64(at-from))
		if err := local.client.WriteZeroes(offset+int64(from), int64(at-from)); err != nil {
			return err
		}
	}
	return nil
}

// fill writes what the point has as data and the disk has not.
func (d *differingDisk) fill(ctx context.Context, local *localDisk, ranges []backstay.Range, m *meter) error {
	gather := &content.Gatherer{Write: func(ctx context.Context, sorted []content.Piece) error {
		g, _ := errgroup.WithContext(ctx)
		g.SetLimit(requestsOut)
		for _, group := range content.Near(sorted, compareGap, readBlock) {
			g.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return d.settle(local, group)
			})
		}
		return g.Wait()
	}}
	err := d.chunks(ctx, ranges, func(offset int64, data []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := gather.Add(ctx, offset, data); err != nil {
			return err
		}
		m.add(int64(len(data)))
		return nil
	})
	if err != nil {
		return err
	}
	return gather.End(ctx)
}

// chunks hands out the point's data in the ranges.
func (d *differingDisk) chunks(ctx context.Context, ranges []backstay.Range, fn func(int64, []byte) error) error {
	if c, ok := d.image.(vault.Comparer); ok {
		return c.ChunksIn(ctx, ranges, workers(), fn)
	}
	return content.Each(ctx, d.image, workers(), fn)
}

// settle compares pieces that lie near each other with the disk, and writes those
// steps that differ.
func (d *differingDisk) settle(local *localDisk, group []content.Piece) error {
	start := group[0].Offset
	present := make([]byte, group[len(group)-1].End()-start)
	if n, err := local.ReadAt(present, start); n < len(present) {
		return fmt.Errorf("read %d bytes at %d: %w", len(present), start, errors.Join(errShort, err))
	}
	differs := make([]bool, (len(present)+content.Step-1)/content.Step)
	for _, p := range group {
		for at := 0; at < len(p.Data); at += content.Step {
			step := p.Data[at:min(at+content.Step, len(p.Data))]
			offset := p.Offset + int64(at)
			is := present[offset-start:][:len(step)]
			if !bytes.Equal(is, step) {
				differs[(offset-start)/content.Step] = true
				copy(is, step)
			} else if !d.earlier.has(offset) {
				continue
			}
			if err := d.sums.Add(offset, step); err != nil {
				return err
			}
		}
	}
	return d.put(local, start, present, differs)
}

// put writes the steps of a run that differ.
func (d *differingDisk) put(local *localDisk, start int64, data []byte, differs []bool) error {
	for i := 0; i < len(differs); {
		if !differs[i] {
			i++
			continue
		}
		step := func(i int) []byte { return data[i*content.Step : min((i+1)*content.Step, len(data))] }
		zero, from := content.ZeroPrefix(step(i)) > 0, i
		for i < len(differs) && differs[i] && (content.ZeroPrefix(step(i)) > 0) == zero {
			i++
		}
		run := data[from*content.Step : min(i*content.Step, len(data))]
		offset := start + int64(from)*content.Step
		d.written.add(offset, int64(len(run)))
		if zero {
			if err := local.client.WriteZeroes(offset, int64(len(run))); err != nil {
				return err
			}
			continue
		}
		if _, err := local.client.WriteAt(run, offset); err != nil {
			return err
		}
		d.wrote.Add(int64(len(run)))
	}
	return nil
}

// verify reads back, from the disk and not from the page cache, what this attempt
// and earlier ones wrote, and compares it with what came from the vault.
func (d *differingDisk) verify(ctx context.Context, m *meter) error {
	if err := durable.DropCache(d.disk.Overlay); err != nil {
		return err
	}
	found, err := d.sums.Again()
	if err != nil {
		return err
	}
	total := int64(0)
	_ = d.written.each(func(_, length int64) error { total += length; return nil })
	m.expect(total)
	err = connectImage(ctx, d.images, d.overlay(), hypervisor.ExportOptions{}, d.disk.Size, func(client *nbd.Client) error {
		g, within := errgroup.WithContext(ctx)
		g.SetLimit(requestsOut)
		err := d.written.each(func(offset, length int64) error {
			run := backstay.Range{Offset: offset, Length: min(length, d.disk.Size-offset)}
			return readRun(within, g, client, run, found, m.add)
		})
		return errors.Join(err, g.Wait())
	})
	if err != nil {
		return err
	}
	if at, same := d.sums.Equal(found); !same {
		return backstay.Errorf(backstay.CodeRestoreFailed, "disk %s was not written as the point has it", d.disk.Target).
			Becausef("%s differs from the point in the MiB at byte %d", d.disk.Overlay, at).
			Do("check the storage of %s; the disk that the VM had was not changed", filepath.Dir(d.disk.Overlay))
	}
	return nil
}
