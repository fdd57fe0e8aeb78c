package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// adoptable finds the VM whose points another is to take over: one that no host
// has any more, and of which no job is under way.
func (s *server) adoptable(ctx context.Context, name string, vm backstay.VMRef) (backstay.VMRef, error) {
	// It cannot be taken back, unlike all else that protecting a VM does.
	if who := callOf(ctx).who; !who.Role.Covers(backstay.Owner) {
		return backstay.VMRef{}, backstay.Errorf(backstay.CodeNotAllowed, "%s may not take over the points of another VM", who.Name).
			Becausef("its role is %s, and this needs %s", who.Role, backstay.Owner)
	}
	old, err := s.goneVM(ctx, name, vm.UUID)
	if err != nil {
		return old, err
	}
	switch now, err := s.Catalog.VMs.VM(ctx, old.UUID); {
	case err == nil:
		return old, backstay.Errorf(backstay.CodeConflict, "the VM %s cannot take over the points of %s", label(vm), label(now.Ref())).
			Becausef("that VM is still there").Do("remove it from its host first, or protect %s by itself", label(vm))
	case !errors.Is(err, catalog.ErrNotFound):
		return old, err
	}
	if err := s.noGroup(ctx, old); err != nil {
		return old, err
	}
	jobs, err := s.Jobs.List(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return old, err
	}
	for _, j := range jobs {
		if j.Target == label(old) {
			return old, backstay.Errorf(backstay.CodeConflict, "the VM %s cannot take over the points of %s now", label(vm), label(old)).
				Becausef("job %s (%s) works on them", j.ID, j.Kind)
		}
	}
	return old, nil
}

// goneVM finds a VM by UUID, NAME or HOST/NAME among the protected items and the
// points, other than those of vm itself.
func (s *server) goneVM(ctx context.Context, name string, vm backstay.VMID) (backstay.VMRef, error) {
	items, err := s.Catalog.Items.ListItems(ctx)
	if err != nil {
		return backstay.VMRef{}, err
	}
	points, err := s.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return backstay.VMRef{}, err
	}
	known := map[backstay.VMID]backstay.VMRef{}
	for _, p := range backstay.OwnPoints(points) {
		known[p.VM.UUID] = p.VM
	}
	for _, item := range items {
		known[item.VM.UUID] = item.VM
	}
	delete(known, vm)
	refs := make([]backstay.VMRef, 0, len(known))
	for _, ref := range known {
		refs = append(refs, ref)
	}
	return pick(name, refs)
}

// takeOver gives the old VM's points to the item, which is recorded already:
// whatever cuts this off, saying it again ends it.
func (s *server) takeOver(ctx context.Context, old, vm backstay.VMRef) error {
	points, err := s.Catalog.Points.ListPoints(ctx, old.UUID)
	if err != nil {
		return err
	}
	for _, p := range backstay.OwnPoints(points) {
		err := s.Catalog.Points.ChangePoint(ctx, p.ID, func(p *backstay.RecoveryPoint) error {
			p.VM.UUID, p.VM.Name = vm.UUID, vm.Name
			return nil
		})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("give point %s to %s: %w", p.ID, label(vm), err)
		}
	}
	if err := s.Catalog.Items.DeleteItem(ctx, old.UUID); err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	return nil
}

// adopted lists the VMs whose points an item has, the newly adopted one included.
func adopted(item *backstay.ProtectedItem, from *backstay.ProtectedItem, old backstay.VMID) []backstay.VMID {
	var all []backstay.VMID
	if item != nil {
		all = append(all, item.Adopted...)
	}
	if from != nil {
		all = append(all, from.Adopted...)
	}
	if old != "" {
		all = append(all, old)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// adopting decides what a new item takes over: what it had adopted before, and
// the VM that is named, nil if none is.
func (s *server) adopting(ctx context.Context, name string, item, before *backstay.ProtectedItem) (*backstay.VMRef, error) {
	item.Adopted = adopted(before, nil, "")
	if name == "" {
		return nil, nil
	}
	old, err := s.adoptable(ctx, name, item.VM)
	if err != nil {
		return nil, err
	}
	from, err := s.item(ctx, old.UUID)
	if err != nil {
		return nil, err
	}
	item.Adopted = adopted(before, from, old.UUID)
	if item.LastPoint == nil && from != nil {
		item.LastPoint = from.LastPoint
	}
	return &old, nil
}
