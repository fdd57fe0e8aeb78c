package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
)

const (
	disksAtOnce = 2       // disks written or verified at a time
	readBlock   = 1 << 20 // bytes of one read; a multiple of content.Step
)

// workers is how many goroutines decode, write or compare one disk.
func workers() int { return max(2, runtime.GOMAXPROCS(0)) }

// vaultSource restores by writing the content of a vault's point.
type vaultSource struct {
	*Host
	open func(context.Context, backstay.DiskTarget) (tier.Image, error)
}

// write writes all disks, then reads all back from the files and compares them
// with what the vault authenticated (I4, I8).
func (s *vaultSource) write(ctx context.Context, r mover.StageRequest, _ *restoreJournal, progress mover.Progress) (mover.Staged, error) {
	// Each chunk is authenticated, so a cache of a unit far away is as good as the unit.
	ctx = blob.AllowCached(ctx)
	disks := make([]*writtenDisk, len(r.Plan.Disks))
	defer func() {
		for _, d := range disks {
			if d != nil {
				_ = d.image.Close()
			}
		}
	}()
	var total int64
	for i, p := range r.Plan.Disks {
		image, err := s.open(ctx, p.Target)
		if err != nil {
			return mover.Staged{}, err
		}
		disks[i] = &writtenDisk{images: s.images, plan: p, image: image}
		data, err := disks[i].check(ctx)
		if err != nil {
			return mover.Staged{}, fmt.Errorf("disk %s: %w", p.Target, err)
		}
		total += data
	}
	for _, step := range []struct {
		phase string
		run   func(*writtenDisk, context.Context, func(int64)) error
	}{{"write", (*writtenDisk).write}, {"verify", (*writtenDisk).verify}} {
		m := &meter{phase: step.phase, total: total, progress: progress}
		m.add(0)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(disksAtOnce)
		for _, d := range disks {
			g.Go(func() error {
				if err := step.run(d, ctx, m.add); err != nil {
					return fmt.Errorf("%s disk %s: %w", step.phase, d.plan.Target, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return mover.Staged{}, err
		}
	}
	staged := mover.Staged{BytesRead: total}
	for _, d := range disks {
		staged.BytesWritten += d.wrote.Load()
		staged.Paths = append(staged.Paths, d.plan.Path)
	}
	return staged, nil
}

// meter adds up the bytes of one phase.
type meter struct {
	phase    string
	total    int64
	progress mover.Progress

	mu   sync.Mutex
	done int64 // guarded by mu
}

// add adds bytes that are done.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = min(m.done+n, m.total)
	m.progress(mover.Report{Phase: m.phase, Done: m.done, Total: m.total})
}

// expect adds bytes that are to be done: total is guarded by mu from then on.
func (m *meter) expect(n int64) {
	m.mu.Lock()
	m.total += n
	m.mu.Unlock()
	m.add(0)
}

// writtenDisk is one disk on its way from a vault into a file.
type writtenDisk struct {
	images hypervisor.Images
	plan   backstay.PlannedDisk
	image  tier.Image
	sums   *content.Sums // of what was read from the vault
	wrote  atomic.Int64
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

// connect exports the file and calls fn with a connection to it.
func (d *writtenDisk) connect(ctx context.Context, writable bool, fn func(*nbd.Client) error) (err error) {
	image := imageOf(d.plan)
	export, err := d.images.Export(ctx, image.Location, hypervisor.ExportOptions{Format: image.Format, Secret: image.Secret, Writable: writable, Connections: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, export.Close()) }()
	client, err := nbd.Dial(ctx, export.Socket(), export.Name(), nbd.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if client.Size() != d.plan.Size && !(d.plan.Device && client.Size() > d.plan.Size) {
		return fmt.Errorf("the file has %d bytes and not %d", client.Size(), d.plan.Size)
	}
	return fn(client)
}

// write makes the file and writes all that is not zero: a fresh image reads as
// zeros and stays sparse.
func (d *writtenDisk) write(ctx context.Context, advanced func(int64)) error {
	if d.plan.Device {
		if err := readyDevice(d.plan); err != nil {
			return err
		}
	} else if err := createImage(ctx, d.images, d.plan); err != nil {
		return err
	}
	sums, err := content.NewSums(d.plan.Size)
	if err != nil {
		return err
	}
	d.sums = sums
	fresh := imageOf(d.plan)
	err = d.connect(ctx, true, func(client *nbd.Client) error {
		if d.plan.Device {
			if err := clearDevice(ctx, d.plan, client); err != nil {
				return err
			}
		} else if err := zeroFirst(ctx, client, fresh, d.image); err != nil {
			return err
		}
		err := content.Each(ctx, d.image, workers(), func(offset int64, data []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := sums.Add(offset, data); err != nil {
				return err
			}
			n, err := writeInto(client, fresh, offset, data)
			d.wrote.Add(n)
			if err != nil {
				return err
			}
			advanced(int64(len(data)))
			return nil
		})
		if err != nil {
			return err
		}
		return client.Flush()
	})
	if err != nil {
		return err
	}
	if err := syncPath(d.plan.Path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(d.plan.Path))
}

// verify reads the whole file back, from the disk and not from the page cache,
// and compares it with what came from the vault. What is neither data in the
// one nor in the other is zeros in both.
func (d *writtenDisk) verify(ctx context.Context, advanced func(int64)) error {
	if err := dropCache(d.plan.Path); err != nil {
		return err
	}
	found, err := d.sums.Again()
	if err != nil {
		return err
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
		return err
	}
	if at, same := d.sums.Equal(found); !same {
		return backstay.Errorf(backstay.CodeRestoreFailed, "disk %s was not written as the point has it", d.plan.Target).
			Becausef("%s differs from the point in the MiB at byte %d", d.plan.Path, at).
			Do("check the storage of %s; nothing of the restore was kept", filepath.Dir(d.plan.Path))
	}
	return nil
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

// dropCache makes the kernel forget a file's pages, so that what is read next
// comes from the disk.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("drop cache of %s: %w", path, err)
	}
	return nil
}
