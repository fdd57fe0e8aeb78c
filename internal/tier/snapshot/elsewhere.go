package snapshot

import (
	"context"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// elsewhere tells whether a disk's active layer is no file in a folder, so that
// nothing can be made beside it.
func elsewhere(d backstay.Disk) bool {
	return d.Kind == backstay.BlockDisk || d.Kind == backstay.NetworkDisk
}

// folderOf is where the next layer of a disk and its records go.
func (t *Tier) folderOf(d backstay.Disk) string {
	if elsewhere(d) {
		return t.layers
	}
	return filepath.Dir(d.Source)
}

// isFile tells whether a location is a regular file, or a path at which nothing is.
func isFile(location string) bool {
	if !hypervisor.IsPath(location) {
		return false
	}
	info, err := os.Stat(location)
	return err != nil || info.Mode().IsRegular()
}

// makeLayerFolder makes the folder for layers of disks that have none, if one of
// the disks needs it. QEMU, which may run as another user, must be able to pass
// through it, and nobody but root to list it.
func (t *Tier) makeLayerFolder(disks []backstay.Disk) error {
	for _, d := range disks {
		if !elsewhere(d) {
			continue
		}
		if _, err := os.Stat(t.layers); err == nil {
			return nil
		}
		err := os.MkdirAll(t.layers, 0o711)
		if err == nil {
			err = os.Chmod(t.layers, 0o711) // whatever the umask
		}
		if err != nil {
			return backstay.Errorf(backstay.CodeSnapshotFailed, "the folder for layers of disk %s cannot be made", d.Target).Because(err)
		}
		return nil
	}
	return nil
}

// rename puts right how definitions name a layer that was merged into and what
// stands on it. A VM whose own image it is gets its owner's words back (I15): the
// hypervisor has its own. One that is shut off on an encrypted layer above spells
// out a chain in which the merged one is gone.
func (t *Tier) rename(ctx context.Context, into *Layer) error {
	spelt, err := t.speltOut(into)
	if err != nil || into.Element == "" && !spelt {
		return err
	}
	uses, err := t.usesOf(ctx, into.File)
	if err != nil {
		return err
	}
	for _, use := range uses {
		to := hypervisor.Source{Image: hypervisor.Image{Location: use.active(), Format: "qcow2", Secret: into.Secret}}
		switch {
		case use.active() == into.File && into.Element != "":
			to = sourceOf(into)
		case use.active() == into.File || !spelt || use.running():
			continue
		}
		if err := t.hv.Retarget(ctx, use.vm.ID, use.target, to); err != nil {
			return hypervisorError(err, "disk %s of %s cannot be named as it was", use.target, use.vm.Name)
		}
	}
	return nil
}

// speltOut tells whether definitions spell out the chain of a layer, because
// libvirt cannot follow it by itself: it is encrypted, by the host or, from the first
// byte of a raw disk on, by the guest.
func (t *Tier) speltOut(l *Layer) (bool, error) {
	if l.Secret != "" {
		return true, nil
	}
	b, err := t.load()
	if err != nil {
		return false, err
	}
	bottom := *l
	for _, below := range b.Chain(l.ID) {
		bottom = below
	}
	return bottom.Format == "raw" && hypervisor.StartsWithLUKS(bottom.File), nil
}
