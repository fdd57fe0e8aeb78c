package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// ForkRequest asks for layers on which a VM may go on from the state of one of
// its points. The tree of its layers forks there (architecture decision 1).
type ForkRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	VM    backstay.VMID
	Disks []ForkDisk
}

// ForkDisk is one disk of a point and the file of the layer that is made on it.
type ForkDisk struct {
	Target backstay.DiskTarget
	Path   string
}

// forked tells whether a layer was made whole by an attempt that was cut off.
func (t *Tier) forked(ctx context.Context, d ForkDisk, on hypervisor.Image, size int64) (bool, error) {
	info, err := t.images.Info(ctx, d.Path)
	if err == nil && info.Backing == on.Location && info.VirtualSize == size {
		return true, nil
	}
	return false, record.RemoveFile(d.Path)
}

// Fork makes an empty layer on the frozen layer of each disk of a point. No data
// is copied, whatever a disk's size. The layers are recorded before they are
// made, with the job as a UserRestore: nothing below them is merged until EndUse
// of the job. A layer of the same job and path that is there already is made anew.
func (t *Tier) Fork(ctx context.Context, r ForkRequest) error {
	if err := t.lookAround(ctx); err != nil {
		return hypervisorError(err, "host %s cannot be looked at", t.host)
	}
	if err := t.settleOthers(ctx, r.VM); err != nil {
		return err
	}
	for _, d := range r.Disks {
		backing, size, err := t.enterFork(r, d)
		if err != nil {
			return err
		}
		if made, err := t.forked(ctx, d, backing, size); err != nil {
			return err
		} else if made {
			continue
		}
		overlay := hypervisor.Overlay{Path: d.Path, Backing: backing, Size: size}
		if err := t.images.CreateOverlay(ctx, overlay); err != nil {
			return fmt.Errorf("make a layer for disk %s: %w", d.Target, err)
		}
		if made, err := t.forked(ctx, d, backing, size); err != nil || !made {
			return errors.Join(fmt.Errorf("make a layer for disk %s: it does not stand on %s", d.Target, backing.Location), err)
		}
	}
	return nil
}

// enterFork records one new layer, and returns what it stands on.
func (t *Tier) enterFork(r ForkRequest, d ForkDisk) (backing hypervisor.Image, size int64, err error) {
	user := User{Kind: UserRestore, ID: string(r.Job), Job: r.Job, Since: t.now().UTC(), Overlay: d.Path}
	err = t.change(func(b *book) error {
		below, err := b.usable(r.Point, d.Target)
		if err != nil {
			return err
		}
		backing, size = imageOf(below), sizeOf(b.Points[r.Point], d.Target)
		old := b.ByFile(d.Path)
		if old != nil && !slices.ContainsFunc(old.Users, user.Same) {
			return fmt.Errorf("%s: %w", d.Path, hypervisor.ErrExists)
		}
		l := &Layer{File: d.Path, Format: "qcow2", Secret: below.Secret, Parent: below.ID, Target: d.Target, VM: r.VM, Size: size, Users: []User{user}}
		if old != nil {
			l.ID = old.ID
		} else if l.ID, err = t.newLayerID(); err != nil {
			return err
		}
		folder := filepath.Dir(d.Path)
		if err := errors.Join(b.Remember(folder), record.Reserve(folder)); err != nil {
			return err
		}
		return b.Put(l)
	})
	return backing, size, err
}

// KeepFor lets the layers of these files stay as they are for the undo of a job,
// although no VM is on them. Files without a record are nobody's layers and are
// passed over. Safe to repeat.
func (t *Tier) KeepFor(job backstay.JobID, files []string) error {
	user := User{Kind: UserUndo, ID: string(job), Job: job, Since: t.now().UTC()}
	return t.change(func(b *book) error {
		for _, file := range files {
			l := b.ByFile(file)
			if l == nil || slices.ContainsFunc(l.Users, user.Same) {
				continue
			}
			l.Users = append(l.Users, user)
			if err := b.Put(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// KeepContent lets what is on the layers of these files outlive the undo that needs
// them and the points below, although no VM is on them: as points go, it is merged
// down towards its owner's own file. Safe to repeat.
func (t *Tier) KeepContent(files []string) error {
	return t.change(func(b *book) error {
		for _, file := range files {
			l := b.ByFile(file)
			if l == nil || l.Bottom || l.Kept {
				continue
			}
			l.Kept = true
			if err := b.Put(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// EndUse takes a job's entries of one kind, UserRestore or UserUndo, off all
// layers, and removes those of the layers that nothing needs any more: no VM, no
// point, no layer above, no other user. A file that a VM had before its protection
// is its owner's and stays, as does a layer of KeepContent. Safe to repeat.
func (t *Tier) EndUse(ctx context.Context, kind UserKind, job backstay.JobID) (removed []string, err error) {
	user := User{Kind: kind, ID: string(job)}
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	for _, l := range b.Layers {
		if !slices.ContainsFunc(l.Users, user.Same) {
			continue
		}
		seen, err := t.lookAt(ctx, b, l)
		if err != nil {
			return removed, err
		}
		gone, err := t.endUse(l.ID, user, len(seen.uses)+len(seen.unknown) > 0)
		if err != nil {
			return removed, err
		}
		removed = append(removed, gone...)
	}
	return removed, nil
}

// endUse does it for one layer: the file goes before its record, and the entry
// with it, so that the rest is found after a crash.
func (t *Tier) endUse(id backstay.LayerID, user User, needed bool) (removed []string, err error) {
	err = t.change(func(b *book) error {
		l := b.Layers[id]
		if l == nil {
			return nil
		}
		others := slices.DeleteFunc(slices.Clone(l.Users), user.Same)
		if needed || l.Bottom || l.Kept || len(l.Points) > 0 || len(others) > 0 || len(b.Children(id)) > 0 {
			l.Users = others
			return b.Put(l)
		}
		if err := record.RemoveFile(l.File); err != nil {
			return err
		}
		removed = append(removed, l.File)
		return b.RemoveLayer(l)
	})
	return removed, err
}

// Leave lets whole files that a restore made go as layers go, now that no VM is
// meant to be on them: at once, or when nothing stands on them any more. A file
// that a VM is on stays.
func (t *Tier) Leave(ctx context.Context, files []string) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	for _, file := range files {
		uses, err := t.usesOf(ctx, file)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(uses, func(u chainUse) bool { return u.active() == file }) {
			continue
		}
		if l := b.ByFile(file); l != nil {
			err = t.change(func(b *book) error {
				l := b.Layers[l.ID]
				if l == nil {
					return nil
				}
				l.Left, l.Bottom, l.Element = true, false, ""
				return b.Put(l)
			})
			if err != nil {
				return err
			}
			continue
		}
		unknown, err := t.unknownOn(ctx, b, file)
		if err != nil {
			return err
		}
		if len(uses)+len(unknown) == 0 {
			if err := record.RemoveFile(file); err != nil {
				return err
			}
		}
	}
	return t.cleanLeft(ctx)
}

// PointsOn lists the points that rest on the layers of these files, or on layers
// above them.
func (t *Tier) PointsOn(files []string) ([]backstay.PointID, error) {
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	var found []backstay.PointID
	for _, file := range files {
		if l := b.ByFile(file); l != nil {
			found = append(found, b.pointsAbove(l.ID)...)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}
