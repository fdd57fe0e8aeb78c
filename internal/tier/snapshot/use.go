package snapshot

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// chainUse is one disk of a VM whose image chain has a layer of interest in it.
type chainUse struct {
	vm     backstay.VM
	target backstay.DiskTarget
	chain  []string // from the active file down
	domain *hypervisor.Domain
}

// forbids says why files of the VM's may not be merged or removed, for the sake
// of what others keep in or of them; "" if they may.
func (u *chainUse) forbids(files ...string) string {
	d := u.domain
	for _, file := range files {
		if slices.Contains(d.SnapshotFiles, file) {
			return fmt.Sprintf("a snapshot of libvirt's own of VM %s (%s) needs %s", u.vm.Name, strings.Join(d.Snapshots, ", "), file)
		}
	}
	switch {
	case len(u.chain) == 0:
		return ""
	case d.Inside:
		return fmt.Sprintf("VM %s has snapshots of libvirt's own inside its images (%s), which a merge would lose", u.vm.Name, strings.Join(d.Snapshots, ", "))
	case d.Saved:
		return fmt.Sprintf("the memory of VM %s is saved to disk, and what is saved names its files", u.vm.Name)
	case d.Checkpoints && !u.running():
		return fmt.Sprintf("VM %s is shut off and has libvirt checkpoints, which a merge would break now", u.vm.Name)
	}
	return ""
}

func (u *chainUse) running() bool { return u.vm.State != backstay.VMShutOff }
func (u *chainUse) active() string {
	if len(u.chain) == 0 {
		return ""
	}
	return u.chain[0]
}

// usesOf asks the hypervisor which disks of all VMs have one of the files in
// their chain. The records know what we put on a layer; only the hypervisor
// knows what somebody else did.
func (t *Tier) usesOf(ctx context.Context, files ...string) ([]chainUse, error) {
	vms, err := t.hv.VMs(ctx)
	if err != nil {
		return nil, hypervisorError(err, "the VMs of host %s cannot be listed", t.host)
	}
	var found []chainUse
	for _, vm := range vms {
		domain, err := t.hv.Domain(ctx, vm.ID)
		if errors.Is(err, hypervisor.ErrNoVM) {
			continue
		}
		if err != nil {
			return nil, hypervisorError(err, "VM %s cannot be described", vm.Name)
		}
		found = append(found, usesIn(&domain, files)...)
	}
	return found, nil
}

func usesIn(domain *hypervisor.Domain, files []string) []chainUse {
	var found []chainUse
	for _, d := range domain.VM.Disks {
		chain := domain.Chains[d.Target]
		if len(chain) == 0 && d.Source != "" {
			chain = []string{d.Source}
		}
		chain = inOurWords(chain, files)
		if slices.ContainsFunc(chain, func(f string) bool { return slices.Contains(files, f) }) {
			found = append(found, chainUse{vm: domain.VM, target: d.Target, chain: chain, domain: domain})
		}
	}
	named := func(f string) bool { return slices.Contains(files, ourWord(f, files)) }
	if len(found) == 0 && (slices.ContainsFunc(domain.SnapshotFiles, named) || slices.ContainsFunc(domain.Mirrors, named)) {
		found = append(found, chainUse{vm: domain.VM, domain: domain}) // in no chain, and needed all the same
	}
	if len(found) == 0 && domain.VM.State != backstay.VMShutOff && slices.ContainsFunc(slices.Collect(maps.Values(domain.Elements)), func(e string) bool { return named(sourceIn(e)) }) {
		// A disk that was unplugged until the VM is started again.
		found = append(found, chainUse{vm: domain.VM, domain: domain})
	}
	return found
}

// sourceIn is the file that a disk's element of a definition names.
func sourceIn(element string) string {
	var disk struct {
		Source struct {
			File string `xml:"file,attr"`
			Dev  string `xml:"dev,attr"`
		} `xml:"source"`
	}
	if xml.Unmarshal([]byte(element), &disk) != nil {
		return ""
	}
	return cmp.Or(disk.Source.File, disk.Source.Dev)
}

// inOurWords names the files of a chain as the records do: another VM may come to
// them by a symbolic link, or by another name of the file.
func inOurWords(chain, files []string) []string {
	named := slices.Clone(chain)
	for i, f := range named {
		named[i] = ourWord(f, files)
	}
	return named
}

// ourWord returns the one of the files that a name is of, or the name.
func ourWord(name string, files []string) string {
	if slices.Contains(files, name) || !hypervisor.IsPath(name) {
		return name
	}
	it, err := os.Stat(name)
	if err != nil {
		return name
	}
	for _, f := range files {
		if other, err := os.Stat(f); err == nil && os.SameFile(it, other) {
			return f
		}
	}
	return name
}

// AddUser registers something that stands on the layer of a disk of a point,
// so that the layer is not merged. It must be called before the layer is used.
// CodeNotRestorable if the point cannot be used any more.
func (t *Tier) AddUser(p backstay.PointID, target backstay.DiskTarget, u User) error {
	return t.change(func(b *book) error {
		l, err := b.usable(p, target)
		if err != nil {
			return err
		}
		l.Users = append(slices.DeleteFunc(l.Users, u.Same), u)
		return b.Put(l)
	})
}

// ForgetVMs removes the entries of VMs that are gone with their overlay, except
// those that a job of staging is making. staging is asked after the entries
// were read: a VM that is made later is not among them.
func (t *Tier) ForgetVMs(ctx context.Context, staging func() ([]backstay.JobID, error)) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	var seen []User
	for _, l := range b.Layers {
		seen = append(seen, slices.DeleteFunc(slices.Clone(l.Users), func(u User) bool { return u.Kind != UserVM })...)
	}
	if len(seen) == 0 {
		return nil
	}
	live, err := staging()
	if err != nil {
		return err
	}
	here, err := t.present(ctx)
	if err != nil {
		return err
	}
	return t.removeUsers(func(u User) bool {
		known := slices.ContainsFunc(seen, func(s User) bool { return s.Same(u) && s.Since.Equal(u.Since) })
		return known && !slices.Contains(live, u.Job) && goneVM(u, here)
	})
}

// present lists the VMs of the host by id.
func (t *Tier) present(ctx context.Context) (map[string]bool, error) {
	vms, err := t.hv.VMs(ctx)
	if err != nil {
		return nil, hypervisorError(err, "the VMs of host %s cannot be listed", t.host)
	}
	here := map[string]bool{}
	for _, vm := range vms {
		here[string(vm.ID)] = true
	}
	return here, nil
}

// goneVM tells whether a user is a VM that is gone with its overlay. While the
// VM is defined a missing overlay may be an unmounted disk.
func goneVM(u User, here map[string]bool) bool {
	if u.Kind != UserVM || here[u.ID] {
		return false
	}
	_, err := os.Stat(u.Overlay)
	return errors.Is(err, fs.ErrNotExist)
}

// removeUsers takes the users that are gone off all layers.
func (t *Tier) removeUsers(gone func(User) bool) error {
	return t.change(func(b *book) error {
		for _, l := range b.Layers {
			kept := slices.DeleteFunc(slices.Clone(l.Users), gone)
			if len(kept) == len(l.Users) {
				continue
			}
			l.Users = kept
			if err := b.Put(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveUser takes a user off all layers on which it stands. No error if there
// is none.
func (t *Tier) RemoveUser(kind UserKind, id string) error {
	return t.removeUsers(func(u User) bool { return u.Kind == kind && u.ID == id })
}

// RemoveVM takes the VM that a restore was to make off all layers. What another
// restore made of the same VM stays. No error if there is none.
func (t *Tier) RemoveVM(vm backstay.VMID, job backstay.JobID) error {
	return t.removeUsers(func(u User) bool { return u.Kind == UserVM && u.ID == string(vm) && u.Job == job })
}

// usable returns the layer of a disk of a point, if both may be used.
func (b *book) usable(id backstay.PointID, target backstay.DiskTarget) (*Layer, error) {
	p := b.Points[id]
	if p == nil {
		return nil, backstay.Errorf(backstay.CodeUnknownPoint, "no point %s in the snapshot tier", id)
	}
	if why := b.Unusable(p); why != "" {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "point %s cannot be read from the snapshot tier", id).Becausef("%s", why)
	}
	l := b.Layers[p.LayerOf(target)]
	if l == nil {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", target, id)
	}
	for _, m := range b.Merges {
		for _, below := range b.Chain(l.ID) {
			if below.ID == m.Into || below.ID == m.Child {
				return nil, backstay.Errorf(backstay.CodeLayerInUse, "a layer of point %s is being merged", id).
					Do("try again when the merge is done")
			}
		}
	}
	return l, nil
}

// standing describes who stands on the layer or on any above it.
func (b *book) standing(id backstay.LayerID) []string {
	var who []string
	for _, l := range b.Layers {
		if len(l.Users) == 0 || !slices.ContainsFunc(b.Chain(l.ID), func(x Layer) bool { return x.ID == id }) {
			continue
		}
		for _, u := range l.Users {
			if u.Kind != UserUndo { // nobody has its files open
				who = append(who, userInWords(u, l))
			}
		}
	}
	slices.Sort(who)
	return who
}

// awaited describes the undos that would put a VM back on one of the layers.
func awaited(layers ...*Layer) []string {
	var who []string
	for _, l := range layers {
		for _, u := range l.Users {
			if u.Kind == UserUndo {
				who = append(who, userInWords(u, l))
			}
		}
	}
	return who
}

func userInWords(u User, l *Layer) string {
	switch u.Kind {
	case UserTransfer:
		return fmt.Sprintf("job %s reads %s", u.ID, l.File)
	case UserMount:
		session, _, _ := strings.Cut(u.ID, "/")
		return fmt.Sprintf("item-level restore session %s of %s, open until %s, reads %s", session, u.By, u.Until.UTC().Format(time.RFC3339), l.File)
	case UserRestore:
		return fmt.Sprintf("job %s is putting its VM on %s", u.ID, l.File)
	case UserUndo:
		return fmt.Sprintf("the undo of job %s needs %s", u.ID, l.File)
	}
	return fmt.Sprintf("VM %s was restored on %s", u.ID, l.File)
}

func inUse(id backstay.PointID, who ...string) error {
	return backstay.Errorf(backstay.CodeLayerInUse, "point %s cannot be dropped from the snapshot tier now", id).
		Becausef("%s", strings.Join(who, "; "))
}
