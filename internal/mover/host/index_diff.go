package host

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/fileindex"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// DiffPoints compares two points of a VM.
func (h *Host) DiffPoints(ctx context.Context, r mover.DiffRequest, progress mover.Progress) (backstay.PointDiff, error) {
	ctx = blob.AllowCached(ctx)
	x := &diffing{Host: h, request: r, progress: oneAtATime(progress), files: fileindex.Diff{Limit: r.Limit},
		diff: backstay.PointDiff{Before: r.Before, After: r.After, Disks: []backstay.DiskChange{}, Notes: []string{}}}
	if r.Vault != nil {
		v, err := h.openVault(ctx, *r.Vault)
		if err != nil {
			return backstay.PointDiff{}, err
		}
		defer func() { _ = v.Close() }()
		x.vault = v
	}
	if err := x.disks(ctx); err != nil {
		return backstay.PointDiff{}, err
	}
	listed, err := x.listed(ctx)
	if err == nil && !listed {
		err = x.walked(ctx)
	}
	if err != nil {
		return backstay.PointDiff{}, err
	}
	x.diff.Files, x.diff.More = x.files.Changes, x.files.More
	if x.diff.Files == nil {
		x.diff.Files = []backstay.FileChange{}
	}
	return x.diff, nil
}

// diffing is one DiffPoints.
type diffing struct {
	*Host
	request  mover.DiffRequest
	progress mover.Progress
	vault    *vault.Vault // nil if no point is in one
	files    fileindex.Diff
	diff     backstay.PointDiff
}

func (x *diffing) note(format string, args ...any) {
	x.diff.Notes = append(x.diff.Notes, fmt.Sprintf(format, args...))
}

// disks tells how much of each disk differs.
func (x *diffing) disks(ctx context.Context) error {
	before, err := x.disksOf(ctx, x.request.Before, x.request.BeforeTier)
	if err != nil {
		return err
	}
	after, err := x.disksOf(ctx, x.request.After, x.request.AfterTier)
	if err != nil {
		return err
	}
	find := func(disks []backstay.PointDisk, t backstay.DiskTarget) (backstay.PointDisk, bool) {
		i := slices.IndexFunc(disks, func(d backstay.PointDisk) bool { return d.Target == t && d.Included })
		if i < 0 {
			return backstay.PointDisk{}, false
		}
		return disks[i], true
	}
	for _, d := range before {
		if _, ok := find(after, d.Target); d.Included && !ok {
			x.diff.Disks = append(x.diff.Disks, backstay.DiskChange{Target: d.Target, Bytes: d.Size, Note: "the later point does not hold it"})
		}
	}
	for _, d := range after {
		if !d.Included {
			continue
		}
		change := backstay.DiskChange{Target: d.Target, Bytes: d.Size}
		if was, ok := find(before, d.Target); !ok {
			change.Note = "the earlier point does not hold it"
		} else if was.Size != d.Size {
			change.Note = fmt.Sprintf("its size was %d bytes; all of it counts", was.Size)
		} else if change.Bytes, change.Note, err = x.disk(ctx, d.Target); err != nil {
			return err
		}
		x.diff.Disks = append(x.diff.Disks, change)
	}
	slices.SortFunc(x.diff.Disks, func(a, b backstay.DiskChange) int { return compareTargets(a.Target, b.Target) })
	return nil
}

func compareTargets(a, b backstay.DiskTarget) int {
	if len(a) != len(b) {
		return len(a) - len(b) // vdb before vdaa
	}
	return slices.Compare([]byte(a), []byte(b))
}

func (x *diffing) disksOf(ctx context.Context, id backstay.PointID, t backstay.Tier) ([]backstay.PointDisk, error) {
	if t == backstay.VaultTier {
		if x.vault == nil {
			return nil, backstay.Errorf(backstay.CodeInternal, "a comparison in the vault tier names no vault")
		}
		p, err := x.vault.OpenPoint(ctx, id)
		if err != nil {
			return nil, err
		}
		return p.Facts().Disks, nil
	}
	p, err := x.openPoint(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []backstay.PointDisk
	for _, d := range p.Record.Disks {
		all = append(all, d.PointDisk)
	}
	return all, nil
}

// disk tells how many bytes of a disk differ, at most, by the tables of the vault or by
// the layers.
func (x *diffing) disk(ctx context.Context, t backstay.DiskTarget) (int64, string, error) {
	r := x.request
	switch {
	case r.BeforeTier == backstay.VaultTier && r.AfterTier == backstay.VaultTier:
		ranges, ok, err := x.tables(ctx, t)
		if err != nil || ok {
			return backstay.TotalLength(ranges), "", err
		}
		return 0, "the vault keeps the two in forms that cannot be compared", nil
	case r.BeforeTier == backstay.SnapshotTier && r.AfterTier == backstay.SnapshotTier:
		ranges, ok, reason, err := x.tier.Changes(ctx, r.After, r.Before, t)
		if err != nil || ok {
			return backstay.TotalLength(ranges), "", err
		}
		return 0, "what changed of it is not known: " + reason, nil
	default:
		return 0, "what changed of it is not known: the points are in different tiers", nil
	}
}

func (x *diffing) tables(ctx context.Context, t backstay.DiskTarget) ([]backstay.Range, bool, error) {
	var images []tier.Image
	for _, id := range []backstay.PointID{x.request.Before, x.request.After} {
		p, err := x.vault.OpenPoint(ctx, id)
		if err != nil {
			return nil, false, err
		}
		image, err := p.Disk(ctx, t)
		if err != nil {
			return nil, false, err
		}
		defer func() { _ = image.Close() }()
		images = append(images, image)
	}
	c, ok := images[1].(vault.Comparer)
	if !ok {
		return nil, false, nil
	}
	return c.DiffersFrom(ctx, images[0])
}

// listed compares the files by the VM's list, if both points are in it. A damaged list is
// no reason to fail: the points themselves are at hand.
func (x *diffing) listed(ctx context.Context) (bool, error) {
	if x.vault == nil {
		return false, nil
	}
	done := false
	err := withFileList(ctx, x.vault, x.request.VM, func(head fileindex.Head, kept keptSegments) error {
		before, ok := head.Point(x.request.Before)
		after, also := head.Point(x.request.After)
		if done = ok && also; !done {
			return nil
		}
		x.files.Changes, x.files.More = nil, 0
		if err := x.files.Points(head.Events(ctx, kept), before, after); err != nil {
			return err
		}
		x.volumesOf(volumeIDs(before.Volumes), volumeIDs(after.Volumes))
		return nil
	})
	if backstay.IsCode(err, backstay.CodeDamaged) {
		x.note("the list of files is damaged; the points themselves were compared")
		x.files.Changes, x.files.More = nil, 0
		return false, nil
	}
	return done, err
}

func volumeIDs(volumes []fileindex.Volume) []backstay.VolumeID {
	var ids []backstay.VolumeID
	for _, v := range volumes {
		ids = append(ids, v.ID)
	}
	return ids
}

// volumesOf notes the volumes that are in one point alone, and returns the others.
func (x *diffing) volumesOf(before, after []backstay.VolumeID) []backstay.VolumeID {
	var both []backstay.VolumeID
	for _, v := range before {
		if slices.Contains(after, v) {
			both = append(both, v)
		} else {
			x.note("volume %s was not compared: it could not be read in the later point, or is not there", v)
		}
	}
	for _, v := range after {
		if !slices.Contains(before, v) {
			x.note("volume %s was not compared: it could not be read in the earlier point, or was not there", v)
		}
	}
	slices.Sort(both)
	return both
}

// walked compares the files by listing both points.
func (x *diffing) walked(ctx context.Context) error {
	r := x.request
	open := func(p backstay.PointID, t backstay.Tier) mover.OpenFilesRequest {
		o := mover.OpenFilesRequest{Point: p, Tier: t, Services: r.Services}
		if t == backstay.VaultTier {
			o.Vault = r.Vault
		}
		return o
	}
	err := x.listing(ctx, open(r.Before, r.BeforeTier), x.progress, func(ctx context.Context, older lister, were []backstay.Volume) error {
		return x.listing(ctx, open(r.After, r.AfterTier), x.progress, func(ctx context.Context, newer lister, are []backstay.Volume) error {
			for _, v := range x.volumesOf(x.readable(were), x.readable(are)) {
				if err := x.volume(ctx, v, older, newer); err != nil {
					return err
				}
			}
			x.note("files were compared by type, size and time, since the points are not both in the list of files")
			return nil
		})
	})
	if backstay.IsCode(err, backstay.CodeUnfit) || backstay.IsCode(err, backstay.CodeSessionLimit) || backstay.IsCode(err, backstay.CodeMachineFailed) {
		x.files.Changes, x.files.More = nil, 0
		x.note("the files were not compared: %v", err)
		return nil
	}
	return err
}

// readable are the volumes whose files can be listed. The others are noted once.
func (x *diffing) readable(volumes []backstay.Volume) []backstay.VolumeID {
	var ids []backstay.VolumeID
	for _, v := range volumes {
		if v.Kind == backstay.VolumeFiles {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// volume compares the files of one volume.
func (x *diffing) volume(ctx context.Context, v backstay.VolumeID, older, newer lister) error {
	q := wire.WalkRequest{Volume: v, Path: "/"}
	before, err := older.Walk(ctx, q)
	if err != nil {
		return x.unread(v, err)
	}
	defer func() { _ = before.Close() }()
	after, err := newer.Walk(ctx, q)
	if err != nil {
		return x.unread(v, err)
	}
	defer func() { _ = after.Close() }()
	return x.files.Streams(x.states(v, before), x.states(v, after))
}

func (x *diffing) unread(v backstay.VolumeID, err error) error {
	if backstay.IsCode(err, backstay.CodeVolumeUnread) || backstay.IsCode(err, backstay.CodeVolumeLocked) || backstay.IsCode(err, backstay.CodeUnknownVolume) {
		x.note("volume %s was not compared: %v", v, err)
		return nil
	}
	return err
}

// states are the rows of a walk as what the paths are.
func (x *diffing) states(v backstay.VolumeID, rows io.Reader) iter.Seq2[fileindex.Event, error] {
	return func(yield func(fileindex.Event, error) bool) {
		for row, err := range wire.Rows(rows) {
			e := fileindex.Event{Volume: v, Path: row.Path, Version: fileindex.FromRow(row)}
			if err == nil && row.Unread && len(x.diff.Notes) < maxNotes {
				x.note("%s:%s cannot be read in one of the points; what is in it counts as not there", v, row.Path)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// maxNotes is how many folders that cannot be read are named.
const maxNotes = 20
