package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// copyDisk puts one disk on a copy, and says what is not as it was.
func (t *Tier) copyDisk(ctx context.Context, b *book, domain *hypervisor.Domain, d backstay.Disk, progress Progress) (note string, err error) {
	active := b.ByFile(d.Source)
	bottom := bottomOf(b.Chain(active.ID))
	id, err := t.newLayerID()
	if err != nil {
		return "", err
	}
	folder, ext := filepath.Dir(bottom.File), filepath.Ext(bottom.File)
	own := fmt.Sprintf("%s-%s.released-%s.%s", plainName(domain.VM.Name), d.Target, strings.ToLower(string(id)), bottom.Format)
	aside := fmt.Sprintf("%s.below-restored-%s%s", strings.TrimSuffix(filepath.Base(bottom.File), ext), strings.ToLower(string(id)), ext)
	c := &record.Copy{
		VM: domain.VM.ID, Target: d.Target, Active: active.ID, From: active.File, To: filepath.Join(folder, own), Format: bottom.Format,
		Bottom: bottom.ID, Original: bottom.File, Aside: filepath.Join(folder, aside), Path: record.CopyFile(active),
	}
	if err := t.checkCopyFits(ctx, b.Chain(active.ID), d.Size, folder); err != nil {
		return "", err
	}
	if err := c.Write(); err != nil {
		return "", err
	}
	if err := t.copyTo(ctx, c, domain, active, d.Size, progress); err != nil {
		return "", errors.Join(err, t.discardCopy(steady(ctx), c))
	}
	return t.settleCopy(steady(ctx), c)
}

// copyTo makes the copy and puts the VM on it.
func (t *Tier) copyTo(ctx context.Context, c *record.Copy, domain *hypervisor.Domain, active *Layer, size int64, progress Progress) error {
	to := hypervisor.Plain(c.To, c.Format)
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if domain.VM.State != backstay.VMShutOff {
		if err := t.images.Create(ctx, c.To, c.Format, size); err != nil {
			return fmt.Errorf("make the copy of disk %s: %w", c.Target, err)
		}
		copying := hypervisor.Copy{Target: c.Target, To: to, Throttle: t.pace(c.VM)}
		if err := t.hv.CopyLive(ctx, c.VM, copying, progress); err != nil {
			return hypervisorError(err, "disk %s of %s cannot be put on a copy", c.Target, domain.VM.Name)
		}
		return nil
	}
	convert := hypervisor.Conversion{From: imageOf(active), To: to, Throttle: t.pace(c.VM)}
	if err := t.images.Convert(ctx, convert, progress); err != nil {
		return fmt.Errorf("copy disk %s: %w", c.Target, err)
	}
	if err := t.hv.Retarget(ctx, c.VM, c.Target, hypervisor.Source{Image: to}); err != nil {
		return hypervisorError(err, "%s cannot be put on %s", domain.VM.Name, c.To)
	}
	return nil
}

// finishCopies ends the copies of a VM's disks that a crash or an error cut off.
func (t *Tier) finishCopies(ctx context.Context, vm backstay.VMID) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	for _, c := range b.Copies {
		if c.VM != vm {
			continue
		}
		if err := t.finishCopy(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// finishCopy decides by the file that the VM uses, and by nothing else: on the
// copy, the rest is done; on its old file, the copy goes. A hypervisor that may
// still be copying is let come to the end.
func (t *Tier) finishCopy(ctx context.Context, c *record.Copy) error {
	domain, err := t.hv.Domain(ctx, c.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		// The copy may hold the last that it wrote: everything stays.
		t.log.Warn("a VM that was being put on a copy is gone; both files are kept", "vm", c.VM, "from", c.From, "to", c.To)
		return record.RemoveFile(c.Path)
	}
	if err != nil {
		return hypervisorError(err, "it cannot be told whether VM %s is on its copy", c.VM)
	}
	disk, _ := findDisk(&domain.VM, c.Target)
	if disk.Source == c.To || record.SameFile(disk.Source, c.To) {
		_, err := t.settleCopy(ctx, c)
		return err
	}
	if _, err := os.Stat(c.To); err == nil && domain.VM.State != backstay.VMShutOff {
		copying := hypervisor.Copy{Target: c.Target, To: hypervisor.Plain(c.To, c.Format), Throttle: t.pace(c.VM)}
		if err := t.hv.CopyLive(ctx, c.VM, copying, func(int64, int64) {}); err != nil {
			return hypervisorError(err, "disk %s of %s cannot be put on a copy", c.Target, domain.VM.Name)
		}
		_, err := t.settleCopy(ctx, c)
		return err
	}
	return t.discardCopy(ctx, c)
}

// discardCopy removes a copy, if nobody uses it.
func (t *Tier) discardCopy(ctx context.Context, c *record.Copy) error {
	uses, err := t.usesOf(ctx, c.To)
	if err != nil || len(uses) > 0 {
		return err
	}
	if err := record.RemoveFile(c.To); err != nil {
		return err
	}
	return record.RemoveFile(c.Path)
}

// settleCopy does what is left once the VM is on its copy. Each step looks at
// what is there before it acts.
func (t *Tier) settleCopy(ctx context.Context, c *record.Copy) (note string, err error) {
	err = t.change(func(b *book) error {
		for _, l := range b.Chain(c.Active) {
			if l.Left || l.VM != c.VM {
				continue
			}
			l.Left = true
			if err := b.Put(&l); err != nil {
				return err
			}
			if l.Bottom {
				break
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if note, err = t.takeName(ctx, c); err != nil {
		return "", err
	}
	return note, record.RemoveFile(c.Path)
}

// checkCopyFits sees that a copy of a disk finds room in a folder.
func (t *Tier) checkCopyFits(ctx context.Context, chain []Layer, size int64, folder string) error {
	var need int64
	for _, l := range chain {
		info, err := t.images.Info(ctx, l.File)
		if err != nil {
			return fmt.Errorf("measure layer %s: %w", l.File, err)
		}
		need += info.DiskSize
	}
	need = min(need, size) + mergeSlack
	left, err := roomIn(folder)
	if err != nil || need <= left {
		return err
	}
	return backstay.Errorf(backstay.CodeNoSpace, "there is too little room in %s for a copy of the disk", folder).
		Becausef("it may need %d MiB, and %d MiB are left", need>>20, left>>20).
		Do("free space there, or remove the VMs that were restored from its points")
}
