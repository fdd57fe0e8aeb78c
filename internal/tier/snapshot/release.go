package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Release ends the protection of a VM: its points are dropped from the oldest
// up, so that each layer is moved once, and the VM is on its own file again.
// Where others stand on its layers it is put on a copy instead, and the layers
// stay for them. Notes say what is not as it was. CodeLayerInUse if a point is
// pinned or being read. Safe to repeat.
func (t *Tier) Release(ctx context.Context, vm backstay.VMID, progress Progress) (notes []string, err error) {
	if err := t.settleOthers(ctx, vm); err != nil {
		return nil, err
	}
	points, err := t.pointsOf(vm)
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		if p.Pinned {
			return nil, inUse(p.ID, "it is pinned")
		}
	}
	stuck, err := t.dropAll(ctx, points, progress)
	if err != nil {
		return nil, fmt.Errorf("release VM %s: %w", vm, err)
	}
	if stuck != nil {
		if notes, err = t.leave(ctx, vm, stuck, progress); err != nil {
			return notes, fmt.Errorf("release VM %s: %w", vm, err)
		}
	}
	return notes, t.forget(vm)
}

// dropAll drops points, again and again as long as that frees others: a branch that
// the VM left may end only with its last point. It returns what keeps the rest.
func (t *Tier) dropAll(ctx context.Context, points []*PointRecord, progress Progress) (stuck, err error) {
	for {
		var rest []*PointRecord
		stuck = nil
		for _, p := range points {
			err := t.Drop(ctx, p.ID, progress)
			switch {
			case backstay.IsCode(err, backstay.CodeLayerInUse), halfDropped(err):
				rest, stuck = append(rest, p), cmp.Or(stuck, err)
			case err != nil && !backstay.IsCode(err, backstay.CodeUnknownPoint):
				return nil, err
			}
		}
		if len(rest) == 0 || len(rest) == len(points) {
			return stuck, nil
		}
		points = rest
	}
}

// pointsOf returns the recorded points of a VM, oldest first.
func (t *Tier) pointsOf(vm backstay.VMID) ([]*PointRecord, error) {
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	var points []*PointRecord
	for _, p := range b.Points {
		if p.VM.UUID == vm {
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b *PointRecord) int { return cmp.Compare(a.ID, b.ID) })
	return points, nil
}

// forget removes the records of layers of a VM that hold nothing any more.
func (t *Tier) forget(vm backstay.VMID) error {
	return t.change(func(b *book) error {
		if err := b.RemoveMaps(vm, func(*record.ChangeMap) bool { return true }); err != nil {
			return err
		}
		for _, l := range b.Layers {
			if l.VM != vm {
				continue
			}
			_, err := os.Stat(l.File)
			empty := len(l.Points) == 0 && len(l.Users) == 0 && len(b.Children(l.ID)) == 0
			if b.idle(l) || empty && os.IsNotExist(err) {
				if err := b.RemoveLayer(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// leave puts a VM on copies of those disks whose layers cannot be merged, since
// VMs that were restored stand on them. Then the VM's points go, and of its
// layers those on which nothing stands.
func (t *Tier) leave(ctx context.Context, vm backstay.VMID, stuck error, progress Progress) (notes []string, err error) {
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	domain, err := t.domain(ctx, vm)
	if err != nil {
		return nil, errors.Join(stuck, err)
	}
	if p := b.pinned(vm); p != nil { // since the release began
		return nil, inUse(p.ID, "it is pinned")
	}
	if p := b.pinned(vm); p != nil { // since the release began
		return nil, inUse(p.ID, "it is pinned")
	}
	for _, d := range domain.VM.Disks {
		active := b.ByFile(d.Source)
		if active == nil || active.Bottom {
			continue // on its own file: what others do above it is theirs
		}
		reason := b.cannotLeave(active)
		use := chainUse{vm: domain.VM, target: d.Target, chain: domain.Chains[d.Target], domain: &domain}
		if why := use.forbids(use.chain...); why != "" {
			reason = why // what kept it from being merged a copy would lose as well
		}
		if reason != "" {
			return notes, backstay.Errorf(backstay.CodeLayerInUse, "disk %s of %s cannot be put on a copy", d.Target, domain.VM.Name).
				Becausef("%s; and %v", reason, stuck)
		}
		note, err := t.copyDisk(ctx, b, &domain, d, progress)
		if err != nil {
			return notes, err
		}
		if note != "" {
			notes = append(notes, note)
		}
	}
	return notes, errors.Join(t.unlist(vm), t.cleanLeft(ctx))
}

// pinned returns a point of a VM that somebody wants to be kept, or nil.
func (b *book) pinned(vm backstay.VMID) *PointRecord {
	for _, p := range b.Points {
		if p.VM.UUID == vm && p.Pinned {
			return p
		}
	}
	return nil
}

// cannotLeave says why a disk cannot be put on a copy, or "".
func (b *book) cannotLeave(active *Layer) string {
	chain := b.Chain(active.ID)
	for _, l := range chain {
		for _, u := range l.Users {
			if u.Kind != UserVM {
				return userInWords(u, &l)
			}
		}
		if l.Secret != "" {
			return fmt.Sprintf("%s is encrypted, and an encrypted disk is not copied", l.File)
		}
	}
	bottom := bottomOf(chain)
	if bottom == nil {
		return "the record of its own file is missing"
	}
	if st, err := os.Stat(bottom.File); err != nil || !st.Mode().IsRegular() {
		return bottom.File + " is not a file that could be copied beside"
	}
	return ""
}

// bottomOf returns the file that a VM used when its protection began.
func bottomOf(chain []Layer) *Layer {
	for i := range chain {
		if chain[i].Bottom {
			return &chain[i]
		}
	}
	return nil
}

// takeName gives the copy the name of the original file, which stays under
// another name for those who stand on it. Where that cannot be done the copy
// keeps its own, and note says why.
func (t *Tier) takeName(ctx context.Context, c *record.Copy) (note string, err error) {
	b, err := t.load()
	if err != nil {
		return "", err
	}
	bottom := b.Layers[c.Bottom]
	if bottom == nil {
		bottom = &Layer{ID: c.Bottom, File: c.Original, Format: c.Format} // it went meanwhile
	}
	if !record.SameFile(c.To, c.Original) {
		reason, err := t.moveAside(ctx, b, c, bottom)
		if err != nil {
			return "", err
		}
		if reason != "" {
			return fmt.Sprintf("disk %s is on %s and not on %s: %s", c.Target, c.To, c.Original, reason), nil
		}
		if err := record.ReplaceFile(c.To, c.Original); err != nil {
			return "", err
		}
	}
	domain, err := t.domain(ctx, c.VM)
	if err != nil {
		return "", err
	}
	if disk, _ := findDisk(&domain.VM, c.Target); disk.Source == c.To {
		if domain.VM.State != backstay.VMShutOff { // started meanwhile; both names are of its file
			return fmt.Sprintf("disk %s is on %s and not on %s: %s runs", c.Target, c.To, c.Original, domain.VM.Name), nil
		}
		own := hypervisor.Source{Image: hypervisor.Plain(c.Original, c.Format), Element: bottom.Element}
		if err := t.hv.Retarget(ctx, c.VM, c.Target, own); err != nil {
			return "", hypervisorError(err, "VM %s cannot be put on %s", c.VM, c.Original)
		}
	}
	return "", record.RemoveFile(c.To)
}

// moveAside gives the original file another name and lets all that stands on it
// name that. It returns a reason where somebody runs, or is not known.
func (t *Tier) moveAside(ctx context.Context, b *book, c *record.Copy, bottom *Layer) (reason string, err error) {
	uses, err := t.usesOf(ctx, c.Original, c.Aside, c.To)
	if err != nil {
		return "", err
	}
	for _, u := range uses {
		if u.running() {
			return fmt.Sprintf("%s runs", u.vm.Name), nil
		}
		if why := u.forbids(c.Original); why != "" {
			return why, nil
		}
		if u.vm.ID != c.VM && u.active() == c.Original {
			return fmt.Sprintf("disk %s of VM %s is that file", u.target, u.vm.Name), nil
		}
	}
	if unknown, err := t.unknownOn(ctx, b, c.Original); err != nil {
		return "", err
	} else if unknown = notIn(unknown, uses); len(unknown) > 0 {
		return strings.Join(unknown, "; "), nil
	}
	if err := record.LinkFile(c.Original, c.Aside); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMLINK) {
		return err.Error(), nil // a file system without second names
	} else if err != nil {
		return "", err
	}
	aside := hypervisor.Plain(c.Aside, bottom.Format)
	for _, file := range b.directlyOn(bottom, uses, c.Original) {
		info, err := t.images.Info(ctx, file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil && info.Backing != c.Aside && record.SameFile(info.Backing, c.Original) { // by whatever name
			err = t.images.Rebase(ctx, hypervisor.Plain(file, "qcow2"), aside)
		}
		if errors.Is(err, hypervisor.ErrLocked) {
			return file + " is in use", nil
		}
		if err != nil {
			return "", fmt.Errorf("put %s on %s: %w", file, c.Aside, err)
		}
	}
	return "", t.recordAside(c)
}

// recordAside corrects the records: the original file's name, and the headers
// that changed.
func (t *Tier) recordAside(c *record.Copy) error {
	return t.change(func(b *book) error {
		for _, above := range b.Children(c.Bottom) {
			if above.Stamp == nil {
				continue
			}
			stamp, err := record.StampOf(above.File)
			if err != nil {
				continue // whoever needs the file misses it
			}
			above.Stamp = stamp
			if err := b.Put(above); err != nil {
				return err
			}
		}
		bottom := b.Layers[c.Bottom]
		if bottom == nil || bottom.File == c.Aside {
			return nil
		}
		// Its name is the copy's: it goes when nobody stands on it any more.
		bottom.File, bottom.Bottom, bottom.Element = c.Aside, false, ""
		return b.Put(bottom)
	})
}

// directlyOn lists the files whose headers name the bottom file.
func (b *book) directlyOn(bottom *Layer, uses []chainUse, original string) []string {
	var files []string
	for _, l := range b.Children(bottom.ID) {
		files = append(files, l.File)
	}
	for _, u := range bottom.Users {
		files = append(files, u.Overlay)
	}
	for _, u := range uses {
		if i := slices.Index(u.chain, original); i > 0 {
			files = append(files, u.chain[i-1])
		}
	}
	slices.Sort(files)
	return slices.DeleteFunc(slices.Compact(files), func(f string) bool { return f == "" })
}

// notIn leaves out what stands on a file by the word of a VM's chain.
func notIn(unknown []string, uses []chainUse) []string {
	return slices.DeleteFunc(unknown, func(who string) bool {
		return slices.ContainsFunc(uses, func(u chainUse) bool {
			return slices.ContainsFunc(u.chain, func(f string) bool { return strings.HasPrefix(who, f+" ") })
		})
	})
}

// unlist takes all points of a VM off the layers on which they rest; the layers
// stay.
func (t *Tier) unlist(vm backstay.VMID) error {
	return t.change(func(b *book) error {
		if p := b.pinned(vm); p != nil { // while the disks were copied
			return inUse(p.ID, "it is pinned")
		}
		for _, p := range b.Points {
			if p.VM.UUID != vm {
				continue
			}
			if err := b.RemovePoint(p); err != nil {
				return err
			}
		}
		return nil
	})
}

// cleanLeft removes layers that their VM has left, as far as nothing stands on
// them. The file that a VM had before its protection is not removed, only its
// record, unless a copy has taken its name: it is its owner's.
func (t *Tier) cleanLeft(ctx context.Context) error {
	for {
		b, err := t.load()
		if err != nil {
			return err
		}
		var gone *Layer
		for _, l := range b.Layers {
			if !l.Left || !b.bare(l) {
				continue
			}
			if l.Bottom {
				gone = l
				break
			}
			seen, err := t.lookAt(ctx, b, l)
			if err != nil {
				return err
			}
			if len(seen.uses) == 0 && len(seen.unknown) == 0 {
				gone = l
				break
			}
		}
		if gone == nil {
			return nil
		}
		if err := t.removeLeft(gone.ID); err != nil {
			return err
		}
	}
}

// bare tells whether nothing that is recorded needs a layer.
func (b *book) bare(l *Layer) bool {
	return len(l.Points) == 0 && len(l.Users) == 0 && len(b.Children(l.ID)) == 0 &&
		!slices.ContainsFunc(b.Copies, func(c *record.Copy) bool { return c.Active == l.ID || c.Bottom == l.ID })
}

func (t *Tier) removeLeft(id backstay.LayerID) error {
	return t.change(func(b *book) error {
		l := b.Layers[id]
		if l == nil || !b.bare(l) {
			return nil
		}
		if !l.Bottom {
			if err := record.RemoveFile(l.File); err != nil {
				return err
			}
		}
		return b.RemoveLayer(l)
	})
}
