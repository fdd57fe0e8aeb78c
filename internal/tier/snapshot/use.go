package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// chainUse is one disk of a VM whose image chain has a layer of interest in it.
type chainUse struct {
	vm     backstay.VM
	target backstay.DiskTarget
	chain  []string // from the active file down
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
		if slices.ContainsFunc(chain, func(f string) bool { return slices.Contains(files, f) }) {
			found = append(found, chainUse{vm: domain.VM, target: d.Target, chain: chain})
		}
	}
	return found
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
		l.Users = append(slices.DeleteFunc(l.Users, u.same), u)
		return b.put(l)
	})
}

func (u User) same(o User) bool { return u.Kind == o.Kind && u.ID == o.ID }

// RemoveUser takes a user off all layers on which it stands. No error if there
// is none.
func (t *Tier) RemoveUser(kind UserKind, id string) error {
	return t.change(func(b *book) error {
		for _, l := range b.layers {
			gone := func(u User) bool { return u.Kind == kind && u.ID == id }
			if !slices.ContainsFunc(l.Users, gone) {
				continue
			}
			l.Users = slices.DeleteFunc(l.Users, gone)
			if err := b.put(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// usable returns the layer of a disk of a point, if both may be used.
func (b *book) usable(id backstay.PointID, target backstay.DiskTarget) (*Layer, error) {
	p := b.points[id]
	if p == nil {
		return nil, backstay.Errorf(backstay.CodeUnknownPoint, "no point %s in the snapshot tier", id)
	}
	if why := b.unusable(p); why != "" {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "point %s cannot be read from the snapshot tier", id).Becausef("%s", why)
	}
	l := b.layers[p.layerOf(target)]
	if l == nil {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", target, id)
	}
	for _, m := range b.merges {
		for _, below := range b.chain(l.ID) {
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
	for _, l := range b.layers {
		if len(l.Users) == 0 || !slices.ContainsFunc(b.chain(l.ID), func(x Layer) bool { return x.ID == id }) {
			continue
		}
		for _, u := range l.Users {
			if u.Kind == UserTransfer {
				who = append(who, fmt.Sprintf("job %s reads %s", u.ID, l.File))
			} else {
				who = append(who, fmt.Sprintf("VM %s was restored on %s", u.ID, l.File))
			}
		}
	}
	slices.Sort(who)
	return who
}

func inUse(id backstay.PointID, who ...string) error {
	return backstay.Errorf(backstay.CodeLayerInUse, "point %s cannot be dropped from the snapshot tier now", id).
		Becausef("%s", strings.Join(who, "; "))
}
