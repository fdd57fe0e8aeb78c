package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/tripwire"
	"github.com/backstay/backstay/internal/tier/vault"
)

// differencesRequest asks for overlays that give disks the content of a point in
// a vault, and hold only what differs from what the disks are now.
type differencesRequest struct {
	Job   backstay.JobID
	Vault mover.VaultAccess
	Point backstay.PointID
	// Now is a point of the snapshot tier, of the same instant as the present
	// images: its layers tell what changed since other points. "" if there is none:
	// then everything is compared.
	Now   backstay.PointID
	Disks []differencesDisk
}

// differencesDisk is one of the disks.
type differencesDisk struct {
	Target backstay.DiskTarget // in the point, and in Now
	// Present is what the overlay stands on. Nobody writes to it, and it is only
	// read here (I8).
	Present hypervisor.Image
	// Overlay is the file that is made. The caller has journalled it: one that is
	// there was left by an earlier attempt, and is gone on with.
	Overlay string
	Size    int64 // guest-visible bytes, of the point's disk
}

// differencesResult says what became of one disk.
type differencesResult struct {
	Target backstay.DiskTarget
	Mode   string // how differences were found
	// BytesRead were read of the present image, BytesWritten are the content that
	// was written.
	BytesRead, BytesWritten int64
	// Warning is a change map that lied; "" if none did.
	Warning string
}

// writeDifferences fills the overlays, and verifies them: what was written is read
// back from the disk and compared with what the vault authenticated (I4, I8).
// Phases: write, verify. If it fails the overlays stay for a later call, which goes
// on from them; removing them is the caller's business.
func (h *Host) writeDifferences(ctx context.Context, r differencesRequest, progress mover.Progress) ([]differencesResult, error) {
	ctx = blob.AllowCached(ctx)
	v, err := h.openVault(ctx, r.Vault)
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Close() }()
	point, err := v.OpenPoint(ctx, r.Point)
	if err != nil {
		return nil, err
	}
	disks := make([]*differingDisk, len(r.Disks))
	defer func() {
		for _, d := range disks {
			if d != nil {
				_ = d.image.Close()
			}
		}
	}()
	for i, planned := range r.Disks {
		image, err := point.Disk(ctx, planned.Target)
		if err != nil {
			return nil, err
		}
		disks[i] = &differingDisk{Host: h, request: r, disk: planned, vault: v, image: image, pieces: sampled(len(r.Disks))}
	}
	return runDifferences(ctx, disks, oneAtATime(progress))
}

func runDifferences(ctx context.Context, disks []*differingDisk, progress mover.Progress) ([]differencesResult, error) {
	for _, step := range []struct {
		phase string
		run   func(*differingDisk, context.Context, *meter) error
	}{{"write", (*differingDisk).write}, {"verify", (*differingDisk).verify}} {
		m := &meter{phase: step.phase, progress: progress}
		m.add(0)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(disksAtOnce)
		for _, d := range disks {
			g.Go(func() error {
				if err := step.run(d, ctx, m); err != nil {
					return fmt.Errorf("%s disk %s: %w", step.phase, d.disk.Target, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	var results []differencesResult
	for _, d := range disks {
		results = append(results, differencesResult{d.disk.Target, d.mode, d.read.Load(), d.wrote.Load(), d.warning})
	}
	return results, nil
}

// suspects are where a disk is looked at.
type suspects struct {
	data  []backstay.Range // where what the point has as data is compared
	zeros []backstay.Range // where what the point has as zeros is
}

// suspect finds out where the present disk may differ from the point: by change
// maps, if they can be trusted, or by looking at all of it (I7).
func (d *differingDisk) suspect(ctx context.Context, local *localDisk, m *meter) (suspects, error) {
	changed, reason, err := d.mapped(ctx)
	if err != nil {
		return suspects{}, err
	}
	if reason == "" {
		if reason, err = d.distrust(ctx, local, changed); err != nil {
			return suspects{}, err
		}
	}
	if reason == "" {
		d.mode = "changed layers"
		return suspects{changed, changed}, nil
	}
	d.mode = "full compare: " + reason
	d.log.Info("a disk is compared whole", "disk", d.disk.Target, "point", d.request.Point, "reason", reason)
	whole := []backstay.Range{{Length: d.disk.Size}}
	c, ok := d.image.(vault.Comparer)
	if !ok {
		return suspects{whole, whole}, nil
	}
	data, err := content.DataBytes(ctx, d.image)
	if err != nil {
		return suspects{}, err
	}
	m.expect(data)
	unproved, err := c.Unproved(ctx, local, workers(), m.add)
	return suspects{unproved, whole}, err
}

// mapped lists the only ranges where the present disk may differ from the point,
// or says why nothing can tell.
func (d *differingDisk) mapped(ctx context.Context) (ranges []backstay.Range, reason string, err error) {
	now, target := d.request.Now, d.disk.Target
	c, ok := d.image.(vault.Comparer)
	if now == "" || !ok {
		return nil, "the present state is no point", nil
	}
	origins, err := d.tier.Origins(ctx, now)
	if err != nil {
		return nil, "", err
	}
	if i := slices.Index(origins, d.request.Point); i > 0 { // nothing is nearer
		origins = slices.Insert(slices.Delete(origins, i, i+1), 0, d.request.Point)
	}
	reason = "no change map leads from a point in the vault to the present"
	for _, origin := range origins {
		since, ok, why, err := d.tier.Changes(ctx, now, origin, target)
		if err != nil {
			return nil, "", err
		}
		if !ok {
			reason = why
			continue
		}
		between, ok, why, err := d.between(ctx, c, origin)
		if err != nil {
			return nil, "", err
		}
		if ok {
			return wholeSteps(append(since, between...), d.disk.Size), "", nil
		}
		reason = why
	}
	return nil, reason, nil
}

// between lists where the point differs from another one in the vault.
func (d *differingDisk) between(ctx context.Context, c vault.Comparer, origin backstay.PointID) (ranges []backstay.Range, ok bool, reason string, err error) {
	if origin == d.request.Point {
		return nil, true, "", nil
	}
	other, err := d.vault.OpenPoint(ctx, origin)
	if ctx.Err() != nil {
		return nil, false, "", context.Cause(ctx)
	}
	if err != nil { // dropped, damaged, or in another vault: no fault of the point's
		return nil, false, fmt.Sprintf("point %s cannot be used: %v", origin, err), nil
	}
	image, err := other.Disk(ctx, d.disk.Target)
	if err != nil {
		return nil, false, fmt.Sprintf("point %s has no such disk in the vault", origin), nil
	}
	defer func() { _ = image.Close() }()
	ranges, ok, err = c.DiffersFrom(ctx, image)
	return ranges, ok, fmt.Sprintf("the size of disk %s changed", d.disk.Target), err
}

// distrust compares pieces of what is said to be the same, and returns why the
// maps are not to be trusted if it is not (I7).
func (d *differingDisk) distrust(ctx context.Context, local *localDisk, changed []backstay.Range) (string, error) {
	sample, err := tripwire.Check(ctx, local, d.image, tripwire.Options{Changed: changed, Pieces: d.pieces})
	if err != nil || sample.Differs == nil {
		return "", err
	}
	d.log.Warn("a change map lied", "now", d.request.Now, "point", d.request.Point,
		"disk", d.disk.Target, "offset", sample.Differs.Offset, "length", sample.Differs.Length)
	reason := fmt.Sprintf("%d bytes at %d differ, and the change map says that they do not", sample.Differs.Length, sample.Differs.Offset)
	d.warning = fmt.Sprintf("the change map of disk %s lied: %s; everything was compared; somebody else may write to the disk's layers", d.disk.Target, reason)
	return reason, nil
}

// wholeSteps widens ranges to whole steps, sorts and joins them.
func wholeSteps(ranges []backstay.Range, size int64) []backstay.Range {
	slices.SortFunc(ranges, func(a, b backstay.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []backstay.Range
	for _, r := range ranges {
		from, to := r.Offset/content.Step*content.Step, min((r.End()+content.Step-1)/content.Step*content.Step, size)
		if from >= to {
			continue
		}
		if n := len(out); n > 0 && from <= out[n-1].End() {
			out[n-1].Length = max(to, out[n-1].End()) - out[n-1].Offset
			continue
		}
		out = append(out, backstay.Range{Offset: from, Length: to - from})
	}
	return out
}

// errShort: an image gave less than it has.
var errShort = errors.New("it ends too early")
