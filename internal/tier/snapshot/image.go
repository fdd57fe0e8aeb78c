package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

// image is a disk of a point, served by QEMU's own reader from the frozen
// layers: the running guest's QEMU has no part in it.
type image struct {
	ctx    context.Context // bounds Extents, which has none of its own
	export hypervisor.Export
	client *nbd.Client
	size   int64
	leave  func() error
}

// OpenDisk opens the content of one disk of a point for reading. Until the
// image is closed the job counts as a user of the layer, so that it is not
// merged. ctx bounds opening and Extents.
func (p *Point) OpenDisk(ctx context.Context, target backstay.DiskTarget, job backstay.JobID) (tier.Image, error) {
	return p.openAs(ctx, target, User{Kind: UserTransfer, ID: readerID(string(job), p.Record.ID, target), Job: job})
}

// OpenDiskFor is OpenDisk for a session that shows the disk to somebody until a
// certain time. Others see who keeps the layer from being merged.
func (p *Point) OpenDiskFor(ctx context.Context, target backstay.DiskTarget, s Session) (tier.Image, error) {
	return p.openAs(ctx, target, User{
		Kind: UserMount, ID: readerID(string(s.ID), p.Record.ID, target), By: s.By, Until: s.Until.UTC(), Host: p.tier.host,
	})
}

// Session is a session of item-level restore that reads disks of points.
type Session struct {
	ID    backstay.FileSessionID
	By    string // who opened it
	Until time.Time
}

// ForgetSessions removes the entries of sessions that are open no more: those of
// this host that this process does not have, and of others those whose time is over.
// A session survives no process (I9).
func (t *Tier) ForgetSessions() error {
	b, err := t.load()
	if err != nil {
		return err
	}
	for _, l := range b.Layers {
		if slices.ContainsFunc(l.Users, t.goneSession) {
			return t.removeUsers(t.goneSession)
		}
	}
	return nil
}

// goneSession tells whether a user is a session that is open no more. It is asked
// while no entry can be made.
func (t *Tier) goneSession(u User) bool {
	if u.Kind != UserMount || t.isReading(u.ID) {
		return false
	}
	return u.Host == t.host || u.Host == "" || t.now().After(u.Until)
}

func (p *Point) openAs(ctx context.Context, target backstay.DiskTarget, u User) (tier.Image, error) {
	d, ok := p.Disk(target)
	if !ok {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", target, p.Record.ID)
	}
	u.Since = p.tier.now().UTC()
	leave, err := p.tier.startReading(p.Record.ID, target, u)
	if err != nil {
		return nil, err
	}
	img, err := p.tier.openLayer(ctx, d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open disk %s of point %s: %w", target, p.Record.ID, err), leave())
	}
	img.leave = leave
	return img, nil
}

func (t *Tier) openLayer(ctx context.Context, d PointLayers) (*image, error) {
	export, err := t.images.Export(ctx, d.Path, hypervisor.ExportOptions{Format: d.Format, Secret: d.Secret})
	if err != nil {
		return nil, err
	}
	client, err := nbd.Dial(ctx, export.Socket(), export.Name(), nbd.Options{})
	if err != nil {
		return nil, errors.Join(err, export.Close())
	}
	if client.Size() < d.Size {
		return nil, errors.Join(fmt.Errorf("%s has %d bytes, and the point's disk %d", d.Path, client.Size(), d.Size),
			client.Close(), export.Close())
	}
	return &image{ctx: ctx, export: export, client: client, size: d.Size}, nil
}

// readerID names one reading of one disk by a job or a session.
func readerID(job string, p backstay.PointID, target backstay.DiskTarget) string {
	return fmt.Sprintf("%s/%s/%s", job, p, target)
}

// startReading registers a reader of one disk, and returns what ends that.
func (t *Tier) startReading(p backstay.PointID, target backstay.DiskTarget, u User) (leave func() error, err error) {
	id := u.ID
	t.mu.Lock()
	t.reading[id]++
	t.mu.Unlock()
	done := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.reading[id]--; t.reading[id] > 0 {
			return false
		}
		delete(t.reading, id)
		return true
	}
	if err := t.AddUser(p, target, u); err != nil {
		done()
		return nil, err
	}
	return sync.OnceValue(func() error {
		if !done() {
			return nil
		}
		return t.RemoveUser(u.Kind, id)
	}), nil
}

func (i *image) Size() int64 { return i.size }

func (i *image) ReadAt(p []byte, off int64) (int, error) { return i.client.ReadAt(p, off) }

// Extents tells data from zeros as the layers record it.
func (i *image) Extents(offset, length int64) ([]tier.Extent, error) {
	status, err := i.client.BlockStatus(i.ctx, nbd.BaseAllocation, offset, length)
	if err != nil {
		return nil, fmt.Errorf("read extents: %w", err)
	}
	extents := make([]tier.Extent, len(status))
	for n, s := range status {
		extents[n] = tier.Extent{
			Range: backstay.Range{Offset: s.Offset, Length: s.Length},
			Zero:  s.Flags&nbd.Zero != 0,
		}
	}
	return extents, nil
}

// Close ends reading: connection, export, registration.
func (i *image) Close() error {
	return errors.Join(i.client.Close(), i.export.Close(), i.leave())
}
