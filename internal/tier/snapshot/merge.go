package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// finishMerges ends the merges of a VM that a crash or an error cut off.
func (t *Tier) finishMerges(ctx context.Context, vm backstay.VMID) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	for _, m := range b.Merges {
		if m.VM != vm {
			continue
		}
		if err := t.merge(ctx, m, true, nil); err != nil {
			return err
		}
	}
	return nil
}

// merge commits layer Child into layer Into and brings the records up to date.
// Its journal is written and the point is marked. Every step looks at what is
// there before it acts, so that repeating it after a crash at any instant ends
// in the same state:
//
//	commit        Child's content is in Into, and the VM is off Child
//	rebase        what stood on Child stands on Into
//	records       points on Child rest on Into
//	remove        Child's file, its record, the journal
//
// Committing is done again whenever the VM still has Child in its chain, and
// never once it writes to Into: what is in Child is old then.
func (t *Tier) merge(ctx context.Context, m *mergeIntent, again bool, progress Progress) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	into, child := b.Layers[m.Into], b.Layers[m.Child]
	if into == nil {
		return fmt.Errorf("merge layers: the record of layer %s is missing", m.Into)
	}
	if child == nil {
		return t.endMerge(m)
	}
	if err := t.commit(ctx, b, m, again, progress); err != nil {
		if errors.Is(err, hypervisor.ErrLocked) {
			return backstay.Errorf(backstay.CodeLayerInUse, "the layers of disk %s cannot be merged now", m.Target).Because(err)
		}
		return err
	}
	// Nothing of this moves much data; stopping here would gain nothing.
	ctx = steady(ctx)
	if err := t.rebaseAbove(ctx, b, m); err != nil {
		return err
	}
	if err := t.rename(ctx, into); err != nil {
		return err
	}
	// A running hypervisor leaves what it merged to the host's cache; the only
	// other copy goes away soon.
	if err := syncImages(into, b.Children(child.ID)...); err != nil {
		return err
	}
	if err := t.recordMerge(m); err != nil {
		return err
	}
	return t.removeMerged(ctx, m, child)
}

// syncImages makes the content of layers durable. A file that is gone has none.
func syncImages(into *Layer, above ...*Layer) error {
	for _, l := range append(above, into) {
		if !hypervisor.IsPath(l.File) {
			continue // whoever merged into an export flushed it
		}
		file, err := os.Open(l.File)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = record.Fsync(file)
			_ = file.Close() // only opened to be read
		}
		if err != nil {
			return fmt.Errorf("make layer durable: %w", err)
		}
	}
	return nil
}

// commit brings Child's content into Into and the VM off Child.
func (t *Tier) commit(ctx context.Context, b *book, m *mergeIntent, again bool, progress Progress) error {
	into, child := b.Layers[m.Into], b.Layers[m.Child]
	if _, err := os.Stat(child.File); errors.Is(err, fs.ErrNotExist) && again {
		return nil // it is removed only when all of this is done
	}
	uses, err := t.usesOf(ctx, into.File, child.File)
	if err != nil {
		return err
	}
	if len(uses) > 1 {
		return inUse(m.Point, usersInWords(into, uses)...)
	}
	if len(uses) == 0 {
		return t.commitUnused(ctx, b, m, again)
	}
	use := &uses[0]
	if slices.Contains(use.chain, child.File) || len(use.chain) == 0 {
		if why := use.forbids(into.File, child.File); why != "" {
			return inUse(m.Point, why)
		}
	}
	if !slices.Contains(use.chain, child.File) {
		if !again {
			return inUse(m.Point, fmt.Sprintf("VM %s does not use %s any more", use.vm.Name, child.File))
		}
		if m.Committed != nil && !m.Committed.Is(child.File) {
			return backstay.Errorf(backstay.CodeLayerInUse, "%s was written to after it was merged into %s", child.File, into.File).
				Do("both files are kept; see with `qemu-img compare` which one you need")
		}
		return nil // the VM is on Into: Child is merged, and old by now
	}
	if use.running() {
		return t.commitLive(ctx, m, use, into, child, progress)
	}
	if err := t.commitFile(ctx, m, into, child, progress); err != nil {
		return err
	}
	if use.active() != child.File {
		return nil
	}
	if err := t.hv.Retarget(ctx, use.vm.ID, use.target, sourceOf(into)); err != nil {
		return hypervisorError(err, "%s cannot be put on %s", use.vm.Name, into.File)
	}
	return t.seeOff(ctx, use.vm.ID, child)
}

// commitLive lets the running hypervisor merge; it moves the VM by itself.
func (t *Tier) commitLive(ctx context.Context, m *mergeIntent, use *chainUse, into, child *Layer, progress Progress) error {
	m.Live, m.Active = true, use.active() == child.File
	if err := m.Write(); err != nil {
		return err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	merge := hypervisor.Merge{Target: use.target, Top: child.File, Base: into.File, Throttle: t.pace(use.vm.ID)}
	defer keepFlushed(ctx, into.File)()
	if err := t.hv.MergeLive(ctx, use.vm.ID, merge, progress); err != nil {
		return hypervisorError(err, "the layers of disk %s of %s cannot be merged", use.target, use.vm.Name)
	}
	return t.seeOff(ctx, use.vm.ID, child)
}

// seeOff verifies that a VM has the layer in no chain any more (I8).
func (t *Tier) seeOff(ctx context.Context, vm backstay.VMID, child *Layer) error {
	domain, err := t.hv.Domain(steady(ctx), vm)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil {
		return hypervisorError(err, "it cannot be told whether %s is off %s", vm, child.File)
	}
	if uses(&domain, child.File) {
		return backstay.Errorf(backstay.CodeHypervisor, "%s still uses %s after it was merged", domain.VM.Name, child.File)
	}
	return nil
}

// commitFile merges with the image tools; no running VM has the files open, and
// QEMU's locks see to it.
func (t *Tier) commitFile(ctx context.Context, m *mergeIntent, into, child *Layer, progress Progress) error {
	info, err := t.images.Info(ctx, child.File)
	if err != nil {
		return fmt.Errorf("look at layer: %w", err)
	}
	if info.Backing != into.File {
		return fmt.Errorf("merge layers: %s stands on %q and not on %s as recorded", child.File, info.Backing, into.File)
	}
	if err := t.images.Commit(ctx, imageOf(child), hypervisor.CommitOptions{Throttle: t.pace(m.VM), Progress: progress}); err != nil {
		return fmt.Errorf("merge %s: %w", child.File, err)
	}
	if m.Committed, err = record.StampOf(child.File); err != nil {
		return err
	}
	return m.Write()
}

// commitUnused merges layers that are in no VM's chain: the VM is gone or was
// given other disks.
func (t *Tier) commitUnused(ctx context.Context, b *book, m *mergeIntent, again bool) error {
	into, child := b.Layers[m.Into], b.Layers[m.Child]
	for _, above := range b.Children(child.ID) {
		info, err := t.images.Info(ctx, above.File)
		if err == nil && info.Backing == into.File {
			return nil // moved off Child already, so Child is merged
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at layer: %w", err)
		}
	}
	if again && m.Committed.Is(child.File) {
		return nil
	}
	if again && m.Live && m.Active {
		// The VM may have gone on on Into before it vanished; merging Child
		// again would then put old content over new.
		return backstay.Errorf(backstay.CodeLayerInUse, "the merge of %s into %s was cut off and its VM is gone", child.File, into.File).
			Do("both files are kept; see with `qemu-img compare` which one you need")
	}
	return t.commitFile(ctx, m, into, child, nil)
}

// rebaseAbove lets what stood on Child stand on Into. A running hypervisor has
// done so itself.
func (t *Tier) rebaseAbove(ctx context.Context, b *book, m *mergeIntent) error {
	into, child := b.Layers[m.Into], b.Layers[m.Child]
	for _, above := range b.Children(child.ID) {
		info, err := t.images.Info(ctx, above.File)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at layer: %w", err)
		}
		switch info.Backing {
		case into.File:
		case child.File:
			if err := t.images.Rebase(ctx, imageOf(above), imageOf(into)); err != nil {
				return fmt.Errorf("put %s on %s: %w", above.File, into.File, err)
			}
		default:
			return fmt.Errorf("merge layers: %s stands on %q and not on %s as recorded", above.File, info.Backing, child.File)
		}
	}
	return nil
}

// recordMerge moves everything that the records know of Child to Into.
func (t *Tier) recordMerge(m *mergeIntent) error {
	return t.change(func(b *book) error {
		into, child := b.Layers[m.Into], b.Layers[m.Child]
		into.Points = record.Without(into.Points, m.Point)
		for _, id := range child.Points {
			if !slices.Contains(into.Points, id) {
				into.Points = append(into.Points, id)
			}
		}
		into.Size, into.Stamp = child.Size, nil
		into.Kept = into.Kept || child.Kept && !into.Bottom
		if len(into.Points) > 0 || len(b.Children(child.ID)) > 0 { // it is frozen
			stamp, err := record.StampOf(into.File)
			if err != nil {
				return err
			}
			into.Stamp = stamp
		}
		if err := b.Put(into); err != nil {
			return err
		}
		if err := b.movePoints(child, into); err != nil {
			return err
		}
		return b.moveChildren(child, into)
	})
}

func (b *book) movePoints(child, into *Layer) error {
	for _, id := range child.Points {
		p := b.Points[id]
		if p == nil {
			continue
		}
		for i := range p.Disks {
			if p.Disks[i].Layer == child.ID {
				p.Disks[i].Layer = into.ID
			}
		}
		if err := b.PutPoint(p); err != nil {
			return err
		}
	}
	return nil
}

func (b *book) moveChildren(child, into *Layer) error {
	for _, above := range b.Children(child.ID) {
		above.Parent = into.ID
		if above.Stamp != nil {
			// Its header names another file now; its content is the same.
			stamp, err := record.StampOf(above.File)
			if err != nil {
				return err
			}
			above.Stamp = stamp
		}
		if err := b.Put(above); err != nil {
			return err
		}
	}
	return nil
}

// removeMerged removes the merged file once no VM and no layer names it, then
// its record, then the journal.
func (t *Tier) removeMerged(ctx context.Context, m *mergeIntent, child *Layer) error {
	uses, err := t.usesOf(ctx, child.File)
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		return inUse(m.Point, usersInWords(child, uses)...)
	}
	err = t.change(func(b *book) error {
		if err := record.RemoveFile(child.File); err != nil {
			return err
		}
		if l := b.Layers[child.ID]; l != nil {
			return b.RemoveLayer(l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.endMerge(m)
}

func (t *Tier) endMerge(m *mergeIntent) error { return record.RemoveFile(m.Path) }
