package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// vm finds the VM that a UUID, a NAME or HOST/NAME means, among those that the
// hosts have now.
func (s *server) vm(ctx context.Context, name string) (backstay.VM, error) {
	callOf(ctx).target = name
	vms, err := s.Catalog.VMs.ListVMs(ctx)
	if err != nil {
		return backstay.VM{}, err
	}
	var refs []backstay.VMRef
	for i := range vms {
		refs = append(refs, vms[i].Ref())
	}
	ref, err := pick(name, refs)
	if err != nil {
		return backstay.VM{}, err
	}
	callOf(ctx).target = label(ref)
	i := slices.IndexFunc(vms, func(vm backstay.VM) bool { return vm.ID == ref.UUID && vm.Host == ref.Host })
	return vms[i], nil
}

// vmRef finds a VM like vm does and, if no host has it any more, among the
// protected items and then among the points: points outlive their VM.
func (s *server) vmRef(ctx context.Context, name string) (backstay.VMRef, error) {
	vm, err := s.vm(ctx, name)
	if err == nil {
		return vm.Ref(), nil
	}
	if !backstay.IsCode(err, backstay.CodeUnknownVM) {
		return backstay.VMRef{}, err
	}
	items, failed := s.Catalog.Items.ListItems(ctx)
	if failed != nil {
		return backstay.VMRef{}, failed
	}
	var refs []backstay.VMRef
	for _, item := range items {
		refs = append(refs, item.VM)
	}
	ref, err := pick(name, refs)
	if backstay.IsCode(err, backstay.CodeUnknownVM) {
		points, failed := s.Catalog.Points.ListPoints(ctx, "")
		if failed != nil {
			return backstay.VMRef{}, failed
		}
		refs = nil
		for _, p := range points {
			// One VM may have moved: the last reference to a UUID counts.
			refs = slices.DeleteFunc(refs, func(r backstay.VMRef) bool { return r.UUID == p.VM.UUID })
			refs = append(refs, p.VM)
		}
		ref, err = pick(name, refs)
	}
	if err == nil {
		callOf(ctx).target = label(ref)
	}
	return ref, err
}

// pick chooses the VM that a name means.
func pick(name string, refs []backstay.VMRef) (backstay.VMRef, error) {
	host, rest, qualified := strings.Cut(name, "/")
	var found []backstay.VMRef
	for _, ref := range refs {
		switch {
		case strings.EqualFold(string(ref.UUID), name), ref.Name == name,
			qualified && string(ref.Host) == host && (ref.Name == rest || strings.EqualFold(string(ref.UUID), rest)):
			found = append(found, ref)
		}
	}
	switch len(found) {
	case 0:
		return backstay.VMRef{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %q", name).
			Becausef("no host of this region has one of this name or UUID")
	case 1:
		return found[0], nil
	}
	var labels []string
	for _, ref := range found {
		labels = append(labels, label(ref))
	}
	slices.Sort(labels)
	e := backstay.Errorf(backstay.CodeAmbiguousVM, "the name %q means more than one VM", name).Becausef("it could be %s", strings.Join(labels, " or "))
	if len(slices.Compact(labels)) == 1 {
		e = e.Do("say its UUID instead: `backstay vm list -o json` shows them")
	}
	return backstay.VMRef{}, e
}

// label is how a VM is written for people.
func label(ref backstay.VMRef) string { return string(ref.Host) + "/" + ref.Name }

// point finds the point that an id, the beginning of one, VM@latest or VM@TIME
// means.
func (s *server) point(ctx context.Context, name string) (backstay.RecoveryPoint, error) {
	find := s.findPoint
	if callOf(ctx).who.Point != "" {
		find = s.ownPoint
	}
	callOf(ctx).target = name
	p, err := find(ctx, name)
	if err == nil {
		callOf(ctx).target = string(p.ID) + " of " + label(p.VM)
	}
	return p, err
}

func (s *server) findPoint(ctx context.Context, name string) (backstay.RecoveryPoint, error) {
	if vm, when, ok := splitPoint(name); ok {
		return s.pointAt(ctx, vm, when)
	}
	id := strings.ToUpper(name)
	p, err := s.Catalog.Points.Point(ctx, backstay.PointID(id))
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return p, err
	}
	points, err := s.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return p, err
	}
	var found []backstay.RecoveryPoint
	for _, p := range points {
		if id != "" && strings.HasPrefix(string(p.ID), id) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return p, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %q", name).
			Becausef("no point of this region has this id; VM@latest and VM@TIME name one by its VM")
	case 1:
		return found[0], nil
	}
	return p, backstay.Errorf(backstay.CodeUsage, "%q is the beginning of more than one point's id", name).
		Becausef("it could be %s, %s …", found[0].ID, found[1].ID).Do("give more of the id")
}

// splitPoint takes VM@latest and VM@TIME apart. A host of another region has an @ in
// its own name: HOST@REGION/NAME names a VM.
func splitPoint(name string) (vm, when string, ok bool) {
	i := strings.LastIndex(name, "@")
	if i < 0 || strings.Contains(name[i:], "/") {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// pointAt finds the newest point of a VM that can be restored, at or before a
// time. A point that is still being made is not one yet (I2).
func (s *server) pointAt(ctx context.Context, vm, when string) (backstay.RecoveryPoint, error) {
	var none backstay.RecoveryPoint
	var limit time.Time
	if when != "latest" {
		var err error
		if limit, err = time.Parse(time.RFC3339, when); err != nil {
			return none, backstay.Errorf(backstay.CodeUsage, "%q is neither \"latest\" nor a time", when).
				Becausef("a time is written as 2006-01-02T15:04:05Z").Do("say VM@latest or VM@2006-01-02T15:04:05Z")
		}
	}
	ref, err := s.vmRef(ctx, vm)
	if err != nil {
		return none, err
	}
	points, err := s.Catalog.Points.ListPoints(ctx, ref.UUID)
	if err != nil {
		return none, err
	}
	var best *backstay.RecoveryPoint
	for i := range points {
		p := &points[i]
		if !p.Has(backstay.SnapshotTier) && !p.Has(backstay.VaultTier) {
			continue
		}
		if !limit.IsZero() && p.Time.After(limit) {
			continue
		}
		if best == nil || !p.Time.Before(best.Time) {
			best = p
		}
	}
	if best == nil {
		return none, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s@%s", vm, when).
			Becausef("the VM has %d points, and none that can be restored at or before that time", len(points))
	}
	return *best, nil
}

// missing turns the catalogue's "not found" into the coded error of the noun.
func missing(err error, code backstay.Code, noun string, name any) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return backstay.Errorf(code, "there is no %s %q", noun, name).Becausef("the catalogue of this region does not have it")
	}
	return err
}
